//! Error groups.

use axum::Json;
use chrono::{DateTime, Utc};
use dead_letters::{ErrorGroup, ErrorGroups, GroupRequest};
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
/// Maximum number of buckets of all groups of a response, which take 6 MB.
const MAX_BUCKETS: u32 = 100_000;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct GroupsQuery {
    /// The maximum number of groups. `limit` times `buckets` must be at most 100,000.
    #[param(required = false, minimum = 1, maximum = 500, default = 50)]
    limit: u32,
}

impl GroupsQuery {
    fn read(fields: &mut Fields) -> Result<Self, Problem> {
        Ok(Self { limit: fields.parse("limit", "must be between 1 and 500")?.unwrap_or(LIMIT) })
    }
}

/// Error groups.
#[derive(Serialize, ToSchema)]
pub(super) struct Groups {
    /// The groups, largest first.
    items: Vec<Group>,
    /// Where the scan limit stopped the call. Letters that were stored earlier are in no group. Null if every matching
    /// letter is in a group.
    scanned_back_to: Option<DateTime<Utc>>,
}

impl From<ErrorGroups> for Groups {
    fn from(found: ErrorGroups) -> Self {
        let ErrorGroups { groups, scanned_back_to, .. } = found;
        Self { items: groups.into_iter().map(Group::from).collect(), scanned_back_to }
    }
}

/// Letters with the same source, operation, script and error signature.
#[derive(Serialize, ToSchema)]
struct Group {
    /// The key of the group. As the filter's `group_key` it selects the letters of the group.
    group_key: String,
    /// The source of the events, cut after 500 characters with `…`.
    source: String,
    /// The operation that failed, cut after 500 characters with `…`.
    op: String,
    /// The script, if the service knew it.
    script_id: Option<Uuid>,
    /// The signature of the errors, cut after 500 characters with `…`.
    error_signature: String,
    /// The error message of the newest letter, cut after 500 characters with `…`.
    sample: String,
    /// The number of letters.
    count: u64,
    /// When the oldest letter was stored.
    first_seen: DateTime<Utc>,
    /// When the newest letter was stored.
    last_seen: DateTime<Utc>,
    /// The newest letter.
    newest_id: Uuid,
    /// The number of closed letters. It is 0 if the filter's state excludes closed letters.
    closed: u64,
    /// When the last of the closed letters was closed.
    last_closed_at: Option<DateTime<Utc>>,
    /// Whether the group has closed letters and open ones, and all open ones were stored after `last_closed_at`. It is
    /// false if the filter's state excludes closed or open letters.
    regressed: bool,
    /// The time buckets. It is empty if the request has none of `from`, `until` and `buckets`.
    timeline: Vec<Bucket>,
}

impl From<ErrorGroup> for Group {
    fn from(group: ErrorGroup) -> Self {
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
            regressed: group.regressed,
            closed: group.closed,
            last_closed_at: group.last_closed_at,
            timeline: group.timeline.into_iter().map(Bucket::from).collect(),
        }
    }
}

/// Lists the error groups of an app
///
/// The letters of a group have the same source, operation, script and error signature.
///
/// Besides the parameters below, each field `metadata.KEY=VALUE` selects the letters whose metadata has this text as the
/// value of this key: see `Filter`.
#[utoipa::path(
    get,
    path = "/api/apps/{dead_letters_app}/groups",
    params(("dead_letters_app" = Uuid, Path, description = "The app."), Filter, Scan, GroupsQuery, TimelineQuery),
    responses((status = 200, description = "The groups, largest first.", body = Groups))
)]
pub(super) async fn groups(
    access: Access,
    AppPath(app_id): AppPath,
    Query(mut fields): Query,
) -> Result<Json<Groups>, Problem> {
    let access = access.app(app_id)?;
    let GroupsQuery { limit } = GroupsQuery::read(&mut fields)?;
    let timeline = TimelineQuery::read(&mut fields)?;
    let (filter, Scan { scan_limit }) = unpaged(fields, &access)?;
    let timeline = (!timeline.is_empty()).then(|| timeline.buckets(Utc::now()));
    let buckets = timeline.map_or(0, |timeline| timeline.count);
    if limit.saturating_mul(buckets) > MAX_BUCKETS {
        let problem = format!(
            "times \"limit\" must be at most 100,000 (got {}): lower one of them",
            u64::from(limit) * u64::from(buckets)
        );
        return Err(Problem::invalid_field("buckets", problem));
    }
    let request = GroupRequest::default().limit(limit).scan_limit(scan_limit).timeline(timeline);
    Ok(Json(access.store().error_groups(app_id, &filter, &request).await?.into()))
}
