//! Asks for confirmation before an action on many letters.

use std::io::{self, IsTerminal, Write};

use tokio::io::{AsyncBufReadExt, BufReader, stdin};

use crate::{error::Failure, output::visible, stop::Stop};

/// Returns an error if standard input or standard error is not a terminal: nobody could answer, or see the question.
pub(crate) fn can_ask() -> Result<(), Failure> {
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        return Ok(());
    }
    Err(Failure::usage("cannot ask for confirmation without a terminal").hint("--yes skips the question"))
}

/// Asks the question on standard error. Only `y` and `yes` confirm; an empty line and Ctrl-C do not.
pub(crate) async fn confirm(question: &str, stop: &Stop) -> Result<(), Failure> {
    let mut screen = io::stderr();
    write!(screen, "{} [y/N] ", visible(question))?;
    screen.flush()?;
    let mut answer = String::new();
    let mut input = BufReader::new(stdin());
    tokio::select! {
        read = input.read_line(&mut answer) => drop(read?),
        () = stop.asked() => answer.clear(),
    }
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was changed")),
    }
}
