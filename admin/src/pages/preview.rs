//! The preview of a bulk run. It is the response to a POST, because a thousand ticked letters do not fit into an
//! address.

use askama::Template;
use axum::response::Response;
use chrono::Utc;
use dead_letters::{DeadLetterFilter, DeadLetterState, DeadLetterSummary, ListQuery};

use super::{
    banner::back_text,
    command::Command,
    frame::Frame,
    html,
    letter_actions::{back, list_query},
    letters::Row,
    text::{Amount, Text, Time},
};
use crate::{
    access::Access,
    bulk::{self, Action, Preview},
    input::{AppPath, Form},
    problem::Problem,
    urls::Root,
};

#[derive(Template)]
#[template(path = "preview.html")]
struct PreviewPage {
    frame: Frame,
    verb: &'static str,
    count: Amount,
    /// The filter in words, unless the letters were ticked.
    conditions: Vec<(Text, Text)>,
    /// Letters that failed at this time or later are left alone. `None` if the letters were ticked.
    cutoff: Option<Time>,
    /// Letters ahead of the database's clock.
    ahead: Amount,
    /// Letters that the service does not replay.
    truncated: Amount,
    /// The most letters that a run changes.
    counted: Amount,
    expires: Time,
    sample: Vec<Row>,
    is_sample_all: bool,
    operator: Text,
    run: String,
    token: String,
    back: String,
    cancel: String,
    is_reopen: bool,
    is_delete: bool,
    /// Whether the cutoff is about the time at which letters were closed.
    is_by_closing: bool,
    /// Whether to offer a staged replay.
    is_staged: bool,
    rate: Option<u32>,
    command: Command,
}

/// Returns the label of a button: "Ignore", "Replay".
pub(crate) fn verb(action: Action) -> &'static str {
    match action {
        Action::Replayed => "Replay",
        Action::Ignored => "Ignore",
        Action::HandledByScript => "Resolve as handled by script",
        Action::Reopened => "Reopen",
        Action::Deleted => "Delete",
    }
}

pub(crate) async fn page(
    access: Access,
    AppPath(app_id): AppPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let action =
        fields.parse("action", "must be ignored, handled_by_script, replayed, reopened or deleted")?;
    let action: Action = action.ok_or_else(|| Problem::invalid_field("action", "is missing"))?;
    let back = back(&mut fields)?.unwrap_or_default();
    let filter = match fields.take("filter")? {
        Some(filter) => {
            fields.end()?;
            list_query("filter", &filter)?.filter
        }
        None => fields.listing(&access)?.filter,
    };
    // The list's form always sends `ids`, even if no letter is ticked.
    if filter.ids.as_ref().is_some_and(Vec::is_empty) {
        return Err(Problem::invalid("no letter is ticked: go back and tick at least one"));
    }
    let preview = bulk::preview(&access, action, filter, Utc::now()).await?;
    let Preview { filter, count, capped, .. } = preview;
    let ticked = filter.ids.as_ref().map(Vec::len);
    let conditions = if ticked.is_none() { conditions(&filter, preview.sample.first()) } else { Vec::new() };
    let sample = Row::all(&access, &root, preview.sample).await?;
    html(&PreviewPage {
        frame: Frame::of_app(&root, &access).here(verb(action)),
        verb: verb(action),
        count: Amount { count, capped },
        conditions,
        cutoff: ticked.is_none().then_some(Time(preview.cutoff)),
        ahead: preview.ahead.into(),
        truncated: preview.truncated.into(),
        counted: Amount::exactly(count),
        expires: Time(preview.expires_at),
        is_sample_all: sample.len() as u64 == count && !capped,
        sample,
        operator: Text::cut(access.operator().name(), 100),
        run: root.bulk(app_id, "run"),
        token: preview.token,
        back: back_text(&back),
        cancel: root.letters(app_id, &back),
        is_reopen: action == Action::Reopened,
        is_delete: action == Action::Deleted,
        is_by_closing: filter.effective_state() == DeadLetterState::Closed,
        is_staged: action == Action::Replayed && (count > 1 || capped),
        rate: None,
        command: Command::preview(app_id, action, &filter),
    })
}

/// Describes the letters of a run in words.
pub(crate) fn in_words(filter: &DeadLetterFilter) -> String {
    const MAX_VALUE_CHARACTERS: usize = 40;
    // The words are a part of an address.
    const MAX_CHARACTERS: usize = 240;
    if let Some(ids) = &filter.ids {
        return format!("ticked, the first is {}", ids.first().map_or_else(String::new, ToString::to_string));
    }
    let query = ListQuery::from(filter.clone());
    // The action says which state its letters have.
    let pairs = query.pairs().filter(|(name, value)| name != "state" || value == "unresolved");
    let pairs = pairs.filter(|(name, _)| name != cutoff(filter));
    let texts = pairs.filter_map(|(name, value)| {
        let cut: String = value.chars().take(MAX_VALUE_CHARACTERS).collect();
        let end = if cut.len() < value.len() { "…" } else { "" };
        let word = word(&name)?;
        let word = if word == name { word.to_owned() } else { word.to_lowercase() };
        Some(format!("{word} {cut}{end}"))
    });
    let texts: Vec<_> = texts.collect();
    let words = match texts.is_empty() {
        false => texts.join(", "),
        true if filter.effective_state() == DeadLetterState::Closed => "all closed letters".to_owned(),
        true => "all open letters".to_owned(),
    };
    match words.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

/// Returns the names and values of the filter.
///
/// A group key tells an operator little, so its value includes the signature of a letter of the group. Letters
/// without a key may have many signatures.
fn conditions(filter: &DeadLetterFilter, newest: Option<&DeadLetterSummary>) -> Vec<(Text, Text)> {
    let query = ListQuery::from(filter.clone());
    let signature = newest.map(|letter| letter.error_signature.as_str()).filter(|text| !text.is_empty());
    let pairs = query.pairs().filter(|(name, _)| name != cutoff(filter)).filter_map(|(name, value)| {
        let value = match (&*name, signature) {
            ("group_key", _) if filter.group_key.as_deref() == Some("") => {
                "none (any source and error)".to_owned()
            }
            ("group_key", Some(signature)) => format!("{value} ({signature})"),
            _ => value,
        };
        Some((word(&name)?.into(), Text::cut(&value, 200)))
    });
    pairs.collect()
}

/// Returns the field that ends the time range of a preview's filter.
fn cutoff(filter: &DeadLetterFilter) -> &'static str {
    if filter.effective_state() == DeadLetterState::Closed { "resolved_before" } else { "created_before" }
}

/// Returns the label of a field of the filter. The page shows the ids in another way.
pub(super) fn word(name: &str) -> Option<&str> {
    match name {
        "source" => Some("Source"),
        "op" => Some("Operation"),
        "resolution" => Some("Resolution"),
        "trigger_id" => Some("Trigger"),
        "script_id" => Some("Script"),
        "original_event_id" => Some("Event"),
        "source_contains" => Some("Source contains (any case)"),
        "op_contains" => Some("Operation contains (any case)"),
        "error_contains" => Some("Error contains (any case)"),
        "error_signature" => Some("Signature"),
        "group_key" => Some("Group"),
        "created_from" => Some("Dead-lettered from"),
        "state" => Some("State"),
        "truncated" => Some("Truncated payload"),
        "erased" => Some("Erased content"),
        "failed_again_in_run" => Some("Failed again in run"),
        "run_id" => Some("Resolved in run"),
        "resolved_by" => Some("Resolved by"),
        "resolved_from" => Some("Resolved from"),
        "created_before" => Some("Dead-lettered before"),
        "resolved_before" => Some("Resolved before"),
        "ids" => None,
        // A field without a label must be shown too.
        name => Some(name),
    }
}
