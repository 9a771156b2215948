//! The connection of a repo, and how a repo reads rows from it.

use async_trait::async_trait;
use futures_util::{Stream, StreamExt, TryStreamExt};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseExecutor, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    FromQueryResult, QueryResult, Statement, StreamTrait,
};

use super::transaction;
use crate::{DeadLetterRepoError, db_code::DbCode};

/// How often a statement over a pool is sent again.
const RETRIES: usize = 3;
const SERIALIZATION_FAILURE: DbCode = DbCode::SqlState(*b"40001");

/// The connection over which a repo sends its statements.
///
/// Over a pool each statement is a transaction of its own, with the database's default isolation. Above READ
/// COMMITTED, PostgreSQL fails and rolls back a statement if another transaction changed one of its rows in the
/// meantime. The repo then sends the statement again, and the new try sees the changed row. In a caller's
/// transaction, only the whole transaction can be tried again.
#[derive(Debug, Clone)]
pub(super) struct Connection<C>(pub(super) C);

impl<C: RepoConnection> Connection<C> {
    /// Returns the pool, if this is one.
    pub(super) fn pool(&self) -> Option<&DatabaseConnection> {
        match self.0.scope() {
            Scope::Pool(pool) => Some(pool),
            Scope::Transaction(_) => None,
        }
    }

    /// Runs `work` in a transaction of its own over a pool, and otherwise in the caller's transaction.
    pub(super) async fn in_transaction<T>(
        &self,
        work: impl AsyncFnOnce(&DatabaseTransaction) -> Result<T, DeadLetterRepoError>,
    ) -> Result<T, DeadLetterRepoError> {
        match self.0.scope() {
            Scope::Pool(pool) => transaction::run_checked(pool, work).await,
            Scope::Transaction(txn) => work(txn).await,
        }
    }

    /// Returns a statement's rows. Each row is read while the server sends the next one, whereas SeaORM's `all`
    /// starts to read when the last row has arrived. This pays off for large pages, such as an export's.
    ///
    /// The statement must not have text among its values, because SeaORM's tracing span of a stream (level TRACE)
    /// contains them.
    pub(super) async fn rows<T: FromQueryResult + Send>(
        &self,
        statement: Statement,
    ) -> Result<Vec<T>, DbErr> {
        self.send(statement, |db, statement| async move {
            match db.scope() {
                Scope::Pool(pool) => collect(pool.stream_raw(statement).await?).await,
                Scope::Transaction(txn) => collect(txn.stream_raw(statement).await?).await,
            }
        })
        .await
    }

    async fn send<'db, T, F>(
        &'db self,
        statement: Statement,
        send: impl Fn(&'db C, Statement) -> F,
    ) -> Result<T, DbErr>
    where
        F: Future<Output = Result<T, DbErr>>,
    {
        if self.pool().is_some() && self.get_database_backend() == DbBackend::Postgres {
            for _ in 0..RETRIES {
                match send(&self.0, statement.clone()).await {
                    Err(error) if DbCode::of(&error) == Some(SERIALIZATION_FAILURE) => {}
                    outcome => return outcome,
                }
            }
        }
        send(&self.0, statement).await
    }
}

#[async_trait]
impl<C: RepoConnection> ConnectionTrait for Connection<C> {
    fn get_database_backend(&self) -> DbBackend {
        self.0.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.send(statement, C::execute_raw).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.0.execute_unprepared(sql).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.send(statement, C::query_one_raw).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.send(statement, C::query_all_raw).await
    }
}

/// A pool, or a transaction of the caller. The private path seals the trait.
pub trait RepoConnection: ConnectionTrait + Send {
    fn scope(&self) -> Scope<'_>;
}

#[derive(Debug)]
pub enum Scope<'db> {
    Pool(&'db DatabaseConnection),
    Transaction(&'db DatabaseTransaction),
}

impl RepoConnection for DatabaseConnection {
    fn scope(&self) -> Scope<'_> {
        Scope::Pool(self)
    }
}

impl RepoConnection for DatabaseExecutor<'_> {
    fn scope(&self) -> Scope<'_> {
        match self {
            Self::Connection(pool) => Scope::Pool(pool),
            Self::Transaction(txn) => Scope::Transaction(txn),
            Self::OwnedTransaction(txn) => Scope::Transaction(txn),
        }
    }
}

async fn collect<T: FromQueryResult>(
    rows: impl Stream<Item = Result<QueryResult, DbErr>>,
) -> Result<Vec<T>, DbErr> {
    rows.map(|row| T::from_query_result(&row?, "")).try_collect().await
}
