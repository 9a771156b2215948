//! Checks whether the schema is the one that this version needs, without the right to change it.

use std::{collections::BTreeSet, fmt};

use sea_orm_migration::{
    MigratorTraitSelf,
    prelude::*,
    sea_orm::{DbBackend, Statement},
};

use crate::encoding;

/// A difference between a schema and the one that this version needs.
///
/// # Examples
///
/// ```
/// use dead_letters_migration::{Migrator, SchemaError, check_schema, sea_orm_migration::sea_orm::Database};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let db = Database::connect("sqlite::memory:").await?;
/// if let Err(SchemaError::Missing(steps)) = check_schema(&db, &Migrator).await {
///     println!("the deploy must apply {}", steps.join(", "));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum SchemaError {
    /// These steps were not applied.
    Missing(Vec<String>),
    /// A version before the first release created the table `dead_letters`. The value is the name of the
    /// migrator's table, which has that version's steps.
    PreRelease(String),
    /// The database's encoding is this one instead of UTF8, and can't hold every text.
    Encoding(String),
    /// The database returned an error.
    Db(DbErr),
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(steps) => {
                write!(f, "the schema lacks these steps, which `migrate up` applies: {}", steps.join(", "))
            }
            Self::PreRelease(migrations) => write!(
                f,
                "the table dead_letters is a pre-release version's: export its letters with that version's tool, drop \
                 the table, delete its steps from {migrations}, and import the letters after `migrate up`"
            ),
            Self::Encoding(encoding) => f.write_str(&encoding::refusal(encoding)),
            Self::Db(error) => write!(f, "the schema could not be looked up: {error}"),
        }
    }
}

impl std::error::Error for SchemaError {}

impl From<SchemaError> for DbErr {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::Db(error) => error,
            error => Self::Migration(error.to_string()),
        }
    }
}

/// Checks the encoding, and that every step of the migrator was applied. The migrator is
/// [`Migrator`](crate::Migrator), or a service's own migrator that has its steps.
///
/// This reads the migrator's table (`seaql_migrations`), and needs only the right to read that table. On
/// PostgreSQL the whole `search_path` is searched for the table, as for the tables of every call. Nothing is
/// changed. Steps of other migrators in the table are ignored.
///
/// # Errors
///
/// See [`SchemaError`]. If the migrator's table does not exist, all steps are missing.
///
/// # Examples
///
/// ```
/// # use dead_letters_migration::{Migrator, SchemaError, check_schema, sea_orm_migration::sea_orm};
/// async fn start(db: &sea_orm::DatabaseConnection) -> Result<(), SchemaError> {
///     check_schema(db, &Migrator).await
/// }
/// ```
pub async fn check_schema(
    db: &impl ConnectionTrait,
    migrator: &impl MigratorTraitSelf,
) -> Result<(), SchemaError> {
    let missing = missing(db, migrator, Scope::SearchPath).await?;
    if missing.is_empty() { Ok(()) } else { Err(SchemaError::Missing(missing)) }
}

/// The first step of the versions before the first release.
const PRE_RELEASE: &str = "m20261123_000001_create_dead_letters";

/// Where a migrator's table is searched for on PostgreSQL.
#[derive(Clone, Copy)]
pub(crate) enum Scope {
    /// In the whole `search_path`, as statements find their tables.
    SearchPath,
    /// In the schema where `CREATE TABLE` creates a table.
    CurrentSchema,
}

pub(crate) async fn missing(
    db: &impl ConnectionTrait,
    migrator: &impl MigratorTraitSelf,
    scope: Scope,
) -> Result<Vec<String>, SchemaError> {
    if let Some(encoding) = encoding::other_than_utf8(db).await.map_err(SchemaError::Db)? {
        return Err(SchemaError::Encoding(encoding));
    }
    let applied = applied(db, migrator, scope).await?;
    Ok(names(migrator).into_iter().filter(|step| !applied.contains(step)).collect())
}

/// Returns an error that names the applied steps that the migrator does not have. sea-orm-migration also refuses
/// these, but with the message that each step's "file is missing".
pub(crate) async fn require_own_steps(
    db: &impl ConnectionTrait,
    migrator: &impl MigratorTraitSelf,
) -> Result<(), DbErr> {
    let applied = applied(db, migrator, Scope::CurrentSchema).await?;
    let own = names(migrator);
    let foreign: Vec<_> = applied.into_iter().filter(|step| !own.contains(step)).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    Err(DbErr::Migration(format!(
        "the table {} has steps that this migrator does not have, of a newer version or of another migrator, \
         whose steps must be in one Migrator with these or in a table of their own: {}",
        migrator.migration_table_name(),
        foreign.join(", ")
    )))
}

fn names(migrator: &impl MigratorTraitSelf) -> Vec<String> {
    migrator.migrations().into_iter().map(|step| step.name().to_owned()).collect()
}

async fn applied(
    db: &impl ConnectionTrait,
    migrator: &impl MigratorTraitSelf,
    scope: Scope,
) -> Result<BTreeSet<String>, SchemaError> {
    let table = migrator.migration_table_name();
    let applied = read(db, &table, scope).await.map_err(SchemaError::Db)?;
    if applied.contains(PRE_RELEASE) {
        return Err(SchemaError::PreRelease(table.to_string()));
    }
    Ok(applied)
}

async fn read(db: &impl ConnectionTrait, table: &DynIden, scope: Scope) -> Result<BTreeSet<String>, DbErr> {
    let Some(schema) = schema_of(db, table, scope).await? else { return Ok(BTreeSet::new()) };
    let mut versions = Query::select().column("version").take();
    match db.get_database_backend() {
        DbBackend::Sqlite => versions.from(table.clone()),
        // A table of this name may be created earlier in the search path. Without the schema, a prepared statement
        // would go on reading the table that the name meant at first.
        _ => versions.from((Alias::new(schema), table.clone())),
    };
    db.query_all(&versions).await?.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// Returns the schema of the table, if the table exists. `SchemaManager::has_table` would need a driver's feature of
/// sea-orm-migration.
async fn schema_of(
    db: &impl ConnectionTrait,
    table: &DynIden,
    scope: Scope,
) -> Result<Option<String>, DbErr> {
    const OF_TABLE: &str = "SELECT pg_namespace.nspname::text FROM pg_class JOIN pg_namespace \
         ON pg_namespace.oid = pg_class.relnamespace WHERE pg_class.oid = to_regclass";
    let backend = db.get_database_backend();
    let schema = match (backend, scope) {
        (DbBackend::Sqlite, _) => "SELECT 'main' FROM sqlite_master WHERE name = $1".to_owned(),
        (_, Scope::SearchPath) => format!("{OF_TABLE}(quote_ident($1))"),
        (_, Scope::CurrentSchema) => {
            format!("{OF_TABLE}(quote_ident(current_schema()) || '.' || quote_ident($1))")
        }
    };
    let schema = Statement::from_sql_and_values(backend, schema, [table.to_string().into()]);
    db.query_one_raw(schema).await?.map(|row| row.try_get_by_index(0)).transpose()
}
