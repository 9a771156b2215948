//! Error groups.

use axum::Json;
use chrono::{DateTime, Utc};
use dead_letters::{ErrorGroup, GroupRequest};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    filter::{Filter, Scan, unpaged},
    model::{Bucket, MAX_NAME_CHARACTERS, cut},
    timeline::TimelineQuery,
};
use crate::{
    access::Access,
    input::{AppPath, Fields, Query},
    problem::Problem,
};

const LIMIT: u32 = 50;
/// Bounds the buckets of all groups of an answer, which are 6 MB of it.
const MAX_BUCKETS: u32 = 100_000;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct GroupsQuery {
    /// Groups at most. With `buckets` for each, an answer has 100,000 buckets at most.
    #[param(required = false, minimum = 1, maximum = 500, default = 50)]
    limit: u32,
}

impl GroupsQuery {
    fn read(fields: &mut Fields) -> Result<Self, Problem> {
        Ok(Self { limit: fields.parse("limit", "must be from 1 to 500")?.unwrap_or(LIMIT) })
    }
}

/// Groups of letters that failed alike.
#[derive(Serialize, ToSchema)]
pub(super) struct Groups {
    /// The largest first.
    items: Vec<Group>,
    /// Where the scan ended: letters before this are in no group. Null where nothing was left out.
    scanned_back_to: Option<DateTime<Utc>>,
}

/// Letters that failed alike.
#[derive(Serialize, ToSchema)]
struct Group {
    /// The short name of the group: the letters with this `group_key` are its letters.
    group_key: String,
    /// What the events were about: at most 500 characters of it, then `…`.
    source: String,
    /// The operation that failed: at most 500 characters of it, then `…`.
    op: String,
    /// The script, if it was known.
    script_id: Option<Uuid>,
    /// What their errors have in common: at most 500 characters of it, then `…`.
    error_signature: String,
    /// The message of the newest letter's error: at most 500 characters of it, then `…`.
    sample: String,
    /// Letters.
    count: u64,
    /// When the first one was stored.
    first_seen: DateTime<Utc>,
    /// When the last one was stored.
    last_seen: DateTime<Utc>,
    /// The last one.
    newest_id: Uuid,
    /// How many of them are closed: none where the filter's state leaves those out.
    closed: u64,
    /// When the last one of those was closed.
    last_closed_at: Option<DateTime<Utc>>,
    /// Whether a letter was stored after the last of these was closed. Ask for the state `any` to find out.
    regressed: bool,
    /// The buckets, where `from`, `until` or `buckets` asked for them, else none.
    timeline: Vec<Bucket>,
}

impl From<ErrorGroup> for Group {
    fn from(group: ErrorGroup) -> Self {
        let regressed = group.regressed();
        Self {
            group_key: cut(group.group_key, MAX_NAME_CHARACTERS),
            source: cut(group.source, MAX_NAME_CHARACTERS),
            op: cut(group.op, MAX_NAME_CHARACTERS),
            script_id: group.script_id.map(Uuid::from),
            error_signature: cut(group.error_signature, MAX_NAME_CHARACTERS),
            sample: cut(group.sample, MAX_NAME_CHARACTERS),
            count: group.count,
            first_seen: group.first_seen,
            last_seen: group.last_seen,
            newest_id: group.newest_id.into(),
            regressed,
            closed: group.closed,
            last_closed_at: group.last_closed_at,
            timeline: group.timeline.into_iter().map(Bucket::from).collect(),
        }
    }
}

/// The letters of an app by what failed alike
///
/// By source, operation, script and error signature.
#[utoipa::path(
    get,
    path = "/api/apps/{dead_letters_app}/groups",
    params(("dead_letters_app" = Uuid, Path, description = "The app."), Filter, Scan, GroupsQuery, TimelineQuery),
    responses((status = 200, description = "The largest groups.", body = Groups))
)]
pub(super) async fn groups(
    access: Access,
    AppPath(app_id): AppPath,
    Query(mut fields): Query,
) -> Result<Json<Groups>, Problem> {
    let access = access.app(app_id)?;
    let GroupsQuery { limit } = GroupsQuery::read(&mut fields)?;
    let timeline = TimelineQuery::read(&mut fields)?;
    let (filter, Scan { scan_limit }) = unpaged(fields, access.operator())?;
    let timeline = (!timeline.is_empty()).then(|| timeline.buckets(Utc::now()));
    let buckets = timeline.map_or(0, |timeline| timeline.count);
    if limit.saturating_mul(buckets) > MAX_BUCKETS {
        let problem = format!(
            "times \"limit\" must be at most 100000, and is {}",
            u64::from(limit) * u64::from(buckets)
        );
        return Err(Problem::invalid_field("buckets", problem));
    }
    let request = GroupRequest::default().limit(limit).scan_limit(scan_limit).timeline(timeline);
    let groups = access.store().error_groups(app_id, &filter, &request).await?;
    Ok(Json(Groups {
        items: groups.groups.into_iter().map(Group::from).collect(),
        scanned_back_to: groups.scanned_back_to,
    }))
}
