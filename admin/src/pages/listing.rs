//! The parts that the pages of letters and groups share: an app's heading, tabs and filter.

use std::{borrow::Cow, time::Duration};

use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, BacklogRequest, CappedCount, Count, CountRequest, DeadLetterFilter, DeadLetterRetention,
    DeadLetterState, ListQuery, Resolution, RetentionPolicy,
};

use super::text::{Amount, Text, Time, resolution_words};
use crate::{access::AppAccess, clock, problem::Problem, urls::Root};

/// Cap of every count, so that the cost of a page does not grow with the number of letters.
pub(crate) const COUNT_CAP: u32 = 1_000;
/// Default scan limit, for filters without an index.
pub(crate) const SCAN: u32 = 10_000;
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

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
    pub(crate) swept: Option<Amount>,
    /// Whether the app has neither a name nor a letter.
    pub(crate) is_unknown: bool,
    pub(crate) view: View,
    pub(crate) letters: String,
    pub(crate) groups: String,
    pub(crate) tabs: [Tab; 4],
    pub(crate) filter: FilterForm,
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
        let unresolved = count(access, query, DeadLetterState::Unresolved).await?;
        let open = count(access, query, DeadLetterState::Open).await?;
        let closed = count(access, query, DeadLetterState::Closed).await?;
        let now = clock::now(access).await?;
        let swept = match &access.admin().retention {
            Some(policy) => swept_within_a_week(&**store, policy, Some(app_id), now).await?,
            None => None,
        };
        let address = |query: &ListQuery, view| match view {
            View::Letters => root.letters(app_id, query),
            View::Groups => root.groups(app_id, query),
        };
        let first_page = first_page(query);
        let tab = |name, state, count| Tab {
            name,
            count,
            address: address(&with_state(&first_page, state), view),
            is_current: state == query.filter.effective_state(),
        };
        let (unresolved, open, closed) = (Amount::from(&unresolved), (&open).into(), (&closed).into());
        let tabs = [
            tab("Open", DeadLetterState::Open, open),
            tab("Unresolved", DeadLetterState::Unresolved, unresolved),
            tab("Closed", DeadLetterState::Closed, closed),
            tab("All", DeadLetterState::Any, sum(open, closed)),
        ];
        let matching = tabs.iter().find(|tab| tab.is_current).map_or(Amount::exactly(0), |tab| tab.count);
        let clear = address(&DeadLetterFilter::default().state(query.filter.effective_state()).into(), view);
        let filter = FilterForm::new(query, clear);
        let has_letters = tabs.iter().any(|tab| tab.count.count > 0 || tab.count.capped);
        let has_name = (access.admin().app_names)(app_id).is_some();
        Ok(Self {
            is_unknown: !has_name && !has_letters && backlogs.is_empty() && filter.clear.is_none(),
            app: Text::cut(&access.admin().app_name(app_id), 200),
            backlog: backlogs.first().map(|backlog| OpenLetters {
                unresolved: backlog.unresolved.into(),
                handler_failed: handler_failed(backlog.open, backlog.unresolved),
                oldest: Time(backlog.oldest),
            }),
            swept,
            view,
            letters: root.letters(app_id, &first_page),
            groups: root.groups(app_id, &first_page),
            tabs,
            filter,
            matching,
            now,
        })
    }

    pub(crate) fn is_groups(&self) -> bool {
        self.view == View::Groups
    }
}

async fn count(access: &AppAccess, query: &ListQuery, state: DeadLetterState) -> Result<Count, Problem> {
    let filter = query.filter.clone().state(state);
    Ok(access
        .store()
        .count(access.app_id, &filter, &CountRequest::default().cap(COUNT_CAP).scan_limit(SCAN))
        .await?)
}

fn handler_failed(open: CappedCount, unresolved: CappedCount) -> Option<Amount> {
    let count = open.count.saturating_sub(unresolved.count);
    (count > 0).then_some(Amount { count, capped: open.capped })
}

/// Adds two counts, up to the cap.
fn sum(one: Amount, other: Amount) -> Amount {
    let (count, cap) = (one.count + other.count, u64::from(COUNT_CAP));
    Amount { count: count.min(cap), capped: one.capped || other.capped || count > cap }
}

/// Returns the query of the list's first page.
pub(crate) fn first_page(query: &ListQuery) -> ListQuery {
    ListQuery::new(query.filter.clone(), query.page.clone().after(None))
}

fn with_state(query: &ListQuery, state: DeadLetterState) -> ListQuery {
    ListQuery::new(query.filter.clone().state(state), query.page.clone())
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
    pub(crate) source: String,
    pub(crate) op: String,
    pub(crate) error_contains: String,
    pub(crate) resolutions: Vec<Choice>,
    pub(crate) more: Vec<Field>,
    pub(crate) is_more_open: bool,
    /// Filter values that have no visible field.
    pub(crate) hidden: Vec<(Cow<'static, str>, String)>,
    /// The address of all letters with the same state, if a filter is set.
    pub(crate) clear: Option<String>,
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
}

/// Name, label and example of each field.
const MORE_FIELDS: [(&str, &str, &str); 12] = [
    ("group_key", "Group", ""),
    ("error_signature", "Signature", ""),
    ("created_from", "Dead-lettered from", "2026-03-01T10:00:00Z"),
    ("created_before", "Dead-lettered before", "2026-03-01T10:00:00Z"),
    ("resolved_by", "Resolved by", ""),
    ("resolved_from", "Resolved from", "2026-03-01T10:00:00Z"),
    ("resolved_before", "Resolved before", "2026-03-01T10:00:00Z"),
    ("run_id", "Resolved in run", "id"),
    ("original_event_id", "Event", "id"),
    ("trigger_id", "Trigger", "id, or none"),
    ("script_id", "Script", "id, or none"),
    ("size", "Letters a page", "50"),
];

impl FilterForm {
    fn new(query: &ListQuery, clear: String) -> Self {
        let mut pairs: Vec<_> = query.pairs().filter(|(name, _)| name != "after").collect();
        let is_filtered = pairs.iter().any(|(name, _)| !["state", "size", "scan_limit"].contains(&&**name));
        let mut take = |name| {
            let at = pairs.iter().position(|pair| pair.0 == name);
            at.map(|at| pairs.remove(at).1).unwrap_or_default()
        };
        let (source, op, error_contains) = (take("source"), take("op"), take("error_contains"));
        let resolution = take("resolution");
        let of_name = |(name, label, hint): (&'static str, &str, _)| Field {
            id: name.into(),
            name: name.into(),
            label: label.into(),
            value: take(name),
            hint,
        };
        let mut more: Vec<_> = MORE_FIELDS.into_iter().map(of_name).collect();
        for (at, (name, value)) in pairs.extract_if(.., |(name, _)| name.starts_with("metadata.")).enumerate()
        {
            let (id, label) = (format!("metadata-{at}").into(), name.replacen('.', " ", 1));
            let label = Text::cut(&label.replacen('m', "M", 1), 60);
            more.push(Field { id, name, label, value, hint: "" });
        }
        let choice = |choice: Resolution| Choice {
            value: choice.as_str(),
            label: resolution_words(Some(choice)),
            is_chosen: choice.as_str() == resolution,
        };
        Self {
            is_more_open: !resolution.is_empty() || more.iter().any(|field| !field.value.is_empty()),
            source,
            op,
            error_contains,
            resolutions: Resolution::ALL.iter().copied().map(choice).collect(),
            more,
            clear: is_filtered.then_some(clear),
            hidden: pairs,
        }
    }
}
