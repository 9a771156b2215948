//! The transfer contract: how letters leave a store whole, enter another, and get new error signatures.

use async_trait::async_trait;
use auto_impl::auto_impl;
use serde::{Deserialize, Serialize};

use crate::{
    AppId, DeadLetterFilter, DeadLetterRepoError, Page, PageRequest, RebuildRequest, Rebuilt, StoredLetter,
};

/// Exports and imports whole letters, and rebuilds error signatures after an upgrade.
///
/// The trait is object-safe. Every call but [`rebuild_signatures`](Self::rebuild_signatures) is atomic, as in
/// [`DeadLetterRepo`](crate::DeadLetterRepo). [`DeadLetterRead`](crate::DeadLetterRead) defines the terms.
///
/// # Errors
///
/// Besides what each method lists, every call may return [`Db`](DeadLetterRepoError::Db): the database refused the
/// call or could not be reached. An export also returns the [errors of a filter](DeadLetterFilter#errors).
#[async_trait]
#[auto_impl(&, Arc)]
pub trait DeadLetterTransfer: Send + Sync {
    /// Lists whole letters, as they are stored, in the order of [`list`](crate::DeadLetterRead::list).
    ///
    /// A page has up to 1,000 letters. It also ends at 16 MB of text, with at least one letter. A letter that is
    /// deleted, or no longer matches, while the page is read is left out.
    ///
    /// # Errors
    ///
    /// Those of [`list`](crate::DeadLetterRead::list), except that `page.size` may be 1 to 1,000, and
    /// [`InvalidQuery`](DeadLetterRepoError::InvalidQuery) for the order
    /// [`MostAttempts`](crate::ListSort::MostAttempts).
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterFilter, DeadLetterState, DeadLetterTransfer, PageRequest};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// let any = DeadLetterFilter::default().state(DeadLetterState::Any);
    /// let page = repo.export(app, &any, &PageRequest::default().size(1_000)).await?;
    /// for letter in &page.items {
    ///     println!("{}", serde_json::to_string(letter)?);
    /// }
    /// assert!(page.next.is_none());
    /// # Ok(())
    /// # }
    /// ```
    async fn export(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<StoredLetter>, DeadLetterRepoError>;

    /// Stores exported letters, each in its app, with their ids, times and resolutions.
    ///
    /// A letter whose id exists already is not stored, whatever the existing letter holds, and is counted as present.
    /// In a [sharded](crate::SeaOrmDeadLetterRepo::sharded) table only ids of the same app count as existing. If
    /// `letters` has several copies of a letter, the last copy is stored.
    ///
    /// The call is atomic, and takes at most 1,000 letters. The caps of the repo do not apply. Times lose digits
    /// below a microsecond.
    ///
    /// Letters keep their `created_at` and `resolved_at`, which decide when a sweep deletes them. A letter that a
    /// sweep archived is still due: the next sweep with the same retention deletes it again. Give its app a longer
    /// retention first, or compare the two times with the retention and leave out letters that are due.
    ///
    /// # Errors
    ///
    /// Nothing is stored after any of these:
    ///
    /// - [`OutOfRange`](DeadLetterRepoError::OutOfRange) for more than 1,000 letters, with the argument `letters`;
    /// - [`NotStorable`](DeadLetterRepoError::NotStorable), with the index and the field of the first such letter. The
    ///   table holds no `attempt_count` over [`i32::MAX`], no `resolved_at` without a `resolution` or the reverse, no
    ///   NUL in a text, and no resolution but the four. It also holds no metadata but a JSON object of at most 16 KB, and
    ///   no payload kind but the four;
    /// - [`TimeOutOfRange`](DeadLetterRepoError::TimeOutOfRange), with the index and the field of the first such
    ///   letter;
    /// - [`TooLargeForTransaction`](DeadLetterRepoError::TooLargeForTransaction) for letters of more than 256 MB in
    ///   [a caller's transaction](crate::SeaOrmDeadLetterRepo::in_transaction).
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterFilter, DeadLetterTransfer, PageRequest, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # dead_letters::DeadLetterRepo::insert(&repo, testing::letter(app)).await?;
    /// let letters = repo.export(app, &DeadLetterFilter::default(), &PageRequest::default()).await?.items;
    /// let other = testing::store().await?;
    /// assert_eq!(other.import(&letters).await?.stored, 1);
    /// // An import that is repeated changes nothing.
    /// assert_eq!(other.import(&letters).await?.present, 1);
    /// # Ok(())
    /// # }
    /// ```
    async fn import(&self, letters: &[StoredLetter]) -> Result<Imported, DeadLetterRepoError>;

    /// Recomputes the stale error signatures, and the group keys, of up to `limit` letters of all apps, in order of
    /// id.
    ///
    /// A signature is stale if an earlier version of the rules made it, or if another writer stored the letter
    /// without a group key or a signature. Signatures that a service made, signatures of a newer version, and
    /// signatures of erased letters stay. Run a rebuild once every process has this version, because an older process
    /// keeps storing older signatures.
    ///
    /// One statement examines the letters, one reads the stale ones, and one updates them. In a
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded) table the last two are sent for each app. A call reads at most
    /// 16 MB, or one letter. Letters that another transaction has locked, or that changed in between, are skipped and
    /// stay stale. A rebuild is idempotent: restart an interrupted one.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 500, with nothing sent to the
    /// database.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{AppId, DeadLetterRepo, DeadLetterTransfer, RebuildRequest, testing};
    /// use uuid::Uuid;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let repo = testing::store().await?;
    /// repo.insert(testing::letter(AppId::from(Uuid::new_v4()))).await?;
    ///
    /// let mut request = RebuildRequest::default();
    /// loop {
    ///     let rebuilt = repo.rebuild_signatures(&request).await?;
    ///     assert_eq!((rebuilt.examined, rebuilt.stale), (1, 0));
    ///     request.after = rebuilt.next;
    ///     if request.after.is_none() {
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    async fn rebuild_signatures(&self, request: &RebuildRequest) -> Result<Rebuilt, DeadLetterRepoError>;
}

/// How many of the letters of an import were stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Imported {
    /// Letters that were stored.
    pub stored: u64,
    /// Letters that existed already, or were given twice in the same call.
    pub present: u64,
}
