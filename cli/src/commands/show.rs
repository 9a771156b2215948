use dead_letters::{AppId, DeadLetterId, DeadLetterStore, DeadLetterSummary, PageRequest, PayloadKind};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{list::state, select::select};
use crate::{
    args::{Filter, Show},
    error::Failure,
    ids::{self, App, locate},
    output::{Cell, Printer},
    settings::Settings,
};

/// How many letters of an app are examined to find the newest that matches.
const EXAMINED: u32 = 100_000;

#[derive(Serialize)]
struct Letter {
    #[serde(flatten)]
    summary: DeadLetterSummary,
    last_error: String,
    /// How often the letter's event was replayed.
    times_replayed: u64,
    metadata: Map<String, Value>,
    /// The stored payload, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// The edited payload that the last replay put back, if there is one and it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed_payload: Option<String>,
}

pub(crate) async fn show(
    store: &dyn DeadLetterStore,
    show: Show,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let Show { id, filter, payload, payload_only } = show;
    let (app, id) = match id {
        Some(id) => named(store, settings, filter.app, id).await?,
        None => newest(store, filter, settings).await?,
    };
    let missing = || Failure::not_found(format!("the app {app} has no dead letter {id}"));
    if payload_only {
        let payload = store.payload_text(app, id, 0..u64::MAX).await?.ok_or_else(missing)?;
        return Ok(printer.text(&payload)?);
    }
    let summary = store.summary(app, id).await?.ok_or_else(missing)?;
    let last_error = store.error_text(app, id, 0..u64::MAX).await?.ok_or_else(missing)?;
    let times = store.times_replayed(app, &[summary.original_event_id]).await?;
    let metadata = store.metadata(app, id).await?.ok_or_else(missing)?;
    let payload = match payload {
        true => Some(store.payload_text(app, id, 0..u64::MAX).await?.ok_or_else(missing)?),
        false => None,
    };
    let replayed_payload = match payload {
        Some(_) => store.replayed_payload_text(app, id, 0..u64::MAX).await?,
        None => None,
    };
    let times_replayed = times.into_iter().sum();
    let letter = Letter { times_replayed, summary, last_error, metadata, payload, replayed_payload };
    let Letter { summary, last_error, times_replayed, metadata, payload, replayed_payload } = &letter;
    let metadata_text = serde_json::to_string_pretty(metadata).ok().filter(|_| !metadata.is_empty());
    let time = |time: Option<_>| time.map_or(Cell::None, Cell::Time);
    let maybe = |value: Option<String>| value.map_or(Cell::None, Cell::Text);
    let facts = vec![
        ("letter", summary.id.into()),
        ("app", summary.app_id.into()),
        ("app name", maybe(settings.apps.name(summary.app_id))),
        ("group", summary.group_key.as_str().into()),
        ("event", summary.original_event_id.into()),
        ("source", summary.source.as_str().into()),
        ("op", summary.op.as_str().into()),
        ("trigger", maybe(summary.trigger_id.map(|id| id.to_string()))),
        ("script", maybe(summary.script_id.map(|id| id.to_string()))),
        ("attempts", summary.attempt_count.into()),
        ("first attempt", Cell::Time(summary.first_attempt_at)),
        ("last attempt", Cell::Time(summary.last_attempt_at)),
        ("dead-lettered at", Cell::Time(summary.created_at)),
        ("times replayed", times_replayed.into()),
        ("state", state(summary).into()),
        ("resolved at", time(summary.resolved_at)),
        ("resolved by", maybe(summary.resolved_by.clone())),
        ("run", maybe(summary.run_id.map(|id| id.to_string()))),
        ("note", maybe(summary.resolution_note.clone())),
        ("payload bytes", summary.payload_bytes.into()),
        ("payload kind", payload_kind(summary).into()),
        ("metadata", maybe(metadata_text)),
        ("error", last_error.as_str().into()),
        ("payload", maybe(payload.clone())),
        ("edited payload", maybe(replayed_payload.clone())),
    ];
    Ok(printer.facts(&letter, facts)?)
}

async fn named(
    store: &dyn DeadLetterStore,
    settings: &Settings,
    app: Option<App>,
    id: ids::Letter,
) -> Result<(AppId, DeadLetterId), Failure> {
    let located = locate(store, settings, app, vec![id]).await?;
    if let Some(id) = located.missing.first() {
        return Err(Failure::not_found(format!("no app has the dead letter {id}")));
    }
    let found = located.by_app.iter().flat_map(|(app, ids)| ids.iter().map(|id| (*app, *id)));
    match found.collect::<Vec<_>>()[..] {
        [letter] => Ok(letter),
        // Standard input may have any number of ids.
        _ => Err(Failure::usage("standard input does not have the ID of one letter")),
    }
}

async fn newest(
    store: &dyn DeadLetterStore,
    filter: Filter,
    settings: &Settings,
) -> Result<(AppId, DeadLetterId), Failure> {
    let selected = select(store, filter, settings, Ok).await?;
    let request = PageRequest::default().size(1).scan_limit(EXAMINED);
    let place = |letter: &DeadLetterSummary| (letter.listed_at(&selected.filter), letter.id);
    let (mut newest, mut scanned_back_to) = (None, None);
    for &app_id in &selected.apps {
        let page = store.list(app_id, &selected.filter, &request).await?;
        newest = newest.into_iter().chain(page.items).max_by_key(place);
        scanned_back_to = scanned_back_to.max(page.scanned_back_to);
    }
    let newest = newest.ok_or_else(|| {
        Failure::not_found("no letter matches").hint(
            "the newest 100,000 letters of each app and state are examined; --state any includes closed ones",
        )
    })?;
    if scanned_back_to > Some(newest.listed_at(&selected.filter)) {
        say!("note: the newest 100,000 letters of each app are examined; a newer one may match");
    }
    Ok((newest.app_id, newest.id))
}

fn payload_kind(letter: &DeadLetterSummary) -> &'static str {
    match letter.payload_kind {
        Some(PayloadKind::Json) => "JSON",
        Some(PayloadKind::Text) => "text, not JSON",
        Some(PayloadKind::Truncated) => "truncated: not the whole event",
        Some(PayloadKind::Erased) => "erased",
        Some(other) => other.as_str(),
        None => "unknown to this version",
    }
}
