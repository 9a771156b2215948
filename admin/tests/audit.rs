//! Tests that every action, every revealed payload, and every refused attempt is audited once.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderName, Method, Request, StatusCode, header::CONTENT_TYPE, request::Parts},
};
use dead_letters::{AppId, DeadLetterId, DeadLetterRepo, testing::letter};
use dead_letters_admin::{Admin, Denied, InsecureAllowAll, Operator, Right};
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    Answer, Audited, Client, KEY, Outbox, World, audited, let_in, listen, memory, new_app, on_every_backend,
};

on_every_backend! {
    every_refused_action_is_audited_once_with_who_tried_and_why,
    a_look_at_a_foreign_app_is_audited,
}

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

struct Action {
    path: &'static str,
    content_type: &'static str,
    body: String,
    /// As the audit has it where it is refused before it becomes one of its own.
    name: &'static str,
}

fn actions(token: &str) -> Vec<Action> {
    let action =
        |path, content_type, body: &str, name| Action { path, content_type, body: body.to_owned(), name };
    let ignored = r#"{"resolution":"ignored"}"#;
    vec![
        action("/api/apps/{app}/letters/{id}/resolve", JSON, ignored, "resolve"),
        action("/api/apps/{app}/letters/{id}/replay", JSON, "{}", "replay"),
        action("/api/apps/{app}/letters/{id}/reopen", JSON, "{}", "reopen"),
        action("/api/apps/{app}/letters/{id}/reveal", JSON, "", "reveal"),
        action("/api/apps/{app}/letters/{id}/replayed-payload/reveal", JSON, "", "reveal"),
        action("/api/apps/{app}/letters/{id}/metadata/reveal", JSON, "", "reveal"),
        action("/api/bulk/preview", JSON, r#"{"apps":["{app}"],"action":"ignored","filter":{}}"#, "preview"),
        action("/api/bulk/run", JSON, &json!({ "token": token }).to_string(), "run"),
        action("/apps/{app}/letters/{id}/resolve", FORM, "resolution=ignored", "resolve"),
        action("/apps/{app}/letters/{id}/replay", FORM, "", "replay"),
        action("/apps/{app}/letters/{id}/reopen", FORM, "", "reopen"),
        action("/apps/{app}/letters/{id}/reveal", FORM, "", "reveal"),
        action("/apps/{app}/letters/{id}/erase", FORM, "confirmed=true", "erase"),
        action("/apps/{app}/letters/{id}/edit", FORM, "", "edit"),
        action("/apps/{app}/letters/{id}/edit/review", FORM, "version=1&payload=1", "edit"),
        action("/apps/{app}/letters/{id}/edit/replay", FORM, "version=1&payload=1", "edit"),
        action("/bulk/preview", FORM, "app={app}&action=ignored", "preview"),
        action("/bulk/run", FORM, &format!("token={token}"), "run"),
    ]
}

impl Action {
    async fn send(
        &self,
        client: &Client,
        app: AppId,
        id: DeadLetterId,
        headers: &[(&'static str, &str)],
    ) -> Answer {
        let path = self.path.replace("{app}", &app.to_string()).replace("{id}", &id.to_string());
        let mut request = Request::post(path).header(CONTENT_TYPE, self.content_type);
        for &(name, value) in headers {
            request = request.header(HeaderName::from_static(name), value);
        }
        client.send(request.body(Body::from(self.body.replace("{app}", &app.to_string()))).unwrap()).await
    }
}

async fn token(client: &Client, app: AppId, action: &str) -> String {
    let preview = json!({ "apps": [app], "action": action, "filter": {} });
    let preview = client.post("/api/bulk/preview", preview).await.json();
    preview["token"].as_str().unwrap().to_owned()
}

#[track_caller]
fn one() -> Audited {
    let told = audited();
    let [entry] = &told[..] else { panic!("one attempt, one entry: {told:?}") };
    entry.clone()
}

async fn every_refused_action_is_audited_once_with_who_tried_and_why(world: World) {
    listen();
    let id = world.letter().await;
    let ada = world.client();
    let token = token(&ada, world.app, "ignored").await;
    audited();
    let reader = Client::from(world.admin_of(Operator::reader("bob")));
    let of_other = Client::from(world.admin_of(Operator::full("bob").of_apps([new_app()])));
    let nobody =
        Client::from(Admin::new(Arc::new(world.repo.clone()), |_: &Parts| Err(Denied::unauthenticated())));
    for action in actions(&token) {
        let path = action.path;
        for (client, headers, status, problem, operator) in [
            (&reader, &[][..], 403, "forbidden", "bob"),
            (&of_other, &[], 404, "not-found", "bob"),
            (&nobody, &[], 401, "unauthenticated", ""),
            (&ada, &[("sec-fetch-site", "cross-site")], 403, "cross-site", ""),
        ] {
            // A token's operator is checked first.
            let (status, problem) = match (action.name, status) {
                ("run", 403) if problem == "forbidden" => (410, "preview-expired"),
                _ => (status, problem),
            };
            // The apps of a bulk request are known once it is read.
            let is_read = status != 401 && problem != "cross-site";
            let app = if is_read || !path.contains("/bulk/") { world.app.to_string() } else { String::new() };
            let answer = action.send(client, world.app, id, headers).await;
            assert_eq!(answer.status.as_u16(), status, "{path} {problem}: {answer}");
            let entry = one();
            for (field, value) in [
                ("action", action.name),
                ("outcome", "refused"),
                ("problem", problem),
                ("operator", operator),
                ("status", &status.to_string()),
                ("app_id", &app),
                ("count", "0"),
            ] {
                assert_eq!(entry.field(field), value, "{path} {problem}: {entry:?}");
            }
            let letters = if path.contains("letters/") { format!("ids={id}") } else { String::new() };
            assert_eq!(entry.field("letters"), letters, "{path}");
        }
    }
    assert_eq!(world.row(id).await.resolved_at, None);
    assert!(world.outbox.events().is_empty());
}

#[tokio::test]
async fn a_wrong_token_and_a_wrong_field_are_audited_once() {
    listen();
    let (store, app) = (memory().await, new_app());
    let id = store.insert(letter(app)).await.unwrap();
    let replay = Arc::new(store.replayer(Arc::<Outbox>::default()));
    let admin = |operator| {
        Admin::new(Arc::new(store.clone()), let_in(operator)).replay(replay.clone()).key(KEY).unwrap()
    };
    let ada = Client::from(admin(Operator::full("ada")));
    let of_bob = token(&Client::from(admin(Operator::full("bob"))), app, "ignored").await;
    let note = "x".repeat(2_001);
    let run = "/api/bulk/run".to_owned();
    let letter = format!("/api/apps/{app}/letters/{id}");
    for (path, body, status, action) in [
        (&run, json!({ "token": "forged" }), 400, "run"),
        (&run, json!({ "token": of_bob }), 410, "run"),
        (&run, json!({}), 400, "run"),
        (&format!("{letter}/resolve"), json!({ "resolution": "ignored", "note": note }), 400, "resolve"),
        (&format!("{letter}/resolve"), json!({ "resolution": "replayed" }), 400, "resolve"),
        (&format!("{letter}/replay"), json!({ "note": note }), 400, "replay"),
        (&format!("{letter}/replay"), json!([]), 400, "replay"),
        (
            &"/api/bulk/preview".to_owned(),
            json!({ "apps": [app], "action": "ignored", "filter": { "x": 1 } }),
            400,
            "preview",
        ),
    ] {
        let answer = ada.post(path, body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {body}");
        let entry = one();
        assert_eq!(
            (entry.field("action"), entry.field("outcome"), entry.field("operator")),
            (action, "refused", "ada")
        );
        assert_eq!(entry.field("status"), status.to_string());
        assert!(!format!("{entry:?}").contains("xxx"), "{entry:?}");
    }
    // A body that is too large, or of another type.
    for (content_type, body) in [(JSON, "x".repeat(300 << 10)), ("text/plain", "{}".to_owned())] {
        ada.post_as(format!("{letter}/replay"), content_type, body).await;
        assert_eq!(one().field("outcome"), "refused");
    }
    // A request that is no action is not audited.
    ada.call(Method::PUT, &format!("{letter}/replay")).await;
    ada.post("/nowhere", json!({})).await;
    ada.get(format!("/api/apps/{app}/letters?size=0")).await;
    assert_eq!(audited(), []);
}

async fn a_look_at_a_foreign_app_is_audited(world: World) {
    listen();
    let id = world.letter().await;
    let client = Client::from(world.admin_of(Operator::reader("bob").of_apps([new_app()])));
    for path in [
        format!("/apps/{}", world.app),
        format!("/apps/{}/groups", world.app),
        format!("/apps/{}/letters/{id}", world.app),
        world.path("letters"),
        world.path(&format!("letters/{id}/payload")),
    ] {
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(client.call(method, &path).await.status, StatusCode::NOT_FOUND);
            let entry = one();
            assert_eq!(
                ["operator", "action", "outcome"].map(|field| entry.field(field)),
                ["bob", "read", "refused"]
            );
            assert_eq!(entry.field("app_id"), world.app.to_string());
        }
    }
    // One that is nobody's is to them the same; one of their own without letters is no attempt.
    client.get(format!("/apps/{}", Uuid::nil())).await;
    one();
    client.get("/apps").await;
    assert_eq!(audited(), []);
}

#[tokio::test]
async fn an_attempt_whose_client_hangs_up_is_audited() {
    listen();
    let (store, app) = (memory().await, new_app());
    let id = store.insert(letter(app)).await.unwrap();
    let client = Client::from(Admin::new(Arc::new(store), let_in(Operator::reader("bob"))));
    let action = &actions("")[0];
    tokio::select! {
        biased;
        _ = action.send(&client, app, id, &[]) => panic!("it is answered at once"),
        () = std::future::ready(()) => {}
    }
    let mut told = audited();
    for _ in 0..1_000 {
        if told.is_empty() {
            tokio::task::yield_now().await;
            told = audited();
        }
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].field("operator"), told[0].field("problem")), ("bob", "forbidden"));
}

#[tokio::test]
async fn an_operator_of_an_endless_name_is_not_let_in() {
    let store = Arc::new(memory().await);
    let named = |name: String| Client::from(Admin::new(store.clone(), let_in(Operator::full(name))));
    assert_eq!(named("é".repeat(200)).get("/api/apps").await.status, StatusCode::OK);
    named("é".repeat(201)).get("/api/apps").await.problem(403, "forbidden");
}

#[tokio::test]
async fn insecure_allow_all_serves_only_names_of_the_loopback_interface() {
    let (store, app) = (memory().await, new_app());
    let id = store.insert(letter(app)).await.unwrap();
    let operator = Operator::full("ada").with(Right::Payloads);
    let client = Client::from(Admin::new(Arc::new(store.clone()), InsecureAllowAll(operator)));
    let status = async |method: Method, path: String, hosts: &[&str]| {
        let mut request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, FORM);
        for host in hosts {
            request = request.header("host", *host);
        }
        client.send(request.body(Body::from("resolution=ignored")).unwrap()).await
    };
    for hosts in [
        &["evil.example"][..],
        &["localhost.evil.example"],
        &["127.0.0.1.evil.example:80"],
        &["10.0.0.1"],
        &[""],
        &["localhost", "evil.example"],
        &["user@evil.example"],
        &["0.0.0.0"],
    ] {
        for path in [format!("/apps/{app}"), format!("/api/apps/{app}/letters/{id}/payload")] {
            let answer = status(Method::GET, path, hosts).await;
            assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{hosts:?}: {answer}");
            assert_eq!(answer.header("cache-control"), "no-store");
            assert!(answer.header("content-security-policy").starts_with("default-src 'none'"));
        }
        let answer = status(Method::POST, format!("/apps/{app}/letters/{id}/resolve"), hosts).await;
        assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{hosts:?}: {answer}");
    }
    let other = status(Method::GET, format!("http://evil.example/apps/{app}"), &["localhost"]).await;
    assert_eq!(other.status, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(store.get(id).await.unwrap().unwrap().resolved_at, None);
    for hosts in
        [&["localhost"][..], &["LOCALHOST:8025"], &["127.0.0.1:80"], &["127.1.2.3"], &["[::1]:80"], &[]]
    {
        let answer = status(Method::GET, format!("/apps/{app}"), hosts).await;
        assert_eq!(answer.status, StatusCode::OK, "{hosts:?}: {answer}");
    }
}
