//! Runs one `up` at a time. sea-orm-migration has no lock, so most of several concurrent processes would fail.

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

/// "deadltrs" as ASCII, a number that no other advisory lock of the database should have.
const KEY: i64 = 0x6465_6164_6c74_7273;

/// The pause between two attempts to get a lock.
const PAUSE: Duration = Duration::from_millis(50);

/// How long the steps may wait for their connection. A pool of one connection would never have a second one.
const SECOND_CONNECTION: Duration = Duration::from_secs(5);

/// Waits for the lock on PostgreSQL, and returns the transaction that has it.
///
/// A blocking lock would deadlock: CREATE INDEX CONCURRENTLY waits for the snapshot of every other transaction,
/// and a statement that waits for the lock has one. The lock belongs to a transaction instead of a session,
/// because PgBouncer may give each transaction another session.
pub(crate) async fn wait(pool: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    loop {
        let lock = begin(pool, TransactionOptions::default()).await?;
        // Sets READ COMMITTED. REPEATABLE READ would keep a snapshot, for which CREATE INDEX CONCURRENTLY would
        // wait.
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
/// if the transaction has a snapshot or locks for which the other process's steps wait.
pub(crate) async fn require(txn: &SchemaManagerConnection<'_>) -> Result<(), DbErr> {
    if txn.get_database_backend() == DbBackend::Sqlite || try_acquire(txn).await? {
        return Ok(());
    }
    Err(DbErr::Migration(
        "another process is migrating this database: roll the transaction back, and try again".to_owned(),
    ))
}

/// Waits for SQLite's only write lock, and returns the transaction that has it.
///
/// A deferred transaction would fail at its first write if another process wrote after it read. A lock on another
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

/// Returns whether PostgreSQL ended the wait for a lock.
pub(crate) fn is_lock_timeout(error: &DbErr) -> bool {
    has_code(error, r#""55P03""#)
}

/// Returns whether the error has this driver's code. Without a driver's feature, only the error's text has the
/// code.
fn has_code(error: &DbErr, code: &str) -> bool {
    format!("{error:?}").contains(&format!("code: {code},"))
}

async fn try_acquire(txn: &impl ConnectionTrait) -> Result<bool, DbErr> {
    let lock = Query::select().expr(Func::cust("pg_try_advisory_xact_lock").arg(KEY)).take();
    Ok(txn.query_one(&lock).await?.map(|row| row.try_get_by_index(0)).transpose()?.unwrap_or(false))
}

/// Begins a transaction on a task of its own. A dropped BEGIN would return a connection to the pool that is inside
/// a transaction (sqlx issues 4385 and 4393).
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
