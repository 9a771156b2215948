//! Sweeping what is due, with an archive or without, and counting it.

use dead_letters_entity::dead_letters::{Column, Entity};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, FromQueryResult, QueryFilter, QueryTrait,
    sea_query::Expr,
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo, convert, gc, in_range, record_rows,
    transaction::{self, RepoConnection},
};
use crate::{
    AppId, Archive, CappedCount, DeadLetterRepoError, DeadLetterState, Due, StoredLetter, SweepScope, Swept,
};

const EXCEPTED: u32 = 1_000;
/// Of payload, in one batch for the archive; a larger row goes alone.
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
            SweepScope::AllAppsBut { .. } if backend == DbBackend::Sqlite => {
                self.delete_locked(scope, due, limit, None).await?
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
        record_rows(swept.deleted);
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
        let swept = self.delete_locked(scope, due, limit, Some(archive)).await?;
        record_rows(swept.deleted);
        Ok(swept)
    }

    /// In one transaction.
    async fn delete_locked(
        &self,
        scope: &SweepScope,
        due: Due,
        limit: u64,
        archive: Option<&dyn Archive>,
    ) -> Result<Swept, DeadLetterRepoError> {
        let Some(pool) = self.db.pool() else {
            return delete_locked(&self.db, scope, due, limit, archive).await;
        };
        let txn = transaction::begin(pool).await?;
        let outcome = delete_locked(&txn, scope, due, limit, archive).await;
        transaction::end(txn, outcome).await
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
        record_rows(count);
        Ok(CappedCount { count, at_least: counted > count })
    }
}

fn check(backend: DbBackend, scope: &SweepScope) -> Result<(), DeadLetterRepoError> {
    if let SweepScope::AllAppsBut { excepted, .. } = scope {
        in_range("excepted", u32::try_from(excepted.len()).unwrap_or(u32::MAX), 0..=EXCEPTED)?;
    }
    Ok(gc::require_supported(backend)?)
}

/// A row that is due, and locked where there are locks.
#[derive(FromQueryResult)]
struct Locked {
    id: Uuid,
    app_id: Uuid,
    bytes: i32,
}

/// Deletes the oldest rows that are due by their ids, once the archive has them.
async fn delete_locked(
    db: &impl ConnectionTrait,
    scope: &SweepScope,
    due: Due,
    limit: u64,
    archive: Option<&dyn Archive>,
) -> Result<Swept, DeadLetterRepoError> {
    let mut locked = lock(db, scope, due, limit).await?;
    let mut more = locked.len() as u64 == limit;
    if archive.is_some() {
        let fitting = fitting(&locked);
        more |= fitting < locked.len();
        locked.truncate(fitting);
    }
    let Some(last) = locked.last() else { return Ok(Swept::default()) };
    let by_app = matches!(scope, SweepScope::AllAppsBut { .. });
    let next = (more && by_app).then(|| AppId::from(last.app_id));
    let mut ids: Vec<_> = locked.iter().map(|row| row.id).collect();
    if let Some(archive) = archive {
        let letters = letters(db, &ids).await?;
        archive.keep(&letters).await.map_err(|error| DeadLetterRepoError::Archive(error.into()))?;
        // And nothing else.
        ids = letters.into_iter().map(|letter| letter.id.into_inner()).collect();
    }
    let mut deleted = 0;
    for ids in ids.chunks(IDS) {
        deleted += Entity::delete_many().filter(is_one_of(db, ids)).exec(db).await?.rows_affected;
    }
    Ok(Swept { deleted, next })
}

/// In the order in which they go.
async fn lock(
    db: &impl ConnectionTrait,
    scope: &SweepScope,
    due: Due,
    limit: u64,
) -> Result<Vec<Locked>, DeadLetterRepoError> {
    let backend = db.get_database_backend();
    let lock =
        |scope: &SweepScope, limit| Locked::find_by_statement(gc::lock_oldest(backend, scope, due, limit));
    let (DbBackend::Sqlite, SweepScope::AllAppsBut { excepted, from }) = (backend, scope) else {
        return Ok(lock(scope, limit).all(db).await?);
    };
    // No LATERAL there; and nobody else writes meanwhile.
    let mut locked = Vec::new();
    for app in db.query_all(&gc::apps_with_due_on_sqlite(excepted, *from, due, limit)).await? {
        let left = limit - locked.len() as u64;
        if left == 0 {
            break;
        }
        let app = SweepScope::App(app.try_get_by_index::<Uuid>(0)?.into());
        locked.extend(lock(&app, left).all(db).await?);
    }
    Ok(locked)
}

/// How many of the first rows are a batch for the archive.
fn fitting(locked: &[Locked]) -> usize {
    let mut bytes = 0;
    let fits = |row: &&Locked| {
        bytes += u64::from(row.bytes.unsigned_abs());
        bytes <= ARCHIVED_BYTES
    };
    let fitting = locked.iter().take_while(fits).count();
    Ord::max(fitting, Ord::min(locked.len(), 1))
}

async fn letters(db: &impl ConnectionTrait, ids: &[Uuid]) -> Result<Vec<StoredLetter>, DeadLetterRepoError> {
    let mut letters = Vec::with_capacity(ids.len());
    for ids in ids.chunks(IDS) {
        let find = Entity::find().filter(is_one_of(db, ids)).build(db.get_database_backend());
        letters.extend(convert::Row::find_by_statement(find).all(db).await?.into_iter().map(Into::into));
    }
    Ok(letters)
}

/// One text, on PostgreSQL, for any number.
pub(super) fn is_one_of(db: &impl ConnectionTrait, ids: &[Uuid]) -> Expr {
    match db.get_database_backend() {
        DbBackend::Sqlite => Column::Id.is_in(ids.iter().copied()),
        _ => Column::Id.eq_any(ids.iter().copied()),
    }
}
