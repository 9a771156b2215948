use dead_letters::{DeadLetterRepoError, DeadLetterStore, Imported, StoredLetter};
use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader, stdin};

use crate::{
    error::{Exit, Failure},
    output::{Printer, number},
    stop::Stop,
};

/// Letters a batch, each as a whole or not at all; it ends at so many bytes too.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 16 << 20;

#[derive(Clone, Copy, Default, Serialize)]
struct Sum {
    stored: u64,
    present: u64,
}

pub(crate) async fn import(
    store: &dyn DeadLetterStore,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let mut input = BufReader::with_capacity(1 << 20, stdin());
    let mut sum = Sum::default();
    let mut first_line = 1;
    let outcome = loop {
        let (letters, bad) = match read(&mut input, first_line, stop).await {
            Ok(batch) => (batch, None),
            Err((batch, bad)) => (batch, Some(bad)),
        };
        if letters.is_empty() && bad.is_none() && !stop.is_asked() {
            break Ok(());
        }
        match store.import(&letters).await {
            Ok(Imported { stored, present }) => {
                sum.stored += stored;
                sum.present += present;
            }
            Err(error) => break Err(at_line(error, first_line)),
        }
        if let Some(bad) = bad {
            break Err(bad);
        }
        first_line += letters.len();
        if stop.is_asked() {
            say!("note: it was stopped before line {first_line}");
            break Err(Failure::silent(Exit::Partly));
        }
    };
    printer.print(&sum, &[sum], [number("stored"), number("present")], |sum| {
        [sum.stored.into(), sum.present.into()]
    })?;
    outcome
}

/// The next batch. Of a bad line, those before it as well.
async fn read(
    input: &mut (impl AsyncBufRead + Unpin),
    first_line: usize,
    stop: &Stop,
) -> Result<Vec<StoredLetter>, (Vec<StoredLetter>, Failure)> {
    let (mut letters, mut bytes) = (Vec::new(), 0);
    let mut line = String::new();
    while letters.len() < BATCH && bytes < BATCH_BYTES {
        line.clear();
        let number = first_line + letters.len();
        let read = tokio::select! {
            biased;
            read = input.read_line(&mut line) => read,
            () = stop.asked() => break,
        };
        let parsed = match read {
            Ok(0) => break,
            Ok(read) => {
                bytes += read;
                // Its text would show what stands there.
                serde_json::from_str(&line).map_err(|error| format!("column {}", error.column()))
            }
            Err(error) => Err(error.to_string()),
        };
        match parsed {
            Ok(letter) => letters.push(letter),
            Err(problem) => {
                let failure =
                    Failure::failed(format!("line {number} is no letter as export writes it: {problem}"));
                return Err((letters, failure.hint("the lines before it are stored")));
            }
        }
    }
    Ok(letters)
}

/// The letter that can't be stored, by its line.
fn at_line(error: DeadLetterRepoError, first_line: usize) -> Failure {
    match &error {
        DeadLetterRepoError::NotStorable { index, field }
        | DeadLetterRepoError::TimeOutOfRange { index, field } => {
            let message = format!("line {}: the {field} can't be stored", first_line + index);
            Failure::failed(message).hint(format!("the lines before {first_line} are stored"))
        }
        _ => error.into(),
    }
}
