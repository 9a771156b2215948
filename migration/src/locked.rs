//! Runs `up` of any migrator safely in any number of concurrent processes.

use std::time::Duration;

use sea_orm_migration::{
    MigratorTraitSelf,
    prelude::*,
    sea_orm::{DatabaseConnection, DbBackend, TransactionTrait},
};

use crate::{
    SchemaError, encoding,
    lock::{self, is_lock_timeout},
    require_supported, settings,
    status::{self, Scope},
};

/// The pause between two attempts to lock a table. The statements that queued behind the first attempt run
/// meanwhile.
const PAUSE: Duration = Duration::from_secs(1);

/// A migrator whose `up` any number of processes may run concurrently. One process applies the pending steps, and
/// the others wait for it.
///
/// It has the inner migrator's steps and table, and never calls the inner migrator's own `up` or `status`. The
/// inner migrator is [`Migrator`](crate::Migrator), a service's own migrator that has its steps, or a value that
/// implements [`MigratorTraitSelf`].
///
/// # On PostgreSQL
///
/// - `up` over a pool takes an advisory lock. It needs two connections of the pool at the same time, and returns
///   an error if it gets no second one within 5 seconds.
/// - A step in a transaction is READ COMMITTED and has no timeouts, whatever the pool, the role and the database
///   set. It waits half a second for a table's lock, because every insert queues behind it meanwhile. Then it lets
///   the inserts run and tries again, without a limit. A step outside a transaction has the pool's settings.
/// - In the caller's transaction `up` never waits for the advisory lock. It returns an error if another process is
///   migrating. The steps have the transaction's settings.
/// - The migrator's table and the steps' tables are in the current schema, which is the first existing one of
///   `search_path`.
/// - `up` returns an error for a database whose encoding is not UTF8.
///
/// # On SQLite
///
/// `up` over a pool is one IMMEDIATE transaction, whatever the steps' `use_transaction` returns. It applies all
/// pending steps or none. In it, `VACUUM` fails and `PRAGMA foreign_keys` has no effect.
///
/// # On both
///
/// If the migrator's table has steps that the migrator does not have, `up` and `status` return an error that names
/// them. `down`, `fresh`, `refresh` and `reset` take no lock.
///
/// # Examples
///
/// ```
/// # use dead_letters_migration::{Locked, Migrator, sea_orm_migration::{DbErr, MigratorTraitSelf, sea_orm}};
/// async fn migrate(db: &sea_orm::DatabaseConnection) -> Result<(), DbErr> {
///     Locked(Migrator).up(db, None).await
/// }
/// ```
#[derive(Debug)]
pub struct Locked<M>(pub M);

impl<M: MigratorTraitSelf> Locked<M> {
    /// Returns the steps that `up` would apply. Changes nothing.
    ///
    /// Unlike [`check_schema`](crate::check_schema), this reads only the current schema. Steps of other
    /// migrators in the migrator's table are ignored.
    ///
    /// # Errors
    ///
    /// Every [`SchemaError`] except `Missing`.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters_migration::{
    ///     Locked, Migrator,
    ///     sea_orm_migration::{MigratorTraitSelf, sea_orm::Database},
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let db = Database::connect("sqlite::memory:").await?;
    /// let migrator = Locked(Migrator);
    /// if !migrator.pending(&db).await?.is_empty() {
    ///     migrator.up(&db, None).await?;
    /// }
    /// assert!(migrator.pending(&db).await?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn pending(&self, db: &impl ConnectionTrait) -> Result<Vec<String>, SchemaError> {
        status::missing(db, &self.0, Scope::CurrentSchema).await
    }

    async fn up_on_postgres(&self, pool: &DatabaseConnection, steps: Option<u32>) -> Result<(), DbErr> {
        self.require_own_steps(pool).await?;
        let lock = lock::wait(pool).await?;
        let outcome = Inner { migrator: &self.0, runs: Some(Runs::WithSettings) }.up(pool, steps).await;
        // Releases the lock. If the process is killed before, the server releases it.
        lock.rollback().await.ok();
        outcome
    }

    async fn up_on_sqlite(&self, pool: &DatabaseConnection, steps: Option<u32>) -> Result<(), DbErr> {
        let txn = lock::begin_immediate(pool).await?;
        let outcome = async {
            self.require_own_steps(&txn).await?;
            Inner { migrator: &self.0, runs: Some(Runs::InOneTransaction) }.up(&txn, steps).await
        };
        match outcome.await {
            Ok(()) => txn.commit().await,
            Err(error) => {
                // SQLite itself ends a transaction after some errors, such as a full disk. The driver's ROLLBACK
                // then fails, and the connection's next BEGIN would be a SAVEPOINT, whose rollback ends nothing.
                // This savepoint gives the driver a transaction to roll back.
                if let Ok(savepoint) = txn.begin().await {
                    savepoint.rollback().await.ok();
                }
                txn.rollback().await.ok();
                Err(error)
            }
        }
    }

    async fn require_own_steps(&self, db: &impl ConnectionTrait) -> Result<(), DbErr> {
        encoding::require_utf8(db).await?;
        status::require_own_steps(db, &self.0).await
    }
}

#[async_trait::async_trait]
impl<M: MigratorTraitSelf> MigratorTraitSelf for Locked<M> {
    fn migrations(&self) -> Vec<Box<dyn MigrationTrait>> {
        self.0.migrations()
    }

    fn migration_table_name(&self) -> DynIden {
        self.0.migration_table_name()
    }

    async fn status<C: ConnectionTrait>(&self, db: &C) -> Result<(), DbErr> {
        status::require_own_steps(db, &self.0).await?;
        Inner { migrator: &self.0, runs: None }.status(db).await
    }

    async fn up<'c, C>(&self, db: C, steps: Option<u32>) -> Result<(), DbErr>
    where
        C: IntoSchemaManagerConnection<'c>,
    {
        let db = db.into_database_executor();
        let backend = db.get_database_backend();
        require_supported(backend)?;
        match db {
            SchemaManagerConnection::Connection(pool) if backend == DbBackend::Sqlite => {
                self.up_on_sqlite(pool, steps).await
            }
            SchemaManagerConnection::Connection(pool) => self.up_on_postgres(pool, steps).await,
            txn => {
                self.require_own_steps(&txn).await?;
                lock::require(&txn).await?;
                Inner { migrator: &self.0, runs: None }.up(txn, steps).await
            }
        }
    }
}

/// The migrator's steps and table, with sea-orm-migration's own `up` and `status`.
struct Inner<'a, M> {
    migrator: &'a M,
    /// `None` in the caller's transaction, which has its own settings.
    runs: Option<Runs>,
}

#[derive(Clone, Copy, PartialEq)]
enum Runs {
    WithSettings,
    InOneTransaction,
}

impl<M: MigratorTraitSelf> MigratorTraitSelf for Inner<'_, M> {
    fn migrations(&self) -> Vec<Box<dyn MigrationTrait>> {
        let steps = self.migrator.migrations();
        match self.runs {
            Some(runs) => steps.into_iter().map(|inner| Box::new(Step { inner, runs }) as _).collect(),
            None => steps,
        }
    }

    fn migration_table_name(&self) -> DynIden {
        self.migrator.migration_table_name()
    }
}

struct Step {
    inner: Box<dyn MigrationTrait>,
    runs: Runs,
}

impl MigrationName for Step {
    fn name(&self) -> &str {
        self.inner.name()
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    fn use_transaction(&self) -> Option<bool> {
        match self.runs {
            Runs::WithSettings => self.inner.use_transaction(),
            // SQLite ends the whole transaction after some errors. With a savepoint for the step, the driver would
            // still count that savepoint as open, and the pool's connection could no longer roll back.
            Runs::InOneTransaction => Some(false),
        }
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        if self.runs == Runs::InOneTransaction || !db.is_transaction() {
            return self.inner.up(manager).await;
        }
        settings::set_for_transaction(db).await?;
        loop {
            // Rolling back to a savepoint releases the locks of this attempt.
            let attempt = db.begin().await?;
            match self.inner.up(&SchemaManager::new(&attempt)).await {
                Ok(()) => return attempt.commit().await,
                Err(error) if is_lock_timeout(&error) => attempt.rollback().await?,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
