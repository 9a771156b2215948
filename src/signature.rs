//! What errors of one kind have in common.
//!
//! Whoever writes scripts writes their errors, and each is looked at while somebody waits: so by one pass over
//! a bounded beginning, in which no text makes any part be read more than a few times.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Of the rules below. 0 is for signatures that a service made.
pub(crate) const SIGNATURE_VERSION: i16 = 1;

/// In characters.
const MAX_LENGTH: usize = 200;
/// How much of an error is looked at, in bytes.
const MAX_READ: usize = 16 << 10;

/// The first line of `error` that says something, with `#` for what changes from one failure to the next: 200
/// characters at most. What stands behind the first 16 KB does not count.
pub(crate) fn error_signature(error: &str) -> String {
    let beginning = &error[..error.floor_char_boundary(MAX_READ)];
    let line = beginning.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let mut signature = String::with_capacity(Ord::min(line.len(), MAX_LENGTH));
    let mut line = Line { text: line, at: 0, after_word: false, apostrophes: true };
    signature.extend(std::iter::from_fn(|| line.next_part()).take(MAX_LENGTH));
    signature
}

/// Returns the short name of the letters' error group: the first 16 hex digits of SHA-256 over source, op, the
/// script's 16 bytes (none without a script) and signature, each after its length in bytes as a big-endian `u64`.
pub(crate) fn group_key(source: &str, op: &str, script_id: Option<Uuid>, signature: &str) -> String {
    let script_id = script_id.as_ref().map_or(&[][..], |id| id.as_bytes());
    let mut digest = Sha256::new();
    for part in [source.as_bytes(), op.as_bytes(), script_id, signature.as_bytes()] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A line, and how far it was read.
struct Line<'a> {
    text: &'a str,
    at: usize,
    /// Whether a word's character was the last.
    after_word: bool,
    /// Whether a closing apostrophe may follow. Without this each opening one would look for it to the end.
    apostrophes: bool,
}

impl Line<'_> {
    /// The next character, or `#` for all that changes: quoted text, uuids, hex, numbers.
    fn next_part(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        let first = rest.chars().next()?;
        let of_word = is_word(first);
        let variable = match first {
            '"' | '`' => quoted(rest, first),
            '\'' if !self.after_word => self.quoted_by_apostrophes(),
            _ if of_word && !self.after_word => uuid(rest).or_else(|| hex(rest)),
            _ => None,
        };
        let variable = variable.or_else(|| number(rest));
        self.at += variable.unwrap_or(first.len_utf8());
        // What is quoted begins and ends with the quote, all else with a word's character.
        self.after_word = of_word;
        Some(if variable.is_some() { '#' } else { first })
    }

    /// An apostrophe within a word, before or behind a letter, is no quote.
    fn quoted_by_apostrophes(&mut self) -> Option<usize> {
        if !self.apostrophes {
            return None;
        }
        let rest = &self.text[self.at..];
        let closes = |&(at, _): &(usize, &str)| at > 0 && !rest[at + 1..].starts_with(is_word);
        let closing = rest.match_indices('\'').find(closes);
        self.apostrophes = closing.is_some();
        closing.map(|(at, _)| at + 1)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

// Of what begins `text`, the length in bytes.

fn quoted(text: &str, quote: char) -> Option<usize> {
    text[1..].find(quote).map(|at| at + 2)
}

fn uuid(text: &str) -> Option<usize> {
    const LENGTH: usize = 36;
    let fits = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    let uuid = text.get(..LENGTH)?;
    (uuid.bytes().enumerate().all(fits) && !text[LENGTH..].starts_with(is_word)).then_some(LENGTH)
}

/// A word behind `0x`, or one of eight digits or more, or a shorter one that mixes letters and figures.
fn hex(text: &str) -> Option<usize> {
    let word = text.split(|c| !is_word(c)).next()?;
    let all_hex = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_figure = |byte: u8| byte.is_ascii_digit();
    let mixes = || {
        let bytes = word.as_bytes();
        let turn = bytes.iter().position(|&byte| is_figure(byte) != is_figure(bytes[0]));
        turn.is_some_and(|turn| bytes.len() >= turn + 3)
    };
    let prefixed = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"));
    let is_hex = prefixed.is_some_and(all_hex) || all_hex(word) && (word.len() >= 8 || mixes());
    is_hex.then_some(word.len())
}

/// With its decimals, thousands, ports and times: 1,234.5, 10.0.0.7:5432, 10:00:00.
fn number(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let is_figure = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let joins = |at: usize| matches!(bytes.get(at), Some(b'.' | b',' | b':')) && is_figure(at + 1);
    let mut length = 0;
    while is_figure(length) || length > 0 && joins(length) {
        length += 1;
    }
    (length > 0).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_from_one_failure_to_the_next_is_replaced() {
        for (error, signature) in [
            ("", ""),
            ("connection refused", "connection refused"),
            ("timeout after 30s", "timeout after #s"),
            ("smtp: 451 try again in 1,234.5 ms", "smtp: # try again in # ms"),
            ("connect 10.0.0.7:5432 at 10:00:00", "connect # at #"),
            ("no order 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01 here", "no order # here"),
            ("no order 6F1C2A52-6C1E-4A57-9A3E-0F6D2F8B1A01 here", "no order # here"),
            ("at 0x7ffe12ab, commit 3fa2b1c, digest deadbeefcafe", "at #, commit #, digest #"),
            ("a facade decade added nothing", "a facade decade added nothing"),
            (r#"relation "orders_7" of 'shop' in `db` is gone"#, "relation # of # in # is gone"),
            ("can't open 'a file' that isn't there", "can't open # that isn't there"),
            ("'it's broken' they said", "# they said"),
            ("an open \" quote", "an open \" quote"),
            ("node7: disk full", "node#: disk full"),
            ("ORA-00942: missing", "ORA-#: missing"),
            ("first line\r\nsecond line 2", "first line"),
            ("\n  \n  indented\n", "indented"),
            ("größe 5 ≠ 7 \u{FFFD}", "größe # ≠ # \u{FFFD}"),
        ] {
            assert_eq!(error_signature(error), signature);
        }
    }

    #[test]
    fn a_group_key_is_16_hex_digits_and_each_part_has_its_own_place() {
        let script = Some(Uuid::from_u128(1));
        assert_eq!(group_key("orders", "insert", script, "smtp: #"), "947ef56414b56c5d");
        let others = [
            group_key("order", "sinsert", script, "smtp: #"),
            group_key("orders", "insert", None, "smtp: #"),
            group_key("orders", "insert", Some(Uuid::nil()), "smtp: #"),
            group_key("orders", "", None, "insertsmtp: #"),
            group_key("", "orders", None, "insertsmtp: #"),
        ];
        for (at, key) in others.iter().enumerate() {
            assert!(!others[..at].contains(key), "{key}");
        }
    }

    #[test]
    fn it_is_cut_at_200_characters() {
        assert_eq!(error_signature(&"é".repeat(201)), "é".repeat(200));
        // After the replacing, not before it.
        assert_eq!(error_signature(&format!("'{}' is gone", "é".repeat(500))), "# is gone");
    }

    /// So that one of 10 MB takes no longer.
    #[test]
    fn what_stands_behind_the_first_16_kb_is_not_looked_at() {
        let blank = "\n \n".repeat(4_000) + &" ".repeat(5_000);
        assert_eq!(error_signature(&(blank + "too late")), "");
        for beginning in ["x", "é", "7", "'", "\"", "`", "' a", "\" 'a 1", "a'b ", "1a", "deadbeef ", "0x"] {
            let beginning = beginning.repeat(16 << 10);
            let signature = error_signature(&beginning);
            for behind in ["", "'", "\"", "`", " ' \" ` 1 a", "\nsecond line"] {
                assert_eq!(error_signature(&format!("{beginning}{behind}")), signature);
            }
        }
    }

    #[test]
    fn an_apostrophe_that_nothing_closes_is_looked_for_once() {
        let mut line = Line { text: "'a 'b 'c", at: 0, after_word: false, apostrophes: true };
        assert_eq!(line.quoted_by_apostrophes(), None);
        assert!(!line.apostrophes);
        assert_eq!(error_signature("'a 'b 'c"), "'a 'b 'c");
    }
}
