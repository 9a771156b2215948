//! The page that a letter, a preview, a result or an error page leads back to.
//!
//! It travels in forms and addresses. It names one of the admin's own pages by its parsed fields, so it leads nowhere
//! else, even if it is forged.

use std::{fmt, str::FromStr};

use dead_letters::{AppId, ListQuery};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::apps::Sort;
use crate::{
    input::Fields,
    problem::Problem,
    urls::{Root, fits, with_field},
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) enum Back {
    /// A list of an app's letters.
    Letters(ListQuery),
    /// A list of an app's groups.
    Groups(ListQuery),
    /// The overview: its order, and the app behind which it begins.
    Overview(Option<Sort>, Option<AppId>),
    /// The letters of an id in all apps.
    Find(Uuid),
    /// The page of a bulk run in these apps, as the history has it.
    Run(Uuid, Vec<AppId>),
}

/// A run of more apps makes the address of a letter too long.
const MAX_APPS_OF_RUN: usize = 30;

impl Default for Back {
    fn default() -> Self {
        Self::Letters(ListQuery::default())
    }
}

impl Back {
    /// Returns the page of a `Referer`, if a letter of the app or a form can lead back to it.
    pub(crate) fn of(referrer: &str, app_id: AppId) -> Option<Self> {
        let (path, query) = referrer.split_once('?').unwrap_or((referrer, ""));
        let (parents, page) = path.rsplit_once('/')?;
        let is_of_app =
            |path: &str| path.strip_suffix(&app_id.to_string()).is_some_and(|path| path.ends_with("/apps/"));
        match page {
            "groups" if is_of_app(parents) => list(query).map(Self::Groups),
            "apps" => Some(overview(query)),
            "find" => find(query),
            id if parents.ends_with("/runs") => run(id.parse().ok()?, query),
            _ if is_of_app(path) => list(query).map(Self::Letters),
            _ => None,
        }
    }

    /// Returns the page of a run, unless it has too many apps.
    pub(crate) fn of_run(run_id: Uuid, apps: Vec<AppId>) -> Option<Self> {
        (1..=MAX_APPS_OF_RUN).contains(&apps.len()).then_some(Self::Run(run_id, apps))
    }

    /// Takes the field `name` of a form.
    pub(crate) fn take(fields: &mut Fields, name: &str) -> Result<Option<Self>, Problem> {
        fields.parse(name, "must name a page of the admin")
    }

    /// Returns the page that a run over these apps returns to: from several apps no list of one.
    pub(crate) fn of_apps(back: Option<Self>, apps: &[AppId]) -> Self {
        match (back, apps) {
            (Some(back @ (Self::Overview(..) | Self::Find(_) | Self::Run(..))), _) => back,
            (back, [_]) => back.unwrap_or_default(),
            _ => Self::Overview(None, None),
        }
    }

    /// Adds a link to this page to a problem.
    pub(crate) fn on(from: Option<&Self>, problem: Problem, root: &Root, app_id: AppId) -> Problem {
        match from {
            Some(from) => problem.leads_to(from.address(root, &[app_id]), from.label()),
            None => problem,
        }
    }

    /// Returns the label of a link that leads there.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Letters(_) => "Back to the list",
            Self::Groups(_) => "Back to the groups",
            Self::Overview(..) => "Back to the overview",
            Self::Find(_) => "Back to the search",
            Self::Run(..) => "Back to the run",
        }
    }

    /// Returns its address. From several apps it is the overview.
    pub(crate) fn address(&self, root: &Root, apps: &[AppId]) -> String {
        match (self, apps) {
            (Self::Letters(query), &[app_id]) => root.letters(app_id, query),
            (Self::Groups(query), &[app_id]) => root.groups(app_id, query),
            (&Self::Overview(sort, after), _) => fields_of_overview(sort, after)
                .fold(root.apps(), |address, (name, value)| with_field(address, name, &value)),
            (Self::Find(id), _) => with_field(root.find(), "id", &id.to_string()),
            (Self::Run(run_id, apps), _) => root.run(*run_id, apps),
            _ => root.apps(),
        }
    }
}

/// Returns the list of an address. Empty fields, the banner and the shared values are no part of it.
fn list(query: &str) -> Option<ListQuery> {
    let fields = form_urlencoded::parse(query.as_bytes()).into_owned();
    let fields = fields.filter(|(name, value)| !["banner", "shares"].contains(&&**name) && !value.is_empty());
    ListQuery::from_pairs(fields).ok().filter(fits)
}

fn overview(query: &str) -> Back {
    let value = |wanted| form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == wanted);
    let sort = value("sort").and_then(|(_, sort)| sort.parse().ok());
    Back::Overview(sort, value("after").and_then(|(_, after)| after.parse().ok()))
}

fn fields_of_overview(
    sort: Option<Sort>,
    after: Option<AppId>,
) -> impl Iterator<Item = (&'static str, String)> {
    let sort = sort.map(|sort| ("sort", sort.as_str().to_owned()));
    sort.into_iter().chain(after.map(|after| ("after", after.to_string())))
}

fn find(query: &str) -> Option<Back> {
    let id = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "id");
    id?.1.trim().parse().ok().map(Back::Find)
}

fn run(run_id: Uuid, query: &str) -> Option<Back> {
    let apps = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "app");
    let apps = apps.map(|(_, app)| app.parse().ok()).collect::<Option<Vec<AppId>>>()?;
    Back::of_run(run_id, apps)
}

impl fmt::Display for Back {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Never empty, because an empty field counts as missing.
            Self::Letters(query) => write!(f, "?{query}"),
            Self::Groups(query) => write!(f, "groups?{query}"),
            &Self::Overview(sort, after) => {
                let mut fields = form_urlencoded::Serializer::new(String::new());
                write!(f, "apps?{}", fields.extend_pairs(fields_of_overview(sort, after)).finish())
            }
            Self::Find(id) => write!(f, "find?id={id}"),
            Self::Run(run_id, apps) => {
                write!(f, "run?id={run_id}")?;
                apps.iter().try_for_each(|&app_id| write!(f, "&app={}", Uuid::from(app_id).simple()))
            }
        }
    }
}

impl FromStr for Back {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        // A list that is too long for an address comes from no page of the admin, so it leads to the whole list.
        let list = |query: &str| {
            let query: ListQuery = query.parse().map_err(|_| ())?;
            Ok(if fits(&query) { query } else { ListQuery::default() })
        };
        match text.split_once('?') {
            Some(("", query)) => list(query).map(Self::Letters),
            Some(("groups", query)) => list(query).map(Self::Groups),
            Some(("apps", query)) => Ok(overview(query)),
            Some(("find", query)) => find(query).ok_or(()),
            Some(("run", query)) => {
                let Some(Self::Find(run_id)) = find(query) else { return Err(()) };
                run(run_id, query).ok_or(())
            }
            _ => Err(()),
        }
    }
}

impl From<Back> for String {
    fn from(back: Back) -> Self {
        back.to_string()
    }
}

impl TryFrom<String> for Back {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        text.parse().map_err(|()| "not a page of the admin")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_found_by_its_referrer_and_nothing_else_is() {
        let root = Root::of("/apps/a/letters/b", "/apps/a/letters/b");
        let app_id: AppId = Uuid::nil().into();
        let back = |referrer: String| Some(Back::of(&referrer, app_id)?.address(&root, &[app_id]));
        let admin = "https://ops.example/admin";
        let app = format!("apps/{app_id}");
        for (address, expected) in [
            (app.clone(), app.clone()),
            (format!("{app}?source=orders&op=&banner=x"), format!("{app}?source=orders")),
            (format!("{app}?state=closed&size=20"), format!("{app}?state=closed&size=20")),
            (format!("{app}/groups?source=orders&shares=true"), format!("{app}/groups?source=orders")),
            ("apps".to_owned(), "apps".to_owned()),
            ("apps?sort=most&banner=x".to_owned(), "apps?sort=most".to_owned()),
            (format!("find?id={app_id}"), format!("find?id={app_id}")),
            (format!("runs/{app_id}?app={app_id}&run=x"), format!("runs/{app_id}?app={app_id}")),
        ] {
            assert_eq!(back(format!("{admin}/{address}")), Some(format!("../../../{expected}")));
        }
        for referrer in [
            format!("{admin}/{app}/letters/{app_id}"),
            format!("{admin}/{app}?nonsense=1"),
            format!("{admin}/apps/{}", Uuid::max()),
            format!("{admin}/apps/{}/groups", Uuid::max()),
            format!("{admin}/{app}?source={}", "x".repeat(2_000)),
            format!("{admin}/find?id=x"),
            format!("{admin}/runs/{app_id}?run=x"),
            "https://ops.example/".to_owned(),
        ] {
            assert_eq!(back(referrer.clone()), None, "{referrer}");
        }
    }

    #[test]
    fn a_page_is_parsed_from_its_text() {
        let list: ListQuery = "source=a%3Fb&state=closed".parse().unwrap();
        for back in [
            Back::default(),
            Back::Letters(list.clone()),
            Back::Groups(list),
            Back::Overview(None, None),
            Back::Overview(Some(Sort::Most), Some(Uuid::max().into())),
            Back::Find(Uuid::nil()),
            Back::Run(Uuid::max(), vec![Uuid::nil().into(), Uuid::max().into()]),
        ] {
            assert_eq!(back.to_string().parse(), Ok(back));
        }
        for text in ["", "apps", "https://elsewhere.example/?", "/apps?", "find?id=x", "?nonsense=1"] {
            assert_eq!(text.parse::<Back>(), Err(()), "{text}");
        }
    }

    #[test]
    fn several_apps_lead_back_to_the_overview() {
        let root = Root::of("/bulk/run", "/bulk/run");
        let apps = [Uuid::nil().into(), Uuid::max().into()];
        assert_eq!(Back::default().address(&root, &apps), "../apps");
    }
}
