use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    DeadLetterId, DeadLetterRepo, DeadLetterRetention, DeadLetterState, Due, NewDeadLetter,
    SeaOrmDeadLetterRepo, SweepScope, entity::dead_letters as table,
};
use sea_orm::{EntityTrait, QuerySelect, TransactionTrait};

use super::{letter, new_app, retention::Sweep, time};
use crate::database::TestDb;

on_every_backend! {
    rows_older_than_the_cutoff_go_and_one_at_the_cutoff_stays,
    gc_never_deletes_more_than_its_limit,
    the_oldest_go_first,
    resolved_rows_go_like_unresolved_ones,
    gc_reads_created_at_and_no_other_time,
    limit_0_deletes_nothing,
    the_largest_limit_deletes_all_that_is_due,
    a_negative_limit_is_refused_and_nothing_is_deleted,
    concurrent_sweeps_delete_each_row_once,
    a_new_row_is_never_older_than_now,
    in_a_transaction_gc_is_undone_by_a_rollback,
}

fn cutoff() -> DateTime<Utc> {
    time("2026-03-01T10:00:00Z")
}

/// One row for each age in seconds before the cutoff.
async fn rows_of_ages(db: &TestDb, ages: impl IntoIterator<Item = i64>) -> Vec<DeadLetterId> {
    let mut stored = Vec::new();
    for age in ages {
        let id = db.repo().insert(letter(new_app())).await.unwrap();
        db.set_created_at(id, cutoff() - Duration::seconds(age)).await;
        stored.push(id);
    }
    stored
}

async fn left(db: &TestDb) -> Vec<DeadLetterId> {
    let rows = table::Entity::find().all(&db.db).await.unwrap();
    let mut ids: Vec<DeadLetterId> = rows.into_iter().map(|row| row.id.into()).collect();
    ids.sort();
    ids
}

async fn rows_older_than_the_cutoff_go_and_one_at_the_cutoff_stays(db: TestDb) {
    let stored = rows_of_ages(&db, [1, 0, -1]).await;
    let just_before = db.repo().insert(letter(new_app())).await.unwrap();
    db.set_created_at(just_before, cutoff() - Duration::microseconds(1)).await;
    assert_eq!(db.repo().gc(cutoff(), 10).await.unwrap(), 2);
    assert_eq!(left(&db).await, stored[1..]);
    assert_eq!(db.repo().gc(cutoff(), 10).await.unwrap(), 0);
}

async fn gc_never_deletes_more_than_its_limit(db: TestDb) {
    rows_of_ages(&db, 1..=25).await;
    for (limit, deleted, left) in [(1, 1, 24), (10, 10, 14), (10, 10, 4), (10, 4, 0), (10, 0, 0)] {
        assert_eq!(db.repo().gc(cutoff(), limit).await.unwrap(), deleted);
        assert_eq!(db.row_count().await, left);
    }
}

async fn the_oldest_go_first(db: TestDb) {
    let stored = rows_of_ages(&db, [30, 10, 50, 20, 40]).await;
    assert_eq!(db.repo().gc(cutoff(), 3).await.unwrap(), 3);
    assert_eq!(left(&db).await, [stored[1], stored[3]]);
}

async fn resolved_rows_go_like_unresolved_ones(db: TestDb) {
    let stored = rows_of_ages(&db, [2, 1, -1, -2]).await;
    db.repo().resolve(stored[0], "ignored").await.unwrap();
    db.repo().resolve(stored[2], "ignored").await.unwrap();
    assert_eq!(db.repo().gc(cutoff(), 10).await.unwrap(), 2);
    assert_eq!(left(&db).await, stored[2..]);
}

async fn gc_reads_created_at_and_no_other_time(db: TestDb) {
    let (old, young) = (cutoff() - Duration::days(1), cutoff() + Duration::days(1));
    let mut kept = Vec::new();
    // Each time alone is older than the cutoff; the last row is the one that is due.
    for (first_attempt_at, last_attempt_at, created_at) in
        [(old, young, young), (young, old, young), (young, young, old)]
    {
        let letter = NewDeadLetter { first_attempt_at, last_attempt_at, ..letter(new_app()) };
        let id = db.repo().insert(letter).await.unwrap();
        db.set_created_at(id, created_at).await;
        kept.push(id);
    }
    let due = kept.pop().unwrap();
    assert_eq!(db.repo().gc(cutoff(), 10).await.unwrap(), 1);
    assert_eq!(left(&db).await, kept);
    assert_eq!(db.repo().get(due).await.unwrap(), None);
}

async fn limit_0_deletes_nothing(db: TestDb) {
    let stored = rows_of_ages(&db, [1, 2]).await;
    assert_eq!(db.repo().gc(cutoff(), 0).await.unwrap(), 0);
    assert_eq!(left(&db).await, stored);
}

async fn the_largest_limit_deletes_all_that_is_due(db: TestDb) {
    let stored = rows_of_ages(&db, [1, 2, -1]).await;
    assert_eq!(db.repo().gc(cutoff(), i64::MAX).await.unwrap(), 2);
    assert_eq!(left(&db).await, stored[2..]);
}

async fn a_negative_limit_is_refused_and_nothing_is_deleted(db: TestDb) {
    let stored = rows_of_ages(&db, [1, 2]).await;
    let (recording, recorded) = db.connect_recorded().await;
    for value in [-1, i64::MIN] {
        let error = db.repo_over(recording.clone()).gc(cutoff(), value).await.unwrap_err();
        assert!(super::list::is_less_than_0(&error, "limit", value), "{error}");
    }
    assert_eq!(recorded.take(), []);
    assert_eq!(left(&db).await, stored);
}

async fn concurrent_sweeps_delete_each_row_once(db: TestDb) {
    rows_of_ages(&db, 1..=40).await;
    let young = rows_of_ages(&db, [-1]).await;
    let due = Due::CreatedBefore(cutoff());
    let sweeps = (0..4).map(|_| {
        let repo = db.repo();
        tokio::spawn(async move {
            let mut deleted = 0;
            // A batch may delete none while another sweep holds what it would take.
            while repo.count_due(&SweepScope::AllApps, due, DeadLetterState::Any, 1).await.unwrap().count > 0
            {
                deleted += repo.gc(cutoff(), 3).await.unwrap();
            }
            deleted
        })
    });
    let mut deleted = 0;
    for sweep in sweeps.collect::<Vec<_>>() {
        deleted += sweep.await.unwrap();
    }
    assert_eq!(deleted, 40);
    assert_eq!(left(&db).await, young);
}

async fn a_new_row_is_never_older_than_now(db: TestDb) {
    let now = Utc::now() - Duration::milliseconds(2);
    let stored = db.repo().insert_many(vec![letter(new_app()); 3]).await.unwrap();
    assert_eq!(db.repo().gc(now, 10).await.unwrap(), 0);
    assert_eq!(left(&db).await, stored);
    assert_eq!(db.repo().gc(now + Duration::hours(1), 10).await.unwrap(), 3);
}

async fn in_a_transaction_gc_is_undone_by_a_rollback(db: TestDb) {
    let stored = rows_of_ages(&db, [1, 2]).await;
    let txn = db.db.begin().await.unwrap();
    assert_eq!(db.repo().in_transaction(&txn).gc(cutoff(), 10).await.unwrap(), 2);
    txn.rollback().await.unwrap();
    assert_eq!(left(&db).await, stored);
}

/// SQLite has no row locks: there a second writer waits for the first.
#[tokio::test]
async fn rows_locked_by_another_transaction_are_skipped_on_postgres() {
    let db = TestDb::postgres().await;
    let stored = rows_of_ages(&db, [50, 40, 30, 20, 10]).await;
    let txn = db.db.begin().await.unwrap();
    for held in [stored[0], stored[2]] {
        table::Entity::find_by_id(held.into_inner()).lock_exclusive().one(&txn).await.unwrap().unwrap();
    }
    // The limit counts deleted rows, not skipped ones.
    assert_eq!(db.repo().gc(cutoff(), 2).await.unwrap(), 2);
    assert_eq!(left(&db).await, [stored[0], stored[2], stored[4]]);
    txn.rollback().await.unwrap();
    assert_eq!(db.repo().gc(cutoff(), 10).await.unwrap(), 3);
}

/// Exactly min(limit, due), by each of the sweeps, of 15,000 rows that the planner knows nothing of.
async fn sweeps_are_exact(db: &TestDb, repo: &SeaOrmDeadLetterRepo) {
    let app = new_app();
    db.execute(&format!(
        "INSERT INTO dead_letters (app_id, original_event_id, source, op, payload, attempt_count, first_attempt_at,
             last_attempt_at, last_error, created_at, resolved_at, resolution)
         SELECT '{app}', gen_random_uuid(), 'orders', 'insert', '{{}}', 1, now(), now(), '', at, at, 'ignored'
         FROM (SELECT timestamptz '2026-02-01 10:00Z' + n * interval '1 second' AS at FROM generate_series(1, 15000) n) t"
    ))
    .await;
    let mut left = db.row_count().await;
    for limit in [1, 10, 1_000, 100] {
        for sweep in Sweep::all_of(app) {
            for due in [Due::CreatedBefore(cutoff()), Due::ClosedBefore(cutoff())] {
                assert_eq!(sweep.run(repo, due, limit).await, u64::from(limit), "{sweep:?} {due:?}");
                left -= u64::from(limit);
                assert_eq!(db.row_count().await, left, "{sweep:?} {due:?}");
            }
        }
        assert_eq!(repo.gc(cutoff(), limit.into()).await.unwrap(), u64::from(limit));
        left -= u64::from(limit);
        assert_eq!(db.row_count().await, left);
    }
    assert_eq!(repo.gc(cutoff(), 1_000).await.unwrap(), left);
}

/// Its prepared statements stay those of the one connection.
async fn on_one_connection(db: &TestDb) -> SeaOrmDeadLetterRepo {
    db.execute("ALTER TABLE dead_letters SET (autovacuum_enabled = off)").await;
    let one = db.connect_with(|options| {
        options.max_connections(1);
    });
    db.repo_over(one.await)
}

/// The case that makes `id IN (SELECT … LIMIT n FOR UPDATE SKIP LOCKED)` delete everything: seven idle sweeps
/// of an empty table make the prepared statement keep a generic plan.
#[tokio::test]
async fn sweeps_are_exact_under_a_stale_plan_on_postgres() {
    let db = TestDb::postgres().await;
    let repo = on_one_connection(&db).await;
    db.execute("VACUUM ANALYZE dead_letters").await;
    for _ in 0..7 {
        assert_eq!(repo.gc(cutoff(), 100).await.unwrap(), 0);
        for sweep in Sweep::all_of(new_app()) {
            for due in [Due::CreatedBefore(cutoff()), Due::ClosedBefore(cutoff())] {
                assert_eq!(sweep.run(&repo, due, 100).await, 0);
            }
        }
    }
    sweeps_are_exact(&db, &repo).await;
}

#[tokio::test]
async fn sweeps_are_exact_with_statistics_of_one_row_on_postgres() {
    let db = TestDb::postgres().await;
    let repo = on_one_connection(&db).await;
    rows_of_ages(&db, [1]).await;
    db.execute("VACUUM ANALYZE dead_letters").await;
    assert_eq!(repo.gc(cutoff(), 1).await.unwrap(), 1);
    sweeps_are_exact(&db, &repo).await;
}

/// The figures of the design: 100 of 3,000.
#[tokio::test]
async fn gc_of_100_deletes_100_of_3000_under_a_stale_plan_on_postgres() {
    let db = TestDb::postgres().await;
    let repo = on_one_connection(&db).await;
    db.execute("VACUUM ANALYZE dead_letters").await;
    for _ in 0..7 {
        assert_eq!(repo.gc(cutoff(), 100).await.unwrap(), 0);
    }
    let app = new_app();
    db.repo().insert_many(vec![letter(app); 3_000]).await.unwrap();
    db.execute("UPDATE dead_letters SET created_at = '2026-02-01 10:00Z'").await;
    assert_eq!(repo.gc(cutoff(), 100).await.unwrap(), 100);
    assert_eq!(db.row_count().await, 2_900);
}
