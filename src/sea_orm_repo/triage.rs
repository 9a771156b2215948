//! [`DeadLetterTriage`] on SeaORM.

use std::{collections::HashMap, ops::RangeInclusive};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, DbErr, EntityTrait, FromQueryResult,
    PartialModelTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, UpdateMany,
    prelude::DateTimeWithTimeZone,
    sea_query::{
        Asterisk, CommonTableExpression, Expr, ExprTrait, Func, LockBehavior, LockType, NullOrdering, Order,
        Query, ReturningClause, SelectStatement, WithClause, WithQuery,
    },
};
use tracing::{field::Empty, instrument};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo, convert, gc::Due, record_rows, text::with_literal_limits,
    transaction::RepoConnection,
};
use crate::{
    AppId, Cursor, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterRow, DeadLetterState,
    DeadLetterSummary, DeadLetterTriage, ErrorGroup, Page, PageRequest, Resolution, Settled, Settlement,
    UnresolvedCount,
    time::{to_bound, to_microseconds},
};

const PAGE_SIZES: RangeInclusive<u32> = 1..=500;
const BULK_LIMITS: RangeInclusive<u32> = 1..=1_000;
/// Each is a bound value, and PostgreSQL takes 65,535 a statement, SQLite 32,766.
const APPS_PER_COUNT: usize = 1_000;
/// At a row that others open and settle between our statements; bounded, since a trigger or a policy can hide
/// it from the update alone.
const ATTEMPTS: usize = 3;

#[async_trait]
impl<C: RepoConnection> DeadLetterTriage for SeaOrmDeadLetterRepo<C> {
    #[instrument(name = "dead_letters.get_for_app", skip_all, err(level = "warn"), fields(%app_id, %id))]
    async fn get_for_app(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
        let row = Entity::find().filter(is_row(app_id, id)).one(&self.db).await?;
        Ok(row.map(DeadLetterRow::from))
    }

    #[instrument(name = "dead_letters.list", skip_all, err(level = "warn"), fields(%app_id, rows = Empty))]
    async fn list(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError> {
        let size = in_range("page.size", page.size, PAGE_SIZES)?;
        let after = page.after.map(|cursor| cursor.place(app_id, filter)).transpose()?;
        let backend = self.db.get_database_backend();
        let query = convert::Summary::select_cols(Entity::find().select_only())
            .filter(matches(app_id, filter, backend))
            .apply_if(after, |query, (created_at, id)| {
                // A row comparison is one index condition; `a < x OR (a = x AND b < y)` reads all that came
                // before.
                let columns = Expr::tuple([Column::CreatedAt.into_expr(), Column::Id.into_expr()]);
                query.filter(columns.lt(Expr::tuple([Expr::val(created_at), Expr::val(id.into_inner())])))
            })
            .order_by_desc(Column::CreatedAt)
            .order_by_desc(Column::Id)
            // One more, to know whether a page follows.
            .limit(u64::from(size) + 1)
            .into_query();
        let page = with_literal_limits(backend, &query);
        let rows = convert::Summary::find_by_statement(page).all(&self.db).await?;
        record_rows(rows.len() as u64);
        let has_next = rows.len() > size as usize;
        let items: Vec<_> = rows.into_iter().take(size as usize).map(DeadLetterSummary::from).collect();
        let last = items.last().filter(|_| has_next);
        let next = last.map(|last| Cursor::behind(last.created_at, last.id, app_id, filter));
        Ok(Page { items, next })
    }

    #[instrument(name = "dead_letters.unresolved_counts", skip_all, err(level = "warn"), fields(apps = app_ids.len()))]
    async fn unresolved_counts(
        &self,
        app_ids: &[AppId],
        cap: Option<u32>,
    ) -> Result<Vec<UnresolvedCount>, DeadLetterRepoError> {
        let mut found = HashMap::new();
        for app_ids in app_ids.chunks(APPS_PER_COUNT) {
            let count = with_literal_limits(self.db.get_database_backend(), &count_unresolved(app_ids, cap));
            let rows = self.db.query_all_raw(count).await?;
            for row in rows {
                found.insert(row.try_get::<Uuid>("", "app_id")?, row.try_get::<i64>("", "unresolved")?);
            }
        }
        let counts = app_ids.iter().map(|&app_id| {
            let counted = found.get(&app_id.into_inner()).copied().unwrap_or_default().unsigned_abs();
            let count = cap.map_or(counted, |cap| Ord::min(counted, cap.into()));
            UnresolvedCount { app_id, count, at_least: counted > count }
        });
        Ok(counts.collect())
    }

    #[instrument(name = "dead_letters.error_groups", skip_all, err(level = "warn"), fields(%app_id, rows = Empty))]
    async fn error_groups(
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

    #[instrument(name = "dead_letters.resolve_once", skip_all, err(level = "warn"), fields(%app_id, %id))]
    async fn resolve_once(
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
            let row = self.get_for_app(app_id, id).await?.ok_or(DeadLetterRepoError::NotFound(id))?;
            match row.resolved_at {
                Some(resolved_at) if row.resolution != Some(Resolution::HandlerFailed) => {
                    return Err(DeadLetterRepoError::AlreadyResolved {
                        id,
                        resolution: row.resolution,
                        resolved_at,
                    });
                }
                // Opened since the update: so try again.
                _ => {}
            }
        }
        Err(DbErr::RecordNotUpdated.into())
    }

    #[instrument(name = "dead_letters.resolve_matching", skip_all, err(level = "warn"), fields(%app_id, rows = Empty))]
    async fn resolve_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        settlement: &Settlement,
        limit: u32,
    ) -> Result<Settled, DeadLetterRepoError> {
        let bulk = Bulk::new(app_id, filter, settlement, limit)?;
        let returning = Query::returning().columns([Column::CreatedAt, Column::Id]);
        let rows = self.db.query_all(&bulk.settle(self.db.get_database_backend(), returning)).await?;
        record_rows(rows.len() as u64);
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

    #[instrument(name = "dead_letters.reopen", skip_all, err(level = "warn"), fields(%app_id, %id))]
    async fn reopen(&self, app_id: AppId, id: DeadLetterId) -> Result<(), DeadLetterRepoError> {
        for _ in 0..ATTEMPTS {
            let reopened = Entity::update_many()
                .col_expr(Column::Resolution, None::<String>.into())
                .col_expr(Column::ResolvedAt, None::<DateTime<Utc>>.into())
                .col_expr(Column::ResolvedBy, None::<String>.into())
                .col_expr(Column::ResolutionNote, None::<String>.into())
                .filter(is_row(app_id, id))
                .filter(COLUMN.resolved_at.is_not_null())
                .exec(&self.db)
                .await?;
            if reopened.rows_affected > 0 {
                return Ok(());
            }
            let row = self.get_for_app(app_id, id).await?.ok_or(DeadLetterRepoError::NotFound(id))?;
            if row.resolved_at.is_none() {
                return Err(DeadLetterRepoError::NotResolved(id));
            }
            // Resolved since the update: so try again.
        }
        Err(DbErr::RecordNotUpdated.into())
    }

    #[instrument(name = "dead_letters.purge_resolved", skip_all, err(level = "warn"), fields(%app_id, %resolved_before, rows = Empty))]
    async fn purge_resolved(
        &self,
        app_id: AppId,
        resolved_before: DateTime<Utc>,
        limit: i64,
    ) -> Result<u64, DeadLetterRepoError> {
        self.sweep(Some(app_id), Due::Settled(resolved_before), limit).await
    }

    #[instrument(name = "dead_letters.purge_resolved_all_apps", skip_all, err(level = "warn"), fields(%resolved_before, rows = Empty))]
    async fn purge_resolved_all_apps(
        &self,
        resolved_before: DateTime<Utc>,
        limit: i64,
    ) -> Result<u64, DeadLetterRepoError> {
        self.sweep(None, Due::Settled(resolved_before), limit).await
    }

    #[instrument(name = "dead_letters.gc_for_app", skip_all, err(level = "warn"), fields(%app_id, %older_than, rows = Empty))]
    async fn gc_for_app(
        &self,
        app_id: AppId,
        older_than: DateTime<Utc>,
        limit: i64,
    ) -> Result<u64, DeadLetterRepoError> {
        self.sweep(Some(app_id), Due::Created(older_than), limit).await
    }
}

/// The update that settles; what it settles is for the caller to filter.
pub(super) fn settle(settlement: &Settlement) -> UpdateMany<Entity> {
    let text = |text: &Option<String>| Expr::from(text.clone().map(convert::without_nul));
    Entity::update_many()
        .col_expr(Column::Resolution, settlement.resolution.as_str().into())
        .col_expr(Column::ResolvedAt, to_microseconds(Utc::now()).into())
        .col_expr(Column::ResolvedBy, text(&settlement.by))
        .col_expr(Column::ResolutionNote, text(&settlement.note))
}

fn is_row(app_id: AppId, id: DeadLetterId) -> Condition {
    Condition::all().add(COLUMN.id.eq(id.into_inner())).add(COLUMN.app_id.eq(app_id.into_inner()))
}

/// Unresolved, or `handler_failed`: as in the partial index, and inline, since a bound value would keep a
/// generic plan off it.
fn is_open() -> Expr {
    let handler_failed = Expr::Constant(Resolution::HandlerFailed.as_str().into());
    COLUMN.resolution.is_null().or(Column::Resolution.into_expr().eq(handler_failed))
}

fn is_of_state(state: DeadLetterState) -> Option<Expr> {
    match state {
        DeadLetterState::Open => Some(is_open()),
        DeadLetterState::Unresolved => Some(COLUMN.resolved_at.is_null()),
        DeadLetterState::Resolved => Some(COLUMN.resolved_at.is_not_null()),
        DeadLetterState::Any => None,
    }
}

fn matches(app_id: AppId, filter: &DeadLetterFilter, backend: DbBackend) -> Condition {
    matches_but_for_state(app_id, filter, backend).add_option(is_of_state(filter.state))
}

fn matches_but_for_state(app_id: AppId, filter: &DeadLetterFilter, backend: DbBackend) -> Condition {
    // As in the store, where a NUL became U+FFFD.
    let text = |text: &Option<String>| text.clone().map(convert::without_nul);
    // Not LIKE, whose wildcards would have to be escaped, and for which SQLite ignores case.
    let position = if backend == DbBackend::Sqlite { "instr" } else { "strpos" };
    Condition::all()
        .add(COLUMN.app_id.eq(app_id.into_inner()))
        .add_option(filter.resolution.map(|resolution| COLUMN.resolution.eq(resolution.as_str())))
        .add_option(text(&filter.source).map(|source| COLUMN.source.eq(source)))
        .add_option(text(&filter.op).map(|op| COLUMN.op.eq(op)))
        .add_option(filter.trigger_id.map(|id| COLUMN.trigger_id.eq(id.into_inner())))
        .add_option(filter.script_id.map(|id| COLUMN.script_id.eq(id.into_inner())))
        .add_option(filter.original_event_id.map(|id| COLUMN.original_event_id.eq(id)))
        .add_option(text(&filter.error_contains).map(|part| {
            let position = Func::cust(position).arg(Column::LastError.into_expr()).arg(part);
            Expr::from(position).gt(0)
        }))
        .add_option(text(&filter.error_signature).map(|signature| COLUMN.error_signature.eq(signature)))
        .add_option(filter.created_from.map(|time| COLUMN.created_at.gte(to_bound(time))))
        .add_option(filter.created_before.map(|time| COLUMN.created_at.lt(to_bound(time))))
}

/// One count an app, each by a look at its index entries that ends at the cap.
fn count_unresolved(app_ids: &[AppId], cap: Option<u32>) -> SelectStatement {
    let app_id = ("app", "column1");
    let unresolved = Query::select()
        .expr(Expr::val(1))
        .from(Entity)
        .and_where(Column::AppId.into_expr().eq(Expr::col(app_id)))
        .and_where(COLUMN.resolved_at.is_null())
        .apply_if(cap, |query, cap| {
            query.limit(u64::from(cap) + 1);
        })
        .take();
    let count =
        Query::select().expr(Func::count(Expr::col(Asterisk))).from_subquery(unresolved, "unresolved").take();
    Query::select()
        .expr_as(Expr::col(app_id), "app_id")
        .expr_as(count, "unresolved")
        .from_values(app_ids.iter().map(|app_id| app_id.into_inner()), "app")
        .take()
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

/// The open rows that a bulk call is about, and what becomes of them.
pub(super) struct Bulk<'a> {
    app_id: AppId,
    filter: &'a DeadLetterFilter,
    settlement: &'a Settlement,
    limit: u32,
}

impl<'a> Bulk<'a> {
    pub(super) fn new(
        app_id: AppId,
        filter: &'a DeadLetterFilter,
        settlement: &'a Settlement,
        limit: u32,
    ) -> Result<Self, DeadLetterRepoError> {
        if filter.created_before.is_none() {
            return Err(DeadLetterRepoError::MissingCreatedBefore);
        }
        Ok(Self { app_id, filter, settlement, limit: in_range("limit", limit, BULK_LIMITS)? })
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
            state => is_of_state(state),
        };
        matches_but_for_state(self.app_id, self.filter, backend)
            .add_option(is_of_state(target))
            .add_option(narrower)
    }

    /// Settles the oldest. They are picked in a CTE that is MATERIALIZED, so that no plan picks twice.
    pub(super) fn settle(&self, backend: DbBackend, returning: ReturningClause) -> WithQuery {
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
        let mut update = settle(self.settlement).filter(Column::Id.in_subquery(picked)).into_query();
        update.returning(returning).take().with(WithClause::new().cte(oldest).to_owned())
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

    /// Not by `exists`, which has no LIMIT: it was planned to fetch them all.
    async fn is_any_left(&self, db: &impl ConnectionTrait) -> Result<bool, DeadLetterRepoError> {
        let left = Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(self.condition(db.get_database_backend()))
            .into_tuple::<Uuid>()
            .one(db)
            .await?;
        Ok(left.is_some())
    }
}

fn in_range(
    argument: &'static str,
    value: u32,
    range: RangeInclusive<u32>,
) -> Result<u32, DeadLetterRepoError> {
    if !range.contains(&value) {
        let (min, max) = range.into_inner();
        return Err(DeadLetterRepoError::OutOfRange { argument, value, min, max });
    }
    Ok(value)
}
