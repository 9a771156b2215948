//! Which rows a statement is about.

use dead_letters_entity::dead_letters::{COLUMN, Column};
use sea_orm::{
    ColumnTrait, Condition, DbBackend,
    sea_query::{Expr, ExprTrait, Func},
};

use super::convert;
use crate::{AppId, DeadLetterFilter, DeadLetterId, DeadLetterState, Resolution, time::to_bound};

pub(super) fn is_row(app_id: AppId, id: DeadLetterId) -> Condition {
    Condition::all().add(COLUMN.id.eq(id.into_inner())).add(COLUMN.app_id.eq(app_id.into_inner()))
}

/// Unresolved, or `handler_failed`: as in the partial index, and inline, since a bound value would keep a
/// generic plan off it.
pub(super) fn is_open() -> Expr {
    let handler_failed = Expr::Constant(Resolution::HandlerFailed.as_str().into());
    COLUMN.resolution.is_null().or(Column::Resolution.into_expr().eq(handler_failed))
}

pub(super) fn is_of_state(state: DeadLetterState) -> Option<Expr> {
    match state {
        DeadLetterState::Open => Some(is_open()),
        DeadLetterState::Unresolved => Some(COLUMN.resolved_at.is_null()),
        DeadLetterState::Resolved => Some(COLUMN.resolved_at.is_not_null()),
        DeadLetterState::Any => None,
    }
}

pub(super) fn matches(app_id: AppId, filter: &DeadLetterFilter, backend: DbBackend) -> Condition {
    matches_but_for_state(app_id, filter, backend).add_option(is_of_state(filter.state))
}

pub(super) fn matches_but_for_state(
    app_id: AppId,
    filter: &DeadLetterFilter,
    backend: DbBackend,
) -> Condition {
    // As in the store, where a NUL became U+FFFD.
    let text = |text: &Option<String>| text.clone().map(convert::without_nul);
    // Not LIKE, whose wildcards would have to be escaped, and for which SQLite ignores case.
    let position = if backend == DbBackend::Sqlite { "instr" } else { "strpos" };
    Condition::all()
        .add(COLUMN.app_id.eq(app_id.into_inner()))
        .add_option(filter.resolution.map(|resolution| COLUMN.resolution.eq(resolution.as_str())))
        .add_option(text(&filter.source).map(|source| COLUMN.source.eq(source)))
        .add_option(text(&filter.op).map(|op| COLUMN.op.eq(op)))
        .add_option(filter.trigger_id.map(|id| COLUMN.trigger_id.eq(id.into_inner())))
        .add_option(filter.script_id.map(|id| COLUMN.script_id.eq(id.into_inner())))
        .add_option(filter.original_event_id.map(|id| COLUMN.original_event_id.eq(id)))
        .add_option(text(&filter.error_contains).map(|part| {
            let position = Func::cust(position).arg(Column::LastError.into_expr()).arg(part);
            Expr::from(position).gt(0)
        }))
        .add_option(text(&filter.error_signature).map(|signature| COLUMN.error_signature.eq(signature)))
        .add_option(filter.created_from.map(|time| COLUMN.created_at.gte(to_bound(time))))
        .add_option(filter.created_before.map(|time| COLUMN.created_at.lt(to_bound(time))))
}
