//! The API's own types. A field of the library may change, and a field here may not.

use chrono::{DateTime, Utc};
use dead_letters::{CappedCount, DeadLetterState, DeadLetterSummary, PayloadKind, Resolution};
use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat,
        schema::{AnyOfBuilder, Type},
    },
};
use uuid::Uuid;

use crate::{access::AppAccess, problem::Problem};

/// Bounds a source, an operation, a signature and a name. A writer may have stored megabytes there, and a page
/// of 500 letters has to stay small.
pub(super) const MAX_NAME_CHARACTERS: usize = 500;
const MAX_NOTE_CHARACTERS: usize = 2_000;

/// Returns the text, or its beginning and `…`.
pub(super) fn cut(mut text: String, characters: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(characters) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A letter, without its payload.
#[derive(Serialize, ToSchema)]
pub(super) struct Letter {
    id: Uuid,
    /// The tenant.
    app_id: Uuid,
    /// The outbox row that used up its retries.
    original_event_id: Uuid,
    /// What the event was about: at most 500 characters of it, then `…`.
    source: String,
    /// The operation that failed: at most 500 characters of it, then `…`.
    op: String,
    /// The trigger, if it was known.
    trigger_id: Option<Uuid>,
    /// The script that it ran, if it was known.
    script_id: Option<Uuid>,
    /// The payload's size as serialized, in bytes.
    payload_bytes: u64,
    /// What the stored text of the payload is. Null is a kind that this version does not know.
    #[schema(value_type = Option<PayloadKindWords>)]
    payload_kind: Option<PayloadKind>,
    /// Attempts made.
    attempt_count: u32,
    first_attempt_at: DateTime<Utc>,
    last_attempt_at: DateTime<Utc>,
    /// The first 200 characters of what the last attempt said.
    error_excerpt: String,
    /// What the error has in common with its like: at most 500 characters of it, then `…`.
    error_signature: String,
    /// The key of its error group.
    group_key: String,
    /// When the letter was stored.
    created_at: DateTime<Utc>,
    /// When it was last resolved. Null while it is unresolved.
    resolved_at: Option<DateTime<Utc>>,
    /// What became of it. Null beside a `resolved_at` is a resolution that this version does not know.
    #[schema(value_type = Option<ResolutionWords>)]
    resolution: Option<Resolution>,
    /// Who settled it, if that is known: at most 500 characters of it, then `…`.
    resolved_by: Option<String>,
    /// Why: at most 2,000 characters of it, then `…`.
    resolution_note: Option<String>,
    /// How often its event was replayed before, and died again.
    times_replayed: u64,
}

impl Letter {
    pub(super) async fn one(access: &AppAccess, summary: DeadLetterSummary) -> Result<Self, Problem> {
        Self::all(access, vec![summary]).await?.pop().ok_or_else(Problem::no_such_letter)
    }

    /// At most 1,000.
    pub(super) async fn all(
        access: &AppAccess,
        summaries: Vec<DeadLetterSummary>,
    ) -> Result<Vec<Self>, Problem> {
        let events: Vec<_> = summaries.iter().map(|summary| summary.original_event_id).collect();
        let times = access.store().times_replayed(access.app_id, &events).await?;
        Ok(summaries.into_iter().zip(times).map(|(summary, times)| Self::new(summary, times)).collect())
    }

    fn new(summary: DeadLetterSummary, times_replayed: u64) -> Self {
        Self {
            id: summary.id.into(),
            app_id: summary.app_id.into(),
            original_event_id: summary.original_event_id,
            source: cut(summary.source, MAX_NAME_CHARACTERS),
            op: cut(summary.op, MAX_NAME_CHARACTERS),
            trigger_id: summary.trigger_id.map(Uuid::from),
            script_id: summary.script_id.map(Uuid::from),
            payload_bytes: summary.payload_bytes,
            payload_kind: summary.payload_kind,
            attempt_count: summary.attempt_count,
            first_attempt_at: summary.first_attempt_at,
            last_attempt_at: summary.last_attempt_at,
            error_excerpt: summary.error_excerpt,
            error_signature: cut(summary.error_signature, MAX_NAME_CHARACTERS),
            group_key: cut(summary.group_key, MAX_NAME_CHARACTERS),
            created_at: summary.created_at,
            resolved_at: summary.resolved_at,
            resolution: summary.resolution,
            resolved_by: summary.resolved_by.map(|by| cut(by, MAX_NAME_CHARACTERS)),
            resolution_note: summary.resolution_note.map(|note| cut(note, MAX_NOTE_CHARACTERS)),
            times_replayed,
        }
    }
}

/// A count that ends at a cap.
#[derive(Serialize, ToSchema)]
pub(super) struct Capped {
    count: u64,
    /// Whether there are more than `count`.
    capped: bool,
}

impl From<CappedCount> for Capped {
    fn from(CappedCount { count, capped }: CappedCount) -> Self {
        Self { count, capped }
    }
}

/// A bucket of a timeline.
#[derive(Serialize, ToSchema)]
pub(super) struct Bucket {
    /// Where it begins. It ends where the next one does.
    from: DateTime<Utc>,
    /// Letters that were stored within.
    count: u64,
}

impl From<dead_letters::Bucket> for Bucket {
    fn from(dead_letters::Bucket { from, count }: dead_letters::Bucket) -> Self {
        Self { from, count }
    }
}

/// Documents an enum of the library's by its own words.
macro_rules! words {
    ($($(#[doc = $doc:literal])+ $words:ident: $type:ty as $name:literal;)+) => {
        $(
            $(#[doc = $doc])+
            pub(super) enum $words {}

            impl ToSchema for $words {
                fn name() -> std::borrow::Cow<'static, str> {
                    $name.into()
                }
            }

            impl PartialSchema for $words {
                fn schema() -> RefOr<Schema> {
                    ObjectBuilder::new()
                        .schema_type(Type::String)
                        .description(Some(concat!($($doc),+).trim()))
                        .enum_values(Some(<$type>::ALL.iter().map(|word| word.as_str())))
                        .into()
                }
            }
        )+
    };
}

/// Documents the library's `IdFilter`.
pub(super) enum IdOrNone {}

impl ToSchema for IdOrNone {
    fn name() -> std::borrow::Cow<'static, str> {
        "IdOrNone".into()
    }
}

impl PartialSchema for IdOrNone {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let id = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)));
        let none = text().enum_values(Some(["none"]));
        // Not `oneOf`: a validator that does not check formats would find that `none` is both.
        AnyOfBuilder::new().description(Some("An id, or `none`.")).item(id).item(none).into()
    }
}

words! {
    /// What became of a letter. It stays open where its handler failed.
    ResolutionWords: Resolution as "Resolution";
    /// What the text of a payload is: `json` is JSON of any depth, `text` is not JSON, `truncated` was cut or altered and
    /// is not the whole event, and the content of `erased` was erased.
    PayloadKindWords: PayloadKind as "PayloadKind";
    /// How far a letter is settled: `unresolved` is not at all, `open` is that or a handler failed, `resolved` is as
    /// anything.
    StateWords: DeadLetterState as "State";
}
