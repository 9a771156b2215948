//! What a repo is over, and how it reads rows from it.

use async_trait::async_trait;
use futures_util::{Stream, StreamExt, TryStreamExt};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseExecutor, DbErr, FromQueryResult, QueryResult, Statement,
    StreamTrait,
};

/// A pool, or the caller's transaction. Sealed by its private path.
#[async_trait]
pub trait RepoConnection: ConnectionTrait + Send {
    /// The pool, if it is one.
    fn pool(&self) -> Option<&DatabaseConnection>;

    /// A statement's rows, each read while the server prints the next: SeaORM's `all` begins with the first
    /// when the last one is there. Of an export's page that was a quarter of the time; of 50 rows it is
    /// nothing, and SQLite loses a tenth. Only for statements without text among their values, which
    /// SeaORM's span of a stream has (TRACE).
    async fn rows<T: FromQueryResult + Send>(&self, statement: Statement) -> Result<Vec<T>, DbErr>;
}

#[async_trait]
impl RepoConnection for DatabaseConnection {
    fn pool(&self) -> Option<&DatabaseConnection> {
        Some(self)
    }

    async fn rows<T: FromQueryResult + Send>(&self, statement: Statement) -> Result<Vec<T>, DbErr> {
        collect(self.stream_raw(statement).await?).await
    }
}

#[async_trait]
impl RepoConnection for DatabaseExecutor<'_> {
    fn pool(&self) -> Option<&DatabaseConnection> {
        None
    }

    async fn rows<T: FromQueryResult + Send>(&self, statement: Statement) -> Result<Vec<T>, DbErr> {
        match self {
            Self::Connection(pool) => collect(pool.stream_raw(statement).await?).await,
            Self::Transaction(txn) => collect(txn.stream_raw(statement).await?).await,
            Self::OwnedTransaction(txn) => collect(txn.stream_raw(statement).await?).await,
        }
    }
}

async fn collect<T: FromQueryResult>(
    rows: impl Stream<Item = Result<QueryResult, DbErr>>,
) -> Result<Vec<T>, DbErr> {
    rows.map(|row| T::from_query_result(&row?, "")).try_collect().await
}
