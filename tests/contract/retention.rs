//! Tests of each promise of `DeadLetterRetention`, line by line, on every backend.

use std::{
    error::Error,
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;
use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    AppId, Archive, Attribution, CappedCount, DeadLetterId, DeadLetterRepo, DeadLetterRepoError,
    DeadLetterResolve, DeadLetterRetention, DeadLetterState, DeadLetterTransfer, Due, NewDeadLetter,
    PageRequest, SeaOrmDeadLetterRepo, StoredLetter, SweepCursor, SweepScope, Swept,
    entity::dead_letters as table,
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, QueryFilter, QuerySelect, Statement,
    TransactionTrait,
};
use serde_json::json;
use tokio::{sync::Notify, task::JoinSet};
use uuid::Uuid;

use super::{
    letter, new_app, sweep_of, time,
    triage::{rows, ten_oclock},
};
use crate::database::TestDb;

on_every_backend! {
    a_sweep_of_closed_rows_goes_by_resolved_at_and_spares_what_is_open,
    a_sweep_by_age_goes_by_created_at_and_takes_open_and_closed_rows,
    a_sweep_takes_the_oldest_first_and_never_more_than_its_limit,
    a_sweep_of_one_app_spares_the_others,
    a_sweep_of_all_apps_but_some_spares_theirs_whatever_their_age,
    a_sweep_of_all_apps_but_some_goes_by_app_and_returns_where_it_stopped,
    a_reopened_row_is_spared,
    a_resolution_of_a_newer_version_is_not_swept_as_closed,
    more_than_1000_excepted_apps_are_refused_and_nothing_is_sent,
    a_limit_of_0_deletes_and_archives_nothing,
    the_largest_and_smallest_times_delete_all_that_is_due_and_nothing,
    a_time_finer_than_a_microsecond_deletes_what_is_older,
    count_due_counts_what_sweeps_would_delete_by_state,
    count_due_ends_at_its_cap,
    the_archive_has_the_rows_that_are_deleted_as_they_are_stored,
    if_the_archive_fails_nothing_is_deleted_and_its_message_is_in_the_error,
    a_batch_for_the_archive_ends_at_16_mb_of_payload_and_has_a_row_at_least,
    every_text_of_a_letter_counts_toward_the_16_mb_of_a_batch,
    letters_with_large_errors_are_archived_and_exported_in_bounded_batches,
    a_sweep_that_is_dropped_while_its_archive_writes_deletes_nothing,
    in_a_transaction_a_sweep_is_undone_by_a_rollback,
    rows_that_the_database_does_not_delete_are_picked_once_and_never_archived,
    in_a_transaction_the_archive_also_gets_what_the_database_does_not_delete,
    rows_of_one_time_are_each_picked_once_across_batches,
    a_batch_continues_after_a_cursor_made_by_hand,
    an_error_that_the_database_raises_for_one_app_names_it_and_leaves_the_others,
    sweepers_with_different_policies_beside_operators_and_dispatchers_delete_due_rows_once,
}

/// An archive in memory.
#[derive(Default)]
pub(crate) struct Shelf(Mutex<Vec<StoredLetter>>);

impl Shelf {
    fn letters(&self) -> MutexGuard<'_, Vec<StoredLetter>> {
        self.0.lock().unwrap()
    }

    pub(crate) fn ids(&self) -> Vec<DeadLetterId> {
        let mut ids: Vec<_> = self.letters().iter().map(|letter| letter.id).collect();
        ids.sort();
        ids
    }
}

#[async_trait]
impl Archive for Shelf {
    async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        assert!(!letters.is_empty());
        self.letters().extend_from_slice(letters);
        Ok(())
    }
}

/// An archive that keeps nothing.
pub(crate) struct Nowhere;

#[async_trait]
impl Archive for Nowhere {
    async fn keep(&self, _: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
}

pub(crate) fn all_but(excepted: &[AppId]) -> SweepScope {
    SweepScope::AllAppsBut { excepted: excepted.to_vec() }
}

/// A sweep, with an archive or without.
#[derive(Debug, Clone)]
pub(crate) struct Sweep {
    scope: SweepScope,
    into: bool,
}

impl Sweep {
    /// Each that takes the app in.
    pub(crate) fn all_of(app: AppId) -> Vec<Self> {
        let mut sweeps = Vec::new();
        for scope in [SweepScope::App(app), SweepScope::AllApps, all_but(&[new_app()])] {
            sweeps.push(Self { scope: scope.clone(), into: false });
            sweeps.push(Self { scope, into: true });
        }
        sweeps
    }

    /// How many it deleted; they are what the archive got, where there is one.
    pub(crate) async fn run(&self, repo: &impl DeadLetterRetention, due: Due, limit: u32) -> u64 {
        if !self.into {
            return repo.sweep(&self.scope, due, None, limit).await.unwrap().deleted;
        }
        let shelf = Shelf::default();
        let deleted = repo.sweep_into(&self.scope, due, None, limit, &shelf).await.unwrap().deleted;
        assert_eq!(shelf.letters().len() as u64, deleted);
        deleted
    }
}

async fn set_resolved_at(db: &TestDb, id: DeadLetterId, at: DateTime<Utc>) {
    table::Entity::update_many()
        .col_expr(table::Column::ResolvedAt, at.into())
        .filter(table::Column::Id.eq(id.into_inner()))
        .exec(&db.db)
        .await
        .unwrap();
}

/// Stores closed rows of one app, each resolved a minute before the one stored earlier.
async fn closed_letters(db: &TestDb, app: AppId, count: usize) -> Vec<DeadLetterId> {
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

fn resolved_before_ten() -> Due {
    Due::ClosedBefore(ten_oclock())
}

/// All that `rows` made.
fn created_before_noon() -> Due {
    Due::CreatedBefore(ten_oclock() + Duration::hours(2))
}

async fn a_sweep_of_closed_rows_goes_by_resolved_at_and_spares_what_is_open(db: TestDb) {
    let app = new_app();
    for sweep in Sweep::all_of(app) {
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
        assert_eq!(sweep.run(&db.repo(), resolved_before_ten(), 100).await, 3, "{sweep:?}");
        assert_eq!(left(&db).await, stored[3..], "{sweep:?}");
        db.execute("DELETE FROM dead_letters").await;
    }
}

async fn a_sweep_by_age_goes_by_created_at_and_takes_open_and_closed_rows(db: TestDb) {
    let app = new_app();
    for sweep in Sweep::all_of(app) {
        let stored = rows(&db, app, 4).await;
        db.repo().resolve(stored[0], "ignored").await.unwrap();
        db.repo().resolve(stored[1], "handler_failed").await.unwrap();
        let due = Due::CreatedBefore(ten_oclock() + Duration::minutes(3));
        assert_eq!(sweep.run(&db.repo(), due, 10).await, 3, "{sweep:?}");
        assert_eq!(left(&db).await, stored[3..], "{sweep:?}");
        db.execute("DELETE FROM dead_letters").await;
    }
}

async fn a_sweep_takes_the_oldest_first_and_never_more_than_its_limit(db: TestDb) {
    let app = new_app();
    for sweep in Sweep::all_of(app) {
        let stored = closed_letters(&db, app, 25).await;
        for (limit, left_over) in [(1, 24), (10, 14), (10, 4), (u32::MAX, 0)] {
            let before = left(&db).await.len() as u64;
            let deleted = sweep.run(&db.repo(), resolved_before_ten(), limit).await;
            assert_eq!(deleted, before - left_over as u64, "{sweep:?}");
            assert_eq!(left(&db).await, stored[..left_over], "{sweep:?}");
        }
        let stored = rows(&db, app, 20).await;
        for (limit, from) in [(1, 1), (10, 11), (10, 20)] {
            sweep.run(&db.repo(), created_before_noon(), limit).await;
            assert_eq!(left(&db).await, stored[from..], "{sweep:?}");
        }
    }
}

async fn a_sweep_of_one_app_spares_the_others(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    closed_letters(&db, app, 3).await;
    let kept = closed_letters(&db, other, 2).await;
    let scope = SweepScope::App(app);
    assert_eq!(db.repo().sweep(&scope, resolved_before_ten(), None, 2).await.unwrap().deleted, 2);
    assert_eq!(db.repo().sweep(&scope, created_before_noon(), None, 100).await.unwrap().deleted, 1);
    assert_eq!(left(&db).await, kept);
}

async fn a_sweep_of_all_apps_but_some_spares_theirs_whatever_their_age(db: TestDb) {
    let kept: Vec<AppId> = (0..3).map(|_| new_app()).collect();
    let mut spared = Vec::new();
    for &app in &kept {
        let stored = closed_letters(&db, app, 3).await;
        for &id in &stored {
            db.set_created_at(id, ten_oclock() - Duration::days(100)).await;
            set_resolved_at(&db, id, ten_oclock() - Duration::days(99)).await;
        }
        spared.extend(stored);
    }
    spared.sort();
    for due in [resolved_before_ten(), created_before_noon()] {
        for into in [false, true] {
            for _ in 0..3 {
                closed_letters(&db, new_app(), 2).await;
            }
            let sweep = Sweep { scope: all_but(&kept), into };
            assert_eq!(sweep.run(&db.repo(), due, 100).await, 6, "{due:?} {sweep:?}");
            assert_eq!(left(&db).await, spared, "{due:?} {sweep:?}");
        }
    }
}

async fn a_sweep_of_all_apps_but_some_goes_by_app_and_returns_where_it_stopped(db: TestDb) {
    // The first there can be, and the last.
    let apps: Vec<AppId> =
        [0, 1, 2, 3, u128::MAX].into_iter().map(|app| Uuid::from_u128(app).into()).collect();
    for into in [false, true] {
        let mut stored = Vec::new();
        for (minutes, &app) in (0..).zip(&apps) {
            for id in closed_letters(&db, app, 2).await {
                // The later the app, the older.
                db.set_created_at(id, ten_oclock() - Duration::minutes(minutes)).await;
                stored.push(id);
            }
        }
        let shelf = Shelf::default();
        let scope = all_but(&apps[2..3]);
        let sweep = async |after, limit| {
            let due = created_before_noon();
            match into {
                true => db.repo().sweep_into(&scope, due, after, limit, &shelf).await.unwrap(),
                false => db.repo().sweep(&scope, due, after, limit).await.unwrap(),
            }
        };
        // The letters of an app are of one time.
        let place = |letter: usize| {
            let time = ten_oclock() - Duration::minutes(letter as i64 / 2);
            Some(SweepCursor { app_id: apps[letter / 2], time, id: stored[letter] })
        };
        let swept = |rows, next| sweep_of(rows, rows, next);
        // Within the first app, to the end of the second, within the fourth, and to the end.
        assert_eq!(sweep(None, 1).await, swept(1, place(0)));
        assert_eq!(sweep(place(0), 3).await, swept(3, place(3)));
        assert_eq!(sweep(place(3), 1).await, swept(1, place(6)));
        assert_eq!(sweep(place(6), 10).await, swept(3, None));
        assert_eq!(left(&db).await, stored[4..6]);
        // Not the apps before.
        let before = closed_letters(&db, apps[0], 1).await;
        assert_eq!(sweep(place(3), 10).await, Swept::default());
        assert_eq!(left(&db).await, [&stored[4..6], &before].concat());
        db.execute("DELETE FROM dead_letters").await;
    }
}

async fn a_reopened_row_is_spared(db: TestDb) {
    let app = new_app();
    for sweep in Sweep::all_of(app) {
        let stored = closed_letters(&db, app, 2).await;
        db.repo().reopen(app, stored[0], &Attribution::default()).await.unwrap();
        assert_eq!(sweep.run(&db.repo(), resolved_before_ten(), 10).await, 1, "{sweep:?}");
        assert_eq!(left(&db).await, stored[..1], "{sweep:?}");
        db.execute("DELETE FROM dead_letters").await;
    }
}

async fn a_resolution_of_a_newer_version_is_not_swept_as_closed(db: TestDb) {
    let app = new_app();
    for sweep in Sweep::all_of(app) {
        let stored = closed_letters(&db, app, 3).await;
        resolve_as_a_newer_version(&db, stored[1]).await;
        assert_eq!(sweep.run(&db.repo(), resolved_before_ten(), 1).await, 1, "{sweep:?}");
        assert_eq!(sweep.run(&db.repo(), resolved_before_ten(), 10).await, 1, "{sweep:?}");
        assert_eq!(left(&db).await, stored[1..2], "{sweep:?}");
        db.execute("DELETE FROM dead_letters").await;
    }
}

/// As its migration would have it; on SQLite for one connection.
async fn resolve_as_a_newer_version(db: &TestDb, id: DeadLetterId) {
    let (allow, forbid, id) = if db.db.get_database_backend() == DbBackend::Sqlite {
        let id = format!("x'{}'", id.into_inner().simple());
        ("PRAGMA ignore_check_constraints = ON", "PRAGMA ignore_check_constraints = OFF", id)
    } else {
        let allow = "ALTER TABLE dead_letters DROP CONSTRAINT IF EXISTS dead_letters_resolution_check";
        (allow, "", format!("'{id}'"))
    };
    let newer = format!("UPDATE dead_letters SET resolution = 'escalated' WHERE id = {id}");
    db.execute(&format!("{allow}; {newer}; {forbid}")).await;
}

async fn more_than_1000_excepted_apps_are_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let mut excepted: Vec<AppId> = (0..1_001).map(|_| new_app()).collect();
    let (scope, due) = (all_but(&excepted), resolved_before_ten());
    for refused in [
        repo.sweep(&scope, due, None, 1).await.map(drop),
        repo.sweep(&scope, due, None, 0).await.map(drop),
        repo.sweep_into(&scope, due, None, 1, &Shelf::default()).await.map(drop),
        repo.count_due(&scope, due, DeadLetterState::Any, 1).await.map(drop),
        repo.count_due(&scope, due, DeadLetterState::Open, 1).await.map(drop),
    ] {
        assert_eq!(refused.unwrap_err().to_string(), "`excepted` must have at most 1,000 items (got 1,001)");
    }
    assert_eq!(recorded.take(), []);
    excepted.pop();
    let kept = closed_letters(&db, excepted[999], 1).await;
    closed_letters(&db, new_app(), 1).await;
    assert_eq!(repo.sweep(&all_but(&excepted), due, None, 10).await.unwrap().deleted, 1);
    assert_eq!(left(&db).await, kept);
}

async fn a_limit_of_0_deletes_and_archives_nothing(db: TestDb) {
    let app = new_app();
    let stored = closed_letters(&db, app, 2).await;
    for sweep in Sweep::all_of(app) {
        assert_eq!(sweep.run(&db.repo(), resolved_before_ten(), 0).await, 0, "{sweep:?}");
    }
    assert_eq!(left(&db).await, stored);
}

async fn the_largest_and_smallest_times_delete_all_that_is_due_and_nothing(db: TestDb) {
    let (min, max) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
    let (first, last) = (time("0001-01-01T00:00:00Z"), time("9999-12-31T23:59:59.999999Z"));
    // The rows are as old and as young as the table allows, and one is of now.
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

/// Runs each of the sweeps on rows that were created and resolved at these times, and checks the count before.
async fn sweeps_delete(db: &TestDb, times: &[DateTime<Utc>], before: DateTime<Utc>, deleted: u64) {
    let app = new_app();
    for sweep in Sweep::all_of(app) {
        for due in [Due::CreatedBefore(before), Due::ClosedBefore(before)] {
            for (id, &time) in closed_letters(db, app, times.len()).await.into_iter().zip(times) {
                db.set_created_at(id, time).await;
                set_resolved_at(db, id, time).await;
            }
            let counted = db.repo().count_due(&sweep.scope, due, DeadLetterState::Any, 100).await.unwrap();
            assert_eq!(counted, CappedCount { count: deleted, capped: false }, "{sweep:?} {due:?}");
            assert_eq!(sweep.run(&db.repo(), due, 100).await, deleted, "{sweep:?} {due:?}");
            db.execute("DELETE FROM dead_letters").await;
        }
    }
    let id = db.repo().insert(letter(app)).await.unwrap();
    db.set_created_at(id, times[0]).await;
    assert_eq!(db.repo().gc(before, 100).await.unwrap(), deleted.min(1));
    db.execute("DELETE FROM dead_letters").await;
}

async fn count_due_counts_what_sweeps_would_delete_by_state(db: TestDb) {
    let (app, kept) = (new_app(), new_app());
    for app in [app, kept] {
        // Five closed rows, one `handler_failed`, two unresolved ones, and one unresolved row that is not due.
        let stored = closed_letters(&db, app, 9).await;
        for &id in &stored[6..] {
            db.repo().reopen(app, id, &Attribution::default()).await.unwrap();
        }
        db.repo().resolve(stored[5], "handler_failed").await.unwrap();
        db.set_created_at(stored[8], ten_oclock() + Duration::hours(3)).await;
    }
    let (any, open) = (DeadLetterState::Any, DeadLetterState::Open);
    let (unresolved, resolved) = (DeadLetterState::Unresolved, DeadLetterState::Closed);
    for (due, state, of_app) in [
        (created_before_noon(), any, 8),
        (created_before_noon(), open, 3),
        (created_before_noon(), unresolved, 2),
        (created_before_noon(), resolved, 5),
        (resolved_before_ten(), any, 5),
        (resolved_before_ten(), resolved, 5),
        (resolved_before_ten(), open, 0),
        (resolved_before_ten(), unresolved, 0),
    ] {
        for (scope, apps) in
            [(SweepScope::App(app), 1), (SweepScope::AllApps, 2), (all_but(&[kept]), 1), (all_but(&[]), 2)]
        {
            let counted = db.repo().count_due(&scope, due, state, 1_000).await.unwrap();
            let expected = CappedCount { count: apps * of_app, capped: false };
            assert_eq!(counted, expected, "{scope:?} {due:?} {state:?}");
        }
    }
    assert_eq!(db.row_count().await, 18);
}

async fn count_due_ends_at_its_cap(db: TestDb) {
    let app = new_app();
    closed_letters(&db, app, 3).await;
    for scope in [SweepScope::App(app), SweepScope::AllApps, all_but(&[])] {
        for due in [created_before_noon(), resolved_before_ten()] {
            for (cap, count, capped) in [(0, 0, true), (2, 2, true), (3, 3, false), (u32::MAX, 3, false)] {
                let counted = db.repo().count_due(&scope, due, DeadLetterState::Any, cap).await.unwrap();
                assert_eq!(counted, CappedCount { count, capped }, "{scope:?} {due:?} {cap}");
            }
        }
    }
}

async fn the_archive_has_the_rows_that_are_deleted_as_they_are_stored(db: TestDb) {
    let app = new_app();
    let whole = letter(app);
    let stored = db.repo().insert_many(vec![whole.clone(); 3]).await.unwrap();
    for &id in &stored {
        db.set_created_at(id, ten_oclock()).await;
    }
    // A `Value` and a `Resolution` could not restore these texts.
    db.execute(r#"UPDATE dead_letters SET payload = '{"b":1, "a":18446744073709551616'"#).await;
    db.repo().resolve(stored[0], "ignored").await.unwrap();
    resolve_as_a_newer_version(&db, stored[0]).await;
    let shelf = Shelf::default();
    let swept =
        db.repo().sweep_into(&SweepScope::App(app), created_before_noon(), None, 10, &shelf).await.unwrap();
    assert_eq!(swept, sweep_of(3, 3, None));
    assert_eq!(left(&db).await, []);
    assert_eq!(shelf.ids(), stored);
    let kept = shelf.letters().iter().find(|kept| kept.id == stored[0]).unwrap().clone();
    assert_eq!(kept.payload, r#"{"b":1, "a":18446744073709551616"#);
    assert_eq!(kept.resolution.as_deref(), Some("escalated"));
    assert_eq!(
        (kept.app_id, kept.created_at, kept.last_error, kept.first_attempt_at),
        (app, ten_oclock(), whole.last_error, whole.first_attempt_at)
    );
}

/// An archive that is full.
struct Full;

#[async_trait]
impl Archive for Full {
    async fn keep(&self, _: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        Err("the shelf is full".into())
    }
}

async fn if_the_archive_fails_nothing_is_deleted_and_its_message_is_in_the_error(db: TestDb) {
    let app = new_app();
    let stored = closed_letters(&db, app, 3).await;
    for scope in [SweepScope::App(app), SweepScope::AllApps, all_but(&[])] {
        let failed = db.repo().sweep_into(&scope, resolved_before_ten(), None, 2, &Full).await.unwrap_err();
        assert!(matches!(failed, DeadLetterRepoError::Archive(_)), "{failed:?}");
        assert_eq!(failed.to_string(), "the archive did not keep the letters: the shelf is full");
        // It is not asked where nothing is due.
        let nothing =
            db.repo().sweep_into(&scope, Due::CreatedBefore(DateTime::UNIX_EPOCH), None, 2, &Full).await;
        assert_eq!(nothing.unwrap(), Swept::default());
    }
    assert_eq!(left(&db).await, stored);
}

async fn a_batch_for_the_archive_ends_at_16_mb_of_payload_and_has_a_row_at_least(db: TestDb) {
    let app = new_app();
    for scope in [SweepScope::App(app), SweepScope::AllApps, all_but(&[])] {
        let mut stored = Vec::new();
        for (minute, megabytes) in (0..).zip([7, 7, 7, 20, 1]) {
            let payload = json!("x".repeat(megabytes << 20));
            let id = db.repo().insert(NewDeadLetter { payload, ..letter(app) }).await.unwrap();
            db.set_created_at(id, ten_oclock() + Duration::minutes(minute)).await;
            stored.push(id);
        }
        let (mut from, mut after) = (0, None);
        for (rows, more) in [(2, true), (1, true), (1, true), (1, false)] {
            let shelf = Shelf::default();
            let swept = db.repo().sweep_into(&scope, created_before_noon(), after, 10, &shelf).await.unwrap();
            from += rows as usize;
            let last = || SweepCursor {
                app_id: app,
                time: ten_oclock() + Duration::minutes(from as i64 - 1),
                id: stored[from - 1],
            };
            let next = more.then(last);
            assert_eq!(swept, sweep_of(rows, rows, next), "{scope:?}");
            assert_eq!(shelf.ids(), stored[from - rows as usize..from], "{scope:?}");
            after = next;
        }
        assert_eq!(left(&db).await, []);
    }
}

/// Stores a letter whose text in this column has so many bytes, by SQL: the caps and checks of inserts do not apply.
async fn set_text(db: &TestDb, id: DeadLetterId, column: &str, bytes: usize) {
    let (id, text) = match db.db.get_database_backend() {
        DbBackend::Sqlite => {
            (format!("x'{}'", id.into_inner().simple()), format!("printf('%.*c', {bytes}, 'x')"))
        }
        _ => (format!("'{id}'"), format!("repeat('x', {bytes})")),
    };
    db.execute(&format!("UPDATE dead_letters SET {column} = {text} WHERE id = {id}")).await;
}

async fn every_text_of_a_letter_counts_toward_the_16_mb_of_a_batch(db: TestDb) {
    let app = new_app();
    let texts = [
        "payload",
        "replayed_payload",
        "source",
        "op",
        "last_error",
        "error_signature",
        "resolved_by",
        "resolution_note",
    ];
    for column in texts {
        let stored = closed_letters(&db, app, 2).await;
        for &id in &stored {
            set_text(&db, id, column, 9 << 20).await;
        }
        for _ in 0..2 {
            let shelf = Shelf::default();
            let scope = SweepScope::App(app);
            let swept = db.repo().sweep_into(&scope, resolved_before_ten(), None, 10, &shelf).await.unwrap();
            assert_eq!((swept.deleted, shelf.letters().len()), (1, 1), "{column}");
        }
    }
}

/// Notes what each batch holds.
#[derive(Default)]
struct Scale(Mutex<Vec<usize>>);

#[async_trait]
impl Archive for Scale {
    async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.lock().unwrap().push(letters.iter().map(|letter| letter.last_error.len()).sum());
        Ok(())
    }
}

async fn letters_with_large_errors_are_archived_and_exported_in_bounded_batches(db: TestDb) {
    const LETTERS: usize = 200;
    let app = new_app();
    db.repo().insert_many(vec![letter(app); LETTERS]).await.unwrap();
    let text = match db.db.get_database_backend() {
        DbBackend::Sqlite => "printf('%.*c', 1048576, 'x')",
        _ => "repeat('x', 1048576)",
    };
    db.execute(&format!("UPDATE dead_letters SET last_error = {text}")).await;

    let (mut exported, mut page) = (0, PageRequest::default().size(1_000));
    loop {
        let found = db.repo().export(app, &Default::default(), &page).await.unwrap();
        let bytes: usize = found.items.iter().map(|letter| letter.last_error.len()).sum();
        assert!(bytes <= 17 << 20, "{bytes}");
        exported += found.items.len();
        page.after = found.next;
        if page.after.is_none() {
            break;
        }
    }
    assert_eq!(exported, LETTERS);

    let (all, scale) = (Due::CreatedBefore(Utc::now() + Duration::hours(1)), Scale::default());
    while db.repo().sweep_into(&SweepScope::AllApps, all, None, 1_000, &scale).await.unwrap().deleted > 0 {}
    let batches = scale.0.into_inner().unwrap();
    assert!(batches.iter().all(|bytes| *bytes <= 17 << 20), "{batches:?}");
    assert_eq!(batches.iter().sum::<usize>(), LETTERS << 20);
}

/// An archive that has the letters, and does not return.
#[derive(Default)]
struct Stuck {
    shelf: Shelf,
    has_them: Notify,
}

#[async_trait]
impl Archive for Stuck {
    async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.shelf.keep(letters).await?;
        self.has_them.notify_one();
        std::future::pending().await
    }
}

async fn a_sweep_that_is_dropped_while_its_archive_writes_deletes_nothing(db: TestDb) {
    let app = new_app();
    for scope in [SweepScope::App(app), SweepScope::AllApps, all_but(&[])] {
        let stored = closed_letters(&db, app, 3).await;
        let (repo, stuck) = (db.repo(), Stuck::default());
        tokio::select! {
            swept = repo.sweep_into(&scope, resolved_before_ten(), None, 10, &stuck) => panic!("{swept:?}"),
            () = stuck.has_them.notified() => {}
        }
        assert_eq!(stuck.shelf.ids(), stored);
        assert_eq!(left(&db).await, stored);
        // The rows are free once the server has rolled back, and are archived again.
        let mut deleted = 0;
        let again = Shelf::default();
        while deleted < 3 {
            deleted +=
                repo.sweep_into(&scope, resolved_before_ten(), None, 10, &again).await.unwrap().deleted;
        }
        assert_eq!(again.ids(), stored);
        assert_eq!(left(&db).await, []);
    }
}

async fn in_a_transaction_a_sweep_is_undone_by_a_rollback(db: TestDb) {
    let app = new_app();
    let stored = closed_letters(&db, app, 2).await;
    for sweep in Sweep::all_of(app) {
        let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
        let repo = db.repo().in_transaction(&txn);
        // A sweep sees the rows that its own transaction wrote.
        let id = repo.insert(letter(app)).await.unwrap();
        repo.resolve(id, "ignored").await.unwrap();
        let due = Due::ClosedBefore(Utc::now() + Duration::hours(1));
        let counted = repo.count_due(&sweep.scope, due, DeadLetterState::Any, 10).await.unwrap();
        assert_eq!(counted.count, 3, "{sweep:?}");
        assert_eq!(sweep.run(&repo, due, 10).await, 3, "{sweep:?}");
        txn.rollback().await.unwrap();
        assert_eq!(left(&db).await, stored, "{sweep:?}");
    }
}

/// From now on the database does not delete rows of this source, and says nothing.
pub(crate) async fn refuse_to_delete(db: &TestDb, source: &str) {
    on_delete(db, source, "RETURN NULL", "RAISE(IGNORE)").await;
}

/// From now on it raises an error where such a row is to be deleted.
pub(crate) async fn raise_on_delete(db: &TestDb, source: &str) {
    on_delete(db, source, "RAISE EXCEPTION ''no''", "RAISE(ABORT, 'no')").await;
}

pub(crate) async fn on_delete(db: &TestDb, source: &str, on_postgres: &str, on_sqlite: &str) {
    let trigger = match db.db.get_database_backend() {
        DbBackend::Sqlite => format!(
            "CREATE TRIGGER keep_{source} BEFORE DELETE ON dead_letters WHEN OLD.source = '{source}'
             BEGIN SELECT {on_sqlite}; END"
        ),
        _ => format!(
            "CREATE FUNCTION keep_{source}() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN IF OLD.source = ''{source}'' THEN {on_postgres}; END IF; RETURN OLD; END';
             CREATE TRIGGER keep_{source} BEFORE DELETE ON dead_letters FOR EACH ROW EXECUTE FUNCTION keep_{source}()"
        ),
    };
    db.execute(&trigger).await;
}

/// Makes rows ones of this source.
pub(crate) async fn set_source(db: &TestDb, ids: &[DeadLetterId], source: &str) {
    table::Entity::update_many()
        .col_expr(table::Column::Source, source.into())
        .filter(table::Column::Id.is_in(ids.iter().map(|id| id.into_inner())))
        .exec(&db.db)
        .await
        .unwrap();
}

/// Batches of this size, each behind the one before: how many rows they picked and deleted, and what the archive got.
async fn sweep_all(db: &TestDb, sweep: &Sweep, due: Due, limit: u32) -> (u64, u64, Vec<DeadLetterId>) {
    let (mut picked, mut deleted, mut after) = (0, 0, None);
    let (repo, shelf) = (db.repo(), Shelf::default());
    loop {
        let swept = match sweep.into {
            true => repo.sweep_into(&sweep.scope, due, after, limit, &shelf).await.unwrap(),
            false => repo.sweep(&sweep.scope, due, after, limit).await.unwrap(),
        };
        assert!(swept.picked <= limit.into() && swept.deleted <= swept.picked, "{swept:?}");
        picked += swept.picked;
        deleted += swept.deleted;
        assert!(picked < 1_000, "{sweep:?} {due:?} does not end");
        after = swept.next;
        if after.is_none() {
            return (picked, deleted, shelf.ids());
        }
    }
}

async fn rows_that_the_database_does_not_delete_are_picked_once_and_never_archived(db: TestDb) {
    const KEPT: usize = 9;
    refuse_to_delete(&db, "kept").await;
    // The first app there can be: its rows are the head by age, and by app.
    let app: AppId = Uuid::nil().into();
    for sweep in Sweep::all_of(app) {
        for due in [created_before_noon(), resolved_before_ten()] {
            let mut kept = closed_letters(&db, app, KEPT).await;
            for &id in &kept {
                db.set_created_at(id, ten_oclock() - Duration::days(1)).await;
                set_resolved_at(&db, id, ten_oclock() - Duration::days(1)).await;
            }
            set_source(&db, &kept, "kept").await;
            let mut gone = closed_letters(&db, app, 21).await;
            let others = closed_letters(&db, new_app(), 20).await;
            match sweep.scope {
                SweepScope::App(_) => kept.extend(others),
                _ => gone.extend(others),
            }
            gone.sort();
            kept.sort();
            let (picked, deleted, archived) = sweep_all(&db, &sweep, due, 10).await;
            assert_eq!(
                (picked, deleted),
                ((gone.len() + KEPT) as u64, gone.len() as u64),
                "{sweep:?} {due:?}"
            );
            assert_eq!(left(&db).await, kept, "{sweep:?} {due:?}");
            if sweep.into {
                assert_eq!(archived, gone, "{sweep:?} {due:?}");
            }
            set_source(&db, &kept, "orders").await;
            db.execute("DELETE FROM dead_letters").await;
        }
    }
}

/// Since the caller may commit after an error of the archive, the archive comes first there.
async fn in_a_transaction_the_archive_also_gets_what_the_database_does_not_delete(db: TestDb) {
    refuse_to_delete(&db, "kept").await;
    let app = new_app();
    for scope in [SweepScope::App(app), SweepScope::AllApps, all_but(&[])] {
        let stored = closed_letters(&db, app, 3).await;
        set_source(&db, &stored[1..2], "kept").await;
        let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
        let repo = db.repo().in_transaction(&txn);
        let failed = repo.sweep_into(&scope, resolved_before_ten(), None, 10, &Full).await.unwrap_err();
        assert!(matches!(failed, DeadLetterRepoError::Archive(_)), "{failed:?}");
        SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
        assert_eq!(left(&db).await, stored, "{scope:?}");

        let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
        let (repo, shelf) = (db.repo().in_transaction(&txn), Shelf::default());
        let swept = repo.sweep_into(&scope, resolved_before_ten(), None, 10, &shelf).await.unwrap();
        assert_eq!(swept, sweep_of(3, 2, None), "{scope:?}");
        SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
        assert_eq!(shelf.ids(), stored, "{scope:?}");
        assert_eq!(left(&db).await, stored[1..2], "{scope:?}");
        set_source(&db, &stored, "orders").await;
        db.execute("DELETE FROM dead_letters").await;
    }
}

async fn rows_of_one_time_are_each_picked_once_across_batches(db: TestDb) {
    refuse_to_delete(&db, "kept").await;
    let apps = [1, 2].map(|app| AppId::from(Uuid::from_u128(app)));
    for sweep in Sweep::all_of(apps[0]) {
        for due in [created_before_noon(), resolved_before_ten()] {
            let mut stored = Vec::new();
            for &app in &apps {
                stored.extend(closed_letters(&db, app, 12).await);
            }
            for &id in &stored {
                db.set_created_at(id, ten_oclock() - Duration::hours(1)).await;
                set_resolved_at(&db, id, ten_oclock() - Duration::hours(1)).await;
            }
            let kept: Vec<_> = stored.iter().copied().step_by(3).collect();
            set_source(&db, &kept, "kept").await;
            let of_one_app = matches!(sweep.scope, SweepScope::App(_));
            let (picked, deleted, _) = sweep_all(&db, &sweep, due, 5).await;
            let expected = if of_one_app { (12, 8) } else { (24, 16) };
            assert_eq!((picked, deleted), expected, "{sweep:?} {due:?}");
            set_source(&db, &kept, "orders").await;
            db.execute("DELETE FROM dead_letters").await;
        }
    }
}

async fn a_batch_continues_after_a_cursor_made_by_hand(db: TestDb) {
    let apps = [1, 2, 3].map(|app| AppId::from(Uuid::from_u128(app)));
    for sweep in Sweep::all_of(apps[1]) {
        for due in [created_before_noon(), resolved_before_ten()] {
            let mut stored = Vec::new();
            for &app in &apps {
                let of_app = closed_letters(&db, app, 4).await;
                for (minute, &id) in (0..).zip(&of_app) {
                    let time = ten_oclock() - Duration::minutes(60 - minute);
                    db.set_created_at(id, time).await;
                    set_resolved_at(&db, id, time).await;
                }
                stored.push(of_app);
            }
            // Behind the second of four rows of the second app; the nanoseconds are less than the store holds.
            let time = ten_oclock() - Duration::minutes(59) + Duration::nanoseconds(999);
            let after = Some(SweepCursor { app_id: apps[1], time, id: stored[1][1] });
            let shelf = Shelf::default();
            let swept = match sweep.into {
                true => db.repo().sweep_into(&sweep.scope, due, after, 100, &shelf).await.unwrap(),
                false => db.repo().sweep(&sweep.scope, due, after, 100).await.unwrap(),
            };
            let kept = match (&sweep.scope, due) {
                (SweepScope::App(_), _) => [&stored[0], &stored[1][..2], &stored[2]].concat(),
                // By time: of rows of one time those with the larger ids go.
                (SweepScope::AllApps, Due::CreatedBefore(_)) => {
                    [&stored[0][..2], &stored[1][..2], &stored[2][..1]].concat()
                }
                _ => [&stored[0][..], &stored[1][..2]].concat(),
            };
            let gone = 12 - kept.len() as u64;
            assert_eq!(swept, sweep_of(gone, gone, None), "{sweep:?} {due:?}");
            assert_eq!(left(&db).await, kept, "{sweep:?} {due:?}");
            db.execute("DELETE FROM dead_letters").await;
        }
    }
    // Behind an app, wherever it is.
    for due in [created_before_noon(), resolved_before_ten()] {
        for app in apps {
            closed_letters(&db, app, 2).await;
        }
        let after = Some(SweepCursor::behind_app(apps[1]));
        let swept = db.repo().sweep(&all_but(&[]), due, after, 100).await.unwrap();
        assert_eq!(swept, sweep_of(2, 2, None));
        db.execute("DELETE FROM dead_letters").await;
    }
}

async fn an_error_that_the_database_raises_for_one_app_names_it_and_leaves_the_others(db: TestDb) {
    raise_on_delete(&db, "kept").await;
    let apps = [1, 2, 3].map(|app| AppId::from(Uuid::from_u128(app)));
    for into in [false, true] {
        for (scope, due) in [
            (all_but(&[]), created_before_noon()),
            (all_but(&[new_app()]), resolved_before_ten()),
            (SweepScope::AllApps, resolved_before_ten()),
        ] {
            let mut stored = Vec::new();
            for &app in &apps {
                stored.push(closed_letters(&db, app, 3).await);
            }
            // One of the three.
            set_source(&db, &stored[1][1..2], "kept").await;
            let shelf = Shelf::default();
            let sweep = async |after| match into {
                true => db.repo().sweep_into(&scope, due, after, 100, &shelf).await,
                false => db.repo().sweep(&scope, due, after, 100).await,
            };
            let first = sweep(None).await.unwrap();
            assert_eq!(first, sweep_of(3, 3, Some(SweepCursor::behind_app(apps[0]))));
            let failed = sweep(first.next).await.unwrap_err();
            let DeadLetterRepoError::AppNotSwept { app_id, .. } = failed else { panic!("{failed:?}") };
            assert_eq!(app_id, apps[1]);
            assert_eq!(left(&db).await, [&stored[1][..], &stored[2]].concat());
            let last = sweep(Some(SweepCursor::behind_app(app_id))).await.unwrap();
            assert_eq!(last, sweep_of(3, 3, None));
            assert_eq!(left(&db).await, stored[1], "{scope:?} {due:?}");
            if into {
                assert_eq!(shelf.ids(), [&stored[0][..], &stored[2]].concat());
            }
            set_source(&db, &stored[1], "orders").await;
            db.execute("DELETE FROM dead_letters").await;
        }
    }
}

#[tokio::test]
async fn a_letter_that_a_deferred_foreign_key_keeps_is_not_archived_on_postgres() {
    let db = TestDb::postgres().await;
    let apps = [1, 2].map(|app| AppId::from(Uuid::from_u128(app)));
    let (kept, due) = (closed_letters(&db, apps[0], 1).await, closed_letters(&db, apps[1], 1).await);
    db.execute("CREATE TABLE notes (letter uuid REFERENCES dead_letters (id) DEFERRABLE INITIALLY DEFERRED)")
        .await;
    db.execute(&format!("INSERT INTO notes VALUES ('{}')", kept[0])).await;
    let shelf = Shelf::default();
    let sweep =
        async |after| db.repo().sweep_into(&all_but(&[]), resolved_before_ten(), after, 10, &shelf).await;
    let failed = sweep(None).await.unwrap_err();
    assert!(
        matches!(failed, DeadLetterRepoError::AppNotSwept { app_id, .. } if app_id == apps[0]),
        "{failed:?}"
    );
    let swept = sweep(Some(SweepCursor::behind_app(apps[0]))).await.unwrap();
    assert_eq!(swept, sweep_of(1, 1, None));
    assert_eq!((shelf.ids(), left(&db).await), (due, kept));
}

async fn sweepers_with_different_policies_beside_operators_and_dispatchers_delete_due_rows_once(db: TestDb) {
    const DUE: usize = 40;
    let long = new_app();
    let apps: Vec<AppId> = (0..5).map(|_| new_app()).collect();
    let mut due = Vec::new();
    for &app in &apps {
        due.push((app, closed_letters(&db, app, DUE).await));
    }
    // Older than all, and kept for longer.
    let kept = closed_letters(&db, long, DUE).await;
    for &id in &kept {
        set_resolved_at(&db, id, ten_oclock() - Duration::days(100)).await;
    }

    let mut sweepers = JoinSet::new();
    let of_each = apps.iter().map(|&app| SweepScope::App(app)).collect();
    for (scopes, into) in [(vec![all_but(&[long])], true), (vec![all_but(&[long])], false), (of_each, true)] {
        let repo = db.repo();
        sweepers.spawn(async move {
            let (mut deleted, mut idle) = (0, 0);
            // Three idle sweeps end the loop, because a row that another sweeper had locked may be due again.
            while idle < 3 {
                let mut in_turn = 0;
                for scope in &scopes {
                    let sweep = Sweep { scope: scope.clone(), into };
                    let batch = sweep.run(&repo, resolved_before_ten(), 7).await;
                    assert!(batch <= 7);
                    in_turn += batch;
                }
                deleted += in_turn;
                idle = if in_turn == 0 { idle + 1 } else { 0 };
            }
            deleted
        });
    }
    let mut others = JoinSet::new();
    for (app, ids) in due {
        let repo = db.repo();
        others.spawn(async move {
            let (mut reopened, mut inserted) = (Vec::new(), Vec::new());
            // The resolver takes the youngest rows first, because the sweepers come from the other end.
            for id in ids.into_iter().take(DUE / 2) {
                inserted.push(repo.insert(letter(app)).await.unwrap());
                match repo.reopen(app, id, &Attribution::default()).await {
                    Ok(()) => reopened.push(id),
                    // Swept before.
                    Err(DeadLetterRepoError::NotFound(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            (reopened, inserted)
        });
    }
    let (reopened, inserted): (Vec<_>, Vec<_>) = others.join_all().await.into_iter().unzip();
    let reopened = reopened.concat();
    let mut deleted: u64 = sweepers.join_all().await.into_iter().sum();
    // The last sweep deletes the rows that were locked when the sweepers stopped.
    let rest = Sweep { scope: all_but(&[long]), into: false };
    deleted += rest.run(&db.repo(), resolved_before_ten(), 1_000).await;
    assert_eq!(deleted as usize, apps.len() * DUE - reopened.len());
    let mut expected = [reopened, inserted.concat(), kept].concat();
    expected.sort();
    assert_eq!(left(&db).await, expected);
}

/// SQLite has no row locks: there the sweep waits for the other writer.
#[tokio::test]
async fn a_row_whose_reopening_is_not_committed_is_skipped_on_postgres() {
    for db in [TestDb::postgres().await, TestDb::postgres_sharded().await] {
        let app = new_app();
        for sweep in Sweep::all_of(app) {
            let stored = closed_letters(&db, app, 3).await;
            let txn = db.db.begin().await.unwrap();
            db.repo().in_transaction(&txn).reopen(app, stored[2], &Attribution::default()).await.unwrap();
            assert_eq!(sweep.run(&db.repo(), resolved_before_ten(), 1).await, 1, "{sweep:?}");
            assert_eq!(sweep.run(&db.repo(), resolved_before_ten(), 10).await, 1, "{sweep:?}");
            txn.commit().await.unwrap();
            assert_eq!(sweep.run(&db.repo(), resolved_before_ten(), 10).await, 0, "{sweep:?}");
            assert_eq!(left(&db).await, stored[2..], "{sweep:?}");
            db.execute("DELETE FROM dead_letters").await;
        }
    }
}

#[tokio::test]
async fn rows_locked_by_another_transaction_are_skipped_by_each_sweep_on_postgres() {
    for db in [TestDb::postgres().await, TestDb::postgres_sharded().await] {
        let app = new_app();
        for sweep in Sweep::all_of(app) {
            let stored = rows(&db, app, 3).await;
            let txn = db.db.begin().await.unwrap();
            table::Entity::find_by_id(stored[0].into_inner())
                .lock_exclusive()
                .one(&txn)
                .await
                .unwrap()
                .unwrap();
            // The limit counts deleted rows, not skipped ones.
            assert_eq!(sweep.run(&db.repo(), created_before_noon(), 1).await, 1, "{sweep:?}");
            txn.rollback().await.unwrap();
            assert_eq!(left(&db).await, [stored[0], stored[2]], "{sweep:?}");
            db.execute("DELETE FROM dead_letters").await;
        }
    }
}

/// A call that is dropped between two deletions would leave a part of them to be committed.
#[tokio::test]
async fn in_a_callers_transaction_a_sweep_into_an_archive_deletes_with_one_statement_on_postgres() {
    let db = TestDb::postgres().await;
    let app = new_app();
    rows(&db, app, 1_001).await;
    let (recording, recorded) = db.connect_recorded().await;
    let txn = SeaOrmDeadLetterRepo::begin(&recording).await.unwrap();
    let repo = db.repo().in_transaction(&txn);
    let swept = repo
        .sweep_into(
            &SweepScope::App(app),
            Due::CreatedBefore(DateTime::<Utc>::MAX_UTC),
            None,
            2_000,
            &Nowhere,
        )
        .await
        .unwrap();
    assert_eq!(swept.deleted, 1_001);
    let statements = recorded.take();
    assert_eq!(
        statements.iter().filter(|sent| sent.sql.contains("DELETE FROM dead_letters")).count(),
        1,
        "{statements:?}"
    );
    SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
}

/// No lock spans shards: how many of the oldest are each app's is looked up before.
#[tokio::test]
async fn if_an_apps_rows_are_locked_a_sharded_sweep_deletes_fewer_and_continues_after_them_on_postgres() {
    let db = TestDb::postgres_sharded().await;
    let [first, second] = [1, 2].map(|number| AppId::from(Uuid::from_u128(number)));
    let held = rows(&db, first, 3).await;
    rows(&db, second, 2).await;
    let txn = db.db.begin().await.unwrap();
    let of_first = table::Entity::find().filter(table::Column::AppId.eq(first.into_inner()));
    assert_eq!(of_first.lock_exclusive().all(&txn).await.unwrap().len(), 3);
    let due = created_before_noon();

    let scope = all_but(&[]);
    for archive in [None, Some(Shelf::default())] {
        let mut after = None;
        for deleted in [0, 2] {
            let swept = match &archive {
                None => db.repo().sweep(&scope, due, after, 3).await.unwrap(),
                Some(archive) => db.repo().sweep_into(&scope, due, after, 3, archive).await.unwrap(),
            };
            assert_eq!((swept.picked, swept.deleted), (deleted, deleted));
            after = swept.next;
        }
        assert_eq!(after, None);
        assert_eq!(left(&db).await, held);
        rows(&db, second, 2).await;
    }
    // The two oldest are one of each app.
    let swept = db.repo().sweep(&SweepScope::AllApps, due, None, 2).await.unwrap();
    assert_eq!((swept.deleted, swept.next.map(|next| next.app_id)), (1, Some(second)));
    txn.rollback().await.unwrap();
    let swept = db.repo().sweep(&scope, due, None, 3).await.unwrap();
    assert_eq!((swept.deleted, swept.next.map(|next| next.app_id)), (3, Some(first)));
}

/// An archive that loses its sweep's connection before it returns.
struct Cutting<'a>(&'a TestDb, Shelf);

#[async_trait]
impl Archive for Cutting<'_> {
    async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.1.keep(letters).await?;
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND state = 'idle in transaction'";
        let cut = self.0.db.query_all_raw(Statement::from_string(DbBackend::Postgres, cut)).await?;
        assert_eq!(cut.len(), 1);
        Ok(())
    }
}

#[tokio::test]
async fn a_sweep_whose_connection_is_lost_once_the_archive_has_the_rows_deletes_nothing_on_postgres() {
    for db in [TestDb::postgres().await, TestDb::postgres_sharded().await] {
        let app = new_app();
        let stored = closed_letters(&db, app, 3).await;
        let archive = Cutting(&db, Shelf::default());
        let failed = db
            .repo()
            .sweep_into(&SweepScope::AllApps, resolved_before_ten(), None, 10, &archive)
            .await
            .unwrap_err();
        assert!(failed.is_transient(), "{failed}");
        assert_eq!(archive.1.ids(), stored);
        assert_eq!(left(&db).await, stored);
        let again = Shelf::default();
        let swept = db
            .repo()
            .sweep_into(&SweepScope::AllApps, resolved_before_ten(), None, 10, &again)
            .await
            .unwrap();
        assert_eq!((swept.deleted, again.ids()), (3, stored));
    }
}
