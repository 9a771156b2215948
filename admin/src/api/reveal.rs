//! A letter's payload without redaction. The operation is a POST, so that no prefetch, cache or link of another site
//! triggers it.

use axum::response::Response;
use dead_letters::{AppId, DeadLetterId};

use super::payload::{download, whole};
use crate::{
    access::{Access, Right},
    audit::Entry,
    input::LetterPath,
    payload::Which,
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
    unredacted(access, app_id, id, Which::Own).await
}

/// Downloads the stored text of an edited payload, without redaction
///
/// It is the payload that the letter's last replay put back instead of the letter's own. 404 if there is none. Each
/// request is audited.
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
    let mut entry = Entry::of_letter(&access, "revealed", id);
    let body = whole(&access, which, id).await;
    entry.did(body.is_ok().into());
    entry.ended(body.as_ref().map(|_| ()));
    Ok(download(which, id, body?))
}
