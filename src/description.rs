//! What may be said of a database's error: what can't hold a row's content.

use std::fmt;

use sea_orm::{DbErr, RuntimeErr, SqlxError, sqlx::error::DatabaseError};

/// The driver's error, where SeaORM passes one on.
pub(crate) fn sqlx_error(error: &DbErr) -> Option<&SqlxError> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

pub(crate) struct Described<'a>(pub(crate) &'a DbErr);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = sqlx_error(self.0) {
            return describe_sqlx(error, f);
        }
        match self.0 {
            error @ (DbErr::ConnectionAcquire(_)
            | DbErr::Conn(_)
            | DbErr::RecordNotInserted
            | DbErr::RecordNotUpdated
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
            // SQLSTATEs have five characters, SQLite's codes are numbers of up to four digits.
            let said = match code.len() {
                5 => said_by_postgres(&code, &**error),
                _ => said_by_sqlite(&code, error.message()),
            };
            said.map_or(Ok(()), |said| write!(f, ": {said}"))
        }
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

/// A function of the database, a trigger's say, may raise any text under any code and any name, and a statement
/// that it runs may fail over content: of what has a context nothing is said but its code. Of the rest,
/// messages are said of the classes of SQLSTATE (PostgreSQL's manual, appendix A) that quote nothing but names
/// of roles, tables, settings; those left out quote data. Class 42 does so too where a value is read as a name
/// (a cast to regclass), but not where the parser points at a place in our own statement, nor where a right is
/// missing. Of a constraint (23) the names are enough.
fn said_by_postgres(code: &str, error: &dyn DatabaseError) -> Option<String> {
    let debug = format!("{error:?}");
    let report = Report::of(&debug);
    if !report.holds(", where: None,") {
        return None;
    }
    match code.get(..2)? {
        "08" | "25" | "28" | "40" | "53" | "55" | "57" => Some(error.message().to_owned()),
        "42" if code == "42501" || report.holds(", position: Some(Original(") => {
            Some(error.message().to_owned())
        }
        "23" => {
            let named = |kind| report.text(kind).map(|name| format!("{kind} {name}"));
            let names: Vec<_> = ["table", "column", "constraint"].into_iter().filter_map(named).collect();
            (!names.is_empty()).then(|| names.join(", "))
        }
        _ => None,
    }
}

/// What PostgreSQL's driver knows of an error, read from its `Debug`: its type is not ours to name, since the
/// application picks the driver. Should it print otherwise one day, less is said.
struct Report<'a> {
    /// Cut at quotation marks: every other one is a text, in which they are escaped.
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

    /// Whether this stands outside of its texts.
    fn holds(&self, part: &str) -> bool {
        self.parts.iter().step_by(2).any(|between| between.contains(part))
    }

    fn text(&self, field: &str) -> Option<&'a str> {
        let before = format!(" {field}: Some(");
        let at = self.parts.iter().step_by(2).position(|between| between.ends_with(&before))?;
        self.parts.get(2 * at + 1).copied()
    }
}

/// SQLite's messages quote names, but what a trigger raises (1811, SQLITE_CONSTRAINT_TRIGGER), and what a
/// function says of its arguments, which comes under the code of all other mistakes (1).
fn said_by_sqlite(code: &str, message: &str) -> Option<String> {
    let names_only = match code {
        "1" => ["no such table: ", "table dead_letters has no column "]
            .iter()
            .any(|beginning| message.starts_with(beginning)),
        _ => code != "1811",
    };
    names_only.then(|| message.to_owned())
}
