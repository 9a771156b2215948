//! Creates the table `dead_letter_announcements`, with its CHECKs and indexes: of which error groups somebody was told.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::{
    require_supported,
    types::{Types, are_times_on_postgres, id_check_on_sqlite, time_check_on_sqlite},
};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(Clone, Copy, DeriveIden)]
enum DeadLetterAnnouncements {
    Table,
    AppId,
    GroupKey,
    FirstSeen,
    LastClosedAt,
    ClaimedAt,
    LeasedUntil,
    AnnouncedAt,
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
        manager.drop_table(Table::drop().table(DeadLetterAnnouncements::Table).take()).await
    }
}

fn table(backend: DbBackend) -> TableCreateStatement {
    use DeadLetterAnnouncements::*;
    const TIMES: [DeadLetterAnnouncements; 5] =
        [FirstSeen, LastClosedAt, ClaimedAt, LeasedUntil, AnnouncedAt];
    let types = Types { backend };
    let mut table = sea_query::Table::create()
        .table(Table)
        .col(types.id(AppId).not_null())
        .col(types.text(GroupKey).not_null())
        .col(types.time(FirstSeen).not_null())
        // The close that an announced regression came after. It tells the next regression from that one.
        .col(types.time(LastClosedAt))
        .col(types.time(ClaimedAt).not_null())
        .col(types.time(LeasedUntil).not_null())
        .col(types.time(AnnouncedAt))
        // The key begins with the app, so that the table can be distributed by it.
        .primary_key(Index::create().col(AppId).col(GroupKey))
        .take();
    if types.is_sqlite() {
        table.extra(types.options());
        for time in TIMES {
            table.check(time_check_on_sqlite(Table, time));
        }
        table.check(id_check_on_sqlite(Table, AppId));
    } else {
        table.check(("dead_letter_announcements_times_check", are_times_on_postgres(TIMES)));
    }
    table
}

/// Returns the index of the groups that nobody was told of yet, and the index of those that somebody was told of.
fn indexes() -> [IndexCreateStatement; 2] {
    use DeadLetterAnnouncements::*;
    let announced_at = || Expr::col(AnnouncedAt);
    let index =
        |name, column, rows| Index::create().name(name).table(Table).col(column).and_where(rows).to_owned();
    [
        index("idx_dead_letter_announcements_pending", FirstSeen, announced_at().is_null()),
        index("idx_dead_letter_announcements_announced", AnnouncedAt, announced_at().is_not_null()),
    ]
}
