//! The letters that a call is about.

use std::{collections::BTreeMap, fmt, str::FromStr};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::{
    DeadLetterId, DeadLetterRepoError, Resolution, ScriptId, TriggerId, debug::debug_without_content,
    setters::setters, words::words,
};

/// The letters of an app that a call is about: those that match every field that is set.
///
/// The default is every open letter. Every field may be missing when it is deserialized. An unknown field is an error:
/// if it were ignored, a bulk call would take more letters than the sender meant. `Debug` shows the texts by their size.
///
/// # Errors
///
/// Every call of the store that takes a filter returns these errors, with nothing sent to the database:
///
/// - [`OutOfRange`](DeadLetterRepoError::OutOfRange) for more than 1,000 `ids`, or more than 10 keys in `metadata`;
/// - [`FilterMetadataLength`](DeadLetterRepoError::FilterMetadataLength) for a key of no bytes or of more than 200, and
///   for a value of more than 1,000 bytes.
///
/// # Examples
///
/// ```
/// use chrono::Utc;
/// use dead_letters::{DeadLetterFilter, DeadLetterState};
///
/// let filter = DeadLetterFilter::default().source("orders").op("insert").created_before(Utc::now());
/// assert_eq!(filter.effective_state(), DeadLetterState::Open);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DeadLetterFilter {
    /// The state of the letter. `None` is the [default](Self::effective_state).
    pub state: Option<DeadLetterState>,
    /// The ids of the letters, at most 1,000, in any order, such as those that an operator ticked. A bulk call with
    /// ids needs no `created_before`. A scan limit does not apply, because no other letters are examined.
    pub ids: Option<Vec<DeadLetterId>>,
    /// The resolution of the letter. No unresolved letter matches it.
    pub resolution: Option<Resolution>,
    /// The subject of the event, exactly.
    pub source: Option<String>,
    /// A part of the subject of the event, as in [`error_contains`](field@Self::error_contains).
    pub source_contains: Option<String>,
    /// The operation that failed, exactly.
    pub op: Option<String>,
    /// A part of the operation that failed, as in [`error_contains`](field@Self::error_contains).
    pub op_contains: Option<String>,
    /// The trigger, or no trigger.
    pub trigger_id: Option<IdFilter<TriggerId>>,
    /// The script, or no script.
    pub script_id: Option<IdFilter<ScriptId>>,
    /// The outbox row that used up its retries.
    pub original_event_id: Option<Uuid>,
    /// A part of `last_error`. No character is a wildcard. The case of the letters A to Z is ignored, and that of no
    /// other letter. No index serves this condition: set a scan limit.
    pub error_contains: Option<String>,
    /// The error signature, exactly.
    pub error_signature: Option<String>,
    /// The [key](crate::ErrorGroup::group_key) of an error group. No index serves this condition: set a scan limit.
    pub group_key: Option<String>,
    /// Whether the payload is not the whole event. `Some(true)` matches letters whose payload is truncated or erased.
    /// `Some(false)` matches all others.
    pub truncated: Option<bool>,
    /// Whether the letter's content was [erased](crate::DeadLetterDelete::erase).
    pub erased: Option<bool>,
    /// A bulk run after which events failed again. A letter matches if the run replayed another letter of the
    /// same event, but not this letter. The run is the [`Attribution::run_id`](crate::Attribution::run_id) of the replay.
    /// Letters of the event from before the run match too, unless `created_from` leaves them out.
    pub failed_again_in_run: Option<Uuid>,
    /// The bulk run that resolved the letter ([`Attribution::run_id`](crate::Attribution::run_id)), if nobody changed its
    /// resolution since. A scan limit does not apply, because an index finds the letters of a run. A call reads all of
    /// them, and a page sorts them.
    pub run_id: Option<Uuid>,
    /// Who resolved the letter, exactly.
    pub resolved_by: Option<String>,
    /// Resolved at this time or later. No unresolved letter matches it.
    pub resolved_from: Option<DateTime<Utc>>,
    /// Resolved before this time. No unresolved letter matches it.
    pub resolved_before: Option<DateTime<Utc>>,
    /// Created at this time or later.
    pub created_from: Option<DateTime<Utc>>,
    /// Created before this time.
    pub created_before: Option<DateTime<Utc>>,
    /// Keys of the letter's [metadata](crate::NewDeadLetter::metadata) and their values: at most 10 keys of 1 to 200
    /// bytes, with values of at most 1,000 bytes. A letter matches if each key has this value as a text, exactly. A
    /// number never matches. No index serves this condition: set a scan limit.
    pub metadata: BTreeMap<String, String>,
}

setters! {
    DeadLetterFilter {
        some state: DeadLetterState,
        into ids: Vec<DeadLetterId>,
        some resolution: Resolution,
        into source: String,
        into source_contains: String,
        into op: String,
        into op_contains: String,
        into trigger_id: IdFilter<TriggerId>,
        into script_id: IdFilter<ScriptId>,
        some original_event_id: Uuid,
        into error_contains: String,
        into error_signature: String,
        into group_key: String,
        some truncated: bool,
        some erased: bool,
        some failed_again_in_run: Uuid,
        some run_id: Uuid,
        into resolved_by: String,
        some resolved_from: DateTime<Utc>,
        some resolved_before: DateTime<Utc>,
        some created_from: DateTime<Utc>,
        some created_before: DateTime<Utc>,
    }
}

impl DeadLetterFilter {
    /// Adds a key of the metadata and its value to [`metadata`](field@Self::metadata).
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::DeadLetterFilter;
    ///
    /// let filter = DeadLetterFilter::default().metadata("tenant", "acme").metadata("region", "eu");
    /// assert_eq!(filter.metadata["tenant"], "acme");
    /// assert_eq!(filter.metadata.len(), 2);
    /// ```
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Returns the filter of what failed again after a bulk replay: letters of the run's events, in any state, that were
    /// created since it began.
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::Utc;
    /// use dead_letters::DeadLetterFilter;
    /// use uuid::Uuid;
    ///
    /// let (run, began) = (Uuid::now_v7(), Utc::now());
    /// let filter = DeadLetterFilter::failed_again(run, began);
    /// assert_eq!((filter.failed_again_in_run, filter.created_from), (Some(run), Some(began)));
    /// ```
    pub fn failed_again(run_id: Uuid, since: DateTime<Utc>) -> Self {
        Self::default().state(DeadLetterState::Any).failed_again_in_run(run_id).created_from(since)
    }

    /// Returns the state that the filter selects: its [`state`](field@Self::state). A filter without a state selects
    /// open letters, or letters in any state if it has ids or a condition that only resolved letters match.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterFilter, DeadLetterState, Resolution};
    ///
    /// let ignored = DeadLetterFilter::default().resolution(Resolution::Ignored);
    /// assert_eq!(ignored.effective_state(), DeadLetterState::Any);
    /// ```
    pub fn effective_state(&self) -> DeadLetterState {
        let is_any = self.ids.is_some() || self.names_a_resolution();
        self.state.unwrap_or(if is_any { DeadLetterState::Any } else { DeadLetterState::Open })
    }

    /// Returns whether only resolved letters can match: those that are closed, or that meet a condition on their
    /// resolution.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterFilter, DeadLetterState, Resolution};
    ///
    /// assert!(DeadLetterFilter::default().resolution(Resolution::Ignored).matches_resolved_only());
    /// assert!(DeadLetterFilter::default().state(DeadLetterState::Closed).matches_resolved_only());
    /// // Open letters are unresolved, or resolved as `handler_failed`.
    /// assert!(!DeadLetterFilter::default().matches_resolved_only());
    /// ```
    pub fn matches_resolved_only(&self) -> bool {
        self.effective_state() == DeadLetterState::Closed || self.names_a_resolution()
    }

    /// Returns whether a condition is on the letter's resolution.
    fn names_a_resolution(&self) -> bool {
        self.resolution.is_some()
            || self.run_id.is_some()
            || self.resolved_by.is_some()
            || self.resolved_from.is_some()
            || self.resolved_before.is_some()
    }

    /// Returns this filter for the letters that a bulk call may resolve: the open ones.
    ///
    /// Returns `None` if the filter asks for closed letters only.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterFilter, DeadLetterState, Resolution};
    ///
    /// let all = DeadLetterFilter::default().state(DeadLetterState::Any);
    /// assert_eq!(all.resolvable().and_then(|filter| filter.state), Some(DeadLetterState::Open));
    /// let ignored = DeadLetterFilter::default().resolution(Resolution::Ignored);
    /// assert_eq!(ignored.resolvable(), None);
    /// ```
    pub fn resolvable(&self) -> Option<Self> {
        let is_closed = self.resolution.is_some_and(|resolution| resolution != Resolution::HandlerFailed);
        match self.effective_state() {
            DeadLetterState::Closed => None,
            _ if is_closed => None,
            DeadLetterState::Any => Some(self.clone().state(DeadLetterState::Open)),
            state => Some(self.clone().state(state)),
        }
    }

    /// Returns this filter for the letters that a bulk call may reopen: the closed ones, or the `handler_failed` ones if
    /// that is the filter's resolution.
    ///
    /// Returns `None` if the filter asks for other letters only.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterFilter, DeadLetterState};
    ///
    /// let of_ada = DeadLetterFilter::default().resolved_by("ada");
    /// assert_eq!(of_ada.reopenable().and_then(|filter| filter.state), Some(DeadLetterState::Closed));
    /// assert_eq!(DeadLetterFilter::default().state(DeadLetterState::Unresolved).reopenable(), None);
    /// ```
    pub fn reopenable(&self) -> Option<Self> {
        let is_handler_failed = self.resolution == Some(Resolution::HandlerFailed);
        let state = if is_handler_failed { DeadLetterState::Open } else { DeadLetterState::Closed };
        let is_possible = self.state.is_none_or(|own| own == state || own == DeadLetterState::Any);
        is_possible.then(|| self.clone().state(state))
    }

    /// Returns this filter for the letters that a replay takes: without erased payloads, and without truncated ones
    /// unless the service [accepts them](crate::DeadLetterReplay::accepts_truncated).
    ///
    /// Returns `None` if the filter asks for such payloads only.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::DeadLetterFilter;
    ///
    /// let truncated = DeadLetterFilter::default().truncated(true);
    /// assert_eq!(truncated.replayable(false), None);
    /// assert_eq!(truncated.replayable(true), Some(truncated.erased(false)));
    /// ```
    pub fn replayable(&self, accepts_truncated: bool) -> Option<Self> {
        match (self.erased, self.truncated) {
            (Some(true), _) => None,
            _ if accepts_truncated => Some(Self { erased: Some(false), ..self.clone() }),
            (_, Some(true)) => None,
            _ => Some(Self { truncated: Some(false), ..self.clone() }),
        }
    }

    /// Returns this filter for matching letters whose `created_at` is ahead of the database's clock by a minute or
    /// more.
    ///
    /// The minute leaves out letters that failed since the count.
    ///
    /// Returns `None` if the filter has ids or a `created_before`, because it then includes those letters. Returns
    /// `None` too if the filter is about closed letters, which are found by the time at which they were closed.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{CountRequest, DeadLetterFilter, DeadLetterRead};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let orders = DeadLetterFilter::default().source("orders");
    /// let count = repo.count(app, &orders, &CountRequest::default()).await?;
    /// if let Some(ahead) = orders.ahead_of(count.as_of) {
    ///     let left_out = repo.count(app, &ahead, &CountRequest::default()).await?;
    ///     println!("{} letters are ahead of the database's clock", left_out.matching);
    ///     # assert_eq!(left_out.matching.count, 0);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn ahead_of(&self, as_of: DateTime<Utc>) -> Option<Self> {
        if self.ids.is_some()
            || self.created_before.is_some()
            || self.effective_state() == DeadLetterState::Closed
        {
            return None;
        }
        let created_from = self.created_from.max(as_of.checked_add_signed(TimeDelta::minutes(1)));
        Some(Self { created_from, created_before: Some(DateTime::<Utc>::MAX_UTC), ..self.clone() })
    }
}

debug_without_content! {
    DeadLetterFilter {
        state, ids, resolution, trigger_id, script_id, original_event_id, truncated, erased,
        failed_again_in_run, run_id, resolved_from, resolved_before, group_key, created_from, created_before;
        source, source_contains, op, op_contains, error_contains, error_signature, resolved_by, metadata,
    }
}

/// A condition on an id that a letter may not have: its trigger, or its script. It prints, parses and serializes as
/// the id, or as `none`.
///
/// # Examples
///
/// ```
/// use dead_letters::{DeadLetterFilter, IdFilter, ScriptId};
/// use uuid::Uuid;
///
/// let script = ScriptId::from(Uuid::new_v4());
/// let of_script = DeadLetterFilter::default().script_id(script);
/// let without_script = DeadLetterFilter::default().script_id(IdFilter::None);
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

/// The text of `IdFilter::None`, which no UUID can have.
const NONE: &str = "none";

impl<T> From<T> for IdFilter<T> {
    fn from(id: T) -> Self {
        Self::Is(id)
    }
}

/// Makes the condition that a letter or a group with this id matches.
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
        // The error must not quote the text, because the sender chose it.
        text.parse().map_err(|_| de::Error::custom("it must be a uuid, or none"))
    }
}

/// The state of a letter, as a filter selects it.
///
/// # Examples
///
/// ```
/// use dead_letters::DeadLetterState;
///
/// assert_eq!("closed".parse::<DeadLetterState>()?, DeadLetterState::Closed);
/// assert_eq!(DeadLetterState::Closed.to_string(), "closed");
/// # Ok::<(), dead_letters::DeadLetterRepoError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterState {
    /// Unresolved, or resolved as `handler_failed`.
    Open,
    /// Not resolved.
    Unresolved,
    /// Resolved as `replayed`, `ignored` or `handled_by_script`. A list sorts closed letters by `resolved_at`.
    Closed,
    /// All letters.
    Any,
}

impl DeadLetterState {
    /// Returns the narrowest state that selects a letter with this resolution.
    pub(crate) fn of(resolved_at: Option<DateTime<Utc>>, resolution: Option<Resolution>) -> Self {
        match resolution {
            _ if resolved_at.is_none() => Self::Unresolved,
            Some(Resolution::HandlerFailed) => Self::Open,
            _ => Self::Closed,
        }
    }
}

words! {
    DeadLetterState { Open = "open", Unresolved = "unresolved", Closed = "closed", Any = "any" }
    /// Returns the text that the state serializes as.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::DeadLetterState;
    ///
    /// assert_eq!(DeadLetterState::Unresolved.as_str(), "unresolved");
    /// ```
    as_str,
    or |text| DeadLetterRepoError::InvalidState(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bulk_call_takes_open_letters_or_refuses_a_filter_that_asks_for_closed_ones_only() {
        let all = DeadLetterFilter::default;
        let state = |filter: DeadLetterFilter| filter.resolvable().map(|filter| filter.effective_state());
        assert_eq!(state(all()), Some(DeadLetterState::Open));
        assert_eq!(state(all().state(DeadLetterState::Any)), Some(DeadLetterState::Open));
        assert_eq!(state(all().state(DeadLetterState::Unresolved)), Some(DeadLetterState::Unresolved));
        assert_eq!(state(all().resolution(Resolution::HandlerFailed)), Some(DeadLetterState::Open));
        assert_eq!(state(all().ids([])), Some(DeadLetterState::Open));
        assert_eq!(state(all().state(DeadLetterState::Closed)), None);
        assert_eq!(state(all().resolution(Resolution::Ignored)), None);
    }

    #[test]
    fn a_bulk_call_reopens_closed_letters_or_handler_failed_ones_if_the_filter_names_them() {
        let all = DeadLetterFilter::default;
        let state = |filter: DeadLetterFilter| filter.reopenable().and_then(|filter| filter.state);
        let failed = || all().resolution(Resolution::HandlerFailed);
        for filter in [all(), all().resolution(Resolution::Ignored), all().ids([]), all().run_id(Uuid::nil())]
        {
            assert_eq!(state(filter.clone()), Some(DeadLetterState::Closed));
            assert_eq!(state(filter.clone().state(DeadLetterState::Any)), Some(DeadLetterState::Closed));
            assert_eq!(state(filter.clone().state(DeadLetterState::Closed)), Some(DeadLetterState::Closed));
            assert_eq!(state(filter.clone().state(DeadLetterState::Open)), None);
            assert_eq!(state(filter.state(DeadLetterState::Unresolved)), None);
        }
        assert_eq!(state(failed()), Some(DeadLetterState::Open));
        assert_eq!(state(failed().state(DeadLetterState::Open)), Some(DeadLetterState::Open));
        assert_eq!(state(failed().state(DeadLetterState::Closed)), None);
    }

    #[test]
    fn a_letters_state_follows_from_its_resolution() {
        let at = Some(DateTime::UNIX_EPOCH);
        assert_eq!(DeadLetterState::of(None, None), DeadLetterState::Unresolved);
        assert_eq!(DeadLetterState::of(at, Some(Resolution::HandlerFailed)), DeadLetterState::Open);
        assert_eq!(DeadLetterState::of(at, Some(Resolution::Replayed)), DeadLetterState::Closed);
        // A resolution of a newer version.
        assert_eq!(DeadLetterState::of(at, None), DeadLetterState::Closed);
    }
}
