//! Chosen letters are deleted, and their content is erased.

use chrono::{Duration, Utc};
use dead_letters::{
    Action, ActionRequest, AppId, Attribution, Changed, CountRequest, DeadLetterDelete, DeadLetterFilter,
    DeadLetterId, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, DeadLetterState,
    DeadLetterTransfer, Erased, ErrorKind, GroupRequest, NewDeadLetter, PageRequest, RebuildRequest,
    ReopenRequest, ReplayRequest, Requeue, Resolution, SeaOrmDeadLetterRepo, StoredLetter,
    entity::dead_letters as table,
};
use sea_orm::{DatabaseTransaction, DbBackend, EntityTrait, QuerySelect, TransactionTrait};
use serde_json::json;
use uuid::Uuid;

use super::{any, letter, new_app, resolved, row_of, rows, seen, ten_oclock};
use crate::database::TestDb;

on_every_backend! {
    open_letters_that_match_are_deleted_oldest_first_up_to_the_limit,
    closed_letters_are_deleted_in_the_order_in_which_they_were_closed,
    the_letters_of_a_run_or_of_any_state_are_deleted_on_request,
    a_delete_without_an_end_is_refused_and_nothing_is_sent,
    letters_of_another_app_are_neither_deleted_nor_erased,
    an_erased_letter_keeps_its_facts_and_loses_its_content,
    an_id_that_is_erased_already_or_of_no_letter_is_in_neither_list,
    each_erased_letter_has_a_row_of_its_own_in_the_history,
    notes_that_were_written_since_or_outlived_their_letter_are_erased_too,
    an_erased_letter_is_resolved_reopened_exported_and_swept,
    an_erased_letter_is_not_replayed_and_blocks_no_batch,
    an_import_does_not_restore_the_content_of_an_erased_letter,
    an_erased_letter_counts_in_its_group_and_lends_it_no_text,
    a_letter_that_a_trigger_keeps_from_erasure_is_named_and_keeps_its_notes,
    more_than_1000_ids_are_refused_and_nothing_is_sent,
}

fn before_noon() -> DeadLetterFilter {
    DeadLetterFilter::default().created_before(ten_oclock() + Duration::hours(2))
}

async fn delete(db: &TestDb, app: AppId, filter: &DeadLetterFilter, limit: u32) -> Changed {
    db.repo().delete_matching(app, filter, &seen(), limit).await.unwrap()
}

async fn left(db: &TestDb, app: AppId) -> Vec<DeadLetterId> {
    let page = db.repo().list(app, &any(), &PageRequest::default()).await.unwrap();
    page.items.iter().rev().map(|letter| letter.id).collect()
}

async fn erase(db: &TestDb, app: AppId, ids: &[DeadLetterId]) -> Erased {
    db.repo().erase(app, ids, &seen()).await.unwrap()
}

async fn stored(db: &TestDb, app: AppId) -> StoredLetter {
    db.repo().export(app, &any(), &PageRequest::default()).await.unwrap().items.remove(0)
}

async fn open_letters_that_match_are_deleted_oldest_first_up_to_the_limit(db: TestDb) {
    let app = new_app();
    let ids = rows(&db, app, 6).await;
    db.repo().resolve(ids[0], "ignored").await.unwrap();
    db.repo().resolve(ids[2], "handler_failed").await.unwrap();
    let late = row_of(&db, letter(app)).await;
    assert_eq!(delete(&db, app, &before_noon(), 2).await, resolved(&ids[1..3], true, false));
    assert_eq!(left(&db, app).await, [ids[0], ids[3], ids[4], ids[5], late]);
    let narrow = before_noon().source("nothing");
    assert_eq!(delete(&db, app, &narrow, 10).await, resolved(&[], false, false));
    assert_eq!(delete(&db, app, &before_noon(), 10).await, resolved(&ids[3..], false, false));
    assert_eq!(left(&db, app).await, [ids[0], late]);
}

async fn closed_letters_are_deleted_in_the_order_in_which_they_were_closed(db: TestDb) {
    let app = new_app();
    let ids = rows(&db, app, 4).await;
    for (minute, id) in (0..).zip([ids[2], ids[0], ids[1]]) {
        db.repo().resolve(id, if minute == 1 { "replayed" } else { "ignored" }).await.unwrap();
        db.set_resolved_at(id, ten_oclock() + Duration::minutes(minute)).await;
    }
    let closed = DeadLetterFilter::default()
        .state(DeadLetterState::Closed)
        .resolved_before(ten_oclock() + Duration::minutes(2));
    let deleted = delete(&db, app, &closed, 1).await;
    assert_eq!((deleted.ids, deleted.more), (vec![ids[2]], true));
    let deleted = delete(&db, app, &closed, 10).await;
    assert_eq!((deleted.ids, deleted.more), (vec![ids[0]], false));
    assert_eq!(left(&db, app).await, [ids[1], ids[3]]);
}

async fn the_letters_of_a_run_or_of_any_state_are_deleted_on_request(db: TestDb) {
    let (app, run) = (new_app(), Uuid::now_v7());
    let ids = rows(&db, app, 5).await;
    let by = seen().run_id(run);
    db.repo().resolve_matching(app, &any().ids(&ids[..2]), Resolution::Ignored, &by, 10).await.unwrap();
    let of_run = DeadLetterFilter::default().state(DeadLetterState::Closed).run_id(run);
    let mut deleted = delete(&db, app, &of_run, 10).await.ids;
    deleted.sort();
    assert_eq!(deleted, ids[..2]);
    db.repo().resolve(ids[2], "ignored").await.unwrap();
    let these = DeadLetterFilter::default().ids([ids[2], ids[3], ids[2]]);
    assert_eq!(delete(&db, app, &these.clone().state(DeadLetterState::Open), 10).await.ids, [ids[3]]);
    assert_eq!(delete(&db, app, &these, 10).await.ids, [ids[2]]);
    let everything = before_noon().state(DeadLetterState::Any);
    assert_eq!(delete(&db, app, &everything, 10).await.ids, [ids[4]]);
    assert_eq!(left(&db, app).await, []);
}

async fn a_delete_without_an_end_is_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let closed = DeadLetterFilter::default().state(DeadLetterState::Closed);
    for (filter, limit, message) in [
        (DeadLetterFilter::default(), 1, "`created_before`"),
        (any().source("orders"), 1, "`created_before`"),
        (closed.clone().created_before(ten_oclock()), 1, "`resolved_before`"),
        (any().resolution(Resolution::Ignored).created_before(ten_oclock()), 1, "`resolved_before`"),
        (any().resolved_by("ada").created_before(ten_oclock()), 1, "`resolved_before`"),
        (before_noon(), 0, "`limit`"),
        (before_noon(), 1_001, "`limit`"),
        (any().ids(vec![Uuid::nil().into(); 1_001]), 1, "`filter.ids`"),
    ] {
        let error = repo.delete_matching(new_app(), &filter, &seen(), limit).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(message), "{error}");
    }
    assert_eq!(recorded.take(), []);
}

async fn letters_of_another_app_are_neither_deleted_nor_erased(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let ids = rows(&db, other, 2).await;
    assert_eq!(delete(&db, app, &any().ids(&ids[..]), 10).await.ids, []);
    assert_eq!(erase(&db, app, &ids).await, Erased::default());
    assert_eq!(left(&db, other).await, ids);
    assert_eq!(stored(&db, other).await.erased_at, None);
}

async fn an_erased_letter_keeps_its_facts_and_loses_its_content(db: TestDb) {
    let app = new_app();
    let secret = NewDeadLetter {
        metadata: json!({ "tenant": "secret" }).as_object().unwrap().clone(),
        last_error: "no route to secret".to_owned(),
        payload: json!({ "secret": 1 }),
        ..letter(app)
    };
    let id = row_of(&db, secret).await;
    let replayer = db.repo().replayer(Nowhere);
    replayer.replay_edited(app, id, "\"secret\"", &seen().note("secret")).await.unwrap();
    let before = stored(&db, app).await;
    let key = db.repo().summary(app, id).await.unwrap().unwrap().group_key;
    let began = Utc::now() - Duration::minutes(1);
    let mut erased = Erased::default();
    erased.ids = vec![id];
    assert_eq!(erase(&db, app, &[id, id]).await, erased);
    let after = stored(&db, app).await;
    assert!(after.erased_at.is_some_and(|at| at > began));
    let expected = StoredLetter {
        payload: "null".to_owned(),
        payload_kind: Some("erased".to_owned()),
        replayed_payload: None,
        metadata: None,
        last_error: String::new(),
        error_signature: "(erased)".to_owned(),
        signature_version: 0,
        resolution_note: None,
        erased_at: after.erased_at,
        ..before
    };
    assert_eq!(after, expected);
    assert!(!serde_json::to_string(&after).unwrap().contains("secret"));
    let history = db.repo().actions(app, &ActionRequest::default().letter_id(id)).await.unwrap();
    let shown: Vec<_> = history.iter().map(|row| (row.action, row.note.as_deref(), row.letters)).collect();
    assert_eq!(shown, [(Some(Action::Erase), Some("seen"), 1), (Some(Action::Edit), None, 1)]);
    assert_eq!(db.repo().summary(app, id).await.unwrap().unwrap().group_key, key);
}

async fn an_id_that_is_erased_already_or_of_no_letter_is_in_neither_list(db: TestDb) {
    let app = new_app();
    let ids = rows(&db, app, 2).await;
    erase(&db, app, &ids[..1]).await;
    let first = stored(&db, app).await;
    let again = erase(&db, app, &[ids[0], DeadLetterId::from(Uuid::now_v7()), ids[1]]).await;
    assert_eq!((again.ids, again.skipped_locked), (vec![ids[1]], vec![]));
    assert_eq!(stored(&db, app).await.id, first.id);
    assert_eq!(erase(&db, app, &[]).await, Erased::default());
}

async fn each_erased_letter_has_a_row_of_its_own_in_the_history(db: TestDb) {
    let app = new_app();
    let ids = rows(&db, app, 1_000).await;
    let run = Uuid::now_v7();
    let erased = db.repo().erase(app, &ids, &seen().run_id(run).batch(0)).await.unwrap();
    assert_eq!(erased.ids.len(), 1_000);
    for id in [ids[0], ids[999]] {
        let history = db.repo().actions(app, &ActionRequest::default().letter_id(id)).await.unwrap();
        let shown: Vec<_> = history
            .iter()
            .map(|row| (row.action, row.letter_id, row.letters, row.actor.as_deref(), row.note.as_deref()))
            .collect();
        assert_eq!(shown, [(Some(Action::Erase), Some(id), 1, Some("ada"), Some("seen"))]);
        assert_eq!(history[0].run_id, Some(run));
    }
}

async fn notes_that_were_written_since_or_outlived_their_letter_are_erased_too(db: TestDb) {
    let app = new_app();
    let ids = rows(&db, app, 2).await;
    let notes = async |id| {
        let history = db.repo().actions(app, &ActionRequest::default().letter_id(id)).await.unwrap();
        let of_others = history.into_iter().filter(|row| row.action != Some(Action::Erase));
        of_others.filter_map(|row| row.note).collect::<Vec<_>>()
    };
    for id in &ids {
        db.repo().resolve_once(app, *id, Resolution::Ignored, &seen()).await.unwrap();
    }
    delete(&db, app, &any().ids(&ids[1..]), 1).await;
    assert_eq!((notes(ids[0]).await.len(), notes(ids[1]).await.len()), (1, 2));
    assert_eq!(erase(&db, app, &ids).await.ids, ids[..1]);
    assert_eq!((notes(ids[0]).await, notes(ids[1]).await), (vec![], vec![]));

    let first = stored(&db, app).await;
    db.repo().reopen(app, ids[0], &seen()).await.unwrap();
    db.repo().resolve_once(app, ids[0], Resolution::Ignored, &seen()).await.unwrap();
    assert_eq!(erase(&db, app, &ids).await.ids, ids[..1]);
    let again = stored(&db, app).await;
    assert_eq!((again.resolution_note, again.erased_at), (None, first.erased_at));
    assert_eq!(notes(ids[0]).await, Vec::<String>::new());
    assert_eq!(erase(&db, app, &ids).await, Erased::default());
    // The reasons of the erasures stay, also after an erasure that has nothing to do.
    let history = db.repo().actions(app, &ActionRequest::default().letter_id(ids[0])).await.unwrap();
    let reasons =
        history.iter().filter(|row| row.action == Some(Action::Erase)).map(|row| row.note.as_deref());
    assert_eq!(reasons.collect::<Vec<_>>(), [Some("seen"); 2]);
}

async fn an_erased_letter_is_resolved_reopened_exported_and_swept(db: TestDb) {
    let app = new_app();
    let id = rows(&db, app, 1).await[0];
    erase(&db, app, &[id]).await;
    let repo = db.repo();
    repo.resolve_once(app, id, Resolution::Ignored, &seen()).await.unwrap();
    repo.reopen(app, id, &seen()).await.unwrap();
    repo.resolve_matching(app, &before_noon(), Resolution::Ignored, &seen(), 10).await.unwrap();
    repo.reopen_matching(app, &any().ids([id]), &seen(), &ReopenRequest::default()).await.unwrap();
    let exported = stored(&db, app).await;
    assert_eq!(repo.gc(ten_oclock() + Duration::hours(1), 10).await.unwrap(), 1);
    repo.import(std::slice::from_ref(&exported)).await.unwrap();
    assert_eq!(stored(&db, app).await, exported);
    // A rebuild would take the empty error for one without a signature.
    repo.rebuild_signatures(&RebuildRequest::default()).await.unwrap();
    assert_eq!(stored(&db, app).await, exported);
}

/// An outbox that takes every event.
struct Nowhere;

#[async_trait::async_trait]
impl Requeue for Nowhere {
    async fn requeue(
        &self,
        _: &DatabaseTransaction,
        _: &[StoredLetter],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }

    fn accepts_truncated(&self) -> bool {
        true
    }
}

async fn an_erased_letter_is_not_replayed_and_blocks_no_batch(db: TestDb) {
    let app = new_app();
    let ids = rows(&db, app, 3).await;
    erase(&db, app, &ids[..1]).await;
    let replayer = db.repo().replayer(Nowhere);
    let by_closure: Result<(), DeadLetterRepoError> =
        db.repo().replay_with(app, ids[0], &seen(), async |_, _| panic!("enqueued")).await;
    for error in [
        replayer.replay(app, ids[0], &seen()).await.unwrap_err(),
        replayer.replay_edited(app, ids[0], "1", &seen()).await.unwrap_err(),
        by_closure.unwrap_err(),
    ] {
        assert!(matches!(error, DeadLetterRepoError::Erased(id) if id == ids[0]), "{error}");
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }
    let request = ReplayRequest::default().limit(1);
    let replayed = replayer.replay_matching(app, &before_noon(), &seen(), &request).await.unwrap();
    assert_eq!((replayed.ids, replayed.failed.len()), (vec![ids[1]], 0));
    let replayed: Result<_, DeadLetterRepoError> = db
        .repo()
        .replay_matching_with(app, &any().ids(&ids[..]), &seen(), 10, async |_, letters| {
            assert_eq!(letters.len(), 1);
            Ok(())
        })
        .await;
    assert_eq!(replayed.unwrap().ids, [ids[2]]);

    let count = async |filter: DeadLetterFilter| {
        db.repo().count(app, &filter, &CountRequest::default()).await.unwrap().matching.count
    };
    assert_eq!(count(any().erased(true)).await, 1);
    assert_eq!(count(any().erased(false)).await, 2);
    let replayable = DeadLetterFilter::default().replayable(true).unwrap();
    assert_eq!(count(replayable).await, 0);
    assert_eq!(any().erased(true).replayable(true), None);
}

async fn an_import_does_not_restore_the_content_of_an_erased_letter(db: TestDb) {
    let app = new_app();
    let id = rows(&db, app, 1).await[0];
    let archived = stored(&db, app).await;
    erase(&db, app, &[id]).await;
    let erased = stored(&db, app).await;
    let imported = db.repo().import(std::slice::from_ref(&archived)).await.unwrap();
    assert_eq!((imported.stored, stored(&db, app).await), (0, erased));
}

async fn an_erased_letter_counts_in_its_group_and_lends_it_no_text(db: TestDb) {
    let app = new_app();
    let ids = rows(&db, app, 2).await;
    let groups = async || {
        let request = GroupRequest::default().scan_limit(100);
        db.repo().error_groups(app, &DeadLetterFilter::default(), &request).await.unwrap().groups
    };
    let before = groups().await;
    erase(&db, app, &ids[1..]).await;
    let after = groups().await;
    assert_eq!((after.len(), after[0].count, after[0].last_seen), (1, 2, before[0].last_seen));
    assert_eq!(
        (&after[0].error_signature, &after[0].sample),
        (&before[0].error_signature, &before[0].sample)
    );
    assert_eq!((&after[0].group_key, after[0].newest_id), (&before[0].group_key, ids[0]));
    erase(&db, app, &ids).await;
    let after = groups().await;
    assert_eq!(
        (after[0].count, after[0].error_signature.as_str(), after[0].newest_id),
        (2, "(erased)", ids[1])
    );
}

async fn a_letter_that_a_trigger_keeps_from_erasure_is_named_and_keeps_its_notes(db: TestDb) {
    let app = new_app();
    let ids = rows(&db, app, 2).await;
    let by = Attribution::by("bob").note("secret");
    db.repo().resolve_once(app, ids[0], Resolution::Ignored, &by).await.unwrap();
    let before = db.repo().get(ids[0]).await.unwrap();
    keep_resolved(&db).await;
    let erased = erase(&db, app, &ids).await;
    assert_eq!((erased.ids, erased.skipped_locked), (vec![ids[1]], vec![ids[0]]));
    assert_eq!(db.repo().get(ids[0]).await.unwrap(), before);
    let history = db.repo().actions(app, &ActionRequest::default().letter_id(ids[0])).await.unwrap();
    assert_eq!(history[0].note.as_deref(), Some("secret"));
}

/// Lets no resolved letter change.
async fn keep_resolved(db: &TestDb) {
    let trigger = match db.db.get_database_backend() {
        DbBackend::Sqlite => {
            "CREATE TRIGGER keep BEFORE UPDATE ON dead_letters WHEN OLD.resolved_at IS NOT NULL
                 BEGIN SELECT RAISE(IGNORE); END"
        }
        _ => {
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF OLD.resolved_at IS NOT NULL THEN RETURN NULL; END IF; RETURN NEW; END $$;
             CREATE TRIGGER keep BEFORE UPDATE ON dead_letters FOR EACH ROW EXECUTE FUNCTION keep()"
        }
    };
    db.execute(trigger).await;
}

async fn more_than_1000_ids_are_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let ids = vec![DeadLetterId::from(Uuid::nil()); 1_001];
    let error = db.repo_over(recording).erase(new_app(), &ids, &seen()).await.unwrap_err();
    assert_eq!(error.to_string(), "`ids` must have at most 1,000 items (got 1,001)");
    assert_eq!(recorded.take(), []);
}

/// SQLite has no row locks: there a second writer waits for the first.
#[tokio::test]
async fn letters_that_are_locked_are_named_and_neither_deleted_nor_erased_on_postgres() {
    let db = TestDb::postgres().await;
    let app = new_app();
    let ids = rows(&db, app, 3).await;
    let txn = db.db.begin().await.unwrap();
    table::Entity::find_by_id(ids[0].into_inner()).lock_exclusive().one(&txn).await.unwrap().unwrap();
    let erased = erase(&db, app, &ids[..2]).await;
    assert_eq!((erased.ids, erased.skipped_locked), (vec![ids[1]], vec![ids[0]]));
    assert_eq!(delete(&db, app, &before_noon(), 10).await, resolved(&ids[1..], false, true));
    txn.rollback().await.unwrap();
    assert_eq!(delete(&db, app, &before_noon(), 10).await, resolved(&ids[..1], false, false));
}

/// SQLite has one writer at a time.
#[tokio::test]
async fn a_reveal_that_commits_after_an_erasure_keeps_its_note_until_the_next_one_on_postgres() {
    let db = TestDb::postgres().await;
    let app = new_app();
    let ids = rows(&db, app, 1).await;
    let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
    let by = Attribution::by("bob").note("secret");
    db.repo().in_transaction(&txn).record_reveal(app, ids[0], &by).await.unwrap();
    assert_eq!(erase(&db, app, &ids).await.ids, ids);
    SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
    let has_note = async || {
        let history = db.repo().actions(app, &ActionRequest::default().letter_id(ids[0])).await.unwrap();
        history.iter().any(|row| row.note.as_deref() == Some("secret"))
    };
    assert!(has_note().await);
    erase(&db, app, &ids).await;
    assert!(!has_note().await);
}

/// SQLite has one writer at a time.
#[tokio::test]
async fn an_erased_letter_whose_note_another_transaction_writes_is_named_and_keeps_it_on_postgres() {
    let db = TestDb::postgres().await;
    let app = new_app();
    let ids = rows(&db, app, 1).await;
    erase(&db, app, &ids).await;
    let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
    let by = Attribution::by("bob").note("secret");
    db.repo().in_transaction(&txn).resolve_once(app, ids[0], Resolution::Ignored, &by).await.unwrap();
    let erased = erase(&db, app, &ids).await;
    assert_eq!((erased.ids, erased.skipped_locked), (vec![], ids.clone()));
    SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
    let notes = async || {
        let letter = db.repo().summary(app, ids[0]).await.unwrap().unwrap();
        let history = db.repo().actions(app, &ActionRequest::default().letter_id(ids[0])).await.unwrap();
        let of_history: Vec<_> = history.into_iter().filter_map(|row| row.note).collect();
        (letter.resolution_note, of_history.contains(&"secret".to_owned()))
    };
    assert_eq!(notes().await, (Some("secret".to_owned()), true));
    assert_eq!(erase(&db, app, &ids).await.ids, ids);
    assert_eq!(notes().await, (None, false));
}
