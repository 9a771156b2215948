//! Where a host may put it: under any prefix, with a slash at its end and without.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use axum::{Router, http::StatusCode, routing::get};
use dead_letters::{AppId, Attribution, DeadLetterRepo, DeadLetterResolve, Resolution, testing::letter};
use dead_letters_admin::{Admin, Operator};

use crate::support::{Client, KEY, Outbox, let_in, memory, new_app};

/// With letters of all kinds.
pub(crate) async fn admin() -> (Admin, AppId) {
    let app = new_app();
    let repo = memory().await;
    let ids = repo.insert_many(vec![letter(app); 60]).await.unwrap();
    repo.resolve_once(app, ids[0], Resolution::Ignored, &Attribution::by("ada")).await.unwrap();
    let replay = Arc::new(repo.replayer(Arc::<Outbox>::default()));
    let admin = Admin::new(Arc::new(repo), let_in(Operator::full("ada")));
    (admin.replay(replay).key(KEY).unwrap(), app)
}

/// Takes a relative reference as a browser does (RFC 3986, 5.2), within one origin.
pub(crate) fn resolve(base: &str, reference: &str) -> String {
    assert!(!reference.starts_with('/') && !reference.contains("://"), "{reference} is not relative");
    let (base, _) = base.split_once('?').unwrap_or((base, ""));
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, format!("?{query}")),
        None => (reference, String::new()),
    };
    if path.is_empty() {
        return format!("{base}{query}");
    }
    let mut segments: Vec<&str> = base.split('/').collect();
    segments.pop();
    for segment in path.split('/') {
        match segment {
            ".." => {
                assert!(segments.len() > 1, "{reference} leaves the host");
                segments.pop();
            }
            "." => {}
            segment => segments.push(segment),
        }
    }
    if path.ends_with("..") || path.ends_with('.') {
        segments.push("");
    }
    format!("{}{query}", segments.join("/"))
}

/// The values of an attribute.
fn attributes<'a>(html: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    let start = format!(" {name}=\"");
    let starts: Vec<_> = html.match_indices(&start).map(|(at, _)| at + start.len()).collect();
    starts.into_iter().map(|at| {
        let value = html[at..].split('"').next().unwrap();
        ["&amp;", "&#38;"].iter().fold(value.to_owned(), |value, escaped| value.replace(escaped, "&"))
    })
}

/// Follows every link from here: each leads to something. Returns how many pages it saw.
pub(crate) async fn crawl(client: &Client, start: &str, prefix: &str) -> usize {
    let (mut seen, mut pages) = (BTreeSet::new(), 0);
    let mut queue = VecDeque::from([start.to_owned()]);
    while let Some(address) = queue.pop_front() {
        if seen.len() > 200 || !seen.insert(address.clone()) {
            continue;
        }
        assert!(address.starts_with(prefix), "{address} is not under {prefix}");
        let answer = client.get(&address).await;
        if answer.status.is_redirection() {
            queue.push_back(resolve(&address, answer.location()));
            continue;
        }
        assert_eq!(answer.status, StatusCode::OK, "{address}");
        if !answer.header("content-type").starts_with("text/html") {
            continue;
        }
        pages += 1;
        let html = answer.text();
        for link in ["href", "src"].into_iter().flat_map(|name| attributes(html, name)) {
            if !link.starts_with('#') {
                queue.push_back(resolve(&address, &link));
            }
        }
        for action in ["action", "formaction"].into_iter().flat_map(|name| attributes(html, name)) {
            let action = resolve(&address, &action);
            let answer = client.get(&action).await;
            let is_there = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::OK].contains(&answer.status);
            assert!(is_there, "{action}, a form of {address}: {}", answer.status);
        }
    }
    assert!(seen.iter().any(|address| address.contains("/assets/")), "{seen:?}");
    pages
}

#[tokio::test]
async fn under_a_prefix_with_a_slash_and_without_every_link_leads_somewhere() {
    for prefix in ["/admin/dead-letters", "/a", "/a:b/c"] {
        let (admin, _) = admin().await;
        let host = Router::new().route("/", get(async || "host")).nest_service(prefix, admin.into_service());
        let client = Client::from(host);
        for start in [prefix.to_owned(), format!("{prefix}/"), format!("{prefix}/apps")] {
            assert!(crawl(&client, &start, prefix).await > 5, "{start}");
        }
        assert_eq!(client.get("/").await.text(), "host");
    }
}

#[tokio::test]
async fn a_prefix_may_have_parameters_of_the_hosts() {
    let (admin, _) = admin().await;
    let prefix = "/{app}/{id}/admin";
    let host = Router::new().nest_service(prefix, admin.into_service());
    let client = Client::from(host);
    for start in ["/acme/7/admin", "/acme/7/admin/"] {
        assert!(crawl(&client, start, "/acme/7/admin").await > 5);
    }
}

#[tokio::test]
async fn the_admin_is_nested_as_a_router_or_is_the_whole_of_a_host() {
    let (admin_, _) = admin().await;
    let nested = Client::from(Router::<()>::new().nest("/admin", Router::from(admin_)));
    assert!(crawl(&nested, "/admin", "/admin").await > 5);

    let (admin_, _) = admin().await;
    let whole = Client::from(admin_);
    assert!(crawl(&whole, "/", "/").await > 5);
}

#[tokio::test]
async fn the_host_may_have_a_state() {
    let (admin, _) = admin().await;
    let host = Router::<u32>::new().nest("/admin", Router::from(admin)).with_state(7);
    assert_eq!(Client::from(host).get("/admin/apps").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_documents_server_is_the_mount() {
    let (admin, app) = admin().await;
    let client = Client::from(Router::new().nest_service("/admin/dead-letters", admin.into_service()));
    let address = "/admin/dead-letters/api/openapi.json";
    let document = client.get(address).await.json();
    let server = resolve(address, document["servers"][0]["url"].as_str().unwrap());
    let server = server.trim_end_matches('/');
    assert_eq!(server, "/admin/dead-letters");
    client.get(format!("{server}/api/apps/{app}/letters")).await.json();
}

#[tokio::test]
async fn links_are_relative_so_that_a_proxy_may_strip_a_prefix() {
    // As if nginx had taken a prefix away: links are relative, so that the browser puts it back.
    let (admin, app) = admin().await;
    let client = Client::from(admin);
    for path in ["/apps".to_owned(), format!("/apps/{app}"), format!("/apps/{app}/groups")] {
        let answer = client.get(&path).await;
        for name in ["href", "src", "action", "formaction"] {
            for link in attributes(answer.text(), name) {
                assert!(!link.starts_with('/') && !link.contains("://"), "{link} on {path}");
            }
        }
    }
    assert_eq!(client.get("/").await.location(), "./apps");
}
