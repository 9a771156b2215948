//! The API's own types. A field of the library may change; a field here must not.

use chrono::{DateTime, Utc};
use dead_letters::{
    Action, CappedCount, DeadLetterState, DeadLetterSummary, ListSort, NewGroupState, PayloadKind, Resolution,
};
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

/// Maximum length of a source, an operation, a signature and a name. A writer may have stored megabytes there, but a
/// page of 500 letters must stay small.
pub(super) const MAX_NAME_CHARACTERS: usize = 500;
pub(super) const MAX_NOTE_CHARACTERS: usize = 2_000;

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
    /// The app, which is the tenant.
    app_id: Uuid,
    /// The id of the event in the outbox.
    original_event_id: Uuid,
    /// The source of the event, cut after 500 characters with `…`.
    source: String,
    /// The operation that failed, cut after 500 characters with `…`.
    op: String,
    /// The trigger, if the service knew it.
    trigger_id: Option<Uuid>,
    /// The script that the trigger ran, if the service knew it.
    script_id: Option<Uuid>,
    /// The size of the payload's stored text, in bytes.
    payload_bytes: u64,
    /// The kind of the payload's stored text. Null if this version does not know the kind.
    #[schema(value_type = Option<PayloadKindWords>)]
    payload_kind: Option<PayloadKind>,
    /// The size of the edited payload that the last replay put back, in bytes. Null if it put back the letter's own.
    replayed_payload_bytes: Option<u64>,
    /// The number of attempts.
    attempt_count: u32,
    first_attempt_at: DateTime<Utc>,
    last_attempt_at: DateTime<Utc>,
    /// The first 200 characters of the last attempt's error.
    error_excerpt: String,
    /// The signature of the error, cut after 500 characters with `…`. Similar errors have the same signature.
    error_signature: String,
    /// The key of the letter's error group.
    group_key: String,
    /// When the letter was stored.
    created_at: DateTime<Utc>,
    /// When the letter was last resolved. Null while it is unresolved.
    resolved_at: Option<DateTime<Utc>>,
    /// The resolution. Null although `resolved_at` is set if this version does not know the resolution.
    #[schema(value_type = Option<ResolutionWords>)]
    resolution: Option<Resolution>,
    /// The operator who resolved the letter, if known, cut after 500 characters with `…`.
    resolved_by: Option<String>,
    /// The operator's note, cut after 2,000 characters with `…`.
    resolution_note: Option<String>,
    /// The bulk run that resolved the letter, if one did.
    run_id: Option<Uuid>,
    /// How often the event was replayed.
    times_replayed: u64,
}

impl Letter {
    pub(super) async fn one(access: &AppAccess, summary: DeadLetterSummary) -> Result<Self, Problem> {
        Self::all(access, vec![summary]).await?.pop().ok_or_else(Problem::no_such_letter)
    }

    /// Returns the letters of at most 1,000 summaries.
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
            replayed_payload_bytes: summary.replayed_payload_bytes,
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
            run_id: summary.run_id,
            times_replayed,
        }
    }
}

/// A capped count.
#[derive(Serialize, ToSchema)]
pub(super) struct Capped {
    count: u64,
    /// Whether the count stopped at its cap.
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
    /// When the bucket begins. It ends when the next one begins.
    from: DateTime<Utc>,
    /// The number of letters that were stored in the bucket.
    count: u64,
}

impl From<dead_letters::Bucket> for Bucket {
    fn from(dead_letters::Bucket { from, count, .. }: dead_letters::Bucket) -> Self {
        Self { from, count }
    }
}

/// Documents an enum of the library by its words.
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
        // A validator that does not check formats would reject `none` with `oneOf`, because it matches both schemas.
        AnyOfBuilder::new().description(Some("An id, or `none`.")).item(id).item(none).into()
    }
}

words! {
    /// The kind of a call of an operator.
    ActionWords: Action as "ActionInHistory";
    /// The resolution of a letter. A letter with `handler_failed` is still open, the others are closed.
    ResolutionWords: Resolution as "Resolution";
    /// The kind of a payload's text: `json` is JSON of any depth, and `text` is not JSON. `truncated` was cut or altered,
    /// so it is not the whole event. The content of `erased` was erased.
    PayloadKindWords: PayloadKind as "PayloadKind";
    /// Why a group is listed: `new` has no letter that was stored before `since`, back to `scanned_back_to`. `regressed`
    /// has closed letters and open ones, and all open ones were stored after the last close. `unknown` means that the
    /// scan limit stopped the call before it came to `since`. `known` has letters from before `since`, and did not regress.
    NewGroupStateWords: NewGroupState as "NewGroupState";
    /// The order of a list.
    SortWords: ListSort as "Sort";
    /// The state of a letter: `unresolved` has no resolution. `open` is unresolved or `handler_failed`. `closed` has any
    /// other resolution. `any` is every letter.
    StateWords: DeadLetterState as "State";
}
