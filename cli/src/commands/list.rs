use std::cmp::Reverse;

use chrono::{DateTime, Utc};
use dead_letters::{Cursor, DeadLetterStore, DeadLetterSummary, Page, PageRequest};
use serde::Serialize;

use super::{
    select::{Selected, select},
    warn_of_scan_limit,
};
use crate::{
    args::List,
    error::Failure,
    ids::short_letter,
    next::Next,
    output::{Cell, Layout, Printer, first_line, id, message, text},
    settings::Settings,
};

pub(crate) async fn list(
    store: &dyn DeadLetterStore,
    list: List,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let List { filter, scan, size, after, quiet, watch: _ } = list;
    let (is_of_one, moves) = (filter.app.is_some(), Settings::moves(&filter.narrow));
    let now = after.and_then(|next| next.now).unwrap_or(settings.now);
    let selected = select(store, filter, &Settings { now, ..settings.clone() }, Ok).await?;
    let request =
        PageRequest::default().size(size).after(after.map(|next| next.cursor)).scan_limit(scan.scan_limit);
    let page = match is_of_one {
        true => store.list(selected.apps[0], &selected.filter, &request).await?,
        false => of_all_apps(store, &selected, &request).await?,
    };
    let next = page.next.map(|cursor| Next { cursor, now: moves.then_some(now) });
    match quiet {
        true => printer.values(page.items.iter().map(|letter| letter.id))?,
        false => print(settings, printer, &page, next, is_of_one)?,
    }
    warn_of_scan_limit(printer, page.scanned_back_to);
    if let Some(next) = next {
        say!("note: there are more letters: --after {next}");
    }
    Ok(())
}

/// Merges the pages of the apps into one, newest first. No more than two pages are in memory.
///
/// If the scan limit stops the page of an app, letters that are older than its end are left out, because that app may
/// have some between them.
pub(crate) async fn of_all_apps(
    store: &dyn DeadLetterStore,
    selected: &Selected,
    request: &PageRequest,
) -> Result<Page<DeadLetterSummary>, Failure> {
    let Selected { apps, filter } = selected;
    let (mut items, mut scanned_back_to, mut has_more) = (Vec::new(), None, false);
    let place = |letter: &DeadLetterSummary| Reverse((letter.listed_at(filter), letter.id));
    for &app_id in apps {
        let in_app = |after: Cursor| after.in_app(app_id, filter);
        let after = request.after.map(in_app).transpose()?;
        let page = store.list(app_id, filter, &request.clone().after(after)).await?;
        has_more |= page.next.is_some() && page.scanned_back_to.is_none();
        scanned_back_to = scanned_back_to.max(page.scanned_back_to);
        items.extend(page.items);
        items.sort_by_key(place);
        has_more |= items.len() > request.size as usize;
        items.truncate(request.size as usize);
    }
    if let Some(end) = scanned_back_to {
        let shown = items.len();
        items.retain(|letter| letter.listed_at(filter) >= end);
        has_more &= items.len() == shown;
    }
    let next = items.last().filter(|_| has_more).map(|last| Cursor::of_all_apps(last, filter));
    let mut page = Page::last(items);
    (page.next, page.scanned_back_to) = (next, scanned_back_to);
    Ok(page)
}

pub(crate) fn print(
    settings: &Settings,
    printer: &mut Printer,
    page: &Page<DeadLetterSummary>,
    next: Option<Next>,
    is_of_one: bool,
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
    let full = Layout {
        columns: vec![
            id("id"),
            text("when"),
            text("state"),
            text("source"),
            text("op"),
            message("error"),
            id("app"),
        ],
        cells: Box::new(|letter: &DeadLetterSummary| {
            vec![
                letter.id.into(),
                Cell::Time(letter.created_at),
                state(letter).into(),
                letter.source.as_str().into(),
                letter.op.as_str().into(),
                first_line(&letter.error_excerpt).into(),
                letter.app_id.into(),
            ]
        }),
    };
    // A column that would be the same in every line is left out.
    let (has_app, has_state) = (!is_of_one, items.iter().any(|letter| letter.resolved_at.is_some()));
    let mut columns = vec![id("id")];
    columns.extend(has_app.then(|| id("app")));
    columns.extend([id("when"), id("age")]);
    columns.extend(has_state.then(|| text("state")));
    columns.extend([text("source/op"), message("error")]);
    let cells = move |letter: &DeadLetterSummary| {
        let mut cells: Vec<Cell> = vec![short_letter(letter.id).into()];
        cells.extend(has_app.then(|| settings.apps.short(letter.app_id).into()));
        cells.extend([Cell::Time(letter.created_at), Cell::Age(letter.created_at)]);
        cells.extend(has_state.then(|| Cell::from(state(letter))));
        cells.push(format!("{}/{}", letter.source, letter.op).into());
        cells.push(first_line(&letter.error_excerpt).into());
        cells
    };
    printer.print_as(&shown, items, full, Some(Layout { columns, cells: Box::new(cells) }))?;
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
