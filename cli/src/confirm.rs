//! The question before something is done to many letters.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::error::Failure;

/// Asks on standard error, and takes no for an answer: as it does an empty line. Where nobody can be asked it is a
/// refusal.
pub(crate) fn confirm(question: &str) -> Result<(), Failure> {
    let input = io::stdin();
    if !input.is_terminal() {
        return Err(Failure::usage("there is no terminal to ask on").hint("--yes does it without asking"));
    }
    let mut screen = io::stderr();
    write!(screen, "{question} [y/N] ")?;
    screen.flush()?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was done")),
    }
}
