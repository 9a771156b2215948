//! Actions on all matching letters, after their number was shown and confirmed.

use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, Changed, CountRequest, DeadLetterFilter, DeadLetterRepoError, DeadLetterState, DeadLetterStore,
    PageRequest,
};

use super::{list, tally::Tally};
use crate::{
    confirm::{can_ask, confirm},
    error::Failure,
    next::Next,
    output::Printer,
    progress::Progress,
    stop::Stop,
};

const COUNT_CAP: u32 = 1_000_000;
/// Cap of the count of letters ahead of the database's clock.
const AHEAD_CAP: u32 = 1_000;
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
    pub(crate) fn of(dry_run: bool, yes: bool) -> Self {
        match (dry_run, yes) {
            (true, _) => Self::DryRun,
            (false, true) => Self::Not,
            (false, false) => Self::First,
        }
    }
}

/// The letters that were counted.
pub(crate) struct Matching {
    pub(crate) app_id: AppId,
    /// Ends at the time of the count, or at `--created-before`. Letters that fail later are neither counted nor
    /// changed.
    pub(crate) filter: DeadLetterFilter,
    pub(crate) count: u64,
    /// When the letters were counted, by the database's clock.
    pub(crate) now: DateTime<Utc>,
}

impl Matching {
    /// Returns the limit of the next batch, so that no more letters are changed than were counted. A transaction that
    /// began before the count and commits after it adds an uncounted letter.
    pub(crate) fn limit(&self, done: u64, batch: u32) -> u32 {
        u32::try_from(self.count.saturating_sub(done)).unwrap_or(u32::MAX).min(batch)
    }

    /// Changes the letters in batches of at most this size.
    pub(crate) async fn in_batches(
        &self,
        batch: u32,
        tally: &mut Tally,
        stop: &Stop,
        change: impl AsyncFn(u32) -> Result<Changed, DeadLetterRepoError>,
    ) -> Result<(), Failure> {
        let progress = Progress::of(Some(self.count));
        loop {
            let limit = self.limit(tally.done, batch);
            if limit == 0 {
                return Ok(());
            }
            let changed = change(limit).await?;
            if !tally.batch(changed.ids.len(), changed.more, changed.skipped_locked, &progress)
                || tally.stops(stop)
            {
                return Ok(());
            }
        }
    }
}

/// Counts the matching letters and asks for confirmation. Returns `None` after a dry run.
pub(crate) async fn confirmed(
    store: &dyn DeadLetterStore,
    app_id: AppId,
    mut filter: DeadLetterFilter,
    what: &str,
    ask: Ask,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<Option<Matching>, Failure> {
    if ask == Ask::First {
        can_ask()?;
    }
    let count = store.count(app_id, &filter, &CountRequest::default().cap(COUNT_CAP)).await?;
    if let Some(ahead) = filter.ahead_of(count.as_of) {
        let ahead = store.count(app_id, &ahead, &CountRequest::default().cap(AHEAD_CAP)).await?;
        if ahead.matching.count > 0 {
            let letters = ahead.matching;
            say!(
                "note: {letters} letters also match but are ahead of the database's clock, and are not changed"
            );
            say!("hint: a later --created-before includes them");
        }
    }
    if filter.effective_state() != DeadLetterState::Closed {
        filter.created_before = Some(count.as_of);
    }
    let letters = count.matching;
    if ask == Ask::DryRun {
        let page = PageRequest::default().size(SAMPLE);
        let page = store.list(app_id, &filter, &page).await?;
        list::print(printer, &page, page.next.map(|cursor| Next { cursor, now: None }))?;
        say!("note: {letters} letters would be {what}");
        return Ok(None);
    }
    if ask == Ask::First && letters.count > 0 {
        confirm(&format!("{letters} letters of the app {app_id} will be {what}. Continue?"), stop).await?;
    }
    if letters.capped {
        say!("note: {letters} letters match; this run stops after the first {}", letters.count);
    }
    Ok(Some(Matching { app_id, filter, count: letters.count, now: count.now }))
}

/// Returns the filter for an action on open letters.
pub(crate) fn of_open(filter: &DeadLetterFilter) -> Result<DeadLetterFilter, Failure> {
    filter.resolvable().ok_or_else(|| match filter.resolution {
        Some(resolution) => Failure::usage(format!(
            "--resolution {resolution}: these letters are closed already; use handler_failed"
        )),
        None => Failure::usage("--state closed: closed letters are not changed; use open, unresolved or any"),
    })
}
