//! Bulk actions, which resolve, replay, reopen or delete: a frozen preview, and runs that change only the previewed letters.
//!
//! The preview's token holds the operator, the app, the filter, and the time before which a letter must have failed or
//! been closed.
//! It is sealed and sent to the browser; the server keeps nothing.
//!
//! If the client hangs up, the run ends after the current batch. If the run is dropped, the current batch commits or
//! rolls back as a whole. The same token continues where the run stopped, since changed letters no longer match.

use std::{ops::Not, str::FromStr, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::{
    AppId, Attribution, CappedCount, CountRequest, Cursor, DeadLetterFilter, DeadLetterId, DeadLetterReplay,
    DeadLetterRepoError, DeadLetterState, DeadLetterSummary, ListQuery, PageRequest, ReopenRequest,
    ReplayFailure, ReplayRate, ReplayRequest, Replayed, Resolution,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    access::{AppAccess, Right},
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

/// The content of a preview's token: what a run may change, and the progress so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Frozen {
    operator: String,
    app_id: AppId,
    action: Action,
    query: ListQuery,
    counted: u64,
    capped: bool,
    at: DateTime<Utc>,
    done: u64,
    /// Letters that the service could not requeue.
    #[serde(default, skip_serializing_if = "is_zero")]
    failed: u64,
    /// The cursor of the last failed letter, behind which the next batch begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<Cursor>,
    /// Whether locked letters were skipped that no further run of this preview reaches.
    #[serde(default, skip_serializing_if = "Not::not")]
    skipped_locked: bool,
    run_id: Uuid,
    began: Option<DateTime<Utc>>,
}

/// Returns whether a field can be left out of a token. Tokens are parts of addresses and must be short.
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

pub(crate) struct Preview {
    pub(crate) filter: DeadLetterFilter,
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
    pub(crate) token: String,
    pub(crate) expires_at: DateTime<Utc>,
}

pub(crate) struct Outcome {
    pub(crate) action: Action,
    /// The preview's filter, with its cutoff.
    pub(crate) filter: DeadLetterFilter,
    /// The preview's count.
    pub(crate) counted: u64,
    pub(crate) capped: bool,
    /// Letters that this run changed.
    pub(crate) done: u64,
    /// Letters that this run and earlier runs of the preview changed.
    pub(crate) done_so_far: u64,
    /// Letters that the service could not requeue in this run. They stay open.
    pub(crate) failures: Vec<Failure>,
    /// Number of letters that the service could not requeue in this run and earlier runs of the preview.
    pub(crate) failed_so_far: u64,
    /// Whether another run may change more letters. All runs together change no more than the preview counted.
    pub(crate) more: bool,
    /// Whether letters may match that the preview did not count.
    pub(crate) uncounted: bool,
    /// Whether locked letters were skipped.
    pub(crate) skipped_locked: bool,
    /// Letters of the preview that others changed or that were swept. Known after the last run, if the count was
    /// exact.
    pub(crate) changed_by_others: Option<u64>,
    /// When the first run began, by the database's clock.
    pub(crate) began: DateTime<Utc>,
    /// The run's id, which is stored with each letter that it resolves.
    pub(crate) run_id: Uuid,
    /// The problem that stopped the run after a part of it was done.
    pub(crate) stopped_by: Option<Problem>,
    /// The token for the next run.
    pub(crate) token: String,
}

impl Outcome {
    /// Returns the id of the run, if the run can be undone. The events of a replay are back in the outbox.
    pub(crate) fn undo(&self) -> Option<Uuid> {
        matches!(self.action, Action::Ignored | Action::HandledByScript).then_some(self.run_id)
    }
}

/// A letter that the service could not requeue.
#[derive(Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) id: DeadLetterId,
    /// The service's error message, cut after [`MAX_REASON_CHARACTERS`].
    pub(crate) reason: String,
}

impl FailedAgain {
    /// Returns whether a staged replay stops here.
    pub(crate) fn stops(&self) -> bool {
        self.count > 0 || self.capped
    }
}

impl From<ReplayFailure> for Failure {
    fn from(failure: ReplayFailure) -> Self {
        let reason = failure.reason();
        let reason = match reason.char_indices().nth(MAX_REASON_CHARACTERS) {
            Some((end, _)) => format!("{}…", &reason[..end]),
            None => reason,
        };
        Self { id: failure.id, reason }
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

/// Counts the letters that a run would change, and freezes the filter.
pub(crate) async fn preview(
    access: &AppAccess,
    action: Action,
    filter: DeadLetterFilter,
    now: DateTime<Utc>,
) -> Result<Preview, Problem> {
    may_run(access, action)?;
    check_filter(access, &filter)?;
    let (store, app_id) = (access.store(), access.app_id);
    let scan_limit = access.operator().max_scan();
    let mut filter = match action {
        Action::Reopened => reopenable(access, &filter).await?,
        Action::Deleted => deletable(filter)?,
        _ => resolvable(access, action, filter)?,
    };
    let by_closing = action == Action::Reopened
        || action == Action::Deleted && filter.effective_state() == DeadLetterState::Closed;
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
    // A run begins with the oldest letter, so the filter excludes older letters that the count did not examine.
    match filter.effective_state() {
        DeadLetterState::Closed => filter.resolved_from = filter.resolved_from.max(count.scanned_back_to),
        _ => filter.created_from = filter.created_from.max(count.scanned_back_to),
    }
    let mut cutoff = count.as_of;
    if by_closing {
        cutoff = filter.resolved_before.map_or(count.now, |at| at.min(count.now));
        // The id of a run leaves out later changes by itself.
        if filter.run_id.is_none() {
            filter.resolved_before = Some(cutoff);
        }
    } else if filter.ids.is_none() {
        if let Some(filter) = filter.ahead_of(count.as_of) {
            let found = store
                .count(app_id, &filter, &CountRequest::default().cap(LEFT_OUT_CAP).scan_limit(scan_limit))
                .await?;
            let capped = found.matching.capped || found.scanned_back_to.is_some();
            ahead = CappedCount { capped, ..found.matching };
        }
        filter.created_before = Some(count.as_of);
    }
    let page = PageRequest::default().size(SAMPLE).scan_limit(scan_limit);
    let sample = store.list(app_id, &filter, &page).await?.items;
    let CappedCount { count: counted, capped } = count.matching;
    let capped = capped || count.scanned_back_to.is_some();
    let frozen = Frozen {
        operator: access.operator().name().to_owned(),
        app_id,
        action,
        query: filter.clone().into(),
        counted,
        capped,
        at: now,
        done: 0,
        failed: 0,
        after: None,
        skipped_locked: false,
        run_id: Uuid::now_v7(),
        began: None,
    };
    Ok(Preview {
        filter,
        count: counted,
        capped,
        cutoff,
        ahead,
        truncated,
        sample,
        token: access.admin().key.seal(Purpose::Preview, &frozen),
        expires_at: now + GOOD_FOR,
    })
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

/// Returns the filter for the letters to reopen. The events of replayed letters are back in the outbox, so the request
/// must name that resolution.
async fn reopenable(access: &AppAccess, filter: &DeadLetterFilter) -> Result<DeadLetterFilter, Problem> {
    let filter = filter.reopenable().ok_or_else(|| {
        Problem::invalid_field("state", "must be closed or any, because only closed letters are reopened")
    })?;
    if filter.resolution.is_none() {
        let replayed = filter.clone().resolution(Resolution::Replayed);
        let request = CountRequest::default().cap(1).scan_limit(access.operator().max_scan());
        if access.store().count(access.app_id, &replayed, &request).await?.matching.count > 0 {
            return Err(Problem::invalid_field(
                "resolution",
                "is missing, and replayed letters match, whose events are back in the outbox: choose the resolution \
                 to reopen",
            ));
        }
    }
    Ok(filter)
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

/// Changes the preview's letters: the oldest first, or those that were closed first.
pub(crate) async fn run(
    access: &AppAccess,
    token: &str,
    step: Step,
    now: DateTime<Utc>,
) -> Result<Outcome, Problem> {
    let frozen = open(access, token, now)?;
    may_run(access, frozen.action)?;
    check_filter(access, &frozen.query.filter)?;
    let attribution = attribution(access, step.note)?.run_id(frozen.run_id);
    if step.limit.is_some_and(|limit| !(1..=1_000).contains(&limit)) {
        return Err(Problem::invalid_field("limit", "must be between 1 and 1,000"));
    }
    if step.rate.is_some() && frozen.action != Action::Replayed {
        return Err(Problem::invalid_field("rate", "must be left out, because only a replay has a rate"));
    }
    let rate = step.rate.map(ReplayRate::per_second).transpose()?;
    let mut entry = Entry::of_matching(access, frozen.action.as_str(), &frozen.query.filter, frozen.run_id);
    let result = run_frozen(access, frozen, &attribution, step.limit, rate, now, &mut entry).await;
    entry.ended(result.as_ref().and_then(|outcome| outcome.stopped_by.as_ref().map_or(Ok(()), Err)));
    result
}

fn open(access: &AppAccess, token: &str, now: DateTime<Utc>) -> Result<Frozen, Problem> {
    let frozen: Option<Frozen> = access.admin().key.open(Purpose::Preview, token);
    let frozen = frozen.ok_or_else(|| {
        Problem::invalid_field(
            "token",
            "is not a token of a preview, or another process created it (Admin::key): create a new preview",
        )
    })?;
    if frozen.operator != access.operator().name() || frozen.app_id != access.app_id {
        return Err(Problem::preview_expired(
            "the preview belongs to another operator or app: create a new one",
        ));
    }
    // A preview from the future is valid, because it comes from a replica whose clock is ahead.
    if now.signed_duration_since(frozen.at) > GOOD_FOR {
        return Err(Problem::preview_expired("a preview expires after 15 minutes: create a new one"));
    }
    Ok(frozen)
}

async fn run_frozen(
    access: &AppAccess,
    mut frozen: Frozen,
    attribution: &Attribution,
    limit: Option<u32>,
    rate: Option<ReplayRate>,
    now: DateTime<Utc>,
    entry: &mut Entry<'_>,
) -> Result<Outcome, Problem> {
    // Only a replay may resolve letters as `replayed`, whatever was checked before.
    let replay = match frozen.action {
        Action::Replayed => Some(access.replay()?),
        _ => None,
    };
    let began = match frozen.began {
        Some(began) => began,
        None => clock::now(access).await?,
    };
    let deadline = Instant::now() + RUN_TIME;
    // A transaction that began before the count and commits after it adds a letter, so the count is the limit.
    let counted = frozen.counted.saturating_sub(frozen.done).saturating_sub(frozen.failed);
    let mut left = limit.unwrap_or(u32::MAX).min(u32::try_from(counted).unwrap_or(u32::MAX));
    let mut done = 0;
    let mut failures = Vec::new();
    let mut skipped_locked = false;
    let (more, stopped_by) = loop {
        if left == 0 {
            break (true, None);
        }
        let began = Instant::now();
        let largest = rate.map_or(left, |rate| rate.batch(left.into()));
        match batch(access, replay, &frozen, attribution, largest).await {
            Ok(batch) => {
                let count = batch.ids.len() as u64;
                done += count;
                entry.did(count);
                let examined = u32::try_from(batch.ids.len() + batch.failed.len()).unwrap_or(u32::MAX);
                left = left.saturating_sub(examined);
                frozen.failed += batch.failed.len() as u64;
                frozen.after = batch.next;
                failures.extend(batch.failed.into_iter().map(Failure::from));
                skipped_locked |= batch.skipped_locked;
                if let Some(error) = batch.stopped {
                    break (true, Some(error.into()));
                }
                // If the client hung up, the run stops, since the operator may not want the rest.
                if !batch.more || failures.len() >= MAX_FAILURES || access.is_given_up() {
                    break (batch.more, None);
                }
                if let Some(rate) = rate {
                    // The run also waits after its last batch, because the next run may follow at once.
                    sleep(rate.pause(batch.ids.len(), began.elapsed())).await;
                }
                if Instant::now() >= deadline {
                    break (true, None);
                }
            }
            Err(error) if done == 0 && failures.is_empty() => return Err(error.into()),
            // The batches before are committed, so the run reports them.
            Err(error) => break (true, Some(error.into())),
        }
    };
    frozen.done += done;
    let more = more && frozen.done + frozen.failed < frozen.counted;
    let uncounted = !more && frozen.capped;
    let changed_by_others = match more || frozen.capped {
        true => None,
        // The run is reported even if this count fails.
        false => changed_by_others(access, &frozen).await.ok(),
    };
    // The next run begins behind the failed letters, and so behind the locked letters before them.
    frozen.skipped_locked |= skipped_locked && frozen.after.is_some();
    frozen.began = Some(began);
    frozen.at = now;
    Ok(Outcome {
        action: frozen.action,
        counted: frozen.counted,
        capped: frozen.capped,
        done,
        done_so_far: frozen.done,
        failures,
        failed_so_far: frozen.failed,
        more,
        uncounted,
        skipped_locked: skipped_locked || frozen.skipped_locked,
        changed_by_others,
        began,
        run_id: frozen.run_id,
        stopped_by,
        token: access.admin().key.seal(Purpose::Preview, &frozen),
        filter: frozen.query.filter,
    })
}

async fn batch(
    access: &AppAccess,
    replay: Option<&dyn DeadLetterReplay>,
    frozen: &Frozen,
    attribution: &Attribution,
    left: u32,
) -> Result<Replayed, DeadLetterRepoError> {
    let (app_id, filter) = (access.app_id, &frozen.query.filter);
    match replay {
        Some(replay) => {
            let request = ReplayRequest::default().after(frozen.after).limit(left.min(REPLAY_BATCH));
            replay.replay_matching(app_id, filter, attribution, &request).await
        }
        None => {
            let (store, limit) = (access.store(), left.min(RESOLVE_BATCH));
            let changed = match (frozen.action, frozen.action.resolution()) {
                (_, Some(to)) => store.resolve_matching(app_id, filter, to, attribution, limit).await?,
                (Action::Deleted, None) => store.delete_matching(app_id, filter, attribution, limit).await?,
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

/// Returns the counted letters minus those that the runs changed and those that still match.
async fn changed_by_others(access: &AppAccess, frozen: &Frozen) -> Result<u64, Problem> {
    let scan_limit = access.operator().max_scan();
    let left = access
        .store()
        .count(
            access.app_id,
            &frozen.query.filter,
            &CountRequest::default().cap(COUNT_CAP).scan_limit(scan_limit),
        )
        .await?;
    Ok(frozen.counted.saturating_sub(frozen.done).saturating_sub(left.matching.count))
}

/// Returns the letters that were stored since `since` and whose event the run of this token replayed.
pub(crate) async fn failed_again(
    access: &AppAccess,
    token: &str,
    since: DateTime<Utc>,
) -> Result<FailedAgain, Problem> {
    let frozen: Option<Frozen> = access.admin().key.open(Purpose::Preview, token);
    let run_id = frozen.ok_or_else(|| Problem::invalid_field("run", "is not a token of a run"))?.run_id;
    let filter = DeadLetterFilter::default()
        .state(DeadLetterState::Any)
        .failed_again_in_run(run_id)
        .created_from(since);
    let scan_limit = access.operator().max_scan();
    let page = PageRequest::default().size(NEWEST).scan_limit(scan_limit);
    let page = access.store().list(access.app_id, &filter, &page).await?;
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

    async fn ran(access: &AppAccess, token: &str, now: DateTime<Utc>) -> Result<u64, ProblemType> {
        let outcome = run(access, token, one(), now).await;
        outcome.map(|outcome| outcome.done).map_err(|problem| problem.kind())
    }

    #[tokio::test]
    async fn a_preview_is_valid_for_15_minutes_and_each_run_adds_15() {
        let app_id = AppId::from(Uuid::new_v4());
        let access = access(app_id).await.app(app_id).unwrap();
        let (now, filter) = (Utc::now(), DeadLetterFilter::default());
        let preview = preview(&access, Action::Ignored, filter, now).await.unwrap();
        assert_eq!(preview.expires_at, now + GOOD_FOR);
        let late = now + GOOD_FOR + TimeDelta::seconds(1);
        assert_eq!(ran(&access, &preview.token, late).await, Err(ProblemType::PreviewExpired));
        let first = run(&access, &preview.token, one(), now + GOOD_FOR).await.unwrap();
        assert_eq!(ran(&access, &first.token, late).await, Ok(1));
    }

    #[tokio::test]
    async fn a_preview_is_valid_for_its_operator_and_app_only() {
        let app_id = AppId::from(Uuid::new_v4());
        let access = access(app_id).await;
        let now = Utc::now();
        let ada = access.clone().app(app_id).unwrap();
        let token = preview(&ada, Action::Ignored, DeadLetterFilter::default(), now).await.unwrap().token;
        let grace = Access { operator: Arc::new(Operator::full("grace")), ..access.clone() };
        let others = [grace.app(app_id), access.app(Uuid::new_v4().into())];
        for other in others {
            assert_eq!(ran(&other.unwrap(), &token, now).await, Err(ProblemType::PreviewExpired));
        }
        assert_eq!(ran(&ada, &token[1..], now).await, Err(ProblemType::Invalid));
        assert_eq!(ran(&ada, &token, now).await, Ok(1));
    }

    #[tokio::test]
    async fn a_run_that_fails_after_its_first_batch_returns_what_it_did() {
        let app_id = AppId::from(Uuid::new_v4());
        let store = Arc::new(testing::FailingStore::new(testing::store().await.unwrap()));
        for _ in 0..2 {
            store.insert_many(vec![testing::letter(app_id); 600]).await.unwrap();
        }
        let admin = Admin::new(store.clone(), InsecureAllowAll(Operator::full("ada")));
        let access = entered(admin).await.app(app_id).unwrap();
        let now = Utc::now();
        let preview = preview(&access, Action::Ignored, DeadLetterFilter::default(), now).await.unwrap();
        store.fail(testing::Call::ResolveMatching, 1.., testing::transient());
        let outcome = run(&access, &preview.token, Step::default(), now).await.unwrap();
        assert_eq!((outcome.done, outcome.more), (1_000, true));
        assert_eq!(outcome.stopped_by.unwrap().kind(), ProblemType::Unavailable);
        store.recover();
        let outcome = run(&access, &outcome.token, Step::default(), now).await.unwrap();
        assert_eq!((outcome.done, outcome.done_so_far, outcome.more), (200, 1_200, false));
        assert_eq!(outcome.changed_by_others, Some(0));
    }
}
