//! The metadata of a letter, as it is stored and read.

use std::sync::Arc;

use dead_letters::{
    AppId, CoalescingDeadLetterRepo, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo,
    DeadLetterRepoError, DeadLetterTransfer, ErrorKind, NewDeadLetter, PageRequest, StoredLetter,
};
use sea_orm::{ConnectionTrait, Statement};
use serde_json::{Map, Value, json};
use tokio::{runtime::Handle, task::JoinSet};
use uuid::Uuid;

use super::{import_of, insert::nested, letter, new_app};
use crate::database::TestDb;

on_every_backend! {
    metadata_comes_back_equal_from_every_call,
    metadata_of_many_letters_and_of_coalesced_ones_comes_back_equal,
    metadata_goes_through_an_export_and_an_import_byte_for_byte,
    a_letter_without_metadata_has_null_in_the_column,
    a_nul_in_metadata_becomes_the_replacement_character,
    metadata_of_16_kb_is_stored_and_more_is_refused,
    a_burial_cuts_metadata_over_16_kb,
    metadata_of_100_000_levels_becomes_its_text_and_the_process_lives,
}

fn map(metadata: Value) -> Map<String, Value> {
    metadata.as_object().unwrap().clone()
}

fn with(app: AppId, metadata: Value) -> NewDeadLetter {
    NewDeadLetter { metadata: map(metadata), ..letter(app) }
}

fn sample() -> Value {
    json!({
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tenant": "acme",
        "": "an empty key",
        "a \"key\" with $.dots and [0]\\": "größer 東京 😀\u{1}\n\\u0000",
        "attempt": 3,
        "rate": 1e308,
        "tags": ["a", { "b": null }],
    })
}

async fn metadata_of(db: &TestDb, id: DeadLetterId) -> Map<String, Value> {
    db.repo().get(id).await.unwrap().unwrap().metadata
}

async fn metadata_comes_back_equal_from_every_call(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    let id = repo.insert(with(app, sample())).await.unwrap();
    let sent = map(sample());
    assert_eq!(metadata_of(&db, id).await, sent);
    assert_eq!(repo.get_for_app(app, id).await.unwrap().unwrap().metadata, sent);
    assert_eq!(repo.list_for_app(app, true, 1, 0).await.unwrap()[0].metadata, sent);
    assert_eq!(repo.metadata(app, id).await.unwrap(), Some(sent));
    assert_eq!(repo.metadata(new_app(), id).await.unwrap(), None);
    assert_eq!(repo.metadata(app, Uuid::now_v7().into()).await.unwrap(), None);
}

async fn metadata_of_many_letters_and_of_coalesced_ones_comes_back_equal(db: TestDb) {
    let app = new_app();
    let metadata = |n: usize| if n.is_multiple_of(2) { json!({ "n": n }) } else { json!({}) };
    let ids = db.repo().insert_many((0..5).map(|n| with(app, metadata(n))).collect()).await.unwrap();
    for (n, &id) in ids.iter().enumerate() {
        assert_eq!(metadata_of(&db, id).await, map(metadata(n)));
    }

    let coalescing = Arc::new(CoalescingDeadLetterRepo::new(db.repo(), &Handle::current()));
    let mut inserts = JoinSet::new();
    for n in 0..20 {
        let (repo, letter) = (Arc::clone(&coalescing), with(app, metadata(n)));
        inserts.spawn(async move { (n, repo.insert(letter).await.unwrap()) });
    }
    while let Some(inserted) = inserts.join_next().await {
        let (n, id) = inserted.unwrap();
        assert_eq!(metadata_of(&db, id).await, map(metadata(n)));
    }
}

async fn metadata_goes_through_an_export_and_an_import_byte_for_byte(db: TestDb) {
    let (app, other) = (new_app(), TestDb::sqlite().await);
    let id = db.repo().insert(with(app, sample())).await.unwrap();
    let all = DeadLetterFilter::default();
    let exported = db.repo().export(app, &all, &PageRequest::default()).await.unwrap().items;
    assert_eq!(exported[0].metadata.as_deref(), Some(sample().to_string().as_str()));
    let line = serde_json::to_string(&exported[0]).unwrap();
    let letter: StoredLetter = serde_json::from_str(&line).unwrap();
    for to in [&other, &db] {
        to.execute("DELETE FROM dead_letters").await;
        assert_eq!(to.repo().import(std::slice::from_ref(&letter)).await.unwrap(), import_of(1, 0));
        assert_eq!(metadata_of(to, id).await, map(sample()));
        let again = to.repo().export(app, &all, &PageRequest::default()).await.unwrap().items;
        assert_eq!(again, exported);
    }
}

async fn a_letter_without_metadata_has_null_in_the_column(db: TestDb) {
    let app = new_app();
    let id = db.repo().insert(letter(app)).await.unwrap();
    db.repo().insert_many(vec![letter(app); 2]).await.unwrap();
    let nulls = "SELECT count(*) FROM dead_letters WHERE metadata IS NULL";
    let nulls = Statement::from_string(db.db.get_database_backend(), nulls);
    let row = db.db.query_one_raw(nulls).await.unwrap().unwrap();
    assert_eq!(row.try_get_by_index::<i64>(0).unwrap(), 3);
    assert_eq!(db.repo().metadata(app, id).await.unwrap(), Some(Map::new()));
}

async fn a_nul_in_metadata_becomes_the_replacement_character(db: TestDb) {
    let sent = json!({ "a\0": "b\0c", "in": [{ "\0": "\0" }, 1], "plain": "\\u0000" });
    let read =
        json!({ "a\u{FFFD}": "b\u{FFFD}c", "in": [{ "\u{FFFD}": "\u{FFFD}" }, 1], "plain": "\\u0000" });
    let id = db.repo().insert(with(new_app(), sent)).await.unwrap();
    assert_eq!(metadata_of(&db, id).await, map(read));
}

/// Returns metadata whose JSON text has so many bytes.
fn of_bytes(bytes: usize) -> Value {
    json!({ "k": "x".repeat(bytes - r#"{"k":""}"#.len()) })
}

async fn metadata_of_16_kb_is_stored_and_more_is_refused(db: TestDb) {
    let app = new_app();
    let id = db.repo().insert(with(app, of_bytes(16_384))).await.unwrap();
    assert_eq!(metadata_of(&db, id).await, map(of_bytes(16_384)));
    let alone = db.repo().insert(with(app, of_bytes(16_385))).await.unwrap_err();
    let second = db.repo().insert_many(vec![letter(app), with(app, of_bytes(20_000))]).await.unwrap_err();
    assert_eq!(
        alone.to_string(),
        "the metadata of letter 0 must have at most 16,384 bytes (got 16,385): shorten or leave out values"
    );
    assert!(
        matches!(second, DeadLetterRepoError::MetadataTooLarge { index: 1, bytes: 20_000, max: 16_384 }),
        "{second}"
    );
    assert_eq!((alone.kind(), db.row_count().await), (ErrorKind::Invalid, 1));
}

async fn buried(db: &TestDb, metadata: Value) -> Value {
    let id = db.repo().bury_with(with(new_app(), metadata), async |_| Ok(1)).await.unwrap();
    Value::Object(metadata_of(db, id).await)
}

async fn a_burial_cuts_metadata_over_16_kb(db: TestDb) {
    let whole = of_bytes(16_384);
    assert_eq!(buried(&db, whole.clone()).await, whole);

    let long = json!({ "tenant": "acme", "stack": "ü".repeat(20_000), "list": vec![0; 9_000], "n": 7 });
    let cut = format!("{} [cut]", "ü".repeat(497));
    let expected = json!({ "tenant": "acme", "stack": cut, "list": "[cut]", "n": 7 });
    assert_eq!(buried(&db, long).await, expected);

    let key = |n: usize| format!("{n:04}");
    let many: Map<_, _> = (0..2_000).map(|n| (key(n), "\u{1}\u{1}".into())).collect();
    let Value::Object(mut kept) = buried(&db, Value::Object(many.clone())).await else { panic!("no object") };
    let left_out = kept.remove("[cut]").unwrap();
    assert_eq!(left_out, json!(2_000 - kept.len()));
    assert!(kept.len() > 700 && kept.iter().all(|(key, value)| many.get(key) == Some(value)));

    let long_key: Map<_, _> =
        [("k".repeat(20_000), json!(1)), ("tenant".to_owned(), json!("acme"))].into_iter().collect();
    assert_eq!(buried(&db, Value::Object(long_key)).await, json!({ "tenant": "acme", "[cut]": 1 }));
}

async fn metadata_of_100_000_levels_becomes_its_text_and_the_process_lives(db: TestDb) {
    let app = new_app();
    let of_levels = |levels| NewDeadLetter {
        metadata: Map::from_iter([("deep".to_owned(), nested(levels)), ("nul".to_owned(), json!("\0"))]),
        ..letter(app)
    };
    for (levels, is_text) in [(126, false), (127, true), (5_000, true)] {
        let id = db.repo().insert(of_levels(levels)).await.unwrap();
        let text = "[".repeat(levels) + &"]".repeat(levels);
        let metadata = metadata_of(&db, id).await;
        let expected = if is_text { json!(text) } else { nested(levels) };
        assert!(metadata["deep"] == expected && metadata["nul"] == "\u{FFFD}", "{levels}");
    }
    let error = db.repo().insert_many(vec![of_levels(100_000), letter(app)]).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::MetadataTooLarge { index: 0, .. }), "{error}");
    let mut deep = vec![of_levels(100_000), of_levels(100_000)];
    deep[0].payload = json!("too large for this cap");
    let error = db.repo().max_payload_bytes(2).insert_many(deep).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let id = db.repo().bury_with(of_levels(100_000), async |_| Ok(1)).await.unwrap();
    assert!(metadata_of(&db, id).await["deep"].as_str().unwrap().ends_with("[[[ [cut]"));
}
