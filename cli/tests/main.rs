//! The real program, on both backends.

#![allow(clippy::unwrap_used, reason = "in helpers too: clippy.toml knows only the tests themselves")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterRepo, DeadLetterRetention, DeadLetterState,
    DeadLetterTriage, Due, GroupRequest, NewDeadLetter, PageRequest, Resolution, Schema,
    SeaOrmDeadLetterRepo, Settlement, SweepScope, connect_options,
    migration::Migrator,
    open,
    testing::{letter, stored_letter},
};
use dead_letters_test_postgres::TestDatabase;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

const COMMANDS: [&str; 16] = [
    "apps",
    "list",
    "show",
    "groups",
    "count",
    "timeline",
    "resolve",
    "reopen",
    "replay",
    "export",
    "import",
    "sweep",
    "serve",
    "migrate",
    "completions",
    "man",
];
const PROGRAM: &str = env!("CARGO_BIN_EXE_dead-letters");

/// Runs each case on every backend.
macro_rules! on_every_backend {
    ($($case:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Store::sqlite().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Store::postgres().await).await;
            })+
        }
    };
}

on_every_backend! {
    apps_are_listed_with_what_is_open,
    a_list_is_cut_on_a_terminal_and_whole_in_a_pipe,
    a_list_goes_on_behind_its_last_letter,
    a_filter_takes_what_the_apis_takes,
    a_letter_is_shown_and_its_payload_only_where_asked,
    groups_count_and_timeline_are_those_of_the_store,
    json_is_what_the_library_serializes,
    letters_are_settled_by_their_ids_and_what_was_not_is_told,
    what_matches_is_settled_once_it_is_confirmed,
    what_fails_after_the_count_is_left_alone,
    settled_letters_are_reopened,
    what_is_exported_is_imported_as_it_was,
    a_bad_line_is_named_and_those_before_it_are_stored,
    a_sweep_deletes_what_is_due_and_archives_it_first,
    a_services_own_program_replays,
    a_braked_replay_stops_where_letters_come_back,
    without_a_token_the_admin_is_for_names_of_the_loopback_interface,
    with_a_token_nobody_gets_in_without_it,
}

/// A database of its own, and one app.
struct Store {
    repo: SeaOrmDeadLetterRepo,
    url: String,
    app: AppId,
    _storage: Box<dyn std::any::Any>,
}

impl Store {
    async fn sqlite() -> Self {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite://{}?mode=rwc", dir.path().join("test.sqlite").display());
        Self::at(url, dir).await
    }

    async fn postgres() -> Self {
        let database = TestDatabase::create().await.unwrap();
        Self::at(database.url().to_owned(), database).await
    }

    async fn at(url: String, storage: impl std::any::Any) -> Self {
        let repo = open::<Migrator>(connect_options(&url), Schema::Migrate).await.unwrap();
        Self { repo, url, app: Uuid::new_v4().into(), _storage: Box::new(storage) }
    }

    async fn letter(&self, source: &str, error: &str) -> DeadLetterId {
        let letter = letter(self.app);
        let (source, last_error) = (source.to_owned(), error.to_owned());
        let letter = NewDeadLetter { source, last_error, script_id: Some(Uuid::nil().into()), ..letter };
        self.repo.insert(letter).await.unwrap()
    }

    /// What it prints to a pipe. `{app}` is the app.
    fn run(&self, line: &str) -> Ran {
        self.fed(line, "")
    }

    /// The same, with this on its standard input.
    fn fed(&self, line: &str, input: &str) -> Ran {
        let app = self.app.to_string();
        let args = line.split(' ').map(|word| word.replace("{app}", &app));
        let mut program = program();
        program.args(args).env("DATABASE_URL", &self.url);
        let piped = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut program = piped.spawn().unwrap();
        let mut stdin = program.stdin.take().unwrap();
        let input = input.to_owned();
        // On a thread of its own: it may print before it has read all.
        let feeding = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let ran = program.wait_with_output().unwrap().into();
        feeding.join().unwrap();
        ran
    }

    /// What it prints to a terminal of this width.
    fn on_terminal(&self, width: u16, line: &str) -> String {
        let ran = self.typed(width, line, "");
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.out
    }

    /// What it says where it asks, and gets this answer.
    fn asked(&self, line: &str, answer: &str) -> String {
        self.typed(100, line, answer).out
    }

    fn typed(&self, width: u16, line: &str, answer: &str) -> Ran {
        let line = line.replace("{app}", &self.app.to_string());
        let line = format!("stty rows 24 cols {width}; exec {PROGRAM} {line}");
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        script.env_clear().env("PATH", "/usr/bin:/bin").env("DATABASE_URL", &self.url);
        let piped = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut script = piped.spawn().unwrap();
        script.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let mut ran = Ran::from(script.wait_with_output().unwrap());
        ran.out = ran.out.replace('\r', "");
        ran
    }
}

/// Of nobody's environment.
fn program() -> Command {
    let mut program = Command::new(PROGRAM);
    program.env_clear().env("TZ", "UTC").stdin(Stdio::null());
    program
}

fn run(args: &[&str]) -> Ran {
    program().args(args).output().unwrap().into()
}

fn terminate(program: &Child) {
    // The shell's own.
    let kill = Command::new("sh").args(["-c", &format!("kill -TERM {}", program.id())]).status().unwrap();
    assert!(kill.success());
}

#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    /// All of it done, and nothing said.
    fn lines(&self) -> Vec<Vec<&str>> {
        assert_eq!((self.code, &*self.err), (0, ""), "{self:?}");
        self.out.lines().map(|line| line.split('\t').collect()).collect()
    }

    fn json(&self) -> Value {
        assert_eq!((self.code, &*self.err), (0, ""), "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }

    fn fails(&self, code: i32, with: &str) {
        assert_eq!((self.code, &*self.out), (code, ""), "{self:?}");
        assert!(self.err.contains(with), "{self:?}");
    }
}

async fn apps_are_listed_with_what_is_open(store: Store) {
    store.letter("orders", "smtp: 451").await;
    let id = store.letter("orders", "smtp: 451").await;
    store.repo.resolve(id, "handler_failed").await.unwrap();
    store.repo.insert(letter(Uuid::max().into())).await.unwrap();
    let ran = store.run("apps");
    let lines = ran.lines();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0][..3], [&*store.app.to_string(), "2", "1"]);
    let ran = store.run("apps --limit 1");
    assert!(ran.err.contains(&format!("--after {}", store.app)), "{ran:?}");
    let behind = store.run("apps --after {app} --output json").json();
    assert_eq!(behind["items"][0]["app_id"], json!(Uuid::max()));
    assert_eq!(behind["next"], Value::Null);
}

async fn a_list_is_cut_on_a_terminal_and_whole_in_a_pipe(store: Store) {
    let id = store
        .letter("orders", "\u{1b}[31mHTTP 503 from https://crm.example.com/v2/contacts\tand so on\nat x")
        .await;
    let ran = store.run("list --app {app}");
    let [line] = &ran.lines()[..] else { panic!("{ran:?}") };
    let error = "\u{1b}[31mHTTP 503 from https://crm.example.com/v2/contacts and so on";
    assert_eq!((line[0], line[2], line[3], line[5]), (&*id.to_string(), "unresolved", "orders", error));
    assert!(line[1].parse::<chrono::DateTime<chrono::Utc>>().is_ok(), "{line:?}");
    for width in [80, 100] {
        let shown = store.on_terminal(width, "list --app {app}");
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines.len(), 2, "{shown}");
        assert!(lines.iter().all(|line| line.chars().count() <= width.into()), "{shown}");
        assert!(lines[0].contains("WHEN") && lines[1].contains(&id.to_string()), "{shown}");
        assert!(!shown.contains('\u{1b}') && !shown.contains("and so on"), "{shown}");
    }
    let shown = store.on_terminal(200, "list --utc --app {app}");
    let created = store.repo.get(id).await.unwrap().unwrap().created_at;
    assert!(shown.contains(&created.format("%Y-%m-%d %H:%M:%S").to_string()), "{shown}");
    let earlier = stored_letter(store.app, chrono::Utc::now() - chrono::TimeDelta::hours(3));
    store.repo.import(&[earlier]).await.unwrap();
    assert!(store.on_terminal(200, "list --app {app}").contains("3 h ago"));
    // What can't be shown whole leaves the id.
    assert!(store.on_terminal(40, "list --app {app}").contains(&id.to_string()));
}

async fn a_list_goes_on_behind_its_last_letter(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    let first = store.run("list --app {app} --size 1");
    assert!(first.out.starts_with(&ids[1].to_string()), "{first:?}");
    let (_, next) = first.err.split_once("--after ").unwrap();
    let second = store.run(&format!("list --app {{app}} --size 1 --after {}", next.trim()));
    assert_eq!(second.lines()[0][0], ids[0].to_string());
    let other = store.run(&format!("list --app {{app}} --source orders --after {}", next.trim()));
    other.fails(2, "the cursor is not one of this listing");
}

async fn a_filter_takes_what_the_apis_takes(store: Store) {
    let orders = store.letter("orders", "timed out after 30 s").await;
    let parcels = store.letter("parcels", "smtp: 451").await;
    let settled = store.letter("orders", "smtp: 451").await;
    store.repo.resolve_once(store.app, settled, &Settlement::ignored().by("ada")).await.unwrap();
    let row = store.repo.get(orders).await.unwrap().unwrap();
    let found = |options: &str| -> Vec<String> {
        let ran = store.run(&format!("list --app {{app}} {options}"));
        ran.lines().iter().map(|line| line[0].to_owned()).collect()
    };
    let [orders, parcels, settled] = [orders, parcels, settled].map(|id| id.to_string());
    for (options, expected) in [
        ("--state any".to_owned(), vec![&settled, &parcels, &orders]),
        ("--state resolved --resolution ignored".to_owned(), vec![&settled]),
        (format!("--ids {orders},{parcels}"), vec![&parcels, &orders]),
        ("--source parcels --op insert".to_owned(), vec![&parcels]),
        (format!("--trigger-id {}", row.trigger_id.unwrap()), vec![&orders]),
        (format!("--script-id {}", Uuid::nil()), vec![&parcels, &orders]),
        (format!("--original-event-id {}", row.original_event_id), vec![&orders]),
        ("--error-contains smtp".to_owned(), vec![&parcels]),
        ("--created-from 1h".to_owned(), vec![&parcels, &orders]),
        ("--created-before 1h".to_owned(), vec![]),
        ("--created-from 2000-01-01T00:00:00Z --scan 2".to_owned(), vec![&parcels, &orders]),
    ] {
        assert_eq!(found(&options).iter().collect::<Vec<_>>(), expected, "{options}");
    }
}

async fn a_letter_is_shown_and_its_payload_only_where_asked(store: Store) {
    let id = store.letter("orders", "first line\nsecond line").await;
    let shown = store.run(&format!("show {id} --app {{app}}"));
    shown.lines();
    assert!(shown.out.contains("first line\nsecond line") && !shown.out.contains("4711"), "{shown:?}");
    let whole = store.run(&format!("show {id} --app {{app}} --payload"));
    let payload = store.repo.payload_text(store.app, id, 0..u64::MAX).await.unwrap().unwrap();
    assert!(whole.out.contains(&payload), "{whole:?}");
    let json = store.run(&format!("show {id} --app {{app}} --output json")).json();
    assert_eq!((&json["id"], &json["last_error"]), (&json!(id), &json!("first line\nsecond line")));
    assert!(json.get("payload").is_none());
    let json = store.run(&format!("show {id} --app {{app}} --payload --output jsonl")).json();
    assert_eq!(json["payload"], json!(payload));
    let other = Uuid::new_v4();
    store.run(&format!("show {id} --app {other}")).fails(3, "no dead letter");
    store.run(&format!("show {other} --app {{app}}")).fails(3, &other.to_string());
}

async fn groups_count_and_timeline_are_those_of_the_store(store: Store) {
    for n in 0..3 {
        store.letter("orders", &format!("order {n} timed out")).await;
    }
    store.letter("parcels", "smtp: 451").await;
    let ran = store.run("groups --app {app}");
    let lines = ran.lines();
    assert_eq!((lines[0][0], lines[0][3], lines[0][5]), ("3", "orders", "order # timed out"));
    assert_eq!(lines[1][0], "1");
    assert_eq!(store.run("count --app {app}").lines(), [["4"]]);
    assert_eq!(store.run("count --app {app} --cap 2").lines(), [["2+"]]);
    let part = store.run("count --app {app} --scan 2");
    assert!(part.out == "2\n" && part.err.contains("--scan"), "{part:?}");
    let ran = store.run("timeline --app {app} --from 1h --until 2999-01-01T00:00:00Z --buckets 1");
    assert_eq!(ran.lines()[0][1], "4");
    store.run("timeline --app {app} --from now --until 1h").fails(2, "from must not be after until");
}

async fn json_is_what_the_library_serializes(store: Store) {
    for n in 0..3 {
        store.letter("orders", &format!("order {n} timed out")).await;
    }
    let (app, any) = (store.app, DeadLetterFilter { state: DeadLetterState::Any, ..Default::default() });
    let page = store.repo.list(app, &any, &PageRequest::default()).await.unwrap();
    assert_eq!(store.run("list --app {app} --state any --output json").json(), json!(page));
    let lines = store.run("list --app {app} --state any --output jsonl").out;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(json!(lines), json!(page.items));
    let groups = store.repo.error_groups(app, &any, &GroupRequest::default()).await.unwrap();
    assert_eq!(store.run("groups --app {app} --state any --output json").json(), json!(groups));
    let backlogs = store.repo.backlogs(None, None, 100, 10_000).await.unwrap();
    assert_eq!(store.run("apps --output json").json(), json!({ "items": backlogs, "next": null }));
    let count = store.run("count --app {app} --output json").json();
    assert_eq!((&count["count"], &count["at_least"]), (&json!(3), &json!(false)));
}

async fn letters_are_settled_by_their_ids_and_what_was_not_is_told(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    let done = store.run(&format!("resolve {} --app {{app}} --note known --by ada", ids[0]));
    assert_eq!(done.lines(), [["1"]]);
    let row = store.repo.get(ids[0]).await.unwrap().unwrap();
    let settled =
        (row.resolution.unwrap().as_str(), row.resolved_by.as_deref(), row.resolution_note.as_deref());
    assert_eq!(settled, ("ignored", Some("ada"), Some("known")));
    let missing = Uuid::new_v4();
    let line = format!("resolve {} {} {missing} --app {{app}} --as handled_by_script", ids[0], ids[1]);
    let partly = store.run(&line);
    assert_eq!((partly.code, &*partly.out), (4, "1\n"), "{partly:?}");
    assert!(partly.err.contains(&format!("{}: it is ignored by ada", ids[0])), "{partly:?}");
    assert!(partly.err.contains(&format!("{missing}: the app has no such letter")), "{partly:?}");
    assert_eq!(store.run(&format!("resolve {missing} --app {{app}}")).code, 3);
    assert_eq!(store.run(&format!("resolve {} --app {{app}}", ids[0])).code, 1);
}

async fn what_matches_is_settled_once_it_is_confirmed(store: Store) {
    for _ in 0..3 {
        store.letter("orders", "smtp: 451").await;
    }
    store.letter("parcels", "smtp: 451").await;
    let unresolved = async || store.repo.unresolved_count(store.app).await.unwrap();
    let line = "resolve --app {app} --matching --source orders";
    store.run(line).fails(2, "hint: --yes");
    let dry = store.run(&format!("{line} --dry-run"));
    assert_eq!((dry.code, dry.out.lines().count()), (0, 3), "{dry:?}");
    assert!(dry.err.contains("3 letters would be settled as ignored"), "{dry:?}");
    assert!(store.asked(line, "no\n").contains("3 letters of the app"));
    assert!(store.asked(line, "\n").contains("nothing was done"));
    assert_eq!(unresolved().await, 4);
    assert!(store.asked(line, "y\n").contains("SETTLED"));
    assert_eq!(unresolved().await, 1);
    assert_eq!(store.run(&format!("{line} --yes")).lines(), [["0"]]);
    assert_eq!(
        store.run("resolve --app {app} --matching --yes --output json").json(),
        json!({ "settled": 1 })
    );
    store.run("resolve --app {app} --matching --state resolved --yes").fails(2, "left alone");
    store.run("resolve --app {app}").fails(2, "--matching");
}

async fn what_fails_after_the_count_is_left_alone(store: Store) {
    store.letter("orders", "smtp: 451").await;
    let later = stored_letter(store.app, chrono::Utc::now() + chrono::TimeDelta::hours(1));
    store.repo.import(std::slice::from_ref(&later)).await.unwrap();
    assert_eq!(store.run("resolve --app {app} --matching --yes").lines(), [["1"]]);
    assert_eq!(store.repo.get(later.id).await.unwrap().unwrap().resolved_at, None);
}

async fn settled_letters_are_reopened(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    store.repo.resolve(ids[0], "ignored").await.unwrap();
    let missing = Uuid::new_v4();
    let line = format!("reopen {} {} {missing} --app {{app}}", ids[0], ids[1]);
    let partly = store.run(&line);
    assert_eq!((partly.code, &*partly.out), (4, "1\n"), "{partly:?}");
    assert!(partly.err.contains(&format!("{}: it is unresolved already", ids[1])), "{partly:?}");
    assert_eq!(store.repo.unresolved_count(store.app).await.unwrap(), 2);
    let other = Uuid::new_v4();
    assert_eq!(store.run(&format!("reopen {} --app {other}", ids[0])).code, 3);
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

async fn a_bad_line_is_named_and_those_before_it_are_stored(store: Store) {
    store.letter("orders", "a").await;
    let good = store.run("export --app {app}").out;
    for (bad, problem) in [
        ("{\"secret\":1}".to_owned(), "line 3 is no letter as export writes it"),
        (String::new(), "line 3 is no letter"),
        (
            good.trim().replace("\"attempt_count\":5", "\"attempt_count\":4294967295"),
            "line 3: the attempt_count",
        ),
    ] {
        let ran = store.fed("import", &format!("{good}{good}{bad}\n"));
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(problem) && !ran.err.contains("secret"), "{ran:?}");
    }
    assert_eq!(store.fed("import", "").lines(), [["0", "0"]]);
}

async fn a_sweep_deletes_what_is_due_and_archives_it_first(store: Store) {
    let days = |days| chrono::Utc::now() - chrono::TimeDelta::days(days);
    let letters = [91, 40, 1].map(|age| stored_letter(store.app, days(age)));
    store.repo.import(&letters).await.unwrap();
    store.repo.resolve(letters[1].id, "ignored").await.unwrap();
    let dry = store.run("sweep --settled-after 2h --all-after 90d --dry-run --output json").json();
    let count = |count: u64| json!({ "count": count, "at_least": false });
    assert_eq!(dry, json!({ "settled": count(0), "all": count(1) }));
    let folder = TempDir::new().unwrap();
    let swept = store.run(&format!("sweep --all-after 90d --archive {}", folder.path().display()));
    assert_eq!(swept.lines(), [["1"]]);
    assert_eq!(store.repo.get(letters[0].id).await.unwrap(), None);
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let imported = store.fed("import", &std::fs::read_to_string(file).unwrap());
    assert_eq!(imported.lines(), [["1", "0"]]);
    assert_eq!(store.run("sweep --all-after 30d --settled-after 30d").lines(), [["2"]]);
    store.run("sweep").fails(2, "--settled-after");
    store.run("sweep --all-after 1m").fails(2, "hour");
    store.run("sweep --all-after soon").fails(2, "--all-after: \"soon\" is no duration");
}

#[tokio::test]
async fn a_bulk_run_that_fails_after_its_first_batch_tells_what_it_did() {
    let store = Store::postgres().await;
    store.repo.insert_many(vec![letter(store.app); 1_000]).await.unwrap();
    store.letter("refused", "smtp: 451").await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                      'BEGIN RAISE EXCEPTION ''no'' USING ERRCODE = ''P0001''; END';
                  CREATE TRIGGER refuse BEFORE UPDATE ON dead_letters FOR EACH ROW
                      WHEN (NEW.source = 'refused') EXECUTE FUNCTION refuse()";
    store.repo.pool().execute_unprepared(refuse).await.unwrap();
    let ran = store.run("resolve --app {app} --matching --yes");
    assert_eq!((ran.code, &*ran.out), (4, "1000\n"), "{ran:?}");
    assert!(ran.err.contains("P0001"), "{ran:?}");
    assert_eq!(store.run("resolve --app {app} --matching --yes").code, 1);
}

/// SIGTERM ends it, as a container's does.
#[tokio::test]
async fn a_sweep_that_goes_on_ends_when_it_is_told_to() {
    let store = Store::sqlite().await;
    let old = stored_letter(store.app, chrono::Utc::now() - chrono::TimeDelta::days(2));
    store.repo.import(std::slice::from_ref(&old)).await.unwrap();
    let mut program = program();
    program.args(["sweep", "--all-after", "1d", "--every", "1h"]).env("DATABASE_URL", &store.url);
    let program = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while store.repo.get(old.id).await.unwrap().is_some() {}
    terminate(&program);
    let ran = Ran::from(program.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[tokio::test]
async fn the_schema_is_looked_up_and_brought_up_to_date() {
    for store in [Store::sqlite().await, Store::postgres().await] {
        assert_eq!(store.run("migrate status").code, 0);
    }
    let dir = TempDir::new().unwrap();
    let url = format!("sqlite://{}?mode=rwc", dir.path().join("new.sqlite").display());
    let migrate = |step| run(&["migrate", step, "--database-url", &url]);
    migrate("status").fails(1, "lacks these steps");
    assert_eq!(migrate("up").code, 0);
    assert_eq!(migrate("status").code, 0);
    assert_eq!(run(&["apps", "--database-url", &url]).lines(), [[""; 0]; 0]);
}

#[test]
fn completions_and_the_man_page_name_every_command() {
    for args in [&["completions", "bash"][..], &["completions", "zsh"], &["completions", "fish"], &["man"]] {
        let ran = run(args);
        assert_eq!((ran.code, &*ran.err), (0, ""), "{ran:?}");
        for command in COMMANDS {
            assert!(ran.out.contains(command), "{args:?}: {command}");
        }
    }
}

/// The service's own program, which has replay: examples/own.rs.
fn own(store: &Store, line: &str) -> Ran {
    own_program(store, line).output().unwrap().into()
}

fn own_program(store: &Store, line: &str) -> Command {
    let own = Path::new(PROGRAM).with_file_name("examples").join("own");
    let app = store.app.to_string();
    let mut program = Command::new(own);
    program.env_clear().stdin(Stdio::null()).env("DATABASE_URL", &store.url);
    program.args(line.split(' ').map(|word| word.replace("{app}", &app)));
    program
}

async fn a_services_own_program_replays(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    let line = format!("replay {} --app {{app}} --by ada", ids[0]);
    store.run(&line).fails(2, "no replay");
    let done = own(&store, &line);
    assert_eq!((done.code, &*done.out), (0, "1\n"), "{done:?}");
    let row = store.repo.get(ids[0]).await.unwrap().unwrap();
    assert!(done.err.contains(&format!("back: {}", row.original_event_id)), "{done:?}");
    assert_eq!((row.resolution, row.resolved_by.as_deref()), (Some(Resolution::Replayed), Some("ada")));
    let again = own(&store, &line);
    assert!(again.code == 1 && again.err.contains("already resolved as replayed"), "{again:?}");
    assert_eq!(own(&store, "replay --app {app} --matching --yes").out, "1\n");
    assert_eq!(store.repo.unresolved_count(store.app).await.unwrap(), 0);
}

async fn a_braked_replay_stops_where_letters_come_back(store: Store) {
    let letters: Vec<_> = (0..150)
        .map(|n| stored_letter(store.app, chrono::Utc::now() - chrono::TimeDelta::minutes(200 - n)))
        .collect();
    store.repo.import(&letters).await.unwrap();
    let line = "replay --app {app} --matching --yes --brake --wait 0s";
    let done = own(&store, line);
    assert_eq!((done.code, &*done.out), (0, "150\n"), "{done:?}");
    for step in ["replayed 1,", "replayed 11,", "replayed 111,"] {
        assert!(done.err.contains(step), "{done:?}");
    }

    let letters: Vec<_> = (0..50)
        .map(|n| stored_letter(store.app, chrono::Utc::now() - chrono::TimeDelta::minutes(200 - n)))
        .collect();
    store.repo.import(&letters).await.unwrap();
    let mut program = own_program(&store, "replay --app {app} --matching --yes --brake --wait 3s");
    let mut program = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(program.stderr.take().unwrap());
    let mut said = said.lines().map(Result::unwrap);
    said.by_ref().find(|line| line.contains("waits for what comes back")).unwrap();
    // The first that was put back dies again.
    let again = NewDeadLetter { original_event_id: letters[0].original_event_id, ..letter(store.app) };
    store.repo.insert(again).await.unwrap();
    let rest: Vec<_> = said.collect();
    assert!(rest.iter().any(|line| line.contains("1 letter came back")), "{rest:?}");
    let ran = Ran::from(program.wait_with_output().unwrap());
    assert_eq!((ran.code, &*ran.out), (4, "1\n"), "{ran:?}");
}

/// What the admin answers, and its whole body.
fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("{request}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A server that says where it listens, ended by the case.
fn serve(store: &Store, args: &[&str], token: Option<&str>) -> (Child, String, Vec<String>) {
    let mut program = program();
    program.args(["serve", "--listen", "127.0.0.1:0"]).args(args).env("DATABASE_URL", &store.url);
    program.envs(token.map(|token| ("DEAD_LETTERS_TOKEN", token)));
    let mut program = program.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(program.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut notes = Vec::new();
    loop {
        notes.push(said.next().unwrap());
        if notes.last().unwrap().contains("no replay") {
            break;
        }
    }
    let address = notes[0].rsplit('/').next().unwrap().to_owned();
    (program, address, notes)
}

async fn without_a_token_the_admin_is_for_names_of_the_loopback_interface(store: Store) {
    store.letter("orders", "smtp: 451").await;
    let (mut program, address, notes) = serve(&store, &[], None);
    assert!(notes.iter().any(|note| note.contains("every local user may act")), "{notes:?}");
    for host in ["localhost", "localhost:9999", "127.0.0.1", "[::1]:80"] {
        let answer = ask(&address, &format!("GET /api/apps HTTP/1.1\r\nHost: {host}"));
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(&store.app.to_string()),
            "{host}: {answer}"
        );
    }
    for host in ["evil.example", "localhost.evil.example", "10.0.0.1", ""] {
        let answer = ask(&address, &format!("GET /api/apps HTTP/1.1\r\nHost: {host}"));
        assert!(
            !answer.starts_with("HTTP/1.1 200") && !answer.contains(&store.app.to_string()),
            "{host}: {answer}"
        );
    }
    terminate(&program);
    assert!(program.wait().unwrap().success());
}

async fn with_a_token_nobody_gets_in_without_it(store: Store) {
    let id = store.letter("orders", "smtp: 451").await;
    let (mut program, address, _) = serve(&store, &["--operator", "ada"], Some("secret"));
    let get = |authorization: &str| {
        let request = format!("GET /api/apps HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}");
        ask(&address, &request).lines().next().unwrap().to_owned()
    };
    // grace:secret, :secret
    for let_in in ["Bearer secret", "Basic Z3JhY2U6c2VjcmV0", "Basic OnNlY3JldA=="] {
        assert_eq!(get(let_in), "HTTP/1.1 200 OK", "{let_in}");
    }
    for refused in
        ["Bearer secre", "Bearer", "Bearer ", "Basic secret", "Basic Z3JhY2U6", "Digest secret", ""]
    {
        assert_eq!(get(refused), "HTTP/1.1 401 Unauthorized", "{refused}");
    }
    let body = r#"{"resolution":"ignored"}"#;
    let path = format!("/api/apps/{}/letters/{id}/resolve", store.app);
    let post = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic Z3JhY2U6c2VjcmV0\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = ask(&address, &post);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let row = store.repo.get(id).await.unwrap().unwrap();
    assert_eq!(row.resolved_by.as_deref(), Some("grace"));
    terminate(&program);
    assert!(program.wait().unwrap().success());
}

#[tokio::test]
async fn an_address_that_is_open_to_others_wants_a_token() {
    let store = Store::sqlite().await;
    store.run("serve --listen 0.0.0.0:0").fails(2, "hint: --token-file");
    store.run("serve --token-file /nowhere").fails(2, "--token-file /nowhere");
}

/// SIGTERM in the middle of 30,000 letters: what was done by then is told and done, and the rest is not.
#[tokio::test]
async fn a_bulk_run_that_is_told_to_end_does_so_after_the_batch_under_way() {
    let store = Store::postgres().await;
    for _ in 0..30 {
        store.repo.insert_many(vec![letter(store.app); 1_000]).await.unwrap();
    }
    // A batch takes longer than it takes to tell it to end.
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                    'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END';
                CREATE TRIGGER slow AFTER UPDATE ON dead_letters EXECUTE FUNCTION slow()";
    store.repo.pool().execute_unprepared(slow).await.unwrap();
    let app = store.app.to_string();
    let mut program = program();
    program.args(["resolve", "--app", &app, "--matching", "--yes"]).env("DATABASE_URL", &store.url);
    let program = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while store.repo.unresolved_count(store.app).await.unwrap() == 30_000 {}
    terminate(&program);
    let ran = Ran::from(program.wait_with_output().unwrap());
    let done: i64 = ran.out.trim().parse().unwrap();
    assert_eq!(store.repo.unresolved_count(store.app).await.unwrap(), 30_000 - done);
    assert!(ran.code == 4 && done % 1_000 == 0 && ran.err.contains("there are more"), "{ran:?}");
}

#[test]
fn every_command_has_help_with_an_example() {
    let help = run(&["--help"]);
    assert_eq!(help.code, 0);
    for command in COMMANDS {
        assert!(help.out.contains(command), "{help:?}");
        let help = run(&[command, "--help"]);
        assert!(help.code == 0 && help.out.contains(&format!(":\n  dead-letters {command}")), "{help:?}");
    }
    assert!(!run(&["apps", "--help"]).out.contains("password"));
}

#[test]
fn what_is_wrong_with_the_command_is_said_and_exits_with_2() {
    run(&["apps"]).fails(2, "set DATABASE_URL");
    run(&[]).fails(2, "Usage");
    run(&["lst"]).fails(2, "list");
    run(&["list"]).fails(2, "--app");
    let app = Uuid::nil().to_string();
    run(&["list", "--app", "x"]).fails(2, "--app");
    run(&["list", "--app", &app, "--state", "new"]).fails(2, "open, unresolved, resolved or any");
    run(&["list", "--app", &app, "--output", "xml"]).fails(2, "jsonl");
    run(&["apps", "--database-url", "mysql://u:secret@h/db"]).fails(2, "PostgreSQL and SQLite");
}

#[tokio::test]
async fn a_wrong_time_or_number_is_named() {
    let store = Store::sqlite().await;
    store.run("list --app {app} --created-from soon").fails(2, "--created-from: \"soon\" is no time");
    store.run("list --app {app} --size 501").fails(2, "page.size must be from 1 to 500");
    store.run("groups --app {app} --limit 0").fails(2, "limit");
}

#[test]
fn a_database_that_is_not_there_exits_with_1_and_shows_no_password() {
    let gone = run(&["apps", "--database-url", "postgres://ada:s3cret@127.0.0.1:1/db"]);
    gone.fails(1, "127.0.0.1:1/db");
    assert!(!gone.err.contains("s3cret"), "{gone:?}");
    let missing = run(&["apps", "--database-url", "sqlite:///nowhere/at.sqlite"]);
    missing.fails(1, "mode=rwc");
    let empty = run(&["apps", "--database-url", "sqlite::memory:"]);
    empty.fails(1, "hint: dead-letters migrate up");
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
