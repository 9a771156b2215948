//! Tests of the history: which rows the calls write, and how they are read.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    error::Error,
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use dead_letters::{
    Action, ActionRequest, AppId, Attribution, Changed, DeadLetterAction, DeadLetterDelete, DeadLetterFilter,
    DeadLetterId, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve,
    DeadLetterRetention, DeadLetterState, DeadLetterTransfer, Due, ReopenRequest, ReplayRequest, Requeue,
    Resolution, SeaOrmDeadLetterRepo, StoredLetter, SweepScope, SweptActions,
    entity::dead_letter_actions as table, testing::stored_letter,
};
use sea_orm::{ActiveValue::Set, DatabaseTransaction, DbBackend, EntityTrait};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{letter, new_app, reopen_replayed, retention::Nowhere};
use crate::database::TestDb;

on_every_backend! {
    a_change_of_one_letter_writes_one_row_with_who_why_and_the_previous_resolution,
    a_bulk_call_writes_one_row_with_its_filter_and_a_runs_count_is_the_sum_of_its_batches,
    a_bulk_call_that_names_one_letter_writes_its_previous_resolution,
    each_batch_of_a_run_is_done_once,
    only_one_of_several_concurrent_calls_with_one_number_is_done,
    a_replay_in_parts_has_its_number_once,
    a_batch_that_was_done_changes_nothing_in_a_callers_transaction,
    a_call_that_changes_nothing_writes_no_row,
    calls_that_are_no_operators_write_no_row,
    a_replay_writes_its_row_with_the_requeue_or_not_at_all,
    an_edited_replay_is_an_edit_without_its_payload,
    a_reveal_is_recorded_with_who_saw_it_and_leaves_the_letter_as_it_is,
    rows_outlive_their_letters,
    a_deletion_is_in_the_history_with_its_count,
    pages_are_newest_first_and_a_letters_history_has_the_batches_of_its_run,
    a_filters_ids_are_kept_as_a_number_and_a_long_filter_is_cut,
    long_texts_are_cut_where_they_are_read_and_debug_shows_none,
    another_apps_history_is_not_shown,
    recent_apps_are_those_with_an_action_since_then,
    recent_apps_and_the_version_of_all_letters_go_by_the_newest_rows_of_all_apps,
    a_limit_outside_1_to_500_is_refused_and_nothing_is_sent,
    only_concurrent_callers_that_changed_the_letter_write_a_row,
    an_action_that_only_a_newer_version_knows_is_shown_without_it,
    a_sweep_deletes_old_rows_app_by_app_and_no_younger_one,
    rows_that_the_database_does_not_delete_end_no_sweep,
    in_a_callers_transaction_a_change_is_rolled_back_with_its_row,
}

fn seen() -> Attribution {
    Attribution::by("ada").note("seen")
}

async fn letters(db: &TestDb, app: AppId, count: usize) -> Vec<DeadLetterId> {
    db.repo().insert_many(vec![letter(app); count]).await.unwrap()
}

async fn found(db: &TestDb, app: AppId, request: ActionRequest) -> Vec<DeadLetterAction> {
    db.repo().actions(app, &request).await.unwrap()
}

/// Returns the app's history, oldest first.
async fn history(db: &TestDb, app: AppId) -> Vec<DeadLetterAction> {
    let mut rows = found(db, app, ActionRequest::default().limit(500)).await;
    rows.reverse();
    rows
}

/// Returns the action, how many letters it changed, and the resolution after it and before it.
fn shown(row: &DeadLetterAction) -> (Action, u64, Option<Resolution>, Option<Resolution>) {
    (row.action.unwrap(), row.letters, row.resolution, row.previous_resolution)
}

async fn replay(db: &TestDb, app: AppId, id: DeadLetterId, by: &Attribution) {
    let replayed: Result<_, DeadLetterRepoError> =
        db.repo().replay_with(app, id, by, async |_, _| Ok(())).await;
    replayed.unwrap();
}

async fn a_change_of_one_letter_writes_one_row_with_who_why_and_the_previous_resolution(db: TestDb) {
    use Resolution::{HandlerFailed, Ignored, Replayed};
    let (app, repo) = (new_app(), db.repo());
    let id = letters(&db, app, 2).await[0];
    let before = Utc::now() - TimeDelta::minutes(1);
    repo.resolve_once(app, id, HandlerFailed, &seen()).await.unwrap();
    repo.resolve_once(app, id, Ignored, &Attribution::default()).await.unwrap();
    repo.reopen(app, id, &Attribution::by("ben")).await.unwrap();
    let run = Uuid::now_v7();
    replay(&db, app, id, &seen().run_id(run)).await;
    reopen_replayed(&repo, app, id).await;

    let rows = history(&db, app).await;
    assert_eq!(
        rows.iter().map(shown).collect::<Vec<_>>(),
        [
            (Action::Resolve, 1, Some(HandlerFailed), None),
            (Action::Resolve, 1, Some(Ignored), Some(HandlerFailed)),
            (Action::Reopen, 1, None, Some(Ignored)),
            (Action::Replay, 1, Some(Replayed), None),
            // A bulk call that names the letter.
            (Action::Reopen, 1, None, Some(Replayed)),
        ]
    );
    let who: Vec<_> = rows.iter().map(|row| (row.actor.as_deref(), row.note.as_deref())).collect();
    let ada = (Some("ada"), Some("seen"));
    assert_eq!(who, [ada, (None, None), (Some("ben"), None), ada, (None, None)]);
    assert_eq!(rows.iter().filter_map(|row| row.run_id).collect::<Vec<_>>(), [run]);
    for row in &rows {
        assert_eq!((row.app_id, row.letter_id, row.filter.as_deref()), (app, Some(id), None));
        assert!((before..before + TimeDelta::minutes(2)).contains(&row.created_at), "{row:?}");
    }
    assert!(rows.is_sorted_by_key(|row| row.created_at));
}

async fn a_bulk_call_that_names_one_letter_writes_its_previous_resolution(db: TestDb) {
    use Resolution::{HandlerFailed, Ignored, Replayed};
    let (app, repo) = (new_app(), db.repo());
    let id = letters(&db, app, 2).await[0];
    let (this, reopening) = (DeadLetterFilter::default().ids([id]), ReopenRequest::default());
    for resolution in [HandlerFailed, Ignored] {
        repo.resolve_matching(app, &this, resolution, &seen(), 1).await.unwrap();
    }
    repo.reopen_matching(app, &this, &seen(), &reopening).await.unwrap();
    repo.resolve_matching(app, &this, HandlerFailed, &seen(), 1).await.unwrap();
    let enqueue = async |_: &_, _| Ok::<_, DeadLetterRepoError>(());
    repo.replay_matching_with(app, &this, &seen(), 1, enqueue).await.unwrap();
    let closed = this.state(DeadLetterState::Closed);
    repo.delete_matching(app, &closed, &seen(), 1).await.unwrap();

    let rows = history(&db, app).await;
    assert_eq!(
        rows.iter().map(shown).collect::<Vec<_>>(),
        [
            (Action::Resolve, 1, Some(HandlerFailed), None),
            (Action::Resolve, 1, Some(Ignored), Some(HandlerFailed)),
            (Action::Reopen, 1, None, Some(Ignored)),
            (Action::Resolve, 1, Some(HandlerFailed), None),
            (Action::Replay, 1, Some(Replayed), Some(HandlerFailed)),
            (Action::Delete, 1, None, Some(Replayed)),
        ]
    );
    assert!(rows.iter().all(|row| row.letter_id == Some(id)));
}

async fn each_batch_of_a_run_is_done_once(db: TestDb) {
    let (app, repo, run) = (new_app(), db.repo(), Uuid::now_v7());
    let ids = letters(&db, app, 8).await;
    let (all, reopening) = (created_before_now(), ReopenRequest::default().limit(1));
    let these = |ids: &[DeadLetterId]| DeadLetterFilter::default().ids(ids);
    let enqueued = AtomicUsize::new(0);
    let enqueue = async |_: &_, letters: Vec<_>| {
        enqueued.fetch_add(letters.len(), Ordering::Relaxed);
        Ok::<_, DeadLetterRepoError>(())
    };
    for is_again in [false, true] {
        let by = |batch| seen().run_id(run).batch(batch);
        let resolved = repo.resolve_matching(app, &all, Resolution::Ignored, &by(0), 2).await;
        let replayed = repo.replay_matching_with(app, &all, &by(1), 2, enqueue).await;
        let reopened = repo.reopen_matching(app, &these(&ids[..2]), &by(2), &reopening).await;
        let deleted = repo.delete_matching(app, &these(&ids[4..6]), &by(3), 1).await;
        let one = repo.resolve_once(app, ids[6 + usize::from(is_again)], Resolution::Ignored, &by(4)).await;
        let one = one.map(|_| Changed::default());
        let changed = [resolved, replayed, reopened, deleted, one];
        match is_again {
            false => assert!(changed.iter().all(Result::is_ok), "{changed:?}"),
            true => assert!(
                changed.iter().all(|changed| matches!(changed, Err(DeadLetterRepoError::BatchDone))),
                "{changed:?}"
            ),
        }
        let rows = history(&db, app).await;
        assert_eq!(
            rows.iter().map(|row| (row.batch, row.letters)).collect::<Vec<_>>(),
            [(Some(0), 2), (Some(1), 2), (Some(2), 1), (Some(3), 1), (Some(4), 1)]
        );
        assert_eq!(repo.unresolved_count(app).await.unwrap(), 3);
        assert_eq!(enqueued.load(Ordering::Relaxed), 2);
    }
    // Another app, another run, and a call without a number.
    let other = new_app();
    letters(&db, other, 1).await;
    let by = seen().run_id(run).batch(0);
    assert_eq!(ignore_all(&db, other, &by).await, 1);
    assert_eq!(ignore_all(&db, app, &seen().run_id(run)).await, 3);
    repo.reopen_matching(app, &these(&ids), &seen().run_id(Uuid::now_v7()).batch(0), &reopening)
        .await
        .unwrap();
    // A call that changes nothing does not use up its number.
    let by = seen().run_id(run).batch(5);
    repo.delete_matching(app, &all, &by, 1_000).await.unwrap();
    assert_eq!(ignore_all(&db, app, &seen().run_id(run).batch(6)).await, 0);
    letters(&db, app, 1).await;
    assert_eq!(ignore_all(&db, app, &seen().run_id(run).batch(6)).await, 1);
}

fn created_before_now() -> DeadLetterFilter {
    DeadLetterFilter::default().created_before(DateTime::<Utc>::MAX_UTC)
}

async fn ignore_all(db: &TestDb, app: AppId, by: &Attribution) -> usize {
    let all = created_before_now();
    db.repo().resolve_matching(app, &all, Resolution::Ignored, by, 1_000).await.unwrap().ids.len()
}

async fn only_one_of_several_concurrent_calls_with_one_number_is_done(db: TestDb) {
    let (app, repo, run) = (new_app(), db.repo(), Uuid::now_v7());
    letters(&db, app, 40).await;
    for batch in 0..10 {
        let (by, all) = (seen().run_id(run).batch(batch), created_before_now());
        let call = || repo.resolve_matching(app, &all, Resolution::Ignored, &by, 1);
        let enqueue = async |_: &_, _| Ok::<_, DeadLetterRepoError>(());
        let replay = repo.replay_matching_with(app, &all, &by, 1, enqueue);
        let (one, two, replayed) = tokio::join!(call(), call(), replay);
        let (done, refused): (Vec<_>, Vec<_>) = [one, two, replayed].into_iter().partition(Result::is_ok);
        assert_eq!(done.len(), 1);
        assert!(
            refused.iter().all(|refused| matches!(refused, Err(DeadLetterRepoError::BatchDone))),
            "{refused:?}"
        );
    }
    assert_eq!(repo.unresolved_count(app).await.unwrap(), 30);
    assert_eq!(history(&db, app).await.iter().map(|row| row.letters).collect::<Vec<_>>(), [1; 10]);
}

/// Refuses one letter.
struct AllBut(DeadLetterId);

#[async_trait]
impl Requeue for AllBut {
    async fn requeue(
        &self,
        _: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        if letters.iter().any(|letter| letter.id == self.0) { Err("refused".into()) } else { Ok(()) }
    }
}

async fn a_replay_in_parts_has_its_number_once(db: TestDb) {
    let (app, run) = (new_app(), Uuid::now_v7());
    let ids = letters(&db, app, 4).await;
    let replayer = db.repo().replayer(AllBut(ids[1]));
    let (by, request) = (seen().run_id(run).batch(0), ReplayRequest::default());
    let replayed = replayer.replay_matching(app, &created_before_now(), &by, &request).await.unwrap();
    assert_eq!((replayed.ids.len(), replayed.failed.len()), (3, 1));
    let rows = history(&db, app).await;
    let rows: Vec<_> = rows.iter().map(|row| (row.run_id, row.batch, row.letters)).collect();
    assert_eq!(rows, [(Some(run), Some(0), 1), (Some(run), None, 2)]);
    let again = replayer.replay_matching(app, &created_before_now(), &by, &request).await;
    assert!(matches!(again, Err(DeadLetterRepoError::BatchDone)), "{again:?}");
}

async fn a_batch_that_was_done_changes_nothing_in_a_callers_transaction(db: TestDb) {
    let (app, by) = (new_app(), seen().run_id(Uuid::now_v7()).batch(0));
    let id = letters(&db, app, 3).await[2];
    let all = created_before_now();
    db.repo().resolve_matching(app, &all, Resolution::Ignored, &by, 1).await.unwrap();
    for is_bulk in [true, false] {
        let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
        let repo = db.repo();
        let repo = repo.in_transaction(&txn);
        let outcome = match is_bulk {
            true => repo.resolve_matching(app, &all, Resolution::Ignored, &by, 1).await.map(drop),
            false => repo.resolve_once(app, id, Resolution::Ignored, &by).await.map(drop),
        };
        assert!(matches!(outcome, Err(DeadLetterRepoError::BatchDone)), "{outcome:?}");
        let committed = SeaOrmDeadLetterRepo::commit(txn).await;
        // PostgreSQL aborts the transaction of a statement that failed.
        assert_eq!(committed.is_ok(), db.db.get_database_backend() == DbBackend::Sqlite);
        assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 2);
    }
}

/// Citus returns such an error, with the name of the index of a shard.
#[tokio::test]
async fn an_error_that_names_the_index_only_in_its_message_is_a_done_batch_on_postgres() {
    let db = TestDb::postgres().await;
    let app = new_app();
    letters(&db, app, 1).await;
    db.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         RAISE EXCEPTION 'duplicate key value violates unique constraint \"idx_dead_letter_actions_batch_102008\"'
         USING ERRCODE = '23505'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON dead_letter_actions FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    let by = seen().run_id(Uuid::now_v7()).batch(0);
    let error = db
        .repo()
        .resolve_matching(app, &created_before_now(), Resolution::Ignored, &by, 1)
        .await
        .unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::BatchDone), "{error:?}");
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 1);
}

async fn a_bulk_call_writes_one_row_with_its_filter_and_a_runs_count_is_the_sum_of_its_batches(db: TestDb) {
    let (app, repo, run) = (new_app(), db.repo(), Uuid::now_v7());
    let ids = letters(&db, app, 5).await;
    let orders = DeadLetterFilter::default().source("orders").created_before(DateTime::<Utc>::MAX_UTC);
    let by = seen().run_id(run);
    while repo.resolve_matching(app, &orders, Resolution::Ignored, &by, 2).await.unwrap().more {}
    let of_run = DeadLetterFilter::default().run_id(run);
    let undo = Attribution::by("ben");
    repo.reopen_matching(app, &of_run, &undo, &ReopenRequest::default()).await.unwrap();
    let replayed =
        repo.replay_matching_with(app, &orders, &by, 10, async |_, _| Ok::<_, DeadLetterRepoError>(())).await;
    assert_eq!(replayed.unwrap().ids.len(), 5);

    let rows = history(&db, app).await;
    let ignored = |letters| (Action::Resolve, letters, Some(Resolution::Ignored), None);
    assert_eq!(
        rows.iter().map(shown).collect::<Vec<_>>(),
        [
            ignored(2),
            ignored(2),
            ignored(1),
            (Action::Reopen, 5, None, None),
            (Action::Replay, 5, Some(Resolution::Replayed), None),
        ]
    );
    assert!(rows.iter().all(|row| row.letter_id.is_none()));
    assert!(rows[0].filter.as_deref().unwrap().starts_with("source=orders&"), "{:?}", rows[0].filter);
    assert_eq!(rows[3].filter, Some(format!("run_id={run}")));
    assert_eq!((rows[3].actor.as_deref(), rows[3].run_id), (Some("ben"), None));
    let mut of_runs = BTreeMap::new();
    for row in rows.iter().filter(|row| row.action == Some(Action::Resolve)) {
        *of_runs.entry(row.run_id).or_default() += row.letters;
    }
    assert_eq!(of_runs, BTreeMap::from([(Some(run), ids.len() as u64)]));
}

async fn a_call_that_changes_nothing_writes_no_row(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    let ids = letters(&db, app, 2).await;
    repo.resolve(ids[0], "ignored").await.unwrap();
    repo.resolve_once(app, ids[0], Resolution::Ignored, &seen()).await.unwrap_err();
    repo.resolve_once(new_app(), ids[1], Resolution::Ignored, &seen()).await.unwrap_err();
    repo.reopen(app, ids[1], &seen()).await.unwrap_err();
    let none = DeadLetterFilter::default().source("none");
    let open = none.clone().created_before(DateTime::<Utc>::MAX_UTC);
    let closed = none.resolved_before(DateTime::<Utc>::MAX_UTC);
    repo.resolve_matching(app, &open, Resolution::Ignored, &seen(), 10).await.unwrap();
    repo.reopen_matching(app, &closed, &seen(), &ReopenRequest::default()).await.unwrap();
    let replayed: Result<_, DeadLetterRepoError> =
        repo.replay_matching_with(app, &open, &seen(), 10, async |_, _| panic!("enqueued")).await;
    replayed.unwrap();
    assert_eq!(history(&db, app).await, []);
}

async fn calls_that_are_no_operators_write_no_row(db: TestDb) {
    let (app, repo, max) = (new_app(), db.repo(), DateTime::<Utc>::MAX_UTC);
    let ids = letters(&db, app, 3).await;
    repo.insert(letter(app)).await.unwrap();
    repo.bury_with(letter(app), async |_| Ok(1)).await.unwrap();
    repo.import(&[stored_letter(app, Utc::now())]).await.unwrap();
    repo.resolve(ids[0], "ignored").await.unwrap();
    repo.sweep(&SweepScope::App(app), Due::ClosedBefore(max), None, 10).await.unwrap();
    assert_eq!(repo.gc(max, 10).await.unwrap(), 5);
    assert_eq!(history(&db, app).await, []);
}

async fn a_replay_writes_its_row_with_the_requeue_or_not_at_all(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    let id = letters(&db, app, 1).await[0];
    let all = DeadLetterFilter::default().ids([id]);
    let failed: Result<(), _> =
        repo.replay_with(app, id, &seen(), async |_, _| Err(DeadLetterRepoError::RuntimeEnded)).await;
    failed.unwrap_err();
    let failed = repo
        .replay_matching_with(app, &all, &seen(), 10, async |_, _| Err(DeadLetterRepoError::RuntimeEnded))
        .await;
    failed.unwrap_err();
    assert_eq!(history(&db, app).await, []);
    replay(&db, app, id, &seen()).await;
    assert_eq!(history(&db, app).await.len(), 1);
}

async fn an_edited_replay_is_an_edit_without_its_payload(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    let id = letters(&db, app, 1).await[0];
    repo.replayer(Nowhere).replay_edited(app, id, "\"edited\"", &seen()).await.unwrap();
    let row = history(&db, app).await.remove(0);
    assert_eq!(shown(&row), (Action::Edit, 1, Some(Resolution::Replayed), None));
    assert_eq!((row.letter_id, row.filter, row.actor.as_deref()), (Some(id), None, Some("ada")));
}

async fn a_reveal_is_recorded_with_who_saw_it_and_leaves_the_letter_as_it_is(db: TestDb) {
    let (repo, app) = (db.repo(), new_app());
    let id = letters(&db, app, 1).await[0];
    let before = repo.get(id).await.unwrap();
    repo.record_reveal(app, id, &Attribution::by("ada \0")).await.unwrap();
    repo.record_reveal(app, id, &Attribution::default()).await.unwrap();
    let rows = history(&db, app).await;
    let actors: Vec<_> = rows.iter().map(|row| row.actor.as_deref()).collect();
    assert_eq!(actors, [Some("ada \u{fffd}"), None]);
    for row in rows {
        assert_eq!((row.action, row.letter_id, row.letters), (Some(Action::Reveal), Some(id), 1));
        assert_eq!((row.note, row.resolution, row.previous_resolution, row.run_id), (None, None, None, None));
    }
    assert_eq!(repo.get(id).await.unwrap(), before);
    let other = new_app();
    let gone = repo.record_reveal(other, id, &Attribution::by("ada")).await;
    assert!(matches!(gone, Err(DeadLetterRepoError::NotFound(of)) if of == id), "{gone:?}");
    assert!(history(&db, other).await.is_empty());
}

async fn rows_outlive_their_letters(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    let id = letters(&db, app, 1).await[0];
    repo.resolve_once(app, id, Resolution::Ignored, &seen()).await.unwrap();
    repo.gc(DateTime::<Utc>::MAX_UTC, 10).await.unwrap();
    assert!(repo.summary(app, id).await.unwrap().is_none());
    assert_eq!(found(&db, app, ActionRequest::default().letter_id(id)).await.len(), 1);
}

async fn a_deletion_is_in_the_history_with_its_count(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    let ids = letters(&db, app, 3).await;
    let two = DeadLetterFilter::default().ids(ids[..2].to_vec());
    for deleted in [2, 0] {
        let changed = repo.delete_matching(app, &two, &seen(), 10).await.unwrap();
        assert_eq!(changed.ids.len(), deleted);
    }
    let rows = history(&db, app).await;
    assert_eq!(rows.iter().map(shown).collect::<Vec<_>>(), [(Action::Delete, 2, None, None)]);
    assert_eq!((rows[0].actor.as_deref(), rows[0].filter.as_deref()), (Some("ada"), Some("ids=2+letters")));
}

async fn pages_are_newest_first_and_a_letters_history_has_the_batches_of_its_run(db: TestDb) {
    let (app, repo, run) = (new_app(), db.repo(), Uuid::now_v7());
    let ids = letters(&db, app, 4).await;
    repo.resolve_once(app, ids[0], Resolution::HandlerFailed, &seen()).await.unwrap();
    // Another letter of the run.
    repo.resolve_once(app, ids[3], Resolution::Ignored, &seen().run_id(run)).await.unwrap();
    let all = DeadLetterFilter::default().ids(ids.clone());
    while repo.resolve_matching(app, &all, Resolution::Ignored, &seen().run_id(run), 2).await.unwrap().more {}
    repo.reopen(app, ids[0], &seen()).await.unwrap();
    let counts = |rows: &[DeadLetterAction]| {
        rows.iter().map(|row| (row.action.unwrap(), row.letters)).collect::<Vec<_>>()
    };
    use Action::{Reopen, Resolve};

    let of_letter = ActionRequest::default().letter_id(ids[0]);
    assert_eq!(counts(&found(&db, app, of_letter).await), [(Reopen, 1), (Resolve, 1)]);
    let of_run = ActionRequest::default().run_id(run);
    assert_eq!(counts(&found(&db, app, of_run).await), [(Resolve, 1), (Resolve, 2), (Resolve, 1)]);
    let both = of_letter.run_id(run);
    let merged = found(&db, app, both).await;
    assert_eq!(counts(&merged), [(Reopen, 1), (Resolve, 1), (Resolve, 2), (Resolve, 1)]);
    assert!(merged.iter().all(|row| row.letter_id.is_none_or(|id| id == ids[0])));

    for request in [ActionRequest::default(), both] {
        let whole = found(&db, app, request).await;
        let mut paged = Vec::new();
        let mut page = request.limit(2);
        loop {
            let rows = found(&db, app, page).await;
            page.after = rows.last().map(|row| row.id);
            paged.extend(rows.iter().cloned());
            if rows.len() < 2 {
                break;
            }
        }
        assert_eq!(paged, whole);
        assert!(whole.iter().rev().is_sorted_by_key(|row| row.id));
    }
    assert_eq!(found(&db, app, ActionRequest::default()).await.len(), 5);
}

async fn a_filters_ids_are_kept_as_a_number_and_a_long_filter_is_cut(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    let ids = letters(&db, app, 3).await;
    let ticked = DeadLetterFilter::default().ids(ids[..2].to_vec());
    repo.resolve_matching(app, &ticked, Resolution::Ignored, &seen(), 10).await.unwrap();
    let one = DeadLetterFilter::default().ids([ids[2]]);
    repo.resolve_matching(app, &one, Resolution::Ignored, &seen(), 10).await.unwrap();
    let of_letter = found(&db, app, ActionRequest::default().letter_id(ids[2])).await;
    assert_eq!((of_letter.len(), of_letter[0].filter.as_deref()), (1, None));
    let of_source = ticked.source("orders");
    repo.reopen_matching(app, &of_source, &seen(), &ReopenRequest::default()).await.unwrap();
    let long = "é".repeat(2_000);
    let every = DeadLetterFilter::default().created_before(DateTime::<Utc>::MAX_UTC);
    db.execute(&format!("UPDATE dead_letters SET op = '{long}'")).await;
    repo.resolve_matching(app, &every.op(long), Resolution::Ignored, &seen(), 10).await.unwrap();
    let filters: Vec<_> = history(&db, app).await.into_iter().filter_map(|row| row.filter).collect();
    assert_eq!(filters[..2], ["ids=2+letters", "ids=2+letters&source=orders"]);
    let cut = filters[2].strip_suffix(" [cut]").unwrap();
    assert!(cut.starts_with("op=%C3%A9") && filters[2].len() == 1_000, "{cut}");
}

async fn long_texts_are_cut_where_they_are_read_and_debug_shows_none(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    let ids = letters(&db, app, 2).await;
    // The name has letters that no id in hexadecimal has.
    let by = Attribution::by("bob\0".repeat(1_000)).note("seen".repeat(1_000));
    let all = DeadLetterFilter::default().ids(ids).source("orders");
    repo.resolve_matching(app, &all, Resolution::Ignored, &by, 10).await.unwrap();
    let row = history(&db, app).await.remove(0);
    let (actor, note) = (row.actor.clone().unwrap(), row.note.clone().unwrap());
    assert!(actor.starts_with("bob\u{FFFD}bob") && actor.ends_with(" [cut]"), "{actor}");
    assert_eq!((actor.chars().count(), note.chars().count()), (506, 2_006));
    let debug = format!("{row:?}");
    assert!(!debug.contains("bob") && !debug.contains("seen") && !debug.contains("orders"), "{debug}");
}

async fn another_apps_history_is_not_shown(db: TestDb) {
    let (app, other, repo, run) = (new_app(), new_app(), db.repo(), Uuid::now_v7());
    let id = letters(&db, app, 1).await[0];
    repo.resolve_once(app, id, Resolution::Ignored, &seen().run_id(run)).await.unwrap();
    let all = ActionRequest::default();
    for request in [all, all.letter_id(id), all.run_id(run), all.letter_id(id).run_id(run)] {
        assert_eq!(found(&db, other, request).await, []);
        assert_eq!(found(&db, app, request).await.len(), 1, "{request:?}");
    }
}

async fn a_limit_outside_1_to_500_is_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    for limit in [0, 501, u32::MAX] {
        let error = repo.actions(new_app(), &ActionRequest::default().limit(limit)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "`limit` must be between 1 and 500 (got {})",
                dead_letters::CappedCount::from(u64::from(limit))
            )
        );
    }
    assert_eq!(recorded.take(), []);
}

async fn only_concurrent_callers_that_changed_the_letter_write_a_row(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    for id in letters(&db, app, 10).await {
        let changes: JoinSet<_> = (0..8)
            .map(|caller| {
                let repo = repo.clone();
                async move {
                    match caller % 2 {
                        0 => repo.resolve_once(app, id, Resolution::Ignored, &seen()).await.is_ok(),
                        _ => repo.reopen(app, id, &seen()).await.is_ok(),
                    }
                }
            })
            .collect();
        let changed = changes.join_all().await.into_iter().filter(|&is_changed| is_changed).count();
        let rows = found(&db, app, ActionRequest::default().letter_id(id)).await;
        assert_eq!(rows.len(), changed);
        for row in rows {
            // A letter is reopened only from a resolution, and resolved only when it was open.
            let expected = Some(Resolution::Ignored).filter(|_| row.action == Some(Action::Reopen));
            assert_eq!(row.previous_resolution, expected);
        }
    }
}

async fn an_action_that_only_a_newer_version_knows_is_shown_without_it(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    let id = letters(&db, app, 1).await[0];
    repo.resolve_once(app, id, Resolution::Ignored, &seen()).await.unwrap();
    let update = "UPDATE dead_letter_actions SET action = 'snooze', resolution = 'snoozed'";
    match db.db.get_database_backend() {
        DbBackend::Sqlite => {
            let unchecked = "PRAGMA ignore_check_constraints = ON";
            db.execute(&format!("{unchecked}; {update}; PRAGMA ignore_check_constraints = OFF")).await;
        }
        _ => {
            let unchecked =
                "ALTER TABLE dead_letter_actions DROP CONSTRAINT dead_letter_actions_action_check";
            db.execute(&format!("{unchecked}; {update}")).await;
        }
    }
    let row = history(&db, app).await.remove(0);
    assert_eq!((row.action, row.resolution, row.letter_id), (None, None, Some(id)));
}

/// Stores a row of so many days ago.
pub(super) async fn old_row(db: &TestDb, app: AppId, days: i64) -> Uuid {
    let at = Utc::now() - TimeDelta::days(days);
    let random = Uuid::new_v4().as_u128() >> 48;
    let id = Uuid::from_u128(u128::try_from(at.timestamp_millis()).unwrap() << 80 | random);
    let row = table::ActiveModel {
        app_id: Set(app.into_inner()),
        id: Set(id),
        action: Set("resolve".to_owned()),
        created_at: Set(at.trunc_subsecs(6).into()),
        letter_id: Set(Some(Uuid::new_v4())),
        letters: Set(1),
        ..Default::default()
    };
    table::Entity::insert(row).exec_without_returning(&db.db).await.unwrap();
    id
}

/// Sweeps to the end, and returns how many rows each batch deleted.
async fn swept(db: &TestDb, days: i64, limit: u32) -> Vec<u64> {
    let (before, mut first_app, mut deleted) = (Utc::now() - TimeDelta::days(days), None, Vec::new());
    loop {
        let swept = db.repo().sweep_actions(before, first_app, limit).await.unwrap();
        deleted.push(swept.deleted);
        assert!(swept.next >= first_app || swept.next.is_none());
        first_app = swept.next;
        if first_app.is_none() {
            return deleted;
        }
    }
}

async fn a_sweep_deletes_old_rows_app_by_app_and_no_younger_one(db: TestDb) {
    let [one, young, two]: [AppId; 3] = [1, 2, u128::MAX].map(|app| Uuid::from_u128(app).into());
    let mut kept = Vec::new();
    for days in [40, 9, 50, 30] {
        let id = old_row(&db, one, days).await;
        kept.extend((days < 10).then_some(id));
    }
    old_row(&db, young, 1).await;
    let oldest = old_row(&db, two, 20).await;
    assert_eq!(db.repo().sweep_actions(Utc::now(), None, 0).await.unwrap(), SweptActions::default());
    assert_eq!(swept(&db, 45, 2).await, [1, 0]);
    assert_eq!(swept(&db, 10, 2).await, [2, 1]);
    assert_eq!(history(&db, one).await.iter().map(|row| row.id).collect::<Vec<_>>(), kept);
    assert_eq!((history(&db, young).await.len(), history(&db, two).await.len()), (1, 0));
    assert!(!kept.contains(&oldest));
    for time in [DateTime::<Utc>::MIN_UTC, DateTime::UNIX_EPOCH] {
        assert_eq!(db.repo().sweep_actions(time, None, 10).await.unwrap(), SweptActions::default());
    }
    let max = DateTime::<Utc>::MAX_UTC;
    assert_eq!(db.repo().sweep_actions(max, Some(young), 10).await.unwrap().deleted, 1);
    assert_eq!(db.repo().sweep_actions(max, Some(two), 10).await.unwrap(), SweptActions::default());
    assert_eq!(history(&db, one).await.len(), 1);
}

async fn rows_that_the_database_does_not_delete_end_no_sweep(db: TestDb) {
    let [one, two]: [AppId; 2] = [1, 2].map(|app| Uuid::from_u128(app).into());
    let kept = old_row(&db, one, 90).await;
    for app in [one, one, one, two] {
        old_row(&db, app, 30).await;
    }
    let refuse = match db.db.get_database_backend() {
        DbBackend::Sqlite => format!(
            "CREATE TRIGGER refuse BEFORE DELETE ON dead_letter_actions WHEN OLD.id = x'{}'
                 BEGIN SELECT RAISE(IGNORE); END",
            kept.simple()
        ),
        _ => format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF OLD.id = '{kept}' THEN RETURN NULL; END IF;
                 RETURN OLD;
             END $$;
             CREATE TRIGGER refuse BEFORE DELETE ON dead_letter_actions
                 FOR EACH ROW EXECUTE FUNCTION refuse()"
        ),
    };
    db.execute(&refuse).await;
    // The first app's other rows are left to the next tick.
    assert_eq!(swept(&db, 10, 2).await, [1, 1, 0]);
    assert_eq!(swept(&db, 10, 100).await, [2, 0]);
    assert_eq!(swept(&db, 10, 100).await, [0, 0]);
    assert_eq!(history(&db, one).await.iter().map(|row| row.id).collect::<Vec<_>>(), [kept]);
}

async fn in_a_callers_transaction_a_change_is_rolled_back_with_its_row(db: TestDb) {
    let app = new_app();
    let ids = letters(&db, app, 2).await;
    for commits in [false, true] {
        let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
        let repo = db.repo();
        let repo = repo.in_transaction(&txn);
        repo.resolve_once(app, ids[0], Resolution::Ignored, &seen()).await.unwrap();
        repo.reopen(app, ids[0], &seen()).await.unwrap();
        let all = DeadLetterFilter::default().ids(ids.clone());
        repo.resolve_matching(app, &all, Resolution::Ignored, &seen(), 10).await.unwrap();
        assert_eq!(repo.actions(app, &ActionRequest::default()).await.unwrap().len(), 3);
        match commits {
            true => SeaOrmDeadLetterRepo::commit(txn).await.unwrap(),
            false => txn.rollback().await.unwrap(),
        }
        assert_eq!(history(&db, app).await.len(), if commits { 3 } else { 0 });
    }
}

async fn recent_apps_are_those_with_an_action_since_then(db: TestDb) {
    let begin = Utc::now() - TimeDelta::minutes(1);
    let mut apps = [new_app(), new_app()];
    apps.sort();
    for app in apps {
        let ids = letters(&db, app, 2).await;
        db.repo().resolve_once(app, ids[0], Resolution::Ignored, &seen()).await.unwrap();
        db.repo().resolve_once(app, ids[1], Resolution::Ignored, &seen()).await.unwrap();
    }
    // The seed's resolve is no action.
    let quiet = letters(&db, new_app(), 1).await;
    db.repo().resolve(quiet[0], "ignored").await.unwrap();
    let recent = db.repo().recent_apps(begin).await.unwrap();
    // The app of the last action comes first. Both may have acted in the same millisecond.
    let mut expected = Vec::new();
    for app in apps {
        expected.push((app, history(&db, app).await[1].created_at));
    }
    expected.sort_by_key(|&(app, last)| (Reverse(last), app));
    let found: Vec<_> = recent.iter().map(|app| (app.app_id, app.last_action_at)).collect();
    assert_eq!(found, expected);
    let later = expected[0].1 + TimeDelta::microseconds(1);
    assert_eq!(db.repo().recent_apps(later).await.unwrap(), []);
}

async fn recent_apps_and_the_version_of_all_letters_go_by_the_newest_rows_of_all_apps(db: TestDb) {
    let repo = db.repo();
    let of_app = |app: u128| table::ActiveModel {
        app_id: Set(Uuid::from_u128(app)),
        id: Set(Uuid::now_v7()),
        action: Set("resolve".to_owned()),
        created_at: Set(Utc::now().trunc_subsecs(6).into()),
        filter: Set(Some("all".to_owned())),
        letters: Set(1),
        ..Default::default()
    };
    let apps = (1..=10_001).rev().collect::<Vec<_>>();
    for apps in apps.chunks(500) {
        table::Entity::insert_many(apps.iter().map(|&app| of_app(app))).exec(&db.db).await.unwrap();
    }
    let recent = repo.recent_apps(Utc::now() - TimeDelta::hours(1)).await.unwrap();
    let mut apps: Vec<_> = recent.iter().map(|app| app.app_id.into_inner().as_u128()).collect();
    assert!(recent.is_sorted_by(|a, b| a.last_action_at >= b.last_action_at));
    apps.sort_unstable();
    assert_eq!(apps, (1..=10_000).collect::<Vec<_>>());
    let before = repo.letters_version(None).await.unwrap();
    table::Entity::insert(of_app(10_001)).exec(&db.db).await.unwrap();
    assert_ne!(repo.letters_version(None).await.unwrap(), before);
}
