use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use chrono::SecondsFormat;
use dead_letters::{
    CappedCount, DeadLetterState, DeadLetterStore, Due, JsonLinesArchive, Retention, RetentionPolicy,
    SweepEnd, SweepReport, SweepScope, Sweeper, SweeperStatus,
};
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    args::Sweep,
    error::{Exit, Failure},
    output::{Printer, amount, number},
    progress::Progress,
    settings::Settings,
    stop::Stop,
};

/// The sweeper's own bounds, in the command line's words.
const SHORTEST_RETENTION: Duration = Duration::from_secs(60 * 60);
const SHORTEST_PERIOD: Duration = Duration::from_secs(1);
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Of a dry run.
const COUNT_CAP: u32 = 1_000_000;

#[derive(Clone, Copy, Serialize)]
struct Swept {
    deleted: u64,
}

/// Of a dry run. One that is due for both counts twice.
#[derive(Clone, Copy, Default, Serialize)]
struct DueNow {
    settled: Option<CappedCount>,
    all: Option<CappedCount>,
    /// Those that nobody settled, now and until then: who would miss them has a week.
    open_within_a_week: Option<CappedCount>,
}

pub(crate) async fn sweep(
    store: Arc<dyn DeadLetterStore>,
    sweep: Sweep,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let duration = |name, text: Option<String>, at_least| {
        text.map(|text| Settings::duration(name, &text, at_least)).transpose()
    };
    let others = Retention {
        settled_after: duration("--settled-after", sweep.settled_after, SHORTEST_RETENTION)?,
        all_after: duration("--all-after", sweep.all_after, SHORTEST_RETENTION)?,
    };
    if sweep.dry_run {
        return dry_run(&*store, others, settings, printer).await;
    }
    let mut sweeper = Sweeper::builder(store, RetentionPolicy { others, ..Default::default() });
    if let Some(folder) = sweep.archive {
        // It would be looked at when there is something to keep.
        if !folder.is_dir() {
            return Err(Failure::usage(format!("--archive {}: there is no such folder", folder.display())));
        }
        sweeper = sweeper.archive(Arc::new(JsonLinesArchive::new(folder)));
    }
    let every = duration("--every", sweep.every, SHORTEST_PERIOD)?;
    if let Some(every) = every {
        sweeper = sweeper.every(every);
    }
    let sweeper = sweeper.build().map_err(|error| Failure::usage(error.to_string()))?;
    if every.is_some() {
        let mut status = sweeper.status();
        tokio::select! {
            () = sweeper.run(stop.asked()) => {}
            () = tell(&mut status) => {}
        }
        if status.has_changed().is_ok_and(|has_changed| has_changed) {
            tell_last(&status);
        }
        return Ok(());
    }
    let (mut status, progress) = (sweeper.status(), Progress::of(None));
    let report = tokio::select! {
        report = sweeper.sweep_once(settings.now, stop.asked()) => report,
        never = show(&mut status, &progress) => match never {},
    };
    drop(progress);
    let swept = Swept { deleted: report.deleted };
    let failure = match report.end {
        SweepEnd::Failed(error) if report.deleted == 0 => return Err(error.into()),
        SweepEnd::Failed(error) => Some(Failure::from(error).after_a_part()),
        SweepEnd::Stopped => Some(Failure::silent(Exit::Partly)),
        SweepEnd::Finished => None,
    };
    printer.print(&swept, &[swept], [number("deleted")], |swept| [swept.deleted.into()])?;
    failure.map_or(Ok(()), Err)
}

async fn show(status: &mut watch::Receiver<SweeperStatus>, progress: &Progress) -> Infallible {
    while status.changed().await.is_ok() {
        progress.is_at(status.borrow().deleted);
    }
    pending().await
}

/// What each sweep did, for a log.
async fn tell(status: &mut watch::Receiver<SweeperStatus>) {
    while status.changed().await.is_ok() {
        if status.borrow().running_since.is_none() {
            tell_last(status);
        }
    }
}

fn tell_last(status: &watch::Receiver<SweeperStatus>) {
    let Some(SweepReport { began_at, deleted, end, .. }) = status.borrow().last.clone() else { return };
    let time = began_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    match end {
        SweepEnd::Failed(error) => say!("{time} deleted {deleted}, then: {error}"),
        SweepEnd::Stopped => say!("{time} deleted {deleted}, then it was stopped"),
        SweepEnd::Finished => say!("{time} deleted {deleted}"),
    }
}

async fn dry_run(
    store: &dyn DeadLetterStore,
    retention: Retention,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let count = async |due| store.count_due(&SweepScope::AllApps, due, DeadLetterState::Any, COUNT_CAP).await;
    let mut found = DueNow::default();
    if let Some(after) = retention.settled_after {
        found.settled = Some(count(Due::SettledBefore(settings.now - after)).await?);
    }
    if let Some(after) = retention.all_after {
        found.all = Some(count(Due::CreatedBefore(settings.now - after)).await?);
        let policy = RetentionPolicy { others: retention, ..Default::default() };
        found.open_within_a_week = Some(policy.due_within(store, None, settings.now, WEEK, COUNT_CAP).await?);
    }
    let shown =
        |count: Option<CappedCount>| count.map_or(String::new(), |count| amount(count.count, count.at_least));
    let columns = [number("settled and due"), number("stored and due"), number("open and due in a week")];
    printer.print(&found, &[found], columns, |found| {
        [found.settled, found.all, found.open_within_a_week].map(|count| shown(count).into())
    })?;
    Ok(())
}
