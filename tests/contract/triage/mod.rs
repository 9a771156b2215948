//! Tests of each promise of `DeadLetterRead`, `DeadLetterResolve`, `DeadLetterTransfer` and `DeadLetterReplay`, line
//! by line, on every backend.

use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    AppId, Attribution, Buckets, Changed, CountRequest, DeadLetterFilter, DeadLetterId, DeadLetterRead,
    DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, DeadLetterState, DeadLetterTransfer,
    GroupRequest, NewDeadLetter, PageRequest, Resolution, TimelineRequest,
};
use sea_orm::ConnectionTrait;

use super::{letter, new_app, reopen_replayed, time};
use crate::database::TestDb;

mod backlogs;
mod bulk;
mod count;
mod counts;
mod crossed;
mod delete;
mod details;
mod export;
mod groups;
mod ids;
mod list;
mod metadata;
mod new_groups;
mod reopen;
mod replay;
mod replay_parts;
mod replayed;
mod resolve;
mod scan;
mod search;
mod signatures;
mod states;
mod timeline;
mod version;

pub(super) fn ten_oclock() -> DateTime<Utc> {
    time("2026-03-01T10:00:00Z")
}

/// Rows of one app, each a minute younger than the one before it, from ten o'clock on.
pub(super) async fn rows(db: &TestDb, app: AppId, count: usize) -> Vec<DeadLetterId> {
    let ids = db.repo().insert_many(vec![letter(app); count]).await.unwrap();
    for (minute, &id) in (0..).zip(&ids) {
        db.set_created_at(id, ten_oclock() + Duration::minutes(minute)).await;
    }
    ids
}

async fn row_of(db: &TestDb, letter: NewDeadLetter) -> DeadLetterId {
    db.repo().insert(letter).await.unwrap()
}

fn seen() -> Attribution {
    Attribution::by("ada").note("seen")
}

fn resolved(ids: &[DeadLetterId], more: bool, skipped_locked: bool) -> Changed {
    let mut resolved = Changed::default();
    (resolved.ids, resolved.more, resolved.skipped_locked) = (ids.to_vec(), more, skipped_locked);
    resolved
}

fn any() -> DeadLetterFilter {
    DeadLetterFilter::default().state(DeadLetterState::Any)
}

/// Checks that each call refuses the filter with this message, and sends nothing.
async fn refused_in_every_call(db: &TestDb, filter: &DeadLetterFilter, message: &str) {
    let (recording, recorded) = db.connect_recorded().await;
    let (repo, app) = (db.repo_over(recording), new_app());
    let page = PageRequest::default().scan_limit(10);
    let time = Buckets::new(ten_oclock()..ten_oclock(), 1);
    let groups = GroupRequest::default().scan_limit(10);
    let replayed: Result<_, DeadLetterRepoError> = repo
        .replay_matching_with(app, filter, &Attribution::default(), 1, async |_, _| panic!("enqueued"))
        .await;
    for error in [
        repo.list(app, filter, &page).await.unwrap_err(),
        repo.export(app, filter, &page).await.unwrap_err(),
        repo.count(app, filter, &CountRequest::default().cap(1).scan_limit(10)).await.unwrap_err(),
        repo.timeline(app, filter, &TimelineRequest::from(time).scan_limit(10)).await.unwrap_err(),
        repo.error_groups(app, filter, &groups).await.unwrap_err(),
        repo.resolve_matching(app, filter, Resolution::Ignored, &seen(), 1).await.unwrap_err(),
        replayed.unwrap_err(),
    ] {
        assert_eq!(error.to_string(), message);
    }
    assert_eq!(recorded.take(), []);
}

/// An outbox whose rows name the letters that were put back.
async fn create_outbox(db: &TestDb) {
    db.execute("CREATE TABLE outbox (letter text NOT NULL)").await;
}

async fn enqueue(txn: &impl ConnectionTrait, id: DeadLetterId) -> Result<(), sea_orm::DbErr> {
    txn.execute_unprepared(&format!("INSERT INTO outbox VALUES ('{id}')")).await.map(drop)
}

async fn enqueued(db: &TestDb) -> Vec<String> {
    let select = sea_orm::Statement::from_string(
        db.db.get_database_backend(),
        "SELECT letter FROM outbox ORDER BY letter",
    );
    let rows = db.db.query_all_raw(select).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}
