//! Tests of the answers of each API operation.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use dead_letters::{
    AppId, Attribution, DeadLetterFilter, DeadLetterRead, DeadLetterResolve, NewDeadLetter, Resolution,
    StoredLetter,
    testing::{self, FailingStore, letter},
};
use dead_letters_admin::{Admin, Operator, Right};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    Client, World, audited, fail_all, let_in, listen, memory, new_app, on_every_backend, time,
};

on_every_backend! {
    the_apps_with_open_letters_are_listed_by_id_with_names_and_counts,
    a_page_of_apps_begins_after_the_last_app_of_the_page_before,
    an_operator_of_some_apps_sees_no_others,
    letters_come_newest_first_page_by_page,
    a_letter_has_the_number_of_earlier_replays_of_its_event,
    a_view_that_reaches_its_scan_limit_returns_where_it_stopped,
    letters_are_sorted_by_age_or_by_attempts,
    a_filter_in_the_query_string_is_obeyed,
    a_letter_has_its_error_and_not_its_payload,
    an_error_is_cut_at_100_000_characters,
    a_letter_that_the_app_has_not_is_not_found,
    a_letter_is_resolved_in_the_operators_name_and_a_body_with_another_is_refused,
    a_closed_letter_is_not_changed_and_its_resolution_is_returned,
    replayed_and_handler_failed_are_refused_as_resolutions,
    a_replay_puts_the_event_back_once,
    a_letter_is_reopened_once,
    a_replayed_letter_is_reopened_only_by_a_request_that_includes_it,
    the_history_has_each_action_and_continues_after_the_last_of_a_page,
    a_filter_of_the_history_hides_redacted_metadata_without_the_right_to_see_it,
    groups_have_timelines_where_they_are_asked_for,
    a_group_regresses_if_all_its_open_letters_failed_after_the_last_was_closed,
    new_and_regressed_groups_are_listed_of_the_apps_that_the_operator_may_see,
    a_wrong_query_for_new_groups_is_refused_with_its_field,
    a_timeline_has_every_bucket,
    a_payload_is_its_stored_text_to_the_byte,
    a_payload_of_many_parts_is_streamed_whole,
    redaction_changes_nothing_else_in_a_payload,
    a_payload_that_can_not_be_redacted_is_withheld,
    a_revealed_payload_is_audited,
    redacted_metadata_is_revealed_by_an_audited_call,
    content_is_not_revealed_if_the_history_cannot_be_written,
    a_letter_has_its_metadata_without_what_is_redacted,
    letters_are_found_by_their_metadata_in_every_view,
    a_filter_by_redacted_metadata_is_refused_everywhere_without_the_right_to_see_it,
    every_action_is_audited,
    a_client_with_the_current_tag_gets_304_until_the_response_changes,
}

async fn the_apps_with_open_letters_are_listed_by_id_with_names_and_counts(world: World) {
    let (one, other, closed) = (new_app(), new_app(), new_app());
    for app in [one, one, other] {
        world.insert(letter(app)).await;
    }
    let failed = world.insert(letter(other)).await;
    world.repo.resolve_once(other, failed, Resolution::HandlerFailed, &Attribution::default()).await.unwrap();
    let done = world.insert(letter(closed)).await;
    world.repo.resolve_once(closed, done, Resolution::Ignored, &Attribution::default()).await.unwrap();

    let admin = world.admin_of(Operator::reader("ada"));
    let client = Client::from(admin.app_names(move |app| (app == one).then(|| "Orders".to_owned())));
    let apps = client.get("/api/apps").await.json();
    let mut expected = [
        (one, json!("Orders"), json!({ "count": 2, "capped": false }), 2),
        (other, json!(other), json!({ "count": 2, "capped": false }), 1),
    ];
    expected.sort_by_key(|app| app.0);
    let items = apps["items"].as_array().unwrap();
    assert_eq!(items.len(), 2);
    for (item, (app, name, open, unresolved)) in items.iter().zip(expected) {
        assert_eq!((&item["app_id"], &item["name"], &item["open"]), (&json!(app), &name, &open));
        assert_eq!(item["unresolved"]["count"], unresolved);
        assert!(item["oldest"].as_str().unwrap() <= item["newest"].as_str().unwrap());
    }
    assert_eq!(apps["next"], Value::Null);
}

async fn a_page_of_apps_begins_after_the_last_app_of_the_page_before(world: World) {
    let mut apps = [new_app(), new_app(), new_app()];
    apps.sort();
    for app in apps {
        world.insert(letter(app)).await;
    }
    let client = world.client();
    let first = client.get("/api/apps?limit=2").await.json();
    assert_eq!(first["next"], json!(apps[1]));
    let second = client.get(format!("/api/apps?limit=2&after={}", apps[1])).await.json();
    assert_eq!((&second["items"][0]["app_id"], &second["next"]), (&json!(apps[2]), &Value::Null));
}

async fn an_operator_of_some_apps_sees_no_others(world: World) {
    let other = new_app();
    world.letter().await;
    world.insert(letter(other)).await;
    let client = Client::from(world.admin_of(Operator::reader("ada").of_apps([world.app])));
    let apps = client.get("/api/apps").await;
    assert_eq!(apps.json()["items"][0]["app_id"], json!(world.app));
    assert!(!apps.text().contains(&other.to_string()));
    let of_none = Client::from(world.admin_of(Operator::reader("bob").of_apps([])));
    assert_eq!(of_none.get("/api/apps").await.json(), json!({ "items": [], "next": null }));
}

async fn letters_come_newest_first_page_by_page(world: World) {
    let mut ids = Vec::new();
    for minute in [1, 2, 3] {
        ids.push(world.stored(&format!("2026-03-01T10:0{minute}:00Z"), |letter| letter).await);
    }
    let client = world.client();
    let first = client.get(world.path("letters?size=2")).await.json();
    assert_eq!(listed(&first), [json!(ids[2]), json!(ids[1])]);
    let next = first["next"].as_str().unwrap();
    let second = client.get(world.path(&format!("letters?size=2&after={next}"))).await.json();
    assert_eq!(listed(&second), [json!(ids[0])]);
    assert_eq!((&second["next"], &second["scanned_back_to"]), (&Value::Null, &Value::Null));

    let other_filter = client.get(world.path(&format!("letters?size=2&op=insert&after={next}"))).await;
    other_filter.problem(400, "invalid");
}

fn listed(page: &Value) -> Vec<Value> {
    page["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect()
}

async fn a_letter_has_the_number_of_earlier_replays_of_its_event(world: World) {
    let client = world.client();
    let event = Uuid::new_v4();
    for times in 0..3 {
        let letter = NewDeadLetter { original_event_id: event, ..letter(world.app) };
        let id = world.insert(letter).await;
        let found = client.get(world.path(&format!("letters/{id}"))).await.json();
        assert_eq!(found["times_replayed"], times);
        let replayed = client.post(world.path(&format!("letters/{id}/replay")), json!({})).await.json();
        assert_eq!(replayed["times_replayed"], times + 1);
    }
    let listed = client.get(world.path("letters?state=any")).await.json();
    let times: Vec<_> =
        listed["items"].as_array().unwrap().iter().map(|item| &item["times_replayed"]).collect();
    assert_eq!(times, [3, 3, 3]);
}

async fn a_view_that_reaches_its_scan_limit_returns_where_it_stopped(world: World) {
    world.stored("2026-03-01T10:01:00Z", |letter| letter).await;
    world.stored("2026-03-01T10:02:00Z", |letter| letter).await;
    let client = world.client();
    let page = client.get(world.path("letters?source=none&scan_limit=1")).await.json();
    assert_eq!(page["items"], json!([]));
    assert_eq!(page["scanned_back_to"].as_str().map(time), Some(time("2026-03-01T10:02:00Z")));
    assert!(page["next"].is_string());
    for view in ["groups", "timeline"] {
        let query = "scan_limit=1&from=2026-03-01T10:00:00Z&until=2026-03-01T11:00:00Z";
        let answer = client.get(world.path(&format!("{view}?{query}"))).await.json();
        assert_eq!(
            answer["scanned_back_to"].as_str().map(time),
            Some(time("2026-03-01T10:02:00Z")),
            "{view}"
        );
    }
}

async fn letters_are_sorted_by_age_or_by_attempts(world: World) {
    let mut ids = Vec::new();
    for (minute, attempt_count) in [(1, 9), (2, 1), (3, 4)] {
        let at = format!("2026-03-01T10:0{minute}:00Z");
        ids.push(json!(world.stored(&at, |letter| StoredLetter { attempt_count, ..letter }).await));
    }
    let client = world.client();
    let list = async |query: &str| client.get(world.path(&format!("letters?{query}"))).await.json();
    let expected = |places: &[usize]| places.iter().map(|&place| ids[place].clone()).collect::<Vec<_>>();
    let first = list("sort=oldest&size=2").await;
    assert_eq!(listed(&first), expected(&[0, 1]));
    let rest = list(&format!("sort=oldest&after={}", first["next"].as_str().unwrap())).await;
    assert_eq!((listed(&rest), &rest["next"]), (expected(&[2]), &Value::Null));
    let most = list("sort=most_attempts&size=2").await;
    assert_eq!((listed(&most), &most["next"]), (expected(&[0, 2]), &Value::Null));
    let most = list("sort=most_attempts&scan_limit=2").await;
    assert_eq!(listed(&most), expected(&[2, 1]));
    assert_eq!(most["scanned_back_to"], "2026-03-01T10:02:00Z");
    for (view, query) in [("letters", "sort=worst"), ("groups", "sort=oldest"), ("timeline", "sort=oldest")] {
        let problem = client.get(world.path(&format!("{view}?{query}"))).await.problem(400, "invalid");
        assert_eq!(problem["field"], "sort");
    }
}

async fn a_filter_in_the_query_string_is_obeyed(world: World) {
    let mails = NewDeadLetter {
        source: "mails".to_owned(),
        last_error: "100% of <b>\"it\"</b> & more".to_owned(),
        ..letter(world.app)
    };
    let id = world.insert(mails).await;
    world.letter().await;
    let client = world.client();
    for query in [
        "source=mails",
        "source_contains=AIL&op_contains=SERT",
        "error_contains=100%25+OF",
        "error_contains=100%25+of+%3Cb%3E%22it%22%3C%2Fb%3E+%26",
        "state=open&op=insert&source=mails&error_signature=",
        &format!("ids={id}"),
        &format!("state=any&group_key={}", world.group_key(id).await),
        &format!("ids={id}&group_key={}", world.group_key(id).await),
    ] {
        let found = client.get(world.path(&format!("letters?{query}"))).await.json();
        assert_eq!(listed(&found), [json!(id)], "{query}");
        let groups = client.get(world.path(&format!("groups?{query}"))).await.json();
        assert_eq!(groups["items"][0]["newest_id"], json!(id), "{query}");
        assert_eq!(groups["items"].as_array().unwrap().len(), 1, "{query}");
    }
}

async fn a_letter_has_its_error_and_not_its_payload(world: World) {
    let new = NewDeadLetter {
        last_error: "first line\nsecond line".to_owned(),
        payload: json!({ "secret": "canary" }),
        ..letter(world.app)
    };
    let id = world.insert(new.clone()).await;
    let row = world.row(id).await;
    let answer = world.client().get(world.path(&format!("letters/{id}"))).await;
    assert!(!answer.text().contains("canary"));
    let expected = json!({
        "id": id,
        "app_id": world.app,
        "original_event_id": new.original_event_id,
        "source": "orders",
        "op": "insert",
        "trigger_id": new.trigger_id,
        "script_id": new.script_id,
        "payload_bytes": new.payload.to_string().len(),
        "payload_kind": "json",
        "replayed_payload_bytes": null,
        "attempt_count": 5,
        "first_attempt_at": new.first_attempt_at,
        "last_attempt_at": new.last_attempt_at,
        "error_excerpt": "first line\nsecond line",
        "error_signature": "first line",
        "group_key": world.group_key(id).await,
        "created_at": row.created_at,
        "resolved_at": null,
        "resolution": null,
        "resolved_by": null,
        "resolution_note": null,
        "run_id": null,
        "times_replayed": 0,
        "last_error": "first line\nsecond line",
        "metadata": {},
    });
    assert_eq!(answer.json(), expected);
}

async fn an_error_is_cut_at_100_000_characters(world: World) {
    let id = world.insert(NewDeadLetter { last_error: "é".repeat(150_000), ..letter(world.app) }).await;
    let found = world.client().get(world.path(&format!("letters/{id}"))).await.json();
    assert_eq!(found["last_error"], "é".repeat(100_000));
    assert_eq!(found["error_excerpt"], "é".repeat(200));
}

async fn a_letter_that_the_app_has_not_is_not_found(world: World) {
    let others = world.insert(letter(new_app())).await;
    let client = world.client();
    let mut answers = Vec::new();
    for id in [others.to_string(), Uuid::new_v4().to_string(), "nonsense".to_owned()] {
        for path in ["", "/payload"] {
            answers.push(client.get(world.path(&format!("letters/{id}{path}"))).await);
        }
        for (path, body) in [
            ("resolve", json!({ "resolution": "ignored" })),
            ("replay", json!({})),
            ("reopen", json!({})),
            ("reveal", Value::Null),
        ] {
            answers.push(client.post(world.path(&format!("letters/{id}/{path}")), body).await);
        }
    }
    for answer in &answers {
        answer.problem(404, "not-found");
        assert_eq!(answer.body, answers[0].body);
    }
    assert_eq!(world.row(others).await.resolved_at, None);
    assert!(world.outbox.events().is_empty());
}

async fn a_letter_is_resolved_in_the_operators_name_and_a_body_with_another_is_refused(world: World) {
    let client = world.client();
    for (resolution, stored) in
        [("ignored", Resolution::Ignored), ("handled_by_script", Resolution::HandledByScript)]
    {
        let id = world.letter().await;
        let body = json!({ "resolution": resolution, "note": "<b>sold out</b>" });
        let answer = client.post(world.path(&format!("letters/{id}/resolve")), body).await.json();
        assert_eq!(answer["resolution"], resolution);
        let row = world.row(id).await;
        assert_eq!((row.resolution, row.resolved_by.as_deref()), (Some(stored), Some("ada")));
        assert_eq!(row.resolution_note.as_deref(), Some("<b>sold out</b>"));

        let path = world.path(&format!("letters/{}/resolve", world.letter().await));
        let forged = json!({ "resolution": resolution, "by": "eve" });
        assert_eq!(client.post(&path, forged).await.problem(400, "invalid")["field"], "by");
    }
}

async fn a_closed_letter_is_not_changed_and_its_resolution_is_returned(world: World) {
    let id = world.letter().await;
    let closed = world
        .repo
        .resolve_once(world.app, id, Resolution::Ignored, &Attribution::by("bob").note("mine"))
        .await
        .unwrap();
    let before = world.row(id).await;
    let client = world.client();
    for (action, body) in [("resolve", json!({ "resolution": "handled_by_script" })), ("replay", json!({}))] {
        let answer = client.post(world.path(&format!("letters/{id}/{action}")), body).await;
        let expected =
            json!({ "resolution": "ignored", "resolved_at": closed.resolved_at, "resolved_by": "bob" });
        assert_eq!(answer.problem(409, "already-resolved")["resolved_before"], expected, "{action}");
    }
    assert_eq!(world.row(id).await, before);
    assert!(world.outbox.events().is_empty());
}

async fn replayed_and_handler_failed_are_refused_as_resolutions(world: World) {
    let id = world.letter().await;
    let client = world.client();
    for resolution in ["replayed", "handler_failed", "nonsense"] {
        let body = json!({ "resolution": resolution });
        let answer = client.post(world.path(&format!("letters/{id}/resolve")), body).await;
        assert_eq!(answer.problem(400, "invalid")["field"], "resolution", "{resolution}");
    }
    assert_eq!(world.row(id).await.resolved_at, None);
}

async fn a_replay_puts_the_event_back_once(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let path = world.path(&format!("letters/{id}/replay"));
    let answer = client.post(&path, json!({ "note": "fixed" })).await.json();
    assert_eq!((&answer["resolution"], &answer["resolved_by"]), (&json!("replayed"), &json!("ada")));
    assert_eq!(answer["resolution_note"], "fixed");
    client.post(&path, json!({})).await.problem(409, "already-resolved");
    assert_eq!(world.outbox.events(), [world.row(id).await.original_event_id]);

    let other = world.letter().await;
    world.outbox.take_no_more_than(0);
    let refused = client.post(world.path(&format!("letters/{other}/replay")), json!({})).await;
    refused.problem(500, "internal");
    assert!(!refused.text().contains("secrets"));
    assert_eq!(world.row(other).await.resolved_at, None);
}

async fn a_letter_is_reopened_once(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let path = world.path(&format!("letters/{id}/reopen"));
    client.post(&path, json!({})).await.problem(409, "not-resolved");
    world.repo.resolve_once(world.app, id, Resolution::Ignored, &Attribution::by("bob")).await.unwrap();
    let reopened = client.post(&path, json!({})).await.json();
    assert_eq!((&reopened["resolved_at"], &reopened["resolved_by"]), (&Value::Null, &Value::Null));
    client.post(&path, json!({})).await.problem(409, "not-resolved");
}

async fn a_replayed_letter_is_reopened_only_by_a_request_that_includes_it(world: World) {
    let id = world.letter().await;
    let client = world.client();
    client.post(world.path(&format!("letters/{id}/replay")), json!({})).await.json();
    let path = world.path(&format!("letters/{id}/reopen"));
    client.post(&path, json!({})).await.problem(409, "replayed");
    assert_eq!(world.row(id).await.resolution, Some(Resolution::Replayed));
    let anyway = json!({ "include_replayed": true, "note": "it was lost" });
    assert_eq!(client.post(&path, anyway).await.json()["resolved_at"], Value::Null);
    let history = client.get(world.path("actions")).await.json();
    assert_eq!(
        (&history["items"][0]["action"], &history["items"][0]["note"]),
        (&json!("reopen"), &json!("it was lost"))
    );
}

async fn the_history_has_each_action_and_continues_after_the_last_of_a_page(world: World) {
    let client = world.client();
    let (id, other) = (world.letter().await, world.letter().await);
    let path = |id, action: &str| world.path(&format!("letters/{id}/{action}"));
    let ignored = json!({ "resolution": "ignored", "note": "sold out" });
    client.post(path(id, "resolve"), ignored).await;
    client.post(path(id, "reopen"), json!({})).await;
    client.post(path(other, "replay"), json!({})).await;

    let all = client.get(world.path("actions")).await.json();
    assert_eq!(all["next"], Value::Null);
    let items = all["items"].as_array().unwrap();
    let shown = |item: &Value| {
        json!([
            item["action"],
            item["letter_id"],
            item["letters"],
            item["resolution"],
            item["previous_resolution"]
        ])
    };
    assert_eq!(
        items.iter().map(shown).collect::<Vec<_>>(),
        [
            json!(["replay", other, 1, "replayed", null]),
            json!(["reopen", id, 1, null, "ignored"]),
            json!(["resolve", id, 1, "ignored", null]),
        ]
    );
    assert_eq!((&items[2]["actor"], &items[2]["note"]), (&json!("ada"), &json!("sold out")));
    assert_eq!((&items[2]["filter"], &items[2]["run_id"]), (&Value::Null, &Value::Null));

    let of_letter = client.get(world.path(&format!("actions?letter_id={id}&limit=1"))).await.json();
    assert_eq!(of_letter["items"], json!([items[1]]));
    let next = of_letter["next"].as_str().unwrap();
    let rest = client.get(world.path(&format!("actions?letter_id={id}&limit=2&after={next}"))).await.json();
    assert_eq!((&rest["items"], &rest["next"]), (&json!([items[2]]), &Value::Null));
    let none = client.get(world.path(&format!("actions?run_id={}", Uuid::nil()))).await.json();
    assert_eq!(none["items"], json!([]));
    for wrong in ["letter_id=x", "run_id=x", "after=x", "limit=0", "limit=501", "source=orders"] {
        let problem = client.get(world.path(&format!("actions?{wrong}"))).await.problem(400, "invalid");
        assert_eq!(problem["field"], wrong.split('=').next().unwrap());
    }
}

async fn a_filter_of_the_history_hides_redacted_metadata_without_the_right_to_see_it(world: World) {
    let metadata = json!({ "user": "canary", "tenant": "acme" });
    world.insert(with_metadata(world.app, metadata)).await;
    let max = time("2100-01-01T00:00:00Z");
    let filter = DeadLetterFilter::default().metadata("user", "canary").metadata("tenant", "acme");
    let by = Attribution::by("ben");
    let filter = filter.created_before(max);
    world.repo.resolve_matching(world.app, &filter, Resolution::Ignored, &by, 10).await.unwrap();
    for (operator, user) in [(Operator::reader("ada"), "[redacted]"), (Operator::full("ada"), "canary")] {
        let client = Client::from(world.admin_of(operator).redact_metadata(["/user"]).unwrap());
        let item = client.get(world.path("actions")).await.json()["items"][0].clone();
        let shown = item["filter"].as_str().unwrap();
        assert!(shown.contains(&format!("metadata.user={user}")), "{shown}");
        assert!(shown.contains("metadata.tenant=acme"), "{shown}");
    }
}

async fn groups_have_timelines_where_they_are_asked_for(world: World) {
    for (minute, error) in [(1, "no stock for order 1"), (31, "no stock for order 2"), (32, "smtp: 451")] {
        let created_at = format!("2026-03-01T10:{minute:02}:00Z");
        world
            .stored(&created_at, |mut letter| {
                letter.last_error = error.to_owned();
                letter.error_signature = error.replace(char::is_numeric, "#");
                letter.script_id = None;
                letter
            })
            .await;
    }
    let client = world.client();
    let groups = client.get(world.path("groups")).await.json();
    let counts: Vec<_> = groups["items"].as_array().unwrap().iter().map(|group| &group["count"]).collect();
    assert_eq!(counts, [2, 1]);
    assert_eq!(groups["items"][0]["error_signature"], "no stock for order #");
    assert_eq!(groups["items"][0]["timeline"], json!([]));

    let query = "from=2026-03-01T10:00:00Z&until=2026-03-01T11:00:00Z&buckets=2&limit=1";
    let groups = client.get(world.path(&format!("groups?{query}"))).await.json();
    assert_eq!(groups["items"].as_array().unwrap().len(), 1);
    let timeline = json!([
        { "from": "2026-03-01T10:00:00Z", "count": 1 },
        { "from": "2026-03-01T10:30:00Z", "count": 1 },
    ]);
    assert_eq!(groups["items"][0]["timeline"], timeline);
}

async fn a_group_regresses_if_all_its_open_letters_failed_after_the_last_was_closed(world: World) {
    let closed = |mut letter: dead_letters::StoredLetter, at: &str| {
        letter.script_id = None;
        letter.resolved_at = Some(time(at));
        letter.resolution = Some("ignored".to_owned());
        letter
    };
    world.stored("2026-03-01T10:00:00Z", |letter| closed(letter, "2026-03-01T11:00:00Z")).await;
    let client = world.client();
    let regressed = async || {
        let group = &client.get(world.path("groups?state=any")).await.json()["items"][0];
        (group["closed"].clone(), group["regressed"].clone())
    };
    assert_eq!(regressed().await, (json!(1), json!(false)));
    let unresolved = |mut letter: dead_letters::StoredLetter| {
        letter.script_id = None;
        letter
    };
    world.stored("2026-03-01T11:01:00Z", unresolved).await;
    assert_eq!(regressed().await, (json!(1), json!(true)));
    world.stored("2026-03-01T10:59:00Z", unresolved).await;
    assert_eq!(regressed().await, (json!(1), json!(false)));
}

async fn new_and_regressed_groups_are_listed_of_the_apps_that_the_operator_may_see(world: World) {
    let of_other =
        world.stored("2026-03-01T10:00:00Z", |letter| StoredLetter { app_id: new_app(), ..letter });
    let of_other = world.row(of_other.await).await;
    let of_source = |source: &str| {
        let source = source.to_owned();
        |letter| StoredLetter { source, script_id: None, ..letter }
    };
    world.stored("2026-03-01T09:00:00Z", of_source("old")).await;
    world.stored("2026-03-01T10:01:00Z", of_source("old")).await;
    let ignored = |letter| StoredLetter {
        resolution: Some("ignored".to_owned()),
        resolved_at: Some(time("2026-03-01T09:30:00Z")),
        ..of_source("again")(letter)
    };
    world.stored("2026-03-01T09:00:00Z", ignored).await;
    world.stored("2026-03-01T10:02:00Z", of_source("again")).await;
    let newest = world.stored("2026-03-01T10:03:00Z", of_source("new")).await;

    let path = "/api/groups/new?since=2026-03-01T10:00:00Z";
    let all = world.client().get(path).await.json();
    let shown = |item: &Value| (item["app_id"].clone(), item["source"].clone(), item["state"].clone());
    let expected = [
        (json!(world.app), json!("new"), json!("new")),
        (json!(world.app), json!("again"), json!("regressed")),
        (json!(of_other.app_id), json!("orders"), json!("new")),
    ];
    assert_eq!(all["items"].as_array().unwrap().iter().map(shown).collect::<Vec<_>>(), expected);
    let new = json!({
        "app_id": world.app,
        "name": world.app,
        "group_key": world.group_key(newest).await,
        "source": "new",
        "op": "insert",
        "script_id": null,
        "error_signature": "smtp: 451 try again later",
        "sample": "smtp: 451 try again later",
        "count": 1,
        "open": 1,
        "first_seen": "2026-03-01T10:03:00Z",
        "last_seen": "2026-03-01T10:03:00Z",
        "newest_id": newest,
        "last_closed_at": null,
        "state": "new",
    });
    assert_eq!((&all["items"][0], &all["scanned_back_to"]), (&new, &Value::Null));
    assert_eq!(all["items"][1]["last_closed_at"], "2026-03-01T09:30:00Z");

    let open = world.client().get(format!("{path}&open=true")).await.json();
    let known = (json!(world.app), json!("old"), json!("known"));
    // A regressed group is as old as its first letter there.
    let all_open = [&[expected[0].clone(), expected[2].clone(), expected[1].clone()][..], &[known]].concat();
    assert_eq!(open["items"].as_array().unwrap().iter().map(shown).collect::<Vec<_>>(), all_open);
    assert_eq!((&open["items"][3]["count"], &open["items"][3]["open"]), (&json!(2), &json!(2)));

    let client = Client::from(world.admin_of(Operator::reader("bob").of_apps([of_other.app_id])));
    let items = client.get(path).await.json()["items"].clone();
    assert_eq!(items.as_array().unwrap().iter().map(shown).collect::<Vec<_>>(), expected[2..]);
    let few = world.client().get(format!("{path}&limit=1&scan_limit=2")).await.json();
    assert_eq!((few["items"].as_array().unwrap().len(), &few["items"][0]["state"]), (1, &json!("unknown")));
    assert_eq!(few["scanned_back_to"], "2026-03-01T10:02:00Z");
    // The last 24 hours.
    assert_eq!(world.client().get("/api/groups/new").await.json()["items"], json!([]));
    world.letter().await;
    let last_day = world.client().get("/api/groups/new").await.json();
    assert_eq!(last_day["items"].as_array().unwrap().len(), 1);
}

async fn a_wrong_query_for_new_groups_is_refused_with_its_field(world: World) {
    for (query, field) in [
        ("since=2999-01-01T00:00:00Z", "since"),
        ("since=yesterday", "since"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("scan_limit=0", "scan_limit"),
        ("scan_limit=100001", "scan_limit"),
        ("scan_limit=-1", "scan_limit"),
        ("size=1", "size"),
    ] {
        let problem = world.client().get(format!("/api/groups/new?{query}")).await.problem(400, "invalid");
        assert_eq!(problem["field"], field, "{problem}");
    }
}

async fn a_timeline_has_every_bucket(world: World) {
    for minute in [5, 6, 50] {
        world.stored(&format!("2026-03-01T10:{minute:02}:00Z"), |letter| letter).await;
    }
    let client = world.client();
    let query = "from=2026-03-01T10:00:00Z&until=2026-03-01T11:00:00Z&buckets=3";
    let timeline = client.get(world.path(&format!("timeline?{query}"))).await.json();
    let expected = json!({
        "items": [
            { "from": "2026-03-01T10:00:00Z", "count": 2 },
            { "from": "2026-03-01T10:20:00Z", "count": 0 },
            { "from": "2026-03-01T10:40:00Z", "count": 1 },
        ],
        "scanned_back_to": null,
    });
    assert_eq!(timeline, expected);
    let last_day = client.get(world.path("timeline")).await.json();
    assert_eq!(last_day["items"].as_array().unwrap().len(), 96);
    let backwards = "from=2026-03-01T11:00:00Z&until=2026-03-01T10:00:00Z";
    client.get(world.path(&format!("timeline?{backwards}"))).await.problem(400, "invalid");
}

const TEXT: &str =
    r#"{ "n":18446744073709551616, "price": 1.10, "a":1,"a":2, "e":1E400, "text":"\u00e9é\/" }"#;

async fn a_payload_is_its_stored_text_to_the_byte(world: World) {
    for text in [TEXT, "no JSON <b>", ""] {
        let id = world
            .stored("2026-03-01T10:00:00Z", |mut letter| {
                letter.payload = text.to_owned();
                letter
            })
            .await;
        let answer = world.client().get(world.path(&format!("letters/{id}/payload"))).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, text));
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        let file = format!("attachment; filename=\"dead-letter-{id}.json\"");
        assert_eq!(answer.header("content-disposition"), file);
        assert_eq!((answer.header("cache-control"), answer.header("etag")), ("no-store", ""));
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}

async fn a_payload_of_many_parts_is_streamed_whole(world: World) {
    let text = format!("[{}0]", "\"é😀\\u00e9\",".repeat(800_000));
    let id = world
        .stored("2026-03-01T10:00:00Z", |mut letter| {
            letter.payload = text.clone();
            letter
        })
        .await;
    let answer = world.client().get(world.path(&format!("letters/{id}/payload"))).await;
    assert!(answer.text() == text, "{} bytes of {}", answer.body.len(), text.len());
}

fn redacting(world: &World, operator: Operator) -> Client {
    world.admin_of(operator).redact(["/card", "/lines/*/card"]).unwrap().into()
}

async fn redaction_changes_nothing_else_in_a_payload(world: World) {
    let text =
        r#"{ "card":"4711","n":1.10,"n":18446744073709551616,  "lines":[{"card":{"no":"4712"},"sku":"A"}] }"#;
    let expected = r#"{ "card":"[redacted]","n":1.10,"n":18446744073709551616,  "lines":[{"card":"[redacted]","sku":"A"}] }"#;
    let id = world
        .stored("2026-03-01T10:00:00Z", |mut letter| {
            letter.payload = text.to_owned();
            letter
        })
        .await;
    for operator in [Operator::reader("ada"), Operator::full("ada")] {
        let client = redacting(&world, operator);
        let answer = client.get(world.path(&format!("letters/{id}/payload"))).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, expected));
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

async fn a_payload_that_can_not_be_redacted_is_withheld(world: World) {
    let large = json!({ "card": "canary", "text": "x".repeat(1_000_000) }).to_string();
    for text in ["canary, no JSON", r#"{"card":"canary""#, &large] {
        let id = world
            .stored("2026-03-01T10:00:00Z", |mut letter| {
                letter.payload = text.to_owned();
                letter
            })
            .await;
        let path = world.path(&format!("letters/{id}/payload"));
        let client = redacting(&world, Operator::full("ada"));
        let answer = client.get(&path).await;
        answer.problem(403, "withheld");
        assert!(!answer.text().contains("canary"));
        let revealed = client.post(world.path(&format!("letters/{id}/reveal")), Value::Null).await;
        assert!(revealed.status == StatusCode::OK && revealed.text() == text);
    }
}

fn with_metadata(app: AppId, metadata: Value) -> NewDeadLetter {
    NewDeadLetter { metadata: metadata.as_object().unwrap().clone(), ..letter(app) }
}

async fn a_letter_has_its_metadata_without_what_is_redacted(world: World) {
    let metadata = json!({ "tenant": "acme", "user": { "email": "canary", "id": 7 }, "n": 1 });
    let id = world.insert(with_metadata(world.app, metadata.clone())).await;
    let none = world.letter().await;
    let path = |id| world.path(&format!("letters/{id}"));
    assert_eq!(world.client().get(path(id)).await.json()["metadata"], metadata);
    assert_eq!(world.client().get(path(none)).await.json()["metadata"], json!({}));
    for (pointers, shown) in [
        (["/user/email"], json!({ "tenant": "acme", "user": { "email": "[redacted]", "id": 7 }, "n": 1 })),
        (["/user"], json!({ "tenant": "acme", "user": "[redacted]", "n": 1 })),
        (["/*"], json!({ "tenant": "[redacted]", "user": "[redacted]", "n": "[redacted]" })),
        ([""], Value::Null),
    ] {
        // Only the audited call reveals it, whatever the operator may do.
        for operator in [Operator::reader("bob"), Operator::full("ada")] {
            let client = Client::from(world.admin_of(operator).redact_metadata(pointers).unwrap());
            let answer = client.get(path(id)).await;
            assert_eq!(answer.json()["metadata"], shown, "{pointers:?}");
            assert!(!answer.text().contains("canary"));
            let payload = client.get(path(id) + "/payload").await;
            assert_eq!(payload.status, StatusCode::OK, "{payload}");
        }
    }
}

async fn letters_are_found_by_their_metadata_in_every_view(world: World) {
    let id = world.insert(with_metadata(world.app, json!({ "tenant": "a=b & \"c\"", "host": "a1" }))).await;
    world.insert(with_metadata(world.app, json!({ "tenant": "other", "host": "a1" }))).await;
    let client = world.client();
    let query = "metadata.tenant=a%3Db+%26+%22c%22&metadata.host=a1";
    let found = client.get(world.path(&format!("letters?{query}"))).await.json();
    assert_eq!(listed(&found), [json!(id)]);
    let groups = client.get(world.path(&format!("groups?{query}"))).await.json();
    assert_eq!(groups["items"][0]["count"], 1);
    let timeline = client.get(world.path(&format!("timeline?{query}"))).await.json();
    let counts = timeline["items"].as_array().unwrap().iter().map(|bucket| bucket["count"].as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), 1);
    let filter = json!({ "metadata": { "tenant": "a=b & \"c\"" } });
    let preview = client
        .post("/api/bulk/preview", json!({ "apps": [world.app], "action": "ignored", "filter": filter }))
        .await;
    let preview = preview.json();
    assert_eq!(preview["count"], 1);
    let run = client.post("/api/bulk/run", json!({ "token": preview["token"] })).await.json();
    assert_eq!(run["done"], 1);
    assert_eq!(world.row(id).await.resolution, Some(Resolution::Ignored));

    let long = format!("metadata.{}=v", "k".repeat(201));
    let problem = client.get(world.path(&format!("letters?{long}"))).await.problem(400, "invalid");
    assert_eq!(problem["field"], "metadata");
}

async fn a_filter_by_redacted_metadata_is_refused_everywhere_without_the_right_to_see_it(world: World) {
    let id = world.insert(with_metadata(world.app, json!({ "email": "canary", "tenant": "acme" }))).await;
    let reader = Operator::reader("bob").with(Right::Resolve);
    let of = |operator| Client::from(world.admin_of(operator).redact_metadata(["/email"]).unwrap());
    let (bob, ada) = (of(reader.clone()), of(Operator::full("ada")));
    for guess in ["canary", "other"] {
        for view in ["letters", "groups", "timeline"] {
            let path = world.path(&format!("{view}?metadata.email={guess}"));
            let problem = bob.get(&path).await.problem(403, "forbidden");
            assert_eq!(problem["field"], "metadata.email");
            assert_eq!(ada.get(&path).await.status, StatusCode::OK);
        }
        let body =
            json!({ "apps": [world.app], "action": "ignored", "filter": { "metadata": { "email": guess } } });
        bob.post("/api/bulk/preview", body.clone()).await.problem(403, "forbidden");
        assert_eq!(ada.post("/api/bulk/preview", body).await.json()["count"], u64::from(guess == "canary"));
        for page in [
            format!("/apps/{}?metadata.email={guess}", world.app),
            format!("/apps/{}?metadata_key=email&metadata_value={guess}", world.app),
            format!("/apps/{}/groups?metadata.email={guess}", world.app),
        ] {
            assert_eq!(bob.get(&page).await.status, StatusCode::FORBIDDEN, "{page}");
            // The page redirects the form's two inputs to its own address.
            let status = ada.get(&page).await.status;
            let is_form = page.contains("metadata_key");
            assert_eq!(status, if is_form { StatusCode::SEE_OTHER } else { StatusCode::OK }, "{page}");
        }
        let form = format!("app={}&action=ignored&filter=%3Fmetadata.email%3D{guess}", world.app);
        let preview = "/bulk/preview";
        let refused = bob.post_as(preview, "application/x-www-form-urlencoded", form).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
    }
    let found = bob.get(world.path("letters?metadata.tenant=acme")).await.json();
    assert_eq!(listed(&found), [json!(id)]);

    // A preview of the time before the service redacted the value.
    let unredacted = Client::from(world.admin_of(reader));
    let body =
        json!({ "apps": [world.app], "action": "ignored", "filter": { "metadata": { "email": "canary" } } });
    let token = unredacted.post("/api/bulk/preview", body).await.json()["token"].clone();
    bob.post("/api/bulk/run", json!({ "token": token })).await.problem(403, "forbidden");
}

async fn a_revealed_payload_is_audited(world: World) {
    listen();
    let id = world.letter().await;
    let path = world.path(&format!("letters/{id}/reveal"));
    let client = redacting(&world, Operator::reader("ada").with(Right::Payloads));
    assert_eq!(client.get(world.path(&format!("letters/{id}/payload"))).await.status, StatusCode::OK);
    for method in [Method::GET, Method::HEAD] {
        assert_eq!(client.call(method, &path).await.status, StatusCode::METHOD_NOT_ALLOWED);
    }
    assert_eq!(audited(), []);

    assert_eq!(client.post(&path, Value::Null).await.status, StatusCode::OK);
    let [entry] = &audited()[..] else { panic!("one reveal, one entry") };
    for (field, value) in [
        ("operator", "ada"),
        ("action", "revealed"),
        ("app_id", &world.app.to_string()),
        ("letters", &format!("ids={id}")),
        ("count", "1"),
        ("outcome", "done"),
        ("status", "200"),
    ] {
        assert_eq!(entry.field(field), value, "{field}");
    }
}

async fn redacted_metadata_is_revealed_by_an_audited_call(world: World) {
    let metadata = json!({ "tenant": "acme", "user": { "email": "canary" } });
    let id = world.insert(with_metadata(world.app, metadata.clone())).await;
    let admin = |operator| Client::from(world.admin_of(operator).redact_metadata(["/user"]).unwrap());
    let path = |id| world.path(&format!("letters/{id}/metadata/reveal"));
    listen();
    let reader = admin(Operator::reader("bob"));
    reader.post(path(id), Value::Null).await.problem(403, "forbidden");
    let seer = admin(Operator::reader("ada").with(Right::Payloads));
    let answer = seer.post(path(id), Value::Null).await;
    assert_eq!(answer.json(), json!({ "metadata": metadata }));
    assert_eq!(answer.header("cache-control"), "no-store");
    seer.post(path(Uuid::nil().into()), Value::Null).await.problem(404, "not-found");
    let audited = audited();
    let seen =
        audited.iter().map(|entry| (entry.field("operator"), entry.field("action"), entry.field("outcome")));
    let expected = [("bob", "reveal", "refused"), ("ada", "revealed", "done"), ("ada", "reveal", "refused")];
    assert!(seen.eq(expected), "{audited:?}");
    let history = seer.get(world.path("actions")).await.json();
    assert_eq!(history["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&history["items"][0]["action"], &history["items"][0]["actor"]),
        (&json!("reveal"), &json!("ada"))
    );
    assert_eq!(history["items"][0]["letter_id"], json!(id));
}

async fn content_is_not_revealed_if_the_history_cannot_be_written(world: World) {
    let id = world.insert(NewDeadLetter { payload: json!({ "card": "canary" }), ..letter(world.app) }).await;
    world.repo.pool().execute_unprepared("DROP TABLE dead_letter_actions").await.unwrap();
    let client = redacting(&world, Operator::full("ada"));
    for what in ["reveal", "metadata/reveal"] {
        let refused = client.post(world.path(&format!("letters/{id}/{what}")), Value::Null).await;
        assert!(refused.status.is_server_error() && !refused.text().contains("canary"), "{refused}");
    }
    let page = client
        .post_as(format!("/apps/{}/letters/{id}/reveal", world.app), "application/x-www-form-urlencoded", "")
        .await;
    assert!(page.status.is_server_error() && !page.text().contains("canary"), "{page}");
}

async fn every_action_is_audited(world: World) {
    listen();
    let (id, event) = (world.letter().await, world.letter().await);
    let client = world.client();
    let act = async |id, action: &str, body| {
        client.post(world.path(&format!("letters/{id}/{action}")), body).await;
    };
    let ignored = json!({ "resolution": "ignored", "note": "canary" });
    act(id, "resolve", ignored.clone()).await;
    act(id, "resolve", ignored).await;
    act(id, "reopen", json!({})).await;
    act(event, "replay", json!({})).await;
    let told: Vec<_> = audited()
        .iter()
        .map(|entry| ["action", "count", "outcome", "status"].map(|field| entry.field(field).to_owned()))
        .collect();
    let expected = [
        ["ignored", "1", "done", "200"],
        ["ignored", "0", "refused", "409"],
        ["reopened", "1", "done", "200"],
        ["replayed", "1", "done", "200"],
    ];
    assert_eq!(told, expected);
}

async fn a_client_with_the_current_tag_gets_304_until_the_response_changes(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let letter = format!("letters/{id}");
    for path in
        ["letters", &letter, "groups", "timeline?until=2026-03-01T10:00:00Z"].map(|path| world.path(path))
    {
        let first = client.get(&path).await;
        let tag = first.header("etag").to_owned();
        assert!(tag.starts_with("W/\""), "{tag}");
        assert_eq!(first.header("cache-control"), "private, no-cache");
        let again = async |known: &str| {
            let request = Request::get(&path).header(header::IF_NONE_MATCH, known);
            client.send(request.body(Body::empty()).unwrap()).await
        };
        let known = again(&format!("W/\"another\", {tag}")).await;
        assert_eq!((known.status, known.header("etag")), (StatusCode::NOT_MODIFIED, &*tag), "{path}");
        assert!(known.body.is_empty());
        assert_eq!(again("W/\"another\"").await.body, first.body);
    }
    let path = world.path("letters");
    let tag = client.get(&path).await.header("etag").to_owned();
    world.letter().await;
    let request = Request::get(&path).header(header::IF_NONE_MATCH, tag).body(Body::empty()).unwrap();
    assert_eq!(client.send(request).await.status, StatusCode::OK);
}

async fn client() -> Client {
    let store = memory().await;
    Admin::new(Arc::new(store), let_in(Operator::full("ada"))).into()
}

#[tokio::test]
async fn every_response_has_the_security_headers() {
    let client = client().await;
    for path in ["/api/apps", "/api/apps?x", "/api/nothing", "/api/openapi.json"] {
        let answer = client.get(path).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), value, "{path}");
        }
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'; "), "{path}");
    }
}

#[tokio::test]
async fn a_wrong_method_gets_the_list_of_allowed_ones() {
    let client = client().await;
    let (app, id) = (new_app(), Uuid::new_v4());
    for (method, path, allowed) in [
        (Method::POST, "/api/apps".to_owned(), "GET,HEAD"),
        (Method::DELETE, format!("/api/apps/{app}/letters/{id}"), "GET,HEAD"),
        (Method::GET, format!("/api/apps/{app}/letters/{id}/resolve"), "POST"),
        (Method::PUT, "/api/bulk/run".to_owned(), "POST"),
    ] {
        let answer = client.call(method, &path).await;
        answer.problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), allowed, "{path}");
    }
}

#[tokio::test]
async fn an_unknown_path_is_a_problem_too() {
    let client = client().await;
    for path in ["/api", "/api/", "/api/nothing", "/api/apps/", "/api/apps/x/letters/y/z"] {
        client.get(path).await.problem(404, "not-found");
    }
}

#[tokio::test]
async fn a_method_can_not_be_overridden() {
    let client = client().await;
    let path = format!("/api/apps/{}/letters/{}/resolve", new_app(), Uuid::new_v4());
    let request = Request::get(format!("{path}?_method=POST"))
        .header("x-http-method-override", "POST")
        .body(Body::empty())
        .unwrap();
    client.send(request).await.problem(405, "method-not-allowed");
}

#[tokio::test]
async fn a_wrong_field_of_a_query_string_is_named() {
    let client = client().await;
    let (app, id) = (new_app(), Uuid::new_v4());
    let long = "x".repeat(10_000);
    for (path, query, field) in [
        ("", "limit=0", "limit"),
        ("", "limit=1001", "limit"),
        ("", "limit=x", "limit"),
        ("", "after=x", "after"),
        ("", "state=open", "state"),
        ("letters", "state=nonsense", "state"),
        ("letters", "size=0", "size"),
        ("letters", "size=501", "size"),
        ("letters", "scan_limit=0", "scan_limit"),
        ("letters", "scan_limit=100001", "scan_limit"),
        ("letters", "after=x", "after"),
        ("letters", "source=a&source=b", "source"),
        ("letters", "unknown=", "unknown"),
        ("letters", &format!("error_contains={long}"), "error_contains"),
        ("letters", "created_from=yesterday", "created_from"),
        ("letters", "trigger_id=1", "trigger_id"),
        ("letters", "script_id=None", "script_id"),
        ("groups", "size=50", "size"),
        ("groups", "limit=0", "limit"),
        ("groups", "limit=501", "limit"),
        ("groups", "buckets=0", "buckets"),
        ("timeline", "buckets=1001", "buckets"),
        ("timeline", "from=x", "from"),
        ("timeline", "until=x", "until"),
        ("timeline", "after=x", "after"),
        (&format!("letters/{id}"), "reveal=true", "reveal"),
        (&format!("letters/{id}/payload"), "reveal=true", "reveal"),
        (&format!("letters/{id}/payload"), "revealed=true", "revealed"),
    ] {
        let path = if path.is_empty() { "/api/apps".to_owned() } else { format!("/api/apps/{app}/{path}") };
        let problem = client.get(format!("{path}?{query}")).await.problem(400, "invalid");
        assert_eq!(problem["field"], field, "{path}?{}", &query[..query.len().min(80)]);
        assert!(problem["detail"].as_str().unwrap().contains(field));
    }
}

#[tokio::test]
async fn a_wrong_body_is_refused_and_its_field_named() {
    let client = client().await;
    let app = new_app();
    let resolve = format!("/api/apps/{app}/letters/{}/resolve", Uuid::new_v4());
    let preview = "/api/bulk/preview".to_owned();
    let run = "/api/bulk/run".to_owned();
    let apps = format!("{{\"apps\":[\"{app}\"],");
    let too_many = [(); 51].map(|()| new_app());
    let too_many = too_many.as_slice();
    let of_app = |body: &str| body.replacen('{', &apps, 1);
    let long = "x".repeat(10_000);
    for (path, body, field) in [
        (&resolve, "[]".to_owned(), Value::Null),
        (&resolve, "[\"ignored\",null]".to_owned(), Value::Null),
        (&resolve, "\"ignored\"".to_owned(), Value::Null),
        (&resolve, "".to_owned(), Value::Null),
        (&resolve, r#"{"resolution":"ignored""#.to_owned(), Value::Null),
        (&resolve, r#"{"resolution":"ignored"} x"#.to_owned(), Value::Null),
        (&resolve, "{}".to_owned(), json!("resolution")),
        (&resolve, r#"{"resolution":1}"#.to_owned(), json!("resolution")),
        (&resolve, r#"{"resolution":"ignored","unknown":1}"#.to_owned(), json!("unknown")),
        (&resolve, json!({ "resolution": "ignored", "note": long }).to_string(), json!("note")),
        (&preview, of_app(r#"{"action":"ignored"}"#), json!("filter")),
        (&preview, of_app(r#"{"action":"handler_failed","filter":{}}"#), json!("action")),
        (&preview, of_app(r#"{"action":"ignored","filter":{"unknown":1}}"#), json!("unknown")),
        (&preview, of_app(r#"{"action":"ignored","filter":{"state":"closed"}}"#), json!("state")),
        (
            &preview,
            of_app(r#"{"action":"ignored","filter":{"created_from":"x"}}"#),
            json!("filter.created_from"),
        ),
        (
            &preview,
            json!({ "apps": [app], "action": "ignored", "filter": { "error_contains": long } }).to_string(),
            json!("filter.error_contains"),
        ),
        (
            &preview,
            json!({ "apps": [app], "action": "ignored", "filter": { "ids": vec![Uuid::nil(); 1_001] } })
                .to_string(),
            json!("ids"),
        ),
        (
            &preview,
            json!({ "apps": [app, new_app()], "action": "ignored", "filter": { "ids": [Uuid::nil()] } })
                .to_string(),
            json!("ids"),
        ),
        (&preview, r#"{"apps":[],"action":"ignored","filter":{}}"#.to_owned(), json!("apps")),
        (&preview, r#"{"apps":["x"],"action":"ignored","filter":{}}"#.to_owned(), json!("apps[0]")),
        (
            &preview,
            json!({ "apps": [app, app], "action": "ignored", "filter": {} }).to_string(),
            json!("apps"),
        ),
        (&preview, json!({ "apps": too_many, "action": "ignored", "filter": {} }).to_string(), json!("apps")),
        (&run, r#"{"token":""}"#.to_owned(), json!("token")),
        (&run, r#"{"token":"a.b"}"#.to_owned(), json!("token")),
        (&run, "{}".to_owned(), json!("token")),
    ] {
        let shown = body.chars().take(100).collect::<String>();
        let problem = client.post_as(path, "application/json", body).await.problem(400, "invalid");
        assert_eq!(problem.get("field").unwrap_or(&Value::Null), &field, "{shown}: {problem}");
    }
}

#[tokio::test]
async fn a_body_of_another_type_or_too_large_is_refused() {
    let client = client().await;
    let path = format!("/api/apps/{}/letters/{}/resolve", new_app(), Uuid::new_v4());
    let body = json!({ "resolution": "ignored" }).to_string();
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"] {
        client.post_as(&path, content_type, body.clone()).await.problem(415, "unsupported-media-type");
    }
    let request = Request::post(&path).body(Body::from(body.clone())).unwrap();
    client.send(request).await.problem(415, "unsupported-media-type");
    client.post_as(&path, "Application/JSON; charset=utf-8", body).await.problem(404, "not-found");

    let large = json!({ "resolution": "ignored", "note": "x".repeat(256 << 10) });
    client.post(&path, large).await.problem(413, "too-large");
}

#[tokio::test]
async fn a_post_of_another_site_does_nothing() {
    let app = new_app();
    let store = Arc::new(memory().await);
    let id = dead_letters::DeadLetterRepo::insert(&store, letter(app)).await.unwrap();
    let admin = Admin::new(store.clone(), let_in(Operator::full("ada")));
    let client = Client::from(admin.trusted_origin("https://ops.example").unwrap());
    let send = async |headers: &[(&str, &str)]| {
        let path = format!("/api/apps/{app}/letters/{id}/resolve");
        let request =
            headers.iter().fold(Request::post(path).header("host", "here"), |request, &(name, value)| {
                request.header(name, value)
            });
        let request = request.header(header::CONTENT_TYPE, "application/json");
        client.send(request.body(Body::from(r#"{"resolution":"ignored"}"#)).unwrap()).await
    };
    for headers in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
    ] {
        send(headers).await.problem(403, "cross-site");
    }
    assert_eq!(store.summary(app, id).await.unwrap().unwrap().resolved_at, None);
    send(&[("origin", "https://ops.example"), ("sec-fetch-site", "cross-site")]).await.json();
}

#[tokio::test]
async fn without_replay_nobody_replays() {
    let client = client().await;
    let app = new_app();
    let replay = format!("/api/apps/{app}/letters/{}/replay", Uuid::new_v4());
    client.post(&replay, json!({})).await.problem(403, "no-replay");
    let preview = json!({ "apps": [app], "action": "replayed", "filter": {} });
    client.post("/api/bulk/preview", preview).await.problem(403, "no-replay");
}

#[tokio::test]
async fn an_unavailable_store_is_503_with_retry_after_and_a_failing_one_is_500_without_its_code() {
    let store = Arc::new(FailingStore::new(memory().await));
    let client = Client::from(Admin::new(store.clone(), let_in(Operator::full("ada"))));
    let (app, id) = (new_app(), Uuid::new_v4());
    let mut paths = vec!["/api/apps".to_owned()];
    for path in ["letters", "groups", "timeline", &format!("letters/{id}"), &format!("letters/{id}/payload")]
    {
        paths.push(format!("/api/apps/{app}/{path}"));
    }
    for path in &paths {
        fail_all(&store, testing::transient);
        let answer = client.get(path).await;
        answer.problem(503, "unavailable");
        assert_eq!(answer.header("retry-after"), "5");
        fail_all(&store, testing::internal);
        let answer = client.get(path).await;
        answer.problem(500, "internal");
        assert!(!answer.text().contains("XX000"), "{answer}");
    }
    store.recover();
    client.get("/api/apps").await.json();
}

#[tokio::test]
async fn a_large_response_is_compressed_for_clients_that_accept_gzip() {
    let app = new_app();
    let store = Arc::new(memory().await);
    dead_letters::DeadLetterRepo::insert_many(&store, vec![letter(app); 50]).await.unwrap();
    let client = Client::from(Admin::new(store, let_in(Operator::full("ada"))));
    let path = format!("/api/apps/{app}/letters");
    let plain = client.get(&path).await;
    let request = Request::get(&path).header(header::ACCEPT_ENCODING, "gzip").body(Body::empty()).unwrap();
    let small = client.send(request).await;
    assert_eq!(small.header("content-encoding"), "gzip");
    assert!(small.body.len() * 4 < plain.body.len(), "{} of {}", small.body.len(), plain.body.len());
    assert_eq!(small.header("etag"), plain.header("etag"));
}
