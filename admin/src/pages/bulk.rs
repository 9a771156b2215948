//! One step of a bulk run. It leads to the list with a banner, or to the page with the result so far.

use axum::response::Response;
use chrono::Utc;
use dead_letters::DeadLetterFilter;
use uuid::Uuid;

use super::{
    back::Back,
    banner::{Told, tell},
    preview::in_words,
    result::Run,
};
use crate::{
    access::Access,
    bulk::{self, Action, Frozen, Step},
    input::Form,
    problem::{Problem, ProblemType},
    urls::Root,
};

pub(crate) async fn run(access: Access, root: Root, Form(mut fields): Form) -> Result<Response, Problem> {
    let token = fields.take("token")?;
    let before = fields.take("run")?;
    let note = fields.take("note")?;
    let back = Back::take(&mut fields, "back")?;
    let limit = fields.parse("limit", "must be between 1 and 1,000")?;
    let rate = fields.parse("rate", "must be between 1 and 1,000")?;
    let anyway = fields.is_true("anyway")?;
    let automatic = fields.is_true("automatic")?;
    fields.end()?;
    let (frozen, back_before) = match (before, token) {
        (Some(before), _) => {
            let run = Run::open(&access, &before)?;
            // A further step runs only if no event failed again, or if the operator overrides this check. The script does
            // not continue before the letters had the time to fail.
            if run.frozen.is_replay() && !anyway {
                let accesses = access.apps("app", &run.frozen.app_ids())?;
                let is_early = automatic
                    && run.is_staged()
                    && run.frozen.fails_until().is_some_and(|until| Utc::now() < until);
                if is_early || run.failed_again(&accesses).await?.stops() {
                    return run.shown(&access, &root, &accesses, &before).await;
                }
            }
            (run.frozen, run.back)
        }
        (None, Some(token)) => (bulk::open(&access, &token)?, Back::default()),
        (None, None) => return Err(Problem::invalid_field("token", "is missing")),
    };
    let step_of_run = Step { note, limit, rate };
    let back = Back::of_apps(Some(back.unwrap_or(back_before)), &frozen.app_ids());
    step(&access, &root, frozen, step_of_run, back).await
}

/// Undoes a bulk run in these apps: reopens the letters that it closed and that nobody changed since.
pub(crate) async fn undo(access: Access, root: Root, Form(mut fields): Form) -> Result<Response, Problem> {
    let apps = fields.apps()?;
    let accesses = access.apps("app", &apps)?;
    let run_id: Option<Uuid> = fields.parse("run_id", "must be the id of a run")?;
    let run_id = run_id.ok_or_else(|| Problem::invalid_field("run_id", "is missing"))?;
    let back = Back::of_apps(Back::take(&mut fields, "back")?, &apps);
    fields.end()?;
    let of_run = DeadLetterFilter::default().run_id(run_id);
    let preview = bulk::preview(accesses, Action::Reopened, of_run, Utc::now()).await?;
    step(&access, &root, bulk::open(&access, &preview.token)?, Step::default(), back).await
}

async fn step(
    access: &Access,
    root: &Root,
    frozen: Frozen,
    step: Step,
    back: Back,
) -> Result<Response, Problem> {
    let accesses = access.apps("app", &frozen.app_ids())?;
    let before = frozen.clone();
    let outcome = match bulk::run(access, frozen, step.clone(), Utc::now()).await {
        // The result catches up with what the history has.
        Err(problem) if problem.kind() == ProblemType::StepDone => {
            let run = Run::before(before, step, back);
            let token = run.seal(access);
            return Err(problem.leads_to(run.address(root, &token), "The result of the run"));
        }
        outcome => outcome
            .map_err(|problem| problem.leads_to(back.address(root, &before.app_ids()), back.label()))?,
    };
    let is_finished = !outcome.more
        && !outcome.is_uncounted()
        && !outcome.skipped_locked
        && outcome.changed_by_others.is_none_or(|others| others == 0);
    if is_finished
        && !outcome.frozen.is_replay()
        && let [of_app] = accesses.as_slice()
    {
        let frozen = outcome.frozen;
        let which = in_words(frozen.action, &frozen.shown_filter());
        let told = Told::Run { done: frozen.done(), action: frozen.action, which, run_id: frozen.run_id };
        return Ok(tell(of_app, back.address(root, &frozen.app_ids()), told));
    }
    let run = Run::new(outcome, step, back);
    let token = run.seal(access);
    run.shown(access, root, &accesses, &token).await
}
