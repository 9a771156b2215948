//! Finds the apps that have letters in a state, and the backlogs of open letters.

use std::collections::BTreeSet;

use dead_letters_entity::dead_letters::Column;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, QueryResult,
    prelude::DateTimeWithTimeZone,
    sea_query::{CommonTableExpression, Expr, ExprTrait, Order, Query, SelectStatement, WithClause},
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    app_steps::{APP, APPS, app_steps},
    connection::RepoConnection,
    count::{capped, count_to, from_ids},
    dialect::Dialect,
    hidden_limits::{of_several_apps, with_hidden_limits},
    in_range,
    parts::{Part, Sort, by_time, conditions, first},
};
use crate::{AppId, Backlog, BacklogRequest, DeadLetterRepoError, DeadLetterState};

/// The most apps in one statement. On SQLite each app is a bound value, and a statement takes at most 32,766.
const APPS_PER_STATEMENT: usize = 1_000;

pub(super) async fn backlogs<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    request: &BacklogRequest,
) -> Result<Vec<Backlog>, DeadLetterRepoError> {
    let &BacklogRequest { ref among, after, limit, cap } = request;
    let limit = in_range("limit", limit, 1..=1_000)?;
    let among = among.as_ref().map(|among| {
        let behind = among.iter().filter(|&&app_id| after.is_none_or(|after| app_id > after));
        behind.copied().collect::<BTreeSet<_>>()
    });
    let dialect = repo.dialect()?;
    if dialect == Dialect::Sharded {
        return backlogs_one_by_one(repo, among, after, limit, cap).await;
    }
    let mut backlogs = Vec::new();
    match among {
        None => {
            let apps = skip_to(dialect, DeadLetterState::Open, after, limit);
            look_up(repo, apps, cap, &mut backlogs).await?;
        }
        Some(among) => {
            let among: Vec<_> = among.into_iter().map(AppId::into_inner).collect();
            for among in among.chunks(APPS_PER_STATEMENT) {
                let left = limit - backlogs.len() as u32;
                look_up(repo, pick_open(dialect, among, left), cap, &mut backlogs).await?;
                if backlogs.len() == limit as usize {
                    break;
                }
            }
        }
    }
    Ok(backlogs)
}

pub(super) async fn apps<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    state: DeadLetterState,
    mut after: Option<AppId>,
    limit: u32,
) -> Result<Vec<AppId>, DeadLetterRepoError> {
    let limit = in_range("limit", limit, 1..=1_000)?;
    let dialect = repo.dialect()?;
    let mut found = Vec::new();
    if dialect == Dialect::Sharded {
        while found.len() < limit as usize {
            let Some(app_id) = next_app(repo, state, after).await? else { break };
            found.push(app_id);
            after = Some(app_id);
        }
        return Ok(found);
    }
    let apps = Query::select()
        .column(APP)
        .from(APPS)
        .and_where(Expr::col(APP).is_not_null())
        .order_by(APP, Order::Asc)
        .with_cte(skip_to(dialect, state, after, limit))
        .take();
    for row in repo.db.query_all_raw(with_hidden_limits(dialect, &apps)).await? {
        found.push(row.try_get_by_index::<Uuid>(0)?.into());
    }
    Ok(found)
}

/// Sends the statement for the first app behind `after`.
async fn next_app<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    state: DeadLetterState,
    after: Option<AppId>,
) -> Result<Option<AppId>, DeadLetterRepoError> {
    let dialect = repo.dialect()?;
    let next = of_several_apps(dialect, &next_of(dialect, state, is_behind(after)));
    let next = repo.db.query_one_raw(next).await?;
    Ok(next.map(|row| row.try_get_by_index::<Uuid>(0)).transpose()?.map(AppId::from))
}

async fn backlogs_one_by_one<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    among: Option<BTreeSet<AppId>>,
    mut after: Option<AppId>,
    limit: u32,
    cap: u32,
) -> Result<Vec<Backlog>, DeadLetterRepoError> {
    let dialect = repo.dialect()?;
    let mut among = among.map(BTreeSet::into_iter);
    let mut backlogs = Vec::new();
    while backlogs.len() < limit as usize {
        let app_id = match &mut among {
            Some(among) => among.next(),
            None => next_app(repo, DeadLetterState::Open, after).await?,
        };
        let Some(app_id) = app_id else { break };
        after = Some(app_id);
        let of_app =
            Query::select().apply(|query| backlog(query, dialect, app_id.into_inner().into(), cap)).take();
        for row in repo.db.query_all_raw(with_hidden_limits(dialect, &of_app)).await? {
            // All of an app's letters were closed in the meantime, or a listed app has no open letters.
            if row.try_get_by_index::<Option<DateTimeWithTimeZone>>(3)?.is_some() {
                backlogs.push(to_backlog(&row, cap)?);
            }
        }
    }
    Ok(backlogs)
}

async fn look_up<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    apps: WithClause,
    cap: u32,
    backlogs: &mut Vec<Backlog>,
) -> Result<(), DeadLetterRepoError> {
    let dialect = repo.dialect()?;
    let look_up = with_hidden_limits(dialect, &backlogs_of(dialect, apps, cap));
    for row in repo.db.query_all_raw(look_up).await? {
        backlogs.push(to_backlog(&row, cap)?);
    }
    Ok(())
}

/// Selects the first row of a state in the order, of the rows that fulfill the condition.
fn first_of(
    dialect: Dialect,
    state: DeadLetterState,
    condition: Condition,
    sort: Sort<'_>,
    column: Column,
) -> SelectStatement {
    let columns = Query::select().columns(sort.iter().map(|&(column, _)| column)).take();
    let first = first(dialect, conditions(Part::of(state), &condition), sort, 1, &columns);
    Query::select().column(column).from_subquery(first, "first").take()
}

/// Selects the first app within the bound that has letters in the state.
fn next_of(dialect: Dialect, state: DeadLetterState, bound: Expr) -> SelectStatement {
    let by_app = [(Column::AppId, Order::Asc)];
    first_of(dialect, state, Condition::all().add(bound), &by_app, Column::AppId)
}

fn is_behind(after: Option<AppId>) -> Expr {
    match after {
        Some(after) => Column::AppId.gt(after.into_inner()),
        // This bound holds for every app, and the same index search serves it.
        None => Column::AppId.gte(Uuid::nil()),
    }
}

/// Steps from one app to the next one that has letters in the state. Each step probes each index of the state once.
fn skip_to(dialect: Dialect, state: DeadLetterState, after: Option<AppId>, limit: u32) -> WithClause {
    let next = next_of(dialect, state, Column::AppId.into_expr().gt(Expr::col(APP)));
    app_steps(next_of(dialect, state, is_behind(after)), next, Some(limit.into()))
}

/// Selects the listed apps that have open letters. PostgreSQL may plan EXISTS so that it reads the open letters of
/// all apps.
fn pick_open(dialect: Dialect, among: &[Uuid], limit: u32) -> WithClause {
    let mut apps = Query::select();
    let app_id = from_ids(&mut apps, dialect, among, "listed");
    apps.expr_as(app_id.clone(), APP.1)
        .and_where(Expr::from(seen(dialect, app_id.clone(), Order::Desc)).is_not_null())
        .order_by_expr(app_id, Order::Asc)
        .limit(limit.into());
    let apps = CommonTableExpression::new().table_name(APPS).query(apps).to_owned();
    WithClause::new().cte(apps).to_owned()
}

/// Selects when the app's newest or oldest open letter was created.
fn seen(dialect: Dialect, app_id: Expr, order: Order) -> SelectStatement {
    let of_app = Condition::all().add(Column::AppId.into_expr().eq(app_id));
    let by_time = by_time(Column::CreatedAt, order);
    first_of(dialect, DeadLetterState::Open, of_app, &by_time, Column::CreatedAt)
}

fn backlogs_of(dialect: Dialect, apps: WithClause, cap: u32) -> SelectStatement {
    Query::select()
        .apply(|query| backlog(query, dialect, Expr::col(APP), cap))
        .from(APPS)
        .and_where(Expr::col(APP).is_not_null())
        .order_by(APP, Order::Asc)
        .with_cte(apps)
        .take()
}

/// Selects the columns that [`to_backlog`] reads.
fn backlog(query: &mut SelectStatement, dialect: Dialect, app_id: Expr, cap: u32) {
    query
        .expr(app_id.clone())
        .expr(count_to(dialect, cap, DeadLetterState::Open, app_id.clone()))
        .expr(count_to(dialect, cap, DeadLetterState::Unresolved, app_id.clone()))
        .expr(seen(dialect, app_id.clone(), Order::Asc))
        .expr(seen(dialect, app_id, Order::Desc));
}

fn to_backlog(row: &QueryResult, cap: u32) -> Result<Backlog, DeadLetterRepoError> {
    let count = |column| row.try_get_by_index(column).map(|counted| capped(counted, Some(cap)));
    Ok(Backlog {
        app_id: row.try_get_by_index::<Uuid>(0)?.into(),
        open: count(1)?,
        unresolved: count(2)?,
        oldest: row.try_get_by_index::<DateTimeWithTimeZone>(3)?.to_utc(),
        newest: row.try_get_by_index::<DateTimeWithTimeZone>(4)?.to_utc(),
    })
}
