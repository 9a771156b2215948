//! Every call, and a change by somebody else in each gap between its statements.
//!
//! A call of several statements must keep the promise of one. Here a call is stopped after its first statement,
//! after its second, and so on. In the gap another connection makes a change, or waits for the call where a
//! lock makes it wait. The call's result and the tables must be as if the change had come before the whole
//! call, or after it. A call that promises less has another [`Promise`] in the table.
//!
//! BEGIN and COMMIT are no gaps of their own: the store's transactions have no snapshot, so a change behind a BEGIN is
//! one before the first statement.

use std::{fs, future::Future, path::Path, pin::pin, sync::Arc, time::Duration};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use dead_letters::{
    ActionRequest, AnnouncementClaim, AppId, Attribution, Backlog, BacklogRequest, Buckets,
    CoalescingDeadLetterRepo, CountRequest, DeadLetterAnnounce, DeadLetterDelete, DeadLetterFilter,
    DeadLetterId, DeadLetterRead, DeadLetterReplay, DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve,
    DeadLetterRetention, DeadLetterRow, DeadLetterState, DeadLetterSummary, DeadLetterTransfer, Due,
    ErrorGroup, GroupRequest, NewDeadLetter, NewErrorGroup, NewGroupRequest, PageRequest, PayloadSearch,
    RebuildRequest, ReopenRequest, ReplayRequest, Replayed, Resolution, SeaOrmDeadLetterRepo, StoredLetter,
    SweepScope, Swept, TimelineRequest,
    entity::{
        dead_letter_actions as actions, dead_letter_announcements as announcements, dead_letters as table,
    },
    testing::{self, Call, letter, new_error_group, stored_letter},
};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend,
    EntityTrait, QueryFilter, Statement, sqlx::sqlite::SqliteJournalMode,
};
use tokio::{runtime::Handle, sync::watch, task};
use uuid::Uuid;

use super::dropped::{KeyedOutbox, dequeue, enqueue};
use crate::{
    contract::retention::{Shelf, all_but},
    database::TestDb,
};

/// A change that another connection makes in the gap.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    /// Changes nothing, and must see all of the call or nothing of it.
    Look,
    Insert,
    /// A transaction that began, and inserted, before the call. PostgreSQL alone: SQLite has one writer.
    LateCommit,
    ImportOlder,
    ImportNewer,
    /// Resolves the letter `b`.
    Resolve,
    /// Reopens the letter `c`.
    Reopen,
    /// Deletes `a` and `b` by their age.
    Sweep,
    /// Deletes `c`.
    SweepClosed,
    /// Erases the signature of `e`, as a service that erases content does.
    Erase,
}

const CHANGES: [Change; 10] = [
    Change::Look,
    Change::Insert,
    Change::LateCommit,
    Change::ImportOlder,
    Change::ImportNewer,
    Change::Resolve,
    Change::Reopen,
    Change::Sweep,
    Change::SweepClosed,
    Change::Erase,
];

/// The promise of a call while other connections work at the same time.
#[derive(Debug, Clone, Copy)]
enum Promise {
    /// The change comes before the call, or after it.
    Atomic,
    /// All pages of a listing together: each letter that matches before and after the change is shown once. A letter
    /// that matches only before or only after it is shown once or not at all.
    Pages,
    /// A bounded scan. On SQLite it is two statements: a letter that is stored between them, and is newer than the
    /// scan's end, is examined as one more.
    Scan,
    /// Several calls: the change may come between them.
    Calls,
}

impl Promise {
    fn allows(self, backend: DbBackend, seen: &Seen, change_first: &Seen, call_first: &Seen) -> bool {
        let orders = [change_first, call_first];
        let leaves_what_an_order_leaves = orders.iter().any(|order| order.left == seen.left);
        let times = |seen: &Seen, name: &String| seen.returned.iter().filter(|shown| *shown == name).count();
        match self {
            Self::Scan if backend == DbBackend::Sqlite => {
                let lengths = orders.map(|order| order.returned.len());
                let (least, most) = (lengths[0].min(lengths[1]), lengths[0].max(lengths[1]) + 1);
                leaves_what_an_order_leaves && (least..=most).contains(&seen.returned.len())
            }
            Self::Atomic | Self::Scan => orders.contains(&seen),
            Self::Calls => leaves_what_an_order_leaves,
            Self::Pages => {
                let mut stay = call_first.returned.iter().filter(|name| times(change_first, name) > 0);
                leaves_what_an_order_leaves
                    && stay.all(|name| times(seen, name) == 1)
                    && seen.returned.iter().all(|name| {
                        times(seen, name) == 1 && orders.iter().any(|order| times(order, name) > 0)
                    })
            }
        }
    }
}

/// Runs each case on a fresh database of one backend.
macro_rules! on {
    ($module:ident, $backend:ident: $($case:ident $promise:ident),+ $(,)?) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let db = crate::database::TestDb::$backend().await;
                super::check(db, super::Promise::$promise, super::$case).await;
            })+
        }
    };
}

/// The table of the calls: each method of the traits and of the repo itself, its cases, and what these promise.
macro_rules! calls {
    ($($method:ident: $($case:ident $promise:ident),+;)+) => {
        const METHODS: &[&str] = &[$(stringify!($method)),+];

        on! { on_sqlite, sqlite: $($($case $promise),+),+ }
        on! { on_postgres, postgres: $($($case $promise),+),+ }
    };
}

calls! {
    insert: insert Atomic, inserts_of_three_callers_coalesced Calls;
    insert_many: insert_many Atomic, insert_many_by_two_statements Atomic;
    get: get Atomic;
    list_for_app: list_for_app Atomic;
    unresolved_count: unresolved_count Atomic;
    resolve: resolve Atomic;
    gc: gc Atomic;
    app_of: app_of Atomic;
    get_for_app: get_for_app Atomic;
    summary: summary Atomic;
    payload_text: payload_text Atomic;
    replayed_payload_text: replayed_payload_text Atomic;
    error_text: error_text Atomic;
    metadata: metadata Atomic;
    list: list Pages, list_with_a_scan Pages, list_of_closed_letters Pages;
    search_payloads: search_payloads Pages, search_payloads_with_a_scan Pages;
    export: export Pages, export_of_few Pages, export_of_few_open_letters Pages,
        export_with_a_scan Pages;
    backlogs: backlogs Atomic, backlogs_among_1001_apps Atomic;
    apps: apps Atomic;
    unresolved_counts: unresolved_counts_of_1001_apps Atomic;
    count: count Atomic, count_with_a_scan Scan;
    timeline: timeline Atomic, timeline_with_a_scan Scan;
    error_groups: error_groups Atomic, error_groups_with_a_scan Scan;
    new_error_groups: new_error_groups Atomic, new_error_groups_with_a_scan Atomic,
        new_error_groups_of_one_app Atomic, new_error_groups_of_two_apps Calls;
    unannounced_groups: unannounced_groups Atomic, unannounced_groups_of_two_apps Calls;
    claim_announcement: claim_announcement Atomic;
    confirm_announcement: confirm_announcement Atomic;
    sweep_announcements: sweep_announcements Atomic;
    times_replayed: times_replayed Atomic;
    actions: actions Atomic;
    recent_apps: recent_apps Atomic;
    letters_version: letters_version Atomic, letters_version_of_all Atomic;
    resolve_once: resolve_once Atomic, resolve_once_of_a_closed_letter Atomic;
    resolve_matching: resolve_matching Atomic, resolve_matching_of_all Atomic;
    reopen_matching: reopen_matching Atomic, reopen_matching_of_a_run Atomic;
    reopen: reopen Atomic, reopen_of_an_open_letter Atomic, reopen_of_a_replayed_letter Atomic;
    record_reveal: record_reveal Atomic;
    delete_matching: delete_matching Atomic, delete_matching_of_closed_letters Atomic;
    erase: erase Atomic;
    import: import Atomic;
    rebuild_signatures: rebuild_signatures Atomic;
    sweep: sweep_of_one_app Atomic, sweep_of_all_apps Atomic, sweep_of_all_apps_but_some Atomic,
        sweep_of_closed_letters Atomic;
    sweep_into: sweep_into_of_one_app Atomic, sweep_into_of_all_apps Atomic,
        sweep_into_of_all_apps_but_some Atomic;
    count_due: count_due Atomic;
    sweep_actions: sweep_actions Atomic;
    replay: replay Atomic, replay_of_a_closed_letter Atomic;
    replay_edited: replay_edited Atomic;
    replay_matching: replay_matching Atomic, replay_matching_of_all Atomic;
    bury: bury Atomic;
    check_ready: check_ready Atomic;
    begin: an_insert_and_a_resolve_in_a_transaction Atomic;
    commit: an_insert_in_a_transaction Atomic;
}

// The calls that send other statements there. Sweeps of many apps promise less: see `sharded`.
on! { where_it_is_sharded, postgres_sharded:
    insert_many Atomic,
    resolve Atomic,
    resolve_once Atomic,
    reopen Atomic,
    record_reveal Atomic,
    recent_apps Atomic,
    sweep_actions Atomic,
    unannounced_groups Atomic,
    resolve_matching Atomic,
    reopen_matching Atomic,
    reopen_matching_of_a_run Atomic,
    delete_matching Atomic,
    delete_matching_of_closed_letters Atomic,
    erase Atomic,
    replay_edited Atomic,
    backlogs Atomic,
    import Atomic,
    // A statement for each app.
    rebuild_signatures Calls,
    sweep_of_one_app Atomic,
    sweep_into_of_one_app Atomic,
    replay_matching Atomic,
}

#[test]
fn every_call_has_a_case() {
    let mut calls: Vec<_> = Call::ALL.iter().map(|call| format!("{call:?}").to_lowercase()).collect();
    let of_the_repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sea_orm_repo");
    for file in fs::read_dir(of_the_repo).unwrap() {
        let source = fs::read_to_string(file.unwrap().path()).unwrap();
        let methods = source.lines().filter_map(|line| line.strip_prefix("    pub async fn "));
        // A call with a closure goes by the name of the call without one.
        let names = methods.map(|line| line.split(['<', '(']).next().unwrap().trim_end_matches("_with"));
        calls.extend(names.map(|name| name.replace('_', "")));
    }
    for call in ["bury", "begin", "commit", "replay"] {
        assert!(calls.contains(&call.to_owned()), "the sources were read wrong: no {call} in {calls:?}");
    }
    calls.retain(|call| METHODS.iter().all(|method| method.replace('_', "") != *call));
    assert_eq!(calls, [""; 0], "without a case");
}

async fn insert(given: Given) -> Shown {
    show(given.repo.insert(given.new_letter("called")).await, |_| vec![])
}

async fn inserts_of_three_callers_coalesced(given: Given) -> Shown {
    let repo = CoalescingDeadLetterRepo::new(given.repo.clone(), &Handle::current());
    let insert = |op| repo.insert(given.new_letter(op));
    let (one, two, three) = tokio::join!(insert("one"), insert("two"), insert("three"));
    for outcome in [one, two, three] {
        outcome.unwrap();
    }
    repo.shut_down().await;
    vec![]
}

async fn insert_many(given: Given) -> Shown {
    let letters = ["one", "two", "three"].map(|op| given.new_letter(op)).into();
    show(given.repo.insert_many(letters).await, |ids| vec![ids.len().to_string()])
}

async fn insert_many_by_two_statements(given: Given) -> Shown {
    let letters = match given.repo.pool().get_database_backend() {
        DbBackend::Sqlite => vec![given.new_letter("called"); 129],
        // 18 MB.
        _ => vec![NewDeadLetter { source: "x".repeat(9 << 20), ..given.new_letter("called") }; 2],
    };
    show(given.repo.insert_many(letters).await, |ids| vec![ids.len().to_string()])
}

async fn get(given: Given) -> Shown {
    show(given.repo.get(given.id("b")).await, of_row)
}

async fn list_for_app(given: Given) -> Shown {
    let rows = given.repo.list_for_app(given.app, true, 3, 1).await;
    show(rows, |rows| rows.into_iter().map(|row| row.op).collect())
}

async fn unresolved_count(given: Given) -> Shown {
    show(given.repo.unresolved_count(given.app).await, |count| vec![count.to_string()])
}

async fn resolve(given: Given) -> Shown {
    show(given.repo.resolve(given.id("b"), "handled_by_script").await, |()| vec![])
}

async fn gc(given: Given) -> Shown {
    show(given.repo.gc(given.ago(45), 2).await, |deleted| vec![deleted.to_string()])
}

async fn app_of(given: Given) -> Shown {
    show(given.repo.app_of(given.id("b")).await, |app| app.into_iter().map(|app| app.to_string()).collect())
}

async fn get_for_app(given: Given) -> Shown {
    show(given.repo.get_for_app(given.app, given.id("b")).await, of_row)
}

async fn summary(given: Given) -> Shown {
    let summary = given.repo.summary(given.app, given.id("b")).await;
    let of_summary = |row: DeadLetterSummary| format!("{} {:?}", row.op, row.resolution);
    show(summary, |summary| summary.into_iter().map(of_summary).collect())
}

async fn payload_text(given: Given) -> Shown {
    show(given.repo.payload_text(given.app, given.id("b"), 0..10).await, Vec::from_iter)
}

async fn replayed_payload_text(given: Given) -> Shown {
    show(given.repo.replayed_payload_text(given.app, given.id("b"), 0..10).await, Vec::from_iter)
}

async fn error_text(given: Given) -> Shown {
    show(given.repo.error_text(given.app, given.id("b"), 0..10).await, Vec::from_iter)
}

async fn metadata(given: Given) -> Shown {
    show(given.repo.metadata(given.app, given.id("b")).await, |found| {
        found.into_iter().map(|metadata| format!("{} keys", metadata.len())).collect()
    })
}

async fn list(given: Given) -> Shown {
    list_to_the_end(&given, &any(), None).await
}

async fn list_with_a_scan(given: Given) -> Shown {
    list_to_the_end(&given, &narrow(), Some(2)).await
}

async fn list_of_closed_letters(given: Given) -> Shown {
    list_to_the_end(&given, &any().state(DeadLetterState::Closed), None).await
}

async fn search_payloads(given: Given) -> Shown {
    search_to_the_end(&given, None).await
}

async fn search_payloads_with_a_scan(given: Given) -> Shown {
    search_to_the_end(&given, Some(2)).await
}

async fn search_to_the_end(given: &Given, scan: Option<u32>) -> Shown {
    let mut shown = Vec::new();
    let mut search = PayloadSearch::new("{").filter(any());
    search.page = PageRequest::default().size(2).scan_limit(scan);
    loop {
        let page = given.repo.search_payloads(given.app, &search).await.unwrap();
        shown.extend(page.items.into_iter().map(|row| row.op));
        if page.next.is_none() {
            return shown;
        }
        search.page.after = page.next;
    }
}

async fn list_to_the_end(given: &Given, filter: &DeadLetterFilter, scan: Option<u32>) -> Shown {
    let mut shown = Vec::new();
    let mut after = None;
    loop {
        let request = PageRequest::default().size(2).after(after).scan_limit(scan);
        let page = given.repo.list(given.app, filter, &request).await.unwrap();
        assert!(page.items.len() <= 2);
        shown.extend(page.items.into_iter().map(|row| row.op));
        if page.next.is_none() {
            return shown;
        }
        after = page.next;
    }
}

async fn export(given: Given) -> Shown {
    export_to_the_end(&given, &any(), None).await
}

async fn export_of_few(given: Given) -> Shown {
    export_to_the_end(&given, &narrow(), None).await
}

async fn export_of_few_open_letters(given: Given) -> Shown {
    export_to_the_end(&given, &DeadLetterFilter::default().source("orders"), None).await
}

async fn export_with_a_scan(given: Given) -> Shown {
    export_to_the_end(&given, &narrow(), Some(2)).await
}

async fn export_to_the_end(given: &Given, filter: &DeadLetterFilter, scan: Option<u32>) -> Shown {
    let mut shown = Vec::new();
    let mut after = None;
    loop {
        let request = PageRequest::default().size(2).after(after).scan_limit(scan);
        let page = given.repo.export(given.app, filter, &request).await.unwrap();
        assert!(page.items.len() <= 2);
        shown.extend(page.items.into_iter().map(|letter| letter.op));
        if page.next.is_none() {
            return shown;
        }
        after = page.next;
    }
}

async fn apps(given: Given) -> Shown {
    let apps = given.repo.apps(DeadLetterState::Any, None, 10).await;
    show(apps, |apps| apps.iter().map(ToString::to_string).collect())
}

async fn backlogs(given: Given) -> Shown {
    backlogs_of(&given, None).await
}

async fn backlogs_among_1001_apps(given: Given) -> Shown {
    backlogs_of(&given, Some(given.apps_of_two_statements().to_vec())).await
}

async fn backlogs_of(given: &Given, among: Option<Vec<AppId>>) -> Shown {
    let mut request = BacklogRequest::default().limit(10).cap(10);
    request.among = among;
    let backlogs = given.repo.backlogs(&request).await;
    let of_app = |of: Backlog| format!("{} {} {}", of.app_id, of.open.count, of.unresolved.count);
    show(backlogs, |backlogs| backlogs.into_iter().map(of_app).collect())
}

async fn unresolved_counts_of_1001_apps(given: Given) -> Shown {
    let counts = given.repo.unresolved_counts(&given.apps_of_two_statements(), Some(10)).await;
    show(counts, |counts| counts.into_iter().map(|of| of.unresolved.count.to_string()).collect())
}

async fn count(given: Given) -> Shown {
    count_of(&given, None).await
}

async fn count_with_a_scan(given: Given) -> Shown {
    count_of(&given, Some(3)).await
}

async fn count_of(given: &Given, scan: Option<u32>) -> Shown {
    let count =
        given.repo.count(given.app, &narrow(), &CountRequest::default().cap(10).scan_limit(scan)).await;
    show(count, |count| given.of_scan(letters(count.matching.count), count.scanned_back_to))
}

async fn timeline(given: Given) -> Shown {
    timeline_of(&given, None).await
}

async fn timeline_with_a_scan(given: Given) -> Shown {
    timeline_of(&given, Some(3)).await
}

async fn timeline_of(given: &Given, scan: Option<u32>) -> Shown {
    let request = Buckets::new(given.ago(100)..given.ago(-100), 1);
    let timeline =
        given.repo.timeline(given.app, &narrow(), &TimelineRequest::from(request).scan_limit(scan)).await;
    show(timeline, |timeline| given.of_scan(letters(timeline.buckets[0].count), timeline.scanned_back_to))
}

async fn error_groups(given: Given) -> Shown {
    error_groups_of(&given, None).await
}

async fn error_groups_with_a_scan(given: Given) -> Shown {
    error_groups_of(&given, Some(3)).await
}

/// No two letters have one `op`.
async fn error_groups_of(given: &Given, scan: Option<u32>) -> Shown {
    let request = GroupRequest::default().scan_limit(scan);
    let groups = given.repo.error_groups(given.app, &narrow(), &request).await;
    let ops = |groups: Vec<ErrorGroup>| groups.into_iter().map(|group| group.op).collect();
    show(groups, |groups| given.of_scan(ops(groups.groups), groups.scanned_back_to))
}

async fn new_error_groups(given: Given) -> Shown {
    new_error_groups_of(&given, None, 100).await
}

async fn new_error_groups_with_a_scan(given: Given) -> Shown {
    new_error_groups_of(&given, None, 3).await
}

async fn new_error_groups_of_one_app(given: Given) -> Shown {
    new_error_groups_of(&given, Some(vec![given.app]), 3).await
}

async fn new_error_groups_of_two_apps(given: Given) -> Shown {
    new_error_groups_of(&given, Some(vec![given.other, given.app]), 100).await
}

async fn new_error_groups_of(given: &Given, among: Option<Vec<AppId>>, scan: u32) -> Shown {
    let mut request = NewGroupRequest::since(given.ago(45)).scan_limit(scan);
    request.among = among;
    let of_group = |group: NewErrorGroup| format!("{} {:?}", group.op, group.state);
    show(given.repo.new_error_groups(&request).await, |found| {
        given.of_scan(found.groups.into_iter().map(of_group).collect(), found.scanned_back_to)
    })
}

async fn unannounced_groups(given: Given) -> Shown {
    unannounced_groups_of(&given, None).await
}

async fn unannounced_groups_of_two_apps(given: Given) -> Shown {
    unannounced_groups_of(&given, Some(vec![given.other, given.app])).await
}

async fn unannounced_groups_of(given: &Given, among: Option<Vec<AppId>>) -> Shown {
    let mut request = NewGroupRequest::since(given.ago(5));
    request.among = among;
    let of_group = |group: NewErrorGroup| format!("{} {:?}", group.op, group.state);
    show(given.repo.unannounced_groups(&request).await, |found| {
        given.of_scan(found.groups.into_iter().map(of_group).collect(), found.scanned_back_to)
    })
}

async fn claim_announcement(given: Given) -> Shown {
    let claim = given.repo.claim_announcement(&given.pending(), Duration::from_secs(60)).await;
    show(claim, |claim| claim.into_iter().map(|claim| claim.group_key).collect())
}

async fn confirm_announcement(given: Given) -> Shown {
    let claim = AnnouncementClaim::new(&given.pending(), given.ago(55));
    show(given.repo.confirm_announcement(&claim).await, |confirmed| vec![confirmed.to_string()])
}

async fn sweep_announcements(given: Given) -> Shown {
    let swept = given.repo.sweep_announcements(given.now, given.now, 10).await;
    show(swept, |deleted| vec![deleted.to_string()])
}

async fn times_replayed(given: Given) -> Shown {
    let events: Vec<_> = given.letters.iter().map(|letter| letter.original_event_id).collect();
    let times = given.repo.times_replayed(given.app, &events).await;
    show(times, |times| times.iter().map(u64::to_string).collect())
}

async fn actions(given: Given) -> Shown {
    let found = given.repo.actions(given.app, &ActionRequest::default()).await;
    show(found, |rows| rows.into_iter().map(|row| format!("{:?} {}", row.action, row.letters)).collect())
}

async fn recent_apps(given: Given) -> Shown {
    let found = given.repo.recent_apps(given.now - TimeDelta::days(1)).await;
    show(found, |apps| apps.into_iter().map(|app| app.app_id.to_string()).collect())
}

/// None is old enough but the one that is there.
/// The same letters have other ids in each run, so the case shows whether the call found a version.
async fn letters_version(given: Given) -> Shown {
    show(given.repo.letters_version(Some(given.app)).await, |version| {
        vec![version.to_string().len().to_string()]
    })
}

async fn letters_version_of_all(given: Given) -> Shown {
    show(given.repo.letters_version(None).await, |version| vec![version.to_string().len().to_string()])
}

async fn sweep_actions(given: Given) -> Shown {
    let before = given.now - TimeDelta::days(1);
    show(given.repo.sweep_actions(before, None, 10).await, |swept| vec![swept.deleted.to_string()])
}

async fn resolve_once(given: Given) -> Shown {
    let resolved =
        given.repo.resolve_once(given.app, given.id("b"), Resolution::Ignored, &by_the_call()).await;
    show(resolved, |summary| vec![of_letter(&summary.op, summary.resolution, summary.resolved_by)])
}

async fn resolve_once_of_a_closed_letter(given: Given) -> Shown {
    let resolved =
        given.repo.resolve_once(given.app, given.id("c"), Resolution::Ignored, &by_the_call()).await;
    show(resolved, |summary| vec![of_letter(&summary.op, summary.resolution, summary.resolved_by)])
}

async fn resolve_matching(given: Given) -> Shown {
    let resolved =
        given.repo.resolve_matching(given.app, &given.old(), Resolution::Ignored, &by_the_call(), 2).await;
    show(resolved, |resolved| given.of_resolved(&resolved.ids, resolved.more, resolved.skipped_locked))
}

async fn resolve_matching_of_all(given: Given) -> Shown {
    let resolved =
        given.repo.resolve_matching(given.app, &given.old(), Resolution::Ignored, &by_the_call(), 100).await;
    show(resolved, |resolved| given.of_resolved(&resolved.ids, resolved.more, resolved.skipped_locked))
}

async fn reopen_matching(given: Given) -> Shown {
    reopen_all(&given, &DeadLetterFilter::default().resolved_before(given.ago(20))).await
}

async fn reopen_matching_of_a_run(given: Given) -> Shown {
    reopen_all(&given, &DeadLetterFilter::default().run_id(Given::RUN)).await
}

async fn reopen_all(given: &Given, filter: &DeadLetterFilter) -> Shown {
    let request = ReopenRequest::default().include_replayed(true).limit(2);
    let reopened = given.repo.reopen_matching(given.app, filter, &by_the_call(), &request).await;
    show(reopened, |reopened| given.of_resolved(&reopened.ids, reopened.more, reopened.skipped_locked))
}

async fn reopen(given: Given) -> Shown {
    show(given.repo.reopen(given.app, given.id("c"), &Attribution::default()).await, |()| vec![])
}

async fn reopen_of_a_replayed_letter(given: Given) -> Shown {
    show(given.repo.reopen(given.app, given.id("f"), &Attribution::default()).await, |()| vec![])
}

async fn reopen_of_an_open_letter(given: Given) -> Shown {
    show(given.repo.reopen(given.app, given.id("b"), &Attribution::default()).await, |()| vec![])
}

async fn record_reveal(given: Given) -> Shown {
    show(given.repo.record_reveal(given.app, given.id("b"), &Attribution::by("ada")).await, |()| vec![])
}

async fn import(given: Given) -> Shown {
    let there = given.letters[1].clone();
    let letters = [there, given.stored_letter("one", 35), given.stored_letter("two", 35)];
    let imported = given.repo.import(&letters).await;
    show(imported, |imported| vec![format!("{imported:?}")])
}

/// The call counts the rows that it skipped. That count differs from the count of either order.
async fn rebuild_signatures(given: Given) -> Shown {
    show(given.repo.rebuild_signatures(&RebuildRequest::default()).await, |_| vec![])
}

async fn sweep_of_one_app(given: Given) -> Shown {
    sweep(&given, SweepScope::App(given.app), given.by_age()).await
}

async fn sweep_of_all_apps(given: Given) -> Shown {
    sweep(&given, SweepScope::AllApps, given.by_age()).await
}

async fn sweep_of_all_apps_but_some(given: Given) -> Shown {
    sweep(&given, all_but(&[Uuid::new_v4().into()]), given.by_age()).await
}

async fn sweep_of_closed_letters(given: Given) -> Shown {
    sweep(&given, SweepScope::AllApps, given.by_closing()).await
}

async fn sweep(given: &Given, scope: SweepScope, due: Due) -> Shown {
    show(given.repo.sweep(&scope, due, None, 2).await, of_swept)
}

async fn sweep_into_of_one_app(given: Given) -> Shown {
    sweep_into(&given, SweepScope::App(given.app)).await
}

async fn sweep_into_of_all_apps(given: Given) -> Shown {
    sweep_into(&given, SweepScope::AllApps).await
}

async fn sweep_into_of_all_apps_but_some(given: Given) -> Shown {
    sweep_into(&given, all_but(&[Uuid::new_v4().into()])).await
}

async fn sweep_into(given: &Given, scope: SweepScope) -> Shown {
    let shelf = Shelf::default();
    let swept = given.repo.sweep_into(&scope, given.by_age(), None, 2, &shelf).await;
    let archived = shelf.ids().into_iter().map(|id| format!("archived {}", given.name(id.into_inner())));
    show(swept, |swept| of_swept(swept).into_iter().chain(archived).collect())
}

async fn count_due(given: Given) -> Shown {
    let (scope, due) = (SweepScope::App(given.app), given.by_age());
    let counted = given.repo.count_due(&scope, due, DeadLetterState::Open, 10).await;
    show(counted, |counted| vec![counted.count.to_string()])
}

async fn replay(given: Given) -> Shown {
    let replayed = given.repo.replayer(KeyedOutbox).replay(given.app, given.id("b"), &by_the_call()).await;
    show(replayed, |row| of_row(Some(row)))
}

async fn replay_edited(given: Given) -> Shown {
    let replayer = given.repo.replayer(KeyedOutbox);
    show(replayer.replay_edited(given.app, given.id("b"), "1", &by_the_call()).await, |row| of_row(Some(row)))
}

async fn delete_matching(given: Given) -> Shown {
    let deleted = given.repo.delete_matching(given.app, &given.old(), &by_the_call(), 2).await;
    show(deleted, |deleted| given.of_resolved(&deleted.ids, deleted.more, deleted.skipped_locked))
}

async fn delete_matching_of_closed_letters(given: Given) -> Shown {
    let closed = any().state(DeadLetterState::Closed).resolved_before(given.ago(20));
    let deleted = given.repo.delete_matching(given.app, &closed, &by_the_call(), 2).await;
    show(deleted, |deleted| given.of_resolved(&deleted.ids, deleted.more, deleted.skipped_locked))
}

async fn erase(given: Given) -> Shown {
    let erased = given.repo.erase(given.app, &["a", "b", "c"].map(|op| given.id(op)), &by_the_call()).await;
    show(erased, |erased| given.of_resolved(&erased.ids, false, !erased.skipped_locked.is_empty()))
}

async fn replay_of_a_closed_letter(given: Given) -> Shown {
    let replayed = given.repo.replayer(KeyedOutbox).replay(given.app, given.id("c"), &by_the_call()).await;
    show(replayed, |row| of_row(Some(row)))
}

async fn replay_matching(given: Given) -> Shown {
    replay_at_most(&given, 2).await
}

async fn replay_matching_of_all(given: Given) -> Shown {
    replay_at_most(&given, 100).await
}

async fn replay_at_most(given: &Given, limit: u32) -> Shown {
    let request = ReplayRequest::default().limit(limit);
    let replayed = given
        .repo
        .replayer(KeyedOutbox)
        .replay_matching(given.app, &given.old(), &by_the_call(), &request)
        .await;
    show(replayed, |Replayed { ids, more, skipped_locked, failed, stopped, .. }| {
        assert!(failed.is_empty() && stopped.is_none());
        given.of_resolved(&ids, more, skipped_locked)
    })
}

async fn check_ready(given: Given) -> Shown {
    show(given.repo.check_ready().await, |()| vec![])
}

async fn bury(given: Given) -> Shown {
    let event = given.event;
    let letter = NewDeadLetter { original_event_id: event, ..given.new_letter("called") };
    let buried = given
        .repo
        .bury_with(letter, async move |txn: &DatabaseTransaction| Ok(dequeue(txn, event).await?))
        .await;
    show(buried, |_| vec![])
}

async fn an_insert_in_a_transaction(given: Given) -> Shown {
    let txn = SeaOrmDeadLetterRepo::begin(given.repo.pool()).await.unwrap();
    given.repo.in_transaction(&txn).insert(given.new_letter("called")).await.unwrap();
    show(SeaOrmDeadLetterRepo::commit(txn).await, |()| vec![])
}

async fn an_insert_and_a_resolve_in_a_transaction(given: Given) -> Shown {
    let txn = SeaOrmDeadLetterRepo::begin(given.repo.pool()).await.unwrap();
    let repo = given.repo.in_transaction(&txn);
    repo.insert(given.new_letter("called")).await.unwrap();
    let resolved = repo.resolve_once(given.app, given.id("b"), Resolution::Ignored, &by_the_call()).await;
    SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
    show(resolved, |summary| vec![of_letter(&summary.op, summary.resolution, summary.resolved_by)])
}

/// A call's result, with letters named by their `op`.
type Shown = Vec<String>;

/// An error that somebody else's change explains is shown as well.
fn show<T>(outcome: Result<T, DeadLetterRepoError>, show: impl FnOnce(T) -> Shown) -> Shown {
    use DeadLetterRepoError::{AlreadyResolved, NotFound, NotResolved, Replayed};
    match outcome {
        Ok(value) => show(value),
        Err(AlreadyResolved { by, .. }) => vec![format!("already resolved by {by:?}")],
        Err(NotFound(_)) => vec!["not found".to_owned()],
        Err(NotResolved(_)) => vec!["not resolved".to_owned()],
        Err(Replayed(_)) => vec!["replayed".to_owned()],
        Err(error) => panic!("{error:?}"),
    }
}

fn of_row(row: Option<DeadLetterRow>) -> Shown {
    row.into_iter().map(|row| of_letter(&row.op, row.resolution, row.resolved_by)).collect()
}

fn of_letter(op: &str, resolution: Option<Resolution>, resolved_by: Option<String>) -> String {
    format!("{op} {resolution:?} by {resolved_by:?}")
}

fn of_swept(swept: Swept) -> Shown {
    vec![format!("{} of {} deleted, goes on: {}", swept.deleted, swept.picked, swept.next.is_some())]
}

fn letters(count: u64) -> Shown {
    (0..count).map(|_| "letter".to_owned()).collect()
}

fn any() -> DeadLetterFilter {
    DeadLetterFilter::default().state(DeadLetterState::Any)
}

/// The same letters, by what no index knows.
fn narrow() -> DeadLetterFilter {
    any().source("orders")
}

fn by_the_call() -> Attribution {
    Attribution::by("the call").run_id(Uuid::from_u128(1)).batch(0)
}

/// The rows that exist before the call and the change.
#[derive(Clone)]
struct Given {
    /// Whose statements are counted.
    repo: SeaOrmDeadLetterRepo,
    app: AppId,
    other: AppId,
    now: DateTime<Utc>,
    /// `a` to `f` of the app, oldest first, and `y` of the other one.
    letters: Arc<[StoredLetter]>,
    /// In the outbox.
    event: Uuid,
}

impl Given {
    /// The run that resolved the letters.
    const RUN: Uuid = Uuid::from_u128(9);

    fn new(repo: SeaOrmDeadLetterRepo) -> Self {
        let (app, other) = (Uuid::max().into(), Uuid::from_u128(1).into());
        let (now, event) = (Utc::now().trunc_subsecs(6), Uuid::new_v4());
        let mut this = Self { repo, app, other, now, letters: Arc::new([]), event };
        let closed = |op, created, resolution: &str, resolved| StoredLetter {
            resolution: Some(resolution.to_owned()),
            resolved_at: Some(this.ago(resolved)),
            run_id: Some(Self::RUN),
            ..this.stored_letter(op, created)
        };
        this.letters = Arc::new([
            this.stored_letter("a", 60),
            this.stored_letter("b", 50),
            closed("c", 40, "ignored", 30),
            closed("d", 30, "handler_failed", 25),
            this.stored_letter("e", 20),
            closed("f", 15, "replayed", 12),
            StoredLetter { app_id: other, ..this.stored_letter("y", 55) },
        ]);
        this
    }

    fn ago(&self, minutes: i64) -> DateTime<Utc> {
        self.now - TimeDelta::minutes(minutes)
    }

    fn new_letter(&self, op: &str) -> NewDeadLetter {
        NewDeadLetter { op: op.to_owned(), ..letter(self.app) }
    }

    fn stored_letter(&self, op: &str, minutes: i64) -> StoredLetter {
        // Stale, for a rebuild.
        let (op, signature_version, error_signature) = (op.to_owned(), 1, "stale".to_owned());
        StoredLetter { op, signature_version, error_signature, ..stored_letter(self.app, self.ago(minutes)) }
    }

    fn id(&self, op: &str) -> DeadLetterId {
        self.letters.iter().find(|letter| letter.op == op).unwrap().id
    }

    /// Returns the name of a letter's id, or of an event's id.
    fn name(&self, id: Uuid) -> &str {
        let is_named =
            |letter: &&StoredLetter| letter.id.into_inner() == id || letter.original_event_id == id;
        self.letters.iter().find(is_named).map_or("new", |letter| letter.op.as_str())
    }

    /// A group that was claimed, and not announced.
    fn pending(&self) -> NewErrorGroup {
        let mut group = new_error_group(self.app);
        group.group_key = "pending".to_owned();
        group
    }

    /// `a`, `b` and `d` are the open ones of them.
    fn old(&self) -> DeadLetterFilter {
        any().created_before(self.ago(25))
    }

    /// `a`, `b` and `y`.
    fn by_age(&self) -> Due {
        Due::CreatedBefore(self.ago(45))
    }

    /// `c`.
    fn by_closing(&self) -> Due {
        Due::ClosedBefore(self.ago(20))
    }

    /// A statement takes 1,000.
    fn apps_of_two_statements(&self) -> Vec<AppId> {
        let others = (0..999).map(|_| Uuid::new_v4().into());
        [self.other].into_iter().chain(others).chain([self.app]).collect()
    }

    /// With where the scan ended, if it did.
    fn of_scan(&self, mut shown: Shown, scanned_back_to: Option<DateTime<Utc>>) -> Shown {
        let last = |time| self.letters.iter().find(|letter| letter.created_at == time);
        let last = scanned_back_to.map(|time| last(time).map_or("new", |letter| letter.op.as_str()));
        shown.extend(last.map(|op| format!("the scan ended at {op}")));
        shown
    }

    fn of_resolved(&self, ids: &[DeadLetterId], more: bool, skipped_locked: bool) -> Shown {
        let mut shown: Shown = ids.iter().map(|id| self.name(id.into_inner()).to_owned()).collect();
        shown.push(format!("more: {more}, skipped_locked: {skipped_locked}"));
        shown
    }
}

/// Somebody else, who makes one change.
struct Other {
    change: Change,
    given: Given,
    repo: SeaOrmDeadLetterRepo,
    late: Option<DatabaseTransaction>,
    looked: Shown,
}

impl Other {
    async fn new(change: Change, given: &Given, repo: SeaOrmDeadLetterRepo) -> Self {
        let mut late = None;
        if change == Change::LateCommit {
            let txn = SeaOrmDeadLetterRepo::begin(repo.pool()).await.unwrap();
            repo.in_transaction(&txn).insert(given.new_letter("late")).await.unwrap();
            late = Some(txn);
        }
        Self { change, given: given.clone(), repo, late, looked: vec![] }
    }

    /// A transient error where the call has locked what the change is about: then it comes after the call.
    async fn make(&mut self) -> Result<(), DeadLetterRepoError> {
        use DeadLetterRepoError::{AlreadyResolved, NotFound, NotResolved};
        let Self { change, given, repo, late, looked } = self;
        let outcome = match change {
            Change::Look => {
                *looked = left(repo.pool(), given).await;
                Ok(())
            }
            Change::Insert => repo.insert(given.new_letter("inserted")).await.map(drop),
            Change::LateCommit => match late.take() {
                Some(txn) => SeaOrmDeadLetterRepo::commit(txn).await,
                None => Ok(()),
            },
            Change::ImportOlder => repo.import(&[given.stored_letter("older", 70)]).await.map(drop),
            Change::ImportNewer => repo.import(&[given.stored_letter("newer", 1)]).await.map(drop),
            Change::Resolve => repo
                .resolve_once(given.app, given.id("b"), Resolution::Ignored, &Attribution::default())
                .await
                .map(drop),
            Change::Reopen => repo.reopen(given.app, given.id("c"), &Attribution::default()).await,
            Change::Sweep => sweep_all(repo, given.app, given.by_age()).await,
            Change::SweepClosed => sweep_all(repo, given.app, given.by_closing()).await,
            Change::Erase => {
                let erased = table::Entity::update_many()
                    .col_expr(table::Column::ErrorSignature, "(erased)".into())
                    .col_expr(table::Column::ErasedAt, given.now.into())
                    .filter(table::Column::Id.eq(given.id("e").into_inner()));
                erased.exec(repo.pool()).await.map(drop).map_err(Into::into)
            }
        };
        match outcome {
            // The call came first.
            Err(AlreadyResolved { .. } | NotFound(_) | NotResolved(_)) => Ok(()),
            outcome => outcome,
        }
    }
}

async fn sweep_all(repo: &SeaOrmDeadLetterRepo, app: AppId, due: Due) -> Result<(), DeadLetterRepoError> {
    let scope = SweepScope::App(app);
    repo.sweep(&scope, due, None, 100).await?;
    match repo.count_due(&scope, due, DeadLetterState::Any, 1).await?.count {
        0 => Ok(()),
        // It skipped what the call has locked.
        _ => Err(testing::transient()),
    }
}

/// Which comes first.
#[derive(Debug, Clone, Copy)]
enum Order {
    Change,
    Call,
    /// The change comes in the gap after this statement of the call, counted from 1.
    Between(usize),
}

/// The call's result, the change's result, and the tables afterwards.
#[derive(Debug, PartialEq)]
struct Seen {
    returned: Shown,
    looked: Shown,
    left: Shown,
}

/// Makes each change in each gap of the call.
async fn check<C>(db: TestDb, promise: Promise, call: impl Fn(Given) -> C)
where
    C: Future<Output = Shown> + Send + 'static,
{
    let setting = Setting::new(db).await;
    let backend = setting.db.db.get_database_backend();
    for change in CHANGES {
        if change == Change::LateCommit && backend == DbBackend::Sqlite {
            continue;
        }
        let change_first = setting.run(&call, change, Order::Change).await.unwrap();
        let call_first = setting.run(&call, change, Order::Call).await.unwrap();
        for nth in 1.. {
            let Some(seen) = setting.run(&call, change, Order::Between(nth)).await else {
                assert!(nth > 1, "the call sent nothing");
                break;
            };
            assert!(
                promise.allows(backend, &seen, &change_first, &call_first),
                "{change:?} after statement {nth}: {seen:#?}, but {change_first:#?} where it comes first, \
                 and {call_first:#?} where the call does"
            );
        }
    }
}

struct Setting {
    db: TestDb,
    /// Over a pool that the gate stops.
    repo: SeaOrmDeadLetterRepo,
    gate: Gate,
    /// Over one that does not wait for SQLite's other writer.
    of_other: SeaOrmDeadLetterRepo,
}

impl Setting {
    async fn new(db: TestDb) -> Self {
        let backend = db.db.get_database_backend();
        let id = if backend == DbBackend::Sqlite { "blob" } else { "uuid" };
        db.execute(&format!("CREATE TABLE outbox (id {id} PRIMARY KEY)")).await;
        let mut stopped = db.connect_with(|_| ()).await;
        let gate = Gate::of(&mut stopped);
        let of_other = db
            .connect_with(|options| {
                options.map_sqlx_sqlite_opts(|sqlite| {
                    sqlite.journal_mode(SqliteJournalMode::Wal).busy_timeout(Duration::ZERO)
                });
            })
            .await;
        Self { repo: db.repo_over(stopped), gate, of_other: db.repo_over(of_other), db }
    }

    async fn given(&self) -> Given {
        self.db.execute("DELETE FROM dead_letters").await;
        self.db.execute("DELETE FROM outbox").await;
        self.db.execute("DELETE FROM dead_letter_actions").await;
        self.db.execute("DELETE FROM dead_letter_announcements").await;
        let given = Given::new(self.repo.clone());
        self.db.repo().import(&given.letters).await.unwrap();
        enqueue(&self.db.db, given.event).await.unwrap();
        let old = actions::ActiveModel {
            app_id: Set(given.app.into_inner()),
            id: Set(Uuid::from_u128(1)),
            action: Set("resolve".to_owned()),
            created_at: Set(given.ago(60).into()),
            letter_id: Set(Some(given.id("c").into_inner())),
            letters: Set(1),
            ..Default::default()
        };
        actions::Entity::insert(old).exec_without_returning(&self.db.db).await.unwrap();
        let pending = announcements::ActiveModel {
            app_id: Set(given.app.into_inner()),
            group_key: Set(given.pending().group_key),
            first_seen: Set(given.ago(40).into()),
            claimed_at: Set(given.ago(55).into()),
            leased_until: Set(given.ago(50).into()),
            ..Default::default()
        };
        announcements::Entity::insert(pending).exec_without_returning(&self.db.db).await.unwrap();
        given
    }

    /// `None` where the call has no such gap.
    async fn run<C>(&self, call: &impl Fn(Given) -> C, change: Change, order: Order) -> Option<Seen>
    where
        C: Future<Output = Shown> + Send + 'static,
    {
        let given = self.given().await;
        let mut other = Other::new(change, &given, self.of_other.clone()).await;
        let returned = match order {
            Order::Change => {
                other.make().await.unwrap();
                call(given.clone()).await
            }
            Order::Call => {
                let returned = call(given.clone()).await;
                other.make().await.unwrap();
                returned
            }
            Order::Between(nth) => {
                let stop = self.gate.stop_after(nth);
                let mut call = task::spawn(call(given.clone()));
                tokio::select! {
                    ended = &mut call => {
                        ended.unwrap();
                        return None;
                    }
                    () = self.gate.stopped() => {}
                }
                let made = {
                    let mut make = pin!(other.make());
                    let made = tokio::select! {
                        made = &mut make => Some(made),
                        () = self.somebody_waits() => None,
                    };
                    drop(stop);
                    match made {
                        Some(made) => made,
                        None => make.await,
                    }
                };
                let returned = call.await.unwrap();
                if let Err(error) = made {
                    assert!(error.is_transient(), "{error:?}");
                    other.make().await.unwrap();
                }
                returned
            }
        };
        Some(Seen { returned, looked: other.looked, left: left(&self.db.db, &given).await })
    }

    /// Returns once a lock keeps somebody waiting. On SQLite nobody waits.
    async fn somebody_waits(&self) {
        if self.db.db.get_database_backend() == DbBackend::Sqlite {
            return std::future::pending().await;
        }
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock')";
        let waits = Statement::from_string(DbBackend::Postgres, waits);
        loop {
            let row = self.db.db.query_one_raw(waits.clone()).await.unwrap().unwrap();
            if row.try_get_by_index(0).unwrap() {
                return;
            }
        }
    }
}

/// All letters, the outbox, the history, and the announcements.
async fn left(db: &DatabaseConnection, given: &Given) -> Shown {
    let rows = table::Entity::find().all(db).await.unwrap();
    let letters = rows.into_iter().map(|row| {
        let (op, by, signature) = (row.op, row.resolved_by, row.error_signature);
        let resolution = row.resolution.as_deref().unwrap_or("open");
        format!("{op} {resolution} by {by:?}: {signature}, version {}", row.signature_version)
    });
    let outbox = Statement::from_string(db.get_database_backend(), "SELECT id FROM outbox");
    let outbox = db.query_all_raw(outbox).await.unwrap();
    let events = outbox.iter().map(|row| {
        let event: Uuid = row.try_get_by_index(0).unwrap();
        format!("in the outbox: {}", if event == given.event { "the event" } else { given.name(event) })
    });
    let history = actions::Entity::find().all(db).await.unwrap().into_iter().map(|row| {
        let of = row.letter_id.map(|id| given.name(id).to_owned());
        let (previous, resolution) = (row.previous_resolution, row.resolution);
        format!(
            "{} {} {of:?} from {previous:?} to {resolution:?} by {:?}",
            row.action, row.letters, row.actor
        )
    });
    let announcements = announcements::Entity::find().all(db).await.unwrap().into_iter().map(|row| {
        let is_claimed = row.claimed_at.to_utc() > given.ago(55);
        format!("{} claimed: {is_claimed}, announced: {}", row.group_key, row.announced_at.is_some())
    });
    let mut left: Shown = letters.chain(events).chain(history).chain(announcements).collect();
    left.sort();
    left
}

/// Stops a pool's caller after one of its statements.
#[derive(Clone)]
struct Gate(watch::Sender<Traffic>);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Traffic {
    Flows,
    /// Until this many statements have ended.
    FlowsFor(usize),
    Stopped,
}

/// Opens the gate when it is dropped, so that a test that fails ends.
struct Stop<'a>(&'a Gate);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.0.send_replace(Traffic::Flows);
    }
}

impl Gate {
    fn of(db: &mut DatabaseConnection) -> Self {
        let gate = Self(watch::Sender::new(Traffic::Flows));
        let of_pool = gate.clone();
        db.set_metric_callback(move |_| of_pool.pass());
        gate
    }

    fn stop_after(&self, nth: usize) -> Stop<'_> {
        self.0.send_replace(Traffic::FlowsFor(nth));
        Stop(self)
    }

    async fn stopped(&self) {
        self.0.subscribe().wait_for(|traffic| *traffic == Traffic::Stopped).await.unwrap();
    }

    /// The driver calls this when a statement has ended, and does not await it: so it blocks the call's task.
    fn pass(&self) {
        let stops = self.0.send_if_modified(|traffic| {
            let Traffic::FlowsFor(left) = *traffic else { return false };
            *traffic = if left == 1 { Traffic::Stopped } else { Traffic::FlowsFor(left - 1) };
            left == 1
        });
        if stops {
            let mut traffic = self.0.subscribe();
            let opened = traffic.wait_for(|traffic| *traffic != Traffic::Stopped);
            task::block_in_place(|| Handle::current().block_on(opened).map(drop).unwrap());
        }
    }
}
