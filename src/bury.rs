//! The bury contract: events that used up their retries move from the service's outbox into the store.

use std::error::Error;

use async_trait::async_trait;
use auto_impl::auto_impl;
use sea_orm::DatabaseTransaction;
use uuid::Uuid;

use crate::{DeadLetterId, DeadLetterRepoError, NewDeadLetter};

/// Takes events out of the service's outbox.
///
/// A service implements it once, and its dispatcher can then bury events without a closure: see
/// [`burier`](crate::SeaOrmDeadLetterRepo::burier).
#[async_trait]
#[auto_impl(&, Arc)]
pub trait Take: Send + Sync {
    /// Deletes the event from the outbox, in the transaction that stores its letter, and returns how many rows it
    /// deleted.
    ///
    /// `event_id` is the letter's [`original_event_id`](NewDeadLetter::original_event_id).
    ///
    /// # Errors
    ///
    /// Any error rolls the transaction back. The implementation must return every error. The text of an error must
    /// not show a letter's content.
    async fn take(
        &self,
        txn: &DatabaseTransaction,
        event_id: Uuid,
    ) -> Result<u64, Box<dyn Error + Send + Sync>>;
}

/// Buries events, as an object: a dispatcher holds it as `Arc<dyn DeadLetterBury>`.
///
/// # Examples
///
/// ```
/// use std::error::Error;
///
/// use async_trait::async_trait;
/// use dead_letters::{AppId, DeadLetterRepo, Take, testing};
/// use sea_orm::{ConnectionTrait, DatabaseTransaction, Statement};
/// use uuid::Uuid;
///
/// struct Outbox;
///
/// #[async_trait]
/// impl Take for Outbox {
///     async fn take(
///         &self,
///         txn: &DatabaseTransaction,
///         event_id: Uuid,
///     ) -> Result<u64, Box<dyn Error + Send + Sync>> {
///         let delete = "DELETE FROM outbox WHERE id = ?";
///         let delete = Statement::from_sql_and_values(txn.get_database_backend(), delete, [event_id.into()]);
///         Ok(txn.execute_raw(delete).await?.rows_affected())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn Error>> {
/// let repo = testing::store().await?;
/// repo.pool().execute_unprepared("CREATE TABLE outbox (id BLOB PRIMARY KEY)").await?;
/// let letter = testing::letter(AppId::from(Uuid::new_v4()));
/// # let event = Statement::from_sql_and_values(
/// #     sea_orm::DbBackend::Sqlite, "INSERT INTO outbox VALUES (?)", [letter.original_event_id.into()]);
/// # repo.pool().execute_raw(event).await?;
/// let id = repo.burier(Outbox).bury(letter).await?;
/// assert!(repo.get(id).await?.is_some());
/// # Ok(())
/// # }
/// ```
#[async_trait]
#[auto_impl(&, Arc)]
pub trait DeadLetterBury: Send + Sync {
    /// Moves an event from the outbox into the store, in one transaction, as
    /// [`bury_with`](crate::SeaOrmDeadLetterRepo::bury_with) does with the service's [`Take`].
    ///
    /// # Errors
    ///
    /// Those of [`bury_with`](crate::SeaOrmDeadLetterRepo::bury_with).
    async fn bury(&self, letter: NewDeadLetter) -> Result<DeadLetterId, DeadLetterRepoError>;
}
