//! Helpers for a service's tests: a store in memory, a store that fails on demand, and sample letters and errors.
//!
//! # Examples
//!
//! ```
//! use std::sync::Arc;
//!
//! use dead_letters::{AppId, DeadLetterRepo, testing::{self, Call, FailingStore}};
//! use uuid::Uuid;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Arc::new(FailingStore::new(testing::store().await?));
//! // The code under test gets store.clone(), an Arc<dyn DeadLetterStore>.
//! let app = AppId::from(Uuid::new_v4());
//! store.fail(Call::Insert, ..2, testing::transient());
//! assert!(store.insert(testing::letter(app)).await.is_err());
//! assert!(store.insert(testing::letter(app)).await.is_err());
//! assert!(store.insert(testing::letter(app)).await.is_ok());
//! # Ok(())
//! # }
//! ```

use std::{borrow::Cow, error::Error, fmt, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use dead_letters_migration::{Locked, Migrator, sea_orm_migration::MigratorTraitSelf};
use sea_orm::{
    Database, DbErr, RuntimeErr, SqlxError,
    sqlx::error::{DatabaseError, ErrorKind},
};
use serde_json::{Map, json};
use uuid::Uuid;

use crate::{
    AppId, DeadLetterRepoError, DeadLetterRow, DeadLetterSummary, ErrorGroup, NewDeadLetter, NewErrorGroup,
    NewGroupState, PayloadKind, SeaOrmDeadLetterRepo, StoredLetter, connect_options,
    signature::{self, SIGNATURE_VERSION},
};

mod failing;

pub use failing::{Call, FailingStore};

/// Opens a new, migrated and empty store in memory (`sqlite::memory:`), which ends with its last clone.
///
/// The store has one connection. A call on it while a transaction is open waits, until it times out. If the store
/// needs the service's own tables too, apply the service's migrator to
/// [`connect_options`]`("sqlite::memory:")` instead.
///
/// # Errors
///
/// No error that a test can fix.
///
/// # Examples
///
/// ```
/// use dead_letters::{AppId, DeadLetterRepo, testing};
/// use uuid::Uuid;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = testing::store().await?;
/// assert_eq!(store.unresolved_count(AppId::from(Uuid::new_v4())).await?, 0);
/// # Ok(())
/// # }
/// ```
pub async fn store() -> Result<SeaOrmDeadLetterRepo, DbErr> {
    let db = Database::connect(connect_options("sqlite::memory:")).await?;
    Locked(Migrator).up(&db, None).await?;
    Ok(SeaOrmDeadLetterRepo::new(db))
}

/// Returns a letter whose fields all differ, and that comes back from the store unchanged.
///
/// Its event, trigger and script are new in each call, and all other fields are the same.
///
/// # Examples
///
/// ```
/// use dead_letters::{DeadLetterRepo, NewDeadLetter, testing};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// let letter = NewDeadLetter { source: "payments".to_owned(), ..testing::letter(app) };
/// let id = repo.insert(letter).await?;
/// assert_eq!(repo.get(id).await?.map(|letter| letter.source), Some("payments".to_owned()));
/// # Ok(())
/// # }
/// ```
pub fn letter(app_id: AppId) -> NewDeadLetter {
    // 2026-03-01T10:00:00.123456Z
    let first_attempt_at = DateTime::from_timestamp_micros(1_772_359_200_123_456).unwrap_or_default();
    NewDeadLetter {
        app_id,
        original_event_id: Uuid::now_v7(),
        source: "orders".to_owned(),
        op: "insert".to_owned(),
        trigger_id: Some(Uuid::now_v7().into()),
        script_id: Some(Uuid::now_v7().into()),
        payload: json!({ "order": 4711, "total": 12.5, "lines": [{ "sku": "A-1", "gift": null }] }),
        payload_text: None,
        attempt_count: 5,
        first_attempt_at,
        last_attempt_at: first_attempt_at + TimeDelta::minutes(31),
        last_error: "smtp: 451 try again later".to_owned(),
        error_signature: None,
        metadata: Map::new(),
    }
}

/// Returns a sample letter as an export contains it, unresolved.
///
/// [`import`](crate::DeadLetterTransfer::import) stores it with this `created_at`, so that a sweep can find it.
///
/// # Examples
///
/// ```
/// use chrono::{TimeDelta, Utc};
/// use dead_letters::{DeadLetterRepo, DeadLetterTransfer, testing};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// let a_year_old = testing::stored_letter(app, Utc::now() - TimeDelta::days(365));
/// repo.import(&[a_year_old]).await?;
/// assert_eq!(repo.gc(Utc::now() - TimeDelta::days(90), 10).await?, 1);
/// # Ok(())
/// # }
/// ```
pub fn stored_letter(app_id: AppId, created_at: DateTime<Utc>) -> StoredLetter {
    let letter = letter(app_id);
    StoredLetter {
        id: Uuid::now_v7().into(),
        app_id,
        original_event_id: letter.original_event_id,
        source: letter.source,
        op: letter.op,
        trigger_id: letter.trigger_id,
        script_id: letter.script_id,
        payload: letter.payload.to_string(),
        payload_kind: Some(PayloadKind::Json.as_str().to_owned()),
        replayed_payload: None,
        original_payload: None,
        metadata: None,
        attempt_count: letter.attempt_count,
        first_attempt_at: letter.first_attempt_at,
        last_attempt_at: letter.last_attempt_at,
        error_signature: error_signature(&letter.last_error),
        last_error: letter.last_error,
        created_at,
        resolved_at: None,
        resolution: None,
        resolved_by: None,
        resolution_note: None,
        signature_version: SIGNATURE_VERSION,
        run_id: None,
        erased_at: None,
    }
}

/// Returns the sample letter as [`get`](crate::DeadLetterRepo::get) returns it, unresolved, for a fake of the store.
///
/// # Examples
///
/// ```
/// use dead_letters::{Resolution, testing};
/// use uuid::Uuid;
///
/// let mut row = testing::row(Uuid::new_v4().into());
/// assert!(row.is_open());
/// row.resolved_at = Some(row.created_at);
/// row.resolution = Some(Resolution::Ignored);
/// assert!(!row.is_open());
/// ```
pub fn row(app_id: AppId) -> DeadLetterRow {
    let letter = letter(app_id);
    DeadLetterRow {
        id: Uuid::now_v7().into(),
        app_id,
        original_event_id: letter.original_event_id,
        source: letter.source,
        op: letter.op,
        trigger_id: letter.trigger_id,
        script_id: letter.script_id,
        payload: letter.payload,
        payload_kind: Some(PayloadKind::Json),
        metadata: letter.metadata,
        attempt_count: letter.attempt_count,
        first_attempt_at: letter.first_attempt_at,
        last_attempt_at: letter.last_attempt_at,
        error_signature: error_signature(&letter.last_error),
        last_error: letter.last_error,
        created_at: letter.last_attempt_at,
        resolved_at: None,
        resolution: None,
        resolved_by: None,
        resolution_note: None,
    }
}

/// Returns the sample letter as [`list`](crate::DeadLetterRead::list) returns it, unresolved, for a fake of the store.
///
/// # Examples
///
/// ```
/// use dead_letters::{Page, testing};
///
/// // The answer of a fake's `list`.
/// let app = uuid::Uuid::nil().into();
/// let page = Page::last(vec![testing::summary(app), testing::summary(app)]);
/// assert!(page.items.iter().all(|letter| letter.is_open()));
/// ```
pub fn summary(app_id: AppId) -> DeadLetterSummary {
    let row = row(app_id);
    let script_id = row.script_id.map(Into::into);
    DeadLetterSummary {
        id: row.id,
        app_id,
        original_event_id: row.original_event_id,
        trigger_id: row.trigger_id,
        script_id: row.script_id,
        payload_bytes: row.payload.to_string().len() as u64,
        replayed_payload_bytes: None,
        payload_kind: row.payload_kind,
        attempt_count: row.attempt_count,
        first_attempt_at: row.first_attempt_at,
        last_attempt_at: row.last_attempt_at,
        error_excerpt: row.last_error,
        group_key: signature::group_key(&row.source, &row.op, script_id, &row.error_signature),
        source: row.source,
        op: row.op,
        error_signature: row.error_signature,
        created_at: row.created_at,
        resolved_at: None,
        resolution: None,
        resolved_by: None,
        resolution_note: None,
        run_id: None,
    }
}

/// Returns the error group of one sample letter, as [`error_groups`](crate::DeadLetterRead::error_groups) returns it,
/// for a fake of the store.
///
/// # Examples
///
/// ```
/// use dead_letters::testing;
///
/// // A group that a page shows as regressed.
/// let mut group = testing::error_group(uuid::Uuid::nil().into());
/// group.last_closed_at = Some(group.last_seen - chrono::TimeDelta::days(1));
/// group.regressed = true;
/// ```
pub fn error_group(app_id: AppId) -> ErrorGroup {
    let letter = summary(app_id);
    ErrorGroup {
        group_key: letter.group_key,
        source: letter.source,
        op: letter.op,
        script_id: letter.script_id,
        error_signature: letter.error_signature,
        sample: letter.error_excerpt,
        count: 1,
        first_seen: letter.created_at,
        last_seen: letter.created_at,
        newest_id: letter.id,
        closed: 0,
        last_closed_at: None,
        regressed: false,
        timeline: Vec::new(),
    }
}

/// Returns the new error group of one sample letter, as
/// [`new_error_groups`](crate::DeadLetterRead::new_error_groups) returns it, for a fake of the store.
///
/// # Examples
///
/// ```
/// use dead_letters::{NewErrorGroups, testing};
///
/// let mut new = NewErrorGroups::default();
/// new.groups.push(testing::new_error_group(uuid::Uuid::nil().into()));
/// ```
pub fn new_error_group(app_id: AppId) -> NewErrorGroup {
    let group = error_group(app_id);
    NewErrorGroup {
        app_id,
        group_key: group.group_key,
        source: group.source,
        op: group.op,
        script_id: group.script_id,
        error_signature: group.error_signature,
        sample: group.sample,
        count: group.count,
        open: group.count,
        first_seen: group.first_seen,
        last_seen: group.last_seen,
        newest_id: group.newest_id,
        last_closed_at: None,
        state: NewGroupState::New,
    }
}

/// Returns the error signature of a letter with this `last_error`, to test whether two errors of a service are in the
/// same error group.
///
/// # Examples
///
/// ```
/// use dead_letters::testing::error_signature;
///
/// assert_eq!(error_signature("no stock for order 17"), error_signature("no stock for order 8812"));
/// assert_ne!(error_signature("upstream returned 502"), error_signature("upstream returned 504"));
/// ```
pub fn error_signature(error: &str) -> String {
    signature::error_signature(error)
}

/// Returns a transient error ([`ErrorKind::Transient`](crate::ErrorKind::Transient)): PostgreSQL's error while the
/// server is starting.
///
/// # Examples
///
/// ```
/// use dead_letters::testing;
///
/// // The code under test must retry after this error.
/// assert!(testing::transient().is_transient());
/// ```
pub fn transient() -> DeadLetterRepoError {
    database_error("57P03")
}

/// Returns a permanent error ([`ErrorKind::Internal`](crate::ErrorKind::Internal)): PostgreSQL's error for its own
/// internal faults.
///
/// # Examples
///
/// ```
/// use dead_letters::{ErrorKind, testing};
///
/// // The code under test must give up after this error.
/// assert_eq!(testing::internal().kind(), ErrorKind::Internal);
/// ```
pub fn internal() -> DeadLetterRepoError {
    database_error("XX000")
}

/// Returns the error of a call that the database refused with this code: one of PostgreSQL's SQLSTATEs, or one of
/// SQLite's result codes.
///
/// # Examples
///
/// ```
/// use dead_letters::testing;
///
/// // A deadlock in PostgreSQL, and a full disk of SQLite.
/// assert!(testing::database_error("40P01").is_transient());
/// assert!(testing::database_error("13").is_transient());
/// assert!(!testing::database_error("23505").is_transient());
/// ```
pub fn database_error(code: &'static str) -> DeadLetterRepoError {
    let error = SqlxError::Database(Box::new(MadeUp { code }));
    DbErr::Query(RuntimeErr::SqlxError(Arc::new(error))).into()
}

#[derive(Debug)]
struct MadeUp {
    code: &'static str,
}

impl fmt::Display for MadeUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl Error for MadeUp {}

impl DatabaseError for MadeUp {
    fn message(&self) -> &str {
        "made up for a test"
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.code.into())
    }

    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}
