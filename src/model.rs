//! What goes into the store and what comes out of it.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{AppId, DeadLetterId, DeadLetterRepoError, ScriptId, TriggerId, debug::debug_without_content};

/// An event that used up its retries, as the dispatcher hands it over.
///
/// Whatever an event says, it is stored; these are changed on the way in:
///
/// - a NUL in `source`, `op`, `last_error`, `error_signature` or `payload_text` becomes U+FFFD, since PostgreSQL's `text` has no NUL;
/// - times lose what is finer than a microsecond, and a leap second becomes the second after it, as in
///   PostgreSQL;
/// - an `attempt_count` over [`i32::MAX`] is stored as [`i32::MAX`].
///
/// Its `Debug` shows texts and payload by their size, as that of a stored row does: it ends up in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct NewDeadLetter {
    /// The tenant.
    pub app_id: AppId,
    /// The outbox row that used up its retries.
    pub original_event_id: Uuid,
    /// What the event was about.
    pub source: String,
    /// The operation that failed.
    pub op: String,
    /// The trigger, if it is known. No foreign key: it may have been deleted.
    pub trigger_id: Option<TriggerId>,
    /// The script that it ran, if it is known.
    pub script_id: Option<ScriptId>,
    /// The event, as it was to be delivered: JSON of any depth. [`serde_json`] reads back 127 levels; deeper
    /// JSON comes back as its text.
    pub payload: Value,
    /// The event as text. If it is `Some`, it is stored byte for byte, and `payload` is ignored.
    ///
    /// Its kind is [`Json`](PayloadKind::Json) where it is valid JSON, of any depth and with numbers of any
    /// size, and [`Text`](PayloadKind::Text) where it is not. A NUL makes it
    /// [`Truncated`](PayloadKind::Truncated).
    pub payload_text: Option<String>,
    /// Attempts made.
    pub attempt_count: u32,
    /// When the first attempt was made.
    pub first_attempt_at: DateTime<Utc>,
    /// When the last attempt was made.
    pub last_attempt_at: DateTime<Utc>,
    /// What the last attempt said.
    pub last_error: String,
    /// The error signature. Set it if the service can name the failure better than the library: an error's type, or a
    /// fingerprint. At most 200 characters are kept. If it is `None` or empty, the library makes a signature.
    ///
    /// ```
    /// use dead_letters::{NewDeadLetter, AppId};
    /// use uuid::Uuid;
    ///
    /// # let (app_id, event_id, payload) = (AppId::from(Uuid::nil()), Uuid::nil(), serde_json::json!({}));
    /// let letter = NewDeadLetter {
    ///     error_signature: Some("CardDeclined".to_owned()),
    ///     ..NewDeadLetter::new(app_id, event_id, "payments", "charge", payload, "card of ada: do not honor")
    /// };
    /// # assert_eq!(letter.error_signature.as_deref(), Some("CardDeclined"));
    /// ```
    pub error_signature: Option<String>,
}

impl NewDeadLetter {
    /// An event that failed once, now, by no known trigger or script. What else is known goes on top:
    /// `NewDeadLetter { attempt_count: 5, ..NewDeadLetter::new(…) }`.
    pub fn new(
        app_id: AppId,
        original_event_id: Uuid,
        source: impl Into<String>,
        op: impl Into<String>,
        payload: Value,
        last_error: impl Into<String>,
    ) -> Self {
        let now = Utc::now();
        Self {
            app_id,
            original_event_id,
            source: source.into(),
            op: op.into(),
            trigger_id: None,
            script_id: None,
            payload,
            payload_text: None,
            attempt_count: 1,
            first_attempt_at: now,
            last_attempt_at: now,
            last_error: last_error.into(),
            error_signature: None,
        }
    }
}

debug_without_content! {
    NewDeadLetter {
        app_id, original_event_id, trigger_id, script_id, attempt_count, first_attempt_at, last_attempt_at;
        source, op, payload, payload_text, last_error, error_signature,
    }
}

/// A stored dead letter. It serializes as an admin endpoint would send it: ids as bare uuids, times as RFC
/// 3339. Its `Debug` shows texts and payload by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterRow {
    /// The row's id.
    pub id: DeadLetterId,
    /// The tenant.
    pub app_id: AppId,
    /// The outbox row that used up its retries.
    pub original_event_id: Uuid,
    /// What the event was about.
    pub source: String,
    /// The operation that failed.
    pub op: String,
    /// The trigger, if it was known.
    pub trigger_id: Option<TriggerId>,
    /// The script that it ran, if it was known.
    pub script_id: Option<ScriptId>,
    /// The event. A stored text that [`serde_json`] can't parse is a [`Value::String`] of that text: it is not
    /// JSON, nests deeper than 127 levels, or has a number beyond those of a float.
    pub payload: Value,
    /// What the stored text of `payload` is. `None` is a kind that this version does not know.
    ///
    /// It is [`Truncated`](PayloadKind::Truncated) too where SQLite holds bytes that are not UTF-8: each of
    /// them is U+FFFD in `payload`.
    pub payload_kind: Option<PayloadKind>,
    /// Attempts made.
    pub attempt_count: u32,
    /// When the first attempt was made.
    pub first_attempt_at: DateTime<Utc>,
    /// When the last attempt was made.
    pub last_attempt_at: DateTime<Utc>,
    /// What the last attempt said.
    pub last_error: String,
    /// When the row was stored, by the database's clock: in PostgreSQL the start of the transaction.
    pub created_at: DateTime<Utc>,
    /// When the row was last resolved; `None` while it is unresolved.
    pub resolved_at: Option<DateTime<Utc>>,
    /// What became of it. `None` beside a `resolved_at` is a resolution that this version does not know.
    pub resolution: Option<Resolution>,
    /// Who settled it, where a [`Settlement`](crate::Settlement) said so.
    pub resolved_by: Option<String>,
    /// Why, where a [`Settlement`](crate::Settlement) said so.
    pub resolution_note: Option<String>,
    /// What letters of one error group have in common: the service's own
    /// [signature](NewDeadLetter::error_signature), or else the message of `last_error` with `#` for what changes from
    /// one failure to the next. 200 characters at most. docs/grouping.md describes the rules.
    pub error_signature: String,
}

debug_without_content! {
    DeadLetterRow {
        id, app_id, original_event_id, trigger_id, script_id, payload_kind, attempt_count, first_attempt_at,
        last_attempt_at, created_at, resolved_at, resolution;
        source, op, payload, last_error, resolved_by, resolution_note, error_signature,
    }
}

/// A row as it is stored, payload and resolution as their texts: what export, archive and import carry. Through
/// [`DeadLetterRow`] a payload that is no JSON, a number larger than JSON's own and a newer version's resolution
/// would come back changed. It serializes as one JSON object; deserialized, a field that does not exist is an
/// error. Its `Debug` shows texts by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredLetter {
    /// The row's id.
    pub id: DeadLetterId,
    /// The tenant.
    pub app_id: AppId,
    /// The outbox row that used up its retries.
    pub original_event_id: Uuid,
    /// What the event was about.
    pub source: String,
    /// The operation that failed.
    pub op: String,
    /// The trigger, if it was known.
    pub trigger_id: Option<TriggerId>,
    /// The script that it ran, if it was known.
    pub script_id: Option<ScriptId>,
    /// The event, as text.
    pub payload: String,
    /// What the text of `payload` is: one of the texts of [`PayloadKind`], or a newer version's. An import takes
    /// `None` for `json` where the text is JSON, and for `text` where it is not.
    #[serde(default)]
    pub payload_kind: Option<String>,
    /// What was put back into the outbox, where a person edited it.
    #[serde(default)]
    pub replayed_payload: Option<String>,
    /// What the service knows of the event: the text of a JSON object, of 16 KB at most.
    #[serde(default)]
    pub metadata: Option<String>,
    /// Attempts made.
    pub attempt_count: u32,
    /// When the first attempt was made.
    pub first_attempt_at: DateTime<Utc>,
    /// When the last attempt was made.
    pub last_attempt_at: DateTime<Utc>,
    /// What the last attempt said.
    pub last_error: String,
    /// When the row was stored.
    pub created_at: DateTime<Utc>,
    /// When the row was last resolved.
    pub resolved_at: Option<DateTime<Utc>>,
    /// What became of it: one of the texts of [`Resolution`], or a newer version's.
    pub resolution: Option<String>,
    /// Who settled it.
    pub resolved_by: Option<String>,
    /// Why.
    pub resolution_note: Option<String>,
    /// See [`DeadLetterRow::error_signature`].
    pub error_signature: String,
    /// The version of the rules that made the signature. 0 is a signature that the service made, or another writer.
    #[serde(default = "first_signature_version")]
    pub signature_version: i16,
    /// The bulk run that resolved it.
    #[serde(default)]
    pub run_id: Option<Uuid>,
    /// When its content was erased.
    #[serde(default)]
    pub erased_at: Option<DateTime<Utc>>,
}

/// Exports without a version are older than the second one.
fn first_signature_version() -> i16 {
    1
}

debug_without_content! {
    StoredLetter {
        id, app_id, original_event_id, trigger_id, script_id, attempt_count, first_attempt_at, last_attempt_at,
        created_at, resolved_at, signature_version, run_id, erased_at;
        source, op, payload, payload_kind, replayed_payload, metadata, last_error, resolution, resolved_by,
        resolution_note, error_signature,
    }
}

/// What the text of a stored payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PayloadKind {
    /// Valid JSON of any depth, with numbers of any size.
    Json,
    /// Text that is stored as it was handed over.
    Text,
    /// Cut, or altered: not the whole event any more.
    Truncated,
    /// The content was erased.
    Erased,
}

impl PayloadKind {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Json, Self::Text, Self::Truncated, Self::Erased];

    /// As it stands in the column `payload_kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Truncated => "truncated",
            Self::Erased => "erased",
        }
    }
}

/// What became of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// The event was put back into the outbox.
    Replayed,
    /// Somebody decided that nothing is to be done.
    Ignored,
    /// A dead-letter handler script dealt with it.
    HandledByScript,
    /// The dead-letter handler script failed in its turn. The row has left the unresolved list, and may be
    /// resolved again.
    HandlerFailed,
}

impl Resolution {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Replayed, Self::Ignored, Self::HandledByScript, Self::HandlerFailed];

    /// As it stands in the column `resolution`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Ignored => "ignored",
            Self::HandledByScript => "handled_by_script",
            Self::HandlerFailed => "handler_failed",
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Resolution {
    type Err = DeadLetterRepoError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|resolution| resolution.as_str() == text)
            .ok_or_else(|| DeadLetterRepoError::InvalidResolution(text.to_owned()))
    }
}
