use chrono::Duration;
use dead_letters::{
    AppId, Backlog, BacklogRequest, CappedCount, DeadLetterRead, DeadLetterRepo, DeadLetterState,
};
use uuid::Uuid;

use super::{new_app, rows, ten_oclock};
use crate::database::TestDb;

on_every_backend! {
    apps_with_open_rows_are_shown_by_app_id,
    pages_follow_each_other_by_the_last_app,
    only_the_requested_apps_are_shown,
    any_number_of_apps_may_be_asked_for,
    a_cap_ends_the_counts_and_is_reported,
    an_app_without_open_letters_has_no_backlog,
    a_limit_outside_1_to_1000_is_refused_and_nothing_is_sent,
    apps_are_listed_by_the_state_of_their_letters_page_by_page,
}

fn exactly(count: u64) -> CappedCount {
    CappedCount { count, capped: false }
}

fn app(n: u128) -> AppId {
    Uuid::from_u128(n << 64).into()
}

fn app_ids(backlogs: &[Backlog]) -> Vec<AppId> {
    backlogs.iter().map(|backlog| backlog.app_id).collect()
}

async fn apps_with_open_rows_are_shown_by_app_id(db: TestDb) {
    let resolved = rows(&db, app(2), 2).await;
    let mixed = rows(&db, app(3), 5).await;
    let failed = rows(&db, app(1), 2).await;
    for id in resolved {
        db.repo().resolve(id, "ignored").await.unwrap();
    }
    for (&id, reason) in mixed.iter().zip(["ignored", "handler_failed"]) {
        db.repo().resolve(id, reason).await.unwrap();
    }
    for id in failed {
        db.repo().resolve(id, "handler_failed").await.unwrap();
    }
    let minute = |minute| ten_oclock() + Duration::minutes(minute);
    let expected = [
        (app(1), exactly(2), exactly(0), minute(0), minute(1)),
        (app(3), exactly(4), exactly(3), minute(1), minute(4)),
    ];
    let request = BacklogRequest::default().limit(10).cap(100);
    for request in [request.clone(), request.among([app(3), app(2), app(1)])] {
        let backlogs = db.repo().backlogs(&request).await.unwrap();
        let facts = |of: Backlog| (of.app_id, of.open, of.unresolved, of.oldest, of.newest);
        assert!(backlogs.iter().copied().map(facts).eq(expected), "{backlogs:?}");
    }
}

async fn pages_follow_each_other_by_the_last_app(db: TestDb) {
    let apps: Vec<_> = (1..=7).map(app).collect();
    for &app in &apps {
        rows(&db, app, 2).await;
    }
    for among in [None, Some(apps.clone())] {
        for limit in 1..=8 {
            let mut seen = Vec::new();
            loop {
                let mut request = BacklogRequest::default().after(seen.last().copied()).limit(limit).cap(1);
                request.among = among.clone();
                let page = db.repo().backlogs(&request).await.unwrap();
                seen.extend(app_ids(&page));
                if page.len() < limit as usize {
                    break;
                }
            }
            assert_eq!(seen, apps);
        }
    }
}

async fn only_the_requested_apps_are_shown(db: TestDb) {
    for n in 1..=5 {
        rows(&db, app(n), 1).await;
    }
    let among = [app(4), app(9), app(2), app(4)];
    let shown = db.repo().backlogs(&BacklogRequest::default().among(among).limit(10).cap(10)).await.unwrap();
    assert_eq!(app_ids(&shown), [app(2), app(4)]);
    let shown = db
        .repo()
        .backlogs(&BacklogRequest::default().among(among).after(app(2)).limit(10).cap(10))
        .await
        .unwrap();
    assert_eq!(app_ids(&shown), [app(4)]);
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    assert_eq!(repo.backlogs(&BacklogRequest::default().among([]).limit(10).cap(10)).await.unwrap(), []);
    assert_eq!(recorded.take(), []);
}

async fn any_number_of_apps_may_be_asked_for(db: TestDb) {
    let among: Vec<_> = (1..=2_500).map(app).collect();
    for n in [1, 1_500, 2_000, 2_500] {
        rows(&db, app(n), 1).await;
    }
    for limit in 1..=5 {
        let shown = db
            .repo()
            .backlogs(&BacklogRequest::default().among(among.clone()).limit(limit).cap(10))
            .await
            .unwrap();
        let expected = [1, 1_500, 2_000, 2_500].map(app);
        assert_eq!(app_ids(&shown), expected[..expected.len().min(limit as usize)]);
    }
}

async fn a_cap_ends_the_counts_and_is_reported(db: TestDb) {
    let stored = rows(&db, app(1), 5).await;
    db.repo().resolve(stored[0], "handler_failed").await.unwrap();
    let capped = |count| CappedCount { count, capped: true };
    for (cap, open, unresolved) in [
        (0, capped(0), capped(0)),
        (3, capped(3), capped(3)),
        (4, capped(4), exactly(4)),
        (5, exactly(5), exactly(4)),
        (u32::MAX, exactly(5), exactly(4)),
    ] {
        let backlog = db.repo().backlogs(&BacklogRequest::default().limit(1).cap(cap)).await.unwrap()[0];
        assert_eq!((backlog.open, backlog.unresolved), (open, unresolved));
    }
}

async fn an_app_without_open_letters_has_no_backlog(db: TestDb) {
    assert_eq!(db.repo().backlogs(&BacklogRequest::default().limit(10).cap(10)).await.unwrap(), []);
    assert_eq!(
        db.repo().backlogs(&BacklogRequest::default().among([new_app()]).limit(10).cap(10)).await.unwrap(),
        []
    );
    let id = rows(&db, app(1), 1).await[0];
    assert_eq!(
        db.repo().backlogs(&BacklogRequest::default().after(app(1)).limit(10).cap(10)).await.unwrap(),
        []
    );
    db.repo().resolve(id, "ignored").await.unwrap();
    assert_eq!(db.repo().backlogs(&BacklogRequest::default().limit(10).cap(10)).await.unwrap(), []);
}

async fn a_limit_outside_1_to_1000_is_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    for (limit, got) in [(0, "0"), (1_001, "1,001")] {
        let error = repo.backlogs(&BacklogRequest::default().limit(limit).cap(10)).await.unwrap_err();
        assert_eq!(error.to_string(), format!("`limit` must be between 1 and 1,000 (got {got})"));
        let error = repo.apps(DeadLetterState::Any, None, limit).await.unwrap_err();
        assert_eq!(error.to_string(), format!("`limit` must be between 1 and 1,000 (got {got})"));
    }
    assert_eq!(recorded.take(), []);
}

async fn apps_are_listed_by_the_state_of_their_letters_page_by_page(db: TestDb) {
    let closed = rows(&db, app(3), 3).await;
    let failed = rows(&db, app(1), 2).await;
    rows(&db, app(2), 2).await;
    for (ids, reason) in [(closed, "ignored"), (failed, "handler_failed")] {
        for id in ids {
            db.repo().resolve(id, reason).await.unwrap();
        }
    }
    for (state, expected) in [
        (DeadLetterState::Any, &[1, 2, 3][..]),
        (DeadLetterState::Open, &[1, 2]),
        (DeadLetterState::Unresolved, &[2]),
        (DeadLetterState::Closed, &[3]),
    ] {
        let expected: Vec<_> = expected.iter().map(|&n| app(n)).collect();
        for limit in 1..=4 {
            let mut seen: Vec<AppId> = Vec::new();
            loop {
                let page = db.repo().apps(state, seen.last().copied(), limit).await.unwrap();
                seen.extend(&page);
                if page.len() < limit as usize {
                    break;
                }
            }
            assert_eq!(seen, expected, "{state}, {limit} a page");
        }
    }
}
