//! The contract of the sweeper: what is deleted when, and what is kept of it.

use std::error::Error;

use async_trait::async_trait;
use auto_impl::auto_impl;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{AppId, DeadLetterRepoError, DeadLetterState, StoredLetter};

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
    /// Rows that another transaction holds are passed over, so fewer than `limit` does not mean that none is
    /// left. A `limit` of 0 deletes nothing. Of many apps in a
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded) table it takes what were the oldest a moment before, and
    /// may leave due rows of other apps for those that are held.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for more than 1,000 apps in
    /// [`AllAppsBut`](SweepScope::AllAppsBut), with nothing sent to the database.
    async fn sweep(&self, scope: &SweepScope, due: Due, limit: u32) -> Result<Swept, DeadLetterRepoError>;

    /// [`sweep`](Self::sweep) of rows that the archive has first: it is handed them before the delete
    /// commits, and where it answers an error, nothing is deleted. It is not called where no row is due.
    ///
    /// A batch also ends at 16 MB of text, payloads and errors included, and has at least one row. If this is dropped, or the connection lost,
    /// once the archive has them, rows may be archived and still there: a later call archives them again.
    ///
    /// All of it is one transaction, which is open while the archive writes. On PostgreSQL other sweeps and
    /// bulk calls pass over these rows meanwhile; on SQLite it is the only writer, and all others wait. Over
    /// a caller's transaction the archive has the rows before that commits.
    ///
    /// # Errors
    ///
    /// Those of [`sweep`](Self::sweep), and [`Archive`](DeadLetterRepoError::Archive) with what the archive
    /// said.
    async fn sweep_into(
        &self,
        scope: &SweepScope,
        due: Due,
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

/// Keeps letters before they are deleted.
#[async_trait]
#[auto_impl(&, Arc)]
pub trait Archive: Send + Sync {
    /// Returns once all of the letters are kept for good. After an error none of them is deleted, and they
    /// are handed over again one day: so it may get a letter twice.
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
        /// Begins with this app: [`Swept::next`] of the batch before. `None` begins with the first.
        from: Option<AppId>,
    },
}

/// What makes a row due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Due {
    /// Created before this time, settled or not.
    CreatedBefore(DateTime<Utc>),
    /// Settled before this time, as `replayed`, `ignored` or `handled_by_script`: never an open row.
    SettledBefore(DateTime<Utc>),
}

/// What a sweep deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// Rows.
    pub deleted: u64,
    /// Of [`AllAppsBut`](SweepScope::AllAppsBut): the app to begin the next batch with; this one ended within
    /// it, or at its end, or behind the last one. `None` where every app was seen.
    pub next: Option<AppId>,
}

/// A count that ends at a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CappedCount {
    /// Rows, or the cap if there are more.
    pub count: u64,
    /// Whether there are more than `count`.
    pub at_least: bool,
}
