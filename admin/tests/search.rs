//! Tests of the search in payloads, by the API and on its page.

use axum::http::{StatusCode, header::CACHE_CONTROL};
use dead_letters::{DeadLetterId, NewDeadLetter, testing::letter};
use dead_letters_admin::{Operator, Right};
use form_urlencoded::Serializer;
use serde_json::{Value, json};

use crate::support::{Answer, Client, World, audited, listen, on_every_backend};

on_every_backend! {
    letters_are_found_by_their_payload_and_the_next_page_goes_on_at_the_cursor,
    if_payloads_are_redacted_a_search_needs_the_right_and_is_audited_without_its_text,
    an_operator_who_may_not_see_metadata_does_not_search_by_it,
    a_field_that_is_wrong_is_named_and_the_text_is_not_repeated,
    the_page_of_a_search_has_the_letters_and_the_text_in_its_form_alone,
    a_search_that_ended_early_goes_on_from_its_page,
    the_letters_that_were_found_are_ticked_and_previewed,
    the_groups_of_a_search_count_only_the_letters_that_it_finds,
}

const FORM: &str = "application/x-www-form-urlencoded";
const NEEDLE: &str = "needle & \"co\"";

/// Letters whose payloads have the text, the oldest first, each followed by one without it.
async fn letters(world: &World, count: usize) -> Vec<DeadLetterId> {
    let mut ids = Vec::new();
    for number in 0..count {
        for text in [format!("{number} {NEEDLE}"), "hay".to_owned()] {
            // All are one error group.
            let letter = NewDeadLetter { payload_text: Some(text), script_id: None, ..letter(world.app) };
            ids.push(world.insert(letter).await);
        }
    }
    ids.into_iter().step_by(2).collect()
}

fn ids(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

fn redacting(world: &World, operator: Operator) -> Client {
    world.admin_of(operator).redact(["/card"]).unwrap().into()
}

impl World {
    async fn search(&self, client: &Client, fields: &[(&str, &str)]) -> Answer {
        let fields = Serializer::new(String::new()).extend_pairs(fields).finish();
        client.post_as(format!("/apps/{}/search", self.app), FORM, fields).await
    }
}

async fn letters_are_found_by_their_payload_and_the_next_page_goes_on_at_the_cursor(world: World) {
    let stored = letters(&world, 3).await;
    let client = world.client();
    let path = world.path("letters/search");
    let first = client.post(&path, json!({ "payload_contains": NEEDLE, "size": 2 })).await;
    assert_eq!(first.header(CACHE_CONTROL), "no-store");
    let first = first.json();
    assert_eq!(ids(&first), [stored[2], stored[1]].map(|id| id.to_string()));
    assert_eq!(first["scanned_back_to"], Value::Null);
    let of_list = client.get(world.path(&format!("letters?ids={}", stored[2]))).await.json();
    assert_eq!(first["items"][0], of_list["items"][0]);
    let rest = json!({ "payload_contains": NEEDLE, "size": 2, "after": first["next"], "filter": {} });
    let rest = client.post(&path, rest).await.json();
    assert_eq!((ids(&rest), &rest["next"]), (vec![&*stored[0].to_string()], &Value::Null));
    let of_two = json!({ "payload_contains": NEEDLE, "scan_limit": 2, "filter": { "state": "any", "ids": [stored[0], stored[1], stored[2]] } });
    let of_two = client.post(&path, of_two).await.json();
    assert_eq!(ids(&of_two).len(), 2);
    assert!(of_two["next"].is_string() && of_two["scanned_back_to"].is_string());
    let none = json!({ "payload_contains": NEEDLE, "filter": { "source": "none such" } });
    assert_eq!(ids(&client.post(&path, none).await.json()), [] as [&str; 0]);
}

async fn if_payloads_are_redacted_a_search_needs_the_right_and_is_audited_without_its_text(world: World) {
    listen();
    letters(&world, 2).await;
    let path = world.path("letters/search");
    let body = json!({ "payload_contains": NEEDLE, "filter": { "source": "orders" } });
    let fields = [("payload_contains", NEEDLE), ("list", "?source=orders")];
    // Nothing is redacted, so a search shows no more than a letter's page does.
    let reader = Client::from(world.admin_of(Operator::reader("bob")));
    assert_eq!(ids(&reader.post(&path, body.clone()).await.json()).len(), 2);
    assert_eq!(world.search(&reader, &fields).await.status, StatusCode::OK);
    let of_groups = world.path("groups/search");
    assert_eq!(reader.post(&of_groups, body.clone()).await.json()["items"][0]["count"], 2);
    assert_eq!(audited(), []);

    let reader = redacting(&world, Operator::reader("bob"));
    reader.post(&path, body.clone()).await.problem(403, "forbidden");
    reader.post(&of_groups, body.clone()).await.problem(403, "forbidden");
    assert_eq!(world.search(&reader, &fields).await.status, StatusCode::FORBIDDEN);
    let grouped = [&fields[..], &[("groups", "true")]].concat();
    assert_eq!(world.search(&reader, &grouped).await.status, StatusCode::FORBIDDEN);
    let list = format!("/apps/{}", world.app);
    assert!(!reader.get(&list).await.text().contains("Search in payloads"));
    let refused = audited();
    assert_eq!(refused.len(), 4);
    for entry in &refused {
        assert_eq!(
            ["operator", "action", "outcome", "status", "letters"].map(|field| entry.field(field)),
            ["bob", "search", "refused", "403", ""]
        );
    }

    let ada = redacting(&world, Operator::reader("ada").with(Right::Payloads));
    assert!(ada.get(&list).await.text().contains("Search in payloads"));
    assert_eq!(ids(&ada.post(&path, body.clone()).await.json()).len(), 2);
    ada.post(&of_groups, body).await.json();
    assert_eq!(world.search(&ada, &fields).await.status, StatusCode::OK);
    assert_eq!(world.search(&ada, &grouped).await.status, StatusCode::OK);
    let long = json!({ "payload_contains": "needle".repeat(200) });
    ada.post(&path, long).await.problem(400, "invalid");
    let done = audited();
    let told = done.iter().map(|entry| {
        ["operator", "action", "outcome", "count", "letters"].map(|field| entry.field(field).to_owned())
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ["ada", "searched", "done", "2", "source=orders"],
            ["ada", "searched", "done", "2", "source=orders"],
            ["ada", "searched", "done", "2", "source=orders"],
            ["ada", "searched", "done", "2", "source=orders"],
            ["ada", "searched", "refused", "0", ""],
        ]
    );
    assert!(!format!("{refused:?}{done:?}").contains("needle"), "{refused:?} {done:?}");
}

async fn an_operator_who_may_not_see_metadata_does_not_search_by_it(world: World) {
    let admin = world.admin_of(Operator::reader("bob")).redact_metadata(["/tenant"]).unwrap();
    let client = Client::from(admin);
    let body = json!({ "payload_contains": "x", "filter": { "metadata": { "tenant": "acme" } } });
    let problem = client.post(world.path("letters/search"), body).await.problem(403, "forbidden");
    assert_eq!(problem["field"], "metadata.tenant");
    for groups in ["", "true"] {
        let fields = [("payload_contains", "x"), ("list", "?metadata.tenant=acme"), ("groups", groups)];
        assert_eq!(world.search(&client, &fields).await.status, StatusCode::FORBIDDEN);
    }
}

async fn a_field_that_is_wrong_is_named_and_the_text_is_not_repeated(world: World) {
    let client = world.client();
    let (path, long) = (world.path("letters/search"), NEEDLE.repeat(100));
    for (body, field) in [
        (json!({}), "payload_contains"),
        (json!({ "payload_contains": "" }), "payload_contains"),
        (json!({ "payload_contains": long }), "payload_contains"),
        (json!({ "payload_contains": NEEDLE, "size": 0 }), "size"),
        (json!({ "payload_contains": NEEDLE, "size": 501 }), "size"),
        (json!({ "payload_contains": NEEDLE, "scan_limit": 0 }), "scan_limit"),
        (json!({ "payload_contains": NEEDLE, "scan_limit": 100_001 }), "scan_limit"),
        (json!({ "payload_contains": NEEDLE, "after": "x" }), "after"),
        (json!({ "payload_contains": NEEDLE, "payload": "x" }), "payload"),
        (json!({ "payload_contains": NEEDLE, "filter": { "source": "x".repeat(2_001) } }), "filter.source"),
    ] {
        let problem = client.post(&path, body).await.problem(400, "invalid");
        assert_eq!(problem["field"], field);
        assert!(!problem.to_string().contains("needle"), "{problem}");
    }
    let of_groups = world.path("groups/search");
    for (body, field) in [
        (json!({ "payload_contains": long }), "payload_contains"),
        (json!({ "payload_contains": NEEDLE, "limit": 501 }), "limit"),
        (json!({ "payload_contains": NEEDLE, "scan_limit": 100_001 }), "scan_limit"),
        (json!({ "payload_contains": NEEDLE, "after": "x" }), "after"),
        (json!({ "payload_contains": NEEDLE, "filter": [null, null] }), "filter"),
        (json!({ "payload_contains": NEEDLE, "filter": { "op": "x".repeat(2_001) } }), "filter.op"),
    ] {
        let problem = client.post(&of_groups, body).await.problem(400, "invalid");
        assert_eq!(problem["field"], field);
        assert!(!problem.to_string().contains("needle"), "{problem}");
    }
    for fields in [
        &[("payload_contains", "")][..],
        &[("payload_contains", NEEDLE), ("groups", "yes")],
        &[("payload_contains", &long)],
        &[("payload_contains", NEEDLE), ("after", "x")],
        &[("payload_contains", NEEDLE), ("list", "?sauce=1")],
        &[("payload_contains", NEEDLE), ("list", &format!("?source={}", "x".repeat(1_500)))],
        &[("payload_contains", NEEDLE), ("source", "x")],
    ] {
        let page = world.search(&client, fields).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{fields:?}");
        assert!(!page.text().contains("needle"), "{page}");
    }
}

/// Returns the page without the values of its fields, whose quotes are entities.
fn without_fields(page: &str) -> String {
    let parts = page.split(" value=\"").enumerate();
    parts.map(|(at, part)| if at == 0 { part } else { part.split_once('"').unwrap().1 }).collect()
}

async fn the_page_of_a_search_has_the_letters_and_the_text_in_its_form_alone(world: World) {
    let stored = letters(&world, 2).await;
    let client = world.client();
    let list = client.get(format!("/apps/{}?source=orders", world.app)).await;
    assert!(list.text().contains(&format!("action=\"../apps/{}/search\"", world.app)), "{list}");
    let page =
        world.search(&client, &[("payload_contains", NEEDLE), ("list", "?source=orders&size=1")]).await;
    assert_eq!((page.status, page.header(CACHE_CONTROL)), (StatusCode::OK, "no-store"));
    let text = page.text();
    assert!(text.contains(&format!("<tr role=\"row\" id=\"{}\">", stored[1])), "{page}");
    assert!(!text.contains(&stored[0].to_string()), "it is on the next page");
    assert!(text.contains("value=\"needle &#38; &#34;co&#34;\"") && !without_fields(text).contains("needle"));
    assert!(text.contains("<dt><bdi>Source</bdi></dt><dd><bdi>orders</bdi></dd>"), "{page}");
    assert!(text.contains(">Search on</button>") && text.contains("name=\"after\""), "{page}");
    let none = world.search(&client, &[("payload_contains", "none such")]).await;
    assert!(none.text().contains("<dt><bdi>State</bdi></dt><dd><bdi>open</bdi></dd>"), "{none}");
    assert!(none.text().contains("No payload contains the text") && !none.text().contains("Search on"));
}

/// Returns the value of the last field with this name.
fn field(page: &Answer, name: &str) -> String {
    let (_, rest) = page.text().rsplit_once(&format!("name=\"{name}\" value=\"")).unwrap();
    rest.split('"').next().unwrap().replace("&#38;", "&").replace("&#34;", "\"")
}

async fn a_search_that_ended_early_goes_on_from_its_page(world: World) {
    let stored = letters(&world, 3).await;
    let client = world.client();
    // Each page examines two letters, of which the older one has the text.
    let list = "?scan_limit=2";
    let mut page = world.search(&client, &[("payload_contains", NEEDLE), ("list", list)]).await;
    for (at, id) in stored.iter().enumerate().rev() {
        assert!(page.text().contains(&id.to_string()), "{page}");
        assert_eq!(page.text().contains("Searched back to <time"), at > 0, "{page}");
        if at > 0 {
            let fields = ["payload_contains", "list", "after"].map(|name| (name, field(&page, name)));
            page = world.search(&client, &fields.each_ref().map(|(name, value)| (*name, &**value))).await;
        }
    }
    assert!(page.text().contains("No earlier letter contains the text."), "{page}");
}

async fn the_letters_that_were_found_are_ticked_and_previewed(world: World) {
    let stored = letters(&world, 2).await;
    let client = world.client();
    let page = world.search(&client, &[("payload_contains", NEEDLE), ("list", "?source=orders")]).await;
    let text = page.text();
    for id in &stored {
        assert!(text.contains(&format!("name=\"ids\" value=\"{id}\"")), "{page}");
    }
    let preview = "../../bulk/preview";
    assert!(
        text.contains(&format!("form=\"rows\" formaction=\"{preview}\" name=\"action\" value=\"ignored\""))
    );
    assert!(!text.contains("Ignore all"), "only what is ticked");
    let (state, back) = (field(&page, "state"), field(&page, "back"));
    let fields = Serializer::new(String::new())
        .extend_pairs([("action", "ignored"), ("state", &state), ("back", &back), ("ids", "\"\"")])
        .append_pair("app", &world.app.to_string())
        .append_pair("ids", &stored[0].to_string())
        .finish();
    let preview = client.post_as("/bulk/preview", FORM, fields).await;
    assert!(preview.text().contains("Ignore 1 letter?") && !preview.text().contains("needle"), "{preview}");
    assert_eq!(back, "?source=orders");
}

async fn the_groups_of_a_search_count_only_the_letters_that_it_finds(world: World) {
    letters(&world, 3).await;
    let client = world.client();
    let all = client.get(world.path("groups")).await.json();
    assert_eq!(all["items"][0]["count"], 6);
    let answer = client.post(world.path("groups/search"), json!({ "payload_contains": NEEDLE })).await;
    assert_eq!(answer.header(CACHE_CONTROL), "no-store");
    let found = answer.json();
    assert_eq!((&found["items"][0]["count"], &found["scanned_back_to"]), (&json!(3), &Value::Null));
    assert_eq!(found["items"][0]["group_key"], all["items"][0]["group_key"]);
    let of_two =
        json!({ "payload_contains": NEEDLE, "scan_limit": 2, "limit": 1, "filter": { "op": "insert" } });
    let of_two = client.post(world.path("groups/search"), of_two).await.json();
    assert_eq!(of_two["items"][0]["count"], 1);
    assert!(of_two["scanned_back_to"].is_string());

    let fields = [("payload_contains", NEEDLE), ("list", "?source=orders"), ("groups", "true")];
    let page = world.search(&client, &fields).await;
    assert_eq!((page.status, page.header(CACHE_CONTROL)), (StatusCode::OK, "no-store"));
    let text = page.text();
    assert!(text.contains("3<span class=\"unit\"> letters</span>"), "{page}");
    assert!(text.contains("No other letter contains the text.") && !without_fields(text).contains("needle"));
    let key = all["items"][0]["group_key"].as_str().unwrap();
    assert!(text.contains(&format!("source=orders&#38;group_key={key}")), "{page}");
    let early = [("payload_contains", NEEDLE), ("list", "?scan_limit=2"), ("groups", "true")];
    assert!(world.search(&client, &early).await.text().contains("Searched back to <time"));
    assert!(text.contains("The link of a group shows all its letters"), "{page}");
    let none = world.search(&client, &[("payload_contains", "none such"), ("groups", "true")]).await;
    assert!(none.text().contains("No payload contains the text"), "{none}");
    assert!(!none.text().contains("The link of a group"), "{none}");
    for number in 0..51 {
        let letter =
            NewDeadLetter { op: format!("op-{number}"), payload: json!("many"), ..letter(world.app) };
        world.insert(letter).await;
    }
    let many = world.search(&client, &[("payload_contains", "many"), ("groups", "true")]).await;
    assert!(many.text().contains("Only the 50 largest groups are shown."), "{many}");
    let cursor = client.get(world.path("letters?size=1")).await.json()["next"].as_str().unwrap().to_owned();
    let both =
        world.search(&client, &[("payload_contains", "x"), ("groups", "true"), ("after", &cursor)]).await;
    assert_eq!(both.status, StatusCode::BAD_REQUEST);
}
