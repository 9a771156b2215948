//! The replay contract: letters are resolved, and their events go back to the service's dispatcher.

use std::{error::Error, iter};

use async_trait::async_trait;
use auto_impl::auto_impl;
use sea_orm::DatabaseTransaction;

use crate::{
    AppId, Attribution, Cursor, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterRow,
    StoredLetter, setters::setters,
};

/// Puts the events of letters back where the service's dispatcher takes them from.
///
/// A service implements it once, and operators can then replay its letters: see
/// [`replayer`](crate::SeaOrmDeadLetterRepo::replayer).
///
/// # Examples
///
/// ```
/// use std::error::Error;
///
/// use async_trait::async_trait;
/// use dead_letters::{Requeue, StoredLetter};
/// use sea_orm::{ConnectionTrait, DatabaseTransaction, Statement};
///
/// struct Outbox;
///
/// #[async_trait]
/// impl Requeue for Outbox {
///     async fn requeue(
///         &self,
///         txn: &DatabaseTransaction,
///         letters: &[StoredLetter],
///     ) -> Result<(), Box<dyn Error + Send + Sync>> {
///         for letter in letters {
///             let insert = "INSERT INTO outbox (id, payload) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";
///             let event = [letter.original_event_id.into(), letter.payload.as_str().into()];
///             txn.execute_raw(Statement::from_sql_and_values(txn.get_database_backend(), insert, event)).await?;
///         }
///         Ok(())
///     }
/// }
/// #
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// # let create = "CREATE TABLE outbox (id BLOB PRIMARY KEY, payload TEXT)";
/// # sea_orm::ConnectionTrait::execute_unprepared(repo.pool(), create).await?;
/// # let letter = dead_letters::testing::letter(app);
/// # let id = dead_letters::DeadLetterRepo::insert(&repo, letter).await?;
/// # repo.replayer(Outbox).replay(app, id, &dead_letters::Attribution::default()).await?;
/// # let count = Statement::from_string(sea_orm::DbBackend::Sqlite, "SELECT count(*) FROM outbox");
/// # assert_eq!(repo.pool().query_one_raw(count).await?.ok_or("no row")?.try_get_by_index::<i64>(0)?, 1);
/// # Ok(())
/// # }
/// ```
#[async_trait]
#[auto_impl(&, Arc)]
pub trait Requeue: Send + Sync {
    /// Puts the letters' events back where the dispatcher takes them from, such as the outbox, in the transaction
    /// that resolves the letters as `replayed`.
    ///
    /// The letters belong to one app, and are sorted oldest first. There is at least one. They are as they are
    /// stored: [`payload`](StoredLetter::payload) is the text that the dispatcher passed, with its numbers, spaces
    /// and order of fields. Put that text back, rather than a [`Value`](serde_json::Value) that was parsed from it.
    /// If somebody [edited](DeadLetterReplay::replay_edited) the payload, it is the edited text, and
    /// [`original_payload`](StoredLetter::original_payload) is the letter's own.
    ///
    /// An event keeps its identity if it goes back under the letter's
    /// [`original_event_id`](StoredLetter::original_event_id). If it fails again, both letters can be found by that
    /// id.
    ///
    /// [`DeadLetterReplay::replay_matching`] may call this method several times with parts of the same letters, each
    /// time in a transaction of its own.
    ///
    /// # Errors
    ///
    /// Any error rolls the transaction back. The implementation must return every error. If it ignores the error of a
    /// failed statement, PostgreSQL discards what it did before, and the replay fails; SQLite keeps it. The text of
    /// an error must not show a letter's content, because operators read it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::error::Error;
    /// #
    /// # use async_trait::async_trait;
    /// # use dead_letters::{Requeue, StoredLetter};
    /// # use sea_orm::{ConnectionTrait, DatabaseTransaction, Statement};
    /// #
    /// # struct Outbox;
    /// #
    /// #[async_trait]
    /// impl Requeue for Outbox {
    ///     async fn requeue(
    ///         &self,
    ///         txn: &DatabaseTransaction,
    ///         letters: &[StoredLetter],
    ///     ) -> Result<(), Box<dyn Error + Send + Sync>> {
    ///         // If an event is in the outbox already, the INSERT fails, and its letter stays open.
    ///         let insert = "INSERT INTO outbox (id, payload) VALUES ($1, $2)";
    ///         for letter in letters {
    ///             let event = [letter.original_event_id.into(), letter.payload.as_str().into()];
    ///             txn.execute_raw(Statement::from_sql_and_values(txn.get_database_backend(), insert, event)).await?;
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    async fn requeue(
        &self,
        txn: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Returns whether the service also takes letters whose payload is truncated:
    /// [`bury_with`](crate::SeaOrmDeadLetterRepo::bury_with) truncates payloads over the repo's cap. A letter whose content
    /// was [erased](crate::DeadLetterDelete::erase) is never replayed.
    ///
    /// By default it takes whole events only, so that no dispatcher delivers a part of an event as if it were the
    /// event.
    ///
    /// If the method returns `true`, [`requeue`](Self::requeue) reads in [`payload_kind`](StoredLetter::payload_kind)
    /// what each payload is.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::error::Error;
    ///
    /// use async_trait::async_trait;
    /// use dead_letters::{Requeue, StoredLetter};
    /// use sea_orm::DatabaseTransaction;
    ///
    /// struct Outbox;
    ///
    /// #[async_trait]
    /// impl Requeue for Outbox {
    ///     async fn requeue(
    ///         &self,
    ///         txn: &DatabaseTransaction,
    ///         letters: &[StoredLetter],
    ///     ) -> Result<(), Box<dyn Error + Send + Sync>> {
    ///         for letter in letters {
    ///             // The dispatcher loads the whole event by its id if the payload is only a part of it.
    ///             let is_whole = letter.payload_kind.as_deref() != Some("truncated");
    ///             insert(txn, letter.original_event_id, is_whole.then_some(&letter.payload)).await?;
    ///         }
    ///         Ok(())
    ///     }
    ///
    ///     fn accepts_truncated(&self) -> bool {
    ///         true
    ///     }
    /// }
    /// # async fn insert(_: &DatabaseTransaction, _: uuid::Uuid, _: Option<&String>) -> Result<(), sea_orm::DbErr> {
    /// #     Ok(())
    /// # }
    /// #
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let cut = dead_letters::StoredLetter {
    /// #     payload_kind: Some("truncated".to_owned()),
    /// #     ..dead_letters::testing::stored_letter(app, chrono::Utc::now())
    /// # };
    /// # dead_letters::DeadLetterTransfer::import(&repo, std::slice::from_ref(&cut)).await?;
    /// # repo.replayer(Outbox).replay(app, cut.id, &dead_letters::Attribution::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    fn accepts_truncated(&self) -> bool {
        false
    }
}

/// Replays one app's dead letters: resolves each as `replayed`, and puts its event back with the service's
/// [`Requeue`], in one transaction.
///
/// The trait is for operators, beside [`DeadLetterRead`](crate::DeadLetterRead), which defines the terms. It is
/// object-safe.
///
/// # Errors
///
/// Besides what each method lists, every call may return [`Db`](DeadLetterRepoError::Db): the database refused the
/// call or could not be reached. A call that changes letters may return [`BatchDone`](DeadLetterRepoError::BatchDone) if its
/// attribution has a [`batch`](crate::Attribution::batch). A call that takes a filter also returns the
/// [errors of a filter](DeadLetterFilter#errors).
#[async_trait]
#[auto_impl(&, Arc)]
pub trait DeadLetterReplay: Send + Sync {
    /// Replays the letter if it is open, and returns the resolved letter.
    ///
    /// The call is atomic. If several callers replay the same letter, exactly one succeeds, and the others wait for
    /// it.
    ///
    /// # Errors
    ///
    /// Each of these leaves the letter unchanged:
    ///
    /// - [`AlreadyResolved`](DeadLetterRepoError::AlreadyResolved) if the letter is not open;
    /// - [`NotFound`](DeadLetterRepoError::NotFound) if the app has no such letter;
    /// - [`PayloadNotWhole`](DeadLetterRepoError::PayloadNotWhole) if the letter's payload is truncated and the service
    ///   [takes whole ones only](Self::accepts_truncated);
    /// - [`Erased`](DeadLetterRepoError::Erased) if the letter's content was erased;
    /// - [`Requeue`](DeadLetterRepoError::Requeue) with the service's error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Attribution, DeadLetterReplay, DeadLetterRepo, Resolution, testing};
    ///
    /// # struct Outbox;
    /// # #[async_trait::async_trait]
    /// # impl dead_letters::Requeue for Outbox {
    /// #     async fn requeue(
    /// #         &self,
    /// #         _: &sea_orm::DatabaseTransaction,
    /// #         _: &[dead_letters::StoredLetter],
    /// #     ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    /// #
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let replayer = repo.replayer(Outbox);
    /// let id = repo.insert(testing::letter(app)).await?;
    /// let letter = replayer.replay(app, id, &Attribution::by("ada")).await?;
    /// assert_eq!(letter.resolution, Some(Resolution::Replayed));
    /// # Ok(())
    /// # }
    /// ```
    async fn replay(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        attribution: &Attribution,
    ) -> Result<DeadLetterRow, DeadLetterRepoError>;

    /// Replays the letter with this payload instead of its own, if the letter is open, and returns the resolved letter.
    ///
    /// The service's [`Requeue`] receives the edited text as the letter's [`payload`](StoredLetter::payload). The letter
    /// keeps its own payload, and records the edited one as [`replayed_payload`](StoredLetter::replayed_payload) until
    /// its next replay. The edited text goes back as it is passed, byte for byte. A letter whose own payload is truncated
    /// or not JSON can be replayed in this way.
    ///
    /// The call is atomic, as [`replay`](Self::replay) is.
    ///
    /// # Errors
    ///
    /// Those of [`replay`](Self::replay), except for `PayloadNotWhole`, and:
    ///
    /// - [`InvalidPayload`](DeadLetterRepoError::InvalidPayload) if the text is not JSON, or nests deeper than 127 levels,
    ///   with nothing sent to the database;
    /// - [`PayloadTooLarge`](DeadLetterRepoError::PayloadTooLarge) if the text is larger than the repo's cap, with nothing
    ///   sent either.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Attribution, DeadLetterRead, DeadLetterRepo, testing};
    ///
    /// # struct Outbox;
    /// # #[async_trait::async_trait]
    /// # impl dead_letters::Requeue for Outbox {
    /// #     async fn requeue(
    /// #         &self,
    /// #         _: &sea_orm::DatabaseTransaction,
    /// #         letters: &[dead_letters::StoredLetter],
    /// #     ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// #         assert!(letters[0].original_payload.is_some());
    /// #         Ok(())
    /// #     }
    /// # }
    /// #
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let id = repo.insert(testing::letter(app)).await?;
    /// let edited = r#"{ "order": 4712 }"#;
    /// repo.replayer(Outbox).replay_edited(app, id, edited, &Attribution::by("ada")).await?;
    /// assert_eq!(repo.replayed_payload_text(app, id, 0..u64::MAX).await?.as_deref(), Some(edited));
    /// # Ok(())
    /// # }
    /// ```
    async fn replay_edited(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        payload: &str,
        attribution: &Attribution,
    ) -> Result<DeadLetterRow, DeadLetterRepoError>;

    /// Replays one batch of open letters that match, oldest first. The batch ends at the request's limit and at 16 MB
    /// of text, with at least one letter.
    ///
    /// Letters locked by another transaction are skipped. Erased letters are left out, and truncated ones if the service
    /// [takes whole ones only](Self::accepts_truncated). To count the letters that a replay would take, use
    /// [`DeadLetterFilter::replayable`].
    ///
    /// The batch is one transaction if the service requeues all of it. If the service's [`Requeue`] or the commit
    /// fails, the call bisects the batch. Each part is a transaction of its own, which selects its letters anew, and
    /// is atomic. A letter that fails by itself stays open, and is in [`Replayed::failed`] with its error. All other
    /// letters are replayed, so an event that is already back in the outbox fails only its own letter. A
    /// [transient](DeadLetterRepoError::is_transient) error is not bisected, unless the batch ran out of time: a
    /// smaller batch may finish in time. If one letter of it still runs out of time, it is in `failed`. If the next
    /// one does too, the call stops, because the database may be the cause.
    ///
    /// If the call's future is dropped, the parts that committed stay replayed, each as a whole.
    ///
    /// While [`more`](Replayed::more) is true, call the method again with `after` set to [`Replayed::next`]. A batch
    /// then does not begin with the letters that failed before.
    ///
    /// # Errors
    ///
    /// Nothing was replayed after any of these, because an error after the first part is [`Replayed::stopped`]:
    ///
    /// - those of [`resolve_matching`](crate::DeadLetterResolve::resolve_matching);
    /// - [`InvalidCursor`](DeadLetterRepoError::InvalidCursor) for an `after` that no replay of this app and filter
    ///   returned;
    /// - [`Requeue`](DeadLetterRepoError::Requeue) with a service's error that is transient.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Attribution, DeadLetterFilter, DeadLetterReplay, ReplayRequest};
    ///
    /// # struct Outbox;
    /// # #[async_trait::async_trait]
    /// # impl dead_letters::Requeue for Outbox {
    /// #     async fn requeue(
    /// #         &self,
    /// #         _: &sea_orm::DatabaseTransaction,
    /// #         _: &[dead_letters::StoredLetter],
    /// #     ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    /// #
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let letters = (0..3).map(|_| dead_letters::testing::letter(app)).collect();
    /// # let ids = dead_letters::DeadLetterRepo::insert_many(&repo, letters).await?;
    /// # let (replayer, filter, mut back) = (repo.replayer(Outbox), DeadLetterFilter::default().ids(ids), 0);
    /// let mut request = ReplayRequest::default().limit(2);
    /// loop {
    ///     let replayed = replayer.replay_matching(app, &filter, &Attribution::by("ada"), &request).await?;
    ///     replayed.failed.iter().for_each(|failure| eprintln!("{}: {}", failure.id, failure.reason()));
    ///     # back += replayed.ids.len();
    ///     if !replayed.more {
    ///         break;
    ///     }
    ///     request.after = replayed.next;
    /// }
    /// # assert_eq!(back, 3);
    /// # Ok(())
    /// # }
    /// ```
    async fn replay_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        attribution: &Attribution,
        request: &ReplayRequest,
    ) -> Result<Replayed, DeadLetterRepoError>;

    /// Returns the service's [`Requeue::accepts_truncated`].
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterFilter, DeadLetterReplay};
    ///
    /// # struct Outbox;
    /// # #[async_trait::async_trait]
    /// # impl dead_letters::Requeue for Outbox {
    /// #     async fn requeue(
    /// #         &self,
    /// #         _: &sea_orm::DatabaseTransaction,
    /// #         _: &[dead_letters::StoredLetter],
    /// #     ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    /// #
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let replayer = repo.replayer(Outbox);
    /// // The letters that a replay of the source would take, for a preview.
    /// let orders = DeadLetterFilter::default().source("orders");
    /// let replayable = orders.replayable(replayer.accepts_truncated());
    /// assert_eq!(replayable, Some(orders.truncated(false)));
    /// # Ok(())
    /// # }
    /// ```
    fn accepts_truncated(&self) -> bool;
}

/// A batch to replay: where it begins, and how many letters it examines. The default is the first 100 letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayRequest {
    /// The [`Replayed::next`] of the call before. `None` begins with the oldest letter.
    pub after: Option<Cursor>,
    /// How many letters the call examines, 1 to 1,000.
    pub limit: u32,
}

impl ReplayRequest {
    /// Returns the [`limit`](field@Self::limit) of the next stage of a staged replay that has replayed this many
    /// letters: 1, then 10, 100 and 1,000.
    ///
    /// Between two stages a front end waits, and ends the replay if letters
    /// [failed again](DeadLetterFilter::failed_again_in_run).
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::ReplayRequest;
    ///
    /// // The first call takes one letter. After it the next one takes ten.
    /// let first = ReplayRequest::default().limit(ReplayRequest::next_stage(0));
    /// let second = ReplayRequest::default().limit(ReplayRequest::next_stage(1));
    /// assert_eq!((first.limit, second.limit), (1, 10));
    /// ```
    pub const fn next_stage(replayed: u64) -> u32 {
        match replayed {
            0 => 1,
            1..=10 => 10,
            11..=110 => 100,
            _ => 1_000,
        }
    }
}

impl Default for ReplayRequest {
    fn default() -> Self {
        Self { after: None, limit: 100 }
    }
}

setters! { ReplayRequest { some after: Cursor, plain limit: u32 } }

/// The result of a call of [`DeadLetterReplay::replay_matching`].
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Replayed {
    /// The letters that were replayed, oldest first.
    pub ids: Vec<DeadLetterId>,
    /// The letters that the service could not requeue, oldest first. They stay open. The call ends with the 32nd of
    /// them, or with the first one that fails after 10 seconds.
    pub failed: Vec<ReplayFailure>,
    /// The error that ended the call after a part of the batch was replayed or had failed. The letters in `ids` are
    /// replayed nonetheless.
    pub stopped: Option<DeadLetterRepoError>,
    /// Whether letters were skipped, which the next call may not reach: another transaction has locked them, or a
    /// policy or trigger of the database prevents the update.
    pub skipped_locked: bool,
    /// Whether the next call may replay more.
    pub more: bool,
    /// The `after` of the next call: the position behind the last letter that failed. It is the request's `after` if
    /// no letter failed.
    pub next: Option<Cursor>,
}

/// A letter that the service could not requeue.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReplayFailure {
    /// The letter, which stays open.
    pub id: DeadLetterId,
    /// The cause: [`Requeue`](DeadLetterRepoError::Requeue) with the service's error, [`Db`](DeadLetterRepoError::Db)
    /// if the commit failed, or [`PayloadNotWhole`](DeadLetterRepoError::PayloadNotWhole) if SQLite holds a payload
    /// that is not text.
    pub error: DeadLetterRepoError,
}

impl ReplayFailure {
    /// Returns the failure of a letter.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{ReplayFailure, Replayed, testing};
    ///
    /// // The result of a fake's `replay_matching`.
    /// let mut replayed = Replayed::default();
    /// replayed.failed.push(ReplayFailure::new(uuid::Uuid::nil().into(), testing::internal()));
    /// assert_eq!(replayed.failed.len(), 1);
    /// ```
    pub fn new(id: DeadLetterId, error: DeadLetterRepoError) -> Self {
        Self { id, error }
    }

    /// Returns the service's error and its sources as text. The service chose the text: escape it, like any untrusted
    /// text, before you show it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::error::Error;
    ///
    /// use dead_letters::{DeadLetterRepoError, ReplayFailure};
    ///
    /// # let id = uuid::Uuid::nil().into();
    /// let error = Box::<dyn Error + Send + Sync>::from("the queue is full");
    /// let failure = ReplayFailure::new(id, DeadLetterRepoError::Requeue(error.into()));
    /// assert_eq!(failure.reason(), "the queue is full");
    /// ```
    pub fn reason(&self) -> String {
        match self.error.source() {
            Some(error) => iter::successors(Some(error), |&error| error.source())
                .map(ToString::to_string)
                // Many errors repeat the text of their source.
                .reduce(
                    |text, source| if text.contains(&source) { text } else { format!("{text}: {source}") },
                )
                .unwrap_or_default(),
            None => self.error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ReplayRequest;

    #[test]
    fn the_stages_are_1_then_10_then_100_then_1_000() {
        let mut replayed = 0;
        let stages = [(); 5].map(|()| {
            let stage = ReplayRequest::next_stage(replayed);
            replayed += u64::from(stage);
            stage
        });
        assert_eq!(stages, [1, 10, 100, 1_000, 1_000]);
    }
}
