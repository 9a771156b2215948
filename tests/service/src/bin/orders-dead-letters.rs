//! The service's own build of the tool, which can replay.

use std::{env::args_os, process::ExitCode};

use dead_letters_cli::Cli;
use orders::outbox::{Migrator, Outbox};

fn main() -> ExitCode {
    Cli::new().requeue(Outbox).migrator(Migrator).run(args_os()).into()
}
