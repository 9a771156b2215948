//! A database for one test, with its pool and its repos.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use dead_letters::{DeadLetterId, DeadLetterRow, SeaOrmDeadLetterRepo, entity::dead_letters as table};
use dead_letters_test_support::{Error, TestDatabase};
use sea_orm::{
    ColumnTrait, ConnectOptions, ConnectionTrait, Database, DatabaseConnection, EntityTrait, PaginatorTrait,
    QueryFilter, Statement, sqlx::sqlite::SqliteJournalMode,
};

pub(crate) struct TestDb {
    pub(crate) db: DatabaseConnection,
    pub(crate) keyed_by_app: bool,
    pub(crate) sharded: bool,
    database: TestDatabase,
}

impl TestDb {
    pub(crate) async fn sqlite() -> Self {
        Self::over(TestDatabase::sqlite().await).await
    }

    pub(crate) async fn empty_sqlite() -> Self {
        Self::over(TestDatabase::empty_sqlite()).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::over(TestDatabase::postgres().await).await
    }

    pub(crate) async fn empty_postgres() -> Self {
        Self::over(TestDatabase::empty_postgres()).await
    }

    pub(crate) async fn postgres_keyed_by_app() -> Self {
        Self { keyed_by_app: true, ..Self::over(TestDatabase::postgres_keyed_by_app().await).await }
    }

    /// The same, and its repos are sharded.
    pub(crate) async fn postgres_sharded() -> Self {
        Self { sharded: true, ..Self::postgres_keyed_by_app().await }
    }

    /// The same in four partitions, `shard_0` to `shard_3`: a plan names those that a statement touches.
    pub(crate) async fn postgres_partitioned() -> Self {
        let this = Self::postgres_sharded().await;
        let partition = "ALTER TABLE dead_letters RENAME TO whole;
            CREATE TABLE dead_letters (LIKE whole INCLUDING ALL) PARTITION BY HASH (app_id);
            DROP TABLE whole";
        this.execute(partition).await;
        for shard in 0..4 {
            let shard = format!(
                "CREATE TABLE shard_{shard} PARTITION OF dead_letters
                     FOR VALUES WITH (MODULUS 4, REMAINDER {shard})"
            );
            this.execute(&shard).await;
        }
        this
    }

    async fn over(database: Result<TestDatabase, Error>) -> Self {
        let database = database.unwrap();
        let db = connect(options(database.url())).await;
        Self { db, keyed_by_app: false, sharded: false, database }
    }

    pub(crate) fn url(&self) -> &str {
        self.database.url()
    }

    pub(crate) fn repo(&self) -> SeaOrmDeadLetterRepo {
        self.repo_over(self.db.clone())
    }

    /// Over another pool of this database.
    pub(crate) fn repo_over(&self, db: DatabaseConnection) -> SeaOrmDeadLetterRepo {
        let repo = SeaOrmDeadLetterRepo::new(db);
        if self.sharded { repo.sharded() } else { repo }
    }

    pub(crate) async fn connect_with(
        &self,
        configure: impl FnOnce(&mut ConnectOptions),
    ) -> DatabaseConnection {
        let mut options = options(self.url());
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
        self.set_time(table::Column::CreatedAt, id, at).await;
    }

    pub(crate) async fn set_resolved_at(&self, id: DeadLetterId, at: chrono::DateTime<chrono::Utc>) {
        self.set_time(table::Column::ResolvedAt, id, at).await;
    }

    async fn set_time(&self, column: table::Column, id: DeadLetterId, at: chrono::DateTime<chrono::Utc>) {
        let updated = table::Entity::update_many()
            .col_expr(column, at.into())
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
