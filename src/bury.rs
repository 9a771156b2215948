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
///
/// # Examples
///
/// ```
/// use std::error::Error;
///
/// use async_trait::async_trait;
/// use dead_letters::Take;
/// use sea_orm::{ConnectionTrait, DatabaseTransaction, Statement};
/// use uuid::Uuid;
///
/// /// Marks events instead of deleting them. Only a pending event can be taken.
/// struct Events;
///
/// #[async_trait]
/// impl Take for Events {
///     async fn take(&self, txn: &DatabaseTransaction, id: Uuid) -> Result<u64, Box<dyn Error + Send + Sync>> {
///         let mark = "UPDATE events SET state = 'buried' WHERE id = $1 AND state = 'pending'";
///         let mark = Statement::from_sql_and_values(txn.get_database_backend(), mark, [id.into()]);
///         Ok(txn.execute_raw(mark).await?.rows_affected())
///     }
/// }
/// #
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// # repo.pool().execute_unprepared("CREATE TABLE events (id BLOB PRIMARY KEY, state TEXT)").await?;
/// # let letter = dead_letters::testing::letter(app);
/// # let event = [letter.original_event_id.into()];
/// # let insert = "INSERT INTO events VALUES (?, 'pending')";
/// # let insert = Statement::from_sql_and_values(sea_orm::DbBackend::Sqlite, insert, event);
/// # repo.pool().execute_raw(insert).await?;
/// # let burier = repo.burier(Events);
/// # dead_letters::DeadLetterBury::bury(&burier, letter.clone()).await?;
/// # assert!(dead_letters::DeadLetterBury::bury(&burier, letter).await.is_err());
/// # Ok(())
/// # }
/// ```
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
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::error::Error;
    /// #
    /// # use async_trait::async_trait;
    /// # use dead_letters::Take;
    /// # use sea_orm::{ConnectionTrait, DatabaseTransaction, Statement};
    /// # use uuid::Uuid;
    /// #
    /// # struct Outbox;
    /// #
    /// #[async_trait]
    /// impl Take for Outbox {
    ///     async fn take(&self, txn: &DatabaseTransaction, id: Uuid) -> Result<u64, Box<dyn Error + Send + Sync>> {
    ///         let delete = "DELETE FROM outbox WHERE id = $1";
    ///         let delete = Statement::from_sql_and_values(txn.get_database_backend(), delete, [id.into()]);
    ///         Ok(txn.execute_raw(delete).await?.rows_affected())
    ///     }
    /// }
    /// ```
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
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterBury, DeadLetterRepoError};
    ///
    /// # struct Outbox;
    /// # #[async_trait::async_trait]
    /// # impl dead_letters::Take for Outbox {
    /// #     async fn take(
    /// #         &self,
    /// #         txn: &sea_orm::DatabaseTransaction,
    /// #         event_id: uuid::Uuid,
    /// #     ) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    /// #         let delete = "DELETE FROM outbox WHERE id = ?";
    /// #         let delete = sea_orm::Statement::from_sql_and_values(sea_orm::DbBackend::Sqlite, delete, [event_id.into()]);
    /// #         Ok(sea_orm::ConnectionTrait::execute_raw(txn, delete).await?.rows_affected())
    /// #     }
    /// # }
    /// #
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let create = "CREATE TABLE outbox (id BLOB PRIMARY KEY, payload TEXT)";
    /// # sea_orm::ConnectionTrait::execute_unprepared(repo.pool(), create).await?;
    /// # let letter = dead_letters::testing::letter(app);
    /// # let event_id = letter.original_event_id;
    /// # let insert = "INSERT INTO outbox (id) VALUES (?)";
    /// # let insert = sea_orm::Statement::from_sql_and_values(sea_orm::DbBackend::Sqlite, insert, [event_id.into()]);
    /// # sea_orm::ConnectionTrait::execute_raw(repo.pool(), insert).await?;
    /// let burier = repo.burier(Outbox);
    /// burier.bury(letter.clone()).await?;
    /// // A second dispatcher that buries the same event does nothing.
    /// let second = burier.bury(letter).await;
    /// assert!(matches!(second, Err(DeadLetterRepoError::EventNotTaken { taken: 0 })));
    /// # Ok(())
    /// # }
    /// ```
    async fn bury(&self, letter: NewDeadLetter) -> Result<DeadLetterId, DeadLetterRepoError>;
}
