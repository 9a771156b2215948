//! How a service tests its own code with `testing`: a store in memory, and one that fails or hangs on demand.
//!
//! ```text
//! cargo run --example fakes
//! ```

use std::{error::Error, sync::Arc, time::Duration};

use dead_letters::{
    AppId, DeadLetterRepo, DeadLetterRepoError, NewDeadLetter,
    testing::{self, Call, FailingStore},
};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// The code under test: it tries again after a transient error, three times at most.
async fn store(repo: &dyn DeadLetterRepo, letter: NewDeadLetter) -> Result<u32, DeadLetterRepoError> {
    let mut tries = 1;
    loop {
        match repo.insert(letter.clone()).await {
            Ok(_) => return Ok(tries),
            Err(error) if error.is_transient() && tries < 3 => sleep(Duration::from_millis(1)).await,
            Err(error) => return Err(error),
        }
        tries += 1;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let fake = Arc::new(FailingStore::new(testing::store().await?));
    let app = AppId::from(Uuid::new_v4());

    println!("without failures: {} try", store(&fake, testing::letter(app)).await?);

    fake.fail(Call::Insert, ..2, testing::transient());
    println!("after two transient errors: {} tries", store(&fake, testing::letter(app)).await?);

    fake.fail(Call::Insert, .., testing::internal());
    if let Err(error) = store(&fake, testing::letter(app)).await {
        println!("after an internal error it gives up: {error}");
    }

    fake.hang(Call::Insert, ..);
    let hanging = timeout(Duration::from_millis(50), store(&fake, testing::letter(app))).await;
    println!("while the database hangs, the call ends with its timeout: {}", hanging.is_err());

    fake.recover();
    println!("after the database is back: {} try", store(&fake, testing::letter(app)).await?);
    println!("{} letters are in the store", fake.unresolved_count(app).await?);
    Ok(())
}
