//! The public types, without a database.

use std::collections::{BTreeSet, HashSet};

use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterRepo, DeadLetterRepoError, DeadLetterRow,
    DeadLetterSummary, DeadLetterTriage, ErrorGroup, NewDeadLetter, Resolution, ScriptId, Settlement,
    TriggerId,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{letter, new_app, time};

#[test]
fn ids_convert_print_parse_sort_hash_and_serialize_as_the_bare_uuid() {
    macro_rules! check {
        ($($id:ty),+) => {$({
            let uuid = Uuid::new_v4();
            let id = <$id>::from(uuid);
            let copy = id;
            assert_eq!(id.into_inner(), uuid);
            assert_eq!(Uuid::from(copy), uuid);
            assert_eq!(id.to_string(), uuid.to_string());
            assert_eq!(uuid.to_string().parse::<$id>().unwrap(), id);
            assert!("no uuid".parse::<$id>().is_err());
            assert_eq!(serde_json::to_value(id).unwrap(), json!(uuid.to_string()));
            assert_eq!(serde_json::from_value::<$id>(json!(uuid.to_string())).unwrap(), id);
            assert_eq!(BTreeSet::from([id, copy]).len(), 1);
            assert_eq!(HashSet::from([id, copy]).len(), 1);
            assert!(<$id>::from(Uuid::nil()) < <$id>::from(Uuid::max()));
        })+};
    }
    check!(AppId, DeadLetterId, ScriptId, TriggerId);
}

#[test]
fn a_resolution_prints_parses_and_serializes_as_its_text() {
    let texts = [
        (Resolution::Replayed, "replayed"),
        (Resolution::Ignored, "ignored"),
        (Resolution::HandledByScript, "handled_by_script"),
        (Resolution::HandlerFailed, "handler_failed"),
    ];
    for (resolution, text) in texts {
        assert_eq!(resolution.as_str(), text);
        assert_eq!(resolution.to_string(), text);
        assert_eq!(text.parse::<Resolution>().unwrap(), resolution);
        assert_eq!(serde_json::to_value(resolution).unwrap(), json!(text));
        assert_eq!(serde_json::from_value::<Resolution>(json!(text)).unwrap(), resolution);
    }
}

#[test]
fn text_that_is_no_resolution_does_not_parse() {
    for text in ["", "Replayed", "replayed ", "handler failed", "resolved", "replayed\0"] {
        let error = text.parse::<Resolution>().unwrap_err();
        assert!(
            matches!(&error, DeadLetterRepoError::InvalidResolution(refused) if refused == text),
            "{text:?}"
        );
    }
}

#[test]
fn a_row_serializes_as_an_admin_endpoint_would_send_it() {
    let row = DeadLetterRow {
        id: Uuid::from_u128(1).into(),
        app_id: Uuid::from_u128(2).into(),
        original_event_id: Uuid::from_u128(3),
        source: "orders".to_owned(),
        op: "insert".to_owned(),
        trigger_id: Some(Uuid::from_u128(4).into()),
        script_id: None,
        payload: json!({ "order": 4711 }),
        attempt_count: 5,
        first_attempt_at: time("2026-03-01T10:00:00.123456Z"),
        last_attempt_at: time("2026-03-01T10:31:00Z"),
        last_error: "451".to_owned(),
        created_at: time("2026-03-01T10:31:01Z"),
        resolved_at: Some(time("2026-03-02T08:00:00Z")),
        resolution: Some(Resolution::HandledByScript),
        resolved_by: Some("ada".to_owned()),
        resolution_note: None,
        error_signature: "#".to_owned(),
    };
    let sent = json!({
        "id": "00000000-0000-0000-0000-000000000001",
        "app_id": "00000000-0000-0000-0000-000000000002",
        "original_event_id": "00000000-0000-0000-0000-000000000003",
        "source": "orders",
        "op": "insert",
        "trigger_id": "00000000-0000-0000-0000-000000000004",
        "script_id": null,
        "payload": { "order": 4711 },
        "attempt_count": 5,
        "first_attempt_at": "2026-03-01T10:00:00.123456Z",
        "last_attempt_at": "2026-03-01T10:31:00Z",
        "last_error": "451",
        "created_at": "2026-03-01T10:31:01Z",
        "resolved_at": "2026-03-02T08:00:00Z",
        "resolution": "handled_by_script",
        "resolved_by": "ada",
        "resolution_note": null,
        "error_signature": "#",
    });
    assert_eq!(serde_json::to_value(&row).unwrap(), sent);
    assert_eq!(serde_json::from_value::<DeadLetterRow>(sent).unwrap(), row);
}

#[test]
fn the_traits_are_object_safe_and_shared_between_threads() {
    fn shared<T: Send + Sync + ?Sized>() {}
    shared::<dyn DeadLetterRepo>();
    shared::<dyn DeadLetterTriage>();
}

#[test]
fn a_filter_or_a_settlement_with_a_field_that_does_not_exist_is_refused() {
    let filter = json!({ "source": "customers", "created_before": "2026-03-01T10:00:00Z" });
    serde_json::from_value::<DeadLetterFilter>(filter).unwrap();
    let misspelt = json!({ "sorce": "customers", "created_before": "2026-03-01T10:00:00Z" });
    let error = serde_json::from_value::<DeadLetterFilter>(misspelt).unwrap_err();
    assert!(error.to_string().starts_with("unknown field `sorce`"), "{error}");

    let settlement = json!({ "resolution": "ignored", "note": "sold out" });
    serde_json::from_value::<Settlement>(settlement).unwrap();
    let misspelt = json!({ "resolution": "ignored", "nota": "sold out" });
    let error = serde_json::from_value::<Settlement>(misspelt).unwrap_err();
    assert!(error.to_string().starts_with("unknown field `nota`"), "{error}");
}

const CANARY: &str = "canary-4711";

#[test]
fn debug_shows_ids_times_and_counts_and_of_texts_their_size() {
    let text = || Some(CANARY.to_owned());
    let new = NewDeadLetter {
        source: CANARY.to_owned(),
        op: CANARY.to_owned(),
        payload: json!({ CANARY: CANARY }),
        last_error: CANARY.to_owned(),
        ..letter(new_app())
    };
    let row = DeadLetterRow {
        id: Uuid::new_v4().into(),
        app_id: new.app_id,
        original_event_id: new.original_event_id,
        source: CANARY.to_owned(),
        op: CANARY.to_owned(),
        trigger_id: None,
        script_id: new.script_id,
        payload: new.payload.clone(),
        attempt_count: 5,
        first_attempt_at: new.first_attempt_at,
        last_attempt_at: new.last_attempt_at,
        last_error: CANARY.to_owned(),
        created_at: new.last_attempt_at,
        resolved_at: Some(new.last_attempt_at),
        resolution: Some(Resolution::Ignored),
        resolved_by: text(),
        resolution_note: text(),
        error_signature: CANARY.to_owned(),
    };
    let summary = DeadLetterSummary {
        id: row.id,
        app_id: row.app_id,
        original_event_id: row.original_event_id,
        source: CANARY.to_owned(),
        op: CANARY.to_owned(),
        trigger_id: None,
        script_id: row.script_id,
        payload_bytes: 29,
        attempt_count: 5,
        first_attempt_at: row.first_attempt_at,
        last_attempt_at: row.last_attempt_at,
        error_excerpt: CANARY.to_owned(),
        error_signature: CANARY.to_owned(),
        created_at: row.created_at,
        resolved_at: None,
        resolution: None,
        resolved_by: text(),
        resolution_note: text(),
    };
    let group = ErrorGroup {
        source: CANARY.to_owned(),
        op: CANARY.to_owned(),
        script_id: row.script_id,
        error_signature: CANARY.to_owned(),
        count: 4711,
        first_seen: row.created_at,
        last_seen: row.created_at,
        newest_id: row.id,
        settled: 0,
        last_settled_at: None,
        timeline: vec![],
    };
    let filter = DeadLetterFilter {
        script_id: row.script_id,
        source: text(),
        op: text(),
        error_contains: text(),
        error_signature: text(),
        ..Default::default()
    };
    let settlement = Settlement { resolution: Resolution::Ignored, by: text(), note: text() };
    let script = row.script_id.unwrap().to_string();
    for shown in [
        format!("{new:?} {new:#?}"),
        format!("{row:?} {row:#?}"),
        format!("{summary:?} {summary:#?}"),
        format!("{group:?} {group:#?}"),
        format!("{filter:?} {filter:#?}"),
        format!("{settlement:?} {settlement:#?}"),
    ] {
        assert!(!shown.contains(CANARY), "{shown}");
        assert!(shown.contains("11 bytes"), "{shown}");
        assert!(shown.contains(&script) || shown.contains("Ignored"), "{shown}");
    }
    assert!(format!("{row:?}").contains("payload: 29 bytes"), "{row:?}");
    assert!(format!("{row:?}").contains("created_at: 2026-03-01T10:31:00.123456Z"), "{row:?}");

    // One that is not stored, and that nobody can serialize.
    let mut payload = Value::Null;
    for _ in 0..1_000 {
        payload = json!([payload]);
    }
    let deep = format!("{:?}", NewDeadLetter { payload, ..letter(new_app()) });
    assert!(deep.contains("payload: deeper than 127 levels"), "{deep}");
}
