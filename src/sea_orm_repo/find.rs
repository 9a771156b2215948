//! Finds letters.

use std::ops::Range;

use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, DbErr, EntityTrait, FromQueryResult, QueryFilter, QuerySelect,
    sea_query::{Func, Order},
};
use uuid::Uuid;

use super::{
    PAGE_SIZES, SeaOrmDeadLetterRepo,
    cached_sql::CachedSql,
    conditions::is_row,
    connection::RepoConnection,
    convert,
    dialect::Dialect,
    hidden_limits::{shown, with_hidden_limits},
    in_range, non_negative,
    parts::{Part, by_time, conditions, first},
};
use crate::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterRow, DeadLetterSummary, Page,
    PageRequest,
};

impl<C: RepoConnection> SeaOrmDeadLetterRepo<C> {
    pub(super) async fn find(&self, id: DeadLetterId) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
        static GET: CachedSql = CachedSql::new();
        let id = id.into_inner();
        let get = GET.with(self.dialect()?, [id.into()], || {
            convert::ShownRow::columns().and_where(COLUMN.id.eq(id)).take()
        });
        let row = convert::ShownRow::find_by_statement(get).one(&self.db).await?;
        Ok(row.map(DeadLetterRow::from))
    }

    pub(super) async fn find_app(&self, id: DeadLetterId) -> Result<Option<AppId>, DeadLetterRepoError> {
        let app = Entity::find_by_id(id.into_inner()).select_only().column(Column::AppId);
        Ok(app.into_tuple::<Uuid>().one(&self.db).await?.map(AppId::from))
    }

    pub(super) async fn find_newest(
        &self,
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
        let dialect = self.dialect()?;
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
        let rows = convert::ShownRow::find_by_statement(page).all(&self.db).await?;
        Ok(rows.into_iter().map(DeadLetterRow::from).collect())
    }

    pub(super) async fn find_in_app(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
        let row = convert::ShownRow::columns().cond_where(is_row(app_id, id)).take();
        let row = self.dialect()?.build(&row);
        let row = convert::ShownRow::find_by_statement(row).one(&self.db).await?;
        Ok(row.map(DeadLetterRow::from))
    }

    pub(super) async fn find_summary(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterSummary>, DeadLetterRepoError> {
        let summary = convert::Summary::columns().cond_where(is_row(app_id, id)).take();
        let summary = self.dialect()?.build(&summary);
        let row = convert::Summary::find_by_statement(summary).one(&self.db).await?;
        Ok(row.map(DeadLetterSummary::from))
    }

    /// Finds a range of characters of the column's text.
    pub(super) async fn find_text(
        &self,
        column: Column,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError> {
        // PostgreSQL's positions have 32 bits, and its longest text is shorter.
        let clamp = |value: u64| i32::try_from(value).unwrap_or(i32::MAX);
        let first = clamp(characters.start.saturating_add(1));
        let length = clamp(characters.end.saturating_sub(characters.start));
        let part = Func::cust("substr").args([column.into_expr(), first.into(), length.into()]);
        let text = Entity::find().select_only().expr(part).filter(is_row(app_id, id));
        Ok(text.into_model::<convert::TextPart>().one(&self.db).await?.map(|part| part.text))
    }

    pub(super) async fn find_page(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError> {
        let size = in_range("page.size", page.size, PAGE_SIZES)?;
        let mut listed = self.listed(app_id, filter, page).await?;
        let page = listed.page(size, &convert::Summary::columns());
        let rows = listed.fetch(&self.db, page).await?;
        let items = rows.iter().map(|row| Ok(convert::Summary::from_query_result(row, "")?.into()));
        let items = items.collect::<Result<Vec<DeadLetterSummary>, DbErr>>()?;
        Ok(listed.page_of(items, size, |row| listed.place(row.created_at, row.resolved_at, row.id)))
    }
}
