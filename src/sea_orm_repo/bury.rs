//! Buries events: moves them from the outbox into the store, in one transaction.

use std::{error::Error, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use sea_orm::{DatabaseTransaction, DbErr};

use super::{
    SeaOrmDeadLetterRepo,
    convert::{self, NewRow, OverCap},
    get::summary,
    insert, new_id, transaction,
};
use crate::{
    DeadLetterBury, DeadLetterId, DeadLetterRepoError, NewDeadLetter, Take,
    observed::{call, observed},
    time::{clamp_to_range, jittered},
};

const TRIES: u32 = 4;
/// The pause before the second try. It doubles before each further one.
const PAUSE: Duration = Duration::from_millis(100);

impl SeaOrmDeadLetterRepo {
    /// Moves an event from the outbox into the store, in one transaction. The event is in exactly one of them,
    /// whatever fails and whenever this future is dropped. Returns the letter's id.
    ///
    /// `take` deletes the event from the outbox, in the transaction that it receives, and returns how many rows it
    /// deleted. If several dispatchers bury the same event, exactly one takes it. `take` must return every error.
    ///
    /// A transient error or a lost connection is retried up to three times, with `take` and the same id, after
    /// pauses of about 0.1, 0.2 and 0.4 seconds. A retry stores nothing twice, because the outbox's row decides. If a
    /// retry fails because an earlier try had committed, the call finds the stored letter and returns its id. That also
    /// holds if a replay has put a new row into the outbox in the meantime.
    ///
    /// Every event can be buried. The call changes what [`insert`](crate::DeadLetterRepo::insert) refuses, so that
    /// no event stays in the outbox because of its content:
    ///
    /// - A payload over the repo's cap is cut to it, with ` [cut]` at its end. Its kind is
    ///   [`Truncated`](crate::PayloadKind::Truncated).
    /// - Metadata over 16 KB is cut. A text in it over 1,000 bytes is cut, with ` [cut]` at its end, and any other value
    ///   over 1,000 bytes becomes `[cut]`. Keys that still do not fit are left out, and the key `[cut]` has their number.
    /// - A time outside the years 1 to 9999 becomes the nearest one inside.
    ///
    /// Pass the outbox's text unchanged, in [`payload_text`](NewDeadLetter::payload_text).
    ///
    /// # Errors
    ///
    /// [`EventNotTaken`](DeadLetterRepoError::EventNotTaken) if `take` deleted no row, or several. Nothing was stored or
    /// taken.
    ///
    /// [`Db`](DeadLetterRepoError::Db): nothing was stored or taken, unless a connection was lost while it
    /// committed. In that case the letter may be stored, because the server committed a try whose answer was lost,
    /// and no later try reached the server. The outbox's row decides: the event is still there, or its letter is
    /// stored. Make the call again in both cases. It buries an event that is still there. It returns `EventNotTaken`
    /// with `taken: 0` and stores nothing if the event is gone.
    ///
    /// [`Take`](DeadLetterRepoError::Take) with another error of `take`. Nothing was stored or taken.
    ///
    /// [`TransactionLost`](DeadLetterRepoError::TransactionLost) if `take` ended the transaction.
    /// [`RuntimeEnded`](DeadLetterRepoError::RuntimeEnded) as for [`begin`](Self::begin).
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepo, DeadLetterRepoError};
    /// use sea_orm::{ConnectionTrait, Statement};
    ///
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
    /// let id = repo
    ///     .bury_with(letter, async |txn| {
    ///         let delete = "DELETE FROM outbox WHERE id = $1";
    ///         let delete = Statement::from_sql_and_values(txn.get_database_backend(), delete, [event_id.into()]);
    ///         Ok(txn.execute_raw(delete).await?.rows_affected())
    ///     })
    ///     .await?;
    /// assert!(repo.get(id).await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn bury_with<F>(
        &self,
        letter: NewDeadLetter,
        take: F,
    ) -> Result<DeadLetterId, DeadLetterRepoError>
    where
        F: AsyncFnOnce(&DatabaseTransaction) -> Result<u64, Box<dyn Error + Send + Sync>> + Clone,
    {
        let call = call!("bury", app_id = %letter.app_id);
        observed(call, pin!(self.bury_with_tries(letter, take)), |_| 1).await
    }

    /// Returns a burier that needs no closure, for a dispatcher that holds it as an object.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use dead_letters::DeadLetterBury;
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
    /// // `Outbox` implements `Take`. The dispatcher does not see it.
    /// let burier: Arc<dyn DeadLetterBury> = repo.burier(Outbox);
    /// let id = burier.bury(letter).await?;
    /// # assert!(dead_letters::DeadLetterRepo::get(&repo, id).await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn burier(&self, take: impl Take + 'static) -> Arc<dyn DeadLetterBury> {
        Arc::new(Burier { repo: self.clone(), take })
    }

    async fn bury_with_tries<F>(
        &self,
        mut letter: NewDeadLetter,
        take: F,
    ) -> Result<DeadLetterId, DeadLetterRepoError>
    where
        F: AsyncFnOnce(&DatabaseTransaction) -> Result<u64, Box<dyn Error + Send + Sync>> + Clone,
    {
        let (app_id, id) = (letter.app_id, new_id());
        letter.first_attempt_at = clamp_to_range(letter.first_attempt_at);
        letter.last_attempt_at = clamp_to_range(letter.last_attempt_at);
        let row = convert::to_new_row(id, letter, OverCap::Cut, 0, self.limits)?;
        let mut tries = 1;
        loop {
            let outcome = match self.bury_once(row.clone(), take.clone()).await {
                Ok(()) => Ok(id),
                // An earlier try may have committed without an answer.
                Err(error) if tries > 1 && !error.is_transient() => {
                    let row = summary(self, app_id, id).await;
                    row.and_then(|row| if row.is_some() { Ok(id) } else { Err(error) })
                }
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if error.is_transient() && tries < TRIES => {}
                outcome => return outcome,
            }
            tokio::time::sleep(jittered(PAUSE * 2_u32.pow(tries - 1))).await;
            tries += 1;
        }
    }

    async fn bury_once<F>(&self, row: NewRow, take: F) -> Result<(), DeadLetterRepoError>
    where
        F: AsyncFnOnce(&DatabaseTransaction) -> Result<u64, Box<dyn Error + Send + Sync>>,
    {
        let dialect = self.dialect()?;
        let move_event = async |txn: &DatabaseTransaction| {
            let taken = take(txn).await.map_err(by_outbox)?;
            if taken != 1 {
                return Err(DeadLetterRepoError::EventNotTaken { taken });
            }
            // If the transaction is lost, the insert would run outside any transaction.
            transaction::check_open(txn).await?;
            insert::one(txn, dialect, row).await
        };
        transaction::run(self.pool(), move_event).await
    }
}

/// A repo, and the outbox of its service.
struct Burier<T> {
    repo: SeaOrmDeadLetterRepo,
    take: T,
}

#[async_trait]
impl<T: Take> DeadLetterBury for Burier<T> {
    async fn bury(&self, letter: NewDeadLetter) -> Result<DeadLetterId, DeadLetterRepoError> {
        let event_id = letter.original_event_id;
        let take = async |txn: &DatabaseTransaction| self.take.take(txn, event_id).await;
        self.repo.bury_with(letter, take).await
    }
}

/// Returns the error of the outbox. A database error stays one, so that it is retried if it is transient.
fn by_outbox(error: Box<dyn Error + Send + Sync>) -> DeadLetterRepoError {
    match error.downcast::<DbErr>() {
        Ok(error) => DeadLetterRepoError::Db(*error),
        Err(error) => DeadLetterRepoError::Take(error.into()),
    }
}
