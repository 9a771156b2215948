use std::collections::HashSet;

use chrono::Duration;
use dead_letters::{
    AppId, CountRequest, Cursor, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo,
    DeadLetterRepoError, DeadLetterResolve, DeadLetterState, DeadLetterSummary, DeadLetterTransfer, IdFilter,
    ListSort, NewDeadLetter, Page, PageRequest, PayloadSearch, Resolution, ScriptId, StoredLetter, TriggerId,
    entity::dead_letters as table, testing::stored_letter,
};
use sea_orm::EntityTrait;
use serde_json::json;
use uuid::Uuid;

use super::{any, letter, new_app, row_of, rows, seen, ten_oclock, time};
use crate::database::TestDb;

on_every_backend! {
    get_for_app_finds_the_apps_own_rows_only,
    a_summary_is_the_row_without_its_payload,
    a_long_error_is_cut_in_a_summary,
    long_texts_are_cut_in_a_summary_and_a_get_has_them_whole,
    newest_come_first_and_ties_by_id,
    pages_follow_each_other_until_the_last,
    a_last_page_that_is_full_has_no_next,
    rows_of_one_time_are_each_seen_once_while_half_are_resolved,
    another_apps_rows_are_not_listed,
    a_scan_of_handler_failed_letters_examines_no_others,
    oldest_first_is_newest_first_reversed_on_any_page_and_scan,
    most_attempts_come_first_among_the_letters_examined_on_one_page,
    a_cursor_belongs_to_one_order,
    a_state_lists_its_rows,
    closed_rows_are_listed_by_when_they_were_closed_each_once_by_any_page_and_scan,
    open_rows_of_both_kinds_are_listed_newest_first_each_once_by_any_page_and_scan,
    each_field_filters,
    fields_are_combined,
    wildcards_are_ordinary_and_only_the_case_of_a_to_z_is_ignored,
    a_nul_in_a_filter_finds_what_was_stored_for_it,
    the_largest_and_smallest_times_filter,
    bounds_finer_than_a_microsecond_are_exact,
    a_page_size_outside_1_to_500_is_refused_and_nothing_is_sent,
    a_cursor_is_parsed_from_its_text_which_is_safe_in_a_url,
    a_forged_or_foreign_cursor_is_refused_and_nothing_is_sent,
    the_listings_of_all_apps_are_merged_into_one_by_a_cursor_of_all_apps,
    a_broken_payload_is_listed,
}

async fn get_for_app_finds_the_apps_own_rows_only(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let id = row_of(&db, letter(app)).await;
    let row = db.repo().get_for_app(app, id).await.unwrap();
    assert_eq!(row, db.repo().get(id).await.unwrap());
    assert!(row.is_some());
    assert_eq!(db.repo().get_for_app(other, id).await.unwrap(), None);
    assert_eq!(db.repo().get_for_app(app, Uuid::now_v7().into()).await.unwrap(), None);
}

fn first(size: u32) -> PageRequest {
    PageRequest::default().size(size)
}

async fn page(db: &TestDb, app: AppId, filter: &DeadLetterFilter, size: u32) -> Page<DeadLetterSummary> {
    db.repo().list(app, filter, &first(size)).await.unwrap()
}

fn ids(items: &[DeadLetterSummary]) -> Vec<DeadLetterId> {
    items.iter().map(|item| item.id).collect()
}

/// The ids of all that match, smallest first.
async fn matching(db: &TestDb, app: AppId, filter: DeadLetterFilter) -> Vec<DeadLetterId> {
    let mut ids = ids(&page(db, app, &filter, 500).await.items);
    ids.sort();
    ids
}

async fn a_summary_is_the_row_without_its_payload(db: TestDb) {
    let app = new_app();
    let payload = json!({ "name": "Zoë", "nul": "\0" });
    let id = row_of(&db, NewDeadLetter { payload: payload.clone(), ..letter(app) }).await;
    db.repo().resolve_once(app, id, Resolution::HandlerFailed, &seen()).await.unwrap();
    let row = db.repo().get(id).await.unwrap().unwrap();
    let summary = page(&db, app, &any(), 1).await.items.remove(0);
    let expected = json!({
        "id": id,
        "app_id": app,
        "original_event_id": row.original_event_id,
        "source": row.source,
        "op": row.op,
        "trigger_id": row.trigger_id,
        "script_id": row.script_id,
        "payload_bytes": payload.to_string().len(),
        "payload_kind": "json",
        "replayed_payload_bytes": null,
        "attempt_count": row.attempt_count,
        "first_attempt_at": row.first_attempt_at,
        "last_attempt_at": row.last_attempt_at,
        "error_excerpt": row.last_error,
        "error_signature": "smtp: 451 try again later",
        "group_key": table::Entity::find_by_id(id.into_inner()).one(&db.db).await.unwrap().unwrap().group_key,
        "created_at": row.created_at,
        "resolved_at": row.resolved_at,
        "resolution": "handler_failed",
        "resolved_by": "ada",
        "resolution_note": "seen",
        "run_id": null,
    });
    assert_eq!(serde_json::to_value(summary).unwrap(), expected);
}

async fn a_long_error_is_cut_in_a_summary(db: TestDb) {
    let app = new_app();
    row_of(&db, NewDeadLetter { last_error: "é".repeat(1_000_000), ..letter(app) }).await;
    assert_eq!(page(&db, app, &any(), 1).await.items[0].error_excerpt, "é".repeat(200));
}

async fn long_texts_are_cut_in_a_summary_and_a_get_has_them_whole(db: TestDb) {
    let of_kind = |text: fn(usize) -> String| StoredLetter {
        source: text(500),
        op: text(500),
        error_signature: text(500),
        resolved_at: Some(ten_oclock()),
        resolution: Some("ignored".to_owned()),
        resolved_by: Some(text(500)),
        resolution_note: Some(text(2_000)),
        ..stored_letter(new_app(), ten_oclock())
    };
    let cut = |end: &str| {
        let of = |characters| "é".repeat(characters) + end;
        (of(500), of(500), of(500), of(500), of(2_000))
    };
    for (letter, end) in [
        (of_kind(|characters| "é".repeat(characters)), ""),
        (of_kind(|characters| "é".repeat(characters + 1)), " [cut]"),
        (of_kind(|_| "é".repeat(1_000_000)), " [cut]"),
    ] {
        let (app, id) = (letter.app_id, letter.id);
        db.repo().import(std::slice::from_ref(&letter)).await.unwrap();
        let scan = PageRequest::default().scan_limit(10);
        for summary in [
            db.repo().summary(app, id).await.unwrap().unwrap(),
            page(&db, app, &any(), 1).await.items.remove(0),
            db.repo().list(app, &any(), &scan).await.unwrap().items.remove(0),
        ] {
            let DeadLetterSummary { source, op, error_signature, resolved_by, resolution_note, .. } = summary;
            let texts = (source, op, error_signature, resolved_by.unwrap(), resolution_note.unwrap());
            assert!(texts == cut(end), "{end}");
        }
        let row = db.repo().get(id).await.unwrap().unwrap();
        let whole = row.source == letter.source && row.op == letter.op;
        assert!(
            whole && row.error_signature == letter.error_signature && row.resolved_by == letter.resolved_by
        );
        assert!(row.resolution_note == letter.resolution_note);
    }
}

async fn newest_come_first_and_ties_by_id(db: TestDb) {
    let app = new_app();
    let mut ascending = rows(&db, app, 5).await;
    db.set_created_at(ascending[2], ten_oclock()).await;
    db.set_created_at(ascending[1], ten_oclock()).await;
    // 0, 1 and 2 are of ten o'clock.
    ascending.reverse();
    assert_eq!(ids(&page(&db, app, &any(), 10).await.items), ascending);
}

async fn pages_follow_each_other_until_the_last(db: TestDb) {
    let app = new_app();
    let mut newest_first = rows(&db, app, 10).await;
    newest_first.reverse();
    let mut request = first(4);
    let mut sizes = Vec::new();
    let mut seen = Vec::new();
    loop {
        let page = db.repo().list(app, &any(), &request).await.unwrap();
        sizes.push(page.items.len());
        seen.extend(ids(&page.items));
        let Some(next) = page.next else { break };
        request.after = Some(next);
    }
    assert_eq!(sizes, [4, 4, 2]);
    assert_eq!(seen, newest_first);
}

async fn a_last_page_that_is_full_has_no_next(db: TestDb) {
    let app = new_app();
    rows(&db, app, 4).await;
    assert!(page(&db, app, &any(), 3).await.next.is_some());
    assert_eq!(page(&db, app, &any(), 4).await.next, None);
    let empty = page(&db, new_app(), &any(), 4).await;
    assert_eq!((empty.items, empty.next), (vec![], None));
}

async fn rows_of_one_time_are_each_seen_once_while_half_are_resolved(db: TestDb) {
    let app = new_app();
    let stored = db.repo().insert_many(vec![letter(app); 200]).await.unwrap();
    for &id in &stored {
        db.set_created_at(id, ten_oclock()).await;
    }
    let mut request = first(20);
    let mut seen = Vec::new();
    loop {
        let page = db.repo().list(app, &DeadLetterFilter::default(), &request).await.unwrap();
        // Half of what was seen is resolved before the next page: an OFFSET would now skip as many.
        for item in page.items.iter().step_by(2) {
            db.repo().resolve(item.id, "ignored").await.unwrap();
        }
        seen.extend(ids(&page.items));
        let Some(next) = page.next else { break };
        request.after = Some(next);
    }
    assert_eq!(seen.len(), 200);
    assert_eq!(seen.iter().copied().collect::<HashSet<_>>(), stored.into_iter().collect());
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 100);
}

async fn another_apps_rows_are_not_listed(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let own = rows(&db, app, 2).await;
    rows(&db, other, 2).await;
    assert_eq!(matching(&db, app, any()).await, own);
}

async fn closed_rows_are_listed_by_when_they_were_closed_each_once_by_any_page_and_scan(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 9).await;
    // Every row was closed at the time of another one, in another order than they were created.
    let closed_at = |n: usize| ten_oclock() + Duration::days(1) + Duration::minutes((7 * n as i64) % 3);
    for (n, &id) in stored.iter().enumerate().skip(1) {
        db.repo().resolve(id, if n == 8 { "handler_failed" } else { "ignored" }).await.unwrap();
        db.set_resolved_at(id, closed_at(n)).await;
    }
    let mut expected: Vec<_> = (1..8).map(|n| (closed_at(n), stored[n])).collect();
    expected.sort();
    expected.reverse();
    let expected: Vec<_> = expected.into_iter().map(|(_, id)| id).collect();
    let closed = DeadLetterFilter::default().state(DeadLetterState::Closed);
    let orders = closed.clone().source("orders");
    for filter in [closed, orders] {
        for (size, scan) in [(1, None), (2, None), (10, None), (10, Some(2)), (2, Some(3)), (3, Some(1))] {
            let mut request = PageRequest::default().size(size).scan_limit(scan);
            let (mut listed, mut exported) = (Vec::new(), Vec::new());
            loop {
                let page = db.repo().list(app, &filter, &request).await.unwrap();
                listed.extend(page.items.iter().map(|row| row.id));
                let export = db.repo().export(app, &filter, &request).await.unwrap();
                exported.extend(export.items.iter().map(|row| row.id));
                assert_eq!((page.next, page.scanned_back_to), (export.next, export.scanned_back_to));
                let Some(next) = page.next else { break };
                request.after = Some(next);
            }
            assert_eq!(listed, expected, "{size} {scan:?}");
            assert_eq!(exported, expected, "{size} {scan:?}");
        }
    }
    // Times are about the creation, in this listing as well.
    let created = DeadLetterFilter::default()
        .state(DeadLetterState::Closed)
        .created_from(ten_oclock() + Duration::minutes(2))
        .created_before(ten_oclock() + Duration::minutes(4));
    let mut within = matching(&db, app, created).await;
    within.sort();
    assert_eq!(within, stored[2..4]);
}

async fn open_rows_of_both_kinds_are_listed_newest_first_each_once_by_any_page_and_scan(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 9).await;
    for n in [0, 3, 4, 8] {
        db.repo().resolve(stored[n], "handler_failed").await.unwrap();
    }
    db.repo().resolve(stored[6], "ignored").await.unwrap();
    let expected: Vec<_> = [8, 7, 5, 4, 3, 2, 1, 0].map(|n| stored[n]).into();
    let open = DeadLetterFilter::default().state(DeadLetterState::Open);
    let orders = open.clone().source("orders");
    for filter in [open, orders] {
        for (size, scan) in [(1, None), (3, None), (10, None), (10, Some(2)), (2, Some(3)), (3, Some(1))] {
            let mut request = PageRequest::default().size(size).scan_limit(scan);
            let mut listed = Vec::new();
            loop {
                let page = db.repo().list(app, &filter, &request).await.unwrap();
                let export = db.repo().export(app, &filter, &request).await.unwrap();
                assert!(page.items.iter().map(|row| row.id).eq(export.items.iter().map(|row| row.id)));
                assert_eq!((page.next, page.scanned_back_to), (export.next, export.scanned_back_to));
                listed.extend(page.items.iter().map(|row| row.id));
                let Some(next) = page.next else { break };
                request.after = Some(next);
            }
            assert_eq!(listed, expected, "{size} {scan:?}");
        }
    }
}

async fn a_scan_of_handler_failed_letters_examines_no_others(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 6).await;
    for id in &stored[..2] {
        db.repo().resolve(*id, "handler_failed").await.unwrap();
    }
    let failed =
        DeadLetterFilter::default().state(DeadLetterState::Open).resolution(Resolution::HandlerFailed);
    let page = db.repo().list(app, &failed, &first(50).scan_limit(2)).await.unwrap();
    assert_eq!((ids(&page.items), page.scanned_back_to), (vec![stored[1], stored[0]], None));
    let count = db.repo().count(app, &failed, &CountRequest::default().scan_limit(2)).await.unwrap();
    assert_eq!((count.matching.count, count.scanned_back_to), (2, None));
}

async fn oldest_first_is_newest_first_reversed_on_any_page_and_scan(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 12).await;
    for (n, reason) in
        [(0, "ignored"), (4, "handler_failed"), (7, "replayed"), (2, "ignored"), (9, "ignored")]
    {
        db.repo().resolve(stored[n], reason).await.unwrap();
    }
    // Two letters of one time.
    db.set_created_at(stored[5], ten_oclock() + Duration::minutes(6)).await;
    for state in DeadLetterState::ALL.iter().copied() {
        let all = DeadLetterFilter::default().state(state);
        let within = all
            .clone()
            .created_from(ten_oclock() + Duration::minutes(2))
            .created_before(ten_oclock() + Duration::minutes(9));
        for filter in [all.clone(), within, all.op_contains("INS")] {
            let mut expected = ids(&page(&db, app, &filter, 500).await.items);
            expected.reverse();
            for (size, scan) in [(1, None), (3, None), (50, None), (50, Some(2)), (2, Some(3)), (3, Some(1))]
            {
                let mut request = first(size).sort(ListSort::Oldest).scan_limit(scan);
                let mut listed = Vec::new();
                loop {
                    let page = db.repo().list(app, &filter, &request).await.unwrap();
                    let export = db.repo().export(app, &filter, &request).await.unwrap();
                    assert!(page.items.iter().map(|row| row.id).eq(export.items.iter().map(|row| row.id)));
                    assert_eq!((page.next, page.scanned_back_to), (export.next, export.scanned_back_to));
                    listed.extend(ids(&page.items));
                    let Some(next) = page.next else { break };
                    request.after = Some(next);
                }
                assert_eq!(listed, expected, "{filter:?} {size} {scan:?}");
            }
        }
    }
}

async fn most_attempts_come_first_among_the_letters_examined_on_one_page(db: TestDb) {
    let app = new_app();
    // From the oldest letter to the newest.
    let attempts = [9, 1, 4, 2, 4, 3];
    let mut stored = Vec::new();
    for (minute, attempt_count) in (0..).zip(attempts) {
        let id = row_of(&db, NewDeadLetter { attempt_count, ..letter(app) }).await;
        db.set_created_at(id, ten_oclock() + Duration::minutes(minute)).await;
        stored.push(id);
    }
    db.repo().resolve(stored[1], "handler_failed").await.unwrap();
    let list = async |filter: &DeadLetterFilter, request: PageRequest| {
        let request = request.sort(ListSort::MostAttempts);
        let page = db.repo().list(app, filter, &request).await.unwrap();
        assert_eq!(page.next, None);
        (ids(&page.items), page.scanned_back_to)
    };
    let expected = |places: &[usize]| places.iter().map(|&place| stored[place]).collect::<Vec<_>>();
    let minute = |minute| Some(ten_oclock() + Duration::minutes(minute));
    let open = DeadLetterFilter::default();
    for filter in [any(), open.clone(), any().op("insert")] {
        assert_eq!(list(&filter, first(50)).await, (expected(&[0, 4, 2, 5, 3, 1]), None), "{filter:?}");
        assert_eq!(list(&filter, first(2)).await, (expected(&[0, 4]), None), "{filter:?}");
        // The oldest letter is not examined, whether the page is full or not.
        for (size, places) in [(50, &[4, 2, 5, 3][..]), (2, &[4, 2])] {
            let found = list(&filter, first(size).scan_limit(4)).await;
            assert_eq!(found, (expected(places), minute(2)), "{filter:?}");
        }
    }
    let some = any().ids([stored[0], stored[3], stored[4]]);
    assert_eq!(list(&some, first(50).scan_limit(1)).await, (expected(&[0, 4, 3]), None));
    let none = open.source("none");
    assert_eq!(list(&none, first(50).scan_limit(4)).await, (vec![], minute(2)));

    // Other calls have no such order.
    let by_attempts = first(50).sort(ListSort::MostAttempts);
    let export = db.repo().export(app, &any(), &by_attempts).await.unwrap_err();
    let search = PayloadSearch::new("{").page(by_attempts);
    let search = db.repo().search_payloads(app, &search).await.unwrap_err();
    for error in [export, search] {
        assert!(
            matches!(&error, DeadLetterRepoError::InvalidQuery { field, .. } if field == "page.sort"),
            "{error}"
        );
    }
}

async fn a_cursor_belongs_to_one_order(db: TestDb) {
    let app = new_app();
    rows(&db, app, 3).await;
    for sort in [ListSort::Newest, ListSort::Oldest] {
        let next = db.repo().list(app, &any(), &first(1).sort(sort)).await.unwrap().next.unwrap();
        for other in ListSort::ALL.iter().copied().filter(|&other| other != sort) {
            let request = first(1).sort(other).after(next);
            let error = db.repo().list(app, &any(), &request).await.unwrap_err();
            assert!(matches!(error, DeadLetterRepoError::InvalidCursor), "{sort} {other}: {error}");
        }
    }
}

async fn a_state_lists_its_rows(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 5).await;
    for (&id, reason) in stored.iter().zip(["replayed", "ignored", "handled_by_script", "handler_failed"]) {
        db.repo().resolve(id, reason).await.unwrap();
    }
    let state = |state| DeadLetterFilter::default().state(state);
    assert_eq!(matching(&db, app, state(DeadLetterState::Open)).await, stored[3..]);
    assert_eq!(matching(&db, app, state(DeadLetterState::Unresolved)).await, stored[4..]);
    assert_eq!(matching(&db, app, state(DeadLetterState::Closed)).await, stored[..3]);
    assert_eq!(matching(&db, app, state(DeadLetterState::Any)).await, stored);
    for (n, resolution) in
        [Resolution::Replayed, Resolution::Ignored, Resolution::HandledByScript, Resolution::HandlerFailed]
            .into_iter()
            .enumerate()
    {
        let filter = any().resolution(resolution);
        assert_eq!(matching(&db, app, filter).await, [stored[n]]);
    }
}

async fn each_field_filters(db: TestDb) {
    let app = new_app();
    let plain = letter(app);
    let trigger = TriggerId::from(Uuid::new_v4());
    let script = ScriptId::from(Uuid::new_v4());
    let event = Uuid::new_v4();
    let cases = [
        (NewDeadLetter { source: "invoices".into(), ..plain.clone() }, any().source("invoices")),
        (NewDeadLetter { op: "delete".into(), ..plain.clone() }, any().op("delete")),
        (NewDeadLetter { source: "Parcels".into(), ..plain.clone() }, any().source_contains("CEL")),
        (NewDeadLetter { op: "Upsert".into(), ..plain.clone() }, any().op_contains("upS")),
        (NewDeadLetter { trigger_id: Some(trigger), ..plain.clone() }, any().trigger_id(trigger)),
        (NewDeadLetter { script_id: Some(script), ..plain.clone() }, any().script_id(script)),
        (NewDeadLetter { trigger_id: None, ..plain.clone() }, any().trigger_id(IdFilter::None)),
        (NewDeadLetter { script_id: None, ..plain.clone() }, any().script_id(IdFilter::None)),
        (NewDeadLetter { original_event_id: event, ..plain.clone() }, any().original_event_id(event)),
        (
            NewDeadLetter { last_error: "disk 7 is full".into(), ..plain.clone() },
            any().error_contains("7 is"),
        ),
        (
            NewDeadLetter { last_error: "tape 7 is full".into(), ..plain.clone() },
            any().error_signature("tape # is full"),
        ),
    ];
    row_of(&db, plain).await;
    for (letter, filter) in cases {
        let id = row_of(&db, letter).await;
        assert_eq!(matching(&db, app, filter.clone()).await, [id], "{filter:?}");
    }

    let timed = new_app();
    let stored = rows(&db, timed, 4).await;
    let minute = |minute| Some(ten_oclock() + Duration::minutes(minute));
    let from = any().created_from(minute(2));
    assert_eq!(matching(&db, timed, from).await, stored[2..]);
    let before = any().created_before(minute(2));
    assert_eq!(matching(&db, timed, before).await, stored[..2]);
    let both = any().created_from(minute(1)).created_before(minute(2));
    assert_eq!(matching(&db, timed, both).await, stored[1..2]);
}

async fn fields_are_combined(db: TestDb) {
    let app = new_app();
    let a = row_of(&db, NewDeadLetter { source: "a".into(), op: "x".into(), ..letter(app) }).await;
    row_of(&db, NewDeadLetter { source: "a".into(), op: "y".into(), ..letter(app) }).await;
    row_of(&db, NewDeadLetter { source: "b".into(), op: "x".into(), ..letter(app) }).await;
    let filter = DeadLetterFilter::default().source("a").op("x");
    assert_eq!(matching(&db, app, filter).await, [a]);
}

async fn wildcards_are_ordinary_and_only_the_case_of_a_to_z_is_ignored(db: TestDb) {
    let app = new_app();
    let errors =
        ["100% full", "100 is full", "a_b", "aXb", r"C:\temp", "C:/temp", "ÄRGER", "ärger", "it's \"so\""];
    let mut stored = Vec::new();
    for error in errors {
        let texts = (error.into(), error.into(), error.into());
        let (last_error, source, op) = texts;
        stored.push(row_of(&db, NewDeadLetter { last_error, source, op, ..letter(app) }).await);
    }
    for (part, found) in [
        ("%", vec![0]),
        ("_", vec![2]),
        ("\\", vec![4]),
        ("100%", vec![0]),
        ("a_b", vec![2]),
        ("ärg", vec![7]),
        ("ÄRG", vec![6]),
        ("FULL", vec![0, 1]),
        ("A_b", vec![2]),
        (r"c:\TEMP", vec![4]),
        ("it's \"so\"", vec![8]),
        ("", (0..9).collect()),
    ] {
        let expected: Vec<_> = found.into_iter().map(|n| stored[n]).collect();
        for filter in [any().error_contains(part), any().source_contains(part), any().op_contains(part)] {
            assert_eq!(matching(&db, app, filter.clone()).await, expected, "{part:?} {filter:?}");
        }
    }
}

async fn a_nul_in_a_filter_finds_what_was_stored_for_it(db: TestDb) {
    let app = new_app();
    let id =
        row_of(&db, NewDeadLetter { source: "a\0b".into(), last_error: "x\0y".into(), ..letter(app) }).await;
    let filter = any().source("a\0b").error_contains("\0");
    assert_eq!(matching(&db, app, filter).await, [id]);
}

async fn the_largest_and_smallest_times_filter(db: TestDb) {
    use chrono::{DateTime, Utc};
    let app = new_app();
    let stored = rows(&db, app, 2).await;
    let (min, max) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
    let between = |from, before| any().created_from(from).created_before(before);
    assert_eq!(matching(&db, app, between(min, max)).await, stored);
    assert_eq!(matching(&db, app, between(max, max)).await, []);
    assert_eq!(matching(&db, app, between(min, min)).await, []);

    let (first, last) = (time("0001-01-01T00:00:00Z"), time("9999-12-31T23:59:59.999999Z"));
    db.set_created_at(stored[0], first).await;
    db.set_created_at(stored[1], last).await;
    assert_eq!(matching(&db, app, between(min, max)).await, stored);
    assert_eq!(matching(&db, app, between(first, last)).await, stored[..1]);
    assert_eq!(matching(&db, app, between(last, max)).await, stored[1..]);
    assert_eq!(matching(&db, app, between(last + Duration::nanoseconds(1), max)).await, []);
}

async fn bounds_finer_than_a_microsecond_are_exact(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 1).await;
    let after = ten_oclock() + Duration::nanoseconds(1);
    let from = |time| any().created_from(time);
    let before = |time| any().created_before(time);
    assert_eq!(matching(&db, app, from(ten_oclock())).await, stored);
    assert_eq!(matching(&db, app, from(after)).await, []);
    assert_eq!(matching(&db, app, before(ten_oclock())).await, []);
    assert_eq!(matching(&db, app, before(after)).await, stored);
    assert_eq!(matching(&db, app, from(ten_oclock() - Duration::nanoseconds(1))).await, stored);
}

async fn a_page_size_outside_1_to_500_is_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    for size in [0, 501, u32::MAX] {
        let error = repo.list(new_app(), &any(), &first(size)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "`page.size` must be between 1 and 500 (got {})",
                dead_letters::CappedCount::from(u64::from(size))
            )
        );
    }
    assert_eq!(recorded.take(), []);
    repo.list(new_app(), &any(), &first(500)).await.unwrap();
}

async fn a_cursor_is_parsed_from_its_text_which_is_safe_in_a_url(db: TestDb) {
    let app = new_app();
    rows(&db, app, 3).await;
    let next = page(&db, app, &any(), 1).await.next.unwrap();
    let text = next.to_string();
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'), "{text}");
    assert_eq!(text.parse::<Cursor>().unwrap(), next);
    assert_eq!(serde_json::to_value(next).unwrap(), json!(text));
}

async fn a_forged_or_foreign_cursor_is_refused_and_nothing_is_sent(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    rows(&db, app, 3).await;
    let next = page(&db, app, &any(), 1).await.next.unwrap();
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);

    let refused = async |app, filter: &DeadLetterFilter, after| {
        let error = repo.list(app, filter, &PageRequest::default().size(1).after(after)).await.unwrap_err();
        assert!(matches!(error, DeadLetterRepoError::InvalidCursor), "{error}");
    };
    refused(other, &any(), next).await;
    refused(app, &DeadLetterFilter::default(), next).await;
    refused(app, &any().script_id(IdFilter::None), next).await;
    refused(app, &any().created_before(time("2026-03-02T00:00:00Z")), next).await;

    // Each character changed in turn: either it does not parse, or it is refused.
    let text = next.to_string();
    for n in 0..text.len() {
        let mut forged = text.clone();
        let other = if &text[n..=n] == "A" { "B" } else { "A" };
        forged.replace_range(n..=n, other);
        match forged.parse::<Cursor>() {
            Ok(cursor) => refused(app, &any(), cursor).await,
            Err(error) => assert!(matches!(error, DeadLetterRepoError::InvalidCursor), "{error}"),
        }
    }
    for malformed in
        ["", "A", &text[1..], &(text.clone() + "A"), "\u{e9}", "%3D", "////////////////////////////////"]
    {
        assert!(
            matches!(malformed.parse::<Cursor>(), Err(DeadLetterRepoError::InvalidCursor)),
            "{malformed:?}"
        );
    }
    assert_eq!(recorded.take(), []);
}

async fn a_broken_payload_is_listed(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 2).await;
    db.execute("UPDATE dead_letters SET payload = '{broken'").await;
    let page = page(&db, app, &any(), 10).await;
    assert_eq!(ids(&page.items), [stored[1], stored[0]]);
    assert_eq!(page.items[0].payload_bytes, 7);
}

async fn the_listings_of_all_apps_are_merged_into_one_by_a_cursor_of_all_apps(db: TestDb) {
    let apps = [new_app(), new_app(), new_app()];
    let (mut all, mut closed) = (Vec::new(), 0);
    for app in apps {
        // The letters of each app have the same times.
        let ids = rows(&db, app, 4).await;
        db.repo().resolve(ids[1], "ignored").await.unwrap();
        db.repo().resolve(ids[2], "ignored").await.unwrap();
        closed += 2;
        all.extend(ids);
    }
    for (filter, count) in
        [(any(), all.len()), (DeadLetterFilter::default().state(DeadLetterState::Closed), closed)]
    {
        for (size, sort) in (1..=5).flat_map(|size| [(size, ListSort::Newest), (size, ListSort::Oldest)]) {
            let (mut seen, mut after): (Vec<DeadLetterSummary>, Option<Cursor>) = (Vec::new(), None);
            loop {
                let mut letters = Vec::new();
                for app in apps {
                    let after = after.map(|after| after.in_app(app, &filter, sort).unwrap());
                    let request = first(size).sort(sort).after(after);
                    letters.extend(db.repo().list(app, &filter, &request).await.unwrap().items);
                }
                letters.sort_by_key(|letter| (letter.listed_at(&filter), letter.id));
                if sort == ListSort::Newest {
                    letters.reverse();
                }
                letters.truncate(size as usize);
                let Some(last) = letters.last() else { break };
                after = Some(Cursor::of_all_apps(last, &filter, sort));
                seen.extend(letters);
            }
            let mut ids = ids(&seen);
            if sort == ListSort::Newest {
                seen.reverse();
            }
            assert!(seen.is_sorted_by_key(|letter| letter.listed_at(&filter)));
            ids.sort_unstable();
            ids.dedup();
            assert_eq!((seen.len(), ids.len()), (count, count), "{size} a page");
        }
    }
    let of_one_app = page(&db, apps[0], &any(), 1).await.next.unwrap();
    assert!(matches!(
        of_one_app.in_app(apps[0], &any(), ListSort::Newest),
        Err(DeadLetterRepoError::InvalidCursor)
    ));
}
