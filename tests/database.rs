//! A migrated database for one test, on either backend.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use dead_letters::{DeadLetterId, DeadLetterRow, SeaOrmDeadLetterRepo, entity::dead_letters as table};
use dead_letters_migration::Migrator;
use dead_letters_test_postgres::TestDatabase;
use sea_orm::{
    ColumnTrait, ConnectOptions, ConnectionTrait, Database, DatabaseConnection, EntityTrait, PaginatorTrait,
    QueryFilter, Statement, sqlx::sqlite::SqliteJournalMode,
};
use sea_orm_migration::MigratorTrait;
use tempfile::TempDir;

pub(crate) struct TestDb {
    pub(crate) db: DatabaseConnection,
    url: String,
    _storage: Storage,
}

/// Removed when the test is over.
enum Storage {
    Sqlite { _dir: TempDir },
    Postgres { _database: TestDatabase },
}

impl TestDb {
    pub(crate) async fn sqlite() -> Self {
        let this = Self::empty_sqlite().await;
        Migrator::up(&this.db, None).await.unwrap();
        this
    }

    pub(crate) async fn postgres() -> Self {
        let this = Self::empty_postgres().await;
        Migrator::up(&this.db, None).await.unwrap();
        this
    }

    pub(crate) async fn empty_sqlite() -> Self {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite://{}?mode=rwc", dir.path().join("test.sqlite").display());
        Self { db: connect(options(&url)).await, url, _storage: Storage::Sqlite { _dir: dir } }
    }

    pub(crate) async fn empty_postgres() -> Self {
        let database = TestDatabase::create().await.unwrap();
        let url = database.url().to_owned();
        Self { db: connect(options(&url)).await, url, _storage: Storage::Postgres { _database: database } }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn repo(&self) -> SeaOrmDeadLetterRepo {
        SeaOrmDeadLetterRepo::new(self.db.clone())
    }

    pub(crate) async fn connect_with(
        &self,
        configure: impl FnOnce(&mut ConnectOptions),
    ) -> DatabaseConnection {
        let mut options = options(&self.url);
        configure(&mut options);
        connect(options).await
    }

    /// A pool that notes each statement that the repo sends, as it is sent.
    pub(crate) async fn connect_recorded(&self) -> (DatabaseConnection, Recorded) {
        let mut db = self.connect_with(|_| ()).await;
        let recorded = Recorded::default();
        let statements = recorded.clone();
        db.set_metric_callback(move |info| statements.0.lock().unwrap().push(info.statement.clone()));
        (db, recorded)
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.db.execute_unprepared(sql).await.unwrap();
    }

    pub(crate) async fn row_count(&self) -> u64 {
        table::Entity::find().count(&self.db).await.unwrap()
    }

    pub(crate) async fn set_created_at(&self, id: DeadLetterId, at: chrono::DateTime<chrono::Utc>) {
        let updated = table::Entity::update_many()
            .col_expr(table::Column::CreatedAt, at.into())
            .filter(table::Column::Id.eq(id.into_inner()))
            .exec(&self.db)
            .await
            .unwrap();
        assert_eq!(updated.rows_affected, 1);
    }
}

#[derive(Clone, Default)]
pub(crate) struct Recorded(Arc<Mutex<Vec<Statement>>>);

impl Recorded {
    pub(crate) fn take(&self) -> Vec<Statement> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

pub(crate) fn ids(rows: &[DeadLetterRow]) -> Vec<DeadLetterId> {
    rows.iter().map(|row| row.id).collect()
}

fn options(url: &str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options.sqlx_logging(false).map_sqlx_sqlite_opts(|sqlite| {
        // Writers that race on a slow disk wait longer than sqlx's 5 seconds.
        sqlite.journal_mode(SqliteJournalMode::Wal).busy_timeout(Duration::from_secs(60))
    });
    options
}

async fn connect(options: ConnectOptions) -> DatabaseConnection {
    Database::connect(options).await.unwrap()
}
