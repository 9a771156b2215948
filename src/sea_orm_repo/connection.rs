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
    /// when the last one is there. Only for statements without text among their values, which SeaORM's span
    /// of a stream has (TRACE).
    async fn rows<R: FromQueryResult, T: From<R> + Send>(
        &self,
        statement: Statement,
    ) -> Result<Vec<T>, DbErr>
    where
        Self: Sized;
}

#[async_trait]
impl RepoConnection for DatabaseConnection {
    fn pool(&self) -> Option<&DatabaseConnection> {
        Some(self)
    }

    async fn rows<R: FromQueryResult, T: From<R> + Send>(
        &self,
        statement: Statement,
    ) -> Result<Vec<T>, DbErr> {
        collect::<R, T>(self.stream_raw(statement).await?).await
    }
}

#[async_trait]
impl RepoConnection for DatabaseExecutor<'_> {
    fn pool(&self) -> Option<&DatabaseConnection> {
        None
    }

    async fn rows<R: FromQueryResult, T: From<R> + Send>(
        &self,
        statement: Statement,
    ) -> Result<Vec<T>, DbErr> {
        match self {
            Self::Connection(pool) => collect::<R, T>(pool.stream_raw(statement).await?).await,
            Self::Transaction(txn) => collect::<R, T>(txn.stream_raw(statement).await?).await,
            Self::OwnedTransaction(txn) => collect::<R, T>(txn.stream_raw(statement).await?).await,
        }
    }
}

async fn collect<R: FromQueryResult, T: From<R>>(
    rows: impl Stream<Item = Result<QueryResult, DbErr>>,
) -> Result<Vec<T>, DbErr> {
    rows.map(|row| Ok(R::from_query_result(&row?, "")?.into())).try_collect().await
}
