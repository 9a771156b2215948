//! The service's own build of the tool, which can replay.

use std::{env::args_os, error::Error, process::ExitCode};

use async_trait::async_trait;
use dead_letters::{Requeue, StoredLetter};
use dead_letters_cli::Cli;
use sea_orm::DatabaseTransaction;

fn main() -> ExitCode {
    Cli::new().requeue(Outbox).run(args_os()).into()
}

/// Prints the events. A service inserts them into its outbox here.
struct Outbox;

#[async_trait]
impl Requeue for Outbox {
    async fn requeue(
        &self,
        _txn: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        for letter in letters {
            eprintln!("back: {}", letter.original_event_id);
        }
        Ok(())
    }
}
