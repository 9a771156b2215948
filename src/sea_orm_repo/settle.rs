//! Settling rows, one and many, and taking that back.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait, Statement, UpdateMany,
    prelude::DateTimeWithTimeZone,
    sea_query::{
        CommonTableExpression, Expr, ExprTrait, LockBehavior, LockType, Query, ReturningClause, Value,
        WithClause,
    },
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    conditions::{
        check, is_any_of, is_before, is_from, is_of_app, is_of_state_within, is_open, is_row, narrow,
    },
    connection::RepoConnection,
    convert, in_range,
    text::{Text, with_literal_limits},
};
use crate::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterRow, DeadLetterState, Resolution,
    Settled, Settlement, time::to_microseconds,
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
        let now = to_microseconds(Utc::now());
        let null = || Value::String(None);
        let values = [resolution.into(), now.into(), null(), null(), id.into_inner().into()];
        let settle = SETTLE.with(self.db.get_database_backend(), values, || {
            settle(&settlement).filter(COLUMN.id.eq(id.into_inner())).into_query()
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
        let settled = settle(settlement).filter(is_row(app_id, id)).exec(&self.db).await?;
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
        for _ in 0..ATTEMPTS {
            let update = settle(settlement).filter(is_row(app_id, id)).filter(is_open());
            if let Some(row) = update.exec_with_returning(&self.db).await?.pop() {
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
        let bulk = Bulk::new(app_id, filter, settlement, limit, self.sharded)?;
        let returning = Query::returning().columns([Column::CreatedAt, Column::Id]);
        let rows = self.db.query_all_raw(bulk.settle(self.db.get_database_backend(), returning)).await?;
        let mut ids = Vec::with_capacity(rows.len());
        for row in rows {
            ids.push((
                row.try_get::<DateTimeWithTimeZone>("", "created_at")?,
                row.try_get::<Uuid>("", "id")?,
            ));
        }
        ids.sort();
        bulk.settled(&self.db, ids.into_iter().map(|(_, id)| id.into()).collect()).await
    }

    pub(super) async fn unsettle(&self, app_id: AppId, id: DeadLetterId) -> Result<(), DeadLetterRepoError> {
        for _ in 0..ATTEMPTS {
            let reopened = Entity::update_many()
                .col_expr(Column::Resolution, None::<String>.into())
                .col_expr(Column::ResolvedAt, None::<DateTime<Utc>>.into())
                .col_expr(Column::ResolvedBy, None::<String>.into())
                .col_expr(Column::ResolutionNote, None::<String>.into())
                .filter(is_row(app_id, id))
                // Of `resolved_at` it would be the index of all that is resolved.
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

/// The update that settles; what it settles is for the caller to filter.
fn settle(settlement: &Settlement) -> UpdateMany<Entity> {
    let text = |text: &Option<String>| Expr::from(text.clone().map(convert::without_nul));
    Entity::update_many()
        .col_expr(Column::Resolution, settlement.resolution.as_str().into())
        .col_expr(Column::ResolvedAt, to_microseconds(Utc::now()).into())
        .col_expr(Column::ResolvedBy, text(&settlement.by))
        .col_expr(Column::ResolutionNote, text(&settlement.note))
}

/// The open rows that a bulk call is about, and what becomes of them.
pub(super) struct Bulk<'a> {
    app_id: AppId,
    filter: &'a DeadLetterFilter,
    settlement: &'a Settlement,
    limit: u32,
    sharded: bool,
}

impl<'a> Bulk<'a> {
    pub(super) fn new(
        app_id: AppId,
        filter: &'a DeadLetterFilter,
        settlement: &'a Settlement,
        limit: u32,
        sharded: bool,
    ) -> Result<Self, DeadLetterRepoError> {
        check(filter)?;
        if filter.created_before.is_none() && filter.ids.is_none() {
            return Err(DeadLetterRepoError::MissingCreatedBefore);
        }
        Ok(Self { app_id, filter, settlement, limit: in_range("limit", limit, BULK_LIMITS)?, sharded })
    }

    fn condition(&self, backend: DbBackend) -> Condition {
        let target = match self.settlement.resolution {
            // Else the oldest would be settled so for ever, and the others never.
            Resolution::HandlerFailed => DeadLetterState::Unresolved,
            _ => DeadLetterState::Open,
        };
        // A wider state would lead both backends to a wider index.
        let narrower = match self.filter.state {
            DeadLetterState::Open | DeadLetterState::Any => None,
            state => is_of_state_within(self.filter, state),
        };
        let of_app = is_of_app(self.app_id, self.filter, backend, self.sharded)
            .add_option(self.filter.created_from.map(is_from))
            .add_option(self.filter.created_before.map(is_before));
        narrow(of_app, self.filter, backend, self.sharded)
            .add_option(is_of_state_within(self.filter, target))
            .add_option(narrower)
    }

    /// Settles the oldest. They are picked in a CTE that is MATERIALIZED, so that no plan picks twice.
    pub(super) fn settle(&self, backend: DbBackend, returning: ReturningClause) -> Statement {
        let oldest = Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(self.condition(backend))
            .order_by_asc(Column::CreatedAt)
            .order_by_asc(Column::Id)
            .limit(u64::from(self.limit))
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .into_query();
        let oldest =
            CommonTableExpression::new().table_name("oldest").query(oldest).materialized(true).to_owned();
        let picked = Query::select().column(Column::Id).from("oldest").take();
        let is_picked = match self.sharded {
            true => is_any_of(picked).and(COLUMN.app_id.eq(self.app_id.into_inner())),
            // Without the app: of one that is new since the last ANALYZE PostgreSQL would read all rows.
            false => Column::Id.in_subquery(picked),
        };
        let mut update = settle(self.settlement).filter(is_picked).into_query();
        let update = update.returning(returning).take().with(WithClause::new().cte(oldest).to_owned());
        with_literal_limits(backend, &update)
    }

    /// What came of it.
    pub(super) async fn settled(
        &self,
        db: &impl ConnectionTrait,
        ids: Vec<DeadLetterId>,
    ) -> Result<Settled, DeadLetterRepoError> {
        let more = ids.len() == self.limit as usize;
        // Below the limit, whatever is left had been passed over.
        let held = !more && db.get_database_backend() == DbBackend::Postgres && self.is_any_left(db).await?;
        Ok(Settled { ids, more, held })
    }

    /// Not by `exists`, which has no LIMIT: it was planned to fetch them all. And in an index's order, since
    /// the whole table was read without.
    async fn is_any_left(&self, db: &impl ConnectionTrait) -> Result<bool, DeadLetterRepoError> {
        let left = Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(self.condition(db.get_database_backend()))
            .order_by_asc(Column::CreatedAt)
            .order_by_asc(Column::Id)
            .into_tuple::<Uuid>()
            .one(db)
            .await?;
        Ok(left.is_some())
    }
}
