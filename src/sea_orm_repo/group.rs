//! Grouping rows that failed alike.

use dead_letters_entity::dead_letters::{Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, DbBackend, FromQueryResult,
    prelude::DateTimeWithTimeZone,
    sea_query::{Asterisk, Expr, ExprTrait, Func, NullOrdering, Order, Query, SelectStatement},
};
use uuid::Uuid;

use super::{
    PAGE_SIZES, SeaOrmDeadLetterRepo, conditions::matches, in_range, record_rows, transaction::RepoConnection,
};
use crate::{AppId, DeadLetterFilter, DeadLetterRepoError, ErrorGroup};

impl<C: RepoConnection> SeaOrmDeadLetterRepo<C> {
    pub(super) async fn group(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        limit: u32,
    ) -> Result<Vec<ErrorGroup>, DeadLetterRepoError> {
        let limit = in_range("limit", limit, PAGE_SIZES)?;
        let backend = self.db.get_database_backend();
        let query = group_errors(matches(app_id, filter, backend), limit, backend);
        let groups = ErrorGroupRow::find_by_statement(backend.build(&query)).all(&self.db).await?;
        record_rows(groups.len() as u64);
        Ok(groups.into_iter().map(ErrorGroup::from).collect())
    }
}

const GROUP_KEY: [Column; 4] = [Column::Source, Column::Op, Column::ScriptId, Column::ErrorSignature];

fn group_errors(matching: Condition, limit: u32, backend: DbBackend) -> SelectStatement {
    let groups = Query::select()
        .columns(GROUP_KEY)
        .expr_as(Func::count(Expr::col(Asterisk)), "letters")
        .expr_as(Func::min(Expr::col(Column::CreatedAt)), "first_seen")
        .expr_as(Func::max(Expr::col(Column::CreatedAt)), "last_seen")
        .from(Entity)
        .cond_where(matching.clone())
        .group_by_columns(GROUP_KEY)
        .apply(|groups| order_groups(groups, backend))
        .limit(limit.into())
        .take();
    // Of the few groups that are left: PostgreSQL before 18 has no max(uuid).
    let in_group = |column: Column| {
        let (of_row, of_group) = (column.into_expr(), Expr::col(("groups", column)));
        of_row.clone().eq(of_group.clone()).or(of_row.is_null().and(of_group.is_null()))
    };
    let newest = Query::select()
        .column(Column::Id)
        .from(Entity)
        .cond_where(matching)
        .and_where(Column::CreatedAt.into_expr().eq(Expr::col(("groups", "last_seen"))))
        .cond_where(GROUP_KEY.into_iter().map(in_group).fold(Condition::all(), Condition::add))
        .order_by(Column::Id, Order::Desc)
        .limit(1)
        .take();
    Query::select()
        .column(("groups", Asterisk))
        .expr_as(newest, "newest_id")
        .from_subquery(groups, "groups")
        .apply(|groups| order_groups(groups, backend))
        .take()
}

/// The same on both backends: texts by their bytes, whatever the database's language.
fn order_groups(groups: &mut SelectStatement, backend: DbBackend) {
    groups.order_by("letters", Order::Desc).order_by("last_seen", Order::Desc);
    for column in GROUP_KEY {
        let key = match (column, backend) {
            (Column::ScriptId, _) | (_, DbBackend::Sqlite) => Expr::col(column),
            _ => Func::cust("convert_to").args([Expr::col(column), Expr::Constant("UTF8".into())]).into(),
        };
        groups.order_by_expr_with_nulls(key, Order::Asc, NullOrdering::Last);
    }
}

#[derive(FromQueryResult)]
struct ErrorGroupRow {
    source: String,
    op: String,
    script_id: Option<Uuid>,
    error_signature: String,
    letters: i64,
    first_seen: DateTimeWithTimeZone,
    last_seen: DateTimeWithTimeZone,
    newest_id: Uuid,
}

impl From<ErrorGroupRow> for ErrorGroup {
    fn from(row: ErrorGroupRow) -> Self {
        Self {
            source: row.source,
            op: row.op,
            script_id: row.script_id.map(Into::into),
            error_signature: row.error_signature,
            count: row.letters.unsigned_abs(),
            first_seen: row.first_seen.to_utc(),
            last_seen: row.last_seen.to_utc(),
            newest_id: row.newest_id.into(),
        }
    }
}
