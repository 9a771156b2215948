//! The service's own build of the tool, which can replay, and migrates the service's own tables too.

use std::{env::args_os, error::Error, process::ExitCode};

use async_trait::async_trait;
use dead_letters::{
    AppId, Requeue, StoredLetter,
    migration::{Migrator, sea_orm_migration::prelude::*},
};
use dead_letters_cli::Cli;
use sea_orm::DatabaseTransaction;

fn main() -> ExitCode {
    Cli::new().requeue(Outbox).app_names(name).migrator(OwnMigrator).run(args_os()).into()
}

/// Names the app of the shop.
fn name(app_id: AppId) -> Option<String> {
    (app_id.to_string() == "6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01").then(|| "shop".to_owned())
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
