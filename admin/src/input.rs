//! Reads the input of a request strictly. An unknown or repeated field is an error that names the field: if it were
//! ignored, the request would match more letters than it asked for.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE, request::Parts},
};
use chrono::{DateTime, Utc};
use dead_letters::{AppId, CappedCount, DeadLetterId, ListQuery};
use form_urlencoded::parse;
use serde::{Deserialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{State, access::AppAccess, metadata::check_filter, problem::Problem, urls::fits};

/// Longer fields are refused, because a search compares its text with every examined row.
const MAX_CHARACTERS: usize = 2_000;
/// Fields that only the limit of the body bounds: tokens, ticked letters, edited payloads, and encoded lists with their
/// filter.
const LONG_FIELDS: [&str; 8] = ["back", "banner", "filter", "ids", "list", "payload", "run", "token"];

/// The fields of a filter whose values are times.
pub(crate) const TIMES: [&str; 4] = ["created_from", "created_before", "resolved_from", "resolved_before"];

/// The fields of a filter that compare either the whole text or a part of it. A form has one input for both, and a choice.
pub(crate) const PARTS: [&str; 2] = ["source", "op"];
/// The value of the choice.
pub(crate) const PART: &str = "contains";

/// Returns the name of the choice of a field.
pub(crate) fn part_choice(field: &str) -> String {
    format!("{field}_by")
}

/// Returns the name of the filter's field that compares a part.
pub(crate) fn part_field(field: &str) -> String {
    format!("{field}_contains")
}

/// The app in the address.
pub(crate) struct AppPath(pub(crate) AppId);

/// The app and the letter in the address.
pub(crate) struct LetterPath(pub(crate) AppId, pub(crate) DeadLetterId);

/// The bulk run in the address.
pub(crate) struct RunPath(pub(crate) Uuid);

#[derive(Deserialize)]
struct RunName {
    dead_letters_run: String,
}

/// The path parameters. Their names do not collide with those in a prefix of the host.
#[derive(Deserialize)]
struct PathNames {
    dead_letters_app: String,
    #[serde(default)]
    dead_letters_id: String,
}

async fn path_names(parts: &mut Parts, admin: &State) -> Result<PathNames, Problem> {
    let path = axum::extract::Path::<PathNames>::from_request_parts(parts, admin).await;
    path.map(|axum::extract::Path(names)| names).map_err(|_| Problem::no_such_app())
}

impl FromRequestParts<State> for AppPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, admin: &State) -> Result<Self, Problem> {
        let names = path_names(parts, admin).await?;
        names.dead_letters_app.parse().map(Self).map_err(|_| Problem::no_such_app())
    }
}

impl FromRequestParts<State> for RunPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, admin: &State) -> Result<Self, Problem> {
        let path = axum::extract::Path::<RunName>::from_request_parts(parts, admin).await;
        let run_id = path.ok().and_then(|axum::extract::Path(name)| name.dead_letters_run.parse().ok());
        run_id.map(Self).ok_or_else(Problem::no_such_run)
    }
}

impl FromRequestParts<State> for LetterPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, admin: &State) -> Result<Self, Problem> {
        let names = path_names(parts, admin).await?;
        let app_id = names.dead_letters_app.parse().map_err(|_| Problem::no_such_app())?;
        let id = names.dead_letters_id.parse().map_err(|_| Problem::no_such_letter())?;
        Ok(Self(app_id, id))
    }
}

/// The fields of a query string or of a form. Handlers take fields by name; the rest belongs to the listing or is an
/// error.
#[derive(Clone)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    fn new(text: &[u8]) -> Result<Self, Problem> {
        let mut fields: Vec<_> = parse(text).into_owned().collect();
        // A form sends each line break of its field as two characters.
        for (_, note) in fields.iter_mut().filter(|(name, _)| name == "note") {
            *note = note.replace("\r\n", "\n");
        }
        let long = |(name, value): &&(String, String)| {
            !LONG_FIELDS.contains(&name.as_str()) && value.chars().count() > MAX_CHARACTERS
        };
        match fields.iter().find(long) {
            Some((name, _)) => Err(Problem::invalid_field(shown(name), "must have at most 2,000 characters")),
            None => Ok(Self(fields)),
        }
    }

    /// Takes the field's value. Returns `None` if it is missing or empty, because HTML forms send unset fields as
    /// empty.
    pub(crate) fn take(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut taken = self.0.extract_if(.., |field| field.0 == name).map(|(_, value)| value);
        let value = taken.next();
        if taken.next().is_some() {
            return Err(Problem::invalid_field(name, "is given more than once"));
        }
        Ok(value.filter(|value| !value.is_empty()))
    }

    /// Takes the apps of a bulk request, a field each. An id that can't be parsed is an app that does not exist.
    pub(crate) fn apps(&mut self) -> Result<Vec<AppId>, Problem> {
        let taken = self.0.extract_if(.., |field| field.0 == "app").map(|(_, value)| value);
        taken.map(|value| value.parse().map_err(|_| Problem::no_such_app())).collect()
    }

    pub(crate) fn parse<T: std::str::FromStr>(
        &mut self,
        name: &str,
        problem: &str,
    ) -> Result<Option<T>, Problem> {
        let Some(value) = self.take(name)? else { return Ok(None) };
        let problem = |_| Problem::invalid_field(name, format!("{problem} (got {:?})", shown(&value)));
        value.parse().map(Some).map_err(problem)
    }

    /// Takes a checkbox. A missing field is `false`.
    pub(crate) fn is_true(&mut self, name: &str) -> Result<bool, Problem> {
        Ok(self.parse(name, "must be true or false")?.unwrap_or(false))
    }

    /// Parses the remaining fields as filter and page.
    pub(crate) fn listing(self, access: &AppAccess) -> Result<ListQuery, Problem> {
        let query = ListQuery::from_pairs(self.0)?;
        check_filter(access, &query.filter)?;
        check_scan(query.page.scan_limit, access.operator().max_scan())?;
        Ok(query)
    }

    /// Parses the remaining fields for a page, and returns whether they are exactly the fields that the query prints.
    ///
    /// Blanks around a value are ignored, and a time without a zone is UTC, because people type these values. The page
    /// links to itself, so a filter that is too long for an address is refused.
    pub(crate) fn page_listing(mut self, access: &AppAccess) -> Result<(ListQuery, bool), Problem> {
        let sent = self.0.clone();
        for (name, value) in &mut self.0 {
            let trimmed = value.trim_matches([' ', '\t']);
            *value = if TIMES.contains(&name.as_str()) { with_zone(trimmed) } else { trimmed.to_owned() };
        }
        self.join_metadata()?;
        self.choose_parts()?;
        let query = self.listing(access)?;
        if !fits(&query) {
            let longest = query.pairs().max_by_key(|(_, text)| text.len());
            return Err(Problem::invalid_field(
                longest.map_or_else(String::new, |(name, _)| shown(&name)),
                "is too long for an address: shorten the filter, or use the API",
            ));
        }
        let is_canonical = query.pairs().map(|(name, value)| (name.into_owned(), value)).eq(sent);
        Ok((query, is_canonical))
    }

    /// Returns the fields as they were sent.
    pub(crate) fn into_pairs(self) -> Vec<(String, String)> {
        self.0
    }

    /// Makes a field of the filter of the form's two inputs for a key of the metadata and its value.
    fn join_metadata(&mut self) -> Result<(), Problem> {
        match (self.take("metadata_key")?, self.take("metadata_value")?) {
            (None, None) => {}
            (Some(key), Some(value)) => self.0.push((format!("metadata.{key}"), value)),
            (None, Some(_)) => return Err(Problem::invalid_field("metadata_key", "is missing")),
            (Some(_), None) => {
                let problem = "is missing: enter \"\" for the empty text";
                return Err(Problem::invalid_field("metadata_value", problem));
            }
        }
        Ok(())
    }

    /// Renames the fields for which the form's choice is a part of the text.
    fn choose_parts(&mut self) -> Result<(), Problem> {
        for field in PARTS {
            match self.take(&part_choice(field))?.as_deref() {
                None | Some("is") => {}
                Some(PART) => {
                    for (name, _) in self.0.iter_mut().filter(|(name, _)| name == field) {
                        *name = part_field(field);
                    }
                }
                Some(_) => {
                    return Err(Problem::invalid_field(part_choice(field), "must be is or contains"));
                }
            }
        }
        Ok(())
    }

    /// Returns an error if a field is left.
    pub(crate) fn end(self) -> Result<(), Problem> {
        match self.0.first() {
            Some((name, _)) => Err(Problem::invalid_field(shown(name), "is not a field: remove it")),
            None => Ok(()),
        }
    }
}

/// Returns the scan limit, or an error if it is above the operator's maximum.
pub(crate) fn check_scan(scan_limit: Option<u32>, max: u32) -> Result<Option<u32>, Problem> {
    match scan_limit {
        Some(scan) if scan > max => Err(Problem::invalid_field(
            "scan_limit",
            format!(
                "must be between 1 and {} for this operator (got {})",
                CappedCount::from(u64::from(max)),
                CappedCount::from(u64::from(scan))
            ),
        )),
        _ => Ok(scan_limit),
    }
}

/// Adds UTC to a time without a zone, as the input `datetime-local` sends it: `2026-03-01T10:00`.
pub(crate) fn with_zone(time: &str) -> String {
    let is_time = |text: &String| text.parse::<DateTime<Utc>>().is_ok();
    let candidates = [time.to_owned(), format!("{time}Z"), format!("{time}:00Z")];
    candidates.into_iter().find(is_time).unwrap_or_else(|| time.to_owned())
}

/// Cuts a name or a value for an error message, because the sender chooses its length.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The query string.
pub(crate) struct Query(pub(crate) Fields);

impl FromRequestParts<State> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Problem> {
        Fields::new(parts.uri.query().unwrap_or_default().as_bytes()).map(Self)
    }
}

pub(crate) struct Form(pub(crate) Fields);

impl FromRequest<State> for Form {
    type Rejection = Problem;

    async fn from_request(request: Request, admin: &State) -> Result<Self, Problem> {
        expect_type(
            request.headers(),
            "application/x-www-form-urlencoded",
            "the Content-Type must be application/x-www-form-urlencoded",
        )?;
        Fields::new(&body(request, admin).await?).map(Self)
    }
}

/// A body that is a JSON object.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<State> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, admin: &State) -> Result<Self, Problem> {
        expect_type(request.headers(), "application/json", "the Content-Type must be application/json")?;
        let body = body(request, admin).await?;
        // Serde accepts an array for a struct.
        if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(Problem::invalid("the body must be a JSON object"));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(&body);
        let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let error = error.into_inner();
            let message = error.to_string();
            // serde_json reports a number in place of a word as a syntax error, but with its path.
            if error.is_eof() || path == "?" {
                return Problem::invalid(message);
            }
            // Serde names a missing or unknown field only in the message.
            match message.split('`').nth(1).filter(|_| path == "." || message.starts_with("unknown field")) {
                Some(name) => named(name, &message),
                None if path == "." => Problem::invalid(message),
                None => named(&path, &message),
            }
        })?;
        deserializer.end().map_err(|error| Problem::invalid(error.to_string()))?;
        Ok(Self(value))
    }
}

fn named(field: &str, message: &str) -> Problem {
    Problem::invalid_field(
        shown(field),
        format!("is invalid: {}", message.chars().take(300).collect::<String>()),
    )
}

/// Requires the content type, because a page of another site can send `text/plain` without a preflight request.
fn expect_type(headers: &HeaderMap, essence: &str, problem: &'static str) -> Result<(), Problem> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let found = content_type.split(';').next().unwrap_or_default().trim();
    if found.eq_ignore_ascii_case(essence) { Ok(()) } else { Err(Problem::unsupported_media_type(problem)) }
}

async fn body(request: Request, admin: &State) -> Result<Bytes, Problem> {
    Bytes::from_request(request, admin).await.map_err(|rejection| bad_body(&rejection))
}

pub(crate) fn bad_body(rejection: &BytesRejection) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large("the body must have at most 256 KiB"),
        _ => Problem::invalid("the body could not be read"),
    }
}
