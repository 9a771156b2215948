//! Actions on one letter, from its page or from its row in a list.

use axum::response::Response;
use dead_letters::{DeadLetterId, ListQuery};

use super::banner::{Told, tell};
use crate::{
    access::{Access, AppAccess},
    input::{Fields, Form, LetterPath},
    letter_actions,
    problem::Problem,
    urls::{Root, fits},
};

/// The fields of an action. A row's button also sends the letters that are ticked in the list, which are ignored
/// here.
struct ActionForm {
    note: Option<String>,
    back: Option<ListQuery>,
}

impl ActionForm {
    fn read(fields: &mut Fields) -> Result<Self, Problem> {
        Ok(Self { note: fields.take("note")?, back: back(fields)? })
    }

    fn done(self, access: &AppAccess, root: &Root, id: DeadLetterId, told: Told) -> Response {
        let address = match &self.back {
            Some(query) => root.letters(access.app_id, query),
            None => root.letter(access.app_id, id),
        };
        tell(access, address, told)
    }
}

/// Takes the list that contained the form.
pub(crate) fn back(fields: &mut Fields) -> Result<Option<ListQuery>, Problem> {
    let text = fields.take("back")?;
    let query = text.map(|text| list_query("back", &text)).transpose()?;
    // A query that is too long comes from no page of the admin, so it leads to the whole list.
    Ok(query.map(|query: ListQuery| if fits(&query) { query } else { ListQuery::default() }))
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
    letter_actions::resolve(&access, id, resolution, form.note.clone()).await?;
    Ok(form.done(&access, &root, id, Told::Resolved(id, resolution)))
}

pub(crate) async fn replay(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let form = ActionForm::read(&mut fields)?;
    letter_actions::replay(&access, id, None, form.note.clone()).await?;
    Ok(form.done(&access, &root, id, Told::Replayed(id)))
}

pub(crate) async fn reopen(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let form = ActionForm::read(&mut fields)?;
    letter_actions::reopen(&access, id).await?;
    Ok(form.done(&access, &root, id, Told::Reopened(id)))
}

pub(crate) async fn erase(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let form = ActionForm::read(&mut fields)?;
    fields.end()?;
    letter_actions::erase(&access, id, form.note.clone()).await?;
    Ok(form.done(&access, &root, id, Told::Erased(id)))
}
