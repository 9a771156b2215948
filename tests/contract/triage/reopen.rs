use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    AppId, Attribution, Changed, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo,
    DeadLetterRepoError, DeadLetterResolve, DeadLetterState, PageRequest, ReopenRequest, Resolution,
};
use uuid::Uuid;

use super::{any, new_app, resolved, rows, seen, ten_oclock};
use crate::database::TestDb;

on_every_backend! {
    a_run_is_undone_and_no_other_letter_is_changed,
    a_letter_that_changed_after_the_run_is_left_alone,
    a_run_is_undone_in_batches,
    a_run_of_another_app_is_not_undone,
    two_who_undo_one_run_at_the_same_time_reopen_each_letter_once,
    closed_letters_are_reopened_in_the_order_in_which_they_were_closed,
    replayed_letters_are_reopened_only_on_request,
    a_replayed_letter_is_reopened_only_by_a_request_that_includes_it,
    letters_with_a_failed_handler_are_reopened_only_by_that_name,
    a_filter_without_an_end_is_refused_and_nothing_is_sent,
    a_filter_for_open_letters_sends_nothing,
    a_limit_outside_1_to_1000_is_refused,
    letters_are_found_by_who_resolved_them_and_when,
}

fn of_run(run_id: Uuid) -> DeadLetterFilter {
    DeadLetterFilter::default().run_id(run_id)
}

fn closed_before(time: DateTime<Utc>) -> DeadLetterFilter {
    DeadLetterFilter::default().resolved_before(time)
}

async fn resolve(db: &TestDb, app: AppId, ids: &[DeadLetterId], run_id: Uuid) {
    let these = any().ids(ids);
    let by = seen().run_id(run_id);
    let changed = db.repo().resolve_matching(app, &these, Resolution::Ignored, &by, 1_000).await.unwrap();
    assert_eq!(changed.ids, ids);
}

async fn reopen(db: &TestDb, app: AppId, filter: &DeadLetterFilter, limit: u32) -> Changed {
    let request = ReopenRequest::default().limit(limit);
    db.repo().reopen_matching(app, filter, &Attribution::default(), &request).await.unwrap()
}

async fn unresolved(db: &TestDb, app: AppId) -> Vec<DeadLetterId> {
    let filter = any().state(DeadLetterState::Unresolved);
    let page = db.repo().list(app, &filter, &PageRequest::default()).await.unwrap();
    page.items.iter().rev().map(|letter| letter.id).collect()
}

async fn a_run_is_undone_and_no_other_letter_is_changed(db: TestDb) {
    let (app, run) = (new_app(), Uuid::now_v7());
    let stored = rows(&db, app, 6).await;
    resolve(&db, app, &stored[..2], run).await;
    resolve(&db, app, &stored[2..4], Uuid::now_v7()).await;
    db.repo().resolve(stored[4], "ignored").await.unwrap();
    let summary = db.repo().summary(app, stored[0]).await.unwrap().unwrap();
    assert_eq!(summary.run_id, Some(run));

    assert_eq!(reopen(&db, app, &of_run(run), 1_000).await, resolved(&stored[..2], false, false));
    assert_eq!(unresolved(&db, app).await, [stored[0], stored[1], stored[5]]);
    let row = db.repo().get(stored[0]).await.unwrap().unwrap();
    assert_eq!(
        (row.resolved_at, row.resolution, row.resolved_by, row.resolution_note),
        (None, None, None, None)
    );
    assert_eq!(db.repo().summary(app, stored[0]).await.unwrap().unwrap().run_id, None);
    assert_eq!(reopen(&db, app, &of_run(run), 1_000).await, resolved(&[], false, false));
}

async fn a_letter_that_changed_after_the_run_is_left_alone(db: TestDb) {
    let (app, run) = (new_app(), Uuid::now_v7());
    let stored = rows(&db, app, 4).await;
    resolve(&db, app, &stored, run).await;
    // By the seed's call, by another run, and by an operator who reopened it and resolved it again.
    db.repo().resolve(stored[0], "handled_by_script").await.unwrap();
    for id in &stored[1..3] {
        db.repo().reopen(app, *id, &Attribution::default()).await.unwrap();
    }
    resolve(&db, app, &stored[1..2], Uuid::now_v7()).await;
    db.repo().resolve_once(app, stored[2], Resolution::Ignored, &seen()).await.unwrap();
    assert_eq!(reopen(&db, app, &of_run(run), 1_000).await.ids, stored[3..]);
}

async fn a_run_is_undone_in_batches(db: TestDb) {
    let (app, run) = (new_app(), Uuid::now_v7());
    let mut stored = rows(&db, app, 5).await;
    resolve(&db, app, &stored, run).await;
    stored.sort();
    for (expected, more) in [(&stored[..2], true), (&stored[2..4], true), (&stored[4..], false)] {
        assert_eq!(reopen(&db, app, &of_run(run), 2).await, resolved(expected, more, false));
    }
}

async fn a_run_of_another_app_is_not_undone(db: TestDb) {
    let (app, other, run) = (new_app(), new_app(), Uuid::now_v7());
    let stored = rows(&db, app, 1).await;
    resolve(&db, app, &stored, run).await;
    assert_eq!(reopen(&db, other, &of_run(run), 10).await, resolved(&[], false, false));
    assert_eq!(unresolved(&db, app).await, []);
}

async fn two_who_undo_one_run_at_the_same_time_reopen_each_letter_once(db: TestDb) {
    let (app, run) = (new_app(), Uuid::now_v7());
    let stored = rows(&db, app, 40).await;
    resolve(&db, app, &stored, run).await;
    let undo = async || {
        let mut ids = Vec::new();
        loop {
            let changed = reopen(&db, app, &of_run(run), 7).await;
            ids.extend(changed.ids);
            if !changed.more && !changed.skipped_locked {
                return ids;
            }
        }
    };
    let (mut reopened, others) = tokio::join!(undo(), undo());
    reopened.extend(others);
    reopened.sort();
    let mut expected = stored;
    expected.sort();
    assert_eq!(reopened, expected);
}

async fn closed_letters_are_reopened_in_the_order_in_which_they_were_closed(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 4).await;
    for (minute, id) in (0..).zip(stored.iter().rev()) {
        db.repo().resolve(*id, "ignored").await.unwrap();
        db.set_resolved_at(*id, ten_oclock() + Duration::minutes(minute)).await;
    }
    let end = ten_oclock() + Duration::minutes(3);
    assert_eq!(reopen(&db, app, &closed_before(end), 2).await, resolved(&stored[2..], true, false));
    // The newest is not older than the end.
    assert_eq!(reopen(&db, app, &closed_before(end), 2).await, resolved(&stored[1..2], false, false));
    let later = closed_before(end + Duration::hours(1));
    let none = later.clone().resolved_from(end + Duration::minutes(1));
    assert_eq!(reopen(&db, app, &none, 2).await.ids, []);
    assert_eq!(reopen(&db, app, &later.clone().source("parcels"), 2).await.ids, []);
    assert_eq!(reopen(&db, app, &later.source("orders"), 2).await.ids, stored[..1]);
}

async fn replayed_letters_are_reopened_only_on_request(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 2).await;
    db.repo().resolve(stored[0], "replayed").await.unwrap();
    db.repo().resolve(stored[1], "ignored").await.unwrap();
    let all = closed_before(Utc::now() + Duration::days(1));
    for filter in [all.clone(), all.clone().resolution(Resolution::Replayed), any().ids(&stored[..1])] {
        let expected = if filter == all { &stored[1..] } else { &[] };
        assert_eq!(reopen(&db, app, &filter, 10).await.ids, expected, "{filter:?}");
    }
    let request = ReopenRequest::default().include_replayed(true);
    let changed = db.repo().reopen_matching(app, &all, &Attribution::default(), &request).await.unwrap();
    assert_eq!(changed.ids, stored[..1]);
}

async fn a_replayed_letter_is_reopened_only_by_a_request_that_includes_it(db: TestDb) {
    let app = new_app();
    let id = rows(&db, app, 1).await[0];
    db.repo().resolve_once(app, id, Resolution::Replayed, &seen()).await.unwrap();
    let before = db.repo().get(id).await.unwrap();
    let error = db.repo().reopen(app, id, &Attribution::default()).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::Replayed(of) if of == id), "{error}");
    assert_eq!(db.repo().get(id).await.unwrap(), before);
    let request = ReopenRequest::default().include_replayed(true);
    let reopened =
        db.repo().reopen_matching(app, &any().ids([id]), &Attribution::default(), &request).await.unwrap();
    assert_eq!(reopened.ids, [id]);
    assert_eq!(unresolved(&db, app).await, [id]);
}

async fn letters_with_a_failed_handler_are_reopened_only_by_that_name(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 2).await;
    for id in &stored {
        db.repo().resolve(*id, "handler_failed").await.unwrap();
    }
    let all = closed_before(Utc::now() + Duration::days(1));
    for filter in [all.clone(), any().ids(stored.clone())] {
        assert_eq!(reopen(&db, app, &filter, 10).await.ids, []);
    }
    let failed = all.resolution(Resolution::HandlerFailed);
    assert_eq!(reopen(&db, app, &failed.clone().ids(&stored[1..]), 10).await.ids, stored[1..]);
    assert_eq!(reopen(&db, app, &failed, 10).await.ids, stored[..1]);
}

async fn a_filter_without_an_end_is_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let filter = any().created_before(ten_oclock()).resolved_from(ten_oclock());
    let request = ReopenRequest::default();
    let error = repo.reopen_matching(new_app(), &filter, &seen(), &request).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::MissingResolvedBefore), "{error}");
    assert_eq!(recorded.take(), []);
}

async fn a_filter_for_open_letters_sends_nothing(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    for state in [DeadLetterState::Open, DeadLetterState::Unresolved] {
        let filter = of_run(Uuid::now_v7()).state(state);
        let request = ReopenRequest::default();
        let changed = repo.reopen_matching(new_app(), &filter, &seen(), &request).await.unwrap();
        assert_eq!(changed, resolved(&[], false, false));
    }
    assert_eq!(recorded.take(), []);
}

async fn a_limit_outside_1_to_1000_is_refused(db: TestDb) {
    for (limit, got) in [(0, "0"), (1_001, "1,001"), (u32::MAX, "4,294,967,295")] {
        let request = ReopenRequest::default().limit(limit);
        let outcome = db.repo().reopen_matching(new_app(), &of_run(Uuid::nil()), &seen(), &request).await;
        let expected = format!("`limit` must be between 1 and 1,000 (got {got})");
        assert_eq!(outcome.unwrap_err().to_string(), expected);
    }
}

async fn letters_are_found_by_who_resolved_them_and_when(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 3).await;
    for (minute, (id, by)) in (0..).zip(stored.iter().zip(["ada", "grace", "ada"])) {
        let by = Attribution::by(by);
        db.repo().resolve_once(app, *id, Resolution::Ignored, &by).await.unwrap();
        db.set_resolved_at(*id, ten_oclock() + Duration::minutes(minute)).await;
    }
    let found = async |filter: DeadLetterFilter| {
        let page = db.repo().list(app, &filter, &PageRequest::default().scan_limit(2)).await.unwrap();
        page.items.iter().map(|letter| letter.id).collect::<Vec<_>>()
    };
    let all = DeadLetterFilter::default;
    let minute = |minute| ten_oclock() + Duration::minutes(minute);
    for state in [None, Some(DeadLetterState::Closed), Some(DeadLetterState::Any)] {
        let by_ada = all().state(state).resolved_by("ada").created_from(ten_oclock());
        // The scan examines two letters.
        assert_eq!(found(by_ada).await, stored[2..], "{state:?}");
        let within = all().state(state).resolved_from(minute(1)).resolved_before(minute(2));
        assert_eq!(found(within).await, stored[1..2], "{state:?}");
    }
    // Closed letters are examined within the times of their resolution.
    let oldest = all().state(DeadLetterState::Closed).resolved_before(minute(1));
    assert_eq!(found(oldest).await, stored[..1]);
}
