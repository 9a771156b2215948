//! Tests of attacks and accidents.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{
        Method, Request, StatusCode, Uri,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
};
use dead_letters::{
    AppId, DeadLetterId, DeadLetterRepo, NewDeadLetter, OnOpen, connect_options,
    migration::Migrator,
    open,
    testing::{Call, FailingStore, internal, letter},
};
use dead_letters_admin::{Admin, Operator, Right};
use futures_util::stream;
use http_body_util::BodyExt;
use sea_orm::{ConnectOptions, TransactionTrait};
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use uuid::Uuid;

use crate::support::{Answer, Client, Outbox, World, let_in, memory, new_app, on_every_backend};

on_every_backend! {
    an_action_is_not_done_by_another_method_or_from_another_site,
    a_payload_of_64_mb_is_on_no_page_and_is_downloaded_as_stored,
    a_page_of_500_letters_with_long_errors_is_small,
}

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

/// An action, which is a POST.
struct Action {
    path: String,
    content_type: &'static str,
    body: String,
}

impl Action {
    fn request(&self) -> axum::http::request::Builder {
        Request::post(&self.path).header("host", "ops.example").header(CONTENT_TYPE, self.content_type)
    }

    async fn send(&self, client: &Client) -> Answer {
        client.send(self.request().body(self.body.clone().into()).unwrap()).await
    }
}

/// All of them, by the API and by the pages. The token is a preview's.
fn actions(app: AppId, id: DeadLetterId, token: &str) -> Vec<Action> {
    let by_api = [
        (format!("letters/{id}/resolve"), json!({ "resolution": "ignored" })),
        (format!("letters/{id}/replay"), json!({})),
        (format!("letters/{id}/reopen"), json!({})),
        (format!("letters/{id}/reveal"), json!({})),
        (format!("letters/{id}/metadata/reveal"), json!({})),
        (format!("letters/{id}/replay"), json!({ "payload": "1" })),
        ("erase".to_owned(), json!({ "ids": [id] })),
        ("letters/search".to_owned(), json!({ "payload_contains": "4711" })),
        ("groups/search".to_owned(), json!({ "payload_contains": "4711" })),
        ("bulk/preview".to_owned(), json!({ "apps": [app], "action": "ignored", "filter": {} })),
        ("bulk/run".to_owned(), json!({ "token": token })),
    ];
    let by_form = [
        (format!("letters/{id}/resolve"), "resolution=ignored".to_owned()),
        (format!("letters/{id}/replay"), String::new()),
        (format!("letters/{id}/reopen"), String::new()),
        (format!("letters/{id}/reveal"), String::new()),
        (format!("letters/{id}/erase"), String::new()),
        (format!("letters/{id}/edit"), String::new()),
        (format!("letters/{id}/edit/review"), "version=1&payload=1".to_owned()),
        (format!("letters/{id}/edit/replay"), "version=1&payload=1".to_owned()),
        ("search".to_owned(), "payload_contains=4711".to_owned()),
        ("search".to_owned(), "payload_contains=4711&groups=true".to_owned()),
        ("bulk/preview".to_owned(), format!("app={app}&action=ignored")),
        ("bulk/run".to_owned(), format!("token={token}")),
        ("bulk/undo".to_owned(), format!("app={app}&run_id={}", Uuid::nil())),
    ];
    let by_api = by_api.into_iter().map(|(path, body)| Action {
        path: if path.starts_with("bulk/") {
            format!("/api/{path}")
        } else {
            format!("/api/apps/{app}/{path}")
        },
        content_type: JSON,
        body: body.to_string(),
    });
    let by_form = by_form.into_iter().map(|(path, body)| Action {
        path: if path.starts_with("bulk/") { format!("/{path}") } else { format!("/apps/{app}/{path}") },
        content_type: FORM,
        body,
    });
    by_api.chain(by_form).collect()
}

fn views(app: AppId, id: DeadLetterId) -> Vec<String> {
    let mut views = Vec::new();
    for root in ["", "/api"] {
        views.push(format!("{root}/apps"));
        views.push(format!("{root}/apps/{app}/groups"));
        views.push(format!("{root}/apps/{app}/letters/{id}"));
    }
    views.extend([format!("/apps/{app}"), format!("/api/apps/{app}/letters")]);
    views.extend(
        ["timeline".to_owned(), format!("letters/{id}/payload")]
            .map(|path| format!("/api/apps/{app}/{path}")),
    );
    views
}

async fn token(client: &Client, app: AppId) -> String {
    let body = json!({ "apps": [app], "action": "replayed", "filter": {} });
    let preview = client.post("/api/bulk/preview", body).await.json();
    preview["token"].as_str().unwrap().to_owned()
}

async fn an_action_is_not_done_by_another_method_or_from_another_site(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let actions = actions(world.app, id, &token(&client, world.app).await);
    for action in &actions {
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::PATCH, Method::DELETE] {
            let request = action.request().method(&method).header("x-http-method-override", "POST");
            let request = request.uri(format!("{}?_method=POST", action.path));
            let answer = client.send(request.body(action.body.clone().into()).unwrap()).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {}", action.path);
        }
        for (name, value) in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "https://evil.example"),
            ("origin", "https://ops.example.evil.example"),
            ("origin", "null"),
        ] {
            let request = action.request().header(name, value);
            let answer = client.send(request.body(action.body.clone().into()).unwrap()).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{name}: {value} to {}", action.path);
        }
    }
    assert_eq!(world.row(id).await.resolved_at, None);
    assert!(world.outbox.events().is_empty());
    for action in actions {
        let request = action.request().header("origin", "https://ops.example");
        let status = client.send(request.body(action.body.into()).unwrap()).await.status;
        let is_taken = [StatusCode::OK, StatusCode::SEE_OTHER, StatusCode::CONFLICT].contains(&status);
        assert!(is_taken, "{}: {status}", action.path);
    }
}

#[tokio::test]
async fn a_body_of_100_mb_is_refused_after_its_beginning() {
    const PART: Bytes = Bytes::from_static(&[b' '; 1 << 16]);
    let client = Client::from(Admin::new(
        Arc::new(memory().await),
        let_in(Operator::full("ada").with(Right::Edit).with(Right::Delete)),
    ));
    let actions = actions(new_app(), Uuid::new_v4().into(), "");
    for action in actions {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let parts = (0..100 << 4).map(move |_| {
            count.fetch_add(PART.len(), Ordering::Relaxed);
            Ok::<_, Infallible>(PART)
        });
        let answer =
            client.send(action.request().body(Body::from_stream(stream::iter(parts))).unwrap()).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", action.path);
        assert!(sent.load(Ordering::Relaxed) < 1 << 20, "{}", action.path);
    }
}

#[tokio::test]
async fn a_form_of_nonsense_is_a_page_that_names_the_field() {
    let client = Client::from(Admin::new(
        Arc::new(memory().await),
        let_in(Operator::full("ada").with(Right::Edit).with(Right::Delete)),
    ));
    let (app, id) = (new_app(), Uuid::new_v4());
    let resolve = format!("/apps/{app}/letters/{id}/resolve");
    let long = "x".repeat(10_000);
    let (preview, of_app) = ("/bulk/preview".to_owned(), format!("app={app}"));
    for (path, form, field) in [
        (&resolve, "", "resolution"),
        (&resolve, "resolution=replayed", "resolution"),
        (&resolve, "resolution=ignored&resolution=ignored", "resolution"),
        (&resolve, &format!("resolution=ignored&note={long}"), "note"),
        (&resolve, "resolution=ignored&back=%00", "back"),
        (&preview, &format!("{of_app}&action=nothing"), "action"),
        (&preview, &format!("{of_app}&action=ignored&sauce=orders"), "sauce"),
        (&preview, &format!("{of_app}&action=ignored&source={long}"), "source"),
        (&preview, "action=ignored", "app"),
        (&preview, &format!("{of_app}&{of_app}&action=ignored"), "app"),
        (&"/bulk/run".to_owned(), "token=x", "token"),
        (&"/bulk/undo".to_owned(), &format!("{of_app}&run_id=x"), "run_id"),
        (&"/bulk/undo".to_owned(), &format!("{of_app}&back="), "run_id"),
        (&"/bulk/run".to_owned(), "token=x&limit=many", "limit"),
        (&"/bulk/run".to_owned(), "token=x&all=true", "all"),
    ] {
        let answer = client.post_as(path, FORM, form.to_owned()).await;
        refused(&answer, field);
    }
    for view in ["", "/groups"] {
        refused(&client.get(format!("/apps/{app}{view}?source={long}")).await, "source");
        // The form of the list, without the long name.
        let answer = client.get(format!("/apps/{app}{view}?{long}=1")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer}");
        assert!(answer.text().contains("xxxx") && answer.body.len() < 8_000, "{answer}");
    }
    let answer = client.post_as(resolve, JSON, r#"{"resolution":"ignored"}"#).await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

fn refused(answer: &Answer, field: &str) {
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{field}: {answer}");
    assert!(answer.header(CONTENT_TYPE).starts_with("text/html"), "{answer}");
    let detail = answer.text().split("data-problem").nth(1).unwrap();
    assert!(detail.contains(field) && answer.body.len() < 5_000, "{field}: {answer}");
}

/// Says so, and when to come again.
fn unavailable(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert_eq!(answer.header(RETRY_AFTER), "5");
    assert!(answer.text().contains("The database is unavailable"), "{answer}");
}

/// A proxy between a service and its database.
struct Link {
    address: SocketAddr,
    upstream: String,
    task: JoinHandle<()>,
}

impl Link {
    async fn new(address: SocketAddr, upstream: String) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (address, to) = (listener.local_addr().unwrap(), upstream.clone());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let mut far = TcpStream::connect(&to).await.unwrap();
                connections.spawn(async move { copy_bidirectional(&mut near, &mut far).await });
            }
        });
        Self { address, upstream, task }
    }

    async fn cut(self) -> (SocketAddr, String) {
        self.task.abort();
        self.task.await.ok();
        (self.address, self.upstream)
    }
}

#[tokio::test]
async fn on_postgresql_a_database_that_is_gone_is_to_be_asked_again_until_it_is_back() {
    let world = World::postgres().await;
    let database: Uri = world.url().parse().unwrap();
    let upstream = format!("{}:{}", database.host().unwrap(), database.port_u16().unwrap_or(5432));
    let link = Link::new(([127, 0, 0, 1], 0).into(), upstream.clone()).await;
    let mut options = connect_options(world.url().replace(&upstream, &link.address.to_string()));
    options.acquire_timeout(Duration::from_millis(200));
    let repo = open(options, OnOpen::Check, Migrator).await.unwrap();
    let app = new_app();
    let id = repo.insert(letter(app)).await.unwrap();
    let client = Client::from(Admin::new(
        Arc::new(repo.clone()),
        let_in(Operator::full("ada").with(Right::Edit).with(Right::Delete)),
    ));
    for view in views(app, id) {
        assert_eq!(client.get(&view).await.status, StatusCode::OK, "{view}");
    }

    let (address, upstream) = link.cut().await;
    for view in views(app, id) {
        unavailable(&client.get(&view).await);
    }
    let resolve = format!("/apps/{app}/letters/{id}/resolve");
    unavailable(&client.post_as(&resolve, FORM, "resolution=ignored").await);

    let _link = Link::new(address, upstream).await;
    for view in views(app, id) {
        assert_eq!(client.get(&view).await.status, StatusCode::OK, "{view}");
    }
    assert_eq!(repo.get(id).await.unwrap().unwrap().resolved_at, None);
}

#[tokio::test]
async fn on_postgresql_a_database_that_is_read_only_is_read_and_actions_are_to_be_tried_again() {
    let world = World::postgres().await;
    let (app, joint) = (new_app(), if world.url().contains('?') { '&' } else { '?' });
    let id = world.repo.insert(letter(app)).await.unwrap();
    let read_only = format!("{}{joint}options=-c%20default_transaction_read_only%3Don", world.url());
    actions_are_to_be_tried_again(connect_options(read_only), app, id).await;
}

#[tokio::test]
async fn on_sqlite_while_another_writer_is_at_work_views_are_there_and_actions_are_to_be_tried_again() {
    let world = World::sqlite().await;
    let app = new_app();
    let id = world.repo.insert(letter(app)).await.unwrap();
    let writer = world.repo.pool().begin().await.unwrap();
    world.repo.in_transaction(&writer).insert(letter(app)).await.unwrap();
    let mut impatient = connect_options(world.url());
    impatient.map_sqlx_sqlite_opts(|sqlite| sqlite.busy_timeout(Duration::from_millis(10)));
    actions_are_to_be_tried_again(impatient, app, id).await;
}

#[tokio::test]
async fn on_sqlite_a_database_that_is_read_only_is_read_and_actions_are_to_be_tried_again() {
    let world = World::sqlite().await;
    let app = new_app();
    let id = world.repo.insert(letter(app)).await.unwrap();
    let mut read_only = connect_options(world.url());
    read_only.map_sqlx_sqlite_opts(|sqlite| sqlite.pragma("query_only", "on"));
    actions_are_to_be_tried_again(read_only, app, id).await;
}

/// Checks that an admin with these connection options shows every view, and refuses actions as unavailable.
async fn actions_are_to_be_tried_again(options: ConnectOptions, app: AppId, id: DeadLetterId) {
    let repo = open(options, OnOpen::Check, Migrator).await.unwrap();
    let client = Client::from(Admin::new(
        Arc::new(repo.clone()),
        let_in(Operator::full("ada").with(Right::Edit).with(Right::Delete)),
    ));
    for view in views(app, id) {
        assert_eq!(client.get(&view).await.status, StatusCode::OK, "{view}");
    }
    for (path, content_type, body) in [
        (format!("/apps/{app}/letters/{id}/resolve"), FORM, "resolution=ignored"),
        (format!("/api/apps/{app}/letters/{id}/resolve"), JSON, r#"{"resolution":"ignored"}"#),
    ] {
        unavailable(&client.post_as(path, content_type, body).await);
    }
    assert_eq!(repo.get(id).await.unwrap().unwrap().resolved_at, None);
}

#[tokio::test]
async fn a_store_that_hangs_is_given_up_until_it_goes_on() {
    let repo = memory().await;
    let store = Arc::new(FailingStore::new(repo.clone()));
    let replay = Arc::new(FailingStore::new(repo.replayer(Arc::<Outbox>::default())));
    let app = new_app();
    let id = repo.insert(letter(app)).await.unwrap();
    let admin =
        Admin::new(store.clone(), let_in(Operator::full("ada").with(Right::Edit).with(Right::Delete)))
            .replay(replay.clone());
    let client = Client::from(admin);
    let actions = actions(app, id, &token(&client, app).await);
    for &call in Call::ALL {
        store.hang(call, ..);
        replay.hang(call, ..);
    }
    // From here on time passes where all wait.
    tokio::time::pause();
    for view in views(app, id) {
        unavailable(&client.get(view).await);
        // A view that was given up keeps its turn until its statement has ended.
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    for action in actions {
        unavailable(&action.send(&client).await);
    }
    tokio::time::resume();
    store.recover();
    for view in views(app, id) {
        assert_eq!(client.get(&view).await.status, StatusCode::OK, "{view}");
    }
    assert_eq!(repo.get(id).await.unwrap().unwrap().resolved_at, None);
}

async fn a_payload_of_64_mb_is_on_no_page_and_is_downloaded_as_stored(world: World) {
    let text = format!("[{}0]", "\"é😀\\u00e9</script>\",".repeat((64 << 20) / 24));
    let id = world
        .stored("2026-03-01T10:00:00Z", |mut letter| {
            letter.payload = text.clone();
            letter
        })
        .await;
    let store = Arc::new(FailingStore::new(world.repo.clone()));
    let client = Client::from(Admin::new(
        store.clone(),
        let_in(Operator::full("ada").with(Right::Edit).with(Right::Delete)),
    ));
    // By each of these calls a payload comes out of the store.
    for call in
        [Call::Get, Call::GetForApp, Call::ListForApp, Call::Export, Call::PayloadText, Call::ResolveOnce]
    {
        store.fail(call, .., internal());
    }
    let download = format!("/api/apps/{}/letters/{id}/payload", world.app);
    for view in views(world.app, id).into_iter().filter(|view| *view != download) {
        let answer = client.get(&view).await;
        assert!(
            answer.status == StatusCode::OK && answer.body.len() < 50_000,
            "{view}: {}",
            answer.body.len()
        );
    }
    let resolve = format!("/apps/{}/letters/{id}/resolve", world.app);
    assert_eq!(client.post_as(resolve, FORM, "resolution=ignored").await.status, StatusCode::SEE_OTHER);

    store.recover();
    let mut answer = client.stream(&download).await;
    let name = answer.headers()["content-disposition"].to_str().unwrap();
    assert_eq!(name, format!("attachment; filename=\"dead-letter-{id}.json\""));
    let mut rest = text.as_bytes();
    while let Some(frame) = answer.body_mut().frame().await {
        let part = frame.unwrap().into_data().unwrap();
        assert!(part.len() <= 64 << 10, "{} bytes at once", part.len());
        rest = rest.strip_prefix(&part[..]).expect("it is not as stored");
    }
    assert_eq!(rest.len(), 0);
}

async fn a_page_of_500_letters_with_long_errors_is_small(world: World) {
    let last_error = "<\"&'>\u{202e}".repeat(20_000);
    let letters = vec![NewDeadLetter { last_error, ..letter(world.app) }; 500];
    world.repo.insert_many(letters).await.unwrap();
    let client = world.client();
    for view in [format!("/apps/{}?size=500", world.app), world.path("letters?size=500")] {
        let answer = client.get(view).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.body.len() < 2_000_000, "{}", answer.body.len());
    }
}
