//! The banner on the page after an action: what the action did, and to which letters.
//!
//! The server keeps no state, so the banner travels in the address. It is sealed, so that nobody can forge a banner.

use std::borrow::Cow;

use axum::response::Response;
use dead_letters::{AppId, DeadLetterId, ListQuery, Resolution};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    see_other,
    text::{Amount, Text, action_words},
};
use crate::{
    access::AppAccess,
    bulk::Action,
    problem::Problem,
    token::Purpose,
    urls::{Root, with_field},
};

/// The banner as the page shows it.
pub(crate) struct Banner {
    pub(crate) text: Text,
    pub(crate) undo: Option<Undo>,
}

/// The form that undoes the action.
pub(crate) struct Undo {
    pub(crate) action: String,
    /// The list that the form returns to, or `None` for the letter.
    pub(crate) back: Option<String>,
    /// The bulk run to undo, or `None` for a letter.
    pub(crate) run_id: Option<Uuid>,
}

impl Undo {
    pub(crate) fn of_run(root: &Root, app_id: AppId, run_id: Uuid, back: &ListQuery) -> Self {
        Self { action: root.bulk(app_id, "undo"), back: Some(back_text(back)), run_id: Some(run_id) }
    }
}

/// The outcome of an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Told {
    /// One letter was resolved like this, which can be undone.
    Resolved(DeadLetterId, Resolution),
    Replayed(DeadLetterId),
    ReplayedEdited(DeadLetterId),
    Reopened(DeadLetterId),
    Erased(DeadLetterId),
    /// A bulk run changed `done` letters. `which` describes them. A run with an id can be undone.
    Run {
        done: u64,
        action: Action,
        which: String,
        run_id: Option<Uuid>,
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
    /// Returns the banner of the address if it belongs to this operator and app.
    pub(crate) async fn read(
        access: &AppAccess,
        root: &Root,
        token: Option<String>,
        back: Option<&ListQuery>,
    ) -> Result<Option<Self>, Problem> {
        let sealed = token.and_then(|token| access.admin().key.open::<Sealed>(Purpose::Banner, &token));
        let is_ours =
            |sealed: &Sealed| sealed.operator == access.operator().name() && sealed.app_id == access.app_id;
        let Some(Sealed { told, .. }) = sealed.filter(is_ours) else { return Ok(None) };
        let undo = match told {
            Told::Resolved(id, _) => Some(Undo {
                action: root.letter_action(access.app_id, id, "reopen"),
                back: back.map(back_text),
                run_id: None,
            }),
            Told::Run { run_id: Some(run_id), done: 1.., .. } => {
                Some(Undo::of_run(root, access.app_id, run_id, back.unwrap_or(&ListQuery::default())))
            }
            _ => None,
        };
        Ok(Some(Self { text: told.text(access).await?.into(), undo }))
    }
}

impl Told {
    async fn text(self, access: &AppAccess) -> Result<String, Problem> {
        let (id, what) = match self {
            Self::Resolved(id, Resolution::HandledByScript) => {
                (id, "The letter is resolved as handled by script")
            }
            Self::Resolved(id, _) => (id, "The letter is ignored"),
            Self::Replayed(id) => (id, "The letter is replayed and its event is back in the outbox"),
            Self::ReplayedEdited(id) => {
                (id, "The letter is replayed and its event is back in the outbox with the edited payload")
            }
            Self::Reopened(id) => (id, "The letter is unresolved again"),
            Self::Erased(id) => (id, "The content of the letter is erased"),
            Self::Run { done, action, which, .. } => {
                let done = Amount::exactly(done);
                let verb = if done.is_one() { "is" } else { "are" };
                return Ok(format!("{} {verb} {}: {which}", done.letters(), action_words(action)));
            }
        };
        // The letter may have been swept since.
        let letter = access.store().summary(access.app_id, id).await?;
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
pub(crate) fn back_text(query: &ListQuery) -> String {
    format!("?{query}")
}
