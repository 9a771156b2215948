//! Delivers what is in the outbox.

use std::time::Duration;

use dead_letters::{DeadLetterRepoError, NewDeadLetter, SeaOrmDeadLetterRepo};
use sea_orm::{ActiveModelTrait, ActiveValue::Set, EntityTrait, QuerySelect};
use serde_json::Value;
use tokio::time::sleep;

use crate::outbox::event;

const ATTEMPTS: i32 = 3;

/// Runs the effect of an event, or returns why it could not.
pub type Trigger = fn(&event::Model) -> Result<(), String>;

/// For as long as it is polled.
pub async fn run(repo: SeaOrmDeadLetterRepo, trigger: Trigger) {
    loop {
        if let Err(error) = dispatch(&repo, trigger).await {
            eprintln!("{error}");
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// One attempt at each of a hundred events.
pub async fn dispatch(repo: &SeaOrmDeadLetterRepo, trigger: Trigger) -> Result<(), DeadLetterRepoError> {
    for event in event::Entity::find().limit(100).all(repo.pool()).await? {
        match trigger(&event) {
            Ok(()) => {
                event::Entity::delete_by_id(event.id).exec(repo.pool()).await?;
            }
            Err(_) if event.attempts + 1 < ATTEMPTS => {
                let attempts = Set(event.attempts + 1);
                event::ActiveModel { attempts, ..event.into() }.update(repo.pool()).await?;
            }
            Err(error) => bury(repo, event, &error).await?,
        }
    }
    Ok(())
}

async fn bury(
    repo: &SeaOrmDeadLetterRepo,
    event: event::Model,
    error: &str,
) -> Result<(), DeadLetterRepoError> {
    let letter = NewDeadLetter {
        payload_text: Some(event.payload),
        attempt_count: ATTEMPTS as u32,
        ..NewDeadLetter::new(event.app_id.into(), event.id, "orders", "created", Value::Null, error)
    };
    let buried = repo.bury_with(letter, async |txn| {
        Ok(event::Entity::delete_by_id(event.id).exec(txn).await?.rows_affected)
    });
    match buried.await {
        // Another replica was first.
        Err(DeadLetterRepoError::EventNotTaken { taken: 0 }) => Ok(()),
        buried => buried.map(drop),
    }
}
