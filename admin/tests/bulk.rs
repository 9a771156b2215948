//! Many letters at once: nothing but what the preview showed.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::{
    Attribution, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo, DeadLetterResolve,
    DeadLetterTransfer, NewDeadLetter, Resolution, SeaOrmDeadLetterRepo, StoredLetter,
    testing::{letter, stored_letter},
};
use dead_letters_admin::Operator;
use hmac::{Hmac, Mac};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

use crate::support::{Client, KEY, World, audited, listen, new_app, on_every_backend, time};

on_every_backend! {
    a_run_does_what_the_preview_counted,
    a_run_touches_nothing_that_failed_from_the_cutoff_on,
    a_run_does_no_more_than_the_preview_counted_whatever_comes_late,
    a_letter_that_is_reopened_after_the_preview_may_take_the_place_of_a_counted_one,
    a_count_that_is_not_exact_ends_the_run_and_asks_for_a_new_preview,
    a_preview_counts_letters_ahead_of_the_clock_and_its_run_leaves_them_alone,
    letters_that_others_closed_are_counted_and_not_changed,
    ids_are_resolved_and_no_others,
    a_limit_takes_the_oldest_first_and_the_next_run_goes_on,
    a_replay_goes_step_by_step_and_events_that_failed_again_can_be_found,
    a_replay_at_a_rate_stops_after_ten_seconds_worth_and_the_next_run_continues,
    a_replay_at_a_rate_lets_other_requests_in_between_its_batches,
    a_rate_is_refused_out_of_range_and_for_other_actions,
    a_replay_that_fails_half_way_returns_what_it_did,
    a_replay_that_fails_at_once_replays_nothing_and_names_each_letter,
    letters_that_the_service_can_t_put_back_are_named_and_the_rest_is_replayed,
    truncated_payloads_are_neither_counted_nor_replayed,
    a_preview_and_its_run_are_about_one_group,
    a_preview_counts_failed_handlers_as_open_and_closed_letters_not_at_all,
    a_run_is_undone_by_its_id_and_changes_since_stay,
    a_run_is_undone_whole_beyond_a_batch_and_the_operators_scan_limit,
    replayed_letters_are_reopened_only_by_their_resolution,
    a_token_is_good_for_its_operator_and_apps_alone,
    a_token_of_20_minutes_ago_is_expired,
    a_changed_token_is_refused,
    a_run_is_audited,
    a_run_goes_through_the_apps_of_its_preview_under_one_id,
    a_preview_over_an_app_of_others_is_refused,
    a_token_does_one_step,
    a_step_that_another_process_did_is_not_done_again,
    only_one_of_two_simultaneous_steps_of_a_token_is_done,
    a_run_whose_client_hangs_up_ends_with_its_batch_and_a_new_preview_goes_on,
}

async fn preview(client: &Client, world: &World, action: &str, filter: Value) -> Value {
    let body = json!({ "apps": [world.app], "action": action, "filter": filter });
    client.post("/api/bulk/preview", body).await.json()
}

async fn run(client: &Client, of: &Value, limit: Option<u32>) -> Value {
    let body = json!({ "token": of["token"], "limit": limit });
    client.post("/api/bulk/run", body).await.json()
}

async fn resolutions(world: &World, ids: &[DeadLetterId]) -> Vec<Option<Resolution>> {
    let mut resolutions = Vec::new();
    for &id in ids {
        resolutions.push(world.row(id).await.resolution);
    }
    resolutions
}

/// One a minute from ten o'clock on.
async fn minutely(world: &World, letters: u32) -> Vec<DeadLetterId> {
    let ten = time("2026-03-01T10:00:00Z");
    let letters: Vec<_> = (0..letters)
        .map(|minute| stored_letter(world.app, ten + TimeDelta::minutes(minute.into())))
        .collect();
    world.repo.import(&letters).await.unwrap();
    letters.iter().map(|letter| letter.id).collect()
}

async fn a_run_does_what_the_preview_counted(world: World) {
    let ids = minutely(&world, 12).await;
    let other = world.insert(NewDeadLetter { source: "mails".to_owned(), ..letter(world.app) }).await;
    let client = world.client();
    let preview = preview(&client, &world, "handled_by_script", json!({ "source": "orders" })).await;
    assert_eq!((&preview["count"], &preview["capped"]), (&json!(12), &json!(false)));
    let sample: Vec<_> =
        preview["sample"].as_array().unwrap().iter().map(|letter| letter["id"].clone()).collect();
    assert_eq!(sample, ids.iter().rev().take(10).map(|id| json!(id)).collect::<Vec<_>>());
    assert_eq!(world.row(ids[0]).await.resolved_at, None);

    let body = json!({ "token": preview["token"], "note": "sold out" });
    let done = client.post("/api/bulk/run", body).await.json();
    for (field, value) in [
        ("done", json!(12)),
        ("done_so_far", json!(12)),
        ("changed_by_others", json!(0)),
        ("skipped_locked", json!(false)),
        ("more", json!(false)),
        ("stopped_by", Value::Null),
    ] {
        assert_eq!(done[field], value, "{field}");
    }
    let row = world.row(ids[7]).await;
    assert_eq!(
        (row.resolution, row.resolved_by.as_deref()),
        (Some(Resolution::HandledByScript), Some("ada"))
    );
    assert_eq!(row.resolution_note.as_deref(), Some("sold out"));
    assert_eq!(world.row(other).await.resolved_at, None);
}

async fn a_run_touches_nothing_that_failed_from_the_cutoff_on(world: World) {
    let ids = minutely(&world, 3).await;
    let client = world.client();
    let preview = preview(&client, &world, "ignored", json!({})).await;
    let cutoff: DateTime<Utc> = preview["cutoff"].as_str().map(time).unwrap();
    let late = [cutoff, cutoff + TimeDelta::minutes(1)].map(|at| stored_letter(world.app, at));
    world.repo.import(&late).await.unwrap();
    let done = run(&client, &preview, None).await;
    assert_eq!((&done["done"], &done["changed_by_others"]), (&json!(3), &json!(0)));
    assert_eq!(resolutions(&world, &ids).await, [Some(Resolution::Ignored); 3]);
    assert_eq!(resolutions(&world, &late.map(|letter| letter.id)).await, [None; 2]);
}

/// As a transaction does that began before the count and commits after it.
async fn a_run_does_no_more_than_the_preview_counted_whatever_comes_late(world: World) {
    let ids = minutely(&world, 3).await;
    let client = world.client();
    for action in ["ignored", "replayed"] {
        let preview = preview(&client, &world, action, json!({})).await;
        let counted = preview["count"].as_u64().unwrap();
        let late = stored_letter(world.app, time("2026-02-01T10:00:00Z"));
        world.repo.import(&[late]).await.unwrap();
        let done = run(&client, &preview, None).await;
        assert_eq!((done["done"].as_u64(), &done["more"]), (Some(counted), &json!(false)));
        assert_eq!(world.repo.unresolved_count(world.app).await.unwrap(), 1);
    }
    assert_eq!(resolutions(&world, &ids[..2]).await, [Some(Resolution::Ignored); 2]);
    assert_eq!(resolutions(&world, &ids[2..]).await, [None]);
}

async fn a_letter_that_is_reopened_after_the_preview_may_take_the_place_of_a_counted_one(world: World) {
    let ids = minutely(&world, 2).await;
    let by = Attribution::by("bob");
    world.repo.resolve_once(world.app, ids[0], Resolution::Ignored, &by).await.unwrap();
    let client = world.client();
    let preview = preview(&client, &world, "deleted", json!({ "state": "open", "source": "orders" })).await;
    assert_eq!(preview["count"], 1);
    world.repo.reopen(world.app, ids[0], &by).await.unwrap();
    assert_eq!(run(&client, &preview, None).await["done"], 1);
    assert!(world.repo.summary(world.app, ids[0]).await.unwrap().is_none());
    assert!(world.repo.summary(world.app, ids[1]).await.unwrap().is_some());
}

async fn a_count_that_is_not_exact_ends_the_run_and_asks_for_a_new_preview(world: World) {
    let ids = minutely(&world, 5).await;
    let client = Client::from(world.admin_of(Operator::full("ada").scan_limit(3)));
    let filter = json!({ "source": "orders" });
    let first = preview(&client, &world, "ignored", filter.clone()).await;
    assert_eq!((&first["count"], &first["capped"]), (&json!(3), &json!(true)));
    let done = run(&client, &first, None).await;
    assert_eq!((&done["done"], &done["more"], &done["uncounted"]), (&json!(3), &json!(false), &json!(true)));
    let again = run(&client, &done, None).await;
    assert_eq!((&again["done"], &again["done_so_far"]), (&json!(0), &json!(3)));
    let second = preview(&client, &world, "ignored", filter).await;
    let done = run(&client, &second, None).await;
    assert_eq!((&done["done"], &done["uncounted"]), (&json!(2), &json!(false)));
    assert_eq!(resolutions(&world, &ids).await, [Some(Resolution::Ignored); 5]);
}

async fn a_preview_counts_letters_ahead_of_the_clock_and_its_run_leaves_them_alone(world: World) {
    minutely(&world, 2).await;
    let ahead = stored_letter(world.app, Utc::now() + TimeDelta::hours(1));
    world.repo.import(std::slice::from_ref(&ahead)).await.unwrap();
    let client = world.client();
    let first = preview(&client, &world, "ignored", json!({})).await;
    assert_eq!((&first["count"], &first["ahead"]["count"]), (&json!(2), &json!(1)));
    assert_eq!(run(&client, &first, None).await["done"], 2);
    assert_eq!(world.row(ahead.id).await.resolved_at, None);
    let end = Utc::now() + TimeDelta::hours(2);
    let until_then = preview(&client, &world, "ignored", json!({ "created_before": end })).await;
    assert_eq!((&until_then["count"], &until_then["ahead"]["count"]), (&json!(1), &json!(0)));
    assert_eq!(run(&client, &until_then, None).await["done"], 1);
}

async fn letters_that_others_closed_are_counted_and_not_changed(world: World) {
    let ids = minutely(&world, 3).await;
    let client = world.client();
    let preview = preview(&client, &world, "ignored", json!({})).await;
    world
        .repo
        .resolve_once(world.app, ids[1], Resolution::HandledByScript, &Attribution::by("bob"))
        .await
        .unwrap();
    let before = world.row(ids[1]).await;
    let done = run(&client, &preview, None).await;
    assert_eq!((&done["done"], &done["changed_by_others"]), (&json!(2), &json!(1)));
    assert_eq!(world.row(ids[1]).await, before);
}

async fn ids_are_resolved_and_no_others(world: World) {
    let ids = minutely(&world, 3).await;
    let of_other_app = world.insert(letter(new_app())).await;
    let client = world.client();
    let filter = json!({ "ids": [ids[0], ids[2], of_other_app] });
    let preview = preview(&client, &world, "ignored", filter).await;
    assert_eq!(preview["count"], 2);
    let done = run(&client, &preview, None).await;
    assert_eq!((&done["done"], &done["changed_by_others"]), (&json!(2), &json!(0)));
    let ignored = Some(Resolution::Ignored);
    assert_eq!(resolutions(&world, &ids).await, [ignored, None, ignored]);
    assert_eq!(world.row(of_other_app).await.resolved_at, None);
}

async fn a_limit_takes_the_oldest_first_and_the_next_run_goes_on(world: World) {
    let ids = minutely(&world, 5).await;
    let client = world.client();
    let preview = preview(&client, &world, "ignored", json!({})).await;
    let first = run(&client, &preview, Some(2)).await;
    assert_eq!((&first["done"], &first["more"]), (&json!(2), &json!(true)));
    assert_eq!(first["changed_by_others"], Value::Null);
    let ignored = Some(Resolution::Ignored);
    assert_eq!(resolutions(&world, &ids).await, [ignored, ignored, None, None, None]);
    let rest = run(&client, &first, None).await;
    assert_eq!((&rest["done"], &rest["done_so_far"], &rest["more"]), (&json!(3), &json!(5), &json!(false)));
    assert_eq!((&rest["changed_by_others"], &rest["began"]), (&json!(0), &first["began"]));

    for limit in [0, 1_001] {
        let body = json!({ "token": preview["token"], "limit": limit });
        let refused = client.post("/api/bulk/run", body).await.problem(400, "invalid");
        assert_eq!(refused["field"], "limit");
    }
}

async fn a_replay_goes_step_by_step_and_events_that_failed_again_can_be_found(world: World) {
    let ids = minutely(&world, 150).await;
    let client = world.client();
    let preview = preview(&client, &world, "replayed", json!({})).await;
    let mut last = preview;
    let mut so_far = 0;
    for (step, done) in [(1, 1), (10, 10), (100, 100), (1_000, 39)] {
        last = run(&client, &last, Some(step)).await;
        so_far += done;
        assert_eq!((&last["done"], &last["done_so_far"]), (&json!(done), &json!(so_far)));
        assert_eq!(last["more"], json!(so_far < 150));
    }
    let events = world.outbox.events();
    assert_eq!(events.len(), 150);
    assert_eq!(events[0], world.row(ids[0]).await.original_event_id);

    let back = NewDeadLetter { original_event_id: events[0], ..letter(world.app) };
    let back = world.insert(back).await;
    world.letter().await;
    let since = last["began"].as_str().unwrap();
    let letters = client.get(world.path(&format!("letters?created_from={since}"))).await.json();
    let failed_again: Vec<_> = letters["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|letter| letter["times_replayed"] != 0)
        .map(|letter| &letter["id"])
        .collect();
    assert_eq!(failed_again, [&json!(back)]);
}

async fn a_replay_at_a_rate_stops_after_ten_seconds_worth_and_the_next_run_continues(world: World) {
    minutely(&world, 30).await;
    let client = world.client();
    let preview = preview(&client, &world, "replayed", json!({})).await;
    let body = json!({ "token": preview["token"], "rate": 2 });
    let first = client.post("/api/bulk/run", body).await.json();
    let done = first["done"].as_u64().unwrap();
    assert!((2..=22).contains(&done) && first["more"] == true, "{first}");
    let history = client.get(world.path("actions")).await.json();
    let batches = history["items"].as_array().unwrap().iter().map(|batch| batch["letters"].clone());
    assert!(batches.clone().all(|letters| letters == 2), "{history}");
    assert_eq!(batches.count() as u64 * 2, done);
    let rest = run(&client, &first, None).await;
    assert_eq!((&rest["done_so_far"], &rest["more"]), (&json!(30), &json!(false)));
    assert_eq!(world.outbox.events().len(), 30);
}

async fn a_replay_at_a_rate_lets_other_requests_in_between_its_batches(world: World) {
    minutely(&world, 30).await;
    let client = Client::from(world.admin_of(Operator::full("ada")).concurrency(1));
    let preview = preview(&client, &world, "replayed", json!({})).await;
    let body = json!({ "token": preview["token"], "rate": 1 });
    let other = async {
        while world.outbox.events().is_empty() {
            tokio::task::yield_now().await;
        }
        client.get(world.path("letters")).await
    };
    tokio::select! {
        biased;
        _ = client.post("/api/bulk/run", body) => panic!("it ended before the other request"),
        answer = other => assert_eq!(answer.status, StatusCode::OK, "{answer}"),
    }
}

async fn a_rate_is_refused_out_of_range_and_for_other_actions(world: World) {
    minutely(&world, 2).await;
    let client = world.client();
    for (action, rate) in [("replayed", 0), ("replayed", 1_001), ("replayed", 1_000_000_000), ("ignored", 20)]
    {
        let preview = preview(&client, &world, action, json!({})).await;
        let body = json!({ "token": preview["token"], "rate": rate });
        let refused = client.post("/api/bulk/run", body).await.problem(400, "invalid");
        assert_eq!(refused["field"], "rate", "{refused}");
    }
    assert_eq!(world.outbox.events().len(), 0);
}

async fn a_replay_that_fails_half_way_returns_what_it_did(world: World) {
    let ids = minutely(&world, 150).await;
    let client = world.client();
    let preview = preview(&client, &world, "replayed", json!({})).await;
    world.outbox.take_no_more_than(1);
    let done = run(&client, &preview, None).await;
    assert_eq!(
        (&done["done"], &done["more"], &done["stopped_by"]),
        (&json!(100), &json!(true), &Value::Null)
    );
    assert_eq!((done["failures"].as_array().unwrap().len(), &done["failed_so_far"]), (32, &json!(32)));
    assert_eq!(world.row(ids[99]).await.resolution, Some(Resolution::Replayed));
    assert_eq!(world.row(ids[100]).await.resolution, None);

    // The next run starts after the letters that failed.
    world.outbox.take_no_more_than(1);
    let rest = run(&client, &done, None).await;
    assert_eq!((&rest["done_so_far"], &rest["more"]), (&json!(118), &json!(false)));
    assert_eq!((&rest["failures"], &rest["failed_so_far"]), (&json!([]), &json!(32)));
    assert_eq!(rest["changed_by_others"], 0);
    assert_eq!(world.outbox.events().len(), 118);
}

async fn a_replay_that_fails_at_once_replays_nothing_and_names_each_letter(world: World) {
    let ids = minutely(&world, 3).await;
    let client = world.client();
    let preview = preview(&client, &world, "replayed", json!({})).await;
    world.outbox.take_no_more_than(0);
    let done = run(&client, &preview, None).await;
    assert_eq!((&done["done"], &done["failed_so_far"], &done["more"]), (&json!(0), &json!(3), &json!(false)));
    assert_eq!(resolutions(&world, &ids).await, [None; 3]);
}

async fn letters_that_the_service_can_t_put_back_are_named_and_the_rest_is_replayed(world: World) {
    let ids = minutely(&world, 5).await;
    let client = world.client();
    world.outbox.refuse(world.row(ids[1]).await.original_event_id, "the event is back already");
    let preview = preview(&client, &world, "replayed", json!({})).await;
    let done = run(&client, &preview, Some(3)).await;
    assert_eq!((&done["done"], &done["more"]), (&json!(2), &json!(true)));
    assert_eq!(
        done["failures"],
        json!([{ "app_id": world.app, "id": ids[1], "error": "the event is back already" }])
    );
    let rest = run(&client, &done, None).await;
    assert_eq!((&rest["done_so_far"], &rest["failed_so_far"]), (&json!(4), &json!(1)));
    assert_eq!((&rest["failures"], &rest["changed_by_others"]), (&json!([]), &json!(0)));
    let replayed = Some(Resolution::Replayed);
    assert_eq!(resolutions(&world, &ids).await, [replayed, None, replayed, replayed, replayed]);
}

async fn truncated_payloads_are_neither_counted_nor_replayed(world: World) {
    let ids = minutely(&world, 2).await;
    let truncated = StoredLetter {
        payload_kind: Some("truncated".to_owned()),
        ..stored_letter(world.app, time("2026-03-01T09:00:00Z"))
    };
    world.repo.import(std::slice::from_ref(&truncated)).await.unwrap();
    let client = world.client();
    let of_replay = preview(&client, &world, "replayed", json!({})).await;
    assert_eq!((&of_replay["count"], &of_replay["truncated"]["count"]), (&json!(2), &json!(1)));
    assert_eq!(preview(&client, &world, "ignored", json!({})).await["count"], 3);
    let body = json!({ "apps": [world.app], "action": "replayed", "filter": { "truncated": true } });
    let refused = client.post("/api/bulk/preview", body).await.problem(400, "invalid");
    assert_eq!(refused["field"], "truncated");
    let done = run(&client, &of_replay, None).await;
    assert_eq!((&done["done"], &done["changed_by_others"]), (&json!(2), &json!(0)));
    assert_eq!(resolutions(&world, &ids).await, [Some(Resolution::Replayed); 2]);
    let path = world.path(&format!("letters/{}/replay", truncated.id));
    client.post(path, json!({})).await.problem(409, "not-whole");
    assert_eq!(world.row(truncated.id).await.resolved_at, None);
}

async fn a_preview_and_its_run_are_about_one_group(world: World) {
    let ids = minutely(&world, 2).await;
    let other = world.insert(NewDeadLetter { source: "parcels".to_owned(), ..letter(world.app) }).await;
    let client = world.client();
    let filter = json!({ "group_key": world.group_key(other).await });
    let of_group = preview(&client, &world, "ignored", filter).await;
    assert_eq!(of_group["count"], 1);
    let done = run(&client, &of_group, None).await;
    assert_eq!(done["done"], 1);
    assert_eq!(resolutions(&world, &[other]).await, [Some(Resolution::Ignored)]);
    assert_eq!(resolutions(&world, &ids).await, [None; 2]);
}

async fn a_preview_counts_failed_handlers_as_open_and_closed_letters_not_at_all(world: World) {
    let ids = minutely(&world, 3).await;
    world
        .repo
        .resolve_once(world.app, ids[0], Resolution::HandlerFailed, &Attribution::default())
        .await
        .unwrap();
    world.repo.resolve_once(world.app, ids[1], Resolution::Ignored, &Attribution::default()).await.unwrap();
    let client = world.client();
    for (state, count) in [("unresolved", 1), ("open", 2), ("any", 2)] {
        let preview = preview(&client, &world, "ignored", json!({ "state": state })).await;
        assert_eq!(preview["count"], count, "{state}");
    }
    let preview = preview(&client, &world, "handled_by_script", json!({ "state": "any" })).await;
    run(&client, &preview, None).await;
    let (by_script, ignored) = (Some(Resolution::HandledByScript), Some(Resolution::Ignored));
    assert_eq!(resolutions(&world, &ids).await, [by_script, ignored, by_script]);
}

async fn a_run_is_undone_by_its_id_and_changes_since_stay(world: World) {
    let ids = minutely(&world, 3).await;
    let client = world.client();
    let ignore = preview(&client, &world, "ignored", json!({})).await;
    let ignored = run(&client, &ignore, None).await;
    let (of_run, by_script) = (json!({ "run_id": ignored["run_id"] }), Some(Resolution::HandledByScript));
    world.repo.resolve(ids[1], "handled_by_script").await.unwrap();
    let letters = client.get(world.path(&format!("letters?run_id={}", ignored["run_id"].as_str().unwrap())));
    let letters = letters.await.json();
    assert_eq!(letters["items"].as_array().unwrap().len(), 2, "{letters}");
    assert_eq!(letters["items"][0]["run_id"], ignored["run_id"]);

    let undo = preview(&client, &world, "reopened", of_run.clone()).await;
    assert_eq!(undo["count"], 2, "{undo}");
    let undone = run(&client, &undo, None).await;
    assert_eq!((&undone["done"], &undone["changed_by_others"]), (&json!(2), &json!(0)));
    assert_eq!(resolutions(&world, &ids).await, [None, by_script, None]);
    assert_eq!(preview(&client, &world, "reopened", of_run).await["count"], 0);
}

async fn a_run_is_undone_whole_beyond_a_batch_and_the_operators_scan_limit(world: World) {
    let ids = world.repo.insert_many(vec![letter(world.app); 2_100]).await.unwrap();
    let client = world.client();
    let mut ignored = preview(&client, &world, "ignored", json!({})).await;
    for _ in 0..3 {
        ignored = run(&client, &ignored, Some(1_000)).await;
    }
    assert_eq!((&ignored["done_so_far"], &ignored["more"]), (&json!(2_100), &json!(false)));
    // Letters that were closed later lie before the run's in every scan.
    let later = world.repo.insert_many(vec![letter(world.app); 20]).await.unwrap();
    for id in &later {
        world.repo.resolve(*id, "ignored").await.unwrap();
    }
    let client = Client::from(world.admin_of(Operator::full("ada").scan_limit(10)));
    let mut undo = preview(&client, &world, "reopened", json!({ "run_id": ignored["run_id"] })).await;
    assert_eq!((&undo["count"], &undo["capped"]), (&json!(2_100), &json!(false)));
    for _ in 0..3 {
        undo = run(&client, &undo, Some(1_000)).await;
    }
    assert_eq!((&undo["done_so_far"], &undo["changed_by_others"]), (&json!(2_100), &json!(0)));
    assert_eq!(world.repo.unresolved_count(world.app).await.unwrap(), 2_100);
    assert_eq!(world.row(ids[0]).await.resolution, None);
}

async fn replayed_letters_are_reopened_only_by_their_resolution(world: World) {
    let ids = minutely(&world, 2).await;
    world.repo.resolve(ids[0], "replayed").await.unwrap();
    world.repo.resolve(ids[1], "ignored").await.unwrap();
    let client = world.client();
    for (filter, field) in [(json!({}), "resolution"), (json!({ "state": "open" }), "state")] {
        let body = json!({ "apps": [world.app], "action": "reopened", "filter": filter });
        let refused = client.post("/api/bulk/preview", body).await.problem(400, "invalid");
        assert_eq!(refused["field"], field, "{refused}");
    }
    for (resolution, left) in [("ignored", [Some(Resolution::Replayed), None]), ("replayed", [None, None])] {
        let preview = preview(&client, &world, "reopened", json!({ "resolution": resolution })).await;
        assert_eq!(run(&client, &preview, None).await["done"], 1, "{resolution}");
        assert_eq!(resolutions(&world, &ids).await, left);
    }
}

async fn a_token_is_good_for_its_operator_and_apps_alone(world: World) {
    world.letter().await;
    let client = world.client();
    let preview = preview(&client, &world, "ignored", json!({})).await;
    let body = json!({ "token": preview["token"] });
    let bob = Client::from(world.admin_of(Operator::full("bob")));
    bob.post("/api/bulk/run", body.clone()).await.problem(410, "preview-expired");
    let elsewhere = Client::from(world.admin_of(Operator::full("ada").of_apps([new_app()])));
    elsewhere.post("/api/bulk/run", body.clone()).await.problem(404, "not-found");

    // Another replica, or after a restart: the key is the same.
    assert_eq!(world.client().post("/api/bulk/run", body).await.json()["done"], 1);
}

/// The token as it would have been sealed with another value.
fn resealed(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let token = BASE64_URL_SAFE_NO_PAD.decode(token).unwrap();
    let (nonce, sealed) = token.split_first_chunk::<24>().unwrap();
    let key =
        <Hmac<Sha256> as Mac>::new_from_slice(&KEY).unwrap().chain_update(b"dead-letters-admin: tokens");
    let cipher = XChaCha20Poly1305::new(&key.finalize().into_bytes());
    // A preview's purpose is the first.
    let body = cipher.decrypt(&(*nonce).into(), Payload { msg: sealed, aad: &[0] }).unwrap();
    let mut value = serde_json::from_slice(&body).unwrap();
    change(&mut value);
    let body = serde_json::to_vec(&value).unwrap();
    let sealed = cipher.encrypt(&(*nonce).into(), Payload { msg: &body, aad: &[0] }).unwrap();
    BASE64_URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat())
}

async fn a_token_of_20_minutes_ago_is_expired(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let preview = preview(&client, &world, "ignored", json!({})).await;
    let made = |minutes| {
        resealed(preview["token"].as_str().unwrap(), |frozen| {
            let at: DateTime<Utc> = frozen["at"].as_str().map(time).unwrap();
            frozen["at"] = json!(at - TimeDelta::minutes(minutes));
        })
    };
    let run = async |minutes| client.post("/api/bulk/run", json!({ "token": made(minutes) })).await;
    run(20).await.problem(410, "preview-expired");
    assert_eq!(world.row(id).await.resolved_at, None);
    assert_eq!(run(10).await.json()["done"], 1);
}

async fn a_changed_token_is_refused(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let preview = preview(&client, &world, "ignored", json!({})).await;
    let token = preview["token"].as_str().unwrap();
    let other = resealed(token, |frozen| frozen["counted"] = json!(2));
    // The tag has 16 bytes at the end.
    let (body, tag) = token.split_at(token.len() - 21);
    let (other_body, other_tag) = other.split_at(other.len() - 21);
    for forged in [
        format!("{other_body}{tag}"),
        format!("{body}{other_tag}"),
        body.to_owned(),
        format!("{token}x"),
        tag.to_owned(),
    ] {
        let answer = client.post("/api/bulk/run", json!({ "token": forged })).await;
        assert_eq!(answer.problem(400, "invalid")["field"], "token");
    }
    assert_eq!(world.row(id).await.resolved_at, None);
}

async fn a_run_is_audited(world: World) {
    listen();
    minutely(&world, 3).await;
    let client = world.client();
    let preview = preview(&client, &world, "ignored", json!({ "op": "insert" })).await;
    assert_eq!(audited(), []);
    run(&client, &preview, Some(2)).await;
    let [entry] = &audited()[..] else { panic!("one run, one entry") };
    for (field, value) in [
        ("operator", "ada"),
        ("action", "ignored"),
        ("app_id", &world.app.to_string()),
        ("count", "2"),
        ("outcome", "done"),
    ] {
        assert_eq!(entry.field(field), value, "{field}");
    }
    assert!(entry.field("letters").starts_with("state=open&op=insert&created_before="), "{entry:?}");
}

async fn a_run_whose_client_hangs_up_ends_with_its_batch_and_a_new_preview_goes_on(world: World) {
    listen();
    minutely(&world, 1_000).await;
    let client = world.client();
    let preview = preview(&client, &world, "replayed", json!({})).await;
    let first_batch = async {
        while world.outbox.events().len() < 100 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = run(&client, &preview, None) => panic!("it ended before anybody hung up"),
        () = first_batch => {}
    }
    // It goes on until its batch is done, and says so.
    let mut told = audited();
    while told.is_empty() {
        tokio::task::yield_now().await;
        told = audited();
    }
    let [entry] = &told[..] else { panic!("one run, one entry") };
    assert_eq!(["action", "outcome"].map(|field| entry.field(field)), ["replayed", "done"], "{entry:?}");
    // Further batches may have begun before it was seen that the client hung up.
    let done = world.outbox.events().len();
    assert!(done.is_multiple_of(100) && done < 1_000, "{done}");
    assert_eq!(entry.field("count"), done.to_string());

    // The token worked once. A new preview has the rest.
    let body = json!({ "token": preview["token"] });
    client.post("/api/bulk/run", body).await.problem(409, "step-done");
    let rest = self::preview(&client, &world, "replayed", json!({})).await;
    let rest = run(&client, &rest, None).await;
    assert_eq!((&rest["done"], &rest["more"]), (&json!(1_000 - done), &json!(false)));
    let unresolved = world.repo.unresolved_count(world.app).await.unwrap();
    assert_eq!(unresolved, 0);
    let replayed: BTreeSet<_> = world.outbox.events().into_iter().collect();
    assert_eq!((replayed.len(), world.outbox.events().len()), (1_000, 1_000));
}

async fn a_run_goes_through_the_apps_of_its_preview_under_one_id(world: World) {
    let other = new_app();
    let of_other = world.repo.insert_many(vec![letter(other); 2]).await.unwrap();
    let ids = minutely(&world, 3).await;
    let client = world.client();
    let body = json!({ "apps": [other, world.app], "action": "ignored", "filter": { "source": "orders" } });
    let preview = client.post("/api/bulk/preview", body).await.json();
    assert_eq!(preview["count"], 5);
    let shares = preview["apps"].as_array().unwrap().iter();
    let shares: Vec<_> = shares.map(|app| (app["app_id"].clone(), app["count"].clone())).collect();
    assert_eq!(shares, [(json!(other), json!(2)), (json!(world.app), json!(3))]);
    assert_eq!(preview["sample"].as_array().unwrap().len(), 5);

    listen();
    let late = world.letter().await;
    let first = run(&client, &preview, Some(3)).await;
    assert_eq!((&first["done"], &first["more"]), (&json!(3), &json!(true)));
    let done = |run: &Value| {
        run["apps"].as_array().unwrap().iter().map(|app| app["done"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(done(&first), [2, 1]);
    assert_eq!(audited().len(), 2, "one entry for each app");
    let rest = run(&client, &first, None).await;
    assert_eq!((&rest["done_so_far"], &rest["more"]), (&json!(5), &json!(false)));
    assert_eq!((done(&rest), &rest["changed_by_others"]), (vec![json!(0), json!(2)], &json!(0)));
    assert_eq!(first["run_id"], rest["run_id"]);
    assert_eq!(resolutions(&world, &of_other).await, [Some(Resolution::Ignored); 2]);
    assert_eq!(resolutions(&world, &ids).await, [Some(Resolution::Ignored); 3]);
    assert_eq!(world.row(late).await.resolved_at, None);
    for (app, letters) in [(other, 2), (world.app, 3)] {
        let run_id = rest["run_id"].as_str().unwrap();
        let history = client.get(format!("/api/apps/{app}/actions?run_id={run_id}")).await.json();
        let of_app =
            history["items"].as_array().unwrap().iter().map(|batch| batch["letters"].as_u64().unwrap());
        assert_eq!(of_app.sum::<u64>(), letters, "{history}");
    }
}

async fn a_preview_over_an_app_of_others_is_refused(world: World) {
    let id = world.letter().await;
    let other = new_app();
    let of_both = json!({ "apps": [world.app, other], "action": "ignored", "filter": {} });
    let one = Client::from(world.admin_of(Operator::full("ada").of_apps([world.app])));
    one.post("/api/bulk/preview", of_both.clone()).await.problem(404, "not-found");
    // The operator loses an app between the preview and the run.
    let preview = world.client().post("/api/bulk/preview", of_both).await.json();
    one.post("/api/bulk/run", json!({ "token": preview["token"] })).await.problem(404, "not-found");
    assert_eq!(world.row(id).await.resolved_at, None);
}

async fn a_token_does_one_step(world: World) {
    minutely(&world, 15).await;
    let client = world.client();
    let preview = preview(&client, &world, "replayed", json!({})).await;
    let first = run(&client, &preview, Some(1)).await;
    for _ in 0..2 {
        let again = json!({ "token": preview["token"], "limit": 1 });
        client.post("/api/bulk/run", again).await.problem(409, "step-done");
    }
    assert_eq!(world.outbox.events().len(), 1);
    let second = run(&client, &first, Some(10)).await;
    let again = json!({ "token": first["token"], "limit": 10 });
    client.post("/api/bulk/run", again).await.problem(409, "step-done");
    let rest = run(&client, &second, None).await;
    assert_eq!((&rest["done_so_far"], &rest["changed_by_others"]), (&json!(15), &json!(0)));
    assert_eq!(world.outbox.events().len(), 15);
}

async fn a_step_that_another_process_did_is_not_done_again(world: World) {
    minutely(&world, 4).await;
    let client = world.client();
    let preview = preview(&client, &world, "ignored", json!({})).await;
    let first = run(&client, &preview, Some(1)).await;
    let run_id: Uuid = first["run_id"].as_str().unwrap().parse().unwrap();
    let by = Attribution::by("ada").run_id(run_id);
    let filter = DeadLetterFilter::default().created_before(Utc::now());
    world.repo.resolve_matching(world.app, &filter, Resolution::Ignored, &by, 1).await.unwrap();
    client.post("/api/bulk/run", json!({ "token": first["token"] })).await.problem(409, "step-done");
    assert_eq!(world.repo.unresolved_count(world.app).await.unwrap(), 2);
}

async fn only_one_of_two_simultaneous_steps_of_a_token_is_done(world: World) {
    minutely(&world, 6).await;
    let (here, there) = (world.client(), world.client());
    for (round, other) in [(1, &here), (2, &there)] {
        let preview = preview(&here, &world, "replayed", json!({})).await;
        let step = json!({ "token": preview["token"], "limit": 1 });
        let (one, two) =
            tokio::join!(here.post("/api/bulk/run", step.clone()), other.post("/api/bulk/run", step.clone()));
        let (done, refused) = if one.status.is_success() { (one, two) } else { (two, one) };
        assert_eq!(done.json()["done"], 1);
        refused.problem(409, "step-done");
        assert_eq!(world.outbox.events().len(), round);
    }
}

/// A gap: the step should be refused. The other process has no row in the history yet that could refuse it.
#[tokio::test]
async fn a_step_goes_on_with_the_next_app_while_another_process_has_locked_the_rest_of_one_on_postgres() {
    let world = World::postgres().await;
    let (other, client) = (new_app(), world.client());
    minutely(&world, 2).await;
    world.repo.insert_many(vec![letter(other); 2]).await.unwrap();
    let of_both = json!({ "apps": [world.app, other], "action": "ignored", "filter": {} });
    let preview = client.post("/api/bulk/preview", of_both).await.json();
    let first = run(&client, &preview, Some(1)).await;
    let run_id: Uuid = first["run_id"].as_str().unwrap().parse().unwrap();

    let txn = SeaOrmDeadLetterRepo::begin(world.repo.pool()).await.unwrap();
    let by = Attribution::by("ada").run_id(run_id).batch(1);
    let filter = DeadLetterFilter::default().created_before(Utc::now());
    let there = world.repo.in_transaction(&txn);
    let changed = there.resolve_matching(world.app, &filter, Resolution::Ignored, &by, 1).await.unwrap();
    let second = run(&client, &first, Some(1)).await;
    SeaOrmDeadLetterRepo::commit(txn).await.unwrap();

    assert_eq!((changed.ids.len(), &second["done"]), (1, &json!(1)));
    client.post("/api/bulk/run", json!({ "token": second["token"] })).await.problem(409, "step-done");
    assert_eq!(world.repo.unresolved_count(other).await.unwrap(), 1);
}

/// SQLite has no row locks.
#[tokio::test]
async fn a_letter_locked_by_another_transaction_is_skipped_and_reported_on_postgres() {
    let world = World::postgres().await;
    let ids = minutely(&world, 3).await;
    let client = world.client();
    let preview = preview(&client, &world, "ignored", json!({})).await;
    let txn = SeaOrmDeadLetterRepo::begin(world.repo.pool()).await.unwrap();
    let lock = format!("SELECT FROM dead_letters WHERE id = '{}' FOR UPDATE", ids[1]);
    txn.execute_unprepared(&lock).await.unwrap();
    let done = run(&client, &preview, None).await;
    assert_eq!(
        (&done["done"], &done["skipped_locked"], &done["more"]),
        (&json!(2), &json!(true), &json!(false))
    );
    assert_eq!(done["changed_by_others"], 0);

    // The answer for a single letter says that another call has locked it.
    for (action, body) in [("resolve", json!({ "resolution": "ignored" })), ("replay", json!({}))] {
        let path = world.path(&format!("letters/{}/{action}", ids[1]));
        client.post(path, body).await.problem(409, "locked");
    }

    txn.rollback().await.unwrap();
    let rest = run(&client, &done, None).await;
    assert_eq!(
        (&rest["done"], &rest["skipped_locked"], &rest["done_so_far"]),
        (&json!(1), &json!(false), &json!(3))
    );
    assert_eq!(world.repo.unresolved_count(world.app).await.unwrap(), 0);
}
