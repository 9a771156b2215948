use std::{
    io::{BufReader, stdin},
    iter,
    path::PathBuf,
    thread,
};

use dead_letters::{
    ArchiveError, ArchivedLetter, ArchivedLetters, DeadLetterRepoError, DeadLetterStore, Imported,
    JsonLinesArchive,
};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{
    args::Import,
    error::{Exit, Failure},
    output::{Printer, number},
    progress::Progress,
    stop::Stop,
};

/// Letters a batch, each as a whole or not at all; it ends at so many bytes too, and with its file. Of two copies in one
/// batch the last would be stored, and a folder's newest file comes first.
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
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let mut sum = Sum::default();
    let ran = match all(store, batches(import.paths), &mut sum, stop).await {
        Err(failure) if sum.stored + sum.present == 0 => return Err(failure),
        ran => ran.map_err(|failure| failure.after_a_part()),
    };
    printer.print(&sum, &[sum], [number("stored"), number("present")], |sum| {
        [sum.stored.into(), sum.present.into()]
    })?;
    ran
}

async fn all(
    store: &dyn DeadLetterStore,
    mut batches: mpsc::Receiver<(Vec<ArchivedLetter>, Option<ArchiveError>)>,
    sum: &mut Sum,
    stop: &Stop,
) -> Result<(), Failure> {
    let progress = Progress::of(None);
    loop {
        let next = tokio::select! {
            biased;
            () = stop.asked() => {
                say!("note: it was stopped, and there may be more");
                return Err(Failure::silent(Exit::Partly));
            }
            next = batches.recv() => next,
        };
        let Some((letters, unreadable)) = next else { return Ok(()) };
        let (places, letters): (Vec<_>, Vec<_>) =
            letters.into_iter().map(|letter| ((letter.path, letter.line), letter.letter)).unzip();
        let Imported { stored, present } = store.import(&letters).await.map_err(|error| {
            let (DeadLetterRepoError::NotStorable { index, field }
            | DeadLetterRepoError::TimeOutOfRange { index, field }) = error
            else {
                return Failure::from(error);
            };
            let place = |index: usize| {
                places
                    .get(index)
                    .map_or_else(String::new, |(path, line)| format!("{}, line {line}", path.display()))
            };
            Failure::failed(format!("{}: the {field} can't be stored", place(index)))
                .hint(format!("what stands before {} is stored", place(0)))
        })?;
        sum.stored += stored;
        sum.present += present;
        progress.is_at(sum.stored + sum.present);
        if let Some(error) = unreadable {
            return Err(Failure::failed(error.to_string()).hint("what stands before it is stored"));
        }
    }
}

/// Read on a thread of its own, which may wait for more to be typed, and parsed while others are stored. With the last
/// one comes what could not be read behind it.
fn batches(paths: Vec<PathBuf>) -> mpsc::Receiver<(Vec<ArchivedLetter>, Option<ArchiveError>)> {
    let (read, batches) = mpsc::channel(1);
    thread::spawn(move || {
        let mut letters = letters(paths).peekable();
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
                    Some(Err(error)) => {
                        unreadable = Some(error);
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

fn letters(paths: Vec<PathBuf>) -> Box<dyn Iterator<Item = Result<ArchivedLetter, ArchiveError>>> {
    if paths.is_empty() {
        return Box::new(ArchivedLetters::from_reader("standard input", BufReader::new(stdin())));
    }
    Box::new(paths.into_iter().flat_map(|path| -> Box<dyn Iterator<Item = _>> {
        match JsonLinesArchive::read(path) {
            Ok(letters) => Box::new(letters),
            Err(error) => Box::new(iter::once(Err(error))),
        }
    }))
}
