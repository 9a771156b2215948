use chrono::Utc;
use dead_letters::{DeadLetterRepo, DeadLetterRepoError, NewDeadLetter, SeaOrmDeadLetterRepo};
use sea_orm::{DbBackend, TransactionTrait};
use uuid::Uuid;

use super::{
    insert::{drop_silently, nested},
    letter, new_app,
};
use crate::database::{TestDb, ids};

on_every_backend! {
    ids_come_in_the_letters_order,
    no_letters_are_no_statement,
    statements_come_in_few_sizes_of_at_most_128_rows,
    a_failure_in_the_last_statement_stores_none,
    a_row_that_the_database_drops_silently_takes_all_with_it,
    after_a_failure_the_callers_transaction_goes_on,
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

async fn statements_come_in_few_sizes_of_at_most_128_rows(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    SeaOrmDeadLetterRepo::new(recording).insert_many(letters(423)).await.unwrap();
    let rows_of = |statement: &sea_orm::Statement| statement.values.as_ref().unwrap().0.len() / 13;
    let sizes: Vec<_> = recorded.take().iter().map(rows_of).collect();
    assert_eq!(sizes, [128, 128, 128, 32, 4, 2, 1]);
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

async fn after_a_failure_the_callers_transaction_goes_on(db: TestDb) {
    refuse_poison(&db).await;
    for count in [1, 2, 129, 500] {
        let app = new_app();
        let txn = db.db.begin().await.unwrap();
        let repo = SeaOrmDeadLetterRepo::in_transaction(&txn);
        let before = repo.insert(letter(app)).await.unwrap();
        repo.insert_many(poisoned_at_the_end(count)).await.unwrap_err();
        let after = repo.insert(letter(app)).await.unwrap();
        txn.commit().await.unwrap();
        let mut stored = ids(&db.repo().list_for_app(app, true, 10, 0).await.unwrap());
        stored.sort();
        assert_eq!(stored, [before, after]);
        assert_eq!(db.repo().gc(Utc::now() + chrono::Duration::hours(1), 10).await.unwrap(), 2);
    }
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
    let ids = SeaOrmDeadLetterRepo::in_transaction(&txn).insert_many(letters(200)).await.unwrap();
    txn.rollback().await.unwrap();
    assert_eq!(db.row_count().await, 0);
    assert_eq!(db.repo().get(*ids.first().unwrap()).await.unwrap(), None);
    assert_ne!(ids[0].into_inner(), Uuid::nil());
}
