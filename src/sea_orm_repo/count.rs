//! Counting rows.

use std::collections::HashMap;

use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait,
    sea_query::{Asterisk, Expr, ExprTrait, Func, Query, SelectStatement},
};
use uuid::Uuid;

use super::{SeaOrmDeadLetterRepo, record_rows, text::with_literal_limits, transaction::RepoConnection};
use crate::{AppId, DeadLetterRepoError, UnresolvedCount};

/// Each is a bound value, and PostgreSQL takes 65,535 a statement, SQLite 32,766.
const APPS_PER_COUNT: usize = 1_000;

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

    pub(super) async fn count_unresolved_of_apps(
        &self,
        app_ids: &[AppId],
        cap: Option<u32>,
    ) -> Result<Vec<UnresolvedCount>, DeadLetterRepoError> {
        let mut found = HashMap::new();
        for app_ids in app_ids.chunks(APPS_PER_COUNT) {
            let count =
                with_literal_limits(self.db.get_database_backend(), &unresolved_of_apps(app_ids, cap));
            let rows = self.db.query_all_raw(count).await?;
            for row in rows {
                found.insert(row.try_get::<Uuid>("", "app_id")?, row.try_get::<i64>("", "unresolved")?);
            }
        }
        let counts = app_ids.iter().map(|&app_id| {
            let counted = found.get(&app_id.into_inner()).copied().unwrap_or_default().unsigned_abs();
            let count = cap.map_or(counted, |cap| Ord::min(counted, cap.into()));
            UnresolvedCount { app_id, count, at_least: counted > count }
        });
        Ok(counts.collect())
    }
}

/// One count an app, each by a look at its index entries that ends at the cap.
fn unresolved_of_apps(app_ids: &[AppId], cap: Option<u32>) -> SelectStatement {
    let app_id = ("app", "column1");
    let unresolved = Query::select()
        .expr(Expr::val(1))
        .from(Entity)
        .and_where(Column::AppId.into_expr().eq(Expr::col(app_id)))
        .and_where(COLUMN.resolved_at.is_null())
        .apply_if(cap, |query, cap| {
            query.limit(u64::from(cap) + 1);
        })
        .take();
    let count =
        Query::select().expr(Func::count(Expr::col(Asterisk))).from_subquery(unresolved, "unresolved").take();
    Query::select()
        .expr_as(Expr::col(app_id), "app_id")
        .expr_as(count, "unresolved")
        .from_values(app_ids.iter().map(|app_id| app_id.into_inner()), "app")
        .take()
}
