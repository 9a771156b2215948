//! SQL texts that are built once.

use std::sync::OnceLock;

use sea_orm::{Statement, StatementBuilder, sea_query::Value};

use super::dialect::Dialect;

/// The SQL text of a statement of which only the values change. SeaORM builds the text once for each backend,
/// since building it is a considerable part of a short statement's cost.
///
/// The number beside each text is how many placeholders the text has.
pub(super) struct CachedSql {
    postgres: OnceLock<(String, usize)>,
    sqlite: OnceLock<(String, usize)>,
}

impl CachedSql {
    pub(super) const fn new() -> Self {
        Self { postgres: OnceLock::new(), sqlite: OnceLock::new() }
    }

    /// Returns the statement with these values, in the order of the values of `build`. The values of `build` are
    /// not sent.
    pub(super) fn with<S: StatementBuilder>(
        &self,
        dialect: Dialect,
        values: impl IntoIterator<Item = Value>,
        build: impl FnOnce() -> S,
    ) -> Statement {
        let cached = if dialect == Dialect::Sqlite { &self.sqlite } else { &self.postgres };
        let (sql, placeholders) = cached.get_or_init(|| {
            let Statement { sql, values, .. } = dialect.build(&build());
            (sql, values.map_or(0, |values| values.0.len()))
        });
        let values = Vec::from_iter(values);
        debug_assert_eq!(values.len(), *placeholders, "{sql}");
        Statement::from_sql_and_values(dialect.backend(), sql, values)
    }
}
