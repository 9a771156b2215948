//! The overview: the error groups that have open letters, over all apps, and the apps, sorted by the oldest or by the
//! most open letters.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    str::FromStr,
};

use askama::Template;
use axum::response::Response;
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use dead_letters::{
    AppId, Backlog, BacklogRequest, DeadLetterFilter, DeadLetterState, ListQuery, ListSort, NewErrorGroup,
    NewErrorGroups, NewGroupRequest, NewGroupState, PageRequest, RecentApp, RetentionPolicy,
};

use super::{
    back::Back,
    banner::{Banner, On},
    command::Command,
    frame::Frame,
    groups::signature,
    html,
    listing::{self, COUNT_CAP, scan},
    text::{Amount, Text, Time},
};
use crate::{
    access::{Access, MAX_APPS_OF_NEW_GROUPS, MAX_APPS_OF_RUN, Right},
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
/// How many error groups the overview reads, where a group counts once for each app.
const GROUPS: u32 = 500;
/// A group that failed first within this time is new.
const NEW: TimeDelta = TimeDelta::hours(24);
/// How long an app stays on the overview after the last action on its letters.
const STAYS: TimeDelta = TimeDelta::days(7);
/// How many apps of a group are named.
const NAMED_APPS: usize = 5;

#[derive(Template)]
#[template(path = "apps.html")]
struct AppsPage {
    frame: Frame,
    swept: Option<Amount>,
    groups: Vec<Group>,
    /// Where the search for groups stopped.
    scanned_back_to: Option<Time>,
    /// Whether there may be more groups than the page shows.
    has_more_groups: bool,
    /// Whether groups are looked for.
    has_groups: bool,
    /// Where the form of a group previews a bulk run.
    preview: String,
    /// The overview as it is shown, for the forms.
    back: Back,
    may_replay: bool,
    may_resolve: bool,
    apps: Vec<App>,
    has_open: bool,
    /// Whether more apps had an action within 7 days than the page lists.
    has_more_recent: bool,
    sort: Option<Sorted>,
    next: Option<String>,
    is_first: bool,
    command: Command,
}

struct App {
    id: AppId,
    name: Text,
    address: String,
    unresolved: Amount,
    /// All open letters, including those whose handler failed.
    open: Amount,
    /// When the oldest and the newest open letter were stored.
    span: Option<(Time, Time)>,
    /// The address of the open letters, oldest first.
    oldest: String,
    /// The address of the open letters that the sweeper will delete within a week, if there are any.
    swept: Option<String>,
    /// When the last action was done, if the app has no open letter.
    last_action: Option<Time>,
}

impl App {
    fn open(root: &Root, name: Text, backlog: Backlog, policy: Option<&RetentionPolicy>) -> Self {
        let swept = policy.and_then(|policy| listing::swept_before(policy, backlog.app_id, Utc::now()));
        let swept = swept.filter(|&before| backlog.oldest < before);
        Self {
            swept: swept.map(|before| listing::swept_address(root, backlog.app_id, before)),
            id: backlog.app_id,
            name,
            address: root.letters(backlog.app_id, &ListQuery::default()),
            oldest: oldest_first(root, backlog.app_id),
            unresolved: backlog.unresolved.into(),
            open: backlog.open.into(),
            span: Some((Time(backlog.oldest), Time(backlog.newest))),
            last_action: None,
        }
    }

    /// Returns an app without open letters.
    fn recent(root: &Root, name: Text, app: &RecentApp) -> Self {
        let closed = DeadLetterFilter::default().state(DeadLetterState::Closed);
        Self {
            id: app.app_id,
            name,
            address: root.letters(app.app_id, &closed.into()),
            oldest: oldest_first(root, app.app_id),
            unresolved: Amount::exactly(0),
            open: Amount::exactly(0),
            span: None,
            swept: None,
            last_action: Some(Time(app.last_action_at)),
        }
    }
}

/// An error group of one app or of several.
struct Group {
    key: String,
    /// The address of the letters of the first app.
    address: String,
    /// The address of the newest letter.
    newest: String,
    signature: Text,
    /// The message of the newest letter, unless it equals the signature.
    sample: Option<Text>,
    source: Text,
    op: Text,
    open: u64,
    /// Whether the search ended before all letters were examined.
    is_capped: bool,
    last: DateTime<Utc>,
    state: NewGroupState,
    /// When the last letter of the group was closed, if the group regressed.
    regressed_at: Option<DateTime<Utc>>,
    apps: Vec<AppOfGroup>,
    /// The filter of the group's open letters, as a query string.
    filter: String,
}

struct AppOfGroup {
    id: AppId,
    name: Text,
    address: String,
    open: Amount,
}

impl Group {
    fn new(root: &Root, name: Text, group: NewErrorGroup, is_capped: bool) -> Self {
        let open =
            DeadLetterFilter::default().state(DeadLetterState::Open).group_key(group.group_key.clone());
        let mut of_app = Self {
            address: String::new(),
            newest: root.letter(group.app_id, group.newest_id),
            signature: signature(&group.group_key, &group.error_signature),
            sample: Some(&group.sample)
                .filter(|sample| !sample.is_empty() && **sample != group.error_signature)
                .map(|sample| Text::cut(sample, 500)),
            source: Text::cut(&group.source, 100),
            op: Text::cut(&group.op, 100),
            open: group.open,
            is_capped,
            last: group.last_seen,
            state: group.state,
            regressed_at: group.last_closed_at.filter(|_| group.state == NewGroupState::Regressed),
            filter: ListQuery::from(open.clone()).to_string(),
            key: group.group_key,
            apps: Vec::new(),
        };
        of_app.address = root.letters(group.app_id, &open.into());
        let open = Amount { count: group.open, capped: is_capped };
        let address = of_app.address.clone();
        of_app.apps.push(AppOfGroup { id: group.app_id, name, address, open });
        of_app
    }

    /// Adds the same group of another app.
    fn merge(&mut self, other: Self) {
        self.open += other.open;
        self.regressed_at = self.regressed_at.max(other.regressed_at);
        // A group that regressed in one app regressed, and one that is known in one app is not new.
        self.state = [NewGroupState::Regressed, NewGroupState::Known, NewGroupState::Unknown]
            .into_iter()
            .find(|&state| [self.state, other.state].contains(&state))
            .unwrap_or(NewGroupState::New);
        if other.last > self.last {
            (self.last, self.newest, self.sample) = (other.last, other.newest, other.sample);
        }
        self.apps.extend(other.apps);
    }

    fn is_new(&self) -> bool {
        self.state == NewGroupState::New
    }

    fn is_unknown(&self) -> bool {
        self.state == NewGroupState::Unknown
    }

    fn open(&self) -> Amount {
        Amount { count: self.open, capped: self.is_capped }
    }

    fn last(&self) -> Time {
        Time(self.last)
    }

    fn regressed_at(&self) -> Option<Time> {
        self.regressed_at.map(Time)
    }

    /// Returns the apps that the page names, and how many more there are.
    fn named_apps(&self) -> (&[AppOfGroup], usize) {
        let named = self.apps.len().min(NAMED_APPS);
        (&self.apps[..named], self.apps.len() - named)
    }

    /// Returns the apps of a bulk run.
    fn apps_of_run(&self) -> &[AppOfGroup] {
        &self.apps[..self.apps.len().min(MAX_APPS_OF_RUN)]
    }
}

/// The links that sort the overview, unless there are too many apps.
struct Sorted {
    is_by_oldest: bool,
    oldest: String,
    most: String,
}

/// The order of the apps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Oldest,
    Most,
}

impl Sort {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Most => "most",
        }
    }
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
    let by: Option<Sort> = fields.parse("sort", "must be oldest or most")?;
    let banner = fields.take("banner")?;
    fields.end()?;
    let back = Back::Overview(by, after);
    let banner = Banner::read(&access, &root, banner, None, &On::Page(back.clone())).await?;
    let by = by.unwrap_or(Sort::Oldest);
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
    let sorted = |sort: Sort| with_field(root.apps(), "sort", sort.as_str());
    let sort =
        Sorted { is_by_oldest: by == Sort::Oldest, oldest: sorted(Sort::Oldest), most: sorted(Sort::Most) };
    // A count over some apps, or with a policy of many apps, would take a statement for each app.
    let policy = access.admin.retention.as_ref().filter(|policy| policy.apps.len() <= MAX_OWN_RETENTIONS);
    let swept = match (policy, request.among.is_none()) {
        (Some(policy), true) => listing::swept_within_a_week(&**store, policy, None, this_hour()).await?,
        _ => None,
    };
    let name = |app_id| Text::cut(&access.admin.app_name(app_id), 200);
    let mut found = NewErrorGroups::default();
    let has_groups = request.among.as_ref().is_none_or(|among| among.len() <= MAX_APPS_OF_NEW_GROUPS);
    if after.is_none() && has_groups {
        let mut open = NewGroupRequest::since(Utc::now() - NEW)
            .scan_limit(scan(&access.operator))
            .limit(GROUPS)
            .open(true);
        open.among.clone_from(&request.among);
        found = store.new_error_groups(&open).await?;
    }
    let has_more_groups = found.groups.len() == GROUPS as usize;
    let retention = access.admin.retention.as_ref();
    let mut shown: Vec<_> =
        apps.into_iter().map(|backlog| App::open(&root, name(backlog.app_id), backlog, retention)).collect();
    let mut has_more_recent = false;
    if !is_by_app {
        let open: BTreeSet<_> = shown.iter().map(|app| app.id).collect();
        let recent = store.recent_apps(Utc::now() - STAYS).await?.into_iter();
        let mut recent: Vec<_> = recent
            .filter(|app| access.operator.sees(app.app_id) && !open.contains(&app.app_id))
            .take(PAGE as usize + 1)
            .collect();
        has_more_recent = recent.len() > PAGE as usize;
        recent.truncate(PAGE as usize);
        shown.extend(recent.iter().map(|app| App::recent(&root, name(app.app_id), app)));
    }
    html(&AppsPage {
        frame: Frame::new(&root, &access).here("Overview").live().banner(banner),
        swept,
        groups: merged(found.groups.into_iter().map(|group| {
            let name = name(group.app_id);
            Group::new(&root, name, group, found.scanned_back_to.is_some())
        })),
        scanned_back_to: found.scanned_back_to.map(Time),
        has_more_groups,
        has_groups,
        preview: root.bulk("preview"),
        back,
        may_replay: access.may(Right::Replay),
        may_resolve: access.may(Right::Resolve),
        has_open: shown.iter().any(|app| app.span.is_some()),
        apps: shown,
        has_more_recent,
        sort: (!is_by_app).then_some(sort),
        next,
        is_first: after.is_none(),
        command: Command::apps(),
    })
}

/// Makes one group of those that have the same key: new and regressed ones first, then the largest.
fn merged(groups: impl Iterator<Item = Group>) -> Vec<Group> {
    let mut merged = Vec::<Group>::new();
    let mut places = HashMap::new();
    for group in groups {
        match places.get(&group.key) {
            Some(&place) => {
                let same: &mut Group = &mut merged[place];
                same.merge(group);
            }
            None => {
                places.insert(group.key.clone(), merged.len());
                merged.push(group);
            }
        }
    }
    // The sort is stable: new groups stay in the order of the store.
    merged.sort_by_key(|group| match group.state {
        NewGroupState::Known => (true, Reverse(group.open)),
        _ => (false, Reverse(0)),
    });
    merged
}

/// The counts stay the same for an hour, as the links do.
fn this_hour() -> DateTime<Utc> {
    let now = Utc::now();
    now.duration_trunc(TimeDelta::hours(1)).unwrap_or(now)
}

fn oldest_first(root: &Root, app_id: AppId) -> String {
    let open = DeadLetterFilter::default().state(DeadLetterState::Open);
    root.letters(app_id, &ListQuery::new(open, PageRequest::default().sort(ListSort::Oldest)))
}

fn sort_by_trouble(apps: &mut [Backlog], by: Sort) {
    match by {
        Sort::Oldest => apps.sort_by_key(|app| app.oldest),
        Sort::Most => apps.sort_by_key(|app| Reverse((app.open.capped, app.open.count, Reverse(app.oldest)))),
    }
}
