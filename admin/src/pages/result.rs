//! The result of a bulk run so far: what it changed, which events failed again, and the next step (1 letter, then 10,
//! then 100).

use std::ops::Not;

use askama::Template;
use axum::{
    http::{HeaderValue, header::CACHE_CONTROL},
    response::Response,
};
use chrono::{TimeDelta, Utc};
use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterState, DeadLetterSummary, ReplayRate, ReplayRequest,
};
use serde::{Deserialize, Serialize};

use super::{
    back::Back,
    banner::{Banner, On, Undo, list_text},
    frame::Frame,
    html,
    letters::Row,
    preview::verb,
    recorded, see_other,
    text::{Amount, Text, Time, action_words, duration},
};
use crate::{
    access::{Access, AppAccess, Right},
    bulk::{Failure, Frozen, Outcome, Part, Step, failed_again, has_letters},
    input::{Fields, Form, Query, RunPath},
    problem::Problem,
    token::Purpose,
    urls::{Root, with_field},
};

/// Keeps every address below 2 KB, including the prefix that the service adds.
const MAX_ADDRESS_BYTES: usize = 1_800;
/// How many letters that failed again are shown.
const AGAIN: usize = 10;

/// The state of a run between two steps, sealed in the address.
#[derive(Serialize, Deserialize)]
pub(crate) struct Run {
    /// The run so far, which continues it.
    pub(crate) frozen: Frozen,
    /// The failures of the last step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    failures: Vec<Failure>,
    more: bool,
    #[serde(default, skip_serializing_if = "Not::not")]
    skipped_locked: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changed_by_others: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    /// Whether the last step was to take all letters that are left.
    #[serde(default, skip_serializing_if = "Not::not")]
    is_all: bool,
    pub(crate) back: Back,
}

impl Run {
    pub(crate) fn new(outcome: Outcome, step: Step, back: Back) -> Self {
        Self {
            failures: outcome.failures,
            more: outcome.more,
            skipped_locked: outcome.skipped_locked,
            changed_by_others: outcome.changed_by_others,
            stopped_by: outcome.stopped_by.map(|problem| problem.title().to_owned()),
            note: step.note,
            rate: step.rate,
            is_all: step.limit.is_none(),
            back,
            frozen: outcome.frozen,
        }
    }

    /// Returns the state of a run before a step.
    pub(crate) fn before(frozen: Frozen, step: Step, back: Back) -> Self {
        Self {
            failures: Vec::new(),
            more: true,
            skipped_locked: false,
            changed_by_others: None,
            stopped_by: None,
            note: step.note,
            rate: step.rate,
            is_all: step.limit.is_none(),
            back,
            frozen,
        }
    }

    /// Opens a token of this operator.
    pub(crate) fn open(access: &Access, token: &str) -> Result<Self, Problem> {
        let run = Self::opened(access, token);
        let run = run.ok_or_else(|| Problem::invalid_field("run", "is not a token of a run"))?;
        match run.frozen.is_of(access) {
            true => Ok(run),
            false => {
                Err(Problem::preview_expired("the run belongs to another operator: create a new preview"))
            }
        }
    }

    /// Opens a token. It may belong to another operator.
    fn opened(access: &Access, token: &str) -> Option<Self> {
        access.admin.key.open(Purpose::Result, token)
    }

    pub(crate) fn seal(&self, access: &Access) -> String {
        access.admin.key.seal(Purpose::Result, self)
    }

    /// Returns the address of the result. If the token is too long for an address, it is the address of what the history
    /// has of the run.
    pub(crate) fn address(&self, root: &Root, token: &str) -> String {
        self.short_address(root, token).unwrap_or_else(|| self.recorded(root))
    }

    fn short_address(&self, root: &Root, token: &str) -> Option<String> {
        // The apps, for a reader who can't open the token.
        let address = with_field(self.recorded(root), "run", token);
        (address.len() <= MAX_ADDRESS_BYTES).then_some(address)
    }

    /// Returns the address of what the history has of the run.
    fn recorded(&self, root: &Root) -> String {
        root.run(self.frozen.run_id, &self.frozen.app_ids())
    }

    /// Returns the response to the POST of a step: a 303 to a page that can be reloaded. If the token is too long for
    /// an address, as with many ticked letters, the response is the page itself.
    pub(crate) async fn shown(
        &self,
        access: &Access,
        root: &Root,
        accesses: &[AppAccess],
        token: &str,
    ) -> Result<Response, Problem> {
        match self.short_address(root, token) {
            Some(address) => Ok(see_other(&address)),
            None => show(access, root, accesses, self, token.to_owned(), true).await,
        }
    }

    /// Returns the letters whose event failed again since the run began.
    pub(crate) async fn failed_again(&self, accesses: &[AppAccess]) -> Result<Again, Problem> {
        let mut again = Again { count: Amount::exactly(0), letters: Vec::new() };
        let Some(began) = self.frozen.began else { return Ok(again) };
        for access in accesses {
            let found = failed_again(access, self.frozen.run_id, began).await?;
            again.count.count += found.count as u64;
            again.count.capped |= found.capped;
            again.letters.extend(found.letters.into_iter().map(|letter| (access.clone(), letter)));
        }
        again.letters.truncate(AGAIN);
        Ok(again)
    }

    /// Returns whether the next step waits until the letters of the last one had the time to fail. At a rate the rest
    /// follows at once.
    pub(crate) fn is_staged(&self) -> bool {
        !self.is_all
    }

    /// Returns when a replay of this many letters ends at the run's rate, at the earliest.
    fn end(&self, letters: u64) -> Option<Time> {
        let rate = ReplayRate::per_second(self.rate?).ok()?;
        let time = TimeDelta::from_std(rate.time_for(letters)).ok()?;
        Utc::now().checked_add_signed(time).map(Time)
    }

    /// Adds the steps that the history has and this token does not. Returns whether there was any.
    async fn catch_up(&mut self, accesses: &[AppAccess]) -> Result<bool, Problem> {
        let is_behind = self.frozen.catch_up(accesses).await?;
        if is_behind {
            self.more = self.frozen.left() > 0;
            (self.failures, self.changed_by_others, self.stopped_by) = (Vec::new(), None, None);
        }
        Ok(is_behind)
    }
}

/// Letters that failed again after a run, in all its apps. If there are none and the count is capped, too many letters
/// were stored since the run to examine them all.
pub(crate) struct Again {
    count: Amount,
    letters: Vec<(AppAccess, DeadLetterSummary)>,
}

impl Again {
    /// Returns whether a staged replay stops here.
    pub(crate) fn stops(&self) -> bool {
        !self.count.is_none()
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
    /// The apps, if there are several.
    apps: Vec<OfApp>,
    changed_by_others: Option<Amount>,
    /// Whether a new preview may count further letters.
    uncounted: bool,
    skipped_locked: bool,
    stopped_by: Option<Text>,
    failed: Amount,
    failures: Vec<Failed>,
    began: Option<Time>,
    failed_again: Option<FailedAgain>,
    wait: Option<Wait>,
    next: Option<Next>,
    /// Whether the rest needs another preview.
    is_expired: bool,
    ignore: Option<IgnoreRest>,
    is_replay: bool,
    run: String,
    /// Where a form reloads a page that has no address.
    look: Option<String>,
    undo: Option<Undo>,
    action: String,
    note: String,
    rate: Option<u32>,
    back: Back,
    back_address: String,
    /// The address that shows the run to a colleague.
    recorded: String,
}

struct OfApp {
    name: Text,
    /// The address of the letters that the run closed.
    address: Option<String>,
    done: Amount,
    counted: Amount,
}

struct FailedAgain {
    count: Amount,
    letters: Vec<Row>,
}

/// How long the letters of a replay take to fail again.
struct Wait {
    /// How long they took before. `None` if they failed at their only attempt.
    took: Option<String>,
    until: Time,
    /// Whether that time has passed.
    is_over: bool,
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
    /// When a browser with JavaScript continues by itself, for the script. It is empty if that is at once.
    continues: Option<String>,
    /// When the next stage begins, if it begins by itself.
    at: Option<Time>,
}

/// Whether and when the run continues.
struct GoesOn {
    wait: Option<Wait>,
    next: Option<Next>,
    /// Whether the rest needs another preview.
    is_expired: bool,
    /// Whether a browser with JavaScript continues by itself.
    is_automatic: bool,
}

impl GoesOn {
    fn of(run: &Run, has_failed_again: bool) -> Self {
        let frozen = &run.frozen;
        let now = Utc::now();
        let rest = Amount::exactly(frozen.left());
        let has_rest = rest.count > 0 && (run.more || run.skipped_locked);
        let is_expired = has_rest && frozen.is_expired(now);
        let is_smooth = run.stopped_by.is_none()
            && run.failures.is_empty()
            && !run.skipped_locked
            && !has_failed_again
            && frozen.is_replay()
            && run.more;
        let is_staged = is_smooth && run.is_staged();
        let is_automatic = !is_expired && (is_staged || is_smooth && run.rate.is_some());
        let until = frozen.fails_until().filter(|_| frozen.is_replay() && frozen.began.is_some()).map(Time);
        let wait = until.filter(|_| frozen.done() > 0).map(|until| Wait {
            took: Some(frozen.took).filter(|&took| took > 0).map(duration),
            until,
            is_over: until.0 <= now,
        });
        let until = until.filter(|_| is_staged);
        let step = Amount::exactly(ReplayRequest::next_stage(frozen.done()).into());
        let next = (has_rest && !is_expired).then(|| Next {
            step: (frozen.is_replay() && rest.count > step.count).then_some(step),
            rest,
            end: run.end(rest.count),
            continues: is_automatic.then(|| until.map_or_else(String::new, |until| until.machine())),
            at: until,
        });
        Self { wait, next, is_expired, is_automatic }
    }
}

/// The form that previews ignoring the letters that a replay left.
struct IgnoreRest {
    preview: String,
    apps: Vec<AppId>,
    /// The filter of the run, as a query string.
    filter: String,
    rest: Amount,
}

/// Returns the result for the operator who ran the run, and what the history has of it for others.
pub(crate) async fn page(
    access: Access,
    RunPath(run_id): RunPath,
    root: Root,
    Query(mut fields): Query,
) -> Result<Response, Problem> {
    let token = fields.take("run")?;
    let mut apps = fields.apps()?;
    let banner = fields.take("banner")?;
    fields.end()?;
    let on = On::Page(Back::of_run(run_id, apps.clone()).unwrap_or_default());
    let banner = Banner::read(&access, &root, banner, None, &on).await?;
    let run = token.as_deref().and_then(|token| Run::opened(&access, token));
    let run = run.filter(|run| run.frozen.run_id == run_id);
    let Some(mut run) = run else {
        let accesses = access.apps("app", &apps)?;
        return recorded::show(&access, &root, &accesses, run_id, banner).await;
    };
    if apps.is_empty() {
        apps = run.frozen.app_ids();
    }
    if !run.frozen.is_of(&access) {
        let accesses = access.apps("app", &apps)?;
        return recorded::show(&access, &root, &accesses, run_id, banner).await;
    }
    let accesses = access.apps("app", &run.frozen.app_ids())?;
    if run.catch_up(&accesses).await? {
        let token = run.seal(&access);
        return run.shown(&access, &root, &accesses, &token).await;
    }
    show(&access, &root, &accesses, &run, token.unwrap_or_default(), false).await
}

/// Returns the apps of a run by the fields of its address.
pub(crate) fn apps_of_run(access: &Access, mut fields: Fields) -> Option<Vec<AppId>> {
    let apps = fields.apps().ok()?;
    if !apps.is_empty() {
        return Some(apps);
    }
    let token = fields.take("run").ok().flatten()?;
    Run::opened(access, &token).map(|run| run.frozen.app_ids())
}

/// Reloads the result from a page that has no address of its own.
pub(crate) async fn look(
    access: Access,
    RunPath(_): RunPath,
    root: Root,
    Form(mut fields): Form,
) -> Result<Response, Problem> {
    let token = fields.take("run")?.ok_or_else(|| Problem::invalid_field("run", "is missing"))?;
    fields.end()?;
    let mut run = Run::open(&access, &token)?;
    let accesses = access.apps("app", &run.frozen.app_ids())?;
    let is_behind = run.catch_up(&accesses).await?;
    let token = if is_behind { run.seal(&access) } else { token };
    run.shown(&access, &root, &accesses, &token).await
}

async fn show(
    access: &Access,
    root: &Root,
    accesses: &[AppAccess],
    run: &Run,
    token: String,
    is_answer: bool,
) -> Result<Response, Problem> {
    let frozen = &run.frozen;
    let apps = frozen.app_ids();
    let failed_again = match frozen.is_replay() {
        true => Some(run.failed_again(accesses).await?).filter(Again::stops).map(|again| FailedAgain {
            count: again.count,
            letters: again
                .letters
                .into_iter()
                .map(|(access, letter)| Row::new(&access, root, letter, 1))
                .collect(),
        }),
        false => None,
    };
    let GoesOn { wait, next, is_expired, is_automatic } = GoesOn::of(run, failed_again.is_some());
    let done = frozen.done();
    // A step of another process may have taken letters of a later app.
    let counted = Amount { count: frozen.counted().max(done), capped: frozen.is_capped() };
    // Letters that the service could not put back are open too.
    let still_open = Amount::exactly(frozen.left() + frozen.failed());
    let failed = |failure: &Failure| {
        let app_id = *apps.get(usize::try_from(failure.app).ok()?)?;
        let address = root.letter(app_id, failure.id);
        Some(Failed { address, id: failure.id, reason: failure.reason.as_str().into() })
    };
    let what = action_words(frozen.action);
    let title = format!("{}{} {} of {counted}", what[..1].to_uppercase(), &what[1..], Amount::exactly(done));
    let of_run = DeadLetterFilter::default().state(DeadLetterState::Any).run_id(frozen.run_id);
    let of_app = |part: &Part| OfApp {
        name: Text::cut(&access.admin.app_name(part.app_id), 100),
        address: frozen.action.resolution().map(|_| root.letters(part.app_id, &of_run.clone().into())),
        done: Amount::exactly(part.done),
        counted: Amount::exactly(part.counted.max(part.done)),
    };
    let frame = Frame::of_apps(root, access, accesses).here(verb(frozen.action));
    let can_be_undone = frozen.action.can_be_undone()
        && done > 0
        && has_letters(accesses, frozen.run_id, done).await.unwrap_or(true);
    let mut response = html(&ResultPage {
        frame: match (is_answer, is_automatic) {
            (true, _) => frame.instead(run.recorded(root)),
            // The next step replaces the page.
            (false, true) => frame,
            (false, false) => frame.live(),
        },
        look: is_answer.then(|| root.result(frozen.run_id)),
        undo: can_be_undone.then(|| Undo::of_run(root, &apps, frozen.run_id, &run.back)),
        title,
        verb: verb(frozen.action),
        done,
        counted,
        apps: frozen.apps.iter().filter(|_| apps.len() > 1).map(of_app).collect(),
        changed_by_others: run.changed_by_others.filter(|&others| others > 0).map(Amount::exactly),
        uncounted: frozen.is_capped() && !run.more,
        skipped_locked: run.skipped_locked,
        stopped_by: run.stopped_by.as_deref().map(Text::from),
        failed: Amount::exactly(frozen.failed()),
        failures: run.failures.iter().filter_map(failed).collect(),
        began: frozen.began.map(Time),
        failed_again,
        wait,
        is_expired,
        next,
        ignore: (frozen.is_replay() && still_open.count > 0 && access.may(Right::Resolve)).then(|| {
            IgnoreRest {
                preview: root.bulk("preview"),
                filter: list_text(&frozen.shown_filter().into()),
                apps: apps.clone(),
                rest: still_open,
            }
        }),
        is_replay: frozen.is_replay(),
        action: root.bulk("run"),
        note: run.note.clone().unwrap_or_default(),
        rate: run.rate,
        back_address: run.back.address(root, &apps),
        back: run.back.clone(),
        recorded: run.recorded(root),
        run: token,
    })?;
    if is_answer {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    Ok(response)
}
