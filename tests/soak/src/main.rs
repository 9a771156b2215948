//! Checks whether letters are lost or doubled while everybody works at once and everything breaks.
//!
//! Dispatchers, inserters, admins and sweepers work. A server is killed, connections are cut, and calls are
//! dropped. Transactions commit long after they began, two letters have one event, and a trigger keeps letters
//! from being deleted. A ledger of what was acknowledged is compared with the database at the end.
//!
//! `cargo run --release -p dead-letters-soak -- [--seconds 60] [--backend postgres|sqlite] [--seed N]`
//!
//! It exits with 1 where anything was found.

use std::{
    env,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use dead_letters_test_support::{Error, Server};
use tokio::time::timeout;

mod actors;
mod faults;
mod ledger;
mod store;
mod world;

use store::Store;
use world::World;

/// A longer run is split into rounds of this length, each with an empty database, so that the ledger fits into
/// memory.
const ROUND: Duration = Duration::from_secs(60);
/// At the end of a round, without faults.
const CALM: Duration = Duration::from_secs(2);
/// In which the actors must have come to their end.
const PATIENCE: Duration = Duration::from_secs(60);

struct Arguments {
    seconds: u64,
    postgres: bool,
    sqlite: bool,
    seed: u64,
}

impl Arguments {
    fn parse() -> Result<Self, Error> {
        let mut parsed = Self { seconds: 60, postgres: true, sqlite: true, seed: fastrand::u64(..) };
        let mut arguments = env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} wants a value"))?;
            match (name.as_str(), value.as_str()) {
                ("--seconds", seconds) => parsed.seconds = seconds.parse()?,
                ("--seed", seed) => parsed.seed = seed.parse()?,
                ("--backend", "postgres") => parsed.sqlite = false,
                ("--backend", "sqlite") => parsed.postgres = false,
                _ => return Err(format!("{name} {value} is not known").into()),
            }
        }
        Ok(parsed)
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Error> {
    let arguments = Arguments::parse()?;
    println!("seed {}", arguments.seed);
    let mut found = 0;
    if arguments.postgres {
        found += soak(&arguments, Some(Server::start()?)).await?;
    }
    if arguments.sqlite {
        found += soak(&arguments, None).await?;
    }
    println!("{found} violations");
    Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// On the server, or on SQLite without one. Returns how many violations it found.
async fn soak(arguments: &Arguments, mut server: Option<Server>) -> Result<usize, Error> {
    let mut seeds = fastrand::Rng::with_seed(arguments.seed);
    let mut left = Duration::from_secs(arguments.seconds);
    let mut found = 0;
    while !left.is_zero() {
        let time = left.min(ROUND);
        left -= time;
        let store = match &server {
            Some(server) => Store::on_postgres(server).await?,
            None => Store::on_sqlite().await?,
        };
        found += round(&store, &mut server, time, seeds.fork()).await?;
    }
    Ok(found)
}

async fn round(
    store: &Store,
    server: &mut Option<Server>,
    time: Duration,
    mut seeds: fastrand::Rng,
) -> Result<usize, Error> {
    let world = Arc::new(World::new(store).await?);
    let mut actors = actors::spawn(&world, &mut seeds);
    let until = Instant::now() + time.saturating_sub(CALM);
    match server.take() {
        Some(running) => {
            tokio::spawn(faults::cut_connections(Arc::clone(&world), seeds.fork()));
            *server = Some(faults::kill(running, &world, until, seeds.fork()).await?);
        }
        None => faults::lock(&world, until, seeds.fork()).await?,
    }
    world.calm_down();
    tokio::time::sleep(CALM).await;
    world.stop();
    let mut violations = Vec::new();
    let ended = timeout(PATIENCE, async {
        while let Some(ended) = actors.join_next().await {
            violations.extend(ended.err().map(|error| format!("an actor ended: {error}")));
        }
    });
    if ended.await.is_err() {
        violations.push(format!("{} actors are stuck", actors.len()));
        actors.shutdown().await;
    }
    violations.extend(world.insert_on_every_connection().await);
    violations.extend(world.sweep_the_rest().await);
    world.close().await?;
    let contents = store.contents().await?;
    let ledger = world.ledger();
    violations.extend(ledger.compare(&contents));
    println!("{}: {}s\n{ledger}", store.name(), time.as_secs());
    for violation in &violations {
        println!("  VIOLATION {violation}");
    }
    Ok(violations.len())
}
