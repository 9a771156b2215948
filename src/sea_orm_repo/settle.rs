//! Settling rows, one and many, and taking that back.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, DbErr, EntityTrait, FromQueryResult, Iterable,
    JoinType, QueryFilter, QueryResult, QueryTrait, Statement, UpdateMany,
    prelude::DateTimeWithTimeZone,
    sea_query::{
        Asterisk, CommonTableExpression, Expr, ExprTrait, Func, Order, Query, SelectStatement,
        SubQueryStatement, Value, WithClause,
    },
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    conditions::{
        check, is_any_of, is_before, is_from, is_of_app, is_of_state, is_open, is_row, narrow, now,
    },
    connection::RepoConnection,
    convert, in_range,
    parts::{Part, by_time, conditions, first, first_locked},
    text::{Text, with_hidden_limits},
};
use crate::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterRow, DeadLetterState, Resolution,
    Settled, Settlement,
};

const BULK_LIMITS: RangeInclusive<u32> = 1..=1_000;
/// At a row that others open and settle between our statements; bounded, since a trigger or a policy can hide
/// it from the update alone.
const ATTEMPTS: usize = 3;

impl<C: RepoConnection> SeaOrmDeadLetterRepo<C> {
    pub(super) async fn settle(&self, id: DeadLetterId, reason: &str) -> Result<(), DeadLetterRepoError> {
        static SETTLE: Text = Text::new();
        let settlement = Settlement { resolution: reason.parse()?, by: None, note: None };
        if self.sharded {
            return self.settle_where_it_is(id, &settlement).await;
        }
        let resolution = settlement.resolution.as_str();
        let null = || Value::String(None);
        let values = [resolution.into(), null(), null(), id.into_inner().into()];
        let backend = self.db.get_database_backend();
        let settle = SETTLE.with(backend, values, || {
            settle(backend, &settlement).filter(COLUMN.id.eq(id.into_inner())).into_query()
        });
        if self.db.execute_raw(settle).await?.rows_affected() == 0 {
            return Err(DeadLetterRepoError::NotFound(id));
        }
        Ok(())
    }

    /// Without the app the update would hold a lock on every shard.
    async fn settle_where_it_is(
        &self,
        id: DeadLetterId,
        settlement: &Settlement,
    ) -> Result<(), DeadLetterRepoError> {
        let app_id = self.find_app(id).await?.ok_or(DeadLetterRepoError::NotFound(id))?;
        let settled =
            settle(DbBackend::Postgres, settlement).filter(is_row(app_id, id)).exec(&self.db).await?;
        if settled.rows_affected == 0 {
            return Err(DeadLetterRepoError::NotFound(id));
        }
        Ok(())
    }

    pub(super) async fn settle_once(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        settlement: &Settlement,
    ) -> Result<DeadLetterRow, DeadLetterRepoError> {
        let backend = self.db.get_database_backend();
        for _ in 0..ATTEMPTS {
            let update = settle(backend, settlement).filter(is_row(app_id, id)).filter(is_open());
            let mut update = update.into_query();
            update.returning(Query::returning().columns(Column::iter()));
            let settled = convert::Row::find_by_statement(backend.build(&update)).one(&self.db).await?;
            if let Some(row) = settled {
                return Ok(row.into());
            }
            let row = self.find_in_app(app_id, id).await?.ok_or(DeadLetterRepoError::NotFound(id))?;
            match row.resolved_at {
                Some(resolved_at) if row.resolution != Some(Resolution::HandlerFailed) => {
                    return Err(DeadLetterRepoError::AlreadyResolved {
                        id,
                        resolution: row.resolution,
                        resolved_at,
                        by: row.resolved_by,
                    });
                }
                // Opened since the update: so try again.
                _ => {}
            }
        }
        Err(DbErr::RecordNotUpdated.into())
    }

    pub(super) async fn settle_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        settlement: &Settlement,
        limit: u32,
    ) -> Result<Settled, DeadLetterRepoError> {
        let bulk = Bulk::new(self, app_id, filter, settlement, limit)?;
        let (rows, skipped) = bulk.settle(&self.db, &[Column::CreatedAt, Column::Id]).await?;
        let mut ids = Vec::with_capacity(rows.len());
        for row in rows {
            ids.push((
                row.try_get::<DateTimeWithTimeZone>("", "created_at")?,
                row.try_get::<Uuid>("", "id")?,
            ));
        }
        ids.sort();
        Ok(bulk.settled(ids.into_iter().map(|(_, id)| id.into()).collect(), skipped))
    }

    pub(super) async fn unsettle(&self, app_id: AppId, id: DeadLetterId) -> Result<(), DeadLetterRepoError> {
        for _ in 0..ATTEMPTS {
            let reopened = Entity::update_many()
                .col_expr(Column::Resolution, None::<String>.into())
                .col_expr(Column::ResolvedAt, None::<DateTime<Utc>>.into())
                .col_expr(Column::ResolvedBy, None::<String>.into())
                .col_expr(Column::ResolutionNote, None::<String>.into())
                .filter(is_row(app_id, id))
                .filter(COLUMN.resolution.is_not_null())
                .exec(&self.db)
                .await?;
            if reopened.rows_affected > 0 {
                return Ok(());
            }
            let row = self.find_in_app(app_id, id).await?.ok_or(DeadLetterRepoError::NotFound(id))?;
            if row.resolved_at.is_none() {
                return Err(DeadLetterRepoError::NotResolved(id));
            }
            // Resolved since the update: so try again.
        }
        Err(DbErr::RecordNotUpdated.into())
    }
}

/// The update that settles, at the database's time; what it settles is for the caller to filter.
fn settle(backend: DbBackend, settlement: &Settlement) -> UpdateMany<Entity> {
    let text = |text: &Option<String>| Expr::from(text.clone().map(convert::without_nul));
    Entity::update_many()
        .col_expr(Column::Resolution, settlement.resolution.as_str().into())
        .col_expr(Column::ResolvedAt, now(backend))
        .col_expr(Column::ResolvedBy, text(&settlement.by))
        .col_expr(Column::ResolutionNote, text(&settlement.note))
}

/// The open rows that a bulk call is about, and what becomes of them.
pub(super) struct Bulk<'a> {
    app_id: AppId,
    filter: &'a DeadLetterFilter,
    settlement: &'a Settlement,
    limit: u32,
    backend: DbBackend,
    sharded: bool,
}

impl<'a> Bulk<'a> {
    pub(super) fn new<C: RepoConnection>(
        repo: &SeaOrmDeadLetterRepo<C>,
        app_id: AppId,
        filter: &'a DeadLetterFilter,
        settlement: &'a Settlement,
        limit: u32,
    ) -> Result<Self, DeadLetterRepoError> {
        check(filter)?;
        if filter.created_before.is_none() && filter.ids.is_none() {
            return Err(DeadLetterRepoError::MissingCreatedBefore);
        }
        let limit = in_range("limit", limit, BULK_LIMITS)?;
        let (backend, sharded) = (repo.db.get_database_backend(), repo.sharded);
        Ok(Self { app_id, filter, settlement, limit, backend, sharded })
    }

    /// The rows that may be settled so, by the indexes that find them. None where the filter's state has no such row.
    fn conditions(&self) -> Vec<Condition> {
        let target = match self.settlement.resolution {
            // Each batch would pick the same oldest rows again, and never reach the others.
            Resolution::HandlerFailed => DeadLetterState::Unresolved,
            _ => DeadLetterState::Open,
        };
        let of_app = is_of_app(self.app_id, self.filter, self.backend, self.sharded)
            .add_option(self.filter.created_from.map(is_from))
            .add_option(self.filter.created_before.map(is_before));
        let matching = narrow(of_app, self.filter, self.backend, self.sharded);
        if self.filter.ids.is_some() {
            let matching = matching.add_option(is_of_state(target));
            return vec![matching.add_option(is_of_state(self.filter.state))];
        }
        let of_state = Part::of(self.filter.state);
        let of_target = Part::of(target).iter().copied();
        let parts: Vec<_> =
            of_target.filter(|part| of_state.contains(part) || of_state == [Part::All]).collect();
        conditions(&parts, &matching)
    }

    /// Settles the oldest, and returns these columns of each row, and on PostgreSQL whether rows were skipped.
    pub(super) async fn settle(
        &self,
        db: &impl ConnectionTrait,
        columns: &[Column],
    ) -> Result<(Vec<QueryResult>, bool), DbErr> {
        let conditions = self.conditions();
        if conditions.is_empty() {
            return Ok((Vec::new(), false));
        }
        if self.backend == DbBackend::Sqlite {
            let oldest = self.oldest(conditions);
            let oldest = Query::select().column(Column::Id).from_subquery(oldest, "oldest").take();
            let mut settle =
                settle(self.backend, self.settlement).filter(Column::Id.in_subquery(oldest)).into_query();
            settle.returning(Query::returning().columns(columns.iter().copied()));
            return Ok((db.query_all_raw(with_hidden_limits(self.backend, &settle)).await?, false));
        }
        let mut rows = db.query_all_raw(self.settle_on_postgres(conditions, columns)).await?;
        let skipped = rows.first().map_or(Ok(false), |row| row.try_get("", SKIPPED))?;
        if let [row] = rows.as_slice() {
            // No row was settled: this one says whether rows were skipped.
            if row.try_get::<Option<Uuid>>("", "id")?.is_none() {
                rows.clear();
            }
        }
        Ok((rows, skipped))
    }

    fn oldest(&self, conditions: Vec<Condition>) -> SelectStatement {
        let place = Query::select().columns([Column::CreatedAt, Column::Id]).take();
        let oldest_first = by_time(Column::CreatedAt, Order::Asc);
        first_locked(self.backend, conditions, &oldest_first, self.limit.into(), &place)
    }

    /// One statement settles, and finds what it skipped: all that its snapshot shows and that it did not lock.
    fn settle_on_postgres(&self, conditions: Vec<Condition>, columns: &[Column]) -> Statement {
        let ids_of = |table: &'static str| Query::select().column(Column::Id).from(table).take();
        // `= ANY (ARRAY(…))` runs the subquery once, whatever the plan.
        let is_picked = match self.sharded {
            true => is_any_of(ids_of(PICKED)).and(COLUMN.app_id.eq(self.app_id.into_inner())),
            // Without the app: of one that is new since the last ANALYZE PostgreSQL would read all rows.
            false => is_any_of(ids_of(PICKED)),
        };
        let mut update = settle(self.backend, self.settlement).filter(is_picked).into_query();
        update.returning(Query::returning().columns(columns.iter().copied()));

        let others = conditions.iter().cloned();
        let others =
            others.map(|condition| condition.add(Column::Id.not_in_subquery(ids_of(PICKED)))).collect();
        let place = Query::select().columns([Column::CreatedAt, Column::Id]).take();
        let oldest_first = by_time(Column::CreatedAt, Order::Asc);
        let other = first(self.backend, others, &oldest_first, 1, &place);
        let other = Query::select().column(Column::Id).from_subquery(other, "other").take();
        let picked = Query::select().expr(Func::count(Expr::col(Asterisk))).from(PICKED).take();
        let has_other =
            Expr::from(picked).lt(Expr::val(i64::from(self.limit))).and(Expr::from(other).is_not_null());

        let cte = |name: &'static str, query: SubQueryStatement| {
            CommonTableExpression::new().table_name(name).query(query).to_owned()
        };
        let mut with = WithClause::new();
        with.cte(cte(PICKED, self.oldest(conditions).into()).materialized(true).to_owned());
        with.cte(cte(SETTLED, update.into()));
        let settle = Query::select()
            .column((SETTLED, Asterisk))
            .column(("outcome", SKIPPED))
            .from_subquery(Query::select().expr_as(has_other, SKIPPED).take(), "outcome")
            .join(JoinType::LeftJoin, SETTLED, Condition::all().add(Expr::Constant(true.into())))
            .with_cte(with)
            .take();
        with_hidden_limits(self.backend, &settle)
    }

    /// What came of it.
    pub(super) fn settled(&self, ids: Vec<DeadLetterId>, skipped: bool) -> Settled {
        let more = ids.len() == self.limit as usize;
        Settled { ids, more, held: skipped }
    }
}

const PICKED: &str = "picked";
const SETTLED: &str = "settled";
const SKIPPED: &str = "skipped";
