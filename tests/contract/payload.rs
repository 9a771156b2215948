//! Tests that a payload is stored byte for byte, and under which kind.

use std::error::Error;

use dead_letters::{
    CoalescingDeadLetterRepo, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo,
    DeadLetterRepoError, DeadLetterRow, DeadLetterState, DeadLetterTransfer, NewDeadLetter, PageRequest,
    PayloadKind, SeaOrmDeadLetterRepo, StoredLetter,
};
use sea_orm::{DatabaseTransaction, DbBackend};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{insert::nested, letter, new_app};
use crate::database::TestDb;

on_every_backend! {
    json_is_stored_as_its_text_whatever_its_depth,
    a_payload_text_is_stored_byte_for_byte_and_its_kind_is_json_only_if_it_is_json,
    a_nul_in_a_payload_text_is_replaced_and_it_is_truncated,
    over_the_cap_a_payload_text_is_refused_by_an_insert,
    over_the_cap_a_payload_is_cut_by_a_burial_and_it_is_truncated,
    a_payload_beside_a_payload_text_is_ignored_whatever_its_depth,
    every_kind_goes_through_an_export_and_an_import_byte_for_byte,
    a_kind_of_a_newer_version_costs_its_field_alone,
}

/// The letter that is in no outbox.
async fn take(_: &DatabaseTransaction) -> Result<u64, Box<dyn Error + Send + Sync>> {
    Ok(1)
}

/// By each call that stores letters.
async fn stored_by_every_call(db: &TestDb, new: impl Fn() -> NewDeadLetter) -> Vec<DeadLetterId> {
    let repo = db.repo();
    let coalescing = CoalescingDeadLetterRepo::new(db.repo(), &Handle::current());
    let mut ids = repo.insert_many(vec![new(), new()]).await.unwrap();
    ids.push(repo.insert(new()).await.unwrap());
    ids.push(repo.bury_with(new(), take).await.unwrap());
    let (one, two) = tokio::join!(coalescing.insert(new()), coalescing.insert(new()));
    ids.extend([one.unwrap(), two.unwrap()]);
    let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
    ids.extend(repo.in_transaction(&txn).insert_many(vec![new(), new()]).await.unwrap());
    SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
    ids
}

async fn row(db: &TestDb, id: DeadLetterId) -> DeadLetterRow {
    db.repo().get(id).await.unwrap().unwrap()
}

async fn exported(db: &TestDb, row: &DeadLetterRow) -> StoredLetter {
    let filter = DeadLetterFilter::default().state(DeadLetterState::Any).ids([row.id]);
    db.repo().export(row.app_id, &filter, &PageRequest::default()).await.unwrap().items.remove(0)
}

/// By each call that shows it: the stored text, its kind, and what a row's `payload` is.
async fn is_stored(db: &TestDb, id: DeadLetterId, text: &str, kind: PayloadKind, payload: &Value) {
    let row = row(db, id).await;
    let whole = db.repo().payload_text(row.app_id, id, 0..u64::MAX).await.unwrap().unwrap();
    assert!(whole == text, "{whole:.80} is stored, and not {text:.80}");
    assert!(row.payload == *payload && row.payload_kind == Some(kind), "{text:.80}: {row:?}");
    let letter = exported(db, &row).await;
    assert!(letter.payload == text && letter.payload_kind.as_deref() == Some(kind.as_str()), "{letter:?}");
    let summary = db.repo().summary(row.app_id, id).await.unwrap().unwrap();
    assert_eq!((summary.payload_kind, summary.payload_bytes), (Some(kind), text.len() as u64));
}

async fn json_is_stored_as_its_text_whatever_its_depth(db: TestDb) {
    for levels in [127, 128, 100_000] {
        let text = "[".repeat(levels) + &"]".repeat(levels);
        let new = || NewDeadLetter { payload: nested(levels), ..letter(new_app()) };
        let payload = if levels == 127 { nested(levels) } else { Value::String(text.clone()) };
        for id in stored_by_every_call(&db, new).await {
            is_stored(&db, id, &text, PayloadKind::Json, &payload).await;
        }
    }
    // A JSON string stays a string, whatever it quotes.
    let new = || NewDeadLetter { payload: json!("{\"order\": 47"), ..letter(new_app()) };
    for id in stored_by_every_call(&db, new).await {
        is_stored(&db, id, r#""{\"order\": 47""#, PayloadKind::Json, &json!("{\"order\": 47")).await;
    }
}

async fn a_payload_text_is_stored_byte_for_byte_and_its_kind_is_json_only_if_it_is_json(db: TestDb) {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let unread = |text: &str| Value::String(text.to_owned());
    for (text, kind, payload) in [
        ("{ \"b\" : 1.10,\n\"a\": [] }\r\n", PayloadKind::Json, json!({ "a": [], "b": 1.1 })),
        (r#"{"a": 1, "a": 2}"#, PayloadKind::Json, json!({ "a": 2 })),
        ("12345678901234567890123", PayloadKind::Json, json!(1.2345678901234568e22)),
        ("1e400", PayloadKind::Json, unread("1e400")),
        (r#""\ud800""#, PayloadKind::Json, unread(r#""\ud800""#)),
        (r#""\u0000""#, PayloadKind::Json, json!("\0")),
        (&deep, PayloadKind::Json, unread(&deep)),
        ("{\"order\": 47", PayloadKind::Text, unread("{\"order\": 47")),
        ("<order id='47'/> \u{1F980}\u{1}", PayloadKind::Text, unread("<order id='47'/> \u{1F980}\u{1}")),
        ("", PayloadKind::Text, unread("")),
        ("NaN", PayloadKind::Text, unread("NaN")),
        ("{} {}", PayloadKind::Text, unread("{} {}")),
    ] {
        let new = || NewDeadLetter { payload_text: Some(text.to_owned()), ..letter(new_app()) };
        for id in stored_by_every_call(&db, new).await {
            is_stored(&db, id, text, kind, &payload).await;
        }
    }
}

async fn a_nul_in_a_payload_text_is_replaced_and_it_is_truncated(db: TestDb) {
    for (text, stored, payload) in [
        ("{\"a\0\": 1}", "{\"a\u{FFFD}\": 1}", json!({ "a\u{FFFD}": 1 })),
        ("\0", "\u{FFFD}", Value::String("\u{FFFD}".to_owned())),
    ] {
        let new = || NewDeadLetter { payload_text: Some(text.to_owned()), ..letter(new_app()) };
        for id in stored_by_every_call(&db, new).await {
            is_stored(&db, id, stored, PayloadKind::Truncated, &payload).await;
        }
    }
}

async fn over_the_cap_a_payload_text_is_refused_by_an_insert(db: TestDb) {
    let repo = db.repo().max_payload_bytes(10);
    let with = |text: &str| NewDeadLetter { payload_text: Some(text.to_owned()), ..letter(new_app()) };
    repo.insert(with("{ \"a\":10 }")).await.unwrap();
    let error = repo.insert(with("{ \"é\":10 }")).await.unwrap_err();
    assert!(
        matches!(error, DeadLetterRepoError::PayloadTooLarge { index: 0, bytes: 11, max: 10 }),
        "{error}"
    );
    let error = repo.insert_many(vec![with("{}"), with("not JSON: 11")]).await.unwrap_err();
    assert!(
        matches!(error, DeadLetterRepoError::PayloadTooLarge { index: 1, bytes: 12, max: 10 }),
        "{error}"
    );
    // The cap does not apply to the `payload` beside a `payload_text`.
    let large = NewDeadLetter { payload: json!("x".repeat(1_000)), ..with("{}") };
    repo.insert(large).await.unwrap();
    assert_eq!(db.row_count().await, 2);
}

async fn over_the_cap_a_payload_is_cut_by_a_burial_and_it_is_truncated(db: TestDb) {
    let value = |payload: Value| NewDeadLetter { payload, ..letter(new_app()) };
    let text = |text: &str| NewDeadLetter { payload_text: Some(text.to_owned()), ..letter(new_app()) };
    for (new, max, stored) in [
        (value(json!({ "note": "0123456789" })), 20, r#"{"note":"01234 [cut]"#),
        (value(json!("quoted \"text\"")), 15, r#""quoted \ [cut]"#),
        (value(nested(1_000)), 10, "[[[[ [cut]"),
        (text(r#"{ "order": 4711 }"#), 16, r#"{ "order": [cut]"#),
        (text("plain text that is no JSON"), 12, "plain  [cut]"),
        // The seventh byte is the second one of its character.
        (text("123456éééééé"), 13, "123456 [cut]"),
        // The cap is one of bytes that are stored.
        (text("\0\0\0\0"), 11, "\u{FFFD} [cut]"),
        (text("[1, 2, 3]"), 6, " [cut]"),
        (text("[1, 2, 3]"), 2, " ["),
        (text("[1, 2, 3]"), 0, ""),
    ] {
        let id = db.repo().max_payload_bytes(max).bury_with(new, take).await.unwrap();
        let payload = Value::String(stored.to_owned());
        is_stored(&db, id, stored, PayloadKind::Truncated, &payload).await;
    }
    // A payload that fits is stored unchanged.
    let id = db.repo().max_payload_bytes(9).bury_with(text("[1, 2, 3]"), take).await.unwrap();
    is_stored(&db, id, "[1, 2, 3]", PayloadKind::Json, &json!([1, 2, 3])).await;
}

async fn a_payload_beside_a_payload_text_is_ignored_whatever_its_depth(db: TestDb) {
    let new = || NewDeadLetter {
        payload: nested(100_000),
        payload_text: Some("the event".to_owned()),
        ..letter(new_app())
    };
    for id in stored_by_every_call(&db, new).await {
        is_stored(&db, id, "the event", PayloadKind::Text, &json!("the event")).await;
    }
}

async fn every_kind_goes_through_an_export_and_an_import_byte_for_byte(db: TestDb) {
    let deep = "[".repeat(1_000) + &"]".repeat(1_000);
    let mut rows = Vec::new();
    for text in [" {\"a\" : 1e400}", "12345678901234567890123", &deep, "<order/>", "", "a\0b"] {
        let new = NewDeadLetter { payload_text: Some(text.to_owned()), ..letter(new_app()) };
        rows.push(row(&db, db.repo().insert(new).await.unwrap()).await);
    }
    let large = NewDeadLetter { payload: json!("x".repeat(100)), ..letter(new_app()) };
    rows.push(row(&db, db.repo().max_payload_bytes(50).bury_with(large, take).await.unwrap()).await);
    for target in [TestDb::sqlite().await, TestDb::postgres().await] {
        for sent in &rows {
            let letter = exported(&db, sent).await;
            target.repo().import(std::slice::from_ref(&letter)).await.unwrap();
            assert_eq!(exported(&target, sent).await, letter);
            let arrived = row(&target, sent.id).await;
            assert!(arrived == *sent, "{arrived:?} was {sent:?}");
        }
    }
}

async fn a_kind_of_a_newer_version_costs_its_field_alone(db: TestDb) {
    let app = new_app();
    let stored = db.repo().insert_many(vec![letter(app); 2]).await.unwrap();
    let newer = "UPDATE dead_letters SET payload_kind = 'protobuf'";
    if db.db.get_database_backend() == DbBackend::Sqlite {
        // On one connection, since the setting is the connection's.
        let pragma = "PRAGMA ignore_check_constraints";
        db.execute(&format!("{pragma} = ON; {newer}; {pragma} = OFF")).await;
    } else {
        db.execute("ALTER TABLE dead_letters DROP CONSTRAINT dead_letters_payload_kind_check").await;
        db.execute(newer).await;
    }
    let page = db.repo().list_for_app(app, true, 10, 0).await.unwrap();
    assert_eq!(page.len(), 2);
    assert!(page.iter().all(|row| row.payload_kind.is_none() && row.payload == letter(app).payload));
    let any = DeadLetterFilter::default();
    let summaries = db.repo().list(app, &any, &PageRequest::default()).await.unwrap().items;
    assert!(summaries.len() == 2 && summaries.iter().all(|summary| summary.payload_kind.is_none()));
    // An export hands on what it does not know.
    let row = row(&db, stored[0]).await;
    assert_eq!(exported(&db, &row).await.payload_kind.as_deref(), Some("protobuf"));
}
