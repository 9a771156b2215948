use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    Buckets, DeadLetterFilter, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError, GroupRequest,
    NewDeadLetter, Timeline, TimelineRequest,
};

use super::{any, letter, new_app, row_of, rows, ten_oclock, time};
use crate::database::TestDb;

on_every_backend! {
    rows_are_counted_by_bucket_empty_ones_too,
    a_bucket_begins_with_its_first_microsecond,
    the_filter_and_the_app_apply,
    a_scan_counts_among_the_newest_rows_of_the_time,
    the_largest_and_smallest_times_are_one_timeline,
    a_time_that_makes_no_timeline_is_refused_and_nothing_is_sent,
}

fn request(from: i64, until: i64, buckets: u32) -> TimelineRequest {
    let minute = |minute| ten_oclock() + Duration::minutes(minute);
    Buckets::new(minute(from)..minute(until), buckets).into()
}

fn counts(timeline: &Timeline) -> Vec<u64> {
    timeline.buckets.iter().map(|bucket| bucket.count).collect()
}

async fn rows_are_counted_by_bucket_empty_ones_too(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 10).await;
    for &id in &stored[4..8] {
        db.set_created_at(id, ten_oclock()).await;
    }
    let timeline = db.repo().timeline(app, &any(), &request(0, 9, 3)).await.unwrap();
    let buckets =
        [(0, 7), (3, 1), (6, 1)].map(|(minute, count)| (ten_oclock() + Duration::minutes(minute), count));
    assert!(timeline.buckets.iter().map(|bucket| (bucket.from, bucket.count)).eq(buckets));
    assert_eq!(timeline.scanned_back_to, None);

    let before = db.repo().timeline(app, &any(), &request(-60, 0, 2)).await.unwrap();
    assert_eq!(counts(&before), [0, 0]);
    let of_no_time = db.repo().timeline(app, &any(), &request(0, 0, 2)).await.unwrap();
    assert_eq!(counts(&of_no_time), [0, 0]);
    let days = db.repo().timeline(app, &any(), &request(-60 * 24 * 40, 60 * 24 * 40, 2)).await.unwrap();
    assert_eq!(counts(&days), [0, 10]);
}

async fn a_bucket_begins_with_its_first_microsecond(db: TestDb) {
    let app = new_app();
    // A third of 10 s is rounded up.
    let second = Buckets::new(time("2026-03-01T10:00:00.000001Z")..time("2026-03-01T10:00:10.000001Z"), 3);
    let stored = rows(&db, app, 1).await[0];
    for (at, bucket) in [
        ("2026-03-01T10:00:00Z", None),
        ("2026-03-01T10:00:00.000001Z", Some(0)),
        ("2026-03-01T10:00:00.999999Z", Some(0)),
        ("2026-03-01T10:00:03.333334Z", Some(0)),
        ("2026-03-01T10:00:03.333335Z", Some(1)),
        ("2026-03-01T10:00:06.666668Z", Some(1)),
        ("2026-03-01T10:00:06.666669Z", Some(2)),
        ("2026-03-01T10:00:07Z", Some(2)),
        ("2026-03-01T10:00:07.5Z", Some(2)),
        ("2026-03-01T10:00:10Z", Some(2)),
        ("2026-03-01T10:00:10.000001Z", None),
    ] {
        db.set_created_at(stored, time(at)).await;
        let mut expected = vec![0; 3];
        if let Some(bucket) = bucket {
            expected[bucket] = 1;
        }
        let timeline = db.repo().timeline(app, &any(), &TimelineRequest::from(second)).await.unwrap();
        assert_eq!(counts(&timeline), expected, "{at}");
        let request = GroupRequest::default().timeline(second);
        let groups = db.repo().error_groups(app, &any(), &request).await.unwrap().groups;
        assert_eq!(groups[0].timeline, timeline.buckets, "{at}");
    }
}

async fn the_filter_and_the_app_apply(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let stored = rows(&db, app, 6).await;
    rows(&db, other, 6).await;
    let odd = row_of(&db, NewDeadLetter { source: "invoices".into(), ..letter(app) }).await;
    db.set_created_at(odd, ten_oclock()).await;
    db.repo().resolve(stored[1], "ignored").await.unwrap();
    let filter = DeadLetterFilter::default()
        .source("orders")
        .created_from(ten_oclock() + Duration::minutes(1))
        .created_before(ten_oclock() + Duration::minutes(5));
    let timeline = db.repo().timeline(app, &filter, &request(0, 6, 6)).await.unwrap();
    assert_eq!(counts(&timeline), [0, 0, 1, 1, 1, 0]);
}

async fn a_scan_counts_among_the_newest_rows_of_the_time(db: TestDb) {
    let app = new_app();
    rows(&db, app, 10).await;
    let timeline = db.repo().timeline(app, &any(), &request(0, 8, 4).scan_limit(3)).await.unwrap();
    assert_eq!(counts(&timeline), [0, 0, 1, 2]);
    assert_eq!(timeline.scanned_back_to, Some(ten_oclock() + Duration::minutes(5)));
    let timeline = db.repo().timeline(app, &any(), &request(0, 8, 4).scan_limit(8)).await.unwrap();
    assert_eq!((counts(&timeline), timeline.scanned_back_to), (vec![2, 2, 2, 2], None));
}

async fn the_largest_and_smallest_times_are_one_timeline(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 3).await;
    db.set_created_at(stored[0], time("0001-01-01T00:00:00Z")).await;
    db.set_created_at(stored[2], time("9999-12-31T23:59:59.999999Z")).await;
    let all = |buckets| Buckets::new(DateTime::<Utc>::MIN_UTC..DateTime::<Utc>::MAX_UTC, buckets);
    for number in [1, 3, 1_000] {
        let timeline = db.repo().timeline(app, &any(), &TimelineRequest::from(all(number))).await.unwrap();
        let counts = counts(&timeline);
        assert_eq!((counts.len() as u32, counts.iter().sum()), (number, 3_u64));
        assert!(counts[0] > 0 && counts[number as usize - 1] > 0);
        let request = GroupRequest::default().timeline(all(number));
        let groups = db.repo().error_groups(app, &any(), &request).await.unwrap().groups;
        assert_eq!(groups[0].timeline, timeline.buckets);
    }
}

async fn a_time_that_makes_no_timeline_is_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    for (request, expected) in [
        (request(0, 1, 0), "`buckets.count` must be between 1 and 1,000 (got 0)"),
        (request(0, 1, 1_001), "`buckets.count` must be between 1 and 1,000 (got 1,001)"),
        (
            request(1, 0, 1),
            "`from` must not be after `until` (got 2026-03-01 10:01:00 UTC and 2026-03-01 10:00:00 UTC)",
        ),
    ] {
        let error = repo.timeline(new_app(), &any(), &request.scan_limit(10)).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        let groups = GroupRequest::default().timeline(request.buckets).scan_limit(10);
        let error = repo.error_groups(new_app(), &any(), &groups).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(matches!(error, DeadLetterRepoError::FromAfterUntil { .. }), request.buckets.count == 1);
    }
    assert_eq!(recorded.take(), []);
}
