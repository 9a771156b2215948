//! `up`, by many processes at once.

use std::time::Duration;

use dead_letters_migration::{Locked, Migrator, SchemaError, schema_is_current};
use sea_orm::{
    ConnectionTrait, Database, DatabaseTransaction, DbBackend, DbErr, DynIden, Statement, TransactionTrait,
    sea_query::{ColumnDef, IntoIden, Table},
};
use sea_orm_migration::{
    IntoSchemaManagerConnection, MigrationName, MigrationTrait, MigratorTrait, SchemaManager,
};
use tokio::task::JoinSet;

use crate::database::TestDb;

/// Six, each with a pool of its own, as processes have.
async fn at_once<M: MigratorTrait>(db: &TestDb) {
    let mut deploys = JoinSet::new();
    for _ in 0..6 {
        let db = db.connect_with(|_| ()).await;
        deploys.spawn(async move { M::up(&db, None).await });
    }
    for outcome in soon(deploys.join_all()).await {
        outcome.unwrap();
    }
}

async fn number(db: &TestDb, sql: &str) -> i64 {
    let sql = Statement::from_string(db.db.get_database_backend(), sql);
    db.db.query_one_raw(sql).await.unwrap().unwrap().try_get_by_index(0).unwrap()
}

async fn applied(db: &TestDb, table: &str) -> i64 {
    number(db, &format!("SELECT count(*) FROM {table}")).await
}

async fn is_whole(db: &TestDb) {
    schema_is_current::<Migrator>(&db.db).await.unwrap();
    assert_eq!(number(db, "SELECT count(*) FROM pg_index WHERE NOT indisvalid").await, 0);
    assert_eq!(applied(db, "seaql_migrations").await, Migrator::migrations().len() as i64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_at_once_migrate_an_empty_database_on_postgres() {
    let db = TestDb::empty_postgres().await;
    at_once::<Migrator>(&db).await;
    is_whole(&db).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_at_once_apply_what_is_pending_on_postgres() {
    let db = TestDb::empty_postgres().await;
    Migrator::up(&db.db, Some(1)).await.unwrap();
    at_once::<Migrator>(&db).await;
    is_whole(&db).await;
}

/// The migrator of a service that takes our steps in.
pub(crate) struct Service;

#[sea_orm_migration::async_trait::async_trait]
impl MigratorTrait for Service {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut steps = Migrator::migrations();
        steps.push(Box::new(CreateOutbox));
        steps
    }

    fn migration_table_name() -> DynIden {
        "service_migrations".into_iden()
    }

    async fn up<'c, C: IntoSchemaManagerConnection<'c>>(_: C, _: Option<u32>) -> Result<(), DbErr> {
        Err(DbErr::Migration("the service's own up was called".to_owned()))
    }
}

struct CreateOutbox;

impl MigrationName for CreateOutbox {
    fn name(&self) -> &str {
        "m20260101_000001_create_outbox"
    }
}

#[sea_orm_migration::async_trait::async_trait]
impl MigrationTrait for CreateOutbox {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let id = ColumnDef::new("id").uuid().primary_key().take();
        manager.create_table(Table::create().table("outbox").col(id).take()).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_with_a_migrator_of_their_own_migrate_an_empty_database_at_once_on_postgres() {
    let db = TestDb::empty_postgres().await;
    at_once::<Locked<Service>>(&db).await;
    assert_eq!(applied(&db, "service_migrations").await, Service::migrations().len() as i64);
    db.execute("SELECT id FROM outbox").await;
    // What `run_cli` takes.
    let locked = Locked::<Service>::default();
    assert_eq!(
        sea_orm_migration::MigratorTraitSelf::get_pending_migrations(&locked, &db.db).await.unwrap().len(),
        0
    );
}

#[tokio::test]
async fn a_migrator_of_a_services_own_goes_up_under_the_lock_on_sqlite() {
    let db = TestDb::empty_sqlite().await;
    Locked::<Service>::up(&db.db, None).await.unwrap();
    assert_eq!(applied(&db, "service_migrations").await, Service::migrations().len() as i64);
}

/// What would hang is red instead.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("within a minute")
}

/// Waits for a backend that does this, by its `pg_stat_activity`.
async fn wait_until(db: &TestDb, condition: &str) {
    let activity = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND {condition}"
    );
    soon(async {
        while number(db, &activity).await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A transaction that has read the table, and does no more.
async fn idle_reader(db: &TestDb) -> DatabaseTransaction {
    let reader = db.db.begin().await.unwrap();
    reader.execute_unprepared("SELECT count(*) FROM dead_letters").await.unwrap();
    reader
}

const INSERT: &str =
    "INSERT INTO dead_letters (app_id, original_event_id, source, op, payload, attempt_count,
        first_attempt_at, last_attempt_at, last_error)
    VALUES (gen_random_uuid(), gen_random_uuid(), 'orders', 'insert', '{}', 1, now(), now(), '')";

/// A snapshot in the lock's transaction would be waited for by the index builds, for ever; the timeouts
/// would end them, and the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_sets_what_it_needs_whatever_the_database_says_on_postgres() {
    let db = TestDb::empty_postgres().await;
    Migrator::up(&db.db, Some(2)).await.unwrap();
    for setting in [
        "default_transaction_isolation TO 'repeatable read'",
        "statement_timeout TO '2s'",
        "lock_timeout TO '2s'",
        "idle_in_transaction_session_timeout TO '2s'",
        // Unknown before PostgreSQL 17.
        "transaction_timeout TO '2s'",
    ] {
        let alter = "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET {}', current_database());
            EXCEPTION WHEN undefined_object THEN END$$";
        db.execute(&alter.replace("{}", &setting.replace('\'', "''"))).await;
    }
    let pool = db
        .connect_with(|options| {
            options.max_connections(2);
        })
        .await;
    // The build waits for the writer longer than any of them.
    let writer = db.db.begin().await.unwrap();
    writer.execute_unprepared(INSERT).await.unwrap();
    let up = tokio::spawn({
        let pool = pool.clone();
        async move { Migrator::up(&pool, None).await }
    });
    wait_until(&db, "query LIKE 'CREATE INDEX%' AND query_start < clock_timestamp() - interval '3 seconds'")
        .await;
    let lock = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(number(&db, lock).await, 1);
    writer.commit().await.unwrap();
    soon(up).await.unwrap().unwrap();
    is_whole(&db).await;
    // Both connections of the pool are as they were.
    let both = [pool.begin().await.unwrap(), pool.begin().await.unwrap()];
    for connection in both {
        let settings =
            "SELECT current_setting('statement_timeout') || ' ' || current_setting('lock_timeout')";
        let settings = Statement::from_string(DbBackend::Postgres, settings);
        let settings: String =
            connection.query_one_raw(settings).await.unwrap().unwrap().try_get_by_index(0).unwrap();
        assert_eq!(settings, "2s 2s");
    }
}

/// A step that queues for the table is in the way of every insert.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inserts_go_on_while_up_waits_for_an_idle_reader_on_postgres() {
    let db = TestDb::empty_postgres().await;
    Migrator::up(&db.db, Some(1)).await.unwrap();
    let reader = idle_reader(&db).await;
    let up = tokio::spawn({
        let pool = db.connect_with(|_| ()).await;
        async move { Migrator::up(&pool, None).await }
    });
    for _ in 0..3 {
        wait_until(&db, "query LIKE 'ALTER TABLE%' AND wait_event_type = 'Lock'").await;
        soon(db.execute(INSERT)).await;
    }
    assert!(!up.is_finished());
    reader.rollback().await.unwrap();
    soon(up).await.unwrap().unwrap();
    is_whole(&db).await;
}

#[tokio::test]
async fn up_says_that_a_pool_of_one_is_too_small_on_postgres() {
    let db = TestDb::empty_postgres().await;
    let pool = db
        .connect_with(|options| {
            options.max_connections(1);
        })
        .await;
    let refusal = Migrator::up(&pool, None).await.unwrap_err().to_string();
    assert!(refusal.contains("two connections of the pool"), "{refusal}");
    // And gives both back.
    Migrator::up(&db.db, None).await.unwrap();
    schema_is_current::<Migrator>(&pool).await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_not_utf8_is_refused_by_name_on_postgres() {
    let db = TestDb::empty_postgres().await;
    let latin1 = format!("latin1_{}", uuid::Uuid::new_v4().simple());
    db.execute(&format!(
        "CREATE DATABASE {latin1} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    ))
    .await;
    let mut url: url::Url = db.url().parse().unwrap();
    url.set_path(&latin1);
    let pool = Database::connect(url.as_str()).await.unwrap();

    let refusal = "dead-letters needs a database whose encoding is UTF8, and this one's is LATIN1";
    let error = Migrator::up(&pool, None).await.unwrap_err();
    assert_eq!(error, DbErr::Migration(refusal.to_owned()));
    assert!(!SchemaManager::new(&pool).has_table("dead_letters").await.unwrap());
    // Without the lock, too.
    assert_eq!(Migrator::fresh(&pool).await.unwrap_err(), error);
    let error = schema_is_current::<Migrator>(&pool).await.unwrap_err();
    assert!(matches!(&error, SchemaError::Encoding(encoding) if encoding == "LATIN1"));
    assert_eq!(error.to_string(), refusal);

    pool.close().await.unwrap();
    db.execute(&format!("DROP DATABASE {latin1}")).await;
}

/// The lock is the transaction's: it is gone with the connection.
#[tokio::test]
async fn a_failed_up_gives_the_lock_back_on_postgres() {
    let db = TestDb::empty_postgres().await;
    db.execute("CREATE TABLE dead_letters (n integer)").await;
    Migrator::up(&db.db, None).await.unwrap_err();
    db.execute("DROP TABLE dead_letters").await;
    Migrator::up(&db.connect_with(|_| ()).await, None).await.unwrap();
    is_whole(&db).await;
}

async fn the_steps_that_are_missing_are_named(db: TestDb) {
    let missing = async || match schema_is_current::<Migrator>(&db.db).await {
        Ok(()) => Vec::new(),
        Err(SchemaError::Missing(steps)) => steps,
        Err(error) => panic!("{error}"),
    };
    let all: Vec<_> = Migrator::migrations().iter().map(|step| step.name().to_owned()).collect();
    assert_eq!(missing().await, all);
    Migrator::up(&db.db, Some(2)).await.unwrap();
    assert_eq!(missing().await, all[2..]);
    assert_eq!(
        schema_is_current::<Migrator>(&db.db).await.unwrap_err().to_string(),
        format!("the schema lacks these steps, which `migrate up` applies: {}", all[2..].join(", "))
    );
    Migrator::up(&db.db, None).await.unwrap();
    // Another one's step in the same table.
    db.execute("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m20260101_000001_other', 0)")
        .await;
    assert_eq!(missing().await, [] as [String; 0]);
}

#[tokio::test]
async fn the_steps_that_are_missing_are_named_on_sqlite() {
    the_steps_that_are_missing_are_named(TestDb::empty_sqlite().await).await;
}

#[tokio::test]
async fn the_steps_that_are_missing_are_named_on_postgres() {
    the_steps_that_are_missing_are_named(TestDb::empty_postgres().await).await;
}
