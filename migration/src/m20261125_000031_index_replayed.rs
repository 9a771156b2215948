//! How often an app's event was replayed. No insert pays for it.

use sea_orm_migration::prelude::*;

use crate::live_index;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum DeadLetters {
    Table,
    AppId,
    OriginalEventId,
    Resolution,
}

pub(crate) fn index() -> IndexCreateStatement {
    Index::create()
        .name("idx_dead_letters_replayed")
        .table(DeadLetters::Table)
        .col(DeadLetters::AppId)
        .col(DeadLetters::OriginalEventId)
        .and_where(Expr::col(DeadLetters::Resolution).eq("replayed"))
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
