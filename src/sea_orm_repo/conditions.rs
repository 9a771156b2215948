//! Which rows a statement is about.

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, DbBackend,
    sea_query::{ArrayType, Asterisk, Expr, ExprTrait, Func, FunctionCall, Query, SelectStatement, Value},
};
use uuid::Uuid;

use super::{convert, in_range};
use crate::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterState, IdFilter, PayloadKind,
    Resolution, time::to_bound,
};

pub(super) fn is_row(app_id: AppId, id: DeadLetterId) -> Condition {
    Condition::all().add(COLUMN.id.eq(id.into_inner())).add(COLUMN.app_id.eq(app_id.into_inner()))
}

/// Unresolved, or `handler_failed`, of rows that were found already: no index has this condition.
pub(super) fn is_open() -> Expr {
    let handler_failed = Expr::Constant(Resolution::HandlerFailed.as_str().into());
    COLUMN.resolution.is_null().or(Column::Resolution.into_expr().eq(handler_failed))
}

/// A state, for rows that a filter names by their ids, in words that no partial index has.
pub(super) fn is_of_state(state: DeadLetterState) -> Option<Expr> {
    match state {
        DeadLetterState::Open => Some(is_open()),
        DeadLetterState::Unresolved => Some(COLUMN.resolution.is_null()),
        DeadLetterState::Closed => Some(is_open().not()),
        DeadLetterState::Any => None,
    }
}

pub(super) fn is_of_app(
    app_id: AppId,
    filter: &DeadLetterFilter,
    backend: DbBackend,
    sharded: bool,
) -> Condition {
    let is_of_app = Column::AppId.eq(app_id.into_inner());
    Condition::all().add(match backend {
        // Citus routes the statement to one shard only if the app stands there plainly.
        _ if sharded || filter.ids.is_none() => is_of_app,
        // SQLite expects ten rows of an app, and would read all of the app to find a few letters by their ids.
        DbBackend::Sqlite => Func::cust("likely").arg(is_of_app).into(),
        // PostgreSQL does the same if the app is new since the last ANALYZE.
        _ => is_of_app.is(Expr::Constant(true.into())),
    })
}

pub(super) fn is_from(time: DateTime<Utc>) -> Expr {
    COLUMN.created_at.gte(to_bound(time))
}

pub(super) fn is_before(time: DateTime<Utc>) -> Expr {
    COLUMN.created_at.lt(to_bound(time))
}

/// The database's time at the start of the statement, for a row's time. SQLite's is text in the driver's format.
pub(super) fn now(backend: DbBackend) -> Expr {
    if backend != DbBackend::Sqlite {
        // Not of the transaction, which may be older than the row; nor volatile, as that of each row would be.
        return Func::cust("statement_timestamp").into();
    }
    let now = Func::cust("strftime").args(["%Y-%m-%dT%H:%M:%f+00:00", "now"].map(constant));
    // Without a fraction at a whole second.
    Func::cust("replace").args([now.into(), constant(".000+"), constant("+")]).into()
}

/// The same as a bound, before which all rows were created that a statement sees, but for those that were stored with a
/// later time. SQLite's clock goes by milliseconds, and the bound is the next one.
pub(super) fn now_as_bound(backend: DbBackend) -> Expr {
    match backend {
        DbBackend::Sqlite => Func::cust("strftime")
            .args(["%Y-%m-%dT%H:%M:%f+00:00", "now", "+0.001 seconds"].map(constant))
            .into(),
        _ => now(backend),
    }
}

fn constant(text: &str) -> Expr {
    Expr::Constant(text.into())
}

/// With what is left of a filter without its state and times: no index knows it, but for the ids.
pub(super) fn narrow(
    wide: Condition,
    filter: &DeadLetterFilter,
    backend: DbBackend,
    sharded: bool,
) -> Condition {
    // As in the store, where a NUL became U+FFFD.
    let text = |text: &Option<String>| text.clone().map(convert::without_nul);
    // Not LIKE, whose wildcards would have to be escaped, and for which SQLite ignores case.
    let position = if backend == DbBackend::Sqlite { "instr" } else { "strpos" };
    wide.add_option(filter.ids.as_deref().map(|ids| is_one_of(ids, backend, sharded)))
        .add_option(filter.resolution.map(|resolution| COLUMN.resolution.eq(resolution.as_str())))
        .add_option(text(&filter.source).map(|source| COLUMN.source.eq(source)))
        .add_option(text(&filter.op).map(|op| COLUMN.op.eq(op)))
        .add_option(filter.trigger_id.map(|id| is_id(Column::TriggerId, id)))
        .add_option(filter.script_id.map(|id| is_id(Column::ScriptId, id)))
        .add_option(filter.original_event_id.map(|id| COLUMN.original_event_id.eq(id)))
        .add_option(text(&filter.error_contains).map(|part| {
            let position = Func::cust(position).arg(Column::LastError.into_expr()).arg(part);
            Expr::from(position).gt(0)
        }))
        .add_option(text(&filter.error_signature).map(|signature| COLUMN.error_signature.eq(signature)))
        .add_option(text(&filter.group_key).map(|key| COLUMN.group_key.eq(key)))
        .add_option(
            filter.truncated.map(|truncated| if truncated { is_truncated() } else { is_truncated().not() }),
        )
        .add_option(filter.failed_again_in_run.map(failed_again))
}

/// Letters that are none of the run's, but whose event the run replayed.
fn failed_again(run_id: Uuid) -> Condition {
    let own = |column| Expr::col((Entity, column));
    let replayed = |column| Expr::col(("replayed", column));
    let constant = |text: &str| Expr::Constant(text.into());
    // A count is looked up row by row. An EXISTS may become a join with all that the run replayed.
    let count = Query::select()
        .expr(Func::count(Expr::col(Asterisk)))
        .from_as(Entity, "replayed")
        .and_where(replayed(Column::AppId).eq(own(Column::AppId)))
        .and_where(replayed(Column::OriginalEventId).eq(own(Column::OriginalEventId)))
        // As in the partial index.
        .and_where(
            Expr::expr(Func::coalesce([replayed(Column::Resolution), constant("")]))
                .eq(constant(Resolution::Replayed.as_str())),
        )
        // Not as a condition of the runs' index, which would read all that the run replayed for each letter.
        .and_where(Func::coalesce([replayed(Column::RunId).eq(run_id), Expr::Constant(false.into())]).into())
        .take();
    let is_of_run = own(Column::RunId).eq(run_id);
    let is_not_of_run = Func::coalesce([is_of_run.not(), Expr::Constant(true.into())]);
    Condition::all().add(Expr::from(is_not_of_run)).add(Expr::from(count).gt(0))
}

/// The kinds of payload that are not the whole event.
pub(super) const TRUNCATED: [PayloadKind; 2] = [PayloadKind::Truncated, PayloadKind::Erased];

pub(super) fn is_truncated() -> Expr {
    Column::PayloadKind.is_in(TRUNCATED.map(PayloadKind::as_str))
}

fn is_id(column: Column, id: IdFilter<impl Into<Uuid>>) -> Expr {
    match id {
        IdFilter::None => column.is_null(),
        IdFilter::Is(id) => column.eq(id.into()),
    }
}

/// By a semi-join in PostgreSQL: a list in `IN` or `= ANY` goes to a generic plan after five calls, which
/// reads the whole app (1,000 ids: seconds).
fn is_one_of(ids: &[DeadLetterId], backend: DbBackend, sharded: bool) -> Expr {
    match backend {
        DbBackend::Postgres if !sharded => Column::Id.in_subquery(each_of(ids)),
        _ => is_any_of_ids(ids, backend),
    }
}

/// Whether a row is one of these, as a condition that finds it by the key alone.
pub(super) fn is_any_of_ids(ids: &[DeadLetterId], backend: DbBackend) -> Expr {
    match backend {
        DbBackend::Postgres => is_any_of(each_of(ids)),
        _ => Column::Id.is_in(ids.iter().map(|id| id.into_inner())),
    }
}

fn each_of(ids: &[DeadLetterId]) -> SelectStatement {
    let ids = ids.iter().map(|id| Value::from(id.into_inner())).collect();
    let ids = Value::Array(ArrayType::Uuid, Some(Box::new(ids)));
    Query::select().expr(Func::cust("unnest").arg(ids)).take()
}

/// For where the app is said beside them: of one that is new since the last ANALYZE PostgreSQL reads all rows, and
/// joined with 1,000 ids that took 4.6 s for 25,000 rows, so 0.2.
pub(super) fn is_any_of(ids: SelectStatement) -> Expr {
    Column::Id.into_expr().eq(any_of(ids))
}

/// `ANY (ARRAY(…))`, for which PostgreSQL runs the subquery once.
pub(super) fn any_of(ids: SelectStatement) -> FunctionCall {
    let array = Func::cust("ARRAY").arg(Expr::SubQuery(None, Box::new(ids.into())));
    Func::cust("ANY").arg(array)
}

/// What can't be sent of a filter.
pub(super) fn check(filter: &DeadLetterFilter) -> Result<(), DeadLetterRepoError> {
    let ids = filter.ids.as_ref().map_or(0, Vec::len);
    in_range("filter.ids", u32::try_from(ids).unwrap_or(u32::MAX), 0..=1_000).map(drop)
}
