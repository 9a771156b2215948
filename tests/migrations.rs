//! The schema, as each backend reports it.

use chrono::{DateTime, Utc};
use dead_letters::{
    DeadLetterRepo, DeadLetterTriage, NewDeadLetter, Resolution, Settlement, entity::dead_letters as table,
};
use dead_letters_migration::Migrator;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, FromQueryResult, Statement,
    TransactionTrait, TryGetable,
    sea_query::{Alias, ColumnDef, Table},
};
use sea_orm_migration::{MigrationName, MigrationTrait, MigratorTrait, SchemaManager};

use crate::database::TestDb;

/// The first column of each row.
async fn column<T: TryGetable>(db: &DatabaseConnection, sql: &str) -> Vec<T> {
    let rows = db.query_all_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

async fn has_table(db: &DatabaseConnection) -> bool {
    SchemaManager::new(db).has_table("dead_letters").await.unwrap()
}

async fn goes_up_down_and_up(db: TestDb) {
    for _ in 0..2 {
        Migrator::up(&db.db, None).await.unwrap();
        assert!(has_table(&db.db).await);
        assert_eq!(Migrator::get_pending_migrations(&db.db).await.unwrap().len(), 0);
        assert_eq!(db.row_count().await, 0);
        Migrator::down(&db.db, None).await.unwrap();
        assert!(!has_table(&db.db).await);
    }
    Migrator::fresh(&db.db).await.unwrap();
    assert!(has_table(&db.db).await);
}

#[tokio::test]
async fn it_goes_up_down_and_up_on_sqlite() {
    goes_up_down_and_up(TestDb::empty_sqlite().await).await;
}

#[tokio::test]
async fn it_goes_up_down_and_up_on_postgres() {
    goes_up_down_and_up(TestDb::empty_postgres().await).await;
}

/// The last thing that the first step does fails: its index's name is taken.
async fn a_step_that_fails_leaves_nothing(db: TestDb) {
    db.execute("CREATE TABLE other (n integer)").await;
    db.execute("CREATE INDEX idx_dead_letters_gc ON other (n)").await;
    Migrator::up(&db.db, None).await.unwrap_err();
    assert!(!has_table(&db.db).await);
    db.execute("DROP INDEX idx_dead_letters_gc").await;
    Migrator::up(&db.db, None).await.unwrap();
    assert!(has_table(&db.db).await);
}

#[tokio::test]
async fn a_step_that_fails_leaves_nothing_on_sqlite() {
    a_step_that_fails_leaves_nothing(TestDb::empty_sqlite().await).await;
}

#[tokio::test]
async fn a_step_that_fails_leaves_nothing_on_postgres() {
    a_step_that_fails_leaves_nothing(TestDb::empty_postgres().await).await;
}

/// The migrator of a service that uses the store.
struct ServiceMigrator;

impl MigratorTrait for ServiceMigrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut steps = Migrator::migrations();
        steps.push(Box::new(CreateOutbox));
        steps
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
        let id = ColumnDef::new(Alias::new("id")).uuid().primary_key().take();
        manager.create_table(Table::create().table(Alias::new("outbox")).col(id).take()).await
    }
}

async fn a_service_runs_our_steps_in_its_own_migrator(db: TestDb) {
    ServiceMigrator::up(&db.db, None).await.unwrap();
    assert!(has_table(&db.db).await);
    assert!(SchemaManager::new(&db.db).has_table("outbox").await.unwrap());
    ServiceMigrator::up(&db.db, None).await.unwrap();
    let steps = Migrator::migrations().len() + 1;
    assert_eq!(ServiceMigrator::get_applied_migrations(&db.db).await.unwrap().len(), steps);
}

#[tokio::test]
async fn a_service_runs_our_steps_in_its_own_migrator_on_sqlite() {
    a_service_runs_our_steps_in_its_own_migrator(TestDb::empty_sqlite().await).await;
}

#[tokio::test]
async fn a_service_runs_our_steps_in_its_own_migrator_on_postgres() {
    a_service_runs_our_steps_in_its_own_migrator(TestDb::empty_postgres().await).await;
}

const MINIMAL_ROW: &str = "\
    INSERT INTO dead_letters (app_id, original_event_id, source, op, payload, attempt_count, first_attempt_at,
        last_attempt_at, last_error, resolved_at, resolution)
    SELECT id, id, 'orders', 'insert', '{}', {attempt_count}, at, at, '', {resolved_at}, {resolution} FROM (SELECT {id} AS id, {at} AS at) t";

fn minimal_row(backend: DbBackend, attempt_count: &str, resolved_at: &str, resolution: &str) -> String {
    let (id, at) = match backend {
        DbBackend::Sqlite => ("randomblob(16)", "'2026-03-01T10:00:00+00:00'"),
        _ => ("gen_random_uuid()", "timestamptz '2026-03-01 10:00Z'"),
    };
    MINIMAL_ROW
        .replace("{attempt_count}", attempt_count)
        .replace("{resolved_at}", resolved_at)
        .replace("{resolution}", resolution)
        .replace("{id}", id)
        .replace("{at}", at)
}

/// Whatever this returns is what the database says of a row that a CHECK refuses.
async fn insert_minimal(
    db: &TestDb,
    attempt_count: &str,
    resolved_at: &str,
    resolution: &str,
) -> Result<(), String> {
    let sql = minimal_row(db.db.get_database_backend(), attempt_count, resolved_at, resolution);
    db.db.execute_unprepared(&sql).await.map(drop).map_err(|error| error.to_string())
}

async fn each_check_refuses_what_it_is_for(db: TestDb) {
    for resolution in ["replayed", "ignored", "handled_by_script", "handler_failed"] {
        insert_minimal(&db, "0", "at", &format!("'{resolution}'")).await.unwrap();
    }
    insert_minimal(&db, "0", "NULL", "NULL").await.unwrap();
    for (attempt_count, resolved_at, resolution, check) in [
        ("-1", "NULL", "NULL", "dead_letters_attempt_count_check"),
        ("1", "at", "'Replayed'", "dead_letters_resolution_check"),
        ("1", "at", "''", "dead_letters_resolution_check"),
        ("1", "at", "NULL", "dead_letters_resolved_check"),
        ("1", "NULL", "'ignored'", "dead_letters_resolved_check"),
    ] {
        let refusal = insert_minimal(&db, attempt_count, resolved_at, resolution).await.unwrap_err();
        assert!(refusal.contains(check), "{check}: {refusal}");
    }
    assert_eq!(db.row_count().await, 5);
}

#[tokio::test]
async fn each_check_refuses_what_it_is_for_on_sqlite() {
    each_check_refuses_what_it_is_for(TestDb::sqlite().await).await;
}

#[tokio::test]
async fn each_check_refuses_what_it_is_for_on_postgres() {
    each_check_refuses_what_it_is_for(TestDb::postgres().await).await;
}

async fn another_writer_gets_an_id_and_a_time(db: TestDb) {
    insert_minimal(&db, "1", "NULL", "NULL").await.unwrap();
    insert_minimal(&db, "1", "NULL", "NULL").await.unwrap();
    let rows = table::Entity::find().all(&db.db).await.unwrap();
    assert_ne!(rows[0].id, rows[1].id);
    for row in rows {
        let age = Utc::now() - row.created_at.to_utc();
        assert!(age < chrono::Duration::minutes(1) && age > chrono::Duration::milliseconds(-2), "{age}");
        assert!(db.repo().get(row.id.into()).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn another_writer_gets_an_id_and_a_time_on_sqlite() {
    another_writer_gets_an_id_and_a_time(TestDb::sqlite().await).await;
}

#[tokio::test]
async fn another_writer_gets_an_id_and_a_time_on_postgres() {
    another_writer_gets_an_id_and_a_time(TestDb::postgres().await).await;
}

/// Rows of the first release.
async fn old_rows_keep_working(db: TestDb) {
    Migrator::up(&db.db, Some(1)).await.unwrap();
    insert_minimal(&db, "1", "NULL", "NULL").await.unwrap();
    insert_minimal(&db, "1", "at", "'ignored'").await.unwrap();
    Migrator::up(&db.db, None).await.unwrap();
    for row in table::Entity::find().all(&db.db).await.unwrap() {
        let row = db.repo().get_for_app(row.app_id.into(), row.id.into()).await.unwrap().unwrap();
        assert_eq!((row.error_signature.as_str(), row.resolved_by, row.resolution_note), ("", None, None));
        db.repo().resolve(row.id, "replayed").await.unwrap();
    }
    Migrator::down(&db.db, Some(4)).await.unwrap();
    let rows: Vec<i64> =
        column(&db.db, "SELECT count(*) FROM dead_letters WHERE resolution = 'replayed'").await;
    assert_eq!(rows, [2]);
}

#[tokio::test]
async fn old_rows_keep_working_on_sqlite() {
    old_rows_keep_working(TestDb::empty_sqlite().await).await;
}

#[tokio::test]
async fn old_rows_keep_working_on_postgres() {
    old_rows_keep_working(TestDb::empty_postgres().await).await;
}

/// As a build that was broken off leaves it: `IF NOT EXISTS` would keep it.
#[tokio::test]
async fn an_invalid_index_of_an_earlier_try_is_built_anew_on_postgres() {
    let db = TestDb::empty_postgres().await;
    Migrator::up(&db.db, Some(2)).await.unwrap();
    db.execute("CREATE INDEX idx_dead_letters_app_open ON dead_letters (app_id)").await;
    db.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_dead_letters_app_open'::regclass",
    )
    .await;
    Migrator::up(&db.db, None).await.unwrap();
    let invalid: Vec<String> = column(
        &db.db,
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'dead_letters'::regclass AND NOT indisvalid",
    )
    .await;
    assert_eq!(invalid, [] as [String; 0]);
    let definition: Vec<String> =
        column(&db.db, "SELECT pg_get_indexdef('idx_dead_letters_app_open'::regclass)").await;
    assert!(definition[0].contains("handler_failed"), "{definition:?}");
}

/// `CREATE INDEX CONCURRENTLY` would refuse.
#[tokio::test]
async fn all_steps_may_run_in_a_transaction_of_the_callers_on_postgres() {
    let db = TestDb::empty_postgres().await;
    let txn = db.db.begin().await.unwrap();
    Migrator::up(&txn, None).await.unwrap();
    txn.commit().await.unwrap();
    assert_eq!(Migrator::get_pending_migrations(&db.db).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_row_with_20_kb_in_every_text_is_stored() {
    for db in [TestDb::sqlite().await, TestDb::postgres().await] {
        // Random, since an index compresses what repeats.
        let text: String = (0..20_480 / 32).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
        let app_id = uuid::Uuid::from_u128(1).into();
        let letter = NewDeadLetter {
            app_id,
            original_event_id: uuid::Uuid::from_u128(2),
            source: text.clone(),
            op: text.clone(),
            trigger_id: None,
            script_id: None,
            payload: text.clone().into(),
            attempt_count: 1,
            first_attempt_at: Utc::now(),
            last_attempt_at: Utc::now(),
            last_error: text.clone(),
        };
        let id = db.repo().insert(letter).await.unwrap();
        let settlement =
            Settlement { resolution: Resolution::Ignored, by: Some(text.clone()), note: Some(text.clone()) };
        let row = db.repo().resolve_once(app_id, id, &settlement).await.unwrap();
        assert!(row.source == text && row.resolution_note.is_some_and(|note| note == text));
    }
}

#[tokio::test]
async fn postgres_reports_the_three_checks() {
    let db = TestDb::postgres().await;
    let checks = "SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid = 'dead_letters'::regclass ORDER BY conname";
    assert_eq!(
        column::<String>(&db.db, checks).await,
        [
            "dead_letters_attempt_count_check CHECK ((attempt_count >= 0))",
            "dead_letters_pkey PRIMARY KEY (id)",
            "dead_letters_resolution_check CHECK ((resolution = ANY (ARRAY['replayed'::text, 'ignored'::text, \
             'handled_by_script'::text, 'handler_failed'::text])))",
            "dead_letters_resolved_check CHECK (((resolved_at IS NULL) = (resolution IS NULL)))",
        ]
    );
}

#[tokio::test]
async fn postgres_reports_the_indexes() {
    let db = TestDb::postgres().await;
    let indexes = "SELECT replace(indexdef, ' ON public.dead_letters USING btree', '') FROM pg_indexes
        WHERE tablename = 'dead_letters' ORDER BY indexname";
    let indexes = column::<String>(&db.db, indexes).await;
    // 15.20 prints one more pair of parentheses than 15.18 around AT TIME ZONE.
    let indexes: Vec<_> =
        indexes.iter().map(|index| index.replace("(((", "((").replace(")))", "))")).collect();
    assert_eq!(
        indexes,
        [
            "CREATE UNIQUE INDEX dead_letters_pkey (id)",
            "CREATE INDEX idx_dead_letters_app (app_id, created_at DESC, id DESC)",
            "CREATE INDEX idx_dead_letters_app_open (app_id, created_at DESC, id DESC) \
             WHERE ((resolution IS NULL) OR (resolution = 'handler_failed'::text))",
            "CREATE INDEX idx_dead_letters_app_unresolved (app_id, created_at DESC, id DESC) WHERE (resolved_at IS NULL)",
            "CREATE INDEX idx_dead_letters_gc ((created_at AT TIME ZONE 'UTC'::text))",
            "CREATE INDEX idx_dead_letters_purge ((resolved_at AT TIME ZONE 'UTC'::text)) WHERE (resolution <> 'handler_failed'::text)",
            "CREATE INDEX idx_dead_letters_purge_app (app_id, resolved_at) WHERE (resolution <> 'handler_failed'::text)",
        ]
    );
}

#[derive(Debug, PartialEq, FromQueryResult)]
struct ColumnInfo {
    name: String,
    data_type: String,
    nullable: String,
    default: Option<String>,
}

#[tokio::test]
async fn postgres_reports_the_columns_their_types_and_defaults() {
    let db = TestDb::postgres().await;
    let columns = r#"SELECT column_name::text AS name, udt_name::text AS data_type, is_nullable::text AS nullable,
            column_default AS "default"
        FROM information_schema.columns WHERE table_name = 'dead_letters' ORDER BY ordinal_position"#;
    let columns = ColumnInfo::find_by_statement(Statement::from_string(DbBackend::Postgres, columns));
    let expected = [
        ("id", "uuid", "NO", Some("gen_random_uuid()")),
        ("app_id", "uuid", "NO", None),
        ("original_event_id", "uuid", "NO", None),
        ("source", "text", "NO", None),
        ("op", "text", "NO", None),
        ("trigger_id", "uuid", "YES", None),
        ("script_id", "uuid", "YES", None),
        ("payload", "text", "NO", None),
        ("attempt_count", "int4", "NO", None),
        // Every time has a zone.
        ("first_attempt_at", "timestamptz", "NO", None),
        ("last_attempt_at", "timestamptz", "NO", None),
        ("last_error", "text", "NO", None),
        ("created_at", "timestamptz", "NO", Some("CURRENT_TIMESTAMP")),
        ("resolved_at", "timestamptz", "YES", None),
        ("resolution", "text", "YES", None),
        ("error_signature", "text", "NO", Some("''::text")),
        ("resolved_by", "text", "YES", None),
        ("resolution_note", "text", "YES", None),
    ]
    .map(|(name, data_type, nullable, default)| ColumnInfo {
        name: name.to_owned(),
        data_type: data_type.to_owned(),
        nullable: nullable.to_owned(),
        default: default.map(str::to_owned),
    });
    assert_eq!(columns.all(&db.db).await.unwrap(), expected);
}

#[tokio::test]
async fn sqlite_has_the_same_indexes_with_a_plain_one_for_gc() {
    let db = TestDb::sqlite().await;
    let indexes = "SELECT sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY name";
    assert_eq!(
        column::<String>(&db.db, indexes).await,
        [
            r#"CREATE INDEX "idx_dead_letters_app" ON "dead_letters" ("app_id", "created_at" DESC, "id" DESC)"#,
            r#"CREATE INDEX "idx_dead_letters_app_open" ON "dead_letters" ("app_id", "created_at" DESC, "id" DESC) WHERE "resolution" IS NULL OR "resolution" = 'handler_failed'"#,
            r#"CREATE INDEX "idx_dead_letters_app_unresolved" ON "dead_letters" ("app_id", "created_at" DESC, "id" DESC) WHERE "resolved_at" IS NULL"#,
            r#"CREATE INDEX "idx_dead_letters_gc" ON "dead_letters" ("created_at")"#,
            r#"CREATE INDEX "idx_dead_letters_purge" ON "dead_letters" ("resolved_at") WHERE "resolution" <> 'handler_failed'"#,
            r#"CREATE INDEX "idx_dead_letters_purge_app" ON "dead_letters" ("app_id", "resolved_at") WHERE "resolution" <> 'handler_failed'"#,
        ]
    );
}

/// SQLite compares times as text: what the default prints and what the driver prints must sort as one.
#[tokio::test]
async fn sqlites_default_prints_a_time_as_the_driver_does() {
    let db = TestDb::sqlite().await;
    let default = "SELECT dflt_value FROM pragma_table_info('dead_letters') WHERE name = 'created_at'";
    let default = column::<String>(&db.db, default).await.remove(0);
    assert!(default.contains("'now'"), "{default}");
    for at in ["2026-03-01T10:00:00Z", "2026-03-01T10:00:00.500Z", "2026-03-01T10:00:00.007Z"] {
        let at: DateTime<Utc> = at.parse().unwrap();
        let printed = default.replace("'now'", &format!("'{}'", at.format("%F %T%.3f")));
        let printed = column::<String>(&db.db, &format!("SELECT {printed}")).await.remove(0);
        let driver = Statement::from_sql_and_values(DbBackend::Sqlite, "SELECT ?", [at.into()]);
        let driver: String = db.db.query_one_raw(driver).await.unwrap().unwrap().try_get_by_index(0).unwrap();
        assert_eq!(printed, driver);
    }
}
