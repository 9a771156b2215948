use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    AppId, DeadLetterId, DeadLetterRepo, DeadLetterRepoError, DeadLetterTriage, SeaOrmDeadLetterRepo,
    entity::dead_letters as table,
};
use sea_orm::{ColumnTrait, DbBackend, EntityTrait, QueryFilter, QuerySelect, TransactionTrait};

use super::{new_app, rows, ten_oclock, time};
use crate::database::TestDb;

on_every_backend! {
    a_purge_goes_by_resolved_at_and_spares_what_is_open,
    a_purge_of_one_app_spares_the_others,
    a_purge_takes_the_oldest_settlement_first_and_never_more_than_its_limit,
    a_reopened_row_is_spared,
    a_resolution_of_a_newer_version_is_not_purged,
    gc_for_app_goes_by_created_at_and_spares_other_apps,
    gc_for_app_takes_the_oldest_first_and_never_more_than_its_limit,
    a_negative_limit_is_refused_and_nothing_is_deleted,
    the_largest_and_smallest_times_delete_all_that_is_due_and_nothing,
    a_time_finer_than_a_microsecond_deletes_what_is_older,
}

async fn set_resolved_at(db: &TestDb, id: DeadLetterId, at: DateTime<Utc>) {
    table::Entity::update_many()
        .col_expr(table::Column::ResolvedAt, at.into())
        .filter(table::Column::Id.eq(id.into_inner()))
        .exec(&db.db)
        .await
        .unwrap();
}

/// Rows of one app, of which each was settled a minute before the one before it.
async fn settled(db: &TestDb, app: AppId, count: usize) -> Vec<DeadLetterId> {
    let ids = rows(db, app, count).await;
    for (minute, &id) in (1..).zip(&ids) {
        db.repo().resolve(id, "ignored").await.unwrap();
        set_resolved_at(db, id, ten_oclock() - Duration::minutes(minute)).await;
    }
    ids
}

async fn left(db: &TestDb) -> Vec<DeadLetterId> {
    let rows = table::Entity::find().all(&db.db).await.unwrap();
    let mut ids: Vec<DeadLetterId> = rows.into_iter().map(|row| row.id.into()).collect();
    ids.sort();
    ids
}

async fn a_purge_goes_by_resolved_at_and_spares_what_is_open(db: TestDb) {
    let app = new_app();
    for of_all_apps in [false, true] {
        let stored = rows(&db, app, 7).await;
        let resolutions =
            ["replayed", "ignored", "handled_by_script", "handler_failed", "ignored", "ignored"];
        for (&id, reason) in stored.iter().zip(resolutions) {
            db.repo().resolve(id, reason).await.unwrap();
            set_resolved_at(&db, id, ten_oclock() - Duration::seconds(1)).await;
        }
        // At the bound, and behind it; the last row is unresolved, and was created long before.
        set_resolved_at(&db, stored[4], ten_oclock()).await;
        set_resolved_at(&db, stored[5], ten_oclock() + Duration::seconds(1)).await;
        db.set_created_at(stored[6], ten_oclock() - Duration::days(1)).await;
        let purged = match of_all_apps {
            true => db.repo().purge_resolved_all_apps(ten_oclock(), 100).await,
            false => db.repo().purge_resolved(app, ten_oclock(), 100).await,
        };
        assert_eq!(purged.unwrap(), 3);
        assert_eq!(left(&db).await, stored[3..]);
        db.execute("DELETE FROM dead_letters").await;
    }
}

async fn a_purge_of_one_app_spares_the_others(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    settled(&db, app, 3).await;
    let kept = settled(&db, other, 2).await;
    assert_eq!(db.repo().purge_resolved(app, ten_oclock(), 100).await.unwrap(), 3);
    assert_eq!(left(&db).await, kept);
    assert_eq!(db.repo().purge_resolved_all_apps(ten_oclock(), 100).await.unwrap(), 2);
}

async fn a_purge_takes_the_oldest_settlement_first_and_never_more_than_its_limit(db: TestDb) {
    let app = new_app();
    let stored = settled(&db, app, 25).await;
    assert_eq!(db.repo().purge_resolved(app, ten_oclock(), 0).await.unwrap(), 0);
    assert_eq!(db.repo().purge_resolved(app, ten_oclock(), 1).await.unwrap(), 1);
    assert_eq!(left(&db).await, stored[..24]);
    assert_eq!(db.repo().purge_resolved(app, ten_oclock(), 10).await.unwrap(), 10);
    assert_eq!(left(&db).await, stored[..14]);
    assert_eq!(db.repo().purge_resolved_all_apps(ten_oclock(), 10).await.unwrap(), 10);
    assert_eq!(left(&db).await, stored[..4]);
    assert_eq!(db.repo().purge_resolved_all_apps(ten_oclock(), i64::MAX).await.unwrap(), 4);
}

async fn a_reopened_row_is_spared(db: TestDb) {
    let app = new_app();
    let stored = settled(&db, app, 2).await;
    db.repo().reopen(app, stored[0]).await.unwrap();
    assert_eq!(db.repo().purge_resolved(app, ten_oclock(), 10).await.unwrap(), 1);
    assert_eq!(left(&db).await, stored[..1]);
}

async fn a_resolution_of_a_newer_version_is_not_purged(db: TestDb) {
    let app = new_app();
    let stored = settled(&db, app, 3).await;
    db.repo().resolve(stored[1], "replayed").await.unwrap();
    set_resolved_at(&db, stored[1], ten_oclock() - Duration::minutes(1)).await;
    // As its migration would have it; on SQLite for one connection.
    let (allow, forbid) = if db.db.get_database_backend() == DbBackend::Sqlite {
        ("PRAGMA ignore_check_constraints = ON", "PRAGMA ignore_check_constraints = OFF")
    } else {
        ("ALTER TABLE dead_letters DROP CONSTRAINT dead_letters_resolution_check", "")
    };
    let newer = "UPDATE dead_letters SET resolution = 'escalated' WHERE resolution = 'replayed'";
    db.execute(&format!("{allow}; {newer}; {forbid}")).await;
    assert_eq!(db.repo().purge_resolved(app, ten_oclock(), 1).await.unwrap(), 1);
    assert_eq!(db.repo().purge_resolved_all_apps(ten_oclock(), 10).await.unwrap(), 1);
    assert_eq!(left(&db).await, stored[1..2]);
}

async fn gc_for_app_goes_by_created_at_and_spares_other_apps(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let stored = rows(&db, app, 3).await;
    let kept = rows(&db, other, 2).await;
    db.repo().resolve(stored[0], "ignored").await.unwrap();
    assert_eq!(db.repo().gc_for_app(app, ten_oclock() + Duration::minutes(2), 10).await.unwrap(), 2);
    assert_eq!(left(&db).await, [&stored[2..], &kept].concat());
}

async fn gc_for_app_takes_the_oldest_first_and_never_more_than_its_limit(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 20).await;
    let cutoff = ten_oclock() + Duration::days(1);
    for (limit, deleted, from) in [(0, 0, 0), (1, 1, 1), (10, 10, 11), (10, 9, 20)] {
        assert_eq!(db.repo().gc_for_app(app, cutoff, limit).await.unwrap(), deleted);
        assert_eq!(left(&db).await, stored[from..]);
    }
}

async fn a_negative_limit_is_refused_and_nothing_is_deleted(db: TestDb) {
    let app = new_app();
    let (recording, recorded) = db.connect_recorded().await;
    let repo = SeaOrmDeadLetterRepo::new(recording);
    for refused in [
        repo.purge_resolved(app, ten_oclock(), -1).await,
        repo.purge_resolved_all_apps(ten_oclock(), i64::MIN).await,
        repo.gc_for_app(app, ten_oclock(), -1).await,
    ] {
        assert!(matches!(refused, Err(DeadLetterRepoError::Negative { argument: "limit", .. })));
    }
    assert_eq!(recorded.take(), []);
}

async fn the_largest_and_smallest_times_delete_all_that_is_due_and_nothing(db: TestDb) {
    let (min, max) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
    let (first, last) = (time("0001-01-01T00:00:00Z"), time("9999-12-31T23:59:59.999999Z"));
    // Of rows as old and as young as there are, and one of now.
    for (before, deleted) in [(min, 0), (first, 0), (last, 2), (last + Duration::nanoseconds(1), 3), (max, 3)]
    {
        sweeps_delete(&db, &[first, ten_oclock(), last], before, deleted).await;
    }
}

async fn a_time_finer_than_a_microsecond_deletes_what_is_older(db: TestDb) {
    let next = ten_oclock() + Duration::microseconds(1);
    for (before, deleted) in [
        (ten_oclock(), 0),
        (ten_oclock() + Duration::nanoseconds(1), 1),
        (next, 1),
        (next + Duration::nanoseconds(999), 2),
    ] {
        sweeps_delete(&db, &[ten_oclock(), next], before, deleted).await;
    }
}

/// Each of the sweeps, of rows that were created and settled at these times.
async fn sweeps_delete(db: &TestDb, times: &[DateTime<Utc>], before: DateTime<Utc>, deleted: u64) {
    let app = new_app();
    for sweep in 0..4 {
        for (id, &time) in settled(db, app, times.len()).await.into_iter().zip(times) {
            db.set_created_at(id, time).await;
            set_resolved_at(db, id, time).await;
        }
        let swept = match sweep {
            0 => db.repo().gc(before, 100).await,
            1 => db.repo().gc_for_app(app, before, 100).await,
            2 => db.repo().purge_resolved(app, before, 100).await,
            _ => db.repo().purge_resolved_all_apps(before, 100).await,
        };
        assert_eq!(swept.unwrap(), deleted, "{sweep} {before}");
        db.execute("DELETE FROM dead_letters").await;
    }
}

/// SQLite has no row locks: there the sweep waits for the other writer.
#[tokio::test]
async fn a_row_whose_reopening_is_not_committed_is_passed_over_on_postgres() {
    let db = TestDb::postgres().await;
    let app = new_app();
    let stored = settled(&db, app, 3).await;
    let txn = db.db.begin().await.unwrap();
    db.repo().in_transaction(&txn).reopen(app, stored[2]).await.unwrap();
    assert_eq!(db.repo().purge_resolved(app, ten_oclock(), 1).await.unwrap(), 1);
    assert_eq!(db.repo().purge_resolved_all_apps(ten_oclock(), 10).await.unwrap(), 1);
    txn.commit().await.unwrap();
    assert_eq!(db.repo().purge_resolved_all_apps(ten_oclock(), 10).await.unwrap(), 0);
    assert_eq!(left(&db).await, stored[2..]);
}

#[tokio::test]
async fn rows_that_another_transaction_holds_are_passed_over_by_gc_for_app_on_postgres() {
    let db = TestDb::postgres().await;
    let app = new_app();
    let stored = rows(&db, app, 3).await;
    let txn = db.db.begin().await.unwrap();
    table::Entity::find_by_id(stored[0].into_inner()).lock_exclusive().one(&txn).await.unwrap().unwrap();
    assert_eq!(db.repo().gc_for_app(app, ten_oclock() + Duration::days(1), 1).await.unwrap(), 1);
    txn.rollback().await.unwrap();
    assert_eq!(left(&db).await, [stored[0], stored[2]]);
}
