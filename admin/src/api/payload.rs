//! A letter's payload as stored text. A JSON value would change its numbers.

use axum::{
    body::Body,
    http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use dead_letters::DeadLetterId;
use tokio::task::spawn_blocking;

use crate::{
    access::{Access, AppAccess},
    input::{LetterPath, Query},
    payload::{PART_CHARACTERS, Which, redact, stream},
    problem::Problem,
};

/// A larger payload is not parsed.
const MAX_REDACTED_BYTES: usize = 1_000_000;

/// Downloads the stored text of a payload
///
/// The text is returned byte for byte. If the service redacts payloads, redacted values are `"[redacted]"`. A payload
/// that is not a JSON object or array, or that is larger than 1 MB, is then withheld (403).
#[utoipa::path(
    get,
    path = "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/payload",
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
pub(super) async fn payload(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    Query(fields): Query,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    fields.end()?;
    shown(&access, Which::Own, id).await
}

/// Downloads the stored text of an edited payload
///
/// It is the payload that the letter's last replay put back instead of the letter's own. 404 if there is none. It is
/// redacted as the letter's own payload is.
#[utoipa::path(
    get,
    path = "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/replayed-payload",
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
pub(super) async fn replayed_payload(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    Query(fields): Query,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    fields.end()?;
    shown(&access, Which::Replayed, id).await
}

/// Returns the payload as every operator may see it.
async fn shown(access: &AppAccess, which: Which, id: DeadLetterId) -> Result<Response, Problem> {
    let body = match access.admin().redaction.is_empty() {
        true => whole(access, which, id).await?,
        false => redacted(access, which, id).await?.into(),
    };
    Ok(download(which, id, body))
}

pub(super) fn download(which: Which, id: DeadLetterId, body: Body) -> Response {
    let replayed = if which == Which::Replayed { "-replayed" } else { "" };
    let headers = [
        (CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"dead-letter-{id}{replayed}.json\"")),
        (CACHE_CONTROL, "no-store".to_owned()),
    ];
    (headers, body).into_response()
}

/// Returns a body that streams the whole payload in parts.
pub(super) async fn whole(access: &AppAccess, which: Which, id: DeadLetterId) -> Result<Body, Problem> {
    let download = access.admin().downloads.take().await?;
    let first = which.text(access, id, 0..PART_CHARACTERS).await?;
    Ok(stream(access, which, id, download, first))
}

async fn redacted(access: &AppAccess, which: Which, id: DeadLetterId) -> Result<String, Problem> {
    let text = which.text(access, id, 0..MAX_REDACTED_BYTES as u64 + 1).await?;
    if text.len() > MAX_REDACTED_BYTES {
        return Err(Problem::withheld("the payload is larger than 1 MB, and this service redacts payloads"));
    }
    let redaction = access.admin().redaction.clone();
    let redacted =
        spawn_blocking(move || redact(&text, &redaction)).await.map_err(|_| Problem::internal())?;
    let withheld = "the payload is not a JSON object or array, and this service redacts payloads";
    redacted.map_err(|_| Problem::withheld(withheld))
}
