//! The contract of the store.

use async_trait::async_trait;
use auto_impl::auto_impl;
use chrono::{DateTime, Utc};

use crate::{AppId, DeadLetterId, DeadLetterRepoError, DeadLetterRow, NewDeadLetter};

/// The dead-letter store: takes events that used up their retries, shows them, settles them, sweeps them.
///
/// Object-safe: services hold it as `Arc<dyn DeadLetterRepo>`. Every call is atomic: after an error, nothing
/// of it was done, except where the connection broke while the database was answering: then nobody can say,
/// and [`get`](Self::get) or a count tells. Over a caller's transaction nothing is done until that commits.
///
/// Any call's future may be dropped at any time: the call is then done or not, as a whole, and what others do
/// on the same pool is not touched by it.
///
/// # Errors
///
/// Besides what each method lists, every call may answer [`Db`](DeadLetterRepoError::Db): the database
/// refused or could not be reached. [`is_transient`](DeadLetterRepoError::is_transient) tells whether another
/// try is worth it.
#[async_trait]
#[auto_impl(&, Arc)]
pub trait DeadLetterRepo: Send + Sync {
    /// Stores one letter and returns the id that it got.
    ///
    /// The payload may nest to any depth. It is written and taken apart without recursion: a process does not
    /// survive to drop a [`Value`](serde_json::Value) of 100,000 levels.
    ///
    /// # Errors
    ///
    /// With nothing sent to the database: [`PayloadTooLarge`](DeadLetterRepoError::PayloadTooLarge) where the
    /// repo has a cap, [`TimeOutOfRange`](DeadLetterRepoError::TimeOutOfRange).
    async fn insert(&self, letter: NewDeadLetter) -> Result<DeadLetterId, DeadLetterRepoError>;

    /// Stores any number of letters, all of them or none, and returns their ids in the letters' order.
    ///
    /// A later letter of the call has a larger id, and in PostgreSQL the same `created_at`, so a listing shows it first.
    /// An empty `Vec` sends no statement. In a caller's transaction an error must end in a rollback, as with every call.
    ///
    /// # Errors
    ///
    /// Those of [`insert`](Self::insert), with the first such letter's index, and nothing sent to the
    /// database.
    async fn insert_many(
        &self,
        letters: Vec<NewDeadLetter>,
    ) -> Result<Vec<DeadLetterId>, DeadLetterRepoError>;

    /// Returns one row, or `None` where there is none.
    async fn get(&self, id: DeadLetterId) -> Result<Option<DeadLetterRow>, DeadLetterRepoError>;

    /// Lists an app's rows: at most `limit` rows, after passing over the first `offset`.
    ///
    /// Newest `created_at` first, ties by `id`, largest first: the pages of a table at rest neither repeat
    /// nor skip a row. With `unresolved_only`, rows that were resolved are left out,
    /// `handler_failed` ones too. A `limit` of 0 is an empty answer.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` or `offset` of less than 0, with nothing
    /// sent to the database.
    async fn list_for_app(
        &self,
        app_id: AppId,
        unresolved_only: bool,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<DeadLetterRow>, DeadLetterRepoError>;

    /// Counts an app's unresolved rows: the dashboard's badge.
    async fn unresolved_count(&self, app_id: AppId) -> Result<i64, DeadLetterRepoError>;

    /// Sets a row's `resolution` to `reason`, one of the texts of [`Resolution`](crate::Resolution), and
    /// `resolved_at` to now.
    ///
    /// Resolving again replaces both.
    ///
    /// # Errors
    ///
    /// [`InvalidResolution`](DeadLetterRepoError::InvalidResolution) where `reason` is none of the four, with
    /// nothing sent to the database; [`NotFound`](DeadLetterRepoError::NotFound) where there is no such
    /// row.
    async fn resolve(&self, id: DeadLetterId, reason: &str) -> Result<(), DeadLetterRepoError>;

    /// Deletes rows of all apps with `created_at < older_than`, resolved or not: oldest first, **never more
    /// than `limit` rows**. Returns how many it deleted.
    ///
    /// Rows that another transaction holds are passed over, so fewer than `limit` does not mean that none is
    /// left. One call is one batch: the caller loops, and pauses between batches as it likes. A `limit` of 0
    /// deletes nothing. Of a [sharded](crate::SeaOrmDeadLetterRepo::sharded) table it takes what were the oldest
    /// a moment before.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` of less than 0, with nothing sent to the
    /// database: SQLite would take -1 for "no limit".
    async fn gc(&self, older_than: DateTime<Utc>, limit: i64) -> Result<u64, DeadLetterRepoError>;
}
