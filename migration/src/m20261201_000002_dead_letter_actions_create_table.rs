//! Creates the table `dead_letter_actions`, with its CHECKs and indexes: what operators did to letters.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{
    require_supported,
    types::{Types, are_times_on_postgres, id_check_on_sqlite, time_check_on_sqlite},
};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(Clone, Copy, DeriveIden)]
enum DeadLetterActions {
    Table,
    AppId,
    Id,
    Action,
    CreatedAt,
    Actor,
    Note,
    LetterId,
    Filter,
    Letters,
    Resolution,
    PreviousResolution,
    RunId,
    Batch,
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
        manager.create_table(table(backend)).await?;
        for index in indexes() {
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(DeadLetterActions::Table).take()).await
    }
}

fn table(backend: DbBackend) -> TableCreateStatement {
    use DeadLetterActions::*;
    let types = Types { backend };
    let mut table = sea_query::Table::create()
        .table(Table)
        .col(types.id(AppId).not_null())
        .col(types.id(Id).not_null())
        .col(types.text(Action).not_null())
        .col(types.time(CreatedAt).not_null().default(types.now()))
        .col(types.text(Actor))
        .col(types.text(Note))
        // There is no foreign key, because an action outlives its letter.
        .col(types.id(LetterId))
        .col(types.text(Filter))
        .col(types.integer(Letters).not_null())
        .col(types.text(Resolution))
        .col(types.text(PreviousResolution))
        .col(types.id(RunId))
        .col(types.big_integer(Batch))
        // The key begins with the app, so that the table can be distributed by it. Ids ascend with time.
        .primary_key(Index::create().col(AppId).col(Id))
        .check((
            "dead_letter_actions_action_check",
            types.is_one_of(Action, &["resolve", "replay", "reopen", "edit", "delete", "erase", "reveal"]),
        ))
        .check((
            "dead_letter_actions_target_check",
            Expr::col(LetterId).is_null().ne(Expr::col(Filter).is_null()),
        ))
        .take();
    if types.is_sqlite() {
        table.extra(types.options());
        let letters = Expr::col(Letters).between(1, i32::MAX);
        table.check(("dead_letter_actions_letters_check", letters));
        table.check(time_check_on_sqlite(Table, CreatedAt));
        for id in [AppId, Id, LetterId, RunId] {
            table.check(id_check_on_sqlite(Table, id));
        }
    } else {
        table.check(("dead_letter_actions_letters_check", Expr::col(Letters).gte(1)));
        table.check(("dead_letter_actions_times_check", are_times_on_postgres([CreatedAt])));
    }
    table
}

/// Returns the indexes of all actions, of the actions on one letter, of a bulk run's actions, and of its batches.
///
/// The index of batches lets each batch of a run be done once. The index of all actions has the order of time.
/// PostgreSQL might take an index by id for the history of one app, and read that of all apps.
fn indexes() -> [IndexCreateStatement; 4] {
    use DeadLetterActions::*;
    let index = |name, column, last, not_null| {
        let mut index = Index::create().name(name).table(Table).col(AppId).col(column).col(last).to_owned();
        index.and_where(Expr::col(not_null).is_not_null()).to_owned()
    };
    [
        Index::create().name("idx_dead_letter_actions_newest").table(Table).col(CreatedAt).col(Id).to_owned(),
        index("idx_dead_letter_actions_letter", LetterId, Id, LetterId),
        index("idx_dead_letter_actions_run", RunId, Id, RunId),
        index("idx_dead_letter_actions_batch", RunId, Batch, Batch).unique().take(),
    ]
}
