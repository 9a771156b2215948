//! The store on SeaORM: the only place that knows the entity.

use std::{ops::RangeInclusive, pin::pin};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseExecutor, DatabaseTransaction, DbBackend};
use uuid::Uuid;

use crate::{
    AppId, DeadLetterId, DeadLetterRepo, DeadLetterRepoError, DeadLetterRow, NewDeadLetter,
    observed::{call, observed},
};

mod backlog;
mod bury;
mod bytes;
mod conditions;
mod connection;
mod convert;
mod count;
mod export;
mod find;
mod gc;
mod group;
mod import;
mod insert;
mod parts;
mod replay;
mod retention;
mod scan;
mod settle;
mod signatures;
mod sweep;
mod text;
mod timeline;
mod transaction;
mod triage;

use connection::{Connection, RepoConnection};
use convert::Limits;

const PAGE_SIZES: RangeInclusive<u32> = 1..=500;

/// [`DeadLetterRepo`], [`DeadLetterTriage`](crate::DeadLetterTriage) and
/// [`DeadLetterRetention`](crate::DeadLetterRetention) on SeaORM, over a pool or over a transaction that the
/// caller opened. It needs a tokio runtime.
///
/// Over a pool a call that is a single statement is sent again, up to three times, where PostgreSQL fails it with a
/// serialization failure (40001). That happens only if the database's default isolation is above READ COMMITTED.
#[derive(Debug, Clone)]
pub struct SeaOrmDeadLetterRepo<C = DatabaseConnection> {
    db: Connection<C>,
    limits: Limits,
    sharded: bool,
}

impl SeaOrmDeadLetterRepo {
    /// Over a pool. A transaction goes to [`in_transaction`](Self::in_transaction).
    ///
    /// The pool is the application's: drivers, TLS, size and timeouts are set where it is opened.
    pub fn new(db: DatabaseConnection) -> Self {
        Self { db: Connection(db), limits: Limits::default(), sharded: false }
    }

    /// The pool, for what else a service does: statements of its own, and [`begin`](Self::begin).
    pub fn pool(&self) -> &DatabaseConnection {
        &self.db.0
    }

    /// Refuses payloads of more bytes as serialized, with
    /// [`PayloadTooLarge`](DeadLetterRepoError::PayloadTooLarge); [`bury`](Self::bury) cuts them. There is no
    /// cap by default.
    pub fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.limits.payload_bytes = Some(bytes);
        self
    }

    /// Cuts a longer `last_error` to this many bytes: it keeps its beginning and its end, at a character's boundary, with
    /// ` [cut] ` between them. There is no cap by default. With less than about 1,000 bytes the cut can reach into the
    /// part that the error signature is made of, and one failure may split into several groups.
    pub fn max_error_bytes(mut self, bytes: usize) -> Self {
        self.limits.error_bytes = Some(bytes);
        self
    }

    /// For a table that is distributed by `app_id`, by Citus say, with the primary key `(app_id, id)`: every
    /// call works there, and one on an app's rows goes to that app's shard. Elsewhere it has its price and no
    /// use; on SQLite it changes nothing.
    ///
    /// Every call stays atomic. These promise less, since no lock, recursion or key spans shards:
    ///
    /// - An id is of one row an app. `import` stores a letter whose id another app has, and `get` and `resolve`
    ///   by such an id take either.
    /// - `gc` and sweeps of all apps, or of all but some, look up first how many of the oldest rows are each
    ///   app's, and then delete so many of each, its oldest first. If other transactions have locked some of these,
    ///   younger ones of the same app go for them, or fewer than `limit` do though other apps have more.
    ///   [`next`](crate::Swept::next) is the last row that was looked up. An archive gets the letters by app.
    /// - A sweep of all but some reads what is due of the excepted apps too; `count_due` of many apps reads what
    ///   is due of any state.
    /// - `backlogs`, and `unresolved_counts` with a cap, send a statement or two for each app, one after the
    ///   other: their counts are of different moments. Without a cap they are of a moment for each shard.
    ///
    /// What else changes is the cost. `resolve` looks up the app first, in all shards, as `get` does.
    /// `insert_many` and `import` are transactions, of two phases where they meet several workers. Bulk calls and
    /// filters by ids read all rows of an app that is new since its shard's last ANALYZE.
    pub fn sharded(mut self) -> Self {
        self.sharded = self.db.get_database_backend() == DbBackend::Postgres;
        self
    }

    /// Over the caller's transaction, with this repo's settings: what it does and what the caller does in `txn`
    /// commit together or not at all.
    ///
    /// There [`insert_many`](DeadLetterRepo::insert_many) and [`import`](crate::DeadLetterTriage::import) store
    /// all their letters with one statement, so that a call that is dropped leaves no part of them behind. They
    /// return [`TooLargeForTransaction`](DeadLetterRepoError::TooLargeForTransaction) for letters of more than
    /// 256 MB, and over a [sharded](Self::sharded) table for more than 4,095 new ones.
    ///
    /// Above READ COMMITTED any call there may fail with a serialization failure (40001), which is
    /// [transient](DeadLetterRepoError::is_transient): roll back and try the whole transaction again.
    ///
    /// After a failed statement PostgreSQL aborts the transaction, and a `commit` of it then answers `Ok` and
    /// stores nothing. So an error of any call must end in a rollback: let it leave the closure, or the
    /// function, that holds `txn`; or commit with [`commit`](Self::commit), which fails then.
    pub fn in_transaction<'txn>(
        &self,
        txn: &'txn DatabaseTransaction,
    ) -> SeaOrmDeadLetterRepo<DatabaseExecutor<'txn>> {
        SeaOrmDeadLetterRepo { db: Connection(txn.into()), limits: self.limits, sharded: self.sharded }
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
        observed(call!("begin"), pin!(transaction::begin_for_caller(db)), |_| 0).await
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
        observed(call!("commit"), pin!(transaction::commit(txn)), |()| 0).await
    }
}

#[async_trait]
impl<C: RepoConnection> DeadLetterRepo for SeaOrmDeadLetterRepo<C> {
    async fn insert(&self, letter: NewDeadLetter) -> Result<DeadLetterId, DeadLetterRepoError> {
        let call = call!("insert", app_id = %letter.app_id);
        observed(call, pin!(self.store(letter)), |_| 1).await
    }

    async fn insert_many(
        &self,
        letters: Vec<NewDeadLetter>,
    ) -> Result<Vec<DeadLetterId>, DeadLetterRepoError> {
        let call = call!("insert_many", letters = letters.len());
        observed(call, pin!(self.store_many(letters)), |ids| ids.len() as u64).await
    }

    async fn get(&self, id: DeadLetterId) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
        observed(call!("get", %id), pin!(self.find(id)), |row| row.is_some().into()).await
    }

    async fn list_for_app(
        &self,
        app_id: AppId,
        unresolved_only: bool,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<DeadLetterRow>, DeadLetterRepoError> {
        let rows = self.find_newest(app_id, unresolved_only, limit, offset);
        observed(call!("list_for_app", %app_id), pin!(rows), |rows| rows.len() as u64).await
    }

    async fn unresolved_count(&self, app_id: AppId) -> Result<i64, DeadLetterRepoError> {
        let count = self.count_unresolved(app_id);
        observed(call!("unresolved_count", %app_id), pin!(count), |count| count.unsigned_abs()).await
    }

    async fn resolve(&self, id: DeadLetterId, reason: &str) -> Result<(), DeadLetterRepoError> {
        observed(call!("resolve", %id), pin!(self.settle(id, reason)), |()| 1).await
    }

    async fn gc(&self, older_than: DateTime<Utc>, limit: i64) -> Result<u64, DeadLetterRepoError> {
        let sweep = async {
            let limit = non_negative("limit", limit)?;
            self.delete_older_than(older_than, limit).await
        };
        observed(call!("gc", %older_than), pin!(sweep), |&deleted| deleted).await
    }
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
