//! PostgreSQL: every time is of the years 1 to 9999. Other writers could store `infinity` or the year 294276,
//! which the driver can't read.
//!
//! NOT VALID, so that the lock is short: what is there already is for the next two steps.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::encoding;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

pub(crate) const COLUMNS: [&str; 4] = ["first_attempt_at", "last_attempt_at", "created_at", "resolved_at"];
pub(crate) const FIRST: &str = "timestamptz '0001-01-01 00:00:00+00'";
pub(crate) const END: &str = "timestamptz '10000-01-01 00:00:00+00'";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // For whoever runs the steps without `Locked`.
        encoding::require_utf8(manager.get_connection()).await?;
        alter_on_postgres(manager, |column| {
            let check = format!("{column} >= {FIRST} AND {column} < {END}");
            format!("ADD CONSTRAINT dead_letters_{column}_check CHECK ({check}) NOT VALID")
        })
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        alter_on_postgres(manager, |column| format!("DROP CONSTRAINT dead_letters_{column}_check")).await
    }
}

/// One ALTER TABLE with an action for each time. SQLite has its own step.
pub(crate) async fn alter_on_postgres(
    manager: &SchemaManager<'_>,
    action: impl Fn(&'static str) -> String,
) -> Result<(), DbErr> {
    if manager.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    let actions = COLUMNS.map(action).join(", ");
    // sea-query has no word for CHECKs of a table that exists.
    manager
        .get_connection()
        .execute_unprepared(&format!("ALTER TABLE dead_letters {actions}"))
        .await
        .map(drop)
}
