//! Whether the schema is the one that this version was built for, without the right to change it.

use std::{collections::BTreeSet, fmt};

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::encoding;

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
            Self::Missing(steps) => {
                write!(f, "the schema lacks these steps, which `migrate up` applies: {}", steps.join(", "))
            }
            Self::Encoding(encoding) => f.write_str(&encoding::refusal(encoding)),
            Self::Db(error) => write!(f, "the schema could not be looked up: {error}"),
        }
    }
}

impl std::error::Error for SchemaError {}

/// Checks the encoding, and that every step of the migrator was applied, [`Migrator`](crate::Migrator) or a
/// service's own: a look at its table (`seaql_migrations`), for a service's start-up. It creates nothing, and
/// needs the right to read that table alone. Steps of others in it are ignored.
///
/// # Errors
///
/// [`SchemaError::Encoding`] where a PostgreSQL database's encoding is not UTF8. [`SchemaError::Missing`]
/// names the steps that are missing; all are where there is no such table.
pub async fn schema_is_current<M: MigratorTrait>(db: &impl ConnectionTrait) -> Result<(), SchemaError> {
    if let Some(encoding) = encoding::other_than_utf8(db).await.map_err(SchemaError::Db)? {
        return Err(SchemaError::Encoding(encoding));
    }
    let applied = applied::<M>(db).await.map_err(SchemaError::Db)?;
    let missing: Vec<_> = names::<M>().into_iter().filter(|step| !applied.contains(step)).collect();
    if missing.is_empty() { Ok(()) } else { Err(SchemaError::Missing(missing)) }
}

/// With steps in its table that it does not have, sea-orm's migrator refuses to go up, and says of each that
/// its "file is missing".
pub(crate) async fn require_own_steps<M: MigratorTrait>(db: &impl ConnectionTrait) -> Result<(), DbErr> {
    let applied = applied::<M>(db).await?;
    let own = names::<M>();
    let foreign: Vec<_> = applied.into_iter().filter(|step| !own.contains(step)).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    Err(DbErr::Migration(format!(
        "the table {} has steps that this migrator does not have, of a newer version or of another migrator, \
         whose steps must be in one Migrator with these or in a table of their own: {}",
        M::migration_table_name(),
        foreign.join(", ")
    )))
}

fn names<M: MigratorTrait>() -> Vec<String> {
    M::migrations().into_iter().map(|step| step.name().to_owned()).collect()
}

async fn applied<M: MigratorTrait>(db: &impl ConnectionTrait) -> Result<BTreeSet<String>, DbErr> {
    let table = M::migration_table_name();
    // Not SchemaManager::has_table, which wants a driver feature of sea-orm-migration's own.
    let exists = if db.get_database_backend() == DbBackend::Sqlite {
        let tables = Query::select()
            .expr(Expr::val(1))
            .from("sqlite_master")
            .and_where(Expr::col("name").eq(table.to_string()))
            .take();
        Query::select().expr(Expr::exists(tables)).take()
    } else {
        let quoted = format!("\"{}\"", table.to_string().replace('"', "\"\""));
        Query::select().expr(Expr::from(Func::cust("to_regclass").arg(quoted)).is_not_null()).take()
    };
    let exists = db.query_one(&exists).await?.map(|row| row.try_get_by_index::<bool>(0)).transpose()?;
    if exists != Some(true) {
        return Ok(BTreeSet::new());
    }
    let versions = Query::select().column("version").from(table).take();
    db.query_all(&versions).await?.iter().map(|row| row.try_get_by_index(0)).collect()
}
