//! The store on SeaORM: the only place that knows the entity.

use std::{future::Future, ops::RangeInclusive};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sea_orm::{DatabaseConnection, DatabaseExecutor, DatabaseTransaction};
use tracing::{Instrument, Span, debug, field::Empty, info_span, warn};
use uuid::Uuid;

use crate::{
    AppId, DeadLetterId, DeadLetterRepo, DeadLetterRepoError, DeadLetterRow, Due, NewDeadLetter, SweepScope,
};

mod backlog;
mod bury;
mod conditions;
mod convert;
mod count;
mod export;
mod find;
mod gc;
mod group;
mod import;
mod insert;
mod replay;
mod retention;
mod scan;
mod settle;
mod sweep;
mod text;
mod timeline;
mod transaction;
mod triage;

use convert::Limits;
use transaction::RepoConnection;

const PAGE_SIZES: RangeInclusive<u32> = 1..=500;

/// [`DeadLetterRepo`], [`DeadLetterTriage`](crate::DeadLetterTriage) and
/// [`DeadLetterRetention`](crate::DeadLetterRetention) on SeaORM, over a pool or over a transaction that the
/// caller opened. It needs a tokio runtime.
#[derive(Debug, Clone)]
pub struct SeaOrmDeadLetterRepo<C = DatabaseConnection> {
    db: C,
    limits: Limits,
}

impl SeaOrmDeadLetterRepo {
    /// Over a pool. A transaction goes to [`in_transaction`](Self::in_transaction).
    ///
    /// The pool is the application's: drivers, TLS, size and timeouts are set where it is opened.
    pub fn new(db: DatabaseConnection) -> Self {
        Self { db, limits: Limits::default() }
    }

    /// The pool, for what else a service does: statements of its own, and [`begin`](Self::begin).
    pub fn pool(&self) -> &DatabaseConnection {
        &self.db
    }

    /// Refuses payloads of more bytes as serialized, with
    /// [`PayloadTooLarge`](DeadLetterRepoError::PayloadTooLarge); [`bury`](Self::bury) cuts them. There is no
    /// cap by default.
    pub fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.limits.payload_bytes = Some(bytes);
        self
    }

    /// Cuts a longer `last_error` to this many bytes, at a character's boundary, its last ones being `
    /// [cut]`. There is no cap by default.
    pub fn max_error_bytes(mut self, bytes: usize) -> Self {
        self.limits.error_bytes = Some(bytes);
        self
    }

    /// Over the caller's transaction, with this repo's caps: what it does and what the caller does in `txn`
    /// commit together or not at all.
    ///
    /// After a failed statement PostgreSQL aborts the transaction, and a `commit` of it then answers `Ok` and
    /// stores nothing. So an error of any call must end in a rollback: let it leave the closure, or the
    /// function, that holds `txn`; or commit with [`commit`](Self::commit), which fails then.
    pub fn in_transaction<'txn>(
        &self,
        txn: &'txn DatabaseTransaction,
    ) -> SeaOrmDeadLetterRepo<DatabaseExecutor<'txn>> {
        SeaOrmDeadLetterRepo { db: txn.into(), limits: self.limits }
    }

    /// Begins a transaction that may be dropped at any time, while it begins too: it is rolled back then, and
    /// the pool's connection is as it was. Every transaction of a service should begin so, with the store in
    /// it or not.
    ///
    /// SeaORM's own `begin` is not like that: on PostgreSQL, where its future is dropped (by a time-out, or
    /// with the request of a client that hung up), its connection goes back to the pool inside the
    /// transaction, and what others then store on it is lost (sqlx 0.9.0, issues 4385 and 4393). A nested
    /// `begin` in this transaction has the same fault, and ends all of it: [`commit`](Self::commit) finds
    /// out.
    ///
    /// On SQLite it is an IMMEDIATE one, which waits for another writer. At most 256 begin at one time in a
    /// process; further callers wait for one of them.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db); [`RuntimeEnded`](DeadLetterRepoError::RuntimeEnded) outside a tokio
    /// runtime, or in one that is shutting down.
    pub async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DeadLetterRepoError> {
        observed(info_span!("dead_letters.begin"), transaction::begin(db)).await
    }

    /// Commits a transaction, or says that it can't be.
    ///
    /// The transaction's own `commit` answers `Ok` even where there is nothing left to commit: where a
    /// statement had failed and was passed over (PostgreSQL), or where the transaction had ended before. This
    /// asks first, by one more statement, or three where the transaction wrote nothing. If its future is
    /// dropped, the transaction may be committed or not.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db): the transaction was aborted (25P02), or the commit failed, and nothing
    /// is stored. [`TransactionLost`](DeadLetterRepoError::TransactionLost): it had ended before.
    /// [`RuntimeEnded`](DeadLetterRepoError::RuntimeEnded) as for [`begin`](Self::begin).
    pub async fn commit(txn: DatabaseTransaction) -> Result<(), DeadLetterRepoError> {
        observed(info_span!("dead_letters.commit"), transaction::commit(txn)).await
    }
}

#[async_trait]
impl<C: RepoConnection> DeadLetterRepo for SeaOrmDeadLetterRepo<C> {
    async fn insert(&self, letter: NewDeadLetter) -> Result<DeadLetterId, DeadLetterRepoError> {
        let span = info_span!("dead_letters.insert", app_id = %letter.app_id);
        observed(span, self.store(letter)).await
    }

    async fn insert_many(
        &self,
        letters: Vec<NewDeadLetter>,
    ) -> Result<Vec<DeadLetterId>, DeadLetterRepoError> {
        let span = info_span!("dead_letters.insert_many", rows = letters.len());
        observed(span, self.store_many(letters)).await
    }

    async fn get(&self, id: DeadLetterId) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
        observed(info_span!("dead_letters.get", %id), self.find(id)).await
    }

    async fn list_for_app(
        &self,
        app_id: AppId,
        unresolved_only: bool,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<DeadLetterRow>, DeadLetterRepoError> {
        let span = info_span!("dead_letters.list_for_app", %app_id, rows = Empty);
        observed(span, self.find_newest(app_id, unresolved_only, limit, offset)).await
    }

    async fn unresolved_count(&self, app_id: AppId) -> Result<i64, DeadLetterRepoError> {
        let span = info_span!("dead_letters.unresolved_count", %app_id, rows = Empty);
        observed(span, self.count_unresolved(app_id)).await
    }

    async fn resolve(&self, id: DeadLetterId, reason: &str) -> Result<(), DeadLetterRepoError> {
        observed(info_span!("dead_letters.resolve", %id), self.settle(id, reason)).await
    }

    async fn gc(&self, older_than: DateTime<Utc>, limit: i64) -> Result<u64, DeadLetterRepoError> {
        let span = info_span!("dead_letters.gc", %older_than, rows = Empty);
        let sweep = async {
            let limit = non_negative("limit", limit)?;
            let swept = self.delete_due(&SweepScope::AllApps, Due::CreatedBefore(older_than), limit).await?;
            Ok(swept.deleted)
        };
        observed(span, sweep).await
    }
}

/// Runs a call in its span, and tells there what it did not do: an answer such as "not found" at DEBUG, a failure at
/// WARN.
async fn observed<T>(
    span: Span,
    call: impl Future<Output = Result<T, DeadLetterRepoError>>,
) -> Result<T, DeadLetterRepoError> {
    let told = async {
        let outcome = call.await;
        match &outcome {
            Ok(_) => {}
            Err(error) if error.is_answer() => debug!(%error),
            Err(error) => warn!(%error),
        }
        outcome
    };
    told.instrument(span).await
}

/// Into the call's span.
fn record_rows(rows: u64) {
    Span::current().record("rows", rows);
}

/// Known before the statement, so that the insert needs no RETURNING; in time's order, which spares the
/// primary key's index (measured on 5 million rows: 1.5 times the rate of random ids).
fn new_id() -> DeadLetterId {
    Uuid::now_v7().into()
}

fn non_negative(argument: &'static str, value: i64) -> Result<u64, DeadLetterRepoError> {
    in_range(argument, value, 0..=i64::MAX).map(i64::unsigned_abs)
}

fn in_range<T: Into<i64> + PartialOrd>(
    argument: &'static str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, DeadLetterRepoError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (min, max) = range.into_inner();
    let (value, min, max) = (value.into(), min.into(), max.into());
    Err(DeadLetterRepoError::OutOfRange { argument, value, min, max })
}
