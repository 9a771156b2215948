//! The database's clock.

use chrono::{DateTime, Utc};
use dead_letters::{DeadLetterFilter, DeadLetterRepoError};

use crate::access::AppAccess;

/// Returns the database's time. It is never taken from a count of somebody's filter: where that has a
/// `created_before`, the count is as of then.
pub(crate) async fn now(access: &AppAccess) -> Result<DateTime<Utc>, DeadLetterRepoError> {
    Ok(access.store().count(access.app_id, &DeadLetterFilter::default(), 1, Some(1)).await?.now)
}
