//! Conditions for the rows that a statement selects.

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition,
    sea_query::{
        ArrayType, Asterisk, CaseStatement, Expr, ExprTrait, Func, FunctionCall, Order, Query,
        SelectStatement, Value,
    },
};
use uuid::Uuid;

use super::{convert, dialect::Dialect, hidden_limits::shown, in_range};
use crate::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterState, IdFilter, PayloadKind,
    Resolution, time::to_bound,
};

pub(super) fn is_row(app_id: AppId, id: DeadLetterId) -> Condition {
    Condition::all().add(COLUMN.id.eq(id.into_inner())).add(COLUMN.app_id.eq(app_id.into_inner()))
}

/// Returns the condition of an open letter, for rows that were found in another way. No index has this condition.
pub(super) fn is_open() -> Expr {
    let handler_failed = Expr::Constant(Resolution::HandlerFailed.as_str().into());
    COLUMN.resolution.is_null().or(Column::Resolution.into_expr().eq(handler_failed))
}

/// Returns the condition of a state, for rows that a filter names by their ids. No partial index has a condition
/// in these words.
pub(super) fn is_of_state(state: DeadLetterState) -> Option<Expr> {
    match state {
        DeadLetterState::Open => Some(is_open()),
        DeadLetterState::Unresolved => Some(COLUMN.resolution.is_null()),
        DeadLetterState::Closed => Some(is_open().not()),
        DeadLetterState::Any => None,
    }
}

pub(super) fn is_of_app(app_id: AppId, filter: &DeadLetterFilter, dialect: Dialect) -> Condition {
    let is_of_app = || Column::AppId.eq(app_id.into_inner());
    Condition::all().add(match dialect {
        _ if filter.ids.is_none() && filter.run_id.is_none() => is_of_app(),
        // PostgreSQL has no statistics about the expression. If it expected few of the run's rows to be the app's, it
        // would read and sort all of them.
        Dialect::Postgres if filter.ids.is_none() => is_true(is_of_app()),
        Dialect::Sqlite | Dialect::Postgres | Dialect::Sharded => is_of_app_by_id(app_id, dialect),
    })
}

/// Returns the condition on the app of a statement that finds letters by their ids. Where the table's key begins with
/// the app, another app may have a letter of the same id.
pub(super) fn is_of_app_by_id(app_id: AppId, dialect: Dialect) -> Expr {
    let is_of_app = Column::AppId.eq(app_id.into_inner());
    match dialect {
        // Citus routes a statement to one shard only if the condition on the app is plain.
        Dialect::Sharded => is_of_app,
        // SQLite expects ten rows of an app, and would read all of the app to find a few letters by their ids. PostgreSQL
        // would too, if the app is new since the last ANALYZE. No index has this expression.
        Dialect::Sqlite | Dialect::Postgres => is_of_app.is(Expr::Constant(true.into())),
    }
}

pub(super) fn is_from(time: DateTime<Utc>) -> Expr {
    COLUMN.created_at.gte(to_bound(time))
}

pub(super) fn is_before(time: DateTime<Utc>) -> Expr {
    COLUMN.created_at.lt(to_bound(time))
}

/// Returns the conditions on the time at which a letter was resolved.
pub(super) fn is_resolved_within(filter: &DeadLetterFilter) -> [Option<Expr>; 2] {
    let from = filter.resolved_from.map(|time| COLUMN.resolved_at.gte(to_bound(time)));
    [from, filter.resolved_before.map(|time| COLUMN.resolved_at.lt(to_bound(time)))]
}

/// Adds the filter's conditions except its state, times and run. No index serves these conditions, except the one on
/// the ids. A new field of the filter does not compile before it is named here.
pub(super) fn narrow(
    wide: Condition,
    app_id: AppId,
    filter: &DeadLetterFilter,
    dialect: Dialect,
) -> Condition {
    let DeadLetterFilter {
        ids,
        resolution,
        source,
        source_contains,
        op,
        op_contains,
        trigger_id,
        script_id,
        original_event_id,
        error_contains,
        error_signature,
        group_key,
        truncated,
        erased,
        failed_again_in_run,
        resolved_by,
        metadata,
        state: _,
        run_id: _,
        resolved_from: _,
        resolved_before: _,
        created_from: _,
        created_before: _,
    } = filter;
    // The store replaces a NUL with U+FFFD, so the filter does too.
    let text = |text: &Option<String>| text.clone().map(convert::without_nul);
    let is = |is: bool, condition: Expr| if is { condition } else { condition.not() };
    let narrow = wide
        .add_option(ids.as_deref().map(|ids| is_one_of(ids, dialect)))
        .add_option(resolution.map(|resolution| COLUMN.resolution.eq(resolution.as_str())))
        .add_option(text(source).map(|source| COLUMN.source.eq(source)))
        .add_option(text(op).map(|op| COLUMN.op.eq(op)))
        .add_option(trigger_id.map(|id| is_id(Column::TriggerId, id)))
        .add_option(script_id.map(|id| is_id(Column::ScriptId, id)))
        .add_option(original_event_id.map(|id| COLUMN.original_event_id.eq(id)))
        .add_option(text(source_contains).map(|part| contains(Column::Source, &part, dialect)))
        .add_option(text(op_contains).map(|part| contains(Column::Op, &part, dialect)))
        .add_option(text(error_contains).map(|part| contains(Column::LastError, &part, dialect)))
        .add_option(text(error_signature).map(|signature| COLUMN.error_signature.eq(signature)))
        .add_option(text(group_key).map(|key| COLUMN.group_key.eq(key)))
        .add_option(truncated.map(|truncated| is(truncated, is_truncated())))
        .add_option(erased.map(|erased| is(erased, is_erased())))
        .add_option(failed_again_in_run.map(|run_id| failed_again(run_id, app_id, dialect)))
        .add_option(text(resolved_by).map(|by| COLUMN.resolved_by.eq(by)));
    metadata.iter().fold(narrow, |narrow, (key, value)| narrow.add(is_metadata(key, value, dialect)))
}

/// Returns the condition of a letter whose column has this part, whatever the case of its letters A to Z. Both
/// databases agree on these letters alone.
fn contains(column: Column, part: &str, dialect: Dialect) -> Expr {
    let text = dialect.ascii_lower(column.into_expr());
    dialect.position(text, part.to_ascii_lowercase()).gt(0)
}

/// Returns the condition of a letter whose metadata has this text as the value of this key. If the stored JSON has the
/// key twice, the last one counts, as for serde_json.
fn is_metadata(key: &str, value: &str, dialect: Dialect) -> Expr {
    let [key, value] = [key, value].map(|text| convert::without_nul(text.to_owned()));
    let constant = |text: &str| Expr::Constant(text.into());
    let stored = || Column::Metadata.into_expr();
    if dialect != Dialect::Sqlite {
        // Unlike jsonb, json parses no number, and no number of another writer is too large for it.
        let field = |function| Func::cust(function).arg(stored().cast_as("json")).arg(key.clone());
        let kind = Func::cust("json_typeof").arg(field("json_extract_path"));
        let is_text = Expr::from(kind).eq(constant("string"));
        return is_text.and(Expr::from(field("json_extract_path_text")).eq(value));
    }
    // Without a path the key needs no quotes.
    const FIELD: &str = "field";
    let valid = CaseStatement::new().case(Expr::from(Func::cust("json_valid").arg(stored())), stored());
    let fields = Func::cust("json_each").arg(Expr::Case(Box::new(valid)));
    let is_text = Expr::col((FIELD, "type")).eq(constant("text"));
    let text = CaseStatement::new().case(is_text, Expr::col((FIELD, "atom")));
    let last = Query::select()
        .expr(Expr::Case(Box::new(text)))
        .from_function(fields, FIELD)
        .and_where(Expr::col((FIELD, "key")).eq(key))
        .order_by((FIELD, "id"), Order::Desc)
        .limit(shown(1))
        .take();
    Expr::from(last).eq(value)
}

/// Returns the condition in a form that no index serves, and that is false instead of NULL.
pub(super) fn is_true(condition: Expr) -> Expr {
    Func::coalesce([condition, Expr::Constant(false.into())]).into()
}

/// Returns the condition of a letter that is not the run's own, but whose event the run replayed.
fn failed_again(run_id: Uuid, app_id: AppId, dialect: Dialect) -> Condition {
    let own = |column| Expr::col((Entity, column));
    let replayed = |column| Expr::col(("replayed", column));
    let constant = |text: &str| Expr::Constant(text.into());
    // PostgreSQL looks a count up row by row. It may plan EXISTS as a join with all letters that the run replayed.
    let count = Query::select()
        .expr(Func::count(Expr::col(Asterisk)))
        .from_as(Entity, "replayed")
        .and_where(match dialect.shard(app_id) {
            Some(app_id) => replayed(Column::AppId).eq(app_id.into_inner()),
            None => replayed(Column::AppId).eq(own(Column::AppId)),
        })
        .and_where(replayed(Column::OriginalEventId).eq(own(Column::OriginalEventId)))
        // The condition has the words of the partial index.
        .and_where(
            Expr::expr(Func::coalesce([replayed(Column::Resolution), constant("")]))
                .eq(constant(Resolution::Replayed.as_str())),
        )
        // The coalesce hides the condition from the index of runs. With that index PostgreSQL would read all
        // letters that the run replayed, once for each letter.
        .and_where(is_true(replayed(Column::RunId).eq(run_id)))
        .take();
    let is_of_run = own(Column::RunId).eq(run_id);
    let is_not_of_run = Func::coalesce([is_of_run.not(), Expr::Constant(true.into())]);
    Condition::all().add(Expr::from(is_not_of_run)).add(Expr::from(count).gt(0))
}

/// The kinds of a payload that is not the whole event.
pub(super) const TRUNCATED: [PayloadKind; 2] = [PayloadKind::Truncated, PayloadKind::Erased];

pub(super) fn is_truncated() -> Expr {
    Column::PayloadKind.is_in(TRUNCATED.map(PayloadKind::as_str))
}

pub(super) fn is_erased() -> Expr {
    Column::PayloadKind.eq(PayloadKind::Erased.as_str())
}

fn is_id(column: Column, id: IdFilter<impl Into<Uuid>>) -> Expr {
    match id {
        IdFilter::None => column.is_null(),
        IdFilter::Is(id) => column.eq(id.into()),
    }
}

/// Returns the condition of a letter that was not replayed. PostgreSQL has no statistics about the expression, and takes
/// it for true.
pub(super) fn is_not_replayed() -> Expr {
    let constant = |text: &str| Expr::Constant(text.into());
    let resolution = Func::coalesce([Column::Resolution.into_expr(), constant("")]);
    Expr::expr(resolution).ne(constant(Resolution::Replayed.as_str()))
}

/// Returns the condition of a row whose id is one of these. On PostgreSQL it is a semi-join. A list in `IN` or `=
/// ANY` changes to a generic plan after five calls, and that plan reads the whole app.
pub(super) fn is_one_of(ids: &[DeadLetterId], dialect: Dialect) -> Expr {
    match dialect {
        Dialect::Postgres => Column::Id.in_subquery(each_of(ids)),
        Dialect::Sharded | Dialect::Sqlite => is_any_of_ids(ids, dialect),
    }
}

/// Returns the condition of a row whose id is one of these, so that the key alone finds the row.
pub(super) fn is_any_of_ids(ids: &[DeadLetterId], dialect: Dialect) -> Expr {
    match dialect {
        Dialect::Postgres | Dialect::Sharded => is_any_of(each_of(ids)),
        Dialect::Sqlite => Column::Id.is_in(ids.iter().map(|id| id.into_inner())),
    }
}

/// Selects the ids, as one array whose length the planner does not see.
pub(super) fn each_of(ids: &[DeadLetterId]) -> SelectStatement {
    let ids = ids.iter().map(|id| Value::from(id.into_inner())).collect();
    let ids = Value::Array(ArrayType::Uuid, Some(Box::new(ids)));
    Query::select().expr(Func::cust("unnest").arg(ids)).take()
}

/// Returns the condition of a row whose id the query selects. It also suits statements that name the app.
/// PostgreSQL reads all rows of an app that is new since the last ANALYZE, and this condition is much faster there
/// than a join with 1,000 ids.
pub(super) fn is_any_of(ids: SelectStatement) -> Expr {
    Column::Id.into_expr().eq(any_of(ids))
}

/// Returns `ANY (ARRAY(…))`, for which PostgreSQL runs the subquery once.
pub(super) fn any_of(ids: SelectStatement) -> FunctionCall {
    let array = Func::cust("ARRAY").arg(Expr::SubQuery(None, Box::new(ids.into())));
    Func::cust("ANY").arg(array)
}

/// Returns an error if the filter has more than 1,000 ids, or if its metadata is too large.
pub(super) fn check(filter: &DeadLetterFilter) -> Result<(), DeadLetterRepoError> {
    let items = |argument, number: usize, max| {
        in_range(argument, u32::try_from(number).unwrap_or(u32::MAX), 0..=max).map(drop)
    };
    items("filter.ids", filter.ids.as_ref().map_or(0, Vec::len), 1_000)?;
    items("filter.metadata", filter.metadata.len(), 10)?;
    for (key, value) in &filter.metadata {
        for (part, bytes, min, max) in [("key", key.len(), 1, 200), ("value", value.len(), 0, 1_000)] {
            if !(min..=max).contains(&bytes) {
                return Err(DeadLetterRepoError::FilterMetadataLength { part, bytes, min, max });
            }
        }
    }
    Ok(())
}
