//! Error signatures: what errors of one kind have in common.
//!
//! A script's author writes its errors, and the service computes the signature while it stores the letter. The
//! rules therefore read a bounded part of the text, once. `docs/grouping.md` describes them.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use self::{mask::mask, message::Message};

mod mask;
mod message;
mod words;

/// The version of these rules.
pub(crate) const SIGNATURE_VERSION: i16 = 2;
/// The version of signatures that a service made.
pub(crate) const OWN_SIGNATURE: i16 = 0;
/// The signature of a letter whose content was erased.
pub(crate) const ERASED_SIGNATURE: &str = "(erased)";

/// The most characters of a signature.
const MAX_LENGTH: usize = 200;
/// The most characters of a root cause in a signature.
const MAX_CAUSE: usize = 120;
/// The most characters of a masked text. A text that reaches this length is cut at its end, to [`MAX_LENGTH`]. A
/// shorter one is cut in its middle, because its end names the cause.
const MAX_MASKED: usize = 500;
const CAUSED_BY: &str = " caused by: ";

/// Returns what `error` has in common with errors of the same kind, in at most 200 characters.
pub(crate) fn error_signature(error: &str) -> String {
    let Message { text, cause } = Message::of(error);
    let signature = mask(text, MAX_MASKED);
    let cause = cause.map(|cause| mask(cause, MAX_MASKED)).filter(|cause| !says(&signature, cause));
    let Some(cause) = cause else { return shortened(signature, MAX_LENGTH) };
    let cause = shortened(cause, MAX_CAUSE);
    let room = MAX_LENGTH - CAUSED_BY.len() - cause.chars().count();
    shortened(signature, room) + CAUSED_BY + &cause
}

/// Returns a signature that a service made, shortened to 200 characters in the same way as the rules' signatures.
pub(crate) fn own_signature(signature: String) -> String {
    shortened(signature, MAX_LENGTH)
}

/// Returns the part of `error` that its signature is made of.
pub(crate) fn error_message(error: &str) -> String {
    let Message { text, cause } = Message::of(error);
    let cause = cause.filter(|cause| !text.contains(cause));
    cause.map_or_else(|| text.to_owned(), |cause| format!("{text}{CAUSED_BY}{cause}"))
}

/// Returns the key of the letter's error group: the first 16 hex digits of SHA-256 over source, op, script and
/// signature. Each stands behind its length in bytes, as a big-endian `u64`. The script is its 16 bytes, or nothing.
pub(crate) fn group_key(source: &str, op: &str, script_id: Option<Uuid>, signature: &str) -> String {
    let script_id = script_id.as_ref().map_or(&[][..], |id| id.as_bytes());
    let mut digest = Sha256::new();
    for part in [source.as_bytes(), op.as_bytes(), script_id, signature.as_bytes()] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let first = digest.finalize().first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
    format!("{first:016x}")
}

/// Returns whether the signature contains the cause, or the cause's message without its class.
fn says(signature: &str, cause: &str) -> bool {
    let message = cause.split_once(": ").map_or(cause, |(_, message)| message);
    signature.contains(cause) || message.contains(' ') && signature.contains(message)
}

/// Shortens a text to `max` characters. Cuts its end if it reaches [`MAX_MASKED`], and otherwise its middle.
fn shortened(mut text: String, max: usize) -> String {
    if text.len() <= max {
        return text;
    }
    let length = text.chars().count();
    let place = |character: usize| text.char_indices().nth(character).map(|(at, _)| at);
    if length >= MAX_MASKED {
        if let Some(end) = place(max) {
            text.truncate(end);
        }
    } else if length > max {
        let (start, end) = (place(max / 2), place(length - (max - max / 2 - 1)));
        if let (Some(start), Some(end)) = (start, end) {
            text.replace_range(start..end, "…");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// A line that begins with `= ` is a signature, and the lines below it are errors that have it. `⏎` stands for
    /// a line's end.
    const FAMILIES: &str = include_str!("signature/families.txt");

    fn families() -> impl Iterator<Item = (&'static str, Vec<String>)> {
        FAMILIES.split("\n\n").map(|family| {
            let mut lines = family.lines();
            let signature = lines.next().and_then(|line| line.strip_prefix("= ")).unwrap();
            (signature, lines.map(|line| line.replace('⏎', "\n").replace(r"\u{1b}", "\u{1b}")).collect())
        })
    }

    #[test]
    fn each_family_has_one_signature_and_no_two_families_share_one() {
        let mut wrong = Vec::new();
        let mut seen = HashSet::new();
        for (signature, errors) in families() {
            assert!(!errors.is_empty(), "{signature}");
            if !seen.insert(signature) {
                wrong.push(format!("two families have {signature}"));
            }
            let others = errors.iter().map(|error| (error, error_signature(error)));
            let others = others.filter(|(_, of_error)| of_error != signature);
            wrong.extend(
                others.map(|(error, of_error)| format!("{error}\n  has {of_error}\n  not {signature}")),
            );
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn the_signature_of_a_signature_is_itself() {
        for (signature, _) in families() {
            assert_eq!(error_signature(signature), signature);
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
    fn a_long_signature_keeps_its_beginning_and_its_end() {
        let long = "wait ".repeat(60);
        let signature = error_signature(&format!("{long}refused"));
        assert_eq!(signature.chars().count(), 200);
        assert!(signature.starts_with("wait wait") && signature.ends_with("wait refused"), "{signature}");
        assert_eq!(error_signature(&"é".repeat(201)), format!("{}…{}", "é".repeat(100), "é".repeat(99)));
        // A text that is too long to be masked to its end keeps only its beginning.
        assert_eq!(error_signature(&"é".repeat(501)), "é".repeat(200));
        // Masked text does not count toward the length.
        assert_eq!(error_signature(&format!("'{}' is gone", "é".repeat(500))), "# is gone");
    }

    #[test]
    fn a_long_cause_leaves_room_for_the_error_that_it_caused() {
        let long = "wait ".repeat(60);
        let signature =
            error_signature(&format!("java.lang.Error: {long}\n\tat a.B\nCaused by: x.Y: {long}refused"));
        assert_eq!(signature.chars().count(), 200);
        assert!(
            signature.starts_with("java.lang.Error: wait") && signature.contains(" caused by: x.Y: wait")
        );
        assert!(signature.ends_with("wait refused"), "{signature}");
    }

    #[test]
    fn only_the_first_and_the_last_16_kb_of_an_error_are_read() {
        let frame = "  File \"a.py\", line 1, in f\n";
        let frames = frame.repeat(3_000);
        let traceback = format!("Traceback (most recent call last):\n{frames}KeyError: 'email'");
        assert_eq!(error_signature(&traceback), "KeyError: 'email'");
        let behind = frame.repeat(1_000);
        assert_eq!(error_signature(&format!("{traceback}\n{behind}")), "Traceback (most recent call last):");
        let blank = "\n \n".repeat(40_000);
        assert_eq!(error_signature(&format!("{blank}lost{blank}")), "");
    }

    /// Parts that a careless reader would read again and again, between bars.
    const ADVERSARIAL: &str = "x|é|7|#| |'|\"|`|' a|\" 'a 1|a'b |1a|deadbeef |0x|(|( |()| (1|a:|a:b:|1:|::|:::1|[::1|[|/|/a|\
                               ../|a/b|http://|http://[|a@|@1|\\\"|\\|\u{1b}[|<1|<1>|user=|value (|\n";

    #[test]
    fn no_text_is_read_more_than_a_few_times() {
        for part in ADVERSARIAL.split('|') {
            for behind in ["", "'", "\"", "]", ")", " 1", "\nCaused by: x"] {
                let text = format!("{}{behind}", part.repeat(20_000 / part.len()));
                let steps = mask::steps(&text, MAX_MASKED);
                // For each of the at most 500 written characters, the mask may look for a quote's end once, within
                // 1 KB.
                assert!(steps <= 10 * text.len() + 600 * 1_024, "{part:?}: {steps} for {}", text.len());
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_every_signature_is_bounded(error in "\\PC{0,300}|[ -~\n\t]{0,400}|(\\PC|[a-f0-9'\"`/.:@#(){}<>=-]){0,200}") {
            let signature = error_signature(&error);
            prop_assert!(signature.chars().count() <= 200);
            prop_assert!(!signature.contains(|c: char| c.is_control()));
        }

        #[test]
        fn parts_of_known_errors_in_any_order_do_not_panic(parts in prop::collection::vec(0_usize..1_000, 1..8), cuts in prop::collection::vec(0_usize..200, 8)) {
            let all: Vec<String> = families().flat_map(|(_, errors)| errors).collect();
            let mut error = String::new();
            for (part, cut) in parts.iter().zip(cuts) {
                let text = &all[part % all.len()];
                error.push_str(&text[text.floor_char_boundary(cut)..]);
            }
            prop_assert!(error_signature(&error).chars().count() <= 200);
        }
    }
}
