//! Runs the action of a preview.

use axum::Json;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    access::Access,
    bulk::{self, Outcome, Part, Step},
    input,
    problem::Problem,
};

const LIMIT: u32 = 1_000;

/// The preview to run, and its limit.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunRequest {
    /// The token of the preview or of the previous run. It works once.
    token: String,
    /// The reason, which is stored with each resolution. A reopened letter keeps none.
    #[schema(max_length = 2_000)]
    note: Option<String>,
    /// The maximum number of letters, 1,000 by default. The oldest letters come first.
    #[schema(minimum = 1, maximum = 1_000)]
    limit: Option<u32>,
    /// The most letters a second, for a replay. After its last batch the run waits for up to a second, so that the next run
    /// may follow at once.
    #[schema(minimum = 1, maximum = 1_000)]
    rate: Option<u32>,
}

/// The result of a run.
#[derive(Serialize, ToSchema)]
pub(super) struct RunResult {
    /// Letters that this run changed.
    done: u64,
    /// Letters that this run and the previous runs of the preview changed.
    done_so_far: u64,
    /// Letters whose event the service could not put back in this run. They are still open. The next run skips them.
    failures: Vec<Failure>,
    /// The number of failed letters in this run and the previous runs of the preview.
    failed_so_far: u64,
    /// Letters of the preview that others changed or that were swept. Null while `more` is true, and if the preview's
    /// count was not exact.
    changed_by_others: Option<u64>,
    /// Whether the run skipped letters that another transaction has locked, or that a trigger protects. Run again later.
    skipped_locked: bool,
    /// Whether the next run may change more letters. All runs of a preview change no more letters than it counted.
    more: bool,
    /// Whether letters may match that the preview did not count. Create a new preview for them. If it counts none, narrow
    /// the time range.
    uncounted: bool,
    /// When the first run began, by the database's clock. A letter that failed again was stored at this time or later.
    began: DateTime<Utc>,
    /// The id of the run, which the letters keep until they change again. To list the letters that failed again, use it
    /// as `failed_again_in_run` and `began` as `created_from`. To undo the run, preview `reopened` with it as `run_id`.
    run_id: Uuid,
    /// The problem that stopped this run after it had changed some letters. The letters in `done` stay changed.
    stopped_by: Option<Problem>,
    /// The token for the next run. It is valid for 15 more minutes, and after a replay for as long again as its letters took
    /// to fail, 24 hours at most.
    token: String,
    /// The share of each app.
    apps: Vec<RunOfApp>,
}

/// The result of a run in one app.
#[derive(Serialize, ToSchema)]
pub(super) struct RunOfApp {
    /// The app.
    app_id: Uuid,
    /// The number of letters that the preview counted.
    count: u64,
    /// Letters that this run changed.
    done: u64,
    /// Letters that this run and the previous runs of the preview changed.
    done_so_far: u64,
}

impl From<&Part> for RunOfApp {
    fn from(part: &Part) -> Self {
        Self { app_id: part.app_id.into(), count: part.counted, done: part.done_now, done_so_far: part.done }
    }
}

/// A letter whose event the service could not put back.
#[derive(Serialize, ToSchema)]
pub(super) struct Failure {
    /// The app.
    app_id: Uuid,
    /// The letter.
    id: Uuid,
    /// The service's error message, cut after 500 characters with `…`.
    error: String,
}

impl RunResult {
    fn new(access: &Access, outcome: Outcome) -> Self {
        let token = outcome.token(access);
        let (done, uncounted) = (outcome.done(), outcome.is_uncounted());
        let frozen = outcome.frozen;
        let places = frozen.app_ids();
        let failures = outcome.failures.into_iter().filter_map(|failure| {
            let app_id = *places.get(usize::try_from(failure.app).ok()?)?;
            Some(Failure { app_id: app_id.into(), id: failure.id.into(), error: failure.reason })
        });
        Self {
            done,
            done_so_far: frozen.done(),
            failures: failures.collect(),
            failed_so_far: frozen.failed(),
            changed_by_others: outcome.changed_by_others,
            skipped_locked: outcome.skipped_locked,
            more: outcome.more,
            uncounted,
            began: frozen.began.unwrap_or(frozen.at),
            run_id: frozen.run_id,
            stopped_by: outcome.stopped_by,
            token,
            apps: frozen.apps.iter().map(RunOfApp::from).collect(),
        }
    }
}

/// Resolves, replays, reopens or deletes the letters of a preview
///
/// A run changes batches of letters for at most 10 seconds, app by app. Each batch is atomic and belongs to one app. If the
/// service cannot put back the events of some letters, the batch is split: these letters are the `failures`, and the others
/// are replayed. While `more` is true, run again with the returned token.
#[utoipa::path(
    post,
    path = "/api/bulk/run",
    request_body = RunRequest,
    responses(
        (status = 200, description = "The result of the run.", body = RunResult),
        (
            status = 409,
            description = "The token was used already, or a step of the run is under way. Nothing was changed.",
            body = Problem,
            content_type = "application/problem+json"
        ),
        (
            status = 410,
            description = "The token has expired, or belongs to another operator. Create a new preview.",
            body = Problem,
            content_type = "application/problem+json"
        ),
    )
)]
pub(super) async fn run(
    access: Access,
    input::Json(request): input::Json<RunRequest>,
) -> Result<Json<RunResult>, Problem> {
    let limit = Some(request.limit.unwrap_or(LIMIT));
    let step = Step { note: request.note, limit, rate: request.rate };
    let frozen = bulk::open(&access, &request.token)?;
    let outcome = bulk::run(&access, frozen, step, Utc::now()).await?;
    Ok(Json(RunResult::new(&access, outcome)))
}
