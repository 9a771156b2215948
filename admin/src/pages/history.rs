//! The history of a letter: what operators did to it.

use dead_letters::{Action, ActionRequest, DeadLetterAction, DeadLetterId};
use uuid::Uuid;

use super::text::{Text, Time, resolution_words};
use crate::{access::AppAccess, problem::Problem, urls::Root};

/// How many actions are read. The batches of a bulk run are shown as one entry.
const ACTIONS: u32 = 50;

pub(crate) struct History {
    pub(crate) entries: Vec<Entry>,
    pub(crate) is_cut: bool,
}

pub(crate) struct Entry {
    pub(crate) what: String,
    pub(crate) actor: Option<Text>,
    pub(crate) note: Option<Text>,
    pub(crate) at: Time,
    /// The address of the bulk run.
    pub(crate) run: Option<String>,
}

impl History {
    /// Returns the calls that named the letter, and the bulk run that it still has.
    pub(crate) async fn of(
        access: &AppAccess,
        root: &Root,
        id: DeadLetterId,
        run_id: Option<Uuid>,
    ) -> Result<Self, Problem> {
        let request = ActionRequest::default().letter_id(id).run_id(run_id).limit(ACTIONS);
        let mut actions = access.store().actions(access.app_id, &request).await?;
        let is_cut = actions.len() >= ACTIONS as usize;
        actions.dedup_by(|older, newer| {
            let key = |action: &DeadLetterAction| (action.letter_id, action.run_id, action.action);
            newer.letter_id.is_none() && key(older) == key(newer)
        });
        let entry = |action: DeadLetterAction| Entry {
            what: words(&action),
            actor: action.actor.as_deref().map(|actor| Text::cut(actor, 100)),
            note: action.note.as_deref().map(|note| Text::cut(note, 2_000)),
            at: Time(action.created_at),
            run: action.run_id.map(|run_id| root.run(run_id, &[access.app_id])),
        };
        Ok(Self { entries: actions.into_iter().map(entry).collect(), is_cut })
    }
}

pub(super) fn words(action: &DeadLetterAction) -> String {
    let before = match action.previous_resolution {
        Some(resolution) => format!(", was {}", resolution_words(Some(resolution))),
        None => String::new(),
    };
    match action.action {
        Some(Action::Resolve) => format!("Resolved: {}{before}", resolution_words(action.resolution)),
        Some(Action::Replay) => format!("Replayed{before}"),
        Some(Action::Edit) => format!("Replayed with an edited payload{before}"),
        Some(Action::Delete) => format!("Deleted{before}"),
        Some(Action::Reopen) => format!("Reopened{before}"),
        Some(Action::Erase) => format!("Erased{before}"),
        Some(Action::Reveal) => "Revealed the redacted content".to_owned(),
        Some(other) => format!("{other}{before}"),
        None => "Changed by a newer version".to_owned(),
    }
}
