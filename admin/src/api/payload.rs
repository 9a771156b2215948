//! A letter's payload, as it is stored: never through a JSON value, which would change its numbers.

use axum::{
    body::Body,
    http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use dead_letters::DeadLetterId;
use utoipa::IntoParams;

use crate::{
    access::{Access, AppAccess, Right},
    audit::Entry,
    input::{Fields, LetterPath, Query},
    payload::{PART_CHARACTERS, redact, stream},
    problem::Problem,
};

/// A larger one is not parsed.
const MAX_REDACTED_BYTES: usize = 1_000_000;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct PayloadQuery {
    /// Shows redacted fields too: for operators who may see them. It is audited.
    #[param(required = false, default = false)]
    reveal: bool,
}

impl PayloadQuery {
    fn read(mut fields: Fields) -> Result<Self, Problem> {
        let query = Self { reveal: fields.is_true("reveal")? };
        fields.end()?;
        Ok(query)
    }
}

/// The stored text of a payload
///
/// As a download, byte for byte. Where the service redacts payloads, the values in question are `"[redacted]"`; what
/// is then no JSON, or larger than 1 MB, is withheld (403).
#[utoipa::path(
    get,
    path = "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/payload",
    params(
        ("dead_letters_app" = Uuid, Path, description = "The app."),
        ("dead_letters_id" = Uuid, Path, description = "The letter."),
        PayloadQuery,
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
    let PayloadQuery { reveal } = PayloadQuery::read(fields)?;
    let body = match (reveal, access.admin().redaction.is_empty()) {
        (true, _) => revealed(&access, id).await?,
        (false, true) => whole(&access, id).await?,
        (false, false) => redacted(&access, id).await?.into(),
    };
    let headers = [
        (CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"dead-letter-{id}.json\"")),
        (CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, body).into_response())
}

async fn revealed(access: &AppAccess, id: DeadLetterId) -> Result<Body, Problem> {
    access.needs(Right::Payloads)?;
    let mut entry = Entry::of_letter(access, "revealed", id);
    let body = whole(access, id).await;
    entry.did(body.is_ok().into());
    entry.ended(body.as_ref().map(|_| ()));
    body
}

/// Part by part, however large it is.
async fn whole(access: &AppAccess, id: DeadLetterId) -> Result<Body, Problem> {
    let first = beginning(access, id, PART_CHARACTERS).await?;
    Ok(stream(access.store().clone(), access.app_id, id, first))
}

async fn redacted(access: &AppAccess, id: DeadLetterId) -> Result<String, Problem> {
    let text = beginning(access, id, MAX_REDACTED_BYTES as u64 + 1).await?;
    if text.len() > MAX_REDACTED_BYTES {
        return Err(Problem::withheld("it is over 1 MB, and this service redacts payloads"));
    }
    let redacted = redact(&text, &access.admin().redaction);
    redacted.map_err(|_| Problem::withheld("it is no JSON, and this service redacts payloads"))
}

async fn beginning(access: &AppAccess, id: DeadLetterId, characters: u64) -> Result<String, Problem> {
    let text = access.store().payload_text(access.app_id, id, 0..characters).await?;
    text.ok_or_else(Problem::no_such_letter)
}
