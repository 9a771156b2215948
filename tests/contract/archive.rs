//! Archive, then delete: what the archive has, and what is gone. The files by themselves are in
//! tests/archive.rs.

use std::{
    collections::BTreeSet,
    env,
    error::Error,
    fs, future,
    path::Path,
    process::{self, Stdio},
    sync::Arc,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, Archive, ArchiveError, DeadLetterId, DeadLetterRepo, DeadLetterRepoError, DeadLetterRetention,
    DeadLetterTransfer, Due, JsonLinesArchive, NewDeadLetter, Resolution, Retention, RetentionPolicy,
    SeaOrmDeadLetterRepo, StoredLetter, SweepEnd, SweepScope, Sweeper, entity::dead_letters as table,
};
use sea_orm::{ConnectionTrait, Database, EntityTrait};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::{import_of, letter, new_app};
use crate::{database::TestDb, faults::this_test_alone};

on_every_backend! {
    deleted_letters_are_in_the_archive_as_they_were_stored,
    if_the_archive_fails_nothing_is_deleted,
    a_sweep_that_is_dropped_between_archive_and_commit_loses_nothing,
    a_process_that_ends_between_archive_and_commit_loses_nothing,
    a_letter_that_was_archived_twice_is_imported_as_it_was_last,
}

/// Names the database and the folder of the process that ends.
const SHARDED: &str = "DEAD_LETTERS_ARCHIVED_SHARDED";
const DATABASE: &str = "DEAD_LETTERS_ARCHIVED_DATABASE";
const FOLDER: &str = "DEAD_LETTERS_ARCHIVE_FOLDER";

fn all_due() -> Due {
    Due::CreatedBefore(Utc::now() + chrono::Duration::days(1))
}

async fn stored(db: &TestDb, app: AppId) -> BTreeSet<DeadLetterId> {
    db.repo().insert_many(vec![letter(app); 25]).await.unwrap().into_iter().collect()
}

fn archived(folder: &Path) -> Vec<StoredLetter> {
    JsonLinesArchive::read(folder).unwrap().map(|read| read.unwrap().letter).collect()
}

/// Returns the ids that an import of the archive finds, each of them once.
fn archived_ids(folder: &Path) -> BTreeSet<DeadLetterId> {
    archived(folder).into_iter().map(|letter| letter.id).collect()
}

/// All that is there, and in a folder.
fn sweeper(db: &TestDb, folder: &Path) -> Sweeper {
    let others = Retention::default().delete_all_after(std::time::Duration::from_secs(3_600));
    Sweeper::builder(Arc::new(db.repo()), RetentionPolicy::new(others))
        .archive(Arc::new(JsonLinesArchive::new(folder)))
        .busy_percent(100)
        .batch(10)
        .build()
        .unwrap()
}

fn tomorrow() -> DateTime<Utc> {
    Utc::now() + chrono::Duration::days(1)
}

/// Sweeps the rows that the accident left in the table. Then the archive has every letter.
async fn the_rest_is_swept_and_the_archive_has_all(db: &TestDb, folder: &Path, ids: &BTreeSet<DeadLetterId>) {
    let sweeper = sweeper(db, folder);
    // A connection that was lost may hold its rows for a moment more.
    while db.row_count().await > 0 {
        let report = sweeper.sweep_once(tomorrow()).await;
        assert!(matches!(report.end, SweepEnd::Finished), "{report:?}");
    }
    assert_eq!(archived_ids(folder), *ids);

    // Nothing is there twice, whatever the archive was handed twice.
    let letters = archived(folder);
    let imported = db.repo().import(&letters).await.unwrap();
    let doubles = (letters.len() - ids.len()) as u64;
    assert_eq!(imported, import_of(ids.len() as u64, doubles));
    assert_eq!(db.row_count().await, ids.len() as u64);
}

async fn deleted_letters_are_in_the_archive_as_they_were_stored(db: TestDb) {
    let dir = TempDir::new().unwrap();
    let app = new_app();
    let hostile = NewDeadLetter {
        source: "é\n\"\u{2028}".to_owned(),
        payload: json!({ "text": "\0\r\n", "float": 1.1e300 }),
        trigger_id: None,
        last_error: String::new(),
        ..letter(app)
    };
    let ids = db.repo().insert_many([vec![hostile], vec![letter(app); 24]].concat()).await.unwrap();
    db.repo().resolve(ids[3], "ignored").await.unwrap();
    let mut rows = table::Entity::find().all(&db.db).await.unwrap();
    rows.sort_by_key(|row| row.id);
    let report = sweeper(&db, dir.path()).sweep_once(tomorrow()).await;
    assert_eq!((report.deleted, db.row_count().await), (25, 0));
    let mut letters = archived(dir.path());
    letters.sort_by_key(|letter| letter.id);
    assert_eq!(letters.len(), 25);
    for (letter, row) in letters.into_iter().zip(rows) {
        assert_eq!((letter.id.into_inner(), letter.created_at), (row.id, row.created_at.to_utc()));
        assert_eq!(
            (letter.payload, letter.source, letter.last_error),
            (row.payload, row.source, row.last_error)
        );
        assert_eq!(
            (letter.resolution, letter.resolved_at, letter.trigger_id.map(Into::into)),
            (row.resolution, row.resolved_at.map(|at| at.to_utc()), row.trigger_id)
        );
    }
    // One file a batch of 10.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

async fn if_the_archive_fails_nothing_is_deleted(db: TestDb) {
    let dir = TempDir::new().unwrap();
    let ids = stored(&db, new_app()).await;
    let gone = dir.path().join("gone");
    let report = sweeper(&db, &gone).sweep_once(tomorrow()).await;
    let SweepEnd::Failed(DeadLetterRepoError::Archive(error)) = &report.end else { panic!("{report:?}") };
    let error = error.downcast_ref::<ArchiveError>().unwrap();
    assert!(matches!(error, ArchiveError::Io { path, .. } if path.starts_with(&gone)), "{error}");
    assert_eq!((report.deleted, db.row_count().await), (0, 25));
    // The disk is mounted again.
    fs::create_dir(&gone).unwrap();
    the_rest_is_swept_and_the_archive_has_all(&db, &gone, &ids).await;
}

/// Keeps the letters, and then does not return.
struct Hanging {
    archive: JsonLinesArchive,
    kept: Notify,
}

#[async_trait]
impl Archive for Hanging {
    async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.archive.keep(letters).await?;
        self.kept.notify_one();
        future::pending().await
    }
}

async fn a_sweep_that_is_dropped_between_archive_and_commit_loses_nothing(db: TestDb) {
    let dir = TempDir::new().unwrap();
    let ids = stored(&db, new_app()).await;
    let hanging = Hanging { archive: JsonLinesArchive::new(dir.path()), kept: Notify::new() };
    let repo = db.repo();
    tokio::select! {
        swept = repo.sweep_into(&SweepScope::AllApps, all_due(), None, 10, &hanging) => panic!("{swept:?}"),
        () = hanging.kept.notified() => {}
    }
    assert_eq!((archived(dir.path()).len(), db.row_count().await), (10, 25));
    the_rest_is_swept_and_the_archive_has_all(&db, dir.path(), &ids).await;
    // Those were archived again.
    assert_eq!(archived(dir.path()).len(), 35);
}

/// Keeps the letters, and is the process's last deed.
struct Last(JsonLinesArchive);

#[async_trait]
impl Archive for Last {
    async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.keep(letters).await?;
        process::abort()
    }
}

#[tokio::test]
async fn a_process_that_archives_and_ends() {
    // By itself it is no test: it is the process of the next one.
    let Ok(url) = env::var(DATABASE) else { return };
    let repo = SeaOrmDeadLetterRepo::new(Database::connect(url).await.unwrap());
    let repo = if env::var_os(SHARDED).is_some() { repo.sharded() } else { repo };
    let archive = Last(JsonLinesArchive::new(env::var_os(FOLDER).unwrap()));
    repo.sweep_into(&SweepScope::AllApps, all_due(), None, 10, &archive).await.unwrap();
}

async fn a_process_that_ends_between_archive_and_commit_loses_nothing(db: TestDb) {
    let dir = TempDir::new().unwrap();
    let ids = stored(&db, new_app()).await;
    let ended = this_test_alone("contract::archive::a_process_that_archives_and_ends")
        .env(DATABASE, db.url())
        .env(FOLDER, dir.path())
        .envs(db.sharded.then_some((SHARDED, "")))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(ended.code().is_none(), "{ended}");
    assert_eq!((archived(dir.path()).len(), db.row_count().await), (10, 25));
    the_rest_is_swept_and_the_archive_has_all(&db, dir.path(), &ids).await;
}

/// Keeps the letters, and then fails.
struct Failing(JsonLinesArchive);

#[async_trait]
impl Archive for Failing {
    async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.keep(letters).await?;
        Err("the archive's answer was lost".into())
    }
}

async fn a_letter_that_was_archived_twice_is_imported_as_it_was_last(db: TestDb) {
    let dir = TempDir::new().unwrap();
    let id = db.repo().insert(letter(new_app())).await.unwrap();
    let archive = JsonLinesArchive::new(dir.path());
    let failing = Failing(archive.clone());
    db.repo().sweep_into(&SweepScope::AllApps, all_due(), None, 10, &failing).await.unwrap_err();
    db.repo().resolve(id, "replayed").await.unwrap();
    db.repo().sweep_into(&SweepScope::AllApps, all_due(), None, 10, &archive).await.unwrap();
    let resolutions: Vec<_> =
        archived(dir.path()).into_iter().map(|letter| (letter.id, letter.resolution)).collect();
    assert_eq!(resolutions, [(id, Some("replayed".to_owned())), (id, None)]);
    // A call for each file, as the folder is read.
    for letter in archived(dir.path()) {
        db.repo().import(&[letter]).await.unwrap();
    }
    let imported = db.repo().get(id).await.unwrap().unwrap();
    assert_eq!(imported.resolution, Some(Resolution::Replayed));
}

/// Keeps the letters while the server ends the sweep's connection.
struct Cut {
    archive: JsonLinesArchive,
    db: sea_orm::DatabaseConnection,
}

#[async_trait]
impl Archive for Cut {
    async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.archive.keep(letters).await?;
        let cut =
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'cut'";
        Ok(self.db.execute_unprepared(cut).await.map(drop)?)
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_between_archive_and_commit_loses_nothing_on_postgres() {
    let db = TestDb::postgres().await;
    let dir = TempDir::new().unwrap();
    let ids = stored(&db, new_app()).await;
    let sweeping = db.connect_with(|options| {
        options.set_application_name("cut");
    });
    let repo = SeaOrmDeadLetterRepo::new(sweeping.await);
    let archive = Cut { archive: JsonLinesArchive::new(dir.path()), db: db.db.clone() };
    let error = repo.sweep_into(&SweepScope::AllApps, all_due(), None, 10, &archive).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!((archived(dir.path()).len(), db.row_count().await), (10, 25));
    the_rest_is_swept_and_the_archive_has_all(&db, dir.path(), &ids).await;
}
