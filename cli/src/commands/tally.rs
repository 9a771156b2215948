//! Counts the outcomes of an action on many letters, and returns the exit status.

use dead_letters::DeadLetterId;
use serde_json::json;

use crate::{
    error::{Exit, Failure, ended},
    output::{Printer, number},
    progress::Progress,
    stop::Stop,
};

/// The outcomes of an action on many letters.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) done: u64,
    missing: u64,
    left: u64,
    skipped_locked: bool,
    was_stopped: bool,
}

impl Tally {
    pub(crate) fn missing(&mut self, id: DeadLetterId) {
        self.missing += 1;
        say!("{id}: the app has no such letter");
    }

    /// Counts a letter that is left unchanged, and prints why.
    pub(crate) fn left(&mut self, id: DeadLetterId, why: &str) {
        self.left += 1;
        say!("{id}: {why}");
    }

    /// Returns whether the action stops here although letters are left.
    pub(crate) fn stops(&mut self, stop: &Stop) -> bool {
        if stop.is_asked() {
            self.was_stopped = true;
            say!("note: stopped; there are more letters");
        }
        self.was_stopped
    }

    /// Stops the action for this reason although letters are left.
    pub(crate) fn stops_because(&mut self, why: &str) {
        self.was_stopped = true;
        say!("note: stopped: {why}");
    }

    /// Counts a batch of matching letters. Returns whether there may be another batch.
    pub(crate) fn batch(
        &mut self,
        done: usize,
        more: bool,
        skipped_locked: bool,
        progress: &Progress,
    ) -> bool {
        self.done += done as u64;
        progress.is_at(self.done);
        self.skipped_locked |= skipped_locked;
        if !more && self.skipped_locked {
            self.left += 1;
            say!("note: letters that another transaction has locked were skipped; run the command again");
        }
        more
    }

    /// Prints the number of changed letters under this name, and returns the exit status.
    ///
    /// | changed | missing | left unchanged | exit status |
    /// | --- | --- | --- | --- |
    /// | any | none | none | 0, done |
    /// | none | some | none | 3, not found |
    /// | none | any | some | 1, failed |
    /// | some | any | any | 4, partly |
    ///
    /// The first matching row applies. An action that was stopped exits with 4.
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
