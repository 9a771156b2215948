//! Sweeping what is due, with an archive or without, and counting it.

use std::collections::HashMap;

use dead_letters_entity::dead_letters::{Column, Entity};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryTrait,
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo, convert, gc, in_range,
    transaction::{self, RepoConnection},
};
use crate::{
    AppId, Archive, CappedCount, DeadLetterRepoError, DeadLetterState, Due, StoredLetter, SweepScope, Swept,
};

const EXCEPTED: u32 = 1_000;
/// Of payload, in one batch for the archive, or one row.
const ARCHIVED_BYTES: u64 = 16 << 20;
/// In one statement: SQLite takes 32,766 values.
const IDS: usize = 1_000;

impl<C: RepoConnection> SeaOrmDeadLetterRepo<C> {
    pub(super) async fn delete_due(
        &self,
        scope: &SweepScope,
        due: Due,
        limit: u64,
    ) -> Result<Swept, DeadLetterRepoError> {
        let backend = self.db.get_database_backend();
        check(backend, scope)?;
        let swept = match scope {
            _ if limit == 0 => Swept::default(),
            SweepScope::AllAppsBut { excepted, from } if backend == DbBackend::Sqlite => {
                match self.db.pool() {
                    Some(pool) => {
                        let txn = transaction::begin(pool).await?;
                        let outcome = delete_by_app_on_sqlite(&txn, excepted, *from, due, limit).await;
                        transaction::end(txn, outcome).await?
                    }
                    None => delete_by_app_on_sqlite(&self.db, excepted, *from, due, limit).await?,
                }
            }
            SweepScope::AllAppsBut { .. } => {
                let row = self.db.query_one_raw(gc::delete_oldest(backend, scope, due, limit)).await?;
                let (deleted, last) = match row {
                    Some(row) => (row.try_get_by_index::<i64>(0)?, row.try_get_by_index(1)?),
                    None => (0, None::<String>),
                };
                let deleted = deleted.unsigned_abs();
                Swept { deleted, next: last.filter(|_| deleted == limit).and_then(|last| last.parse().ok()) }
            }
            _ => {
                let delete = gc::delete_oldest(backend, scope, due, limit);
                Swept { deleted: self.db.execute_raw(delete).await?.rows_affected(), next: None }
            }
        };
        Ok(swept)
    }

    pub(super) async fn archive_due(
        &self,
        scope: &SweepScope,
        due: Due,
        limit: u64,
        archive: &dyn Archive,
    ) -> Result<Swept, DeadLetterRepoError> {
        check(self.db.get_database_backend(), scope)?;
        if limit == 0 {
            return Ok(Swept::default());
        }
        let swept = match self.db.pool() {
            Some(pool) => {
                let txn = transaction::begin(pool).await?;
                let outcome = archive_and_delete(&txn, scope, due, limit, archive).await;
                transaction::end(txn, outcome).await?
            }
            None => archive_and_delete(&self.db, scope, due, limit, archive).await?,
        };
        Ok(swept)
    }

    pub(super) async fn count_due_rows(
        &self,
        scope: &SweepScope,
        due: Due,
        state: DeadLetterState,
        cap: u32,
    ) -> Result<CappedCount, DeadLetterRepoError> {
        let backend = self.db.get_database_backend();
        check(backend, scope)?;
        let is_open = matches!(state, DeadLetterState::Open | DeadLetterState::Unresolved);
        if is_open && matches!(due, Due::SettledBefore(_)) {
            return Ok(CappedCount { count: 0, at_least: false });
        }
        let all_but_none = SweepScope::AllAppsBut { excepted: Vec::new(), from: None };
        let scope = match scope {
            // Only the indexes of an app know the state.
            SweepScope::AllApps => &all_but_none,
            scope => scope,
        };
        let count = gc::count_oldest(backend, scope, due, state, u64::from(cap) + 1);
        let row = self.db.query_one_raw(count).await?;
        let counted = row.map_or(Ok(0), |row| row.try_get_by_index::<i64>(0))?.unsigned_abs();
        let count = Ord::min(counted, cap.into());
        Ok(CappedCount { count, at_least: counted > count })
    }
}

fn check(backend: DbBackend, scope: &SweepScope) -> Result<(), DeadLetterRepoError> {
    if let SweepScope::AllAppsBut { excepted, .. } = scope {
        in_range("excepted", u32::try_from(excepted.len()).unwrap_or(u32::MAX), 0..=EXCEPTED)?;
    }
    Ok(gc::require_supported(backend)?)
}

/// SQLite has no LATERAL; and nobody else writes meanwhile.
async fn delete_by_app_on_sqlite(
    db: &impl ConnectionTrait,
    excepted: &[AppId],
    from: Option<AppId>,
    due: Due,
    limit: u64,
) -> Result<Swept, DeadLetterRepoError> {
    let mut deleted = 0;
    for app_id in apps_on_sqlite(db, excepted, from, due, limit).await? {
        let delete = gc::delete_oldest(DbBackend::Sqlite, &SweepScope::App(app_id), due, limit - deleted);
        deleted += db.execute_raw(delete).await?.rows_affected();
        if deleted == limit {
            return Ok(Swept { deleted, next: Some(app_id) });
        }
    }
    Ok(Swept { deleted, next: None })
}

async fn apps_on_sqlite(
    db: &impl ConnectionTrait,
    excepted: &[AppId],
    from: Option<AppId>,
    due: Due,
    limit: u64,
) -> Result<Vec<AppId>, DbErr> {
    let apps = db.query_all(&gc::apps_with_due_on_sqlite(excepted, from, due, limit)).await?;
    apps.iter().map(|row| Ok(row.try_get_by_index::<Uuid>(0)?.into())).collect()
}

/// Deletes rows that are due by their ids, once the archive has them.
async fn archive_and_delete(
    db: &impl ConnectionTrait,
    scope: &SweepScope,
    due: Due,
    limit: u64,
    archive: &dyn Archive,
) -> Result<Swept, DeadLetterRepoError> {
    let backend = db.get_database_backend();
    let (letters, more) = match backend {
        DbBackend::Sqlite => find_letters_on_sqlite(db, scope, due, limit).await?,
        _ => lock_letters_on_postgres(db, scope, due, limit).await?,
    };
    let Some(last) = letters.last() else { return Ok(Swept::default()) };
    let by_app = matches!(scope, SweepScope::AllAppsBut { .. });
    let next = (more && by_app).then_some(last.app_id);
    archive.keep(&letters).await.map_err(|error| DeadLetterRepoError::Archive(error.into()))?;
    let ids: Vec<_> = letters.into_iter().map(|letter| letter.id.into_inner()).collect();
    let mut deleted = 0;
    for ids in ids.chunks(IDS) {
        deleted += db.execute_raw(gc::delete_by_id(backend, ids)).await?.rows_affected();
    }
    Ok(Swept { deleted, next })
}

/// A batch, in the order in which it goes, and whether there may be more.
type Batch = (Vec<StoredLetter>, bool);

async fn lock_letters_on_postgres(
    db: &impl ConnectionTrait,
    scope: &SweepScope,
    due: Due,
    limit: u64,
) -> Result<Batch, DbErr> {
    let rows = db.query_all_raw(gc::lock_oldest_on_postgres(scope, due, limit, ARCHIVED_BYTES)).await?;
    let locked = rows.first().map_or(Ok(0), |row| row.try_get::<i64>("", "locked"))?.unsigned_abs();
    let more = locked == limit || locked > rows.len() as u64;
    let letters = rows.iter().map(|row| Ok(convert::Row::from_query_result(row, "")?.into()));
    Ok((letters.collect::<Result<_, DbErr>>()?, more))
}

/// What SQLite is asked for first: no row is read that the batch has no room for.
#[derive(FromQueryResult)]
struct Sized {
    id: Uuid,
    bytes: i32,
}

async fn find_letters_on_sqlite(
    db: &impl ConnectionTrait,
    scope: &SweepScope,
    due: Due,
    limit: u64,
) -> Result<Batch, DbErr> {
    let scopes = match scope {
        SweepScope::App(app_id) => vec![Some(*app_id)],
        SweepScope::AllApps => vec![None],
        SweepScope::AllAppsBut { excepted, from } => {
            apps_on_sqlite(db, excepted, *from, due, limit).await?.into_iter().map(Some).collect()
        }
    };
    let (mut oldest, mut bytes) = (Vec::new(), 0);
    let mut more = false;
    'batch: for app_id in scopes {
        let left = limit - oldest.len() as u64;
        let find = gc::find_oldest_on_sqlite(app_id, due, left);
        for row in Sized::find_by_statement(find).all(db).await? {
            bytes += u64::from(row.bytes.unsigned_abs());
            more = bytes > ARCHIVED_BYTES;
            if more && !oldest.is_empty() {
                break 'batch;
            }
            oldest.push(row.id);
        }
        more = oldest.len() as u64 == limit;
        if more {
            break;
        }
    }
    let mut letters = HashMap::new();
    for ids in oldest.chunks(IDS) {
        let find = Entity::find().filter(Column::Id.is_in(ids.iter().copied())).build(DbBackend::Sqlite);
        for row in convert::Row::find_by_statement(find).all(db).await? {
            let letter = StoredLetter::from(row);
            letters.insert(letter.id.into_inner(), letter);
        }
    }
    Ok((oldest.iter().filter_map(|id| letters.remove(id)).collect(), more))
}
