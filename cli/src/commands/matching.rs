//! All that match, once it is said how many they are.

use chrono::{DateTime, Utc};
use dead_letters::{AppId, DeadLetterFilter, DeadLetterState, DeadLetterStore, PageRequest};

use super::list;
use crate::{
    confirm::{can_ask, confirm},
    error::Failure,
    output::{Printer, amount},
    stop::Stop,
};

const COUNT_CAP: u32 = 1_000_000;
/// Of a dry run.
const SAMPLE: u32 = 10;

/// Whether somebody is asked before all that match are taken.
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

/// Letters that were counted.
pub(crate) struct Matching {
    pub(crate) app_id: AppId,
    /// Those that failed by now: what fails later is not counted, and not meant.
    pub(crate) filter: DeadLetterFilter,
    pub(crate) count: u64,
    /// Of the count, by the database's clock.
    pub(crate) as_of: DateTime<Utc>,
}

/// `None` after a dry run.
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
    let count = store.count(app_id, &filter, COUNT_CAP, None).await?;
    filter.created_before = Some(count.as_of);
    let letters = amount(count.count, count.at_least);
    if ask == Ask::DryRun {
        let page = PageRequest { size: SAMPLE, ..Default::default() };
        list::print(printer, &store.list(app_id, &filter, &page).await?)?;
        say!("note: {letters} letters would be {what}");
        return Ok(None);
    }
    if ask == Ask::First && count.count > 0 {
        confirm(&format!("{letters} letters of the app {app_id} will be {what}. Go on?"), stop).await?;
    }
    Ok(Some(Matching { app_id, filter, count: count.count, as_of: count.as_of }))
}

/// A filter for what is done to open letters.
pub(crate) fn of_open(filter: DeadLetterFilter) -> Result<DeadLetterFilter, Failure> {
    let state = match filter.state {
        DeadLetterState::Any => DeadLetterState::Open,
        DeadLetterState::Resolved => {
            return Err(Failure::usage("--state resolved: what is settled is left alone"));
        }
        state => state,
    };
    Ok(DeadLetterFilter { state, ..filter })
}
