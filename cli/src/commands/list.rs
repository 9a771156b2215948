use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, Cursor, DeadLetterFilter, DeadLetterRepoError, DeadLetterStore, DeadLetterSummary, ListSort, Page,
    PageRequest, PayloadSearch,
};
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

/// How many letters one call of a search examines at most. A call also ends at 64 MB of payloads.
const SEARCHED: u32 = 10_000;
/// Characters of an error's excerpt.
const EXCERPT: usize = 200;

pub(crate) async fn list(
    store: &dyn DeadLetterStore,
    list: List,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let List { filter, payload, scan, sort, size, after, quiet, watch } = list;
    if sort == ListSort::MostAttempts && (payload.payload_contains.is_some() || after.is_some()) {
        let other = if after.is_some() { "--after" } else { "--payload-contains" };
        return Err(Failure::usage(format!("--sort most_attempts can't be combined with {other}"))
            .hint("sort by newest or oldest"));
    }
    let (is_of_one, moves) = (filter.app.is_some(), Settings::moves(&filter.narrow));
    let now = after.and_then(|next| next.now).unwrap_or(settings.now);
    let mut selected = select(store, filter, &Settings { now, ..settings.clone() }, Ok).await?;
    selected.payload_contains = payload.payload_contains;
    let request = PageRequest::default()
        .sort(sort)
        .size(size)
        .after(after.map(|next| next.cursor))
        .scan_limit(scan.scan_limit);
    let page = match is_of_one {
        true => {
            let contains = selected.payload_contains.as_deref();
            of_app(store, selected.apps[0], &selected.filter, contains, &request).await?
        }
        false => of_all_apps(store, &selected, &request).await?,
    };
    let next = page.next.map(|cursor| Next { cursor, now: moves.then_some(now) });
    match quiet {
        true => printer.values(page.items.iter().map(|letter| letter.id))?,
        false => print(settings, printer, &page, next, is_of_one)?,
    }
    match page.scanned_back_to {
        Some(time) if sort == ListSort::Oldest => {
            let time = printer.clock().time(time);
            say!("note: scanned up to {time}; raise --scan-limit to examine newer letters");
        }
        scanned_back_to => warn_of_scan_limit(printer, scanned_back_to),
    }
    // A repeated list has other letters on its next page each time.
    if let Some(next) = next.filter(|_| watch.watch.is_none()) {
        say!("note: there are more letters: --after {next}");
    }
    Ok(())
}

/// Returns a page of the letters that match, or of those among them whose payload contains a text.
///
/// A search calls the store until the page is full. Together its calls examine no more letters than the scan limit,
/// and fewer if large payloads end a call early.
pub(crate) async fn of_app(
    store: &dyn DeadLetterStore,
    app_id: AppId,
    filter: &DeadLetterFilter,
    contains: Option<&str>,
    request: &PageRequest,
) -> Result<Page<DeadLetterSummary>, Failure> {
    let Some(contains) = contains else { return Ok(store.list(app_id, filter, request).await?) };
    let mut search = PayloadSearch::new(contains).filter(filter.clone()).page(request.clone());
    let mut left = request.scan_limit.unwrap_or(u32::MAX);
    let mut items = Vec::new();
    loop {
        let scan = left.min(SEARCHED);
        search.page.scan_limit = Some(scan);
        let mut page = store.search_payloads(app_id, &search).await.map_err(of_search)?;
        left -= scan;
        search.page.size =
            search.page.size.saturating_sub(u32::try_from(page.items.len()).unwrap_or(u32::MAX));
        items.append(&mut page.items);
        if search.page.size == 0 {
            // A full page continues behind its last letter, wherever the call stopped.
            page.scanned_back_to = None;
        }
        if page.scanned_back_to.is_none() || left == 0 {
            page.items = items;
            return Ok(page);
        }
        search.page.after = page.next;
    }
}

/// Returns the failure of a search. Its message names the option.
pub(crate) fn of_search(error: DeadLetterRepoError) -> Failure {
    match error {
        DeadLetterRepoError::SearchLength { .. } => {
            Failure::usage(error.to_string().replace("`payload_contains`", "--payload-contains"))
        }
        error => error.into(),
    }
}

/// Merges the pages of the apps into one, in the order of the request. No more than two pages are in memory.
///
/// If the scan limit stops the page of an app, letters behind its end are left out, because that app may have some
/// between them. A list sorted by attempts keeps them, because it is one of the letters examined.
pub(crate) async fn of_all_apps(
    store: &dyn DeadLetterStore,
    selected: &Selected,
    request: &PageRequest,
) -> Result<Page<DeadLetterSummary>, Failure> {
    let Selected { apps, filter, payload_contains } = selected;
    let (mut items, mut scanned_back_to, mut has_more) = (Vec::new(), None, false);
    let place = |letter: &DeadLetterSummary| (letter.listed_at(filter), letter.id);
    let order = |one: &DeadLetterSummary, other: &DeadLetterSummary| match request.sort {
        ListSort::Oldest => place(one).cmp(&place(other)),
        ListSort::MostAttempts => (other.attempt_count, place(other)).cmp(&(one.attempt_count, place(one))),
        _ => place(other).cmp(&place(one)),
    };
    let is_oldest_first = request.sort == ListSort::Oldest;
    for &app_id in apps {
        let in_app = |after: Cursor| after.in_app(app_id, filter, request.sort);
        let after = request.after.map(in_app).transpose()?;
        let page =
            of_app(store, app_id, filter, payload_contains.as_deref(), &request.clone().after(after)).await?;
        has_more |= page.next.is_some() && page.scanned_back_to.is_none();
        scanned_back_to = match (scanned_back_to, page.scanned_back_to) {
            (Some(one), Some(other)) if is_oldest_first => Some(Ord::min(one, other)),
            (one, other) => one.max(other),
        };
        items.extend(page.items);
        items.sort_by(order);
        has_more |= items.len() > request.size as usize;
        items.truncate(request.size as usize);
    }
    let is_by_attempts = request.sort == ListSort::MostAttempts;
    if let Some(end) = scanned_back_to.filter(|_| !is_by_attempts) {
        let shown = items.len();
        items.retain(|letter| match is_oldest_first {
            true => letter.listed_at(filter) <= end,
            false => letter.listed_at(filter) >= end,
        });
        has_more &= items.len() == shown;
    }
    let next = items.last().filter(|_| has_more && !is_by_attempts);
    let next = next.map(|last| Cursor::of_all_apps(last, filter, request.sort));
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
    // Programs compute an age from the time, and know the apps.
    let is_wide = printer.is_wide_table();
    let has_name = is_wide && items.iter().any(|letter| settings.apps.name(letter.app_id).is_some());
    let columns = [
        Some(id("id")),
        Some(text("when")),
        is_wide.then(|| id("age")),
        Some(text("state")),
        Some(text("source")),
        Some(text("op")),
        Some(message("error")),
        Some(id("app")),
        has_name.then(|| text("name")),
    ];
    let full = Layout {
        columns: columns.into_iter().flatten().collect(),
        cells: Box::new(|letter: &DeadLetterSummary| {
            let error = first_line(&letter.error_excerpt);
            let cells = [
                Some(letter.id.into()),
                Some(Cell::Time(letter.created_at)),
                is_wide.then_some(Cell::Age(letter.created_at)),
                Some(state(letter).into()),
                Some(letter.source.as_str().into()),
                Some(letter.op.as_str().into()),
                Some(if is_wide { marked(letter, error).into() } else { error.into() }),
                Some(letter.app_id.into()),
                has_name.then(|| settings.apps.name(letter.app_id).map_or(Cell::None, Cell::Text)),
            ];
            cells.into_iter().flatten().collect()
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
        cells.push(marked(letter, first_line(&letter.error_excerpt)).into());
        cells
    };
    printer.print_as(&shown, items, full, Some(Layout { columns, cells: Box::new(cells) }))?;
    Ok(())
}

/// Returns the line with a mark if the error may continue behind the excerpt.
fn marked(letter: &DeadLetterSummary, line: &str) -> String {
    let is_cut = letter.error_excerpt.chars().count() >= EXCERPT && letter.error_excerpt.ends_with(line);
    format!("{line}{}", if is_cut { "…" } else { "" })
}

/// Returns the letter's state as the tables show it.
pub(crate) fn state(letter: &DeadLetterSummary) -> &'static str {
    match (letter.resolved_at, letter.resolution) {
        (None, _) => "unresolved",
        (Some(_), Some(resolution)) => resolution.as_str(),
        (Some(_), None) => "closed",
    }
}
