//! The metadata of a letter, between the domain's map and the column's text.

use serde_json::{Map, Value};

use super::convert::{CUT, cut, without_nul};
use crate::payload::{field_nests_too_deep, to_text};

/// The most bytes of stored metadata, which the table's CHECK allows.
pub(super) const MAX_BYTES: usize = 16 << 10;
/// The most bytes of a field that stays whole when metadata is cut.
const MAX_CUT_FIELD_BYTES: usize = 1_000;
/// The bytes that the braces and the field about the rest take when metadata is cut.
const CUT_BYTES: usize = 64;

/// Returns whether both backends accept the text: a JSON object of at most 16 KB without `\u0000`, which jsonb refuses.
pub(super) fn is_storable(text: &str) -> bool {
    text.len() <= MAX_BYTES
        && serde_json::from_str::<Value>(text)
            .is_ok_and(|json| json.is_object() && !holds(&json, &is_extreme))
        && !text.replace(r"\\", "").contains(r"\u0000")
}

/// Returns the stored metadata. A text of another writer that serde_json can't read as an object is no metadata.
pub(super) fn from_stored(text: Option<String>) -> Map<String, Value> {
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// Returns the metadata with U+FFFD for each NUL. A number that jsonb may refuse becomes a text, as does a field that
/// serde_json would not read back.
pub(super) fn to_storable(metadata: Map<String, Value>) -> Map<String, Value> {
    let is_storable = |(key, field): (&String, &Value)| {
        !key.contains('\0')
            && !field_nests_too_deep(field)
            && !holds(field, &|value| has_nul(value) || is_extreme(value))
    };
    if metadata.iter().all(is_storable) {
        return metadata;
    }
    let field = |field| match field_nests_too_deep(&field) {
        true => Value::String(to_text(field)),
        false => replaced(field),
    };
    metadata.into_iter().map(|(key, value)| (without_nul(key), field(value))).collect()
}

/// Returns whether the value is like this, or a part of it.
fn holds(value: &Value, is_such: &impl Fn(&Value) -> bool) -> bool {
    is_such(value)
        || match value {
            Value::Array(items) => items.iter().any(|item| holds(item, is_such)),
            Value::Object(fields) => fields.values().any(|field| holds(field, is_such)),
            _ => false,
        }
}

/// Returns whether the value itself has a NUL, or one of its keys.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Object(fields) => fields.keys().any(|key| key.contains('\0')),
        _ => false,
    }
}

/// Returns whether jsonb may refuse the number. A service has such numbers if a crate of its build turns on serde_json's
/// `arbitrary_precision`.
fn is_extreme(value: &Value) -> bool {
    matches!(value, Value::Number(number) if exceeds_f64(&number.to_string()))
}

fn exceeds_f64(number: &str) -> bool {
    let exponent = number.rsplit_once(['e', 'E']).map(|(_, exponent)| exponent.parse::<i32>());
    number.len() > 400
        || exponent.is_some_and(|exponent| exponent.map_or(true, |exponent| exponent.abs() > 400))
}

fn replaced(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(without_nul(text)),
        Value::Array(items) => items.into_iter().map(replaced).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(key, field)| (without_nul(key), replaced(field))).collect()
        }
        number if is_extreme(&number) => Value::String(number.to_string()),
        scalar => scalar,
    }
}

/// Returns metadata that is too large, cut to at most [`MAX_BYTES`].
///
/// A text over 1,000 bytes is cut, and any other value over 1,000 bytes becomes the mark. Fields that still do not fit
/// are left out, and the field `[cut]` says how many.
pub(super) fn cut_to_fit(metadata: Map<String, Value>) -> Map<String, Value> {
    let mark = || CUT.trim_start().to_owned();
    let mut kept = Map::new();
    let (mut left, mut left_out) = (MAX_BYTES - CUT_BYTES, 0);
    for (key, field) in metadata {
        let field = match field {
            Value::String(text) => Value::String(cut(text, Some(MAX_CUT_FIELD_BYTES))),
            field if field.to_string().len() > MAX_CUT_FIELD_BYTES => Value::String(mark()),
            field => field,
        };
        let bytes = format!("{}:{field},", Value::from(key.as_str())).len();
        match usize::checked_sub(left, bytes) {
            Some(rest) => {
                left = rest;
                kept.insert(key, field);
            }
            None => left_out += 1,
        }
    }
    if left_out > 0 {
        kept.insert(mark(), left_out.into());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_beyond_every_float_is_extreme() {
        for number in ["0", "-1.5", "1.7976931348623157e308", "5e-324", "18446744073709551615"] {
            assert!(!exceeds_f64(number), "{number}");
            assert!(!is_extreme(&serde_json::from_str(number).unwrap()), "{number}");
        }
        for number in ["1e200000", "-1E+200000", "1e-200000", "1e99999999999", &"9".repeat(401)] {
            assert!(exceeds_f64(number), "{number}");
        }
    }
}
