//! The service's own tests: with the real store in memory, and with one that fails as told.

use std::{error::Error, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header::CONTENT_TYPE},
};
use dead_letters::{
    AppId, DeadLetterRepo, Schema, SeaOrmDeadLetterRepo, connect_options,
    testing::{Call, FailingStore, internal, letter, transient},
};
use http_body_util::BodyExt;
use orders::{
    api::Api,
    dispatcher::dispatch,
    outbox::{Migrator, Outbox, event},
};
use sea_orm::{ActiveModelTrait, ActiveValue::Set, EntityTrait, PaginatorTrait};
use serde_json::Value;
use tower::ServiceExt;
use uuid::Uuid;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

async fn open() -> Result<SeaOrmDeadLetterRepo> {
    Ok(dead_letters::open::<Migrator>(connect_options("sqlite::memory:"), Schema::Migrate).await?)
}

fn service(repo: &SeaOrmDeadLetterRepo) -> Router {
    Api { store: Arc::new(repo.clone()), replay: repo.replayer(Outbox) }.into_router()
}

async fn send(service: &Router, method: &str, path: &str, body: &str) -> Result<(StatusCode, Value)> {
    let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
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

    let (_, apps) = send(&service, "GET", "/apps", "").await?;
    assert_eq!((&apps[0]["app_id"], &apps[0]["open"]["count"]), (&app.to_string().into(), &1.into()));
    let (_, page) = send(&service, "GET", &format!("/apps/{app}/letters?source=orders&size=10"), "").await?;
    let letter = &page["items"][0];
    assert_eq!(letter["error_excerpt"], "no stock");

    let replay = format!("/apps/{app}/letters/{}/replay", letter["id"].as_str().ok_or("no id")?);
    assert_eq!(send(&service, "POST", &replay, "").await?.0, StatusCode::OK);
    assert_eq!(send(&service, "POST", &replay, "").await?.0, StatusCode::CONFLICT);
    let back = event::Entity::find_by_id(event_id).one(repo.pool()).await?.ok_or("not in the outbox")?;
    assert_eq!(back.payload, r#"{"order":4711}"#);
    Ok(())
}

#[tokio::test]
async fn a_letter_is_settled_with_a_note() -> Result {
    let repo = open().await?;
    let app = AppId::from(Uuid::new_v4());
    let id = repo.insert(letter(app)).await?;
    let ignored = r#"{"resolution":"ignored","by":"ada","note":"sold out"}"#;
    let path = format!("/apps/{app}/letters/{id}/resolve");
    let (status, row) = send(&service(&repo), "POST", &path, ignored).await?;
    assert_eq!((status, &row["resolved_by"]), (StatusCode::OK, &"ada".into()));
    Ok(())
}

#[tokio::test]
async fn what_a_client_gets_wrong_is_named() -> Result {
    let service = service(&open().await?);
    let path = format!("/apps/{}/letters?sauce=orders", Uuid::new_v4());
    let (status, problem) = send(&service, "GET", &path, "").await?;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(problem.to_string().contains("sauce"), "{problem}");
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_busy_is_503_and_one_that_is_broken_is_500() -> Result {
    let repo = open().await?;
    let store = Arc::new(FailingStore::new(repo.clone()));
    let service = Api { store: store.clone(), replay: repo.replayer(Outbox) }.into_router();
    store.fail(Call::Backlogs, ..1, transient());
    assert_eq!(send(&service, "GET", "/apps", "").await?.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(send(&service, "GET", "/apps", "").await?.0, StatusCode::OK);
    store.fail(Call::Backlogs, .., internal());
    assert_eq!(send(&service, "GET", "/apps", "").await?.0, StatusCode::INTERNAL_SERVER_ERROR);
    Ok(())
}
