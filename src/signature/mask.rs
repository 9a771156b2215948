//! Masks what changes from one failure to the next, in one pass over the tokens. A token is kept or masked as a
//! whole, by its characters and by the word before it.

use super::words::{
    Key, Meaning, follows_user, is_behind_status, is_code_prefix, is_extension, is_home, is_of_date,
    is_of_status, is_of_time, is_term, is_top_level, is_top_level_of_three, is_transparent, is_type, is_unit,
    meaning, plural,
};

/// How many bytes are searched for a quote's end. Without a limit, each unclosed quote would read the rest of the
/// text.
const MAX_QUOTED: usize = 1 << 10;
/// How many searches for an IPv6 address may fail. Each reads up to 48 bytes.
const MAX_IPV6_TRIES: usize = 100;
/// How many quotes are read within one another.
const MAX_DEPTH: usize = 4;

/// Returns `text` with `#` for what changes, and with single blanks, in at most `max` characters.
pub(super) fn mask(text: &str, max: usize) -> String {
    let mut masker = Masker::new(text, max);
    while masker.step() {}
    masker.out.finish()
}

/// Returns how many bytes are read to mask `text`. Bytes that are read again count again.
#[cfg(test)]
pub(super) fn steps(text: &str, max: usize) -> usize {
    let mut masker = Masker::new(text, max);
    while masker.step() {}
    masker.steps.get()
}

// The kinds of characters in a token, as bits of a set.
const LETTER: u16 = 1;
const DIGIT: u16 = 1 << 1;
const DOT: u16 = 1 << 2;
const SLASH: u16 = 1 << 3;
const HYPHEN: u16 = 1 << 4;
const AT: u16 = 1 << 5;
const BACKSLASH: u16 = 1 << 6;
/// `::` between names.
const SCOPE: u16 = 1 << 7;
const URL: u16 = 1 << 8;
const DRIVE: u16 = 1 << 9;
const SIGN: u16 = 1 << 10;
const OTHER: u16 = 1 << 11;

/// The separator between a word and the next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    Blank,
    Colon,
    Equals,
}

#[derive(Debug)]
struct Quote {
    /// The position of the closing quote.
    end: usize,
    out_start: usize,
    mark: Option<usize>,
}

#[derive(Debug)]
struct Masker<'a> {
    text: &'a str,
    at: usize,
    out: Out,
    /// The meaning of the previous word.
    meaning: Meaning,
    gap: Gap,
    /// The end of the last code that was kept.
    code_end: Option<usize>,
    /// How many searches for an IPv6 address may still fail.
    ipv6_tries: usize,
    quotes: Vec<Quote>,
    #[cfg(test)]
    steps: std::cell::Cell<usize>,
}

impl<'a> Masker<'a> {
    fn new(text: &'a str, max: usize) -> Self {
        let text = text.trim();
        Self {
            text,
            at: 0,
            out: Out::new(Ord::min(text.len(), max), max),
            meaning: Meaning::Plain,
            gap: Gap::Blank,
            code_end: None,
            ipv6_tries: MAX_IPV6_TRIES,
            quotes: Vec::new(),
            #[cfg(test)]
            steps: std::cell::Cell::default(),
        }
    }

    /// Counts the bytes that are read, for the tests.
    #[cfg_attr(not(test), allow(unused_variables))]
    fn count(&self, bytes: usize) {
        #[cfg(test)]
        self.steps.set(self.steps.get() + bytes);
    }

    fn byte(&self, at: usize) -> u8 {
        self.text.as_bytes().get(at).copied().unwrap_or_default()
    }

    fn slice(&self, start: usize, end: usize) -> &'a str {
        self.text.get(start..end).unwrap_or_default()
    }

    /// Returns the text before the token that was just read.
    fn text_before(&self, token: &str) -> &'a str {
        self.slice(0, self.at - token.len())
    }

    fn char(&self, at: usize) -> char {
        self.text.get(at..).and_then(|rest| rest.chars().next()).unwrap_or_default()
    }

    fn is_word_at(&self, at: usize) -> bool {
        is_word(self.byte(at)) || self.byte(at) >= 0x80 && self.char(at).is_alphanumeric()
    }

    fn follows_word(&self) -> bool {
        let before = self.at.checked_sub(1).map(|before| self.byte(before)).unwrap_or_default();
        is_word(before)
            || before >= 0x80 && self.slice(0, self.at).chars().next_back().is_some_and(char::is_alphanumeric)
    }

    fn follows_blank(&self) -> bool {
        self.at.checked_sub(1).is_none_or(|before| self.byte(before) <= b' ')
    }

    /// Reads the next token. Returns false at the end of the text, or if the output is full.
    fn step(&mut self) -> bool {
        if self.at >= self.text.len() || self.out.is_full() {
            return false;
        }
        let byte = self.byte(self.at);
        let next = self.byte(self.at + 1);
        self.count(1);
        match byte {
            _ if is_word(byte) => self.token(),
            b'\x1b' if next == b'[' => self.escape_sequence(),
            0..=b' ' | 0x7f => self.blank(),
            b'"' | b'\'' | b'`' => self.quote(false),
            b'\\' if matches!(next, b'"' | b'\'' | b'`') => {
                self.at += 1;
                self.quote(true);
            }
            b'/' if is_word(next) || matches!(next, b'.' | b'#' | b'$' | b'{') => self.token(),
            b'.' if next == b'/' || next == b'.' && self.byte(self.at + 2) == b'/' => self.token(),
            b'~' if next == b'/' => self.token(),
            b'-' | b'+' if next.is_ascii_digit() && !self.follows_word() => self.token(),
            b'<' | b'>' | b'~' if next.is_ascii_digit() && self.follows_blank() && !self.is_in_brackets() => {
                self.at += 1
            }
            b'[' if self.bracketed_ipv6() => {}
            b'(' if self.parenthesized_value() => {}
            b'$' if next.is_ascii_digit() => self.at += 1,
            b'#' if !self.follows_word() || self.out.ends_with_mask() => {
                self.at += 1;
                self.mask();
            }
            b':' if next == b':' && !self.follows_word() && self.ipv6(self.at) => {}
            0x80.. => self.beyond_ascii(),
            _ => self.punctuation(byte),
        }
        true
    }

    fn blank(&mut self) {
        if self.gap == Gap::Equals && self.byte(self.at.saturating_sub(1)) == b'=' {
            let before = self.at.checked_sub(2).map(|before| self.byte(before)).unwrap_or_default();
            // In `ruser= rhost=…` the first name has no value.
            if is_word(before) {
                self.meaning = Meaning::Plain;
            }
        }
        self.at += 1;
        self.out.blank();
    }

    /// Skips an escape sequence, such as a terminal's color.
    fn escape_sequence(&mut self) {
        self.at += 2;
        while matches!(self.byte(self.at), b'0'..=b'?') {
            self.at += 1;
        }
        if self.byte(self.at).is_ascii_alphabetic() {
            self.at += 1;
        }
    }

    fn beyond_ascii(&mut self) {
        let c = self.char(self.at);
        match c {
            _ if c.is_alphanumeric() => self.token(),
            '“' | '„' | '‘' | '«' => self.quote(false),
            _ if c.is_whitespace() => {
                self.at += c.len_utf8();
                self.out.blank();
            }
            '€' | '£' | '¥' if self.byte(self.at + c.len_utf8()).is_ascii_digit() => {
                self.at += c.len_utf8()
            }
            _ => {
                self.at += c.len_utf8();
                self.out.char(c);
            }
        }
    }

    fn punctuation(&mut self, byte: u8) {
        self.at += 1;
        match byte {
            b':' => self.gap = Gap::Colon,
            b'=' => self.gap = Gap::Equals,
            b'(' | b'[' | b'{' | b'<' | b'-' | b'*' | b'@' | b'#' => {}
            _ => self.meaning = Meaning::Plain,
        }
        match byte {
            b'(' => self.out.open(),
            b')' => self.out.close(),
            b'.' | b',' | b':' | b'/' | b'-' | b'+' | b'|' | b'~' | b'*' => self.out.separator(byte),
            _ => self.out.char(char::from(byte)),
        }
    }

    fn is_in_brackets(&self) -> bool {
        let rest = self.text.as_bytes().get(self.at + 1..).unwrap_or_default();
        let end = rest.iter().take(32).position(|byte| !byte.is_ascii_digit() && *byte != b'.');
        self.byte(self.at) == b'<' && end.is_some_and(|end| rest.get(end) == Some(&b'>'))
    }

    // Keeping and masking.

    fn keep(&mut self, text: &str) {
        self.out.word(text);
    }

    fn keep_code(&mut self, text: &str) {
        self.out.word(text);
        self.after_value();
        self.code_end = Some(self.at);
    }

    fn mask(&mut self) {
        self.out.mask();
        self.after_value();
    }

    /// Masks a number with its unit. If a word follows that is counted, keeps its plural.
    fn mask_number(&mut self) {
        self.mask();
        if self.byte(self.at) == b'%' {
            self.at += 1;
        }
        let start = self.at + usize::from(self.byte(self.at) == b' ');
        let word = self.next_word(start);
        let end = start + word.len();
        let goes_on = match self.byte(end) {
            b'-' | b'.' | b'_' | b'/' | b':' => self.is_word_at(end + 1),
            _ => self.is_word_at(end),
        };
        if !word.is_empty() && !goes_on && is_unit(word) {
            self.at = end;
            if self.slice(end, end + 3) == "(s)" {
                self.at += 3;
            }
        } else if !word.is_empty()
            && !goes_on
            && let Some(plural) = plural(word)
        {
            self.at = end;
            self.out.blank();
            self.keep(plural);
            self.mean(plural, Key::of(plural));
        }
    }

    fn after_value(&mut self) {
        self.meaning = Meaning::Plain;
        self.gap = Gap::Blank;
    }

    /// Returns the ASCII letters at `start`, at most 24.
    fn next_word(&self, start: usize) -> &'a str {
        let rest = self.text.as_bytes().get(start..).unwrap_or_default();
        let length = rest.iter().take(24).take_while(|byte| byte.is_ascii_alphabetic()).count();
        self.slice(start, start + length)
    }

    // Tokens.

    fn token(&mut self) {
        let start = self.at;
        if self.is_ipv6_like(start) && self.ipv6(start) {
            return;
        }
        let (end, class) = self.scan(start);
        let is_named =
            self.meaning == Meaning::Id && self.gap != Gap::Blank && class & (LETTER | DIGIT) != LETTER;
        if is_named || self.slice(start, start + 4) == "arn:" {
            self.at = Ord::max(self.value_end(start), start + 1);
            return self.mask();
        }
        let token = self.slice(start, end);
        self.at = Ord::max(end, start + 1);
        // A status before a hyphen is kept, also in each line of a longer answer: `550-5.1.1 no such user`.
        if class & (LETTER | DIGIT | HYPHEN) == LETTER | DIGIT | HYPHEN
            && is_status(self.slice(start, start + 3))
            && self.byte(start + 3) == b'-'
            && self.out.is_at_clause()
        {
            self.at = start + 3;
            return self.keep_code(self.slice(start, start + 3));
        }
        self.classify(token, class);
        // The padding of base64 belongs to the masked token.
        if token.len() >= 16 && self.byte(self.at) == b'=' && self.out.ends_with_mask() {
            let padding = if self.byte(self.at + 1) == b'=' { 2 } else { 1 };
            if !self.is_word_at(self.at + padding) {
                self.at += padding;
            }
        }
    }

    /// Returns the end of the token that begins at `start`, and the kinds of its characters.
    fn scan(&self, start: usize) -> (usize, u16) {
        let bytes = self.text.as_bytes();
        let mut at = start;
        let mut class = 0;
        while let Some(&byte) = bytes.get(at) {
            let next = self.byte(at + 1);
            class |= match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'_' => LETTER,
                b'0'..=b'9' => DIGIT,
                0x80.. => {
                    let c = self.char(at);
                    if !c.is_alphanumeric() {
                        break;
                    }
                    at += c.len_utf8() - 1;
                    LETTER
                }
                b'-' | b'+' if at == start => SIGN,
                b'/' if is_word(next) || matches!(next, b'.' | b'-' | b'#' | b'$' | b'@' | b'~' | b'{') => {
                    SLASH
                }
                b'.' if is_word(next) || matches!(next, b'/' | b'.') && class & !DOT == 0 => DOT,
                b'~' if at == start => SLASH,
                b'-' if is_word(next) || next == b'#' => HYPHEN,
                b'+' | b'$' if is_word(next) => OTHER,
                b'@' if is_word(next) || next == b'#' => AT,
                b'#' if matches!(self.byte(at.wrapping_sub(1)), b'/' | b'@' | b'-')
                    || is_letter(next) && at > start =>
                {
                    OTHER
                }
                b'{' | b'}' if class & SLASH > 0 => OTHER,
                b'\\' if is_letter(next) && class & LETTER > 0 || is_word(next) && class & DRIVE > 0 => {
                    BACKSLASH
                }
                b':' if next == b'/'
                    && self.byte(at + 2) == b'/'
                    && class & LETTER > 0
                    && at < start + 32 =>
                {
                    return (self.url_end(at + 3), URL);
                }
                b':' if next == b':' && class & LETTER > 0 && is_letter(self.byte(at + 2)) => {
                    at += 1;
                    SCOPE
                }
                b':' if at == start + 1 && class == LETTER && matches!(next, b'\\' | b'/') => DRIVE,
                _ => break,
            };
            at += 1;
        }
        self.count(at - start);
        (at, class)
    }

    fn value_end(&self, start: usize) -> usize {
        let rest = self.text.as_bytes().get(start..).unwrap_or_default();
        let ends = |byte: &u8| byte.is_ascii_whitespace() || b"\"'`,;()[]{}<>".contains(byte);
        let length = rest.iter().take_while(|byte| !ends(byte)).count();
        self.count(length);
        start + self.slice(start, start + length).trim_end_matches(['.', ':', '!', '?']).len()
    }

    fn url_end(&self, start: usize) -> usize {
        let rest = self.text.as_bytes().get(start..).unwrap_or_default();
        let bracket = if rest.first() == Some(&b'[') {
            rest.iter().take(64).position(|&byte| byte == b']')
        } else {
            None
        };
        let from = bracket.map_or(0, |at| at + 1);
        let ends = |byte: &u8| *byte <= b' ' || b"\"'`<>()[]|\\^".contains(byte);
        let mut length =
            from + rest.get(from..).unwrap_or_default().iter().take_while(|byte| !ends(byte)).count();
        self.count(length);
        while length > 0
            && matches!(rest.get(length - 1), Some(b'.' | b',' | b':' | b';' | b'!' | b'?' | b'/' | b'}'))
        {
            length -= 1;
        }
        start + length
    }

    fn classify(&mut self, token: &str, class: u16) {
        match class {
            LETTER => self.word(token),
            _ if class & URL > 0 => self.url(token),
            _ if class & AT > 0 => self.address(token),
            _ if class & (SLASH | BACKSLASH | DRIVE) > 0 => self.path(token, class),
            _ if class & LETTER == 0 => self.number(token, class),
            _ if class & DIGIT == 0 => self.name(token, class),
            _ => self.mixed(token, class),
        }
    }

    /// Reads a token of letters alone.
    fn word(&mut self, word: &str) {
        let key = Key::of(word);
        let first = word.as_bytes().first().copied().unwrap_or_default();
        let masked = match self.meaning {
            Meaning::User => self.gap == Gap::Equals || !follows_user(key),
            Meaning::Account => {
                !follows_user(key) && !matches!(word, "user" | "users" | "invalid" | "illegal")
            }
            Meaning::Host => !follows_user(key) && !word.starts_with(|c: char| c.is_ascii_uppercase()),
            Meaning::Peer => self.is_before_port(),
            Meaning::Id if self.gap == Gap::Equals => true,
            Meaning::Id if self.gap == Gap::Colon => {
                word.len() >= 8 && !word.bytes().any(|byte| byte.is_ascii_lowercase())
            }
            _ => false,
        };
        let masked = masked
            || first.is_ascii_uppercase() && self.is_of_date(word)
            || matches!(first, b'A'..=b'Z' | b'a' | b'p')
                && word.len() <= 4
                && is_of_time(word)
                && self.out.may_merge()
            || word.len() >= 8 && is_random(word)
            || word == "localhost";
        if masked {
            return self.mask();
        }
        self.keep(word);
        self.mean(word, key);
    }

    /// Returns whether a port follows, as in `redis:6379`.
    fn is_before_port(&self) -> bool {
        let rest = self.text.as_bytes().get(self.at + 1..).unwrap_or_default();
        let digits = rest.iter().take(6).take_while(|byte| byte.is_ascii_digit()).count();
        self.byte(self.at) == b':' && (2..=5).contains(&digits)
    }

    fn mean(&mut self, word: &str, key: Key) {
        let before = self.meaning;
        self.meaning = match meaning(word, key) {
            _ if before == Meaning::ForUser && word == "for" => Meaning::Account,
            _ if matches!(before, Meaning::ForUser | Meaning::User)
                && matches!(word, "failed" | "denied" | "rejected") =>
            {
                Meaning::ForUser
            }
            _ if before == Meaning::Name && matches!(word, "named" | "name") => before,
            _ if before == Meaning::Qualifier && matches!(word, "state" | "State" | "number") => {
                Meaning::Code
            }
            _ if before == Meaning::Value && word == "is" => before,
            _ if matches!(before, Meaning::Code | Meaning::Error | Meaning::Reason)
                && is_transparent(word) =>
            {
                before
            }
            meaning => meaning,
        };
        self.gap = Gap::Blank;
    }

    /// Returns whether the word is the name of a month or a day beside a number.
    fn is_of_date(&self, word: &str) -> bool {
        if !is_of_date(word) {
            return false;
        }
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let gap =
            rest.iter().take(2).take_while(|byte| matches!(byte, b' ' | b',' | b'.' | b'-' | b'/')).count();
        let next = self.at + gap;
        self.out.may_merge()
            || gap > 0 && (matches!(self.byte(next), b'0'..=b'9' | b'#') || is_of_date(self.next_word(next)))
    }

    /// Reads a token with dots, hyphens and the like, but without digits.
    fn name(&mut self, token: &str, class: u16) {
        let is_masked = class & DOT > 0 && self.is_host(token)
            || class & HYPHEN > 0 && is_pod(token)
            || matches!(self.meaning, Meaning::User | Meaning::Account | Meaning::Host)
            || self.meaning == Meaning::Peer && self.is_before_port()
            || token.len() >= 8 && is_random(token);
        if is_masked {
            return self.mask();
        }
        self.keep(token);
        let last = token.rsplit(['.', '-', ':', '$', '#', '\\']).next().unwrap_or_default();
        self.mean(last, Key::of(last));
    }

    fn mixed(&mut self, token: &str, class: u16) {
        let last = || token.rsplit(['.', ':', '$']).next().unwrap_or_default();
        let is_class = || {
            let last = last();
            last.starts_with(|c: char| c.is_ascii_uppercase())
                && last.bytes().any(|byte| byte.is_ascii_lowercase())
                && !is_dense(token)
                && !token.split(['.', ':']).any(|label| label.starts_with(|c: char| c.is_ascii_digit()))
        };
        match self.meaning {
            Meaning::Code if is_code(token) => return self.keep_code(token),
            // Codes: `error 0x80004005`, and OpenSSL's `error:0A000086:`. Not a code: `error: A17 is gone`.
            Meaning::Error
                if is_code(token) && (self.gap != Gap::Colon || self.text_before(token).ends_with(':')) =>
            {
                return self.keep_code(token);
            }
            _ => {}
        }
        let is_kept = is_term(token)
            || token.ends_with("Exception")
            || token.ends_with("Error")
            || class & (DOT | SCOPE) > 0 && is_class()
            || class & SCOPE > 0 && class & OTHER == 0
            || class & DOT > 0 && is_source(token)
            || class & HYPHEN > 0 && token.split_once('-').is_some_and(|(prefix, _)| is_code_prefix(prefix));
        if is_kept {
            self.keep(token);
            let last = last();
            self.mean(last, Key::of(last));
        } else {
            self.mask();
        }
    }

    fn number(&mut self, token: &str, class: u16) {
        if self.keeps_number(token, class) { self.keep_code(token) } else { self.mask_number() }
    }

    fn keeps_number(&self, token: &str, class: u16) -> bool {
        let start = self.at - token.len();
        let between = self.code_end.map(|end| self.slice(end, start));
        if class & DOT > 0 {
            // A status with an enhanced code: `550 5.1.1`.
            let enhanced = token
                .split_once('-')
                .map_or(token, |(status, enhanced)| if is_status(status) { enhanced } else { token });
            let is_first = self.out.is_at_clause() && enhanced.len() < token.len()
                || matches!(self.out.last_visible(), b'\'' | b'"') && self.byte(self.at) == b' ';
            return is_enhanced(enhanced)
                && (is_first || self.meaning == Meaning::Code || matches!(between, Some(" " | "-")));
        }
        let digits = token.trim_start_matches(['-', '+']);
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return false;
        }
        let is_short = digits.len() <= 5 || digits.len() < token.len() && digits.len() <= 10;
        let is_status = is_status(token);
        let is_alone = || {
            let before = start.checked_sub(2).map(|at| self.byte(at)).unwrap_or(b' ');
            let follows_mask = self.out.open.is_some_and(|(_, mark)| mark.is_some());
            self.byte(start.wrapping_sub(1)) == b'('
                && self.byte(self.at) == b')'
                && before == b' '
                && !follows_mask
        };
        match self.meaning {
            Meaning::Code => return is_short,
            Meaning::Status if token.len() == 3 => return true,
            Meaning::Error if self.gap != Gap::Colon => return is_short && !self.is_before_unit(),
            Meaning::Error if is_status => return !self.is_before_unit(),
            _ => {}
        }
        // A code in brackets behind a code: `SQLSTATE[HY000] [2002]`, `ERROR 1062 (23000)`.
        if matches!(between, Some("] [" | "][" | " [" | " (" | "] (")) && is_short {
            return true;
        }
        is_status
            && (is_of_status(self.next_word(self.at + 1))
                || is_alone()
                || self.out.is_at_clause() && self.is_before_text()
                || self.meaning == Meaning::Answer && self.is_before_preposition())
    }

    fn is_before_unit(&self) -> bool {
        is_unit(self.next_word(self.at + 1))
    }

    /// Returns whether the status that ends here begins an answer: `: 550 User unknown`, `: 404 (Not Found)`.
    fn is_before_text(&self) -> bool {
        let next = self.byte(self.at + 1);
        let is_first = self.out.is_empty() || self.meaning == Meaning::Answer;
        match self.byte(self.at) {
            b' ' => {
                next == b'('
                    || (next.is_ascii_uppercase() || next.is_ascii_lowercase() && is_first)
                        && !self.is_before_unit()
                    || matches!(next, b'2' | b'4' | b'5') && self.byte(self.at + 2) == b'.'
            }
            b'-' => true,
            // Python's SMTP errors: `(550, b'5.1.1 …')`.
            b',' => {
                self.out.last_visible() == b'('
                    && matches!(self.slice(self.at, self.at + 3), ", b" | ", '" | ", \"")
            }
            _ => false,
        }
    }

    fn is_before_preposition(&self) -> bool {
        if self.byte(self.at) != b' ' {
            return true;
        }
        let word = self.next_word(self.at + 1);
        word.is_empty() && !self.is_word_at(self.at + 1) || is_behind_status(word)
    }

    fn is_host(&self, token: &str) -> bool {
        let mut labels = token.rsplit('.');
        let last = labels.next().unwrap_or_default();
        let others = labels.count();
        let first = token.split('.').next().unwrap_or_default();
        // The name of a package: `org.apache.http.client`.
        if matches!(first, "com" | "org" | "net" | "io" | "java" | "javax" | "de" | "edu") {
            return false;
        }
        let has_port = self.byte(self.at) == b':' && self.byte(self.at + 1).is_ascii_digit();
        let second = token.rsplit('.').nth(1).unwrap_or_default();
        let is_country = last.len() == 2
            && others >= 2
            && matches!(second, "edu" | "com" | "co" | "net" | "org" | "ac" | "gov" | "or" | "ne");
        is_country
            || is_top_level(last)
            || is_top_level_of_three(last) && (others >= 2 || has_port)
            || has_port && others >= 2 && !is_extension(last)
    }

    fn address(&mut self, token: &str) {
        let Some((name, domain)) = token.rsplit_once('@') else { return self.mask() };
        // A Java object: `org.acme.Task@7317849d`.
        let is_hash = domain == "#"
            || domain.len() >= 5
                && domain.bytes().all(|byte| byte.is_ascii_hexdigit())
                && domain.bytes().any(|byte| byte.is_ascii_digit());
        if is_hash && name.bytes().all(|byte| !byte.is_ascii_digit() && byte != b'@') {
            self.out.word(name);
            self.out.word("@");
        }
        self.mask();
    }

    fn url(&mut self, token: &str) {
        let Some((scheme, rest)) = token.split_once("://") else { return self.mask() };
        self.out.word(scheme);
        self.out.word("://");
        self.out.mask();
        if let Some((_, path)) = rest.split_once('/') {
            self.segments(path, 6, false);
        }
        self.after_value();
    }

    /// Writes the segments of a path that are kept, and `#` for the others.
    fn segments(&mut self, path: &str, depth: usize, is_file: bool) {
        let path = path.split(['?', ';', '&', '=']).next().unwrap_or_default();
        let mut is_name = false;
        for (at, segment) in path.split(['/', '\\']).filter(|segment| !segment.is_empty()).enumerate() {
            let is_kept = at < depth && !is_name && self.is_constant(segment, is_file);
            self.out.separator(b'/');
            if is_kept {
                self.out.word(segment)
            } else {
                self.out.mask()
            }
            if at >= depth {
                break;
            }
            is_name = is_home(segment);
        }
    }

    fn is_constant(&self, segment: &str, is_file: bool) -> bool {
        let fits = |byte: u8| is_letter(byte) || byte == b'-' || byte == b'.' && is_file;
        let is_version = || {
            segment
                .strip_prefix('v')
                .is_some_and(|digits| digits.len() < 3 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        };
        segment.len() <= 32
            && (segment.bytes().all(fits) && !is_random(segment) && !is_pod(segment) || is_version())
    }

    fn path(&mut self, token: &str, class: u16) {
        let first = token.as_bytes().first().copied().unwrap_or_default();
        let last = token.rsplit(['/', '\\']).next().unwrap_or_default();
        let is_absolute = matches!(first, b'/' | b'.' | b'~') || class & DRIVE > 0;
        let is_url =
            self.meaning == Meaning::Method || token.starts_with("/api/") || token.starts_with("/v1/");
        if is_source(last) {
            let name = if is_absolute { last } else { token };
            self.keep(name);
            return self.after_value();
        }
        if is_absolute {
            let path = token.split_once(['/', '\\']).map_or(token, |(_, path)| path);
            self.segments(path, if is_url { 6 } else { 2 }, !is_url);
            // The query of a URL and a final slash are skipped.
            if self.byte(self.at) == b'?' && self.is_word_at(self.at + 1) {
                self.at = self.url_end(self.at);
            } else if self.byte(self.at) == b'/' {
                self.at += 1;
            }
            return self.after_value();
        }
        if class & SLASH == 0 {
            // A PHP class: `App\Models\Order`.
            let is_class = class & DIGIT == 0 || last.starts_with(|c: char| c.is_ascii_uppercase());
            if is_class {
                self.keep(token);
                self.mean(last, Key::of(last));
            } else {
                self.mask();
            }
            return;
        }
        if let Some(version) = token.strip_prefix("HTTP/")
            && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        {
            self.keep(token);
            self.meaning = Meaning::Status;
            self.gap = Gap::Blank;
            return;
        }
        if token.len() >= 24 && class & DIGIT > 0 && is_dense(token) {
            return self.mask();
        }
        // A host and its address, as Java prints them: `db/10.0.0.7`.
        if last.bytes().filter(|byte| *byte == b'.').count() == 3
            && last.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        {
            return self.mask();
        }
        // Each segment is read as a token of its own: `orders/17`, `12/Mar/2024`, `linux/amd64`.
        let end = self.at;
        let mut start = end - token.len();
        for segment in token.split('/') {
            if start > end - token.len() {
                self.out.separator(b'/');
            }
            self.at = start + segment.len();
            start = self.at + 1;
            let class = class_of(segment);
            if !segment.is_empty() {
                self.classify(segment, class);
            }
        }
        self.at = Ord::max(end, self.at);
    }

    /// Returns whether one to four hexadecimal digits before a colon begin at `start`.
    fn is_ipv6_like(&self, start: usize) -> bool {
        let bytes = self.text.as_bytes().get(start..).unwrap_or_default();
        let length = bytes.iter().take(5).take_while(|byte| byte.is_ascii_hexdigit()).count();
        (1..=4).contains(&length) && bytes.get(length) == Some(&b':')
    }

    fn bracketed_ipv6(&mut self) -> bool {
        let start = self.at + 1;
        let is_address = (self.byte(start) == b':' || self.is_ipv6_like(start)) && self.ipv6(start);
        if is_address && self.byte(self.at) == b']' {
            self.at += 1;
        }
        is_address
    }

    /// Masks an IPv6 address, or the address of a network card.
    fn ipv6(&mut self, start: usize) -> bool {
        if self.ipv6_tries == 0 {
            return false;
        }
        let bytes = self.text.as_bytes().get(start..).unwrap_or_default();
        let fits = |byte: &&u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
        let length = bytes.iter().take(48).take_while(fits).count();
        self.count(length);
        let address = self.slice(start, start + length).trim_end_matches([':', '.']);
        let has_digit = address.bytes().any(|byte| byte.is_ascii_digit());
        let mut groups = 0;
        let (mut short, mut pairs) = (true, true);
        for group in address.split(':') {
            groups += 1;
            // A group of five digits is a port.
            short &= group.len() <= 4
                || group.contains('.')
                || group.len() == 5 && group.bytes().all(|byte| byte.is_ascii_digit());
            pairs &= group.len() == 2;
        }
        let is_address = has_digit
            && short
            && groups >= 3
            && (address.contains("::") || groups == 8 || groups == 6 && pairs)
            && !self.is_word_at(start + address.len());
        if is_address {
            self.at = start + address.len();
            if self.byte(self.at) == b'%' {
                self.at += 1;
                self.at = self.scan(self.at).0;
            }
            self.mask();
        } else {
            self.ipv6_tries -= 1;
        }
        is_address
    }

    /// Masks a value in parentheses: `VALUES (17, 'Ann')`, `Key (email)=(eve)`.
    fn parenthesized_value(&mut self) -> bool {
        if self.meaning != Meaning::Value && !self.slice(0, self.at).ends_with(")=") {
            return false;
        }
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let mut depth = 0_usize;
        let end = rest.iter().take(MAX_QUOTED).position(|byte| {
            match byte {
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        self.count(end.unwrap_or(MAX_QUOTED));
        if let Some(end) = end {
            self.at += end + 1;
            self.mask();
        }
        end.is_some()
    }

    // Quotes.

    fn quote(&mut self, escaped: bool) {
        let c = self.char(self.at);
        while self.quotes.last().is_some_and(|quote| quote.end < self.at) {
            self.quotes.pop();
        }
        if self.quotes.last().is_some_and(|quote| quote.end == self.at) {
            self.at += c.len_utf8();
            if let Some(quote) = self.quotes.pop() {
                self.out.end_quote(&quote, c);
            }
            return;
        }
        let is_apostrophe = c == '\'' && self.follows_word();
        let end = if is_apostrophe { None } else { self.quote_end(c, escaped) };
        let Some(end) = end else {
            self.at += c.len_utf8();
            return self.out.char(c);
        };
        let start = self.at + c.len_utf8();
        let content = self.slice(start, end);
        if self.quotes.len() < MAX_DEPTH && self.is_text(content, start, end) {
            let quote = Quote {
                end: if escaped { end + 1 } else { end },
                out_start: self.out.text.len(),
                mark: self.out.mark,
            };
            self.quotes.push(quote);
            self.out.char(c);
            self.at = start;
        } else {
            self.at = end + usize::from(escaped);
            self.at += self.char(self.at).len_utf8();
            self.mask();
        }
    }

    /// Returns the end of the text that the quote at `self.at` opens: the position of the closing quote, or of its
    /// backslash.
    fn quote_end(&self, quote: char, escaped: bool) -> Option<usize> {
        let start = self.at + quote.len_utf8();
        let outer = self.quotes.last().map_or(self.text.len(), |quote| quote.end);
        let limit = Ord::min(outer, self.text.floor_char_boundary(start.saturating_add(MAX_QUOTED)));
        let content = self.slice(start, limit);
        let closing = match quote {
            '“' => Some('”'),
            '„' => Some('“'),
            '‘' => Some('’'),
            '«' => Some('»'),
            _ => None,
        };
        let end = match closing {
            Some(closing) => content.find(closing),
            None => self.ascii_quote_end(content, start, quote, escaped),
        };
        self.count(end.unwrap_or(content.len()));
        end.map(|end| start + end)
    }

    fn ascii_quote_end(&self, content: &str, start: usize, quote: char, escaped: bool) -> Option<usize> {
        let bytes = content.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if byte == b'\\' {
                let next = bytes.get(at + 1).copied().unwrap_or_default();
                if escaped && char::from(next) == quote {
                    return Some(at);
                }
                at += 2;
                continue;
            }
            let closes = match quote {
                '\'' if bytes.first() == Some(&b'[') => {
                    byte == b'\'' && bytes.get(at.wrapping_sub(1)) == Some(&b']')
                }
                '\'' => byte == b'\'' && at > 0 && !self.is_word_at(start + at + 1),
                '`' => byte == b'`' || byte == b'\'',
                _ => byte == b'"',
            };
            if closes {
                return (!escaped).then_some(at);
            }
            at += 1;
        }
        None
    }

    /// Returns whether the quoted text is read like the text around it, instead of being masked as one value.
    fn is_text(&self, content: &str, start: usize, end: usize) -> bool {
        let before = |back: usize| self.at.checked_sub(back).map(|at| self.byte(at)).unwrap_or_default();
        let is_key = || {
            let behind = self.slice(end, end + 4).trim_start_matches(['\\', '"', '\'', ' ']);
            behind.starts_with(':') && matches!(self.out.last_visible(), b'{' | b',')
        };
        if is_key() {
            return true;
        }
        match self.meaning {
            Meaning::Value | Meaning::User | Meaning::Id => return false,
            _ => {}
        }
        let is_call = before(1) == b'(' && is_word(before(2));
        if content.starts_with("['") {
            return true;
        }
        if meaning(self.next_word(start), Key::of(self.next_word(start))) == Meaning::Method
            && content.contains(" /")
        {
            return true;
        }
        let (mut words, mut others) = (0, 0);
        for token in content.split_ascii_whitespace() {
            let is_word = token.len() > 1 && token.bytes().all(|byte| !byte.is_ascii_digit() && byte != b'#');
            if is_word { words += 1 } else { others = 1 }
        }
        let is_reason = is_call
            || matches!(self.meaning, Meaning::Reason | Meaning::Code | Meaning::Error | Meaning::Answer);
        match words + others {
            0 => false,
            1 if self.byte(self.at) == b'`' => {
                content.bytes().all(|byte| !byte.is_ascii_digit() && byte != b'#')
            }
            1 => self.is_text_word(content.trim(), start, end),
            2 => words > 0 && is_reason || words == 2 && is_sentence(content),
            _ => words > 1,
        }
    }

    fn is_text_word(&self, word: &str, start: usize, end: usize) -> bool {
        let bytes = word.as_bytes();
        let is_letters =
            bytes.iter().all(|&byte| is_letter(byte) || matches!(byte, b'.' | b':' | b'-' | b'$' | b'\\'));
        let is_letters = is_letters && bytes.iter().any(|&byte| is_letter(byte));
        match self.meaning {
            Meaning::Name | Meaning::Reason | Meaning::Error if is_letters => return true,
            Meaning::Code => return is_letters || is_code(word),
            _ => {}
        }
        let is_snake =
            || bytes.len() > 4 && bytes.get(1..bytes.len() - 1).is_some_and(|bytes| bytes.contains(&b'_'));
        let is_camel = || {
            let turns = bytes
                .windows(2)
                .filter(|pair| matches!(pair, [a, b] if a.is_ascii_lowercase() && b.is_ascii_uppercase()));
            let turns = turns.count();
            turns > 0 && bytes.len() >= 3 * (turns + 1)
        };
        let is_errno =
            || bytes.len() > 4 && bytes.first() == Some(&b'E') && bytes.iter().all(u8::is_ascii_uppercase);
        word.starts_with('<') && word.len() > 2
            || word.contains("://")
            || word.starts_with('/')
            || word.starts_with("./")
            || self.scan(start).1 & DRIVE > 0
            || word.ends_with("()")
            || is_type(word)
            || is_letters && names_part(self.text.get(end + 1..).unwrap_or_default())
            || is_letters && !word.contains('.') && (is_snake() || is_camel() || is_errno())
    }
}

/// The output. A part at its end may still be replaced.
#[derive(Debug)]
struct Out {
    text: String,
    characters: usize,
    max: usize,
    /// The position behind the last `#`, if only separators follow. Another `#` then merges with it.
    mark: Option<usize>,
    /// The position before an opening parenthesis with nothing but `#` behind it, and the mark at that position.
    open: Option<(usize, Option<usize>)>,
}

impl Out {
    fn new(capacity: usize, max: usize) -> Self {
        Self { text: String::with_capacity(capacity + 8), characters: 0, max, mark: None, open: None }
    }

    fn is_full(&self) -> bool {
        self.characters >= self.max
    }

    fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    fn push(&mut self, c: char) {
        self.text.push(c);
        self.characters += 1;
    }

    fn truncate(&mut self, length: usize) {
        let removed = self.text.get(length..).unwrap_or_default();
        self.characters -= removed.chars().count();
        self.text.truncate(length);
    }

    fn blank(&mut self) {
        if !matches!(self.text.as_bytes().last(), None | Some(b' ')) {
            self.push(' ');
        }
    }

    fn separator(&mut self, byte: u8) {
        self.push(char::from(byte));
        if self.mark.is_some_and(|mark| self.text.len() > mark + 3) {
            self.mark = None;
        }
    }

    fn char(&mut self, c: char) {
        self.push(if c.is_control() { ' ' } else { c });
        (self.mark, self.open) = (None, None);
    }

    fn word(&mut self, word: &str) {
        self.text.push_str(word);
        self.characters += if word.is_ascii() { word.len() } else { word.chars().count() };
        (self.mark, self.open) = (None, None);
    }

    /// Returns whether a `#` written here would merge with the last one.
    fn may_merge(&self) -> bool {
        self.mark.is_some_and(|mark| self.text.len() <= mark + 3)
    }

    fn mask(&mut self) {
        if self.may_merge() {
            self.truncate(self.mark.unwrap_or_default());
        } else {
            self.push('#');
        }
        self.mark = Some(self.text.len());
    }

    fn ends_with_mask(&self) -> bool {
        self.mark == Some(self.text.len())
    }

    fn open(&mut self) {
        let before = self.text.trim_end().len();
        let follows_blank = before < self.text.len() || self.text.is_empty();
        let mark = self.mark;
        self.char('(');
        self.open = follows_blank.then_some((before, mark));
    }

    /// Closes a parenthesis, or removes it if no word is in it: ` (3.14 KB)`, ` (10.0.0.7)`, ` ()`.
    fn close(&mut self) {
        match self.open {
            Some((before, mark)) => {
                self.truncate(before);
                (self.mark, self.open) = (mark, None);
            }
            None => self.char(')'),
        }
    }

    fn end_quote(&mut self, quote: &Quote, c: char) {
        if self.text.get(quote.out_start..).is_some_and(|text| text.chars().skip(1).eq(['#'])) {
            self.truncate(quote.out_start);
            self.mark = quote.mark;
            self.mask();
        } else {
            self.char(c);
        }
    }

    fn last_visible(&self) -> u8 {
        self.text.trim_end().bytes().next_back().unwrap_or_default()
    }

    fn is_at_clause(&self) -> bool {
        matches!(self.last_visible(), 0 | b':' | b'-' | b'(' | b'[' | b'"' | b'\'' | b'>' | b'`')
    }

    fn finish(mut self) -> String {
        if let Some((end, _)) = self.text.char_indices().nth(self.max) {
            self.text.truncate(end);
        }
        self.text.truncate(self.text.trim_end().len());
        self.text
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

/// Returns the kinds of characters in a part of a token, as a set.
fn class_of(part: &str) -> u16 {
    part.bytes().enumerate().fold(0, |class, (at, byte)| {
        class
            | match byte {
                _ if is_letter(byte) => LETTER,
                b'0'..=b'9' => DIGIT,
                b'.' => DOT,
                b'-' if at == 0 => SIGN,
                b'-' => HYPHEN,
                _ => OTHER,
            }
    })
}

/// Returns whether the token is a status from 400 to 599.
fn is_status(token: &str) -> bool {
    matches!(token.as_bytes(), [b'4' | b'5', b'0'..=b'9', b'0'..=b'9'])
}

/// Returns whether the name is that of a source file: `main.rs`, but not a build's `main.4f3a2b1c.js`.
fn is_source(name: &str) -> bool {
    let is_long = |part: &str| part.len() >= 6 && part.bytes().any(|byte| byte.is_ascii_digit());
    match name.rsplit_once('.') {
        Some((name, extension)) => is_extension(extension) && !name.split(['.', '-', '_']).any(is_long),
        None => false,
    }
}

/// Returns whether the text looks like a sentence: `Connection refused`, but not `a file` or `John Smith`.
fn is_sentence(text: &str) -> bool {
    let rest = text.get(1..).unwrap_or_default();
    text.starts_with(|c: char| c.is_ascii_uppercase()) && !rest.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Returns whether the quoted word before `text` names a part of the program: `'email' is required`.
fn names_part(text: &str) -> bool {
    const BEHIND: [&str; 12] = [
        " is required",
        " is a required",
        " is missing",
        " is not defined",
        " is not a function",
        " is not callable",
        " must ",
        " object",
        " attribute",
        " column",
        " field",
        " parameter",
    ];
    BEHIND.iter().any(|behind| text.starts_with(behind))
}

/// Returns whether the token is an enhanced code of SMTP: `5.1.1`.
fn is_enhanced(token: &str) -> bool {
    let mut parts = token.split('.');
    let class = parts.next().unwrap_or_default();
    let mut rest = 0;
    let fits = parts.all(|part| {
        rest += 1;
        (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    });
    matches!(class, "2" | "4" | "5") && fits && rest == 2
}

/// Returns whether the token has the form of a code, behind a word such as "code": `42P01`, `P2002`, `0x80070005`.
fn is_code(token: &str) -> bool {
    match token.strip_prefix("0x").or_else(|| token.strip_prefix("0X")) {
        Some(digits) => digits.len() <= 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => {
            token.len() <= 8 && token.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        }
    }
}

/// Returns whether the word looks random: hardly any vowels, hexadecimal digits alone, or alternating
/// case.
fn is_random(word: &str) -> bool {
    let bytes = word.as_bytes();
    if bytes.len() < 8 || bytes.contains(&b'_') {
        return false;
    }
    if bytes.iter().all(u8::is_ascii_hexdigit) {
        return true;
    }
    let vowels = || bytes.iter().filter(|byte| b"aeiouyAEIOUY".contains(byte) || **byte >= 0x80).count();
    bytes.len() >= 10 && bytes.len() > 8 * vowels() || bytes.len() >= 16 && is_dense(word)
}

/// Returns whether upper case, lower case and digits alternate.
fn is_dense(token: &str) -> bool {
    let kind = |byte: u8| match byte {
        b'a'..=b'z' => 0,
        b'A'..=b'Z' => 1,
        b'0'..=b'9' => 2,
        _ => 3,
    };
    let turns =
        token.as_bytes().windows(2).filter(|pair| matches!(pair, [a, b] if kind(*a) != kind(*b))).count();
    2 * turns >= token.len()
}

/// Returns whether the token ends like the name of a Kubernetes pod, whose suffix has no vowels:
/// `web-bcdfghjkl-xkqzw`.
fn is_pod(token: &str) -> bool {
    let Some((_, suffix)) = token.rsplit_once('-') else { return false };
    suffix.len() == 5 && suffix.bytes().all(|byte| byte.is_ascii_lowercase() && !b"aeiouy".contains(&byte))
}
