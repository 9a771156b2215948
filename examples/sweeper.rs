//! A sweeper that archives what is due, and an import that brings a letter back.
//!
//! ```text
//! cargo run --example sweeper
//! ```

use std::{error::Error, sync::Arc, time::Duration};

use chrono::{TimeDelta, Utc};
use dead_letters::{
    AppId, DeadLetterRepo, DeadLetterTransfer, JsonLinesArchive, Retention, RetentionPolicy, SweepEnd,
    Sweeper, testing,
};
use uuid::Uuid;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (repo, folder) = (testing::store().await?, tempfile::tempdir()?);
    let app = AppId::from(Uuid::new_v4());
    let aged = |days| testing::stored_letter(app, Utc::now() - TimeDelta::days(days));
    repo.import(&[aged(120), aged(100), aged(88), aged(1)]).await?;

    let others = Retention::default().delete_closed_after(30 * DAY).delete_all_after(90 * DAY);
    let sweeper = Sweeper::builder(Arc::new(repo.clone()), RetentionPolicy::new(others))
        .archive(Arc::new(JsonLinesArchive::new(folder.path())))
        .build()?;
    let soon = sweeper.due_within(Some(app), Utc::now(), 7 * DAY, 1_000).await?;
    println!("{soon} open letters are due within a week");

    // One tick, as for cron. A service calls `run`, which sweeps until it is told to stop.
    let report = sweeper.sweep_once(Utc::now()).await;
    println!("the tick deleted {} letters in {:?}", report.deleted, report.took);
    if let SweepEnd::Failed(error) = report.end {
        return Err(error.into());
    }
    println!("{} letters are left", repo.unresolved_count(app).await?);

    for archived in JsonLinesArchive::read(folder.path())? {
        let archived = archived?;
        println!("line {} of the archive has a letter of {}", archived.line, archived.letter.created_at);
        // The letter keeps its times, so the next tick would delete it again.
        repo.import(&[archived.letter]).await?;
    }
    println!("after the import there are {} letters", repo.unresolved_count(app).await?);
    Ok(())
}
