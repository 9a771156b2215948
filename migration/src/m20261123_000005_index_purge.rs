//! For the purge of all apps: settled rows, which `handler_failed` ones are not.
//!
//! On an expression that only that purge uses: a plain index on `resolved_at` tempts PostgreSQL to walk it
//! for the purge of one app, through the rows of all the others.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::live_index;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum DeadLetters {
    Table,
    ResolvedAt,
    Resolution,
}

fn index(backend: DbBackend) -> IndexCreateStatement {
    let mut index = Index::create()
        .name("idx_dead_letters_purge")
        .table(DeadLetters::Table)
        .and_where(Expr::col(DeadLetters::Resolution).ne("handler_failed"))
        .take();
    if backend == DbBackend::Sqlite {
        // For which sea-query has no expression index.
        index.col(DeadLetters::ResolvedAt).take()
    } else {
        index.col(Expr::cust("resolved_at AT TIME ZONE 'UTC'")).take()
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        live_index::USE_TRANSACTION
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        live_index::create(manager, index(manager.get_database_backend())).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        live_index::drop(manager, &index(manager.get_database_backend())).await
    }
}
