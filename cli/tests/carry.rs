//! Tests of exports, imports, sweeps and archives.

use dead_letters::{
    Attribution, DeadLetterFilter, DeadLetterRepo, DeadLetterResolve, DeadLetterRetention, DeadLetterState,
    DeadLetterTransfer, Due, PageRequest, Resolution, SweepScope,
    testing::{letter, stored_letter},
};
use sea_orm::{ConnectionTrait, DbBackend};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Ran, Store};

on_every_backend! {
    an_export_is_imported_unchanged,
    files_and_folders_are_imported_one_after_another,
    a_bad_line_is_named_and_those_before_it_are_stored,
    a_sweep_deletes_what_is_due_and_archives_it_first,
    a_sweep_shows_how_many_letters_the_database_does_not_delete,
    an_import_reads_what_other_systems_write,
    a_file_that_is_not_json_lines_is_named_by_what_it_is,
    output_that_nobody_reads_hides_no_failure,
    a_sweep_asks_first_and_is_of_one_app_where_one_is_named,
    letters_that_are_due_are_imported_only_with_allow_due,
}

async fn an_export_is_imported_unchanged(store: Store) {
    let any = DeadLetterFilter::default().state(DeadLetterState::Any);
    let id = store.letter("", "tab\there, and a second line\n\u{1b}[31m").await;
    store.repo.resolve_once(store.app, id, Resolution::Ignored, &Attribution::by("ada")).await.unwrap();
    store.repo.insert_many(vec![letter(store.app); 1_200]).await.unwrap();
    let page = PageRequest::default().size(500);
    let before = store.repo.export(store.app, &any, &page).await.unwrap().items;
    let exported = store.run("export --app {app}");
    assert_eq!(exported.out.lines().count(), 1_201);
    let some = store.run("export --app {app} --scan-limit 300");
    assert_eq!(some.out, exported.out);

    let all = SweepScope::App(store.app);
    let later = chrono::Utc::now() + chrono::TimeDelta::days(1);
    assert_eq!(store.repo.sweep(&all, Due::CreatedBefore(later), None, 10_000).await.unwrap().deleted, 1_201);
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
        (
            "{\"secret\":1}".to_owned(),
            4,
            "standard input, line 3: not an exported letter (column 9). The 2 lines before it were imported; \
             fix the line and run the command again.",
        ),
        (
            good.trim().replace("\"attempt_count\":5", "\"attempt_count\":4294967295"),
            1,
            "standard input, line 3: the attempt_count can't be stored: it must be at most",
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
    let dry =
        store.run("sweep --delete-closed-after 2h --delete-all-after 90d --dry-run --output json").json();
    let count = |count: u64| json!({ "count": count, "capped": false });
    assert_eq!(dry, json!({ "closed": count(0), "all": count(1), "open_within_a_week": count(2) }));
    let folder = TempDir::new().unwrap();
    let swept =
        store.run(&format!("sweep --delete-all-after 90d --yes --archive {}", folder.path().display()));
    assert_eq!(swept.lines(), [["1", "0"]]);
    assert_eq!(store.repo.get(letters[0].id).await.unwrap(), None);
    let import = store.run(&format!("import {}", folder.path().display()));
    assert_eq!(import.lines(), [["1", "0"]]);
    assert_eq!(
        store.run("sweep --delete-all-after 30d --delete-closed-after 30d --yes").lines(),
        [["3", "0"]]
    );
}

async fn a_sweep_shows_how_many_letters_the_database_does_not_delete(store: Store) {
    let mut letters = store.import(3, 40).await;
    letters.truncate(2);
    for letter in &mut letters {
        letter.id = uuid::Uuid::now_v7().into();
        letter.source = "kept".to_owned();
    }
    store.repo.import(&letters).await.unwrap();
    let pool = store.repo.pool();
    let trigger = match pool.get_database_backend() {
        DbBackend::Sqlite => {
            "CREATE TRIGGER keep BEFORE DELETE ON dead_letters WHEN OLD.source = 'kept'
             BEGIN SELECT RAISE(IGNORE); END"
        }
        _ => {
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN IF OLD.source = ''kept'' THEN RETURN NULL; END IF; RETURN OLD; END';
             CREATE TRIGGER keep BEFORE DELETE ON dead_letters FOR EACH ROW EXECUTE FUNCTION keep()"
        }
    };
    pool.execute_unprepared(trigger).await.unwrap();
    let swept = store.run("sweep --delete-all-after 30d --yes --output json").json();
    assert_eq!(swept, json!({ "deleted": 3, "refused": 2 }));
    assert_eq!(store.count().await, 2);
}

/// A BOM, blank lines, line ends of Windows, and `-` for standard input.
async fn an_import_reads_what_other_systems_write(store: Store) {
    store.import(3, 1).await;
    let lines = store.run("export --app {app}").out;
    let store = store.emptied().await;
    let windows = format!("\u{feff}{}\r\n  \r\n", lines.replace('\n', "\r\n\r\n"));
    assert_eq!(store.fed("import", &windows).lines(), [["3", "0"]]);
    assert_eq!(store.fed("import -", &windows).lines(), [["0", "3"]]);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("letters.jsonl");
    std::fs::write(&file, &windows).unwrap();
    assert_eq!(store.fed(&format!("import {} -", file.display()), &lines).lines(), [["0", "6"]]);
}

async fn a_file_that_is_not_json_lines_is_named_by_what_it_is(store: Store) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("letters.jsonl");
    let utf_16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    for (bytes, said) in [
        (b"\x1f\x8b\x08\x00secret".to_vec(), "is compressed with gzip"),
        (utf_16("\u{feff}{\"secret\""), "is UTF-16 text"),
        (utf_16("{\"secret\""), "is UTF-16 text"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let ran = store.run(&format!("import {}", file.display()));
        ran.fails(1, said);
        assert!(ran.err.contains("letters.jsonl") && !ran.err.contains("secret"), "{ran:?}");
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::write(dir.path().join("letters.json"), "").unwrap();
    let folder = store.run(&format!("import {}", dir.path().display()));
    folder.fails(1, "has no file that ends in .jsonl");
}

async fn output_that_nobody_reads_hides_no_failure(store: Store) {
    let id = store.letter("orders", "a").await;
    let good = store.run("export --app {app}").out;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("letters");
    std::fs::write(&file, format!("{good}nonsense\n")).unwrap();
    let missing = uuid::Uuid::new_v4();
    for (command, code, said) in [
        (format!("import {}", file.display()), 4, "line 2"),
        (format!("resolve {id} {missing} --app {{app}}"), 4, "no such letter"),
        (format!("resolve {missing} --app {{app}}"), 3, "no such letter"),
    ] {
        let full = store.shell(&format!("{{run}} {command} > /dev/full; echo code $? >&2"));
        assert!(
            full.err.contains(said) && full.err.contains(&format!("code {code}\n")),
            "{command}: {full:?}"
        );
        assert!(full.err.contains("cannot write"), "{command}: {full:?}");
        store.run(&format!("reopen {id} --app {{app}}"));
        // Its reader is gone before it writes.
        let mut program = store.start(&command);
        drop(program.stdout.take());
        let unread = Ran::from(program.wait_with_output().unwrap());
        assert!(unread.code == code && unread.err.contains(said), "{command}: {unread:?}");
        store.run(&format!("reopen {id} --app {{app}}"));
    }
    let full = store.shell("{run} list --app {app} > /dev/full; echo code $? >&2");
    assert!(full.err.contains("cannot write") && full.err.contains("code 1\n"), "{full:?}");
    let full = store.shell("{run} man list > /dev/full; echo code $? >&2");
    assert!(full.err.contains("cannot write") && full.err.contains("code 1\n"), "{full:?}");
    let full = store.shell("{run} --help > /dev/full; echo code $? >&2");
    assert!(full.err.contains("cannot write") && full.err.contains("code 1\n"), "{full:?}");
}

async fn a_sweep_asks_first_and_is_of_one_app_where_one_is_named(store: Store) {
    let old = store.import(2, 40).await;
    let other = uuid::Uuid::new_v4();
    let then = chrono::Utc::now() - chrono::TimeDelta::days(40);
    store.repo.import(&[stored_letter(other.into(), then)]).await.unwrap();
    let line = "sweep --delete-all-after 30d --app {app}";
    let dry = store.run(&format!("{line} --dry-run --output json")).json();
    assert_eq!((&dry["all"]["count"], &dry["open_within_a_week"]["count"]), (&json!(2), &json!(2)));
    let asked = store.asked(line, "n\n");
    assert!(asked.contains("2 letters of the app") && asked.contains("nothing was changed"), "{asked}");
    assert_eq!(store.count().await, 2);
    assert!(store.asked(line, "y\n").contains("DELETED"));
    assert_eq!(store.count().await, 0);
    assert_eq!(store.repo.get(old[0].id).await.unwrap(), None);
    assert!(store.asked("sweep --delete-all-after 30d", "n\n").contains("1 letter of all apps"));
    // Without a terminal there is nobody to ask.
    assert_eq!(store.run("sweep --delete-all-after 30d").lines(), [["1", "0"]]);
}

async fn letters_that_are_due_are_imported_only_with_allow_due(store: Store) {
    let days = |days| chrono::Utc::now() - chrono::TimeDelta::days(days);
    let letters = [1, 100].map(|age| stored_letter(store.app, days(age)));
    store.repo.import(&letters).await.unwrap();
    let lines = store.run("export --app {app}").out;
    let ignored = stored_letter(store.app, days(50));
    store.repo.import(std::slice::from_ref(&ignored)).await.unwrap();
    store.repo.resolve(ignored.id, "ignored").await.unwrap();
    let closed = store.run("export --app {app} --state closed").out;
    let failed = closed.replace("\"resolution\":\"ignored\"", "\"resolution\":\"handler_failed\"");
    let closed_long_ago = |line: &str| {
        let mut letter: serde_json::Value = serde_json::from_str(line).unwrap();
        letter["resolved_at"] = json!(days(40));
        format!("{letter}\n")
    };
    let store = store.emptied().await;
    let ran = store.fed("import --delete-all-after 90d", &lines);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains(&letters[1].id.to_string()) && ran.err.contains("--allow-due"), "{ran:?}");
    assert_eq!(store.count().await, 1);
    assert_eq!(store.fed("import --delete-all-after 101d", &lines).lines(), [["1", "1"]]);
    store.fed("import --delete-closed-after 30d", &closed_long_ago(&closed)).fails(1, "--allow-due");
    // An open letter has no resolution time by which it could be due.
    assert_eq!(
        store.fed("import --delete-closed-after 30d", &closed_long_ago(&failed)).lines(),
        [["1", "0"]]
    );
    assert_eq!(store.fed("import --delete-closed-after 30d", &closed).lines(), [["0", "1"]]);
    let meant = "import --delete-closed-after 30d --delete-all-after 90d --allow-due";
    assert_eq!(store.fed(meant, &lines).lines(), [["0", "2"]]);
}
