use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    AppId, Attribution, Changed, DeadLetterDelete, DeadLetterFilter, DeadLetterId, DeadLetterRead,
    DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, DeadLetterState, NewDeadLetter, ReopenRequest,
    ReplayRequest, Resolution, StoredLetter, entity::dead_letters as table,
};
use sea_orm::{EntityTrait, QuerySelect, TransactionTrait};

use super::{create_outbox, enqueue, enqueued, letter, new_app, resolved, row_of, rows, seen, ten_oclock};
use crate::database::TestDb;

on_every_backend! {
    the_oldest_are_resolved_up_to_the_limit_and_more_is_reported,
    only_open_rows_that_match_are_resolved,
    a_state_narrows_what_is_open,
    a_handler_failed_letter_is_not_marked_handler_failed_again,
    a_filter_without_created_before_is_refused_and_nothing_is_sent,
    a_limit_outside_1_to_1000_is_refused_and_nothing_is_sent,
    rows_that_arrive_meanwhile_are_not_resolved,
    replayed_rows_are_enqueued_in_the_same_transaction,
    a_failing_enqueue_leaves_every_row_open,
    with_nothing_to_replay_nothing_is_run,
    concurrent_bulk_replays_enqueue_each_row_once,
}

fn before(time: DateTime<Utc>) -> DeadLetterFilter {
    DeadLetterFilter::default().created_before(time)
}

/// All that `rows` makes.
fn all() -> DeadLetterFilter {
    before(ten_oclock() + Duration::days(1))
}

async fn resolve_them(db: &TestDb, app: AppId, filter: &DeadLetterFilter, limit: u32) -> Changed {
    db.repo().resolve_matching(app, filter, Resolution::Ignored, &seen(), limit).await.unwrap()
}

async fn the_oldest_are_resolved_up_to_the_limit_and_more_is_reported(db: TestDb) {
    let app = new_app();
    let mut stored = rows(&db, app, 7).await;
    // Age and id now differ in order.
    db.set_created_at(stored[6], ten_oclock() - Duration::minutes(1)).await;
    stored.rotate_right(1);
    for (changed, more) in [(&stored[..3], true), (&stored[3..6], true), (&stored[6..], false), (&[], false)]
    {
        assert_eq!(resolve_them(&db, app, &all(), 3).await, resolved(changed, more, false));
    }
    let row = db.repo().get(stored[0]).await.unwrap().unwrap();
    assert_eq!(
        (row.resolution, row.resolved_by.as_deref(), row.resolution_note.as_deref()),
        (Some(Resolution::Ignored), Some("ada"), Some("seen"))
    );
    assert!(row.resolved_at.is_some());
}

async fn only_open_rows_that_match_are_resolved(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let stored = rows(&db, app, 6).await;
    rows(&db, other, 2).await;
    db.repo().resolve(stored[0], "replayed").await.unwrap();
    db.repo().resolve(stored[1], "handler_failed").await.unwrap();
    let odd = row_of(&db, NewDeadLetter { source: "invoices".into(), ..letter(app) }).await;
    db.set_created_at(odd, ten_oclock()).await;
    let filter = before(ten_oclock() + Duration::minutes(4)).state(DeadLetterState::Any).source("orders");
    assert_eq!(resolve_them(&db, app, &filter, 1_000).await, resolved(&stored[1..4], false, false));
    assert_eq!(db.repo().get(stored[0]).await.unwrap().unwrap().resolution, Some(Resolution::Replayed));
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 3);
    assert_eq!(db.repo().unresolved_count(other).await.unwrap(), 2);
}

async fn a_state_narrows_what_is_open(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 2).await;
    db.repo().resolve(stored[0], "handler_failed").await.unwrap();
    let unresolved = all().state(DeadLetterState::Unresolved);
    assert_eq!(resolve_them(&db, app, &unresolved, 10).await.ids, stored[1..]);
    // No closed row is open, and none is resolved again.
    let (recording, recorded) = db.connect_recorded().await;
    let closed = all().state(DeadLetterState::Closed);
    let outcome = db
        .repo_over(recording)
        .resolve_matching(app, &closed, Resolution::Ignored, &seen(), 10)
        .await
        .unwrap();
    assert_eq!(outcome, resolved(&[], false, false));
    assert_eq!(recorded.take(), []);
    let any = all().state(DeadLetterState::Any);
    assert_eq!(resolve_them(&db, app, &any, 10).await.ids, stored[..1]);
}

async fn a_handler_failed_letter_is_not_marked_handler_failed_again(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 3).await;
    let open = all().state(DeadLetterState::Open);
    for (changed, more) in [(&stored[..2], true), (&stored[2..], false), (&[], false)] {
        let outcome =
            db.repo().resolve_matching(app, &open, Resolution::HandlerFailed, &seen(), 2).await.unwrap();
        assert_eq!((outcome.ids.as_slice(), outcome.more), (changed, more));
    }
    let resolved = all().state(DeadLetterState::Closed);
    assert_eq!(
        db.repo().resolve_matching(app, &resolved, Resolution::HandlerFailed, &seen(), 2).await.unwrap().ids,
        []
    );
    assert_eq!(resolve_them(&db, app, &open, 10).await.ids, stored);
}

async fn a_filter_without_created_before_is_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let filter = DeadLetterFilter::default().created_from(ten_oclock());
    let error = repo.resolve_matching(new_app(), &filter, Resolution::Ignored, &seen(), 1).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::MissingCreatedBefore), "{error}");
    let replayed: Result<_, DeadLetterRepoError> = repo
        .replay_matching_with(new_app(), &filter, &Attribution::default(), 1, async |_, _| panic!("enqueued"))
        .await;
    assert!(matches!(replayed, Err(DeadLetterRepoError::MissingCreatedBefore)));
    assert_eq!(recorded.take(), []);
}

async fn a_limit_outside_1_to_1000_is_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    for (limit, got) in [(0, "0"), (1_001, "1,001"), (u32::MAX, "4,294,967,295")] {
        let error =
            repo.resolve_matching(new_app(), &all(), Resolution::Ignored, &seen(), limit).await.unwrap_err();
        assert_eq!(error.to_string(), format!("`limit` must be between 1 and 1,000 (got {got})"));
    }
    assert_eq!(recorded.take(), []);
}

async fn rows_that_arrive_meanwhile_are_not_resolved(db: TestDb) {
    let app = new_app();
    let old = db.repo().insert_many(vec![letter(app); 200]).await.unwrap();
    let newest = db.repo().get(old[199]).await.unwrap().unwrap().created_at;
    let filter = before(newest + Duration::milliseconds(1));
    // Letters that arrive from here on must be younger than the bound on the database's clock.
    while Utc::now() <= newest + Duration::milliseconds(2) {
        tokio::task::yield_now().await;
    }
    let repo = db.repo();
    let arriving = tokio::spawn(async move {
        let mut arrived = Vec::new();
        for _ in 0..50 {
            arrived.push(repo.insert(letter(app)).await.unwrap());
        }
        arrived
    });
    let mut changed = Vec::new();
    loop {
        let batch = resolve_them(&db, app, &filter, 10).await;
        changed.extend(batch.ids);
        if !batch.more {
            break;
        }
    }
    let arrived = arriving.await.unwrap();
    assert_eq!(changed, old);
    assert_eq!(resolve_them(&db, app, &filter, 1_000).await.ids, []);
    for id in arrived {
        assert_eq!(db.repo().get(id).await.unwrap().unwrap().resolution, None);
    }
}

async fn enqueue_all(
    txn: &sea_orm::DatabaseTransaction,
    rows: Vec<StoredLetter>,
) -> Result<(), DeadLetterRepoError> {
    for row in rows {
        enqueue(txn, row.id).await?;
    }
    Ok(())
}

fn texts(ids: &[DeadLetterId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

async fn replayed_rows_are_enqueued_in_the_same_transaction(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = rows(&db, app, 5).await;
    let mut seen = Vec::new();
    let changed: Result<_, DeadLetterRepoError> = db
        .repo()
        .replay_matching_with(app, &all(), &Attribution::by("ada"), 3, async |txn, rows| {
            seen.extend(rows.iter().map(|row| (row.id, row.resolution.clone(), row.payload.clone())));
            enqueue_all(txn, rows).await
        })
        .await;
    assert_eq!(changed.unwrap(), resolved(&stored[..3], true, false));
    let expected =
        stored[..3].iter().map(|&id| (id, Some("replayed".to_owned()), letter(app).payload.to_string()));
    assert!(expected.eq(seen));
    assert_eq!(enqueued(&db).await, texts(&stored[..3]));
    assert_eq!(db.repo().get(stored[0]).await.unwrap().unwrap().resolved_by.as_deref(), Some("ada"));
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 2);
}

async fn a_failing_enqueue_leaves_every_row_open(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    rows(&db, app, 3).await;
    let outcome = db
        .repo()
        .replay_matching_with(app, &all(), &Attribution::default(), 10, async |txn, mut rows| {
            let last = rows.pop().unwrap().id;
            enqueue_all(txn, rows).await?;
            Err(DeadLetterRepoError::NotFound(last))
        })
        .await;
    assert!(matches!(outcome, Err(DeadLetterRepoError::NotFound(_))));
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 3);
    assert_eq!(enqueued(&db).await, [] as [String; 0]);
}

async fn with_nothing_to_replay_nothing_is_run(db: TestDb) {
    let changed: Result<_, DeadLetterRepoError> = db
        .repo()
        .replay_matching_with(new_app(), &all(), &Attribution::default(), 10, async |_, _| panic!("run"))
        .await;
    assert_eq!(changed.unwrap(), resolved(&[], false, false));
}

async fn concurrent_bulk_replays_enqueue_each_row_once(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = rows(&db, app, 60).await;
    let replays = (0..4).map(|_| {
        let repo = db.repo();
        tokio::spawn(async move {
            for _ in 0..6 {
                repo.replay_matching_with(app, &all(), &Attribution::default(), 10, enqueue_all)
                    .await
                    .unwrap();
            }
        })
    });
    for replay in replays.collect::<Vec<_>>() {
        replay.await.unwrap();
    }
    assert_eq!(enqueued(&db).await, texts(&stored));
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 0);
}

/// SQLite has no row locks: there a second writer waits for the first.
#[tokio::test]
async fn rows_locked_by_another_transaction_are_skipped_on_postgres() {
    let db = TestDb::postgres().await;
    let app = new_app();
    let stored = rows(&db, app, 4).await;
    let txn = db.db.begin().await.unwrap();
    table::Entity::find_by_id(stored[0].into_inner()).lock_exclusive().one(&txn).await.unwrap().unwrap();
    for (changed, more, skipped_locked) in
        [(&stored[1..3], true, false), (&stored[3..], false, true), (&[], false, true)]
    {
        assert_eq!(resolve_them(&db, app, &all(), 2).await, resolved(changed, more, skipped_locked));
    }
    let replayed: Result<_, DeadLetterRepoError> = db
        .repo()
        .replay_matching_with(app, &all(), &Attribution::default(), 2, async |_, _| panic!("run"))
        .await;
    assert_eq!(replayed.unwrap(), resolved(&[], false, true));
    txn.rollback().await.unwrap();
    let changed = resolved(&stored[..1], false, false);
    assert_eq!(resolve_them(&db, app, &all(), 2).await, changed);
}

/// As with gc: the plan is made while the table is empty.
#[tokio::test]
async fn exactly_100_of_3000_are_resolved_under_a_stale_plan_on_postgres() {
    let db = TestDb::postgres().await;
    db.execute("ALTER TABLE dead_letters SET (autovacuum_enabled = off)").await;
    db.execute("VACUUM ANALYZE dead_letters").await;
    let repo = db.repo_over(
        db.connect_with(|options| {
            options.max_connections(1);
        })
        .await,
    );
    let app = new_app();
    for _ in 0..7 {
        assert_eq!(
            repo.resolve_matching(app, &all(), Resolution::Ignored, &seen(), 100).await.unwrap().ids,
            []
        );
    }
    let stored = db.repo().insert_many(vec![letter(app); 3_000]).await.unwrap();
    db.execute("UPDATE dead_letters SET created_at = '2026-03-01 10:00Z'").await;
    let changed = repo.resolve_matching(app, &all(), Resolution::Ignored, &seen(), 100).await.unwrap();
    assert_eq!(changed, resolved(&stored[..100], true, false));
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 2_900);
}

/// A trigger holds on to the two oldest letters, so that no batch of three changes as many.
#[tokio::test]
async fn a_loop_reaches_all_letters_but_those_that_a_trigger_protects_on_postgres() {
    for db in [TestDb::postgres().await, TestDb::postgres_sharded().await] {
        let (repo, app) = (db.repo(), new_app());
        let stored = rows(&db, app, 9).await;
        db.execute(
            "CREATE FUNCTION protect() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER protect BEFORE UPDATE OR DELETE ON dead_letters FOR EACH ROW
                 WHEN (OLD.op = 'protected') EXECUTE FUNCTION protect()",
        )
        .await;
        let protect = async |op: &str| {
            let ids: Vec<_> = stored[..2].iter().map(|id| format!("'{id}'")).collect();
            db.execute("ALTER TABLE dead_letters DISABLE TRIGGER protect").await;
            db.execute(&format!("UPDATE dead_letters SET op = '{op}' WHERE id IN ({})", ids.join(","))).await;
            db.execute("ALTER TABLE dead_letters ENABLE TRIGGER protect").await;
        };
        let closed = DeadLetterFilter::default()
            .state(DeadLetterState::Closed)
            .resolved_before(Utc::now() + Duration::days(1));
        let reopen = ReopenRequest::default().include_replayed(true).limit(3);
        let replayer = repo.replayer(super::super::retention::Nowhere);
        for call in ["resolve", "reopen", "replay", "reopen", "delete"] {
            protect("protected").await;
            let (mut changed, mut calls) = (Vec::new(), 0);
            let skipped = loop {
                calls += 1;
                assert!(calls < 12, "{call}: the loop does not end");
                let batch = match call {
                    "resolve" => resolve_them(&db, app, &all(), 3).await,
                    "reopen" => repo.reopen_matching(app, &closed, &seen(), &reopen).await.unwrap(),
                    "delete" => repo.delete_matching(app, &all(), &seen(), 3).await.unwrap(),
                    _ => {
                        let request = ReplayRequest::default().limit(3);
                        let batch = replayer.replay_matching(app, &all(), &seen(), &request).await.unwrap();
                        resolved(&batch.ids, batch.more, batch.skipped_locked)
                    }
                };
                changed.extend(batch.ids);
                if !batch.more {
                    break batch.skipped_locked;
                }
            };
            changed.sort();
            assert_eq!((changed, skipped), (stored[2..].to_vec(), true), "{call}");
            // The protected letters get the state of the others.
            protect("insert").await;
            match call {
                "resolve" | "replay" => drop(resolve_them(&db, app, &all(), 3).await),
                "reopen" => drop(repo.reopen_matching(app, &closed, &seen(), &reopen).await.unwrap()),
                _ => {}
            }
        }
        let left = repo.list(app, &all(), &Default::default()).await.unwrap();
        assert_eq!(left.items.len(), 2);
        // Where every letter of a batch is protected, the loop ends too.
        protect("protected").await;
        let batch = repo.resolve_matching(app, &all(), Resolution::Ignored, &seen(), 2).await.unwrap();
        assert_eq!(batch, resolved(&[], false, true));
    }
}
