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
mod pages;
mod payload;
mod problem;
#[cfg(feature = "serve")]
mod server;
mod settle;
mod shares;
mod token;
mod urls;

use std::{fmt, sync::Arc};

use axum::{
    Router,
    routing::{RouterIntoService, get},
};
use dead_letters::{AppId, DeadLetterReplay, DeadLetterStore, RetentionPolicy};
use tower_http::csrf::CsrfLayer;

use access::{Access, Turns};
pub use access::{Authorize, BearerToken, Denied, InsecureAllowAll, Operator, Right, TrustedProxyHeader};
pub use guard::VIEW_TIMEOUT;
use payload::Redaction;
#[cfg(feature = "serve")]
pub use server::Server;
use token::Key;

/// Of a pool of ten connections, less than half.
const CONCURRENCY: usize = 4;
/// Payloads that are sent at the same time, of which each holds up to 16 MB.
const DOWNLOADS: usize = 8;

type AppNames = dyn Fn(AppId) -> Option<String> + Send + Sync;

/// The admin of one store: a JSON API and pages, as a tower service that a host mounts under any prefix.
///
/// Of each setting the last call counts.
pub struct Admin {
    store: Arc<dyn DeadLetterStore>,
    authorize: Arc<dyn Authorize>,
    replay: Option<Arc<dyn DeadLetterReplay>>,
    retention: Option<RetentionPolicy>,
    app_names: Arc<AppNames>,
    redaction: Redaction,
    key: Key,
    csrf: CsrfLayer,
    turns: Turns,
    downloads: Turns,
}

impl Admin {
    /// Of this store, for those whom `authorize` lets in.
    pub fn new(store: Arc<dyn DeadLetterStore>, authorize: impl Authorize) -> Self {
        Self {
            store,
            authorize: Arc::new(authorize),
            replay: None,
            retention: None,
            app_names: Arc::new(|_| None),
            redaction: Redaction::default(),
            key: Key::random(),
            csrf: CsrfLayer::new(),
            turns: Turns::new(CONCURRENCY),
            downloads: Turns::new(DOWNLOADS),
        }
    }

    /// Lets operators who have the right replay letters. Without it nobody can.
    pub fn replay(mut self, replay: Arc<dyn DeadLetterReplay>) -> Self {
        self.replay = Some(replay);
        self
    }

    /// The sweeper's policy, so that the pages warn of open letters that will be swept soon.
    pub fn retention(mut self, policy: RetentionPolicy) -> Self {
        self.retention = Some(policy);
        self
    }

    /// What an app is called on the pages; the others are shown by their id. It is called for every app of a
    /// page, so it should look into memory, not into a database.
    pub fn app_names(mut self, names: impl Fn(AppId) -> Option<String> + Send + Sync + 'static) -> Self {
        self.app_names = Arc::new(names);
        self
    }

    /// Withholds these values of every payload from operators who have not asked to see them, which takes
    /// [`Right::Payloads`] and is audited. JSON pointers (RFC 6901) in which `*` stands for any key or index:
    /// `/lines/*/card`. A payload that can't be parsed is withheld as a whole, and so is one over 1 MB.
    ///
    /// # Errors
    ///
    /// [`Pointer`](AdminConfigError::Pointer) for a text that is no JSON pointer.
    pub fn redact(
        mut self,
        pointers: impl IntoIterator<Item: Into<String>>,
    ) -> Result<Self, AdminConfigError> {
        self.redaction =
            Redaction::new(pointers).map_err(|error| AdminConfigError::Pointer(error.to_string()))?;
        Ok(self)
    }

    /// Signs previews and banners with this secret, so that any replica takes what another one gave, before
    /// and after a restart. Without it each process makes a key of its own.
    ///
    /// # Errors
    ///
    /// [`ShortKey`](AdminConfigError::ShortKey) for fewer than 32 bytes.
    pub fn key(mut self, secret: impl AsRef<[u8]>) -> Result<Self, AdminConfigError> {
        self.key = Key::new(secret.as_ref()).ok_or(AdminConfigError::ShortKey)?;
        Ok(self)
    }

    /// Lets so many requests ask the store at the same time: 4, where it is not said. **It must be smaller than the
    /// store's pool**, so that the service finds a connection whatever operators ask for. The others wait for 5
    /// seconds, first come, first served, and are then answered 503.
    pub fn concurrency(mut self, requests: usize) -> Self {
        self.turns = Turns::new(requests);
        self
    }

    /// Takes posts from pages of this origin (`https://ops.example`) too: where a proxy changes `Host`, the
    /// origin that the browser sees. It may be called several times.
    ///
    /// # Errors
    ///
    /// [`Origin`](AdminConfigError::Origin) for a text that is no origin.
    pub fn trusted_origin(mut self, origin: impl AsRef<str>) -> Result<Self, AdminConfigError> {
        let origin = origin.as_ref();
        self.csrf =
            self.csrf.add_trusted_origin(origin).map_err(|_| AdminConfigError::Origin(origin.to_owned()))?;
        Ok(self)
    }

    /// For [`nest_service`](axum::Router::nest_service), which hands on the prefix with and without its slash;
    /// [`nest`](axum::Router::nest) leaves the one with a slash to the host's own 404.
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
            .merge(pages::router())
            .merge(assets::router())
            .fallback(problem::not_found)
            .method_not_allowed_fallback(problem::method_not_allowed);
        guard::layers(router, csrf).with_state(admin)
    }

    /// The app's name, or its id.
    fn app_name(&self, app_id: AppId) -> String {
        (self.app_names)(app_id).unwrap_or_else(|| app_id.to_string())
    }
}

/// To be nested or merged.
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

/// What handlers have.
type State = Arc<Admin>;

/// Why a setting of [`Admin`] was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdminConfigError {
    /// A pointer of [`redact`](Admin::redact) is no JSON pointer.
    #[error("{0}")]
    Pointer(String),
    /// The secret of [`key`](Admin::key) is too short.
    #[error("the key must have at least 32 bytes")]
    ShortKey,
    /// The text of [`trusted_origin`](Admin::trusted_origin) is no origin.
    #[error("{0:?} is no origin: scheme and host, as in https://ops.example")]
    Origin(String),
}
