//! Payloads that are too deep. Nothing here recurses further than serde_json does: 100,000 levels of it end
//! the process, be it in a drop.

use serde_json::Value;

/// What serde_json reads back: its parser stops at the 128th open bracket.
const MAX_PAYLOAD_DEPTH: usize = 127;

/// Whether serde_json could not read it back.
pub(crate) fn nests_too_deep(payload: &Value) -> bool {
    is_deeper_than(MAX_PAYLOAD_DEPTH, payload)
}

fn is_deeper_than(levels: usize, value: &Value) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| is_deeper_than(levels - 1, item)),
        Value::Object(fields) => {
            levels == 0 || fields.values().any(|field| is_deeper_than(levels - 1, field))
        }
        _ => false,
    }
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
