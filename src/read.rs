//! The read contract: how operators find, count and group dead letters.

use std::ops::Range;

use async_trait::async_trait;
use auto_impl::auto_impl;
use uuid::Uuid;

use crate::{
    AppId, Backlog, BacklogRequest, Count, CountRequest, DeadLetterFilter, DeadLetterId, DeadLetterRepoError,
    DeadLetterRow, DeadLetterSummary, ErrorGroups, GroupRequest, Page, PageRequest, Timeline,
    TimelineRequest, UnresolvedCount,
};

/// Finds, counts and groups one app's dead letters.
///
/// Every call on letters takes an [`AppId`]. A letter of another app is indistinguishable from one that does not
/// exist. A call that covers several apps says so in its documentation. The trait is object-safe, and no call changes
/// anything.
///
/// A letter is *open* while somebody still has to act: it is unresolved, or resolved as `handler_failed`.
///
/// A *scan limit* bounds how many letters a call examines. No index serves a filter on source, op or error, so
/// without a scan limit a call may read every letter of the app.
///
/// # Errors
///
/// Besides what each method lists, every call may return [`Db`](DeadLetterRepoError::Db): the database refused the
/// call or could not be reached.
///
/// # Examples
///
/// ```
/// use dead_letters::{
///     AppId, CountRequest, DeadLetterFilter, DeadLetterRead, DeadLetterRepo, GroupRequest, NewDeadLetter,
///     PageRequest, testing,
/// };
/// use serde_json::json;
/// use uuid::Uuid;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let repo = testing::store().await?;
/// let app = AppId::from(Uuid::new_v4());
/// for order in [4711, 4712, 4713] {
///     let (payload, error) = (json!({ "order": order }), format!("no stock for order {order}"));
///     repo.insert(NewDeadLetter::new(app, Uuid::new_v4(), "orders", "insert", payload, error)).await?;
/// }
///
/// let orders = DeadLetterFilter::default().source("orders");
/// assert_eq!(repo.count(app, &orders, &CountRequest::default()).await?.matching.count, 3);
/// let groups = repo.error_groups(app, &orders, &GroupRequest::default()).await?.groups;
/// assert_eq!((groups[0].count, groups[0].error_signature.as_str()), (3, "no stock for order #"));
///
/// let page = repo.list(app, &orders, &PageRequest::default().size(2)).await?;
/// assert_eq!(page.items.len(), 2);
/// let mut behind = PageRequest::default();
/// behind.after = page.next;
/// assert_eq!(repo.list(app, &orders, &behind).await?.items.len(), 1);
/// # Ok(())
/// # }
/// ```
#[async_trait]
#[auto_impl(&, Arc)]
pub trait DeadLetterRead: Send + Sync {
    /// Returns one letter of the app, or `None` if the app has no letter with this id.
    async fn get_for_app(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterRow>, DeadLetterRepoError>;

    /// Returns one letter of the app without its payload, as a list shows it, or `None` if the app has no letter with
    /// this id.
    async fn summary(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterSummary>, DeadLetterRepoError>;

    /// Returns the stored text of one letter's payload, unparsed, or `None` if the app has no letter with this id.
    ///
    /// `characters` is a range of Unicode scalar values, clamped to the text: `0..u64::MAX` is the whole text. A
    /// caller can read a large payload in parts.
    async fn payload_text(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError>;

    /// Returns one letter's `last_error`, whole or in part, as [`payload_text`](Self::payload_text) does.
    async fn error_text(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError>;

    /// Lists the app's letters that match, sorted by `created_at` (newest first), then by `id` (largest first).
    ///
    /// If the filter's state is closed, `resolved_at` takes the place of `created_at`.
    ///
    /// The call uses keyset pagination: a page continues after the last letter of the page before it, not at an
    /// offset. Letters that are resolved, deleted or added between two pages make no other letter appear twice or not
    /// at all. A page costs the same at any depth.
    ///
    /// `page.scan_limit` is how many letters the call may examine. With it a page may have fewer letters
    /// than requested, or none, and still a [`next`](Page::next) cursor. [`scanned_back_to`](Page::scanned_back_to)
    /// is where the call stopped.
    ///
    /// # Errors
    ///
    /// Each of these is returned with nothing sent to the database:
    ///
    /// - [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `page.size` outside 1 to 500, a `page.scan_limit` of 0, and
    ///   more than 1,000 `filter.ids`;
    /// - [`InvalidCursor`](DeadLetterRepoError::InvalidCursor) for a cursor that belongs to another app or filter, or
    ///   that no listing returned.
    async fn list(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError>;

    /// Lists the apps that have open letters, sorted by [`AppId`], smallest first: all such apps, or those among the
    /// request's.
    ///
    /// For the next page, pass the last app of this page as [`after`](BacklogRequest::after). A page with fewer apps
    /// than the request's limit is the last one.
    ///
    /// Every count is capped. The call reads `cap` + 1 index entries per app and count, whatever the apps and the
    /// table hold. It sends one statement for all apps, or for every 1,000 apps of
    /// [`among`](BacklogRequest::among). In a [sharded](crate::SeaOrmDeadLetterRepo::sharded) table it sends one or
    /// two statements per app.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 1,000, with nothing sent to the
    /// database.
    async fn backlogs(&self, request: &BacklogRequest) -> Result<Vec<Backlog>, DeadLetterRepoError>;

    /// Counts the unresolved letters of each app, in the order of `app_ids`. An app without any has the count 0.
    ///
    /// With a `cap`, every count is capped and reads at most `cap` + 1 index entries: a badge costs the same at
    /// 1,000,000 letters as at 1,000. The call sends one statement for every 1,000 apps. With a `cap` in a
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded) table it sends one statement per app.
    async fn unresolved_counts(
        &self,
        app_ids: &[AppId],
        cap: Option<u32>,
    ) -> Result<Vec<UnresolvedCount>, DeadLetterRepoError>;

    /// Counts the app's letters that match, and returns the time of the count, so that a caller can show what a bulk
    /// call would do.
    ///
    /// With a scan limit the call examines at most so many letters, the newest of the app and the filter's state
    /// within the filter's times. [`scanned_back_to`](Count::scanned_back_to) is where the call stopped.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `scan_limit` of 0 and more than 1,000 `filter.ids`,
    /// with nothing sent to the database.
    async fn count(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &CountRequest,
    ) -> Result<Count, DeadLetterRepoError>;

    /// Counts the app's matching letters per time bucket, by `created_at`, for a chart: every bucket of the request,
    /// oldest first, including empty ones.
    ///
    /// A scan limit works as in [`count`](Self::count), for letters within the time range of the buckets.
    ///
    /// # Errors
    ///
    /// Each of these is returned with nothing sent to the database:
    ///
    /// - [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a number of buckets outside 1 to 1,000, a `scan_limit`
    ///   of 0, and more than 1,000 `filter.ids`;
    /// - [`FromAfterUntil`](DeadLetterRepoError::FromAfterUntil).
    async fn timeline(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &TimelineRequest,
    ) -> Result<Timeline, DeadLetterRepoError>;

    /// Groups the app's matching letters by source, op, script and error signature: at most `limit` groups, sorted by
    /// count (largest first), then by last seen (newest first), then by [`group_key`](crate::ErrorGroup::group_key).
    ///
    /// The call reads every letter that matches. With a scan limit it examines at most so many letters, as
    /// [`count`](Self::count) does. For each group it reads up to 32,770 characters of one error.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 500, a `scan_limit` of 0, and more than
    /// 1,000 `filter.ids`, and those of [`timeline`](Self::timeline). Each is returned with nothing sent to the
    /// database.
    async fn error_groups(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &GroupRequest,
    ) -> Result<ErrorGroups, DeadLetterRepoError>;

    /// Counts the app's letters of each event that are resolved as `replayed`, in the order of `event_ids`: how often
    /// the event was put back before.
    ///
    /// The call tells events apart by [`original_event_id`](DeadLetterRow::original_event_id).
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for more than 1,000 `event_ids`, with nothing sent to
    /// the database.
    async fn times_replayed(
        &self,
        app_id: AppId,
        event_ids: &[Uuid],
    ) -> Result<Vec<u64>, DeadLetterRepoError>;
}
