//! What the [`metrics`](::metrics) crate is told.

use std::{collections::BTreeSet, time::Duration};

use chrono::Utc;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{AppId, DeadLetterRepoError, DeadLetterTriage};

const CALLS: &str = "dead_letters_calls_total";
const DURATION: &str = "dead_letters_call_duration_seconds";
const ROWS: &str = "dead_letters_rows_total";
const OPEN: &str = "dead_letters_open";
const OLDEST: &str = "dead_letters_oldest_open_seconds";
const SWEEPS: &str = "dead_letters_sweeps_total";
#[cfg(feature = "sweeper")]
const EXPIRING: &str = "dead_letters_expiring";
const REFUSED: &str = "dead_letters_sweep_refused_total";
const LAST_SUCCESS: &str = "dead_letters_sweep_last_success_timestamp_seconds";

/// Describes the metrics of this crate to the recorder, once that is installed, so that an exporter can show
/// what they mean. They are told without this too.
///
/// | metric | labels | |
/// | --- | --- | --- |
/// | `dead_letters_calls_total` | `call`, `outcome` | counts calls that ended |
/// | `dead_letters_call_duration_seconds` | `call` | histogram of how long they took, failed ones too |
/// | `dead_letters_rows_total` | `call` | counts the letters that their answers are about |
/// | `dead_letters_open` | `app_id` | gauge of the app's open letters, up to a cap |
/// | `dead_letters_oldest_open_seconds` | `app_id` | gauge of the age of the oldest of them |
/// | `dead_letters_expiring` | | gauge of the open letters that sweepers will soon delete, up to a cap |
/// | `dead_letters_sweeps_total` | `end` | counts ticks of the sweeper that ended |
/// | `dead_letters_sweep_refused_total` | | counts letters that were due and that the database did not delete |
/// | `dead_letters_sweep_last_success_timestamp_seconds` | | gauge: when the last one began that finished |
///
/// `call` is the name of the method: of each trait that [`SeaOrmDeadLetterRepo`](crate::SeaOrmDeadLetterRepo)
/// implements, of replay, `bury`, `begin` and `commit`. What a call does within itself is no further call.
///
/// `outcome` is `ok`, `answer` (not found, a conflict, or invalid: see [`ErrorKind`](crate::ErrorKind)) or
/// `failed`, which the own error of a closure that replays is too. A call whose future is dropped is counted
/// nowhere.
///
/// The letters are those that were stored, read, settled, reopened or deleted, or that a count, a timeline or
/// groups add up to; of [`backlogs`](DeadLetterTriage::backlogs) the open ones, of
/// [`import`](DeadLetterTriage::import) those that were not there. `begin` and `commit` have none.
///
/// The call `coalesced_insert` is an insert as the caller of a `CoalescingDeadLetterRepo` sees it: with the
/// wait for its batch, and without a letter, which is counted where it is stored, by `insert_many` or
/// `insert`.
///
/// The gauges of letters are set by [`BacklogGauges`]. `end` is `finished`, `stopped` or `failed`.
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
    describe_gauge!(LAST_SUCCESS, Unit::Seconds, "When the last sweep began that finished, in Unix time.");
}

/// Rows, or the error.
pub(crate) fn count_call(call: &'static str, took: Duration, outcome: Result<u64, &DeadLetterRepoError>) {
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

/// What a page of [`backlogs`](DeadLetterTriage::backlogs) holds.
const MAX_APPS: u32 = 1_000;

/// Sets the gauges of the apps' backlogs, `dead_letters_open`, `dead_letters_oldest_open_seconds` and
/// `dead_letters_expiring`.
///
/// A process has one, and updates it by a timer or before each scrape. Each of several processes shows the
/// whole table: take the largest of theirs, not the sum.
#[derive(Debug, Default)]
pub struct BacklogGauges {
    apps: BTreeSet<AppId>,
}

impl BacklogGauges {
    /// Sets the gauges of the apps that have open rows: of the first 1,000 by [`AppId`], counted up to `cap`.
    /// Returns whether these are all of them; `false` says that there may be more.
    ///
    /// An app that was set before, and has no open row any more, is set to 0 once; one that others
    /// have pushed out of the 1,000 to NaN. The age is by this process's clock, and never below 0.
    ///
    /// # Errors
    ///
    /// Those of [`backlogs`](DeadLetterTriage::backlogs); the gauges then stand as they were.
    pub async fn update(
        &mut self,
        store: &dyn DeadLetterTriage,
        cap: u32,
    ) -> Result<bool, DeadLetterRepoError> {
        let backlogs = store.backlogs(None, None, MAX_APPS, cap).await?;
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

    /// Sets the gauge of the open rows that this policy will have deleted until `within` from now, by this
    /// process's clock: of all apps, counted up to `cap`.
    ///
    /// # Errors
    ///
    /// Those of [`due_within`](crate::RetentionPolicy::due_within); the gauge then stands as it was.
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
