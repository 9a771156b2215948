//! The one error type.

use std::fmt;

use chrono::{DateTime, Utc};
use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr, SqlxError};

use crate::{DeadLetterId, Resolution};

/// Why a call failed.
///
/// Neither its `Display` nor its `Debug` shows a row's content, and it has no source that would: PostgreSQL
/// puts the failing row into an error's detail, and the `Debug` of [`DbErr`] prints that. Who wants the
/// whole error finds it in [`Db`](Self::Db), and should think before logging it.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLetterRepoError {
    /// The database refused, or could not be reached.
    #[error("{}", Described(.0))]
    Db(DbErr),
    /// No row has this id.
    #[error("there is no dead letter {0}")]
    NotFound(DeadLetterId),
    /// The text is none of the four resolutions.
    #[error("{0:?} is not a resolution: replayed, ignored, handled_by_script or handler_failed")]
    InvalidResolution(String),
    /// An argument that counts rows is less than 0.
    #[error("{argument} must not be negative, and is {value}")]
    Negative {
        /// The argument's name.
        argument: &'static str,
        /// What was passed.
        value: i64,
    },
    /// An argument that counts rows, apps or characters is outside what the call takes.
    #[error("{argument} must be from {min} to {max}, and is {value}")]
    OutOfRange {
        /// The argument's name.
        argument: &'static str,
        /// What was passed.
        value: u32,
        /// The least that is taken.
        min: u32,
        /// The most that is taken.
        max: u32,
    },
    /// A bulk call's filter has no `created_before`: it would sweep up rows that fail meanwhile.
    #[error("filter.created_before is missing: a bulk call must say where it ends")]
    MissingCreatedBefore,
    /// A page's cursor is damaged, made up, or of another app's or another filter's listing.
    #[error("the cursor is not one of this listing")]
    InvalidCursor,
    /// Somebody settled the row before.
    #[error(
        "the dead letter {id} was already resolved as {} at {resolved_at}",
        resolution.map_or("something newer", Resolution::as_str)
    )]
    AlreadyResolved {
        /// The row.
        id: DeadLetterId,
        /// As what. `None` is a resolution that this version does not know.
        resolution: Option<Resolution>,
        /// When.
        resolved_at: DateTime<Utc>,
    },
    /// The row to be reopened is unresolved.
    #[error("the dead letter {0} is unresolved")]
    NotResolved(DeadLetterId),
    /// A payload nests deeper than the 127 levels that [`serde_json`] reads back.
    #[error("the payload of letter {index} nests deeper than 127 levels")]
    PayloadTooDeep {
        /// The letter's place among those handed over, from 0.
        index: usize,
    },
    /// A payload is larger than the repo's cap.
    #[error("the payload of letter {index} has {bytes} bytes, and the cap is {max}")]
    PayloadTooLarge {
        /// The letter's place among those handed over, from 0.
        index: usize,
        /// Its payload's size as serialized.
        bytes: usize,
        /// The cap, in bytes.
        max: usize,
    },
    /// A time is one that the database can't hold: before 4714 BC in PostgreSQL, outside the years 0 to 9999
    /// in SQLite.
    #[error("the {field} of letter {index} is a time that the database can't hold")]
    TimeOutOfRange {
        /// The letter's place among those handed over, from 0.
        index: usize,
        /// The field's name.
        field: &'static str,
    },
    /// A coalescing writer was ended with its runtime before it could answer: the letter may be stored or
    /// not.
    #[error("the writer ended before it answered")]
    WriterEnded,
}

impl DeadLetterRepoError {
    /// Whether the call may have been done nonetheless: the connection ended, perhaps after a commit and before
    /// its answer. A server that is ending it may still say so (57P01), or not.
    #[cfg(feature = "coalesce")]
    pub(crate) fn leaves_outcome_open(&self) -> bool {
        let Self::Db(error) = self else { return false };
        match sqlx_error(error) {
            Some(SqlxError::Database(error)) => {
                let code = error.code().unwrap_or_default();
                code.starts_with("57P") || code.starts_with("08")
            }
            Some(SqlxError::PoolTimedOut) => false,
            Some(_) => true,
            None => matches!(error, DbErr::Conn(_) | DbErr::Exec(_) | DbErr::Query(_)),
        }
    }

    /// Whether the same call is worth another try: the database was busy, full, read-only, starting, stopping
    /// or out of reach, or it gave this transaction up for another one.
    ///
    /// In a transaction the whole of it must be tried again. A lost connection leaves open whether the call
    /// was done: an insert that is tried again may then be stored twice.
    pub fn is_transient(&self) -> bool {
        let Self::Db(error) = self else { return false };
        match sqlx_error(error) {
            Some(SqlxError::Database(error)) => is_transient_code(&error.code().unwrap_or_default()),
            Some(SqlxError::Io(_) | SqlxError::PoolTimedOut) => true,
            Some(_) => false,
            None => matches!(error, DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)),
        }
    }
}

/// The driver's error, where SeaORM passes one on.
fn sqlx_error(error: &DbErr) -> Option<&SqlxError> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

/// PostgreSQL's 22012.
pub(crate) fn is_division_by_zero(error: &DbErr) -> bool {
    matches!(sqlx_error(error), Some(SqlxError::Database(error)) if error.code().as_deref() == Some("22012"))
}

/// PostgreSQL's SQLSTATE (its manual, appendix A) has five characters, SQLite's extended result codes are
/// numbers of which the low byte is the plain code.
fn is_transient_code(code: &str) -> bool {
    const SQLITE_BUSY: u32 = 5;
    const SQLITE_LOCKED: u32 = 6;
    const SQLITE_FULL: u32 = 13;
    if code.len() == 5 {
        // Lost connections (08), deadlock and serialization failure (40), resources and disk (53), a lock
        // that was not to be had, a statement that ran out of time, a server that is read-only,
        // starting or stopping.
        return matches!(&code.as_bytes()[..2], b"08" | b"40" | b"53")
            || matches!(code, "55P03" | "57014" | "57P01" | "57P02" | "57P03" | "57P05" | "25006");
    }
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, SQLITE_BUSY | SQLITE_LOCKED | SQLITE_FULL))
}

impl From<DbErr> for DeadLetterRepoError {
    fn from(error: DbErr) -> Self {
        Self::Db(error)
    }
}

impl fmt::Debug for DeadLetterRepoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeadLetterRepoError({self})")
    }
}

/// Says of a database error what can't hold a row's content.
struct Described<'a>(&'a DbErr);

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
            if names_only(&code) {
                write!(f, ": {}", error.message())?;
            }
            Ok(())
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

/// Whether a message with this code quotes nothing but names: of tables, columns, constraints, roles.
///
/// By the classes of PostgreSQL's SQLSTATE (its manual, appendix A). Those left out quote data (22), or say
/// what somebody's trigger makes them say (P0). SQLite's codes are numbers of up to four digits; its
/// messages quote data only where a trigger raises them (1811, SQLITE_CONSTRAINT_TRIGGER).
fn names_only(code: &str) -> bool {
    match code.len() {
        5 => matches!(
            &code.as_bytes()[..2],
            b"08" | b"23" | b"25" | b"28" | b"40" | b"42" | b"53" | b"55" | b"57"
        ),
        1..=4 => code != "1811",
        _ => false,
    }
}
