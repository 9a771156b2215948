//! Sweeps due letters, with or without an archive, and counts them.

use std::{borrow::Cow, collections::HashMap};

use chrono::{DateTime, Utc};
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbErr, FromQueryResult, QueryResult, Statement,
    prelude::DateTimeWithTimeZone,
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    bytes::MAX_BYTES,
    connection::RepoConnection,
    convert,
    dialect::Dialect,
    in_range, non_negative,
    parts::Part,
    sweep_sql::{self, app_of, goes_by_app},
};
use crate::{
    AppId, Archive, CappedCount, DeadLetterRepoError, DeadLetterState, Due, StoredLetter, SweepCursor,
    SweepScope, Swept, db_code::DbCode,
};

const EXCEPTED: u32 = 1_000;
/// The most ids in one statement. SQLite binds at most 32,766 values.
const IDS: usize = 1_000;

/// Implements `gc`. One statement suffices, because the caller does not learn which rows were picked.
pub(super) async fn gc<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    older_than: DateTime<Utc>,
    limit: i64,
) -> Result<u64, DeadLetterRepoError> {
    let limit = non_negative("limit", limit)?;
    let (scope, due) = (SweepScope::AllApps, Due::CreatedBefore(older_than));
    let delete = match repo.dialect()? {
        Dialect::Sharded => {
            return Ok(sweep(repo, &scope, due, None, limit, None).await?.deleted);
        }
        _ if limit == 0 => return Ok(0),
        Dialect::Sqlite => sweep_sql::delete_oldest_on_sqlite(None, due, None, limit),
        Dialect::Postgres => sweep_sql::delete_oldest_on_postgres(due, limit),
    };
    Ok(repo.db.execute_raw(delete).await?.rows_affected())
}

pub(super) async fn sweep<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    scope: &SweepScope,
    due: Due,
    after: Option<SweepCursor>,
    limit: u64,
    archive: Option<&dyn Archive>,
) -> Result<Swept, DeadLetterRepoError> {
    check(scope)?;
    let dialect = repo.dialect()?;
    if limit == 0 {
        return Ok(Swept::default());
    }
    let scope = by_index(scope, due);
    let job = Job { scope: &scope, due, after, limit, dialect };
    match run(repo, job, archive).await {
        Err(DeadLetterRepoError::Db(error))
            if goes_by_app(&scope) && repo.db.pool().is_some() && job.may_be_of_one_app(&error) =>
        {
            run_first_app(repo, job, archive, error).await
        }
        outcome => outcome,
    }
}

/// Runs a failed batch of several apps again for its first app alone. The batch's error does not show which
/// app's row caused it. An error of this run belongs to that app; without one, that app is done.
async fn run_first_app<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    job: Job<'_>,
    archive: Option<&dyn Archive>,
    error: DbErr,
) -> Result<Swept, DeadLetterRepoError> {
    let Some(app_id) = first_app(repo, job).await? else { return Err(error.into()) };
    let of_app = Job { scope: &SweepScope::App(app_id), after: job.after_in(app_id), ..job };
    match run(repo, of_app, archive).await {
        Ok(swept) => Ok(Swept { next: swept.next.or(Some(SweepCursor::behind_app(app_id))), ..swept }),
        Err(DeadLetterRepoError::Db(error)) if job.may_be_of_one_app(&error) => {
            Err(DeadLetterRepoError::AppNotSwept { app_id, error })
        }
        failed => failed,
    }
}

/// Finds the first app that has due rows behind the cursor.
async fn first_app<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    job: Job<'_>,
) -> Result<Option<AppId>, DbErr> {
    if job.dialect == Dialect::Sqlite {
        for (app_id, after) in scans_on_sqlite(&repo.db, Job { limit: 1, ..job }).await? {
            // All due rows of the cursor's app may lie before the cursor.
            let pick = sweep_sql::pick_oldest_on_sqlite(app_id, job.due, after, 1);
            let found = repo.db.query_one(&pick).await?;
            if found.as_ref().map_or(Ok(Swept::default()), picked_of)?.picked > 0 {
                return Ok(app_id);
            }
        }
        return Ok(None);
    }
    let first = sweep_sql::first_app_on_postgres(job.dialect, job.scope, job.due, job.after);
    let first = repo.db.query_one_raw(first).await?;
    first.map(|row| Ok(row.try_get_by_index::<Uuid>(0)?.into())).transpose()
}

/// Runs one batch. Over a pool every batch is a transaction, even a single statement. PostgreSQL reports an
/// error before it releases the failed statement's locks. The next batch, on another connection, would skip
/// these rows. A ROLLBACK returns after the locks are released.
async fn run<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    job: Job<'_>,
    archive: Option<&dyn Archive>,
) -> Result<Swept, DeadLetterRepoError> {
    let work = async |db: &DatabaseTransaction| match archive {
        None => Ok(delete(db, job).await?),
        Some(archive) if repo.db.pool().is_some() => delete_then_archive(db, job, archive).await,
        Some(archive) => archive_then_delete(db, job, archive).await,
    };
    repo.db.in_transaction(work).await
}

pub(super) async fn count_due<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    scope: &SweepScope,
    due: Due,
    state: DeadLetterState,
    cap: u32,
) -> Result<CappedCount, DeadLetterRepoError> {
    check(scope)?;
    let dialect = repo.dialect()?;
    let parts: Vec<_> = match due {
        Due::CreatedBefore(_) => Part::of(state).to_vec(),
        // Only closed letters have this time.
        Due::ClosedBefore(_) => match state {
            DeadLetterState::Open | DeadLetterState::Unresolved => Vec::new(),
            DeadLetterState::Closed | DeadLetterState::Any => vec![Part::Closed],
        },
    };
    if parts.is_empty() {
        return Ok(CappedCount::default());
    }
    let limit = u64::from(cap) + 1;
    let scope = match scope {
        // Only the indexes that begin with the app have the state.
        SweepScope::AllApps if dialect != Dialect::Sharded => Cow::Owned(all_apps()),
        scope => by_index(scope, due),
    };
    let count = sweep_sql::count_oldest(dialect, &scope, due, &parts, limit);
    let row = repo.db.query_one_raw(count).await?;
    let counted = row.map_or(Ok(0), |row| row.try_get_by_index::<i64>(0))?.unsigned_abs();
    let count = Ord::min(counted, cap.into());
    Ok(CappedCount { count, capped: counted > count })
}

/// Returns the scope for which an index finds the due rows. The index of closed rows begins with the app, so a
/// sweep of all apps goes by app.
fn by_index(scope: &SweepScope, due: Due) -> Cow<'_, SweepScope> {
    match (scope, due) {
        (SweepScope::AllApps, Due::ClosedBefore(_)) => Cow::Owned(all_apps()),
        _ => Cow::Borrowed(scope),
    }
}

fn all_apps() -> SweepScope {
    SweepScope::AllAppsBut { excepted: Vec::new() }
}

fn check(scope: &SweepScope) -> Result<(), DeadLetterRepoError> {
    if let SweepScope::AllAppsBut { excepted } = scope {
        in_range("excepted", u32::try_from(excepted.len()).unwrap_or(u32::MAX), 0..=EXCEPTED)?;
    }
    Ok(())
}

/// One batch of a sweep.
#[derive(Clone, Copy)]
struct Job<'a> {
    scope: &'a SweepScope,
    due: Due,
    after: Option<SweepCursor>,
    limit: u64,
    dialect: Dialect,
}

impl Job<'_> {
    /// Returns whether the rows of one app may have caused the error. A timeout counts only for a batch of one
    /// row: the caller tries a larger batch again with fewer rows.
    fn may_be_of_one_app(&self, error: &DbErr) -> bool {
        DbCode::of(error)
            .is_some_and(|code| code.may_be_of_one_app() || self.limit == 1 && code.is_time_out())
    }

    fn spans_shards(&self) -> bool {
        self.dialect == Dialect::Sharded && app_of(self.scope).is_none()
    }

    /// Returns the cursor behind which the batch starts in one of its apps. If the scope goes by app, the batch
    /// starts at the oldest row in each app behind the cursor's app.
    fn after_in(&self, app_id: AppId) -> Option<SweepCursor> {
        self.after.filter(|after| !goes_by_app(self.scope) || after.app_id == app_id)
    }
}

async fn delete(db: &impl ConnectionTrait, job: Job<'_>) -> Result<Swept, DbErr> {
    match job.dialect {
        Dialect::Sqlite => delete_on_sqlite(db, job).await,
        _ if job.spans_shards() => delete_across_shards(db, job).await,
        _ => delete_on_postgres(db, job).await,
    }
}

async fn delete_on_postgres(db: &impl ConnectionTrait, job: Job<'_>) -> Result<Swept, DbErr> {
    let Job { scope, due, after, limit, dialect } = job;
    let row =
        db.query_one_raw(sweep_sql::sweep_oldest_on_postgres(dialect, scope, due, after, limit)).await?;
    row.map_or(Ok(Swept::default()), |row| {
        let deleted = row.try_get::<i64>("", "deleted")?.unsigned_abs();
        Ok(Swept { deleted, ..picked_of(&row)? })
    })
}

/// Returns how many rows a batch picked, and the last of them if the batch is full.
fn picked_of(row: &QueryResult) -> Result<Swept, DbErr> {
    let picked = row.try_get::<i64>("", "picked")?.unsigned_abs();
    let next = match row.try_get::<Option<Uuid>>("", "app_id")? {
        Some(app_id) => Some(place_of(row, app_id)?),
        None => None,
    };
    Ok(Swept { picked, deleted: 0, next })
}

fn place_of(row: &QueryResult, app_id: Uuid) -> Result<SweepCursor, DbErr> {
    let time: DateTimeWithTimeZone = row.try_get("", "due_at")?;
    let id = row.try_get::<Uuid>("", "id")?.into();
    Ok(SweepCursor { app_id: app_id.into(), time: time.to_utc(), id })
}

/// Deletes a batch scan by scan, because SQLite has no LATERAL. The transaction keeps other writers out.
async fn delete_on_sqlite(db: &impl ConnectionTrait, job: Job<'_>) -> Result<Swept, DbErr> {
    let mut swept = Swept::default();
    for (app_id, after) in scans_on_sqlite(db, job).await? {
        let left = job.limit - swept.picked;
        let found = db.query_one(&sweep_sql::pick_oldest_on_sqlite(app_id, job.due, after, left)).await?;
        let Swept { picked, next, .. } = found.as_ref().map_or(Ok(Swept::default()), picked_of)?;
        if picked > 0 {
            let delete = sweep_sql::delete_oldest_on_sqlite(app_id, job.due, after, left);
            swept.deleted += db.execute_raw(delete).await?.rows_affected();
            swept.picked += picked;
        }
        if next.is_some() {
            return Ok(Swept { next, ..swept });
        }
    }
    Ok(swept)
}

/// Returns the scans that a batch runs on SQLite, in order. Each scans one app or all apps, and starts behind the
/// cursor if there is one.
async fn scans_on_sqlite(
    db: &impl ConnectionTrait,
    job: Job<'_>,
) -> Result<Vec<(Option<AppId>, Option<SweepCursor>)>, DbErr> {
    let SweepScope::AllAppsBut { excepted } = job.scope else {
        return Ok(vec![(app_of(job.scope), job.after)]);
    };
    // All due rows of the cursor's app may lie before the cursor, so this reads one app more.
    let limit = job.limit.saturating_add(job.after.is_some().into());
    let apps = db.query_all(&sweep_sql::apps_with_due_on_sqlite(excepted, job.after, job.due, limit)).await?;
    let scan = |row: &QueryResult| {
        let app_id = row.try_get_by_index::<Uuid>(0)?.into();
        Ok((Some(app_id), job.after_in(app_id)))
    };
    apps.iter().map(scan).collect()
}

/// How a batch of many apps is split.
struct Shares {
    /// Each app, and the number of its rows in the batch.
    of_apps: Vec<(AppId, u64)>,
    /// The batch's last row, if the batch is full.
    next: Option<SweepCursor>,
}

async fn shares(db: &impl ConnectionTrait, job: Job<'_>, max_bytes: Option<u64>) -> Result<Shares, DbErr> {
    let share = sweep_sql::share_by_app(job.scope, job.due, job.after, job.limit, max_bytes);
    let (mut of_apps, mut rows, mut found, mut last) = (Vec::new(), 0, 0, None);
    for row in db.query_all_raw(share).await? {
        let app_id = row.try_get::<Uuid>("", "app_id")?;
        let of_app = row.try_get::<i64>("", "rows")?.unsigned_abs();
        let place = row.try_get::<i64>("", "place")?;
        found = row.try_get::<i64>("", "found")?.unsigned_abs();
        rows += of_app;
        of_apps.push((app_id.into(), of_app));
        if last.is_none_or(|(before, _)| before < place) {
            last = Some((place, place_of(&row, app_id)?));
        }
    }
    let is_full = rows == job.limit || rows < found;
    Ok(Shares { of_apps, next: last.filter(|_| is_full).map(|(_, last)| last) })
}

async fn delete_across_shards(db: &impl ConnectionTrait, job: Job<'_>) -> Result<Swept, DbErr> {
    let Shares { of_apps, next } = shares(db, job, None).await?;
    let mut swept = Swept { next, ..Swept::default() };
    for (app_id, limit) in of_apps {
        let of_app = Job { scope: &SweepScope::App(app_id), after: job.after_in(app_id), limit, ..job };
        let Swept { picked, deleted, .. } = delete_on_postgres(db, of_app).await?;
        swept.picked += picked;
        swept.deleted += deleted;
    }
    Ok(swept)
}

/// Deletes a batch, and then archives the deleted letters. Rows that the database does not delete are not
/// archived. An error of the archive rolls the transaction back, which is the repo's own.
async fn delete_then_archive(
    db: &impl ConnectionTrait,
    job: Job<'_>,
    archive: &dyn Archive,
) -> Result<Swept, DeadLetterRepoError> {
    let batch = pick(db, job).await?;
    let letters = letters_of(db, &batch, job.dialect, sweep_sql::delete_by_id_returning).await?;
    if job.dialect != Dialect::Sqlite && !letters.is_empty() {
        // Reports a violated deferred constraint before the archive keeps the letters, instead of at the commit.
        db.execute_unprepared("SET CONSTRAINTS ALL IMMEDIATE").await?;
    }
    keep(archive, &letters).await?;
    Ok(batch.swept(letters.len() as u64))
}

/// Archives a batch, and then deletes it. The caller may commit its transaction after an error of the archive, so
/// nothing is deleted before.
async fn archive_then_delete(
    db: &impl ConnectionTrait,
    job: Job<'_>,
    archive: &dyn Archive,
) -> Result<Swept, DeadLetterRepoError> {
    let batch = pick(db, job).await?;
    keep(archive, &letters_of(db, &batch, job.dialect, sweep_sql::find_by_id).await?).await?;
    let mut deleted = 0;
    for (app_id, ids) in batch.ids(job.dialect) {
        let delete = sweep_sql::delete_by_id(job.dialect, app_id, &ids);
        deleted += db.execute_raw(delete).await?.rows_affected();
    }
    Ok(batch.swept(deleted))
}

async fn keep(archive: &dyn Archive, letters: &[StoredLetter]) -> Result<(), DeadLetterRepoError> {
    if letters.is_empty() {
        return Ok(());
    }
    archive.keep(letters).await.map_err(|error| DeadLetterRepoError::Archive(error.into()))
}

/// A row of a batch.
struct Picked {
    place: SweepCursor,
    bytes: u64,
}

impl FromQueryResult for Picked {
    fn from_query_result(row: &QueryResult, _: &str) -> Result<Self, DbErr> {
        let place = place_of(row, row.try_get("", "app_id")?)?;
        Ok(Self { place, bytes: row.try_get::<i64>("", "bytes")?.unsigned_abs() })
    }
}

/// The rows of a batch in their order, and the last of them if the batch is full.
struct Batch {
    rows: Vec<Picked>,
    next: Option<SweepCursor>,
}

impl Batch {
    fn full(rows: Vec<Picked>) -> Self {
        let next = rows.last().map(|row| row.place);
        Self { rows, next }
    }

    fn swept(&self, deleted: u64) -> Swept {
        Swept { picked: self.rows.len() as u64, deleted, next: self.next }
    }

    /// Returns the ids that each statement names, and their app if the table is distributed.
    fn ids(&self, dialect: Dialect) -> impl Iterator<Item = (Option<AppId>, Vec<Uuid>)> {
        let shard = move |row: &Picked| dialect.shard(row.place.app_id);
        let by_shard = self.rows.chunk_by(move |left, right| shard(left) == shard(right));
        // PostgreSQL takes all ids as one value. The others bind each id.
        let size = if dialect == Dialect::Postgres { usize::MAX } else { IDS };
        by_shard.flat_map(move |rows| rows.chunks(size)).map(move |rows| {
            (rows.first().and_then(shard), rows.iter().map(|row| row.place.id.into_inner()).collect())
        })
    }
}

/// Returns the letters that the statement returns for the batch, in the batch's order.
async fn letters_of(
    db: &impl ConnectionTrait,
    batch: &Batch,
    dialect: Dialect,
    statement: fn(Dialect, Option<AppId>, &[Uuid]) -> Statement,
) -> Result<Vec<StoredLetter>, DbErr> {
    let mut letters = HashMap::new();
    for (app_id, ids) in batch.ids(dialect) {
        let statement = statement(dialect, app_id, &ids);
        for row in convert::Row::find_by_statement(statement).all(db).await? {
            let letter = StoredLetter::from(row);
            letters.insert((letter.app_id, letter.id), letter);
        }
    }
    let letters = batch.rows.iter().filter_map(|row| letters.remove(&(row.place.app_id, row.place.id)));
    Ok(letters.collect())
}

async fn pick(db: &impl ConnectionTrait, job: Job<'_>) -> Result<Batch, DbErr> {
    match job.dialect {
        Dialect::Sqlite => pick_on_sqlite(db, job).await,
        _ if job.spans_shards() => pick_across_shards(db, job).await,
        _ => pick_on_postgres(db, job, MAX_BYTES).await,
    }
}

/// Locks the batch's rows. Returns those that fit `max_bytes`, but at least one.
async fn pick_on_postgres(db: &impl ConnectionTrait, job: Job<'_>, max_bytes: u64) -> Result<Batch, DbErr> {
    let Job { scope, due, after, limit, .. } = job;
    let rows =
        db.query_all_raw(sweep_sql::lock_oldest_on_postgres(scope, due, after, limit, max_bytes)).await?;
    let locked = rows.first().map_or(Ok(0), |row| row.try_get::<i64>("", "rows_locked"))?.unsigned_abs();
    let rows: Vec<_> = rows.iter().map(|row| Picked::from_query_result(row, "")).collect::<Result<_, _>>()?;
    Ok(match locked == limit || locked > rows.len() as u64 {
        true => Batch::full(rows),
        false => Batch { rows, next: None },
    })
}

async fn pick_across_shards(db: &impl ConnectionTrait, job: Job<'_>) -> Result<Batch, DbErr> {
    let Shares { of_apps, next } = shares(db, job, Some(MAX_BYTES)).await?;
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for (app_id, limit) in of_apps {
        let of_app = Job { scope: &SweepScope::App(app_id), after: job.after_in(app_id), limit, ..job };
        let picked = pick_on_postgres(db, of_app, MAX_BYTES.saturating_sub(bytes)).await?.rows;
        bytes += picked.iter().map(|row| row.bytes).sum::<u64>();
        // Rows that other transactions locked after the shares were counted are skipped, and the rows in their
        // place may be larger.
        if bytes > MAX_BYTES && !rows.is_empty() {
            break;
        }
        rows.extend(picked);
    }
    Ok(Batch { rows, next })
}

/// Reads the sizes first, so that no row is read that does not fit the batch.
async fn pick_on_sqlite(db: &impl ConnectionTrait, job: Job<'_>) -> Result<Batch, DbErr> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for (app_id, after) in scans_on_sqlite(db, job).await? {
        let left = job.limit - rows.len() as u64;
        let find = sweep_sql::find_oldest_on_sqlite(app_id, job.due, after, left);
        for row in Picked::find_by_statement(find).all(db).await? {
            bytes += row.bytes;
            if bytes > MAX_BYTES && !rows.is_empty() {
                return Ok(Batch::full(rows));
            }
            rows.push(row);
        }
        if rows.len() as u64 == job.limit {
            return Ok(Batch::full(rows));
        }
    }
    Ok(Batch { rows, next: None })
}
