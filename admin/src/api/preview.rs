//! The preview of a bulk run.

use axum::Json;
use chrono::{DateTime, Utc};
use dead_letters::DeadLetterFilter;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    filter::{Filter, check_lengths},
    model::{Capped, Letter},
};
use crate::{
    access::Access,
    bulk::{self, Action},
    input::{self, AppPath},
    problem::Problem,
};

/// The action of a bulk run, and the letters to change.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviewRequest {
    action: Action,
    /// The letters to change. An empty filter selects every open letter, or every closed one to reopen. The state
    /// `any` selects the same letters. To delete letters the filter must name a field; `any` then selects letters in any
    /// state.
    #[schema(value_type = Filter)]
    filter: DeadLetterFilter,
}

/// The letters that a run would change. Nothing is changed yet.
#[derive(Serialize, ToSchema)]
pub(super) struct Preview {
    /// The token for the run. It is valid for this operator, app, action and filter only.
    token: String,
    /// The number of letters. The count is capped at 100,000.
    count: u64,
    /// Whether more letters than `count` may match.
    capped: bool,
    /// The run does not change letters that are stored, or closed, at this time or later.
    cutoff: DateTime<Utc>,
    /// Letters that match but whose time is ahead of the database's clock by a minute or more. The run does not change
    /// them: resolve them by their ids, or with a later `created_before`. The count is capped at 1,000.
    ahead: Capped,
    /// Letters that match but whose payload is truncated or erased. The service does not replay them. The count is
    /// capped at 1,000.
    truncated: Capped,
    /// The newest letters, at most 10.
    sample: Vec<Letter>,
    /// When the token expires.
    expires_at: DateTime<Utc>,
}

/// Counts the letters that a bulk run would resolve, replay, reopen or delete
///
/// The run does not change letters that fail, or are closed, after the preview. To undo a run, reopen the letters with
/// its `run_id`. If replayed letters match, `filter.resolution` must say what to reopen, because their events are back in
/// the outbox.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/bulk/preview",
    params(("dead_letters_app" = Uuid, Path, description = "The app.")),
    request_body = PreviewRequest,
    responses((status = 200, description = "The letters that a run would change.", body = Preview))
)]
pub(super) async fn preview(
    access: Access,
    AppPath(app_id): AppPath,
    input::Json(request): input::Json<PreviewRequest>,
) -> Result<Json<Preview>, Problem> {
    let access = access.app(app_id)?;
    check_lengths(&request.filter)?;
    let preview = bulk::preview(&access, request.action, request.filter, Utc::now()).await?;
    Ok(Json(Preview {
        token: preview.token,
        count: preview.count,
        capped: preview.capped,
        cutoff: preview.cutoff,
        ahead: preview.ahead.into(),
        truncated: preview.truncated.into(),
        sample: Letter::all(&access, preview.sample).await?,
        expires_at: preview.expires_at,
    }))
}
