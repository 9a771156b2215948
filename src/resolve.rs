//! The resolve contract: how operators resolve and reopen dead letters.

use async_trait::async_trait;
use auto_impl::auto_impl;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterSummary, Resolution,
    debug::debug_without_content, setters::setters,
};

/// Resolves and reopens one app's dead letters, one at a time or in bulk.
///
/// The trait is object-safe. Every call is atomic, as in [`DeadLetterRepo`](crate::DeadLetterRepo).
/// [`DeadLetterRead`](crate::DeadLetterRead) defines the terms.
///
/// # Errors
///
/// Besides what each method lists, every call may return [`Db`](DeadLetterRepoError::Db): the database refused the
/// call or could not be reached. A call that changes letters may return [`BatchDone`](DeadLetterRepoError::BatchDone) if its
/// attribution has a [`batch`](crate::Attribution::batch). A call that takes a filter also returns the
/// [errors of a filter](DeadLetterFilter#errors).
///
/// # Examples
///
/// ```
/// use dead_letters::{
///     AppId, Attribution, DeadLetterFilter, DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, Resolution,
///     testing,
/// };
/// use chrono::Utc;
/// use uuid::Uuid;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let repo = testing::store().await?;
/// let app = AppId::from(Uuid::new_v4());
/// let ids = repo.insert_many(vec![testing::letter(app), testing::letter(app), testing::letter(app)]).await?;
///
/// let sold_out = Attribution::by("ada").note("sold out");
/// repo.resolve_once(app, ids[0], Resolution::Ignored, &sold_out).await?;
/// let again = repo.resolve_once(app, ids[0], Resolution::Ignored, &sold_out).await;
/// assert!(matches!(again, Err(DeadLetterRepoError::AlreadyResolved { .. })));
///
/// // The rest of what has failed by now, in batches. Letters that another transaction has locked are skipped, and
/// // the last batch then says so with `skipped_locked`.
/// let until_now = DeadLetterFilter::default().created_before(Utc::now() + chrono::TimeDelta::seconds(1));
/// while repo.resolve_matching(app, &until_now, Resolution::Ignored, &sold_out, 100).await?.more {}
/// assert_eq!(repo.unresolved_count(app).await?, 0);
/// # Ok(())
/// # }
/// ```
#[async_trait]
#[auto_impl(&, Arc)]
pub trait DeadLetterResolve: Send + Sync {
    /// Resolves the letter if it is open, and returns the resolved letter. If several callers close the same letter
    /// at the same time, exactly one succeeds.
    ///
    /// The call is one statement on PostgreSQL, and a transaction on SQLite and over a
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded) table. It does not read the payload. It writes a row of the app's
    /// [history](crate::DeadLetterRead::actions), as every call of this trait that changes letters does. A
    /// `handler_failed` letter stays open: it can be resolved as `handler_failed` again, and its `resolved_at` is then
    /// the last time that its handler failed.
    ///
    /// # Errors
    ///
    /// [`AlreadyResolved`](DeadLetterRepoError::AlreadyResolved) if the letter is not open,
    /// [`NotFound`](DeadLetterRepoError::NotFound) if the app has no such letter.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Attribution, DeadLetterResolve, ErrorKind, Resolution};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let id = dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// let by_ada = Attribution::by("ada").note("sold out");
    /// let resolved = repo.resolve_once(app, id, Resolution::Ignored, &by_ada).await?;
    /// assert_eq!(resolved.resolved_by.as_deref(), Some("ada"));
    /// let by_ben = repo.resolve_once(app, id, Resolution::Ignored, &Attribution::by("ben")).await;
    /// assert_eq!(by_ben.unwrap_err().kind(), ErrorKind::Conflict);
    /// # Ok(())
    /// # }
    /// ```
    async fn resolve_once(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        resolution: Resolution,
        attribution: &Attribution,
    ) -> Result<DeadLetterSummary, DeadLetterRepoError>;

    /// Resolves open letters that match, oldest first, at most `limit`.
    ///
    /// Letters locked by another transaction are skipped, and [`Changed::skipped_locked`] reports that.
    ///
    /// If the filter's state is [`Closed`](crate::DeadLetterState::Closed), no letter can be open, and the call sends
    /// no statement. Resolving as `handler_failed` skips letters that are `handler_failed` already. Each letter is
    /// then resolved at most once, and a loop ends.
    ///
    /// # Errors
    ///
    /// Each of these is returned with nothing sent to the database:
    ///
    /// - [`MissingCreatedBefore`](DeadLetterRepoError::MissingCreatedBefore) if the filter has neither
    ///   `created_before` nor `ids`: the call would also resolve letters that fail meanwhile;
    /// - [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 1,000, and more than 1,000 ids.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Attribution, DeadLetterFilter, DeadLetterResolve, Resolution};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let letters = vec![dead_letters::testing::letter(app), dead_letters::testing::letter(app)];
    /// # let ids = dead_letters::DeadLetterRepo::insert_many(&repo, letters).await?;
    /// // The letters that an operator ticked.
    /// let ticked = DeadLetterFilter::default().ids(ids);
    /// let by_ada = Attribution::by("ada");
    /// let resolved = repo.resolve_matching(app, &ticked, Resolution::HandledByScript, &by_ada, 1_000).await?;
    /// assert_eq!((resolved.ids.len(), resolved.more), (2, false));
    /// # Ok(())
    /// # }
    /// ```
    async fn resolve_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        resolution: Resolution,
        attribution: &Attribution,
        limit: u32,
    ) -> Result<Changed, DeadLetterRepoError>;

    /// Reopens closed letters that match, at most `limit`: makes them unresolved again, as [`reopen`](Self::reopen)
    /// does. With `filter.resolution` set to `handler_failed`, the call reopens those letters instead.
    ///
    /// To undo a bulk run, set `filter.run_id` to the run's id. The call then reopens the letters that the run closed
    /// and that nobody changed since, because each change of a letter's resolution replaces its run id.
    ///
    /// The call leaves `replayed` letters out, because their events are back in the outbox. Set
    /// [`ReopenRequest::include_replayed`] to reopen them too.
    ///
    /// A letter that was `handler_failed` before the run becomes unresolved too. Undo a run after its last batch has
    /// committed, because the call does not wait for that batch.
    ///
    /// The order is that of the ids if the filter has a run id, of `created_at` for `handler_failed` letters, and of
    /// `resolved_at` otherwise, smallest first. Letters locked by another transaction are skipped, and
    /// [`Changed::skipped_locked`] reports that. The letters do not keep the attribution; the
    /// [history](crate::DeadLetterRead::actions) does.
    ///
    /// If the filter asks only for letters that can't be reopened so, the call sends no statement.
    ///
    /// # Errors
    ///
    /// Each of these is returned with nothing sent to the database:
    ///
    /// - [`MissingResolvedBefore`](DeadLetterRepoError::MissingResolvedBefore) if the filter has none of
    ///   `resolved_before`, `run_id` and `ids`: the call would also reopen letters that are closed meanwhile;
    /// - [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 1,000, and more than 1,000 ids.
    ///
    /// # Examples
    ///
    /// ```
    /// # use dead_letters::{AppId, DeadLetterRepo, testing};
    /// use dead_letters::{
    ///     Attribution, DeadLetterFilter, DeadLetterResolve, ReopenRequest, Resolution,
    /// };
    /// use uuid::Uuid;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = testing::store().await?;
    /// # let app = AppId::from(Uuid::new_v4());
    /// # let ids = repo.insert_many(vec![testing::letter(app), testing::letter(app)]).await?;
    /// let run = Uuid::now_v7();
    /// let ticked = DeadLetterFilter::default().ids(ids);
    /// let by_ada = Attribution::by("ada").run_id(run);
    /// repo.resolve_matching(app, &ticked, Resolution::Ignored, &by_ada, 100).await?;
    ///
    /// // It was a mistake.
    /// let of_run = DeadLetterFilter::default().run_id(run);
    /// let undone = repo.reopen_matching(app, &of_run, &by_ada, &ReopenRequest::default()).await?;
    /// assert_eq!(undone.ids.len(), 2);
    /// assert_eq!(repo.unresolved_count(app).await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    async fn reopen_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        attribution: &Attribution,
        request: &ReopenRequest,
    ) -> Result<Changed, DeadLetterRepoError>;

    /// Reopens a resolved letter: makes it unresolved again, a `handler_failed` one too, and clears who resolved it
    /// and why. A replayed letter stays as it is: its event was put back into the outbox, and another replay could deliver
    /// it twice.
    ///
    /// The letter does not keep the attribution; the [history](crate::DeadLetterRead::actions) does.
    ///
    /// # Errors
    ///
    /// - [`NotResolved`](DeadLetterRepoError::NotResolved) if the letter is unresolved;
    /// - [`Replayed`](DeadLetterRepoError::Replayed) if it was replayed.
    ///   [`reopen_matching`](Self::reopen_matching) can reopen it;
    /// - [`NotFound`](DeadLetterRepoError::NotFound) if the app has no such letter.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Attribution, DeadLetterRepo, DeadLetterResolve, Resolution};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let id = repo.insert(dead_letters::testing::letter(app)).await?;
    /// let by_ada = Attribution::by("ada");
    /// repo.resolve_once(app, id, Resolution::Ignored, &by_ada).await?;
    /// repo.reopen(app, id, &by_ada.note("the customer called again")).await?;
    /// assert_eq!(repo.unresolved_count(app).await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    async fn reopen(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        attribution: &Attribution,
    ) -> Result<(), DeadLetterRepoError>;

    /// Records in the [history](crate::DeadLetterRead::actions) that the operator of `attribution` sees content of the letter
    /// that the service redacts for others. The letter does not change.
    ///
    /// A front end calls it before it shows the content. If the call fails, it shows nothing.
    ///
    /// # Errors
    ///
    /// [`NotFound`](DeadLetterRepoError::NotFound) if the app has no such letter.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Action, ActionRequest, Attribution, DeadLetterRead, DeadLetterResolve};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let id = dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// repo.record_reveal(app, id, &Attribution::by("ada")).await?;
    /// println!("{:?}", repo.payload_text(app, id, 0..u64::MAX).await?);
    /// let history = repo.actions(app, &ActionRequest::default().letter_id(id)).await?;
    /// assert_eq!(history[0].action, Some(Action::Reveal));
    /// # Ok(())
    /// # }
    /// ```
    async fn record_reveal(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        attribution: &Attribution,
    ) -> Result<(), DeadLetterRepoError>;
}

/// Who changes letters, and why, and in which run. The default names nobody, no reason and no run.
///
/// A NUL in a text becomes U+FFFD. Deserializing an unknown field is an error. `Debug` shows the texts by their size.
///
/// # Examples
///
/// ```
/// use dead_letters::Attribution;
/// use uuid::Uuid;
///
/// let run = Uuid::now_v7();
/// let attribution = Attribution::by("ada").note("sold out").run_id(run).batch(1);
/// assert_eq!((attribution.note.as_deref(), attribution.run_id), (Some("sold out"), Some(run)));
/// ```
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Attribution {
    /// Who decided it.
    pub by: Option<String>,
    /// Why it was decided.
    pub note: Option<String>,
    /// The bulk run that the call belongs to: an id that the caller makes, such as [`Uuid::now_v7`], and passes with
    /// each batch. The letters keep it until their resolution changes again, so that the run can be
    /// [undone](DeadLetterResolve::reopen_matching).
    pub run_id: Option<Uuid>,
    /// The number of the call in its run. At most one call with the same app, run and number changes letters. Another one
    /// returns [`BatchDone`](crate::DeadLetterRepoError::BatchDone). If both are made at the same time, the second waits
    /// for the transaction of the first. Without a number, or without a run, nothing is checked.
    ///
    /// A call that finds no letter to change does not use up its number, and may return as if the number were free. A
    /// replay in several transactions uses it in the first. [`erase`](crate::DeadLetterDelete::erase) ignores it. The
    /// number is free again when [`sweep_actions`](crate::DeadLetterRetention::sweep_actions) deletes the row of the
    /// history.
    pub batch: Option<u32>,
}

impl Attribution {
    /// Returns an attribution that names somebody.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::Attribution;
    ///
    /// let attribution = Attribution::by("ada");
    /// assert_eq!(attribution.by.as_deref(), Some("ada"));
    /// assert_eq!(attribution.note, None);
    /// ```
    pub fn by(by: impl Into<String>) -> Self {
        Self { by: Some(by.into()), ..Self::default() }
    }
}

setters! { Attribution { into note: String, some run_id: Uuid, some batch: u32 } }

debug_without_content! { Attribution { run_id, batch; by, note } }

/// Which letters [`reopen_matching`](DeadLetterResolve::reopen_matching) takes, beside its filter. The default is at most
/// 1,000, without replayed ones.
///
/// Every field may be missing when it is deserialized. An unknown field is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ReopenRequest {
    /// Whether to reopen `replayed` letters too. Their events are back in the outbox, so a letter that is then replayed
    /// again delivers its event twice.
    pub include_replayed: bool,
    /// How many letters to reopen at most, 1 to 1,000.
    pub limit: u32,
}

impl Default for ReopenRequest {
    fn default() -> Self {
        Self { include_replayed: false, limit: 1_000 }
    }
}

setters! { ReopenRequest { plain include_replayed: bool, plain limit: u32 } }

/// The result of a bulk call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Changed {
    /// The letters that the call changed, oldest first.
    pub ids: Vec<DeadLetterId>,
    /// Whether the call reached its limit and changed a letter. The next call may change more, or find nothing. A loop
    /// that continues while this is true ends.
    pub more: bool,
    /// Whether matching letters are left because they could not be updated. A transaction that has not ended has
    /// locked them, or a policy or trigger of the database prevents the update. Try again later. The call checks it
    /// only if `more` is false, and not on SQLite, which has no row locks.
    pub skipped_locked: bool,
}
