//! More than one process: on one SQLite file, and one that is given what it can't survive.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use dead_letters::{
    AppId, DeadLetterRepo, SeaOrmDeadLetterRepo, entity::dead_letters as table, testing::letter,
};
use dead_letters_migration::Migrator;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, EntityTrait};
use sea_orm_migration::MigratorTrait;
use tempfile::TempDir;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::database::TestDb;

/// Names the file on which the other process shall write.
const SHARED_FILE: &str = "DEAD_LETTERS_SHARED_FILE";
const LETTERS_EACH: usize = 100;
/// Names the file that the other process shall hold, and what that says once it does.
const HELD_FILE: &str = "DEAD_LETTERS_HELD_FILE";
const HELD: &str = "the file is held";

/// One test of this binary, in a process of its own.
pub(crate) fn this_test_alone(name: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", name]);
    command
}

/// With the file's name set, it is the other process of the next test; by itself, it is that test with one
/// process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_writers_of_one_sqlite_file_lose_nothing() {
    let dir = TempDir::new().unwrap();
    let url = env::var(SHARED_FILE)
        .unwrap_or_else(|_| format!("sqlite://{}?mode=rwc", dir.path().join("own.sqlite").display()));
    let db = Database::connect(dead_letters::connect_options(url)).await.unwrap();
    if env::var_os(SHARED_FILE).is_none() {
        Migrator::up(&db, None).await.unwrap();
    }
    let app = AppId::from(Uuid::new_v4());
    let mut writers = JoinSet::new();
    for _ in 0..4 {
        let repo = SeaOrmDeadLetterRepo::new(db.clone());
        writers.spawn(async move {
            for _ in 0..LETTERS_EACH {
                repo.insert(letter(app)).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    let stored = SeaOrmDeadLetterRepo::new(db).list_for_app(app, true, i64::MAX, 0).await.unwrap();
    assert_eq!(stored.len(), 4 * LETTERS_EACH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_writers_of_two_processes_lose_and_double_nothing_on_sqlite() {
    let dir = TempDir::new().unwrap();
    let url = format!("sqlite://{}?mode=rwc", dir.path().join("shared.sqlite").display());
    let db = Database::connect(dead_letters::connect_options(url.clone())).await.unwrap();
    Migrator::up(&db, None).await.unwrap();
    let spawn = || {
        this_test_alone("faults::process::four_writers_of_one_sqlite_file_lose_nothing")
            .env(SHARED_FILE, &url)
            .spawn()
            .unwrap()
    };
    for mut process in [spawn(), spawn()] {
        assert!(process.wait().unwrap().success());
    }
    let rows = table::Entity::find().all(&db).await.unwrap();
    assert_eq!(rows.len(), 8 * LETTERS_EACH);
}

/// Longer than sqlx waits by itself, which is 5 seconds. With the file's name set, it is the process that holds the
/// lock.
#[tokio::test]
async fn an_insert_outlasts_another_processs_lock_of_7_seconds_on_sqlite() {
    if let Ok(url) = env::var(HELD_FILE) {
        let db = Database::connect(ConnectOptions::new(url).max_connections(1).to_owned()).await.unwrap();
        db.execute_unprepared("BEGIN IMMEDIATE").await.unwrap();
        println!("{HELD}");
        // The time is the condition here.
        tokio::time::sleep(Duration::from_secs(7)).await;
        db.execute_unprepared("COMMIT").await.unwrap();
        return;
    }
    let db = TestDb::sqlite().await;
    let patient = Database::connect(dead_letters::connect_options(db.url())).await.unwrap();
    let this = "faults::process::an_insert_outlasts_another_processs_lock_of_7_seconds_on_sqlite";
    let mut holder = this_test_alone(this);
    let mut holder =
        holder.arg("--nocapture").env(HELD_FILE, db.url()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(said.by_ref().any(|line| line.unwrap() == HELD));
    let id = SeaOrmDeadLetterRepo::new(patient).insert(letter(Uuid::nil().into())).await.unwrap();
    assert!(db.repo().get(id).await.unwrap().is_some());
    assert_eq!(db.row_count().await, 1);
    said.for_each(drop);
    assert!(holder.wait().unwrap().success());
}

/// As over a full disk: to the driver it is one still.
#[tokio::test]
async fn a_transaction_that_sqlite_ended_and_its_caller_dropped_swallows_no_later_insert_on_sqlite() {
    let db = TestDb::sqlite().await;
    let mut options = dead_letters::connect_options(db.url());
    let one = Database::connect(options.max_connections(1).to_owned()).await.unwrap();
    let txn = SeaOrmDeadLetterRepo::begin(&one).await.unwrap();
    txn.execute_unprepared("ROLLBACK").await.unwrap();
    drop(txn);
    drop(SeaOrmDeadLetterRepo::begin(&one).await.unwrap());
    let id = SeaOrmDeadLetterRepo::new(one).insert(letter(Uuid::nil().into())).await.unwrap();
    assert!(db.repo().get(id).await.unwrap().is_some());
}

#[test]
fn a_payload_of_100_000_levels_does_not_end_a_process_of_its_own() {
    for case in [
        "contract::insert::sqlite::a_payload_of_100_000_levels_is_stored_and_the_process_lives",
        "contract::insert_many::sqlite::letters_of_100_000_levels_side_by_side_leave_the_process_alive",
        "contract::metadata::sqlite::metadata_of_100_000_levels_becomes_its_text_and_the_process_lives",
    ] {
        let output = this_test_alone(case).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}

#[tokio::test]
async fn the_recommended_settings_make_a_sqlite_file_wal_and_keep_a_memory_database() {
    let dir = TempDir::new().unwrap();
    let url = format!("sqlite://{}?mode=rwc", dir.path().join("new.sqlite").display());
    let db = Database::connect(dead_letters::connect_options(url)).await.unwrap();
    let mode = sea_orm::Statement::from_string(db.get_database_backend(), "PRAGMA journal_mode");
    let mode: String = db.query_one_raw(mode).await.unwrap().unwrap().try_get_by_index(0).unwrap();
    assert_eq!(mode, "wal");

    let memory = Database::connect(dead_letters::connect_options("sqlite::memory:")).await.unwrap();
    Migrator::up(&memory, None).await.unwrap();
    let mut writers = JoinSet::new();
    for _ in 0..8 {
        let repo = SeaOrmDeadLetterRepo::new(memory.clone());
        writers.spawn(async move { repo.insert(letter(Uuid::nil().into())).await.unwrap() });
    }
    writers.join_all().await;
    assert_eq!(SeaOrmDeadLetterRepo::new(memory).unresolved_count(Uuid::nil().into()).await.unwrap(), 8);
}
