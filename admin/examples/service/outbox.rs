//! The outbox: events that are still to be delivered.

use std::error::Error;

use async_trait::async_trait;
use dead_letters::{Requeue, StoredLetter, migration};
use sea_orm::{ActiveValue::Set, ConnectionTrait, DatabaseTransaction, EntityTrait};
use sea_orm_migration::prelude::*;
use uuid::Uuid;

/// The table.
#[expect(unreachable_pub, reason = "SeaORM's derives name the model in public impls")]
pub(crate) mod event {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "outbox")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub app_id: Uuid,
        #[sea_orm(column_type = "Text")]
        pub source: String,
        #[sea_orm(column_type = "Text")]
        pub op: String,
        #[sea_orm(column_type = "Text")]
        pub payload: String,
        pub attempts: i32,
        pub first_attempt_at: Option<DateTimeUtc>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// The store's steps, and the service's own.
pub(crate) struct Migrator;

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
}

impl event::ActiveModel {
    /// No attempt was made yet.
    pub(crate) fn new(id: Uuid, app_id: Uuid, source: &str, op: &str, payload: String) -> Self {
        Self {
            id: Set(id),
            app_id: Set(app_id),
            source: Set(source.to_owned()),
            op: Set(op.to_owned()),
            payload: Set(payload),
            attempts: Set(0),
            first_attempt_at: Set(None),
        }
    }
}

/// One that is there already was replayed, reopened and replayed again.
pub(crate) async fn put(db: &impl ConnectionTrait, events: Vec<event::ActiveModel>) -> Result<(), DbErr> {
    event::Entity::insert_many(events).on_conflict_do_nothing().exec_without_returning(db).await?;
    Ok(())
}

/// Where replayed events go: under their own ids, so that one that dies again is known.
pub(crate) struct Outbox;

#[async_trait]
impl Requeue for Outbox {
    async fn requeue(
        &self,
        txn: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let event = |letter: &StoredLetter| {
            let StoredLetter { original_event_id, app_id, source, op, payload, .. } = letter;
            event::ActiveModel::new(*original_event_id, (*app_id).into(), source, op, payload.clone())
        };
        Ok(put(txn, letters.iter().map(event).collect()).await?)
    }
}
