use dead_letters::{
    DeadLetterId, DeadLetterRepo, DeadLetterRepoError, NewDeadLetter, SeaOrmDeadLetterRepo,
    entity::dead_letters as table,
};
use sea_orm::{ConnectionTrait, DbBackend, EntityTrait, Statement, TransactionTrait};
use uuid::Uuid;

use super::{
    insert::{drop_silently, nested},
    letter, new_app, time,
};
use crate::database::TestDb;

on_every_backend_and_key! {
    ids_come_in_the_letters_order,
    an_empty_call_sends_no_statement,
    letters_go_in_statements_that_are_bounded,
    a_failure_in_the_last_statement_stores_none,
    a_row_that_the_database_drops_silently_takes_all_with_it,
    in_the_callers_transaction_there_is_no_savepoint,
    in_the_callers_transaction_letters_go_in_one_statement_and_are_stored_the_same,
    letters_of_100_000_levels_side_by_side_leave_the_process_alive,
    a_rollback_of_the_callers_transaction_undoes_the_inserts,
}

fn letters(count: usize) -> Vec<NewDeadLetter> {
    let app = new_app();
    (0..count).map(|n| NewDeadLetter { attempt_count: n as u32, ..letter(app) }).collect()
}

async fn ids_come_in_the_letters_order(db: TestDb) {
    for count in [1, 2, 3, 100, 127, 128, 129, 300, 1_000] {
        let sent = letters(count);
        let returned = db.repo().insert_many(sent.clone()).await.unwrap();
        assert_eq!(returned.len(), count);
        assert!(returned.is_sorted());
        let listed = db.repo().list_for_app(sent[0].app_id, true, i64::MAX, 0).await.unwrap();
        assert_eq!(listed.len(), count);
        for (id, letter) in returned.into_iter().zip(sent) {
            let row = listed.iter().find(|row| row.id == id).unwrap();
            assert_eq!(
                (row.attempt_count, row.original_event_id),
                (letter.attempt_count, letter.original_event_id)
            );
        }
    }
}

async fn an_empty_call_sends_no_statement(db: TestDb) {
    db.db.clone().close().await.unwrap();
    assert_eq!(db.repo().insert_many(Vec::new()).await.unwrap(), []);
}

/// As arrays by bytes, as VALUES by rows as well.
async fn letters_go_in_statements_that_are_bounded(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let as_values = db.sharded || db.db.get_database_backend() == DbBackend::Sqlite;
    repo.insert_many(letters(423)).await.unwrap();
    assert_eq!(recorded.take().len(), if as_values { 4 } else { 1 });
    // Two letters of 7 MB fit into one statement. One letter is larger than a statement should be.
    let mut large = letters(6);
    for letter in &mut large {
        letter.last_error = "x".repeat(7 << 20);
    }
    large[3].last_error = "x".repeat(20 << 20);
    repo.insert_many(large).await.unwrap();
    assert_eq!(recorded.take().len(), 4);
    assert_eq!(db.row_count().await, 429);
}

/// Makes the database refuse letters of the source `poison`.
async fn refuse_poison(db: &TestDb) {
    let sql = if db.db.get_database_backend() == DbBackend::Sqlite {
        "CREATE TRIGGER refuse BEFORE INSERT ON dead_letters WHEN NEW.source = 'poison' \
         BEGIN SELECT RAISE(ABORT, 'refused'); END"
    } else {
        "ALTER TABLE dead_letters ADD CONSTRAINT refuse CHECK (source <> 'poison')"
    };
    db.execute(sql).await;
}

fn poisoned_at_the_end(count: usize) -> Vec<NewDeadLetter> {
    let mut letters = letters(count);
    letters[count - 1].source = "poison".to_owned();
    letters
}

async fn a_failure_in_the_last_statement_stores_none(db: TestDb) {
    refuse_poison(&db).await;
    for count in [1, 2, 129, 500] {
        let error = db.repo().insert_many(poisoned_at_the_end(count)).await.unwrap_err();
        assert!(matches!(error, DeadLetterRepoError::Db(_)), "{error}");
        assert_eq!(db.row_count().await, 0);
    }
}

async fn a_row_that_the_database_drops_silently_takes_all_with_it(db: TestDb) {
    drop_silently(&db, "poison").await;
    for count in [1, 2, 3, 128, 129] {
        let error = db.repo().insert_many(poisoned_at_the_end(count)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the database did not store the row: a trigger, a rule or a policy prevents it"
        );
        assert_eq!(db.row_count().await, 0);
    }
}

/// Which, dropped under way, would end the whole transaction.
async fn in_the_callers_transaction_there_is_no_savepoint(db: TestDb) {
    let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
    let repo = db.repo().in_transaction(&txn);
    // Were there one, there would be one of its name.
    repo.insert_many(letters(200)).await.unwrap();
    let release = txn.execute_unprepared("RELEASE SAVEPOINT _sqlx_savepoint_1").await.unwrap_err();
    assert!(release.to_string().contains("_sqlx_savepoint_1"), "{release}");
}

async fn in_the_callers_transaction_letters_go_in_one_statement_and_are_stored_the_same(db: TestDb) {
    let app = new_app();
    let letter = |index: usize| {
        let whole = NewDeadLetter {
            source: "'\"\\ 漢字 \u{1F600} \u{1}\r\n".to_owned(),
            payload: serde_json::json!({"a": [1.5, null, "\u{0}\u{7f}"]}),
            last_error: index.to_string(),
            attempt_count: u32::MAX,
            first_attempt_at: time("0001-01-01T00:00:00Z"),
            last_attempt_at: time("2026-03-01T10:00:00.120Z"),
            ..letter(app)
        };
        match index % 3 {
            0 => whole,
            1 => NewDeadLetter { last_attempt_at: time("2026-03-01T10:00:00.000001Z"), ..whole },
            _ => NewDeadLetter {
                script_id: None,
                trigger_id: None,
                last_attempt_at: time("9999-12-31T23:59:59Z"),
                ..whole
            },
        }
    };
    // More than SQLite takes as VALUES, and fewer.
    for count in [1_928, 1_927, 3] {
        let sent: Vec<_> = (0..count).map(letter).collect();
        let over_the_pool = db.repo().insert_many(sent[..3].to_vec()).await.unwrap();
        let (recording, recorded) = db.connect_recorded().await;
        let txn = SeaOrmDeadLetterRepo::begin(&recording).await.unwrap();
        let ids = db.repo().in_transaction(&txn).insert_many(sent.clone()).await.unwrap();
        assert_eq!(recorded.take().len(), 1);
        SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
        let rows = table::Entity::find().all(&db.db).await.unwrap();
        let row = |id: &DeadLetterId| rows.iter().find(|row| row.id == id.into_inner()).unwrap().clone();
        assert_eq!(rows.len(), count + 3);
        for (index, id) in ids.iter().enumerate() {
            assert_eq!(row(id).last_error, sent[index].last_error);
        }
        for (id, other) in ids.iter().zip(&over_the_pool) {
            let (row, other) = (row(id), row(other));
            assert_eq!(row, table::Model { id: row.id, created_at: row.created_at, ..other });
        }
        // SQLite compares times as texts.
        let printed = "SELECT count(DISTINCT last_attempt_at) FROM dead_letters";
        let printed = Statement::from_string(db.db.get_database_backend(), printed);
        let printed = db.db.query_one_raw(printed).await.unwrap().unwrap();
        assert_eq!(printed.try_get_by_index::<i64>(0).unwrap(), 3);
        db.execute("DELETE FROM dead_letters").await;
    }
}

/// Whether all are stored, or none because of one.
async fn letters_of_100_000_levels_side_by_side_leave_the_process_alive(db: TestDb) {
    let deep = || {
        let mut letters = letters(4);
        for index in [1, 2, 3] {
            letters[index].payload = nested(100_000);
        }
        letters
    };
    let ids = db.repo().insert_many(deep()).await.unwrap();
    let text = "[".repeat(100_000) + &"]".repeat(100_000);
    assert!(db.repo().get(ids[3]).await.unwrap().unwrap().payload == text);
    let error = db.repo().max_payload_bytes(1_000).insert_many(deep()).await.unwrap_err();
    assert!(
        matches!(error, DeadLetterRepoError::PayloadTooLarge { index: 1, bytes: 200_000, max: 1_000 }),
        "{error}"
    );
    assert_eq!(db.row_count().await, 4);
}

async fn a_rollback_of_the_callers_transaction_undoes_the_inserts(db: TestDb) {
    let txn = db.db.begin().await.unwrap();
    let ids = db.repo().in_transaction(&txn).insert_many(letters(200)).await.unwrap();
    txn.rollback().await.unwrap();
    assert_eq!(db.row_count().await, 0);
    assert_eq!(db.repo().get(*ids.first().unwrap()).await.unwrap(), None);
    assert_ne!(ids[0].into_inner(), Uuid::nil());
}

/// Several statements could be left half done there, and committed.
#[tokio::test]
async fn in_the_callers_transaction_more_than_256_mb_are_refused_and_over_the_pool_they_are_not_on_sqlite() {
    let db = TestDb::sqlite().await;
    let large: Vec<_> =
        letters(17).into_iter().map(|letter| NewDeadLetter { op: "x".repeat(16 << 20), ..letter }).collect();
    let (recording, recorded) = db.connect_recorded().await;
    let txn = SeaOrmDeadLetterRepo::begin(&recording).await.unwrap();
    let error = db.repo().in_transaction(&txn).insert_many(large.clone()).await.unwrap_err();
    let DeadLetterRepoError::TooLargeForTransaction { argument: "letters", unit: "bytes", size, max } = error
    else {
        panic!("{error}");
    };
    assert!(size > 17 << 24 && max == 256 << 20, "{error}");
    assert_eq!(recorded.take().len(), 0);
    SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
    db.repo().insert_many(large).await.unwrap();
    assert_eq!(db.row_count().await, 17);
}

#[tokio::test]
async fn in_the_callers_transaction_more_letters_than_a_sharded_statement_binds_are_refused_on_postgres() {
    let db = TestDb::postgres_sharded().await;
    let (recording, recorded) = db.connect_recorded().await;
    let txn = SeaOrmDeadLetterRepo::begin(&recording).await.unwrap();
    let error = db.repo().in_transaction(&txn).insert_many(letters(3_856)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "`letters` must have at most 3,855 letters in a caller's transaction (got 3,856): pass fewer letters per \
         call, or call over the pool"
    );
    assert_eq!(recorded.take().len(), 0);
    db.repo().in_transaction(&txn).insert_many(letters(3_855)).await.unwrap();
    assert_eq!(recorded.take().len(), 1);
}

/// A statement that looks at what it inserted can't be rewritten by such a rule. A single letter can.
#[tokio::test]
async fn a_table_with_a_do_also_rule_refuses_many_letters_and_takes_one_on_postgres() {
    let db = TestDb::postgres().await;
    db.execute(
        "CREATE TABLE seen (id uuid);
         CREATE RULE also AS ON INSERT TO dead_letters DO ALSO INSERT INTO seen VALUES (NEW.id)",
    )
    .await;
    let error = db.repo().insert_many(letters(2)).await.unwrap_err();
    assert!(error.to_string().contains("0A000"), "{error}");
    db.repo().insert(letter(new_app())).await.unwrap();
    assert_eq!(db.row_count().await, 1);
}
