//! The preview of a bulk run.

use axum::Json;
use chrono::{DateTime, Utc};
use dead_letters::{AppId, DeadLetterFilter};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    filter::{Filter, check_lengths, object},
    model::{Capped, Letter},
};
use crate::{
    access::Access,
    bulk::{self, Action},
    input,
    problem::Problem,
};

/// The action of a bulk run, and the letters to change.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviewRequest {
    /// The apps, 1 to 50, in the order in which the run goes through them.
    #[schema(value_type = Vec<Uuid>, min_items = 1, max_items = 50)]
    apps: Vec<AppId>,
    action: Action,
    /// The letters to change in each app. Ids need exactly one app. An empty filter selects every open letter, or every closed one to reopen. The state
    /// `any` selects the same letters. To delete letters the filter must name a field; `any` then selects letters in any
    /// state.
    #[serde(deserialize_with = "object")]
    #[schema(value_type = Filter)]
    filter: DeadLetterFilter,
}

/// The letters that a run would change. Nothing is changed yet.
#[derive(Serialize, ToSchema)]
pub(super) struct Preview {
    /// The token for the run. It is valid for this operator, and for these apps, this action and this filter only.
    token: String,
    /// The number of letters in all apps. The count of each app is capped at 100,000.
    count: u64,
    /// Whether more letters than `count` may match.
    capped: bool,
    /// The run does not change letters that are stored, or closed, at this time or later. It is the latest of the apps.
    cutoff: DateTime<Utc>,
    /// Letters that match but whose time is ahead of the database's clock by a minute or more. The run does not change
    /// them: resolve them by their ids, or with a later `created_before`. The count of each app is
    /// capped at 1,000.
    ahead: Capped,
    /// Letters that match but whose payload is truncated or erased. The service does not replay them. The count of each
    /// app is capped at 1,000.
    truncated: Capped,
    /// The newest letters, at most 10, app by app.
    sample: Vec<Letter>,
    /// When the token expires.
    expires_at: DateTime<Utc>,
    /// The share of each app.
    apps: Vec<PreviewOfApp>,
}

/// The letters of one app that a run would change.
#[derive(Serialize, ToSchema)]
pub(super) struct PreviewOfApp {
    /// The app.
    app_id: Uuid,
    /// The number of letters. The count is capped at 100,000.
    count: u64,
    /// Whether more letters than `count` may match.
    capped: bool,
    /// The run does not change letters of this app that are stored, or closed, at this time or later.
    cutoff: DateTime<Utc>,
}

/// Counts the letters that a bulk run would resolve, replay, reopen or delete
///
/// The run does not change letters that fail, or are closed, after the preview. To undo a run, reopen the letters with
/// its `run_id`. If replayed letters match, `filter.resolution` must say what to reopen, because their events are back in
/// the outbox. A run over several apps has one id.
#[utoipa::path(
    post,
    path = "/api/bulk/preview",
    request_body = PreviewRequest,
    responses((status = 200, description = "The letters that a run would change.", body = Preview))
)]
pub(super) async fn preview(
    access: Access,
    input::Json(request): input::Json<PreviewRequest>,
) -> Result<Json<Preview>, Problem> {
    let accesses = access.apps("apps", &request.apps)?;
    check_lengths(&request.filter)?;
    let mut preview = bulk::preview(accesses, request.action, request.filter, Utc::now()).await?;
    let mut sample = Vec::new();
    for (access, letters) in preview.take_sample() {
        sample.extend(Letter::all(&access, letters).await?);
    }
    let count = preview.count();
    let of_app = |app: &bulk::PreviewOfApp| PreviewOfApp {
        app_id: app.access.app_id.into(),
        count: app.count,
        capped: app.capped,
        cutoff: app.cutoff,
    };
    Ok(Json(Preview {
        count: count.count,
        capped: count.capped,
        cutoff: preview.cutoff(),
        ahead: preview.ahead().into(),
        truncated: preview.truncated().into(),
        sample,
        expires_at: preview.expires_at,
        apps: preview.apps.iter().map(of_app).collect(),
        token: preview.token,
    }))
}
