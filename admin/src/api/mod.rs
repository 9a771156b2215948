//! The JSON API: each file is one operation, with its query or body, its handler and its entry in the document.

use utoipa::{
    OpenApi,
    openapi::{
        self, Content, Header, Object, Ref, RefOr, Response, ResponseBuilder,
        path::{Operation, ParameterIn},
        schema::Type,
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{State, problem::Problem};

mod actions;
mod apps;
mod erase;
mod filter;
mod groups;
mod letter;
mod letters;
mod model;
mod new_groups;
mod payload;
mod preview;
mod reopen;
mod replay;
mod resolve;
mod reveal;
mod run;
mod search;
mod timeline;

pub(crate) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(apps::apps))
        .routes(routes!(new_groups::new_groups))
        .routes(routes!(letters::letters))
        .routes(routes!(search::search_letters))
        .routes(routes!(search::search_groups))
        .routes(routes!(letter::letter))
        .routes(routes!(payload::payload))
        .routes(routes!(payload::replayed_payload))
        .routes(routes!(reveal::reveal))
        .routes(routes!(reveal::reveal_replayed))
        .routes(routes!(reveal::reveal_metadata))
        .routes(routes!(resolve::resolve))
        .routes(routes!(replay::replay))
        .routes(routes!(reopen::reopen))
        .routes(routes!(actions::actions))
        .routes(routes!(groups::groups))
        .routes(routes!(timeline::timeline))
        .routes(routes!(erase::erase))
        .routes(routes!(preview::preview))
        .routes(routes!(run::run))
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Dead letters",
        description = "Finds, resolves and replays dead letters: events whose last attempt failed. The service decides \
                       which operator may do what. Times are in RFC 3339 format, in UTC. Payloads are returned as \
                       stored text and are not parsed. Every error is a problem (RFC 9457)."
    ),
    // The document's own address is one level below the mount's.
    servers((url = "..")),
    components(schemas(Problem)),
)]
struct Document;

/// The problems that any operation may return: status, name and meaning.
const PROBLEMS: [(&str, &str, &str); 10] = [
    ("400", "Invalid", "A part of the request is invalid. `field` names the field."),
    ("401", "Unauthenticated", "Nobody is logged in. The service may replace this response by its own."),
    ("403", "Forbidden", "The operator lacks the right, or the request comes from another site."),
    ("404", "NotFound", "The app or letter does not exist, or the operator may not see it."),
    ("408", "TooSlow", "The body did not arrive within 10 seconds."),
    ("413", "TooLarge", "The body is larger than 256 KiB."),
    ("415", "UnsupportedMediaType", "The `Content-Type` is not `application/json`."),
    ("421", "Misdirected", "The request's `Host` is not a name of this admin."),
    ("500", "Internal", "The request failed. The service's log has the cause."),
    (
        "503",
        "Unavailable",
        "The database is busy or unreachable, or too many requests are running. Retry after `Retry-After` seconds.",
    ),
];

/// Adds what all operations share.
pub(crate) fn document(mut document: openapi::OpenApi) -> openapi::OpenApi {
    for (path, item) in &mut document.paths.paths {
        // A bulk request names its apps in the body or in the token.
        let is_of_app = path.contains('{') || path.starts_with("/api/bulk/");
        if let Some(operation) = &mut item.get {
            add_problems(operation, is_of_app, false);
        }
        if let Some(operation) = &mut item.post {
            add_problems(operation, is_of_app, true);
        }
        if let Some(operation) = &mut item.get {
            add_not_modified(operation);
            add_query(operation);
        }
    }
    let components = document.components.get_or_insert_default();
    for (_, name, meaning) in PROBLEMS {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let response =
            ResponseBuilder::new().description(meaning).content("application/problem+json", content);
        components.responses.insert(name.to_owned(), response.into());
    }
    document
}

fn add_problems(operation: &mut Operation, is_of_app: bool, is_post: bool) {
    let has_body = operation.request_body.is_some();
    let responses = &mut operation.responses.responses;
    for (status, name, _) in PROBLEMS {
        let may_be = match status {
            "404" => is_of_app,
            "408" | "413" => is_post,
            "415" => has_body,
            _ => true,
        };
        if may_be {
            responses.entry(status.to_owned()).or_insert_with(|| Ref::from_response_name(name).into());
        }
    }
}

/// Adds the ETag of JSON responses: see `guard`.
fn add_not_modified(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    let Some(RefOr::T(found)) = responses.get_mut("200") else { return };
    if !found.content.contains_key("application/json") {
        return;
    }
    let header = Header::new(Object::with_type(Type::String));
    found.headers.insert("ETag".to_owned(), RefOr::T(header));
    let meaning = "`If-None-Match` names the response's `ETag`, so the client already has the response.";
    responses.insert("304".to_owned(), Response::new(meaning).into());
}

/// Lets every query parameter be empty: HTML forms send unset fields as empty, and an empty value counts as none.
fn add_query(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter
            && parameter.parameter_in == ParameterIn::Query
        {
            let may_be_empty = ("allowEmptyValue".to_owned(), true.into());
            parameter.extensions.get_or_insert_default().extend([may_be_empty]);
        }
    }
    let meaning = "The address is longer than the service's HTTP server accepts.";
    operation.responses.responses.insert("414".to_owned(), Response::new(meaning).into());
}
