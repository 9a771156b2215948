//! PostgreSQL: a time before the year 1 becomes its first moment, one after 9999 the last of that. Rows whose
//! times are right are not touched.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::m20261125_000006_check_times::{COLUMNS, END, FIRST};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const LAST: &str = "timestamptz '9999-12-31 23:59:59.999999+00'";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() != DbBackend::Postgres {
            return Ok(());
        }
        let clamped = COLUMNS.map(|column| {
            let (early, late) = (format!("{column} < {FIRST}"), format!("{column} >= {END}"));
            format!("{column} = CASE WHEN {early} THEN {FIRST} WHEN {late} THEN {LAST} ELSE {column} END")
        });
        let outside = COLUMNS.map(|column| format!("{column} < {FIRST} OR {column} >= {END}"));
        let update = format!("UPDATE dead_letters SET {} WHERE {}", clamped.join(", "), outside.join(" OR "));
        manager.get_connection().execute_unprepared(&update).await.map(drop)
    }

    /// What a time was before is not known any more.
    async fn down(&self, _manager: &SchemaManager) -> Result<(), DbErr> {
        Ok(())
    }
}
