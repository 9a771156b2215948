use chrono::{Duration, Utc};
use dead_letters::{
    CountRequest, DeadLetterFilter, DeadLetterRead, DeadLetterRepo, DeadLetterResolve, DeadLetterState,
    NewDeadLetter, Resolution,
};

use super::{any, letter, new_app, row_of, rows, seen, ten_oclock};
use crate::database::TestDb;

on_every_backend! {
    the_apps_rows_that_match_are_counted_up_to_the_cap,
    a_scan_counts_among_the_newest_rows,
    a_bulk_call_until_then_resolves_what_was_counted_and_nothing_newer,
    as_of_is_the_filters_own_end_and_now_is_the_databases_time,
    letters_ahead_of_the_clock_are_counted_only_if_their_ids_are_given,
}

async fn the_apps_rows_that_match_are_counted_up_to_the_cap(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let stored = rows(&db, app, 5).await;
    rows(&db, other, 3).await;
    row_of(&db, NewDeadLetter { source: "invoices".into(), ..letter(app) }).await;
    db.repo().resolve(stored[0], "ignored").await.unwrap();
    db.repo().resolve(stored[1], "handler_failed").await.unwrap();
    let orders = |state| DeadLetterFilter::default().state(state).source("orders");
    for (state, matching) in [
        (DeadLetterState::Any, 5),
        (DeadLetterState::Open, 4),
        (DeadLetterState::Unresolved, 3),
        (DeadLetterState::Closed, 1),
    ] {
        for cap in [0, matching - 1, matching, matching + 1, u32::MAX] {
            let counted =
                db.repo().count(app, &orders(state), &CountRequest::default().cap(cap)).await.unwrap();
            assert_eq!(
                (counted.matching.count, counted.matching.capped),
                (matching.min(cap).into(), matching > cap)
            );
            assert_eq!(counted.scanned_back_to, None);
        }
    }
    assert_eq!(
        db.repo().count(new_app(), &any(), &CountRequest::default().cap(10)).await.unwrap().matching.count,
        0
    );
}

async fn a_scan_counts_among_the_newest_rows(db: TestDb) {
    let app = new_app();
    rows(&db, app, 6).await;
    let counted = db.repo().count(app, &any(), &CountRequest::default().cap(10).scan_limit(4)).await.unwrap();
    assert_eq!((counted.matching.count, counted.matching.capped), (4, false));
    assert_eq!(counted.scanned_back_to, Some(ten_oclock() + Duration::minutes(2)));
    let counted = db.repo().count(app, &any(), &CountRequest::default().cap(3).scan_limit(4)).await.unwrap();
    assert_eq!((counted.matching.count, counted.matching.capped), (3, true));
}

async fn a_bulk_call_until_then_resolves_what_was_counted_and_nothing_newer(db: TestDb) {
    let app = new_app();
    let stored = db.repo().insert_many(vec![letter(app); 3]).await.unwrap();
    let counted = db.repo().count(app, &any(), &CountRequest::default().cap(10)).await.unwrap();
    assert_eq!(counted.matching.count, 3);
    assert!((counted.as_of - Utc::now()).abs() < Duration::minutes(1));
    // In SQLite, whose clock has milliseconds, one may fail within the same one.
    let newer = loop {
        let id = row_of(&db, letter(app)).await;
        if db.repo().get(id).await.unwrap().unwrap().created_at >= counted.as_of {
            break id;
        }
        db.execute(
            "DELETE FROM dead_letters WHERE id = (SELECT id FROM dead_letters ORDER BY id DESC LIMIT 1)",
        )
        .await;
    };
    let until_then = any().created_before(counted.as_of);
    let resolved =
        db.repo().resolve_matching(app, &until_then, Resolution::Ignored, &seen(), 10).await.unwrap();
    assert_eq!(resolved.ids, stored);
    assert_eq!(db.repo().get(newer).await.unwrap().unwrap().resolution, None);
}

async fn as_of_is_the_filters_own_end_and_now_is_the_databases_time(db: TestDb) {
    let app = new_app();
    rows(&db, app, 3).await;
    for (end, count) in [(ten_oclock() + Duration::minutes(1), 1), (Utc::now() + Duration::days(365), 3)] {
        let filter = any().created_before(end);
        let counted = db.repo().count(app, &filter, &CountRequest::default().cap(10)).await.unwrap();
        assert_eq!((counted.matching.count, counted.as_of), (count, end));
        assert!((counted.now - Utc::now()).abs() < Duration::minutes(1));
    }
}

async fn letters_ahead_of_the_clock_are_counted_only_if_their_ids_are_given(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 3).await;
    db.set_created_at(stored[2], ten_oclock() + Duration::days(365 * 900)).await;
    for scan in [None, Some(2)] {
        let counted =
            db.repo().count(app, &any(), &CountRequest::default().cap(10).scan_limit(scan)).await.unwrap();
        assert_eq!((counted.matching.count, counted.as_of, counted.scanned_back_to), (2, counted.now, None));
    }
    let these = any().ids(stored.clone());
    assert_eq!(
        db.repo().count(app, &these, &CountRequest::default().cap(10)).await.unwrap().matching.count,
        3
    );
    let counted = db.repo().count(app, &any(), &CountRequest::default().cap(10)).await.unwrap();
    let until_then = any().created_before(counted.as_of);
    let resolved =
        db.repo().resolve_matching(app, &until_then, Resolution::Ignored, &seen(), 10).await.unwrap();
    assert_eq!(resolved.ids, stored[..2]);
}
