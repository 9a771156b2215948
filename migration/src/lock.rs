//! One `up` at a time. sea-orm-migration has no lock: of six processes at once up to five failed.

use std::time::Duration;

use sea_orm_migration::{
    prelude::*,
    sea_orm::{
        DatabaseConnection, DatabaseTransaction, DbBackend, SqliteTransactionMode, TransactionOptions,
        TransactionTrait,
    },
};
use tokio::runtime::Handle;

use crate::settings;

/// "deadltrs" as ASCII: a number that no other advisory lock of the database has.
const KEY: i64 = 0x6465_6164_6c74_7273;

/// Between two tries for a lock.
const PAUSE: Duration = Duration::from_millis(50);

/// How long the steps' connection may take: a pool of one would never have it.
const SECOND_CONNECTION: Duration = Duration::from_secs(5);

/// Waits for the lock on PostgreSQL, and returns the transaction that has it.
///
/// A blocking lock would deadlock: CREATE INDEX CONCURRENTLY waits for the snapshot of every other transaction,
/// and a statement that waits for the lock has one. The lock is a transaction's and not a session's, because
/// PgBouncer may give each transaction another session.
pub(crate) async fn wait(pool: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    loop {
        let lock = begin(pool, TransactionOptions::default()).await?;
        // REPEATABLE READ would keep a snapshot, for which CREATE INDEX CONCURRENTLY would wait.
        settings::set_for_transaction(&lock).await?;
        if try_acquire(&lock).await? {
            require_second_connection(pool).await?;
            return Ok(lock);
        }
        lock.rollback().await?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Takes the lock for the rest of the caller's PostgreSQL transaction, or returns an error. Waiting would deadlock
/// if the transaction has a snapshot or locks that the other process's steps wait for.
pub(crate) async fn require(txn: &SchemaManagerConnection<'_>) -> Result<(), DbErr> {
    if txn.get_database_backend() == DbBackend::Sqlite || try_acquire(txn).await? {
        return Ok(());
    }
    Err(DbErr::Migration(
        "another process is migrating this database: roll the transaction back, and try again".to_owned(),
    ))
}

/// Waits for SQLite's only writer, and returns the transaction that is it.
///
/// A deferred transaction would fail where it writes, if another process wrote since it read. A lock on another
/// connection would lock out the steps.
pub(crate) async fn begin_immediate(pool: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    loop {
        let sqlite_transaction_mode = Some(SqliteTransactionMode::Immediate);
        match begin(pool, TransactionOptions { sqlite_transaction_mode, ..Default::default() }).await {
            Err(error) if has_code(&error, "5") => tokio::time::sleep(PAUSE).await,
            begun => return begun,
        }
    }
}

/// Whether PostgreSQL ended the wait for a lock.
pub(crate) fn is_lock_timeout(error: &DbErr) -> bool {
    has_code(error, r#""55P03""#)
}

/// The driver's code, which is in the error's text alone if no driver's feature is on.
fn has_code(error: &DbErr, code: &str) -> bool {
    format!("{error:?}").contains(&format!("code: {code},"))
}

async fn try_acquire(txn: &impl ConnectionTrait) -> Result<bool, DbErr> {
    let lock = Query::select().expr(Func::cust("pg_try_advisory_xact_lock").arg(KEY)).take();
    Ok(txn.query_one(&lock).await?.map(|row| row.try_get_by_index(0)).transpose()?.unwrap_or(false))
}

/// Begins on a task of its own: a BEGIN that is dropped would leave the pool a connection that is in a transaction
/// that nobody knows of (sqlx issues 4385 and 4393).
async fn begin(pool: &DatabaseConnection, options: TransactionOptions) -> Result<DatabaseTransaction, DbErr> {
    let runtime = Handle::try_current()
        .map_err(|_| DbErr::Migration("`up` needs a Tokio runtime, and there is none".to_owned()))?;
    let pool = pool.clone();
    let begun = runtime.spawn(async move { pool.begin_with_options(options).await });
    begun.await.map_err(|_| DbErr::Migration("the Tokio runtime ended during `up`".to_owned()))?
}

async fn require_second_connection(pool: &DatabaseConnection) -> Result<(), DbErr> {
    match tokio::time::timeout(SECOND_CONNECTION, pool.execute_unprepared("SELECT 1")).await {
        Ok(Ok(_)) => Ok(()),
        Err(_) | Ok(Err(DbErr::ConnectionAcquire(_))) => Err(DbErr::Migration(
            "`up` needs two connections of the pool at once, one of them for its lock, and got no second one: \
             set `max_connections` to 2 at least"
                .to_owned(),
        )),
        Ok(Err(error)) => Err(error),
    }
}
