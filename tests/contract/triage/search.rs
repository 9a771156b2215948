//! The search in payloads.

use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    AppId, Attribution, Buckets, DeadLetterDelete, DeadLetterFilter, DeadLetterId, DeadLetterRead,
    DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, DeadLetterState, DeadLetterSummary,
    DeadLetterTransfer, GroupRequest, NewDeadLetter, Page, PageRequest, PayloadSearch, Resolution,
    StoredLetter, entity::dead_letters as table, testing::stored_letter,
};
use sea_orm::{ColumnTrait, DbBackend, EntityTrait, QueryFilter, sea_query::Expr};
use serde_json::json;
use uuid::Uuid;

use super::{any, letter, new_app, row_of, rows, scan::storing_behind_a_statement, seen, ten_oclock};
use crate::{contract::retention::Nowhere, database::TestDb};

on_every_backend! {
    a_letter_is_found_by_any_part_of_its_stored_payload,
    json_is_searched_as_it_is_stored,
    neither_an_edited_payload_nor_an_erased_letter_is_found,
    pages_of_any_scan_find_each_letter_once_in_the_order_of_a_list,
    a_search_ends_at_64_mb_of_payload_and_the_next_page_goes_on_there,
    a_search_without_a_scan_limit_examines_10000_letters,
    the_groups_of_a_search_are_those_of_the_letters_that_it_finds,
    a_text_of_no_bytes_or_more_than_1000_is_refused_without_being_shown_and_nothing_is_sent,
    a_search_has_the_errors_of_a_list_and_then_sends_nothing,
}

fn search(text: &str) -> PayloadSearch {
    PayloadSearch::new(text).filter(any())
}

fn ids(page: &Page<DeadLetterSummary>) -> Vec<DeadLetterId> {
    page.items.iter().map(|item| item.id).collect()
}

async fn found(db: &TestDb, app: AppId, text: &str) -> Vec<DeadLetterId> {
    ids(&db.repo().search_payloads(app, &search(text)).await.unwrap())
}

async fn with_payload(db: &TestDb, app: AppId, text: &str) -> DeadLetterId {
    row_of(db, NewDeadLetter { payload_text: Some(text.to_owned()), ..letter(app) }).await
}

async fn a_letter_is_found_by_any_part_of_its_stored_payload(db: TestDb) {
    let texts =
        ["order 4711", "50%_*?[a]", "größer 東京 😀", "it's \"so\"", "a\\b\nc", "' OR '1'='1", "$1", "a\0b"];
    let app = new_app();
    let mut stored = Vec::new();
    for text in texts {
        stored.push((text, with_payload(&db, app, text).await));
    }
    for (text, id) in &stored {
        assert_eq!(found(&db, app, text).await, [*id], "{text:?}");
        let part: String = text.chars().skip(1).collect();
        assert!(found(&db, app, &part).await.contains(id), "{part:?}");
    }
    for text in ["Order", "ORDER 4711", "order  4711", "%", "GRÖSSER", "order 47110"] {
        let expected: Vec<_> = stored.iter().filter(|(of, _)| of.contains(text)).map(|(_, id)| *id).collect();
        assert_eq!(found(&db, app, text).await, expected, "{text:?}");
    }
    assert_eq!(found(&db, new_app(), "4711").await, []);
}

async fn json_is_searched_as_it_is_stored(db: TestDb) {
    let app = new_app();
    let payload = json!({ "name": "A \"B\"", "order": 4711 });
    let id = row_of(&db, NewDeadLetter { payload, ..letter(app) }).await;
    for text in [r#""order":4711"#, r#"A \"B\""#, "{", "}"] {
        assert_eq!(found(&db, app, text).await, [id], "{text}");
    }
    for text in [r#"A "B""#, r#""order": 4711"#] {
        assert_eq!(found(&db, app, text).await, [], "{text}");
    }
}

async fn neither_an_edited_payload_nor_an_erased_letter_is_found(db: TestDb) {
    let app = new_app();
    let [edited, erased, null] = [r#"{"a":1}"#, "null and void", "null"];
    let edited = with_payload(&db, app, edited).await;
    let erased = with_payload(&db, app, erased).await;
    let null = with_payload(&db, app, null).await;
    db.repo().replayer(Nowhere).replay_edited(app, edited, r#"{"b":2}"#, &seen()).await.unwrap();
    assert_eq!(found(&db, app, r#""b":2"#).await, []);
    assert_eq!(found(&db, app, r#""a":1"#).await, [edited]);
    assert_eq!(found(&db, app, "null").await, [null, erased]);
    db.repo().erase(app, &[erased], &seen()).await.unwrap();
    assert_eq!(found(&db, app, "null").await, [null]);
    let of_erased = search("null").filter(any().erased(true));
    assert_eq!(db.repo().search_payloads(app, &of_erased).await.unwrap().items, []);
}

/// Letters that are closed one after another, the oldest last; every third has a payload and a source of its own.
fn needles_and_hay(app: AppId) -> Vec<StoredLetter> {
    let letter = |n: i64| StoredLetter {
        payload: if n % 3 == 0 { "needle" } else { "hay" }.to_owned(),
        source: if n % 3 == 0 { "needles" } else { "hay" }.to_owned(),
        resolution: ["handler_failed", "ignored"]
            .get(n as usize % 4)
            .map(|&resolution| resolution.to_owned()),
        resolved_at: (n % 4 < 2).then(|| ten_oclock() + Duration::hours(20 - n)),
        ..stored_letter(app, ten_oclock() + Duration::minutes(n / 2))
    };
    (0..12).map(letter).collect()
}

async fn pages_of_any_scan_find_each_letter_once_in_the_order_of_a_list(db: TestDb) {
    let app = new_app();
    let stored = needles_and_hay(app);
    db.repo().import(&stored).await.unwrap();
    let all: Vec<_> = stored.iter().map(|letter| letter.id).collect();
    for &state in DeadLetterState::ALL {
        for filter in [any().state(state), any().state(state).ids(all.clone())] {
            let needles = filter.clone().source("needles");
            let expected = ids(&db.repo().list(app, &needles, &PageRequest::default()).await.unwrap());
            assert!(!expected.is_empty());
            for scan in [None, Some(1), Some(2), Some(3), Some(5), Some(20)] {
                for size in [1, 2, 50] {
                    let page = PageRequest::default().size(size).scan_limit(scan);
                    let mut search = PayloadSearch::new("needle").filter(filter.clone()).page(page);
                    let mut seen = Vec::new();
                    loop {
                        let page = db.repo().search_payloads(app, &search).await.unwrap();
                        assert!(page.items.len() <= size as usize);
                        assert!(page.scanned_back_to.is_none() || page.next.is_some());
                        seen.extend(ids(&page));
                        let Some(next) = page.next else { break };
                        search.page.after = Some(next);
                    }
                    assert_eq!(seen, expected, "{filter:?}, scan {scan:?}, size {size}");
                }
            }
        }
    }
}

async fn the_groups_of_a_search_are_those_of_the_letters_that_it_finds(db: TestDb) {
    let (repo, app) = (db.repo(), new_app());
    let mut stored = needles_and_hay(app);
    // Each of these groups has letters with the text and letters without it.
    for (n, letter) in stored.iter_mut().enumerate() {
        letter.source = format!("source {}", n % 2);
        letter.op = format!("op {}", n % 5 / 3);
    }
    repo.import(&stored).await.unwrap();
    repo.erase(app, &[stored[6].id], &seen()).await.unwrap();
    let all: Vec<_> = stored.iter().map(|letter| letter.id).collect();
    let hours = Buckets::new(ten_oclock()..ten_oclock() + Duration::minutes(4), 2);
    let mut numbers = Vec::new();
    for &state in DeadLetterState::ALL {
        for filter in [any().state(state), any().state(state).ids(all.clone()), any().state(state).op("op 0")]
        {
            for scan in [None, Some(1), Some(3), Some(7), Some(20)] {
                let page = PageRequest::default().size(500).scan_limit(scan);
                let search = PayloadSearch::new("needle").filter(filter.clone()).page(page);
                let page = repo.search_payloads(app, &search).await.unwrap();
                let request = GroupRequest::default().timeline(hours);
                let of_found = filter.clone().ids(ids(&page));
                let expected = repo.error_groups(app, &of_found, &request).await.unwrap().groups;
                let request = request.payload_contains("needle").scan_limit(scan);
                let found = repo.error_groups(app, &filter, &request).await.unwrap();
                assert_eq!(found.groups, expected, "{filter:?}, scan {scan:?}");
                assert_eq!(found.scanned_back_to, page.scanned_back_to, "{filter:?}, scan {scan:?}");
                numbers.push(found.groups.len());
            }
        }
    }
    assert!(numbers.contains(&0) && numbers.contains(&3), "{numbers:?}");
}

/// Letters with payloads of these sizes, the newest first.
async fn of_megabytes(db: &TestDb, app: AppId, sizes: &[u32]) -> Vec<DeadLetterId> {
    let mut ids = rows(db, app, sizes.len()).await;
    ids.reverse();
    for (&id, megabytes) in ids.iter().zip(sizes) {
        let bytes = megabytes << 20;
        let text = match db.db.get_database_backend() {
            DbBackend::Sqlite => format!("'needle' || hex(zeroblob({}))", (bytes - 6) / 2),
            _ => format!("'needle' || repeat('0', {})", bytes - 6),
        };
        let update = table::Entity::update_many().col_expr(table::Column::Payload, Expr::cust(text));
        update.filter(table::Column::Id.eq(id.into_inner())).exec(&db.db).await.unwrap();
    }
    ids
}

async fn a_search_ends_at_64_mb_of_payload_and_the_next_page_goes_on_there(db: TestDb) {
    let app = new_app();
    let stored = of_megabytes(&db, app, &[30, 34, 1, 70, 1]).await;
    let run_id = Uuid::now_v7();
    let all = DeadLetterFilter::default().ids(stored.clone());
    db.repo()
        .resolve_matching(app, &all, Resolution::Ignored, &Attribution::default().run_id(run_id), 10)
        .await
        .unwrap();
    let at = |place: i64| Some(ten_oclock() + Duration::minutes(4 - place));
    let ends: [(&[DeadLetterId], Option<DateTime<Utc>>); 4] =
        [(&stored[..2], at(1)), (&stored[2..3], at(2)), (&stored[3..4], at(3)), (&stored[4..], None)];
    for filter in [any(), all.clone(), any().run_id(run_id)] {
        for (text, finds) in [("needle", true), ("hay", false)] {
            for scan in [None, Some(10)] {
                let mut search = PayloadSearch::new(text)
                    .filter(filter.clone())
                    .page(PageRequest::default().scan_limit(scan));
                for (letters, end) in ends {
                    let page = db.repo().search_payloads(app, &search).await.unwrap();
                    assert_eq!(ids(&page), if finds { letters } else { &[] }, "{filter:?}");
                    assert_eq!((page.scanned_back_to, page.next.is_some()), (end, end.is_some()));
                    search.page.after = page.next;
                }
            }
        }
    }
    let groups = GroupRequest::default().payload_contains("needle");
    let groups = db.repo().error_groups(app, &any(), &groups).await.unwrap();
    assert_eq!((groups.groups[0].count, groups.scanned_back_to), (2, at(1)));
    // Closed letters are examined in the order in which they were closed.
    let closed = search("needle").filter(any().state(DeadLetterState::Closed));
    let page = db.repo().search_payloads(app, &closed).await.unwrap();
    let last = page.items.last().unwrap().resolved_at;
    assert_eq!((page.scanned_back_to, page.next.is_some()), (last, true));
}

async fn a_search_without_a_scan_limit_examines_10000_letters(db: TestDb) {
    let app = new_app();
    db.repo().insert_many(vec![letter(app); 10_001]).await.unwrap();
    let mut search = search("nothing like this");
    let page = db.repo().search_payloads(app, &search).await.unwrap();
    assert!(page.items.is_empty() && page.next.is_some() && page.scanned_back_to.is_some());
    search.page.after = page.next;
    assert_eq!(db.repo().search_payloads(app, &search).await.unwrap(), Page::last(Vec::new()));
    let whole = search.page(PageRequest::default().scan_limit(10_001));
    assert_eq!(db.repo().search_payloads(app, &whole).await.unwrap(), Page::last(Vec::new()));
}

/// The page also examines letters newer than the scan's end, beyond the limit. It leaves older letters to the next page
/// and loses none.
#[tokio::test]
async fn letters_that_are_stored_between_the_two_statements_are_each_found_once_on_sqlite() {
    let db = TestDb::sqlite().await;
    let app = new_app();
    let there = rows(&db, app, 6).await;
    let [older, newer] =
        [30, 9 * 60].map(|seconds| stored_letter(app, ten_oclock() + Duration::seconds(seconds)));
    let gap = storing_behind_a_statement(&db, vec![older.clone(), newer.clone()]).await;
    let mut search = search("{").page(PageRequest::default().scan_limit(4));
    let page = gap.search_payloads(app, &search).await.unwrap();
    assert_eq!(page.scanned_back_to, Some(ten_oclock() + Duration::minutes(2)));
    assert_eq!(ids(&page), [newer.id, there[5], there[4], there[3], there[2]]);
    search.page.after = page.next;
    let rest = gap.search_payloads(app, &search).await.unwrap();
    assert_eq!((ids(&rest), rest.next), (vec![there[1], older.id, there[0]], None));
}

async fn a_text_of_no_bytes_or_more_than_1000_is_refused_without_being_shown_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let (repo, app) = (db.repo_over(recording), new_app());
    for text in [String::new(), "needle".repeat(167), "ä".repeat(501)] {
        let error = repo.search_payloads(app, &search(&text)).await.unwrap_err();
        assert!(matches!(error, DeadLetterRepoError::SearchLength { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!(
                "`payload_contains` must have 1 to 1,000 bytes (got {})",
                dead_letters::CappedCount::from(text.len() as u64)
            )
        );
        assert!(!format!("{error:?}{:?}", search(&text)).contains("needle"));
    }
    assert_eq!(recorded.take(), []);
    let longest = "ä".repeat(500);
    assert_eq!(repo.search_payloads(app, &search(&longest)).await.unwrap(), Page::last(Vec::new()));
    let statements = if db.db.get_database_backend() == DbBackend::Sqlite { 2 } else { 1 };
    assert_eq!(recorded.take().len(), statements);
}

async fn a_search_has_the_errors_of_a_list_and_then_sends_nothing(db: TestDb) {
    let app = new_app();
    rows(&db, app, 2).await;
    let one = PageRequest::default().size(1);
    let next = db.repo().list(app, &any(), &one).await.unwrap().next;
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let page = PageRequest::default;
    let many = vec![Uuid::nil().into(); 1_001];
    for search in [
        search("{").page(page().size(0)),
        search("{").page(page().size(501)),
        search("{").page(page().scan_limit(0)),
        search("{").filter(any().ids(many)),
        search("{").filter(any().metadata("", "v")),
        search("{").filter(any().source("orders")).page(page().after(next)),
    ] {
        let PayloadSearch { filter, page, .. } = &search;
        let of_list = repo.list(app, filter, page).await.unwrap_err();
        assert_eq!(repo.search_payloads(app, &search).await.unwrap_err().to_string(), of_list.to_string());
    }
    assert_eq!(recorded.take(), []);
    // A cursor is one of the filter, for a list as for any search.
    let behind = search("{").page(page().after(next));
    assert_eq!(repo.search_payloads(app, &behind).await.unwrap().items.len(), 1);
}
