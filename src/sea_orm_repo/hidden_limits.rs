//! Statements whose limits the planner does not see.

use std::fmt::{self, Write};

use sea_orm::{
    Statement,
    sea_query::{
        PostgresQueryBuilder, QueryBuilder, QueryStatementWriter, SqlWriter, SqlWriterValues,
        SqliteQueryBuilder, Value,
    },
};

use super::dialect::Dialect;

/// Builds a statement whose plan does not depend on its limits, so that both backends can cache the plan.
///
/// Where a limit is `(SELECT $1)`, PostgreSQL expects a tenth of the rows, keeps its generic plan, and walks an
/// index in order. If it saw the number, it would read and sort all rows of an app that its statistics do not
/// know. SQLite plans a statement anew for each value of a bound limit, so limits are literals there.
pub(super) fn with_hidden_limits(dialect: Dialect, query: &impl QueryStatementWriter) -> Statement {
    match dialect {
        Dialect::Postgres | Dialect::Sharded => build(PostgresQueryBuilder, dialect, query, false),
        Dialect::Sqlite => build(SqliteQueryBuilder, dialect, query, true),
    }
}

/// Builds a statement about letters of several apps. In a sharded table its limits are literals, because Citus takes no
/// subquery as the limit of a statement for several shards.
pub(super) fn of_several_apps(dialect: Dialect, query: &impl QueryStatementWriter) -> Statement {
    match dialect {
        Dialect::Sharded => build(PostgresQueryBuilder, dialect, query, true),
        Dialect::Postgres | Dialect::Sqlite => with_hidden_limits(dialect, query),
    }
}

/// Marks a limit as visible to PostgreSQL. Such a limit stands around rows that are limited already.
pub(super) const fn shown(limit: u64) -> u64 {
    limit | SHOWN
}

const SHOWN: u64 = 1 << 63;

fn build(
    builder: impl QueryBuilder,
    dialect: Dialect,
    query: &impl QueryStatementWriter,
    literal: bool,
) -> Statement {
    let (placeholder, numbered) = builder.placeholder();
    let values = SqlWriterValues::new(placeholder, numbered);
    let mut writer = HiddenLimits { values, literal };
    query.build_collect_any_into(&builder, &mut writer);
    let (sql, values) = writer.values.into_parts();
    Statement::from_sql_and_values(dialect.backend(), sql, values)
}

struct HiddenLimits {
    values: SqlWriterValues,
    literal: bool,
}

impl SqlWriter for HiddenLimits {
    fn push_param<T: QueryBuilder>(&mut self, value: Value, query_builder: &T) {
        match value {
            // Only limits are unsigned: no column is.
            Value::BigUnsigned(Some(limit)) if self.literal || limit & SHOWN != 0 => {
                write!(self, "{}", limit & !SHOWN).unwrap_or_default();
            }
            Value::BigUnsigned(Some(_)) => {
                self.values.write_str("(SELECT ").unwrap_or_default();
                self.values.push_param(value, query_builder);
                self.values.write_str(")").unwrap_or_default();
            }
            value => self.values.push_param(value, query_builder),
        }
    }

    fn as_writer(&mut self) -> &mut dyn Write {
        self
    }
}

impl Write for HiddenLimits {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.values.write_str(text)
    }
}

impl fmt::Display for HiddenLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use dead_letters_entity::dead_letters::{COLUMN, Entity};
    use sea_orm::{EntityTrait, QueryFilter, QuerySelect, QueryTrait};

    use super::*;

    #[test]
    fn a_limit_is_a_subquery_on_postgres_and_a_literal_on_sqlite() {
        let page = Entity::find().filter(COLUMN.attempt_count.eq(4711)).limit(51);
        let Statement { sql, values, .. } = with_hidden_limits(Dialect::Postgres, page.as_query());
        assert!(sql.ends_with(r#" = $1 LIMIT (SELECT $2)"#), "{sql}");
        assert_eq!(values.map(|values| values.0), Some(vec![4711.into(), 51_u64.into()]));
        let Statement { sql, values, .. } = with_hidden_limits(Dialect::Sqlite, page.as_query());
        assert!(sql.ends_with(" = ? LIMIT 51"), "{sql}");
        assert_eq!(values.map(|values| values.0), Some(vec![4711.into()]));
    }

    #[test]
    fn a_limit_of_several_apps_is_a_literal_where_the_table_is_sharded() {
        let page = Entity::find().limit(51);
        for (dialect, limit) in [
            (Dialect::Postgres, "LIMIT (SELECT $1)"),
            (Dialect::Sharded, "LIMIT 51"),
            (Dialect::Sqlite, "LIMIT 51"),
        ] {
            let Statement { sql, .. } = of_several_apps(dialect, page.as_query());
            assert!(sql.ends_with(limit), "{sql}");
        }
    }

    #[test]
    fn a_limit_that_is_shown_is_a_literal_on_both() {
        let page = Entity::find().limit(shown(51));
        for dialect in [Dialect::Postgres, Dialect::Sqlite] {
            let Statement { sql, values, .. } = with_hidden_limits(dialect, page.as_query());
            assert!(sql.ends_with(" LIMIT 51"), "{sql}");
            assert!(values.is_none_or(|values| values.0.is_empty()));
        }
    }
}
