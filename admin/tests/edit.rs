//! A letter that is replayed with an edited payload.

use axum::http::{StatusCode, header::CACHE_CONTROL};
use dead_letters::{
    Attribution, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo, DeadLetterResolve,
    NewDeadLetter, ReopenRequest, Resolution, testing::letter,
};
use dead_letters_admin::{Operator, Right};
use serde_json::json;

use crate::support::{Answer, Client, World, audited, listen, on_every_backend};

on_every_backend! {
    a_payload_is_edited_reviewed_and_put_back,
    an_edit_that_can_not_be_replayed_opens_the_editor_again_with_its_text,
    a_letter_that_changed_meanwhile_is_not_replayed,
    a_letter_that_was_replayed_and_reopened_meanwhile_is_not_replayed,
    only_open_letters_with_a_small_payload_have_an_editor,
    a_redacted_payload_is_edited_only_by_those_who_may_see_it,
    the_api_puts_an_edited_payload_back_as_it_was_sent,
    an_edited_payload_is_redacted_and_revealed_as_the_own_one,
}

const FORM: &str = "application/x-www-form-urlencoded";
const STORED: &str = r#"{"order":4711,"total":1.10,"big":18446744073709551616}"#;

fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

async fn stored(world: &World, text: &str) -> DeadLetterId {
    world.insert(NewDeadLetter { payload_text: Some(text.to_owned()), ..letter(world.app) }).await
}

fn decoded(html: &str) -> String {
    html.replace("&#34;", "\"").replace("&#38;", "&")
}

/// Returns the value of the hidden field.
fn hidden(page: &Answer, name: &str) -> String {
    let start = format!("name=\"{name}\" value=\"");
    let rest = page.text().split(&start).nth(1).unwrap_or_else(|| panic!("{name}: {page}"));
    decoded(rest.split('"').next().unwrap())
}

/// Returns the text in the editor, as a browser reads it.
fn edited_text(page: &Answer) -> String {
    let rest = page.text().split("name=\"payload\" rows").nth(1).unwrap_or_else(|| panic!("{page}"));
    let text = rest.split_once('>').unwrap().1.split("</textarea>").next().unwrap();
    decoded(text.strip_prefix('\n').unwrap())
}

async fn edit(
    client: &Client,
    world: &World,
    id: DeadLetterId,
    step: &str,
    fields: &[(&str, &str)],
) -> Answer {
    client.post_as(format!("/apps/{}/letters/{id}/edit{step}", world.app), FORM, form(fields)).await
}

async fn replayed(world: &World, id: DeadLetterId) -> Option<String> {
    world.repo.replayed_payload_text(world.app, id, 0..u64::MAX).await.unwrap()
}

async fn a_payload_is_edited_reviewed_and_put_back(world: World) {
    let id = stored(&world, STORED).await;
    let client = world.client();
    let page = client.get(format!("/apps/{}/letters/{id}", world.app)).await;
    assert!(page.text().contains("Edit and replay…"), "{page}");
    listen();
    let editor = edit(&client, &world, id, "", &[]).await;
    assert_eq!(editor.header(CACHE_CONTROL), "no-store");
    let text = edited_text(&editor);
    assert_eq!(text, "{\n  \"order\": 4711,\n  \"total\": 1.10,\n  \"big\": 18446744073709551616\n}");
    let version = hidden(&editor, "version");

    // A browser sends CRLF.
    let text = text.replace("4711", "4712").replace('\n', "\r\n");
    let review = edit(&client, &world, id, "/review", &[("version", &version), ("payload", &text)]).await;
    let shown = decoded(review.text());
    assert!(shown.contains("<del>- <bdi>  \"order\": 4711,</bdi></del>"), "{review}");
    assert!(shown.contains("<ins>+ <bdi>  \"order\": 4712,</bdi></ins>"), "{review}");
    assert_eq!(review.header(CACHE_CONTROL), "no-store");
    assert_eq!(replayed(&world, id).await, None);

    // Back to the editor, which keeps the text.
    let (payload, version) = (hidden(&review, "payload"), hidden(&review, "version"));
    let again = edit(&client, &world, id, "", &[("version", &version), ("payload", &payload)]).await;
    assert_eq!(edited_text(&again), payload);
    let fields = [("version", version.as_str()), ("payload", &payload), ("note", "a typo")];
    let done = edit(&client, &world, id, "/replay", &fields).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{done}");
    let edited = r#"{"order":4712,"total":1.10,"big":18446744073709551616}"#;
    assert_eq!(replayed(&world, id).await.as_deref(), Some(edited));
    let row = world.row(id).await;
    assert_eq!(
        (row.resolution, row.resolution_note.as_deref()),
        (Some(Resolution::Replayed), Some("a typo"))
    );
    assert_eq!(world.outbox.events(), [row.original_event_id]);
    let actions: Vec<_> = audited().iter().map(|entry| entry.field("action").to_owned()).collect();
    assert_eq!(actions, ["opened_editor", "replayed_edited"]);

    let page = client.get(format!("/apps/{}/letters/{id}", world.app)).await;
    assert!(page.text().contains("Edited payload, put back by the last replay"), "{page}");
    assert!(page.text().contains("4711") && page.text().contains("4712"), "{page}");
    // A double click.
    let again = edit(&client, &world, id, "/replay", &fields).await;
    assert_eq!((again.status, world.outbox.events().len()), (StatusCode::CONFLICT, 1));
}

async fn an_edit_that_can_not_be_replayed_opens_the_editor_again_with_its_text(world: World) {
    let id = stored(&world, STORED).await;
    let client = world.client();
    let version = hidden(&edit(&client, &world, id, "", &[]).await, "version");
    let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
    let large = format!("\"{}\"", "x".repeat(64 << 10));
    for (text, problem) in [
        ("{\"order\": }", "must be JSON"),
        ("", "must be JSON"),
        (&deep, "nested at most 127 levels deep"),
        (&large, "must have at most 64 KB"),
        (&STORED.replace(',', ", "), "is unchanged"),
    ] {
        for step in ["/review", "/replay"] {
            let page = edit(&client, &world, id, step, &[("version", &version), ("payload", text)]).await;
            assert_eq!(page.status, StatusCode::BAD_REQUEST, "{page}");
            assert!(page.text().contains(problem), "{page}");
            assert_eq!(edited_text(&page), text);
        }
    }
    assert_eq!((replayed(&world, id).await, world.row(id).await.is_open()), (None, true));
    let hidden_one = stored(&world, "{\"a\":\"\u{202e}\"}").await;
    let editor = edit(&client, &world, hidden_one, "", &[]).await;
    let fields = [("version", &*hidden(&editor, "version")), ("payload", &*edited_text(&editor))];
    let page = edit(&client, &world, hidden_one, "/review", &fields).await;
    assert!(page.status == StatusCode::BAD_REQUEST && page.text().contains("is unchanged"), "{page}");
    let page = edit(&client, &world, id, "/review", &[("payload", "1")]).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST, "{page}");
}

async fn a_letter_that_changed_meanwhile_is_not_replayed(world: World) {
    let id = stored(&world, STORED).await;
    let client = world.client();
    let version = hidden(&edit(&client, &world, id, "", &[]).await, "version");
    let fields = [("version", version.as_str()), ("payload", "1")];
    world.repo.resolve(id, "handler_failed").await.unwrap();
    for step in ["/review", "/replay"] {
        let page = edit(&client, &world, id, step, &fields).await;
        assert_eq!(page.status, StatusCode::CONFLICT, "{page}");
        assert!(page.text().contains("The letter has changed"), "{page}");
    }
    world.repo.resolve_once(world.app, id, Resolution::Ignored, &Attribution::by("grace")).await.unwrap();
    let page = edit(&client, &world, id, "/replay", &fields).await;
    assert_eq!(page.status, StatusCode::CONFLICT, "{page}");
    assert!(page.text().contains("grace"), "{page}");
    assert_eq!((replayed(&world, id).await, world.outbox.events().len()), (None, 0));
}

async fn a_letter_that_was_replayed_and_reopened_meanwhile_is_not_replayed(world: World) {
    let id = stored(&world, STORED).await;
    let client = world.client();
    let version = hidden(&edit(&client, &world, id, "", &[]).await, "version");
    let fields = [("version", version.as_str()), ("payload", "1")];
    world.repo.record_reveal(world.app, id, &Attribution::by("bob")).await.unwrap();
    assert_eq!(edit(&client, &world, id, "/review", &fields).await.status, StatusCode::OK);
    client.post(world.path(&format!("letters/{id}/replay")), json!({})).await.json();
    let reopen = ReopenRequest::default().include_replayed(true);
    let this = DeadLetterFilter::default().ids([id]);
    world.repo.reopen_matching(world.app, &this, &Attribution::by("grace"), &reopen).await.unwrap();
    // More than a page of the history.
    for _ in 0..60 {
        world.repo.record_reveal(world.app, id, &Attribution::by("bob")).await.unwrap();
    }
    for step in ["/review", "/replay"] {
        let page = edit(&client, &world, id, step, &fields).await;
        assert_eq!(page.status, StatusCode::CONFLICT, "{page}");
    }
    assert_eq!(world.outbox.events().len(), 1);
}

async fn only_open_letters_with_a_small_payload_have_an_editor(world: World) {
    let client = world.client();
    let large = stored(&world, &format!("\"{}\"", "x".repeat(64 << 10))).await;
    let closed = stored(&world, STORED).await;
    world.repo.resolve(closed, "ignored").await.unwrap();
    let erased = world.stored("2026-03-01T10:00:00Z", |stored| dead_letters::StoredLetter {
        payload: "null".to_owned(),
        payload_kind: Some("erased".to_owned()),
        ..stored
    });
    let erased = erased.await;
    for (id, status, says) in [
        (large, StatusCode::PAYLOAD_TOO_LARGE, "--payload-file"),
        (closed, StatusCode::CONFLICT, "ignored"),
        (erased, StatusCode::CONFLICT, "erased"),
    ] {
        let page = client.get(format!("/apps/{}/letters/{id}", world.app)).await;
        assert!(!page.text().contains("Edit and replay"), "{page}");
        let page = edit(&client, &world, id, "", &[]).await;
        assert_eq!(page.status, status, "{page}");
        assert!(page.text().contains(says), "{page}");
    }
    // Text that is not JSON is edited as it is.
    let text = stored(&world, "<order>\u{202e}</order>").await;
    let editor = edit(&client, &world, text, "", &[]).await;
    assert!(editor.text().contains("The stored payload is not JSON"), "{editor}");
}

async fn a_redacted_payload_is_edited_only_by_those_who_may_see_it(world: World) {
    let id = stored(&world, STORED).await;
    let replays = || Operator::reader("ada").with(Right::Replay);
    for (operator, may) in [
        (replays().with(Right::Edit), false),
        (replays().with(Right::Payloads), false),
        (Operator::full("ada"), false),
        (replays().with(Right::Edit).with(Right::Payloads), true),
    ] {
        let client = Client::from(world.admin_of(operator).redact(["/order"]).unwrap());
        let page = client.get(format!("/apps/{}/letters/{id}", world.app)).await;
        assert_eq!(page.text().contains("Edit and replay"), may, "{page}");
        let editor = edit(&client, &world, id, "", &[]).await;
        assert_eq!(editor.status == StatusCode::OK, may, "{editor}");
        assert_eq!(editor.text().contains("4711"), may, "{editor}");
        if !may {
            let path = world.path(&format!("letters/{id}/replay"));
            let answer = client.post(path, json!({ "payload": "1" })).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{answer}");
        }
    }
    assert!(world.row(id).await.is_open());
}

async fn the_api_puts_an_edited_payload_back_as_it_was_sent(world: World) {
    let id = stored(&world, STORED).await;
    let client = world.client();
    let path = world.path(&format!("letters/{id}/replay"));
    for text in ["", "{", "{} {}"] {
        let problem = client.post(&path, json!({ "payload": text })).await.problem(400, "invalid");
        assert_eq!(problem["field"], "payload");
    }
    let missing = client.get(world.path(&format!("letters/{id}/replayed-payload"))).await;
    missing.problem(404, "not-found");
    let edited = r#"{ "order": 1e999 }"#;
    let answer = client.post(&path, json!({ "payload": edited, "note": "a typo" })).await.json();
    assert_eq!((&answer["resolution"], &answer["replayed_payload_bytes"]), (&json!("replayed"), &json!(18)));
    for (path, text) in [("payload", STORED), ("replayed-payload", edited)] {
        let answer = client.get(world.path(&format!("letters/{id}/{path}"))).await;
        assert_eq!(answer.text(), text);
    }
    client.post(&path, json!({ "payload": edited })).await.problem(409, "already-resolved");
}

async fn an_edited_payload_is_redacted_and_revealed_as_the_own_one(world: World) {
    let id = stored(&world, STORED).await;
    let path = world.path(&format!("letters/{id}/replay"));
    world.client().post(&path, json!({ "payload": r#"{"order":"secret","total":2}"# })).await.json();
    let client = |operator| Client::from(world.admin_of(operator).redact(["/order"]).unwrap());
    let reader = client(Operator::reader("bob"));
    let seer = client(Operator::reader("ada").with(Right::Payloads));
    let page = format!("/apps/{}/letters/{id}", world.app);
    let download = world.path(&format!("letters/{id}/replayed-payload"));
    assert!(!reader.get(&page).await.text().contains("secret"));
    assert_eq!(reader.get(&download).await.text(), r#"{"order":"[redacted]","total":2}"#);
    let reveal = format!("{download}/reveal");
    reader.post(&reveal, json!(null)).await.problem(403, "forbidden");
    listen();
    assert!(seer.post(&reveal, json!(null)).await.text().contains("secret"));
    let shown = seer.post_as(format!("{page}/reveal"), FORM, "").await;
    assert!(shown.text().contains("secret") && shown.text().contains("4711"), "{shown}");
    let actions: Vec<_> = audited().iter().map(|entry| entry.field("action").to_owned()).collect();
    assert_eq!(actions, ["revealed", "revealed"]);
}
