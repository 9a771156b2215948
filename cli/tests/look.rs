//! Tests of the commands that show letters.

use chrono::{DateTime, Utc};
use console::measure_text_width;
use dead_letters::{
    AppId, Attribution, BacklogRequest, DeadLetterFilter, DeadLetterRead, DeadLetterRepo, DeadLetterResolve,
    DeadLetterState, DeadLetterTransfer, GroupRequest, NewDeadLetter, NewGroupRequest, PageRequest,
    Resolution, StoredLetter,
    testing::{letter, stored_letter},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Ran, Store};

on_every_backend! {
    apps_are_listed_with_what_is_open,
    a_letter_is_one_line_of_a_terminal_and_whole_for_programs,
    a_list_continues_after_its_last_letter,
    a_filter_takes_what_the_apis_takes,
    letters_are_found_by_their_metadata_and_show_it,
    none_is_the_letters_without_a_script_or_without_a_trigger,
    a_letter_is_shown_and_its_payload_only_where_asked,
    groups_count_and_timeline_are_those_of_the_store,
    groups_that_are_new_or_regressed_are_found_in_all_apps_or_in_one,
    no_line_of_a_table_is_wider_than_the_terminal,
    json_is_what_the_library_serializes,
    the_history_is_that_of_an_app_a_letter_or_a_run,
    json_stays_as_it_is,
    stored_texts_do_not_steer_the_terminal,
    a_listing_of_the_last_hours_continues_on_its_next_page,
    the_command_of_a_page_finds_an_empty_source,
    a_time_that_utc_printed_is_read_back_as_it_was,
    the_history_outlives_its_letters,
    a_wide_list_has_the_age_and_marks_an_error_that_is_cut,
    a_letter_that_is_shown_names_its_group,
    the_bounds_of_a_time_are_in_order_and_a_limit_names_its_option,
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
    assert_eq!(store.run("apps --sharded").out, store.run("apps").out);
    let behind = store.run("apps --after {app} --output json").json();
    assert_eq!(behind["items"][0]["app_id"], json!(Uuid::max()));
    assert_eq!(behind["next"], Value::Null);
}

async fn a_letter_is_one_line_of_a_terminal_and_whole_for_programs(store: Store) {
    let id = store
        .letter("orders", "\u{1b}[31mHTTP 503 from https://crm.example.com/v2/contacts\tand so on\nat x")
        .await;
    let ran = store.run("list --app {app}");
    let [line] = &ran.lines()[..] else { panic!("{ran:?}") };
    let error = "\u{1b}[31mHTTP 503 from https://crm.example.com/v2/contacts and so on";
    let app = store.app.to_string();
    assert_eq!((line[0], line[2], line[3], line[5]), (&*id.to_string(), "unresolved", "orders", error));
    assert_eq!(line[6], app);
    assert!(line[1].parse::<chrono::DateTime<chrono::Utc>>().is_ok(), "{line:?}");
    let short = &id.to_string()[28..];
    for width in [60, 80, 120] {
        let shown = store.on_terminal(width, "list");
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines.len(), 2, "{shown}");
        assert!(lines.iter().all(|line| measure_text_width(line) <= width.into()), "{shown}");
        assert!(lines[0].starts_with("ID        APP       WHEN"), "{shown}");
        assert!(lines[1].starts_with(&format!("{short}  {}  ", &app[..8])), "{shown}");
        assert!(lines[1].contains("  orders/insert  ") && !shown.contains('\u{1b}'), "{shown}");
        assert_eq!(shown.contains("and so on"), width == 120, "{shown}");
    }
    // In a pipe the table is not cut, and a wide one has whole ids.
    let piped = store.run("list --app {app} --output table");
    assert!(piped.out.contains(&format!("\n{short}  ")) && piped.out.contains("and so on\n"), "{piped:?}");
    for wide in [store.run("list --output table --wide").out, store.on_terminal(60, "list --wide")] {
        assert!(
            wide.contains(&id.to_string()) && wide.contains(&app) && wide.contains("and so on"),
            "{wide}"
        );
    }
    let shown = store.on_terminal(200, "list --utc --app {app}");
    let created = store.repo.get(id).await.unwrap().unwrap().created_at;
    assert!(shown.contains(&created.format("%Y-%m-%d %H:%M:%SZ").to_string()), "{shown}");
    let earlier = stored_letter(store.app, chrono::Utc::now() - chrono::TimeDelta::hours(3));
    store.repo.import(&[earlier]).await.unwrap();
    assert!(store.on_terminal(80, "list --app {app}").contains("    3h  "));
}

async fn a_list_continues_after_its_last_letter(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    let first = store.run("list --app {app} --size 1");
    assert!(first.out.starts_with(&ids[1].to_string()), "{first:?}");
    let (_, next) = first.err.split_once("--after ").unwrap();
    let second = store.run(&format!("list --app {{app}} --size 1 --after {}", next.trim()));
    assert_eq!(second.lines()[0][0], ids[0].to_string());
    let other = store.run(&format!("list --app {{app}} --source orders --after {}", next.trim()));
    other.fails(2, "the cursor is damaged, or belongs to another app, filter or order");
}

async fn a_filter_takes_what_the_apis_takes(store: Store) {
    let orders = store.letter("orders", "timed out after 30 s").await;
    let parcels = store.letter("parcels", "smtp: 451").await;
    let closed = store.letter("orders", "smtp: 451").await;
    store.repo.resolve_once(store.app, closed, Resolution::Ignored, &Attribution::by("ada")).await.unwrap();
    let row = store.repo.get(orders).await.unwrap().unwrap();
    let found = |options: &str| -> Vec<String> {
        let ran = store.run(&format!("list --app {{app}} {options}"));
        ran.lines().iter().map(|line| line[0].to_owned()).collect()
    };
    let [orders, parcels, closed] = [orders, parcels, closed].map(|id| id.to_string());
    for (options, expected) in [
        ("--state any".to_owned(), vec![&closed, &parcels, &orders]),
        ("--state closed --resolution ignored".to_owned(), vec![&closed]),
        (format!("--ids {orders},{parcels}"), vec![&parcels, &orders]),
        ("--source parcels --op insert".to_owned(), vec![&parcels]),
        (format!("--trigger-id {}", row.trigger_id.unwrap()), vec![&orders]),
        (format!("--script-id {}", Uuid::nil()), vec![&parcels, &orders]),
        (format!("--original-event-id {}", row.original_event_id), vec![&orders]),
        ("--error-contains smtp".to_owned(), vec![&parcels]),
        ("--since 1h".to_owned(), vec![&parcels, &orders]),
        ("--until 1h".to_owned(), vec![]),
        ("--since 2000-01-01T00:00:00Z --scan-limit 2".to_owned(), vec![&parcels, &orders]),
    ] {
        assert_eq!(found(&options).iter().collect::<Vec<_>>(), expected, "{options}");
    }
}

async fn letters_are_found_by_their_metadata_and_show_it(store: Store) {
    let metadata = json!({ "tenant": "acme", "a=b": "c=d", "n": 1 });
    let new = NewDeadLetter { metadata: metadata.as_object().unwrap().clone(), ..letter(store.app) };
    let id = store.repo.insert(new).await.unwrap();
    store.letter("orders", "smtp: 451").await;
    let found = |options: &str| store.run(&format!("list --app {{app}} {options}")).lines().len();
    for (options, count) in [
        ("--metadata tenant=acme", 1),
        ("--metadata tenant=acme --metadata tenants=acme", 0),
        ("--metadata tenant=", 0),
        ("--metadata \"a=b\"=c=d", 1),
        ("--metadata a=b=c=d", 0),
        ("--metadata n=1", 0),
    ] {
        assert_eq!(found(options), count, "{options}");
    }
    let resolved = store.run("resolve --app {app} --metadata tenant=acme --yes");
    assert_eq!((resolved.code, &*resolved.out), (0, "1\n"), "{resolved:?}");
    let shown = store.run(&format!("show {id} --app {{app}}"));
    assert!(shown.out.contains("\"tenant\": \"acme\""), "{shown:?}");
    let json = store.run(&format!("show {id} --app {{app}} --output json")).json();
    assert_eq!(json["metadata"], metadata);
    let other = store.letter("orders", "smtp: 451").await;
    assert!(!store.run(&format!("show {other} --app {{app}}")).out.contains("metadata"));
}

async fn none_is_the_letters_without_a_script_or_without_a_trigger(store: Store) {
    let both = store.letter("orders", "smtp: 451").await;
    let no_script = NewDeadLetter { script_id: None, ..letter(store.app) };
    let no_script = store.repo.insert(no_script).await.unwrap();
    let no_trigger = NewDeadLetter { trigger_id: None, ..letter(store.app) };
    let no_trigger = store.repo.insert(no_trigger).await.unwrap();
    for (option, id) in [("--script-id none", no_script), ("--trigger-id none", no_trigger)] {
        assert_eq!(store.run(&format!("list --app {{app}} {option}")).lines()[0][0], id.to_string());
        let resolved = store.run(&format!("resolve --app {{app}} {option} --yes"));
        assert_eq!(resolved.lines(), [["1"]], "{option}");
        assert!(store.repo.get(id).await.unwrap().unwrap().resolved_at.is_some());
    }
    assert_eq!(store.repo.get(both).await.unwrap().unwrap().resolved_at, None);
}

async fn a_letter_is_shown_and_its_payload_only_where_asked(store: Store) {
    let id = store.letter("orders", "first line\nsecond line").await;
    let shown = store.run(&format!("show {id} --app {{app}} --output table"));
    assert!(shown.out.contains("first line\nsecond line\n") && !shown.out.contains("4711"), "{shown:?}");
    // A line for each fact.
    let lines = store.run(&format!("show {id} --app {{app}}"));
    assert!(lines.lines().contains(&vec!["error", "first line second line"]), "{lines:?}");
    let whole = store.run(&format!("show {id} --app {{app}} --payload"));
    let payload = store.repo.payload_text(store.app, id, 0..u64::MAX).await.unwrap().unwrap();
    assert!(whole.out.contains(&payload), "{whole:?}");
    let json = store.run(&format!("show {id} --app {{app}} --output json")).json();
    assert_eq!((&json["id"], &json["last_error"]), (&json!(id), &json!("first line\nsecond line")));
    assert!(json.get("payload").is_none());
    let json = store.run(&format!("show {id} --app {{app}} --payload --output jsonl")).json();
    assert_eq!(json["payload"], json!(payload));
    assert_eq!(json["payload_kind"], json!("json"));
    assert!(whole.out.contains("payload kind\tJSON\n"), "{whole:?}");
    let alone = store.run(&format!("show {id} --payload-only"));
    assert_eq!((alone.code, &*alone.out), (0, &*format!("{payload}\n")), "{alone:?}");
    let broken = NewDeadLetter { payload_text: Some("<order/>".to_owned()), ..letter(store.app) };
    let broken = store.repo.insert(broken).await.unwrap();
    let shown = store.run(&format!("show {broken} --app {{app}} --payload"));
    assert!(shown.out.contains("text, not JSON") && shown.out.contains("<order/>"), "{shown:?}");
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
    assert_eq!((lines[0][0], lines[0][2], lines[0][5]), ("3", "orders", "order # timed out"));
    assert_eq!((lines[1][0], lines[1][6]), ("1", "smtp: 451"));
    assert_eq!(lines[0][6], "order 2 timed out");
    let of_group = format!("--app {{app}} --group {}", lines[0][4]);
    assert_eq!(store.run(&format!("list {of_group}")).lines().len(), 3);
    assert_eq!(store.run(&format!("count {of_group}")).lines(), [["3"]]);
    assert_eq!(store.run("count --app {app}").lines(), [["4"]]);
    assert_eq!(store.run("count --app {app} --cap 2").lines(), [["2+"]]);
    let part = store.run("count --app {app} --scan-limit 2");
    assert!(part.out == "2\n" && part.err.contains("--scan-limit"), "{part:?}");
    let ran = store.run("timeline --app {app} --since 1h --until 2999-01-01T00:00:00Z --buckets 1");
    assert_eq!(ran.lines()[0][2], "4");
    store.run("timeline --app {app} --since now --until 1h").fails(2, "--since must not be after --until");
}

async fn groups_that_are_new_or_regressed_are_found_in_all_apps_or_in_one(store: Store) {
    let id = store.letter("parcels", "smtp: 451").await;
    store.repo.resolve_once(store.app, id, Resolution::Ignored, &Attribution::default()).await.unwrap();
    assert_eq!(store.run("groups --new-since 24h").lines()[0][0], "new");
    store.letter("parcels", "smtp: 451").await;
    store.letter("orders", "order 1 timed out").await;
    let other = AppId::from(Uuid::new_v4());
    store.repo.insert(letter(other)).await.unwrap();
    let ran = store.run("groups --new-since 24h");
    let lines = ran.lines();
    let shown: Vec<_> = lines.iter().map(|line| (line[0], line[1], line[4])).collect();
    assert_eq!(shown, [("new", "1", "orders"), ("new", "1", "orders"), ("regressed", "2", "parcels")]);
    // On SQLite both may have failed in one millisecond.
    let of_orders = [lines[0][3], lines[1][3]];
    assert!([other, store.app].iter().all(|app| of_orders.contains(&&*app.to_string())), "{of_orders:?}");
    assert_eq!(store.run(&format!("groups --new-since 24h --app {other}")).lines().len(), 1);
    let part = store.run("groups --new-since 24h --scan-limit 1");
    assert!(part.out.starts_with("unknown\t") && part.err.contains("--scan-limit"), "{part:?}");
    let request = NewGroupRequest::since(DateTime::UNIX_EPOCH);
    let all = store.repo.new_error_groups(&request).await.unwrap();
    assert_eq!(store.run("groups --new-since 1970-01-01T00:00:00Z --output json").json(), json!(all));
}

async fn json_is_what_the_library_serializes(store: Store) {
    for n in 0..3 {
        store.letter("orders", &format!("order {n} timed out")).await;
    }
    let (app, any) = (store.app, DeadLetterFilter::default().state(DeadLetterState::Any));
    let page = store.repo.list(app, &any, &PageRequest::default()).await.unwrap();
    assert_eq!(store.run("list --app {app} --state any --output json").json(), json!(page));
    let lines = store.run("list --app {app} --state any --output jsonl").out;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(json!(lines), json!(page.items));
    let groups = store.repo.error_groups(app, &any, &GroupRequest::default()).await.unwrap();
    let mut groups = json!(groups);
    groups["groups"][0]["app_id"] = json!(app);
    assert_eq!(store.run("groups --app {app} --state any --output json").json(), groups);
    let backlogs = store.repo.backlogs(&BacklogRequest::default().limit(100).cap(10_000)).await.unwrap();
    assert_eq!(store.run("apps --output json").json(), json!({ "items": backlogs, "next": null }));
    let count = store.run("count --app {app} --output json").json();
    assert_eq!((&count["count"], &count["capped"]), (&json!(3), &json!(false)));
}

async fn no_line_of_a_table_is_wider_than_the_terminal(store: Store) {
    store.letter("orders", "HTTP 503 from https://crm.example.com/v2/contacts").await;
    let id = store.letter("parcels", "小包の配達が失敗しました、後でもう一度お試しください。").await;
    store.repo.resolve(id, "handler_failed").await.unwrap();
    for line in ["list", "groups", "apps", "timeline --buckets 3", "list --state any"] {
        for width in [20, 40, 80] {
            let shown = store.on_terminal(width, line);
            assert!(shown.lines().all(|line| measure_text_width(line) <= width.into()), "{shown}");
        }
    }
    // A state is shown where it says something.
    assert!(store.on_terminal(80, "list").contains("STATE"));
    assert!(!store.on_terminal(80, "list --state unresolved").contains("STATE"));
}

async fn the_history_is_that_of_an_app_a_letter_or_a_run(store: Store) {
    let (id, other) = (store.letter("orders", "smtp: 451").await, store.letter("orders", "smtp: 451").await);
    let (run, by) = (Uuid::now_v7(), Attribution::by("ada").note("sold out"));
    store.repo.resolve_once(store.app, id, Resolution::Ignored, &by).await.unwrap();
    store.repo.reopen(store.app, id, &Attribution::default()).await.unwrap();
    let both = DeadLetterFilter::default().ids([id, other]);
    let of_run = Attribution::by("ben").run_id(run);
    store.repo.resolve_matching(store.app, &both, Resolution::Ignored, &of_run, 10).await.unwrap();

    let (all, id, app) = (store.run("history --app {app}"), id.to_string(), store.app.to_string());
    let lines: Vec<_> = all.lines().into_iter().map(|line| line[1..].to_vec()).collect();
    assert_eq!(
        lines,
        [
            vec!["resolve", "ignored", "2", "ben", "", "ids=2+letters", &app, &run.to_string()],
            vec!["reopen", "", "1", "", "", &id, &app, ""],
            vec!["resolve", "ignored", "1", "ada", "sold out", &id, &app, ""],
        ]
    );
    assert_eq!(store.run(&format!("history {id} --app {{app}}")).out, all.out);
    assert_eq!(store.run(&format!("history {}", &id[28..])).out, all.out);
    assert!(store.run("history --app {app} --output table --wide").out.contains(&run.to_string()));
    let shown = store.run(&format!("show {id}"));
    assert!(shown.out.contains(&format!("run\t{run}\n")), "{shown:?}");
    assert_eq!(store.run(&format!("history {other} --app {{app}}")).lines().len(), 1);
    assert_eq!(store.run(&format!("history --run {run} --app {{app}}")).lines().len(), 1);
    let first = store.run("history --app {app} --limit 1 --output json");
    assert!(first.err.contains("there may be more actions"), "{first:?}");
    let first: Value = serde_json::from_str(&first.out).unwrap();
    let next = first["next"].as_str().unwrap();
    assert_eq!(first["items"][0]["run_id"], json!(run));
    assert_eq!(store.run(&format!("history --app {{app}} --after {next}")).lines().len(), 2);

    // All apps, page by page, and a letter that is gone.
    let elsewhere = stored_letter(Uuid::from_u128(0xe15e).into(), Utc::now());
    store.repo.import(std::slice::from_ref(&elsewhere)).await.unwrap();
    store.run(&format!("resolve {}", elsewhere.id)).lines();
    assert_eq!(store.run("history").lines().len(), 4);
    let (mut seen, mut after) = (Vec::new(), String::new());
    while seen.len() < 4 {
        let page = store.run(&format!("history --limit 1 --output json{after}"));
        let page: Value = serde_json::from_str(&page.out).unwrap();
        seen.push(page["items"][0]["app_id"].clone());
        after = format!(" --after {}", page["items"][0]["id"].as_str().unwrap());
    }
    assert_eq!(seen, [json!(elsewhere.app_id), json!(store.app), json!(store.app), json!(store.app)]);
    store.run(&format!("delete {id} --yes")).lines();
    assert_eq!(store.run(&format!("history {id}")).lines().len(), 3);

    let kept = store.run("sweep --delete-actions-after 1d");
    assert!(kept.err.contains("0 actions were deleted"), "{kept:?}");
    assert_eq!(store.run("history --app {app}").lines().len(), 4);
}

/// Programs read this JSON. A change of it needs a new version of the tool.
async fn json_stays_as_it_is(mut store: Store) {
    let app = Uuid::from_u128(1).into();
    store.app = app;
    let at = |minute: u8| format!("2026-03-01T10:{minute:02}:00.123456Z").parse().unwrap();
    let letters = [0, 1, 2_u8].map(|n| StoredLetter {
        id: Uuid::from_u128(0x019c_0000_0000_7000_8000_0000_0000_0010 + u128::from(n)).into(),
        original_event_id: Uuid::from_u128(0x20 + u128::from(n)),
        trigger_id: (n > 0).then(|| Uuid::from_u128(0x30).into()),
        script_id: (n > 0).then(|| Uuid::from_u128(0x40).into()),
        payload: "{\"order\": 4711}".to_owned(),
        first_attempt_at: at(n),
        last_attempt_at: at(n + 10),
        resolved_at: (n == 2).then(|| at(59)),
        resolution: (n == 2).then(|| "ignored".to_owned()),
        resolved_by: (n == 2).then(|| "ada".to_owned()),
        resolution_note: (n == 2).then(|| "known".to_owned()),
        ..stored_letter(app, at(n + 20))
    });
    store.repo.import(&letters).await.unwrap();
    let mut shown = String::new();
    for line in [
        "apps",
        "list --app {app} --size 1 --state unresolved",
        "list --app {app} --state closed",
        "show {id} --app {app} --payload",
        "groups --app {app} --state any",
        "count --app {app}",
        "timeline --app {app} --since 2026-03-01T10:00:00Z --until 2026-03-01T11:00:00Z --buckets 2",
        "sweep --delete-all-after 1d --dry-run",
        "export --app {app} --state open",
        "resolve {id} --app {app}",
        "reopen {id} --app {app}",
        "sweep --delete-all-after 3650d --yes",
    ] {
        // An export has one format.
        let outputs = if line.starts_with("export") { &["jsonl"][..] } else { &["json", "jsonl"] };
        for output in outputs {
            let command = line.replace("{id}", &letters[1].id.to_string());
            let ran = store.run(&format!("{command} --output {output}"));
            // By the database's clock, a new id, or opaque.
            let mut out = ran.out;
            for field in ["now", "as_of", "run_id", "next"] {
                let field = format!("\"{field}\":\"");
                if let Some((before, rest)) = out.split_once(&field) {
                    out = format!("{before}{field}…\"{}", &rest[rest.find('"').unwrap() + 1..]);
                }
            }
            shown += &format!("$ dead-letters {line} --output {output}\n{out}");
        }
    }
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("json", shown);
    });
}

/// Escape sequences, C1 controls, and what turns the direction of text.
async fn stored_texts_do_not_steer_the_terminal(store: Store) {
    let steering = [
        '\u{1b}', '\u{7}', '\u{8}', '\u{7f}', '\u{9b}', '\u{85}', '\u{202e}', '\u{2066}', '\u{200f}',
        '\u{2028}',
    ];
    let hostile = steering.iter().map(|c| format!("a{c}31mb")).collect::<String>();
    let id = store.letter(&hostile, &hostile).await;
    store
        .repo
        .resolve_once(store.app, id, Resolution::Ignored, &Attribution::by(&*hostile).note(&*hostile))
        .await
        .unwrap();
    let told = store.run(&format!("resolve {id} --app {{app}} --as handled_by_script"));
    assert_eq!(told.code, 1);
    let mut shown = vec![told.err];
    for line in [
        "list --app {app} --state any",
        &format!("show {id} --app {{app}} --payload"),
        "groups --app {app} --state any",
        // Without its progress bar.
        "export --app {app} --state any 2>/dev/null",
        "list --app {app} --state any --output json",
        "list --app {app} --state any --output jsonl",
        &format!("show {id} --app {{app}} --output json"),
        "list --app {app} --state any --output tsv",
        "groups --app {app} --state any --output tsv",
        "groups --new-since 24h --output tsv",
        "history --app {app} --output tsv",
        &format!("show {id} --payload --output tsv"),
        // Without its note, before which the terminal's line is cleared.
        "reopen --app {app} --all --dry-run --output tsv 2>/dev/null",
    ] {
        shown.push(store.on_terminal(200, line));
        shown.push(store.on_terminal(60, line));
    }
    for text in shown {
        assert!(text.contains("31mb") && !text.contains(steering), "{text:?}");
    }
    // JSON says the same on a terminal, in escapes.
    let json = store.on_terminal(200, "list --app {app} --state any --output json");
    let page: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(page["items"][0]["source"], json!(hostile));
    // Output for programs is unchanged.
    assert!(
        store.run("list --app {app} --state any --output json").json()["items"][0]["source"]
            == json!(hostile)
    );
}

async fn a_listing_of_the_last_hours_continues_on_its_next_page(store: Store) {
    let ids = [store.letter("orders", "a").await, store.letter("orders", "b").await];
    for times in ["--since 2h", "--since 2h --until now", "--since yesterday"] {
        let first = store.run(&format!("list --app {{app}} --size 1 {times}"));
        assert!(first.out.starts_with(&ids[1].to_string()), "{first:?}");
        let (_, next) = first.err.split_once("--after ").unwrap();
        let second = store.run(&format!("list --app {{app}} --size 1 {times} --after {}", next.trim()));
        assert_eq!(second.lines()[0][0], ids[0].to_string());
        let json = store.run(&format!("list --app {{app}} --size 1 {times} --output json"));
        let page: Value = serde_json::from_str(&json.out).unwrap();
        let line = format!("list --app {{app}} --size 1 {times} --after {}", page["next"].as_str().unwrap());
        assert_eq!(store.run(&line).lines()[0][0], ids[0].to_string());
    }
}

/// As a `ListQuery` writes it: of texts that are nothing but quotes each has a pair more.
async fn the_command_of_a_page_finds_an_empty_source(store: Store) {
    let empty = store.letter("", "a").await;
    let quotes = store.letter("\"\"", "b").await;
    store.letter("orders", "c").await;
    for (source, id) in [("\"\"", empty), ("\"\"\"\"", quotes), ("", empty)] {
        let ran =
            Ran::from(store.command("list --output tsv --app {app} --source").arg(source).output().unwrap());
        assert_eq!((ran.lines().len(), ran.lines()[0][0]), (1, &*id.to_string()), "{source}");
    }
}

async fn a_time_that_utc_printed_is_read_back_as_it_was(store: Store) {
    let then = "2026-03-01T10:20:30Z".parse().unwrap();
    store.repo.import(&[stored_letter(store.app, then)]).await.unwrap();
    let shown = store.on_terminal(200, "list --utc --app {app}");
    let line = shown.lines().nth(1).unwrap();
    let time = &line[line.find("2026-03-01").unwrap()..];
    let time = time[..time.find("  ").unwrap()].trim();
    for zone in ["Asia/Tokyo", "UTC", "America/New_York"] {
        let found = |option: &str| {
            let mut program = store.command("list --output tsv --app {app}");
            Ran::from(program.args([option, time]).env("TZ", zone).output().unwrap()).lines().len()
        };
        assert_eq!((found("--since"), found("--until")), (1, 0), "{zone}: {time}");
    }
}

async fn the_history_outlives_its_letters(store: Store) {
    let id = store.letter("orders", "smtp: 451").await;
    let none = store.run("history");
    assert_eq!((none.code, &*none.out), (0, ""), "{none:?}");
    assert!(
        none.err.contains("only apps that have letters or one of the newest 10,000 actions are searched"),
        "{none:?}"
    );
    assert!(none.err.contains("--app APP_ID, the whole ID"), "{none:?}");
    store.run(&format!("resolve {id} --by ada")).lines();
    store.run(&format!("delete {id} --by ada --yes")).lines();
    for line in ["history", "history --app {app}"] {
        assert_eq!(store.run(line).lines().len(), 2, "{line}");
    }
    for line in [format!("history {id}"), format!("history {id} --app {{app}}")] {
        let ran = store.run(&line);
        let rows = ran.lines();
        assert!(rows.len() == 2 && rows.iter().all(|row| row.contains(&"ada")), "{line}: {rows:?}");
    }
}

async fn a_wide_list_has_the_age_and_marks_an_error_that_is_cut(store: Store) {
    let long = "x".repeat(300);
    store.letter("orders", &long).await;
    store.letter("orders", &format!("short\n{long}")).await;
    let wide = store.run("list --output table --wide").out;
    let lines: Vec<_> = wide.lines().collect();
    assert!(lines[0].contains("  AGE"), "{wide}");
    assert!(lines[1].contains("  short  ") && lines[2].contains("xxx…  "), "{wide}");
    assert!(!store.run("list").out.contains('…'));
}

async fn a_letter_that_is_shown_names_its_group(store: Store) {
    let id = store.letter("orders", "smtp: 451").await;
    let shown = store.run(&format!("show {id}"));
    let group = shown.out.split("group\t").nth(1).unwrap().lines().next().unwrap();
    assert_eq!(store.run(&format!("list --group {group}")).lines()[0][0], id.to_string());
}

async fn the_bounds_of_a_time_are_in_order_and_a_limit_names_its_option(store: Store) {
    for command in [
        "list",
        "show",
        "count",
        "groups",
        "export",
        "timeline",
        "resolve --yes",
        "reopen --yes",
        "delete --yes",
    ] {
        for (since, until) in [("--since", "--until"), ("--resolved-since", "--resolved-until")] {
            let line = format!("{command} --app {{app}} {since} 1h {until} 2h");
            store.run(&line).fails(2, &format!("{since} must not be after {until}"));
        }
    }
    let ids: Vec<_> = (0..1_001).map(|n| Uuid::from_u128(n).to_string()).collect();
    store
        .run(&format!("list --app {{app}} --ids {}", ids.join(",")))
        .fails(2, "`--ids` must have at most 1,000");
    let line = format!("list --app {{app}} --metadata k={}", "x".repeat(1_001));
    store.run(&line).fails(2, "each value in `--metadata`");
}

#[tokio::test]
async fn a_time_zone_that_can_not_be_read_is_refused() {
    let store = Store::sqlite().await;
    for zone in ["Europe/Nowhere", "nonsense", "Mars/Olympus"] {
        for time in ["today", "2026-03-01", "2026-03-01T10:00:00"] {
            let line = format!("list --app {{app}} --since {time}");
            let ran = Ran::from(store.command(&line).env("TZ", zone).output().unwrap());
            ran.fails(2, "TZ");
            assert!(ran.err.contains(zone), "{ran:?}");
        }
    }
    for zone in ["", "Europe/Berlin", ":Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3"] {
        let line = "list --output tsv --app {app} --since today";
        let ran = Ran::from(store.command(line).env("TZ", zone).output().unwrap());
        assert_eq!(ran.lines(), [[""; 0]; 0]);
    }
}
