//! The database's clock.

use chrono::{DateTime, Utc};
use dead_letters::{CountRequest, DeadLetterFilter, DeadLetterRepoError};

use crate::access::AppAccess;

/// Returns the database's time. A count with the view's own filter cannot replace this call, because a filter with
/// `created_before` is counted as of that time.
pub(crate) async fn now(access: &AppAccess) -> Result<DateTime<Utc>, DeadLetterRepoError> {
    Ok(access
        .store()
        .count(access.app_id, &DeadLetterFilter::default(), &CountRequest::default().cap(1).scan_limit(1))
        .await?
        .now)
}
