//! The health check of the served admin.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    http::{StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse, Response},
};
use dead_letters::{SeaOrmDeadLetterRepo, migration::sea_orm_migration::MigratorTraitSelf};
use dead_letters_admin::VIEW_TIMEOUT;
use tokio::{sync::Mutex, time::timeout};

use crate::database::Opened;

/// How long a response may take. It includes the wait for a check that runs already.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an outcome is returned again. Clients need no token, so their number must not decide how often the
/// database is asked.
const FRESH: Duration = Duration::from_secs(1);

/// The reasons are constants: a client without a token must not see names, and an error may hold them.
type Outcome = Result<(), &'static str>;

const LATE: &str = "the database did not respond within 3 seconds";

/// Checks that the database can be reached and that its schema is current.
pub(crate) struct Health<M> {
    repo: SeaOrmDeadLetterRepo,
    database: Opened,
    migrator: M,
    /// Locked during a check, which therefore uses one connection of the pool at most.
    last: Arc<Mutex<Option<(Instant, Outcome)>>>,
}

impl<M: MigratorTraitSelf + 'static> Health<M> {
    pub(crate) fn new(repo: SeaOrmDeadLetterRepo, database: Opened, migrator: M) -> Self {
        Self { repo, database, migrator, last: Arc::default() }
    }

    /// Returns 200 and `ok`, or 503 and the reason.
    pub(crate) async fn response(self: Arc<Self>) -> Response {
        let outcome = timeout(PATIENCE, self.outcome()).await;
        let (status, text) = match outcome.unwrap_or(Err(LATE)) {
            Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        };
        (status, [(CACHE_CONTROL, "no-store")], text).into_response()
    }

    async fn outcome(self: Arc<Self>) -> Outcome {
        let mut last = self.last.clone().lock_owned().await;
        if let Some((at, outcome)) = *last
            && at.elapsed() < FRESH
        {
            return outcome;
        }
        // A statement continues on its connection after the response. A task of its own keeps the lock until then.
        let check = tokio::spawn(async move {
            let outcome = timeout(VIEW_TIMEOUT, self.check()).await.unwrap_or(Err(LATE));
            *last = Some((Instant::now(), outcome));
            outcome
        });
        check.await.unwrap_or(Err("internal error"))
    }

    async fn check(&self) -> Outcome {
        match self.repo.check_ready().await {
            Ok(()) => {}
            Err(error) if error.is_transient() => return Err("the database is unreachable"),
            Err(_) => return Err("the dead_letters table cannot be read"),
        }
        match self.database.status(&self.migrator).await {
            Ok(status) if status.pending.is_empty() => Ok(()),
            _ => Err("the schema is not current; see: dead-letters migrate status"),
        }
    }
}
