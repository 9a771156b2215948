//! A filter and a page as a query string, without a database.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use dead_letters::{
    Cursor, DeadLetterFilter, DeadLetterRepoError, DeadLetterState, ErrorKind, IdFilter, ListQuery, ListSort,
    PageRequest, Resolution, ScriptId, TriggerId,
};
use proptest::{option, prelude::*, sample::select};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    hostile::{samples, text},
    time,
};

fn id() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

/// One id, or none.
fn id_filter<T: From<Uuid> + std::fmt::Debug>() -> impl Strategy<Value = IdFilter<T>> {
    option::of(id()).prop_map(|id| IdFilter::from(id.map(T::from)))
}

/// Generates any Unicode text, or nothing but quotes.
fn any_text() -> impl Strategy<Value = Option<String>> {
    option::of(prop_oneof![text(), r#""{0,5}"#])
}

/// Any that there is, leap seconds among them.
fn any_time() -> impl Strategy<Value = Option<DateTime<Utc>>> {
    let (min, max) = (DateTime::<Utc>::MIN_UTC.timestamp(), DateTime::<Utc>::MAX_UTC.timestamp());
    let (first, last) = (time("0001-01-01T00:00:00Z").timestamp(), time("9999-12-31T23:59:59Z").timestamp());
    let seconds = prop_oneof![first..=last, min..=max];
    let nanoseconds =
        prop_oneof![Just(0), 0..1_000_000_000_u32, (0..1_000_u32).prop_map(|ms| ms * 1_000_000)];
    let leap = select(vec![Some(time("2016-12-31T23:59:60.5Z"))]);
    let anywhere = (seconds, nanoseconds).prop_map(|(s, ns)| DateTime::from_timestamp(s, ns));
    prop_oneof![1 => leap, 9 => anywhere]
}

fn any_metadata() -> impl Strategy<Value = BTreeMap<String, String>> {
    let value = any_text().prop_map(Option::unwrap_or_default);
    proptest::collection::btree_map(prop_oneof![text(), "[.=&\"]{0,3}"], value, 0..3)
}

fn any_filter() -> impl Strategy<Value = DeadLetterFilter> {
    let resolution = option::of(select(Resolution::ALL.to_vec()));
    let ids = option::of(proptest::collection::vec(id().prop_map(Into::into), 0..4));
    let texts = (any_text(), any_text(), any_text(), any_text(), any_text(), any_text());
    let parts = (any_text(), any_text());
    let (triggers, scripts) = (id_filter::<TriggerId>(), id_filter::<ScriptId>());
    let causes =
        (option::of(triggers), option::of(scripts), option::of(id()), option::of(id()), option::of(id()));
    let times = (any_time(), any_time(), any_time(), any_time());
    let metadata = any_metadata();
    let truncated = (option::of(any::<bool>()), option::of(any::<bool>()));
    let state = option::of(select(DeadLetterState::ALL.to_vec()));
    (state, ids, resolution, texts, parts, causes, truncated, times, metadata).prop_map(
        |(state, ids, resolution, texts, parts, causes, truncated, times, metadata)| {
            let (trigger_id, script_id, original_event_id, failed_again_in_run, run_id) = causes;
            let (source, op, error_contains, error_signature, group_key, resolved_by) = texts;
            let (created_from, created_before, resolved_from, resolved_before) = times;
            let mut filter = DeadLetterFilter::default()
                .state(state)
                .resolution(resolution)
                .original_event_id(original_event_id)
                .truncated(truncated.0)
                .erased(truncated.1)
                .failed_again_in_run(failed_again_in_run)
                .run_id(run_id)
                .resolved_from(resolved_from)
                .resolved_before(resolved_before)
                .created_from(created_from)
                .created_before(created_before);
            filter.ids = ids;
            filter.source = source;
            filter.op = op;
            (filter.source_contains, filter.op_contains) = parts;
            filter.trigger_id = trigger_id;
            filter.script_id = script_id;
            filter.error_contains = error_contains;
            filter.error_signature = error_signature;
            filter.group_key = group_key;
            filter.resolved_by = resolved_by;
            filter.metadata = metadata;
            filter
        },
    )
}

fn any_page() -> impl Strategy<Value = PageRequest> {
    // The version, a time, then any id and checksum.
    let after = option::of("AQAAAAAAAAAA[A-Za-z0-9_-]{32}");
    let sort = select(ListSort::ALL.to_vec());
    (sort, any::<u32>(), after, option::of(any::<u32>())).prop_map(|(sort, size, after, scan)| {
        let after = after.map(|after| after.parse::<Cursor>().unwrap());
        PageRequest::default().sort(sort).size(size).after(after).scan_limit(scan)
    })
}

#[test]
fn any_filter_and_page_come_back_from_their_query_string() {
    for (filter, page) in samples(2_000, (any_filter(), any_page())) {
        let query = ListQuery::new(filter, page);
        let text = query.to_string();
        assert_eq!(text.parse::<ListQuery>().unwrap(), query, "{text}");
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");

        assert_eq!(serde_urlencoded::to_string(&query).unwrap(), text);
        assert_eq!(serde_urlencoded::from_str::<ListQuery>(&text).unwrap(), query, "{text}");

        let json = serde_json::to_string(&query).unwrap();
        assert_eq!(serde_json::from_str::<ListQuery>(&json).unwrap(), query, "{json}");
    }
}

fn full() -> ListQuery {
    let id = Uuid::from_u128;
    ListQuery::new(
        DeadLetterFilter::default()
            .state(DeadLetterState::Any)
            .ids([id(1).into(), id(2).into()])
            .resolution(Resolution::HandlerFailed)
            .source("orders & \"more\"")
            .source_contains("ord")
            .op("a+b=c%20")
            .op_contains("A+")
            .trigger_id(TriggerId::from(id(3)))
            .script_id(ScriptId::from(id(4)))
            .original_event_id(id(5))
            .error_contains("größer\0\n?")
            .error_signature("no stock for #")
            .group_key("0123456789abcdef")
            .truncated(false)
            .erased(true)
            .failed_again_in_run(id(6))
            .run_id(id(7))
            .resolved_by("ada")
            .resolved_from(time("2026-03-01T11:00:00Z"))
            .resolved_before(time("2026-03-01T12:00:00Z"))
            .created_from(time("2026-03-01T10:00:00.000001Z"))
            .created_before(time("+10000-01-01T00:00:00Z"))
            .metadata("tenant", "acme")
            .metadata("a.b=c & \"d\"", ""),
        PageRequest::default()
            .sort(ListSort::Oldest)
            .size(20)
            .after("AQAAAAAAAAAA_-0000000000000000000000000000-_".parse::<Cursor>().unwrap())
            .scan_limit(10_000),
    )
}

#[test]
fn a_query_string_has_its_fields_in_order_and_encoded() {
    let expected = [
        "state=any",
        "ids=00000000-0000-0000-0000-000000000001%2C00000000-0000-0000-0000-000000000002",
        "resolution=handler_failed",
        "source=orders+%26+%22more%22",
        "source_contains=ord",
        "op=a%2Bb%3Dc%2520",
        "op_contains=A%2B",
        "trigger_id=00000000-0000-0000-0000-000000000003",
        "script_id=00000000-0000-0000-0000-000000000004",
        "original_event_id=00000000-0000-0000-0000-000000000005",
        "error_contains=gr%C3%B6%C3%9Fer%00%0A%3F",
        "error_signature=no+stock+for+%23",
        "group_key=0123456789abcdef",
        "truncated=false",
        "erased=true",
        "failed_again_in_run=00000000-0000-0000-0000-000000000006",
        "run_id=00000000-0000-0000-0000-000000000007",
        "resolved_by=ada",
        "resolved_from=2026-03-01T11%3A00%3A00Z",
        "resolved_before=2026-03-01T12%3A00%3A00Z",
        "created_from=2026-03-01T10%3A00%3A00.000001Z",
        "created_before=%2B10000-01-01T00%3A00%3A00Z",
        "metadata.a.b%3Dc+%26+%22d%22=%22%22",
        "metadata.tenant=acme",
        "sort=oldest",
        "size=20",
        "after=AQAAAAAAAAAA_-0000000000000000000000000000-_",
        "scan_limit=10000",
    ];
    assert_eq!(full().to_string(), expected.join("&"));
    assert_eq!(ListQuery::default().to_string(), "");
}

#[test]
fn a_query_strings_fields_have_the_names_of_the_filter_and_the_page() {
    let names = |value: Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let mut of_both = names(serde_json::to_value(full().filter).unwrap());
    of_both.append(&mut names(serde_json::to_value(full().page).unwrap()));
    assert_eq!(
        full()
            .pairs()
            .map(|(name, _)| name.split('.').next().unwrap_or_default().to_owned())
            .collect::<BTreeSet<_>>(),
        of_both
    );
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn read(text: &str) -> ListQuery {
    text.parse().unwrap()
}

fn with_filter(filter: DeadLetterFilter) -> ListQuery {
    ListQuery::from(filter)
}

#[test]
fn an_empty_value_is_not_set_and_two_quotes_are_the_empty_one() {
    let unset: Vec<_> = full().pairs().map(|(name, _)| format!("{}=", encoded(&name))).collect();
    assert_eq!(read(&unset.join("&")), ListQuery::default());
    assert_eq!(read(""), ListQuery::default());
    assert_eq!(read("&&state"), ListQuery::default());

    // Left out, it would leave more rows than were meant.
    let no_source = with_filter(DeadLetterFilter::default().source(String::new()));
    assert_eq!(no_source.to_string(), "source=%22%22");
    let no_row = with_filter(DeadLetterFilter::default().ids([]));
    assert_eq!(no_row.to_string(), "ids=%22%22");

    let quoted = with_filter(DeadLetterFilter::default().source("\"a\""));
    assert_eq!(read("source=\"a\""), quoted);
}

#[test]
fn none_is_the_letters_without_a_trigger_or_without_a_script() {
    let without = DeadLetterFilter::default().trigger_id(IdFilter::None).script_id(IdFilter::None);
    assert_eq!(with_filter(without.clone()).to_string(), "trigger_id=none&script_id=none");
    assert_eq!(read("trigger_id=none&script_id=none"), with_filter(without.clone()));
    let json = serde_json::to_value(&without).unwrap();
    assert_eq!((&json["trigger_id"], &json["script_id"]), (&json!("none"), &json!("none")));
    assert_eq!(serde_json::from_value::<DeadLetterFilter>(json).unwrap(), without);

    for wrong in [json!("None"), json!(""), json!("nil"), json!(1)] {
        let error = serde_json::from_value::<DeadLetterFilter>(json!({ "script_id": wrong })).unwrap_err();
        assert!(!error.to_string().contains("nil"), "{error}");
    }
}

#[test]
fn times_may_have_any_offset() {
    let before = Some(time("2026-03-01T10:00:00Z"));
    let expected = with_filter(DeadLetterFilter::default().created_before(before));
    assert_eq!(read("created_before=2026-03-01T12:00:00%2B02:00"), expected);
}

#[test]
fn ids_may_be_given_again_as_ticked_boxes_send_them() {
    let ids = [1, 2, 3].map(|id| Uuid::from_u128(id).into());
    let text = [
        "ids=%22%22",
        "ids=00000000-0000-0000-0000-000000000001",
        "ids=",
        "ids=00000000-0000-0000-0000-000000000002,00000000-0000-0000-0000-000000000003",
    ];
    assert_eq!(read(&text.join("&")), with_filter(DeadLetterFilter::default().ids(ids)));
}

#[test]
fn a_field_that_is_wrong_is_named_and_its_value_not_shown() {
    let long = "x".repeat(10_000);
    let refused = |text: &str, field: &str, expected: &str| {
        let error = text.parse::<ListQuery>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(
            matches!(&error, DeadLetterRepoError::InvalidQuery { field: named, .. } if named == field),
            "{error}"
        );
        let shown = error.to_string();
        assert!(shown.contains(expected) && shown.len() < 200 && !shown.contains("xxx"), "{shown}");
        let of_serde = serde_urlencoded::from_str::<ListQuery>(text).unwrap_err();
        assert_eq!(of_serde.to_string(), shown);
    };
    for (field, expected) in [
        ("state", "must be open, unresolved, closed or any"),
        ("ids", "must be uuids, with commas between them"),
        ("resolution", "must be replayed, ignored, handled_by_script or handler_failed"),
        ("trigger_id", "must be a uuid, or none"),
        ("script_id", "must be a uuid, or none"),
        ("original_event_id", "must be a uuid"),
        ("created_from", "must be a time"),
        ("created_before", "must be a time"),
        ("size", "must be a whole number"),
        ("after", "must be the cursor"),
        ("scan_limit", "must be a whole number"),
        ("sorce", "is not a field of a filter or page"),
        ("metadata", "is not a field of a filter or page"),
    ] {
        refused(&format!("{field}={long}"), field, expected);
    }
    refused("ids=00000000-0000-0000-0000-000000000001,", "ids", "must be uuids, with commas between them");
    for number in ["-1", "1.5", "4294967296"] {
        refused(&format!("size={number}"), "size", "from 0 to 4,294,967,295");
    }
    refused("sorce=", "sorce", "is not a field of a filter or page");
    refused("Source=a", "Source", "is not a field of a filter or page");
    for (name, text) in full().pairs().filter(|(name, _)| name != "ids") {
        let (text, encoded) = (text.replace('&', ""), encoded(&name));
        refused(&format!("{encoded}=&{encoded}={text}"), &name, "is given twice");
    }

    let error = format!("{}=1", "\u{202E}y".repeat(5_000)).parse::<ListQuery>().unwrap_err().to_string();
    assert!(error.contains(r"\u{202e}y") && error.len() < 400, "{error}");
}

#[test]
fn a_struct_with_further_fields_takes_it_flattened_and_still_refuses_an_unknown_one() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct ChartQuery {
        buckets: Option<u32>,
        #[serde(flatten)]
        list: ListQuery,
    }
    let chart = ChartQuery { buckets: Some(24), list: full() };
    let text = serde_urlencoded::to_string(&chart).unwrap();
    assert_eq!(text, format!("buckets=24&{}", full()));
    assert_eq!(serde_urlencoded::from_str::<ChartQuery>(&text).unwrap(), chart);

    let plain = ChartQuery { buckets: None, list: ListQuery::default() };
    assert_eq!(serde_urlencoded::from_str::<ChartQuery>("").unwrap(), plain);

    for wrong in ["buckets=24&bucket=1", "source=a&source=b"] {
        let error = serde_urlencoded::from_str::<ChartQuery>(wrong).unwrap_err();
        let alone = wrong.trim_start_matches("buckets=24&").parse::<ListQuery>().unwrap_err();
        assert_eq!(error.to_string(), alone.to_string());
    }
}

#[test]
fn a_query_of_other_than_texts_is_refused() {
    for wrong in [json!({ "size": 20 }), json!([["size", "20"]]), json!("size=20")] {
        serde_json::from_value::<ListQuery>(wrong).unwrap_err();
    }
}
