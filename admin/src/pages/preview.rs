//! The preview of a bulk run. It is the response to a POST, because a thousand ticked letters do not fit into an
//! address.

use askama::Template;
use axum::response::Response;
use chrono::Utc;
use dead_letters::{
    AppId, CappedCount, DeadLetterFilter, DeadLetterState, DeadLetterSummary, ListQuery, Resolution,
};

use super::{
    back::Back,
    banner::list_text,
    command::Command,
    frame::Frame,
    html,
    letter_actions::list_query,
    letters::Row,
    text::{Amount, Text, Time, resolution_words},
};
use crate::{
    access::{Access, AppAccess},
    bulk::{self, Action, PreviewOfApp},
    input::{Fields, Form},
    problem::Problem,
    urls::{Root, fits},
};

#[derive(Template)]
#[template(path = "preview.html")]
struct PreviewPage {
    frame: Frame,
    verb: &'static str,
    count: Amount,
    /// The apps, if there are several.
    apps: Vec<OfApp>,
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
    back: Back,
    cancel: String,
    is_reopen: bool,
    /// Whether the letters were replayed, and so their events are back in the outbox.
    is_of_replayed: bool,
    /// Whether the operator types the note first.
    begins_with_note: bool,
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

/// The share of an app in a preview over several.
struct OfApp {
    name: Text,
    address: String,
    count: Amount,
}

pub(crate) async fn page(access: Access, root: Root, Form(mut fields): Form) -> Result<Response, Problem> {
    let apps = fields.apps()?;
    let accesses = access.apps("app", &apps)?;
    let action =
        fields.parse("action", "must be ignored, handled_by_script, replayed, reopened or deleted")?;
    let action: Action = action.ok_or_else(|| Problem::invalid_field("action", "is missing"))?;
    let back = Back::of_apps(Back::take(&mut fields, "back")?, &apps);
    let way = (back.address(&root, &apps), back.label());
    let page = previewed(&access, &root, accesses, action, back, fields).await;
    page.map_err(|problem| problem.leads_to(way.0, way.1))
}

async fn previewed(
    access: &Access,
    root: &Root,
    accesses: Vec<AppAccess>,
    action: Action,
    back: Back,
    mut fields: Fields,
) -> Result<Response, Problem> {
    let apps: Vec<_> = accesses.iter().map(|access| access.app_id).collect();
    // An operator has the same rights in all apps.
    let of_first = accesses.first().cloned().ok_or_else(Problem::no_such_app)?;
    let mut filter = match fields.take("filter")? {
        Some(filter) => {
            fields.end()?;
            list_query("filter", &filter)?.filter
        }
        None => fields.listing(&of_first)?.filter,
    };
    // The list's form always sends `ids`, even if no letter is ticked.
    if filter.ids.as_ref().is_some_and(Vec::is_empty) {
        return Err(Problem::invalid("no letter is ticked: go back and tick at least one"));
    }
    let frame = Frame::of_apps(root, access, &accesses).here(verb(action));
    if action == Action::Reopened {
        let choices = bulk::choices_of_reopening(&accesses, &filter).await?;
        match choices[..] {
            [] => {}
            // All of them were replayed, which the preview says.
            [(resolution, _)] => filter.resolution = Some(resolution),
            _ => return choose(root, frame, apps, &filter, choices, back),
        }
    }
    let mut preview = bulk::preview(accesses, action, filter, Utc::now()).await?;
    let (count, ahead, truncated) = (preview.count(), preview.ahead(), preview.truncated());
    let cutoff = preview.cutoff();
    let mut newest = None;
    let mut sample = Vec::new();
    for (access, letters) in preview.take_sample() {
        newest = newest.or_else(|| letters.first().cloned());
        sample.extend(Row::all(&access, root, letters).await?);
    }
    let filter = preview.filter;
    let ticked = filter.ids.as_ref().map(Vec::len);
    let conditions = if ticked.is_none() { conditions(action, &filter, newest.as_ref()) } else { Vec::new() };
    let of_app = |app: &PreviewOfApp| OfApp {
        name: Text::cut(&access.admin.app_name(app.access.app_id), 100),
        address: root.letters(app.access.app_id, &preview_list(&filter)),
        count: Amount { count: app.count, capped: app.capped },
    };
    html(&PreviewPage {
        frame,
        verb: verb(action),
        count: count.into(),
        apps: preview.apps.iter().filter(|_| apps.len() > 1).map(of_app).collect(),
        conditions,
        cutoff: ticked.is_none().then_some(Time(cutoff)),
        ahead: ahead.into(),
        truncated: truncated.into(),
        counted: Amount::exactly(count.count),
        expires: Time(preview.expires_at),
        is_sample_all: sample.len() as u64 == count.count && !count.capped,
        sample,
        operator: Text::cut(access.operator.name(), 100),
        run: root.bulk("run"),
        token: preview.token,
        cancel: back.address(root, &apps),
        back,
        is_reopen: action == Action::Reopened,
        is_of_replayed: action == Action::Reopened && filter.resolution == Some(Resolution::Replayed),
        begins_with_note: action.can_be_undone(),
        is_delete: action == Action::Deleted,
        is_by_closing: bulk::is_by_closing(action, &filter),
        is_staged: action == Action::Replayed && (count.count > 1 || count.capped),
        rate: None,
        command: Command::preview(&apps, action, &filter),
    })
}

/// The page that asks which closed letters to reopen, because some of them were replayed.
#[derive(Template)]
#[template(path = "choose.html")]
struct ChoosePage {
    frame: Frame,
    apps: Vec<AppId>,
    preview: String,
    choices: Vec<Choice>,
    back: Back,
    cancel: String,
}

struct Choice {
    what: &'static str,
    count: Amount,
    /// The filter of these letters, as a query string.
    filter: String,
}

fn choose(
    root: &Root,
    frame: Frame,
    apps: Vec<AppId>,
    filter: &DeadLetterFilter,
    choices: Vec<(Resolution, CappedCount)>,
    back: Back,
) -> Result<Response, Problem> {
    let choice = |(resolution, count): (Resolution, CappedCount)| Choice {
        what: resolution_words(Some(resolution)),
        count: count.into(),
        filter: list_text(&filter.clone().state(DeadLetterState::Closed).resolution(resolution).into()),
    };
    let cancel = back.address(root, &apps);
    // The replayed ones come last.
    let choices = choices.into_iter().rev().map(choice).collect();
    html(&ChoosePage {
        frame: frame.instead(cancel.clone()),
        apps,
        preview: root.bulk("preview"),
        choices,
        back,
        cancel,
    })
}

/// Returns the list of an app's letters in a preview. A filter that is too long for an address leads to all letters.
fn preview_list(filter: &DeadLetterFilter) -> ListQuery {
    let query = ListQuery::from(filter.clone());
    if fits(&query) { query } else { ListQuery::default() }
}

/// Describes the letters of a run in words.
pub(crate) fn in_words(action: Action, filter: &DeadLetterFilter) -> String {
    const MAX_VALUE_CHARACTERS: usize = 40;
    // The words are a part of an address.
    const MAX_CHARACTERS: usize = 240;
    if let Some(ids) = &filter.ids {
        return format!("ticked, the first is {}", ids.first().map_or_else(String::new, ToString::to_string));
    }
    let query = ListQuery::from(filter.clone());
    // The action says which state its letters have.
    let pairs = query.pairs().filter(|(name, value)| name != "state" || value == "unresolved");
    let pairs = pairs.filter(|(name, _)| name != cutoff(action, filter));
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
fn conditions(
    action: Action,
    filter: &DeadLetterFilter,
    newest: Option<&DeadLetterSummary>,
) -> Vec<(Text, Text)> {
    let query = ListQuery::from(filter.clone());
    let signature = newest.map(|letter| letter.error_signature.as_str()).filter(|text| !text.is_empty());
    let pairs =
        query.pairs().filter(|(name, _)| name != cutoff(action, filter)).filter_map(|(name, value)| {
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
fn cutoff(action: Action, filter: &DeadLetterFilter) -> &'static str {
    if bulk::is_by_closing(action, filter) { "resolved_before" } else { "created_before" }
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
