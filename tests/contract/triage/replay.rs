use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    AppId, Attribution, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterReplay, DeadLetterRepo,
    DeadLetterRepoError, DeadLetterResolve, DeadLetterTransfer, ErrorKind, PageRequest, ReopenRequest,
    ReplayRequest, Requeue, Resolution, StoredLetter, testing::stored_letter,
};
use sea_orm::{ConnAcquireErr, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr};
use uuid::Uuid;

use super::{
    any, create_outbox, enqueue, enqueued, letter, new_app, reopen_replayed, row_of, rows, seen, ten_oclock,
};
use crate::database::TestDb;

on_every_backend! {
    the_row_is_resolved_and_enqueued_and_the_closures_value_returned,
    a_failing_closure_leaves_the_row_open_and_nothing_enqueued,
    only_one_of_8_concurrent_replays_enqueues,
    a_row_whose_handler_failed_is_replayed,
    a_closed_row_is_not_replayed,
    a_replay_works_in_a_spawned_task,
    a_closure_that_ignores_a_failed_statement_replays_whole_or_not_at_all,
    the_requeued_payload_is_the_text_as_it_was_stored,
    a_replayer_resolves_the_row_requeues_its_event_and_returns_it,
    a_replayer_requeues_what_matches_oldest_first_at_once_and_nothing_where_none_does,
    only_one_of_8_concurrent_replayers_requeues,
    concurrent_replays_of_matching_letters_requeue_each_event_once,
    an_error_of_a_requeue_is_returned_and_nothing_is_replayed,
    a_requeue_may_return_a_transient_error,
    a_requeue_that_ignores_a_failed_statement_replays_whole_or_not_at_all,
    an_edited_payload_goes_back_as_it_is_and_the_letter_keeps_its_own,
    only_another_replay_replaces_the_edited_payload,
    an_edit_that_is_no_json_too_deep_or_over_the_cap_sends_nothing,
    a_truncated_letter_is_replayed_with_an_edit_and_neither_an_erased_nor_a_closed_one_is,
    only_one_of_8_concurrent_edits_is_requeued,
    an_edit_whose_requeue_fails_leaves_no_trace,
}

async fn the_row_is_resolved_and_enqueued_and_the_closures_value_returned(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let answer: Result<_, DeadLetterRepoError> = db
        .repo()
        .replay_with(app, id, &Attribution::by("ada").note("again"), async |txn, row| {
            assert_eq!((row.id, row.resolution.as_deref()), (id, Some("replayed")));
            enqueue(txn, row.id).await?;
            Ok(row.payload)
        })
        .await;
    assert_eq!(answer.unwrap(), letter(app).payload.to_string());
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
        .replay_with(app, id, &Attribution::default(), async |txn, row| {
            enqueue(txn, row.id).await.map_err(DeadLetterRepoError::from)?;
            Err(ReplayError::QueueFull)
        })
        .await;
    assert!(matches!(outcome, Err(ReplayError::QueueFull)));
    assert_eq!(db.repo().get(id).await.unwrap(), before);
    assert_eq!(enqueued(&db).await, [] as [String; 0]);

    db.repo().resolve_once(app, id, Resolution::Ignored, &seen()).await.unwrap();
    let outcome: Result<(), _> = db
        .repo()
        .replay_with(app, id, &Attribution::default(), async |_, _| Err(ReplayError::QueueFull))
        .await;
    assert!(matches!(outcome, Err(ReplayError::Store(DeadLetterRepoError::AlreadyResolved { .. }))));
}

async fn only_one_of_8_concurrent_replays_enqueues(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    for round in 1..=5 {
        let id = row_of(&db, letter(app)).await;
        let replays = (0..8).map(|_| {
            let repo = db.repo();
            tokio::spawn(async move {
                repo.replay_with(app, id, &Attribution::default(), async |txn, row| {
                    Ok(enqueue(txn, row.id).await?)
                })
                .await
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
        db.repo().replay_with(app, id, &Attribution::default(), async |_, row| Ok(row.id)).await;
    assert_eq!(replayed.unwrap(), id);
}

async fn a_closed_row_is_not_replayed(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    db.repo().resolve(id, "ignored").await.unwrap();
    let replayed: Result<(), _> =
        db.repo().replay_with(app, id, &Attribution::default(), async |_, _| panic!("enqueued")).await;
    let error = replayed.unwrap_err();
    assert!(
        matches!(error, DeadLetterRepoError::AlreadyResolved { resolution: Some(Resolution::Ignored), .. }),
        "{error}"
    );
}

async fn a_replay_works_in_a_spawned_task(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let repo = db.repo();
    let note = "moved in".to_owned();
    let task = tokio::spawn(async move {
        repo.replay_with(app, id, &Attribution::default().note(note.clone()), async |txn, row| {
            enqueue(txn, row.id).await?;
            Ok::<_, DeadLetterRepoError>(note.len())
        })
        .await
    });
    assert_eq!(task.await.unwrap().unwrap(), 8);
    assert_eq!(enqueued(&db).await.len(), 1);
}

async fn a_closure_that_ignores_a_failed_statement_replays_whole_or_not_at_all(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let outcome: Result<(), DeadLetterRepoError> = db
        .repo()
        .replay_with(app, id, &Attribution::default(), async |txn, row| {
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

/// A service's outbox.
struct Outbox {
    /// The letters that it received, call by call.
    handed: Mutex<Vec<Vec<StoredLetter>>>,
    /// Its result after it has put the events back.
    then: fn() -> Result<(), Box<dyn Error + Send + Sync>>,
    passes_over_a_failed_statement: bool,
}

impl Outbox {
    fn new() -> Arc<Self> {
        Self::that_answers(|| Ok(()))
    }

    fn that_answers(then: fn() -> Result<(), Box<dyn Error + Send + Sync>>) -> Arc<Self> {
        Arc::new(Self { handed: Mutex::default(), then, passes_over_a_failed_statement: false })
    }

    fn handed(&self) -> Vec<Vec<StoredLetter>> {
        std::mem::take(&mut self.handed.lock().unwrap())
    }
}

#[async_trait]
impl Requeue for Outbox {
    async fn requeue(
        &self,
        txn: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.handed.lock().unwrap().push(letters.to_vec());
        for letter in letters {
            enqueue(txn, letter.id).await?;
        }
        if self.passes_over_a_failed_statement {
            txn.execute_unprepared("INSERT INTO outbox VALUES (NULL)").await.unwrap_err();
        }
        (self.then)()
    }
}

fn until(end: DateTime<Utc>) -> DeadLetterFilter {
    DeadLetterFilter::default().created_before(end)
}

fn texts(ids: &[DeadLetterId]) -> Vec<String> {
    let mut texts: Vec<_> = ids.iter().map(ToString::to_string).collect();
    texts.sort();
    texts
}

async fn the_requeued_payload_is_the_text_as_it_was_stored(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    // Neither would come through a `Value` as it is.
    let texts = [r#"{ "b":1.10,  "a":1e999, "a":18446744073709551616 }"#, "not JSON"];
    let letters = texts.map(|text| StoredLetter {
        payload: text.to_owned(),
        payload_kind: None,
        ..stored_letter(app, ten_oclock())
    });
    let outbox = Outbox::new();
    let replayer = db.repo().replayer(Arc::clone(&outbox));
    let handed = || outbox.handed().into_iter().flatten().map(|letter| letter.payload).collect::<Vec<_>>();

    db.repo().import(&letters).await.unwrap();
    for (letter, text) in letters.iter().zip(texts) {
        replayer.replay(app, letter.id, &Attribution::default()).await.unwrap();
        assert_eq!(handed(), [text]);
        reopen_replayed(&db.repo(), app, letter.id).await;
    }
    replayer
        .replay_matching(
            app,
            &until(DateTime::<Utc>::MAX_UTC),
            &Attribution::default(),
            &ReplayRequest::default(),
        )
        .await
        .unwrap();
    let mut back = handed();
    back.sort();
    let mut sent = texts.map(str::to_owned);
    sent.sort();
    assert_eq!(back, sent);
    for letter in &letters {
        reopen_replayed(&db.repo(), app, letter.id).await;
    }

    let [json, _] = &letters;
    let answer: Result<_, DeadLetterRepoError> = db
        .repo()
        .replay_with(app, json.id, &Attribution::default(), async |_, letter| Ok(letter.payload))
        .await;
    assert_eq!(answer.unwrap(), json.payload);
    let mut back = Vec::new();
    let replayed: Result<_, DeadLetterRepoError> = db
        .repo()
        .replay_matching_with(
            app,
            &until(DateTime::<Utc>::MAX_UTC),
            &Attribution::default(),
            10,
            async |_, letters| {
                back.extend(letters.into_iter().map(|letter| letter.payload));
                Ok(())
            },
        )
        .await;
    assert_eq!((replayed.unwrap().ids.len(), back), (1, vec!["not JSON".to_owned()]));
}

async fn a_replayer_resolves_the_row_requeues_its_event_and_returns_it(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let outbox = Outbox::new();
    let replayer: Arc<dyn DeadLetterReplay> = db.repo().replayer(Arc::clone(&outbox));
    let row = replayer.replay(app, id, &Attribution::by("ada").note("again")).await.unwrap();
    assert_eq!(
        (row.id, row.resolution, row.resolved_by.as_deref(), row.resolution_note.as_deref()),
        (id, Some(Resolution::Replayed), Some("ada"), Some("again"))
    );
    assert_eq!(db.repo().get(id).await.unwrap().as_ref(), Some(&row));
    let stored = db.repo().export(app, &any(), &PageRequest::default()).await.unwrap().items;
    assert_eq!((outbox.handed(), enqueued(&db).await), (vec![stored], texts(&[id])));

    let again = replayer.replay(app, id, &Attribution::default()).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict, "{again}");
    let of_another_app = replayer.replay(new_app(), id, &Attribution::default()).await.unwrap_err();
    assert_eq!(of_another_app.kind(), ErrorKind::NotFound, "{of_another_app}");
    assert_eq!(outbox.handed().len(), 0);
}

async fn a_replayer_requeues_what_matches_oldest_first_at_once_and_nothing_where_none_does(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let ids = rows(&db, app, 5).await;
    let outbox = Outbox::new();
    let replayer = db.repo().replayer(Arc::clone(&outbox));
    let filter = until(ten_oclock() + Duration::minutes(4));
    let replay = async |limit| {
        let request = ReplayRequest::default().limit(limit);
        let replayed =
            replayer.replay_matching(app, &filter, &Attribution::by("ada"), &request).await.unwrap();
        assert_eq!((replayed.failed.len(), replayed.skipped_locked, replayed.next), (0, false, None));
        (replayed.ids, replayed.more)
    };
    assert_eq!(replay(3).await, (ids[..3].to_vec(), true));
    let handed: Vec<Vec<_>> =
        outbox.handed().iter().map(|letters| letters.iter().map(|letter| letter.id).collect()).collect();
    assert_eq!(handed, [&ids[..3]]);
    assert_eq!(replay(3).await, (ids[3..4].to_vec(), false));
    outbox.handed();
    assert_eq!(replay(3).await, (vec![], false));
    assert_eq!(outbox.handed().len(), 0);
    assert_eq!(enqueued(&db).await, texts(&ids[..4]));

    let request = ReplayRequest::default().limit(0);
    let error = replayer.replay_matching(app, &filter, &Attribution::default(), &request).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::OutOfRange { argument: "limit", .. }), "{error}");
    let everything = DeadLetterFilter::default();
    let error = replayer
        .replay_matching(app, &everything, &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::MissingCreatedBefore), "{error}");
}

async fn only_one_of_8_concurrent_replayers_requeues(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    for round in 1..=5 {
        let id = row_of(&db, letter(app)).await;
        let replays = (0..8).map(|_| {
            let replayer = db.repo().replayer(Outbox::new());
            tokio::spawn(async move { replayer.replay(app, id, &Attribution::default()).await })
        });
        let mut won = 0;
        for replay in replays.collect::<Vec<_>>() {
            match replay.await.unwrap() {
                Ok(_) => won += 1,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
            }
        }
        assert_eq!((won, enqueued(&db).await.len()), (1, round));
    }
}

async fn concurrent_replays_of_matching_letters_requeue_each_event_once(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let ids = rows(&db, app, 40).await;
    let replayer = db.repo().replayer(Outbox::new());
    let replays = (0..4).map(|_| {
        let replayer = Arc::clone(&replayer);
        tokio::spawn(async move {
            let filter = until(DateTime::<Utc>::MAX_UTC);
            let request = ReplayRequest::default().limit(5);
            while replayer
                .replay_matching(app, &filter, &Attribution::default(), &request)
                .await
                .unwrap()
                .more
            {}
        })
    });
    for replay in replays.collect::<Vec<_>>() {
        replay.await.unwrap();
    }
    // This call replays the letters that were locked when the others looked, unless another call has replayed
    // them.
    replayer
        .replay_matching(
            app,
            &until(DateTime::<Utc>::MAX_UTC),
            &Attribution::default(),
            &ReplayRequest::default(),
        )
        .await
        .unwrap();
    assert_eq!(enqueued(&db).await, texts(&ids));
}

/// A service's own error, whose `Debug` shows more than its text.
#[derive(Debug)]
struct QueueFull {
    #[expect(dead_code, reason = "for Debug")]
    event: &'static str,
}

impl fmt::Display for QueueFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the queue is full")
    }
}

impl Error for QueueFull {}

async fn an_error_of_a_requeue_is_returned_and_nothing_is_replayed(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let ids = rows(&db, app, 2).await;
    let before = db.repo().list_for_app(app, false, 10, 0).await.unwrap();
    let replayer = db.repo().replayer(Outbox::that_answers(|| Err(QueueFull { event: "canary" }.into())));
    let of_one = replayer.replay(app, ids[0], &Attribution::default()).await.unwrap_err();
    let until = until(DateTime::<Utc>::MAX_UTC);
    let of_many = replayer
        .replay_matching(app, &until, &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    let failed: Vec<_> = of_many.failed.iter().map(|failure| (failure.id, failure.reason())).collect();
    assert_eq!(failed, ids.iter().map(|&id| (id, "the queue is full".to_owned())).collect::<Vec<_>>());
    assert_eq!((of_many.ids.len(), of_many.more), (0, false));
    for error in of_many.failed.into_iter().map(|failure| failure.error).chain([of_one]) {
        assert_eq!(error.to_string(), "the events were not put back, and nothing was replayed");
        assert!(!format!("{error:?} {error:#?}").contains("queue"), "{error:?}");
        assert_eq!(error.source().unwrap().to_string(), "the queue is full");
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Internal, false));
        let DeadLetterRepoError::Requeue(of_service) = error else { panic!("{error}") };
        assert!(of_service.is::<QueueFull>());
    }
    assert_eq!(db.repo().list_for_app(app, false, 10, 0).await.unwrap(), before);
    assert_eq!(enqueued(&db).await.len(), 0);
}

async fn a_requeue_may_return_a_transient_error(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let answers: [(fn() -> _, _); 4] = [
        (|| Err(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout).into()), true),
        (|| Err(DeadLetterRepoError::Db(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)).into()), true),
        (|| Err(DbErr::RecordNotInserted.into()), false),
        (|| Err(DeadLetterRepoError::InvalidCursor.into()), false),
    ];
    for (answer, is_transient) in answers {
        let replayer = db.repo().replayer(Outbox::that_answers(answer));
        let error = replayer.replay(app, id, &Attribution::default()).await.unwrap_err();
        assert_eq!(error.is_transient(), is_transient, "{:?}", error.source());
        assert_eq!(error.kind() == ErrorKind::Internal, !is_transient);
    }
}

async fn a_requeue_that_ignores_a_failed_statement_replays_whole_or_not_at_all(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let outbox = Outbox { passes_over_a_failed_statement: true, handed: Mutex::default(), then: || Ok(()) };
    let outcome = db.repo().replayer(outbox).replay(app, id, &Attribution::default()).await;
    if db.db.get_database_backend() == DbBackend::Sqlite {
        outcome.unwrap();
    } else {
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains("25P02"), "{error}");
    }
    let (open, back) = (db.repo().unresolved_count(app).await.unwrap(), enqueued(&db).await.len());
    assert_eq!(open + back as i64, 1);
}

const EDITED: &str = r#"{ "b":1.10,  "a":1e999, "a":18446744073709551616 }"#;

async fn stored(db: &TestDb, app: AppId) -> StoredLetter {
    db.repo().export(app, &any(), &PageRequest::default()).await.unwrap().items.remove(0)
}

async fn edited_text(db: &TestDb, app: AppId, id: DeadLetterId) -> Option<String> {
    db.repo().replayed_payload_text(app, id, 0..u64::MAX).await.unwrap()
}

async fn an_edited_payload_goes_back_as_it_is_and_the_letter_keeps_its_own(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let before = stored(&db, app).await;
    assert_eq!(edited_text(&db, app, id).await, None);
    let outbox = Outbox::new();
    let replayer: Arc<dyn DeadLetterReplay> = db.repo().replayer(Arc::clone(&outbox));
    let row = replayer.replay_edited(app, id, EDITED, &seen()).await.unwrap();
    assert_eq!((row.id, row.payload, row.resolution), (id, letter(app).payload, Some(Resolution::Replayed)));

    let handed = &outbox.handed()[0][0];
    assert_eq!((handed.payload.as_str(), handed.original_payload.as_ref()), (EDITED, Some(&before.payload)));
    assert_eq!(handed.payload_kind.as_deref(), Some("json"));
    let after = stored(&db, app).await;
    assert_eq!((after.payload, after.payload_kind), (before.payload, before.payload_kind));
    assert_eq!((after.replayed_payload.as_deref(), after.original_payload), (Some(EDITED), None));
    assert_eq!((after.resolved_by.as_deref(), after.resolution_note.as_deref()), (Some("ada"), Some("seen")));
    let part = db.repo().replayed_payload_text(app, id, 2..5).await.unwrap();
    assert_eq!(part.as_deref(), Some(&EDITED[2..5]));
    let summary = db.repo().summary(app, id).await.unwrap().unwrap();
    assert_eq!(summary.replayed_payload_bytes, Some(EDITED.len() as u64));
    assert_eq!(edited_text(&db, new_app(), id).await, None);
}

async fn only_another_replay_replaces_the_edited_payload(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let repo = db.repo();
    let replayer = repo.replayer(Outbox::new());
    let edit = async |text: &str| {
        replayer.replay_edited(app, id, text, &seen()).await.unwrap();
        reopen_replayed(&repo, app, id).await;
        assert_eq!(edited_text(&db, app, id).await.as_deref(), Some(text));
    };
    edit("1").await;
    edit("2").await;
    repo.resolve_once(app, id, Resolution::Ignored, &seen()).await.unwrap();
    repo.reopen(app, id, &seen()).await.unwrap();
    repo.resolve_matching(app, &any().ids([id]), Resolution::HandledByScript, &seen(), 1).await.unwrap();
    repo.resolve(id, "ignored").await.unwrap();
    repo.reopen_matching(app, &any().ids([id]), &seen(), &ReopenRequest::default()).await.unwrap();
    assert_eq!(edited_text(&db, app, id).await.as_deref(), Some("2"));

    replayer.replay(app, id, &seen()).await.unwrap();
    assert_eq!(edited_text(&db, app, id).await, None);
    reopen_replayed(&repo, app, id).await;
    edit("3").await;
    let these = any().ids([id]);
    replayer.replay_matching(app, &these, &seen(), &ReplayRequest::default()).await.unwrap();
    assert_eq!(edited_text(&db, app, id).await, None);
    reopen_replayed(&repo, app, id).await;
    edit("4").await;
    repo.resolve(id, "replayed").await.unwrap();
    assert_eq!(edited_text(&db, app, id).await, None);
    reopen_replayed(&repo, app, id).await;
    edit("5").await;
    repo.resolve_once(app, id, Resolution::Replayed, &seen()).await.unwrap();
    assert_eq!(edited_text(&db, app, id).await, None);
}

async fn an_edit_that_is_no_json_too_deep_or_over_the_cap_sends_nothing(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let replayer = db.repo_over(recording).max_payload_bytes(1_000).replayer(Outbox::new());
    let deep = "[".repeat(128) + &"]".repeat(128);
    for (text, message) in [
        ("", "the edited payload must be JSON"),
        ("{\"order\": }", "the edited payload must be JSON"),
        ("{} {}", "the edited payload must be JSON"),
        (&deep, "the edited payload must be nested at most 127 levels deep"),
        (
            &format!("\"{}\"", "x".repeat(999)),
            "the payload of letter 0 must have at most 1,000 bytes (got 1,001): cut it, or raise `max_payload_bytes`",
        ),
    ] {
        let error = replayer
            .replay_edited(new_app(), DeadLetterId::from(Uuid::now_v7()), text, &seen())
            .await
            .unwrap_err();
        assert_eq!((error.to_string().as_str(), error.kind()), (message, ErrorKind::Invalid));
    }
    assert_eq!(recorded.take(), []);
}

async fn a_truncated_letter_is_replayed_with_an_edit_and_neither_an_erased_nor_a_closed_one_is(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let letters = ["truncated", "text", "erased"]
        .map(|kind| StoredLetter { payload_kind: Some(kind.to_owned()), ..stored_letter(app, ten_oclock()) });
    db.repo().import(&letters).await.unwrap();
    let outbox = Outbox::new();
    let replayer = db.repo().replayer(Arc::clone(&outbox));
    let [truncated, text, erased] = letters.map(|letter| letter.id);
    for id in [truncated, text] {
        replayer.replay_edited(app, id, EDITED, &seen()).await.unwrap();
        let again = replayer.replay_edited(app, id, "1", &seen()).await.unwrap_err();
        assert!(matches!(again, DeadLetterRepoError::AlreadyResolved { .. }), "{again}");
        assert_eq!(edited_text(&db, app, id).await.as_deref(), Some(EDITED));
    }
    let error = replayer.replay_edited(app, erased, EDITED, &seen()).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::Erased(id) if id == erased), "{error}");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(db.repo().summary(app, erased).await.unwrap().unwrap().is_open());
    assert_eq!((outbox.handed().len(), edited_text(&db, app, erased).await), (2, None));
    let unknown = replayer.replay_edited(new_app(), text, EDITED, &seen()).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound, "{unknown}");
}

async fn only_one_of_8_concurrent_edits_is_requeued(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let outbox = Outbox::new();
    let replays = (0..8).map(|nth: u8| {
        let replayer = db.repo().replayer(Arc::clone(&outbox));
        tokio::spawn(async move { replayer.replay_edited(app, id, &nth.to_string(), &seen()).await })
    });
    let mut won = 0;
    for replay in replays.collect::<Vec<_>>() {
        won += u8::from(replay.await.unwrap().is_ok());
    }
    assert_eq!((won, enqueued(&db).await.len()), (1, 1));
}

async fn an_edit_whose_requeue_fails_leaves_no_trace(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let before = stored(&db, app).await;
    // There is no outbox.
    let error = db.repo().replayer(Outbox::new()).replay_edited(app, id, EDITED, &seen()).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::Requeue(_)), "{error}");
    assert_eq!(stored(&db, app).await, before);
}
