//! A service's own migrator, whose steps come after those of dead-letters. The service opens the store with it.
//!
//! ```text
//! cargo run --example migrator
//! ```

use std::error::Error;

use async_trait::async_trait;
use dead_letters::{
    OnOpen, connect_options,
    migration::{Locked, Migrator, sea_orm_migration::prelude::*},
    open,
};
use tempfile::TempDir;

/// The steps of dead-letters, and then those of the service.
struct OwnMigrator;

impl MigratorTrait for OwnMigrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut steps = Migrator::migrations();
        steps.push(Box::new(CreateOutbox));
        steps
    }
}

struct CreateOutbox;

impl MigrationName for CreateOutbox {
    fn name(&self) -> &str {
        "m20270101_000001_create_outbox"
    }
}

#[async_trait]
impl MigrationTrait for CreateOutbox {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let id = ColumnDef::new("id").uuid().not_null().primary_key().to_owned();
        manager.create_table(Table::create().table("outbox").col(id).to_owned()).await
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = TempDir::new()?;
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("orders.sqlite").display());

    // A service that does not migrate at its start fails before the deploy has migrated.
    if let Err(error) = open(connect_options(&url), OnOpen::Check, OwnMigrator).await {
        println!("{error}");
    }

    // The deploy. Any number of replicas may do so at once.
    let deployed = open(connect_options(&url), OnOpen::Migrate, OwnMigrator).await?;
    println!("pending after the deploy: {:?}", Locked(OwnMigrator).pending(deployed.pool()).await?);
    deployed.pool().clone().close().await?;

    let repo = open(connect_options(&url), OnOpen::Check, OwnMigrator).await?;
    repo.check_ready().await?;
    println!("the service starts");
    Ok(repo.pool().clone().close().await?)
}
