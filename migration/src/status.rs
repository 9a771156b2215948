//! Whether the schema is the one that this version was built for, without the right to change it.

use std::{collections::HashSet, fmt};

use sea_orm_migration::{
    prelude::*,
    sea_orm::{DbBackend, EntityTrait, QuerySelect},
    seaql_migrations,
};

use crate::{Migrator, encoding};

/// Why [`schema_is_current`] does not say yes.
#[derive(Debug)]
#[non_exhaustive]
pub enum SchemaError {
    /// These steps were not applied.
    Missing(Vec<String>),
    /// The database's encoding, which is not UTF8: it can't hold every text.
    Encoding(String),
    /// The database could not be asked.
    Db(DbErr),
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(steps) => write!(f, "the schema lacks these steps: {}", steps.join(", ")),
            Self::Encoding(encoding) => f.write_str(&encoding::refusal(encoding)),
            Self::Db(error) => write!(f, "the schema could not be looked up: {error}"),
        }
    }
}

impl std::error::Error for SchemaError {}

/// Checks the encoding, and that every step of [`Migrator`] was applied: a look at `seaql_migrations`, for
/// a service's start-up. It creates nothing, and needs the right to read that table alone. Steps of others in
/// it are ignored.
///
/// # Errors
///
/// [`SchemaError::Encoding`] where a PostgreSQL database's encoding is not UTF8. [`SchemaError::Missing`]
/// names the steps that are missing; all are where there is no such table.
pub async fn schema_is_current(db: &impl ConnectionTrait) -> Result<(), SchemaError> {
    if let Some(encoding) = encoding::other_than_utf8(db).await.map_err(SchemaError::Db)? {
        return Err(SchemaError::Encoding(encoding));
    }
    let applied = applied(db).await.map_err(SchemaError::Db)?;
    let steps = Migrator::migrations().into_iter().map(|step| step.name().to_owned());
    let missing: Vec<_> = steps.filter(|step| !applied.contains(step)).collect();
    if missing.is_empty() { Ok(()) } else { Err(SchemaError::Missing(missing)) }
}

async fn applied(db: &impl ConnectionTrait) -> Result<HashSet<String>, DbErr> {
    const TABLE: &str = "seaql_migrations";
    // Not SchemaManager::has_table, which wants a driver feature of sea-orm-migration's own.
    let exists = if db.get_database_backend() == DbBackend::Sqlite {
        let tables = Query::select()
            .expr(Expr::val(1))
            .from("sqlite_master")
            .and_where(Expr::col("name").eq(TABLE))
            .take();
        Query::select().expr(Expr::exists(tables)).take()
    } else {
        Query::select().expr(Expr::from(Func::cust("to_regclass").arg(TABLE)).is_not_null()).take()
    };
    let exists = db.query_one(&exists).await?.map(|row| row.try_get_by_index::<bool>(0)).transpose()?;
    if exists != Some(true) {
        return Ok(HashSet::new());
    }
    let versions = seaql_migrations::Entity::find().select_only().column(seaql_migrations::Column::Version);
    Ok(versions.into_tuple().all(db).await?.into_iter().collect())
}
