use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    Attribution, Buckets, CountRequest, DeadLetterFilter, DeadLetterRead, DeadLetterRepo,
    DeadLetterRepoError, DeadLetterResolve, DeadLetterState, DeadLetterTransfer, ErrorGroup, GroupRequest,
    NewDeadLetter, PageRequest, Resolution, ScriptId, TimelineRequest,
};
use serde_json::json;
use uuid::Uuid;

use super::{any, letter, new_app, row_of, seen, ten_oclock};
use crate::database::TestDb;

on_every_backend! {
    rows_with_the_same_failure_are_one_group_and_the_largest_comes_first,
    each_part_of_the_key_splits,
    a_group_without_script_names_its_newest_row,
    a_filter_by_a_groups_key_matches_its_letters_alone_in_every_call,
    long_keys_are_cut_and_keys_that_differ_only_after_the_cut_are_two_groups,
    the_last_seen_of_groups_of_one_count_comes_first,
    groups_of_one_count_and_time_go_by_their_key,
    a_group_shows_the_message_of_its_newest_letter,
    letters_that_another_writer_stored_without_a_key_are_one_group,
    the_newest_of_rows_of_one_time_has_the_largest_id,
    the_filter_and_the_app_apply_to_the_newest_row_too,
    limit_is_1_to_500,
    each_group_has_its_timeline,
    a_group_has_the_number_of_its_closed_letters_and_the_time_of_the_last_close,
    a_scan_groups_the_newest_rows_and_returns_how_far_it_went,
}

async fn rows_with_the_same_failure_are_one_group_and_the_largest_comes_first(db: TestDb) {
    let app = new_app();
    let script = ScriptId::from(Uuid::from_u128(1));
    let failed = |error: String| NewDeadLetter { last_error: error, script_id: Some(script), ..letter(app) };
    let mut timeouts = Vec::new();
    // The newest by time is neither the last stored nor the one with the largest id.
    for (n, minute) in [(1, 2), (2, 9), (3, 4)] {
        let id = row_of(&db, failed(format!("timeout after {n}s\nattempt {n}"))).await;
        db.set_created_at(id, ten_oclock() + Duration::minutes(minute)).await;
        timeouts.push(id);
    }
    let refused = row_of(&db, failed("connection refused".to_owned())).await;
    db.set_created_at(refused, ten_oclock()).await;

    let group = |group_key: &str, error_signature: &str, sample: &str, count: u64, first, last, newest_id| {
        let group = json!({
            "group_key": group_key,
            "source": "orders",
            "op": "insert",
            "script_id": script,
            "error_signature": error_signature,
            "sample": sample,
            "count": count,
            "first_seen": ten_oclock() + Duration::minutes(first),
            "last_seen": ten_oclock() + Duration::minutes(last),
            "newest_id": newest_id,
            "closed": 0,
            "last_closed_at": null,
            "regressed": false,
            "timeline": [],
        });
        serde_json::from_value::<ErrorGroup>(group).unwrap()
    };
    let largest = group("a6a8f8be7176a403", "timeout after #", "timeout after 2s", 3, 2, 9, timeouts[1]);
    let second = group("4d8a7ba1abe1a69e", "connection refused", "connection refused", 1, 0, 0, refused);
    assert_eq!(
        db.repo().error_groups(app, &any(), &GroupRequest::default()).await.unwrap().groups,
        [largest.clone(), second]
    );
    assert_eq!(
        db.repo().error_groups(app, &any(), &GroupRequest::default().limit(1)).await.unwrap().groups,
        [largest]
    );
}

async fn each_part_of_the_key_splits(db: TestDb) {
    let app = new_app();
    let plain = NewDeadLetter { script_id: None, ..letter(app) };
    for letter in [
        NewDeadLetter { source: "invoices".into(), ..plain.clone() },
        NewDeadLetter { op: "delete".into(), ..plain.clone() },
        NewDeadLetter { script_id: Some(Uuid::from_u128(1).into()), ..plain.clone() },
        NewDeadLetter { script_id: Some(Uuid::from_u128(2).into()), ..plain.clone() },
        NewDeadLetter { last_error: "other".into(), ..plain.clone() },
        plain.clone(),
        plain,
    ] {
        row_of(&db, letter).await;
    }
    let counts: Vec<_> = db
        .repo()
        .error_groups(app, &any(), &GroupRequest::default())
        .await
        .unwrap()
        .groups
        .iter()
        .map(|group| group.count)
        .collect();
    assert_eq!(counts, [2, 1, 1, 1, 1, 1]);
}

async fn a_group_without_script_names_its_newest_row(db: TestDb) {
    let app = new_app();
    // The two letters differ in the script alone. Time, key and app are the same.
    let with = row_of(&db, letter(app)).await;
    let without = row_of(&db, NewDeadLetter { script_id: None, ..letter(app) }).await;
    for id in [with, without] {
        db.set_created_at(id, ten_oclock()).await;
    }
    let groups = db.repo().error_groups(app, &any(), &GroupRequest::default()).await.unwrap().groups;
    let newest =
        |has_script| groups.iter().find(|group| group.script_id.is_some() == has_script).unwrap().newest_id;
    assert_eq!((newest(true), newest(false)), (with, without));
}

async fn a_filter_by_a_groups_key_matches_its_letters_alone_in_every_call(db: TestDb) {
    let app = new_app();
    let script = Some(Uuid::from_u128(1).into());
    let mut stored = HashMap::<_, HashSet<_>>::new();
    // Alike but for the script.
    for script_id in [None, script, Some(Uuid::from_u128(2).into()), None, script, None] {
        let id = row_of(&db, NewDeadLetter { script_id, ..letter(app) }).await;
        stored.entry(script_id).or_default().insert(id);
    }
    let repo = db.repo();
    let groups = repo.error_groups(app, &any(), &GroupRequest::default()).await.unwrap().groups;
    assert_eq!(groups.iter().map(|group| group.count).collect::<Vec<_>>(), [3, 2, 1]);
    for group in groups {
        let letters = stored[&group.script_id].clone();
        let filter = DeadLetterFilter::default()
            .state(DeadLetterState::Open)
            .group_key(group.group_key)
            .created_before(DateTime::<Utc>::MAX_UTC);
        let scan = |scan| PageRequest::default().scan_limit(scan);
        for scan in [scan(None), scan(Some(100))] {
            let listed = repo.list(app, &filter, &scan).await.unwrap().items;
            assert_eq!(listed.into_iter().map(|letter| letter.id).collect::<HashSet<_>>(), letters);
            let exported = repo.export(app, &filter, &scan).await.unwrap().items;
            assert_eq!(exported.into_iter().map(|letter| letter.id).collect::<HashSet<_>>(), letters);
        }
        assert_eq!(
            repo.count(app, &filter, &CountRequest::default().cap(100)).await.unwrap().matching.count,
            group.count
        );
        let now = Utc::now();
        let (from, until) = (now - Duration::hours(1), now + Duration::hours(1));
        let request = Buckets::new(from..until, 1);
        let timeline = repo.timeline(app, &filter, &TimelineRequest::from(request)).await.unwrap();
        assert_eq!(timeline.buckets[0].count, group.count);
        let again = repo.error_groups(app, &filter, &GroupRequest::default()).await.unwrap().groups;
        assert_eq!(again.iter().map(|group| group.count).collect::<Vec<_>>(), [group.count]);

        let replayed = repo
            .replay_matching_with(app, &filter, &Attribution::default(), 1, async |_, _| {
                Ok::<_, DeadLetterRepoError>(())
            })
            .await;
        let mut changed: HashSet<_> = replayed.unwrap().ids.into_iter().collect();
        let rest = repo.resolve_matching(app, &filter, Resolution::Ignored, &seen(), 100).await.unwrap();
        changed.extend(rest.ids);
        assert_eq!(changed, letters);
    }
}

async fn long_keys_are_cut_and_keys_that_differ_only_after_the_cut_are_two_groups(db: TestDb) {
    let app = new_app();
    let long = |end: &str| "é".repeat(500_000) + end;
    for (source, op, letters) in [
        ("orders".to_owned(), "insert".to_owned(), 4),
        (long("a"), "insert".to_owned(), 3),
        (long("b"), "insert".to_owned(), 2),
        ("orders".to_owned(), long("c"), 1),
    ] {
        let alike = NewDeadLetter { source, op, script_id: None, ..letter(app) };
        db.repo().insert_many(vec![alike; letters]).await.unwrap();
    }
    for scan in [None, Some(100)] {
        let request = GroupRequest::default().scan_limit(scan);
        let groups = db.repo().error_groups(app, &any(), &request).await.unwrap().groups;
        let found: Vec<_> = groups.iter().map(|group| (&*group.source, &*group.op, group.count)).collect();
        let cut = &*("é".repeat(500) + " [cut]");
        let expected = [("orders", "insert", 4), (cut, "insert", 3), (cut, "insert", 2), ("orders", cut, 1)];
        assert!(found == expected, "{:?}", groups.iter().map(|group| group.count).collect::<Vec<_>>());
        for group in groups {
            let filter = any().group_key(group.group_key);
            assert_eq!(
                db.repo()
                    .count(app, &filter, &CountRequest::default().cap(100))
                    .await
                    .unwrap()
                    .matching
                    .count,
                group.count
            );
        }
    }
}

async fn the_last_seen_of_groups_of_one_count_comes_first(db: TestDb) {
    let app = new_app();
    for (error, minute) in [("b", 1), ("c", 3), ("a", 2)] {
        let id =
            row_of(&db, NewDeadLetter { last_error: error.into(), script_id: None, ..letter(app) }).await;
        db.set_created_at(id, ten_oclock() + Duration::minutes(minute)).await;
    }
    let groups = db.repo().error_groups(app, &any(), &GroupRequest::default()).await.unwrap().groups;
    let signatures: Vec<_> = groups.iter().map(|group| group.error_signature.as_str()).collect();
    assert_eq!(signatures, ["c", "a", "b"]);
}

async fn groups_of_one_count_and_time_go_by_their_key(db: TestDb) {
    let app = new_app();
    for n in 0..12 {
        let id = row_of(&db, NewDeadLetter { source: format!("source {n}"), ..letter(app) }).await;
        db.set_created_at(id, ten_oclock()).await;
    }
    let keys = async |limit| {
        let request = GroupRequest::default().limit(limit);
        let groups = db.repo().error_groups(app, &any(), &request).await.unwrap().groups;
        groups.into_iter().map(|group| group.group_key).collect::<Vec<_>>()
    };
    let all = keys(12).await;
    assert_eq!(all.len(), 12);
    assert!(all.is_sorted(), "{all:?}");
    assert_eq!(keys(3).await, all[..3]);
}

async fn a_group_shows_the_message_of_its_newest_letter(db: TestDb) {
    let frames = "  File \"/app/orders.py\", line 17, in place\n    é()\n".repeat(1_000);
    let traceback = |order| format!("Traceback (most recent call last):\n{frames}KeyError: 'order {order}'");
    let until = ten_oclock() + Duration::minutes(10);
    let timeline = Some(Buckets::new(ten_oclock()..until, 10));
    let wrapped = "java.lang.Error: no order 17\n\tat a.B\nCaused by: x.Y: refused 3 times";
    for (errors, sample) in [
        (["no stock for order 17", "no stock for order 18"].map(str::to_owned), "no stock for order 18"),
        ([traceback(17), traceback(18)], "KeyError: 'order 18'"),
        (
            [wrapped, wrapped].map(str::to_owned),
            "java.lang.Error: no order 17 caused by: x.Y: refused 3 times",
        ),
        (["x".repeat(600), "x".repeat(600)], &*("x".repeat(500) + " [cut]")),
        ([String::new(), String::new()], ""),
    ] {
        let app = new_app();
        for (minute, last_error) in (1..).zip(errors) {
            let id = row_of(&db, NewDeadLetter { last_error, script_id: None, ..letter(app) }).await;
            db.set_created_at(id, ten_oclock() + Duration::minutes(minute)).await;
        }
        for (timeline, scan) in [(None, None), (timeline, None), (timeline, Some(10))] {
            let request = GroupRequest::default().timeline(timeline).scan_limit(scan);
            let groups = db.repo().error_groups(app, &any(), &request).await.unwrap().groups;
            let [group] = groups.as_slice() else { panic!("{groups:?}") };
            assert_eq!((group.sample.as_str(), group.source.as_str(), group.count), (sample, "orders", 2));
        }
    }
}

async fn letters_that_another_writer_stored_without_a_key_are_one_group(db: TestDb) {
    let app = new_app();
    for source in ["orders", "invoices"] {
        row_of(&db, NewDeadLetter { source: source.to_owned(), ..letter(app) }).await;
    }
    db.execute("UPDATE dead_letters SET group_key = ''").await;
    let groups = db.repo().error_groups(app, &any(), &GroupRequest::default()).await.unwrap().groups;
    let [group] = groups.as_slice() else { panic!("{groups:?}") };
    assert_eq!((group.group_key.as_str(), group.count), ("", 2));
    let filter = any().group_key(String::new());
    assert_eq!(
        db.repo().count(app, &filter, &CountRequest::default().cap(100)).await.unwrap().matching.count,
        2
    );
}

async fn the_newest_of_rows_of_one_time_has_the_largest_id(db: TestDb) {
    let app = new_app();
    let same = NewDeadLetter { script_id: None, ..letter(app) };
    let mut stored = Vec::new();
    for _ in 0..3 {
        let id = row_of(&db, same.clone()).await;
        db.set_created_at(id, ten_oclock()).await;
        stored.push(id);
    }
    assert_eq!(
        db.repo().error_groups(app, &any(), &GroupRequest::default().limit(1)).await.unwrap().groups[0]
            .newest_id,
        stored[2]
    );
}

async fn the_filter_and_the_app_apply_to_the_newest_row_too(db: TestDb) {
    use dead_letters::DeadLetterRepo;
    let (app, other) = (new_app(), new_app());
    let same = NewDeadLetter { script_id: None, ..letter(app) };
    let kept = row_of(&db, same.clone()).await;
    let resolved = row_of(&db, same.clone()).await;
    let foreign = row_of(&db, NewDeadLetter { app_id: other, ..same }).await;
    for id in [kept, resolved, foreign] {
        db.set_created_at(id, ten_oclock()).await;
    }
    db.repo().resolve(resolved, "ignored").await.unwrap();
    let groups = db
        .repo()
        .error_groups(app, &DeadLetterFilter::default(), &GroupRequest::default())
        .await
        .unwrap()
        .groups;
    assert_eq!(groups.len(), 1);
    assert_eq!((groups[0].count, groups[0].newest_id), (1, kept));
    assert_eq!(db.repo().error_groups(new_app(), &any(), &GroupRequest::default()).await.unwrap().groups, []);
}

async fn limit_is_1_to_500(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    for limit in [0, 501] {
        let error =
            repo.error_groups(new_app(), &any(), &GroupRequest::default().limit(limit)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "`limit` must be between 1 and 500 (got {})",
                dead_letters::CappedCount::from(u64::from(limit))
            )
        );
    }
    assert_eq!(recorded.take(), []);
}

async fn each_group_has_its_timeline(db: TestDb) {
    let app = new_app();
    let failed = |error: &str| NewDeadLetter { last_error: error.into(), script_id: None, ..letter(app) };
    for (error, minute) in [("a", 0), ("a", 5), ("a", 5), ("a", 20), ("b", 9), ("b", -1), ("c", 0)] {
        let id = row_of(&db, failed(error)).await;
        db.set_created_at(id, ten_oclock() + Duration::minutes(minute)).await;
    }
    let until = ten_oclock() + Duration::minutes(10);
    let timeline = Some(Buckets::new(ten_oclock()..until, 2));
    let request = GroupRequest::default().limit(2).timeline(timeline);
    let groups = db.repo().error_groups(app, &any(), &request).await.unwrap().groups;
    let shown: Vec<_> = groups
        .iter()
        .map(|group| {
            let counts: Vec<_> = group.timeline.iter().map(|bucket| bucket.count).collect();
            (group.error_signature.as_str(), group.count, counts)
        })
        .collect();
    // The group counts what is outside the time, too.
    assert_eq!(shown, [("a", 4, vec![1, 2]), ("b", 2, vec![0, 1])]);
    assert_eq!(groups[0].timeline[1].from, ten_oclock() + Duration::minutes(5));
    let mut without = db.repo().error_groups(app, &any(), &request.timeline(None)).await.unwrap().groups;
    for (without, with) in without.iter_mut().zip(&groups) {
        assert_eq!(without.timeline, []);
        without.timeline = with.timeline.clone();
    }
    assert_eq!(without, groups);
}

async fn a_group_has_the_number_of_its_closed_letters_and_the_time_of_the_last_close(db: TestDb) {
    use dead_letters::DeadLetterRepo;
    let app = new_app();
    let mut stored = Vec::new();
    for _ in 0..5 {
        stored.push(row_of(&db, NewDeadLetter { script_id: None, ..letter(app) }).await);
    }
    for (&id, reason) in stored.iter().zip(["replayed", "ignored", "handler_failed"]) {
        db.repo().resolve(id, reason).await.unwrap();
    }
    let group = async |state| {
        let filter = any().state(state);
        db.repo().error_groups(app, &filter, &GroupRequest::default()).await.unwrap().groups.remove(0)
    };
    let last = db.repo().get(stored[1]).await.unwrap().unwrap().resolved_at;
    let of_any = group(DeadLetterState::Any).await;
    assert_eq!((of_any.count, of_any.closed, of_any.last_closed_at), (5, 2, last));
    assert!(!of_any.regressed);
    let resolved = group(DeadLetterState::Closed).await;
    assert_eq!((resolved.count, resolved.closed, resolved.last_closed_at), (2, 2, last));
    let open = group(DeadLetterState::Open).await;
    assert_eq!((open.count, open.closed, open.last_closed_at), (3, 0, None));
    // One open letter after another is created after that. The group regressed once all of them are.
    for (open, regressed) in [(2, false), (3, false), (4, true)] {
        db.set_created_at(stored[open], last.unwrap() + Duration::milliseconds(1)).await;
        assert_eq!(group(DeadLetterState::Any).await.regressed, regressed);
        assert!(!group(DeadLetterState::Open).await.regressed);
        assert!(!group(DeadLetterState::Closed).await.regressed);
    }
}

async fn a_scan_groups_the_newest_rows_and_returns_how_far_it_went(db: TestDb) {
    let app = new_app();
    for minute in 0..6 {
        let last_error = if minute < 3 { "old" } else { "new" }.to_owned();
        let id = row_of(&db, NewDeadLetter { last_error, script_id: None, ..letter(app) }).await;
        db.set_created_at(id, ten_oclock() + Duration::minutes(minute)).await;
    }
    for (scan, counts, scanned_back_to) in
        [(2, vec![2], Some(4)), (4, vec![3, 1], Some(2)), (6, vec![3, 3], None)]
    {
        let request = GroupRequest::default().scan_limit(scan);
        let found = db.repo().error_groups(app, &any(), &request).await.unwrap();
        assert_eq!(found.groups.iter().map(|group| group.count).collect::<Vec<_>>(), counts);
        let scanned_back_to = scanned_back_to.map(|minute| ten_oclock() + Duration::minutes(minute));
        assert_eq!(found.scanned_back_to, scanned_back_to);
        assert_eq!(found.groups[0].error_signature, "new");
    }
}
