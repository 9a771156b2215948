//! Counts the outcomes of an action on many letters, and returns the exit status.

use std::collections::BTreeMap;

use dead_letters::{AppId, DeadLetterId};
use serde_json::json;
use uuid::Uuid;

use super::matching::letters;
use crate::{
    error::{Exit, Failure, ended},
    ids::AppNames,
    output::{Printer, grouped},
    settings::Settings,
    stop::Stop,
};

/// Apps that the result names.
const APPS: usize = 10;

/// The outcomes of an action on many letters.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    apps: AppNames,
    changed: BTreeMap<AppId, u64>,
    missing: u64,
    left: u64,
    skipped_locked: bool,
    was_stopped: bool,
}

impl Tally {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self { apps: settings.apps.clone(), ..Self::default() }
    }

    /// Counts changed letters of an app.
    pub(crate) fn done(&mut self, app_id: AppId, letters: usize) {
        if letters > 0 {
            *self.changed.entry(app_id).or_default() += letters as u64;
        }
    }

    pub(crate) fn changed(&self) -> u64 {
        self.changed.values().sum()
    }

    pub(crate) fn was_stopped(&self) -> bool {
        self.was_stopped
    }

    pub(crate) fn missing(&mut self, id: DeadLetterId) {
        self.missing += 1;
        say!("{id}: there is no such letter");
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
    pub(crate) fn batch(&mut self, app_id: AppId, done: usize, more: bool, skipped_locked: bool) -> bool {
        self.done(app_id, done);
        self.skipped_locked |= skipped_locked;
        if !more && self.skipped_locked {
            self.left += 1;
            say!(
                "note: letters that could not be changed now were skipped, because another transaction has locked them or a \
                 trigger protects them; run the command again"
            );
        }
        more
    }

    /// Prints what was changed, and returns the exit status. Programs get the number of changed letters, in JSON under
    /// this name, beside the run's id.
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
        words: &str,
        run_id: Option<Uuid>,
        hint: Option<String>,
        printer: &mut Printer,
    ) -> Result<(), Failure> {
        let done = self.changed();
        let Self { apps: names, changed, missing, left, was_stopped, .. } = self;
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
        let mut sentence = format!("{} {words}", letters(done));
        if changed.len() > 1 {
            let of_app =
                |(app_id, count): (&AppId, &u64)| format!("{} of {}", grouped(*count), names.short(*app_id));
            let apps: Vec<_> = changed.iter().take(APPS).map(of_app).collect();
            let more = if changed.len() > APPS { ", …" } else { "" };
            sentence += &format!(": {}{more}", apps.join(", "));
        }
        let mut whole = json!({ name: done });
        if let Some(run_id) = run_id.filter(|_| done > 0) {
            whole["run_id"] = json!(run_id);
        }
        let printed = printer.sentence(&whole, &sentence, &[done.to_string()]);
        if let Some(hint) = hint.filter(|_| done > 0) {
            say!("note: {hint}");
        }
        ended(ran, printed)
    }
}
