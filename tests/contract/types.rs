//! The public types, most of them without a database.

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Debug,
};

use chrono::Utc;
use dead_letters::{
    AppId, Attribution, BacklogRequest, Buckets, CountRequest, Cursor, DeadLetterFilter, DeadLetterId,
    DeadLetterRead, DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, DeadLetterRow, DeadLetterState,
    DeadLetterSummary, DeadLetterTransfer, ErrorGroup, ErrorKind, GroupRequest, NewDeadLetter, NewErrorGroup,
    NewGroupRequest, Page, PageRequest, PayloadKind, Resolution, ScriptId, TimelineRequest, TriggerId,
    entity::dead_letters::{COLUMN, Column, Entity},
};
use sea_orm::{EntityTrait, QueryFilter, QuerySelect};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{letter, new_app, time};
use crate::database::TestDb;

on_every_backend! {
    ids_stand_for_their_uuids_in_queries_of_ones_own,
}

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
            assert_eq!(sea_orm::Value::from(id), sea_orm::Value::from(uuid));
        })+};
    }
    check!(AppId, DeadLetterId, ScriptId, TriggerId);
}

async fn ids_stand_for_their_uuids_in_queries_of_ones_own(db: TestDb) {
    let (sent, other) = (letter(new_app()), letter(new_app()));
    let stored = db.repo().insert_many(vec![sent.clone(), other]).await.unwrap();
    let found = Entity::find()
        .select_only()
        .columns([Column::Id, Column::AppId, Column::TriggerId])
        .filter(COLUMN.app_id.eq(sent.app_id))
        .filter(COLUMN.id.is_in(stored.iter().copied()))
        .into_tuple::<(DeadLetterId, AppId, Option<TriggerId>)>()
        .all(&db.db)
        .await
        .unwrap();
    assert_eq!(found, [(stored[0], sent.app_id, sent.trigger_id)]);
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
    assert_eq!(Resolution::ALL, texts.map(|(resolution, _)| resolution));
}

#[test]
fn a_payload_kind_serializes_as_its_text() {
    let texts = [
        (PayloadKind::Json, "json"),
        (PayloadKind::Text, "text"),
        (PayloadKind::Truncated, "truncated"),
        (PayloadKind::Erased, "erased"),
    ];
    for (kind, text) in texts {
        assert_eq!(kind.as_str(), text);
        assert_eq!(serde_json::to_value(kind).unwrap(), json!(text));
        assert_eq!(serde_json::from_value::<PayloadKind>(json!(text)).unwrap(), kind);
    }
    assert_eq!(PayloadKind::ALL, texts.map(|(kind, _)| kind));
}

#[test]
fn a_state_prints_parses_and_serializes_as_its_text() {
    let texts = [
        (DeadLetterState::Open, "open"),
        (DeadLetterState::Unresolved, "unresolved"),
        (DeadLetterState::Closed, "closed"),
        (DeadLetterState::Any, "any"),
    ];
    for (state, text) in texts {
        assert_eq!(state.as_str(), text);
        assert_eq!(format!("{state:>12}"), format!("{text:>12}"));
        assert_eq!(text.parse::<DeadLetterState>().unwrap(), state);
        assert_eq!(serde_json::to_value(state).unwrap(), json!(text));
        assert_eq!(serde_json::from_value::<DeadLetterState>(json!(text)).unwrap(), state);
    }
    assert_eq!(DeadLetterState::ALL, texts.map(|(state, _)| state));
    let error = "Open".parse::<DeadLetterState>().unwrap_err();
    assert!(matches!(&error, DeadLetterRepoError::InvalidState(refused) if refused == "Open"), "{error}");
}

#[test]
fn an_error_kind_prints_as_its_text() {
    for (kind, text) in [
        (ErrorKind::NotFound, "not_found"),
        (ErrorKind::Conflict, "conflict"),
        (ErrorKind::Invalid, "invalid"),
        (ErrorKind::Transient, "transient"),
        (ErrorKind::Internal, "internal"),
    ] {
        assert_eq!((kind.as_str(), kind.to_string().as_str()), (text, text));
    }
}

#[test]
fn a_number_out_of_range_is_an_error_with_its_bounds_but_not_with_a_types_own() {
    for (max, expected) in [
        (500, "`limit` must be between 1 and 500 (got 0)"),
        (u32::MAX.into(), "`limit` must be at least 1 (got 0)"),
        (i64::MAX, "`limit` must be at least 1 (got 0)"),
    ] {
        let error = DeadLetterRepoError::OutOfRange { argument: "limit", value: 0, min: 1, max };
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_new_letter_failed_once_and_now() {
    let (app, event) = (new_app(), Uuid::new_v4());
    let before = Utc::now();
    let new = NewDeadLetter::new(app, event, "orders", "insert", json!({ "order": 4711 }), "451");
    assert!((before..=Utc::now()).contains(&new.first_attempt_at), "{new:?}");
    let expected = NewDeadLetter {
        app_id: app,
        original_event_id: event,
        source: "orders".to_owned(),
        op: "insert".to_owned(),
        trigger_id: None,
        script_id: None,
        payload: json!({ "order": 4711 }),
        payload_text: None,
        attempt_count: 1,
        first_attempt_at: new.first_attempt_at,
        last_attempt_at: new.first_attempt_at,
        last_error: "451".to_owned(),
        error_signature: None,
        metadata: serde_json::Map::new(),
    };
    assert_eq!(new, expected);
}

#[test]
fn an_attribution_has_a_name_and_a_note() {
    let (by, note) = (Some("ada".to_owned()), Some("sold out".to_owned()));
    let attribution = Attribution::by("ada");
    assert_eq!((&attribution.by, &attribution.note), (&by, &None));
    let attribution = attribution.note("sold out");
    assert_eq!((&attribution.by, &attribution.note), (&by, &note));
    let nobody = Attribution::default();
    assert_eq!((nobody.by, nobody.note), (None, None));
}

#[test]
fn requests_and_pages_go_through_json() {
    fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, json: Value) {
        assert_eq!(serde_json::to_value(value).unwrap(), json);
        assert_eq!(serde_json::from_value::<T>(json).unwrap(), *value);
    }
    let text = "AQAAAAAAAAAA_-0000000000000000000000000000-_";
    let cursor: Cursor = text.parse().unwrap();
    check(&cursor, json!(text));
    check(
        &PageRequest::default().size(20).after(cursor),
        json!({ "sort": "newest", "size": 20, "after": text, "scan_limit": null }),
    );
    let mut page = Page::last(vec![1, 2]);
    (page.next, page.scanned_back_to) = (Some(cursor), Some(time("2026-03-01T10:00:00Z")));
    check(&page, json!({ "items": [1, 2], "next": text, "scanned_back_to": "2026-03-01T10:00:00Z" }));
    let (from, until) = (time("2026-03-01T10:00:00Z"), time("2026-03-02T10:00:00Z"));
    let timeline = Buckets::new(from..until, 24);
    check(
        &GroupRequest::default().limit(10).scan_limit(1_000).timeline(timeline),
        json!({
            "limit": 10,
            "scan_limit": 1_000,
            "timeline": { "from": "2026-03-01T10:00:00Z", "until": "2026-03-02T10:00:00Z", "count": 24 },
        }),
    );
    assert_eq!(serde_json::from_value::<PageRequest>(json!({})).unwrap(), PageRequest::default());
    assert_eq!(serde_json::from_value::<GroupRequest>(json!({})).unwrap(), GroupRequest::default());
    let of_search = GroupRequest::default().payload_contains("canary-4711");
    assert_eq!(
        serde_json::to_value(&of_search).unwrap(),
        serde_json::to_value(GroupRequest::default()).unwrap()
    );
    serde_json::from_value::<GroupRequest>(json!({ "payload_contains": "canary-4711" })).unwrap_err();
    assert!(!format!("{of_search:?}").contains("canary"));
    let error = serde_json::from_value::<Cursor>(json!("no cursor")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the cursor is damaged, or belongs to another app, filter or order: leave the cursor out to begin with the first letter"
    );
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
    let sent = json!({
        "id": "00000000-0000-0000-0000-000000000001",
        "app_id": "00000000-0000-0000-0000-000000000002",
        "original_event_id": "00000000-0000-0000-0000-000000000003",
        "source": "orders",
        "op": "insert",
        "trigger_id": "00000000-0000-0000-0000-000000000004",
        "script_id": null,
        "payload": { "order": 4711 },
        "payload_kind": "json",
        "metadata": { "tenant": "acme" },
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
    let row: DeadLetterRow = serde_json::from_value(sent.clone()).unwrap();
    assert_eq!(serde_json::to_value(&row).unwrap(), sent);
    assert_eq!((row.id, row.app_id), (Uuid::from_u128(1).into(), Uuid::from_u128(2).into()));
    assert_eq!(
        (row.original_event_id, row.source.as_str(), row.op.as_str()),
        (Uuid::from_u128(3), "orders", "insert")
    );
    assert_eq!((row.trigger_id, row.script_id), (Some(Uuid::from_u128(4).into()), None));
    assert_eq!((row.payload, row.payload_kind), (json!({ "order": 4711 }), Some(PayloadKind::Json)));
    assert_eq!(row.metadata["tenant"], "acme");
    assert_eq!((row.attempt_count, row.first_attempt_at), (5, time("2026-03-01T10:00:00.123456Z")));
    assert_eq!((row.last_attempt_at, row.last_error.as_str()), (time("2026-03-01T10:31:00Z"), "451"));
    assert_eq!(
        (row.created_at, row.resolved_at),
        (time("2026-03-01T10:31:01Z"), Some(time("2026-03-02T08:00:00Z")))
    );
    assert_eq!(
        (row.resolution, row.resolved_by.as_deref()),
        (Some(Resolution::HandledByScript), Some("ada"))
    );
    assert_eq!((row.resolution_note, row.error_signature.as_str()), (None, "#"));
}

#[test]
fn the_traits_are_object_safe_and_shared_between_threads() {
    fn shared<T: Send + Sync + ?Sized>() {}
    shared::<dyn DeadLetterRepo>();
    shared::<dyn DeadLetterRead>();
    shared::<dyn DeadLetterResolve>();
    shared::<dyn DeadLetterTransfer>();
}

#[test]
fn a_request_with_an_unknown_field_is_refused() {
    fn check<T: DeserializeOwned + Debug>(mut sent: Value) {
        serde_json::from_value::<T>(sent.clone()).unwrap();
        sent["sorce"] = json!(null);
        let error = serde_json::from_value::<T>(sent).unwrap_err();
        assert!(error.to_string().starts_with("unknown field `sorce`"), "{error}");
    }
    let (from, until) = ("2026-03-01T10:00:00Z", "2026-03-02T10:00:00Z");
    check::<DeadLetterFilter>(json!({ "source": "customers", "created_before": until }));
    check::<Attribution>(json!({ "by": "ada", "note": "sold out" }));
    check::<PageRequest>(json!({ "size": 20 }));
    check::<GroupRequest>(json!({ "limit": 20 }));
    let buckets = json!({ "from": from, "until": until, "count": 24 });
    check::<Buckets>(buckets.clone());
    check::<TimelineRequest>(json!({ "buckets": buckets }));
    check::<CountRequest>(json!({ "cap": 20 }));
    check::<BacklogRequest>(json!({ "limit": 20 }));
    check::<NewGroupRequest>(json!({ "since": from }));
}

const CANARY: &str = "canary-4711";

#[test]
fn debug_shows_ids_times_and_counts_and_of_texts_their_size() {
    let text = || Some(CANARY.to_owned());
    let new = NewDeadLetter {
        source: CANARY.to_owned(),
        op: CANARY.to_owned(),
        payload: json!({ CANARY: CANARY }),
        payload_text: text(),
        last_error: CANARY.to_owned(),
        ..letter(new_app())
    };
    // Only the store makes these.
    let of_all = json!({
        "id": Uuid::new_v4(),
        "app_id": new.app_id,
        "original_event_id": new.original_event_id,
        "source": CANARY,
        "op": CANARY,
        "trigger_id": null,
        "script_id": new.script_id,
        "attempt_count": 5,
        "first_attempt_at": new.first_attempt_at,
        "last_attempt_at": new.last_attempt_at,
        "error_signature": CANARY,
        "created_at": new.last_attempt_at,
        "resolved_at": new.last_attempt_at,
        "resolution": "ignored",
        "resolved_by": CANARY,
        "resolution_note": CANARY,
        // A row has these besides.
        "payload": new.payload,
        "payload_kind": "text",
        "last_error": CANARY,
        // A summary has these besides.
        "payload_bytes": 29,
        "error_excerpt": CANARY,
        "group_key": "0123456789abcdef",
        // A group has these besides.
        "sample": CANARY,
        "count": 4711,
        "first_seen": new.last_attempt_at,
        "last_seen": new.last_attempt_at,
        "newest_id": Uuid::new_v4(),
        "closed": 0,
        "last_closed_at": null,
        "regressed": false,
        // A new group has these besides.
        "open": 4711,
        "state": "new",
        "timeline": [],
    });
    let row: DeadLetterRow = serde_json::from_value(of_all.clone()).unwrap();
    let summary: DeadLetterSummary = serde_json::from_value(of_all.clone()).unwrap();
    let group: ErrorGroup = serde_json::from_value(of_all.clone()).unwrap();
    let new_group: NewErrorGroup = serde_json::from_value(of_all).unwrap();
    let filter = DeadLetterFilter::default()
        .script_id(row.script_id.unwrap())
        .source(CANARY)
        .op(CANARY)
        .error_contains(CANARY)
        .error_signature(CANARY);
    let script = row.script_id.unwrap().to_string();
    for shown in [
        format!("{new:?} {new:#?}"),
        format!("{row:?} {row:#?}"),
        format!("{summary:?} {summary:#?}"),
        format!("{group:?} {group:#?}"),
        format!("{new_group:?} {new_group:#?}"),
        format!("{filter:?} {filter:#?}"),
    ] {
        assert!(!shown.contains(CANARY), "{shown}");
        assert!(shown.contains("11 bytes"), "{shown}");
        assert!(shown.contains(&script), "{shown}");
    }
    let attribution = format!("{:?}", Attribution::by(CANARY).note(CANARY));
    assert!(!attribution.contains(CANARY) && attribution.contains("11 bytes"), "{attribution}");
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
