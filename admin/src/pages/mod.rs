//! The pages.
//!
//! Every view is a GET whose address can be sent to a colleague. Every action is a form's POST whose response is a
//! 303, or the page itself if that does not fit into an address.
//!
//! The struct beside each handler holds what its template prints. Templates compute nothing.

mod apps;
mod back;
mod banner;
mod bulk;
mod chart;
mod command;
mod edit;
mod find;
mod frame;
mod groups;
mod history;
mod letter;
mod letter_actions;
mod letters;
mod listing;
mod preview;
mod problem;
mod recorded;
mod result;
mod search;
mod text;

use askama::Template;
use axum::{
    Router,
    http::{StatusCode, header::LOCATION},
    middleware::from_fn_with_state,
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use tracing::error;

pub(crate) use back::Back;
pub(crate) use problem::problem_as_page;
pub(crate) use result::apps_of_run;

use crate::{State, access::Access, live, problem::Problem, urls::Root};

pub(crate) fn router(admin: &State) -> Router<State> {
    let of_app = from_fn_with_state(admin.clone(), live::app);
    let of_apps = from_fn_with_state(admin.clone(), live::apps);
    let of_run = from_fn_with_state(admin.clone(), live::run);
    Router::new()
        .route("/", get(root))
        .route("/apps", get(apps::page).layer(of_apps))
        .route("/find", get(find::page))
        .route("/apps/{dead_letters_app}", get(letters::page).layer(of_app.clone()))
        .route("/apps/{dead_letters_app}/groups", get(groups::page).layer(of_app))
        .route("/apps/{dead_letters_app}/search", post(search::page))
        .route("/apps/{dead_letters_app}/letters/{dead_letters_id}", get(letter::page))
        .route("/apps/{dead_letters_app}/letters/{dead_letters_id}/reveal", post(letter::reveal))
        .route("/apps/{dead_letters_app}/letters/{dead_letters_id}/resolve", post(letter_actions::resolve))
        .route("/apps/{dead_letters_app}/letters/{dead_letters_id}/replay", post(letter_actions::replay))
        .route("/apps/{dead_letters_app}/letters/{dead_letters_id}/reopen", post(letter_actions::reopen))
        .route("/apps/{dead_letters_app}/letters/{dead_letters_id}/edit", post(edit::page))
        .route("/apps/{dead_letters_app}/letters/{dead_letters_id}/edit/review", post(edit::review))
        .route("/apps/{dead_letters_app}/letters/{dead_letters_id}/edit/replay", post(edit::replay))
        .route("/apps/{dead_letters_app}/letters/{dead_letters_id}/erase", post(letter_actions::erase))
        .route("/bulk/preview", post(preview::page))
        .route("/bulk/run", post(bulk::run))
        .route("/bulk/undo", post(bulk::undo))
        .route("/runs/{dead_letters_run}", get(result::page).layer(of_run).post(result::look))
}

async fn root(_: Access, root: Root) -> Response {
    see_other(&root.apps())
}

fn html(page: &impl Template) -> Result<Response, Problem> {
    match page.render() {
        Ok(html) => Ok(Html(html).into_response()),
        Err(error) => {
            error!(%error, "a page could not be rendered");
            Err(Problem::unavailable())
        }
    }
}

fn see_other(address: &str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, address)]).into_response()
}
