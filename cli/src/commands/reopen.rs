use dead_letters::{
    AppId, Attribution, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterState,
    DeadLetterStore, PageRequest, Resolution,
};

use super::{
    matching::{Ask, Matching, confirmed},
    tally::Tally,
};
use crate::{
    args::{Reopen, Which},
    error::Failure,
    output::Printer,
    progress::Progress,
    settings::Settings,
    stop::Stop,
};

/// Letters per page.
const PAGE: u32 = 500;

pub(crate) async fn reopen(
    store: &dyn DeadLetterStore,
    reopen: Reopen,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let app_id = reopen.which.filter.app;
    let mut tally = Tally::default();
    let ran = match reopen.which {
        Which { matching: true, dry_run, yes, filter, .. } => {
            let filter = of_resolved(settings.filter(filter)?)?;
            match confirmed(store, app_id, filter, "reopened", Ask::of(dry_run, yes), printer, stop).await? {
                Some(found) => matching(store, found, &mut tally, stop).await,
                None => return Ok(()),
            }
        }
        Which { letters, .. } if letters.is_empty() => return Err(Failure::no_letter()),
        Which { letters, .. } => by_ids(store, app_id, letters, &mut tally, stop).await,
    };
    tally.end(ran, "reopened", printer)
}

/// Returns the filter for reopening: closed letters, or `handler_failed` ones if the filter asks for these.
fn of_resolved(filter: DeadLetterFilter) -> Result<DeadLetterFilter, Failure> {
    let state = match filter.resolution {
        Some(Resolution::HandlerFailed) => DeadLetterState::Any,
        _ => DeadLetterState::Closed,
    };
    match filter.state {
        None | Some(DeadLetterState::Closed | DeadLetterState::Any) => Ok(filter.state(state)),
        Some(state) => Err(Failure::usage(format!(
            "--state {state}: only resolved letters can be reopened; use closed or any"
        ))),
    }
}

async fn by_ids(
    store: &dyn DeadLetterStore,
    app_id: AppId,
    ids: impl IntoIterator<Item = DeadLetterId>,
    tally: &mut Tally,
    stop: &Stop,
) -> Result<(), Failure> {
    for id in ids {
        if tally.stops(stop) {
            break;
        }
        match store.reopen(app_id, id, &Attribution::default()).await {
            Ok(()) => tally.done += 1,
            Err(DeadLetterRepoError::NotFound(_)) => tally.missing(id),
            // The letter already has the state that the caller wants.
            Err(DeadLetterRepoError::NotResolved(_)) => say!("{id}: the letter is unresolved already"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reopens the letters one by one. Letters that were resolved since the count are left alone.
async fn matching(
    store: &dyn DeadLetterStore,
    found: Matching,
    tally: &mut Tally,
    stop: &Stop,
) -> Result<(), Failure> {
    let progress = Progress::of(Some(found.count));
    let mut page = PageRequest::default().size(PAGE);
    loop {
        let limit = found.limit(tally.done, PAGE);
        if limit == 0 {
            return Ok(());
        }
        let letters = store.list(found.app_id, &found.filter, &page).await?;
        let then = letters.items.iter().filter(|letter| letter.resolved_at < Some(found.now));
        by_ids(store, found.app_id, then.map(|letter| letter.id).take(limit as usize), tally, stop).await?;
        progress.is_at(tally.done);
        match letters.next {
            Some(next) if !stop.is_asked() => page.after = Some(next),
            _ => return Ok(()),
        }
    }
}
