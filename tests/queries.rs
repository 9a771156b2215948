//! Query plans of the statements that the repo really sends, over enough skewed rows that a wrong one would show.

use chrono::{DateTime, Utc};
use dead_letters::{AppId, DeadLetterId, DeadLetterRepo, SeaOrmDeadLetterRepo};
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, Statement, TransactionTrait,
    sea_query::{PostgresQueryBuilder, QueryBuilder},
};
use uuid::Uuid;

use crate::database::{Recorded, TestDb};

/// The app with 600,000 rows, and the one with 400,000 that are all newer.
fn apps() -> [AppId; 2] {
    [Uuid::from_u128(1).into(), Uuid::from_u128(2).into()]
}

/// When a tenth of the older app's rows are due.
fn cutoff() -> DateTime<Utc> {
    "2026-01-01T16:40:00Z".parse().unwrap()
}

/// One row a second from 2026-01-01, nine in ten of them resolved.
async fn fill(db: &TestDb, scale: u32) {
    let (generate, id, time) = if db.db.get_database_backend() == DbBackend::Sqlite {
        (
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {total})",
            "unhex(printf('%032d', CASE WHEN n <= {older} THEN 1 ELSE 2 END))",
            "strftime('%Y-%m-%dT%H:%M:%S+00:00', '2026-01-01', n || ' seconds')",
        )
    } else {
        (
            "WITH numbers (n) AS (SELECT generate_series(1, {total}))",
            "lpad(CASE WHEN n <= {older} THEN '1' ELSE '2' END, 32, '0')::uuid",
            "timestamptz '2026-01-01Z' + n * interval '1 second'",
        )
    };
    let insert = "\
        {generate}
        INSERT INTO dead_letters (app_id, original_event_id, source, op, payload, attempt_count,
            first_attempt_at, last_attempt_at, last_error, created_at, resolved_at, resolution)
        SELECT {id}, {id}, 'orders', 'insert', '{}', 5, {time}, {time}, 'smtp: 451', {time},
            CASE WHEN n % 10 > 0 THEN {time} END, CASE WHEN n % 10 > 0 THEN 'ignored' END
        FROM numbers"
        .replace("{generate}", generate)
        .replace("{id}", id)
        .replace("{time}", time)
        .replace("{total}", &(scale * 10).to_string())
        .replace("{older}", &(scale * 6).to_string());
    db.execute(&insert).await;
}

async fn some_id(db: &TestDb) -> DeadLetterId {
    db.repo().list_for_app(apps()[0], false, 1, 0).await.unwrap()[0].id
}

/// Every statement of the repo on the table, each beside the index that it must use.
async fn statements(db: &TestDb) -> Vec<(Statement, &'static str)> {
    let id = some_id(db).await;
    let (recording, recorded) = db.connect_recorded().await;
    let repo = SeaOrmDeadLetterRepo::new(recording);
    let mut statements = Vec::new();
    let mut expect = |recorded: &Recorded, index| {
        let sent = recorded.take();
        assert_eq!(sent.len(), 1, "{sent:?}");
        statements.extend(sent.into_iter().map(|statement| (statement, index)));
    };
    for app in apps() {
        repo.list_for_app(app, false, 50, 0).await.unwrap();
        expect(&recorded, "idx_dead_letters_app");
        repo.list_for_app(app, true, 50, 100).await.unwrap();
        expect(&recorded, "idx_dead_letters_app_unresolved");
        repo.unresolved_count(app).await.unwrap();
        expect(&recorded, "idx_dead_letters_app_unresolved");
    }
    repo.get(id).await.unwrap();
    expect(&recorded, "dead_letters_pkey");
    repo.resolve(id, "ignored").await.unwrap();
    expect(&recorded, "dead_letters_pkey");
    // A sweep with much to do, and an idle one. What the first deletes stays away, which changes no plan.
    repo.gc(cutoff(), 1_000).await.unwrap();
    expect(&recorded, "idx_dead_letters_gc");
    repo.gc(DateTime::UNIX_EPOCH, 1_000).await.unwrap();
    expect(&recorded, "idx_dead_letters_gc");
    statements
}

async fn lines(txn: &DatabaseTransaction, statement: Statement) -> String {
    let rows = txn.query_all_raw(statement).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index::<String>(0).unwrap() + "\n").collect()
}

/// As the statement is planned with its values.
async fn custom_plan(txn: &DatabaseTransaction, statement: &Statement) -> String {
    let mut explain = statement.clone();
    explain.sql.insert_str(0, "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) ");
    lines(txn, explain).await
}

/// As it is planned once it was prepared and run a few times.
async fn generic_plan(txn: &DatabaseTransaction, statement: &Statement) -> String {
    txn.execute_unprepared("SET LOCAL plan_cache_mode = force_generic_plan").await.unwrap();
    txn.execute_unprepared(&format!("PREPARE repo AS {}", statement.sql)).await.unwrap();
    let mut values = String::new();
    for value in &statement.values.as_ref().unwrap().0 {
        values += if values.is_empty() { "" } else { ", " };
        values += &PostgresQueryBuilder.value_to_string(value);
    }
    let execute = format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE repo ({values})");
    let plan = lines(txn, Statement::from_string(DbBackend::Postgres, execute)).await;
    let generic_plans = "SELECT generic_plans FROM pg_prepared_statements WHERE name = 'repo'";
    let generic_plans = Statement::from_string(DbBackend::Postgres, generic_plans);
    let counted = txn.query_one_raw(generic_plans).await.unwrap().unwrap();
    assert_eq!(counted.try_get_by_index::<i64>(0).unwrap(), 1);
    txn.execute_unprepared("DEALLOCATE repo").await.unwrap();
    plan
}

#[tokio::test]
async fn on_postgres_each_statement_uses_its_index_and_throws_no_row_away_with_either_plan() {
    let db = TestDb::postgres().await;
    fill(&db, 100_000).await;
    db.execute("VACUUM ANALYZE dead_letters").await;
    for (statement, index) in statements(&db).await {
        for generic in [false, true] {
            // ANALYZE runs the statement; the rollback takes it back.
            let txn = db.db.begin().await.unwrap();
            let plan = match generic {
                false => custom_plan(&txn, &statement).await,
                true => generic_plan(&txn, &statement).await,
            };
            txn.rollback().await.unwrap();
            let shown = format!("generic: {generic}\n{}\n{plan}", statement.sql);
            assert!(plan.contains(&format!(" {index} ")), "not by {index}: {shown}");
            for wasteful in ["Seq Scan", "Rows Removed by Filter", "Bitmap", "Sort"] {
                assert!(!plan.contains(wasteful), "{wasteful}: {shown}");
            }
        }
    }
}

#[tokio::test]
async fn on_sqlite_each_statement_searches_its_index_and_scans_nothing() {
    let db = TestDb::sqlite().await;
    fill(&db, 1_000).await;
    for (statement, index) in statements(&db).await {
        let mut explain = statement.clone();
        explain.sql.insert_str(0, "EXPLAIN QUERY PLAN ");
        let rows = db.db.query_all_raw(explain).await.unwrap();
        let plan: String =
            rows.iter().map(|row| row.try_get::<String>("", "detail").unwrap() + "\n").collect();
        let index = index.replace("dead_letters_pkey", "sqlite_autoindex_dead_letters_1");
        assert!(plan.contains(&format!("INDEX {index} ")), "not by {index}: {}\n{plan}", statement.sql);
        for wasteful in ["SCAN dead_letters", "TEMP B-TREE"] {
            assert!(!plan.contains(wasteful), "{}\n{plan}", statement.sql);
        }
    }
}
