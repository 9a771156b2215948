//! Explains database errors, with hints.

use std::borrow::Cow;

use dead_letters::DeadLetterRepoError;
use sea_orm::{DbErr, RuntimeErr, SqlxError};

use crate::error::Failure;

/// Returns the driver's error if SeaORM passes one on.
pub(crate) fn sqlx_error(error: &DbErr) -> Option<&SqlxError> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

/// Returns PostgreSQL's SQLSTATE, which has five characters, or SQLite's result code, a number of up to four digits.
pub(crate) fn code_of(error: &DbErr) -> Option<Cow<'_, str>> {
    match sqlx_error(error)? {
        SqlxError::Database(error) => error.code(),
        _ => None,
    }
}

/// Explains the error so that a person can act on it. Shows no content: only the library decides which of the
/// database's words are shown.
pub(crate) fn explain(error: &DbErr) -> Failure {
    let Some(code) = code_of(error) else { return described(error) };
    match code.len() {
        5 => of_postgres(error, &code),
        _ => of_sqlite(error, &code),
    }
}

fn of_postgres(error: &DbErr, code: &str) -> Failure {
    let failed = |text: &str| Failure::failed(format!("{text} (SQLSTATE {code})"));
    match code {
        "25006" => failed("this server or role is read-only (a standby?); connect to the primary"),
        "42501" => described(error).hint("GRANT the privilege to the role, or connect as a role that has it"),
        "42P01" => failed("a table is missing").hint("is this the service's database?"),
        "42P07" | "42701" | "42710" => failed("an object that a migration step would create exists already")
            .hint("does it belong to another program? See docs/migrations.md"),
        "3F000" => failed("the search_path names no schema that exists and that the role may use").hint(
            "create the schema, GRANT USAGE, CREATE ON SCHEMA to the role, or append to the URL: \
             ?options=-csearch_path%3Dmyschema",
        ),
        "26000" | "42P05" => failed("the server lost a prepared statement; is it PgBouncer in transaction mode?")
            .hint("use PgBouncer 1.21 or newer with max_prepared_statements, or pool_mode = session, or connect to the server directly"),
        "53100" => failed("the server's disk is full"),
        "53300" => failed("the server has no free connection").hint("close connections, or raise max_connections"),
        "57014" => failed("the statement was canceled, or took longer than 30 seconds")
            .hint("narrow the time range, or lower --scan-limit"),
        _ => other(error, code, "SQLSTATE"),
    }
}

fn of_sqlite(error: &DbErr, code: &str) -> Failure {
    let failed = |text: &str| Failure::failed(format!("{text} (SQLite {code})"));
    // The low byte of an extended result code is the primary result code.
    match code.parse::<u32>().unwrap_or_default() & 0xff {
        5 | 6 => failed("another process is writing to this SQLite file").hint("try again"),
        8 => failed("the SQLite file or its folder is read-only"),
        10 => failed("cannot read or write the SQLite file: disk I/O error"),
        11 => failed("the SQLite file is corrupt"),
        13 => failed("the disk of the SQLite file is full"),
        14 => failed("cannot open the SQLite file, its log or its folder"),
        26 => failed("this file is not a SQLite database"),
        _ => other(error, code, "SQLite"),
    }
}

/// Returns the library's message. If that is the bare code, the message points to the database's log.
fn other(error: &DbErr, code: &str, of: &str) -> Failure {
    let said = DeadLetterRepoError::from(error.clone()).to_string();
    if said != format!("database error {code}") {
        return described(error);
    }
    with_hint(
        Failure::failed(format!(
            "the database refused the statement ({of} {code}). Its message may contain data and is not shown; see the \
             database's log"
        )),
        error,
    )
}

fn described(error: &DbErr) -> Failure {
    with_hint(Failure::failed(DeadLetterRepoError::from(error.clone()).to_string()), error)
}

fn with_hint(failure: Failure, error: &DbErr) -> Failure {
    match DeadLetterRepoError::from(error.clone()).is_transient() {
        true => failure.hint("the database is busy or unreachable; try again"),
        false => failure,
    }
}

#[cfg(test)]
mod tests {
    use dead_letters::{DeadLetterRepoError, testing::database_error};

    use crate::error::Failure;

    fn said(code: &'static str) -> String {
        Failure::from(database_error(code)).text().unwrap()
    }

    #[test]
    fn only_transient_failures_suggest_another_try() {
        for (code, text) in [
            ("25006", "this server or role is read-only (a standby?); connect to the primary"),
            ("53100", "the server's disk is full"),
            ("8", "the SQLite file or its folder is read-only"),
            // SQLITE_READONLY_DIRECTORY is an extended code whose low byte is SQLITE_READONLY.
            ("1544", "the SQLite file or its folder is read-only"),
            ("13", "the disk of the SQLite file is full"),
            ("26", "this file is not a SQLite database"),
        ] {
            assert!(said(code).contains(text) && !said(code).contains("try again"), "{}", said(code));
        }
        for code in ["40001", "40P01", "57P03", "08006", "5", "517"] {
            assert!(said(code).contains("try again"), "{}", said(code));
        }
    }

    #[test]
    fn no_error_is_a_code_alone() {
        for code in
            ["42P01", "42P07", "3F000", "26000", "57014", "P0001", "22021", "XX000", "1", "1555", "1811"]
        {
            let said = said(code);
            assert!(said.split_whitespace().count() > 6 && said.contains(code), "{said}");
            assert!(!said.contains("migrate up"), "{said}");
        }
    }

    /// Returns the codes that the arms of a `match` in this file name, from `begin` to `end`.
    fn codes(begin: &str, end: &str, is_code: fn(&&str) -> bool) -> Vec<&'static str> {
        let source = include_str!("explain.rs").split_once(begin).unwrap().1.split_once(end).unwrap().0;
        let arms = source.lines().filter_map(|line| line.split_once(" => ")).map(|(codes, _)| codes);
        arms.flat_map(|codes| codes.split([' ', '|', '"'])).filter(is_code).collect()
    }

    /// Every explanation beside its code, so that a person can read them all. A new code changes the snapshot.
    #[test]
    fn the_snapshot_has_the_explanation_of_every_code() {
        let postgres = codes("fn of_postgres", "fn of_sqlite", |code| code.len() == 5);
        let sqlite = codes("fn of_sqlite", "fn other", |code| code.parse::<u32>().is_ok());
        assert!(postgres.len() > 11 && sqlite.len() > 7, "{postgres:?} {sqlite:?}");
        let mut shown = String::new();
        // At the end stand codes of no arm: a busy server, a deadlock, an internal error and a constraint.
        for code in [postgres, sqlite, vec!["57P03", "40P01", "XX000", "23505", "19"]].concat() {
            let failure = Failure::from(database_error(code));
            shown += &format!("{code}: exit {:?}\n{}\n\n", failure.exit(), failure.text().unwrap());
        }
        insta::with_settings!({
            omit_expression => true, prepend_module_to_snapshot => false, snapshot_path => "../tests/snapshots"
        }, {
            insta::assert_snapshot!("explanations", shown);
        });
    }

    #[test]
    fn a_letter_that_is_not_found_keeps_its_exit_code() {
        let missing = DeadLetterRepoError::NotFound(uuid::Uuid::nil().into());
        assert_eq!(Failure::from(missing).exit(), crate::Exit::NotFound);
    }
}
