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

/// The body of a replay.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayRequest {
    /// The reason, which is stored with the resolution.
    #[schema(max_length = 2_000)]
    note: Option<String>,
    /// The text of the payload to put back instead of the letter's own: JSON, nested at most 127 levels deep. It is put
    /// back as it is sent. The letter keeps its own payload. Requires the right to edit payloads, and to see redacted
    /// values if the service redacts payloads.
    payload: Option<String>,
}

/// Replays an open letter
///
/// Resolves the letter as `replayed` and puts its event back into the service's outbox, in one transaction.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/replay",
    params(
        ("dead_letters_app" = Uuid, Path, description = "The app."),
        ("dead_letters_id" = Uuid, Path, description = "The letter."),
    ),
    request_body = ReplayRequest,
    responses(
        (status = 200, description = "The replayed letter.", body = Letter),
        (
            status = 409,
            description = "The letter is closed already (`resolved_before` has its resolution), or another transaction \
                           has locked it. Or its payload is truncated, and the service replays only whole payloads. Or \
                           its content was erased.",
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
    letter_actions::replay(&access, id, request.payload.as_deref(), request.note).await?;
    Ok(Json(Letter::one(&access, summary(&access, id).await?).await?))
}
