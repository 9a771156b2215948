use chrono::{Duration, Utc};
use dead_letters::{
    Attribution, DeadLetterFilter, DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, Resolution,
};
use sea_orm::Value;
use uuid::Uuid;

use super::{letter, new_app};
use crate::database::TestDb;

on_every_backend! {
    each_reason_sets_its_resolution_and_the_time,
    nothing_else_of_the_row_changes,
    only_that_row_is_resolved,
    resolving_again_replaces_resolution_and_time,
    resolving_again_forgets_who_resolved_it_and_why,
    a_row_whose_handler_failed_may_be_replayed,
    the_time_is_the_databases_and_none_is_sent,
    an_unknown_id_is_not_found,
    a_reason_that_is_none_of_the_four_never_reaches_the_database,
}

async fn each_reason_sets_its_resolution_and_the_time(db: TestDb) {
    for resolution in
        [Resolution::Replayed, Resolution::Ignored, Resolution::HandledByScript, Resolution::HandlerFailed]
    {
        let id = db.repo().insert(letter(new_app())).await.unwrap();
        // SQLite's clock goes by milliseconds.
        let before = Utc::now() - Duration::milliseconds(1);
        db.repo().resolve(id, resolution.as_str()).await.unwrap();
        let row = db.repo().get(id).await.unwrap().unwrap();
        assert_eq!(row.resolution, Some(resolution));
        let resolved_at = row.resolved_at.unwrap();
        assert!(before <= resolved_at && resolved_at <= Utc::now(), "{resolved_at}");
    }
}

/// As in every other time of a row: clocks of services differ.
async fn the_time_is_the_databases_and_none_is_sent(db: TestDb) {
    let app = new_app();
    let stored = db.repo().insert_many(vec![letter(app); 3]).await.unwrap();
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    repo.resolve(stored[0], "ignored").await.unwrap();
    repo.resolve_once(app, stored[1], Resolution::Ignored, &Attribution::default()).await.unwrap();
    let these = DeadLetterFilter::default().ids(stored.clone());
    repo.resolve_matching(app, &these, Resolution::Ignored, &Attribution::default(), 3).await.unwrap();
    for statement in recorded.take() {
        let values = statement.values.map(|values| values.0).unwrap_or_default();
        let is_time = |value: &Value| matches!(value, Value::ChronoDateTimeUtc(_));
        assert!(!values.iter().any(is_time), "{}", statement.sql);
    }
    for id in stored {
        let row = db.repo().get(id).await.unwrap().unwrap();
        assert!(row.resolved_at.unwrap() >= row.created_at);
    }
}

async fn nothing_else_of_the_row_changes(db: TestDb) {
    let id = db.repo().insert(letter(new_app())).await.unwrap();
    let before = db.repo().get(id).await.unwrap().unwrap();
    db.repo().resolve(id, "ignored").await.unwrap();
    let mut after = db.repo().get(id).await.unwrap().unwrap();
    assert_ne!(after, before);
    (after.resolution, after.resolved_at) = (None, None);
    assert_eq!(after, before);
}

async fn only_that_row_is_resolved(db: TestDb) {
    let app = new_app();
    let ids = db.repo().insert_many(vec![letter(app); 3]).await.unwrap();
    db.repo().resolve(ids[1], "ignored").await.unwrap();
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 2);
    assert_eq!(db.repo().get(ids[0]).await.unwrap().unwrap().resolution, None);
}

async fn resolving_again_replaces_resolution_and_time(db: TestDb) {
    let id = db.repo().insert(letter(new_app())).await.unwrap();
    db.repo().resolve(id, "ignored").await.unwrap();
    let first = db.repo().get(id).await.unwrap().unwrap();
    db.repo().resolve(id, "replayed").await.unwrap();
    let second = db.repo().get(id).await.unwrap().unwrap();
    assert_eq!(second.resolution, Some(Resolution::Replayed));
    assert!(second.resolved_at >= first.resolved_at);
}

async fn resolving_again_forgets_who_resolved_it_and_why(db: TestDb) {
    let app = new_app();
    let id = db.repo().insert(letter(app)).await.unwrap();
    db.repo().resolve_once(app, id, Resolution::Ignored, &Attribution::by("ada").note("old")).await.unwrap();
    db.repo().resolve(id, "replayed").await.unwrap();
    let row = db.repo().get(id).await.unwrap().unwrap();
    assert_eq!((row.resolved_by, row.resolution_note), (None, None));
}

async fn a_row_whose_handler_failed_may_be_replayed(db: TestDb) {
    let app = new_app();
    let id = db.repo().insert(letter(app)).await.unwrap();
    db.repo().resolve(id, "handler_failed").await.unwrap();
    assert_eq!(db.repo().list_for_app(app, true, 10, 0).await.unwrap(), []);
    assert_eq!(db.repo().list_for_app(app, false, 10, 0).await.unwrap().len(), 1);
    db.repo().resolve(id, "replayed").await.unwrap();
    assert_eq!(db.repo().get(id).await.unwrap().unwrap().resolution, Some(Resolution::Replayed));
}

async fn an_unknown_id_is_not_found(db: TestDb) {
    let known = db.repo().insert(letter(new_app())).await.unwrap();
    let unknown = Uuid::now_v7().into();
    let error = db.repo().resolve(unknown, "ignored").await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::NotFound(id) if id == unknown), "{error}");
    assert_eq!(db.repo().get(known).await.unwrap().unwrap().resolution, None);
}

async fn a_reason_that_is_none_of_the_four_never_reaches_the_database(db: TestDb) {
    let id = db.repo().insert(letter(new_app())).await.unwrap();
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    for reason in ["", "REPLAYED", "replayed ", "handled-by-script", "x'; DROP TABLE dead_letters; --"] {
        let error = repo.resolve(id, reason).await.unwrap_err();
        assert!(
            matches!(&error, DeadLetterRepoError::InvalidResolution(refused) if refused == reason),
            "{error}"
        );
    }
    assert_eq!(recorded.take(), []);
    assert_eq!(db.repo().get(id).await.unwrap().unwrap().resolution, None);
}
