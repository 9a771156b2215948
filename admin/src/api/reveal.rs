//! A letter's payload without redaction. The operation is a POST, so that no prefetch, cache or link of another site
//! triggers it.

use axum::response::Response;

use super::payload::{download, whole};
use crate::{
    access::{Access, Right},
    audit::Entry,
    input::LetterPath,
    problem::Problem,
};

/// Downloads the stored text of a payload, without redaction
///
/// The text is returned byte for byte, to operators who may see redacted values. Each request is audited.
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
    let access = access.app(app_id)?;
    access.needs(Right::Payloads)?;
    let mut entry = Entry::of_letter(&access, "revealed", id);
    let body = whole(&access, id).await;
    entry.did(body.is_ok().into());
    entry.ended(body.as_ref().map(|_| ()));
    Ok(download(id, body?))
}
