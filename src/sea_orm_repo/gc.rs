//! The statements of the sweeps. Why deleting this way is safe:
//!
//! - **Never more than `limit`.** The rows are picked by a materialized CTE, and `ARRAY(SELECT …)` over it is an
//!   InitPlan: both run once. The usual `id IN (SELECT … LIMIT n FOR UPDATE SKIP LOCKED)` may be planned as the inner
//!   side of a nested loop, runs once a row, locks the next n each time, and deletes everything; stale statistics are
//!   enough, every setting at its default. A join with the CTE may do so too.
//! - **Nothing that is not due.** Condition, order and limit all stand where the rows are picked. A row that
//!   changed meanwhile is locked and checked again (READ COMMITTED): one that was just reopened is not
//!   swept as settled.
//! - **A row that the database refuses to delete holds up nothing.** What was picked and what was deleted are two
//!   counts, and the next batch goes on behind the last row that was picked.
//! - **Nobody waits.** SKIP LOCKED skips rows that another transaction has locked: two sweepers share the
//!   work, a row being resolved stays for the next sweep.
//! - **Nobody else's plan is touched.** Sweeps of all apps filter by an expression that only their own index
//!   has.
//! - **Nor more than `limit` where the table is distributed**: each app's share of it is fixed first, and goes by
//!   a statement of its own.
//! - **An app that is excepted costs one probe**, whatever it holds: a recursive CTE goes from app to app by
//!   the index, and into those that are meant.
//!
//! SQLite has one writer and no row locks: there a batch is counted and deleted by two statements of a transaction.

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
    SweepCursor, SweepScope,
    time::{clamp_to_range, to_bound},
};

/// The time before which a row is due.
fn bound_of(due: Due) -> DateTime<Utc> {
    let (Due::CreatedBefore(time) | Due::ClosedBefore(time)) = due;
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

/// Deletes the oldest rows of all apps that are due on PostgreSQL, and tells nothing but their number.
pub(super) fn delete_oldest_on_postgres(due: Due, limit: u64) -> Statement {
    let scope = SweepScope::AllApps;
    let oldest = oldest_on_postgres(id_of, &scope, due, Part::All, None, LOCK);
    let delete = format!("DELETE FROM dead_letters WHERE id = ANY(ARRAY({oldest}))");
    Statement::from_sql_and_values(DbBackend::Postgres, delete, values(&scope, due, None, limit))
}

/// Deletes the oldest rows that are due on PostgreSQL, and returns one row: how many it picked, how many of them it
/// deleted, and the last one that it picked if it picked `limit`.
pub(super) fn sweep_oldest_on_postgres(
    sharded: bool,
    scope: &SweepScope,
    due: Due,
    after: Option<SweepCursor>,
    limit: u64,
) -> Statement {
    let oldest = oldest_on_postgres(place_of(due), scope, due, Part::All, after, LOCK);
    // Citus routes by the app outside the subquery. Where the table is not distributed PostgreSQL would read all
    // rows of an app that is new since the last ANALYZE.
    let of_app = if sharded && app_of(scope).is_some() { "app_id = $3 AND " } else { "" };
    let sweep = format!(
        "WITH picked AS MATERIALIZED ({oldest}), \
         deleted AS (DELETE FROM dead_letters \
             WHERE {of_app}id = ANY(ARRAY(SELECT picked.id FROM picked)) RETURNING 1) \
         SELECT (SELECT count(*) FROM picked) AS picked, (SELECT count(*) FROM deleted) AS deleted, \
             last.app_id, last.due_at, last.id \
         FROM (SELECT 1) one LEFT JOIN (SELECT picked.* FROM picked OFFSET $2 - 1) last ON true"
    );
    Statement::from_sql_and_values(DbBackend::Postgres, sweep, values(scope, due, after, limit))
}

/// Locks the oldest rows that are due: as many as have `max_bytes` together, or one. Beside each stands how many rows
/// are locked.
pub(super) fn lock_oldest_on_postgres(
    scope: &SweepScope,
    due: Due,
    after: Option<SweepCursor>,
    limit: u64,
    max_bytes: u64,
) -> Statement {
    let oldest = oldest_on_postgres(sized_place_of(due), scope, due, Part::All, after, LOCK);
    // In the order of the rows: none is named, which would be a sort.
    let lock = format!(
        "SELECT locked.app_id, locked.due_at, locked.id, locked.bytes, locked.rows_locked FROM (\
             SELECT oldest.*, count(*) OVER () AS rows_locked, \
                 sum(oldest.bytes) OVER (ROWS UNBOUNDED PRECEDING) AS bytes_so_far \
             FROM ({oldest}) oldest) locked \
         WHERE locked.bytes_so_far <= {max_bytes} OR locked.bytes_so_far = locked.bytes"
    );
    Statement::from_sql_and_values(DbBackend::Postgres, lock, values(scope, due, after, limit))
}

/// Counts what [`delete_oldest_on_sqlite`] will try to delete, and finds the last one of it if that is `limit` rows.
pub(super) fn pick_oldest_on_sqlite(
    app_id: Option<AppId>,
    due: Due,
    after: Option<SweepCursor>,
    limit: u64,
) -> SelectStatement {
    let oldest = oldest_on_sqlite(app_id, due, Part::All, after).limit(limit).column(Column::Id).into_query();
    let picked =
        Query::select().expr(Func::count(Expr::col(Asterisk))).from_subquery(oldest, "picked").take();
    let last = place_on_sqlite(app_id, due, after).limit(1).offset(limit.saturating_sub(1)).into_query();
    Query::select()
        .expr_as(Expr::SubQuery(None, Box::new(picked.into())), "picked")
        .columns([(LAST, "app_id"), (LAST, "due_at"), (LAST, "id")])
        .from_subquery(Query::select().expr(Expr::Constant(1.into())).take(), "one")
        .join_subquery(JoinType::LeftJoin, last, LAST, Expr::Constant(true.into()))
        .take()
}

/// Deletes the oldest rows of one app, or of all, that are due on SQLite.
pub(super) fn delete_oldest_on_sqlite(
    app_id: Option<AppId>,
    due: Due,
    after: Option<SweepCursor>,
    limit: u64,
) -> Statement {
    let oldest = oldest_on_sqlite(app_id, due, Part::All, after).limit(limit).column(Column::Id);
    Entity::delete_many().filter(Column::Id.in_subquery(oldest.into_query())).build(DbBackend::Sqlite)
}

/// Finds the oldest rows of one app, or of all, that are due on SQLite, and their bytes.
pub(super) fn find_oldest_on_sqlite(
    app_id: Option<AppId>,
    due: Due,
    after: Option<SweepCursor>,
    limit: u64,
) -> Statement {
    place_on_sqlite(app_id, due, after).column_as(row_bytes(), "bytes").limit(limit).build(DbBackend::Sqlite)
}

/// Selects the rows of these ids whole, all of one app if it is said.
pub(super) fn find_by_id(backend: DbBackend, app_id: Option<AppId>, ids: &[Uuid]) -> Statement {
    if backend == DbBackend::Sqlite {
        return Entity::find().filter(Column::Id.is_in(ids.iter().copied())).build(backend);
    }
    let find = format!("SELECT {} FROM dead_letters", whole());
    by_id_on_postgres(&find, app_id, ids, "")
}

/// Deletes the rows of these ids, all of one app if it is said.
pub(super) fn delete_by_id(backend: DbBackend, app_id: Option<AppId>, ids: &[Uuid]) -> Statement {
    if backend == DbBackend::Sqlite {
        return Entity::delete_many().filter(Column::Id.is_in(ids.iter().copied())).build(backend);
    }
    by_id_on_postgres("DELETE FROM dead_letters", app_id, ids, "")
}

/// The same, and returns the rows that it deleted whole, in no order.
pub(super) fn delete_by_id_returning(backend: DbBackend, app_id: Option<AppId>, ids: &[Uuid]) -> Statement {
    if backend == DbBackend::Sqlite {
        let mut delete = Entity::delete_many().filter(Column::Id.is_in(ids.iter().copied())).into_query();
        return backend.build(delete.returning(Query::returning().columns(Column::iter())));
    }
    let returning = format!(" RETURNING {}", whole());
    by_id_on_postgres("DELETE FROM dead_letters", app_id, ids, &returning)
}

fn whole() -> String {
    columns_of("dead_letters", Column::iter())
}

/// To plan `= ANY($1)` PostgreSQL weighs each of the ids. The app is said where it routes the statement: where the id
/// is the key, PostgreSQL would read all versions of a row.
fn by_id_on_postgres(statement: &str, app_id: Option<AppId>, ids: &[Uuid], returning: &str) -> Statement {
    let of_app = if app_id.is_some() { " AND app_id = $2" } else { "" };
    let sql = format!("{statement} WHERE id = ANY(ARRAY(SELECT unnest($1))){of_app}{returning}");
    let ids = Value::Array(ArrayType::Uuid, Some(Box::new(ids.iter().copied().map(Value::from).collect())));
    let values = [ids].into_iter().chain(app_id.map(|app_id| app_id.into_inner().into()));
    Statement::from_sql_and_values(DbBackend::Postgres, sql, values)
}

/// How many of the rows that one batch of many apps is to delete are each app's, by app, and the last row of each. It
/// locks none of them. If their bytes count, the batch has `max_bytes`, or one row. Beside each app stands how many rows
/// there are without that bound.
pub(super) fn share_by_app(
    scope: &SweepScope,
    due: Due,
    after: Option<SweepCursor>,
    limit: u64,
    max_bytes: Option<u64>,
) -> Statement {
    let place = place_of(due);
    let bytes = |table: &str| max_bytes.map_or("0".to_owned(), |_| row_bytes_of(table));
    let columns = |table: &str| format!("{}, {} AS bytes", place(table), bytes(table));
    let oldest = oldest_across_shards(columns, scope, due, Part::All, after);
    let order = match goes_by_app(scope) {
        true => "oldest.app_id, oldest.due_at, oldest.id",
        false => "oldest.due_at, oldest.id",
    };
    let max_bytes = max_bytes.unwrap_or_default();
    let share = format!(
        "SELECT batch.app_id, count(*) AS rows, (array_agg(batch.due_at ORDER BY batch.place DESC))[1] AS due_at, \
             (array_agg(batch.id ORDER BY batch.place DESC))[1] AS id, max(batch.place) AS place, \
             max(batch.found) AS found \
         FROM (SELECT oldest.*, count(*) OVER () AS found, row_number() OVER (ORDER BY {order}) AS place, \
                   sum(oldest.bytes) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) AS bytes_so_far \
               FROM ({oldest}) oldest) batch \
         WHERE batch.bytes_so_far <= {max_bytes} OR batch.place = 1 \
         GROUP BY batch.app_id ORDER BY batch.app_id"
    );
    Statement::from_sql_and_values(DbBackend::Postgres, share, values(scope, due, after, limit))
}

/// Finds the first app that has due rows behind the cursor, of a scope that goes by app.
pub(super) fn first_app_on_postgres(
    sharded: bool,
    scope: &SweepScope,
    due: Due,
    after: Option<SweepCursor>,
) -> Statement {
    let app_id = |table: &str| format!("{table}.app_id");
    let oldest = match sharded {
        true => oldest_across_shards(app_id, scope, due, Part::All, after),
        false => oldest_on_postgres(app_id, scope, due, Part::All, after, ""),
    };
    Statement::from_sql_and_values(DbBackend::Postgres, oldest, values(scope, due, after, 1))
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
                oldest_across_shards(id_of, scope, due, part, None)
            }
            scope => oldest_on_postgres(id_of, scope, due, part, None, ""),
        };
        format!("(SELECT count(*) FROM ({oldest}) due)")
    };
    let counts: Vec<_> = parts.iter().map(count).collect();
    let sum = format!("SELECT {}", counts.join(" + "));
    Statement::from_sql_and_values(backend, sum, values(scope, due, None, limit))
}

fn count_on_sqlite(scope: &SweepScope, due: Due, part: Part, limit: u64) -> SelectStatement {
    let rows = match scope {
        // SQLite keeps the order of the tables in a CROSS JOIN alone.
        SweepScope::AllAppsBut { excepted } => apps_on_sqlite(excepted, None, due, part)
            .join(JoinType::CrossJoin, Entity, Condition::all())
            .and_where(Column::AppId.into_expr().eq(Expr::col(APP)))
            .cond_where(is_due_on_sqlite(due, part))
            .limit(limit)
            .take(),
        _ => oldest_on_sqlite(app_of(scope), due, part, None).limit(limit).column(Column::AppId).into_query(),
    };
    Query::select().expr(Func::count(Expr::col(Asterisk))).from_subquery(rows, "due").take()
}

/// Finds apps that have rows that are due, by id, at most `limit`: from the cursor's app on, whose rows may all lie
/// before the cursor.
pub(super) fn apps_with_due_on_sqlite(
    excepted: &[AppId],
    after: Option<SweepCursor>,
    due: Due,
    limit: u64,
) -> SelectStatement {
    let rows = Query::select()
        .expr(Expr::val(1))
        .from(Entity)
        .and_where(Column::AppId.into_expr().eq(Expr::col(APP)))
        .cond_where(is_due_on_sqlite(due, Part::All))
        .take();
    apps_on_sqlite(excepted, after, due, Part::All).and_where(Expr::exists(rows)).limit(limit).take()
}

pub(super) fn app_of(scope: &SweepScope) -> Option<AppId> {
    match scope {
        SweepScope::App(app_id) => Some(*app_id),
        _ => None,
    }
}

/// Whether its batches go app by app.
pub(super) fn goes_by_app(scope: &SweepScope) -> bool {
    matches!(scope, SweepScope::AllAppsBut { .. })
}

const APP: (&str, &str) = ("apps", "app");
const LAST: &str = "last";
const LOCK: &str = " FOR UPDATE SKIP LOCKED";

/// $1 is the time, $2 the limit, $3 the app, or the first one, $4 those that are excepted; then come the cursor's time
/// and id.
fn values(scope: &SweepScope, due: Due, after: Option<SweepCursor>, limit: u64) -> Vec<Value> {
    let mut values = vec![bound_of(due).into(), limit.into()];
    match scope {
        SweepScope::App(app_id) => values.push(app_id.into_inner().into()),
        SweepScope::AllApps => {}
        SweepScope::AllAppsBut { excepted } => {
            let excepted = excepted.iter().map(|app_id| app_id.into_inner().into()).collect();
            values.push(first_of(after).into());
            values.push(Value::Array(ArrayType::Uuid, Some(Box::new(excepted))));
        }
    }
    if let Some(after) = after {
        let (time, id) = place_in(after);
        values.extend([time.into(), id.into()]);
    }
    values
}

/// The app that a batch begins with where it goes by app.
fn first_of(after: Option<SweepCursor>) -> Uuid {
    after.map_or(Uuid::nil(), |after| after.app_id.into_inner())
}

/// The cursor's time and id, as both backends compare them.
fn place_in(after: SweepCursor) -> (DateTime<Utc>, Uuid) {
    (clamp_to_range(after.time), after.id.into_inner())
}

fn columns_of(table: &str, columns: impl Iterator<Item = Column>) -> String {
    let columns: Vec<_> = columns.map(|column| format!("{table}.{}", column.as_str())).collect();
    columns.join(", ")
}

fn id_of(table: &str) -> String {
    format!("{table}.id")
}

/// The columns that a cursor has.
fn place_of(due: Due) -> impl Fn(&str) -> String {
    let (time, ..) = due_on_postgres(due, Part::All);
    move |table| format!("{table}.app_id, {table}.{time} AS due_at, {table}.id")
}

/// The same, and the row's bytes.
fn sized_place_of(due: Due) -> impl Fn(&str) -> String {
    let place = place_of(due);
    move |table| format!("{}, {} AS bytes", place(table), row_bytes_of(table))
}

/// The oldest rows behind the cursor that are due and of the part. `columns` selects what is needed of a row, and names
/// the table of each column, since a service may have added columns of its own.
///
/// `LIMIT (SELECT $2)` is a limit that no plan knows beforehand. One that knows 1,000, and takes every app for a small
/// one, reads all of an app and sorts.
fn oldest_on_postgres(
    columns: impl Fn(&str) -> String,
    scope: &SweepScope,
    due: Due,
    part: Part,
    after: Option<SweepCursor>,
    lock: &str,
) -> String {
    let (time, is_due, is_indexed) = due_on_postgres(due, part);
    let letters = columns("dead_letters");
    // A row comparison is one index condition.
    let is_behind = |place: &str| match after {
        Some(_) => format!(" AND (dead_letters.{time}, dead_letters.id) > ({place})"),
        None => String::new(),
    };
    match scope {
        SweepScope::App(_) => format!(
            "SELECT {letters} FROM dead_letters \
             WHERE dead_letters.app_id = $3 AND dead_letters.{time} < $1 AND {is_due}{} \
             ORDER BY dead_letters.{time}, dead_letters.id LIMIT (SELECT $2){lock}",
            is_behind("$4, $5")
        ),
        SweepScope::AllApps => {
            let is_behind = match after {
                Some(_) => format!(
                    " AND (dead_letters.{time} AT TIME ZONE 'UTC', dead_letters.id) > ($3 AT TIME ZONE 'UTC', $4)"
                ),
                None => String::new(),
            };
            format!(
                "SELECT {letters} FROM dead_letters \
                 WHERE dead_letters.{time} AT TIME ZONE 'UTC' < $1 AT TIME ZONE 'UTC' AND {is_due}{is_behind} \
                 ORDER BY dead_letters.{time} AT TIME ZONE 'UTC', dead_letters.id LIMIT (SELECT $2){lock}"
            )
        }
        SweepScope::AllAppsBut { .. } => {
            let columns = columns("letter");
            // All rows of the apps behind the cursor's.
            let is_behind = is_behind(
                "CASE WHEN apps.app = $3 THEN $5 ELSE timestamptz '-infinity' END, \
                 CASE WHEN apps.app = $3 THEN $6 ELSE uuid '00000000-0000-0000-0000-000000000000' END",
            );
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
                     WHERE dead_letters.app_id = apps.app AND dead_letters.{time} < $1 AND {is_due}{is_behind} \
                     ORDER BY dead_letters.{time}, dead_letters.id LIMIT (SELECT $2){lock}) letter \
                 WHERE apps.app NOT IN (SELECT unnest($4)) LIMIT $2"
            )
        }
    }
}

/// The time that makes a row due, what else does, and the condition of the index of an app's.
fn due_on_postgres(due: Due, part: Part) -> (&'static str, &'static str, &'static str) {
    match due {
        // The index has closed rows of resolutions that only a newer version knows as well. Of a CASE the planner expects
        // half of the rows. Of the IN alone it expected almost none in a table without statistics, and then read and
        // sorted all that lie behind a cursor.
        Due::ClosedBefore(_) => (
            "resolved_at",
            "coalesce(dead_letters.resolution, '') NOT IN ('', 'handler_failed') \
             AND CASE WHEN dead_letters.resolution IN ('replayed', 'ignored', 'handled_by_script') \
                 THEN true ELSE false END",
            Part::Closed.sql(),
        ),
        Due::CreatedBefore(_) => ("created_at", part.sql(), part.sql()),
    }
}

/// The oldest of all apps, or the first apps' of all but some. Neither recursion, nor LATERAL, nor a lock spans
/// shards. By creation it finds what is due by the index of all apps, that of the excepted ones too; of closed rows it
/// reads the index of each app.
fn oldest_across_shards(
    columns: impl Fn(&str) -> String,
    scope: &SweepScope,
    due: Due,
    part: Part,
    after: Option<SweepCursor>,
) -> String {
    let (time, is_due, _) = due_on_postgres(due, part);
    let is_old = match due {
        Due::CreatedBefore(_) => format!("dead_letters.{time} AT TIME ZONE 'UTC' < $1 AT TIME ZONE 'UTC'"),
        Due::ClosedBefore(_) => format!("dead_letters.{time} < $1"),
    };
    match scope {
        SweepScope::AllAppsBut { .. } => {
            let place = format!("dead_letters.app_id, dead_letters.{time}, dead_letters.id");
            let is_behind = after.map_or(String::new(), |_| format!(" AND ({place}) > ($3, $5, $6)"));
            let letters = columns("dead_letters");
            format!(
                "SELECT {letters} FROM dead_letters \
                 WHERE dead_letters.app_id >= $3 AND dead_letters.app_id <> ALL($4) AND {is_old} AND {is_due}{is_behind} \
                 ORDER BY {place} LIMIT $2"
            )
        }
        scope => oldest_on_postgres(columns, scope, due, part, after, ""),
    }
}

/// A row that a newer version settled as something else is for that version to sweep. PostgreSQL infers its
/// index's `<> 'handler_failed'` from the list.
const SETTLED: [Resolution; 3] = [Replayed, Ignored, HandledByScript];

/// Inline, since a partial index is found by no bound value.
fn inline(resolution: Resolution) -> Expr {
    Expr::Constant(resolution.as_str().into())
}

/// The oldest rows behind the cursor that are due and of the part, of one app or of all.
fn oldest_on_sqlite(
    app_id: Option<AppId>,
    due: Due,
    part: Part,
    after: Option<SweepCursor>,
) -> Select<Entity> {
    let time = time_of(due);
    let is_behind = |after| {
        let (time, id) = place_in(after);
        let place = Expr::tuple([time_of(due).into_expr(), Column::Id.into_expr()]);
        place.gt(Expr::tuple([Expr::val(time), Expr::val(id)]))
    };
    Entity::find()
        .select_only()
        .apply_if(app_id, |query, app_id| query.filter(COLUMN.app_id.eq(app_id.into_inner())))
        .filter(is_due_on_sqlite(due, part))
        .apply_if(after, |query, after| query.filter(is_behind(after)))
        .order_by_asc(time)
        .order_by_asc(Column::Id)
}

/// The same, and the columns that a cursor has.
fn place_on_sqlite(app_id: Option<AppId>, due: Due, after: Option<SweepCursor>) -> Select<Entity> {
    oldest_on_sqlite(app_id, due, Part::All, after)
        .column(Column::AppId)
        .column_as(time_of(due), "due_at")
        .column(Column::Id)
}

/// The time that makes a row due.
fn time_of(due: Due) -> Column {
    match due {
        Due::CreatedBefore(_) => Column::CreatedAt,
        Due::ClosedBefore(_) => Column::ResolvedAt,
    }
}

fn is_due_on_sqlite(due: Due, part: Part) -> Condition {
    let is_due = match due {
        Due::CreatedBefore(_) => COLUMN.created_at.lt(bound_of(due)),
        Due::ClosedBefore(_) => {
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
        Due::ClosedBefore(_) => Part::Closed.condition(),
    }
}

/// From app to app by the index.
fn apps_on_sqlite(excepted: &[AppId], after: Option<SweepCursor>, due: Due, part: Part) -> SelectStatement {
    let first_app_of = |apps: Expr| {
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
    let next = Query::select()
        .expr(first_app_of(app_id().gt(Expr::col(APP))))
        .from(APP.0)
        .and_where(Expr::col(APP).is_not_null())
        .take();
    let apps =
        Query::select().expr(first_app_of(app_id().gte(first_of(after)))).union(UnionType::All, next).take();
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
