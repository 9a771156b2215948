//! Resolves one letter.

use axum::Json;
use dead_letters::Resolution;
use serde::Deserialize;
use utoipa::ToSchema;

use super::model::Letter;
use crate::{
    access::Access,
    input::{self, LetterPath},
    letter_actions::{self, summary},
    problem::Problem,
};

/// The body of a resolve.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResolveRequest {
    resolution: Verdict,
    /// The reason, which is stored with the resolution.
    #[schema(max_length = 2_000)]
    note: Option<String>,
}

/// The resolutions that an operator may set. A replay sets `replayed`, and only a handler sets `handler_failed`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ignored,
    HandledByScript,
}

impl From<Verdict> for Resolution {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Ignored => Self::Ignored,
            Verdict::HandledByScript => Self::HandledByScript,
        }
    }
}

/// Resolves an open letter
///
/// The letter's `resolved_by` is the operator who sends the request. If several operators resolve the same letter,
/// exactly one succeeds.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/resolve",
    params(
        ("dead_letters_app" = Uuid, Path, description = "The app."),
        ("dead_letters_id" = Uuid, Path, description = "The letter."),
    ),
    request_body = ResolveRequest,
    responses(
        (status = 200, description = "The resolved letter.", body = Letter),
        (
            status = 409,
            description = "The letter is closed already (`resolved_before` has its resolution), or another transaction \
                           has locked it.",
            body = Problem,
            content_type = "application/problem+json"
        ),
    )
)]
pub(super) async fn resolve(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    input::Json(request): input::Json<ResolveRequest>,
) -> Result<Json<Letter>, Problem> {
    let access = access.app(app_id)?;
    letter_actions::resolve(&access, id, request.resolution.into(), request.note).await?;
    Ok(Json(Letter::one(&access, summary(&access, id).await?).await?))
}
