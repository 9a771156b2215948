//! The database: its URL, its pool and its schema.
//!
//! The pool is opened and closed here, so that SQLite writes its log back into the database file however a command
//! ends.

use std::time::Duration;

use dead_letters::{
    connect, connect_options,
    entity::dead_letters::Entity,
    migration::{Locked, SchemaError, check_schema, sea_orm_migration::MigratorTraitSelf},
};
use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, QueryFilter,
    SqlxError,
    sea_query::{CaseStatement, Expr, ExprTrait, Func, JoinType, NullOrdering, Order, Query},
};
use url::{Position, Url};

use serde::Serialize;

use crate::{
    error::Failure,
    explain::{code_of, explain, sqlx_error},
    program,
};

/// How a command uses the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Reads,
    Writes,
    /// Runs migration steps. An index of a large table takes longer than any other statement.
    Migrates,
    /// Serves the admin, whose operators read and write.
    #[cfg(feature = "serve")]
    Serves,
}

/// URL parameters that the driver knows. The driver ignores all others, even a misspelled `sslmode`, so they are
/// refused.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// A pool, and the database's name for error messages.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) pool: DatabaseConnection,
    pub(crate) name: String,
}

/// Whether the schema has every migration step.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    /// The missing steps, in order.
    pub(crate) pending: Vec<String>,
    /// Whether the table is complete although its steps are recorded in another table.
    pub(crate) recorded_elsewhere: bool,
    /// The error if steps are missing.
    #[serde(skip)]
    pub(crate) failure: Option<Failure>,
}

impl Opened {
    pub(crate) async fn connect(given: &str, access: Access) -> Result<Self, Failure> {
        let url = checked(given)?;
        let name = name_of(&url);
        let connected = connect(options(given, &url, access)).await;
        let pool = connected.map_err(|error| not_connected(&error, &name))?;
        Ok(Self { pool, name })
    }

    /// Closes every connection, which on SQLite writes the log back and removes it. Waits at most `patience` for a
    /// statement that is still running.
    pub(crate) async fn close(&self, patience: Duration) {
        _ = tokio::time::timeout(patience, self.pool.close_by_ref()).await;
    }

    /// Checks that the table exists and has every column. Does not read the table in which a service records its
    /// migration steps.
    pub(crate) async fn require_table(&self) -> Result<(), Failure> {
        match self.look_at_table().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.without_table(&error).await),
        }
    }

    async fn look_at_table(&self) -> Result<(), DbErr> {
        Entity::find().filter(Expr::cust("1 = 0")).all(&self.pool).await.map(drop)
    }

    async fn without_table(&self, error: &DbErr) -> Failure {
        let name = &self.name;
        match code_of(error).as_deref() {
            Some("42P01") => match self.other_schema(false).await {
                Ok(Some((schema, Some(role)))) => {
                    Failure::failed(format!("{name}: the role {role} has no USAGE on the schema {schema}, which has a dead_letters table"))
                        .hint(format!("GRANT USAGE ON SCHEMA {schema} TO {role}"))
                }
                Ok(Some((schema, None))) => {
                    Failure::failed(format!("{name}: the dead_letters table is in the schema {schema}, which is not in the search_path"))
                        .hint(format!("append to the URL: ?options=-csearch_path%3D{schema}"))
                }
                Ok(None) => self.no_table(),
                Err(error) => explain(&error),
            },
            Some("1") if said(error).starts_with("no such table") => self.no_table(),
            Some("42703" | "1") => {
                Failure::failed(format!("the dead_letters table of {name} belongs to another version: {}", said(error)))
                    .hint(format!("migrate it with the service, or run: {} migrate up", program::name()))
            }
            _ => explain(error),
        }
    }

    fn no_table(&self) -> Failure {
        Failure::failed(format!(
            "{} has no dead_letters table. Is this the service's database? To create the table: {} migrate up",
            self.name,
            program::name()
        ))
    }

    /// Returns a schema that has the table, which the search path does not show. Also returns the role if it lacks
    /// `USAGE` on that schema. Looks only at schemas that the setting `search_path` names, or at all.
    async fn other_schema(&self, only_named: bool) -> Result<Option<(String, Option<String>)>, DbErr> {
        let replace = |text: Expr, from: &'static str, to: Expr| {
            Expr::from(Func::cust("replace").args([text, from.into(), to]))
        };
        let ident = |name: Expr| Expr::from(Func::cust("quote_ident").arg(name));
        let setting = Expr::from(Func::cust("current_setting").arg("search_path"));
        let path = replace(setting, "\"$user\"", ident(Expr::custom_keyword("current_user")));
        let path = Func::cust("string_to_array").args([replace(path, " ", "".into()), ",".into()]);
        let name = replace(ident(Expr::col(("schema", "nspname"))), " ", "".into());
        let is_named = name.eq(Func::cust("ANY").arg(path));
        let quoted = |name: Expr| ident(name).cast_as("text");
        let may_use = Func::cust("has_schema_privilege").args([Expr::col(("schema", "oid")), "USAGE".into()]);
        let role = quoted(Expr::custom_keyword("current_user"));
        let schema = Query::select()
            .expr(quoted(Expr::col(("schema", "nspname"))))
            .expr(CaseStatement::new().case(Expr::from(may_use).not(), role))
            .from_as("pg_class", "tables")
            .join_as(
                JoinType::InnerJoin,
                "pg_namespace",
                "schema",
                Expr::col(("schema", "oid")).eq(Expr::col(("tables", "relnamespace"))),
            )
            .and_where(Expr::col(("tables", "relname")).eq("dead_letters"))
            .and_where(Expr::col(("tables", "relkind")).cast_as("text").is_in(["r", "p"]))
            .and_where_option(only_named.then_some(is_named))
            .order_by_expr_with_nulls(Expr::Constant(2.into()), Order::Asc, NullOrdering::Last)
            .order_by_expr(Expr::Constant(1.into()), Order::Asc)
            .limit(1)
            .take();
        let found = self.pool.query_one(&schema).await?;
        found.map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?))).transpose()
    }

    /// Applies the missing migration steps and returns their names.
    pub(crate) async fn migrate(&self, migrator: impl MigratorTraitSelf) -> Result<Vec<String>, Failure> {
        let steps = migrator.migrations().len();
        let migrator = Locked(migrator);
        let pending = migrator.pending(&self.pool).await.map_err(not_looked_up)?;
        if pending.is_empty() {
            return Ok(pending);
        }
        if pending.len() == steps
            && let Err(failure) = self.require_no_table().await
        {
            // Another process may have migrated since the first check.
            let pending = migrator.pending(&self.pool).await.map_err(not_looked_up)?;
            return if pending.is_empty() { Ok(pending) } else { Err(failure) };
        }
        migrator.up(&self.pool, None).await.map_err(|error| self.not_migrated(&error))?;
        Ok(pending)
    }

    /// Returns an error if the table exists although no migration step is recorded.
    async fn require_no_table(&self) -> Result<(), Failure> {
        let mut exists = Query::select().expr(Expr::Constant(1.into())).take();
        match self.pool.get_database_backend() {
            DbBackend::Sqlite => exists.from("sqlite_master").and_where(Expr::col("name").eq("dead_letters")),
            _ => {
                let current = Func::cust("quote_ident").arg(Func::cust("current_schema"));
                let current = Expr::from(current).cast_as("regnamespace");
                exists
                    .from("pg_class")
                    .and_where(Expr::col("relname").eq("dead_letters"))
                    .and_where(Expr::col("relnamespace").eq(current))
            }
        };
        if self.pool.query_one(&exists).await.map_err(|error| explain(&error))?.is_some() {
            return Err(Failure::failed(format!(
                "{} already has a dead_letters table, but seaql_migrations lists none of its steps",
                self.name
            ))
            .hint("if the service's migrator records its steps in another table, migrate with the service"));
        }
        // A table in a schema that the role may not use would be created a second time.
        match self.pool.get_database_backend() {
            DbBackend::Postgres => match self.other_schema(true).await.map_err(|error| explain(&error))? {
                Some((_, Some(_))) => self.require_table().await,
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn not_migrated(&self, error: &DbErr) -> Failure {
        if let DbErr::Migration(said) | DbErr::Custom(said) = error {
            return Failure::failed(format!("{} was not migrated: {said}", self.name));
        }
        explain(error).about(&self.name)
    }

    /// Looks up which migration steps are missing.
    pub(crate) async fn status(&self, migrator: &impl MigratorTraitSelf) -> Result<Status, Failure> {
        let pending = match check_schema(&self.pool, migrator).await {
            Ok(()) => Vec::new(),
            Err(SchemaError::Missing(steps)) => steps,
            Err(error) => return Err(not_looked_up(error)),
        };
        let failure = match pending.len() {
            0 => None,
            steps if steps == migrator.migrations().len() => match self.require_table().await {
                Ok(()) => {
                    return Ok(Status { pending: Vec::new(), recorded_elsewhere: true, failure: None });
                }
                Err(failure) if failure == self.no_table() => Some(failure.before_the_first_step()),
                Err(failure) => return Err(failure),
            },
            steps => {
                let steps = if steps == 1 {
                    "a migration step".to_owned()
                } else {
                    format!("{steps} migration steps")
                };
                let failure = Failure::pending(format!("the schema of {} lacks {steps}", self.name));
                Some(failure.hint(format!("run: {} migrate up", program::name())))
            }
        };
        Ok(Status { pending, recorded_elsewhere: false, failure })
    }
}

fn not_looked_up(error: SchemaError) -> Failure {
    match error {
        SchemaError::Db(error) => explain(&error),
        error => Failure::failed(error.to_string()),
    }
}

/// Returns the library's connection options. A command that only reads keeps the journal mode of a SQLite file.
#[cfg_attr(
    not(all(feature = "sqlite", feature = "serve")),
    allow(unused_mut, unused_variables, reason = "without these features there is little to set")
)]
fn options(given: &str, url: &Url, access: Access) -> ConnectOptions {
    let mut options = connect_options(given);
    #[cfg(feature = "sqlite")]
    {
        use sea_orm::sqlx::sqlite::SqliteJournalMode;
        let is_read_only = url.query_pairs().any(|(name, value)| name == "mode" && value == "ro");
        let is_in_memory = given.contains(":memory:") || given.contains("mode=memory");
        let keeps_mode = access == Access::Reads || is_read_only || is_in_memory;
        options.map_sqlx_sqlite_opts(move |sqlite| {
            let sqlite = sqlite.busy_timeout(Duration::from_secs(30));
            if keeps_mode { sqlite } else { sqlite.journal_mode(SqliteJournalMode::Wal) }
        });
    }
    match access {
        #[cfg(feature = "serve")]
        Access::Serves => options.statement_timeout(dead_letters_admin::VIEW_TIMEOUT),
        Access::Migrates => options.statement_timeout(Duration::ZERO),
        Access::Reads | Access::Writes => &mut options,
    };
    options
}

/// Parses the URL and refuses one that the driver would misread.
fn checked(given: &str) -> Result<Url, Failure> {
    let not_a_url = || {
        Failure::usage(
            "DATABASE_URL is not a URL; expected sqlite://service.sqlite or postgres://user@host/db",
        )
    };
    let no_host = || {
        Failure::usage(
            "cannot parse the host of DATABASE_URL. If the password contains @ : / # or ?, percent-encode it \
             (@ is %40) or set PGPASSWORD.",
        )
    };
    let url = match Url::parse(given) {
        Ok(url) => url,
        Err(url::ParseError::RelativeUrlWithoutBase) => return Err(not_a_url()),
        Err(_) if given.contains('@') => return Err(no_host()),
        Err(error) => return Err(Failure::usage(format!("cannot read DATABASE_URL: {error}"))),
    };
    match url.scheme() {
        "sqlite" if cfg!(feature = "sqlite") => return Ok(url),
        "postgres" | "postgresql" if cfg!(feature = "postgres") => {}
        "sqlite" | "postgres" | "postgresql" => {
            let scheme = url.scheme();
            return Err(Failure::usage(format!("this build of the tool has no driver for {scheme}: URLs"))
                .hint("build it with the features `postgres` and `sqlite` of dead-letters-cli"));
        }
        _ if !given.contains("://") => return Err(not_a_url()),
        scheme => {
            return Err(Failure::usage(format!(
                "DATABASE_URL must be a postgres: or sqlite: URL (got {scheme}:)"
            )));
        }
    }
    // An `@` after the host belongs to a password with unencoded characters.
    if url.path().contains('@') || url.fragment().is_some_and(|rest| rest.contains('@')) {
        return Err(no_host());
    }
    for (name, _) in url.query_pairs() {
        if !PARAMETERS.contains(&&*name) && !name.starts_with("options[") {
            return Err(match url.query().is_some_and(|query| query.contains('@')) {
                true => no_host(),
                false => Failure::usage(format!("DATABASE_URL has the unknown parameter {name:?}")).hint(
                    "known parameters: sslmode, sslrootcert, sslcert, sslkey, host, port, dbname, user, password, \
                     application_name, options, statement-cache-capacity",
                ),
            });
        }
    }
    Ok(url)
}

/// Returns the URL without user and password, with the parameters that override its host, port and database.
fn name_of(url: &Url) -> String {
    match url.scheme() {
        "sqlite" => {
            let path = url[..Position::AfterPath].trim_start_matches("sqlite:");
            path.trim_start_matches("//").to_owned()
        }
        scheme => {
            let mut name = format!("{scheme}://{}", &url[Position::BeforeHost..Position::AfterPath]);
            let overrides = |parameter: &&str| {
                ["host=", "hostaddr=", "port=", "dbname="].iter().any(|name| parameter.starts_with(name))
            };
            // Still encoded, since a decoded value may hold anything.
            let parameters: Vec<_> = url.query().unwrap_or_default().split('&').filter(overrides).collect();
            if !parameters.is_empty() {
                name.push('?');
                name.push_str(&parameters.join("&"));
            }
            name
        }
    }
}

/// Explains a failed connection. The driver's message can be shown in full, since no row was read yet.
fn not_connected(error: &DbErr, name: &str) -> Failure {
    let cannot = |why: &str| Failure::failed(format!("cannot connect to {name}: {why}"));
    match sqlx_error(error) {
        Some(SqlxError::PoolTimedOut) => {
            cannot("the server refuses the connection or does not respond within 5 seconds")
        }
        Some(SqlxError::Configuration(error)) => {
            Failure::usage(format!("cannot read DATABASE_URL: {}", without_values(&error.to_string())))
        }
        Some(SqlxError::Database(database)) => match database.code().as_deref() {
            Some("14") => cannot(database.message())
                .hint("to create a missing file in an existing folder, append ?mode=rwc to the URL"),
            Some("08P01") => cannot(database.message()).hint(
                "is it PgBouncer? Connect to the server directly, or set \
                 ignore_startup_parameters = extra_float_digits, options",
            ),
            Some("28000" | "28P01" | "3D000" | "53300" | "57P03") => cannot(database.message()),
            _ => explain(error).about(name),
        },
        Some(error) => cannot(&error.to_string()),
        None => cannot(&error.to_string()),
    }
}

/// Removes the quoted values of URL parameters, because a password may stand in the wrong place.
fn without_values(said: &str) -> String {
    match said.find('"').zip(said.rfind('"')) {
        Some((from, to)) => format!("{}\"…\"{}", &said[..from], &said[to + 1..]),
        None => said.to_owned(),
    }
}

/// Returns the database's own message. Use it only for errors about the schema, because others may quote a row.
fn said(error: &DbErr) -> String {
    match sqlx_error(error) {
        Some(SqlxError::Database(error)) => error.message().to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_step_has_no_timeout() {
        let given = "postgres://service@localhost/service";
        let timeout = options(given, &Url::parse(given).unwrap(), Access::Migrates).get_statement_timeout();
        assert_eq!(timeout, Some(Duration::ZERO));
    }

    #[test]
    fn the_name_has_the_parameters_that_name_another_database() {
        let url = "postgres://ada:s3cret@staging/staging?password=s3cret&hostaddr=10.0.0.1&dbname=prod&sslmode=require";
        let name = name_of(&Url::parse(url).unwrap());
        assert_eq!(name, "postgres://staging/staging?hostaddr=10.0.0.1&dbname=prod");
    }

    #[cfg(feature = "serve")]
    #[test]
    fn a_statement_of_the_served_admin_ends_with_its_view() {
        let given = "postgres://service@localhost/service";
        let timeout = options(given, &Url::parse(given).unwrap(), Access::Serves).get_statement_timeout();
        assert_eq!(timeout, Some(dead_letters_admin::VIEW_TIMEOUT));
    }
}
