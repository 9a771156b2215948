//! The schema, as each backend reports it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use dead_letters::{
    Attribution, DeadLetterRepo, DeadLetterResolve, NewDeadLetter, Resolution, entity::dead_letters as table,
};
use dead_letters_migration::Migrator;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, Statement, TransactionTrait,
    TryGetable,
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
async fn the_migrations_go_up_down_and_up_on_sqlite() {
    goes_up_down_and_up(TestDb::empty_sqlite().await).await;
}

#[tokio::test]
async fn the_migrations_go_up_down_and_up_on_postgres() {
    goes_up_down_and_up(TestDb::empty_postgres().await).await;
}

/// The last statement of the step fails: the index's name is taken.
async fn a_step_that_fails_leaves_nothing(db: TestDb) {
    db.execute("CREATE TABLE other (n integer)").await;
    db.execute("CREATE INDEX idx_dead_letters_run ON other (n)").await;
    Migrator::up(&db.db, None).await.unwrap_err();
    assert!(!has_table(&db.db).await);
    db.execute("DROP INDEX idx_dead_letters_run").await;
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

/// A row that has only what the table demands, with these columns set to SQL expressions.
async fn insert(db: &TestDb, columns: &[(&str, &str)]) -> Result<(), String> {
    let (id, now) = match db.db.get_database_backend() {
        DbBackend::Sqlite => ("randomblob(16)", "'2026-03-01T10:00:00+00:00'"),
        _ => ("gen_random_uuid()", "timestamptz '2026-03-01 10:00Z'"),
    };
    let mut row = BTreeMap::from([
        ("app_id", id),
        ("original_event_id", id),
        ("source", "'orders'"),
        ("op", "'insert'"),
        ("payload", "'{}'"),
        ("attempt_count", "1"),
        ("first_attempt_at", now),
        ("last_attempt_at", now),
        ("last_error", "''"),
    ]);
    row.extend(columns.iter().copied());
    if row.get("resolution").is_some_and(|resolution| *resolution != "NULL") {
        row.entry("resolved_at").or_insert(now);
    }
    let (names, values): (Vec<_>, Vec<_>) = row.into_iter().unzip();
    let sql = format!("INSERT INTO dead_letters ({}) VALUES ({})", names.join(", "), values.join(", "));
    db.db.execute_unprepared(&sql).await.map(drop).map_err(|error| error.to_string())
}

/// The database refuses each value, and its message contains the text.
async fn refuses(db: &TestDb, column: &str, values: &[&str], expected: &str) {
    for value in values {
        let refusal = insert(db, &[(column, value)]).await.expect_err(value);
        assert!(refusal.contains(expected), "{column} {value:.40}: {refusal}");
    }
}

async fn takes(db: &TestDb, column: &str, values: &[&str]) {
    for value in values {
        insert(db, &[(column, value)]).await.unwrap_or_else(|error| panic!("{column} {value:.40}: {error}"));
    }
}

async fn each_check_refuses_what_it_is_for(db: TestDb) {
    takes(&db, "attempt_count", &["0", "2147483647"]).await;
    refuses(&db, "attempt_count", &["-1"], "dead_letters_attempt_count_check").await;

    takes(&db, "payload_kind", &["'json'", "'text'", "'truncated'", "'erased'"]).await;
    refuses(&db, "payload_kind", &["'JSON'", "''", "'blob'"], "dead_letters_payload_kind_check").await;

    takes(&db, "signature_version", &["-32768", "0", "32767"]).await;

    takes(&db, "resolution", &["'replayed'", "'ignored'", "'handled_by_script'", "'handler_failed'"]).await;
    refuses(&db, "resolution", &["'Replayed'", "''"], "dead_letters_resolution_check").await;
    let resolved_at = match db.db.get_database_backend() {
        DbBackend::Sqlite => "'2026-03-01T10:00:00+00:00'",
        _ => "now()",
    };
    refuses(&db, "resolved_at", &[resolved_at], "dead_letters_resolved_check").await;
    let refusal = insert(&db, &[("resolution", "'ignored'"), ("resolved_at", "NULL")]).await.unwrap_err();
    assert!(refusal.contains("dead_letters_resolved_check"), "{refusal}");
}

#[tokio::test]
async fn each_check_refuses_what_it_is_for_on_sqlite() {
    each_check_refuses_what_it_is_for(TestDb::sqlite().await).await;
}

#[tokio::test]
async fn each_check_refuses_what_it_is_for_on_postgres() {
    each_check_refuses_what_it_is_for(TestDb::postgres().await).await;
}

/// An object of so many bytes, of characters that have one byte each or two.
fn object_of(bytes: usize, character: char) -> String {
    let text = character.to_string().repeat((bytes - r#"{"k":""}"#.len()) / character.len_utf8());
    format!(r#"'{{"k":"{text}"}}'"#)
}

/// PostgreSQL names a metadata's fault in its own words where the cast to jsonb fails.
async fn metadata_is_a_json_object_of_16_kb_at_most_without_nul(db: TestDb, not_json: &str, with_nul: &str) {
    let largest = [object_of(16_384, 'x'), object_of(16_384, '\u{e9}')];
    takes(&db, "metadata", &largest.each_ref().map(String::as_str)).await;
    let escaped_backslash = [r#"'{"k": "\\u0000"}'"#, r#"'{"\\u0000": "\\\\u0000"}'"#];
    takes(&db, "metadata", &escaped_backslash).await;
    takes(&db, "metadata", &["NULL", "'{}'", r#"'{"trace": "\u0001", "n": 1e400, "deep": [{}]}'"#]).await;

    const CHECK: &str = "dead_letters_metadata_check";
    refuses(&db, "metadata", &["'[]'", "'\"text\"'", "'null'", "'1'"], CHECK).await;
    let too_large = [object_of(16_385, 'x'), object_of(16_386, '\u{e9}')];
    refuses(&db, "metadata", &too_large.each_ref().map(String::as_str), CHECK).await;
    let nul = [r#"'{"k": "\u0000"}'"#, r#"'{"\u0000": 1}'"#, r#"'{"k": ["\\\u0000"]}'"#];
    refuses(&db, "metadata", &nul, with_nul).await;
    refuses(&db, "metadata", &["''", "'{'", "'{k: 1}'", r#"'{"k": 1,}'"#, "'{} {}'"], not_json).await;
}

#[tokio::test]
async fn metadata_is_a_json_object_of_16_kb_at_most_without_nul_on_sqlite() {
    let check = "dead_letters_metadata_check";
    metadata_is_a_json_object_of_16_kb_at_most_without_nul(TestDb::sqlite().await, check, check).await;
}

#[tokio::test]
async fn metadata_is_a_json_object_of_16_kb_at_most_without_nul_on_postgres() {
    metadata_is_a_json_object_of_16_kb_at_most_without_nul(
        TestDb::postgres().await,
        "invalid input syntax for type json",
        "unsupported Unicode escape sequence",
    )
    .await;
}

/// On PostgreSQL the types do so.
#[tokio::test]
async fn sqlite_refuses_values_of_other_types_and_numbers_that_are_out_of_range() {
    let db = TestDb::sqlite().await;
    for column in
        ["source", "payload", "replayed_payload", "metadata", "last_error", "group_key", "resolved_by"]
    {
        refuses(
            &db,
            column,
            &["x'7b7d'"],
            &format!("cannot store BLOB value in TEXT column dead_letters.{column}"),
        )
        .await;
    }
    for column in ["attempt_count", "signature_version"] {
        refuses(
            &db,
            column,
            &["'three'"],
            &format!("cannot store TEXT value in INTEGER column dead_letters.{column}"),
        )
        .await;
    }
    refuses(&db, "attempt_count", &["2147483648"], "dead_letters_attempt_count_check").await;
    refuses(&db, "signature_version", &["-32769", "32768"], "dead_letters_signature_version_check").await;
}

async fn another_writer_gets_an_id_and_a_time(db: TestDb) {
    insert(&db, &[]).await.unwrap();
    insert(&db, &[]).await.unwrap();
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

async fn all_steps_may_run_in_a_transaction_of_the_callers(db: TestDb) {
    for committed in [false, true] {
        let txn = db.db.begin().await.unwrap();
        ServiceMigrator::up(&txn, None).await.unwrap();
        if committed {
            txn.commit().await.unwrap();
        } else {
            txn.rollback().await.unwrap();
        }
        assert_eq!(has_table(&db.db).await, committed);
    }
    assert_eq!(ServiceMigrator::get_pending_migrations(&db.db).await.unwrap().len(), 0);
}

#[tokio::test]
async fn all_steps_may_run_in_a_transaction_of_the_callers_on_sqlite() {
    all_steps_may_run_in_a_transaction_of_the_callers(TestDb::empty_sqlite().await).await;
}

#[tokio::test]
async fn all_steps_may_run_in_a_transaction_of_the_callers_on_postgres() {
    all_steps_may_run_in_a_transaction_of_the_callers(TestDb::empty_postgres().await).await;
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
            payload_text: None,
            attempt_count: 1,
            first_attempt_at: Utc::now(),
            last_attempt_at: Utc::now(),
            last_error: text.clone(),
            error_signature: None,
            metadata: serde_json::Map::new(),
        };
        let id = db.repo().insert(letter).await.unwrap();
        let by = Attribution::by(text.clone()).note(text.clone());
        db.repo().resolve_once(app_id, id, Resolution::Ignored, &by).await.unwrap();
        let row = db.repo().get(id).await.unwrap().unwrap();
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
    let checks = column::<String>(&pool, checks).await;
    assert_eq!(
        checks,
        [
            "dead_letters_attempt_count_check CHECK ((attempt_count >= 0))",
            "dead_letters_metadata_check CHECK (((octet_length(metadata) <= 16384) AND \
             (jsonb_typeof((metadata)::jsonb) = 'object'::text)))",
            "dead_letters_payload_kind_check CHECK ((payload_kind = ANY ('{json,text,truncated,erased}'::text[])))",
            "dead_letters_pkey PRIMARY KEY (id)",
            "dead_letters_resolution_check CHECK ((resolution = ANY \
             ('{replayed,ignored,handled_by_script,handler_failed}'::text[])))",
            "dead_letters_resolved_check CHECK (((resolved_at IS NULL) = (resolution IS NULL)))",
            "dead_letters_times_check CHECK (('[\"0001-01-01 00:00:00+00\",\"10000-01-01 00:00:00+00\")'::tstzrange @> ALL \
             (ARRAY[first_attempt_at, last_attempt_at, created_at, resolved_at, erased_at])))",
        ]
    );
}

#[tokio::test]
async fn postgres_reports_the_indexes() {
    let db = TestDb::postgres().await;
    let indexes = "SELECT replace(indexdef, ' ON public.dead_letters USING btree', '') FROM pg_indexes
        WHERE tablename = 'dead_letters' ORDER BY indexname";
    let indexes = column::<String>(&db.db, indexes).await;
    // 15.20 prints one more pair of parentheses than 15.18.
    let time = "(created_at AT TIME ZONE 'UTC'::text)";
    let indexes: Vec<_> = indexes.iter().map(|index| index.replace(&format!("({time})"), time)).collect();
    assert_eq!(
        indexes,
        [
            "CREATE UNIQUE INDEX dead_letters_pkey (id)",
            "CREATE INDEX idx_dead_letters_app (app_id, created_at DESC, id DESC)",
            "CREATE INDEX idx_dead_letters_closed (app_id, resolved_at, id) \
             WHERE (COALESCE(resolution, ''::text) <> ALL (ARRAY[''::text, 'handler_failed'::text]))",
            "CREATE INDEX idx_dead_letters_gc ((created_at AT TIME ZONE 'UTC'::text), id)",
            "CREATE INDEX idx_dead_letters_handler_failed (app_id, created_at DESC, id DESC) \
             WHERE (COALESCE(resolution, ''::text) = 'handler_failed'::text)",
            "CREATE INDEX idx_dead_letters_replays (app_id, original_event_id) \
             WHERE (COALESCE(resolution, ''::text) = 'replayed'::text)",
            "CREATE INDEX idx_dead_letters_run (run_id, id) WHERE (run_id IS NOT NULL)",
            "CREATE INDEX idx_dead_letters_unresolved (app_id, created_at DESC, id DESC) \
             WHERE (COALESCE(resolution, ''::text) = ''::text)",
            "CREATE INDEX idx_dead_letters_unresolved_count (app_id) WHERE (resolved_at IS NULL)",
        ]
    );
}

const TIMES: [&str; 5] = ["first_attempt_at", "last_attempt_at", "created_at", "resolved_at", "erased_at"];

/// A resolved row with this time.
async fn insert_time(db: &TestDb, column: &str, time: &str) -> Result<(), String> {
    insert(db, &[("resolution", "'ignored'"), (column, time)]).await
}

#[tokio::test]
async fn postgres_reports_the_columns_their_types_and_defaults() {
    let db = TestDb::postgres().await;
    let columns =
        "SELECT column_name || ' ' || udt_name || CASE is_nullable WHEN 'NO' THEN ' NOT NULL' ELSE '' END
            || coalesce(' DEFAULT ' || column_default, '')
        FROM information_schema.columns WHERE table_name = 'dead_letters' ORDER BY ordinal_position";
    assert_eq!(
        column::<String>(&db.db, columns).await,
        [
            "id uuid NOT NULL DEFAULT gen_random_uuid()",
            "app_id uuid NOT NULL",
            "original_event_id uuid NOT NULL",
            "source text NOT NULL",
            "op text NOT NULL",
            "trigger_id uuid",
            "script_id uuid",
            "payload text NOT NULL",
            "payload_kind text NOT NULL DEFAULT 'json'::text",
            "replayed_payload text",
            "metadata text",
            "attempt_count int4 NOT NULL",
            // Every time has a zone.
            "first_attempt_at timestamptz NOT NULL",
            "last_attempt_at timestamptz NOT NULL",
            "last_error text NOT NULL",
            "error_signature text NOT NULL DEFAULT ''::text",
            "signature_version int2 NOT NULL DEFAULT 0",
            "group_key text NOT NULL DEFAULT ''::text",
            "created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP",
            "resolved_at timestamptz",
            "resolution text",
            "resolved_by text",
            "resolution_note text",
            "run_id uuid",
            "erased_at timestamptz",
        ]
    );
}

#[tokio::test]
async fn sqlite_reports_a_strict_table_its_columns_types_and_defaults() {
    let db = TestDb::sqlite().await;
    let strict = "SELECT strict FROM pragma_table_list WHERE name = 'dead_letters'";
    assert_eq!(column::<i64>(&db.db, strict).await, [1]);
    let columns = r#"SELECT name || ' ' || type || CASE "notnull" WHEN 1 THEN ' NOT NULL' ELSE '' END
            || coalesce(' DEFAULT ' || dflt_value, '')
        FROM pragma_table_xinfo('dead_letters') ORDER BY cid"#;
    assert_eq!(
        column::<String>(&db.db, columns).await,
        [
            "id BLOB NOT NULL DEFAULT (randomblob(16))",
            "app_id BLOB NOT NULL",
            "original_event_id BLOB NOT NULL",
            "source TEXT NOT NULL",
            "op TEXT NOT NULL",
            "trigger_id BLOB",
            "script_id BLOB",
            "payload TEXT NOT NULL",
            "payload_kind TEXT NOT NULL DEFAULT 'json'",
            "replayed_payload TEXT",
            "metadata TEXT",
            "attempt_count INTEGER NOT NULL",
            "first_attempt_at TEXT NOT NULL",
            "last_attempt_at TEXT NOT NULL",
            "last_error TEXT NOT NULL",
            "error_signature TEXT NOT NULL DEFAULT ''",
            "signature_version INTEGER NOT NULL DEFAULT 0",
            "group_key TEXT NOT NULL DEFAULT ''",
            "created_at TEXT NOT NULL DEFAULT (replace(strftime('%Y-%m-%dT%H:%M:%f+00:00','now'),'.000+','+'))",
            "resolved_at TEXT",
            "resolution TEXT",
            "resolved_by TEXT",
            "resolution_note TEXT",
            "run_id BLOB",
            "erased_at TEXT",
        ]
    );
}

/// It reports them in the table's definition alone. Other tests check what each constraint refuses.
#[tokio::test]
async fn sqlite_reports_the_names_of_the_checks() {
    let db = TestDb::sqlite().await;
    let definition = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = 'dead_letters'";
    let definition = column::<String>(&db.db, definition).await.remove(0);
    let checks: Vec<_> = definition
        .split("CONSTRAINT \"dead_letters_")
        .skip(1)
        .map(|check| check.split_once("_check").unwrap().0)
        .collect();
    assert_eq!(
        checks,
        [
            "payload_kind",
            "resolution",
            "resolved",
            "metadata",
            "attempt_count",
            "signature_version",
            "first_attempt_at",
            "last_attempt_at",
            "created_at",
            "resolved_at",
            "erased_at",
            "id",
            "app_id",
            "original_event_id",
            "trigger_id",
            "script_id",
            "run_id",
        ]
    );
    assert_eq!(definition.matches("CHECK").count(), checks.len());
}

/// Until ANALYZE has run, PostgreSQL knows nothing of an app that is new.
#[tokio::test]
async fn postgres_reports_that_the_table_is_analyzed_sooner_than_by_default() {
    let db = TestDb::postgres().await;
    let options = "SELECT unnest(reloptions) FROM pg_class WHERE oid = 'dead_letters'::regclass";
    assert_eq!(
        column::<String>(&db.db, options).await,
        ["autovacuum_analyze_scale_factor=0.01", "autovacuum_analyze_threshold=1000"]
    );
}

#[tokio::test]
async fn sqlite_has_the_same_indexes_with_a_plain_one_for_gc() {
    let db = TestDb::sqlite().await;
    let indexes = "SELECT replace(replace(sql, '\"', ''), ' ON dead_letters', '') FROM sqlite_schema
        WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = 'dead_letters' ORDER BY name";
    assert_eq!(
        column::<String>(&db.db, indexes).await,
        [
            "CREATE INDEX idx_dead_letters_app (app_id, created_at DESC, id DESC)",
            "CREATE INDEX idx_dead_letters_closed (app_id, resolved_at, id) \
             WHERE COALESCE(resolution, '') NOT IN ('', 'handler_failed')",
            "CREATE INDEX idx_dead_letters_gc (created_at, id)",
            "CREATE INDEX idx_dead_letters_handler_failed (app_id, created_at DESC, id DESC) \
             WHERE COALESCE(resolution, '') = 'handler_failed'",
            "CREATE INDEX idx_dead_letters_replays (app_id, original_event_id) \
             WHERE COALESCE(resolution, '') = 'replayed'",
            "CREATE INDEX idx_dead_letters_run (run_id, id) WHERE run_id IS NOT NULL",
            "CREATE INDEX idx_dead_letters_unresolved (app_id, created_at DESC, id DESC) \
             WHERE COALESCE(resolution, '') = ''",
            "CREATE INDEX idx_dead_letters_unresolved_count (app_id) WHERE resolved_at IS NULL",
        ]
    );
}

#[tokio::test]
async fn the_history_has_indexes_of_letters_runs_batches_and_the_newest_on_both() {
    let on_sqlite = "SELECT replace(sql, '\"', '') FROM sqlite_schema
        WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = 'dead_letter_actions' ORDER BY name";
    let on_postgres =
        "SELECT replace(replace(replace(indexdef, ' USING btree', ''), 'public.', ''), '))', ')')
        FROM pg_indexes WHERE tablename = 'dead_letter_actions' AND indexname LIKE 'idx%' ORDER BY indexname";
    for (db, indexes) in [(TestDb::sqlite().await, on_sqlite), (TestDb::postgres().await, on_postgres)] {
        let found = column::<String>(&db.db, indexes).await;
        let found: Vec<_> =
            found.iter().map(|index| index.replace("WHERE (", "WHERE ").replace("NULL)", "NULL")).collect();
        assert_eq!(
            found,
            [
                "CREATE UNIQUE INDEX idx_dead_letter_actions_batch ON dead_letter_actions (app_id, run_id, batch) \
                 WHERE batch IS NOT NULL",
                "CREATE INDEX idx_dead_letter_actions_letter ON dead_letter_actions (app_id, letter_id, id) \
                 WHERE letter_id IS NOT NULL",
                "CREATE INDEX idx_dead_letter_actions_newest ON dead_letter_actions (created_at, id)",
                "CREATE INDEX idx_dead_letter_actions_run ON dead_letter_actions (app_id, run_id, id) \
                 WHERE run_id IS NOT NULL",
            ]
        );
    }
}

#[tokio::test]
async fn the_announcements_have_an_index_of_the_pending_ones_and_one_of_the_others_on_both() {
    let on_sqlite = "SELECT replace(sql, '\"', '') FROM sqlite_schema
        WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = 'dead_letter_announcements' ORDER BY name";
    let on_postgres = "SELECT replace(replace(replace(indexdef, ' USING btree', ''), 'public.', ''), '))', ')')
        FROM pg_indexes WHERE tablename = 'dead_letter_announcements' AND indexname LIKE 'idx%' ORDER BY indexname";
    for (db, indexes) in [(TestDb::sqlite().await, on_sqlite), (TestDb::postgres().await, on_postgres)] {
        let found = column::<String>(&db.db, indexes).await;
        let found: Vec<_> =
            found.iter().map(|index| index.replace("WHERE (", "WHERE ").replace("NULL)", "NULL")).collect();
        assert_eq!(
            found,
            [
                "CREATE INDEX idx_dead_letter_announcements_announced ON dead_letter_announcements (announced_at) \
                 WHERE announced_at IS NOT NULL",
                "CREATE INDEX idx_dead_letter_announcements_pending ON dead_letter_announcements (first_seen) \
                 WHERE announced_at IS NULL",
            ]
        );
    }
}

#[tokio::test]
async fn the_history_refuses_what_no_call_writes_on_both() {
    for db in [TestDb::sqlite().await, TestDb::postgres().await] {
        let id = match db.db.get_database_backend() {
            DbBackend::Sqlite => "randomblob(16)",
            _ => "gen_random_uuid()",
        };
        let insert = async |action: &str, letter_id: &str, filter: &str, letters: &str| {
            let row = format!("{id}, {id}, '{action}', {letter_id}, {filter}, {letters}");
            let columns = "app_id, id, action, letter_id, filter, letters";
            let insert = format!("INSERT INTO dead_letter_actions ({columns}) VALUES ({row})");
            db.db.execute_unprepared(&insert).await.map(drop).map_err(|error| error.to_string())
        };
        for action in ["resolve", "replay", "reopen", "edit", "delete", "erase", "reveal"] {
            insert(action, id, "NULL", "1").await.unwrap();
        }
        insert("resolve", "NULL", "''", "1000").await.unwrap();
        for (action, letter_id, filter, letters, check) in [
            ("other", id, "NULL", "1", "dead_letter_actions_action_check"),
            ("resolve", "NULL", "NULL", "1", "dead_letter_actions_target_check"),
            ("resolve", id, "''", "1", "dead_letter_actions_target_check"),
            ("resolve", id, "NULL", "0", "dead_letter_actions_letters_check"),
        ] {
            let refusal = insert(action, letter_id, filter, letters).await.unwrap_err();
            assert!(refusal.contains(check), "{refusal}");
        }
    }
}

#[tokio::test]
async fn postgres_refuses_times_outside_the_years_1_to_9999() {
    let db = TestDb::postgres().await;
    for column in TIMES {
        for inside in ["0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00"] {
            insert_time(&db, column, &format!("'{inside}'")).await.unwrap();
        }
        for outside in [
            "infinity",
            "-infinity",
            "0001-12-31 23:59:59.999999+00 BC",
            "10000-01-01 00:00:00+00",
            "294276-12-31",
        ] {
            let refusal = insert_time(&db, column, &format!("'{outside}'")).await.unwrap_err();
            assert!(refusal.contains("dead_letters_times_check"), "{outside}: {refusal}");
        }
    }
    // And the driver reads the outermost.
    assert_eq!(table::Entity::find().all(&db.db).await.unwrap().len(), 2 * TIMES.len());
}

#[tokio::test]
async fn sqlite_refuses_a_time_that_the_driver_would_not_print_and_names_the_format() {
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
            insert_time(&db, column, &format!("'{time}'")).await.unwrap();
        }
        let values = not_printed.map(|time| format!("'{time}'"));
        for value in values.iter().map(String::as_str).chain(["1772359201", "2461101.5"]) {
            let refusal = insert_time(&db, column, value).await.expect_err(value);
            let format = format!("dead_letters_{column}_check: UTC as 2026-03-01T10:00:00[.123[456]]+00:00");
            assert!(refusal.contains(&format), "{value}: {refusal}");
        }
        let blob = insert_time(&db, column, "CAST('2026-03-01T10:00:00+00:00' AS BLOB)").await.unwrap_err();
        assert!(blob.contains("cannot store BLOB value in TEXT column"), "{blob}");
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
async fn sqlite_refuses_an_id_that_is_no_blob_of_16_bytes_and_names_the_format() {
    let db = TestDb::sqlite().await;
    for column in ["id", "app_id", "original_event_id", "trigger_id", "script_id", "run_id"] {
        takes(&db, column, &["x'0123456789abcdef0123456789abcdef'"]).await;
        let format = format!("dead_letters_{column}_check: a uuid as a blob of 16 bytes");
        refuses(&db, column, &["x'0123'", "x''"], &format).await;
        let texts = ["'01234567-89ab-cdef-0123-456789abcdef'", "'0123456789abcdef'"];
        let column_of_blobs = format!("value in BLOB column dead_letters.{column}");
        refuses(&db, column, &texts, &column_of_blobs).await;
        refuses(&db, column, &["17"], &column_of_blobs).await;
    }
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
