//! The preview of a bulk run.

use axum::Json;
use chrono::{DateTime, Utc};
use dead_letters::{DeadLetterFilter, Resolution};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    filter::{Filter, check_lengths},
    model::{Capped, Letter},
};
use crate::{
    access::Access,
    bulk,
    input::{self, AppPath},
    problem::Problem,
};

/// What a run is to do, and to which letters.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviewRequest {
    action: Action,
    /// Which letters: all that are unresolved, where it is empty. Of the state `any` only open ones are meant.
    #[schema(value_type = Filter)]
    filter: DeadLetterFilter,
}

/// What becomes of the letters.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Action {
    Ignored,
    HandledByScript,
    Replayed,
}

impl From<Action> for Resolution {
    fn from(action: Action) -> Self {
        match action {
            Action::Ignored => Self::Ignored,
            Action::HandledByScript => Self::HandledByScript,
            Action::Replayed => Self::Replayed,
        }
    }
}

/// What a run would do: nothing is done yet.
#[derive(Serialize, ToSchema)]
pub(super) struct Preview {
    /// For the run: good for this operator, app, action and filter.
    token: String,
    /// Letters, counted to 100,000.
    count: u64,
    /// Whether there are more than `count`, or may be.
    capped: bool,
    /// Letters that are stored from then on are left alone.
    cutoff: DateTime<Utc>,
    /// Letters that match but lie ahead of the database's clock by a minute or more, and are left alone, counted to
    /// 1,000. Resolve them by their ids, or with a later `created_before`.
    ahead: Capped,
    /// Letters that match but whose payload is truncated or erased, counted to 1,000. The service does not replay them.
    truncated: Capped,
    /// The newest of the letters, ten at most.
    sample: Vec<Letter>,
    /// Until when the token is good.
    expires_at: DateTime<Utc>,
}

/// Count what a bulk run would settle or replay
///
/// Letters that fail from then on are not touched by the run.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/bulk/preview",
    params(("dead_letters_app" = Uuid, Path, description = "The app.")),
    request_body = PreviewRequest,
    responses((status = 200, description = "What a run would do.", body = Preview))
)]
pub(super) async fn preview(
    access: Access,
    AppPath(app_id): AppPath,
    input::Json(request): input::Json<PreviewRequest>,
) -> Result<Json<Preview>, Problem> {
    let access = access.app(app_id)?;
    check_lengths(&request.filter)?;
    let preview = bulk::preview(&access, request.action.into(), request.filter, Utc::now()).await?;
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
