//! Lists letters, and searches in their payloads.

use dead_letters_entity::dead_letters::{COLUMN, Column};
use sea_orm::{Condition, DbErr, FromQueryResult, sea_query::Order};

use super::{
    SeaOrmDeadLetterRepo,
    connection::RepoConnection,
    convert,
    dialect::Dialect,
    hidden_limits::{shown, with_hidden_limits},
    in_range, non_negative,
    parts::{Part, by_time, conditions, first},
    scan::Matching,
};
use crate::{
    AppId, DeadLetterFilter, DeadLetterRepoError, DeadLetterRow, DeadLetterSummary, Page, PageRequest,
    PayloadSearch, page::PAGE_SIZES,
};

pub(super) async fn list_for_app<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    unresolved_only: bool,
    limit: i64,
    offset: i64,
) -> Result<Vec<DeadLetterRow>, DeadLetterRepoError> {
    let limit = non_negative("limit", limit)?;
    let offset = non_negative("offset", offset)?;
    // Each part has its own statement. The generic plan of one statement with a flag can't use the partial
    // index.
    let part = if unresolved_only { Part::Unresolved } else { Part::All };
    let of_app = Condition::all().add(COLUMN.app_id.eq(app_id.into_inner()));
    let dialect = repo.dialect()?;
    let newest_first = by_time(Column::CreatedAt, Order::Desc);
    let last = limit.saturating_add(offset).min(i64::MAX.unsigned_abs());
    let columns = convert::ShownRow::columns();
    let mut page = first(dialect, conditions(&[part], &of_app), &newest_first, last, &columns);
    let page = match offset {
        0 => with_hidden_limits(dialect, &page),
        _ if dialect == Dialect::Sqlite => {
            // As a literal, each offset would make a different statement to prepare.
            dialect.build(page.limit(limit).offset(offset))
        }
        _ => with_hidden_limits(dialect, page.limit(shown(limit)).offset(offset)),
    };
    let rows = convert::ShownRow::find_by_statement(page).all(&repo.db).await?;
    Ok(rows.into_iter().map(DeadLetterRow::from).collect())
}

pub(super) async fn list<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    filter: &DeadLetterFilter,
    page: &PageRequest,
) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError> {
    let size = in_range("page.size", page.size, PAGE_SIZES)?;
    let listed = repo.listed(app_id, filter, page).await?;
    page_of(repo, listed, size).await
}

pub(super) async fn search_payloads<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    search: &PayloadSearch,
) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError> {
    let size = in_range("page.size", search.page.size, PAGE_SIZES)?;
    let searched = repo.searched(app_id, search).await?;
    page_of(repo, searched, size).await
}

async fn page_of<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    mut listed: Matching<'_>,
    size: u32,
) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError> {
    let page = listed.page(size, &convert::Summary::columns());
    let rows = listed.fetch(&repo.db, page).await?;
    let items = rows.iter().map(|row| Ok(convert::Summary::from_query_result(row, "")?.into()));
    let items = items.collect::<Result<Vec<DeadLetterSummary>, DbErr>>()?;
    Ok(listed.page_of(items, size, |row| listed.place(row.created_at, row.resolved_at, row.id)))
}
