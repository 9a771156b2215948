//! What a bulk run did so far, what came back of it, and how it goes on: 1 letter, then 10, then 100.

use askama::Template;
use axum::response::Response;
use chrono::{DateTime, Utc};
use dead_letters::{AppId, ListQuery, Resolution};
use serde::{Deserialize, Serialize};

use super::{
    banner::back_text,
    frame::Frame,
    html,
    letters::Row,
    preview::verb,
    text::{Amount, Text, Time, settled_as},
};
use crate::{
    access::{Access, AppAccess},
    bulk::{Outcome, came_back},
    input::{AppPath, Query},
    problem::Problem,
    token::Purpose,
    urls::{Root, with_field},
};

/// A run between two steps, signed in the address.
#[derive(Serialize, Deserialize)]
pub(crate) struct Run {
    operator: String,
    app_id: AppId,
    action: Resolution,
    counted: u64,
    at_least: bool,
    done: u64,
    more: bool,
    held: bool,
    settled_by_others: Option<u64>,
    stopped_by: Option<String>,
    pub(crate) began: DateTime<Utc>,
    note: Option<String>,
    pub(crate) back: ListQuery,
    /// Of the preview, to go on with.
    pub(crate) token: String,
}

impl Run {
    pub(crate) fn new(access: &AppAccess, outcome: Outcome, note: Option<String>, back: ListQuery) -> Self {
        Self {
            operator: access.operator().name().to_owned(),
            app_id: access.app_id,
            action: outcome.action,
            counted: outcome.counted,
            at_least: outcome.at_least,
            done: outcome.done_so_far,
            more: outcome.more,
            held: outcome.held,
            settled_by_others: outcome.settled_by_others,
            stopped_by: outcome.stopped_by.map(|problem| problem.title().to_owned()),
            began: outcome.began,
            note,
            back,
            token: outcome.token,
        }
    }

    pub(crate) fn open(access: &AppAccess, run: &str) -> Result<Self, Problem> {
        let run: Option<Self> = access.admin().key.open(Purpose::Result, run);
        let run = run.ok_or_else(|| Problem::invalid_field("run", "is none that a run gave"))?;
        match run.operator == access.operator().name() && run.app_id == access.app_id {
            true => Ok(run),
            false => Err(Problem::preview_expired("it was run by another operator, or for another app")),
        }
    }

    fn sign(&self, access: &AppAccess) -> String {
        access.admin().key.sign(Purpose::Result, self)
    }

    pub(crate) fn address(&self, access: &AppAccess, root: &Root) -> String {
        with_field(root.bulk(access.app_id, "result"), "run", &self.sign(access))
    }

    pub(crate) fn is_replay(&self) -> bool {
        self.action == Resolution::Replayed
    }

    /// Letters of the next step: as many as the run has shown that it can do without one coming back.
    fn step(&self) -> u64 {
        match self.done {
            0 => 1,
            1..=10 => 10,
            11..=110 => 100,
            _ => 1_000,
        }
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
    settled_by_others: Option<Amount>,
    held: bool,
    stopped_by: Option<Text>,
    began: Time,
    came_back: Option<CameBack>,
    next: Option<Next>,
    is_replay: bool,
    run: String,
    action: String,
    note: String,
    back: String,
    list: String,
}

struct CameBack {
    count: Amount,
    letters: Vec<Row>,
}

/// How it goes on.
struct Next {
    /// None where the rest is no more than that.
    step: Option<Amount>,
    rest: Amount,
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
    let run = Run::open(&access, &run)?;
    let came_back = match run.is_replay() {
        true => {
            let found = came_back(&access, run.began).await?;
            let count = Amount { count: found.count as u64, at_least: found.at_least };
            let times = vec![1; found.letters.len()];
            let row = |(letter, times)| Row::new(&access, &root, letter, times);
            let letters = found.letters.into_iter().zip(times).map(row).collect();
            (found.count > 0).then_some(CameBack { count, letters })
        }
        false => None,
    };
    let counted = Amount { count: run.counted, at_least: run.at_least };
    let rest = Amount { count: run.counted.saturating_sub(run.done), at_least: run.at_least };
    let step = Amount::exactly(run.step());
    let is_step = run.is_replay() && (rest.count > step.count || rest.at_least);
    let what = settled_as(Some(run.action));
    let title =
        format!("{}{} {} of {counted}", what[..1].to_uppercase(), &what[1..], Amount::exactly(run.done));
    html(&ResultPage {
        frame: Frame::of_app(&root, &access).here(verb(run.action)).live(),
        title,
        verb: verb(run.action),
        done: run.done,
        counted,
        settled_by_others: run.settled_by_others.filter(|&others| others > 0).map(Amount::exactly),
        held: run.held,
        stopped_by: run.stopped_by.as_deref().map(Text::from),
        began: Time(run.began),
        came_back,
        next: (run.more || run.held).then_some(Next { step: is_step.then_some(step), rest }),
        is_replay: run.is_replay(),
        action: root.bulk(app_id, "run"),
        note: run.note.clone().unwrap_or_default(),
        back: back_text(&run.back),
        list: root.letters(app_id, &run.back),
        run: run.sign(&access),
    })
}
