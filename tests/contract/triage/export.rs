use dead_letters::{
    DeadLetterFilter, DeadLetterRead, DeadLetterRepo, DeadLetterResolve, DeadLetterTransfer, PageRequest,
    Resolution, StoredLetter,
};
use sea_orm::DbBackend;

use super::{any, letter, new_app, row_of, rows, seen};
use crate::database::TestDb;

on_every_backend! {
    a_page_that_is_read_by_ids_keeps_the_state_that_the_filter_has_without_them,
    a_row_comes_as_it_is_stored,
    pages_are_those_of_the_list,
    a_page_ends_at_16_mb_of_payload_with_at_least_one_row,
    a_page_size_outside_1_to_1_000_is_refused_and_nothing_is_sent,
}

async fn a_row_comes_as_it_is_stored(db: TestDb) {
    let app = new_app();
    let sent = letter(app);
    let id = row_of(&db, sent.clone()).await;
    // Neither text would come through a `Value` as it is.
    for payload in [r#"{"b":1.10,"a":18446744073709551616,"a":1}"#, "{broken"] {
        db.execute(&format!("UPDATE dead_letters SET payload = '{payload}'")).await;
        let page = db.repo().export(app, &any(), &PageRequest::default()).await.unwrap();
        assert_eq!(page.items[0].payload, payload);
    }
    let row = db.repo().resolve_once(app, id, Resolution::Ignored, &seen()).await.unwrap();
    let page = db.repo().export(app, &any(), &PageRequest::default()).await.unwrap();
    let expected = StoredLetter {
        id,
        app_id: app,
        original_event_id: sent.original_event_id,
        source: sent.source,
        op: sent.op,
        trigger_id: sent.trigger_id,
        script_id: sent.script_id,
        payload: "{broken".to_owned(),
        payload_kind: Some("json".to_owned()),
        replayed_payload: None,
        original_payload: None,
        metadata: None,
        attempt_count: 5,
        first_attempt_at: sent.first_attempt_at,
        last_attempt_at: sent.last_attempt_at,
        last_error: sent.last_error,
        created_at: row.created_at,
        resolved_at: row.resolved_at,
        resolution: Some("ignored".to_owned()),
        resolved_by: Some("ada".to_owned()),
        resolution_note: Some("seen".to_owned()),
        error_signature: "smtp: 451 try again later".to_owned(),
        signature_version: 2,
        run_id: None,
        erased_at: None,
    };
    assert_eq!((page.items, page.next, page.scanned_back_to), (vec![expected], None, None));
}

async fn pages_are_those_of_the_list(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let stored = rows(&db, app, 7).await;
    rows(&db, other, 2).await;
    db.repo().resolve(stored[3], "ignored").await.unwrap();
    let filter = DeadLetterFilter::default();
    let mut request = PageRequest::default().size(2);
    loop {
        let listed = db.repo().list(app, &filter, &request).await.unwrap();
        let exported = db.repo().export(app, &filter, &request).await.unwrap();
        assert!(listed.items.iter().map(|row| row.id).eq(exported.items.iter().map(|row| row.id)));
        assert_eq!(listed.next, exported.next);
        let Some(next) = listed.next else { break };
        request.after = Some(next);
    }
}

async fn a_page_ends_at_16_mb_of_payload_with_at_least_one_row(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 5).await;
    for (&id, mb) in stored.iter().zip([1, 8, 7, 20, 9]) {
        let bytes = mb << 20;
        let text = match db.db.get_database_backend() {
            DbBackend::Sqlite => format!("printf('%.*c', {bytes}, 'x')"),
            _ => format!("repeat('x', {bytes})"),
        };
        let id = id.into_inner().simple();
        let id = match db.db.get_database_backend() {
            DbBackend::Sqlite => format!("x'{id}'"),
            _ => format!("'{id}'"),
        };
        db.execute(&format!("UPDATE dead_letters SET payload = {text} WHERE id = {id}")).await;
    }
    let mut request = PageRequest::default();
    let mut pages = Vec::new();
    loop {
        let page = db.repo().export(app, &any(), &request).await.unwrap();
        pages.push(page.items.iter().map(|row| row.payload.len() >> 20).collect::<Vec<_>>());
        assert_eq!(page.scanned_back_to, None);
        let Some(next) = page.next else { break };
        request.after = Some(next);
    }
    assert_eq!(pages, [vec![9], vec![20], vec![7, 8], vec![1]]);
}

async fn a_page_size_outside_1_to_1_000_is_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    for (size, got) in [(0, "0"), (1_001, "1,001")] {
        let page = PageRequest::default().size(size);
        let error = repo.export(new_app(), &any(), &page).await.unwrap_err();
        assert_eq!(error.to_string(), format!("`page.size` must be between 1 and 1,000 (got {got})"));
    }
    assert_eq!(recorded.take(), []);
}

async fn a_page_that_is_read_by_ids_keeps_the_state_that_the_filter_has_without_them(db: TestDb) {
    let app = new_app();
    rows(&db, app, 1).await;
    let (recording, recorded) = db.connect_recorded().await;
    let orders = DeadLetterFilter::default().source("orders");
    let page = db.repo_over(recording).export(app, &orders, &PageRequest::default()).await.unwrap();
    assert_eq!(page.items.len(), 1);
    let by_ids = recorded.take().pop().unwrap().sql;
    assert!(by_ids.split_once("WHERE").unwrap().1.contains("resolution"), "{by_ids}");
}
