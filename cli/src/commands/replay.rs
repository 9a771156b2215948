use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use dead_letters::{
    AppId, Attribution, DeadLetterFilter, DeadLetterId, DeadLetterReplay, DeadLetterRepoError,
    DeadLetterStore, PageRequest, ReplayFailure, ReplayRate, ReplayRequest, Resolution,
};
use uuid::Uuid;

use super::{
    change::{Change, of_open, run},
    matching::{Matching, letters},
    select::Selected,
    tally::Tally,
};
use crate::{
    args::{Replay, Which},
    error::Failure,
    ids::Letter,
    output::{Printer, one_line},
    program,
    progress::Progress,
    settings::{Clock, Settings},
    stop::Stop,
};

/// Letters per batch. A batch is in memory with its payloads.
const MAX_BATCH: u32 = 100;
const MAX_PAYLOAD_BYTES: u64 = 256 << 20;
/// Cap of the count of letters that are left out.
const LEFT_OUT_CAP: u32 = 1_000;
/// Cap of the count of letters that failed again.
const NEWEST: u32 = 500;
/// How many new letters are examined to find those that failed again.
const EXAMINED: u32 = 100_000;

/// The message if the binary has no `Requeue` for the service's outbox.
pub(crate) const NOT_HERE: &str =
    "replay is not available in this binary: it needs your service's own build of this tool (Cli::requeue)";

pub(crate) async fn replay(
    store: &dyn DeadLetterStore,
    replayer: Option<&dyn DeadLetterReplay>,
    replay: Replay,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let replayer = replayer.ok_or_else(|| Failure::usage(NOT_HERE))?;
    let Replay { which, payload_file, staged, wait, rate, note, by } = replay;
    let edited = payload_file.map(|file| edited(&file, &which)).transpose()?;
    let wait = staged.then(|| Settings::duration("--wait", &wait, Duration::ZERO)).transpose()?;
    let run_id = Uuid::now_v7();
    let mut attribution = Attribution::default().run_id(run_id);
    (attribution.by, attribution.note) = (by, note);
    let clock = settings.clock()?;
    let change = Replaying { store, replayer, attribution, run_id, edited, wait, rate, clock };
    run(&change, store, which, settings, printer, stop).await
}

struct Replaying<'a> {
    store: &'a dyn DeadLetterStore,
    replayer: &'a dyn DeadLetterReplay,
    attribution: Attribution,
    run_id: Uuid,
    /// The payload to put back instead of the letter's own.
    edited: Option<String>,
    /// The pause after each stage of a staged replay.
    wait: Option<Duration>,
    rate: Option<ReplayRate>,
    clock: Clock,
}

impl Change for Replaying<'_> {
    const DONE: &'static str = "replayed";

    fn run_id(&self) -> Option<Uuid> {
        Some(self.run_id)
    }

    fn hint(&self) -> Option<String> {
        let (name, run_id) = (program::name(), self.run_id);
        Some(format!("see what fails again with `{name} list --failed-again-in-run {run_id}`"))
    }

    fn narrow(&self, filter: DeadLetterFilter) -> Result<DeadLetterFilter, Failure> {
        let replayable = of_open(&filter)?.replayable(self.replayer.accepts_truncated());
        replayable.ok_or_else(|| {
            Failure::usage(match filter.erased {
                Some(true) => {
                    "--erased true: an erased letter cannot be replayed; resolve these letters instead"
                }
                _ => {
                    "--truncated true: the service replays only whole payloads; resolve these letters instead"
                }
            })
        })
    }

    /// Prints how many letters are left out because their payload is not whole.
    async fn check(&self, selected: &Selected) -> Result<(), Failure> {
        let filter = selected.filter.clone();
        let truncated = match self.replayer.accepts_truncated() {
            // No search finds an erased letter.
            true if selected.payload_contains.is_some() => return Ok(()),
            true => filter.erased(true),
            false => filter.truncated(true),
        };
        let left_out = selected.count(self.store, &truncated, LEFT_OUT_CAP).await?;
        if left_out.count > 0 {
            say!(
                "note: {} with a truncated or erased payload also match, and are left out",
                letters(left_out)
            );
        }
        Ok(())
    }

    async fn by_ids(
        &self,
        app_id: AppId,
        ids: &[DeadLetterId],
        tally: &mut Tally,
        stop: &Stop,
    ) -> Result<(), Failure> {
        for &id in ids {
            if tally.stops(stop) {
                break;
            }
            let began = Instant::now();
            let replayed = match &self.edited {
                Some(payload) => self.replayer.replay_edited(app_id, id, payload, &self.attribution).await,
                None => self.replayer.replay(app_id, id, &self.attribution).await,
            };
            match replayed {
                Ok(_) => {
                    tally.done(app_id, 1);
                    if Some(&id) != ids.last() {
                        self.pause(1, began, stop).await;
                    }
                }
                Err(DeadLetterRepoError::NotFound(_)) => tally.missing(id),
                Err(DeadLetterRepoError::AlreadyResolved { resolution, by, .. }) => {
                    let resolution = resolution.map_or("something newer", Resolution::as_str);
                    let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
                    tally.left(id, &format!("the letter was already resolved as {resolution}{by}"));
                }
                Err(DeadLetterRepoError::PayloadNotWhole { kind, .. }) => {
                    let kind = kind.as_str();
                    let why =
                        format!("its payload is {kind}, and the service replays only whole ones: resolve it");
                    tally.left(id, &why);
                }
                Err(DeadLetterRepoError::Erased(_)) => tally.left(id, "its content was erased: resolve it"),
                Err(error @ DeadLetterRepoError::Requeue(_)) if !error.is_transient() => {
                    tally.left(id, &reason(&ReplayFailure::new(id, error)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn matching(&self, found: &[Matching], tally: &mut Tally, stop: &Stop) -> Result<(), Failure> {
        let count = found.iter().map(|app| app.count).sum();
        if let Some(rate) = self.rate.filter(|_| count > 0) {
            let end = TimeDelta::from_std(rate.time_for(count)).ok();
            let end = end.and_then(|time| Utc::now().checked_add_signed(time));
            let end =
                end.map(|end| format!(" and ends at about {}", self.clock.time(end))).unwrap_or_default();
            say!("note: the replay takes at most {}/s{end}", rate.letters_per_second());
        }
        for (index, app) in found.iter().enumerate() {
            // The events of the earlier apps may fail again as well.
            self.of_app(app, &found[..=index], index + 1 == found.len(), tally, stop).await?;
            if tally.was_stopped() {
                break;
            }
        }
        Ok(())
    }
}

impl Replaying<'_> {
    async fn of_app(
        &self,
        found: &Matching,
        so_far: &[Matching],
        is_last: bool,
        tally: &mut Tally,
        stop: &Stop,
    ) -> Result<(), Failure> {
        let &Self { replayer, ref attribution, wait, rate, .. } = self;
        let progress = Progress::of(Some(found.count));
        let (mut examined, mut left_of_stage, mut after, mut has_more) = (0, 0, None, true);
        while has_more {
            if left_of_stage == 0 {
                left_of_stage = match wait {
                    Some(_) => ReplayRequest::next_stage(tally.changed()).into(),
                    None => u64::MAX,
                };
            }
            let largest = rate.map_or(MAX_BATCH, |rate| rate.batch(u64::MAX));
            let largest = u32::try_from(left_of_stage).map_or(largest, |left| left.min(largest));
            let request = ReplayRequest::default().after(after).limit(found.limit(examined, largest));
            let began = Instant::now();
            let batch = replayer.replay_matching(found.app_id, &found.filter, attribution, &request).await?;
            let taken = (batch.ids.len() + batch.failed.len()) as u64;
            examined += taken;
            left_of_stage = left_of_stage.saturating_sub(taken);
            progress.is_at(examined);
            after = batch.next;
            for failure in &batch.failed {
                tally.left(failure.id, &reason(failure));
            }
            has_more = tally.batch(found.app_id, batch.ids.len(), batch.more, batch.skipped_locked);
            if let Some(error) = batch.stopped {
                return Err(error.into());
            }
            has_more &= found.limit(examined, MAX_BATCH) > 0;
            if has_more || !is_last {
                self.pause(batch.ids.len(), began, stop).await;
            }
            let is_stage = left_of_stage == 0 || !has_more;
            if let Some(wait) = wait.filter(|_| is_stage && (has_more || !is_last)) {
                say!("note: replayed {}; waiting for events that fail again", tally.changed());
                sleep(wait, stop).await;
                if self.failed_again(so_far, tally).await? {
                    return Ok(());
                }
            }
            if has_more && tally.stops(stop) {
                return Ok(());
            }
        }
        if !is_last {
            tally.stops(stop);
        }
        Ok(())
    }

    /// Waits after a batch as long as the rate demands.
    async fn pause(&self, replayed: usize, began: Instant, stop: &Stop) {
        if let Some(rate) = self.rate {
            sleep(rate.pause(replayed, began.elapsed()), stop).await;
        }
    }

    /// Stops the replay if events of the run failed again.
    async fn failed_again(&self, so_far: &[Matching], tally: &mut Tally) -> Result<bool, Failure> {
        let mut again = 0;
        for found in so_far.chunk_by(|one, next| one.app_id == next.app_id).map(|of_app| &of_app[0]) {
            let filter = DeadLetterFilter::failed_again(self.run_id, found.now);
            let page = PageRequest::default().size(NEWEST).scan_limit(EXAMINED);
            let page = self.store.list(found.app_id, &filter, &page).await?;
            again += page.items.len();
            if again == 0 && page.next.is_some() {
                let why = format!("too many letters failed since the run began (more than {EXAMINED})");
                tally.stops_because(&why);
                return Ok(true);
            }
        }
        if again > 0 {
            let events = if again == 1 { "event" } else { "events" };
            tally.stops_because(&format!("{again} replayed {events} failed again"));
        }
        Ok(again > 0)
    }
}

/// Waits, or returns at once if the command is to stop.
async fn sleep(time: Duration, stop: &Stop) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = stop.asked() => {}
    }
}

/// Reads the edited payload of one letter.
fn edited(file: &Path, which: &Which) -> Result<String, Failure> {
    if which.letters.len() != 1 || which.letters.contains(&Letter::Stdin) {
        return Err(Failure::usage("--payload-file replays one letter; name its ID"));
    }
    let failed = |error| Failure::usage(format!("{}: {error}", file.display()));
    let read: Box<dyn Read> = match file == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(file).map_err(failed)?),
    };
    let mut text = String::new();
    read.take(MAX_PAYLOAD_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    match text.len() as u64 > MAX_PAYLOAD_BYTES {
        true => Err(Failure::usage(format!("{}: the payload must have at most 256 MiB", file.display()))),
        false => Ok(text),
    }
}

/// Formats in one line why the service could not requeue a letter.
fn reason(failure: &ReplayFailure) -> String {
    format!("not replayed: {}", one_line(&failure.reason()))
}

#[cfg(test)]
mod tests {
    use dead_letters::testing;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_services_error_is_one_line() {
        let said = Box::<dyn std::error::Error + Send + Sync>::from("gone\n\terror: nothing was\rreplayed");
        let error = DeadLetterRepoError::Requeue(said.into());
        let failure = ReplayFailure::new(Uuid::nil().into(), error);
        assert_eq!(reason(&failure), "not replayed: gone  error: nothing was replayed");
        let failure = ReplayFailure::new(failure.id, testing::internal());
        assert_eq!(reason(&failure), "not replayed: database error XX000");
    }
}
