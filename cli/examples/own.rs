//! A service's own tool: the same commands, and `replay`.

use std::{env::args_os, error::Error, process::ExitCode};

use async_trait::async_trait;
use dead_letters::{Requeue, StoredLetter};
use dead_letters_cli::Cli;
use sea_orm::DatabaseTransaction;

fn main() -> ExitCode {
    Cli::new().requeue(Outbox).run(args_os()).into()
}

/// Says which events are back, where a service has an INSERT into its outbox.
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
