//! Over the caller's transaction.

use chrono::{DateTime, Utc};
use dead_letters::{
    DeadLetterFilter, DeadLetterRepo, DeadLetterRepoError, DeadLetterTriage, PageRequest, Resolution,
    SeaOrmDeadLetterRepo, Settlement,
};
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, TransactionTrait};

use super::{letter, new_app};
use crate::database::TestDb;

on_every_backend! {
    the_insert_and_the_outbox_delete_commit_together,
    an_error_that_leaves_the_closure_undoes_both,
    every_call_sees_what_the_transaction_did,
    every_triage_call_sees_what_the_transaction_did,
    a_transaction_that_is_dropped_stores_nothing,
    a_task_may_be_spawned_around_it,
}

async fn outbox_of_one(db: &TestDb) {
    db.execute("CREATE TABLE outbox (id integer PRIMARY KEY)").await;
    db.execute("INSERT INTO outbox VALUES (1)").await;
}

async fn outbox_count(db: &TestDb) -> u64 {
    let deleted = db.db.execute_unprepared("DELETE FROM outbox").await.unwrap();
    deleted.rows_affected()
}

async fn the_insert_and_the_outbox_delete_commit_together(db: TestDb) {
    outbox_of_one(&db).await;
    let txn = db.db.begin().await.unwrap();
    let id = SeaOrmDeadLetterRepo::in_transaction(&txn).insert(letter(new_app())).await.unwrap();
    txn.execute_unprepared("DELETE FROM outbox").await.unwrap();
    txn.commit().await.unwrap();
    assert!(db.repo().get(id).await.unwrap().is_some());
    assert_eq!(outbox_count(&db).await, 0);
}

async fn move_and_fail(txn: &DatabaseTransaction) -> Result<(), DeadLetterRepoError> {
    let repo = SeaOrmDeadLetterRepo::in_transaction(txn);
    let id = repo.insert(letter(new_app())).await?;
    repo.resolve(id, "ignored").await?;
    txn.execute_unprepared("DELETE FROM outbox").await?;
    Err(DbErr::Custom("the caller gives up".to_owned()).into())
}

async fn an_error_that_leaves_the_closure_undoes_both(db: TestDb) {
    outbox_of_one(&db).await;
    let outcome = db.db.transaction_async(async |txn| move_and_fail(txn).await).await;
    assert!(outcome.is_err());
    assert_eq!(db.row_count().await, 0);
    assert_eq!(outbox_count(&db).await, 1);
}

async fn every_call_sees_what_the_transaction_did(db: TestDb) {
    let app = new_app();
    let txn = db.db.begin().await.unwrap();
    let repo = SeaOrmDeadLetterRepo::in_transaction(&txn);
    let id = repo.insert(letter(app)).await.unwrap();
    assert_eq!(repo.unresolved_count(app).await.unwrap(), 1);
    assert_eq!(repo.list_for_app(app, true, 10, 0).await.unwrap().len(), 1);
    repo.resolve(id, "ignored").await.unwrap();
    assert_eq!(repo.unresolved_count(app).await.unwrap(), 0);
    assert!(repo.get(id).await.unwrap().unwrap().resolution.is_some());
    txn.rollback().await.unwrap();
    assert_eq!(db.row_count().await, 0);
}

async fn every_triage_call_sees_what_the_transaction_did(db: TestDb) {
    let app = new_app();
    let txn = db.db.begin().await.unwrap();
    let repo = SeaOrmDeadLetterRepo::in_transaction(&txn);
    let ids = repo.insert_many(vec![letter(app); 4]).await.unwrap();
    let all = DeadLetterFilter { created_before: Some(DateTime::<Utc>::MAX_UTC), ..Default::default() };
    let ignored = Settlement { resolution: Resolution::Ignored, by: None, note: None };
    assert_eq!(repo.list(app, &all, &PageRequest { size: 2, after: None }).await.unwrap().items.len(), 2);
    assert_eq!(repo.error_groups(app, &all, 10).await.unwrap()[0].newest_id, ids[3]);
    repo.resolve_once(app, ids[0], &ignored).await.unwrap();
    assert_eq!(repo.unresolved_counts(&[app], Some(2)).await.unwrap()[0].count, 2);
    let settled = repo.resolve_matching(app, &all, &ignored, 2).await.unwrap();
    assert_eq!((settled.ids, settled.more), (ids[1..3].to_vec(), true));
    repo.reopen(app, ids[0]).await.unwrap();
    assert_eq!(repo.purge_resolved(app, DateTime::<Utc>::MAX_UTC, 1).await.unwrap(), 1);
    assert_eq!(repo.purge_resolved_all_apps(DateTime::<Utc>::MAX_UTC, 9).await.unwrap(), 1);
    assert_eq!(repo.gc_for_app(app, DateTime::<Utc>::MAX_UTC, 1).await.unwrap(), 1);
    assert_eq!(repo.unresolved_count(app).await.unwrap(), 1);
    txn.rollback().await.unwrap();
    assert_eq!(db.row_count().await, 0);
}

async fn a_transaction_that_is_dropped_stores_nothing(db: TestDb) {
    let txn = db.db.begin().await.unwrap();
    SeaOrmDeadLetterRepo::in_transaction(&txn).insert(letter(new_app())).await.unwrap();
    drop(txn);
    assert_eq!(db.row_count().await, 0);
}

async fn a_task_may_be_spawned_around_it(db: TestDb) {
    async fn dispatch(db: DatabaseConnection) -> Result<(), DeadLetterRepoError> {
        let txn = db.begin().await?;
        SeaOrmDeadLetterRepo::in_transaction(&txn).insert(letter(new_app())).await?;
        Ok(txn.commit().await?)
    }
    tokio::spawn(dispatch(db.db.clone())).await.unwrap().unwrap();
    assert_eq!(db.row_count().await, 1);
}
