//! Tests that a request's cost and an answer's size are bounded, whatever the letters contain.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    process::Command,
    sync::Arc,
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{Method, StatusCode},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{TimeDelta, Utc};
use dead_letters::{
    Attribution, DeadLetterDelete, DeadLetterRepo, DeadLetterResolve, DeadLetterTransfer, NewDeadLetter,
    OnOpen, Resolution, Retention, RetentionPolicy, SeaOrmDeadLetterRepo, StoredLetter, connect_options,
    migration::Migrator,
    open,
    testing::{Call, FailingStore, internal, letter, stored_letter, transient},
};
use dead_letters_admin::{Admin, Operator};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use sea_orm::{ConnectionTrait, DbBackend, Statement, TransactionTrait};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinSet};
use uuid::Uuid;

use crate::support::{Answer, Client, Outbox, World, let_in, memory, new_app, on_every_backend};

const FORM: &str = "application/x-www-form-urlencoded";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

on_every_backend! {
    a_payload_that_is_no_object_or_array_is_withheld_everywhere_where_anything_is_redacted,
    the_last_day_and_the_next_sweeps_are_counted_from_now_under_any_filter,
    a_long_source_is_cut_in_every_list_and_link,
    a_page_of_a_small_payload_is_small_whatever_its_shape,
    a_source_with_a_line_break_is_previewed,
    a_reopen_that_races_with_resolves_gets_a_conflict_at_worst,
}

async fn a_payload_that_is_no_object_or_array_is_withheld_everywhere_where_anything_is_redacted(
    world: World,
) {
    let text = |payload: &str| {
        let payload = payload.to_owned();
        move |letter| StoredLetter { payload, script_id: None, ..letter }
    };
    let client = Client::from(world.admin_of(Operator::reader("bob")).redact(["/email"]).unwrap());
    for payload in [
        r#""{\"email\":\"ada@example.com\"}""#,
        r#" "{\"email\":\"ada@example.com\" cut"#,
        r#""ada@example.com""#,
    ] {
        for minute in 0..2 {
            world.stored(&format!("2026-03-01T10:0{minute}:00Z"), text(payload)).await;
        }
        let id = world.stored("2026-03-01T10:02:00Z", text(payload)).await;
        let page = client.get(format!("/apps/{}/letters/{id}", world.app)).await;
        assert!(page.text().contains("is withheld") && !page.text().contains("ada@"), "{page}");
        let download = client.get(world.path(&format!("letters/{id}/payload"))).await;
        download.problem(403, "withheld");
        let shares = client.get(format!("/apps/{}/groups?shares=true", world.app)).await;
        assert!(shares.status == StatusCode::OK && !shares.text().contains("ada@"), "{shares}");
    }
    for payload in ["4711", "null", "true"] {
        let id = world.stored("2026-03-01T10:02:00Z", text(payload)).await;
        client.get(world.path(&format!("letters/{id}/payload"))).await.problem(403, "withheld");
    }
    // Without any redaction there is nothing to withhold.
    let id = world.stored("2026-03-01T10:02:00Z", text("\"a text\"")).await;
    let answer = world.client().get(world.path(&format!("letters/{id}/payload"))).await;
    assert_eq!(answer.text(), "\"a text\"");
}

async fn the_last_day_and_the_next_sweeps_are_counted_from_now_under_any_filter(world: World) {
    let now = Utc::now();
    let ago = |days| stored_letter(world.app, now - TimeDelta::days(days) - TimeDelta::hours(1));
    world.repo.import(&[ago(0), ago(25), ago(400)]).await.unwrap();
    let others = Retention::default().delete_all_after(30 * DAY);
    let policy = RetentionPolicy::new(others);
    let client = Client::from(world.admin_of(Operator::full("ada")).retention(policy));
    for filter in ["", "?created_before=2025-01-01T00:00:00Z", "?created_before=-262143-01-01T00:00:00Z"] {
        let page = client.get(format!("/apps/{}{filter}", world.app)).await;
        assert_eq!(page.status, StatusCode::OK, "{filter}: {page}");
        assert!(page.text().contains("1 letter failed, up to 1 in 15 minutes"), "{filter}: {page}");
        assert!(page.text().contains("2 will be deleted within 7 days"), "{filter}: {page}");
        let groups = client.get(format!("/apps/{}/groups{filter}", world.app)).await;
        assert_eq!(groups.status, StatusCode::OK, "{filter}: {groups}");
        assert!(groups.text().contains("2 will be deleted within 7 days"), "{filter}: {groups}");
    }
}

#[tokio::test]
async fn a_retention_policy_of_more_apps_than_can_be_counted_leaves_the_overview_there() {
    let (store, app) = (memory().await, new_app());
    store.insert(letter(app)).await.unwrap();
    let own = Retention::default().delete_all_after(DAY);
    let apps: BTreeMap<_, _> = (0..1_001).map(|_| (new_app(), own)).collect();
    let mut policy = RetentionPolicy::new(own);
    policy.apps = apps;
    let admin = Admin::new(Arc::new(store), let_in(Operator::full("ada"))).retention(policy);
    let client = Client::from(admin);
    for page in ["/apps".to_owned(), format!("/apps/{app}")] {
        let answer = client.get(&page).await;
        assert_eq!(answer.status, StatusCode::OK, "{page}: {answer}");
        assert!(answer.text().contains(&app.to_string()), "{answer}");
    }
}

#[tokio::test]
async fn a_response_that_would_be_too_large_is_refused() {
    let (store, app) = (memory().await, new_app());
    let letters = (0..400).map(|n| {
        let word: String = (0..4).map(|at| char::from(b'g' + ((n >> (2 * at)) % 16) as u8)).collect();
        NewDeadLetter { last_error: format!("zz{word}zz"), ..letter(app) }
    });
    store.insert_many(letters.collect()).await.unwrap();
    let client = Client::from(Admin::new(Arc::new(store), let_in(Operator::full("ada"))));
    let groups = format!("/api/apps/{app}/groups");
    let refused = client.get(format!("{groups}?limit=500&buckets=1000")).await.problem(400, "invalid");
    assert_eq!(refused["field"], "buckets");
    for query in ["limit=500&buckets=200", "limit=100&buckets=1000", "limit=500"] {
        let answer = client.get(format!("{groups}?{query}")).await;
        assert!(answer.status == StatusCode::OK && answer.body.len() < 16 << 20, "{query}");
    }
}

async fn a_long_source_is_cut_in_every_list_and_link(world: World) {
    let new =
        NewDeadLetter { source: "\u{e9}".repeat(300_000), op: "o".repeat(300_000), ..letter(world.app) };
    let id = world.insert(new.clone()).await;
    world.insert_many_alike(new).await;
    let client = world.client();
    for view in [
        format!("/apps/{}", world.app),
        format!("/apps/{}/groups", world.app),
        format!("/apps/{}/letters/{id}", world.app),
        world.path("letters"),
        world.path("groups"),
        world.path(&format!("letters/{id}")),
    ] {
        let answer = client.get(&view).await;
        assert!(
            answer.status == StatusCode::OK && answer.body.len() < 100_000,
            "{view}: {} with {} bytes",
            answer.status,
            answer.body.len()
        );
    }
    let preview = client
        .post("/api/bulk/preview", json!({ "apps": [world.app], "action": "ignored", "filter": {} }))
        .await;
    assert!(preview.status == StatusCode::OK && preview.body.len() < 100_000, "{}", preview.body.len());
}

impl World {
    async fn insert_many_alike(&self, new: NewDeadLetter) {
        self.repo.insert_many(vec![new; 2]).await.unwrap();
    }
}

async fn a_page_of_a_small_payload_is_small_whatever_its_shape(world: World) {
    let mut nested = json!(vec![1; 24_000]);
    for _ in 0..100 {
        nested = json!({ "k".repeat(490): nested });
    }
    let nested = nested.to_string();
    let shapes = [
        nested,
        format!("[{}1]", "1,".repeat(49_000)),
        format!("[{}1]", "{},".repeat(30_000)),
        format!("{{{}\"x\":1}}", "\"<\":\"\u{202e}\",".repeat(9_000)),
        format!("\"{}\"", "<".repeat(98_000)),
    ];
    for payload in shapes {
        assert!(payload.len() <= 100_000, "{}", payload.len());
        let whole = payload.len();
        let id = world.stored("2026-03-01T10:00:00Z", |letter| StoredLetter { payload, ..letter }).await;
        let page = world.client().get(format!("/apps/{}/letters/{id}", world.app)).await;
        assert_eq!(page.status, StatusCode::OK);
        assert!(page.body.len() < 1_000_000, "{} bytes of {whole}", page.body.len());
        assert!(page.text().contains("id=\"payload-text\""), "it is shown");
    }
}

async fn a_source_with_a_line_break_is_previewed(world: World) {
    let source = "orders\nof the day\r\n";
    world.insert(NewDeadLetter { source: source.to_owned(), ..letter(world.app) }).await;
    world.letter().await;
    let client = world.client();
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("source", source).finish();
    let list = client.get(format!("/apps/{}?{query}", world.app)).await;
    assert!(list.text().contains("Ignore all 1"), "{list}");
    // The form of "all", as a browser sends it: line breaks of fields become CRLF.
    let form = list.text().split("<form class=\"buttons\"").nth(1).unwrap().split("</form>").next().unwrap();
    let mut fields = form_urlencoded::Serializer::new(String::new());
    for input in form.split("type=\"hidden\" name=\"").skip(1) {
        let (name, rest) = input.split_once("\" value=\"").unwrap();
        let value = rest.split('"').next().unwrap().replace("&#38;", "&").replace("&#34;", "\"");
        let value = value.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n");
        fields.append_pair(name, &value);
    }
    let fields = fields.append_pair("action", "ignored").finish();
    let preview = client.post_as("/bulk/preview", FORM, fields).await;
    assert!(preview.text().contains("Ignore 1 letter?"), "{preview}");
}

/// The JSON of a list has what it had.
#[tokio::test]
async fn a_source_of_usual_length_is_not_cut() {
    let (store, app) = (memory().await, new_app());
    let source = "s".repeat(200);
    store.insert(NewDeadLetter { source: source.clone(), ..letter(app) }).await.unwrap();
    let client = Client::from(Admin::new(Arc::new(store), let_in(Operator::full("ada"))));
    let letters = client.get(format!("/api/apps/{app}/letters")).await.json();
    assert_eq!(letters["items"][0]["source"], Value::from(source));
}

// The pool is the service's

/// A store whose pool has six connections.
async fn small_pool(world: &World) -> SeaOrmDeadLetterRepo {
    let mut options = connect_options(world.url());
    options.max_connections(6).acquire_timeout(Duration::from_millis(500));
    open(options, OnOpen::Check, Migrator).await.unwrap()
}

/// As the README opens the admin's own pool, whose timeout is shorter here.
#[tokio::test]
async fn on_postgresql_a_statement_that_takes_too_long_ends_by_itself_and_gives_its_turn_back() {
    let world = World::postgres().await;
    let (other, app) = (world.repo.clone(), new_app());
    let mut options = connect_options(world.url());
    options.max_connections(5).statement_timeout(Duration::from_millis(300));
    let repo = open(options, OnOpen::Check, Migrator).await.unwrap();
    let client = Client::from(Admin::new(Arc::new(repo), let_in(Operator::full("ada"))).concurrency(1));
    let lock = other.pool().begin().await.unwrap();
    lock.execute_unprepared("LOCK TABLE dead_letters").await.unwrap();
    let letters = format!("/api/apps/{app}/letters?error_contains=x&scan_limit=100000");
    // The second one finds the only turn free again, though the lock is still there.
    for _ in 0..2 {
        let answer = client.get(&letters).await;
        answer.problem(503, "unavailable");
        assert!(!answer.header("retry-after").is_empty());
    }
    let action = json!({ "resolution": "ignored" });
    let resolve = format!("/api/apps/{app}/letters/{}/resolve", Uuid::nil());
    client.post(resolve, action).await.problem(503, "unavailable");
    lock.rollback().await.unwrap();
    assert_eq!(client.get(&letters).await.status, StatusCode::OK);
}

#[tokio::test]
async fn on_postgresql_an_action_that_waits_for_a_locked_letter_leaves_its_turn_to_others() {
    let world = World::postgres().await;
    let id = world.letter().await;
    let client = Client::from(world.admin_of(Operator::full("ada")).concurrency(1));
    let lock = world.repo.pool().begin().await.unwrap();
    lock.execute_unprepared("SELECT FROM dead_letters FOR UPDATE").await.unwrap();
    let (resolve, acting) = (format!("/api/apps/{}/letters/{id}/resolve", world.app), client.clone());
    let action = tokio::spawn(async move { acting.post(resolve, json!({ "resolution": "ignored" })).await });
    let mut answers = 0;
    while !action.is_finished() {
        assert_eq!(client.get(format!("/api/apps/{}/letters", world.app)).await.status, StatusCode::OK);
        answers += 1;
    }
    action.await.unwrap().problem(409, "locked");
    // One may come before the action, and one after it.
    assert!(answers > 2, "{answers}");
    lock.rollback().await.unwrap();
}

/// Whatever operators ask for, and whether they wait for it.
#[tokio::test]
async fn on_postgresql_readers_leave_connections_of_the_pool_to_the_service() {
    let world = World::postgres().await;
    let repo = small_pool(&world).await;
    let app = new_app();
    repo.insert(letter(app)).await.unwrap();
    let client = Client::from(Admin::new(Arc::new(repo.clone()), let_in(Operator::full("ada"))));
    // A lock on the table makes each statement of theirs wait.
    let other = world.repo.clone();
    let lock = other.pool().begin().await.unwrap();
    lock.execute_unprepared("LOCK TABLE dead_letters").await.unwrap();
    let mut readers = JoinSet::new();
    for n in 0..60 {
        let client = client.clone();
        let path = format!("/api/apps/{app}/letters?error_contains=x{n}&scan_limit=100000");
        readers.spawn(async move {
            // Half of them hang up.
            if n % 2 == 0 {
                tokio::time::timeout(Duration::from_millis(50), client.get(path)).await.ok().map(|_| ())
            } else {
                client.get(path).await;
                Some(())
            }
        });
    }
    // They have their turns once four statements wait for the lock.
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let waiting = async || {
        let statement = Statement::from_string(DbBackend::Postgres, waiting);
        // On a connection of its own: a transaction sees the statistics of its beginning.
        let row = other.pool().query_one_raw(statement).await.unwrap().unwrap();
        row.try_get_by_index::<i64>(0).unwrap()
    };
    while waiting().await < 4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The dispatcher's own work does not touch the table that is locked.
    for _ in 0..20 {
        repo.pool().execute_unprepared("SELECT 1").await.expect("the service finds a connection");
        assert_eq!(waiting().await, 4);
    }
    lock.rollback().await.unwrap();
    while readers.join_next().await.is_some() {}
    assert_eq!(client.get(format!("/api/apps/{app}/letters")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_request_that_waits_too_long_for_a_turn_is_503_with_retry_after() {
    let (repo, app) = (memory().await, new_app());
    let store = Arc::new(FailingStore::new(repo));
    let client = Client::from(Admin::new(store.clone(), let_in(Operator::full("ada"))).concurrency(2));
    store.hang(Call::List, ..);
    let path = format!("/api/apps/{app}/letters");
    tokio::time::pause();
    let hung = [0, 1].map(|_| {
        tokio::spawn({
            let (client, path) = (client.clone(), path.clone());
            async move { client.get(path).await }
        })
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let busy = client.get(&path).await;
    busy.problem(503, "busy");
    assert_eq!(busy.header("retry-after"), "5");
    let page = client.get("/apps").await;
    assert!(page.status == StatusCode::SERVICE_UNAVAILABLE && page.text().contains("data-live"), "{page}");
    for hung in hung {
        hung.await.unwrap().problem(503, "unavailable");
    }
    // The statements of the hung requests go on and keep their turns. No request waits longer than a minute.
    client.get(&path).await.problem(503, "busy");
    tokio::time::sleep(Duration::from_secs(60)).await;
    store.recover();
    tokio::time::resume();
    client.get(&path).await.json();
}

#[tokio::test]
async fn an_operator_may_scan_as_far_as_the_service_allows() {
    let (repo, app) = (memory().await, new_app());
    let of = |operator| Client::from(Admin::new(Arc::new(repo.clone()), let_in(operator)));
    for (client, max) in [
        (of(Operator::reader("bob")), 100_000),
        (of(Operator::reader("bob").scan_limit(1_000)), 1_000),
        (of(Operator::reader("bob").scan_limit(u32::MAX)), 1_000_000),
    ] {
        for view in ["letters", "groups", "timeline"] {
            let path = format!("/api/apps/{app}/{view}?scan_limit=");
            client.get(format!("{path}{max}")).await.json();
            assert_eq!(
                client.get(format!("{path}{}", max + 1)).await.problem(400, "invalid")["field"],
                "scan_limit"
            );
            client.get(path.trim_end_matches("?scan_limit=")).await.json();
        }
        for view in ["", "/groups"] {
            assert_eq!(
                client.get(format!("/apps/{app}{view}?scan_limit={}", max + 1)).await.status,
                StatusCode::BAD_REQUEST
            );
            assert_eq!(
                client.get(format!("/apps/{app}{view}?scan_limit={max}")).await.status,
                StatusCode::OK
            );
        }
    }
}

// Bodies and readers

#[tokio::test]
async fn a_body_that_comes_byte_by_byte_takes_nobodys_turn() {
    let (repo, app) = (memory().await, new_app());
    let id = repo.insert(letter(app)).await.unwrap();
    let client =
        Client::from(Admin::new(Arc::new(repo.clone()), let_in(Operator::full("ada"))).concurrency(1));
    let path = format!("/api/apps/{app}/letters/{id}/resolve");
    let (first, read) = oneshot::channel();
    let drips = stream::once(async move {
        first.send(()).unwrap();
        Ok::<_, Infallible>(Bytes::from_static(b"{"))
    });
    let slow = client.clone();
    let body = Body::from_stream(drips.chain(stream::pending()));
    let slow = tokio::spawn(async move { slow.post_as(path, "application/json", body).await });
    read.await.unwrap();
    assert_eq!(client.get(format!("/api/apps/{app}/letters/{id}")).await.status, StatusCode::OK);
    // From here on time passes where all wait.
    tokio::time::pause();
    slow.await.unwrap().problem(408, "too-slow");
    tokio::time::resume();
    assert_eq!(repo.get(id).await.unwrap().unwrap().resolved_at, None);
}

#[tokio::test]
async fn a_stalled_download_buffers_a_few_pieces_of_a_payload_and_is_cut_off() {
    let (repo, app) = (memory().await, new_app());
    let payload = "x".repeat(20 << 20);
    let stored = StoredLetter { payload, ..stored_letter(app, Utc::now()) };
    repo.import(std::slice::from_ref(&stored)).await.unwrap();
    let client = Client::from(Admin::new(Arc::new(repo), let_in(Operator::full("ada"))));
    let path = format!("/api/apps/{app}/letters/{}/payload", stored.id);
    let mut answers = Vec::new();
    for _ in 0..8 {
        let mut answer = client.stream(&path).await;
        let piece = answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(piece.len() <= 64 << 10, "{}", piece.len());
        answers.push(answer);
    }
    tokio::time::pause();
    // No more than eight at a time.
    client.get(&path).await.problem(503, "busy");
    tokio::time::sleep(Duration::from_secs(31)).await;
    tokio::time::resume();
    for answer in answers {
        let mut body = answer.into_body();
        let mut rest = 0;
        let broken = loop {
            match body.frame().await {
                Some(Ok(frame)) => rest += frame.into_data().unwrap().len(),
                end => break end,
            }
        };
        assert!(matches!(broken, Some(Err(_))), "it does not end as if it were whole");
        assert!(rest <= 128 << 10, "{rest} bytes were kept");
    }
    // They have left their places.
    assert_eq!(client.get(&path).await.body.len(), 20 << 20);
}

#[tokio::test]
async fn the_download_of_a_letter_that_is_erased_meanwhile_does_not_end_as_if_it_were_whole() {
    let (repo, app) = (memory().await, new_app());
    let stored = StoredLetter { payload: "x".repeat(20 << 20), ..stored_letter(app, Utc::now()) };
    repo.import(std::slice::from_ref(&stored)).await.unwrap();
    let client = Client::from(Admin::new(Arc::new(repo.clone()), let_in(Operator::full("ada"))));
    let mut answer = client.stream(&format!("/api/apps/{app}/letters/{}/payload", stored.id)).await;
    answer.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(repo.erase(app, &[stored.id], &Attribution::by("grace")).await.unwrap().ids, [stored.id]);
    let mut body = answer.into_body();
    let end = loop {
        match body.frame().await {
            Some(Ok(_)) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Some(Err(_))));
}

// Addresses

#[tokio::test]
async fn no_address_that_the_admin_makes_is_over_2_kb_whatever_was_ticked_and_filtered() {
    let (repo, app) = (memory().await, new_app());
    let letters = (0..500).map(|n| NewDeadLetter {
        source: "ü".repeat(n % 300),
        last_error: format!("{} {n}", "é".repeat(150)),
        ..letter(app)
    });
    let ids = repo.insert_many(letters.collect()).await.unwrap();
    let outbox = Arc::<Outbox>::default();
    let admin = Admin::new(Arc::new(repo.clone()), let_in(Operator::full("ada")))
        .replay(repo.replayer(outbox.clone()));
    let client = Client::from(admin);
    let is_short = |answer: &Answer| {
        assert!(answer.location().len() < 2_000, "{}", answer.location().len());
        for part in answer.text().split(['"']).skip(1).step_by(2) {
            let is_address = part.starts_with("./") || part.starts_with("../");
            assert!(!is_address || part.len() < 2_000, "{part}");
        }
    };
    let texts = |length| {
        form_urlencoded::Serializer::new(String::new()).append_pair("source", &"ü".repeat(length)).finish()
    };
    for query in [String::new(), texts(220), "state=any&size=500".to_owned()] {
        for view in ["", "/groups"] {
            let answer = client.get(format!("/apps/{app}{view}?{query}")).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer}");
            is_short(&answer);
        }
    }
    for view in ["", "/groups"] {
        let answer = client.get(format!("/apps/{app}{view}?{}", texts(300))).await;
        assert!(answer.status == StatusCode::BAD_REQUEST && answer.text().contains("source"), "{answer}");
    }

    let mut replayed = 0;
    for (action, ticked) in [
        ("replayed", &ids[..5]),
        ("replayed", &ids[5..60]),
        ("replayed", &ids[60..400]),
        ("ignored", &ids[400..]),
    ] {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("app", &app.to_string())
            .append_pair("state", "open")
            .append_pair("ids", "\"\"")
            .append_pair("action", action);
        form.append_pair("back", &format!("?{}", texts(220)));
        for id in ticked {
            form.append_pair("ids", &id.to_string());
        }
        let preview = client.post_as("/bulk/preview", FORM, form.finish()).await;
        is_short(&preview);
        let field = |answer: &Answer, name: &str| {
            let field = answer
                .text()
                .split(&format!("name=\"{name}\" value=\""))
                .nth(1)
                .unwrap_or_else(|| panic!("{name}: {answer}"));
            field.split('"').next().unwrap().to_owned()
        };
        let note = "why\u{fc} ".repeat(80);
        let step = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", &field(&preview, "token"))
            .append_pair("note", &note)
            .append_pair("limit", "1")
            .finish();
        let mut answer = client.post_as("/bulk/run", FORM, step).await;
        is_short(&answer);
        if action == "ignored" {
            continue;
        }
        replayed += 1;
        if answer.status == StatusCode::SEE_OTHER {
            answer = client.get(format!("/runs/{}", answer.location().split("runs/").nth(1).unwrap())).await;
        } else {
            let shown_run = |answer: &Answer| {
                let text = answer.text();
                text.split("runs/").nth(1).unwrap()[..36].to_owned()
            };
            // The answer is the page itself, and is looked at again without doing more.
            assert_eq!((answer.status, answer.header("cache-control")), (StatusCode::OK, "no-store"));
            assert!(
                answer.text().contains("data-instead") && !answer.text().contains("data-live"),
                "{answer}"
            );
            let run = form_urlencoded::Serializer::new(String::new())
                .append_pair("run", &field(&answer, "run"))
                .finish();
            let again = client.post_as(format!("/runs/{}", shown_run(&answer)), FORM, run).await;
            assert!(again.status == StatusCode::OK && again.text().contains("Replayed 1 of"), "{again}");
        }
        assert!(answer.text().contains(&format!("Replayed 1 of {}", ticked.len())), "{answer}");
        assert_eq!(outbox.events().len(), replayed);
        let rest = form_urlencoded::Serializer::new(String::new())
            .append_pair("run", &field(&answer, "run"))
            .append_pair("note", &note)
            .finish();
        let rest = client.post_as("/bulk/run", FORM, rest).await;
        is_short(&rest);
        replayed += ticked.len() - 1;
        assert_eq!(outbox.events().len(), replayed);
    }
}

#[tokio::test]
async fn no_address_shows_a_note_or_an_operator() {
    let (repo, app) = (memory().await, new_app());
    let ids = repo.insert_many(vec![letter(app); 3]).await.unwrap();
    let admin = Admin::new(Arc::new(repo.clone()), let_in(Operator::full("ada.lovelace")))
        .replay(repo.replayer(Arc::<Outbox>::default()));
    let client = Client::from(admin);
    let note = "note=confidential";
    let resolved = client
        .post_as(
            format!("/apps/{app}/letters/{}/resolve", ids[0]),
            FORM,
            format!("resolution=ignored&{note}"),
        )
        .await;
    let preview = client.post_as("/bulk/preview", FORM, format!("app={app}&action=replayed")).await;
    let token = preview.text().split("name=\"token\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let run = client.post_as("/bulk/run", FORM, format!("token={token}&limit=1&{note}")).await;
    for answer in [resolved, run] {
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{answer}");
        let address = answer.location();
        let encoded =
            address.split(['=', '.', '&']).filter_map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
        let texts: Vec<_> = encoded.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
        for secret in ["confidential", "ada.lovelace"] {
            assert!(
                !address.contains(secret) && !texts.iter().any(|text| text.contains(secret)),
                "{address} {texts:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_head_has_the_headers_of_the_get() {
    let (repo, app) = (memory().await, new_app());
    let id = repo.insert(letter(app)).await.unwrap();
    let client = Client::from(Admin::new(Arc::new(repo), let_in(Operator::full("ada"))));
    for path in [
        "/".to_owned(),
        "/apps".to_owned(),
        format!("/apps/{app}"),
        format!("/apps/{app}/groups?shares=true"),
        format!("/apps/{app}/letters/{id}"),
        "/api/apps".to_owned(),
        "/api/openapi.json".to_owned(),
        format!("/api/apps/{app}/letters"),
        format!("/api/apps/{app}/letters?size=0"),
        format!("/api/apps/{app}/letters/{id}/payload"),
        "/nowhere".to_owned(),
    ] {
        let (get, head) = (client.get(&path).await, client.call(Method::HEAD, &path).await);
        assert_eq!((get.status, &get.headers), (head.status, &head.headers), "{path}");
        assert!(head.body.is_empty(), "{path}");
    }
    let shares = client.get(format!("/apps/{app}/groups?shares=true")).await;
    assert_eq!((shares.header("cache-control"), shares.header("etag")), ("no-store", ""));
}

// Others at the same letter

async fn a_reopen_that_races_with_resolves_gets_a_conflict_at_worst(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let mut tasks = JoinSet::new();
    for n in 0..16 {
        let client = client.clone();
        let path = world.path(&format!("letters/{id}/{}", ["resolve", "reopen"][n % 2]));
        tasks.spawn(async move {
            let mut statuses = Vec::new();
            for _ in 0..15 {
                let body =
                    if path.ends_with("resolve") { json!({ "resolution": "ignored" }) } else { json!({}) };
                statuses.push(client.post(&path, body).await.status.as_u16());
            }
            statuses
        });
    }
    let mut statuses = Vec::new();
    while let Some(some) = tasks.join_next().await {
        statuses.extend(some.unwrap());
    }
    let statuses: BTreeSet<_> = statuses.into_iter().collect();
    assert_eq!(statuses, BTreeSet::from([200, 409]));
}

#[tokio::test]
async fn a_reopen_that_fails_while_nobody_else_is_there_is_a_fault() {
    let (repo, app) = (memory().await, new_app());
    let id = repo.insert(letter(app)).await.unwrap();
    let store = Arc::new(FailingStore::new(repo.clone()));
    let client = Client::from(Admin::new(store.clone(), let_in(Operator::full("ada"))));
    repo.resolve_once(app, id, Resolution::Ignored, &Attribution::by("bob")).await.unwrap();
    let path = format!("/api/apps/{app}/letters/{id}/reopen");
    store.fail(Call::ReopenMatching, .., internal());
    client.post(&path, json!({})).await.problem(500, "internal");
}

#[tokio::test]
async fn a_reopen_is_tried_again_where_others_use_the_letter_and_is_a_conflict_in_the_end() {
    let (repo, app) = (memory().await, new_app());
    let id = repo.insert(letter(app)).await.unwrap();
    let store = Arc::new(FailingStore::new(repo.clone()));
    let client = Client::from(Admin::new(store.clone(), let_in(Operator::full("ada"))));
    repo.resolve_once(app, id, Resolution::Ignored, &Attribution::by("bob")).await.unwrap();
    let path = format!("/api/apps/{app}/letters/{id}/reopen");
    store.fail(Call::ReopenMatching, .., transient());
    client.post(&path, json!({})).await.problem(409, "locked");
    store.fail(Call::Summary, .., transient());
    client.post(&path, json!({})).await.problem(503, "unavailable");
    store.recover();
    store.fail(Call::ReopenMatching, ..2, transient());
    assert_eq!(client.post(&path, json!({})).await.json()["resolved_at"], Value::Null);

    repo.resolve_once(app, id, Resolution::Replayed, &Attribution::by("bob")).await.unwrap();
    let anyway = json!({ "include_replayed": true });
    store.fail(Call::ReopenMatching, .., transient());
    client.post(&path, anyway.clone()).await.problem(409, "locked");
    store.recover();
    store.fail(Call::ReopenMatching, ..2, transient());
    assert_eq!(client.post(&path, anyway).await.json()["resolved_at"], Value::Null);

    // The undo of the banner.
    repo.resolve_once(app, id, Resolution::Ignored, &Attribution::by("bob")).await.unwrap();
    let at = repo.get(id).await.unwrap().unwrap().resolved_at.unwrap().to_rfc3339();
    let undo = || {
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("resolved_at", &at).finish();
        client.post_as(format!("/apps/{app}/letters/{id}/reopen"), FORM, form)
    };
    store.recover();
    store.fail(Call::ReopenMatching, .., transient());
    assert_eq!(undo().await.status, StatusCode::CONFLICT);
    store.recover();
    assert_eq!(undo().await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_run_over_50_apps_has_short_addresses() {
    let repo = memory().await;
    let apps = [(); 50].map(|()| new_app());
    repo.insert_many(apps.iter().map(|&app| letter(app)).collect()).await.unwrap();
    let outbox = Arc::<Outbox>::default();
    let admin = Admin::new(Arc::new(repo.clone()), let_in(Operator::full("ada")));
    let client = Client::from(admin.replay(repo.replayer(outbox.clone())));
    let addresses = |answer: &Answer| {
        let parts = answer.text().split('"').skip(1).step_by(2).map(|part| part.replace("&#38;", "&"));
        let addresses: Vec<_> =
            parts.filter(|part| part.starts_with("../") || part.starts_with("./")).collect();
        assert!(addresses.iter().all(|address| address.len() < 2_000), "{addresses:?}");
        addresses
    };
    let fields = |fields: &[(&str, &str)]| {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
    };
    let ids = apps.map(|app| app.to_string());
    let mut of_apps: Vec<_> = ids.iter().map(|id| ("app", id.as_str())).collect();
    of_apps.push(("action", "replayed"));
    let preview = client.post_as("/bulk/preview", FORM, fields(&of_apps)).await;
    addresses(&preview);
    let hidden = |answer: &Answer, name: &str| {
        answer
            .text()
            .split(&format!("name=\"{name}\" value=\""))
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .to_owned()
    };
    let step = fields(&[("token", &hidden(&preview, "token")), ("limit", "1")]);
    let page = client.post_as("/bulk/run", FORM, step).await;
    assert!(page.status == StatusCode::OK && page.text().contains("Replayed 1 of 50"), "{page}");
    let recorded =
        addresses(&page).into_iter().find(|address| address.contains("runs/") && address.contains("app="));
    let recorded = client.get(format!("/{}", recorded.unwrap().trim_start_matches("../"))).await;
    assert!(
        recorded.status == StatusCode::OK && recorded.text().contains("Replayed, 1 letter"),
        "{recorded}"
    );
    let rest = client.post_as("/bulk/run", FORM, fields(&[("run", &hidden(&page, "run"))])).await;
    assert!(rest.text().contains("Replayed 50 of 50"), "{rest}");
    assert_eq!(outbox.events().len(), 50);
}

// Commands

/// Returns a shell's words of a command. `curl` and `dead-letters` are functions that print their arguments.
fn words(command: &str) -> Vec<String> {
    let script =
        format!("curl() {{ printf '%s\\0' \"$@\"; }}; dead-letters() {{ curl \"$@\"; }}\n{command}\n");
    let mut shell = Command::new("bash");
    let output = shell.args(["-c", &script]).env("DEAD_LETTERS_URL", "http://here/$(id)").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{command}: {output:?}");
    let words = String::from_utf8(output.stdout).unwrap();
    words.trim_end_matches('\0').split('\0').map(str::to_owned).collect()
}

#[tokio::test]
async fn a_command_runs_no_code_of_a_filter_or_an_address() {
    let (repo, app) = (memory().await, new_app());
    let client = Client::from(Admin::new(Arc::new(repo), let_in(Operator::full("ada"))));
    for hostile in [
        "$(id)",
        "`id`",
        "'; id; '",
        "\"; id; \"",
        "a\nid",
        "=ls",
        "~root",
        "-x",
        "--app=y",
        "!!",
        "\\",
        "$'\\x41'",
        "a b",
        "\"$DEAD_LETTERS_URL\"",
        "\u{202e}$(id)",
        "{a,b}",
        "[a-z]*",
        "#x",
        "&&id",
        "|id",
        ">x",
    ] {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("source", hostile).finish();
        for view in ["", "/groups"] {
            let page = client.get(format!("/apps/{app}{view}?{query}")).await;
            let commands: Vec<_> = page
                .text()
                .split("aria-label=\"With ")
                .skip(1)
                .map(|rest| {
                    let text = rest.split_once('>').unwrap().1.split("</pre>").next().unwrap();
                    [("&#34;", "\""), ("&#39;", "'"), ("&#60;", "<"), ("&#62;", ">"), ("&#38;", "&")]
                        .iter()
                        .fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character))
                })
                .collect();
            let [curl, cli] = &commands[..] else { panic!("{page}") };
            let [address] = &words(curl)[..] else { panic!("{curl}") };
            let path = if view.is_empty() { "letters" } else { "groups" };
            assert_eq!(*address, format!("http://here/$(id)/api/apps/{app}/{path}?state=unresolved&{query}"));
            let words = words(cli);
            let source = words.iter().position(|word| word.starts_with("--source")).unwrap();
            let given = words[source].strip_prefix("--source=").unwrap_or_else(|| &words[source + 1]);
            assert_eq!(given, hostile, "{cli}");
        }
    }
}
