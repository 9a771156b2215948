//! SQLite: every time is text as the driver prints it, every id a blob of 16 bytes. Both are compared as they
//! are stored, so what another tool wrote in another format was passed over, listed for ever, or hid a
//! tenant's whole list.
//!
//! SQLite adds no CHECK to a table, so this one is built anew, after what is written another way was
//! rewritten:
//!
//! - A time that can be read (with a `T` or a space, with any offset or none, which is UTC, with any
//!   fraction, a date alone, or ten digits of seconds since 1970) keeps its moment, to the microsecond. One
//!   before the year 1 becomes its first moment.
//! - A `created_at` that can't be read becomes now, another such time what `created_at` is.
//! - An id of 32 hex digits, with hyphens or without, becomes its 16 bytes.
//! - An `id` that can't be read, or that another row has, becomes a new one; an `app_id` or
//!   `original_event_id` that can't be read becomes the nil uuid, a `trigger_id` or `script_id` NULL.
//!
//! Columns, indexes and triggers of others stay, and so do views and other tables' triggers.

use sea_orm_migration::{
    prelude::*,
    sea_orm::{DbBackend, Statement, TryGetable},
};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const NOW: &str = "replace(strftime('%Y-%m-%dT%H:%M:%f+00:00','now'),'.000+','+')";

/// Each with what takes the place of what can't be read; `created_at` before those that it stands in for.
const TIMES: [(&str, &str); 4] = [
    ("created_at", NOW),
    ("first_attempt_at", "created_at"),
    ("last_attempt_at", "created_at"),
    ("resolved_at", "created_at"),
];
const IDS: [(&str, &str); 5] = [
    ("id", "randomblob(16)"),
    ("app_id", "zeroblob(16)"),
    ("original_event_id", "zeroblob(16)"),
    ("trigger_id", "NULL"),
    ("script_id", "NULL"),
];

/// Whether the driver would print it so: NULL of NULL, which a CHECK lets pass. (With `+0 days` SQLite makes
/// another day of 30 February, and another hour of 24:00.)
fn is_time(column: &str) -> String {
    format!(
        "(substr({column}, 20) = '+00:00'
            OR substr({column}, 20) GLOB '.[0-9][0-9][0-9]+00:00' AND substr({column}, 21, 3) <> '000'
            OR substr({column}, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]+00:00'
                AND substr({column}, 24, 3) <> '000')
        AND substr({column}, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr({column}, 1, 19), '+0 days')
        AND {column} >= '0001'"
    )
}

fn is_id(column: &str) -> String {
    format!("typeof({column}) = 'blob' AND length({column}) = 16 OR {column} IS NULL")
}

/// SQLite's message of a CHECK that fails is its name.
fn checks() -> String {
    let times = TIMES.map(|(column, _)| {
        let format =
            "UTC as 2026-03-01T10:00:00[.123[456]]+00:00, of the years 1 to 9999, no longer than need be";
        format!(", CONSTRAINT \"dead_letters_{column}_check: {format}\" CHECK ({})", is_time(column))
    });
    let ids = IDS.map(|(column, _)| {
        let format = "a uuid as a blob of 16 bytes";
        format!(", CONSTRAINT \"dead_letters_{column}_check: {format}\" CHECK ({})", is_id(column))
    });
    times.concat() + &ids.concat()
}

/// The time as the driver prints it, or NULL.
fn read_time(column: &str) -> String {
    format!(
        "(SELECT CASE
            WHEN seconds < '0001' THEN '0001-01-01T00:00:00+00:00'
            WHEN micros = '000000' THEN seconds || '+00:00'
            WHEN micros GLOB '*000' THEN seconds || '.' || substr(micros, 1, 3) || '+00:00'
            ELSE seconds || '.' || micros || '+00:00'
        END FROM (SELECT
            strftime('%Y-%m-%dT%H:%M:%S', head || CASE
                WHEN zone IN ('', 'Z', 'UTC', 'GMT') THEN ''
                WHEN zone GLOB '[+-][0-9][0-9]' THEN zone || ':00'
                WHEN zone GLOB '[+-][0-9][0-9][0-9][0-9]' THEN substr(zone, 1, 3) || ':' || substr(zone, 4)
                ELSE zone
            END, '+0 days') AS seconds,
            substr(digits || '000000', 1, 6) AS micros
        FROM (SELECT
            head,
            CASE WHEN tail GLOB '.*' THEN substr(tail, 2, length(tail) - 1 - length(after)) ELSE '' END
                AS digits,
            trim(CASE WHEN tail GLOB '.*' THEN after ELSE tail END) AS zone
        FROM (SELECT head, tail, ltrim(substr(tail, 2), '0123456789') AS after
        FROM (SELECT head, substr(text, length(head) + 1) AS tail
        FROM (SELECT text, substr(text, 1, CASE
            WHEN substr(text, 17, 1) = ':' THEN 19
            WHEN substr(text, 11, 1) IN ('T', ' ') THEN 16
            ELSE 10
        END) AS head
        FROM (SELECT CASE
            WHEN length(text) = 10 AND text NOT GLOB '*[^0-9]*'
                THEN strftime('%Y-%m-%dT%H:%M:%S', text, 'unixepoch')
            ELSE text
        END AS text
        FROM (SELECT upper(trim(CAST(dead_letters.{column} AS TEXT))) AS text)))))
        WHERE head GLOB '[0-9]*' AND substr(head, 1, 10) = date(substr(head, 1, 10), '+0 days'))))"
    )
}

async fn mend(db: &impl ConnectionTrait) -> Result<(), DbErr> {
    for (column, instead) in TIMES {
        let (read, right) = (read_time(column), is_time(column));
        db.execute_unprepared(&format!(
            "UPDATE dead_letters SET {column} = coalesce({read}, {instead}) WHERE NOT ({right})"
        ))
        .await?;
    }
    for (column, instead) in IDS {
        let (read, right) = (format!("unhex(CAST(dead_letters.{column} AS TEXT), '-')"), is_id(column));
        let taken =
            format!("SELECT 1 FROM dead_letters AS other WHERE '{column}' = 'id' AND other.id = {read}");
        db.execute_unprepared(&format!(
            "UPDATE dead_letters SET {column} =
                CASE WHEN length({read}) = 16 AND NOT EXISTS ({taken}) THEN {read} ELSE {instead} END
            WHERE NOT ({right})"
        ))
        .await?;
    }
    Ok(())
}

/// The first column of each row.
async fn column<T: TryGetable>(db: &impl ConnectionTrait, sql: &str) -> Result<Vec<T>, DbErr> {
    let rows = db.query_all_raw(Statement::from_string(DbBackend::Sqlite, sql)).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// Puts a table with this definition, which is a change of the old one, in the place of the old one.
async fn rebuild(db: &impl ConnectionTrait, change: impl Fn(&str) -> String) -> Result<(), DbErr> {
    let referring = "SELECT name FROM sqlite_schema AS referring, pragma_foreign_keys AS setting
        WHERE type = 'table' AND setting.foreign_keys AND EXISTS
            (SELECT 1 FROM pragma_foreign_key_list(name) WHERE \"table\" = 'dead_letters' COLLATE NOCASE)";
    if let Some(table) = column::<String>(db, referring).await?.first() {
        return Err(DbErr::Migration(format!(
            "{table} refers to dead_letters, so SQLite would delete its rows as well when the table is built \
             anew: run this step on a connection whose foreign_keys are off"
        )));
    }
    let one = async |sql| column::<String>(db, sql).await?.pop().ok_or_else(no_table);
    let definition =
        one("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = 'dead_letters'").await?;
    let columns =
        one("SELECT group_concat('\"' || name || '\"') FROM pragma_table_info('dead_letters')").await?;
    let beside = "SELECT sql FROM sqlite_schema
        WHERE tbl_name = 'dead_letters' AND type IN ('index', 'trigger') AND sql IS NOT NULL";
    let beside = column::<String>(db, beside).await?;
    let (_, definition) = definition.split_once('(').ok_or_else(no_table)?;

    db.execute_unprepared(&format!("CREATE TABLE dead_letters_anew ({}", change(definition))).await?;
    db.execute_unprepared(&format!(
        "INSERT INTO dead_letters_anew ({columns}) SELECT {columns} FROM dead_letters"
    ))
    .await?;
    db.execute_unprepared("DROP TABLE dead_letters").await?;
    // As is, a view that names dead_letters would be in the way.
    let legacy = column::<bool>(db, "PRAGMA legacy_alter_table").await?.contains(&true);
    db.execute_unprepared("PRAGMA legacy_alter_table = ON").await?;
    let renamed = db.execute_unprepared("ALTER TABLE dead_letters_anew RENAME TO dead_letters").await;
    db.execute_unprepared(&format!("PRAGMA legacy_alter_table = {legacy}")).await?;
    renamed?;
    for sql in beside {
        db.execute_unprepared(&sql).await?;
    }
    Ok(())
}

fn no_table() -> DbErr {
    DbErr::Migration("there is no table dead_letters".to_owned())
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        if db.get_database_backend() != DbBackend::Sqlite {
            return Ok(());
        }
        // Writes before anything is read: else it would fail where another one writes in between.
        mend(db).await?;
        rebuild(db, |definition| match definition.rsplit_once(')') {
            Some((columns, options)) => format!("{columns}{}){options}", checks()),
            None => definition.to_owned(),
        })
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        if db.get_database_backend() != DbBackend::Sqlite {
            return Ok(());
        }
        db.execute_unprepared("UPDATE dead_letters SET id = id WHERE false").await?;
        rebuild(db, |definition| definition.replace(&checks(), "")).await
    }
}
