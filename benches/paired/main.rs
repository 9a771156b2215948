//! The repo against hand-written sqlx, in turn, on the same server: `cargo bench`.
//!
//! A figure is the median of the ratios of pairs of runs, A B, B A, A B: over 1 the repo is faster. The
//! server is a private one with fsync on and otherwise PostgreSQL's own settings, or that of
//! `BENCH_DATABASE_URL`.

use std::{env, error::Error, future::Future, pin::Pin, sync::Arc, time::Duration, time::Instant};

use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, CoalescingDeadLetterRepo, DeadLetterFilter, DeadLetterId, DeadLetterRepo, DeadLetterTriage,
    NewDeadLetter, PageRequest, SeaOrmDeadLetterRepo,
};
use dead_letters_migration::Migrator;
use dead_letters_test_postgres::Server;
use sea_orm::{ConnectionTrait, Database};
use sea_orm_migration::MigratorTrait;
use serde_json::json;
use tokio::{runtime::Handle, task::JoinSet};
use uuid::Uuid;

mod peer;

use peer::Peer;

type Failure = Box<dyn Error + Send + Sync>;
type Call = Arc<dyn Fn(usize) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>> + Send + Sync>;

const CONNECTIONS: u32 = 20;
const PAIRS: usize = 9;
/// Of one side of one pair.
const RUN: Duration = Duration::from_millis(400);

fn call<F, Fut>(call: F) -> Call
where
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    Arc::new(move |n| Box::pin(call(n)))
}

struct Run {
    calls_per_second: f64,
    latencies: Vec<Duration>,
}

/// As many calls as `tasks` tasks make in the time of a run.
async fn run(side: &Call, tasks: usize, next: &mut usize) -> Result<Run, Failure> {
    let start = Instant::now();
    let mut at_work = JoinSet::new();
    for task in 0..tasks {
        let (side, first) = (Arc::clone(side), *next + task);
        at_work.spawn(async move {
            let mut latencies = Vec::new();
            let mut n = first;
            while start.elapsed() < RUN {
                let called = Instant::now();
                side(n).await?;
                latencies.push(called.elapsed());
                n += tasks;
            }
            Ok::<_, Failure>(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(task) = at_work.join_next().await {
        latencies.extend(task??);
    }
    let elapsed = start.elapsed();
    *next += latencies.len() + tasks;
    Ok(Run { calls_per_second: latencies.len() as f64 / elapsed.as_secs_f64(), latencies })
}

fn quantile<T: Copy + PartialOrd>(values: &mut [T], at: f64) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("no NaN"));
    values[((values.len() - 1) as f64 * at).round() as usize]
}

/// `rows` is how many of the peer's calls one of ours stands for.
async fn pair(name: &str, tasks: usize, rows: f64, ours: Call, peers: Call) -> Result<(), Failure> {
    let (mut ratios, mut latencies) = (Vec::new(), [Vec::new(), Vec::new()]);
    let (mut ours_next, mut peers_next) = (0, 0);
    for round in 0..=PAIRS {
        let (our_run, peer_run) = if round % 2 == 0 {
            let our_run = run(&ours, tasks, &mut ours_next).await?;
            (our_run, run(&peers, tasks, &mut peers_next).await?)
        } else {
            let peer_run = run(&peers, tasks, &mut peers_next).await?;
            (run(&ours, tasks, &mut ours_next).await?, peer_run)
        };
        // The first warms up.
        if round > 0 {
            ratios.push(rows * our_run.calls_per_second / peer_run.calls_per_second);
            latencies[0].extend(our_run.latencies);
            latencies[1].extend(peer_run.latencies);
        }
    }
    let [ours, peers] = latencies.each_mut().map(|latencies| {
        let milliseconds = |at: Duration| at.as_secs_f64() * 1e3;
        (milliseconds(quantile(latencies, 0.5)), milliseconds(quantile(latencies, 0.99)))
    });
    println!(
        "| {name} | {tasks} | **{:.2}** | {:.2} to {:.2} | {:.2} / {:.2} | {:.2} / {:.2} |",
        quantile(&mut ratios, 0.5),
        quantile(&mut ratios, 0.25),
        quantile(&mut ratios, 0.75),
        ours.0,
        ours.1,
        peers.0,
        peers.1
    );
    Ok(())
}

fn letter(app_id: AppId, payload_bytes: usize) -> NewDeadLetter {
    let lines: Vec<_> = (0..payload_bytes / 64)
        .map(|n| json!({ "sku": format!("LAMP-{n:05}"), "quantity": n, "price": n as f64 * 1.25 }))
        .collect();
    NewDeadLetter {
        app_id,
        original_event_id: Uuid::new_v4(),
        source: "orders".to_owned(),
        op: "insert".to_owned(),
        trigger_id: Some(Uuid::new_v4().into()),
        script_id: Some(Uuid::new_v4().into()),
        payload: json!({ "order": 4711, "lines": lines }),
        attempt_count: 5,
        first_attempt_at: Utc::now(),
        last_attempt_at: Utc::now(),
        last_error: "smtp: 451 try again later".to_owned(),
    }
}

/// What a generated row sets.
const COLUMNS: &str =
    "app_id, original_event_id, source, op, payload, attempt_count, first_attempt_at, last_attempt_at,
    last_error, created_at";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    // cargo passes it to every bench target.
    let rows: u32 =
        env::args().skip(1).find(|argument| argument != "--bench").map_or(Ok(10_000), |rows| rows.parse())?;
    let (_server, url) = match env::var("BENCH_DATABASE_URL") {
        Ok(url) => (None, url),
        Err(_) => {
            let server = Server::start_durable()?;
            let url = server.url().to_string();
            (Some(server), url)
        }
    };
    let mut options = dead_letters::connect_options(&url);
    options.max_connections(CONNECTIONS).test_before_acquire(false);
    let db = Database::connect(options).await?;
    Migrator::up(&db, None).await?;
    let repo = SeaOrmDeadLetterRepo::new(db.clone());
    let peer = Peer::connect(&url, CONNECTIONS).await?;

    // The same rows on both sides: an app with as many as asked for, all of them unresolved.
    let app = AppId::from(Uuid::new_v4());
    let payload = letter(app, 1_000).payload;
    for table in ["dead_letters", "peer"] {
        let cast = if table == "peer" { "::jsonb" } else { "" };
        db.execute_unprepared(&format!(
            "INSERT INTO {table} ({COLUMNS})
             SELECT '{app}', gen_random_uuid(), 'orders', 'insert', '{payload}'{cast}, 5, now(), now(), 'smtp: 451 try again later',
                 timestamptz '2026-01-01Z' + n * interval '1 second'
             FROM generate_series(1, {rows}) n"
        ))
        .await?;
        db.execute_unprepared(&format!("VACUUM ANALYZE {table}")).await?;
    }
    let ids: Arc<Vec<DeadLetterId>> =
        Arc::new(repo.list_for_app(app, true, 10_000, 0).await?.into_iter().map(|row| row.id).collect());
    let peer_ids: Arc<Vec<Uuid>> =
        Arc::new(peer.list(app.into(), true, 10_000, 0).await?.iter().map(|row| row.id()).collect());

    println!("{rows} rows a table, {CONNECTIONS} connections, {PAIRS} pairs of {RUN:?} a side\n");
    println!("| call | tasks | median ratio | quartiles | p50 / p99, ms | the peer's |");
    println!("| --- | --- | --- | --- | --- | --- |");

    macro_rules! side {
        ($on:ident, $n:ident => $body:expr) => {{
            let $on = $on.clone();
            call(move |$n| {
                let $on = $on.clone();
                async move {
                    let _ = $n;
                    $body;
                    Ok(())
                }
            })
        }};
    }
    // Inserts go to apps of their own, so that the pages stay as they are.
    let other = AppId::from(Uuid::new_v4());
    for (name, bytes, tasks) in [
        ("insert, 1 KB", 1_000, 1),
        ("insert, 1 KB", 1_000, 16),
        ("insert, 1 KB", 1_000, 64),
        ("insert, 10 KB", 10_000, 1),
        ("insert, 10 KB", 10_000, 16),
    ] {
        let ours = side!(repo, n => repo.insert(letter(other, bytes)).await?);
        pair(name, tasks, 1.0, ours, side!(peer, n => peer.insert(letter(other, bytes)).await?)).await?;
    }
    for tasks in [1, 16] {
        let ours =
            side!(repo, n => repo.insert_many((0..100).map(|_| letter(other, 1_000)).collect()).await?);
        let peers = side!(peer, n => peer.insert(letter(other, 1_000)).await?);
        pair("insert_many of 100, against single rows", tasks, 100.0, ours, peers).await?;
    }
    for tasks in [1, 16, 64] {
        let writer = Arc::new(CoalescingDeadLetterRepo::new(repo.clone(), &Handle::current()));
        let ours = side!(writer, n => writer.insert(letter(other, 1_000)).await?);
        let peers = side!(peer, n => peer.insert(letter(other, 1_000)).await?);
        pair("coalesced insert, 1 KB", tasks, 1.0, ours, peers).await?;
        writer.shut_down().await;
    }
    for tasks in [1, 16] {
        let (of_repo, of_peer) = ((repo.clone(), ids.clone()), (peer.clone(), peer_ids.clone()));
        let ours = side!(of_repo, n => of_repo.0.get(of_repo.1[n % of_repo.1.len()]).await?);
        pair(
            "get",
            tasks,
            1.0,
            ours,
            side!(of_peer, n => of_peer.0.get(of_peer.1[n % of_peer.1.len()]).await?),
        )
        .await?;
    }
    let ours = side!(repo, n => repo.list_for_app(app, true, 50, 0).await?);
    let peers = side!(peer, n => peer.list(app.into(), true, 50, 0).await?);
    pair("list_for_app, 50", 1, 1.0, ours, peers.clone()).await?;
    let first = PageRequest { size: 50, after: None };
    let of_repo = (repo.clone(), first.clone());
    let ours = side!(of_repo, n => of_repo.0.list(app, &DeadLetterFilter::default(), &of_repo.1).await?);
    pair("triage list, 50", 1, 1.0, ours, peers).await?;
    let depth = i64::from(rows) - 100;
    let mut deep = first;
    for _ in 0..depth / 500 {
        deep = PageRequest { size: 500, ..deep };
        deep.after = repo.list(app, &DeadLetterFilter::default(), &deep).await?.next;
    }
    let of_repo = (repo.clone(), PageRequest { size: 50, ..deep });
    let ours = side!(of_repo, n => of_repo.0.list(app, &DeadLetterFilter::default(), &of_repo.1).await?);
    let peers = side!(peer, n => peer.list(app.into(), true, 50, depth).await?);
    pair(&format!("triage list, 50, at depth {depth}"), 1, 1.0, ours, peers).await?;
    let peers = side!(peer, n => peer.count(app.into()).await?);
    pair("unresolved_count", 1, 1.0, side!(repo, n => repo.unresolved_count(app).await?), peers.clone())
        .await?;
    pair(
        "unresolved_counts, cap 100",
        1,
        1.0,
        side!(repo, n => repo.unresolved_counts(&[app], Some(100)).await?),
        peers,
    )
    .await?;
    let (of_repo, of_peer) = ((repo.clone(), ids.clone()), (peer.clone(), peer_ids.clone()));
    let ours = side!(of_repo, n => of_repo.0.resolve(of_repo.1[n % of_repo.1.len()], "ignored").await?);
    let peers = side!(of_peer, n => of_peer.0.resolve(of_peer.1[n % of_peer.1.len()], "ignored").await?);
    pair("resolve", 1, 1.0, ours, peers).await?;
    let ours = side!(repo, n => repo.gc(DateTime::UNIX_EPOCH, 1_000).await?);
    pair("gc, idle", 1, 1.0, ours, side!(peer, n => peer.gc(DateTime::UNIX_EPOCH, 1_000).await?)).await?;
    Ok(())
}
