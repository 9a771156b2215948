//! Prints results to standard output: a table for people, and lines or JSON for programs.

use std::{
    borrow::Cow,
    env, fmt,
    io::{self, IsTerminal, Write},
};

use chrono::{DateTime, SecondsFormat, Utc};
use console::{Alignment, Term, measure_text_width, pad_str, truncate_str};
use dead_letters::CappedCount;
use serde::Serialize;

use crate::{
    args::Output,
    error::Failure,
    settings::{Clock, Settings},
};

/// Width at which a text column of a terminal's table is cut.
const WIDEST_TEXT: usize = 20;
/// Width that a message column keeps on a narrow terminal.
const NARROWEST_MESSAGE: usize = 8;
const GAP: usize = 2;
/// Width of an age, so that a column of them does not change its width.
const AGE: usize = 4;

/// Characters of a sentence that may follow a URL's host.
const AFTER_A_URL: [char; 7] = ['\'', '"', '`', ':', ',', ';', '.'];

/// Prints a line to standard error and ignores write errors, because `eprintln!` panics if standard error is closed.
///
/// On a terminal the line replaces a progress bar, which is drawn again below it.
pub(crate) fn say(text: fmt::Arguments<'_>) {
    let mut screen = io::stderr();
    let clear = if screen.is_terminal() && !is_dumb() { "\r\x1b[K" } else { "" };
    _ = writeln!(screen, "{clear}{}", visible(&without_passwords(&text.to_string())));
}

/// Returns whether the terminal knows no escape sequences.
pub(crate) fn is_dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}

pub(crate) struct Printer {
    out: Box<dyn Write + Send>,
    output: Output,
    /// Whether standard output is a terminal.
    on_terminal: bool,
    /// The width to which a table is cut.
    width: Option<usize>,
    /// The number of lines to which a repeated table is cut.
    height: Option<usize>,
    /// Whether a table is cut at its beginning, because its last rows are the newest.
    newest_last: bool,
    wide: bool,
    clock: Clock,
}

pub(crate) struct Column {
    name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Id,
    Text,
    Message,
    Number,
}

/// Returns a column that is never cut, because other commands need the whole value.
pub(crate) const fn id(name: &'static str) -> Column {
    Column { name, kind: Kind::Id }
}

pub(crate) const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text }
}

/// Returns a column that gets the room that the others leave.
pub(crate) const fn message(name: &'static str) -> Column {
    Column { name, kind: Kind::Message }
}

pub(crate) const fn number(name: &'static str) -> Column {
    Column { name, kind: Kind::Number }
}

/// The value of a table's cell.
pub(crate) enum Cell {
    Text(String),
    Time(DateTime<Utc>),
    /// Programs get the time itself.
    Age(DateTime<Utc>),
    None,
}

impl<T: ToString> From<T> for Cell {
    fn from(value: T) -> Self {
        Self::Text(value.to_string())
    }
}

type Cells<'a, T> = Box<dyn Fn(&T) -> Vec<Cell> + 'a>;

/// The columns of a table, and the cells of each item.
pub(crate) struct Layout<'a, T> {
    pub(crate) columns: Vec<Column>,
    pub(crate) cells: Cells<'a, T>,
}

impl Printer {
    pub(crate) fn standard(settings: &Settings) -> Result<Self, Failure> {
        let out = io::stdout();
        let Settings { output, wide, .. } = *settings;
        let on_terminal = out.is_terminal();
        // The size is 80 columns if the terminal does not report one.
        let width = (on_terminal && !wide).then(|| Term::stdout().size().1.into());
        // Only people need the local time zone.
        let clock = match output {
            Output::Table => settings.clock()?,
            Output::Tsv | Output::Json | Output::Jsonl => Clock::utc(settings.now),
        };
        let out = Box::new(io::BufWriter::new(out));
        Ok(Self { out, output, on_terminal, width, height: None, newest_last: false, wide, clock })
    }

    /// Returns how times are printed.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns whether people read the result in a table with every column.
    pub(crate) fn is_wide_table(&self) -> bool {
        self.wide && self.output == Output::Table
    }

    /// Cuts a repeated table at its beginning, because its last rows are the newest.
    pub(crate) fn newest_last(&mut self) {
        self.newest_last = true;
    }

    /// Clears the terminal before a repeated command prints, and cuts its table to the terminal's height.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        // The cursor and a note about the scan limit need a line each.
        self.height = self.on_terminal.then(|| usize::from(Term::stdout().size().0).saturating_sub(2));
        match self.on_terminal && !is_dumb() {
            true => write!(self.out, "\x1b[H\x1b[2J"),
            false => Ok(()),
        }
    }

    /// Prints the items as a table, as one JSON document (`whole`, which contains them), or as one JSON line each.
    pub(crate) fn print<T: Serialize, const N: usize>(
        &mut self,
        whole: &impl Serialize,
        items: &[T],
        columns: [Column; N],
        cells: impl Fn(&T) -> [Cell; N],
    ) -> io::Result<()> {
        let layout = Layout { columns: columns.into(), cells: Box::new(|item| cells(item).into()) };
        self.print_as(whole, items, layout, None)
    }

    /// Prints the items as [`print`](Self::print) does. People see the `brief` table, unless they ask for a wide one.
    pub(crate) fn print_as<T: Serialize>(
        &mut self,
        whole: &impl Serialize,
        items: &[T],
        full: Layout<'_, T>,
        brief: Option<Layout<'_, T>>,
    ) -> io::Result<()> {
        match self.output {
            Output::Json => self.json(whole)?,
            Output::Jsonl => self.lines(items)?,
            Output::Tsv => {
                for item in items {
                    let line: Vec<_> =
                        (full.cells)(item).into_iter().map(|cell| self.field(&plain(cell))).collect();
                    writeln!(self.out, "{}", line.join("\t"))?;
                }
            }
            Output::Table => {
                let Layout { columns, cells } = brief.filter(|_| !self.wide).unwrap_or(full);
                let shown = |cell| one_line(&self.shown(cell));
                let rows: Vec<Vec<_>> =
                    items.iter().map(|item| cells(item).into_iter().map(shown).collect()).collect();
                let lines = table(&columns, &rows, self.width);
                for line in fitted(lines, self.height.unwrap_or(usize::MAX), self.newest_last) {
                    writeln!(self.out, "{line}")?;
                }
            }
        }
        self.out.flush()
    }

    /// Prints a sentence, the values as a line for programs, or `whole` as JSON.
    pub(crate) fn sentence(
        &mut self,
        whole: &impl Serialize,
        sentence: &str,
        values: &[String],
    ) -> io::Result<()> {
        match self.output {
            Output::Json | Output::Jsonl => self.json(whole)?,
            Output::Tsv => {
                let values: Vec<_> = values.iter().map(|value| self.field(value)).collect();
                writeln!(self.out, "{}", values.join("\t"))?;
            }
            Output::Table => writeln!(self.out, "{}", visible(sentence))?,
        }
        self.out.flush()
    }

    /// Prints one value per line, for other commands.
    pub(crate) fn values(&mut self, values: impl IntoIterator<Item: fmt::Display>) -> io::Result<()> {
        for value in values {
            writeln!(self.out, "{value}")?;
        }
        self.out.flush()
    }

    /// Prints a text as it is. On a terminal, hidden characters are replaced.
    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        let shown = if self.on_terminal { visible(text) } else { text.into() };
        writeln!(self.out, "{shown}")?;
        self.out.flush()
    }

    /// Prints one JSON line per item.
    pub(crate) fn lines(&mut self, items: &[impl Serialize]) -> io::Result<()> {
        items.iter().try_for_each(|item| self.json(item))?;
        self.out.flush()
    }

    /// Prints one name and value per line, or `whole` as JSON.
    pub(crate) fn facts(&mut self, whole: &impl Serialize, facts: Vec<(&str, Cell)>) -> io::Result<()> {
        let widest = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        match self.output {
            Output::Json | Output::Jsonl => self.json(whole)?,
            Output::Tsv => {
                for (name, cell) in facts {
                    let value = self.field(&plain(cell));
                    if !value.is_empty() {
                        writeln!(self.out, "{name}\t{value}")?;
                    }
                }
            }
            Output::Table => {
                for (name, cell) in facts {
                    let value = match cell {
                        Cell::Time(time) => format!("{}  {}", self.clock.time(time), self.clock.age(time)),
                        cell => self.shown(cell),
                    };
                    if !value.is_empty() {
                        writeln!(self.out, "{name:widest$}  {value}")?;
                    }
                }
            }
        }
        self.out.flush()
    }

    fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        json_line(&mut self.out, value, self.on_terminal)
    }

    /// Returns a text as a field of tab-separated values. On a terminal, hidden characters are replaced.
    fn field(&self, text: &str) -> String {
        let text = one_line(text);
        if self.on_terminal { visible(&text).into_owned() } else { text }
    }

    fn shown(&self, cell: Cell) -> String {
        match cell {
            Cell::Time(time) => self.clock.time(time),
            Cell::Age(time) => format!("{:>AGE$}", self.clock.age(time)),
            cell => visible(&plain(cell)).into_owned(),
        }
    }
}

/// Returns the heading and one line per row. With a width, each line is cut to it: ids and numbers stay whole, and
/// messages get the room that the other columns leave.
fn table(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let natural = |(index, column): (usize, &Column)| {
        let values = rows.iter().map(|row| measure_text_width(&row[index]));
        let widest = values.max().unwrap_or_default().max(column.name.len());
        match (column.kind, width) {
            (Kind::Text, Some(_)) => widest.min(WIDEST_TEXT),
            _ => widest,
        }
    };
    let mut widths: Vec<_> = columns.iter().enumerate().map(natural).collect();
    if let Some(width) = width {
        let is_message = |index: &usize| columns[*index].kind == Kind::Message;
        let messages = (0..columns.len()).filter(is_message).count();
        let others: usize =
            (0..columns.len()).filter(|index| !is_message(index)).map(|index| widths[index]).sum();
        let gaps = GAP * columns.len().saturating_sub(1);
        let room = width.saturating_sub(others + gaps).checked_div(messages).unwrap_or_default();
        for index in (0..columns.len()).filter(is_message) {
            widths[index] = widths[index].min(room.max(NARROWEST_MESSAGE));
        }
    }
    let heading = columns.iter().map(|column| column.name.to_uppercase()).collect();
    let line = |row: &Vec<String>| {
        let cells = columns.iter().zip(&widths).zip(row).map(|((column, &width), value)| {
            let alignment = if column.kind == Kind::Number { Alignment::Right } else { Alignment::Left };
            pad_str(value, width, alignment, Some("…")).into_owned()
        });
        let line = cells.collect::<Vec<_>>().join(&" ".repeat(GAP));
        let line = line.trim_end();
        width.map_or(line.into(), |width| truncate_str(line, width, "…")).into_owned()
    };
    [&heading].into_iter().chain(rows).map(line).collect()
}

/// Cuts a table, whose first line is its heading, to this many lines. The line of an omission says how many rows it
/// stands for.
fn fitted(mut lines: Vec<String>, height: usize, newest_last: bool) -> Vec<String> {
    if lines.len() <= height {
        return lines;
    }
    // The heading and the line of the omission stay.
    let kept = height.saturating_sub(2);
    let omitted = lines.len().saturating_sub(kept + 1);
    let omission = format!("… {omitted} more");
    match newest_last {
        true => drop(lines.splice(1..=omitted, [omission])),
        false => {
            lines.truncate(kept + 1);
            lines.push(omission);
        }
    }
    lines
}

/// Writes a value as one line of JSON. On a terminal, hidden characters are escaped.
pub(crate) fn json_line(out: &mut impl Write, value: &impl Serialize, on_terminal: bool) -> io::Result<()> {
    if on_terminal {
        out.write_all(escaped(&serde_json::to_string(value)?).as_bytes())?;
    } else {
        serde_json::to_writer(&mut *out, value)?;
    }
    out.write_all(b"\n")
}

fn plain(cell: Cell) -> String {
    match cell {
        Cell::Text(text) => text,
        Cell::Time(time) | Cell::Age(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        Cell::None => String::new(),
    }
}

/// Replaces tabs and line ends by spaces, because the output uses them as separators.
pub(crate) fn one_line(text: &str) -> String {
    text.replace(['\t', '\n', '\r'], " ")
}

/// Replaces hidden characters in text from others, so that it can neither control a terminal nor look like other
/// text.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return text.into();
    }
    text.chars().map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect::<String>().into()
}

/// Escapes hidden characters in JSON text, which keeps its meaning.
fn escaped(json: &str) -> Cow<'_, str> {
    if !json.contains(is_hidden) {
        return json.into();
    }
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hidden(c) {
            text.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            text.push(c);
        }
    }
    text.into()
}

/// Returns whether the character is a control (C1 included) or one of Unicode's direction, joiner, filler and tag
/// characters. Line feeds and tabs are not hidden.
fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{AD}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{180E}' | '\u{3164}' | '\u{FEFF}'
        | '\u{FFA0}' => true,
        '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' => true,
        '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}' => true,
        _ => c.is_control(),
    }
}

/// Removes from each URL what may be a password: user and password, what stands where the port would, and parameters.
///
/// User and password end at the last `@`, because a password may hold unencoded characters that end a host. If that `@`
/// stands behind a `?`, it may belong to a parameter, and nothing of the URL is shown.
pub(crate) fn without_passwords(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return text.into();
    }
    let words = text.split_inclusive(char::is_whitespace).map(|word| {
        let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
        let rest = rest.trim_end();
        let space = &word[scheme.len() + 3 + rest.len()..];
        format!("{scheme}://{}{space}", without_password(rest))
    });
    words.collect::<String>().into()
}

/// Shortens what follows the scheme of a URL.
fn without_password(rest: &str) -> String {
    let place = match rest.rsplit_once('@') {
        Some((before, _)) if before.contains('?') => return "…".to_owned(),
        Some((user, place)) if user.contains(':') => place,
        _ => rest,
    };
    let (host, path) = place.split_at(place.find(['/', '?', '#']).unwrap_or(place.len()));
    // A host in brackets has colons of its own.
    let from = host.rfind(']').unwrap_or_default();
    let port = host[from..].find(':').map(|at| from + at + 1);
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(port) = port.filter(|&port| !is_port(host[port..].trim_end_matches(AFTER_A_URL))) {
        return format!("{}…", &host[..port]);
    }
    match path.find(['?', '#']) {
        Some(end) => format!("{host}{}…", &path[..=end]),
        None => format!("{host}{path}"),
    }
}

/// Formats a count for a table: "1000+". It has no separators, because programs read it too.
pub(crate) fn amount(CappedCount { count, capped }: CappedCount) -> String {
    format!("{count}{}", if capped { "+" } else { "" })
}

/// Formats a number for a sentence: "1,000".
pub(crate) fn grouped(count: u64) -> String {
    CappedCount::from(count).to_string()
}

/// Returns the first line that is not blank.
pub(crate) fn first_line(text: &str) -> &str {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_cut_out_of_a_url_whatever_is_in_it() {
        for (text, cut) in [
            ("no URL at all, ada@db", "no URL at all, ada@db"),
            ("http://127.0.0.1:8025", "http://127.0.0.1:8025"),
            ("'postgres://ada:p@ss/w#rd@h/db' found", "'postgres://h/db' found"),
            ("'postgres://ada:p@ss/w#rd?@h/db' found", "'postgres://… found"),
            ("postgres://h:1/d?user=u&password=s3cret\n", "postgres://h:1/d?…\n"),
            ("postgres://h:1/d?user=u&password=s3c@ret", "postgres://…"),
            ("postgres://u:s3cret", "postgres://u:…"),
            ("postgres://u:s3cret/db is", "postgres://u:… is"),
            ("postgres://u:1#s3cret", "postgres://u:1#…"),
            ("http://[::1]:8025/x, or", "http://[::1]:8025/x, or"),
            ("postgres://127.0.0.1:1: refused", "postgres://127.0.0.1:1: refused"),
            ("a://u:p@h and b://u:@i\n", "a://h and b://i\n"),
            ("postgres://user@host/db", "postgres://user@host/db"),
            ("x@y://h", "x@y://h"),
        ] {
            assert_eq!(without_passwords(text), cut);
        }
    }

    #[test]
    fn a_table_that_is_too_long_keeps_its_heading_and_its_newest_rows() {
        let table =
            |rows: usize| ["heading", "1", "2", "3", "4"].iter().take(rows + 1).map(ToString::to_string);
        let cut =
            |rows: usize, height, newest_last| fitted(table(rows).collect(), height, newest_last).join(" ");
        assert_eq!(cut(4, 5, false), "heading 1 2 3 4");
        assert_eq!(cut(4, 4, false), "heading 1 2 … 2 more");
        assert_eq!(cut(4, 4, true), "heading … 2 more 3 4");
        for newest_last in [false, true] {
            assert_eq!(cut(4, 2, newest_last), "heading … 4 more");
            assert_eq!(cut(4, 0, newest_last), "heading … 4 more");
        }
    }

    #[test]
    fn json_keeps_its_meaning_on_a_terminal() {
        let text = "a\u{7f}\u{9b}\u{202e}\u{e0001}\n\u{1b}ü";
        let mut line = Vec::new();
        json_line(&mut line, &text, true).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert!(!line.trim_end().contains(is_hidden), "{line:?}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }
}
