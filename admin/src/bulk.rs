//! Bulk actions, which resolve, replay, reopen or delete: a frozen preview, and runs that change only the previewed letters.
//!
//! The preview's token holds the operator and the filter. For each app it also holds the time before which a letter
//! must have failed or been closed, and how many letters the steps so far changed. It is sealed and sent to the
//! browser; the server keeps nothing but the ids of the runs that are under way.
//!
//! If the client hangs up, the run ends after the current batch. If the run is dropped, the current batch commits or
//! rolls back as a whole. A token works for one step: the batches of a run are numbered, and the store does each number
//! once.

use std::{
    collections::HashSet,
    mem,
    ops::Not,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::{
    ActionRequest, AppId, Attribution, CappedCount, CountRequest, Cursor, DeadLetterAction, DeadLetterFilter,
    DeadLetterId, DeadLetterReplay, DeadLetterRepoError, DeadLetterState, DeadLetterSummary, ListQuery,
    PageRequest, ReopenRequest, ReplayFailure, ReplayRate, ReplayRequest, Replayed, Resolution,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    access::{Access, AppAccess, Right},
    audit::Entry,
    clock,
    letter_actions::attribution,
    metadata::check_filter,
    problem::Problem,
    token::Purpose,
};

/// The change that a bulk run makes to its letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    Ignored,
    HandledByScript,
    Replayed,
    Reopened,
    Deleted,
}

impl Action {
    const ALL: [Self; 5] =
        [Self::Ignored, Self::HandledByScript, Self::Replayed, Self::Reopened, Self::Deleted];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Reopened => "reopened",
            Self::Deleted => "deleted",
            _ => self.resolution().map_or("", Resolution::as_str),
        }
    }

    /// Returns the resolution that the run sets, if it sets one.
    pub(crate) fn resolution(self) -> Option<Resolution> {
        match self {
            Self::Ignored => Some(Resolution::Ignored),
            Self::HandledByScript => Some(Resolution::HandledByScript),
            Self::Replayed => Some(Resolution::Replayed),
            Self::Reopened | Self::Deleted => None,
        }
    }
}

impl FromStr for Action {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|action| action.as_str() == text).ok_or(())
    }
}

/// How long a preview is valid.
const GOOD_FOR: TimeDelta = TimeDelta::minutes(15);
/// Cap of a preview's count.
const COUNT_CAP: u32 = 100_000;
/// Cap of the counts of letters that a run leaves out.
const LEFT_OUT_CAP: u32 = 1_000;
const SAMPLE: u32 = 10;
/// Letters per batch. The batch of a replay is smaller, because it is in memory with its payloads.
const RESOLVE_BATCH: u32 = 1_000;
const REPLAY_BATCH: u32 = 100;
/// A run starts no further batch after this time.
const RUN_TIME: Duration = Duration::from_secs(10);
/// A run ends with the batch in which this many letters have failed, because the response lists each of them.
const MAX_FAILURES: usize = 32;
/// Characters of the service's error that are shown for each failed letter.
const MAX_REASON_CHARACTERS: usize = 500;
/// Cap of the count of letters that failed again.
const NEWEST: u32 = 500;
/// The next stage of a replay waits at least as long, even if the letters failed at their only attempt.
const MIN_WAIT: TimeDelta = TimeDelta::seconds(10);
/// A token is not valid for longer than this after the time of the last step, beyond its 15 minutes.
const MAX_WAIT: TimeDelta = TimeDelta::hours(24);
/// Rows of the history in one read, and the most reads.
const BATCHES: u32 = 500;
const MAX_PAGES_OF_BATCHES: usize = 20;

/// The content of a preview's token: what a run may change, and the progress so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frozen {
    operator: String,
    pub(crate) action: Action,
    /// The filter of all apps.
    query: ListQuery,
    /// The apps, in the order of the run.
    pub(crate) apps: Vec<Part>,
    /// When the preview was made, or when the last step ended.
    pub(crate) at: DateTime<Utc>,
    /// The run's id, which is stored with each letter that it resolves.
    pub(crate) run_id: Uuid,
    /// When the first step began, by the database's clock.
    pub(crate) began: Option<DateTime<Utc>>,
    /// The longest time from the first to the last attempt of a letter, in seconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) took: u64,
}

/// The share of an app in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    #[serde(rename = "app")]
    pub(crate) app_id: AppId,
    /// Where the count stopped. Older letters are left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<DateTime<Utc>>,
    /// The cutoff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<DateTime<Utc>>,
    pub(crate) counted: u64,
    #[serde(default, skip_serializing_if = "Not::not")]
    capped: bool,
    /// Letters that the steps so far changed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) done: u64,
    /// The number of the next batch.
    #[serde(default, skip_serializing_if = "is_zero")]
    batch: u32,
    /// Letters that the service could not requeue.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) failed: u64,
    /// The cursor of the last failed letter, behind which the next batch begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<Cursor>,
    /// Whether locked letters were skipped that no further step of this run reaches.
    #[serde(default, skip_serializing_if = "Not::not")]
    skipped_locked: bool,
    /// Letters that this step changed.
    #[serde(skip)]
    pub(crate) done_now: u64,
}

impl Part {
    /// Returns how many letters further steps may change. A letter that is reopened after the count, or whose
    /// transaction commits after it, also matches, so the count is the limit.
    fn left(&self) -> u64 {
        self.counted.saturating_sub(self.done).saturating_sub(self.failed)
    }
}

impl Frozen {
    /// Returns the filter of an app, with its cutoff.
    pub(crate) fn filter(&self, part: &Part) -> DeadLetterFilter {
        let mut filter = self.query.filter.clone();
        match filter.effective_state() {
            DeadLetterState::Closed => filter.resolved_from = part.from.or(filter.resolved_from),
            _ => filter.created_from = part.from.or(filter.created_from),
        }
        match is_by_closing(self.action, &filter) {
            true => filter.resolved_before = part.before.or(filter.resolved_before),
            false => filter.created_before = part.before.or(filter.created_before),
        }
        filter
    }

    /// Returns the filter of the run: that of its app, or the one that all apps share, with the narrowest of their
    /// bounds.
    pub(crate) fn shown_filter(&self) -> DeadLetterFilter {
        let Some(first) = self.apps.first() else { return self.query.filter.clone() };
        let narrowest = Part {
            from: self.apps.iter().filter_map(|part| part.from).max(),
            before: self.apps.iter().filter_map(|part| part.before).min(),
            ..first.clone()
        };
        self.filter(&narrowest)
    }

    pub(crate) fn app_ids(&self) -> Vec<AppId> {
        self.apps.iter().map(|part| part.app_id).collect()
    }

    pub(crate) fn counted(&self) -> u64 {
        self.apps.iter().map(|part| part.counted).sum()
    }

    pub(crate) fn is_capped(&self) -> bool {
        self.apps.iter().any(|part| part.capped)
    }

    pub(crate) fn done(&self) -> u64 {
        self.apps.iter().map(|part| part.done).sum()
    }

    pub(crate) fn failed(&self) -> u64 {
        self.apps.iter().map(|part| part.failed).sum()
    }

    pub(crate) fn left(&self) -> u64 {
        self.apps.iter().map(Part::left).sum()
    }

    pub(crate) fn is_replay(&self) -> bool {
        self.action == Action::Replayed
    }

    pub(crate) fn is_of(&self, access: &Access) -> bool {
        self.operator == access.operator.name()
    }

    /// Returns when the wait after the last step ends. By then every letter that fails again should have failed, if
    /// retries take as long as before.
    pub(crate) fn fails_until(&self) -> Option<DateTime<Utc>> {
        self.at.checked_add_signed(self.wait())
    }

    /// Returns whether no step of the run may begin any more.
    pub(crate) fn is_expired(&self, now: DateTime<Utc>) -> bool {
        // A preview from the future is valid, because it comes from a replica whose clock is ahead.
        now.signed_duration_since(self.at) > GOOD_FOR + self.wait()
    }

    /// Returns how long the next stage of a replay waits. No stage of another run waits.
    fn wait(&self) -> TimeDelta {
        match self.began {
            Some(_) if self.is_replay() => {
                TimeDelta::seconds(i64::try_from(self.took).unwrap_or(i64::MAX)).clamp(MIN_WAIT, MAX_WAIT)
            }
            _ => TimeDelta::zero(),
        }
    }

    /// Adds what the history has of the run and the token does not: the steps of another tab, or one whose response was
    /// lost. Returns whether there was any.
    pub(crate) async fn catch_up(&mut self, accesses: &[AppAccess]) -> Result<bool, Problem> {
        let mut is_behind = false;
        for (access, part) in accesses.iter().zip(&mut self.apps) {
            let Some(recorded) = Recorded::of(access, self.run_id).await? else { continue };
            if recorded.is_ahead_of(part) {
                is_behind = true;
                part.done = part.done.max(recorded.letters);
                part.batch = part.batch.max(recorded.next_batch);
                let first = recorded.first.created_at;
                self.began = Some(self.began.map_or(first, |began| began.min(first)));
                self.at = self.at.max(recorded.last.created_at);
            }
        }
        Ok(is_behind)
    }
}

/// A run in an app, as the history has it.
pub(crate) struct Recorded {
    pub(crate) letters: u64,
    /// The number behind that of the last numbered batch.
    next_batch: u32,
    pub(crate) first: DeadLetterAction,
    pub(crate) last: DeadLetterAction,
    /// Whether the history has more batches than were read.
    pub(crate) is_cut: bool,
}

impl Recorded {
    /// Returns whether the history has letters or batches of the run that the token does not have. The letters alone do not
    /// tell: a sweep may have deleted the run's first batches from the history.
    fn is_ahead_of(&self, part: &Part) -> bool {
        self.letters > part.done || self.next_batch > part.batch
    }

    /// Reads the batches of the run. Returns `None` if the history has none.
    pub(crate) async fn of(access: &AppAccess, run_id: Uuid) -> Result<Option<Self>, Problem> {
        let mut found: Option<Self> = None;
        let mut request = ActionRequest::default().run_id(run_id).limit(BATCHES);
        for _ in 0..MAX_PAGES_OF_BATCHES {
            let batches = access.store().actions(access.app_id, &request).await?;
            let is_last = batches.len() < BATCHES as usize;
            for batch in batches {
                request.after = Some(batch.id);
                let next_batch = batch.batch.map_or(0, |batch| batch.saturating_add(1));
                match &mut found {
                    Some(found) => {
                        found.letters += batch.letters;
                        found.next_batch = found.next_batch.max(next_batch);
                        found.first = batch;
                    }
                    None => {
                        let (letters, last) = (batch.letters, batch.clone());
                        found = Some(Self { letters, next_batch, first: batch, last, is_cut: false });
                    }
                }
            }
            if is_last {
                return Ok(found);
            }
        }
        Ok(found.map(|found| Self { is_cut: true, ..found }))
    }
}

/// The runs that are under way in this process. A second step of one of them is refused at once.
#[derive(Clone, Default)]
pub(crate) struct Running(Arc<Mutex<HashSet<Uuid>>>);

/// A step that is under way, until it is dropped.
struct Under<'a> {
    running: &'a Running,
    run_id: Uuid,
}

impl Running {
    fn begin(&self, run_id: Uuid) -> Option<Under<'_>> {
        let is_first = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(run_id);
        is_first.then_some(Under { running: self, run_id })
    }
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        self.running.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.run_id);
    }
}

/// Returns whether a field can be left out of a token. Tokens are parts of addresses and must be short.
pub(crate) fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

pub(crate) struct Preview {
    /// The filter of the run: with its cutoff if there is one app.
    pub(crate) filter: DeadLetterFilter,
    pub(crate) apps: Vec<PreviewOfApp>,
    pub(crate) token: String,
    pub(crate) expires_at: DateTime<Utc>,
}

pub(crate) struct PreviewOfApp {
    pub(crate) access: AppAccess,
    pub(crate) count: u64,
    /// Whether there are more than `count`, or may be.
    pub(crate) capped: bool,
    /// A run leaves letters alone that fail, or are closed, at this time or later.
    pub(crate) cutoff: DateTime<Utc>,
    /// Letters that match but lie ahead of the database's clock, so a run leaves them out.
    pub(crate) ahead: CappedCount,
    /// Letters that match but whose payload is truncated or erased, which the service does not replay.
    pub(crate) truncated: CappedCount,
    /// The newest letters of the preview.
    pub(crate) sample: Vec<DeadLetterSummary>,
}

impl Preview {
    pub(crate) fn count(&self) -> CappedCount {
        let count = self.apps.iter().map(|app| app.count).sum();
        CappedCount { count, capped: self.apps.iter().any(|app| app.capped) }
    }

    pub(crate) fn ahead(&self) -> CappedCount {
        sum(self.apps.iter().map(|app| app.ahead))
    }

    pub(crate) fn truncated(&self) -> CappedCount {
        sum(self.apps.iter().map(|app| app.truncated))
    }

    /// Returns the latest cutoff of the apps.
    pub(crate) fn cutoff(&self) -> DateTime<Utc> {
        self.apps.iter().map(|app| app.cutoff).max().unwrap_or_default()
    }

    /// Takes the newest letters of all apps, each with access to its app.
    pub(crate) fn take_sample(&mut self) -> Vec<(AppAccess, Vec<DeadLetterSummary>)> {
        let mut times: Vec<_> =
            self.apps.iter().flat_map(|app| &app.sample).map(|letter| letter.created_at).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        let since = times.get(SAMPLE as usize - 1).copied();
        let mut left = SAMPLE as usize;
        let newest = self.apps.iter_mut().filter_map(|app| {
            let mut letters = mem::take(&mut app.sample);
            letters.retain(|letter| since.is_none_or(|since| letter.created_at >= since));
            letters.truncate(left);
            left -= letters.len();
            (!letters.is_empty()).then(|| (app.access.clone(), letters))
        });
        newest.collect()
    }
}

fn sum(counts: impl Iterator<Item = CappedCount>) -> CappedCount {
    counts.fold(CappedCount::default(), |sum, count| CappedCount {
        count: sum.count + count.count,
        capped: sum.capped || count.capped,
    })
}

pub(crate) struct Outcome {
    /// The run so far.
    pub(crate) frozen: Frozen,
    /// Letters that the service could not requeue in this step. They stay open.
    pub(crate) failures: Vec<Failure>,
    /// Whether another step may change more letters. All steps together change no more than the preview counted.
    pub(crate) more: bool,
    /// Whether locked letters were skipped.
    pub(crate) skipped_locked: bool,
    /// Letters of the preview that others changed or that were swept. Known after the last step, if the count was
    /// exact.
    pub(crate) changed_by_others: Option<u64>,
    /// The problem that stopped the step after a part of it was done.
    pub(crate) stopped_by: Option<Problem>,
}

impl Outcome {
    /// Returns the number of letters that this step changed.
    pub(crate) fn done(&self) -> u64 {
        self.frozen.apps.iter().map(|part| part.done_now).sum()
    }

    /// Returns whether letters may match that the preview did not count.
    pub(crate) fn is_uncounted(&self) -> bool {
        !self.more && self.frozen.is_capped()
    }

    /// Returns the token for the next step.
    pub(crate) fn token(&self, access: &Access) -> String {
        access.admin.key.seal(Purpose::Preview, &self.frozen)
    }
}

impl Action {
    /// Returns whether a run of this action can be undone. The events of a replay are back in the outbox.
    pub(crate) fn can_be_undone(self) -> bool {
        self.resolution().is_some_and(Resolution::may_be_chosen)
    }
}

/// A letter that the service could not requeue.
#[derive(Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The place of its app in the run.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) app: u64,
    pub(crate) id: DeadLetterId,
    /// The service's error message, cut after [`MAX_REASON_CHARACTERS`].
    pub(crate) reason: String,
}

impl Failure {
    fn new(app: u64, failure: &ReplayFailure) -> Self {
        let reason = failure.reason();
        let reason = match reason.char_indices().nth(MAX_REASON_CHARACTERS) {
            Some((end, _)) => format!("{}…", &reason[..end]),
            None => reason,
        };
        Self { app, id: failure.id, reason }
    }
}

/// Letters that failed again after a run replayed their event. If `count` is 0 and `capped` is set, too many letters
/// were stored since the run to examine them all.
pub(crate) struct FailedAgain {
    pub(crate) count: usize,
    pub(crate) capped: bool,
    /// The newest of them.
    pub(crate) letters: Vec<DeadLetterSummary>,
}

fn may_run(access: &AppAccess, action: Action) -> Result<(), Problem> {
    match action {
        Action::Replayed => access.replay().map(drop),
        Action::Deleted => access.needs(Right::Delete),
        _ => access.needs(Right::Resolve),
    }
}

/// Returns whether the cutoff of a run is about the time at which its letters were resolved.
pub(crate) fn is_by_closing(action: Action, filter: &DeadLetterFilter) -> bool {
    action == Action::Reopened || action == Action::Deleted && filter.matches_resolved_only()
}

/// Counts the letters of these apps that a run would change, and freezes the filter.
pub(crate) async fn preview(
    accesses: Vec<AppAccess>,
    action: Action,
    filter: DeadLetterFilter,
    now: DateTime<Utc>,
) -> Result<Preview, Problem> {
    for access in &accesses {
        may_run(access, action)?;
        check_filter(access, &filter)?;
    }
    // A preview has an app.
    let access = accesses.first().cloned().ok_or_else(Problem::no_such_app)?;
    if filter.ids.is_some() && accesses.len() > 1 {
        return Err(Problem::invalid_field("ids", "need exactly one app"));
    }
    let filter = match action {
        Action::Reopened => reopenable(&filter)?,
        Action::Deleted => deletable(filter)?,
        _ => resolvable(&access, action, filter)?,
    };
    let mut frozen = Frozen {
        operator: access.operator().name().to_owned(),
        action,
        query: filter.into(),
        apps: Vec::new(),
        at: now,
        run_id: Uuid::now_v7(),
        began: None,
        took: 0,
    };
    let mut apps = Vec::new();
    for access in accesses {
        let (part, app) = preview_of_app(access, action, frozen.query.filter.clone()).await?;
        frozen.took = frozen.took.max(longest(&app.sample));
        frozen.apps.push(part);
        apps.push(app);
    }
    Ok(Preview {
        filter: frozen.shown_filter(),
        apps,
        token: access.admin().key.seal(Purpose::Preview, &frozen),
        expires_at: now + GOOD_FOR,
    })
}

/// Returns the longest time from the first to the last attempt of these letters, in seconds.
fn longest(letters: &[DeadLetterSummary]) -> u64 {
    let took = letters.iter().map(|letter| letter.last_attempt_at - letter.first_attempt_at);
    took.max().map_or(0, |took| u64::try_from(took.num_seconds()).unwrap_or(0))
}

async fn preview_of_app(
    access: AppAccess,
    action: Action,
    mut filter: DeadLetterFilter,
) -> Result<(Part, PreviewOfApp), Problem> {
    let (store, app_id) = (access.store(), access.app_id);
    let scan_limit = access.operator().max_scan();
    if action == Action::Reopened {
        names_replayed(&access, &filter).await?;
    }
    let by_closing = is_by_closing(action, &filter);
    let count =
        store.count(app_id, &filter, &CountRequest::default().cap(COUNT_CAP).scan_limit(scan_limit)).await?;
    let left_out = match (filter.truncated, filter.erased) {
        _ if action != Action::Replayed => None,
        (Some(false), _) => Some(filter.clone().truncated(true)),
        (_, Some(false)) => Some(filter.clone().erased(true)),
        _ => None,
    };
    let truncated = match left_out {
        Some(filter) => {
            let found = store
                .count(app_id, &filter, &CountRequest::default().cap(LEFT_OUT_CAP).scan_limit(scan_limit))
                .await?;
            found.matching
        }
        None => CappedCount::default(),
    };
    let mut ahead = CappedCount::default();
    let CappedCount { count: counted, capped } = count.matching;
    let capped = capped || count.scanned_back_to.is_some();
    let mut part = Part {
        app_id,
        from: None,
        before: None,
        counted,
        capped,
        done: 0,
        batch: 0,
        failed: 0,
        after: None,
        skipped_locked: false,
        done_now: 0,
    };
    // A run begins with the oldest letter, so the filter excludes older letters that the count did not examine.
    let from = match filter.effective_state() {
        DeadLetterState::Closed => &mut filter.resolved_from,
        _ => &mut filter.created_from,
    };
    if count.scanned_back_to > *from {
        (*from, part.from) = (count.scanned_back_to, count.scanned_back_to);
    }
    let mut cutoff = count.as_of;
    if by_closing {
        cutoff = filter.resolved_before.map_or(count.now, |at| at.min(count.now));
        // An undo needs no cutoff: the id of a run leaves out later changes by itself.
        if filter.run_id.is_none() || action == Action::Deleted {
            (filter.resolved_before, part.before) = (Some(cutoff), Some(cutoff));
        }
    } else if filter.ids.is_none() {
        if let Some(filter) = filter.ahead_of(count.as_of) {
            let found = store
                .count(app_id, &filter, &CountRequest::default().cap(LEFT_OUT_CAP).scan_limit(scan_limit))
                .await?;
            let capped = found.matching.capped || found.scanned_back_to.is_some();
            ahead = CappedCount { capped, ..found.matching };
        }
        (filter.created_before, part.before) = (Some(count.as_of), Some(count.as_of));
    }
    let page = PageRequest::default().size(SAMPLE).scan_limit(scan_limit);
    let sample = store.list(app_id, &filter, &page).await?.items;
    Ok((part, PreviewOfApp { access, count: counted, capped, cutoff, ahead, truncated, sample }))
}

/// Returns the filter for the letters to delete. It must narrow them, because deleted letters can't be brought back.
fn deletable(mut filter: DeadLetterFilter) -> Result<DeadLetterFilter, Problem> {
    let state = filter.effective_state();
    filter.state = Some(state);
    match filter == DeadLetterFilter::default().state(state) {
        true => Err(Problem::invalid_field(
            "filter",
            "must narrow the letters to delete: name at least one field",
        )),
        false => Ok(filter),
    }
}

fn resolvable(
    access: &AppAccess,
    action: Action,
    mut filter: DeadLetterFilter,
) -> Result<DeadLetterFilter, Problem> {
    if action == Action::Replayed {
        let replayable = filter.replayable(access.replay()?.accepts_truncated());
        filter = replayable.ok_or_else(|| {
            Problem::invalid_field(
                "truncated",
                "must not be true, because the service replays only whole payloads",
            )
        })?;
    }
    filter.resolvable().ok_or_else(|| {
        Problem::invalid_field(
            "state",
            "must be open, unresolved or any, because this action does not change closed letters",
        )
    })
}

fn reopenable(filter: &DeadLetterFilter) -> Result<DeadLetterFilter, Problem> {
    filter.reopenable().ok_or_else(|| {
        Problem::invalid_field("state", "must be closed or any, because only closed letters are reopened")
    })
}

/// Returns a problem if replayed letters match a filter that does not name their resolution. Their events are back in
/// the outbox.
async fn names_replayed(access: &AppAccess, filter: &DeadLetterFilter) -> Result<(), Problem> {
    if filter.resolution.is_some() {
        return Ok(());
    }
    let replayed = filter.clone().resolution(Resolution::Replayed);
    let request = CountRequest::default().cap(1).scan_limit(access.operator().max_scan());
    match access.store().count(access.app_id, &replayed, &request).await?.matching.count {
        0 => Ok(()),
        _ => Err(Problem::invalid_field(
            "resolution",
            "is missing, and replayed letters match, whose events are back in the outbox: choose the resolution to \
             reopen",
        )),
    }
}

/// The choices of the operator for each step of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Step {
    pub(crate) note: Option<String>,
    /// The most letters of the step. Without a limit the step takes as many as ten seconds allow.
    pub(crate) limit: Option<u32>,
    /// Letters a second, of a replay.
    pub(crate) rate: Option<u32>,
}

/// Opens a preview's token. It may belong to another operator.
pub(crate) fn open(access: &Access, token: &str) -> Result<Frozen, Problem> {
    access.admin.key.open(Purpose::Preview, token).ok_or_else(|| {
        Problem::invalid_field(
            "token",
            "is not a token of a preview, or another process created it (Admin::key): create a new preview",
        )
    })
}

/// Returns access to the apps of the run if this operator may continue it.
fn may_continue(access: &Access, frozen: &Frozen, now: DateTime<Utc>) -> Result<Vec<AppAccess>, Problem> {
    let accesses = access.apps("app", &frozen.app_ids())?;
    if !frozen.is_of(access) {
        return Err(Problem::preview_expired("the preview belongs to another operator: create a new one"));
    }
    if frozen.is_expired(now) {
        return Err(Problem::preview_expired("a preview expires after 15 minutes: create a new one"));
    }
    for access in &accesses {
        may_run(access, frozen.action)?;
        check_filter(access, &frozen.query.filter)?;
    }
    Ok(accesses)
}

/// Changes the preview's letters, app by app: the oldest first, or those that were closed first.
///
/// A step is refused if another one of the run is under way in this process, or if the history has more of the run than
/// the token. It is also refused if another process did the first batch of this step meanwhile.
pub(crate) async fn run(
    access: &Access,
    mut frozen: Frozen,
    step: Step,
    now: DateTime<Utc>,
) -> Result<Outcome, Problem> {
    let started = Instant::now();
    let accesses = may_continue(access, &frozen, now)?;
    // All apps have the operator's name.
    let access_of_first = accesses.first().ok_or_else(Problem::no_such_app)?;
    let attribution = attribution(access_of_first, step.note)?.run_id(frozen.run_id);
    if step.limit.is_some_and(|limit| !(1..=1_000).contains(&limit)) {
        return Err(Problem::invalid_field("limit", "must be between 1 and 1,000"));
    }
    if step.rate.is_some() && !frozen.is_replay() {
        return Err(Problem::invalid_field("rate", "must be left out, because only a replay has a rate"));
    }
    let rate = step.rate.map(ReplayRate::per_second).transpose()?;
    let running = access.admin.running.clone();
    let _under = running.begin(frozen.run_id).ok_or_else(Problem::step_under_way)?;
    for (access, part) in accesses.iter().zip(&frozen.apps) {
        match Recorded::of(access, frozen.run_id).await? {
            Some(recorded) if recorded.is_cut => {
                return Err(Problem::preview_expired(
                    "a run has at most 10,000 batches: create a new preview",
                ));
            }
            Some(recorded) if recorded.is_ahead_of(part) => return Err(Problem::step_done()),
            _ => {}
        }
    }
    if frozen.began.is_none() {
        frozen.began = Some(clock::now(access_of_first).await?);
    }

    let filters: Vec<_> = frozen.apps.iter().map(|part| frozen.filter(part)).collect();
    let mut progress = Progress {
        left: step.limit.unwrap_or(u32::MAX),
        rate,
        deadline: started + RUN_TIME,
        is_over: false,
        done: 0,
        failures: Vec::new(),
        skipped_locked: false,
        took: frozen.took,
        stopped_by: None,
    };
    let mut more = false;
    let action = frozen.action;
    let apps = accesses.iter().zip(&filters).zip(&mut frozen.apps);
    for (place, ((access, filter), part)) in (0..).zip(apps) {
        if part.left() == 0 {
            continue;
        }
        if progress.is_over || progress.left == 0 || Instant::now() >= progress.deadline {
            more = true;
            break;
        }
        let of_app = OfApp { access, action, filter, attribution: &attribution, place };
        let mut entry = Entry::of_matching(access, action.as_str(), filter, frozen.run_id);
        let result = of_app.run(part, &mut progress, &mut entry).await;
        entry.ended(match (&result, &progress.stopped_by) {
            (Err(problem), _) | (Ok(_), Some(problem)) => Err(problem),
            (Ok(_), None) => Ok(()),
        });
        more |= result? && part.left() > 0;
    }
    frozen.took = progress.took;
    frozen.at = now + TimeDelta::from_std(started.elapsed()).unwrap_or_default();
    let changed_by_others = match more || frozen.is_capped() {
        true => None,
        // The run is reported even if this count fails.
        false => changed_by_others(&accesses, &filters, &frozen).await.ok(),
    };
    Ok(Outcome {
        failures: progress.failures,
        more,
        skipped_locked: progress.skipped_locked || frozen.apps.iter().any(|part| part.skipped_locked),
        changed_by_others,
        stopped_by: progress.stopped_by,
        frozen,
    })
}

/// The progress of a step, in all apps.
struct Progress {
    /// The most letters that the step may still examine.
    left: u32,
    rate: Option<ReplayRate>,
    deadline: Instant,
    /// Whether the step ends before the next app.
    is_over: bool,
    done: u64,
    failures: Vec<Failure>,
    skipped_locked: bool,
    took: u64,
    stopped_by: Option<Problem>,
}

/// The part of a step in one app.
struct OfApp<'a> {
    access: &'a AppAccess,
    action: Action,
    filter: &'a DeadLetterFilter,
    attribution: &'a Attribution,
    /// The place of the app in the run.
    place: u64,
}

impl OfApp<'_> {
    /// Changes letters of the app, batch by batch. Returns whether another step may change more of them.
    async fn run(
        &self,
        part: &mut Part,
        progress: &mut Progress,
        entry: &mut Entry<'_>,
    ) -> Result<bool, Problem> {
        let mut ids = Vec::new();
        let more = self.batches(part, progress, entry, &mut ids).await;
        if self.action == Action::Replayed && !ids.is_empty() {
            let replayed = DeadLetterFilter::default().state(DeadLetterState::Any).ids(ids);
            let page = PageRequest::default().size(REPLAY_BATCH);
            // Without these letters the sample of the preview says how long a failure takes.
            if let Ok(page) = self.access.store().list(self.access.app_id, &replayed, &page).await {
                progress.took = progress.took.max(longest(&page.items));
            }
        }
        more
    }

    async fn batches(
        &self,
        part: &mut Part,
        progress: &mut Progress,
        entry: &mut Entry<'_>,
        ids: &mut Vec<DeadLetterId>,
    ) -> Result<bool, Problem> {
        // Only a replay may resolve letters as `replayed`, whatever was checked before.
        let replay = match self.action {
            Action::Replayed => Some(self.access.replay()?),
            _ => None,
        };
        loop {
            let left = progress.left.min(u32::try_from(part.left()).unwrap_or(u32::MAX));
            if left == 0 {
                return Ok(true);
            }
            let began = Instant::now();
            let largest = progress.rate.map_or(left, |rate| rate.batch(left.into()));
            let batch = match self.batch(replay, part, largest).await {
                Ok(batch) => batch,
                Err(error) if progress.done == 0 && progress.failures.is_empty() => return Err(error.into()),
                // The batches before are committed, so the run reports them.
                Err(error) => {
                    (progress.stopped_by, progress.is_over) = (Some(error.into()), true);
                    return Ok(true);
                }
            };
            let count = batch.ids.len() as u64;
            entry.did(count);
            // A batch without letters does not use up its number.
            part.batch += u32::from(count > 0);
            part.done += count;
            part.done_now += count;
            part.failed += batch.failed.len() as u64;
            part.after = batch.next;
            // The next step begins behind the failed letters, and so behind the locked letters before them.
            part.skipped_locked |= batch.skipped_locked && part.after.is_some();
            progress.done += count;
            let examined = u32::try_from(batch.ids.len() + batch.failed.len()).unwrap_or(u32::MAX);
            progress.left = progress.left.saturating_sub(examined);
            progress.skipped_locked |= batch.skipped_locked;
            let failure = |failure| Failure::new(self.place, failure);
            progress.failures.extend(batch.failed.iter().map(failure));
            ids.extend(batch.ids.iter().take((REPLAY_BATCH as usize).saturating_sub(ids.len())));
            if let Some(error) = batch.stopped {
                (progress.stopped_by, progress.is_over) = (Some(error.into()), true);
                return Ok(true);
            }
            if let Some(rate) = progress.rate {
                // The step also waits after its last batch, because the next app or the next step may follow at once.
                self.access.sleep(rate.pause(batch.ids.len(), began.elapsed())).await;
            }
            // If the client hung up, the run stops, since the operator may not want the rest.
            if progress.failures.len() >= MAX_FAILURES || self.access.is_given_up() {
                progress.is_over = true;
                return Ok(batch.more);
            }
            if !batch.more || Instant::now() >= progress.deadline {
                return Ok(batch.more);
            }
        }
    }

    async fn batch(
        &self,
        replay: Option<&dyn DeadLetterReplay>,
        part: &Part,
        left: u32,
    ) -> Result<Replayed, DeadLetterRepoError> {
        let &Self { access, filter, attribution, .. } = self;
        let attribution = &attribution.clone().batch(part.batch);
        let app_id = access.app_id;
        match replay {
            Some(replay) => {
                let request = ReplayRequest::default().after(part.after).limit(left.min(REPLAY_BATCH));
                replay.replay_matching(app_id, filter, attribution, &request).await
            }
            None => {
                let (store, limit) = (access.store(), left.min(RESOLVE_BATCH));
                let changed = match (self.action, self.action.resolution()) {
                    (_, Some(to)) => store.resolve_matching(app_id, filter, to, attribution, limit).await?,
                    (Action::Deleted, None) => {
                        store.delete_matching(app_id, filter, attribution, limit).await?
                    }
                    (_, None) => {
                        let is_replayed = filter.resolution == Some(Resolution::Replayed);
                        let request = ReopenRequest::default().include_replayed(is_replayed).limit(limit);
                        store.reopen_matching(app_id, filter, attribution, &request).await?
                    }
                };
                let mut batch = Replayed::default();
                (batch.ids, batch.more) = (changed.ids, changed.more);
                batch.skipped_locked = changed.skipped_locked;
                Ok(batch)
            }
        }
    }
}

/// Returns the counted letters minus those that the run changed and those that still match. The history also has the
/// letters that the run changed in another process.
async fn changed_by_others(
    accesses: &[AppAccess],
    filters: &[DeadLetterFilter],
    frozen: &Frozen,
) -> Result<u64, Problem> {
    let mut others = 0;
    for ((access, filter), part) in accesses.iter().zip(filters).zip(&frozen.apps) {
        let request = CountRequest::default().cap(COUNT_CAP).scan_limit(access.operator().max_scan());
        let left = access.store().count(access.app_id, filter, &request).await?.matching.count;
        let recorded = Recorded::of(access, frozen.run_id).await?.map_or(0, |recorded| recorded.letters);
        others += part.counted.saturating_sub(part.done.max(recorded)).saturating_sub(left);
    }
    Ok(others)
}

/// Returns whether the run still has a letter that an undo would reopen. The count reads the whole run, so a run that
/// changed more than [`LEFT_OUT_CAP`] letters returns `true` without a count.
pub(crate) async fn has_letters(accesses: &[AppAccess], run_id: Uuid, changed: u64) -> Result<bool, Problem> {
    if changed > LEFT_OUT_CAP.into() {
        return Ok(true);
    }
    let of_run = DeadLetterFilter::default().state(DeadLetterState::Any).run_id(run_id);
    for access in accesses {
        let request = CountRequest::default().cap(1);
        if access.store().count(access.app_id, &of_run, &request).await?.matching.count > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Counts the closed letters that match by how they were closed: for a run that is to reopen them, if some of them were
/// replayed. Returns nothing if none was.
pub(crate) async fn choices_of_reopening(
    accesses: &[AppAccess],
    filter: &DeadLetterFilter,
) -> Result<Vec<(Resolution, CappedCount)>, Problem> {
    if filter.resolution.is_some() {
        return Ok(Vec::new());
    }
    let filter = reopenable(filter)?;
    let mut choices = Vec::new();
    for resolution in [Resolution::Replayed, Resolution::Ignored, Resolution::HandledByScript] {
        let closed = filter.clone().resolution(resolution);
        let mut counts = Vec::new();
        for access in accesses {
            may_run(access, Action::Reopened)?;
            check_filter(access, &closed)?;
            let request = CountRequest::default().cap(LEFT_OUT_CAP).scan_limit(access.operator().max_scan());
            let count = access.store().count(access.app_id, &closed, &request).await?;
            let capped = count.matching.capped || count.scanned_back_to.is_some();
            counts.push(CappedCount { capped, ..count.matching });
        }
        let count = sum(counts.into_iter());
        match (resolution, count.count) {
            (Resolution::Replayed, 0) => return Ok(Vec::new()),
            (_, 0) => {}
            _ => choices.push((resolution, count)),
        }
    }
    Ok(choices)
}

/// Returns the letters of the app that were stored since `since` and whose event the run replayed.
pub(crate) async fn failed_again(
    access: &AppAccess,
    run_id: Uuid,
    since: DateTime<Utc>,
) -> Result<FailedAgain, Problem> {
    let scan_limit = access.operator().max_scan();
    let page = PageRequest::default().size(NEWEST).scan_limit(scan_limit);
    let page =
        access.store().list(access.app_id, &DeadLetterFilter::failed_again(run_id, since), &page).await?;
    Ok(FailedAgain {
        count: page.items.len(),
        capped: page.next.is_some(),
        letters: page.items.into_iter().take(SAMPLE as usize).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{extract::FromRequestParts, http::Request};
    use dead_letters::{DeadLetterRepo, testing};
    use uuid::Uuid;

    use super::*;
    use crate::{Admin, InsecureAllowAll, Operator, access::Access, problem::ProblemType};

    async fn entered(admin: Admin) -> Access {
        let (mut parts, ()) = Request::new(()).into_parts();
        Access::from_request_parts(&mut parts, &Arc::new(admin)).await.unwrap()
    }

    async fn access(app_id: AppId) -> Access {
        let store = Arc::new(testing::store().await.unwrap());
        store.insert_many(vec![testing::letter(app_id); 3]).await.unwrap();
        entered(Admin::new(store, InsecureAllowAll(Operator::full("ada")))).await
    }

    fn one() -> Step {
        Step { limit: Some(1), ..Step::default() }
    }

    async fn previewed(access: &Access, app_id: AppId, now: DateTime<Utc>) -> Preview {
        let accesses = access.apps("app", &[app_id]).unwrap();
        preview(accesses, Action::Ignored, DeadLetterFilter::default(), now).await.unwrap()
    }

    async fn step(
        access: &Access,
        token: &str,
        step: Step,
        now: DateTime<Utc>,
    ) -> Result<Outcome, ProblemType> {
        let frozen = open(access, token).map_err(|problem| problem.kind())?;
        run(access, frozen, step, now).await.map_err(|problem| problem.kind())
    }

    async fn ran(access: &Access, token: &str, now: DateTime<Utc>) -> Result<u64, ProblemType> {
        step(access, token, one(), now).await.map(|outcome| outcome.done())
    }

    #[tokio::test]
    async fn a_preview_is_valid_for_15_minutes_and_each_run_adds_15() {
        let app_id = AppId::from(Uuid::new_v4());
        let access = access(app_id).await;
        let now = Utc::now();
        let preview = previewed(&access, app_id, now).await;
        assert_eq!(preview.expires_at, now + GOOD_FOR);
        let late = now + GOOD_FOR + TimeDelta::seconds(1);
        assert_eq!(ran(&access, &preview.token, late).await.unwrap_err(), ProblemType::PreviewExpired);
        let first = step(&access, &preview.token, one(), now + GOOD_FOR).await.unwrap();
        assert_eq!(ran(&access, &first.token(&access), late).await, Ok(1));
    }

    #[tokio::test]
    async fn a_replay_is_valid_for_15_minutes_more_than_its_next_stage_waits() {
        let app_id = AppId::from(Uuid::new_v4());
        let access = access(app_id).await;
        let now = Utc::now();
        let mut frozen = open(&access, &previewed(&access, app_id, now).await.token).unwrap();
        (frozen.action, frozen.began) = (Action::Replayed, Some(now));
        let waits = |took| Frozen { took, ..frozen.clone() }.wait();
        assert_eq!([0, 1_860, 1_000_000].map(waits), [MIN_WAIT, TimeDelta::minutes(31), MAX_WAIT]);
        frozen.took = 1_860;
        assert_eq!(frozen.fails_until(), Some(now + TimeDelta::minutes(31)));
        let valid = |minutes| may_continue(&access, &frozen, now + TimeDelta::minutes(minutes));
        // The service has no replay, which is found after the time.
        assert_eq!(valid(46).err().unwrap().kind(), ProblemType::NoReplay);
        assert_eq!(valid(47).err().unwrap().kind(), ProblemType::PreviewExpired);
    }

    #[tokio::test]
    async fn a_preview_is_valid_for_its_operator_and_apps_only() {
        let app_id = AppId::from(Uuid::new_v4());
        let access = access(app_id).await;
        let now = Utc::now();
        let token = previewed(&access, app_id, now).await.token;
        let grace = Access { operator: Arc::new(Operator::full("grace")), ..access.clone() };
        assert_eq!(ran(&grace, &token, now).await, Err(ProblemType::PreviewExpired));
        let elsewhere = Operator::full("ada").of_apps([Uuid::new_v4().into()]);
        let elsewhere = Access { operator: Arc::new(elsewhere), ..access.clone() };
        assert_eq!(ran(&elsewhere, &token, now).await, Err(ProblemType::NotFound));
        assert_eq!(ran(&access, &token[1..], now).await, Err(ProblemType::Invalid));
        assert_eq!(ran(&access, &token, now).await, Ok(1));
    }

    #[tokio::test]
    async fn a_run_that_fails_after_its_first_batch_returns_what_it_did() {
        let app_id = AppId::from(Uuid::new_v4());
        let store = Arc::new(testing::FailingStore::new(testing::store().await.unwrap()));
        for _ in 0..2 {
            store.insert_many(vec![testing::letter(app_id); 600]).await.unwrap();
        }
        let admin = Admin::new(store.clone(), InsecureAllowAll(Operator::full("ada")));
        let access = entered(admin).await;
        let now = Utc::now();
        let preview = previewed(&access, app_id, now).await;
        store.fail(testing::Call::ResolveMatching, 1.., testing::transient());
        let first = step(&access, &preview.token, Step::default(), now).await.unwrap();
        assert_eq!((first.done(), first.more), (1_000, true));
        assert_eq!(first.stopped_by.as_ref().unwrap().kind(), ProblemType::Unavailable);
        store.recover();
        let rest = step(&access, &first.token(&access), Step::default(), now).await.unwrap();
        assert_eq!((rest.done(), rest.frozen.done(), rest.more), (200, 1_200, false));
        assert_eq!(rest.changed_by_others, Some(0));
    }
}
