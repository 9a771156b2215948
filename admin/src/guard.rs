//! The layers that every request passes: limits, the same-site check and headers. RFC 9110 defines `ETag`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{DefaultBodyLimit, FromRequest, OriginalUri, Request},
    http::{
        HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
            X_FRAME_OPTIONS,
        },
    },
    middleware::{Next, from_fn, map_response},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tower_http::{compression::CompressionLayer, csrf::CsrfLayer};
use tracing::{Instrument, error};

use crate::{
    State,
    access::Waiting,
    audit, input,
    live::{knows, weak_tag},
    pages,
    problem::{self, Problem},
};

/// Maximum size of a body. A thousand ids are 40 KB in JSON and 60 KB in a sealed token.
const MAX_BODY_BYTES: usize = 256 << 10;
/// Time limit of a request. It is longer than a pool waits for a connection, and longer than a bulk run takes.
const TIME_OUT: Duration = Duration::from_secs(60);
/// The time limit of a view, after which it gets 503.
///
/// The view's statement keeps one of the admin's turns until the database ends it. Set this as the statement timeout
/// of the pool that you open for the admin.
pub const VIEW_TIMEOUT: Duration = Duration::from_secs(15);
/// Time limit for receiving a whole body.
const BODY_TIME_OUT: Duration = Duration::from_secs(10);
/// Maximum size of a page, which is buffered for its `ETag`.
const MAX_PAGE_BYTES: usize = 16 << 20;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Adds the layers, the innermost first.
pub(crate) fn layers(router: Router<State>, csrf: CsrfLayer) -> Router<State> {
    router
        .layer(from_fn(whole_body))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(csrf.with_rejection_response(|_| Problem::cross_site().into_response()))
        .layer(from_fn(audit::attempts))
        .layer(from_fn(in_time))
        .layer(from_fn(one_door))
        .layer(from_fn(pages::problem_as_page))
        .layer(from_fn(not_modified))
        .layer(CompressionLayer::new())
        .layer(map_response(headers))
}

/// Returns 404 for a path with an empty segment. A nested prefix would accept `/admin//apps`, and a rule of the host
/// or of a proxy for `/admin/apps` would not apply to it.
async fn one_door(request: Request, next: Next) -> Response {
    let original = request.extensions().get::<OriginalUri>().map_or(request.uri(), |OriginalUri(uri)| uri);
    match original.path().contains("//") || request.uri().path().contains("//") {
        true => problem::not_found().await.into_response(),
        false => next.run(request).await,
    }
}

/// Limits the time of a request. A store that hangs is reported as unavailable.
///
/// A task of its own handles the request and continues if the client hangs up. The statement also continues on its
/// connection, so the task keeps the turn until it has ended. The audit log then has the real outcome of an action.
async fn in_time(mut request: Request, next: Next) -> Response {
    let here = Arc::new(());
    request.extensions_mut().insert(Waiting(Arc::downgrade(&here)));
    let patience = if request.method().is_safe() { VIEW_TIMEOUT } else { TIME_OUT };
    let task = tokio::spawn(timeout(TIME_OUT, next.run(request)).in_current_span());
    let answer = timeout(patience, task).await;
    drop(here);
    match answer {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(_))) => Problem::unavailable().into_response(),
        Ok(Err(error)) => {
            error!(%error, "a request was not answered");
            Problem::internal().into_response()
        }
        Err(_) => Problem::too_long().into_response(),
    }
}

/// Reads the body before the request takes a turn, so that a slow client does not block others.
async fn whole_body(request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let read = Bytes::from_request(Request::from_parts(parts.clone(), body), &());
    match timeout(BODY_TIME_OUT, read).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Ok(Err(rejection)) => input::bad_body(&rejection).into_response(),
        Err(_) => Problem::too_slow().into_response(),
    }
}

/// Returns 304 if the client already has the same body. The request then costs the store's calls but sends no body.
async fn not_modified(request: Request, next: Next) -> Response {
    let headers = request.headers().clone();
    // A HEAD has the headers of the GET. An outer layer drops its body.
    let is_view = request.method().is_safe();
    let (mut parts, body) = next.run(request).await.into_parts();
    // A response with its own Cache-Control must not be stored: it is a payload, which may be large, or an error.
    let is_kept = parts.headers.get(CACHE_CONTROL).is_none();
    // A poll's response has a tag already.
    let is_tagged = parts.headers.contains_key(ETAG);
    if !is_view || parts.status != StatusCode::OK || !is_kept || is_tagged {
        return Response::from_parts(parts, body);
    }
    let Ok(body) = to_bytes(body, MAX_PAGE_BYTES).await else {
        return Problem::unavailable().into_response();
    };
    let tag = weak_tag(&Sha256::digest(&body));
    let is_known = knows(&headers, &tag);
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        parts.headers.insert(ETAG, tag);
    }
    if is_known {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(axum::http::header::CONTENT_TYPE);
        parts.headers.remove(axum::http::header::CONTENT_LENGTH);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, Body::from(body))
}

/// Adds the security headers.
///
/// `Referrer-Policy` must not be stricter than `same-origin`. Without a Referer, browsers send `Origin: null` with
/// forms to hosts on plain HTTP, and the same-site check refuses that.
pub(crate) async fn headers(mut response: Response) -> Response {
    let status = response.status();
    let is_refused = status.is_client_error() || status.is_server_error();
    let headers = response.headers_mut();
    let kept = HeaderValue::from_static(if is_refused { "no-store" } else { "private, no-cache" });
    headers.entry(CACHE_CONTROL).or_insert(kept);
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}
