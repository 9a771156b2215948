//! PostgreSQL: reads the table once, to know that the CHECKs on times hold for every row. Reads and writes go
//! on meanwhile.

use sea_orm_migration::prelude::*;

use crate::m20261125_000006_check_times::alter_on_postgres;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        alter_on_postgres(manager, |column| format!("VALIDATE CONSTRAINT dead_letters_{column}_check")).await
    }

    /// Valid CHECKs may stay.
    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Ok(())
    }
}
