//! A letter's payload and metadata without redaction. The operation is a POST, so that no prefetch, cache or link of another site
//! triggers it.

use axum::{
    Json,
    http::header::CACHE_CONTROL,
    response::{IntoResponse, Response},
};
use dead_letters::{AppId, DeadLetterId};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::payload::{download, whole};
use crate::{
    access::{Access, Right},
    audit::record_reveal,
    input::LetterPath,
    metadata::Metadata,
    payload::Which,
    problem::Problem,
};

/// Downloads the stored text of a payload, without redaction
///
/// The text is returned byte for byte, to operators who may see redacted values. Each request is in the audit log and in the
/// letter's history.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/reveal",
    params(
        ("dead_letters_app" = Uuid, Path, description = "The app."),
        ("dead_letters_id" = Uuid, Path, description = "The letter."),
    ),
    responses((
        status = 200,
        description = "The payload.",
        body = String,
        content_type = "text/plain",
        headers(("Content-Disposition" = String, description = "`attachment`, with a file name."))
    ))
)]
pub(super) async fn reveal(access: Access, LetterPath(app_id, id): LetterPath) -> Result<Response, Problem> {
    unredacted(access, app_id, id, Which::Own).await
}

/// Downloads the stored text of an edited payload, without redaction
///
/// It is the payload that the letter's last replay put back instead of the letter's own. 404 if there is none. Each
/// request is in the audit log and in the letter's history.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/replayed-payload/reveal",
    params(
        ("dead_letters_app" = Uuid, Path, description = "The app."),
        ("dead_letters_id" = Uuid, Path, description = "The letter."),
    ),
    responses((
        status = 200,
        description = "The edited payload.",
        body = String,
        content_type = "text/plain",
        headers(("Content-Disposition" = String, description = "`attachment`, with a file name."))
    ))
)]
pub(super) async fn reveal_replayed(
    access: Access,
    LetterPath(app_id, id): LetterPath,
) -> Result<Response, Problem> {
    unredacted(access, app_id, id, Which::Replayed).await
}

async fn unredacted(
    access: Access,
    app_id: AppId,
    id: DeadLetterId,
    which: Which,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    access.needs(Right::Payloads)?;
    let body = whole(&access, which, id).await?;
    record_reveal(&access, "revealed", id).await?;
    Ok(download(which, id, body))
}

/// The metadata of a letter.
#[derive(Serialize, ToSchema)]
pub(super) struct RevealedMetadata {
    /// The fields, as the service stored them.
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// Returns the metadata of a letter, without redaction
///
/// For operators who may see redacted values. Each request is in the audit log and in the letter's history.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/metadata/reveal",
    params(
        ("dead_letters_app" = Uuid, Path, description = "The app."),
        ("dead_letters_id" = Uuid, Path, description = "The letter."),
    ),
    responses((status = 200, description = "The metadata.", body = RevealedMetadata))
)]
pub(super) async fn reveal_metadata(
    access: Access,
    LetterPath(app_id, id): LetterPath,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    access.needs(Right::Payloads)?;
    let metadata = Metadata::load(&access, id, true).await?.fields.unwrap_or_default();
    record_reveal(&access, "revealed", id).await?;
    Ok(([(CACHE_CONTROL, "no-store")], Json(RevealedMetadata { metadata })).into_response())
}
