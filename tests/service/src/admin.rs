//! For the people who answer for the backlog.

use std::sync::Arc;

use axum::Router;
use dead_letters::{DeadLetterReplay, DeadLetterStore};
use dead_letters_admin::{Admin, Authorize};

pub fn router(
    store: Arc<dyn DeadLetterStore>,
    replay: Arc<dyn DeadLetterReplay>,
    authorize: impl Authorize,
) -> Router {
    let admin = Admin::new(store, authorize).replay(replay);
    Router::new().nest_service("/admin/dead-letters", admin.into_service())
}
