//! Delivers what is in the outbox, and buries what used up its retries.

use std::error::Error;

use chrono::{DateTime, Utc};
use dead_letters::{DeadLetterRepoError, NewDeadLetter, SeaOrmDeadLetterRepo};
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, DatabaseTransaction, EntityTrait, QueryOrder, QuerySelect,
};
use serde_json::{Map, Value};
use tracing::info;
use uuid::Uuid;

use crate::{Result, outbox::event, triggers::Trigger};

pub(crate) const ATTEMPTS: u32 = 5;
/// One attempt at each of a thousand events.
pub(crate) async fn dispatch(repo: &SeaOrmDeadLetterRepo, triggers: &[Trigger]) -> Result<()> {
    let oldest = event::Entity::find().order_by_asc(event::Column::Id).limit(1_000);
    for event in oldest.all(repo.pool()).await? {
        let now = Utc::now();
        let attempts = event.attempts + 1;
        let trigger = Trigger::of(triggers, &event.source, &event.op);
        match trigger
            .map_or_else(|| Err("it sets nothing off".to_owned()), |trigger| trigger.run(&event.payload))
        {
            Ok(()) => {
                event::Entity::delete_by_id(event.id).exec(repo.pool()).await?;
            }
            Err(error) if attempts.unsigned_abs() >= ATTEMPTS => {
                bury(repo, event, trigger, now, error).await?
            }
            Err(_) => {
                let first_attempt_at = Set(event.first_attempt_at.or(Some(now)));
                let failed = event::ActiveModel { attempts: Set(attempts), first_attempt_at, ..event.into() };
                failed.update(repo.pool()).await?;
            }
        }
    }
    Ok(())
}

/// Returns the metadata of an event. A service that is traced has the traceparent of its own span.
pub(crate) fn metadata(event: Uuid) -> Map<String, Value> {
    let fields = [
        ("traceparent", format!("00-{}-00f067aa0ba902b7-01", event.simple())),
        ("release", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
}

/// Out of the outbox and into the store, in one transaction.
async fn bury(
    repo: &SeaOrmDeadLetterRepo,
    event: event::Model,
    trigger: Option<&Trigger>,
    now: DateTime<Utc>,
    error: String,
) -> Result<(), DeadLetterRepoError> {
    info!(event = %event.id, "dead: {}", error.lines().next().unwrap_or_default());
    let letter = NewDeadLetter {
        app_id: event.app_id.into(),
        original_event_id: event.id,
        source: event.source,
        op: event.op,
        trigger_id: trigger.map(|trigger| trigger.id.into()),
        script_id: trigger.map(|trigger| trigger.script_id.into()),
        payload: Value::Null,
        // Byte for byte, whether it is JSON or not.
        payload_text: Some(event.payload),
        attempt_count: ATTEMPTS,
        first_attempt_at: event.first_attempt_at.unwrap_or(now),
        last_attempt_at: now,
        last_error: error,
        error_signature: None,
        metadata: metadata(event.id),
    };
    let taken = async |txn: &DatabaseTransaction| -> Result<u64, Box<dyn Error + Send + Sync>> {
        Ok(event::Entity::delete_by_id(event.id).exec(txn).await?.rows_affected)
    };
    repo.bury_with(letter, taken).await.map(drop)
}
