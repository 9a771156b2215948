//! Out of the outbox and into the store.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dead_letters::{DeadLetterRepo, DeadLetterRepoError, NewDeadLetter, Take};
use sea_orm::{ConnAcquireErr, ConnectionTrait, DatabaseTransaction, DbErr};
use uuid::Uuid;

use super::{letter, new_app, time};
use crate::database::TestDb;

on_every_backend! {
    the_event_leaves_the_outbox_and_its_letter_is_stored,
    only_one_of_8_dispatchers_that_bury_one_event_succeeds,
    a_delete_that_takes_another_number_of_rows_than_one_stores_nothing,
    an_error_of_the_delete_leaves_everything_as_it_was,
    an_error_of_the_services_own_is_the_source_of_the_calls_error,
    an_error_of_the_services_own_that_wraps_a_transient_one_is_tried_again,
    a_burier_takes_the_event_by_its_id,
    a_letter_that_the_database_refuses_leaves_its_event_in_the_outbox,
    a_transient_error_is_tried_again,
    an_error_that_stays_transient_is_given_up,
    a_delete_whose_transaction_ended_stores_nothing,
    an_error_text_over_the_cap_is_cut,
    a_time_that_no_database_stores_becomes_the_nearest_one,
    a_burial_works_in_a_spawned_task,
}

/// An outbox of so many rows.
async fn outbox(db: &TestDb, rows: u32) {
    db.execute("CREATE TABLE outbox (id integer PRIMARY KEY)").await;
    for id in 1..=rows {
        db.execute(&format!("INSERT INTO outbox VALUES ({id})")).await;
    }
}

async fn take(txn: &DatabaseTransaction) -> Result<u64, Box<dyn Error + Send + Sync>> {
    Ok(txn.execute_unprepared("DELETE FROM outbox").await?.rows_affected())
}

/// How many rows are in the outbox, and in the store.
async fn places(db: &TestDb) -> (i64, u64) {
    let count = sea_orm::Statement::from_string(db.db.get_database_backend(), "SELECT count(*) FROM outbox");
    let row = db.db.query_one_raw(count).await.unwrap().unwrap();
    (row.try_get_by_index(0).unwrap(), db.row_count().await)
}

async fn the_event_leaves_the_outbox_and_its_letter_is_stored(db: TestDb) {
    outbox(&db, 1).await;
    let sent = letter(new_app());
    let id = db.repo().bury_with(sent.clone(), take).await.unwrap();
    let row = db.repo().get(id).await.unwrap().unwrap();
    assert_eq!((row.original_event_id, row.payload), (sent.original_event_id, sent.payload));
    assert_eq!(places(&db).await, (0, 1));
}

async fn only_one_of_8_dispatchers_that_bury_one_event_succeeds(db: TestDb) {
    outbox(&db, 0).await;
    for round in 1..=5 {
        db.execute("INSERT INTO outbox VALUES (1)").await;
        let burials = (0..8).map(|_| {
            let (repo, letter) = (db.repo(), letter(new_app()));
            tokio::spawn(async move { repo.bury_with(letter, take).await })
        });
        let mut buried = 0;
        for burial in burials.collect::<Vec<_>>() {
            match burial.await.unwrap() {
                Ok(_) => buried += 1,
                Err(DeadLetterRepoError::EventNotTaken { taken: 0 }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(buried, 1);
        assert_eq!(places(&db).await, (0, round));
    }
}

async fn a_delete_that_takes_another_number_of_rows_than_one_stores_nothing(db: TestDb) {
    outbox(&db, 2).await;
    let error = db.repo().bury_with(letter(new_app()), take).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::EventNotTaken { taken: 2 }), "{error}");
    let error = db.repo().bury_with(letter(new_app()), async |_| Ok(0)).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::EventNotTaken { taken: 0 }), "{error}");
    assert_eq!(places(&db).await, (2, 0));
}

async fn an_error_of_the_delete_leaves_everything_as_it_was(db: TestDb) {
    outbox(&db, 1).await;
    let refused = async |txn: &DatabaseTransaction| {
        take(txn).await?;
        Err(DbErr::Custom("refused".to_owned()).into())
    };
    db.repo().bury_with(letter(new_app()), refused).await.unwrap_err();
    assert_eq!(places(&db).await, (1, 0));
    db.repo().bury_with(letter(new_app()), take).await.unwrap();
    assert_eq!(places(&db).await, (0, 1));
}

async fn an_error_of_the_services_own_is_the_source_of_the_calls_error(db: TestDb) {
    outbox(&db, 1).await;
    let refused = async |txn: &DatabaseTransaction| {
        take(txn).await?;
        Err("the outbox is closed".into())
    };
    let error = db.repo().bury_with(letter(new_app()), refused).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::Take(_)) && !error.is_transient(), "{error:?}");
    assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("the outbox is closed"));
    assert_eq!(places(&db).await, (1, 0));
}

async fn an_error_of_the_services_own_that_wraps_a_transient_one_is_tried_again(db: TestDb) {
    #[derive(Debug, thiserror::Error)]
    #[error("the outbox is busy")]
    struct Busy(#[source] DbErr);

    outbox(&db, 1).await;
    let tries = Arc::new(AtomicU32::new(0));
    let counted = tries.clone();
    let busy_once = async move |txn: &DatabaseTransaction| match counted.fetch_add(1, Ordering::Relaxed) {
        0 => Err(Busy(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)).into()),
        _ => take(txn).await,
    };
    db.repo().bury_with(letter(new_app()), busy_once).await.unwrap();
    assert_eq!((tries.load(Ordering::Relaxed), places(&db).await), (2, (0, 1)));
}

/// An outbox in which the ids of the events are texts.
struct Outbox;

#[async_trait]
impl Take for Outbox {
    async fn take(
        &self,
        txn: &DatabaseTransaction,
        event_id: Uuid,
    ) -> Result<u64, Box<dyn Error + Send + Sync>> {
        let delete = format!("DELETE FROM outbox WHERE id = '{event_id}'");
        Ok(txn.execute_unprepared(&delete).await?.rows_affected())
    }
}

async fn a_burier_takes_the_event_by_its_id(db: TestDb) {
    db.execute("CREATE TABLE outbox (id text PRIMARY KEY)").await;
    let (letter, other) = (letter(new_app()), letter(new_app()));
    db.execute(&format!("INSERT INTO outbox VALUES ('{}')", letter.original_event_id)).await;
    let burier = db.repo().burier(Outbox);
    let error = burier.bury(other).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::EventNotTaken { taken: 0 }), "{error}");
    assert_eq!(places(&db).await, (1, 0));
    burier.bury(letter).await.unwrap();
    assert_eq!(places(&db).await, (0, 1));
}

async fn a_letter_that_the_database_refuses_leaves_its_event_in_the_outbox(db: TestDb) {
    outbox(&db, 1).await;
    super::insert::drop_silently(&db, "orders").await;
    let error = db.repo().bury_with(letter(new_app()), take).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the database did not store the row: a trigger, a rule or a policy prevents it"
    );
    assert_eq!(places(&db).await, (1, 0));
}

type Taken = Result<u64, Box<dyn Error + Send + Sync>>;

/// A delete that fails as a pool without connections does, so many times.
fn fails(times: u32) -> (Arc<AtomicU32>, impl AsyncFnOnce(&DatabaseTransaction) -> Taken + Clone) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let delete = async move |txn: &DatabaseTransaction| {
        let taken = take(txn).await?;
        if counted.fetch_add(1, Ordering::Relaxed) < times {
            return Err(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout).into());
        }
        Ok(taken)
    };
    (calls, delete)
}

async fn a_transient_error_is_tried_again(db: TestDb) {
    outbox(&db, 1).await;
    let (calls, delete) = fails(3);
    db.repo().bury_with(letter(new_app()), delete).await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 4);
    assert_eq!(places(&db).await, (0, 1));
}

async fn an_error_that_stays_transient_is_given_up(db: TestDb) {
    outbox(&db, 1).await;
    let (calls, delete) = fails(u32::MAX);
    let error = db.repo().bury_with(letter(new_app()), delete).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(calls.load(Ordering::Relaxed), 4);
    assert_eq!(places(&db).await, (1, 0));
}

/// If `bury` ignored the ended transaction, the letter would be stored while the event stays in the outbox.
async fn a_delete_whose_transaction_ended_stores_nothing(db: TestDb) {
    outbox(&db, 1).await;
    let ended = async |txn: &DatabaseTransaction| {
        let taken = take(txn).await?;
        txn.execute_unprepared("ROLLBACK").await?;
        Ok(taken)
    };
    let error = db.repo().bury_with(letter(new_app()), ended).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::TransactionLost), "{error}");
    assert_eq!(places(&db).await, (1, 0));
    db.repo().bury_with(letter(new_app()), take).await.unwrap();
    assert_eq!(places(&db).await, (0, 1));
}

async fn an_error_text_over_the_cap_is_cut(db: TestDb) {
    outbox(&db, 0).await;
    for (max, stored) in [(20, "xxxxxxx [cut] xxxxxx"), (7, " [cut] "), (2, " ["), (0, "")] {
        db.execute("INSERT INTO outbox VALUES (1)").await;
        let long = NewDeadLetter { last_error: "x".repeat(100), ..letter(new_app()) };
        let id = db.repo().max_error_bytes(max).bury_with(long, take).await.unwrap();
        assert_eq!(db.repo().get(id).await.unwrap().unwrap().last_error, stored);
    }
}

async fn a_time_that_no_database_stores_becomes_the_nearest_one(db: TestDb) {
    outbox(&db, 1).await;
    let extreme = NewDeadLetter {
        first_attempt_at: DateTime::<Utc>::MIN_UTC,
        last_attempt_at: DateTime::<Utc>::MAX_UTC,
        ..letter(new_app())
    };
    let id = db.repo().bury_with(extreme, take).await.unwrap();
    let row = db.repo().get(id).await.unwrap().unwrap();
    assert_eq!(row.first_attempt_at, time("0001-01-01T00:00:00Z"));
    assert_eq!(row.last_attempt_at, time("9999-12-31T23:59:59.999999Z"));
}

async fn a_burial_works_in_a_spawned_task(db: TestDb) {
    outbox(&db, 1).await;
    let (repo, letter) = (db.repo(), letter(new_app()));
    let event = "1".to_owned();
    let task = tokio::spawn(async move {
        repo.bury_with(letter, async |txn| {
            let delete = format!("DELETE FROM outbox WHERE id = {event}");
            Ok(txn.execute_unprepared(&delete).await?.rows_affected())
        })
        .await
    });
    task.await.unwrap().unwrap();
    assert_eq!(places(&db).await, (0, 1));
}
