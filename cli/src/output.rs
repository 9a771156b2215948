//! Prints results to standard output: for people on a terminal, for programs in a pipe.

use std::{
    borrow::Cow,
    fmt,
    io::{self, IsTerminal, Write},
};

use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, presets::NOTHING};
use console::{Term, measure_text_width, truncate_str};
use dead_letters::CappedCount;
use serde::Serialize;

use crate::{
    args::Output,
    settings::{Settings, age},
};

/// Width that a text column needs. If the terminal is too narrow, each item becomes a block of lines.
const LEGIBLE: usize = 16;
/// Width that a message column needs.
const LEGIBLE_MESSAGE: usize = 40;
const GAP: usize = 2;
/// Width of a UUID.
const ID: usize = 36;

/// Prints a line to standard error and ignores write errors, because `eprintln!` panics if standard error is closed.
///
/// On a terminal the line replaces a progress bar, which is drawn again below it.
pub(crate) fn say(text: fmt::Arguments<'_>) {
    let mut screen = io::stderr();
    let clear = if screen.is_terminal() { "\r\x1b[K" } else { "" };
    _ = writeln!(screen, "{clear}{}", visible(&without_passwords(&text.to_string())));
}

pub(crate) struct Printer {
    out: Box<dyn Write + Send>,
    output: Output,
    /// The terminal's width, or `None` if standard output is not a terminal.
    width: Option<u16>,
    utc: bool,
    now: DateTime<Utc>,
}

pub(crate) struct Column {
    name: &'static str,
    kind: Kind,
}

#[derive(PartialEq, Eq)]
enum Kind {
    Id,
    Text,
    Message,
    Number,
}

/// Returns a column that is never cut, because other commands need the whole id.
pub(crate) const fn id(name: &'static str) -> Column {
    Column { name, kind: Kind::Id }
}

pub(crate) const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text }
}

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
    None,
}

impl<T: ToString> From<T> for Cell {
    fn from(value: T) -> Self {
        Self::Text(value.to_string())
    }
}

impl Printer {
    pub(crate) fn standard(settings: &Settings) -> Self {
        let out = io::stdout();
        // The size is 80 columns if the terminal does not report one.
        let width = out.is_terminal().then(|| Term::stdout().size().1);
        let Settings { output, utc, now, .. } = *settings;
        Self { out: Box::new(io::BufWriter::new(out)), output, width, utc, now }
    }

    /// Prints the items as a table, as one JSON document (`whole`, which contains them), or as one JSON line each.
    pub(crate) fn print<T: Serialize, const N: usize>(
        &mut self,
        whole: &impl Serialize,
        items: &[T],
        columns: [Column; N],
        cells: impl Fn(&T) -> [Cell; N],
    ) -> io::Result<()> {
        match (self.output, self.width) {
            (Output::Json, _) => self.json(whole)?,
            (Output::Jsonl, _) => self.lines(items)?,
            (Output::Table, Some(width)) => {
                let shown = |cell| self.shown(cell).replace('\t', " ");
                let rows: Vec<_> = items.iter().map(|item| cells(item).map(shown)).collect();
                let lines = match fits(&columns, &rows, width) {
                    true => table(&columns, rows, width),
                    false => blocks(&columns, &rows, width),
                };
                for line in lines {
                    writeln!(self.out, "{}", line.trim_end())?;
                }
            }
            (Output::Table, None) => {
                for item in items {
                    let line = cells(item).map(|cell| one_line(&plain(cell)));
                    writeln!(self.out, "{}", line.join("\t"))?;
                }
            }
        }
        self.out.flush()
    }

    /// Prints one JSON line per item.
    pub(crate) fn lines(&mut self, items: &[impl Serialize]) -> io::Result<()> {
        items.iter().try_for_each(|item| self.json(item))?;
        self.out.flush()
    }

    /// Prints one name and value per line, or `whole` as JSON.
    pub(crate) fn facts(&mut self, whole: &impl Serialize, facts: Vec<(&str, Cell)>) -> io::Result<()> {
        match self.output {
            Output::Json | Output::Jsonl => self.json(whole)?,
            Output::Table => {
                let widest = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
                for (name, cell) in facts {
                    let value = if self.width.is_some() { self.shown(cell) } else { plain(cell) };
                    match self.width {
                        _ if value.is_empty() => {}
                        Some(width) if usize::from(width) < widest + GAP + ID => {
                            writeln!(self.out, "{name}\n  {value}")?;
                        }
                        _ => writeln!(self.out, "{name:widest$}  {value}")?,
                    }
                }
            }
        }
        self.out.flush()
    }

    fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        json_line(&mut self.out, value, self.width.is_some())
    }

    fn shown(&self, cell: Cell) -> String {
        match cell {
            // The zone makes the text a valid value of a filter option.
            Cell::Time(time) if self.utc => time.format("%Y-%m-%d %H:%M:%SZ").to_string(),
            Cell::Time(time) => age(time, self.now),
            cell => visible(&plain(cell)).into_owned(),
        }
    }
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

/// Returns whether each column of a table has room for its values, or for a legible part of them.
fn fits<const N: usize>(columns: &[Column; N], rows: &[[String; N]], width: u16) -> bool {
    let needed = |(index, column): (usize, &Column)| {
        let widest = rows.iter().map(|row| measure_text_width(&row[index])).max().unwrap_or_default();
        let wanted = match column.kind {
            Kind::Text => widest.min(LEGIBLE),
            Kind::Message => widest.min(LEGIBLE_MESSAGE),
            Kind::Id | Kind::Number => widest,
        };
        wanted.max(column.name.len()) + GAP
    };
    columns.iter().enumerate().map(needed).sum::<usize>() <= usize::from(width)
}

/// Returns one line per row, cut to the terminal's width.
fn table<const N: usize>(columns: &[Column; N], rows: Vec<[String; N]>, width: u16) -> Vec<String> {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    table.set_header(columns.iter().map(|column| column.name.to_uppercase()));
    for (column, shown) in columns.iter().zip(table.column_iter_mut()) {
        match column.kind {
            Kind::Id => _ = shown.set_constraint(ColumnConstraint::ContentWidth),
            Kind::Number => shown.set_cell_alignment(CellAlignment::Right),
            Kind::Text | Kind::Message => {}
        }
    }
    for row in rows {
        let mut row = Row::from(row);
        // Long values are cut, not wrapped.
        row.max_height(1);
        table.add_row(row);
    }
    table.lines().collect()
}

/// Returns a block of lines per row. Ids are never cut; the other values are cut to the terminal's width.
fn blocks<const N: usize>(columns: &[Column; N], rows: &[[String; N]], width: u16) -> Vec<String> {
    let widest = columns.iter().map(|column| column.name.len()).max().unwrap_or_default();
    let line = |(column, value): (&Column, &String)| match column.kind {
        Kind::Id => value.clone(),
        Kind::Text | Kind::Message | Kind::Number => {
            let line = format!("  {:widest$}  {}", column.name, one_line(value));
            truncate_str(&line, width.into(), "…").into_owned()
        }
    };
    // A line with an id stands out, so blocks with one need no empty line between them.
    let is_apart = columns.iter().any(|column| column.kind == Kind::Id);
    let between = |index| (index > 0 && !is_apart).then(String::new);
    let blocks = rows.iter().enumerate();
    blocks
        .flat_map(|(index, row)| between(index).into_iter().chain(columns.iter().zip(row).map(line)))
        .collect()
}

fn plain(cell: Cell) -> String {
    match cell {
        Cell::Text(text) => text,
        Cell::Time(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
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

/// Removes user and password from each URL that has both. They end at the last `@`, because a password may hold
/// unencoded characters that end a host.
pub(crate) fn without_passwords(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return text.into();
    }
    let words = text.split_inclusive(char::is_whitespace).map(|word| {
        let found = word.find("://").zip(word.rfind('@'));
        match found.filter(|&(scheme, at)| word.get(scheme + 3..at).is_some_and(|user| user.contains(':'))) {
            Some((scheme, at)) => format!("{}{}", &word[..scheme + 3], &word[at + 1..]),
            None => word.to_owned(),
        }
    });
    words.collect::<String>().into()
}

/// Formats a count for a table: "1000+". It has no separators, because programs read a table in a pipe.
pub(crate) fn amount(CappedCount { count, capped }: CappedCount) -> String {
    format!("{count}{}", if capped { "+" } else { "" })
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
            ("'postgres://ada:p@ss/w#rd?@h/db' found", "'postgres://h/db' found"),
            ("a://u:p@h and b://u:@i\n", "a://h and b://i\n"),
            ("postgres://user@host/db", "postgres://user@host/db"),
            ("x@y://h", "x@y://h"),
        ] {
            assert_eq!(without_passwords(text), cut);
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
