//! Whatever an event says, it is stored, or refused by name: nothing in between.

use std::time::Duration;

use chrono::{DateTime, Datelike, Utc};
use dead_letters::{DeadLetterRepo, DeadLetterRepoError, NewDeadLetter};
use proptest::{
    prelude::{Strategy, any},
    strategy::ValueTree,
    test_runner::TestRunner,
};
use sea_orm::{ConnectionTrait, DbBackend, TransactionTrait};
use serde_json::{Value, json};

use super::{letter, new_app, time};
use crate::database::TestDb;

on_every_backend! {
    any_json_reads_back_equal_alone_and_in_a_page,
    wide_and_long_json_reads_back_equal,
    any_text_is_stored,
    any_time_is_stored_to_the_microsecond_or_refused_by_its_fields_name,
    a_payload_of_64_mb_and_an_error_of_10_mb_are_stored,
    over_its_cap_a_payload_is_refused,
    over_its_cap_an_error_loses_its_middle_with_a_mark,
    an_insert_that_fails_stores_nothing_and_one_that_succeeds_one_row,
}

/// The same ones in each run.
pub(super) fn samples<T>(count: usize, strategy: impl Strategy<Value = T>) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

/// Generates any Unicode text, including NUL.
pub(super) fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        proptest::prop_oneof![1 => proptest::strategy::Just('\0'), 9 => any::<char>()],
        0..40,
    )
    .prop_map(|chars| chars.into_iter().collect())
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = proptest::prop_oneof![
        proptest::strategy::Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Any bits: what is not finite becomes null.
        any::<u64>().prop_map(|bits| Value::from(f64::from_bits(bits))),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(20, 200, 8, |inner| {
        proptest::prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            proptest::collection::hash_map(text(), inner, 0..8)
                .prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

async fn any_json_reads_back_equal_alone_and_in_a_page(db: TestDb) {
    let app = new_app();
    let mut payloads = samples(500, json_value());
    // And at every depth that is read back.
    payloads.extend((1..=127).map(super::insert::nested));
    let letters = payloads.iter().map(|payload| NewDeadLetter { payload: payload.clone(), ..letter(app) });
    let ids = db.repo().insert_many(letters.collect()).await.unwrap();
    let page = db.repo().list_for_app(app, true, 1_000, 0).await.unwrap();
    for (id, payload) in ids.into_iter().zip(payloads) {
        assert_eq!(page.iter().find(|row| row.id == id).unwrap().payload, payload);
        assert_eq!(db.repo().get(id).await.unwrap().unwrap().payload, payload);
    }
    assert_eq!(db.row_count().await, 627);
}

async fn wide_and_long_json_reads_back_equal(db: TestDb) {
    let wide: Value = (0..100_000).map(|n| (format!("field {n}"), json!(n))).collect();
    let long = json!({ "text": "\u{1F980}\0\"".repeat(200_000), "items": vec![0.1; 100_000] });
    for payload in [wide, long] {
        let id =
            db.repo().insert(NewDeadLetter { payload: payload.clone(), ..letter(new_app()) }).await.unwrap();
        assert!(db.repo().get(id).await.unwrap().unwrap().payload == payload);
    }
}

async fn any_text_is_stored(db: TestDb) {
    let app = new_app();
    for (source, op, last_error) in samples(300, (text(), text(), text())) {
        let sent = NewDeadLetter { source, op, last_error, ..letter(app) };
        let id = db.repo().insert(sent.clone()).await.unwrap();
        let row = db.repo().get(id).await.unwrap().unwrap();
        let stored = [sent.source, sent.op, sent.last_error].map(|text| text.replace('\0', "\u{FFFD}"));
        assert_eq!([row.source, row.op, row.last_error], stored);
    }
    assert_eq!(db.repo().list_for_app(app, true, 1_000, 0).await.unwrap().len(), 300);
}

async fn any_time_is_stored_to_the_microsecond_or_refused_by_its_fields_name(db: TestDb) {
    let (min, max) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
    let anywhere = (min.timestamp()..max.timestamp(), 0..1_999_999_999_u32);
    let anywhere = anywhere.prop_filter_map("no leap second", |(s, ns)| DateTime::from_timestamp(s, ns));
    let mut times = samples(200, anywhere);
    times.extend([min, max, DateTime::UNIX_EPOCH]);
    // The first and the last, what lies next to them, and a leap second that moves into the year 10000.
    times.extend(
        [
            "0001-01-01T00:00:00Z",
            "0000-12-31T23:59:59.999999999Z",
            "9999-12-31T23:59:59.999999999Z",
            "+10000-01-01T00:00:00Z",
            "9999-12-31T23:59:60Z",
            "2016-12-31T23:59:60.5Z",
        ]
        .map(time),
    );
    let (mut stored, mut refused) = (0, 0);
    for sent in times {
        let at = DateTime::from_timestamp_micros(sent.timestamp_micros()).unwrap_or(sent);
        let held = (1..=9999).contains(&at.year());
        for (field, first_attempt_at, last_attempt_at) in [
            ("first_attempt_at", sent, DateTime::UNIX_EPOCH),
            ("last_attempt_at", DateTime::UNIX_EPOCH, sent),
        ] {
            let letter = NewDeadLetter { first_attempt_at, last_attempt_at, ..letter(new_app()) };
            match db.repo().insert(letter).await {
                Ok(id) => {
                    let row = db.repo().get(id).await.unwrap().unwrap();
                    let back =
                        if field == "first_attempt_at" { row.first_attempt_at } else { row.last_attempt_at };
                    assert_eq!(back, at);
                    assert!(held, "{sent}");
                    stored += 1;
                }
                Err(DeadLetterRepoError::TimeOutOfRange { index: 0, field: named }) => {
                    assert_eq!(named, field);
                    assert!(!held, "{sent}");
                    refused += 1;
                }
                Err(error) => panic!("{sent}: {error}"),
            }
        }
    }
    assert!(stored > 6 && refused > 6, "{stored} stored, {refused} refused");
    assert_eq!(db.row_count().await, stored);
}

async fn a_payload_of_64_mb_and_an_error_of_10_mb_are_stored(db: TestDb) {
    let sent = NewDeadLetter {
        payload: json!({ "text": "0123456789abcdef".repeat(4 << 20) }),
        last_error: "timeout after 30s\n".repeat(600_000),
        ..letter(new_app())
    };
    let id = db.repo().insert(sent.clone()).await.unwrap();
    let row = db.repo().get(id).await.unwrap().unwrap();
    assert!(row.payload == sent.payload && row.last_error == sent.last_error);
}

async fn over_its_cap_a_payload_is_refused(db: TestDb) {
    let repo = db.repo().max_payload_bytes(10);
    let with = |text: &str| NewDeadLetter { payload: json!(text), ..letter(new_app()) };
    repo.insert(with("8 bytes!")).await.unwrap();
    let error = repo.insert(with("9 bytes!!")).await.unwrap_err();
    assert!(
        matches!(error, DeadLetterRepoError::PayloadTooLarge { index: 0, bytes: 11, max: 10 }),
        "{error}"
    );
    // Bytes, not characters; and of many letters, the one.
    let error = repo.insert_many(vec![with("8 bytes!"), with("8 bytés!")]).await.unwrap_err();
    assert!(
        matches!(error, DeadLetterRepoError::PayloadTooLarge { index: 1, bytes: 11, max: 10 }),
        "{error}"
    );
    assert_eq!(db.row_count().await, 1);
}

async fn over_its_cap_an_error_loses_its_middle_with_a_mark(db: TestDb) {
    let repo = db.repo().max_error_bytes(16);
    for (sent, stored) in [
        ("sixteen bytes ok", "sixteen bytes ok"),
        ("seventeen bytes !", "seven [cut] es !"),
        // The fifth byte, and the fourth from the end, is the second one of its character.
        ("1234éééé56789ééé1", "1234 [cut] é1"),
        ("", ""),
    ] {
        let id =
            repo.insert(NewDeadLetter { last_error: sent.to_owned(), ..letter(new_app()) }).await.unwrap();
        let row = repo.get(id).await.unwrap().unwrap();
        assert_eq!(row.last_error, stored);
        assert!(row.last_error.len() <= 16);
    }
}

async fn an_insert_that_fails_stores_nothing_and_one_that_succeeds_one_row(db: TestDb) {
    let sqlite = db.db.get_database_backend() == DbBackend::Sqlite;
    let app = new_app();
    let impatient = db
        .connect_with(|options| {
            options
                .statement_timeout(Duration::from_millis(500))
                .map_sqlx_sqlite_opts(|sqlite| sqlite.busy_timeout(Duration::from_millis(500)));
        })
        .await;
    let repo = db.repo_over(impatient);
    for _ in 0..3 {
        // Somebody holds the table for longer than the statement may take.
        let holder = db.db.begin().await.unwrap();
        let lock = if sqlite { "DELETE FROM dead_letters WHERE 1 = 0" } else { "LOCK TABLE dead_letters" };
        holder.execute_unprepared(lock).await.unwrap();
        let error = repo.insert(letter(app)).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        let error = repo.insert_many(vec![letter(app); 300]).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        holder.rollback().await.unwrap();
    }
    assert_eq!(db.row_count().await, 0);
    let id = repo.insert(letter(app)).await.unwrap();
    let rows = db.repo().list_for_app(app, true, 10, 0).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [id]);
}
