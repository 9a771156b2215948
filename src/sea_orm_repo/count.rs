//! Counting rows.

use std::collections::HashMap;

use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, DbBackend, DbErr,
    prelude::DateTimeWithTimeZone,
    sea_query::{Asterisk, Expr, ExprTrait, Func, Order, Query, SelectStatement},
};
use uuid::Uuid;

use super::{SeaOrmDeadLetterRepo, connection::RepoConnection, in_range, text::with_literal_limits};
use crate::{AppId, Count, DeadLetterFilter, DeadLetterRepoError, Resolution, UnresolvedCount};

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
        Ok(count)
    }

    pub(super) async fn count_unresolved_of_apps(
        &self,
        app_ids: &[AppId],
        cap: Option<u32>,
    ) -> Result<Vec<UnresolvedCount>, DeadLetterRepoError> {
        if let (true, Some(cap)) = (self.sharded, cap) {
            return self.count_unresolved_one_by_one(app_ids, cap).await;
        }
        let backend = self.db.get_database_backend();
        let mut found = HashMap::new();
        for app_ids in app_ids.chunks(APPS_PER_COUNT) {
            let count = match self.sharded {
                true => backend.build(&unresolved_by_app(app_ids)),
                false => with_literal_limits(backend, &unresolved_of_apps(app_ids, cap)),
            };
            let rows = self.db.query_all_raw(count).await?;
            for row in rows {
                found.insert(row.try_get::<Uuid>("", "app_id")?, row.try_get::<i64>("", "unresolved")?);
            }
        }
        let counts = app_ids.iter().map(|&app_id| {
            let counted = found.get(&app_id.into_inner()).copied().unwrap_or_default();
            let (count, at_least) = capped(counted, cap);
            UnresolvedCount { app_id, count, at_least }
        });
        Ok(counts.collect())
    }

    async fn count_unresolved_one_by_one(
        &self,
        app_ids: &[AppId],
        cap: u32,
    ) -> Result<Vec<UnresolvedCount>, DeadLetterRepoError> {
        let mut counts = Vec::with_capacity(app_ids.len());
        for &app_id in app_ids {
            let unresolved =
                Condition::all().add(COLUMN.app_id.eq(app_id.into_inner())).add(COLUMN.resolved_at.is_null());
            let count = count_to(Some(cap), rows_that(unresolved));
            let count = with_literal_limits(self.db.get_database_backend(), &count);
            let counted = self.db.query_one_raw(count).await?;
            let counted = counted.map_or(Ok(0), |row| row.try_get_by_index::<i64>(0))?;
            let (count, at_least) = capped(counted, Some(cap));
            counts.push(UnresolvedCount { app_id, count, at_least });
        }
        Ok(counts)
    }

    pub(super) async fn count_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        cap: u32,
        scan: Option<u32>,
    ) -> Result<Count, DeadLetterRepoError> {
        let matching = self.bounded(self.matching(app_id, filter)?, scan).await?;
        let backend = self.db.get_database_backend();
        let count = count_to(Some(cap), |query| matching.select(query, backend));
        let count = Query::select().expr(behind_what_is_stored(backend)).expr(count).take();
        let counted = self.db.query_one_raw(with_literal_limits(backend, &count)).await?;
        let counted = counted.ok_or_else(|| DbErr::RecordNotFound("count".to_owned()))?;
        let now = counted.try_get_by_index::<DateTimeWithTimeZone>(0)?.to_utc();
        let (count, at_least) = capped(counted.try_get_by_index(1)?, Some(cap));
        Ok(Count {
            count,
            at_least,
            as_of: filter.created_before.map_or(now, |before| Ord::min(before, now)),
            looked_back_to: matching.looked_back_to(),
        })
    }

    pub(super) async fn count_replays(
        &self,
        app_id: AppId,
        event_ids: &[Uuid],
    ) -> Result<Vec<u64>, DeadLetterRepoError> {
        in_range("event_ids", u32::try_from(event_ids.len()).unwrap_or(u32::MAX), 0..=1_000)?;
        if event_ids.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.db.query_all(&replays_of(app_id, event_ids)).await?;
        let mut found = HashMap::new();
        for row in rows {
            found.insert(row.try_get_by_index::<Uuid>(0)?, row.try_get_by_index::<i64>(1)?.unsigned_abs());
        }
        Ok(event_ids.iter().map(|event_id| found.get(event_id).copied().unwrap_or_default()).collect())
    }
}

/// The database's time, which no row that it shows was created at or after: in PostgreSQL not that of the
/// transaction, and of SQLite's, which go by milliseconds, the next one.
fn behind_what_is_stored(backend: DbBackend) -> Expr {
    match backend {
        DbBackend::Sqlite => {
            Func::cust("strftime").args(["%Y-%m-%dT%H:%M:%f+00:00", "now", "+0.001 seconds"].map(Expr::val))
        }
        _ => Func::cust("clock_timestamp"),
    }
    .into()
}

/// One count an event.
fn replays_of(app_id: AppId, event_ids: &[Uuid]) -> SelectStatement {
    let event_id = ("event", "column1");
    let constant = |text: &str| Expr::Constant(text.into());
    let resolution = Func::coalesce([Column::Resolution.into_expr(), constant("")]);
    let replayed = Condition::all()
        .add(COLUMN.app_id.eq(app_id.into_inner()))
        .add(Column::OriginalEventId.into_expr().eq(Expr::col(event_id)))
        // As in the partial index, which no other one can be taken for.
        .add(Expr::expr(resolution).eq(constant(Resolution::Replayed.as_str())));
    Query::select()
        .column(event_id)
        .expr(count_to(None, rows_that(replayed)))
        .from_values(event_ids.iter().copied(), "event")
        .take()
}

/// By a look at the index that ends at one more than the cap. `of` says which rows.
pub(super) fn count_to(cap: Option<u32>, of: impl FnOnce(&mut SelectStatement)) -> SelectStatement {
    let matching = Query::select()
        .expr(Expr::val(1))
        .apply(of)
        .apply_if(cap, |query, cap| {
            // Else PostgreSQL hopes to meet that many in the whole table before long.
            query
                .order_by(Column::CreatedAt, Order::Desc)
                .order_by(Column::Id, Order::Desc)
                .limit(u64::from(cap) + 1);
        })
        .take();
    Query::select().expr(Func::count(Expr::col(Asterisk))).from_subquery(matching, "matching").take()
}

pub(super) fn rows_that(condition: Condition) -> impl FnOnce(&mut SelectStatement) {
    |query| {
        query.from(Entity).cond_where(condition);
    }
}

/// (`count`, `at_least`) of what [`count_to`] counted.
pub(super) fn capped(counted: i64, cap: Option<u32>) -> (u64, bool) {
    let counted = counted.unsigned_abs();
    let count = cap.map_or(counted, |cap| Ord::min(counted, cap.into()));
    (count, counted > count)
}

/// One count an app.
fn unresolved_of_apps(app_ids: &[AppId], cap: Option<u32>) -> SelectStatement {
    let app_id = ("app", "column1");
    let unresolved = Condition::all()
        .add(Column::AppId.into_expr().eq(Expr::col(app_id)))
        .add(COLUMN.resolved_at.is_null());
    Query::select()
        .expr_as(Expr::col(app_id), "app_id")
        .expr_as(count_to(cap, rows_that(unresolved)), "unresolved")
        .from_values(app_ids.iter().map(|app_id| app_id.into_inner()), "app")
        .take()
}

/// One count an app that has any, each by its own shard: it has no place for a cap.
fn unresolved_by_app(app_ids: &[AppId]) -> SelectStatement {
    Query::select()
        .column(Column::AppId)
        .expr_as(Func::count(Expr::col(Asterisk)), "unresolved")
        .from(Entity)
        .and_where(Column::AppId.eq_any(app_ids.iter().map(|app_id| app_id.into_inner())))
        .and_where(COLUMN.resolved_at.is_null())
        .group_by_col(Column::AppId)
        .take()
}
