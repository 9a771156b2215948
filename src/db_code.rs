//! The code of a database error.

use sea_orm::{DbErr, SqlxError};

use crate::description::sqlx_error;

/// The code by which a database names an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DbCode {
    /// PostgreSQL's SQLSTATE (PostgreSQL's manual, appendix A).
    SqlState([u8; 5]),
    /// SQLite's result code. The low byte of an extended code is the primary code.
    Sqlite(u32),
}

const SQLITE_BUSY: u32 = 5;
const SQLITE_CONSTRAINT: u32 = 19;

impl DbCode {
    /// Returns the code, if the database itself returned the error.
    pub(crate) fn of(error: &DbErr) -> Option<Self> {
        match sqlx_error(error)? {
            SqlxError::Database(error) => Self::parse(&error.code()?),
            _ => None,
        }
    }

    /// Parses a code. A SQLSTATE has five characters, and SQLite's codes have at most four digits.
    pub(crate) fn parse(code: &str) -> Option<Self> {
        let state = code.as_bytes().try_into().map(Self::SqlState).ok();
        state.or_else(|| code.parse().map(Self::Sqlite).ok())
    }

    /// Returns whether a retry may succeed.
    pub(crate) fn is_transient(self) -> bool {
        const SQLITE_LOCKED: u32 = 6;
        const SQLITE_READONLY: u32 = 8;
        const SQLITE_FULL: u32 = 13;
        match self {
            // A lost connection (08), a deadlock or a serialization failure (40), and missing resources (53). The
            // others are locks, time-outs, and a server that is read-only, starting or stopping.
            Self::SqlState(state) => {
                matches!(&state[..2], b"08" | b"40" | b"53")
                    || matches!(&state, b"55P03" | b"57014" | b"57P01" | b"57P02" | b"57P03" | b"57P05")
                    || matches!(&state, b"25P03" | b"25P04" | b"25006")
            }
            Self::Sqlite(code) => {
                matches!(code & 0xff, SQLITE_BUSY | SQLITE_LOCKED | SQLITE_READONLY | SQLITE_FULL)
            }
        }
    }

    /// Returns whether a statement ran out of time, or waited too long for a lock.
    pub(crate) fn is_time_out(self) -> bool {
        match self {
            // 25P03 and 25P04 end the session of a transaction that was idle, or open, for too long.
            Self::SqlState(state) => matches!(&state, b"57014" | b"55P03" | b"25P03" | b"25P04"),
            Self::Sqlite(code) => code & 0xff == SQLITE_BUSY,
        }
    }

    /// Returns whether the error may be about one app's letters, so that a sweep can continue with other apps.
    ///
    /// It is not if the database is busy or out of reach, or if a table or a privilege is missing.
    pub(crate) fn may_be_of_one_app(self) -> bool {
        match self {
            Self::SqlState(state) => !state.starts_with(b"42") && !self.is_transient(),
            Self::Sqlite(code) => code & 0xff == SQLITE_CONSTRAINT,
        }
    }

    /// Returns whether the error may be about the content of one letter: its data, a constraint, a limit, row level
    /// security, or an error that a trigger raises.
    #[cfg(feature = "coalesce")]
    pub(crate) fn is_one_letters_own(self) -> bool {
        const SQLITE_TOO_BIG: u32 = 18;
        const SQLITE_MISMATCH: u32 = 20;
        match self {
            Self::SqlState(state) => {
                matches!(&state[..2], b"22" | b"23" | b"44" | b"54" | b"P0") || &state == b"42501"
            }
            Self::Sqlite(code) => {
                matches!(code & 0xff, SQLITE_TOO_BIG | SQLITE_CONSTRAINT | SQLITE_MISMATCH)
            }
        }
    }
}
