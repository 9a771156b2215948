//! One `up` at a time: sea-orm-migration has no lock, and of six at once up to five failed.

use std::time::Duration;

use sea_orm_migration::{
    prelude::*,
    sea_orm::{DatabaseTransaction, DbBackend, TransactionTrait},
};

use crate::settings;

/// Any number will do that no other advisory lock of the database has: "deadltrs" as ASCII.
const KEY: i64 = 0x6465_6164_6c74_7273;

/// Between two tries. No blocking lock: CREATE INDEX CONCURRENTLY waits for every other transaction, that of
/// a waiting process too.
const PAUSE: Duration = Duration::from_millis(50);

/// How long the steps' connection may take: a pool of one would never have it.
const SECOND_CONNECTION: Duration = Duration::from_secs(5);

/// Waits for the lock and returns the transaction that holds it; none where `db` is a transaction, which then
/// holds it itself, and on SQLite. A transaction's lock, since PgBouncer may hand out a session by the
/// transaction.
pub(crate) async fn acquire(db: &SchemaManagerConnection<'_>) -> Result<Option<DatabaseTransaction>, DbErr> {
    if db.get_database_backend() != DbBackend::Postgres {
        return Ok(None);
    }
    if db.is_transaction() {
        db.query_one(&select("pg_advisory_xact_lock")).await?;
        return Ok(None);
    }
    loop {
        let lock = db.begin().await?;
        // REPEATABLE READ would keep a snapshot, for which CREATE INDEX CONCURRENTLY would wait.
        settings::set_for_transaction(&lock).await?;
        let row = lock.query_one(&select("pg_try_advisory_xact_lock")).await?;
        if row.is_some_and(|row| row.try_get_by_index(0).unwrap_or(false)) {
            require_second_connection(db).await?;
            return Ok(Some(lock));
        }
        lock.rollback().await?;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn require_second_connection(db: &SchemaManagerConnection<'_>) -> Result<(), DbErr> {
    match tokio::time::timeout(SECOND_CONNECTION, db.execute_unprepared("SELECT 1")).await {
        Ok(Ok(_)) => Ok(()),
        Err(_) | Ok(Err(DbErr::ConnectionAcquire(_))) => Err(DbErr::Migration(
            "up takes two connections of the pool at once, one of them for its lock, and got no second one: \
             is max_connections 2 at least?"
                .to_owned(),
        )),
        Ok(Err(error)) => Err(error),
    }
}

fn select(function: &'static str) -> SelectStatement {
    Query::select().expr(Func::cust(function).arg(KEY)).take()
}
