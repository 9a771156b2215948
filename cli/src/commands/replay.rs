use std::time::Duration;

use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterReplay, DeadLetterRepoError, DeadLetterState,
    DeadLetterStore, PageRequest,
};
use serde::Serialize;

use super::matching::{Ask, confirmed};
use crate::{
    args::{Replay, Which},
    error::{Exit, Failure, exit_of},
    output::{Printer, number},
    settings::Settings,
    stop::Stop,
};

/// Letters a batch, which are held whole: put back all or none.
const BATCH: u32 = 100;
const STEPS: [u32; 2] = [1, 10];

#[derive(Clone, Copy, Serialize)]
struct Replayed {
    replayed: u64,
}

/// Who replays, and why.
struct Note {
    by: Option<String>,
    note: Option<String>,
}

pub(crate) async fn replay(
    store: &dyn DeadLetterStore,
    replayer: Option<&dyn DeadLetterReplay>,
    replay: Replay,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let replayer = replayer.ok_or_else(|| {
        Failure::usage("this program has no replay").hint("the service's own has, which knows its outbox")
    })?;
    let Replay { which, brake, wait, note, by } = replay;
    let wait = brake.then(|| Settings::duration("--wait", &wait)).transpose()?;
    let note = Note { by, note };
    let app_id = which.filter.app;
    let (replayed, exit) = match which {
        Which { matching: true, dry_run, yes, filter, .. } => {
            let filter = settings.filter(filter)?;
            match confirmed(store, app_id, filter, "replayed", Ask::of(dry_run, yes), printer, stop).await? {
                Some(filter) => matching(store, replayer, app_id, &filter, &note, wait, stop).await?,
                None => return Ok(()),
            }
        }
        Which { letters, .. } if letters.is_empty() => return Err(Failure::no_letter()),
        Which { letters, .. } => by_ids(replayer, app_id, &letters, &note, stop).await?,
    };
    let replayed = Replayed { replayed };
    printer.print(&replayed, &[replayed], [number("replayed")], |replayed| [replayed.replayed.into()])?;
    if exit == Exit::Done { Ok(()) } else { Err(Failure::silent(exit)) }
}

async fn by_ids(
    replayer: &dyn DeadLetterReplay,
    app_id: AppId,
    ids: &[DeadLetterId],
    note: &Note,
    stop: &Stop,
) -> Result<(u64, Exit), Failure> {
    let (mut done, mut missing, mut left) = (0, 0, 0);
    for &id in ids {
        if stop.is_asked() {
            left += 1;
            continue;
        }
        match replayer.replay(app_id, id, note.by.clone(), note.note.clone()).await {
            Ok(_) => done += 1,
            Err(DeadLetterRepoError::NotFound(_)) => {
                missing += 1;
                say!("{id}: the app has no such letter");
            }
            Err(error @ DeadLetterRepoError::AlreadyResolved { .. }) => {
                left += 1;
                say!("{id}: {error}");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((done, exit_of(done, missing, left)))
}

async fn matching(
    store: &dyn DeadLetterStore,
    replayer: &dyn DeadLetterReplay,
    app_id: AppId,
    filter: &DeadLetterFilter,
    note: &Note,
    wait: Option<Duration>,
    stop: &Stop,
) -> Result<(u64, Exit), Failure> {
    let began = store.count(app_id, &DeadLetterFilter::default(), 1, Some(1)).await?.as_of;
    let mut steps = STEPS.into_iter().filter(|_| wait.is_some());
    let mut done = 0;
    loop {
        let limit = steps.next().unwrap_or(BATCH);
        let (by, note) = (note.by.clone(), note.note.clone());
        let replayed = match replayer.replay_matching(app_id, filter, by, note, limit).await {
            // What was done before is to be told.
            Err(error) if done > 0 => {
                say!("error: {error}");
                return Ok((done, Exit::Partly));
            }
            replayed => replayed?,
        };
        done += replayed.ids.len() as u64;
        if !replayed.more {
            if replayed.held {
                say!("note: some are left, which another transaction holds: try again");
            }
            return Ok((done, exit_of(done, 0, replayed.held.into())));
        }
        if let Some(wait) = wait {
            say!("note: replayed {done}, and waits for what comes back");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.asked() => {}
            }
            let back = came_back(store, app_id, began).await?;
            if back > 0 {
                let letters = if back == 1 { "letter" } else { "letters" };
                say!("note: {back} {letters} came back, so that it stops here");
                return Ok((done, Exit::Partly));
            }
        }
        if stop.is_asked() {
            say!("note: it was stopped, and there are more");
            return Ok((done, Exit::Partly));
        }
    }
}

/// Of the newest 500 that were stored since then: those whose event had been replayed.
async fn came_back(
    store: &dyn DeadLetterStore,
    app_id: AppId,
    since: DateTime<Utc>,
) -> Result<usize, Failure> {
    let filter =
        DeadLetterFilter { state: DeadLetterState::Any, created_from: Some(since), ..Default::default() };
    let page = store.list(app_id, &filter, &PageRequest { size: 500, ..Default::default() }).await?;
    let events: Vec<_> = page.items.iter().map(|letter| letter.original_event_id).collect();
    Ok(store.times_replayed(app_id, &events).await?.into_iter().filter(|&times| times > 0).count())
}
