use std::{sync::Mutex, thread};

use chrono::Duration;
use dead_letters::{
    AppId, Buckets, CountRequest, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo,
    DeadLetterState, DeadLetterSummary, DeadLetterTransfer, GroupRequest, NewDeadLetter, Page, PageRequest,
    SeaOrmDeadLetterRepo, StoredLetter, TimelineRequest, testing::stored_letter,
};
use sea_orm::{Database, DbBackend};
use tokio::runtime::Builder;

use super::{any, letter, new_app, row_of, rows, ten_oclock};
use crate::database::TestDb;

on_every_backend! {
    a_scan_ends_an_empty_page_and_the_next_one_goes_on_there,
    pages_of_any_scan_show_each_match_once,
    a_scan_that_reaches_the_last_row_leaves_nothing_out,
    a_page_that_is_full_before_its_scan_ends_returns_no_end_of_the_scan,
    only_rows_of_the_app_its_state_and_times_are_counted_by_a_scan,
    a_scan_of_0_is_refused_in_every_call_and_nothing_is_sent,
    a_bounded_scan_is_one_statement_on_postgres_and_two_on_sqlite,
}

/// Rows as `rows` makes them, of which those with an odd source are at these places.
async fn with_odd_ones_at(db: &TestDb, app: AppId, count: usize, odd: &[usize]) -> Vec<DeadLetterId> {
    let mut stored = rows(db, app, count).await;
    for &place in odd {
        let at = db.repo().get(stored[place]).await.unwrap().unwrap().created_at;
        db.set_created_at(stored[place], at - Duration::days(1)).await;
        stored[place] = row_of(db, NewDeadLetter { source: "invoices".into(), ..letter(app) }).await;
        db.set_created_at(stored[place], at).await;
    }
    stored
}

fn odd() -> DeadLetterFilter {
    // Without the rows whose places the odd ones took.
    any().source("invoices").created_from(ten_oclock())
}

fn scan(scan: u32) -> PageRequest {
    PageRequest::default().scan_limit(scan)
}

fn ids(page: &Page<DeadLetterSummary>) -> Vec<DeadLetterId> {
    page.items.iter().map(|item| item.id).collect()
}

async fn a_scan_ends_an_empty_page_and_the_next_one_goes_on_there(db: TestDb) {
    let app = new_app();
    let stored = with_odd_ones_at(&db, app, 10, &[0, 1]).await;
    let page = db.repo().list(app, &odd(), &scan(5)).await.unwrap();
    assert_eq!(page.items, []);
    assert_eq!(page.scanned_back_to, Some(ten_oclock() + Duration::minutes(5)));
    let after = scan(5).after(page.next);
    let page = db.repo().list(app, &odd(), &after).await.unwrap();
    assert_eq!((ids(&page), page.next, page.scanned_back_to), (vec![stored[1], stored[0]], None, None));
}

async fn pages_of_any_scan_show_each_match_once(db: TestDb) {
    let app = new_app();
    let stored = with_odd_ones_at(&db, app, 9, &[0, 3, 4, 8]).await;
    // Two places in one time.
    db.set_created_at(stored[5], ten_oclock() + Duration::minutes(4)).await;
    for scan in 1..=11 {
        for size in 1..=5 {
            let mut request = PageRequest::default().size(size).scan_limit(scan);
            let mut seen = Vec::new();
            loop {
                let page = db.repo().list(app, &odd(), &request).await.unwrap();
                let exported = db.repo().export(app, &odd(), &request).await.unwrap();
                assert_eq!(exported.items.iter().map(|row| row.id).collect::<Vec<_>>(), ids(&page));
                assert_eq!((exported.next, exported.scanned_back_to), (page.next, page.scanned_back_to));
                seen.extend(ids(&page));
                assert!(page.items.len() <= size as usize);
                let Some(next) = page.next else { break };
                request.after = Some(next);
            }
            let expected = [8, 4, 3, 0].map(|place| stored[place]);
            assert_eq!(seen, expected, "scan {scan}, size {size}");
        }
    }
}

async fn a_scan_that_reaches_the_last_row_leaves_nothing_out(db: TestDb) {
    let app = new_app();
    with_odd_ones_at(&db, app, 6, &[]).await;
    for (length, ends_at) in [(5, Some(1)), (6, None), (7, None), (u32::MAX, None)] {
        let page = db.repo().list(app, &odd(), &scan(length)).await.unwrap();
        let ends_at = ends_at.map(|minute| ten_oclock() + Duration::minutes(minute));
        assert_eq!((page.scanned_back_to, page.next.is_some()), (ends_at, ends_at.is_some()));
        assert_eq!(
            db.repo()
                .count(app, &odd(), &CountRequest::default().cap(9).scan_limit(length))
                .await
                .unwrap()
                .scanned_back_to,
            ends_at
        );
    }
}

async fn a_page_that_is_full_before_its_scan_ends_returns_no_end_of_the_scan(db: TestDb) {
    let app = new_app();
    let stored = with_odd_ones_at(&db, app, 6, &[3, 4]).await;
    let page = db.repo().list(app, &odd(), &scan(4).size(1)).await.unwrap();
    assert_eq!((ids(&page), page.next.is_some(), page.scanned_back_to), (vec![stored[4]], true, None));
    // The same where nothing is left out of what is looked at, the scan being shorter than the page too.
    for (size, length, at) in [(2, 4, None), (4, 4, None), (4, 2, Some(ten_oclock() + Duration::minutes(4)))]
    {
        let all = any().created_from(ten_oclock());
        let page = db.repo().list(app, &all, &scan(length).size(size)).await.unwrap();
        assert_eq!(page.items.len() as u32, size.min(length));
        let at = if size == length { page.scanned_back_to } else { at };
        assert_eq!((page.scanned_back_to, page.next.is_some()), (at, true));
    }
}

async fn only_rows_of_the_app_its_state_and_times_are_counted_by_a_scan(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let stored = with_odd_ones_at(&db, app, 10, &[2, 3]).await;
    for &newer in &stored[6..8] {
        db.repo().resolve(newer, "ignored").await.unwrap();
    }
    for foreign in rows(&db, other, 3).await {
        db.set_created_at(foreign, ten_oclock() + Duration::days(1)).await;
    }
    // Rows 8 and 9 are too young, 6 and 7 are closed, and the two rows after a scan of 4 are 5 and 4.
    let filter = odd().created_before(ten_oclock() + Duration::minutes(8)).state(DeadLetterState::Unresolved);
    let page = db.repo().list(app, &filter, &scan(4)).await.unwrap();
    assert_eq!(ids(&page), [stored[3], stored[2]]);
    let page = db.repo().list(app, &filter, &scan(3)).await.unwrap();
    assert_eq!(ids(&page), stored[3..4]);
    // Closed rows are looked at by when they were closed.
    let resolved = filter.state(DeadLetterState::Closed);
    let page = db.repo().list(app, &resolved, &scan(1)).await.unwrap();
    let last = db.repo().get(stored[7]).await.unwrap().unwrap().resolved_at;
    assert_eq!((page.items, page.scanned_back_to), (vec![], last));
}

/// Between two, letters that arrive would push others out of the scan, and the next page would begin behind these.
async fn a_bounded_scan_is_one_statement_on_postgres_and_two_on_sqlite(db: TestDb) {
    let app = new_app();
    with_odd_ones_at(&db, app, 10, &[2, 3]).await;
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let statements = if db.db.get_database_backend() == DbBackend::Sqlite { 2 } else { 1 };
    let page = scan(4);
    let time = Buckets::new(ten_oclock()..ten_oclock() + Duration::days(1), 1);
    let groups = GroupRequest::default().scan_limit(4);
    for state in [DeadLetterState::Open, DeadLetterState::Unresolved, DeadLetterState::Any] {
        let filter = odd().state(state);
        assert_eq!(repo.list(app, &filter, &page).await.unwrap().items, []);
        assert_eq!(recorded.take().len(), statements);
        assert_eq!(repo.export(app, &filter, &page).await.unwrap().items, []);
        assert_eq!(recorded.take().len(), statements);
        assert_eq!(
            repo.count(app, &filter, &CountRequest::default().cap(10).scan_limit(4))
                .await
                .unwrap()
                .matching
                .count,
            0
        );
        assert_eq!(recorded.take().len(), statements);
        assert_eq!(
            repo.timeline(app, &filter, &TimelineRequest::from(time).scan_limit(4)).await.unwrap().buckets[0]
                .count,
            0
        );
        assert_eq!(recorded.take().len(), statements);
        assert_eq!(repo.error_groups(app, &filter, &groups).await.unwrap().groups, []);
        assert_eq!(recorded.take().len(), statements);
    }
}

/// A pool on which these letters are stored behind its first statement, before the next one is sent.
pub(super) async fn storing_behind_a_statement(
    db: &TestDb,
    letters: Vec<StoredLetter>,
) -> SeaOrmDeadLetterRepo {
    let mut pool = db.connect_with(|_| ()).await;
    let (url, letters) = (db.url().to_owned(), Mutex::new(Some(letters)));
    pool.set_metric_callback(move |_| {
        let Some(letters) = letters.lock().unwrap().take() else { return };
        let url = url.clone();
        let stored = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let db = Database::connect(url).await.unwrap();
                SeaOrmDeadLetterRepo::new(db).import(&letters).await.unwrap();
            });
        });
        stored.join().unwrap();
    });
    db.repo_over(pool)
}

/// The page also examines letters newer than the scan's end, beyond the limit. It leaves older letters to the
/// next page and loses none.
#[tokio::test]
async fn letters_that_are_stored_between_the_two_statements_of_a_scan_are_each_shown_once_on_sqlite() {
    let db = TestDb::sqlite().await;
    for call in ["list", "export", "count", "timeline", "error_groups"] {
        let app = new_app();
        let there = with_odd_ones_at(&db, app, 6, &[0, 1, 4]).await;
        let [older, newer] = [30, 9 * 60].map(|seconds| StoredLetter {
            source: "invoices".to_owned(),
            ..stored_letter(app, ten_oclock() + Duration::seconds(seconds))
        });
        let gap = storing_behind_a_statement(&db, vec![older.clone(), newer.clone()]).await;
        // Minutes 5 to 2, and of these the letter of minute 4 matches.
        let end = Some(ten_oclock() + Duration::minutes(2));
        let (size, groups) = (scan(4), GroupRequest::default().scan_limit(4));
        let until = ten_oclock() + Duration::days(1);
        let time = Buckets::new(ten_oclock()..until, 1);
        let counted = match call {
            "list" => {
                let page = gap.list(app, &odd(), &size).await.unwrap();
                assert_eq!((ids(&page), page.scanned_back_to), (vec![newer.id, there[4]], end));
                let rest = size.after(page.next);
                let rest = gap.list(app, &odd(), &rest).await.unwrap();
                assert_eq!((ids(&rest), rest.next), (vec![there[1], older.id, there[0]], None));
                continue;
            }
            "export" => {
                let page = gap.export(app, &odd(), &size).await.unwrap();
                let mut exported: Vec<_> = page.items.iter().map(|letter| letter.id).collect();
                assert_eq!((exported.len(), page.scanned_back_to), (2, end));
                let rest = size.after(page.next);
                let rest = gap.export(app, &odd(), &rest).await.unwrap();
                assert_eq!(rest.next, None);
                exported.extend(rest.items.iter().map(|letter| letter.id));
                assert_eq!(exported, [newer.id, there[4], there[1], older.id, there[0]]);
                continue;
            }
            "count" => {
                let count =
                    gap.count(app, &odd(), &CountRequest::default().cap(100).scan_limit(4)).await.unwrap();
                (count.matching.count, count.scanned_back_to)
            }
            "timeline" => {
                let timeline =
                    gap.timeline(app, &odd(), &TimelineRequest::from(time).scan_limit(4)).await.unwrap();
                (timeline.buckets[0].count, timeline.scanned_back_to)
            }
            _ => {
                let groups = gap.error_groups(app, &odd(), &groups).await.unwrap();
                (groups.groups.iter().map(|group| group.count).sum(), groups.scanned_back_to)
            }
        };
        assert_eq!(counted, (2, end), "{call}");
    }
}

async fn a_scan_of_0_is_refused_in_every_call_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let app = new_app();
    let time = Buckets::new(ten_oclock()..ten_oclock(), 1);
    let groups = GroupRequest::default().scan_limit(0);
    for (error, argument) in [
        (repo.list(app, &any(), &scan(0)).await.unwrap_err(), "page.scan_limit"),
        (repo.export(app, &any(), &scan(0)).await.unwrap_err(), "page.scan_limit"),
        (
            repo.count(app, &any(), &CountRequest::default().cap(1).scan_limit(0)).await.unwrap_err(),
            "scan_limit",
        ),
        (
            repo.timeline(app, &any(), &TimelineRequest::from(time).scan_limit(0)).await.unwrap_err(),
            "scan_limit",
        ),
        (repo.error_groups(app, &any(), &groups).await.unwrap_err(), "scan_limit"),
    ] {
        assert_eq!(error.to_string(), format!("`{argument}` must be at least 1 (got 0)"));
    }
    assert_eq!(recorded.take(), []);
}
