//! A search in the payloads of an app's letters. The page is the response to a POST, so that no address holds the text.

use askama::Template;
use axum::response::Response;
use chrono::Utc;
use dead_letters::{AppId, Cursor, GroupRequest, ListQuery, ListSort, PayloadSearch};

use super::{
    back::Back,
    banner::list_text,
    chart::{Spark, last_day},
    edit::not_stored,
    frame::Frame,
    groups::{Closed, FoundGroups, Group},
    html,
    letter_actions::list_query,
    letters::{Bulk, Row},
    listing::first_page,
    preview::word,
    text::{Amount, Text, Time},
};
use crate::{
    access::{Access, Right},
    input::{AppPath, Form},
    problem::Problem,
    search::{group, search},
    urls::{Root, fits},
};

#[derive(Template)]
#[template(path = "search.html")]
struct SearchPage {
    frame: Frame,
    search: SearchForm,
    conditions: Vec<(Text, Text)>,
    rows: Vec<Row>,
    shown: Amount,
    back: Back,
    bulk: Bulk,
    may_resolve: bool,
    /// The cursor of the next page.
    next: Option<Cursor>,
    /// Where the call stopped before the page was full.
    scanned_back_to: Option<Time>,
    list: String,
}

/// The form of a search.
pub(super) struct SearchForm {
    pub(super) address: String,
    /// The list whose letters are searched, as a query string.
    pub(super) list: String,
    /// The text as it was sent, because the form sends it again.
    pub(super) contains: String,
}

impl SearchForm {
    pub(super) fn new(root: &Root, app_id: AppId, query: &ListQuery, contains: String) -> Self {
        Self { address: root.search(app_id), list: list_text(&first_page(query)), contains }
    }
}

pub(crate) async fn page(
    access: Access,
    AppPath(app_id): AppPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let contains = fields
        .take("payload_contains")?
        .ok_or_else(|| Problem::invalid_field("payload_contains", "is missing"))?;
    let after: Option<Cursor> = fields.parse("after", "must be the cursor of a page")?;
    let is_grouped = fields.is_true("groups")?;
    if is_grouped && after.is_some() {
        return Err(Problem::invalid_field("after", "is not a field of this view: remove it"));
    }
    let query = fields.take("list")?.map(|list| list_query("list", &list)).transpose()?;
    fields.end()?;
    // A list that is too long for an address comes from no page of the admin.
    let query = first_page(&query.unwrap_or_default());
    if !fits(&query) {
        return Err(Problem::invalid_field("list", "is too long for an address"));
    }
    // With the state that the list leaves out.
    let pairs = ListQuery::from(query.filter.clone().state(query.filter.effective_state()));
    let conditions =
        pairs.pairs().filter_map(|(name, value)| Some((word(&name)?.into(), Text::cut(&value, 200))));
    let conditions: Vec<_> = conditions.collect();
    let frame = Frame::of_app(&root, &access).here("Search in payloads");
    let search_form = SearchForm::new(&root, app_id, &query, contains.clone());
    let list = root.letters(app_id, &query);
    if is_grouped {
        let day = last_day(Utc::now(), Spark::BUCKETS);
        let request = GroupRequest::default().scan_limit(query.page.scan_limit).timeline(day);
        let limit = request.limit as usize;
        let found = group(&access, &query.filter, request.payload_contains(contains)).await?;
        let is_full = found.groups.len() == limit;
        let scanned_back_to = found.scanned_back_to.map(Time);
        let groups = Group::all(app_id, &root, &query, &Closed::default(), found.groups);
        let page =
            FoundGroups { frame, search: search_form, conditions, groups, is_full, scanned_back_to, list };
        return Ok(not_stored(html(&page)?));
    }
    let request = PayloadSearch::new(contains.as_str()).filter(query.filter.clone());
    let found = search(&access, request.page(query.page.clone().sort(ListSort::Newest).after(after))).await?;
    Ok(not_stored(html(&SearchPage {
        frame,
        conditions,
        search: search_form,
        shown: Amount::exactly(found.items.len() as u64),
        rows: Row::all(&access, &root, found.items).await?,
        back: Back::Letters(query.clone()),
        bulk: Bulk::new(&access, &root, &query.filter, Amount::exactly(0)),
        may_resolve: access.may(Right::Resolve),
        next: found.next,
        scanned_back_to: found.scanned_back_to.map(Time),
        list,
    })?))
}
