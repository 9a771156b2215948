//! Which error groups somebody was told of, so that several processes tell of each group once.

use std::time::Duration;

use async_trait::async_trait;
use auto_impl::auto_impl;
use chrono::{DateTime, TimeDelta, Utc};

use crate::{AppId, DeadLetterRepoError, NewErrorGroup, NewGroupRequest};

/// How far back a look for new groups overlaps the one before.
///
/// A letter has the time at which its transaction began, and is seen only once that transaction has committed. No time
/// is therefore one before which all letters are known.
pub(crate) const OVERLAP: TimeDelta = TimeDelta::minutes(15);

/// Remembers which new and regressed error groups were announced, across processes and restarts. `GroupWatch` (feature
/// `watch`) is the loop over these calls.
///
/// A process claims a group, tells somebody of it, and confirms. A claim is a lease: if its process fails before it
/// confirms, the group can be claimed again after the lease. Each group is therefore announced at least once, and
/// normally once.
///
/// The trait is object-safe. Every call is atomic, as in [`DeadLetterRepo`](crate::DeadLetterRepo). All times are those
/// of the database's clock.
///
/// # Errors
///
/// Besides what each method lists, every call may return [`Db`](DeadLetterRepoError::Db): the database refused the
/// call or could not be reached.
#[async_trait]
#[auto_impl(&, Arc)]
pub trait DeadLetterAnnounce: Send + Sync {
    /// Finds the groups that [`new_error_groups`](crate::DeadLetterRead::new_error_groups) finds, without those that
    /// were announced or are claimed at the moment.
    ///
    /// A group that was announced is found again if it regressed since: it has a later close than the regression that
    /// was announced, if any. A group that is [new](crate::NewGroupState::New) is not found again until
    /// [`sweep_announcements`](Self::sweep_announcements) deletes its row.
    ///
    /// If a claimed group was not announced yet, the call begins 15 minutes before the group's first letter, also if
    /// `since` is later. The group is then found again after its lease. It is not found if its letters lie beyond the
    /// scan limit. Whether any other group is new still depends on `since`.
    ///
    /// The call sends one statement for that time, and then those of `new_error_groups`.
    ///
    /// # Errors
    ///
    /// Those of [`new_error_groups`](crate::DeadLetterRead::new_error_groups).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use chrono::{TimeDelta, Utc};
    /// use dead_letters::{DeadLetterAnnounce, NewGroupRequest};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// let request = NewGroupRequest::since(Utc::now() - TimeDelta::hours(1));
    /// for group in repo.unannounced_groups(&request).await?.groups {
    ///     if let Some(claim) = repo.claim_announcement(&group, Duration::from_secs(300)).await? {
    ///         println!("{} is {}", group.source, group.state.as_str());
    ///         repo.confirm_announcement(&claim).await?;
    ///     }
    /// }
    /// assert!(repo.unannounced_groups(&request).await?.groups.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    async fn unannounced_groups(
        &self,
        request: &NewGroupRequest,
    ) -> Result<UnannouncedGroups, DeadLetterRepoError>;

    /// Claims a group for the time of the lease. If several callers claim it at once, exactly one gets the claim. A
    /// lease of more than a day is shortened to a day.
    ///
    /// Returns `None` if another caller has a lease on the group, or if the group was announced and did not regress
    /// since. A lease that ran out without [`confirm_announcement`](Self::confirm_announcement) is no obstacle.
    ///
    /// The call is one statement. It does not look at the letters: it takes the group's key, its
    /// [`first_seen`](NewErrorGroup::first_seen), its state and its [`last_closed_at`](NewErrorGroup::last_closed_at)
    /// from `group`.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use dead_letters::DeadLetterAnnounce;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let group = dead_letters::testing::new_error_group(app);
    /// let lease = Duration::from_secs(300);
    /// assert!(repo.claim_announcement(&group, lease).await?.is_some());
    /// assert!(repo.claim_announcement(&group, lease).await?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    async fn claim_announcement(
        &self,
        group: &NewErrorGroup,
        lease: Duration,
    ) -> Result<Option<AnnouncementClaim>, DeadLetterRepoError>;

    /// Records that somebody was told of the group. Returns whether the claim was still the group's last one, also
    /// after its lease; otherwise the call changes nothing.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use dead_letters::DeadLetterAnnounce;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let group = dead_letters::testing::new_error_group(app);
    /// let Some(claim) = repo.claim_announcement(&group, Duration::from_secs(300)).await? else { return Ok(()) };
    /// println!("{} is {}", group.source, group.state.as_str());
    /// assert!(repo.confirm_announcement(&claim).await?);
    /// # Ok(())
    /// # }
    /// ```
    async fn confirm_announcement(&self, claim: &AnnouncementClaim) -> Result<bool, DeadLetterRepoError>;

    /// Deletes rows that are of no use any more, at most `limit`, and returns how many it deleted.
    ///
    /// These are the rows of groups that were announced before `announced_before`, and the rows of claims that were not
    /// confirmed and whose lease ended before `abandoned_before`.
    ///
    /// If a group whose row was deleted is new or regressed, it is announced again. Pass the
    /// [`as_of`](UnannouncedGroups::as_of) of a look as `abandoned_before`, after all its groups were claimed. A row with
    /// an earlier lease then belongs to a group that is not new any more, or whose letters are gone.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 1,000, with nothing sent to the
    /// database.
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::{DateTime, TimeDelta, Utc};
    /// use dead_letters::DeadLetterAnnounce;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// let announced_before = Utc::now() - TimeDelta::days(90);
    /// let deleted = repo.sweep_announcements(announced_before, DateTime::UNIX_EPOCH, 1_000).await?;
    /// assert_eq!(deleted, 0);
    /// # Ok(())
    /// # }
    /// ```
    async fn sweep_announcements(
        &self,
        announced_before: DateTime<Utc>,
        abandoned_before: DateTime<Utc>,
        limit: u32,
    ) -> Result<u64, DeadLetterRepoError>;
}

/// The result of [`unannounced_groups`](DeadLetterAnnounce::unannounced_groups).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnannouncedGroups {
    /// The groups, in the order of [`NewErrorGroups::groups`](crate::NewErrorGroups::groups).
    pub groups: Vec<NewErrorGroup>,
    /// Where the scan limit stopped the call, as in
    /// [`NewErrorGroups::scanned_back_to`](crate::NewErrorGroups::scanned_back_to).
    pub scanned_back_to: Option<DateTime<Utc>>,
    /// The database's time at the start of the call.
    pub as_of: DateTime<Utc>,
}

impl UnannouncedGroups {
    /// Makes a result for a fake of the store.
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::Utc;
    /// use dead_letters::{UnannouncedGroups, testing};
    ///
    /// let group = testing::new_error_group(uuid::Uuid::nil().into());
    /// let found = UnannouncedGroups::new(vec![group], Utc::now());
    /// assert_eq!(found.scanned_back_to, None);
    /// ```
    pub fn new(groups: Vec<NewErrorGroup>, as_of: DateTime<Utc>) -> Self {
        Self { groups, scanned_back_to: None, as_of }
    }
}

/// The claim of a group, which [`confirm_announcement`](DeadLetterAnnounce::confirm_announcement) takes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnnouncementClaim {
    /// The app of the group.
    pub app_id: AppId,
    /// The key of the group, as in [`NewErrorGroup::group_key`].
    pub group_key: String,
    /// When the group was claimed. It tells this claim from later ones.
    pub claimed_at: DateTime<Utc>,
}

impl AnnouncementClaim {
    /// Makes a claim for a fake of the store.
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::Utc;
    /// use dead_letters::{AnnouncementClaim, testing};
    ///
    /// let group = testing::new_error_group(uuid::Uuid::nil().into());
    /// let claim = AnnouncementClaim::new(&group, Utc::now());
    /// assert_eq!(claim.group_key, group.group_key);
    /// ```
    pub fn new(group: &NewErrorGroup, claimed_at: DateTime<Utc>) -> Self {
        Self { app_id: group.app_id, group_key: group.group_key.clone(), claimed_at }
    }
}
