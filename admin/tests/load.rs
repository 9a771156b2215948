//! A short run of `examples/load`, with a fixed seed.

use std::time::Duration;

use crate::{ledger, support::World};

async fn is_clean(world: World) {
    let tally = ledger::run(world.repo.clone(), Duration::from_secs(3), 7).await.unwrap();
    assert_eq!(tally.contradictions, [""; 0], "{tally:?}");
    assert!(tally.replays > 0 && tally.hung_up > 0, "{tally:?}");
    assert!(tally.answers[&200] > 0 && tally.answers[&409] > 0, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_response_contradicts_the_store_or_the_outbox_on_sqlite() {
    is_clean(World::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_response_contradicts_the_store_or_the_outbox_on_postgres() {
    is_clean(World::postgres().await).await;
}
