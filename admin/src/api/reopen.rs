//! Reopens one letter.

use axum::Json;

use super::model::Letter;
use crate::{
    access::Access,
    input::LetterPath,
    letter_actions::{self, summary},
    problem::Problem,
};

/// Make a settled letter unresolved again
///
/// By whom and why it was settled is forgotten. A replayed event is not taken back.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/reopen",
    params(
        ("dead_letters_app" = Uuid, Path, description = "The app."),
        ("dead_letters_id" = Uuid, Path, description = "The letter."),
    ),
    responses(
        (status = 200, description = "The letter, as it then is.", body = Letter),
        (
            status = 409,
            description = "It is unresolved, or others settle it again at the same time.",
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
