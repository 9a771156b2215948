//! Creates `dead_letters`, its three CHECKs and its three indexes.

use sea_orm_migration::{prelude::*, schema::*, sea_orm::DbBackend};

use crate::require_supported;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum DeadLetters {
    Table,
    Id,
    AppId,
    OriginalEventId,
    Source,
    Op,
    TriggerId,
    ScriptId,
    Payload,
    AttemptCount,
    FirstAttemptAt,
    LastAttemptAt,
    LastError,
    CreatedAt,
    ResolvedAt,
    Resolution,
}

/// What a writer other than the repo gets: (`id`, `created_at`).
///
/// SQLite keeps times as text and compares them as text, so its default prints them as sqlx does: with
/// a `T`, an offset, and no fraction at a whole second.
fn defaults(backend: DbBackend) -> (Expr, Expr) {
    if backend == DbBackend::Sqlite {
        let now = "(replace(strftime('%Y-%m-%dT%H:%M:%f+00:00','now'),'.000+','+'))";
        (Expr::cust("(randomblob(16))"), Expr::cust(now))
    } else {
        (Expr::cust("gen_random_uuid()"), Expr::current_timestamp())
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        // Not SQLite's habit here, and half a schema is worse than none.
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        require_supported(backend)?;
        let (default_id, default_created_at) = defaults(backend);

        let table = Table::create()
            .table(DeadLetters::Table)
            .col(pk_uuid(DeadLetters::Id).default(default_id))
            .col(uuid(DeadLetters::AppId))
            .col(uuid(DeadLetters::OriginalEventId))
            .col(text(DeadLetters::Source))
            .col(text(DeadLetters::Op))
            // No foreign keys: a deleted trigger must not stop its event from being stored.
            .col(uuid_null(DeadLetters::TriggerId))
            .col(uuid_null(DeadLetters::ScriptId))
            // Not jsonb, which refuses \u0000 and rewrites numbers.
            .col(text(DeadLetters::Payload))
            .col(integer(DeadLetters::AttemptCount))
            .col(timestamp_with_time_zone(DeadLetters::FirstAttemptAt))
            .col(timestamp_with_time_zone(DeadLetters::LastAttemptAt))
            .col(text(DeadLetters::LastError))
            .col(timestamp_with_time_zone(DeadLetters::CreatedAt).default(default_created_at))
            .col(timestamp_with_time_zone_null(DeadLetters::ResolvedAt))
            .col(text_null(DeadLetters::Resolution))
            .check(("dead_letters_attempt_count_check", Expr::col(DeadLetters::AttemptCount).gte(0)))
            .check((
                "dead_letters_resolution_check",
                Expr::col(DeadLetters::Resolution).is_in([
                    "replayed",
                    "ignored",
                    "handled_by_script",
                    "handler_failed",
                ]),
            ))
            .check((
                "dead_letters_resolved_check",
                Expr::col(DeadLetters::ResolvedAt).is_null().eq(Expr::col(DeadLetters::Resolution).is_null()),
            ))
            .take();
        manager.create_table(table).await?;

        // An app's page, in the order in which it is read.
        let page = Index::create()
            .table(DeadLetters::Table)
            .col(DeadLetters::AppId)
            .col((DeadLetters::CreatedAt, IndexOrder::Desc))
            .col((DeadLetters::Id, IndexOrder::Desc))
            .take();
        manager.create_index(page.clone().name("idx_dead_letters_app").take()).await?;

        // Its backlog, and the badge: only what is unresolved.
        let unresolved = page
            .clone()
            .name("idx_dead_letters_app_unresolved")
            .and_where(Expr::col(DeadLetters::ResolvedAt).is_null())
            .take();
        manager.create_index(unresolved).await?;

        // For gc alone. A plain index on created_at would tempt Postgres to walk it for an app's page,
        // through all the newer rows of the other apps; the expression is one that only gc uses.
        let gc = Index::create().name("idx_dead_letters_gc").table(DeadLetters::Table).take();
        let gc = if backend == DbBackend::Sqlite {
            // sea-query has no expression index for SQLite, which has no such temptation either.
            gc.clone().col(DeadLetters::CreatedAt).take()
        } else {
            gc.clone().col(Expr::cust("created_at AT TIME ZONE 'UTC'")).take()
        };
        manager.create_index(gc).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(DeadLetters::Table).take()).await
    }
}
