//! The service's own build of the tool, which can replay, and migrates the service's own tables too.

use std::{env::args_os, error::Error, process::ExitCode};

use async_trait::async_trait;
use dead_letters::{
    Requeue, StoredLetter,
    migration::{Migrator, sea_orm_migration::prelude::*},
};
use dead_letters_cli::Cli;
use sea_orm::DatabaseTransaction;

fn main() -> ExitCode {
    Cli::new().requeue(Outbox).migrator(OwnMigrator).run(args_os()).into()
}

/// The steps of dead-letters, and then those of the service.
struct OwnMigrator;

impl MigratorTrait for OwnMigrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut steps = Migrator::migrations();
        steps.push(Box::new(CreateOrders));
        steps
    }
}

struct CreateOrders;

impl MigrationName for CreateOrders {
    fn name(&self) -> &str {
        "m20270101_000001_create_orders"
    }
}

#[async_trait]
impl MigrationTrait for CreateOrders {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let id = ColumnDef::new("id").integer().not_null().primary_key().to_owned();
        manager.create_table(Table::create().table("orders").col(id).to_owned()).await
    }
}

/// Prints the events. A service inserts them into its outbox here.
struct Outbox;

#[async_trait]
impl Requeue for Outbox {
    async fn requeue(
        &self,
        _txn: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        for letter in letters {
            eprintln!("back: {}", letter.original_event_id);
        }
        Ok(())
    }
}
