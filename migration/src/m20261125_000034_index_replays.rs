//! How often an app's event was replayed, by an index that no other one can be taken for: the step before had
//! it on `resolution = 'replayed'`, which the purge's index covers too. Where most rows were settled since the
//! last ANALYZE, PostgreSQL thinks both empty, and read all of the app's settled rows for each event.

use sea_orm_migration::prelude::*;

use crate::{live_index, m20261125_000031_index_replayed};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum DeadLetters {
    Table,
    AppId,
    OriginalEventId,
    Resolution,
}

fn index() -> IndexCreateStatement {
    let resolution = Func::coalesce([Expr::col(DeadLetters::Resolution), Expr::Constant("".into())]);
    Index::create()
        .name("idx_dead_letters_replays")
        .table(DeadLetters::Table)
        .col(DeadLetters::AppId)
        .col(DeadLetters::OriginalEventId)
        .and_where(Expr::expr(resolution).eq("replayed"))
        .take()
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        live_index::USE_TRANSACTION
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        live_index::create(manager, index()).await?;
        live_index::drop(manager, &m20261125_000031_index_replayed::index()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        live_index::create(manager, m20261125_000031_index_replayed::index()).await?;
        live_index::drop(manager, &index()).await
    }
}
