//! Deletes due letters while a service runs, through the retention trait and without SQL of its own.
//!
//! The store makes each batch exact and atomic, and skips locked rows. This module adds the pace, and continues after
//! failures.

mod pace;
mod policy;

use std::{
    fmt,
    future::{Future, pending},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};

use crate::{
    AppId, Archive, CappedCount, DeadLetterRepoError, DeadLetterRetention, Due, SweepCursor, SweepScope,
    Swept,
    background::{Stop, back_off},
    count::separated,
    error::bounds,
    time::jittered,
};
use pace::Pace;
use policy::{DELETE_ACTIONS_AFTER, without_failed};
pub use policy::{Retention, RetentionPolicy};

/// The shortest retention that `build` accepts without `short_retention_is_meant`.
const SHORT: Duration = Duration::from_secs(60 * 60);
/// How many apps a scope may except.
const MAX_APPS: usize = 1_000;

/// Deletes the letters that are due under a [`RetentionPolicy`], in batches, while dispatchers work.
///
/// A tick computes its cutoffs once. It sweeps the apps that have a retention of their own, then all others, until
/// nothing is due. A letter that the database does not delete is skipped, counted as [refused](SweepReport::refused),
/// and tried again in the next tick.
///
/// The sweeper pauses between two batches, which bounds its share of the time. A batch that runs out of time, or
/// waits too long for a lock, is retried with half as many letters. Full batches make the size grow again, by a
/// sixteenth of the configured size.
///
/// Any number of sweepers may work on one table, and each letter is deleted once. Give them the same policy, because
/// the shortest retention decides.
///
/// [`run`](Self::run) and [`sweep_once`](Self::sweep_once) need a tokio runtime with its time driver. Their futures
/// may be dropped at any time. Batches that committed stay deleted. The current batch is done or not, as a whole, and
/// its letters may then be archived and still stored. The status becomes idle.
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
    /// Returns a builder with the default of each setting.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    ///
    /// use dead_letters::{Retention, RetentionPolicy, Sweeper};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// let others = Retention::default().delete_closed_after(30 * DAY).delete_all_after(90 * DAY);
    /// let sweeper = Sweeper::builder(Arc::new(repo), RetentionPolicy::new(others)).build()?;
    /// # _ = sweeper;
    /// # Ok(())
    /// # }
    /// ```
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

    /// Sweeps at once, and then repeatedly, until `shutdown` is ready.
    ///
    /// The sweeper polls `shutdown` before each batch and in every pause. On shutdown it finishes the current batch.
    ///
    /// Errors do not stop the sweeper. After the first failure the next tick comes after one second. Each further
    /// failure doubles the pause, up to five minutes. Jitter shortens each pause by up to a half.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use dead_letters::{RetentionPolicy, Sweeper};
    /// use tokio::sync::oneshot;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let policy = RetentionPolicy::default();
    /// let sweeper = Sweeper::builder(Arc::new(repo), policy).build()?;
    /// let (stop, stopped) = oneshot::channel::<()>();
    /// let sweeping = tokio::spawn(async move { sweeper.run(stopped).await });
    /// // When the service ends:
    /// drop(stop);
    /// sweeping.await?;
    /// # Ok(())
    /// # }
    /// ```
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

    /// Runs one tick, for cron: sweeps what is due at `now`, and returns a report.
    ///
    /// `now` should come from the clock of the database's host.
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::Utc;
    /// use dead_letters::SweepEnd;
    /// # use std::{sync::Arc, time::Duration};
    /// # use dead_letters::{Retention, RetentionPolicy, Sweeper};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let old = dead_letters::testing::stored_letter(app, Utc::now() - chrono::TimeDelta::days(91));
    /// # dead_letters::DeadLetterTransfer::import(&repo, &[old]).await?;
    /// # let policy = RetentionPolicy::new(Retention::default().delete_all_after(Duration::from_secs(90 * 86_400)));
    /// # let sweeper = Sweeper::builder(Arc::new(repo), policy).build()?;
    /// let report = sweeper.sweep_once(Utc::now()).await;
    /// println!("{} letters were deleted in {:?}", report.deleted, report.took);
    /// if let SweepEnd::Failed(error) = report.end {
    ///     return Err(error.into());
    /// }
    /// # assert_eq!(report.deleted, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn sweep_once(&self, now: DateTime<Utc>) -> SweepReport {
        self.sweep_once_until(now, pending::<()>()).await
    }

    /// Runs one tick as [`sweep_once`](Self::sweep_once) does, and ends it early once `shutdown` is ready, after the
    /// current batch.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use chrono::Utc;
    /// use tokio::time::sleep;
    /// # use std::sync::Arc;
    /// # use dead_letters::{RetentionPolicy, SweepEnd, Sweeper};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let sweeper = Sweeper::builder(Arc::new(repo), RetentionPolicy::default()).build()?;
    /// // At night, for an hour at most.
    /// let report = sweeper.sweep_once_until(Utc::now(), sleep(Duration::from_secs(60 * 60))).await;
    /// # assert!(matches!(report.end, SweepEnd::Finished));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn sweep_once_until(&self, now: DateTime<Utc>, shutdown: impl Future) -> SweepReport {
        self.tick(now, &mut self.pace(), &mut Stop::new(shutdown)).await
    }

    /// Returns a receiver of the sweeper's status, for a health check or a page. If several calls run at the same
    /// time, the status is that of the last one.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chrono::Utc;
    /// # use dead_letters::{RetentionPolicy, Sweeper};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let sweeper = Sweeper::builder(Arc::new(repo), RetentionPolicy::default()).build()?;
    /// let status = sweeper.status();
    /// assert!(status.borrow().last_success_at.is_none());
    /// # let _ =
    /// sweeper.sweep_once(Utc::now()).await;
    /// assert!(status.borrow().last_success_at.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn status(&self) -> watch::Receiver<SweeperStatus> {
        self.status.subscribe()
    }

    /// Calls [`RetentionPolicy::due_within`] with the sweeper's policy and store.
    ///
    /// # Errors
    ///
    /// Those of [`count_due`](DeadLetterRetention::count_due).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use chrono::Utc;
    /// # use std::sync::Arc;
    /// # use dead_letters::{Retention, RetentionPolicy, Sweeper};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let old = dead_letters::testing::stored_letter(app, Utc::now() - chrono::TimeDelta::days(88));
    /// # dead_letters::DeadLetterTransfer::import(&repo, &[old]).await?;
    /// # let policy = RetentionPolicy::new(Retention::default().delete_all_after(Duration::from_secs(90 * 86_400)));
    /// # let sweeper = Sweeper::builder(Arc::new(repo), policy).build()?;
    /// const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
    /// let soon = sweeper.due_within(None, Utc::now(), WEEK, 1_000).await?;
    /// println!("{soon} open letters will be deleted within a week");
    /// # assert_eq!(soon.count, 1);
    /// # Ok(())
    /// # }
    /// ```
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
        let (mut done, mut end) = self.sweep_all(now, pace, stop).await;
        if !end.ends_the_tick() {
            let of_actions = self.sweep_actions(now, pace, stop, &mut done).await;
            // The report shows the first error of the tick.
            if !end.is_failure() {
                end = of_actions;
            }
        }
        let Done { deleted, refused, actions_deleted } = done;
        let report =
            SweepReport { began_at: now, took: began.elapsed(), deleted, refused, actions_deleted, end };
        if refused > 0 {
            warn!(refused, "letters are due that the database does not delete");
        }
        match &report.end {
            SweepEnd::Failed(error) => warn!(deleted, %error, "sweep failed"),
            SweepEnd::Stopped => info!(deleted, "sweep stopped"),
            SweepEnd::Finished if deleted + actions_deleted > 0 => {
                info!(deleted, actions_deleted, took = ?report.took, "swept");
            }
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
                        // A loop with a cursor that does not advance would never end.
                        swept.next.filter(|_| swept.next != after).map(|next| (scope, Some(next)))
                    }
                    Err(error) if error.is_time_out() && pace.shrink() => Some((scope, after)),
                    Err(error) => {
                        let others_would_fail_too = fails_others_too(&error);
                        let left = without_failed(scope, &error);
                        // The report shows the first error of the tick.
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

    /// Deletes the due rows of the history. No archive gets them.
    async fn sweep_actions(
        &self,
        now: DateTime<Utc>,
        pace: &mut Pace,
        stop: &mut Stop<impl Future>,
        done: &mut Done,
    ) -> SweepEnd {
        let Some(before) = self.policy.actions_before(now) else { return SweepEnd::Finished };
        let mut first_app = None;
        loop {
            if stop.within(pace.pause()).await {
                return SweepEnd::Stopped;
            }
            let began = Instant::now();
            let limit = pace.limit();
            let outcome = self.store.sweep_actions(before, first_app, limit).await;
            pace.took(began.elapsed());
            match outcome {
                Ok(swept) => {
                    done.actions_deleted += swept.deleted;
                    if swept.deleted >= limit.into() {
                        pace.grow();
                    }
                    // A loop that does not advance would never end.
                    if swept.next.is_none() || swept.deleted == 0 && swept.next == first_app {
                        return SweepEnd::Finished;
                    }
                    first_app = swept.next;
                }
                Err(error) if error.is_time_out() && pace.shrink() => {}
                Err(error) => return SweepEnd::Failed(error),
            }
        }
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

/// Returns whether the rest of a tick would fail too.
///
/// An error about one app's letters, such as one that a trigger raises, must not keep the other apps from being swept
/// forever. A batch of one letter that runs out of time is such an error.
fn fails_others_too(error: &DeadLetterRepoError) -> bool {
    matches!(error, DeadLetterRepoError::Archive(_)) || error.is_transient() && !error.is_time_out()
}

/// The totals of a tick's batches.
#[derive(Clone, Copy, Default)]
struct Done {
    deleted: u64,
    refused: u64,
    actions_deleted: u64,
}

impl Done {
    fn add(&mut self, swept: Swept) {
        self.deleted += swept.deleted;
        self.refused += swept.picked.saturating_sub(swept.deleted);
    }
}

/// Sets the status to idle when it is dropped, however the tick ends.
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

/// The status of a [`Sweeper`]: what it is doing, and what it did last.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SweeperStatus {
    /// When the current tick began. `None` if the sweeper is idle.
    pub running_since: Option<DateTime<Utc>>,
    /// How many letters the current tick has deleted so far. 0 if the sweeper is idle.
    pub deleted: u64,
    /// The last tick that ended.
    pub last: Option<SweepReport>,
    /// When the last tick began that [finished](SweepEnd::Finished).
    pub last_success_at: Option<DateTime<Utc>>,
}

/// The result of one tick.
#[derive(Debug, Clone)]
#[must_use = "it says whether the sweep failed"]
#[non_exhaustive]
pub struct SweepReport {
    /// When the tick began: the time that its cutoffs are computed from.
    pub began_at: DateTime<Utc>,
    /// How long the tick took, pauses included.
    pub took: Duration,
    /// How many letters the tick deleted, however it ended.
    pub deleted: u64,
    /// How many due letters the database did not delete, because a trigger or a policy forbids it. The tick skipped
    /// them. A letter that is due both by its age and by when it was resolved counts twice.
    pub refused: u64,
    /// How many rows of the history the tick deleted
    /// ([`delete_actions_after`](RetentionPolicy::delete_actions_after)).
    pub actions_deleted: u64,
    /// How the tick ended.
    pub end: SweepEnd,
}

/// How a tick ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SweepEnd {
    /// Nothing is due any more, except for letters that other transactions have locked and letters that the database
    /// [refused](SweepReport::refused) to delete.
    Finished,
    /// The tick was told to stop.
    Stopped,
    /// The tick failed; this is its first error. An error that would affect every batch (the database is out of
    /// reach, the archive fails) ended the tick. After any other error, such as one that a trigger raised, the tick
    /// continued with the next app.
    Failed(DeadLetterRepoError),
}

impl SweepEnd {
    /// Returns whether the rest of the tick is left to the next one.
    fn ends_the_tick(&self) -> bool {
        match self {
            Self::Finished => false,
            Self::Stopped => true,
            Self::Failed(error) => fails_others_too(error),
        }
    }

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
    /// Sets the longest pause between two ticks, five minutes by default.
    ///
    /// The shortest is half of it, so that sweepers that started together do not stay in step.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    ///
    /// use dead_letters::{RetentionPolicy, Sweeper};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let policy = RetentionPolicy::default();
    /// let sweeper = Sweeper::builder(Arc::new(repo), policy).every(Duration::from_secs(60 * 60)).build()?;
    /// # _ = sweeper;
    /// # Ok(())
    /// # }
    /// ```
    pub fn every(mut self, period: Duration) -> Self {
        self.sweeper.period = period;
        self
    }

    /// Sets how many letters a batch deletes at most, 1,000 by default.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use dead_letters::{RetentionPolicy, Sweeper};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let policy = RetentionPolicy::default();
    /// // Short transactions, for letters with large payloads.
    /// let sweeper = Sweeper::builder(Arc::new(repo), policy).batch(100).build()?;
    /// # _ = sweeper;
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch(mut self, rows: u32) -> Self {
        self.sweeper.batch = rows;
        self
    }

    /// Sets the sweeper's largest share of the time in percent, from 1 to 100, 25 by default. With 25, the sweeper
    /// pauses for 60 ms after a batch of 20 ms.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use dead_letters::{RetentionPolicy, Sweeper};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let policy = RetentionPolicy::default();
    /// // No pauses, for a tick of cron when nobody works.
    /// let sweeper = Sweeper::builder(Arc::new(repo), policy).busy_percent(100).build()?;
    /// # _ = sweeper;
    /// # Ok(())
    /// # }
    /// ```
    pub fn busy_percent(mut self, percent: u32) -> Self {
        self.sweeper.busy_percent = percent;
        self
    }

    /// Sets an archive, which gets the letters before their deletion commits.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use dead_letters::{JsonLinesArchive, RetentionPolicy, Sweeper};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let policy = RetentionPolicy::default();
    /// let archive = Arc::new(JsonLinesArchive::new("/var/lib/orders/dead-letters"));
    /// let sweeper = Sweeper::builder(Arc::new(repo), policy).archive(archive).build()?;
    /// # _ = sweeper;
    /// # Ok(())
    /// # }
    /// ```
    pub fn archive(mut self, archive: Arc<dyn Archive>) -> Self {
        self.sweeper.archive = Some(archive);
        self
    }

    /// Allows a retention of less than an hour.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    ///
    /// use dead_letters::{Retention, RetentionPolicy, Sweeper};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// // For a test, which can't wait for an hour.
    /// let at_once = RetentionPolicy::new(Retention::default().delete_all_after(Duration::ZERO));
    /// let sweeper = Sweeper::builder(Arc::new(repo), at_once).short_retention_is_meant().build()?;
    /// # _ = sweeper;
    /// # Ok(())
    /// # }
    /// ```
    pub fn short_retention_is_meant(mut self) -> Self {
        self.short_retention_is_meant = true;
        self
    }

    /// Checks the settings, and returns the sweeper.
    ///
    /// # Errors
    ///
    /// See the variants of [`SweeperConfigError`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    ///
    /// use dead_letters::{Retention, RetentionPolicy, Sweeper, SweeperConfigError};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// // 30 seconds instead of 30 days.
    /// let mistake = RetentionPolicy::new(Retention::default().delete_all_after(Duration::from_secs(30)));
    /// let refused = Sweeper::builder(Arc::new(repo), mistake).build();
    /// assert!(matches!(refused, Err(SweeperConfigError::ShortRetention { .. })));
    /// # Ok(())
    /// # }
    /// ```
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

/// Why a [`Sweeper`] could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SweeperConfigError {
    /// A retention is less than an hour, and `short_retention_is_meant` was not called.
    #[error(
        "{} must be at least an hour (got {value:?}): call `short_retention_is_meant` if it is meant",
        name_of(*app_id, field)
    )]
    ShortRetention {
        /// The app whose own retention it is. `None` is the retention of all other apps, or that of the history.
        app_id: Option<AppId>,
        /// The field's name in [`Retention`] or [`RetentionPolicy`].
        field: &'static str,
        /// The value that was passed.
        value: Duration,
    },
    /// More than 1,000 apps have a retention of their own.
    #[error("at most 1,000 apps may have a retention of their own (got {})", separated(.0))]
    TooManyApps(usize),
    /// The pause between ticks is less than a second.
    #[error("`every` must be at least a second (got {0:?})")]
    ShortPeriod(Duration),
    /// A number is outside its range.
    #[error("`{argument}` must {} (got {})", bounds((*min).into(), (*max).into()), separated(value))]
    OutOfRange {
        /// The setting's name.
        argument: &'static str,
        /// The value that was passed.
        value: u32,
        /// The smallest allowed value.
        min: u32,
        /// The largest allowed value.
        max: u32,
    },
}

fn name_of(app_id: Option<AppId>, field: &str) -> String {
    match app_id {
        Some(app_id) => format!("{field} of app {app_id}"),
        None if field == DELETE_ACTIONS_AFTER => field.to_owned(),
        None => format!("{field} of the other apps"),
    }
}
