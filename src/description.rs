//! Describes a database error without the parts that may hold a row's content.

use std::fmt;

use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr, SqlxError, sqlx::error::DatabaseError};

use crate::db_code::DbCode;

/// Returns the driver's error, if SeaORM passes one on.
pub(crate) fn sqlx_error(error: &DbErr) -> Option<&SqlxError> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

/// Returns whether PostgreSQL responded with an error when the client asked for TLS, before it read anything else. A
/// server does so if it can't start a process for the connection. PostgreSQL's manual, "SSL Session Encryption", has
/// clients close such a connection and open another one. sqlx reports only the first byte, `E`.
pub(crate) fn is_refused_before_tls(error: &SqlxError) -> bool {
    matches!(error, SqlxError::Protocol(text) if text.starts_with("unexpected response from SSLRequest: 0x45"))
}

pub(crate) struct Described<'a>(pub(crate) &'a DbErr);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = sqlx_error(self.0) {
            return describe_sqlx(error, f);
        }
        match self.0 {
            DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) => f.write_str(
                "no connection of the pool became free in time: raise `max_connections`, or end transactions earlier",
            ),
            DbErr::RecordNotInserted => {
                f.write_str("the database did not store the row: a trigger, a rule or a policy prevents it")
            }
            DbErr::RecordNotUpdated => {
                f.write_str("the database did not change the row: a trigger, a rule or a policy prevents it")
            }
            error @ (DbErr::ConnectionAcquire(_)
            | DbErr::Conn(_)
            | DbErr::BackendNotSupported { .. }) => write!(f, "{error}"),
            _ => f.write_str("the database's answer could not be used"),
        }
    }
}

fn describe_sqlx(error: &SqlxError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error {
        SqlxError::Database(error) => {
            let code = error.code().unwrap_or_default();
            write!(f, "database error {code}")?;
            let said = match DbCode::parse(&code) {
                Some(DbCode::SqlState(state)) => said_by_postgres(&state, &**error),
                Some(DbCode::Sqlite(code)) => said_by_sqlite(code, error.message()),
                None => None,
            };
            said.map_or(Ok(()), |said| write!(f, ": {said}"))
        }
        error if is_refused_before_tls(error) => f.write_str(
            "the server refused the connection before it was encrypted: the server's log has the reason",
        ),
        SqlxError::ColumnDecode { index, .. } => write!(f, "the column {index} could not be decoded"),
        SqlxError::Io(_)
        | SqlxError::Tls(_)
        | SqlxError::ColumnNotFound(_)
        | SqlxError::PoolTimedOut
        | SqlxError::PoolClosed
        | SqlxError::WorkerCrashed => write!(f, "{error}"),
        _ => f.write_str("the database's answer could not be used"),
    }
}

/// Returns the part of an error of PostgreSQL that shows no content.
///
/// A database function, such as a trigger's, may raise any text under any code and any name, and a statement that it
/// runs may fail over content. An error that has a context is therefore described by its code alone.
///
/// All other messages are shown if their class of SQLSTATE (PostgreSQL's manual, appendix A) quotes only names of
/// roles, tables and settings. Messages of other classes quote data. A message of class 42 also quotes data if a
/// value is read as a name (a cast to regclass). It does not if the parser points at a position in our own statement,
/// or if a privilege is missing. For a violated constraint (class 23) the names are enough.
fn said_by_postgres(state: &[u8; 5], error: &dyn DatabaseError) -> Option<String> {
    let debug = format!("{error:?}");
    let report = Report::of(&debug);
    if !report.holds(", where: None,") {
        return None;
    }
    match &state[..2] {
        b"08" | b"25" | b"28" | b"40" | b"53" | b"55" | b"57" => Some(error.message().to_owned()),
        b"42" if state == b"42501" || report.holds(", position: Some(Original(") => {
            Some(error.message().to_owned())
        }
        b"23" => {
            let named = |kind| report.text(kind).map(|name| format!("{kind} {name}"));
            let names: Vec<_> = ["table", "column", "constraint"].into_iter().filter_map(named).collect();
            (!names.is_empty()).then(|| names.join(", "))
        }
        _ => None,
    }
}

/// The fields of an error of PostgreSQL's driver, read from its `Debug`.
///
/// This crate can't name the error's type, because the application picks the driver. If the format of `Debug`
/// changes, the description becomes shorter.
struct Report<'a> {
    /// The `Debug` text, split at quotation marks. Every second part is a string, in which quotation marks are
    /// escaped.
    parts: Vec<&'a str>,
}

impl<'a> Report<'a> {
    fn of(debug: &'a str) -> Self {
        let mut escaped = false;
        let is_quote = |c| {
            let is_quote = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            is_quote
        };
        Self { parts: debug.split(is_quote).collect() }
    }

    /// Returns whether `part` occurs outside of the strings.
    fn holds(&self, part: &str) -> bool {
        self.parts.iter().step_by(2).any(|between| between.contains(part))
    }

    fn text(&self, field: &str) -> Option<&'a str> {
        let before = format!(" {field}: Some(");
        let at = self.parts.iter().step_by(2).position(|between| between.ends_with(&before))?;
        self.parts.get(2 * at + 1).copied()
    }
}

/// Returns SQLite's message if it quotes only names.
///
/// Two kinds of messages may quote content. One is the text that a trigger raises (1811, SQLITE_CONSTRAINT_TRIGGER).
/// The other is a function's error about its arguments, which shares the code of all other mistakes (1).
fn said_by_sqlite(code: u32, message: &str) -> Option<String> {
    let names_only = match code {
        1 => ["no such table: ", "table dead_letters has no column "]
            .iter()
            .any(|beginning| message.starts_with(beginning)),
        _ => code != 1811,
    };
    names_only.then(|| message.to_owned())
}
