//! Many tasks insert at once: their letters go out in batches, and each task gets the id or error of its own letter.
//!
//! ```text
//! cargo run --example coalesce
//! ```

use std::{error::Error, sync::Arc};

use dead_letters::{
    AppId, CoalescingDeadLetterRepo, DeadLetterRepo, DeadLetterRepoError, NewDeadLetter, testing,
};
use serde_json::json;
use tokio::{runtime::Handle, task::JoinSet};
use uuid::Uuid;

const TASKS: usize = 200;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let inner = testing::store().await?.max_payload_bytes(1_000);
    let repo = Arc::new(CoalescingDeadLetterRepo::new(inner.clone(), &Handle::current()));
    let app = AppId::from(Uuid::new_v4());

    let mut tasks = JoinSet::new();
    for number in 0..TASKS {
        // One payload is over the cap.
        let text = "x".repeat(if number == 100 { 2_000 } else { 10 });
        let letter = NewDeadLetter { payload: json!({ "text": text }), ..testing::letter(app) };
        let repo = repo.clone();
        tasks.spawn(async move { repo.insert(letter).await });
    }
    let mut stored = 0;
    while let Some(outcome) = tasks.join_next().await {
        match outcome? {
            Ok(_) => stored += 1,
            Err(error @ DeadLetterRepoError::PayloadTooLarge { .. }) => println!("one task failed: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    println!("{stored} of {TASKS} tasks stored their letter");

    // First the letters that wait, and then the pool.
    repo.shut_down().await;
    println!("{} letters are in the store", inner.unresolved_count(app).await?);
    Ok(inner.pool().clone().close().await?)
}
