//! The store on SeaORM: the only place that knows the entity.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseExecutor, DatabaseTransaction, DbBackend, EntityTrait,
    FromQueryResult, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    sea_query::{Asterisk, Expr, Func, Query},
};
use tracing::{Span, field::Empty, instrument};
use uuid::Uuid;

use crate::{
    AppId, DeadLetterId, DeadLetterRepo, DeadLetterRepoError, DeadLetterRow, NewDeadLetter, Settlement,
};

mod bury;
mod convert;
mod gc;
mod insert;
mod replay;
mod text;
mod transaction;
mod triage;

use convert::Limits;
use gc::Due;
use text::{Text, with_literal_limits};
use transaction::RepoConnection;

/// [`DeadLetterRepo`] and [`DeadLetterTriage`](crate::DeadLetterTriage) on SeaORM, over a pool or over a
/// transaction that the caller opened. It needs a tokio runtime.
#[derive(Debug, Clone)]
pub struct SeaOrmDeadLetterRepo<C = DatabaseConnection> {
    db: C,
    limits: Limits,
}

impl SeaOrmDeadLetterRepo {
    /// Over a pool. A transaction goes to [`in_transaction`](Self::in_transaction).
    ///
    /// The pool is the application's: drivers, TLS, size and timeouts are set where it is opened.
    pub fn new(db: DatabaseConnection) -> Self {
        Self { db, limits: Limits::default() }
    }

    /// Refuses payloads of more bytes as serialized, with
    /// [`PayloadTooLarge`](DeadLetterRepoError::PayloadTooLarge); [`bury`](Self::bury) cuts them. There is no
    /// cap by default.
    pub fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.limits.payload_bytes = Some(bytes);
        self
    }

    /// Cuts a longer `last_error` to this many bytes, at a character's boundary, its last ones being `
    /// [cut]`. There is no cap by default.
    pub fn max_error_bytes(mut self, bytes: usize) -> Self {
        self.limits.error_bytes = Some(bytes);
        self
    }

    /// Over the caller's transaction, with this repo's caps: what it does and what the caller does in `txn`
    /// commit together or not at all.
    ///
    /// After a failed statement PostgreSQL aborts the transaction, and a `commit` of it then answers `Ok` and
    /// stores nothing. So an error of any call must end in a rollback: let it leave the closure, or the
    /// function, that holds `txn`; or commit with [`commit`](Self::commit), which fails then.
    pub fn in_transaction<'txn>(
        &self,
        txn: &'txn DatabaseTransaction,
    ) -> SeaOrmDeadLetterRepo<DatabaseExecutor<'txn>> {
        SeaOrmDeadLetterRepo { db: txn.into(), limits: self.limits }
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
    #[instrument(name = "dead_letters.begin", skip_all, err(level = "warn"))]
    pub async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DeadLetterRepoError> {
        transaction::begin(db).await
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
    #[instrument(name = "dead_letters.commit", skip_all, err(level = "warn"))]
    pub async fn commit(txn: DatabaseTransaction) -> Result<(), DeadLetterRepoError> {
        transaction::commit(txn).await
    }
}

#[async_trait]
impl<C: RepoConnection> DeadLetterRepo for SeaOrmDeadLetterRepo<C> {
    #[instrument(name = "dead_letters.insert", skip_all, err(level = "warn"), fields(app_id = %letter.app_id))]
    async fn insert(&self, letter: NewDeadLetter) -> Result<DeadLetterId, DeadLetterRepoError> {
        let id = new_id();
        let row = convert::to_active_model(id, letter, 0, self.limits, self.db.get_database_backend())?;
        insert::one(&self.db, &row).await?;
        Ok(id)
    }

    #[instrument(name = "dead_letters.insert_many", skip_all, err(level = "warn"), fields(rows = letters.len()))]
    async fn insert_many(
        &self,
        letters: Vec<NewDeadLetter>,
    ) -> Result<Vec<DeadLetterId>, DeadLetterRepoError> {
        let ids: Vec<_> = letters.iter().map(|_| new_id()).collect();
        if ids.is_empty() {
            return Ok(ids);
        }
        let backend = self.db.get_database_backend();
        let rows = convert::to_active_models(&ids, letters, self.limits, backend)?;
        let batches = insert::batches(backend, rows);
        match self.db.pool() {
            Some(pool) if batches.len() > 1 || backend == DbBackend::Sqlite => {
                let txn = transaction::begin(pool).await?;
                if let Err(error) = insert::all(&txn, batches).await {
                    return transaction::abandon(txn, error).await;
                }
                txn.commit().await?;
            }
            _ => insert::all(&self.db, batches).await?,
        }
        Ok(ids)
    }

    #[instrument(name = "dead_letters.get", skip_all, err(level = "warn"), fields(%id))]
    async fn get(&self, id: DeadLetterId) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
        static GET: Text = Text::new();
        let id = id.into_inner();
        let get =
            GET.with(self.db.get_database_backend(), [id.into()], || Entity::find_by_id(id).into_query());
        let row = convert::Row::find_by_statement(get).one(&self.db).await?;
        Ok(row.map(DeadLetterRow::from))
    }

    #[instrument(name = "dead_letters.list_for_app", skip_all, err(level = "warn"), fields(%app_id, rows = Empty))]
    async fn list_for_app(
        &self,
        app_id: AppId,
        unresolved_only: bool,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<DeadLetterRow>, DeadLetterRepoError> {
        let limit = non_negative("limit", limit)?;
        let offset = non_negative("offset", offset)?;
        let newest = Entity::find()
            .filter(COLUMN.app_id.eq(app_id.into_inner()))
            // Two statements, not one with a flag: a flag's generic plan can't use the partial index.
            .apply_if(unresolved_only.then_some(COLUMN.resolved_at.is_null()), QueryFilter::filter)
            .order_by_desc(Column::CreatedAt)
            .order_by_desc(Column::Id)
            .limit(limit);
        let backend = self.db.get_database_backend();
        let page = match offset {
            0 => with_literal_limits(backend, newest.as_query()),
            // Each offset as a literal would be a statement of its own to prepare.
            _ => newest.offset(offset).build(backend),
        };
        let rows = convert::Row::find_by_statement(page).all(&self.db).await?;
        record_rows(rows.len() as u64);
        Ok(rows.into_iter().map(DeadLetterRow::from).collect())
    }

    #[instrument(name = "dead_letters.unresolved_count", skip_all, err(level = "warn"), fields(%app_id, rows = Empty))]
    async fn unresolved_count(&self, app_id: AppId) -> Result<i64, DeadLetterRepoError> {
        let count = Query::select()
            .expr(Func::count(Expr::col(Asterisk)))
            .from(Entity)
            .and_where(COLUMN.app_id.eq(app_id.into_inner()))
            .and_where(COLUMN.resolved_at.is_null())
            .take();
        let counted = self.db.query_one(&count).await?;
        let count = counted.map_or(Ok(0), |row| row.try_get_by_index::<i64>(0))?;
        record_rows(count.unsigned_abs());
        Ok(count)
    }

    #[instrument(name = "dead_letters.resolve", skip_all, err(level = "warn"), fields(%id))]
    async fn resolve(&self, id: DeadLetterId, reason: &str) -> Result<(), DeadLetterRepoError> {
        let settlement = Settlement { resolution: reason.parse()?, by: None, note: None };
        let resolved =
            triage::settle(&settlement).filter(COLUMN.id.eq(id.into_inner())).exec(&self.db).await?;
        if resolved.rows_affected == 0 {
            return Err(DeadLetterRepoError::NotFound(id));
        }
        Ok(())
    }

    #[instrument(name = "dead_letters.gc", skip_all, err(level = "warn"), fields(%older_than, rows = Empty))]
    async fn gc(&self, older_than: DateTime<Utc>, limit: i64) -> Result<u64, DeadLetterRepoError> {
        self.sweep(None, Due::Created(older_than), limit).await
    }
}

impl<C: ConnectionTrait> SeaOrmDeadLetterRepo<C> {
    async fn sweep(&self, app_id: Option<AppId>, due: Due, limit: i64) -> Result<u64, DeadLetterRepoError> {
        let limit = non_negative("limit", limit)?;
        let delete = gc::delete_oldest(self.db.get_database_backend(), app_id, due, limit)?;
        let deleted = self.db.execute_raw(delete).await?.rows_affected();
        record_rows(deleted);
        Ok(deleted)
    }
}

/// Into the call's span.
fn record_rows(rows: u64) {
    Span::current().record("rows", rows);
}

/// Known before the statement, so that the insert needs no RETURNING; in time's order, which spares the
/// primary key's index (measured on 5 million rows: 1.5 times the rate of random ids).
fn new_id() -> DeadLetterId {
    Uuid::now_v7().into()
}

fn non_negative(argument: &'static str, value: i64) -> Result<u64, DeadLetterRepoError> {
    u64::try_from(value).map_err(|_| DeadLetterRepoError::Negative { argument, value })
}
