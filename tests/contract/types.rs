//! The public types, without a database.

use std::collections::{BTreeSet, HashSet};

use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterRepo, DeadLetterRepoError, DeadLetterRow,
    DeadLetterTriage, Resolution, ScriptId, Settlement, TriggerId,
};
use serde_json::json;
use uuid::Uuid;

use super::time;

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
