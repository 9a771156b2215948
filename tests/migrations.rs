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

async fn number(db: &TestDb, sql: &str) -> i64 {
    column(&db.db, sql).await.remove(0)
}

/// Up to this step, and not further.
async fn up_to(db: &TestDb, last: &str) {
    let steps = Migrator::migrations();
    let count = steps.iter().position(|step| step.name().ends_with(last)).unwrap() + 1;
    let applied = Migrator::get_applied_migrations(&db.db).await.unwrap().len();
    Migrator::up(&db.db, Some((count - applied) as u32)).await.unwrap();
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
    Migrator::down(&db.db, Some(Migrator::migrations().len() as u32 - 1)).await.unwrap();
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
async fn postgres_reports_the_checks_all_of_them_valid() {
    let db = TestDb::postgres().await;
    // Times are printed in the session's zone, and 18 lists each NOT NULL as well.
    db.execute(
        "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET TimeZone TO UTC', current_database()); END$$",
    )
    .await;
    let pool = db.connect_with(|_| ()).await;
    let checks = "SELECT conname || ' ' || pg_get_constraintdef(oid) || CASE WHEN convalidated THEN '' ELSE '!' END
        FROM pg_constraint WHERE conrelid = 'dead_letters'::regclass AND contype IN ('c', 'p') ORDER BY conname";
    let of_time = |column| {
        format!(
            "dead_letters_{column}_check CHECK ((({column} >= '0001-01-01 00:00:00+00'::timestamp with time zone) \
             AND ({column} < '10000-01-01 00:00:00+00'::timestamp with time zone)))"
        )
    };
    let checks = column::<String>(&pool, checks).await;
    assert_eq!(
        checks,
        [
            "dead_letters_attempt_count_check CHECK ((attempt_count >= 0))",
            &of_time("created_at"),
            &of_time("first_attempt_at"),
            &of_time("last_attempt_at"),
            "dead_letters_pkey PRIMARY KEY (id)",
            "dead_letters_resolution_check CHECK ((resolution = ANY (ARRAY['replayed'::text, 'ignored'::text, \
             'handled_by_script'::text, 'handler_failed'::text])))",
            &of_time("resolved_at"),
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
            "CREATE INDEX idx_dead_letters_app_resolved (app_id, created_at DESC, id DESC) WHERE (resolved_at IS NOT NULL)",
            "CREATE INDEX idx_dead_letters_app_unresolved (app_id, created_at DESC, id DESC) WHERE (resolved_at IS NULL)",
            "CREATE INDEX idx_dead_letters_gc ((created_at AT TIME ZONE 'UTC'::text))",
            "CREATE INDEX idx_dead_letters_purge ((resolved_at AT TIME ZONE 'UTC'::text)) WHERE (resolution <> 'handler_failed'::text)",
            "CREATE INDEX idx_dead_letters_purge_app (app_id, resolved_at) WHERE (resolution <> 'handler_failed'::text)",
            "CREATE INDEX idx_dead_letters_replays (app_id, original_event_id) \
             WHERE (COALESCE(resolution, ''::text) = 'replayed'::text)",
        ]
    );
}

const TIMES: [&str; 4] = ["first_attempt_at", "last_attempt_at", "created_at", "resolved_at"];

/// A settled row that is right but for this.
fn row_with(backend: DbBackend, column: &str, value: &str) -> String {
    let (id, now) = match backend {
        DbBackend::Sqlite => ("randomblob(16)", "'2026-03-01T10:00:00+00:00'"),
        _ => ("gen_random_uuid()", "now()"),
    };
    let row = [
        ("id", id),
        ("app_id", id),
        ("original_event_id", id),
        ("trigger_id", "NULL"),
        ("script_id", "NULL"),
        ("source", "''"),
        ("op", "''"),
        ("payload", "'{}'"),
        ("attempt_count", "1"),
        ("first_attempt_at", now),
        ("last_attempt_at", now),
        ("last_error", "''"),
        ("created_at", now),
        ("resolved_at", now),
        ("resolution", "'ignored'"),
    ];
    let values = row.map(|(name, usual)| if name == column { value } else { usual });
    format!(
        "INSERT INTO dead_letters ({}) VALUES ({})",
        row.map(|(name, _)| name).join(", "),
        values.join(", ")
    )
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
            r#"CREATE INDEX "idx_dead_letters_app_resolved" ON "dead_letters" ("app_id", "created_at" DESC, "id" DESC) WHERE "resolved_at" IS NOT NULL"#,
            r#"CREATE INDEX "idx_dead_letters_app_unresolved" ON "dead_letters" ("app_id", "created_at" DESC, "id" DESC) WHERE "resolved_at" IS NULL"#,
            r#"CREATE INDEX "idx_dead_letters_gc" ON "dead_letters" ("created_at")"#,
            r#"CREATE INDEX "idx_dead_letters_purge" ON "dead_letters" ("resolved_at") WHERE "resolution" <> 'handler_failed'"#,
            r#"CREATE INDEX "idx_dead_letters_purge_app" ON "dead_letters" ("app_id", "resolved_at") WHERE "resolution" <> 'handler_failed'"#,
            r#"CREATE INDEX "idx_dead_letters_replays" ON "dead_letters" ("app_id", "original_event_id") WHERE COALESCE("resolution", '') = 'replayed'"#,
        ]
    );
}

#[tokio::test]
async fn postgres_refuses_times_outside_the_years_1_to_9999() {
    let db = TestDb::postgres().await;
    for column in TIMES {
        for inside in ["0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00"] {
            db.execute(&row_with(DbBackend::Postgres, column, &format!("'{inside}'"))).await;
        }
        for outside in [
            "infinity",
            "-infinity",
            "0001-12-31 23:59:59.999999+00 BC",
            "10000-01-01 00:00:00+00",
            "294276-12-31",
        ] {
            let row = row_with(DbBackend::Postgres, column, &format!("'{outside}'"));
            let refusal = db.db.execute_unprepared(&row).await.unwrap_err().to_string();
            assert!(refusal.contains(&format!("dead_letters_{column}_check")), "{outside}: {refusal}");
        }
    }
    // And the driver reads the outermost.
    assert_eq!(table::Entity::find().all(&db.db).await.unwrap().len(), 8);
}

#[tokio::test]
async fn times_outside_become_the_nearest_inside_and_other_rows_are_not_touched_on_postgres() {
    let db = TestDb::empty_postgres().await;
    up_to(&db, "index_purge").await;
    db.execute(&row_with(DbBackend::Postgres, "source", "'right'")).await;
    db.execute(&minimal_row(DbBackend::Postgres, "1", "NULL", "NULL").replace("'orders'", "'right'")).await;
    // Where a row stands, and who wrote it.
    let right = "SELECT ctid::text || xmin::text FROM dead_letters WHERE source = 'right' ORDER BY ctid";
    let before: Vec<String> = column(&db.db, right).await;
    for column in TIMES {
        for outside in ["infinity", "-infinity"] {
            db.execute(&row_with(DbBackend::Postgres, column, &format!("'{outside}'"))).await;
        }
    }
    Migrator::up(&db.db, None).await.unwrap();
    assert_eq!(column::<String>(&db.db, right).await, before);
    let rows = table::Entity::find().all(&db.db).await.unwrap();
    assert_eq!(rows.len(), 10);
    for (time, count) in [("0001-01-01T00:00:00Z", 4), ("9999-12-31T23:59:59.999999Z", 4)] {
        let time: DateTime<Utc> = time.parse().unwrap();
        let times = rows.iter().flat_map(|row| {
            [Some(row.first_attempt_at), Some(row.last_attempt_at), Some(row.created_at), row.resolved_at]
        });
        assert_eq!(times.flatten().filter(|at| at.to_utc() == time).count(), count, "{time}");
    }
}

#[tokio::test]
async fn sqlite_refuses_a_time_that_the_driver_would_not_print_and_says_the_format() {
    let db = TestDb::sqlite().await;
    let printed = [
        "2026-03-01T10:00:00+00:00",
        "2026-03-01T10:00:00.130+00:00",
        "2026-03-01T10:00:00.000001+00:00",
        "2024-02-29T23:59:59.999999+00:00",
        "0001-01-01T00:00:00+00:00",
        "9999-12-31T23:59:59.999999+00:00",
    ];
    let not_printed = [
        "2026-03-01 10:00:00",
        "2026-03-01 10:00:00+00:00",
        "2026-03-01T10:00:00",
        "2026-03-01T10:00:00Z",
        "2026-03-01T10:00:00-00:00",
        "2026-03-01T10:00:00+02:00",
        "2026-03-01T10:00:00.130000+00:00",
        "2026-03-01T10:00:00.000+00:00",
        "2026-03-01T10:00:00.000000+00:00",
        "2026-03-01T10:00:00.13+00:00",
        "2026-03-01T10:00:00.1300+00:00",
        "2026-03-01T10:00:00.000000001+00:00",
        "2026-03-01T10:00:00.+00:00",
        "2026-03-01T10:00:00.12x+00:00",
        "2026-02-30T10:00:00+00:00",
        "2026-02-29T10:00:00+00:00",
        "2026-13-01T10:00:00+00:00",
        "2026-03-01T24:00:00+00:00",
        "2026-03-01T10:00:60+00:00",
        "0000-12-31T23:59:59+00:00",
        "10000-01-01T00:00:00+00:00",
        " 2026-03-01T10:00:00+00:00",
        "2026-03-01T10:00:00+00:00 ",
        "2026-03-01T10:00:00+00:00+00:00",
        "1772359201",
        "now",
        "yesterday",
        "",
    ];
    for column in TIMES {
        for time in printed {
            db.execute(&row_with(DbBackend::Sqlite, column, &format!("'{time}'"))).await;
        }
        let values = not_printed.map(|time| format!("'{time}'"));
        let of_other_types = ["1772359201", "2461101.5", "CAST('2026-03-01T10:00:00+00:00' AS BLOB)"];
        for value in values.iter().map(String::as_str).chain(of_other_types) {
            let row = row_with(DbBackend::Sqlite, column, value);
            let refusal = db.db.execute_unprepared(&row).await.expect_err(value).to_string();
            let format = format!("dead_letters_{column}_check: UTC as 2026-03-01T10:00:00[.123[456]]+00:00");
            assert!(refusal.contains(&format), "{value}: {refusal}");
        }
    }
    assert_eq!(db.row_count().await as usize, TIMES.len() * printed.len());
    // The driver prints each one as it stands there.
    for time in printed {
        let at: DateTime<Utc> = time.parse().unwrap();
        let driver = Statement::from_sql_and_values(DbBackend::Sqlite, "SELECT ?", [at.into()]);
        let driver: String = db.db.query_one_raw(driver).await.unwrap().unwrap().try_get_by_index(0).unwrap();
        assert_eq!(driver, time);
    }
}

#[tokio::test]
async fn sqlite_refuses_an_id_that_is_no_blob_of_16_bytes_and_says_so() {
    let db = TestDb::sqlite().await;
    for column in ["id", "app_id", "original_event_id", "trigger_id", "script_id"] {
        db.execute(&row_with(DbBackend::Sqlite, column, "x'0123456789abcdef0123456789abcdef'")).await;
        for value in ["'01234567-89ab-cdef-0123-456789abcdef'", "x'0123'", "'0123456789abcdef'", "17"] {
            let row = row_with(DbBackend::Sqlite, column, value);
            let refusal = db.db.execute_unprepared(&row).await.unwrap_err().to_string();
            let format = format!("dead_letters_{column}_check: a uuid as a blob of 16 bytes");
            assert!(refusal.contains(&format), "{value}: {refusal}");
        }
    }
}

#[tokio::test]
async fn sqlites_step_rewrites_the_times_that_it_can_read() {
    let db = TestDb::empty_sqlite().await;
    up_to(&db, "validate_times").await;
    let cases = [
        ("2026-03-01T10:00:00+00:00", "2026-03-01T10:00:00+00:00"),
        ("2026-03-01T10:00:00.123456+00:00", "2026-03-01T10:00:00.123456+00:00"),
        ("2026-03-01 10:00:00", "2026-03-01T10:00:00+00:00"),
        ("2026-03-01 10:00:00.5", "2026-03-01T10:00:00.500+00:00"),
        ("2026-03-01T10:00:00Z", "2026-03-01T10:00:00+00:00"),
        ("2026-03-01t10:00:00z", "2026-03-01T10:00:00+00:00"),
        ("2026-03-01 10:00:00 UTC", "2026-03-01T10:00:00+00:00"),
        ("2026-03-01T10:00:00.130000+00:00", "2026-03-01T10:00:00.130+00:00"),
        ("2026-03-01T10:00:00.000000+00:00", "2026-03-01T10:00:00+00:00"),
        ("2026-03-01T10:00:00.000001Z", "2026-03-01T10:00:00.000001+00:00"),
        ("2026-03-01T10:00:00.999999999Z", "2026-03-01T10:00:00.999999+00:00"),
        ("2026-03-01T12:30:00.25+02:30", "2026-03-01T10:00:00.250+00:00"),
        ("2026-02-28T23:00:00-02:00", "2026-03-01T01:00:00+00:00"),
        ("2026-03-01 10:00:00.123456+00", "2026-03-01T10:00:00.123456+00:00"),
        ("2026-03-01 12:00:00+0200", "2026-03-01T10:00:00+00:00"),
        ("2026-03-01 10:00", "2026-03-01T10:00:00+00:00"),
        ("2026-03-01T12:00+02:00", "2026-03-01T10:00:00+00:00"),
        (" 2026-03-01 10:00:00 ", "2026-03-01T10:00:00+00:00"),
        ("2026-03-01", "2026-03-01T00:00:00+00:00"),
        ("2026-02-28T24:00:00Z", "2026-03-01T00:00:00+00:00"),
        ("1772359201", "2026-03-01T10:00:01+00:00"),
        ("0000-06-01T00:00:00+00:00", "0001-01-01T00:00:00+00:00"),
        ("0001-01-01T00:00:00+01:00", "0001-01-01T00:00:00+00:00"),
    ];
    for column in TIMES {
        db.execute("DELETE FROM dead_letters").await;
        for (written, _) in cases {
            db.execute(&row_with(DbBackend::Sqlite, column, &format!("'{written}'"))).await;
        }
        up_to(&db, "check_formats").await;
        let rewritten = format!("SELECT {column} FROM dead_letters ORDER BY rowid");
        assert_eq!(self::column::<String>(&db.db, &rewritten).await, cases.map(|(_, rewritten)| rewritten));
        assert_eq!(table::Entity::find().all(&db.db).await.unwrap().len(), cases.len());
        Migrator::down(&db.db, Some(1)).await.unwrap();
    }
}

#[tokio::test]
async fn sqlites_step_sets_a_time_that_it_cant_read_to_created_at_and_that_to_now() {
    let db = TestDb::empty_sqlite().await;
    up_to(&db, "validate_times").await;
    let unreadable = [
        "yesterday",
        "",
        "now",
        "10:00",
        "12",
        "2026-02-30T10:00:00+00:00",
        "2026-02-30",
        "2026-03-01T10:00:61Z",
        "2026-03-01T10:00:00 Europe/Berlin",
        "10000-01-01T00:00:00+00:00",
        "infinity",
    ];
    for column in TIMES {
        for written in unreadable {
            db.execute(&row_with(DbBackend::Sqlite, column, &format!("'{written}'"))).await;
        }
    }
    Migrator::up(&db.db, None).await.unwrap();
    let rows = table::Entity::find().all(&db.db).await.unwrap();
    assert_eq!(rows.len(), TIMES.len() * unreadable.len());
    let created: DateTime<Utc> = "2026-03-01T10:00:00Z".parse().unwrap();
    for row in &rows {
        let created_now = (Utc::now() - row.created_at.to_utc()).abs() < chrono::Duration::minutes(1);
        assert!(created_now || row.created_at == created);
        for at in [row.first_attempt_at, row.last_attempt_at, row.resolved_at.unwrap()] {
            assert_eq!(at, created);
        }
    }
    assert_eq!(rows.iter().filter(|row| row.created_at == created).count(), 3 * unreadable.len());
}

#[tokio::test]
async fn sqlites_step_makes_blobs_of_ids_and_loses_no_row() {
    let db = TestDb::empty_sqlite().await;
    up_to(&db, "validate_times").await;
    let uuid = uuid::Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    let written = [
        "x'0123456789abcdef0123456789abcdef'",
        "'01234567-89ab-cdef-0123-456789abcdef'",
        "'01234567-89AB-CDEF-0123-456789ABCDEF'",
        "'0123456789abcdef0123456789abcdef'",
        "CAST('0123456789abcdef0123456789abcdef' AS BLOB)",
    ];
    let unreadable = ["'acme'", "17", "x'0123'", "''"];
    for column in ["id", "app_id", "original_event_id", "trigger_id", "script_id"] {
        for value in written.iter().chain(&unreadable) {
            db.execute(&row_with(DbBackend::Sqlite, column, value)).await;
        }
    }
    Migrator::up(&db.db, None).await.unwrap();
    let rows = table::Entity::find().all(&db.db).await.unwrap();
    assert_eq!(rows.len(), 5 * (written.len() + unreadable.len()));
    let of =
        |uuids: Vec<Option<uuid::Uuid>>, wanted| uuids.into_iter().filter(|uuid| *uuid == wanted).count();
    let nil = uuid::Uuid::nil();
    // The row that had it first keeps it.
    assert_eq!(of(rows.iter().map(|row| Some(row.id)).collect(), Some(uuid)), 1);
    for ids in [
        rows.iter().map(|row| Some(row.app_id)).collect::<Vec<_>>(),
        rows.iter().map(|row| Some(row.original_event_id)).collect(),
    ] {
        assert_eq!((of(ids.clone(), Some(uuid)), of(ids, Some(nil))), (written.len(), unreadable.len()));
    }
    for ids in [
        rows.iter().map(|row| row.trigger_id).collect::<Vec<_>>(),
        rows.iter().map(|row| row.script_id).collect(),
    ] {
        assert_eq!((of(ids.clone(), Some(uuid)), of(ids, None)), (written.len(), rows.len() - written.len()));
    }
}

/// A table with what a service may have put beside it.
async fn sqlite_with_a_services_additions() -> TestDb {
    let db = TestDb::empty_sqlite().await;
    up_to(&db, "validate_times").await;
    for sql in [
        "ALTER TABLE dead_letters ADD COLUMN team text DEFAULT 'billing'",
        "CREATE INDEX by_team ON dead_letters (team)",
        "CREATE TABLE log (n integer)",
        "CREATE TRIGGER logged AFTER INSERT ON dead_letters BEGIN INSERT INTO log VALUES (1); END",
        "CREATE VIEW teams AS SELECT team, count(*) AS letters FROM dead_letters GROUP BY team",
        "CREATE TABLE outbox (id integer)",
        "CREATE TRIGGER swept AFTER DELETE ON outbox BEGIN DELETE FROM dead_letters WHERE team = 'none'; END",
    ] {
        db.execute(sql).await;
    }
    db.execute(&row_with(DbBackend::Sqlite, "created_at", "'2026-03-01 10:00:00'")).await;
    db
}

/// Its name, type and definition, of everything.
async fn schema(db: &TestDb) -> Vec<String> {
    let schema = "SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema
        WHERE name <> 'dead_letters' ORDER BY type, name";
    column(&db.db, schema).await
}

#[tokio::test]
async fn sqlites_step_keeps_columns_indexes_triggers_and_views_of_others_up_and_down() {
    let db = sqlite_with_a_services_additions().await;
    let columns = "SELECT name || type || \"notnull\" || pk || coalesce(dflt_value, '') FROM pragma_table_info('dead_letters')";
    let definition = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = 'dead_letters'";
    let (before, columns_before) = (schema(&db).await, column::<String>(&db.db, columns).await);
    let definition_before = column::<String>(&db.db, definition).await;
    up_to(&db, "check_formats").await;
    assert_eq!(schema(&db).await, before);
    assert_eq!(column::<String>(&db.db, columns).await, columns_before);
    for check in ["attempt_count", "resolution", "resolved", "created_at", "app_id"] {
        assert!(
            column::<String>(&db.db, definition).await[0].contains(&format!("dead_letters_{check}_check"))
        );
    }
    assert_eq!(column::<String>(&db.db, "SELECT team FROM teams WHERE letters = 1").await, ["billing"]);
    assert_eq!(number(&db, "SELECT count(*) FROM log").await, 1);
    db.execute("DELETE FROM outbox").await;

    Migrator::down(&db.db, Some(1)).await.unwrap();
    assert_eq!(schema(&db).await, before);
    assert_eq!(column::<String>(&db.db, definition).await, definition_before);
    assert_eq!(db.row_count().await, 1);
}

/// SQLite deletes the rows that refer to a table with the table.
#[tokio::test]
async fn sqlites_step_refuses_a_table_that_others_refer_to_while_their_rows_would_go() {
    let db = sqlite_with_a_services_additions().await;
    db.execute("CREATE TABLE notes (letter blob REFERENCES dead_letters (id) ON DELETE CASCADE)").await;
    db.execute("INSERT INTO notes SELECT id FROM dead_letters").await;
    let refusal = Migrator::up(&db.db, None).await.unwrap_err().to_string();
    assert!(refusal.contains("notes refers to dead_letters"), "{refusal}");
    let pool = db
        .connect_with(|options| {
            options.map_sqlx_sqlite_opts(|sqlite| sqlite.foreign_keys(false));
        })
        .await;
    Migrator::up(&pool, None).await.unwrap();
    assert_eq!(number(&db, "SELECT count(*) FROM notes JOIN dead_letters ON id = letter").await, 1);
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
