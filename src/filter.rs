//! Which rows a call is about.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    DeadLetterId, DeadLetterRepoError, Resolution, ScriptId, TriggerId, debug::debug_without_content,
};

/// Which of an app's rows a call is about: those for which every field that is set holds. The default is
/// every unresolved row. More fields may come: write it with `..Default::default()`.
///
/// Deserialized, every field may be missing, and one that does not exist is an error: passed over, it would
/// leave a bulk call with more rows than were meant. Its `Debug` shows texts by their size.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetterFilter {
    /// How far the row is settled.
    pub state: DeadLetterState,
    /// These rows, at most 1,000, in any order: what a person ticked, say. A bulk call that has them needs no
    /// `created_before`, and a bound on the scan does not apply: no other rows are looked at.
    pub ids: Option<Vec<DeadLetterId>>,
    /// What it was resolved as; that is never so of an unresolved row.
    pub resolution: Option<Resolution>,
    /// What the event was about, exactly.
    pub source: Option<String>,
    /// The operation that failed, exactly.
    pub op: Option<String>,
    /// The trigger.
    pub trigger_id: Option<TriggerId>,
    /// The script.
    pub script_id: Option<ScriptId>,
    /// The outbox row.
    pub original_event_id: Option<Uuid>,
    /// A part of `last_error`. No character is a wildcard, and case counts.
    pub error_contains: Option<String>,
    /// The error signature, exactly.
    pub error_signature: Option<String>,
    /// Whether the payload is not the whole event: `Some(true)` is letters whose payload is truncated or erased,
    /// `Some(false)` is all others.
    pub truncated: Option<bool>,
    /// Letters that failed again: this bulk run replayed a letter of their event
    /// ([`ReplayRequest::run_id`](crate::ReplayRequest::run_id)), and they are none that it replayed. Letters of the
    /// event from before the run match too, if `created_from` does not leave them out.
    pub failed_again_in_run: Option<Uuid>,
    /// Created at this time or later.
    pub created_from: Option<DateTime<Utc>>,
    /// Created before this time.
    pub created_before: Option<DateTime<Utc>>,
}

debug_without_content! {
    DeadLetterFilter {
        state, ids, resolution, trigger_id, script_id, original_event_id, truncated, failed_again_in_run,
        created_from, created_before;
        source, op, error_contains, error_signature,
    }
}

/// How far a row is settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterState {
    /// Unresolved, or resolved as `handler_failed`.
    Open,
    /// Not resolved as anything.
    #[default]
    Unresolved,
    /// Closed: resolved as `replayed`, `ignored` or `handled_by_script`. Listed by when they were resolved.
    Resolved,
    /// All rows.
    Any,
}

impl DeadLetterState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Open, Self::Unresolved, Self::Resolved, Self::Any];

    /// As it serializes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Unresolved => "unresolved",
            Self::Resolved => "resolved",
            Self::Any => "any",
        }
    }
}

impl fmt::Display for DeadLetterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for DeadLetterState {
    type Err = DeadLetterRepoError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| DeadLetterRepoError::InvalidState(text.to_owned()))
    }
}
