//! The history: what operators did to letters.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{AppId, DeadLetterId, Resolution, debug::debug_without_content, setters::setters, words::words};

/// The kind of a call of an operator.
///
/// Serialized, and in the column `action`, it is the name in lower case.
///
/// # Examples
///
/// ```
/// use dead_letters::Action;
///
/// let names: Vec<_> = Action::ALL.iter().map(|action| action.as_str()).collect();
/// assert_eq!(names, ["resolve", "replay", "edit", "reopen", "delete", "erase", "reveal"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// Resolved letters, by [`resolve_once`](crate::DeadLetterResolve::resolve_once) or
    /// [`resolve_matching`](crate::DeadLetterResolve::resolve_matching).
    Resolve,
    /// Replayed letters, and put their events back.
    Replay,
    /// Replayed a letter with an edited payload.
    Edit,
    /// Made letters unresolved again.
    Reopen,
    /// Deleted letters, by [`delete_matching`](crate::DeadLetterDelete::delete_matching).
    Delete,
    /// Erased the content of letters, by [`erase`](crate::DeadLetterDelete::erase).
    Erase,
    /// Saw the redacted content of a letter, recorded by [`record_reveal`](crate::DeadLetterResolve::record_reveal).
    Reveal,
}

words! {
    Action {
        Resolve = "resolve", Replay = "replay", Edit = "edit", Reopen = "reopen", Delete = "delete",
        Erase = "erase", Reveal = "reveal",
    }
    /// Returns the text of the column `action`.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::Action;
    ///
    /// assert_eq!(Action::Replay.as_str(), "replay");
    /// ```
    as_str
}

/// A row of the history: one call of an operator that changed one letter or saw its redacted content, or one batch of a
/// bulk run.
///
/// The row was written together with the change. Only [`erase`](crate::DeadLetterDelete::erase) changes it later: the
/// call empties the notes of older rows that name an erased letter. A row outlives its letters, until
/// [`sweep_actions`](crate::DeadLetterRetention::sweep_actions) deletes it.
///
/// A text that was cut ends with ` [cut]`. `Debug` shows the texts by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetterAction {
    /// The action's id, a UUID of version 7. Ids ascend with time, by the clocks of the processes that acted.
    pub id: Uuid,
    /// The app whose letters were changed.
    pub app_id: AppId,
    /// The kind of call. `None` is an action that this version does not know.
    pub action: Option<Action>,
    /// When it was done, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// Who did it ([`Attribution::by`](crate::Attribution::by)), at most 500 characters.
    pub actor: Option<String>,
    /// Why it was done, at most 2,000 characters.
    pub note: Option<String>,
    /// The letter, if the call named one. A bulk call names a letter if that is its filter's only id.
    pub letter_id: Option<DeadLetterId>,
    /// The filter of a bulk call, as the text of a [`ListQuery`](crate::ListQuery), at most 1,000 bytes. It has only
    /// the number of a filter's ids: `ids=3+letters`.
    pub filter: Option<String>,
    /// How many letters the call changed or showed.
    pub letters: u64,
    /// The resolution that the letters got. `None` if the call set none, or if this version does not know it.
    pub resolution: Option<Resolution>,
    /// The resolution that the letter had before. It is `None` if the letter was unresolved, for a call that named no
    /// letter, for an erasure or a reveal, and if this version does not know it.
    pub previous_resolution: Option<Resolution>,
    /// The bulk run that the call belongs to ([`Attribution::run_id`](crate::Attribution::run_id)).
    pub run_id: Option<Uuid>,
    /// The number of the batch in its run ([`Attribution::batch`](crate::Attribution::batch)).
    pub batch: Option<u32>,
}

debug_without_content! {
    DeadLetterAction {
        id, app_id, action, created_at, letter_id, letters, resolution, previous_resolution, run_id, batch;
        actor, note, filter,
    }
}

/// Which rows of the history [`actions`](crate::DeadLetterRead::actions) returns. The default is the app's newest 50.
///
/// Every field may be missing when it is deserialized. An unknown field is an error.
///
/// # Examples
///
/// ```
/// use dead_letters::ActionRequest;
///
/// let request: ActionRequest = serde_json::from_str(r#"{ "limit": 20 }"#)?;
/// assert_eq!(request, ActionRequest::default().limit(20));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ActionRequest {
    /// Only calls that named this letter.
    pub letter_id: Option<DeadLetterId>,
    /// Only calls of this bulk run. Together with `letter_id`, the calls that named the letter and the batches of the run:
    /// the history of a letter that the run changed.
    pub run_id: Option<Uuid>,
    /// Where the page begins: the id of the last row of the page before. `None` is the first page.
    pub after: Option<Uuid>,
    /// How many rows to return at most, 1 to 500.
    pub limit: u32,
}

impl Default for ActionRequest {
    fn default() -> Self {
        Self { letter_id: None, run_id: None, after: None, limit: 50 }
    }
}

setters! { ActionRequest { some letter_id: DeadLetterId, some run_id: Uuid, some after: Uuid, plain limit: u32 } }

/// An app that [`recent_apps`](crate::DeadLetterRead::recent_apps) returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecentApp {
    /// The app.
    pub app_id: AppId,
    /// When the last action of the app's history was done.
    pub last_action_at: DateTime<Utc>,
}
