//! One letter.

use axum::Json;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::model::Letter;
use crate::{
    access::Access,
    input::{LetterPath, Query},
    letter_actions::summary,
    metadata::Metadata,
    problem::Problem,
};

const ERROR_CHARACTERS: u64 = 100_000;

/// A letter with its whole error.
#[derive(Serialize, ToSchema)]
pub(super) struct LetterWithError {
    #[serde(flatten)]
    letter: Letter,
    /// The first 100,000 characters of the last attempt's error.
    last_error: String,
    /// The service's data about the event, such as its trace or its tenant. Redacted values are `"[redacted]"`. Null if
    /// the service redacts the metadata as a whole.
    #[schema(value_type = Option<BTreeMap<String, Value>>)]
    metadata: Option<Map<String, Value>>,
}

/// Returns one letter, without its payload
#[utoipa::path(
    get,
    path = "/api/apps/{dead_letters_app}/letters/{dead_letters_id}",
    params(
        ("dead_letters_app" = Uuid, Path, description = "The app."),
        ("dead_letters_id" = Uuid, Path, description = "The letter."),
    ),
    responses((status = 200, description = "The letter.", body = LetterWithError))
)]
pub(super) async fn letter(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    Query(fields): Query,
) -> Result<Json<LetterWithError>, Problem> {
    let access = access.app(app_id)?;
    fields.end()?;
    let letter = Letter::one(&access, summary(&access, id).await?).await?;
    let last_error = access.store().error_text(app_id, id, 0..ERROR_CHARACTERS).await?;
    let last_error = last_error.ok_or_else(Problem::no_such_letter)?;
    let metadata = Metadata::load(&access, id, false).await?.fields;
    Ok(Json(LetterWithError { letter, last_error, metadata }))
}
