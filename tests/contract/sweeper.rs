//! The sweeper at work on a database. Its loop by itself is in tests/sweeper.rs.

use std::{
    future::Future,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use chrono::{DateTime, SubsecRound, Utc};
use dead_letters::{
    ActionRequest, AppId, DeadLetterId, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError,
    DeadLetterRetention, DeadLetterState, Due, JsonLinesArchive, Retention, RetentionPolicy,
    SeaOrmDeadLetterRepo, SweepEnd, SweepScope, Sweeper, SweeperBuilder, entity::dead_letters as table,
};
use sea_orm::{ConnectionTrait, EntityTrait};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinSet};

use super::{
    actions::old_row,
    coalesce::hold_table,
    letter, new_app,
    retention::{on_delete, raise_on_delete, refuse_to_delete, set_source},
};
use crate::database::TestDb;

on_every_backend! {
    rows_go_by_their_apps_own_retention_and_open_ones_by_age_alone,
    an_app_with_a_longer_retention_survives_the_sweep_of_the_others,
    sweepers_beside_dispatchers_and_resolvers_delete_all_that_is_due_and_nothing_newer,
    two_sweepers_with_different_policies_delete_each_row_once,
    due_within_counts_the_open_rows_that_a_later_sweep_deletes,
    letters_that_the_database_does_not_delete_end_no_sweep_and_are_never_archived,
    errors_that_the_database_raises_for_some_apps_keep_no_other_app,
    a_refused_row_before_an_app_that_fails_does_not_stop_the_sweep,
    a_locked_table_does_not_stop_the_sweeper,
    a_sweep_that_is_dropped_at_any_await_did_whole_batches,
    the_history_goes_by_its_own_retention,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn all_after(days: u32) -> Retention {
    Retention::default().delete_all_after(DAY * days)
}

fn closed_after(days: u32) -> Retention {
    Retention::default().delete_closed_after(DAY * days)
}

/// As the store holds it.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// As fast as it can.
fn builder(repo: SeaOrmDeadLetterRepo, policy: RetentionPolicy) -> SweeperBuilder {
    Sweeper::builder(Arc::new(repo), policy).busy_percent(100)
}

async fn finished(sweeper: &Sweeper) -> u64 {
    let report = sweeper.sweep_once(now()).await;
    assert!(matches!(report.end, SweepEnd::Finished), "{report:?}");
    report.deleted
}

/// Stores a letter of so many days ago, closed if `resolved` is true.
async fn stored(db: &TestDb, app: AppId, days: u32, resolved: bool) -> DeadLetterId {
    let id = db.repo().insert(letter(app)).await.unwrap();
    let at = now() - DAY * days;
    db.set_created_at(id, at).await;
    if resolved {
        db.repo().resolve(id, "ignored").await.unwrap();
        let row = table::Entity::find_by_id(id.into_inner()).one(&db.db).await.unwrap().unwrap();
        let mut row = sea_orm::IntoActiveModel::into_active_model(row);
        row.resolved_at = sea_orm::Set(Some(at.into()));
        table::Entity::update(row).exec(&db.db).await.unwrap();
    }
    id
}

async fn left(db: &TestDb) -> Vec<DeadLetterId> {
    let rows = table::Entity::find().all(&db.db).await.unwrap();
    let mut ids: Vec<DeadLetterId> = rows.into_iter().map(|row| row.id.into()).collect();
    ids.sort();
    ids
}

async fn rows_go_by_their_apps_own_retention_and_open_ones_by_age_alone(db: TestDb) {
    let [short, long, forever, other] = [new_app(), new_app(), new_app(), new_app()];
    let mut kept = Vec::new();
    let mut due = 0;
    for (app, days, resolved, stays) in [
        (other, 29, true, true),
        (other, 31, true, false),
        (other, 89, false, true),
        (other, 91, false, false),
        (short, 2, false, false),
        (short, 0, false, true),
        (long, 300, false, true),
        (long, 300, true, true),
        (long, 366, false, false),
        (forever, 9_999, true, true),
        (forever, 9_999, false, true),
    ] {
        let id = stored(&db, app, days, resolved).await;
        if stays { kept.push(id) } else { due += 1 }
    }
    kept.sort();
    let others = Retention::default().delete_closed_after(DAY * 30).delete_all_after(DAY * 90);
    let policy = RetentionPolicy::new(others)
        .app(short, all_after(1))
        .app(long, all_after(365))
        .app(forever, Retention::default());
    let sweeper = builder(db.repo(), policy).build().unwrap();
    assert_eq!(finished(&sweeper).await, due);
    assert_eq!(left(&db).await, kept);
    assert_eq!(finished(&sweeper).await, 0);
}

async fn an_app_with_a_longer_retention_survives_the_sweep_of_the_others(db: TestDb) {
    let long = new_app();
    let mut kept = Vec::new();
    for n in 0..20 {
        // Older than all that go.
        kept.push(stored(&db, long, 200 + n, n % 2 == 0).await);
    }
    for _ in 0..5 {
        let app = new_app();
        for days in 91..95 {
            stored(&db, app, days, days % 2 == 0).await;
        }
    }
    let policy = RetentionPolicy::new(all_after(90)).app(long, all_after(365));
    for batch in [1, 3, 1_000] {
        let sweeper = builder(db.repo(), policy.clone()).batch(batch).build().unwrap();
        finished(&sweeper).await;
        assert_eq!(left(&db).await, kept);
        for days in 91..95 {
            stored(&db, new_app(), days, false).await;
        }
    }
}

async fn sweepers_beside_dispatchers_and_resolvers_delete_all_that_is_due_and_nothing_newer(db: TestDb) {
    let app = new_app();
    let due = db.repo().insert_many(vec![letter(app); 300]).await.unwrap();
    for &id in &due {
        db.set_created_at(id, now() - DAY * 91).await;
    }
    let policy = RetentionPolicy::new(all_after(90));
    let mut sweepers = JoinSet::new();
    let mut stops = Vec::new();
    for _ in 0..2 {
        let sweeper = builder(db.repo(), policy.clone()).batch(7).build().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        stops.push(stop);
        sweepers.spawn(async move {
            sweeper.run(stopped).await;
            let last = sweeper.status().borrow().last.clone().unwrap();
            assert!(!matches!(last.end, SweepEnd::Failed(_)), "{last:?}");
        });
    }
    let mut dispatchers = JoinSet::new();
    for _ in 0..4 {
        let repo = db.repo();
        dispatchers.spawn(async move {
            let mut inserted = Vec::new();
            for _ in 0..25 {
                inserted.push(repo.insert(letter(app)).await.unwrap());
            }
            inserted
        });
    }
    let repo = db.repo();
    for &id in &due {
        match repo.resolve(id, "ignored").await {
            // Or it was swept before.
            Ok(()) | Err(DeadLetterRepoError::NotFound(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let mut inserted = dispatchers.join_all().await.concat();
    inserted.sort();
    drop(stops);
    sweepers.join_all().await;
    // The last run deletes the rows that a resolver had locked when the sweepers came by.
    finished(&builder(db.repo(), policy).build().unwrap()).await;
    assert_eq!(left(&db).await, inserted);
}

async fn two_sweepers_with_different_policies_delete_each_row_once(db: TestDb) {
    let (own, other) = (new_app(), new_app());
    let mut kept = Vec::new();
    let mut due = 0;
    for n in 0..25 {
        for (app, days, resolved, stays) in [
            // Only the first takes these.
            (other, 40 + n, true, false),
            // And both of them these.
            (other, 400 + n, false, false),
            // Only the second.
            (own, 100 + n, false, false),
            (own, n, true, true),
            (other, 40 + n, false, true),
        ] {
            let id = stored(&db, app, days, resolved).await;
            if stays { kept.push(id) } else { due += 1 }
        }
    }
    kept.sort();
    let first = Retention::default().delete_closed_after(DAY * 30).delete_all_after(DAY * 365);
    let first = RetentionPolicy::new(first).app(own, closed_after(60));
    let second = RetentionPolicy::new(all_after(365)).app(own, all_after(90));
    let mut sweepers = JoinSet::new();
    for policy in [&first, &second, &first, &second] {
        let sweeper = builder(db.repo(), policy.clone()).batch(3).build().unwrap();
        sweepers.spawn(async move { finished(&sweeper).await });
    }
    let mut deleted: u64 = sweepers.join_all().await.into_iter().sum();
    // The last run deletes the rows that one sweeper had locked and released while the other came by.
    for policy in [first, second] {
        deleted += finished(&builder(db.repo(), policy).build().unwrap()).await;
    }
    assert_eq!((left(&db).await, deleted), (kept, due));
}

async fn due_within_counts_the_open_rows_that_a_later_sweep_deletes(db: TestDb) {
    let (own, other) = (new_app(), new_app());
    for days in [80, 84, 86, 95] {
        stored(&db, other, days, false).await;
        stored(&db, other, days, true).await;
        stored(&db, own, days, false).await;
    }
    let others = Retention::default().delete_closed_after(DAY * 100).delete_all_after(DAY * 90);
    let policy = RetentionPolicy::new(others).app(own, all_after(92));
    let sweeper = builder(db.repo(), policy).build().unwrap();
    let (now, week) = (now(), DAY * 7);
    let within = async |app, cap| {
        let counted = sweeper.due_within(app, now, week, cap).await.unwrap();
        (counted.count, counted.capped)
    };
    assert_eq!(within(None, 100).await, (5, false));
    assert_eq!(within(None, 3).await, (3, true));
    assert_eq!(within(Some(other), 100).await, (3, false));
    assert_eq!(within(Some(own), 100).await, (2, false));
    let open = async || {
        let state = DeadLetterState::Open;
        let due = dead_letters::Due::CreatedBefore(now + DAY);
        let all = dead_letters::SweepScope::AllApps;
        db.repo().count_due(&all, due, state, 100).await.unwrap().count
    };
    let before = open().await;
    let report = sweeper.sweep_once(now + week).await;
    assert_eq!((report.deleted, before - open().await), (8, 5));
}

/// Nine letters at the head of all that is due, in batches of ten.
async fn letters_that_the_database_does_not_delete_end_no_sweep_and_are_never_archived(db: TestDb) {
    refuse_to_delete(&db, "kept").await;
    let (own, other) = (new_app(), new_app());
    let by_app = RetentionPolicy::new(all_after(90)).app(own, all_after(90));
    let by_age = RetentionPolicy::new(all_after(90));
    let closed = RetentionPolicy::new(closed_after(90));
    for policy in [by_app, by_age, closed] {
        for archives in [false, true] {
            let mut kept = Vec::new();
            for n in 0..9 {
                kept.push(stored(&db, if n < 5 { own } else { other }, 200, true).await);
            }
            set_source(&db, &kept, "kept").await;
            let mut due = Vec::new();
            for n in 0..50 {
                due.push(stored(&db, if n % 2 == 0 { own } else { other }, 100, true).await);
            }
            let folder = TempDir::new().unwrap();
            let mut builder = builder(db.repo(), policy.clone()).batch(10);
            if archives {
                builder = builder.archive(Arc::new(JsonLinesArchive::new(folder.path())));
            }
            let sweeper = builder.build().unwrap();
            let report = sweeper.sweep_once(now()).await;
            assert!(matches!(report.end, SweepEnd::Finished), "{report:?}");
            assert_eq!((report.deleted, report.refused), (50, 9), "{policy:?}");
            assert_eq!(left(&db).await, kept);
            if archives {
                let archived = JsonLinesArchive::read(folder.path()).unwrap();
                let mut archived: Vec<_> = archived.map(|read| read.unwrap().letter.id).collect();
                archived.sort();
                assert_eq!(archived, due);
            }
            set_source(&db, &kept, "orders").await;
            db.execute("DELETE FROM dead_letters").await;
        }
    }
}

async fn errors_that_the_database_raises_for_some_apps_keep_no_other_app(db: TestDb) {
    raise_on_delete(&db, "kept").await;
    let apps = [1, 2, 3, 4].map(|app| AppId::from(uuid::Uuid::from_u128(app)));
    let by_app = RetentionPolicy::new(all_after(90)).app(apps[3], all_after(90));
    let by_age = RetentionPolicy::new(all_after(90));
    let closed = RetentionPolicy::new(closed_after(90));
    for policy in [by_app, by_age, closed] {
        for batch in [1, 4, 1_000] {
            let mut of_failing = Vec::new();
            for (n, app) in (0..).zip(apps) {
                for _ in 0..5 {
                    let id = stored(&db, app, 100, true).await;
                    if [1, 2].contains(&n) {
                        of_failing.push(id);
                    }
                }
            }
            // The first of each failing app, and of all by age.
            for app in [apps[1], apps[2]] {
                let kept = stored(&db, app, 200, true).await;
                set_source(&db, &[kept], "kept").await;
                of_failing.push(kept);
            }
            let sweeper = builder(db.repo(), policy.clone()).batch(batch).build().unwrap();
            let report = sweeper.sweep_once(now()).await;
            assert!(matches!(report.end, SweepEnd::Failed(_)), "{report:?}");
            assert_eq!(left(&db).await, of_failing, "{policy:?} {batch}");
            assert_eq!((report.deleted, report.refused), (10, 0));
            set_source(&db, &of_failing, "orders").await;
            db.execute("DELETE FROM dead_letters").await;
        }
    }
}

async fn a_refused_row_before_an_app_that_fails_does_not_stop_the_sweep(db: TestDb) {
    refuse_to_delete(&db, "refused").await;
    raise_on_delete(&db, "kept").await;
    let [first, second, third, excepted] = [1, 2, 3, 4].map(|app| AppId::from(uuid::Uuid::from_u128(app)));
    let policy = RetentionPolicy::new(all_after(90)).app(excepted, all_after(90));
    for batch in [1, 2, 10] {
        let refused = stored(&db, first, 100, true).await;
        set_source(&db, &[refused], "refused").await;
        let kept = stored(&db, second, 100, true).await;
        set_source(&db, &[kept], "kept").await;
        stored(&db, third, 100, true).await;
        let sweeper = builder(db.repo(), policy.clone()).batch(batch).build().unwrap();
        let report = sweeper.sweep_once(now()).await;
        assert!(matches!(report.end, SweepEnd::Failed(_)), "{report:?}");
        assert_eq!(left(&db).await, [refused, kept], "{batch}");
        assert_eq!((report.deleted, report.refused), (1, 1));
        set_source(&db, &[refused, kept], "orders").await;
        db.execute("DELETE FROM dead_letters").await;
    }
}

/// PostgreSQL answers with an error before it has given up the locks of the statement that failed.
#[tokio::test]
async fn the_rows_of_a_batch_that_failed_are_free_when_it_returns_on_postgres() {
    let db = TestDb::postgres().await;
    db.execute("CREATE TABLE noise (n int)").await;
    // Each pass of the loop is a subtransaction, which a rollback has to mark.
    let fail = "FOR n IN 1..500 LOOP
                    BEGIN INSERT INTO noise VALUES (n); EXCEPTION WHEN division_by_zero THEN END;
                END LOOP;
                RAISE EXCEPTION ''no''";
    on_delete(&db, "kept", fail, "").await;
    let kept = stored(&db, new_app(), 100, true).await;
    set_source(&db, &[kept], "kept").await;
    let other = db.connect_with(|_| ()).await;
    for _ in 0..50 {
        for scope in [SweepScope::AllApps, SweepScope::AllAppsBut { excepted: Vec::new() }] {
            db.repo().sweep(&scope, Due::CreatedBefore(now()), None, 10).await.unwrap_err();
            other.execute_unprepared("SELECT FROM dead_letters FOR UPDATE NOWAIT").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_delete_that_runs_out_of_time_for_one_app_keeps_no_other_app_on_postgres() {
    let db = TestDb::postgres().await;
    on_delete(&db, "slow", "PERFORM pg_sleep(60)", "").await;
    let impatient = db
        .connect_with(|options| {
            options.statement_timeout(Duration::from_millis(200));
        })
        .await;
    let [first, second, third] = [1, 2, 3].map(|app| AppId::from(uuid::Uuid::from_u128(app)));
    let by_app = RetentionPolicy::new(all_after(90)).app(new_app(), all_after(90));
    let by_age = RetentionPolicy::new(all_after(90));
    for policy in [by_app, by_age] {
        stored(&db, first, 100, true).await;
        let slow = stored(&db, second, 100, true).await;
        set_source(&db, &[slow], "slow").await;
        stored(&db, third, 100, true).await;
        let sweeper = builder(db.repo_over(impatient.clone()), policy).batch(2).build().unwrap();
        let report = sweeper.sweep_once(now()).await;
        assert!(matches!(report.end, SweepEnd::Failed(_)), "{report:?}");
        assert_eq!(left(&db).await, [slow]);
        set_source(&db, &[slow], "orders").await;
        db.execute("DELETE FROM dead_letters").await;
    }
}

async fn a_locked_table_does_not_stop_the_sweeper(db: TestDb) {
    let impatient = db
        .connect_with(|options| {
            options
                .statement_timeout(Duration::from_millis(50))
                .map_sqlx_sqlite_opts(|sqlite| sqlite.busy_timeout(Duration::from_millis(50)));
        })
        .await;
    stored(&db, new_app(), 91, false).await;
    let holder = hold_table(&db).await;
    let policy = RetentionPolicy::new(all_after(90));
    let sweeper = builder(db.repo_over(impatient), policy).build().unwrap();
    let mut status = sweeper.status();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(async move { sweeper.run(stopped).await });
    let failed = |end: &SweepEnd| matches!(end, SweepEnd::Failed(error) if error.is_transient());
    let last = |status: &dead_letters::SweeperStatus, is: &dyn Fn(&SweepEnd) -> bool| {
        status.last.as_ref().is_some_and(|report| is(&report.end))
    };
    status.wait_for(|status| last(status, &failed)).await.unwrap();
    holder.rollback().await.unwrap();
    status.wait_for(|status| last(status, &|end| matches!(end, SweepEnd::Finished))).await.unwrap();
    stop.send(()).unwrap();
    running.await.unwrap();
    assert_eq!(db.row_count().await, 0);
}

async fn a_sweep_that_is_dropped_at_any_await_did_whole_batches(db: TestDb) {
    const BATCH: u32 = 2;
    let app = new_app();
    let due = db.repo().insert_many(vec![letter(app); 60]).await.unwrap();
    for &id in &due {
        db.set_created_at(id, now() - DAY * 91).await;
    }
    let policy = RetentionPolicy::new(all_after(90));
    let sweeper = builder(db.repo(), policy).batch(BATCH).build().unwrap();
    for polls in 0..40 {
        {
            let mut sweep = Box::pin(sweeper.sweep_once(now()));
            for _ in 0..polls {
                if sweep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(sweeper.status().borrow().running_since, None);
        assert_eq!(db.row_count().await % u64::from(BATCH), 0, "{polls}");
    }
    // A batch that was dropped may hold its rows for a moment more.
    while db.row_count().await > 0 {
        finished(&sweeper).await;
    }
}

async fn the_history_goes_by_its_own_retention(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let letter = stored(&db, app, 400, true).await;
    for of in [app, app, other] {
        old_row(&db, of, 400).await;
    }
    let young = old_row(&db, app, 300).await;
    let policy = RetentionPolicy::default().delete_actions_after(DAY * 365);
    let sweeper = builder(db.repo(), policy.clone()).batch(1).build().unwrap();
    let report = sweeper.sweep_once(now()).await;
    assert!(matches!(report.end, SweepEnd::Finished), "{report:?}");
    assert_eq!((report.actions_deleted, report.deleted), (3, 0));
    let rows = db.repo().actions(app, &ActionRequest::default()).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [young]);
    assert!(db.repo().get(letter).await.unwrap().is_some());

    let kept = builder(db.repo(), RetentionPolicy::new(all_after(1))).build().unwrap();
    assert_eq!(finished(&kept).await, 1);
    assert_eq!(db.repo().actions(app, &ActionRequest::default()).await.unwrap().len(), 1);
    let short = builder(db.repo(), policy.delete_actions_after(Duration::from_secs(30))).build();
    assert_eq!(
        short.unwrap_err().to_string(),
        "delete_actions_after must be at least an hour (got 30s): call `short_retention_is_meant` if it is meant"
    );
}
