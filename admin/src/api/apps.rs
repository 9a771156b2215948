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
    /// The page behind this app: the `next` of the page before.
    #[param(value_type = Option<Uuid>)]
    after: Option<AppId>,
    /// Apps at most.
    #[param(required = false, minimum = 1, maximum = 1_000, default = 100)]
    limit: u32,
}

impl AppsQuery {
    fn read(mut fields: Fields) -> Result<Self, Problem> {
        let query = Self {
            after: fields.parse("after", "must be a uuid")?,
            limit: fields.parse("limit", "must be from 1 to 1000")?.unwrap_or(LIMIT),
        };
        fields.end()?;
        Ok(query)
    }
}

/// A page of apps.
#[derive(Serialize, ToSchema)]
pub(super) struct Apps {
    items: Vec<App>,
    /// What to ask for the next page with, as `after`. Null where this is the last.
    next: Option<Uuid>,
}

/// An app that has open letters.
#[derive(Serialize, ToSchema)]
struct App {
    app_id: Uuid,
    /// What the service calls it, or its id.
    name: String,
    /// Its letters that nobody has settled for good, counted to 1,000.
    open: Capped,
    /// Those of them whose handler has not failed, counted to 1,000.
    unresolved: Capped,
    /// When the oldest open one was stored.
    oldest: DateTime<Utc>,
    /// When the newest open one was stored.
    newest: DateTime<Utc>,
}

/// The apps that have open letters
///
/// Those that the operator may see, by id.
#[utoipa::path(
    get,
    path = "/api/apps",
    params(AppsQuery),
    responses((status = 200, description = "A page of them.", body = Apps))
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
    let Backlog { app_id, open, unresolved, oldest, newest } = backlog;
    App {
        app_id: app_id.into(),
        name: access.admin.app_name(app_id),
        open: open.into(),
        unresolved: unresolved.into(),
        oldest,
        newest,
    }
}
