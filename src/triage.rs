//! The triage contract: how operators find, count, group and resolve dead letters.

use std::ops::Range;

use async_trait::async_trait;
use auto_impl::auto_impl;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    AppId, CappedCount, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterRow, Page,
    PageRequest, PayloadKind, RebuildRequest, Rebuilt, Resolution, ScriptId, StoredLetter, TriggerId,
    debug::debug_without_content,
};

/// Finds, counts, groups and resolves one app's dead letters, one at a time or in bulk.
///
/// Every call on letters takes an [`AppId`]. A letter of another app is indistinguishable from one that does not
/// exist. A call that covers several apps says so in its name or its documentation. The trait is object-safe. Every
/// call is atomic, as in [`DeadLetterRepo`](crate::DeadLetterRepo).
///
/// A letter is *open* while somebody still has to act: it is unresolved, or resolved as `handler_failed`.
///
/// The types that the calls return can be written as struct literals, by a fake in a test, for example. A new field
/// in one of them is a breaking release. A new field in a filter or a request that is written with
/// `..Default::default()` is not.
///
/// # Errors
///
/// Besides what each method lists, every call may return [`Db`](DeadLetterRepoError::Db): the database refused the
/// call or could not be reached.
///
/// # Example
///
/// ```
/// use std::error::Error;
///
/// use async_trait::async_trait;
/// use dead_letters::{
///     AppId, DeadLetterFilter, DeadLetterReplay, DeadLetterRepo, DeadLetterRepoError, DeadLetterTriage,
///     GroupRequest, NewDeadLetter, PageRequest, Requeue, Schema, Settlement, StoredLetter, connect_options,
///     migration::Migrator,
/// };
/// use sea_orm::DatabaseTransaction;
/// use uuid::Uuid;
///
/// #[tokio::main]
/// async fn main() -> Result<(), Box<dyn Error>> {
///     let repo = dead_letters::open(connect_options("sqlite::memory:"), Schema::Migrate, Migrator).await?;
///     let app = AppId::from(Uuid::new_v4());
///     for order in [4711, 4712, 4713] {
///         repo.insert(failed(app, order)).await?;
///     }
///
///     let filter = DeadLetterFilter { source: Some("orders".to_owned()), ..Default::default() };
///     let groups = repo.error_groups(app, &filter, &GroupRequest::default()).await?.groups;
///     assert_eq!((groups[0].count, groups[0].error_signature.as_str()), (3, "no stock for order #"));
///
///     let page = repo.list(app, &filter, &PageRequest { size: 2, ..Default::default() }).await?;
///     assert_eq!(page.items.len(), 2);
///     let rest = repo.list(app, &filter, &PageRequest { after: page.next, ..Default::default() }).await?;
///     assert_eq!(rest.items.len(), 1);
///
///     // Put back into the outbox, in the transaction that settles the row, and by nobody else.
///     let (id, by) = (page.items[0].id, Some("ada".to_owned()));
///     let replayer = repo.replayer(Outbox);
///     replayer.replay(app, id, by, None).await?;
///     let again = replayer.replay(app, id, None, None).await;
///     assert!(matches!(again, Err(DeadLetterRepoError::AlreadyResolved { .. })));
///
///     // The rest of what had failed by now, in batches.
///     let count = repo.count(app, &filter, 1_000, None).await?;
///     assert_eq!((count.count, count.capped), (2, false));
///     let until_now = DeadLetterFilter { created_before: Some(count.as_of), ..filter };
///     let ignored = Settlement::ignored().note("sold out");
///     // What other transactions hold is passed over, and then `skipped_locked` says so: there is more to do later.
///     while repo.resolve_matching(app, &until_now, &ignored, 100).await?.more {}
///     assert_eq!(repo.unresolved_count(app).await?, 0);
///     Ok(())
/// }
///
/// struct Outbox;
///
/// #[async_trait]
/// impl Requeue for Outbox {
///     async fn requeue(
///         &self,
///         _txn: &DatabaseTransaction,
///         letters: &[StoredLetter],
///     ) -> Result<(), Box<dyn Error + Send + Sync>> {
///         for _letter in letters {
///             // INSERT INTO your outbox, in the transaction: the letter's payload, under its original_event_id.
///         }
///         Ok(())
///     }
/// }
///
/// fn failed(app_id: AppId, order: u32) -> NewDeadLetter {
///     let payload = serde_json::json!({ "order": order });
///     let error = format!("no stock for order {order}");
///     NewDeadLetter::new(app_id, Uuid::new_v4(), "orders", "insert", payload, error)
/// }
/// ```
#[async_trait]
#[auto_impl(&, Arc)]
pub trait DeadLetterTriage: Send + Sync {
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
    /// `page.scan` is the scan limit: how many letters the call may examine. With it a page may have fewer letters
    /// than requested, or none, and still a [`next`](Page::next) cursor. [`scanned_back_to`](Page::scanned_back_to)
    /// is where the call stopped.
    ///
    /// # Errors
    ///
    /// Each of these is returned with nothing sent to the database:
    ///
    /// - [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `page.size` outside 1 to 500, a `page.scan` of 0, and
    ///   more than 1,000 `filter.ids`;
    /// - [`InvalidCursor`](DeadLetterRepoError::InvalidCursor) for a cursor that belongs to another app or filter, or
    ///   that no listing returned.
    async fn list(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError>;

    /// Lists whole letters, as they are stored, in the order of [`list`](Self::list).
    ///
    /// A page has up to 1,000 letters. It also ends at 16 MB of text, with at least one letter. A letter that is
    /// deleted, or no longer matches, while the page is read is left out.
    ///
    /// # Errors
    ///
    /// Those of [`list`](Self::list), except that `page.size` may be 1 to 1,000.
    async fn export(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<StoredLetter>, DeadLetterRepoError>;

    /// Lists the apps that have open letters, sorted by [`AppId`], smallest first: at most `limit` of all apps, or of
    /// those in `among`.
    ///
    /// For the next page, pass the last app of this page as `after`. A page with fewer than `limit` apps is the last
    /// one.
    ///
    /// Every count is capped at `cap`. The call reads `cap` + 1 index entries per app and count, whatever the apps
    /// and the table hold. It sends one statement for all apps, or for every 1,000 apps in `among`. In a
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded) table it sends one or two statements per app.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 1,000, with nothing sent to the
    /// database.
    async fn backlogs(
        &self,
        among: Option<&[AppId]>,
        after: Option<AppId>,
        limit: u32,
        cap: u32,
    ) -> Result<Vec<Backlog>, DeadLetterRepoError>;

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
    /// The count is capped at `cap`. `scan` is the scan limit: the call examines at most so many letters, the newest
    /// of the app and the filter's state within the filter's times. [`scanned_back_to`](Count::scanned_back_to) is
    /// where the call stopped.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `scan` of 0 and more than 1,000 `filter.ids`,
    /// with nothing sent to the database.
    async fn count(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        cap: u32,
        scan: Option<u32>,
    ) -> Result<Count, DeadLetterRepoError>;

    /// Counts the app's matching letters per time bucket, by `created_at`, for a chart: every bucket of the request,
    /// oldest first, including empty ones.
    ///
    /// `scan` is the scan limit, as in [`count`](Self::count), for letters within the request's time range.
    ///
    /// # Errors
    ///
    /// Each of these is returned with nothing sent to the database:
    ///
    /// - [`OutOfRange`](DeadLetterRepoError::OutOfRange) for `buckets` outside 1 to 1,000, a `scan` of 0, and more
    ///   than 1,000 `filter.ids`;
    /// - [`FromAfterUntil`](DeadLetterRepoError::FromAfterUntil).
    async fn timeline(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &TimelineRequest,
        scan: Option<u32>,
    ) -> Result<Timeline, DeadLetterRepoError>;

    /// Groups the app's matching letters by source, op, script and error signature: at most `limit` groups, sorted by
    /// count (largest first), then by last seen (newest first), then by [`group_key`](ErrorGroup::group_key).
    ///
    /// The call reads every letter that matches. With a scan limit it examines at most so many letters, as
    /// [`count`](Self::count) does. For each group it reads up to 32,770 characters of one error.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 500, a `scan` of 0, and more than
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

    /// Resolves the letter if it is open, and returns the resolved letter. If several callers close the same letter
    /// at the same time, exactly one succeeds.
    ///
    /// The call sends one conditional UPDATE, with no read before it. A `handler_failed` letter stays open: it can be
    /// resolved as `handler_failed` again, and its `resolved_at` is then the last time that its handler failed.
    ///
    /// # Errors
    ///
    /// [`AlreadyResolved`](DeadLetterRepoError::AlreadyResolved) if the letter is not open,
    /// [`NotFound`](DeadLetterRepoError::NotFound) if the app has no such letter.
    async fn resolve_once(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        settlement: &Settlement,
    ) -> Result<DeadLetterRow, DeadLetterRepoError>;

    /// Resolves open letters that match, oldest first, at most `limit`.
    ///
    /// Letters locked by another transaction are skipped, and [`Settled::skipped_locked`] reports that.
    ///
    /// If the filter's state is [`Closed`](crate::DeadLetterState::Closed), no letter can be open, and the call sends
    /// no statement. Resolving as `handler_failed` skips letters that are `handler_failed` already. Each letter is
    /// then resolved at most once, and a loop ends.
    ///
    /// # Errors
    ///
    /// Each of these is returned with nothing sent to the database:
    ///
    /// - [`MissingCreatedBefore`](DeadLetterRepoError::MissingCreatedBefore) if the filter has neither
    ///   `created_before` nor `ids`: the call would also resolve letters that fail meanwhile;
    /// - [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 1,000, and more than 1,000 ids.
    async fn resolve_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        settlement: &Settlement,
        limit: u32,
    ) -> Result<Settled, DeadLetterRepoError>;

    /// Reopens a resolved letter: makes it unresolved again, a `handler_failed` one too, and clears who resolved it
    /// and why.
    ///
    /// # Errors
    ///
    /// [`NotResolved`](DeadLetterRepoError::NotResolved) if the letter is unresolved,
    /// [`NotFound`](DeadLetterRepoError::NotFound) if the app has no such letter.
    async fn reopen(&self, app_id: AppId, id: DeadLetterId) -> Result<(), DeadLetterRepoError>;

    /// Stores exported letters, each in its app, with their ids, times and resolutions.
    ///
    /// A letter whose id exists already is not stored, whatever the existing letter holds, and is counted as present.
    /// In a [sharded](crate::SeaOrmDeadLetterRepo::sharded) table only ids of the same app count as existing. If
    /// `letters` has several copies of a letter, the last copy is stored.
    ///
    /// The call is atomic, and takes at most 1,000 letters. The caps of the repo do not apply. Times lose digits
    /// below a microsecond.
    ///
    /// Letters keep their `created_at` and `resolved_at`, which decide when a sweep deletes them. A letter that a
    /// sweep archived is still due: the next sweep with the same retention deletes it again. Give its app a longer
    /// retention first, or compare the two times with the retention and leave out letters that are due.
    ///
    /// # Errors
    ///
    /// Nothing is stored after any of these:
    ///
    /// - [`OutOfRange`](DeadLetterRepoError::OutOfRange) for more than 1,000 letters, with the argument `letters`;
    /// - [`NotStorable`](DeadLetterRepoError::NotStorable), with the index and the field of the first such letter,
    ///   for an `attempt_count` over [`i32::MAX`], a `resolved_at` without a `resolution` or the reverse, a NUL in a
    ///   text, and a resolution that the table does not know;
    /// - [`TimeOutOfRange`](DeadLetterRepoError::TimeOutOfRange), with the index and the field of the first such
    ///   letter.
    async fn import(&self, letters: &[StoredLetter]) -> Result<Imported, DeadLetterRepoError>;

    /// Recomputes the stale error signatures, and the group keys, of up to `limit` letters of all apps, in order of
    /// id.
    ///
    /// A signature is stale if an earlier version of the rules made it, or if another writer stored the letter
    /// without a group key or a signature. Signatures that a service made, signatures of a newer version, and
    /// signatures of erased letters stay. Run a rebuild once every process has this version, because an older process
    /// keeps storing older signatures.
    ///
    /// One statement examines the letters, one reads the stale ones, and one updates them. In a
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded) table the last two are sent for each app. A call reads at most
    /// 16 MB, or one letter. Letters that another transaction has locked, or that changed in between, are skipped and
    /// stay stale. A rebuild is idempotent: restart an interrupted one.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 500, with nothing sent to the
    /// database.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{AppId, DeadLetterRepo, DeadLetterTriage, RebuildRequest, testing};
    /// use uuid::Uuid;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let repo = testing::store().await?;
    /// repo.insert(testing::letter(AppId::from(Uuid::new_v4()))).await?;
    ///
    /// let mut request = RebuildRequest::default();
    /// loop {
    ///     let rebuilt = repo.rebuild_signatures(&request).await?;
    ///     assert_eq!((rebuilt.examined, rebuilt.stale), (1, 0));
    ///     request.after = rebuilt.next;
    ///     if request.after.is_none() {
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    async fn rebuild_signatures(&self, request: &RebuildRequest) -> Result<Rebuilt, DeadLetterRepoError>;
}

/// A resolution to set, with who decided it and why.
///
/// A NUL in a text becomes U+FFFD. Deserializing an unknown field is an error. `Debug` shows the texts by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settlement {
    /// The resolution to set.
    pub resolution: Resolution,
    /// Who decided it.
    pub by: Option<String>,
    /// Why it was decided.
    pub note: Option<String>,
}

impl Settlement {
    /// Returns a settlement as `replayed`: something other than [`DeadLetterReplay`](crate::DeadLetterReplay) put the
    /// event back into the outbox.
    pub fn replayed() -> Self {
        Resolution::Replayed.into()
    }

    /// Returns a settlement as `ignored`: nothing is to be done.
    pub fn ignored() -> Self {
        Resolution::Ignored.into()
    }

    /// Returns a settlement as `handled_by_script`: a dead-letter handler script dealt with the letter.
    pub fn handled_by_script() -> Self {
        Resolution::HandledByScript.into()
    }

    /// Returns a settlement as `handler_failed`: the dead-letter handler script failed in its turn. The letter stays
    /// open.
    pub fn handler_failed() -> Self {
        Resolution::HandlerFailed.into()
    }

    /// Who decided it.
    pub fn by(mut self, by: impl Into<String>) -> Self {
        self.by = Some(by.into());
        self
    }

    /// Why it was decided.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

/// Makes a settlement without `by` and `note`.
impl From<Resolution> for Settlement {
    fn from(resolution: Resolution) -> Self {
        Self { resolution, by: None, note: None }
    }
}

debug_without_content! { Settlement { resolution; by, note } }

/// A letter as a list shows it: without its payload, and with its texts cut, so that a page is small whatever its
/// letters hold.
///
/// A text that was cut ends with ` [cut]`. `Debug` shows the texts by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterSummary {
    /// The letter's id.
    pub id: DeadLetterId,
    /// The app, or tenant, that the letter belongs to.
    pub app_id: AppId,
    /// The outbox row that used up its retries.
    pub original_event_id: Uuid,
    /// The subject of the event, at most 500 characters.
    pub source: String,
    /// The operation that failed, at most 500 characters.
    pub op: String,
    /// The trigger, if it was known.
    pub trigger_id: Option<TriggerId>,
    /// The script that the trigger ran, if it was known.
    pub script_id: Option<ScriptId>,
    /// The size of the serialized payload, in bytes.
    pub payload_bytes: u64,
    /// The kind of the payload's stored text. `None` is a kind that this version does not know.
    pub payload_kind: Option<PayloadKind>,
    /// How many attempts were made.
    pub attempt_count: u32,
    /// When the first attempt was made.
    pub first_attempt_at: DateTime<Utc>,
    /// When the last attempt was made.
    pub last_attempt_at: DateTime<Utc>,
    /// The first 200 characters of `last_error`, without the ` [cut]` mark.
    pub error_excerpt: String,
    /// The [`DeadLetterRow::error_signature`], at most 500 characters.
    pub error_signature: String,
    /// The key of the letter's [error group](ErrorGroup::group_key), at most 500 characters.
    pub group_key: String,
    /// When the letter was stored.
    pub created_at: DateTime<Utc>,
    /// When the letter was last resolved.
    pub resolved_at: Option<DateTime<Utc>>,
    /// The resolution. `None` beside a `resolved_at` is a resolution that this version does not know.
    pub resolution: Option<Resolution>,
    /// Who resolved the letter, at most 500 characters.
    pub resolved_by: Option<String>,
    /// Why it was resolved, at most 2,000 characters.
    pub resolution_note: Option<String>,
}

debug_without_content! {
    DeadLetterSummary {
        id, app_id, original_event_id, trigger_id, script_id, payload_bytes, payload_kind, attempt_count,
        first_attempt_at, last_attempt_at, group_key, created_at, resolved_at, resolution;
        source, op, error_excerpt, error_signature, resolved_by, resolution_note,
    }
}

/// How many unresolved letters an app has, for its badge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnresolvedCount {
    /// The app.
    pub app_id: AppId,
    /// The app's unresolved letters, or the cap if there are more.
    pub count: u64,
    /// Whether there are more than `count`.
    pub capped: bool,
}

/// An app that has open letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// The app.
    pub app_id: AppId,
    /// The app's open letters.
    pub open: CappedCount,
    /// The app's unresolved letters: the open ones that are not `handler_failed`.
    pub unresolved: CappedCount,
    /// The `created_at` of the app's oldest open letter.
    pub oldest: DateTime<Utc>,
    /// The `created_at` of the app's newest open letter.
    pub newest: DateTime<Utc>,
}

/// How many letters match, and when they were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The matching letters, or the cap if there are more.
    pub count: u64,
    /// Whether more than `count` of the examined letters match.
    pub capped: bool,
    /// The time of the count, by the database's clock.
    pub now: DateTime<Utc>,
    /// The filter's `created_before`, or [`now`](Self::now) if the filter has none. Letters created at this time or
    /// later are not counted, unless the filter has `ids` and no `created_before`.
    ///
    /// A bulk call that takes `as_of` as its `created_before` is about the letters that were counted, and leaves
    /// alone letters that fail later. A transaction that began before `as_of` and commits after the count adds
    /// letters that match. A bulk call whose limit is the count therefore resolves no more letters than were counted,
    /// but may resolve others.
    pub as_of: DateTime<Utc>,
    /// Where the scan limit stopped the call: the `created_at` of the last examined letter, or its `resolved_at` if
    /// the filter's state is closed. `None` if nothing was left out.
    pub scanned_back_to: Option<DateTime<Utc>>,
}

/// The time range and the buckets of a timeline: letters created at `from` or later, and before `until`.
/// Deserializing an unknown field is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimelineRequest {
    /// When the first bucket begins.
    pub from: DateTime<Utc>,
    /// When the last bucket ends.
    pub until: DateTime<Utc>,
    /// How many buckets, 1 to 1,000. All have the same width, in whole microseconds.
    pub buckets: u32,
}

/// How many letters were created in each time bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// The buckets, oldest first.
    pub buckets: Vec<Bucket>,
    /// Where the scan limit stopped the call: letters created before this time are not counted. `None` if nothing was
    /// left out.
    pub scanned_back_to: Option<DateTime<Utc>>,
}

/// A bucket of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// When the bucket begins. It ends when the next one begins, and the last one ends at the request's `until`.
    pub from: DateTime<Utc>,
    /// How many letters were created in the bucket.
    pub count: u64,
}

/// Which error groups to return.
///
/// The default is the 50 largest, without a scan limit and without timelines. More fields may come: write it with
/// `..Default::default()`.
///
/// Every field may be missing when it is deserialized. An unknown field is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupRequest {
    /// How many groups to return at most, 1 to 500.
    pub limit: u32,
    /// The scan limit: how many letters the call may examine, at least 1. `None` is no limit.
    pub scan: Option<u32>,
    /// The timeline to return for each group.
    pub timeline: Option<TimelineRequest>,
}

impl Default for GroupRequest {
    fn default() -> Self {
        Self { limit: 50, scan: None, timeline: None }
    }
}

/// The error groups of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct ErrorGroup {
    /// The key of the group, for a filter, a link or a command line: 16 hex digits of SHA-256 over source, op, script
    /// and signature. Letters that another writer stored without a key have the empty key. They are one group until
    /// [`rebuild_signatures`](DeadLetterTriage::rebuild_signatures) computes their keys.
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
    /// The letter that was created last. If several have the same `created_at`, it is the one with the largest id.
    pub newest_id: DeadLetterId,
    /// How many of the group's letters are closed. It is 0 if the filter's state leaves closed letters out.
    pub settled: u64,
    /// When the last of the closed letters was resolved. If it is before `last_seen`, the error regressed.
    pub last_settled_at: Option<DateTime<Utc>>,
    /// The buckets of the requested timeline, or none if the request has no timeline. Letters outside its time range
    /// still count in the group.
    pub timeline: Vec<Bucket>,
}

debug_without_content! {
    ErrorGroup {
        group_key, script_id, count, first_seen, last_seen, newest_id, settled, last_settled_at, timeline;
        source, op, error_signature, sample,
    }
}

/// The result of a bulk call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The resolved letters, oldest first.
    pub ids: Vec<DeadLetterId>,
    /// Whether the call reached its limit. The next call may resolve more, or find nothing. A loop that continues
    /// while this is true ends.
    pub more: bool,
    /// Whether matching letters are left because they could not be updated: a transaction that has not ended has
    /// locked them, or a policy or trigger of the database prevents the update. Try again later. The call checks it
    /// only if `more` is false, and not on SQLite, which has no row locks.
    pub skipped_locked: bool,
}

/// How many of the letters of an import were stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Letters that were stored.
    pub stored: u64,
    /// Letters that existed already, or were given twice in the same call.
    pub present: u64,
}
