//! What an action did, told once on the page that follows it: signed in the address, since nothing is kept here,
//! and nobody shall be told what did not happen.

use dead_letters::{AppId, DeadLetterId, ListQuery};
use serde::{Deserialize, Serialize};

use super::{see_other, text::Text};
use crate::{
    access::AppAccess,
    token::Purpose,
    urls::{Root, with_field},
};
use axum::response::Response;

/// As it stands on the page.
pub(crate) struct Banner {
    pub(crate) text: Text,
    pub(crate) undo: Option<Undo>,
}

/// The form that takes it back.
pub(crate) struct Undo {
    pub(crate) action: String,
    /// The list that it returns to; none is the letter.
    pub(crate) back: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    operator: String,
    app_id: AppId,
    text: String,
    undo: Option<DeadLetterId>,
}

/// 303 to the address, where it says so.
pub(crate) fn tell(
    access: &AppAccess,
    address: String,
    text: String,
    undo: Option<DeadLetterId>,
) -> Response {
    let operator = access.operator().name().to_owned();
    let signed = Signed { operator, app_id: access.app_id, text, undo };
    let token = access.admin().key.sign(Purpose::Banner, &signed);
    see_other(&with_field(address, "banner", &token))
}

impl Banner {
    /// What the address brings, where it is this operator's.
    pub(crate) fn read(
        access: &AppAccess,
        root: &Root,
        token: Option<String>,
        back: Option<&ListQuery>,
    ) -> Option<Self> {
        let signed: Signed = access.admin().key.open(Purpose::Banner, &token?)?;
        let is_ours = signed.operator == access.operator().name() && signed.app_id == access.app_id;
        let undo = signed.undo.map(|id| Undo {
            action: root.letter_action(access.app_id, id, "reopen"),
            back: back.map(back_text),
        });
        is_ours.then(|| Self { text: signed.text.into(), undo })
    }
}

/// A list in a form's field, never empty: what is empty counts as missing.
pub(crate) fn back_text(query: &ListQuery) -> String {
    format!("?{query}")
}
