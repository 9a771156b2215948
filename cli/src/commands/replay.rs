use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterReplay, DeadLetterRepoError, DeadLetterState,
    DeadLetterStore, PageRequest,
};
use uuid::Uuid;

use super::{
    matching::{Ask, Matching, confirmed, of_open},
    tally::Tally,
};
use crate::{
    args::{Replay, Which},
    error::Failure,
    output::Printer,
    progress::Progress,
    settings::Settings,
    stop::Stop,
};

/// Letters a batch, which are held whole: put back all or none.
const BATCH: u32 = 100;
const STEPS: [u32; 2] = [1, 10];

/// Where no host said how events go back into its outbox.
pub(crate) const NOT_HERE: &str =
    "replay is not available in this binary: it needs your service's own build of this tool (Cli::requeue)";

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
    let replayer = replayer.ok_or_else(|| Failure::usage(NOT_HERE))?;
    let Replay { which, brake, wait, note, by } = replay;
    let wait = brake.then(|| Settings::duration("--wait", &wait, Duration::ZERO)).transpose()?;
    let note = Note { by, note };
    let app_id = which.filter.app;
    let mut tally = Tally::default();
    let ran = match which {
        Which { matching: true, dry_run, yes, filter, .. } => {
            let filter = of_open(filter.narrow.state, settings.filter(filter)?)?;
            match confirmed(store, app_id, filter, "replayed", Ask::of(dry_run, yes), printer, stop).await? {
                Some(found) => matching(store, replayer, &found, &note, wait, &mut tally, stop).await,
                None => return Ok(()),
            }
        }
        Which { letters, .. } if letters.is_empty() => return Err(Failure::no_letter()),
        Which { letters, .. } => by_ids(replayer, app_id, &letters, &note, &mut tally, stop).await,
    };
    tally.end(ran, "replayed", printer)
}

async fn by_ids(
    replayer: &dyn DeadLetterReplay,
    app_id: AppId,
    ids: &[DeadLetterId],
    note: &Note,
    tally: &mut Tally,
    stop: &Stop,
) -> Result<(), Failure> {
    for &id in ids {
        if tally.stops(stop) {
            break;
        }
        match replayer.replay(app_id, id, note.by.clone(), note.note.clone()).await {
            Ok(_) => tally.done += 1,
            Err(DeadLetterRepoError::NotFound(_)) => tally.missing(id),
            Err(error @ DeadLetterRepoError::AlreadyResolved { .. }) => tally.left(id, &error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn matching(
    store: &dyn DeadLetterStore,
    replayer: &dyn DeadLetterReplay,
    found: &Matching,
    note: &Note,
    wait: Option<Duration>,
    tally: &mut Tally,
    stop: &Stop,
) -> Result<(), Failure> {
    let progress = Progress::of(Some(found.count));
    let mut steps = STEPS.into_iter().filter(|_| wait.is_some());
    let mut replayed = Replayed::default();
    loop {
        let limit = found.limit(tally.done, steps.next().unwrap_or(BATCH));
        if limit == 0 {
            return Ok(());
        }
        let (by, note) = (note.by.clone(), note.note.clone());
        let batch = replayer.replay_matching(found.app_id, &found.filter, by, note, limit).await?;
        if !tally.batch(&batch, &progress) || found.limit(tally.done, BATCH) == 0 {
            return Ok(());
        }
        if let Some(wait) = wait {
            replayed.add(store, found.app_id, batch.ids).await?;
            say!("note: replayed {}, and waits for what comes back", tally.done);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.asked() => {}
            }
            let back = replayed.came_back(store, found.app_id, found.now).await?;
            if back > 0 {
                let letters = if back == 1 { "letter" } else { "letters" };
                tally.stops_because(&format!("{back} {letters} came back"));
                return Ok(());
            }
        }
        if tally.stops(stop) {
            return Ok(());
        }
    }
}

/// What this run replayed.
#[derive(Default)]
struct Replayed {
    letters: HashSet<DeadLetterId>,
    events: HashSet<Uuid>,
}

impl Replayed {
    async fn add(
        &mut self,
        store: &dyn DeadLetterStore,
        app_id: AppId,
        ids: Vec<DeadLetterId>,
    ) -> Result<(), Failure> {
        self.letters.extend(&ids);
        let filter = DeadLetterFilter { state: DeadLetterState::Any, ids: Some(ids), ..Default::default() };
        let page = PageRequest { size: BATCH, ..Default::default() };
        let letters = store.list(app_id, &filter, &page).await?.items;
        self.events.extend(letters.iter().map(|letter| letter.original_event_id));
        Ok(())
    }

    /// How many of the newest 500 letters since then are of these events, which failed again.
    async fn came_back(
        &self,
        store: &dyn DeadLetterStore,
        app_id: AppId,
        since: DateTime<Utc>,
    ) -> Result<usize, Failure> {
        let filter =
            DeadLetterFilter { state: DeadLetterState::Any, created_from: Some(since), ..Default::default() };
        let page = PageRequest { size: 500, ..Default::default() };
        let letters = store.list(app_id, &filter, &page).await?.items;
        let failed_again = letters.iter().filter(|letter| {
            self.events.contains(&letter.original_event_id) && !self.letters.contains(&letter.id)
        });
        Ok(failed_again.count())
    }
}
