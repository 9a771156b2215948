//! The watch for new groups at work on a database. Its loop by itself is in tests/watch.rs.

use std::{
    collections::VecDeque,
    error::Error,
    future,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use dead_letters::{
    AppId, DeadLetterDelete, DeadLetterId, DeadLetterRepo, DeadLetterTransfer, GroupWatch, GroupWatchBuilder,
    GroupWatchEnd, GroupWatchReport, NewDeadLetter, NewErrorGroup, NewGroupState, Notify, RebuildRequest,
    entity::dead_letter_announcements as announcements, entity::dead_letters as table,
};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use tokio::sync::Notify as Signal;

use super::{
    announce::{rows, run_out},
    letter, new_app,
    observed::{CANARY, heard, listen},
};
use crate::database::TestDb;

on_every_backend! {
    a_new_group_is_announced_once_whatever_else_fails_in_it,
    two_watches_on_one_database_announce_each_group_once,
    a_restart_announces_nothing_twice,
    a_group_that_could_not_be_announced_is_announced_again_after_its_lease_however_late,
    a_watch_that_ends_between_claim_and_message_leaves_the_group_to_another_one,
    a_group_that_regresses_twice_is_announced_twice,
    a_letter_that_commits_up_to_15_minutes_late_is_announced,
    the_first_tick_covers_the_lookback_alone,
    a_rebuild_of_signatures_announces_nothing_old,
    a_tick_announces_as_many_groups_as_its_limit_and_the_next_ones_the_rest,
    after_three_failures_in_a_row_the_rest_is_left_to_the_next_tick,
    groups_that_always_fail_keep_no_older_group_from_its_announcement,
    groups_that_always_fail_and_are_leased_over_several_ticks_keep_no_older_group_from_its_announcement,
    a_group_whose_novelty_is_unknown_is_announced_as_such,
    rows_of_old_and_abandoned_announcements_are_deleted,
    a_group_whose_letters_were_deleted_is_not_announced_again_while_it_is_remembered,
    a_regression_whose_closed_letters_lie_beyond_the_scan_limit_is_not_announced,
    a_failed_message_is_logged_without_content,
}

/// Records each group, and fails the first calls.
#[derive(Default)]
struct Told {
    groups: Mutex<Vec<(String, NewGroupState)>>,
    answers: Mutex<VecDeque<bool>>,
}

#[async_trait]
impl Notify for Told {
    async fn notify(&self, group: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
        match self.answers.lock().unwrap().pop_front() {
            Some(false) => Err("the webhook returned 502".into()),
            _ => {
                self.groups.lock().unwrap().push((group.error_signature.clone(), group.state));
                Ok(())
            }
        }
    }
}

impl Told {
    fn failing(times: usize) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(vec![false; times].into()), ..Self::default() })
    }

    fn take(&self) -> Vec<(String, NewGroupState)> {
        let mut groups = std::mem::take(&mut *self.groups.lock().unwrap());
        groups.sort_by(|(one, _), (other, _)| one.cmp(other));
        groups
    }

    fn names(&self) -> Vec<String> {
        self.take().into_iter().map(|(signature, _)| signature).collect()
    }
}

use NewGroupState::{New, Regressed, Unknown};

fn builder(db: &TestDb, told: &Arc<Told>) -> GroupWatchBuilder {
    GroupWatch::builder(Arc::new(db.repo()), told.clone())
}

/// A watch, and what it tells.
fn watch(db: &TestDb) -> (GroupWatch, Arc<Told>) {
    let told = Arc::default();
    (builder(db, &told).build().unwrap(), told)
}

fn ago(minutes: i64) -> DateTime<Utc> {
    (Utc::now() - TimeDelta::minutes(minutes)).trunc_subsecs(3)
}

async fn fails(db: &TestDb, app: AppId, error: &str) -> DeadLetterId {
    let letter = NewDeadLetter { last_error: error.to_owned(), script_id: None, ..letter(app) };
    db.repo().insert(letter).await.unwrap()
}

async fn failed(db: &TestDb, app: AppId, error: &str, minutes: i64) -> DeadLetterId {
    let id = fails(db, app, error).await;
    db.set_created_at(id, ago(minutes)).await;
    id
}

/// The report of a complete tick: the groups that were announced, and those that were not.
async fn tick(watch: &GroupWatch) -> (u64, u64) {
    let GroupWatchReport { announced, failed, end, .. } = watch.announce_once().await;
    assert!(matches!(end, GroupWatchEnd::Finished), "{end:?}");
    (announced, failed)
}

async fn a_new_group_is_announced_once_whatever_else_fails_in_it(db: TestDb) {
    let app = new_app();
    let (watch, told) = watch(&db);
    assert_eq!(tick(&watch).await, (0, 0));
    failed(&db, app, "old", 90).await;
    failed(&db, app, "old", 1).await;
    for _ in 0..3 {
        fails(&db, app, "new").await;
        tick(&watch).await;
    }
    fails(&db, new_app(), "new").await;
    tick(&watch).await;
    // That of the other app.
    assert_eq!(told.take(), [("new".to_owned(), New), ("new".to_owned(), New)]);
}

async fn two_watches_on_one_database_announce_each_group_once(db: TestDb) {
    let app = new_app();
    let (one, told_by_one) = watch(&db);
    let (two, told_by_two) = watch(&db);
    let mut expected = Vec::new();
    for round in ["a", "b", "c"] {
        for number in ["one", "two", "three", "four"] {
            let error = format!("{round} {number}");
            fails(&db, app, &error).await;
            expected.push(error);
        }
        let (by_one, by_two) = tokio::join!(tick(&one), tick(&two));
        assert_eq!(by_one.0 + by_two.0, 4);
    }
    expected.sort();
    let mut names = [told_by_one.names(), told_by_two.names()].concat();
    names.sort();
    assert_eq!(names, expected);
}

async fn a_restart_announces_nothing_twice(db: TestDb) {
    let app = new_app();
    failed(&db, app, "before", 20).await;
    let (first, told_first) = watch(&db);
    tick(&first).await;
    assert_eq!(told_first.names(), ["before"]);
    fails(&db, app, "meanwhile").await;
    let (second, told) = watch(&db);
    tick(&second).await;
    assert_eq!(told.names(), ["meanwhile"]);
}

async fn a_group_that_could_not_be_announced_is_announced_again_after_its_lease_however_late(db: TestDb) {
    let app = new_app();
    let told = Told::failing(1);
    let failing = builder(&db, &told).build().unwrap();
    let id = fails(&db, app, "new").await;
    assert_eq!(tick(&failing).await, (0, 1));
    assert_eq!(tick(&failing).await, (0, 0));
    // Three hours pass. The looks go back 15 minutes, and those of a new watch an hour.
    db.set_created_at(id, ago(180)).await;
    announcements::Entity::update_many()
        .col_expr(announcements::Column::FirstSeen, ago(180).into())
        .exec(&db.db)
        .await
        .unwrap();
    let (restarted, told_by_restarted) = watch(&db);
    assert_eq!(tick(&restarted).await, (0, 0));
    run_out(&db).await;
    assert_eq!(tick(&failing).await, (1, 0));
    assert_eq!(tick(&restarted).await, (0, 0));
    assert_eq!((told.take(), told_by_restarted.take()), (vec![("new".to_owned(), New)], vec![]));
}

/// Never returns.
#[derive(Default)]
struct Hangs(Signal);

#[async_trait]
impl Notify for Hangs {
    async fn notify(&self, _: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.notify_one();
        future::pending().await
    }
}

async fn a_watch_that_ends_between_claim_and_message_leaves_the_group_to_another_one(db: TestDb) {
    let app = new_app();
    fails(&db, app, "new").await;
    let hangs = Arc::new(Hangs::default());
    let ends = GroupWatch::builder(Arc::new(db.repo()), hangs.clone()).build().unwrap();
    tokio::select! {
        report = ends.announce_once() => panic!("{report:?}"),
        () = hangs.0.notified() => {}
    }
    drop(ends);
    let (other, told) = watch(&db);
    assert_eq!(tick(&other).await, (0, 0));
    run_out(&db).await;
    assert_eq!(tick(&other).await, (1, 0));
    run_out(&db).await;
    assert_eq!(tick(&other).await, (0, 0));
    assert_eq!(told.names(), ["new"]);
}

async fn a_group_that_regresses_twice_is_announced_twice(db: TestDb) {
    let app = new_app();
    let (watch, told) = watch(&db);
    let mut id = failed(&db, app, "again", 10).await;
    tick(&watch).await;
    assert_eq!(told.take(), [("again".to_owned(), New)]);
    for minutes in [8, 6] {
        db.repo().resolve(id, "ignored").await.unwrap();
        db.set_resolved_at(id, ago(minutes + 1)).await;
        assert_eq!(tick(&watch).await, (0, 0));
        id = failed(&db, app, "again", minutes).await;
        for _ in 0..2 {
            tick(&watch).await;
            run_out(&db).await;
        }
        assert_eq!(told.take(), [("again".to_owned(), Regressed)]);
    }
    // One more letter is no regression.
    fails(&db, app, "again").await;
    assert_eq!(tick(&watch).await, (0, 0));
}

async fn a_letter_that_commits_up_to_15_minutes_late_is_announced(db: TestDb) {
    let app = new_app();
    let (watch, told) = watch(&db);
    fails(&db, app, "first").await;
    tick(&watch).await;
    failed(&db, app, "late", 14).await;
    failed(&db, app, "too late", 16).await;
    tick(&watch).await;
    assert_eq!(told.names(), ["first", "late"]);
}

async fn the_first_tick_covers_the_lookback_alone(db: TestDb) {
    let app = new_app();
    failed(&db, app, "old", 61).await;
    failed(&db, app, "new", 59).await;
    let (usual, told) = watch(&db);
    tick(&usual).await;
    assert_eq!(told.names(), ["new"]);
    for (lookback, expected) in [(Duration::from_secs(2 * 60 * 60), vec!["old"]), (Duration::MAX, vec![])] {
        let further = builder(&db, &told).lookback(lookback).build().unwrap();
        tick(&further).await;
        assert_eq!(told.names(), expected);
    }
}

async fn a_rebuild_of_signatures_announces_nothing_old(db: TestDb) {
    let app = new_app();
    for (error, minutes) in [("one", 120), ("two", 90), ("one", 5), ("two", 1)] {
        failed(&db, app, error, minutes).await;
    }
    // As the rules of an earlier version made them: one group.
    table::Entity::update_many()
        .col_expr(table::Column::ErrorSignature, "stale".into())
        .col_expr(table::Column::SignatureVersion, 1.into())
        .col_expr(table::Column::GroupKey, "key of stale".into())
        .exec(&db.db)
        .await
        .unwrap();
    let (watch, told) = watch(&db);
    assert_eq!(tick(&watch).await, (0, 0));
    let rebuilt = db.repo().rebuild_signatures(&RebuildRequest::default()).await.unwrap();
    assert_eq!(rebuilt.updated, 4);
    assert_eq!(tick(&watch).await, (0, 0));
    fails(&db, app, "one").await;
    fails(&db, app, "three").await;
    assert_eq!(tick(&watch).await, (1, 0));
    assert_eq!(told.names(), ["three"]);
}

async fn a_tick_announces_as_many_groups_as_its_limit_and_the_next_ones_the_rest(db: TestDb) {
    let app = new_app();
    for (error, minutes) in [("a", 50), ("b", 40), ("c", 30), ("d", 20), ("e", 10)] {
        failed(&db, app, error, minutes).await;
    }
    let told = Arc::default();
    let watch = builder(&db, &told).limit(2).build().unwrap();
    for expected in [["d", "e"], ["b", "c"]] {
        let report = watch.announce_once().await;
        assert!(matches!(report.end, GroupWatchEnd::More), "{report:?}");
        assert_eq!(told.names(), expected);
    }
    assert_eq!(tick(&watch).await, (1, 0));
    assert_eq!(told.names(), ["a"]);
}

async fn after_three_failures_in_a_row_the_rest_is_left_to_the_next_tick(db: TestDb) {
    let app = new_app();
    for (error, minutes) in [("a", 50), ("b", 40), ("c", 30), ("d", 20), ("e", 10)] {
        failed(&db, app, error, minutes).await;
    }
    let told = Told::failing(3);
    let watch = builder(&db, &told).build().unwrap();
    let report = watch.announce_once().await;
    assert_eq!((report.announced, report.failed), (0, 3));
    assert!(matches!(report.end, GroupWatchEnd::More), "{report:?}");
    assert_eq!(tick(&watch).await, (2, 0));
    assert_eq!(told.names(), ["a", "b"]);
    run_out(&db).await;
    assert_eq!(tick(&watch).await, (3, 0));
    assert_eq!(told.names(), ["c", "d", "e"]);
}

/// Fails for every group but one.
struct FailsForAllBut(&'static str);

#[async_trait]
impl Notify for FailsForAllBut {
    async fn notify(&self, group: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
        if group.error_signature == self.0 { Ok(()) } else { Err("the webhook returned 502".into()) }
    }
}

async fn groups_that_always_fail_keep_no_older_group_from_its_announcement(db: TestDb) {
    for limit in [50, 2] {
        let app = new_app();
        for (error, minutes) in [("oldest", 50), ("b", 40), ("c", 30), ("d", 20), ("e", 10)] {
            failed(&db, app, error, minutes).await;
        }
        let watch = GroupWatch::builder(Arc::new(db.repo()), Arc::new(FailsForAllBut("oldest")));
        let watch = watch.limit(limit).build().unwrap();
        let mut announced = 0;
        for _ in 0..6 {
            announced += watch.announce_once().await.announced;
            // Every lease ends before the next tick, as where a message hangs until then.
            run_out(&db).await;
        }
        assert_eq!(announced, 1, "{limit}");
    }
}

/// As by default, where a lease is several times as long as the pause between two ticks.
async fn groups_that_always_fail_and_are_leased_over_several_ticks_keep_no_older_group_from_its_announcement(
    db: TestDb,
) {
    const TICKS_OF_A_LEASE: usize = 8;
    let app = new_app();
    failed(&db, app, "oldest", 50).await;
    for number in 0..30 {
        failed(&db, app, &format!("group {}", char::from(b'A' + number)), 40 - i64::from(number)).await;
    }
    let watch = GroupWatch::builder(Arc::new(db.repo()), Arc::new(FailsForAllBut("oldest"))).build().unwrap();
    let (mut began, mut announced) = (Vec::new(), 0);
    // Each tick tries three groups.
    for _ in 0..12 {
        began.push(Utc::now());
        announced += watch.announce_once().await.announced;
        if let Some(before) = began.len().checked_sub(TICKS_OF_A_LEASE) {
            let ended = announcements::Entity::update_many()
                .col_expr(announcements::Column::LeasedUntil, ago(1).into())
                .filter(announcements::Column::ClaimedAt.lt(began[before + 1]));
            ended.exec(&db.db).await.unwrap();
        }
    }
    assert_eq!(announced, 1);
}

async fn a_group_whose_novelty_is_unknown_is_announced_as_such(db: TestDb) {
    let app = new_app();
    for minutes in [120, 3, 2, 1] {
        failed(&db, app, "busy", minutes).await;
    }
    let told = Arc::default();
    let watch = builder(&db, &told).scan_limit(2).build().unwrap();
    for _ in 0..2 {
        tick(&watch).await;
    }
    assert_eq!(told.take(), [("busy".to_owned(), Unknown)]);
}

async fn rows_of_old_and_abandoned_announcements_are_deleted(db: TestDb) {
    let app = new_app();
    let told = Told::failing(1);
    let failing = builder(&db, &told).build().unwrap();
    let gone = fails(&db, app, "gone").await;
    assert_eq!(tick(&failing).await, (0, 1));
    let filter = dead_letters::DeadLetterFilter::default().ids([gone]);
    db.repo().delete_matching(app, &filter, &Default::default(), 1).await.unwrap();
    fails(&db, app, "new").await;
    assert_eq!(tick(&failing).await, (1, 0));
    assert_eq!(rows(&db).await, 2);
    // The claim of a group without letters ends with its lease.
    run_out(&db).await;
    assert_eq!(tick(&failing).await, (0, 0));
    assert_eq!(rows(&db).await, 1);
    for (days, left) in [(89, 1), (91, 0)] {
        announcements::Entity::update_many()
            .col_expr(announcements::Column::AnnouncedAt, ago(days * 24 * 60).into())
            .exec(&db.db)
            .await
            .unwrap();
        assert_eq!(tick(&failing).await, (0, 0));
        assert_eq!(rows(&db).await, left);
    }
}

/// A gap. Older letters of the group could also lie beyond the scan limit, and the announcement could not tell.
async fn a_group_whose_letters_were_deleted_is_not_announced_again_while_it_is_remembered(db: TestDb) {
    let app = new_app();
    let (watch, told) = watch(&db);
    let first = fails(&db, app, "new").await;
    assert_eq!(tick(&watch).await, (1, 0));
    let filter = dead_letters::DeadLetterFilter::default().ids([first]);
    db.repo().delete_matching(app, &filter, &Default::default(), 1).await.unwrap();
    fails(&db, app, "new").await;
    assert_eq!(tick(&watch).await, (0, 0));
    assert_eq!(told.take(), [("new".to_owned(), New)]);
}

/// A gap: see GUARANTEES.md.
async fn a_regression_whose_closed_letters_lie_beyond_the_scan_limit_is_not_announced(db: TestDb) {
    let app = new_app();
    let told = Arc::<Told>::default();
    let watch = builder(&db, &told).scan_limit(2).build().unwrap();
    let first = fails(&db, app, "new").await;
    assert_eq!(tick(&watch).await, (1, 0));
    db.repo().resolve(first, "ignored").await.unwrap();
    db.set_created_at(first, ago(3)).await;
    db.set_resolved_at(first, ago(2)).await;
    fails(&db, app, "other").await;
    fails(&db, app, "new").await;
    tick(&watch).await;
    let seen = told.take();
    assert!(!seen.contains(&("new".to_owned(), Regressed)), "{seen:?}");
    // With a scan that reaches the closed letter it is.
    let wider = builder(&db, &told).scan_limit(10).build().unwrap();
    tick(&wider).await;
    assert!(told.take().contains(&("new".to_owned(), Regressed)));
}

async fn a_failed_message_is_logged_without_content(db: TestDb) {
    let app = new_app();
    let letter = NewDeadLetter {
        source: CANARY.to_owned(),
        op: CANARY.to_owned(),
        last_error: CANARY.to_owned(),
        ..letter(app)
    };
    let id = db.repo().insert(letter).await.unwrap();
    let watch = builder(&db, &Told::failing(1)).build().unwrap();
    listen();
    assert_eq!(tick(&watch).await, (0, 1));
    let log = heard();
    let line = log.lines().find(|line| line.contains("WARN")).unwrap();
    for expected in [&app.to_string(), &id.to_string(), "the webhook returned 502"] {
        assert!(line.contains(expected), "{line}");
    }
    assert!(!log.contains(CANARY), "{log}");
}
