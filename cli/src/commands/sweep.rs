use std::{
    convert::Infallible,
    future::pending,
    io::{IsTerminal, stdin},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use dead_letters::{
    AppId, CappedCount, DeadLetterState, DeadLetterStore, Due, JsonLinesArchive, Retention, RetentionPolicy,
    SweepEnd, SweepReport, SweepScope, Sweeper, SweeperStatus,
};
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    args::Sweep,
    confirm::{can_ask, confirm},
    error::{Exit, Failure, ended},
    ids::named_app,
    output::{Printer, amount, number},
    progress::Progress,
    settings::{Settings, printed},
    stop::Stop,
};

/// The sweeper's minimum. Checking it here lets the error name the option.
const SHORTEST_PERIOD: Duration = Duration::from_secs(1);
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Cap of the counts of due letters.
const COUNT_CAP: u32 = 1_000_000;

#[derive(Clone, Copy, Serialize)]
struct Swept {
    deleted: u64,
    /// Letters that are due but that the database did not delete.
    refused: u64,
}

/// How many letters are due. A letter that is due for both reasons counts twice.
#[derive(Clone, Copy, Default, Serialize)]
struct DueNow {
    closed: Option<CappedCount>,
    all: Option<CappedCount>,
    /// Open letters that are due now or within a week, which operators can still close before.
    open_within_a_week: Option<CappedCount>,
}

pub(crate) async fn sweep(
    store: Arc<dyn DeadLetterStore>,
    sweep: Sweep,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let retention = Settings::retention(sweep.retention)?;
    let every = sweep.every.map(|text| Settings::duration("--every", &text, SHORTEST_PERIOD)).transpose()?;
    let app_id = match sweep.app {
        Some(app) => Some(named_app(&*store, settings, app).await?),
        None => None,
    };
    let delete_actions_after = Settings::actions_retention(sweep.delete_actions_after)?;
    let plan = Plan { app_id, retention, delete_actions_after, now: settings.now };
    if sweep.dry_run {
        return dry_run(&*store, &plan, printer).await;
    }
    let mut archive = None;
    if let Some(folder) = sweep.archive {
        // The archive itself would check its folder only when there is a letter to write.
        if !folder.is_dir() {
            let failure =
                Failure::usage(format!("--archive {}: the folder does not exist", folder.display()));
            return Err(failure.hint("create the folder, or mount its disk"));
        }
        archive = Some(Arc::new(JsonLinesArchive::new(folder)));
    }
    // Cron runs a sweep without a terminal, and then nothing is asked.
    if !sweep.yes && stdin().is_terminal() {
        can_ask()?;
        ask(&*store, &plan, every, settings, stop).await?;
    }
    let mut sweeper = Sweeper::builder(store, plan.policy());
    if let Some(archive) = archive {
        sweeper = sweeper.archive(archive);
    }
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
        report = sweeper.sweep_once_until(settings.now, stop.asked()) => report,
        never = show(&mut status, &progress) => match never {},
    };
    drop(progress);
    if delete_actions_after.is_some() {
        say!("note: {} actions were deleted from the history", report.actions_deleted);
    }
    let swept = Swept { deleted: report.deleted, refused: report.refused };
    let ran = match report.end {
        SweepEnd::Failed(error) if report.deleted == 0 => return Err(error.into()),
        SweepEnd::Failed(error) => Err(Failure::from(error).after_a_part()),
        SweepEnd::Finished => Ok(()),
        _ => Err(Failure::silent(Exit::Partly)),
    };
    let columns = [number("deleted"), number("refused")];
    let row = |swept: &Swept| [swept.deleted, swept.refused].map(Into::into);
    ended(ran, printer.print(&swept, &[swept], columns, row))
}

async fn show(status: &mut watch::Receiver<SweeperStatus>, progress: &Progress) -> Infallible {
    while status.changed().await.is_ok() {
        progress.is_at(status.borrow().deleted);
    }
    pending().await
}

/// Prints the outcome of each sweep, for a log.
async fn tell(status: &mut watch::Receiver<SweeperStatus>) {
    while status.changed().await.is_ok() {
        if status.borrow().running_since.is_none() {
            tell_last(status);
        }
    }
}

fn tell_last(status: &watch::Receiver<SweeperStatus>) {
    let Some(SweepReport { began_at, deleted, refused, end, .. }) = status.borrow().last.clone() else {
        return;
    };
    let time = began_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let swept = match refused {
        0 => format!("deleted {deleted}"),
        _ => format!("deleted {deleted}, and the database refused {refused}"),
    };
    match end {
        SweepEnd::Failed(error) => {
            let failure = Failure::from(error).text().unwrap_or_default();
            say!("{time} {swept}, then: {failure}");
        }
        SweepEnd::Stopped => say!("{time} {swept}, then stopped"),
        _ => say!("{time} {swept}"),
    }
}

/// Which letters are due: of which app, by which retention, and at what time.
struct Plan {
    app_id: Option<AppId>,
    retention: Retention,
    delete_actions_after: Option<Duration>,
    now: DateTime<Utc>,
}

impl Plan {
    fn policy(&self) -> RetentionPolicy {
        let policy = match self.app_id {
            Some(app_id) => RetentionPolicy::default().app(app_id, self.retention),
            None => RetentionPolicy::new(self.retention),
        };
        policy.delete_actions_after(self.delete_actions_after)
    }

    async fn counted(&self, store: &dyn DeadLetterStore) -> Result<DueNow, Failure> {
        let scope = self.app_id.map_or(SweepScope::AllApps, SweepScope::App);
        let count = async |due| store.count_due(&scope, due, DeadLetterState::Any, COUNT_CAP).await;
        let mut found = DueNow::default();
        for due in self.retention.due(self.now) {
            let counted = Some(count(due).await?);
            match due {
                Due::ClosedBefore(_) => found.closed = counted,
                _ => found.all = counted,
            }
        }
        Ok(found)
    }
}

/// Asks for confirmation, unless no letter is due and no later sweep follows.
async fn ask(
    store: &dyn DeadLetterStore,
    plan: &Plan,
    every: Option<Duration>,
    settings: &Settings,
    stop: &Stop,
) -> Result<(), Failure> {
    let DueNow { closed, all, .. } = plan.counted(store).await?;
    let due: Vec<_> = closed.into_iter().chain(all).filter(|count| count.count > 0).collect();
    if due.is_empty() && every.is_none() && plan.delete_actions_after.is_none() {
        return Ok(());
    }
    // A letter that is due for both reasons is counted twice.
    let is_bound = due.len() > 1;
    let count = due.iter().map(|count| count.count).sum();
    let letters = CappedCount { count, capped: due.iter().any(|count| count.capped) };
    let of = plan.app_id.map_or("all apps".to_owned(), |app_id| format!("the app {app_id}"));
    let history = match plan.delete_actions_after {
        Some(after) => format!(" and the history of all apps older than {}", printed(after)),
        None => String::new(),
    };
    let question = format!(
        "{}{letters} {} of {of}{history} in {} will be deleted{}. Continue?",
        if is_bound { "At most " } else { "" },
        if count == 1 { "letter" } else { "letters" },
        settings.database,
        if every.is_some() { ", and later the letters that become due" } else { "" },
    );
    confirm(&question, stop).await
}

async fn dry_run(store: &dyn DeadLetterStore, plan: &Plan, printer: &mut Printer) -> Result<(), Failure> {
    let mut found = plan.counted(store).await?;
    if plan.retention.delete_all_after.is_some() {
        let within = plan.policy().due_within(store, plan.app_id, plan.now, WEEK, COUNT_CAP).await?;
        found.open_within_a_week = Some(within);
    }
    let shown = |count: Option<CappedCount>| count.map_or(String::new(), amount);
    let columns = [number("due as closed"), number("due by age"), number("open and due in a week")];
    printer.print(&found, &[found], columns, |found| {
        [found.closed, found.all, found.open_within_a_week].map(|count| shown(count).into())
    })?;
    Ok(())
}
