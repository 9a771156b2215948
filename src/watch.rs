//! Tells a service of each error group that is new or regressed, through the announcement trait and without SQL of its
//! own.
//!
//! The store makes each claim exclusive, and remembers what was announced. This module adds the pace, and continues
//! after failures.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt,
    future::{Future, pending},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use auto_impl::auto_impl;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::{
    AnnouncementClaim, AppId, DeadLetterAnnounce, DeadLetterRepoError, NewErrorGroup, NewGroupRequest,
    announce::OVERLAP,
    background::{Stop, back_off},
    count::separated,
    page::PAGE_SIZES,
    time::jittered,
};

/// How long a group that was announced is not announced again as new.
const REMEMBERED: TimeDelta = TimeDelta::days(90);
/// How many announcements a tick forgets at most.
const FORGOTTEN: u32 = 1_000;
/// After so many failures in a row the receiver is probably out of reach.
const MAX_FAILURES_IN_A_ROW: u32 = 3;
const LEASES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(24 * 60 * 60)];

/// Tells somebody of an error group: by a chat message, by a webhook, or by a page to the person on call.
///
/// # Examples
///
/// ```
/// use std::error::Error;
///
/// use async_trait::async_trait;
/// use dead_letters::{NewErrorGroup, NewGroupState, Notify};
///
/// struct Log;
///
/// #[async_trait]
/// impl Notify for Log {
///     async fn notify(&self, group: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
///         let what = match group.state {
///             NewGroupState::Regressed => "fails again",
///             _ => "fails",
///         };
///         println!("{} {what}: {} letters, such as {}", group.source, group.count, group.sample);
///         Ok(())
///     }
/// }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn Error>> {
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// # Ok(Log.notify(&dead_letters::testing::new_error_group(app)).await.map_err(|error| error.to_string())?)
/// # }
/// ```
#[async_trait]
#[auto_impl(&, Arc)]
pub trait Notify: Send + Sync {
    /// Returns once the message is delivered or durably queued.
    ///
    /// The watch drops the call's future at the end of the lease. After an error, and after such an end, the group is
    /// announced again when its lease has run out. A process that is stopped may have told of a group that is then
    /// announced again.
    ///
    /// # Errors
    ///
    /// Any error of the receiver. The watch logs its text, which must not show a letter's content.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::error::Error;
    /// #
    /// # use async_trait::async_trait;
    /// # use dead_letters::{NewErrorGroup, NewGroupState, Notify};
    /// #
    /// # async fn page_on_call(_: String) -> Result<(), Box<dyn Error + Send + Sync>> {
    /// #     Ok(())
    /// # }
    /// #
    /// struct OnCall;
    ///
    /// #[async_trait]
    /// impl Notify for OnCall {
    ///     async fn notify(&self, group: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
    ///         match group.state {
    ///             // Nobody is woken for a group that may be old.
    ///             NewGroupState::Unknown => Ok(()),
    ///             _ => page_on_call(format!("{}: {} letters", group.source, group.count)).await,
    ///         }
    ///     }
    /// }
    /// ```
    async fn notify(&self, group: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>>;
}

/// Calls a service's [`Notify`] for each error group that is [new](crate::NewGroupState::New) or
/// [regressed](crate::NewGroupState::Regressed).
///
/// Each group is announced at least once, and normally once, however many watches work on one table and however often
/// they restart. The table `dead_letter_announcements` has a row for each group that was announced. Give all watches the
/// same settings.
///
/// - A group is announced once as new, and once for each regression. A group that was closed regressed if it has new open
///   letters.
/// - A group whose novelty is [unknown](crate::NewGroupState::Unknown), because more letters than the scan limit failed
///   since the last tick, is announced too. Otherwise nobody would be told in the hour in which most fails. `Notify` sees
///   the group's state, and may return `Ok` without a message.
/// - A tick examines letters from 15 minutes before the last complete tick on. It therefore finds a letter whose
///   transaction committed up to 15 minutes after it began.
/// - If `Notify` fails, or the process ends before the announcement is recorded, the group is announced again after its
///   [lease](GroupWatchBuilder::lease).
/// - After 90 days a group's row is deleted, and the group is announced again if it is new. Until then it is announced
///   again only if it regresses. A group whose letters were all deleted has no close to regress from: if it fails again
///   within the 90 days, `Notify` is not called. The same holds if all its closed letters lie beyond the
///   [scan limit](GroupWatchBuilder::scan_limit).
///
/// Letters that were imported or rebuilt are as old as they were before, so that their groups are announced only if these
/// letters are new. After an upgrade of this crate that changes the error signatures, let
/// [`rebuild_signatures`](crate::DeadLetterTransfer::rebuild_signatures) end before the watch starts. Until then letters
/// that fail belong to other groups than the older letters, and all of these groups are new. If all letters of a group
/// are newer than the look-back of the tick, a rebuild that changes its key makes it a new group once more.
///
/// [`run`](Self::run) and [`announce_once`](Self::announce_once) need a tokio runtime with its time driver. Their futures
/// may be dropped at any time. The group that `Notify` was called for is then announced again after its lease.
pub struct GroupWatch {
    store: Arc<dyn DeadLetterAnnounce>,
    notify: Arc<dyn Notify>,
    period: Duration,
    lookback: Duration,
    lease: Duration,
    limit: u32,
    scan_limit: u32,
    /// Where the next look begins. `None` before the first one.
    since: Mutex<Option<DateTime<Utc>>>,
    /// The groups that could not be announced, and when they failed last. No look finds a group before the end of its
    /// lease.
    failed: Mutex<BTreeMap<GroupOfApp, Instant>>,
}

type GroupOfApp = (AppId, String);

fn key_of(group: &NewErrorGroup) -> GroupOfApp {
    (group.app_id, group.group_key.clone())
}

impl GroupWatch {
    /// Returns a builder with the default of each setting.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{error::Error, sync::Arc, time::Duration};
    ///
    /// use dead_letters::{GroupWatch, NewErrorGroup, Notify};
    /// # struct Log;
    /// #
    /// # #[async_trait::async_trait]
    /// # impl Notify for Log {
    /// #     async fn notify(&self, _: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// let watch = GroupWatch::builder(Arc::new(repo), Arc::new(Log)).every(Duration::from_secs(30)).build()?;
    /// # _ = watch;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(store: Arc<dyn DeadLetterAnnounce>, notify: Arc<dyn Notify>) -> GroupWatchBuilder {
        let watch = Self {
            store,
            notify,
            period: Duration::from_secs(60),
            lookback: Duration::from_secs(60 * 60),
            lease: Duration::from_secs(5 * 60),
            limit: 50,
            scan_limit: 10_000,
            since: Mutex::default(),
            failed: Mutex::default(),
        };
        GroupWatchBuilder { watch }
    }

    /// Announces at once, and then repeatedly, until `shutdown` is ready.
    ///
    /// The watch polls `shutdown` before each group and in every pause. On shutdown it finishes the current call of
    /// `Notify`. Drop the future to end at once.
    ///
    /// Errors do not stop the watch. After the first failure of the store the next tick comes after one second. Each
    /// further failure doubles the pause, up to five minutes. After a failure of `Notify` the next tick comes after the
    /// usual pause. Jitter shortens each pause by up to a half.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{error::Error, sync::Arc};
    ///
    /// use dead_letters::{GroupWatch, NewErrorGroup, Notify};
    /// use tokio::sync::oneshot;
    /// # struct Log;
    /// #
    /// # #[async_trait::async_trait]
    /// # impl Notify for Log {
    /// #     async fn notify(&self, _: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// let watch = GroupWatch::builder(Arc::new(repo), Arc::new(Log)).build()?;
    /// let (stop, stopped) = oneshot::channel::<()>();
    /// let watching = tokio::spawn(async move { watch.run(stopped).await });
    /// // When the service ends:
    /// drop(stop);
    /// watching.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run(&self, shutdown: impl Future) {
        let mut stop = Stop::new(shutdown);
        let mut failures = 0;
        loop {
            let report = self.tick(&mut stop).await;
            failures = if matches!(report.end, GroupWatchEnd::Failed(_)) { failures + 1 } else { 0 };
            let pause = back_off(failures).unwrap_or(self.period);
            if stop.within(jittered(pause)).await {
                return;
            }
        }
    }

    /// Runs one tick, for cron: announces the groups that are new or regressed, at most
    /// [`limit`](GroupWatchBuilder::limit), and returns a report.
    ///
    /// The first tick of a watch begins at its [`lookback`](GroupWatchBuilder::lookback), which must be longer than the
    /// time between two runs of a process that makes one tick. Each later tick begins 15 minutes before the start of the
    /// last complete one, or earlier if a group was claimed and not announced.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{error::Error, sync::Arc};
    ///
    /// use dead_letters::{GroupWatch, GroupWatchEnd, NewErrorGroup, Notify};
    /// # struct Log;
    /// #
    /// # #[async_trait::async_trait]
    /// # impl Notify for Log {
    /// #     async fn notify(&self, _: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// let watch = GroupWatch::builder(Arc::new(repo), Arc::new(Log)).build()?;
    /// let report = watch.announce_once().await;
    /// println!("{} groups were announced", report.announced);
    /// if let GroupWatchEnd::Failed(error) = report.end {
    ///     return Err(error.into());
    /// }
    /// # assert_eq!(report.announced, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn announce_once(&self) -> GroupWatchReport {
        self.tick(&mut Stop::new(pending::<()>())).await
    }

    async fn tick(&self, stop: &mut Stop<impl Future>) -> GroupWatchReport {
        let mut report = GroupWatchReport { announced: 0, failed: 0, end: GroupWatchEnd::Finished };
        report.end = match self.announce(stop, &mut report).await {
            Ok(end) => end,
            Err(error) => GroupWatchEnd::Failed(error),
        };
        let GroupWatchReport { announced, failed, .. } = report;
        match &report.end {
            GroupWatchEnd::Failed(error) => {
                warn!(announced, failed, %error, "the watch for new groups failed")
            }
            _ if announced + failed > 0 => info!(announced, failed, "new error groups"),
            _ => debug!("no new error groups"),
        }
        report
    }

    async fn announce(
        &self,
        stop: &mut Stop<impl Future>,
        report: &mut GroupWatchReport,
    ) -> Result<GroupWatchEnd, DeadLetterRepoError> {
        // A group that failed comes last, and takes no other group's place among the first `limit`.
        let mut failed = self.failed().clone();
        let limit = Ord::min(self.limit as usize + failed.len(), *PAGE_SIZES.end() as usize);
        let request = NewGroupRequest::since(self.begin()).limit(limit as u32).scan_limit(self.scan_limit);
        let found = self.store.unannounced_groups(&request).await?;
        let (mut again, mut groups): (Vec<_>, Vec<_>) =
            found.groups.iter().partition(|group| failed.contains_key(&key_of(group)));
        // Those that failed first are tried first.
        again.sort_by_key(|group| failed.get(&key_of(group)).copied());
        let is_found: BTreeSet<_> = again.iter().copied().map(key_of).collect();
        failed.retain(|group, at| is_found.contains(group) || at.elapsed() < self.lease);
        *self.failed() = failed;
        groups.extend(again);
        let mut failures = 0;
        for group in groups.iter().copied().take(self.limit as usize) {
            if stop.within(Duration::ZERO).await {
                return Ok(GroupWatchEnd::Stopped);
            }
            let Some(claim) = self.store.claim_announcement(group, self.lease).await? else {
                // Another watch was faster.
                continue;
            };
            failures = if self.tell(group, &claim, report).await? { 0 } else { failures + 1 };
            if failures == MAX_FAILURES_IN_A_ROW {
                return Ok(GroupWatchEnd::More);
            }
        }
        if groups.len() > self.limit as usize || groups.len() >= limit {
            return Ok(GroupWatchEnd::More);
        }
        *self.since() = Some(found.as_of - OVERLAP);
        // All claims with an earlier lease are of groups that this look did not find.
        self.store.sweep_announcements(found.as_of - REMEMBERED, found.as_of, FORGOTTEN).await?;
        Ok(GroupWatchEnd::Finished)
    }

    /// Calls `Notify`, and returns whether it succeeded.
    async fn tell(
        &self,
        group: &NewErrorGroup,
        claim: &AnnouncementClaim,
        report: &mut GroupWatchReport,
    ) -> Result<bool, DeadLetterRepoError> {
        let told = timeout(self.lease, self.notify.notify(group)).await;
        let told = told.unwrap_or_else(|_| Err("it did not return within the lease".into()));
        #[cfg(feature = "metrics")]
        crate::metrics::count_announcement(told.is_ok());
        match told {
            Ok(()) => {
                report.announced += 1;
                self.failed().remove(&key_of(group));
                self.store.confirm_announcement(claim).await?;
                Ok(true)
            }
            Err(error) => {
                report.failed += 1;
                self.failed().insert(key_of(group), Instant::now());
                let NewErrorGroup { app_id, group_key, newest_id, .. } = group;
                warn!(%app_id, %group_key, %newest_id, %error, "a new error group could not be announced");
                Ok(false)
            }
        }
    }

    /// Returns where the look begins. It stays there until a tick is complete.
    fn begin(&self) -> DateTime<Utc> {
        let now = Utc::now();
        let lookback = TimeDelta::from_std(self.lookback).ok();
        let first = || lookback.and_then(|lookback| now.checked_sub_signed(lookback));
        let since = *self.since().get_or_insert_with(|| first().unwrap_or(DateTime::<Utc>::MIN_UTC));
        // The database's clock may be ahead.
        Ord::min(since, now)
    }

    fn failed(&self) -> MutexGuard<'_, BTreeMap<GroupOfApp, Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn since(&self) -> MutexGuard<'_, Option<DateTime<Utc>>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for GroupWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupWatch")
            .field("period", &self.period)
            .field("lookback", &self.lookback)
            .field("lease", &self.lease)
            .field("limit", &self.limit)
            .field("scan_limit", &self.scan_limit)
            .finish_non_exhaustive()
    }
}

/// The result of one tick.
#[derive(Debug, Clone)]
#[must_use = "it says whether the watch failed"]
#[non_exhaustive]
pub struct GroupWatchReport {
    /// How many groups were announced.
    pub announced: u64,
    /// For how many groups [`Notify`] failed. They are announced again after their lease.
    pub failed: u64,
    /// How the tick ended.
    pub end: GroupWatchEnd,
}

/// How a tick ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum GroupWatchEnd {
    /// The tick was complete: [`Notify`] was called for each group that was found and that no other watch had claimed.
    Finished,
    /// Groups may be left to the next tick: the tick found as many as its [`limit`](GroupWatchBuilder::limit), or
    /// [`Notify`] failed three times in a row.
    More,
    /// The tick was told to stop.
    Stopped,
    /// The store returned this error, which ended the tick.
    Failed(DeadLetterRepoError),
}

/// A [`GroupWatch`]'s settings.
#[derive(Debug)]
pub struct GroupWatchBuilder {
    watch: GroupWatch,
}

impl GroupWatchBuilder {
    /// Sets the longest pause between two ticks, one minute by default. The shortest is half of it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{error::Error, sync::Arc};
    /// use std::time::Duration;
    ///
    /// use dead_letters::GroupWatch;
    /// # use dead_letters::{NewErrorGroup, Notify};
    /// # struct Log;
    /// #
    /// # #[async_trait::async_trait]
    /// # impl Notify for Log {
    /// #     async fn notify(&self, _: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// let watch = GroupWatch::builder(Arc::new(repo), Arc::new(Log)).every(Duration::from_secs(30)).build()?;
    /// # _ = watch;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn every(mut self, period: Duration) -> Self {
        self.watch.period = period;
        self
    }

    /// Sets how far the first tick looks back, one hour by default.
    ///
    /// With one hour the groups that became new during a deployment or a short outage are announced. The first watch on
    /// a table with old letters announces only what failed for the first time within that hour. If the service stops for
    /// longer, groups that became new meanwhile are not announced, unless this is longer too.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{error::Error, sync::Arc};
    /// use std::time::Duration;
    ///
    /// use dead_letters::GroupWatch;
    /// # use dead_letters::{NewErrorGroup, Notify};
    /// # struct Log;
    /// #
    /// # #[async_trait::async_trait]
    /// # impl Notify for Log {
    /// #     async fn notify(&self, _: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// // For a process that cron starts once an hour.
    /// let watch = GroupWatch::builder(Arc::new(repo), Arc::new(Log)).lookback(Duration::from_secs(7_200)).build()?;
    /// # _ = watch;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn lookback(mut self, lookback: Duration) -> Self {
        self.watch.lookback = lookback;
        self
    }

    /// Sets for how long a claimed group is not announced by another watch or tick, from one second to a day, five
    /// minutes by default. [`Notify`] must return within this time.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{error::Error, sync::Arc};
    /// use std::time::Duration;
    ///
    /// use dead_letters::GroupWatch;
    /// # use dead_letters::{NewErrorGroup, Notify};
    /// # struct Log;
    /// #
    /// # #[async_trait::async_trait]
    /// # impl Notify for Log {
    /// #     async fn notify(&self, _: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// // The webhook returns within a minute.
    /// let watch = GroupWatch::builder(Arc::new(repo), Arc::new(Log)).lease(Duration::from_secs(60)).build()?;
    /// # _ = watch;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.watch.lease = lease;
        self
    }

    /// Sets how many groups a tick announces at most, 1 to 500, 50 by default. The next tick announces further ones.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{error::Error, sync::Arc};
    /// use dead_letters::GroupWatch;
    /// # use dead_letters::{NewErrorGroup, Notify};
    /// # struct Log;
    /// #
    /// # #[async_trait::async_trait]
    /// # impl Notify for Log {
    /// #     async fn notify(&self, _: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// // At most ten messages in a tick.
    /// let watch = GroupWatch::builder(Arc::new(repo), Arc::new(Log)).limit(10).build()?;
    /// # _ = watch;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.watch.limit = limit;
        self
    }

    /// Sets how many letters a tick may examine, at least 1, 10,000 by default: see
    /// [`NewGroupRequest::scan_limit`](field@NewGroupRequest::scan_limit). It should be several times as many letters as
    /// fail in 15 minutes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{error::Error, sync::Arc};
    /// use dead_letters::GroupWatch;
    /// # use dead_letters::{NewErrorGroup, Notify};
    /// # struct Log;
    /// #
    /// # #[async_trait::async_trait]
    /// # impl Notify for Log {
    /// #     async fn notify(&self, _: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// // For a service in which 20,000 letters may fail in 15 minutes.
    /// let watch = GroupWatch::builder(Arc::new(repo), Arc::new(Log)).scan_limit(100_000).build()?;
    /// # _ = watch;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn scan_limit(mut self, scan_limit: u32) -> Self {
        self.watch.scan_limit = scan_limit;
        self
    }

    /// Checks the settings, and returns the watch.
    ///
    /// # Errors
    ///
    /// See the variants of [`GroupWatchConfigError`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{error::Error, sync::Arc, time::Duration};
    ///
    /// use dead_letters::{GroupWatch, GroupWatchConfigError, NewErrorGroup, Notify};
    /// # struct Log;
    /// #
    /// # #[async_trait::async_trait]
    /// # impl Notify for Log {
    /// #     async fn notify(&self, _: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// let refused = GroupWatch::builder(Arc::new(repo), Arc::new(Log)).lease(Duration::ZERO).build();
    /// assert!(matches!(refused, Err(GroupWatchConfigError::Lease(Duration::ZERO))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn build(self) -> Result<GroupWatch, GroupWatchConfigError> {
        let &GroupWatch { period, lease, limit, scan_limit, .. } = &self.watch;
        let [shortest, longest] = LEASES;
        if period < Duration::from_secs(1) {
            return Err(GroupWatchConfigError::ShortPeriod(period));
        }
        if !(shortest..=longest).contains(&lease) {
            return Err(GroupWatchConfigError::Lease(lease));
        }
        if !PAGE_SIZES.contains(&limit) {
            return Err(GroupWatchConfigError::Limit(limit));
        }
        if scan_limit == 0 {
            return Err(GroupWatchConfigError::NoScan);
        }
        Ok(self.watch)
    }
}

/// Why a [`GroupWatch`] could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupWatchConfigError {
    /// The pause between ticks is less than a second.
    #[error("`every` must be at least a second (got {0:?})")]
    ShortPeriod(Duration),
    /// The lease is shorter than a second or longer than a day.
    #[error("`lease` must be between a second and a day (got {0:?})")]
    Lease(Duration),
    /// The limit is outside 1 to 500.
    #[error("`limit` must be between 1 and 500 (got {})", separated(.0))]
    Limit(u32),
    /// The scan limit is 0.
    #[error("`scan_limit` must be at least 1 (got 0)")]
    NoScan,
}
