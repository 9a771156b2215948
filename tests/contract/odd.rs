//! Rows that this version would not write, in SQLite: values of other types, texts that are not UTF-8, numbers out of
//! range. A table that is not STRICT takes them, and one whose CHECKs are switched off.

use std::{
    error::Error,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use chrono::{TimeDelta, Utc};
use dead_letters::{
    AppId, Archive, Attribution, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterReplay,
    DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, DeadLetterRetention, DeadLetterRow,
    DeadLetterState, DeadLetterSummary, DeadLetterTransfer, Due, GroupRequest, PageRequest, PayloadKind,
    ReplayRequest, Requeue, Resolution, SeaOrmDeadLetterRepo, StoredLetter, SweepScope,
};
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, Statement};
use serde_json::{Value, json};

use super::{letter, new_app, reopen_replayed};
use crate::database::TestDb;

/// A table as an older one would be, on a connection that does not look at CHECKs. It has three letters of an app, of
/// which the second one is odd.
struct Odd {
    _file: TestDb,
    db: DatabaseConnection,
    repo: SeaOrmDeadLetterRepo,
    app: AppId,
    id: DeadLetterId,
}

impl Odd {
    async fn new() -> Self {
        let file = TestDb::sqlite().await;
        let db = file
            .connect_with(|options| {
                options.max_connections(1);
            })
            .await;
        let schema = Statement::from_string(
            db.get_database_backend(),
            "SELECT sql FROM sqlite_master WHERE tbl_name = 'dead_letters' AND sql IS NOT NULL \
             ORDER BY type = 'index'",
        );
        let schema = db.query_all_raw(schema).await.unwrap();
        let schema: Vec<String> = schema.iter().map(|row| row.try_get_by_index(0).unwrap()).collect();
        db.execute_unprepared("DROP TABLE dead_letters").await.unwrap();
        for create in &schema {
            let create = create.strip_suffix("STRICT").unwrap_or(create);
            db.execute_unprepared(create).await.unwrap();
        }
        assert!(schema.iter().any(|create| create.ends_with("STRICT")), "{schema:?}");
        db.execute_unprepared("PRAGMA ignore_check_constraints = ON").await.unwrap();
        let (app, repo) = (new_app(), SeaOrmDeadLetterRepo::new(db.clone()));
        let ids = repo.insert_many(vec![letter(app); 3]).await.unwrap();
        Self { _file: file, db, repo, app, id: ids[1] }
    }

    /// Sets columns of the letter, in SQL.
    async fn set(&self, values: &str) {
        let id = self.id.into_inner().simple();
        let update = format!("UPDATE dead_letters SET {values} WHERE id = x'{id}'");
        assert_eq!(self.db.execute_unprepared(&update).await.unwrap().rows_affected(), 1);
    }

    /// The letter, by every call that reads letters.
    async fn read(&self) -> (DeadLetterRow, DeadLetterSummary, StoredLetter) {
        let Self { repo, app, id, .. } = self;
        let row = repo.get(*id).await.unwrap().unwrap();
        assert_eq!(repo.get_for_app(*app, *id).await.unwrap().as_ref(), Some(&row));
        let page = repo.list_for_app(*app, false, 10, 0).await.unwrap();
        assert!(page.len() == 3 && page[1] == row, "{page:?}");
        let any = DeadLetterFilter::default().state(DeadLetterState::Any);
        let summary = repo.summary(*app, *id).await.unwrap().unwrap();
        let page = repo.list(*app, &any, &PageRequest::default()).await.unwrap().items;
        assert!(page.len() == 3 && page[1] == summary, "{page:?}");
        let page = repo.export(*app, &any, &PageRequest::default()).await.unwrap().items;
        let bounded = PageRequest::default().scan_limit(500);
        assert_eq!(repo.export(*app, &any, &bounded).await.unwrap().items, page);
        let groups = repo.error_groups(*app, &any, &GroupRequest::default()).await.unwrap().groups;
        assert_eq!(groups.iter().map(|group| group.count).sum::<u64>(), 3);
        let [_, letter, _] = <[_; 3]>::try_from(page).unwrap();
        let payload = repo.payload_text(*app, *id, 0..u64::MAX).await.unwrap().unwrap();
        let error = repo.error_text(*app, *id, 0..u64::MAX).await.unwrap().unwrap();
        assert_eq!((&payload, &error), (&letter.payload, &letter.last_error));
        (row, summary, letter)
    }
}

#[tokio::test]
async fn texts_that_are_blobs_are_read_as_texts_on_sqlite() {
    let odd = Odd::new().await;
    odd.set("replayed_payload = '{}', metadata = '{}'").await;
    odd.repo
        .resolve_once(odd.app, odd.id, Resolution::Ignored, &Attribution::by("ada").note("seen"))
        .await
        .unwrap();
    let read = odd.read().await;
    let columns = [
        "payload",
        "payload_kind",
        "replayed_payload",
        "metadata",
        "source",
        "op",
        "last_error",
        "error_signature",
        "group_key",
        "resolved_by",
        "resolution_note",
    ];
    for column in columns {
        odd.set(&format!("{column} = CAST({column} AS BLOB)")).await;
        assert!(odd.read().await == read, "{column}");
    }
}

#[tokio::test]
async fn bytes_that_are_not_utf_8_become_replacement_characters_on_sqlite() {
    for cast in ["CAST(X'22ff22' AS TEXT)", "X'22ff22'"] {
        let odd = Odd::new().await;
        odd.repo
            .resolve_once(odd.app, odd.id, Resolution::Ignored, &Attribution::by("ada").note("seen"))
            .await
            .unwrap();
        let texts = [
            "payload",
            "replayed_payload",
            "metadata",
            "source",
            "op",
            "last_error",
            "error_signature",
            "resolved_by",
            "resolution_note",
        ];
        odd.set(&texts.map(|column| format!("{column} = {cast}")).join(", ")).await;
        let (row, summary, letter) = odd.read().await;
        let read = "\"\u{FFFD}\"";
        assert_eq!(
            [&row.source, &row.op, &row.last_error, &row.error_signature, &letter.payload, &letter.source],
            [read; 6]
        );
        assert_eq!(
            [&summary.source, &summary.op, &summary.error_excerpt, &summary.error_signature],
            [read; 4]
        );
        let some = Some(read.to_owned());
        assert!([&row.resolved_by, &row.resolution_note].into_iter().all(|text| *text == some), "{row:?}");
        let optional = [&letter.replayed_payload, &letter.metadata, &letter.resolved_by];
        assert!(optional.into_iter().all(|text| *text == some), "{letter:?}");
        // It is not the event any more, and does not pass for it.
        assert_eq!((row.payload, row.payload_kind), (json!("\u{FFFD}"), Some(PayloadKind::Truncated)));
        assert_eq!(letter.payload_kind.as_deref(), Some("truncated"));
        // A field that is odd leaves the others as they are.
        assert_eq!((row.attempt_count, row.resolved_at.is_some()), (5, true));
    }
}

#[tokio::test]
async fn metadata_that_is_no_object_is_empty_and_matches_no_filter_on_sqlite() {
    let odd = Odd::new().await;
    let by_key = DeadLetterFilter::default().metadata("k", "v");
    let stored =
        ["'{broken'", "'[\"k\"]'", "'\"v\"'", "''", "7", "X'ff'", "X'8c'", "CAST(X'7b22ff' AS TEXT)", "NULL"];
    for stored in stored {
        odd.set(&format!("metadata = {stored}")).await;
        assert_eq!(odd.read().await.0.metadata, Default::default(), "{stored}");
        let metadata = odd.repo.metadata(odd.app, odd.id).await.unwrap();
        assert_eq!(metadata, Some(Default::default()), "{stored}");
        let page = odd.repo.list(odd.app, &by_key, &PageRequest::default()).await.unwrap();
        assert_eq!(page.items, [], "{stored}");
    }
}

#[tokio::test]
async fn an_odd_kind_and_an_odd_resolution_are_ones_that_this_version_does_not_know_on_sqlite() {
    for cast in ["CAST(X'ff' AS TEXT)", "X'ff'"] {
        let odd = Odd::new().await;
        odd.repo.resolve(odd.id, "ignored").await.unwrap();
        odd.set(&format!("payload_kind = {cast}, resolution = {cast}")).await;
        let (row, summary, letter) = odd.read().await;
        assert_eq!((row.payload_kind, row.resolution, row.resolved_at.is_some()), (None, None, true));
        assert_eq!((summary.payload_kind, summary.resolution), (None, None));
        assert_eq!(letter.payload_kind.as_deref(), Some("\u{FFFD}"));
    }
}

#[tokio::test]
async fn a_number_out_of_range_is_the_nearest_and_what_is_no_number_is_0_on_sqlite() {
    let odd = Odd::new().await;
    for (stored, read) in [
        ("3000000000", i32::MAX as u32),
        ("9223372036854775807", i32::MAX as u32),
        ("-5", 0),
        ("-3000000000", 0),
        ("2.9", 2),
        ("1e300", i32::MAX as u32),
        ("'three'", 0),
        ("X'0102'", 0),
        ("CAST(X'ff' AS TEXT)", 0),
    ] {
        odd.set(&format!("attempt_count = {stored}")).await;
        let (row, summary, letter) = odd.read().await;
        let counts = [row.attempt_count, summary.attempt_count, letter.attempt_count];
        assert_eq!(counts, [read; 3], "{stored}");
        assert_eq!(row.payload, super::letter(odd.app).payload);
    }
    for (stored, read) in [("99999", i16::MAX), ("-99999", i16::MIN), ("'one'", 0)] {
        odd.set(&format!("signature_version = {stored}")).await;
        assert_eq!(odd.read().await.2.signature_version, read, "{stored}");
    }
}

#[tokio::test]
async fn a_trigger_script_or_run_that_is_no_uuid_is_unknown_on_sqlite() {
    let odd = Odd::new().await;
    let printed = "6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01";
    let id: uuid::Uuid = printed.parse().unwrap();
    for (stored, read) in
        [(format!("'{printed}'"), Some(id)), ("'x'".to_owned(), None), ("X'ff'".to_owned(), None)]
    {
        odd.set(&format!("trigger_id = {stored}, script_id = {stored}, run_id = {stored}")).await;
        let (row, summary, letter) = odd.read().await;
        let (trigger, script) = (read.map(Into::into), read.map(Into::into));
        assert_eq!((row.trigger_id, row.script_id), (trigger, script), "{stored}");
        assert_eq!((summary.trigger_id, summary.script_id), (trigger, script), "{stored}");
        assert_eq!((letter.trigger_id, letter.script_id, letter.run_id), (trigger, script, read), "{stored}");
    }
}

#[derive(Default)]
struct Shelf(Mutex<Vec<StoredLetter>>);

#[async_trait]
impl Archive for Shelf {
    async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(letters);
        Ok(())
    }
}

#[tokio::test]
async fn an_odd_letter_is_archived_and_swept_beside_the_others_on_sqlite() {
    let scopes: [fn(AppId) -> SweepScope; 2] = [SweepScope::App, |_| SweepScope::AllApps];
    for scope in scopes {
        let odd = Odd::new().await;
        odd.set("payload = CAST(payload AS BLOB), source = CAST(X'ff' AS TEXT), attempt_count = 'three'")
            .await;
        let (shelf, due) = (Shelf::default(), Due::CreatedBefore(Utc::now() + TimeDelta::days(1)));
        let (.., letter) = odd.read().await;
        let swept = odd.repo.sweep_into(&scope(odd.app), due, None, 100, &shelf).await.unwrap();
        let kept = shelf.0.into_inner().unwrap();
        assert_eq!((swept.deleted, kept.len()), (3, 3));
        assert!(kept.contains(&letter), "{kept:?}");
        assert_eq!(odd.repo.list_for_app(odd.app, false, 10, 0).await.unwrap(), []);
    }
}

#[tokio::test]
async fn an_odd_letter_is_replayed_and_resolved_beside_the_others_on_sqlite() {
    let odd = Odd::new().await;
    let Odd { repo, app, id, .. } = &odd;
    let values = "payload = CAST(payload AS BLOB), source = CAST(X'ff' AS TEXT), attempt_count = 'three'";
    odd.set(values).await;
    let resolved = repo.resolve_once(*app, *id, Resolution::HandlerFailed, &Attribution::default()).await;
    let (resolved, row) = (resolved.unwrap(), repo.get(*id).await.unwrap().unwrap());
    assert_eq!((resolved.source.as_str(), resolved.attempt_count), ("\u{FFFD}", 0));
    assert_eq!((row.source.as_str(), row.attempt_count), ("\u{FFFD}", 0));
    assert_eq!(row.payload, letter(*app).payload);
    let again = repo
        .replay_with(*app, *id, &Attribution::default(), async |_: &DatabaseTransaction, row| {
            Ok::<_, DeadLetterRepoError>(row.id)
        })
        .await;
    assert_eq!(again.unwrap(), *id);
    reopen_replayed(repo, *app, *id).await;
    let mut replayed = Vec::new();
    let filter = DeadLetterFilter::default().created_before(Utc::now() + TimeDelta::days(1));
    let nobody = Attribution::default();
    let closed =
        repo.replay_matching_with(*app, &filter, &nobody, 100, async |_: &DatabaseTransaction, rows| {
            replayed.extend(rows.iter().map(|row| row.id));
            Ok::<_, DeadLetterRepoError>(())
        });
    assert_eq!(closed.await.unwrap().ids.len(), 3);
    assert!(replayed.len() == 3 && replayed.contains(id), "{replayed:?}");
    let error = repo.resolve_once(*app, *id, Resolution::Ignored, &Attribution::default()).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::AlreadyResolved { .. }), "{error}");
}

#[tokio::test]
async fn a_payload_that_is_a_blob_comes_in_parts_on_sqlite() {
    let odd = Odd::new().await;
    odd.set("payload = CAST('{\"name\": \"x\"}' AS BLOB)").await;
    let part = odd.repo.payload_text(odd.app, odd.id, 1..7).await.unwrap();
    assert_eq!(part.as_deref(), Some("\"name\""));
    assert_eq!(odd.read().await.0.payload, Value::from_iter([("name", "x")]));
}

#[tokio::test]
async fn bytes_that_are_not_utf_8_are_not_replayed_to_a_service_that_takes_whole_payloads_on_sqlite() {
    let odd = Odd::new().await;
    odd.set("payload = CAST(X'22ff22' AS TEXT)").await;
    let until = Some(Utc::now() + TimeDelta::hours(1));
    let all = DeadLetterFilter::default().created_before(until);
    let replayer = odd.repo.replayer(Outbox);
    let replayed = replayer
        .replay_matching(odd.app, &all, &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    assert_eq!(replayed.ids.len(), 2);
    let [failure] = replayed.failed.as_slice() else { panic!("{:?}", replayed.failed) };
    assert_eq!(failure.id, odd.id);
    assert!(matches!(failure.error, DeadLetterRepoError::PayloadNotWhole { .. }), "{:?}", failure.error);
    let single = replayer.replay(odd.app, odd.id, &Attribution::default()).await;
    assert!(matches!(single, Err(DeadLetterRepoError::PayloadNotWhole { .. })), "{single:?}");
}

/// Takes whole payloads alone.
struct Outbox;

#[async_trait]
impl Requeue for Outbox {
    async fn requeue(
        &self,
        _: &DatabaseTransaction,
        _: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
}
