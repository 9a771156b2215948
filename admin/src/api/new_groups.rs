//! Error groups that are new or regressed.

use axum::Json;
use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::{NewErrorGroup, NewGroupRequest, NewGroupState};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    filter::SCAN,
    model::{MAX_NAME_CHARACTERS, NewGroupStateWords, cut},
};
use crate::{
    access::{Access, MAX_APPS_OF_NEW_GROUPS},
    input::{Fields, Query, check_scan},
    problem::Problem,
};

const LIMIT: u32 = 50;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct NewGroupsQuery {
    /// A group without letters from before this time is new. Unless `open` is true, the list has only groups with letters
    /// stored at this time or later. It must not be in the future. The default is 24 hours ago.
    #[param(required = false)]
    since: DateTime<Utc>,
    /// The maximum number of groups.
    #[param(required = false, minimum = 1, maximum = 500, default = 50)]
    limit: u32,
    /// How many letters the view may examine: the newest of any state, of all apps that the operator may see together.
    /// The service sets the maximum of each operator, 100,000 by default.
    #[param(required = false, minimum = 1, maximum = 1_000_000, default = 10_000)]
    scan_limit: u32,
    /// Whether to list every group that has open letters, also those that are neither new nor regressed. The counts and
    /// times are then those of all letters that the view examined.
    #[param(required = false, default = false)]
    open: bool,
}

impl NewGroupsQuery {
    fn read(mut fields: Fields, max_scan: u32) -> Result<Self, Problem> {
        let since = fields.parse("since", "must be a time in RFC 3339 format")?;
        let scan_limit =
            fields.parse("scan_limit", &format!("must be between 1 and {max_scan} for this operator"))?;
        let query = Self {
            since: since.unwrap_or_else(|| Utc::now() - TimeDelta::hours(24)),
            limit: fields.parse("limit", "must be between 1 and 500")?.unwrap_or(LIMIT),
            scan_limit: check_scan(scan_limit, max_scan)?.unwrap_or(SCAN.min(max_scan)),
            open: fields.is_true("open")?,
        };
        fields.end()?;
        Ok(query)
    }
}

/// Error groups that are new or regressed, or that have open letters.
#[derive(Serialize, ToSchema)]
pub(super) struct NewGroups {
    /// The groups, sorted by `first_seen`, the latest first. Groups that are neither new nor regressed come last, those with
    /// the most open letters first.
    items: Vec<NewGroup>,
    /// Where the scan limit stopped the call. Nothing is known of letters that were stored earlier. Null if no letter
    /// was left out.
    scanned_back_to: Option<DateTime<Utc>>,
}

/// An error group that is new or regressed, or that has open letters.
#[derive(Serialize, ToSchema)]
struct NewGroup {
    app_id: Uuid,
    /// The name that the service gives the app, or the app's id.
    name: String,
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
    /// The error message of the letter `newest_id`, cut after 500 characters with `…`.
    sample: String,
    /// The number of letters since `since`, or at any time if `open` was true, among those that the call examined.
    count: u64,
    /// How many of these letters are open.
    open: u64,
    /// When the first of these letters was stored.
    first_seen: DateTime<Utc>,
    /// When the last of these letters was stored.
    last_seen: DateTime<Utc>,
    /// The newest letter, or the newest open one if `open` was true.
    newest_id: Uuid,
    /// When the last of the group's closed letters was closed, among those that the call examined.
    last_closed_at: Option<DateTime<Utc>>,
    #[schema(value_type = NewGroupStateWords)]
    state: NewGroupState,
}

/// Lists the error groups that are new or regressed, or that have open letters
///
/// The list has the groups that have letters since `since` and are new or regressed. With `open=true` it has every group
/// that has open letters. It covers the apps that the operator may see.
#[utoipa::path(
    get,
    path = "/api/groups/new",
    params(NewGroupsQuery),
    responses((status = 200, description = "The groups. The group that became new or regressed last comes first. Groups that are neither new nor regressed come last, those with the most open letters first.", body = NewGroups))
)]
pub(super) async fn new_groups(access: Access, Query(fields): Query) -> Result<Json<NewGroups>, Problem> {
    let NewGroupsQuery { since, limit, scan_limit, open } =
        NewGroupsQuery::read(fields, access.operator.max_scan())?;
    let mut request = NewGroupRequest::since(since).scan_limit(scan_limit).limit(limit).open(open);
    request.among = access.operator.apps().map(|apps| apps.iter().copied().collect());
    if request.among.as_ref().is_some_and(|apps| apps.len() > MAX_APPS_OF_NEW_GROUPS) {
        return Err(Problem::forbidden(
            "this operator has more than 100 apps: use an operator of fewer apps",
        ));
    }
    let found = access.store().new_error_groups(&request).await?;
    let items = found.groups.into_iter().map(|group| new_group(&access, group)).collect();
    Ok(Json(NewGroups { items, scanned_back_to: found.scanned_back_to }))
}

fn new_group(access: &Access, group: NewErrorGroup) -> NewGroup {
    NewGroup {
        app_id: group.app_id.into(),
        name: access.admin.app_name(group.app_id),
        group_key: cut(group.group_key, MAX_NAME_CHARACTERS),
        source: cut(group.source, MAX_NAME_CHARACTERS),
        op: cut(group.op, MAX_NAME_CHARACTERS),
        script_id: group.script_id.map(Uuid::from),
        error_signature: cut(group.error_signature, MAX_NAME_CHARACTERS),
        sample: cut(group.sample, MAX_NAME_CHARACTERS),
        count: group.count,
        open: group.open,
        first_seen: group.first_seen,
        last_seen: group.last_seen,
        newest_id: group.newest_id.into(),
        last_closed_at: group.last_closed_at,
        state: group.state,
    }
}
