use std::{
    io::{BufReader, stdin},
    iter,
    path::{Path, PathBuf},
    thread,
};

use chrono::{DateTime, Utc};
use dead_letters::{
    ArchiveError, ArchivedLetter, ArchivedLetters, DeadLetterRepoError, DeadLetterStore, Imported,
    JsonLinesArchive, Resolution, Retention, StoredLetter,
};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{
    args::Import,
    error::{Exit, Failure, ended},
    output::{Printer, number},
    progress::Progress,
    settings::Settings,
    stop::Stop,
};

/// Letters per batch. A batch is stored as a whole or not at all. It also ends at [`BATCH_BYTES`] and with its file.
/// The store would keep the last of two copies in one batch, but the newest file of a folder is read first.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 16 << 20;

#[derive(Clone, Copy, Default, Serialize)]
struct Sum {
    stored: u64,
    present: u64,
}

pub(crate) async fn import(
    store: &dyn DeadLetterStore,
    import: Import,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let retention = Settings::retention(import.retention)?;
    // The default retention keeps every letter, so none is due.
    let due = DueAt {
        retention: if import.allow_due { Retention::default() } else { retention },
        now: settings.now,
    };
    let mut sum = Sum::default();
    let ran = match all(store, batches(import.paths, due), &mut sum, stop).await {
        Err(failure) if sum.stored + sum.present == 0 => return Err(failure),
        ran => ran.map_err(|failure| failure.after_a_part()),
    };
    let columns = [number("stored"), number("present")];
    ended(ran, printer.print(&sum, &[sum], columns, |sum| [sum.stored.into(), sum.present.into()]))
}

/// Decides which letters the next sweep would delete.
#[derive(Clone, Copy)]
struct DueAt {
    retention: Retention,
    now: DateTime<Utc>,
}

impl DueAt {
    /// Returns the option by which the letter is due.
    fn by(&self, letter: &StoredLetter) -> Option<&'static str> {
        let is_past =
            |time: DateTime<Utc>, after| (self.now - time).to_std().is_ok_and(|age| Some(age) > after);
        let is_closed = letter
            .resolution
            .as_deref()
            .is_some_and(|resolution| resolution != Resolution::HandlerFailed.as_str());
        let Retention { delete_closed_after, delete_all_after, .. } = self.retention;
        if delete_all_after.is_some() && is_past(letter.created_at, delete_all_after) {
            return Some("--delete-all-after");
        }
        let resolved_at = letter.resolved_at.filter(|_| is_closed && delete_closed_after.is_some())?;
        is_past(resolved_at, delete_closed_after).then_some("--delete-closed-after")
    }
}

async fn all(
    store: &dyn DeadLetterStore,
    mut batches: mpsc::Receiver<(Vec<ArchivedLetter>, Option<Failure>)>,
    sum: &mut Sum,
    stop: &Stop,
) -> Result<(), Failure> {
    let progress = Progress::of(None);
    loop {
        let next = tokio::select! {
            biased;
            () = stop.asked() => {
                say!("note: stopped; there may be more letters");
                return Err(Failure::silent(Exit::Partly));
            }
            next = batches.recv() => next,
        };
        let Some((letters, unreadable)) = next else { return Ok(()) };
        let (places, letters): (Vec<_>, Vec<_>) =
            letters.into_iter().map(|letter| ((letter.path, letter.line), letter.letter)).unzip();
        let Imported { stored, present, .. } = store.import(&letters).await.map_err(|error| {
            let (DeadLetterRepoError::NotStorable { index, .. }
            | DeadLetterRepoError::TimeOutOfRange { index, .. }) = error
            else {
                return Failure::from(error);
            };
            // The line of the file takes the place of the index in the batch.
            let reason = error.to_string().replace(&format!(" of letter {index}"), "");
            let place = |index: usize| {
                places
                    .get(index)
                    .map_or_else(String::new, |(path, line)| format!("{}, line {line}", path.display()))
            };
            Failure::failed(format!("{}: {reason}", place(index))).hint(format!(
                "the letters from {} on were not imported; fix the line and run the command again",
                place(0)
            ))
        })?;
        sum.stored += stored;
        sum.present += present;
        progress.is_at(sum.stored + sum.present);
        if let Some(failure) = unreadable {
            return Err(failure);
        }
    }
}

/// Reads batches on a thread of its own, because standard input may block, and parses one while another is stored. If
/// a letter is unreadable, the last batch comes with the failure.
fn batches(paths: Vec<PathBuf>, due: DueAt) -> mpsc::Receiver<(Vec<ArchivedLetter>, Option<Failure>)> {
    let (read, batches) = mpsc::channel(1);
    thread::spawn(move || {
        let mut letters = letters(paths).map(|read| undue(read, due)).peekable();
        loop {
            let (mut batch, mut bytes, mut unreadable) = (Vec::new(), 0, None);
            while batch.len() < BATCH && bytes < BATCH_BYTES {
                let is_of_batch = |next: &ArchivedLetter| {
                    batch.last().is_none_or(|last: &ArchivedLetter| last.path == next.path)
                };
                if letters.peek().is_some_and(|next| next.as_ref().is_ok_and(|next| !is_of_batch(next))) {
                    break;
                }
                match letters.next() {
                    None => break,
                    Some(Ok(letter)) => {
                        bytes += letter.letter.payload.len() + letter.letter.last_error.len();
                        batch.push(letter);
                    }
                    Some(Err(failure)) => {
                        unreadable = Some(failure);
                        break;
                    }
                }
            }
            let is_last = unreadable.is_some();
            let is_nothing = batch.is_empty() && !is_last;
            if is_nothing || read.blocking_send((batch, unreadable)).is_err() || is_last {
                return;
            }
        }
    });
    batches
}

fn undue(read: Result<ArchivedLetter, Failure>, due: DueAt) -> Result<ArchivedLetter, Failure> {
    let letter = read?;
    match due.by(&letter.letter) {
        None => Ok(letter),
        Some(option) => {
            let ArchivedLetter { path, line, letter, .. } = letter;
            Err(Failure::failed(format!(
                "{}, line {line}: the letter {} is due by {option}, so the next sweep would delete it",
                path.display(),
                letter.id
            ))
            .hint("the lines before it were imported; --allow-due also imports such letters"))
        }
    }
}

fn letters(paths: Vec<PathBuf>) -> Box<dyn Iterator<Item = Result<ArchivedLetter, Failure>>> {
    if paths.is_empty() {
        return letters_of(Path::new("-"));
    }
    Box::new(paths.into_iter().flat_map(|path| letters_of(&path)))
}

fn letters_of(path: &Path) -> Box<dyn Iterator<Item = Result<ArchivedLetter, Failure>>> {
    if path == Path::new("-") {
        let letters = ArchivedLetters::from_reader("standard input", BufReader::new(stdin()));
        return Box::new(letters.map(|read| read.map_err(unreadable)));
    }
    let mut letters = match JsonLinesArchive::read(path) {
        Ok(letters) => letters.peekable(),
        Err(error) => return Box::new(iter::once(Err(unreadable(error)))),
    };
    // Without this check a wrong folder would import nothing and report success.
    if path.is_dir() && letters.peek().is_none() {
        let nothing = format!(
            "{}: the folder has no letters: it has no file that ends in .jsonl, or its files are empty",
            path.display()
        );
        return Box::new(iter::once(Err(Failure::failed(nothing))));
    }
    Box::new(letters.map(|read| read.map_err(unreadable)))
}

fn unreadable(error: ArchiveError) -> Failure {
    match error {
        ArchiveError::NotALetter { path, line, column } => {
            let text = format!("{}, line {line}: not an exported letter (column {column})", path.display());
            Failure::failed(match line - 1 {
                0 => text,
                1 => format!(
                    "{text}. The line before it was imported; fix the line and run the command again."
                ),
                before => format!(
                    "{text}. The {before} lines before it were imported; fix the line and run the command again."
                ),
            })
        }
        error => Failure::failed(error.to_string()),
    }
}
