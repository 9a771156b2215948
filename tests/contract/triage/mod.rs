//! Tests of each promise of `DeadLetterRead`, `DeadLetterResolve`, `DeadLetterTransfer` and `DeadLetterReplay`, line
//! by line, on every backend.

use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    AppId, Attribution, Changed, DeadLetterFilter, DeadLetterId, DeadLetterRepo, DeadLetterState,
    NewDeadLetter,
};
use sea_orm::ConnectionTrait;

use super::{letter, new_app, time};
use crate::database::TestDb;

mod backlogs;
mod bulk;
mod count;
mod counts;
mod crossed;
mod details;
mod export;
mod groups;
mod ids;
mod list;
mod reopen;
mod replay;
mod replay_parts;
mod replayed;
mod resolve;
mod scan;
mod signatures;
mod states;
mod timeline;

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
