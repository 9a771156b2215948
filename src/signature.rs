//! What errors of one kind have in common.

use std::sync::LazyLock;

use regex::Regex;

/// In characters.
const MAX_LENGTH: usize = 200;

/// What changes from one failure to the next: quoted text, uuids, hex, numbers.
///
/// - An apostrophe within a word is no quote, hence the `\B`.
/// - Hex without `0x` is a word of eight hex digits or more, or one of four or more that mixes letters and
///   figures.
/// - A number takes its decimals, thousands, ports and times with it: 1,234.5, 10.0.0.7:5432, 10:00:00.
static VARIABLE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let pattern = r#"(?xi)
        "[^"]*" | `[^`]*` | \B'.*?'\B
        | \b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b
        | \b0x[0-9a-f]+\b
        | \b[0-9a-f]{8,}\b
        | \b(?:[a-f]+[0-9]|[0-9]+[a-f])[0-9a-f]{2,}\b
        | [0-9]+(?:[.,:][0-9]+)*
    "#;
    // It always compiles: the tests see to that. Without it each error would be a kind of its own.
    Regex::new(pattern).ok()
});

/// The first line of `error` that says something, with `#` for what changes from one failure to the next: 200
/// characters at most.
pub(crate) fn error_signature(error: &str) -> String {
    let line = error.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let signature = match &*VARIABLE {
        Some(variable) => variable.replace_all(line, "#"),
        None => line.into(),
    };
    signature.chars().take(MAX_LENGTH).collect()
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
    fn it_is_cut_at_200_characters() {
        assert_eq!(error_signature(&"é".repeat(201)), "é".repeat(200));
        // After the replacing, not before it.
        assert_eq!(error_signature(&format!("'{}' is gone", "é".repeat(500))), "# is gone");
    }
}
