use dead_letters::{
    AppId, Attribution, DeadLetterFilter, DeadLetterId, DeadLetterState, DeadLetterStore, Resolution,
};

use super::{
    list::state,
    matching::{Ask, Matching, confirmed, of_open},
    tally::Tally,
};
use crate::{
    args::{Resolve, Verdict, Which},
    error::Failure,
    output::Printer,
    progress::Progress,
    settings::Settings,
    stop::Stop,
};

/// Letters per batch. A batch is resolved as a whole or not at all.
const BATCH: u32 = 1_000;

pub(crate) async fn resolve(
    store: &dyn DeadLetterStore,
    resolve: Resolve,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let Resolve { which, verdict, note, by } = resolve;
    let resolution = match verdict {
        Verdict::Ignored => Resolution::Ignored,
        Verdict::HandledByScript => Resolution::HandledByScript,
    };
    let mut attribution = Attribution::default();
    (attribution.by, attribution.note) = (by, note);
    let app_id = which.filter.app;
    let mut tally = Tally::default();
    let ran = match which {
        Which { matching: true, dry_run, yes, filter, .. } => {
            let filter = of_open(&settings.filter(filter)?)?;
            let what = format!("resolved as {resolution}");
            match confirmed(store, app_id, filter, &what, Ask::of(dry_run, yes), printer, stop).await? {
                Some(found) => matching(store, &found, resolution, &attribution, &mut tally, stop).await,
                None => return Ok(()),
            }
        }
        Which { letters, .. } if letters.is_empty() => return Err(Failure::no_letter()),
        Which { letters, .. } => {
            by_ids(store, app_id, &letters, resolution, &attribution, &mut tally, stop).await
        }
    };
    tally.end(ran, "resolved", printer)
}

async fn by_ids(
    store: &dyn DeadLetterStore,
    app_id: AppId,
    ids: &[DeadLetterId],
    resolution: Resolution,
    attribution: &Attribution,
    tally: &mut Tally,
    stop: &Stop,
) -> Result<(), Failure> {
    for ids in ids.chunks(BATCH as usize) {
        if tally.stops(stop) {
            break;
        }
        let open = DeadLetterFilter::default().state(DeadLetterState::Open).ids(ids.to_vec());
        let resolved = store.resolve_matching(app_id, &open, resolution, attribution, BATCH).await?.ids;
        tally.done += resolved.len() as u64;
        for &id in ids.iter().filter(|id| !resolved.contains(id)) {
            match store.summary(app_id, id).await? {
                None => tally.missing(id),
                Some(letter) => {
                    let by = letter.resolved_by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
                    tally.left(id, &format!("the letter is {}{by} and was not changed", state(&letter)));
                }
            }
        }
    }
    Ok(())
}

async fn matching(
    store: &dyn DeadLetterStore,
    found: &Matching,
    resolution: Resolution,
    attribution: &Attribution,
    tally: &mut Tally,
    stop: &Stop,
) -> Result<(), Failure> {
    let progress = Progress::of(Some(found.count));
    loop {
        let limit = found.limit(tally.done, BATCH);
        if limit == 0 {
            return Ok(());
        }
        let resolved =
            store.resolve_matching(found.app_id, &found.filter, resolution, attribution, limit).await?;
        if !tally.batch(resolved.ids.len(), resolved.more, resolved.skipped_locked, &progress)
            || tally.stops(stop)
        {
            return Ok(());
        }
    }
}
