//! The parts of an app's letters that have an index of their own, and how statements read their first rows in
//! order.
//!
//! No index has all open letters, because every insert would pay for one more. The unresolved letters and the
//! `handler_failed` letters have an index each. A statement about open letters reads the first rows of both and
//! merges them.

use dead_letters_entity::dead_letters::{Column, Entity};
use sea_orm::{
    ColumnTrait, Condition,
    sea_query::{
        Alias, Asterisk, Expr, ExprTrait, Func, LockBehavior, LockType, Order, Query, SelectStatement,
        UnionType,
    },
};

use super::{dialect::Dialect, hidden_limits::shown};
use crate::{DeadLetterFilter, DeadLetterState, Resolution};

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

    /// Returns the parts that have letters of the filter's state and resolution.
    pub(super) fn of_filter(filter: &DeadLetterFilter) -> &'static [Self] {
        match (filter.effective_state(), filter.resolution) {
            (DeadLetterState::Open, Some(Resolution::HandlerFailed)) => &[Self::HandlerFailed],
            (state, _) => Self::of(state),
        }
    }

    /// Returns the condition of the part's partial index, in the same words. Its values are constants, because a
    /// generic plan can't use a partial index whose condition would have to match a bound value.
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

    /// Returns [`condition`](Self::condition) as SQL.
    pub(super) const fn sql(self) -> &'static str {
        match self {
            Self::All => "true",
            Self::Unresolved => "coalesce(dead_letters.resolution, '') = ''",
            Self::HandlerFailed => "coalesce(dead_letters.resolution, '') = 'handler_failed'",
            Self::Closed => "coalesce(dead_letters.resolution, '') NOT IN ('', 'handler_failed')",
        }
    }
}

/// Returns the conditions of the parts of a state. Each of them includes `and`.
pub(super) fn conditions(parts: &[Part], and: &Condition) -> Vec<Condition> {
    parts.iter().map(|part| and.clone().add_option(part.condition())).collect()
}

/// An order that the indexes have.
pub(super) type Sort<'a> = &'a [(Column, Order)];

pub(super) fn by_time(time: Column, order: Order) -> [(Column, Order); 2] {
    [(time, order.clone()), (Column::Id, order)]
}

/// Selects the first `limit` rows, in this order, that fulfill any of the conditions. No row may fulfill two of
/// them. `columns` must select the columns of the order, among others.
///
/// PostgreSQL does not see the limit where it reads the rows. If it did, and had no statistics about the app, it
/// would take the app for a small one, and read and sort all of the app's rows. The outer limit keeps the expected
/// cost low. Without it, PostgreSQL would compile the statement first (JIT).
pub(super) fn first(
    dialect: Dialect,
    conditions: Vec<Condition>,
    sort: Sort<'_>,
    limit: u64,
    columns: &SelectStatement,
) -> SelectStatement {
    merge(dialect, arms(conditions, sort, limit, columns), sort, limit)
}

/// Selects as [`first`] does, and locks the rows. Rows that another transaction has locked are skipped. The
/// statement locks up to `limit` rows for each condition.
pub(super) fn first_locked(
    dialect: Dialect,
    conditions: Vec<Condition>,
    sort: Sort<'_>,
    limit: u64,
    columns: &SelectStatement,
) -> SelectStatement {
    let mut arms = arms(conditions, sort, limit, columns);
    for arm in &mut arms {
        arm.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
    }
    merge(dialect, arms, sort, limit)
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

fn merge(dialect: Dialect, arms: Vec<SelectStatement>, sort: Sort<'_>, limit: u64) -> SelectStatement {
    let mut arms = arms.into_iter();
    let Some(arm) = arms.next() else { return Query::select() };
    if dialect == Dialect::Sqlite && arms.len() == 0 {
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

/// Makes the rows that fulfill any of the conditions the source of a query, in no order. No row may fulfill two of
/// the conditions.
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
