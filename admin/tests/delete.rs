//! Letters that are deleted, and letters whose content is erased.

use axum::http::StatusCode;
use chrono::{SubsecRound, Utc};
use dead_letters::{
    Attribution, DeadLetterDelete, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo,
    DeadLetterResolve, NewDeadLetter, PayloadKind, Resolution, entity::dead_letters as table,
    testing::letter,
};
use dead_letters_admin::{Operator, Right};
use sea_orm::{EntityTrait, QuerySelect, TransactionTrait};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    pages::Page,
    support::{Client, World, audited, listen, on_every_backend},
};

on_every_backend! {
    all_that_match_a_filter_are_deleted_from_the_list,
    letters_are_deleted_as_the_preview_counted_them,
    letters_that_are_closed_after_the_preview_are_not_deleted,
    closed_letters_are_deleted_by_their_ids_or_state,
    a_delete_that_names_no_field_is_refused,
    letters_are_erased_by_the_api,
    a_letter_is_erased_and_deleted_from_its_page,
    a_letter_that_was_closed_since_its_page_is_not_deleted_from_it,
    only_the_right_to_delete_shows_the_buttons,
}

const FORM: &str = "application/x-www-form-urlencoded";

async fn run(client: &Client, world: &World, filter: Value) -> Value {
    let body = json!({ "apps": [world.app], "action": "deleted", "filter": filter });
    let preview = client.post("/api/bulk/preview", body).await.json();
    let run = client.post("/api/bulk/run", json!({ "token": preview["token"] })).await.json();
    assert_eq!(run["done"], preview["count"], "{run}");
    run
}

async fn letters_of(world: &World, source: &str) -> DeadLetterId {
    world.insert(NewDeadLetter { source: source.to_owned(), ..letter(world.app) }).await
}

async fn is_there(world: &World, id: DeadLetterId) -> bool {
    world.repo.get(id).await.unwrap().is_some()
}

async fn letters_are_deleted_as_the_preview_counted_them(world: World) {
    let (of_test, other) = (letters_of(&world, "load-test").await, letters_of(&world, "orders").await);
    let closed = letters_of(&world, "load-test").await;
    world.repo.resolve(closed, "ignored").await.unwrap();
    let client = world.client();
    let body = json!({ "apps": [world.app], "action": "deleted", "filter": { "source": "load-test" } });
    let preview = client.post("/api/bulk/preview", body).await.json();
    let late = letters_of(&world, "load-test").await;
    listen();
    let body = json!({ "token": preview["token"], "note": "of a test" });
    let run = client.post("/api/bulk/run", body).await.json();
    assert_eq!(
        (&preview["count"], &run["done"], &run["more"]),
        (&json!(1), &json!(1), &json!(false)),
        "{run}"
    );
    for (id, expected) in [(of_test, false), (other, true), (closed, true), (late, true)] {
        assert_eq!(is_there(&world, id).await, expected);
    }
    let [entry] = &audited()[..] else { panic!("one run, one entry") };
    assert_eq!((entry.field("action"), entry.field("count")), ("deleted", "1"));
}

async fn letters_that_are_closed_after_the_preview_are_not_deleted(world: World) {
    let (client, by_ada) = (world.client(), Attribution::by("ada").run_id(Uuid::now_v7()));
    for filter in [
        json!({ "resolution": "ignored" }),
        json!({ "resolved_by": "ada" }),
        json!({ "state": "closed", "source": "orders" }),
        json!({ "run_id": by_ada.run_id }),
        json!({ "run_id": by_ada.run_id, "state": "closed" }),
    ] {
        let (older, counted) = (world.letter().await, world.letter().await);
        let ignore = async |id| {
            world.repo.resolve_once(world.app, id, Resolution::Ignored, &by_ada).await.unwrap();
        };
        ignore(counted).await;
        // On SQLite a time has milliseconds, and the preview's must be later.
        while world.repo.summary(world.app, counted).await.unwrap().unwrap().resolved_at.unwrap()
            >= Utc::now().trunc_subsecs(3)
        {}
        let body = json!({ "apps": [world.app], "action": "deleted", "filter": filter });
        let preview = client.post("/api/bulk/preview", body).await.json();
        assert_eq!(preview["count"], 1, "{filter}");
        ignore(older).await;
        let run = client.post("/api/bulk/run", json!({ "token": preview["token"] })).await.json();
        assert_eq!(run["done"], 1, "{filter} {run}");
        assert!(is_there(&world, older).await && !is_there(&world, counted).await, "{filter}");
        let rest = DeadLetterFilter::default().ids([older]);
        world.repo.delete_matching(world.app, &rest, &by_ada, 1).await.unwrap();
    }
}

async fn closed_letters_are_deleted_by_their_ids_or_state(world: World) {
    let (first, second) = (world.letter().await, world.letter().await);
    for id in [first, second] {
        world.repo.resolve(id, "ignored").await.unwrap();
    }
    let open = world.letter().await;
    let client = world.client();
    assert_eq!(run(&client, &world, json!({ "ids": [first] })).await["done"], 1);
    assert!(!is_there(&world, first).await && is_there(&world, second).await);
    let closed = json!({ "state": "closed", "source": "orders" });
    assert_eq!(run(&client, &world, closed).await["done"], 1);
    assert!(!is_there(&world, second).await && is_there(&world, open).await);
}

async fn a_delete_that_names_no_field_is_refused(world: World) {
    let id = world.letter().await;
    for filter in [json!({}), json!({ "state": "any" }), json!({ "state": "closed" })] {
        let body = json!({ "apps": [world.app], "action": "deleted", "filter": filter });
        let problem = world.client().post("/api/bulk/preview", body).await.problem(400, "invalid");
        assert_eq!(problem["field"], "filter");
    }
    assert!(is_there(&world, id).await);
}

async fn letters_are_erased_by_the_api(world: World) {
    let ids = [world.letter().await, world.letter().await];
    let client = world.client();
    listen();
    let unknown = Uuid::now_v7();
    let body = json!({ "ids": [ids[0], unknown], "note": "request 17" });
    let erased = client.post(world.path("erase"), body).await.json();
    assert_eq!(erased, json!({ "ids": [ids[0]], "skipped_locked": [] }));
    let [entry] = &audited()[..] else { panic!("one request, one entry") };
    assert_eq!((entry.field("action"), entry.field("count")), ("erased", "1"));
    assert_eq!(world.row(ids[0]).await.payload_kind, Some(PayloadKind::Erased));
    assert_eq!(world.row(ids[1]).await.payload_kind, Some(PayloadKind::Json));
    let path = world.path(&format!("letters/{}/replay", ids[0]));
    client.post(path, json!({})).await.problem(409, "erased");
    let body = json!({ "apps": [world.app], "action": "replayed", "filter": {} });
    let preview = client.post("/api/bulk/preview", body).await.json();
    assert_eq!((&preview["count"], &preview["truncated"]["count"]), (&json!(1), &json!(1)));
    let body = json!({ "ids": vec![unknown; 1_001] });
    let problem = client.post(world.path("erase"), body).await.problem(400, "invalid");
    assert_eq!(problem["field"], "ids");
}

async fn a_letter_is_erased_and_deleted_from_its_page(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let page = format!("/apps/{}/letters/{id}", world.app);
    assert!(client.get(&page).await.text().contains("Erase the content"));
    let question = client.post_as(format!("{page}/erase"), FORM, "").await;
    assert!(question.status == StatusCode::OK && question.text().contains("be undone"), "{question}");
    assert_ne!(world.row(id).await.payload_kind, Some(PayloadKind::Erased));
    for _ in 0..2 {
        let answer = client.post_as(format!("{page}/erase"), FORM, "confirmed=true").await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{answer}");
    }
    let shown = client.get(&page).await;
    assert!(!shown.text().contains("Erase the content") && shown.text().contains("erased"), "{shown}");
    let path = "/bulk/preview";
    let preview = client.post_as(path, FORM, format!("app={}&action=deleted&ids={id}", world.app)).await;
    assert!(preview.text().contains("Delete 1 letter?"), "{preview}");
    assert!(
        preview.text().contains("can't be brought back") || preview.text().contains("can&#39;t be"),
        "{preview}"
    );
    let token = preview.text().split("name=\"token\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let answer = client.post_as("/bulk/run", FORM, format!("token={token}")).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{answer}");
    assert!(!is_there(&world, id).await);
    let gone = client.post_as(format!("{page}/erase"), FORM, "").await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND, "{gone}");
}

async fn a_letter_that_was_closed_since_its_page_is_not_deleted_from_it(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let page = client.get(format!("/apps/{}/letters/{id}", world.app)).await;
    let form = format!("app={}&action=deleted&ids={id}&state={}", world.app, page.hidden("state"));
    let by = Attribution::by("bob");
    world.repo.resolve_once(world.app, id, Resolution::Ignored, &by).await.unwrap();
    let preview = client.post_as("/bulk/preview", FORM, form).await;
    assert!(preview.text().contains("No letter to change"), "{preview}");
    let page = client.get(format!("/apps/{}/letters/{id}", world.app)).await;
    let form = format!("app={}&action=deleted&ids={id}&state={}", world.app, page.hidden("state"));
    let preview = client.post_as("/bulk/preview", FORM, form).await;
    assert!(preview.text().contains("Delete 1 letter?"), "{preview}");
}

async fn only_the_right_to_delete_shows_the_buttons(world: World) {
    let id = world.letter().await;
    for (operator, may) in [
        (Operator::full("ada").with(Right::Edit), false),
        (Operator::reader("ada").with(Right::Delete), true),
    ] {
        let client = Client::from(world.admin_of(operator));
        let page = client.get(format!("/apps/{}/letters/{id}", world.app)).await;
        assert_eq!(page.text().contains("Erase or delete"), may, "{page}");
        let list = client.get(format!("/apps/{}", world.app)).await;
        assert_eq!(list.text().contains("Delete ticked"), may, "{list}");
    }
}

#[tokio::test]
async fn a_letter_that_is_locked_is_named_and_not_erased_on_postgres() {
    let world = World::postgres().await;
    let ids = [world.letter().await, world.letter().await];
    let txn = world.repo.pool().begin().await.unwrap();
    table::Entity::find_by_id(ids[0].into_inner()).lock_exclusive().one(&txn).await.unwrap().unwrap();
    let erased = world.client().post(world.path("erase"), json!({ "ids": ids })).await.json();
    assert_eq!(erased, json!({ "ids": [ids[1]], "skipped_locked": [ids[0]] }));
    let path = format!("/apps/{}/letters/{}/erase", world.app, ids[0]);
    let answer = world.client().post_as(path, FORM, "confirmed=true").await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{answer}");
    txn.rollback().await.unwrap();
    assert!(world.repo.summary(world.app, ids[0]).await.unwrap().is_some());
}

async fn all_that_match_a_filter_are_deleted_from_the_list(world: World) {
    let kept = world.letter().await;
    let gone = world.insert(NewDeadLetter { source: "load test".to_owned(), ..letter(world.app) }).await;
    let client = world.client();
    let of_app = format!("/apps/{}", world.app);
    assert!(!client.get(&of_app).await.text().contains("Delete all"));
    let list = client.get(format!("{of_app}?source=load+test")).await;
    assert!(list.text().contains("Delete all 1…"), "{list}");
    let form = format!("app={}&action=deleted&filter=%3Fsource%3Dload%2520test", world.app);
    let preview = client.post_as("/bulk/preview", FORM, form).await;
    assert!(preview.text().contains("Delete 1 letter?"), "{preview}");
    let token = preview.text().split_once("name=\"token\" value=\"").unwrap().1.split_once('"').unwrap().0;
    let done = client.post_as("/bulk/run", FORM, format!("token={token}")).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{done}");
    let left = [world.repo.get(kept).await.unwrap().is_some(), world.repo.get(gone).await.unwrap().is_some()];
    assert_eq!(left, [true, false]);
}
