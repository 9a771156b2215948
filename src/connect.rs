//! Connection pool settings under which the store keeps its promises.

use std::{env, time::Duration};

use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbErr};
use tokio::time::{Instant, sleep};

use crate::db_code::DbCode;

const BUSY_PATIENCE: Duration = Duration::from_secs(5);
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Connects to the database, and waits for a SQLite file that is not in WAL mode yet.
///
/// SQLite refuses at once to turn WAL mode on while another process writes the file or turns it on, whatever the busy
/// timeout is. The call tries again every 50 milliseconds, for 5 seconds. Start `options` from [`connect_options`].
///
/// # Errors
///
/// Those of [`Database::connect`].
///
/// # Examples
///
/// ```
/// use dead_letters::{SeaOrmDeadLetterRepo, connect, connect_options};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // `open` also checks or migrates the schema.
/// let repo = SeaOrmDeadLetterRepo::new(connect(connect_options("sqlite::memory:")).await?);
/// # repo.pool().ping().await?;
/// # Ok(())
/// # }
/// ```
pub async fn connect(options: ConnectOptions) -> Result<DatabaseConnection, DbErr> {
    let began = Instant::now();
    loop {
        match Database::connect(options.clone()).await {
            Err(error)
                if DbCode::of(&error) == Some(DbCode::Sqlite(5)) && began.elapsed() < BUSY_PATIENCE =>
            {
                sleep(BUSY_PAUSE).await;
            }
            connected => return connected,
        }
    }
}

/// Returns settings for the pool, which the application may change.
///
/// - A caller waits 5 seconds for a connection, and then gets a transient error.
/// - A connection is pinged before use only if it was idle for 30 seconds, because a ping slows down a short call.
/// - Statements are not logged. Each call opens a `tracing` span instead.
/// - PostgreSQL cancels a statement after 30 seconds, and shows the connections as `dead-letters`, unless the URL's
///   `application_name` or the variable `PGAPPNAME` names them.
/// - SQLite in memory has one connection, which is never closed, because the database would end with it.
/// - [`open`](crate::open) refuses SQLite without the feature `sqlite`. With it, a file is in WAL mode, and a writer waits 30 seconds for another one. Begin
///   a transaction of your own that reads before it writes with
///   [`SqliteTransactionMode::Immediate`](sea_orm::SqliteTransactionMode::Immediate). Otherwise it fails if another
///   transaction wrote meanwhile. A connection that was dropped inside a transaction is closed.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use dead_letters::connect_options;
/// use sea_orm::Database;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut options = connect_options("sqlite::memory:");
/// options.acquire_timeout(Duration::from_secs(2));
/// let db = Database::connect(options).await?;
/// # db.ping().await?;
/// # Ok(())
/// # }
/// ```
pub fn connect_options(url: impl Into<String>) -> ConnectOptions {
    let url = url.into();
    let in_memory = url.starts_with("sqlite:") && (url.contains(":memory:") || url.contains("mode=memory"));
    let has_name = url.contains("application_name=") || env::var_os("PGAPPNAME").is_some();
    let mut options = ConnectOptions::new(url);
    if !has_name {
        options.set_application_name("dead-letters");
    }
    options
        .acquire_timeout(Duration::from_secs(5))
        .test_before_acquire_if_idle_for(Duration::from_secs(30))
        .statement_timeout(Duration::from_secs(30))
        .sqlx_logging(false);
    if in_memory {
        options
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None::<Duration>)
            .max_lifetime(None::<Duration>);
    }
    #[cfg(feature = "sqlite")]
    {
        use sea_orm::sqlx::{Connection, sqlite::SqliteJournalMode};
        options.map_sqlx_sqlite_opts(move |sqlite| {
            let sqlite = sqlite.busy_timeout(Duration::from_secs(30));
            if in_memory { sqlite } else { sqlite.journal_mode(SqliteJournalMode::Wal) }
        });
        if !in_memory {
            // If SQLite ended a transaction and the caller dropped it, the driver still counts it as open. It would
            // begin the connection's next transaction as a savepoint, whose rollback ends nothing, and later inserts
            // would be lost.
            options.map_sqlx_sqlite_pool_opts(|pool| {
                pool.after_release(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
            });
        }
    }
    options
}
