//! Who may do what: every route, for every right, of the own app, another one and none.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderName, Method, Request, StatusCode, header, request::Parts},
};
use dead_letters::testing::{FailingStore, letter};
use dead_letters::{AppId, DeadLetterReplay, DeadLetterRepo, DeadLetterRepoError, DeadLetterStore, testing};
use dead_letters_admin::{
    Admin, Authorize, BearerToken, Denied, Operator, Right, TrustedProxyHeader, status_of,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    Answer, Client, KEY, Outbox, World, fail_all, let_in, memory, new_app, on_every_backend,
};

on_every_backend! {
    a_letter_is_not_found_under_another_app,
}

/// Stand for the app, a letter and the token of a preview in the routes below.
const APP: &str = "{dead_letters_app}";
const LETTER: &str = "{dead_letters_id}";
const TOKEN: &str = "{token}";

struct Route {
    method: Method,
    path: &'static str,
    body: Sent,
    /// Besides reading.
    needs: Option<Right>,
}

enum Sent {
    Nothing,
    Json(&'static str),
    Form(&'static str),
}

fn get(path: &'static str) -> Route {
    Route { method: Method::GET, path, body: Sent::Nothing, needs: None }
}

fn post(path: &'static str, body: Sent, needs: Right) -> Route {
    Route { method: Method::POST, path, body, needs: Some(needs) }
}

/// A search, which every reader may do where nothing is redacted.
fn search(path: &'static str, body: Sent) -> Route {
    Route { needs: None, ..post(path, body, Right::Payloads) }
}

fn routes() -> Vec<Route> {
    use Right::{Delete, Edit, Payloads, Replay, Resolve};
    use Sent::{Form, Json, Nothing};
    let ignored = r#"{"apps":["{dead_letters_app}"],"action":"ignored","filter":{}}"#;
    let replayed = r#"{"apps":["{dead_letters_app}"],"action":"replayed","filter":{}}"#;
    let deleted = r#"{"apps":["{dead_letters_app}"],"action":"deleted","filter":{"source":"orders"}}"#;
    vec![
        get("/api/openapi.json"),
        get("/api/apps"),
        get("/api/groups/new"),
        get("/api/apps/{dead_letters_app}/letters"),
        search("/api/apps/{dead_letters_app}/letters/search", Json(r#"{"payload_contains":"4711"}"#)),
        search("/api/apps/{dead_letters_app}/groups/search", Json(r#"{"payload_contains":"4711"}"#)),
        get("/api/apps/{dead_letters_app}/letters/{dead_letters_id}"),
        get("/api/apps/{dead_letters_app}/letters/{dead_letters_id}/payload"),
        get("/api/apps/{dead_letters_app}/letters/{dead_letters_id}/replayed-payload"),
        get("/api/apps/{dead_letters_app}/groups"),
        get("/api/apps/{dead_letters_app}/actions"),
        get("/api/apps/{dead_letters_app}/timeline"),
        post(
            "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/resolve",
            Json(r#"{"resolution":"ignored"}"#),
            Resolve,
        ),
        post("/api/apps/{dead_letters_app}/letters/{dead_letters_id}/replay", Json("{}"), Replay),
        post("/api/apps/{dead_letters_app}/letters/{dead_letters_id}/reopen", Json("{}"), Resolve),
        post(
            "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/replay",
            Json(r#"{"payload":"1"}"#),
            Edit,
        ),
        post("/api/apps/{dead_letters_app}/letters/{dead_letters_id}/reveal", Nothing, Payloads),
        post(
            "/api/apps/{dead_letters_app}/letters/{dead_letters_id}/replayed-payload/reveal",
            Nothing,
            Payloads,
        ),
        post("/api/apps/{dead_letters_app}/letters/{dead_letters_id}/metadata/reveal", Nothing, Payloads),
        post(
            "/api/apps/{dead_letters_app}/erase",
            Json(r#"{"ids":["00000000-0000-0000-0000-000000000001"]}"#),
            Delete,
        ),
        post("/api/bulk/preview", Json(deleted), Delete),
        post("/api/bulk/preview", Json(ignored), Resolve),
        post("/api/bulk/preview", Json(replayed), Replay),
        post("/api/bulk/run", Json(r#"{"token":"{token}"}"#), Resolve),
        get("/"),
        get("/apps"),
        get("/apps/{dead_letters_app}"),
        search("/apps/{dead_letters_app}/search", Form("payload_contains=4711")),
        search("/apps/{dead_letters_app}/search", Form("payload_contains=4711&groups=true")),
        get("/apps/{dead_letters_app}/groups"),
        get("/apps/{dead_letters_app}/letters/{dead_letters_id}"),
        post(
            "/apps/{dead_letters_app}/letters/{dead_letters_id}/resolve",
            Form("resolution=ignored"),
            Resolve,
        ),
        post("/apps/{dead_letters_app}/letters/{dead_letters_id}/replay", Form(""), Replay),
        post("/apps/{dead_letters_app}/letters/{dead_letters_id}/reopen", Form(""), Resolve),
        post("/apps/{dead_letters_app}/letters/{dead_letters_id}/edit", Form(""), Edit),
        post(
            "/apps/{dead_letters_app}/letters/{dead_letters_id}/edit/review",
            Form("version=1&payload=1"),
            Edit,
        ),
        post(
            "/apps/{dead_letters_app}/letters/{dead_letters_id}/edit/replay",
            Form("version=1&payload=1"),
            Edit,
        ),
        post("/apps/{dead_letters_app}/letters/{dead_letters_id}/reveal", Form(""), Payloads),
        post("/apps/{dead_letters_app}/letters/{dead_letters_id}/erase", Form(""), Delete),
        post("/bulk/preview", Form("app={dead_letters_app}&action=deleted&source=orders"), Delete),
        post("/bulk/preview", Form("app={dead_letters_app}&action=ignored"), Resolve),
        post("/bulk/preview", Form("app={dead_letters_app}&action=replayed"), Replay),
        post("/bulk/run", Form("token={token}"), Resolve),
        post(
            "/bulk/undo",
            Form("app={dead_letters_app}&run_id=00000000-0000-0000-0000-000000000001"),
            Resolve,
        ),
        get("/runs/00000000-0000-0000-0000-000000000001?app={dead_letters_app}"),
    ]
}

impl Route {
    async fn send(&self, client: &Client, app: &str, letter: &str, token: &str) -> Answer {
        let request = Request::builder().method(&self.method);
        let request = request.uri(self.path.replace(APP, app).replace(LETTER, letter));
        let (content_type, body) = match self.body {
            Sent::Nothing => return client.send(request.body(Body::empty()).unwrap()).await,
            Sent::Json(body) => ("application/json", body),
            Sent::Form(body) => ("application/x-www-form-urlencoded", body),
        };
        let request = request.header(header::CONTENT_TYPE, content_type);
        client.send(request.body(Body::from(body.replace(TOKEN, token).replace(APP, app))).unwrap()).await
    }

    fn is_of_app(&self) -> bool {
        let in_body = |body: &str| body.contains(APP) || body.contains(TOKEN);
        self.path.contains(APP) || matches!(self.body, Sent::Json(body) | Sent::Form(body) if in_body(body))
    }
}

/// A store of which every call fails: what is refused must not have asked it, and what is allowed must.
async fn witness(authorize: impl Authorize) -> Client {
    let repo = memory().await;
    let store = FailingStore::new(repo.clone());
    let replay = FailingStore::new(repo.replayer(Arc::<Outbox>::default()));
    fail_all(&store, testing::internal);
    fail_all(&replay, testing::internal);
    let store: Arc<dyn DeadLetterStore> = Arc::new(store);
    let replay: Arc<dyn DeadLetterReplay> = Arc::new(replay);
    Admin::new(store, authorize).replay(replay).key(KEY).unwrap().into()
}

/// Returns a preview's token of an app. Any admin with the same key accepts it.
async fn token(app: AppId) -> String {
    let store = memory().await;
    let admin = Admin::new(Arc::new(store), let_in(Operator::full("ada"))).key(KEY).unwrap();
    let body = json!({ "apps": [app], "action": "ignored", "filter": {} });
    let preview = Client::from(admin).post("/api/bulk/preview", body).await.json();
    preview["token"].as_str().unwrap().to_owned()
}

fn every_set_of_rights() -> impl Iterator<Item = BTreeSet<Right>> {
    (0..1 << Right::ALL.len()).map(|set| {
        let is_in = |&(number, _): &(usize, Right)| set & (1 << number) != 0;
        Right::ALL.iter().copied().enumerate().filter(is_in).map(|(_, right)| right).collect()
    })
}

#[tokio::test]
async fn every_route_asks_for_its_right_before_the_store() {
    let (app, letter) = (new_app(), Uuid::new_v4().to_string());
    let token = token(app).await;
    for rights in every_set_of_rights() {
        let operator = rights.iter().copied().fold(Operator::reader("ada").of_apps([app]), Operator::with);
        let client = witness(let_in(operator)).await;
        for route in routes() {
            let answer = route.send(&client, &app.to_string(), &letter, &token).await;
            // Who edits a payload replays it.
            let lacks_replay = route.needs == Some(Right::Edit) && !rights.contains(&Right::Replay);
            let is_allowed = !lacks_replay && route.needs.is_none_or(|right| rights.contains(&right));
            let expected = match (is_allowed, route.path) {
                (false, _) => StatusCode::FORBIDDEN,
                (true, "/") => StatusCode::SEE_OTHER,
                (true, "/api/openapi.json") => StatusCode::OK,
                (true, path) if path.ends_with("?run=nonsense") => StatusCode::BAD_REQUEST,
                (true, _) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            assert_eq!(answer.status, expected, "{rights:?}: {} {}", route.method, route.path);
        }
    }
}

#[tokio::test]
async fn every_route_treats_another_app_as_one_that_does_not_exist() {
    let (own, other, letter) = (new_app(), new_app(), Uuid::new_v4().to_string());
    let token = token(other).await;
    let client = witness(let_in(Operator::full("ada").of_apps([own]))).await;
    for route in routes().into_iter().filter(Route::is_of_app) {
        let answer = route.send(&client, &other.to_string(), &letter, &token).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{} {}", route.method, route.path);
        let none = new_app().to_string();
        let as_none = route.send(&client, &none, &letter, &token).await;
        assert_eq!(as_none.status, StatusCode::NOT_FOUND, "{} {}", route.method, route.path);
        // A page's links have the address that was asked for.
        let (as_none, answer) =
            (as_none.text().replace(&none, ""), answer.text().replace(&other.to_string(), ""));
        assert_eq!(as_none, answer, "{} {}", route.method, route.path);
        // The API names the field of a body that is no id.
        if matches!(route.body, Sent::Json(body) if body.contains(APP) || body.contains(TOKEN)) {
            continue;
        }
        let nonsense = route.send(&client, "nonsense", &letter, &token).await;
        assert_eq!(nonsense.status, StatusCode::NOT_FOUND, "{} {}", route.method, route.path);
    }
}

async fn a_letter_is_not_found_under_another_app(world: World) {
    let other = new_app();
    let id = world.insert(letter(other)).await;
    let client = world.client();
    let is_of_letter = |route: &Route| route.path.contains(LETTER);
    for route in routes().into_iter().filter(is_of_letter) {
        let answer = route.send(&client, &world.app.to_string(), &id.to_string(), "").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{} {}", route.method, route.path);
    }
    assert_eq!(world.row(id).await.resolved_at, None);
    assert!(world.outbox.events().is_empty());
}

#[tokio::test]
async fn a_refused_client_gets_the_response_of_authorize_and_not_a_byte_of_the_store() {
    let nobody = |_: &Parts| Err(Denied::with((StatusCode::IM_A_TEAPOT, "who goes there?")));
    let client = witness(nobody).await;
    let (app, letter) = (new_app().to_string(), Uuid::new_v4().to_string());
    for route in routes() {
        for (app, letter) in [(&*app, &*letter), ("nonsense", "nonsense")] {
            let answer = route.send(&client, app, letter, "nonsense").await;
            let (status, text) = (answer.status, answer.text());
            assert_eq!((status, text), (StatusCode::IM_A_TEAPOT, "who goes there?"), "{}", route.path);
        }
    }
}

#[test]
fn an_error_of_the_store_has_a_status_by_its_kind() {
    let id = Uuid::nil().into();
    let errors = [
        (DeadLetterRepoError::NotFound(id), StatusCode::NOT_FOUND),
        (DeadLetterRepoError::NotResolved(id), StatusCode::CONFLICT),
        (DeadLetterRepoError::InvalidCursor, StatusCode::BAD_REQUEST),
        (testing::transient(), StatusCode::SERVICE_UNAVAILABLE),
        (testing::internal(), StatusCode::INTERNAL_SERVER_ERROR),
    ];
    for (error, status) in errors {
        assert_eq!(status_of(&error), status, "{error}");
    }
}

#[tokio::test]
async fn a_redirect_of_authorize_goes_out_as_it_is() {
    let to_login =
        |_: &Parts| Err(Denied::with((StatusCode::SEE_OTHER, [(header::LOCATION, "/login?next=here")])));
    let client = witness(to_login).await;
    let answer = client.get("/apps").await;
    assert_eq!((answer.status, answer.location()), (StatusCode::SEE_OTHER, "/login?next=here"));
}

#[tokio::test]
async fn every_operation_of_the_document_is_among_the_routes() {
    let client = witness(let_in(Operator::full("ada"))).await;
    let document = client.get("/api/openapi.json").await.json();
    let named: BTreeSet<_> = routes()
        .iter()
        .map(|route| {
            (route.path.split('?').next().unwrap().to_owned(), route.method.to_string().to_lowercase())
        })
        .collect();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            assert!(named.contains(&(path.clone(), method.clone())), "{method} {path}");
        }
    }
}

/// Who is let in is led from the root to the apps, without the store.
const LET_IN: StatusCode = StatusCode::SEE_OTHER;

async fn status(client: &Client, headers: &[(&str, &str)]) -> StatusCode {
    let request =
        headers.iter().fold(Request::get("/"), |request, &(name, value)| request.header(name, value));
    client.send(request.body(Body::empty()).unwrap()).await.status
}

#[tokio::test]
async fn a_bearer_token_lets_in_who_has_it() {
    let client = witness(BearerToken::new("secret", Operator::reader("ada"))).await;
    for known in ["Bearer secret", "bearer secret"] {
        assert_eq!(status(&client, &[("authorization", known)]).await, LET_IN, "{known}");
    }
    for unknown in ["Bearer secre", "Bearer secrets", "Bearer ", "Bearer", "Basic secret", "secret", ""] {
        let answer = status(&client, &[("authorization", unknown)]).await;
        assert_eq!(answer, StatusCode::UNAUTHORIZED, "{unknown}");
    }
    let answer = client.get("/api/apps").await;
    assert_eq!(answer.problem(401, "unauthenticated").get("field"), None::<&Value>);
    assert_eq!(answer.header("www-authenticate"), "Bearer");
}

#[tokio::test]
async fn an_empty_bearer_token_lets_nobody_in() {
    let client = witness(BearerToken::new("", Operator::reader("ada"))).await;
    for authorization in ["Bearer ", "Bearer", ""] {
        let answer = status(&client, &[("authorization", authorization)]).await;
        assert_eq!(answer, StatusCode::UNAUTHORIZED, "{authorization:?}");
    }
}

#[tokio::test]
async fn a_proxys_header_names_the_operator() {
    let known = |name: &str| (name == "ada").then(|| Operator::reader(name));
    let client = witness(TrustedProxyHeader::new(HeaderName::from_static("x-user"), known)).await;
    for (headers, expected) in [
        (&[("x-user", "ada")][..], LET_IN),
        (&[("x-user", "eve")], StatusCode::FORBIDDEN),
        (&[("x-user", "")], StatusCode::UNAUTHORIZED),
        (&[("x-user", "ada"), ("x-user", "ada")], StatusCode::UNAUTHORIZED),
        (&[("x-user", "ad\u{e4}")], StatusCode::UNAUTHORIZED),
        (&[], StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(status(&client, headers).await, expected, "{headers:?}");
    }
}

#[tokio::test]
async fn the_operator_of_a_resolution_is_the_authorized_one() {
    let app = new_app();
    let store = Arc::new(memory().await);
    let id = store.insert(letter(app)).await.unwrap();
    let by_header =
        TrustedProxyHeader::new(HeaderName::from_static("x-user"), |name| Some(Operator::full(name)));
    let client = Client::from(Admin::new(store.clone(), by_header));
    let request = Request::post(format!("/api/apps/{app}/letters/{id}/resolve"))
        .header("x-user", "bob")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(r#"{"resolution":"ignored"}"#))
        .unwrap();
    client.send(request).await.json();
    assert_eq!(store.get(id).await.unwrap().unwrap().resolved_by.as_deref(), Some("bob"));
}
