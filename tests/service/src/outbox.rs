//! The outbox: events that are still to be delivered.

use std::error::Error;

use async_trait::async_trait;
use dead_letters::{Requeue, StoredLetter, migration};
use sea_orm::{ActiveValue::Set, DatabaseTransaction, EntityTrait};
use sea_orm_migration::prelude::*;

/// The table.
pub mod event {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "outbox")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub app_id: Uuid,
        #[sea_orm(column_type = "Text")]
        pub payload: String,
        pub attempts: i32,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// The store's steps, and the service's own.
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut steps = migration::Migrator::migrations();
        steps.push(Box::new(CreateOutbox));
        steps
    }
}

#[derive(DeriveMigrationName)]
struct CreateOutbox;

#[async_trait]
impl MigrationTrait for CreateOutbox {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let schema = sea_orm::Schema::new(manager.get_database_backend());
        manager.create_table(schema.create_table_from_entity(event::Entity)).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(event::Entity).take()).await
    }
}

/// Puts replayed events back, under their own ids.
pub struct Outbox;

#[async_trait]
impl Requeue for Outbox {
    async fn requeue(
        &self,
        txn: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let events = letters.iter().map(|letter| event::ActiveModel {
            id: Set(letter.original_event_id),
            app_id: Set(letter.app_id.into()),
            payload: Set(letter.payload.clone()),
            attempts: Set(0),
        });
        event::Entity::insert_many(events).exec_without_returning(txn).await?;
        Ok(())
    }
}
