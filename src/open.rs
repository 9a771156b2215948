//! Opening the store when a service starts.

use std::fmt;

use dead_letters_migration::{Locked, SchemaError, check_schema, sea_orm_migration::MigratorTraitSelf};
use sea_orm::{ConnectOptions, DatabaseConnection, DbErr, RuntimeErr, SqlxError};
use url::{Position, Url};

use crate::{
    SeaOrmDeadLetterRepo, connect,
    db_code::DbCode,
    description::{Described, sqlx_error},
};

/// How [`open`] treats the schema.
///
/// # Examples
///
/// ```
/// use dead_letters::{OnOpen, OpenError, connect_options, migration::Migrator, open};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // The deploy did not migrate, so the service does not start.
/// let refused = open(connect_options("sqlite::memory:"), OnOpen::Check, Migrator).await;
/// assert!(matches!(refused, Err(OpenError::Schema(_))));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnOpen {
    /// Applies the missing steps in the current schema. Any number of processes may do so at once.
    Migrate,
    /// Changes nothing, because the deploy migrates. A missing step is an error. The role needs the privilege to read
    /// the migrator's table.
    Check,
}

/// Opens the store: connects, checks or migrates the schema, and checks the encoding.
///
/// `migrator` is [`Migrator`](crate::migration::Migrator), or a service's own migrator that includes its steps. Start
/// `options` from [`connect_options`](crate::connect_options).
///
/// The call migrates as [`Locked`] does, and only if a step is missing. An older version can therefore start on the
/// schema of a newer version. [`SeaOrmDeadLetterRepo::pool`] returns the opened pool, for a service's other queries.
///
/// The call connects as [`connect`](crate::connect) does.
///
/// # Errors
///
/// See [`OpenError`]. Each error says in one sentence what is wrong, and none shows the URL's password.
///
/// # Examples
///
/// ```
/// # use dead_letters::{OnOpen, OpenError, connect_options, migration::Migrator, open};
/// # async fn start() -> Result<(), OpenError> {
/// let repo = open(connect_options("sqlite::memory:"), OnOpen::Migrate, Migrator).await?;
/// # Ok(())
/// # }
/// ```
pub async fn open(
    options: ConnectOptions,
    on_open: OnOpen,
    migrator: impl MigratorTraitSelf,
) -> Result<SeaOrmDeadLetterRepo, OpenError> {
    let db = connect_to(options).await?;
    match on_open {
        OnOpen::Check => check_schema(&db, &migrator).await.map_err(OpenError::Schema)?,
        OnOpen::Migrate => {
            let migrator = Locked(migrator);
            if !migrator.pending(&db).await.map_err(OpenError::Schema)?.is_empty() {
                migrator.up(&db, None).await.map_err(OpenError::Migrate)?;
            }
        }
    }
    Ok(SeaOrmDeadLetterRepo::new(db))
}

/// Why a store could not be opened.
///
/// `Debug` prints the same sentence as `Display`, because a `main` that fails prints `Debug`.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL can't be used: the text says what is wrong with it. It names no database that dead-letters supports,
    /// or one whose driver was not built in.
    #[error("{0}")]
    Url(String),
    /// The connection failed.
    #[error("cannot connect to {database}: {}", Refusal(error))]
    Connect {
        /// The URL without user, password and parameters, as far as they can be recognized.
        database: String,
        /// The error of the driver.
        error: DbErr,
    },
    /// The schema is not the one that this version needs, or can't hold every text.
    #[error(transparent)]
    Schema(SchemaError),
    /// A step failed, or the migrator refused to start.
    #[error("the schema could not be migrated: {}", Step(.0))]
    Migrate(DbErr),
}

impl fmt::Debug for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

async fn connect_to(options: ConnectOptions) -> Result<DatabaseConnection, OpenError> {
    let given = options.get_url().to_owned();
    let url = Url::parse(&given).map_err(|error| {
        let hint = if given.contains('@') {
            "percent-encode the special characters of the password (@ is %40)"
        } else {
            "expected postgres://user@host/database or sqlite://orders.sqlite"
        };
        OpenError::Url(format!("the database's URL can't be read, {error}: {hint}"))
    })?;
    let scheme = url.scheme();
    if !matches!(scheme, "postgres" | "postgresql" | "sqlite") {
        return Err(OpenError::Url(format!(
            "the database's URL must begin with postgres: or sqlite: (got {scheme}:)"
        )));
    }
    // Without the feature `connect_options` leaves a SQLite file without WAL mode, and an insert could be lost.
    if scheme == "sqlite" && !cfg!(feature = "sqlite") {
        return Err(OpenError::Url(
            "the database's URL is SQLite's: turn on the feature `sqlite` of dead-letters".to_owned(),
        ));
    }
    connect(options).await.map_err(|error| match error {
        // SeaORM's error text is the URL itself, which may hold a password.
        DbErr::Conn(RuntimeErr::Internal(error)) if error.contains(&given) => OpenError::Url(
            "there is no driver for the database's URL: turn on sea-orm's feature sqlx-postgres".to_owned(),
        ),
        error => OpenError::Connect { database: without_secrets(&url), error },
    })
}

/// Returns the URL without user, password and parameters.
///
/// An `@` behind the host shows that the password has an unencoded character that ends it. The rest of the password
/// then stands where the host should be, so only the scheme is returned.
fn without_secrets(url: &Url) -> String {
    match url.scheme() {
        "sqlite" => url[..Position::AfterPath].to_owned(),
        scheme if url[Position::BeforePath..].contains('@') => format!("{scheme}:"),
        scheme => format!("{scheme}://{}", &url[Position::BeforeHost..Position::AfterPath]),
    }
}

/// The driver's message in full, except where it is only a code. It shows no content, because no row has been read
/// yet.
struct Refusal<'a>(&'a DbErr);

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match sqlx_error(self.0) {
            Some(SqlxError::PoolTimedOut) => {
                f.write_str("the server refuses the connection, or does not respond in time")
            }
            Some(SqlxError::Database(error)) if DbCode::of(self.0) == Some(DbCode::Sqlite(14)) => write!(
                f,
                "{} (to create a missing file in an existing folder, append ?mode=rwc to the URL)",
                error.message()
            ),
            Some(SqlxError::Database(error)) => f.write_str(error.message()),
            Some(error) => write!(f, "{error}"),
            None => write!(f, "{}", Described(self.0)),
        }
    }
}

/// The migrator's own message in full. A database error is shown only as far as it shows no row.
struct Step<'a>(&'a DbErr);

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            DbErr::Migration(said) | DbErr::Custom(said) => f.write_str(said),
            error => write!(f, "{}", Described(error)),
        }
    }
}
