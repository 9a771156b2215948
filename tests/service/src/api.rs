//! For the people who answer for the backlog.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use dead_letters::{
    AppId, Attribution, Backlog, BacklogRequest, DeadLetterId, DeadLetterReplay, DeadLetterRepoError,
    DeadLetterRow, DeadLetterStore, DeadLetterSummary, ErrorKind, ListQuery, Page, Resolution,
};

#[derive(Clone)]
pub struct Api {
    pub store: Arc<dyn DeadLetterStore>,
    pub replay: Arc<dyn DeadLetterReplay>,
}

impl Api {
    pub fn into_router(self) -> Router {
        Router::new()
            .route("/apps", get(apps))
            .route("/apps/{app}/letters", get(letters))
            .route("/apps/{app}/letters/{id}/resolve/{resolution}", post(resolve))
            .route("/apps/{app}/letters/{id}/replay", post(replay))
            .with_state(self)
    }
}

/// An error's kind says what a client makes of it.
pub struct Problem(DeadLetterRepoError);

impl From<DeadLetterRepoError> for Problem {
    fn from(error: DeadLetterRepoError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::Transient => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, self.0.to_string()).into_response()
    }
}

async fn apps(State(api): State<Api>) -> Result<Json<Vec<Backlog>>, Problem> {
    Ok(Json(api.store.backlogs(&BacklogRequest::default().limit(100).cap(100)).await?))
}

async fn letters(
    State(api): State<Api>,
    Path(app): Path<AppId>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<DeadLetterSummary>>, Problem> {
    Ok(Json(api.store.list(app, &query.filter, &query.page).await?))
}

async fn resolve(
    State(api): State<Api>,
    Path((app, id, resolution)): Path<(AppId, DeadLetterId, Resolution)>,
    Json(attribution): Json<Attribution>,
) -> Result<Json<DeadLetterSummary>, Problem> {
    Ok(Json(api.store.resolve_once(app, id, resolution, &attribution).await?))
}

async fn replay(
    State(api): State<Api>,
    Path((app, id)): Path<(AppId, DeadLetterId)>,
) -> Result<Json<DeadLetterRow>, Problem> {
    Ok(Json(api.replay.replay(app, id, &Attribution::default()).await?))
}
