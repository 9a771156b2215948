//! The letters of a bulk call, which resolves, replays, reopens or deletes them.

use std::ops::RangeInclusive;

use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr, FromQueryResult, JoinType,
    QueryFilter, QueryResult, QueryTrait, Statement,
    prelude::DateTimeWithTimeZone,
    sea_query::{
        Asterisk, CommonTableExpression, DeleteStatement, Expr, ExprTrait, Func, Order, Query,
        SelectStatement, SubQueryStatement, UpdateStatement, WithClause,
    },
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    actions::{CHANGED, Entry, PICKED, PREVIOUS, Target, resolution_of},
    bytes::{MAX_BYTES, row_bytes},
    conditions::{
        check, is_any_of, is_any_of_ids, is_before, is_erased, is_from, is_not_replayed, is_of_app,
        is_of_app_by_id, is_of_state, is_resolved_within, is_row, is_true, is_truncated, narrow,
    },
    connection::{Connection, RepoConnection},
    convert::Row,
    dialect::Dialect,
    hidden_limits::{shown, with_hidden_limits},
    in_range,
    parts::{Part, by_time, conditions, first, first_locked},
    resolve::{Returned, reopen_rows, resolve_rows},
    scan::{Place, to_tuple},
    transaction,
};
use crate::{
    Action, AppId, Attribution, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterState,
    Resolution, StoredLetter,
};

const BULK_LIMITS: RangeInclusive<u32> = 1..=1_000;

/// The change that a bulk call makes to its letters.
#[derive(Clone, Copy)]
pub(super) enum Change<'a> {
    Resolve(Resolution, &'a Attribution),
    Reopen { include_replayed: bool, attribution: &'a Attribution },
    Delete(&'a Attribution),
}

/// The payloads that a bulk call takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Payloads {
    All,
    NotErased,
    /// Neither truncated nor erased.
    Whole,
}

/// A bulk call: the letters that it may change, and the change.
pub(super) struct Bulk<'a> {
    app_id: AppId,
    filter: &'a DeadLetterFilter,
    change: Change<'a>,
    pub(super) limit: u32,
    dialect: Dialect,
    /// Selects only letters behind this place.
    pub(super) after: Option<Place>,
    /// Selects only letters with such a payload.
    pub(super) payloads: Payloads,
}

/// The statement that changes letters.
enum Write {
    Update(UpdateStatement),
    Delete(DeleteStatement),
}

/// Returns whether the call selects closed letters, or `handler_failed` letters to reopen. [`order`](Bulk::order)
/// returns the column that sorts them.
fn by_closing(change: Change<'_>, filter: &DeadLetterFilter) -> bool {
    match change {
        Change::Resolve(..) => false,
        Change::Reopen { .. } => true,
        Change::Delete(_) => filter.effective_state() == DeadLetterState::Closed,
    }
}

/// Letters that a transaction has locked and is about to resolve, oldest first.
#[derive(Default)]
pub(super) struct Picked {
    pub(super) places: Vec<Place>,
    /// Whether there may be more letters behind these.
    pub(super) more: bool,
    /// Whether letters that another transaction has locked were skipped before the last of these. If there are fewer than
    /// the limit, skipped letters behind it count too.
    pub(super) skipped: bool,
    /// The resolution of the letter, if the call names one letter.
    previous: Option<String>,
}

/// The result of a call that resolves, reopens or deletes.
#[derive(Default)]
pub(super) struct Ran {
    /// The place of each letter that it changed.
    pub(super) rows: Vec<QueryResult>,
    /// Whether another call may change more.
    pub(super) more: bool,
    /// Whether letters are left that it could not change. On PostgreSQL alone.
    pub(super) skipped: bool,
}

impl<'a> Bulk<'a> {
    pub(super) fn new<C: RepoConnection>(
        repo: &SeaOrmDeadLetterRepo<C>,
        app_id: AppId,
        filter: &'a DeadLetterFilter,
        change: Change<'a>,
        limit: u32,
    ) -> Result<Self, DeadLetterRepoError> {
        check(filter)?;
        let resolved_only = match change {
            Change::Resolve(..) => false,
            Change::Reopen { .. } => true,
            Change::Delete(_) => filter.matches_resolved_only(),
        };
        let missing = match resolved_only {
            false if filter.created_before.is_none() => Some(DeadLetterRepoError::MissingCreatedBefore),
            true if filter.resolved_before.is_none() && filter.run_id.is_none() => {
                Some(DeadLetterRepoError::MissingResolvedBefore)
            }
            _ => None,
        };
        if let Some(missing) = missing.filter(|_| filter.ids.is_none()) {
            return Err(missing);
        }
        let limit = in_range("limit", limit, BULK_LIMITS)?;
        let (dialect, payloads) = (repo.dialect()?, Payloads::All);
        Ok(Self { app_id, filter, change, limit, dialect, after: None, payloads })
    }

    /// Returns a condition for each index that finds letters that may be changed so. Returns none if the filter's
    /// state has no such letter.
    fn conditions(&self) -> Vec<Condition> {
        match self.change {
            // If `handler_failed` letters could get this resolution again, every batch would pick the same oldest
            // letters and never reach the rest.
            Change::Resolve(Resolution::HandlerFailed, _) => self.by_creation(DeadLetterState::Unresolved),
            Change::Resolve(..) => self.by_creation(DeadLetterState::Open),
            Change::Reopen { include_replayed, .. } => self.by_closing(include_replayed),
            Change::Delete(_) if by_closing(self.change, self.filter) => self.by_closing(true),
            Change::Delete(_) => self.by_creation(DeadLetterState::Any),
        }
    }

    /// Returns the conditions of letters in this state that match.
    fn by_creation(&self, target: DeadLetterState) -> Vec<Condition> {
        let is_behind = |from| self.after.is_some_and(|(time, _)| time >= from);
        let of_app = is_of_app(self.app_id, self.filter, self.dialect)
            // SQLite's index search has one condition on each side. The place implies this one, unless it is forged.
            .add_option(self.filter.created_from.filter(|&from| !is_behind(from)).map(is_from))
            .add_option(
                self.after.map(|after| Expr::tuple(PLACE.map(ColumnTrait::into_expr)).gt(to_tuple(after))),
            )
            .add_option(self.filter.created_before.map(is_before));
        let [from, before] = is_resolved_within(self.filter);
        let matching = narrow(of_app, self.app_id, self.filter, self.dialect)
            .add_option(self.filter.run_id.map(|run_id| COLUMN.run_id.eq(run_id)))
            .add_option(from)
            .add_option(before)
            .add_option(match self.payloads {
                Payloads::All => None,
                Payloads::NotErased => Some(is_erased().not()),
                Payloads::Whole => Some(is_truncated().not()),
            });
        if self.filter.ids.is_some() {
            let matching = matching.add_option(is_of_state(target));
            return vec![matching.add_option(is_of_state(self.filter.effective_state()))];
        }
        let of_state = Part::of_filter(self.filter);
        let of_target = Part::of(target);
        let is_of = |parts: &[Part], part: &Part| parts.contains(part) || parts == [Part::All];
        // The narrower state of the two has fewer parts.
        let narrower = if of_target == [Part::All] { of_state } else { of_target };
        let parts = narrower.iter().copied().filter(|part| is_of(of_state, part) && is_of(of_target, part));
        conditions(&parts.collect::<Vec<_>>(), &matching)
    }

    /// Returns the conditions of closed letters that match, or of `handler_failed` ones.
    fn by_closing(&self, include_replayed: bool) -> Vec<Condition> {
        let Some(filter) = self.filter.reopenable() else { return Vec::new() };
        let part = match filter.resolution {
            Some(Resolution::HandlerFailed) => Part::HandlerFailed,
            _ => Part::Closed,
        };
        // SQLite would otherwise find closed rows by their creation time, and sort all of them.
        let unindexed = |time: Expr| if self.dialect == Dialect::Sqlite { is_true(time) } else { time };
        let [from, before] = is_resolved_within(&filter);
        // PostgreSQL reads these rows in the order of the index of runs. With `run_id = $1` it would drop the run id from
        // the sort keys. The primary key has the remaining order too, and could be chosen. BETWEEN prevents this.
        let is_of_run = filter.run_id.map(|run_id| COLUMN.run_id.between(run_id, run_id));
        let all = is_of_app(self.app_id, &filter, self.dialect).add_option(is_of_run);
        let matching = narrow(all, self.app_id, &filter, self.dialect)
            .add_option(from)
            .add_option(before)
            .add_option(filter.created_from.map(is_from).map(unindexed))
            .add_option(filter.created_before.map(is_before).map(unindexed))
            .add_option((!include_replayed).then(is_not_replayed));
        if filter.ids.is_some() {
            return vec![matching.add_option(is_of_state(filter.effective_state()))];
        }
        conditions(&[part], &matching)
    }

    /// Returns the column that orders the letters, before their ids.
    fn order(&self) -> Column {
        match by_closing(self.change, self.filter) {
            true if self.filter.run_id.is_some() => Column::RunId,
            true if self.filter.resolution != Some(Resolution::HandlerFailed) => Column::ResolvedAt,
            _ => Column::CreatedAt,
        }
    }

    fn sort(&self) -> [(Column, Order); 2] {
        by_time(self.order(), Order::Asc)
    }

    /// Returns the letter, if the call names one letter.
    fn letter(&self) -> Option<DeadLetterId> {
        match self.filter.ids.as_deref() {
            Some(&[id]) => Some(id),
            _ => None,
        }
    }

    /// Returns the SELECT of the columns that a bulk call reads of each letter that it picks.
    fn columns_of_picked(&self) -> SelectStatement {
        let mut columns = self.columns();
        if self.letter().is_some() {
            columns.column(Column::Resolution);
        }
        columns
    }

    /// Returns the SELECT of the columns that order the letters.
    fn columns(&self) -> SelectStatement {
        let mut columns = Query::select().columns(PLACE).take();
        if !matches!(self.order(), Column::CreatedAt) {
            columns.column(self.order());
        }
        columns
    }

    /// Returns the statement that changes these letters and returns each one's place.
    fn write(&self, are_picked: Expr) -> Write {
        let place = Query::returning().columns(PLACE);
        let update = match self.change {
            Change::Resolve(resolution, attribution) => {
                resolve_rows(self.dialect, resolution.into(), attribution)
            }
            Change::Reopen { .. } => reopen_rows(),
            Change::Delete(_) => {
                let mut delete = Query::delete();
                delete.from_table(Entity).and_where(are_picked).returning(place);
                return Write::Delete(delete);
            }
        };
        let mut update = update.filter(are_picked).into_query();
        update.returning(place);
        Write::Update(update)
    }

    /// Returns what the call writes of itself into the history.
    fn entry(&self, action: Action) -> Entry<'_> {
        let (resolution, attribution) = match self.change {
            Change::Resolve(resolution, attribution) => (Some(resolution), attribution),
            Change::Reopen { attribution, .. } | Change::Delete(attribution) => (None, attribution),
        };
        let target = self.letter().map_or(Target::Filter(self.filter), Target::Letter);
        Entry { app_id: self.app_id, action, target, resolution, attribution }
    }

    /// Returns what [`run`](Self::run) does.
    fn action(&self) -> Action {
        match self.change {
            Change::Resolve(..) => Action::Resolve,
            Change::Reopen { .. } => Action::Reopen,
            Change::Delete(_) => Action::Delete,
        }
    }

    /// Changes the first letters, and writes the row of the history.
    pub(super) async fn run<C: RepoConnection>(
        &self,
        db: &Connection<C>,
    ) -> Result<Ran, DeadLetterRepoError> {
        let conditions = self.conditions();
        if conditions.is_empty() {
            return Ok(Ran::default());
        }
        match db.pool() {
            _ if self.dialect == Dialect::Postgres => Ok(self.change(db, conditions).await?),
            Some(pool) => {
                transaction::run(pool, async |txn| self.change_and_record(txn, conditions).await).await
            }
            None => self.change_and_record(db, conditions).await,
        }
    }

    async fn change_and_record(
        &self,
        db: &impl ConnectionTrait,
        conditions: Vec<Condition>,
    ) -> Result<Ran, DeadLetterRepoError> {
        let entry = self.entry(self.action());
        entry.check_batch(db, self.dialect).await?;
        let letter = self.letter();
        let mut previous = match letter.filter(|_| self.dialect == Dialect::Sqlite) {
            Some(id) => resolution_of(db, self.dialect, is_row(self.app_id, id)).await?.flatten(),
            None => None,
        };
        let ran = self.change(db, conditions).await?;
        if let Some(row) = ran.rows.first() {
            if letter.is_some() && self.dialect != Dialect::Sqlite {
                previous = row.try_get("", PREVIOUS)?;
            }
            entry.record(db, self.dialect, ran.rows.len(), previous).await?;
        }
        Ok(ran)
    }

    /// Changes the first letters with one statement. On PostgreSQL it also writes the row of the history, unless the
    /// table is distributed.
    async fn change(&self, db: &impl ConnectionTrait, conditions: Vec<Condition>) -> Result<Ran, DbErr> {
        if self.dialect == Dialect::Sqlite {
            let first = self.first(conditions, &self.columns());
            let first = Query::select().column(Column::Id).from_subquery(first, "first").take();
            let write = match self.write(Column::Id.in_subquery(first)) {
                Write::Update(update) => with_hidden_limits(self.dialect, &update),
                Write::Delete(delete) => with_hidden_limits(self.dialect, &delete),
            };
            let rows = db.query_all_raw(write).await?;
            return Ok(Ran { more: rows.len() == self.limit as usize, rows, skipped: false });
        }
        let mut rows = db.query_all_raw(self.run_on_postgres(conditions)).await?;
        let (mut skipped, mut picked) = (false, 0);
        if let Some(row) = rows.first() {
            (skipped, picked) = (row.try_get("", SKIPPED)?, row.try_get::<i64>("", COUNT)?.unsigned_abs());
        }
        if let [row] = rows.as_slice() {
            // If no letter was changed, the only row shows whether rows were skipped.
            if row.try_get::<Option<Uuid>>("", "id")?.is_none() {
                rows.clear();
            }
        }
        // A trigger or a policy may hide picked letters from the change. If it hid all of them, another call would pick
        // the same.
        let more = picked == u64::from(self.limit) && !rows.is_empty();
        skipped |= !more && (rows.len() as u64) < picked;
        Ok(Ran { rows, more, skipped })
    }

    /// Locks the oldest letters that may be resolved, up to the limit and to [`MAX_BYTES`] of text, but at least
    /// one.
    pub(super) async fn pick(&self, txn: &DatabaseTransaction) -> Result<Picked, DbErr> {
        let conditions = self.conditions();
        let mut picked = Picked::default();
        if conditions.is_empty() {
            return Ok(picked);
        }
        let oldest =
            self.first(conditions.clone(), &self.columns_of_picked().expr_as(row_bytes(), BYTES).take());
        let oldest = match self.dialect {
            Dialect::Sqlite => with_hidden_limits(self.dialect, &oldest),
            _ => self.pick_on_postgres(&conditions, oldest),
        };
        // Each letter is returned with these texts.
        let Attribution { by, note, .. } = self.entry(self.action()).attribution;
        let written = [by, note].into_iter().flatten().map(|text| text.len() as u64).sum::<u64>();
        let mut bytes = 0;
        for row in txn.query_all_raw(oldest).await? {
            if self.dialect != Dialect::Sqlite {
                picked.skipped = row.try_get("", SKIPPED)?;
            }
            // On PostgreSQL, a row without a letter only shows whether rows were skipped.
            let Some(id) = row.try_get::<Option<Uuid>>("", "id")? else { break };
            bytes += written + u64::try_from(row.try_get::<i64>("", BYTES)?).unwrap_or_default();
            if bytes > MAX_BYTES && !picked.places.is_empty() {
                picked.more = true;
                break;
            }
            if self.letter().is_some() {
                picked.previous = row.try_get("", "resolution")?;
            }
            let time: DateTimeWithTimeZone = row.try_get("", "created_at")?;
            picked.places.push((time.to_utc(), id.into()));
        }
        picked.more |= picked.places.len() == self.limit as usize;
        Ok(picked)
    }

    /// Replays the picked letters, and writes the row of the history. Returns each letter as it is afterwards, oldest
    /// first.
    pub(super) async fn resolve_picked(
        &self,
        txn: &DatabaseTransaction,
        picked: &Picked,
        attribution: &Attribution,
    ) -> Result<Vec<StoredLetter>, DeadLetterRepoError> {
        let entry = self.entry(Action::Replay);
        entry.check_batch(txn, self.dialect).await?;
        let ids: Vec<_> = picked.places.iter().map(|&(_, id)| id).collect();
        let is_picked = Condition::all()
            .add(is_any_of_ids(&ids, self.dialect))
            .add(is_of_app_by_id(self.app_id, self.dialect));
        let update = resolve_rows(self.dialect, Resolution::Replayed.into(), attribution);
        let mut update = update.filter(is_picked).into_query();
        update.returning(Row::returning());
        let rows = Row::find_by_statement(self.dialect.build(&update)).all(txn).await?;
        let mut letters: Vec<StoredLetter> = rows.into_iter().map(Into::into).collect();
        // RETURNING has no order.
        letters.sort_by_key(|letter| (letter.created_at, letter.id));
        if !letters.is_empty() {
            entry.record(txn, self.dialect, letters.len(), picked.previous.clone()).await?;
        }
        Ok(letters)
    }

    /// Selects and locks the first rows up to the limit. `columns` must select [`columns`](Self::columns).
    fn first(&self, conditions: Vec<Condition>, columns: &SelectStatement) -> SelectStatement {
        first_locked(self.dialect, conditions, &self.sort(), self.limit.into(), columns)
    }

    /// Selects the place of the first matching letter that is not picked.
    fn other(&self, conditions: &[Condition]) -> SelectStatement {
        let picked = || Query::select().column(Column::Id).from(PICKED).take();
        let others = conditions.iter().cloned();
        let others = others.map(|condition| condition.add(Column::Id.not_in_subquery(picked()))).collect();
        first(self.dialect, others, &self.sort(), 1, &self.columns())
    }

    fn is_below_limit(&self) -> Expr {
        count_of_picked().lt(Expr::val(i64::from(self.limit)))
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

    /// Returns a statement that changes letters, and also finds whether it skipped any: letters that its snapshot has
    /// and that it did not lock. If the table is not distributed, it also writes the row of the history.
    fn run_on_postgres(&self, conditions: Vec<Condition>) -> Statement {
        let ids_of = |table: &'static str| Query::select().column(Column::Id).from(table).take();
        // PostgreSQL runs the subquery of `= ANY (ARRAY(…))` once, whatever the plan.
        let is_picked = is_any_of(ids_of(PICKED)).and(is_of_app_by_id(self.app_id, self.dialect));
        let write = match self.write(is_picked) {
            Write::Update(update) => update.into(),
            Write::Delete(delete) => delete.into(),
        };

        let other = Query::select().column(Column::Id).from_subquery(self.other(&conditions), OTHER).take();
        let has_other = self.is_below_limit().and(Expr::from(other).is_not_null());

        let cte = |name: &'static str, query: SubQueryStatement| {
            CommonTableExpression::new().table_name(name).query(query).to_owned()
        };
        let mut with = WithClause::new();
        with.cte(
            cte(PICKED, self.first(conditions, &self.columns_of_picked()).into())
                .materialized(true)
                .to_owned(),
        );
        with.cte(cte(CHANGED, write));
        let previous = || match self.letter() {
            Some(_) => Expr::from(Query::select().column(Column::Resolution).from(PICKED).take()),
            None => None::<String>.into(),
        };
        if self.dialect == Dialect::Postgres {
            let letters = || Expr::from(Func::count(Expr::col(Asterisk)));
            let changed = Query::select().from(CHANGED).and_having(letters().gt(Expr::val(0_i64))).take();
            let entry = self.entry(self.action());
            let recorded = entry.insert_from(self.dialect, changed, letters(), previous());
            with.cte(cte("recorded", recorded.into()));
        }
        let mut changed = Query::select();
        if self.letter().is_some() {
            changed.expr_as(previous(), PREVIOUS);
        }
        let changed = changed
            .column((CHANGED, Asterisk))
            .columns([(OUTCOME, SKIPPED), (OUTCOME, COUNT)])
            .from_subquery(
                Query::select().expr_as(has_other, SKIPPED).expr_as(count_of_picked(), COUNT).take(),
                OUTCOME,
            )
            .join(JoinType::LeftJoin, CHANGED, Condition::all().add(Expr::Constant(true.into())))
            .with_cte(with)
            .take();
        with_hidden_limits(self.dialect, &changed)
    }
}

fn count_of_picked() -> Expr {
    Query::select().expr(Func::count(Expr::col(Asterisk))).from(PICKED).take().into()
}

/// The columns that order open letters, oldest first.
const PLACE: [Column; 2] = [Column::CreatedAt, Column::Id];

const BYTES: &str = "bytes";
const OTHER: &str = "other";
const OUTCOME: &str = "outcome";
const SKIPPED: &str = "skipped";
const COUNT: &str = "picked_letters";
