//! The service's own tests: with the real store in memory, and with one that fails as told.

use std::{error::Error, process::Command, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header::CONTENT_TYPE},
};
use dead_letters::{
    AppId, DeadLetterRepo, OnOpen, SeaOrmDeadLetterRepo, connect_options,
    testing::{Call, FailingStore, internal, letter, transient},
};
use dead_letters_admin::{BearerToken, InsecureAllowAll, Operator};
use http_body_util::BodyExt;
use orders::{
    admin,
    dispatcher::dispatch,
    outbox::{Migrator, Outbox, event},
};
use sea_orm::{ActiveModelTrait, ActiveValue::Set, EntityTrait, PaginatorTrait};
use serde_json::Value;
use tower::ServiceExt;
use uuid::Uuid;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

async fn open() -> Result<SeaOrmDeadLetterRepo> {
    Ok(dead_letters::open(connect_options("sqlite::memory:"), OnOpen::Migrate, Migrator).await?)
}

fn service(repo: &SeaOrmDeadLetterRepo) -> Router {
    let ada = InsecureAllowAll(Operator::full("ada"));
    admin::router(Arc::new(repo.clone()), repo.replayer(Outbox), ada)
}

async fn send(service: &Router, method: &str, path: &str, body: &str) -> Result<(StatusCode, Value)> {
    let request = Request::builder().method(method).uri(format!("/admin/dead-letters{path}"));
    let request = request.header(CONTENT_TYPE, "application/json");
    let answer = service.clone().oneshot(request.body(Body::from(body.to_owned()))?).await?;
    let (status, body) = (answer.status(), answer.into_body().collect().await?.to_bytes());
    let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
    Ok((status, serde_json::from_slice(&body).unwrap_or_else(|_| text())))
}

#[tokio::test]
async fn an_event_that_fails_three_times_is_seen_and_can_be_replayed_once() -> Result {
    let repo = open().await?;
    let (service, app, event_id) = (service(&repo), Uuid::new_v4(), Uuid::new_v4());
    let payload = Set(r#"{"order":4711}"#.to_owned());
    let event = event::ActiveModel { id: Set(event_id), app_id: Set(app), payload, attempts: Set(0) };
    event.insert(repo.pool()).await?;
    for _ in 0..3 {
        dispatch(&repo, |_| Err("no stock".to_owned())).await?;
    }
    assert_eq!(event::Entity::find().count(repo.pool()).await?, 0);

    let (_, apps) = send(&service, "GET", "/api/apps", "").await?;
    let apps = &apps["items"];
    assert_eq!((&apps[0]["app_id"], &apps[0]["open"]["count"]), (&app.to_string().into(), &1.into()));
    let listed = format!("/api/apps/{app}/letters?source=orders&size=10");
    let (_, page) = send(&service, "GET", &listed, "").await?;
    let letter = &page["items"][0];
    assert_eq!(letter["error_excerpt"], "no stock");

    let replay = format!("/api/apps/{app}/letters/{}/replay", letter["id"].as_str().ok_or("no id")?);
    assert_eq!(send(&service, "POST", &replay, "{}").await?.0, StatusCode::OK);
    assert_eq!(send(&service, "POST", &replay, "{}").await?.0, StatusCode::CONFLICT);
    let back = event::Entity::find_by_id(event_id).one(repo.pool()).await?.ok_or("not in the outbox")?;
    assert_eq!(back.payload, r#"{"order":4711}"#);
    Ok(())
}

#[tokio::test]
async fn a_letter_is_resolved_with_a_note() -> Result {
    let repo = open().await?;
    let app = AppId::from(Uuid::new_v4());
    let id = repo.insert(letter(app)).await?;
    let ignored = r#"{"resolution":"ignored","note":"sold out"}"#;
    let path = format!("/api/apps/{app}/letters/{id}/resolve");
    let (status, row) = send(&service(&repo), "POST", &path, ignored).await?;
    assert_eq!((status, &row["resolved_by"]), (StatusCode::OK, &"ada".into()));
    Ok(())
}

#[tokio::test]
async fn operators_see_the_letter_on_a_page_and_strangers_see_nothing() -> Result {
    let repo = open().await?;
    let app = AppId::from(Uuid::new_v4());
    repo.insert(letter(app)).await?;
    for path in ["/apps".to_owned(), format!("/apps/{app}")] {
        let (status, page) = send(&service(&repo), "GET", &path, "").await?;
        assert_eq!(status, StatusCode::OK);
        assert!(page.to_string().contains(&app.to_string()), "{page}");
        let token = BearerToken::new("secret", Operator::full("ops"));
        let strict = admin::router(Arc::new(repo.clone()), repo.replayer(Outbox), token);
        let (status, page) = send(&strict, "GET", &path, "").await?;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(!page.to_string().contains("orders"), "{page}");
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_field_of_a_query_is_named() -> Result {
    let service = service(&open().await?);
    let path = format!("/api/apps/{}/letters?sauce=orders", Uuid::new_v4());
    let (status, problem) = send(&service, "GET", &path, "").await?;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(problem["field"], "sauce");
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_busy_is_503_and_one_that_is_broken_is_500() -> Result {
    let repo = open().await?;
    let store = Arc::new(FailingStore::new(repo.clone()));
    let ada = InsecureAllowAll(Operator::full("ada"));
    let service = admin::router(store.clone(), repo.replayer(Outbox), ada);
    store.fail(Call::Backlogs, ..1, transient());
    assert_eq!(send(&service, "GET", "/api/apps", "").await?.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(send(&service, "GET", "/api/apps", "").await?.0, StatusCode::OK);
    store.fail(Call::Backlogs, .., internal());
    assert_eq!(send(&service, "GET", "/api/apps", "").await?.0, StatusCode::INTERNAL_SERVER_ERROR);
    Ok(())
}

#[test]
fn the_services_own_tool_creates_its_tables() {
    let tool = Command::new(env!("CARGO_BIN_EXE_orders-dead-letters"))
        .args(["--database-url", "sqlite::memory:", "migrate", "up"])
        .output()
        .unwrap();
    let applied = String::from_utf8(tool.stdout).unwrap();
    assert!(tool.status.success() && applied.lines().any(|step| step == "outbox"), "{applied}");
}
