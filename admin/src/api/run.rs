//! Does what a preview said.

use axum::Json;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    access::Access,
    bulk::{self, Outcome},
    input::{self, AppPath},
    problem::Problem,
};

const LIMIT: u32 = 1_000;

/// Which preview is run, and how much of it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunRequest {
    /// Of the preview, or of the run before.
    token: String,
    /// Why.
    #[schema(max_length = 2_000)]
    note: Option<String>,
    /// Letters at most, the oldest first: 1,000, where it is not said.
    #[schema(minimum = 1, maximum = 1_000)]
    limit: Option<u32>,
}

/// What a run did.
#[derive(Serialize, ToSchema)]
pub(super) struct RunResult {
    /// Letters, by this run.
    done: u64,
    /// Letters, by this run and those before it.
    done_so_far: u64,
    /// Letters that the service could not put back in this run. They are open, and the next run goes on behind them.
    failures: Vec<Failure>,
    /// The number of such letters in this run and those before it.
    failed_so_far: u64,
    /// Letters of the preview that others settled meanwhile, or that were swept. Null as long as there is `more` to
    /// do, and where the preview's count was not exact.
    closed_by_others: Option<u64>,
    /// Whether letters are left that another transaction holds: try again later.
    skipped_locked: bool,
    /// Whether the next run may do more. Runs that go on with each other's token do no more than the preview counted.
    /// A token that is sent twice counts anew.
    more: bool,
    /// Whether letters may match that the preview did not count: make a new preview for them. If it counts none, narrow
    /// the time.
    uncounted: bool,
    /// When the first run began, by the database's clock: what came back was stored from then on.
    began: DateTime<Utc>,
    /// The run. A list with `failed_again_in_run`, and `began` as its `created_from`, has what came back of it.
    run_id: Uuid,
    /// What ended this run after some letters were done. `done` is done nonetheless.
    stopped_by: Option<Problem>,
    /// For the next run: good for 15 minutes more.
    token: String,
}

/// A letter that the service could not put back.
#[derive(Serialize, ToSchema)]
pub(super) struct Failure {
    /// The letter.
    id: Uuid,
    /// What the service said: at most 500 characters of it, then `…`.
    error: String,
}

impl From<Outcome> for RunResult {
    fn from(outcome: Outcome) -> Self {
        Self {
            done: outcome.done,
            done_so_far: outcome.done_so_far,
            failures: outcome
                .failures
                .into_iter()
                .map(|failure| Failure { id: failure.id.into(), error: failure.reason })
                .collect(),
            failed_so_far: outcome.failed_so_far,
            closed_by_others: outcome.closed_by_others,
            skipped_locked: outcome.skipped_locked,
            more: outcome.more,
            uncounted: outcome.uncounted,
            began: outcome.began,
            run_id: outcome.run_id,
            stopped_by: outcome.stopped_by,
            token: outcome.token,
        }
    }
}

/// Settle or replay what a preview counted
///
/// A run goes in batches for ten seconds at most. Each batch is done as a whole or not at all. If the service can't put
/// back some letters of a replay, the batch is split: these letters are the `failures`, and the rest is replayed. To go
/// on, run again with the token of the answer as long as there is `more`.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/bulk/run",
    params(("dead_letters_app" = Uuid, Path, description = "The app.")),
    request_body = RunRequest,
    responses(
        (status = 200, description = "What was done.", body = RunResult),
        (
            status = 410,
            description = "The token is too old, or another operator's or app's: make a new preview.",
            body = Problem,
            content_type = "application/problem+json"
        ),
    )
)]
pub(super) async fn run(
    access: Access,
    AppPath(app_id): AppPath,
    input::Json(request): input::Json<RunRequest>,
) -> Result<Json<RunResult>, Problem> {
    let access = access.app(app_id)?;
    let limit = Some(request.limit.unwrap_or(LIMIT));
    let outcome = bulk::run(&access, &request.token, request.note, limit, Utc::now()).await?;
    Ok(Json(outcome.into()))
}
