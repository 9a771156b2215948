//! The use of each index, its size, and its cost for an insert and a resolve.
//!
//! Only the server's part: each figure is of statements in one transaction of one connection, with all indexes and
//! without the one in question, in turn. The rollback brings the index back.

use std::sync::Arc;

use sqlx::{Connection, PgConnection};

use crate::{
    measure::Failure,
    report,
    store::{FROM, Store, V7, insertion},
};

const INDEXES: [(&str, &str); 8] = [
    ("app", "an app's letters of any state, newest first; sweeps of one app, or of all but some, by age"),
    ("unresolved", "unresolved letters, newest first; with the next index, open letters"),
    ("handler_failed", "`handler_failed` letters, newest first; with the index before, open letters"),
    ("unresolved_count", "the exact count of unresolved letters"),
    ("closed", "lists and sweeps of closed letters, by when they were closed"),
    ("gc", "`gc`, and sweeps of all apps by age"),
    ("replays", "how often an event was replayed"),
    ("run", "the letters that a bulk run closed"),
];

/// In one turn, and turns a side.
const STATEMENTS: u32 = 2_000;
const TURNS: usize = 7;

/// Microseconds and bytes of log, of an insert and of a resolve.
type Cost = [f64; 4];

/// Writes `benches/results/indexes.md`.
pub(crate) async fn measure(store: &Arc<Store>) -> Result<(), Failure> {
    let mut connection = store.connect().await?;
    prepare(store, &mut connection).await?;
    let mut lines = String::new();
    for (name, serves) in INDEXES {
        let index = format!("idx_dead_letters_{name}");
        let megabytes: f64 = sqlx::query_scalar("SELECT pg_relation_size($1::regclass) / 1e6::float8")
            .bind(&index)
            .fetch_one(&mut connection)
            .await?;
        let (mut with, mut without) = (Vec::new(), Vec::new());
        // The first turn warms up.
        for turn in 0..=TURNS {
            let costs = [
                cost(&mut connection, "").await?,
                cost(&mut connection, &format!("DROP INDEX {index};")).await?,
            ];
            if turn > 0 {
                with.push(costs[0]);
                without.push(costs[1]);
            }
        }
        let median = |costs: &[Cost], at: usize| {
            let mut of_one: Vec<_> = costs.iter().map(|cost| cost[at]).collect();
            of_one.sort_by(f64::total_cmp);
            of_one[of_one.len() / 2]
        };
        let [insert, insert_log, resolve, resolve_log] =
            [0, 1, 2, 3].map(|at| (median(&with, at), median(&without, at)));
        let percent = |(with, without): (f64, f64)| (with / without - 1.0) * 100.0;
        let line = format!(
            "| `{index}` | {serves} | {megabytes:.0} | {:+.0} % | {:+.0} | {:+.0} % | {:+.0} |\n",
            percent(insert),
            insert_log.0 - insert_log.1,
            percent(resolve),
            resolve_log.0 - resolve_log.1,
        );
        print!("{line}");
        lines += &line;
    }
    let version = format!("PostgreSQL {}", store.server_version().await?);
    let text = format!(
        "# The cost of each index\n\n\
         Written by `cargo bench` on {}. The table has {} rows, and all but 10,000 of them are unresolved letters of \
         one app. Each index is compared with the same table without it. The times are the server's part of single \
         statements: the medians of {TURNS} turns of {STATEMENTS} statements.\n\n\
         | index | serves | MB | an insert's time | its log, bytes | a resolve's time | its log, bytes |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: |\n\
         {lines}",
        report::written(&version)?,
        store.rows,
    );
    report::write("indexes.md", &text)
}

/// The rows that are resolved, as a table: to pick them takes longer than to resolve them.
async fn prepare(store: &Store, connection: &mut PgConnection) -> Result<(), Failure> {
    let picked = format!(
        "CREATE TEMPORARY TABLE picked AS SELECT array_agg(id) AS ids FROM (
             SELECT id FROM dead_letters WHERE app_id = '{}' AND resolved_at IS NULL
             ORDER BY md5(id::text) LIMIT {STATEMENTS}) ids",
        store.app,
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(picked)).execute(&mut *connection).await?;
    let row = format!(
        "SELECT uuid '{}' AS app, timestamptz '{FROM}' + interval '1 year' + n * interval '1 second' AS at",
        store.app
    );
    let insert = insertion("dead_letters", V7, 1_000, ["", ""], &row);
    let function = format!(
        "CREATE FUNCTION pg_temp.cost(OUT costs float8[]) LANGUAGE plpgsql AS $$ DECLARE
             began timestamptz; log pg_lsn; all_ids uuid[]; n int;
         BEGIN
             SELECT ids INTO all_ids FROM picked;
             began := clock_timestamp(); log := pg_current_wal_insert_lsn();
             FOR n IN 1..{STATEMENTS} LOOP {insert}; END LOOP;
             costs := ARRAY[extract(epoch FROM clock_timestamp() - began)::float8,
                 (pg_current_wal_insert_lsn() - log)::float8];
             began := clock_timestamp(); log := pg_current_wal_insert_lsn();
             FOR n IN 1..{STATEMENTS} LOOP
                 UPDATE dead_letters SET resolution = 'replayed', resolved_at = clock_timestamp(),
                     resolved_by = NULL, resolution_note = NULL WHERE id = all_ids[n];
             END LOOP;
             costs := costs || ARRAY[extract(epoch FROM clock_timestamp() - began)::float8,
                 (pg_current_wal_insert_lsn() - log)::float8];
         END $$"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(function)).execute(connection).await?;
    Ok(())
}

async fn cost(connection: &mut PgConnection, before: &str) -> Result<Cost, Failure> {
    let mut txn = connection.begin().await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(before)).execute(&mut *txn).await?;
    let costs: Vec<f64> = sqlx::query_scalar("SELECT pg_temp.cost()").fetch_one(&mut *txn).await?;
    txn.rollback().await?;
    let each = f64::from(STATEMENTS);
    let [insert, insert_log, resolve, resolve_log] = costs[..] else { return Err("four costs".into()) };
    Ok([insert * 1e6 / each, insert_log / each, resolve * 1e6 / each, resolve_log / each])
}
