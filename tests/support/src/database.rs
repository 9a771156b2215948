//! A database for one test.

use std::{
    env, fs,
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
};

use dead_letters_migration::Migrator;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr, sqlx::sqlite::SqliteJournalMode,
};
use sea_orm_migration::MigratorTrait;
use tempfile::TempDir;
use tokio::sync::OnceCell;
use url::Url;
use uuid::Uuid;

use crate::{Error, Server, folder, maintenance::execute};

/// A database of its own, which is deleted when this value is dropped.
///
/// # Errors
///
/// The functions that create one return an error if there is no PostgreSQL, or if the server or the file system returns
/// one.
#[derive(Debug)]
pub struct TestDatabase {
    url: String,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Sqlite {
        _folder: TempDir,
    },
    /// The servers that have a database of this name, the coordinator first.
    Postgres {
        name: String,
        servers: Vec<Url>,
    },
}

impl TestDatabase {
    /// Creates an empty SQLite file.
    pub fn empty_sqlite() -> Result<Self, Error> {
        let folder = folder::in_memory("dead-letters-sqlite-")?;
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("test.sqlite").display());
        Ok(Self { url, storage: Storage::Sqlite { _folder: folder } })
    }

    /// Creates a SQLite file with the store's tables.
    pub async fn sqlite() -> Result<Self, Error> {
        static MIGRATED: OnceCell<Vec<u8>> = OnceCell::const_new();
        let migrated = MIGRATED.get_or_try_init(async || {
            let first = Self::empty_sqlite()?;
            first.migrate().await?.close().await?;
            Ok::<_, Error>(fs::read(first.file())?)
        });
        let migrated = migrated.await?;
        let this = Self::empty_sqlite()?;
        fs::write(this.file(), migrated)?;
        Ok(this)
    }

    /// Creates an empty PostgreSQL database. With Citus, it is a copy of the template on every node.
    pub fn empty_postgres() -> Result<Self, Error> {
        let Ok(url) = env::var("TEST_DATABASE_URL") else { return Self::empty_on(private_server()?.url()) };
        let mut servers = vec![Url::parse(&url)?];
        for worker in env::var("TEST_CITUS_WORKERS").unwrap_or_default().split_terminator(',') {
            servers.push(Url::parse(worker)?);
        }
        Self::copy(&servers, &citus_template().unwrap_or_else(|| "template1".to_owned()))
    }

    /// Creates an empty PostgreSQL database on the server of another database's URL.
    pub fn empty_on(server: &Url) -> Result<Self, Error> {
        Self::copy(std::slice::from_ref(server), "template1")
    }

    /// Creates a PostgreSQL database with the store's tables.
    pub async fn postgres() -> Result<Self, Error> {
        static MIGRATED: OnceCell<TestDatabase> = OnceCell::const_new();
        Self::copy_of(&MIGRATED, async || {
            let database = Self::empty_postgres()?;
            database.migrate().await?.close().await?;
            Ok(database)
        })
        .await
    }

    /// Creates a PostgreSQL database whose table can be distributed by `app_id`: the table's keys begin with `app_id`.
    /// With Citus, the table is distributed.
    pub async fn postgres_keyed_by_app() -> Result<Self, Error> {
        static KEYED_BY_APP: OnceCell<TestDatabase> = OnceCell::const_new();
        Self::copy_of(&KEYED_BY_APP, async || {
            let database = Self::empty_postgres()?;
            if citus_template().is_some() {
                return Ok(database);
            }
            let db = database.migrate().await?;
            let by_app = "ALTER TABLE dead_letters
                DROP CONSTRAINT dead_letters_pkey, ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (app_id, id);
                CREATE INDEX idx_dead_letters_id ON dead_letters (id)";
            db.execute_unprepared(by_app).await?;
            db.close().await?;
            Ok(database)
        })
        .await
    }

    /// Returns a copy of the template, which is prepared once. Templates are on the private server only, because any
    /// other server would keep them after the process.
    async fn copy_of(
        template: &'static OnceCell<Self>,
        prepare: impl AsyncFn() -> Result<Self, Error>,
    ) -> Result<Self, Error> {
        if env::var_os("TEST_DATABASE_URL").is_some() {
            return prepare().await;
        }
        match &template.get_or_try_init(|| prepare()).await?.storage {
            Storage::Postgres { name, servers } => Self::copy(servers, name),
            Storage::Sqlite { .. } => unreachable!(),
        }
    }

    fn copy(servers: &[Url], template: &str) -> Result<Self, Error> {
        let name = format!("dead_letters_test_{}", Uuid::new_v4().simple());
        let mut url = servers[0].clone();
        url.set_path(&name);
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
        let this = Self { url: url.into(), storage: Storage::Postgres { name, servers: servers.to_vec() } };
        for server in servers {
            execute(server, create.clone())?;
        }
        Ok(this)
    }

    /// Returns the connection URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the path of the SQLite file.
    pub fn file(&self) -> &Path {
        Path::new(self.url.trim_start_matches("sqlite://").trim_end_matches("?mode=rwc"))
    }

    async fn migrate(&self) -> Result<DatabaseConnection, DbErr> {
        let mut options = ConnectOptions::new(&self.url);
        options
            .sqlx_logging(false)
            .map_sqlx_sqlite_opts(|sqlite| sqlite.journal_mode(SqliteJournalMode::Wal));
        let db = Database::connect(options).await?;
        Migrator::up(&db, None).await?;
        Ok(db)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if let Storage::Postgres { name, servers } = &self.storage {
            for server in servers {
                if let Err(error) = execute(server, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")) {
                    eprintln!("could not drop the test database {name}: {error}");
                }
            }
        }
    }
}

/// Returns the value of `TEST_DATABASE_TEMPLATE`.
fn citus_template() -> Option<String> {
    env::var("TEST_DATABASE_TEMPLATE").ok()
}

/// Returns the server of this process, which the first call starts.
fn private_server() -> Result<&'static Server, Error> {
    static SERVER: OnceLock<Server> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    match SERVER.get() {
        Some(server) => Ok(server),
        None => {
            let server = Server::start()?;
            Ok(SERVER.get_or_init(|| server))
        }
    }
}
