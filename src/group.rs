//! Error groups: letters that failed in the same way.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    AppId, Bucket, Buckets, DeadLetterId, ScriptId, debug::debug_without_content, setters::setters,
    words::words,
};

/// Which error groups to return.
///
/// The default is the 50 largest, without a scan limit and without timelines.
///
/// Every field may be missing when it is deserialized. An unknown field is an error. `Debug` shows only
/// the size of `payload_contains`.
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
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct GroupRequest {
    /// How many groups to return at most, 1 to 500.
    pub limit: u32,
    /// How many letters the call may examine, at least 1. `None` is no limit, or 10,000 with
    /// [`payload_contains`](field@Self::payload_contains).
    pub scan_limit: Option<u32>,
    /// The buckets of the timeline to return for each group.
    pub timeline: Option<Buckets>,
    /// Groups only letters whose payload contains this text, as [`PayloadSearch::payload_contains`](field@crate::PayloadSearch::payload_contains).
    /// The call then also ends at 64 MB of payload, as a search does. The text may be a secret, so it is not serialized, and
    /// deserializing it is an error.
    #[serde(skip)]
    pub payload_contains: Option<String>,
}

impl Default for GroupRequest {
    fn default() -> Self {
        Self { limit: 50, scan_limit: None, timeline: None, payload_contains: None }
    }
}

setters! {
    GroupRequest {
        plain limit: u32,
        some scan_limit: u32,
        some timeline: Buckets,
        into payload_contains: String,
    }
}

debug_without_content! { GroupRequest { limit, scan_limit, timeline; payload_contains } }

/// The error groups of an app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ErrorGroups {
    /// The groups, largest first.
    pub groups: Vec<ErrorGroup>,
    /// Where the scan limit stopped the call: the `created_at` of the last examined letter, or its `resolved_at` if
    /// the filter's state is closed. Earlier letters are in no group. `None` if nothing was left out.
    pub scanned_back_to: Option<DateTime<Utc>>,
}

/// Letters with the same source, op, script and error signature.
///
/// A text that was cut ends with ` [cut]`. `Debug` shows the texts by their size.
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
/// assert!(groups[0].regressed);
/// # Ok(())
/// # }
/// ```
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
    /// Whether the group regressed: it has closed letters and open ones, and every open one was created after
    /// `last_closed_at`. It is `false` if the filter's state leaves closed or open letters out.
    pub regressed: bool,
    /// The buckets of the requested timeline, or none if the request has no timeline. Letters outside its time range
    /// still count in the group.
    pub timeline: Vec<Bucket>,
}

debug_without_content! {
    ErrorGroup {
        group_key, script_id, count, first_seen, last_seen, newest_id, closed, last_closed_at, regressed, timeline;
        source, op, error_signature, sample,
    }
}

/// Which groups [`new_error_groups`](crate::DeadLetterRead::new_error_groups) returns.
///
/// Every field but `since` may be missing when it is deserialized. An unknown field is an error.
///
/// # Examples
///
/// ```
/// use chrono::{TimeDelta, Utc};
/// use dead_letters::{DeadLetterRead, NewGroupRequest};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// # dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
/// // The groups of the apps that an operator may see.
/// let request = NewGroupRequest::since(Utc::now() - TimeDelta::hours(24)).among([app]).limit(20);
/// let new = repo.new_error_groups(&request).await?;
/// assert_eq!(new.groups[0].app_id, app);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NewGroupRequest {
    /// Only groups that have letters created at this time or later. It must not be in the future.
    pub since: DateTime<Utc>,
    /// Only groups of these apps, in any order. `None` is all apps.
    #[serde(default)]
    pub among: Option<Vec<AppId>>,
    /// How many letters the call may examine, at least 1: 10,000 by default. It bounds the letters since `since` and the
    /// earlier ones together.
    #[serde(default = "default_scan_limit")]
    pub scan_limit: u32,
    /// How many groups to return at most, 1 to 500: 50 by default.
    #[serde(default = "default_limit")]
    pub limit: u32,
    /// Whether to return the groups that have open letters, new or not, instead of those that are new or regressed. Their
    /// counts and times are then those of all letters that the call examined. It is `false` by default.
    /// [`unannounced_groups`](crate::DeadLetterAnnounce::unannounced_groups) ignores it.
    #[serde(default)]
    pub open: bool,
}

fn default_scan_limit() -> u32 {
    10_000
}

fn default_limit() -> u32 {
    50
}

impl NewGroupRequest {
    /// Makes a request for the groups of all apps that have letters created at this time or later.
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::{TimeDelta, Utc};
    /// use dead_letters::NewGroupRequest;
    ///
    /// let request = NewGroupRequest::since(Utc::now() - TimeDelta::hours(1));
    /// assert_eq!((request.limit, request.scan_limit), (50, 10_000));
    /// assert_eq!(request.among, None);
    /// ```
    pub fn since(since: DateTime<Utc>) -> Self {
        Self { since, among: None, scan_limit: default_scan_limit(), limit: default_limit(), open: false }
    }
}

setters! { NewGroupRequest { into among: Vec<AppId>, plain scan_limit: u32, plain limit: u32, plain open: bool } }

/// The error groups that are new or regressed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewErrorGroups {
    /// The groups. [Known](NewGroupState::Known) groups come last, those with the most open letters first. Otherwise
    /// groups are sorted by `first_seen`, latest first, then by app and key.
    pub groups: Vec<NewErrorGroup>,
    /// Where the scan limit stopped the call: it knows nothing of letters created before this time. `None` if nothing
    /// was left out. If the call went app by app, it is the latest of the apps' times.
    pub scanned_back_to: Option<DateTime<Utc>>,
}

/// An error group that is new or regressed, or that has open letters.
///
/// A text that was cut ends with ` [cut]`. `Debug` shows the texts by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewErrorGroup {
    /// The app.
    pub app_id: AppId,
    /// The key of the group, as in [`ErrorGroup::group_key`].
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
    /// How many of the group's letters were created since `since`, or at any time for [open](NewGroupRequest::open)
    /// groups, among those that the call examined.
    pub count: u64,
    /// How many of these letters are open.
    pub open: u64,
    /// The `created_at` of the first of these letters.
    pub first_seen: DateTime<Utc>,
    /// The `created_at` of the last of these letters.
    pub last_seen: DateTime<Utc>,
    /// The newest letter of the group, chosen as for [`ErrorGroup::newest_id`], and for [open](NewGroupRequest::open)
    /// groups the newest open one. The group's texts are those of this letter.
    pub newest_id: DeadLetterId,
    /// When the last of the group's closed letters was resolved, among the letters that the call examined.
    pub last_closed_at: Option<DateTime<Utc>>,
    /// Whether the group is new or regressed, as far as the call knows.
    pub state: NewGroupState,
}

debug_without_content! {
    NewErrorGroup {
        app_id, group_key, script_id, count, open, first_seen, last_seen, newest_id, last_closed_at, state;
        source, op, error_signature, sample,
    }
}

/// Why [`new_error_groups`](crate::DeadLetterRead::new_error_groups) returned a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NewGroupState {
    /// The group has no letter created before `since`, back to [`scanned_back_to`](NewErrorGroups::scanned_back_to).
    New,
    /// The group [regressed](ErrorGroup::regressed): it has closed letters and open ones, and every open one was
    /// created after the last close.
    Regressed,
    /// The scan limit stopped the call before it came to `since`. The group may have earlier letters.
    Unknown,
    /// The group has letters created before `since`, and did not regress.
    Known,
}

words! {
    NewGroupState { New = "new", Regressed = "regressed", Unknown = "unknown", Known = "known" }
    /// Returns the name for programs: `new`, `regressed`, `unknown` or `known`.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::NewGroupState;
    ///
    /// assert_eq!(NewGroupState::Regressed.as_str(), "regressed");
    /// ```
    as_str
}
