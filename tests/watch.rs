//! Tests of the watch's loop by itself, on a paused clock: when it asks the store, and how it treats errors.
//! contract/watch.rs tests what it tells.

use std::{
    collections::VecDeque,
    error::Error,
    future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::{
    AnnouncementClaim, DeadLetterAnnounce, DeadLetterRepoError, GroupWatch, GroupWatchBuilder,
    GroupWatchConfigError, GroupWatchEnd, NewErrorGroup, NewGroupRequest, Notify, UnannouncedGroups,
    describe_metrics,
    testing::{database_error, new_error_group},
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

const MINUTE: Duration = Duration::from_secs(60);

/// Answers each look with so many groups, or with an error, and then with none.
#[derive(Default)]
struct Script {
    looks: Mutex<VecDeque<Result<usize, DeadLetterRepoError>>>,
    asked: Mutex<Vec<(Instant, NewGroupRequest)>>,
    confirmed: AtomicUsize,
}

fn as_of() -> DateTime<Utc> {
    "2026-03-01T10:00:00Z".parse().unwrap()
}

#[async_trait]
impl DeadLetterAnnounce for Script {
    async fn unannounced_groups(
        &self,
        request: &NewGroupRequest,
    ) -> Result<UnannouncedGroups, DeadLetterRepoError> {
        self.asked.lock().unwrap().push((Instant::now(), request.clone()));
        let groups = self.looks.lock().unwrap().pop_front().unwrap_or(Ok(0))?;
        let groups = (0..groups).map(|_| new_error_group(Uuid::nil().into())).collect();
        Ok(UnannouncedGroups::new(groups, as_of()))
    }

    async fn claim_announcement(
        &self,
        group: &NewErrorGroup,
        _: Duration,
    ) -> Result<Option<AnnouncementClaim>, DeadLetterRepoError> {
        Ok(Some(AnnouncementClaim::new(group, as_of())))
    }

    async fn confirm_announcement(&self, _: &AnnouncementClaim) -> Result<bool, DeadLetterRepoError> {
        self.confirmed.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    async fn sweep_announcements(
        &self,
        announced_before: DateTime<Utc>,
        abandoned_before: DateTime<Utc>,
        _: u32,
    ) -> Result<u64, DeadLetterRepoError> {
        assert_eq!((announced_before, abandoned_before), (as_of() - TimeDelta::days(90), as_of()));
        Ok(0)
    }
}

impl Script {
    fn of(looks: impl IntoIterator<Item = Result<usize, DeadLetterRepoError>>) -> Arc<Self> {
        Arc::new(Self { looks: Mutex::new(looks.into_iter().collect()), ..Default::default() })
    }

    fn asked(&self) -> Vec<(Instant, NewGroupRequest)> {
        self.asked.lock().unwrap().clone()
    }
}

/// Hangs, fails or succeeds.
enum Receiver {
    Hangs,
    Fails,
    Succeeds,
}

#[async_trait]
impl Notify for Receiver {
    async fn notify(&self, _: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
        match self {
            Self::Hangs => future::pending().await,
            Self::Fails => Err("out of reach".into()),
            Self::Succeeds => Ok(()),
        }
    }
}

fn builder(store: &Arc<Script>, receiver: Receiver) -> GroupWatchBuilder {
    GroupWatch::builder(store.clone(), Arc::new(receiver))
}

#[tokio::test(start_paused = true)]
async fn each_look_follows_a_pause_and_begins_15_minutes_before_the_last_complete_tick() {
    let store = Script::of([Ok(1), Ok(50), Ok(0)]);
    let watch = builder(&store, Receiver::Succeeds).build().unwrap();
    let began = Utc::now();
    watch.run(tokio::time::sleep(4 * MINUTE)).await;
    let asked = store.asked();
    assert!(asked.len() >= 5, "{asked:?}");
    let first = asked[0].1.since;
    assert!((began - TimeDelta::hours(1)..=Utc::now() - TimeDelta::hours(1)).contains(&first), "{first}");
    for pair in asked.windows(2) {
        let pause = pair[1].0 - pair[0].0;
        assert!((MINUTE / 2..=MINUTE + Duration::from_millis(10)).contains(&pause), "{pause:?}");
        assert_eq!(pair[1].1.since, as_of() - TimeDelta::minutes(15));
        assert_eq!((pair[1].1.limit, pair[1].1.scan_limit), (50, 10_000));
    }
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_tick_does_not_advance_the_start_of_the_next_look() {
    for incomplete in [Ok(50), Err(database_error("57P03"))] {
        let store = Script::of([incomplete, Ok(0)]);
        let watch = builder(&store, Receiver::Succeeds).build().unwrap();
        for _ in 0..3 {
            let _ = watch.announce_once().await;
        }
        let since: Vec<_> = store.asked().into_iter().map(|(_, request)| request.since).collect();
        assert_eq!(since[0], since[1]);
        assert_eq!(since[2], as_of() - TimeDelta::minutes(15));
    }
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_store_do_not_stop_the_watch_and_each_one_doubles_the_pause() {
    let store = Script::of([Err(database_error("57P03")), Err(database_error("42P01")), Ok(1)]);
    let watch = builder(&store, Receiver::Succeeds).build().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (store_of_run, asks) = (store.clone(), 4);
    let running = tokio::spawn(async move { watch.run(stopped).await });
    while store_of_run.asked().len() < asks {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(stop);
    running.await.unwrap();
    let asked = store.asked();
    let pauses: Vec<_> = asked.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64()).collect();
    for (pause, longest) in pauses.iter().zip([1.0, 2.0, 60.0]) {
        assert!((longest / 2.0..=longest + 0.01).contains(pause), "{pauses:?}");
    }
    assert_eq!(store.confirmed.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_hangs_is_given_up_at_the_end_of_the_lease() {
    let store = Script::of([Ok(2)]);
    let watch = builder(&store, Receiver::Hangs).lease(MINUTE).build().unwrap();
    let began = Instant::now();
    let report = watch.announce_once().await;
    assert_eq!((report.announced, report.failed), (0, 2));
    assert!((2 * MINUTE..3 * MINUTE).contains(&began.elapsed()));
    assert_eq!(store.confirmed.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_the_watch_before_the_next_group() {
    let store = Script::of([Ok(5)]);
    let watch = builder(&store, Receiver::Hangs).lease(MINUTE).build().unwrap();
    let began = Instant::now();
    watch.run(tokio::time::sleep(MINUTE / 2)).await;
    assert!((MINUTE..2 * MINUTE).contains(&began.elapsed()));
    let store = Script::of([Ok(5)]);
    builder(&store, Receiver::Succeeds).build().unwrap().run(future::ready(())).await;
    assert_eq!(store.confirmed.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn announcements_and_failures_are_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    describe_metrics();
    for (receiver, groups) in [(Receiver::Succeeds, 4), (Receiver::Fails, 2)] {
        let watch = builder(&Script::of([Ok(groups)]), receiver).build().unwrap();
        assert!(matches!(watch.announce_once().await.end, GroupWatchEnd::Finished));
    }
    let metrics = snapshotter.snapshot().into_vec().into_iter();
    let mut counted: Vec<_> = metrics
        .filter(|(key, ..)| key.key().name() == "dead_letters_announcements_total")
        .map(|(key, _, description, value)| {
            assert!(description.is_some());
            (key.key().labels().next().unwrap().value().to_owned(), value)
        })
        .collect();
    counted.sort_by(|(one, _), (other, _)| one.cmp(other));
    let count = |outcome: &str, count| (outcome.to_owned(), DebugValue::Counter(count));
    assert_eq!(counted, [count("announced", 4), count("failed", 2)]);
}

#[test]
fn settings_that_can_not_work_are_refused() {
    let watch = || builder(&Script::of([]), Receiver::Succeeds);
    let (day, short) = (1_440 * MINUTE, Duration::from_millis(999));
    for lease in [short, day + Duration::from_secs(1)] {
        let refused = watch().lease(lease).build().map(drop);
        assert_eq!(refused, Err(GroupWatchConfigError::Lease(lease)));
    }
    assert_eq!(watch().every(short).build().map(drop), Err(GroupWatchConfigError::ShortPeriod(short)));
    for limit in [0, 501] {
        assert_eq!(watch().limit(limit).build().map(drop), Err(GroupWatchConfigError::Limit(limit)));
    }
    assert_eq!(watch().scan_limit(0).build().map(drop), Err(GroupWatchConfigError::NoScan));
    for lease in [Duration::from_secs(1), day] {
        watch().lease(lease).every(lease).limit(500).scan_limit(1).build().unwrap();
    }
}
