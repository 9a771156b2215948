//! Finding rows.

use std::ops::Range;

use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, EntityTrait, FromQueryResult, PartialModelTrait, QueryFilter, QuerySelect, QueryTrait,
    sea_query::Func,
};
use uuid::Uuid;

use super::{
    PAGE_SIZES, SeaOrmDeadLetterRepo,
    conditions::is_row,
    connection::RepoConnection,
    convert, in_range, non_negative,
    scan::newest_first,
    text::{Text, with_literal_limits},
};
use crate::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterRow, DeadLetterSummary, Page,
    PageRequest,
};

impl<C: RepoConnection> SeaOrmDeadLetterRepo<C> {
    pub(super) async fn find(&self, id: DeadLetterId) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
        static GET: Text = Text::new();
        let id = id.into_inner();
        let get =
            GET.with(self.db.get_database_backend(), [id.into()], || Entity::find_by_id(id).into_query());
        let row = convert::Row::find_by_statement(get).one(&self.db).await?;
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
        let newest = newest_first(Entity::find())
            .filter(COLUMN.app_id.eq(app_id.into_inner()))
            // Two statements, not one with a flag: a flag's generic plan can't use the partial index.
            .apply_if(unresolved_only.then_some(COLUMN.resolved_at.is_null()), QueryFilter::filter)
            .limit(limit);
        let backend = self.db.get_database_backend();
        let page = match offset {
            0 => with_literal_limits(backend, newest.as_query()),
            // Each offset as a literal would be a statement of its own to prepare.
            _ => newest.offset(offset).build(backend),
        };
        let rows = convert::Row::find_by_statement(page).all(&self.db).await?;
        Ok(rows.into_iter().map(DeadLetterRow::from).collect())
    }

    pub(super) async fn find_in_app(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
        let row = Entity::find().filter(is_row(app_id, id)).one(&self.db).await?;
        Ok(row.map(DeadLetterRow::from))
    }

    pub(super) async fn find_summary(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterSummary>, DeadLetterRepoError> {
        let summary = convert::Summary::select_cols(Entity::find().select_only())
            .filter(is_row(app_id, id))
            .build(self.db.get_database_backend());
        let row = convert::Summary::find_by_statement(summary).one(&self.db).await?;
        Ok(row.map(DeadLetterSummary::from))
    }

    /// A part of what the column holds.
    pub(super) async fn find_text(
        &self,
        column: Column,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError> {
        // PostgreSQL's are of 32 bits, and its longest text is shorter.
        let clamp = |value: u64| i32::try_from(value).unwrap_or(i32::MAX);
        let first = clamp(characters.start.saturating_add(1));
        let length = clamp(characters.end.saturating_sub(characters.start));
        let part = Func::cust("substr").args([column.into_expr(), first.into(), length.into()]);
        let text = Entity::find().select_only().expr(part).filter(is_row(app_id, id));
        Ok(text.into_tuple().one(&self.db).await?)
    }

    pub(super) async fn find_page(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError> {
        let size = in_range("page.size", page.size, PAGE_SIZES)?;
        let listed = self.listed(app_id, filter, page).await?;
        let summaries = convert::Summary::select_cols(Entity::find().select_only());
        let backend = self.db.get_database_backend();
        let page = with_literal_limits(backend, &listed.page(summaries, size, backend));
        let rows = convert::Summary::find_by_statement(page).all(&self.db).await?;
        let items = rows.into_iter().map(DeadLetterSummary::from).collect();
        Ok(listed.page_of(items, size, |row| (row.created_at, row.id)))
    }
}
