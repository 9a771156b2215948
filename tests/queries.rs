//! Query plans of the statements that the repo really sends, over enough skewed rows that a wrong one would
//! show.

use std::{error::Error, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dead_letters::{
    ActionRequest, AppId, Attribution, BacklogRequest, Buckets, CountRequest, DeadLetterAnnounce,
    DeadLetterDelete, DeadLetterFilter, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError,
    DeadLetterResolve, DeadLetterRetention, DeadLetterState, DeadLetterTransfer, Due, GroupRequest, ListSort,
    NewGroupRequest, PageRequest, PayloadSearch, RebuildRequest, ReopenRequest, ReplayRequest, Requeue,
    Resolution, SeaOrmDeadLetterRepo, StoredLetter, SweepCursor, SweepScope, TimelineRequest,
    testing::new_error_group,
};
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, Statement, TransactionTrait,
    sea_query::{ArrayType, PostgresQueryBuilder, QueryBuilder, Value},
};
use uuid::Uuid;

use crate::{
    contract::{import::stored, retention::Nowhere},
    database::{Recorded, TestDb},
};

/// The app with 600,000 rows, and the one with 400,000 that are all newer.
fn apps() -> [AppId; 2] {
    [Uuid::from_u128(1).into(), Uuid::from_u128(2).into()]
}

/// When a tenth of the older app's rows are due.
fn cutoff() -> DateTime<Utc> {
    "2026-01-01T16:40:00Z".parse().unwrap()
}

/// Behind the greater part of what is due then.
fn half_way(app_id: AppId) -> SweepCursor {
    SweepCursor { app_id, time: "2026-01-01T12:00:00Z".parse().unwrap(), id: Uuid::nil().into() }
}

/// One row a second from 2026-01-01, each of its own event. Among ten rows one is unresolved, one is
/// `handler_failed`, one is replayed, and seven are ignored,
/// of which three belong to a run of the app each.
async fn fill(db: &TestDb, scale: u32) {
    let (generate, app_id, event_id, time, run_id) = if db.db.get_database_backend() == DbBackend::Sqlite {
        (
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {total})",
            "unhex(printf('%032d', CASE WHEN n <= {older} THEN 1 ELSE 2 END))",
            "unhex(printf('%032d', n))",
            "strftime('%Y-%m-%dT%H:%M:%S+00:00', '2026-01-01', n || ' seconds')",
            "unhex(printf('%032d', n % 10 + CASE WHEN n <= {older} THEN 0 ELSE 10 END))",
        )
    } else {
        (
            "WITH numbers (n) AS (SELECT generate_series(1, {total}))",
            "lpad(CASE WHEN n <= {older} THEN '1' ELSE '2' END, 32, '0')::uuid",
            "lpad(n::text, 32, '0')::uuid",
            "timestamptz '2026-01-01Z' + n * interval '1 second'",
            "lpad((n % 10 + CASE WHEN n <= {older} THEN 0 ELSE 10 END)::text, 32, '0')::uuid",
        )
    };
    let insert = "\
        {generate}
        INSERT INTO dead_letters (app_id, original_event_id, source, op, payload, attempt_count,
            first_attempt_at, last_attempt_at, last_error, error_signature, created_at, resolved_at, resolution,
            run_id)
        SELECT {app_id}, {event_id}, 'orders', 'insert', '{}', 5, {time}, {time}, 'smtp: 451', 'smtp: #', {time},
            CASE WHEN n % 10 > 0 THEN {time} END,
            CASE n % 10 WHEN 0 THEN NULL WHEN 1 THEN 'handler_failed' WHEN 2 THEN 'replayed' ELSE 'ignored' END,
            CASE WHEN n % 10 > 6 THEN {run_id} END
        FROM numbers"
        .replace("{generate}", generate)
        .replace("{app_id}", app_id)
        .replace("{event_id}", event_id)
        .replace("{time}", time)
        .replace("{run_id}", run_id)
        .replace("{total}", &(scale * 10).to_string())
        .replace("{older}", &(scale * 6).to_string());
    db.execute(&insert).await;
    let history = "\
        {generate}
        INSERT INTO dead_letter_actions (app_id, id, action, created_at, actor, letter_id, filter, letters, run_id)
        SELECT {app_id}, {event_id}, 'resolve', {time}, 'ada', CASE WHEN n % 2 = 0 THEN {event_id} END,
            CASE WHEN n % 2 = 1 THEN '' END, 1, CASE WHEN n % 10 > 6 THEN {run_id} END
        FROM numbers WHERE true ON CONFLICT DO NOTHING"
        .replace("{generate}", generate)
        .replace("{app_id}", app_id)
        .replace("{event_id}", event_id)
        .replace("{time}", time)
        .replace("{run_id}", run_id)
        .replace("{total}", &scale.to_string())
        .replace("{older}", &(scale / 10 * 6).to_string());
    db.execute(&history).await;
    // One of ten was not announced.
    let announcements = "\
        {generate}
        INSERT INTO dead_letter_announcements (app_id, group_key, first_seen, claimed_at, leased_until, announced_at)
        SELECT {app_id}, 'group ' || n, {time}, {time}, {time}, CASE WHEN n % 10 > 0 THEN {time} END
        FROM numbers WHERE true ON CONFLICT DO NOTHING"
        .replace("{generate}", generate)
        .replace("{app_id}", app_id)
        .replace("{time}", time)
        .replace("{total}", &(scale / 2).to_string())
        .replace("{older}", &(scale / 10 * 3).to_string());
    db.execute(&announcements).await;
}

struct Expected {
    statement: Statement,
    /// The indexes that it must use.
    indexes: &'static [&'static str],
    reads: Reads,
    /// The most rows that one look at one of `indexes` may read, where that is the point.
    at_most: Option<u32>,
}

const APP: &[&str] = &["idx_dead_letters_app"];
const UNRESOLVED: &[&str] = &["idx_dead_letters_unresolved"];
const UNRESOLVED_COUNT: &[&str] = &["idx_dead_letters_unresolved_count"];
const OPEN: &[&str] = &["idx_dead_letters_unresolved", "idx_dead_letters_handler_failed"];
const CLOSED: &[&str] = &["idx_dead_letters_closed"];
const GC: &[&str] = &["idx_dead_letters_gc"];
const REPLAYS: &[&str] = &["idx_dead_letters_replays"];
const APP_AND_REPLAYS: &[&str] = &["idx_dead_letters_app", "idx_dead_letters_replays"];
const RUNS: &[&str] = &["idx_dead_letters_run"];
const KEY: &[&str] = &["dead_letters_pkey"];
const ACTIONS: &[&str] = &["dead_letter_actions_pkey"];
const VERSION: &[&str] = &[
    "idx_dead_letters_unresolved",
    "idx_dead_letters_handler_failed",
    "idx_dead_letters_app",
    "idx_dead_letters_closed",
    "dead_letter_actions_pkey",
];
const VERSION_OF_ALL: &[&str] = &["idx_dead_letters_gc", "idx_dead_letter_actions_newest"];
const NEWEST_ACTIONS: &[&str] = &["idx_dead_letter_actions_newest"];
const ACTIONS_OF_LETTER: &[&str] = &["idx_dead_letter_actions_letter"];
const BATCH: &[&str] = &["idx_dead_letter_actions_batch"];
const ACTIONS_OF_RUN: &[&str] = &["idx_dead_letter_actions_run"];
const PENDING: &[&str] = &["idx_dead_letter_announcements_pending"];
const ANNOUNCEMENTS: &[&str] = &["dead_letter_announcements_pkey"];
const GC_AND_ANNOUNCEMENTS: &[&str] = &["idx_dead_letters_gc", "dead_letter_announcements_pkey"];
const APP_AND_ANNOUNCEMENTS: &[&str] = &["idx_dead_letters_app", "dead_letter_announcements_pkey"];
const OLD_ANNOUNCEMENTS: &[&str] =
    &["idx_dead_letter_announcements_pending", "idx_dead_letter_announcements_announced"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// In the index's order, and none that it does not use.
    InOrder,
    /// In the index's order, and rows that it does not use: where no index knows what the caller filters by.
    Filtering,
    /// All rows of the condition, which the statement then sorts or counts.
    Whole,
}
use Reads::{Filtering, InOrder, Whole};

/// The statements that the repo sent, and the plans expected of them.
struct Log {
    recorded: Recorded,
    statements: Vec<Expected>,
}

impl Log {
    /// The same of each statement of a call.
    fn expect(&mut self, indexes: &'static [&'static str], reads: Reads, at_most: Option<u32>) {
        let sent = self.recorded.take();
        assert!(!sent.is_empty());
        let sent = sent.into_iter().filter(is_of_rows);
        self.statements.extend(sent.map(|statement| Expected {
            indexes: if is_by_ids(&statement) { KEY } else { indexes },
            statement,
            reads,
            at_most,
        }));
    }

    fn expect_each(&mut self, expected: &[(&'static [&'static str], Reads, Option<u32>)]) {
        let sent: Vec<_> = self.recorded.take().into_iter().filter(is_of_rows).collect();
        assert_eq!(sent.len(), expected.len());
        for (statement, &(indexes, reads, at_most)) in sent.into_iter().zip(expected) {
            self.statements.push(Expected { statement, indexes, reads, at_most });
        }
    }
}

async fn statements(db: &TestDb) -> Vec<Expected> {
    let [app, other] = apps();
    let id = db.repo().list_for_app(app, false, 1, 0).await.unwrap()[0].id;
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let mut log = Log { recorded, statements: Vec::new() };
    let filter = |state| DeadLetterFilter::default().state(state);
    for app in apps() {
        repo.list_for_app(app, false, 50, 0).await.unwrap();
        log.expect(APP, InOrder, Some(50));
        repo.list_for_app(app, false, 50, 100).await.unwrap();
        log.expect(APP, InOrder, Some(150));
        repo.list_for_app(app, true, 50, 100).await.unwrap();
        log.expect(UNRESOLVED, InOrder, Some(150));
        repo.unresolved_count(app).await.unwrap();
        log.expect(UNRESOLVED_COUNT, Whole, None);

        for (state, indexes) in INDEXES {
            let first = PageRequest::default().size(50);
            let after = repo.list(app, &filter(state), &first).await.unwrap().next;
            log.expect(indexes, InOrder, Some(51));
            // The second page: by an index condition, not by reading the first again.
            repo.list(app, &filter(state), &PageRequest::default().size(50).after(after)).await.unwrap();
            log.expect(indexes, InOrder, Some(51));
            bounded(&repo, app, state, indexes, &mut log).await;
        }
    }
    repo.export(app, &filter(DeadLetterState::Any), &PageRequest::default()).await.unwrap();
    log.expect(APP, InOrder, Some(51));
    let orders = filter(DeadLetterState::Any).source("orders");
    repo.export(app, &orders, &PageRequest::default()).await.unwrap();
    log.expect_each(&[
        (APP, Filtering, Some(51)),
        // As many as are on the page.
        (KEY, Whole, Some(1)),
    ]);
    // These requests cover all apps, and a list of apps.
    let backlogs = BacklogRequest::default().limit(50).cap(100);
    for request in [backlogs.clone(), backlogs.clone().after(app), backlogs.among(apps())] {
        repo.backlogs(&request).await.unwrap();
        log.expect(OPEN, Whole, Some(101));
    }
    for (state, indexes) in [(DeadLetterState::Open, OPEN), (DeadLetterState::Any, APP)] {
        for after in [None, Some(app)] {
            repo.apps(state, after, 50).await.unwrap();
            // One row for each app of the page.
            log.expect(indexes, Whole, Some(50));
        }
    }
    let new = NewGroupRequest::since("2026-01-01T00:00:00Z".parse().unwrap()).scan_limit(SCAN);
    repo.new_error_groups(&new).await.unwrap();
    log.expect(GC, Whole, Some(SCAN + 1));
    repo.new_error_groups(&new.clone().open(true)).await.unwrap();
    log.expect(GC, Whole, Some(SCAN + 1));
    repo.new_error_groups(&new.clone().among([app])).await.unwrap();
    log.expect(APP, Whole, Some(SCAN + 1));
    for (new, indexes) in [(new.clone(), GC_AND_ANNOUNCEMENTS), (new.among([app]), APP_AND_ANNOUNCEMENTS)] {
        repo.unannounced_groups(&new).await.unwrap();
        log.expect_each(&[(PENDING, InOrder, Some(1)), (indexes, Whole, Some(SCAN + 1))]);
    }
    let claim = repo.claim_announcement(&new_error_group(app), Duration::from_secs(60)).await.unwrap();
    repo.confirm_announcement(&claim.unwrap()).await.unwrap();
    log.expect(ANNOUNCEMENTS, InOrder, Some(1));
    repo.sweep_announcements(cutoff(), cutoff(), 100).await.unwrap();
    log.expect(OLD_ANNOUNCEMENTS, Whole, Some(100));
    let events: Vec<_> = (0..50).map(|n| Uuid::parse_str(&format!("{:032}", n * 10 + 2)).unwrap()).collect();
    assert_eq!(repo.times_replayed(app, &events).await.unwrap(), [1; 50]);
    log.expect(REPLAYS, InOrder, Some(1));

    repo.unresolved_counts(&apps(), None).await.unwrap();
    log.expect(UNRESOLVED_COUNT, Whole, None);
    repo.unresolved_counts(&apps(), Some(100)).await.unwrap();
    log.expect(UNRESOLVED, InOrder, Some(101));

    repo.get(id).await.unwrap();
    log.expect(KEY, InOrder, Some(1));
    repo.app_of(id).await.unwrap();
    log.expect(KEY, InOrder, Some(1));
    repo.get_for_app(app, id).await.unwrap();
    log.expect(KEY, InOrder, Some(1));
    repo.summary(app, id).await.unwrap();
    log.expect(KEY, InOrder, Some(1));
    repo.payload_text(app, id, 0..100).await.unwrap();
    log.expect(KEY, InOrder, Some(1));
    repo.replayed_payload_text(app, id, 0..100).await.unwrap();
    log.expect(KEY, InOrder, Some(1));
    repo.error_text(app, id, 0..100).await.unwrap();
    log.expect(KEY, InOrder, Some(1));
    repo.metadata(app, id).await.unwrap();
    log.expect(KEY, InOrder, Some(1));
    repo.resolve(id, "handler_failed").await.unwrap();
    log.expect(KEY, InOrder, Some(1));
    repo.resolve_once(app, id, Resolution::HandlerFailed, &Attribution::default()).await.unwrap();
    log.expect(KEY, InOrder, Some(1));
    repo.reopen(app, id, &Attribution::default()).await.unwrap();
    log.expect(KEY, Filtering, Some(1));
    repo.record_reveal(app, id, &Attribution::default()).await.unwrap();
    log.expect(KEY, Filtering, Some(1));

    // Whether it is there is asked where it was not stored.
    repo.import(&[StoredLetter { id, ..stored() }]).await.unwrap();
    log.expect(KEY, InOrder, Some(1));

    // The history has the order of its key and of its indexes.
    let history = ActionRequest::default();
    for (request, index) in [
        (history, ACTIONS),
        (history.letter_id(id), ACTIONS_OF_LETTER),
        (history.run_id(Uuid::from_u128(7)), ACTIONS_OF_RUN),
    ] {
        repo.actions(app, &request).await.unwrap();
        log.expect(index, InOrder, Some(50));
        repo.actions(app, &request.after(Uuid::from_u128(u128::MAX))).await.unwrap();
        log.expect(index, InOrder, Some(50));
    }
    repo.actions(app, &history.letter_id(id).run_id(Uuid::from_u128(7))).await.unwrap();
    log.expect(ACTIONS_OF_LETTER, Whole, Some(50));
    repo.recent_apps(cutoff()).await.unwrap();
    log.expect(NEWEST_ACTIONS, Whole, Some(10_000));
    repo.letters_version(Some(app)).await.unwrap();
    log.expect(VERSION, Whole, Some(1_001));
    repo.letters_version(None).await.unwrap();
    log.expect(VERSION_OF_ALL, Whole, Some(200));
    for before in [cutoff(), DateTime::UNIX_EPOCH] {
        repo.sweep_actions(before, None, 1_000).await.unwrap();
        log.expect(ACTIONS, InOrder, Some(1_000));
    }

    // They were stored without a key.
    repo.rebuild_signatures(&RebuildRequest::default().limit(50)).await.unwrap();
    log.expect_each(&[(KEY, InOrder, Some(51)), (KEY, Whole, Some(50)), (KEY, Whole, Some(50))]);

    // Up to the limit, and below it: then what others hold is looked for.
    for before in [cutoff(), DateTime::UNIX_EPOCH] {
        let due = filter(DeadLetterState::Open).created_before(before);
        repo.resolve_matching(app, &due, Resolution::Ignored, &Attribution::default(), 100).await.unwrap();
        log.expect(OPEN, Whole, Some(100));
        repo.resolve_matching(app, &due, Resolution::HandlerFailed, &Attribution::default(), 100)
            .await
            .unwrap();
        log.expect(UNRESOLVED, Whole, Some(100));
    }

    let due = filter(DeadLetterState::Open).created_before(cutoff());
    let batch = Attribution::default().run_id(Uuid::from_u128(7)).batch(0);
    repo.resolve_matching(app, &due, Resolution::Ignored, &batch, 100).await.unwrap();
    match db.db.get_database_backend() {
        DbBackend::Sqlite => log.expect_each(&[(BATCH, Whole, Some(1)), (OPEN, Whole, Some(100))]),
        _ => log.expect(OPEN, Whole, Some(100)),
    }

    // Up to the limit, and below it.
    for before in [cutoff(), DateTime::UNIX_EPOCH] {
        let due = DeadLetterFilter::default().resolved_before(before);
        let (nobody, request) = (Attribution::default(), ReopenRequest::default().limit(100));
        repo.reopen_matching(app, &due, &nobody, &request.include_replayed(true)).await.unwrap();
        log.expect(CLOSED, Whole, Some(100));
    }
    for run in [7, 4_711] {
        let of_run = DeadLetterFilter::default().run_id(Uuid::from_u128(run));
        let request = ReopenRequest::default().limit(100);
        repo.reopen_matching(app, &of_run, &Attribution::default(), &request).await.unwrap();
        log.expect(RUNS, Whole, Some(100));
        repo.count(app, &of_run, &CountRequest::default().cap(10)).await.unwrap();
        log.expect(RUNS, Whole, None);
        repo.list(app, &of_run, &PageRequest::default().scan_limit(SCAN)).await.unwrap();
        log.expect(RUNS, Whole, None);
    }

    // Where the scan ends, and then the letters. With ids and with a run too.
    let hundred = db.repo().list_for_app(other, false, 100, 0).await.unwrap();
    let these = hundred.iter().map(|row| row.id).collect::<Vec<_>>();
    for (app, filter, indexes) in [
        (other, filter(DeadLetterState::Any).ids(these), KEY),
        (app, DeadLetterFilter::default().run_id(Uuid::from_u128(7)), RUNS),
    ] {
        let search = PayloadSearch::new("no such text").filter(filter);
        let first = PageRequest::default().scan_limit(10);
        let after = repo.search_payloads(app, &search.clone().page(first.clone())).await.unwrap().next;
        log.expect(indexes, Whole, None);
        repo.search_payloads(app, &search.page(first.after(after))).await.unwrap();
        log.expect(indexes, Whole, None);
    }

    let failed_again = filter(DeadLetterState::Any)
        .failed_again_in_run(Uuid::from_u128(7))
        .created_from(DateTime::UNIX_EPOCH);
    repo.list(app, &failed_again, &PageRequest::default().scan_limit(SCAN)).await.unwrap();
    let of_page = (APP_AND_REPLAYS, Filtering, Some(SCAN + 1));
    match db.db.get_database_backend() {
        // Where the scan ends is a statement of its own there.
        DbBackend::Sqlite => log.expect_each(&[(APP, Filtering, Some(SCAN + 1)), of_page]),
        _ => log.expect_each(&[of_page]),
    }

    // Up to the limit, and below it; then behind a place. The letters are fetched by their ids.
    for before in [cutoff(), DateTime::UNIX_EPOCH] {
        let due = filter(DeadLetterState::Open).created_before(before);
        repo.replayer(Nowhere)
            .replay_matching(app, &due, &Attribution::default(), &ReplayRequest::default())
            .await
            .unwrap();
        let expected = [(OPEN, Whole, Some(201)), (KEY, Whole, Some(100))];
        log.expect_each(&expected[..if before == cutoff() { 2 } else { 1 }]);
    }
    let due = filter(DeadLetterState::Open).created_before(cutoff());
    let limit = ReplayRequest::default().limit(1);
    let after =
        repo.replayer(Full).replay_matching(app, &due, &Attribution::default(), &limit).await.unwrap().next;
    assert!(after.is_some());
    log.expect_each(&[(OPEN, Whole, Some(3)), (KEY, Whole, Some(1))]);
    let behind = ReplayRequest::default().after(after);
    repo.replayer(Nowhere).replay_matching(app, &due, &Attribution::default(), &behind).await.unwrap();
    log.expect_each(&[(OPEN, Whole, Some(201)), (KEY, Whole, Some(100))]);

    // Rows by their ids, of which some are open.
    for number in [3, 1_000] {
        let ids = db.repo().list_for_app(other, false, number, 0).await.unwrap();
        let these = filter(DeadLetterState::Any).ids(ids.iter().map(|row| row.id).collect::<Vec<_>>());
        repo.resolve_matching(other, &these, Resolution::Ignored, &Attribution::default(), 1_000)
            .await
            .unwrap();
        log.expect(KEY, Whole, Some(1));
        repo.list(other, &these, &PageRequest::default()).await.unwrap();
        log.expect(KEY, Whole, Some(1));
        repo.count(other, &these, &CountRequest::default()).await.unwrap();
        log.expect(KEY, Whole, Some(1));
    }

    repo.erase(app, &[id], &Attribution::default()).await.unwrap();
    // The first statement locks the letters.
    log.expect_each(&[(KEY, Whole, Some(2)), (KEY, Whole, Some(1)), (ACTIONS_OF_LETTER, Whole, Some(10))]);
    let closed = filter(DeadLetterState::Closed).resolved_before(cutoff());
    for (filter, indexes) in [
        (filter(DeadLetterState::Open).created_before(cutoff()), OPEN),
        (filter(DeadLetterState::Unresolved).created_before(cutoff()), UNRESOLVED),
        (filter(DeadLetterState::Any).created_before(cutoff()), APP),
        (closed, CLOSED),
        (filter(DeadLetterState::Closed).run_id(Uuid::from_u128(7)), RUNS),
    ] {
        repo.delete_matching(app, &filter, &Attribution::default(), 100).await.unwrap();
        log.expect(indexes, Whole, Some(200));
    }

    // One sweep has much to do, and one is idle. The rows that the first one deletes stay deleted, which
    // changes no plan.
    for before in [cutoff(), DateTime::UNIX_EPOCH] {
        repo.gc(before, 1_000).await.unwrap();
        log.expect(GC, InOrder, Some(1_000));
        let (created, resolved) = (Due::CreatedBefore(before), Due::ClosedBefore(before));
        let excepted = vec![apps()[1], Uuid::from_u128(7).into()];
        for (scope, of_created) in [
            (SweepScope::App(app), APP),
            (SweepScope::AllApps, GC),
            (SweepScope::AllAppsBut { excepted }, APP),
        ] {
            for (due, indexes) in [(created, of_created), (resolved, CLOSED)] {
                // From the oldest on, and behind many rows that are due: by an index condition, not by reading those.
                for after in [None, Some(half_way(app))] {
                    repo.sweep(&scope, due, after, 1_000).await.unwrap();
                    log.expect(indexes, InOrder, Some(1_000));
                    repo.sweep_into(&scope, due, after, 1_000, &Nowhere).await.unwrap();
                    log.expect(indexes, InOrder, Some(1_000));
                }
            }
            for (due, state, indexes, reads, at_most) in [
                (created, DeadLetterState::Any, APP, InOrder, Some(1_001)),
                (created, DeadLetterState::Open, OPEN, InOrder, Some(1_001)),
                (created, DeadLetterState::Unresolved, UNRESOLVED, InOrder, Some(1_001)),
                // Among due rows of any state.
                (created, DeadLetterState::Closed, APP, Filtering, None),
                (resolved, DeadLetterState::Any, CLOSED, InOrder, Some(1_001)),
            ] {
                repo.count_due(&scope, due, state, 1_000).await.unwrap();
                log.expect(indexes, reads, at_most);
            }
        }
    }
    // A plan is shown by running the statement again, with the ids of its rows in the history.
    db.execute("DELETE FROM dead_letter_actions WHERE actor IS NULL").await;
    log.statements
}

#[async_trait]
impl Requeue for Nowhere {
    async fn requeue(
        &self,
        _: &DatabaseTransaction,
        _: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
}

/// An outbox that takes no event.
struct Full;

#[async_trait]
impl Requeue for Full {
    async fn requeue(
        &self,
        _: &DatabaseTransaction,
        _: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        Err("the queue is full".into())
    }
}

/// Whether the statement is about rows of the table: a commit's are not, and an import's rows are none yet.
fn is_of_rows(statement: &Statement) -> bool {
    ["dead_letters", "dead_letter_actions", "dead_letter_announcements"]
        .iter()
        .any(|table| statement.sql.contains(table))
        && !statement.sql.starts_with("INSERT")
}

/// Whether the statement is about rows that it names.
fn is_by_ids(statement: &Statement) -> bool {
    ["unnest($1)", "\"id\" IN (?"].iter().any(|by_ids| statement.sql.contains(by_ids))
}

/// The indexes that may list and scan each state.
const INDEXES: [(DeadLetterState, &[&str]); 4] = [
    (DeadLetterState::Any, APP),
    (DeadLetterState::Open, OPEN),
    (DeadLetterState::Unresolved, UNRESOLVED),
    (DeadLetterState::Closed, CLOSED),
];

/// The calls whose scan is bounded, with filters that nothing matches.
async fn bounded(
    repo: &SeaOrmDeadLetterRepo,
    app: AppId,
    state: DeadLetterState,
    indexes: &'static [&'static str],
    log: &mut Log,
) {
    let scan = Some(SCAN);
    let all = DeadLetterFilter::default().state(state);
    let no_error = all.clone().error_contains("no such error");
    // The statistics know that these values are rare, or absent.
    let no_source = all.clone().source("no such source");
    for none in [&no_error, &no_source] {
        let first = PageRequest::default().scan_limit(scan);
        let after = repo.list(app, none, &first).await.unwrap().next;
        log.expect(indexes, Filtering, Some(SCAN + 1));
        repo.list(app, none, &first.clone().after(after)).await.unwrap();
        log.expect(indexes, Filtering, Some(SCAN + 1));
        repo.export(app, none, &first.clone().after(after)).await.unwrap();
        log.expect(indexes, Filtering, Some(SCAN + 1));
        let timed = none.clone().created_from(DateTime::UNIX_EPOCH).created_before(DateTime::<Utc>::MAX_UTC);
        let after = repo.list(app, &timed, &first).await.unwrap().next;
        log.expect(indexes, Filtering, Some(SCAN + 1));
        repo.list(app, &timed, &first.after(after)).await.unwrap();
        log.expect(indexes, Filtering, Some(SCAN + 1));
        repo.count(app, none, &CountRequest::default().cap(100).scan_limit(scan)).await.unwrap();
        log.expect(indexes, Filtering, Some(SCAN + 1));
    }
    // Oldest first reads the same indexes forward, and most attempts sorts what the scan examines.
    let oldest = PageRequest::default().sort(ListSort::Oldest).scan_limit(scan);
    let after = repo.list(app, &no_source, &oldest).await.unwrap().next;
    log.expect(indexes, Filtering, Some(SCAN + 1));
    repo.list(app, &no_source, &oldest.clone().after(after)).await.unwrap();
    log.expect(indexes, Filtering, Some(SCAN + 1));
    let timed = no_source.clone().created_from(DateTime::UNIX_EPOCH).created_before(DateTime::<Utc>::MAX_UTC);
    let after = repo.list(app, &timed, &oldest).await.unwrap().next;
    log.expect(indexes, Filtering, Some(SCAN + 1));
    repo.list(app, &timed, &oldest.after(after)).await.unwrap();
    log.expect(indexes, Filtering, Some(SCAN + 1));
    repo.list(app, &all, &PageRequest::default().sort(ListSort::Oldest)).await.unwrap();
    log.expect(indexes, InOrder, Some(51));
    let most = PageRequest::default().sort(ListSort::MostAttempts).scan_limit(scan);
    repo.list(app, &all, &most).await.unwrap();
    log.expect(indexes, Whole, Some(SCAN + 1));
    // On SQLite the statement that finds where a search ends also sorts the sizes that it adds up.
    let reads: &[Reads] = match repo.pool().get_database_backend() {
        DbBackend::Sqlite => &[Whole, Filtering],
        _ => &[Filtering],
    };
    let expected: Vec<_> = reads.iter().map(|&reads| (indexes, reads, Some(SCAN + 1))).collect();
    for filter in [&all, &no_source, &all.clone().created_from(DateTime::UNIX_EPOCH)] {
        let search = PayloadSearch::new("no such text").filter(filter.clone());
        let first = PageRequest::default().scan_limit(scan);
        let after = repo.search_payloads(app, &search.clone().page(first.clone())).await.unwrap().next;
        log.expect_each(&expected);
        repo.search_payloads(app, &search.page(first.after(after))).await.unwrap();
        log.expect_each(&expected);
        let groups = GroupRequest::default().payload_contains("no such text").scan_limit(scan);
        repo.error_groups(app, filter, &groups).await.unwrap();
        // The groups are sorted.
        log.expect_each(&reads.iter().map(|_| (indexes, Whole, Some(SCAN + 1))).collect::<Vec<_>>());
    }

    // And of a filter that all match.
    repo.count(app, &all, &CountRequest::default().cap(100)).await.unwrap();
    log.expect(indexes, InOrder, Some(101));
    let timeline = Buckets::new(cutoff()..DateTime::<Utc>::MAX_UTC, 60);
    for filter in [no_error, no_source, all] {
        repo.timeline(app, &filter, &TimelineRequest::from(timeline).scan_limit(scan)).await.unwrap();
        log.expect(indexes, Whole, Some(SCAN + 1));
        let request = GroupRequest::default().scan_limit(scan).timeline(timeline);
        repo.error_groups(app, &filter, &request).await.unwrap();
        log.expect(indexes, Whole, Some(SCAN + 1));
    }
}

const SCAN: u32 = 1_000;

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
        Value::SmallInt(_) => "smallint",
        Value::Int(_) => "int",
        Value::BigUnsigned(_) | Value::BigInt(_) => "bigint",
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
    let in_parentheses = |list: String| if list.is_empty() { list } else { format!(" ({list})") };
    let prepare = format!("PREPARE repo{} AS {}", in_parentheses(types.join(", ")), statement.sql);
    txn.execute_unprepared(&prepare).await.unwrap();
    let value = |(value, type_of)| format!("{}::{type_of}", PostgresQueryBuilder.value_to_string(value));
    let values: Vec<_> = values.iter().zip(types).map(value).collect();
    let values = in_parentheses(values.join(", "));
    let execute = format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE repo{values}");
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
    db.execute("VACUUM ANALYZE dead_letters, dead_letter_actions, dead_letter_announcements").await;
    for Expected { statement, indexes, reads, at_most } in statements(&db).await {
        let cost = expected_cost(&db, &statement).await;
        assert!(at_most.is_none() || cost < JIT_ABOVE_COST, "{cost}: {}", statement.sql);
        for generic in [false, true] {
            let plan = plan(&db, &statement, generic).await;
            let shown = format!("generic: {generic}\n{}\n{plan}", statement.sql);
            for index in indexes {
                let read = read_by(index, &plan);
                assert!(!read.is_empty(), "not by {index}: {shown}");
                for read in read {
                    let is_within = at_most.is_none_or(|at_most| read <= at_most.into());
                    assert!(is_within, "more than {at_most:?}: {shown}");
                }
            }
            assert!(!plan.contains("Seq Scan"), "{shown}");
            for wasteful in ["Bitmap", "Sort (", "Sort Method"] {
                assert!(reads == Whole || !plan.contains(wasteful), "{wasteful}: {shown}");
            }
            assert!(reads != InOrder || !throws_rows_away(&plan), "{shown}");
        }
    }
}

/// PostgreSQL compiles a statement that it expects to cost more, which takes longer than these calls.
const JIT_ABOVE_COST: f64 = 100_000.0;

/// The cost that PostgreSQL expects of the whole statement.
async fn expected_cost(db: &TestDb, statement: &Statement) -> f64 {
    let mut explain = statement.clone();
    explain.sql.insert_str(0, "EXPLAIN ");
    let row = db.db.query_one_raw(explain).await.unwrap().unwrap();
    let line: String = row.try_get_by_index(0).unwrap();
    line.split_once("..").unwrap().1.split(' ').next().unwrap().parse().unwrap()
}

/// A batch that was stored at once has one time.
#[tokio::test]
async fn on_postgres_a_search_for_groups_reads_no_more_payloads_of_letters_with_one_time() {
    let db = TestDb::postgres().await;
    fill(&db, 1_000).await;
    db.execute("UPDATE dead_letters SET created_at = '2026-01-01Z'").await;
    db.execute("VACUUM ANALYZE dead_letters").await;
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let groups = GroupRequest::default().payload_contains("{").scan_limit(10);
    for state in [DeadLetterState::Open, DeadLetterState::Unresolved, DeadLetterState::Any] {
        let filter = DeadLetterFilter::default().state(state);
        let found = repo.error_groups(apps()[0], &filter, &groups).await.unwrap();
        assert_eq!(found.groups[0].count, 10);
        for statement in recorded.take().into_iter().filter(is_of_rows) {
            for generic in [false, true] {
                let plan = plan(&db, &statement, generic).await;
                let read = plan.lines().filter_map(|line| rows_of(line).or_else(|| removed_of(line)));
                // Closed letters of that time may stand between the open ones.
                assert!(
                    read.fold(0.0, f64::max) <= 110.0,
                    "{state}, generic: {generic}\n{}\n{plan}",
                    statement.sql
                );
            }
        }
    }
}

#[tokio::test]
async fn on_postgres_no_statement_reads_many_rows_while_the_statistics_know_of_none_that_is_closed() {
    let db = with_statistics_of("resolved_at = NULL, resolution = NULL, run_id = NULL").await;
    let close = "UPDATE dead_letters SET resolved_at = now.resolved_at, resolution = now.resolution
        FROM now WHERE now.id = dead_letters.id AND now.resolution = 'replayed'";
    db.execute(close).await;
    no_plan_reads_many_rows(&db).await;
}

#[tokio::test]
async fn on_postgres_no_statement_reads_many_rows_while_the_statistics_know_of_none_that_is_open() {
    let db = with_statistics_of(
        "resolved_at = created_at,
         resolution = CASE WHEN original_event_id::text LIKE '%2' THEN 'replayed' ELSE 'ignored' END",
    )
    .await;
    let fail = "UPDATE dead_letters SET resolved_at = NULL, resolution = NULL, run_id = NULL
        FROM now WHERE now.id = dead_letters.id AND now.resolution IS NULL";
    db.execute(fail).await;
    no_plan_reads_many_rows(&db).await;
}

#[tokio::test]
async fn on_postgres_no_statement_reads_many_rows_of_a_table_without_statistics() {
    let db = TestDb::postgres().await;
    db.execute("ALTER TABLE dead_letters SET (autovacuum_enabled = false)").await;
    fill(&db, 20_000).await;
    no_plan_reads_many_rows(&db).await;
}

#[tokio::test]
async fn on_postgres_no_statement_reads_many_rows_of_a_large_app_that_is_new_since_the_last_analyze() {
    let db = TestDb::postgres().await;
    db.execute("ALTER TABLE dead_letters SET (autovacuum_enabled = false)").await;
    fill(&db, 1_000).await;
    // The apps of `fill` are new then.
    let others = "UPDATE dead_letters
        SET app_id = lpad((100 + substr(original_event_id::text, 35)::int)::text, 32, '0')::uuid";
    db.execute(others).await;
    db.execute("VACUUM ANALYZE dead_letters").await;
    fill(&db, 20_000).await;
    no_plan_reads_many_rows(&db).await;
}

/// As before a tenth of the rows changed, which autovacuum takes for too few to look again. `now` has what
/// they are to become.
async fn with_statistics_of(set: &str) -> TestDb {
    let db = TestDb::postgres().await;
    db.execute("ALTER TABLE dead_letters SET (autovacuum_enabled = false)").await;
    fill(&db, 20_000).await;
    db.execute("CREATE TABLE now AS SELECT id, resolved_at, resolution FROM dead_letters").await;
    db.execute(&format!("UPDATE dead_letters SET {set}")).await;
    db.execute("VACUUM FULL ANALYZE dead_letters").await;
    db
}

/// Whatever index it takes. Counts without a cap read what they count.
async fn no_plan_reads_many_rows(db: &TestDb) {
    for Expected { statement, at_most, .. } in statements(db).await {
        // A look by an id reads one row and its dead versions, and up to 1,000 are named.
        let many = match at_most {
            None => continue,
            Some(1) => 10_000.0,
            _ if is_by_ids(&statement) => 10_000.0,
            Some(at_most) => f64::min(f64::from(at_most) * 10.0, 3_000.0),
        };
        for generic in [false, true] {
            let plan = plan(db, &statement, generic).await;
            let read = plan.lines().filter_map(|line| rows_of(line).or_else(|| removed_of(line)));
            let most = read.fold(0.0, f64::max);
            assert!(most < many, "generic: {generic}\n{}\n{plan}", statement.sql);
        }
    }
}

/// Returns the output of EXPLAIN ANALYZE.
async fn plan(db: &TestDb, statement: &Statement, generic: bool) -> String {
    // ANALYZE runs the statement; the rollback takes it back.
    let txn = db.db.begin().await.unwrap();
    let plan = match generic {
        false => custom_plan(&txn, statement).await,
        true => generic_plan(&txn, statement).await,
    };
    txn.rollback().await.unwrap();
    plan
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

/// Those that a filter or a join threw away.
fn removed_of(line: &str) -> Option<f64> {
    let (by, rows) = line.trim().strip_prefix("Rows Removed by ")?.split_once(": ")?;
    by.ends_with("Filter").then(|| rows.parse().ok())?
}

/// The rows that each look at the index reads in one loop, those that its filter removes included.
fn read_by(index: &str, plan: &str) -> Vec<f64> {
    let index = format!(" {index} ");
    let lines: Vec<_> = plan.lines().collect();
    let looks = (0..lines.len()).filter(|&at| lines[at].contains(&index));
    looks
        .map(|at| {
            let details = lines[at + 1..].iter().take_while(|line| !line.contains("->"));
            let removed = details.filter_map(|line| removed_of(line));
            // One that was never looked at says so.
            rows_of(lines[at]).unwrap_or_default() + removed.sum::<f64>()
        })
        .collect()
}

/// Returns the rows of one loop from a plan's line: `Index Scan using … (actual rows=50 loops=1)`, and since
/// PostgreSQL 18 `rows=50.00`.
fn rows_of(line: &str) -> Option<f64> {
    let (_, rows) = line.split_once("actual rows=")?;
    rows.split(' ').next()?.parse().ok()
}

/// Returns the statements of the calls on one app's rows, where the table is distributed.
async fn statements_of_one_app(db: &TestDb) -> Vec<Statement> {
    let app = apps()[0];
    let ids: Vec<_> =
        db.repo().list_for_app(app, true, 3, 0).await.unwrap().iter().map(|row| row.id).collect();
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let all = DeadLetterFilter::default().state(DeadLetterState::Any);
    let these = all.clone().ids(ids.clone());
    let due = DeadLetterFilter::default().state(DeadLetterState::Unresolved).created_before(cutoff());
    let timeline = Buckets::new(DateTime::UNIX_EPOCH..DateTime::<Utc>::MAX_UTC, 60);
    let groups = GroupRequest::default().scan_limit(10).timeline(timeline);

    repo.import(&[StoredLetter { app_id: app, id: ids[0], ..stored() }]).await.unwrap();
    repo.get_for_app(app, ids[0]).await.unwrap();
    repo.summary(app, ids[0]).await.unwrap();
    repo.payload_text(app, ids[0], 0..100).await.unwrap();
    repo.replayed_payload_text(app, ids[0], 0..100).await.unwrap();
    repo.error_text(app, ids[0], 0..100).await.unwrap();
    repo.metadata(app, ids[0]).await.unwrap();
    repo.list_for_app(app, false, 50, 0).await.unwrap();
    repo.list_for_app(app, true, 50, 1).await.unwrap();
    repo.unresolved_count(app).await.unwrap();
    repo.unresolved_counts(&[app], None).await.unwrap();
    repo.unresolved_counts(&[app], Some(10)).await.unwrap();
    repo.backlogs(&BacklogRequest::default().among([app]).limit(50).cap(10)).await.unwrap();
    let new = NewGroupRequest::since(cutoff()).among([app]);
    repo.new_error_groups(&new).await.unwrap();
    repo.unannounced_groups(&new).await.unwrap();
    repo.times_replayed(app, &[Uuid::nil()]).await.unwrap();
    repo.letters_version(Some(app)).await.unwrap();
    for filter in [&all, &these, &due] {
        let page = PageRequest::default().size(1).scan_limit(10);
        let after = repo.list(app, filter, &page).await.unwrap().next;
        repo.list(app, filter, &page.clone().after(after)).await.unwrap();
        let search = PayloadSearch::new("{").filter(filter.clone()).page(page.clone());
        repo.search_payloads(app, &search).await.unwrap();
        repo.export(app, filter, &page).await.unwrap();
        repo.count(app, filter, &CountRequest::default().cap(10)).await.unwrap();
        repo.timeline(app, filter, &TimelineRequest::from(timeline)).await.unwrap();
        repo.error_groups(app, filter, &groups).await.unwrap();
        repo.error_groups(app, filter, &groups.clone().payload_contains("{")).await.unwrap();
    }

    repo.resolve_once(app, ids[0], Resolution::Ignored, &Attribution::default()).await.unwrap();
    repo.reopen(app, ids[0], &Attribution::default()).await.unwrap();
    repo.record_reveal(app, ids[0], &Attribution::default()).await.unwrap();
    let replayed = repo
        .replay_with(app, ids[2], &Attribution::default(), async |_, _| Ok::<_, DeadLetterRepoError>(()))
        .await;
    replayed.unwrap();
    repo.resolve_matching(app, &these, Resolution::Ignored, &Attribution::default(), 1).await.unwrap();
    for filter in [
        DeadLetterFilter::default().resolved_before(cutoff()),
        DeadLetterFilter::default().run_id(Uuid::from_u128(7)),
    ] {
        let request = ReopenRequest::default().limit(1);
        repo.reopen_matching(app, &filter, &Attribution::default(), &request).await.unwrap();
    }
    // Below the limit it looks for what others hold.
    repo.resolve_matching(app, &due, Resolution::Ignored, &Attribution::default(), 1_000).await.unwrap();
    let behind = |after| ReplayRequest::default().after(after).limit(1);
    let nobody = Attribution::default();
    let failed = repo.replayer(Full).replay_matching(app, &due, &nobody, &behind(None)).await.unwrap();
    repo.replayer(Nowhere).replay_matching(app, &due, &nobody, &behind(failed.next)).await.unwrap();
    for filter in [&these, &due] {
        let filter = filter.clone().state(DeadLetterState::Any);
        let replayed = repo
            .replay_matching_with(app, &filter, &nobody, 10, async |_, _| Ok::<_, DeadLetterRepoError>(()));
        replayed.await.unwrap();
    }
    repo.erase(app, &ids, &nobody).await.unwrap();
    let closed = DeadLetterFilter::default().state(DeadLetterState::Closed).resolved_before(cutoff());
    for filter in [&these, &due, &closed] {
        repo.delete_matching(app, filter, &nobody, 1).await.unwrap();
    }
    let scope = SweepScope::App(app);
    for due in [Due::ClosedBefore(cutoff()), Due::CreatedBefore(cutoff())] {
        repo.count_due(&scope, due, DeadLetterState::Any, 10).await.unwrap();
        for after in [None, Some(half_way(app))] {
            repo.sweep_into(&scope, due, after, 10, &Nowhere).await.unwrap();
            repo.sweep(&scope, due, after, 10).await.unwrap();
        }
    }
    // An insert's plan names none: each row goes to its own.
    recorded.take().into_iter().filter(is_of_rows).collect()
}

/// As a router of shards would see it.
#[tokio::test]
async fn on_postgres_each_statement_on_one_apps_rows_touches_one_partition_where_it_is_sharded() {
    let db = TestDb::postgres_partitioned().await;
    fill(&db, 1_000).await;
    // The history has one partition here.
    let is_of_letters = |statement: &Statement| statement.sql.contains("\"dead_letters\"");
    for statement in statements_of_one_app(&db).await.into_iter().filter(is_of_letters) {
        let plan = plan(&db, &statement, false).await;
        let is_touched = |shard: &usize| plan.contains(&format!(" on shard_{shard} "));
        assert_eq!((0..4).filter(is_touched).count(), 1, "{}\n{plan}", statement.sql);
    }
}

/// Citus takes no subquery as the limit of a statement for several shards, and no function of the time in a COALESCE of a
/// statement that writes.
#[tokio::test]
async fn on_postgres_a_sharded_repo_sends_only_what_citus_takes() {
    let db = TestDb::postgres_sharded().await;
    fill(&db, 100).await;
    let [app, other] = apps();
    let id = db.repo().list_for_app(app, true, 1, 0).await.unwrap()[0].id;
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    repo.get(id).await.unwrap();
    repo.app_of(id).await.unwrap();
    repo.unresolved_counts(&[app, other], None).await.unwrap();
    for among in [None, Some(apps().to_vec())] {
        let mut backlogs = BacklogRequest::default();
        let mut groups = NewGroupRequest::since(cutoff());
        (backlogs.among, groups.among) = (among.clone(), among);
        repo.backlogs(&backlogs).await.unwrap();
        repo.new_error_groups(&groups).await.unwrap();
        repo.unannounced_groups(&groups).await.unwrap();
    }
    for state in [DeadLetterState::Open, DeadLetterState::Closed, DeadLetterState::Any] {
        repo.apps(state, Some(app), 10).await.unwrap();
    }
    repo.recent_apps(cutoff()).await.unwrap();
    repo.letters_version(None).await.unwrap();
    repo.rebuild_signatures(&RebuildRequest::default().dry_run(true)).await.unwrap();
    let all_but = SweepScope::AllAppsBut { excepted: vec![other] };
    for (scope, due) in [SweepScope::AllApps, all_but]
        .iter()
        .flat_map(|scope| [Due::ClosedBefore(cutoff()), Due::CreatedBefore(cutoff())].map(|due| (scope, due)))
    {
        repo.count_due(scope, due, DeadLetterState::Any, 10).await.unwrap();
        for after in [None, Some(half_way(app))] {
            repo.sweep(scope, due, after, 10).await.unwrap();
            repo.sweep_into(scope, due, after, 10, &Nowhere).await.unwrap();
        }
    }
    repo.gc(cutoff(), 10).await.unwrap();
    repo.sweep_actions(Utc::now(), None, 10).await.unwrap();
    repo.sweep_announcements(cutoff(), cutoff(), 10).await.unwrap();
    for Statement { sql, .. } in recorded.take().into_iter().chain(statements_of_one_app(&db).await) {
        let is_of_one_app = sql.contains("\"app_id\" = $") || sql.contains(".app_id = $");
        assert!(is_of_one_app || !sql.contains("LIMIT (SELECT"), "{sql}");
        let mut defaults = sql.split("COALESCE(").skip(1).map(|rest| rest.split(')').next().unwrap_or(rest));
        assert!(sql.starts_with("SELECT") || !defaults.any(|args| args.contains("_timestamp(")), "{sql}");
    }
}

/// A call that names no app looks up the row's app first.
#[tokio::test]
async fn on_postgres_resolve_locks_one_partition_where_it_is_sharded() {
    let db = TestDb::postgres_partitioned().await;
    fill(&db, 100).await;
    let id = db.repo().list_for_app(apps()[0], true, 1, 0).await.unwrap()[0].id;
    let (recording, recorded) = db.connect_recorded().await;
    db.repo_over(recording).resolve(id, "ignored").await.unwrap();
    let [_, update] = &recorded.take()[..] else { panic!("not two statements") };
    let plan = plan(&db, update, false).await;
    assert_eq!(plan.matches(" on shard_").count(), 2, "{plan}");
}

#[tokio::test]
async fn on_sqlite_each_statement_searches_its_index_and_scans_nothing() {
    let db = TestDb::sqlite().await;
    fill(&db, 1_000).await;
    each_statement_searches_its_index(&db).await;
}

/// As after a `PRAGMA optimize` of the service.
#[tokio::test]
async fn on_sqlite_each_statement_searches_its_index_with_statistics_too() {
    let db = TestDb::sqlite().await;
    fill(&db, 1_000).await;
    db.execute("ANALYZE").await;
    each_statement_searches_its_index(&db).await;
}

async fn each_statement_searches_its_index(db: &TestDb) {
    for Expected { statement, indexes, reads, .. } in statements(db).await {
        let mut explain = statement.clone();
        explain.sql.insert_str(0, "EXPLAIN QUERY PLAN ");
        let rows = db.db.query_all_raw(explain).await.unwrap();
        let plan: String =
            rows.iter().map(|row| row.try_get::<String>("", "detail").unwrap() + "\n").collect();
        for index in indexes {
            let index = match index.strip_suffix("_pkey") {
                Some(table) => format!("sqlite_autoindex_{table}_1"),
                None => (*index).to_owned(),
            };
            let is_used = [' ', '\n'].iter().any(|end| plan.contains(&format!("INDEX {index}{end}")));
            assert!(is_used, "not by {index}: {}\n{plan}", statement.sql);
        }
        // Not by the filter's times, which are wider than the places.
        for side in ["<", ">"] {
            let is_of_letters = statement.sql.contains("dead_letters");
            let by_other = [KEY, RUNS].contains(&indexes);
            let by_place = is_of_letters && !by_other && statement.sql.contains(&format!(r#""id") {side}"#));
            let searched = plan.contains(&format!("_at,id){side}(?,?)"));
            assert!(searched || !by_place, "{}\n{plan}", statement.sql);
        }
        // The merged rows have the table's name in the plan.
        let merged = plan.matches("CO-ROUTINE dead_letters").count();
        // The newest letters of all apps have no condition. A limit ends the scan, which is in the index's order.
        let by =
            ["INDEX", "COVERING INDEX"].map(|by| format!("SCAN dead_letters USING {by} idx_dead_letters_gc"));
        let all_apps = by.iter().map(|scan| plan.matches(scan).count()).sum::<usize>();
        assert_eq!(plan.matches("SCAN dead_letters").count(), merged + all_apps, "{}\n{plan}", statement.sql);
        // SQLite sorts the few rows of each index that it merges.
        let sorts_all = plan.contains("TEMP B-TREE") && !plan.contains("UNION ALL");
        assert!(reads == Whole || !sorts_all, "{}\n{plan}", statement.sql);
    }
}
