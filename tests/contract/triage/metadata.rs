//! The filter by metadata.

use dead_letters::{
    DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo, NewDeadLetter, PageRequest,
};
use serde_json::{Map, Value, json};

use super::{any, letter, new_app, refused_in_every_call, row_of};
use crate::database::TestDb;

on_every_backend! {
    a_text_is_found_by_any_key_and_any_value,
    a_value_that_is_no_text_is_not_found,
    the_last_value_of_a_key_that_is_stored_twice_counts,
    metadata_of_another_writer_is_compared_and_raises_no_error,
    every_key_of_the_filter_must_match,
    a_filter_of_more_or_longer_keys_and_values_is_refused_in_every_call_and_nothing_is_sent,
}

async fn found(db: &TestDb, id: DeadLetterId, filter: &DeadLetterFilter) -> bool {
    let app = db.repo().get(id).await.unwrap().unwrap().app_id;
    let page = db.repo().list(app, filter, &PageRequest::default()).await.unwrap();
    let bounded = db.repo().list(app, filter, &PageRequest::default().scan_limit(100)).await.unwrap();
    assert_eq!(page.items, bounded.items);
    page.items.iter().any(|letter| letter.id == id)
}

async fn stored(db: &TestDb, metadata: Map<String, Value>) -> DeadLetterId {
    row_of(db, NewDeadLetter { metadata, ..letter(new_app()) }).await
}

/// Stores the text as another writer would.
async fn stored_as_text(db: &TestDb, text: &str) -> DeadLetterId {
    let id = stored(db, Map::new()).await;
    let literal = if db.db.get_database_backend() == sea_orm::DbBackend::Sqlite {
        format!("WHERE id = x'{}'", id.into_inner().simple())
    } else {
        format!("WHERE id = '{id}'")
    };
    let text = text.replace('\'', "''");
    db.execute(&format!("UPDATE dead_letters SET metadata = '{text}' {literal}")).await;
    id
}

async fn a_text_is_found_by_any_key_and_any_value(db: TestDb) {
    let texts = [
        "tenant",
        "a.b",
        "$.tenant",
        "a[0]",
        "\"quoted\"",
        "it's",
        "back\\slash",
        "a\\\"b",
        "größer 東京 😀",
        " ",
        "\u{1}\n\t",
        "\\u0041",
        "%_*?",
        "$1",
        "null",
        "0",
        "-1",
        "a\0b",
        "{}",
        "' OR '1'='1",
    ];
    for key in texts {
        let value = texts[(key.len() + 3) % texts.len()];
        let id = stored(&db, Map::from_iter([(key.to_owned(), json!(value))])).await;
        assert!(found(&db, id, &any().metadata(key, value)).await, "{key:?} {value:?}");
        for other in texts {
            let by_value = found(&db, id, &any().metadata(key, other)).await;
            assert_eq!(by_value, other == value, "{key:?} {value:?} {other:?}");
            assert_eq!(
                found(&db, id, &any().metadata(other, value)).await,
                other == key,
                "{key:?} {other:?}"
            );
        }
    }
    let empty = stored(&db, Map::from_iter([("tenant".to_owned(), json!(""))])).await;
    assert!(found(&db, empty, &any().metadata("tenant", "")).await);
    assert!(!found(&db, empty, &any().metadata("other", "")).await);
}

async fn a_value_that_is_no_text_is_not_found(db: TestDb) {
    let values = [json!(5), json!(true), json!(null), json!(["a"]), json!({ "a": "b" }), json!(1.5)];
    for value in values {
        let id = stored(&db, Map::from_iter([("k".to_owned(), value.clone())])).await;
        for text in [value.to_string().as_str(), "", "a", "1", "null"] {
            assert!(!found(&db, id, &any().metadata("k", text)).await, "{value} {text}");
        }
        let as_text = stored(&db, Map::from_iter([("k".to_owned(), json!(value.to_string()))])).await;
        assert!(found(&db, as_text, &any().metadata("k", value.to_string())).await, "{value}");
    }
    let without = stored(&db, Map::new()).await;
    assert!(!found(&db, without, &any().metadata("k", "")).await);
}

async fn the_last_value_of_a_key_that_is_stored_twice_counts(db: TestDb) {
    let twice = stored_as_text(&db, r#"{"k": "first", "other": {"k": "inner"}, "k": "last"}"#).await;
    for (value, expected) in [("first", false), ("inner", false), ("last", true)] {
        assert_eq!(found(&db, twice, &any().metadata("k", value)).await, expected, "{value}");
    }
    assert_eq!(db.repo().get(twice).await.unwrap().unwrap().metadata["k"], "last");
    let number = stored_as_text(&db, r#"{"k": "first", "k": 1}"#).await;
    assert!(!found(&db, number, &any().metadata("k", "first")).await);
}

async fn metadata_of_another_writer_is_compared_and_raises_no_error(db: TestDb) {
    let escaped = stored_as_text(&db, " {\"t\\u0065n\\u0061nt\" : \"\\u0061\\/c\\n\\ud83d\\ude00\"} ").await;
    assert!(found(&db, escaped, &any().metadata("tenant", "a/c\n😀")).await);
    // No f64 holds these numbers, and jsonb holds no number that is much larger.
    for number in ["1e400", "123456789012345678901234567890", "-0.0", "1e-400"] {
        let id = stored_as_text(&db, &format!(r#"{{"n": {number}, "k": "v"}}"#)).await;
        assert!(found(&db, id, &any().metadata("k", "v")).await, "{number}");
        assert!(!found(&db, id, &any().metadata("n", number)).await, "{number}");
        assert!(db.repo().get(id).await.unwrap().is_some());
    }
    let deep =
        stored_as_text(&db, &format!(r#"{{"d": {}1{}, "k": "v"}}"#, "[".repeat(900), "]".repeat(900))).await;
    assert!(found(&db, deep, &any().metadata("k", "v")).await);
    assert_eq!(db.repo().get(deep).await.unwrap().unwrap().metadata, Map::new());
}

async fn every_key_of_the_filter_must_match(db: TestDb) {
    let metadata = json!({ "tenant": "acme", "host": "a1" });
    let id = stored(&db, metadata.as_object().unwrap().clone()).await;
    let both = any().metadata("tenant", "acme").metadata("host", "a1");
    assert!(found(&db, id, &both).await);
    assert!(!found(&db, id, &both.metadata("release", "1")).await);
    let other_host = any().metadata("tenant", "acme").metadata("host", "a2");
    assert!(!found(&db, id, &other_host).await);
}

async fn a_filter_of_more_or_longer_keys_and_values_is_refused_in_every_call_and_nothing_is_sent(db: TestDb) {
    let of_keys = |count: usize| (0..count).fold(any(), |filter, n| filter.metadata(format!("k{n}"), "v"));
    let refused = [
        (of_keys(11), "`filter.metadata` must have at most 10 items (got 11)"),
        (any().metadata("", "v"), "each key in `filter.metadata` must have 1 to 200 bytes (got 0)"),
        (
            any().metadata("k".repeat(201), "v"),
            "each key in `filter.metadata` must have 1 to 200 bytes (got 201)",
        ),
        (
            any().metadata("k", "v".repeat(1_001)),
            "each value in `filter.metadata` must have 0 to 1,000 bytes (got 1,001)",
        ),
    ];
    for (filter, message) in refused {
        refused_in_every_call(&db, &filter, message).await;
    }
    let largest = of_keys(9).metadata("k".repeat(200), "v".repeat(1_000));
    db.repo().list(new_app(), &largest, &PageRequest::default()).await.unwrap();
}
