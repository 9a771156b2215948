//! Replaying: the settling and the caller's re-enqueue in one transaction.

use std::{error::Error, pin::pin, slice, sync::Arc};

use async_trait::async_trait;
use dead_letters_entity::dead_letters::{Column, Model};
use sea_orm::{DatabaseTransaction, FromQueryResult, Iterable};

use super::{SeaOrmDeadLetterRepo, settle::Bulk, transaction};
use crate::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterReplay, DeadLetterRepoError, DeadLetterRow, Requeue,
    Resolution, Settled, Settlement,
    observed::{Call, call, observed},
};

impl SeaOrmDeadLetterRepo {
    /// Settles the row as `replayed`, if it is open, and runs `enqueue`, in ONE transaction. Of callers at
    /// the same time one wins, and only its `enqueue` runs: the others wait for it, and get
    /// `AlreadyResolved` once it has committed.
    ///
    /// Returns what `enqueue` does. An error of it rolls everything back, and the row is open as before. It
    /// must let every error out: what it did before a failed statement that it passes over is lost in
    /// PostgreSQL, and then this call fails too, with nothing replayed; SQLite keeps it.
    ///
    /// # Errors
    ///
    /// As [`resolve_once`](crate::DeadLetterTriage::resolve_once); besides, whatever `enqueue` answers.
    pub async fn replay<F, T, E>(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        by: Option<String>,
        note: Option<String>,
        enqueue: F,
    ) -> Result<T, E>
    where
        F: AsyncFnOnce(&DatabaseTransaction, DeadLetterRow) -> Result<T, E>,
        E: From<DeadLetterRepoError>,
    {
        let mut own = None;
        let enqueue = async |txn: &DatabaseTransaction, row: DeadLetterRow| {
            enqueue(txn, row).await.map_err(|error| by_closure(error, &mut own))
        };
        let call = self.replay_row(app_id, id, by, note, enqueue);
        let outcome = observed(of_row(app_id, id), pin!(call), |_| 1).await;
        outcome.map_err(|error| own.unwrap_or_else(|| error.into()))
    }

    /// Settles open rows that match as `replayed`, oldest first and at most `limit` (1 to 1,000), and runs
    /// `enqueue` on them, in ONE transaction. Rows that another transaction holds are passed over.
    ///
    /// `enqueue` gets the rows oldest first, and is not run where there are none. Its errors are treated as
    /// in [`replay`](Self::replay).
    ///
    /// # Errors
    ///
    /// As [`resolve_matching`](crate::DeadLetterTriage::resolve_matching); besides, whatever `enqueue`
    /// answers.
    pub async fn replay_matching<F, E>(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        by: Option<String>,
        note: Option<String>,
        limit: u32,
        enqueue: F,
    ) -> Result<Settled, E>
    where
        F: AsyncFnOnce(&DatabaseTransaction, Vec<DeadLetterRow>) -> Result<(), E>,
        E: From<DeadLetterRepoError>,
    {
        let mut own = None;
        let enqueue = async |txn: &DatabaseTransaction, rows: Vec<DeadLetterRow>| {
            enqueue(txn, rows).await.map_err(|error| by_closure(error, &mut own))
        };
        let call = self.replay_rows(app_id, filter, by, note, limit, enqueue);
        let outcome = observed(of_rows(app_id), pin!(call), |settled| settled.ids.len() as u64).await;
        outcome.map_err(|error| own.unwrap_or_else(|| error.into()))
    }

    /// Makes replay a thing of its own, which needs no closure: what admin pages and command lines take,
    /// beside the store, from the service that knows its outbox.
    pub fn replayer(&self, requeue: impl Requeue + 'static) -> Arc<dyn DeadLetterReplay> {
        Arc::new(Replayer { repo: self.clone(), requeue })
    }

    async fn replay_row<F, T>(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        by: Option<String>,
        note: Option<String>,
        enqueue: F,
    ) -> Result<T, DeadLetterRepoError>
    where
        F: AsyncFnOnce(&DatabaseTransaction, DeadLetterRow) -> Result<T, DeadLetterRepoError>,
    {
        let settlement = Settlement { resolution: Resolution::Replayed, by, note };
        let txn = transaction::begin(self.pool()).await?;
        let outcome = match self.in_transaction(&txn).settle_once(app_id, id, &settlement).await {
            Ok(row) => enqueue(&txn, row).await,
            Err(error) => Err(error),
        };
        transaction::end(txn, outcome).await
    }

    async fn replay_rows<F>(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        by: Option<String>,
        note: Option<String>,
        limit: u32,
        enqueue: F,
    ) -> Result<Settled, DeadLetterRepoError>
    where
        F: AsyncFnOnce(&DatabaseTransaction, Vec<DeadLetterRow>) -> Result<(), DeadLetterRepoError>,
    {
        let settlement = Settlement { resolution: Resolution::Replayed, by, note };
        let bulk = Bulk::new(self, app_id, filter, &settlement, limit)?;
        let txn = transaction::begin(self.pool()).await?;
        let outcome = match settle_rows(&txn, &bulk).await {
            Ok((rows, settled)) if rows.is_empty() => Ok(settled),
            Ok((rows, settled)) => enqueue(&txn, rows).await.map(|()| settled),
            Err(error) => Err(error),
        };
        transaction::end(txn, outcome).await
    }
}

/// A repo, and what its service does to put events back.
struct Replayer<Q> {
    repo: SeaOrmDeadLetterRepo,
    requeue: Q,
}

#[async_trait]
impl<Q: Requeue> DeadLetterReplay for Replayer<Q> {
    async fn replay(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        by: Option<String>,
        note: Option<String>,
    ) -> Result<DeadLetterRow, DeadLetterRepoError> {
        let enqueue = async |txn: &DatabaseTransaction, row: DeadLetterRow| {
            self.requeue.requeue(txn, slice::from_ref(&row)).await.map_err(by_service)?;
            Ok(row)
        };
        let call = self.repo.replay_row(app_id, id, by, note, enqueue);
        observed(of_row(app_id, id), pin!(call), |_| 1).await
    }

    async fn replay_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        by: Option<String>,
        note: Option<String>,
        limit: u32,
    ) -> Result<Settled, DeadLetterRepoError> {
        let enqueue = async |txn: &DatabaseTransaction, rows: Vec<DeadLetterRow>| {
            self.requeue.requeue(txn, &rows).await.map_err(by_service)
        };
        let call = self.repo.replay_rows(app_id, filter, by, note, limit, enqueue);
        observed(of_rows(app_id), pin!(call), |settled| settled.ids.len() as u64).await
    }
}

fn by_service(error: Box<dyn Error + Send + Sync>) -> DeadLetterRepoError {
    DeadLetterRepoError::Requeue(error.into())
}

/// The closure's own error is its caller's; of the call is told that nothing was replayed.
fn by_closure<E>(error: E, own: &mut Option<E>) -> DeadLetterRepoError {
    *own = Some(error);
    by_service("the closure's own error".into())
}

fn of_row(app_id: AppId, id: DeadLetterId) -> Call {
    call!("replay", %app_id, %id)
}

fn of_rows(app_id: AppId) -> Call {
    call!("replay_matching", %app_id)
}

async fn settle_rows(
    txn: &DatabaseTransaction,
    bulk: &Bulk<'_>,
) -> Result<(Vec<DeadLetterRow>, Settled), DeadLetterRepoError> {
    let columns: Vec<_> = Column::iter().collect();
    let (rows, skipped) = bulk.settle(txn, &columns).await?;
    let mut settled = Vec::with_capacity(rows.len());
    for row in rows {
        settled.push(DeadLetterRow::from(Model::from_query_result(&row, "")?));
    }
    // RETURNING has no order.
    settled.sort_by_key(|row| (row.created_at, row.id));
    let ids = settled.iter().map(|row| row.id).collect();
    Ok((settled, bulk.settled(ids, skipped)))
}
