//! The history: the row that each change writes of itself, and how the rows are read and swept.

use std::{mem, ops::RangeInclusive};

use chrono::{DateTime, Utc};
use dead_letters_entity::{
    dead_letter_actions::{COLUMN, Column, Entity},
    dead_letters,
};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr, FromQueryResult, QueryFilter,
    QueryResult, QueryTrait, Statement, UpdateMany,
    prelude::DateTimeWithTimeZone,
    sea_query::{
        Asterisk, CommonTableExpression, DeleteStatement, Expr, ExprTrait, InsertStatement, LockBehavior,
        LockType, Order, Query, ReturningClause, SelectStatement, UnionType, WithClause,
    },
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    app_steps::{APP, APPS, app_steps},
    conditions::{any_of, each_of, is_row},
    connection::RepoConnection,
    convert::MAX_NOTE_CHARACTERS,
    convert::{beginning, beginning_of_name, cut, cut_to_characters, to_name, to_resolution, without_nul},
    dialect::Dialect,
    hidden_limits::{shown, with_hidden_limits},
    in_range, transaction,
};
use crate::{
    Action, ActionRequest, AppId, Attribution, DeadLetterAction, DeadLetterFilter, DeadLetterId,
    DeadLetterRepoError, ListQuery, RecentApp, Resolution, SweptActions, time::to_bound,
};

const LIMITS: RangeInclusive<u32> = 1..=500;
const MAX_FILTER_BYTES: usize = 1_000;

/// The row that a change writes into the history.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) app_id: AppId,
    pub(super) action: Action,
    pub(super) target: Target<'a>,
    /// The resolution that the letters get.
    pub(super) resolution: Option<Resolution>,
    pub(super) attribution: &'a Attribution,
}

/// The letters that a change is about.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    Letter(DeadLetterId),
    Filter(&'a DeadLetterFilter),
}

impl Entry<'_> {
    /// Returns the INSERT of the row, for a change that another statement made.
    fn insert(&self, dialect: Dialect, letters: usize, previous: Option<String>) -> InsertStatement {
        let letters = i32::try_from(letters).unwrap_or(i32::MAX);
        insert_rows([self.row(dialect, letters.into(), previous.into())])
    }

    /// Returns the INSERT of these rows of one letter each, for a change that another statement made.
    pub(super) fn insert_each<'e>(
        dialect: Dialect,
        entries: impl Iterator<Item = Entry<'e>>,
    ) -> InsertStatement {
        insert_rows(entries.map(|entry| entry.row(dialect, 1.into(), None::<String>.into())))
    }

    /// Returns the INSERT of the row for each row of `source`, for a statement that also makes the change.
    pub(super) fn insert_from(
        &self,
        dialect: Dialect,
        mut source: SelectStatement,
        letters: Expr,
        previous: Expr,
    ) -> InsertStatement {
        let (columns, values): (Vec<_>, Vec<_>) = self.row(dialect, letters, previous).into_iter().unzip();
        let mut insert = Query::insert();
        insert.into_table(Entity).columns(columns);
        // There are as many columns as values, so this does not fail.
        insert.select_from(source.exprs(values).take()).ok();
        insert
    }

    /// Writes the row, for a change that another statement of the transaction made.
    pub(super) async fn record(
        &self,
        db: &impl ConnectionTrait,
        dialect: Dialect,
        letters: usize,
        previous: Option<String>,
    ) -> Result<(), DbErr> {
        db.execute_raw(dialect.build(&self.insert(dialect, letters, previous))).await.map(drop)
    }

    /// Returns an error on SQLite if the batch was done already. SQLite undoes a failed statement and not the transaction
    /// around it, so the change must not precede this check. On PostgreSQL the row's INSERT fails, and undoes the change.
    pub(super) async fn check_batch(
        &self,
        db: &impl ConnectionTrait,
        dialect: Dialect,
    ) -> Result<(), DeadLetterRepoError> {
        let (Dialect::Sqlite, Some(run_id), Some(batch)) =
            (dialect, self.attribution.run_id, self.attribution.batch)
        else {
            return Ok(());
        };
        let done = Query::select()
            .column(Column::Id)
            .from(Entity)
            .and_where(COLUMN.app_id.eq(self.app_id.into_inner()))
            .and_where(COLUMN.run_id.eq(run_id))
            .and_where(COLUMN.batch.eq(i64::from(batch)))
            .take();
        match db.query_one_raw(dialect.build(&done)).await? {
            Some(_) => Err(DeadLetterRepoError::BatchDone),
            None => Ok(()),
        }
    }

    fn row(&self, dialect: Dialect, letters: Expr, previous: Expr) -> [(Column, Expr); 13] {
        let text = |text: &Option<String>| Expr::from(text.clone().map(without_nul));
        let (letter_id, filter) = match self.target {
            Target::Letter(id) => (Some(id.into_inner()), None),
            Target::Filter(filter) => (None, Some(text_of(filter))),
        };
        [
            (Column::AppId, self.app_id.into_inner().into()),
            (Column::Id, Uuid::now_v7().into()),
            (Column::Action, self.action.as_str().into()),
            (Column::CreatedAt, dialect.now()),
            (Column::Actor, text(&self.attribution.by)),
            (Column::Note, text(&self.attribution.note)),
            (Column::LetterId, letter_id.into()),
            (Column::Filter, filter.into()),
            (Column::Letters, letters),
            (Column::Resolution, self.resolution.map(Resolution::as_str).map(str::to_owned).into()),
            (Column::PreviousResolution, previous),
            (Column::RunId, self.attribution.run_id.into()),
            (Column::Batch, self.attribution.batch.map(i64::from).into()),
        ]
    }
}

fn insert_rows<const N: usize>(rows: impl IntoIterator<Item = [(Column, Expr); N]>) -> InsertStatement {
    let mut insert = Query::insert();
    insert.into_table(Entity);
    for row in rows {
        let (columns, values): (Vec<_>, Vec<_>) = row.into_iter().unzip();
        // There are as many columns as values, so this does not fail.
        insert.columns(columns).values(values).ok();
    }
    insert
}

/// Returns the UPDATE that erases the notes in the history of these letters. The reason of an erasure stays.
pub(super) fn without_notes(dialect: Dialect, app_id: AppId, ids: &[DeadLetterId]) -> Statement {
    let are_theirs = match dialect {
        Dialect::Sqlite => Column::LetterId.is_in(ids.iter().map(|id| id.into_inner())),
        Dialect::Postgres | Dialect::Sharded => Column::LetterId.into_expr().eq(any_of(each_of(ids))),
    };
    let update = Query::update()
        .table(Entity)
        .value(Column::Note, None::<String>)
        .and_where(COLUMN.app_id.eq(app_id.into_inner()))
        .and_where(are_theirs)
        .and_where(COLUMN.action.ne(Action::Erase.as_str()))
        .and_where(COLUMN.note.is_not_null())
        .take();
    dialect.build(&update)
}

/// Returns the filter's text, with the number of its ids instead of the ids.
fn text_of(filter: &DeadLetterFilter) -> String {
    let mut filter = filter.clone();
    let ids = mem::take(&mut filter.ids).map(|ids| format!("ids={}+letters", ids.len()));
    let rest = Some(ListQuery::from(filter).to_string()).filter(|rest| !rest.is_empty());
    let text: Vec<_> = ids.into_iter().chain(rest).collect();
    cut(without_nul(text.join("&")), Some(MAX_FILTER_BYTES))
}

/// A change of one letter: the UPDATE without its condition, and the letters that it may change.
pub(super) struct Change<'a> {
    pub(super) entry: Entry<'a>,
    pub(super) update: UpdateMany<dead_letters::Entity>,
    pub(super) is_target: Condition,
    pub(super) returning: ReturningClause,
}

impl Change<'_> {
    /// Changes the letter, and writes the row of the history. Returns the letter's columns that `returning` names, or
    /// `None` if the letter does not fulfill the condition.
    pub(super) async fn run<C: RepoConnection>(
        self,
        repo: &SeaOrmDeadLetterRepo<C>,
    ) -> Result<Option<QueryResult>, DeadLetterRepoError> {
        let dialect = repo.dialect()?;
        match repo.db.pool() {
            _ if dialect == Dialect::Postgres => {
                let insert = |source| {
                    let previous = Expr::col((PICKED, dead_letters::Column::Resolution));
                    self.entry.insert_from(dialect, source, 1.into(), previous)
                };
                let recorded = insert(Query::select().from(PICKED).from(CHANGED).take());
                let change = on_postgres(self.update, self.is_target, self.returning, Some(recorded));
                Ok(repo.db.query_one_raw(dialect.build(&change)).await?)
            }
            Some(pool) => transaction::run(pool, async |txn| self.run_in(txn, dialect).await).await,
            None => self.run_in(&repo.db, dialect).await,
        }
    }

    /// Changes the letter with one statement, and writes the row with another.
    async fn run_in(
        self,
        db: &impl ConnectionTrait,
        dialect: Dialect,
    ) -> Result<Option<QueryResult>, DeadLetterRepoError> {
        let Self { entry, update, is_target, returning } = self;
        entry.check_batch(db, dialect).await?;
        let (changed, previous) = if dialect == Dialect::Sqlite {
            let Some(previous) = resolution_of(db, dialect, is_target.clone()).await? else {
                return Ok(None);
            };
            let mut update = update.filter(is_target).into_query();
            update.returning(returning);
            (db.query_one_raw(dialect.build(&update)).await?, previous)
        } else {
            let change = on_postgres(update, is_target, returning, None);
            let changed = db.query_one_raw(dialect.build(&change)).await?;
            let previous = changed.as_ref().map_or(Ok(None), |row| row.try_get("", PREVIOUS))?;
            (changed, previous)
        };
        if changed.is_some() {
            entry.record(db, dialect, 1, previous).await?;
        }
        Ok(changed)
    }
}

/// Returns the letter's resolution, which an UPDATE with RETURNING does not return on SQLite. Returns `None` if the letter
/// does not fulfill the condition.
pub(super) async fn resolution_of(
    db: &impl ConnectionTrait,
    dialect: Dialect,
    is_target: Condition,
) -> Result<Option<Option<String>>, DbErr> {
    let resolution = Query::select()
        .column(dead_letters::Column::Resolution)
        .from(dead_letters::Entity)
        .cond_where(is_target)
        .take();
    let row = db.query_one_raw(dialect.build(&resolution)).await?;
    row.map(|row| row.try_get_by_index(0)).transpose()
}

/// Returns a statement that locks the letter, which shows its resolution, changes it, and writes the row of the history
/// if `recorded` does that.
fn on_postgres(
    update: UpdateMany<dead_letters::Entity>,
    is_target: Condition,
    returning: ReturningClause,
    recorded: Option<InsertStatement>,
) -> SelectStatement {
    use dead_letters::{Column, Entity};
    // Under READ COMMITTED the lock waits for another transaction, and then the condition is checked again.
    let picked = Query::select()
        .columns([Column::Id, Column::Resolution])
        .from(Entity)
        .cond_where(is_target.clone())
        .lock(LockType::Update)
        .take();
    let is_picked = Expr::exists(Query::select().expr(Expr::Constant(1.into())).from(PICKED).take());
    let mut update = update.filter(is_target).filter(is_picked).into_query();
    update.returning(returning);
    let mut with = WithClause::new();
    with.cte(CommonTableExpression::new().table_name(PICKED).query(picked).materialized(true).to_owned());
    with.cte(CommonTableExpression::new().table_name(CHANGED).query(update).to_owned());
    if let Some(recorded) = recorded {
        with.cte(CommonTableExpression::new().table_name("recorded").query(recorded).to_owned());
    }
    Query::select()
        .column((CHANGED, Asterisk))
        .expr_as(Expr::col((PICKED, Column::Resolution)), PREVIOUS)
        .from(CHANGED)
        .from(PICKED)
        .with_cte(with)
        .take()
}

pub(super) const CHANGED: &str = "changed";
pub(super) const PICKED: &str = "picked";
pub(super) const PREVIOUS: &str = "previous";

/// A row as it is read, with the beginning of its texts.
#[derive(FromQueryResult)]
struct Row {
    id: Uuid,
    app_id: Uuid,
    action: String,
    created_at: DateTimeWithTimeZone,
    actor: Option<String>,
    note: Option<String>,
    letter_id: Option<Uuid>,
    filter: Option<String>,
    letters: i32,
    resolution: Option<String>,
    previous_resolution: Option<String>,
    run_id: Option<Uuid>,
    batch: Option<i64>,
}

pub(super) async fn record_reveal<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    id: DeadLetterId,
    attribution: &Attribution,
) -> Result<(), DeadLetterRepoError> {
    let dialect = repo.dialect()?;
    // The row is no batch of a run.
    let attribution = &Attribution { batch: None, ..attribution.clone() };
    let (action, target) = (Action::Reveal, Target::Letter(id));
    let entry = Entry { app_id, action, target, resolution: None, attribution };
    let letter = Query::select().from(dead_letters::Entity).cond_where(is_row(app_id, id)).take();
    let insert = entry.insert_from(dialect, letter, 1.into(), None::<String>.into());
    match repo.db.execute_raw(dialect.build(&insert)).await?.rows_affected() {
        0 => Err(DeadLetterRepoError::NotFound(id)),
        _ => Ok(()),
    }
}

pub(super) async fn actions<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    request: &ActionRequest,
) -> Result<Vec<DeadLetterAction>, DeadLetterRepoError> {
    let limit = in_range("limit", request.limit, LIMITS)?;
    let rows = select(repo.dialect()?, app_id, request, limit.into());
    let rows = Row::find_by_statement(rows).all(&repo.db).await?;
    Ok(rows.into_iter().map(DeadLetterAction::from).collect())
}

/// How many rows of the history one call examines.
const EXAMINED: u64 = 10_000;

pub(super) async fn recent_apps<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    since: DateTime<Utc>,
) -> Result<Vec<RecentApp>, DeadLetterRepoError> {
    const LAST: &str = "last_action_at";
    let dialect = repo.dialect()?;
    // Each shard applies a limit that it can see.
    let limit = if dialect == Dialect::Sharded { shown(EXAMINED) } else { EXAMINED };
    let newest = Query::select()
        .columns([Column::AppId, Column::CreatedAt])
        .from(Entity)
        .and_where(COLUMN.created_at.gte(to_bound(since)))
        .order_by(Column::CreatedAt, Order::Desc)
        .order_by(Column::Id, Order::Desc)
        .limit(limit)
        .take();
    let apps = Query::select()
        .column(Column::AppId)
        .expr_as(Expr::col(Column::CreatedAt).max(), LAST)
        .from_subquery(newest, "newest")
        .group_by_col(Column::AppId)
        .order_by(LAST, Order::Desc)
        .order_by(Column::AppId, Order::Asc)
        .take();
    let rows = repo.db.query_all_raw(with_hidden_limits(dialect, &apps)).await?;
    let app = |row: QueryResult| {
        let last: DateTimeWithTimeZone = row.try_get("", LAST)?;
        Ok(RecentApp { app_id: row.try_get::<Uuid>("", "app_id")?.into(), last_action_at: last.to_utc() })
    };
    Ok(rows.into_iter().map(app).collect::<Result<_, DbErr>>()?)
}

fn select(dialect: Dialect, app_id: AppId, request: &ActionRequest, limit: u64) -> Statement {
    let &ActionRequest { letter_id, run_id, after, .. } = request;
    let of_app = Condition::all()
        .add(COLUMN.app_id.eq(app_id.into_inner()))
        .add_option(after.map(|after| COLUMN.id.lt(after)));
    let of_letter = letter_id.map(|id| of_app.clone().add(COLUMN.letter_id.eq(id.into_inner())));
    let of_run = run_id.map(|id| {
        // Other letters of the run are not a part of this letter's history.
        let is_batch = letter_id.map(|_| COLUMN.letter_id.is_null());
        of_app.clone().add(COLUMN.run_id.eq(id)).add_option(is_batch)
    });
    let mut arms: Vec<_> = of_letter.into_iter().chain(of_run).collect();
    if arms.is_empty() {
        arms.push(of_app);
    }
    let mut arms = arms.into_iter().map(|condition| {
        let arm = columns().cond_where(condition).order_by(Column::Id, Order::Desc).limit(limit).take();
        Query::select().column(Asterisk).from_subquery(arm, "arm").take()
    });
    let mut union = arms.next().unwrap_or_default();
    for arm in arms {
        union.union(UnionType::All, arm);
    }
    let merged = Query::select()
        .column(Asterisk)
        .from_subquery(union, "merged")
        .order_by(Column::Id, Order::Desc)
        .limit(shown(limit))
        .take();
    with_hidden_limits(dialect, &merged)
}

fn columns() -> SelectStatement {
    let filter = beginning(Column::Filter.into_expr(), MAX_FILTER_BYTES);
    Query::select()
        .columns([Column::Id, Column::AppId, Column::Action, Column::CreatedAt, Column::LetterId])
        .columns([
            Column::Letters,
            Column::Resolution,
            Column::PreviousResolution,
            Column::RunId,
            Column::Batch,
        ])
        .expr_as(beginning_of_name(Column::Actor.into_expr()), "actor")
        .expr_as(beginning(Column::Note.into_expr(), MAX_NOTE_CHARACTERS), "note")
        .expr_as(filter, "filter")
        .from(Entity)
        .take()
}

impl From<Row> for DeadLetterAction {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            app_id: row.app_id.into(),
            action: Action::ALL.iter().copied().find(|action| action.as_str() == row.action),
            created_at: row.created_at.to_utc(),
            actor: row.actor.map(to_name),
            note: row.note.map(|note| cut_to_characters(note, MAX_NOTE_CHARACTERS)),
            letter_id: row.letter_id.map(Into::into),
            filter: row.filter.map(|filter| cut(filter, Some(MAX_FILTER_BYTES))),
            letters: row.letters.try_into().unwrap_or_default(),
            resolution: to_resolution(row.resolution),
            previous_resolution: to_resolution(row.previous_resolution),
            run_id: row.run_id,
            batch: row.batch.and_then(|batch| batch.try_into().ok()),
        }
    }
}

pub(super) async fn sweep_actions<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    before: DateTime<Utc>,
    first_app: Option<AppId>,
    limit: u64,
) -> Result<SweptActions, DeadLetterRepoError> {
    let dialect = repo.dialect()?;
    if limit == 0 {
        return Ok(SweptActions::default());
    }
    let bound = id_at(before);
    let first_app = first_app.map_or(Uuid::nil(), AppId::into_inner);
    let work = async |txn: &DatabaseTransaction| {
        let first = match dialect {
            Dialect::Sharded => first_across_shards(first_app, bound),
            Dialect::Postgres | Dialect::Sqlite => first_with_due(first_app, bound),
        };
        let Some(row) = txn.query_one_raw(with_hidden_limits(dialect, &first)).await? else {
            return Ok(SweptActions::default());
        };
        let app_id: Uuid = row.try_get_by_index(0)?;
        let delete = with_hidden_limits(dialect, &delete_oldest(dialect, app_id, bound, limit));
        let deleted = txn.execute_raw(delete).await?.rows_affected();
        let next = match deleted == limit {
            true => Some(app_id),
            false => app_id.as_u128().checked_add(1).map(Uuid::from_u128),
        };
        Ok(SweptActions { deleted, next: next.map(Into::into) })
    };
    repo.db.in_transaction(work).await
}

/// Returns the smallest id of this time. Ids of version 7 begin with 48 bits of milliseconds.
fn id_at(time: DateTime<Utc>) -> Uuid {
    let millis = u64::try_from(time.timestamp_millis()).unwrap_or_default();
    let millis = Ord::min(millis, (1 << 48) - 1);
    Uuid::from_u128(u128::from(millis) << 80)
}

/// Steps from app to app with a history, from this one on.
fn apps_with_actions(first_app: Uuid) -> WithClause {
    let first_of = |apps: Expr| {
        Query::select()
            .column(Column::AppId)
            .from(Entity)
            .and_where(apps)
            .order_by(Column::AppId, Order::Asc)
            .limit(shown(1))
            .take()
    };
    let app_id = || Column::AppId.into_expr();
    app_steps(first_of(app_id().gte(first_app)), first_of(app_id().gt(Expr::col(APP))), None)
}

/// Selects the first app that has due rows.
fn first_with_due(first_app: Uuid, bound: Uuid) -> SelectStatement {
    // PostgreSQL may plan EXISTS as a join that reads the whole table.
    let oldest = Query::select()
        .column(Column::Id)
        .from(Entity)
        .and_where(Column::AppId.into_expr().eq(Expr::col(APP)))
        .order_by(Column::Id, Order::Asc)
        .limit(shown(1))
        .take();
    Query::select()
        .column(APP)
        .from(APPS)
        .and_where(Expr::from(oldest).lt(bound))
        .limit(shown(1))
        .with_cte(apps_with_actions(first_app))
        .take()
}

/// Selects the first app that has due rows.
fn first_across_shards(first_app: Uuid, bound: Uuid) -> SelectStatement {
    Query::select()
        .column(Column::AppId)
        .from(Entity)
        .and_where(COLUMN.app_id.gte(first_app))
        .and_where(COLUMN.id.lt(bound))
        .order_by(Column::AppId, Order::Asc)
        .limit(shown(1))
        .take()
}

fn delete_oldest(dialect: Dialect, app_id: Uuid, bound: Uuid, limit: u64) -> DeleteStatement {
    let mut oldest = Query::select()
        .column(Column::Id)
        .from(Entity)
        .and_where(COLUMN.app_id.eq(app_id))
        .and_where(COLUMN.id.lt(bound))
        .order_by(Column::Id, Order::Asc)
        .limit(limit)
        .take();
    let is_oldest = match dialect {
        Dialect::Sqlite => Column::Id.in_subquery(oldest),
        Dialect::Postgres | Dialect::Sharded => {
            oldest.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
            // PostgreSQL runs the subquery of `= ANY (ARRAY(…))` once, whatever the plan.
            Column::Id.into_expr().eq(any_of(oldest))
        }
    };
    Query::delete().from_table(Entity).and_where(COLUMN.app_id.eq(app_id)).and_where(is_oldest).take()
}
