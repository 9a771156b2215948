//! `up` under a lock, with the settings that it needs, for any migrator.

use std::{fmt, marker::PhantomData, time::Duration};

use sea_orm_migration::{prelude::*, sea_orm::TransactionTrait};

use crate::{encoding, lock, settings, status};

/// Between two tries for a table that others hold. The statements that queued behind the first one pass.
const PAUSE: Duration = Duration::from_secs(1);

/// The migrator `M`, and `up` under a lock: for the `Migrator` of a service that takes our steps in.
///
/// It has `M`'s steps and `M`'s table, and never calls `M::up`. On PostgreSQL:
///
/// - Any number of processes may run `up` at once: one applies what is pending, the others wait for it and
///   find nothing to do. It takes two connections of the pool, and is an error where it gets no second one
///   within 5 seconds.
/// - A database whose encoding is not UTF8 is refused.
/// - Whatever pool, role and database say, a step that is a transaction, one of yours as well, is READ
///   COMMITTED and has no timeouts but one: it queues half a second for a lock, since every insert stands
///   behind it meanwhile, then lets the others pass and tries again, for as long as it takes. Our index
///   builds have no timeout; a step of yours that is no transaction has the pool's settings.
/// - In a transaction of the caller's the steps run as they come, with its settings.
///
/// Where the table has steps that `M` does not have, it is refused, on SQLite too, and they are named.
///
/// `down`, `fresh`, `refresh` and `reset` are not locked. On SQLite nothing is.
pub struct Locked<M>(PhantomData<fn() -> M>);

impl<M> Default for Locked<M> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<M> fmt::Debug for Locked<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Locked")
    }
}

#[async_trait::async_trait]
impl<M: MigratorTrait> MigratorTrait for Locked<M> {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        M::migrations()
    }

    fn migration_table_name() -> DynIden {
        M::migration_table_name()
    }

    async fn up<'c, C>(db: C, steps: Option<u32>) -> Result<(), DbErr>
    where
        C: IntoSchemaManagerConnection<'c>,
    {
        let db = db.into_database_executor();
        encoding::require_utf8(&db).await?;
        status::require_own_steps::<M>(&db).await?;
        let Some(lock) = lock::acquire(&db).await? else {
            return AsTheyCome::<M>::up(db, steps).await;
        };
        let outcome = Prepared::<M>::up(db, steps).await;
        // Gives the lock back. Were the process killed instead, the server would.
        lock.rollback().await.ok();
        outcome
    }
}

/// `M`'s steps, and `up` without a lock.
struct AsTheyCome<M>(PhantomData<fn() -> M>);

impl<M: MigratorTrait> MigratorTrait for AsTheyCome<M> {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        M::migrations()
    }

    fn migration_table_name() -> DynIden {
        M::migration_table_name()
    }
}

/// The same, each step with the settings that it needs, on a PostgreSQL pool.
struct Prepared<M>(PhantomData<fn() -> M>);

impl<M: MigratorTrait> MigratorTrait for Prepared<M> {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        M::migrations().into_iter().map(|step| Box::new(Step(step)) as _).collect()
    }

    fn migration_table_name() -> DynIden {
        M::migration_table_name()
    }
}

struct Step(Box<dyn MigrationTrait>);

impl MigrationName for Step {
    fn name(&self) -> &str {
        self.0.name()
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    fn use_transaction(&self) -> Option<bool> {
        self.0.use_transaction()
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        if !db.is_transaction() {
            return self.0.up(manager).await;
        }
        settings::set_for_transaction(db).await?;
        loop {
            // A savepoint: rolled back to, it gives the locks of this try back.
            let attempt = db.begin().await?;
            match self.0.up(&SchemaManager::new(&attempt)).await {
                Ok(()) => return attempt.commit().await,
                Err(error) if is_lock_timeout(&error) => attempt.rollback().await?,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// By its code, which without a driver's feature stands in the error's text alone.
fn is_lock_timeout(error: &DbErr) -> bool {
    format!("{error:?}").contains(r#"code: "55P03""#)
}
