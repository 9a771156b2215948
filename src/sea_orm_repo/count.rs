//! Counts letters.

use std::collections::HashMap;

use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr,
    prelude::DateTimeWithTimeZone,
    sea_query::{ArrayType, Asterisk, Expr, ExprTrait, Func, Order, Query, SelectStatement, Value},
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    connection::RepoConnection,
    dialect::Dialect,
    hidden_limits::with_hidden_limits,
    in_range,
    parts::{Part, by_time, conditions, first},
};
use crate::{
    AppId, CappedCount, Count, CountRequest, DeadLetterFilter, DeadLetterRepoError, DeadLetterState,
    Resolution, UnresolvedCount,
};

/// The most apps in one statement. On SQLite each app is a bound value, and a statement takes at most 32,766.
const APPS_PER_COUNT: usize = 1_000;

pub(super) async fn unresolved_count<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
) -> Result<i64, DeadLetterRepoError> {
    let count = Query::select()
        .expr(Func::count(Expr::col(Asterisk)))
        .from(Entity)
        .and_where(COLUMN.app_id.eq(app_id.into_inner()))
        .and_where(COLUMN.resolved_at.is_null())
        .take();
    let counted = repo.db.query_one(&count).await?;
    let count = counted.map_or(Ok(0), |row| row.try_get_by_index::<i64>(0))?;
    Ok(count)
}

pub(super) async fn unresolved_counts<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_ids: &[AppId],
    cap: Option<u32>,
) -> Result<Vec<UnresolvedCount>, DeadLetterRepoError> {
    let dialect = repo.dialect()?;
    if let (Dialect::Sharded, Some(cap)) = (dialect, cap) {
        return unresolved_counts_one_by_one(repo, app_ids, cap).await;
    }
    let mut found = HashMap::new();
    for app_ids in app_ids.chunks(APPS_PER_COUNT) {
        let count = match dialect {
            Dialect::Sharded => dialect.build(&unresolved_by_app(app_ids)),
            _ => with_hidden_limits(dialect, &unresolved_of_apps(dialect, app_ids, cap)),
        };
        let rows = repo.db.query_all_raw(count).await?;
        for row in rows {
            found.insert(row.try_get::<Uuid>("", "app_id")?, row.try_get::<i64>("", "unresolved")?);
        }
    }
    let counts = app_ids.iter().map(|&app_id| {
        let counted = found.get(&app_id.into_inner()).copied().unwrap_or_default();
        UnresolvedCount { app_id, unresolved: capped(counted, cap) }
    });
    Ok(counts.collect())
}

async fn unresolved_counts_one_by_one<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_ids: &[AppId],
    cap: u32,
) -> Result<Vec<UnresolvedCount>, DeadLetterRepoError> {
    let dialect = repo.dialect()?;
    let mut counts = Vec::with_capacity(app_ids.len());
    for &app_id in app_ids {
        let count = count_to(dialect, cap, DeadLetterState::Unresolved, app_id.into_inner().into());
        let counted = repo.db.query_one_raw(with_hidden_limits(dialect, &count)).await?;
        let counted = counted.map_or(Ok(0), |row| row.try_get_by_index::<i64>(0))?;
        counts.push(UnresolvedCount { app_id, unresolved: capped(counted, Some(cap)) });
    }
    Ok(counts)
}

pub(super) async fn count<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    filter: &DeadLetterFilter,
    request: &CountRequest,
) -> Result<Count, DeadLetterRepoError> {
    let CountRequest { cap, scan_limit } = *request;
    let mut matching = repo.bounded(repo.matching(app_id, filter)?.until_now(), scan_limit).await?;
    let place = Query::select().columns([matching.time(), Column::Id]).take();
    let count = count_rows(matching.first(u64::from(cap) + 1, &place));
    let now = repo.dialect()?.now_as_bound();
    let count = Query::select().expr(now).expr(count).take();
    let counted = matching.fetch(&repo.db, count).await?.pop();
    let counted = counted.ok_or_else(|| DbErr::RecordNotFound("count".to_owned()))?;
    let now = counted.try_get_by_index::<DateTimeWithTimeZone>(0)?.to_utc();
    Ok(Count {
        matching: capped(counted.try_get_by_index(1)?, Some(cap)),
        now,
        as_of: filter.created_before.unwrap_or(now),
        scanned_back_to: matching.scanned_back_to(),
    })
}

pub(super) async fn times_replayed<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    event_ids: &[Uuid],
) -> Result<Vec<u64>, DeadLetterRepoError> {
    in_range("event_ids", u32::try_from(event_ids.len()).unwrap_or(u32::MAX), 0..=1_000)?;
    if event_ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = repo.db.query_all(&replays_of(repo.dialect()?, app_id, event_ids)).await?;
    let mut found = HashMap::new();
    for row in rows {
        found.insert(row.try_get_by_index::<Uuid>(0)?, row.try_get_by_index::<i64>(1)?.unsigned_abs());
    }
    Ok(event_ids.iter().map(|event_id| found.get(event_id).copied().unwrap_or_default()).collect())
}

/// Selects a count for each event.
fn replays_of(dialect: Dialect, app_id: AppId, event_ids: &[Uuid]) -> SelectStatement {
    let constant = |text: &str| Expr::Constant(text.into());
    let resolution = Func::coalesce([Column::Resolution.into_expr(), constant("")]);
    let mut replays = Query::select();
    let event_id = from_ids(&mut replays, dialect, event_ids, "event");
    let replayed = Query::select()
        .expr(Func::count(Expr::col(Asterisk)))
        .from(Entity)
        .and_where(COLUMN.app_id.eq(app_id.into_inner()))
        .and_where(Column::OriginalEventId.into_expr().eq(event_id.clone()))
        // The condition has the words of the partial index, so PostgreSQL takes no other index.
        .and_where(Expr::expr(resolution).eq(constant(Resolution::Replayed.as_str())))
        .take();
    replays.expr(event_id).expr(replayed).take()
}

/// Makes ids the rows of a query, and returns their column. PostgreSQL gets the ids as an array whose length the
/// planner does not see. The statement is then the same for every number of ids, and the expected cost stays low.
/// Otherwise PostgreSQL would compile the statement first (JIT).
pub(super) fn from_ids(
    query: &mut SelectStatement,
    dialect: Dialect,
    ids: &[Uuid],
    alias: &'static str,
) -> Expr {
    if dialect == Dialect::Sqlite {
        query.from_values(ids.iter().copied(), alias);
        return Expr::col((alias, "column1"));
    }
    let ids = Value::Array(ArrayType::Uuid, Some(Box::new(ids.iter().copied().map(Value::from).collect())));
    let array = Query::select().expr(Expr::val(ids)).take();
    query.from_function(Func::cust("unnest").arg(Expr::SubQuery(None, Box::new(array.into()))), alias);
    Expr::col((alias, alias))
}

/// Counts an app's letters of a state. The index scan ends at one letter more than the cap.
pub(super) fn count_to(dialect: Dialect, cap: u32, state: DeadLetterState, app_id: Expr) -> SelectStatement {
    let of_app = Condition::all().add(Column::AppId.into_expr().eq(app_id));
    let place = Query::select().columns([Column::CreatedAt, Column::Id]).take();
    // Without an order PostgreSQL may scan the whole table, because it expects to find that many rows early.
    let newest_first = by_time(Column::CreatedAt, Order::Desc);
    let conditions = conditions(Part::of(state), &of_app);
    count_rows(first(dialect, conditions, &newest_first, u64::from(cap) + 1, &place))
}

fn count_rows(rows: SelectStatement) -> SelectStatement {
    Query::select().expr(Func::count(Expr::col(Asterisk))).from_subquery(rows, "matching").take()
}

/// Caps the number that [`count_to`] counted.
pub(super) fn capped(counted: i64, cap: Option<u32>) -> CappedCount {
    let counted = counted.unsigned_abs();
    let count = cap.map_or(counted, |cap| Ord::min(counted, cap.into()));
    CappedCount { count, capped: counted > count }
}

/// Selects a count for each app.
fn unresolved_of_apps(dialect: Dialect, app_ids: &[AppId], cap: Option<u32>) -> SelectStatement {
    let app_ids: Vec<_> = app_ids.iter().map(|app_id| app_id.into_inner()).collect();
    let mut counts = Query::select();
    let app_id = from_ids(&mut counts, dialect, &app_ids, "app");
    let unresolved = match cap {
        Some(cap) => count_to(dialect, cap, DeadLetterState::Unresolved, app_id.clone()),
        None => Query::select()
            .expr(Func::count(Expr::col(Asterisk)))
            .from(Entity)
            .and_where(Column::AppId.into_expr().eq(app_id.clone()))
            .and_where(COLUMN.resolved_at.is_null())
            .take(),
    };
    counts.expr_as(app_id, "app_id").expr_as(unresolved, "unresolved").take()
}

/// Selects a count for each app that has unresolved letters. Each shard counts its own apps, and this form can't
/// apply a cap.
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
