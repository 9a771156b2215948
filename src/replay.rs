//! The contract of replay: letters settled, and their events back where the service's dispatcher takes them
//! from.

use std::error::Error;

use async_trait::async_trait;
use auto_impl::auto_impl;
use sea_orm::DatabaseTransaction;

use crate::{AppId, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterRow, Settled};

/// What a service implements, once, so that others can replay its letters: see
/// [`replayer`](crate::SeaOrmDeadLetterRepo::replayer).
#[async_trait]
#[auto_impl(&, Arc)]
pub trait Requeue: Send + Sync {
    /// Puts the letters' events back where the dispatcher takes them from, the outbox say, in the transaction
    /// in which they are settled as `replayed`. They are of one app, oldest first, and at least one.
    ///
    /// An event keeps its identity where it goes back under the letter's
    /// [`original_event_id`](DeadLetterRow::original_event_id): should it die again, both deaths are found by
    /// it.
    ///
    /// # Errors
    ///
    /// Whatever went wrong, and then nothing is replayed. It must let every error out: what it did before a
    /// failed statement that it passes over is lost in PostgreSQL, and then the replay fails too; SQLite
    /// keeps it. Its text must not show a letter's content.
    async fn requeue(
        &self,
        txn: &DatabaseTransaction,
        letters: &[DeadLetterRow],
    ) -> Result<(), Box<dyn Error + Send + Sync>>;
}

/// Replay of one app's dead letters: each is settled as `replayed`, and its event put back by the service's
/// [`Requeue`], in one transaction.
///
/// For people, beside [`DeadLetterTriage`](crate::DeadLetterTriage), whose words are used here. Object-safe;
/// every call is atomic, as in [`DeadLetterRepo`](crate::DeadLetterRepo).
///
/// # Errors
///
/// Besides what each method lists, every call may answer [`Db`](DeadLetterRepoError::Db): the database
/// refused or could not be reached.
#[async_trait]
#[auto_impl(&, Arc)]
pub trait DeadLetterReplay: Send + Sync {
    /// Replays the row if it is open, and returns it as it then is. Of callers at the same time one wins, and
    /// only for that one the event is put back: the others wait for it.
    ///
    /// # Errors
    ///
    /// [`AlreadyResolved`](DeadLetterRepoError::AlreadyResolved) where it is not open,
    /// [`NotFound`](DeadLetterRepoError::NotFound) where the app has no such row,
    /// [`Requeue`](DeadLetterRepoError::Requeue) with what the service answered. The row is as it was then.
    async fn replay(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        by: Option<String>,
        note: Option<String>,
    ) -> Result<DeadLetterRow, DeadLetterRepoError>;

    /// Replays open rows that match, all or none of a batch: oldest first, at most `limit`. Rows that another
    /// transaction holds are passed over, and [`Settled::held`] says so.
    ///
    /// # Errors
    ///
    /// Those of [`resolve_matching`](crate::DeadLetterTriage::resolve_matching), and
    /// [`Requeue`](DeadLetterRepoError::Requeue) with what the service answered: every row is as it was then.
    async fn replay_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        by: Option<String>,
        note: Option<String>,
        limit: u32,
    ) -> Result<Settled, DeadLetterRepoError>;
}
