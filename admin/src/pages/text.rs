//! Formats texts of people, times and counts for pages.

use std::fmt;

use askama::filters::HtmlSafe;
use chrono::{DateTime, SecondsFormat, Utc};
use dead_letters::{CappedCount, Resolution};

use crate::bulk::Action;

/// Text that others wrote, with hidden characters as escapes. It can neither reverse a line, nor hide a part of
/// itself, nor look like another text. Templates put it between `<bdi>` tags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Text(String);

impl Text {
    /// Returns the text, cut after this many characters.
    pub(crate) fn cut(text: &str, characters: usize) -> Self {
        match text.char_indices().nth(characters) {
            Some((end, _)) => Self::from(format!("{}…", &text[..end])),
            None => Self::from(text),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.replace("\r\n", "\n"))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = 0;
        for (at, hidden) in self.0.match_indices(is_hidden) {
            f.write_str(&self.0[shown..at])?;
            write!(f, "{}", hidden.escape_unicode())?;
            shown = at + hidden.len();
        }
        f.write_str(&self.0[shown..])
    }
}

/// Returns whether the character is a control or one of Unicode's direction, joiner, filler and tag characters. Line
/// feeds and tabs are not hidden.
pub(crate) fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{AD}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{180E}' | '\u{3164}' | '\u{FEFF}'
        | '\u{FFA0}' => true,
        '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' => true,
        '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}' => true,
        _ => c.is_control(),
    }
}

/// An error as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ErrorText {
    /// The first line that is not blank.
    pub(crate) first: Text,
    /// The lines after the first one, unchanged.
    pub(crate) rest: Text,
    /// The lines after the first one, joined into one line.
    pub(crate) brief: Text,
}

impl ErrorText {
    pub(crate) fn new(error: &str) -> Self {
        let error = error.replace("\r\n", "\n");
        let error = error.trim();
        let (first, rest) = error.split_once('\n').unwrap_or((error, ""));
        let lines: Vec<_> = rest.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let first = if first.is_empty() { "No error message" } else { first.trim_end() };
        Self {
            first: first.into(),
            rest: rest.trim_start_matches('\n').into(),
            brief: lines.join(" · ").into(),
        }
    }

    /// Returns the error of a summary, which holds only its beginning.
    pub(crate) fn of_excerpt(excerpt: &str) -> Self {
        const EXCERPT_CHARACTERS: usize = 200;
        match excerpt.chars().count() < EXCERPT_CHARACTERS {
            true => Self::new(excerpt),
            false => Self::new(&format!("{excerpt}…")),
        }
    }
}

/// A time, printed as a `<time>` element in UTC. The script shows it in the browser's zone, or as an age.
///
/// The server never prints an age, so that a page of the same letters has the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) DateTime<Utc>);

impl Time {
    /// Returns the time for a script.
    pub(crate) fn machine(&self) -> String {
        self.0.to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    /// Returns the time to the microsecond, as a form sends it back.
    pub(crate) fn exact(&self) -> String {
        self.0.to_rfc3339_opts(SecondsFormat::Micros, true)
    }

    /// Returns the time without the element, for attributes and commands.
    pub(crate) fn plain(&self) -> impl fmt::Display {
        self.0.format("%-d %b %Y, %H:%M UTC")
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = self.0.to_rfc3339_opts(SecondsFormat::Secs, true);
        let title = self.0.format("%Y-%m-%d %H:%M:%S UTC");
        write!(f, "<time datetime=\"{machine}\" title=\"{title}\">{}</time>", self.plain())
    }
}

impl HtmlSafe for Time {}

/// A count that may be capped: `1,000+`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) count: u64,
    pub(crate) capped: bool,
}

impl Amount {
    pub(crate) fn exactly(count: u64) -> Self {
        CappedCount::from(count).into()
    }

    /// Returns whether the noun after the count is singular.
    pub(crate) fn is_one(&self) -> bool {
        self.count == 1 && !self.capped
    }

    pub(crate) fn is_none(&self) -> bool {
        self.count == 0 && !self.capped
    }

    /// Returns the count with its noun: `1 letter`, `2 letters`.
    pub(crate) fn letters(&self) -> String {
        format!("{self} letter{}", if self.is_one() { "" } else { "s" })
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        CappedCount { count: self.count, capped: self.capped }.fmt(f)
    }
}

impl HtmlSafe for Amount {}

/// Formats a size: `334 B`, `1.2 KB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KB", "MB", "GB", "TB"];
    let mut tenths = bytes.saturating_mul(10);
    let mut unit = "B";
    for next in UNITS {
        if tenths < 10_000 {
            break;
        }
        (tenths, unit) = (tenths / 1_000, next);
    }
    match (unit, tenths % 10) {
        ("B", _) | (_, 0) => format!("{} {unit}", tenths / 10),
        (_, tenth) => format!("{}.{tenth} {unit}", tenths / 10),
    }
}

/// Formats a length of time: `45 seconds`, `31 minutes`.
pub(crate) fn duration(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1, "second"), (60, "minute"), (3_600, "hour"), (86_400, "day")];
    let unit = UNITS.into_iter().rev().find(|(unit, _)| seconds >= 2 * unit).unwrap_or(UNITS[0]);
    let count = (seconds + unit.0 / 2) / unit.0;
    format!("{count} {}{}", unit.1, if count == 1 { "" } else { "s" })
}

/// Returns the resolution in words.
pub(crate) fn resolution_words(resolution: Option<Resolution>) -> &'static str {
    match resolution {
        Some(Resolution::Replayed) => "replayed",
        Some(Resolution::Ignored) => "ignored",
        Some(Resolution::HandledByScript) => "handled by script",
        Some(Resolution::HandlerFailed) => "handler failed",
        // A resolution that this version does not know.
        _ => "closed",
    }
}

/// Returns what a bulk run did with its letters.
pub(crate) fn action_words(action: Action) -> &'static str {
    action.resolution().map_or(action.as_str(), |resolution| resolution_words(Some(resolution)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_shown_as_escapes() {
        let hidden = "a\u{202e}b\u{200b}c\u{1b}[31m\u{0}\u{2066}\u{feff}";
        assert_eq!(Text::from(hidden).to_string(), r"a\u{202e}b\u{200b}c\u{1b}[31m\u{0}\u{2066}\u{feff}");
        assert_eq!(Text::from("größe ≠ 7\tü\nשלום").to_string(), "größe ≠ 7\tü\nשלום");
        assert_eq!(Text::from("a\r\nb\rc").to_string(), "a\nb\\u{d}c");
    }

    #[test]
    fn an_error_is_split_into_its_first_line_with_text_and_the_rest() {
        let error = ErrorText::new("\n  \nHTTP 503 \r\n  at deliver\n\ncaused by: reset\n");
        assert_eq!(error.first.to_string(), "HTTP 503");
        assert_eq!(error.rest.to_string(), "  at deliver\n\ncaused by: reset");
        assert_eq!(error.brief.to_string(), "at deliver · caused by: reset");
        assert_eq!(ErrorText::new(" \n").first.to_string(), "No error message");
    }

    #[test]
    fn an_excerpt_that_was_cut_ends_in_an_ellipsis() {
        assert_eq!(ErrorText::of_excerpt(&"é".repeat(199)).first.to_string(), "é".repeat(199));
        assert_eq!(ErrorText::of_excerpt(&"é".repeat(200)).first.to_string(), "é".repeat(200) + "…");
    }

    #[test]
    fn counts_and_sizes_are_readable() {
        let amounts = [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")];
        for (count, text) in amounts {
            assert_eq!(Amount::exactly(count).to_string(), text);
        }
        assert_eq!(Amount { count: 1_000, capped: true }.letters(), "1,000+ letters");
        assert_eq!(Amount::exactly(1).letters(), "1 letter");
        let lengths = [(1, "1 second"), (119, "119 seconds"), (1_860, "31 minutes"), (7_200, "2 hours")];
        for (seconds, text) in lengths {
            assert_eq!(duration(seconds), text);
        }
        let sizes = [(0, "0 B"), (999, "999 B"), (1_250, "1.2 KB"), (64_000_000, "64 MB")];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
    }
}
