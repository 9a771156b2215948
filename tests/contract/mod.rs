//! What the trait promises, line by line, on every backend.

use chrono::{DateTime, Duration, Utc};
use dead_letters::{AppId, NewDeadLetter, ScriptId, TriggerId};
use serde_json::json;
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
    };
}

mod archive;
mod bury;
mod coalesce;
mod errors;
mod gc;
mod hostile;
pub(crate) mod import;
mod insert;
mod insert_many;
mod list;
mod observed;
mod query;
mod races;
mod resolve;
pub(crate) mod retention;
mod store;
mod sweeper;
mod transaction;
mod triage;
mod types;

fn new_app() -> AppId {
    Uuid::new_v4().into()
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// A letter in which no two fields are alike.
fn letter(app_id: AppId) -> NewDeadLetter {
    let first_attempt_at = time("2026-03-01T10:00:00.123456Z");
    NewDeadLetter {
        app_id,
        original_event_id: Uuid::new_v4(),
        source: "orders".to_owned(),
        op: "insert".to_owned(),
        trigger_id: Some(TriggerId::from(Uuid::new_v4())),
        script_id: Some(ScriptId::from(Uuid::new_v4())),
        payload: json!({ "order": 4711, "total": 12.5, "lines": [{ "sku": "A-1", "gift": null }] }),
        attempt_count: 5,
        first_attempt_at,
        last_attempt_at: first_attempt_at + Duration::minutes(31),
        last_error: "smtp: 451 try again later".to_owned(),
    }
}
