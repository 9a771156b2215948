//! The commands that change letters, by id or by filter: resolve, replay, reopen and delete.

use dead_letters::{
    AppId, Changed, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterStore, DeadLetterSummary,
};
use uuid::Uuid;

use super::{
    matching::{Ask, Matching, confirmed, is_filtered, letters as number},
    select::{Selected, select},
    tally::Tally,
};
use crate::{
    args::Which, confirm::confirm, error::Failure, ids::locate, output::Printer, settings::Settings,
    stop::Stop,
};

/// The change that a command makes to its letters.
pub(super) trait Change {
    /// Names the changed letters in the result: `resolved`.
    const DONE: &'static str;
    /// Whether the command also asks before it changes letters by their ids, because it can't be undone.
    const ASKS_ABOUT_IDS: bool = false;

    /// Says in the question and in the result what happens to the letters.
    fn words(&self) -> String {
        Self::DONE.to_owned()
    }

    /// Returns what to do next with the changed letters, such as the command that undoes the change.
    fn hint(&self) -> Option<String> {
        None
    }

    /// Returns the id of the run, if the letters keep it.
    fn run_id(&self) -> Option<Uuid> {
        None
    }

    /// Restricts the filter to letters that can be changed so.
    fn narrow(&self, filter: DeadLetterFilter) -> Result<DeadLetterFilter, Failure>;

    /// Refuses the change of the selected letters, or prints which letters it leaves out.
    async fn check(&self, selected: &Selected) -> Result<(), Failure>;

    async fn by_ids(
        &self,
        app_id: AppId,
        ids: &[DeadLetterId],
        tally: &mut Tally,
        stop: &Stop,
    ) -> Result<(), Failure>;

    /// Changes the letters that were counted, app by app, in batches.
    async fn matching(&self, found: &[Matching], tally: &mut Tally, stop: &Stop) -> Result<(), Failure>;
}

pub(super) async fn run<C: Change>(
    change: &C,
    store: &dyn DeadLetterStore,
    which: Which,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let Which { letters, all, dry_run, yes, filter, payload } = which;
    let mut tally = Tally::of(settings);
    let ran = if letters.is_empty() {
        let is_any = all || payload.payload_contains.is_some();
        let mut narrow = |filter: DeadLetterFilter| match is_any || is_filtered(&filter) {
            true => change.narrow(filter),
            false => Err(Failure::no_letter()),
        };
        let mut selected = select(store, filter, settings, &mut narrow).await?;
        selected.payload_contains = payload.payload_contains;
        let ask = Ask::of(dry_run, yes)?;
        let (what, before) = (change.words(), stop.asked());
        let confirmed = async {
            change.check(&selected).await?;
            confirmed(store, selected, &what, ask, settings, printer, stop).await
        };
        let found = tokio::select! {
            found = confirmed => found?,
            () = before => return Err(Failure::failed("nothing was changed")),
        };
        match found {
            Some(found) => {
                let ran = change.matching(&found, &mut tally, stop).await;
                if ran.is_ok() && !tally.was_stopped() && found.iter().any(|found| found.capped) {
                    tally.stops_because(
                        "an app has more of these letters than one run changes; run the command again",
                    );
                }
                ran
            }
            None => return Ok(()),
        }
    } else {
        let ask = if C::ASKS_ABOUT_IDS { Ask::of(false, yes)? } else { Ask::Not };
        let located = tokio::select! {
            located = locate(store, settings, filter.app, letters) => located?,
            () = stop.asked() => return Err(Failure::failed("nothing was changed")),
        };
        let count: u64 = located.by_app.iter().map(|(_, ids)| ids.len() as u64).sum();
        if ask == Ask::First && count > 0 {
            let letters = number(count);
            let (what, database) = (change.words(), &settings.database);
            confirm(&format!("{letters} will be {what} in {database}.\nContinue?"), stop).await?;
        }
        for id in located.missing {
            tally.missing(id);
        }
        by_ids(change, &located.by_app, &mut tally, stop).await
    };
    tally.end(ran, C::DONE, &change.words(), change.run_id(), change.hint(), printer)
}

async fn by_ids<C: Change>(
    change: &C,
    by_app: &[(AppId, Vec<DeadLetterId>)],
    tally: &mut Tally,
    stop: &Stop,
) -> Result<(), Failure> {
    for (app_id, ids) in by_app {
        change.by_ids(*app_id, ids, tally, stop).await?;
        if tally.was_stopped() {
            break;
        }
    }
    Ok(())
}

/// Letters per batch. A batch is changed as a whole or not at all.
pub(super) const BATCH: u32 = 1_000;

/// Why a letter may stay as it is although nothing about the letter itself is against the change.
pub(super) const PREVENTED: &str = "another transaction has locked the letter, or a policy or trigger of the database \
                                    prevents the change; try again";

/// Why a letter was left as it is.
pub(super) enum Left {
    /// It already is as the caller wants it.
    AsAsked(String),
    Unchanged(String),
}

/// Changes letters by their ids in batches, with each of the filters, and prints why the others are left.
pub(super) async fn in_batches_of_ids(
    store: &dyn DeadLetterStore,
    (app_id, ids): (AppId, &[DeadLetterId]),
    filters: &[DeadLetterFilter],
    tally: &mut Tally,
    stop: &Stop,
    change: impl AsyncFn(&DeadLetterFilter) -> Result<Changed, DeadLetterRepoError>,
    left: impl Fn(&DeadLetterSummary) -> Left,
) -> Result<(), Failure> {
    for ids in ids.chunks(BATCH as usize) {
        if tally.stops(stop) {
            break;
        }
        let mut changed = Vec::new();
        for filter in filters {
            let batch = change(&filter.clone().ids(ids)).await?.ids;
            tally.done(app_id, batch.len());
            changed.extend(batch);
        }
        for &id in ids.iter().filter(|id| !changed.contains(id)) {
            match store.summary(app_id, id).await?.as_ref().map(&left) {
                None => tally.missing(id),
                Some(Left::AsAsked(why)) => say!("{id}: {why}"),
                Some(Left::Unchanged(why)) => tally.left(id, &why),
            }
        }
    }
    Ok(())
}

/// Returns the filter for an action on open letters.
pub(super) fn of_open(filter: &DeadLetterFilter) -> Result<DeadLetterFilter, Failure> {
    filter.resolvable().ok_or_else(|| match filter.resolution {
        Some(resolution) => Failure::usage(format!(
            "--resolution {resolution}: these letters are closed already; use handler_failed"
        )),
        None => Failure::usage("--state closed: closed letters are not changed; use open, unresolved or any"),
    })
}
