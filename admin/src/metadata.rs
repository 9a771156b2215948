//! The metadata of a letter, as far as the operator may see it.

use axum::http::Uri;
use dead_letters::{DeadLetterFilter, DeadLetterId, TraceParent};
use serde_json::{Map, Value};

use crate::{
    access::{AppAccess, Right},
    payload::redact,
    problem::Problem,
};

const TRACE_ID: &str = "{trace_id}";
const SPAN_ID: &str = "{span_id}";

/// The metadata of a letter.
pub(crate) struct Metadata {
    /// The fields, redacted. `None` if the service redacts the metadata as a whole.
    pub(crate) fields: Option<Map<String, Value>>,
    pub(crate) is_redacted: bool,
}

impl Metadata {
    /// Returns the letter's metadata. If `reveals` is set, nothing is redacted.
    pub(crate) async fn load(access: &AppAccess, id: DeadLetterId, reveals: bool) -> Result<Self, Problem> {
        let stored = access.store().metadata(access.app_id, id).await?;
        let stored = stored.ok_or_else(Problem::no_such_letter)?;
        let redaction = &access.admin().metadata_redaction;
        if reveals || redaction.is_empty() || stored.is_empty() {
            return Ok(Self { fields: Some(stored), is_redacted: false });
        }
        let text = Value::Object(stored).to_string();
        let redacted = redact(&text, redaction).map_err(|_| Problem::internal())?;
        // Metadata that is redacted as a whole is not an object any more.
        Ok(Self { is_redacted: redacted != text, fields: serde_json::from_str(&redacted).ok() })
    }

    /// Returns the trace in which the event failed, if the operator may see it.
    pub(crate) fn trace_parent(&self) -> Option<TraceParent> {
        self.fields.as_ref().and_then(TraceParent::of)
    }
}

/// Returns an error if the filter compares a value that is redacted for this operator. The result of the comparison
/// would reveal the value.
pub(crate) fn check_filter(access: &AppAccess, filter: &DeadLetterFilter) -> Result<(), Problem> {
    let redaction = &access.admin().metadata_redaction;
    let may_see = access.may(Right::Payloads);
    let hides = |key: &&String| redaction.hides_field(key);
    match filter.metadata.keys().filter(|_| !may_see).find(hides) {
        Some(key) => Err(Problem::redacted_filter(&format!("metadata.{key}"))),
        None => Ok(()),
    }
}

/// Returns the text of a filter of the history without the values that are redacted for this operator.
pub(crate) fn shown_filter(access: &AppAccess, filter: &str) -> String {
    let redaction = &access.admin().metadata_redaction;
    if redaction.is_empty() || access.may(Right::Payloads) {
        return filter.to_owned();
    }
    let shown = |field: &str| {
        let name = field.split('=').next().unwrap_or_default();
        let decoded = form_urlencoded::parse(name.as_bytes()).next();
        let hides = decoded.is_some_and(|(name, _)| {
            name.strip_prefix("metadata.").is_some_and(|key| redaction.hides_field(key))
        });
        if hides { format!("{name}=[redacted]") } else { field.to_owned() }
    };
    filter.split('&').map(shown).collect::<Vec<_>>().join("&")
}

/// The address of a trace in the service's tracing system, with `{trace_id}` and perhaps `{span_id}`.
pub(crate) struct TraceUrl(String);

impl TraceUrl {
    /// Returns `None` if the text is not an http or https URL with `{trace_id}`.
    pub(crate) fn new(template: &str) -> Option<Self> {
        let is_web = ["http://", "https://"].iter().any(|scheme| template.starts_with(scheme));
        let url = Self(template.to_owned());
        let example = url.fill(&"0".repeat(32), &"0".repeat(16)).parse::<Uri>();
        let has_host = example.is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()));
        (is_web && has_host && template.contains(TRACE_ID)).then_some(url)
    }

    pub(crate) fn of(&self, parent: TraceParent) -> String {
        self.fill(&parent.trace_id(), &parent.span_id())
    }

    fn fill(&self, trace_id: &str, span_id: &str) -> String {
        self.0.replace(TRACE_ID, trace_id).replace(SPAN_ID, span_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_url_has_the_ids_in_place_of_their_names() {
        let parent = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        for (template, url) in [
            (
                "https://jaeger.example/trace/{trace_id}",
                "https://jaeger.example/trace/4bf92f3577b34da6a3ce929d0e0e4736",
            ),
            (
                "http://[::1]:16686/#/{trace_id}?span={span_id}&again={trace_id}",
                "http://[::1]:16686/#/4bf92f3577b34da6a3ce929d0e0e4736?span=00f067aa0ba902b7\
                 &again=4bf92f3577b34da6a3ce929d0e0e4736",
            ),
        ] {
            assert_eq!(TraceUrl::new(template).unwrap().of(parent), url);
        }
    }

    #[test]
    fn a_template_that_is_no_web_address_of_a_trace_is_refused() {
        for template in [
            "",
            "{trace_id}",
            "https://jaeger.example/trace/",
            "https://jaeger.example/trace/{span_id}",
            "javascript:alert(1)//{trace_id}",
            "javascript://jaeger.example/{trace_id}",
            "/trace/{trace_id}",
            "//jaeger.example/{trace_id}",
            "https:///{trace_id}",
            "https://jaeger.example/a b/{trace_id}",
        ] {
            assert!(TraceUrl::new(template).is_none(), "{template}");
        }
    }
}
