use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterState, DeadLetterStore, Resolution, Settlement,
};
use serde::Serialize;

use super::{
    list::state,
    matching::{Ask, confirmed},
};
use crate::{
    args::{Resolve, Verdict, Which},
    error::{Exit, Failure, exit_of},
    output::{Printer, number},
    settings::Settings,
    stop::Stop,
};

/// Letters a batch, each as a whole or not at all.
const BATCH: u32 = 1_000;

#[derive(Clone, Copy, Serialize)]
struct Settled {
    settled: u64,
}

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
    let settlement = Settlement { resolution, by, note };
    let app_id = which.filter.app;
    let (settled, exit) = match which {
        Which { matching: true, dry_run, yes, filter, .. } => {
            let filter = settings.filter(filter)?;
            let what = format!("settled as {resolution}");
            match confirmed(store, app_id, filter, &what, Ask::of(dry_run, yes), printer, stop).await? {
                Some(filter) => matching(store, app_id, &filter, &settlement, stop).await?,
                None => return Ok(()),
            }
        }
        Which { letters, .. } if letters.is_empty() => return Err(Failure::no_letter()),
        Which { letters, .. } => by_ids(store, app_id, &letters, &settlement).await?,
    };
    let settled = Settled { settled };
    printer.print(&settled, &[settled], [number("settled")], |settled| [settled.settled.into()])?;
    if exit == Exit::Done { Ok(()) } else { Err(Failure::silent(exit)) }
}

async fn by_ids(
    store: &dyn DeadLetterStore,
    app_id: AppId,
    ids: &[DeadLetterId],
    settlement: &Settlement,
) -> Result<(u64, Exit), Failure> {
    let (mut done, mut missing, mut left) = (0, 0, 0);
    for ids in ids.chunks(BATCH as usize) {
        let open =
            DeadLetterFilter { state: DeadLetterState::Open, ids: Some(ids.to_vec()), ..Default::default() };
        let settled = store.resolve_matching(app_id, &open, settlement, BATCH).await?.ids;
        done += settled.len() as u64;
        for id in ids.iter().filter(|id| !settled.contains(id)) {
            match store.summary(app_id, *id).await? {
                None => {
                    missing += 1;
                    say!("{id}: the app has no such letter");
                }
                Some(letter) => {
                    left += 1;
                    let by = letter.resolved_by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
                    say!("{id}: it is {}{by}, and left as it is", state(&letter));
                }
            }
        }
    }
    Ok((done, exit_of(done, missing, left)))
}

async fn matching(
    store: &dyn DeadLetterStore,
    app_id: AppId,
    filter: &DeadLetterFilter,
    settlement: &Settlement,
    stop: &Stop,
) -> Result<(u64, Exit), Failure> {
    let mut done = 0;
    loop {
        let settled = match store.resolve_matching(app_id, filter, settlement, BATCH).await {
            // What was done before is to be told.
            Err(error) if done > 0 => {
                say!("error: {error}");
                return Ok((done, Exit::Partly));
            }
            settled => settled?,
        };
        done += settled.ids.len() as u64;
        if !settled.more {
            if settled.held {
                say!("note: some are left, which another transaction holds: try again");
            }
            return Ok((done, exit_of(done, 0, settled.held.into())));
        }
        if stop.is_asked() {
            say!("note: it was stopped, and there are more");
            return Ok((done, Exit::Partly));
        }
    }
}
