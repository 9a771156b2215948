//! See [`ledger`].

use std::{error::Error, time::Duration};

use dead_letters::{OnOpen, connect_options, migration::Migrator, open};
use dead_letters_test_support::TestDatabase;

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
    let mut is_clean = true;
    for (name, database) in
        [("SQLite", TestDatabase::sqlite().await?), ("PostgreSQL", TestDatabase::postgres().await?)]
    {
        let repo = open(connect_options(database.url()), OnOpen::Check, Migrator).await?;
        // Half of the time each.
        let tally = ledger::run(repo, Duration::from_millis(seconds * 500), seed).await?;
        println!("{name}, seed {seed}: {tally:#?}");
        is_clean &= tally.contradictions.is_empty();
    }
    if is_clean { Ok(()) } else { Err("contradictions were found".into()) }
}
