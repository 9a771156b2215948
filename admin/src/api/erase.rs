//! Erases the content of letters.

use axum::Json;
use dead_letters::{DeadLetterId, Erased};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    access::Access,
    input::{self, AppPath},
    letter_actions,
    problem::Problem,
};

/// The letters to erase.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EraseRequest {
    /// The ids of the letters.
    #[schema(max_items = 1_000, value_type = Vec<Uuid>)]
    ids: Vec<DeadLetterId>,
    /// The reason.
    #[schema(max_length = 2_000)]
    note: Option<String>,
}

/// The letters that were erased. An id in neither list is of a letter that was erased before, or of none.
#[derive(Serialize, ToSchema)]
pub(super) struct EraseResult {
    /// The letters that this request erased.
    ids: Vec<Uuid>,
    /// The letters that could not be erased: another transaction has locked them, or a policy or trigger of the database
    /// prevents the change. Try again later.
    skipped_locked: Vec<Uuid>,
}

impl From<Erased> for EraseResult {
    fn from(erased: Erased) -> Self {
        let ids = |ids: Vec<DeadLetterId>| ids.into_iter().map(Uuid::from).collect();
        Self { ids: ids(erased.ids), skipped_locked: ids(erased.skipped_locked) }
    }
}

/// Erases the content of letters
///
/// Erases payload, edited payload, error, error signature, metadata and note of these letters, in one transaction. It also
/// empties the notes of their own rows in the history, except the reasons of erasures. Their other fields stay. An erased
/// letter can be resolved, and not replayed. Archives and backups keep what they have.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/erase",
    params(("dead_letters_app" = Uuid, Path, description = "The app.")),
    request_body = EraseRequest,
    responses((status = 200, description = "The letters that were erased.", body = EraseResult))
)]
pub(super) async fn erase(
    access: Access,
    AppPath(app_id): AppPath,
    input::Json(request): input::Json<EraseRequest>,
) -> Result<Json<EraseResult>, Problem> {
    let access = access.app(app_id)?;
    Ok(Json(letter_actions::erase_all(&access, &request.ids, request.note).await?.into()))
}
