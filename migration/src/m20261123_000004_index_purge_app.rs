//! For the purge of one app: its settled rows, which `handler_failed` ones are not.

use sea_orm_migration::prelude::*;

use crate::live_index;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum DeadLetters {
    Table,
    AppId,
    ResolvedAt,
    Resolution,
}

fn index() -> IndexCreateStatement {
    Index::create()
        .name("idx_dead_letters_purge_app")
        .table(DeadLetters::Table)
        .col(DeadLetters::AppId)
        .col(DeadLetters::ResolvedAt)
        .and_where(Expr::col(DeadLetters::Resolution).ne("handler_failed"))
        .take()
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        live_index::USE_TRANSACTION
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        live_index::create(manager, index()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        live_index::drop(manager, &index()).await
    }
}
