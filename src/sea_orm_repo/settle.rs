//! Resolves letters, one or many, and reopens them.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, FromQueryResult,
    Iterable, JoinType, QueryFilter, QueryResult, QueryTrait, Statement, UpdateMany,
    prelude::DateTimeWithTimeZone,
    sea_query::{
        Asterisk, CommonTableExpression, Expr, ExprTrait, Func, Order, Query, ReturningClause,
        SelectStatement, SubQueryStatement, Value, WithClause,
    },
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    bytes::{MAX_BYTES, row_bytes},
    cached_sql::CachedSql,
    conditions::{
        check, is_any_of, is_any_of_ids, is_before, is_from, is_of_app, is_of_state, is_open, is_row,
        is_truncated, narrow,
    },
    connection::RepoConnection,
    convert::{self, Row, Summary},
    dialect::Dialect,
    hidden_limits::{shown, with_hidden_limits},
    in_range,
    parts::{Part, by_time, conditions, first, first_locked},
    scan::{Place, to_tuple},
};
use crate::{
    AppId, Attribution, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterState, Resolution,
    Resolved, StoredLetter,
};

const BULK_LIMITS: RangeInclusive<u32> = 1..=1_000;
/// The most attempts at a row that other clients reopen and resolve between two statements. Attempts are bounded,
/// because a trigger or a policy can hide the row from the UPDATE but not from the SELECT.
const ATTEMPTS: usize = 3;

impl<C: RepoConnection> SeaOrmDeadLetterRepo<C> {
    pub(super) async fn settle(&self, id: DeadLetterId, reason: &str) -> Result<(), DeadLetterRepoError> {
        static SETTLE: CachedSql = CachedSql::new();
        let resolution: Resolution = reason.parse()?;
        let dialect = self.dialect()?;
        if dialect == Dialect::Sharded {
            return self.settle_where_it_is(id, resolution).await;
        }
        let null = || Value::String(None);
        let values = [resolution.as_str().into(), null(), null(), Value::Uuid(None), id.into_inner().into()];
        let settle = SETTLE.with(dialect, values, || {
            settle(dialect, resolution, &Attribution::default(), None)
                .filter(COLUMN.id.eq(id.into_inner()))
                .into_query()
        });
        if self.db.execute_raw(settle).await?.rows_affected() == 0 {
            return Err(DeadLetterRepoError::NotFound(id));
        }
        Ok(())
    }

    /// Finds the letter's app first. Without the app the UPDATE would hold a lock on every shard.
    async fn settle_where_it_is(
        &self,
        id: DeadLetterId,
        resolution: Resolution,
    ) -> Result<(), DeadLetterRepoError> {
        let app_id = self.find_app(id).await?.ok_or(DeadLetterRepoError::NotFound(id))?;
        let settled = settle(Dialect::Sharded, resolution, &Attribution::default(), None)
            .filter(is_row(app_id, id))
            .exec(&self.db)
            .await?;
        if settled.rows_affected == 0 {
            return Err(DeadLetterRepoError::NotFound(id));
        }
        Ok(())
    }

    pub(super) async fn settle_once<R: Returned>(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        resolution: Resolution,
        attribution: &Attribution,
    ) -> Result<R, DeadLetterRepoError> {
        let dialect = self.dialect()?;
        for _ in 0..ATTEMPTS {
            let mut update = settle(dialect, resolution, attribution, None)
                .filter(is_row(app_id, id))
                .filter(is_open())
                .into_query();
            update.returning(R::returning());
            if let Some(row) = R::find_by_statement(dialect.build(&update)).one(&self.db).await? {
                return Ok(row);
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
                // Another client reopened the letter after the UPDATE, so the loop tries again.
                _ => {}
            }
        }
        Err(DbErr::RecordNotUpdated.into())
    }

    pub(super) async fn settle_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        resolution: Resolution,
        attribution: &Attribution,
        limit: u32,
    ) -> Result<Resolved, DeadLetterRepoError> {
        let bulk = Bulk::new(self, app_id, filter, resolution, attribution, limit)?;
        let (rows, skipped) = bulk.settle(&self.db).await?;
        let mut ids = Vec::with_capacity(rows.len());
        for row in rows {
            ids.push((
                row.try_get::<DateTimeWithTimeZone>("", "created_at")?,
                row.try_get::<Uuid>("", "id")?,
            ));
        }
        ids.sort();
        let ids: Vec<_> = ids.into_iter().map(|(_, id)| id.into()).collect();
        let more = ids.len() == limit as usize;
        Ok(Resolved { ids, more, skipped_locked: skipped })
    }

    pub(super) async fn unsettle(&self, app_id: AppId, id: DeadLetterId) -> Result<(), DeadLetterRepoError> {
        for _ in 0..ATTEMPTS {
            let reopened = Entity::update_many()
                .col_expr(Column::Resolution, None::<String>.into())
                .col_expr(Column::ResolvedAt, None::<DateTime<Utc>>.into())
                .col_expr(Column::ResolvedBy, None::<String>.into())
                .col_expr(Column::ResolutionNote, None::<String>.into())
                .col_expr(Column::RunId, None::<Uuid>.into())
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
            // Another client resolved the letter after the UPDATE, so the loop tries again.
        }
        Err(DbErr::RecordNotUpdated.into())
    }
}

/// Returns the UPDATE that resolves letters at the database's time. The caller adds the condition.
fn settle(
    dialect: Dialect,
    resolution: Resolution,
    attribution: &Attribution,
    run_id: Option<Uuid>,
) -> UpdateMany<Entity> {
    let text = |text: &Option<String>| Expr::from(text.clone().map(convert::without_nul));
    Entity::update_many()
        .col_expr(Column::Resolution, resolution.as_str().into())
        .col_expr(Column::ResolvedAt, dialect.now())
        .col_expr(Column::ResolvedBy, text(&attribution.by))
        .col_expr(Column::ResolutionNote, text(&attribution.note))
        .col_expr(Column::RunId, run_id.into())
}

/// A row that an update returns, as it is after the update.
pub(super) trait Returned: FromQueryResult + Send {
    /// Returns what the update returns of each row.
    fn returning() -> ReturningClause;
}

impl Returned for Row {
    fn returning() -> ReturningClause {
        Query::returning().columns(Column::iter())
    }
}

impl Returned for Summary {
    fn returning() -> ReturningClause {
        Self::returning()
    }
}

/// A bulk call: the open letters that it may resolve, and their resolution.
pub(super) struct Bulk<'a> {
    app_id: AppId,
    filter: &'a DeadLetterFilter,
    resolution: Resolution,
    attribution: &'a Attribution,
    limit: u32,
    dialect: Dialect,
    /// The run that the resolution belongs to.
    pub(super) run_id: Option<Uuid>,
    /// Selects only letters behind this place.
    pub(super) after: Option<Place>,
    /// Selects only letters whose payload is the whole event.
    pub(super) whole_only: bool,
}

/// Letters that a transaction has locked and is about to resolve, oldest first.
#[derive(Default)]
pub(super) struct Picked {
    pub(super) places: Vec<Place>,
    /// Whether there may be more letters behind these.
    pub(super) more: bool,
    /// Whether another transaction has locked letters before the last of these, or behind it if there are no more.
    pub(super) skipped: bool,
}

impl<'a> Bulk<'a> {
    pub(super) fn new<C: RepoConnection>(
        repo: &SeaOrmDeadLetterRepo<C>,
        app_id: AppId,
        filter: &'a DeadLetterFilter,
        resolution: Resolution,
        attribution: &'a Attribution,
        limit: u32,
    ) -> Result<Self, DeadLetterRepoError> {
        check(filter)?;
        if filter.created_before.is_none() && filter.ids.is_none() {
            return Err(DeadLetterRepoError::MissingCreatedBefore);
        }
        let limit = in_range("limit", limit, BULK_LIMITS)?;
        Ok(Self {
            app_id,
            filter,
            resolution,
            attribution,
            limit,
            dialect: repo.dialect()?,
            run_id: None,
            after: None,
            whole_only: false,
        })
    }

    /// Returns a condition for each index that finds letters that may get this resolution. Returns none if the
    /// filter's state has no such letter.
    fn conditions(&self) -> Vec<Condition> {
        let target = match self.resolution {
            // If `handler_failed` letters could get this resolution again, every batch would pick the same oldest
            // letters and never reach the rest.
            Resolution::HandlerFailed => DeadLetterState::Unresolved,
            _ => DeadLetterState::Open,
        };
        let of_app = is_of_app(self.app_id, self.filter, self.dialect)
            // The place implies this condition, and SQLite's index search has one condition on each side.
            .add_option(self.filter.created_from.filter(|_| self.after.is_none()).map(is_from))
            .add_option(
                self.after.map(|after| Expr::tuple(PLACE.map(ColumnTrait::into_expr)).gt(to_tuple(after))),
            )
            .add_option(self.filter.created_before.map(is_before));
        let matching = narrow(of_app, self.filter, self.dialect)
            .add_option(self.whole_only.then(|| is_truncated().not()));
        if self.filter.ids.is_some() {
            let matching = matching.add_option(is_of_state(target));
            return vec![matching.add_option(is_of_state(self.filter.effective_state()))];
        }
        let of_state = Part::of(self.filter.effective_state());
        let of_target = Part::of(target).iter().copied();
        let parts: Vec<_> =
            of_target.filter(|part| of_state.contains(part) || of_state == [Part::All]).collect();
        conditions(&parts, &matching)
    }

    /// Resolves the oldest letters. Returns each row's place, and on PostgreSQL whether rows were skipped.
    async fn settle(&self, db: &impl ConnectionTrait) -> Result<(Vec<QueryResult>, bool), DbErr> {
        let conditions = self.conditions();
        if conditions.is_empty() {
            return Ok((Vec::new(), false));
        }
        if self.dialect == Dialect::Sqlite {
            let oldest = self.oldest(conditions, &places());
            let oldest = Query::select().column(Column::Id).from_subquery(oldest, "oldest").take();
            let mut settle = settle(self.dialect, self.resolution, self.attribution, self.run_id)
                .filter(Column::Id.in_subquery(oldest))
                .into_query();
            settle.returning(Query::returning().columns(PLACE));
            return Ok((db.query_all_raw(with_hidden_limits(self.dialect, &settle)).await?, false));
        }
        let mut rows = db.query_all_raw(self.settle_on_postgres(conditions)).await?;
        let skipped = rows.first().map_or(Ok(false), |row| row.try_get("", SKIPPED))?;
        if let [row] = rows.as_slice() {
            // If no letter was resolved, the only row shows whether rows were skipped.
            if row.try_get::<Option<Uuid>>("", "id")?.is_none() {
                rows.clear();
            }
        }
        Ok((rows, skipped))
    }

    /// Locks the oldest letters that may be resolved, up to the limit and to [`MAX_BYTES`] of text, but at least
    /// one.
    pub(super) async fn pick(&self, txn: &DatabaseTransaction) -> Result<Picked, DbErr> {
        let conditions = self.conditions();
        let mut picked = Picked::default();
        if conditions.is_empty() {
            return Ok(picked);
        }
        let oldest = self.oldest(conditions.clone(), &places().expr_as(row_bytes(), BYTES).take());
        let oldest = match self.dialect {
            Dialect::Sqlite => with_hidden_limits(self.dialect, &oldest),
            _ => self.pick_on_postgres(&conditions, oldest),
        };
        let mut bytes = 0;
        for row in txn.query_all_raw(oldest).await? {
            if self.dialect != Dialect::Sqlite {
                picked.skipped = row.try_get("", SKIPPED)?;
            }
            // On PostgreSQL, a row without a letter only shows whether rows were skipped.
            let Some(id) = row.try_get::<Option<Uuid>>("", "id")? else { break };
            bytes += u64::try_from(row.try_get::<i64>("", BYTES)?).unwrap_or_default();
            if bytes > MAX_BYTES && !picked.places.is_empty() {
                picked.more = true;
                break;
            }
            let time: DateTimeWithTimeZone = row.try_get("", "created_at")?;
            picked.places.push((time.to_utc(), id.into()));
        }
        picked.more |= picked.places.len() == self.limit as usize;
        Ok(picked)
    }

    /// Resolves the picked letters, and returns each as it is afterwards, oldest first.
    pub(super) async fn settle_picked(
        &self,
        txn: &DatabaseTransaction,
        picked: &Picked,
    ) -> Result<Vec<StoredLetter>, DbErr> {
        let ids: Vec<_> = picked.places.iter().map(|&(_, id)| id).collect();
        let app = self.dialect.shard(self.app_id).map(|app_id| COLUMN.app_id.eq(app_id.into_inner()));
        let is_picked = Condition::all().add(is_any_of_ids(&ids, self.dialect)).add_option(app);
        let mut update = settle(self.dialect, self.resolution, self.attribution, self.run_id)
            .filter(is_picked)
            .into_query();
        update.returning(Row::returning());
        let rows = Row::find_by_statement(self.dialect.build(&update)).all(txn).await?;
        let mut letters: Vec<StoredLetter> = rows.into_iter().map(Into::into).collect();
        // RETURNING has no order.
        letters.sort_by_key(|letter| (letter.created_at, letter.id));
        Ok(letters)
    }

    /// Selects and locks the oldest rows up to the limit. `columns` must select the columns of the place.
    fn oldest(&self, conditions: Vec<Condition>, columns: &SelectStatement) -> SelectStatement {
        let oldest_first = by_time(Column::CreatedAt, Order::Asc);
        first_locked(self.dialect, conditions, &oldest_first, self.limit.into(), columns)
    }

    /// Selects the place of the oldest matching letter that is not picked.
    fn other(&self, conditions: &[Condition]) -> SelectStatement {
        let picked = || Query::select().column(Column::Id).from(PICKED).take();
        let others = conditions.iter().cloned();
        let others = others.map(|condition| condition.add(Column::Id.not_in_subquery(picked()))).collect();
        first(self.dialect, others, &by_time(Column::CreatedAt, Order::Asc), 1, &places())
    }

    fn is_below_limit(&self) -> Expr {
        let picked = Query::select().expr(Func::count(Expr::col(Asterisk))).from(PICKED).take();
        Expr::from(picked).lt(Expr::val(i64::from(self.limit)))
    }

    /// Returns a statement that picks letters, and also finds whether it skipped any.
    fn pick_on_postgres(&self, conditions: &[Condition], oldest: SelectStatement) -> Statement {
        let last = Query::select()
            .columns(PLACE)
            .from(PICKED)
            .order_by(Column::CreatedAt, Order::Desc)
            .order_by(Column::Id, Order::Desc)
            .limit(shown(1))
            .take();
        let is_before_last = Expr::tuple(PLACE.map(|column| Expr::col((OTHER, column)))).lt(last);
        let skipped = Query::select()
            .expr(Expr::Constant(1.into()))
            .from_subquery(self.other(conditions), OTHER)
            .cond_where(Condition::any().add(self.is_below_limit()).add(is_before_last))
            .take();
        let picked =
            CommonTableExpression::new().table_name(PICKED).query(oldest).materialized(true).to_owned();
        let picked = Query::select()
            .column((PICKED, Asterisk))
            .column((OUTCOME, SKIPPED))
            .from_subquery(Query::select().expr_as(Expr::exists(skipped), SKIPPED).take(), OUTCOME)
            .join(JoinType::LeftJoin, PICKED, Condition::all().add(Expr::Constant(true.into())))
            .order_by((PICKED, Column::CreatedAt), Order::Asc)
            .order_by((PICKED, Column::Id), Order::Asc)
            .with_cte(WithClause::new().cte(picked).to_owned())
            .take();
        with_hidden_limits(self.dialect, &picked)
    }

    /// Returns a statement that resolves letters, and also finds whether it skipped any: letters that its snapshot
    /// has and that it did not lock.
    fn settle_on_postgres(&self, conditions: Vec<Condition>) -> Statement {
        let ids_of = |table: &'static str| Query::select().column(Column::Id).from(table).take();
        // PostgreSQL runs the subquery of `= ANY (ARRAY(…))` once, whatever the plan.
        let is_picked = match self.dialect.shard(self.app_id) {
            Some(app_id) => is_any_of(ids_of(PICKED)).and(COLUMN.app_id.eq(app_id.into_inner())),
            // With the app, PostgreSQL would read all rows of an app that is new since the last ANALYZE.
            None => is_any_of(ids_of(PICKED)),
        };
        let mut update = settle(self.dialect, self.resolution, self.attribution, self.run_id)
            .filter(is_picked)
            .into_query();
        update.returning(Query::returning().columns(PLACE));

        let other = Query::select().column(Column::Id).from_subquery(self.other(&conditions), OTHER).take();
        let has_other = self.is_below_limit().and(Expr::from(other).is_not_null());

        let cte = |name: &'static str, query: SubQueryStatement| {
            CommonTableExpression::new().table_name(name).query(query).to_owned()
        };
        let mut with = WithClause::new();
        with.cte(cte(PICKED, self.oldest(conditions, &places()).into()).materialized(true).to_owned());
        with.cte(cte(SETTLED, update.into()));
        let settle = Query::select()
            .column((SETTLED, Asterisk))
            .column((OUTCOME, SKIPPED))
            .from_subquery(Query::select().expr_as(has_other, SKIPPED).take(), OUTCOME)
            .join(JoinType::LeftJoin, SETTLED, Condition::all().add(Expr::Constant(true.into())))
            .with_cte(with)
            .take();
        with_hidden_limits(self.dialect, &settle)
    }
}

/// The columns that order letters, oldest first.
const PLACE: [Column; 2] = [Column::CreatedAt, Column::Id];

fn places() -> SelectStatement {
    Query::select().columns(PLACE).take()
}

const BYTES: &str = "bytes";
const OTHER: &str = "other";
const OUTCOME: &str = "outcome";
const PICKED: &str = "picked";
const SETTLED: &str = "settled";
const SKIPPED: &str = "skipped";
