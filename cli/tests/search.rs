//! Tests of `--payload-contains`.

use std::path::Path;

use chrono::{TimeDelta, Utc};
use dead_letters::{
    AppId, DeadLetterId, DeadLetterRepo, DeadLetterTransfer, NewDeadLetter, StoredLetter,
    testing::{letter, stored_letter},
};
use uuid::Uuid;

use crate::{
    resolve::own,
    support::{PROGRAM, Ran, Store},
};

on_every_backend! {
    letters_of_all_apps_are_found_by_a_part_of_their_payload,
    the_ids_that_a_search_prints_are_replayed,
    a_search_goes_on_where_large_payloads_end_a_call,
    a_search_examines_no_more_letters_than_the_scan_limit,
    the_text_of_a_search_is_in_no_message,
    a_command_changes_just_the_letters_that_a_search_finds,
    a_search_and_a_change_of_more_letters_than_a_call_takes_reach_all_of_them,
    a_dry_run_of_a_search_lists_its_letters_and_changes_nothing,
    a_replay_by_search_counts_the_letters_that_it_leaves_out,
    replayed_letters_that_a_search_finds_are_not_reopened_unasked,
    the_groups_of_a_search_count_only_the_letters_that_it_finds,
}

impl Store {
    async fn with_payload(&self, app: AppId, text: &str) -> DeadLetterId {
        let payload_text = Some(text.to_owned());
        self.repo.insert(NewDeadLetter { payload_text, script_id: None, ..letter(app) }).await.unwrap()
    }
}

fn ids(ran: &Ran) -> Vec<String> {
    ran.out.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

async fn letters_of_all_apps_are_found_by_a_part_of_their_payload(store: Store) {
    let other = AppId::from(Uuid::new_v4());
    let first = store.with_payload(store.app, "order-4711").await.to_string();
    store.with_payload(store.app, "order-4712").await;
    let second = store.with_payload(other, "order-4711").await.to_string();
    let all = store.run("list --payload-contains 4711");
    assert_eq!(all.lines().iter().map(|line| line[0]).collect::<Vec<_>>(), [&second, &first]);
    assert_eq!(ids(&store.run("list --app {app} --payload-contains 4711")), [&*first]);
    assert_eq!(ids(&store.run("list --payload-contains 4711 --source none")), [] as [&str; 0]);
    let one = store.run("list --payload-contains 4711 --size 1");
    assert_eq!(ids(&one), [&*second]);
    let (_, next) = one.err.split_once("--after ").unwrap();
    let rest = store.run(&format!("list --payload-contains 4711 --size 1 --after {}", next.trim()));
    assert_eq!((ids(&rest), &*rest.err), (vec![first], ""));
    store.run("count --payload-contains 4711").fails(2, "unexpected argument '--payload-contains'");
}

async fn the_ids_that_a_search_prints_are_replayed(store: Store) {
    for text in ["order-4711", "order-4712", "again 4711"] {
        store.with_payload(store.app, text).await;
    }
    let own = Path::new(PROGRAM).with_file_name("examples").join("own");
    let replay = format!("{{run}} list -q --payload-contains 4711 | {} replay -", own.display());
    let ran = store.shell(&replay);
    assert_eq!((ran.code, ran.err.matches("back: ").count()), (0, 2), "{ran:?}");
    assert_eq!(store.unresolved().await, 1);
    assert_eq!(ids(&store.run("list --payload-contains 4711")), [] as [&str; 0]);
}

async fn a_search_goes_on_where_large_payloads_end_a_call(store: Store) {
    let mut expected = Vec::new();
    for number in 0..3 {
        let text = format!("needle {number} {}", "x".repeat(40 << 20));
        expected.insert(0, store.with_payload(store.app, &text).await.to_string());
    }
    for line in ["list --payload-contains needle", "list --app {app} --payload-contains needle"] {
        let ran = store.run(line);
        assert_eq!((ids(&ran), &*ran.err), (expected.clone(), ""));
    }
    let two = store.run("list --payload-contains needle --size 2");
    assert_eq!(ids(&two), expected[..2]);
    let (_, next) = two.err.split_once("--after ").unwrap();
    let rest = store.run(&format!("list --payload-contains needle --after {}", next.trim()));
    assert_eq!(ids(&rest), expected[2..]);
}

async fn a_search_examines_no_more_letters_than_the_scan_limit(store: Store) {
    let older = store.with_payload(store.app, "needle").await.to_string();
    let newer = store.with_payload(store.app, "hay").await.to_string();
    let ran = store.run("list --app {app} --payload-contains needle --scan-limit 1");
    assert_eq!((ran.code, &*ran.out), (0, ""), "{ran:?}");
    assert!(ran.err.contains("raise --scan-limit to examine older letters"), "{ran:?}");
    let (_, next) = ran.err.split_once("--after ").unwrap();
    let rest = store.run(&format!("list --app {{app}} --payload-contains needle --after {}", next.trim()));
    assert_eq!(ids(&rest), [older]);
    assert_eq!(ids(&store.run("list --payload-contains hay --scan-limit 1")), [newer]);
}

async fn the_text_of_a_search_is_in_no_message(store: Store) {
    let long = "needle".repeat(200);
    let too_long = "--payload-contains must have 1 to 1,000 bytes (got 1,200)";
    for (line, message) in [
        (format!("list --app {{app}} --payload-contains {long}"), too_long),
        ("list --app {app} --payload-contains ".to_owned(), "must have 1 to 1,000 bytes (got 0)"),
        ("list --app {app} --payload-contains needle --after x".to_owned(), "--after"),
        ("list --app {app} --payload-contains needle --size 0".to_owned(), "--size"),
        (format!("groups --app {{app}} --payload-contains {long}"), too_long),
        (format!("resolve --app {{app}} --payload-contains {long} --yes"), too_long),
        ("resolve --payload-contains needle".to_owned(), "--yes skips the question"),
        ("resolve e59badc8 --payload-contains needle --yes".to_owned(), "cannot be used with"),
        ("groups --new-since 24h --payload-contains needle".to_owned(), "cannot be used with"),
    ] {
        let ran = Ran::from(store.command(&line).env("RUST_LOG", "trace").output().unwrap());
        ran.fails(2, message);
        assert!(!ran.err.contains("needle"), "{ran:?}");
    }
    let url = match store.url.strip_prefix("sqlite:") {
        Some(_) => "sqlite:///nowhere/service.sqlite".to_owned(),
        None => format!("{}x", store.url),
    };
    let mut command = store.command("list --app {app} --payload-contains needle");
    let ran = Ran::from(command.env("DATABASE_URL", url).env("RUST_LOG", "trace").output().unwrap());
    assert!(ran.code != 0 && !ran.err.is_empty() && !ran.err.contains("needle"), "{ran:?}");
}

async fn a_command_changes_just_the_letters_that_a_search_finds(store: Store) {
    let other = AppId::from(Uuid::new_v4());
    let needles = [
        store.with_payload(store.app, "needle-1").await,
        store.with_payload(other, "needle-2").await,
        store.with_payload(store.app, "needle-3").await,
    ];
    store.with_payload(store.app, "hay").await;
    let lists = async |state: &str, expected: &[DeadLetterId]| {
        let mut listed = ids(&store.run(&format!("list --state {state}")));
        listed.sort();
        let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        expected.sort();
        assert_eq!(listed, expected, "{state}");
    };
    let ran = store.run("resolve --payload-contains needle --yes --note known");
    assert!(ran.code == 0 && ran.out.starts_with('3'), "{ran:?}");
    lists("closed", &needles).await;
    let history = store.run("history");
    assert!(!history.out.contains("needle") && history.out.contains("known"), "{history:?}");

    let ran = store.run("reopen --app {app} --payload-contains needle --yes");
    assert!(ran.code == 0 && ran.out.starts_with('2'), "{ran:?}");
    lists("closed", &needles[1..2]).await;
    let ran = store.run("delete --state any --payload-contains needle-2 --yes");
    assert!(ran.code == 0 && ran.out.starts_with('1'), "{ran:?}");
    lists("closed", &[]).await;
    let ran = own(&store, "replay --payload-contains needle --source orders --yes");
    assert!(ran.code == 0 && ran.out.starts_with('2'), "{ran:?}");
    assert_eq!(ran.err.matches("back: ").count(), 2, "{ran:?}");
    lists("closed", &[needles[0], needles[2]]).await;
    assert_eq!(store.run("resolve --payload-contains needle --yes").out, "0\n");
    assert_eq!(store.unresolved().await, 1);
}

async fn a_search_and_a_change_of_more_letters_than_a_call_takes_reach_all_of_them(store: Store) {
    let with = |text: &str| NewDeadLetter { payload_text: Some(text.to_owned()), ..letter(store.app) };
    store.repo.insert_many(vec![with("needle"); 1_201]).await.unwrap();
    store.repo.insert_many(vec![with("hay"); 3]).await.unwrap();
    let ran = store.run("resolve --payload-contains needle --yes");
    assert_eq!((ran.code, &*ran.out), (0, "1201\n"), "{ran:?}");
    assert_eq!(store.unresolved().await, 3);
    let run_id = ran.err.split_whitespace().find(|word| word.trim_end_matches('`').parse::<Uuid>().is_ok());
    let run_id = run_id.unwrap().trim_end_matches('`');
    assert_eq!(store.run(&format!("reopen --run {run_id} --yes")).out, "1201\n");
}

async fn a_dry_run_of_a_search_lists_its_letters_and_changes_nothing(store: Store) {
    let needle = store.with_payload(store.app, "needle").await.to_string();
    store.with_payload(store.app, "hay").await;
    let ran = store.run("resolve --payload-contains needle --dry-run");
    assert_eq!((ran.code, ids(&ran)), (0, vec![needle]));
    assert!(ran.err.contains("note: 1 letter would be resolved as ignored"), "{ran:?}");
    assert_eq!(store.unresolved().await, 2);
}

async fn a_replay_by_search_counts_the_letters_that_it_leaves_out(store: Store) {
    store.with_payload(store.app, "needle").await;
    let cut = |text: &str| StoredLetter {
        payload: text.to_owned(),
        payload_kind: Some("truncated".to_owned()),
        ..stored_letter(store.app, Utc::now())
    };
    store.repo.import(&[cut("needle and"), cut("hay and")]).await.unwrap();
    let ran = own(&store, "replay --payload-contains needle --yes");
    assert_eq!((ran.code, &*ran.out), (0, "1\n"), "{ran:?}");
    assert!(ran.err.contains("note: 1 letter with a truncated or erased payload also match"), "{ran:?}");
}

async fn replayed_letters_that_a_search_finds_are_not_reopened_unasked(store: Store) {
    for text in ["needle", "hay"] {
        store.with_payload(store.app, text).await;
    }
    own(&store, "replay --all --yes");
    let ran = store.run("reopen --payload-contains needle --yes");
    ran.fails(2, "1 of these letters were replayed");
    let ran = store.run("reopen --payload-contains needle --include-replayed --yes");
    assert_eq!((ran.code, &*ran.out), (0, "1\n"), "{ran:?}");
    assert_eq!(store.unresolved().await, 1);
}

async fn the_groups_of_a_search_count_only_the_letters_that_it_finds(store: Store) {
    for text in ["needle-1", "hay", "needle-2"] {
        store.with_payload(store.app, text).await;
    }
    let counts = |ran: &Ran| ran.lines().iter().map(|line| line[0].to_owned()).collect::<Vec<_>>();
    assert_eq!(counts(&store.run("groups")), ["3"]);
    assert_eq!(counts(&store.run("groups --payload-contains needle")), ["2"]);
    assert_eq!(counts(&store.run("groups --payload-contains needle-2 --source orders")), ["1"]);
    // Failed a second before, in the same group.
    let older = StoredLetter {
        payload: "needle-0".to_owned(),
        payload_kind: Some("text".to_owned()),
        script_id: None,
        ..stored_letter(store.app, Utc::now() - TimeDelta::seconds(1))
    };
    store.repo.import(&[older]).await.unwrap();
    let early = store.run("groups --payload-contains needle --scan-limit 3");
    assert!(early.out.starts_with("2\t"), "{early:?}");
    let (_, until) = early.err.split_once("--until ").unwrap();
    let rest = store.run(&format!("groups --payload-contains needle --until {}", until.trim()));
    assert_eq!((counts(&rest), &*rest.err), (vec!["1".to_owned()], ""));
    for text in ["needle-2", "needle"] {
        assert_eq!(store.run(&format!("resolve --payload-contains {text} --yes")).code, 0);
    }
    let closed = "groups --state closed --payload-contains needle";
    let early = store.run(&format!("{closed} --scan-limit 2"));
    assert!(early.out.starts_with("2\t"), "{early:?}");
    let (_, until) = early.err.split_once("--resolved-until ").unwrap();
    let rest = store.run(&format!("{closed} --resolved-until {}", until.trim()));
    assert_eq!((counts(&rest), &*rest.err), (vec!["1".to_owned()], ""));
}
