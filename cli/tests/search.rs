//! Tests of `list --payload-contains`.

use std::path::Path;

use dead_letters::{AppId, DeadLetterId, DeadLetterRepo, NewDeadLetter, testing::letter};
use uuid::Uuid;

use crate::support::{PROGRAM, Ran, Store};

on_every_backend! {
    letters_of_all_apps_are_found_by_a_part_of_their_payload,
    the_ids_that_a_search_prints_are_replayed,
    a_search_goes_on_where_large_payloads_end_a_call,
    a_search_examines_no_more_letters_than_the_scan_limit,
    the_text_of_a_search_is_in_no_message,
}

impl Store {
    async fn with_payload(&self, app: AppId, text: &str) -> DeadLetterId {
        let payload_text = Some(text.to_owned());
        self.repo.insert(NewDeadLetter { payload_text, ..letter(app) }).await.unwrap()
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
    let too_long = format!("--payload-contains must have 1 to 1000 bytes (got {})", long.len());
    for (line, message) in [
        (format!("list --app {{app}} --payload-contains {long}"), &*too_long),
        ("list --app {app} --payload-contains ".to_owned(), "must have 1 to 1000 bytes (got 0)"),
        ("list --app {app} --payload-contains needle --after x".to_owned(), "--after"),
        ("list --app {app} --payload-contains needle --size 0".to_owned(), "--size"),
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
