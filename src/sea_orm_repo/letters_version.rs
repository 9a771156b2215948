//! Finds the version of letters.
//!
//! A version is a digest of the newest ids, and not of the newest one alone. Ids are made before their transactions
//! commit, so a row may become visible after a younger one.

use dead_letters_entity::{
    dead_letter_actions::{self as actions, COLUMN as ACTION},
    dead_letters::{Column, Entity},
};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait,
    sea_query::{Asterisk, Expr, ExprTrait, Order, Query, SelectStatement, UnionType},
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    connection::RepoConnection,
    count::count_to,
    dialect::Dialect,
    hidden_limits::{shown, with_hidden_limits},
    new_error_groups::time_in_index,
    parts::{Part, by_time, conditions, first},
};
use crate::{AppId, DeadLetterRepoError, DeadLetterState, LettersVersion};

/// How many letters, closed letters and actions the version is made of.
const NEWEST: u64 = 20;
/// The cap of the count of open letters.
const COUNT_CAP: u32 = 1_000;
/// How many actions the version of all letters is made of.
const NEWEST_OF_ALL: u64 = 200;

// A count of letters is not negative.
const LETTERS: i32 = -1;
const CLOSED: i32 = -2;
const ACTIONS: i32 = -3;

pub(super) async fn letters_version<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: Option<AppId>,
) -> Result<LettersVersion, DeadLetterRepoError> {
    let dialect = repo.dialect()?;
    let version = match app_id {
        Some(app_id) => of_app(dialect, app_id),
        None => of_all(dialect),
    };
    let mut found = Vec::new();
    for row in repo.db.query_all_raw(with_hidden_limits(dialect, &version)).await? {
        let number: i64 = row.try_get_by_index(0)?;
        let id: Option<Uuid> = row.try_get_by_index(1)?;
        found.push((number, id));
    }
    // A union has no order.
    found.sort_unstable();
    let mut digest = Sha256::new();
    for (number, id) in found {
        digest.update(number.to_le_bytes());
        digest.update(id.unwrap_or_default());
    }
    let mut version = [0; 16];
    version.copy_from_slice(&digest.finalize()[..16]);
    Ok(LettersVersion(version))
}

fn of_app(dialect: Dialect, app_id: AppId) -> SelectStatement {
    let id = app_id.into_inner();
    let of_app = Condition::all().add(Column::AppId.eq(id));
    let newest = |part, time| {
        let columns = Query::select().columns([time, Column::Id]).take();
        let newest_first = by_time(time, Order::Desc);
        first(dialect, conditions(&[part], &of_app), &newest_first, NEWEST, &columns)
    };
    let actions = Query::select()
        .column(actions::Column::Id)
        .from(actions::Entity)
        .and_where(ACTION.app_id.eq(id))
        .order_by(actions::Column::Id, Order::Desc)
        .limit(NEWEST)
        .take();
    // This arm is the first one, because PostgreSQL takes the type of a union's column from the first two.
    let open = count_to(dialect, COUNT_CAP, DeadLetterState::Open, id.into());
    let mut union = Query::select().expr_as(open, "number").expr_as(Expr::val(None::<Uuid>), "id").take();
    union
        .union(UnionType::All, ids(LETTERS, newest(Part::All, Column::CreatedAt)))
        .union(UnionType::All, ids(CLOSED, newest(Part::Closed, Column::ResolvedAt)))
        .union(UnionType::All, ids(ACTIONS, actions));
    bounded(union, 3 * NEWEST + 1)
}

fn of_all(dialect: Dialect) -> SelectStatement {
    let newest = Query::select()
        .column(Column::Id)
        .from(Entity)
        .order_by_expr(time_in_index(dialect), Order::Desc)
        .order_by(Column::Id, Order::Desc)
        // The limit is visible, because there is no condition that PostgreSQL could take for a rare one.
        .limit(shown(NEWEST))
        .take();
    let actions = Query::select()
        .column(actions::Column::Id)
        .from(actions::Entity)
        .order_by(actions::Column::CreatedAt, Order::Desc)
        .order_by(actions::Column::Id, Order::Desc)
        .limit(shown(NEWEST_OF_ALL))
        .take();
    let union = ids(LETTERS, newest).union(UnionType::All, ids(ACTIONS, actions)).take();
    bounded(union, NEWEST + NEWEST_OF_ALL)
}

/// Selects these ids, with a mark of what they are.
fn ids(mark: i32, of: SelectStatement) -> SelectStatement {
    Query::select().expr_as(marked(mark), "number").column("id").from_subquery(of, "newest").take()
}

/// The limit cuts nothing. It keeps the expected cost low, so that PostgreSQL does not compile the statement (JIT).
fn bounded(union: SelectStatement, rows: u64) -> SelectStatement {
    Query::select().column(Asterisk).from_subquery(union, "version").limit(shown(rows)).take()
}

/// Returns the mark with the type that PostgreSQL gives a count.
fn marked(mark: i32) -> Expr {
    Expr::Constant(mark.into()).cast_as("bigint")
}
