//! Transactions of which a dropped caller leaves nothing behind, and whose commit is one.
//!
//! sqlx 0.9.0 (its issues 4385 and 4393) gives a connection back to the pool inside an open transaction where
//! the future of a BEGIN is dropped; what others then store on it is rolled back one day. A dropped SAVEPOINT
//! ends the whole transaction around it, and later statements stand alone. So every BEGIN of ours runs to its
//! end on a task of its own, no work of ours is done behind a SAVEPOINT, and a commit asks first whether
//! there still is a transaction.

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, SqliteTransactionMode,
    Statement, TransactionOptions, TransactionTrait,
    sea_query::{ExprTrait, Func, Query},
};
use tokio::{runtime::Handle, sync::Semaphore};

use crate::{DeadLetterRepoError, error::code_of};

/// At one time. Those whose callers are gone are among them, and keep connections busy: 2,000 of them held up
/// the next begin by 275 ms.
static BEGINS: Semaphore = Semaphore::const_new(256);

pub(super) async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DeadLetterRepoError> {
    let runtime = Handle::try_current().map_err(|_| DeadLetterRepoError::RuntimeEnded)?;
    let permit = BEGINS.acquire().await;
    let db = db.clone();
    let begun = async move {
        let _permit = permit;
        // So that a transaction that reads before it writes does not fail where another one wrote meanwhile.
        let sqlite_transaction_mode = Some(SqliteTransactionMode::Immediate);
        // Without a caller the transaction is dropped as soon as it is there, which rolls it back.
        db.begin_with_options(TransactionOptions { sqlite_transaction_mode, ..Default::default() }).await
    };
    Ok(runtime.spawn(begun).await.map_err(|_| DeadLetterRepoError::RuntimeEnded)??)
}

pub(super) async fn commit(txn: DatabaseTransaction) -> Result<(), DeadLetterRepoError> {
    Ok(still_open(txn).await?.commit().await?)
}

/// The transaction, if it is one yet: neither lost nor, on PostgreSQL, aborted by a failed statement.
pub(super) async fn still_open(txn: DatabaseTransaction) -> Result<DatabaseTransaction, DeadLetterRepoError> {
    let open = match txn.get_database_backend() {
        DbBackend::Sqlite => is_open_on_sqlite(&txn).await?,
        _ => is_open_on_postgres(&txn).await?,
    };
    if open {
        return Ok(txn);
    }
    roll_back(txn).await;
    Err(DeadLetterRepoError::TransactionLost)
}

async fn is_open_on_postgres(txn: &DatabaseTransaction) -> Result<bool, DbErr> {
    let id = async |function: &'static str| {
        let id = Query::select().expr(Func::cust(function).cast_as("text")).take();
        let row = txn.query_one(&id).await?;
        row.map_or(Ok(None), |row| row.try_get_by_index::<Option<String>>(0))
    };
    // A statement that stands alone has no id yet. Neither has a transaction that wrote nothing: but if it is
    // given one, it keeps it.
    Ok(id("pg_current_xact_id_if_assigned").await?.is_some()
        || id("pg_current_xact_id").await? == id("pg_current_xact_id").await?)
}

/// SQLite has no way to ask, but inside a transaction it does not let this setting be set, to what it is
/// either. A BEGIN, which it refuses too, would stay behind where this is dropped.
async fn is_open_on_sqlite(txn: &DatabaseTransaction) -> Result<bool, DbErr> {
    let level = Statement::from_string(DbBackend::Sqlite, "PRAGMA synchronous");
    let level = txn.query_one_raw(level).await?.map_or(Ok(2), |row| row.try_get_by_index::<i64>(0))?;
    match txn.execute_unprepared(&format!("PRAGMA synchronous = {level}")).await {
        Ok(_) => Ok(false),
        Err(error) if code_of(&error).as_deref() == Some("1") => Ok(true),
        Err(error) => Err(error),
    }
}

/// Rolls back as well as can be: the error that led here is what the caller wants to hear of.
pub(super) async fn roll_back(txn: DatabaseTransaction) {
    if txn.get_database_backend() == DbBackend::Sqlite {
        // SQLite itself ends a transaction over some errors, a full disk say. The driver's ROLLBACK then
        // fails, it goes on counting one transaction, and the connection's next BEGIN would be a SAVEPOINT.
        // One now gives it a transaction to roll back.
        if let Ok(savepoint) = txn.begin().await {
            savepoint.rollback().await.ok();
        }
    }
    txn.rollback().await.ok();
}

pub(super) async fn abandon<T>(
    txn: DatabaseTransaction,
    error: DeadLetterRepoError,
) -> Result<T, DeadLetterRepoError> {
    roll_back(txn).await;
    Err(error)
}

/// Commits what succeeded, and rolls back what did not.
pub(super) async fn end<T>(
    txn: DatabaseTransaction,
    outcome: Result<T, DeadLetterRepoError>,
) -> Result<T, DeadLetterRepoError> {
    match outcome {
        Ok(value) => {
            commit(txn).await?;
            Ok(value)
        }
        Err(error) => abandon(txn, error).await,
    }
}
