//! The letters of an app.

use axum::Json;
use chrono::{DateTime, Utc};
use dead_letters::{DeadLetterSummary, ListQuery, ListSort, Page};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    filter::{Filter, Scan, listing},
    model::{Letter, SortWords},
};
use crate::{
    access::{Access, AppAccess},
    input::{AppPath, Query},
    problem::Problem,
};

/// The order of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the field is documentation")]
struct Order {
    /// The order of the letters. `newest` and `oldest` go by the time of storage, or by the time of the resolution if the
    /// state is `closed`. `most_attempts` sorts the newest letters, as many as `scan_limit` allows. It has one page:
    /// `next` is null, and `scanned_back_to` is where the call stopped. The default is `newest`.
    #[param(value_type = Option<SortWords>, inline)]
    sort: Option<ListSort>,
}

/// A page of letters.
#[derive(Serialize, ToSchema)]
pub(super) struct Letters {
    items: Vec<Letter>,
    /// The `after` of the next page. Null on the last page.
    next: Option<String>,
    /// Where the scan limit stopped the call before the page was full. The next page continues there.
    scanned_back_to: Option<DateTime<Utc>>,
}

impl Letters {
    pub(super) async fn of(access: &AppAccess, page: Page<DeadLetterSummary>) -> Result<Self, Problem> {
        Ok(Self {
            items: Letter::all(access, page.items).await?,
            next: page.next.map(|cursor| cursor.to_string()),
            scanned_back_to: page.scanned_back_to,
        })
    }
}

/// Lists the letters of an app
///
/// The newest letters come first, unless `sort` has another order. Pages use keyset pagination: a letter that is resolved, swept or stored between two
/// requests does not move the others.
///
/// Besides the parameters below, each field `metadata.KEY=VALUE` selects the letters whose metadata has this text as the
/// value of this key: see `Filter`.
#[utoipa::path(
    get,
    path = "/api/apps/{dead_letters_app}/letters",
    params(
        ("dead_letters_app" = Uuid, Path, description = "The app."),
        Filter,
        Order,
        ("size" = Option<u32>, Query, minimum = 1, maximum = 500, description = "The maximum number of letters, 50 by default."),
        (
            "after" = Option<String>,
            Query,
            pattern = "^[A-Za-z0-9_-]{44}$",
            description = "The `next` of the previous page. The filter and the order must be the same."
        ),
        Scan,
    ),
    responses((status = 200, description = "A page of letters.", body = Letters))
)]
pub(super) async fn letters(
    access: Access,
    AppPath(app_id): AppPath,
    Query(fields): Query,
) -> Result<Json<Letters>, Problem> {
    let access = access.app(app_id)?;
    let ListQuery { filter, page, .. } = listing(fields, &access)?;
    let page = access.store().list(app_id, &filter, &page).await?;
    Letters::of(&access, page).await.map(Json)
}
