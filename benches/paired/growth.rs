//! Growth with the table: the repo's calls and indexes at several sizes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use dead_letters::{
    AppId, Attribution, BacklogRequest, DeadLetterFilter, DeadLetterRead, DeadLetterRepo, DeadLetterResolve,
    DeadLetterRetention, DeadLetterState, Due, Resolution, SweepScope,
};
use dead_letters_migration::Migrator;
use sea_orm_migration::MigratorTrait;
use url::Url;
use uuid::Uuid;

use crate::{
    listing,
    measure::{Call, Failure, Pairs, call, quantile},
    operations, report,
    store::{FROM, Store, V7, insertion, letter},
    sweep::millis,
};

/// Rows of the tables. In the smallest table the large app has as many rows as a scan.
const SIZES: [u32; 3] = [12_500, 1_000_000, 10_000_000];
/// Apps beside the large one, which has four fifths of the rows.
const APPS: u32 = 200;
const PAYLOAD_BYTES: usize = 200;

/// Those that leave the table as it is, and should cost the same in any.
pub(crate) async fn reads(store: &Arc<Store>) -> Result<Vec<(&'static str, Call)>, Failure> {
    let half_way = store.rows / 2;
    let mut calls = vec![
        ("get", side!(store, n => store.repo.get(store.id(n)).await?)),
        (
            "unresolved_counts to 100",
            side!(store, n => store.repo.unresolved_counts(&[store.app], Some(100)).await?),
        ),
        ("gc, idle", side!(store, n => store.repo.gc(FROM, 1_000).await?)),
        ("triage list, 50", listing(store, 0).await?),
        ("triage list, 50, half way down", listing(store, half_way).await?),
    ];
    calls.extend(operations::scans(store));
    Ok(calls)
}

fn more_reads(store: &Arc<Store>) -> Vec<(&'static str, Call)> {
    let apps: Vec<AppId> = (1..=50).map(|n| Uuid::from_u128(n).into()).collect();
    let side = (store.clone(), Arc::new(apps));
    let events: Vec<_> = (0..50).map(|_| Uuid::new_v4()).collect();
    let with_events = (store.clone(), Arc::new(events));
    let of_app = (store.clone(), Arc::new(SweepScope::App(store.app)));
    let but_one = SweepScope::AllAppsBut { excepted: vec![store.app] };
    let of_others = (store.clone(), Arc::new(but_one));
    vec![
        ("list_for_app, 50", side!(store, n => store.repo.list_for_app(store.app, true, 50, 0).await?)),
        (
            "unresolved_counts of 50 apps to 100",
            side!(side, n => side.0.repo.unresolved_counts(&side.1, Some(100)).await?),
        ),
        (
            "backlogs of 50, to 100",
            side!(store, n => store.repo.backlogs(&BacklogRequest::default().limit(50).cap(100)).await?),
        ),
        (
            "times_replayed of 50 events",
            side!(with_events, n => with_events.0.repo.times_replayed(with_events.0.app, &with_events.1).await?),
        ),
        (
            "sweep of one app, idle",
            side!(of_app, n => of_app.0.repo.sweep(&of_app.1, Due::CreatedBefore(FROM), None, 1_000).await?),
        ),
        (
            "sweep of all apps but one, idle",
            side!(of_others, n => of_others.0.repo.sweep(&of_others.1, Due::CreatedBefore(FROM), None, 1_000).await?),
        ),
        ("unresolved_count, exact", side!(store, n => store.repo.unresolved_count(store.app).await?)),
    ]
}

fn writes(store: &Arc<Store>) -> Vec<(&'static str, Call)> {
    let of_another = letter(Uuid::new_v4().into(), PAYLOAD_BYTES);
    // A `handler_failed` row is still open: it can be resolved once again.
    let side = (store.clone(), Arc::new((of_another, Attribution::default())));
    vec![
        ("insert", side!(side, n => side.0.repo.insert(side.1.0.clone()).await?)),
        ("insert_many of 100", side!(side, n => side.0.repo.insert_many(vec![side.1.0.clone(); 100]).await?)),
        (
            "resolve_once",
            side!(side, n => side.0.repo.resolve_once(side.0.app, side.0.id(n), Resolution::HandlerFailed, &side.1.1).await?),
        ),
    ]
}

/// Each takes rows that no other call takes.
fn batches(store: &Arc<Store>) -> Vec<(&'static str, Call)> {
    let due = Due::CreatedBefore(FROM + TimeDelta::days(120));
    let of_app = (store.clone(), Arc::new(SweepScope::App(store.app)));
    let of_others = SweepScope::AllAppsBut { excepted: vec![store.app] };
    let of_others = (store.clone(), Arc::new(of_others));
    let all = DeadLetterFilter::default().state(DeadLetterState::Open).created_before(Utc::now());
    let resolve = (store.clone(), Arc::new((all, Attribution::default())));
    let whole = |rows: u64, of: u64| if rows == of { Ok(()) } else { Err(format!("{rows} rows of {of}")) };
    vec![
        (
            "sweep of all apps but one, of 200",
            side!(of_others, n => whole(of_others.0.repo.sweep(&of_others.1, due, None, 200).await?.deleted, 200)?),
        ),
        (
            "resolve_matching of 500",
            side!(resolve, n => {
                let (filter, nobody) = &*resolve.1;
                let closed = resolve.0.repo.resolve_matching(resolve.0.app, filter, Resolution::Ignored, nobody, 500).await?;
                whole(closed.ids.len() as u64, 500)?
            }),
        ),
        ("gc of 500", side!(store, n => whole(store.repo.gc(FROM + TimeDelta::days(120), 500).await?, 500)?)),
        (
            "sweep of one app, of 500",
            side!(of_app, n => whole(of_app.0.repo.sweep(&of_app.1, due, None, 500).await?.deleted, 500)?),
        ),
    ]
}

/// Writes `benches/results/growth.md`.
pub(crate) async fn measure(server: &Url) -> Result<(), Failure> {
    let mut stores = Vec::new();
    for rows in SIZES {
        stores.push(create(server, rows).await?);
    }
    let sizes = sizes(&stores).await?;
    let mut calls = Vec::new();
    for store in &stores {
        calls.push([reads(store).await?, more_reads(store), writes(store)].concat());
    }
    let for_a_while = Pairs { pairs: 7, run: Duration::from_millis(300) };
    let mut times =
        table(&calls, 7, async |call, next| Ok(for_a_while.run(call, 1, next).await?.latencies)).await?;
    let calls: Vec<_> = stores.iter().map(batches).collect();
    times += &table(&calls, 7, async |call, _| {
        let called = Instant::now();
        call(0).await?;
        Ok(vec![called.elapsed()])
    })
    .await?;
    let version = format!("PostgreSQL {}", stores[0].server_version().await?);
    let written = report::written(&version)?;
    let text = format!(
        "# Growth with the table\n\n\
         Written by `cargo bench -- --ten-million` on {written}. \
         [benches/README.md](../README.md#growth) explains the measurements, and why some of the times grow.\n\n\
         | call, p50 in ms | 12,500 rows | 1 M | 10 M | 10 M against 12,500 | 10 M against 1 M |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n\
         {times}\n\
         | MB | 12,500 rows | 1 M | 10 M |\n\
         | --- | ---: | ---: | ---: |\n\
         {sizes}"
    );
    report::write("growth.md", &text)
}

/// A store of so many rows. In each a second has one row of the large app, and every fourth one of another.
async fn create(server: &Url, rows: u32) -> Result<Arc<Store>, Failure> {
    let store = Store::empty(server, rows).await?;
    Migrator::up(&store.db, None).await?;
    let of_app = rows / 5 * 4;
    let apps_and_times = format!(
        "SELECT uuid '{}' AS app, timestamptz '{FROM}' + n * interval '1 second' AS at
         FROM generate_series(1, {of_app}) n
         UNION ALL
         SELECT lpad(to_hex(app), 32, '0')::uuid, timestamptz '{FROM}' + (n * 800 + app * 4) * interval '1 second'
         FROM generate_series(1, {APPS}) app, generate_series(1, {}) n
         ORDER BY at",
        store.app,
        (rows - of_app) / APPS,
    );
    let began = Instant::now();
    store.execute(&insertion("dead_letters", V7, PAYLOAD_BYTES, ["", ""], &apps_and_times)).await?;
    store.analyze("dead_letters").await?;
    println!("{rows} rows in {:.0} s", began.elapsed().as_secs_f64());
    store.with_ids().await
}

/// Returns the medians of each call on the tables, which take turns.
async fn table(
    calls: &[Vec<(&'static str, Call)>],
    rounds: usize,
    measure: impl AsyncFn(&Call, &mut usize) -> Result<Vec<Duration>, Failure>,
) -> Result<String, Failure> {
    let mut lines = String::new();
    for (at, (name, _)) in calls[0].iter().enumerate() {
        let mut latencies = vec![Vec::new(); calls.len()];
        let mut next = vec![0; calls.len()];
        // The first round warms up.
        for round in 0..=rounds {
            for turn in 0..calls.len() {
                let side = (round + turn) % calls.len();
                let took = measure(&calls[side][at].1, &mut next[side]).await?;
                latencies[side].extend(took.into_iter().filter(|_| round > 0));
            }
        }
        let [small, middle, large] = [0, 1, 2].map(|side| millis(quantile(&mut latencies[side], 0.5)));
        let line = format!(
            "| {name} | {small:.2} | {middle:.2} | {large:.2} | **{:.2}** | {:.2} |\n",
            large / small,
            large / middle
        );
        print!("{line}");
        lines += &line;
    }
    Ok(lines)
}

/// Returns the sizes of the table and its indexes.
async fn sizes(stores: &[Arc<Store>]) -> Result<String, Failure> {
    let mut lines: Vec<String> = Vec::new();
    for store in stores {
        let sizes: Vec<(String, f64)> = sqlx::query_as(
            "SELECT relname::text, pg_relation_size(oid) / 1048576.0::float8 FROM pg_class
             WHERE oid = 'dead_letters'::regclass
                 OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'dead_letters'::regclass)
             ORDER BY relkind DESC, relname",
        )
        .fetch_all(&mut store.connect().await?)
        .await?;
        lines.resize_with(sizes.len(), String::new);
        for (line, (name, size)) in lines.iter_mut().zip(sizes) {
            if line.is_empty() {
                *line = format!("| {name} |");
            }
            *line += &format!(" {size:.1} |");
        }
    }
    Ok(lines.iter().map(|line| format!("{line}\n")).collect())
}
