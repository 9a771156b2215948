//! Finding rows.

use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, QueryTrait};

use super::{
    SeaOrmDeadLetterRepo, convert, non_negative, record_rows,
    text::{Text, with_literal_limits},
    transaction::RepoConnection,
};
use crate::{AppId, DeadLetterId, DeadLetterRepoError, DeadLetterRow};

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
}
