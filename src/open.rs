//! A service's start-up.

use std::fmt;

use dead_letters_migration::{Locked, SchemaError, schema_is_current, sea_orm_migration::MigratorTraitSelf};
use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbErr, RuntimeErr, SqlxError};
use url::{Position, Url};

use crate::{
    SeaOrmDeadLetterRepo,
    description::{Described, sqlx_error},
};

/// What [`open`] does about the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// Applies the steps that are missing in the current schema. Any number of processes may do so at once.
    Migrate,
    /// Changes nothing, because the deploy migrates: a missing step is an error. The role needs the right to read
    /// the migrator's table.
    Check,
}

/// Opens the store: connects, checks or migrates the schema, and checks the encoding.
///
/// `migrator` is [`Migrator`](crate::migration::Migrator), or a service's own that has its steps. `options` are best
/// those of [`connect_options`](crate::connect_options).
///
/// It migrates as [`Locked`] does, and only if a step is missing, which lets an older version start on the schema of
/// a newer one. [`SeaOrmDeadLetterRepo::pool`] returns the pool that was opened, for a service's other queries.
///
/// # Errors
///
/// See [`OpenError`]. Each says in one sentence what is wrong, and none shows the URL's password.
///
/// # Examples
///
/// ```
/// # use dead_letters::{OpenError, Schema, connect_options, migration::Migrator, open};
/// # async fn start() -> Result<(), OpenError> {
/// let repo = open(connect_options("sqlite::memory:"), Schema::Migrate, Migrator).await?;
/// # Ok(())
/// # }
/// ```
pub async fn open(
    options: ConnectOptions,
    schema: Schema,
    migrator: impl MigratorTraitSelf,
) -> Result<SeaOrmDeadLetterRepo, OpenError> {
    let db = connect(options).await?;
    match schema {
        Schema::Check => schema_is_current(&db, &migrator).await.map_err(OpenError::Schema)?,
        Schema::Migrate => {
            let migrator = Locked(migrator);
            if !migrator.pending(&db).await.map_err(OpenError::Schema)?.is_empty() {
                migrator.up(&db, None).await.map_err(OpenError::Migrate)?;
            }
        }
    }
    Ok(SeaOrmDeadLetterRepo::new(db))
}

/// Why a store could not be opened. Its `Debug` is the same sentence as its `Display`: it is what a `main`
/// that fails prints.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL is of no database that dead-letters runs on, or of one whose driver was not built in: what is
    /// wrong with it.
    #[error("{0}")]
    Url(String),
    /// There is no connection to be had.
    #[error("there is no connection to {database}: {}", Refusal(error))]
    Connect {
        /// The URL without user, password and parameters, as far as that can be told.
        database: String,
        /// What the driver said.
        error: DbErr,
    },
    /// The schema is not the one that this version was built for, or can't hold every text.
    #[error(transparent)]
    Schema(SchemaError),
    /// A step failed, or the migrator refused to begin.
    #[error("the schema could not be migrated: {}", Step(.0))]
    Migrate(DbErr),
}

impl fmt::Debug for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

async fn connect(options: ConnectOptions) -> Result<DatabaseConnection, OpenError> {
    let given = options.get_url().to_owned();
    let url = Url::parse(&given).map_err(|error| {
        let hint =
            if given.contains('@') { ": is a special character of the password not encoded?" } else { "" };
        OpenError::Url(format!("the database's URL can't be read, {error}{hint}"))
    })?;
    let scheme = url.scheme();
    if !matches!(scheme, "postgres" | "postgresql" | "sqlite") {
        return Err(OpenError::Url(format!(
            "dead-letters runs on PostgreSQL and SQLite only, and the database's URL begins with {scheme}:"
        )));
    }
    match Database::connect(options).await {
        // SeaORM's text, which is the URL itself.
        Err(DbErr::Conn(RuntimeErr::Internal(error))) if error.contains(&given) => {
            let feature = if scheme == "sqlite" { "sqlx-sqlite" } else { "sqlx-postgres" };
            Err(OpenError::Url(format!(
                "there is no driver for the database's URL: turn on sea-orm's feature {feature}"
            )))
        }
        connected => connected.map_err(|error| OpenError::Connect { database: without_secrets(&url), error }),
    }
}

/// An `@` behind the host belongs to a password that has what ends one, unless it is encoded: the rest of it
/// stands where the host should.
fn without_secrets(url: &Url) -> String {
    match url.scheme() {
        "sqlite" => url[..Position::AfterPath].to_owned(),
        scheme if url[Position::BeforePath..].contains('@') => format!("{scheme}:"),
        scheme => format!("{scheme}://{}", &url[Position::BeforeHost..Position::AfterPath]),
    }
}

/// What the driver said, in full but for what is no more than a code: no row was read yet.
struct Refusal<'a>(&'a DbErr);

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match sqlx_error(self.0) {
            Some(SqlxError::PoolTimedOut) => f.write_str("the server refuses it, or does not answer in time"),
            Some(SqlxError::Database(error)) if error.code().as_deref() == Some("14") => write!(
                f,
                "{} (one that is not there is made with ?mode=rwc in the URL, in a folder that is there)",
                error.message()
            ),
            Some(SqlxError::Database(error)) => f.write_str(error.message()),
            Some(error) => write!(f, "{error}"),
            None => write!(f, "{}", Described(self.0)),
        }
    }
}

/// What a migrator says itself, and of what the database says as much as shows no row.
struct Step<'a>(&'a DbErr);

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            DbErr::Migration(said) | DbErr::Custom(said) => f.write_str(said),
            error => write!(f, "{}", Described(error)),
        }
    }
}
