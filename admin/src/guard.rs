//! What every request passes: limits, the same-site check and headers. See RFC 9110 for ETag, and the issue
//! of each header where it is set.

use std::time::Duration;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{DefaultBodyLimit, Request},
    http::{
        HeaderValue, Method, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    middleware::{Next, from_fn, map_response},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tower_http::{compression::CompressionLayer, csrf::CsrfLayer};

use crate::{State, pages, problem::Problem};

/// A thousand ids in JSON are 40 KB, in a signed token 60.
const MAX_BODY_BYTES: usize = 256 << 10;
/// Longer than a pool waits for a connection, and than a bulk run goes on.
const TIME_OUT: Duration = Duration::from_secs(60);
/// No page has more.
const MAX_PAGE_BYTES: usize = 16 << 20;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// From the inside out.
pub(crate) fn layers(router: Router<State>, csrf: CsrfLayer) -> Router<State> {
    router
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(in_time))
        .layer(csrf.with_rejection_response(|_| Problem::cross_site().into_response()))
        .layer(from_fn(pages::problem_as_page))
        .layer(from_fn(not_modified))
        .layer(CompressionLayer::new())
        .layer(map_response(headers))
}

/// A store that hangs is one that can't be reached.
async fn in_time(request: Request, next: Next) -> Response {
    timeout(TIME_OUT, next.run(request)).await.unwrap_or_else(|_| Problem::unavailable().into_response())
}

/// Answers 304 where the client has this very body already: a poll costs the store's calls and no bytes.
async fn not_modified(request: Request, next: Next) -> Response {
    let known = request.headers().get(IF_NONE_MATCH).cloned();
    let is_get = request.method() == Method::GET;
    let (mut parts, body) = next.run(request).await.into_parts();
    // What is not to be stored is a payload, maybe a large one, or an error.
    let is_kept = parts.headers.get(CACHE_CONTROL).is_none();
    if !is_get || parts.status != StatusCode::OK || !is_kept {
        return Response::from_parts(parts, body);
    }
    let Ok(body) = to_bytes(body, MAX_PAGE_BYTES).await else {
        return Problem::unavailable().into_response();
    };
    // Weak: the same page compressed is another body.
    let tag = format!("W/\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(&body)[..16]));
    let is_known = known.is_some_and(|known| {
        known.to_str().is_ok_and(|known| known.split(',').any(|known| known.trim() == tag))
    });
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

/// `same-origin` and no less: without a Referer browsers send `Origin: null` with forms to hosts on plain http,
/// which the same-site check has to refuse.
async fn headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}
