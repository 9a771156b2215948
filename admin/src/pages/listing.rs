//! The parts that the pages of letters and groups share: an app's heading, tabs and filter.

use std::{borrow::Cow, collections::BTreeSet, mem, ops::ControlFlow, time::Duration};

use askama::Template;
use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, DurationRound, SecondsFormat, TimeDelta, Utc};
use dead_letters::{
    AppId, BacklogRequest, CappedCount, Count, CountRequest, DeadLetterFilter, DeadLetterRetention,
    DeadLetterState, ErrorGroup, GroupRequest, ListQuery, ListSort, PageRequest, Resolution, RetentionPolicy,
};

use super::{
    frame::Frame,
    html,
    problem::sentence,
    see_other,
    text::{Amount, Text, Time, is_hidden, resolution_words},
};
use crate::{
    access::{AppAccess, Operator},
    clock,
    input::{Fields, PART, PARTS, TIMES, part_choice, part_field, with_zone},
    problem::Problem,
    urls::{Root, default_state, in_address, with_field},
};

/// Cap of every count, so that the cost of a page does not grow with the number of letters.
pub(crate) const COUNT_CAP: u32 = 1_000;
/// Default scan limit, for filters without an index.
const SCAN: u32 = 10_000;
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Returns how many letters a view examines for this operator if its address sets no scan limit.
pub(crate) fn scan(operator: &Operator) -> u32 {
    SCAN.min(operator.max_scan())
}

impl From<CappedCount> for Amount {
    fn from(CappedCount { count, capped }: CappedCount) -> Self {
        Self { count, capped }
    }
}

impl From<&Count> for Amount {
    fn from(count: &Count) -> Self {
        let CappedCount { count: letters, capped } = count.matching;
        Self { count: letters, capped: capped || count.scanned_back_to.is_some() }
    }
}

/// One of the two views of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Letters,
    Groups,
}

pub(crate) struct Listing {
    pub(crate) app: Text,
    /// `None` if no letter is open.
    pub(crate) backlog: Option<OpenLetters>,
    /// Open letters that the sweeper will delete within a week.
    pub(crate) swept: Option<Swept>,
    /// Whether the app has neither a name nor a letter.
    pub(crate) is_unknown: bool,
    pub(crate) view: View,
    pub(crate) letters: String,
    pub(crate) groups: String,
    pub(crate) tabs: Vec<Tab>,
    /// The number of matching letters.
    pub(crate) matching: Amount,
    /// The current time by the database's clock.
    pub(crate) now: DateTime<Utc>,
}

pub(crate) struct OpenLetters {
    pub(crate) unresolved: Amount,
    /// Letters that are open because their handler failed.
    pub(crate) handler_failed: Option<Amount>,
    pub(crate) oldest: Time,
    /// The address of the open letters, oldest first.
    pub(crate) address: String,
}

/// Open letters that the sweeper will delete, and the address of their list.
pub(crate) struct Swept {
    pub(crate) count: Amount,
    pub(crate) address: String,
}

pub(crate) struct Tab {
    pub(crate) name: &'static str,
    pub(crate) count: Amount,
    pub(crate) address: String,
    pub(crate) is_current: bool,
}

impl Listing {
    pub(crate) async fn load(
        access: &AppAccess,
        root: &Root,
        query: &ListQuery,
        view: View,
    ) -> Result<Self, Problem> {
        let (store, app_id) = (access.store(), access.app_id);
        let backlogs =
            store.backlogs(&BacklogRequest::default().among([app_id]).limit(1).cap(COUNT_CAP)).await?;
        let mut counts = Vec::new();
        for tab in [TabOf::NeedsAction, TabOf::HandlerFailed, TabOf::Closed] {
            counts.push(Amount::from(&count(access, &tab.filter(&query.filter)).await?));
        }
        // A filter on how letters were resolved has no unresolved ones in "All".
        let are_resolved = TabOf::All.filter(&query.filter).matches_resolved_only();
        counts.push(sum(&counts[usize::from(are_resolved)..]));
        let current = TabOf::current(&query.filter);
        let of_tab = TabOf::ALL.into_iter().zip(&counts).find(|(tab, _)| Some(*tab) == current);
        let matching = match of_tab {
            Some((tab, &amount)) if tab.shows(&query.filter) => amount,
            _ => Amount::from(&count(access, &query.filter).await?),
        };
        let now = clock::now(access).await?;
        let swept = match &access.admin().retention {
            Some(policy) => Swept::load(access, root, policy, now).await?,
            None => None,
        };
        let first_page = first_page(query);
        let tab = |(tab, count): (TabOf, Amount)| Tab {
            name: tab.name(),
            count,
            address: view.address(
                root,
                app_id,
                &ListQuery::new(tab.filter(&query.filter), first_page.page.clone()),
            ),
            is_current: Some(tab) == current,
        };
        let is_filtered = TabOf::All.filter(&query.filter) != TabOf::All.filter(&DeadLetterFilter::default());
        let has_letters = counts.iter().any(|count| count.count > 0 || count.capped);
        let has_name = (access.admin().app_names)(app_id).is_some();
        Ok(Self {
            is_unknown: !has_name && !has_letters && backlogs.is_empty() && !is_filtered,
            app: Text::cut(&access.admin().app_name(app_id), 200),
            backlog: backlogs.first().map(|backlog| OpenLetters {
                unresolved: backlog.unresolved.into(),
                handler_failed: handler_failed(backlog.open, backlog.unresolved),
                oldest: Time(backlog.oldest),
                address: {
                    let page = PageRequest::default().sort(ListSort::Oldest);
                    root.letters(app_id, &ListQuery::new(open(), page))
                },
            }),
            swept,
            view,
            letters: root.letters(app_id, &first_page),
            groups: root.groups(app_id, &first_page),
            tabs: TabOf::ALL.into_iter().zip(counts).map(tab).collect(),
            matching,
            now,
        })
    }

    pub(crate) fn is_groups(&self) -> bool {
        self.view == View::Groups
    }
}

impl Swept {
    async fn load(
        access: &AppAccess,
        root: &Root,
        policy: &RetentionPolicy,
        now: DateTime<Utc>,
    ) -> Result<Option<Self>, Problem> {
        let app_id = access.app_id;
        // The address stays the same for an hour, and so do the bytes of the page.
        let now = now.duration_trunc(TimeDelta::hours(1)).unwrap_or(now);
        let Some(count) = swept_within_a_week(&**access.store(), policy, Some(app_id), now).await? else {
            return Ok(None);
        };
        let before = swept_before(policy, app_id, now);
        Ok(before.map(|before| Self { count, address: swept_address(root, app_id, before) }))
    }
}

/// Returns the time before which an open letter of the app was stored if the sweeper will delete it within a week. It
/// stays the same for an hour.
pub(super) fn swept_before(
    policy: &RetentionPolicy,
    app_id: AppId,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let age = policy.apps.get(&app_id).unwrap_or(&policy.others).delete_all_after?;
    let then = now.duration_trunc(TimeDelta::hours(1)).unwrap_or(now);
    let then = then.checked_add_signed(TimeDelta::from_std(WEEK).ok()?)?;
    then.checked_sub_signed(TimeDelta::from_std(age).ok()?)
}

/// Returns the address of the app's open letters that were stored before this time.
pub(super) fn swept_address(root: &Root, app_id: AppId, before: DateTime<Utc>) -> String {
    root.letters(app_id, &open().created_before(before).into())
}

fn open() -> DeadLetterFilter {
    DeadLetterFilter::default().state(DeadLetterState::Open)
}

/// The tabs. Every letter is in exactly one of the first three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TabOf {
    NeedsAction,
    HandlerFailed,
    Closed,
    All,
}

impl TabOf {
    const ALL: [Self; 4] = [Self::NeedsAction, Self::HandlerFailed, Self::Closed, Self::All];

    fn name(self) -> &'static str {
        match self {
            Self::NeedsAction => "Needs action",
            Self::HandlerFailed => "Handler failed",
            Self::Closed => "Closed",
            Self::All => "All",
        }
    }

    /// Returns the filter for the letters of this tab. A resolution chosen in another tab does not hold here.
    fn filter(self, filter: &DeadLetterFilter) -> DeadLetterFilter {
        let (state, resolution) = match self {
            Self::NeedsAction => (DeadLetterState::Unresolved, None),
            Self::HandlerFailed => (DeadLetterState::Open, Some(Resolution::HandlerFailed)),
            Self::Closed => (DeadLetterState::Closed, None),
            Self::All => (DeadLetterState::Any, None),
        };
        let mut filter = filter.clone().state(state).resolution(resolution);
        if self == Self::NeedsAction {
            // A letter that was not resolved has no time at which it was, and nobody who did it.
            (filter.resolved_from, filter.resolved_before, filter.resolved_by) = (None, None, None);
        }
        filter
    }

    /// Returns whether the tab has all letters that match, and no others.
    fn shows(self, filter: &DeadLetterFilter) -> bool {
        self.filter(filter) == filter.clone().state(filter.effective_state())
    }

    /// Returns the tab of a list. The list of all open letters has none.
    fn current(filter: &DeadLetterFilter) -> Option<Self> {
        match filter.effective_state() {
            DeadLetterState::Unresolved => Some(Self::NeedsAction),
            DeadLetterState::Open => Some(Self::HandlerFailed).filter(|tab| tab.shows(filter)),
            DeadLetterState::Closed => Some(Self::Closed),
            DeadLetterState::Any => Some(Self::All),
        }
    }

    /// Returns the resolutions that the tab's letters can have, if these differ.
    fn resolutions(tab: Option<Self>) -> impl Iterator<Item = Resolution> {
        let is_of = move |resolution: &Resolution| match tab {
            Some(Self::Closed) => *resolution != Resolution::HandlerFailed,
            Some(Self::All) => true,
            _ => false,
        };
        Resolution::ALL.iter().copied().filter(is_of)
    }
}

impl View {
    fn address(self, root: &Root, app_id: AppId, query: &ListQuery) -> String {
        match self {
            Self::Letters => root.letters(app_id, query),
            Self::Groups => root.groups(app_id, query),
        }
    }
}

async fn count(access: &AppAccess, filter: &DeadLetterFilter) -> Result<Count, Problem> {
    let request = CountRequest::default().cap(COUNT_CAP).scan_limit(scan(access.operator()));
    Ok(access.store().count(access.app_id, filter, &request).await?)
}

fn handler_failed(open: CappedCount, unresolved: CappedCount) -> Option<Amount> {
    let count = open.count.saturating_sub(unresolved.count);
    (count > 0).then_some(Amount { count, capped: open.capped })
}

/// Adds counts, up to the cap.
fn sum(amounts: &[Amount]) -> Amount {
    let count = amounts.iter().map(|amount| amount.count).sum();
    let cap = u64::from(COUNT_CAP);
    Amount { count: cap.min(count), capped: count > cap || amounts.iter().any(|amount| amount.capped) }
}

/// Returns the query of the list's first page.
pub(crate) fn first_page(query: &ListQuery) -> ListQuery {
    ListQuery::new(query.filter.clone(), query.page.clone().after(None))
}

/// Returns what a list's address asks for, or a redirect to the list's own address.
///
/// That address has no empty fields, and a range of time that ends now has become the time at which it begins. A list
/// without a state has its [`default_state`].
pub(crate) async fn asked(
    access: &AppAccess,
    root: &Root,
    view: View,
    mut fields: Fields,
    kept: &[(&str, Option<&str>)],
) -> Result<ControlFlow<Response, ListQuery>, Problem> {
    let within = fields.parse::<Within>("within", "must be 15m, 1h, 24h or 7d")?;
    let (mut query, is_canonical) = fields.page_listing(access)?;
    if let Some(Within(length)) = within {
        let now = clock::now(access).await?;
        let from = now.checked_sub_signed(length).unwrap_or(now);
        let from = from.duration_trunc(TimeDelta::seconds(1)).unwrap_or(from);
        query.filter = match query.filter.effective_state() {
            DeadLetterState::Closed => query.filter.resolved_from(from).resolved_before(None),
            _ => query.filter.created_from(from).created_before(None),
        };
    }
    let is_short = is_canonical && query == in_address(&query);
    if within.is_some() || !is_short {
        let address = view.address(root, access.app_id, &query);
        let fields = kept.iter().filter_map(|(name, value)| Some((name, (*value)?)));
        let address = fields.fold(address, |address, (name, value)| with_field(address, name, value));
        return Ok(ControlFlow::Break(see_other(&address)));
    }
    query.filter.state = query.filter.state.or(default_state(&query.filter));
    Ok(ControlFlow::Continue(query))
}

/// A range of time that ends now.
#[derive(Debug, Clone, Copy)]
struct Within(TimeDelta);

impl std::str::FromStr for Within {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "15m" => Ok(Self(TimeDelta::minutes(15))),
            "1h" => Ok(Self(TimeDelta::hours(1))),
            "24h" => Ok(Self(TimeDelta::hours(24))),
            "7d" => Ok(Self(TimeDelta::days(7))),
            _ => Err(()),
        }
    }
}

/// A list whose filter has an invalid value: the form as it was sent, and no letters.
#[derive(Template)]
#[template(path = "invalid.html")]
struct InvalidPage {
    frame: Frame,
    app: Text,
    filter: FilterForm,
}

/// Returns the page of an invalid filter, or the problem if it is not about a field.
pub(crate) fn invalid(
    access: &AppAccess,
    root: &Root,
    view: View,
    sent: Fields,
    problem: Problem,
) -> Result<Response, Problem> {
    let Some(field) = problem.invalid_value() else { return Err(problem) };
    let clear = view.address(root, access.app_id, &ListQuery::default());
    let page = html(&InvalidPage {
        frame: Frame::of_app(root, access),
        app: Text::cut(&access.admin().app_name(access.app_id), 200),
        filter: FilterForm::as_sent(sent.into_pairs(), field, problem.detail(), clear),
    })?;
    Ok((StatusCode::BAD_REQUEST, page).into_response())
}

/// Counts the open letters of one app, or of all apps, that the sweeper will delete within a week. Returns `None` if
/// there are none.
pub(crate) async fn swept_within_a_week(
    store: &dyn DeadLetterRetention,
    policy: &RetentionPolicy,
    app_id: Option<AppId>,
    now: DateTime<Utc>,
) -> Result<Option<Amount>, Problem> {
    let due = policy.due_within(store, app_id, now, WEEK, COUNT_CAP).await?;
    Ok(Some(due.into()).filter(|due: &Amount| due.count > 0))
}

/// The filter bar. Its values are those of the query string, without escapes for hidden characters, because the form
/// sends them again.
pub(crate) struct FilterForm {
    pub(crate) fields: Vec<Field>,
    pub(crate) resolutions: Vec<Choice>,
    pub(crate) resolution_error: Option<Text>,
    /// The two ends of a time range.
    pub(crate) range: Vec<Field>,
    pub(crate) is_range_open: bool,
    pub(crate) more: Vec<Field>,
    pub(crate) is_more_open: bool,
    /// Filter values that have no visible field.
    pub(crate) hidden: Vec<(Cow<'static, str>, String)>,
    /// The address of all letters of the same tab, if a filter is set.
    pub(crate) clear: Option<String>,
    /// The problem with a field that the form does not show.
    pub(crate) error: Option<Text>,
    /// Sources and operations that the form offers.
    pub(crate) sources: BTreeSet<String>,
    pub(crate) ops: BTreeSet<String>,
}

pub(crate) struct Choice {
    pub(crate) value: &'static str,
    pub(crate) label: &'static str,
    pub(crate) is_chosen: bool,
}

pub(crate) struct Field {
    pub(crate) id: Cow<'static, str>,
    pub(crate) name: Cow<'static, str>,
    pub(crate) label: Text,
    pub(crate) value: String,
    pub(crate) hint: &'static str,
    /// The id of the list of values that the field offers.
    pub(crate) list: Option<&'static str>,
    pub(crate) is_wide: bool,
    /// Whether the field is a time, and its value is one that the browser's input for times can hold.
    pub(crate) is_time: bool,
    /// Whether the value is a part of the text, for a field that offers the choice.
    pub(crate) is_part: Option<bool>,
    pub(crate) error: Option<Text>,
}

/// Name, label and example of the fields that are always visible.
const FIELDS: [(&str, &str, &str); 3] =
    [("source", "Source", ""), ("op", "Operation", ""), ("error_contains", "Error contains (any case)", "")];

/// The time range of a tab, and that of closed letters.
const RANGE: [(&str, &str, &str); 2] =
    [("created_from", "Dead-lettered from", TIME), ("created_before", "Dead-lettered before", TIME)];
const RANGE_OF_CLOSED: [(&str, &str, &str); 2] =
    [("resolved_from", "Resolved from", TIME), ("resolved_before", "Resolved before", TIME)];

/// Name, label and example of each other field.
const MORE_FIELDS: [(&str, &str, &str); 10] = [
    ("group_key", "Group", ""),
    ("error_signature", "Signature", ""),
    ("resolved_by", "Resolved by", ""),
    ("run_id", "Resolved in run", "id"),
    ("original_event_id", "Event", "id"),
    ("trigger_id", "Trigger", "id, or none"),
    ("script_id", "Script", "id, or none"),
    ("size", "Letters a page", "50"),
    ("metadata_key", "Metadata key", "tenant"),
    ("metadata_value", "Metadata value", ""),
];
const TIME: &str = "2026-03-01T10:00:00Z";

/// The most values that the form offers for a field.
const MAX_OFFERED: usize = 100;
/// How many letters are examined for them.
const OFFERED: u32 = 2_000;

impl FilterForm {
    pub(crate) fn new(root: &Root, app_id: AppId, view: View, query: &ListQuery) -> Self {
        let current = TabOf::current(&query.filter);
        let all = DeadLetterFilter::default().state(query.filter.effective_state());
        let all = if current == Some(TabOf::HandlerFailed) { TabOf::HandlerFailed.filter(&all) } else { all };
        let is_filtered = query.filter.clone().state(query.filter.effective_state()) != all;
        // The form leaves out the state as the address does. A resolution that the operator adds then matches closed
        // letters, and with the state it would match none.
        let pairs = in_address(query).pairs().filter(|(name, _)| name != "after").collect();
        let clear = is_filtered.then(|| view.address(root, app_id, &all.into()));
        Self::of(pairs, TabOf::resolutions(current), clear)
    }

    /// Returns the form with what was sent, and the problem at its field.
    fn as_sent(pairs: Vec<(String, String)>, field: &str, problem: &str, clear: String) -> Self {
        let pairs = pairs.into_iter().map(|(name, value)| (name.into(), value)).collect();
        let mut form = Self::of(pairs, Resolution::ALL.iter().copied(), Some(clear));
        // A field without an input could not be corrected.
        let is_field = |name: &str| ListQuery::from_pairs([(name, "")]).is_ok();
        form.hidden.retain(|(name, _)| name != field && name != "after" && is_field(name));
        // At the field, the problem needs no name.
        let at_field = sentence(problem.strip_prefix(&format!("{field:?} ")).unwrap_or(problem));
        let mut fields = form.fields.iter_mut().chain(&mut form.range).chain(&mut form.more);
        if let Some(found) = fields.find(|found| found.sends(field)) {
            found.error = Some(at_field);
        } else if field == "resolution" {
            form.resolution_error = Some(at_field);
        } else {
            form.error = Some(sentence(problem));
        }
        form.is_range_open |= form.range.iter().any(|field| field.error.is_some());
        form.is_more_open |=
            form.resolution_error.is_some() || form.more.iter().any(|field| field.error.is_some());
        form
    }

    fn of(
        mut pairs: Vec<(Cow<'static, str>, String)>,
        resolutions: impl Iterator<Item = Resolution>,
        clear: Option<String>,
    ) -> Self {
        let is_closed = pairs.iter().any(|(name, value)| name == "state" && value == "closed");
        let mut take = |name| {
            let at = pairs.iter().position(|pair| pair.0 == name);
            at.map(|at| pairs.remove(at).1).unwrap_or_default()
        };
        let mut field = |(name, label, hint): (&'static str, &str, _)| {
            Field::new(name.into(), name.into(), label.into(), take(name), hint)
        };
        let mut fields: Vec<_> = FIELDS.into_iter().map(&mut field).collect();
        let (range, other) = if is_closed { (RANGE_OF_CLOSED, RANGE) } else { (RANGE, RANGE_OF_CLOSED) };
        let range: Vec<_> = range.into_iter().map(&mut field).collect();
        let mut more: Vec<_> = other.into_iter().chain(MORE_FIELDS).map(&mut field).collect();
        for (at, (name, value)) in pairs.extract_if(.., |(name, _)| name.starts_with("metadata.")).enumerate()
        {
            let label = name.replacen('.', " ", 1).replacen('m', "M", 1);
            more.push(Field::new(format!("metadata-{at}").into(), name, Text::cut(&label, 60), value, ""));
        }
        for field in &mut fields {
            field.choose_part(&mut pairs);
        }
        let resolution = pairs.iter().find(|(name, _)| name == "resolution").map(|(_, value)| value.clone());
        let choice = |choice: Resolution| Choice {
            value: choice.as_str(),
            label: resolution_words(Some(choice)),
            is_chosen: resolution.as_deref() == Some(choice.as_str()),
        };
        let resolutions: Vec<_> = resolutions.map(choice).collect();
        if !resolutions.is_empty() {
            pairs.retain(|(name, _)| name != "resolution");
        }
        Self {
            is_more_open: resolutions.iter().any(|choice| choice.is_chosen)
                || more.iter().any(|field| !field.value.is_empty()),
            is_range_open: range.iter().any(|field| !field.value.is_empty()),
            fields,
            range,
            resolutions,
            resolution_error: None,
            more,
            hidden: pairs,
            clear,
            error: None,
            sources: BTreeSet::new(),
            ops: BTreeSet::new(),
        }
    }

    /// Offers the sources and operations of the app's newest letters of this state.
    pub(crate) async fn offering(self, access: &AppAccess, state: DeadLetterState) -> Result<Self, Problem> {
        let of_state = DeadLetterFilter::default().state(state);
        let scan_limit = OFFERED.min(access.operator().max_scan());
        let request = GroupRequest::default().limit(MAX_OFFERED as u32).scan_limit(scan_limit);
        let groups = access.store().error_groups(access.app_id, &of_state, &request).await?.groups;
        Ok(self.offering_those_of(&groups))
    }

    /// Offers the sources and operations of these groups.
    pub(crate) fn offering_those_of(mut self, groups: &[ErrorGroup]) -> Self {
        // The form would cut blanks off, and a browser may change a line break.
        let is_offered = |text: &&str| text.trim() == *text && !text.contains(is_hidden) && !text.is_empty();
        let offered = |texts: Vec<&str>| -> BTreeSet<String> {
            texts.into_iter().filter(is_offered).map(str::to_owned).take(MAX_OFFERED).collect()
        };
        self.sources = offered(groups.iter().map(|group| group.source.as_str()).collect());
        self.ops = offered(groups.iter().map(|group| group.op.as_str()).collect());
        for (field, list, values) in [("source", "sources", &self.sources), ("op", "ops", &self.ops)] {
            let found = self.fields.iter_mut().find(|found| found.name == field);
            if let Some(found) = found.filter(|_| !values.is_empty()) {
                found.list = Some(list);
            }
        }
        self
    }
}

impl Field {
    fn new(
        id: Cow<'static, str>,
        name: Cow<'static, str>,
        label: Text,
        value: String,
        hint: &'static str,
    ) -> Self {
        let time = Some(&value).filter(|_| TIMES.contains(&&*name)).and_then(|value| to_input(value));
        Self {
            is_wide: name == "error_contains",
            is_time: time.is_some(),
            is_part: None,
            value: time.unwrap_or(value),
            id,
            name,
            label,
            hint,
            list: None,
            error: None,
        }
    }
}

impl Field {
    /// Offers to look for the whole text or for a part of it, if the filter can do both. If it has both, the part stays
    /// among `pairs`, which the form sends as they are.
    fn choose_part(&mut self, pairs: &mut Vec<(Cow<'static, str>, String)>) {
        if !PARTS.contains(&&*self.name) {
            return;
        }
        let mut take = |name: String| {
            let at = pairs.iter().position(|pair| pair.0 == name);
            at.map(|at| pairs.remove(at).1)
        };
        let chosen = take(part_choice(&self.name)).is_some_and(|chosen| chosen == PART);
        let part = if self.value.is_empty() { take(part_field(&self.name)) } else { None };
        self.is_part = Some(chosen || part.is_some());
        self.value = part.unwrap_or_else(|| mem::take(&mut self.value));
    }

    /// Returns whether the input sends the field of this name.
    fn sends(&self, name: &str) -> bool {
        self.name == name || self.is_contains() && name == part_field(&self.name)
    }

    /// Returns whether the value is a part of the text.
    pub(crate) fn is_contains(&self) -> bool {
        self.is_part == Some(true)
    }

    /// Returns the name of the choice between the whole text and a part.
    pub(crate) fn choice(&self) -> String {
        part_choice(&self.name)
    }
}

/// Returns a time in the format of the browser's input for times: in UTC, without a zone. Returns `None` if the input
/// takes no such value.
fn to_input(value: &str) -> Option<String> {
    if value.is_empty() {
        return Some(String::new());
    }
    // The input sends a time without a zone, if the browser has no JavaScript.
    let time: DateTime<Utc> = with_zone(value).parse().ok()?;
    let text = time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    // Years with more digits, and fractions below a millisecond.
    (text.starts_with(|c: char| c.is_ascii_digit()) && text.len() <= "2026-03-01T10:00:00.000Z".len())
        .then(|| text.trim_end_matches('Z').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_counts_is_capped_if_one_is_or_if_it_is_over_the_cap() {
        let of = |counts: &[u64]| sum(&counts.iter().copied().map(Amount::exactly).collect::<Vec<_>>());
        assert_eq!(of(&[400, 600]), Amount { count: 1_000, capped: false });
        assert_eq!(of(&[400, 601]), Amount { count: 1_000, capped: true });
        let capped = Amount { count: 300, capped: true };
        assert_eq!(sum(&[capped, Amount::exactly(1)]), Amount { count: 301, capped: true });
    }
}
