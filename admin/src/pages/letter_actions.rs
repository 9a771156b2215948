//! Actions on one letter, from its page or from its row in a list.

use askama::Template;
use axum::response::Response;
use chrono::{DateTime, Utc};
use dead_letters::{DeadLetterId, DeadLetterSummary, ListQuery, Resolution};

use super::{
    back::Back,
    banner::{Told, tell},
    edit::not_stored,
    frame::Frame,
    html,
    text::{Text, Time},
};
use crate::{
    access::{Access, AppAccess, Right},
    input::{Fields, Form, LetterPath},
    letter_actions::{self, last_change, must_be_as_shown, summary},
    problem::Problem,
    urls::Root,
};

/// The fields of an action. A row's button also sends the letters that are ticked in the list, which are ignored
/// here.
struct ActionForm {
    note: Option<String>,
    /// The list that the form returns to. Without one it returns to the letter.
    back: Option<Back>,
    /// The page that the letter's page leads back to.
    from: Option<Back>,
}

impl ActionForm {
    fn read(fields: &mut Fields) -> Result<Self, Problem> {
        let note = fields.take("note")?;
        Ok(Self { note, back: Back::take(fields, "back")?, from: Back::take(fields, "from")? })
    }

    /// Adds the page that the letter's page leads back to.
    fn leads_back(&self, problem: Problem, access: &AppAccess, root: &Root) -> Problem {
        Back::on(self.from.as_ref(), problem, root, access.app_id)
    }

    fn done(self, access: &AppAccess, root: &Root, id: DeadLetterId, told: Told) -> Response {
        tell(access, self.address(access, root, id), told)
    }

    /// Returns the address that the form returns to.
    fn address(&self, access: &AppAccess, root: &Root, id: DeadLetterId) -> String {
        match &self.back {
            Some(back) => back.address(root, &[access.app_id]),
            None => root.letter_from(access.app_id, id, self.from.as_ref()),
        }
    }
}

/// Parses a list from a form field.
pub(crate) fn list_query(field: &str, text: &str) -> Result<ListQuery, Problem> {
    let query = text.strip_prefix('?').unwrap_or(text).parse();
    query.map_err(|_| Problem::invalid_field(field, "must be the query string of a list"))
}

pub(crate) async fn resolve(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let form = ActionForm::read(&mut fields)?;
    let resolution = fields.parse("resolution", "must be ignored or handled_by_script")?;
    let resolution = resolution.ok_or_else(|| Problem::invalid_field("resolution", "is missing"))?;
    let resolved = match fields.parse("reopening", "must be a UUID")? {
        Some(reopening) => letter_actions::undo_reopening(&access, id, resolution, reopening).await,
        None => letter_actions::resolve(&access, id, resolution, form.note.clone()).await,
    };
    resolved.map_err(|problem| form.leads_back(problem, &access, &root))?;
    // Others may have changed the letter since. Then there is nothing to undo.
    let letter = access.store().summary(app_id, id).await.ok().flatten().filter(|letter| {
        letter.resolution == Some(resolution)
            && letter.resolved_by.as_deref() == Some(access.operator().name())
    });
    let at = letter.and_then(|letter| letter.resolved_at);
    Ok(form.done(&access, &root, id, Told::Resolved(id, resolution, at)))
}

pub(crate) async fn replay(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let form = ActionForm::read(&mut fields)?;
    let replayed = letter_actions::replay(&access, id, None, form.note.clone()).await;
    replayed.map_err(|problem| form.leads_back(problem, &access, &root))?;
    Ok(form.done(&access, &root, id, Told::Replayed(id)))
}

/// The page that asks before it reopens a replayed letter or erases one.
#[derive(Template)]
#[template(path = "ask.html")]
struct AskPage {
    frame: Frame,
    question: &'static Question,
    source: Text,
    op: Text,
    action: String,
    note: Option<String>,
    /// When the letter was resolved that is to be reopened.
    resolved_at: Option<Time>,
    back: Option<Back>,
    from: Option<Back>,
    cancel: String,
}

struct Question {
    /// The last part of the action's address.
    action: &'static str,
    verb: &'static str,
    text: &'static str,
    button: &'static str,
}

const REOPEN: Question = Question {
    action: "reopen",
    verb: "Reopen",
    text: "The letter was replayed, so its event is back in the outbox. Another replay may deliver the event twice.",
    button: "Reopen anyway",
};

const ERASE: Question = Question {
    action: "erase",
    verb: "Erase the content of",
    text: "This removes payload, error, metadata and note, and can't be undone. The letter stays for statistics, and can't \
           be replayed.",
    button: "Erase the content",
};

/// Reopens the letter if it still has the `resolved_at` that the page showed, or that the undone action set. For a
/// replayed letter the response asks first.
pub(crate) async fn reopen(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    access.needs(Right::Resolve)?;
    let form = ActionForm::read(&mut fields)?;
    let is_confirmed = fields.is_true("confirmed")?;
    let shown: Option<DateTime<Utc>> = fields.parse("resolved_at", "must be a time")?;
    let letter = summary(&access, id).await?;
    let at = shown.or(letter.resolved_at);
    // A question is no action, and so the audit log has none.
    if letter.resolution == Some(Resolution::Replayed) && !is_confirmed {
        let as_shown = at.map_or(Ok(()), |at| must_be_as_shown(&letter, at));
        as_shown.map_err(|problem| form.leads_back(problem, &access, &root))?;
        return ask(&access, &root, &REOPEN, &letter, &form);
    }
    let reopened = letter_actions::reopen(&access, id, at, is_confirmed, form.note.clone()).await;
    reopened.map_err(|problem| form.leads_back(problem, &access, &root))?;
    // Without the row of the history the reopening can't be undone.
    let reopening = last_change(&access, id).await.ok().flatten();
    Ok(form.done(&access, &root, id, Told::Reopened(id, letter.resolution.zip(reopening))))
}

fn ask(
    access: &AppAccess,
    root: &Root,
    question: &'static Question,
    letter: &DeadLetterSummary,
    form: &ActionForm,
) -> Result<Response, Problem> {
    let cancel = form.address(access, root, letter.id);
    Ok(not_stored(html(&AskPage {
        frame: Frame::of_app(root, access).here(question.verb).instead(cancel.clone()),
        question,
        source: Text::cut(&letter.source, 100),
        op: Text::cut(&letter.op, 100),
        action: root.letter_action(access.app_id, letter.id, question.action),
        note: form.note.clone(),
        resolved_at: letter.resolved_at.filter(|_| question.action == REOPEN.action).map(Time),
        back: form.back.clone(),
        from: form.from.clone(),
        cancel,
    })?))
}

pub(crate) async fn erase(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let form = ActionForm::read(&mut fields)?;
    let is_confirmed = fields.is_true("confirmed")?;
    fields.end()?;
    access.needs(Right::Delete)?;
    if !is_confirmed {
        let letter = summary(&access, id).await?;
        return ask(&access, &root, &ERASE, &letter, &form);
    }
    let erased = letter_actions::erase(&access, id, form.note.clone()).await;
    erased.map_err(|problem| form.leads_back(problem, &access, &root))?;
    Ok(form.done(&access, &root, id, Told::Erased(id)))
}
