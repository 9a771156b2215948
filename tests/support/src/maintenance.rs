//! Creates and drops PostgreSQL databases.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        LazyLock,
        mpsc::{self, Sender},
    },
    thread,
};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DbErr};
use tokio::runtime::Builder;
use url::Url;

use crate::Error;

/// A server, a statement, and where its outcome goes.
type Job = (Url, String, Sender<Result<(), DbErr>>);

/// Executes a statement on a server. Blocks the calling thread until the statement is done.
///
/// One thread executes the statements of all tests on one connection per server. A test could not share its own
/// connection, because a connection belongs to the runtime that opened it.
pub(crate) fn execute(server: &Url, sql: String) -> Result<(), Error> {
    static JOBS: LazyLock<Sender<Job>> = LazyLock::new(|| {
        let (jobs, queue) = mpsc::channel();
        thread::spawn(|| run(queue));
        jobs
    });
    let (outcome, executed) = mpsc::channel();
    JOBS.send((server.clone(), sql, outcome))?;
    Ok(executed.recv()??)
}

fn run(jobs: impl IntoIterator<Item = Job>) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut pools = HashMap::new();
    for (server, sql, outcome) in jobs {
        let executed = runtime.block_on(async {
            let pool = match pools.entry(server) {
                Entry::Occupied(pool) => pool.into_mut(),
                Entry::Vacant(pool) => {
                    let options = ConnectOptions::new(pool.key().as_str()).max_connections(1).to_owned();
                    pool.insert(Database::connect(options).await?)
                }
            };
            pool.execute_unprepared(&sql).await
        });
        outcome.send(executed.map(|_| ())).ok();
    }
}
