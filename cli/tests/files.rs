//! Tests of the tool's use of a database, and of the state in which it leaves a SQLite file.

use std::{fs, io::Write, path::Path};

use async_trait::async_trait;
use dead_letters::{
    Attribution, DeadLetterRepo, DeadLetterResolve, Resolution, SeaOrmDeadLetterRepo, connect_options,
    migration::{
        Locked, Migrator,
        sea_orm_migration::{
            MigrationTrait, MigratorTrait, MigratorTraitSelf,
            sea_query::{Alias, DynIden, IntoIden},
        },
    },
    testing::letter,
};
use dead_letters_test_support::TestDatabase;
use sea_orm::{ConnectionTrait, Database};
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::{Ran, Store, run, terminate};

on_every_backend! {
    a_service_that_keeps_its_steps_in_a_table_of_its_own_has_the_tool_too,
    a_database_without_the_table_is_named_with_what_creates_it,
}

/// 1 for a rollback journal, 2 for a WAL: what the file's header says of its readers.
fn journal(file: &Path) -> u8 {
    fs::read(file).unwrap()[19]
}

async fn to_rollback_journal(store: &Store) {
    store.repo.pool().close_by_ref().await.unwrap();
    let db = Database::connect(&store.url).await.unwrap();
    db.execute_unprepared("PRAGMA journal_mode = DELETE").await.unwrap();
    db.close().await.unwrap();
    assert_eq!(journal(&store.file()), 1);
}

#[tokio::test]
async fn every_command_leaves_a_sqlite_file_that_can_be_copied() {
    let store = Store::sqlite().await;
    let id = store.letter("orders", "smtp: 451").await;
    let archive = TempDir::new().unwrap();
    store.repo.pool().close_by_ref().await.unwrap();
    let log = store.file().with_extension("sqlite-wal");
    assert!(!log.exists());
    for (line, code) in [
        ("apps".to_owned(), 0),
        ("list --app {app}".to_owned(), 0),
        (format!("show {} --app {{app}}", Uuid::new_v4()), 3),
        (format!("resolve {id} {} --app {{app}}", Uuid::new_v4()), 4),
        (format!("reopen {id} --app {{app}}"), 0),
        ("resolve --app {app} --all --dry-run".to_owned(), 0),
        ("resolve --app {app} --all --yes".to_owned(), 0),
        ("timeline --app {app} --from now --until 1h".to_owned(), 2),
        ("export --app {app} --state any".to_owned(), 0),
        (format!("sweep --delete-all-after 1d --yes --archive {}", archive.path().display()), 0),
        ("import /nowhere".to_owned(), 1),
        ("migrate status".to_owned(), 0),
        ("migrate up".to_owned(), 0),
    ] {
        let ran = store.run(&line);
        assert_eq!(ran.code, code, "{line}: {ran:?}");
        assert!(!log.exists(), "{line}");
    }
    // Told to end, it does so in order.
    let lines = store.run("export --app {app} --state any").out;
    let mut program = store.start("import");
    let mut typing = program.stdin.take().unwrap();
    typing.write_all(lines.as_bytes()).unwrap();
    while !log.exists() {}
    terminate(&program);
    assert!(!program.wait().unwrap().success());
    assert!(!log.exists());
    drop(typing);
    // A plain copy is whole.
    let copy = archive.path().join("copy.sqlite");
    fs::copy(store.file(), &copy).unwrap();
    let url = format!("sqlite://{}", copy.display());
    let args = ["count", "--state", "any", "--output", "tsv", "--database-url", &url];
    assert_eq!(run(&args).lines(), [["1"]]);
}

#[tokio::test]
async fn commands_that_only_read_keep_a_rollback_journal_and_read_a_read_only_file() {
    let store = Store::sqlite().await;
    let id = store.letter("orders", "smtp: 451").await;
    to_rollback_journal(&store).await;
    let read_only = store.url.replace("rwc", "ro");
    for line in [
        "apps",
        "list --app {app}",
        &format!("show {id} --app {{app}}"),
        "groups --app {app}",
        "count --app {app}",
        "timeline --app {app}",
        "export --app {app}",
        "resolve --app {app} --all --dry-run",
        "sweep --delete-all-after 1d --dry-run",
        "migrate status",
    ] {
        assert_eq!(store.run(line).code, 0, "{line}");
        assert_eq!(journal(&store.file()), 1, "{line}");
        let ran = store.command(line).env("DATABASE_URL", &read_only).output().unwrap();
        assert!(ran.status.success(), "{line}: {ran:?}");
    }
    let args = format!("resolve {id} --app {{app}}");
    let refused = Ran::from(store.command(&args).env("DATABASE_URL", &read_only).output().unwrap());
    refused.fails(1, "the SQLite file or its folder is read-only");
    assert!(!refused.err.contains("try again"), "{refused:?}");
}

/// A service's own migrator, with a table of its own for its steps.
struct Own;

#[async_trait]
impl MigratorTrait for Own {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        <Migrator as MigratorTrait>::migrations()
    }

    fn migration_table_name() -> DynIden {
        Alias::new("own_steps").into_iden()
    }
}

/// A database with nothing in it.
fn empty(store: &Store) -> TestDatabase {
    if store.url.starts_with("sqlite") {
        TestDatabase::empty_sqlite()
    } else {
        TestDatabase::empty_postgres()
    }
    .unwrap()
}

async fn a_service_that_keeps_its_steps_in_a_table_of_its_own_has_the_tool_too(store: Store) {
    let database = empty(&store);
    let url = database.url();
    let db = Database::connect(connect_options(url)).await.unwrap();
    Locked(Own).up(&db, None).await.unwrap();
    let repo = SeaOrmDeadLetterRepo::new(db);
    let id = repo.insert(letter(store.app)).await.unwrap();
    repo.resolve_once(store.app, id, Resolution::Ignored, &Attribution::default()).await.unwrap();
    let app = store.app.to_string();
    let with = |args: &[&str]| run(&[args, &["--output", "tsv", "--database-url", url]].concat());
    assert_eq!(with(&["count", "--app", &app, "--state", "any"]).lines(), [["1"]]);
    assert_eq!(with(&["reopen", &id.to_string(), "--app", &app]).lines(), [["1"]]);
    let status = with(&["migrate", "status"]);
    assert_eq!(status.code, 0, "{status:?}");
    assert!(status.err.contains("recorded in another table"), "{status:?}");
    let up = with(&["migrate", "up"]);
    up.fails(1, "seaql_migrations lists none of its steps");
    assert!(!up.err.contains("42P07") && !up.err.contains("dead-letters migrate up"), "{up:?}");
}

async fn a_database_without_the_table_is_named_with_what_creates_it(store: Store) {
    let database = empty(&store);
    let url = database.url();
    for args in [&["apps"][..], &["migrate", "status"], &["serve"]] {
        let ran = run(&[args, &["--database-url", url]].concat());
        let code = if args == ["migrate", "status"] { 5 } else { 1 };
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.err.contains("has no dead_letters table. Is this the service's database?"), "{ran:?}");
        assert!(ran.err.contains("To create the table: dead-letters migrate up"), "{ran:?}");
        assert!(!ran.err.contains("m2026"), "{ran:?}");
    }
}
