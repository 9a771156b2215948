//! Replays one letter.

use axum::Json;
use serde::Deserialize;
use utoipa::ToSchema;

use super::model::Letter;
use crate::{
    access::Access,
    input::{self, LetterPath},
    letter_actions::{self, summary},
    problem::Problem,
};

/// How a letter is replayed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayRequest {
    /// Why.
    #[schema(max_length = 2_000)]
    note: Option<String>,
}

/// Replay an open letter
///
/// It is settled as `replayed`, and its event is back where the service takes events from: both, or none of it.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/replay",
    params(
        ("dead_letters_app" = Uuid, Path, description = "The app."),
        ("dead_letters_id" = Uuid, Path, description = "The letter."),
    ),
    request_body = ReplayRequest,
    responses(
        (status = 200, description = "The letter, as it then is.", body = Letter),
        (
            status = 409,
            description = "It was settled already: `settled` says as what, when and by whom. Or another transaction \
                           has locked it. Or its payload is truncated or erased, and the service replays whole ones \
                           only.",
            body = Problem,
            content_type = "application/problem+json"
        ),
    )
)]
pub(super) async fn replay(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    input::Json(request): input::Json<ReplayRequest>,
) -> Result<Json<Letter>, Problem> {
    let access = access.app(app_id)?;
    letter_actions::replay(&access, id, request.note).await?;
    Ok(Json(Letter::one(&access, summary(&access, id).await?).await?))
}
