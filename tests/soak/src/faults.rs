//! The faults of a run.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use dead_letters_test_support::{Error, Server};
use sea_orm::{ConnectionTrait, DbBackend};
use tokio::time::{sleep, timeout};

use crate::{store::sql, world::World};

/// Drops the call after some polls or some time, unless it ends before; or lets it be.
pub(crate) async fn drop_sometimes<T>(rng: &mut fastrand::Rng, call: impl Future<Output = T>) -> Option<T> {
    match rng.u8(..8) {
        0 => drop_after_polls(rng.usize(1..30), call).await,
        1 => timeout(Duration::from_micros(rng.u64(..5_000)), call).await.ok(),
        _ => Some(call.await),
    }
}

async fn drop_after_polls<T>(polls: usize, call: impl Future<Output = T>) -> Option<T> {
    let mut call = pin!(call);
    let mut left = polls;
    poll_fn(|context| {
        let polled = call.as_mut().poll(context).map(Some);
        left -= 1;
        if left == 0 && polled.is_pending() { Poll::Ready(None) } else { polled }
    })
    .await
}

/// Ends a random connection again and again.
pub(crate) async fn cut_connections(world: Arc<World>, mut rng: fastrand::Rng) {
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1";
    while !world.is_calm() {
        sleep(Duration::from_millis(rng.u64(20..400))).await;
        // It may be its own that was cut before, or the server be gone.
        if let Ok(cut) = world.side.query_all_raw(sql(DbBackend::Postgres, cut, [])).await {
            world.ledger().cuts += cut.len();
        }
    }
}

/// Kills the server and starts it again, every few seconds.
pub(crate) async fn kill(
    mut server: Server,
    world: &World,
    until: Instant,
    mut rng: fastrand::Rng,
) -> Result<Server, Error> {
    loop {
        let pause = Duration::from_millis(rng.u64(3_000..10_000));
        let left = until.saturating_duration_since(Instant::now());
        sleep(pause.min(left)).await;
        if pause >= left {
            return Ok(server);
        }
        server = tokio::task::spawn_blocking(move || server.kill_and_restart().map(|()| server)).await??;
        world.ledger().kills += 1;
    }
}

/// Holds SQLite's one lock for a while again and again, as another process may.
pub(crate) async fn lock(world: &World, until: Instant, mut rng: fastrand::Rng) -> Result<(), Error> {
    while Instant::now() < until {
        sleep(Duration::from_millis(rng.u64(100..1_000))).await;
        let begin = sea_orm::TransactionOptions {
            sqlite_transaction_mode: Some(sea_orm::SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        if let Ok(txn) = sea_orm::TransactionTrait::begin_with_options(&world.side, begin).await {
            sleep(Duration::from_millis(rng.u64(..700))).await;
            txn.rollback().await?;
            world.ledger().locks += 1;
        }
    }
    Ok(())
}
