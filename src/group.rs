//! Error groups: letters that failed in the same way.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Bucket, Buckets, DeadLetterId, ScriptId, debug::debug_without_content, setters::setters};

/// Which error groups to return.
///
/// The default is the 50 largest, without a scan limit and without timelines.
///
/// Every field may be missing when it is deserialized. An unknown field is an error.
///
/// # Examples
///
/// ```
/// use chrono::{TimeDelta, Utc};
/// use dead_letters::{Buckets, DeadLetterFilter, DeadLetterRead, GroupRequest};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// # dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
/// let until = Utc::now() + TimeDelta::minutes(1);
/// let days = Buckets::new(until - TimeDelta::days(7)..until, 7);
/// let request = GroupRequest::default().limit(10).scan_limit(100_000).timeline(days);
/// let groups = repo.error_groups(app, &DeadLetterFilter::default(), &request).await?.groups;
/// assert_eq!(groups[0].timeline[6].count, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct GroupRequest {
    /// How many groups to return at most, 1 to 500.
    pub limit: u32,
    /// How many letters the call may examine, at least 1. `None` is no limit.
    pub scan_limit: Option<u32>,
    /// The buckets of the timeline to return for each group.
    pub timeline: Option<Buckets>,
}

impl Default for GroupRequest {
    fn default() -> Self {
        Self { limit: 50, scan_limit: None, timeline: None }
    }
}

setters! { GroupRequest { plain limit: u32, some scan_limit: u32, some timeline: Buckets } }

/// The error groups of an app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ErrorGroups {
    /// The groups, largest first.
    pub groups: Vec<ErrorGroup>,
    /// Where the scan limit stopped the call: letters created before this time are in no group. `None` if nothing was
    /// left out.
    pub scanned_back_to: Option<DateTime<Utc>>,
}

/// Letters with the same source, op, script and error signature.
///
/// A text that was cut ends with ` [cut]`. `Debug` shows the texts by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ErrorGroup {
    /// The key of the group, for a filter, a link or a command line: 16 hex digits of SHA-256 over source, op, script
    /// and signature. Letters that another writer stored without a key have the empty key. They are one group until
    /// [`rebuild_signatures`](crate::DeadLetterTransfer::rebuild_signatures) computes their keys.
    pub group_key: String,
    /// The subject of the events, at most 500 characters.
    pub source: String,
    /// The operation that failed, at most 500 characters.
    pub op: String,
    /// The script, if it was known.
    pub script_id: Option<ScriptId>,
    /// The text that the errors have in common, at most 500 characters.
    pub error_signature: String,
    /// The message of the newest letter's error, as a signature reads it, at most 500 characters.
    pub sample: String,
    /// How many letters the group has.
    pub count: u64,
    /// The `created_at` of the group's oldest letter.
    pub first_seen: DateTime<Utc>,
    /// The `created_at` of the group's newest letter.
    pub last_seen: DateTime<Utc>,
    /// The letter that was created last, except for [erased](crate::DeadLetterDelete::erase) ones unless all are. If
    /// several have the same `created_at`, it is the one with the largest id. The group's texts are those of this letter.
    pub newest_id: DeadLetterId,
    /// How many of the group's letters are closed. It is 0 if the filter's state leaves closed letters out.
    pub closed: u64,
    /// When the last of the closed letters was resolved.
    pub last_closed_at: Option<DateTime<Utc>>,
    /// The buckets of the requested timeline, or none if the request has no timeline. Letters outside its time range
    /// still count in the group.
    pub timeline: Vec<Bucket>,
}

impl ErrorGroup {
    /// Returns whether the group regressed: it has a letter that was created after the last of its letters was
    /// closed.
    ///
    /// It is always `false` if the filter's state leaves closed letters out.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterFilter, DeadLetterRead, DeadLetterState, GroupRequest};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # use dead_letters::{DeadLetterRepo, testing};
    /// # let letter = testing::letter(app);
    /// # let id = repo.insert(letter.clone()).await?;
    /// # repo.resolve(id, "ignored").await?;
    /// # tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    /// # repo.insert(letter).await?;
    /// // The letters of any state, because closed letters show that the group was closed.
    /// let any = DeadLetterFilter::default().state(DeadLetterState::Any);
    /// let groups = repo.error_groups(app, &any, &GroupRequest::default()).await?.groups;
    /// assert!(groups[0].regressed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn regressed(&self) -> bool {
        self.last_closed_at.is_some_and(|closed| closed < self.last_seen)
    }
}

debug_without_content! {
    ErrorGroup {
        group_key, script_id, count, first_seen, last_seen, newest_id, closed, last_closed_at, timeline;
        source, op, error_signature, sample,
    }
}
