//! The letters of an app.

use axum::Json;
use chrono::{DateTime, Utc};
use dead_letters::ListQuery;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    filter::{Filter, Scan, listing},
    model::Letter,
};
use crate::{
    access::Access,
    input::{AppPath, Query},
    problem::Problem,
};

/// A page of letters.
#[derive(Serialize, ToSchema)]
pub(super) struct Letters {
    items: Vec<Letter>,
    /// What to ask for the next page with, as `after`. Null where this is the last.
    next: Option<String>,
    /// Where the scan ended before the page was full: there are letters behind it, and `next` goes on there.
    scanned_back_to: Option<DateTime<Utc>>,
}

/// The letters of an app
///
/// The newest first. A page goes on behind the last letter of the one before: what is settled, swept or stored in
/// between moves none of the others.
#[utoipa::path(
    get,
    path = "/api/apps/{dead_letters_app}/letters",
    params(
        ("dead_letters_app" = Uuid, Path, description = "The app."),
        Filter,
        ("size" = Option<u32>, Query, minimum = 1, maximum = 500, description = "Letters a page: 50, where it is not said."),
        (
            "after" = Option<String>,
            Query,
            pattern = "^[A-Za-z0-9_-]{44}$",
            description = "The `next` of the page before, with the same filter."
        ),
        Scan,
    ),
    responses((status = 200, description = "A page of them.", body = Letters))
)]
pub(super) async fn letters(
    access: Access,
    AppPath(app_id): AppPath,
    Query(fields): Query,
) -> Result<Json<Letters>, Problem> {
    let access = access.app(app_id)?;
    let ListQuery { filter, page, .. } = listing(fields, access.operator())?;
    let page = access.store().list(app_id, &filter, &page).await?;
    Ok(Json(Letters {
        items: Letter::all(&access, page.items).await?,
        next: page.next.map(|cursor| cursor.to_string()),
        scanned_back_to: page.scanned_back_to,
    }))
}
