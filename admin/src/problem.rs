//! Error responses: problem details (RFC 9457) for the API, from which the pages make an HTML page.

use std::borrow::Cow;

use axum::{
    Json,
    http::{
        HeaderValue, Method, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use dead_letters::{CappedCount, DeadLetterRepoError, ErrorKind, Resolution};
use serde::Serialize;
use tracing::error;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

/// Value of `Retry-After`, in seconds. A database that restarts is usually back after this time.
const RETRY_AFTER_SECONDS: u16 = 5;
const TOO_LONG: &str =
    "the view took longer than 15 seconds: narrow the filter or the scan limit, or try again";

/// A problem (RFC 9457). The log has the cause of a 5xx.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    #[schema(inline)]
    kind: ProblemType,
    title: &'static str,
    status: u16,
    /// The cause of the problem, in one sentence.
    detail: Cow<'static, str>,
    /// The invalid field.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// The resolution that the letter had already.
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved_before: Option<ResolvedBefore>,
    /// Where a page about the problem leads first.
    #[serde(skip)]
    way: Option<Box<(String, &'static str)>>,
}

/// An earlier resolution of the letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ResolvedBefore {
    /// The resolution. Null if this version does not know it.
    #[schema(value_type = Option<String>)]
    pub(crate) resolution: Option<Resolution>,
    /// When the letter was resolved.
    pub(crate) resolved_at: DateTime<Utc>,
    /// The operator who resolved the letter, if known.
    pub(crate) resolved_by: Option<String>,
}

/// Declares the types of problems: the status, the URN and the title of each.
macro_rules! problem_types {
    ($($kind:ident $status:ident $urn:literal $title:literal;)+) => {
        /// The types of problems. The README describes each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        pub(crate) enum ProblemType {
            $(#[serde(rename = $urn)] $kind,)+
        }

        impl ToSchema for ProblemType {}

        // The derive does not read a literal of a macro.
        impl PartialSchema for ProblemType {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .description(Some("The types of problems. The README describes each."))
                    .enum_values(Some([$($urn),+]))
                    .into()
            }
        }

        impl ProblemType {
            fn urn(self) -> &'static str {
                match self {
                    $(Self::$kind => $urn,)+
                }
            }

            fn status_and_title(self) -> (StatusCode, &'static str) {
                match self {
                    $(Self::$kind => (StatusCode::$status, $title),)+
                }
            }
        }
    };
}

problem_types! {
    Invalid BAD_REQUEST "urn:dead-letters:problem:invalid" "The request is invalid";
    Unauthenticated UNAUTHORIZED "urn:dead-letters:problem:unauthenticated" "Nobody is logged in";
    Forbidden FORBIDDEN "urn:dead-letters:problem:forbidden" "The operator may not do this";
    CrossSite FORBIDDEN "urn:dead-letters:problem:cross-site" "The request comes from another site";
    NoReplay FORBIDDEN "urn:dead-letters:problem:no-replay" "This service can't replay";
    Withheld FORBIDDEN "urn:dead-letters:problem:withheld" "The payload is withheld";
    NotFound NOT_FOUND "urn:dead-letters:problem:not-found" "Not found";
    MethodNotAllowed METHOD_NOT_ALLOWED "urn:dead-letters:problem:method-not-allowed" "The method is not allowed here";
    AlreadyResolved CONFLICT "urn:dead-letters:problem:already-resolved" "The letter is already closed";
    NotResolved CONFLICT "urn:dead-letters:problem:not-resolved" "The letter is unresolved";
    Replayed CONFLICT "urn:dead-letters:problem:replayed" "The letter was replayed";
    NotWhole CONFLICT "urn:dead-letters:problem:not-whole" "The payload is incomplete";
    Changed CONFLICT "urn:dead-letters:problem:changed" "The letter has changed";
    StepDone CONFLICT "urn:dead-letters:problem:step-done" "This step was done already";
    Erased CONFLICT "urn:dead-letters:problem:erased" "The letter's content was erased";
    PreviewExpired GONE "urn:dead-letters:problem:preview-expired" "The preview has expired";
    TooLarge PAYLOAD_TOO_LARGE "urn:dead-letters:problem:too-large" "The request is too large";
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "urn:dead-letters:problem:unsupported-media-type" "The body's content type is not supported";
    TooSlow REQUEST_TIMEOUT "urn:dead-letters:problem:too-slow" "The request was too slow";
    Locked CONFLICT "urn:dead-letters:problem:locked" "The letter is locked";
    Misdirected MISDIRECTED_REQUEST "urn:dead-letters:problem:misdirected" "The host name is unknown";
    Busy SERVICE_UNAVAILABLE "urn:dead-letters:problem:busy" "Too many requests at once";
    Unavailable SERVICE_UNAVAILABLE "urn:dead-letters:problem:unavailable" "The database is unavailable";
    Internal INTERNAL_SERVER_ERROR "urn:dead-letters:problem:internal" "Something went wrong";
}

impl ProblemType {
    /// Returns the last part of the type's URN.
    pub(crate) fn name(self) -> &'static str {
        self.urn().rsplit(':').next().unwrap_or_default()
    }

    fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable | Self::Busy)
    }
}

impl Problem {
    fn new(kind: ProblemType, detail: impl Into<Cow<'static, str>>) -> Self {
        let (status, title) = kind.status_and_title();
        Self {
            kind,
            title,
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
            resolved_before: None,
            way: None,
        }
    }

    pub(crate) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ProblemType::Invalid, detail)
    }

    pub(crate) fn invalid_field(field: impl Into<String>, problem: impl AsRef<str>) -> Self {
        let field = field.into();
        Self::invalid(format!("{field:?} {}", problem.as_ref())).of_field(field)
    }

    fn of_field(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    pub(crate) fn unauthenticated() -> Self {
        Self::new(ProblemType::Unauthenticated, "the admin requires an operator who is logged in")
    }

    pub(crate) fn forbidden(detail: &'static str) -> Self {
        Self::new(ProblemType::Forbidden, detail)
    }

    /// The filter compares a value that the operator may not see.
    pub(crate) fn redacted_filter(field: &str) -> Self {
        let field: String = field.chars().take(40).collect();
        Self::forbidden("this operator may not filter by a redacted field").of_field(field)
    }

    pub(crate) fn cross_site() -> Self {
        Self::new(
            ProblemType::CrossSite,
            "the request comes from a page of another site, or a proxy changed Host: set trusted_origin to the origin \
             that browsers see",
        )
    }

    pub(crate) fn no_replay() -> Self {
        Self::new(ProblemType::NoReplay, "the service did not enable replay (Admin::replay)")
    }

    pub(crate) fn withheld(detail: &'static str) -> Self {
        Self::new(ProblemType::Withheld, detail)
    }

    pub(crate) fn no_such_app() -> Self {
        Self::new(ProblemType::NotFound, "the app does not exist")
    }

    pub(crate) fn no_such_letter() -> Self {
        Self::new(ProblemType::NotFound, "the app has no such letter")
    }

    pub(crate) fn no_such_run() -> Self {
        Self::new(ProblemType::NotFound, "the history has no such run in these apps")
    }

    pub(crate) fn erased() -> Self {
        Self::new(ProblemType::Erased, "the letter's content was erased, so there is no event to replay")
    }

    pub(crate) fn no_edited_payload() -> Self {
        Self::new(ProblemType::NotFound, "the letter's last replay put back its own payload")
    }

    /// The letter changed while somebody edited its payload.
    pub(crate) fn changed_meanwhile() -> Self {
        Self::new(
            ProblemType::Changed,
            "the letter changed after the editor was opened, and nothing was replayed: go back to keep your text, and \
             open the editor again",
        )
    }

    /// The letter changed after the reopening that is to be undone.
    pub(crate) fn changed_since_reopened() -> Self {
        let detail = "the letter changed after it was reopened, and nothing was undone";
        Self::new(ProblemType::Changed, detail)
    }

    pub(crate) fn preview_expired(detail: &'static str) -> Self {
        Self::new(ProblemType::PreviewExpired, detail)
    }

    /// The token of the step was used already.
    pub(crate) fn step_done() -> Self {
        Self::new(ProblemType::StepDone, "this step was done already: reload the result")
    }

    pub(crate) fn step_under_way() -> Self {
        Self::new(
            ProblemType::StepDone,
            "a step of this run is under way, and nothing was changed: reload the result",
        )
    }

    pub(crate) fn too_large(detail: &'static str) -> Self {
        Self::new(ProblemType::TooLarge, detail)
    }

    pub(crate) fn unsupported_media_type(detail: &'static str) -> Self {
        Self::new(ProblemType::UnsupportedMediaType, detail)
    }

    pub(crate) fn unavailable() -> Self {
        Self::new(ProblemType::Unavailable, "the database is busy or unreachable: try again")
    }

    pub(crate) fn too_long() -> Self {
        Self::new(ProblemType::Unavailable, TOO_LONG)
    }

    /// Returns whether the same request may soon succeed. A view that took too long would take as long again.
    pub(crate) fn is_transient(&self) -> bool {
        self.kind.is_transient() && self.detail != TOO_LONG
    }

    pub(crate) fn busy() -> Self {
        Self::new(ProblemType::Busy, "too many requests use the database at the same time: try again")
    }

    pub(crate) fn too_slow() -> Self {
        Self::new(ProblemType::TooSlow, "the body did not arrive within 10 seconds")
    }

    pub(crate) fn locked() -> Self {
        Self::new(
            ProblemType::Locked,
            "another transaction has locked the letter, or a policy or trigger of the database prevents the change: try again",
        )
    }

    pub(crate) fn misdirected() -> Self {
        Self::new(ProblemType::Misdirected, "the Host header is not a name of this admin")
    }

    pub(crate) fn already_resolved(resolved_before: ResolvedBefore) -> Self {
        let detail = "the letter was closed before this request: see resolved_before";
        Self { resolved_before: Some(resolved_before), ..Self::new(ProblemType::AlreadyResolved, detail) }
    }

    pub(crate) fn changed(resolved_before: ResolvedBefore) -> Self {
        let detail = "others resolve and reopen the letter at the same time: see resolved_before";
        Self { resolved_before: Some(resolved_before), ..Self::new(ProblemType::AlreadyResolved, detail) }
    }

    pub(crate) fn internal() -> Self {
        Self::new(ProblemType::Internal, "the service's log has the cause")
    }

    /// Adds the link that the page about the problem shows first.
    pub(crate) fn leads_to(self, address: String, name: &'static str) -> Self {
        Self { way: Some(Box::new((address, name))), ..self }
    }

    pub(crate) fn way(&self) -> Option<&(String, &'static str)> {
        self.way.as_deref()
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.kind.status_and_title().0
    }

    pub(crate) fn kind(&self) -> ProblemType {
        self.kind
    }

    pub(crate) fn title(&self) -> &'static str {
        self.title
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the name of the field whose value is invalid.
    pub(crate) fn invalid_value(&self) -> Option<&str> {
        self.field.as_deref().filter(|_| self.kind == ProblemType::Invalid)
    }

    pub(crate) fn resolved_before(&self) -> Option<&ResolvedBefore> {
        self.resolved_before.as_ref()
    }
}

impl From<DeadLetterRepoError> for Problem {
    fn from(error: DeadLetterRepoError) -> Self {
        use DeadLetterRepoError::{
            AlreadyResolved, BatchDone, Erased, FilterMetadataLength, FromAfterUntil, InvalidCursor,
            InvalidPayload, InvalidQuery, NotResolved, OutOfRange, PayloadNotWhole, PayloadTooLarge,
            Replayed, SearchLength, SinceInFuture,
        };
        match &error {
            AlreadyResolved { resolution, resolved_at, by, .. } => {
                return Self::already_resolved(ResolvedBefore {
                    resolution: *resolution,
                    resolved_at: *resolved_at,
                    resolved_by: by.clone(),
                });
            }
            NotResolved(_) => return Self::new(ProblemType::NotResolved, "the letter is unresolved already"),
            Replayed(_) => {
                let detail = "the letter was replayed, so its event was put back into the outbox: to reopen it all the \
                              same, send include_replayed";
                return Self::new(ProblemType::Replayed, detail);
            }
            PayloadNotWhole { .. } => {
                let detail = "the payload is truncated, and the service replays only whole payloads: resolve the \
                              letter, or edit the payload";
                return Self::new(ProblemType::NotWhole, detail);
            }
            Erased(_) => return Self::erased(),
            BatchDone => return Self::step_done(),
            InvalidPayload { requirement } => {
                return Self::invalid_field("payload", format!("must be {requirement}"));
            }
            PayloadTooLarge { bytes, max, .. } => {
                return Self::invalid_field(
                    "payload",
                    format!(
                        "must have at most {} bytes (got {})",
                        CappedCount::from(*max as u64),
                        CappedCount::from(*bytes as u64)
                    ),
                );
            }
            InvalidCursor => return Self::invalid(error.to_string()).of_field("after"),
            FilterMetadataLength { .. } => return Self::invalid(error.to_string()).of_field("metadata"),
            SearchLength { .. } => return Self::invalid(error.to_string()).of_field("payload_contains"),
            SinceInFuture(_) => return Self::invalid(error.to_string()).of_field("since"),
            FromAfterUntil { .. } => return Self::invalid(error.to_string()).of_field("from"),
            InvalidQuery { field, problem } => return Self::invalid_field(field, problem),
            OutOfRange { argument, .. } => {
                let field = match *argument {
                    "buckets.count" => "buckets",
                    argument => argument.rsplit('.').next().unwrap_or(argument),
                };
                return Self::invalid(error.to_string()).of_field(field);
            }
            _ => {}
        }
        match error.kind() {
            ErrorKind::NotFound => Self::no_such_letter(),
            ErrorKind::Invalid => Self::invalid(error.to_string()),
            ErrorKind::Transient => {
                error!(%error, "the store can't be reached");
                Self::unavailable()
            }
            ErrorKind::Conflict | ErrorKind::Internal => {
                error!(error = chain(&error), "a call of the store failed");
                Self::internal()
            }
        }
    }
}

/// Returns the error and its sources as one text. The source of a `Requeue` error is the service's own error.
fn chain(error: &DeadLetterRepoError) -> String {
    let sources = std::iter::successors(std::error::Error::source(error), |error| error.source());
    std::iter::once(error.to_string())
        .chain(sources.map(|source| source.to_string()))
        .collect::<Vec<_>>()
        .join(": ")
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self.kind {
            ProblemType::Unauthenticated => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            ProblemType::Unavailable | ProblemType::Busy => {
                headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS.into());
            }
            _ => {}
        }
        // The layer that turns a problem into a page reads it from here.
        response.extensions_mut().insert(self);
        response
    }
}

pub(crate) async fn not_found() -> Problem {
    Problem::new(ProblemType::NotFound, "this address does not exist")
}

pub(crate) async fn method_not_allowed(method: Method) -> Problem {
    Problem::new(ProblemType::MethodNotAllowed, format!("{method} is not allowed at this address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_a_view_that_took_too_long_does_not_ask_for_it_again() {
        assert!(!Problem::too_long().is_transient());
        assert!(Problem::busy().is_transient() && Problem::unavailable().is_transient());
    }
}
