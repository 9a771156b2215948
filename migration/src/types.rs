//! The types, defaults and CHECKs that the steps share.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

/// The types, defaults and CHECKs of each backend.
///
/// SQLite's table is STRICT, which allows few types. Ids are blobs and times are text, as sqlx writes them. SQLite
/// compares times as text, so every writer must print them in the same format.
pub(crate) struct Types {
    pub(crate) backend: DbBackend,
}

impl Types {
    pub(crate) fn is_sqlite(&self) -> bool {
        self.backend == DbBackend::Sqlite
    }

    fn column(
        &self,
        name: impl Iden,
        on_sqlite: &'static str,
        on_postgres: fn(&mut ColumnDef) -> &mut ColumnDef,
    ) -> ColumnDef {
        let mut column = ColumnDef::new(name);
        match self.is_sqlite() {
            true => column.custom(on_sqlite),
            false => on_postgres(&mut column),
        };
        column
    }

    pub(crate) fn id(&self, name: impl Iden) -> ColumnDef {
        self.column(name, "BLOB", ColumnDef::uuid)
    }

    pub(crate) fn text(&self, name: impl Iden) -> ColumnDef {
        self.column(name, "TEXT", ColumnDef::text)
    }

    pub(crate) fn time(&self, name: impl Iden) -> ColumnDef {
        self.column(name, "TEXT", ColumnDef::timestamp_with_time_zone)
    }

    pub(crate) fn integer(&self, name: impl Iden) -> ColumnDef {
        self.column(name, "INTEGER", ColumnDef::integer)
    }

    pub(crate) fn big_integer(&self, name: impl Iden) -> ColumnDef {
        self.column(name, "INTEGER", ColumnDef::big_integer)
    }

    pub(crate) fn small_integer(&self, name: impl Iden) -> ColumnDef {
        self.column(name, "INTEGER", ColumnDef::small_integer)
    }

    /// Returns the default id, for a letter that another writer inserts.
    pub(crate) fn new_id(&self) -> Expr {
        Expr::cust(if self.is_sqlite() { "(randomblob(16))" } else { "gen_random_uuid()" })
    }

    pub(crate) fn now(&self) -> Expr {
        match self.is_sqlite() {
            // sqlx prints no fraction at a whole second.
            true => Expr::cust("(replace(strftime('%Y-%m-%dT%H:%M:%f+00:00','now'),'.000+','+'))"),
            false => Expr::current_timestamp(),
        }
    }

    pub(crate) fn options(&self) -> &'static str {
        match self.is_sqlite() {
            true => "STRICT",
            // By default autovacuum waits until a tenth of the table has changed. Until ANALYZE has run,
            // PostgreSQL has no statistics about a new app.
            false => "WITH (autovacuum_analyze_scale_factor = 0.01, autovacuum_analyze_threshold = 1000)",
        }
    }

    /// Returns the CHECK of a column with fixed texts. PostgreSQL parses each CHECK anew for each statement, and
    /// parses one array faster than a list of items.
    pub(crate) fn is_one_of(&self, column: impl Iden, texts: &[&str]) -> Expr {
        match self.is_sqlite() {
            true => Expr::col(column).is_in(texts.iter().copied()),
            false => Expr::cust(format!("{} = ANY ('{{{}}}'::text[])", column.to_string(), texts.join(","))),
        }
    }

    /// Returns the CHECK of the metadata: a JSON object of at most 16 KB that both backends can read.
    pub(crate) fn is_metadata(&self) -> Expr {
        Expr::cust(match self.is_sqlite() {
            true => {
                "metadata IS NULL OR length(CAST(metadata AS BLOB)) <= 16384 \
                 AND CASE WHEN json_valid(metadata) THEN json_type(metadata) = 'object' ELSE false END \
                 AND instr(replace(metadata, '\\\\', ''), '\\u0000') = 0"
            }
            // The cast to jsonb refuses \u0000.
            false => "octet_length(metadata) <= 16384 AND jsonb_typeof(metadata::jsonb) = 'object'",
        })
    }
}

/// Returns the CHECK of all times: the years 1 to 9999, which sqlx can read. NULL passes. PostgreSQL parses this
/// faster than a CHECK for each column.
pub(crate) fn are_times_on_postgres<const TIMES: usize>(times: [impl Iden; TIMES]) -> Expr {
    let times = times.map(|time| time.to_string()).join(", ");
    Expr::cust(format!(
        "tstzrange '[0001-01-01 00:00:00+00, 10000-01-01 00:00:00+00)' @> ALL (ARRAY[{times}])"
    ))
}

/// Returns the name and the CHECK of a time in the years 1 to 9999. SQLite reports a failed CHECK by its name
/// alone, so the name describes the format.
pub(crate) fn time_check_on_sqlite(table: impl Iden, column: impl Iden) -> (String, Expr) {
    let (table, column) = (table.to_string(), column.to_string());
    let name = format!(
        "{table}_{column}_check: UTC as 2026-03-01T10:00:00[.123[456]]+00:00, of the years 1 to 9999, no longer \
         than need be"
    );
    // Without `+0 days` SQLite would accept 30 February and 24:00.
    let is_time = format!(
        "{column} IS NULL \
         OR (substr({column}, 20) = '+00:00' \
             OR substr({column}, 20) GLOB '.[0-9][0-9][0-9]+00:00' \
                 AND substr({column}, 21, 3) <> '000' \
             OR substr({column}, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]+00:00' \
                 AND substr({column}, 24, 3) <> '000') \
         AND substr({column}, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr({column}, 1, 19), '+0 days') \
         AND {column} >= '0001'"
    );
    (name, Expr::cust(is_time))
}

pub(crate) fn id_check_on_sqlite(table: impl Iden, column: impl Iden) -> (String, Expr) {
    let (table, column) = (table.to_string(), column.to_string());
    (
        format!("{table}_{column}_check: a uuid as a blob of 16 bytes"),
        Expr::cust(format!("length({column}) = 16")),
    )
}
