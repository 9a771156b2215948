//! The frame around every page.

use super::{banner::Banner, text::Text};
use crate::{
    access::{Access, AppAccess},
    assets::{ICON, SCRIPT, STYLE},
    urls::Root,
};

pub(crate) struct Frame {
    pub(crate) style: String,
    pub(crate) script: String,
    pub(crate) icon: String,
    pub(crate) apps: String,
    pub(crate) find: String,
    pub(crate) sought: Sought,
    pub(crate) operator: Option<Text>,
    /// The breadcrumbs to this page, which comes last.
    pub(crate) crumbs: Vec<Crumb>,
    pub(crate) banner: Option<Banner>,
    /// Whether the script reloads the page from time to time.
    pub(crate) is_live: bool,
    /// The address that the script shows if the page is the response to an action, so that a reload does not repeat
    /// the action.
    pub(crate) instead: Option<String>,
}

/// The text of the search for an id, as it was sent, because the form sends it again.
#[derive(Default)]
pub(crate) struct Sought {
    pub(crate) text: String,
    pub(crate) is_invalid: bool,
}

pub(crate) struct Crumb {
    pub(crate) name: Text,
    /// `None` for the page itself.
    pub(crate) address: Option<String>,
}

impl Frame {
    /// Returns the frame of a page that does not require an operator.
    pub(crate) fn bare(root: &Root) -> Self {
        Self {
            style: root.asset(STYLE.name()),
            script: root.asset(SCRIPT.name()),
            icon: root.asset(ICON.name()),
            apps: root.apps(),
            find: root.find(),
            sought: Sought::default(),
            operator: None,
            crumbs: Vec::new(),
            banner: None,
            is_live: false,
            instead: None,
        }
    }

    pub(crate) fn new(root: &Root, access: &Access) -> Self {
        Self { operator: Some(Text::cut(access.operator.name(), 100)), ..Self::bare(root) }
    }

    pub(crate) fn of_app(root: &Root, access: &AppAccess) -> Self {
        let app = access.admin().app_name(access.app_id);
        let operator = Some(Text::cut(access.operator().name(), 100));
        Self { operator, ..Self::bare(root) }
            .crumb("Overview", root.apps())
            .crumb(&app, root.letters(access.app_id, &Default::default()))
    }

    /// Returns the frame of a page about these apps: that of the app if there is one.
    pub(crate) fn of_apps(root: &Root, access: &Access, accesses: &[AppAccess]) -> Self {
        match accesses {
            [access] => Self::of_app(root, access),
            _ => Self::new(root, access).crumb("Overview", root.apps()),
        }
    }

    /// Adds a breadcrumb.
    pub(crate) fn crumb(mut self, name: &str, address: String) -> Self {
        self.crumbs.push(Crumb { name: Text::cut(name, 100), address: Some(address) });
        self
    }

    /// Adds the page itself as the last breadcrumb.
    pub(crate) fn here(mut self, name: &str) -> Self {
        self.crumbs.push(Crumb { name: Text::cut(name, 100), address: None });
        self
    }

    /// Makes the last breadcrumb the page itself.
    pub(crate) fn ends(mut self) -> Self {
        if let Some(last) = self.crumbs.last_mut() {
            last.address = None;
        }
        self
    }

    pub(crate) fn instead(self, address: String) -> Self {
        Self { instead: Some(address), ..self }
    }

    pub(crate) fn sought(self, text: &str, is_invalid: bool) -> Self {
        // The input takes no more.
        let text = text.chars().take(100).collect();
        Self { sought: Sought { text, is_invalid }, ..self }
    }

    pub(crate) fn live(self) -> Self {
        Self { is_live: true, ..self }
    }

    pub(crate) fn banner(self, banner: Option<Banner>) -> Self {
        Self { banner, ..self }
    }
}
