//! What a request brings, read once and strictly: a field that does not exist, or stands twice, is an error
//! that names it. Passed over, it would mean more rows than were asked for.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE, request::Parts},
};
use dead_letters::{AppId, DeadLetterId, ListQuery};
use form_urlencoded::parse;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{State, access::Operator, problem::Problem, urls::fits};

/// Longer texts to search for are refused: they would be matched against every row of a scan.
const MAX_CHARACTERS: usize = 2_000;
/// Tokens, letters that were ticked, and a list with its filter encoded: a body's own limit holds for them.
const LONG_FIELDS: [&str; 6] = ["back", "banner", "filter", "ids", "run", "token"];

/// The app of the address.
pub(crate) struct AppPath(pub(crate) AppId);

/// The app and the letter of the address.
pub(crate) struct LetterPath(pub(crate) AppId, pub(crate) DeadLetterId);

/// By names that no prefix of a host has for parameters of its own.
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

impl FromRequestParts<State> for LetterPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, admin: &State) -> Result<Self, Problem> {
        let names = path_names(parts, admin).await?;
        let app_id = names.dead_letters_app.parse().map_err(|_| Problem::no_such_app())?;
        let id = names.dead_letters_id.parse().map_err(|_| Problem::no_such_letter())?;
        Ok(Self(app_id, id))
    }
}

/// The fields of a query string or of a form. Each is taken by its name, and what is left is the listing's, or
/// is none.
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    fn new(text: &[u8]) -> Result<Self, Problem> {
        let fields: Vec<_> = parse(text).into_owned().collect();
        let long = |(name, value): &&(String, String)| {
            !LONG_FIELDS.contains(&name.as_str()) && value.chars().count() > MAX_CHARACTERS
        };
        match fields.iter().find(long) {
            Some((name, _)) => Err(Problem::invalid_field(shown(name), "is longer than 2,000 characters")),
            None => Ok(Self(fields)),
        }
    }

    /// The field's value; `None` where it is missing or empty, as HTML forms send what was left empty.
    pub(crate) fn take(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut taken = self.0.extract_if(.., |field| field.0 == name).map(|(_, value)| value);
        let value = taken.next();
        if taken.next().is_some() {
            return Err(Problem::invalid_field(name, "is given twice"));
        }
        Ok(value.filter(|value| !value.is_empty()))
    }

    /// The field's value as what it stands for.
    pub(crate) fn parse<T: std::str::FromStr>(
        &mut self,
        name: &str,
        problem: &str,
    ) -> Result<Option<T>, Problem> {
        let parsed = self.take(name)?.map(|value| value.parse());
        parsed.transpose().map_err(|_| Problem::invalid_field(name, problem))
    }

    /// A box that is ticked or not.
    pub(crate) fn is_true(&mut self, name: &str) -> Result<bool, Problem> {
        Ok(self.parse(name, "must be true or false")?.unwrap_or(false))
    }

    /// What is left, as filter and page.
    pub(crate) fn listing(self, operator: &Operator) -> Result<ListQuery, Problem> {
        let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(self.0).finish();
        let query: ListQuery = text.parse()?;
        let max = operator.max_scan();
        match query.page.scan {
            Some(scan) if scan > max => {
                Err(Problem::invalid_field("scan", format!("must be from 1 to {max} for this operator")))
            }
            _ => Ok(query),
        }
    }

    /// The same for a page, which has links to itself: a filter that fits no address is refused.
    pub(crate) fn page_listing(self, operator: &Operator) -> Result<ListQuery, Problem> {
        let query = self.listing(operator)?;
        if !fits(&query) {
            let longest = query.pairs().max_by_key(|(_, text)| text.len()).map_or("", |(name, _)| name);
            return Err(Problem::invalid_field(longest, "is too long for an address: see the API"));
        }
        Ok(query)
    }

    /// There must be none left.
    pub(crate) fn end(self) -> Result<(), Problem> {
        match self.0.first() {
            Some((name, _)) => Err(Problem::invalid_field(shown(name), "is no field")),
            None => Ok(()),
        }
    }
}

/// A name in an error is the sender's.
fn shown(name: &str) -> String {
    name.chars().take(40).collect()
}

/// The query string.
pub(crate) struct Query(pub(crate) Fields);

impl FromRequestParts<State> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Problem> {
        Fields::new(parts.uri.query().unwrap_or_default().as_bytes()).map(Self)
    }
}

/// A form's body.
pub(crate) struct Form(pub(crate) Fields);

impl FromRequest<State> for Form {
    type Rejection = Problem;

    async fn from_request(request: Request, admin: &State) -> Result<Self, Problem> {
        expect_type(request.headers(), "application/x-www-form-urlencoded", "it must be a form, urlencoded")?;
        Fields::new(&body(request, admin).await?).map(Self)
    }
}

/// A JSON object.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<State> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, admin: &State) -> Result<Self, Problem> {
        expect_type(request.headers(), "application/json", "it must be application/json")?;
        let body = body(request, admin).await?;
        // Serde takes an array for a struct.
        if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(Problem::invalid("the body must be a JSON object"));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(&body);
        let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let error = error.into_inner();
            let message = error.to_string();
            // A number for a word is to serde_json an error of the syntax, with its path.
            if error.is_eof() || path == "?" {
                return Problem::invalid(message);
            }
            // Of a field that is missing or unknown serde has the name in the message alone.
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
        format!("is wrong: {}", message.chars().take(300).collect::<String>()),
    )
}

/// A body's type is asked for, since a page of another site can send `text/plain` without asking first.
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
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large("a body may have 256 KiB"),
        _ => Problem::invalid("the body could not be read"),
    }
}
