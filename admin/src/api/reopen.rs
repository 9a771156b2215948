//! Reopens one letter.

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

/// The body of a reopening.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReopenRequest {
    /// Whether to reopen a replayed letter too. Its event was put back into the outbox. Reopening does not take it out, so
    /// another replay can deliver it twice.
    #[serde(default)]
    include_replayed: bool,
    /// The reason, which is stored in the history.
    #[schema(max_length = 2_000)]
    note: Option<String>,
}

/// Makes a resolved letter unresolved again
///
/// Removes the resolution, its operator and its note.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/reopen",
    params(
        ("dead_letters_app" = Uuid, Path, description = "The app."),
        ("dead_letters_id" = Uuid, Path, description = "The letter."),
    ),
    request_body = ReopenRequest,
    responses(
        (status = 200, description = "The reopened letter.", body = Letter),
        (
            status = 409,
            description = "The letter is unresolved already, or others resolve it at the same time. Or it was replayed, and \
                           the request does not include replayed letters.",
            body = Problem,
            content_type = "application/problem+json"
        ),
    )
)]
pub(super) async fn reopen(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    input::Json(request): input::Json<ReopenRequest>,
) -> Result<Json<Letter>, Problem> {
    let access = access.app(app_id)?;
    letter_actions::reopen(&access, id, None, request.include_replayed, request.note).await?;
    Ok(Json(Letter::one(&access, summary(&access, id).await?).await?))
}
