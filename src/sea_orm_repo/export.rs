//! Rows as they are stored, a page at a time.

use dead_letters_entity::dead_letters::{Column, Entity};
use sea_orm::{
    ColumnTrait, EntityTrait, FromQueryResult, QueryFilter, QuerySelect, QueryTrait,
    prelude::DateTimeWithTimeZone, sea_query::Func,
};
use uuid::Uuid;

use super::{
    PAGE_SIZES, SeaOrmDeadLetterRepo, convert, in_range,
    scan::{Place, newest_first},
    transaction::RepoConnection,
};
use crate::{AppId, DeadLetterFilter, DeadLetterRepoError, Page, PageRequest, StoredLetter};

/// Of payload, in a page of more than one row.
const PAGE_BYTES: u64 = 16 << 20;

impl<C: RepoConnection> SeaOrmDeadLetterRepo<C> {
    pub(super) async fn export_page(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<StoredLetter>, DeadLetterRepoError> {
        let size = in_range("page.size", page.size, PAGE_SIZES)?;
        let listed = self.listed(app_id, filter, page).await?;
        let backend = self.db.get_database_backend();
        // The sizes first, for which no payload is fetched.
        let sizes = Entity::find()
            .select_only()
            .columns([Column::CreatedAt, Column::Id])
            .expr(Func::cust("octet_length").arg(Column::Payload.into_expr()));
        let found = self.db.query_all_raw(listed.page(sizes, size, backend)).await?;
        let mut bytes = 0;
        let mut picked: Vec<Place> = Vec::new();
        for row in found.iter().take(size as usize) {
            bytes += u64::try_from(row.try_get_by_index::<i32>(2)?).unwrap_or_default();
            if bytes > PAGE_BYTES && !picked.is_empty() {
                break;
            }
            let created_at: DateTimeWithTimeZone = row.try_get_by_index(0)?;
            picked.push((created_at.to_utc(), row.try_get_by_index::<Uuid>(1)?.into()));
        }
        let last = picked.last().copied().filter(|_| picked.len() < found.len());
        let (next, looked_back_to) = listed.next(last);

        if picked.is_empty() {
            return Ok(Page { items: Vec::new(), next, looked_back_to });
        }

        // Those that still match.
        let ids = Some(picked.into_iter().map(|(_, id)| id).collect());
        let picked = DeadLetterFilter { ids, ..filter.clone() };
        let rows = newest_first(Entity::find())
            .filter(self.matching(app_id, &picked)?.condition(backend))
            .build(backend);
        let rows = convert::Row::find_by_statement(rows).all(&self.db).await?;
        Ok(Page { items: rows.into_iter().map(StoredLetter::from).collect(), next, looked_back_to })
    }
}
