//! `up` for any migrator, in any number of processes at once.

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

/// Between two tries for a table that others have locked. The statements that queued behind the first try pass.
const PAUSE: Duration = Duration::from_secs(1);

/// A migrator whose `up` any number of processes may run at once: one applies the pending steps, and the others
/// wait for it.
///
/// It has the inner migrator's steps and table, and never calls the inner migrator's own `up` or `status`. The
/// inner migrator is [`Migrator`](crate::Migrator), a service's own that has its steps, or a value of a
/// [`MigratorTraitSelf`].
///
/// # On PostgreSQL
///
/// - `up` over a pool takes an advisory lock. It needs two connections of the pool at once, and returns an error
///   if it gets no second one within 5 seconds.
/// - A step in a transaction is READ COMMITTED and has no timeouts, whatever pool, role and database set. It waits
///   half a second for a table's lock, because every insert queues behind it meanwhile. Then it lets the inserts
///   pass and tries again, for as long as it takes. A step outside a transaction has the pool's settings.
/// - In the caller's transaction `up` never waits for the lock: it returns an error if another process is
///   migrating. The steps have the transaction's settings.
/// - The migrator's table and the steps' tables are those of the current schema, the first one of `search_path`
///   that exists.
/// - A database whose encoding is not UTF8 is refused.
///
/// # On SQLite
///
/// `up` over a pool is one IMMEDIATE transaction, whatever the steps' `use_transaction` returns: all pending steps
/// are applied, or none. A `VACUUM` fails in it, and `PRAGMA foreign_keys` does nothing.
///
/// # Everywhere
///
/// `up` and `status` refuse a migrator's table with steps that the migrator does not have, and name them.
/// `down`, `fresh`, `refresh` and `reset` take no lock.
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
    /// Returns the steps that `up` would apply. It changes nothing.
    ///
    /// Unlike [`schema_is_current`](crate::schema_is_current) it looks at the current schema alone. Steps of others
    /// in the migrator's table are ignored.
    ///
    /// # Errors
    ///
    /// Every [`SchemaError`] but `Missing`.
    pub async fn pending(&self, db: &impl ConnectionTrait) -> Result<Vec<String>, SchemaError> {
        status::missing(db, &self.0, Scope::CurrentSchema).await
    }

    async fn up_on_postgres(&self, pool: &DatabaseConnection, steps: Option<u32>) -> Result<(), DbErr> {
        self.require_own_steps(pool).await?;
        let lock = lock::wait(pool).await?;
        let outcome = Inner { migrator: &self.0, runs: Some(Runs::WithSettings) }.up(pool, steps).await;
        // Releases the lock. If the process were killed instead, the server would.
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
                // SQLite itself ends a transaction over some errors, a full disk for example. The driver's ROLLBACK
                // then fails, and the connection's next BEGIN would be a SAVEPOINT, whose rollback ends nothing. This
                // savepoint gives the driver a transaction to roll back.
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
            // SQLite ends the whole transaction over some errors. The driver would count this savepoint as open still,
            // and the pool's connection could roll back nothing any more.
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
            // Rolling back to a savepoint releases the locks of this try.
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
