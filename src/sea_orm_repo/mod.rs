//! The store on SeaORM. No other module uses the entity.

use std::{ops::RangeInclusive, pin::pin};

use dead_letters_entity::dead_letters::{Column, Entity};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseConnectionType, DatabaseExecutor, DatabaseTransaction,
    DbErr, EntityTrait, QuerySelect, QueryTrait, RuntimeErr,
};
use uuid::Uuid;

use crate::{
    DeadLetterId, DeadLetterRepoError,
    observed::{call, observed},
};

mod actions;
mod announcements;
mod app_steps;
mod backlogs;
mod bulk;
mod bury;
mod bytes;
mod cached_sql;
mod conditions;
mod connection;
mod convert;
mod count;
mod delete;
mod dialect;
mod error_groups;
mod export;
mod get;
mod hidden_limits;
mod import;
mod insert;
mod letters_version;
mod list;
mod metadata;
mod new_error_groups;
mod parts;
mod rebuild_signatures;
mod replay;
mod resolve;
mod scan;
mod sweep;
mod sweep_sql;
mod timeline;
mod traits;
mod transaction;

use connection::Connection;
use convert::Limits;
use dialect::Dialect;

/// The traits of a [`DeadLetterStore`](crate::DeadLetterStore) on SeaORM, over a pool or over a transaction of the
/// caller. Requires a Tokio runtime.
///
/// Over a pool, a call that is a single statement is sent again, up to three times, if PostgreSQL fails it with a
/// serialization failure (40001). That happens only if the database's default isolation is above READ COMMITTED.
#[derive(Debug, Clone)]
pub struct SeaOrmDeadLetterRepo<C = DatabaseConnection> {
    db: Connection<C>,
    limits: Limits,
    dialect: Result<Dialect, DbErr>,
}

impl SeaOrmDeadLetterRepo {
    /// Creates a repo over a pool. For a transaction, use [`in_transaction`](Self::in_transaction).
    ///
    /// The application opens the pool, and chooses its driver, TLS, size and timeouts.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{SeaOrmDeadLetterRepo, connect_options};
    /// use sea_orm::Database;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let db = Database::connect(connect_options("sqlite::memory:")).await?;
    /// let repo = SeaOrmDeadLetterRepo::new(db.clone());
    /// // The service keeps its own handle to the pool.
    /// db.ping().await?;
    /// # _ = repo;
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(db: DatabaseConnection) -> Self {
        // Asked for its backend, a connection that was never opened panics.
        let dialect = match matches!(db.inner, DatabaseConnectionType::Disconnected) {
            true => Err(DbErr::Conn(RuntimeErr::Internal("Disconnected".to_owned()))),
            false => Dialect::of(db.get_database_backend()),
        };
        Self { db: Connection(db), limits: Limits::default(), dialect }
    }

    /// Checks, for a health check, that the database can be reached and the table can be read. Reads no row.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database can't be reached, the table does not exist, or the role may not
    /// read it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// let status = match repo.check_ready().await {
    ///     Ok(()) => 200,
    ///     Err(error) if error.is_transient() => 503,
    ///     Err(_) => 500,
    /// };
    /// assert_eq!(status, 200);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn check_ready(&self) -> Result<(), DeadLetterRepoError> {
        let work = async {
            let no_row = Entity::find().select_only().column(Column::Id).limit(0);
            self.db.query_all_raw(self.dialect()?.build(no_row.as_query())).await?;
            Ok(())
        };
        observed(call!("check_ready"), pin!(work), |()| 0).await
    }

    /// Returns the pool, for the service's own statements and for [`begin`](Self::begin).
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::entity::dead_letters as table;
    /// use sea_orm::{EntityTrait, PaginatorTrait};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// let rows = table::Entity::find().count(repo.pool()).await?;
    /// assert_eq!(rows, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn pool(&self) -> &DatabaseConnection {
        &self.db.0
    }

    /// Refuses payloads whose serialized text is longer than `bytes`, with
    /// [`PayloadTooLarge`](DeadLetterRepoError::PayloadTooLarge). [`bury_with`](Self::bury_with) cuts them instead. There is
    /// no cap by default.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepo, DeadLetterRepoError, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let repo = repo.max_payload_bytes(16);
    /// let refused = repo.insert(testing::letter(app)).await;
    /// assert!(matches!(refused, Err(DeadLetterRepoError::PayloadTooLarge { max: 16, .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.limits.payload_bytes = Some(bytes);
        self
    }

    /// Cuts a longer `last_error` to this many bytes. The text keeps its beginning and its end, cut at characters'
    /// boundaries, with ` [cut] ` between them. There is no cap by default.
    ///
    /// Below about 1,000 bytes the cut can reach into the part that the error signature is made of. Letters of one
    /// failure may then split into several groups.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRead, DeadLetterRepo, NewDeadLetter, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let repo = repo.max_error_bytes(4_096);
    /// let last_error = "at deliver.rs:17\n".repeat(10_000);
    /// let id = repo.insert(NewDeadLetter { last_error, ..testing::letter(app) }).await?;
    /// let stored = repo.error_text(app, id, 0..u64::MAX).await?.unwrap_or_default();
    /// assert!(stored.len() <= 4_096 && stored.contains(" [cut] "));
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_error_bytes(mut self, bytes: usize) -> Self {
        self.limits.error_bytes = Some(bytes);
        self
    }

    /// Adapts every call to a table that is distributed by `app_id`, for example by Citus, with the primary key
    /// `(app_id, id)`. A call for one app's letters goes to that app's shard. On a table that is not distributed
    /// this only costs time. On SQLite it changes nothing.
    ///
    /// Every call stays atomic. Some calls promise less, because no lock, recursion or key spans shards:
    ///
    /// - An id identifies one row in each app. `import` stores a letter whose id another app has. `get` and
    ///   `resolve` with such an id take either letter.
    /// - `gc`, and sweeps of all apps or of all but some, first look up how many of the oldest rows each app has.
    ///   They then delete that many of each app, oldest first. If other transactions have locked some of these
    ///   rows, the call deletes younger rows of the same app instead. It deletes fewer than `limit` if that app
    ///   has no more due rows, although other apps may have some. [`next`](crate::Swept::next) is the last row
    ///   that was looked up. An archive receives the letters by app.
    /// - A sweep of all apps but some also reads the due rows of the excepted apps. `count_due` of many apps reads
    ///   due rows of every state.
    /// - `new_error_groups` and `unannounced_groups` of all apps read up to `scan_limit` letters of each shard.
    /// - `sweep_actions` may read the key of every row of the history to find the next app.
    /// - `apps`, `backlogs`, and `unresolved_counts` with a cap, send one or two statements for each app, one after the
    ///   other. Their counts are of different moments. Without a cap, the counts of each shard are of one moment.
    ///
    /// Some calls cost more. `resolve` first looks up the app in all shards, as `get` does. `insert_many` and
    /// `import` are transactions, with a two-phase commit if they reach several workers. Bulk calls and filters by
    /// ids read all rows of an app that is new since its shard's last ANALYZE.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{SeaOrmDeadLetterRepo, connect_options};
    /// use sea_orm::Database;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url = "sqlite::memory:";
    /// let repo = SeaOrmDeadLetterRepo::new(Database::connect(connect_options(url)).await?).sharded();
    /// # _ = repo;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sharded(mut self) -> Self {
        self.dialect = self.dialect.map(Dialect::distributed);
        self
    }

    /// Returns a repo over the caller's transaction, with this repo's settings. Its calls commit together with the
    /// caller's statements in `txn`, or not at all.
    ///
    /// In a transaction, [`insert_many`](crate::DeadLetterRepo::insert_many) and
    /// [`import`](crate::DeadLetterTransfer::import) store all their letters with one statement, so that a dropped
    /// call leaves no part of them behind. They return
    /// [`TooLargeForTransaction`](DeadLetterRepoError::TooLargeForTransaction) for letters of more than 256 MB,
    /// and over a [sharded](Self::sharded) table for more than 3,855 new ones.
    ///
    /// On SQLite and over a [sharded](Self::sharded) table, `resolve_once`, `reopen` and the bulk calls send their change and
    /// its row in the [history](crate::DeadLetterRead::actions) one after the other. If such a call is dropped in between, the
    /// row is missing: roll the transaction back.
    ///
    /// Above READ COMMITTED any call may fail with a serialization failure (40001), which is
    /// [transient](DeadLetterRepoError::is_transient). Roll back, and try the whole transaction again.
    ///
    /// After a failed statement PostgreSQL aborts the transaction. SeaORM's `commit` then returns `Ok` and stores
    /// nothing. Therefore an error of any call must end in a rollback: return it from the closure or function that
    /// owns `txn`. Alternatively, commit with [`commit`](Self::commit), which then returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepo, SeaOrmDeadLetterRepo, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let txn = SeaOrmDeadLetterRepo::begin(repo.pool()).await?;
    /// let id = repo.in_transaction(&txn).insert(testing::letter(app)).await?;
    /// // The service's own statements, on `txn`.
    /// SeaOrmDeadLetterRepo::commit(txn).await?;
    /// assert!(repo.get(id).await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn in_transaction<'txn>(
        &self,
        txn: &'txn DatabaseTransaction,
    ) -> SeaOrmDeadLetterRepo<DatabaseExecutor<'txn>> {
        SeaOrmDeadLetterRepo { db: Connection(txn.into()), limits: self.limits, dialect: self.dialect() }
    }

    /// Begins a transaction that is safe to drop at any time, even while it begins. A dropped transaction is
    /// rolled back, and its connection returns to the pool in its former state. Begin every transaction of a
    /// service in this way, with or without the store in it.
    ///
    /// SeaORM's own `begin` lacks this guarantee. If its future is dropped on PostgreSQL, for example by a timeout
    /// or a client that disconnects, its connection returns to the pool inside the transaction. Statements that
    /// other callers send on that connection are lost (sqlx 0.9.0, issues 4385 and 4393). A nested `begin` in this
    /// transaction has the same fault, and ends the whole transaction, which [`commit`](Self::commit) detects.
    ///
    /// On SQLite the transaction is IMMEDIATE, and waits for another writer. At most 256 transactions of a process
    /// begin at one time. Further callers wait.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    /// [`RuntimeEnded`](DeadLetterRepoError::RuntimeEnded) outside a Tokio runtime, or in one that is shutting
    /// down.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepo, SeaOrmDeadLetterRepo, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let txn = SeaOrmDeadLetterRepo::begin(repo.pool()).await?;
    /// let id = repo.in_transaction(&txn).insert(testing::letter(app)).await?;
    /// // A transaction that is dropped is rolled back.
    /// drop(txn);
    /// assert!(repo.get(id).await?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DeadLetterRepoError> {
        observed(call!("begin"), pin!(transaction::begin(db, None)), |_| 0).await
    }

    /// Commits a transaction, or returns an error if nothing can be committed.
    ///
    /// The transaction's own `commit` returns `Ok` even if nothing is left to commit: after a failed statement
    /// whose error was ignored (PostgreSQL), or after the transaction has ended. This call first checks the
    /// transaction with one or two statements. If its future is dropped, the transaction may or may not be
    /// committed.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the transaction was aborted (25P02) or the commit failed. Nothing is
    /// stored. [`TransactionLost`](DeadLetterRepoError::TransactionLost) if the transaction had ended before.
    /// [`RuntimeEnded`](DeadLetterRepoError::RuntimeEnded) as for [`begin`](Self::begin).
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepo, DeadLetterRepoError, SeaOrmDeadLetterRepo};
    /// use sea_orm::ConnectionTrait;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let id = dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// let txn = SeaOrmDeadLetterRepo::begin(repo.pool()).await?;
    /// repo.in_transaction(&txn).resolve(id, "ignored").await?;
    /// txn.execute_unprepared("ROLLBACK").await?;
    /// // The transaction's own `commit` would return `Ok`.
    /// assert!(matches!(SeaOrmDeadLetterRepo::commit(txn).await, Err(DeadLetterRepoError::TransactionLost)));
    /// assert_eq!(repo.unresolved_count(app).await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn commit(txn: DatabaseTransaction) -> Result<(), DeadLetterRepoError> {
        observed(call!("commit"), pin!(transaction::commit(txn)), |()| 0).await
    }
}

impl<C> SeaOrmDeadLetterRepo<C> {
    fn dialect(&self) -> Result<Dialect, DbErr> {
        self.dialect.clone()
    }
}

/// Returns a new letter's id. The id is known before the statement, so the insert needs no RETURNING. Ids ascend
/// with time, which makes inserts into the primary key's index cheaper than random ids would.
fn new_id() -> DeadLetterId {
    Uuid::now_v7().into()
}

fn non_negative(argument: &'static str, value: i64) -> Result<u64, DeadLetterRepoError> {
    in_range(argument, value, 0..=i64::MAX).map(i64::unsigned_abs)
}

fn in_range<T: Into<i64> + PartialOrd>(
    argument: &'static str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, DeadLetterRepoError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (min, max) = range.into_inner();
    let (value, min, max) = (value.into(), min.into(), max.into());
    Err(DeadLetterRepoError::OutOfRange { argument, value, min, max })
}
