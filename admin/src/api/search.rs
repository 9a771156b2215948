//! Searches in payloads. The operations are POSTs, so that no address, link or access log holds the text.

use axum::{
    Json,
    http::header::CACHE_CONTROL,
    response::{IntoResponse, Response},
};
use dead_letters::{Cursor, DeadLetterFilter, GroupRequest, PageRequest, PayloadSearch};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    filter::{Filter, check_lengths, object_or_null},
    groups::Groups,
    letters::Letters,
};
use crate::{
    access::Access,
    input::{self, AppPath},
    problem::Problem,
    search::{group, search},
};

/// A part of the payload, and the letters to search.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchRequest {
    /// A part of the payload's stored text, 1 to 1,000 bytes. The search is case-sensitive, has no wildcards, and compares
    /// JSON with its escapes. Edited payloads are not searched.
    #[schema(min_length = 1, max_length = 1_000)]
    payload_contains: String,
    /// The letters to search, every open letter by default.
    #[serde(default, deserialize_with = "object_or_null")]
    #[schema(value_type = Option<Filter>)]
    filter: DeadLetterFilter,
    /// The maximum number of letters, 50 by default.
    #[schema(minimum = 1, maximum = 500)]
    size: Option<u32>,
    /// The `next` of the previous page. The filter must be the same.
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9_-]{44}$")]
    after: Option<Cursor>,
    /// How many letters the search may examine, 10,000 by default: see `letters`.
    #[schema(minimum = 1, maximum = 1_000_000)]
    scan_limit: Option<u32>,
}

/// Lists the letters whose payload contains a text
///
/// The newest letters come first. A page also ends after 64 MB of payload, with `scanned_back_to` and `next`: pass `next`
/// as `after` to search on. If the service redacts payloads, the operator must be allowed to see redacted values, and each
/// request is audited without its text. To change the letters, pass their ids to a bulk preview.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/letters/search",
    params(("dead_letters_app" = Uuid, Path, description = "The app.")),
    request_body = SearchRequest,
    responses((status = 200, description = "A page of letters.", body = Letters))
)]
pub(super) async fn search_letters(
    access: Access,
    AppPath(app_id): AppPath,
    input::Json(request): input::Json<SearchRequest>,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let SearchRequest { payload_contains, filter, size, after, scan_limit } = request;
    check_lengths(&filter)?;
    let mut page = PageRequest::default().after(after).scan_limit(scan_limit);
    page.size = size.unwrap_or(page.size);
    let found = search(&access, PayloadSearch::new(payload_contains).filter(filter).page(page)).await?;
    let letters = Letters::of(&access, found).await?;
    Ok(([(CACHE_CONTROL, "no-store")], Json(letters)).into_response())
}

/// A part of the payload, and the letters to search.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupSearchRequest {
    /// A part of the payload's stored text, 1 to 1,000 bytes: see `SearchRequest`.
    #[schema(min_length = 1, max_length = 1_000)]
    payload_contains: String,
    /// The letters to search, every open letter by default.
    #[serde(default, deserialize_with = "object_or_null")]
    #[schema(value_type = Option<Filter>)]
    filter: DeadLetterFilter,
    /// The maximum number of groups, 50 by default.
    #[schema(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// How many letters the search may examine, 10,000 by default: see `letters`.
    #[schema(minimum = 1, maximum = 1_000_000)]
    scan_limit: Option<u32>,
}

/// Lists the error groups of the letters whose payload contains a text
///
/// The search also ends after 64 MB of payload, with `scanned_back_to`. The groups have no timelines. The rights and the
/// audit are those of the search for letters.
#[utoipa::path(
    post,
    path = "/api/apps/{dead_letters_app}/groups/search",
    params(("dead_letters_app" = Uuid, Path, description = "The app.")),
    request_body = GroupSearchRequest,
    responses((status = 200, description = "The groups, largest first.", body = Groups))
)]
pub(super) async fn search_groups(
    access: Access,
    AppPath(app_id): AppPath,
    input::Json(request): input::Json<GroupSearchRequest>,
) -> Result<Response, Problem> {
    let access = access.app(app_id)?;
    let GroupSearchRequest { payload_contains, filter, limit, scan_limit } = request;
    check_lengths(&filter)?;
    let mut request = GroupRequest::default().payload_contains(payload_contains).scan_limit(scan_limit);
    request.limit = limit.unwrap_or(request.limit);
    let groups = Groups::from(group(&access, &filter, request).await?);
    Ok(([(CACHE_CONTROL, "no-store")], Json(groups)).into_response())
}
