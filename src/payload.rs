//! Payloads that nest deeper than serde_json reads back. No function here recurses deeper than that: 100,000 levels
//! of recursion, even in a drop, end the process.

use std::io::{self, Write};

use serde::{Serialize, de::IgnoredAny};
use serde_json::{
    Value,
    ser::{Formatter, Serializer},
};

/// How many levels serde_json reads back: its parser stops at the 128th open bracket.
const MAX_PAYLOAD_DEPTH: usize = 127;

/// Returns whether the payload nests too deep for serde_json to read back.
pub(crate) fn nests_too_deep(payload: &Value) -> bool {
    is_deeper_than(MAX_PAYLOAD_DEPTH, payload)
}

/// Returns whether the field of an object nests too deep for serde_json to read the object back.
pub(crate) fn field_nests_too_deep(field: &Value) -> bool {
    is_deeper_than(MAX_PAYLOAD_DEPTH - 1, field)
}

fn is_deeper_than(levels: usize, value: &Value) -> bool {
    // Most parts are scalars, which need no call.
    let holds_parts = |part: &&Value| part.is_array() || part.is_object();
    let is_deeper = |part: &Value| is_deeper_than(levels - 1, part);
    match value {
        Value::Array(items) => levels == 0 || items.iter().filter(holds_parts).any(is_deeper),
        Value::Object(fields) => levels == 0 || fields.values().filter(holds_parts).any(is_deeper),
        _ => false,
    }
}

/// Returns whether the text is JSON, of any depth and with numbers of any size.
pub(crate) fn is_json(text: &str) -> bool {
    // `IgnoredAny` keeps nothing, and serde_json skips its values without recursion.
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Returns whether a text that is JSON nests too deep for serde_json to read back.
pub(crate) fn text_nests_too_deep(json: &str) -> bool {
    let (mut depth, mut is_string, mut is_escaped) = (0_usize, false, false);
    json.bytes().any(|byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_string = !is_string,
            _ if is_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_PAYLOAD_DEPTH
    })
}

/// Returns the JSON text of a payload, or `None` if the payload nests too deep.
///
/// The check runs while the text is written, because a check beforehand would slow down every insert.
pub(crate) fn to_readable_text(payload: &Value) -> Option<String> {
    let mut text = Vec::with_capacity(1 << 10);
    payload.serialize(&mut Serializer::with_formatter(&mut text, Readable { depth: 0 })).ok()?;
    String::from_utf8(text).ok()
}

/// Formats as serde_json does, but returns an error below the depth that serde_json reads back.
struct Readable {
    depth: usize,
}

impl Readable {
    fn open(&mut self, writer: &mut (impl Write + ?Sized), bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        if self.depth > MAX_PAYLOAD_DEPTH {
            return Err(io::ErrorKind::InvalidData.into());
        }
        writer.write_all(bracket)
    }

    fn close(&mut self, writer: &mut (impl Write + ?Sized), bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        writer.write_all(bracket)
    }
}

impl Formatter for Readable {
    fn begin_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }
}

/// Drops a payload of any depth, without recursion.
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

/// Returns the JSON text of a payload of any depth, without recursion.
pub(crate) fn to_text(payload: Value) -> String {
    enum Part {
        Value(Value),
        Text(String),
    }
    let mut text = String::new();
    // A stack: the last part is written next.
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
            assert_eq!(to_readable_text(&payload), Some(payload.to_string()));
            assert_eq!(to_text(payload.clone()), payload.to_string());
        }
    }

    #[test]
    fn json_is_recognized_at_any_depth_and_size_of_its_numbers() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for json in ["{}", " null\n", "1e999999", "184467440737095516160", r#""\ud800""#, &deep] {
            assert!(is_json(json), "{:.20}", json);
        }
        for other in ["", "{broken", "{} {}", "NaN", "'a'", "[1,]", &deep[1..]] {
            assert!(!is_json(other), "{:.20}", other);
        }
    }

    #[test]
    fn there_is_a_text_of_what_serde_json_reads_back_and_of_nothing_deeper() {
        let nest = |levels| (0..levels).fold(json!({}), |part, _| Value::Array(vec![part]));
        let deepest = nest(MAX_PAYLOAD_DEPTH - 1);
        assert_eq!(
            to_readable_text(&deepest).and_then(|text| serde_json::from_str(&text).ok()),
            Some(deepest)
        );
        let too_deep = nest(100_000);
        assert!(!text_nests_too_deep(&to_text(nest(MAX_PAYLOAD_DEPTH - 1))));
        assert!(text_nests_too_deep(&to_text(nest(MAX_PAYLOAD_DEPTH))));
        let brackets = format!(r#"["\\", "\"{}", "{{"]"#, "[".repeat(200));
        assert!(is_json(&brackets) && !text_nests_too_deep(&brackets));
        assert_eq!([to_readable_text(&nest(MAX_PAYLOAD_DEPTH)), to_readable_text(&too_deep)], [None, None]);
        dismantle(too_deep);
    }
}
