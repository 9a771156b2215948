//! Indexes on a table that is in use: built concurrently in PostgreSQL, each in a step of its own.

use sea_orm_migration::prelude::*;

/// CREATE INDEX CONCURRENTLY refuses a transaction.
pub(crate) const USE_TRANSACTION: Option<bool> = Some(false);

/// Whoever runs all steps in one transaction of their own gets an index built the ordinary way, with the lock
/// that it takes.
fn can_be_concurrent(manager: &SchemaManager<'_>) -> bool {
    !manager.get_connection().is_transaction()
}

pub(crate) async fn create(
    manager: &SchemaManager<'_>,
    mut index: IndexCreateStatement,
) -> Result<(), DbErr> {
    // A build that was broken off leaves an invalid index, which IF NOT EXISTS would keep.
    drop(manager, &index).await?;
    if can_be_concurrent(manager) {
        index.concurrently();
    }
    manager.create_index(index).await
}

pub(crate) async fn drop(manager: &SchemaManager<'_>, index: &IndexCreateStatement) -> Result<(), DbErr> {
    let name = index.get_index_spec().get_name().unwrap_or_default();
    let mut drop = Index::drop().name(name).if_exists().to_owned();
    if can_be_concurrent(manager) {
        drop.concurrently();
    }
    manager.drop_index(drop).await
}
