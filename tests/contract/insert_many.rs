use dead_letters::{DeadLetterRepo, DeadLetterRepoError, NewDeadLetter, SeaOrmDeadLetterRepo};
use sea_orm::{ConnectionTrait, DbBackend, TransactionTrait};
use uuid::Uuid;

use super::{
    insert::{drop_silently, nested},
    letter, new_app,
};
use crate::database::TestDb;

on_every_backend! {
    ids_come_in_the_letters_order,
    no_letters_are_no_statement,
    letters_go_in_statements_that_are_bounded,
    a_failure_in_the_last_statement_stores_none,
    a_row_that_the_database_drops_silently_takes_all_with_it,
    in_the_callers_transaction_there_is_no_savepoint,
    a_letter_that_is_too_deep_is_named_and_none_is_stored,
    letters_of_100_000_levels_side_by_side_leave_the_process_alive,
    the_callers_rollback_takes_them_back,
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

async fn no_letters_are_no_statement(db: TestDb) {
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
    // Of 7 MB each, two of which fit, and one that is larger than a statement should be.
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
        assert_eq!(error.to_string(), "None of the records are inserted");
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

async fn a_letter_that_is_too_deep_is_named_and_none_is_stored(db: TestDb) {
    let mut letters = letters(3);
    letters[1].payload = nested(128);
    let error = db.repo().insert_many(letters).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::PayloadTooDeep { index: 1 }), "{error}");
    assert_eq!(db.row_count().await, 0);
}

async fn letters_of_100_000_levels_side_by_side_leave_the_process_alive(db: TestDb) {
    let mut letters = letters(4);
    for index in [1, 2, 3] {
        letters[index].payload = nested(100_000);
    }
    let error = db.repo().insert_many(letters).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::PayloadTooDeep { index: 1 }), "{error}");
}

async fn the_callers_rollback_takes_them_back(db: TestDb) {
    let txn = db.db.begin().await.unwrap();
    let ids = db.repo().in_transaction(&txn).insert_many(letters(200)).await.unwrap();
    txn.rollback().await.unwrap();
    assert_eq!(db.row_count().await, 0);
    assert_eq!(db.repo().get(*ids.first().unwrap()).await.unwrap(), None);
    assert_ne!(ids[0].into_inner(), Uuid::nil());
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
