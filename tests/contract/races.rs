//! Those who work at one time.

use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    AppId, Attribution, DeadLetterId, DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, Resolution,
    entity::dead_letters as table,
};
use sea_orm::{DatabaseTransaction, EntityTrait, TransactionTrait};
use tokio::task::JoinSet;

use super::{letter, new_app, time};
use crate::database::TestDb;

on_every_backend! {
    six_sweepers_four_inserters_and_two_resolvers_lose_and_double_nothing,
    two_hundred_tasks_share_five_connections,
    a_letter_stays_replayed_beside_a_concurrent_reopening,
}

fn cutoff() -> DateTime<Utc> {
    time("2026-03-01T10:00:00Z")
}

async fn six_sweepers_four_inserters_and_two_resolvers_lose_and_double_nothing(db: TestDb) {
    const DUE: usize = 600;
    let app = new_app();
    let due = db.repo().insert_many(vec![letter(app); DUE]).await.unwrap();
    for (seconds, &id) in (1..).zip(&due) {
        db.set_created_at(id, cutoff() - Duration::seconds(seconds)).await;
    }

    let mut sweepers = JoinSet::new();
    for _ in 0..6 {
        let repo = db.repo();
        sweepers.spawn(async move {
            let mut deleted = 0;
            // Three idle sweeps end the loop, because a row that a resolver had locked may be due again.
            let mut idle = 0;
            while idle < 5 {
                let batch = repo.gc(cutoff(), 7).await.unwrap();
                assert!(batch <= 7);
                deleted += batch;
                idle = if batch == 0 { idle + 1 } else { 0 };
            }
            deleted
        });
    }
    let mut inserters = JoinSet::new();
    for _ in 0..4 {
        let repo = db.repo();
        inserters.spawn(async move {
            let mut inserted = Vec::new();
            for _ in 0..50 {
                inserted.push(repo.insert(letter(app)).await.unwrap());
            }
            inserted
        });
    }
    let mut resolvers = JoinSet::new();
    for half in due.chunks(DUE / 2).map(<[DeadLetterId]>::to_vec) {
        let repo = db.repo();
        resolvers.spawn(async move {
            for id in half {
                match repo.resolve(id, "ignored").await {
                    // Or it was swept before.
                    Ok(()) | Err(DeadLetterRepoError::NotFound(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }

    resolvers.join_all().await;
    let mut inserted = inserters.join_all().await.concat();
    let mut deleted: u64 = sweepers.join_all().await.into_iter().sum();
    // The last sweep deletes the rows that resolvers had locked when the sweepers stopped.
    deleted += db.repo().gc(cutoff(), i64::MAX).await.unwrap();
    assert_eq!(deleted, DUE as u64);
    let mut left: Vec<DeadLetterId> =
        table::Entity::find().all(&db.db).await.unwrap().into_iter().map(|row| row.id.into()).collect();
    left.sort();
    inserted.sort();
    assert_eq!(left, inserted);
}

async fn two_hundred_tasks_share_five_connections(db: TestDb) {
    let five = db
        .connect_with(|options| {
            options.max_connections(5);
        })
        .await;
    let repo = db.repo_over(five);
    let apps: Vec<AppId> = (0..200).map(|_| new_app()).collect();
    let mut tasks = JoinSet::new();
    for &app in &apps {
        let repo = repo.clone();
        tasks.spawn(async move {
            let id = repo.insert(letter(app)).await?;
            repo.resolve(id, "handler_failed").await?;
            repo.reopen(app, id, &Attribution::default()).await?;
            repo.unresolved_count(app).await
        });
    }
    for counted in tasks.join_all().await {
        assert_eq!(counted.unwrap(), 1);
    }
    assert_eq!(db.row_count().await, 200);
}

/// A letter whose event went back stays replayed, also if the reopening came first.
async fn a_letter_stays_replayed_beside_a_concurrent_reopening(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    for _ in 0..20 {
        let id = repo.insert(letter(app)).await.unwrap();
        repo.resolve(id, "handler_failed").await.unwrap();
        let nobody = Attribution::default();
        let replay = repo.replay_with(app, id, &nobody, async |_: &DatabaseTransaction, _| {
            Ok::<_, DeadLetterRepoError>(())
        });
        let (replayed, reopened) = tokio::join!(replay, repo.reopen(app, id, &nobody));
        replayed.unwrap();
        if let Err(error) = reopened {
            assert!(matches!(error, DeadLetterRepoError::Replayed(of) if of == id), "{error}");
        }
        let letter = repo.get(id).await.unwrap().unwrap();
        assert_eq!(letter.resolution, Some(Resolution::Replayed));
    }
}

/// The tasks that were timed out leave their connections usable.
#[tokio::test]
async fn a_pool_of_two_recovers_from_two_dropped_inserts_behind_a_lock_on_postgres() {
    use sea_orm::ConnectionTrait;
    let db = TestDb::postgres().await;
    let two = db
        .connect_with(|options| {
            options.max_connections(2).acquire_timeout(std::time::Duration::from_secs(2));
        })
        .await;
    let repo = db.repo_over(two);
    let app = new_app();
    repo.insert(letter(app)).await.unwrap();

    let holder = db.db.begin().await.unwrap();
    holder.execute_unprepared("LOCK TABLE dead_letters").await.unwrap();
    let (first, second) = tokio::join!(
        tokio::time::timeout(std::time::Duration::from_millis(100), repo.insert(letter(app))),
        tokio::time::timeout(std::time::Duration::from_millis(100), repo.insert(letter(app))),
    );
    assert!(first.is_err() && second.is_err());
    // Both connections still wait for the server's answer.
    let error = repo.insert(letter(app)).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::Db(_)) && error.is_transient(), "{error}");
    holder.rollback().await.unwrap();

    // A dropped insert may still have been done: its caller can't know. No other is lost or doubled.
    let before = loop {
        if let Ok(count) = repo.unresolved_count(app).await {
            break count;
        }
    };
    assert!((1..=3).contains(&before), "{before}");
    for _ in 0..20 {
        repo.insert(letter(app)).await.unwrap();
    }
    let after = repo.unresolved_count(app).await.unwrap();
    assert!((21..=23).contains(&after), "{after}");
}
