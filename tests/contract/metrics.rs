//! Tests of what the store reports to the `metrics` crate.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    future::Future,
    path::Path,
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, Utc};
use dead_letters::{
    ActionRequest, AppId, Archive, Attribution, BacklogGauges, BacklogRequest, Buckets,
    CoalescingDeadLetterRepo, CountRequest, DeadLetterAnnounce, DeadLetterDelete, DeadLetterFilter,
    DeadLetterRead, DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, DeadLetterRetention,
    DeadLetterState, DeadLetterTransfer, Due, GroupRequest, JsonLinesArchive, NewDeadLetter, NewGroupRequest,
    PageRequest, PayloadSearch, RebuildRequest, ReopenRequest, ReplayRequest, Requeue, Resolution, Retention,
    RetentionPolicy, SeaOrmDeadLetterRepo, StoredLetter, SweepScope, TimelineRequest, describe_metrics,
    testing::{self, Call, FailingStore},
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use sea_orm::{ConnectionTrait, DatabaseTransaction};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    runtime::Handle,
    task::{JoinSet, yield_now},
};
use uuid::Uuid;

use super::{
    import, letter, new_app,
    observed::{CANARY, heard, listen},
};
use crate::database::TestDb;

on_every_backend! {
    each_call_of_each_trait_has_a_span_and_is_counted_once_with_its_outcome_and_rows,
    the_own_error_of_a_closure_that_replays_is_a_failure,
    a_call_that_is_dropped_is_counted_nowhere_and_its_span_is_closed,
    a_coalesced_insert_is_counted_for_its_caller_and_its_letter_once,
    an_archive_that_fails_is_counted_from_0_on,
    gauges_show_open_letters_and_the_age_of_the_oldest_and_go_to_0_once,
    gauges_that_run_go_on_after_an_error_until_the_shutdown,
    an_app_that_is_pushed_out_of_the_first_1_000_is_no_longer_known,
    a_gauge_shows_the_open_letters_that_will_be_swept_soon,
    no_content_is_in_a_label,
}

/// Metric and labels, as `calls_total call=get outcome=ok`, and the count, or how many durations.
type Told = BTreeMap<String, f64>;

/// Returns the metrics that changed since the last call, without those that are 0.
fn told(snapshotter: &Snapshotter) -> Told {
    let mut told = BTreeMap::new();
    for (key, _, description, value) in snapshotter.snapshot().into_vec() {
        assert!(description.is_some(), "{key:?} is not described");
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Histogram(durations) => durations.len() as f64,
            DebugValue::Gauge(value) => value.into_inner(),
        };
        let mut name = key.key().name().strip_prefix("dead_letters_").unwrap().to_owned();
        for label in key.key().labels() {
            name += &format!(" {}={}", label.key(), label.value());
        }
        told.insert(name, value);
    }
    told.retain(|_, value| *value != 0.0);
    told
}

struct Calls<'a> {
    snapshotter: &'a Snapshotter,
    names: BTreeSet<String>,
}

impl Calls<'_> {
    /// Waits for a call, which must be the only one, and end so.
    async fn expect<T>(
        &mut self,
        name: &str,
        outcome: &str,
        rows: u64,
        call: impl Future<Output = Result<T, DeadLetterRepoError>>,
    ) -> Result<T, DeadLetterRepoError> {
        let answer = call.await;
        let mut expected = BTreeMap::from([
            (format!("calls_total call={name} outcome={outcome}"), 1.0),
            (format!("call_duration_seconds call={name}"), 1.0),
        ]);
        if rows > 0 {
            expected.insert(format!("rows_total call={name}"), rows as f64);
        }
        assert_eq!(told(self.snapshotter), expected);
        self.names.insert(name.to_owned());
        answer
    }

    async fn ok<T>(
        &mut self,
        name: &str,
        rows: u64,
        call: impl Future<Output = Result<T, DeadLetterRepoError>>,
    ) -> T {
        self.expect(name, "ok", rows, call).await.unwrap()
    }

    async fn answer<T>(&mut self, name: &str, call: impl Future<Output = Result<T, DeadLetterRepoError>>) {
        assert!(self.expect(name, "answer", 0, call).await.is_err());
    }

    async fn failed<T>(&mut self, name: &str, call: impl Future<Output = Result<T, DeadLetterRepoError>>) {
        assert!(self.expect(name, "failed", 0, call).await.is_err());
    }
}

/// Returns the methods of the store's traits, read from their source, so that the test cannot miss one.
fn methods() -> BTreeSet<String> {
    let mut methods = BTreeSet::new();
    for file in [
        "repo.rs",
        "read.rs",
        "resolve.rs",
        "delete.rs",
        "transfer.rs",
        "retention.rs",
        "announce.rs",
        "replay.rs",
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
        let source = fs::read_to_string(path).unwrap();
        let (_, the_trait) = source.split_once("\npub trait DeadLetter").unwrap();
        let (the_trait, _) = the_trait.split_once("\n}\n").unwrap();
        for method in the_trait.split("\n    async fn ").skip(1) {
            methods.insert(method.split_once('(').unwrap().0.to_owned());
        }
    }
    methods
}

fn two() -> ReplayRequest {
    ReplayRequest::default().limit(2)
}

struct Nowhere;

#[async_trait]
impl Requeue for Nowhere {
    async fn requeue(
        &self,
        _: &DatabaseTransaction,
        _: &[StoredLetter],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}

async fn each_call_of_each_trait_has_a_span_and_is_counted_once_with_its_outcome_and_rows(db: TestDb) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    describe_metrics();
    listen();
    let mut calls = Calls { snapshotter: &snapshotter, names: BTreeSet::new() };
    let repo = db.repo();
    let replayer = repo.replayer(Nowhere);
    let dir = TempDir::new().unwrap();
    let archive: &dyn Archive = &JsonLinesArchive::new(dir.path());
    let app = new_app();
    let missing = Uuid::nil().into();
    let now = Utc::now();
    let max = DateTime::<Utc>::MAX_UTC;
    let open = DeadLetterFilter::default().state(DeadLetterState::Open);
    let of_bulk = open.clone().created_before(max);
    let endless = DeadLetterFilter::default().ids([missing; 1_001]);
    let page = PageRequest::default();
    let no_page = PageRequest::default().size(0);
    let groups = GroupRequest::default();
    let new = NewGroupRequest::since(now - chrono::Duration::days(1)).among([app]);
    let from = now - chrono::Duration::days(1);
    let day = Buckets::new(from..from + chrono::Duration::days(2), 2);
    let backwards = Buckets::new(now..from, 2);
    let (scope, due) = (SweepScope::App(app), Due::CreatedBefore(max));
    let excepted = SweepScope::AllAppsBut { excepted: vec![app; 1_001] };
    let any = DeadLetterState::Any;
    let take = async |rows: u64| Ok(rows);

    // Seven letters, and what reads and counts them.
    let id = calls.ok("insert", 1, repo.insert(letter(app))).await;
    let ids = calls.ok("insert_many", 3, repo.insert_many(vec![letter(app); 3])).await;
    calls.ok("bury", 1, repo.bury_with(letter(app), async |_: &DatabaseTransaction| take(1).await)).await;
    let elsewhere = import::stored();
    calls.ok("import", 1, repo.import(&[elsewhere.clone(), elsewhere.clone()])).await;
    calls.ok("rebuild_signatures", 0, repo.rebuild_signatures(&RebuildRequest::default())).await;
    db.execute("UPDATE dead_letters SET signature_version = 1").await;
    // But an erased one.
    calls.ok("rebuild_signatures", 5, repo.rebuild_signatures(&RebuildRequest::default())).await;
    let txn = calls.ok("begin", 0, SeaOrmDeadLetterRepo::begin(&db.db)).await;
    calls.ok("insert", 1, repo.in_transaction(&txn).insert(letter(app))).await;
    calls.ok("commit", 0, SeaOrmDeadLetterRepo::commit(txn)).await;
    calls.ok("get", 1, repo.get(id)).await;
    calls.ok("get", 0, repo.get(missing)).await;
    calls.ok("list_for_app", 2, repo.list_for_app(app, true, 2, 0)).await;
    calls.ok("unresolved_count", 6, repo.unresolved_count(app)).await;
    calls.ok("app_of", 1, repo.app_of(id)).await;
    calls.ok("get_for_app", 1, repo.get_for_app(app, id)).await;
    calls.ok("summary", 1, repo.summary(app, id)).await;
    calls.ok("payload_text", 1, repo.payload_text(app, id, 0..9)).await;
    calls.ok("replayed_payload_text", 0, repo.replayed_payload_text(app, id, 0..9)).await;
    calls.ok("error_text", 1, repo.error_text(app, id, 0..9)).await;
    calls.ok("metadata", 1, repo.metadata(app, id)).await;
    calls.ok("list", 6, repo.list(app, &open, &page)).await;
    calls.ok("list", 5, repo.list(app, &open, &page.clone().size(5))).await;
    calls.ok("search_payloads", 6, repo.search_payloads(app, &PayloadSearch::new("{"))).await;
    calls.ok("export", 6, repo.export(app, &open, &page)).await;
    calls.ok("backlogs", 5, repo.backlogs(&BacklogRequest::default().limit(10).cap(5))).await;
    calls.ok("apps", 0, repo.apps(DeadLetterState::Any, None, 10)).await;
    calls.ok("unresolved_counts", 6, repo.unresolved_counts(&[app, new_app()], None)).await;
    calls.ok("count", 4, repo.count(app, &open, &CountRequest::default().cap(4))).await;
    calls.ok("timeline", 6, repo.timeline(app, &open, &TimelineRequest::from(day))).await;
    calls.ok("error_groups", 6, repo.error_groups(app, &open, &groups)).await;
    calls.ok("new_error_groups", 6, repo.new_error_groups(&new)).await;
    let found = calls.ok("unannounced_groups", 6, repo.unannounced_groups(&new)).await;
    let (group, lease) = (&found.groups[0], Duration::from_secs(60));
    let claim = calls.ok("claim_announcement", 1, repo.claim_announcement(group, lease)).await.unwrap();
    calls.ok("claim_announcement", 0, repo.claim_announcement(group, lease)).await;
    calls.ok("confirm_announcement", 1, repo.confirm_announcement(&claim)).await;
    calls.ok("unannounced_groups", 5, repo.unannounced_groups(&new)).await;
    calls.ok("sweep_announcements", 1, repo.sweep_announcements(max, max, 10)).await;
    calls.ok("count_due", 6, repo.count_due(&scope, due, any, 10)).await;

    // The first call resolves the letter. The others find it closed.
    calls.ok("resolve", 1, repo.resolve(id, "ignored")).await;
    let (closed, one) = (DeadLetterFilter::default().resolved_before(max), ReopenRequest::default().limit(1));
    let nobody = Attribution::default();
    calls.ok("reopen_matching", 1, repo.reopen_matching(app, &closed, &nobody, &one)).await;
    calls.ok("resolve", 1, repo.resolve(id, "ignored")).await;
    calls.ok("reopen", 1, repo.reopen(app, id, &Attribution::default())).await;
    calls.ok("record_reveal", 1, repo.record_reveal(app, id, &Attribution::default())).await;
    calls
        .ok("resolve_once", 1, repo.resolve_once(app, id, Resolution::Ignored, &Attribution::default()))
        .await;
    let row = calls.ok("replay", 1, replayer.replay(app, ids[0], &Attribution::default())).await;
    calls.ok("reopen", 1, repo.reopen(app, id, &nobody)).await;
    calls.ok("replay_edited", 1, replayer.replay_edited(app, id, "1", &nobody)).await;
    calls.ok("erase", 1, repo.erase(app, &[id], &nobody)).await;
    let this = DeadLetterFilter::default().ids([id]);
    calls.ok("delete_matching", 1, repo.delete_matching(app, &this, &nobody, 1)).await;
    calls.ok("actions", 9, repo.actions(app, &ActionRequest::default())).await;
    calls.ok("letters_version", 0, repo.letters_version(Some(app))).await;
    calls.ok("recent_apps", 0, repo.recent_apps(from)).await;
    calls.ok("times_replayed", 1, repo.times_replayed(app, &[row.original_event_id, Uuid::nil()])).await;
    calls
        .ok("replay_matching", 2, replayer.replay_matching(app, &of_bulk, &Attribution::default(), &two()))
        .await;
    calls
        .ok(
            "resolve_matching",
            1,
            repo.resolve_matching(app, &of_bulk, Resolution::Ignored, &Attribution::default(), 1),
        )
        .await;
    calls.answer("replay", repo.replay_with(app, id, &nobody, async |_, _| Ok(()))).await;
    calls
        .ok(
            "replay_matching",
            1,
            repo.replay_matching_with(app, &of_bulk, &Attribution::default(), 2, async |_, _| Ok(())),
        )
        .await;

    calls.answer("insert", repo.insert(NewDeadLetter { first_attempt_at: max, ..letter(app) })).await;
    let bad = NewDeadLetter { first_attempt_at: max, ..letter(app) };
    calls.answer("insert_many", repo.insert_many(vec![letter(app), bad])).await;
    calls.answer("bury", repo.bury_with(letter(app), async |_: &DatabaseTransaction| take(0).await)).await;
    calls.answer("import", repo.import(&vec![elsewhere.clone(); 1_001])).await;
    let nothing = RebuildRequest::default().limit(0);
    calls.answer("rebuild_signatures", repo.rebuild_signatures(&nothing)).await;
    calls.answer("list_for_app", repo.list_for_app(app, true, -1, 0)).await;
    calls.answer("resolve", repo.resolve(missing, "ignored")).await;
    calls.answer("resolve", repo.resolve(id, "nonsense")).await;
    calls.answer("gc", repo.gc(now, -1)).await;
    calls.answer("list", repo.list(app, &open, &no_page)).await;
    calls.answer("search_payloads", repo.search_payloads(app, &PayloadSearch::new(""))).await;
    calls.answer("export", repo.export(app, &open, &no_page)).await;
    calls.answer("backlogs", repo.backlogs(&BacklogRequest::default().limit(0).cap(1))).await;
    calls.answer("apps", repo.apps(DeadLetterState::Any, None, 0)).await;
    calls.answer("count", repo.count(app, &endless, &CountRequest::default().cap(1))).await;
    calls.answer("timeline", repo.timeline(app, &open, &TimelineRequest::from(backwards))).await;
    calls.answer("error_groups", repo.error_groups(app, &endless, &groups)).await;
    calls.answer("new_error_groups", repo.new_error_groups(&new.clone().limit(0))).await;
    calls.answer("unannounced_groups", repo.unannounced_groups(&new.clone().limit(0))).await;
    calls.answer("sweep_announcements", repo.sweep_announcements(max, max, 0)).await;
    calls.answer("actions", repo.actions(app, &ActionRequest::default().limit(0))).await;
    calls.answer("times_replayed", repo.times_replayed(app, &[Uuid::nil(); 1_001])).await;
    calls
        .answer("resolve_once", repo.resolve_once(app, id, Resolution::Ignored, &Attribution::default()))
        .await;
    calls
        .answer(
            "resolve_matching",
            repo.resolve_matching(app, &open, Resolution::Ignored, &Attribution::default(), 1),
        )
        .await;
    let nobody = Attribution::default();
    calls.answer("reopen_matching", repo.reopen_matching(app, &open, &nobody, &one)).await;
    calls.answer("reopen", repo.reopen(app, missing, &Attribution::default())).await;
    calls.answer("record_reveal", repo.record_reveal(app, missing, &Attribution::default())).await;
    let none = DeadLetterFilter::default();
    calls.answer("delete_matching", repo.delete_matching(app, &none, &nobody, 1)).await;
    calls.answer("erase", repo.erase(app, &[missing; 1_001], &nobody)).await;
    calls.answer("replay_edited", replayer.replay_edited(app, missing, "1", &nobody)).await;
    calls.answer("replay", replayer.replay(app, missing, &Attribution::default())).await;
    calls
        .answer("replay_matching", replayer.replay_matching(app, &open, &Attribution::default(), &two()))
        .await;
    calls.answer("sweep", repo.sweep(&excepted, due, None, 1)).await;
    calls.answer("sweep_into", repo.sweep_into(&excepted, due, None, 1, archive)).await;
    calls.answer("count_due", repo.count_due(&excepted, due, any, 1)).await;

    calls.ok("sweep", 2, repo.sweep(&scope, due, None, 2)).await;
    calls.ok("sweep_into", 3, repo.sweep_into(&scope, due, None, 3, archive)).await;
    calls.ok("gc", 1, repo.gc(max, 100)).await;
    calls.ok("sweep_actions", 2, repo.sweep_actions(max, None, 2)).await;

    db.execute("DROP TABLE dead_letters").await;
    db.execute("DROP TABLE dead_letter_actions").await;
    db.execute("DROP TABLE dead_letter_announcements").await;
    calls.failed("insert", repo.insert(letter(app))).await;
    calls.failed("insert_many", repo.insert_many(vec![letter(app)])).await;
    calls.failed("bury", repo.bury_with(letter(app), async |_: &DatabaseTransaction| take(1).await)).await;
    calls.failed("import", repo.import(&[elsewhere])).await;
    calls.failed("rebuild_signatures", repo.rebuild_signatures(&RebuildRequest::default())).await;
    calls.failed("get", repo.get(id)).await;
    calls.failed("list_for_app", repo.list_for_app(app, true, 2, 0)).await;
    calls.failed("unresolved_count", repo.unresolved_count(app)).await;
    calls.failed("resolve", repo.resolve(id, "ignored")).await;
    calls.failed("gc", repo.gc(max, 100)).await;
    calls.failed("get_for_app", repo.get_for_app(app, id)).await;
    calls.failed("summary", repo.summary(app, id)).await;
    calls.failed("payload_text", repo.payload_text(app, id, 0..9)).await;
    calls.failed("replayed_payload_text", repo.replayed_payload_text(app, id, 0..9)).await;
    calls.failed("error_text", repo.error_text(app, id, 0..9)).await;
    calls.failed("metadata", repo.metadata(app, id)).await;
    calls.failed("list", repo.list(app, &open, &page)).await;
    calls.failed("search_payloads", repo.search_payloads(app, &PayloadSearch::new("{"))).await;
    calls.failed("export", repo.export(app, &open, &page)).await;
    calls.failed("backlogs", repo.backlogs(&BacklogRequest::default().limit(10).cap(5))).await;
    calls.failed("apps", repo.apps(DeadLetterState::Any, None, 10)).await;
    calls.failed("unresolved_counts", repo.unresolved_counts(&[app], None)).await;
    calls.failed("count", repo.count(app, &open, &CountRequest::default().cap(4))).await;
    calls.failed("timeline", repo.timeline(app, &open, &TimelineRequest::from(day))).await;
    calls.failed("error_groups", repo.error_groups(app, &open, &groups)).await;
    calls.failed("new_error_groups", repo.new_error_groups(&new)).await;
    calls.failed("unannounced_groups", repo.unannounced_groups(&new)).await;
    calls.failed("claim_announcement", repo.claim_announcement(group, lease)).await;
    calls.failed("confirm_announcement", repo.confirm_announcement(&claim)).await;
    calls.failed("sweep_announcements", repo.sweep_announcements(max, max, 10)).await;
    calls.failed("actions", repo.actions(app, &ActionRequest::default())).await;
    calls.failed("letters_version", repo.letters_version(Some(app))).await;
    calls.failed("recent_apps", repo.recent_apps(from)).await;
    calls.failed("app_of", repo.app_of(id)).await;
    calls.failed("times_replayed", repo.times_replayed(app, &[Uuid::nil()])).await;
    calls
        .failed("resolve_once", repo.resolve_once(app, id, Resolution::Ignored, &Attribution::default()))
        .await;
    calls
        .failed(
            "resolve_matching",
            repo.resolve_matching(app, &of_bulk, Resolution::Ignored, &Attribution::default(), 1),
        )
        .await;
    calls.failed("reopen_matching", repo.reopen_matching(app, &closed, &nobody, &one)).await;
    calls.failed("reopen", repo.reopen(app, id, &Attribution::default())).await;
    calls.failed("record_reveal", repo.record_reveal(app, id, &Attribution::default())).await;
    calls.failed("sweep", repo.sweep(&scope, due, None, 1)).await;
    calls.failed("sweep_into", repo.sweep_into(&scope, due, None, 1, archive)).await;
    calls.failed("sweep_actions", repo.sweep_actions(max, None, 2)).await;
    calls.failed("count_due", repo.count_due(&scope, due, any, 10)).await;
    calls.failed("delete_matching", repo.delete_matching(app, &of_bulk, &Attribution::default(), 1)).await;
    calls.failed("erase", repo.erase(app, &[id], &Attribution::default())).await;
    calls.failed("replay_edited", replayer.replay_edited(app, id, "1", &Attribution::default())).await;
    calls.failed("replay", replayer.replay(app, id, &Attribution::default())).await;
    calls
        .failed("replay_matching", replayer.replay_matching(app, &of_bulk, &Attribution::default(), &two()))
        .await;
    let txn = calls.ok("begin", 0, SeaOrmDeadLetterRepo::begin(&db.db)).await;
    txn.execute_unprepared("ROLLBACK").await.unwrap();
    calls.failed("commit", SeaOrmDeadLetterRepo::commit(txn)).await;
    db.db.clone().close().await.unwrap();
    calls.failed("begin", SeaOrmDeadLetterRepo::begin(&db.db)).await;

    let mut expected = methods();
    expected.extend(["begin", "bury", "commit"].map(str::to_owned));
    assert_eq!(calls.names, expected);
    let log = heard();
    for name in expected {
        let span = format!(" dead_letters.{name}");
        assert!(log.contains(&format!("{span}{{")) || log.contains(&format!("{span}:")), "{name}");
    }
}

async fn the_own_error_of_a_closure_that_replays_is_a_failure(db: TestDb) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let app = new_app();
    let repo = db.repo();
    let id = repo.insert(letter(app)).await.unwrap();
    let filter = DeadLetterFilter::default().ids([id]);
    let _guard = metrics::set_default_local_recorder(&recorder);
    describe_metrics();
    let own = || DeadLetterRepoError::NotFound(Uuid::nil().into());
    let one: Result<(), _> =
        repo.replay_with(app, id, &Attribution::default(), async |_, _| Err(own())).await;
    let many =
        repo.replay_matching_with(app, &filter, &Attribution::default(), 9, async |_, _| Err(own())).await;
    assert!(matches!(one, Err(DeadLetterRepoError::NotFound(_))), "{one:?}");
    assert!(matches!(many, Err(DeadLetterRepoError::NotFound(_))), "{many:?}");
    let told = told(&snapshotter);
    assert_eq!(told.get("calls_total call=replay outcome=failed"), Some(&1.0));
    assert_eq!(told.get("calls_total call=replay_matching outcome=failed"), Some(&1.0));
    assert_eq!(told.len(), 4, "{told:?}");
}

async fn a_call_that_is_dropped_is_counted_nowhere_and_its_span_is_closed(db: TestDb) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    // It waits for the one connection.
    let pool = db
        .connect_with(|options| {
            options.max_connections(1);
        })
        .await;
    let _txn = SeaOrmDeadLetterRepo::begin(&pool).await.unwrap();
    let repo = db.repo_over(pool);
    let _guard = metrics::set_default_local_recorder(&recorder);
    listen();
    tokio::time::timeout(Duration::ZERO, repo.insert(letter(new_app()))).await.unwrap_err();
    assert_eq!(told(&snapshotter), BTreeMap::new());
    let log = heard();
    for event in ["new", "close"] {
        // Behind the span's fields comes the target.
        let of_the_call =
            |line: &&str| line.contains("}: dead_letters") && line.contains(&format!(": {event}"));
        assert_eq!(log.lines().filter(of_the_call).count(), 1, "{log}");
    }
}

async fn a_coalesced_insert_is_counted_for_its_caller_and_its_letter_once(db: TestDb) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    describe_metrics();
    let app = new_app();
    let repo = std::sync::Arc::new(CoalescingDeadLetterRepo::new(db.repo(), &Handle::current()));
    let mut inserts = JoinSet::new();
    for _ in 0..20 {
        let repo = repo.clone();
        inserts.spawn(async move { repo.insert(letter(app)).await.unwrap() });
    }
    inserts.join_all().await;
    repo.shut_down().await;
    let told = told(&snapshotter);
    let rows = |call| told.get(&format!("rows_total call={call}")).copied().unwrap_or_default();
    assert_eq!(told.get("calls_total call=coalesced_insert outcome=ok"), Some(&20.0));
    assert_eq!(rows("coalesced_insert"), 0.0);
    assert!(rows("insert_many") > 1.0, "{told:?}");
    assert_eq!(rows("insert") + rows("insert_many"), 20.0);
}

async fn an_archive_that_fails_is_counted_from_0_on(db: TestDb) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    describe_metrics();
    let failures = || {
        let metrics = snapshotter.snapshot().into_vec();
        let failures = metrics.into_iter().find(|(key, ..)| key.key().name().contains("archive_failures"));
        failures.map(|(_, _, description, value)| {
            assert!(description.is_some());
            value
        })
    };
    let repo = db.repo();
    let app = new_app();
    repo.insert_many(vec![letter(app); 2]).await.unwrap();
    let (scope, due) = (SweepScope::App(app), Due::CreatedBefore(DateTime::<Utc>::MAX_UTC));
    let dir = TempDir::new().unwrap();
    assert_eq!(failures(), None);
    repo.sweep_into(&scope, due, None, 1, &JsonLinesArchive::new(dir.path())).await.unwrap();
    assert_eq!(failures(), Some(DebugValue::Counter(0)));
    // An archive cannot create its folder in a file.
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let broken = JsonLinesArchive::new(&file);
    repo.sweep_into(&scope, due, None, 1, &broken).await.unwrap_err();
    assert_eq!(failures(), Some(DebugValue::Counter(1)));
    // An error of the database is not the archive's.
    db.execute("DROP TABLE dead_letters").await;
    repo.sweep_into(&scope, due, None, 1, &broken).await.unwrap_err();
    assert_eq!(failures(), Some(DebugValue::Counter(0)));
}

async fn gauges_show_open_letters_and_the_age_of_the_oldest_and_go_to_0_once(db: TestDb) {
    let (old, new, resolved) = (new_app(), new_app(), new_app());
    let repo = db.repo();
    let before = Utc::now().trunc_subsecs(3);
    let ids = repo.insert_many(vec![letter(old); 3]).await.unwrap();
    db.set_created_at(ids[1], before - chrono::Duration::hours(1)).await;
    let id = repo.insert(letter(new)).await.unwrap();
    db.set_created_at(id, before + chrono::Duration::days(1)).await;
    let id = repo.insert(letter(resolved)).await.unwrap();
    db.set_created_at(id, before - chrono::Duration::hours(1)).await;
    repo.resolve(id, "handler_failed").await.unwrap();

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let guard = metrics::set_default_local_recorder(&recorder);
    describe_metrics();
    let mut gauges = BacklogGauges::default();
    assert!(gauges.update(&repo, 2).await.unwrap());
    let told_first = told(&snapshotter);
    // The recorder has set them to 0 by being asked.
    gauges.update(&repo, 2).await.unwrap();
    repo.resolve(id, "ignored").await.unwrap();
    gauges.update(&repo, 2).await.unwrap();
    let told_then = told(&snapshotter);
    drop(guard);
    let elapsed = (Utc::now() - before).as_seconds_f64();
    let open = |told: &Told, app: AppId| told.get(&format!("open app_id={app}")).copied();
    let age = |told: &Told, app: AppId| told.get(&format!("oldest_open_seconds app_id={app}")).copied();
    for (app, count, is_old) in [(old, 2.0, true), (new, 1.0, false), (resolved, 1.0, true)] {
        assert_eq!(open(&told_first, app), Some(count));
        // One of the future is as one of now.
        let age = age(&told_first, app).unwrap_or_default();
        let hour = if is_old { 3_600.0 } else { 0.0 };
        assert!((hour..=hour + elapsed).contains(&age), "{age}");
    }
    assert_eq!(open(&told_then, old), Some(2.0));
    assert_eq!((open(&told_then, resolved), age(&told_then, resolved)), (None, None));

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    gauges.update(&repo, 2).await.unwrap();
    for (key, ..) in snapshotter.snapshot().into_vec() {
        assert!(key.key().labels().all(|label| label.value() != resolved.to_string()), "{key:?}");
    }
    db.execute("DROP TABLE dead_letters").await;
    gauges.update(&repo, 2).await.unwrap_err();
}

async fn gauges_that_run_go_on_after_an_error_until_the_shutdown(db: TestDb) {
    let app = new_app();
    let store = FailingStore::new(db.repo());
    store.insert(letter(app)).await.unwrap();
    store.fail(Call::Backlogs, ..1, testing::transient());
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    describe_metrics();
    let is_set = async {
        while told(&snapshotter).get(&format!("open app_id={app}")) != Some(&1.0) {
            yield_now().await;
        }
    };
    // Without a second update it would never end.
    BacklogGauges::default().run(&store, Duration::from_millis(1), 9, is_set).await;
}

async fn a_gauge_shows_the_open_letters_that_will_be_swept_soon(db: TestDb) {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let repo = db.repo();
    let ids = repo.insert_many(vec![letter(new_app()); 4]).await.unwrap();
    for (id, age) in ids.iter().zip([91, 84, 82, 84]) {
        db.set_created_at(*id, Utc::now().trunc_subsecs(6) - age * DAY).await;
    }
    repo.resolve(ids[3], "ignored").await.unwrap();

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    describe_metrics();
    let others = Retention::default().delete_all_after(90 * DAY);
    let policy = RetentionPolicy::new(others);
    let gauges = BacklogGauges::default();
    for (cap, expiring) in [(10, 2.0), (1, 1.0)] {
        gauges.update_expiring(&repo, &policy, 7 * DAY, cap).await.unwrap();
        assert_eq!(told(&snapshotter).get("expiring"), Some(&expiring));
    }
    db.execute("DROP TABLE dead_letters").await;
    gauges.update_expiring(&repo, &policy, 7 * DAY, 10).await.unwrap_err();
}

async fn an_app_that_is_pushed_out_of_the_first_1_000_is_no_longer_known(db: TestDb) {
    let app = |n: u128| AppId::from(Uuid::from_u128(n));
    let repo = db.repo();
    let letters = (1..=999).chain([5_000]).map(|n| letter(app(n))).collect();
    let ids = repo.insert_many(letters).await.unwrap();

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    describe_metrics();
    let mut gauges = BacklogGauges::default();
    let open = |told: &Told, n| told.get(&format!("open app_id={}", app(n))).copied();
    assert!(!gauges.update(&repo, 9).await.unwrap());
    assert_eq!(open(&told(&snapshotter), 5_000), Some(1.0));
    repo.insert(letter(app(1_000))).await.unwrap();
    repo.insert(letter(app(1_001))).await.unwrap();
    gauges.update(&repo, 9).await.unwrap();
    let pushed = told(&snapshotter);
    assert_eq!(open(&pushed, 1_000), Some(1.0));
    assert!(open(&pushed, 5_000).unwrap().is_nan(), "{pushed:?}");
    repo.resolve_once(app(1), ids[0], Resolution::Ignored, &Attribution::default()).await.unwrap();
    gauges.update(&repo, 9).await.unwrap();
    let resolved = told(&snapshotter);
    assert_eq!((open(&resolved, 1), open(&resolved, 1_001)), (None, Some(1.0)));
}

async fn no_content_is_in_a_label(db: TestDb) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    describe_metrics();
    let app = new_app();
    let repo = db.repo();
    let sent = NewDeadLetter {
        source: CANARY.to_owned(),
        op: CANARY.to_owned(),
        payload: json!({ CANARY: CANARY }),
        last_error: CANARY.to_owned(),
        ..letter(app)
    };
    let id = repo.insert(sent).await.unwrap();
    repo.resolve(id, CANARY).await.unwrap_err();
    repo.error_groups(app, &DeadLetterFilter::default(), &GroupRequest::default()).await.unwrap();
    BacklogGauges::default().update(&repo, 9).await.unwrap();
    let told = told(&snapshotter);
    assert_eq!(told.get(&format!("open app_id={app}")), Some(&1.0));
    assert!(!told.keys().any(|name| name.contains(CANARY)), "{told:?}");
}
