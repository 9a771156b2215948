//! Tests of resolving, reopening and replaying.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use chrono::{TimeDelta, Utc};
use dead_letters::{
    ActionRequest, Attribution, DeadLetterRead, DeadLetterRepo, DeadLetterResolve, DeadLetterTransfer,
    NewDeadLetter, Resolution, StoredLetter,
    testing::{letter, stored_letter},
};
use sea_orm::{ConnectionTrait, DbBackend, TransactionTrait};
use serde_json::json;
use uuid::Uuid;

use crate::support::{PROGRAM, Ran, Store, signal, waits_for_a_lock};

on_every_backend! {
    stale_signatures_are_rebuilt_and_a_dry_run_only_shows_them,
    letters_are_resolved_by_their_ids_and_the_others_are_reported,
    matching_letters_are_resolved_once_confirmed,
    letters_that_fail_after_the_count_are_left_alone,
    matching_letters_are_reopened_but_not_those_resolved_later,
    a_run_is_undone_by_the_printed_command,
    replayed_letters_are_reopened_only_on_request,
    a_terminal_shows_how_far_it_is,
    resolved_letters_are_reopened,
    the_history_has_who_reopened_letters_and_why,
    the_letters_of_one_command_are_one_run,
    a_services_own_program_replays,
    a_services_own_program_applies_the_services_own_steps,
    letters_that_can_t_be_replayed_are_named_and_the_rest_is_replayed,
    truncated_payloads_are_neither_counted_nor_replayed,
    a_staged_replay_stops_where_events_fail_again,
    a_staged_replay_of_all_apps_stops_where_the_last_event_of_an_app_fails_again,
    a_replay_at_a_rate_is_stopped_between_two_batches,
    a_bound_in_the_past_reopens_what_it_matches,
    a_bound_in_the_past_does_not_stop_a_staged_replay,
    replays_of_others_do_not_stop_a_staged_replay,
    a_bound_in_the_future_takes_what_is_ahead_of_the_clock,
    beside_ids_an_option_that_narrows_is_refused,
    a_resolution_implies_the_state_of_the_letters,
}

async fn stale_signatures_are_rebuilt_and_a_dry_run_only_shows_them(store: Store) {
    let letters: Vec<_> = (0..3).map(|_| stored_letter(store.app, Utc::now())).collect();
    let stale = |mut letter: StoredLetter, signature: &str| {
        letter.error_signature = signature.to_owned();
        letter.signature_version = 1;
        letter
    };
    let letters =
        [stale(letters[0].clone(), "smtp"), stale(letters[1].clone(), "smtp: try again"), letters[2].clone()];
    // Without a script their key is one.
    let letters = letters.map(|letter| StoredLetter { script_id: None, ..letter });
    store.repo.import(&letters).await.unwrap();
    let groups = async || store.run("groups --app {app} --output json").json()["groups"].clone();
    assert_eq!(groups().await.as_array().unwrap().len(), 3);

    let shown = store.run("signatures rebuild --dry-run");
    let lines: Vec<Vec<_>> = shown.out.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!((shown.code, lines.len()), (0, 2), "{shown:?}");
    assert_eq!((lines[0][2], lines[0][3], lines[0][5]), (lines[1][2], "1", "smtp: 451 try again later"));
    assert!(
        shown.err.contains("2 of 3 letters have an older signature, and nothing was changed"),
        "{shown:?}"
    );
    assert_eq!(groups().await.as_array().unwrap().len(), 3);

    let ran = store.run("signatures rebuild --output json");
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let counts = (&json["examined"], &json["stale"], &json["updated"]);
    assert_eq!(counts, (&json!(3), &json!(2), &json!(2)));
    assert!(ran.err.contains("2 of 3 letters have a new signature"), "{ran:?}");
    let left = groups().await;
    let [group] = left.as_array().unwrap().as_slice() else { panic!("{left}") };
    assert_eq!(
        (&group["count"], &group["error_signature"]),
        (&json!(3), &json!("smtp: 451 try again later"))
    );
    assert!(store.run("signatures rebuild").err.contains("0 of 3 letters have a new signature"));
}

async fn letters_are_resolved_by_their_ids_and_the_others_are_reported(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    let done = store.run(&format!("resolve {} --app {{app}} --note known --by ada", ids[0]));
    assert_eq!(done.lines(), [["1"]]);
    let row = store.repo.get(ids[0]).await.unwrap().unwrap();
    let resolved =
        (row.resolution.unwrap().as_str(), row.resolved_by.as_deref(), row.resolution_note.as_deref());
    assert_eq!(resolved, ("ignored", Some("ada"), Some("known")));
    let missing = Uuid::new_v4();
    let line = format!("resolve {} {} {missing} --app {{app}} --as handled_by_script", ids[0], ids[1]);
    let partly = store.run(&line);
    assert_eq!((partly.code, &*partly.out), (4, "1\n"), "{partly:?}");
    assert!(partly.err.contains(&format!("{}: the letter is ignored by ada", ids[0])), "{partly:?}");
    assert!(partly.err.contains(&format!("{missing}: there is no such letter")), "{partly:?}");
    assert_eq!(store.run(&format!("resolve {missing} --app {{app}}")).code, 3);
    // A letter that has this resolution is left as it is, and that is no failure.
    let again = store.run(&format!("resolve {} --app {{app}}", ids[0]));
    assert_eq!((again.code, &*again.out), (0, "0\n"), "{again:?}");
    assert_eq!(store.run(&format!("resolve {} --app {{app}} --as handled_by_script", ids[0])).code, 1);
}

async fn matching_letters_are_resolved_once_confirmed(store: Store) {
    for _ in 0..3 {
        store.letter("orders", "smtp: 451").await;
    }
    store.letter("parcels", "smtp: 451").await;
    let unresolved = async || store.repo.unresolved_count(store.app).await.unwrap();
    let line = "resolve --app {app} --source orders";
    store.run(line).fails(2, "hint: --yes");
    let dry = store.run(&format!("{line} --dry-run"));
    assert_eq!((dry.code, dry.out.lines().count()), (0, 3), "{dry:?}");
    assert!(dry.err.contains("3 letters would be resolved as ignored"), "{dry:?}");
    assert!(store.asked(line, "no\n").contains("3 letters will be resolved as ignored:"));
    assert!(store.asked(line, "\n").contains("nothing was changed"));
    assert_eq!(unresolved().await, 4);
    assert!(store.asked(line, "y\n").contains("3 letters resolved as ignored\n"));
    assert_eq!(unresolved().await, 1);
    assert_eq!(store.run(&format!("{line} --yes")).lines(), [["0"]]);
    let resolved = store.run("resolve --app {app} --all --yes --output json").json();
    let run = resolved["run_id"].as_str().unwrap();
    assert_eq!(resolved, json!({ "resolved": 1, "run_id": run }));
    assert_eq!(store.run(&format!("reopen --run {run} --yes")).lines(), [["1"]]);
    let nothing = store.run("resolve --source none --yes --output json").json();
    assert_eq!(nothing, json!({ "resolved": 0 }));
    assert_eq!(store.run("resolve --app {app} --all --yes").lines(), [["1"]]);
    store.run("resolve --app {app} --all --state closed --yes").fails(2, "closed letters are not changed");
    store.run("resolve --app {app}").fails(2, "--all for every letter");
}

async fn letters_that_fail_after_the_count_are_left_alone(store: Store) {
    store.letter("orders", "smtp: 451").await;
    let later = stored_letter(store.app, Utc::now() + TimeDelta::hours(1));
    store.repo.import(std::slice::from_ref(&later)).await.unwrap();
    let ran = store.run("resolve --app {app} --all --yes");
    assert_eq!((ran.code, &*ran.out), (0, "1\n"), "{ran:?}");
    assert_eq!(store.repo.get(later.id).await.unwrap().unwrap().resolved_at, None);
}

async fn matching_letters_are_reopened_but_not_those_resolved_later(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    let parcel = store.letter("parcels", "c").await;
    for id in ids {
        store.repo.resolve_once(store.app, id, Resolution::Ignored, &Attribution::by("ada")).await.unwrap();
    }
    store.repo.resolve(parcel, "handler_failed").await.unwrap();
    let later = Utc::now() + TimeDelta::hours(1);
    let resolved_later = StoredLetter {
        resolved_at: Some(later),
        resolution: Some("ignored".to_owned()),
        ..stored_letter(store.app, Utc::now() - TimeDelta::hours(1))
    };
    store.repo.import(std::slice::from_ref(&resolved_later)).await.unwrap();

    let line = "reopen --app {app} --source orders";
    store.run(line).fails(2, "hint: --yes");
    let dry = store.run(&format!("{line} --resolution ignored --dry-run"));
    assert_eq!((dry.code, dry.out.lines().count()), (0, 3), "{dry:?}");
    assert!(dry.err.contains("3 letters would be reopened"), "{dry:?}");
    assert!(store.asked(line, "n\n").contains("nothing was changed"));
    assert_eq!(store.unresolved().await, 0);
    assert!(store.asked(line, "y\n").contains("2 letters reopened\n"));
    assert_eq!(store.unresolved().await, 2);
    let row = store.repo.get(resolved_later.id).await.unwrap().unwrap();
    assert_eq!(row.resolution, Some(Resolution::Ignored));
    // One whose handler failed is open.
    assert_eq!(store.run("reopen --app {app} --yes --source parcels").lines(), [["0"]]);
    let failed = "reopen --app {app} --resolution handler_failed --yes";
    assert_eq!(store.run(failed).lines(), [["1"]]);
    assert_eq!(store.repo.get(parcel).await.unwrap().unwrap().resolution, None);
}

async fn a_run_is_undone_by_the_printed_command(store: Store) {
    // More than two batches.
    store.import(2_100, 1).await;
    let ran = store.run("resolve --app {app} --all --yes");
    let undo = ran
        .err
        .lines()
        .find_map(|line| line.strip_prefix("note: undo with `dead-letters ")?.strip_suffix('`'))
        .unwrap();
    let own = store.letter("orders", "a").await;
    store.repo.resolve(own, "ignored").await.unwrap();
    store.run(undo).fails(2, "hint: --yes");
    assert_eq!(store.run(&format!("{undo} --yes")).lines(), [["2100"]]);
    assert_eq!(store.repo.get(own).await.unwrap().unwrap().resolution, Some(Resolution::Ignored));
    assert_eq!(store.run(&format!("{undo} --yes")).lines(), [["0"]]);
}

async fn replayed_letters_are_reopened_only_on_request(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    store.repo.resolve(ids[0], "replayed").await.unwrap();
    store.repo.resolve(ids[1], "ignored").await.unwrap();
    let line = "reopen --app {app} --all --yes";
    store.run(line).fails(2, "1 of these letters were replayed");
    let by_id = store.run(&format!("reopen {} --app {{app}}", ids[0]));
    assert!(by_id.code == 1 && by_id.err.contains("pass --include-replayed"), "{by_id:?}");
    assert_eq!(store.run(&format!("{line} --resolution ignored")).lines(), [["1"]]);
    store.run(&format!("{line} --resolution replayed")).fails(2, "--include-replayed");
    assert_eq!(store.run(&format!("{line} --include-replayed")).lines(), [["1"]]);
    assert_eq!(store.unresolved().await, 2);
}

async fn a_terminal_shows_how_far_it_is(store: Store) {
    store.import(2_500, 1).await;
    let shown = store.on_terminal(100, "resolve --app {app} --all --yes");
    assert!(
        shown.contains("of 2,500 letters") && shown.contains("2,500 letters resolved as ignored"),
        "{shown:?}"
    );
    assert!(store.on_terminal(100, "sweep --delete-closed-after 1h").ends_with("0\n"));
}

async fn the_history_has_who_reopened_letters_and_why(store: Store) {
    let id = store.letter("orders", "a").await;
    let by_env = |line: &str| {
        let mut program = store.command(line);
        Ran::from(program.args(["--output", "tsv"]).env("USER", "ben").output().unwrap())
    };
    for (which, by, actor) in [(id.to_string(), " --by ada", "ada"), ("--all --yes".to_owned(), "", "ben")] {
        store.repo.resolve(id, "ignored").await.unwrap();
        let line = format!("reopen {which} --app {{app}} --note wrong{by}");
        assert_eq!(by_env(&line).lines(), [["1"]], "{line}");
        let history = store.run("history --app {app} --limit 1 --output json").out;
        let history: serde_json::Value = serde_json::from_str(&history).unwrap();
        let row = &history["items"][0];
        assert_eq!(
            (&row["action"], &row["actor"], &row["note"]),
            (&"reopen".into(), &actor.into(), &"wrong".into())
        );
        let letter = store.repo.get(id).await.unwrap().unwrap();
        assert_eq!((letter.resolved_by, letter.resolution_note), (None, None));
    }
}

async fn the_letters_of_one_command_are_one_run(store: Store) {
    store.import(1_100, 1).await;
    for (line, batches) in [("resolve --app {app} --all --yes", 2), ("reopen --app {app} --all --yes", 2)] {
        assert_eq!(store.run(line).lines(), [["1100"]], "{line}");
        let history = store.repo.actions(store.app, &ActionRequest::default().limit(batches)).await.unwrap();
        let runs: BTreeSet<_> = history.iter().map(|action| action.run_id.unwrap()).collect();
        let letters: u64 = history.iter().map(|action| action.letters).sum();
        assert_eq!((runs.len(), letters), (1, 1_100), "{line}");
    }
}

async fn resolved_letters_are_reopened(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    store.repo.resolve(ids[0], "ignored").await.unwrap();
    let missing = Uuid::new_v4();
    let line = format!("reopen {} {} {missing} --app {{app}}", ids[0], ids[1]);
    let partly = store.run(&line);
    assert_eq!((partly.code, &*partly.out), (4, "1\n"), "{partly:?}");
    assert!(partly.err.contains(&format!("{}: the letter is unresolved already", ids[1])), "{partly:?}");
    assert_eq!(store.repo.unresolved_count(store.app).await.unwrap(), 2);
    let other = Uuid::new_v4();
    assert_eq!(store.run(&format!("reopen {} --app {other}", ids[0])).code, 3);
    // A letter whose handler failed is reopened beside a closed one.
    store.repo.resolve(ids[0], "handler_failed").await.unwrap();
    store.repo.resolve(ids[1], "ignored").await.unwrap();
    assert_eq!(store.run(&format!("reopen {} {} --app {{app}}", ids[0], ids[1])).lines(), [["2"]]);
    assert_eq!(store.repo.unresolved_count(store.app).await.unwrap(), 2);
}

/// SQLite has no row locks: there the command waits for the other writer.
#[tokio::test]
async fn a_letter_that_is_locked_is_named_and_neither_resolved_nor_reopened_on_postgres() {
    let store = Store::postgres().await;
    let id = store.letter("orders", "a").await;
    let open = store.letter("orders", "b").await;
    store.repo.resolve(id, "ignored").await.unwrap();
    let txn = store.repo.pool().begin().await.unwrap();
    txn.execute_unprepared("SELECT FROM dead_letters FOR UPDATE").await.unwrap();
    for command in [format!("reopen {id}"), format!("resolve {open}")] {
        let ran = store.run(&format!("{command} --app {{app}}"));
        assert_eq!((ran.code, &*ran.out), (1, "0\n"), "{ran:?}");
        assert!(ran.err.contains("another transaction has locked the letter, or a policy"), "{ran:?}");
    }
    txn.rollback().await.unwrap();
    assert_eq!(store.run(&format!("reopen {id} --app {{app}}")).lines(), [["1"]]);
}

#[tokio::test]
async fn a_bulk_run_that_fails_after_its_first_batch_prints_what_it_did() {
    let store = Store::postgres().await;
    store.repo.insert_many(vec![letter(store.app); 1_000]).await.unwrap();
    store.letter("refused", "smtp: 451").await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                      'BEGIN RAISE EXCEPTION ''no'' USING ERRCODE = ''P0001''; END';
                  CREATE TRIGGER refuse BEFORE UPDATE ON dead_letters FOR EACH ROW
                      WHEN (NEW.source = 'refused') EXECUTE FUNCTION refuse()";
    store.repo.pool().execute_unprepared(refuse).await.unwrap();
    let ran = store.run("resolve --app {app} --all --yes");
    assert_eq!((ran.code, &*ran.out), (4, "1000\n"), "{ran:?}");
    assert!(ran.err.contains("P0001"), "{ran:?}");
    assert_eq!(store.run("resolve --app {app} --all --yes").code, 1);
}

/// The service's own program, which has replay: examples/own.rs.
pub(crate) fn own(store: &Store, line: &str) -> Ran {
    own_program(store, line).output().unwrap().into()
}

fn own_program(store: &Store, line: &str) -> Command {
    let own = Path::new(PROGRAM).with_file_name("examples").join("own");
    let app = store.app.to_string();
    let mut program = Command::new(own);
    program.env_clear().stdin(Stdio::null()).env("DATABASE_URL", &store.url).env("TZ", "UTC");
    program.args(line.split(' ').map(|word| word.replace("{app}", &app)));
    if !line.contains("--output") {
        program.args(["--output", "tsv"]);
    }
    program
}

async fn a_services_own_program_applies_the_services_own_steps(store: Store) {
    let pending = own(&store, "migrate status");
    assert_eq!((pending.code, &*pending.out), (5, "m20270101_000001_create_orders\n"), "{pending:?}");
    assert!(pending.err.contains("lacks a migration step\nhint: run: own migrate up"), "{pending:?}");
    let up = own(&store, "migrate up");
    assert_eq!((up.code, &*up.out), (0, &*pending.out), "{up:?}");
    assert_eq!(own(&store, "migrate status").code, 0);
    store.repo.pool().execute_unprepared("SELECT id FROM orders").await.unwrap();
}

async fn a_services_own_program_replays(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    let line = format!("replay {} --app {{app}} --by ada", ids[0]);
    store.run(&line).fails(2, "replay is not available in this binary: it needs your service's own build");
    let done = own(&store, &line);
    assert_eq!((done.code, &*done.out), (0, "1\n"), "{done:?}");
    let row = store.repo.get(ids[0]).await.unwrap().unwrap();
    assert!(done.err.contains(&format!("back: {}", row.original_event_id)), "{done:?}");
    assert_eq!((row.resolution, row.resolved_by.as_deref()), (Some(Resolution::Replayed), Some("ada")));
    let again = own(&store, &line);
    assert!(again.code == 1 && again.err.contains("already resolved as replayed by ada"), "{again:?}");
    assert_eq!(own(&store, "replay --app {app} --all --yes").out, "1\n");
    assert_eq!(store.repo.unresolved_count(store.app).await.unwrap(), 0);
}

async fn letters_that_can_t_be_replayed_are_named_and_the_rest_is_replayed(store: Store) {
    let letters = store.import(5, 2).await;
    let refused = letters[2].id;
    let trigger = match store.repo.pool().get_database_backend() {
        DbBackend::Sqlite => format!(
            "CREATE TRIGGER refuse BEFORE UPDATE ON dead_letters WHEN lower(hex(OLD.id)) = '{}'
             BEGIN SELECT RAISE(ABORT, 'refused'); END",
            refused.into_inner().simple()
        ),
        _ => format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''refused''; END';
             CREATE TRIGGER refuse BEFORE UPDATE ON dead_letters FOR EACH ROW WHEN (OLD.id = '{refused}')
                 EXECUTE FUNCTION refuse()"
        ),
    };
    store.repo.pool().execute_unprepared(&trigger).await.unwrap();
    let ran = own(&store, "replay --app {app} --until 1d --yes");
    assert_eq!((ran.code, &*ran.out), (4, "4\n"), "{ran:?}");
    assert!(ran.err.contains(&format!("{refused}: not replayed: ")), "{ran:?}");
    for letter in letters {
        let row = store.repo.get(letter.id).await.unwrap().unwrap();
        assert_eq!(row.resolved_at.is_none(), row.id == refused);
    }
}

async fn truncated_payloads_are_neither_counted_nor_replayed(store: Store) {
    store.letter("orders", "a").await;
    let truncated = StoredLetter {
        payload_kind: Some("truncated".to_owned()),
        ..stored_letter(store.app, Utc::now() - TimeDelta::hours(1))
    };
    store.repo.import(std::slice::from_ref(&truncated)).await.unwrap();
    let dry = own(&store, "replay --app {app} --all --dry-run");
    assert!(dry.err.contains("1 letter would be replayed"), "{dry:?}");
    assert!(
        dry.err.contains("note: 1 letter with a truncated or erased payload also match, and are left out"),
        "{dry:?}"
    );
    assert_eq!(store.run("count --app {app} --truncated true").lines()[0][0], "1");
    let refused = own(&store, "replay --app {app} --truncated true --yes");
    assert!(refused.code == 2 && refused.err.contains("--truncated true"), "{refused:?}");
    assert_eq!(own(&store, "replay --app {app} --all --yes").out, "1\n");
    let one = own(&store, &format!("replay {} --app {{app}}", truncated.id));
    assert!(one.code == 1 && one.err.contains("its payload is truncated"), "{one:?}");
    assert_eq!(store.unresolved().await, 1);
}

async fn a_staged_replay_stops_where_events_fail_again(store: Store) {
    let letters: Vec<_> =
        (0..150).map(|n| stored_letter(store.app, Utc::now() - TimeDelta::minutes(200 - n))).collect();
    store.repo.import(&letters).await.unwrap();
    let line = "replay --app {app} --all --yes --staged --wait 0s";
    let done = own(&store, line);
    assert_eq!((done.code, &*done.out), (0, "150\n"), "{done:?}");
    for step in ["replayed 1;", "replayed 11;", "replayed 111;"] {
        assert!(done.err.contains(step), "{done:?}");
    }

    let letters: Vec<_> =
        (0..50).map(|n| stored_letter(store.app, Utc::now() - TimeDelta::minutes(200 - n))).collect();
    store.repo.import(&letters).await.unwrap();
    let mut program = own_program(&store, "replay --app {app} --all --yes --staged --wait 3s");
    let mut program = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(program.stderr.take().unwrap());
    let mut said = said.lines().map(Result::unwrap);
    said.by_ref().find(|line| line.contains("waiting for events that fail again")).unwrap();
    // The first replayed event fails again.
    let again = NewDeadLetter { original_event_id: letters[0].original_event_id, ..letter(store.app) };
    store.repo.insert(again).await.unwrap();
    let rest: Vec<_> = said.collect();
    assert!(rest.iter().any(|line| line.contains("1 replayed event failed again")), "{rest:?}");
    let ran = Ran::from(program.wait_with_output().unwrap());
    assert_eq!((ran.code, &*ran.out), (4, "1\n"), "{ran:?}");
}

async fn a_staged_replay_of_all_apps_stops_where_the_last_event_of_an_app_fails_again(store: Store) {
    let letters = store.import(1, 2).await;
    // The apps follow each other by their ids.
    let last = (0..20).map(|_| stored_letter(Uuid::max().into(), Utc::now() - TimeDelta::days(1)));
    store.repo.import(&last.collect::<Vec<_>>()).await.unwrap();
    let mut program = own_program(&store, "replay --since 3d --yes --staged --wait 3s");
    let mut program = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(program.stderr.take().unwrap());
    let mut said = said.lines().map(Result::unwrap);
    said.by_ref().find(|line| line.contains("replayed 1; waiting")).unwrap();
    let again = NewDeadLetter { original_event_id: letters[0].original_event_id, ..letter(store.app) };
    store.repo.insert(again).await.unwrap();
    let rest: Vec<_> = said.collect();
    assert!(rest.iter().any(|line| line.contains("1 replayed event failed again")), "{rest:?}");
    let ran = Ran::from(program.wait_with_output().unwrap());
    assert_eq!((ran.code, &*ran.out), (4, "1\n"), "{ran:?}");
}

async fn a_replay_at_a_rate_is_stopped_between_two_batches(store: Store) {
    let ids: Vec<_> = store.import(300, 2).await.iter().map(|letter| letter.id.to_string()).collect();
    for which in ["--all --yes", &ids[..100].join(" ")] {
        let before = store.unresolved().await;
        let mut program = own_program(&store, &format!("replay --app {{app}} --rate 1/s {which}"));
        let program = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while store.unresolved().await > before - 2 {}
        signal(&program, "INT");
        let ran = Ran::from(program.wait_with_output().unwrap());
        let done: i64 = ran.out.trim().parse().unwrap();
        // Without a rate all of them would be done by now: a batch takes 100 letters.
        assert!(ran.code == 4 && (2..100).contains(&done), "{ran:?}");
        assert_eq!(store.unresolved().await, before - done);
        let said = "the replay takes at most 1/s and ends at about";
        assert_eq!(ran.err.contains(said), which.starts_with("--all"), "{ran:?}");
    }
    let done = own(&store, "replay --app {app} --all --yes --rate 1000/s --staged --wait 0s");
    assert_eq!((done.code, store.unresolved().await), (0, 0), "{done:?}");
    for step in ["replayed 1;", "replayed 11;", "replayed 111;"] {
        assert!(done.err.contains(step), "{done:?}");
    }
}

async fn a_bound_in_the_past_reopens_what_it_matches(store: Store) {
    let letters = store.import(2, 2).await;
    store.letter("orders", "a").await;
    assert_eq!(store.run("resolve --app {app} --all --yes").lines(), [["3"]]);
    assert_eq!(store.run("reopen --app {app} --until 1d --yes").lines(), [["2"]]);
    for letter in letters {
        assert_eq!(store.repo.get(letter.id).await.unwrap().unwrap().resolved_at, None);
    }
    assert_eq!(store.unresolved().await, 2);
}

async fn a_bound_in_the_past_does_not_stop_a_staged_replay(store: Store) {
    // An event that was replayed, failed again and was replayed once more, all before this run.
    let event = Uuid::new_v4();
    for _ in 0..2 {
        store.repo.insert(NewDeadLetter { original_event_id: event, ..letter(store.app) }).await.unwrap();
    }
    assert_eq!(own(&store, "replay --app {app} --all --yes").out, "2\n");
    store.import(15, 2).await;
    let done = own(&store, "replay --app {app} --until 1d --yes --staged --wait 0s");
    assert_eq!((done.code, &*done.out), (0, "15\n"), "{done:?}");
}

async fn beside_ids_an_option_that_narrows_is_refused(store: Store) {
    let id = store.letter("orders", "a").await;
    let other = store.letter("orders", "b").await;
    for option in [
        "--state open",
        &format!("--ids {other}"),
        "--resolution handler_failed",
        "--source parcels",
        "--op delete",
        &format!("--trigger-id {other}"),
        &format!("--script-id {other}"),
        &format!("--original-event-id {other}"),
        "--error-contains x",
        "--error-signature x",
        "--truncated false",
        &format!("--failed-again-in-run {other}"),
        "--since 1h",
        "--until 1h",
    ] {
        let name = option.split(' ').next().unwrap();
        for command in ["resolve", "reopen", "replay"] {
            store.run(&format!("{command} {id} --app {{app}} {option}")).fails(2, name);
        }
    }
    for command in ["resolve", "reopen", "replay"] {
        store.run(&format!("{command} --app {{app}} --all --scan-limit 2 --yes")).fails(2, "--scan-limit");
    }
    store.run(&format!("replay {id} --app {{app}} --wait 1s")).fails(2, "--wait");
    assert_eq!(store.unresolved().await, 2);
}

async fn a_resolution_implies_the_state_of_the_letters(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    store.letter("orders", "c").await;
    store.repo.resolve(ids[0], "ignored").await.unwrap();
    store.repo.resolve(ids[1], "handler_failed").await.unwrap();
    for (resolution, id) in [("ignored", ids[0]), ("handler_failed", ids[1])] {
        let ran = store.run(&format!("list --app {{app}} --resolution {resolution}"));
        assert_eq!((ran.lines().len(), ran.lines()[0][0]), (1, &*id.to_string()));
    }
    let closed = "resolve --app {app} --resolution ignored --yes";
    store.run(closed).fails(2, "--resolution ignored: these letters are closed already");
    assert_eq!(store.run("resolve --app {app} --resolution handler_failed --yes").lines(), [["1"]]);
    assert_eq!(store.unresolved().await, 1);
}

async fn replays_of_others_do_not_stop_a_staged_replay(store: Store) {
    store.import(15, 2).await;
    let line = "replay --app {app} --until 1d --yes --staged --wait 2s";
    let mut program = own_program(&store, line);
    let mut program = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(program.stderr.take().unwrap()).lines().map(Result::unwrap);
    said.by_ref().find(|line| line.contains("waiting for events that fail again")).unwrap();
    // Another event is replayed by somebody else, and fails again.
    let event = Uuid::new_v4();
    for _ in 0..2 {
        let other = NewDeadLetter { original_event_id: event, ..letter(store.app) };
        let id = store.repo.insert(other).await.unwrap();
        store.repo.resolve_once(store.app, id, Resolution::Replayed, &Attribution::default()).await.unwrap();
    }
    let rest: Vec<_> = said.collect();
    let ran = Ran::from(program.wait_with_output().unwrap());
    assert_eq!((ran.code, &*ran.out), (0, "15\n"), "{rest:?}");
}

async fn a_bound_in_the_future_takes_what_is_ahead_of_the_clock(store: Store) {
    let ahead = stored_letter(store.app, Utc::now() + TimeDelta::hours(1));
    store.repo.import(std::slice::from_ref(&ahead)).await.unwrap();
    let line = "resolve --app {app} --all";
    let dry = store.run(&format!("{line} --dry-run"));
    assert!(dry.err.contains("0 letters would be"), "{dry:?}");
    assert!(
        dry.err
            .contains("note: 1 letter also match but are ahead of the database's clock, and are not changed"),
        "{dry:?}"
    );
    let ran = store.run(&format!("{line} --yes"));
    assert_eq!((ran.code, &*ran.out), (0, "0\n"), "{ran:?}");
    assert_eq!(store.run(&format!("{line} --until 2999-01-01 --yes")).lines(), [["1"]]);
}

/// A letter whose transaction began before the count, and committed after it.
#[tokio::test]
async fn a_bulk_run_takes_no_more_letters_than_it_counted() {
    let store = Store::postgres().await;
    store.import(1_001, 1).await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                    'BEGIN PERFORM pg_advisory_lock_shared(1); PERFORM pg_advisory_unlock_shared(1); RETURN NULL; END';
                CREATE TRIGGER slow AFTER UPDATE ON dead_letters EXECUTE FUNCTION slow()";
    store.repo.pool().execute_unprepared(slow).await.unwrap();
    let holder = store.repo.pool().begin().await.unwrap();
    holder.execute_unprepared("SELECT pg_advisory_xact_lock(1)").await.unwrap();
    let program = store.start("resolve --app {app} --all --yes");
    while !waits_for_a_lock(&holder).await {}
    store.import(1, 3).await;
    holder.commit().await.unwrap();
    let ran = Ran::from(program.wait_with_output().unwrap());
    assert_eq!((ran.code, &*ran.out), (0, "1001\n"), "{ran:?}");
    assert_eq!(store.unresolved().await, 1);
}
