//! The overview: the error groups that are new, and the apps that have open letters, sorted by the oldest or by the most
//! letters.

use std::{cmp::Reverse, str::FromStr};

use askama::Template;
use axum::response::Response;
use chrono::{TimeDelta, Utc};
use dead_letters::{
    AppId, Backlog, BacklogRequest, DeadLetterFilter, DeadLetterState, ListQuery, NewErrorGroup,
    NewErrorGroups, NewGroupRequest, NewGroupState,
};

use super::{
    command::Command,
    frame::Frame,
    groups::signature,
    html,
    listing::{self, COUNT_CAP, SCAN},
    text::{Amount, Text, Time},
};
use crate::{
    access::{Access, MAX_APPS_OF_NEW_GROUPS},
    input::Query,
    problem::Problem,
    urls::Root,
    urls::with_field,
};

/// The most apps that the overview sorts. If there are more, it lists them by id, page by page.
const SORTED: u32 = 1_000;
const PAGE: u32 = 100;
/// If the policy names more apps, the overview does not show how many letters will be swept.
const MAX_OWN_RETENTIONS: usize = 100;
/// How many new error groups the overview shows.
const NEW_GROUPS: u32 = 10;

#[derive(Template)]
#[template(path = "apps.html")]
struct AppsPage {
    frame: Frame,
    swept: Option<Amount>,
    new: Vec<NewGroup>,
    /// Where the search for new groups stopped.
    scanned_back_to: Option<Time>,
    apps: Vec<App>,
    sort: Option<Sorted>,
    next: Option<String>,
    is_first: bool,
    command: Command,
}

struct App {
    name: Text,
    address: String,
    unresolved: Amount,
    /// All open letters, including those whose handler failed.
    open: Amount,
    oldest: Time,
    newest: Time,
}

/// An error group that is new in the last 24 hours.
struct NewGroup {
    app: Text,
    /// The address of the group's letters.
    address: String,
    signature: Text,
    /// The message of the newest letter, unless it equals the signature.
    sample: Option<Text>,
    source: Text,
    op: Text,
    count: Amount,
    first: Time,
    is_known: bool,
    /// When the last letter of the group was closed, if the group regressed.
    regressed_at: Option<Time>,
}

/// The links that sort the overview, unless there are too many apps.
struct Sorted {
    is_by_oldest: bool,
    oldest: String,
    most: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Oldest,
    Most,
}

impl FromStr for Sort {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "oldest" => Ok(Self::Oldest),
            "most" => Ok(Self::Most),
            _ => Err(()),
        }
    }
}

pub(crate) async fn page(access: Access, root: Root, Query(mut fields): Query) -> Result<Response, Problem> {
    let after: Option<AppId> = fields.parse("after", "must be the id of an app")?;
    let by = fields.parse("sort", "must be oldest or most")?.unwrap_or(Sort::Oldest);
    fields.end()?;
    let mut request = BacklogRequest::default();
    request.among = access.operator.apps().map(|apps| apps.iter().copied().collect());
    let store = access.store();
    let limit = if after.is_some() { PAGE } else { SORTED };
    let mut apps = store.backlogs(&request.clone().after(after).limit(limit).cap(COUNT_CAP)).await?;
    let is_full = apps.len() == limit as usize;
    let has_more = match apps.last().filter(|_| is_full) {
        Some(last) => !store.backlogs(&request.clone().after(last.app_id).limit(1).cap(1)).await?.is_empty(),
        None => false,
    };
    let is_by_app = after.is_some() || has_more;
    if is_by_app {
        apps.truncate(PAGE as usize);
    } else {
        sort_by_trouble(&mut apps, by);
    }
    let next = apps.last().filter(|_| has_more);
    let next = next.map(|last| with_field(root.apps(), "after", &last.app_id.to_string()));
    let sorted = |sort| with_field(root.apps(), "sort", sort);
    let sort = Sorted { is_by_oldest: by == Sort::Oldest, oldest: sorted("oldest"), most: sorted("most") };
    // A count over some apps, or with a policy of many apps, would take a statement for each app.
    let policy = access.admin.retention.as_ref().filter(|policy| policy.apps.len() <= MAX_OWN_RETENTIONS);
    let swept = match (policy, request.among.is_none()) {
        (Some(policy), true) => listing::swept_within_a_week(&**store, policy, None, Utc::now()).await?,
        _ => None,
    };
    let name = |app_id| Text::cut(&access.admin.app_name(app_id), 200);
    let mut new = NewErrorGroups::default();
    if after.is_none() && request.among.as_ref().is_none_or(|among| among.len() <= MAX_APPS_OF_NEW_GROUPS) {
        let mut last_day = NewGroupRequest::since(Utc::now() - TimeDelta::hours(24))
            .scan_limit(SCAN.min(access.operator.max_scan()))
            .limit(NEW_GROUPS);
        last_day.among = request.among;
        new = store.new_error_groups(&last_day).await?;
    }
    let new_group = |group: NewErrorGroup| NewGroup {
        app: name(group.app_id),
        signature: signature(&group.group_key, &group.error_signature),
        sample: Some(&group.sample)
            .filter(|sample| !sample.is_empty() && **sample != group.error_signature)
            .map(|sample| Text::cut(sample, 500)),
        source: Text::cut(&group.source, 100),
        op: Text::cut(&group.op, 100),
        count: Amount::exactly(group.count),
        first: Time(group.first_seen),
        is_known: group.state != NewGroupState::Unknown,
        regressed_at: group.last_closed_at.filter(|_| group.state == NewGroupState::Regressed).map(Time),
        address: root.letters(
            group.app_id,
            &DeadLetterFilter::default().state(DeadLetterState::Any).group_key(group.group_key).into(),
        ),
    };
    let app = |backlog: Backlog| App {
        name: name(backlog.app_id),
        address: root.letters(backlog.app_id, &ListQuery::default()),
        unresolved: backlog.unresolved.into(),
        open: backlog.open.into(),
        oldest: Time(backlog.oldest),
        newest: Time(backlog.newest),
    };
    html(&AppsPage {
        frame: Frame::new(&root, &access).here("Apps").live(),
        swept,
        new: new.groups.into_iter().map(new_group).collect(),
        scanned_back_to: new.scanned_back_to.map(Time),
        apps: apps.into_iter().map(app).collect(),
        sort: (!is_by_app).then_some(sort),
        next,
        is_first: after.is_none(),
        command: Command::apps(),
    })
}

fn sort_by_trouble(apps: &mut [Backlog], by: Sort) {
    match by {
        Sort::Oldest => apps.sort_by_key(|app| app.oldest),
        Sort::Most => apps.sort_by_key(|app| Reverse((app.open.capped, app.open.count, Reverse(app.oldest)))),
    }
}
