//! `up`, by many processes at once.

use std::{
    env,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use dead_letters_migration::{Locked, Migrator, SchemaError, check_schema};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    DynIden, Statement, TransactionTrait, TryGetable,
    sea_query::{ColumnDef, IntoIden, Table},
};
use sea_orm_migration::{
    IntoSchemaManagerConnection, MigrationName, MigrationTrait, MigratorTraitSelf, SchemaManager,
};
use tokio::task::JoinSet;

use super::this_test_alone;
use crate::database::TestDb;

/// Six, each with a pool of its own, as processes have.
async fn at_once<M: MigratorTraitSelf + 'static>(db: &TestDb, migrator: M) {
    let migrator = Arc::new(migrator);
    let mut deploys = JoinSet::new();
    for _ in 0..6 {
        let (db, migrator) = (db.connect_with(|_| ()).await, migrator.clone());
        deploys.spawn(async move { migrator.up(&db, None).await });
    }
    for outcome in soon(deploys.join_all()).await {
        outcome.unwrap();
    }
}

async fn value<T: TryGetable>(db: &impl ConnectionTrait, sql: &str) -> T {
    let sql = Statement::from_string(db.get_database_backend(), sql);
    db.query_one_raw(sql).await.unwrap().unwrap().try_get_by_index(0).unwrap()
}

async fn number(db: &TestDb, sql: &str) -> i64 {
    value(&db.db, sql).await
}

async fn applied(db: &TestDb, table: &str) -> i64 {
    number(db, &format!("SELECT count(*) FROM {table}")).await
}

async fn has_table(db: &TestDb, table: &str) -> bool {
    SchemaManager::new(&db.db).has_table(table).await.unwrap()
}

async fn is_whole(db: &TestDb, migrator: &impl MigratorTraitSelf) {
    check_schema(&db.db, migrator).await.unwrap();
    if db.db.get_database_backend() == DbBackend::Postgres {
        assert_eq!(number(db, "SELECT count(*) FROM pg_index WHERE NOT indisvalid").await, 0);
    }
    let table = migrator.migration_table_name().to_string();
    assert_eq!(applied(db, &table).await, migrator.migrations().len() as i64);
}

/// A service's migrator as a value: the store's steps, and these.
struct Steps(&'static [Step]);

impl MigratorTraitSelf for Steps {
    fn migrations(&self) -> Vec<Box<dyn MigrationTrait>> {
        let own = self.0.iter().map(|step| Box::new(*step) as _);
        Migrator.migrations().into_iter().chain(own).collect()
    }
}

/// A step of one statement.
#[derive(Clone, Copy)]
struct Step {
    name: &'static str,
    use_transaction: Option<bool>,
    sql: &'static str,
}

impl MigrationName for Step {
    fn name(&self) -> &str {
        self.name
    }
}

#[sea_orm_migration::async_trait::async_trait]
impl MigrationTrait for Step {
    fn use_transaction(&self) -> Option<bool> {
        self.use_transaction
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(self.sql).await.map(drop)
    }
}

const OUTBOX: Step =
    Step { name: "m20270101_000001_outbox", use_transaction: None, sql: "CREATE TABLE outbox (id integer)" };
const INDEX: Step = Step {
    name: "m20270101_000002_outbox_index",
    use_transaction: Some(false),
    sql: "CREATE INDEX idx_outbox ON outbox (id)",
};
const CONCURRENT_INDEX: Step = Step {
    name: "m20270101_000002_outbox_index",
    use_transaction: Some(false),
    sql: "CREATE INDEX CONCURRENTLY idx_outbox ON outbox (id)",
};
const TEAM: Step = Step {
    name: "m20270101_000003_team",
    use_transaction: Some(true),
    sql: "ALTER TABLE dead_letters ADD COLUMN team text",
};
const FAILING: Step = Step {
    name: "m20270101_000004_failing",
    use_transaction: None,
    sql: "INSERT INTO no_such_table VALUES (1)",
};

const ON_SQLITE: Steps = Steps(&[OUTBOX, INDEX, TEAM]);
const ON_POSTGRES: Steps = Steps(&[OUTBOX, CONCURRENT_INDEX, TEAM]);

async fn six_at_once_migrate_an_empty_database(db: TestDb) {
    at_once(&db, Migrator).await;
    is_whole(&db, &Migrator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_at_once_migrate_an_empty_database_on_sqlite() {
    six_at_once_migrate_an_empty_database(TestDb::empty_sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_at_once_migrate_an_empty_database_on_postgres() {
    six_at_once_migrate_an_empty_database(TestDb::empty_postgres().await).await;
}

async fn six_at_once_apply_what_is_pending(db: TestDb, steps: Steps) {
    Migrator.up(&db.db, None).await.unwrap();
    at_once(&db, Locked(Steps(steps.0))).await;
    is_whole(&db, &steps).await;
    db.execute("INSERT INTO outbox VALUES (1)").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_at_once_apply_what_is_pending_on_sqlite() {
    six_at_once_apply_what_is_pending(TestDb::empty_sqlite().await, ON_SQLITE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_at_once_apply_what_is_pending_on_postgres() {
    six_at_once_apply_what_is_pending(TestDb::empty_postgres().await, ON_POSTGRES).await;
}

/// Names the file that a process shall migrate.
const SHARED_FILE: &str = "DEAD_LETTERS_MIGRATED_FILE";

/// With the file's name set, it is one of the processes. Each has the pool that `sea-orm-cli migrate` has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_processes_at_once_all_succeed_on_sqlite() {
    if let Ok(url) = env::var(SHARED_FILE) {
        let db = Database::connect(url).await.unwrap();
        return Locked(ON_SQLITE).up(&db, None).await.unwrap();
    }
    for has_pending_steps in [false, true] {
        let db = TestDb::empty_sqlite().await;
        // The default of SQLite, and of `sea-orm-cli migrate`.
        db.execute("PRAGMA journal_mode = DELETE").await;
        if has_pending_steps {
            Migrator.up(&db.db, None).await.unwrap();
        }
        let spawn = || {
            this_test_alone("faults::migrate::six_processes_at_once_all_succeed_on_sqlite")
                .env(SHARED_FILE, db.url())
                .spawn()
                .unwrap()
        };
        let processes = [(); 6].map(|()| spawn());
        for mut process in processes {
            assert!(process.wait().unwrap().success());
        }
        is_whole(&db, &ON_SQLITE).await;
    }
}

/// The migrator of a service as a type, with a table of its own.
pub(crate) struct Service;

#[sea_orm_migration::async_trait::async_trait]
impl sea_orm_migration::MigratorTrait for Service {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut steps = Migrator.migrations();
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

async fn replicas_with_a_migrator_of_their_own_migrate_an_empty_database_at_once(db: TestDb) {
    at_once(&db, Locked(Service)).await;
    is_whole(&db, &Service).await;
    db.execute("SELECT id FROM outbox").await;
    assert_eq!(Locked(Service).get_pending_migrations(&db.db).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_with_a_migrator_of_their_own_migrate_an_empty_database_at_once_on_sqlite() {
    replicas_with_a_migrator_of_their_own_migrate_an_empty_database_at_once(TestDb::empty_sqlite().await)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_with_a_migrator_of_their_own_migrate_an_empty_database_at_once_on_postgres() {
    replicas_with_a_migrator_of_their_own_migrate_an_empty_database_at_once(TestDb::empty_postgres().await)
        .await;
}

/// A test that would hang fails instead.
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

async fn alter_database(db: &TestDb, setting: &str) {
    let alter = "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET {}', current_database());
        EXCEPTION WHEN undefined_object THEN END$$";
    db.execute(&alter.replace("{}", &setting.replace('\'', "''"))).await;
}

/// `CREATE INDEX CONCURRENTLY` would wait for a snapshot of the lock's transaction for ever. The timeouts would end
/// the slow step, and the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_sets_what_it_needs_under_any_settings_of_the_database_on_postgres() {
    const SLOW: Step =
        Step { name: "m20270101_000000_slow", use_transaction: None, sql: "SELECT pg_sleep(3)" };
    const SERVICE: Steps = Steps(&[SLOW, OUTBOX, CONCURRENT_INDEX]);
    let db = TestDb::postgres().await;
    for setting in [
        "default_transaction_isolation TO 'repeatable read'",
        "statement_timeout TO '2s'",
        "lock_timeout TO '2s'",
        "idle_in_transaction_session_timeout TO '2s'",
        // Unknown before PostgreSQL 17.
        "transaction_timeout TO '2s'",
    ] {
        alter_database(&db, setting).await;
    }
    let pool = db
        .connect_with(|options| {
            options.max_connections(2);
        })
        .await;
    let up = tokio::spawn({
        let pool = pool.clone();
        async move { Locked(SERVICE).up(&pool, None).await }
    });
    wait_until(&db, "query LIKE '%pg_sleep(3)%' AND query_start < clock_timestamp() - interval '2500 ms'")
        .await;
    let lock = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(number(&db, lock).await, 1);
    soon(up).await.unwrap().unwrap();
    is_whole(&db, &SERVICE).await;
    // Both connections of the pool are as they were.
    let both = [pool.begin().await.unwrap(), pool.begin().await.unwrap()];
    for connection in both {
        let settings =
            "SELECT current_setting('statement_timeout') || ' ' || current_setting('lock_timeout')";
        assert_eq!(value::<String>(&connection, settings).await, "2s 2s");
    }
}

const INSERT: &str =
    "INSERT INTO dead_letters (app_id, original_event_id, source, op, payload, attempt_count,
        first_attempt_at, last_attempt_at, last_error)
    VALUES (gen_random_uuid(), gen_random_uuid(), 'orders', 'insert', '{}', 1, now(), now(), '')";

/// A step that queues for the table is in the way of every insert.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inserts_go_on_while_up_waits_for_an_idle_reader_on_postgres() {
    const SERVICE: Steps = Steps(&[TEAM]);
    let db = TestDb::postgres().await;
    let reader = db.db.begin().await.unwrap();
    reader.execute_unprepared("SELECT count(*) FROM dead_letters").await.unwrap();
    let up = tokio::spawn({
        let pool = db.connect_with(|_| ()).await;
        async move { Locked(SERVICE).up(&pool, None).await }
    });
    for _ in 0..3 {
        wait_until(&db, "query LIKE 'ALTER TABLE%' AND wait_event_type = 'Lock'").await;
        soon(db.execute(INSERT)).await;
    }
    assert!(!up.is_finished());
    reader.rollback().await.unwrap();
    soon(up).await.unwrap().unwrap();
    is_whole(&db, &SERVICE).await;
}

/// It waited for the lock in a statement, which has a snapshot, for which the other's index build waited. No deadlock
/// detector sees both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_in_a_transaction_is_refused_while_another_process_migrates_on_postgres() {
    const SERVICE: Steps = Steps(&[OUTBOX, CONCURRENT_INDEX]);
    let db = TestDb::postgres().await;
    Locked(Steps(&[OUTBOX])).up(&db.db, None).await.unwrap();
    // The index build waits for the writer.
    let writer = db.db.begin().await.unwrap();
    writer.execute_unprepared("INSERT INTO outbox VALUES (1)").await.unwrap();
    let up = tokio::spawn({
        let pool = db.connect_with(|_| ()).await;
        async move { Locked(SERVICE).up(&pool, None).await }
    });
    wait_until(&db, "query LIKE 'CREATE INDEX%' AND wait_event_type = 'Lock'").await;

    let txn = db.db.begin().await.unwrap();
    let refusal = soon(Locked(Steps(&[OUTBOX])).up(&txn, None)).await.unwrap_err();
    assert_eq!(
        refusal,
        DbErr::Migration(
            "another process is migrating this database: roll the transaction back, and try again".to_owned()
        )
    );
    txn.rollback().await.unwrap();

    writer.commit().await.unwrap();
    soon(up).await.unwrap().unwrap();
    is_whole(&db, &SERVICE).await;
    let txn = db.db.begin().await.unwrap();
    Locked(SERVICE).up(&txn, None).await.unwrap();
    txn.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pools_up_waits_for_one_in_a_transaction_on_postgres() {
    let db = TestDb::empty_postgres().await;
    let txn = db.db.begin().await.unwrap();
    Migrator.up(&txn, None).await.unwrap();
    let up = tokio::spawn({
        let pool = db.connect_with(|_| ()).await;
        async move { Migrator.up(&pool, None).await }
    });
    // It asks for the lock again and again.
    for _ in 0..3 {
        wait_until(&db, "query LIKE 'SELECT pg_try_advisory_xact_lock%'").await;
    }
    assert!(!up.is_finished());
    txn.commit().await.unwrap();
    soon(up).await.unwrap().unwrap();
    is_whole(&db, &Migrator).await;
}

#[tokio::test]
async fn up_refuses_a_pool_of_one_on_postgres() {
    let db = TestDb::empty_postgres().await;
    let pool = db
        .connect_with(|options| {
            options.max_connections(1);
        })
        .await;
    let refusal = Migrator.up(&pool, None).await.unwrap_err().to_string();
    assert!(refusal.contains("two connections of the pool"), "{refusal}");
    // And gives both back.
    Migrator.up(&db.db, None).await.unwrap();
    check_schema(&pool, &Migrator).await.unwrap();
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

    let refusal = "dead-letters needs a database whose encoding is UTF8, and this one's is LATIN1: create one with ENCODING 'UTF8'";
    let error = Migrator.up(&pool, None).await.unwrap_err();
    assert_eq!(error, DbErr::Migration(refusal.to_owned()));
    assert!(!SchemaManager::new(&pool).has_table("dead_letters").await.unwrap());
    // Without the lock, too.
    assert_eq!(Migrator.fresh(&pool).await.unwrap_err(), error);
    let error = check_schema(&pool, &Migrator).await.unwrap_err();
    assert!(matches!(&error, SchemaError::Encoding(encoding) if encoding == "LATIN1"));
    assert_eq!(error.to_string(), refusal);

    pool.close().await.unwrap();
    db.execute(&format!("DROP DATABASE {latin1}")).await;
}

/// The lock is the transaction's: it is gone with the connection.
#[tokio::test]
async fn a_failed_up_gives_the_lock_back() {
    for db in [TestDb::empty_sqlite().await, TestDb::empty_postgres().await] {
        db.execute("CREATE TABLE dead_letters (n integer)").await;
        Migrator.up(&db.db, None).await.unwrap_err();
        db.execute("DROP TABLE dead_letters").await;
        soon(Migrator.up(&db.connect_with(|_| ()).await, None)).await.unwrap();
        is_whole(&db, &Migrator).await;
    }
}

async fn the_steps_that_are_missing_are_named(db: TestDb) {
    const SERVICE: Steps = Steps(&[OUTBOX, TEAM]);
    let missing = async || {
        let current = check_schema(&db.db, &SERVICE).await;
        let missing = match current {
            Ok(()) => Vec::new(),
            Err(SchemaError::Missing(steps)) => steps,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(Locked(SERVICE).pending(&db.db).await.unwrap(), missing);
        missing
    };
    let all: Vec<_> = SERVICE.migrations().iter().map(|step| step.name().to_owned()).collect();
    assert_eq!(missing().await, all);
    assert!(!has_table(&db, "seaql_migrations").await);
    Locked(SERVICE).up(&db.db, Some(3)).await.unwrap();
    assert_eq!(missing().await, all[3..]);
    assert_eq!(
        check_schema(&db.db, &SERVICE).await.unwrap_err().to_string(),
        "the schema lacks these steps, which `migrate up` applies: m20270101_000001_outbox, m20270101_000003_team"
    );
    Locked(SERVICE).up(&db.db, None).await.unwrap();
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

const PRE_RELEASE: &str =
    "INSERT INTO {} (version, applied_at) VALUES ('m20261123_000001_create_dead_letters', 0),
        ('m20261123_000002_add_triage_columns', 0)";

/// With the migrator's own table.
async fn a_pre_release_table_is_refused_with_the_way_out(db: &TestDb, migrator: impl MigratorTraitSelf) {
    let table = migrator.migration_table_name().to_string();
    let migrator = Locked(migrator);
    migrator.install(&db.db).await.unwrap();
    db.execute(&PRE_RELEASE.replace("{}", &table)).await;
    let way_out = format!(
        "the table dead_letters is a pre-release version's: export its letters with that version's tool, drop the \
         table, delete its steps from {table}, and import the letters after `migrate up`"
    );
    for error in
        [check_schema(&db.db, &migrator).await.unwrap_err(), migrator.pending(&db.db).await.unwrap_err()]
    {
        assert!(matches!(&error, SchemaError::PreRelease(migrations) if *migrations == table), "{error:?}");
        assert_eq!(error.to_string(), way_out);
    }
    let refusal = DbErr::Migration(way_out);
    assert_eq!(migrator.up(&db.db, None).await.unwrap_err(), refusal);
    assert_eq!(migrator.status(&db.db).await.unwrap_err(), refusal);
    let txn = db.db.begin().await.unwrap();
    assert_eq!(migrator.up(&txn, None).await.unwrap_err(), refusal);
    txn.rollback().await.unwrap();

    db.execute(&format!("DELETE FROM {table}")).await;
    migrator.up(&db.db, None).await.unwrap();
    migrator.status(&db.db).await.unwrap();
    check_schema(&db.db, &migrator).await.unwrap();
}

#[tokio::test]
async fn a_pre_release_table_is_refused_with_the_way_out_whatever_the_migrator() {
    for migrator_of_our_own in [true, false] {
        for db in [TestDb::empty_sqlite().await, TestDb::empty_postgres().await] {
            if migrator_of_our_own {
                a_pre_release_table_is_refused_with_the_way_out(&db, Migrator).await;
            } else {
                a_pre_release_table_is_refused_with_the_way_out(&db, Service).await;
            }
        }
    }
}

/// A pool whose tables are a tenant's, and public's where the tenant has none.
async fn tenant_before_public(db: &TestDb) -> DatabaseConnection {
    db.execute("CREATE SCHEMA tenant").await;
    alter_database(db, "search_path TO tenant, public").await;
    db.connect_with(|_| ()).await
}

#[tokio::test]
async fn up_down_and_fresh_touch_the_current_schema_alone_on_postgres() {
    let db = TestDb::postgres().await;
    // Steps that this version does not have, in public.
    db.execute("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m20990101_000001_newer', 0)")
        .await;
    db.execute(INSERT).await;
    let tenant = tenant_before_public(&db).await;
    let in_schema = async |schema| {
        let tables = format!("SELECT count(*) FROM pg_class WHERE relnamespace = '{schema}'::regnamespace");
        number(&db, &tables).await
    };
    let public = in_schema("public").await;
    let migrator = Locked(Migrator);

    // A call finds public's tables, and so does the check.
    check_schema(&tenant, &migrator).await.unwrap();
    assert_eq!(migrator.pending(&tenant).await.unwrap().len(), Migrator.migrations().len());
    migrator.up(&tenant, None).await.unwrap();
    assert_eq!(migrator.pending(&tenant).await.unwrap(), [] as [String; 0]);
    check_schema(&tenant, &migrator).await.unwrap();
    assert_eq!(in_schema("tenant").await, public);
    tenant.execute_unprepared(INSERT).await.unwrap();
    tenant.execute_unprepared(INSERT).await.unwrap();

    migrator.status(&tenant).await.unwrap();
    migrator.fresh(&tenant).await.unwrap();
    assert_eq!(value::<i64>(&tenant, "SELECT count(*) FROM dead_letters").await, 0);
    // Twice: the second time there is nothing left in the tenant's schema.
    for _ in 0..2 {
        migrator.down(&tenant, None).await.unwrap();
        assert_eq!(value::<i64>(&tenant, "SELECT count(*) FROM dead_letters").await, 1);
    }
    migrator.refresh(&tenant).await.unwrap();
    migrator.reset(&tenant).await.unwrap();
    assert_eq!(in_schema("tenant").await, 0);

    assert_eq!(in_schema("public").await, public);
    assert_eq!(number(&db, "SELECT count(*) FROM public.dead_letters").await, 1);
    assert_eq!(applied(&db, "public.seaql_migrations").await, Migrator.migrations().len() as i64 + 1);
}

/// All steps of a call are one transaction: the step that succeeded before is rolled back too.
#[tokio::test]
async fn a_failed_step_leaves_nothing_of_the_whole_call_on_sqlite() {
    let db = TestDb::empty_sqlite().await;
    Locked(Steps(&[OUTBOX, INDEX, TEAM, FAILING])).up(&db.db, None).await.unwrap_err();
    assert_eq!(number(&db, "SELECT count(*) FROM sqlite_schema").await, 0);
    Locked(ON_SQLITE).up(&db.db, None).await.unwrap();
    is_whole(&db, &ON_SQLITE).await;
}

#[tokio::test]
async fn a_failed_step_leaves_nothing_of_its_own_on_postgres() {
    const HALF: Step = Step {
        name: "m20270101_000002_half",
        use_transaction: None,
        sql: "CREATE TABLE half (id integer); INSERT INTO no_such_table VALUES (1)",
    };
    let db = TestDb::empty_postgres().await;
    Locked(Steps(&[OUTBOX, HALF])).up(&db.db, None).await.unwrap_err();
    assert!(!has_table(&db, "half").await);
    is_whole(&db, &Steps(&[OUTBOX])).await;
}

/// As a step outside a transaction may.
struct BeginsByItself;

impl MigrationName for BeginsByItself {
    fn name(&self) -> &str {
        "m20270101_000005_begins"
    }
}

#[sea_orm_migration::async_trait::async_trait]
impl MigrationTrait for BeginsByItself {
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, committed) in [("kept", true), ("dropped", false)] {
            let txn = manager.begin().await?;
            txn.get_connection().execute_unprepared(&format!("CREATE TABLE {table} (id integer)")).await?;
            if committed {
                txn.commit().await?;
            }
        }
        Ok(())
    }
}

struct BeginsByItselfOnly;

impl MigratorTraitSelf for BeginsByItselfOnly {
    fn migrations(&self) -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(BeginsByItself)]
    }
}

#[tokio::test]
async fn a_step_may_begin_transactions_of_its_own() {
    for db in [TestDb::empty_sqlite().await, TestDb::empty_postgres().await] {
        Locked(BeginsByItselfOnly).up(&db.db, None).await.unwrap();
        assert!(has_table(&db, "kept").await && !has_table(&db, "dropped").await);
        is_whole(&db, &BeginsByItselfOnly).await;
    }
}

#[tokio::test]
async fn a_pool_of_one_in_memory_is_migrated_on_sqlite() {
    let mut options = ConnectOptions::new("sqlite::memory:");
    let pool = Database::connect(options.max_connections(1).to_owned()).await.unwrap();
    Locked(Steps(&[OUTBOX])).up(&pool, None).await.unwrap();
    soon(Locked(ON_SQLITE).up(&pool, None)).await.unwrap();
    check_schema(&pool, &ON_SQLITE).await.unwrap();
}

/// An open write transaction, for which `up` waits on SQLite.
async fn writer(db: &TestDb) -> DatabaseTransaction {
    let writer = db.db.begin().await.unwrap();
    writer.execute_unprepared("CREATE TABLE other (id integer)").await.unwrap();
    writer
}

#[tokio::test]
async fn up_waits_for_another_writer_longer_than_the_busy_timeout_on_sqlite() {
    let db = TestDb::empty_sqlite().await;
    let impatient = db
        .connect_with(|options| {
            options.map_sqlx_sqlite_opts(|sqlite| sqlite.busy_timeout(Duration::ZERO));
        })
        .await;
    let writer = writer(&db).await;
    let mut up = pin!(Migrator.up(&impatient, None));
    let waited = tokio::time::timeout(Duration::from_millis(300), &mut up).await;
    assert!(waited.is_err(), "{waited:?}");
    writer.rollback().await.unwrap();
    soon(up).await.unwrap();
    is_whole(&db, &Migrator).await;
}

/// Whatever an `up` leaves to its pool, a later statement is stored.
async fn is_stored_on(pool: &DatabaseConnection, db: &TestDb) {
    pool.execute_unprepared("CREATE TABLE IF NOT EXISTS later (id integer)").await.unwrap();
    let before = number(db, "SELECT count(*) FROM later").await;
    for committed in [false, true] {
        let txn = pool.begin().await.unwrap();
        txn.execute_unprepared("INSERT INTO later VALUES (1)").await.unwrap();
        if committed {
            txn.commit().await.unwrap();
        } else {
            txn.rollback().await.unwrap();
        }
    }
    pool.execute_unprepared("INSERT INTO later VALUES (1)").await.unwrap();
    assert_eq!(number(db, "SELECT count(*) FROM later").await, before + 2);
}

#[tokio::test]
async fn an_up_that_is_dropped_at_any_point_did_all_or_nothing_and_leaves_its_pool_as_it_was_on_sqlite() {
    for polls in 0.. {
        let db = TestDb::empty_sqlite().await;
        let pool = db
            .connect_with(|options| {
                options.max_connections(1);
            })
            .await;
        let outcome = {
            let migrator = Locked(ON_SQLITE);
            let mut up = pin!(migrator.up(&pool, None));
            let mut polled = 0;
            poll_fn(|context| {
                if polled == polls {
                    return Poll::Ready(None);
                }
                polled += 1;
                up.as_mut().poll(context).map(Some)
            })
            .await
        };
        is_stored_on(&pool, &db).await;
        let pending = Locked(ON_SQLITE).pending(&db.db).await.unwrap();
        assert!([0, ON_SQLITE.migrations().len()].contains(&pending.len()), "{polls}: {pending:?}");
        if let Some(outcome) = outcome {
            outcome.unwrap();
            assert!(polls > 1, "{polls}");
            return;
        }
    }
}

/// As SQLite does over a full disk. To the driver a savepoint of the step would be open still.
#[tokio::test]
async fn a_step_whose_error_ends_the_transaction_leaves_its_pool_as_it_was_on_sqlite() {
    const ENDS_ALL: Step = Step {
        name: "m20270101_000001_ends_all",
        use_transaction: None,
        sql: "CREATE TABLE once (id integer PRIMARY KEY);
            INSERT INTO once VALUES (1); INSERT OR ROLLBACK INTO once VALUES (1)",
    };
    const ENDS_ALL_IN_A_TRANSACTION: Step = Step { use_transaction: Some(true), ..ENDS_ALL };
    for steps in [Steps(&[ENDS_ALL]), Steps(&[ENDS_ALL_IN_A_TRANSACTION])] {
        let db = TestDb::empty_sqlite().await;
        let pool = db
            .connect_with(|options| {
                options.max_connections(1);
            })
            .await;
        let error = Locked(steps).up(&pool, None).await.unwrap_err().to_string();
        assert!(error.contains("UNIQUE constraint failed: once.id"), "{error}");
        is_stored_on(&pool, &db).await;
        assert!(!has_table(&db, "once").await && !has_table(&db, "dead_letters").await);
    }
}
