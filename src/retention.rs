//! The contract of the sweeper: what is deleted when, and what is kept of it.

use std::error::Error;

use async_trait::async_trait;
use auto_impl::auto_impl;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{AppId, DeadLetterId, DeadLetterRepoError, DeadLetterState, StoredLetter};

/// Retention: deletes what is due, in batches, and says what would be.
///
/// Object-safe; every call is atomic, as in [`DeadLetterRepo`](crate::DeadLetterRepo).
///
/// # Errors
///
/// Besides what each method lists, every call may answer [`Db`](DeadLetterRepoError::Db): the database
/// refused or could not be reached.
#[async_trait]
#[auto_impl(&, Arc)]
pub trait DeadLetterRetention: Send + Sync {
    /// Deletes rows of the scope that are due: oldest first, **never more than `limit` rows**, and never an
    /// open one where settled ones are meant. Closed rows of many apps go app by app, oldest first within one. One call
    /// is one batch.
    ///
    /// Without `after` a batch begins with the oldest row, and with the first app where it goes by app. With
    /// [`Swept::next`] of the batch before it goes on behind that one. A loop that passes it on ends, and examines
    /// each row once, also if the database refuses to delete some of them: a trigger returns NULL on PostgreSQL or
    /// raises IGNORE on SQLite, or a policy forbids it.
    ///
    /// Rows that another transaction has locked are skipped, so a result below `limit` does not mean that none is
    /// left. A `limit` of 0 deletes nothing. Of many apps in a
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded) table it takes what were the oldest a moment before, and
    /// may leave due rows of other apps for those that are locked.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for more than 1,000 apps in
    /// [`AllAppsBut`](SweepScope::AllAppsBut), with nothing sent to the database.
    ///
    /// [`AppNotSwept`](DeadLetterRepoError::AppNotSwept) where a batch goes by app, and the database returned an error
    /// for a row of its first app: a trigger raised one, say. [`SweepCursor::behind_app`] goes on behind that app. If
    /// the error is about a later app, the call sweeps the first app alone and returns `Ok`. In a caller's transaction
    /// the error is [`Db`](DeadLetterRepoError::Db) for any app.
    async fn sweep(
        &self,
        scope: &SweepScope,
        due: Due,
        after: Option<SweepCursor>,
        limit: u32,
    ) -> Result<Swept, DeadLetterRepoError>;

    /// Deletes rows as [`sweep`](Self::sweep) does, and hands them to the archive before the delete commits. If the
    /// archive returns an error, nothing is deleted. The archive is not called if no row is deleted.
    ///
    /// A batch also ends at 16 MB of text, payloads and errors included, and has at least one row.
    ///
    /// All of it is one transaction, which is open while the archive writes. It deletes first, so the archive gets
    /// the rows that are gone once it commits, and never one that the database refuses to delete. If the call is
    /// dropped, or the connection lost, once the archive has the rows, they may be archived and still there: a later
    /// call archives them again. On PostgreSQL other sweeps and bulk calls skip these rows meanwhile; on SQLite this
    /// is the only writer, and all others wait.
    ///
    /// In a caller's transaction the archive gets the rows first, and then they are deleted: otherwise a caller that
    /// commits in spite of the archive's error would lose them. The archive has them before that transaction
    /// commits, and it also gets rows that the database then refuses to delete.
    ///
    /// # Errors
    ///
    /// Those of [`sweep`](Self::sweep), and [`Archive`](DeadLetterRepoError::Archive) with what the archive
    /// said.
    async fn sweep_into(
        &self,
        scope: &SweepScope,
        due: Due,
        after: Option<SweepCursor>,
        limit: u32,
        archive: &dyn Archive,
    ) -> Result<Swept, DeadLetterRepoError>;

    /// Counts the rows of the scope that are due and of this state, up to `cap`: what sweeps would delete,
    /// were nobody to hold them. It reads no more than `cap` + 1 of them, or of each index of the state's rows; of many
    /// apps in a [sharded](crate::SeaOrmDeadLetterRepo::sharded) table all that are due, of any state. Closed rows that
    /// are due by their creation are found among due rows of any state.
    ///
    /// # Errors
    ///
    /// Those of [`sweep`](Self::sweep).
    async fn count_due(
        &self,
        scope: &SweepScope,
        due: Due,
        state: DeadLetterState,
        cap: u32,
    ) -> Result<CappedCount, DeadLetterRepoError>;
}

/// Keeps letters before their deletion commits.
#[async_trait]
#[auto_impl(&, Arc)]
pub trait Archive: Send + Sync {
    /// Returns once all of the letters are kept for good. After an error none of them is deleted, and a later sweep
    /// hands them over again: it may get a letter twice.
    ///
    /// # Errors
    ///
    /// Whatever went wrong; it must not show a row's content.
    async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>>;
}

/// Whose rows a sweep is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SweepScope {
    /// One app's.
    App(AppId),
    /// All apps'.
    AllApps,
    /// All apps' but some: by app, and oldest first within one. It costs a probe of the index for each app
    /// that has due rows or is passed, and nothing for the rows of the excepted ones, unless the table is
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded).
    AllAppsBut {
        /// At most 1,000, which have a retention of their own, say.
        excepted: Vec<AppId>,
    },
}

/// What makes a row due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Due {
    /// Created before this time, settled or not.
    CreatedBefore(DateTime<Utc>),
    /// Settled before this time, as `replayed`, `ignored` or `handled_by_script`: never an open row.
    ClosedBefore(DateTime<Utc>),
}

/// Where a batch of a sweep ended, for the next one to go on behind.
///
/// A sweep of [one app](SweepScope::App), and one of [all apps](SweepScope::AllApps) by
/// [creation](Due::CreatedBefore), goes on behind the time and the id. All others go by app: they go on in the
/// cursor's app behind the time and the id, and then with the apps behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepCursor {
    /// The row's app.
    pub app_id: AppId,
    /// What makes the row due: when it was created, or settled.
    pub time: DateTime<Utc>,
    /// The row's id.
    pub id: DeadLetterId,
}

impl SweepCursor {
    /// Returns the place behind all rows of an app, for sweeps that go by app.
    pub fn behind_app(app_id: AppId) -> Self {
        Self { app_id, time: DateTime::<Utc>::MAX_UTC, id: Uuid::max().into() }
    }
}

/// What a batch of a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// Rows of the batch: they were due, and no other transaction had locked them.
    pub picked: u64,
    /// Rows of the batch that are gone. The database refused to delete the others.
    pub deleted: u64,
    /// The batch's last row if the batch was full: it had `limit` rows, or 16 MB for an archive. The end of an app if
    /// that app had to be swept alone. `None` if nothing is left behind it, but what other transactions have locked.
    pub next: Option<SweepCursor>,
}

/// A count that ends at a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CappedCount {
    /// Rows, or the cap if there are more.
    pub count: u64,
    /// Whether there are more than `count`.
    pub capped: bool,
}
