//! Deletes what is due, for as long as a service runs: over the contract alone, without SQL.
//!
//! Deleting is safe because the store is: each batch is exact and atomic, and passes over what others hold.
//! What is kept here is the pace, and that a failure never ends it.

mod pace;
mod policy;

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    AppId, Archive, CappedCount, DeadLetterRepoError, DeadLetterRetention, Due, SweepCursor, SweepScope,
    Swept, time::jittered,
};
use pace::{Pace, back_off};
use policy::without_failed;
pub use policy::{Retention, RetentionPolicy};

/// The shortest retention that is taken without a second word.
const SHORT: Duration = Duration::from_secs(60 * 60);
/// That a scope may except.
const MAX_APPS: usize = 1_000;

/// Deletes what a [`RetentionPolicy`] says is due, in batches, beside dispatchers at work.
///
/// A tick takes its cutoffs once, sweeps the apps that have a retention of their own, then all others, and
/// goes on until nothing is due. It skips a letter that the database does not delete, counts it as
/// [refused](SweepReport::refused), and tries it again with the next tick. Between two batches it pauses, so that its share of the time is bounded. A
/// batch that runs out of time, or waits too long for a lock, is tried again with half of the rows; full
/// batches make it grow again, by a sixteenth of what is configured.
///
/// Any number of sweepers may be at work on one table: each row is deleted once. They should have the same
/// policy, since the shortest retention is the one that counts.
///
/// [`run`](Self::run) and [`sweep_once`](Self::sweep_once) want a tokio runtime with its time driver. Their
/// futures may be dropped at any time: batches that are done stay so, one that is under way is done or not,
/// as a whole (its letters may then be archived and still there), and the status says idle.
pub struct Sweeper {
    store: Arc<dyn DeadLetterRetention>,
    archive: Option<Arc<dyn Archive>>,
    policy: RetentionPolicy,
    period: Duration,
    batch: u32,
    busy_percent: u32,
    status: watch::Sender<SweeperStatus>,
}

impl Sweeper {
    /// With the defaults of each setting.
    pub fn builder(store: Arc<dyn DeadLetterRetention>, policy: RetentionPolicy) -> SweeperBuilder {
        SweeperBuilder {
            sweeper: Self {
                store,
                archive: None,
                policy,
                period: Duration::from_secs(5 * 60),
                batch: 1_000,
                busy_percent: 25,
                status: watch::Sender::default(),
            },
            short_retention_is_meant: false,
        }
    }

    /// Sweeps at once, and then again and again, until `shutdown` is ready. It is asked before each batch and
    /// in every pause; a batch that is under way ends first.
    ///
    /// No error ends it: the next tick then comes after one second, after further failures two, four and so
    /// on up to five minutes, each time less by up to a half.
    pub async fn run(&self, shutdown: impl Future) {
        let mut stop = Stop::new(shutdown);
        let mut pace = self.pace();
        let mut failures = 0;
        loop {
            let report = self.tick(Utc::now(), &mut pace, &mut stop).await;
            failures = if report.end.is_failure() { failures + 1 } else { 0 };
            let pause = back_off(failures).unwrap_or(self.period);
            if stop.within(jittered(pause)).await {
                return;
            }
        }
    }

    /// One tick, for cron: sweeps what is due at `now` (whose clock should be that of the database's host),
    /// and returns what it did. It ends early once `shutdown` is ready; [`std::future::pending`] never is.
    pub async fn sweep_once(&self, now: DateTime<Utc>, shutdown: impl Future) -> SweepReport {
        self.tick(now, &mut self.pace(), &mut Stop::new(shutdown)).await
    }

    /// What it is doing and did last, for a health check or a page. Of several calls at a time it is the last
    /// one's.
    pub fn status(&self) -> watch::Receiver<SweeperStatus> {
        self.status.subscribe()
    }

    /// [`RetentionPolicy::due_within`] of its policy and store.
    ///
    /// # Errors
    ///
    /// Those of [`count_due`](DeadLetterRetention::count_due).
    pub async fn due_within(
        &self,
        app_id: Option<AppId>,
        now: DateTime<Utc>,
        within: Duration,
        cap: u32,
    ) -> Result<CappedCount, DeadLetterRepoError> {
        self.policy.due_within(&*self.store, app_id, now, within, cap).await
    }

    async fn tick(&self, now: DateTime<Utc>, pace: &mut Pace, stop: &mut Stop<impl Future>) -> SweepReport {
        let mut running = Running::begin(&self.status, now);
        let began = Instant::now();
        let (Done { deleted, refused }, end) = self.sweep_all(now, pace, stop).await;
        let report = SweepReport { began_at: now, took: began.elapsed(), deleted, refused, end };
        if refused > 0 {
            warn!(refused, "letters are due that the database does not delete");
        }
        match &report.end {
            SweepEnd::Failed(error) => warn!(deleted, %error, "sweep failed"),
            SweepEnd::Stopped => info!(deleted, "sweep stopped"),
            SweepEnd::Finished if deleted > 0 => info!(deleted, took = ?report.took, "swept"),
            SweepEnd::Finished => debug!("nothing to sweep"),
        }
        #[cfg(feature = "metrics")]
        crate::metrics::count_sweep(&report);
        running.report = Some(report.clone());
        report
    }

    async fn sweep_all(
        &self,
        now: DateTime<Utc>,
        pace: &mut Pace,
        stop: &mut Stop<impl Future>,
    ) -> (Done, SweepEnd) {
        let mut done = Done::default();
        let mut end = SweepEnd::Finished;
        for step in self.policy.plan(now) {
            let mut left = Some((step.scope, None));
            while let Some((scope, after)) = left {
                if stop.within(pace.pause()).await {
                    return (done, if end.is_failure() { end } else { SweepEnd::Stopped });
                }
                let began = Instant::now();
                let limit = pace.limit();
                let outcome = self.sweep_batch(&scope, step.due, after, limit).await;
                pace.took(began.elapsed());
                left = match outcome {
                    Ok(swept) => {
                        done.add(swept);
                        self.status.send_modify(|status| status.deleted = done.deleted);
                        if swept.picked >= limit.into() {
                            pace.grow();
                        }
                        // A cursor that stands still would be followed for ever.
                        swept.next.filter(|_| swept.next != after).map(|next| (scope, Some(next)))
                    }
                    Err(error) if error.is_time_out() && pace.shrink() => Some((scope, after)),
                    Err(error) => {
                        let others_would_fail_too = fails_others_too(&error);
                        let left = without_failed(scope, &error);
                        // The first error is what is reported.
                        if !end.is_failure() {
                            end = SweepEnd::Failed(error);
                        }
                        if others_would_fail_too {
                            return (done, end);
                        }
                        left
                    }
                };
            }
        }
        (done, end)
    }

    async fn sweep_batch(
        &self,
        scope: &SweepScope,
        due: Due,
        after: Option<SweepCursor>,
        limit: u32,
    ) -> Result<Swept, DeadLetterRepoError> {
        match &self.archive {
            Some(archive) => self.store.sweep_into(scope, due, after, limit, &**archive).await,
            None => self.store.sweep(scope, due, after, limit).await,
        }
    }

    fn pace(&self) -> Pace {
        Pace::new(self.batch, self.busy_percent)
    }
}

impl fmt::Debug for Sweeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweeper")
            .field("policy", &self.policy)
            .field("period", &self.period)
            .field("batch", &self.batch)
            .field("busy_percent", &self.busy_percent)
            .field("archives", &self.archive.is_some())
            .finish_non_exhaustive()
    }
}

/// Whether the rest of a tick would fail alike. What is wrong with one app's rows, a trigger's refusal say,
/// must not keep the other apps' for ever; a batch of one row that runs out of time is such a thing.
fn fails_others_too(error: &DeadLetterRepoError) -> bool {
    matches!(error, DeadLetterRepoError::Archive(_)) || error.is_transient() && !error.is_time_out()
}

/// What the batches of a tick did.
#[derive(Clone, Copy, Default)]
struct Done {
    deleted: u64,
    refused: u64,
}

impl Done {
    fn add(&mut self, swept: Swept) {
        self.deleted += swept.deleted;
        self.refused += swept.picked.saturating_sub(swept.deleted);
    }
}

/// The only place that waits.
struct Stop<F> {
    shutdown: Pin<Box<F>>,
    told: bool,
}

impl<F: Future> Stop<F> {
    fn new(shutdown: F) -> Self {
        Self { shutdown: Box::pin(shutdown), told: false }
    }

    /// Waits so long, or until told to stop, and says whether that is so.
    async fn within(&mut self, pause: Duration) -> bool {
        // A future that was ready must not be polled again.
        self.told = self.told || timeout(pause, self.shutdown.as_mut()).await.is_ok();
        self.told
    }
}

/// Says idle again when it is dropped, and by whatever way.
struct Running<'a> {
    status: &'a watch::Sender<SweeperStatus>,
    report: Option<SweepReport>,
}

impl<'a> Running<'a> {
    fn begin(status: &'a watch::Sender<SweeperStatus>, now: DateTime<Utc>) -> Self {
        status.send_modify(|status| status.running_since = Some(now));
        Self { status, report: None }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.status.send_modify(|status| {
            (status.running_since, status.deleted) = (None, 0);
            let Some(report) = self.report.take() else { return };
            if matches!(report.end, SweepEnd::Finished) {
                status.last_success_at = Some(report.began_at);
            }
            status.last = Some(report);
        });
    }
}

/// What a [`Sweeper`] is doing, and did last.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SweeperStatus {
    /// When the tick that is under way began; `None` is idle.
    pub running_since: Option<DateTime<Utc>>,
    /// Rows that the tick under way deleted so far; 0 is idle, too.
    pub deleted: u64,
    /// The last tick that ended.
    pub last: Option<SweepReport>,
    /// When the last tick began that [finished](SweepEnd::Finished).
    pub last_success_at: Option<DateTime<Utc>>,
}

/// What one tick did.
#[derive(Debug, Clone)]
#[must_use = "it says whether the sweep failed"]
#[non_exhaustive]
pub struct SweepReport {
    /// When it began: the time that its cutoffs are reckoned from.
    pub began_at: DateTime<Utc>,
    /// How long it took, pauses included.
    pub took: Duration,
    /// Rows that it deleted, whatever its end.
    pub deleted: u64,
    /// Rows that were due, and that the database did not delete: a trigger or a policy forbids it. It skipped them. One
    /// that is due both by its age and by when it was settled counts twice.
    pub refused: u64,
    /// How it ended.
    pub end: SweepEnd,
}

/// How a tick ended.
#[derive(Debug, Clone)]
pub enum SweepEnd {
    /// Nothing is due any more, but what other transactions have locked and what the database
    /// [refused](SweepReport::refused) to delete.
    Finished,
    /// It was told to stop.
    Stopped,
    /// The first error that it met. Errors that would meet every batch (the database is out of reach, the
    /// archive fails) ended it; after others, such as one that a trigger raised, it went on with the next app.
    Failed(DeadLetterRepoError),
}

impl SweepEnd {
    fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// A [`Sweeper`]'s settings.
#[derive(Debug)]
pub struct SweeperBuilder {
    sweeper: Sweeper,
    short_retention_is_meant: bool,
}

impl SweeperBuilder {
    /// The pause from one tick to the next at most; half of it at least, so that sweepers which began
    /// together do not go on together. Five minutes by default.
    pub fn every(mut self, period: Duration) -> Self {
        self.sweeper.period = period;
        self
    }

    /// Rows a batch deletes at most: 1,000 by default.
    pub fn batch(mut self, rows: u32) -> Self {
        self.sweeper.batch = rows;
        self
    }

    /// Its share of the time at most, from 1 to 100: 25 by default. After a batch of 20 ms it pauses for 60.
    pub fn busy_percent(mut self, percent: u32) -> Self {
        self.sweeper.busy_percent = percent;
        self
    }

    /// Rows go into this archive before their deletion commits.
    pub fn archive(mut self, archive: Arc<dyn Archive>) -> Self {
        self.sweeper.archive = Some(archive);
        self
    }

    /// A retention of less than an hour is no mistake.
    pub fn short_retention_is_meant(mut self) -> Self {
        self.short_retention_is_meant = true;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// What each variant of [`SweeperConfigError`] says.
    pub fn build(self) -> Result<Sweeper, SweeperConfigError> {
        let Sweeper { policy, period, batch, busy_percent, .. } = &self.sweeper;
        if let Some((app_id, field, value)) =
            policy.shortest().filter(|&(.., value)| value < SHORT && !self.short_retention_is_meant)
        {
            return Err(SweeperConfigError::ShortRetention { app_id, field, value });
        }
        if policy.apps.len() > MAX_APPS {
            return Err(SweeperConfigError::TooManyApps(policy.apps.len()));
        }
        if *period < Duration::from_secs(1) {
            return Err(SweeperConfigError::ShortPeriod(*period));
        }
        for (argument, value, max) in [("batch", *batch, u32::MAX), ("busy_percent", *busy_percent, 100)] {
            if !(1..=max).contains(&value) {
                return Err(SweeperConfigError::OutOfRange { argument, value, min: 1, max });
            }
        }
        Ok(self.sweeper)
    }
}

/// Why a [`Sweeper`] is not built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SweeperConfigError {
    /// A retention is less than an hour, and nobody said that it is meant.
    #[error(
        "{field} of {} is {value:?}, less than an hour: short_retention_is_meant says that it is meant",
        app_id.map_or("the other apps".to_owned(), |app_id| format!("app {app_id}"))
    )]
    ShortRetention {
        /// The app whose own it is.
        app_id: Option<AppId>,
        /// The field's name in [`Retention`].
        field: &'static str,
        /// What was passed.
        value: Duration,
    },
    /// More than 1,000 apps have a retention of their own.
    #[error("{0} apps have a retention of their own, and at most 1,000 may")]
    TooManyApps(usize),
    /// The period is less than a second.
    #[error("the period is {0:?}, and must be at least a second")]
    ShortPeriod(Duration),
    /// A number is outside what it may be.
    #[error("{argument} must be from {min} to {max}, and is {value}")]
    OutOfRange {
        /// The setting's name.
        argument: &'static str,
        /// What was passed.
        value: u32,
        /// The least that is taken.
        min: u32,
        /// The most that is taken.
        max: u32,
    },
}
