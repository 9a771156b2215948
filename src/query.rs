//! The query string of a listing's filter and page.

use std::{borrow::Cow, collections::HashSet, fmt, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};
use form_urlencoded::{Serializer as FormSerializer, parse as parse_form};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor},
};

use crate::{DeadLetterFilter, DeadLetterId, DeadLetterRepoError, ListSort, PageRequest};

/// The value that stands for the empty text and the empty list. HTML forms send an empty value for a field that was
/// left empty, so an empty value means "not set".
const EMPTY: &str = r#""""#;
/// How many characters of a field's name an error shows, because the sender chose the name.
const SHOWN_CHARACTERS: usize = 40;

/// The beginning of the name of a field that is a condition on a key of the metadata.
const METADATA: &str = "metadata.";

const A_UUID: &str = "must be a uuid";
const A_UUID_OR_NONE: &str = "must be a uuid, or none";
const A_TIME: &str = "must be a time in RFC 3339, such as 2026-03-01T10:00:00Z";
const A_NUMBER: &str = "must be a whole number from 0 to 4,294,967,295";

/// A listing's filter and page as a URL's query string, which a link holds and its page reads.
///
/// As text it is `state=open&source=orders&created_before=2026-03-01T10%3A00%3A00Z&size=20`. The fields have the
/// names, the texts and the order of those in [`DeadLetterFilter`] and [`PageRequest`]. Times are RFC 3339, and
/// commas separate several `ids`. A field that is unset, or has its default, is left out. Every filter and page
/// survives the round trip unchanged. The filter's metadata is a field for each key: `metadata.tenant=acme`.
///
/// When the text is parsed:
///
/// - an empty value means "not set", as HTML forms send it. `""`, with its quotes, is the empty text, or no ids;
/// - `trigger_id=none` and `script_id=none` match the letters without a trigger and without a script;
/// - a field that is unknown, or that is given twice, is an error: if it were ignored, more letters than the sender
///   meant would match. Only `ids` may be repeated, as ticked boxes send them.
///
/// `Display` and `FromStr` use the text without a question mark. For serde it is a map of texts, as axum's `Query`
/// and `Form` take it. Flattened into a struct with other fields, it takes all fields that are not the struct's, so
/// that an unknown one is an error there too.
///
/// # Examples
///
/// ```
/// use dead_letters::{DeadLetterState, ListQuery};
///
/// let query: ListQuery = "state=closed&source=orders&size=20".parse()?;
/// assert_eq!(query.filter.state, Some(DeadLetterState::Closed));
/// assert_eq!(query.page.size, 20);
/// assert_eq!(query.to_string(), "state=closed&source=orders&size=20");
/// # Ok::<(), dead_letters::DeadLetterRepoError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListQuery {
    /// Which letters to list.
    pub filter: DeadLetterFilter,
    /// Which page of them to return.
    pub page: PageRequest,
}

impl From<DeadLetterFilter> for ListQuery {
    fn from(filter: DeadLetterFilter) -> Self {
        Self { filter, page: PageRequest::default() }
    }
}

impl ListQuery {
    /// Returns a query for a page of the letters that match.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterFilter, ListQuery, PageRequest};
    ///
    /// let query = ListQuery::new(DeadLetterFilter::default().source("orders & more"), PageRequest::default());
    /// assert_eq!(format!("/letters?{query}"), "/letters?source=orders+%26+more");
    /// ```
    pub fn new(filter: DeadLetterFilter, page: PageRequest) -> Self {
        Self { filter, page }
    }

    /// Returns the names and texts of the fields that are set, not encoded, for a form's hidden inputs or the options
    /// of a command.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterFilter, ListQuery};
    ///
    /// let query = ListQuery::from(DeadLetterFilter::default().source("orders").truncated(true));
    /// let options: Vec<_> = query.pairs().map(|(name, text)| format!("--{name} {text}")).collect();
    /// assert_eq!(options, ["--source orders", "--truncated true"]);
    /// ```
    pub fn pairs(&self) -> impl Iterator<Item = (Cow<'static, str>, String)> {
        // The pattern names every field, so that a new field can't be forgotten.
        let DeadLetterFilter {
            state,
            ids,
            resolution,
            source,
            source_contains,
            op,
            op_contains,
            trigger_id,
            script_id,
            original_event_id,
            error_contains,
            error_signature,
            group_key,
            truncated,
            erased,
            failed_again_in_run,
            run_id,
            resolved_by,
            resolved_from,
            resolved_before,
            created_from,
            created_before,
            metadata,
        } = &self.filter;
        let PageRequest { sort, size, after, scan_limit } = &self.page;
        let of_filter = [
            ("state", to_text(state)),
            ("ids", ids.as_deref().map(join)),
            ("resolution", to_text(resolution)),
            ("source", source.as_deref().map(quote_empty)),
            ("source_contains", source_contains.as_deref().map(quote_empty)),
            ("op", op.as_deref().map(quote_empty)),
            ("op_contains", op_contains.as_deref().map(quote_empty)),
            ("trigger_id", to_text(trigger_id)),
            ("script_id", to_text(script_id)),
            ("original_event_id", to_text(original_event_id)),
            ("error_contains", error_contains.as_deref().map(quote_empty)),
            ("error_signature", error_signature.as_deref().map(quote_empty)),
            ("group_key", group_key.as_deref().map(quote_empty)),
            ("truncated", to_text(truncated)),
            ("erased", to_text(erased)),
            ("failed_again_in_run", to_text(failed_again_in_run)),
            ("run_id", to_text(run_id)),
            ("resolved_by", resolved_by.as_deref().map(quote_empty)),
            ("resolved_from", resolved_from.map(to_rfc3339)),
            ("resolved_before", resolved_before.map(to_rfc3339)),
            ("created_from", created_from.map(to_rfc3339)),
            ("created_before", created_before.map(to_rfc3339)),
        ];
        let of_page = [
            ("sort", to_text(&Some(*sort).filter(|&sort| sort != ListSort::default()))),
            ("size", to_text(&Some(*size).filter(|&size| size != PageRequest::default().size))),
            ("after", to_text(after)),
            ("scan_limit", to_text(scan_limit)),
        ];
        let set = |(name, text): (&'static str, Option<String>)| Some((name.into(), text?));
        let of_metadata =
            metadata.iter().map(|(key, value)| (format!("{METADATA}{key}").into(), quote_empty(value)));
        of_filter.into_iter().filter_map(set).chain(of_metadata).chain(of_page.into_iter().filter_map(set))
    }

    /// Makes a query of names and texts that are not encoded, as [`pairs`](Self::pairs) returns them.
    ///
    /// # Errors
    ///
    /// [`InvalidQuery`](DeadLetterRepoError::InvalidQuery) for a name that is no field or is given twice, and for a
    /// text that is no value of its field.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepoError, ListQuery};
    ///
    /// let query = ListQuery::from_pairs([("source", "orders"), ("size", "")])?;
    /// assert_eq!(query.filter.source.as_deref(), Some("orders"));
    /// let misspelled = ListQuery::from_pairs([("sourse", "orders")]);
    /// assert!(matches!(misspelled, Err(DeadLetterRepoError::InvalidQuery { .. })));
    /// # Ok::<(), DeadLetterRepoError>(())
    /// ```
    pub fn from_pairs(
        pairs: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>,
    ) -> Result<Self, DeadLetterRepoError> {
        let mut query = Self::default();
        let mut seen = HashSet::new();
        for (name, text) in pairs {
            let (name, text) = (name.as_ref(), text.as_ref());
            let invalid = |problem| DeadLetterRepoError::InvalidQuery {
                field: name.chars().take(SHOWN_CHARACTERS).collect(),
                problem,
            };
            if seen.contains(name) {
                return Err(invalid("is given twice"));
            }
            query.set(name, text).map_err(invalid)?;
            if name != "ids" {
                seen.insert(name.to_owned());
            }
        }
        Ok(query)
    }

    /// Sets a field from its text, or returns what is wrong with it.
    fn set(&mut self, name: &str, text: &str) -> Result<(), &'static str> {
        let Self { filter, page } = self;
        match name {
            "state" => {
                let problem = "must be open, unresolved, closed or any";
                filter.state = parse(text, problem)?;
            }
            "ids" => {
                if let Some(ids) = split(text)? {
                    filter.ids.get_or_insert_default().extend(ids);
                }
            }
            "resolution" => {
                let problem = "must be replayed, ignored, handled_by_script or handler_failed";
                filter.resolution = parse(text, problem)?;
            }
            "source" => filter.source = unquote_empty(text),
            "source_contains" => filter.source_contains = unquote_empty(text),
            "op" => filter.op = unquote_empty(text),
            "op_contains" => filter.op_contains = unquote_empty(text),
            "trigger_id" => filter.trigger_id = parse(text, A_UUID_OR_NONE)?,
            "script_id" => filter.script_id = parse(text, A_UUID_OR_NONE)?,
            "original_event_id" => filter.original_event_id = parse(text, A_UUID)?,
            "error_contains" => filter.error_contains = unquote_empty(text),
            "error_signature" => filter.error_signature = unquote_empty(text),
            "group_key" => filter.group_key = unquote_empty(text),
            "truncated" => filter.truncated = parse(text, "must be true or false")?,
            "erased" => filter.erased = parse(text, "must be true or false")?,
            "failed_again_in_run" => filter.failed_again_in_run = parse(text, A_UUID)?,
            "run_id" => filter.run_id = parse(text, A_UUID)?,
            "resolved_by" => filter.resolved_by = unquote_empty(text),
            "resolved_from" => filter.resolved_from = parse(text, A_TIME)?,
            "resolved_before" => filter.resolved_before = parse(text, A_TIME)?,
            "created_from" => filter.created_from = parse(text, A_TIME)?,
            "created_before" => filter.created_before = parse(text, A_TIME)?,
            "sort" => page.sort = parse(text, ListSort::PROBLEM)?.unwrap_or_default(),
            "size" => page.size = parse(text, A_NUMBER)?.unwrap_or(PageRequest::default().size),
            "after" => page.after = parse(text, "must be the cursor that a page gave as its next")?,
            "scan_limit" => page.scan_limit = parse(text, A_NUMBER)?,
            _ => {
                let key = name.strip_prefix(METADATA).ok_or("is not a field of a filter or page")?;
                if let Some(value) = unquote_empty(text) {
                    filter.metadata.insert(key.to_owned(), value);
                }
            }
        }
        Ok(())
    }
}

fn to_text<T: ToString>(value: &Option<T>) -> Option<String> {
    value.as_ref().map(T::to_string)
}

fn parse<T: FromStr>(text: &str, problem: &'static str) -> Result<Option<T>, &'static str> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| problem)
}

fn to_rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

fn join(ids: &[DeadLetterId]) -> String {
    if ids.is_empty() {
        return EMPTY.to_owned();
    }
    ids.iter().map(DeadLetterId::to_string).collect::<Vec<_>>().join(",")
}

fn split(text: &str) -> Result<Option<Vec<DeadLetterId>>, &'static str> {
    match text {
        "" => Ok(None),
        EMPTY => Ok(Some(Vec::new())),
        _ => text
            .split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Some)
            .map_err(|_| "must be uuids, with commas between them"),
    }
}

/// Adds a pair of quotes to a text of nothing but quotes, so that a single pair means the empty text.
fn quote_empty(text: &str) -> String {
    if is_quotes(text) { format!("{EMPTY}{text}") } else { text.to_owned() }
}

fn unquote_empty(text: &str) -> Option<String> {
    let unquoted = text.strip_prefix(EMPTY).filter(|rest| is_quotes(rest)).unwrap_or(text);
    (!text.is_empty()).then(|| unquoted.to_owned())
}

fn is_quotes(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'"')
}

impl fmt::Display for ListQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&FormSerializer::new(String::new()).extend_pairs(self.pairs()).finish())
    }
}

impl FromStr for ListQuery {
    type Err = DeadLetterRepoError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_pairs(parse_form(text.as_bytes()))
    }
}

impl Serialize for ListQuery {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.pairs())
    }
}

impl<'de> Deserialize<'de> for ListQuery {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = ListQuery;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::<(String, String)>::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        ListQuery::from_pairs(pairs).map_err(de::Error::custom)
    }
}
