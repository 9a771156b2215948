//! Exports letters as they are stored, a page at a time.

use std::ops::RangeInclusive;

use dead_letters_entity::dead_letters::{Column, Entity};
use sea_orm::{
    EntityTrait, FromQueryResult, QueryTrait,
    prelude::DateTimeWithTimeZone,
    sea_query::{Expr, ExprTrait, Func, Query, SelectStatement},
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    bytes::{MAX_BYTES, row_bytes},
    connection::RepoConnection,
    convert,
    hidden_limits::with_hidden_limits,
    in_range,
    scan::{Matching, Place, by_time_alone},
};
use crate::{AppId, DeadLetterFilter, DeadLetterRepoError, Page, PageRequest, StoredLetter};

/// The sizes of a page. They are larger than a listing's, because each page is a round trip. `filter.ids` has the
/// same maximum.
const SIZES: RangeInclusive<u32> = 1..=1_000;

pub(super) async fn export<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    filter: &DeadLetterFilter,
    page: &PageRequest,
) -> Result<Page<StoredLetter>, DeadLetterRepoError> {
    let size = in_range("page.size", page.size, SIZES)?;
    let sort = by_time_alone(page.sort)?;
    let mut listed = repo.listed(app_id, filter, page).await?;
    let dialect = repo.dialect()?;
    // If the filter leaves rows out, searching twice costs more than fetching the rows by their ids.
    if !listed.is_narrow() && !listed.is_bounded() {
        let page = with_hidden_limits(dialect, &light_page(&listed, size));
        let rows = repo.db.rows::<convert::Row>(page).await?;
        let letters: Vec<_> = rows.into_iter().map(StoredLetter::from).collect();
        if !letters.is_empty() {
            let place =
                |letter: &StoredLetter| listed.place(letter.created_at, letter.resolved_at, letter.id);
            return Ok(listed.page_of(letters, size, place));
        }
    }
    // Reads the sizes first, which fetches no large text.
    let sizes = Query::select().columns([listed.time(), Column::Id]).expr_as(row_bytes(), "bytes").take();
    let sizes = listed.page(size, &sizes);
    let found = listed.fetch(&repo.db, sizes).await?;
    let mut bytes = 0;
    let mut picked: Vec<Place> = Vec::new();
    for row in found.iter().take(size as usize) {
        bytes += u64::try_from(row.try_get_by_index::<i64>(2)?).unwrap_or_default();
        if bytes > MAX_BYTES && !picked.is_empty() {
            break;
        }
        let time: DateTimeWithTimeZone = row.try_get_by_index(0)?;
        picked.push((time.to_utc(), row.try_get_by_index::<Uuid>(1)?.into()));
    }
    let last = picked.last().filter(|_| picked.len() < found.len()).copied();
    let (next, scanned_back_to) = listed.next(last);
    if picked.is_empty() {
        return Ok(Page { items: Vec::new(), next, scanned_back_to });
    }
    // Fetches the letters that still match. Without a state a filter with ids would match letters of any state.
    let ids = Some(picked.into_iter().map(|(_, id)| id).collect());
    let by_id = DeadLetterFilter { ids, state: Some(filter.effective_state()), ..filter.clone() };
    let rows = repo.matching(app_id, &by_id)?.in_order(sort).page(size, &Entity::find().into_query());
    let rows = convert::Row::find_by_statement(with_hidden_limits(dialect, &rows)).all(&repo.db).await?;
    Ok(Page { items: rows.into_iter().map(StoredLetter::from).collect(), next, scanned_back_to })
}

/// Selects a page and the row behind it, or nothing if these have more than [`MAX_BYTES`].
fn light_page(listed: &Matching, size: u32) -> SelectStatement {
    let sizes = Query::select().columns([listed.time(), Column::Id]).expr_as(row_bytes(), "bytes").take();
    let bytes = Query::select()
        .expr(Func::sum(Expr::col("bytes")))
        .from_subquery(listed.page(size, &sizes), "sizes")
        .take();
    listed.page(size, &Entity::find().into_query()).and_where(Expr::from(bytes).lte(MAX_BYTES)).take()
}
