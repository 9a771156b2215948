//! Counts and durations, for whoever watches the store.

use std::{future::Future, time::Instant};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use metrics::{counter, histogram};

use crate::{AppId, DeadLetterId, DeadLetterRepo, DeadLetterRepoError, DeadLetterRow, NewDeadLetter};

/// A [`DeadLetterRepo`] that tells the [`metrics`] crate of each call of another one:
///
/// - `dead_letters_calls_total`, by `op` and `outcome`: `ok`, `answer` (not found, say, or a bad argument), `transient`
///   or `error`;
/// - `dead_letters_call_duration_seconds`, a histogram, by `op`;
/// - `dead_letters_rows_total`, by `op`: rows that were stored, read, counted, resolved or deleted.
#[derive(Debug, Clone)]
pub struct MeteredDeadLetterRepo<R> {
    inner: R,
}

impl<R: DeadLetterRepo> MeteredDeadLetterRepo<R> {
    /// Around another repo.
    pub fn new(inner: R) -> Self {
        Self { inner }
    }
}

async fn metered<T>(
    op: &'static str,
    call: impl Future<Output = Result<T, DeadLetterRepoError>> + Send,
    rows: impl FnOnce(&T) -> u64 + Send,
) -> Result<T, DeadLetterRepoError> {
    let start = Instant::now();
    let outcome = call.await;
    histogram!("dead_letters_call_duration_seconds", "op" => op).record(start.elapsed());
    let label = match &outcome {
        Ok(answer) => {
            counter!("dead_letters_rows_total", "op" => op).increment(rows(answer));
            "ok"
        }
        Err(error) if error.is_answer() => "answer",
        Err(error) if error.is_transient() => "transient",
        Err(_) => "error",
    };
    counter!("dead_letters_calls_total", "op" => op, "outcome" => label).increment(1);
    outcome
}

#[async_trait]
impl<R: DeadLetterRepo> DeadLetterRepo for MeteredDeadLetterRepo<R> {
    async fn insert(&self, letter: NewDeadLetter) -> Result<DeadLetterId, DeadLetterRepoError> {
        metered("insert", self.inner.insert(letter), |_| 1).await
    }

    async fn insert_many(
        &self,
        letters: Vec<NewDeadLetter>,
    ) -> Result<Vec<DeadLetterId>, DeadLetterRepoError> {
        metered("insert_many", self.inner.insert_many(letters), |ids| ids.len() as u64).await
    }

    async fn get(&self, id: DeadLetterId) -> Result<Option<DeadLetterRow>, DeadLetterRepoError> {
        metered("get", self.inner.get(id), |row| row.is_some().into()).await
    }

    async fn list_for_app(
        &self,
        app_id: AppId,
        unresolved_only: bool,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<DeadLetterRow>, DeadLetterRepoError> {
        let call = self.inner.list_for_app(app_id, unresolved_only, limit, offset);
        metered("list_for_app", call, |rows| rows.len() as u64).await
    }

    async fn unresolved_count(&self, app_id: AppId) -> Result<i64, DeadLetterRepoError> {
        metered("unresolved_count", self.inner.unresolved_count(app_id), |count| count.unsigned_abs()).await
    }

    async fn resolve(&self, id: DeadLetterId, reason: &str) -> Result<(), DeadLetterRepoError> {
        metered("resolve", self.inner.resolve(id, reason), |()| 1).await
    }

    async fn gc(&self, older_than: DateTime<Utc>, limit: i64) -> Result<u64, DeadLetterRepoError> {
        metered("gc", self.inner.gc(older_than, limit), |&deleted| deleted).await
    }
}
