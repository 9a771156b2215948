//! The letters that go into the store and come out of it.

use std::mem;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    AppId, DeadLetterId, DeadLetterRepoError, DeadLetterState, ScriptId, TriggerId,
    debug::debug_without_content,
    signature::{ERASED_SIGNATURE, OWN_SIGNATURE},
    words::words,
};

/// An event that used up its retries, as the dispatcher passes it to the store.
///
/// An event is stored whatever its content. The store makes these changes:
///
/// - a NUL in `source`, `op`, `last_error`, `error_signature`, `payload_text` or `metadata` becomes U+FFFD, because
///   PostgreSQL's `text` and `jsonb` can't hold a NUL;
/// - a value in `metadata` that nests deeper than 126 levels becomes its JSON text;
/// - times lose digits below a microsecond, and a leap second becomes the second after it, as in PostgreSQL;
/// - an `attempt_count` over [`i32::MAX`] is stored as [`i32::MAX`].
///
/// `Debug` shows the texts and the payload by their size, because it ends up in logs. A stored letter does the same.
#[derive(Clone, PartialEq, Eq)]
pub struct NewDeadLetter {
    /// The app, or tenant, that the letter belongs to.
    pub app_id: AppId,
    /// The outbox row that used up its retries.
    pub original_event_id: Uuid,
    /// The subject of the event.
    pub source: String,
    /// The operation that failed.
    pub op: String,
    /// The trigger, if it is known. The column has no foreign key, because the trigger may have been deleted.
    pub trigger_id: Option<TriggerId>,
    /// The script that the trigger ran, if it is known.
    pub script_id: Option<ScriptId>,
    /// The event that was to be delivered: JSON of any depth. [`serde_json`] reads back 127 levels. Deeper JSON comes
    /// back as its text.
    pub payload: Value,
    /// The event as text. If it is `Some`, it is stored byte for byte, and `payload` is ignored.
    ///
    /// Its kind is [`Json`](PayloadKind::Json) if it is valid JSON, of any depth and with numbers of any size.
    /// Otherwise its kind is [`Text`](PayloadKind::Text). A NUL makes it [`Truncated`](PayloadKind::Truncated).
    pub payload_text: Option<String>,
    /// How many attempts were made.
    pub attempt_count: u32,
    /// When the first attempt was made.
    pub first_attempt_at: DateTime<Utc>,
    /// When the last attempt was made.
    pub last_attempt_at: DateTime<Utc>,
    /// The error of the last attempt.
    pub last_error: String,
    /// The error signature. Set it if the service can name the failure better than the library can: by an error's
    /// type, or by a fingerprint. At most 200 characters are kept. If it is `None` or empty, the library makes a
    /// signature.
    ///
    /// # Examples
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
    /// The service's data about the event that the store does not know: the `traceparent`, the tenant, the request id,
    /// the queue, the host, the release. Empty by default.
    ///
    /// Its JSON text has at most 16 KB. An insert refuses more, and [`bury`](crate::DeadLetterBury::bury) cuts it.
    /// Operators see it and [filter](crate::DeadLetterFilter::metadata) by it. With a `traceparent` the admin links to
    /// the trace.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{NewDeadLetter, AppId};
    /// use serde_json::json;
    /// use uuid::Uuid;
    ///
    /// # let (app_id, event_id, payload) = (AppId::from(Uuid::nil()), Uuid::nil(), json!({}));
    /// let mut letter = NewDeadLetter::new(app_id, event_id, "payments", "charge", payload, "do not honor");
    /// letter.metadata.insert("tenant".to_owned(), json!("acme"));
    /// letter.metadata.insert(
    ///     "traceparent".to_owned(),
    ///     json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    /// );
    /// # assert_eq!(letter.metadata.len(), 2);
    /// ```
    pub metadata: Map<String, Value>,
}

impl NewDeadLetter {
    /// Makes a letter of an event that failed once, now, in no known trigger or script.
    ///
    /// Say how often it failed with [`attempts`](Self::attempts). Set other fields with
    /// `NewDeadLetter { script_id: Some(script), ..NewDeadLetter::new(…) }`. A field may be added in a minor release,
    /// so end every literal with `..NewDeadLetter::new(…)`.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{AppId, NewDeadLetter, ScriptId};
    /// use serde_json::json;
    /// use uuid::Uuid;
    ///
    /// # let (app, event_id) = (AppId::from(Uuid::nil()), Uuid::nil());
    /// let letter = NewDeadLetter {
    ///     script_id: Some(ScriptId::from(Uuid::new_v4())),
    ///     ..NewDeadLetter::new(app, event_id, "orders", "insert", json!({ "order": 4711 }), "exit status: 1")
    /// };
    /// assert_eq!(letter.attempt_count, 1);
    /// ```
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
            metadata: Map::new(),
        }
    }

    /// Sets how many attempts were made, and when the first and the last one were made.
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::{TimeDelta, Utc};
    /// # use dead_letters::NewDeadLetter;
    ///
    /// # let letter = dead_letters::testing::letter(uuid::Uuid::nil().into());
    /// let now = Utc::now();
    /// let letter = letter.attempts(3, now - TimeDelta::minutes(5), now);
    /// assert_eq!((letter.attempt_count, letter.last_attempt_at), (3, now));
    /// ```
    #[must_use]
    pub fn attempts(mut self, count: u32, first: DateTime<Utc>, last: DateTime<Utc>) -> Self {
        (self.attempt_count, self.first_attempt_at, self.last_attempt_at) = (count, first, last);
        self
    }
}

debug_without_content! {
    NewDeadLetter {
        app_id, original_event_id, trigger_id, script_id, attempt_count, first_attempt_at, last_attempt_at;
        source, op, payload, payload_text, last_error, error_signature, metadata,
    }
}

/// A stored dead letter.
///
/// It serializes as an admin endpoint would send it: ids as bare UUIDs, times as RFC 3339. `Debug` shows the texts
/// and the payload by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetterRow {
    /// The letter's id.
    pub id: DeadLetterId,
    /// The app, or tenant, that the letter belongs to.
    pub app_id: AppId,
    /// The outbox row that used up its retries.
    pub original_event_id: Uuid,
    /// The subject of the event.
    pub source: String,
    /// The operation that failed.
    pub op: String,
    /// The trigger, if it was known.
    pub trigger_id: Option<TriggerId>,
    /// The script that the trigger ran, if it was known.
    pub script_id: Option<ScriptId>,
    /// The event. If [`serde_json`] can't parse the stored text, it is a [`Value::String`] of that text. Such a text
    /// is not JSON, nests deeper than 127 levels, or has a number that no float can hold.
    pub payload: Value,
    /// The kind of the stored text of `payload`. `None` is a kind that this version does not know.
    ///
    /// It is also [`Truncated`](PayloadKind::Truncated) if SQLite holds bytes that are not UTF-8. Each of those bytes
    /// is U+FFFD in `payload`.
    pub payload_kind: Option<PayloadKind>,
    /// The service's data about the event. It is empty if the stored text is not a JSON object that [`serde_json`] can
    /// read, which only another writer can store.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// How many attempts were made.
    pub attempt_count: u32,
    /// When the first attempt was made.
    pub first_attempt_at: DateTime<Utc>,
    /// When the last attempt was made.
    pub last_attempt_at: DateTime<Utc>,
    /// The error of the last attempt.
    pub last_error: String,
    /// When the letter was stored, by the database's clock. In PostgreSQL it is the start of the transaction.
    pub created_at: DateTime<Utc>,
    /// When the letter was last resolved. `None` if it is unresolved.
    pub resolved_at: Option<DateTime<Utc>>,
    /// The resolution. `None` beside a `resolved_at` is a resolution that this version does not know.
    pub resolution: Option<Resolution>,
    /// Who resolved the letter, if an [`Attribution`](crate::Attribution) named somebody.
    pub resolved_by: Option<String>,
    /// Why it was resolved, if an [`Attribution`](crate::Attribution) had a note.
    pub resolution_note: Option<String>,
    /// The text that the letters of one error group have in common. It is the service's own
    /// [signature](NewDeadLetter::error_signature), or the message of `last_error` with `#` for the parts that change
    /// from one failure to the next. It has 200 characters at most. docs/grouping.md describes the rules.
    pub error_signature: String,
}

debug_without_content! {
    DeadLetterRow {
        id, app_id, original_event_id, trigger_id, script_id, payload_kind, attempt_count, first_attempt_at,
        last_attempt_at, created_at, resolved_at, resolution;
        source, op, payload, metadata, last_error, resolved_by, resolution_note, error_signature,
    }
}

impl DeadLetterRow {
    /// Returns the narrowest state that selects the letter: [`Unresolved`](DeadLetterState::Unresolved),
    /// [`Open`](DeadLetterState::Open) if it is resolved as `handler_failed`, or
    /// [`Closed`](DeadLetterState::Closed).
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterState, Resolution, testing};
    ///
    /// let mut letter = testing::row(uuid::Uuid::nil().into());
    /// assert_eq!(letter.state(), DeadLetterState::Unresolved);
    /// letter.resolved_at = Some(letter.created_at);
    /// letter.resolution = Some(Resolution::HandlerFailed);
    /// assert_eq!(letter.state(), DeadLetterState::Open);
    /// ```
    pub fn state(&self) -> DeadLetterState {
        DeadLetterState::of(self.resolved_at, self.resolution)
    }

    /// Returns whether somebody still has to act: the letter is unresolved, or its handler failed.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepo, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let id = repo.insert(testing::letter(app)).await?;
    /// repo.resolve(id, "handler_failed").await?;
    /// assert!(repo.get(id).await?.is_some_and(|letter| letter.is_open()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_open(&self) -> bool {
        self.state() != DeadLetterState::Closed
    }
}

/// A letter as it is stored, with payload and resolution as their texts, for export, archive and import.
///
/// [`DeadLetterRow`] would change some content: a payload that is not JSON, a number larger than JSON's own, and a
/// resolution of a newer version. A `StoredLetter` serializes as one JSON object. Deserializing an unknown field is
/// an error. `Debug` shows the texts by their size. A field may be added in a minor release, so a literal ends with
/// `..letter`.
///
/// # Examples
///
/// ```
/// use dead_letters::{StoredLetter, testing};
///
/// let letter = testing::stored_letter(uuid::Uuid::nil().into(), chrono::Utc::now());
/// let line = serde_json::to_string(&letter)?;
/// assert_eq!(serde_json::from_str::<StoredLetter>(&line)?.payload, letter.payload);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredLetter {
    /// The letter's id.
    pub id: DeadLetterId,
    /// The app, or tenant, that the letter belongs to.
    pub app_id: AppId,
    /// The outbox row that used up its retries.
    pub original_event_id: Uuid,
    /// The subject of the event.
    pub source: String,
    /// The operation that failed.
    pub op: String,
    /// The trigger, if it was known.
    pub trigger_id: Option<TriggerId>,
    /// The script that the trigger ran, if it was known.
    pub script_id: Option<ScriptId>,
    /// The event, as text.
    pub payload: String,
    /// The kind of the text of `payload`: one of the texts of [`PayloadKind`], or a newer version's. An import reads
    /// `None` as `json` if the text is JSON, and as `text` if it is not.
    #[serde(default)]
    pub payload_kind: Option<String>,
    /// The payload that the last replay put back, if it was [edited](crate::DeadLetterReplay::replay_edited).
    #[serde(default)]
    pub replayed_payload: Option<String>,
    /// The letter's own payload, where `payload` is an edited one that a [`Requeue`](crate::Requeue) puts back. It is
    /// `None` in every other letter, and is not serialized.
    #[serde(skip)]
    pub original_payload: Option<String>,
    /// The service's data about the event: the text of a JSON object, of 16 KB at most.
    #[serde(default)]
    pub metadata: Option<String>,
    /// How many attempts were made.
    pub attempt_count: u32,
    /// When the first attempt was made.
    pub first_attempt_at: DateTime<Utc>,
    /// When the last attempt was made.
    pub last_attempt_at: DateTime<Utc>,
    /// The error of the last attempt.
    pub last_error: String,
    /// When the letter was stored.
    pub created_at: DateTime<Utc>,
    /// When the letter was last resolved.
    pub resolved_at: Option<DateTime<Utc>>,
    /// The resolution: one of the texts of [`Resolution`], or a newer version's.
    pub resolution: Option<String>,
    /// Who resolved the letter.
    pub resolved_by: Option<String>,
    /// Why it was resolved.
    pub resolution_note: Option<String>,
    /// The [`DeadLetterRow::error_signature`].
    pub error_signature: String,
    /// The version of the rules that made the signature. It is 0 if the service or another writer made the signature.
    #[serde(default = "first_signature_version")]
    pub signature_version: i16,
    /// The bulk run that resolved the letter.
    #[serde(default)]
    pub run_id: Option<Uuid>,
    /// When the letter's content was erased.
    #[serde(default)]
    pub erased_at: Option<DateTime<Utc>>,
}

impl StoredLetter {
    /// Returns the letter as a [`Requeue`](crate::Requeue) receives it if its payload was edited.
    pub(crate) fn with_edited_payload(mut self) -> Self {
        if let Some(edited) = self.replayed_payload.clone() {
            self.original_payload = Some(mem::replace(&mut self.payload, edited));
            self.payload_kind = Some(PayloadKind::Json.as_str().to_owned());
        }
        self
    }
}

impl StoredLetter {
    /// Returns the letter without its content. The store erases the same fields: see `erase_rows` in `delete.rs`.
    pub(crate) fn erased(self, at: DateTime<Utc>) -> Self {
        Self {
            payload: "null".to_owned(),
            payload_kind: Some(PayloadKind::Erased.as_str().to_owned()),
            replayed_payload: None,
            original_payload: None,
            metadata: None,
            last_error: String::new(),
            error_signature: ERASED_SIGNATURE.to_owned(),
            signature_version: OWN_SIGNATURE,
            resolution_note: None,
            erased_at: self.erased_at.or(Some(at)),
            ..self
        }
    }
}

/// An export without a version was made under version 1 of the rules.
fn first_signature_version() -> i16 {
    1
}

debug_without_content! {
    StoredLetter {
        id, app_id, original_event_id, trigger_id, script_id, attempt_count, first_attempt_at, last_attempt_at,
        created_at, resolved_at, signature_version, run_id, erased_at;
        source, op, payload, payload_kind, replayed_payload, original_payload, metadata, last_error, resolution,
        resolved_by, resolution_note, error_signature,
    }
}

/// The kind of a stored payload's text.
///
/// # Examples
///
/// ```
/// use dead_letters::{DeadLetterRepo, NewDeadLetter, PayloadKind, testing};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// let payload_text = Some("<order>4711</order>".to_owned());
/// let id = repo.insert(NewDeadLetter { payload_text, ..testing::letter(app) }).await?;
/// assert_eq!(repo.get(id).await?.and_then(|letter| letter.payload_kind), Some(PayloadKind::Text));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PayloadKind {
    /// Valid JSON of any depth, with numbers of any size.
    Json,
    /// Text that is not JSON, stored as the dispatcher passed it.
    Text,
    /// Text that was cut or altered: it is not the whole event any more.
    Truncated,
    /// Text whose content was erased.
    Erased,
}

words! {
    PayloadKind { Json = "json", Text = "text", Truncated = "truncated", Erased = "erased" }
    /// Returns the text of the column `payload_kind`.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{PayloadKind, testing};
    ///
    /// let letter = testing::stored_letter(uuid::Uuid::nil().into(), chrono::Utc::now());
    /// assert_eq!(letter.payload_kind.as_deref(), Some(PayloadKind::Json.as_str()));
    /// ```
    as_str
}

/// How a dead letter was resolved.
///
/// # Examples
///
/// ```
/// use dead_letters::Resolution;
///
/// let resolution: Resolution = "handled_by_script".parse()?;
/// assert_eq!(resolution, Resolution::HandledByScript);
/// let choices: Vec<_> = Resolution::ALL.iter().map(|resolution| resolution.as_str()).collect();
/// assert_eq!(choices, ["replayed", "ignored", "handled_by_script", "handler_failed"]);
/// # Ok::<(), dead_letters::DeadLetterRepoError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Resolution {
    /// The event was put back into the outbox.
    Replayed,
    /// An operator decided that nothing is to be done.
    Ignored,
    /// A dead-letter handler script dealt with the letter.
    HandledByScript,
    /// The dead-letter handler script failed in its turn. The letter has left the unresolved list, is still open, and
    /// may be resolved again.
    HandlerFailed,
}

impl Resolution {
    /// Returns whether a person may choose it, for a front end to offer. A replay alone sets `Replayed`, and only a
    /// handler knows that it failed.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::Resolution::{self, HandledByScript, Ignored};
    ///
    /// let choices = Resolution::ALL.iter().copied().filter(|resolution| resolution.may_be_chosen());
    /// assert!(choices.eq([Ignored, HandledByScript]));
    /// ```
    pub const fn may_be_chosen(self) -> bool {
        matches!(self, Self::Ignored | Self::HandledByScript)
    }
}

words! {
    Resolution {
        Replayed = "replayed", Ignored = "ignored", HandledByScript = "handled_by_script",
        HandlerFailed = "handler_failed",
    }
    /// Returns the text of the column `resolution`.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::Resolution;
    ///
    /// assert_eq!(Resolution::HandledByScript.as_str(), "handled_by_script");
    /// ```
    as_str,
    or |text| DeadLetterRepoError::InvalidResolution(text.to_owned())
}
