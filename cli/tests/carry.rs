//! What is exported, imported, swept and archived.

use dead_letters::{
    DeadLetterFilter, DeadLetterRepo, DeadLetterRetention, DeadLetterState, DeadLetterTriage, Due,
    PageRequest, Settlement, SweepScope,
    testing::{letter, stored_letter},
};
use serde_json::json;
use tempfile::TempDir;

use crate::support::Store;

on_every_backend! {
    what_is_exported_is_imported_as_it_was,
    files_and_folders_are_imported_one_after_another,
    a_bad_line_is_named_and_those_before_it_are_stored,
    a_sweep_deletes_what_is_due_and_archives_it_first,
}

async fn what_is_exported_is_imported_as_it_was(store: Store) {
    let any = DeadLetterFilter { state: DeadLetterState::Any, ..Default::default() };
    let id = store.letter("", "tab\there, and a second line\n\u{1b}[31m").await;
    store.repo.resolve_once(store.app, id, &Settlement::ignored().by("ada")).await.unwrap();
    store.repo.insert_many(vec![letter(store.app); 1_200]).await.unwrap();
    let page = PageRequest { size: 500, ..Default::default() };
    let before = store.repo.export(store.app, &any, &page).await.unwrap().items;
    let exported = store.run("export --app {app} --state any");
    assert_eq!(exported.out.lines().count(), 1_201);
    let some = store.run("export --app {app} --state any --scan 300");
    assert_eq!(some.out, exported.out);

    let all = SweepScope::App(store.app);
    let later = chrono::Utc::now() + chrono::TimeDelta::days(1);
    assert_eq!(store.repo.sweep(&all, Due::CreatedBefore(later), 10_000).await.unwrap().deleted, 1_201);
    let imported = store.fed("import --output json", &exported.out);
    assert_eq!(imported.json(), json!({ "stored": 1_201, "present": 0 }));
    assert_eq!(store.repo.export(store.app, &any, &page).await.unwrap().items, before);
    assert_eq!(store.fed("import", &exported.out).lines(), [["0", "1201"]]);
}

async fn files_and_folders_are_imported_one_after_another(store: Store) {
    let letters = store.import(3, 1).await;
    let lines = store.run("export --app {app}").out;
    let lines: Vec<_> = lines.lines().collect();
    let store = store.emptied().await;
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (a, b) = (write("a.jsonl", lines[0]), write("b.jsonl", lines[1]));
    write("c.tmp", "of a crash");
    let other = TempDir::new().unwrap();
    let last = other.path().join("last");
    std::fs::write(&last, format!("{}\n{}\n", lines[2], lines[0])).unwrap();
    let line = format!("import {} {}", folder.path().display(), last.display());
    assert_eq!(store.run(&line).lines(), [["3", "1"]]);
    assert_eq!(store.count().await, letters.len() as u64);
    let partly = store.run(&format!("import {a} /nowhere {b}"));
    assert_eq!((partly.code, &*partly.out), (4, "0\t1\n"), "{partly:?}");
    assert!(partly.err.contains("/nowhere: No such file"), "{partly:?}");
}

async fn a_bad_line_is_named_and_those_before_it_are_stored(store: Store) {
    store.letter("orders", "a").await;
    let good = store.run("export --app {app}").out;
    for (bad, code, problem) in [
        ("{\"secret\":1}".to_owned(), 4, "standard input, line 3: from column 9 on it is no letter"),
        (String::new(), 4, "standard input, line 3: from column 0 on it is no letter"),
        (
            good.trim().replace("\"attempt_count\":5", "\"attempt_count\":4294967295"),
            1,
            "standard input, line 3: the attempt_count can't be stored",
        ),
    ] {
        let ran = store.fed("import", &format!("{good}{good}{bad}\n"));
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.err.contains(problem) && !ran.err.contains("secret"), "{ran:?}");
    }
    assert_eq!(store.fed("import", "").lines(), [["0", "0"]]);
}

async fn a_sweep_deletes_what_is_due_and_archives_it_first(store: Store) {
    let days = |days| chrono::Utc::now() - chrono::TimeDelta::days(days);
    let letters = [91, 85, 40, 1].map(|age| stored_letter(store.app, days(age)));
    store.repo.import(&letters).await.unwrap();
    store.repo.resolve(letters[2].id, "ignored").await.unwrap();
    let dry = store.run("sweep --settled-after 2h --all-after 90d --dry-run --output json").json();
    let count = |count: u64| json!({ "count": count, "at_least": false });
    assert_eq!(dry, json!({ "settled": count(0), "all": count(1), "open_within_a_week": count(2) }));
    let folder = TempDir::new().unwrap();
    let swept = store.run(&format!("sweep --all-after 90d --archive {}", folder.path().display()));
    assert_eq!(swept.lines(), [["1"]]);
    assert_eq!(store.repo.get(letters[0].id).await.unwrap(), None);
    let import = store.run(&format!("import {}", folder.path().display()));
    assert_eq!(import.lines(), [["1", "0"]]);
    assert_eq!(store.run("sweep --all-after 30d --settled-after 30d").lines(), [["3"]]);
}
