//! Runs a command with `DATABASE_URL` set to an empty PostgreSQL database, which is dropped afterwards.

use std::{env, process::Command, process::ExitCode};

use dead_letters_test_support::{Error, TestDatabase};

fn main() -> Result<ExitCode, Error> {
    let mut arguments = env::args_os().skip(1);
    let program = arguments.next().ok_or("usage: dead-letters-test-support COMMAND [ARGUMENT ...]")?;
    let database = TestDatabase::empty_postgres()?;
    let status = Command::new(program).args(arguments).env("DATABASE_URL", database.url()).status()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
