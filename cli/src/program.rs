//! The name under which the tool runs: a service's own build has its own.

use std::{env::consts::EXE_SUFFIX, ffi::OsString, path::Path, sync::RwLock};

use clap::{Command, CommandFactory};

use crate::args::Args;

/// The name in the texts of this crate.
const OWN: &str = "dead-letters";

static NAME: RwLock<String> = RwLock::new(String::new());

/// Takes the name from the first argument, as shells do.
pub(crate) fn set(args: &[OsString]) {
    let name = args.first().and_then(|path| Path::new(path).file_name()).map(|name| name.to_string_lossy());
    let name = name.as_deref().map(|name| name.strip_suffix(EXE_SUFFIX).unwrap_or(name));
    if let Ok(mut current) = NAME.write() {
        *current = name.filter(|name| !name.is_empty()).unwrap_or(OWN).to_owned();
    }
}

/// Returns the name, for messages.
pub(crate) fn name() -> String {
    match NAME.read() {
        Ok(name) if !name.is_empty() => name.clone(),
        _ => OWN.to_owned(),
    }
}

/// Returns the command line with the program's name in its examples.
pub(crate) fn command() -> Command {
    let name = name();
    let command = Args::command().name(name.clone()).bin_name(name.clone());
    if name == OWN { command } else { with_examples(command, &name) }
}

fn with_examples(command: Command, name: &str) -> Command {
    let examples = command.get_after_help().map(ToString::to_string);
    let command = match examples {
        Some(examples) => command.after_help(examples.replace(OWN, name)),
        None => command,
    };
    let subcommands: Vec<_> =
        command.get_subcommands().map(|subcommand| subcommand.get_name().to_owned()).collect();
    subcommands.into_iter().fold(command, |command, subcommand| {
        command.mut_subcommand(subcommand, |subcommand| with_examples(subcommand, name))
    })
}
