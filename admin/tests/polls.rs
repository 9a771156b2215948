//! Tests of the polls of live pages: what a poll costs, and what changes its tag.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use dead_letters::{
    DeadLetterRepo,
    testing::{Call, FailingStore, internal, letter},
};
use dead_letters_admin::{Admin, Operator, Right};

use crate::support::{Answer, Client, World, let_in, memory, new_app, on_every_backend};

const FORM: &str = "application/x-www-form-urlencoded";

on_every_backend! {
    each_action_changes_the_tag_at_once,
    a_change_by_another_process_changes_the_tag_after_a_second,
}

async fn ask(client: &Client, path: &str, known: &str, accept: &str) -> Answer {
    let request = Request::get(path).header(header::IF_NONE_MATCH, known).header(header::ACCEPT, accept);
    client.send(request.body(Body::empty()).unwrap()).await
}

/// As the script does.
async fn poll(client: &Client, path: &str, known: &str) -> Answer {
    ask(client, path, known, "*/*").await
}

/// Returns the tag of a page that has just been polled. The tag changes once a minute, so it may take two polls.
async fn current_tag(client: &Client, path: &str) -> String {
    let mut tag = poll(client, path, "").await.header("etag").to_owned();
    for _ in 0..3 {
        let known = poll(client, path, &tag).await;
        if known.status == StatusCode::NOT_MODIFIED {
            assert!(known.body.is_empty());
            assert_eq!((known.header("etag"), known.header("cache-control")), (&*tag, "private, no-cache"));
            return tag;
        }
        tag = known.header("etag").to_owned();
    }
    panic!("no tag of {path} holds");
}

#[tokio::test]
async fn a_poll_with_a_current_tag_makes_no_call_but_the_version() {
    let (repo, app) = (memory().await, new_app());
    repo.insert(letter(app)).await.unwrap();
    let store = Arc::new(FailingStore::new(repo));
    let client = Client::from(Admin::new(store.clone(), let_in(Operator::full("ada"))));
    for path in ["/apps".to_owned(), format!("/apps/{app}?source=orders"), format!("/apps/{app}/groups")] {
        assert!(is_unchanged_without_other_calls(&store, &client, &path).await, "{path}");
    }
}

/// By its apps for a colleague, and by its token for the operator who ran it.
#[tokio::test]
async fn a_poll_of_a_run_with_a_current_tag_makes_no_call_but_the_version() {
    let (repo, app) = (memory().await, new_app());
    repo.insert_many(vec![letter(app); 3]).await.unwrap();
    let store = Arc::new(FailingStore::new(repo));
    let client = Client::from(Admin::new(store.clone(), let_in(Operator::full("ada"))));
    let preview = format!("app={app}&action=ignored");
    let preview = client.post_as("/bulk/preview", FORM, preview).await;
    let token = preview.text().split_once("name=\"token\" value=\"").unwrap().1.split_once('"').unwrap().0;
    let step = client.post_as("/bulk/run", FORM, format!("token={token}&limit=1")).await;
    let by_token = step.location().replace("../", "/");
    let by_apps = format!("{}?app={app}", by_token.split_once('?').unwrap().0);
    for path in [by_token, by_apps] {
        assert!(is_unchanged_without_other_calls(&store, &client, &path).await, "{path}");
    }
}

/// Returns whether a poll makes no call but the version, which another tag needs.
async fn is_unchanged_without_other_calls<S>(store: &FailingStore<S>, client: &Client, path: &str) -> bool {
    for _ in 0..3 {
        let tag = current_tag(client, path).await;
        for &call in Call::ALL.iter().filter(|&&call| call != Call::LettersVersion) {
            store.fail(call, .., internal());
        }
        let answer = poll(client, path, &tag).await;
        let changed = poll(client, path, "W/\"another\"").await;
        store.recover();
        assert_eq!(changed.status, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
        // Otherwise the minute is over.
        if answer.status == StatusCode::NOT_MODIFIED {
            return true;
        }
    }
    false
}

async fn each_action_changes_the_tag_at_once(world: World) {
    let client = world.client();
    let (id, other) = (world.letter().await, world.letter().await);
    let app = world.app;
    let letter = |action: &str| format!("/apps/{app}/letters/{id}/{action}");
    for path in [format!("/apps/{app}"), format!("/apps/{app}/groups"), "/apps".to_owned()] {
        for (action, form) in [
            (letter("resolve"), "resolution=ignored"),
            (letter("reopen"), ""),
            (letter("replay"), ""),
            (letter("reopen"), "confirmed=true"),
        ] {
            let tag = current_tag(&client, &path).await;
            let done = client.post_as(&action, FORM, form).await;
            assert_eq!(done.status, StatusCode::SEE_OTHER, "{done}");
            assert_eq!(poll(&client, &path, &tag).await.status, StatusCode::OK, "{path} after {action}");
        }
    }
    let path = format!("/apps/{app}");
    let tag = current_tag(&client, &path).await;
    client.post_as(format!("/apps/{app}/letters/{other}/erase"), FORM, "confirmed=true").await;
    assert_eq!(poll(&client, &path, &tag).await.status, StatusCode::OK);
}

async fn a_change_by_another_process_changes_the_tag_after_a_second(world: World) {
    let client = world.client();
    world.letter().await;
    for path in [format!("/apps/{}", world.app), "/apps".to_owned()] {
        let tag = current_tag(&client, &path).await;
        world.letter().await;
        while poll(&client, &path, &tag).await.status == StatusCode::NOT_MODIFIED {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_tag_is_of_one_address_one_operator_and_their_rights() {
    let (repo, app) = (memory().await, new_app());
    repo.insert(letter(app)).await.unwrap();
    let store = Arc::new(repo);
    let of = |operator| Client::from(Admin::new(store.clone(), let_in(operator)));
    let path = format!("/apps/{app}");
    let ada = of(Operator::full("ada"));
    let tag = current_tag(&ada, &path).await;
    assert_ne!(current_tag(&ada, &format!("{path}?source=orders")).await, tag);
    for operator in [
        Operator::full("grace"),
        Operator::reader("ada"),
        Operator::full("ada").with(Right::Delete),
        Operator::full("ada").of_apps([app]),
    ] {
        assert_eq!(poll(&of(operator.clone()), &path, &tag).await.status, StatusCode::OK, "{operator:?}");
    }
}

#[tokio::test]
async fn a_reload_gets_what_is_there_now_and_a_tag_of_its_content() {
    let (repo, app) = (memory().await, new_app());
    repo.insert(letter(app)).await.unwrap();
    let client = Client::from(Admin::new(Arc::new(repo.clone()), let_in(Operator::full("ada"))));
    let path = format!("/apps/{app}");
    let tag = current_tag(&client, &path).await;
    let html = "text/html,application/xhtml+xml,*/*;q=0.8";
    repo.insert(letter(app)).await.unwrap();
    let page = ask(&client, &path, &tag, html).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text().contains("2 of 2"));
    let of_content = page.header("etag").to_owned();
    assert_ne!(of_content, tag);
}

#[tokio::test]
async fn a_poll_of_an_app_that_the_operator_may_not_see_is_refused_without_a_version() {
    let (repo, app) = (memory().await, new_app());
    let store = Arc::new(FailingStore::new(repo));
    store.fail(Call::LettersVersion, .., internal());
    let client = Client::from(Admin::new(store.clone(), let_in(Operator::full("ada").of_apps([new_app()]))));
    assert_eq!(poll(&client, &format!("/apps/{app}"), "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(poll(&client, "/apps/no-id", "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_overview_of_many_apps_of_an_operator_has_a_tag_of_its_content() {
    let (repo, app) = (memory().await, new_app());
    repo.insert(letter(app)).await.unwrap();
    let store = Arc::new(FailingStore::new(repo));
    store.fail(Call::LettersVersion, .., internal());
    let apps = (0..30).map(|_| new_app()).chain([app]);
    let client = Client::from(Admin::new(store.clone(), let_in(Operator::full("ada").of_apps(apps))));
    let page = poll(&client, "/apps", "").await;
    assert_eq!(page.status, StatusCode::OK, "{page}");
    assert_eq!(poll(&client, "/apps", page.header("etag")).await.status, StatusCode::NOT_MODIFIED);
}
