//! The retention contract: which letters a sweep deletes, and what an archive keeps of them.

use std::error::Error;

use async_trait::async_trait;
use auto_impl::auto_impl;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{AppId, CappedCount, DeadLetterId, DeadLetterRepoError, DeadLetterState, StoredLetter};

/// Deletes due letters in batches, and counts the letters that are due.
///
/// The trait is object-safe. Every call is atomic, as in [`DeadLetterRepo`](crate::DeadLetterRepo).
///
/// # Errors
///
/// Besides what each method lists, every call may return [`Db`](DeadLetterRepoError::Db): the database refused the
/// call or could not be reached.
#[async_trait]
#[auto_impl(&, Arc)]
pub trait DeadLetterRetention: Send + Sync {
    /// Deletes due letters of the scope: oldest first, **never more than `limit` letters**, and never an open letter
    /// if `due` is about closed letters.
    ///
    /// A sweep of closed letters of several apps goes app by app, oldest first within an app. One call is one batch.
    ///
    /// Without `after` a batch begins with the oldest letter, or with the first app if the sweep goes app by app.
    /// With the [`Swept::next`] of the previous batch it continues behind that batch. A loop that passes `next` on
    /// ends, and examines each letter once, even if the database refuses to delete some letters. A trigger that
    /// returns NULL on PostgreSQL, a trigger that raises IGNORE on SQLite, or a policy refuses the delete.
    ///
    /// Rows locked by another transaction are skipped, so a result below `limit` does not mean that nothing is left.
    /// A `limit` of 0 deletes nothing. For several apps in a [sharded](crate::SeaOrmDeadLetterRepo::sharded) table
    /// the call picks the letters that were the oldest a moment before. If some of those are locked, it may leave due
    /// letters of other apps to a later call.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for more than 1,000 apps in
    /// [`AllAppsBut`](SweepScope::AllAppsBut), with nothing sent to the database.
    ///
    /// [`AppNotSwept`](DeadLetterRepoError::AppNotSwept) if the sweep goes app by app and the database returned an
    /// error for a letter of the batch's first app, such as one that a trigger raised. [`SweepCursor::behind_app`]
    /// continues behind that app. If the error is about a later app, the call sweeps the first app alone and returns
    /// `Ok`. In a caller's transaction the error is [`Db`](DeadLetterRepoError::Db) for any app.
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::{TimeDelta, Utc};
    /// use dead_letters::{DeadLetterRetention, Due, SweepScope};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let old = dead_letters::testing::stored_letter(app, Utc::now() - TimeDelta::days(91));
    /// # dead_letters::DeadLetterTransfer::import(&repo, &[old]).await?;
    /// let due = Due::CreatedBefore(Utc::now() - TimeDelta::days(90));
    /// let (mut deleted, mut after) = (0, None);
    /// loop {
    ///     let swept = repo.sweep(&SweepScope::AllApps, due, after, 1_000).await?;
    ///     (deleted, after) = (deleted + swept.deleted, swept.next);
    ///     if after.is_none() {
    ///         break;
    ///     }
    /// }
    /// assert_eq!(deleted, 1);
    /// # Ok(())
    /// # }
    /// ```
    async fn sweep(
        &self,
        scope: &SweepScope,
        due: Due,
        after: Option<SweepCursor>,
        limit: u32,
    ) -> Result<Swept, DeadLetterRepoError>;

    /// Deletes letters as [`sweep`](Self::sweep) does, and passes them to the archive before the delete commits.
    ///
    /// If the archive returns an error, nothing is deleted. The archive is not called if no letter is deleted.
    ///
    /// A batch also ends at 16 MB of text, payloads and errors included, and has at least one letter.
    ///
    /// The call is one transaction, which is open while the archive writes. The delete comes first. The archive
    /// therefore gets exactly the letters that are gone once the transaction commits, and never a letter that the
    /// database refuses to delete. Archiving is at-least-once. If the call is dropped or the connection is lost after
    /// the archive has the letters, they may be archived and still stored. A later call then archives them again. On
    /// PostgreSQL other sweeps and bulk calls skip these letters meanwhile. On SQLite the call is the only writer
    /// meanwhile, and all others wait.
    ///
    /// In a caller's transaction the archive gets the letters before they are deleted. Otherwise a caller that
    /// commits in spite of the archive's error would lose them. The archive then has the letters before that
    /// transaction commits, and also gets letters that the database then refuses to delete.
    ///
    /// # Errors
    ///
    /// Those of [`sweep`](Self::sweep), and [`Archive`](DeadLetterRepoError::Archive) with the error of the archive.
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::{TimeDelta, Utc};
    /// use dead_letters::{DeadLetterRetention, Due, JsonLinesArchive, SweepScope};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let folder = tempfile::tempdir()?;
    /// # let old = dead_letters::testing::stored_letter(app, Utc::now() - TimeDelta::days(91));
    /// # dead_letters::DeadLetterTransfer::import(&repo, &[old]).await?;
    /// let archive = JsonLinesArchive::new(folder.path());
    /// let due = Due::CreatedBefore(Utc::now() - TimeDelta::days(90));
    /// let swept = repo.sweep_into(&SweepScope::App(app), due, None, 1_000, &archive).await?;
    /// assert_eq!(swept.deleted, JsonLinesArchive::read(folder.path())?.count() as u64);
    /// # assert_eq!(swept.deleted, 1);
    /// # Ok(())
    /// # }
    /// ```
    async fn sweep_into(
        &self,
        scope: &SweepScope,
        due: Due,
        after: Option<SweepCursor>,
        limit: u32,
        archive: &dyn Archive,
    ) -> Result<Swept, DeadLetterRepoError>;

    /// Counts the due letters of the scope that have this state, capped at `cap`: the letters that sweeps would
    /// delete if none of them was locked.
    ///
    /// The call reads at most `cap` + 1 of them, or `cap` + 1 per index if several indexes cover the state. For
    /// several apps in a [sharded](crate::SeaOrmDeadLetterRepo::sharded) table it reads all due letters of any state.
    /// Closed letters that are due by their creation are found among due letters of any state.
    ///
    /// # Errors
    ///
    /// Those of [`sweep`](Self::sweep).
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::{TimeDelta, Utc};
    /// use dead_letters::{DeadLetterRetention, DeadLetterState, Due, SweepScope};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let old = dead_letters::testing::stored_letter(app, Utc::now() - TimeDelta::days(88));
    /// # dead_letters::DeadLetterTransfer::import(&repo, &[old]).await?;
    /// let in_a_week = Utc::now() + TimeDelta::weeks(1);
    /// let due = Due::CreatedBefore(in_a_week - TimeDelta::days(90));
    /// let soon = repo.count_due(&SweepScope::AllApps, due, DeadLetterState::Open, 1_000).await?;
    /// println!("{soon} open letters will be deleted within a week");
    /// # assert_eq!(soon.count, 1);
    /// # Ok(())
    /// # }
    /// ```
    async fn count_due(
        &self,
        scope: &SweepScope,
        due: Due,
        state: DeadLetterState,
        cap: u32,
    ) -> Result<CappedCount, DeadLetterRepoError>;

    /// Deletes rows of the [history](crate::DeadLetterRead::actions) that are older than `before`: those of one app, oldest
    /// first and at most `limit`. The app is the first one by its id, from `first_app` on, that has such rows.
    ///
    /// A loop that passes [`SweptActions::next`] on as `first_app` ends. Rows locked by another transaction are skipped. If
    /// the database refuses to delete rows, a batch may delete fewer than `limit`, and the next one begins with the next
    /// app. A `limit` of 0 deletes nothing.
    ///
    /// The age is the time in the row's id, which is by the clock of the process that acted. The call is a transaction of
    /// two statements, which find the app and delete its rows. In a [sharded](crate::SeaOrmDeadLetterRepo::sharded) table
    /// the first one may read the key of every row.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::{TimeDelta, Utc};
    /// use dead_letters::{DeadLetterRepo, DeadLetterResolve, DeadLetterRetention};
    /// # use dead_letters::{Attribution, Resolution, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let id = repo.insert(testing::letter(app)).await?;
    /// # repo.resolve_once(app, id, Resolution::Ignored, &Attribution::by("ada")).await?;
    /// # let years = |_| TimeDelta::minutes(-1);
    /// let before = Utc::now() - years(2);
    /// let (mut deleted, mut first_app) = (0, None);
    /// loop {
    ///     let swept = repo.sweep_actions(before, first_app, 1_000).await?;
    ///     (deleted, first_app) = (deleted + swept.deleted, swept.next);
    ///     if first_app.is_none() {
    ///         break;
    ///     }
    /// }
    /// assert_eq!(deleted, 1);
    /// # Ok(())
    /// # }
    /// ```
    async fn sweep_actions(
        &self,
        before: DateTime<Utc>,
        first_app: Option<AppId>,
        limit: u32,
    ) -> Result<SweptActions, DeadLetterRepoError>;
}

/// The result of one batch of [`sweep_actions`](DeadLetterRetention::sweep_actions).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SweptActions {
    /// How many rows of the history were deleted.
    pub deleted: u64,
    /// The app that the next batch begins with. `None` if no further app has due rows.
    pub next: Option<AppId>,
}

/// Keeps letters before their deletion commits.
///
/// # Examples
///
/// ```
/// use std::{error::Error, sync::Mutex};
///
/// use async_trait::async_trait;
/// use dead_letters::{Archive, StoredLetter};
///
/// /// Collects lines, which another task uploads.
/// struct Lines(Mutex<Vec<String>>);
///
/// #[async_trait]
/// impl Archive for Lines {
///     async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
///         let lines = letters.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
///         self.0.lock().map_err(|_| "the lines are lost")?.extend(lines);
///         Ok(())
///     }
/// }
/// #
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// # let letter = dead_letters::testing::stored_letter(app, chrono::Utc::now());
/// # let lines = Lines(Mutex::default());
/// # lines.keep(&[letter.clone(), letter]).await.map_err(|error| error.to_string())?;
/// # assert_eq!(lines.0.lock().map_err(|_| "poisoned")?.len(), 2);
/// # _ = repo;
/// # Ok(())
/// # }
/// ```
#[async_trait]
#[auto_impl(&, Arc)]
pub trait Archive: Send + Sync {
    /// Returns once all of the letters are stored durably.
    ///
    /// After an error none of them is deleted. A later sweep passes them again, so the archive may get a letter
    /// twice.
    ///
    /// # Errors
    ///
    /// Any error of the archive. Its text must not show a letter's content.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::error::Error;
    /// #
    /// # use async_trait::async_trait;
    /// # use dead_letters::{Archive, StoredLetter};
    /// #
    /// # async fn upload(_: String) -> Result<(), Box<dyn Error + Send + Sync>> {
    /// #     Ok(())
    /// # }
    /// #
    /// struct ObjectStore;
    ///
    /// #[async_trait]
    /// impl Archive for ObjectStore {
    ///     async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
    ///         let lines = letters.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    ///         // The upload returns once the object is durable.
    ///         upload(lines.join("\n")).await
    ///     }
    /// }
    /// ```
    async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>>;
}

/// The apps whose letters a sweep deletes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SweepScope {
    /// One app.
    App(AppId),
    /// All apps.
    AllApps,
    /// All apps except some, app by app, and oldest first within an app. A sweep probes the index once for each app
    /// that has due letters or is excepted. It does not read the letters of excepted apps, unless the table is
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded).
    AllAppsBut {
        /// The excepted apps, at most 1,000, such as those that have a retention of their own.
        excepted: Vec<AppId>,
    },
}

/// The condition under which a letter is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Due {
    /// The letter was created before this time, whether it is open or closed.
    CreatedBefore(DateTime<Utc>),
    /// The letter was resolved before this time as `replayed`, `ignored` or `handled_by_script`. Open letters are
    /// never due.
    ClosedBefore(DateTime<Utc>),
}

/// The position where a batch of a sweep ended, and behind which the next batch continues.
///
/// A sweep of [one app](SweepScope::App), and a sweep of [all apps](SweepScope::AllApps) by
/// [creation](Due::CreatedBefore), continues behind the time and the id. All other sweeps go app by app. They
/// continue in the cursor's app behind the time and the id, and then with the apps behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepCursor {
    /// The letter's app.
    pub app_id: AppId,
    /// The time that makes the letter due: when it was created, or resolved.
    pub time: DateTime<Utc>,
    /// The letter's id.
    pub id: DeadLetterId,
}

impl SweepCursor {
    /// Returns the position behind all letters of an app, for sweeps that go app by app.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepoError, DeadLetterRetention, Due, SweepCursor, SweepScope};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let due = Due::ClosedBefore(chrono::Utc::now());
    /// # let mut after = None;
    /// let others = SweepScope::AllAppsBut { excepted: vec![app] };
    /// after = match repo.sweep(&others, due, after, 1_000).await {
    ///     Ok(swept) => swept.next,
    ///     Err(DeadLetterRepoError::AppNotSwept { app_id, .. }) => Some(SweepCursor::behind_app(app_id)),
    ///     Err(error) => return Err(error.into()),
    /// };
    /// # assert!(after.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn behind_app(app_id: AppId) -> Self {
        Self { app_id, time: DateTime::<Utc>::MAX_UTC, id: Uuid::max().into() }
    }
}

/// The result of one batch of a sweep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Swept {
    /// Letters of the batch: they were due, and no other transaction had locked them.
    pub picked: u64,
    /// Letters of the batch that were deleted. The database refused to delete the others.
    pub deleted: u64,
    /// The position of the batch's last letter if the batch was full: it had `limit` letters, or 16 MB for an
    /// archive. It is the end of an app if that app had to be swept alone. It is `None` if nothing is left behind it,
    /// except for letters that other transactions have locked.
    pub next: Option<SweepCursor>,
}
