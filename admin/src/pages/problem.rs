//! The error page: a problem of the API, as HTML for the browser.

use askama::Template;
use axum::{
    extract::Request,
    http::{
        HeaderValue, Method,
        header::{CONTENT_LENGTH, CONTENT_TYPE, REFERER},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use dead_letters::AppId;

use super::{
    back::Back,
    frame::Frame,
    text::{Text, Time, resolution_words},
};
use crate::{problem::Problem, urls::Root};

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    frame: Frame,
    title: &'static str,
    detail: Text,
    resolved: Option<Before>,
    /// Whether the same request may soon succeed. The script then sends it again.
    is_transient: bool,
    /// Links to other pages, the nearest first.
    ways: Vec<(String, &'static str)>,
}

/// How the letter was resolved before.
struct Before {
    as_what: &'static str,
    by: Option<Text>,
    at: Time,
}

/// Replaces a problem by the error page, except for the API and the assets.
pub(crate) async fn problem_as_page(root: Root, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_page = !["/api", "/assets"].iter().any(|part| path.strip_prefix(part).is_some_and(is_end));
    let is_get = request.method() == Method::GET;
    let referrer = request.headers().get(REFERER).and_then(|referrer| referrer.to_str().ok());
    let ways = ways(&root, path, is_get, referrer);
    let mut response = next.run(request).await;
    match response.extensions_mut().remove::<Problem>().filter(|_| is_page) {
        Some(problem) => as_page(&root, &problem, ways, is_get, response),
        None => response,
    }
}

fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('/')
}

/// Returns the error page with the status and the headers of the problem.
fn as_page(
    root: &Root,
    problem: &Problem,
    ways: Vec<(String, &'static str)>,
    is_get: bool,
    problem_response: Response,
) -> Response {
    let is_transient = is_get && problem.is_transient();
    let frame = Frame::bare(root).crumb("Overview", root.apps());
    let page = ProblemPage {
        frame: if is_transient { frame.live() } else { frame },
        title: problem.title(),
        detail: sentence(problem.detail()),
        resolved: problem.resolved_before().map(|resolved| Before {
            as_what: resolution_words(resolved.resolution),
            by: resolved.resolved_by.as_deref().map(|by| Text::cut(by, 100)),
            at: Time(resolved.resolved_at),
        }),
        is_transient,
        ways: problem.way().cloned().into_iter().chain(ways).collect(),
    };
    let Ok(html) = page.render() else { return problem_response };
    let (mut parts, _) = problem_response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    (parts, html).into_response()
}

/// Makes a sentence of a detail, which begins in lower case because other texts put it behind a colon.
pub(super) fn sentence(detail: &str) -> Text {
    let mut characters = detail.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", characters.as_str()).into()
}

/// How the label of each way back begins.
const BACK: &str = "Back to the ";

fn ways(root: &Root, path: &str, is_get: bool, referrer: Option<&str>) -> Vec<(String, &'static str)> {
    let mut parts = path.split('/').skip(1);
    let app_id = (parts.next() == Some("apps")).then(|| parts.next()?.parse::<AppId>().ok()).flatten();
    let letter = (parts.next() == Some("letters")).then(|| parts.next()?.parse().ok()).flatten();
    let letter = app_id.zip(letter).filter(|_| !is_get);
    let letter = letter.map(|(app_id, id)| (root.letter(app_id, id), "Back to the letter"));
    let app = app_id.map(|app_id| {
        let back = referrer.and_then(|referrer| Back::of(referrer, app_id)).unwrap_or_default();
        (back.address(root, &[app_id]), back.label())
    });
    letter.into_iter().chain(app).chain([(root.apps(), "All apps")]).collect()
}
