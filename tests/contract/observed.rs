//! Tests of what an operator sees of a call, and what nobody sees.

use std::{
    cell::{Cell, RefCell},
    io,
    sync::Once,
    time::Duration,
};

use chrono::{DateTime, Utc};
use dead_letters::{
    Attribution, CountRequest, DeadLetterAnnounce, DeadLetterDelete, DeadLetterFilter, DeadLetterRead,
    DeadLetterRepo, DeadLetterResolve, DeadLetterTransfer, GroupRequest, NewDeadLetter, NewGroupRequest,
    PageRequest, PayloadSearch, Resolution,
};
use sea_orm::DbBackend;
use serde_json::json;
use tracing::{Instrument, field::Empty, info_span};
use tracing_subscriber::{filter::dynamic_filter_fn, fmt::format::FmtSpan, prelude::*};

use super::{letter, new_app};
use crate::database::TestDb;

on_every_backend! {
    each_call_opens_a_span_with_its_rows_and_a_database_failure_is_a_warning,
    if_its_span_is_off_a_call_leaves_its_callers_alone,
    no_content_reaches_the_log,
}

thread_local! {
    /// All that `tracing` is told at any level by this thread, which is all but what sqlx's own threads for
    /// SQLite say. None while nobody listens.
    static LOG: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
    /// The name of spans that are filtered out.
    static OFF: Cell<&'static str> = const { Cell::new("") };
}

struct ThisThread;

impl io::Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.get_or_insert_default().extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One subscriber for the process: those of single threads race for what `tracing` remembers of each place.
pub(super) fn listen() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let layer = tracing_subscriber::fmt::layer()
            .with_span_events(FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(|| ThisThread);
        let filter = dynamic_filter_fn(|of, _| LOG.with_borrow(Option::is_some) && of.name() != OFF.get());
        tracing_subscriber::registry().with(layer).with(filter).init();
    });
    LOG.set(Some(Vec::new()));
}

pub(super) fn heard() -> String {
    String::from_utf8(LOG.take().unwrap()).unwrap()
}

async fn each_call_opens_a_span_with_its_rows_and_a_database_failure_is_a_warning(db: TestDb) {
    let app = new_app();
    listen();
    let repo = db.repo();
    let id = repo.insert(letter(app)).await.unwrap();
    repo.insert_many(vec![letter(app); 3]).await.unwrap();
    repo.list_for_app(app, true, 10, 0).await.unwrap();
    repo.gc(Utc::now() - chrono::Duration::days(1), 7).await.unwrap();
    repo.resolve(id, "nonsense").await.unwrap_err();
    repo.reopen(app, id, &Attribution::by("ada")).await.unwrap_err();
    db.execute("DROP TABLE dead_letters").await;
    repo.get(id).await.unwrap_err();
    let text = heard();
    for expected in [
        format!("dead_letters.insert{{app_id={app}}}"),
        "dead_letters.insert_many{letters=3 rows=3}".to_owned(),
        format!("dead_letters.list_for_app{{app_id={app} rows=4}}"),
        " UTC rows=0}".to_owned(),
        format!("DEBUG dead_letters.resolve{{id={id}}}: "),
        format!("DEBUG dead_letters.reopen{{app_id={app} id={id}}}: "),
        format!("WARN dead_letters.get{{id={id}}}: "),
    ] {
        assert!(text.contains(&expected), "{expected} is not in\n{text}");
    }
}

async fn if_its_span_is_off_a_call_leaves_its_callers_alone(db: TestDb) {
    OFF.set("dead_letters.insert_many");
    listen();
    let caller = info_span!("caller", rows = Empty);
    db.repo().insert_many(vec![letter(new_app()); 3]).instrument(caller).await.unwrap();
    let text = heard();
    assert!(text.contains("caller: ") && !text.contains("rows=3"), "{text}");
}

pub(super) const CANARY: &str = "canary-4711";

async fn no_content_reaches_the_log(db: TestDb) {
    let app = new_app();
    // Even where the application has the statements logged.
    let logging = db
        .connect_with(|options| {
            options.sqlx_logging(true).sqlx_logging_level(log::LevelFilter::Trace);
        })
        .await;
    listen();
    let repo = db.repo_over(logging);
    let sent = NewDeadLetter {
        source: CANARY.to_owned(),
        op: CANARY.to_owned(),
        payload: json!({ CANARY: CANARY }),
        last_error: CANARY.to_owned(),
        ..letter(app)
    };
    let by = Attribution::by(CANARY).note(CANARY);
    let filter = DeadLetterFilter::default()
        .source(CANARY)
        .error_contains(CANARY)
        .created_before(DateTime::<Utc>::MAX_UTC);
    let refusals = if db.db.get_database_backend() == DbBackend::Sqlite {
        [
            "SELECT 1",
            "CREATE TRIGGER refuse BEFORE INSERT ON dead_letters BEGIN SELECT RAISE(ABORT, 'canary-4711'); END",
        ]
    } else {
        ["SELECT 1", "ALTER TABLE dead_letters ADD CONSTRAINT refuse CHECK (attempt_count < 0) NOT VALID"]
    };
    for refusal in refusals {
        db.execute(refusal).await;
        // Some of these fail once the database refuses: what counts is what they log.
        let inserted = repo.insert(sent.clone()).await;
        repo.insert_many(vec![sent.clone(); 2]).await.ok();
        repo.list(app, &filter, &PageRequest::default().size(10)).await.unwrap();
        repo.search_payloads(app, &PayloadSearch::new(CANARY).filter(filter.clone())).await.unwrap();
        repo.search_payloads(app, &PayloadSearch::new(CANARY.repeat(100))).await.unwrap_err();
        repo.error_groups(app, &filter, &GroupRequest::default()).await.unwrap();
        let of_search = GroupRequest::default().payload_contains(CANARY);
        repo.error_groups(app, &filter, &of_search).await.unwrap();
        let new = NewGroupRequest::since(DateTime::UNIX_EPOCH);
        repo.new_error_groups(&new).await.unwrap();
        for group in repo.unannounced_groups(&new).await.unwrap().groups {
            let claim = repo.claim_announcement(&group, Duration::ZERO).await.unwrap().unwrap();
            repo.confirm_announcement(&claim).await.unwrap();
        }
        repo.count(app, &filter, &CountRequest::default().cap(10).scan_limit(10)).await.unwrap();
        repo.export(app, &filter, &PageRequest::default()).await.unwrap();
        repo.export(app, &DeadLetterFilter::default(), &PageRequest::default()).await.unwrap();
        if let Ok(id) = inserted {
            repo.get(id).await.unwrap();
            repo.payload_text(app, id, 0..100).await.unwrap();
            repo.replayed_payload_text(app, id, 0..100).await.unwrap();
            repo.error_text(app, id, 0..100).await.unwrap();
            repo.metadata(app, id).await.unwrap();
            repo.resolve_once(app, id, Resolution::Ignored, &by).await.unwrap();
            repo.resolve_once(app, id, Resolution::Ignored, &by).await.unwrap_err();
        }
        repo.resolve_matching(app, &filter, Resolution::Ignored, &by, 1).await.ok();
        repo.erase(app, &[], &by).await.ok();
        repo.delete_matching(app, &filter, &by, 1).await.ok();
    }
    let text = heard();
    assert!(text.contains("DEBUG dead_letters.resolve_once"), "{text}");
    assert!(!text.contains(CANARY), "{text}");
}
