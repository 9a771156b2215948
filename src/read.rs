//! The read contract: how operators find, count and group dead letters.

use std::ops::Range;

use async_trait::async_trait;
use auto_impl::auto_impl;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    ActionRequest, AppId, Backlog, BacklogRequest, Count, CountRequest, DeadLetterAction, DeadLetterFilter,
    DeadLetterId, DeadLetterRepoError, DeadLetterRow, DeadLetterState, DeadLetterSummary, ErrorGroups,
    GroupRequest, LettersVersion, NewErrorGroups, NewGroupRequest, Page, PageRequest, PayloadSearch,
    RecentApp, Timeline, TimelineRequest, UnresolvedCount,
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
/// call or could not be reached. A call that takes a filter also returns the
/// [errors of a filter](DeadLetterFilter#errors).
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
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{AppId, DeadLetterRead};
    /// use uuid::Uuid;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let id = dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// assert!(repo.get_for_app(app, id).await?.is_some());
    /// let other_app = AppId::from(Uuid::new_v4());
    /// assert!(repo.get_for_app(other_app, id).await?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    async fn get_for_app(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterRow>, DeadLetterRepoError>;

    /// Returns the app of a letter, or `None` if no app has a letter with this id. The call is about all apps: check
    /// that the operator may see the app.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::DeadLetterRead;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let id = dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// assert_eq!(repo.app_of(id).await?, Some(app));
    /// # Ok(())
    /// # }
    /// ```
    async fn app_of(&self, id: DeadLetterId) -> Result<Option<AppId>, DeadLetterRepoError>;

    /// Returns one letter of the app without its payload, as a list shows it, or `None` if the app has no letter with
    /// this id.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::DeadLetterRead;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let id = dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// if let Some(letter) = repo.summary(app, id).await? {
    ///     println!("{} {}: {}", letter.source, letter.op, letter.error_excerpt);
    ///     assert!(letter.is_open() && letter.payload_bytes > 0);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    async fn summary(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterSummary>, DeadLetterRepoError>;

    /// Returns the stored text of one letter's payload, unparsed, or `None` if the app has no letter with this id.
    ///
    /// `characters` is a range of Unicode scalar values, clamped to the text: `0..u64::MAX` is the whole text. A
    /// caller can read a large payload in parts.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRead, DeadLetterRepo, NewDeadLetter, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let text = "<order>4711</order>".to_owned();
    /// let id = repo.insert(NewDeadLetter { payload_text: Some(text.clone()), ..testing::letter(app) }).await?;
    /// assert_eq!(repo.payload_text(app, id, 0..7).await?.as_deref(), Some("<order>"));
    /// assert_eq!(repo.payload_text(app, id, 0..u64::MAX).await?, Some(text));
    /// # Ok(())
    /// # }
    /// ```
    async fn payload_text(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError>;

    /// Returns the [edited payload](crate::StoredLetter::replayed_payload) that the last replay of the letter put back,
    /// whole or in part, as [`payload_text`](Self::payload_text) does. Returns `None` if the app has no letter with this
    /// id, or if its last replay put back its own payload.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Attribution, DeadLetterRead, DeadLetterRepo, testing};
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
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let id = repo.insert(testing::letter(app)).await?;
    /// assert_eq!(repo.replayed_payload_text(app, id, 0..u64::MAX).await?, None);
    /// repo.replayer(Outbox).replay_edited(app, id, "[4712]", &Attribution::by("ada")).await?;
    /// assert_eq!(repo.replayed_payload_text(app, id, 0..u64::MAX).await?.as_deref(), Some("[4712]"));
    /// assert_eq!(repo.replayed_payload_text(app, id, 1..5).await?.as_deref(), Some("4712"));
    /// # Ok(())
    /// # }
    /// ```
    async fn replayed_payload_text(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError>;

    /// Returns one letter's `last_error`, whole or in part, as [`payload_text`](Self::payload_text) does.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRead, DeadLetterRepo, NewDeadLetter, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let last_error = format!("timeout\n{}", "at deliver.rs:17\n".repeat(10_000));
    /// let id = repo.insert(NewDeadLetter { last_error, ..testing::letter(app) }).await?;
    /// let beginning = repo.error_text(app, id, 0..1_000).await?.unwrap_or_default();
    /// assert!(beginning.len() == 1_000 && beginning.starts_with("timeout"));
    /// # Ok(())
    /// # }
    /// ```
    async fn error_text(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError>;

    /// Returns one letter's [metadata](DeadLetterRow::metadata), or `None` if the app has no letter with this id.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRead, DeadLetterRepo, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let mut letter = testing::letter(app);
    /// letter.metadata.insert("tenant".to_owned(), "acme".into());
    /// let id = repo.insert(letter).await?;
    /// let metadata = repo.metadata(app, id).await?.unwrap_or_default();
    /// assert_eq!(metadata["tenant"], "acme");
    /// # Ok(())
    /// # }
    /// ```
    async fn metadata(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<Map<String, Value>>, DeadLetterRepoError>;

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
    /// - [`InvalidCursor`](DeadLetterRepoError::InvalidCursor) for a cursor that belongs to another app, filter or order,
    ///   or that no listing returned. With the order [`MostAttempts`](crate::ListSort::MostAttempts) every cursor is this
    ///   error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterFilter, DeadLetterRead, PageRequest};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let letters = (0..3).map(|_| dead_letters::testing::letter(app)).collect();
    /// # dead_letters::DeadLetterRepo::insert_many(&repo, letters).await?;
    /// # let mut listed = 0;
    /// let mut request = Some(PageRequest::default().size(2));
    /// while let Some(this) = request {
    ///     let page = repo.list(app, &DeadLetterFilter::default(), &this).await?;
    ///     # listed += page.items.len();
    ///     page.items.iter().for_each(|letter| println!("{}", letter.error_excerpt));
    ///     request = page.next.map(|cursor| this.after(cursor));
    /// }
    /// # assert_eq!(listed, 3);
    /// # Ok(())
    /// # }
    /// ```
    async fn list(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError>;

    /// Lists the app's letters whose payload contains a text, and that match the filter, in the order of
    /// [`list`](Self::list) and page by page as it does.
    ///
    /// The call compares the payload's stored text as it is: case-sensitive, and JSON with its escapes. It does not search
    /// [edited payloads](crate::StoredLetter::replayed_payload), and finds no erased letter. No index serves the search.
    ///
    /// One call examines at most `page.scan_limit` letters, or 10,000 without a scan limit, and at most 64 MB of their
    /// payloads, or one letter with more. Both limits count the letters that a scan limit counts: those of the app and the
    /// filter's state, within the filter's times, ids and run, whatever their source or error. A page may then have fewer
    /// letters than requested, or none, and still a [`next`](Page::next) cursor; [`scanned_back_to`](Page::scanned_back_to)
    /// is where the call stopped. With a `run_id` the call also reads the times of all letters of the run.
    ///
    /// Bulk calls take no such text. Pass them the [ids](DeadLetterFilter::ids) of the letters that were found.
    ///
    /// # Errors
    ///
    /// [`SearchLength`](DeadLetterRepoError::SearchLength) for a text of no bytes, or of more than 1,000,
    /// [`InvalidQuery`](DeadLetterRepoError::InvalidQuery) for the order
    /// [`MostAttempts`](crate::ListSort::MostAttempts), and the errors of [`list`](Self::list). Each is returned with
    /// nothing sent to the database.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{
    ///     Attribution, DeadLetterFilter, DeadLetterRead, DeadLetterRepo, DeadLetterResolve, PayloadSearch, Resolution,
    ///     testing,
    /// };
    /// use serde_json::json;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # for order in [4711, 4712] {
    /// #     let mut letter = testing::letter(app);
    /// #     letter.payload = json!({ "order": order });
    /// #     repo.insert(letter).await?;
    /// # }
    /// let mut search = PayloadSearch::new(r#""order":4711"#);
    /// let mut ids = Vec::new();
    /// loop {
    ///     let page = repo.search_payloads(app, &search).await?;
    ///     ids.extend(page.items.into_iter().map(|letter| letter.id));
    ///     let Some(next) = page.next else { break };
    ///     search.page.after = Some(next);
    /// }
    /// let found = DeadLetterFilter::default().ids(ids);
    /// let ignored = repo.resolve_matching(app, &found, Resolution::Ignored, &Attribution::by("ada"), 1_000).await?;
    /// assert_eq!(ignored.ids.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    async fn search_payloads(
        &self,
        app_id: AppId,
        search: &PayloadSearch,
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
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{BacklogRequest, DeadLetterRead};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// let backlogs = repo.backlogs(&BacklogRequest::default().cap(99)).await?;
    /// for backlog in &backlogs {
    ///     println!("{}: {} open, the oldest since {}", backlog.app_id, backlog.open, backlog.oldest);
    /// }
    /// assert_eq!(backlogs.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    async fn backlogs(&self, request: &BacklogRequest) -> Result<Vec<Backlog>, DeadLetterRepoError>;

    /// Lists the apps that have letters in this state, smallest [`AppId`] first, at most `limit`.
    ///
    /// For the next page, pass the last app of this page as `after`. A page with fewer apps than `limit` is the last
    /// one. The call reads one or two index entries per app. It sends one statement, and in a
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded) table one per app.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 1,000, with nothing sent to the
    /// database.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRead, DeadLetterState};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// let (mut apps, mut after) = (Vec::new(), None);
    /// loop {
    ///     let page = repo.apps(DeadLetterState::Any, after, 1_000).await?;
    ///     after = page.last().copied().filter(|_| page.len() == 1_000);
    ///     apps.extend(page);
    ///     if after.is_none() {
    ///         break;
    ///     }
    /// }
    /// assert_eq!(apps, [app]);
    /// # Ok(())
    /// # }
    /// ```
    async fn apps(
        &self,
        state: DeadLetterState,
        after: Option<AppId>,
        limit: u32,
    ) -> Result<Vec<AppId>, DeadLetterRepoError>;

    /// Counts the unresolved letters of each app, in the order of `app_ids`. An app without any has the count 0.
    ///
    /// With a `cap`, every count is capped and reads at most `cap` + 1 index entries: a badge costs the same at
    /// 1,000,000 letters as at 1,000. The call sends one statement for every 1,000 apps. With a `cap` in a
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded) table it sends one statement per app.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{AppId, DeadLetterRead};
    /// use uuid::Uuid;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let letters = vec![dead_letters::testing::letter(app), dead_letters::testing::letter(app)];
    /// # dead_letters::DeadLetterRepo::insert_many(&repo, letters).await?;
    /// let quiet_app = AppId::from(Uuid::new_v4());
    /// let counts = repo.unresolved_counts(&[app, quiet_app], Some(1)).await?;
    /// let badges: Vec<_> = counts.iter().map(|count| count.unresolved.to_string()).collect();
    /// assert_eq!(badges, ["1+", "0"]);
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Attribution, CountRequest, DeadLetterFilter, DeadLetterRead, DeadLetterResolve, Resolution};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// let orders = DeadLetterFilter::default().source("orders");
    /// let count = repo.count(app, &orders, &CountRequest::default()).await?;
    /// println!("{} letters will be ignored. Continue?", count.matching);
    /// let counted = orders.created_before(count.as_of);
    /// let ignored = repo.resolve_matching(app, &counted, Resolution::Ignored, &Attribution::by("ada"), 1_000).await?;
    /// assert_eq!(ignored.ids.len() as u64, count.matching.count);
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::{TimeDelta, Utc};
    /// use dead_letters::{Buckets, DeadLetterFilter, DeadLetterRead};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// let until = Utc::now() + TimeDelta::minutes(1);
    /// let last_day = Buckets::new(until - TimeDelta::days(1)..until, 24);
    /// let timeline = repo.timeline(app, &DeadLetterFilter::default(), &last_day.into()).await?;
    /// assert_eq!((timeline.buckets.len(), timeline.buckets[23].count), (24, 1));
    /// # Ok(())
    /// # }
    /// ```
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
    /// With [`payload_contains`](field@GroupRequest::payload_contains) it groups the letters that a call of
    /// [`search_payloads`](Self::search_payloads) would find on a page of any size, and is bounded as such a call is.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 500, a `scan_limit` of 0, and more than
    /// 1,000 `filter.ids`. [`SearchLength`](DeadLetterRepoError::SearchLength) for a `payload_contains` of no bytes or of
    /// more than 1,000. Also those of [`timeline`](Self::timeline). Each is returned with nothing sent to the database.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterFilter, DeadLetterRead, GroupRequest, PageRequest};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// let all = DeadLetterFilter::default();
    /// let largest = repo.error_groups(app, &all, &GroupRequest::default().limit(1)).await?.groups.remove(0);
    /// let of_group = all.group_key(largest.group_key);
    /// let letters = repo.list(app, &of_group, &PageRequest::default().scan_limit(10_000)).await?.items;
    /// assert_eq!(letters.len() as u64, largest.count);
    /// # Ok(())
    /// # }
    /// ```
    async fn error_groups(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &GroupRequest,
    ) -> Result<ErrorGroups, DeadLetterRepoError>;

    /// Finds the error groups that have letters since `since` and are new or regressed, in all apps, or in those among
    /// the request's.
    ///
    /// The call examines the newest letters of any state, at most `scan_limit`, and knows nothing of older ones.
    ///
    /// - A group [regressed](crate::NewGroupState::Regressed) if it has open letters, and all of them were created
    ///   after its last close. An older letter that the call did not examine may still be open, or closed later.
    /// - Another group is [new](crate::NewGroupState::New) if none of its letters was created before `since`, back to
    ///   [`scanned_back_to`](NewErrorGroups::scanned_back_to).
    /// - It is [unknown](crate::NewGroupState::Unknown) whether a group is new if the scan limit stopped the call
    ///   before it came to `since`.
    ///
    /// All other groups are left out. A request for all [open](crate::NewGroupRequest::open) groups also returns those
    /// that are [known](crate::NewGroupState::Known). Letters with an older signature version form separate groups until
    /// [`rebuild_signatures`](crate::DeadLetterTransfer::rebuild_signatures) runs.
    ///
    /// For all apps the call is one statement, which reads the index of the sweeps; in a
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded) table it asks all shards. For some apps the call sends a
    /// statement for each app, one after the other. The apps share the scan limit: each app gets an equal part of what
    /// the apps before it left, and at least one letter. For each group the call reads up to 32,770 characters of one
    /// error.
    ///
    /// # Errors
    ///
    /// [`SinceInFuture`](DeadLetterRepoError::SinceInFuture), and [`OutOfRange`](DeadLetterRepoError::OutOfRange) for
    /// a `limit` outside 1 to 500 and a `scan_limit` of 0. Each is returned with nothing sent to the database.
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::{TimeDelta, Utc};
    /// use dead_letters::{DeadLetterRead, NewGroupRequest, NewGroupState};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// let request = NewGroupRequest::since(Utc::now() - TimeDelta::hours(24)).scan_limit(100_000);
    /// let new = repo.new_error_groups(&request).await?;
    /// for group in &new.groups {
    ///     println!("{} {}: {} letters, such as {}", group.state.as_str(), group.source, group.count, group.sample);
    /// }
    /// assert_eq!(new.groups[0].state, NewGroupState::New);
    /// # Ok(())
    /// # }
    /// ```
    async fn new_error_groups(
        &self,
        request: &NewGroupRequest,
    ) -> Result<NewErrorGroups, DeadLetterRepoError>;

    /// Counts the app's letters of each event that are resolved as `replayed`, in the order of `event_ids`: how often
    /// the event was put back before.
    ///
    /// The call tells events apart by [`original_event_id`](DeadLetterRow::original_event_id).
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for more than 1,000 `event_ids`, with nothing sent to
    /// the database.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Attribution, DeadLetterRead, DeadLetterRepo, DeadLetterResolve, Resolution, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let letter = testing::letter(app);
    /// let event_id = letter.original_event_id;
    /// let id = repo.insert(letter).await?;
    /// repo.resolve_once(app, id, Resolution::Replayed, &Attribution::by("ada")).await?;
    /// assert_eq!(repo.times_replayed(app, &[event_id]).await?, [1]);
    /// # Ok(())
    /// # }
    /// ```
    async fn times_replayed(
        &self,
        app_id: AppId,
        event_ids: &[Uuid],
    ) -> Result<Vec<u64>, DeadLetterRepoError>;

    /// Returns the app's history: what operators did to its letters, newest first, by the id of the action.
    ///
    /// - A call that resolves, replays, edits or reopens one letter writes one row.
    /// - A bulk call that resolves, replays, reopens or deletes letters writes one row for all of them, and none if it
    ///   changes no letter. If a bulk replay takes several transactions, each of them writes a row.
    /// - [`erase`](crate::DeadLetterDelete::erase) writes a row for each letter that it erases.
    /// - [`record_reveal`](crate::DeadLetterResolve::record_reveal) writes a row, and changes no letter.
    ///
    /// The seed's [`resolve`](crate::DeadLetterRepo::resolve) and the sweeps write no row.
    ///
    /// For the next page, pass the id of the last row as [`after`](ActionRequest::after). A page with fewer rows than the
    /// request's limit is the last one.
    ///
    /// A letter does not show which batch of a bulk run changed it. Its history therefore consists of the calls that named
    /// it, and of the batches of the run that it still has. After a later change of the letter, only the app's history
    /// shows the earlier run.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 500, with nothing sent to the database.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{
    ///     Action, ActionRequest, Attribution, DeadLetterRead, DeadLetterRepo, DeadLetterResolve, Resolution, testing,
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let id = repo.insert(testing::letter(app)).await?;
    /// repo.resolve_once(app, id, Resolution::Ignored, &Attribution::by("ada").note("sold out")).await?;
    /// repo.reopen(app, id, &Attribution::by("ben")).await?;
    ///
    /// let history = repo.actions(app, &ActionRequest::default().letter_id(id)).await?;
    /// assert_eq!(history.iter().map(|of| of.action).collect::<Vec<_>>(), [Some(Action::Reopen), Some(Action::Resolve)]);
    /// assert_eq!(history[0].previous_resolution, Some(Resolution::Ignored));
    /// assert_eq!(history[1].note.as_deref(), Some("sold out"));
    /// # Ok(())
    /// # }
    /// ```
    async fn actions(
        &self,
        app_id: AppId,
        request: &ActionRequest,
    ) -> Result<Vec<DeadLetterAction>, DeadLetterRepoError>;

    /// Lists the apps in which an operator did something at this time or later, whether or not they still have open
    /// letters, the app of the last action first. An action is a row of the [history](Self::actions).
    ///
    /// The call sends one statement, which examines at most the newest 10,000 rows of the history. Apps whose actions
    /// are all older are left out.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::{TimeDelta, Utc};
    /// use dead_letters::{
    ///     Attribution, DeadLetterRead, DeadLetterRepo, DeadLetterResolve, Resolution, testing,
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let id = repo.insert(testing::letter(app)).await?;
    /// repo.resolve_once(app, id, Resolution::Ignored, &Attribution::by("ada")).await?;
    ///
    /// let recent = repo.recent_apps(Utc::now() - TimeDelta::days(7)).await?;
    /// assert_eq!(recent[0].app_id, app);
    /// # Ok(())
    /// # }
    /// ```
    async fn recent_apps(&self, since: DateTime<Utc>) -> Result<Vec<RecentApp>, DeadLetterRepoError>;

    /// Returns a version of the app's letters, or of all letters if `app_id` is `None`.
    ///
    /// A view that polls reads the letters again only if the version is another one.
    ///
    /// The version of an app changes with every insert of a new letter, and with every call that writes into the
    /// [history](Self::actions). It also changes when a letter is closed by the seed's
    /// [`resolve`](crate::DeadLetterRepo::resolve). The version may stay the same after a sweep, an import of old
    /// letters, `rebuild_signatures`, and `resolve` of a closed letter or as `handler_failed`. The call compares only
    /// the newest letters, the newest actions, and the number of open letters up to 1,000. A view should therefore also
    /// read the letters from time to time.
    ///
    /// The version of all letters changes with every insert of a new letter, and with every call that writes into the
    /// history. It may stay the same if 20 younger letters or 200 younger actions are committed first.
    ///
    /// For an app the call reads at most 1,001 entries of each index of open letters, and 20 of each other index. For
    /// all letters it reads the newest 20 letters and the newest 200 actions.
    ///
    /// # Errors
    ///
    /// [`Db`](DeadLetterRepoError::Db) if the database returns an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRead, DeadLetterRepo, testing};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let before = repo.letters_version(Some(app)).await?;
    /// assert_eq!(repo.letters_version(Some(app)).await?, before);
    /// repo.insert(testing::letter(app)).await?;
    /// assert_ne!(repo.letters_version(Some(app)).await?, before);
    /// # Ok(())
    /// # }
    /// ```
    async fn letters_version(&self, app_id: Option<AppId>) -> Result<LettersVersion, DeadLetterRepoError>;
}
