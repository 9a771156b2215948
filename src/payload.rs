//! Payloads that are too deep. Nothing here recurses further than serde_json reads: 100,000 levels of
//! recursion end the process, be it in a drop.

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

/// The JSON text of a payload of any depth.
pub(crate) fn to_text(payload: Value) -> String {
    enum Part {
        Value(Value),
        Text(String),
    }
    let mut text = String::new();
    // The last one is next.
    let mut parts = vec![Part::Value(payload)];
    let comma = |at: usize| if at == 0 { "" } else { "," };
    while let Some(part) = parts.pop() {
        match part {
            Part::Text(part) => text.push_str(&part),
            Part::Value(Value::Array(items)) => {
                text.push('[');
                parts.push(Part::Text("]".to_owned()));
                for (at, item) in items.into_iter().enumerate().rev() {
                    parts.extend([Part::Value(item), Part::Text(comma(at).to_owned())]);
                }
            }
            Part::Value(Value::Object(fields)) => {
                text.push('{');
                parts.push(Part::Text("}".to_owned()));
                for (at, (name, field)) in fields.into_iter().enumerate().rev() {
                    let name = format!("{}{}:", comma(at), Value::String(name));
                    parts.extend([Part::Value(field), Part::Text(name)]);
                }
            }
            Part::Value(scalar) => text.push_str(&scalar.to_string()),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_text_is_what_serde_json_writes() {
        for payload in [
            json!([]),
            json!({}),
            json!(1.5),
            json!([[], {}, [1, "two", null, { "a": [true], "\"b\n": { "c": [[]] } }]]),
        ] {
            assert_eq!(to_text(payload.clone()), payload.to_string());
        }
    }
}
