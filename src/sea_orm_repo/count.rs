//! Counting rows.

use dead_letters_entity::dead_letters::{COLUMN, Entity};
use sea_orm::sea_query::{Asterisk, Expr, Func, Query};

use super::{SeaOrmDeadLetterRepo, record_rows, transaction::RepoConnection};
use crate::{AppId, DeadLetterRepoError};

impl<C: RepoConnection> SeaOrmDeadLetterRepo<C> {
    pub(super) async fn count_unresolved(&self, app_id: AppId) -> Result<i64, DeadLetterRepoError> {
        let count = Query::select()
            .expr(Func::count(Expr::col(Asterisk)))
            .from(Entity)
            .and_where(COLUMN.app_id.eq(app_id.into_inner()))
            .and_where(COLUMN.resolved_at.is_null())
            .take();
        let counted = self.db.query_one(&count).await?;
        let count = counted.map_or(Ok(0), |row| row.try_get_by_index::<i64>(0))?;
        record_rows(count.unsigned_abs());
        Ok(count)
    }
}
