//! Indexes on a table that is in use: built concurrently in PostgreSQL, each in a step of its own.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::settings::Session;

/// CREATE INDEX CONCURRENTLY refuses a transaction.
pub(crate) const USE_TRANSACTION: Option<bool> = Some(false);

pub(crate) async fn create(manager: &SchemaManager<'_>, index: IndexCreateStatement) -> Result<(), DbErr> {
    // A build that was broken off leaves an invalid index, which IF NOT EXISTS would keep.
    let drop = drop_if_exists(&index);
    replace(manager, drop, Some(index)).await
}

pub(crate) async fn drop(manager: &SchemaManager<'_>, index: &IndexCreateStatement) -> Result<(), DbErr> {
    replace(manager, drop_if_exists(index), None).await
}

fn drop_if_exists(index: &IndexCreateStatement) -> IndexDropStatement {
    let name = index.get_index_spec().get_name().unwrap_or_default();
    Index::drop().name(name).if_exists().to_owned()
}

async fn replace(
    manager: &SchemaManager<'_>,
    mut drop: IndexDropStatement,
    mut create: Option<IndexCreateStatement>,
) -> Result<(), DbErr> {
    let db = manager.get_connection();
    // Whoever runs all steps in one transaction of their own gets an index built the ordinary way, with the
    // lock that it takes.
    if db.get_database_backend() != DbBackend::Postgres || db.is_transaction() {
        return execute(db, drop, create).await;
    }
    drop.concurrently();
    create.as_mut().map(IndexCreateStatement::concurrently);
    let session = Session::open(db).await?;
    let outcome = execute(session.connection(), drop, create).await;
    outcome.and(session.close().await)
}

async fn execute(
    db: &impl ConnectionTrait,
    drop: IndexDropStatement,
    create: Option<IndexCreateStatement>,
) -> Result<(), DbErr> {
    db.execute(&drop).await?;
    if let Some(create) = create {
        db.execute(&create).await?;
    }
    Ok(())
}
