//! Who did what: one event of the target `dead_letters::audit` for each action and each revealed payload, at
//! level INFO, once it is over.

use axum::http::StatusCode;
use dead_letters::{DeadLetterFilter, DeadLetterId, ListQuery};
use tracing::info;

use crate::{access::AppAccess, problem::Problem};

/// An action under way. Dropped before it ends, as where the browser hangs up, it says what was done by then and
/// that more may be.
pub(crate) struct Entry<'a> {
    access: &'a AppAccess,
    action: &'static str,
    letters: String,
    count: u64,
    is_ended: bool,
}

impl<'a> Entry<'a> {
    pub(crate) fn of_letter(access: &'a AppAccess, action: &'static str, id: DeadLetterId) -> Self {
        Self { access, action, letters: format!("ids={id}"), count: 0, is_ended: false }
    }

    pub(crate) fn of_matching(
        access: &'a AppAccess,
        action: &'static str,
        filter: &DeadLetterFilter,
    ) -> Self {
        let letters = ListQuery { filter: filter.clone(), ..Default::default() }.to_string();
        Self { access, action, letters, count: 0, is_ended: false }
    }

    /// It has changed or shown so many more letters.
    pub(crate) fn did(&mut self, letters: u64) {
        self.count += letters;
    }

    /// How it ended.
    pub(crate) fn ended(mut self, result: Result<(), &Problem>) {
        let status = result.err().map_or(StatusCode::OK, Problem::status);
        self.tell(if result.is_ok() { "done" } else { "refused" }, Some(status));
    }

    fn tell(&mut self, outcome: &'static str, status: Option<StatusCode>) {
        self.is_ended = true;
        info!(
            target: "dead_letters::audit",
            operator = self.access.operator().name(),
            action = self.action,
            app_id = %self.access.app_id,
            letters = self.letters,
            count = self.count,
            outcome,
            status = status.map(|status| status.as_u16()),
        );
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if !self.is_ended {
            self.tell("unknown", None);
        }
    }
}
