//! The metrics that this crate reports to the [`metrics`](::metrics) crate.

use std::{collections::BTreeSet, future::Future, pin::pin, time::Duration};

use chrono::Utc;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tokio::time::timeout;
use tracing::warn;

use crate::{AppId, BacklogRequest, DeadLetterRead, DeadLetterRepoError};

const CALLS: &str = "dead_letters_calls_total";
const DURATION: &str = "dead_letters_call_duration_seconds";
const ROWS: &str = "dead_letters_rows_total";
const OPEN: &str = "dead_letters_open";
const OLDEST: &str = "dead_letters_oldest_open_seconds";
const SWEEPS: &str = "dead_letters_sweeps_total";
#[cfg(feature = "sweeper")]
const EXPIRING: &str = "dead_letters_expiring";
const REFUSED: &str = "dead_letters_sweep_refused_total";
const ARCHIVE_FAILURES: &str = "dead_letters_archive_failures_total";
const LAST_SUCCESS: &str = "dead_letters_sweep_last_success_timestamp_seconds";
const ANNOUNCEMENTS: &str = "dead_letters_announcements_total";

/// Describes the metrics of this crate to the installed recorder, so that an exporter can show what they mean.
///
/// The crate reports the metrics without this call too.
///
/// | metric | labels | |
/// | --- | --- | --- |
/// | `dead_letters_calls_total` | `call`, `outcome` | counts calls that ended |
/// | `dead_letters_call_duration_seconds` | `call` | histogram of how long they took, failed ones too |
/// | `dead_letters_rows_total` | `call` | counts the letters that their results are about |
/// | `dead_letters_open` | `app_id` | gauge of the app's open letters, up to a cap |
/// | `dead_letters_oldest_open_seconds` | `app_id` | gauge of the age of the oldest of them |
/// | `dead_letters_expiring` | | gauge of the open letters that sweepers will soon delete, up to a cap |
/// | `dead_letters_sweeps_total` | `end` | counts ticks of the sweeper that ended |
/// | `dead_letters_sweep_refused_total` | | counts letters that were due and that the database did not delete |
/// | `dead_letters_archive_failures_total` | | counts calls of `sweep_into` that deleted nothing because the archive failed |
/// | `dead_letters_sweep_last_success_timestamp_seconds` | | gauge: when the last tick began that finished |
/// | `dead_letters_announcements_total` | `outcome` | counts the calls of `Notify` for new error groups, `announced` or `failed` |
///
/// `call` is the name of the method: of each trait that [`SeaOrmDeadLetterRepo`](crate::SeaOrmDeadLetterRepo)
/// implements, of bury and replay, and of `begin` and `commit`. A call that another call makes inside the crate does
/// not count.
///
/// `outcome` is `ok`, `answer` (not found, a conflict, or invalid: see [`ErrorKind`](crate::ErrorKind)) or `failed`.
/// The error of a service's own closure in a replay is `failed` too. A call whose future is dropped is not counted.
///
/// The letters of a call are those that were stored, read, resolved, reopened or deleted, or the sum of a count, a
/// timeline or groups. For [`backlogs`](DeadLetterRead::backlogs) they are the open letters, and for
/// [`import`](crate::DeadLetterTransfer::import) the letters that did not exist yet. `apps`, `begin`, `commit`
/// and `check_ready` have no letters.
///
/// The call `coalesced_insert` is an insert as the caller of a `CoalescingDeadLetterRepo` sees it, including the wait
/// for its batch. It counts no letter, because `insert_many` or `insert` counts the letter when it stores it.
///
/// [`BacklogGauges`] sets the gauges of letters. `end` is `finished`, `stopped` or `failed`.
///
/// # Examples
///
/// ```
/// use dead_letters::{DeadLetterRepo, describe_metrics, testing};
/// use metrics_util::debugging::DebuggingRecorder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// // A service installs the recorder of its exporter here.
/// let recorder = DebuggingRecorder::new();
/// let snapshotter = recorder.snapshotter();
/// let _guard = metrics::set_default_local_recorder(&recorder);
/// describe_metrics();
/// repo.insert(testing::letter(app)).await?;
/// let metrics = snapshotter.snapshot().into_vec();
/// assert!(metrics.iter().any(|(key, ..)| key.key().name() == "dead_letters_calls_total"));
/// # Ok(())
/// # }
/// ```
pub fn describe_metrics() {
    describe_counter!(CALLS, Unit::Count, "Calls of the dead-letter store that ended.");
    describe_histogram!(DURATION, Unit::Seconds, "How long calls of the dead-letter store took.");
    describe_counter!(ROWS, Unit::Count, "Dead letters that the calls' answers are about.");
    describe_gauge!(OPEN, Unit::Count, "Open dead letters of the app, up to a cap.");
    describe_gauge!(OLDEST, Unit::Seconds, "Age of the app's oldest open dead letter.");
    #[cfg(feature = "sweeper")]
    describe_gauge!(EXPIRING, Unit::Count, "Open dead letters that will be swept soon, up to a cap.");
    describe_counter!(SWEEPS, Unit::Count, "Ticks of the dead-letter sweeper that ended.");
    describe_counter!(REFUSED, Unit::Count, "Due dead letters that the database did not delete.");
    describe_counter!(
        ARCHIVE_FAILURES,
        Unit::Count,
        "Sweeps that deleted nothing because the archive failed."
    );
    describe_gauge!(LAST_SUCCESS, Unit::Seconds, "When the last sweep began that finished, in Unix time.");
    describe_counter!(ANNOUNCEMENTS, Unit::Count, "Announcements of new or regressed error groups.");
}

/// Counts a call by its outcome: the number of letters, or the error.
pub(crate) fn count_call(call: &'static str, took: Duration, outcome: Result<u64, &DeadLetterRepoError>) {
    if call == "sweep_into" {
        // The first sweep sets the counter to 0. Otherwise an exporter would show the first failure as no increase.
        let has_failed = matches!(outcome, Err(DeadLetterRepoError::Archive(_)));
        counter!(ARCHIVE_FAILURES).increment(has_failed.into());
    }
    let outcome = match outcome {
        Ok(rows) => {
            counter!(ROWS, "call" => call).increment(rows);
            "ok"
        }
        Err(error) if error.is_answer() => "answer",
        Err(_) => "failed",
    };
    counter!(CALLS, "call" => call, "outcome" => outcome).increment(1);
    histogram!(DURATION, "call" => call).record(took);
}

#[cfg(feature = "sweeper")]
pub(crate) fn count_sweep(report: &crate::SweepReport) {
    let end = match report.end {
        crate::SweepEnd::Finished => {
            gauge!(LAST_SUCCESS).set(report.began_at.timestamp() as f64);
            "finished"
        }
        crate::SweepEnd::Stopped => "stopped",
        crate::SweepEnd::Failed(_) => "failed",
    };
    counter!(SWEEPS, "end" => end).increment(1);
    counter!(REFUSED).increment(report.refused);
}

#[cfg(feature = "watch")]
pub(crate) fn count_announcement(is_announced: bool) {
    // The first announcement sets both counters. Otherwise an exporter would show the first failure as no increase.
    for (outcome, counts) in [("announced", is_announced), ("failed", !is_announced)] {
        counter!(ANNOUNCEMENTS, "outcome" => outcome).increment(counts.into());
    }
}

/// How many apps a page of [`backlogs`](DeadLetterRead::backlogs) holds.
const MAX_APPS: u32 = 1_000;

/// Sets the gauges of the apps' backlogs: `dead_letters_open`, `dead_letters_oldest_open_seconds` and
/// `dead_letters_expiring`.
///
/// Each process has one, and updates it on a timer or before each scrape. Every process reports the whole table:
/// combine several by their maximum, not by their sum.
#[derive(Debug, Default)]
pub struct BacklogGauges {
    apps: BTreeSet<AppId>,
}

impl BacklogGauges {
    /// Updates the gauges now and then every `period`, until `shutdown` is ready.
    ///
    /// An update that fails leaves the gauges as they are, and is logged at WARN. The next one comes after `period`.
    /// Requires a Tokio runtime with its time driver.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use dead_letters::BacklogGauges;
    /// use tokio::sync::oneshot;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// let (stop, stopped) = oneshot::channel::<()>();
    /// let gauges = tokio::spawn(async move {
    ///     BacklogGauges::default().run(&repo, Duration::from_secs(30), 1_000, stopped).await;
    /// });
    /// // When the service ends:
    /// drop(stop);
    /// gauges.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run(
        mut self,
        store: &dyn DeadLetterRead,
        period: Duration,
        cap: u32,
        shutdown: impl Future,
    ) {
        let mut shutdown = pin!(shutdown);
        loop {
            if let Err(error) = self.update(store, cap).await {
                warn!(%error, "the gauges of the backlogs could not be updated");
            }
            if timeout(period, shutdown.as_mut()).await.is_ok() {
                return;
            }
        }
    }

    /// Sets the gauges of the apps that have open letters: the first 1,000 apps by [`AppId`], with counts capped at
    /// `cap`.
    ///
    /// Returns whether these are all such apps; `false` means that there may be more.
    ///
    /// An app that was set before and has no open letter any more is set to 0 once. An app that other apps pushed out
    /// of the first 1,000 is set to NaN. The age is computed with this process's clock, and is never below 0.
    ///
    /// # Errors
    ///
    /// Those of [`backlogs`](DeadLetterRead::backlogs). The gauges then keep their values.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::BacklogGauges;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// // Kept between two scrapes, so that an app without open letters is set to 0.
    /// let mut gauges = BacklogGauges::default();
    /// let all_apps = gauges.update(&repo, 1_000).await?;
    /// assert!(all_apps);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn update(
        &mut self,
        store: &dyn DeadLetterRead,
        cap: u32,
    ) -> Result<bool, DeadLetterRepoError> {
        let backlogs = store.backlogs(&BacklogRequest::default().limit(MAX_APPS).cap(cap)).await?;
        let now = Utc::now();
        let set = |app_id: AppId, open: f64, oldest: f64| {
            gauge!(OPEN, "app_id" => app_id.to_string()).set(open);
            gauge!(OLDEST, "app_id" => app_id.to_string()).set(oldest);
        };
        for backlog in &backlogs {
            let oldest = (now - backlog.oldest).as_seconds_f64();
            set(backlog.app_id, backlog.open.count as f64, oldest.max(0.0));
        }
        let all = backlogs.len() < MAX_APPS as usize;
        let last = backlogs.last().map(|backlog| backlog.app_id);
        let apps = backlogs.into_iter().map(|backlog| backlog.app_id).collect();
        for &app_id in self.apps.difference(&apps) {
            let known = all || Some(app_id) < last;
            let value = if known { 0.0 } else { f64::NAN };
            set(app_id, value, value);
        }
        self.apps = apps;
        Ok(all)
    }

    /// Sets the gauge of the open letters of all apps that this policy deletes until `within` from now, by this
    /// process's clock.
    ///
    /// The count is capped at `cap`.
    ///
    /// # Errors
    ///
    /// Those of [`due_within`](crate::RetentionPolicy::due_within). The gauge then keeps its value.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use dead_letters::{BacklogGauges, Retention, RetentionPolicy};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// let policy = RetentionPolicy::new(Retention::default().delete_all_after(90 * DAY));
    /// BacklogGauges::default().update_expiring(&repo, &policy, 7 * DAY, 1_000).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "sweeper")]
    pub async fn update_expiring(
        &self,
        store: &dyn crate::DeadLetterRetention,
        policy: &crate::RetentionPolicy,
        within: Duration,
        cap: u32,
    ) -> Result<(), DeadLetterRepoError> {
        let expiring = policy.due_within(store, None, Utc::now(), within, cap).await?;
        gauge!(EXPIRING).set(expiring.count as f64);
        Ok(())
    }
}
