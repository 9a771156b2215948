//! Resolves letters, one or many, and reopens them.

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ConnectionTrait, DbErr, EntityTrait, FromQueryResult, Iterable, QueryFilter, QueryTrait, UpdateMany,
    prelude::DateTimeWithTimeZone,
    sea_query::{Expr, Query, ReturningClause, Value},
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    actions::{self, Entry, Target},
    bulk::{Bulk, Change, Ran},
    cached_sql::CachedSql,
    conditions::{is_not_replayed, is_open, is_row},
    connection::RepoConnection,
    convert::{self, Row, Summary},
    dialect::Dialect,
    get::{app_of, summary},
};
use crate::{
    Action, AppId, Attribution, Changed, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, ReopenRequest,
    Resolution,
};

/// The most attempts at a row that other clients reopen and resolve between two statements. Attempts are bounded,
/// because a trigger or a policy can hide the row from the UPDATE but not from the SELECT.
const ATTEMPTS: usize = 3;

pub(super) async fn resolve<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    id: DeadLetterId,
    reason: &str,
) -> Result<(), DeadLetterRepoError> {
    static RESOLVE: CachedSql = CachedSql::new();
    static REPLAY: CachedSql = CachedSql::new();
    let resolution: Resolution = reason.parse()?;
    let dialect = repo.dialect()?;
    if dialect == Dialect::Sharded {
        return resolve_where_it_is(repo, id, resolution).await;
    }
    let null = || Value::String(None);
    let (cached, edited) = match resolution {
        Resolution::Replayed => (&REPLAY, Some(null())),
        _ => (&RESOLVE, None),
    };
    let values = [resolution.as_str().into(), null(), null(), Value::Uuid(None)];
    let values = values.into_iter().chain(edited).chain([id.into_inner().into()]);
    let update = cached.with(dialect, values, || {
        resolve_rows(dialect, resolution.into(), &Attribution::default())
            .filter(COLUMN.id.eq(id.into_inner()))
            .into_query()
    });
    if repo.db.execute_raw(update).await?.rows_affected() == 0 {
        return Err(DeadLetterRepoError::NotFound(id));
    }
    Ok(())
}

/// Finds the letter's app first. Without the app the UPDATE would hold a lock on every shard.
async fn resolve_where_it_is<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    id: DeadLetterId,
    resolution: Resolution,
) -> Result<(), DeadLetterRepoError> {
    let app_id = app_of(repo, id).await?.ok_or(DeadLetterRepoError::NotFound(id))?;
    let resolved = resolve_rows(Dialect::Sharded, resolution.into(), &Attribution::default())
        .filter(is_row(app_id, id))
        .exec(&repo.db)
        .await?;
    if resolved.rows_affected == 0 {
        return Err(DeadLetterRepoError::NotFound(id));
    }
    Ok(())
}

pub(super) async fn resolve_once<C: RepoConnection, R: Returned>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    id: DeadLetterId,
    action: Action,
    resolved: Resolved<'_>,
    attribution: &Attribution,
) -> Result<R, DeadLetterRepoError> {
    let dialect = repo.dialect()?;
    for _ in 0..ATTEMPTS {
        let target = Target::Letter(id);
        let change = actions::Change {
            entry: Entry { app_id, action, target, resolution: Some(resolved.resolution), attribution },
            update: resolve_rows(dialect, resolved, attribution),
            is_target: is_row(app_id, id).add(is_open()),
            returning: R::returning(),
        };
        if let Some(row) = change.run(repo).await? {
            return Ok(R::from_query_result(&row, "")?);
        }
        let row = summary(repo, app_id, id).await?.ok_or(DeadLetterRepoError::NotFound(id))?;
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

pub(super) async fn resolve_matching<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    filter: &DeadLetterFilter,
    resolution: Resolution,
    attribution: &Attribution,
    limit: u32,
) -> Result<Changed, DeadLetterRepoError> {
    let change = Change::Resolve(resolution, attribution);
    change_all(repo, Bulk::new(repo, app_id, filter, change, limit)?).await
}

pub(super) async fn reopen_matching<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    filter: &DeadLetterFilter,
    attribution: &Attribution,
    request: &ReopenRequest,
) -> Result<Changed, DeadLetterRepoError> {
    let &ReopenRequest { include_replayed, limit } = request;
    let change = Change::Reopen { include_replayed, attribution };
    change_all(repo, Bulk::new(repo, app_id, filter, change, limit)?).await
}

pub(super) async fn change_all<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    bulk: Bulk<'_>,
) -> Result<Changed, DeadLetterRepoError> {
    let Ran { rows, more, skipped } = bulk.run(&repo.db).await?;
    let mut ids = Vec::with_capacity(rows.len());
    for row in rows {
        ids.push((row.try_get::<DateTimeWithTimeZone>("", "created_at")?, row.try_get::<Uuid>("", "id")?));
    }
    ids.sort();
    let ids: Vec<_> = ids.into_iter().map(|(_, id)| id.into()).collect();
    Ok(Changed { ids, more, skipped_locked: skipped })
}

pub(super) async fn reopen<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    id: DeadLetterId,
    attribution: &Attribution,
) -> Result<(), DeadLetterRepoError> {
    for _ in 0..ATTEMPTS {
        let (action, target) = (Action::Reopen, Target::Letter(id));
        let change = actions::Change {
            entry: Entry { app_id, action, target, resolution: None, attribution },
            update: reopen_rows(),
            is_target: is_row(app_id, id).add(COLUMN.resolution.is_not_null()).add(is_not_replayed()),
            returning: Query::returning().column(Column::Id),
        };
        if change.run(repo).await?.is_some() {
            return Ok(());
        }
        let row = summary(repo, app_id, id).await?.ok_or(DeadLetterRepoError::NotFound(id))?;
        if row.resolved_at.is_none() {
            return Err(DeadLetterRepoError::NotResolved(id));
        }
        if row.resolution == Some(Resolution::Replayed) {
            return Err(DeadLetterRepoError::Replayed(id));
        }
        // Another client resolved the letter after the UPDATE, so the loop tries again.
    }
    Err(DbErr::RecordNotUpdated.into())
}

/// The resolution that letters get, and what a replay puts back.
#[derive(Clone, Copy)]
pub(super) struct Resolved<'a> {
    resolution: Resolution,
    /// The payload that a replay puts back instead of the letter's own.
    edited: Option<&'a str>,
}

impl<'a> Resolved<'a> {
    /// Replayed, with this payload if there is one.
    pub(super) fn replayed(edited: Option<&'a str>) -> Self {
        Self { resolution: Resolution::Replayed, edited }
    }
}

impl From<Resolution> for Resolved<'_> {
    fn from(resolution: Resolution) -> Self {
        Self { resolution, edited: None }
    }
}

/// Returns the UPDATE that resolves letters at the database's time. The caller adds the condition.
///
/// Each replay replaces the edited payload of the one before. Other resolutions keep it.
pub(super) fn resolve_rows(
    dialect: Dialect,
    Resolved { resolution, edited }: Resolved<'_>,
    attribution: &Attribution,
) -> UpdateMany<Entity> {
    let text = |text: &Option<String>| Expr::from(text.clone().map(convert::without_nul));
    let update = Entity::update_many()
        .col_expr(Column::Resolution, resolution.as_str().into())
        .col_expr(Column::ResolvedAt, dialect.now())
        .col_expr(Column::ResolvedBy, text(&attribution.by))
        .col_expr(Column::ResolutionNote, text(&attribution.note))
        .col_expr(Column::RunId, attribution.run_id.into());
    match resolution {
        Resolution::Replayed => update.col_expr(Column::ReplayedPayload, edited.map(str::to_owned).into()),
        _ => update,
    }
}

/// Returns the UPDATE that makes letters unresolved. The caller adds the condition.
pub(super) fn reopen_rows() -> UpdateMany<Entity> {
    Entity::update_many()
        .col_expr(Column::Resolution, None::<String>.into())
        .col_expr(Column::ResolvedAt, None::<DateTime<Utc>>.into())
        .col_expr(Column::ResolvedBy, None::<String>.into())
        .col_expr(Column::ResolutionNote, None::<String>.into())
        .col_expr(Column::RunId, None::<Uuid>.into())
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
