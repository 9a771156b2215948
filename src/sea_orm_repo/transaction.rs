//! Transactions that are safe to drop, and whose commit is checked.
//!
//! If the future of a BEGIN is dropped, sqlx 0.9.0 (issues 4385 and 4393) returns the connection to the pool
//! inside an open transaction. Statements that other callers send on that connection are rolled back later. A
//! dropped SAVEPOINT ends the whole transaction around it, and later statements run outside any transaction.
//! Therefore every BEGIN of the repo runs to its end on a task of its own, and no work runs behind a SAVEPOINT. A
//! commit first checks that the transaction still exists.

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, IsolationLevel,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
    sea_query::{ExprTrait, Func, Query},
};
use tokio::{runtime::Handle, sync::Semaphore};
use uuid::Uuid;

use crate::{DeadLetterRepoError, db_code::DbCode};

/// Bounds how many BEGINs run at one time. Those of dropped callers count too, and each keeps a connection busy.
/// Without the bound many of them would delay the next BEGIN.
static BEGINS: Semaphore = Semaphore::const_new(256);

/// Begins a transaction, with the database's default isolation if none is given.
pub(super) async fn begin(
    db: &DatabaseConnection,
    isolation_level: Option<IsolationLevel>,
) -> Result<DatabaseTransaction, DeadLetterRepoError> {
    let runtime = Handle::try_current().map_err(|_| DeadLetterRepoError::RuntimeEnded)?;
    let permit = BEGINS.acquire().await;
    let db = db.clone();
    let begun = async move {
        let _permit = permit;
        // A deferred transaction that reads before it writes fails if another transaction wrote in between.
        let sqlite_transaction_mode = Some(SqliteTransactionMode::Immediate);
        // If the caller is gone, the transaction is dropped at once, which rolls it back.
        let options = TransactionOptions { isolation_level, sqlite_transaction_mode, ..Default::default() };
        db.begin_with_options(options).await
    };
    Ok(runtime.spawn(begun).await.map_err(|_| DeadLetterRepoError::RuntimeEnded)??)
}

/// Runs `work` in a transaction of the repo's own. Commits if `work` returns `Ok`, and otherwise rolls back.
///
/// On PostgreSQL the transaction is READ COMMITTED, whatever the database's default is. Above that level a statement
/// that waited for another transaction's row fails with 40001, whereas here it sees the changed row. SeaORM sets the
/// level with a statement after BEGIN, which costs one round trip.
pub(super) async fn run<T>(
    db: &DatabaseConnection,
    work: impl AsyncFnOnce(&DatabaseTransaction) -> Result<T, DeadLetterRepoError>,
) -> Result<T, DeadLetterRepoError> {
    let is_postgres = db.get_database_backend() == DbBackend::Postgres;
    let txn = begin(db, is_postgres.then_some(IsolationLevel::ReadCommitted)).await?;
    match work(&txn).await {
        Ok(value) => {
            txn.commit().await?;
            Ok(value)
        }
        Err(error) => abandon(txn, error).await,
    }
}

/// Runs `work` as [`run`] does, and checks before the commit that the transaction still exists.
pub(super) async fn run_checked<T>(
    db: &DatabaseConnection,
    work: impl AsyncFnOnce(&DatabaseTransaction) -> Result<T, DeadLetterRepoError>,
) -> Result<T, DeadLetterRepoError> {
    let checked = async |txn: &DatabaseTransaction| {
        let value = work(txn).await?;
        check_open(txn).await?;
        Ok(value)
    };
    run(db, checked).await
}

/// Commits the transaction of a caller.
pub(super) async fn commit(txn: DatabaseTransaction) -> Result<(), DeadLetterRepoError> {
    match check_open(&txn).await {
        Ok(()) => Ok(txn.commit().await?),
        Err(error) => abandon(txn, error).await,
    }
}

/// Returns [`TransactionLost`](DeadLetterRepoError::TransactionLost) if the transaction no longer exists, and the
/// database's error if a failed statement has aborted it on PostgreSQL.
pub(super) async fn check_open(txn: &DatabaseTransaction) -> Result<(), DeadLetterRepoError> {
    let is_open = match txn.get_database_backend() {
        DbBackend::Sqlite => is_open_on_sqlite(txn).await?,
        _ => is_open_on_postgres(txn).await?,
    };
    if is_open { Ok(()) } else { Err(DeadLetterRepoError::TransactionLost) }
}

/// Returns whether the transaction is still open on PostgreSQL.
///
/// The first statement reads the transaction's id, which only a transaction that wrote has, and sets a setting
/// that lasts as long as the transaction. Outside a transaction the setting ends with that statement, and the
/// second statement does not find it. Neither statement assigns a transaction id, and read-only transactions and
/// hot standbys allow both.
async fn is_open_on_postgres(txn: &DatabaseTransaction) -> Result<bool, DbErr> {
    const SETTING: &str = "dead_letters.open_transaction";
    let token = Uuid::now_v7().to_string();
    let asked = Query::select()
        .expr(Func::cust("pg_current_xact_id_if_assigned").cast_as("text"))
        .expr(Func::cust("set_config").arg(SETTING).arg(token.as_str()).arg(true))
        .take();
    let id = txn.query_one(&asked).await?;
    if id.map_or(Ok(None), |row| row.try_get_by_index::<Option<String>>(0))?.is_some() {
        return Ok(true);
    }
    let found = Query::select().expr(Func::cust("current_setting").arg(SETTING).arg(true)).take();
    let found = txn.query_one(&found).await?;
    Ok(found.map_or(Ok(None), |row| row.try_get_by_index::<Option<String>>(0))? == Some(token))
}

/// Returns whether the transaction is still open on SQLite.
///
/// SQLite has no function for that, but refuses to set `synchronous` inside a transaction, even to its current
/// value. SQLite also refuses BEGIN there, but outside a transaction a BEGIN would leave a new one open if this
/// future is dropped.
async fn is_open_on_sqlite(txn: &DatabaseTransaction) -> Result<bool, DbErr> {
    let level = Statement::from_string(DbBackend::Sqlite, "PRAGMA synchronous");
    let level = txn.query_one_raw(level).await?.map_or(Ok(2), |row| row.try_get_by_index::<i64>(0))?;
    match txn.execute_unprepared(&format!("PRAGMA synchronous = {level}")).await {
        Ok(_) => Ok(false),
        Err(error) if DbCode::of(&error) == Some(DbCode::Sqlite(1)) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Rolls back, and returns the error that led to the rollback. Errors of the rollback are ignored.
async fn abandon<T>(txn: DatabaseTransaction, error: DeadLetterRepoError) -> Result<T, DeadLetterRepoError> {
    if txn.get_database_backend() == DbBackend::Sqlite {
        // SQLite itself ends a transaction after some errors, such as a full disk. The driver's ROLLBACK then
        // fails, the driver still counts one transaction, and the connection's next BEGIN would be a SAVEPOINT. A
        // SAVEPOINT here gives the driver a transaction to roll back.
        if let Ok(savepoint) = txn.begin().await {
            savepoint.rollback().await.ok();
        }
    }
    txn.rollback().await.ok();
    Err(error)
}
