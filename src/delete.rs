//! The delete contract: how operators delete chosen letters, and erase their content.

use async_trait::async_trait;
use auto_impl::auto_impl;
use serde::{Deserialize, Serialize};

use crate::{AppId, Attribution, Changed, DeadLetterFilter, DeadLetterId, DeadLetterRepoError};

/// Deletes chosen letters of one app, or erases their content.
///
/// Retention needs neither: a [`Sweeper`](crate::DeadLetterRetention) deletes what is old. The trait is object-safe.
/// Every call is atomic, as in [`DeadLetterRepo`](crate::DeadLetterRepo). [`DeadLetterRead`](crate::DeadLetterRead)
/// defines the terms.
///
/// Neither call changes archives, backups or the write-ahead log. The old content also stays in the pages of the database
/// file, until PostgreSQL overwrites them after a VACUUM, and on SQLite until a VACUUM, or with `secure_delete` at once.
///
/// # Errors
///
/// Besides what each method lists, every call may return [`Db`](DeadLetterRepoError::Db): the database refused the
/// call or could not be reached. A deletion may return [`BatchDone`](DeadLetterRepoError::BatchDone) if its
/// attribution has a [`batch`](crate::Attribution::batch). It also returns the
/// [errors of a filter](DeadLetterFilter#errors).
///
/// # Examples
///
/// ```
/// use dead_letters::{
///     AppId, Attribution, DeadLetterDelete, DeadLetterFilter, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError,
///     testing,
/// };
/// use uuid::Uuid;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let repo = testing::store().await?;
/// let app = AppId::from(Uuid::new_v4());
/// let ids = repo.insert_many(vec![testing::letter(app), testing::letter(app)]).await?;
///
/// // A customer asked for erasure. The letter is still there for statistics.
/// let by_ada = Attribution::by("ada").note("request 17");
/// assert_eq!(repo.erase(app, &ids[..1], &by_ada).await?.ids, ids[..1]);
/// assert_eq!(repo.payload_text(app, ids[0], 0..10).await?.as_deref(), Some("null"));
///
/// let ticked = DeadLetterFilter::default().ids(ids);
/// assert_eq!(repo.delete_matching(app, &ticked, &by_ada, 100).await?.ids.len(), 2);
/// # Ok(())
/// # }
/// ```
#[async_trait]
#[auto_impl(&, Arc)]
pub trait DeadLetterDelete: Send + Sync {
    /// Deletes letters that match, oldest first, at most `limit`: those in the filter's
    /// [state](DeadLetterFilter::effective_state), open letters too.
    ///
    /// If the filter's state is closed, the order is that of `resolved_at`, or of the ids if the filter has a run id.
    /// Letters locked by another transaction are skipped, and [`Changed::skipped_locked`] reports that.
    ///
    /// A deleted letter can't be brought back. The [history](crate::DeadLetterRead::actions) keeps who deleted how many.
    ///
    /// # Errors
    ///
    /// Each of these is returned with nothing sent to the database:
    ///
    /// - [`MissingCreatedBefore`](DeadLetterRepoError::MissingCreatedBefore) if unresolved letters can match,
    ///   and the filter has neither `created_before` nor `ids`: the call would also delete letters that fail meanwhile;
    /// - [`MissingResolvedBefore`](DeadLetterRepoError::MissingResolvedBefore) if only resolved letters match, and the
    ///   filter has none of `resolved_before`, `run_id` and `ids`: the call would also delete letters that are resolved
    ///   meanwhile;
    /// - [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 1,000, and more than 1,000 ids.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Attribution, DeadLetterDelete, DeadLetterFilter};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// // The letters of a load test, in batches.
    /// let later = chrono::Utc::now() + chrono::TimeDelta::minutes(1);
    /// let of_test = DeadLetterFilter::default().source("load-test").created_before(later);
    /// while repo.delete_matching(app, &of_test, &Attribution::by("ada"), 1_000).await?.more {}
    /// # Ok(())
    /// # }
    /// ```
    async fn delete_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        attribution: &Attribution,
        limit: u32,
    ) -> Result<Changed, DeadLetterRepoError>;

    /// Erases the content of these letters of the app, at most 1,000.
    ///
    /// The content of a letter is its payload, edited payload, error, error signature, metadata and note. The call also
    /// erases the notes of the letters' own rows in the [history](crate::DeadLetterRead::actions). Rows of bulk runs
    /// keep their notes, and every row keeps its filter, which may quote metadata or errors:
    /// [`sweep_actions`](crate::DeadLetterRetention::sweep_actions) deletes old rows.
    ///
    /// Each letter keeps its facts: ids, source, op, attempts, times, state, who resolved it, and its group. Its payload
    /// is `null` with the kind [`Erased`](crate::PayloadKind::Erased), its error is empty, its signature is `(erased)`,
    /// and `erased_at` is the time by the database's clock. It can be resolved, reopened, swept, exported and archived.
    /// It can't be replayed.
    ///
    /// The history has a row for each erased letter, with the attribution.
    ///
    /// The call skips letters that are erased already, unless somebody wrote a note since. It also empties the history of
    /// letters that were deleted before. Letters that it could not erase are in
    /// [`Erased::skipped_locked`]; an id in neither list is of an erased letter or of none. An
    /// [import](crate::DeadLetterTransfer::import) does not restore the content of an erased letter that is stored, but it
    /// restores a letter that was swept. Erase the letter in the store first, and then in each archive.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for more than 1,000 ids, with nothing sent to the database.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Attribution, DeadLetterDelete, DeadLetterRepo, PayloadKind, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let id = repo.insert(testing::letter(app)).await?;
    /// let erased = repo.erase(app, &[id], &Attribution::by("ada")).await?;
    /// assert!(erased.skipped_locked.is_empty());
    /// let letter = repo.get(id).await?.ok_or("swept")?;
    /// assert_eq!((letter.payload_kind, letter.last_error.as_str()), (Some(PayloadKind::Erased), ""));
    /// # Ok(())
    /// # }
    /// ```
    async fn erase(
        &self,
        app_id: AppId,
        ids: &[DeadLetterId],
        attribution: &Attribution,
    ) -> Result<Erased, DeadLetterRepoError>;
}

/// The result of a call of [`DeadLetterDelete::erase`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Erased {
    /// The letters that the call erased, smallest id first.
    pub ids: Vec<DeadLetterId>,
    /// The letters that it could not erase, smallest id first: another transaction has locked them, or a policy or trigger
    /// of the database prevents the update. Try again later. SQLite has no row locks.
    pub skipped_locked: Vec<DeadLetterId>,
}
