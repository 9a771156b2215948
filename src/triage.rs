//! The contract of triage: what people who answer for a backlog do with it.

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

/// Triage of one app's dead letters: find them, count them, group them, settle each exactly once, and in
/// bulk.
///
/// Every call on letters takes the [`AppId`]: a row of another app is indistinguishable from one that does
/// not exist. Calls over all apps say so in their name. Object-safe; every call is atomic, as in
/// [`DeadLetterRepo`](crate::DeadLetterRepo).
///
/// A row is *open* while nobody has settled it for good: it is unresolved, or resolved as `handler_failed`.
///
/// What the calls answer can be written as a literal, by a test's fake say. A field more in it is a breaking
/// release; one more in a filter or a request is not, which are written with `..Default::default()`.
///
/// # Errors
///
/// Besides what each method lists, every call may answer [`Db`](DeadLetterRepoError::Db): the database
/// refused or could not be reached.
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
    /// Returns one row of the app, or `None` where it has none of this id.
    async fn get_for_app(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterRow>, DeadLetterRepoError>;

    /// Returns one row of the app without its payload, as a list shows it, or `None` where it has none of
    /// this id.
    async fn summary(
        &self,
        app_id: AppId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetterSummary>, DeadLetterRepoError>;

    /// Returns the stored text of one row's payload, unparsed, or `None` where the app has no such row.
    ///
    /// `characters` is a range of Unicode scalar values, clamped to the text: `0..u64::MAX` is the whole text. A large
    /// payload can be read part by part.
    async fn payload_text(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError>;

    /// Returns one row's whole `last_error`, or a part of it, as [`payload_text`](Self::payload_text) does.
    async fn error_text(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        characters: Range<u64>,
    ) -> Result<Option<String>, DeadLetterRepoError>;

    /// Lists the app's rows that match: newest `created_at` first, ties by `id`, largest first.
    ///
    /// A page goes on after the last row of the one before it, not at a count: rows that are resolved,
    /// deleted or added between two pages make no other row appear twice or not at all. A page costs the
    /// same at any depth.
    ///
    /// With `page.scan` it looks at so many rows at most. It may then answer fewer rows than asked, even
    /// none, and still a [`next`](Page::next): [`scanned_back_to`](Page::scanned_back_to) says where it
    /// stopped.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `page.size` outside 1 to 500, a `page.scan` of
    /// 0, and more than 1,000 `filter.ids`; [`InvalidCursor`](DeadLetterRepoError::InvalidCursor) for a
    /// cursor that another app's or another filter's listing gave, or none did. Nothing was sent to the
    /// database then.
    async fn list(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<DeadLetterSummary>, DeadLetterRepoError>;

    /// [`list`](Self::list) of whole rows, as they are stored.
    ///
    /// A page has up to 1,000 rows, and ends at 16 MB of text too, with at least one row. A row that goes,
    /// or no longer matches, while the page is read is left out of it.
    ///
    /// # Errors
    ///
    /// The same, but for that number.
    async fn export(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Page<StoredLetter>, DeadLetterRepoError>;

    /// The apps that have open rows, of all apps or of those in `among`: by [`AppId`], smallest first, at
    /// most `limit`. The next page is `after` the last one's app; one with fewer than `limit` is the last.
    ///
    /// No count goes beyond `cap`. It reads what stands on the page: `cap` + 1 index entries an app and
    /// count, whatever the apps and the table hold. It is one statement for all apps, or for every 1,000 in
    /// `among`; of a [sharded](crate::SeaOrmDeadLetterRepo::sharded) table one or two for each app.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 1,000, with nothing sent to
    /// the database.
    async fn backlogs(
        &self,
        among: Option<&[AppId]>,
        after: Option<AppId>,
        limit: u32,
        cap: u32,
    ) -> Result<Vec<Backlog>, DeadLetterRepoError>;

    /// Counts the unresolved rows of each app, in the order of `app_ids`; an app without any has 0.
    ///
    /// With a `cap` no count goes beyond it, and none reads more than `cap` + 1 index entries: a badge costs
    /// the same at 1,000,000 rows as at 1,000. One statement for every 1,000 apps, or with a `cap` for each of a
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded) table.
    async fn unresolved_counts(
        &self,
        app_ids: &[AppId],
        cap: Option<u32>,
    ) -> Result<Vec<UnresolvedCount>, DeadLetterRepoError>;

    /// Counts the app's rows that match, and says as of when: what a bulk call would do, before it does.
    ///
    /// The count does not go beyond `cap`. With `scan` it looks at so many rows at most, the newest of the
    /// app and the filter's state within its times, and [`scanned_back_to`](Count::scanned_back_to) says where
    /// it stopped.
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

    /// Counts the app's rows that match by when they were created, for a chart: every bucket of the request,
    /// oldest first, empty ones too.
    ///
    /// `scan` is as for [`count`](Self::count), of the rows within the request's time.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for `buckets` outside 1 to 1,000, a `scan` of 0 and
    /// more than 1,000 `filter.ids`; [`FromAfterUntil`](DeadLetterRepoError::FromAfterUntil). Nothing was
    /// sent to the database then.
    async fn timeline(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &TimelineRequest,
        scan: Option<u32>,
    ) -> Result<Timeline, DeadLetterRepoError>;

    /// Groups the app's matching rows by source, op, script and error signature: at most `limit` groups, sorted
    /// by count (largest first), then by last seen (newest first), then by [`group_key`](ErrorGroup::group_key).
    ///
    /// It reads every row that matches, or with a scan so many at most, as [`count`](Self::count), and of each group up
    /// to 32,770 characters of one error.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 500, a `scan` of 0 and more
    /// than 1,000 `filter.ids`; those of [`timeline`](Self::timeline). Nothing was sent to the database then.
    async fn error_groups(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &GroupRequest,
    ) -> Result<ErrorGroups, DeadLetterRepoError>;

    /// Counts the app's rows of each event that are resolved as `replayed`, in the order of `event_ids`: how
    /// often it was put back before. Events are told apart by
    /// [`original_event_id`](DeadLetterRow::original_event_id).
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

    /// Settles the row if it is open, and returns it as it then is. Of callers at the same time one wins.
    ///
    /// One conditional UPDATE, with no read before it. A `handler_failed` row stays open: it may be settled as
    /// that again, and then says when its handler last failed.
    ///
    /// # Errors
    ///
    /// [`AlreadyResolved`](DeadLetterRepoError::AlreadyResolved) where it is not open,
    /// [`NotFound`](DeadLetterRepoError::NotFound) where the app has no such row.
    async fn resolve_once(
        &self,
        app_id: AppId,
        id: DeadLetterId,
        settlement: &Settlement,
    ) -> Result<DeadLetterRow, DeadLetterRepoError>;

    /// Settles open rows that match: oldest first, at most `limit`. Rows that another transaction holds are
    /// passed over, and [`Settled::skipped_locked`] says so.
    ///
    /// A filter whose state is [`Closed`](crate::DeadLetterState::Closed) has no open row, and nothing is sent. To
    /// settle as `handler_failed` leaves alone what is so already: each row is settled so once, and a loop ends.
    ///
    /// # Errors
    ///
    /// [`MissingCreatedBefore`](DeadLetterRepoError::MissingCreatedBefore): without that bound, and without
    /// `filter.ids`, rows that fail meanwhile would be swept along.
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 1,000, and more than 1,000
    /// ids. Nothing was sent to the database then.
    async fn resolve_matching(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        settlement: &Settlement,
        limit: u32,
    ) -> Result<Settled, DeadLetterRepoError>;

    /// Makes a resolved row unresolved again, a `handler_failed` one too, and forgets by whom and why it was
    /// settled.
    ///
    /// # Errors
    ///
    /// [`NotResolved`](DeadLetterRepoError::NotResolved) where it is unresolved,
    /// [`NotFound`](DeadLetterRepoError::NotFound) where the app has no such row.
    async fn reopen(&self, app_id: AppId, id: DeadLetterId) -> Result<(), DeadLetterRepoError>;

    /// Stores letters as they were exported, each in its app, with their ids, times and settlements. One
    /// whose id is there already is left alone, whatever it holds, and counted; in a
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded) table, one whose id its app has. If `letters` has several
    /// copies of a letter, the last copy is stored.
    ///
    /// All of one call or none; at most 1,000. What the repo may have for caps does not apply. What is finer
    /// than a microsecond is lost.
    ///
    /// Letters keep their `created_at` and `resolved_at`, by which sweeps go. A letter that a sweep archived is still due:
    /// the next sweep with the same retention deletes it again. Give its app a longer retention first, or compare the
    /// two times with the retention and leave out letters that are due.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for more letters, with the argument `letters`. With
    /// the first such letter's index and field: [`NotStorable`](DeadLetterRepoError::NotStorable) for an
    /// `attempt_count` over [`i32::MAX`], a `resolved_at` without a `resolution` or the reverse, a NUL in a
    /// text, and a resolution that the table does not know;
    /// [`TimeOutOfRange`](DeadLetterRepoError::TimeOutOfRange). Nothing is stored then.
    async fn import(&self, letters: &[StoredLetter]) -> Result<Imported, DeadLetterRepoError>;

    /// Recomputes the stale error signatures, and the group keys, of up to `limit` letters of all apps, in order of id.
    ///
    /// A signature is stale if an earlier version of the rules made it, or if another writer stored the letter without a
    /// group key or a signature. Signatures that a service made, those of a newer version, and those of erased letters
    /// stay. Run a rebuild when every process has this version: an older one keeps storing older signatures.
    ///
    /// One statement examines the letters, one reads those that are stale, and one updates them; in a
    /// [sharded](crate::SeaOrmDeadLetterRepo::sharded) table the last two are sent for each app. A call reads at most 16
    /// MB, or one letter. Letters that another transaction has locked, or that changed in between, are skipped and stay
    /// stale. A rebuild is idempotent: restart an interrupted one.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](DeadLetterRepoError::OutOfRange) for a `limit` outside 1 to 500, with nothing sent to the database.
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

/// How a row is settled, by whom and why. A NUL in a text becomes U+FFFD. Deserialized, a field that does not
/// exist is an error. Its `Debug` shows texts by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settlement {
    /// What becomes of it.
    pub resolution: Resolution,
    /// Who decided so.
    pub by: Option<String>,
    /// Why.
    pub note: Option<String>,
}

impl Settlement {
    /// The event was put back into the outbox, by others than [`DeadLetterReplay`](crate::DeadLetterReplay).
    pub fn replayed() -> Self {
        Resolution::Replayed.into()
    }

    /// Nothing is to be done.
    pub fn ignored() -> Self {
        Resolution::Ignored.into()
    }

    /// A dead-letter handler script dealt with it.
    pub fn handled_by_script() -> Self {
        Resolution::HandledByScript.into()
    }

    /// The dead-letter handler script failed in its turn: the row stays open.
    pub fn handler_failed() -> Self {
        Resolution::HandlerFailed.into()
    }

    /// Who decided so.
    pub fn by(mut self, by: impl Into<String>) -> Self {
        self.by = Some(by.into());
        self
    }

    /// Why.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

/// By nobody, without a note.
impl From<Resolution> for Settlement {
    fn from(resolution: Resolution) -> Self {
        Self { resolution, by: None, note: None }
    }
}

debug_without_content! { Settlement { resolution; by, note } }

/// A row as a list shows it: without its payload, and with the beginning of its texts, so that a page is small whatever
/// its letters hold. A text that was cut ends with ` [cut]`. Its `Debug` shows texts by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterSummary {
    /// The row's id.
    pub id: DeadLetterId,
    /// The tenant.
    pub app_id: AppId,
    /// The outbox row that used up its retries.
    pub original_event_id: Uuid,
    /// What the event was about: at most 500 characters of it.
    pub source: String,
    /// The operation that failed: at most 500 characters of it.
    pub op: String,
    /// The trigger, if it was known.
    pub trigger_id: Option<TriggerId>,
    /// The script that it ran, if it was known.
    pub script_id: Option<ScriptId>,
    /// The size of the payload as serialized, in bytes.
    pub payload_bytes: u64,
    /// What the stored text of the payload is. `None` is a kind that this version does not know.
    pub payload_kind: Option<PayloadKind>,
    /// Attempts made.
    pub attempt_count: u32,
    /// When the first attempt was made.
    pub first_attempt_at: DateTime<Utc>,
    /// When the last attempt was made.
    pub last_attempt_at: DateTime<Utc>,
    /// The first 200 characters of `last_error`, without a mark.
    pub error_excerpt: String,
    /// See [`DeadLetterRow::error_signature`]: at most 500 characters of it.
    pub error_signature: String,
    /// The short name of the letter's [error group](ErrorGroup::group_key).
    pub group_key: String,
    /// When the row was stored.
    pub created_at: DateTime<Utc>,
    /// When the row was last resolved.
    pub resolved_at: Option<DateTime<Utc>>,
    /// What became of it. `None` beside a `resolved_at` is a resolution that this version does not know.
    pub resolution: Option<Resolution>,
    /// Who settled it: at most 500 characters of it.
    pub resolved_by: Option<String>,
    /// Why: at most 2,000 characters of it.
    pub resolution_note: Option<String>,
}

debug_without_content! {
    DeadLetterSummary {
        id, app_id, original_event_id, trigger_id, script_id, payload_bytes, payload_kind, attempt_count,
        first_attempt_at, last_attempt_at, group_key, created_at, resolved_at, resolution;
        source, op, error_excerpt, error_signature, resolved_by, resolution_note,
    }
}

/// An app's badge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnresolvedCount {
    /// The app.
    pub app_id: AppId,
    /// Its unresolved rows, or the cap if there are more.
    pub count: u64,
    /// Whether there are more than `count`.
    pub capped: bool,
}

/// An app that has open rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// The app.
    pub app_id: AppId,
    /// Its open rows.
    pub open: CappedCount,
    /// Its unresolved rows: those of them that are not `handler_failed`.
    pub unresolved: CappedCount,
    /// The `created_at` of its oldest open row.
    pub oldest: DateTime<Utc>,
    /// The `created_at` of its newest open row.
    pub newest: DateTime<Utc>,
}

/// How many rows match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Rows, or the cap if there are more.
    pub count: u64,
    /// Whether there are more than `count`, among those that were looked at.
    pub capped: bool,
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// The filter's `created_before`, or [`now`](Self::now) if it has none and no `ids`: rows that were created at this
    /// time or later are not counted. With it as `created_before` a bulk call is about what was counted, and leaves
    /// alone what fails from then on. A transaction that began before it and commits after the count adds rows that
    /// match: so a bulk call whose limit is the count settles no more rows, but may settle others.
    pub as_of: DateTime<Utc>,
    /// Where the scan ended: the `created_at` of the last row that was looked at, or its `resolved_at` where the
    /// filter's state is closed. `None` where nothing was left out.
    pub scanned_back_to: Option<DateTime<Utc>>,
}

/// What a timeline shows: rows that were created from `from` on and before `until`, in this many buckets.
/// Deserialized, a field that does not exist is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimelineRequest {
    /// Where the first bucket begins.
    pub from: DateTime<Utc>,
    /// Where the last bucket ends.
    pub until: DateTime<Utc>,
    /// Buckets, 1 to 1,000, of one width: whole microseconds.
    pub buckets: u32,
}

/// Rows a time bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// Oldest first.
    pub buckets: Vec<Bucket>,
    /// Where the scan ended: rows before this are not counted. `None` where nothing was left out.
    pub scanned_back_to: Option<DateTime<Utc>>,
}

/// A bucket of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Where it begins. It ends where the next one does, the last at the request's `until`.
    pub from: DateTime<Utc>,
    /// Rows.
    pub count: u64,
}

/// Which groups. The default is the 50 largest, of all rows, without timelines. More fields may come: write
/// it with `..Default::default()`.
///
/// Deserialized, every field may be missing, and one that does not exist is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupRequest {
    /// Groups, 1 to 500.
    pub limit: u32,
    /// How many rows may be looked at, at least 1. `None` is no bound.
    pub scan: Option<u32>,
    /// The timeline that each group is to have.
    pub timeline: Option<TimelineRequest>,
}

impl Default for GroupRequest {
    fn default() -> Self {
        Self { limit: 50, scan: None, timeline: None }
    }
}

/// What fails alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorGroups {
    /// The groups, largest first.
    pub groups: Vec<ErrorGroup>,
    /// Where the scan ended: rows before this are in no group. `None` where nothing was left out.
    pub scanned_back_to: Option<DateTime<Utc>>,
}

/// Rows that failed alike. A text that was cut ends with ` [cut]`. Its `Debug` shows texts by their size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorGroup {
    /// The short name of the group, for a filter, a link or a command line: 16 hex digits of SHA-256 over source, op,
    /// script and signature. Letters that another writer stored without a key have the empty one, and are one group
    /// until [`rebuild_signatures`](DeadLetterTriage::rebuild_signatures) computes theirs.
    pub group_key: String,
    /// What the events were about: at most 500 characters of it.
    pub source: String,
    /// The operation that failed: at most 500 characters of it.
    pub op: String,
    /// The script, if it was known.
    pub script_id: Option<ScriptId>,
    /// What their errors have in common: at most 500 characters of it.
    pub error_signature: String,
    /// The message of the newest letter's error, as a signature reads it: at most 500 characters.
    pub sample: String,
    /// Rows.
    pub count: u64,
    /// The first row's `created_at`.
    pub first_seen: DateTime<Utc>,
    /// The last row's `created_at`.
    pub last_seen: DateTime<Utc>,
    /// The row that was seen last: of equals the one with the largest id.
    pub newest_id: DeadLetterId,
    /// How many of the rows are settled. Where the filter's state leaves those out, there are none.
    pub settled: u64,
    /// When the last one of them was settled. Before `last_seen` it says that the error came back.
    pub last_settled_at: Option<DateTime<Utc>>,
    /// The buckets that the request asked for, else none. Rows outside their time are in the group all the
    /// same.
    pub timeline: Vec<Bucket>,
}

debug_without_content! {
    ErrorGroup {
        group_key, script_id, count, first_seen, last_seen, newest_id, settled, last_settled_at, timeline;
        source, op, error_signature, sample,
    }
}

/// What a bulk call settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The rows, oldest first.
    pub ids: Vec<DeadLetterId>,
    /// Whether the limit was reached. The next call may settle more, or find nothing: a loop that goes on while
    /// this is true ends.
    pub more: bool,
    /// Whether rows that match are left nonetheless, because others hold them: another transaction that has not
    /// ended, or a policy or trigger of the database. Try again later. It is looked for where `more` is false,
    /// and not in SQLite, which has no row locks.
    pub skipped_locked: bool,
}

/// What became of letters that were to be imported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Those that were stored.
    pub stored: u64,
    /// Those that were there already, or twice in the same call.
    pub present: u64,
}
