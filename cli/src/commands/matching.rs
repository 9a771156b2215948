//! Actions on all matching letters, after their number was shown and confirmed.

use chrono::{DateTime, Utc};
use console::truncate_str;
use dead_letters::{
    AppId, CappedCount, Changed, CountRequest, DeadLetterFilter, DeadLetterRepoError, DeadLetterState,
    DeadLetterStore, GroupRequest, ListQuery, Page, PageRequest,
};

use super::{
    groups::{Found, Group},
    list,
    select::Selected,
    tally::Tally,
};
use crate::{
    confirm::{can_ask, confirm},
    error::Failure,
    ids::short_key,
    output::{Printer, grouped, one_line},
    progress::Progress,
    settings::{Clock, Settings},
    stop::Stop,
};

const COUNT_CAP: u32 = 1_000_000;
/// Cap of the count of letters ahead of the database's clock.
const AHEAD_CAP: u32 = 1_000;
/// Groups that the question shows, and the letters that are examined to find them.
const LARGEST: u32 = 3;
const EXAMINED: u32 = 100_000;
/// Apps that the question shows.
const APPS: usize = 10;
/// Width of a line of the question, and of the filter in it.
const LINE: usize = 80;
const FILTER: usize = 68;
/// Letters that a dry run lists.
const SAMPLE: u32 = 10;

/// Whether to ask before an action on all matching letters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    First,
    Not,
    DryRun,
}

impl Ask {
    /// Returns an error if nobody can be asked.
    pub(crate) fn of(dry_run: bool, yes: bool) -> Result<Self, Failure> {
        match (dry_run, yes) {
            (true, _) => Ok(Self::DryRun),
            (false, true) => Ok(Self::Not),
            (false, false) => can_ask().map(|()| Self::First),
        }
    }
}

/// Letters of an app that were counted: all of them, or up to 1,000 that a search found.
pub(crate) struct Matching {
    pub(crate) app_id: AppId,
    /// The filter of these letters. It has the ids that a search found, or ends at `--until` or the time of the
    /// count. A filter on closed letters ends only in [`resolved_by_now`](Self::resolved_by_now).
    pub(crate) filter: DeadLetterFilter,
    pub(crate) count: u64,
    /// Whether the app has more of them, which this run does not change.
    pub(crate) capped: bool,
    /// When the letters were counted, by the database's clock.
    pub(crate) now: DateTime<Utc>,
}

impl Matching {
    /// Returns the limit of the next batch, so that no more letters are changed than were counted. An
    /// uncounted letter may match too: one that was reopened since, or whose transaction committed late.
    pub(crate) fn limit(&self, done: u64, batch: u32) -> u32 {
        u32::try_from(self.count.saturating_sub(done)).unwrap_or(u32::MAX).min(batch)
    }

    /// Returns the filter without letters that were resolved after the count.
    pub(crate) fn resolved_by_now(&self) -> DeadLetterFilter {
        let before = self.filter.resolved_before.map_or(self.now, |at| at.min(self.now));
        self.filter.clone().resolved_before(before)
    }

    /// Changes the letters in batches of at most this size.
    async fn in_batches(
        &self,
        batch: u32,
        tally: &mut Tally,
        stop: &Stop,
        change: &impl AsyncFn(&Self, u32) -> Result<Changed, DeadLetterRepoError>,
    ) -> Result<(), Failure> {
        let (progress, mut done) = (Progress::of(Some(self.count)), 0);
        loop {
            let limit = self.limit(done, batch);
            if limit == 0 {
                return Ok(());
            }
            let changed = change(self, limit).await?;
            done += changed.ids.len() as u64;
            progress.is_at(done);
            if !tally.batch(self.app_id, changed.ids.len(), changed.more, changed.skipped_locked)
                || tally.stops(stop)
            {
                return Ok(());
            }
        }
    }
}

/// Changes the letters of each app in batches of at most this size.
pub(crate) async fn in_batches(
    found: &[Matching],
    batch: u32,
    tally: &mut Tally,
    stop: &Stop,
    change: impl AsyncFn(&Matching, u32) -> Result<Changed, DeadLetterRepoError>,
) -> Result<(), Failure> {
    for (index, found) in found.iter().enumerate() {
        if tally.was_stopped() || index > 0 && tally.stops(stop) {
            break;
        }
        found.in_batches(batch, tally, stop, &change).await?;
    }
    Ok(())
}

/// Returns whether the filter has a condition besides the state. Without one it selects every letter.
pub(crate) fn is_filtered(filter: &DeadLetterFilter) -> bool {
    filter.clone().state(None) != DeadLetterFilter::default()
}

/// Counts the matching letters of each app and asks for confirmation. Returns the apps that have any, or `None` after a
/// dry run.
pub(crate) async fn confirmed(
    store: &dyn DeadLetterStore,
    selected: Selected,
    what: &str,
    ask: Ask,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<Option<Vec<Matching>>, Failure> {
    let (mut found, mut sum, mut ahead) = (Vec::new(), CappedCount::default(), 0);
    for &app_id in &selected.apps {
        let (filters, capped) = selected.filters(store, app_id, COUNT_CAP).await?;
        sum.capped |= capped;
        for mut filter in filters {
            let count = store.count(app_id, &filter, &CountRequest::default().cap(COUNT_CAP)).await?;
            if let Some(filter) = filter.ahead_of(count.as_of) {
                let request = CountRequest::default().cap(AHEAD_CAP);
                ahead += store.count(app_id, &filter, &request).await?.matching.count;
            }
            if filter.ids.is_none() && filter.effective_state() != DeadLetterState::Closed {
                filter.created_before = Some(count.as_of);
            }
            sum.count += count.matching.count;
            let (count, now, capped) = (count.matching.count, count.now, capped || count.matching.capped);
            sum.capped |= capped;
            if count > 0 {
                found.push(Matching { app_id, filter, count, capped, now });
            }
        }
    }
    if ahead > 0 {
        say!(
            "note: {} also match but are ahead of the database's clock, and are not changed",
            letters(ahead)
        );
        say!("hint: a later --until includes them");
    }
    if ask == Ask::DryRun {
        let request = PageRequest::default().size(SAMPLE);
        let page = list::of_all_apps(store, &selected, &request).await?;
        list::print(settings, printer, &Page::last(page.items), None, selected.apps.len() == 1)?;
        say!("note: {} would be {what}", letters(sum));
        return Ok(None);
    }
    if ask == Ask::First && sum.count > 0 {
        let question = question(store, &selected, &found, sum, what, settings).await?;
        confirm(&question, stop).await?;
    }
    if sum.capped {
        say!("note: this run stops after the first {} of an app", letters(u64::from(COUNT_CAP)));
    }
    Ok(Some(found))
}

/// Returns what will be changed and where: the database, the filter, the count of each app, and the largest groups.
async fn question(
    store: &dyn DeadLetterStore,
    Selected { filter, payload_contains, .. }: &Selected,
    found: &[Matching],
    sum: CappedCount,
    what: &str,
    settings: &Settings,
) -> Result<String, Failure> {
    let clock = settings.clock()?;
    let mut request = GroupRequest::default().limit(LARGEST).scan_limit(EXAMINED);
    request.payload_contains = payload_contains.clone();
    let mut largest = Found::default();
    let of_apps: Vec<_> = found.chunk_by(|one, next| one.app_id == next.app_id).collect();
    for of_app in &of_apps {
        // A search has several filters of ids for an app, whose groups would be several too.
        let filter = if payload_contains.is_some() { filter } else { &of_app[0].filter };
        largest.add(store, of_app[0].app_id, filter, &request).await?;
    }
    let mut lines =
        vec![format!("{} will be {what}:", letters(sum)), format!("  database  {}", settings.database)];
    let mut named = "filter";
    let text = payload_contains.as_ref().map(|_| "payload contains the text".to_owned());
    for line in words(filter, &clock).into_iter().chain(text) {
        lines.push(format!("  {named:8}  {line}"));
        named = "";
    }
    let mut named = "app";
    for of_app in of_apps.iter().take(APPS) {
        let (app_id, count) = (of_app[0].app_id, of_app.iter().map(|found| found.count).sum());
        let name =
            settings.apps.name(app_id).map(|name| format!("  {}", one_line(&name))).unwrap_or_default();
        lines.push(format!("  {named:8}  {:>7}  {app_id}{name}", grouped(count)));
        named = "";
    }
    if of_apps.len() > APPS {
        lines.push(format!("  {:17}  and {} more apps", "", of_apps.len() - APPS));
    }
    let mut named = "largest";
    for Group { app_id, of_app: group } in largest.groups {
        let app = if of_apps.len() > 1 { settings.apps.short(app_id) + "  " } else { String::new() };
        let (count, key) = (grouped(group.count), short_key(&group.group_key));
        let line = format!("  {named:8}  {count:>7}  {key}  {app}{}", one_line(&group.sample));
        lines.push(truncate_str(&line, LINE, "…").into_owned());
        named = "";
    }
    Ok(format!("{}\nContinue?", lines.join("\n")))
}

/// Returns the filter as lines of words, with times that an option reads back.
fn words(filter: &DeadLetterFilter, clock: &Clock) -> Vec<String> {
    let query = ListQuery::from(filter.clone());
    let words = query.pairs().map(|(name, value)| {
        let time = value.parse().ok().filter(|_| name.ends_with("_from") || name.ends_with("_before"));
        let value = time.map_or(value, |time| clock.time(time));
        match &*name {
            "state" => value,
            "created_from" => format!("since {value}"),
            "created_before" => format!("until {value}"),
            "resolved_from" => format!("resolved since {value}"),
            "resolved_before" => format!("resolved until {value}"),
            "group_key" => format!("group {}", short_key(&value)),
            "truncated" => {
                format!("payload {}", if value == "true" { "truncated or erased" } else { "whole" })
            }
            "erased" => format!("content {}", if value == "true" { "erased" } else { "not erased" }),
            "run_id" => format!("run {value}"),
            name => format!("{} {value}", name.replace('_', " ")),
        }
    });
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() + 2 < FILTER => *line += &format!(", {word}"),
            last => {
                if let Some(line) = last {
                    line.push(',');
                }
                lines.push(word);
            }
        }
    }
    lines
}

/// Returns the count with its noun.
pub(crate) fn letters(count: impl Into<CappedCount>) -> String {
    let count = count.into();
    format!("{count} {}", if count.count == 1 && !count.capped { "letter" } else { "letters" })
}
