//! Sweepers at work, and what the dispatchers feel of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::DeadLetterRepo;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    measure::{Call, Case, Failure, Figure, Pairs, Runs, call, quantile},
    memory::peak_of,
    report::Bound,
    store::{FROM, Store, TABLES, letter},
};

const ROWS: u32 = 1_000_000;
pub(crate) const DUE: i64 = 900_000;
pub(crate) const BATCH: u32 = 1_000;
pub(crate) const ROUNDS: usize = 3;

pub(crate) fn cutoff() -> DateTime<Utc> {
    FROM + TimeDelta::seconds(DUE + 1)
}

async fn sweep(store: &Store, side: usize) -> Result<u64, Failure> {
    Ok(match side {
        0 => store.repo.gc(cutoff(), BATCH.into()).await?,
        _ => store.peer.gc(cutoff(), BATCH.into()).await?,
    })
}

pub(crate) async fn refill(store: &Store, side: usize) -> Result<(), Failure> {
    let table = TABLES[side];
    store.execute(&format!("TRUNCATE {table}")).await?;
    store.fill(table, store.app, ROWS, FROM).await?;
    store.analyze(table).await
}

/// Deletes all that is due.
async fn race(store: &Arc<Store>, side: usize, sweepers: usize) -> Result<Runs, Failure> {
    refill(store, side).await?;
    Runs::of(async {
        let mut at_work = JoinSet::new();
        for _ in 0..sweepers {
            let store = Arc::clone(store);
            at_work.spawn(async move {
                let (mut latencies, mut deleted) = (Vec::new(), 0);
                loop {
                    let called = Instant::now();
                    let rows = sweep(&store, side).await?;
                    latencies.push(called.elapsed());
                    deleted += rows;
                    if rows == 0 {
                        return Ok::<_, Failure>((latencies, deleted));
                    }
                }
            });
        }
        let (mut latencies, mut deleted) = (Vec::new(), 0);
        while let Some(sweeper) = at_work.join_next().await {
            let (calls, rows) = sweeper??;
            latencies.extend(calls);
            deleted += rows;
        }
        if deleted != DUE as u64 {
            return Err(format!("{deleted} rows were deleted, of {DUE}").into());
        }
        Ok(latencies)
    })
    .await
}

/// Both sides in turn, with so many sweepers: rows a second, and the longest call.
pub(crate) async fn races(
    store: &Arc<Store>,
    sweepers: usize,
    target: f64,
) -> Result<(Figure, Bound), Failure> {
    let mut all = [Runs::default(), Runs::default()];
    let mut longest = [Vec::new(), Vec::new()];
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let mut seconds = [0.0, 0.0];
        for side in [round % 2, 1 - round % 2] {
            let run = race(store, side, sweepers).await?;
            seconds[side] = run.elapsed.as_secs_f64();
            longest[side].extend(run.latencies.iter().max());
            all[side].add(run);
        }
        ratios.push(seconds[1] / seconds[0]);
    }
    let longest = longest.each_mut().map(|longest| quantile(longest, 0.5));
    let bound = Bound {
        name: format!("gc with {sweepers} at work, the longest call, median of {ROUNDS} races"),
        bound: "a fifth of the peer's".to_owned(),
        measured: format!("{:.0} ms, the peer's {:.0} ms", millis(longest[0]), millis(longest[1])),
        met: longest[0] * 5 <= longest[1],
    };
    let name = "gc of 900,000 in 1 M rows, rows a second".to_owned();
    let case = Case { name, tasks: sweepers, rows: 1.0, target: Some(target) };
    Ok((Figure::new(case, ratios, all), bound))
}

/// Measures the effect of a sweep without a pause on the inserts of 16 dispatchers.
pub(crate) async fn dispatchers(store: &Arc<Store>) -> Result<Vec<Bound>, Failure> {
    let letter = Arc::new(letter(Uuid::new_v4().into(), 1_000));
    let side = (Arc::clone(store), letter);
    let inserts: [Call; 2] = [
        side!(side, n => side.0.repo.insert((*side.1).clone()).await?),
        side!(side, n => side.0.peer.insert((*side.1).clone()).await?),
    ];
    let pairs = Pairs { pairs: 1, run: Duration::from_secs(3) };
    let mut bounds = Vec::new();
    for (side, whose) in ["the repo's", "the peer's"].into_iter().enumerate() {
        refill(store, side).await?;
        let mut p99 = [Vec::new(), Vec::new()];
        for round in 0..2 * ROUNDS {
            let sweeping = Arc::new(AtomicBool::new(round % 2 == 1));
            let sweeper = {
                let (store, sweeping) = (Arc::clone(store), Arc::clone(&sweeping));
                tokio::spawn(async move {
                    while sweeping.load(Relaxed) {
                        sweep(&store, side).await?;
                    }
                    Ok::<_, Failure>(())
                })
            };
            let run = pairs.run(&inserts[side], 16, &mut 0).await?;
            sweeping.store(false, Relaxed);
            sweeper.await??;
            p99[round % 2].push(run.side().p99);
        }
        let [alone, beside] = p99.each_mut().map(|p99| millis(quantile(p99, 0.5)));
        bounds.push(Bound {
            name: format!("insert p99 of 16 tasks beside a sweep, {whose}"),
            bound: "2 times that without".to_owned(),
            measured: format!("{alone:.1} ms without, {beside:.1} ms beside it"),
            met: beside <= 2.0 * alone,
        });
    }
    Ok(bounds)
}

/// Deleting a million rows needs no more memory than deleting few.
pub(crate) async fn memory(small: &Arc<Store>, large: &Arc<Store>) -> Result<Bound, Failure> {
    let of_few = peak_of(async {
        while small.repo.gc(cutoff(), BATCH.into()).await? > 0 {}
        Ok(())
    });
    let of_few = of_few.await?;
    refill(large, 0).await?;
    let of_many = peak_of(async {
        while sweep(large, 0).await? > 0 {}
        Ok(())
    });
    Ok(Bound::memory("deleting 10,000 rows, then 900,000", of_few, of_many.await?))
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
