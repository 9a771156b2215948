//! The one crossing between the domain's types and the entity's.

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{ActiveModel, Model};
use sea_orm::{ActiveValue::NotSet, Set};
use serde_json::Value;

use crate::{DeadLetterId, DeadLetterRepoError, DeadLetterRow, NewDeadLetter};

/// What serde_json reads back: its parser stops at the 128th open bracket.
const MAX_PAYLOAD_DEPTH: usize = 127;

pub(super) fn to_active_models(
    ids: &[DeadLetterId],
    letters: Vec<NewDeadLetter>,
) -> Result<Vec<ActiveModel>, DeadLetterRepoError> {
    let mut letters = letters.into_iter().enumerate();
    let rows = ids
        .iter()
        .zip(letters.by_ref())
        .map(|(&id, (index, letter))| to_active_model(id, letter, index))
        .collect();
    // Those after a refused one may be as deep as it was.
    letters.for_each(|(_, letter)| dismantle(letter.payload));
    rows
}

pub(super) fn to_active_model(
    id: DeadLetterId,
    letter: NewDeadLetter,
    index: usize,
) -> Result<ActiveModel, DeadLetterRepoError> {
    if nests_too_deep(&letter.payload) {
        dismantle(letter.payload);
        return Err(DeadLetterRepoError::PayloadTooDeep { index });
    }
    Ok(ActiveModel {
        id: Set(id.into_inner()),
        app_id: Set(letter.app_id.into_inner()),
        original_event_id: Set(letter.original_event_id),
        source: Set(without_nul(letter.source)),
        op: Set(without_nul(letter.op)),
        trigger_id: Set(letter.trigger_id.map(Into::into)),
        script_id: Set(letter.script_id.map(Into::into)),
        payload: Set(letter.payload.to_string()),
        attempt_count: Set(i32::try_from(letter.attempt_count).unwrap_or(i32::MAX)),
        first_attempt_at: Set(to_microseconds(letter.first_attempt_at).into()),
        last_attempt_at: Set(to_microseconds(letter.last_attempt_at).into()),
        last_error: Set(without_nul(letter.last_error)),
        // By the database's clock, which all writers share.
        created_at: NotSet,
        resolved_at: NotSet,
        resolution: NotSet,
    })
}

/// No row fails to convert: what is broken in it costs its own field.
impl From<Model> for DeadLetterRow {
    fn from(row: Model) -> Self {
        Self {
            id: row.id.into(),
            app_id: row.app_id.into(),
            original_event_id: row.original_event_id,
            source: row.source,
            op: row.op,
            trigger_id: row.trigger_id.map(Into::into),
            script_id: row.script_id.map(Into::into),
            payload: serde_json::from_str(&row.payload).unwrap_or(Value::String(row.payload)),
            // A CHECK keeps it from being negative.
            attempt_count: row.attempt_count.try_into().unwrap_or_default(),
            first_attempt_at: row.first_attempt_at.to_utc(),
            last_attempt_at: row.last_attempt_at.to_utc(),
            last_error: row.last_error,
            created_at: row.created_at.to_utc(),
            resolved_at: row.resolved_at.map(|at| at.to_utc()),
            resolution: row.resolution.and_then(|resolution| resolution.parse().ok()),
        }
    }
}

/// As PostgreSQL keeps a time: whole microseconds, and a leap second (23:59:60) as the first of the next minute.
pub(super) fn to_microseconds(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}

/// PostgreSQL's text refuses NUL (22021), and an insert must not fail over what an error message says.
fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}") } else { text }
}

/// Iterative, as is [`dismantle`]: recursion over 100,000 levels ends the process.
fn nests_too_deep(payload: &Value) -> bool {
    let mut open = vec![(payload, 1)];
    while let Some((value, depth)) = open.pop() {
        let is_container = value.is_array() || value.is_object();
        if is_container && depth > MAX_PAYLOAD_DEPTH {
            return true;
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => open.extend(fields.values().map(|field| (field, depth + 1))),
            _ => {}
        }
    }
    false
}

/// Drops a payload of any depth.
fn dismantle(payload: Value) {
    let mut parts = vec![payload];
    while let Some(part) = parts.pop() {
        match part {
            Value::Array(items) => parts.extend(items),
            Value::Object(fields) => parts.extend(fields.into_iter().map(|(_, field)| field)),
            _ => {}
        }
    }
}
