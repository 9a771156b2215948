//! The admin in a service's own axum app: under a prefix, for operators that the service's log-in knows.
//!
//! ```text
//! cargo run -p dead-letters-admin --example mounted
//! ```
//!
//! It sends itself requests without a socket, and ends. The example `service` serves pages for a browser.

use std::{error::Error, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::{Request, request::Parts},
    routing::get,
};
use dead_letters::{AppId, DeadLetterRepo, testing};
use dead_letters_admin::{Admin, Denied, Operator, Right};
use http_body_util::BodyExt;
use tower::ServiceExt;
use uuid::Uuid;

const PREFIX: &str = "/admin/dead-letters";

/// The user that the service's log-in has put into the request.
#[derive(Clone)]
struct Session {
    user: &'static str,
    is_on_call: bool,
}

fn authorize(request: &Parts) -> Result<Operator, Denied> {
    let session = request.extensions.get::<Session>().ok_or_else(Denied::unauthenticated)?;
    let operator = Operator::reader(session.user);
    Ok(if session.is_on_call { operator.with(Right::Resolve) } else { operator })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (repo, app) = (testing::store().await?, AppId::from(Uuid::new_v4()));
    let id = repo.insert(testing::letter(app)).await?;

    let admin = Admin::new(Arc::new(repo), authorize)
        .app_names(move |app_id| (app_id == app).then(|| "Shop".to_owned()));
    let router =
        Router::<()>::new().route("/health", get(async || "ok")).nest_service(PREFIX, admin.into_service());

    let resolve = format!("{PREFIX}/api/apps/{app}/letters/{id}/resolve");
    let (ada, ben) = (Session { user: "ada", is_on_call: true }, Session { user: "ben", is_on_call: false });
    for (method, path, session) in [
        ("GET", "/health".to_owned(), None),
        ("GET", format!("{PREFIX}/api/apps"), None),
        ("GET", format!("{PREFIX}/api/apps"), Some(ben.clone())),
        ("POST", resolve.clone(), Some(ben)),
        ("POST", resolve, Some(ada)),
    ] {
        let user = session.as_ref().map_or("nobody", |session| session.user);
        let mut request =
            Request::builder().method(method).uri(&path).header("content-type", "application/json");
        // In a service, a layer around the router does this.
        if let Some(session) = session {
            request = request.extension(session);
        }
        let request = request.body(Body::from(r#"{ "resolution": "ignored" }"#))?;
        let response = router.clone().oneshot(request).await?;
        println!("{user}: {method} {path}: {}", response.status());
        println!("  {}", String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()));
    }
    Ok(())
}
