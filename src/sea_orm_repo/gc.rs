//! The sweep. Why deleting this way is safe:
//!
//! - **Never more than `limit`.** `ARRAY(SELECT … LIMIT n)` is an InitPlan: it runs once. The usual `id IN (SELECT … LIMIT n FOR
//!   UPDATE SKIP LOCKED)` may be planned as the inner side of a nested loop, runs once a row, locks the next n each
//!   time, and deletes everything; stale statistics are enough, every setting at its default.
//! - **Nothing younger.** Condition, order and limit all stand inside the subquery. A row that changed meanwhile is
//!   locked and checked again (READ COMMITTED), and `created_at` is never updated.
//! - **Nobody waits.** SKIP LOCKED passes over rows that another transaction holds: two sweepers share the work, a row being
//!   resolved stays for the next sweep.
//! - **The listing's plan is left alone.** The filter is on the expression that only gc's index has.
//!
//! SQLite has one writer and no row locks; there the same delete is an ordinary statement.

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, DbBackend, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Statement,
};

const DELETE_OLDEST: &str = "\
DELETE FROM dead_letters WHERE id = ANY(ARRAY(\
SELECT id FROM dead_letters \
WHERE created_at AT TIME ZONE 'UTC' < $1 AT TIME ZONE 'UTC' \
ORDER BY created_at AT TIME ZONE 'UTC' \
LIMIT $2 \
FOR UPDATE SKIP LOCKED))";

pub(super) fn delete_oldest(
    backend: DbBackend,
    older_than: DateTime<Utc>,
    limit: u64,
) -> Result<Statement, DbErr> {
    match backend {
        DbBackend::Postgres => {
            Ok(Statement::from_sql_and_values(backend, DELETE_OLDEST, [older_than.into(), limit.into()]))
        }
        DbBackend::Sqlite => {
            let oldest = Entity::find()
                .select_only()
                .column(Column::Id)
                .filter(COLUMN.created_at.lt(older_than))
                .order_by_asc(Column::CreatedAt)
                .limit(limit)
                .into_query();
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
        let refusal = delete_oldest(DbBackend::MySql, Utc::now(), 1).map_err(|error| error.to_string());
        assert_eq!(
            refusal,
            Err("Operation not supported by backend MySql: gc runs on PostgreSQL and SQLite only".to_owned())
        );
    }
}
