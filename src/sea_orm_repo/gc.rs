//! The statements of the sweeps. Why deleting this way is safe:
//!
//! - **Never more than `limit`.** `ARRAY(SELECT … LIMIT n)` is an InitPlan: it runs once. The usual `id IN
//!   (SELECT … LIMIT n FOR UPDATE SKIP LOCKED)` may be planned as the inner side of a nested loop, runs once
//!   a row, locks the next n each time, and deletes everything; stale statistics are enough, every setting at
//!   its default.
//! - **Nothing that is not due.** Condition, order and limit all stand inside the subquery. A row that
//!   changed meanwhile is locked and checked again (READ COMMITTED): one that was just reopened is not
//!   swept as settled.
//! - **Nobody waits.** SKIP LOCKED passes over rows that another transaction holds: two sweepers share the
//!   work, a row being resolved stays for the next sweep.
//! - **Nobody else's plan is touched.** Sweeps of all apps filter by an expression that only their own index
//!   has.
//! - **Nor more than `limit` where the table is distributed**: each app's share of it is fixed first, and goes by
//!   a statement of its own.
//! - **An app that is excepted costs one probe**, whatever it holds: a recursive CTE goes from app to app by
//!   the index, and into those that are meant.
//!
//! SQLite has one writer and no row locks; there the same delete is an ordinary statement.

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, DbBackend, DbErr, EntityTrait, IdenStatic, Iterable, JoinType, QueryFilter,
    QueryOrder, QuerySelect, QueryTrait, Select, Statement,
    sea_query::{
        ArrayType, Asterisk, CommonTableExpression, Expr, ExprTrait, Func, Order, Query, SelectStatement,
        UnionType, Value, WithClause,
    },
};
use uuid::Uuid;

use super::{
    bytes::{row_bytes, row_bytes_of},
    parts::Part,
};
use crate::{
    AppId, Due,
    Resolution::{self, HandledByScript, Ignored, Replayed},
    SweepScope,
    time::to_bound,
};

/// The time before which a row is due.
fn bound_of(due: Due) -> DateTime<Utc> {
    let (Due::CreatedBefore(time) | Due::SettledBefore(time)) = due;
    to_bound(time)
}

pub(super) fn require_supported(backend: DbBackend) -> Result<(), DbErr> {
    match backend {
        DbBackend::Postgres | DbBackend::Sqlite => Ok(()),
        other => Err(DbErr::BackendNotSupported {
            db: other.as_str(),
            ctx: "gc runs on PostgreSQL and SQLite only",
        }),
    }
}

/// Deletes the oldest rows that are due. From app to app it is for PostgreSQL alone, and returns one row: how many, and
/// the last app.
pub(super) fn delete_oldest(
    backend: DbBackend,
    sharded: bool,
    scope: &SweepScope,
    due: Due,
    limit: u64,
) -> Statement {
    if backend == DbBackend::Sqlite {
        let oldest = oldest_on_sqlite(app_of(scope), due, Part::All, limit).column(Column::Id);
        return Entity::delete_many().filter(Column::Id.in_subquery(oldest.into_query())).build(backend);
    }
    let oldest = oldest_on_postgres(&[Column::Id], scope, due, Part::All, LOCK);
    let delete = match scope {
        // Citus routes by the app outside the subquery. Where the table is not distributed PostgreSQL would read all
        // rows of an app that is new since the last ANALYZE.
        SweepScope::App(_) if sharded => {
            format!("DELETE FROM dead_letters WHERE app_id = $3 AND id = ANY(ARRAY({oldest}))")
        }
        SweepScope::App(_) | SweepScope::AllApps => {
            format!("DELETE FROM dead_letters WHERE id = ANY(ARRAY({oldest}))")
        }
        SweepScope::AllAppsBut { .. } => format!(
            "WITH deleted AS (DELETE FROM dead_letters WHERE id = ANY(ARRAY({oldest})) RETURNING app_id) \
             SELECT count(*), max(app_id::text COLLATE \"C\") FROM deleted"
        ),
    };
    Statement::from_sql_and_values(backend, delete, values(scope, due, limit))
}

/// Locks the oldest rows that are due, and returns them whole: as many as have `max_bytes` together, or one. Beside each
/// stands how many rows are locked.
pub(super) fn lock_oldest_on_postgres(scope: &SweepScope, due: Due, limit: u64, max_bytes: u64) -> Statement {
    let all: Vec<_> = Column::iter().collect();
    let oldest = oldest_on_postgres(&all, scope, due, Part::All, LOCK);
    let columns = columns_of("locked", &all);
    let (row_bytes, locked_bytes) = (row_bytes_of("oldest"), row_bytes_of("locked"));
    // In the order of the rows: none is named, which would be a sort.
    let lock = format!(
        "SELECT {columns}, locked.rows_locked FROM (\
             SELECT oldest.*, count(*) OVER () AS rows_locked, \
                 sum({row_bytes}) OVER (ROWS UNBOUNDED PRECEDING) AS bytes \
             FROM ({oldest}) oldest) locked \
         WHERE locked.bytes <= {max_bytes} OR locked.bytes = {locked_bytes}"
    );
    Statement::from_sql_and_values(DbBackend::Postgres, lock, values(scope, due, limit))
}

/// Finds what [`delete_oldest`] would delete, of one app or of all: id and bytes of each row.
pub(super) fn find_oldest_on_sqlite(app_id: Option<AppId>, due: Due, limit: u64) -> Statement {
    oldest_on_sqlite(app_id, due, Part::All, limit)
        .column(Column::Id)
        .column_as(row_bytes(), "bytes")
        .build(DbBackend::Sqlite)
}

/// Deletes the rows of these ids, all of one app if it is said. To plan `= ANY($1)` PostgreSQL weighs each of
/// them.
pub(super) fn delete_by_id(
    backend: DbBackend,
    app_id: Option<AppId>,
    ids: impl Iterator<Item = Uuid>,
) -> Statement {
    if backend == DbBackend::Sqlite {
        return Entity::delete_many().filter(Column::Id.is_in(ids)).build(backend);
    }
    let of_app = if app_id.is_some() { " AND app_id = $2" } else { "" };
    let delete = format!("DELETE FROM dead_letters WHERE id = ANY(ARRAY(SELECT unnest($1))){of_app}");
    let ids = Value::Array(ArrayType::Uuid, Some(Box::new(ids.map(Value::from).collect())));
    let values = [ids].into_iter().chain(app_id.map(|app_id| app_id.into_inner().into()));
    Statement::from_sql_and_values(backend, delete, values)
}

/// How many of the rows that one batch of many apps is to delete are each app's, by app. It holds none of them.
pub(super) fn share_by_app(scope: &SweepScope, due: Due, limit: u64) -> Statement {
    let oldest = oldest_across_shards(&[Column::AppId], scope, due, Part::All);
    let share = format!("SELECT app_id, count(*) FROM ({oldest}) oldest GROUP BY app_id ORDER BY app_id");
    Statement::from_sql_and_values(DbBackend::Postgres, share, values(scope, due, limit))
}

/// Counts rows that are due and of these parts, up to the limit.
pub(super) fn count_oldest(
    backend: DbBackend,
    sharded: bool,
    scope: &SweepScope,
    due: Due,
    parts: &[Part],
    limit: u64,
) -> Statement {
    if backend == DbBackend::Sqlite {
        let counts = parts.iter().map(|&part| count_on_sqlite(scope, due, part, limit));
        let sum = counts.map(Expr::from).reduce(ExprTrait::add).unwrap_or_else(|| Expr::val(0));
        return backend.build(&Query::select().expr(sum).take());
    }
    let count = |&part: &Part| {
        let oldest = match scope {
            SweepScope::AllApps | SweepScope::AllAppsBut { .. } if sharded => {
                oldest_across_shards(&[Column::Id], scope, due, part)
            }
            scope => oldest_on_postgres(&[Column::Id], scope, due, part, ""),
        };
        format!("(SELECT count(*) FROM ({oldest}) due)")
    };
    let counts: Vec<_> = parts.iter().map(count).collect();
    let sum = format!("SELECT {}", counts.join(" + "));
    Statement::from_sql_and_values(backend, sum, values(scope, due, limit))
}

fn count_on_sqlite(scope: &SweepScope, due: Due, part: Part, limit: u64) -> SelectStatement {
    let rows = match scope {
        // SQLite keeps the order of the tables in a CROSS JOIN alone.
        SweepScope::AllAppsBut { excepted, from } => apps_on_sqlite(excepted, *from, due, part)
            .join(JoinType::CrossJoin, Entity, Condition::all())
            .and_where(Column::AppId.into_expr().eq(Expr::col(APP)))
            .cond_where(is_due_on_sqlite(due, part))
            .limit(limit)
            .take(),
        _ => oldest_on_sqlite(app_of(scope), due, part, limit).column(Column::AppId).into_query(),
    };
    Query::select().expr(Func::count(Expr::col(Asterisk))).from_subquery(rows, "due").take()
}

/// Finds apps that have rows that are due, by id: at most `limit`.
pub(super) fn apps_with_due_on_sqlite(
    excepted: &[AppId],
    from: Option<AppId>,
    due: Due,
    limit: u64,
) -> SelectStatement {
    let rows = Query::select()
        .expr(Expr::val(1))
        .from(Entity)
        .and_where(Column::AppId.into_expr().eq(Expr::col(APP)))
        .cond_where(is_due_on_sqlite(due, Part::All))
        .take();
    apps_on_sqlite(excepted, from, due, Part::All).and_where(Expr::exists(rows)).limit(limit).take()
}

pub(super) fn app_of(scope: &SweepScope) -> Option<AppId> {
    match scope {
        SweepScope::App(app_id) => Some(*app_id),
        _ => None,
    }
}

const APP: (&str, &str) = ("apps", "app");
const LOCK: &str = " FOR UPDATE SKIP LOCKED";

/// $1 is the time, $2 the limit, $3 the app, or the first one, $4 those that are excepted.
fn values(scope: &SweepScope, due: Due, limit: u64) -> Vec<Value> {
    let mut values = vec![bound_of(due).into(), limit.into()];
    match scope {
        SweepScope::App(app_id) => values.push(app_id.into_inner().into()),
        SweepScope::AllApps => {}
        SweepScope::AllAppsBut { excepted, from } => {
            let excepted = excepted.iter().map(|app_id| app_id.into_inner().into()).collect();
            values.push(from.map_or(Uuid::nil(), AppId::into_inner).into());
            values.push(Value::Array(ArrayType::Uuid, Some(Box::new(excepted))));
        }
    }
    values
}

fn columns_of(table: &str, columns: &[Column]) -> String {
    let columns: Vec<_> = columns.iter().map(|column| format!("{table}.{}", column.as_str())).collect();
    columns.join(", ")
}

/// The oldest rows that are due and of the part. Each column names its table, since a service may have added columns of
/// its own.
///
/// `LIMIT (SELECT $2)` is a limit that no plan knows beforehand. One that knows 1,000, and takes every app for a small
/// one, reads all of an app and sorts.
fn oldest_on_postgres(columns: &[Column], scope: &SweepScope, due: Due, part: Part, lock: &str) -> String {
    let (time, is_due, is_indexed) = due_on_postgres(due, part);
    let letters = columns_of("dead_letters", columns);
    match scope {
        SweepScope::App(_) => format!(
            "SELECT {letters} FROM dead_letters \
             WHERE dead_letters.app_id = $3 AND dead_letters.{time} < $1 AND {is_due} \
             ORDER BY dead_letters.{time}, dead_letters.id LIMIT (SELECT $2){lock}"
        ),
        SweepScope::AllApps => format!(
            "SELECT {letters} FROM dead_letters \
             WHERE dead_letters.{time} AT TIME ZONE 'UTC' < $1 AT TIME ZONE 'UTC' AND {is_due} \
             ORDER BY dead_letters.{time} AT TIME ZONE 'UTC', dead_letters.id LIMIT (SELECT $2){lock}"
        ),
        SweepScope::AllAppsBut { .. } => {
            let columns = columns_of("letter", columns);
            format!(
                "WITH RECURSIVE apps (app) AS (\
                     SELECT (SELECT dead_letters.app_id FROM dead_letters \
                             WHERE dead_letters.app_id >= $3 AND {is_indexed} \
                             ORDER BY dead_letters.app_id LIMIT 1) \
                     UNION ALL \
                     SELECT (SELECT dead_letters.app_id FROM dead_letters \
                             WHERE dead_letters.app_id > apps.app AND {is_indexed} \
                             ORDER BY dead_letters.app_id LIMIT 1) FROM apps WHERE apps.app IS NOT NULL) \
                 SELECT {columns} FROM apps CROSS JOIN LATERAL (\
                     SELECT dead_letters.* FROM dead_letters \
                     WHERE dead_letters.app_id = apps.app AND dead_letters.{time} < $1 AND {is_due} \
                     ORDER BY dead_letters.{time}, dead_letters.id LIMIT (SELECT $2){lock}) letter \
                 WHERE apps.app NOT IN (SELECT unnest($4)) LIMIT $2"
            )
        }
    }
}

/// The time that makes a row due, what else does, and the condition of the index of an app's.
fn due_on_postgres(due: Due, part: Part) -> (&'static str, &'static str, &'static str) {
    match due {
        // The index has closed rows of resolutions that only a newer version knows as well.
        Due::SettledBefore(_) => (
            "resolved_at",
            "coalesce(dead_letters.resolution, '') NOT IN ('', 'handler_failed') \
             AND dead_letters.resolution IN ('replayed', 'ignored', 'handled_by_script')",
            Part::Closed.sql(),
        ),
        Due::CreatedBefore(_) => ("created_at", part.sql(), part.sql()),
    }
}

/// The oldest of all apps, or the first apps' of all but some. Neither recursion, nor LATERAL, nor a lock spans
/// shards. By creation it finds what is due by the index of all apps, that of the excepted ones too; of closed rows it
/// reads the index of each app.
fn oldest_across_shards(columns: &[Column], scope: &SweepScope, due: Due, part: Part) -> String {
    let (time, is_due, _) = due_on_postgres(due, part);
    let letters = columns_of("dead_letters", columns);
    let is_old = match due {
        Due::CreatedBefore(_) => format!("dead_letters.{time} AT TIME ZONE 'UTC' < $1 AT TIME ZONE 'UTC'"),
        Due::SettledBefore(_) => format!("dead_letters.{time} < $1"),
    };
    match scope {
        SweepScope::AllAppsBut { .. } => format!(
            "SELECT {letters} FROM dead_letters \
             WHERE dead_letters.app_id >= $3 AND dead_letters.app_id <> ALL($4) AND {is_old} AND {is_due} \
             ORDER BY dead_letters.app_id LIMIT $2"
        ),
        scope => oldest_on_postgres(columns, scope, due, part, ""),
    }
}

/// A row that a newer version settled as something else is for that version to sweep. PostgreSQL infers its
/// index's `<> 'handler_failed'` from the list.
const SETTLED: [Resolution; 3] = [Replayed, Ignored, HandledByScript];

/// Inline, since a partial index is found by no bound value.
fn inline(resolution: Resolution) -> Expr {
    Expr::Constant(resolution.as_str().into())
}

/// The oldest rows that are due and of the part, of one app or of all.
fn oldest_on_sqlite(app_id: Option<AppId>, due: Due, part: Part, limit: u64) -> Select<Entity> {
    let time = match due {
        Due::CreatedBefore(_) => Column::CreatedAt,
        Due::SettledBefore(_) => Column::ResolvedAt,
    };
    Entity::find()
        .select_only()
        .apply_if(app_id, |query, app_id| query.filter(COLUMN.app_id.eq(app_id.into_inner())))
        .filter(is_due_on_sqlite(due, part))
        .order_by_asc(time)
        .order_by_asc(Column::Id)
        .limit(limit)
}

fn is_due_on_sqlite(due: Due, part: Part) -> Condition {
    let is_due = match due {
        Due::CreatedBefore(_) => COLUMN.created_at.lt(bound_of(due)),
        Due::SettledBefore(_) => {
            let is_settled = Column::Resolution.into_expr().is_in(SETTLED.map(inline));
            COLUMN.resolved_at.lt(bound_of(due)).and(is_settled)
        }
    };
    // Its index's own condition, which SQLite does not infer.
    Condition::all().add(is_due).add_option(is_indexed(due, part))
}

/// The condition of the index that finds what is due in an app.
fn is_indexed(due: Due, part: Part) -> Option<Expr> {
    match due {
        Due::CreatedBefore(_) => part.condition(),
        Due::SettledBefore(_) => Part::Closed.condition(),
    }
}

/// From app to app by the index.
fn apps_on_sqlite(excepted: &[AppId], from: Option<AppId>, due: Due, part: Part) -> SelectStatement {
    let first_of = |apps: Expr| {
        let first = Query::select()
            .column(Column::AppId)
            .from(Entity)
            .and_where(apps)
            .and_where_option(is_indexed(due, part))
            .order_by(Column::AppId, Order::Asc)
            .limit(1)
            .take();
        Expr::SubQuery(None, Box::new(first.into()))
    };
    let app_id = || Column::AppId.into_expr();
    let from = from.map_or(Uuid::nil(), AppId::into_inner);
    let next = Query::select()
        .expr(first_of(app_id().gt(Expr::col(APP))))
        .from(APP.0)
        .and_where(Expr::col(APP).is_not_null())
        .take();
    let apps = Query::select().expr(first_of(app_id().gte(from))).union(UnionType::All, next).take();
    let apps = CommonTableExpression::new().table_name(APP.0).column(APP.1).query(apps).to_owned();
    Query::select()
        .column(APP)
        .from(APP.0)
        .and_where(Expr::col(APP).is_not_in(excepted.iter().map(|app_id| app_id.into_inner())))
        .with_cte(WithClause::new().recursive(true).cte(apps).to_owned())
        .take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mysql_is_refused_by_name() {
        let refusal = require_supported(DbBackend::MySql).map_err(|error| error.to_string());
        assert_eq!(
            refusal,
            Err("Operation not supported by backend MySql: gc runs on PostgreSQL and SQLite only".to_owned())
        );
    }
}
