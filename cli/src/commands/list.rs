use chrono::{DateTime, Utc};
use dead_letters::{DeadLetterStore, DeadLetterSummary, Page, PageRequest};
use serde::Serialize;

use super::warn_of_scan_limit;
use crate::{
    args::List,
    error::Failure,
    next::Next,
    output::{Cell, Printer, first_line, id, text},
    settings::Settings,
};

pub(crate) async fn list(
    store: &dyn DeadLetterStore,
    list: List,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let List { filter, scan, size, after } = list;
    let (app_id, moves) = (filter.app, Settings::moves(&filter));
    let now = after.and_then(|next| next.now).unwrap_or(settings.now);
    let filter = Settings::filter_at(now, filter)?;
    let page =
        PageRequest::default().size(size).after(after.map(|next| next.cursor)).scan_limit(scan.scan_limit);
    let page = store.list(app_id, &filter, &page).await?;
    let next = page.next.map(|cursor| Next { cursor, now: moves.then_some(now) });
    print(printer, &page, next)?;
    warn_of_scan_limit(page.scanned_back_to);
    if let Some(next) = next {
        say!("note: there are more letters: --after {next}");
    }
    Ok(())
}

pub(crate) fn print(
    printer: &mut Printer,
    page: &Page<DeadLetterSummary>,
    next: Option<Next>,
) -> Result<(), Failure> {
    /// A `Page` whose `next` keeps the filter's relative times.
    #[derive(Serialize)]
    struct Shown<'a> {
        items: &'a [DeadLetterSummary],
        next: Option<Next>,
        scanned_back_to: Option<DateTime<Utc>>,
    }
    let Page { items, scanned_back_to, .. } = page;
    let shown = Shown { items, next, scanned_back_to: *scanned_back_to };
    let columns = [id("id"), text("when"), text("state"), text("source"), text("op"), text("error")];
    printer.print(&shown, items, columns, |letter| {
        [
            letter.id.into(),
            Cell::Time(letter.created_at),
            state(letter).into(),
            letter.source.as_str().into(),
            letter.op.as_str().into(),
            first_line(&letter.error_excerpt).into(),
        ]
    })?;
    Ok(())
}

/// Returns the letter's state as the tables show it.
pub(crate) fn state(letter: &DeadLetterSummary) -> &'static str {
    match (letter.resolved_at, letter.resolution) {
        (None, _) => "unresolved",
        (Some(_), Some(resolution)) => resolution.as_str(),
        (Some(_), None) => "closed",
    }
}
