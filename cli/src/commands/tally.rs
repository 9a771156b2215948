//! Of many letters: what was done, and what that comes to.

use dead_letters::DeadLetterId;
use serde_json::json;

use crate::{
    error::{Exit, Failure, ended},
    output::{Printer, number},
    progress::Progress,
    stop::Stop,
};

/// What became of letters that something was to be done to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) done: u64,
    missing: u64,
    left: u64,
    was_held: bool,
    was_stopped: bool,
}

impl Tally {
    pub(crate) fn missing(&mut self, id: DeadLetterId) {
        self.missing += 1;
        say!("{id}: the app has no such letter");
    }

    /// It is left as it is.
    pub(crate) fn left(&mut self, id: DeadLetterId, why: &str) {
        self.left += 1;
        say!("{id}: {why}");
    }

    /// Whether it is to end here, with more to be done.
    pub(crate) fn stops(&mut self, stop: &Stop) -> bool {
        if stop.is_asked() {
            self.was_stopped = true;
            say!("note: it was stopped, and there are more");
        }
        self.was_stopped
    }

    /// It ends here by itself, with more to be done.
    pub(crate) fn stops_because(&mut self, why: &str) {
        self.was_stopped = true;
        say!("note: {why}, so that it stops here");
    }

    /// A batch of all that match. Whether there is another.
    pub(crate) fn batch(&mut self, done: usize, more: bool, held: bool, progress: &Progress) -> bool {
        self.done += done as u64;
        progress.is_at(self.done);
        self.was_held |= held;
        if !more && self.was_held {
            self.left += 1;
            say!("note: some are left, which another transaction holds: try again");
        }
        more
    }

    /// Prints what was done, under this name, and says what it comes to.
    ///
    /// | done | missing | else left | exit |
    /// | --- | --- | --- | --- |
    /// | any | none | none | 0, done |
    /// | some | some, or others left | | 4, partly |
    /// | none | all | | 3, not found |
    /// | none | | some | 1, failed |
    pub(crate) fn end(
        self,
        ran: Result<(), Failure>,
        name: &'static str,
        printer: &mut Printer,
    ) -> Result<(), Failure> {
        let Self { done, missing, left, was_stopped, .. } = self;
        let ran = match ran {
            Err(failure) if done == 0 => return Err(failure),
            ran => ran.map_err(Failure::after_a_part),
        };
        let ran = ran.and_then(|()| match (done, missing, left) {
            _ if was_stopped => Err(Failure::silent(Exit::Partly)),
            (_, 0, 0) => Ok(()),
            (0, _, 0) => Err(Failure::silent(Exit::NotFound)),
            (0, _, _) => Err(Failure::silent(Exit::Failed)),
            _ => Err(Failure::silent(Exit::Partly)),
        });
        let done = json!({ name: done });
        ended(ran, printer.print(&done, &[&done], [number(name)], |done| [done[name].to_string().into()]))
    }
}
