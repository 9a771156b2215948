//! A store that fails on demand.

use std::{
    collections::HashMap,
    ops::{Bound, Range, RangeBounds},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use tokio::sync::{Notify, futures::Notified};
use uuid::Uuid;

use crate::{
    ActionRequest, AnnouncementClaim, AppId, Archive, Attribution, Backlog, BacklogRequest, CappedCount,
    Changed, Count, CountRequest, DeadLetterAction, DeadLetterAnnounce, DeadLetterBury, DeadLetterDelete,
    DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterReplay, DeadLetterRepo, DeadLetterRepoError,
    DeadLetterResolve, DeadLetterRetention, DeadLetterRow, DeadLetterState, DeadLetterSummary,
    DeadLetterTransfer, Due, Erased, ErrorGroups, GroupRequest, Imported, LettersVersion, NewDeadLetter,
    NewErrorGroup, NewErrorGroups, NewGroupRequest, Page, PageRequest, PayloadSearch, RebuildRequest,
    Rebuilt, RecentApp, ReopenRequest, ReplayRequest, Replayed, Resolution, StoredLetter, SweepCursor,
    SweepScope, Swept, SweptActions, Timeline, TimelineRequest, UnannouncedGroups, UnresolvedCount,
};

/// Wraps another store, a [`DeadLetterBury`] or a [`DeadLetterReplay`], and makes chosen calls fail or hang.
///
/// All other calls go straight to the wrapped store. A call that fails does not reach it.
///
/// Calls are counted from 0, and the count restarts with each new setting for that call. `..` is all of them, `..2`
/// the first two, `2..` those from the third on. A new setting replaces the previous one for the same call.
#[derive(Debug)]
pub struct FailingStore<S> {
    inner: S,
    told: Mutex<HashMap<Call, Told>>,
    recovered: Notify,
}

#[derive(Debug)]
struct Told {
    calls: (Bound<u64>, Bound<u64>),
    made: u64,
    /// `None` makes the call hang.
    error: Option<DeadLetterRepoError>,
}

impl<S> FailingStore<S> {
    /// Wraps another store. No call fails yet.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepo, testing::{self, FailingStore}};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let store = FailingStore::new(testing::store().await?);
    /// assert!(store.insert(testing::letter(app)).await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(inner: S) -> Self {
        Self { inner, told: Mutex::default(), recovered: Notify::new() }
    }

    /// Makes these calls return this error.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepo, testing::{self, Call, FailingStore}};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let store = FailingStore::new(repo);
    /// store.fail(Call::Insert, 1.., testing::transient());
    /// // Only the first insert succeeds.
    /// assert!(store.insert(testing::letter(app)).await.is_ok());
    /// assert!(store.insert(testing::letter(app)).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail(&self, call: Call, calls: impl RangeBounds<u64>, error: DeadLetterRepoError) {
        self.tell(call, calls, Some(error));
    }

    /// Makes these calls hang until [`recover`](Self::recover), and then continue.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use dead_letters::{DeadLetterRepo, testing::{Call, FailingStore}};
    /// use tokio::time::timeout;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let store = FailingStore::new(repo);
    /// store.hang(Call::UnresolvedCount, ..);
    /// let badge = timeout(Duration::from_millis(10), store.unresolved_count(app)).await;
    /// assert!(badge.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn hang(&self, call: Call, calls: impl RangeBounds<u64>) {
        self.tell(call, calls, None);
    }

    /// Removes all settings, and lets the calls that hang continue.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterRepo, testing::{Call, FailingStore}};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// let store = FailingStore::new(repo);
    /// store.hang(Call::UnresolvedCount, ..);
    /// let (badge, ()) = tokio::join!(store.unresolved_count(app), async { store.recover() });
    /// assert_eq!(badge?, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn recover(&self) {
        self.told().clear();
        self.recovered.notify_waiters();
    }

    fn tell(&self, call: Call, calls: impl RangeBounds<u64>, error: Option<DeadLetterRepoError>) {
        let calls = (calls.start_bound().cloned(), calls.end_bound().cloned());
        self.told().insert(call, Told { calls, made: 0, error });
    }

    async fn pass(&self, call: Call) -> Result<(), DeadLetterRepoError> {
        if let Some(recovered) = self.answer(call)? {
            recovered.await;
        }
        Ok(())
    }

    /// Returns what to wait for, if the call must hang.
    fn answer(&self, call: Call) -> Result<Option<Notified<'_>>, DeadLetterRepoError> {
        let mut told = self.told();
        let Some(told) = told.get_mut(&call) else { return Ok(None) };
        let number = told.made;
        told.made += 1;
        if !told.calls.contains(&number) {
            return Ok(None);
        }
        // The future is made before the lock is released, so it misses no recovery.
        told.error.clone().map_or_else(|| Ok(Some(self.recovered.notified())), Err)
    }

    fn told(&self) -> MutexGuard<'_, HashMap<Call, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

macro_rules! calls {
    ($($trait:ident {
        $([$plain:ident -> $value:ty])*
        $($call:ident $method:ident($($argument:ident: $type:ty),* $(,)?) -> $answer:ty;)+
    })+) => {
        /// A call of one of the store's traits.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Call {
            $($(
                #[doc = concat!("[`", stringify!($trait), "::", stringify!($method), "`]")]
                $call,
            )+)+
        }

        impl Call {
            /// All variants.
            pub const ALL: &'static [Self] = &[$($(Self::$call,)+)+];
        }

        $(
            #[async_trait]
            impl<S: $trait> $trait for FailingStore<S> {
                $(
                    fn $plain(&self) -> $value {
                        self.inner.$plain()
                    }
                )*
                $(
                    async fn $method(&self, $($argument: $type),*) -> Result<$answer, DeadLetterRepoError> {
                        self.pass(Call::$call).await?;
                        self.inner.$method($($argument),*).await
                    }
                )+
            }
        )+
    };
}

calls! {
    DeadLetterRepo {
        Insert insert(letter: NewDeadLetter) -> DeadLetterId;
        InsertMany insert_many(letters: Vec<NewDeadLetter>) -> Vec<DeadLetterId>;
        Get get(id: DeadLetterId) -> Option<DeadLetterRow>;
        ListForApp list_for_app(
            app_id: AppId,
            unresolved_only: bool,
            limit: i64,
            offset: i64,
        ) -> Vec<DeadLetterRow>;
        UnresolvedCount unresolved_count(app_id: AppId) -> i64;
        Resolve resolve(id: DeadLetterId, reason: &str) -> ();
        Gc gc(older_than: DateTime<Utc>, limit: i64) -> u64;
    }
    DeadLetterRead {
        AppOf app_of(id: DeadLetterId) -> Option<AppId>;
        GetForApp get_for_app(app_id: AppId, id: DeadLetterId) -> Option<DeadLetterRow>;
        Summary summary(app_id: AppId, id: DeadLetterId) -> Option<DeadLetterSummary>;
        PayloadText payload_text(app_id: AppId, id: DeadLetterId, characters: Range<u64>) -> Option<String>;
        ReplayedPayloadText replayed_payload_text(
            app_id: AppId,
            id: DeadLetterId,
            characters: Range<u64>,
        ) -> Option<String>;
        ErrorText error_text(app_id: AppId, id: DeadLetterId, characters: Range<u64>) -> Option<String>;
        Metadata metadata(app_id: AppId, id: DeadLetterId) -> Option<Map<String, Value>>;
        List list(app_id: AppId, filter: &DeadLetterFilter, page: &PageRequest) -> Page<DeadLetterSummary>;
        SearchPayloads search_payloads(app_id: AppId, search: &PayloadSearch) -> Page<DeadLetterSummary>;
        Backlogs backlogs(request: &BacklogRequest) -> Vec<Backlog>;
        Apps apps(state: DeadLetterState, after: Option<AppId>, limit: u32) -> Vec<AppId>;
        UnresolvedCounts unresolved_counts(app_ids: &[AppId], cap: Option<u32>) -> Vec<UnresolvedCount>;
        Count count(app_id: AppId, filter: &DeadLetterFilter, request: &CountRequest) -> Count;
        Timeline timeline(
            app_id: AppId,
            filter: &DeadLetterFilter,
            request: &TimelineRequest,
        ) -> Timeline;
        ErrorGroups error_groups(
            app_id: AppId,
            filter: &DeadLetterFilter,
            request: &GroupRequest,
        ) -> ErrorGroups;
        NewErrorGroups new_error_groups(request: &NewGroupRequest) -> NewErrorGroups;
        TimesReplayed times_replayed(app_id: AppId, event_ids: &[Uuid]) -> Vec<u64>;
        Actions actions(app_id: AppId, request: &ActionRequest) -> Vec<DeadLetterAction>;
        RecentApps recent_apps(since: DateTime<Utc>) -> Vec<RecentApp>;
        LettersVersion letters_version(app_id: Option<AppId>) -> LettersVersion;
    }
    DeadLetterResolve {
        ResolveOnce resolve_once(
            app_id: AppId,
            id: DeadLetterId,
            resolution: Resolution,
            attribution: &Attribution,
        ) -> DeadLetterSummary;
        ResolveMatching resolve_matching(
            app_id: AppId,
            filter: &DeadLetterFilter,
            resolution: Resolution,
            attribution: &Attribution,
            limit: u32,
        ) -> Changed;
        ReopenMatching reopen_matching(
            app_id: AppId,
            filter: &DeadLetterFilter,
            attribution: &Attribution,
            request: &ReopenRequest,
        ) -> Changed;
        Reopen reopen(app_id: AppId, id: DeadLetterId, attribution: &Attribution) -> ();
        RecordReveal record_reveal(app_id: AppId, id: DeadLetterId, attribution: &Attribution) -> ();
    }
    DeadLetterDelete {
        DeleteMatching delete_matching(
            app_id: AppId,
            filter: &DeadLetterFilter,
            attribution: &Attribution,
            limit: u32,
        ) -> Changed;
        Erase erase(app_id: AppId, ids: &[DeadLetterId], attribution: &Attribution) -> Erased;
    }
    DeadLetterTransfer {
        Export export(app_id: AppId, filter: &DeadLetterFilter, page: &PageRequest) -> Page<StoredLetter>;
        Import import(letters: &[StoredLetter]) -> Imported;
        RebuildSignatures rebuild_signatures(request: &RebuildRequest) -> Rebuilt;
    }
    DeadLetterRetention {
        Sweep sweep(scope: &SweepScope, due: Due, after: Option<SweepCursor>, limit: u32) -> Swept;
        SweepInto sweep_into(
            scope: &SweepScope,
            due: Due,
            after: Option<SweepCursor>,
            limit: u32,
            archive: &dyn Archive,
        ) -> Swept;
        CountDue count_due(scope: &SweepScope, due: Due, state: DeadLetterState, cap: u32) -> CappedCount;
        SweepActions sweep_actions(
            before: DateTime<Utc>,
            first_app: Option<AppId>,
            limit: u32,
        ) -> SweptActions;
    }
    DeadLetterAnnounce {
        UnannouncedGroups unannounced_groups(request: &NewGroupRequest) -> UnannouncedGroups;
        ClaimAnnouncement claim_announcement(
            group: &NewErrorGroup,
            lease: Duration,
        ) -> Option<AnnouncementClaim>;
        ConfirmAnnouncement confirm_announcement(claim: &AnnouncementClaim) -> bool;
        SweepAnnouncements sweep_announcements(
            announced_before: DateTime<Utc>,
            abandoned_before: DateTime<Utc>,
            limit: u32,
        ) -> u64;
    }
    DeadLetterBury {
        Bury bury(letter: NewDeadLetter) -> DeadLetterId;
    }
    DeadLetterReplay {
        [accepts_truncated -> bool]
        Replay replay(
            app_id: AppId,
            id: DeadLetterId,
            attribution: &Attribution,
        ) -> DeadLetterRow;
        ReplayEdited replay_edited(
            app_id: AppId,
            id: DeadLetterId,
            payload: &str,
            attribution: &Attribution,
        ) -> DeadLetterRow;
        ReplayMatching replay_matching(
            app_id: AppId,
            filter: &DeadLetterFilter,
            attribution: &Attribution,
            request: &ReplayRequest,
        ) -> Replayed;
    }
}
