//! Tests of how a command ends: by a signal, by a closed pipe, or killed.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use dead_letters::{
    DeadLetterRepo,
    testing::{letter, stored_letter},
};
use sea_orm::{ConnectionTrait, DbBackend, Statement, TransactionTrait};
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::{PROGRAM, Ran, Store, program, signal, terminate, waits_for_a_lock};

on_every_backend! {
    a_bulk_run_that_is_killed_has_done_whole_batches,
    an_import_that_is_killed_has_stored_whole_batches,
    an_archiving_sweep_that_is_killed_loses_no_letter,
    an_import_that_waits_for_input_ends_on_a_signal,
    a_command_that_waits_for_ids_ends_on_a_signal_and_changes_nothing,
    a_second_signal_ends_an_export_that_nobody_reads,
}

/// As a machine that loses its power would.
fn kill(mut program: Child) {
    program.kill().unwrap();
    program.wait().unwrap();
}

async fn a_bulk_run_that_is_killed_has_done_whole_batches(store: Store) {
    store.import(20_000, 1).await;
    let program = store.start("resolve --app {app} --all --yes");
    while store.unresolved().await == 20_000 {}
    kill(program);
    let left = store.unresolved().await;
    assert!(left > 0 && left % 1_000 == 0, "{left}");
    assert_eq!(store.run("resolve --app {app} --all --yes").lines(), [[left.to_string()]]);
    assert_eq!(store.unresolved().await, 0);
}

async fn an_import_that_is_killed_has_stored_whole_batches(store: Store) {
    store.repo.insert_many(vec![letter(store.app); 1_500]).await.unwrap();
    let lines = store.run("export --app {app}").out;
    let store = store.emptied().await;
    let mut program = store.start("import");
    // It has 500 of the next batch, and waits for the rest.
    program.stdin.as_mut().unwrap().write_all(lines.as_bytes()).unwrap();
    while store.count().await == 0 {}
    kill(program);
    assert_eq!(store.count().await, 1_000);
    assert_eq!(store.fed("import", &lines).lines(), [["500", "1000"]]);
    assert_eq!(store.run("export --app {app}").out, lines);
}

async fn an_archiving_sweep_that_is_killed_loses_no_letter(store: Store) {
    store.import(10_000, 40).await;
    let before = store.run("export --app {app}").out;
    let folder = TempDir::new().unwrap();
    let sweep = format!("sweep --delete-all-after 30d --yes --archive {}", folder.path().display());
    let program = store.start(&sweep);
    while store.count().await == 10_000 {}
    kill(program);
    assert!(store.count().await > 0);
    // Those of the batch under way may be in both.
    let import = format!("import {}", folder.path().display());
    assert_eq!(store.run(&import).code, 0);
    assert_eq!(store.run("export --app {app}").out, before);

    assert_eq!(store.run(&sweep).lines(), [["10000", "0"]]);
    assert_eq!(store.count().await, 0);
    assert_eq!(store.run(&import).lines()[0][0], "10000");
    assert_eq!(store.run("export --app {app}").out, before);
}

async fn an_import_that_waits_for_input_ends_on_a_signal(store: Store) {
    store.repo.insert_many(vec![letter(store.app); 1_001]).await.unwrap();
    let lines = store.run("export --app {app}").out;
    let store = store.emptied().await;
    let mut program = store.start("import");
    let mut typing = program.stdin.take().unwrap();
    typing.write_all(lines.as_bytes()).unwrap();
    while store.count().await == 0 {}
    terminate(&program);
    let ran = Ran::from(program.wait_with_output().unwrap());
    assert_eq!((ran.code, &*ran.out), (4, "1000\t0\n"), "{ran:?}");
    assert!(ran.err.contains("stopped"), "{ran:?}");
    drop(typing);
}

async fn a_command_that_waits_for_ids_ends_on_a_signal_and_changes_nothing(store: Store) {
    let id = store.letter("orders", "crm: 503").await;
    for command in ["resolve -", "erase - --yes"] {
        let mut program = store.start(command);
        let mut typing = program.stdin.take().unwrap();
        // More than a pipe holds: the program listens for signals before it reads.
        typing.write_all(format!("{id}\n").repeat(3_000).as_bytes()).unwrap();
        terminate(&program);
        Ran::from(program.wait_with_output().unwrap()).fails(1, "nothing was changed");
        drop(typing);
    }
    assert_eq!(store.unresolved().await, 1);
}

async fn a_second_signal_ends_an_export_that_nobody_reads(store: Store) {
    store.repo.insert_many(vec![letter(store.app); 1_000]).await.unwrap();
    let mut program = store.start("export --app {app}");
    let mut said = BufReader::new(program.stderr.take().unwrap()).lines().map(Result::unwrap);
    // Its pipe has no room for as much, and so it writes no further.
    let mut first = [0];
    std::io::Read::read_exact(program.stdout.as_mut().unwrap(), &mut first).unwrap();
    terminate(&program);
    assert!(
        said.next().unwrap().contains("Stopping after the current batch. Press Ctrl-C again to stop now.")
    );
    terminate(&program);
    assert_eq!(program.wait().unwrap().code(), Some(1));
    assert!(said.next().unwrap().contains("stopped; the current batch was committed or rolled back"));
}

#[tokio::test]
async fn an_export_that_a_signal_ends_prints_how_many_letters_it_wrote() {
    let store = Store::postgres().await;
    for _ in 0..10 {
        store.repo.insert_many(vec![letter(store.app); 1_000]).await.unwrap();
    }
    let mut program = store.start("export --app {app}");
    let mut out = BufReader::new(program.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    // Nobody reads on, so that it is some pages ahead at most.
    terminate(&program);
    let mut said = BufReader::new(program.stderr.take().unwrap()).lines().map(Result::unwrap);
    said.next().unwrap();
    let written = 1 + out.lines().count();
    assert_eq!(program.wait().unwrap().code(), Some(4));
    assert!(written < 10_000 && written % 500 == 0, "{written}");
    assert!(said.next().unwrap().contains(&format!("stopped after {written} letters")));
}

/// SIGTERM ends it, as a container's does.
#[tokio::test]
async fn a_repeated_sweep_prints_each_round_and_ends_on_a_signal() {
    let store = Store::sqlite().await;
    store.import(3, 2).await;
    let mut program = store.start("sweep --delete-all-after 1d --every 1s --yes");
    let mut said = BufReader::new(program.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.next().unwrap().ends_with("Z deleted 3"));
    assert!(said.next().unwrap().ends_with("Z deleted 0"));
    terminate(&program);
    assert!(said.any(|line| line.contains("Stopping after the current batch")));
    assert!(program.wait().unwrap().success());
}

/// SIGTERM in the middle of 30,000 letters: what was done by then is told and done, and the rest is not.
#[tokio::test]
async fn a_signal_ends_a_bulk_run_after_the_current_batch() {
    let store = Store::postgres().await;
    for _ in 0..30 {
        store.repo.insert_many(vec![letter(store.app); 1_000]).await.unwrap();
    }
    // A batch takes longer than it takes to tell it to end.
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                    'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END';
                CREATE TRIGGER slow AFTER UPDATE ON dead_letters EXECUTE FUNCTION slow()";
    store.repo.pool().execute_unprepared(slow).await.unwrap();
    let program = store.start("resolve --app {app} --all --yes");
    while store.unresolved().await == 30_000 {}
    terminate(&program);
    let ran = Ran::from(program.wait_with_output().unwrap());
    let done: i64 = ran.out.trim().parse().unwrap();
    assert_eq!(store.unresolved().await, 30_000 - done);
    assert!(ran.code == 4 && done % 1_000 == 0 && ran.err.contains("there are more"), "{ran:?}");
}

/// A named pipe in place of a file keeps the command there until the test closes it.
#[test]
fn a_signal_ends_an_erasure_in_an_archive_after_the_current_file() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let letters = [(); 2].map(|()| stored_letter(Uuid::nil().into(), chrono::Utc::now()));
    let [first, last] = [0, 1].map(|n: usize| serde_json::to_string(&letters[n]).unwrap() + "\n");
    fs::write(path("c.jsonl"), &first).unwrap();
    assert!(Command::new("mkfifo").arg(path("b.jsonl")).status().unwrap().success());
    fs::write(path("a.jsonl"), &last).unwrap();
    let mut erase = program();
    erase.args(["archive", "erase", "--output", "tsv"]).arg(folder.path());
    // No file has the third.
    erase.args(["--ids", &format!("{},{},{}", letters[0].id, letters[1].id, Uuid::nil())]);
    let mut program = erase.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // This waits until the command opens the pipe as well.
    let pipe = OpenOptions::new().write(true).open(path("b.jsonl")).unwrap();
    let (told, is_told) = mpsc::channel::<()>();
    // A command that ignores the signal would read from the pipe forever.
    let closing = thread::spawn(move || {
        _ = is_told.recv_timeout(Duration::from_secs(10));
        drop(pipe);
    });
    terminate(&program);
    let mut said = BufReader::new(program.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.next().unwrap().contains("Stopping after the current batch"));
    drop(told);
    closing.join().unwrap();
    assert_eq!(said.collect::<Vec<_>>(), ["note: stopped after 2 of 3 files; run the command again"]);
    let ran = Ran::from(program.wait_with_output().unwrap());
    assert_eq!((ran.code, &*ran.out), (4, "1\n"), "{ran:?}");
    assert_ne!(fs::read_to_string(path("c.jsonl")).unwrap(), first);
    assert_eq!(fs::read_to_string(path("a.jsonl")).unwrap(), last);
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_is_no_failure() {
    let store = Store::sqlite().await;
    store.repo.insert_many(vec![letter(store.app); 400]).await.unwrap();
    let line = format!("{PROGRAM} list --app {} --size 400 --output json; echo $? >&2", store.app);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{{ {line}; }} | head -c 10")]).env("DATABASE_URL", &store.url);
    let ran = Ran::from(shell.output().unwrap());
    assert_eq!((&*ran.out, &*ran.err), ("{\"items\":[", "0\n"));
}

#[tokio::test]
async fn missing_steps_are_a_failure_also_if_nobody_reads_which() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("empty.sqlite").display());
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{{ {PROGRAM} migrate status; echo $? >&2; }} | true")]);
    let ran = Ran::from(shell.env("DATABASE_URL", url).output().unwrap());
    assert!(ran.err.ends_with("\n5\n"), "{ran:?}");
}

/// While its statement waits for a lock.
#[tokio::test]
async fn one_ctrl_c_ends_at_once_what_only_reads() {
    let store = Store::postgres().await;
    let id = store.letter("orders", "a").await;
    let locked = store.repo.pool().begin().await.unwrap();
    for line in [
        "list --app {app}",
        "apps",
        "count --app {app}",
        &format!("show {id} --app {{app}}"),
        "export --app {app}",
        "resolve --app {app} --all --dry-run",
    ] {
        // It has begun, and has the table.
        locked.execute_unprepared("LOCK TABLE dead_letters IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let mut program = store.start(line);
        while !waits_for_a_lock(&locked).await {}
        signal(&program, "INT");
        let code = program.wait().unwrap().code();
        let mut said = String::new();
        std::io::Read::read_to_string(program.stderr.as_mut().unwrap(), &mut said).unwrap();
        assert!(code == Some(1) || code == Some(4), "{line}: {said}");
        assert!(!said.contains("57014") && !said.contains("longer than"), "{line}: {said}");
        // Its server process may not have noticed yet.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        locked.query_all_raw(Statement::from_string(DbBackend::Postgres, end)).await.unwrap();
        while waits_for_a_lock(&locked).await {}
    }
    locked.rollback().await.unwrap();
}
