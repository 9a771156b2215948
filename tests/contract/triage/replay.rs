use dead_letters::{DeadLetterRepo, DeadLetterRepoError, DeadLetterTriage, Resolution};
use sea_orm::{ConnectionTrait, DbBackend, DbErr};

use super::{create_outbox, enqueue, enqueued, letter, new_app, row_of, settlement};
use crate::database::TestDb;

on_every_backend! {
    the_row_is_settled_and_enqueued_and_the_closures_answer_returned,
    a_failing_closure_leaves_the_row_open_and_nothing_enqueued,
    of_8_concurrent_replays_one_enqueues,
    a_row_whose_handler_failed_is_replayed,
    a_settled_row_is_not_replayed,
    it_works_in_a_spawned_task,
    a_failed_statement_that_the_closure_passes_over_is_no_success,
}

async fn the_row_is_settled_and_enqueued_and_the_closures_answer_returned(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let answer: Result<_, DeadLetterRepoError> = db
        .repo()
        .replay(app, id, Some("ada".to_owned()), Some("again".to_owned()), async |txn, row| {
            assert_eq!((row.id, row.resolution), (id, Some(Resolution::Replayed)));
            enqueue(txn, row.id).await?;
            Ok(row.payload)
        })
        .await;
    assert_eq!(answer.unwrap(), letter(app).payload);
    assert_eq!(enqueued(&db).await, [id.to_string()]);
    let row = db.repo().get(id).await.unwrap().unwrap();
    assert_eq!(
        (row.resolution, row.resolved_by.as_deref(), row.resolution_note.as_deref()),
        (Some(Resolution::Replayed), Some("ada"), Some("again"))
    );
}

/// A service's own error.
#[derive(Debug)]
enum ReplayError {
    Store(DeadLetterRepoError),
    QueueFull,
}

impl From<DeadLetterRepoError> for ReplayError {
    fn from(error: DeadLetterRepoError) -> Self {
        Self::Store(error)
    }
}

async fn a_failing_closure_leaves_the_row_open_and_nothing_enqueued(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let before = db.repo().get(id).await.unwrap();
    let outcome: Result<(), _> = db
        .repo()
        .replay(app, id, None, None, async |txn, row| {
            enqueue(txn, row.id).await.map_err(DeadLetterRepoError::from)?;
            Err(ReplayError::QueueFull)
        })
        .await;
    assert!(matches!(outcome, Err(ReplayError::QueueFull)));
    assert_eq!(db.repo().get(id).await.unwrap(), before);
    assert_eq!(enqueued(&db).await, [] as [String; 0]);

    db.repo().resolve_once(app, id, &settlement(Resolution::Ignored)).await.unwrap();
    let outcome: Result<(), _> =
        db.repo().replay(app, id, None, None, async |_, _| Err(ReplayError::QueueFull)).await;
    assert!(matches!(outcome, Err(ReplayError::Store(DeadLetterRepoError::AlreadyResolved { .. }))));
}

async fn of_8_concurrent_replays_one_enqueues(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    for round in 1..=5 {
        let id = row_of(&db, letter(app)).await;
        let replays = (0..8).map(|_| {
            let repo = db.repo();
            tokio::spawn(async move {
                repo.replay(app, id, None, None, async |txn, row| Ok(enqueue(txn, row.id).await?)).await
            })
        });
        let mut won = 0;
        for replay in replays.collect::<Vec<_>>() {
            match replay.await.unwrap() {
                Ok(()) => won += 1,
                Err(DeadLetterRepoError::AlreadyResolved { resolution, .. }) => {
                    assert_eq!(resolution, Some(Resolution::Replayed));
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won, 1);
        assert_eq!(enqueued(&db).await.len(), round);
    }
}

async fn a_row_whose_handler_failed_is_replayed(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    db.repo().resolve(id, "handler_failed").await.unwrap();
    let replayed: Result<_, DeadLetterRepoError> =
        db.repo().replay(app, id, None, None, async |_, row| Ok(row.id)).await;
    assert_eq!(replayed.unwrap(), id);
}

async fn a_settled_row_is_not_replayed(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    db.repo().resolve(id, "ignored").await.unwrap();
    let replayed: Result<(), _> =
        db.repo().replay(app, id, None, None, async |_, _| panic!("enqueued")).await;
    let error = replayed.unwrap_err();
    assert!(
        matches!(error, DeadLetterRepoError::AlreadyResolved { resolution: Some(Resolution::Ignored), .. }),
        "{error}"
    );
}

async fn it_works_in_a_spawned_task(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let repo = db.repo();
    let note = "moved in".to_owned();
    let task = tokio::spawn(async move {
        repo.replay(app, id, None, Some(note.clone()), async |txn, row| {
            enqueue(txn, row.id).await?;
            Ok::<_, DeadLetterRepoError>(note.len())
        })
        .await
    });
    assert_eq!(task.await.unwrap().unwrap(), 8);
    assert_eq!(enqueued(&db).await.len(), 1);
}

async fn a_failed_statement_that_the_closure_passes_over_is_no_success(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let outcome: Result<(), DeadLetterRepoError> = db
        .repo()
        .replay(app, id, None, None, async |txn, row| {
            enqueue(txn, row.id).await?;
            let failed: Result<_, DbErr> = txn.execute_unprepared("INSERT INTO outbox VALUES (NULL)").await;
            assert!(failed.is_err());
            Ok(())
        })
        .await;
    if db.db.get_database_backend() == DbBackend::Sqlite {
        // There a failed statement undoes itself alone.
        outcome.unwrap();
        assert_eq!(enqueued(&db).await.len(), 1);
    } else {
        // A commit would have answered Ok, and stored nothing.
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains("25P02"), "{error}");
        assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 1);
        assert_eq!(enqueued(&db).await.len(), 0);
    }
}
