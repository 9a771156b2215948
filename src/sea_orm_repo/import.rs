//! Imports letters as they were exported.

use std::ops::RangeInclusive;

use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr,
    sea_query::{Asterisk, Expr, Func, OnConflict, Query},
};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    cached_sql::CachedSql,
    connection::RepoConnection,
    convert::{self, STORED_COLUMNS},
    dialect::Dialect,
    in_range,
    insert::{Form, ROW_BYTES, arrays, batches, form_of_one_statement, insert_arrays, insert_values},
};
use crate::{DeadLetterRepoError, Imported, PayloadKind, Resolution, StoredLetter, description::sqlx_error};

const LETTERS: RangeInclusive<u32> = 0..=1_000;
/// The most attempts at letters that exist when they are inserted, and that other clients delete before they are
/// counted.
const ATTEMPTS: usize = 10;

pub(super) async fn import<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    letters: &[StoredLetter],
) -> Result<Imported, DeadLetterRepoError> {
    in_range("letters", letters.len().try_into().unwrap_or(u32::MAX), LETTERS)?;
    for (index, letter) in letters.iter().enumerate() {
        convert::check_stored(letter, index)?;
    }
    if letters.is_empty() {
        return Ok(Imported::default());
    }
    let dialect = repo.dialect()?;
    let shard = |letter: &StoredLetter| dialect.shard(letter.app_id);
    // The reversal puts the last copy of a letter first, and that copy stays.
    let mut ordered: Vec<_> = letters.iter().rev().collect();
    // With one order, two imports of the same letters do not deadlock.
    ordered.sort_by_key(|letter| (shard(letter), letter.id));
    ordered.dedup_by_key(|letter| (shard(letter), letter.id));
    let batches = match repo.db.pool() {
        None => {
            let (rows, bytes) = (ordered.len(), ordered.iter().map(|letter| bytes_of(letter)).sum());
            let form = form_of_one_statement::<STORED_COLUMNS>(dialect, rows, bytes)?;
            vec![Batch { letters: ordered, dialect, form }]
        }
        Some(_) => {
            let form = dialect.form();
            let of_shards = ordered.chunk_by(|left, right| shard(left) == shard(right));
            of_shards
                .flat_map(|letters| batches(form, letters.iter().copied(), |letter| bytes_of(letter)))
                .map(|letters| Batch { letters, dialect, form })
                .collect()
        }
    };
    let outcome = repo.db.in_transaction(async |db| all(db, batches).await).await;
    let stored = outcome.map_err(|error| naming_the_letter(error, letters))?;
    Ok(Imported { stored, present: (letters.len() as u64).saturating_sub(stored) })
}

pub(super) fn bytes_of(letter: &StoredLetter) -> usize {
    let texts = [&letter.source, &letter.op, &letter.payload, &letter.last_error, &letter.error_signature];
    let optional = [
        &letter.payload_kind,
        &letter.replayed_payload,
        &letter.metadata,
        &letter.resolution,
        &letter.resolved_by,
        &letter.resolution_note,
    ];
    texts.into_iter().chain(optional.into_iter().flatten()).map(String::len).sum::<usize>() + ROW_BYTES
}

/// The letters of one statement.
struct Batch<'a> {
    /// Ordered by id. If the table is distributed, all of one app.
    letters: Vec<&'a StoredLetter>,
    dialect: Dialect,
    form: Form,
}

async fn all(db: &impl ConnectionTrait, batches: Vec<Batch<'_>>) -> Result<u64, DeadLetterRepoError> {
    let mut stored = 0;
    for of_batch in batches {
        stored += batch(db, &of_batch).await?;
    }
    Ok(stored)
}

/// Stores a batch, and returns how many letters it stored. The others exist already. A rule or a trigger of the
/// database can drop a row without an error, so this checks that they exist.
async fn batch(db: &impl ConnectionTrait, batch: &Batch<'_>) -> Result<u64, DeadLetterRepoError> {
    let mut stored = 0;
    for _ in 0..ATTEMPTS {
        stored += insert(db, batch).await?;
        if stored == batch.letters.len() as u64 || all_are_there(db, batch).await? {
            return Ok(stored);
        }
    }
    Err(DbErr::RecordNotInserted.into())
}

async fn insert(db: &impl ConnectionTrait, batch: &Batch<'_>) -> Result<u64, DbErr> {
    static INSERT: CachedSql = CachedSql::new();
    let rows: Vec<_> = batch.letters.iter().map(|letter| convert::to_stored_row(letter)).collect();
    // The clause names no key, because the key of a distributed table begins with the app.
    let unless_there = OnConflict::new().do_nothing().to_owned();
    let insert = if batch.form == Form::Arrays {
        let (columns, values) = arrays(rows);
        INSERT.with(batch.dialect, values, || insert_arrays(&columns).on_conflict(unless_there).to_owned())
    } else {
        batch.dialect.build(insert_values(rows).on_conflict(unless_there))
    };
    Ok(db.execute_raw(insert).await?.rows_affected())
}

async fn all_are_there(db: &impl ConnectionTrait, batch: &Batch<'_>) -> Result<bool, DbErr> {
    let shard = |letter: &StoredLetter| batch.dialect.shard(letter.app_id);
    for of_shard in batch.letters.chunk_by(|left, right| shard(left) == shard(right)) {
        if !are_there(db, batch.dialect, of_shard).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn are_there(
    db: &impl ConnectionTrait,
    dialect: Dialect,
    letters: &[&StoredLetter],
) -> Result<bool, DbErr> {
    let mut ids: Vec<_> = letters.iter().map(|letter| letter.id.into_inner()).collect();
    ids.dedup();
    let expected = ids.len() as i64;
    let shard = letters.first().and_then(|letter| dialect.shard(letter.app_id));
    let count = Query::select()
        .expr(Func::count(Expr::col(Asterisk)))
        .from(Entity)
        .and_where(is_one_of(dialect, &ids))
        .and_where_option(shard.map(|app_id| COLUMN.app_id.eq(app_id.into_inner())))
        .take();
    let counted = db.query_one(&count).await?;
    Ok(counted.map_or(Ok(0), |row| row.try_get_by_index::<i64>(0))? == expected)
}

/// Returns the condition of a row with one of these ids. On PostgreSQL its text is the same for any number of ids.
fn is_one_of(dialect: Dialect, ids: &[Uuid]) -> Expr {
    match dialect {
        Dialect::Sqlite => Column::Id.is_in(ids.iter().copied()),
        Dialect::Postgres | Dialect::Sharded => Column::Id.eq_any(ids.iter().copied()),
    }
}

/// Names the letter and the field if a CHECK refused an unknown resolution or kind. The table of a newer version
/// may know more of them than this version, so only the CHECKs can refuse one.
fn naming_the_letter(error: DeadLetterRepoError, letters: &[StoredLetter]) -> DeadLetterRepoError {
    let DeadLetterRepoError::Db(of_db) = &error else { return error };
    let Some(refusal) = sqlx_error(of_db).and_then(|error| error.as_database_error()) else { return error };
    // SQLite and Citus name the CHECK only in the message.
    let is_refused_by =
        |check: &str| refusal.constraint() == Some(check) || refusal.message().contains(check);
    let (field, index) = if is_refused_by("dead_letters_resolution_check") {
        ("resolution", position_of_unknown::<Resolution>(letters, |letter| &letter.resolution))
    } else if is_refused_by("dead_letters_payload_kind_check") {
        ("payload_kind", position_of_unknown::<PayloadKind>(letters, |letter| &letter.payload_kind))
    } else {
        return error;
    };
    index.map_or(error, |index| DeadLetterRepoError::NotStorable { index, field })
}

fn position_of_unknown<T: DeserializeOwned>(
    letters: &[StoredLetter],
    field: fn(&StoredLetter) -> &Option<String>,
) -> Option<usize> {
    let is_unknown = |text: &String| serde_json::from_value::<T>(text.as_str().into()).is_err();
    letters.iter().position(|letter| field(letter).as_ref().is_some_and(is_unknown))
}
