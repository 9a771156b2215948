use std::sync::Arc;

use dead_letters::{
    CappedCount, DeadLetterState, DeadLetterStore, Due, JsonLinesArchive, Retention, RetentionPolicy,
    SweepEnd, SweepScope, Sweeper,
};
use serde::Serialize;

use crate::{
    args::Sweep,
    error::{Exit, Failure},
    output::{Printer, amount, number},
    settings::Settings,
    stop::Stop,
};

/// Of a dry run.
const COUNT_CAP: u32 = 1_000_000;

#[derive(Clone, Copy, Serialize)]
struct Swept {
    deleted: u64,
}

/// Of a dry run. One that is due for both counts twice.
#[derive(Clone, Copy, Serialize)]
struct DueNow {
    settled: Option<CappedCount>,
    all: Option<CappedCount>,
}

pub(crate) async fn sweep(
    store: Arc<dyn DeadLetterStore>,
    sweep: Sweep,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let duration = |name, text: Option<String>| text.map(|text| Settings::duration(name, &text)).transpose();
    let others = Retention {
        settled_after: duration("--settled-after", sweep.settled_after)?,
        all_after: duration("--all-after", sweep.all_after)?,
    };
    if sweep.dry_run {
        return dry_run(&*store, others, settings, printer).await;
    }
    let mut sweeper = Sweeper::builder(store, RetentionPolicy { others, ..Default::default() });
    if let Some(folder) = sweep.archive {
        sweeper = sweeper.archive(Arc::new(JsonLinesArchive::new(folder)));
    }
    let every = duration("--every", sweep.every)?;
    if let Some(every) = every {
        sweeper = sweeper.every(every);
    }
    let sweeper = sweeper.build().map_err(|error| Failure::usage(error.to_string()))?;
    if every.is_some() {
        sweeper.run(stop.asked()).await;
        return Ok(());
    }
    let report = sweeper.sweep_once(settings.now, stop.asked()).await;
    let swept = Swept { deleted: report.deleted };
    printer.print(&swept, &[swept], [number("deleted")], |swept| [swept.deleted.into()])?;
    match report.end {
        SweepEnd::Finished => Ok(()),
        SweepEnd::Stopped => Err(Failure::silent(Exit::Partly)),
        SweepEnd::Failed(error) => Err(error.into()),
    }
}

async fn dry_run(
    store: &dyn DeadLetterStore,
    retention: Retention,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let count = async |due| store.count_due(&SweepScope::AllApps, due, DeadLetterState::Any, COUNT_CAP).await;
    let mut found = DueNow { settled: None, all: None };
    if let Some(after) = retention.settled_after {
        found.settled = Some(count(Due::SettledBefore(settings.now - after)).await?);
    }
    if let Some(after) = retention.all_after {
        found.all = Some(count(Due::CreatedBefore(settings.now - after)).await?);
    }
    let shown =
        |count: Option<CappedCount>| count.map_or(String::new(), |count| amount(count.count, count.at_least));
    let columns = [number("settled and due"), number("stored and due")];
    printer
        .print(&found, &[found], columns, |found| [shown(found.settled).into(), shown(found.all).into()])?;
    Ok(())
}
