//! Payloads that are too deep. All iterative: recursion over 100,000 levels ends the process, be it in a
//! drop.

use serde_json::Value;

/// What serde_json reads back: its parser stops at the 128th open bracket.
const MAX_PAYLOAD_DEPTH: usize = 127;

/// Whether serde_json could not read it back.
pub(crate) fn nests_too_deep(payload: &Value) -> bool {
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
pub(crate) fn dismantle(payload: Value) {
    let mut parts = vec![payload];
    while let Some(part) = parts.pop() {
        match part {
            Value::Array(items) => parts.extend(items),
            Value::Object(fields) => parts.extend(fields.into_iter().map(|(_, field)| field)),
            _ => {}
        }
    }
}
