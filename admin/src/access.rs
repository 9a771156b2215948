//! Authorization: the host decides who may do what, and only authorized handlers reach the store.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    extract::FromRequestParts,
    http::{
        HeaderName, StatusCode,
        header::{AUTHORIZATION, HOST},
        request::Parts,
        uri::Authority,
    },
    response::{IntoResponse, Response},
};
use dead_letters::{AppId, DeadLetterReplay, DeadLetterRepoError, DeadLetterStore, ErrorKind};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use crate::{Admin, State, audit::Attempt, problem::Problem};

/// Default for the most letters that one view of an operator may examine.
const SCAN_LIMIT: u32 = 100_000;
/// Maximum of [`Operator::scan_limit`].
const MAX_SCAN: u32 = 1_000_000;
/// The most apps of an operator whose new error groups are looked for, since each app takes a statement.
pub(crate) const MAX_APPS_OF_NEW_GROUPS: usize = 100;
/// The most apps of a bulk run.
pub(crate) const MAX_APPS_OF_RUN: usize = 50;
/// Operators with a longer name are refused, because each action stores the name and writes it to the audit log.
const MAX_NAME_CHARACTERS: usize = 200;

/// Identifies the operator who sends a request.
///
/// A host implements this for its session or single sign-on, uses [`BearerToken`], [`TrustedProxyHeader`] or
/// [`InsecureAllowAll`], or passes a closure `Fn(&Parts) -> Result<Operator, Denied>`. The admin calls it once for
/// every request except those of assets, and before it calls the store.
#[async_trait]
pub trait Authorize: Send + Sync + 'static {
    /// Returns the operator who sends the request with these parts. An implementation may run axum's extractors on
    /// them.
    ///
    /// # Errors
    ///
    /// Returns the response for a request that is refused: see [`Denied`].
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{extract::FromRequestParts, http::request::Parts};
    /// use dead_letters_admin::{Authorize, Denied, Operator};
    /// # use axum::http::StatusCode;
    /// # struct User { name: String }
    /// # impl<S: Sync> FromRequestParts<S> for User {
    /// #     type Rejection = StatusCode;
    /// #     async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, StatusCode> {
    /// #         Err(StatusCode::UNAUTHORIZED)
    /// #     }
    /// # }
    ///
    /// struct Session;
    ///
    /// #[async_trait::async_trait]
    /// impl Authorize for Session {
    ///     async fn authorize(&self, request: &mut Parts) -> Result<Operator, Denied> {
    ///         let user = User::from_request_parts(request, &()).await.map_err(Denied::with)?;
    ///         Ok(Operator::full(user.name))
    ///     }
    /// }
    /// ```
    async fn authorize(&self, request: &mut Parts) -> Result<Operator, Denied>;
}

#[async_trait]
impl<F> Authorize for F
where
    F: Fn(&Parts) -> Result<Operator, Denied> + Send + Sync + 'static,
{
    async fn authorize(&self, request: &mut Parts) -> Result<Operator, Denied> {
        self(&*request)
    }
}

/// Returns the HTTP status for an error of the store, for a service's own endpoints. The admin's responses have the same
/// statuses.
///
/// # Examples
///
/// ```
/// use axum::{Json, http::StatusCode};
/// use dead_letters::{AppId, DeadLetterRepo, DeadLetterStore};
/// use dead_letters_admin::status_of;
///
/// /// A handler of the service.
/// async fn badge(store: &dyn DeadLetterStore, app: AppId) -> Result<Json<i64>, StatusCode> {
///     store.unresolved_count(app).await.map(Json).map_err(|error| status_of(&error))
/// }
/// #
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// # assert_eq!(badge(&repo, app).await.map(|count| count.0), Ok(0));
/// # let store = dead_letters::testing::FailingStore::new(repo);
/// # store.fail(dead_letters::testing::Call::UnresolvedCount, .., dead_letters::testing::transient());
/// # assert_eq!(badge(&store, app).await.map(|count| count.0), Err(StatusCode::SERVICE_UNAVAILABLE));
/// # Ok(())
/// # }
/// ```
pub fn status_of(error: &DeadLetterRepoError) -> StatusCode {
    match error.kind() {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Transient => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The response to a request that [`Authorize`] refuses: a problem (401, 403 or 421), or any response, for example a
/// redirect to a log-in page.
///
/// Do not redirect a POST to another origin. The pages' content security policy makes the browser drop such a
/// redirect without a message.
#[derive(Debug)]
pub struct Denied(Box<Response>);

impl Denied {
    /// Returns any response, such as a redirect to a log-in page or an extractor's rejection.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{http::request::Parts, response::Redirect};
    /// use dead_letters_admin::{Denied, Operator};
    ///
    /// // A visitor without a session logs in first.
    /// fn authorize(request: &Parts) -> Result<Operator, Denied> {
    ///     let user: Option<&String> = request.extensions.get();
    ///     user.map(Operator::full).ok_or_else(|| Denied::with(Redirect::to("/login")))
    /// }
    /// # let (parts, ()) = axum::http::Request::new(()).into_parts();
    /// # assert!(authorize(&parts).is_err());
    /// ```
    pub fn with(response: impl IntoResponse) -> Self {
        Self(Box::new(response.into_response()))
    }

    /// Returns 401 with `WWW-Authenticate: Bearer`: nobody is logged in, or the credentials are wrong.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{http::{StatusCode, request::Parts}, response::IntoResponse};
    /// use dead_letters_admin::{Denied, Operator};
    ///
    /// fn authorize(request: &Parts) -> Result<Operator, Denied> {
    ///     request.extensions.get::<String>().map(Operator::full).ok_or_else(Denied::unauthenticated)
    /// }
    /// # let (parts, ()) = axum::http::Request::new(()).into_parts();
    /// # assert!(authorize(&parts).is_err());
    /// assert_eq!(Denied::unauthenticated().into_response().status(), StatusCode::UNAUTHORIZED);
    /// ```
    pub fn unauthenticated() -> Self {
        Self::with(Problem::unauthenticated())
    }

    /// Returns 421: the request's `Host` is not a name of this admin.
    ///
    /// Use it in a service that accepts every client that can reach it. A page of another site can point its own name
    /// at such a service (DNS rebinding).
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::http::{header::HOST, request::Parts};
    /// use dead_letters_admin::{Denied, Operator};
    ///
    /// fn authorize(request: &Parts) -> Result<Operator, Denied> {
    ///     match request.headers.get(HOST) {
    ///         Some(host) if host == "ops.example" => Ok(Operator::reader("somebody on the network")),
    ///         _ => Err(Denied::misdirected()),
    ///     }
    /// }
    /// # let (parts, ()) = axum::http::Request::new(()).into_parts();
    /// # assert!(authorize(&parts).is_err());
    /// ```
    pub fn misdirected() -> Self {
        Self::with(Problem::misdirected())
    }

    /// Returns 403: the operator may not use the admin at all.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::http::request::Parts;
    /// use dead_letters_admin::{Denied, Operator};
    ///
    /// #[derive(Clone)]
    /// struct Session {
    ///     user: String,
    ///     is_staff: bool,
    /// }
    ///
    /// fn authorize(request: &Parts) -> Result<Operator, Denied> {
    ///     let session = request.extensions.get::<Session>().ok_or_else(Denied::unauthenticated)?;
    ///     if session.is_staff { Ok(Operator::full(&session.user)) } else { Err(Denied::forbidden()) }
    /// }
    /// # let (mut parts, ()) = axum::http::Request::new(()).into_parts();
    /// # parts.extensions.insert(Session { user: "ben".to_owned(), is_staff: false });
    /// # assert!(authorize(&parts).is_err());
    /// ```
    pub fn forbidden() -> Self {
        Self::with(Problem::forbidden("this operator may not use the admin"))
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        *self.0
    }
}

/// A person who uses the admin, with their apps and rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    name: String,
    /// `None` means all apps.
    apps: Option<BTreeSet<AppId>>,
    rights: BTreeSet<Right>,
    scan_limit: u32,
}

impl Operator {
    /// Returns an operator who may only read, in all apps. The name appears in
    /// [`resolved_by`](dead_letters::DeadLetterRow::resolved_by) and in the audit log.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters_admin::{Operator, Right};
    ///
    /// // Resolves letters, and sees payloads with redacted fields alone.
    /// let operator = Operator::reader("ada").with(Right::Resolve);
    /// assert_ne!(operator, Operator::full("ada"));
    /// ```
    pub fn reader(name: impl Into<String>) -> Self {
        Self { name: name.into(), apps: None, rights: BTreeSet::new(), scan_limit: SCAN_LIMIT }
    }

    /// Returns an operator who may reveal, resolve and replay, in all apps. [`Right::Edit`] and
    /// [`Right::Delete`] are rights of their own.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters_admin::{Operator, Right};
    ///
    /// let rights = [Right::Payloads, Right::Resolve, Right::Replay];
    /// assert_eq!(Operator::full("ada"), rights.into_iter().fold(Operator::reader("ada"), Operator::with));
    /// ```
    pub fn full(name: impl Into<String>) -> Self {
        let rights = [Right::Payloads, Right::Resolve, Right::Replay];
        rights.into_iter().fold(Self::reader(name), Self::with)
    }

    /// Adds a right.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters_admin::{Operator, Right};
    ///
    /// // Also edits a payload before a replay, and deletes letters, which no operator may by default.
    /// let operator = Operator::full("ada").with(Right::Edit).with(Right::Delete);
    /// let all = Right::ALL.iter().copied().fold(Operator::reader("ada"), Operator::with);
    /// assert_eq!(operator, all);
    /// ```
    pub fn with(mut self, right: Right) -> Self {
        self.rights.insert(right);
        self
    }

    /// Restricts the operator to these apps. All other apps look to them as if they did not exist.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::AppId;
    /// use dead_letters_admin::Operator;
    /// use uuid::Uuid;
    ///
    /// let (own, other) = (AppId::from(Uuid::new_v4()), AppId::from(Uuid::new_v4()));
    /// // A customer, who sees the letters of two apps.
    /// let customer = Operator::reader("ben").of_apps([own, other]);
    /// # _ = customer;
    /// ```
    pub fn of_apps(mut self, apps: impl IntoIterator<Item = AppId>) -> Self {
        self.apps = Some(apps.into_iter().collect());
        self
    }

    /// Sets how many letters one view or preview may examine for this operator: 100,000 by default, 1,000,000 at
    /// most.
    ///
    /// A view examines 10,000 letters unless its address sets `scan_limit`.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters_admin::Operator;
    ///
    /// // For a small database: a view stops after 20,000 letters.
    /// let operator = Operator::full("ada").scan_limit(20_000);
    /// # _ = operator;
    /// ```
    pub fn scan_limit(mut self, letters: u32) -> Self {
        self.scan_limit = letters.clamp(1, MAX_SCAN);
        self
    }

    pub(crate) fn max_scan(&self) -> u32 {
        self.scan_limit
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn apps(&self) -> Option<&BTreeSet<AppId>> {
        self.apps.as_ref()
    }

    pub(crate) fn may(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }

    pub(crate) fn sees(&self, app_id: AppId) -> bool {
        self.apps.as_ref().is_none_or(|apps| apps.contains(&app_id))
    }
}

/// A right of an [`Operator`], besides reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Right {
    /// Reveals the redacted parts of a payload, and searches in redacted payloads, on request. Each request is audited.
    Payloads,
    /// Resolves and reopens letters.
    Resolve,
    /// Replays letters.
    Replay,
    /// Edits a letter's payload before a replay. The operator also needs [`Replay`](Self::Replay), and
    /// [`Payloads`](Self::Payloads) if the service redacts payloads. No operator has this right by default.
    Edit,
    /// Deletes chosen letters, and erases their content. No operator has this right by default.
    Delete,
}

impl Right {
    /// All rights.
    pub const ALL: &'static [Self] = &[Self::Payloads, Self::Resolve, Self::Replay, Self::Edit, Self::Delete];

    fn lacking(self) -> &'static str {
        match self {
            Self::Payloads => "this operator may not see redacted fields",
            Self::Resolve => "this operator may not resolve or reopen letters",
            Self::Replay => "this operator may not replay letters",
            Self::Edit => "this operator may not edit payloads",
            Self::Delete => "this operator may not delete or erase letters",
        }
    }
}

/// Accepts requests with `Authorization: Bearer` and one token, as one operator. Compares the token in constant time.
pub struct BearerToken {
    digest: [u8; 32],
    operator: Operator,
}

impl BearerToken {
    /// Returns an authorization by this token. An empty token refuses every request.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use dead_letters_admin::{Admin, BearerToken, Operator};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let token = "a token of the deploy".to_owned();
    /// let ci = Operator::reader("ci");
    /// let admin = Admin::new(Arc::new(repo), BearerToken::new(token, ci));
    /// # _ = admin;
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(token: impl AsRef<[u8]>, operator: Operator) -> Self {
        Self { digest: Sha256::digest(token).into(), operator }
    }
}

#[async_trait]
impl Authorize for BearerToken {
    async fn authorize(&self, request: &mut Parts) -> Result<Operator, Denied> {
        let token = request.headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
            (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then_some(token)
        });
        // Digests have one length, so the comparison does not reveal the token's length.
        let is_it = |token: &[u8]| bool::from(self.digest.ct_eq(&<[u8; 32]>::from(Sha256::digest(token))));
        if token.is_some_and(is_it) { Ok(self.operator.clone()) } else { Err(Denied::unauthenticated()) }
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerToken").field("operator", &self.operator).finish_non_exhaustive()
    }
}

/// Takes the operator's name from a header that is set by the proxy that logged them in. **The proxy must remove that
/// header from incoming requests, and clients must not reach the service without the proxy.**
pub struct TrustedProxyHeader<F> {
    header: HeaderName,
    operator: F,
}

impl<F: Fn(&str) -> Option<Operator> + Send + Sync + 'static> TrustedProxyHeader<F> {
    /// Returns an authorization by this header. `operator` turns the header's text into an operator, or returns
    /// `None` to refuse them. A request is also refused if the header is missing, empty, repeated or not visible
    /// ASCII.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use axum::http::HeaderName;
    /// use dead_letters_admin::{Admin, Operator, TrustedProxyHeader};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// let header = HeaderName::from_static("x-forwarded-user");
    /// let operators = |name: &str| name.ends_with("@ops.example").then(|| Operator::full(name));
    /// let admin = Admin::new(Arc::new(repo), TrustedProxyHeader::new(header, operators));
    /// # _ = admin;
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(header: HeaderName, operator: F) -> Self {
        Self { header, operator }
    }
}

#[async_trait]
impl<F: Fn(&str) -> Option<Operator> + Send + Sync + 'static> Authorize for TrustedProxyHeader<F> {
    async fn authorize(&self, request: &mut Parts) -> Result<Operator, Denied> {
        let mut values = request.headers.get_all(&self.header).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Denied::unauthenticated());
        };
        let name = value.to_str().ok().filter(|name| !name.is_empty()).ok_or_else(Denied::unauthenticated)?;
        (self.operator)(name).ok_or_else(Denied::forbidden)
    }
}

impl<F> fmt::Debug for TrustedProxyHeader<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustedProxyHeader").field("header", &self.header).finish_non_exhaustive()
    }
}

/// Accepts every request as this operator, for a service that listens only on the loopback interface. A request whose
/// `Host` is not a name of that interface gets 421.
#[derive(Debug, Clone)]
pub struct InsecureAllowAll(pub Operator);

#[async_trait]
impl Authorize for InsecureAllowAll {
    async fn authorize(&self, request: &mut Parts) -> Result<Operator, Denied> {
        if is_of_loopback(request) { Ok(self.0.clone()) } else { Err(Denied::misdirected()) }
    }
}

/// Returns whether every host name in the request is a name of the loopback interface.
///
/// A request without a name is accepted: browsers always send one, so it does not come from a browser.
fn is_of_loopback(request: &Parts) -> bool {
    let by_header = request.headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let by_address = request.uri.authority().map(|authority| authority.as_str());
    by_header.chain(by_address).all(|host| {
        let host = host.parse::<Authority>().ok();
        let host = host.as_ref().map_or("", Authority::host).trim_matches(['[', ']']);
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

/// How long a request waits for its turn at the store.
const PATIENCE: Duration = Duration::from_secs(5);

/// Limits how many requests use the store at the same time, first come, first served.
///
/// There should be fewer turns than connections in the pool, which the service shares. The service then finds a
/// connection whatever operators request.
#[derive(Debug, Clone)]
pub(crate) struct Turns(Arc<Semaphore>);

/// A turn at the store, which ends when it is dropped.
pub(crate) type Turn = OwnedSemaphorePermit;

impl Turns {
    pub(crate) fn new(turns: usize) -> Self {
        Self(Arc::new(Semaphore::new(turns.clamp(1, Semaphore::MAX_PERMITS))))
    }

    pub(crate) async fn take(&self) -> Result<Turn, Problem> {
        let turn = timeout(PATIENCE, self.0.clone().acquire_owned()).await;
        turn.ok().and_then(Result::ok).ok_or_else(Problem::busy)
    }
}

/// The turn of a request, which it can give back for a while. The turn ends with the last copy of [`Access`], after the
/// last statement has ended.
pub(crate) struct RequestTurn {
    turns: Turns,
    turn: Mutex<Option<Turn>>,
}

impl RequestTurn {
    async fn take(turns: &Turns) -> Result<Self, Problem> {
        let turn = turns.take().await?;
        Ok(Self { turns: turns.clone(), turn: Mutex::new(Some(turn)) })
    }

    /// Sleeps without the turn, which other requests may have meanwhile, and then waits until it is this request's turn
    /// again. Every turn ends with its request.
    async fn sleep(&self, time: Duration) {
        if time.is_zero() {
            return;
        }
        drop(self.turn().take());
        sleep(time).await;
        // Nobody closes the semaphore.
        let turn = self.turns.0.clone().acquire_owned().await.ok();
        *self.turn() = turn;
    }

    fn turn(&self) -> MutexGuard<'_, Option<Turn>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the client still waits for the response.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting(pub(crate) Weak<()>);

/// Access to the store for an operator who has a turn. Handlers reach the store only through this type.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) admin: State,
    pub(crate) operator: Arc<Operator>,
    pub(crate) attempt: Attempt,
    pub(crate) waiting: Option<Waiting>,
    pub(crate) turn: Arc<RequestTurn>,
}

impl FromRequestParts<State> for Access {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, admin: &State) -> Result<Self, Response> {
        // A layer around the handler needed it first.
        if let Some(access) = parts.extensions.remove() {
            return Ok(access);
        }
        let operator = admin.authorize.authorize(parts).await.map_err(Denied::into_response)?;
        Self::enter(parts, admin, operator).await.map_err(Problem::into_response)
    }
}

impl Access {
    async fn enter(parts: &Parts, admin: &State, operator: Operator) -> Result<Self, Problem> {
        let attempt = parts.extensions.get::<Attempt>().cloned().unwrap_or_default();
        if operator.name.chars().count() > MAX_NAME_CHARACTERS {
            return Err(Problem::forbidden("the operator's name must have at most 200 characters"));
        }
        attempt.is_by(operator.name());
        let turn = Arc::new(RequestTurn::take(&admin.turns).await?);
        let waiting = parts.extensions.get().cloned();
        Ok(Self { admin: admin.clone(), operator: Arc::new(operator), attempt, waiting, turn })
    }
}

impl Access {
    pub(crate) fn store(&self) -> &Arc<dyn DeadLetterStore> {
        &self.admin.store
    }

    pub(crate) fn may(&self, right: Right) -> bool {
        self.operator.may(right) && (right != Right::Replay || self.admin.replay.is_some())
    }

    /// Returns access to the app. An app that the operator may not see is reported as not existing.
    pub(crate) fn app(self, app_id: AppId) -> Result<AppAccess, Problem> {
        if self.operator.sees(app_id) {
            Ok(AppAccess { access: self, app_id })
        } else {
            self.attempt.is_of_foreign_app();
            Err(Problem::no_such_app())
        }
    }
}

impl Access {
    /// Returns access to each of these apps, in their order. `field` names them in a problem.
    pub(crate) fn apps(&self, field: &str, ids: &[AppId]) -> Result<Vec<AppAccess>, Problem> {
        self.attempt.is_of_apps(ids);
        if ids.is_empty() {
            return Err(Problem::invalid_field(field, "is missing"));
        }
        if ids.len() > MAX_APPS_OF_RUN {
            return Err(Problem::invalid_field(field, format!("must name at most {MAX_APPS_OF_RUN} apps")));
        }
        if ids.iter().collect::<BTreeSet<_>>().len() < ids.len() {
            return Err(Problem::invalid_field(field, "names an app twice"));
        }
        ids.iter().map(|&app_id| self.clone().app(app_id)).collect()
    }
}

/// Access to one app's letters for an operator.
#[derive(Clone)]
pub(crate) struct AppAccess {
    access: Access,
    pub(crate) app_id: AppId,
}

impl AppAccess {
    /// Returns the access to all apps that the operator may see.
    pub(crate) fn entered(&self) -> &Access {
        &self.access
    }

    pub(crate) fn attempt(&self) -> &Attempt {
        &self.access.attempt
    }

    /// Returns whether the client no longer waits for the response.
    pub(crate) fn is_given_up(&self) -> bool {
        self.access.waiting.as_ref().is_some_and(|waiting| waiting.0.strong_count() == 0)
    }

    /// Sleeps without the request's turn at the store, which other requests may have meanwhile.
    pub(crate) async fn sleep(&self, time: Duration) {
        self.access.turn.sleep(time).await;
    }

    pub(crate) fn state(&self) -> State {
        self.access.admin.clone()
    }

    pub(crate) fn admin(&self) -> &Admin {
        &self.access.admin
    }

    pub(crate) fn operator(&self) -> &Operator {
        &self.access.operator
    }

    pub(crate) fn store(&self) -> &Arc<dyn DeadLetterStore> {
        self.access.store()
    }

    pub(crate) fn may(&self, right: Right) -> bool {
        self.access.may(right)
    }

    pub(crate) fn needs(&self, right: Right) -> Result<(), Problem> {
        if self.operator().may(right) { Ok(()) } else { Err(Problem::forbidden(right.lacking())) }
    }

    /// Returns whether the operator may replay letters with an edited payload.
    pub(crate) fn may_edit(&self) -> bool {
        self.may(Right::Replay) && self.needs_edit().is_ok()
    }

    /// Returns a problem if the operator may not edit payloads. An operator who edits a payload sees it.
    pub(crate) fn needs_edit(&self) -> Result<(), Problem> {
        self.needs(Right::Edit)?;
        self.needs_whole_payloads()
    }

    /// Returns a problem if the service redacts payloads and the operator may not see the redacted values. A search needs
    /// the same, because its result tells what payloads contain.
    pub(crate) fn needs_whole_payloads(&self) -> Result<(), Problem> {
        if self.admin().redaction.is_empty() { Ok(()) } else { self.needs(Right::Payloads) }
    }

    /// Returns the service's replay if there is one and the operator has the right.
    pub(crate) fn replay(&self) -> Result<&dyn DeadLetterReplay, Problem> {
        self.needs(Right::Replay)?;
        self.admin().replay.as_deref().ok_or_else(Problem::no_replay)
    }
}
