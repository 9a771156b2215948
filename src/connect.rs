//! Settings of a connection pool under which the store keeps its promises.

use std::time::Duration;

use sea_orm::ConnectOptions;

/// Settings to open the pool with, to be changed as the application likes.
///
/// - A caller waits 5 seconds for a connection, then gets a transient error.
/// - A connection is pinged before use only where it was idle for 30 seconds: the ping costs a short call 20
///   to 40 %.
/// - Statements are not logged; each call opens a `tracing` span instead.
/// - PostgreSQL ends a statement after 30 seconds.
/// - SQLite in memory has one connection that is never given up, and with it the database.
/// - SQLite in a file is in WAL mode, and a writer waits 30 seconds for another one: with the feature
///   `sqlite`. A transaction of yours that reads before it writes is to be begun with
///   [`SqliteTransactionMode::Immediate`](sea_orm::SqliteTransactionMode::Immediate), or it fails where
///   another one wrote meanwhile. A connection that was dropped inside a transaction is closed.
pub fn connect_options(url: impl Into<String>) -> ConnectOptions {
    let url = url.into();
    let in_memory = url.starts_with("sqlite:") && (url.contains(":memory:") || url.contains("mode=memory"));
    let mut options = ConnectOptions::new(url);
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
            // A transaction that SQLite ended and the caller dropped is still one to the driver, which would begin
            // the connection's next one as a savepoint: its rollback ends nothing, and later inserts are lost.
            options.map_sqlx_sqlite_pool_opts(|pool| {
                pool.after_release(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
            });
        }
    }
    options
}
