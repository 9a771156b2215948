//! Reopens one letter.

use axum::Json;

use super::model::Letter;
use crate::{
    access::Access,
    input::LetterPath,
    letter_actions::{self, summary},
    problem::Problem,
};

/// Makes a resolved letter unresolved again
///
/// Removes the resolution, its operator and its note. Does not take a replayed event back.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/reopen",
    params(
        ("dead_letters_app" = Uuid, Path, description = "The app."),
        ("dead_letters_id" = Uuid, Path, description = "The letter."),
    ),
    responses(
        (status = 200, description = "The reopened letter.", body = Letter),
        (
            status = 409,
            description = "The letter is unresolved already, or others resolve it at the same time.",
            body = Problem,
            content_type = "application/problem+json"
        ),
    )
)]
pub(super) async fn reopen(
    access: Access,
    LetterPath(app_id, id): LetterPath,
) -> Result<Json<Letter>, Problem> {
    let access = access.app(app_id)?;
    letter_actions::reopen(&access, id).await?;
    Ok(Json(Letter::one(&access, summary(&access, id).await?).await?))
}
