//! A PostgreSQL for tests: the server that `TEST_DATABASE_URL` names, else a private one, started from
//! the installed binaries once a process and gone with that process, whatever ends it.
//!
//! It is never skipped: where there is no PostgreSQL, [`TestDatabase::create`] fails and says what to
//! install.
//!
//! With Citus, `TEST_DATABASE_URL` names the coordinator, and `TEST_CITUS_WORKERS` the other nodes, separated
//! by commas. `TEST_DATABASE_TEMPLATE` names a database that exists on all of them, as `tests/citus/prepare`
//! makes it. Each test has a copy of it on all nodes.

use std::sync::{Mutex, OnceLock, PoisonError};

use sea_orm::{ConnectionTrait, Database, DbErr};
use url::Url;
use uuid::Uuid;

mod server;

pub use server::Server;

/// An error while a database is set up: a text for the person at the terminal.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A fresh, empty database of its own, dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    url: String,
    name: String,
    /// One URL for each server that has the database, the coordinator's first.
    maintenance_urls: Vec<Url>,
}

impl TestDatabase {
    /// Creates it, on Citus' workers as well.
    ///
    /// # Errors
    ///
    /// There is no PostgreSQL to be had, or the server refused.
    pub async fn create() -> Result<Self, Error> {
        let mut servers = vec![maintenance_url()?];
        for worker in std::env::var("TEST_CITUS_WORKERS").unwrap_or_default().split_terminator(',') {
            servers.push(Url::parse(worker)?);
        }
        let template = template().unwrap_or_else(|| "template1".to_owned());
        Ok(Self::create_as(&servers, &template).await?)
    }

    /// Creates it on the server of another database's URL.
    ///
    /// # Errors
    ///
    /// The server refused.
    pub async fn create_on(maintenance_url: &Url) -> Result<Self, Error> {
        Ok(Self::create_as(std::slice::from_ref(maintenance_url), "template1").await?)
    }

    async fn create_as(servers: &[Url], template: &str) -> Result<Self, DbErr> {
        let name = format!("dead_letters_test_{}", Uuid::new_v4().simple());
        let mut url = servers[0].clone();
        url.set_path(&name);
        let mut this = Self { url: url.into(), name, maintenance_urls: Vec::new() };
        for server in servers {
            execute(server, &format!("CREATE DATABASE {} TEMPLATE {template}", this.name)).await?;
            this.maintenance_urls.push(server.clone());
        }
        Ok(this)
    }

    /// Its connection URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let urls = &self.maintenance_urls;
        // Dropped inside a test's runtime, which can't be blocked on: so on a thread with one of its own.
        let outcome = std::thread::scope(|scope| {
            scope
                .spawn(|| -> Result<(), Error> {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    for url in urls {
                        runtime.block_on(execute(url, &drop))?;
                    }
                    Ok(())
                })
                .join()
        });
        if !matches!(outcome, Ok(Ok(()))) {
            eprintln!("could not drop the test database {}", self.name);
        }
    }
}

/// Returns the name in `TEST_DATABASE_TEMPLATE`: a database that is migrated, and maybe distributed.
pub fn template() -> Option<String> {
    std::env::var("TEST_DATABASE_TEMPLATE").ok()
}

async fn execute(url: &Url, sql: &str) -> Result<(), DbErr> {
    let db = Database::connect(url.as_str()).await?;
    db.execute_unprepared(sql).await?;
    db.close().await
}

/// Where databases are created and dropped.
fn maintenance_url() -> Result<Url, Error> {
    if let Ok(url) = std::env::var("TEST_DATABASE_URL") {
        return Ok(Url::parse(&url)?);
    }
    static SERVER: OnceLock<Server> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let server = match SERVER.get() {
        Some(server) => server,
        None => {
            let server = Server::start()?;
            SERVER.get_or_init(|| server)
        }
    };
    Ok(server.url().clone())
}
