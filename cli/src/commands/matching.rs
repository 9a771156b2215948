//! All that match, once it is said how many they are.

use dead_letters::{AppId, DeadLetterFilter, DeadLetterState, DeadLetterStore, PageRequest};

use super::list;
use crate::{
    confirm::confirm,
    error::Failure,
    output::{Printer, amount},
};

const COUNT_CAP: u32 = 1_000_000;
/// Of a dry run.
const SAMPLE: u32 = 10;

/// The filter of those that failed by now: what fails later is not counted, and not meant. `None` after a dry run.
pub(crate) async fn confirmed(
    store: &dyn DeadLetterStore,
    app_id: AppId,
    mut filter: DeadLetterFilter,
    what: &str,
    dry_run: bool,
    yes: bool,
    printer: &mut Printer,
) -> Result<Option<DeadLetterFilter>, Failure> {
    filter.state = match filter.state {
        DeadLetterState::Any => DeadLetterState::Open,
        DeadLetterState::Resolved => {
            return Err(Failure::usage("--state resolved: what is settled is left alone"));
        }
        state => state,
    };
    let count = store.count(app_id, &filter, COUNT_CAP, None).await?;
    filter.created_before = Some(count.as_of);
    let letters = amount(count.count, count.at_least);
    if dry_run {
        let page = PageRequest { size: SAMPLE, ..Default::default() };
        list::print(printer, &store.list(app_id, &filter, &page).await?)?;
        say!("note: {letters} letters would be {what}");
        return Ok(None);
    }
    if !yes && count.count > 0 {
        confirm(&format!("{letters} letters of the app {app_id} will be {what}. Go on?"))?;
    }
    Ok(Some(filter))
}
