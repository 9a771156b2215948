//! Polls of pages that stay open. The script of a live page asks for it again every ten seconds.
//!
//! The tag of a live page is made of what the page depends on: its address, the operator, this build, and the version
//! of the letters. A poll whose tag still holds therefore costs one look at the cached version, and none of the page's
//! statements. The tag also has a minute, after which the page is made again: no version notices what a sweep deletes,
//! or that a day has passed.
//!
//! A navigation gets the whole page and the digest of its bytes as the tag, as the API does. An operator who reloads a
//! page sees what is there now.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{FromRequestParts, OriginalUri, Request, State as AxumState},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ACCEPT, CACHE_CONTROL, ETAG, IF_NONE_MATCH},
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::Utc;
use dead_letters::{AppId, DeadLetterRepoError, LettersVersion};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::{
    State,
    access::{Access, MAX_APPS_OF_RUN},
    assets::{SCRIPT, STYLE},
    input::{AppPath, Query},
    pages::apps_of_run,
    problem::Problem,
};

/// How long a version is cached. All polls of that time share one statement.
const CACHED: Duration = Duration::from_secs(1);
/// After these seconds a page is made again, even if the version is the same.
const WHOLE_EVERY: u64 = 60;
/// The tag of an overview of more apps is the digest of its bytes, since the version of each app is a statement.
const MAX_APPS: usize = 20;
const MAX_VERSIONS: usize = 1_000;
const BUILD: &str = env!("CARGO_PKG_VERSION");

/// The cached versions: of apps, and of all letters.
#[derive(Default)]
pub(crate) struct Versions(Mutex<HashMap<Option<AppId>, Arc<Place>>>);

/// A poll keeps the lock while it reads the version. Other polls wait for it, and do not read the version too.
type Place = tokio::sync::Mutex<Option<(Instant, LettersVersion)>>;

impl Versions {
    /// Returns the cached version, or the one that `read` returns.
    async fn get(
        &self,
        app_id: Option<AppId>,
        read: impl Future<Output = Result<LettersVersion, DeadLetterRepoError>>,
    ) -> Result<LettersVersion, DeadLetterRepoError> {
        let place = {
            let mut places = self.places();
            if places.len() >= MAX_VERSIONS {
                places.retain(|_, place| Arc::strong_count(place) > 1);
            }
            places.entry(app_id).or_default().clone()
        };
        let mut cached = place.lock().await;
        match *cached {
            Some((read_at, version)) if read_at.elapsed() < CACHED => Ok(version),
            _ => {
                let now = Instant::now();
                let version = read.await?;
                *cached = Some((now, version));
                Ok(version)
            }
        }
    }

    fn clear(&self) {
        self.places().clear();
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Option<AppId>, Arc<Place>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the versions after each request that may have changed letters, so that the operator's next poll sees the
/// change.
pub(crate) async fn forget_after_changes(
    AxumState(admin): AxumState<State>,
    request: Request,
    next: Next,
) -> Response {
    let is_view = request.method().is_safe();
    let response = next.run(request).await;
    if !is_view {
        admin.versions.clear();
    }
    response
}

/// Handles polls of a page of one app.
pub(crate) async fn app(AxumState(admin): AxumState<State>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    // The page reports an invalid id.
    let app_id = AppPath::from_request_parts(&mut parts, &admin).await.ok().map(|AppPath(app_id)| app_id);
    poll(&admin, parts, body, next, |access| Some(vec![Some(app_id.filter(|&id| access.operator.sees(id))?)]))
        .await
}

/// Handles polls of a run's page. They name the run's apps, or its token does.
pub(crate) async fn run(AxumState(admin): AxumState<State>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let query = Query::from_request_parts(&mut parts, &admin).await;
    let scope = |access: &Access| {
        let apps = apps_of_run(access, query.ok()?.0)?;
        // The page sends more statements than there are versions, however many apps the run has.
        let is_seen = apps.iter().all(|&app_id| access.operator.sees(app_id));
        (is_seen && !apps.is_empty() && apps.len() <= MAX_APPS_OF_RUN)
            .then(|| apps.into_iter().map(Some).collect())
    };
    poll(&admin, parts, body, next, scope).await
}

/// Handles polls of the overview.
pub(crate) async fn apps(AxumState(admin): AxumState<State>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let scope = |access: &Access| match access.operator.apps() {
        None => Some(vec![None]),
        // The version of all letters would reveal that other apps have new ones.
        Some(apps) if apps.len() <= MAX_APPS => Some(apps.iter().copied().map(Some).collect()),
        Some(_) => None,
    };
    poll(&admin, parts, body, next, scope).await
}

async fn poll(
    admin: &State,
    mut parts: Parts,
    body: Body,
    next: Next,
    scope: impl FnOnce(&Access) -> Option<Vec<Option<AppId>>>,
) -> Response {
    if is_navigation(&parts.headers) {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let access = match Access::from_request_parts(&mut parts, admin).await {
        Ok(access) => access,
        Err(response) => return response,
    };
    let scope = scope(&access);
    // The page must not ask again who the operator is, nor wait for another turn.
    parts.extensions.insert(access.clone());
    let Some(scope) = scope else { return next.run(Request::from_parts(parts, body)).await };
    // The version is read before the page, so that a change in between shows in the next poll.
    let tag = match tag(&access, &parts, &scope).await {
        Ok(tag) => tag,
        Err(problem) => return problem.into_response(),
    };
    drop(access);
    if knows(&parts.headers, &tag) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response();
    }
    let mut response = next.run(Request::from_parts(parts, body)).await;
    // A response with its own Cache-Control must not be stored.
    if response.status() == StatusCode::OK
        && !response.headers().contains_key(CACHE_CONTROL)
        && let Ok(tag) = HeaderValue::from_str(&tag)
    {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// Returns whether a browser asks for a page to show it. The script's requests accept anything.
fn is_navigation(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains("text/html")))
}

/// Returns whether the client already has the response with this tag.
pub(crate) fn knows(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|known| known.to_str().ok());
    known.flat_map(|known| known.split(',')).any(|known| known.trim() == tag)
}

async fn tag(access: &Access, parts: &Parts, scope: &[Option<AppId>]) -> Result<String, Problem> {
    let address = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |OriginalUri(uri)| uri);
    let mut digest = Sha256::new();
    // `Debug` quotes every text, so two pages never have the same one.
    digest.update(format!("{address:?} {:?} {BUILD} {} {}", access.operator, STYLE.name(), SCRIPT.name()));
    let spread = digest.clone().finalize()[0];
    for &app_id in scope {
        let version = access.admin.versions.get(app_id, access.store().letters_version(app_id)).await?;
        digest.update(format!("{app_id:?} {version}"));
    }
    // Pages are not all made again in the same second.
    let minute = (Utc::now().timestamp().unsigned_abs() + u64::from(spread)) / WHOLE_EVERY;
    digest.update(minute.to_le_bytes());
    Ok(weak_tag(&digest.finalize()))
}

/// Returns a tag of a digest. It is weak, because the same page has other bytes when it is compressed.
pub(crate) fn weak_tag(digest: &[u8]) -> String {
    format!("W/\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(digest.get(..16).unwrap_or(digest)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use dead_letters::{DeadLetterRead, testing};
    use tokio::time::{advance, pause};
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn polls_of_one_second_share_one_statement_and_a_change_ends_it() {
        let version = testing::store().await.unwrap().letters_version(None).await.unwrap();
        pause();
        let (versions, reads) = (Versions::default(), AtomicU32::new(0));
        let app = Some(Uuid::nil().into());
        let poll = async |app_id| {
            let read = async {
                reads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok(version)
            };
            assert_eq!(versions.get(app_id, read).await.unwrap(), version);
        };
        futures_util::future::join_all((0..200).map(|_| poll(app))).await;
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        poll(None).await;
        assert_eq!(reads.load(Ordering::Relaxed), 2);
        versions.clear();
        poll(app).await;
        assert_eq!(reads.load(Ordering::Relaxed), 3);
        advance(CACHED).await;
        poll(app).await;
        assert_eq!(reads.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn a_version_that_could_not_be_read_is_not_cached() {
        let versions = Versions::default();
        assert!(versions.get(None, async { Err(testing::transient()) }).await.is_err());
        let version = testing::store().await.unwrap().letters_version(None).await.unwrap();
        assert_eq!(versions.get(None, async { Ok(version) }).await.unwrap(), version);
    }
}
