//! The cost of sweeps of every kind, and the sweeper's effect on the dispatchers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, Archive, CappedCount, DeadLetterRepo, DeadLetterRepoError, DeadLetterRetention, DeadLetterState,
    Due, JsonLinesArchive, Retention, RetentionPolicy, SeaOrmDeadLetterRepo, SweepCursor, SweepScope,
    Sweeper, Swept, SweptActions,
};
use tokio::sync::oneshot;
use url::Url;
use uuid::Uuid;

use crate::{
    measure::{Call, Case, Failure, Figure, Pairs, Runs, call, quantile},
    memory::peak_of,
    operations::against,
    report::Bound,
    store::{FROM, Store, letter},
    sweep::{BATCH, DUE, ROUNDS, cutoff, millis, refill},
};

/// The sweeper's default share of time, in percent.
const BUSY_PERCENT: u32 = 25;

/// Creates a store with 10,000 apps beside its hundred. Every tenth of them is to be excepted.
///
/// An excepted app has `rows_of_excepted` rows, all older than those of other apps, which have ten each.
pub(crate) async fn crowd(server: &Url, rows_of_excepted: u32) -> Result<Arc<Store>, Failure> {
    let store = Store::create(server, 0).await?;
    let rows = format!(
        "SELECT lpad(to_hex(app), 32, '0')::uuid AS app, timestamptz '{FROM}' - n * interval '1 second' AS at
         FROM generate_series(110, 10100, 10) app, generate_series(1, {rows_of_excepted}) n
         UNION ALL
         SELECT lpad(to_hex(app), 32, '0')::uuid, timestamptz '{FROM}' + n * interval '1 second'
         FROM generate_series(101, 10100) app, generate_series(1, 10) n WHERE app % 10 > 0"
    );
    store.fill_with("dead_letters", &rows).await?;
    store.analyze("dead_letters").await?;
    Ok(store)
}

pub(crate) fn excepted() -> Vec<AppId> {
    (110..=10_100).step_by(10).map(|n| Uuid::from_u128(n).into()).collect()
}

/// A sweep that finds nothing in 9,100 apps, and passes a thousand with many due rows or few.
pub(crate) async fn idle(pairs: &Pairs, many: &Arc<Store>, few: &Arc<Store>) -> Result<Bound, Failure> {
    let scope = Arc::new(SweepScope::AllAppsBut { excepted: excepted() });
    let [many, few] = [many, few].map(|store| {
        let side = (store.clone(), scope.clone());
        side!(side, n => {
            let swept = side.0.repo.sweep(&side.1, Due::CreatedBefore(FROM), None, 1_000).await?;
            if (swept.deleted, swept.next) != (0, None) {
                return Err("the sweep was not idle".into());
            }
        })
    });
    let name = "idle sweep of all apps but 1,000, which own 900,000 due rows,";
    against(pairs, name, many, "one where they own 100,000", few, 1.5).await
}

/// Batches of a sweep and of gc in turn, until 900,000 rows are gone.
pub(crate) async fn beside_gc(
    store: &Store,
    name: &str,
    target: f64,
    archive: Option<&dyn Archive>,
) -> Result<Figure, Failure> {
    let name = format!("{name}, against gc, of 900,000 in 1 M rows");
    refill(store, 0).await?;
    let due = Due::CreatedBefore(cutoff());
    let mut runs = [Runs::default(), Runs::default()];
    let mut ratios = Vec::new();
    for round in 0.. {
        let mut rates = [0.0, 0.0];
        for side in [round % 2, 1 - round % 2] {
            let mut deleted = 0;
            let run = Runs::of(async {
                let called = Instant::now();
                deleted = match (side, archive) {
                    (1, _) => store.repo.gc(cutoff(), BATCH.into()).await?,
                    (_, None) => store.repo.sweep(&SweepScope::AllApps, due, None, BATCH).await?.deleted,
                    (_, Some(archive)) => {
                        store.repo.sweep_into(&SweepScope::AllApps, due, None, BATCH, archive).await?.deleted
                    }
                };
                Ok(vec![called.elapsed()])
            });
            let run = run.await?;
            rates[side] = deleted as f64 / run.elapsed.as_secs_f64();
            runs[side].add(run);
        }
        if rates.contains(&0.0) {
            break;
        }
        ratios.push(rates[0] / rates[1]);
    }
    if ratios.len() as i64 != DUE / i64::from(BATCH) / 2 {
        return Err(format!("{} pairs of batches", ratios.len()).into());
    }
    let case = Case { name, tasks: 1, rows: 1.0, target: Some(target) };
    Ok(Figure::new(case, ratios, runs))
}

/// On this disk. Archiving a million rows needs no more memory than archiving few.
pub(crate) async fn archives(small: &Store, large: &Store) -> Result<(Figure, Bound), Failure> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let archive = JsonLinesArchive::new(folder.path());
    let few = peak_of(async {
        let due = Due::CreatedBefore(cutoff());
        while small.repo.sweep_into(&SweepScope::AllApps, due, None, BATCH, &archive).await?.deleted > 0 {}
        Ok(())
    });
    let few = few.await?;
    let mut figure = None;
    let many = peak_of(async {
        let name = "sweep_into an archive on this disk";
        figure = Some(beside_gc(large, name, 0.5, Some(&archive)).await?);
        Ok(())
    });
    let bound = Bound::memory("archiving 10,000 rows, then 450,000", few, many.await?);
    Ok((figure.ok_or("no figure")?, bound))
}

/// How long a store's batches took.
struct Timed {
    repo: SeaOrmDeadLetterRepo,
    nanoseconds: AtomicU64,
    deleted: AtomicU64,
}

#[async_trait]
impl DeadLetterRetention for Timed {
    async fn sweep(
        &self,
        scope: &SweepScope,
        due: Due,
        after: Option<SweepCursor>,
        limit: u32,
    ) -> Result<Swept, DeadLetterRepoError> {
        let called = Instant::now();
        let swept = self.repo.sweep(scope, due, after, limit).await?;
        self.nanoseconds.fetch_add(called.elapsed().as_nanos() as u64, Relaxed);
        self.deleted.fetch_add(swept.deleted, Relaxed);
        Ok(swept)
    }

    async fn sweep_into(
        &self,
        scope: &SweepScope,
        due: Due,
        after: Option<SweepCursor>,
        limit: u32,
        archive: &dyn Archive,
    ) -> Result<Swept, DeadLetterRepoError> {
        self.repo.sweep_into(scope, due, after, limit, archive).await
    }

    async fn count_due(
        &self,
        scope: &SweepScope,
        due: Due,
        state: DeadLetterState,
        cap: u32,
    ) -> Result<CappedCount, DeadLetterRepoError> {
        self.repo.count_due(scope, due, state, cap).await
    }

    async fn sweep_actions(
        &self,
        before: DateTime<Utc>,
        first_app: Option<AppId>,
        limit: u32,
    ) -> Result<SweptActions, DeadLetterRepoError> {
        self.repo.sweep_actions(before, first_app, limit).await
    }
}

/// Measures the sweeper's effect on the inserts of 16 dispatchers, with 900,000 rows to delete, and its share
/// of the time.
pub(crate) async fn sweeper(store: &Arc<Store>) -> Result<[Bound; 2], Failure> {
    refill(store, 0).await?;
    let side = (Arc::clone(store), Arc::new(letter(Uuid::new_v4().into(), 1_000)));
    let inserts: Call = side!(side, n => side.0.repo.insert((*side.1).clone()).await?);
    let pairs = Pairs { pairs: 1, run: Duration::from_secs(5) };
    let timed = Arc::new(Timed {
        repo: store.repo.clone(),
        nanoseconds: AtomicU64::default(),
        deleted: AtomicU64::default(),
    });
    let others = Retention::default().delete_all_after((Utc::now() - cutoff()).to_std()?);
    let policy = RetentionPolicy::new(others);
    let sweeper = Arc::new(Sweeper::builder(timed.clone(), policy).busy_percent(BUSY_PERCENT).build()?);
    let mut p99 = [Vec::new(), Vec::new()];
    let mut beside = Duration::ZERO;
    for round in 0..2 * ROUNDS {
        let (stop, stopped) = oneshot::channel::<()>();
        let at_work = (round % 2 == 1).then(|| {
            let sweeper = sweeper.clone();
            tokio::spawn(async move { sweeper.run(stopped).await })
        });
        let began = Instant::now();
        let run = pairs.run(&inserts, 16, &mut 0).await?;
        drop(stop);
        if let Some(at_work) = at_work {
            at_work.await?;
            beside += began.elapsed();
        }
        p99[round % 2].push(run.side().p99);
    }
    let [alone, with] = p99.each_mut().map(|p99| millis(quantile(p99, 0.5)));
    let deleted = timed.deleted.load(Relaxed);
    let share = 100.0 * timed.nanoseconds.load(Relaxed) as f64 / beside.as_nanos() as f64;
    Ok([
        Bound {
            name: "insert p99 of 16 tasks beside the sweeper".to_owned(),
            bound: "2 times that without".to_owned(),
            measured: format!("{alone:.1} ms without, {with:.1} ms beside it"),
            met: with <= 2.0 * alone,
        },
        Bound {
            name: format!("the sweeper's share of the time meanwhile, {BUSY_PERCENT} % configured"),
            bound: format!("{BUSY_PERCENT} %"),
            measured: format!("{share:.0} %, {deleted} rows deleted"),
            // A batch under way when the time was up is in it.
            met: deleted > 0 && share <= f64::from(BUSY_PERCENT) + 1.0,
        },
    ])
}
