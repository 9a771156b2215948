//! Finds letters.

use std::ops::Range;

use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{ColumnTrait, EntityTrait, FromQueryResult, QueryFilter, QuerySelect, sea_query::Func};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo, cached_sql::CachedSql, conditions::is_row, connection::RepoConnection, convert,
    metadata::from_stored,
};
use crate::{AppId, DeadLetterId, DeadLetterRepoError, DeadLetterRow, DeadLetterSummary};

pub(super) async fn get<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    id: DeadLetterId,
) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
    static GET: CachedSql = CachedSql::new();
    let id = id.into_inner();
    let get = GET.with(repo.dialect()?, [id.into()], || {
        convert::ShownRow::columns().and_where(COLUMN.id.eq(id)).take()
    });
    let row = convert::ShownRow::find_by_statement(get).one(&repo.db).await?;
    Ok(row.map(DeadLetterRow::from))
}

pub(super) async fn app_of<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    id: DeadLetterId,
) -> Result<Option<AppId>, DeadLetterRepoError> {
    let app = Entity::find_by_id(id.into_inner()).select_only().column(Column::AppId);
    Ok(app.into_tuple::<Uuid>().one(&repo.db).await?.map(AppId::from))
}

pub(super) async fn get_for_app<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    id: DeadLetterId,
) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
    let row = convert::ShownRow::columns().cond_where(is_row(app_id, id)).take();
    let row = repo.dialect()?.build(&row);
    let row = convert::ShownRow::find_by_statement(row).one(&repo.db).await?;
    Ok(row.map(DeadLetterRow::from))
}

pub(super) async fn summary<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    id: DeadLetterId,
) -> Result<Option<DeadLetterSummary>, DeadLetterRepoError> {
    let summary = convert::Summary::columns().cond_where(is_row(app_id, id)).take();
    let summary = repo.dialect()?.build(&summary);
    let row = convert::Summary::find_by_statement(summary).one(&repo.db).await?;
    Ok(row.map(DeadLetterSummary::from))
}

/// Finds a range of characters of the column's text. A NULL is no text.
pub(super) async fn text<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    column: Column,
    app_id: AppId,
    id: DeadLetterId,
    characters: Range<u64>,
) -> Result<Option<String>, DeadLetterRepoError> {
    // PostgreSQL's positions have 32 bits, and its longest text is shorter.
    let clamp = |value: u64| i32::try_from(value).unwrap_or(i32::MAX);
    let first = clamp(characters.start.saturating_add(1));
    let length = clamp(characters.end.saturating_sub(characters.start));
    let part = Func::cust("substr").args([column.into_expr(), first.into(), length.into()]);
    let text = Entity::find().select_only().expr(part).filter(is_row(app_id, id));
    Ok(text.into_model::<convert::TextPart>().one(&repo.db).await?.and_then(|part| part.text))
}

pub(super) async fn metadata<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    id: DeadLetterId,
) -> Result<Option<Map<String, Value>>, DeadLetterRepoError> {
    let metadata = Entity::find().select_only().column(Column::Metadata).filter(is_row(app_id, id));
    let row = metadata.into_model::<convert::StoredMetadata>().one(&repo.db).await?;
    Ok(row.map(|row| from_stored(row.metadata)))
}
