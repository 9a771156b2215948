//! See [`ledger`].

use std::{error::Error, time::Duration};

use dead_letters::{OnOpen, connect_options, migration::Migrator, open};
use dead_letters_test_postgres::TestDatabase;

mod ledger;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let seconds = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => 60,
        ["--seconds", seconds] => seconds.parse()?,
        _ => return Err("usage: load [--seconds SECONDS]".into()),
    };
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let folder = tempfile::TempDir::new()?;
    let database = TestDatabase::create().await?;
    let file = format!("sqlite://{}?mode=rwc", folder.path().join("load.sqlite").display());
    let mut is_clean = true;
    for (name, url) in [("SQLite", file.as_str()), ("PostgreSQL", database.url())] {
        let repo = open(connect_options(url), OnOpen::Migrate, Migrator).await?;
        // Half of the time each.
        let tally = ledger::run(repo, Duration::from_millis(seconds * 500), seed).await?;
        println!("{name}, seed {seed}: {tally:#?}");
        is_clean &= tally.contradictions.is_empty();
    }
    if is_clean { Ok(()) } else { Err("contradictions were found".into()) }
}
