//! What triage needs of a row. Constant defaults, so that no row of a live table is rewritten.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum DeadLetters {
    Table,
    ErrorSignature,
    ResolvedBy,
    ResolutionNote,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // One at a time: SQLite adds no more at once.
        for column in [
            text(DeadLetters::ErrorSignature).default("").take(),
            text_null(DeadLetters::ResolvedBy),
            text_null(DeadLetters::ResolutionNote),
        ] {
            manager.alter_table(Table::alter().table(DeadLetters::Table).add_column(column).take()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in [DeadLetters::ResolutionNote, DeadLetters::ResolvedBy, DeadLetters::ErrorSignature] {
            manager.alter_table(Table::alter().table(DeadLetters::Table).drop_column(column).take()).await?;
        }
        Ok(())
    }
}
