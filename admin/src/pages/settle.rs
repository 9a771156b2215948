//! What is done to one letter: a button of its page, or of its row in a list.

use axum::response::Response;
use dead_letters::{DeadLetterId, ListQuery, Resolution};

use super::banner::tell;
use crate::{
    access::{Access, AppAccess},
    input::{Fields, Form, LetterPath},
    problem::Problem,
    settle,
    urls::Root,
};

/// Beside it a row's button sends what is ticked in the list, which is not meant here.
struct SettleForm {
    note: Option<String>,
    back: Option<ListQuery>,
}

impl SettleForm {
    fn read(fields: &mut Fields) -> Result<Self, Problem> {
        Ok(Self { note: fields.take("note")?, back: back(fields)? })
    }

    fn done(self, access: &AppAccess, root: &Root, id: DeadLetterId, text: &str, undo: bool) -> Response {
        let address = match &self.back {
            Some(query) => root.letters(access.app_id, query),
            None => root.letter(access.app_id, id),
        };
        tell(access, address, text.to_owned(), undo.then_some(id))
    }
}

/// The list that a form stood in.
pub(crate) fn back(fields: &mut Fields) -> Result<Option<ListQuery>, Problem> {
    let text = fields.take("back")?;
    let query = text.map(|text| text.strip_prefix('?').unwrap_or(&text).parse());
    query.transpose().map_err(|_| Problem::invalid_field("back", "must be a list's query string"))
}

pub(crate) async fn resolve(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let form = SettleForm::read(&mut fields)?;
    let resolution = fields.parse("resolution", "must be ignored or handled_by_script")?;
    let resolution = resolution.ok_or_else(|| Problem::invalid_field("resolution", "is missing"))?;
    settle::resolve(&access, id, resolution, form.note.clone()).await?;
    let text = match resolution {
        Resolution::HandledByScript => "The letter is settled as handled by script.",
        _ => "The letter is ignored.",
    };
    Ok(form.done(&access, &root, id, text, true))
}

pub(crate) async fn replay(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let form = SettleForm::read(&mut fields)?;
    settle::replay(&access, id, form.note.clone()).await?;
    Ok(form.done(&access, &root, id, "The letter is replayed: its event was put back.", false))
}

pub(crate) async fn reopen(
    access: Access,
    LetterPath(app_id, id): LetterPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let form = SettleForm::read(&mut fields)?;
    settle::reopen(&access, id).await?;
    Ok(form.done(&access, &root, id, "The letter is unresolved again.", false))
}
