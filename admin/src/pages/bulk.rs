//! One step of a bulk run, and where it leads: the list, with a banner, or the page of what was done so far.

use axum::response::Response;
use chrono::Utc;
use dead_letters::Resolution;

use super::{
    banner::tell,
    result::Run,
    see_other,
    settle::back,
    text::{Amount, settled_as},
};
use crate::{
    access::Access,
    bulk,
    input::{AppPath, Form},
    problem::Problem,
    urls::Root,
};

pub(crate) async fn run(
    access: Access,
    AppPath(app_id): AppPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let token = fields.take("token")?;
    let before = fields.take("run")?;
    let note = fields.take("note")?;
    let back = back(&mut fields)?;
    let limit = fields.parse("limit", "must be from 1 to 1000")?;
    let anyway = fields.is_true("anyway")?;
    fields.end()?;
    let before = before.map(|before| Run::open(&access, &before)).transpose()?;
    // A step after the first one goes on where nothing came back, or where somebody says so.
    if let Some(before) = before.as_ref().filter(|before| before.is_replay() && !anyway)
        && bulk::came_back(&access, before.began).await?.count > 0
    {
        return Ok(see_other(&before.address(&access, &root)));
    }
    let back = back.or_else(|| before.as_ref().map(|before| before.back.clone())).unwrap_or_default();
    let token = token.or(before.map(|before| before.token));
    let token = token.ok_or_else(|| Problem::invalid_field("token", "is missing"))?;
    let outcome = bulk::run(&access, &token, note.clone(), limit, Utc::now()).await?;

    let is_finished =
        !outcome.more && !outcome.held && outcome.settled_by_others.is_none_or(|others| others == 0);
    if is_finished && outcome.action != Resolution::Replayed {
        let done = Amount::exactly(outcome.done_so_far);
        let verb = if done.is_one() { "is" } else { "are" };
        let what = settled_as(Some(outcome.action));
        let text = format!("{} {verb} {what}.", done.letters());
        return Ok(tell(&access, root.letters(app_id, &back), text, None));
    }
    Ok(see_other(&Run::new(&access, outcome, note, back).address(&access, &root)))
}
