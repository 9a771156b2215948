//! Over the caller's transaction.

use std::{
    future::{Future, poll_fn, ready},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
};

use chrono::{DateTime, Utc};
use dead_letters::{
    Attribution, DeadLetterFilter, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve,
    DeadLetterRetention, DeadLetterTransfer, Due, GroupRequest, NewDeadLetter, PageRequest, RebuildRequest,
    Resolution, SeaOrmDeadLetterRepo, SweepScope,
};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, Statement, TransactionTrait,
};
use serde_json::Value;
use tokio::task::JoinSet;

use super::{import::stored, isolation::pool_with_isolation, letter, new_app, retention::Nowhere};
use crate::database::TestDb;

on_every_backend! {
    the_insert_and_the_outbox_delete_commit_together,
    an_error_that_leaves_the_closure_undoes_both,
    every_call_sees_what_the_transaction_did,
    every_triage_call_sees_what_the_transaction_did,
    a_transaction_that_is_dropped_stores_nothing,
    a_task_may_be_spawned_around_a_transaction,
    the_repos_caps_apply_in_a_transaction,
    a_transaction_that_wrote_nothing_commits,
    a_commit_finds_out_that_a_transaction_that_only_read_was_ended,
    a_commit_finds_out_that_a_dropped_nested_begin_ended_the_transaction,
    a_commit_finds_out_that_a_raw_rollback_ended_the_transaction,
    without_a_runtime_a_begin_is_a_typed_error,
    in_a_runtime_that_is_shut_down_a_begin_is_a_typed_error,
    at_most_256_of_2000_begins_without_a_caller_reach_the_database,
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
    let id = db.repo().in_transaction(&txn).insert(letter(new_app())).await.unwrap();
    txn.execute_unprepared("DELETE FROM outbox").await.unwrap();
    txn.commit().await.unwrap();
    assert!(db.repo().get(id).await.unwrap().is_some());
    assert_eq!(outbox_count(&db).await, 0);
}

async fn move_and_fail(
    repo: &SeaOrmDeadLetterRepo,
    txn: &DatabaseTransaction,
) -> Result<(), DeadLetterRepoError> {
    let repo = repo.in_transaction(txn);
    let id = repo.insert(letter(new_app())).await?;
    repo.resolve(id, "ignored").await?;
    txn.execute_unprepared("DELETE FROM outbox").await?;
    Err(DbErr::Custom("the caller gives up".to_owned()).into())
}

async fn an_error_that_leaves_the_closure_undoes_both(db: TestDb) {
    outbox_of_one(&db).await;
    let outcome = db.db.transaction_async(async |txn| move_and_fail(&db.repo(), txn).await).await;
    assert!(outcome.is_err());
    assert_eq!(db.row_count().await, 0);
    assert_eq!(outbox_count(&db).await, 1);
}

async fn every_call_sees_what_the_transaction_did(db: TestDb) {
    let app = new_app();
    let txn = db.db.begin().await.unwrap();
    let repo = db.repo().in_transaction(&txn);
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
    let repo = db.repo().in_transaction(&txn);
    let ids = repo.insert_many(vec![letter(app); 4]).await.unwrap();
    let all = DeadLetterFilter::default().created_before(DateTime::<Utc>::MAX_UTC);
    let two = PageRequest::default().size(2);
    assert_eq!(repo.list(app, &all, &two).await.unwrap().items.len(), 2);
    let exported = repo.export(app, &all, &two).await.unwrap().items;
    assert_eq!(exported.iter().map(|letter| letter.id).collect::<Vec<_>>(), [ids[3], ids[2]]);
    assert_eq!(
        repo.error_groups(app, &all, &GroupRequest::default()).await.unwrap().groups[0].newest_id,
        ids[3]
    );
    repo.resolve_once(app, ids[0], Resolution::Ignored, &Attribution::default()).await.unwrap();
    assert_eq!(repo.unresolved_counts(&[app], Some(2)).await.unwrap()[0].unresolved.count, 2);
    let resolved =
        repo.resolve_matching(app, &all, Resolution::Ignored, &Attribution::default(), 2).await.unwrap();
    assert_eq!((resolved.ids, resolved.more), (ids[1..3].to_vec(), true));
    repo.reopen(app, ids[0], &Attribution::default()).await.unwrap();
    assert_eq!(repo.unresolved_count(app).await.unwrap(), 2);
    assert_eq!(repo.rebuild_signatures(&RebuildRequest::default()).await.unwrap().examined, 4);
    txn.rollback().await.unwrap();
    assert_eq!(db.row_count().await, 0);
}

async fn a_transaction_that_is_dropped_stores_nothing(db: TestDb) {
    let txn = db.db.begin().await.unwrap();
    db.repo().in_transaction(&txn).insert(letter(new_app())).await.unwrap();
    drop(txn);
    assert_eq!(db.row_count().await, 0);
}

async fn a_task_may_be_spawned_around_a_transaction(db: TestDb) {
    async fn dispatch(repo: SeaOrmDeadLetterRepo) -> Result<(), DeadLetterRepoError> {
        let txn = SeaOrmDeadLetterRepo::begin(repo.pool()).await?;
        repo.in_transaction(&txn).insert(letter(new_app())).await?;
        SeaOrmDeadLetterRepo::commit(txn).await
    }
    tokio::spawn(dispatch(db.repo())).await.unwrap().unwrap();
    assert_eq!(db.row_count().await, 1);
}

async fn the_repos_caps_apply_in_a_transaction(db: TestDb) {
    let repo = db.repo().max_payload_bytes(10).max_error_bytes(10);
    let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
    let error = repo.in_transaction(&txn).insert(letter(new_app())).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::PayloadTooLarge { max: 10, .. }), "{error}");
    let small = NewDeadLetter { payload: Value::Null, ..letter(new_app()) };
    let id = repo.in_transaction(&txn).insert(small).await.unwrap();
    SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
    assert_eq!(db.repo().get(id).await.unwrap().unwrap().last_error, "sm [cut] r");
}

async fn a_transaction_that_wrote_nothing_commits(db: TestDb) {
    let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
    assert_eq!(db.repo().in_transaction(&txn).unresolved_count(new_app()).await.unwrap(), 0);
    SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
}

async fn a_commit_finds_out_that_a_transaction_that_only_read_was_ended(db: TestDb) {
    for _ in 0..2 {
        let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
        db.repo().in_transaction(&txn).unresolved_count(new_app()).await.unwrap();
        txn.execute_unprepared("ROLLBACK").await.unwrap();
        let error = SeaOrmDeadLetterRepo::commit(txn).await.unwrap_err();
        assert!(matches!(error, DeadLetterRepoError::TransactionLost), "{error}");
    }
}

#[tokio::test]
async fn a_read_only_transaction_commits_on_postgres() {
    let db = TestDb::postgres().await;
    let commits = async |pool: &DatabaseConnection, set: &str| {
        let txn = SeaOrmDeadLetterRepo::begin(pool).await.unwrap();
        txn.execute_unprepared(set).await.unwrap();
        db.repo().in_transaction(&txn).unresolved_count(new_app()).await.unwrap();
        let refused = txn.execute_unprepared("SAVEPOINT before; CREATE TABLE new ()").await.unwrap_err();
        assert!(refused.to_string().contains("read-only"), "{refused}");
        txn.execute_unprepared("ROLLBACK TO before").await.unwrap();
        SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
    };
    commits(&db.db, "SET TRANSACTION READ ONLY").await;
    let name = db.url().rsplit('/').next().unwrap().split('?').next().unwrap();
    db.execute(&format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = on")).await;
    commits(&db.connect_with(|_| ()).await, "SELECT 1").await;
}

/// Above READ COMMITTED a statement that waited for a row of another transaction fails.
#[tokio::test]
async fn the_repos_own_transactions_do_not_fail_whatever_isolation_is_the_default_on_postgres() {
    for isolation in ["repeatable read", "serializable"] {
        let db = TestDb::postgres().await;
        let pool = pool_with_isolation(&db, isolation).await;
        let mut tasks = JoinSet::new();
        let letters: Vec<_> = (0..500).map(|_| stored()).collect();
        for _ in 0..3 {
            let (repo, same) = (db.repo_over(pool.clone()), letters.clone());
            tasks.spawn(async move {
                for _ in 0..5 {
                    repo.import(&same).await?;
                }
                Ok(())
            });
            let repo = db.repo_over(pool.clone());
            tasks.spawn(async move {
                for _ in 0..5 {
                    let large = NewDeadLetter { op: "x".repeat(6 << 20), ..letter(new_app()) };
                    repo.insert_many(vec![large; 3]).await?;
                }
                Ok(())
            });
            let repo = db.repo_over(pool.clone());
            tasks.spawn(async move {
                for _ in 0..20 {
                    let due = Due::CreatedBefore(DateTime::<Utc>::MAX_UTC);
                    repo.sweep_into(&SweepScope::AllApps, due, None, 50, &Nowhere).await?;
                }
                Ok::<_, DeadLetterRepoError>(())
            });
        }
        for outcome in tasks.join_all().await {
            // An import that stores anew what was swept meanwhile no longer goes by the order of the ids. It may
            // deadlock with another import of the same letters under any isolation.
            let is_expected = outcome.as_ref().err().is_none_or(|error| error.to_string().contains("40P01"));
            assert!(is_expected, "{isolation}: {outcome:?}");
        }
        // The caller's own is as the caller wants it.
        let txn = SeaOrmDeadLetterRepo::begin(&pool).await.unwrap();
        let level = Statement::from_string(DbBackend::Postgres, "SHOW transaction_isolation");
        let level = txn.query_one_raw(level).await.unwrap().unwrap();
        assert_eq!(level.try_get_by_index::<String>(0).unwrap(), isolation);
    }
}

/// Whether what happens in the transaction after its first letter is found out, and leaves the one connection
/// of the pool as it was.
async fn is_found_out(db: &TestDb, happens: impl AsyncFnOnce(&DatabaseTransaction)) {
    let one = db
        .connect_with(|options| {
            options.max_connections(1);
        })
        .await;
    let repo = db.repo_over(one.clone());
    let txn = SeaOrmDeadLetterRepo::begin(&one).await.unwrap();
    let lost = repo.in_transaction(&txn).insert(letter(new_app())).await.unwrap();
    happens(&txn).await;
    let error = SeaOrmDeadLetterRepo::commit(txn).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::TransactionLost), "{error}");
    assert_eq!(db.repo().get(lost).await.unwrap(), None);

    // Were the connection's next transaction a savepoint, this would stay inside it.
    drop(SeaOrmDeadLetterRepo::begin(&one).await.unwrap());
    let id = repo.insert(letter(new_app())).await.unwrap();
    assert!(db.repo().get(id).await.unwrap().is_some());
}

async fn a_commit_finds_out_that_a_dropped_nested_begin_ended_the_transaction(db: TestDb) {
    is_found_out(&db, async |txn| {
        // Until one is dropped under way: an answer may come at once.
        loop {
            let mut nested = txn.begin();
            match poll_fn(|context| Poll::Ready(nested.as_mut().poll(context))).await {
                Poll::Ready(nested) => nested.unwrap().commit().await.unwrap(),
                Poll::Pending => break,
            }
        }
    })
    .await;
}

/// By a statement of the caller's, or by SQLite itself over a full disk.
async fn a_commit_finds_out_that_a_raw_rollback_ended_the_transaction(db: TestDb) {
    is_found_out(&db, async |txn| {
        txn.execute_unprepared("ROLLBACK").await.unwrap();
    })
    .await;
}

async fn without_a_runtime_a_begin_is_a_typed_error(db: TestDb) {
    let db = db.db.clone();
    let polled = std::thread::spawn(move || {
        let mut begin = pin!(SeaOrmDeadLetterRepo::begin(&db));
        begin.as_mut().poll(&mut Context::from_waker(Waker::noop())).map(|begun| begun.map(drop))
    });
    let polled = polled.join().unwrap();
    assert!(matches!(polled, Poll::Ready(Err(DeadLetterRepoError::RuntimeEnded))));
}

async fn in_a_runtime_that_is_shut_down_a_begin_is_a_typed_error(db: TestDb) {
    let db = db.db.clone();
    let begun = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let _inside = handle.enter();
        let mut begin = pin!(SeaOrmDeadLetterRepo::begin(&db));
        loop {
            match begin.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(begun) => return begun.map(drop),
                Poll::Pending => std::thread::yield_now(),
            }
        }
    });
    let begun = begun.join().unwrap();
    assert!(matches!(begun, Err(DeadLetterRepoError::RuntimeEnded)), "{begun:?}");
}

async fn at_most_256_of_2000_begins_without_a_caller_reach_the_database(db: TestDb) {
    let released = Arc::new(AtomicU32::new(0));
    let one = db
        .connect_with(|options| {
            let (of_postgres, of_sqlite) = (released.clone(), released.clone());
            let count = |released: &AtomicU32| {
                released.fetch_add(1, Ordering::Relaxed);
            };
            options.max_connections(1).map_sqlx_postgres_pool_opts(move |pool| {
                let released = of_postgres.clone();
                pool.after_release(move |_, _| {
                    count(&released);
                    Box::pin(ready(Ok(true)))
                })
            });
            options.map_sqlx_sqlite_pool_opts(move |pool| {
                let released = of_sqlite.clone();
                pool.after_release(move |_, _| {
                    count(&released);
                    Box::pin(ready(Ok(true)))
                })
            });
        })
        .await;
    let holder = SeaOrmDeadLetterRepo::begin(&one).await.unwrap();
    released.store(0, Ordering::Relaxed);
    let begins: Vec<_> = (0..2_000).map(|_| Box::pin(SeaOrmDeadLetterRepo::begin(&one))).collect();
    for mut begin in begins {
        let polled = poll_fn(|context| Poll::Ready(begin.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    }
    holder.rollback().await.unwrap();
    drop(SeaOrmDeadLetterRepo::begin(&one).await.unwrap());
    db.repo().insert(letter(new_app())).await.unwrap();
    // With the holder's own.
    let released = released.load(Ordering::Relaxed);
    assert!((1..=257).contains(&released), "{released}");
}
