//! What `sea-orm-cli migrate -d migration` runs.

use sea_orm_migration::prelude::*;

#[tokio::main]
async fn main() {
    cli::run_cli(dead_letters_migration::Migrator).await;
}
