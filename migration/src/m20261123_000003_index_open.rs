//! An app's open rows, unresolved or `handler_failed`: what triage lists and settles.
//!
//! The condition is on `resolution` alone, and a CHECK makes it say the same as one with `resolved_at IS
//! NULL`. With that one in its place both backends took this index for the unresolved list and the badge, and
//! read the `handler_failed` rows along.

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
    Resolution,
}

fn index() -> IndexCreateStatement {
    Index::create()
        .name("idx_dead_letters_app_open")
        .table(DeadLetters::Table)
        .col(DeadLetters::AppId)
        .col((DeadLetters::CreatedAt, IndexOrder::Desc))
        .col((DeadLetters::Id, IndexOrder::Desc))
        .cond_where(
            Cond::any()
                .add(Expr::col(DeadLetters::Resolution).is_null())
                .add(Expr::col(DeadLetters::Resolution).eq("handler_failed")),
        )
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
