//! The apps that have open letters.

use axum::Json;
use chrono::{DateTime, Utc};
use dead_letters::{AppId, Backlog, BacklogRequest};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::model::Capped;
use crate::{
    access::Access,
    input::{Fields, Query},
    problem::Problem,
};

const LIMIT: u32 = 100;
/// The cap of an app's count of letters.
const CAP: u32 = 1_000;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct AppsQuery {
    /// The `next` of the previous page.
    #[param(value_type = Option<Uuid>)]
    after: Option<AppId>,
    /// The maximum number of apps.
    #[param(required = false, minimum = 1, maximum = 1_000, default = 100)]
    limit: u32,
}

impl AppsQuery {
    fn read(mut fields: Fields) -> Result<Self, Problem> {
        let query = Self {
            after: fields.parse("after", "must be a UUID")?,
            limit: fields.parse("limit", "must be between 1 and 1,000")?.unwrap_or(LIMIT),
        };
        fields.end()?;
        Ok(query)
    }
}

/// A page of apps.
#[derive(Serialize, ToSchema)]
pub(super) struct Apps {
    items: Vec<App>,
    /// The `after` of the next page. Null on the last page.
    next: Option<Uuid>,
}

/// An app that has open letters.
#[derive(Serialize, ToSchema)]
struct App {
    app_id: Uuid,
    /// The name that the service gives the app, or the app's id.
    name: String,
    /// Open letters. The count is capped at 1,000.
    open: Capped,
    /// Open letters whose handler has not failed. The count is capped at 1,000.
    unresolved: Capped,
    /// When the oldest open letter was stored.
    oldest: DateTime<Utc>,
    /// When the newest open letter was stored.
    newest: DateTime<Utc>,
}

/// Lists the apps that have open letters
///
/// The list has the apps that the operator may see, sorted by id.
#[utoipa::path(
    get,
    path = "/api/apps",
    params(AppsQuery),
    responses((status = 200, description = "A page of apps.", body = Apps))
)]
pub(super) async fn apps(access: Access, Query(fields): Query) -> Result<Json<Apps>, Problem> {
    let AppsQuery { after, limit } = AppsQuery::read(fields)?;
    let mut request = BacklogRequest::default().after(after).limit(limit).cap(CAP);
    request.among = access.operator.apps().map(|apps| apps.iter().copied().collect());
    let backlogs = access.store().backlogs(&request).await?;
    let is_full = backlogs.len() >= limit as usize;
    let next = backlogs.last().filter(|_| is_full).map(|last| last.app_id.into());
    let items = backlogs.into_iter().map(|backlog| app(&access, backlog)).collect();
    Ok(Json(Apps { items, next }))
}

fn app(access: &Access, backlog: Backlog) -> App {
    let Backlog { app_id, open, unresolved, oldest, newest, .. } = backlog;
    App {
        app_id: app_id.into(),
        name: access.admin.app_name(app_id),
        open: open.into(),
        unresolved: unresolved.into(),
        oldest,
        newest,
    }
}
