//! The position of a listing's next page, as `--after` takes it.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use dead_letters::{Cursor, DeadLetterRepoError};

/// A cursor, and the time from which relative times such as `2h` count. The next page then has the same filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) cursor: Cursor,
    /// Set if the filter has a relative time.
    pub(crate) now: Option<DateTime<Utc>>,
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.now {
            Some(now) => write!(f, "{}.{}", self.cursor, now.timestamp_micros()),
            None => write!(f, "{}", self.cursor),
        }
    }
}

impl FromStr for Next {
    type Err = DeadLetterRepoError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((cursor, now)) = text.split_once('.') else {
            return Ok(Self { cursor: text.parse()?, now: None });
        };
        let now = now.parse().ok().and_then(DateTime::from_timestamp_micros);
        Ok(Self { cursor: cursor.parse()?, now: Some(now.ok_or(DeadLetterRepoError::InvalidCursor)?) })
    }
}

impl serde::Serialize for Next {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
