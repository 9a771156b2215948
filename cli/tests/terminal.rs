//! An operator's day in a real terminal of 80 columns, as the README shows it.

use std::{
    io::{Read, Write},
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

use chrono::{TimeDelta, Utc};
use dead_letters::{
    AppId, DeadLetterTransfer, OnOpen, StoredLetter, connect_options,
    migration::Migrator,
    open,
    testing::{error_signature, stored_letter},
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::PROGRAM;

const APPS: [u128; 2] = [0x6f1c2a52_6c1e_4a57_9a3e_0f6d2f8b1a01, 0xb7d0c9e4_2f0b_4c55_8c70_3a1e5d9c2b02];
const CRM: &str = "crm-sync: PUT /v2/contacts answered 503 Service Unavailable";
const SMTP: &str = "smtp: 451 4.7.1 greylisted by mx3.example.net";

/// A folder with a service's database, and the service's own build of the tool under the name `dead-letters`.
async fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let own = Path::new(PROGRAM).with_file_name("examples").join("own");
    symlink(own, folder.path().join("dead-letters")).unwrap();
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("service.sqlite").display());
    let repo = open(connect_options(&url), OnOpen::Migrate, Migrator).await.unwrap();
    let nine = (Utc::now() - TimeDelta::days(1)).date_naive().and_hms_opt(9, 0, 0).unwrap().and_utc();
    let mut letters = Vec::new();
    for (app, crm, smtp) in [(APPS[0], 19, 5), (APPS[1], 12, 2)] {
        let app: AppId = Uuid::from_u128(app).into();
        let of = |source: &str, op: &str, error: &str, minute| StoredLetter {
            source: source.to_owned(),
            op: op.to_owned(),
            script_id: None,
            last_error: error.to_owned(),
            error_signature: error_signature(error),
            payload: "{\"contact\": 90424, \"email\": \"ada@example.com\"}".to_owned(),
            ..stored_letter(app, nine + TimeDelta::minutes(minute))
        };
        letters.extend((0..crm).map(|n| of("customers", "update", CRM, 2 * n)));
        letters.extend((0..smtp).map(|n| of("orders", "insert", SMTP, 40 + n)));
    }
    repo.import(&letters).await.unwrap();
    folder
}

/// Runs the line in a terminal, and answers its question with yes. Returns the line and what the terminal shows.
fn in_terminal(folder: &TempDir, line: &str) -> String {
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &format!("stty rows 24 cols 80; {line}"), "/dev/null"]);
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let script =
        script.current_dir(folder).env_clear().env("PATH", path).env("TZ", "UTC").env("TERM", "dumb");
    let script =
        script.env("DATABASE_URL", "sqlite://service.sqlite").env("USER", "ada").env("SHELL", "/bin/sh");
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut out, mut input) = (script.stdout.take().unwrap(), script.stdin.take());
    let (mut shown, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        let read = out.read(&mut bytes).unwrap();
        shown.extend(&bytes[..read]);
        if shown.ends_with(b"[y/N] ")
            && let Some(mut input) = input.take()
        {
            input.write_all(b"y\n").unwrap();
        }
        if read == 0 {
            break;
        }
    }
    assert!(script.wait().unwrap().success(), "{line}: {}", String::from_utf8_lossy(&shown));
    let shown = String::from_utf8(shown).unwrap().replace('\r', "");
    // The example of an outbox prints the events that are put back.
    let lines = shown.lines().filter(|line| !line.starts_with("back: "));
    let shown = lines.map(|line| format!("{line}\n")).collect::<String>();
    format!("$ {line}\n{shown}")
}

/// Replaces what differs each day: ids, times and ages.
fn normalized(transcript: &str) -> String {
    let is_id = |word: &str| {
        (word.len() == 8 || word.len() == 36) && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
    };
    let is_all = |word: &str, other: char| word.chars().all(|c| c.is_ascii_digit() || c == other);
    let words = transcript.split_inclusive([' ', '\n', '`', ',']).map(|part| {
        let word = part.trim_end_matches([' ', '\n', '`', ',']);
        let end = &part[word.len()..];
        let shown = match word {
            word if is_id(word) => "ID",
            word if word.len() == 5 && word.as_bytes()[2] == b'-' && is_all(word, '-') => "DAY",
            word if word.len() == 5 && word.as_bytes()[2] == b':' && is_all(word, ':') => "TIME",
            word if word.len() < 5 && word.ends_with(['h', 'd']) && is_all(&word[..word.len() - 1], '0') => {
                "AGE"
            }
            word => word,
        };
        format!("{shown}{end}")
    });
    let lines = words.collect::<String>();
    let lines = lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the word that follows these words in the transcript.
fn after<'a>(transcript: &'a str, words: &str) -> &'a str {
    let (_, rest) = transcript.split_once(words).unwrap_or_else(|| panic!("no {words:?} in\n{transcript}"));
    rest.split([' ', '\n', '`']).next().unwrap()
}

#[tokio::test]
async fn an_operators_day_takes_six_commands_and_stands_in_the_readme() {
    let folder = folder().await;
    let between = "--since 'yesterday 09:00' --until 'yesterday 10:00'";
    let groups = in_terminal(&folder, &format!("dead-letters groups {between}"));
    let group = groups.lines().find(|line| line.contains("customers/update")).unwrap()[..8].to_owned();
    let mut day = groups;
    for line in [
        format!("dead-letters show --group {group} --payload-only"),
        format!("dead-letters replay --group {group} {between} --staged --wait 1s"),
        format!("dead-letters resolve {between} --note 'they retry it themselves'"),
    ] {
        day += &in_terminal(&folder, &line);
    }
    let run = after(&day, "reopen --run ").to_owned();
    day += &in_terminal(&folder, &format!("dead-letters reopen --run {run} --app b7d0c9e4"));
    day += &in_terminal(&folder, "dead-letters list");

    assert_eq!(day.matches("$ dead-letters ").count(), 6);
    assert!(!day.contains('\u{1b}'), "{day:?}");
    let outputs = day.lines().filter(|line| !line.starts_with("$ ") && !line.starts_with("note: "));
    for line in outputs {
        assert!(console::measure_text_width(line) <= 80, "{line}");
    }
    let readme = include_str!("../README.md");
    let shown = readme.split("```text\n").map(|block| block.split("```").next().unwrap());
    let shown = shown.into_iter().find(|block| block.starts_with("$ dead-letters groups --since 'yesterday"));
    let shown = shown.unwrap_or_default();
    assert_eq!(normalized(shown), normalized(&day), "the README does not show this day:\n{day}");
}

#[tokio::test]
async fn a_repeated_list_fits_the_terminal_and_shows_the_newest() {
    let folder = folder().await;
    for (line, newest) in [("list --watch", "09:44"), ("timeline --since 60h --buckets 60 --watch", "  1h")] {
        let screen = of_a_repeated(&folder, &format!("dead-letters {line}"));
        let lines: Vec<_> = screen.lines().collect();
        assert!(lines.len() <= 23, "{} lines: {screen}", lines.len());
        assert!(screen.contains(newest) && screen.contains(" more\n"), "{screen}");
        assert!(!screen.contains("--after"), "{screen}");
    }
}

/// Returns what the first round prints to a terminal of 24 lines. Ctrl-C then ends the command.
fn of_a_repeated(folder: &TempDir, line: &str) -> String {
    let mut script = Command::new("script");
    script.args([
        "--quiet",
        "--return",
        "--command",
        &format!("stty rows 24 cols 80; exec {line}"),
        "/dev/null",
    ]);
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let script = script.current_dir(folder).env_clear().env("PATH", path).env("TZ", "UTC");
    let script = script.env("TERM", "xterm").env("DATABASE_URL", "sqlite://service.sqlite");
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut out, mut input) = (script.stdout.take().unwrap(), script.stdin.take().unwrap());
    let (mut shown, mut bytes) = (String::new(), [0; 4096]);
    // The second round begins with the sequence that clears the terminal.
    while shown.matches("\u{1b}[2J").count() < 2 {
        let read = out.read(&mut bytes).unwrap();
        assert!(read > 0, "{shown}");
        shown += &String::from_utf8_lossy(&bytes[..read]);
    }
    input.write_all(b"\x03").unwrap();
    while out.read(&mut bytes).unwrap() > 0 {}
    assert!(script.wait().unwrap().success());
    let first = shown.split("\u{1b}[2J").nth(1).unwrap();
    first.replace('\r', "").replace("\u{1b}[H", "")
}
