//! Help, arguments and what is said of wrong ones.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Stdio,
};

use dead_letters::{OnOpen, ReplayRequest, connect_options, migration::Migrator, open};
use dead_letters_test_support::Server;
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use tempfile::TempDir;

use crate::support::{PROGRAM, Ran, Store, program, run};

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

#[tokio::test]
async fn the_schema_is_looked_up_and_brought_up_to_date() {
    for store in [Store::sqlite().await, Store::postgres().await] {
        assert_eq!(store.run("migrate status").code, 0);
    }
    let dir = TempDir::new().unwrap();
    let url = format!("sqlite://{}?mode=rwc", dir.path().join("new.sqlite").display());
    let migrate = |step| run(&["migrate", step, "--database-url", &url]);
    let pending = migrate("status");
    assert!(pending.code == 5 && pending.err.contains("has no dead_letters table"), "{pending:?}");
    let applied = migrate("up");
    assert_eq!((applied.code, applied.out.lines().next()), (0, Some("APPLIED")), "{applied:?}");
    // The steps that were missing were applied.
    assert_eq!(pending.out.replace("PENDING", "APPLIED"), applied.out);
    assert_eq!(migrate("status").code, 0);
    let json = ["migrate", "status", "--output", "json", "--database-url", &url];
    assert_eq!(run(&json).out, "{\"pending\":[],\"recorded_elsewhere\":false}\n");
    assert_eq!(run(&["apps", "--output", "tsv", "--database-url", &url]).lines(), [[""; 0]; 0]);
}

#[tokio::test]
async fn a_pre_release_table_is_refused_with_the_way_out() {
    const OLD_STEP: &str = "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m20261123_000001_create_dead_letters', 0)";
    for store in [Store::sqlite().await, Store::postgres().await] {
        store.repo.pool().execute_unprepared(OLD_STEP).await.unwrap();
        for command in ["migrate status", "migrate up"] {
            let ran = store.run(command);
            ran.fails(
                1,
                "pre-release version's: export its letters with that version's tool, drop the table",
            );
            assert!(!ran.err.contains("hint"), "{ran:?}");
        }
    }
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

/// In a bash of its own, as the Tab key calls the function.
#[test]
fn bash_completes_the_options_of_a_subcommand() {
    let folder = TempDir::new().unwrap();
    let script = run(&["completions", "bash"]).out;
    let complete = "
        complete -p dead-letters
        tab() { COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _dead_letters \"$1\" \"${!#}\" \"${*: -2:1}\"; echo \"${COMPREPLY[@]}\"; }
        tab dead-letters l
        tab dead-letters list --sin
        tab dead-letters migrate s
        tab dead-letters list --state ''
        tab dead-letters reopen --resolution hand";
    let file = folder.path().join("completions.bash");
    fs::write(&file, script + complete).unwrap();
    let ran = Ran::from(std::process::Command::new("bash").arg(&file).output().unwrap());
    let lines: Vec<_> = ran.out.lines().collect();
    assert!(lines[0].ends_with("-F _dead_letters dead-letters"), "{ran:?}");
    assert_eq!(
        lines[1..],
        ["list", "--since", "status", "open unresolved closed any", "handled_by_script handler_failed"],
        "{ran:?}"
    );
}

#[test]
fn completions_and_man_pages_are_those_of_the_snapshots() {
    let mut pages = run(&["man"]).out;
    for command in COMMANDS {
        pages += &run(&["man", command]).out;
    }
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("man", pages);
        for shell in ["bash", "fish", "zsh"] {
            insta::assert_snapshot!(format!("completions_{shell}"), run(&["completions", shell]).out);
        }
    });
}

/// A service's own build has a name of its own, here that of a link.
#[test]
fn help_completions_man_pages_and_hints_have_the_programs_own_name() {
    let folder = TempDir::new().unwrap();
    let tool = folder.path().join("orders-tool");
    std::os::unix::fs::symlink(PROGRAM, &tool).unwrap();
    let run =
        |args: &[&str]| Ran::from(std::process::Command::new(&tool).env_clear().args(args).output().unwrap());
    for args in [
        &["--help"][..],
        &["list", "--help"],
        &["migrate", "status", "--help"],
        &["completions", "bash"],
        &["completions", "fish"],
        &["completions", "zsh"],
        &["man", "list"],
        &["man", "lst"],
        &["apps", "--database-url", "sqlite::memory:"],
    ] {
        let ran = run(args);
        let shown = (ran.out.clone() + &ran.err).replace("orders\\-tool", "orders-tool");
        assert!(shown.contains("orders-tool"), "{args:?}: {ran:?}");
        assert!(!shown.contains("dead-letters") && !shown.contains("dead\\-letters"), "{args:?}: {ran:?}");
    }
}

#[tokio::test]
async fn help_is_wrapped_to_the_terminal() {
    let store = Store::sqlite().await;
    for width in [60, 80] {
        let help = store.on_terminal(width, "show --help");
        let text = help.split("Examples:").next().unwrap();
        assert!(text.lines().all(|line| console::measure_text_width(line) <= width.into()), "{help}");
    }
}

#[tokio::test]
async fn the_url_is_read_from_a_file() {
    let store = Store::sqlite().await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("url");
    fs::write(&file, format!("{}\n", store.url)).unwrap();
    let with = |variable: &str, value: &Path| {
        let mut program = program();
        Ran::from(program.args(["count", "--output", "tsv"]).env(variable, value).output().unwrap())
    };
    assert_eq!(with("DATABASE_URL_FILE", &file).lines(), [["0"]]);
    with("DATABASE_URL_FILE", Path::new("/nowhere")).fails(2, "--database-url-file /nowhere: No such file");
    for (text, why) in [
        ("\n".to_owned(), "the file is empty"),
        (format!("{}\n{}\n", store.url, store.url), "the file must have one line, the URL"),
    ] {
        fs::write(&file, text).unwrap();
        with("DATABASE_URL_FILE", &file).fails(2, &format!("--database-url-file {}: {why}", file.display()));
    }
    // A file that is passed is the database, whatever the environment says.
    fs::write(&file, &store.url).unwrap();
    let mut passed = program();
    let passed = passed.args(["count", "--output", "tsv", "--database-url-file"]).arg(&file);
    assert_eq!(Ran::from(passed.env("DATABASE_URL", "sqlite:///nowhere").output().unwrap()).lines(), [["0"]]);
    let url_and_file = ["count", "--database-url", "sqlite::memory:", "--database-url-file", "url"];
    run(&url_and_file).fails(2, "--database-url-file cannot be used with --database-url");
    let mut both = program();
    let both = both.args(["count", "--output", "tsv"]).env("DATABASE_URL", &store.url);
    assert_eq!(Ran::from(both.env("DATABASE_URL_FILE", "/nowhere").output().unwrap()).lines(), [["0"]]);
}

#[test]
fn each_command_has_a_man_page_with_its_options() {
    for command in COMMANDS {
        let page = run(&["man", command]);
        assert_eq!((page.code, &*page.err), (0, ""), "{page:?}");
        assert!(page.out.contains(&format!(".TH dead-letters-{command} 1")), "{page:?}");
        assert!(page.out.contains("database\\-url"), "{page:?}");
    }
    for args in [&["archive", "erase"][..], &["archive erase"], &["archive-erase"], &["migrate", "up"]] {
        let page = run(&[&["man"], args].concat());
        let title = format!(".TH dead-letters-{} 1", args.join("-").replace(' ', "-"));
        assert!(page.code == 0 && page.out.contains(&title), "{page:?}");
    }
    assert!(run(&["man", "sweep"]).out.contains("delete\\-closed\\-after"));
}

#[test]
fn every_command_has_help_with_an_example() {
    let mut shown = run(&["--help"]).out;
    for command in COMMANDS {
        assert!(shown.contains(command));
        let help = run(&[command, "--help"]);
        assert!(help.code == 0 && help.out.contains(&format!(":\n  dead-letters {command}")), "{help:?}");
        // clap does not wrap this line.
        let usage = help.out.lines().find(|line| line.starts_with("Usage:")).unwrap();
        assert!(usage.len() <= 80, "{usage}");
        shown += &format!("\n$ dead-letters {command} --help\n{}", help.out);
    }
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("help", shown);
    });
    let mut program = program();
    let with_password = program.args(["apps", "--help"]).env("DATABASE_URL", "postgres://ada:s3cret@h/db");
    assert!(!Ran::from(with_password.output().unwrap()).out.contains("s3cret"));
    for command in COMMANDS.into_iter().chain(["history", "delete", "erase"]) {
        let mut program = crate::support::program();
        let with_app = program.args([command, "--help"]).env("DEAD_LETTERS_APP", "s3cret");
        assert!(!Ran::from(with_app.output().unwrap()).out.contains("s3cret"), "{command}");
    }
}

fn help(command: &str) -> String {
    let help = run(&[command, "--help"]).out;
    help.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_help_names_every_stage_of_a_staged_replay() {
    let stages = [0, 1, 11, 111].map(ReplayRequest::next_stage);
    assert_eq!(stages, [1, 10, 100, 1_000]);
    let help = help("replay");
    assert!(help.contains("Replay 1, then 10, then 100, then 1,000 letters at a time"), "{help}");
}

#[test]
fn the_help_names_every_app_that_the_history_covers() {
    let help = help("history");
    let apps = "[default: all apps that have letters or one of the newest 10,000 actions]";
    assert!(help.contains(apps), "{help}");
}

/// An option that is given holds, or is refused.
#[tokio::test]
async fn a_format_that_a_command_does_not_have_is_refused() {
    let store = Store::sqlite().await;
    let id = store.letter("orders", "smtp: 451").await;
    let only = format!("show {id} --payload-only");
    for (command, named) in [
        ("export", "export"),
        ("list -q", "list --quiet"),
        (&*only, "show --payload-only"),
        ("completions bash", "completions"),
        ("man", "man"),
        ("serve --listen 127.0.0.1:0", "serve"),
        // The pause is too short, so that the command ends also if it does not refuse the format.
        ("sweep --delete-all-after 1d --every 0s", "sweep --every"),
    ] {
        for option in ["--output json", "--output tsv", "--output table", "--wide"] {
            let ran = Ran::from(store.command(&format!("{command} {option}")).output().unwrap());
            let option = option.split(' ').next().unwrap();
            ran.fails(2, &format!("{option} cannot be used with `{named}`, which prints "));
        }
    }
    let lines = store.run("export").out;
    assert_eq!((lines.lines().count(), &*store.run("export --output jsonl").out), (1, &*lines));
}

#[test]
fn an_argument_that_is_refused_does_not_steer_the_terminal() {
    let steering = ['\u{9b}', '\u{1b}', '\u{202e}', '\u{2066}', '\r', '\u{8}'];
    let hostile: String = steering.iter().map(|c| format!("a{c}b")).collect();
    for args in [
        &["list", "--state", &*hostile][..],
        &[&*hostile],
        &["list", &hostile],
        &["list", &format!("--{hostile}")],
        &["list", "--since", &hostile, "--database-url", "sqlite::memory:"],
        &["man", &hostile],
    ] {
        let ran = run(args);
        assert!(ran.code != 0 && !ran.err.is_empty(), "{ran:?}");
        assert!(!ran.err.contains(steering), "{args:?}: {ran:?}");
    }
}

/// Each message names what was wrong, the argument, and a value that would be right.
#[tokio::test]
async fn a_wrong_command_is_explained_and_exits_with_2() {
    let (uuid, closed) =
        ("an id is a UUID, for example 6f1c2a52", "--state closed: closed letters are not changed");
    let (time, duration) =
        ("yesterday 14:30, today, now, 2026-03-01 10:00", "write a duration as 30d, 12h or 5m");
    let letter = "a UUID or its last 8 digits, for example";
    let store = Store::sqlite().await;
    for (line, wrong, right) in [
        ("", "Usage: dead-letters", "list"),
        ("lst", "unrecognized subcommand 'lst'", "'list'"),
        ("list --ap {app}", "unexpected argument '--ap'", "'--app'"),
        ("list --app x", "no app with letters has this name", "list the apps with `apps`"),
        ("list --app=", "invalid value '' for '--app", "an app is a UUID or the beginning of one"),
        ("apps --after x", "invalid value 'x' for '--after", uuid),
        ("apps --limit 0", "invalid value '0' for '--limit", "between 1 and 1,000"),
        ("apps --limit many", "invalid value 'many' for '--limit", "between 1 and 1,000"),
        ("apps --output xml", "invalid value 'xml' for '--output", "table, tsv, json, jsonl"),
        ("list --app {app} --size 501", "invalid value '501' for '--size", "between 1 and 500"),
        (
            "list --app {app} --after x",
            "invalid value 'x' for '--after",
            "belongs to another app, filter or order",
        ),
        (
            "list --app {app} --state new",
            "invalid value 'new' for '--state",
            "[possible values: open, unresolved, closed, any]",
        ),
        (
            "list --app {app} --resolution x",
            "invalid value 'x' for '--resolution",
            "[possible values: replayed, ignored, handled_by_script, handler_failed]",
        ),
        ("list --app {app} --metadata tenant", "invalid value 'tenant' for '--metadata", "tenant=acme"),
        ("list --app {app} --metadata =x", "invalid value '=x' for '--metadata", "tenant=acme"),
        ("list --app {app} --metadata a=1 --metadata a=2", "--metadata", "the key \"a\" is given twice"),
        ("list --app {app} --ids x", "invalid value 'x' for '--ids", letter),
        (
            "list --app {app} --trigger-id x",
            "invalid value 'x' for '--trigger-id",
            "none or a UUID, for example",
        ),
        ("list --app {app} --script-id x", "invalid value 'x' for '--script-id", "none or a UUID"),
        ("list --app {app} --original-event-id x", "invalid value 'x' for '--original-event-id", uuid),
        ("list --app {app} --since soon", "--since: \"soon\" is not a time", time),
        ("list --app {app} --until soon", "--until: \"soon\" is not a time", time),
        ("list --app {app} --scan-limit 0", "invalid value '0' for '--scan-limit", "between 1 and"),
        ("show x --app {app}", "invalid value 'x' for '[LETTER_ID]'", letter),
        ("groups --app {app} --limit 0", "invalid value '0' for '--limit", "between 1 and 500"),
        ("count --app {app} --cap 0", "invalid value '0' for '--cap", "between 1 and"),
        ("timeline --app {app} --buckets 0", "invalid value '0' for '--buckets", "between 1 and 1,000"),
        ("groups --new-since soon", "--new-since: \"soon\" is not a time", time),
        ("groups --new-since 2999-01-01T00:00:00Z", "--new-since must not be in the future", ""),
        ("groups --new-since 24h --source orders", "cannot be used with", "--source"),
        ("timeline --app {app} --since soon", "--since: \"soon\" is not a time", time),
        ("timeline --app {app} --until soon", "--until: \"soon\" is not a time", time),
        ("timeline --app {app} --since now --until 1h", "--since must not be after --until", ""),
        (
            "resolve --app {app}",
            "no letter is given",
            "pass the IDs of letters, a filter such as --group or --since, or --all for every letter",
        ),
        ("resolve x --app {app}", "invalid value 'x' for '[LETTER_ID]", letter),
        ("resolve --app {app} --as done", "invalid value 'done' for '--as", "ignored, handled_by_script"),
        ("resolve --app {app} --dry-run", "no letter is given", "--all"),
        ("resolve --app {app} --yes --state any", "no letter is given", "--all"),
        ("resolve {app} --app {app} --all", "cannot be used with", "'--all'"),
        (
            "resolve --app {app} --all",
            "cannot ask for confirmation without a terminal",
            "--yes skips the question",
        ),
        ("resolve --app {app} --all --yes --state closed", closed, "use open, unresolved or any"),
        ("reopen --app {app}", "no letter is given", "--all"),
        (
            "reopen --app {app} --all",
            "cannot ask for confirmation without a terminal",
            "--yes skips the question",
        ),
        (
            "reopen --app {app} --all --state open",
            "--state open: only closed letters can be reopened",
            "use closed or any",
        ),
        (
            "replay --app {app} --all",
            "replay is not available in this binary",
            "it needs your service's own build of this tool",
        ),
        ("replay {app} --app {app} --staged", "cannot be used with", "--staged"),
        ("replay --app {app} --all --rate 0/s", "expected a number of letters a second", "for example 20/s"),
        ("replay --app {app} --all --rate 1000000000/s", "from 1/s to 1000/s", ""),
        ("replay --app {app} --all --rate fast", "expected a number of letters a second", ""),
        ("import /nowhere.jsonl", "/nowhere.jsonl: No such file", ""),
        ("sweep", "a sweep needs at least one retention", "--delete-all-after or --delete-actions-after"),
        ("sweep --yes", "a sweep needs at least one retention", "--delete-closed-after"),
        ("sweep --delete-all-after soon", "--delete-all-after: \"soon\" is not a duration", duration),
        (
            "sweep --delete-closed-after 1m",
            "--delete-closed-after: \"1m\" is shorter than the minimum of 1h",
            "",
        ),
        ("sweep --delete-all-after 1d --every 0s", "--every: \"0s\" is shorter than the minimum of 1s", ""),
        ("sweep --delete-all-after 1d --every 1h --dry-run", "cannot be used with", "'--dry-run'"),
        ("sweep --delete-all-after 1d --app x", "no app with letters has this name", ""),
        (
            "sweep --delete-all-after 1d --yes --archive /nowhere",
            "--archive /nowhere: the folder does not exist",
            "",
        ),
        ("import --delete-all-after soon", "--delete-all-after: \"soon\" is not a duration", duration),
        ("serve --listen x", "invalid value 'x' for '--listen", "for example 127.0.0.1:8025"),
        ("serve --listen 0.0.0.0:0", "is not a loopback address, which requires a token", "--token-file"),
        ("serve --token-file /nowhere", "--token-file /nowhere: No such file", ""),
        ("serve --host ops.example", "--host requires a token", "--token-file"),
        ("migrate", "Usage: dead-letters migrate", "status"),
        ("migrate down", "unrecognized subcommand 'down'", ""),
        ("completions", "<SHELL>", "Usage: dead-letters completions"),
        ("completions cmd", "invalid value 'cmd' for '<SHELL>'", "bash, elvish, fish"),
        ("man lst", "unknown command \"lst\"", "see: dead-letters --help"),
        ("man archive lst", "unknown command \"archive lst\"", "see: dead-letters --help"),
        ("apps --database-url mysql://u:secret@h/db", "mysql", "must be a postgres: or sqlite: URL"),
    ] {
        let ran = match line {
            "" => run(&[]),
            line => store.run(line),
        };
        assert!(ran.err.contains(wrong) && ran.err.contains(right), "{line}: {ran:?}");
        let code = if line.starts_with("import /") { 1 } else { 2 };
        assert_eq!((ran.code, &*ran.out), (code, ""), "{line}: {ran:?}");
        assert!(!ran.err.contains("secret"), "{ran:?}");
    }
    run(&["apps"]).fails(2, "hint: set DATABASE_URL or DATABASE_URL_FILE, or pass --database-url");
}

#[test]
fn a_database_that_is_not_there_exits_with_1_and_shows_no_password() {
    let gone = run(&["apps", "--database-url", "postgres://ada:s3cret@127.0.0.1:1/db"]);
    gone.fails(1, "127.0.0.1:1/db");
    assert!(!gone.err.contains("s3cret"), "{gone:?}");
    let missing = run(&["apps", "--database-url", "sqlite:///nowhere/at.sqlite"]);
    missing.fails(1, "mode=rwc");
    let empty = run(&["apps", "--database-url", "sqlite::memory:"]);
    empty.fails(1, "To create the table: dead-letters migrate up");
}

/// As `sslmode=verify-full` says: by whom the server's certificate is signed, and for which name.
#[tokio::test]
async fn a_server_is_reached_over_tls_and_its_certificate_is_verified() {
    let server = Server::start().unwrap();
    let repo = open(connect_options(server.url().as_str()), OnOpen::Migrate, Migrator).await.unwrap();
    let show = Statement::from_string(DbBackend::Postgres, "SHOW data_directory");
    let data: String = repo.pool().query_one_raw(show).await.unwrap().unwrap().try_get_by_index(0).unwrap();
    let data = Path::new(&data);
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (data.join("server.crt"), data.join("server.key"));
    fs::write(&certificate, signed.cert.pem()).unwrap();
    fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    // The server takes no key that others can read.
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let owner = fs::metadata(data).unwrap();
    for file in [&certificate, &key] {
        chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let folder = TempDir::new().unwrap();
    let other = folder.path().join("other.crt");
    fs::write(&other, rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem())
        .unwrap();

    let port = server.url().port().unwrap();
    let apps = |host: &str, root: &Path| {
        let url = format!(
            "postgres://postgres@{host}:{port}/postgres?sslmode=verify-full&sslrootcert={}",
            root.display()
        );
        run(&["apps", "--database-url", &url])
    };
    apps("localhost", &certificate).fails(1, "TLS");
    for set in ["ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"] {
        repo.pool().execute_unprepared(set).await.unwrap();
    }
    let is_on = Statement::from_string(DbBackend::Postgres, "SHOW ssl");
    while repo
        .pool()
        .query_one_raw(is_on.clone())
        .await
        .unwrap()
        .unwrap()
        .try_get_by_index::<String>(0)
        .unwrap()
        != "on"
    {}
    assert_eq!(apps("localhost", &certificate).code, 0, "{:?}", apps("localhost", &certificate));
    assert_eq!(apps("localhost", &other).code, 1);
    assert_eq!(apps("127.0.0.1", &certificate).code, 1);
}

#[test]
fn a_url_in_the_wrong_place_shows_no_password() {
    for url in [
        "postgres://ada:s3cret/#x@db.example/service",
        "postgres://127.0.0.1:1/d?user=u&password=s3cret",
        "postgres://u:s3cret",
        "postgres://127.0.0.1:1/d?user=u&password=x@s3cret",
    ] {
        a_misplaced_url_shows_no_password(url);
    }
}

fn a_misplaced_url_shows_no_password(url: &str) {
    for args in [
        &["apps", url][..],
        &[url],
        &["list", url],
        &["show", url],
        &["list", "--app", url],
        &["show", url, "--app", "6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01"],
        &["list", "--app", "6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01", "--since", url],
        &["import", url],
        &["man", url],
        &["serve", "--token-file", url],
        &["sweep", "--delete-all-after", "1d", "--yes", "--archive", url],
        &[&*format!("--database-ur={url}"), "apps"],
    ] {
        let args = [&["--database-url", "sqlite::memory:"], args].concat();
        let ran = run(&args);
        assert!(ran.code != 0 && !ran.err.is_empty(), "{args:?}: {ran:?}");
        assert!(!ran.err.contains("s3cret") && !ran.out.contains("s3cret"), "{args:?}: {ran:?}");
    }
}

/// The driver would ignore a parameter that it does not know, and connect without TLS.
#[test]
fn a_url_that_the_driver_would_misread_is_refused_before_it_connects() {
    for (url, said) in [
        ("postgres://ada@127.0.0.1:1/db?sslmod=verify-full", "\"sslmod\""),
        ("postgres://ada@127.0.0.1:1/db?sslmode=require&SSLROOTCERT=x", "\"SSLROOTCERT\""),
        (
            "service.sqlite",
            "DATABASE_URL is not a URL; expected sqlite://service.sqlite or postgres://user@host/db",
        ),
        ("postgres://ada:s3cret/x@127.0.0.1:1/db", "percent-encode it (@ is %40) or set PGPASSWORD"),
        ("postgres://ada:1#s3cret@127.0.0.1:1/db", "percent-encode it (@ is %40) or set PGPASSWORD"),
        ("postgres://ada:1?s3cret@127.0.0.1:1/db", "percent-encode it (@ is %40) or set PGPASSWORD"),
        ("postgres://ada:1?s3cret&x=y@127.0.0.1:1/db", "percent-encode it (@ is %40) or set PGPASSWORD"),
        ("postgres://ada:1/s3cret@127.0.0.1:1/db", "percent-encode it (@ is %40) or set PGPASSWORD"),
        ("sqlite://x.sqlite?mod=ro", "mod"),
        ("mysql://ada:s3cret@h/db", "must be a postgres: or sqlite: URL"),
        ("postgres://ada@127.0.0.1:1/db?sslmode=s3cret", "unknown value \"…\" for `ssl_mode`"),
        ("sqlite://x.sqlite?mode=s3cret", "unknown value \"…\" for `mode`"),
        ("postgres://u:s3cret", "cannot read DATABASE_URL"),
    ] {
        let ran = run(&["apps", "--database-url", url]);
        ran.fails(2, said);
        assert!(!ran.err.contains("s3cret"), "{url}: {ran:?}");
    }
    for url in [
        "postgres://ada@127.0.0.1:1/db?sslmode=require&application_name=a%40b&user=a@b&options=-csearch_path%3Dx",
        "postgres://ada@127.0.0.1:1/db?options[search_path]=x&statement-cache-capacity=1",
    ] {
        run(&["apps", "--database-url", url]).fails(1, "127.0.0.1:1/db");
    }
}

/// Each is a sentence that says what helps, and none of them sends to `migrate up` where that does not.
#[tokio::test]
async fn a_refusal_of_the_server_is_explained_in_a_sentence() {
    let store = Store::postgres().await;
    let id = store.letter("orders", "a").await;
    let admin = store.repo.pool();
    let role = format!("reader_{}", uuid::Uuid::new_v4().simple());
    let execute = async |sql: &str| admin.execute_unprepared(&sql.replace("{role}", &role)).await.unwrap();
    execute("CREATE ROLE {role} LOGIN; CREATE SCHEMA other; CREATE SCHEMA own AUTHORIZATION {role}").await;
    let user = url::Url::parse(&store.url).unwrap().username().to_owned();
    let as_role = store.url.replacen(&format!("{user}@"), &format!("{role}@"), 1);
    let with =
        |url: &str, line: &str| Ran::from(store.command(line).env("DATABASE_URL", url).output().unwrap());
    let sends_to_migrate = |ran: &Ran| ran.err.contains("migrate up");
    let joint = if store.url.contains('?') { '&' } else { '?' };

    let denied = with(&as_role, "apps");
    denied.fails(1, "permission denied for table dead_letters");
    assert!(denied.err.contains("GRANT") && !sends_to_migrate(&denied), "{denied:?}");
    let nowhere = with(&format!("{as_role}{joint}options=-csearch_path%3Dnowhere"), "migrate up");
    nowhere.fails(1, "search_path");
    assert!(!sends_to_migrate(&nowhere), "{nowhere:?}");
    let hidden = format!("{}{joint}options=-csearch_path%3Dother", store.url);
    let hidden = with(&hidden, "apps");
    hidden.fails(1, "is in the schema public, which is not in the search_path");
    assert!(!sends_to_migrate(&hidden), "{hidden:?}");

    execute("ALTER TABLE dead_letters SET SCHEMA other; ALTER TABLE seaql_migrations SET SCHEMA other").await;
    let other = format!("{as_role}{joint}options=-csearch_path%3Dother");
    for line in ["apps", "migrate status", "migrate up"] {
        let no_usage = with(&other, line);
        no_usage.fails(1, &format!("the role {role} has no USAGE on the schema other"));
        assert!(
            no_usage.err.contains("GRANT USAGE ON SCHEMA other") && !sends_to_migrate(&no_usage),
            "{line}: {no_usage:?}"
        );
    }
    execute("ALTER TABLE other.dead_letters SET SCHEMA public; ALTER TABLE other.seaql_migrations SET SCHEMA public").await;

    // The table of another service is nothing to a role with a schema of its own.
    execute("ALTER TABLE dead_letters SET SCHEMA other; ALTER TABLE seaql_migrations SET SCHEMA other").await;
    execute("CREATE SCHEMA \"Own\" AUTHORIZATION {role}").await;
    let own = format!("{as_role}{joint}options=-csearch_path%3D%22Own%22");
    assert_eq!(with(&own, "migrate up").code, 0);
    assert_eq!(with(&own, "count --output tsv").lines(), [["0"]]);
    execute("ALTER TABLE other.dead_letters SET SCHEMA public; ALTER TABLE other.seaql_migrations SET SCHEMA public").await;

    let standby = format!("{}{joint}options=-cdefault_transaction_read_only%3Don", store.url);
    let read_only = with(&standby, &format!("resolve {id} --app {{app}}"));
    read_only.fails(1, "this server or role is read-only (a standby?); connect to the primary");
    assert!(!read_only.err.contains("try again"), "{read_only:?}");
    assert_eq!(with(&standby, "apps").code, 0);

    execute("ALTER TABLE dead_letters DROP COLUMN resolution_note").await;
    let older = with(&store.url, "apps");
    older.fails(1, "resolution_note");
    execute("DROP TABLE dead_letters").await;
    execute("CREATE VIEW dead_letters AS SELECT 1 AS id; DROP TABLE seaql_migrations").await;
    let taken = with(&store.url, "migrate up");
    taken.fails(1, "seaql_migrations lists none of its steps");
    assert!(!sends_to_migrate(&taken), "{taken:?}");
    execute("DROP OWNED BY {role}; DROP ROLE {role}").await;
}

#[tokio::test]
async fn a_database_that_is_not_utf8_is_named_and_not_sent_to_migrate_up() {
    let server = Server::start().unwrap();
    let db = sea_orm::Database::connect(server.url().as_str()).await.unwrap();
    let latin = "CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0";
    db.execute_unprepared(latin).await.unwrap();
    let mut url = server.url().clone();
    url.set_path("latin");
    for step in ["status", "up"] {
        let ran = run(&["migrate", step, "--database-url", url.as_str()]);
        ran.fails(1, "whose encoding is UTF8, and this one's is LATIN1");
        assert!(!ran.err.contains("hint"), "{ran:?}");
    }
}

/// As several replicas of a service do at their start.
#[test]
fn several_processes_that_migrate_one_new_sqlite_file_all_succeed() {
    let dir = TempDir::new().unwrap();
    for round in 0..5 {
        let url = format!("sqlite://{}?mode=rwc", dir.path().join(format!("{round}.sqlite")).display());
        let migrate = || {
            let mut program = program();
            program.args(["migrate", "up", "--database-url", &url]).stderr(Stdio::piped()).spawn().unwrap()
        };
        let programs: Vec<_> = (0..4).map(|_| migrate()).collect();
        for program in programs {
            let ran = Ran::from(program.wait_with_output().unwrap());
            assert_eq!(ran.code, 0, "{ran:?}");
        }
        assert_eq!(run(&["migrate", "status", "--database-url", &url]).code, 0);
    }
}

#[test]
fn a_file_that_is_no_database_and_one_that_may_not_be_written_are_named() {
    let dir = TempDir::new().unwrap();
    let text = dir.path().join("notes.txt");
    fs::write(&text, "not a database, and long enough to have a header of a hundred bytes and more, which is what is looked at first").unwrap();
    let url = format!("sqlite://{}", text.display());
    for args in [&["apps"][..], &["migrate", "up"]] {
        run(&[args, &["--database-url", &url]].concat()).fails(1, "is not a SQLite database");
    }
    let read_only = format!("sqlite://{}?mode=rwc", dir.path().join("new.sqlite").display());
    assert_eq!(run(&["migrate", "up", "--database-url", &read_only]).code, 0);
    let other = format!("sqlite://{}?mode=rwc", dir.path().join("other.sqlite").display());
    fs::write(dir.path().join("other.sqlite"), "").unwrap();
    let ro = other.replace("rwc", "ro");
    let ran = run(&["migrate", "up", "--database-url", &ro]);
    ran.fails(1, "the SQLite file or its folder is read-only");
    assert!(!ran.err.contains("try again") && !ran.err.contains("hint: dead-letters migrate up"), "{ran:?}");
}
