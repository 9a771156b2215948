//! Tests of the commands that delete letters and erase their content, and of a replay with an edited payload.

use std::fs;

use dead_letters::{
    ActionRequest, DeadLetterRead, DeadLetterRepo, PayloadKind, Resolution, StoredLetter,
    testing::stored_letter,
};
use sea_orm::{ConnectionTrait, TransactionTrait};
use tempfile::TempDir;

use crate::{resolve::own, support::Store};

on_every_backend! {
    letters_are_deleted_by_their_ids_after_a_question,
    letters_that_match_are_deleted_and_no_others,
    a_delete_without_a_filter_needs_all,
    letters_are_erased_after_a_question,
    an_erased_letter_is_not_replayed,
    a_letter_is_replayed_with_the_payload_of_a_file,
    a_payload_that_is_no_json_is_refused_with_exit_2,
}

async fn letters_are_deleted_by_their_ids_after_a_question(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    let line = format!("delete {} --app {{app}}", ids[0]);
    store.run(&line).fails(2, "cannot ask for confirmation without a terminal");
    let refused = store.typed(100, &line, "n\n");
    assert!(refused.code == 1 && refused.out.contains("1 letter will be deleted in "), "{refused:?}");
    assert_eq!(store.count().await, 2);
    assert_eq!(store.run(&format!("{line} --yes")).lines(), [["1"]]);
    assert_eq!(store.run(&format!("{line} --yes")).code, 3);
    assert!(store.repo.get(ids[0]).await.unwrap().is_none() && store.count().await == 1);
}

async fn letters_that_match_are_deleted_and_no_others(store: Store) {
    let closed = store.letter("load-test", "a").await;
    store.letter("load-test", "b").await;
    store.letter("orders", "c").await;
    store.repo.resolve(closed, "ignored").await.unwrap();
    let dry = store.run("delete --app {app} --source load-test --dry-run");
    assert!(dry.err.contains("note: 1 letter would be deleted") && store.count().await == 3, "{dry:?}");
    assert_eq!(store.run("delete --app {app} --source load-test --yes").lines(), [["1"]]);
    assert_eq!(store.run("delete --app {app} --source load-test --state closed --yes").lines(), [["1"]]);
    assert_eq!(store.run("delete --app {app} --source load-test --state any --yes").lines(), [["0"]]);
    assert_eq!(store.count().await, 1);
}

async fn a_delete_without_a_filter_needs_all(store: Store) {
    store.letter("orders", "a").await;
    store.run("delete --app {app} --yes").fails(2, "no letter is given");
    assert_eq!(store.run("delete --app {app} --all --yes").lines(), [["1"]]);
}

async fn letters_are_erased_after_a_question(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    let line = format!("erase {} {} --app {{app}}", ids[0], ids[1]);
    store.run(&line).fails(2, "cannot ask for confirmation without a terminal");
    let refused = store.typed(100, &line, "\n");
    assert!(refused.out.contains("The content of 2 letters will be erased in "), "{refused:?}");
    assert_eq!(store.repo.get(ids[0]).await.unwrap().unwrap().payload_kind, Some(PayloadKind::Json));
    // An id that is named twice is one letter.
    assert_eq!(store.run(&format!("{line} {} --yes", ids[0])).lines(), [["2"]]);
    for id in ids {
        assert_eq!(store.repo.get(id).await.unwrap().unwrap().payload_kind, Some(PayloadKind::Erased));
    }
    let again = store.run(&format!("{line} --yes"));
    assert!(again.code == 0 && again.out == "0\n" && again.err.contains("is erased already"), "{again:?}");
    assert_eq!(store.run("count --app {app} --erased true").lines(), [["2"]]);
    let history = store.repo.actions(store.app, &ActionRequest::default().limit(2)).await.unwrap();
    assert!(history[0].run_id.is_some() && history[0].run_id == history[1].run_id, "{history:?}");
}

async fn an_erased_letter_is_not_replayed(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    store.run(&format!("erase {} --app {{app}} --yes", ids[0])).lines();
    let ran = own(&store, &format!("replay {} --app {{app}}", ids[0]));
    assert!(ran.code == 1 && ran.err.contains("its content was erased"), "{ran:?}");
    let ran = own(&store, "replay --app {app} --all --yes");
    assert!(ran.code == 0 && ran.err.contains("note: 1 letter"), "{ran:?}");
    assert_eq!(store.unresolved().await, 1);
}

async fn a_letter_is_replayed_with_the_payload_of_a_file(store: Store) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("payload.json");
    fs::write(&file, "{ \"order\": 4712 }\n").unwrap();
    let id = store.letter("orders", "a").await;
    let ran = own(&store, &format!("replay {id} --app {{app}} --payload-file {}", file.display()));
    assert_eq!((ran.code, &*ran.out), (0, "1\n"), "{ran:?}");
    assert_eq!(store.repo.get(id).await.unwrap().unwrap().resolution, Some(Resolution::Replayed));
    let edited = store.repo.replayed_payload_text(store.app, id, 0..u64::MAX).await.unwrap();
    assert_eq!(edited.as_deref(), Some("{ \"order\": 4712 }\n"));
    let shown = store.run(&format!("show {id} --app {{app}} --payload --output json")).json();
    assert_eq!(shown["replayed_payload"], "{ \"order\": 4712 }\n");
}

async fn a_payload_that_is_no_json_is_refused_with_exit_2(store: Store) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("payload.json");
    fs::write(&file, "{").unwrap();
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    let line = format!("replay {} --app {{app}} --payload-file", ids[0]);
    own(&store, &format!("{line} {}", file.display())).fails(2, "the edited payload must be JSON");
    own(&store, &format!("{line} /nowhere")).fails(2, "/nowhere: No such file");
    let two = format!("replay {} {} --app {{app}} --payload-file {}", ids[0], ids[1], file.display());
    own(&store, &two).fails(2, "--payload-file replays one letter; name its ID");
    assert_eq!(store.unresolved().await, 2);
}

#[tokio::test]
async fn letters_are_erased_in_an_archive_without_a_database() {
    let folder = TempDir::new().unwrap();
    let [first, second] = [(); 2].map(|()| stored_letter(uuid::Uuid::nil().into(), chrono::Utc::now()));
    let lines = [&first, &second].map(|letter| serde_json::to_string(letter).unwrap());
    let file = folder.path().join("letters.jsonl");
    fs::write(&file, lines.join("\n")).unwrap();
    let path = folder.path().to_str().unwrap();
    let ran = crate::support::run(&["archive", "erase", path, "--ids", &second.id.to_string()]);
    assert_eq!((ran.code, &*ran.out), (0, "1 archived letter erased\n"), "{ran:?}");
    let read = fs::read_to_string(&file).unwrap();
    let read: Vec<StoredLetter> = read.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&read[0], read[1].payload.as_str()), (&first, "null"));
    let missing = crate::support::run(&["archive", "erase", "/nowhere", "--ids", &second.id.to_string()]);
    missing.fails(1, "/nowhere");
}

#[test]
fn ids_that_no_file_of_an_archive_has_are_named() {
    let folder = TempDir::new().unwrap();
    let letter = stored_letter(uuid::Uuid::new_v4().into(), chrono::Utc::now());
    let line = serde_json::to_string(&letter).unwrap() + "\n";
    fs::write(folder.path().join("a.jsonl"), line).unwrap();
    let missing = uuid::Uuid::new_v4().to_string();
    let erase = |ids: &str| {
        crate::support::run(&["archive", "erase", folder.path().to_str().unwrap(), "--ids", ids, "-o", "tsv"])
    };
    let said = format!("{missing}: no file of the archive has this letter\n");
    let none = erase(&missing);
    assert_eq!((none.code, &*none.out, &*none.err), (3, "0\n", &*said));
    let some = erase(&format!("{missing},{}", letter.id));
    assert_eq!((some.code, &*some.out, &*some.err), (4, "1\n", &*said));
    // A letter that was erased before is there.
    let again = erase(&letter.id.to_string());
    assert_eq!((again.code, &*again.out, &*again.err), (0, "0\n", ""));
}

#[test]
fn a_letter_that_one_of_several_files_has_is_not_missing() {
    let folder = TempDir::new().unwrap();
    let letters = [(); 2].map(|()| stored_letter(uuid::Uuid::nil().into(), chrono::Utc::now()));
    for (name, letter) in ["a.jsonl", "b.jsonl"].iter().zip(&letters) {
        fs::write(folder.path().join(name), serde_json::to_string(letter).unwrap() + "\n").unwrap();
    }
    let ids = format!("{},{}", letters[0].id, letters[1].id);
    let path = folder.path().to_str().unwrap();
    let ran = crate::support::run(&["archive", "erase", path, "--ids", &ids, "-o", "tsv"]);
    assert_eq!((ran.code, &*ran.out, &*ran.err), (0, "2\n", ""));
}

#[test]
fn a_file_of_an_archive_that_can_not_be_read_leaves_the_files_before_it_done() {
    let folder = TempDir::new().unwrap();
    let letter = stored_letter(uuid::Uuid::nil().into(), chrono::Utc::now());
    fs::write(folder.path().join("b.jsonl"), serde_json::to_string(&letter).unwrap() + "\n").unwrap();
    fs::write(folder.path().join("a.jsonl"), "{\n").unwrap();
    let path = folder.path().to_str().unwrap();
    let erase =
        || crate::support::run(&["archive", "erase", path, "--ids", &letter.id.to_string(), "-o", "tsv"]);
    let ran = erase();
    assert_eq!((ran.code, &*ran.out), (4, "1\n"), "{ran:?}");
    assert!(ran.err.contains("a.jsonl, line 1") && ran.err.contains("the files before are done"), "{ran:?}");
    // Nothing is left to erase in the file before.
    erase().fails(1, "a.jsonl, line 1");
}

/// Somebody resolved the letter with a note since it was erased, and a transaction has locked it.
#[tokio::test]
async fn an_erased_letter_whose_new_note_can_not_be_erased_is_left_on_postgres() {
    let store = Store::postgres().await;
    let id = store.letter("orders", "a").await;
    let line = format!("erase {id} --app {{app}} --yes");
    assert_eq!(store.run(&line).code, 0);
    assert_eq!(store.run(&format!("resolve {id} --app {{app}} --note Ada")).code, 0);
    let txn = store.repo.pool().begin().await.unwrap();
    txn.execute_unprepared("SELECT FROM dead_letters FOR UPDATE").await.unwrap();
    let ran = store.run(&line);
    assert_eq!((ran.code, &*ran.out), (1, "0\n"), "{ran:?}");
    assert!(ran.err.contains("another transaction has locked the letter, or a policy or trigger of the database prevents the change; try again"), "{ran:?}");
    txn.rollback().await.unwrap();
    assert_eq!(store.run(&line).code, 0);
}
