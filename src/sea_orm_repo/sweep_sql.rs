//! Statements of the sweeps. They keep these promises:
//!
//! - **A batch deletes at most `limit` rows.** A materialized CTE picks the rows, and `ARRAY(SELECT …)` over it is
//!   an InitPlan. Both run once. PostgreSQL may plan the usual `id IN (SELECT … LIMIT n FOR UPDATE SKIP LOCKED)`
//!   as the inner side of a nested loop. The subquery then runs once for each row, locks the next `n` rows each
//!   time, and the statement deletes everything. Stale statistics suffice for that plan, with every setting at its
//!   default. A join with the CTE has the same risk.
//! - **A batch deletes only due rows.** The condition, the order and the limit stand where the rows are picked.
//!   Under READ COMMITTED PostgreSQL locks a row that changed meanwhile and checks the condition again, so a
//!   letter that was just reopened is not swept as closed.
//! - **A row that the database refuses to delete does not stop a sweep.** The statement counts picked rows and
//!   deleted rows separately, and the next batch starts behind the last picked row.
//! - **A sweep does not wait for row locks.** SKIP LOCKED skips rows that another transaction has locked. Two
//!   sweepers share the work, and a row that is being resolved stays for the next sweep.
//! - **A sweep does not change the plans of other statements.** Sweeps of all apps filter by an expression that
//!   only `idx_dead_letters_gc` has.
//! - **The limit also holds where the table is distributed.** The sweep first fixes each app's share of the batch,
//!   and deletes each share with its own statement.
//! - **An excepted app costs one index probe, however many letters it has.** A recursive CTE steps from app to app
//!   in the index, and the sweep reads the letters of the other apps only.
//!
//! SQLite has one writer and no row locks. There, two statements of one transaction count and delete a batch.

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, DbBackend, EntityTrait, IdenStatic, Iterable, JoinType, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait, Select, Statement,
    sea_query::{ArrayType, Asterisk, Expr, ExprTrait, Func, Order, Query, SelectStatement, Value},
};
use uuid::Uuid;

use super::{
    app_steps::{APP, APPS, app_steps},
    bytes::{row_bytes, row_bytes_of},
    dialect::Dialect,
    parts::Part,
};
use crate::{
    AppId, Due,
    Resolution::{self, HandledByScript, Ignored, Replayed},
    SweepCursor, SweepScope,
    time::{clamp_to_range, to_bound},
};

/// Returns the time before which a row is due.
fn bound_of(due: Due) -> DateTime<Utc> {
    let (Due::CreatedBefore(time) | Due::ClosedBefore(time)) = due;
    to_bound(time)
}

/// Deletes the oldest due rows of all apps on PostgreSQL, and returns only their number.
pub(super) fn delete_oldest_on_postgres(due: Due, limit: u64) -> Statement {
    let scope = SweepScope::AllApps;
    let oldest = oldest_on_postgres(id_of, &scope, due, Part::All, None, HIDDEN_LIMIT, LOCK);
    let delete = format!("DELETE FROM dead_letters WHERE id = ANY(ARRAY({oldest}))");
    Statement::from_sql_and_values(DbBackend::Postgres, delete, values(&scope, due, None, limit))
}

/// Deletes the oldest due rows on PostgreSQL. Returns one row: how many rows the statement picked, how many of
/// them it deleted, and the last picked row if it picked `limit` rows.
pub(super) fn sweep_oldest_on_postgres(
    dialect: Dialect,
    scope: &SweepScope,
    due: Due,
    after: Option<SweepCursor>,
    limit: u64,
) -> Statement {
    let oldest = oldest_on_postgres(place_of(due), scope, due, Part::All, after, HIDDEN_LIMIT, LOCK);
    // Citus routes the DELETE by the app only if the condition stands outside the subquery. Where the table is not
    // distributed, PostgreSQL would read all rows of an app that is new since the last ANALYZE.
    let of_app = match (dialect, scope) {
        (Dialect::Sharded, SweepScope::App(_)) => "app_id = $3 AND ",
        _ => "",
    };
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

/// Locks the oldest due rows. Returns the first of them that fit `max_bytes` together, but at least one. Each
/// returned row has the number of all locked rows beside it.
pub(super) fn lock_oldest_on_postgres(
    scope: &SweepScope,
    due: Due,
    after: Option<SweepCursor>,
    limit: u64,
    max_bytes: u64,
) -> Statement {
    let oldest = oldest_on_postgres(sized_place_of(due), scope, due, Part::All, after, HIDDEN_LIMIT, LOCK);
    // The window has no ORDER BY, because naming the order would add a sort. The sum follows the order of the
    // subquery.
    let lock = format!(
        "SELECT locked.app_id, locked.due_at, locked.id, locked.bytes, locked.rows_locked FROM (\
             SELECT oldest.*, count(*) OVER () AS rows_locked, \
                 sum(oldest.bytes) OVER (ROWS UNBOUNDED PRECEDING) AS bytes_so_far \
             FROM ({oldest}) oldest) locked \
         WHERE locked.bytes_so_far <= {max_bytes} OR locked.bytes_so_far = locked.bytes"
    );
    Statement::from_sql_and_values(DbBackend::Postgres, lock, values(scope, due, after, limit))
}

/// Counts the rows that [`delete_oldest_on_sqlite`] will try to delete, and finds the last of them if there are
/// `limit` rows.
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

/// Deletes the oldest due rows of one app, or of all apps, on SQLite.
pub(super) fn delete_oldest_on_sqlite(
    app_id: Option<AppId>,
    due: Due,
    after: Option<SweepCursor>,
    limit: u64,
) -> Statement {
    let oldest = oldest_on_sqlite(app_id, due, Part::All, after).limit(limit).column(Column::Id);
    Entity::delete_many().filter(Column::Id.in_subquery(oldest.into_query())).build(DbBackend::Sqlite)
}

/// Finds the oldest due rows of one app, or of all apps, on SQLite, with their size in bytes.
pub(super) fn find_oldest_on_sqlite(
    app_id: Option<AppId>,
    due: Due,
    after: Option<SweepCursor>,
    limit: u64,
) -> Statement {
    place_on_sqlite(app_id, due, after).column_as(row_bytes(), "bytes").limit(limit).build(DbBackend::Sqlite)
}

/// Selects all columns of the rows with these ids. If an app is given, all of the rows belong to it.
pub(super) fn find_by_id(dialect: Dialect, app_id: Option<AppId>, ids: &[Uuid]) -> Statement {
    if dialect == Dialect::Sqlite {
        return Entity::find().filter(Column::Id.is_in(ids.iter().copied())).build(DbBackend::Sqlite);
    }
    let find = format!("SELECT {} FROM dead_letters", whole());
    by_id_on_postgres(&find, app_id, ids, "")
}

/// Deletes the rows with these ids. If an app is given, all of the rows belong to it.
pub(super) fn delete_by_id(dialect: Dialect, app_id: Option<AppId>, ids: &[Uuid]) -> Statement {
    if dialect == Dialect::Sqlite {
        return Entity::delete_many().filter(Column::Id.is_in(ids.iter().copied())).build(DbBackend::Sqlite);
    }
    by_id_on_postgres("DELETE FROM dead_letters", app_id, ids, "")
}

/// Deletes as [`delete_by_id`] does, and returns all columns of the deleted rows, in no order.
pub(super) fn delete_by_id_returning(dialect: Dialect, app_id: Option<AppId>, ids: &[Uuid]) -> Statement {
    if dialect == Dialect::Sqlite {
        let mut delete = Entity::delete_many().filter(Column::Id.is_in(ids.iter().copied())).into_query();
        return dialect.build(delete.returning(Query::returning().columns(Column::iter())));
    }
    let returning = format!(" RETURNING {}", whole());
    by_id_on_postgres("DELETE FROM dead_letters", app_id, ids, &returning)
}

fn whole() -> String {
    columns_of("dead_letters", Column::iter())
}

/// Appends a condition on the ids to a statement on PostgreSQL.
///
/// The subquery hides the number of ids, because the planner weighs each id of `= ANY($1)`. The condition on the
/// app is there only to route the statement where the table is distributed. Where `id` alone is the key, that
/// condition would make PostgreSQL read all versions of a row.
fn by_id_on_postgres(statement: &str, app_id: Option<AppId>, ids: &[Uuid], returning: &str) -> Statement {
    let of_app = if app_id.is_some() { " AND app_id = $2" } else { "" };
    let sql = format!("{statement} WHERE id = ANY(ARRAY(SELECT unnest($1))){of_app}{returning}");
    let ids = Value::Array(ArrayType::Uuid, Some(Box::new(ids.iter().copied().map(Value::from).collect())));
    let values = [ids].into_iter().chain(app_id.map(|app_id| app_id.into_inner().into()));
    Statement::from_sql_and_values(DbBackend::Postgres, sql, values)
}

/// Counts how many rows of a batch over many apps belong to each app, and finds each app's last row, ordered by
/// app. Locks no row.
///
/// With `max_bytes`, the batch ends at that size, but has at least one row. Each returned row also has the number
/// of rows that the batch would have without that bound.
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

/// Finds the first app that has due rows behind the cursor. The scope goes by app.
pub(super) fn first_app_on_postgres(
    dialect: Dialect,
    scope: &SweepScope,
    due: Due,
    after: Option<SweepCursor>,
) -> Statement {
    let app_id = |table: &str| format!("{table}.app_id");
    let oldest = match dialect {
        Dialect::Sharded => oldest_across_shards(app_id, scope, due, Part::All, after),
        _ => oldest_on_postgres(app_id, scope, due, Part::All, after, HIDDEN_LIMIT, ""),
    };
    Statement::from_sql_and_values(DbBackend::Postgres, oldest, values(scope, due, after, 1))
}

/// Counts the due rows of these parts, each part up to the limit.
pub(super) fn count_oldest(
    dialect: Dialect,
    scope: &SweepScope,
    due: Due,
    parts: &[Part],
    limit: u64,
) -> Statement {
    if dialect == Dialect::Sqlite {
        let counts = parts.iter().map(|&part| count_on_sqlite(scope, due, part, limit));
        let sum = counts.map(Expr::from).reduce(ExprTrait::add).unwrap_or_else(|| Expr::val(0));
        return dialect.build(&Query::select().expr(sum).take());
    }
    let count = |&part: &Part| {
        let oldest = match scope {
            SweepScope::AllApps | SweepScope::AllAppsBut { .. } if dialect == Dialect::Sharded => {
                oldest_across_shards(id_of, scope, due, part, None)
            }
            scope => oldest_on_postgres(id_of, scope, due, part, None, HIDDEN_LIMIT, ""),
        };
        format!("(SELECT count(*) FROM ({oldest}) due)")
    };
    let counts: Vec<_> = parts.iter().map(count).collect();
    let sum = format!("SELECT {}", counts.join(" + "));
    Statement::from_sql_and_values(DbBackend::Postgres, sum, values(scope, due, None, limit))
}

fn count_on_sqlite(scope: &SweepScope, due: Due, part: Part, limit: u64) -> SelectStatement {
    let rows = match scope {
        // SQLite keeps the order of the tables only in a CROSS JOIN.
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

/// Finds at most `limit` apps that have due rows, ordered by id. Starts at the cursor's app, although all of that
/// app's due rows may lie before the cursor.
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

/// Returns whether batches of this scope go app by app.
pub(super) fn goes_by_app(scope: &SweepScope) -> bool {
    matches!(scope, SweepScope::AllAppsBut { .. })
}

const LAST: &str = "last";
const LOCK: &str = " FOR UPDATE SKIP LOCKED";
/// A limit whose value the planner does not see. If it saw 1,000, it would read and sort the whole app, because it expects
/// few rows in an app that its statistics do not know.
const HIDDEN_LIMIT: &str = "(SELECT $2)";

/// Returns the values of a statement. `$1` is the time and `$2` the limit. `$3` is the app, or the first app where
/// the scope goes by app, and `$4` the excepted apps. The cursor's time and id come last.
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

/// Returns the app at which a batch starts if its scope goes by app.
fn first_of(after: Option<SweepCursor>) -> Uuid {
    after.map_or(Uuid::nil(), |after| after.app_id.into_inner())
}

/// Returns the cursor's time and id. The time is clamped to the range that both backends compare.
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

/// Returns a function that selects the columns of a cursor from a table.
fn place_of(due: Due) -> impl Fn(&str) -> String {
    let (time, ..) = due_on_postgres(due, Part::All);
    move |table| format!("{table}.app_id, {table}.{time} AS due_at, {table}.id")
}

/// Returns a function that selects the columns of a cursor and the row's size in bytes.
fn sized_place_of(due: Due) -> impl Fn(&str) -> String {
    let place = place_of(due);
    move |table| format!("{}, {} AS bytes", place(table), row_bytes_of(table))
}

/// Selects the oldest due rows of the part behind the cursor. `columns` selects the columns and qualifies each
/// with its table, since a service may add columns of its own.
///
fn oldest_on_postgres(
    columns: impl Fn(&str) -> String,
    scope: &SweepScope,
    due: Due,
    part: Part,
    after: Option<SweepCursor>,
    limit: &str,
    lock: &str,
) -> String {
    let (time, is_due, is_indexed) = due_on_postgres(due, part);
    let letters = columns("dead_letters");
    // A row comparison is one condition of the index.
    let is_behind = |place: &str| match after {
        Some(_) => format!(" AND (dead_letters.{time}, dead_letters.id) > ({place})"),
        None => String::new(),
    };
    match scope {
        SweepScope::App(_) => format!(
            "SELECT {letters} FROM dead_letters \
             WHERE dead_letters.app_id = $3 AND dead_letters.{time} < $1 AND {is_due}{} \
             ORDER BY dead_letters.{time}, dead_letters.id LIMIT {limit}{lock}",
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
                 ORDER BY dead_letters.{time} AT TIME ZONE 'UTC', dead_letters.id LIMIT {limit}{lock}"
            )
        }
        SweepScope::AllAppsBut { .. } => {
            let columns = columns("letter");
            // In the apps behind the cursor's app, all rows lie behind the cursor.
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
                     ORDER BY dead_letters.{time}, dead_letters.id LIMIT {limit}{lock}) letter \
                 WHERE apps.app NOT IN (SELECT unnest($4)) LIMIT $2"
            )
        }
    }
}

/// Returns the column of the time that makes a row due, the other condition of a due row, and the condition of the
/// index that finds an app's due rows.
fn due_on_postgres(due: Due, part: Part) -> (&'static str, &'static str, &'static str) {
    match due {
        // The index also has rows with a resolution that only a newer version knows. The IN leaves them out. It is
        // in a CASE, because the planner expects a CASE to keep half of the rows. In a table without statistics the
        // planner expects a bare IN to keep almost none. It would then read and sort all rows behind the cursor.
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

/// Selects the oldest due rows of all apps, or those of the first apps if the scope excepts some. Recursion,
/// LATERAL and row locks do not work across shards.
///
/// By creation time, the index of all apps finds the due rows, including those of excepted apps. For closed rows,
/// the statement reads the index of each app.
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
        // Citus takes no subquery as the limit of a statement for several shards.
        SweepScope::AllApps => oldest_on_postgres(columns, scope, due, part, after, "$2", ""),
        SweepScope::App(_) => oldest_on_postgres(columns, scope, due, part, after, HIDDEN_LIMIT, ""),
    }
}

/// The resolutions that a sweep of closed rows deletes. A row with a resolution that only a newer version knows is
/// left to that version.
const CLOSED: [Resolution; 3] = [Replayed, Ignored, HandledByScript];

/// Returns the resolution as a literal, because SQLite does not match a bound value to the condition of a partial
/// index.
fn inline(resolution: Resolution) -> Expr {
    Expr::Constant(resolution.as_str().into())
}

/// Selects the oldest due rows of the part behind the cursor, of one app or of all apps.
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

/// Selects the columns of a cursor of the rows that [`oldest_on_sqlite`] selects.
fn place_on_sqlite(app_id: Option<AppId>, due: Due, after: Option<SweepCursor>) -> Select<Entity> {
    oldest_on_sqlite(app_id, due, Part::All, after)
        .column(Column::AppId)
        .column_as(time_of(due), "due_at")
        .column(Column::Id)
}

/// Returns the column of the time that makes a row due.
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
            let is_closed = Column::Resolution.into_expr().is_in(CLOSED.map(inline));
            COLUMN.resolved_at.lt(bound_of(due)).and(is_closed)
        }
    };
    // SQLite does not infer the index's condition, so the statement repeats it.
    Condition::all().add(is_due).add_option(is_indexed(due, part))
}

/// Returns the condition of the index that finds an app's due rows.
fn is_indexed(due: Due, part: Part) -> Option<Expr> {
    match due {
        Due::CreatedBefore(_) => part.condition(),
        Due::ClosedBefore(_) => Part::Closed.condition(),
    }
}

/// Selects the apps that have rows, except the excepted ones, from the cursor's app on. Each step is one index
/// probe.
fn apps_on_sqlite(excepted: &[AppId], after: Option<SweepCursor>, due: Due, part: Part) -> SelectStatement {
    let first_app_of = |apps: Expr| {
        Query::select()
            .column(Column::AppId)
            .from(Entity)
            .and_where(apps)
            .and_where_option(is_indexed(due, part))
            .order_by(Column::AppId, Order::Asc)
            .limit(1)
            .take()
    };
    let app_id = || Column::AppId.into_expr();
    let first = first_app_of(app_id().gte(first_of(after)));
    let apps = app_steps(first, first_app_of(app_id().gt(Expr::col(APP))), None);
    Query::select()
        .column(APP)
        .from(APPS)
        .and_where(Expr::col(APP).is_not_in(excepted.iter().map(|app_id| app_id.into_inner())))
        .with_cte(apps)
        .take()
}
