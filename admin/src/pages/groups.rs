//! An app's error groups, and what the letters of a group have in common.

use std::{collections::HashMap, ops::ControlFlow};

use askama::Template;
use axum::{
    http::{HeaderValue, header::CACHE_CONTROL},
    response::Response,
};
use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterState, ErrorGroup, GroupRequest, ListQuery, PageRequest, ScriptId,
};
use tokio::task::spawn_blocking;

use super::{
    back::Back,
    banner::{Banner, On},
    chart::{Spark, last_day},
    command::Command,
    frame::Frame,
    html,
    letter::MAX_SHOWN_BYTES,
    listing::{FilterForm, Listing, View, asked, invalid, scan},
    search::SearchForm,
    text::{Amount, Text, Time},
};
use crate::{
    access::{Access, AppAccess},
    input::{AppPath, Fields, Query},
    problem::Problem,
    shares::{Share, shares},
    urls::{Root, with_field},
};

/// Letters whose shared values are shown.
const SAMPLE: u32 = 20;

#[derive(Template)]
#[template(path = "groups.html")]
struct GroupsPage {
    frame: Frame,
    listing: Listing,
    filter: FilterForm,
    groups: Vec<Group>,
    /// Whether there may be more groups than the page shows.
    is_full: bool,
    /// Where the scan limit stopped the call. Older letters are in no group.
    scanned_back_to: Option<Time>,
    is_all_well: bool,
    shared: Option<Shared>,
    command: Command,
}

/// The groups of the letters that a search finds.
#[derive(Template)]
#[template(path = "search_groups.html")]
pub(super) struct FoundGroups {
    pub(super) frame: Frame,
    pub(super) search: SearchForm,
    pub(super) conditions: Vec<(Text, Text)>,
    pub(super) groups: Vec<Group>,
    pub(super) is_full: bool,
    /// Where the search stopped.
    pub(super) scanned_back_to: Option<Time>,
    pub(super) list: String,
}

pub(super) struct Group {
    key: String,
    /// The address of the group's letters.
    address: String,
    signature: Text,
    /// The message of the newest letter, unless it equals the signature.
    sample: Option<Text>,
    source: Text,
    op: Text,
    script: Option<ScriptId>,
    count: Amount,
    last: Time,
    spark: Spark,
    closed: Option<Amount>,
    /// When the last letter of the group was closed, if the group regressed.
    regressed_at: Option<Time>,
    /// The address of the newest letter.
    newest: String,
    /// The address of the page that shows what the group's letters share.
    shares: String,
}

/// The values that the newest letters of the filter share.
struct Shared {
    of: Amount,
    rows: Vec<SharedRow>,
    hide: String,
}

struct SharedRow {
    path: Text,
    value: Text,
    of: usize,
    rows: usize,
}

impl From<Share> for SharedRow {
    fn from(share: Share) -> Self {
        let Share { path, value, of, rows, .. } = share;
        Self { path: Text::cut(&path, 200), value: Text::cut(&value, 200), of, rows }
    }
}

pub(crate) async fn page(
    access: Access,
    AppPath(app_id): AppPath,
    root: Root,
    Query(mut fields): Query,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let banner = fields.take("banner")?;
    let sent = fields.clone();
    match list(&access, &root, fields, banner).await {
        Err(problem) => invalid(&access, &root, View::Groups, sent, problem),
        page => page,
    }
}

async fn list(
    access: &AppAccess,
    root: &Root,
    mut fields: Fields,
    banner: Option<String>,
) -> Result<Response, Problem> {
    let shows_shares = fields.is_true("shares")?;
    let kept = [("shares", shows_shares.then_some("true")), ("banner", banner.as_deref())];
    let query = match asked(access, root, View::Groups, fields, &kept).await? {
        ControlFlow::Continue(query) => query,
        ControlFlow::Break(redirect) => return Ok(redirect),
    };
    let (store, app_id) = (access.store(), access.app_id);

    let listing = Listing::load(access, root, &query, View::Groups).await?;
    let scan_limit = query.page.scan_limit.unwrap_or_else(|| scan(access.operator()));
    let timeline = Some(last_day(listing.now, Spark::BUCKETS));
    let request = GroupRequest::default().scan_limit(scan_limit).timeline(timeline);
    let found = store.error_groups(app_id, &query.filter, &request).await?;
    let state = query.filter.effective_state();
    let closed = match state {
        DeadLetterState::Any => Closed::of(&found.groups),
        DeadLetterState::Closed => Closed::default(),
        _ => {
            let any = query.filter.clone().state(DeadLetterState::Any);
            let request = GroupRequest::default().limit(500).scan_limit(scan_limit);
            Closed::of(&store.error_groups(app_id, &any, &request).await?.groups)
        }
    };
    let shared = match shows_shares {
        true => Some(shared(access, root, &query).await?),
        false => None,
    };
    let is_open = matches!(state, DeadLetterState::Open | DeadLetterState::Unresolved);
    let filter = FilterForm::new(root, app_id, View::Groups, &query);
    let filter = match filter.clear {
        Some(_) => filter.offering(access, state).await?,
        None => filter.offering_those_of(&found.groups),
    };
    let on = On::Page(Back::Groups(query.clone()));
    let banner = Banner::read(access.entered(), root, banner, Some(app_id), &on).await?;
    let frame = Frame::of_app(root, access).here("Groups").banner(banner);
    let mut response = html(&GroupsPage {
        // A live page would compute the shared values again on each reload.
        frame: if shows_shares { frame } else { frame.live() },
        is_full: found.groups.len() == request.limit as usize,
        groups: Group::all(app_id, root, &query, &closed, found.groups),
        scanned_back_to: found.scanned_back_to.map(Time),
        is_all_well: is_open && listing.backlog.is_none() && filter.clear.is_none(),
        shared,
        command: Command::groups(app_id, &query),
        listing,
        filter,
    })?;
    if shows_shares {
        // The page shows values of payloads.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    Ok(response)
}

impl Group {
    pub(super) fn all(
        app_id: AppId,
        root: &Root,
        query: &ListQuery,
        closed: &Closed,
        groups: Vec<ErrorGroup>,
    ) -> Vec<Self> {
        groups.into_iter().map(|group| Self::new(app_id, root, query, closed, group)).collect()
    }

    fn new(app_id: AppId, root: &Root, query: &ListQuery, closed: &Closed, mut group: ErrorGroup) -> Self {
        if let Some(of_any) = closed.0.get(&group.group_key) {
            (group.closed, group.last_closed_at, group.regressed) = *of_any;
        }
        let regressed_at = group.last_closed_at.filter(|_| group.regressed);
        let signature = signature(&group.group_key, &group.error_signature);
        let filter = query.filter.clone().group_key(group.group_key.clone());
        let letters = ListQuery::new(filter, query.page.clone().after(None));
        let sample =
            Some(group.sample).filter(|sample| !sample.is_empty() && *sample != group.error_signature);
        Self {
            key: group.group_key,
            address: root.letters(app_id, &letters),
            newest: root.letter(app_id, group.newest_id),
            shares: with_field(root.groups(app_id, &letters), "shares", "true"),
            signature,
            sample: sample.map(|sample| Text::cut(&sample, 500)),
            source: Text::cut(&group.source, 100),
            op: Text::cut(&group.op, 100),
            script: group.script_id,
            count: Amount::exactly(group.count),
            last: Time(group.last_seen),
            spark: Spark::new(&group.timeline),
            closed: (group.closed > 0).then(|| Amount::exactly(group.closed)),
            regressed_at: regressed_at.map(Time),
        }
    }
}

/// Returns the signature of a group as a page shows it.
pub(super) fn signature(group_key: &str, error_signature: &str) -> Text {
    Text::cut(
        match (group_key, error_signature) {
            ("", _) => "Letters without a group, from any source",
            (_, "") => "No signature",
            (_, signature) => signature,
        },
        200,
    )
}

/// How many letters of each group are closed, when the last one was closed, and whether the group regressed, by group
/// key.
#[derive(Default)]
pub(super) struct Closed(HashMap<String, (u64, Option<DateTime<Utc>>, bool)>);

impl Closed {
    fn of(groups: &[ErrorGroup]) -> Self {
        let closed = |group: &ErrorGroup| {
            (group.group_key.clone(), (group.closed, group.last_closed_at, group.regressed))
        };
        Self(groups.iter().map(closed).collect())
    }
}

/// Returns what the newest letters share, without those whose payload is too large to show.
async fn shared(access: &AppAccess, root: &Root, query: &ListQuery) -> Result<Shared, Problem> {
    let (store, app_id) = (access.store(), access.app_id);
    let page = PageRequest::default().size(SAMPLE).scan_limit(scan(access.operator()));
    let letters = store.list(app_id, &query.filter, &page).await?.items;
    let ids = letters.iter().filter(|letter| letter.payload_bytes <= MAX_SHOWN_BYTES).map(|letter| letter.id);
    let sample =
        DeadLetterFilter::default().ids(ids.collect::<Vec<_>>()).state(query.filter.effective_state());
    let letters = store.export(app_id, &sample, &page).await?.items;
    let payloads: Vec<_> = letters.into_iter().map(|letter| letter.payload).collect();
    let of = Amount::exactly(payloads.len() as u64);
    let redaction = access.admin().redaction.clone();
    // Parsing and comparing up to 2 MB would block the threads that serve requests.
    let rows =
        spawn_blocking(move || shares(&payloads, &redaction)).await.map_err(|_| Problem::internal())?;
    Ok(Shared { of, rows: rows.into_iter().map(SharedRow::from).collect(), hide: root.groups(app_id, query) })
}
