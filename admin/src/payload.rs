//! Reads payloads as text. Numbers, order and duplicate keys stay as stored; a `Value` would change them.

use std::{borrow::Cow, fmt, io, ops::Range, time::Duration};

use axum::body::{Body, Bytes};
use dead_letters::{AppId, DeadLetterId, DeadLetterRepoError, DeadLetterStore, PayloadKind};
use futures_util::stream::try_unfold;
use serde::de::IgnoredAny;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::timeout,
};

use crate::{
    access::{AppAccess, Turn},
    problem::Problem,
};

/// The payloads of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// The event's own.
    Own,
    /// The edited one that the last replay put back.
    Replayed,
}

impl Which {
    /// Returns the characters of the payload's text, or a problem if there is none.
    pub(crate) async fn text(
        self,
        access: &AppAccess,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<String, Problem> {
        let text = self.of(access.store().as_ref(), access.app_id, id, characters).await?;
        text.ok_or_else(match self {
            Self::Own => Problem::no_such_letter,
            Self::Replayed => Problem::no_edited_payload,
        })
    }

    async fn of(
        self,
        store: &dyn DeadLetterStore,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError> {
        match self {
            Self::Own => store.payload_text(app_id, id, characters).await,
            Self::Replayed => store.replayed_payload_text(app_id, id, characters).await,
        }
    }
}

/// Nesting limit of serde_json.
const MAX_LEVELS: usize = 127;
pub(crate) const REDACTED: &str = "\"[redacted]\"";
/// Characters per part of a streamed payload. PostgreSQL reads a text from its beginning for each part, so smaller
/// parts take longer, and larger parts take more memory.
pub(crate) const PART_CHARACTERS: u64 = 4 << 20;
/// Size of the pieces that are handed to the connection.
const PIECE_BYTES: usize = 64 << 10;
/// How long a client may take no piece before the download is aborted.
const STALL_TIME: Duration = Duration::from_secs(30);
const DOWNLOAD_TIME: Duration = Duration::from_secs(600);

/// The kind of a [`Token`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Punctuation,
    Key,
    String,
    Number,
    Literal,
    Redacted,
    Space,
}

/// A piece of JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: Cow<'a, str>,
}

/// The text is not JSON, or nests deeper than 127 levels.
///
/// If values are redacted, a text that is neither an object nor an array is refused too. No pointer leads into it,
/// although it may quote a whole payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotJson;

/// The text is not a JSON pointer (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a JSON pointer: it must be empty or begin with /, and a key must escape ~ as ~0 and / as ~1"
)]
pub(crate) struct BadPointer(String);

/// The values to redact, as JSON pointers in which `*` matches any key or index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Redaction(Vec<Vec<String>>);

impl Redaction {
    pub(crate) fn new(pointers: impl IntoIterator<Item: Into<String>>) -> Result<Self, BadPointer> {
        pointers.into_iter().map(|pointer| segments(pointer.into())).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a pointer leads to this field of an object or into it, or to the object. A text there is redacted.
    pub(crate) fn hides_field(&self, key: &str) -> bool {
        // The store compares a key with U+FFFD for each NUL.
        let key = &*key.replace('\0', "\u{FFFD}");
        self.0.iter().any(|pointer| pointer.first().is_none_or(|segment| segment == "*" || segment == key))
    }

    /// Returns those of the `live` pointers whose segment at `depth` matches `name`.
    fn step(&self, live: &[usize], depth: usize, name: &str) -> Vec<usize> {
        let goes_on = |segment: &String| segment == "*" || segment == name;
        live.iter().copied().filter(|&pointer| self.0[pointer].get(depth).is_some_and(goes_on)).collect()
    }
}

fn segments(pointer: String) -> Result<Vec<String>, BadPointer> {
    let Some(path) = pointer.strip_prefix('/') else {
        return if pointer.is_empty() { Ok(Vec::new()) } else { Err(BadPointer(pointer)) };
    };
    let unescape = |segment: &str| {
        let is_escape = |rest: &str| rest.starts_with(['0', '1']);
        let is_valid = segment.split('~').skip(1).all(is_escape);
        is_valid.then(|| segment.replace("~1", "/").replace("~0", "~"))
    };
    path.split('/').map(unescape).collect::<Option<_>>().ok_or(BadPointer(pointer))
}

/// Returns the stored text with `"[redacted]"` in place of the redacted values. The rest is unchanged, byte for byte.
pub(crate) fn redact(text: &str, redaction: &Redaction) -> Result<String, NotJson> {
    let mut walk = Walk::new(text, redaction)?;
    let mut redacted = String::with_capacity(text.len());
    while let Some(token) = walk.next()? {
        redacted += &token.text;
    }
    Ok(redacted)
}

/// Returns JSON without the spaces between its values. Everything else is unchanged, byte for byte.
pub(crate) fn compact(text: &str) -> Result<String, NotJson> {
    let redaction = Redaction::default();
    let mut walk = Walk::new(text, &redaction)?;
    let mut compact = String::with_capacity(text.len());
    while let Some(token) = walk.next()? {
        if token.kind != Kind::Space {
            compact += &token.text;
        }
    }
    Ok(compact)
}

/// A payload laid out for people.
#[derive(Debug)]
pub(crate) struct Pretty<'a> {
    /// The tokens, indented, with one member per line.
    pub(crate) tokens: Vec<Token<'a>>,
    /// How many values are redacted.
    pub(crate) redacted: usize,
}

/// Lays out a payload. Returns `None` if that takes more than `max_tokens` tokens or `max_bytes` bytes, since the
/// indentation alone can make a small text large.
pub(crate) fn pretty<'a>(
    text: &'a str,
    redaction: &Redaction,
    max_tokens: usize,
    max_bytes: usize,
) -> Result<Option<Pretty<'a>>, NotJson> {
    let mut walk = Walk::new(text, redaction)?;
    let mut pretty = Pretty { tokens: Vec::new(), redacted: 0 };
    let mut bytes = 0;
    let (mut depth, mut is_first) = (0, false);
    let line = |depth: usize| Token { kind: Kind::Space, text: format!("\n{}", "  ".repeat(depth)).into() };
    while let Some(token) = walk.next()? {
        let (kind, piece) = (token.kind, token.text.clone());
        let closes = matches!(&*piece, "}" | "]") && kind == Kind::Punctuation;
        match kind {
            Kind::Space => continue,
            Kind::Redacted => pretty.redacted += 1,
            _ => {}
        }
        depth -= usize::from(closes);
        if closes != is_first {
            pretty.tokens.push(line(depth));
        }
        is_first = false;
        bytes += token.text.len() + 2 * depth;
        if pretty.tokens.len() >= max_tokens || bytes > max_bytes {
            return Ok(None);
        }
        pretty.tokens.push(token);
        match &*piece {
            "{" | "[" if kind == Kind::Punctuation => {
                depth += 1;
                is_first = true;
            }
            "," if kind == Kind::Punctuation => pretty.tokens.push(line(depth)),
            ":" if kind == Kind::Punctuation => {
                pretty.tokens.push(Token { kind: Kind::Space, text: " ".into() });
            }
            _ => {}
        }
    }
    Ok(Some(pretty))
}

/// Iterates over the tokens of a JSON text.
pub(crate) struct Walk<'a, 'r> {
    text: &'a str,
    at: usize,
    redaction: &'r Redaction,
    open: Vec<Open>,
}

/// An object or array whose end is not reached.
struct Open {
    is_object: bool,
    awaits_key: bool,
    index: usize,
    /// The key of the current member, or `*` in an array.
    name: String,
    /// The pointers that lead to this object or array.
    live: Vec<usize>,
    /// The pointers that lead to the current member.
    here: Vec<usize>,
}

impl<'a, 'r> Walk<'a, 'r> {
    pub(crate) fn new(text: &'a str, redaction: &'r Redaction) -> Result<Self, NotJson> {
        // Everything below relies on valid JSON.
        serde_json::from_str::<IgnoredAny>(text).map_err(|_| NotJson)?;
        let is_compound = text.trim_ascii_start().starts_with(['{', '[']);
        if !redaction.is_empty() && !is_compound {
            return Err(NotJson);
        }
        Ok(Self { text, at: 0, redaction, open: Vec::new() })
    }

    /// Returns the JSON pointer of the last token, with `*` for each index. Returns `None` if it is longer than
    /// `max_bytes`, since a payload may have tens of thousands of values with a pointer each.
    pub(crate) fn pointer(&self, max_bytes: usize) -> Option<String> {
        let bytes: usize = self.open.iter().map(|open| open.name.len() + 1).sum();
        (bytes <= max_bytes).then(|| self.build_pointer())
    }

    fn build_pointer(&self) -> String {
        self.open.iter().map(|open| format!("/{}", open.name.replace('~', "~0").replace('/', "~1"))).collect()
    }

    pub(crate) fn next(&mut self) -> Result<Option<Token<'a>>, NotJson> {
        let rest = &self.text.as_bytes()[self.at..];
        let Some(&first) = rest.first() else { return Ok(None) };
        let awaits_key = self.open.last().is_some_and(|open| open.awaits_key);
        let token = match first {
            b' ' | b'\n' | b'\r' | b'\t' => {
                let length = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                self.take(Kind::Space, length)
            }
            b'}' | b']' => {
                self.open.pop();
                self.take(Kind::Punctuation, 1)
            }
            b',' => {
                self.next_member();
                self.take(Kind::Punctuation, 1)
            }
            b':' => self.take(Kind::Punctuation, 1),
            b'"' if awaits_key => {
                let token = self.take(Kind::Key, string_length(rest));
                self.enter_key(&token.text)?;
                token
            }
            _ if self.is_redacted(first) => {
                self.take(Kind::Redacted, value_length(rest));
                Token { kind: Kind::Redacted, text: REDACTED.into() }
            }
            b'{' | b'[' => {
                self.enter(first == b'{')?;
                self.take(Kind::Punctuation, 1)
            }
            b'"' => self.take(Kind::String, string_length(rest)),
            b't' | b'f' | b'n' => self.take(Kind::Literal, scalar_length(rest)),
            _ => self.take(Kind::Number, scalar_length(rest)),
        };
        Ok(Some(token))
    }

    fn take(&mut self, kind: Kind, length: usize) -> Token<'a> {
        let range: Range<usize> = self.at..self.at + length;
        self.at = range.end;
        Token { kind, text: self.text.get(range).unwrap_or_default().into() }
    }

    /// Returns the pointers that lead to the next value.
    fn here(&self) -> Vec<usize> {
        match self.open.last() {
            Some(open) => open.here.clone(),
            None => (0..self.redaction.0.len()).collect(),
        }
    }

    /// Returns whether the next value is redacted: a pointer ends there, or leads into a text, which may be JSON itself.
    fn is_redacted(&self, first: u8) -> bool {
        let ends_here = |&pointer: &usize| self.redaction.0[pointer].len() == self.open.len();
        match self.open.last() {
            Some(open) => open.here.iter().any(|pointer| first == b'"' || ends_here(pointer)),
            None => (0..self.redaction.0.len()).any(|pointer| ends_here(&pointer)),
        }
    }

    fn enter(&mut self, is_object: bool) -> Result<(), NotJson> {
        if self.open.len() == MAX_LEVELS {
            return Err(NotJson);
        }
        let live = self.here();
        let here = if is_object { Vec::new() } else { self.redaction.step(&live, self.open.len(), "0") };
        self.open.push(Open { is_object, awaits_key: is_object, index: 0, name: "*".to_owned(), live, here });
        Ok(())
    }

    fn enter_key(&mut self, key: &str) -> Result<(), NotJson> {
        // A key may contain escapes: `"\u0065mail"` is `email`.
        let name: String = serde_json::from_str(key).map_err(|_| NotJson)?;
        let depth = self.open.len() - 1;
        if let Some(open) = self.open.last_mut() {
            open.here = self.redaction.step(&open.live, depth, &name);
            open.awaits_key = false;
            open.name = name;
        }
        Ok(())
    }

    fn next_member(&mut self) {
        let depth = self.open.len().saturating_sub(1);
        if let Some(open) = self.open.last_mut() {
            open.awaits_key = open.is_object;
            open.index += 1;
            if !open.is_object {
                open.here = self.redaction.step(&open.live, depth, &open.index.to_string());
            }
        }
    }
}

/// Returns the length of a string with its quotes.
fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn scalar_length(text: &[u8]) -> usize {
    text.iter().take_while(|byte| !matches!(byte, b',' | b'}' | b']') && !byte.is_ascii_whitespace()).count()
}

fn value_length(text: &[u8]) -> usize {
    match text.first() {
        Some(b'"') => string_length(text),
        Some(b'{' | b'[') => {
            let (mut at, mut depth) = (0, 0_usize);
            while let Some(&byte) = text.get(at) {
                match byte {
                    b'"' => {
                        at += string_length(&text[at..]);
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return at;
                }
            }
            text.len()
        }
        _ => scalar_length(text),
    }
}

/// Streams the stored text part by part. `first` is the text of the first [`PART_CHARACTERS`].
///
/// A task reads the parts and sends them in small pieces, so that the connection of a slow client buffers only a few
/// of them. At most eight such tasks run at a time.
///
/// The download is aborted if it takes more than ten minutes, or if the client takes no piece for 30 seconds. It is
/// also aborted if the store fails, or if the letter is deleted or erased between two parts. The client then sees that
/// the text is incomplete.
pub(crate) fn stream(
    access: &AppAccess,
    which: Which,
    id: DeadLetterId,
    download: Turn,
    first: String,
) -> Body {
    let (sender, receiver) = channel(1);
    let (admin, app_id) = (access.state(), access.app_id);
    let whole = async move {
        let _download = download;
        let mut part = first;
        let mut end = PART_CHARACTERS;
        loop {
            send(&sender, &part).await?;
            // A part with fewer bytes than the requested characters is the last one.
            if (part.len() as u64) < PART_CHARACTERS {
                // The text of a letter that was erased between two parts is shorter.
                if end > PART_CHARACTERS {
                    let letter = admin.store.summary(app_id, id).await.map_err(io::Error::other)?;
                    if letter.is_none_or(|letter| letter.payload_kind == Some(PayloadKind::Erased)) {
                        return Err(io::Error::other(Broken));
                    }
                }
                return sender.send(None).await.map_err(io::Error::other);
            }
            let start = end;
            end = start.saturating_add(PART_CHARACTERS);
            drop(part);
            let _turn = admin.turns.take().await.map_err(|_| io::Error::other(Broken))?;
            let text =
                which.of(admin.store.as_ref(), app_id, id, start..end).await.map_err(io::Error::other)?;
            part = text.ok_or_else(|| io::Error::other(Broken))?;
        }
    };
    tokio::spawn(timeout(DOWNLOAD_TIME, whole));
    Body::from_stream(try_unfold(receiver, |mut receiver: Receiver<Option<Bytes>>| async move {
        match receiver.recv().await {
            Some(Some(piece)) => Ok(Some((piece, receiver))),
            Some(None) => Ok(None),
            None => Err(io::Error::other(Broken)),
        }
    }))
}

async fn send(sender: &Sender<Option<Bytes>>, part: &str) -> io::Result<()> {
    for piece in part.as_bytes().chunks(PIECE_BYTES) {
        let piece = Some(Bytes::copy_from_slice(piece));
        timeout(STALL_TIME, sender.send(piece)).await?.map_err(io::Error::other)?;
    }
    Ok(())
}

#[derive(Debug)]
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the payload could not be sent completely")
    }
}

impl std::error::Error for Broken {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn redaction(pointers: &[&str]) -> Redaction {
        Redaction::new(pointers.iter().copied()).unwrap()
    }

    fn text(tokens: &[Token<'_>]) -> String {
        tokens.iter().map(|token| &*token.text).collect()
    }

    #[test]
    fn a_text_that_a_pointer_leads_into_is_redacted() {
        let text = r#"{"user":"{\"email\":\"ada\"}","users":["x",{"email":"ada"},7],"other":"ada"}"#;
        let redacted = redact(text, &redaction(&["/user/email", "/users/*/email"])).unwrap();
        let expected =
            r#"{"user":"[redacted]","users":["[redacted]",{"email":"[redacted]"},7],"other":"ada"}"#;
        assert_eq!(redacted, expected);
    }

    #[test]
    fn values_that_no_pointer_names_stay_byte_for_byte() {
        let nothing = Redaction::default();
        let elsewhere = redaction(&["/nowhere", "/a/b/c/d/e"]);
        for stored in [
            r#"{ "b" : 1.10, "a":18446744073709551616,"a":1e400 , "x":[ ] ,"y":{}, "é\u00e9\"\\":"\"}],:{["}"#,
            "  [1,\t-0.0,null ,true,\n[[[]]]]\r\n",
            "\"text\"",
            "-12.5e+3",
        ] {
            assert_eq!(redact(stored, &nothing).as_deref(), Ok(stored));
            let is_compound = stored.trim_start().starts_with(['{', '[']);
            let expected = if is_compound { Ok(stored.to_owned()) } else { Err(NotJson) };
            assert_eq!(redact(stored, &elsewhere), expected);
        }
    }

    #[test]
    fn a_pointer_redacts_its_value_and_a_star_stands_for_any_key_or_index() {
        let stored = r#"{"customer":{"email":"a@b.c","name":"Ada"},"lines":[{"card":{"no":"4}"},"n":1},{"card":[1,"]"]},7]}"#;
        let shown = |pointers: &[&str]| redact(stored, &redaction(pointers)).unwrap();
        assert_eq!(
            shown(&["/customer/email", "/lines/*/card"]),
            r#"{"customer":{"email":"[redacted]","name":"Ada"},"lines":[{"card":"[redacted]","n":1},{"card":"[redacted]"},"#
                .to_owned()
                + "7]}"
        );
        assert_eq!(shown(&["/lines/1", "/lines/2"]).matches("[redacted]").count(), 2);
        assert_eq!(shown(&["/*/email"]).matches("[redacted]").count(), 1);
        assert_eq!(shown(&["/lines"]), r#"{"customer":{"email":"a@b.c","name":"Ada"},"lines":"[redacted]"}"#);
        assert_eq!(shown(&[""]), REDACTED);
    }

    #[test]
    fn keys_are_compared_as_they_read_and_doubled_ones_are_all_redacted() {
        let stored = r#"{"\u0065mail":1,"email":2,"a/b":3,"c~d":4,"":5}"#;
        let shown = redact(stored, &redaction(&["/email", "/a~1b", "/c~0d", "/"])).unwrap();
        let r = REDACTED;
        assert_eq!(shown, format!(r#"{{"\u0065mail":{r},"email":{r},"a/b":{r},"c~d":{r},"":{r}}}"#));
    }

    #[test]
    fn a_pointer_that_is_too_long_is_not_built() {
        let nothing = Redaction::default();
        let mut walk = Walk::new(r#"{"long":{"key":[7]}}"#, &nothing).unwrap();
        while walk.next().unwrap().is_some_and(|token| token.kind != Kind::Number) {}
        assert_eq!(walk.pointer(11).as_deref(), Some("/long/key/*"));
        assert_eq!(walk.pointer(10), None);
    }

    #[test]
    fn a_text_that_becomes_too_long_is_not_laid_out() {
        let nothing = Redaction::default();
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(pretty(&deep, &nothing, usize::MAX, 30_000).unwrap().is_some());
        assert!(pretty(&deep, &nothing, usize::MAX, 3_000).unwrap().is_none());
        assert!(pretty(&deep, &nothing, 100, 30_000).unwrap().is_none());
    }

    #[test]
    fn a_text_that_is_not_json_or_nests_too_deep_is_an_error() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let nothing = Redaction::default();
        for broken in ["", "{", "{\"a\":}", "[1,]", "nul", "1 2", "'a'", &deep(128), &deep(100_000)] {
            assert_eq!(redact(broken, &nothing), Err(NotJson));
            assert!(pretty(broken, &nothing, usize::MAX, usize::MAX).is_err());
        }
        assert_eq!(redact(&deep(127), &nothing), Ok(deep(127)));
    }

    #[test]
    fn a_text_that_is_no_pointer_is_refused() {
        for bad in ["customer", "/a~2", "/a~", "~0"] {
            assert_eq!(Redaction::new([bad]), Err(BadPointer(bad.to_owned())));
        }
        assert!(Redaction::new(["", "/", "/a//b", "/~0~1"]).is_ok());
    }

    #[test]
    fn a_pretty_payload_has_one_member_a_line_and_marks_redacted_values() {
        let stored = r#"{"a":{"b":[1,2,{}],"c":[]},"d":"x"}"#;
        let shown = pretty(stored, &redaction(&["/d"]), usize::MAX, usize::MAX).unwrap().unwrap();
        let lines = [
            "{",
            r#"  "a": {"#,
            r#"    "b": ["#,
            "      1,",
            "      2,",
            "      {}",
            "    ],",
            r#"    "c": []"#,
            "  },",
            r#"  "d": "[redacted]""#,
            "}",
        ];
        assert_eq!(text(&shown.tokens), lines.join("\n"));
        assert_eq!(shown.redacted, 1);
    }

    #[test]
    fn a_pretty_payload_is_what_serde_json_prints() {
        let mut seed = 7_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        fn value(depth: u32, random: &mut impl FnMut(u64) -> u64) -> serde_json::Value {
            match random(if depth == 0 { 5 } else { 8 }) {
                0 => json!(null),
                1 => json!(random(2) == 0),
                2 => json!(random(1_000_000) as f64 / 64.0),
                3 => json!(random(u64::MAX)),
                4 => json!("\"}],:{[\\ é\n"[..[0, 1, 3, 8][random(4) as usize]].to_owned()),
                5 => (0..random(4)).map(|_| value(depth - 1, random)).collect(),
                _ => {
                    let members = (0..random(4)).map(|n| (format!("k{n}\""), value(depth - 1, random)));
                    serde_json::Value::Object(members.collect())
                }
            }
        }
        for _ in 0..2_000 {
            let value = value(4, &mut random);
            let stored = value.to_string();
            let shown = pretty(&stored, &Redaction::default(), usize::MAX, usize::MAX).unwrap().unwrap();
            assert_eq!(text(&shown.tokens), serde_json::to_string_pretty(&value).unwrap());
        }
    }
}
