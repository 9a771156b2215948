//! Stores concurrent inserts together in one batch.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use tokio::{
    runtime::Handle,
    sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    AppId, DeadLetterId, DeadLetterRepo, DeadLetterRepoError, DeadLetterRow, NewDeadLetter,
    observed::{call, observed},
    payload::{field_nests_too_deep, nests_too_deep},
};

/// How many letters a batch has at most.
const MAX_ROWS: usize = 128;
/// A batch is full once its letters take this much memory, so that most batches are stored by one statement.
const MAX_BATCH_BYTES: usize = 16 << 20;
/// The next batch gathers while one batch is being stored. A second worker avoids the pause between two batches.
const WORKERS: usize = 2;
/// How many letters may wait for a worker.
const QUEUE: usize = 1_024;
/// How much memory the letters may take whose insert has not returned. A larger letter takes all of it.
const QUEUE_BYTES: u32 = 64 << 20;

/// A [`DeadLetterRepo`] that stores concurrent [`insert`](DeadLetterRepo::insert)s in batches of at most 128 letters,
/// through another repo.
///
/// Letters that arrive while a batch is being stored are the next batch. The insert of a single caller, and every
/// other call, goes straight to the other repo.
///
/// Every caller waits until its own letter is committed, and gets its own id or its own error. If a batch fails with
/// an error that can belong to one letter, such as a constraint, its letters are stored one by one. One bad letter
/// then fails only its own caller. Any other error, such as a timeout or a broken connection, goes to all callers of
/// the batch at once. If a caller's future is dropped, its own letter may be stored or not, and no other letter is lost.
///
/// At most 1,024 letters wait for a batch. The letters that wait or are being stored take at most 64 MB; a larger
/// letter goes by itself. Further callers wait until there is room. Do not use this repo for an insert that must
/// commit together with another change, such as the outbox's delete: use [`bury_with`](crate::SeaOrmDeadLetterRepo::bury_with).
///
/// Each insert has a span of its own, and is the call `coalesced_insert` in the metrics.
#[derive(Debug)]
pub struct CoalescingDeadLetterRepo<R> {
    inner: Arc<R>,
    /// The permit of a caller that is alone and needs no worker.
    direct: Semaphore,
    /// The queue of the workers. `None` after a shutdown.
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    /// The bytes that the queue and the current batches may still take.
    bytes: Arc<Semaphore>,
    workers: AsyncMutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Job {
    letter: NewDeadLetter,
    caller: Caller,
    bytes: OwnedSemaphorePermit,
}

type Caller = oneshot::Sender<Result<DeadLetterId, DeadLetterRepoError>>;

impl<R: DeadLetterRepo + 'static> CoalescingDeadLetterRepo<R> {
    /// Wraps another repo, with two workers on this runtime.
    ///
    /// The workers end after the value is dropped or shut down, once every waiting letter has its result.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{CoalescingDeadLetterRepo, DeadLetterRepo, testing};
    /// use tokio::runtime::Handle;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let repo = CoalescingDeadLetterRepo::new(repo, &Handle::current());
    /// let insert = || repo.insert(testing::letter(app));
    /// // The second and the third letter are one batch.
    /// let (first, second, third) = tokio::join!(insert(), insert(), insert());
    /// assert!(first.is_ok() && second? != third?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(inner: R, runtime: &Handle) -> Self {
        let inner = Arc::new(inner);
        let (queue, jobs) = mpsc::channel(QUEUE);
        let jobs = Arc::new(AsyncMutex::new(jobs));
        let workers = (0..WORKERS).map(|_| runtime.spawn(work(Arc::clone(&inner), Arc::clone(&jobs))));
        Self {
            workers: AsyncMutex::new(workers.collect()),
            queue: Mutex::new(Some(queue)),
            direct: Semaphore::new(1),
            bytes: Arc::new(Semaphore::new(QUEUE_BYTES as usize)),
            inner,
        }
    }

    /// Waits until every waiting letter has its result.
    ///
    /// A later insert goes straight to the other repo. If a call is dropped, another call waits for the same letters.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{CoalescingDeadLetterRepo, DeadLetterRepo, testing};
    /// use tokio::runtime::Handle;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let pool = repo.pool().clone();
    /// let repo = CoalescingDeadLetterRepo::new(repo, &Handle::current());
    /// # repo.insert(testing::letter(app)).await?;
    /// // When the service ends: first the letters that wait, and then the pool.
    /// repo.shut_down().await;
    /// pool.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn shut_down(&self) {
        drop(self.queue().take());
        let mut workers = self.workers.lock().await;
        while let Some(worker) = workers.last_mut() {
            // A worker that panicked has dropped its senders, so its callers get an error.
            worker.await.ok();
            // The worker is removed only after it ended, so that the next call waits for it if this call is dropped.
            workers.pop();
        }
    }

    async fn hand_over(&self, letter: NewDeadLetter) -> Result<DeadLetterId, DeadLetterRepoError> {
        let direct = self.direct.try_acquire();
        let queue = self.queue().clone();
        // A batch clones its letters, and cloning a very deep value would end the process.
        let is_deep =
            || nests_too_deep(&letter.payload) || letter.metadata.values().any(field_nests_too_deep);
        let Some(queue) = queue.filter(|_| direct.is_err() && !is_deep()) else {
            return self.inner.insert(letter).await;
        };
        let permits = u32::try_from(bytes_of(&letter)).unwrap_or(u32::MAX).min(QUEUE_BYTES);
        let Ok(bytes) = Arc::clone(&self.bytes).acquire_many_owned(permits).await else {
            return self.inner.insert(letter).await;
        };
        let (caller, answer) = oneshot::channel();
        match queue.send(Job { letter, caller, bytes }).await {
            Ok(()) => answer.await.unwrap_or(Err(DeadLetterRepoError::RuntimeEnded)),
            Err(mpsc::error::SendError(job)) => self.inner.insert(job.letter).await,
        }
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Job>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns about how many bytes of memory a letter takes. No value in it may nest deeper than serde_json reads.
fn bytes_of(letter: &NewDeadLetter) -> usize {
    let payload_text = letter.payload_text.as_ref().map_or(0, String::len);
    let signature = letter.error_signature.as_ref().map_or(0, String::len);
    let texts = letter.source.len() + letter.op.len() + letter.last_error.len() + payload_text + signature;
    size_of::<NewDeadLetter>() + texts + bytes_of_value(&letter.payload) + bytes_of_fields(&letter.metadata)
}

fn bytes_of_fields(fields: &Map<String, Value>) -> usize {
    fields.iter().map(|(key, value)| key.len() + bytes_of_value(value)).sum()
}

fn bytes_of_value(value: &Value) -> usize {
    let parts = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(bytes_of_value).sum(),
        Value::Object(fields) => bytes_of_fields(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    size_of::<Value>() + parts
}

async fn work<R: DeadLetterRepo>(inner: Arc<R>, jobs: Arc<AsyncMutex<mpsc::Receiver<Job>>>) {
    loop {
        let batch = next_batch(&mut *jobs.lock().await).await;
        if batch.is_empty() {
            return;
        }
        store(&*inner, batch).await;
    }
}

/// Waits for a letter, and returns it with all letters that already wait, up to a full batch. Returns an empty `Vec`
/// once the queue is closed and empty.
async fn next_batch(jobs: &mut mpsc::Receiver<Job>) -> Vec<Job> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut next = jobs.recv().await;
    while let Some(job) = next {
        bytes += job.bytes.num_permits();
        batch.push(job);
        let has_room = batch.len() < MAX_ROWS && bytes < MAX_BATCH_BYTES;
        next = if has_room { jobs.try_recv().ok() } else { None };
    }
    batch
}

async fn store(inner: &impl DeadLetterRepo, batch: Vec<Job>) {
    // The permits are released when all callers have their results.
    let mut bytes = Vec::with_capacity(batch.len());
    let (letters, callers): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|job| {
            bytes.push(job.bytes);
            (job.letter, job.caller)
        })
        .unzip();
    // Sending a result fails if the caller is gone, which is no error.
    if letters.len() > 1 {
        match inner.insert_many(letters.clone()).await {
            Ok(ids) => {
                for (caller, id) in callers.into_iter().zip(ids) {
                    caller.send(Ok(id)).ok();
                }
                return;
            }
            Err(error) if error.is_one_letters_own() => {}
            Err(error) => return refuse(callers, &error),
        }
    }
    let mut callers = callers.into_iter();
    for (letter, caller) in letters.into_iter().zip(callers.by_ref()) {
        let outcome = inner.insert(letter).await;
        let for_all = outcome.as_ref().err().filter(|error| !error.is_one_letters_own()).cloned();
        caller.send(outcome).ok();
        if let Some(error) = for_all {
            return refuse(callers, &error);
        }
    }
}

/// Returns the error to all callers at once.
///
/// If the letters were retried one by one, each would wait for the same timeout, and after a broken connection a
/// letter might be stored twice.
fn refuse(callers: impl IntoIterator<Item = Caller>, error: &DeadLetterRepoError) {
    for caller in callers {
        caller.send(Err(error.clone())).ok();
    }
}

#[async_trait]
impl<R: DeadLetterRepo + 'static> DeadLetterRepo for CoalescingDeadLetterRepo<R> {
    async fn insert(&self, letter: NewDeadLetter) -> Result<DeadLetterId, DeadLetterRepoError> {
        let call = call!("coalesced_insert", app_id = %letter.app_id);
        // The inner repo counts the letters when it stores them.
        observed(call, pin!(self.hand_over(letter)), |_| 0).await
    }

    async fn insert_many(
        &self,
        letters: Vec<NewDeadLetter>,
    ) -> Result<Vec<DeadLetterId>, DeadLetterRepoError> {
        self.inner.insert_many(letters).await
    }

    async fn get(&self, id: DeadLetterId) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
        self.inner.get(id).await
    }

    async fn list_for_app(
        &self,
        app_id: AppId,
        unresolved_only: bool,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<DeadLetterRow>, DeadLetterRepoError> {
        self.inner.list_for_app(app_id, unresolved_only, limit, offset).await
    }

    async fn unresolved_count(&self, app_id: AppId) -> Result<i64, DeadLetterRepoError> {
        self.inner.unresolved_count(app_id).await
    }

    async fn resolve(&self, id: DeadLetterId, reason: &str) -> Result<(), DeadLetterRepoError> {
        self.inner.resolve(id, reason).await
    }

    async fn gc(&self, older_than: DateTime<Utc>, limit: i64) -> Result<u64, DeadLetterRepoError> {
        self.inner.gc(older_than, limit).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_batch_is_full_at_128_letters_or_at_16_mb() {
        for (count, error_bytes, batches) in [(300, 0, vec![128, 128, 44]), (10, 4 << 20, vec![4, 4, 2])] {
            let (queue, mut jobs) = mpsc::channel(count);
            let bytes = Arc::new(Semaphore::new(QUEUE_BYTES as usize));
            for _ in 0..count {
                let letter = NewDeadLetter::new(
                    uuid::Uuid::nil().into(),
                    uuid::Uuid::nil(),
                    "",
                    "",
                    Value::Null,
                    "x".repeat(error_bytes),
                );
                let permits = bytes_of(&letter) as u32;
                let bytes = Arc::clone(&bytes).acquire_many_owned(permits).await.unwrap();
                queue.send(Job { letter, caller: oneshot::channel().0, bytes }).await.unwrap();
            }
            drop(queue);
            for size in batches {
                assert_eq!(next_batch(&mut jobs).await.len(), size);
            }
            assert!(next_batch(&mut jobs).await.is_empty());
        }
    }
}
