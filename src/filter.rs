//! Which rows a call is about.

use std::{fmt, str::FromStr};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
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
    /// The trigger, or no trigger.
    pub trigger_id: Option<IdFilter<TriggerId>>,
    /// The script, or no script.
    pub script_id: Option<IdFilter<ScriptId>>,
    /// The outbox row.
    pub original_event_id: Option<Uuid>,
    /// A part of `last_error`. No character is a wildcard, and case counts.
    pub error_contains: Option<String>,
    /// The error signature, exactly.
    pub error_signature: Option<String>,
    /// The [key](crate::ErrorGroup::group_key) of an error group. No index serves it: bound the scan.
    pub group_key: Option<String>,
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

impl DeadLetterFilter {
    /// Returns the filter of the letters that a replay takes: without truncated and erased payloads, unless the service
    /// [accepts them](crate::DeadLetterReplay::accepts_truncated). Returns `None` if the filter asks for these alone.
    pub fn replayable(&self, accepts_truncated: bool) -> Option<Self> {
        match self.truncated {
            _ if accepts_truncated => Some(self.clone()),
            Some(true) => None,
            _ => Some(Self { truncated: Some(false), ..self.clone() }),
        }
    }

    /// Returns the filter of the letters that match and lie ahead of the database's clock, by a minute or more: letters
    /// that failed since the count are not meant. Returns `None` if the filter has ids or an end of its own, since it
    /// then includes them, and if it is about closed letters, which are found by when they were closed.
    pub fn ahead_of(&self, as_of: DateTime<Utc>) -> Option<Self> {
        if self.ids.is_some() || self.created_before.is_some() || self.state == DeadLetterState::Closed {
            return None;
        }
        let created_from = self.created_from.max(as_of.checked_add_signed(TimeDelta::minutes(1)));
        Some(Self { created_from, created_before: Some(DateTime::<Utc>::MAX_UTC), ..self.clone() })
    }
}

debug_without_content! {
    DeadLetterFilter {
        state, ids, resolution, trigger_id, script_id, original_event_id, truncated, failed_again_in_run,
        group_key, created_from, created_before;
        source, op, error_contains, error_signature,
    }
}

/// A condition on an id that not every letter has: its trigger, or its script. It prints, parses and serializes as the
/// id, or as `none`.
///
/// ```
/// use dead_letters::{DeadLetterFilter, IdFilter, ScriptId};
/// use uuid::Uuid;
///
/// let script = ScriptId::from(Uuid::new_v4());
/// let of_script = DeadLetterFilter { script_id: Some(script.into()), ..Default::default() };
/// let without_script = DeadLetterFilter { script_id: Some(IdFilter::None), ..Default::default() };
/// assert_ne!(of_script, without_script);
///
/// // The letters of an error group, which may have no script.
/// let of_group = |script_id: Option<ScriptId>| Some(IdFilter::from(script_id));
/// assert_eq!(of_group(Some(script)), of_script.script_id);
/// assert_eq!(of_group(None), without_script.script_id);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdFilter<T> {
    /// The letter has no such id.
    None,
    /// The letter has this id.
    Is(T),
}

/// `None` as text. No uuid is.
const NONE: &str = "none";

impl<T> From<T> for IdFilter<T> {
    fn from(id: T) -> Self {
        Self::Is(id)
    }
}

/// As a letter or a group has it.
impl<T> From<Option<T>> for IdFilter<T> {
    fn from(id: Option<T>) -> Self {
        id.map_or(Self::None, Self::Is)
    }
}

impl<T: fmt::Display> fmt::Display for IdFilter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad(NONE),
            Self::Is(id) => id.fmt(f),
        }
    }
}

impl<T: FromStr> FromStr for IdFilter<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == NONE { Ok(Self::None) } else { text.parse().map(Self::Is) }
    }
}

impl<T: fmt::Display> Serialize for IdFilter<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, T: FromStr> Deserialize<'de> for IdFilter<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Not what the text says, which is the sender's.
        text.parse().map_err(|_| de::Error::custom("it must be a uuid, or none"))
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
    Closed,
    /// All rows.
    Any,
}

impl DeadLetterState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Open, Self::Unresolved, Self::Closed, Self::Any];

    /// As it serializes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Unresolved => "unresolved",
            Self::Closed => "closed",
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
