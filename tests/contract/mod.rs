//! Tests of each promise of the trait, line by line, on every backend.

use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, Attribution, DeadLetterFilter, DeadLetterId, DeadLetterResolve, Imported, ReopenRequest,
    SeaOrmDeadLetterRepo, SweepCursor, Swept, testing::letter,
};
use uuid::Uuid;

/// Runs each named case on a fresh database of every backend.
macro_rules! on_every_backend {
    ($($case:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $case() {
                super::$case(crate::database::TestDb::sqlite().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $case() {
                super::$case(crate::database::TestDb::postgres().await).await;
            })+
        }
        mod postgres_sharded {
            $(#[tokio::test]
            async fn $case() {
                super::$case(crate::database::TestDb::postgres_sharded().await).await;
            })+
        }
    };
}

/// Runs each named case on a table whose key is `(app_id, id)` as well, while the repo is not sharded yet. The key can
/// matter to ON CONFLICT and GROUP BY: the cases are those of inserts and imports, and one that makes every call.
macro_rules! on_every_backend_and_key {
    ($($case:ident),+ $(,)?) => {
        on_every_backend!($($case),+);
        mod postgres_keyed_by_app {
            $(#[tokio::test]
            async fn $case() {
                super::$case(crate::database::TestDb::postgres_keyed_by_app().await).await;
            })+
        }
    };
}

mod actions;
mod announce;
mod archive;
mod bury;
mod coalesce;
mod columns;
mod errors;
mod gc;
mod hostile;
pub(crate) mod import;
mod insert;
mod insert_many;
mod isolation;
mod list;
mod metadata;
mod metrics;
mod observed;
mod odd;
mod payload;
mod query;
mod races;
mod resolve;
pub(crate) mod retention;
mod store;
mod sweeper;
mod transaction;
mod triage;
mod types;
mod watch;

/// Reopens a letter, a replayed one too.
async fn reopen_replayed(repo: &SeaOrmDeadLetterRepo, app: AppId, id: DeadLetterId) {
    let (these, request) =
        (DeadLetterFilter::default().ids([id]), ReopenRequest::default().include_replayed(true));
    let reopened = repo.reopen_matching(app, &these, &Attribution::default(), &request).await.unwrap();
    assert_eq!(reopened.ids, [id]);
}

fn new_app() -> AppId {
    Uuid::new_v4().into()
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub(crate) fn import_of(stored: u64, present: u64) -> Imported {
    let mut imported = Imported::default();
    (imported.stored, imported.present) = (stored, present);
    imported
}

pub(crate) fn sweep_of(picked: u64, deleted: u64, next: Option<SweepCursor>) -> Swept {
    let mut swept = Swept::default();
    (swept.picked, swept.deleted, swept.next) = (picked, deleted, next);
    swept
}
