//! A dispatcher that moves an event from its outbox into the store, once the event has used up its retries.
//!
//! ```text
//! cargo run --example bury
//! ```

use std::error::Error;

use async_trait::async_trait;
use chrono::Utc;
use dead_letters::{
    AppId, DeadLetterRepo, DeadLetterRepoError, NewDeadLetter, OnOpen, Take, connect_options,
    migration::Migrator, open,
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, Statement};
use serde_json::Value;
use uuid::Uuid;

const ATTEMPTS: u32 = 3;

/// The service's half of a burial.
struct Outbox;

#[async_trait]
impl Take for Outbox {
    async fn take(
        &self,
        txn: &DatabaseTransaction,
        event_id: Uuid,
    ) -> Result<u64, Box<dyn Error + Send + Sync>> {
        let delete = "DELETE FROM outbox WHERE id = $1";
        let delete = Statement::from_sql_and_values(txn.get_database_backend(), delete, [event_id.into()]);
        Ok(txn.execute_raw(delete).await?.rows_affected())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let repo = open(connect_options("sqlite::memory:"), OnOpen::Migrate, Migrator).await?;
    let (app, event_id, payload) = (AppId::from(Uuid::new_v4()), Uuid::new_v4(), r#"{ "order": 4711 }"#);
    repo.pool().execute_unprepared("CREATE TABLE outbox (id uuid PRIMARY KEY, payload text)").await?;
    let insert = "INSERT INTO outbox (id, payload) VALUES ($1, $2)";
    let insert = Statement::from_sql_and_values(DbBackend::Sqlite, insert, [event_id.into(), payload.into()]);
    repo.pool().execute_raw(insert).await?;

    let first_attempt_at = Utc::now();
    let mut last_error = String::new();
    for attempt in 1..=ATTEMPTS {
        match deliver(payload) {
            Ok(()) => return Ok(()),
            Err(error) => last_error = error,
        }
        println!("attempt {attempt} failed: {last_error}");
    }
    let letter = NewDeadLetter {
        // The outbox's text is stored byte for byte.
        payload_text: Some(payload.to_owned()),
        ..NewDeadLetter::new(app, event_id, "orders", "insert", Value::Null, last_error).attempts(
            ATTEMPTS,
            first_attempt_at,
            Utc::now(),
        )
    };
    let burier = repo.burier(Outbox);
    let id = burier.bury(letter.clone()).await?;
    println!("the event is out of the outbox, and is the dead letter {id}");

    // Another dispatcher had the same event in its hands.
    match burier.bury(letter).await {
        Err(DeadLetterRepoError::EventNotTaken { taken: 0 }) => {
            println!("the second dispatcher was too late")
        }
        other => println!("unexpected: {other:?}"),
    }
    println!("{} letter is in the store", repo.unresolved_count(app).await?);
    Ok(())
}

fn deliver(_payload: &str) -> Result<(), String> {
    Err("smtp: 451 try again later".to_owned())
}
