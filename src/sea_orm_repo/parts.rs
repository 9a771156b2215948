//! The parts of an app's letters that have an index of their own, and reading their first rows in order.
//!
//! No index has all open letters: an insert would pay for one more. The unresolved ones and the `handler_failed` ones
//! have an index each, and a statement about open letters reads the first rows of both and merges them.

use dead_letters_entity::dead_letters::{Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, DbBackend,
    sea_query::{
        Alias, Asterisk, Expr, ExprTrait, Func, LockBehavior, LockType, Order, Query, SelectStatement,
        UnionType,
    },
};

use super::text::shown;
use crate::{DeadLetterState, Resolution};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    All,
    Unresolved,
    HandlerFailed,
    Closed,
}

impl Part {
    pub(super) const fn of(state: DeadLetterState) -> &'static [Self] {
        match state {
            DeadLetterState::Any => &[Self::All],
            DeadLetterState::Open => &[Self::Unresolved, Self::HandlerFailed],
            DeadLetterState::Unresolved => &[Self::Unresolved],
            DeadLetterState::Closed => &[Self::Closed],
        }
    }

    /// The condition of the part's index, in the index's own words. Values stand in it as constants: a generic plan
    /// finds no partial index by a bound value.
    pub(super) fn condition(self) -> Option<Expr> {
        let constant = |text: &str| Expr::Constant(text.into());
        let resolution = Expr::expr(Func::coalesce([Column::Resolution.into_expr(), constant("")]));
        let handler_failed = constant(Resolution::HandlerFailed.as_str());
        match self {
            Self::All => None,
            Self::Unresolved => Some(resolution.eq(constant(""))),
            Self::HandlerFailed => Some(resolution.eq(handler_failed)),
            Self::Closed => Some(resolution.is_not_in([constant(""), handler_failed])),
        }
    }

    /// The same as SQL.
    pub(super) const fn sql(self) -> &'static str {
        match self {
            Self::All => "true",
            Self::Unresolved => "coalesce(dead_letters.resolution, '') = ''",
            Self::HandlerFailed => "coalesce(dead_letters.resolution, '') = 'handler_failed'",
            Self::Closed => "coalesce(dead_letters.resolution, '') NOT IN ('', 'handler_failed')",
        }
    }
}

/// The conditions of the parts that make up a state, each with what else must hold.
pub(super) fn conditions(parts: &[Part], and: &Condition) -> Vec<Condition> {
    parts.iter().map(|part| and.clone().add_option(part.condition())).collect()
}

/// An order that the indexes have.
pub(super) type Sort<'a> = &'a [(Column, Order)];

pub(super) fn by_time(time: Column, order: Order) -> [(Column, Order); 2] {
    [(time, order.clone()), (Column::Id, order)]
}

/// Selects the first `limit` rows, in this order, of those for which any of the conditions holds. No row may fulfil
/// two of them. `columns` selects the columns that are needed, those of the order among them.
///
/// PostgreSQL does not see the limit where the rows are read. It would take a letter's app for a small one if it
/// knows nothing of it, and read and sort all of the app's rows. The outer limit keeps the cost that it expects low,
/// else it would compile the statement first (JIT).
pub(super) fn first(
    backend: DbBackend,
    conditions: Vec<Condition>,
    sort: Sort<'_>,
    limit: u64,
    columns: &SelectStatement,
) -> SelectStatement {
    merge(backend, arms(conditions, sort, limit, columns), sort, limit)
}

/// The same of rows that this statement locks. Rows that another transaction has locked are skipped. Of several
/// conditions up to `limit` rows each are locked.
pub(super) fn first_locked(
    backend: DbBackend,
    conditions: Vec<Condition>,
    sort: Sort<'_>,
    limit: u64,
    columns: &SelectStatement,
) -> SelectStatement {
    let mut arms = arms(conditions, sort, limit, columns);
    for arm in &mut arms {
        arm.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
    }
    merge(backend, arms, sort, limit)
}

fn arms(
    conditions: Vec<Condition>,
    sort: Sort<'_>,
    limit: u64,
    columns: &SelectStatement,
) -> Vec<SelectStatement> {
    let arm = |condition| {
        let mut arm = columns.clone();
        arm.from_clear().from(Entity).cond_where(condition).limit(limit);
        for (column, order) in sort {
            arm.order_by(*column, order.clone());
        }
        arm
    };
    conditions.into_iter().map(arm).collect()
}

fn merge(backend: DbBackend, arms: Vec<SelectStatement>, sort: Sort<'_>, limit: u64) -> SelectStatement {
    let mut arms = arms.into_iter();
    let Some(arm) = arms.next() else { return Query::select() };
    if backend == DbBackend::Sqlite && arms.len() == 0 {
        return arm;
    }
    let whole = |arm| Query::select().column(Asterisk).from_subquery(arm, Alias::new("arm")).take();
    let mut union = if arms.len() == 0 { arm } else { whole(arm) };
    for arm in arms {
        union.union(UnionType::All, whole(arm));
    }
    let mut merged = Query::select().column(Asterisk).from_subquery(union, Entity).limit(shown(limit)).take();
    for (column, order) in sort {
        merged.order_by(*column, order.clone());
    }
    merged
}

/// Makes the rows for which any of the conditions holds those that a query is about, in no order. No row may fulfil
/// two of them.
pub(super) fn from_all(query: &mut SelectStatement, conditions: Vec<Condition>) {
    let mut conditions = conditions.into_iter();
    let Some(condition) = conditions.next() else { return };
    if conditions.len() == 0 {
        query.from(Entity).cond_where(condition);
        return;
    }
    let arm = |condition| Query::select().column(Asterisk).from(Entity).cond_where(condition).take();
    let mut union = arm(condition);
    for condition in conditions {
        union.union(UnionType::All, arm(condition));
    }
    query.from_subquery(union, Entity);
}
