//! An app's resolved rows, as triage lists and scans them: where they are half of the table, the listing of
//! all rows reads the other half along. No insert pays for it.

use sea_orm_migration::prelude::*;

use crate::live_index;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum DeadLetters {
    Table,
    AppId,
    CreatedAt,
    Id,
    ResolvedAt,
}

fn index() -> IndexCreateStatement {
    Index::create()
        .name("idx_dead_letters_app_resolved")
        .table(DeadLetters::Table)
        .col(DeadLetters::AppId)
        .col((DeadLetters::CreatedAt, IndexOrder::Desc))
        .col((DeadLetters::Id, IndexOrder::Desc))
        .and_where(Expr::col(DeadLetters::ResolvedAt).is_not_null())
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
