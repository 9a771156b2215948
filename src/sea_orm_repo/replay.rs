//! Replays letters: resolves them and runs the service's requeue in one transaction.

use std::{
    borrow::Cow,
    error::Error,
    pin::pin,
    slice,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use sea_orm::DatabaseTransaction;
use tracing::warn;

use super::{
    SeaOrmDeadLetterRepo,
    bulk::{Bulk, Change, Payloads, Picked},
    convert::Row,
    resolve::{Resolved, resolve_once},
    transaction,
};
use crate::{
    Action, AppId, Attribution, Changed, Cursor, DeadLetterFilter, DeadLetterId, DeadLetterReplay,
    DeadLetterRepoError, DeadLetterRow, ListSort, PayloadKind, ReplayFailure, ReplayRequest, Replayed,
    Requeue, Resolution, StoredLetter,
    observed::{Call, call, observed},
    payload::{is_json, text_nests_too_deep},
};

/// The most failed letters of a call. To find one, a call needs a transaction for each halving of the batch.
const MAX_FAILURES: usize = 32;
/// A call ends with the first letter that fails after this time.
const MAX_TIME: Duration = Duration::from_secs(10);

impl SeaOrmDeadLetterRepo {
    /// Resolves an open letter as `replayed` and runs `enqueue`, in one transaction. If several callers replay the
    /// same letter, exactly one succeeds, and only its `enqueue` runs. The others wait for that transaction, and
    /// return `AlreadyResolved` once it has committed.
    ///
    /// `enqueue` receives the letter as it is stored, with its payload as the stored text. It decides what to do
    /// with a truncated payload, which [`payload_kind`](StoredLetter::payload_kind) shows.
    ///
    /// Returns the value that `enqueue` returns. An error of `enqueue` rolls everything back, and the letter stays
    /// open. `enqueue` must return every error. If it ignores a failed statement, PostgreSQL loses what `enqueue`
    /// did before, and this call fails with nothing replayed. SQLite keeps it.
    ///
    /// # Errors
    ///
    /// The errors of [`resolve_once`](crate::DeadLetterResolve::resolve_once), every error of `enqueue`, and
    /// [`Erased`](DeadLetterRepoError::Erased) if the letter's content was erased.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Attribution, DeadLetterRepoError};
    /// use sea_orm::{ConnectionTrait, Statement};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let create = "CREATE TABLE outbox (id BLOB PRIMARY KEY, payload TEXT)";
    /// # sea_orm::ConnectionTrait::execute_unprepared(repo.pool(), create).await?;
    /// # let id = dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// let event_id = repo
    ///     .replay_with(app, id, &Attribution::by("ada"), async |txn, letter| {
    ///         let insert = "INSERT INTO outbox (id, payload) VALUES ($1, $2)";
    ///         let event = [letter.original_event_id.into(), letter.payload.into()];
    ///         txn.execute_raw(Statement::from_sql_and_values(txn.get_database_backend(), insert, event)).await?;
    ///         Ok::<_, DeadLetterRepoError>(letter.original_event_id)
    ///     })
    ///     .await?;
    /// println!("event {event_id} is back in the outbox");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn replay_with<F, T, E>(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        attribution: &Attribution,
        enqueue: F,
    ) -> Result<T, E>
    where
        F: AsyncFnOnce(&DatabaseTransaction, StoredLetter) -> Result<T, E>,
        E: From<DeadLetterRepoError>,
    {
        let mut own = None;
        let enqueue = async |txn: &DatabaseTransaction, row: Row| {
            enqueue(txn, row.into()).await.map_err(|error| by_closure(error, &mut own))
        };
        let call = self.replay_row(app_id, id, None, attribution, enqueue);
        let outcome = observed(of_row(app_id, id), pin!(call), |_| 1).await;
        outcome.map_err(|error| own.unwrap_or_else(|| error.into()))
    }

    /// Resolves matching open letters as `replayed`, oldest first and at most `limit` (1 to 1,000), and runs
    /// `enqueue` on them, in one transaction. A batch also ends at 16 MB of text, but has at least one letter.
    /// [`Changed::more`] is then true. Letters that another transaction has locked are skipped.
    ///
    /// `enqueue` receives the letters oldest first, including those whose payload is truncated. Erased letters are left
    /// out. It does not run if there are none. Its errors have the same effect as in [`replay_with`](Self::replay_with), and roll
    /// back the whole batch. [`replayer`](Self::replayer) finds the letters that fail, and replays the rest.
    ///
    /// # Errors
    ///
    /// The errors of [`resolve_matching`](crate::DeadLetterResolve::resolve_matching), and every error of
    /// `enqueue`.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Attribution, DeadLetterFilter, DeadLetterRepo, DeadLetterRepoError};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let ids = repo.insert_many(vec![dead_letters::testing::letter(app), dead_letters::testing::letter(app)]).await?;
    /// let ticked = DeadLetterFilter::default().ids(ids);
    /// let refused = repo
    ///     .replay_matching_with(app, &ticked, &Attribution::by("ada"), 100, async |_txn, letters| {
    ///         // Puts the events back on `_txn`. Any error rolls back the whole batch.
    ///         if letters.len() > 1 { Err(DeadLetterRepoError::RuntimeEnded) } else { Ok(()) }
    ///     })
    ///     .await;
    /// assert!(refused.is_err() && repo.unresolved_count(app).await? == 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn replay_matching_with<F, E>(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        attribution: &Attribution,
        limit: u32,
        enqueue: F,
    ) -> Result<Changed, E>
    where
        F: AsyncFnOnce(&DatabaseTransaction, Vec<StoredLetter>) -> Result<(), E>,
        E: From<DeadLetterRepoError>,
    {
        let mut own = None;
        let enqueue = async |txn: &DatabaseTransaction, letters: Vec<StoredLetter>| {
            enqueue(txn, letters).await.map_err(|error| by_closure(error, &mut own))
        };
        let call = async {
            let change = Change::Resolve(Resolution::Replayed, attribution);
            let mut bulk = Bulk::new(self, app_id, filter, change, limit)?;
            bulk.payloads = Payloads::NotErased;
            let (picked, replayed) = self.replay_batch(&bulk, attribution, enqueue).await;
            let ids = replayed?;
            let more = picked.more && !ids.is_empty();
            Ok(Changed { ids, more, skipped_locked: picked.skipped && !more })
        };
        let outcome = observed(of_rows(app_id), pin!(call), |resolved| resolved.ids.len() as u64).await;
        outcome.map_err(|error| own.unwrap_or_else(|| error.into()))
    }

    /// Returns a replayer that needs no closure. Admin pages and command lines take it, beside the store, from the
    /// service that knows its outbox.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use dead_letters::{DeadLetterReplay, DeadLetterStore};
    ///
    /// # struct Outbox;
    /// # #[async_trait::async_trait]
    /// # impl dead_letters::Requeue for Outbox {
    /// #     async fn requeue(
    /// #         &self,
    /// #         _: &sea_orm::DatabaseTransaction,
    /// #         _: &[dead_letters::StoredLetter],
    /// #     ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    /// #
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// // `Outbox` implements `Requeue`. An admin takes both objects, and sees neither the repo nor the outbox.
    /// let replayer: Arc<dyn DeadLetterReplay> = repo.replayer(Outbox);
    /// let store: Arc<dyn DeadLetterStore> = Arc::new(repo);
    /// # _ = (replayer, store);
    /// # Ok(())
    /// # }
    /// ```
    pub fn replayer(&self, requeue: impl Requeue + 'static) -> Arc<dyn DeadLetterReplay> {
        Arc::new(Replayer { repo: self.clone(), requeue })
    }

    async fn replay_row<F, T>(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        edited: Option<&str>,
        attribution: &Attribution,
        enqueue: F,
    ) -> Result<T, DeadLetterRepoError>
    where
        F: AsyncFnOnce(&DatabaseTransaction, Row) -> Result<T, DeadLetterRepoError>,
    {
        let work = async |txn: &DatabaseTransaction| {
            let repo = self.in_transaction(txn);
            let action = if edited.is_some() { Action::Edit } else { Action::Replay };
            let resolved = Resolved::replayed(edited);
            let row: Row = resolve_once(&repo, app_id, id, action, resolved, attribution).await?;
            if row.payload_kind() == PayloadKind::Erased.as_str() {
                return Err(DeadLetterRepoError::Erased(id));
            }
            enqueue(txn, row).await
        };
        transaction::run_checked(self.pool(), work).await
    }

    /// Returns an error if the text can't be the payload of an event.
    fn check_edited(&self, payload: &str) -> Result<(), DeadLetterRepoError> {
        let (bytes, invalid) =
            (payload.len(), |requirement| DeadLetterRepoError::InvalidPayload { requirement });
        match self.limits.payload_bytes {
            Some(max) if bytes > max => Err(DeadLetterRepoError::PayloadTooLarge { index: 0, bytes, max }),
            _ if !is_json(payload) => Err(invalid("JSON")),
            _ if text_nests_too_deep(payload) => Err(invalid("nested at most 127 levels deep")),
            _ => Ok(()),
        }
    }

    /// Replays one batch, in one transaction. Also returns the letters that the batch picked, whatever the
    /// outcome.
    async fn replay_batch<F>(
        &self,
        bulk: &Bulk<'_>,
        attribution: &Attribution,
        enqueue: F,
    ) -> (Picked, Result<Vec<DeadLetterId>, DeadLetterRepoError>)
    where
        F: AsyncFnOnce(&DatabaseTransaction, Vec<StoredLetter>) -> Result<(), DeadLetterRepoError>,
    {
        let mut picked = Picked::default();
        let work = async |txn: &DatabaseTransaction| {
            picked = bulk.pick(txn).await?;
            if picked.places.is_empty() {
                return Ok(Vec::new());
            }
            let letters = bulk.resolve_picked(txn, &picked, attribution).await?;
            let ids: Vec<_> = letters.iter().map(|letter| letter.id).collect();
            // A trigger or a policy hid letters from the UPDATE.
            picked.skipped |= ids.len() < picked.places.len();
            if !letters.is_empty() {
                enqueue(txn, letters).await?;
            }
            Ok(ids)
        };
        let outcome = transaction::run_checked(self.pool(), work).await;
        (picked, outcome)
    }
}

/// A repo, and the requeue of its service.
struct Replayer<Q> {
    repo: SeaOrmDeadLetterRepo,
    requeue: Q,
}

#[async_trait]
impl<Q: Requeue> DeadLetterReplay for Replayer<Q> {
    async fn replay(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        attribution: &Attribution,
    ) -> Result<DeadLetterRow, DeadLetterRepoError> {
        let enqueue = async |txn: &DatabaseTransaction, row: Row| {
            let kind = not_whole(row.payload_kind());
            if let Some(kind) = kind.filter(|_| !self.requeue.accepts_truncated()) {
                return Err(DeadLetterRepoError::PayloadNotWhole { id, kind });
            }
            let letter = StoredLetter::from(row.clone());
            self.requeue.requeue(txn, slice::from_ref(&letter)).await.map_err(by_service)?;
            Ok(DeadLetterRow::from(row))
        };
        let call = self.repo.replay_row(app_id, id, None, attribution, enqueue);
        observed(of_row(app_id, id), pin!(call), |_| 1).await
    }

    async fn replay_edited(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        payload: &str,
        attribution: &Attribution,
    ) -> Result<DeadLetterRow, DeadLetterRepoError> {
        let enqueue = async |txn: &DatabaseTransaction, row: Row| {
            let letter = StoredLetter::from(row.clone()).with_edited_payload();
            self.requeue.requeue(txn, slice::from_ref(&letter)).await.map_err(by_service)?;
            Ok(DeadLetterRow::from(row))
        };
        let call = async {
            self.repo.check_edited(payload)?;
            self.repo.replay_row(app_id, id, Some(payload), attribution, enqueue).await
        };
        observed(call!("replay_edited", %app_id, %id), pin!(call), |_| 1).await
    }

    async fn replay_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        attribution: &Attribution,
        request: &ReplayRequest,
    ) -> Result<Replayed, DeadLetterRepoError> {
        let call = self.replay_in_parts(app_id, filter, attribution, request);
        observed(of_rows(app_id), pin!(call), |replayed| replayed.ids.len() as u64).await
    }

    fn accepts_truncated(&self) -> bool {
        self.requeue.accepts_truncated()
    }
}

impl<Q: Requeue> Replayer<Q> {
    /// Replays a batch. If that fails, replays its halves, and so on, down to the letters that fail by themselves.
    async fn replay_in_parts(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        attribution: &Attribution,
        request: &ReplayRequest,
    ) -> Result<Replayed, DeadLetterRepoError> {
        let &ReplayRequest { after, limit } = request;
        let place = after.map(|cursor| cursor.place(app_id, filter, ListSort::Newest)).transpose()?;
        let payloads = if self.requeue.accepts_truncated() { Payloads::NotErased } else { Payloads::Whole };
        let mut replayed = Replayed { next: after, ..Default::default() };
        let mut is_first = true;
        let mut ran_out_alone = false;
        let mut attribution = Cow::Borrowed(attribution);
        let began = Instant::now();
        // The last part is the next one, so an older half goes before the newer one.
        let mut parts = vec![(filter.clone(), limit)];
        while let Some((part, limit)) = parts.pop() {
            let change = Change::Resolve(Resolution::Replayed, &attribution);
            let mut bulk = Bulk::new(&self.repo, app_id, &part, change, limit)?;
            (bulk.after, bulk.payloads) = (place, payloads);
            let enqueue = async |txn: &DatabaseTransaction, letters: Vec<StoredLetter>| {
                // SQLite may hold a payload that can't be read as it is stored, whatever its stored kind.
                let is_checked = payloads == Payloads::Whole;
                let not_whole = letters.iter().filter(|_| is_checked).find_map(|letter| {
                    let kind = not_whole(letter.payload_kind.as_deref()?)?;
                    Some(DeadLetterRepoError::PayloadNotWhole { id: letter.id, kind })
                });
                match not_whole {
                    Some(error) => Err(error),
                    None => self.requeue.requeue(txn, &letters).await.map_err(by_service),
                }
            };
            let (picked, outcome) = self.repo.replay_batch(&bulk, &attribution, enqueue).await;
            replayed.skipped_locked |= picked.skipped;
            let is_half = !is_first;
            if is_first {
                is_first = false;
                // If a trigger or a policy hides the letters from the UPDATE alone, another call would find the
                // same letters.
                replayed.more = picked.more && outcome.as_ref().map_or(true, |ids| !ids.is_empty());
            }
            let error = match outcome {
                Ok(ids) => {
                    ran_out_alone = false;
                    if !ids.is_empty() {
                        // The first part has the number of the batch, so that no other call has it.
                        attribution.to_mut().batch = None;
                    }
                    replayed.ids.extend(ids);
                    continue;
                }
                Err(error) => error,
            };
            match picked.places.as_slice() {
                // A letter that alone runs out of time would stop every replay before the letters behind it. If the next
                // one runs out of time too, the database may be the cause.
                &[(time, id)]
                    if may_be_the_letters(&error) || is_half && error.is_time_out() && !ran_out_alone =>
                {
                    ran_out_alone = error.is_time_out();
                    warn!(%id, %error, "a letter can't be replayed");
                    replayed.failed.push(ReplayFailure { id, error });
                    replayed.next = Some(Cursor::behind(time, id, app_id, filter, ListSort::Newest));
                    let is_late = began.elapsed() > MAX_TIME && !ran_out_alone;
                    if replayed.failed.len() == MAX_FAILURES || is_late {
                        replayed.more |= !parts.is_empty();
                        break;
                    }
                }
                // A smaller batch may finish in time.
                places @ [_, _, ..] if may_be_the_letters(&error) || error.is_time_out() => {
                    let (older, newer) = places.split_at(places.len() / 2);
                    for half in [newer, older] {
                        let ids = Some(half.iter().map(|&(_, id)| id).collect());
                        let limit = u32::try_from(half.len()).unwrap_or(u32::MAX);
                        parts.push((DeadLetterFilter { ids, ..filter.clone() }, limit));
                    }
                }
                _ if replayed.ids.is_empty() && replayed.failed.is_empty() => return Err(error),
                _ => {
                    warn!(%error, "a replay stopped after a part of its batch");
                    replayed.stopped = Some(error);
                    replayed.more = true;
                    break;
                }
            }
        }
        // If more letters follow, the next call reaches the skipped ones.
        replayed.skipped_locked &= !replayed.more || !replayed.failed.is_empty();
        Ok(replayed)
    }
}

/// Returns whether single letters may have caused the error, so that the rest may succeed without them.
fn may_be_the_letters(error: &DeadLetterRepoError) -> bool {
    use DeadLetterRepoError::{Db, PayloadNotWhole, Requeue};
    matches!(error, Requeue(_) | Db(_) | PayloadNotWhole { .. }) && !error.is_transient()
}

/// Returns the kind of a payload that is not the whole event.
fn not_whole(kind: &str) -> Option<PayloadKind> {
    let truncated = PayloadKind::Truncated;
    (kind == truncated.as_str()).then_some(truncated)
}

fn by_service(error: Box<dyn Error + Send + Sync>) -> DeadLetterRepoError {
    DeadLetterRepoError::Requeue(error.into())
}

/// Keeps the closure's own error for its caller. The call itself ends with an error that shows that nothing was
/// replayed.
fn by_closure<E>(error: E, own: &mut Option<E>) -> DeadLetterRepoError {
    *own = Some(error);
    by_service("the closure's own error".into())
}

fn of_row(app_id: AppId, id: DeadLetterId) -> Call {
    call!("replay", %app_id, %id)
}

fn of_rows(app_id: AppId) -> Call {
    call!("replay_matching", %app_id)
}
