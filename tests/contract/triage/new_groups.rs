use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    AppId, DeadLetterDelete, DeadLetterId, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError,
    DeadLetterResolve, DeadLetterState, GroupRequest, NewDeadLetter, NewErrorGroup, NewErrorGroups,
    NewGroupRequest, NewGroupState, ScriptId,
};
use serde_json::json;
use uuid::Uuid;

use super::{any, letter, new_app, seen, ten_oclock};
use crate::database::TestDb;

on_every_backend! {
    a_group_without_earlier_letters_is_new_with_its_letters_since_then_and_a_sample,
    a_group_with_earlier_letters_is_left_out,
    a_group_whose_open_letters_are_all_newer_than_its_last_close_regressed,
    a_group_with_an_open_letter_from_before_its_last_close_did_not_regress,
    a_new_group_is_shown_whether_it_is_open_or_closed,
    open_groups_are_those_with_open_letters_the_known_ones_last_and_largest_first,
    an_open_group_is_shown_by_its_newest_open_letter,
    a_group_is_new_only_as_far_as_the_scan_went_and_unknown_before_that,
    only_letters_within_the_scan_make_a_group_old_or_regressed,
    letters_of_two_apps_with_the_same_failure_are_two_groups,
    only_the_requested_apps_are_shown,
    some_apps_share_the_scan_limit,
    the_group_that_broke_last_comes_first_and_the_limit_keeps_the_first,
    letters_without_a_key_are_one_group,
    an_erased_letter_counts_but_shows_nothing_unless_all_are_erased,
    arguments_out_of_range_are_refused_and_nothing_is_sent,
}

fn minute(minute: i64) -> DateTime<Utc> {
    ten_oclock() + Duration::minutes(minute)
}

fn failed(app: AppId, error: &str) -> NewDeadLetter {
    NewDeadLetter { last_error: error.to_owned(), script_id: None, ..letter(app) }
}

/// Stores a letter that was created in this minute.
async fn at(db: &TestDb, created: i64, letter: NewDeadLetter) -> DeadLetterId {
    let id = db.repo().insert(letter).await.unwrap();
    db.set_created_at(id, minute(created)).await;
    id
}

/// Closes a letter in this minute.
async fn close(db: &TestDb, id: DeadLetterId, closed: i64) {
    db.repo().resolve(id, "ignored").await.unwrap();
    db.set_resolved_at(id, minute(closed)).await;
}

fn since(since: i64) -> NewGroupRequest {
    NewGroupRequest::since(minute(since))
}

async fn find(db: &TestDb, request: &NewGroupRequest) -> NewErrorGroups {
    db.repo().new_error_groups(request).await.unwrap()
}

/// The signature, the state and the count of each group.
fn shown(found: &NewErrorGroups) -> Vec<(&str, NewGroupState, u64)> {
    found.groups.iter().map(|group| (group.error_signature.as_str(), group.state, group.count)).collect()
}

use NewGroupState::{Known, New, Regressed, Unknown};

async fn a_group_without_earlier_letters_is_new_with_its_letters_since_then_and_a_sample(db: TestDb) {
    let app = new_app();
    let script = ScriptId::from(Uuid::from_u128(1));
    let timeout = |error: &str| NewDeadLetter { script_id: Some(script), ..failed(app, error) };
    at(&db, 1, timeout("timeout after 1s\nattempt 1")).await;
    let newest = at(&db, 5, timeout("timeout after 2s")).await;
    at(&db, 3, timeout("timeout after 3s")).await;
    let group = json!({
        "app_id": app,
        "group_key": "a6a8f8be7176a403",
        "source": "orders",
        "op": "insert",
        "script_id": script,
        "error_signature": "timeout after #",
        "sample": "timeout after 2s",
        "count": 3,
        "open": 3,
        "first_seen": minute(1),
        "last_seen": minute(5),
        "newest_id": newest,
        "last_closed_at": null,
        "state": "new",
    });
    let group: NewErrorGroup = serde_json::from_value(group).unwrap();
    // The first letter was created at that time.
    for request in [since(1), since(1).among([app])] {
        let found = find(&db, &request).await;
        assert_eq!((found.groups, found.scanned_back_to), (vec![group.clone()], None));
    }
    let found = find(&db, &since(6)).await;
    assert_eq!(found, NewErrorGroups::default());
}

async fn a_group_with_earlier_letters_is_left_out(db: TestDb) {
    let app = new_app();
    at(&db, 0, failed(app, "old")).await;
    at(&db, 5, failed(app, "old")).await;
    at(&db, 5, failed(app, "new")).await;
    for request in [since(3), since(3).among([app])] {
        assert_eq!(shown(&find(&db, &request).await), [("new", New, 1)]);
    }
    assert_eq!(shown(&find(&db, &since(0)).await).len(), 2);
}

async fn a_group_whose_open_letters_are_all_newer_than_its_last_close_regressed(db: TestDb) {
    let app = new_app();
    for created in [0, 1] {
        let id = at(&db, created, failed(app, "again")).await;
        close(&db, id, 2 + created).await;
    }
    // A handler failed: the letter is open.
    let open = at(&db, 4, failed(app, "again")).await;
    at(&db, 5, failed(app, "again")).await;
    db.repo().resolve(open, "handler_failed").await.unwrap();
    for request in [since(5), since(4), since(0), since(4).among([app])] {
        let found = find(&db, &request).await;
        let count = if request.since == minute(5) {
            1
        } else if request.since == minute(4) {
            2
        } else {
            4
        };
        assert_eq!(shown(&found), [("again", Regressed, count)]);
        assert_eq!(found.groups[0].last_closed_at, Some(minute(3)));
    }
    let of_app = db.repo().error_groups(app, &any(), &GroupRequest::default()).await.unwrap();
    assert!(of_app.groups[0].regressed);
    // The same letters are closed, and nothing is open.
    let open = any().state(DeadLetterState::Open).created_before(Utc::now());
    let ignored = dead_letters::Resolution::Ignored;
    db.repo().resolve_matching(app, &open, ignored, &seen(), 10).await.unwrap();
    assert_eq!(find(&db, &since(4)).await.groups, []);
}

async fn a_group_with_an_open_letter_from_before_its_last_close_did_not_regress(db: TestDb) {
    let app = new_app();
    let closed = at(&db, 0, failed(app, "again")).await;
    at(&db, 1, failed(app, "again")).await;
    close(&db, closed, 2).await;
    at(&db, 5, failed(app, "again")).await;
    assert_eq!(find(&db, &since(4)).await.groups, []);
    let of_app = db.repo().error_groups(app, &any(), &GroupRequest::default()).await.unwrap();
    assert!(!of_app.groups[0].regressed);
}

async fn a_new_group_is_shown_whether_it_is_open_or_closed(db: TestDb) {
    let app = new_app();
    let id = at(&db, 5, failed(app, "handled")).await;
    close(&db, id, 6).await;
    assert_eq!(shown(&find(&db, &since(4)).await), [("handled", New, 1)]);
}

async fn open_groups_are_those_with_open_letters_the_known_ones_last_and_largest_first(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    for created in [0, 1, 2] {
        at(&db, created, failed(other, "large")).await;
    }
    at(&db, 0, failed(app, "small")).await;
    let closed = at(&db, 4, failed(app, "small")).await;
    close(&db, closed, 5).await;
    at(&db, 4, failed(app, "new")).await;
    let closed = at(&db, 0, failed(app, "again")).await;
    close(&db, closed, 1).await;
    at(&db, 3, failed(app, "again")).await;
    let closed = at(&db, 5, failed(app, "all closed")).await;
    close(&db, closed, 6).await;
    let open = |found: &NewErrorGroups| -> Vec<_> {
        let group = |group: &NewErrorGroup| {
            (group.error_signature.clone(), group.state, group.count, group.open, group.first_seen)
        };
        found.groups.iter().map(group).collect()
    };
    let group = |signature: &str, state, count, open, first| {
        (signature.to_owned(), state, count, open, minute(first))
    };
    let small = group("small", Known, 2, 1, 0);
    let newest = [group("new", New, 1, 1, 4), group("again", Regressed, 2, 1, 0)];
    let all = [&newest[..], &[group("large", Known, 3, 3, 0), small.clone()]].concat();
    for request in [since(3), since(3).among([other, app])] {
        assert_eq!(open(&find(&db, &request.clone().open(true)).await), all);
        assert_eq!(open(&find(&db, &request.open(true).limit(2)).await), newest);
    }
    let of_app = find(&db, &since(3).among([app]).open(true)).await;
    assert_eq!(open(&of_app), [&newest[..], &[small]].concat());
    let newest = find(&db, &since(3).open(true).scan_limit(3)).await;
    assert_eq!(shown(&newest), [("new", Unknown, 1)]);
}

async fn an_open_group_is_shown_by_its_newest_open_letter(db: TestDb) {
    let app = new_app();
    at(&db, 1, failed(app, "timeout after 1s")).await;
    let open = at(&db, 2, failed(app, "timeout after 2s")).await;
    let closed = at(&db, 3, failed(app, "timeout after 3s")).await;
    close(&db, closed, 4).await;
    let newest = async |open: bool| {
        let group = find(&db, &since(0).open(open)).await.groups.remove(0);
        (group.newest_id, group.sample)
    };
    assert_eq!(newest(true).await, (open, "timeout after 2s".to_owned()));
    assert_eq!(newest(false).await, (closed, "timeout after 3s".to_owned()));
    // Erased letters are shown only if all open ones are erased.
    db.repo().erase(app, &[open], &seen()).await.unwrap();
    assert_eq!(newest(true).await.1, "timeout after 1s");
}

async fn a_group_is_new_only_as_far_as_the_scan_went_and_unknown_before_that(db: TestDb) {
    let app = new_app();
    for created in 0..6 {
        at(&db, created, failed(app, if created < 3 { "old" } else { "new" })).await;
    }
    for (scan, state, count, scanned_back_to) in [
        (1, Unknown, 1, Some(5)),
        (3, Unknown, 3, Some(3)),
        (4, New, 3, Some(2)),
        (5, New, 3, Some(1)),
        (6, New, 3, None),
        (u32::MAX, New, 3, None),
    ] {
        for request in [since(3), since(3).among([app])] {
            let found = find(&db, &request.scan_limit(scan)).await;
            assert_eq!(shown(&found), [("new", state, count)], "{scan}");
            assert_eq!(found.scanned_back_to, scanned_back_to.map(minute), "{scan}");
        }
    }
}

async fn only_letters_within_the_scan_make_a_group_old_or_regressed(db: TestDb) {
    let app = new_app();
    at(&db, 0, failed(app, "old")).await;
    let closed = at(&db, 1, failed(app, "again")).await;
    close(&db, closed, 2).await;
    at(&db, 5, failed(app, "again")).await;
    at(&db, 6, failed(app, "old")).await;
    let states = async |scan| {
        let found = find(&db, &since(4).scan_limit(scan)).await;
        found.groups.iter().map(|group| (group.error_signature.clone(), group.state)).collect::<Vec<_>>()
    };
    let (old, again) = ("old".to_owned(), "again".to_owned());
    assert_eq!(states(2).await, [(old.clone(), Unknown), (again.clone(), Unknown)]);
    assert_eq!(states(3).await, [(old, New), (again.clone(), Regressed)]);
    assert_eq!(states(4).await, [(again, Regressed)]);
}

async fn letters_of_two_apps_with_the_same_failure_are_two_groups(db: TestDb) {
    let [one, two] = [1, 2].map(|n| AppId::from(Uuid::from_u128(n)));
    at(&db, 0, failed(one, "timeout")).await;
    for app in [one, two] {
        at(&db, 5, failed(app, "timeout")).await;
    }
    let found = find(&db, &since(4)).await;
    assert_eq!(shown(&found), [("timeout", New, 1)]);
    assert_eq!(found.groups[0].app_id, two);
    let found = find(&db, &since(0)).await;
    let of_apps: Vec<_> = found.groups.iter().map(|group| (group.app_id, group.count)).collect();
    assert_eq!(of_apps, [(two, 1), (one, 2)]);
    assert_eq!(found.groups[0].group_key, found.groups[1].group_key);
}

async fn only_the_requested_apps_are_shown(db: TestDb) {
    let [one, two, three] = [1, 2, 3].map(|n| AppId::from(Uuid::from_u128(n)));
    for (created, app) in [(5, one), (6, two), (7, three)] {
        at(&db, created, failed(app, "new")).await;
    }
    for (among, expected) in
        [(vec![one, three, new_app(), one], vec![three, one]), (vec![new_app()], vec![]), (vec![], vec![])]
    {
        let found = find(&db, &since(4).among(among)).await;
        let apps: Vec<_> = found.groups.iter().map(|group| group.app_id).collect();
        assert_eq!((apps, found.scanned_back_to), (expected, None));
    }
}

async fn some_apps_share_the_scan_limit(db: TestDb) {
    let [quiet, busy, last] = [1, 2, 3].map(|n| AppId::from(Uuid::from_u128(n)));
    at(&db, 6, failed(quiet, "one")).await;
    for created in 0..10 {
        at(&db, created, failed(busy, "one")).await;
        at(&db, created, failed(last, "one")).await;
    }
    let counts = async |scan| {
        let found = find(&db, &since(5).among([last, busy, quiet]).scan_limit(scan)).await;
        let counts: Vec<_> = found.groups.iter().map(|group| (group.app_id, group.count)).collect();
        (counts, found.scanned_back_to)
    };
    // The quiet app leaves five of its third. Half of the eight letters left is four, and then four more.
    assert_eq!(counts(9).await, (vec![(quiet, 1), (busy, 4), (last, 4)], Some(minute(6))));
    // One letter of each app.
    assert_eq!(counts(1).await, (vec![(busy, 1), (last, 1), (quiet, 1)], Some(minute(9))));
    assert_eq!(counts(100).await, (vec![(quiet, 1)], None));
}

async fn the_group_that_broke_last_comes_first_and_the_limit_keeps_the_first(db: TestDb) {
    let [one, two] = [1, 2].map(|n| AppId::from(Uuid::from_u128(n)));
    for (created, app, error) in
        [(5, one, "a"), (9, one, "a"), (6, two, "b"), (7, one, "c"), (6, one, "b"), (6, one, "d")]
    {
        at(&db, created, failed(app, error)).await;
    }
    let all = find(&db, &since(4)).await.groups;
    let order: Vec<_> = all.iter().map(|group| (group.first_seen, group.app_id)).collect();
    let six = |app| (minute(6), app);
    assert_eq!(order, [(minute(7), one), six(one), six(one), six(two), (minute(5), one)]);
    assert!(all[1].group_key < all[2].group_key);
    for limit in [1, 3, 500] {
        let first = &all[..all.len().min(limit as usize)];
        for request in [since(4), since(4).among([one, two])] {
            assert_eq!(find(&db, &request.limit(limit)).await.groups, first);
        }
    }
}

async fn letters_without_a_key_are_one_group(db: TestDb) {
    let app = new_app();
    for error in ["one", "two"] {
        at(&db, 5, failed(app, error)).await;
    }
    db.execute("UPDATE dead_letters SET group_key = ''").await;
    let found = find(&db, &since(4)).await.groups;
    let [group] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((group.group_key.as_str(), group.count, group.state), ("", 2, New));
}

async fn an_erased_letter_counts_but_shows_nothing_unless_all_are_erased(db: TestDb) {
    let app = new_app();
    let kept = at(&db, 5, failed(app, "new 1")).await;
    let erased = at(&db, 6, failed(app, "new 2")).await;
    db.repo().erase(app, &[erased], &seen()).await.unwrap();
    // Erasing keeps the group.
    let group = find(&db, &since(4)).await.groups.remove(0);
    assert_eq!((group.count, group.newest_id, &*group.sample), (2, kept, "new 1"));
    assert_eq!(group.last_seen, minute(6));
    db.repo().erase(app, &[kept], &seen()).await.unwrap();
    let group = find(&db, &since(4)).await.groups.remove(0);
    assert_eq!((group.count, group.newest_id), (2, erased));
    assert!(!group.sample.contains("new"), "{}", group.sample);
}

async fn arguments_out_of_range_are_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    for limit in [0, 501] {
        let error = repo.new_error_groups(&since(0).limit(limit)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "`limit` must be between 1 and 500 (got {})",
                dead_letters::CappedCount::from(u64::from(limit))
            )
        );
    }
    let error = repo.new_error_groups(&since(0).scan_limit(0)).await.unwrap_err();
    assert_eq!(error.to_string(), "`scan_limit` must be at least 1 (got 0)");
    let future = Utc::now() + Duration::minutes(1);
    let error = repo.new_error_groups(&NewGroupRequest::since(future)).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::SinceInFuture(at) if at == future), "{error}");
    assert_eq!(recorded.take(), []);
}
