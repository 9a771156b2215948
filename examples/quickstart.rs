//! The first steps: store letters, find them, group them, resolve one.
//!
//! ```text
//! cargo run --example quickstart
//! ```

use std::error::Error;

use dead_letters::{
    AppId, Attribution, DeadLetterFilter, DeadLetterRead, DeadLetterRepo, DeadLetterResolve, GroupRequest,
    NewDeadLetter, OnOpen, PageRequest, Resolution, connect_options, migration::Migrator, open,
};
use serde_json::json;
use uuid::Uuid;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A service passes its own URL, such as `postgres://orders@db.example/orders`.
    let repo = open(connect_options("sqlite::memory:"), OnOpen::Migrate, Migrator).await?;

    let app = AppId::from(Uuid::new_v4());
    for order in [17, 4711, 8812] {
        let (payload, error) = (json!({ "order": order }), format!("no stock for order {order}"));
        repo.insert(NewDeadLetter::new(app, Uuid::new_v4(), "orders", "insert", payload, error)).await?;
    }
    println!("{} letters are unresolved", repo.unresolved_count(app).await?);

    let orders = DeadLetterFilter::default().source("orders");
    for group in repo.error_groups(app, &orders, &GroupRequest::default()).await?.groups {
        println!("{} letters have the error {:?}", group.count, group.error_signature);
    }

    let newest = repo.list(app, &orders, &PageRequest::default().size(1)).await?.items.remove(0);
    println!("the newest one says {:?}", newest.error_excerpt);
    let sold_out = Attribution::by("ada").note("sold out");
    repo.resolve_once(app, newest.id, Resolution::Ignored, &sold_out).await?;
    println!("Ada ignored it, and {} are left", repo.unresolved_count(app).await?);
    Ok(())
}
