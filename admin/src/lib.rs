#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod access;
mod api;
mod assets;
mod audit;
mod bulk;
mod clock;
mod guard;
mod input;
mod letter_actions;
mod live;
mod metadata;
mod pages;
mod payload;
mod problem;
mod search;
#[cfg(feature = "serve")]
mod server;
mod shares;
mod token;
mod urls;

use std::{fmt, sync::Arc};

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{RouterIntoService, get},
};
use dead_letters::{AppId, DeadLetterReplay, DeadLetterStore, RetentionPolicy};
use tower_http::csrf::CsrfLayer;

use access::{Access, Turns};
pub use access::{
    Authorize, BearerToken, Denied, InsecureAllowAll, Operator, Right, TrustedProxyHeader, status_of,
};
pub use guard::VIEW_TIMEOUT;
use live::Versions;
use metadata::TraceUrl;
use payload::Redaction;
#[cfg(feature = "serve")]
pub use server::Server;
use token::Key;

/// Default of [`Admin::concurrency`]: less than half of a pool of ten connections.
const CONCURRENCY: usize = 4;
/// How many payloads are sent at the same time. Each holds up to 16 MB.
const DOWNLOADS: usize = 8;

type AppNames = dyn Fn(AppId) -> Option<String> + Send + Sync;

/// The admin of one store: a JSON API and pages, as a tower service that a host mounts under any prefix.
///
/// If a setting is made twice, the last call applies. Only [`trusted_origin`](Self::trusted_origin) adds up.
pub struct Admin {
    store: Arc<dyn DeadLetterStore>,
    authorize: Arc<dyn Authorize>,
    replay: Option<Arc<dyn DeadLetterReplay>>,
    retention: Option<RetentionPolicy>,
    app_names: Arc<AppNames>,
    redaction: Redaction,
    metadata_redaction: Redaction,
    trace_url: Option<TraceUrl>,
    key: Key,
    csrf: CsrfLayer,
    turns: Turns,
    downloads: Turns,
    running: bulk::Running,
    versions: Versions,
}

impl Admin {
    /// Returns the admin of this store, for the operators that `authorize` accepts.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use axum::Router;
    /// use dead_letters_admin::{Admin, InsecureAllowAll, Operator};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// // For a service on the loopback interface. Other services ask who the operator is.
    /// let admin = Admin::new(Arc::new(repo), InsecureAllowAll(Operator::full("ada")));
    /// let router = Router::from(admin);
    /// # let _: Router = router;
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(store: Arc<dyn DeadLetterStore>, authorize: impl Authorize) -> Self {
        Self {
            store,
            authorize: Arc::new(authorize),
            replay: None,
            retention: None,
            app_names: Arc::new(|_| None),
            redaction: Redaction::default(),
            metadata_redaction: Redaction::default(),
            trace_url: None,
            key: Key::random(),
            csrf: CsrfLayer::new(),
            turns: Turns::new(CONCURRENCY),
            downloads: Turns::new(DOWNLOADS),
            running: bulk::Running::default(),
            versions: Versions::default(),
        }
    }

    /// Enables replay for operators with [`Right::Replay`]. Without this call nobody can replay letters.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use dead_letters_admin::Admin;
    /// # use dead_letters_admin::{InsecureAllowAll, Operator};
    ///
    /// # struct Outbox;
    /// # #[async_trait::async_trait]
    /// # impl dead_letters::Requeue for Outbox {
    /// #     async fn requeue(
    /// #         &self,
    /// #         _: &sea_orm::DatabaseTransaction,
    /// #         _: &[dead_letters::StoredLetter],
    /// #     ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    /// #
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let authorize = InsecureAllowAll(Operator::full("ada"));
    /// // `Outbox` implements `Requeue`.
    /// let replayer = repo.replayer(Outbox);
    /// let admin = Admin::new(Arc::new(repo), authorize).replay(replayer);
    /// # _ = admin;
    /// # Ok(())
    /// # }
    /// ```
    pub fn replay(mut self, replay: Arc<dyn DeadLetterReplay>) -> Self {
        self.replay = Some(replay);
        self
    }

    /// Sets the sweeper's policy, so that the pages warn about open letters that will be swept within a week.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use std::time::Duration;
    ///
    /// use dead_letters::{Retention, RetentionPolicy, Sweeper};
    /// use dead_letters_admin::Admin;
    /// # use dead_letters_admin::{InsecureAllowAll, Operator};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let authorize = InsecureAllowAll(Operator::full("ada"));
    /// # let store = Arc::new(repo);
    /// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// let policy = RetentionPolicy::new(Retention::default().delete_all_after(90 * DAY));
    /// let sweeper = Sweeper::builder(store.clone(), policy.clone()).build()?;
    /// let admin = Admin::new(store, authorize).retention(policy);
    /// # _ = (admin, sweeper);
    /// # Ok(())
    /// # }
    /// ```
    pub fn retention(mut self, policy: RetentionPolicy) -> Self {
        self.retention = Some(policy);
        self
    }

    /// Sets the names of apps on the pages. An app without a name is shown by its id.
    ///
    /// The pages call `names` for each app that they show. It should read from memory, not from a database.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use std::collections::HashMap;
    ///
    /// use dead_letters_admin::Admin;
    /// # use dead_letters_admin::{InsecureAllowAll, Operator};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let admin = Admin::new(Arc::new(repo), InsecureAllowAll(Operator::full("ada")));
    /// let names = HashMap::from([(app, "Shop of Ada".to_owned())]);
    /// let admin = admin.app_names(move |app_id| names.get(&app_id).cloned());
    /// # _ = admin;
    /// # Ok(())
    /// # }
    /// ```
    pub fn app_names(mut self, names: impl Fn(AppId) -> Option<String> + Send + Sync + 'static) -> Self {
        self.app_names = Arc::new(names);
        self
    }

    /// Redacts these values in every payload, until an operator with [`Right::Payloads`] asks to see them. Each such
    /// request is audited.
    ///
    /// The values are named by JSON pointers (RFC 6901) in which `*` matches any key or index: `/lines/*/card`. A
    /// payload that cannot be parsed is withheld as a whole, and so is a payload over 1 MB. A text that a pointer leads into
    /// is redacted, because it may be JSON itself.
    ///
    /// # Errors
    ///
    /// Returns [`Pointer`](AdminConfigError::Pointer) if a text is not a JSON pointer.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use dead_letters_admin::{Admin, AdminConfigError};
    /// # use dead_letters_admin::{InsecureAllowAll, Operator};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let admin = || Admin::new(Arc::new(repo.clone()), InsecureAllowAll(Operator::full("ada")));
    /// assert!(admin().redact(["/customer/email", "/lines/*/card"]).is_ok());
    /// // A pointer begins with a slash.
    /// assert!(matches!(admin().redact(["customer.email"]), Err(AdminConfigError::Pointer(_))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn redact(
        mut self,
        pointers: impl IntoIterator<Item: Into<String>>,
    ) -> Result<Self, AdminConfigError> {
        self.redaction = redaction(pointers)?;
        Ok(self)
    }

    /// Redacts these values in the metadata of every letter, as [`redact`](Self::redact) does in payloads:
    /// `/user/email`, or `/*` for all values.
    ///
    /// An operator without [`Right::Payloads`] can't filter by a key whose value is redacted, because the result would
    /// reveal the value.
    ///
    /// # Errors
    ///
    /// Returns [`Pointer`](AdminConfigError::Pointer) if a text is not a JSON pointer.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use dead_letters_admin::{Admin, AdminConfigError};
    /// # use dead_letters_admin::{InsecureAllowAll, Operator};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let admin = || Admin::new(Arc::new(repo.clone()), InsecureAllowAll(Operator::full("ada")));
    /// assert!(admin().redact_metadata(["/user/email", "/tenant"]).is_ok());
    /// // A pointer begins with a slash.
    /// assert!(matches!(admin().redact_metadata(["tenant"]), Err(AdminConfigError::Pointer(_))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn redact_metadata(
        mut self,
        pointers: impl IntoIterator<Item: Into<String>>,
    ) -> Result<Self, AdminConfigError> {
        // The store replaces each NUL of a key.
        let pointers = pointers.into_iter().map(|pointer| pointer.into().replace('\0', "\u{FFFD}"));
        self.metadata_redaction = redaction(pointers)?;
        Ok(self)
    }

    /// Links the page of a letter to its trace, if its metadata has a valid
    /// [`traceparent`](dead_letters::TraceParent): `https://jaeger.example/trace/{trace_id}`.
    ///
    /// The URL is http or https. It contains `{trace_id}`, and may contain `{span_id}`. If the `traceparent` is
    /// redacted, there is no link.
    ///
    /// # Errors
    ///
    /// Returns [`TraceUrl`](AdminConfigError::TraceUrl) if the text is not such a URL.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use dead_letters_admin::{Admin, AdminConfigError};
    /// # use dead_letters_admin::{InsecureAllowAll, Operator};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let admin = || Admin::new(Arc::new(repo.clone()), InsecureAllowAll(Operator::full("ada")));
    /// assert!(admin().trace_url("https://jaeger.example/trace/{trace_id}").is_ok());
    /// // The URL must have a place for the trace.
    /// assert!(matches!(admin().trace_url("https://jaeger.example/"), Err(AdminConfigError::TraceUrl(_))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn trace_url(mut self, template: impl AsRef<str>) -> Result<Self, AdminConfigError> {
        let template = template.as_ref();
        let url = TraceUrl::new(template).ok_or_else(|| AdminConfigError::TraceUrl(template.to_owned()))?;
        self.trace_url = Some(url);
        Ok(self)
    }

    /// Seals previews, results and banners with this secret. Every replica then accepts the tokens of the others,
    /// also after a restart. Without a secret, each process creates a random key.
    ///
    /// # Errors
    ///
    /// Returns [`ShortKey`](AdminConfigError::ShortKey) if the secret has fewer than 32 bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use dead_letters_admin::{Admin, AdminConfigError};
    /// # use dead_letters_admin::{InsecureAllowAll, Operator};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let admin = || Admin::new(Arc::new(repo.clone()), InsecureAllowAll(Operator::full("ada")));
    /// # let secret_of_the_deploy = [7; 32];
    /// assert!(admin().key(secret_of_the_deploy).is_ok());
    /// assert!(matches!(admin().key("changeme"), Err(AdminConfigError::ShortKey(8))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn key(mut self, secret: impl AsRef<[u8]>) -> Result<Self, AdminConfigError> {
        let secret = secret.as_ref();
        self.key = Key::new(secret).ok_or(AdminConfigError::ShortKey(secret.len()))?;
        Ok(self)
    }

    /// Sets how many requests use the store at the same time, 4 by default.
    ///
    /// **It must be smaller than the store's pool**, so that the service always finds a connection. Further requests
    /// wait for up to 5 seconds, first come, first served, and then get 503.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use dead_letters::{connect_options, SeaOrmDeadLetterRepo};
    /// use dead_letters_admin::Admin;
    /// # use dead_letters_admin::{InsecureAllowAll, Operator};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (url, authorize) = ("sqlite::memory:", InsecureAllowAll(Operator::full("ada")));
    /// // A pool of 20 connections, of which the service always finds 12.
    /// let mut options = connect_options(url);
    /// options.max_connections(20);
    /// let repo = SeaOrmDeadLetterRepo::new(sea_orm::Database::connect(options).await?);
    /// let admin = Admin::new(Arc::new(repo), authorize).concurrency(8);
    /// # _ = admin;
    /// # Ok(())
    /// # }
    /// ```
    pub fn concurrency(mut self, requests: usize) -> Self {
        self.turns = Turns::new(requests);
        self
    }

    /// Accepts POSTs from pages of this origin too, for example `https://ops.example`. If a proxy changes `Host`,
    /// this is the origin that browsers see. Each call adds an origin.
    ///
    /// # Errors
    ///
    /// Returns [`Origin`](AdminConfigError::Origin) if the text is not an origin.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use dead_letters_admin::{Admin, AdminConfigError};
    /// # use dead_letters_admin::{InsecureAllowAll, Operator};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let admin = || Admin::new(Arc::new(repo.clone()), InsecureAllowAll(Operator::full("ada")));
    /// assert!(admin().trusted_origin("https://ops.example").is_ok());
    /// assert!(matches!(admin().trusted_origin("ops.example"), Err(AdminConfigError::Origin(_))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn trusted_origin(mut self, origin: impl AsRef<str>) -> Result<Self, AdminConfigError> {
        let origin = origin.as_ref();
        self.csrf =
            self.csrf.add_trusted_origin(origin).map_err(|_| AdminConfigError::Origin(origin.to_owned()))?;
        Ok(self)
    }

    /// Returns a service for [`nest_service`](axum::Router::nest_service), which serves the prefix with and without
    /// its final slash. With [`nest`](axum::Router::nest), the host's own 404 handles the prefix with the slash.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use axum::{Router, body::Body, http::{Request, StatusCode}};
    /// # use dead_letters_admin::{Admin, InsecureAllowAll, Operator};
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let admin = Admin::new(Arc::new(repo), InsecureAllowAll(Operator::full("ada")));
    /// let router = Router::<()>::new().nest_service("/admin/dead-letters", admin.into_service());
    /// let request = Request::get("/admin/dead-letters/api/apps").body(Body::empty())?;
    /// assert_eq!(router.oneshot(request).await?.status(), StatusCode::OK);
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_service(self) -> RouterIntoService<axum::body::Body> {
        self.into_router().into_service()
    }

    fn into_router(self) -> Router {
        let csrf = self.csrf.clone();
        let admin: State = Arc::new(self);
        let (api, document) = api::router().split_for_parts();
        let document = api::document(document);
        let router = Router::new()
            .merge(api)
            .route("/api/openapi.json", get(|_: Access| async move { axum::Json(document) }))
            .merge(pages::router(&admin))
            .merge(assets::router())
            .fallback(problem::not_found)
            .method_not_allowed_fallback(problem::method_not_allowed)
            .layer(from_fn_with_state(admin.clone(), live::forget_after_changes));
        guard::layers(router, csrf).with_state(admin)
    }

    /// Returns the app's name, or its id if it has none.
    fn app_name(&self, app_id: AppId) -> String {
        (self.app_names)(app_id).unwrap_or_else(|| app_id.to_string())
    }
}

fn redaction(pointers: impl IntoIterator<Item: Into<String>>) -> Result<Redaction, AdminConfigError> {
    Redaction::new(pointers).map_err(|error| AdminConfigError::Pointer(error.to_string()))
}

/// Returns a router that a host nests or merges.
impl<S> From<Admin> for Router<S> {
    fn from(admin: Admin) -> Self {
        admin.into_router().with_state(())
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("retention", &self.retention).finish_non_exhaustive()
    }
}

/// The state of all handlers.
type State = Arc<Admin>;

/// An invalid setting of [`Admin`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdminConfigError {
    /// A text given to [`redact`](Admin::redact) or [`redact_metadata`](Admin::redact_metadata) is not a JSON pointer.
    #[error("{0}")]
    Pointer(String),
    /// The secret given to [`key`](Admin::key) has fewer than 32 bytes. The field is its length.
    #[error("the key must have at least 32 bytes (got {0})")]
    ShortKey(usize),
    /// The text given to [`trusted_origin`](Admin::trusted_origin) is not an origin.
    #[error("{0:?} is not an origin: give scheme and host, as in https://ops.example")]
    Origin(String),
    /// The text given to [`trace_url`](Admin::trace_url) is not an http or https URL with `{trace_id}`.
    #[error(
        "{0:?} is not a URL of a trace: give an http or https URL, as in https://jaeger.example/trace/{{trace_id}}"
    )]
    TraceUrl(String),
}
