//! The store contract: the calls of a dispatcher.

use async_trait::async_trait;
use auto_impl::auto_impl;
use chrono::{DateTime, Utc};

use crate::{AppId, DeadLetterId, DeadLetterRepoError, DeadLetterRow, NewDeadLetter};

/// Stores dead letters: inserts, returns, lists, counts, resolves and deletes them.
///
/// The trait is object-safe: services hold it as `Arc<dyn DeadLetterRepo>`. Every call is atomic: after an error,
/// nothing of it was done. The exception is a connection that breaks while the database sends its response: the
/// caller then does not know whether the call was done, and finds out with [`get`](Self::get) or a count. In a
/// caller's transaction nothing is done until the transaction commits.
///
/// The future of a call may be dropped at any time. The call is then done as a whole or not at all, and other calls
/// on the same pool are not affected.
///
/// # Errors
///
/// Besides what each method lists, every call may return [`Db`](DeadLetterRepoError::Db): the database refused the
/// call or could not be reached. [`is_transient`](DeadLetterRepoError::is_transient) returns whether a retry may
/// succeed.
#[async_trait]
#[auto_impl(&, Arc)]
pub trait DeadLetterRepo: Send + Sync {
    /// Stores one letter and returns its id.
    ///
    /// The payload may nest to any depth. The call serializes and drops it without recursion, because dropping a
    /// [`Value`](serde_json::Value) of 100,000 levels by recursion would end the process.
    ///
    /// # Errors
    ///
    /// [`PayloadTooLarge`](DeadLetterRepoError::PayloadTooLarge) if the payload is over the repo's cap, and
    /// [`TimeOutOfRange`](DeadLetterRepoError::TimeOutOfRange). Both are returned with nothing sent to the database.
    async fn insert(&self, letter: NewDeadLetter) -> Result<DeadLetterId, DeadLetterRepoError>;

    /// Stores any number of letters, all of them or none, and returns their ids in the order of the letters.
    ///
    /// A later letter of the call has a larger id. In PostgreSQL all letters of the call have the same `created_at`,
    /// so a listing shows the later letter first. An empty `Vec` sends no statement. In a caller's transaction an
    /// error must end in a rollback, as with every call.
    ///
    /// # Errors
    ///
    /// Those of [`insert`](Self::insert), with the index of the first such letter, and with nothing sent to the
    /// database.
    async fn insert_many(
        &self,
        letters: Vec<NewDeadLetter>,
    ) -> Result<Vec<DeadLetterId>, DeadLetterRepoError>;

    /// Returns one letter, or `None` if no letter has this id.
    async fn get(&self, id: DeadLetterId) -> Result<Option<DeadLetterRow>, DeadLetterRepoError>;

    /// Lists an app's letters: at most `limit` letters after the first `offset`.
    ///
    /// The letters are sorted by `created_at` (newest first), then by `id` (largest first), so the pages of a table
    /// that does not change neither repeat nor miss a letter. With `unresolved_only`, resolved letters are left out,
    /// including `handler_failed` ones. A `limit` of 0 returns an empty `Vec`.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a negative `limit` or `offset`, with nothing sent to the
    /// database.
    async fn list_for_app(
        &self,
        app_id: AppId,
        unresolved_only: bool,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<DeadLetterRow>, DeadLetterRepoError>;

    /// Counts an app's unresolved letters, for a dashboard's badge.
    async fn unresolved_count(&self, app_id: AppId) -> Result<i64, DeadLetterRepoError>;

    /// Sets a letter's `resolution` to `reason`, one of the texts of [`Resolution`](crate::Resolution), and its
    /// `resolved_at` to now.
    ///
    /// Resolving a resolved letter replaces both.
    ///
    /// # Errors
    ///
    /// [`InvalidResolution`](DeadLetterRepoError::InvalidResolution) if `reason` is none of the four texts, with
    /// nothing sent to the database; [`NotFound`](DeadLetterRepoError::NotFound) if no letter has this id.
    async fn resolve(&self, id: DeadLetterId, reason: &str) -> Result<(), DeadLetterRepoError>;

    /// Deletes letters of all apps with `created_at < older_than`, resolved or not: oldest first, **never more than
    /// `limit` letters**.
    ///
    /// Returns how many it deleted.
    ///
    /// Rows locked by another transaction are skipped, so a result below `limit` does not mean that nothing is left.
    /// One call is one batch: the caller loops, and may pause between batches. A `limit` of 0 deletes nothing. In a
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded) table the call deletes the letters that were the oldest a
    /// moment before.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a negative `limit`, with nothing sent to the database.
    /// SQLite would read -1 as "no limit".
    async fn gc(&self, older_than: DateTime<Utc>, limit: i64) -> Result<u64, DeadLetterRepoError>;
}
