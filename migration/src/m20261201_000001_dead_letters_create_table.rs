//! Creates the table `dead_letters` with its CHECKs and indexes.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{
    encoding, require_supported,
    types::{Types, are_times_on_postgres, id_check_on_sqlite, time_check_on_sqlite},
};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(Clone, Copy, DeriveIden)]
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
    PayloadKind,
    ReplayedPayload,
    Metadata,
    AttemptCount,
    FirstAttemptAt,
    LastAttemptAt,
    LastError,
    ErrorSignature,
    SignatureVersion,
    GroupKey,
    CreatedAt,
    ResolvedAt,
    Resolution,
    ResolvedBy,
    ResolutionNote,
    RunId,
    ErasedAt,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Runs the step in a transaction. On SQLite the default is none, and a failing step would stay half applied.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        require_supported(backend)?;
        encoding::require_utf8(manager.get_connection()).await?;
        manager.create_table(table(backend)).await?;
        for index in indexes(backend) {
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(DeadLetters::Table).take()).await
    }
}

fn table(backend: DbBackend) -> TableCreateStatement {
    use DeadLetters::*;
    let types = Types { backend };
    let (new_id, now) = (types.new_id(), types.now());
    let mut table = sea_query::Table::create()
        .table(Table)
        .col(types.id(Id).not_null().primary_key().default(new_id))
        .col(types.id(AppId).not_null())
        .col(types.id(OriginalEventId).not_null())
        .col(types.text(Source).not_null())
        .col(types.text(Op).not_null())
        // There are no foreign keys, because a letter outlives its trigger and script.
        .col(types.id(TriggerId))
        .col(types.id(ScriptId))
        // The type is not jsonb, because jsonb refuses \u0000 and rewrites numbers.
        .col(types.text(Payload).not_null())
        .col(types.text(PayloadKind).not_null().default("json"))
        .col(types.text(ReplayedPayload))
        .col(types.text(Metadata))
        .col(types.integer(AttemptCount).not_null())
        .col(types.time(FirstAttemptAt).not_null())
        .col(types.time(LastAttemptAt).not_null())
        .col(types.text(LastError).not_null())
        .col(types.text(ErrorSignature).not_null().default(""))
        .col(types.small_integer(SignatureVersion).not_null().default(0))
        .col(types.text(GroupKey).not_null().default(""))
        .col(types.time(CreatedAt).not_null().default(now))
        .col(types.time(ResolvedAt))
        .col(types.text(Resolution))
        .col(types.text(ResolvedBy))
        .col(types.text(ResolutionNote))
        .col(types.id(RunId))
        .col(types.time(ErasedAt))
        .check((
            "dead_letters_payload_kind_check",
            types.is_one_of(PayloadKind, &["json", "text", "truncated", "erased"]),
        ))
        .check((
            "dead_letters_resolution_check",
            types.is_one_of(Resolution, &["replayed", "ignored", "handled_by_script", "handler_failed"]),
        ))
        .check((
            "dead_letters_resolved_check",
            Expr::col(ResolvedAt).is_null().eq(Expr::col(Resolution).is_null()),
        ))
        .check(("dead_letters_metadata_check", types.is_metadata()))
        .extra(types.options())
        .take();
    let times = [FirstAttemptAt, LastAttemptAt, CreatedAt, ResolvedAt, ErasedAt];
    if types.is_sqlite() {
        let integers = [(AttemptCount, 0, i32::MAX), (SignatureVersion, i16::MIN.into(), i16::MAX.into())];
        for (integer, min, max) in integers {
            let name = format!("dead_letters_{}_check", integer.to_string());
            table.check((name, Expr::col(integer).between(min, max)));
        }
        for time in times {
            table.check(time_check_on_sqlite(Table, time));
        }
        for id in [Id, AppId, OriginalEventId, TriggerId, ScriptId, RunId] {
            table.check(id_check_on_sqlite(Table, id));
        }
    } else {
        table.check(("dead_letters_attempt_count_check", Expr::col(AttemptCount).gte(0)));
        table.check(("dead_letters_times_check", are_times_on_postgres(times)));
    }
    table
}

/// Returns the indexes. Each serves the calls that it is named for. docs/architecture.md describes their cost.
fn indexes(backend: DbBackend) -> [IndexCreateStatement; 8] {
    use DeadLetters::*;
    let index = |name| Index::create().name(name).table(Table).to_owned();
    let page = |name| {
        index(name).col(AppId).col((CreatedAt, IndexOrder::Desc)).col((Id, IndexOrder::Desc)).to_owned()
    };
    let created_at = match backend {
        // SQLite does not use this index for an app's page.
        DbBackend::Sqlite => index("idx_dead_letters_gc").col(CreatedAt).to_owned(),
        // Only sweeps use this expression. For an app's page, PostgreSQL would walk a plain index on `created_at`
        // through the newer letters of all other apps.
        _ => index("idx_dead_letters_gc").col(Expr::cust("created_at AT TIME ZONE 'UTC'")).to_owned(),
    };
    // PostgreSQL has no statistics about this expression. It expects few rows, and takes the index whose condition
    // a statement names. With a condition on `resolution` itself PostgreSQL would go by the last ANALYZE. If most
    // letters were unresolved then, it would read all of an app's letters to find the few that still are.
    let resolution = || Expr::expr(Func::coalesce([Expr::col(Resolution), Expr::Constant("".into())]));
    [
        page("idx_dead_letters_app"),
        page("idx_dead_letters_unresolved").and_where(resolution().eq("")).to_owned(),
        page("idx_dead_letters_handler_failed").and_where(resolution().eq("handler_failed")).to_owned(),
        // Without times and ids, equal keys share one entry, so that PostgreSQL counts much faster by this index.
        index("idx_dead_letters_unresolved_count")
            .col(AppId)
            .and_where(Expr::col(ResolvedAt).is_null())
            .to_owned(),
        index("idx_dead_letters_closed")
            .col(AppId)
            .col(ResolvedAt)
            .col(Id)
            .and_where(resolution().is_not_in(["", "handler_failed"]))
            .to_owned(),
        created_at.clone().col(Id).to_owned(),
        index("idx_dead_letters_replays")
            .col(AppId)
            .col(OriginalEventId)
            .and_where(resolution().eq("replayed"))
            .to_owned(),
        index("idx_dead_letters_run").col(RunId).col(Id).and_where(Expr::col(RunId).is_not_null()).to_owned(),
    ]
}
