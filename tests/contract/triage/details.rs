use dead_letters::{DeadLetterRead, DeadLetterResolve, NewDeadLetter, PageRequest, Resolution};
use serde_json::json;
use uuid::Uuid;

use super::{any, letter, new_app, row_of, seen};
use crate::database::TestDb;

on_every_backend! {
    a_summary_by_id_is_that_of_the_list,
    a_payloads_text_comes_whole_and_in_parts,
    an_errors_text_comes_whole_and_in_parts,
    a_broken_payloads_text_comes_as_it_is,
    another_apps_row_has_neither_summary_nor_text,
}

async fn a_summary_by_id_is_that_of_the_list(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    db.repo().resolve_once(app, id, Resolution::HandlerFailed, &seen()).await.unwrap();
    let listed = db.repo().list(app, &any(), &PageRequest::default()).await.unwrap().items.remove(0);
    assert_eq!(db.repo().summary(app, id).await.unwrap(), Some(listed));
}

async fn a_payloads_text_comes_whole_and_in_parts(db: TestDb) {
    let app = new_app();
    let payload = json!({ "name": "Zoë", "city": "東京", "face": "😀\u{301}" });
    let id = row_of(&db, NewDeadLetter { payload: payload.clone(), ..letter(app) }).await;
    let text = payload.to_string();
    let part = async |characters| db.repo().payload_text(app, id, characters).await.unwrap().unwrap();
    assert_eq!(part(0..u64::MAX).await, text);
    for length in 1..=7 {
        let mut parts = String::new();
        for start in 0.. {
            let next = part(start * length..(start + 1) * length).await;
            if next.is_empty() {
                break;
            }
            assert!(next.chars().count() as u64 <= length);
            parts += &next;
        }
        assert_eq!(parts, text);
    }
    let nowhere = [3..3, std::ops::Range { start: 5, end: 3 }, 1_000..2_000, u64::MAX - 1..u64::MAX];
    for nothing in nowhere {
        assert_eq!(part(nothing).await, "");
    }
}

async fn an_errors_text_comes_whole_and_in_parts(db: TestDb) {
    let app = new_app();
    let last_error = format!("HTTP 503: 東京 😀\u{301}\n{}", "at deliver\n".repeat(1_000));
    let id = row_of(&db, NewDeadLetter { last_error: last_error.clone(), ..letter(app) }).await;
    let part = async |characters| db.repo().error_text(app, id, characters).await.unwrap().unwrap();
    assert_eq!(part(0..u64::MAX).await, last_error);
    assert_eq!(part(10..12).await, "東京");
    assert_eq!(part(100_000..u64::MAX).await, "");
}

async fn a_broken_payloads_text_comes_as_it_is(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    for payload in ["{broken", r#"{"b":1.10,"a":18446744073709551616}"#, ""] {
        db.execute(&format!("UPDATE dead_letters SET payload = '{payload}'")).await;
        assert_eq!(db.repo().payload_text(app, id, 0..u64::MAX).await.unwrap().as_deref(), Some(payload));
    }
}

async fn another_apps_row_has_neither_summary_nor_text(db: TestDb) {
    let id = row_of(&db, letter(new_app())).await;
    for id in [id, Uuid::now_v7().into()] {
        assert_eq!(db.repo().summary(new_app(), id).await.unwrap(), None);
        assert_eq!(db.repo().payload_text(new_app(), id, 0..10).await.unwrap(), None);
        assert_eq!(db.repo().error_text(new_app(), id, 0..10).await.unwrap(), None);
    }
}
