use std::{future::Future, sync::Arc};

use chrono::{DateTime, Duration, Utc};
use dead_letters::{DeadLetterRepo, DeadLetterRow, NewDeadLetter};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{letter, new_app, time};
use crate::database::TestDb;

on_every_backend_and_key! {
    a_letter_reads_back_as_it_was_handed_over,
    a_letter_may_come_without_trigger_and_script,
    a_new_row_is_unresolved_and_created_now,
    an_unknown_id_is_none,
    ids_are_time_ordered,
    a_nul_in_a_text_becomes_the_replacement_character,
    a_payload_with_nuls_reads_back_equal,
    numbers_read_back_equal,
    any_kind_of_json_reads_back_equal,
    an_attempt_count_beyond_the_column_is_stored_as_its_largest,
    times_are_cut_to_microseconds,
    a_leap_second_becomes_the_next_minute,
    a_payload_of_127_levels_reads_back_equal,
    a_payload_of_128_levels_and_more_comes_back_as_its_text,
    a_payload_of_100_000_levels_is_stored_and_the_process_lives,
    large_texts_are_stored,
    a_row_that_the_database_drops_silently_is_an_error,
    a_shared_repo_works_in_a_spawned_task,
}

async fn round_trip(db: &TestDb, letter: NewDeadLetter) -> DeadLetterRow {
    let app_id = letter.app_id;
    let id = db.repo().insert(letter).await.unwrap();
    let row = db.repo().get(id).await.unwrap().unwrap();
    assert_eq!(row.id, id);
    assert_eq!(db.repo().list_for_app(app_id, false, 1, 0).await.unwrap(), std::slice::from_ref(&row));
    row
}

async fn a_letter_reads_back_as_it_was_handed_over(db: TestDb) {
    let sent = letter(new_app());
    let row = round_trip(&db, sent.clone()).await;
    let back = NewDeadLetter {
        app_id: row.app_id,
        original_event_id: row.original_event_id,
        source: row.source,
        op: row.op,
        trigger_id: row.trigger_id,
        script_id: row.script_id,
        payload: row.payload,
        payload_text: None,
        attempt_count: row.attempt_count,
        first_attempt_at: row.first_attempt_at,
        last_attempt_at: row.last_attempt_at,
        last_error: row.last_error,
        error_signature: None,
        metadata: row.metadata,
    };
    assert_eq!(back, sent);
}

async fn a_letter_may_come_without_trigger_and_script(db: TestDb) {
    let row = round_trip(&db, NewDeadLetter { trigger_id: None, script_id: None, ..letter(new_app()) }).await;
    assert_eq!((row.trigger_id, row.script_id), (None, None));
}

async fn a_new_row_is_unresolved_and_created_now(db: TestDb) {
    let before = Utc::now() - Duration::milliseconds(2);
    let row = round_trip(&db, letter(new_app())).await;
    assert!(before <= row.created_at && row.created_at <= Utc::now(), "{}", row.created_at);
    assert_eq!((row.resolved_at, row.resolution), (None, None));
}

async fn an_unknown_id_is_none(db: TestDb) {
    db.repo().insert(letter(new_app())).await.unwrap();
    assert_eq!(db.repo().get(Uuid::now_v7().into()).await.unwrap(), None);
}

async fn ids_are_time_ordered(db: TestDb) {
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(db.repo().insert(letter(new_app())).await.unwrap());
    }
    assert!(ids.is_sorted(), "{ids:?}");
    assert!(ids.iter().all(|id| id.into_inner().get_version_num() == 7));
}

async fn a_nul_in_a_text_becomes_the_replacement_character(db: TestDb) {
    let row = round_trip(
        &db,
        NewDeadLetter {
            source: "or\0ders".to_owned(),
            op: "\0".to_owned(),
            last_error: "a\0b\0\0".to_owned(),
            ..letter(new_app())
        },
    )
    .await;
    assert_eq!(
        (row.source.as_str(), row.op.as_str(), row.last_error.as_str()),
        ("or\u{FFFD}ders", "\u{FFFD}", "a\u{FFFD}b\u{FFFD}\u{FFFD}")
    );
}

async fn payload_reads_back_equal(db: &TestDb, payload: Value) {
    let row = round_trip(db, NewDeadLetter { payload: payload.clone(), ..letter(new_app()) }).await;
    assert!(row.payload == payload, "{payload:.80} came back as {:.80}", row.payload);
}

async fn a_payload_with_nuls_reads_back_equal(db: TestDb) {
    payload_reads_back_equal(&db, json!({ "a\0": ["\0", { "\0": "b\0c" }], "\\u0000": "\\u0000" })).await;
    payload_reads_back_equal(&db, json!("\0")).await;
}

async fn numbers_read_back_equal(db: TestDb) {
    let floats =
        [f64::MAX, f64::MIN, f64::MIN_POSITIVE, f64::from_bits(1), f64::EPSILON, 0.1, -0.0, 1e21, 1e-7];
    // A linear congruential generator (Knuth, MMIX): the same 2,000 numbers in each run.
    let random = std::iter::successors(Some(7_u64), |n| {
        Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    });
    let floats: Vec<f64> = floats
        .into_iter()
        .chain(random.map(f64::from_bits).filter(|float| float.is_finite()).take(2_000))
        .collect();
    let app = new_app();
    let id = db.repo().insert(NewDeadLetter { payload: json!(floats), ..letter(app) }).await.unwrap();
    let back: Vec<f64> = serde_json::from_value(db.repo().get(id).await.unwrap().unwrap().payload).unwrap();
    // By their bits: 0.0 equals -0.0.
    assert!(back.iter().map(|float| float.to_bits()).eq(floats.iter().map(|float| float.to_bits())));

    payload_reads_back_equal(&db, json!([u64::MAX, i64::MIN, i64::MAX, 0, -1])).await;
}

async fn any_kind_of_json_reads_back_equal(db: TestDb) {
    for payload in [
        json!(null),
        json!(true),
        json!(""),
        json!([]),
        json!({}),
        json!({ "": { "": [[], {}] } }),
        json!("'; DROP TABLE dead_letters; -- \u{1F980} \u{FFFD} \u{FEFF} \"\\ \u{7f} \r\n"),
        json!(std::iter::successors(Some(0), |n| Some(n + 1)).take(10_000).collect::<Vec<_>>()),
    ] {
        payload_reads_back_equal(&db, payload).await;
    }
}

async fn an_attempt_count_beyond_the_column_is_stored_as_its_largest(db: TestDb) {
    for (sent, stored) in
        [(0, 0), (i32::MAX as u32, i32::MAX as u32), (1 << 31, i32::MAX as u32), (u32::MAX, i32::MAX as u32)]
    {
        let row = round_trip(&db, NewDeadLetter { attempt_count: sent, ..letter(new_app()) }).await;
        assert_eq!(row.attempt_count, stored);
    }
}

async fn times_read_back_as(db: &TestDb, sent: &str, stored: &str) {
    let sent: DateTime<Utc> = time(sent);
    let row =
        round_trip(db, NewDeadLetter { first_attempt_at: sent, last_attempt_at: sent, ..letter(new_app()) })
            .await;
    assert_eq!((row.first_attempt_at, row.last_attempt_at), (time(stored), time(stored)));
}

async fn times_are_cut_to_microseconds(db: TestDb) {
    times_read_back_as(&db, "2026-03-01T10:00:00.123456789Z", "2026-03-01T10:00:00.123456Z").await;
    times_read_back_as(&db, "2026-03-01T10:00:00.999999999Z", "2026-03-01T10:00:00.999999Z").await;
    times_read_back_as(&db, "2026-03-01T10:00:00.000000001Z", "2026-03-01T10:00:00Z").await;
    times_read_back_as(&db, "1969-12-31T23:59:59.999999999Z", "1969-12-31T23:59:59.999999Z").await;
}

async fn a_leap_second_becomes_the_next_minute(db: TestDb) {
    times_read_back_as(&db, "2016-12-31T23:59:60.5Z", "2017-01-01T00:00:00.5Z").await;
}

/// `levels` arrays, one in the other.
pub(super) fn nested(levels: usize) -> Value {
    (1..levels).fold(json!([]), |inner, _| Value::Array(vec![inner]))
}

async fn a_payload_of_127_levels_reads_back_equal(db: TestDb) {
    payload_reads_back_equal(&db, nested(127)).await;
    let objects = (1..127).fold(json!({ "leaf": "text" }), |inner, _| json!({ "beside": 1, "in": inner }));
    payload_reads_back_equal(&db, objects).await;
}

async fn comes_back_as_its_text(db: &TestDb, payload: Value, text: &str) {
    let row = round_trip(db, NewDeadLetter { payload, ..letter(new_app()) }).await;
    assert!(row.payload == text, "{text:.80} came back as {:.80}", row.payload);
}

async fn a_payload_of_128_levels_and_more_comes_back_as_its_text(db: TestDb) {
    let text = "[".repeat(128) + &"]".repeat(128);
    comes_back_as_its_text(&db, nested(128), &text).await;
    let inner = "[".repeat(126) + &"]".repeat(126);
    let beside = json!([1, { "in": nested(126) }, "two\n"]);
    comes_back_as_its_text(&db, beside, &format!(r#"[1,{{"in":{inner}}},"two\n"]"#)).await;
}

async fn a_payload_of_100_000_levels_is_stored_and_the_process_lives(db: TestDb) {
    let text = "[".repeat(100_000) + &"]".repeat(100_000);
    comes_back_as_its_text(&db, nested(100_000), &text).await;
}

async fn large_texts_are_stored(db: TestDb) {
    let long = "0123456789abcdef".repeat(1 << 16);
    let sent = NewDeadLetter {
        source: long.clone(),
        op: long.clone(),
        payload: json!({ "text": long }),
        last_error: long.clone(),
        ..letter(new_app())
    };
    let row = round_trip(&db, sent.clone()).await;
    assert!(row.source == long && row.op == long && row.last_error == long && row.payload == sent.payload);
}

async fn a_row_that_the_database_drops_silently_is_an_error(db: TestDb) {
    drop_silently(&db, "orders").await;
    let error = db.repo().insert(letter(new_app())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the database did not store the row: a trigger, a rule or a policy prevents it"
    );
}

/// Creates a trigger that makes the database drop rows of this source without an error.
pub(super) async fn drop_silently(db: &TestDb, source: &str) {
    let sql = if db.db.get_database_backend() == sea_orm::DbBackend::Sqlite {
        format!(
            "CREATE TRIGGER pass_over BEFORE INSERT ON dead_letters WHEN NEW.source = '{source}' \
             BEGIN SELECT RAISE(IGNORE); END"
        )
    } else {
        format!(
            "CREATE FUNCTION pass_over() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER pass_over BEFORE INSERT ON dead_letters FOR EACH ROW WHEN (NEW.source = '{source}')
             EXECUTE FUNCTION pass_over()"
        )
    };
    db.execute(&sql).await;
}

async fn a_shared_repo_works_in_a_spawned_task(db: TestDb) {
    fn spawn<F: Future<Output: Send> + Send + 'static>(task: F) -> tokio::task::JoinHandle<F::Output> {
        tokio::spawn(task)
    }
    let repo: Arc<dyn DeadLetterRepo> = Arc::new(db.repo());
    let app = new_app();
    let shared = Arc::clone(&repo);
    let id = spawn(async move { shared.insert(letter(app)).await.unwrap() }).await.unwrap();
    assert_eq!(repo.unresolved_count(app).await.unwrap(), 1);
    assert_eq!(repo.get(id).await.unwrap().unwrap().app_id, app);
}
