//! The texts of statements.

use std::{
    fmt::{self, Write},
    sync::OnceLock,
};

use sea_orm::{
    DbBackend, Statement, StatementBuilder,
    sea_query::{
        PostgresQueryBuilder, QueryBuilder, QueryStatementWriter, SqlWriter, SqlWriterValues,
        SqliteQueryBuilder, Value,
    },
};

/// The text of a statement of which only the values change, for each backend, kept once SeaORM built it.
///
/// Building it anew took 40,000 of 180,000 instructions of a `get`, and 21,000 of 130,000 of an `insert`.
pub(super) struct Text {
    postgres: OnceLock<String>,
    sqlite: OnceLock<String>,
}

impl Text {
    pub(super) const fn new() -> Self {
        Self { postgres: OnceLock::new(), sqlite: OnceLock::new() }
    }

    /// `values` go in the order of those of `build`, which are not sent.
    pub(super) fn with<S: StatementBuilder>(
        &self,
        backend: DbBackend,
        values: impl IntoIterator<Item = Value>,
        build: impl FnOnce() -> S,
    ) -> Statement {
        let text = match backend {
            DbBackend::Postgres => &self.postgres,
            DbBackend::Sqlite => &self.sqlite,
            other => return other.build(&build()),
        };
        let text = text.get_or_init(|| backend.build(&build()).sql);
        Statement::from_sql_and_values(backend, text, values)
    }
}

/// With its limits as literals: with a bound one both backends plan every call anew. PostgreSQL takes a tenth
/// of the rows for granted and finds its generic plan too dear: half of the 0.28 ms of a capped count in a large
/// table. Where it takes that plan, it joins a few picked rows with the whole table. SQLite looks at the value: a fifth of a triage page's instructions.
pub(super) fn with_literal_limits(
    backend: DbBackend,
    query: &(impl QueryStatementWriter + StatementBuilder),
) -> Statement {
    match backend {
        DbBackend::Postgres => build_with_literal_limits(PostgresQueryBuilder, backend, query),
        DbBackend::Sqlite => build_with_literal_limits(SqliteQueryBuilder, backend, query),
        other => other.build(query),
    }
}

fn build_with_literal_limits(
    builder: impl QueryBuilder,
    backend: DbBackend,
    query: &impl QueryStatementWriter,
) -> Statement {
    let (placeholder, numbered) = builder.placeholder();
    let mut writer = LiteralLimits(SqlWriterValues::new(placeholder, numbered));
    query.build_collect_any_into(&builder, &mut writer);
    let (sql, values) = writer.0.into_parts();
    Statement::from_sql_and_values(backend, sql, values)
}

struct LiteralLimits(SqlWriterValues);

impl SqlWriter for LiteralLimits {
    fn push_param<T: QueryBuilder>(&mut self, value: Value, query_builder: &T) {
        match value {
            // Only limits are: no column is unsigned.
            Value::BigUnsigned(Some(limit)) => write!(self, "{limit}").unwrap_or_default(),
            value => self.0.push_param(value, query_builder),
        }
    }

    fn as_writer(&mut self) -> &mut dyn Write {
        self
    }
}

impl Write for LiteralLimits {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(text)
    }
}

impl fmt::Display for LiteralLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use dead_letters_entity::dead_letters::{COLUMN, Entity};
    use sea_orm::{EntityTrait, QueryFilter, QuerySelect, QueryTrait};

    use super::*;

    #[test]
    fn a_limit_stands_in_the_text_and_other_values_do_not() {
        let page = Entity::find().filter(COLUMN.attempt_count.eq(4711)).limit(51);
        for backend in [DbBackend::Postgres, DbBackend::Sqlite] {
            let Statement { sql, values, .. } = with_literal_limits(backend, page.as_query());
            assert!(sql.ends_with(" LIMIT 51") && !sql.contains("4711"), "{sql}");
            assert_eq!(values.map(|values| values.0), Some(vec![4711.into()]));
        }
    }
}
