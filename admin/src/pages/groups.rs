//! An app's error groups, and what the letters of a group have in common.

use std::collections::HashMap;

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
    chart::{Spark, last_day},
    command::Command,
    frame::Frame,
    html,
    letter::MAX_SHOWN_BYTES,
    listing::{Listing, SCAN, View},
    text::{Amount, Text, Time},
};
use crate::{
    access::{Access, AppAccess},
    input::{AppPath, Query},
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
    groups: Vec<Group>,
    /// Where the scan limit stopped the call. Older letters are in no group.
    scanned_back_to: Option<Time>,
    is_all_well: bool,
    shared: Option<Shared>,
    command: Command,
}

struct Group {
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
    settled: Option<Amount>,
    /// When the last letter of the group was closed, if others failed since (regressed).
    came_back_after: Option<Time>,
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
    let shows_shares = fields.is_true("shares")?;
    let query = fields.page_listing(access.operator())?;
    let store = access.store();

    let listing = Listing::load(&access, &root, &query, View::Groups).await?;
    let scan = query.page.scan.or(Some(SCAN));
    let timeline = Some(last_day(listing.now, Spark::BUCKETS));
    let request = GroupRequest { scan, timeline, ..Default::default() };
    let found = store.error_groups(app_id, &query.filter, &request).await?;
    let settled = match query.filter.state {
        DeadLetterState::Any => Settled::of(&found.groups),
        DeadLetterState::Closed => Settled::default(),
        DeadLetterState::Open | DeadLetterState::Unresolved => {
            let any = DeadLetterFilter { state: DeadLetterState::Any, ..query.filter.clone() };
            let request = GroupRequest { limit: 500, scan, timeline: None };
            Settled::of(&store.error_groups(app_id, &any, &request).await?.groups)
        }
    };
    let shared = match shows_shares {
        true => Some(shared(&access, &root, &query).await?),
        false => None,
    };
    let is_open = matches!(query.filter.state, DeadLetterState::Open | DeadLetterState::Unresolved);
    let frame = Frame::of_app(&root, &access).here("Groups");
    let mut response = html(&GroupsPage {
        // A live page would compute the shared values again on each reload.
        frame: if shows_shares { frame } else { frame.live() },
        groups: found
            .groups
            .into_iter()
            .map(|group| Group::new(app_id, &root, &query, &settled, group))
            .collect(),
        scanned_back_to: found.scanned_back_to.map(Time),
        is_all_well: is_open && listing.filter.clear.is_none(),
        shared,
        command: Command::groups(app_id, &query),
        listing,
    })?;
    if shows_shares {
        // The page shows values of payloads.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    Ok(response)
}

impl Group {
    fn new(app_id: AppId, root: &Root, query: &ListQuery, settled: &Settled, group: ErrorGroup) -> Self {
        let (count, last_settled_at) = settled.of_group(&group);
        let came_back = last_settled_at.filter(|&at| at < group.last_seen);
        let is_keyed = !group.group_key.is_empty();
        let filter = DeadLetterFilter { group_key: Some(group.group_key), ..query.filter.clone() };
        let letters = ListQuery { filter, page: PageRequest { after: None, ..query.page.clone() } };
        let sample =
            Some(group.sample).filter(|sample| !sample.is_empty() && *sample != group.error_signature);
        let signature = match (is_keyed, group.error_signature.as_str()) {
            (false, _) => "Letters without a group, of any source",
            (true, "") => "No signature",
            (true, signature) => signature,
        };
        Self {
            address: root.letters(app_id, &letters),
            shares: with_field(root.groups(app_id, &letters), "shares", "true"),
            signature: Text::cut(signature, 200),
            sample: sample.map(|sample| Text::cut(&sample, 500)),
            source: Text::cut(&group.source, 100),
            op: Text::cut(&group.op, 100),
            script: group.script_id,
            count: Amount::exactly(group.count),
            last: Time(group.last_seen),
            spark: Spark::new(&group.timeline),
            settled: (count > 0).then(|| Amount::exactly(count)),
            came_back_after: came_back.map(Time),
        }
    }
}

/// How many letters of each group are closed, and when the last one was closed, by group key.
#[derive(Default)]
struct Settled(HashMap<String, (u64, Option<DateTime<Utc>>)>);

impl Settled {
    fn of(groups: &[ErrorGroup]) -> Self {
        let settled = |group: &ErrorGroup| (group.group_key.clone(), (group.settled, group.last_settled_at));
        Self(groups.iter().map(settled).collect())
    }

    fn of_group(&self, group: &ErrorGroup) -> (u64, Option<DateTime<Utc>>) {
        self.0.get(&group.group_key).copied().unwrap_or_default()
    }
}

/// Returns what the newest letters share, without those whose payload is too large to show.
async fn shared(access: &AppAccess, root: &Root, query: &ListQuery) -> Result<Shared, Problem> {
    let (store, app_id) = (access.store(), access.app_id);
    let page = PageRequest { size: SAMPLE, after: None, scan: Some(SCAN) };
    let letters = store.list(app_id, &query.filter, &page).await?.items;
    let ids = letters.iter().filter(|letter| letter.payload_bytes <= MAX_SHOWN_BYTES).map(|letter| letter.id);
    let sample =
        DeadLetterFilter { ids: Some(ids.collect()), state: query.filter.state, ..Default::default() };
    let letters = store.export(app_id, &sample, &page).await?.items;
    let payloads: Vec<_> = letters.into_iter().map(|letter| letter.payload).collect();
    let of = Amount::exactly(payloads.len() as u64);
    let redaction = access.admin().redaction.clone();
    // Parsing and comparing up to 2 MB would block the threads that serve requests.
    let rows =
        spawn_blocking(move || shares(&payloads, &redaction)).await.map_err(|_| Problem::internal())?;
    Ok(Shared { of, rows: rows.into_iter().map(SharedRow::from).collect(), hide: root.groups(app_id, query) })
}
