//! Tests of each promise of `DeadLetterAnnounce`.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::{
    AnnouncementClaim, AppId, DeadLetterAnnounce, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError,
    NewDeadLetter, NewErrorGroup, NewGroupRequest, NewGroupState, SeaOrmDeadLetterRepo, UnannouncedGroups,
    entity::dead_letter_announcements as announcements, testing::new_error_group,
};
use sea_orm::{EntityTrait, PaginatorTrait};
use tokio::task::JoinSet;

use super::{letter, new_app, time};
use crate::database::TestDb;

on_every_backend! {
    exactly_one_of_several_concurrent_callers_gets_the_claim,
    a_claimed_group_can_be_claimed_again_after_its_lease_and_not_before,
    an_announced_group_can_be_claimed_again_only_for_a_later_regression,
    a_group_that_was_announced_while_closed_can_be_claimed_once_it_regresses,
    a_claim_that_another_one_followed_confirms_nothing,
    groups_of_two_apps_with_one_key_are_claimed_apart,
    a_look_leaves_out_what_is_announced_or_claimed_and_returns_the_rest_in_order,
    a_claimed_group_is_found_after_its_lease_also_if_since_is_later,
    a_claimed_group_that_was_not_announced_makes_no_other_group_new_or_unknown,
    a_claim_in_a_transaction_that_is_rolled_back_is_none,
    a_sweep_deletes_old_and_abandoned_rows_up_to_its_limit_and_no_other,
    arguments_out_of_range_are_refused_and_nothing_is_sent,
}

const LEASE: Duration = Duration::from_secs(60);

/// A new group, always with the same key.
fn group(app: AppId) -> NewErrorGroup {
    let mut group = new_error_group(app);
    group.group_key = "a6a8f8be7176a403".to_owned();
    group
}

/// The same group, which regressed after it was closed at this time.
fn regressed(app: AppId, closed_at: &str) -> NewErrorGroup {
    let mut group = group(app);
    (group.state, group.last_closed_at) = (NewGroupState::Regressed, Some(time(closed_at)));
    group
}

async fn claim(db: &TestDb, group: &NewErrorGroup) -> Option<AnnouncementClaim> {
    db.repo().claim_announcement(group, LEASE).await.unwrap()
}

async fn announce(db: &TestDb, group: &NewErrorGroup) {
    let claim = claim(db, group).await.unwrap();
    assert!(db.repo().confirm_announcement(&claim).await.unwrap());
}

/// Makes all leases run out.
pub(super) async fn run_out(db: &TestDb) {
    announcements::Entity::update_many()
        .col_expr(announcements::Column::LeasedUntil, time("2026-01-01T00:00:00Z").into())
        .exec(&db.db)
        .await
        .unwrap();
}

pub(super) async fn rows(db: &TestDb) -> u64 {
    announcements::Entity::find().count(&db.db).await.unwrap()
}

async fn exactly_one_of_several_concurrent_callers_gets_the_claim(db: TestDb) {
    for _ in 0..5 {
        let group = group(new_app());
        for _ in 0..2 {
            let repo = db.repo();
            let claims: JoinSet<_> = (0..8)
                .map(|_| {
                    let (repo, group) = (repo.clone(), group.clone());
                    async move { repo.claim_announcement(&group, LEASE).await.unwrap() }
                })
                .collect();
            assert_eq!(claims.join_all().await.into_iter().flatten().count(), 1);
            run_out(&db).await;
        }
    }
}

async fn a_claimed_group_can_be_claimed_again_after_its_lease_and_not_before(db: TestDb) {
    let repo = db.repo();
    let group = group(new_app());
    for lease in [LEASE, Duration::MAX] {
        assert!(repo.claim_announcement(&group, lease).await.unwrap().is_some());
        assert!(repo.claim_announcement(&group, lease).await.unwrap().is_none());
        run_out(&db).await;
    }
    for _ in 0..3 {
        assert!(repo.claim_announcement(&group, Duration::ZERO).await.unwrap().is_some());
    }
    let row = announcements::Entity::find().one(&db.db).await.unwrap().unwrap();
    assert_eq!((row.claimed_at, row.announced_at), (row.leased_until, None));
    assert_eq!(row.first_seen.to_utc(), group.first_seen);
    assert!((Utc::now() - row.claimed_at.to_utc()).abs() < TimeDelta::hours(1));
}

async fn an_announced_group_can_be_claimed_again_only_for_a_later_regression(db: TestDb) {
    let app = new_app();
    let [first, second] = ["2026-03-01T10:00:00Z", "2026-03-01T10:00:00.001Z"];
    announce(&db, &group(app)).await;
    run_out(&db).await;
    assert_eq!(claim(&db, &group(app)).await, None);
    for close in [first, second] {
        announce(&db, &regressed(app, close)).await;
        run_out(&db).await;
        for known in [group(app), regressed(app, first), regressed(app, close)] {
            assert_eq!(claim(&db, &known).await, None, "{close}");
        }
    }
}

async fn a_group_that_was_announced_while_closed_can_be_claimed_once_it_regresses(db: TestDb) {
    let app = new_app();
    let closed = new_closed(app);
    announce(&db, &closed).await;
    assert_eq!(claim(&db, &closed).await, None);
    assert!(claim(&db, &regressed(app, "2026-03-01T10:00:00Z")).await.is_some());
}

/// A new group all of whose letters are closed.
fn new_closed(app: AppId) -> NewErrorGroup {
    let mut group = regressed(app, "2026-03-01T10:00:00Z");
    group.state = NewGroupState::New;
    group
}

async fn a_claim_that_another_one_followed_confirms_nothing(db: TestDb) {
    let group = group(new_app());
    claim(&db, &group).await.unwrap();
    // As if it had been a while ago.
    let first = AnnouncementClaim::new(&group, time("2026-01-01T00:00:00Z"));
    let claimed_at = announcements::Column::ClaimedAt;
    let ago = announcements::Entity::update_many().col_expr(claimed_at, first.claimed_at.into());
    ago.exec(&db.db).await.unwrap();
    run_out(&db).await;
    let second = claim(&db, &group).await.unwrap();
    assert!(!db.repo().confirm_announcement(&first).await.unwrap());
    // The lease alone does not end a claim.
    run_out(&db).await;
    assert!(db.repo().confirm_announcement(&second).await.unwrap());
    assert_eq!(claim(&db, &group).await, None);
}

async fn groups_of_two_apps_with_one_key_are_claimed_apart(db: TestDb) {
    let [one, two] = [group(new_app()), group(new_app())];
    announce(&db, &one).await;
    announce(&db, &two).await;
    assert_eq!(rows(&db).await, 2);
}

fn failed(app: AppId, error: &str) -> NewDeadLetter {
    NewDeadLetter { last_error: error.to_owned(), script_id: None, ..letter(app) }
}

fn minute(minute: i64) -> DateTime<Utc> {
    time("2026-03-01T10:00:00Z") + TimeDelta::minutes(minute)
}

async fn at(db: &TestDb, created: i64, letter: NewDeadLetter) {
    let id = db.repo().insert(letter).await.unwrap();
    db.set_created_at(id, minute(created)).await;
}

async fn look(repo: &SeaOrmDeadLetterRepo, request: &NewGroupRequest) -> UnannouncedGroups {
    repo.unannounced_groups(request).await.unwrap()
}

fn signatures(found: &UnannouncedGroups) -> Vec<&str> {
    found.groups.iter().map(|group| group.error_signature.as_str()).collect()
}

async fn a_look_leaves_out_what_is_announced_or_claimed_and_returns_the_rest_in_order(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    for (created, error) in [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")] {
        at(&db, created, failed(app, error)).await;
    }
    let request = NewGroupRequest::since(minute(0));
    for request in [request.clone(), request.clone().among([app])] {
        let found = look(&repo, &request).await;
        assert_eq!(signatures(&found), ["e", "d", "c", "b", "a"]);
        assert_eq!(found.scanned_back_to, None);
        assert!((Utc::now() - found.as_of).abs() < TimeDelta::hours(1));
    }
    let found = look(&repo, &request).await;
    announce(&db, &found.groups[0]).await;
    claim(&db, &found.groups[1]).await.unwrap();
    for request in [request.clone(), request.clone().among([app])] {
        // The limit does not count the groups that are left out.
        let found = look(&repo, &request.clone().limit(2)).await;
        assert_eq!(signatures(&found), ["c", "b"]);
        assert_eq!(look(&repo, &request.scan_limit(3)).await.scanned_back_to, Some(minute(3)));
    }
    run_out(&db).await;
    assert_eq!(signatures(&look(&repo, &request).await), ["d", "c", "b", "a"]);
    // An announced group is found again once it regressed.
    let newest = found.groups[0].newest_id;
    repo.resolve(newest, "ignored").await.unwrap();
    db.set_resolved_at(newest, minute(6)).await;
    at(&db, 7, failed(app, "e")).await;
    for request in [request.clone(), request.among([app])] {
        let again = look(&repo, &request).await;
        assert_eq!(signatures(&again), ["e", "d", "c", "b", "a"]);
        assert_eq!(again.groups[0].state, NewGroupState::Regressed);
    }
    // A group that is neither new nor regressed is not announced, whatever the request says of open groups.
    let request = NewGroupRequest::since(minute(5));
    at(&db, 0, failed(app, "known")).await;
    let open = request.clone().open(true);
    assert_eq!(repo.new_error_groups(&open).await.unwrap().groups.len(), 6);
    assert_eq!(look(&repo, &open).await.groups, look(&repo, &request).await.groups);
}

async fn a_claimed_group_is_found_after_its_lease_also_if_since_is_later(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    at(&db, -60, failed(app, "old")).await;
    at(&db, 10, failed(app, "new")).await;
    let found = look(&repo, &NewGroupRequest::since(minute(0))).await;
    claim(&db, &found.groups[0]).await.unwrap();
    let later = NewGroupRequest::since(minute(60));
    assert_eq!(look(&repo, &later).await.groups, []);
    run_out(&db).await;
    assert_eq!(signatures(&look(&repo, &later).await), ["new"]);
    // An earlier letter of the group was stored by a transaction that committed late.
    at(&db, 0, failed(app, "new")).await;
    let found = look(&repo, &later).await;
    assert_eq!(signatures(&found), ["new"]);
    announce(&db, &found.groups[0]).await;
    assert_eq!(look(&repo, &later).await.groups, []);
}

async fn a_claimed_group_that_was_not_announced_makes_no_other_group_new_or_unknown(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    at(&db, -20, failed(app, "known")).await;
    at(&db, 0, failed(app, "claimed")).await;
    let found = look(&repo, &NewGroupRequest::since(minute(-1))).await;
    claim(&db, &found.groups[0]).await.unwrap();
    run_out(&db).await;
    for created in 1..=5 {
        at(&db, created, failed(app, "known")).await;
    }
    at(&db, 30, failed(app, "new")).await;
    at(&db, 31, failed(app, "known")).await;
    let request = NewGroupRequest::since(minute(25));
    // The second scan ends before `since`, and does not come to the claimed group.
    for (request, expected) in
        [(request.clone(), vec!["new", "claimed"]), (request.scan_limit(5), vec!["new"])]
    {
        for request in [request.clone(), request.among([app])] {
            let found = look(&repo, &request).await;
            let mut signatures = signatures(&found);
            signatures.sort_unstable_by(|a, b| b.cmp(a));
            assert_eq!(signatures, expected);
            assert!(found.groups.iter().all(|group| group.state == NewGroupState::New), "{found:?}");
        }
    }
}

async fn a_claim_in_a_transaction_that_is_rolled_back_is_none(db: TestDb) {
    let group = group(new_app());
    let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
    let claimed = db.repo().in_transaction(&txn).claim_announcement(&group, LEASE).await.unwrap();
    assert!(claimed.is_some());
    txn.rollback().await.unwrap();
    assert!(claim(&db, &group).await.is_some());
}

async fn a_sweep_deletes_old_and_abandoned_rows_up_to_its_limit_and_no_other(db: TestDb) {
    let repo = db.repo();
    let claims = async |count: u32, announced: bool| {
        for _ in 0..count {
            let group = group(new_app());
            if announced { announce(&db, &group).await } else { drop(claim(&db, &group).await) }
        }
    };
    claims(3, true).await;
    let old = announcements::Entity::update_many()
        .col_expr(announcements::Column::AnnouncedAt, time("2026-02-01T00:00:00Z").into());
    old.exec(&db.db).await.unwrap();
    claims(2, false).await;
    run_out(&db).await;
    claims(1, true).await;
    claims(1, false).await;
    let (before, abandoned) = (time("2026-02-02T00:00:00Z"), time("2026-01-02T00:00:00Z"));
    let sweep = async |announced_before, abandoned_before, limit| {
        repo.sweep_announcements(announced_before, abandoned_before, limit).await.unwrap()
    };
    assert_eq!(sweep(DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH, 100).await, 0);
    assert_eq!(sweep(time("2026-02-01T00:00:00Z"), time("2026-01-01T00:00:00Z"), 100).await, 0);
    assert_eq!(sweep(before, DateTime::UNIX_EPOCH, 1).await, 1);
    assert_eq!(sweep(DateTime::UNIX_EPOCH, abandoned, 1).await, 1);
    assert_eq!(sweep(before, abandoned, 2).await, 2);
    assert_eq!(sweep(before, abandoned, 100).await, 1);
    assert_eq!((sweep(before, abandoned, 100).await, rows(&db).await), (0, 2));
}

async fn arguments_out_of_range_are_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let since = NewGroupRequest::since(minute(0));
    let error = repo.unannounced_groups(&since.clone().limit(501)).await.unwrap_err();
    assert_eq!(error.to_string(), "`limit` must be between 1 and 500 (got 501)");
    let error = repo.unannounced_groups(&since.scan_limit(0)).await.unwrap_err();
    assert_eq!(error.to_string(), "`scan_limit` must be at least 1 (got 0)");
    let future = NewGroupRequest::since(Utc::now() + TimeDelta::minutes(1));
    let error = repo.unannounced_groups(&future).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::SinceInFuture(_)), "{error}");
    for (limit, got) in [(0, "0"), (1_001, "1,001")] {
        let error = repo.sweep_announcements(minute(0), minute(0), limit).await.unwrap_err();
        assert_eq!(error.to_string(), format!("`limit` must be between 1 and 1,000 (got {got})"));
    }
    assert_eq!(recorded.take(), []);
}
