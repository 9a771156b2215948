//! Tests of the sweeper's loop by itself, on a paused clock: what it asks of a store, when, and how it treats
//! errors. contract/sweeper.rs tests its effect on rows.

use std::{
    collections::VecDeque,
    future::{self, Future},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, Archive, CappedCount, DeadLetterRepoError, DeadLetterRetention, DeadLetterState, Due, Retention,
    RetentionPolicy, SweepCursor, SweepEnd, SweepScope, Sweeper, SweeperBuilder, SweeperConfigError, Swept,
    SweptActions, describe_metrics, testing::database_error,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use crate::contract::sweep_of;

const HOUR: Duration = Duration::from_secs(60 * 60);
const BUSY: Duration = Duration::from_millis(20);

/// Answers what it was told to, then that nothing is due; each sweep takes 20 ms.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Result<Swept, DeadLetterRepoError>>>,
    asked: Mutex<Vec<Asked>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Asked {
    at: Instant,
    scope: SweepScope,
    due: Due,
    after: Option<SweepCursor>,
    limit: u32,
}

#[async_trait]
impl DeadLetterRetention for Script {
    async fn sweep(
        &self,
        scope: &SweepScope,
        due: Due,
        after: Option<SweepCursor>,
        limit: u32,
    ) -> Result<Swept, DeadLetterRepoError> {
        self.asked.lock().unwrap().push(Asked {
            at: Instant::now(),
            scope: scope.clone(),
            due,
            after,
            limit,
        });
        tokio::time::sleep(BUSY).await;
        self.answers.lock().unwrap().pop_front().unwrap_or(Ok(Swept::default()))
    }

    async fn sweep_into(
        &self,
        _: &SweepScope,
        _: Due,
        _: Option<SweepCursor>,
        _: u32,
        _: &dyn Archive,
    ) -> Result<Swept, DeadLetterRepoError> {
        unreachable!("there is no archive")
    }

    /// Ten rows in each scope.
    async fn count_due(
        &self,
        scope: &SweepScope,
        due: Due,
        state: DeadLetterState,
        cap: u32,
    ) -> Result<CappedCount, DeadLetterRepoError> {
        assert_eq!(state, DeadLetterState::Open);
        let asked = Asked { at: Instant::now(), scope: scope.clone(), due, after: None, limit: cap };
        self.asked.lock().unwrap().push(asked);
        Ok(CappedCount { count: 10.min(cap).into(), capped: cap < 10 })
    }

    async fn sweep_actions(
        &self,
        _: DateTime<Utc>,
        _: Option<AppId>,
        _: u32,
    ) -> Result<SweptActions, DeadLetterRepoError> {
        unreachable!("the policy keeps the history")
    }
}

impl Script {
    fn of(answers: impl IntoIterator<Item = Result<Swept, DeadLetterRepoError>>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), ..Default::default() })
    }

    fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn limits(&self) -> Vec<u32> {
        self.take().iter().map(|asked| asked.limit).collect()
    }
}

/// A full batch, if there was anything to delete.
fn deleted(deleted: u64) -> Result<Swept, DeadLetterRepoError> {
    Ok(sweep_of(deleted, deleted, (deleted > 0).then_some(cursor(deleted.into()))))
}

fn cursor(n: u128) -> SweepCursor {
    SweepCursor { app_id: app(n), time: now() - 2 * HOUR, id: Uuid::from_u128(n).into() }
}

fn refused(code: &'static str) -> Result<Swept, DeadLetterRepoError> {
    Err(database_error(code))
}

fn app(n: u128) -> AppId {
    Uuid::from_u128(n).into()
}

fn now() -> DateTime<Utc> {
    "2026-03-01T10:00:00Z".parse().unwrap()
}

fn all_after(after: Duration) -> Retention {
    Retention::default().delete_all_after(after)
}

fn others(retention: Retention) -> RetentionPolicy {
    RetentionPolicy::new(retention)
}

fn builder(store: &Arc<Script>) -> SweeperBuilder {
    Sweeper::builder(store.clone(), others(all_after(HOUR)))
}

/// A policy of three steps: two apps and the others.
fn three_steps(store: &Arc<Script>) -> Sweeper {
    let policy = others(all_after(HOUR)).app(app(1), all_after(HOUR)).app(app(2), all_after(HOUR));
    Sweeper::builder(store.clone(), policy).build().unwrap()
}

/// Ready once this much of the paused clock has passed.
fn after(time: Duration) -> impl Future {
    tokio::time::sleep(time)
}

#[tokio::test(start_paused = true)]
async fn a_tick_takes_its_cutoff_once_and_goes_on_until_nothing_is_due() {
    let store = Script::of([deleted(1_000), deleted(999), deleted(17)]);
    let report = builder(&store).build().unwrap().sweep_once(now()).await;
    assert_eq!((report.deleted, report.began_at), (2_016, now()));
    assert!(matches!(report.end, SweepEnd::Finished), "{report:?}");
    let asked = store.take();
    assert_eq!(asked.len(), 4);
    for asked in asked {
        assert_eq!(asked.scope, SweepScope::AllApps);
        assert_eq!(asked.due, Due::CreatedBefore(now() - HOUR));
    }
}

#[tokio::test(start_paused = true)]
async fn each_batch_continues_after_the_one_before_and_each_scope_begins_at_its_start() {
    let next = |n| Ok(sweep_of(5, 5, Some(cursor(n))));
    let last = || Ok(sweep_of(5, 5, None));
    let store = Script::of([next(7), next(8), last(), next(9), last()]);
    let policy = others(all_after(HOUR)).app(app(1), all_after(HOUR)).app(app(2), Retention::default());
    let sweeper = Sweeper::builder(store.clone(), policy).build().unwrap();
    assert_eq!(sweeper.sweep_once(now()).await.deleted, 25);
    let asked: Vec<_> = store.take().into_iter().map(|asked| (asked.scope, asked.after)).collect();
    let own = |after| (SweepScope::App(app(1)), after);
    let others = |after| (SweepScope::AllAppsBut { excepted: vec![app(1), app(2)] }, after);
    assert_eq!(
        asked,
        [own(None), own(Some(cursor(7))), own(Some(cursor(8))), others(None), others(Some(cursor(9))),]
    );
}

#[tokio::test(start_paused = true)]
async fn rows_that_the_database_does_not_delete_are_counted_and_do_not_end_a_scope() {
    let next = |picked, deleted, n| Ok(sweep_of(picked, deleted, Some(cursor(n))));
    let store = Script::of([next(10, 0, 1), next(10, 3, 2), Ok(sweep_of(4, 3, None))]);
    let sweeper = builder(&store).batch(10).build().unwrap();
    let report = sweeper.sweep_once(now()).await;
    assert!(matches!(report.end, SweepEnd::Finished), "{report:?}");
    assert_eq!((report.deleted, report.refused, store.take().len()), (6, 18, 3));
}

#[tokio::test(start_paused = true)]
async fn after_an_error_of_one_app_the_next_apps_are_swept() {
    let DeadLetterRepoError::Db(error) = database_error("P0001") else { unreachable!() };
    let of_app = DeadLetterRepoError::AppNotSwept { app_id: app(7), error };
    let store = Script::of([deleted(0), deleted(0), deleted(5), Err(of_app), deleted(4)]);
    let report = three_steps(&store).sweep_once(now()).await;
    let SweepEnd::Failed(error) = &report.end else { panic!("{report:?}") };
    assert!(error.to_string().starts_with(&format!("app {} could not be swept: ", app(7))), "{error}");
    assert_eq!(report.deleted, 9);
    let others =
        store.take().into_iter().filter(|asked| matches!(asked.scope, SweepScope::AllAppsBut { .. }));
    let others: Vec<_> = others.map(|asked| asked.after).collect();
    let behind = SweepCursor::behind_app(app(7));
    assert_eq!(others, [None, Some(cursor(5)), Some(behind), Some(cursor(4))]);
}

/// By age they go in one order, and the error does not say whose row it is about.
#[tokio::test(start_paused = true)]
async fn after_an_error_of_one_row_all_apps_are_swept_app_by_app() {
    let store = Script::of([deleted(5), refused("P0001"), deleted(4)]);
    let report = builder(&store).build().unwrap().sweep_once(now()).await;
    assert!(matches!(report.end, SweepEnd::Failed(_)), "{report:?}");
    assert_eq!(report.deleted, 9);
    let asked: Vec<_> = store.take().into_iter().map(|asked| (asked.scope, asked.after)).collect();
    let by_app = || SweepScope::AllAppsBut { excepted: Vec::new() };
    assert_eq!(
        asked,
        [
            (SweepScope::AllApps, None),
            (SweepScope::AllApps, Some(cursor(5))),
            (by_app(), None),
            (by_app(), Some(cursor(4))),
        ]
    );
    // A table that is missing is missing for all.
    let store = Script::of([refused("42P01")]);
    let report = builder(&store).build().unwrap().sweep_once(now()).await;
    assert!(matches!(report.end, SweepEnd::Failed(_)), "{report:?}");
    assert_eq!(store.take().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_sweepers_share_of_the_time_is_bounded() {
    for (percent, pause) in [(25, 3 * BUSY), (50, BUSY), (100, Duration::ZERO)] {
        let store = Script::of([deleted(1_000), deleted(999)]);
        let sweeper = builder(&store).busy_percent(percent).build().unwrap();
        let report = sweeper.sweep_once(now()).await;
        let starts: Vec<_> = store.take().iter().map(|asked| asked.at).collect();
        for pair in starts.windows(2) {
            let between = pair[1] - pair[0];
            // tokio's clock has milliseconds.
            assert!((BUSY + pause..=BUSY + pause + BUSY / 10).contains(&between), "{percent}: {between:?}");
        }
        assert!(report.took >= 3 * BUSY + 2 * pause);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_runs_out_of_time_shrinks_and_full_ones_make_it_grow_again() {
    for code in ["57014", "55P03", "25P03", "25P04", "5", "517"] {
        let full = [deleted(250), deleted(312), deleted(374), deleted(20)];
        let store = Script::of([refused(code), refused(code)].into_iter().chain(full));
        let report = builder(&store).build().unwrap().sweep_once(now()).await;
        assert_eq!(report.deleted, 956);
        // A batch that succeeded in the end is no failure.
        assert!(matches!(report.end, SweepEnd::Finished), "{report:?}");
        assert_eq!(store.limits(), [1_000, 500, 250, 312, 374, 436, 436]);
    }
}

#[tokio::test(start_paused = true)]
async fn one_row_that_runs_out_of_time_does_not_keep_the_other_apps() {
    let store = Script::of(std::iter::repeat_with(|| refused("57014")).take(10));
    let report = three_steps(&store).sweep_once(now()).await;
    assert!(matches!(report.end, SweepEnd::Failed(_)), "{report:?}");
    let asked = store.take();
    assert_eq!(asked.len(), 12);
    assert!(asked[..10].iter().all(|asked| asked.scope == SweepScope::App(app(1))));
    assert_eq!(asked[9].limit, 1);
    assert_eq!(asked[10].scope, SweepScope::App(app(2)));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_one_scope_does_not_stop_the_others_and_the_report_has_the_first_error() {
    let store = Script::of([deleted(5), refused("23503"), refused("P0001"), deleted(7)]);
    let report = three_steps(&store).sweep_once(now()).await;
    let SweepEnd::Failed(error) = &report.end else { panic!("{report:?}") };
    assert!(error.to_string().contains("23503"), "{error}");
    // Nothing that was deleted is forgotten.
    assert_eq!(report.deleted, 12);
}

#[tokio::test(start_paused = true)]
async fn a_database_or_an_archive_that_fails_ends_the_tick() {
    let archive = Err(DeadLetterRepoError::Archive(Arc::from(Box::from("full"))));
    for error in [refused("53300"), refused("57P03"), archive] {
        let store = Script::of([deleted(5), error]);
        let report = three_steps(&store).sweep_once(now()).await;
        assert!(matches!(report.end, SweepEnd::Failed(_)), "{report:?}");
        assert_eq!((report.deleted, store.take().len()), (5, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn on_shutdown_the_sweeper_finishes_the_current_batch_and_begins_no_other() {
    let full = || std::iter::repeat_with(|| deleted(1_000)).take(100);
    let store = Script::of(full());
    let sweeper = builder(&store).busy_percent(100).build().unwrap();
    let report = sweeper.sweep_once_until(now(), after(BUSY / 2)).await;
    assert!(matches!(report.end, SweepEnd::Stopped), "{report:?}");
    assert_eq!((report.deleted, store.take().len()), (1_000, 1));
    // In a pause at once, and before the first batch.
    let store = Script::of(full());
    let sweeper = builder(&store).busy_percent(1).build().unwrap();
    let (began, stop) = (Instant::now(), 2 * BUSY);
    sweeper.run(after(stop)).await;
    assert_eq!(store.take().len(), 1);
    assert!(began.elapsed() <= stop + BUSY / 10);
    let report = sweeper.sweep_once_until(now(), future::ready(())).await;
    assert!(matches!(report.end, SweepEnd::Stopped), "{report:?}");
    assert_eq!((report.deleted, store.take().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn ticks_come_after_half_of_the_period_or_more_and_not_in_step() {
    let period = Duration::from_secs(600);
    let store = Script::of([]);
    builder(&store).every(period).build().unwrap().run(after(200 * period)).await;
    let starts: Vec<_> = store.take().iter().map(|asked| asked.at).collect();
    let pauses: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.len() >= 199, "{}", pauses.len());
    assert!(pauses.iter().all(|pause| (period / 2..period + 5 * BUSY).contains(pause)), "{pauses:?}");
    let (shortest, longest) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
    assert!(*longest - *shortest > period / 4, "{shortest:?} to {longest:?}");
}

#[tokio::test(start_paused = true)]
async fn errors_do_not_stop_the_sweeper_and_it_backs_off_from_a_second_to_five_minutes() {
    let store = Script::of((0..12).map(|_| refused("57P03")));
    let sweeper = builder(&store).every(24 * HOUR).build().unwrap();
    let status = sweeper.status();
    sweeper.run(after(HOUR)).await;
    let starts: Vec<_> = store.take().iter().map(|asked| asked.at).collect();
    assert_eq!(starts.len(), 13);
    for (n, pair) in (0..).zip(starts.windows(2)) {
        let longest = Duration::from_secs((1 << n).min(300));
        // And the pause of the batch before.
        let pause = pair[1] - pair[0];
        assert!((longest / 2..longest + 5 * BUSY).contains(&pause), "{n}: {pause:?}");
    }
    let status = status.borrow();
    assert!(matches!(status.last.as_ref().unwrap().end, SweepEnd::Finished), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn the_status_has_the_running_sweep_and_the_last_report() {
    let store = Script::of([deleted(7), deleted(0), refused("57P03")]);
    let sweeper = Arc::new(builder(&store).build().unwrap());
    let mut status = sweeper.status();
    assert!(status.borrow().running_since.is_none() && status.borrow().last.is_none());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn({
        let sweeper = sweeper.clone();
        async move { sweeper.run(stopped).await }
    });
    let began = status.wait_for(|status| status.running_since.is_some()).await.unwrap().running_since;
    let so_far = status.wait_for(|status| status.deleted > 0).await.unwrap().clone();
    assert_eq!((so_far.deleted, so_far.running_since), (7, began));
    let first = status.wait_for(|status| status.running_since.is_none()).await.unwrap().clone();
    assert_eq!(first.deleted, 0);
    let report = first.last.unwrap();
    assert_eq!((report.deleted, Some(report.began_at)), (7, began));
    assert!(matches!(report.end, SweepEnd::Finished) && report.took >= 2 * BUSY, "{report:?}");
    assert_eq!(first.last_success_at, began);
    let failed = |end: &SweepEnd| matches!(end, SweepEnd::Failed(_));
    let second = status
        .wait_for(|status| status.last.as_ref().is_some_and(|report| failed(&report.end)))
        .await
        .unwrap()
        .clone();
    // A failure does not take the last success away.
    assert_eq!(second.last_success_at, began);
    stop.send(()).unwrap();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_dropped_sweep_the_status_is_idle_and_has_the_last_report() {
    let store = Script::of([deleted(7)]);
    let sweeper = builder(&store).build().unwrap();
    let report = sweeper.sweep_once(now()).await;
    for dropped_after in [Duration::ZERO, BUSY / 2, 2 * BUSY] {
        store.answers.lock().unwrap().extend([deleted(1_000), deleted(1_000)]);
        let sweep = sweeper.sweep_once(Utc::now());
        tokio::time::timeout(dropped_after, sweep).await.unwrap_err();
        let status = sweeper.status().borrow().clone();
        assert_eq!(status.running_since, None);
        assert_eq!(status.last.unwrap().deleted, report.deleted);
    }
}

#[tokio::test(start_paused = true)]
async fn due_within_counts_open_rows_by_each_apps_own_retention_up_to_its_cap() {
    let store = Script::of([]);
    let day = 24 * HOUR;
    let both = Retention::default().delete_closed_after(day).delete_all_after(30 * day);
    let policy = others(both).app(app(1), all_after(90 * day)).app(app(2), Retention::default());
    let sweeper = Sweeper::builder(store.clone(), policy).build().unwrap();
    let week = 7 * day;
    let count = async |app_id, cap| {
        let counted = sweeper.due_within(app_id, now(), week, cap).await.unwrap();
        let asked: Vec<_> = store.take().into_iter().map(|asked| (asked.scope, asked.due)).collect();
        ((counted.count, counted.capped), asked)
    };
    let due = |all_after| Due::CreatedBefore(now() + week - all_after);
    let own = (SweepScope::App(app(1)), due(90 * day));
    let others = SweepScope::AllAppsBut { excepted: vec![app(1), app(2)] };
    assert_eq!(count(None, 100).await, ((20, false), vec![own.clone(), (others.clone(), due(30 * day))]));
    assert_eq!(count(None, 15).await, ((15, true), vec![own.clone(), (others, due(30 * day))]));
    assert_eq!(count(None, 5).await, ((5, true), vec![own.clone()]));
    assert_eq!(count(Some(app(1)), 100).await, ((10, false), vec![own]));
    assert_eq!(count(Some(app(2)), 100).await, ((0, false), vec![]));
    assert_eq!(count(Some(app(3)), 100).await, ((10, false), vec![(SweepScope::App(app(3)), due(30 * day))]));
    // Beyond all of chrono's time.
    sweeper.due_within(None, now(), Duration::MAX, 1).await.unwrap();
}

#[test]
fn a_retention_of_less_than_an_hour_is_refused_unless_it_is_meant() {
    let store = Script::of([]);
    let short = HOUR - Duration::from_nanos(1);
    let resolved = Retention::default().delete_closed_after(short).delete_all_after(HOUR);
    let own = others(all_after(HOUR)).app(app(1), all_after(short));
    for (policy, app_id, field) in [
        (others(all_after(short)), None, "delete_all_after"),
        (others(resolved), None, "delete_closed_after"),
        (own, Some(app(1)), "delete_all_after"),
    ] {
        let refused = Sweeper::builder(store.clone(), policy.clone()).build().unwrap_err();
        assert_eq!(refused, SweeperConfigError::ShortRetention { app_id, field, value: short });
        Sweeper::builder(store.clone(), policy).short_retention_is_meant().build().unwrap();
    }
    Sweeper::builder(store, others(all_after(HOUR))).build().unwrap();
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let store = Script::of([]);
    let refused = |builder: SweeperBuilder| builder.build().unwrap_err();
    let out_of_range = |argument, value, max| SweeperConfigError::OutOfRange { argument, value, min: 1, max };
    assert_eq!(refused(builder(&store).batch(0)), out_of_range("batch", 0, u32::MAX));
    assert_eq!(refused(builder(&store).busy_percent(0)), out_of_range("busy_percent", 0, 100));
    assert_eq!(refused(builder(&store).busy_percent(101)), out_of_range("busy_percent", 101, 100));
    let short = Duration::from_millis(999);
    assert_eq!(refused(builder(&store).every(short)), SweeperConfigError::ShortPeriod(short));
    let apps = |count| {
        (0..count).fold(RetentionPolicy::default(), |policy, n| policy.app(app(n), Retention::default()))
    };
    assert_eq!(refused(Sweeper::builder(store.clone(), apps(1_001))), SweeperConfigError::TooManyApps(1_001));
    Sweeper::builder(store, apps(1_000)).every(Duration::MAX).build().unwrap();
}

#[tokio::test(start_paused = true)]
async fn ticks_are_counted_by_their_end_and_the_last_success_is_a_gauge() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    describe_metrics();
    let store = Script::of([refused("57P03"), Ok(sweep_of(9, 7, None))]);
    let sweeper = builder(&store).build().unwrap();
    let failed = sweeper.sweep_once(now()).await;
    assert!(matches!(failed.end, SweepEnd::Failed(_)), "{failed:?}");
    let finished = sweeper.sweep_once(now() + HOUR).await;
    assert!(matches!(finished.end, SweepEnd::Finished), "{finished:?}");
    let stopped = sweeper.sweep_once_until(now() + 2 * HOUR, future::ready(())).await;
    assert!(matches!(stopped.end, SweepEnd::Stopped), "{stopped:?}");
    // Dropped under way: counted nowhere.
    let dropped = sweeper.sweep_once(now() + 3 * HOUR);
    tokio::time::timeout(BUSY / 2, dropped).await.unwrap_err();
    let mut told: Vec<_> = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, _, description, value)| {
            assert!(description.is_some(), "{key:?} is not described");
            let ends: Vec<_> = key.key().labels().map(|label| label.value().to_owned()).collect();
            (key.key().name().to_owned(), ends.concat(), value)
        })
        .collect();
    told.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
    let sweeps = |end: &str| ("dead_letters_sweeps_total".to_owned(), end.to_owned(), DebugValue::Counter(1));
    let at = (now() + HOUR).timestamp() as f64;
    let last_success = "dead_letters_sweep_last_success_timestamp_seconds".to_owned();
    let not_deleted = "dead_letters_sweep_refused_total".to_owned();
    assert_eq!(
        told,
        [
            (last_success, String::new(), DebugValue::Gauge(at.into())),
            (not_deleted, String::new(), DebugValue::Counter(2)),
            sweeps("failed"),
            sweeps("finished"),
            sweeps("stopped")
        ]
    );
}
