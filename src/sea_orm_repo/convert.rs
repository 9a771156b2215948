//! Conversions between the domain's types and the entity's. No other module converts them.

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{Column, Entity};
use sea_orm::{
    ColumnTrait, DbErr, DerivePartialModel, EntityTrait, PartialModelTrait, QueryResult, QuerySelect,
    QueryTrait,
    prelude::DateTimeWithTimeZone,
    sea_query::{self, CaseStatement, Expr, ExprTrait, Func, Query, ReturningClause, SelectStatement},
};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::metadata;
use crate::{
    DeadLetterId, DeadLetterRepoError, DeadLetterRow, DeadLetterSummary, NewDeadLetter, PayloadKind,
    Resolution, StoredLetter,
    payload::{dismantle, is_json, to_readable_text, to_text},
    signature::{OWN_SIGNATURE, SIGNATURE_VERSION, error_signature, group_key, own_signature},
    time::{is_held, to_microseconds},
};

/// The mark of a text whose end was cut.
pub(super) const CUT: &str = " [cut]";
/// The mark of a text whose middle was cut. It is not a line of its own, because that would look like a line of
/// the error.
const CUT_MIDDLE: &str = " [cut] ";

/// The most characters of a source, an op, a signature or a name in summaries and groups. A writer may have stored
/// megabytes there, and a page must stay small.
const MAX_NAME_CHARACTERS: usize = 500;
pub(super) const MAX_NOTE_CHARACTERS: usize = 2_000;

/// The caps on a letter that the application sets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    pub(super) payload_bytes: Option<usize>,
    pub(super) error_bytes: Option<usize>,
}

/// The treatment of a payload over the cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OverCap {
    Refuse,
    Cut,
}

/// The values that a statement sets in a row. An `ActiveModel` would need to clone its values.
pub(super) type Values<const COLUMNS: usize> = [(Column, sea_query::Value); COLUMNS];

/// The values of a new letter.
pub(super) type NewRow = Values<NEW_COLUMNS>;

pub(super) const NEW_COLUMNS: usize = 17;
/// The number of columns of an exported letter.
pub(super) const STORED_COLUMNS: usize = 25;

pub(super) fn to_new_rows(
    ids: &[DeadLetterId],
    letters: Vec<NewDeadLetter>,
    limits: Limits,
) -> Result<Vec<NewRow>, DeadLetterRepoError> {
    let mut letters = letters.into_iter().enumerate();
    let rows = ids
        .iter()
        .zip(letters.by_ref())
        .map(|(&id, (index, letter))| to_new_row(id, letter, OverCap::Refuse, index, limits))
        .collect();
    // Letters behind a refused one may have payloads of any depth, whose ordinary drop could overflow the stack.
    letters.for_each(|(_, letter)| {
        dismantle(letter.payload);
        dismantle(Value::Object(letter.metadata));
    });
    rows
}

pub(super) fn to_new_row(
    id: DeadLetterId,
    letter: NewDeadLetter,
    over_cap: OverCap,
    index: usize,
    limits: Limits,
) -> Result<NewRow, DeadLetterRepoError> {
    let (mut payload, mut payload_kind) = to_payload(letter.payload, letter.payload_text);
    let metadata = to_metadata(letter.metadata, over_cap, index)?;
    if let Some(max) = limits.payload_bytes.filter(|&max| payload.len() > max) {
        if over_cap == OverCap::Refuse {
            return Err(DeadLetterRepoError::PayloadTooLarge { index, bytes: payload.len(), max });
        }
        (payload, payload_kind) = (cut(payload, Some(max)), PayloadKind::Truncated);
    }
    let to_time = |time, field| {
        let time = to_microseconds(time);
        let held = is_held(time).then_some(to_stored_time(time));
        held.ok_or(DeadLetterRepoError::TimeOutOfRange { index, field })
    };
    let (source, op) = (without_nul(letter.source), without_nul(letter.op));
    let script_id = letter.script_id.map(Uuid::from);
    let last_error = cut_middle(without_nul(letter.last_error), limits.error_bytes);
    let (signature, signature_version) = match letter.error_signature.filter(|own| !own.is_empty()) {
        Some(own) => (own_signature(without_nul(own)), OWN_SIGNATURE),
        None => (error_signature(&last_error), SIGNATURE_VERSION),
    };
    // `created_at` is left to the database, because all writers share its clock.
    Ok([
        (Column::Id, id.into_inner().into()),
        (Column::AppId, letter.app_id.into_inner().into()),
        (Column::OriginalEventId, letter.original_event_id.into()),
        (Column::GroupKey, group_key(&source, &op, script_id, &signature).into()),
        (Column::Source, source.into()),
        (Column::Op, op.into()),
        (Column::TriggerId, letter.trigger_id.map(Uuid::from).into()),
        (Column::ScriptId, script_id.into()),
        (Column::Payload, payload.into()),
        (Column::PayloadKind, payload_kind.as_str().into()),
        (Column::Metadata, metadata.into()),
        (Column::AttemptCount, i32::try_from(letter.attempt_count).unwrap_or(i32::MAX).into()),
        (Column::FirstAttemptAt, to_time(letter.first_attempt_at, "first_attempt_at")?),
        (Column::LastAttemptAt, to_time(letter.last_attempt_at, "last_attempt_at")?),
        (Column::ErrorSignature, signature.into()),
        (Column::SignatureVersion, signature_version.into()),
        (Column::LastError, last_error.into()),
    ])
}

/// Returns the text to store, and its kind. Parses only a text that the caller provides.
fn to_payload(payload: Value, text: Option<String>) -> (String, PayloadKind) {
    let Some(text) = text else {
        let text = to_readable_text(&payload).unwrap_or_else(|| to_text(payload));
        return (text, PayloadKind::Json);
    };
    dismantle(payload);
    if text.contains('\0') {
        return (without_nul(text), PayloadKind::Truncated);
    }
    let kind = kind_of(&text);
    (text, kind)
}

/// Returns the text to store. Empty metadata is NULL.
fn to_metadata(
    metadata: Map<String, Value>,
    over_cap: OverCap,
    index: usize,
) -> Result<Option<String>, DeadLetterRepoError> {
    if metadata.is_empty() {
        return Ok(None);
    }
    let metadata = Value::Object(metadata::to_storable(metadata));
    let text = metadata.to_string();
    match (metadata, over_cap) {
        _ if text.len() <= metadata::MAX_BYTES => Ok(Some(text)),
        (Value::Object(metadata), OverCap::Cut) => {
            Ok(Some(Value::Object(metadata::cut_to_fit(metadata)).to_string()))
        }
        _ => {
            Err(DeadLetterRepoError::MetadataTooLarge { index, bytes: text.len(), max: metadata::MAX_BYTES })
        }
    }
}

fn kind_of(payload: &str) -> PayloadKind {
    if is_json(payload) { PayloadKind::Json } else { PayloadKind::Text }
}

fn to_stored_time(time: DateTime<Utc>) -> sea_query::Value {
    DateTimeWithTimeZone::from(time).into()
}

/// Returns an error that names the field if the store can't hold the letter.
pub(super) fn check_stored(letter: &StoredLetter, index: usize) -> Result<(), DeadLetterRepoError> {
    let texts = [
        ("source", Some(&letter.source)),
        ("op", Some(&letter.op)),
        ("payload", Some(&letter.payload)),
        ("payload_kind", letter.payload_kind.as_ref()),
        ("replayed_payload", letter.replayed_payload.as_ref()),
        ("last_error", Some(&letter.last_error)),
        ("error_signature", Some(&letter.error_signature)),
        ("resolution", letter.resolution.as_ref()),
        ("resolved_by", letter.resolved_by.as_ref()),
        ("resolution_note", letter.resolution_note.as_ref()),
    ];
    let with_nul = texts.iter().find(|(_, text)| text.is_some_and(|text| text.contains('\0')));
    let unstorable = match letter {
        _ if i32::try_from(letter.attempt_count).is_err() => Some("attempt_count"),
        _ if letter.resolution.is_some() && letter.resolved_at.is_none() => Some("resolved_at"),
        _ if letter.resolution.is_none() && letter.resolved_at.is_some() => Some("resolution"),
        _ if letter.metadata.as_deref().is_some_and(|text| !metadata::is_storable(text)) => Some("metadata"),
        _ => with_nul.map(|&(field, _)| field),
    };
    if let Some(field) = unstorable {
        return Err(DeadLetterRepoError::NotStorable { index, field });
    }
    let times = [
        ("first_attempt_at", Some(letter.first_attempt_at)),
        ("last_attempt_at", Some(letter.last_attempt_at)),
        ("created_at", Some(letter.created_at)),
        ("resolved_at", letter.resolved_at),
        ("erased_at", letter.erased_at),
    ];
    let outside = times.iter().find(|(_, time)| time.is_some_and(|time| !is_held(to_microseconds(time))));
    outside.map_or(Ok(()), |&(field, _)| Err(DeadLetterRepoError::TimeOutOfRange { index, field }))
}

/// Returns the values of all columns of an exported letter.
pub(super) fn to_stored_row(letter: &StoredLetter) -> Values<STORED_COLUMNS> {
    let time = |time| to_stored_time(to_microseconds(time));
    let optional_time =
        |time: Option<DateTime<Utc>>| time.map(|at| DateTimeWithTimeZone::from(to_microseconds(at))).into();
    let derived_kind = || kind_of(&letter.payload).as_str();
    let script_id = letter.script_id.map(Uuid::from);
    let group_key = group_key(&letter.source, &letter.op, script_id, &letter.error_signature);
    [
        (Column::Id, letter.id.into_inner().into()),
        (Column::AppId, letter.app_id.into_inner().into()),
        (Column::OriginalEventId, letter.original_event_id.into()),
        (Column::Source, letter.source.as_str().into()),
        (Column::Op, letter.op.as_str().into()),
        (Column::TriggerId, letter.trigger_id.map(Uuid::from).into()),
        (Column::ScriptId, script_id.into()),
        (Column::Payload, letter.payload.as_str().into()),
        (Column::PayloadKind, letter.payload_kind.as_deref().unwrap_or_else(derived_kind).into()),
        (Column::ReplayedPayload, letter.replayed_payload.as_deref().into()),
        (Column::Metadata, letter.metadata.as_deref().into()),
        (Column::AttemptCount, i32::try_from(letter.attempt_count).unwrap_or(i32::MAX).into()),
        (Column::FirstAttemptAt, time(letter.first_attempt_at)),
        (Column::LastAttemptAt, time(letter.last_attempt_at)),
        (Column::LastError, letter.last_error.as_str().into()),
        (Column::CreatedAt, time(letter.created_at)),
        (Column::ResolvedAt, optional_time(letter.resolved_at)),
        (Column::Resolution, letter.resolution.as_deref().into()),
        (Column::ResolvedBy, letter.resolved_by.as_deref().into()),
        (Column::ResolutionNote, letter.resolution_note.as_deref().into()),
        (Column::ErrorSignature, letter.error_signature.as_str().into()),
        (Column::SignatureVersion, letter.signature_version.into()),
        (Column::GroupKey, group_key.into()),
        (Column::RunId, letter.run_id.into()),
        (Column::ErasedAt, optional_time(letter.erased_at)),
    ]
}

/// Defines a struct whose fields are a statement's columns, in their order. Reading columns by position is
/// considerably faster than by name.
macro_rules! by_position {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $type:ident {
            $($(#[$of_field:meta])* $of_visibility:vis $field:ident: $field_type:ty),* $(,)?
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $type {
            $($(#[$of_field])* $of_visibility $field: $field_type),*
        }

        impl ::sea_orm::FromQueryResult for $type {
            fn from_query_result(
                row: &::sea_orm::QueryResult,
                _: &str,
            ) -> ::std::result::Result<Self, ::sea_orm::DbErr> {
                let mut position = 0..;
                ::std::result::Result::Ok(Self {
                    $($field: $crate::sea_orm_repo::convert::Read::read(
                        row,
                        position.next().unwrap_or_default(),
                    )?),*
                })
            }
        }
    };
}

pub(super) use by_position;

/// Reads a column's value as far as possible. If an SQLite table is not STRICT, or its CHECKs were switched off, a
/// text column can hold bytes or invalid UTF-8, and a number column can hold anything.
pub(super) trait Read: Sized {
    fn read(row: &QueryResult, index: usize) -> Result<Self, DbErr>;
}

/// A payload's text, and whether it is all that is stored.
#[derive(Clone)]
pub(super) struct Payload {
    text: String,
    is_whole: bool,
}

impl Payload {
    /// Returns the stored kind. If the payload could not be read as it is stored, it is not the whole event.
    fn kind<'a>(&self, stored: &'a str) -> &'a str {
        if self.is_whole { stored } else { PayloadKind::Truncated.as_str() }
    }
}

impl Read for Payload {
    fn read(row: &QueryResult, index: usize) -> Result<Self, DbErr> {
        let text = row.try_get_by_index(index).map(|text| Self { text, is_whole: true });
        text.or_else(|error| read_bytes(row, index).ok_or(error))
    }
}

fn read_bytes(row: &QueryResult, index: usize) -> Option<Payload> {
    let bytes: Vec<u8> = row.try_get_by_index(index).ok()?;
    Some(match String::from_utf8(bytes) {
        Ok(text) => Payload { text, is_whole: true },
        Err(error) => {
            Payload { text: String::from_utf8_lossy(error.as_bytes()).into_owned(), is_whole: false }
        }
    })
}

impl Read for String {
    fn read(row: &QueryResult, index: usize) -> Result<Self, DbErr> {
        Payload::read(row, index).map(|payload| payload.text)
    }
}

impl Read for Option<String> {
    fn read(row: &QueryResult, index: usize) -> Result<Self, DbErr> {
        let text = row.try_get_by_index(index);
        text.or_else(|error| read_bytes(row, index).map(|payload| Some(payload.text)).ok_or(error))
    }
}

impl Read for Option<Uuid> {
    fn read(row: &QueryResult, index: usize) -> Result<Self, DbErr> {
        let id = row.try_get_by_index(index);
        id.or_else(|error| read_bytes(row, index).map(|printed| printed.text.parse().ok()).ok_or(error))
    }
}

macro_rules! read_clamped {
    ($($type:ty),+ $(,)?) => {$(
        impl Read for $type {
            fn read(row: &QueryResult, index: usize) -> Result<Self, DbErr> {
                let clamp = |number: i64| number.clamp(Self::MIN.into(), Self::MAX.into()) as Self;
                row.try_get_by_index(index).or_else(|error| read_number(row, index).map(clamp).ok_or(error))
            }
        }
    )+};
}

read_clamped!(i16, i32);

/// Returns the column's number, or 0 for a value that is no number.
fn read_number(row: &QueryResult, index: usize) -> Option<i64> {
    let whole = row.try_get_by_index::<i64>(index).ok();
    let real = || row.try_get_by_index::<f64>(index).ok().map(|number| number as i64);
    whole.or_else(real).or_else(|| read_bytes(row, index).map(|_| 0))
}

/// Implements [`Read`] for types whose unreadable value is an error: without these values a row can't be found,
/// listed or identified.
macro_rules! read_as_they_are {
    ($($type:ty),+ $(,)?) => {$(
        impl Read for $type {
            fn read(row: &QueryResult, index: usize) -> Result<Self, DbErr> {
                row.try_get_by_index(index)
            }
        }
    )+};
}

read_as_they_are!(
    bool,
    i64,
    Option<i32>,
    Option<i64>,
    Uuid,
    DateTimeWithTimeZone,
    Option<DateTimeWithTimeZone>,
);

by_position! {
    /// A whole row: all columns of the entity, in its order.
    #[derive(Clone)]
    pub(super) struct Row {
        id: Uuid,
        app_id: Uuid,
        original_event_id: Uuid,
        source: String,
        op: String,
        trigger_id: Option<Uuid>,
        script_id: Option<Uuid>,
        payload: Payload,
        payload_kind: String,
        replayed_payload: Option<String>,
        metadata: Option<String>,
        attempt_count: i32,
        first_attempt_at: DateTimeWithTimeZone,
        last_attempt_at: DateTimeWithTimeZone,
        last_error: String,
        error_signature: String,
        signature_version: i16,
        _group_key: String,
        created_at: DateTimeWithTimeZone,
        resolved_at: Option<DateTimeWithTimeZone>,
        resolution: Option<String>,
        resolved_by: Option<String>,
        resolution_note: Option<String>,
        run_id: Option<Uuid>,
        erased_at: Option<DateTimeWithTimeZone>,
    }
}

by_position! {
    /// A part of a text.
    pub(super) struct TextPart {
        pub(super) text: Option<String>,
    }
}

by_position! {
    /// The stored text of the metadata.
    pub(super) struct StoredMetadata {
        pub(super) metadata: Option<String>,
    }
}

impl From<Row> for StoredLetter {
    fn from(row: Row) -> Self {
        let payload_kind = Some(row.payload_kind().to_owned());
        Self {
            id: row.id.into(),
            app_id: row.app_id.into(),
            original_event_id: row.original_event_id,
            source: row.source,
            op: row.op,
            trigger_id: row.trigger_id.map(Into::into),
            script_id: row.script_id.map(Into::into),
            payload: row.payload.text,
            payload_kind,
            replayed_payload: row.replayed_payload,
            original_payload: None,
            metadata: row.metadata,
            attempt_count: row.attempt_count.try_into().unwrap_or_default(),
            first_attempt_at: row.first_attempt_at.to_utc(),
            last_attempt_at: row.last_attempt_at.to_utc(),
            last_error: row.last_error,
            created_at: row.created_at.to_utc(),
            resolved_at: row.resolved_at.map(|at| at.to_utc()),
            resolution: row.resolution,
            resolved_by: row.resolved_by,
            resolution_note: row.resolution_note,
            error_signature: row.error_signature,
            signature_version: row.signature_version,
            run_id: row.run_id,
            erased_at: row.erased_at.map(|at| at.to_utc()),
        }
    }
}

impl Row {
    pub(super) fn payload_kind(&self) -> &str {
        self.payload.kind(&self.payload_kind)
    }
}

by_position! {
    /// The columns that a [`DeadLetterRow`] shows. Each further column costs SQLite more than it costs PostgreSQL.
    #[derive(DerivePartialModel)]
    #[sea_orm(entity = "Entity", from_query_result = "false")]
    pub(super) struct ShownRow {
        id: Uuid,
        app_id: Uuid,
        original_event_id: Uuid,
        source: String,
        op: String,
        trigger_id: Option<Uuid>,
        script_id: Option<Uuid>,
        payload: Payload,
        payload_kind: String,
        metadata: Option<String>,
        attempt_count: i32,
        first_attempt_at: DateTimeWithTimeZone,
        last_attempt_at: DateTimeWithTimeZone,
        last_error: String,
        created_at: DateTimeWithTimeZone,
        resolved_at: Option<DateTimeWithTimeZone>,
        resolution: Option<String>,
        resolved_by: Option<String>,
        resolution_note: Option<String>,
        error_signature: String,
    }
}

impl ShownRow {
    pub(super) fn columns() -> SelectStatement {
        Self::select_cols(Entity::find().select_only()).into_query()
    }
}

/// No row fails to convert. An unreadable value loses only its own field.
macro_rules! shown_as_dead_letter_row {
    ($($row:ty),+) => {$(
        impl From<$row> for DeadLetterRow {
            fn from(row: $row) -> Self {
                let payload_kind = to_payload_kind(row.payload.kind(&row.payload_kind));
                Self {
                    id: row.id.into(),
                    app_id: row.app_id.into(),
                    original_event_id: row.original_event_id,
                    source: row.source,
                    op: row.op,
                    trigger_id: row.trigger_id.map(Into::into),
                    script_id: row.script_id.map(Into::into),
                    payload: serde_json::from_str(&row.payload.text)
                        .unwrap_or(Value::String(row.payload.text)),
                    payload_kind,
                    metadata: metadata::from_stored(row.metadata),
                    attempt_count: row.attempt_count.try_into().unwrap_or_default(),
                    first_attempt_at: row.first_attempt_at.to_utc(),
                    last_attempt_at: row.last_attempt_at.to_utc(),
                    last_error: row.last_error,
                    created_at: row.created_at.to_utc(),
                    resolved_at: row.resolved_at.map(|at| at.to_utc()),
                    resolution: to_resolution(row.resolution),
                    resolved_by: row.resolved_by,
                    resolution_note: row.resolution_note,
                    error_signature: row.error_signature,
                }
            }
        }
    )+};
}

shown_as_dead_letter_row!(Row, ShownRow);

by_position! {
    /// The columns that a listing reads: no payload, and only the beginning of each text.
    #[derive(DerivePartialModel)]
    #[sea_orm(entity = "Entity", from_query_result = "false")]
    pub(super) struct Summary {
        pub(super) id: Uuid,
        app_id: Uuid,
        original_event_id: Uuid,
        #[sea_orm(from_expr = "beginning_of_name(Column::Source.into_expr())")]
        source: String,
        #[sea_orm(from_expr = "beginning_of_name(Column::Op.into_expr())")]
        op: String,
        trigger_id: Option<Uuid>,
        script_id: Option<Uuid>,
        #[sea_orm(from_expr = r#"Expr::from(Func::cust("octet_length").arg(Column::Payload.into_expr()))"#)]
        payload_bytes: i32,
        payload_kind: String,
        #[sea_orm(
            from_expr = r#"Expr::from(Func::cust("octet_length").arg(Column::ReplayedPayload.into_expr()))"#
        )]
        replayed_payload_bytes: Option<i32>,
        attempt_count: i32,
        first_attempt_at: DateTimeWithTimeZone,
        last_attempt_at: DateTimeWithTimeZone,
        #[sea_orm(
            from_expr = r#"Expr::from(Func::cust("substr").args([Column::LastError.into_expr(), 1.into(), 200.into()]))"#
        )]
        error_excerpt: String,
        #[sea_orm(from_expr = "beginning_of_name(Column::ErrorSignature.into_expr())")]
        error_signature: String,
        #[sea_orm(from_expr = "beginning_of_name(Column::GroupKey.into_expr())")]
        group_key: String,
        pub(super) created_at: DateTimeWithTimeZone,
        resolved_at: Option<DateTimeWithTimeZone>,
        resolution: Option<String>,
        #[sea_orm(from_expr = "beginning_of_name(Column::ResolvedBy.into_expr())")]
        resolved_by: Option<String>,
        #[sea_orm(from_expr = "beginning(Column::ResolutionNote.into_expr(), MAX_NOTE_CHARACTERS)")]
        resolution_note: Option<String>,
        run_id: Option<Uuid>,
    }
}

/// Selects one character more than is kept, which shows whether the text is longer.
pub(super) fn beginning(text: Expr, characters: usize) -> Expr {
    let read = i32::try_from(characters + 1).unwrap_or(i32::MAX);
    let constant = |number: i32| Expr::Constant(number.into());
    Func::cust("substr").args([text, constant(1), constant(read)]).into()
}

pub(super) fn beginning_of_name(text: Expr) -> Expr {
    beginning(text, MAX_NAME_CHARACTERS)
}

/// Cuts a text that [`beginning`] selected.
pub(super) fn cut_to_characters(mut text: String, characters: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(characters) {
        text.truncate(end);
        text.push_str(CUT);
    }
    text
}

/// Returns the name. A longer one is cut, and the mark appended.
pub(super) fn to_name(text: String) -> String {
    cut_to_characters(text, MAX_NAME_CHARACTERS)
}

/// How many characters of each end of an error are selected: more than the bytes that a signature reads there.
const ERROR_CHARACTERS: i32 = (16 << 10) + 1;

/// Selects the parts of an error that its signature is made of: the first characters, and the last of the
/// remaining ones.
pub(super) fn ends_of_error(error: Expr) -> [Expr; 2] {
    let constant = |number: i32| Expr::Constant(number.into());
    let part = |from: Expr| -> Expr {
        Func::cust("substr").args([error.clone(), from, constant(ERROR_CHARACTERS)]).into()
    };
    let length = || Expr::from(Func::char_length(error.clone()));
    let behind = CaseStatement::new()
        .case(length().gt(constant(2 * ERROR_CHARACTERS)), length().sub(constant(ERROR_CHARACTERS - 1)))
        .finally(constant(ERROR_CHARACTERS + 1));
    let end = CaseStatement::new()
        .case(length().gt(constant(ERROR_CHARACTERS)), part(Expr::Case(Box::new(behind))));
    [part(constant(1)), Expr::Case(Box::new(end))]
}

/// Joins the parts that [`ends_of_error`] selected. A signature reads nothing near the joint.
pub(super) fn join_ends(start: String, end: Option<String>) -> String {
    start + end.as_deref().unwrap_or_default()
}

impl Summary {
    pub(super) fn columns() -> SelectStatement {
        Self::select_cols(Entity::find().select_only()).into_query()
    }

    /// Returns the expressions of [`columns`](Self::columns), for the RETURNING of an update.
    pub(super) fn returning() -> ReturningClause {
        let mut expressions = Vec::new();
        Self::columns().exprs_mut_for_each(|column| expressions.push(column.expr.clone()));
        Query::returning().exprs(expressions)
    }
}

impl From<Summary> for DeadLetterSummary {
    fn from(row: Summary) -> Self {
        Self {
            id: row.id.into(),
            app_id: row.app_id.into(),
            original_event_id: row.original_event_id,
            source: to_name(row.source),
            op: to_name(row.op),
            trigger_id: row.trigger_id.map(Into::into),
            script_id: row.script_id.map(Into::into),
            payload_bytes: row.payload_bytes.try_into().unwrap_or_default(),
            payload_kind: to_payload_kind(&row.payload_kind),
            replayed_payload_bytes: row
                .replayed_payload_bytes
                .map(|bytes| bytes.try_into().unwrap_or_default()),
            attempt_count: row.attempt_count.try_into().unwrap_or_default(),
            first_attempt_at: row.first_attempt_at.to_utc(),
            last_attempt_at: row.last_attempt_at.to_utc(),
            error_excerpt: row.error_excerpt,
            error_signature: to_name(row.error_signature),
            group_key: to_name(row.group_key),
            created_at: row.created_at.to_utc(),
            resolved_at: row.resolved_at.map(|at| at.to_utc()),
            resolution: to_resolution(row.resolution),
            resolved_by: row.resolved_by.map(to_name),
            resolution_note: row.resolution_note.map(|note| cut_to_characters(note, MAX_NOTE_CHARACTERS)),
            run_id: row.run_id,
        }
    }
}

/// Returns the resolution, or `None` if only a newer version knows it.
pub(super) fn to_resolution(text: Option<String>) -> Option<Resolution> {
    text?.parse().ok()
}

/// Returns the kind, or `None` if only a newer version knows it.
fn to_payload_kind(text: &str) -> Option<PayloadKind> {
    PayloadKind::ALL.iter().copied().find(|kind| kind.as_str() == text)
}

/// Cuts the end of a text longer than `max` bytes, at a character's boundary. The mark counts toward `max`, and is
/// cut too if it is longer.
pub(super) fn cut(mut text: String, max: Option<usize>) -> String {
    if let Some(max) = max.filter(|&max| text.len() > max) {
        let mark = CUT.get(..max).unwrap_or(CUT);
        text.truncate(text.floor_char_boundary(max - mark.len()));
        text.push_str(mark);
    }
    text
}

/// Cuts the middle of a text longer than `max` bytes. The mark counts toward `max`. An error's end often names the
/// cause.
fn cut_middle(mut text: String, max: Option<usize>) -> String {
    if let Some(max) = max.filter(|&max| text.len() > max) {
        let mark = CUT_MIDDLE.get(..max).unwrap_or(CUT_MIDDLE);
        let kept = max - mark.len();
        let start = text.floor_char_boundary(kept.div_ceil(2));
        let end = text.ceil_char_boundary(text.len() - kept / 2);
        text.replace_range(start..end, mark);
    }
    text
}

/// Replaces each NUL with U+FFFD. PostgreSQL's text refuses NUL (22021), and an error message with a NUL must not
/// make an insert fail.
pub(super) fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}") } else { text }
}
