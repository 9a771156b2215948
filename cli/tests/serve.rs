//! The admin on its own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
};

use dead_letters::DeadLetterRepo;

use crate::support::{Store, program, terminate};

on_every_backend! {
    without_a_token_the_admin_is_for_names_of_the_loopback_interface,
    with_a_token_nobody_gets_in_without_it,
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
