//! Sweeping what is due, with an archive or without, and counting it.

use std::{borrow::Cow, collections::HashMap};

use dead_letters_entity::dead_letters::{Column, Entity};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryResult,
    QueryTrait,
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo, bytes::MAX_BYTES, connection::RepoConnection, convert, gc, import::bytes_of,
    in_range, parts::Part, transaction,
};
use crate::{
    AppId, Archive, CappedCount, DeadLetterRepoError, DeadLetterState, Due, StoredLetter, SweepScope, Swept,
};

const EXCEPTED: u32 = 1_000;
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
        let swept = match &*by_index(scope, due) {
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
            scope @ (SweepScope::AllApps | SweepScope::AllAppsBut { .. }) if self.sharded => {
                match self.db.pool() {
                    Some(pool) => {
                        let txn = transaction::begin(pool).await?;
                        let outcome = delete_across_shards(&txn, scope, due, limit).await;
                        transaction::end(txn, outcome).await?
                    }
                    None => delete_across_shards(&self.db, scope, due, limit).await?,
                }
            }
            scope @ SweepScope::AllAppsBut { .. } => {
                let row = self
                    .db
                    .query_one_raw(gc::delete_oldest(backend, self.sharded, scope, due, limit))
                    .await?;
                let (deleted, last) = match row {
                    Some(row) => (row.try_get_by_index::<i64>(0)?, row.try_get_by_index(1)?),
                    None => (0, None::<String>),
                };
                let deleted = deleted.unsigned_abs();
                Swept { deleted, next: last.filter(|_| deleted == limit).and_then(|last| last.parse().ok()) }
            }
            scope => {
                let delete = gc::delete_oldest(backend, self.sharded, scope, due, limit);
                Swept { deleted: self.db.execute_raw(delete).await?.rows_affected(), next: None }
            }
        };
        Ok(Swept { next: swept.next.filter(|_| goes_on_by_app(scope)), ..swept })
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
        let by_index = by_index(scope, due);
        let swept = match self.db.pool() {
            Some(pool) => {
                let txn = transaction::begin(pool).await?;
                let outcome = archive_and_delete(&txn, &by_index, due, limit, archive, self.sharded).await;
                transaction::end(txn, outcome).await?
            }
            None => archive_and_delete(&self.db, &by_index, due, limit, archive, self.sharded).await?,
        };
        Ok(Swept { next: swept.next.filter(|_| goes_on_by_app(scope)), ..swept })
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
        let parts: Vec<_> = match due {
            Due::CreatedBefore(_) => Part::of(state).to_vec(),
            // Only closed rows are due by this time.
            Due::SettledBefore(_) => match state {
                DeadLetterState::Open | DeadLetterState::Unresolved => Vec::new(),
                DeadLetterState::Resolved | DeadLetterState::Any => vec![Part::Closed],
            },
        };
        if parts.is_empty() {
            return Ok(CappedCount { count: 0, at_least: false });
        }
        let limit = u64::from(cap) + 1;
        let scope = match scope {
            // Only the indexes of an app know the state.
            SweepScope::AllApps if !self.sharded => Cow::Owned(all_apps()),
            scope => by_index(scope, due),
        };
        let count = gc::count_oldest(backend, self.sharded, &scope, due, &parts, limit);
        let row = self.db.query_one_raw(count).await?;
        let counted = row.map_or(Ok(0), |row| row.try_get_by_index::<i64>(0))?.unsigned_abs();
        let count = Ord::min(counted, cap.into());
        Ok(CappedCount { count, at_least: counted > count })
    }
}

/// The scope by which an index finds what is due. Closed rows have an index by app: those of all apps are found from
/// app to app.
fn by_index(scope: &SweepScope, due: Due) -> Cow<'_, SweepScope> {
    match (scope, due) {
        (SweepScope::AllApps, Due::SettledBefore(_)) => Cow::Owned(all_apps()),
        _ => Cow::Borrowed(scope),
    }
}

fn all_apps() -> SweepScope {
    SweepScope::AllAppsBut { excepted: Vec::new(), from: None }
}

/// Whether the caller can begin the next batch with an app.
fn goes_on_by_app(scope: &SweepScope) -> bool {
    matches!(scope, SweepScope::AllAppsBut { .. })
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
        let delete =
            gc::delete_oldest(DbBackend::Sqlite, false, &SweepScope::App(app_id), due, limit - deleted);
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

/// An app, and how many of its rows a batch is to delete.
type Share = (AppId, u64);

async fn shares(
    db: &impl ConnectionTrait,
    scope: &SweepScope,
    due: Due,
    limit: u64,
) -> Result<Vec<Share>, DbErr> {
    let shares = db.query_all_raw(gc::share_by_app(scope, due, limit)).await?;
    let share = |row: &QueryResult| {
        let count = row.try_get_by_index::<i64>(1)?.unsigned_abs();
        Ok((row.try_get_by_index::<Uuid>(0)?.into(), count))
    };
    shares.iter().map(share).collect()
}

/// The app to begin the next batch with, if this one may have left apps behind: its last one, but where others
/// hold whatever is left of that.
fn next_app(limit: u64, shares: &[Share], of_last: u64) -> Option<AppId> {
    let &(app_id, share) = shares.last()?;
    if shares.iter().map(|(_, share)| share).sum::<u64>() < limit {
        return None;
    }
    match of_last < share {
        true => Some(Uuid::from_u128(app_id.into_inner().as_u128().checked_add(1)?).into()),
        false => Some(app_id),
    }
}

async fn delete_across_shards(
    db: &impl ConnectionTrait,
    scope: &SweepScope,
    due: Due,
    limit: u64,
) -> Result<Swept, DeadLetterRepoError> {
    let shares = shares(db, scope, due, limit).await?;
    let (mut deleted, mut of_app) = (0, 0);
    for &(app_id, share) in &shares {
        let delete = gc::delete_oldest(DbBackend::Postgres, true, &SweepScope::App(app_id), due, share);
        of_app = db.execute_raw(delete).await?.rows_affected();
        deleted += of_app;
    }
    Ok(Swept { deleted, next: next_app(limit, &shares, of_app) })
}

/// Deletes rows that are due by their ids, once the archive has them.
async fn archive_and_delete(
    db: &impl ConnectionTrait,
    scope: &SweepScope,
    due: Due,
    limit: u64,
    archive: &dyn Archive,
    sharded: bool,
) -> Result<Swept, DeadLetterRepoError> {
    let backend = db.get_database_backend();
    let (letters, next) = match backend {
        DbBackend::Sqlite => find_letters_on_sqlite(db, scope, due, limit).await?,
        _ if sharded && gc::app_of(scope).is_none() => {
            lock_letters_across_shards(db, scope, due, limit).await?
        }
        _ => lock_letters_on_postgres(db, scope, due, limit).await?,
    };
    if letters.is_empty() {
        return Ok(Swept { deleted: 0, next });
    }
    archive.keep(&letters).await.map_err(|error| DeadLetterRepoError::Archive(error.into()))?;
    let mut deleted = 0;
    for letters in letters.chunk_by(|left, right| !sharded || left.app_id == right.app_id) {
        // Not where it is one table, whose key is the id: with the app as well it read all versions of a row.
        let app_id = letters.first().filter(|_| sharded).map(|letter| letter.app_id);
        for letters in letters.chunks(IDS) {
            let ids = letters.iter().map(|letter| letter.id.into_inner());
            deleted += db.execute_raw(gc::delete_by_id(backend, app_id, ids)).await?.rows_affected();
        }
    }
    Ok(Swept { deleted, next })
}

/// A batch, in the order in which it goes, and the app to go on with, if there may be more.
type Batch = (Vec<StoredLetter>, Option<AppId>);

async fn lock_letters_on_postgres(
    db: &impl ConnectionTrait,
    scope: &SweepScope,
    due: Due,
    limit: u64,
) -> Result<Batch, DbErr> {
    let (letters, locked) = lock_letters(db, scope, due, limit, MAX_BYTES).await?;
    let more = locked == limit || locked > letters.len() as u64;
    let next = letters.last().filter(|_| more).map(|last| last.app_id);
    Ok((letters, next))
}

async fn lock_letters_across_shards(
    db: &impl ConnectionTrait,
    scope: &SweepScope,
    due: Due,
    limit: u64,
) -> Result<Batch, DbErr> {
    let shares = shares(db, scope, due, limit).await?;
    let (mut letters, mut bytes, mut of_last) = (Vec::new(), 0, 0);
    for &(app_id, share) in &shares {
        let room = MAX_BYTES.saturating_sub(bytes);
        let (of_app, locked) = lock_letters(db, &SweepScope::App(app_id), due, share, room).await?;
        bytes += of_app.iter().map(|letter| bytes_of(letter) as u64).sum::<u64>();
        if bytes > MAX_BYTES && !letters.is_empty() {
            // One, that there is no room for.
            return Ok((letters, Some(app_id)));
        }
        let is_full = locked > of_app.len() as u64;
        letters.extend(of_app);
        if is_full {
            return Ok((letters, Some(app_id)));
        }
        of_last = locked;
    }
    Ok((letters, next_app(limit, &shares, of_last)))
}

/// As many as there is room for, or one; and how many it locked.
async fn lock_letters(
    db: &impl ConnectionTrait,
    scope: &SweepScope,
    due: Due,
    limit: u64,
    bytes: u64,
) -> Result<(Vec<StoredLetter>, u64), DbErr> {
    let rows = db.query_all_raw(gc::lock_oldest_on_postgres(scope, due, limit, bytes)).await?;
    let locked = rows.first().map_or(Ok(0), |row| row.try_get::<i64>("", "rows_locked"))?.unsigned_abs();
    let letters = rows.iter().map(|row| Ok(convert::Row::from_query_result(row, "")?.into()));
    Ok((letters.collect::<Result<_, DbErr>>()?, locked))
}

/// What SQLite is asked for first: no row is read that the batch has no room for.
#[derive(FromQueryResult)]
struct Sized {
    id: Uuid,
    bytes: i64,
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
            bytes += row.bytes.unsigned_abs();
            more = bytes > MAX_BYTES;
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
    let letters: Vec<_> = oldest.iter().filter_map(|id| letters.remove(id)).collect();
    let next = letters.last().filter(|_| more).map(|last| last.app_id);
    Ok((letters, next))
}
