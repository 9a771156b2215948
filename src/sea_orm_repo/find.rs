//! Finding rows.

use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, EntityTrait, FromQueryResult, PartialModelTrait, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait,
    sea_query::{Expr, ExprTrait},
};

use super::{
    PAGE_SIZES, SeaOrmDeadLetterRepo,
    conditions::{is_row, matches},
    convert, in_range, non_negative, record_rows,
    text::{Text, with_literal_limits},
    transaction::RepoConnection,
};
use crate::{
    AppId, Cursor, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterRow, DeadLetterSummary,
    Page, PageRequest,
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

    pub(super) async fn find_newest(
        &self,
        app_id: AppId,
        unresolved_only: bool,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<DeadLetterRow>, DeadLetterRepoError> {
        let limit = non_negative("limit", limit)?;
        let offset = non_negative("offset", offset)?;
        let newest = Entity::find()
            .filter(COLUMN.app_id.eq(app_id.into_inner()))
            // Two statements, not one with a flag: a flag's generic plan can't use the partial index.
            .apply_if(unresolved_only.then_some(COLUMN.resolved_at.is_null()), QueryFilter::filter)
            .order_by_desc(Column::CreatedAt)
            .order_by_desc(Column::Id)
            .limit(limit);
        let backend = self.db.get_database_backend();
        let page = match offset {
            0 => with_literal_limits(backend, newest.as_query()),
            // Each offset as a literal would be a statement of its own to prepare.
            _ => newest.offset(offset).build(backend),
        };
        let rows = convert::Row::find_by_statement(page).all(&self.db).await?;
        record_rows(rows.len() as u64);
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

    pub(super) async fn find_page(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError> {
        let size = in_range("page.size", page.size, PAGE_SIZES)?;
        let after = page.after.map(|cursor| cursor.place(app_id, filter)).transpose()?;
        let backend = self.db.get_database_backend();
        let query = convert::Summary::select_cols(Entity::find().select_only())
            .filter(matches(app_id, filter, backend))
            .apply_if(after, |query, (created_at, id)| {
                // A row comparison is one index condition; `a < x OR (a = x AND b < y)` reads all that came
                // before.
                let columns = Expr::tuple([Column::CreatedAt.into_expr(), Column::Id.into_expr()]);
                query.filter(columns.lt(Expr::tuple([Expr::val(created_at), Expr::val(id.into_inner())])))
            })
            .order_by_desc(Column::CreatedAt)
            .order_by_desc(Column::Id)
            // One more, to know whether a page follows.
            .limit(u64::from(size) + 1)
            .into_query();
        let page = with_literal_limits(backend, &query);
        let rows = convert::Summary::find_by_statement(page).all(&self.db).await?;
        record_rows(rows.len() as u64);
        let has_next = rows.len() > size as usize;
        let items: Vec<_> = rows.into_iter().take(size as usize).map(DeadLetterSummary::from).collect();
        let last = items.last().filter(|_| has_next);
        let next = last.map(|last| Cursor::behind(last.created_at, last.id, app_id, filter));
        Ok(Page { items, next })
    }
}
