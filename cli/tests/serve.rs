//! The admin on its own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use dead_letters::{DeadLetterRepo, testing};
use sea_orm::{ConnectionTrait, DbBackend, Statement, TransactionTrait};

use crate::support::{PROGRAM, Store, program, terminate};

on_every_backend! {
    without_a_token_the_admin_is_for_names_of_the_loopback_interface,
    with_a_token_nobody_gets_in_without_it,
    a_token_file_wins_over_the_environment_and_is_read_without_what_editors_add,
    actions_are_audited_and_failures_have_their_cause_in_the_log,
    requests_and_actions_are_logged_as_json,
    a_request_that_is_half_sent_does_not_keep_it_alive,
    operators_edit_and_delete_only_where_it_is_allowed,
    redacted_content_is_hidden_and_a_trace_is_linked,
    the_health_check_needs_no_token_and_shows_nothing,
    the_health_check_fails_while_the_table_cannot_be_read,
    the_health_check_fails_while_a_migration_step_is_missing,
}

/// Returns the admin's answer with its whole body.
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
        if notes.last().unwrap().contains("replay is not available") {
            break;
        }
    }
    let address = notes[0].rsplit('/').next().unwrap().to_owned();
    (program, address, notes)
}

async fn without_a_token_the_admin_is_for_names_of_the_loopback_interface(store: Store) {
    store.letter("orders", "smtp: 451").await;
    let (mut program, address, notes) = serve(&store, &[], None);
    assert!(notes.iter().any(|note| note.contains("every local user can resolve letters")), "{notes:?}");
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
    store.run("serve --listen 0.0.0.0:0").fails(2, "hint: pass --token-file");
    store.run("serve --token-file /nowhere").fails(2, "--token-file /nowhere");
}

fn with_bearer(address: &str, token: &str) -> String {
    ask(address, &format!("GET /api/apps HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}"))
}

async fn a_token_file_wins_over_the_environment_and_is_read_without_what_editors_add(store: Store) {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("token");
    for content in ["secret", "secret\n", "\u{feff}secret\r\n", "secret \n\n", "secret\t"] {
        std::fs::write(&file, content).unwrap();
        let args = ["--token-file", file.to_str().unwrap()];
        let (mut program, address, _) = serve(&store, &args, Some("another"));
        assert!(with_bearer(&address, "secret").starts_with("HTTP/1.1 200"), "{content:?}");
        assert!(with_bearer(&address, "another").starts_with("HTTP/1.1 401"), "{content:?}");
        terminate(&program);
        assert!(program.wait().unwrap().success());
    }
    // One from the environment is a token too.
    let (mut program, address, _) = serve(&store, &["--host", "ops.example"], Some("secret"));
    let request = "GET /api/apps HTTP/1.1\r\nHost: ops.example\r\nAuthorization: Bearer secret";
    assert!(ask(&address, request).starts_with("HTTP/1.1 200"));
    terminate(&program);
    assert!(program.wait().unwrap().success());
}

/// Returns the log after the notes that were already read.
fn log_of(mut program: Child, log: impl Iterator<Item = String>) -> Vec<String> {
    terminate(&program);
    let said: Vec<_> = log.collect();
    assert!(program.wait().unwrap().success());
    said
}

async fn actions_are_audited_and_failures_have_their_cause_in_the_log(store: Store) {
    let id = store.letter("orders", "smtp: 451").await;
    for (rust_log, is_audited) in [(None, true), (Some("info"), true), (Some("off"), false)] {
        let mut program = program();
        program.args(["serve", "--listen", "127.0.0.1:0"]).env("DATABASE_URL", &store.url);
        program.envs(rust_log.map(|level| ("RUST_LOG", level)));
        let mut program = program.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(program.stderr.take().unwrap()).lines().map(Result::unwrap);
        let address = log.next().unwrap().rsplit('/').next().unwrap().to_owned();
        let body = r#"{"resolution":"ignored"}"#;
        let path = format!("/api/apps/{}/letters/{id}/resolve", store.app);
        ask(
            &address,
            &format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            ),
        );
        let said = log_of(program, log);
        let audited =
            said.iter().any(|line| line.contains("dead_letters::audit") && line.contains(&id.to_string()));
        assert_eq!(audited, is_audited, "{rust_log:?}: {said:?}");
    }
    // A table that is gone is a cause that the client is not told.
    let (program, address, log) = serve_with_log(&store);
    store.repo.pool().execute_unprepared("ALTER TABLE dead_letters RENAME TO gone").await.unwrap();
    let answer = ask(&address, "GET /api/apps HTTP/1.1\r\nHost: localhost");
    assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
    let said = log_of(program, log);
    assert!(said.iter().any(|line| line.contains("dead_letters") && line.contains("ERROR")), "{said:?}");
}

async fn requests_and_actions_are_logged_as_json(store: Store) {
    let id = store.letter("orders", "smtp: 451").await;
    let mut program = program();
    program.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    program
        .env("DATABASE_URL", &store.url)
        .env("RUST_LOG", "dead_letters::access=info,dead_letters::audit=info");
    let mut program = program.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(program.stderr.take().unwrap()).lines().map(Result::unwrap);
    let address = log.next().unwrap().rsplit('/').next().unwrap().to_owned();
    let letters = format!("/api/apps/{}/letters", store.app);
    ask(&address, &format!("GET {letters}?source=canary HTTP/1.1\r\nHost: localhost"));
    let reopen = format!("/apps/{}/letters/{id}/reopen", store.app);
    let form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 0";
    ask(&address, &format!("POST {reopen} HTTP/1.1\r\nHost: localhost\r\n{form}"));
    ask(&address, "GET /healthz HTTP/1.1\r\nHost: localhost");
    ask(&address, "GET /api/apps HTTP/1.1\r\nHost: elsewhere");
    let said = log_of(program, log);
    let events: Vec<serde_json::Value> =
        said.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of =
        |target: &str| events.iter().filter(|event| event["target"] == target).cloned().collect::<Vec<_>>();
    let requests: Vec<_> = of("dead_letters::access")
        .iter()
        .map(|event| (event["method"].clone(), event["path"].clone(), event["status"].clone()))
        .collect();
    let request = |method: &str, path: &str, status: u16| (method.into(), path.into(), status.into());
    let expected =
        [request("GET", &letters, 200), request("POST", &reopen, 409), request("GET", "/api/apps", 421)];
    assert_eq!(requests, expected, "{said:?}");
    assert!(!said.iter().any(|line| line.contains("canary")), "{said:?}");
    let [audited] = &of("dead_letters::audit")[..] else { panic!("{said:?}") };
    assert_eq!((&audited["outcome"], &audited["status"]), (&"refused".into(), &409.into()));
}

fn serve_with_log(store: &Store) -> (Child, String, impl Iterator<Item = String>) {
    serve_with(program(), store)
}

fn serve_with(mut program: Command, store: &Store) -> (Child, String, impl Iterator<Item = String>) {
    program.args(["serve", "--listen", "127.0.0.1:0"]).env("DATABASE_URL", &store.url);
    let mut program = program.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(program.stderr.take().unwrap()).lines().map(Result::unwrap);
    let address = log.next().unwrap().rsplit('/').next().unwrap().to_owned();
    (program, address, log)
}

/// A server that waited for the rest of a request would never end.
async fn a_request_that_is_half_sent_does_not_keep_it_alive(store: Store) {
    let (mut program, address, _) = serve(&store, &[], None);
    let head = "POST /api/bulk/preview HTTP/1.1\r\nHost: localhost\r\n";
    let mut half_a_head = TcpStream::connect(&address).unwrap();
    half_a_head.write_all(head.as_bytes()).unwrap();
    let mut half_a_body = TcpStream::connect(&address).unwrap();
    let path = "/api/bulk/preview";
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    );
    half_a_body.write_all(request.as_bytes()).unwrap();
    // Both are taken before this one is answered.
    assert!(ask(&address, "GET /api/apps HTTP/1.1\r\nHost: localhost").starts_with("HTTP/1.1 200"));
    terminate(&program);
    assert!(program.wait().unwrap().success());
    drop((half_a_head, half_a_body));
}

/// Returns the status and the body of the health check.
fn health(address: &str) -> (String, String) {
    // A prober of a container sends its address as the host.
    let answer = ask(address, "GET /healthz HTTP/1.1\r\nHost: 10.1.2.3:8025");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

/// Waits until the health check returns this. An outcome is returned again for a second.
fn becomes(address: &str, status: &str, body: &str) {
    let began = Instant::now();
    loop {
        let health = health(address);
        if health == (status.to_owned(), body.to_owned()) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{health:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

async fn operators_edit_and_delete_only_where_it_is_allowed(store: Store) {
    let id = store.letter("orders", "smtp: 451").await;
    let erase = format!(
        "POST /api/apps/{}/erase HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: 48\r\nConnection: close\r\n\r\n{{\"ids\":[\"{id}\"]}}",
        store.app
    );
    for (args, answers) in [(&[][..], "HTTP/1.1 403"), (&["--allow", "edit,delete"], "HTTP/1.1 200")] {
        let (mut program, address, notes) = serve(&store, args, None);
        let can =
            if args.is_empty() { "can resolve letters" } else { "can resolve, edit and delete letters" };
        assert!(notes.iter().any(|note| note.contains(can)), "{notes:?}");
        let answer = ask(&address, &erase);
        assert!(answer.starts_with(answers), "{args:?}: {answer}");
        terminate(&program);
        assert!(program.wait().unwrap().success());
    }
    store.run("serve --allow everything").fails(2, "--allow");
}

async fn redacted_content_is_hidden_and_a_trace_is_linked(store: Store) {
    let mut letter = testing::letter(store.app);
    letter.payload = serde_json::json!({ "secret": "s3cret", "order": 4711 });
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    letter.metadata.insert("traceparent".to_owned(), traceparent.into());
    letter.metadata.insert("user".to_owned(), "Ada Lovelace".into());
    let id = store.repo.insert(letter).await.unwrap();
    let args = [
        "--redact",
        "/secret",
        "--redact-metadata",
        "/user",
        "--trace-url",
        "http://trace.example/{trace_id}",
    ];
    let (mut program, address, _) = serve(&store, &args, None);
    let page = ask(&address, &format!("GET /apps/{}/letters/{id} HTTP/1.1\r\nHost: localhost", store.app));
    assert!(page.contains("4711") && !page.contains("s3cret") && !page.contains("Lovelace"), "{page}");
    assert!(page.contains("http://trace.example/4bf92f3577b34da6a3ce929d0e0e4736"), "{page}");
    terminate(&program);
    assert!(program.wait().unwrap().success());
    store.run("serve --redact secret").fails(2, "--redact: ");
    store.run("serve --redact-metadata user").fails(2, "--redact-metadata: ");
    store.run("serve --trace-url ftp://x").fails(2, "--trace-url: ");
}

async fn the_health_check_needs_no_token_and_shows_nothing(store: Store) {
    store.letter("orders", "smtp: 451").await;
    let (mut program, address, _) = serve(&store, &[], Some("secret"));
    assert_eq!(health(&address), ("200".to_owned(), "ok\n".to_owned()));
    for path in ["/", "/apps", "/api/apps", "/healthz/", "/healthz/apps"] {
        let answer = ask(&address, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1"));
        assert!(answer.starts_with("HTTP/1.1 4") && !answer.contains("ok\n"), "{path}: {answer}");
        let answer = ask(&address, &format!("GET {path} HTTP/1.1\r\nHost: 10.1.2.3"));
        assert!(answer.starts_with("HTTP/1.1 421"), "{path}: {answer}");
    }
    let answer = ask(&address, "POST /healthz HTTP/1.1\r\nHost: 127.0.0.1");
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    terminate(&program);
    assert!(program.wait().unwrap().success());
}

async fn the_health_check_fails_while_the_table_cannot_be_read(store: Store) {
    let (mut program, address, _) = serve(&store, &[], None);
    let rename = async |from: &str, to: &str| {
        let rename = format!("ALTER TABLE {from} RENAME TO {to}");
        store.repo.pool().execute_unprepared(&rename).await.unwrap();
    };
    rename("dead_letters", "gone").await;
    becomes(&address, "503", "the dead_letters table cannot be read\n");
    rename("gone", "dead_letters").await;
    becomes(&address, "200", "ok\n");
    terminate(&program);
    assert!(program.wait().unwrap().success());
}

async fn the_health_check_fails_while_a_migration_step_is_missing(store: Store) {
    // The service's own build has a step that the store lacks: examples/own.rs.
    let own = || {
        let mut own = Command::new(Path::new(PROGRAM).with_file_name("examples").join("own"));
        own.env_clear().env("TZ", "UTC").env("DATABASE_URL", &store.url).stdin(Stdio::null());
        own
    };
    let (mut program, address, _log) = serve_with(own(), &store);
    let missing = "the schema is not current; see: dead-letters migrate status\n";
    assert_eq!(health(&address), ("503".to_owned(), missing.to_owned()));
    assert!(own().args(["migrate", "up"]).output().unwrap().status.success());
    becomes(&address, "200", "ok\n");
    terminate(&program);
    assert!(program.wait().unwrap().success());
}

#[tokio::test]
async fn on_postgres_the_health_check_waits_3_seconds_and_on_one_connection_for_a_locked_table() {
    let store = Store::postgres().await;
    let (mut program, address, _) = serve(&store, &[], None);
    let lock = store.repo.pool().begin().await.unwrap();
    lock.execute_unprepared("LOCK TABLE dead_letters IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let late = ("503".to_owned(), "the database did not respond within 3 seconds\n".to_owned());
    for _ in 0..2 {
        let began = Instant::now();
        // Those that wait for the first one do not wait longer.
        let checks = [(); 8].map(|()| {
            let address = address.clone();
            thread::spawn(move || health(&address))
        });
        for check in checks {
            assert_eq!(check.join().unwrap(), late);
        }
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    }
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let waiting = store.repo.pool().query_one_raw(Statement::from_string(DbBackend::Postgres, waiting)).await;
    assert_eq!(waiting.unwrap().unwrap().try_get_by_index::<i64>(0).unwrap(), 1);
    lock.rollback().await.unwrap();
    becomes(&address, "200", "ok\n");
    terminate(&program);
    assert!(program.wait().unwrap().success());
}
