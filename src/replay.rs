//! The contract of replay: letters resolved, and their events back where the service's dispatcher takes them
//! from.

use std::{error::Error, iter};

use async_trait::async_trait;
use auto_impl::auto_impl;
use sea_orm::DatabaseTransaction;
use uuid::Uuid;

use crate::{
    AppId, Cursor, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterRow, StoredLetter,
    debug::debug_without_content,
};

/// What a service implements, once, so that operators can replay its letters: see
/// [`replayer`](crate::SeaOrmDeadLetterRepo::replayer).
#[async_trait]
#[auto_impl(&, Arc)]
pub trait Requeue: Send + Sync {
    /// Puts the letters' events back where the dispatcher takes them from, the outbox say, in the transaction
    /// in which they are resolved as `replayed`.
    ///
    /// The letters are of one app, oldest first, and at least one. They are as they are stored:
    /// [`payload`](StoredLetter::payload) is the text that was handed over, with its numbers, spaces and order of
    /// fields. Put that text back, rather than a [`Value`](serde_json::Value) that was parsed from it.
    ///
    /// An event keeps its identity if it goes back under the letter's
    /// [`original_event_id`](StoredLetter::original_event_id). If it fails again, both letters are found by it.
    ///
    /// [`DeadLetterReplay::replay_matching`] may call it several times with parts of the same letters, each time in
    /// a transaction of its own.
    ///
    /// # Errors
    ///
    /// Any error rolls the transaction back. It must return every error: what it did before a failed statement
    /// that it ignores is lost in PostgreSQL, and then the replay fails too; SQLite keeps it. An error's text must
    /// not show a letter's content, because operators read it.
    async fn requeue(
        &self,
        txn: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Returns whether it also takes letters whose payload is not the whole event: those that were truncated
    /// ([`bury`](crate::SeaOrmDeadLetterRepo::bury) truncates payloads over the repo's cap) or erased. By default it
    /// takes whole ones only, so that no dispatcher gets a part of an event for an event.
    ///
    /// If it returns `true`, [`requeue`](Self::requeue) sees in [`payload_kind`](StoredLetter::payload_kind) what
    /// it gets.
    fn accepts_truncated(&self) -> bool {
        false
    }
}

/// Replay of one app's dead letters: each is resolved as `replayed`, and the service's [`Requeue`] puts its event
/// back, in one transaction.
///
/// For operators, beside [`DeadLetterTriage`](crate::DeadLetterTriage), whose words are used here. Object-safe.
///
/// # Errors
///
/// Besides what each method lists, every call may return [`Db`](DeadLetterRepoError::Db): the database
/// refused or could not be reached.
#[async_trait]
#[auto_impl(&, Arc)]
pub trait DeadLetterReplay: Send + Sync {
    /// Replays the letter if it is open, and returns it as it then is. The call is atomic. If several callers
    /// replay the same letter, exactly one succeeds. The others wait for it.
    ///
    /// # Errors
    ///
    /// [`AlreadyResolved`](DeadLetterRepoError::AlreadyResolved) if it is not open,
    /// [`NotFound`](DeadLetterRepoError::NotFound) if the app has no such letter,
    /// [`PayloadNotWhole`](DeadLetterRepoError::PayloadNotWhole) if its payload is truncated or erased and the
    /// service [takes whole ones only](Self::accepts_truncated),
    /// [`Requeue`](DeadLetterRepoError::Requeue) with the service's error. The letter is as it was then.
    async fn replay(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        by: Option<String>,
        note: Option<String>,
    ) -> Result<DeadLetterRow, DeadLetterRepoError>;

    /// Replays open letters that match, oldest first: one batch, which ends at the request's limit and at 16 MB of
    /// text, with at least one letter. Letters that another transaction has locked are skipped. Letters whose
    /// payload is truncated or erased are left out if the service
    /// [takes whole ones only](Self::accepts_truncated): count with
    /// [`filter.truncated`](DeadLetterFilter::truncated)` = Some(false)` what it would replay.
    ///
    /// The batch is one transaction if the service requeues all of it. If the service's [`Requeue`] fails, or the
    /// commit does, the call bisects the batch: each part is a transaction of its own, which selects its letters
    /// anew, and is done or not as a whole. A letter that fails by itself stays open, and is in
    /// [`Replayed::failed`] with the error. All others are replayed. So an event that is back in the outbox already
    /// costs itself. An error that is [transient](DeadLetterRepoError::is_transient) is not bisected, unless the batch
    /// ran out of time: fewer letters may be in time.
    ///
    /// If the call's future is dropped, whole parts are done.
    ///
    /// Call it again with `after` set to [`Replayed::next`] as long as there is [`more`](Replayed::more). A batch
    /// then does not begin with the letters that failed before.
    ///
    /// # Errors
    ///
    /// Those of [`resolve_matching`](crate::DeadLetterTriage::resolve_matching);
    /// [`InvalidCursor`](DeadLetterRepoError::InvalidCursor) for an `after` of another app or filter;
    /// [`Requeue`](DeadLetterRepoError::Requeue) with a service's error that is transient. Nothing was replayed
    /// then: an error after the first part is [`Replayed::stopped`].
    async fn replay_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: ReplayRequest,
    ) -> Result<Replayed, DeadLetterRepoError>;

    /// Returns the service's [`Requeue::accepts_truncated`].
    fn accepts_truncated(&self) -> bool;
}

/// By whom and why a batch is replayed, and how much of it. The default is the first 100 letters. More fields may
/// come: write it with `..Default::default()`. A NUL in a text becomes U+FFFD. Its `Debug` shows texts by their
/// size.
#[derive(Clone, PartialEq, Eq)]
pub struct ReplayRequest {
    /// Who decided so.
    pub by: Option<String>,
    /// Why.
    pub note: Option<String>,
    /// The bulk run that the batch belongs to: it is stored with each letter that is replayed.
    /// [`filter.failed_again_in_run`](DeadLetterFilter::failed_again_in_run) then finds the letters that failed
    /// again.
    pub run_id: Option<Uuid>,
    /// [`Replayed::next`] of the call before. `None` begins with the oldest letter.
    pub after: Option<Cursor>,
    /// How many letters the call examines, 1 to 1,000.
    pub limit: u32,
}

impl Default for ReplayRequest {
    fn default() -> Self {
        Self { by: None, note: None, run_id: None, after: None, limit: 100 }
    }
}

debug_without_content! { ReplayRequest { run_id, after, limit; by, note } }

/// What a call of [`DeadLetterReplay::replay_matching`] did.
#[derive(Debug, Clone, Default)]
pub struct Replayed {
    /// The letters that were replayed, oldest first.
    pub ids: Vec<DeadLetterId>,
    /// The letters that the service could not requeue, oldest first. They are open as before. The call ends with the
    /// 32nd of them, or with the first one that fails after 10 seconds.
    pub failed: Vec<ReplayFailure>,
    /// The error that ended the call after a part of the batch was replayed, or had failed. The letters of `ids`
    /// are replayed nonetheless.
    pub stopped: Option<DeadLetterRepoError>,
    /// Whether letters were skipped because another transaction has locked them, and the next call may not come to
    /// them.
    pub skipped_locked: bool,
    /// Whether the next call may replay more.
    pub more: bool,
    /// What to pass as `after` in the next call: behind the last letter that failed. It is `after` itself if none
    /// did.
    pub next: Option<Cursor>,
}

/// A letter that the service could not requeue.
#[derive(Debug, Clone)]
pub struct ReplayFailure {
    /// The letter. It is open.
    pub id: DeadLetterId,
    /// Why: [`Requeue`](DeadLetterRepoError::Requeue) with the service's error,
    /// [`Db`](DeadLetterRepoError::Db) if the commit failed, or
    /// [`PayloadNotWhole`](DeadLetterRepoError::PayloadNotWhole) if SQLite holds a payload that is not text.
    pub error: DeadLetterRepoError,
}

impl ReplayFailure {
    /// Returns the service's error and its sources as text. It is the service's text: escape it as any text of
    /// others before it is shown.
    pub fn reason(&self) -> String {
        match self.error.source() {
            Some(error) => iter::successors(Some(error), |&error| error.source())
                .map(ToString::to_string)
                // Many errors say what their source says.
                .reduce(
                    |text, source| if text.contains(&source) { text } else { format!("{text}: {source}") },
                )
                .unwrap_or_default(),
            None => self.error.to_string(),
        }
    }
}
