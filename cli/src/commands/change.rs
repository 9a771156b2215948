//! The commands that change letters, by id or by filter: resolve, replay and reopen.

use dead_letters::{AppId, DeadLetterFilter, DeadLetterId, DeadLetterStore};

use super::{
    matching::{Ask, Matching, confirmed},
    tally::Tally,
};
use crate::{args::Which, error::Failure, output::Printer, settings::Settings, stop::Stop};

/// The change that a command makes to its letters.
pub(super) trait Change {
    /// Names the changed letters in the result: `resolved`.
    const DONE: &'static str;

    /// Says in the question what happens to the letters.
    fn words(&self) -> String {
        Self::DONE.to_owned()
    }

    /// Returns the command line that undoes the change, if one does.
    fn undo(&self, _: AppId) -> Option<String> {
        None
    }

    /// Restricts the filter to letters that can be changed so.
    async fn filter(&self, app_id: AppId, filter: DeadLetterFilter) -> Result<DeadLetterFilter, Failure>;

    async fn by_ids(
        &self,
        app_id: AppId,
        ids: &[DeadLetterId],
        tally: &mut Tally,
        stop: &Stop,
    ) -> Result<(), Failure>;

    /// Changes the letters that were counted, in batches.
    async fn matching(&self, found: &Matching, tally: &mut Tally, stop: &Stop) -> Result<(), Failure>;
}

pub(super) async fn run<C: Change>(
    change: &C,
    store: &dyn DeadLetterStore,
    which: Which,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let Which { letters, matching, dry_run, yes, filter } = which;
    let app_id = filter.app;
    // A run is a filter by itself.
    let matching = matching || filter.narrow.run_id.is_some();
    let mut tally = Tally::default();
    let ran = if matching {
        let filter = change.filter(app_id, settings.filter(filter)?).await?;
        let ask = Ask::of(dry_run, yes);
        match confirmed(store, app_id, filter, &change.words(), ask, printer, stop).await? {
            Some(found) => change.matching(&found, &mut tally, stop).await,
            None => return Ok(()),
        }
    } else if letters.is_empty() {
        return Err(Failure::no_letter());
    } else {
        change.by_ids(app_id, &letters, &mut tally, stop).await
    };
    if let Some(undo) = change.undo(app_id).filter(|_| tally.done > 0) {
        say!("note: undo with `{undo}`");
    }
    tally.end(ran, C::DONE, printer)
}
