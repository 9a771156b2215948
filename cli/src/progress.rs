//! Shows progress on standard error if that is a terminal with escape sequences.

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::output::is_dumb;

/// A progress bar that is cleared when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Starts a bar for this many letters, or a spinner if the number is unknown.
    pub(crate) fn of(letters: Option<u64>) -> Self {
        let shown = match letters {
            Some(_) => "{bar:20} {human_pos} of {human_len} letters, {eta} left",
            None => "{spinner} {human_pos} letters, {per_sec}",
        };
        if is_dumb() {
            return Self(ProgressBar::hidden());
        }
        let bar = letters.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let bar = bar.with_finish(ProgressFinish::AndClear);
        match ProgressStyle::with_template(shown) {
            Ok(style) => Self(bar.with_style(style)),
            Err(_) => Self(bar),
        }
    }

    pub(crate) fn is_at(&self, letters: u64) {
        self.0.set_position(letters);
    }
}
