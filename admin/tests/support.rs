//! The admin under test, and requests that reach it without a socket.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    error::Error,
    fmt,
    sync::{Arc, Mutex, Once},
};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, Bytes},
    http::{
        HeaderMap, Method, Request, StatusCode,
        header::{CONTENT_TYPE, LOCATION},
        request::Parts,
    },
    response::Response,
};
use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, DeadLetterId, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError, DeadLetterRow,
    DeadLetterTransfer, NewDeadLetter, OnOpen, Requeue, SeaOrmDeadLetterRepo, StoredLetter, connect_options,
    migration::Migrator,
    open,
    testing::{self, letter, stored_letter},
};
use dead_letters_admin::{Admin, Authorize, Denied, Operator, Right};
use dead_letters_test_support::{Error as TestError, TestDatabase};
use http_body_util::BodyExt;
use sea_orm::DatabaseTransaction;
use serde_json::Value;
use tower::ServiceExt;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context, prelude::*};
use uuid::Uuid;

/// Runs each named case in a fresh world on every backend.
macro_rules! on_every_backend {
    ($($case:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $case() {
                super::$case(crate::support::World::sqlite().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $case() {
                super::$case(crate::support::World::postgres().await).await;
            })+
        }
    };
}
pub(crate) use on_every_backend;

/// The key that every replica of a service has.
pub(crate) const KEY: [u8; 32] = [7; 32];

/// A service with a store, an outbox and one app.
pub(crate) struct World {
    pub(crate) repo: SeaOrmDeadLetterRepo,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) app: AppId,
    database: TestDatabase,
}

impl World {
    pub(crate) async fn sqlite() -> Self {
        Self::over(TestDatabase::sqlite().await).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::over(TestDatabase::postgres().await).await
    }

    async fn over(database: Result<TestDatabase, TestError>) -> Self {
        let database = database.unwrap();
        let repo = open(connect_options(database.url()), OnOpen::Check, Migrator).await.unwrap();
        Self { repo, outbox: Arc::default(), app: new_app(), database }
    }

    pub(crate) fn url(&self) -> &str {
        self.database.url()
    }

    pub(crate) fn admin_of(&self, operator: Operator) -> Admin {
        Admin::new(Arc::new(self.repo.clone()), let_in(operator))
            .replay(Arc::new(self.repo.replayer(self.outbox.clone())))
            .key(KEY)
            .unwrap()
    }

    /// Ada may do everything.
    pub(crate) fn client(&self) -> Client {
        self.admin_of(Operator::full("ada").with(Right::Edit).with(Right::Delete)).into()
    }

    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/api/apps/{}/{rest}", self.app)
    }

    pub(crate) async fn insert(&self, letter: NewDeadLetter) -> DeadLetterId {
        self.repo.insert(letter).await.unwrap()
    }

    pub(crate) async fn letter(&self) -> DeadLetterId {
        self.insert(letter(self.app)).await
    }

    /// With what `change` makes of it.
    pub(crate) async fn stored(
        &self,
        created_at: &str,
        change: impl FnOnce(StoredLetter) -> StoredLetter,
    ) -> DeadLetterId {
        let letter = change(stored_letter(self.app, time(created_at)));
        let imported = self.repo.import(std::slice::from_ref(&letter)).await.unwrap();
        assert_eq!(imported.stored, 1);
        letter.id
    }

    pub(crate) async fn group_key(&self, id: DeadLetterId) -> String {
        self.repo.summary(self.app, id).await.unwrap().unwrap().group_key
    }

    pub(crate) async fn row(&self, id: DeadLetterId) -> DeadLetterRow {
        self.repo.get(id).await.unwrap().unwrap()
    }
}

/// Lets everybody in as this operator, under any host name.
pub(crate) fn let_in(operator: Operator) -> impl Authorize {
    move |_: &Parts| Ok::<_, Denied>(operator.clone())
}

/// A world that needs no database of its own kind.
pub(crate) async fn memory() -> SeaOrmDeadLetterRepo {
    testing::store().await.unwrap()
}

pub(crate) fn new_app() -> AppId {
    Uuid::new_v4().into()
}

pub(crate) fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Where replayed events go.
#[derive(Default)]
pub(crate) struct Outbox {
    events: Mutex<Vec<Uuid>>,
    /// How many calls succeed before all others fail. None is all.
    takes: Mutex<Option<usize>>,
    /// Events that it refuses, and what it says.
    refused: Mutex<HashMap<Uuid, &'static str>>,
}

impl Outbox {
    pub(crate) fn events(&self) -> Vec<Uuid> {
        self.events.lock().unwrap().clone()
    }

    pub(crate) fn refuse(&self, event: Uuid, reason: &'static str) {
        self.refused.lock().unwrap().insert(event, reason);
    }

    pub(crate) fn take_no_more_than(&self, calls: usize) {
        *self.takes.lock().unwrap() = Some(calls);
    }
}

#[async_trait]
impl Requeue for Outbox {
    async fn requeue(
        &self,
        _: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        if let Some(takes) = &mut *self.takes.lock().unwrap() {
            *takes = takes.checked_sub(1).ok_or("the outbox is full of secrets")?;
        }
        let refused = self.refused.lock().unwrap();
        if let Some(&reason) = letters.iter().find_map(|letter| refused.get(&letter.original_event_id)) {
            return Err(reason.into());
        }
        self.events.lock().unwrap().extend(letters.iter().map(|letter| letter.original_event_id));
        Ok(())
    }
}

/// Something that answers requests.
#[derive(Clone)]
pub(crate) struct Client(Router);

impl From<Admin> for Client {
    fn from(admin: Admin) -> Self {
        Self(admin.into())
    }
}

impl From<Router> for Client {
    fn from(router: Router) -> Self {
        Self(router)
    }
}

impl Client {
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.0.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// As it comes.
    pub(crate) async fn stream(&self, path: impl AsRef<str>) -> Response {
        self.0.clone().oneshot(Request::get(path.as_ref()).body(Body::empty()).unwrap()).await.unwrap()
    }

    pub(crate) async fn get(&self, path: impl AsRef<str>) -> Answer {
        self.send(Request::get(path.as_ref()).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: impl AsRef<str>, body: Value) -> Answer {
        self.post_as(path, "application/json", body.to_string()).await
    }

    pub(crate) async fn post_as(
        &self,
        path: impl AsRef<str>,
        content_type: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let request = Request::post(path.as_ref()).header(CONTENT_TYPE, content_type);
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn call(&self, method: Method, path: &str) -> Answer {
        self.send(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: impl AsRef<str>) -> &str {
        self.headers.get(name.as_ref()).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the JSON of a success.
    pub(crate) fn json(&self) -> Value {
        assert_eq!((self.status, self.header(CONTENT_TYPE)), (StatusCode::OK, "application/json"), "{self}");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Returns the problem of a failure, whose type ends with `kind`.
    pub(crate) fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.header(CONTENT_TYPE), "application/problem+json", "{self}");
        let problem: Value = serde_json::from_slice(&self.body).unwrap();
        let kind = format!("urn:dead-letters:problem:{kind}");
        assert_eq!((&problem["status"], &problem["type"]), (&status.into(), &kind.into()), "{problem}");
        assert_eq!(self.status.as_u16(), status);
        assert_eq!(self.header("cache-control"), "no-store");
        problem
    }

    pub(crate) fn location(&self) -> &str {
        self.header(LOCATION)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}\n{}", self.status, self.headers, String::from_utf8_lossy(&self.body))
    }
}

/// A transient or another error of every call, for a store that nobody may reach.
pub(crate) fn fail_all<S>(store: &testing::FailingStore<S>, error: fn() -> DeadLetterRepoError) {
    for &call in testing::Call::ALL {
        store.fail(call, .., error());
    }
}

/// An event of the target `dead_letters::audit`, field by field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Audited(BTreeMap<&'static str, String>);

impl Audited {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

impl Visit for Audited {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

thread_local! {
    /// The audit records of this thread, which is a test's own.
    static AUDIT: RefCell<Vec<Audited>> = const { RefCell::new(Vec::new()) };
}

struct AuditLayer;

impl<S: Subscriber> Layer<S> for AuditLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "dead_letters::audit" {
            let mut audited = Audited::default();
            event.record(&mut audited);
            AUDIT.with_borrow_mut(|audit| audit.push(audited));
        }
    }
}

/// One subscriber for the process: those of single threads race for what `tracing` remembers of each place.
pub(crate) fn listen() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| tracing_subscriber::registry().with(AuditLayer).init());
    AUDIT.take();
}

/// Since it was last asked.
pub(crate) fn audited() -> Vec<Audited> {
    AUDIT.take()
}
