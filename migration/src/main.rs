//! The program that `sea-orm-cli migrate -d migration` runs.

use dead_letters_migration::{Locked, Migrator};
use sea_orm_migration::cli;

#[tokio::main]
async fn main() {
    cli::run_cli(Locked(Migrator)).await;
}
