//! The store contract: the calls of a dispatcher.

use async_trait::async_trait;
use auto_impl::auto_impl;
use chrono::{DateTime, Utc};

use crate::{AppId, DeadLetterId, DeadLetterRepoError, DeadLetterRow, NewDeadLetter};

/// Stores dead letters: inserts, returns, lists, counts, resolves and deletes them.
///
/// The trait is object-safe: services hold it as `Arc<dyn DeadLetterRepo>`. Every call is atomic: after an error,
/// nothing of it was done. The exception is a connection that breaks while the database sends its response. The
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
    /// Each of these is returned with nothing sent to the database:
    ///
    /// - [`PayloadTooLarge`](DeadLetterRepoError::PayloadTooLarge) if the payload is over the repo's cap;
    /// - [`MetadataTooLarge`](DeadLetterRepoError::MetadataTooLarge) if the metadata has more than 16 KB of JSON text;
    /// - [`TimeOutOfRange`](DeadLetterRepoError::TimeOutOfRange) if a time is outside the years 1 to 9999 UTC.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepo, NewDeadLetter};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let event_id = uuid::Uuid::new_v4();
    /// let payload = serde_json::json!({ "order": 4711 });
    /// let letter = NewDeadLetter::new(app, event_id, "orders", "insert", payload, "smtp: 451 try again later");
    /// let id = repo.insert(letter).await?;
    /// assert_eq!(repo.get(id).await?.map(|letter| letter.original_event_id), Some(event_id));
    /// # Ok(())
    /// # }
    /// ```
    async fn insert(&self, letter: NewDeadLetter) -> Result<DeadLetterId, DeadLetterRepoError>;

    /// Stores any number of letters, all of them or none, and returns their ids in the order of the letters.
    ///
    /// A later letter of the call has a larger id. In PostgreSQL all letters of the call have the same `created_at`,
    /// so a listing shows the later letter first. An empty `Vec` sends no statement. In a caller's transaction an
    /// error must end in a rollback, as with every call.
    ///
    /// # Errors
    ///
    /// Each of these is returned with nothing sent to the database:
    ///
    /// - those of [`insert`](Self::insert), with the index of the first such letter;
    /// - [`TooLargeForTransaction`](DeadLetterRepoError::TooLargeForTransaction) if the letters do not fit into the one
    ///   statement that stores them in [a caller's transaction](crate::SeaOrmDeadLetterRepo::in_transaction).
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepo, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let ids = repo.insert_many(vec![testing::letter(app), testing::letter(app)]).await?;
    /// assert!(ids[0] < ids[1]);
    /// assert_eq!(repo.unresolved_count(app).await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    async fn insert_many(
        &self,
        letters: Vec<NewDeadLetter>,
    ) -> Result<Vec<DeadLetterId>, DeadLetterRepoError>;

    /// Returns one letter, or `None` if no letter has this id.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterId, DeadLetterRepo};
    /// use uuid::Uuid;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let id = repo.insert(dead_letters::testing::letter(app)).await?;
    /// if let Some(letter) = repo.get(id).await? {
    ///     println!("attempt {} failed: {}", letter.attempt_count, letter.last_error);
    /// }
    /// assert!(repo.get(DeadLetterId::from(Uuid::nil())).await?.is_none());
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::DeadLetterRepo;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # repo.insert_many((0..3).map(|_| dead_letters::testing::letter(app)).collect()).await?;
    /// let first_page = repo.list_for_app(app, true, 2, 0).await?;
    /// let second_page = repo.list_for_app(app, true, 2, 2).await?;
    /// assert_eq!((first_page.len(), second_page.len()), (2, 1));
    /// assert!(first_page[1].created_at >= second_page[0].created_at);
    /// # Ok(())
    /// # }
    /// ```
    async fn list_for_app(
        &self,
        app_id: AppId,
        unresolved_only: bool,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<DeadLetterRow>, DeadLetterRepoError>;

    /// Counts an app's unresolved letters, for a dashboard's badge.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::DeadLetterRepo;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let ids = repo.insert_many(vec![dead_letters::testing::letter(app), dead_letters::testing::letter(app)]).await?;
    /// repo.resolve(ids[0], "handler_failed").await?;
    /// // A letter whose handler failed is open, but no longer unresolved.
    /// assert_eq!(repo.unresolved_count(app).await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    async fn unresolved_count(&self, app_id: AppId) -> Result<i64, DeadLetterRepoError>;

    /// Sets a letter's `resolution` to `reason`, one of the texts of [`Resolution`](crate::Resolution), and its
    /// `resolved_at` to now.
    ///
    /// If the letter is resolved already, the call replaces both, and clears who resolved it, the note and the run id. The
    /// reason `replayed` also clears the [edited payload](crate::StoredLetter::replayed_payload) of an earlier replay.
    ///
    /// # Errors
    ///
    /// [`InvalidResolution`](DeadLetterRepoError::InvalidResolution) if `reason` is none of the four texts, with
    /// nothing sent to the database; [`NotFound`](DeadLetterRepoError::NotFound) if no letter has this id.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepo, DeadLetterRepoError};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let id = repo.insert(dead_letters::testing::letter(app)).await?;
    /// repo.resolve(id, "ignored").await?;
    /// let misspelled = repo.resolve(id, "ignore").await;
    /// assert!(matches!(misspelled, Err(DeadLetterRepoError::InvalidResolution(_))));
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::{TimeDelta, Utc};
    /// use dead_letters::DeadLetterRepo;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let old = dead_letters::testing::stored_letter(app, Utc::now() - TimeDelta::days(31));
    /// # dead_letters::DeadLetterTransfer::import(&repo, &[old]).await?;
    /// let a_month_ago = Utc::now() - TimeDelta::days(30);
    /// while repo.gc(a_month_ago, 1_000).await? == 1_000 {}
    /// assert_eq!(repo.unresolved_count(app).await?, 0);
    /// # Ok(())
    /// # }
    /// ```
    async fn gc(&self, older_than: DateTime<Utc>, limit: i64) -> Result<u64, DeadLetterRepoError>;
}
