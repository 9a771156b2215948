//! The banner on the page after an action: what the action did, and to which letters.
//!
//! The server keeps no state, so the banner travels in the address. It is sealed, so that nobody can forge a banner.

use std::borrow::Cow;

use axum::response::Response;
use chrono::{DateTime, Utc};
use dead_letters::{AppId, DeadLetterId, ListQuery, Resolution};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    back::Back,
    see_other,
    text::{Amount, Text, Time, action_words},
};
use crate::{
    access::{Access, AppAccess},
    bulk::Action,
    problem::Problem,
    token::Purpose,
    urls::{Root, with_field},
};

/// The banner as the page shows it.
pub(crate) struct Banner {
    pub(crate) text: Text,
    pub(crate) link: Option<Link>,
    pub(crate) undo: Option<Undo>,
}

/// A link to what the action changed.
pub(crate) struct Link {
    pub(crate) address: String,
    pub(crate) name: &'static str,
}

/// The form that undoes the action.
pub(crate) struct Undo {
    pub(crate) action: String,
    pub(crate) fields: Vec<(&'static str, String)>,
}

impl Undo {
    /// Returns the form that undoes a bulk run in these apps, and returns to the list.
    pub(crate) fn of_run(root: &Root, apps: &[AppId], run_id: Uuid, back: &Back) -> Self {
        let apps = apps.iter().map(|app_id| ("app", app_id.to_string()));
        let fields = apps.chain([("run_id", run_id.to_string()), ("back", back.to_string())]);
        Self { action: root.bulk("undo"), fields: fields.collect() }
    }

    /// Returns the form of an action on a letter, which returns to the page of the banner.
    fn of_letter(root: &Root, app_id: AppId, id: DeadLetterId, action: &str, on: &On) -> Self {
        let fields = match on {
            On::Page(back) => vec![("back", back.to_string())],
            On::Letter(from) => from.iter().map(|from| ("from", from.to_string())).collect(),
        };
        Self { action: root.letter_action(app_id, id, action), fields }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.to_owned()));
        self
    }
}

/// The page that shows a banner.
pub(crate) enum On {
    /// The letter's own page, and the page that it leads back to.
    Letter(Option<Back>),
    /// Another page, which actions return to.
    Page(Back),
}

/// The outcome of an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Told {
    /// One letter was resolved like this. It can be undone while the letter has this `resolved_at`.
    Resolved(DeadLetterId, Resolution, Option<DateTime<Utc>>),
    Replayed(DeadLetterId),
    ReplayedEdited(DeadLetterId),
    /// One letter was reopened. It had this resolution, and this row of the history has the reopening. It can be undone
    /// while that is the letter's last change.
    Reopened(DeadLetterId, Option<(Resolution, Uuid)>),
    Erased(DeadLetterId),
    /// A bulk run changed `done` letters of the app. `which` describes them.
    Run {
        done: u64,
        action: Action,
        which: String,
        run_id: Uuid,
    },
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    operator: String,
    app_id: AppId,
    told: Told,
}

/// Returns a 303 to the address, whose page shows the banner.
pub(crate) fn tell(access: &AppAccess, address: String, told: Told) -> Response {
    let operator = access.operator().name().to_owned();
    let sealed = Sealed { operator, app_id: access.app_id, told };
    let token = access.admin().key.seal(Purpose::Banner, &sealed);
    see_other(&with_field(address, "banner", &token))
}

impl Banner {
    /// Returns the banner of the address if it belongs to this operator, and to this app if there is one.
    pub(crate) async fn read(
        access: &Access,
        root: &Root,
        token: Option<String>,
        app_id: Option<AppId>,
        on: &On,
    ) -> Result<Option<Self>, Problem> {
        let sealed = token.and_then(|token| access.admin.key.open::<Sealed>(Purpose::Banner, &token));
        let is_ours = |sealed: &Sealed| {
            sealed.operator == access.operator.name()
                && access.operator.sees(sealed.app_id)
                && app_id.is_none_or(|app_id| app_id == sealed.app_id)
        };
        let Some(Sealed { told, app_id, .. }) = sealed.filter(is_ours) else { return Ok(None) };
        let undo = match told {
            Told::Resolved(id, _, Some(at)) => {
                let undo = Undo::of_letter(root, app_id, id, "reopen", on);
                Some(undo.with("resolved_at", &Time(at).exact()))
            }
            Told::Reopened(id, Some((resolution, reopening))) if resolution.may_be_chosen() => {
                let undo = Undo::of_letter(root, app_id, id, "resolve", on);
                let undo = undo.with("resolution", resolution.as_str());
                Some(undo.with("reopening", &reopening.to_string()))
            }
            Told::Run { run_id, action, done: 1.., .. } if action.can_be_undone() => {
                let back = match on {
                    On::Page(back) => back,
                    On::Letter(_) => &Back::default(),
                };
                Some(Undo::of_run(root, &[app_id], run_id, back))
            }
            _ => None,
        };
        let link = match told {
            Told::Run { done: 0, .. } => None,
            Told::Run { run_id, .. } => Some(Link { address: root.run(run_id, &[app_id]), name: "The run" }),
            Told::Resolved(id, ..)
            | Told::Replayed(id)
            | Told::ReplayedEdited(id)
            | Told::Reopened(id, _)
            | Told::Erased(id) => match on {
                // The letter's own page has no link to itself.
                On::Letter(_) => None,
                On::Page(_) => Some(Link { address: root.letter(app_id, id), name: "The letter" }),
            },
        };
        Ok(Some(Self { text: told.text(access, app_id).await?.into(), link, undo }))
    }
}

impl Told {
    async fn text(self, access: &Access, app_id: AppId) -> Result<String, Problem> {
        let (id, what) = match self {
            Self::Resolved(id, Resolution::HandledByScript, _) => {
                (id, "The letter is resolved as handled by script")
            }
            Self::Resolved(id, ..) => (id, "The letter is ignored"),
            Self::Replayed(id) => (id, "The letter is replayed and its event is back in the outbox"),
            Self::ReplayedEdited(id) => {
                (id, "The letter is replayed and its event is back in the outbox with the edited payload")
            }
            Self::Reopened(id, _) => (id, "The letter is unresolved again"),
            Self::Erased(id) => (id, "The content of the letter is erased, which can't be undone"),
            Self::Run { done, action, which, .. } => {
                let done = Amount::exactly(done);
                let verb = if done.is_one() { "is" } else { "are" };
                let undo = match action {
                    Action::Deleted => ". This can't be undone.",
                    Action::Reopened if !done.is_none() => ". To close letters again, tick them in the list.",
                    _ => "",
                };
                return Ok(format!("{} {verb} {}: {which}{undo}", done.letters(), action_words(action)));
            }
        };
        // The letter may have been swept since.
        let letter = access.store().summary(app_id, id).await?;
        let name = letter.map(|letter| format!("{} {}, ", cut(&letter.source), cut(&letter.op)));
        Ok(format!("{what}: {}{id}", name.unwrap_or_default()))
    }
}

fn cut(text: &str) -> Cow<'_, str> {
    const MAX_NAME_CHARACTERS: usize = 60;
    match text.char_indices().nth(MAX_NAME_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// Returns a list's query string for a form field. It is never empty, because an empty field counts as missing.
pub(crate) fn list_text(query: &ListQuery) -> String {
    format!("?{query}")
}
