//! The result of a bulk run so far: what it changed, which events failed again, and the next step (1 letter, then 10,
//! then 100).

use std::ops::Not;

use askama::Template;
use axum::{
    http::{HeaderValue, header::CACHE_CONTROL},
    response::Response,
};
use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::{AppId, DeadLetterId, ListQuery, ReplayRate, ReplayRequest};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    banner::{Undo, back_text},
    frame::Frame,
    html,
    letters::Row,
    preview::verb,
    see_other,
    text::{Amount, Text, Time, action_words},
};
use crate::{
    access::{Access, AppAccess},
    bulk::{Action, Failure, Outcome, Step, failed_again, is_zero},
    input::{AppPath, Form, Query},
    problem::Problem,
    token::Purpose,
    urls::{Root, with_field},
};

/// Keeps every address below 2 KB, including the prefix that the service adds.
const MAX_ADDRESS_BYTES: usize = 1_800;

/// The state of a run between two steps, sealed in the address.
#[derive(Serialize, Deserialize)]
pub(crate) struct Run {
    operator: String,
    app_id: AppId,
    action: Action,
    counted: u64,
    capped: bool,
    done: u64,
    /// The failures of the last step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    failures: Vec<Failure>,
    #[serde(default, skip_serializing_if = "is_zero")]
    failed: u64,
    more: bool,
    uncounted: bool,
    skipped_locked: bool,
    changed_by_others: Option<u64>,
    stopped_by: Option<String>,
    pub(crate) began: DateTime<Utc>,
    /// The run's id, if it can be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run_id: Option<Uuid>,
    note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    /// Whether the last step was to take all letters that are left.
    #[serde(default, skip_serializing_if = "Not::not")]
    is_all: bool,
    pub(crate) back: ListQuery,
    /// The preview's token, which continues the run.
    pub(crate) token: String,
}

impl Run {
    pub(crate) fn new(access: &AppAccess, outcome: Outcome, step: Step, back: ListQuery) -> Self {
        let run_id = outcome.undo();
        Self {
            operator: access.operator().name().to_owned(),
            app_id: access.app_id,
            action: outcome.action,
            counted: outcome.counted,
            capped: outcome.capped,
            done: outcome.done_so_far,
            failures: outcome.failures,
            failed: outcome.failed_so_far,
            more: outcome.more,
            uncounted: outcome.uncounted,
            skipped_locked: outcome.skipped_locked,
            changed_by_others: outcome.changed_by_others,
            stopped_by: outcome.stopped_by.map(|problem| problem.title().to_owned()),
            began: outcome.began,
            run_id,
            note: step.note,
            rate: step.rate,
            is_all: step.limit.is_none(),
            back,
            token: outcome.token,
        }
    }

    /// Opens a token. Returns the run and the token.
    pub(crate) fn open(access: &AppAccess, token: String) -> Result<(Self, String), Problem> {
        let run: Option<Self> = access.admin().key.open(Purpose::Result, &token);
        let run = run.ok_or_else(|| Problem::invalid_field("run", "is not a token of a run"))?;
        match run.operator == access.operator().name() && run.app_id == access.app_id {
            true => Ok((run, token)),
            false => Err(Problem::preview_expired(
                "the run belongs to another operator or app: create a new preview",
            )),
        }
    }

    pub(crate) fn seal(&self, access: &AppAccess) -> String {
        access.admin().key.seal(Purpose::Result, self)
    }

    /// Returns the response to the POST of a step: a 303 to a page that can be reloaded. If the token is too long for
    /// an address, as with many ticked letters, the response is the page itself.
    pub(crate) async fn shown(
        &self,
        access: &AppAccess,
        root: &Root,
        token: &str,
    ) -> Result<Response, Problem> {
        let address = with_field(root.bulk(access.app_id, "result"), "run", token);
        if address.len() <= MAX_ADDRESS_BYTES {
            return Ok(see_other(&address));
        }
        show(access, root, self, token.to_owned(), true).await
    }

    /// Returns when a replay of this many letters ends at the run's rate, at the earliest.
    fn end(&self, letters: u64) -> Option<Time> {
        let rate = ReplayRate::per_second(self.rate?).ok()?;
        let time = TimeDelta::from_std(rate.time_for(letters)).ok()?;
        Utc::now().checked_add_signed(time).map(Time)
    }

    pub(crate) fn is_replay(&self) -> bool {
        self.action == Action::Replayed
    }
}

#[derive(Template)]
#[template(path = "result.html")]
struct ResultPage {
    frame: Frame,
    title: String,
    verb: &'static str,
    done: u64,
    counted: Amount,
    changed_by_others: Option<Amount>,
    /// Whether a new preview may count further letters.
    uncounted: bool,
    skipped_locked: bool,
    stopped_by: Option<Text>,
    failed: Amount,
    failures: Vec<Failed>,
    began: Time,
    failed_again: Option<FailedAgain>,
    next: Option<Next>,
    is_replay: bool,
    run: String,
    /// Where a form reloads a page that has no address.
    look: Option<String>,
    undo: Option<Undo>,
    action: String,
    note: String,
    rate: Option<u32>,
    back: String,
    list: String,
}

struct FailedAgain {
    count: Amount,
    letters: Vec<Row>,
}

/// A letter that the service could not requeue.
struct Failed {
    address: String,
    id: DeadLetterId,
    reason: Text,
}

/// How the run continues.
struct Next {
    /// The size of the next step, or `None` if the rest is not larger.
    step: Option<Amount>,
    rest: Amount,
    /// When the run ends at its rate, at the earliest.
    end: Option<Time>,
    /// Whether a browser with JavaScript continues by itself.
    is_automatic: bool,
}

pub(crate) async fn page(
    access: Access,
    AppPath(app_id): AppPath,
    root: Root,
    Query(mut fields): Query,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let run = fields.take("run")?.ok_or_else(|| Problem::invalid_field("run", "is missing"))?;
    fields.end()?;
    let (run, token) = Run::open(&access, run)?;
    show(&access, &root, &run, token, false).await
}

/// Reloads the result from a page that has no address of its own.
pub(crate) async fn look(
    access: Access,
    AppPath(app_id): AppPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let run = fields.take("run")?.ok_or_else(|| Problem::invalid_field("run", "is missing"))?;
    fields.end()?;
    let (run, token) = Run::open(&access, run)?;
    run.shown(&access, &root, &token).await
}

async fn show(
    access: &AppAccess,
    root: &Root,
    run: &Run,
    token: String,
    is_answer: bool,
) -> Result<Response, Problem> {
    let app_id = access.app_id;
    let failed_again = match run.is_replay() {
        true => {
            let found = failed_again(access, &run.token, run.began).await?;
            let stops = found.stops();
            let count = Amount { count: found.count as u64, capped: found.capped };
            let times = vec![1; found.letters.len()];
            let row = |(letter, times)| Row::new(access, root, letter, times);
            let letters = found.letters.into_iter().zip(times).map(row).collect();
            stops.then_some(FailedAgain { count, letters })
        }
        false => None,
    };
    let counted = Amount { count: run.counted, capped: run.capped };
    let rest = run.counted.saturating_sub(run.done).saturating_sub(run.failed);
    let rest = Amount::exactly(rest);
    let failed = |failure: &Failure| Failed {
        address: root.letter(app_id, failure.id),
        id: failure.id,
        reason: failure.reason.as_str().into(),
    };
    let step = Amount::exactly(ReplayRequest::next_stage(run.done).into());
    let is_step = run.is_replay() && rest.count > step.count;
    let is_automatic = run.rate.is_some()
        && run.is_all
        && run.stopped_by.is_none()
        && run.failures.is_empty()
        && !run.skipped_locked
        && failed_again.is_none();
    let what = action_words(run.action);
    let title =
        format!("{}{} {} of {counted}", what[..1].to_uppercase(), &what[1..], Amount::exactly(run.done));
    let list = root.letters(app_id, &run.back);
    let frame = Frame::of_app(root, access).here(verb(run.action));
    let mut response = html(&ResultPage {
        frame: match (is_answer, is_automatic && run.more) {
            (true, _) => frame.instead(list.clone()),
            // The next step replaces the page.
            (false, true) => frame,
            (false, false) => frame.live(),
        },
        look: is_answer.then(|| root.bulk(app_id, "result")),
        undo: run.run_id.filter(|_| run.done > 0).map(|run_id| Undo::of_run(root, app_id, run_id, &run.back)),
        title,
        verb: verb(run.action),
        done: run.done,
        counted,
        changed_by_others: run.changed_by_others.filter(|&others| others > 0).map(Amount::exactly),
        uncounted: run.uncounted && !run.more,
        skipped_locked: run.skipped_locked,
        stopped_by: run.stopped_by.as_deref().map(Text::from),
        failed: Amount::exactly(run.failed),
        failures: run.failures.iter().map(failed).collect(),
        began: Time(run.began),
        failed_again,
        next: (rest.count > 0 && (run.more || run.skipped_locked)).then(|| Next {
            step: is_step.then_some(step),
            rest,
            end: run.end(rest.count),
            is_automatic,
        }),
        is_replay: run.is_replay(),
        action: root.bulk(app_id, "run"),
        note: run.note.clone().unwrap_or_default(),
        rate: run.rate,
        back: back_text(&run.back),
        list,
        run: token,
    })?;
    if is_answer {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    Ok(response)
}
