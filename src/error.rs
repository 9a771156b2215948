//! The error type of all calls.

use std::{error::Error, fmt, iter, sync::Arc};

use chrono::{DateTime, Utc};
use sea_orm::{ConnAcquireErr, DbErr, SqlxError};

use crate::{
    AppId, DeadLetterId, PayloadKind, Resolution,
    count::separated,
    db_code::DbCode,
    description::{Described, is_refused_before_tls, sqlx_error},
    words::words,
};

/// Why a call failed.
///
/// Neither `Display` nor `Debug` shows a letter's content, and no source of the error does: PostgreSQL puts the
/// failing row into an error's detail, and the `Debug` of [`DbErr`] prints that detail. [`Db`](Self::Db) holds the
/// whole error; consider its content before you log it. The sources of [`Take`](Self::Take) and
/// [`Requeue`](Self::Requeue) are the service's own errors, and show what the service put there.
///
/// The type has no `PartialEq`, because a service's own error has none. Compare its [`kind`](Self::kind), or match on
/// it.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLetterRepoError {
    /// The database refused the call, or could not be reached.
    #[error("{}", Described(.0))]
    Db(DbErr),
    /// No letter has this id.
    #[error("there is no dead letter {0}")]
    NotFound(DeadLetterId),
    /// The text is none of the four resolutions.
    #[error("{0:?} is not a resolution: expected replayed, ignored, handled_by_script or handler_failed")]
    InvalidResolution(String),
    /// The text is none of the four states.
    #[error("{0:?} is not a state: expected open, unresolved, closed or any")]
    InvalidState(String),
    /// A field of a [`ListQuery`](crate::ListQuery) is unknown, is given twice, or has an invalid value. The error
    /// does not show the value.
    #[error("in the query string, {field:?} {problem}")]
    InvalidQuery {
        /// The field's name as it was given, at most 40 characters.
        field: String,
        /// The problem with the field.
        problem: &'static str,
    },
    /// A limit, an offset or a number of items is outside the range that the call takes.
    #[error("`{argument}` must {} (got {})", bounds(*min, *max), separated(value))]
    OutOfRange {
        /// The argument's name.
        argument: &'static str,
        /// The value that was passed.
        value: i64,
        /// The smallest value that the call takes.
        min: i64,
        /// The largest value that the call takes. It is [`u32::MAX`] or [`i64::MAX`] if only the argument's type
        /// bounds it.
        max: i64,
    },
    /// A key or a value in the metadata of a filter is too long, or a key is empty.
    #[error(
        "each {part} in `filter.metadata` must have {min} to {} bytes (got {})",
        separated(max),
        separated(bytes)
    )]
    FilterMetadataLength {
        /// The part: `key` or `value`.
        part: &'static str,
        /// Its size, in bytes.
        bytes: usize,
        /// The smallest size that the call takes.
        min: usize,
        /// The largest size that the call takes.
        max: usize,
    },
    /// The text of a [`PayloadSearch`](crate::PayloadSearch) is empty or too long. The error does not show the text.
    #[error("`payload_contains` must have 1 to {} bytes (got {})", separated(max), separated(bytes))]
    SearchLength {
        /// Its size, in bytes.
        bytes: usize,
        /// The largest size that the call takes.
        max: usize,
    },
    /// The filter of a bulk call has neither `created_before` nor `ids`: the call would also resolve, replay or
    /// delete letters that fail meanwhile.
    #[error(
        "the filter of a bulk call must have `created_before` or `ids`: without both the call would also take letters \
         that fail meanwhile"
    )]
    MissingCreatedBefore,
    /// The filter of a bulk call that changes resolved letters has none of `resolved_before`, `run_id` and `ids`: the
    /// call would also change letters that are resolved meanwhile.
    #[error(
        "the filter of a bulk call on resolved letters must have `resolved_before`, `run_id` or `ids`: without one of \
         them the call would also take letters that are resolved meanwhile"
    )]
    MissingResolvedBefore,
    /// The `from` of a time range is after its `until`.
    #[error("`from` must not be after `until` (got {from} and {until})")]
    FromAfterUntil {
        /// The `from` that was given.
        from: DateTime<Utc>,
        /// The `until` that was given.
        until: DateTime<Utc>,
    },
    /// The `since` of [`new_error_groups`](crate::DeadLetterRead::new_error_groups) is in the future, by the clock of
    /// the caller's process.
    #[error("`since` must not be in the future (got {0})")]
    SinceInFuture(DateTime<Utc>),
    /// The cursor is damaged or made up, or belongs to another app, filter or order. A list sorted by
    /// [`MostAttempts`](crate::ListSort::MostAttempts) has one page, so every cursor is an error there.
    #[error(
        "the cursor is damaged, or belongs to another app, filter or order: leave the cursor out to begin with the \
         first letter"
    )]
    InvalidCursor,
    /// The letter is closed already.
    #[error(
        "the dead letter {id} was already resolved as {} at {resolved_at}",
        resolution.map_or("something newer", Resolution::as_str)
    )]
    AlreadyResolved {
        /// The letter.
        id: DeadLetterId,
        /// Its resolution. `None` is a resolution that this version does not know.
        resolution: Option<Resolution>,
        /// When it was resolved.
        resolved_at: DateTime<Utc>,
        /// Who resolved it, if an [`Attribution`](crate::Attribution) named somebody. Neither `Display` nor `Debug`
        /// shows it.
        by: Option<String>,
    },
    /// The payload of the letter is not the whole event, and the service's [`Requeue`](crate::Requeue) takes whole
    /// events only: see [`accepts_truncated`](crate::Requeue::accepts_truncated).
    #[error(
        "the dead letter {id} was not replayed, because its payload is {}: resolve it, or let \
         Requeue::accepts_truncated return true",
        kind.as_str()
    )]
    PayloadNotWhole {
        /// The letter.
        id: DeadLetterId,
        /// The kind of its payload.
        kind: PayloadKind,
    },
    /// The letter's content was erased, so there is no event to replay.
    #[error("the content of the dead letter {0} was erased: it can be resolved, and not replayed")]
    Erased(DeadLetterId),
    /// An edited payload can't be replayed.
    #[error("the edited payload must be {requirement}")]
    InvalidPayload {
        /// The requirement: "JSON", for example.
        requirement: &'static str,
    },
    /// The letter to reopen is unresolved already.
    #[error("the dead letter {0} is unresolved: only a resolved one can be reopened")]
    NotResolved(DeadLetterId),
    /// The letter to reopen was replayed, so its event was put back into the outbox.
    /// [`reopen_matching`](crate::DeadLetterResolve::reopen_matching) reopens it if the request
    /// [includes replayed letters](crate::ReopenRequest::include_replayed).
    #[error(
        "the dead letter {0} was replayed, so its event was put back into the outbox: to reopen it all the same, pass \
         its id to reopen_matching with `include_replayed`"
    )]
    Replayed(DeadLetterId),
    /// A call with the same app, [`run_id`](crate::Attribution::run_id) and [`batch`](crate::Attribution::batch) changed
    /// letters already. On PostgreSQL a caller's transaction is then aborted.
    #[error("the batch of this run was done already, and nothing was changed: read the history of the run")]
    BatchDone,
    /// The outbox returned this error, and the event was neither taken nor stored.
    #[error("the event could not be taken from the outbox, and was not buried")]
    Take(#[source] Arc<dyn Error + Send + Sync>),
    /// The service's [`Requeue`](crate::Requeue) returned this error, and nothing was replayed.
    #[error("the events were not put back, and nothing was replayed")]
    Requeue(#[source] Arc<dyn Error + Send + Sync>),
    /// The store can't hold a letter of an import.
    #[error("the {field} of letter {index} can't be stored: {}", requirement(field))]
    NotStorable {
        /// The letter's index in the call, from 0.
        index: usize,
        /// The field's name.
        field: &'static str,
    },
    /// A payload is larger than the repo's cap.
    #[error(
        "the payload of letter {index} must have at most {} bytes (got {}): cut it, or raise `max_payload_bytes`",
        separated(max),
        separated(bytes)
    )]
    PayloadTooLarge {
        /// The letter's index in the call, from 0.
        index: usize,
        /// The size of its serialized payload, in bytes.
        bytes: usize,
        /// The cap, in bytes.
        max: usize,
    },
    /// The metadata of a letter is larger than the store takes.
    #[error(
        "the metadata of letter {index} must have at most {} bytes (got {}): shorten or leave out values",
        separated(max),
        separated(bytes)
    )]
    MetadataTooLarge {
        /// The letter's index in the call, from 0.
        index: usize,
        /// The size of its JSON text, in bytes.
        bytes: usize,
        /// The maximum, in bytes.
        max: usize,
    },
    /// The letters of a call in a caller's transaction do not fit into the one statement that stores them there.
    /// Nothing was sent to the database. Pass fewer letters per call, or call over the pool.
    #[error(
        "`{argument}` must have at most {} {unit} in a caller's transaction (got {}): pass fewer letters per call, or \
         call over the pool",
        separated(max),
        separated(size)
    )]
    TooLargeForTransaction {
        /// The argument's name.
        argument: &'static str,
        /// The unit: `bytes` of the letters' texts, or `letters`.
        unit: &'static str,
        /// How many units were passed.
        size: usize,
        /// How many units one statement takes at most.
        max: usize,
    },
    /// A time is outside the years 1 to 9999 UTC.
    #[error("the {field} of letter {index} is outside the years 1 to 9999 UTC")]
    TimeOutOfRange {
        /// The letter's index in the call, from 0.
        index: usize,
        /// The field's name.
        field: &'static str,
    },
    /// The outbox's delete did not take exactly one row, and nothing was stored. If it took no row, another
    /// dispatcher has taken the event.
    #[error("the outbox's delete must take one row (got {taken}): {}", cause_of_taken(*taken))]
    EventNotTaken {
        /// How many rows the delete took.
        taken: u64,
    },
    /// The caller's transaction had ended before its commit. Statements before that end are rolled back, and
    /// statements after it stand by themselves. A nested `begin` that was dropped before it was done, or a full disk
    /// on SQLite, ends a transaction.
    #[error("the transaction had ended before its commit, and what it did at first is rolled back")]
    TransactionLost,
    /// There is no tokio runtime, or it ended before the call did. The call may be done or not.
    #[error(
        "there is no tokio runtime, or it ended before the call did: make the call in a runtime that outlives it"
    )]
    RuntimeEnded,
    /// The database returned this error for a letter of the first app of a sweep that goes app by app. A trigger
    /// raised it, or a foreign key refused the delete. No letter of the batch was deleted.
    /// [`SweepCursor::behind_app`](crate::SweepCursor::behind_app) continues behind the app.
    #[error("app {app_id} could not be swept: {}", Described(.error))]
    AppNotSwept {
        /// The app.
        app_id: AppId,
        /// The error of the database.
        error: DbErr,
    },
    /// The archive returned this error, and none of the letters was deleted.
    #[error("the archive did not keep the letters: {0}")]
    Archive(Arc<dyn Error + Send + Sync>),
}

impl DeadLetterRepoError {
    /// Returns the kind of the error, which tells a caller how to handle it.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{ErrorKind, testing};
    ///
    /// let status = match testing::transient().kind() {
    ///     ErrorKind::NotFound => 404,
    ///     ErrorKind::Conflict => 409,
    ///     ErrorKind::Invalid => 400,
    ///     ErrorKind::Transient => 503,
    ///     ErrorKind::Internal => 500,
    /// };
    /// assert_eq!(status, 503);
    /// ```
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::AlreadyResolved { .. }
            | Self::PayloadNotWhole { .. }
            | Self::Erased(_)
            | Self::NotResolved(_)
            | Self::Replayed(_)
            | Self::BatchDone
            | Self::EventNotTaken { taken: 0 } => ErrorKind::Conflict,
            Self::InvalidResolution(_)
            | Self::InvalidState(_)
            | Self::InvalidQuery { .. }
            | Self::OutOfRange { .. }
            | Self::FilterMetadataLength { .. }
            | Self::SearchLength { .. }
            | Self::MissingCreatedBefore
            | Self::MissingResolvedBefore
            | Self::FromAfterUntil { .. }
            | Self::SinceInFuture(_)
            | Self::InvalidCursor
            | Self::NotStorable { .. }
            | Self::PayloadTooLarge { .. }
            | Self::InvalidPayload { .. }
            | Self::MetadataTooLarge { .. }
            | Self::TooLargeForTransaction { .. }
            | Self::TimeOutOfRange { .. } => ErrorKind::Invalid,
            Self::Db(error) | Self::AppNotSwept { error, .. } => kind_of_db(error),
            Self::Take(error) | Self::Requeue(error) | Self::Archive(error) => kind_of_service(&**error),
            Self::EventNotTaken { .. } | Self::TransactionLost | Self::RuntimeEnded => ErrorKind::Internal,
        }
    }

    /// Returns whether the error is about the caller's arguments or about the letter, and nothing went wrong.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self.kind(), ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Invalid)
    }

    /// Returns whether the error can belong to one letter of a batch: the repo or the database refused the letter for
    /// its content.
    ///
    /// Reasons are data, constraints, limits, row level security, an error that a trigger raises, and a row that was
    /// dropped silently.
    #[cfg(feature = "coalesce")]
    pub(crate) fn is_one_letters_own(&self) -> bool {
        match self {
            Self::PayloadTooLarge { .. } | Self::MetadataTooLarge { .. } | Self::TimeOutOfRange { .. } => {
                true
            }
            Self::Db(DbErr::RecordNotInserted) => true,
            Self::Db(error) => DbCode::of(error).is_some_and(DbCode::is_one_letters_own),
            _ => false,
        }
    }

    /// Returns whether the call ran out of time, or waited too long for a lock. A smaller batch may succeed.
    pub(crate) fn is_time_out(&self) -> bool {
        let is_time_out = |error| DbCode::of(error).is_some_and(DbCode::is_time_out);
        match self {
            Self::Db(error) | Self::AppNotSwept { error, .. } => is_time_out(error),
            // The service may have called the store in its transaction.
            Self::Take(error) | Self::Requeue(error) => causes_of(&**error).any(|cause| {
                cause.downcast_ref().is_some_and(is_time_out)
                    || cause.downcast_ref().is_some_and(Self::is_time_out)
            }),
            _ => false,
        }
    }

    /// Returns whether a retry of the same call may succeed.
    ///
    /// It may succeed if the database was busy, full, read-only, starting, stopping or out of reach. It may also
    /// succeed if the database gave this transaction up for another one.
    ///
    /// In a transaction, retry the whole transaction. A lost connection leaves open whether the call was done: an
    /// insert that is retried may then be stored twice.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepo, testing::{self, Call, FailingStore}};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let (store, letter) = (FailingStore::new(repo), testing::letter(app));
    /// # store.fail(Call::Insert, ..2, testing::transient());
    /// let mut tries = 1;
    /// let outcome = loop {
    ///     match store.insert(letter.clone()).await {
    ///         Err(error) if error.is_transient() && tries < 5 => tries += 1,
    ///         outcome => break outcome,
    ///     }
    ///     // A service pauses here.
    /// };
    /// assert!(outcome.is_ok() && tries == 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_transient(&self) -> bool {
        self.kind() == ErrorKind::Transient
    }
}

/// The kind of an error, by which a caller handles it: an admin page chooses its status, for example.
///
/// Every new variant of the error has one of these five kinds, so a `match` may name each.
///
/// # Examples
///
/// ```
/// use dead_letters::{DeadLetterRepo, ErrorKind};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let unknown = uuid::Uuid::nil().into();
/// let error = repo.resolve(unknown, "ignored").await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// // For a log or a metric.
/// assert_eq!(error.kind().as_str(), "not_found");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The letter does not exist.
    NotFound,
    /// The state does not allow the call: another caller changed the letter or took the event first, the payload is
    /// truncated or erased, or the batch was done already.
    Conflict,
    /// An argument is invalid. The same call fails again.
    Invalid,
    /// A retry may succeed: see [`is_transient`](DeadLetterRepoError::is_transient).
    Transient,
    /// An error that the caller can't fix.
    Internal,
}

words! {
    ErrorKind {
        NotFound = "not_found", Conflict = "conflict", Invalid = "invalid", Transient = "transient",
        Internal = "internal",
    }
    /// Returns a name for programs: `not_found`, `conflict`, `invalid`, `transient` or `internal`.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{ErrorKind, testing};
    ///
    /// assert_eq!(testing::transient().kind().as_str(), "transient");
    /// assert_eq!(ErrorKind::NotFound.as_str(), "not_found");
    /// ```
    as_str
}

pub(crate) fn bounds(min: i64, max: i64) -> impl fmt::Display {
    fmt::from_fn(move |f| match max < u32::MAX.into() {
        // Only numbers of items may be 0 and are bounded.
        true if min == 0 => write!(f, "have at most {} items", separated(max)),
        true => write!(f, "be between {min} and {}", separated(max)),
        false => write!(f, "be at least {min}"),
    })
}

/// Returns what a field of an imported letter must be.
fn requirement(field: &str) -> &'static str {
    match field {
        "attempt_count" => "it must be at most 2,147,483,647",
        "metadata" => "it must be a JSON object of at most 16 KB, without a NUL",
        "payload_kind" => "it must be json, text, truncated or erased",
        "resolution" => {
            "it must be replayed, ignored, handled_by_script or handler_failed, and is required with a `resolved_at`"
        }
        "resolved_at" => "it is required with a `resolution`",
        _ => "it must not have a NUL",
    }
}

fn cause_of_taken(taken: u64) -> &'static str {
    match taken {
        0 => "another dispatcher took the event, or the delete named another one",
        _ => "the delete must name the event by its id",
    }
}

fn kind_of_db(error: &DbErr) -> ErrorKind {
    let is_transient = match sqlx_error(error) {
        Some(SqlxError::Io(_) | SqlxError::PoolTimedOut) => true,
        Some(error) if is_refused_before_tls(error) => true,
        Some(_) => DbCode::of(error).is_some_and(DbCode::is_transient),
        None => matches!(error, DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)),
    };
    if is_transient { ErrorKind::Transient } else { ErrorKind::Internal }
}

/// Returns `Transient` if the database was busy, otherwise `Internal`.
///
/// A service's error is about its own tables, so a "not found" of the service is not about the letter.
fn kind_of_service(error: &(dyn Error + Send + Sync + 'static)) -> ErrorKind {
    let is_transient = causes_of(error).any(|error| {
        let of_db = error.downcast_ref().map(kind_of_db);
        of_db.or_else(|| error.downcast_ref().map(DeadLetterRepoError::kind)) == Some(ErrorKind::Transient)
    });
    if is_transient { ErrorKind::Transient } else { ErrorKind::Internal }
}

/// Returns the error and its sources, because a service may wrap a database error in its own.
fn causes_of<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

impl From<DbErr> for DeadLetterRepoError {
    fn from(error: DbErr) -> Self {
        if is_of_done_batch(&error) { Self::BatchDone } else { Self::Db(error) }
    }
}

/// Returns whether PostgreSQL refused a second row of the history with the same batch.
fn is_of_done_batch(error: &DbErr) -> bool {
    let Some(SqlxError::Database(refusal)) = sqlx_error(error) else { return false };
    // Citus names the index of a shard, and only in the message.
    let is_unique = DbCode::of(error) == Some(DbCode::SqlState(*b"23505"));
    is_unique && refusal.message().contains("idx_dead_letter_actions_batch")
}

impl fmt::Debug for DeadLetterRepoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeadLetterRepoError({self})")
    }
}
