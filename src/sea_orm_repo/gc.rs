//! The sweeps. Why deleting this way is safe:
//!
//! - **Never more than `limit`.** `ARRAY(SELECT … LIMIT n)` is an InitPlan: it runs once. The usual `id IN
//!   (SELECT … LIMIT n FOR UPDATE SKIP LOCKED)` may be planned as the inner side of a nested loop, runs once
//!   a row, locks the next n each time, and deletes everything; stale statistics are enough, every setting at
//!   its default.
//! - **Nothing that is not due.** Condition, order and limit all stand inside the subquery. A row that
//!   changed meanwhile is locked and checked again (READ COMMITTED): one that was just reopened is not
//!   purged.
//! - **Nobody waits.** SKIP LOCKED passes over rows that another transaction holds: two sweepers share the
//!   work, a row being resolved stays for the next sweep.
//! - **Nobody else's plan is touched.** Sweeps of all apps filter by an expression that only their own index
//!   has.
//!
//! SQLite has one writer and no row locks; there the same delete is an ordinary statement.

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, DbBackend, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Statement,
    sea_query::{Expr, ExprTrait},
};

use super::{SeaOrmDeadLetterRepo, non_negative, record_rows, transaction::RepoConnection};
use crate::{
    AppId, DeadLetterRepoError,
    Resolution::{self, HandledByScript, HandlerFailed, Ignored, Replayed},
    time::to_bound,
};

impl<C: RepoConnection> SeaOrmDeadLetterRepo<C> {
    pub(super) async fn sweep(
        &self,
        app_id: Option<AppId>,
        due: Due,
        limit: i64,
    ) -> Result<u64, DeadLetterRepoError> {
        let limit = non_negative("limit", limit)?;
        let delete = delete_oldest(self.db.get_database_backend(), app_id, due, limit)?;
        let deleted = self.db.execute_raw(delete).await?.rows_affected();
        record_rows(deleted);
        Ok(deleted)
    }
}

/// What a sweep deletes.
#[derive(Clone, Copy)]
pub(super) enum Due {
    /// Rows created before this.
    Created(DateTime<Utc>),
    /// Rows settled before this, as one of the three that this version knows: which open ones are not, neither
    /// unresolved nor `handler_failed`.
    Settled(DateTime<Utc>),
}

/// A row that a newer version settled as something else is for that version to purge. PostgreSQL infers its
/// index's `<> 'handler_failed'` from the list.
const SETTLED: [Resolution; 3] = [Replayed, Ignored, HandledByScript];

/// Inline, since a partial index is found by no bound value.
fn inline(resolution: Resolution) -> Expr {
    Expr::Constant(resolution.as_str().into())
}

/// $1 is the time, $2 the limit, $3 the app. The app stands outside the subquery as well, for what routes by
/// it (Citus).
macro_rules! delete_oldest {
    ($of_app:literal, $due:literal, $order:literal) => {
        concat!(
            "DELETE FROM dead_letters WHERE ",
            $of_app,
            "id = ANY(ARRAY(SELECT id FROM dead_letters WHERE ",
            $of_app,
            $due,
            " ORDER BY ",
            $order,
            " LIMIT $2 FOR UPDATE SKIP LOCKED))"
        )
    };
}

fn delete_oldest_on_postgres(app_id: Option<AppId>, due: Due) -> &'static str {
    match (due, app_id) {
        (Due::Created(_), None) => delete_oldest!(
            "",
            "created_at AT TIME ZONE 'UTC' < $1 AT TIME ZONE 'UTC'",
            "created_at AT TIME ZONE 'UTC'"
        ),
        (Due::Created(_), Some(_)) => delete_oldest!("app_id = $3 AND ", "created_at < $1", "created_at"),
        (Due::Settled(_), None) => delete_oldest!(
            "",
            "resolved_at AT TIME ZONE 'UTC' < $1 AT TIME ZONE 'UTC' \
             AND resolution IN ('replayed', 'ignored', 'handled_by_script')",
            "resolved_at AT TIME ZONE 'UTC'"
        ),
        (Due::Settled(_), Some(_)) => {
            delete_oldest!(
                "app_id = $3 AND ",
                "resolved_at < $1 AND resolution IN ('replayed', 'ignored', 'handled_by_script')",
                "resolved_at"
            )
        }
    }
}

/// The `limit` oldest rows that are due, of one app or of all.
pub(super) fn delete_oldest(
    backend: DbBackend,
    app_id: Option<AppId>,
    due: Due,
    limit: u64,
) -> Result<Statement, DbErr> {
    let (Due::Created(before) | Due::Settled(before)) = due;
    let before = to_bound(before);
    match backend {
        DbBackend::Postgres => {
            let mut values = vec![before.into(), limit.into()];
            values.extend(app_id.map(|app_id| app_id.into_inner().into()));
            Ok(Statement::from_sql_and_values(backend, delete_oldest_on_postgres(app_id, due), values))
        }
        DbBackend::Sqlite => {
            let oldest = Entity::find()
                .select_only()
                .column(Column::Id)
                .apply_if(app_id, |query, app_id| query.filter(COLUMN.app_id.eq(app_id.into_inner())));
            let oldest = match due {
                Due::Created(_) => {
                    oldest.filter(COLUMN.created_at.lt(before)).order_by_asc(Column::CreatedAt)
                }
                Due::Settled(_) => oldest
                    .filter(COLUMN.resolved_at.lt(before))
                    .filter(Column::Resolution.into_expr().is_in(SETTLED.map(inline)))
                    // Its index's own condition, which SQLite does not infer.
                    .filter(Column::Resolution.into_expr().ne(inline(HandlerFailed)))
                    .order_by_asc(Column::ResolvedAt),
            };
            let oldest = oldest.limit(limit).into_query();
            Ok(Entity::delete_many().filter(Column::Id.in_subquery(oldest)).build(backend))
        }
        other => Err(DbErr::BackendNotSupported {
            db: other.as_str(),
            ctx: "gc runs on PostgreSQL and SQLite only",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mysql_is_refused_by_name() {
        let refusal = delete_oldest(DbBackend::MySql, None, Due::Created(Utc::now()), 1)
            .map_err(|error| error.to_string());
        assert_eq!(
            refusal,
            Err("Operation not supported by backend MySql: gc runs on PostgreSQL and SQLite only".to_owned())
        );
    }
}
