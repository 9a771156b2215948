//! An app's letters, filtered, newest first. Operators act on one letter, on ticked letters, or on all that match.

use std::ops::ControlFlow;

use askama::Template;
use axum::response::Response;
use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterState, DeadLetterSummary, ListQuery, ListSort, Resolution,
    TimelineRequest,
};

use super::{
    back::Back,
    banner::{Banner, On, list_text},
    chart::{Chart, last_day},
    command::Command,
    frame::Frame,
    html,
    listing::{FilterForm, Listing, View, asked, first_page, invalid, scan},
    search::SearchForm,
    text::{Amount, ErrorText, Text, Time, resolution_words},
};
use crate::{
    access::{Access, AppAccess, Right},
    input::{AppPath, Fields, Query},
    problem::Problem,
    urls::Root,
};

#[derive(Template)]
#[template(path = "letters.html")]
struct LettersPage {
    frame: Frame,
    listing: Listing,
    filter: FilterForm,
    chart: Chart,
    rows: Vec<Row>,
    shown: Amount,
    /// The list itself.
    back: Back,
    bulk: Bulk,
    may_resolve: bool,
    /// The address of the first page, unless this is the first page.
    newest: Option<String>,
    older: Option<String>,
    sort: ListSort,
    sorts: Vec<Sort>,
    /// Where the scan limit stopped the call before the page was full.
    scanned_back_to: Option<Time>,
    /// Whether an empty page means that nothing failed.
    is_all_well: bool,
    /// `None` if the operator may not search in payloads.
    search: Option<SearchForm>,
    command: Command,
}

/// A link to the same list in another order.
struct Sort {
    name: &'static str,
    address: String,
    is_current: bool,
}

impl Sort {
    fn all(root: &Root, app_id: AppId, query: &ListQuery) -> Vec<Self> {
        let sort = |(sort, name)| {
            let page = query.page.clone().sort(sort).after(None);
            let address = root.letters(app_id, &ListQuery::new(query.filter.clone(), page));
            Self { name, address, is_current: sort == query.page.sort }
        };
        let is_closed = query.filter.effective_state() == DeadLetterState::Closed;
        let sorts = [
            (ListSort::Newest, if is_closed { "Last closed first" } else { "Newest first" }),
            (ListSort::Oldest, if is_closed { "First closed first" } else { "Oldest first" }),
            (ListSort::MostAttempts, "Most attempts"),
        ];
        sorts.into_iter().map(sort).collect()
    }
}

impl LettersPage {
    fn is_oldest_first(&self) -> bool {
        self.sort == ListSort::Oldest
    }

    fn is_by_attempts(&self) -> bool {
        self.sort == ListSort::MostAttempts
    }
}

/// The buttons of bulk actions.
pub(super) struct Bulk {
    pub(super) preview: String,
    pub(super) app: AppId,
    /// The filter of "all that match" as a query string, or `None` if it matches letters in any state, or
    /// none.
    /// Separate form fields would not work, because browsers change line breaks.
    pub(super) all: Option<String>,
    pub(super) may_ignore: bool,
    pub(super) may_replay: bool,
    pub(super) may_reopen: bool,
    pub(super) may_delete: bool,
    /// Whether all that match may be deleted: only if the filter narrows the letters.
    pub(super) may_delete_all: bool,
    /// The state that the form of ticked letters sends.
    pub(super) state: DeadLetterState,
    /// The resolution that it sends with closed letters. Replayed letters are reopened only if the form names it.
    pub(super) resolution: Option<Resolution>,
}

impl Bulk {
    pub(super) fn new(access: &AppAccess, root: &Root, filter: &DeadLetterFilter, matching: Amount) -> Self {
        let state = filter.effective_state();
        let is_closed = state == DeadLetterState::Closed;
        let query = ListQuery::from(filter.clone());
        Self {
            preview: root.bulk("preview"),
            app: access.app_id,
            all: (state != DeadLetterState::Any && matching.count > 0).then(|| list_text(&query)),
            may_ignore: access.may(Right::Resolve) && !is_closed,
            may_replay: access.may(Right::Replay) && !is_closed,
            may_reopen: access.may(Right::Resolve) && is_closed,
            may_delete: access.may(Right::Delete),
            may_delete_all: access.may(Right::Delete)
                && filter.clone().state(state) != DeadLetterFilter::default().state(state),
            state: if is_closed { DeadLetterState::Closed } else { DeadLetterState::Open },
            resolution: filter.resolution.filter(|_| is_closed),
        }
    }

    pub(super) fn is_any(&self) -> bool {
        self.may_ignore || self.may_replay || self.may_reopen || self.may_delete
    }

    /// Returns whether a row has a box to tick.
    pub(super) fn takes(&self, row: &Row) -> bool {
        row.is_open != (self.state == DeadLetterState::Closed)
    }
}

pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) error: ErrorText,
    pub(crate) source: Text,
    pub(crate) op: Text,
    pub(crate) attempts: u32,
    pub(crate) created: Time,
    /// The mark of an event that failed again after a replay.
    pub(crate) failed_again: Option<String>,
    /// The resolution, if the letter has one.
    pub(crate) resolved: Option<Resolved>,
    pub(crate) is_open: bool,
    /// The address of `resolve` for an open letter, or of `reopen`.
    pub(crate) action: String,
}

pub(crate) struct Resolved {
    pub(crate) as_what: &'static str,
    pub(crate) by: Option<Text>,
    pub(crate) at: Time,
    /// The beginning of the note.
    pub(crate) note: Option<Text>,
}

impl Resolved {
    pub(crate) fn of(letter: &DeadLetterSummary) -> Option<Self> {
        Some(Self {
            at: Time(letter.resolved_at?),
            as_what: resolution_words(letter.resolution),
            by: letter.resolved_by.as_deref().map(|by| Text::cut(by, 100)),
            note: letter.resolution_note.as_deref().map(|note| Text::cut(note, 200)),
        })
    }
}

impl Row {
    /// Returns the rows of these letters, and looks up how often the event of each was replayed.
    pub(crate) async fn all(
        access: &AppAccess,
        root: &Root,
        letters: Vec<DeadLetterSummary>,
    ) -> Result<Vec<Self>, Problem> {
        let events: Vec<_> = letters.iter().map(|letter| letter.original_event_id).collect();
        let times = access.store().times_replayed(access.app_id, &events).await?;
        let row = |(letter, times)| Self::new(access, root, letter, times);
        Ok(letters.into_iter().zip(times).map(row).collect())
    }

    /// Returns the row of a letter. `times` is how often its event was replayed.
    pub(crate) fn new(access: &AppAccess, root: &Root, letter: DeadLetterSummary, times: u64) -> Self {
        let is_open = letter.is_open();
        let action = if is_open { "resolve" } else { "reopen" };
        Self {
            id: letter.id.to_string(),
            address: root.letter(access.app_id, letter.id),
            error: ErrorText::of_excerpt(&letter.error_excerpt),
            source: Text::cut(&letter.source, 100),
            op: Text::cut(&letter.op, 100),
            attempts: letter.attempt_count,
            created: Time(letter.created_at),
            failed_again: failed_again(&letter, times),
            resolved: Resolved::of(&letter),
            is_open,
            action: root.letter_action(access.app_id, letter.id, action),
        }
    }
}

/// Returns the mark of an event that failed again, such as `Failed again after 2 replays`. Returns `None` for a replayed
/// letter, because its place among the `times` replays is unknown.
pub(crate) fn failed_again(letter: &DeadLetterSummary, times: u64) -> Option<String> {
    let is_later = times > 0 && letter.resolution != Some(Resolution::Replayed);
    is_later.then(|| format!("Failed again after {times} replay{}", if times == 1 { "" } else { "s" }))
}

pub(crate) async fn page(
    access: Access,
    AppPath(app_id): AppPath,
    root: Root,
    Query(mut fields): Query,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let banner = fields.take("banner")?;
    let sent = fields.clone();
    match list(&access, &root, fields, banner).await {
        Err(problem) => invalid(&access, &root, View::Letters, sent, problem),
        page => page,
    }
}

async fn list(
    access: &AppAccess,
    root: &Root,
    fields: Fields,
    banner: Option<String>,
) -> Result<Response, Problem> {
    let kept = [("banner", banner.as_deref())];
    let query = match asked(access, root, View::Letters, fields, &kept).await? {
        ControlFlow::Continue(query) => query,
        ControlFlow::Break(redirect) => return Ok(redirect),
    };
    let (store, app_id) = (access.store(), access.app_id);

    let scan_limit = scan(access.operator());
    let page = query.page.clone().scan_limit(query.page.scan_limit.unwrap_or(scan_limit));
    let page = store.list(app_id, &query.filter, &page).await?;
    let listing = Listing::load(access, root, &query, View::Letters).await?;
    let request = last_day(listing.now, Chart::BUCKETS);
    let of_any_time = query
        .filter
        .clone()
        .state(DeadLetterState::Any)
        .created_from(None)
        .created_before(None)
        .resolved_from(None)
        .resolved_before(None);
    let timeline = TimelineRequest::from(request).scan_limit(scan_limit);
    let timeline = store.timeline(app_id, &of_any_time, &timeline).await?;
    let of_any_state = query.filter.clone().state(DeadLetterState::Any);

    let back = Back::Letters(query.clone());
    let banner = Banner::read(access.entered(), root, banner, Some(app_id), &On::Page(back.clone())).await?;
    let next = page.next.map(|next| ListQuery::new(query.filter.clone(), query.page.clone().after(next)));
    let is_open =
        matches!(query.filter.effective_state(), DeadLetterState::Open | DeadLetterState::Unresolved);
    let filter = FilterForm::new(root, app_id, View::Letters, &query)
        .offering(access, query.filter.effective_state())
        .await?;
    let frame = Frame::of_app(root, access);
    // From a filtered list the name of the app leads to the letters that need action.
    let frame = if query == ListQuery::default() { frame.ends() } else { frame };
    html(&LettersPage {
        frame: frame.live().banner(banner),
        chart: Chart::new(&timeline, &request, root, app_id, &of_any_state, listing.now),
        shown: Amount::exactly(page.items.len() as u64),
        rows: Row::all(access, root, page.items).await?,
        back,
        bulk: Bulk::new(access, root, &query.filter, listing.matching),
        may_resolve: access.may(Right::Resolve),
        newest: query.page.after.map(|_| root.letters(app_id, &first_page(&query))),
        older: next.map(|next| root.letters(app_id, &next)),
        sort: query.page.sort,
        sorts: Sort::all(root, app_id, &query),
        scanned_back_to: page.scanned_back_to.map(Time),
        is_all_well: is_open
            && listing.backlog.is_none()
            && filter.clear.is_none()
            && query.page.after.is_none(),
        search: access
            .needs_whole_payloads()
            .is_ok()
            .then(|| SearchForm::new(root, app_id, &query, String::new())),
        command: Command::letters(app_id, &query),
        listing,
        filter,
    })
}
