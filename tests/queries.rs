//! Query plans of the statements that the repo really sends, over enough skewed rows that a wrong one would
//! show.

use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterRepo, DeadLetterRetention, DeadLetterState, DeadLetterTriage, Due,
    PageRequest, Resolution, SeaOrmDeadLetterRepo, Settlement, StoredLetter, SweepScope,
};
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, Statement, TransactionTrait,
    sea_query::{ArrayType, PostgresQueryBuilder, QueryBuilder, Value},
};
use uuid::Uuid;

use crate::{
    contract::{import::stored, retention::Nowhere},
    database::TestDb,
};

/// The app with 600,000 rows, and the one with 400,000 that are all newer.
fn apps() -> [AppId; 2] {
    [Uuid::from_u128(1).into(), Uuid::from_u128(2).into()]
}

/// When a tenth of the older app's rows are due.
fn cutoff() -> DateTime<Utc> {
    "2026-01-01T16:40:00Z".parse().unwrap()
}

/// One row a second from 2026-01-01. Of ten rows one is unresolved, one is `handler_failed`, and eight are
/// settled.
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
            first_attempt_at, last_attempt_at, last_error, error_signature, created_at, resolved_at, resolution)
        SELECT {id}, {id}, 'orders', 'insert', '{}', 5, {time}, {time}, 'smtp: 451', 'smtp: #', {time},
            CASE WHEN n % 10 > 0 THEN {time} END,
            CASE n % 10 WHEN 0 THEN NULL WHEN 1 THEN 'handler_failed' ELSE 'ignored' END
        FROM numbers"
        .replace("{generate}", generate)
        .replace("{id}", id)
        .replace("{time}", time)
        .replace("{total}", &(scale * 10).to_string())
        .replace("{older}", &(scale * 6).to_string());
    db.execute(&insert).await;
}

struct Expected {
    statement: Statement,
    /// The index that it must use.
    index: &'static str,
    /// Whether it may read rows that it does not use: only where no index knows what the caller filters by.
    may_filter: bool,
    /// The most index entries that one look at `index` may read, where that is the point.
    at_most: Option<u32>,
}

/// Every statement of the repo on the table.
async fn statements(db: &TestDb) -> Vec<Expected> {
    let [app, _] = apps();
    let id = db.repo().list_for_app(app, false, 1, 0).await.unwrap()[0].id;
    let (recording, recorded) = db.connect_recorded().await;
    let repo = SeaOrmDeadLetterRepo::new(recording);
    let mut statements = Vec::new();
    let mut expect = |index, may_filter, at_most| {
        let sent = recorded.take();
        assert!(!sent.is_empty());
        // A commit's are on no table, and an import's rows are on none yet.
        let sent = sent.into_iter().filter(|statement| {
            statement.sql.contains("dead_letters") && !statement.sql.starts_with("INSERT")
        });
        statements.extend(sent.map(|statement| Expected {
            index: if is_by_ids(&statement) { "dead_letters_pkey" } else { index },
            statement,
            may_filter,
            at_most,
        }));
    };
    let filter = |state| DeadLetterFilter { state, ..Default::default() };
    for app in apps() {
        repo.list_for_app(app, false, 50, 0).await.unwrap();
        expect("idx_dead_letters_app", false, Some(50));
        repo.list_for_app(app, true, 50, 100).await.unwrap();
        expect("idx_dead_letters_app_unresolved", false, Some(150));
        repo.unresolved_count(app).await.unwrap();
        expect("idx_dead_letters_app_unresolved", false, None);

        for (state, index, may_filter) in [
            (DeadLetterState::Any, "idx_dead_letters_app", false),
            (DeadLetterState::Open, "idx_dead_letters_app_open", false),
            (DeadLetterState::Unresolved, "idx_dead_letters_app_unresolved", false),
            (DeadLetterState::Resolved, "idx_dead_letters_app", true),
        ] {
            let first = PageRequest { size: 50, after: None };
            let after = repo.list(app, &filter(state), &first).await.unwrap().next;
            expect(index, may_filter, Some(51));
            // The second page: by an index condition, not by reading the first again.
            repo.list(app, &filter(state), &PageRequest { size: 50, after }).await.unwrap();
            expect(index, may_filter, Some(51));
        }
    }
    repo.unresolved_counts(&apps(), None).await.unwrap();
    expect("idx_dead_letters_app_unresolved", false, None);
    repo.unresolved_counts(&apps(), Some(100)).await.unwrap();
    expect("idx_dead_letters_app_unresolved", false, Some(101));

    repo.get(id).await.unwrap();
    expect("dead_letters_pkey", false, Some(1));
    repo.get_for_app(app, id).await.unwrap();
    expect("dead_letters_pkey", false, Some(1));
    repo.resolve(id, "handler_failed").await.unwrap();
    expect("dead_letters_pkey", false, Some(1));
    let settlement = Settlement { resolution: Resolution::HandlerFailed, by: None, note: None };
    repo.resolve_once(app, id, &settlement).await.unwrap();
    expect("dead_letters_pkey", false, Some(1));
    repo.reopen(app, id).await.unwrap();
    expect("dead_letters_pkey", true, Some(1));

    // Whether it is there is asked where it was not stored.
    repo.import(&[StoredLetter { id, ..stored() }]).await.unwrap();
    expect("dead_letters_pkey", false, Some(1));

    // Up to the limit, and below it: then what others hold is looked for.
    for before in [cutoff(), DateTime::UNIX_EPOCH] {
        let due = DeadLetterFilter { created_before: Some(before), ..filter(DeadLetterState::Open) };
        let ignored = Settlement { resolution: Resolution::Ignored, ..settlement.clone() };
        repo.resolve_matching(app, &due, &ignored, 100).await.unwrap();
        expect("idx_dead_letters_app_open", false, Some(100));
        repo.resolve_matching(app, &due, &settlement, 100).await.unwrap();
        expect("idx_dead_letters_app_unresolved", false, Some(100));
    }

    // A sweep with much to do, and an idle one. What the first deletes stays away, which changes no plan.
    for before in [cutoff(), DateTime::UNIX_EPOCH] {
        repo.gc(before, 1_000).await.unwrap();
        expect("idx_dead_letters_gc", false, Some(1_000));
        let (created, settled) = (Due::CreatedBefore(before), Due::SettledBefore(before));
        let excepted = vec![apps()[1], Uuid::from_u128(7).into()];
        for (scope, index_of_created, index_of_settled) in [
            (SweepScope::App(app), "idx_dead_letters_app", "idx_dead_letters_purge_app"),
            (SweepScope::AllApps, "idx_dead_letters_gc", "idx_dead_letters_purge"),
            (
                SweepScope::AllAppsBut { excepted, from: None },
                "idx_dead_letters_app",
                "idx_dead_letters_purge_app",
            ),
        ] {
            for (due, index) in [(created, index_of_created), (settled, index_of_settled)] {
                repo.sweep(&scope, due, 1_000).await.unwrap();
                expect(index, false, Some(1_000));
                repo.sweep_into(&scope, due, 1_000, &Nowhere).await.unwrap();
                expect(index, false, Some(1_000));
            }
            for (due, state, index, may_filter) in [
                (created, DeadLetterState::Any, "idx_dead_letters_app", false),
                (created, DeadLetterState::Open, "idx_dead_letters_app_open", false),
                (created, DeadLetterState::Unresolved, "idx_dead_letters_app_unresolved", false),
                (created, DeadLetterState::Resolved, "idx_dead_letters_app", true),
                (settled, DeadLetterState::Any, "idx_dead_letters_purge_app", false),
            ] {
                repo.count_due(&scope, due, state, 1_000).await.unwrap();
                expect(index, may_filter, Some(1_001));
            }
        }
    }
    statements
}

/// Whether the statement is about rows that it names.
fn is_by_ids(statement: &Statement) -> bool {
    ["unnest($1)", "\"id\" IN (?"].iter().any(|by_ids| statement.sql.contains(by_ids))
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

/// As the driver declares it.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Uuid(_) => "uuid",
        Value::ChronoDateTimeUtc(_) => "timestamptz",
        Value::Int(_) => "int",
        Value::BigUnsigned(_) => "bigint",
        Value::String(_) => "text",
        Value::Array(ArrayType::Uuid, _) => "uuid[]",
        other => panic!("{other:?}"),
    }
}

/// As it is planned once it was prepared and run a few times.
async fn generic_plan(txn: &DatabaseTransaction, statement: &Statement) -> String {
    txn.execute_unprepared("SET LOCAL plan_cache_mode = force_generic_plan").await.unwrap();
    let values = &statement.values.as_ref().unwrap().0;
    let types: Vec<_> = values.iter().map(type_of).collect();
    let prepare = format!("PREPARE repo ({}) AS {}", types.join(", "), statement.sql);
    txn.execute_unprepared(&prepare).await.unwrap();
    let values = values.iter().zip(types);
    let values = values.map(|(value, of)| format!("{}::{of}", PostgresQueryBuilder.value_to_string(value)));
    let values = values.collect::<Vec<_>>().join(", ");
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
    for Expected { statement, index, may_filter, at_most } in statements(&db).await {
        for generic in [false, true] {
            // ANALYZE runs the statement; the rollback takes it back.
            let txn = db.db.begin().await.unwrap();
            let plan = match generic {
                false => custom_plan(&txn, &statement).await,
                true => generic_plan(&txn, &statement).await,
            };
            txn.rollback().await.unwrap();
            let shown = format!("generic: {generic}\n{}\n{plan}", statement.sql);
            let scans: Vec<_> = plan.lines().filter(|line| line.contains(&format!(" {index} "))).collect();
            assert!(!scans.is_empty(), "not by {index}: {shown}");
            for scan in scans {
                if let Some(at_most) = at_most.filter(|_| !may_filter) {
                    assert!(rows_of(scan) <= at_most.into(), "more than {at_most}: {shown}");
                }
            }
            for wasteful in ["Seq Scan", "Bitmap", "Sort"] {
                assert!(!plan.contains(wasteful), "{wasteful}: {shown}");
            }
            assert!(may_filter || !throws_rows_away(&plan), "{shown}");
        }
    }
}

/// Whether a scan of the table reads rows that it does not use; one of a CTE may.
fn throws_rows_away(plan: &str) -> bool {
    let mut node = "";
    plan.lines().any(|line| {
        if line.contains("(actual ") {
            node = line;
        }
        node.contains(" on dead_letters") && line.contains("Rows Removed by Filter")
    })
}

/// Of a plan's line, the rows of one loop: `Index Scan using … (actual rows=50 loops=1)`, and since
/// PostgreSQL 18 `rows=50.00`.
fn rows_of(line: &str) -> f64 {
    let (_, rows) = line.split_once("actual rows=").unwrap();
    rows.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn on_sqlite_each_statement_searches_its_index_and_scans_nothing() {
    let db = TestDb::sqlite().await;
    fill(&db, 1_000).await;
    for Expected { statement, index, .. } in statements(&db).await {
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
