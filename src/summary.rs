//! A letter as a list shows it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterState, PayloadKind, Resolution, ScriptId, TriggerId,
    debug::debug_without_content,
};

/// A letter as a list shows it: without its payload, and with its texts cut, so that a page is small whatever its
/// letters hold.
///
/// A text that was cut ends with ` [cut]`. `Debug` shows the texts by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetterSummary {
    /// The letter's id.
    pub id: DeadLetterId,
    /// The app, or tenant, that the letter belongs to.
    pub app_id: AppId,
    /// The outbox row that used up its retries.
    pub original_event_id: Uuid,
    /// The subject of the event, at most 500 characters.
    pub source: String,
    /// The operation that failed, at most 500 characters.
    pub op: String,
    /// The trigger, if it was known.
    pub trigger_id: Option<TriggerId>,
    /// The script that the trigger ran, if it was known.
    pub script_id: Option<ScriptId>,
    /// The size of the serialized payload, in bytes.
    pub payload_bytes: u64,
    /// The kind of the payload's stored text. `None` is a kind that this version does not know.
    pub payload_kind: Option<PayloadKind>,
    /// The size of the [edited payload](crate::StoredLetter::replayed_payload) that the last replay put back, in bytes.
    /// `None` if it put back the letter's own.
    pub replayed_payload_bytes: Option<u64>,
    /// How many attempts were made.
    pub attempt_count: u32,
    /// When the first attempt was made.
    pub first_attempt_at: DateTime<Utc>,
    /// When the last attempt was made.
    pub last_attempt_at: DateTime<Utc>,
    /// The first 200 characters of `last_error`, without the ` [cut]` mark.
    pub error_excerpt: String,
    /// The [`error_signature`](crate::DeadLetterRow::error_signature), at most 500 characters.
    pub error_signature: String,
    /// The key of the letter's [error group](crate::ErrorGroup::group_key), at most 500 characters.
    pub group_key: String,
    /// When the letter was stored.
    pub created_at: DateTime<Utc>,
    /// When the letter was last resolved.
    pub resolved_at: Option<DateTime<Utc>>,
    /// The resolution. `None` beside a `resolved_at` is a resolution that this version does not know.
    pub resolution: Option<Resolution>,
    /// Who resolved the letter, at most 500 characters.
    pub resolved_by: Option<String>,
    /// Why it was resolved, at most 2,000 characters.
    pub resolution_note: Option<String>,
    /// The bulk run that resolved the letter, if one did ([`Attribution::run_id`](crate::Attribution::run_id)).
    pub run_id: Option<Uuid>,
}

debug_without_content! {
    DeadLetterSummary {
        id, app_id, original_event_id, trigger_id, script_id, payload_bytes, payload_kind,
        replayed_payload_bytes, attempt_count, first_attempt_at, last_attempt_at, group_key, created_at, resolved_at, resolution, run_id;
        source, op, error_excerpt, error_signature, resolved_by, resolution_note,
    }
}

impl DeadLetterSummary {
    /// Returns the narrowest state that selects the letter: [`Unresolved`](DeadLetterState::Unresolved),
    /// [`Open`](DeadLetterState::Open) if it is resolved as `handler_failed`, or
    /// [`Closed`](DeadLetterState::Closed).
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRead, DeadLetterRepo, DeadLetterState, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let id = repo.insert(testing::letter(app)).await?;
    /// repo.resolve(id, "ignored").await?;
    /// let letter = repo.summary(app, id).await?.ok_or("the letter was deleted")?;
    /// assert_eq!((letter.state(), letter.is_open()), (DeadLetterState::Closed, false));
    /// # Ok(())
    /// # }
    /// ```
    pub fn state(&self) -> DeadLetterState {
        DeadLetterState::of(self.resolved_at, self.resolution)
    }

    /// Returns whether somebody still has to act: the letter is unresolved, or its handler failed.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Resolution, testing};
    ///
    /// let mut letter = testing::summary(uuid::Uuid::nil().into());
    /// assert!(letter.is_open());
    /// letter.resolved_at = Some(letter.created_at);
    /// letter.resolution = Some(Resolution::Ignored);
    /// assert!(!letter.is_open());
    /// ```
    pub fn is_open(&self) -> bool {
        self.state() != DeadLetterState::Closed
    }

    /// Returns the time by which a listing with this filter sorts the letter: when it was closed if the listing is of
    /// closed letters, and otherwise when it was stored.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterFilter, testing};
    ///
    /// let letter = testing::summary(uuid::Uuid::new_v4().into());
    /// assert_eq!(letter.listed_at(&DeadLetterFilter::default()), letter.created_at);
    /// ```
    pub fn listed_at(&self, filter: &DeadLetterFilter) -> DateTime<Utc> {
        match filter.effective_state() {
            DeadLetterState::Closed => self.resolved_at.unwrap_or(self.created_at),
            _ => self.created_at,
        }
    }
}
