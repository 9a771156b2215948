//! Who may do what: the host says, and the store is handed out to nobody else.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    extract::FromRequestParts,
    http::{
        HeaderName,
        header::{AUTHORIZATION, HOST},
        request::Parts,
        uri::Authority,
    },
    response::{IntoResponse, Response},
};
use dead_letters::{AppId, DeadLetterReplay, DeadLetterStore};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{Admin, State, audit::Attempt, problem::Problem};

/// Letters that a view may examine, of an operator of whom nothing else is said: a tenth of a second.
const SCAN_LIMIT: u32 = 100_000;
/// Of 1,000,000 letters no view takes more than a second.
const MAX_SCAN: u32 = 1_000_000;
/// Whoever has a longer one is not let in: it stands in the store and in the audit as often as they act.
const MAX_NAME_CHARACTERS: usize = 200;

/// Says who sends a request: a host's own session or single sign-on, one of the ready-made ones here, or a
/// closure `Fn(&Parts) -> Result<Operator, Denied>`. It is asked once for every request but those of assets, and
/// before the store is.
#[async_trait]
pub trait Authorize: Send + Sync + 'static {
    /// The operator who sends the request with these parts.
    ///
    /// # Errors
    ///
    /// What the request is answered instead: see [`Denied`].
    async fn authorize(&self, request: &Parts) -> Result<Operator, Denied>;
}

#[async_trait]
impl<F> Authorize for F
where
    F: Fn(&Parts) -> Result<Operator, Denied> + Send + Sync + 'static,
{
    async fn authorize(&self, request: &Parts) -> Result<Operator, Denied> {
        self(request)
    }
}

/// What a request gets that [`Authorize`] does not let in: a problem (401 or 403), or any response, a
/// redirect to a log-in page say. A POST should not be redirected to another origin: the pages' content
/// security policy has the browser drop that without a word.
#[derive(Debug)]
pub struct Denied(Box<Response>);

impl Denied {
    /// 401: nobody is logged in, or the credentials are wrong. With `WWW-Authenticate: Bearer`.
    pub fn unauthenticated() -> Self {
        Problem::unauthenticated().into_response().into()
    }

    /// 421: the request's `Host` is none of the service's own. For services that let in whoever reaches them: a page
    /// of another site can have its own name point there (DNS rebinding).
    pub fn misdirected() -> Self {
        Problem::misdirected().into_response().into()
    }

    /// 403: somebody who may not use the admin at all.
    pub fn forbidden() -> Self {
        Problem::forbidden("this operator may not use the admin").into_response().into()
    }
}

impl From<Response> for Denied {
    fn from(response: Response) -> Self {
        Self(Box::new(response))
    }
}

/// Somebody who works with the letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    name: String,
    /// None is all.
    apps: Option<BTreeSet<AppId>>,
    rights: BTreeSet<Right>,
    scan_limit: u32,
}

impl Operator {
    /// May read the letters of all apps, and do no more. The name is what
    /// [`resolved_by`](dead_letters::DeadLetterRow::resolved_by) and the audit say.
    pub fn reader(name: impl Into<String>) -> Self {
        Self { name: name.into(), apps: None, rights: BTreeSet::new(), scan_limit: SCAN_LIMIT }
    }

    /// May do everything.
    pub fn full(name: impl Into<String>) -> Self {
        Right::ALL.into_iter().fold(Self::reader(name), Self::with)
    }

    /// May do this as well.
    pub fn with(mut self, right: Right) -> Self {
        self.rights.insert(right);
        self
    }

    /// Sees these apps alone: all others are to them as if they did not exist.
    pub fn of_apps(mut self, apps: impl IntoIterator<Item = AppId>) -> Self {
        self.apps = Some(apps.into_iter().collect());
        self
    }

    /// May have so many letters examined by one view or preview: 100,000, where it is not said, and 1,000,000 at most.
    /// A view examines 10,000 unless its address says `scan`.
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

    fn sees(&self, app_id: AppId) -> bool {
        self.apps.as_ref().is_none_or(|apps| apps.contains(&app_id))
    }
}

/// What an [`Operator`] may do besides reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// Sees what is redacted of a payload, where they ask for it. It is audited.
    Payloads,
    /// Resolves and reopens letters.
    Settle,
    /// Replays letters.
    Replay,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Payloads, Self::Settle, Self::Replay];

    fn lacking(self) -> &'static str {
        match self {
            Self::Payloads => "this operator may not see redacted fields",
            Self::Settle => "this operator may not settle letters",
            Self::Replay => "this operator may not replay letters",
        }
    }
}

/// Lets in who sends `Authorization: Bearer` with one token, as one operator. It is compared in constant time.
pub struct BearerToken {
    digest: [u8; 32],
    operator: Operator,
}

impl BearerToken {
    /// An empty token lets nobody in.
    pub fn new(token: impl AsRef<[u8]>, operator: Operator) -> Self {
        Self { digest: Sha256::digest(token).into(), operator }
    }
}

#[async_trait]
impl Authorize for BearerToken {
    async fn authorize(&self, request: &Parts) -> Result<Operator, Denied> {
        let token = request.headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
            (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then_some(token)
        });
        // The digests are of one length, whatever the token's.
        let is_it = |token: &[u8]| bool::from(self.digest.ct_eq(&<[u8; 32]>::from(Sha256::digest(token))));
        if token.is_some_and(is_it) { Ok(self.operator.clone()) } else { Err(Denied::unauthenticated()) }
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerToken").field("operator", &self.operator).finish_non_exhaustive()
    }
}

/// Takes the operator's name from a header that a proxy sets, which has logged them in. **The proxy must remove
/// that header from what it is sent, and nobody may reach the service past it.**
pub struct TrustedProxyHeader<F> {
    header: HeaderName,
    operator: F,
}

impl<F: Fn(&str) -> Option<Operator> + Send + Sync + 'static> TrustedProxyHeader<F> {
    /// `operator` makes an operator of the header's text, or lets them not in. A header that is missing, empty,
    /// given twice or no visible ASCII lets nobody in.
    pub fn new(header: HeaderName, operator: F) -> Self {
        Self { header, operator }
    }
}

#[async_trait]
impl<F: Fn(&str) -> Option<Operator> + Send + Sync + 'static> Authorize for TrustedProxyHeader<F> {
    async fn authorize(&self, request: &Parts) -> Result<Operator, Denied> {
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

/// Lets everybody in, as this operator: for a service that listens on loopback alone. A request whose `Host` is not
/// a name of the loopback interface is answered 421.
#[derive(Debug, Clone)]
pub struct InsecureAllowAll(pub Operator);

#[async_trait]
impl Authorize for InsecureAllowAll {
    async fn authorize(&self, request: &Parts) -> Result<Operator, Denied> {
        if is_of_loopback(request) { Ok(self.0.clone()) } else { Err(Denied::misdirected()) }
    }
}

/// Whether all names that the request has for this host are of the loopback interface. Browsers always send one, with
/// the port that they came by; what sends none is no browser.
fn is_of_loopback(request: &Parts) -> bool {
    let by_header = request.headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let by_address = request.uri.authority().map(|authority| authority.as_str());
    by_header.chain(by_address).all(|host| {
        let host = host.parse::<Authority>().ok();
        let host = host.as_ref().map_or("", Authority::host).trim_matches(['[', ']']);
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// Turns at the store. They are fewer than the connections of its pool, which is the service's own: whatever
/// operators ask for, the service finds a connection. First come, first served.
#[derive(Debug, Clone)]
pub(crate) struct Turns(Arc<Semaphore>);

/// One of them, until it is dropped.
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

/// Whether the client that sent a request still waits for its answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting(pub(crate) Weak<()>);

/// The store, in the hands of an operator whose turn it is: no handler reaches it otherwise.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) admin: State,
    pub(crate) operator: Arc<Operator>,
    pub(crate) attempt: Attempt,
    pub(crate) waiting: Option<Waiting>,
    /// Given back with the last copy, when the last statement has ended.
    pub(crate) _turn: Arc<Turn>,
}

impl FromRequestParts<State> for Access {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, admin: &State) -> Result<Self, Response> {
        let operator = admin.authorize.authorize(parts).await.map_err(|denied| *denied.0)?;
        Self::enter(parts, admin, operator).await.map_err(Problem::into_response)
    }
}

impl Access {
    async fn enter(parts: &Parts, admin: &State, operator: Operator) -> Result<Self, Problem> {
        let attempt = parts.extensions.get::<Attempt>().cloned().unwrap_or_default();
        if operator.name.chars().count() > MAX_NAME_CHARACTERS {
            return Err(Problem::forbidden("an operator's name may have 200 characters"));
        }
        attempt.is_by(operator.name());
        let turn = Arc::new(admin.turns.take().await?);
        let waiting = parts.extensions.get().cloned();
        Ok(Self { admin: admin.clone(), operator: Arc::new(operator), attempt, waiting, _turn: turn })
    }
}

impl Access {
    pub(crate) fn store(&self) -> &Arc<dyn DeadLetterStore> {
        &self.admin.store
    }

    pub(crate) fn may(&self, right: Right) -> bool {
        self.operator.may(right) && (right != Right::Replay || self.admin.replay.is_some())
    }

    /// The app, where the operator sees it; else it is as if there were none.
    pub(crate) fn app(self, app_id: AppId) -> Result<AppAccess, Problem> {
        if self.operator.sees(app_id) {
            Ok(AppAccess { access: self, app_id })
        } else {
            self.attempt.is_of_foreign_app();
            Err(Problem::no_such_app())
        }
    }
}

/// One app's letters, in the hands of an operator.
#[derive(Clone)]
pub(crate) struct AppAccess {
    access: Access,
    pub(crate) app_id: AppId,
}

impl AppAccess {
    pub(crate) fn attempt(&self) -> &Attempt {
        &self.access.attempt
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_given_up(&self) -> bool {
        self.access.waiting.as_ref().is_some_and(|waiting| waiting.0.strong_count() == 0)
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

    /// For an operator who may replay, in a service that can.
    pub(crate) fn replay(&self) -> Result<&dyn DeadLetterReplay, Problem> {
        self.needs(Right::Replay)?;
        self.admin().replay.as_deref().ok_or_else(Problem::no_replay)
    }
}
