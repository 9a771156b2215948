//! The command line tool of dead-letters.

use std::{env::args_os, process::ExitCode};

fn main() -> ExitCode {
    dead_letters_cli::Cli::new().run(args_os()).into()
}
