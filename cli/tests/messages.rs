//! Every message of the tool beside the command that triggers it, so that a person can read them all.

use std::{fs, path::Path};

use dead_letters::{DeadLetterTransfer, StoredLetter, testing::stored_letter};
use sea_orm::ConnectionTrait;
use tempfile::TempDir;

use crate::support::{PROGRAM, Ran, Store};

/// Messages that no command of this test triggers, and where they are tested.
const ELSEWHERE: &[(&str, &str)] = &[
    ("interrupted", "ending.rs: Ctrl-C"),
    ("stopped; the current batch was committed or rolled back as a whole", "ending.rs: a second Ctrl-C"),
    ("internal error (please report this bug)", "no command triggers it"),
    (
        "the arguments are invalid",
        "no command triggers it: arguments with a password and without it fail alike",
    ),
    ("cannot write the result", "look.rs: a full disk"),
    ("cannot read standard input", "no command triggers it: a disk that can not be read"),
    ("--database-url-file", "usage.rs: a URL in a file"),
    ("it can be one of several apps", "apps.rs: an app by the beginning of its id"),
    ("several letters end so", "apps.rs: a letter by the last digits of its id"),
    ("several groups have a key that begins with", "apps.rs: a group by the beginning of its key"),
    ("so further keys may begin with", "apps.rs: more groups than a look-up reads"),
    ("pass the whole key, as", "apps.rs: more groups than a look-up reads"),
    ("standard input: a line is not the ID of a letter", "apps.rs: ids from standard input"),
    ("standard input does not have the ID of one letter", "apps.rs: ids from standard input"),
    ("standard input has more than", "no test has 100,000 IDs"),
    ("--payload-file replays one letter; name its ID", "delete.rs: two letters, in a service's own build"),
    ("the payload must have at most 256 MiB", "no test has such a file"),
    ("nothing was changed", "resolve.rs: a question that is not confirmed"),
    ("has no USAGE on the schema", "usage.rs: PostgreSQL refuses it"),
    ("GRANT USAGE ON SCHEMA", "usage.rs: PostgreSQL refuses it"),
    ("which is not in the search_path", "usage.rs: PostgreSQL refuses it"),
    ("append to the URL: ?options=-csearch_path%3D", "usage.rs: PostgreSQL refuses it"),
    ("this build of the tool has no driver for", "a build without a driver"),
    ("build it with the features", "a build without a driver"),
    ("is it PgBouncer? Connect to the server directly", "PgBouncer returns 08P01"),
    ("the server refuses the connection or does not respond within 5 seconds", "it takes 5 seconds"),
];

struct Shown<'a> {
    store: &'a Store,
    folder: &'a TempDir,
    text: String,
}

impl Shown<'_> {
    fn run(&mut self, line: &str) {
        let ran = self.store.command(line).output().unwrap();
        self.show(line, &ran.into());
    }

    fn fed(&mut self, line: &str, what: &str, input: &str) {
        let ran = self.store.fed(line, input);
        self.show(&format!("{line} < {what}"), &ran);
    }

    fn with_url(&mut self, line: &str, url: &str) {
        let ran = self.store.command(line).env("DATABASE_URL", url).output().unwrap();
        self.show(&format!("{line}        # DATABASE_URL={url}"), &ran.into());
    }

    fn show(&mut self, line: &str, ran: &Ran) {
        assert!(ran.code != 0 && !ran.err.is_empty(), "{line}: {ran:?}");
        let said = format!("$ dead-letters {line}\n{}exit {}\n\n", ran.err, ran.code);
        let file = self.store.file().display().to_string();
        let said = said.replace(&self.store.app.to_string(), "{app}").replace(&file, "service.sqlite");
        self.text += &said.replace(&self.folder.path().display().to_string(), "/folder");
    }
}

#[tokio::test]
async fn the_snapshot_has_every_message_beside_its_command() {
    let (store, folder) = (Store::sqlite().await, TempDir::new().unwrap());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut shown = Shown { store: &store, folder: &folder, text: String::new() };
    of_arguments(&mut shown);
    of_letters(&mut shown).await;
    of_imports(&mut shown, &path);
    of_urls(&mut shown, &path);
    of_schemas(&mut shown, &path).await;
    let text = shown.text;
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("messages", text);
    });

    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let explanations = fs::read_to_string(snapshots.join("explanations.snap")).unwrap();
    let read = one_line(&(text + &explanations));
    let sources = messages_of_the_sources();
    let is_listed = |message: &Message| ELSEWHERE.iter().any(|(text, _)| message.whole.contains(text));
    let untested: Vec<_> =
        sources.iter().filter(|message| !is_listed(message) && !read.contains(&message.fixed)).collect();
    let unused: Vec<_> = ELSEWHERE
        .iter()
        .filter(|(text, _)| !sources.iter().any(|message| message.whole.contains(text)))
        .collect();
    assert!(untested.is_empty(), "no command here triggers {untested:#?}");
    assert!(unused.is_empty(), "no source has {unused:#?}");
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A message or hint of a source, with the names of its values in braces.
#[derive(Debug)]
struct Message {
    whole: String,
    /// Its longest part without a value.
    fixed: String,
}

fn messages_of_the_sources() -> Vec<Message> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut messages = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let source = fs::read_to_string(path).unwrap();
                let source = source.split("#[cfg(test)]").next().unwrap().to_owned();
                messages.extend(messages_of(&source));
            }
        }
    }
    assert!(messages.len() > 60, "{messages:?}");
    messages
}

fn messages_of(source: &str) -> Vec<Message> {
    const BEGINNINGS: [&str; 7] =
        ["::usage(", "::failed(", "::not_found(", "Exit::Failed,", ".hint(", " failed(", " cannot("];
    let mut messages = Vec::new();
    for beginning in BEGINNINGS {
        for (at, _) in source.match_indices(beginning) {
            let rest = source[at + beginning.len()..].trim_start();
            let rest = rest.strip_prefix("format!(").unwrap_or(rest).trim_start();
            let Some(rest) = rest.strip_prefix('"') else { continue };
            let end = rest.char_indices().find(|&(at, c)| c == '"' && !rest[..at].ends_with('\\'));
            let literal = rest[..end.unwrap().0].replace("\\\n", " ").replace("\\\"", "\"");
            let fixed = literal.split('{').map(|part| part.split_once('}').map_or(part, |(_, after)| after));
            let fixed = fixed.map(one_line).max_by_key(String::len).unwrap();
            // A message of values alone begins with them.
            if fixed.len() > 4 {
                messages.push(Message { whole: one_line(&literal), fixed });
            }
        }
    }
    messages
}

fn of_arguments(shown: &mut Shown) {
    for line in [
        "lst",
        "show",
        "list --ap {app}",
        "list --app x",
        "apps --after x",
        "apps --limit 0",
        "apps --limit many",
        "apps --output xml",
        "list --app {app} --size 501",
        "list --app {app} --after x",
        "list --app {app} --state new",
        "list --app {app} --resolution x",
        "list --app {app} --ids x",
        "list --app {app} --trigger-id x",
        "list --app {app} --original-event-id x",
        "list --app {app} --truncated perhaps",
        "list --app {app} --metadata tenant",
        "list --app {app} --metadata a=1 --metadata a=2",
        "list --app {app} --payload-contains=",
        "list --app {app} --sort most_attempts --payload-contains x",
        "list --app {app} --since soon",
        "list --app {app} --scan-limit 0",
        "show x --app {app}",
        "archive erase /nowhere --ids 01a21d05-39cf-732a-8680-093ee59badc8",
        "groups --new-since 2999-01-01T00:00:00Z",
        "groups --app {app} --limit 0",
        "count --app {app} --cap 0",
        "timeline --app {app} --buckets 0",
        "timeline --app {app} --until soon",
        "timeline --app {app} --since now --until 1h",
        "resolve --app {app}",
        "resolve --app {app} --as done",
        "resolve --app {app} --state open --dry-run",
        "resolve e59badc8 -",
        "list --app e59b",
        "list --group e59b",
        "resolve {app} --app {app} --all",
        "resolve {app} --app {app} --source orders",
        "resolve --app {app} --all",
        "resolve --app {app} --all --yes --state closed",
        "resolve --app {app} --yes --resolution ignored",
        "reopen --app {app} --all --state open",
        "replay --app {app} --all",
        "replay --app {app} --staged",
        "sweep",
        "sweep --delete-all-after soon",
        "sweep --delete-closed-after 1m",
        "sweep --delete-all-after 1d --every 0s",
        "sweep --delete-all-after 1d --every 1h --dry-run",
        "sweep --delete-all-after 1d --every 1h --output json",
        "sweep --delete-actions-after 1d --app {app}",
        "sweep --delete-all-after 1d --yes --archive /nowhere",
        "serve --listen x",
        "serve --listen 0.0.0.0:0",
        "serve --token-file /nowhere",
        "serve --token-file /dev/null",
        "serve --host ops.example",
        "migrate down",
        "completions",
        "completions cmd",
        "man lst",
        "export --output json",
        "list --quiet --output json",
        "show --source orders --payload-only --output json",
        "completions bash --wide",
        "man --output json",
        "serve --output json",
        "list --app {app} --since 1h --until 2h",
        "list --app {app} --payload-contains=",
    ] {
        shown.run(line);
    }
    let ran: Ran = shown.store.command("apps").env_remove("DATABASE_URL").output().unwrap().into();
    shown.show("apps        # without DATABASE_URL", &ran);
    let mut list = shown.store.command("list --app {app} --since yesterday");
    let ran: Ran = list.env("TZ", "Mars/Olympus").output().unwrap().into();
    shown.show("list --app {app} --since yesterday        # TZ=Mars/Olympus", &ran);
}

async fn of_letters(shown: &mut Shown<'_>) {
    let (store, at) = (shown.store, "2026-03-01T10:00:00Z".parse().unwrap());
    let id = |n| uuid::Uuid::from_u128(n).into();
    let open = StoredLetter { id: id(1), ..stored_letter(store.app, at) };
    let closed = StoredLetter {
        id: id(2),
        resolved_at: Some(at),
        resolution: Some("ignored".to_owned()),
        ..stored_letter(store.app, at)
    };
    let cut = StoredLetter {
        id: id(3),
        payload_kind: Some("truncated".to_owned()),
        ..stored_letter(store.app, at)
    };
    let replayed = StoredLetter { id: id(4), resolution: Some("replayed".to_owned()), ..closed.clone() };
    store.repo.import(&[open, closed, cut, replayed]).await.unwrap();
    let [unknown, open, closed, cut] = [0, 1, 2, 3].map(|n| uuid::Uuid::from_u128(n).to_string());
    shown.run(&format!("show {unknown} --app {{app}}"));
    shown.run(&format!("show {unknown}"));
    shown.run("show ffffffff");
    shown.run("show --source nobody");
    shown.run(&format!("resolve {unknown} {closed} --app {{app}}"));
    shown.run(&format!("reopen {unknown} {open} --app {{app}}"));
    shown.run("reopen --app {app} --all --state closed --yes");
    // The service's own build, with replay: examples/own.rs.
    let own = Path::new(PROGRAM).with_file_name("examples").join("own");
    for line in [
        format!("replay {closed} {cut} --app {{app}}"),
        "replay --app {app} --truncated true --yes".to_owned(),
    ] {
        let mut program = std::process::Command::new(&own);
        let args = line.split(' ').map(|word| word.replace("{app}", &store.app.to_string()));
        program.env_clear().env("DATABASE_URL", &store.url).env("TZ", "UTC").args(args);
        shown.show(&format!("{line}        # a service's own build"), &program.output().unwrap().into());
    }
}

fn of_imports(shown: &mut Shown, path: &dyn Fn(&str) -> String) {
    let line = |letter: &StoredLetter| serde_json::to_string(letter).unwrap() + "\n";
    let letter = StoredLetter {
        id: uuid::Uuid::from_u128(9).into(),
        ..stored_letter(shown.store.app, "2026-03-01T10:00:00Z".parse().unwrap())
    };
    let whole = line(&letter);
    shown.run("import /nowhere.jsonl");
    shown.fed("import", "a line that is cut off", "{\n");
    shown.fed("import", "a whole line, and one that is cut off", &format!("{whole}{{\n"));
    shown.fed("import", "two whole lines, and one that is cut off", &format!("{whole}{whole}{{\n"));
    let nul = line(&StoredLetter {
        id: uuid::Uuid::from_u128(8).into(),
        source: "a\0b".to_owned(),
        ..letter.clone()
    });
    shown.fed("import", "a whole line, and one with a NUL", &format!("{whole}{nul}"));
    shown.fed("import --delete-all-after 1d", "a letter that is due", &whole);
    shown.run("import --delete-all-after soon");
    fs::create_dir(path("empty")).unwrap();
    shown.run(&format!("import {}", path("empty")));
    fs::write(path("letters.gz"), b"\x1f\x8b\x08").unwrap();
    shown.run(&format!("import {}", path("letters.gz")));
}

fn of_urls(shown: &mut Shown, path: &dyn Fn(&str) -> String) {
    for url in [
        "service.sqlite",
        "mysql://ada:secret@localhost/orders",
        "postgres://ada:secret/x@127.0.0.1:1/db",
        "postgres://ada@127.0.0.1:none/db",
        "postgres://127.0.0.1:none/db",
        "postgres://ada@127.0.0.1:1/db?sslmod=verify-full",
        "postgres://ada@127.0.0.1:1/db?sslmode=sometimes",
        "sqlite://service.sqlite?mod=ro",
        "sqlite:///nowhere/service.sqlite",
    ] {
        shown.with_url("apps", url);
    }
    let text = "not a database, and long enough to have the header of a hundred bytes that SQLite reads first of a file";
    fs::write(path("notes.txt"), text).unwrap();
    shown.with_url("apps", &format!("sqlite://{}", path("notes.txt")));
}

async fn of_schemas(shown: &mut Shown<'_>, path: &dyn Fn(&str) -> String) {
    fs::write(path("new.sqlite"), "").unwrap();
    let new = format!("sqlite://{}", path("new.sqlite"));
    shown.with_url("apps", &new);
    shown.with_url("migrate status", &new);
    shown.with_url("migrate up", &format!("{new}?mode=ro"));
    // The last step of a service's own build is missing.
    let own = Path::new(PROGRAM).with_file_name("examples").join("own");
    let mut program = std::process::Command::new(&own);
    program.env_clear().env("DATABASE_URL", &shown.store.url).args(["migrate", "status"]);
    shown.show("migrate status        # a service's own build", &program.output().unwrap().into());

    let db = shown.store.repo.pool();
    db.execute_unprepared("INSERT INTO seaql_migrations VALUES ('m20300101_000001_other', 0)").await.unwrap();
    let mut program = std::process::Command::new(&own);
    program.env_clear().env("DATABASE_URL", &shown.store.url).args(["migrate", "up"]);
    shown.show("migrate up        # a service's own build", &program.output().unwrap().into());
    db.execute_unprepared("DELETE FROM seaql_migrations WHERE version = 'm20300101_000001_other'")
        .await
        .unwrap();
    let first_step = "version LIKE '%_000001_%'";
    let old = "UPDATE seaql_migrations SET version = 'm20261123_000001_create_dead_letters'";
    db.execute_unprepared(&format!("{old} WHERE {first_step}")).await.unwrap();
    shown.run("migrate up");
    let others = format!("DELETE FROM seaql_migrations WHERE NOT {first_step}");
    db.execute_unprepared(&others).await.unwrap();
    let foreign = "UPDATE seaql_migrations SET version = 'm20300101_000001_other'";
    db.execute_unprepared(&format!("{foreign} WHERE {first_step}")).await.unwrap();
    shown.run("migrate up");
    db.execute_unprepared("ALTER TABLE dead_letters RENAME COLUMN resolution_note TO note").await.unwrap();
    shown.run("apps");
}

#[test]
fn a_message_is_read_from_a_source() {
    let source = r#"Failure::usage(format!("{name}: {text:?} is not \
        a \"time\"")).hint("write it as {x} so")"#;
    let messages = messages_of(source);
    let whole: Vec<_> = messages.iter().map(|message| &*message.whole).collect();
    assert_eq!(whole, ["{name}: {text:?} is not a \"time\"", "write it as {x} so"]);
    assert_eq!(messages[0].fixed, "is not a \"time\"");
}
