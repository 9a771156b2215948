//! An operator replays letters: each event goes back into the outbox, in the transaction that resolves its letter.
//!
//! ```text
//! cargo run --example replay
//! ```

use std::error::Error;

use async_trait::async_trait;
use dead_letters::{
    AppId, Attribution, DeadLetterFilter, DeadLetterRead, DeadLetterRepo, ReplayRequest, Requeue,
    SeaOrmDeadLetterRepo, StoredLetter, testing,
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Statement};
use uuid::Uuid;

/// The service's half of a replay. It is idempotent: an event that is in the outbox already stays as it is.
struct Outbox;

#[async_trait]
impl Requeue for Outbox {
    async fn requeue(
        &self,
        txn: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        for letter in letters {
            let insert = "INSERT INTO outbox (id, payload) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";
            let event = [letter.original_event_id.into(), letter.payload.as_str().into()];
            txn.execute_raw(Statement::from_sql_and_values(txn.get_database_backend(), insert, event))
                .await?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let repo = testing::store().await?;
    repo.pool().execute_unprepared("CREATE TABLE outbox (id uuid PRIMARY KEY, payload text)").await?;
    let app = AppId::from(Uuid::new_v4());
    let letters: Vec<_> = (0..4).map(|_| testing::letter(app)).collect();
    let events: Vec<_> = letters.iter().map(|letter| letter.original_event_id).collect();
    let ids = repo.insert_many(letters).await?;

    let (replayer, by_ada) = (repo.replayer(Outbox), Attribution::by("ada"));
    replayer.replay(app, ids[0], &by_ada).await?;
    println!("replayed one letter, and {} event is in the outbox", events_of(&repo).await?);
    if let Err(error) = replayer.replay(app, ids[0], &by_ada).await {
        println!("a second replay of it fails: {error}");
    }

    let ticked = DeadLetterFilter::default().ids(ids);
    let mut request = ReplayRequest::default().limit(2);
    loop {
        let replayed = replayer.replay_matching(app, &ticked, &by_ada, &request).await?;
        println!("replayed a batch of {}, and {} failed", replayed.ids.len(), replayed.failed.len());
        if !replayed.more {
            break;
        }
        request.after = replayed.next;
    }
    println!("{} events are in the outbox", events_of(&repo).await?);
    println!("each was replayed {:?} times before", repo.times_replayed(app, &events).await?);
    Ok(())
}

async fn events_of(repo: &SeaOrmDeadLetterRepo) -> Result<i64, DbErr> {
    let count = Statement::from_string(DbBackend::Sqlite, "SELECT count(*) FROM outbox");
    let row = repo.pool().query_one_raw(count).await?;
    row.map_or(Ok(0), |row| row.try_get_by_index(0))
}
