//! Transactions of which a dropped caller leaves nothing behind, and whose commit is one.
//!
//! sqlx 0.9.0 (its issues 4385 and 4393) gives a connection back to the pool inside an open transaction where
//! the future of a BEGIN is dropped; what others then store on it is rolled back one day. A dropped SAVEPOINT
//! ends the whole transaction around it, and later statements stand alone. So every BEGIN of ours runs to its
//! end on a task of its own, no work of ours is done behind a SAVEPOINT, and a commit asks first whether
//! there still is a transaction.

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, IsolationLevel,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
    sea_query::{ExprTrait, Func, Query},
};
use tokio::{runtime::Handle, sync::Semaphore};
use uuid::Uuid;

use crate::{DeadLetterRepoError, error::code_of};

/// At one time. Those whose callers are gone are among them, and keep connections busy: 2,000 of them held up
/// the next begin by 275 ms.
static BEGINS: Semaphore = Semaphore::const_new(256);

/// One of the repo's own. On PostgreSQL it is READ COMMITTED, whatever the database's default is: above that,
/// a statement that waited for another transaction's row fails (40001) where here it sees what became of it.
/// SeaORM sets the level by a statement after BEGIN, which is one more round trip.
pub(super) async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DeadLetterRepoError> {
    let is_postgres = db.get_database_backend() == DbBackend::Postgres;
    begin_with(db, is_postgres.then_some(IsolationLevel::ReadCommitted)).await
}

/// One of the caller's, whose isolation is the caller's to choose.
pub(super) async fn begin_for_caller(
    db: &DatabaseConnection,
) -> Result<DatabaseTransaction, DeadLetterRepoError> {
    begin_with(db, None).await
}

async fn begin_with(
    db: &DatabaseConnection,
    isolation_level: Option<IsolationLevel>,
) -> Result<DatabaseTransaction, DeadLetterRepoError> {
    let runtime = Handle::try_current().map_err(|_| DeadLetterRepoError::RuntimeEnded)?;
    let permit = BEGINS.acquire().await;
    let db = db.clone();
    let begun = async move {
        let _permit = permit;
        // A deferred transaction that reads before it writes fails if another one wrote meanwhile.
        let sqlite_transaction_mode = Some(SqliteTransactionMode::Immediate);
        // If the caller is gone, the transaction is dropped at once, which rolls it back.
        let options = TransactionOptions { isolation_level, sqlite_transaction_mode, ..Default::default() };
        db.begin_with_options(options).await
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

/// Asks for the transaction's id, which only one that wrote has, and sets a setting for the transaction's length.
/// In a statement that stands alone that is the statement's own, and the next one no longer finds it. Neither
/// takes an id, and a read-only transaction and a hot standby allow both.
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
