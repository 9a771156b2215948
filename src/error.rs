//! The one error type.

use std::{borrow::Cow, error::Error, fmt, iter, sync::Arc};

use chrono::{DateTime, Utc};
use sea_orm::{ConnAcquireErr, DbErr, SqlxError};

use crate::{
    AppId, DeadLetterId, PayloadKind, Resolution,
    description::{Described, sqlx_error},
};

/// Why a call failed.
///
/// Neither its `Display` nor its `Debug` shows a row's content, and it has no source that would: PostgreSQL
/// puts the failing row into an error's detail, and the `Debug` of [`DbErr`] prints that. Who wants the
/// whole error finds it in [`Db`](Self::Db), and should think before logging it. The source of
/// [`Requeue`](Self::Requeue) is the service's own error, and shows what the service put there.
///
/// It has no `PartialEq`, since a service's own error has none: compare its [`kind`](Self::kind), or match.
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
    /// The text is none of the four states.
    #[error("{0:?} is not a state: open, unresolved, closed or any")]
    InvalidState(String),
    /// A field of a [`ListQuery`](crate::ListQuery) does not exist, is given twice, or can't have its value,
    /// which is not shown.
    #[error("in the query string, {field:?} {problem}")]
    InvalidQuery {
        /// The field's name as it stands there, 40 characters of it at most.
        field: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A limit or an offset, or the number of what was handed over, is outside what the call takes.
    #[error("{argument} must be {}, and is {value}", bounds(*min, *max))]
    OutOfRange {
        /// The argument's name.
        argument: &'static str,
        /// What was passed.
        value: i64,
        /// The least that is taken.
        min: i64,
        /// The most that is taken: [`u32::MAX`] or [`i64::MAX`] where only the argument's type bounds it.
        max: i64,
    },
    /// A bulk call's filter has neither `created_before` nor ids: it would sweep up rows that fail meanwhile.
    #[error("filter.created_before is missing: a bulk call must say where it ends, or name its filter.ids")]
    MissingCreatedBefore,
    /// A time that goes from `from` to `until` ends before it begins.
    #[error("from must not be after until")]
    FromAfterUntil,
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
        /// By whom, where a [`Settlement`](crate::Settlement) said so. Neither `Display` nor `Debug` shows
        /// it.
        by: Option<String>,
    },
    /// The payload of the letter is not the whole event, and the service's [`Requeue`](crate::Requeue) takes whole
    /// ones only: see [`accepts_truncated`](crate::Requeue::accepts_truncated).
    #[error(
        "the dead letter {id} was not replayed, because its payload is {}: resolve it, or let \
         Requeue::accepts_truncated return true",
        kind.as_str()
    )]
    PayloadNotWhole {
        /// The letter.
        id: DeadLetterId,
        /// What its payload is.
        kind: PayloadKind,
    },
    /// The row to be reopened is unresolved.
    #[error("the dead letter {0} is unresolved")]
    NotResolved(DeadLetterId),
    /// The service's own [`Requeue`](crate::Requeue) answered this, so that nothing was replayed.
    #[error("the events were not put back, and nothing was replayed")]
    Requeue(#[source] Arc<dyn Error + Send + Sync>),
    /// A letter to be imported is none that the store can hold.
    #[error("the {field} of letter {index} can't be stored")]
    NotStorable {
        /// The letter's place among those handed over, from 0.
        index: usize,
        /// The field's name.
        field: &'static str,
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
    /// The letters of a call in a caller's transaction do not fit the one statement in which they would be
    /// stored there, so that nothing was sent. Several calls do, each with fewer letters, or one over the pool.
    #[error(
        "{argument} must be at most {max} {unit} in a caller's transaction (got {size}): pass fewer letters per \
         call, or call over the pool"
    )]
    TooLargeForTransaction {
        /// The argument's name.
        argument: &'static str,
        /// What was counted: `bytes`, of the letters' texts, or `letters`.
        unit: &'static str,
        /// How many of them were passed.
        size: usize,
        /// The most that one statement takes.
        max: usize,
    },
    /// A time is outside the years 1 to 9999 UTC.
    #[error("the {field} of letter {index} is outside the years 1 to 9999 UTC")]
    TimeOutOfRange {
        /// The letter's place among those handed over, from 0.
        index: usize,
        /// The field's name.
        field: &'static str,
    },
    /// The outbox's delete did not take exactly one row, so that nothing was stored: where it took none,
    /// somebody else has taken the event.
    #[error("the outbox's delete took {taken} rows, and must take one")]
    OutboxRows {
        /// The rows that it took.
        taken: u64,
    },
    /// The caller's transaction had ended before its commit: what it did at first is rolled back, and what
    /// followed stands by itself. A nested `begin` that was dropped under way does that, or a full disk on
    /// SQLite.
    #[error("the transaction had ended before its commit, and what it did at first is rolled back")]
    TransactionLost,
    /// There is no tokio runtime, or it ended before the call did, which may be done or not.
    #[error("there is no tokio runtime, or it ended before the call did")]
    RuntimeEnded,
    /// A sweep that goes by app met this error at a letter of its first app: a trigger raised it, or a foreign key
    /// refused the delete. No letter of the batch was deleted.
    /// [`SweepCursor::behind_app`](crate::SweepCursor::behind_app) goes on behind the app.
    #[error("app {app_id} could not be swept: {}", Described(.error))]
    AppNotSwept {
        /// The app.
        app_id: AppId,
        /// What the database said.
        error: DbErr,
    },
    /// The archive did not keep the letters, so that none of them was deleted: what it said.
    #[error("the archive did not keep the letters: {0}")]
    Archive(Arc<dyn Error + Send + Sync>),
}

impl DeadLetterRepoError {
    /// What a caller makes of it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::AlreadyResolved { .. }
            | Self::PayloadNotWhole { .. }
            | Self::NotResolved(_)
            | Self::OutboxRows { taken: 0 } => ErrorKind::Conflict,
            Self::InvalidResolution(_)
            | Self::InvalidState(_)
            | Self::InvalidQuery { .. }
            | Self::OutOfRange { .. }
            | Self::MissingCreatedBefore
            | Self::FromAfterUntil
            | Self::InvalidCursor
            | Self::NotStorable { .. }
            | Self::PayloadTooLarge { .. }
            | Self::TooLargeForTransaction { .. }
            | Self::TimeOutOfRange { .. } => ErrorKind::Invalid,
            Self::Db(error) | Self::AppNotSwept { error, .. } => kind_of_db(error),
            Self::Requeue(error) | Self::Archive(error) => kind_of_service(&**error),
            Self::OutboxRows { .. } | Self::TransactionLost | Self::RuntimeEnded => ErrorKind::Internal,
        }
    }

    /// Whether it tells the caller about its arguments or the row, and nothing went wrong.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self.kind(), ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Invalid)
    }

    /// Whether it can be one letter's own, of those that were to be stored together: the letter was refused
    /// for what it is, by the repo or by the database (data, constraints, limits, row level security, what
    /// somebody's trigger raises, a row that was dropped silently).
    #[cfg(feature = "coalesce")]
    pub(crate) fn is_one_letters_own(&self) -> bool {
        const SQLITE_TOO_BIG: u32 = 18;
        const SQLITE_MISMATCH: u32 = 20;
        match self {
            Self::PayloadTooLarge { .. } | Self::TimeOutOfRange { .. } => true,
            Self::Db(DbErr::RecordNotInserted) => true,
            Self::Db(error) => code_of(error).is_some_and(|code| match code.len() {
                5 => matches!(code.get(..2), Some("22" | "23" | "44" | "54" | "P0")) || code == "42501",
                _ => code.parse::<u32>().is_ok_and(|code| {
                    matches!(code & 0xff, SQLITE_TOO_BIG | SQLITE_CONSTRAINT | SQLITE_MISMATCH)
                }),
            }),
            _ => false,
        }
    }

    /// Whether it ran out of time, or waited too long for a lock: a smaller batch may do better.
    pub(crate) fn is_time_out(&self) -> bool {
        let error = match self {
            Self::Db(error) | Self::AppNotSwept { error, .. } => Some(error),
            Self::Requeue(error) => causes_of(&**error).find_map(|error| error.downcast_ref()),
            _ => None,
        };
        error.is_some_and(is_time_out)
    }

    /// Whether the same call is worth another try: the database was busy, full, read-only, starting, stopping
    /// or out of reach, or it gave this transaction up for another one.
    ///
    /// In a transaction the whole of it must be tried again. A lost connection leaves open whether the call
    /// was done: an insert that is tried again may then be stored twice.
    pub fn is_transient(&self) -> bool {
        self.kind() == ErrorKind::Transient
    }
}

/// What a caller makes of an error: an admin page its status, say. A variant that is new maps itself; these
/// five stay, and a `match` may name each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// There is no such row.
    NotFound,
    /// The row is not as the call wants it: somebody else was there before, or its payload is not whole.
    Conflict,
    /// An argument is wrong, and the same call fails again.
    Invalid,
    /// Another try is worth it: see [`is_transient`](DeadLetterRepoError::is_transient).
    Transient,
    /// Something went wrong that the caller can't mend.
    Internal,
}

impl ErrorKind {
    /// For machines: `not_found`, `conflict`, `invalid`, `transient` or `internal`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Transient => "transient",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

fn bounds(min: i64, max: i64) -> impl fmt::Display {
    fmt::from_fn(move |f| match max < u32::MAX.into() {
        true => write!(f, "from {min} to {max}"),
        false => write!(f, "at least {min}"),
    })
}

fn kind_of_db(error: &DbErr) -> ErrorKind {
    let is_transient = match sqlx_error(error) {
        Some(SqlxError::Database(error)) => is_transient_code(&error.code().unwrap_or_default()),
        Some(SqlxError::Io(_) | SqlxError::PoolTimedOut) => true,
        Some(_) => false,
        None => matches!(error, DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)),
    };
    if is_transient { ErrorKind::Transient } else { ErrorKind::Internal }
}

/// Returns `Transient` if the database was busy, otherwise `Internal`. A service's error is about its own tables: its "not
/// found" is not the letter's.
fn kind_of_service(error: &(dyn Error + Send + Sync + 'static)) -> ErrorKind {
    let is_transient = causes_of(error).any(|error| {
        let of_db = error.downcast_ref().map(kind_of_db);
        of_db.or_else(|| error.downcast_ref().map(DeadLetterRepoError::kind)) == Some(ErrorKind::Transient)
    });
    if is_transient { ErrorKind::Transient } else { ErrorKind::Internal }
}

/// The error and its sources: a service may wrap the database's in one of its own.
fn causes_of<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

const SQLITE_BUSY: u32 = 5;
const SQLITE_CONSTRAINT: u32 = 19;

/// PostgreSQL's SQLSTATE, or SQLite's result code.
pub(crate) fn code_of(error: &DbErr) -> Option<Cow<'_, str>> {
    match sqlx_error(error)? {
        SqlxError::Database(error) => error.code(),
        _ => None,
    }
}

/// PostgreSQL's SQLSTATE (its manual, appendix A) has five characters, SQLite's extended result codes are
/// numbers of which the low byte is the plain code.
fn is_transient_code(code: &str) -> bool {
    const SQLITE_LOCKED: u32 = 6;
    const SQLITE_READONLY: u32 = 8;
    const SQLITE_FULL: u32 = 13;
    if code.len() == 5 {
        // Lost connections (08), deadlock and serialization failure (40), resources and disk (53), a lock
        // that was not to be had, a statement or a transaction that ran out of time, a server that is read-only,
        // starting or stopping.
        return matches!(&code.as_bytes()[..2], b"08" | b"40" | b"53")
            || matches!(
                code,
                "55P03" | "25P03" | "25P04" | "57014" | "57P01" | "57P02" | "57P03" | "57P05" | "25006"
            );
    }
    code.parse::<u32>()
        .is_ok_and(|code| matches!(code & 0xff, SQLITE_BUSY | SQLITE_LOCKED | SQLITE_READONLY | SQLITE_FULL))
}

/// Whether a statement ran out of time, or waited too long for a lock.
pub(crate) fn is_time_out(error: &DbErr) -> bool {
    code_of(error).is_some_and(|code| match code.len() {
        // 25P03 and 25P04 end the session of a transaction that was idle, or open, for too long.
        5 => matches!(&*code, "57014" | "55P03" | "25P03" | "25P04"),
        _ => code.parse::<u32>().is_ok_and(|code| code & 0xff == SQLITE_BUSY),
    })
}

/// Whether a sweep may have met it at one app's letters, and can go on with others': not if the database is busy or
/// out of reach, nor if a table or a right is missing.
pub(crate) fn may_be_of_one_app(error: &DbErr) -> bool {
    code_of(error).is_some_and(|code| match code.len() {
        5 => !code.starts_with("42") && !is_transient_code(&code),
        _ => code.parse::<u32>().is_ok_and(|code| code & 0xff == SQLITE_CONSTRAINT),
    })
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
