//! A bulk run, as the history has it: for colleagues of the operator who ran it, and after its token has expired.

use askama::Template;
use axum::response::Response;
use dead_letters::{Action, DeadLetterAction, DeadLetterFilter, DeadLetterState, ListQuery, Resolution};
use uuid::Uuid;

use super::{
    back::Back,
    banner::{Banner, Undo},
    frame::Frame,
    history::words,
    html,
    text::{Amount, Text, Time},
};
use crate::{
    access::{Access, AppAccess, Right},
    bulk::{Recorded, failed_again, has_letters},
    problem::Problem,
    urls::Root,
};

#[derive(Template)]
#[template(path = "recorded.html")]
struct RecordedPage {
    frame: Frame,
    what: String,
    letters: Amount,
    actor: Option<Text>,
    note: Option<Text>,
    first: Time,
    last: Time,
    apps: Vec<OfApp>,
    undo: Option<Undo>,
    /// Where a form continues the run, if the tab has kept its token.
    look: String,
}

struct OfApp {
    name: Text,
    letters: Amount,
    /// The address of the letters that still are as the run left them. `None` if the run left them open, or deleted them.
    address: Option<String>,
    /// The letters that failed again after a replay.
    again: Option<Again>,
}

struct Again {
    address: String,
    count: Amount,
}

/// Returns the page of a run in these apps.
pub(super) async fn show(
    access: &Access,
    root: &Root,
    accesses: &[AppAccess],
    run_id: Uuid,
    banner: Option<Banner>,
) -> Result<Response, Problem> {
    let mut apps = Vec::new();
    let mut ids = Vec::new();
    let mut letters = Amount::exactly(0);
    let mut bounds: Option<(DeadLetterAction, DeadLetterAction)> = None;
    for of_app in accesses {
        let Some(recorded) = Recorded::of(of_app, run_id).await? else { continue };
        let amount = Amount { count: recorded.letters, capped: recorded.is_cut };
        letters = Amount { count: letters.count + amount.count, capped: letters.capped || amount.capped };
        let is_replay = recorded.first.resolution == Some(Resolution::Replayed);
        let of_run = DeadLetterFilter::default().state(DeadLetterState::Any).run_id(run_id);
        let since = recorded.first.created_at;
        let again = match is_replay {
            true => {
                let found = failed_again(of_app, run_id, since).await?;
                let list = ListQuery::from(DeadLetterFilter::failed_again(run_id, since));
                let count = Amount { count: found.count as u64, capped: found.capped };
                Some(Again { address: root.letters(of_app.app_id, &list), count })
            }
            false => None,
        };
        apps.push(OfApp {
            name: Text::cut(&access.admin.app_name(of_app.app_id), 100),
            letters: amount,
            address: recorded.first.resolution.map(|_| root.letters(of_app.app_id, &of_run.into())),
            again,
        });
        ids.push(of_app.app_id);
        let (first, last) = (recorded.first, recorded.last);
        bounds = Some(match bounds {
            Some((early, late)) => (
                if first.created_at < early.created_at { first } else { early },
                if last.created_at > late.created_at { last } else { late },
            ),
            None => (first, last),
        });
    }
    let (first, last) = bounds.ok_or_else(Problem::no_such_run)?;
    // A batch of one letter has that letter's previous resolution, which says nothing of the other letters.
    let mut run = first.clone();
    run.previous_resolution = None;
    let can_be_undone = first.action == Some(Action::Resolve)
        && access.may(Right::Resolve)
        && has_letters(accesses, run_id, letters.count).await?;
    html(&RecordedPage {
        frame: Frame::of_apps(root, access, accesses).here("Run").live().banner(banner),
        what: words(&run),
        letters,
        actor: first.actor.as_deref().map(|actor| Text::cut(actor, 100)),
        note: first.note.as_deref().map(|note| Text::cut(note, 2_000)),
        first: Time(first.created_at),
        last: Time(last.created_at),
        apps,
        look: root.result(run_id),
        undo: can_be_undone.then(|| Undo::of_run(root, &ids, run_id, &Back::default())),
    })
}
