//! One step of a bulk run. It leads to the list with a banner, or to the page with the result so far.

use axum::response::Response;
use chrono::Utc;
use dead_letters::{DeadLetterFilter, ListQuery};
use uuid::Uuid;

use super::{
    banner::{Told, tell},
    letter_actions::back,
    preview::in_words,
    result::Run,
};
use crate::{
    access::{Access, AppAccess},
    bulk::{self, Action, Step},
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
    let limit = fields.parse("limit", "must be between 1 and 1,000")?;
    let rate = fields.parse("rate", "must be between 1 and 1,000")?;
    let anyway = fields.is_true("anyway")?;
    fields.end()?;
    let before = before.map(|before| Run::open(&access, before)).transpose()?;
    // A further step runs only if no event failed again, or if the operator overrides this check.
    if let Some((run, token)) = before.as_ref().filter(|(run, _)| run.is_replay() && !anyway)
        && bulk::failed_again(&access, &run.token, run.began).await?.stops()
    {
        return run.shown(&access, &root, token).await;
    }
    let before = before.map(|(run, _)| run);
    let back = back.or_else(|| before.as_ref().map(|before| before.back.clone())).unwrap_or_default();
    let token = token.or(before.map(|before| before.token));
    let token = token.ok_or_else(|| Problem::invalid_field("token", "is missing"))?;
    step(&access, &root, &token, Step { note, limit, rate }, back).await
}

/// Undoes a bulk run: reopens the letters that it closed and that nobody changed since.
pub(crate) async fn undo(
    access: Access,
    AppPath(app_id): AppPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let run_id: Option<Uuid> = fields.parse("run_id", "must be the id of a run")?;
    let run_id = run_id.ok_or_else(|| Problem::invalid_field("run_id", "is missing"))?;
    let back = back(&mut fields)?.unwrap_or_default();
    fields.end()?;
    let of_run = DeadLetterFilter::default().run_id(run_id);
    let preview = bulk::preview(&access, Action::Reopened, of_run, Utc::now()).await?;
    step(&access, &root, &preview.token, Step::default(), back).await
}

async fn step(
    access: &AppAccess,
    root: &Root,
    token: &str,
    step: Step,
    back: ListQuery,
) -> Result<Response, Problem> {
    let outcome = bulk::run(access, token, step.clone(), Utc::now()).await?;

    let is_finished = !outcome.more
        && !outcome.uncounted
        && !outcome.skipped_locked
        && outcome.changed_by_others.is_none_or(|others| others == 0);
    if is_finished && outcome.action != Action::Replayed {
        let which = in_words(&outcome.filter);
        let (done, action, run_id) = (outcome.done_so_far, outcome.action, outcome.undo());
        let told = Told::Run { done, action, which, run_id };
        return Ok(tell(access, root.letters(access.app_id, &back), told));
    }
    let run = Run::new(access, outcome, step, back);
    run.shown(access, root, &run.seal(access)).await
}
