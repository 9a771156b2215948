//! The retention policy, and the plan of what a tick deletes: a pure function of policy and time.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    AppId, CappedCount, DeadLetterRepoError, DeadLetterRetention, DeadLetterState, Due, SweepCursor,
    SweepScope, db_code::DbCode, setters::setters,
};

/// How long letters are kept. The default keeps all letters forever.
///
/// It deserializes from a service's settings: each field is a whole number of seconds, and may be missing. An unknown
/// field is an error.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use dead_letters::Retention;
///
/// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
///
/// let retention: Retention = serde_json::from_str(r#"{ "delete_closed_after": 2592000 }"#)?;
/// assert_eq!(retention, Retention::default().delete_closed_after(30 * DAY));
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Retention {
    /// How long closed letters are kept after they were resolved, if `delete_all_after` does not delete them earlier. It
    /// never applies to open letters. `None` keeps them.
    #[serde(with = "seconds", skip_serializing_if = "Option::is_none")]
    pub delete_closed_after: Option<Duration>,
    /// How long all letters are kept after they were stored, whether open or closed. `None` keeps them.
    #[serde(with = "seconds", skip_serializing_if = "Option::is_none")]
    pub delete_all_after: Option<Duration>,
}

/// A duration as a whole number of seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        duration.as_ref().map(Duration::as_secs).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_secs))
    }
}

/// How long each app's letters are kept, and the history of what operators did. The default keeps everything forever.
///
/// It deserializes from a service's settings, as [`Retention`] does. `apps` is a map from the app's id.
///
/// # Examples
///
/// ```
/// use dead_letters::RetentionPolicy;
///
/// let policy: RetentionPolicy = serde_json::from_str(
///     r#"{
///         "others": { "delete_closed_after": 2592000, "delete_all_after": 7776000 },
///         "apps": { "6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01": { "delete_all_after": 604800 } }
///     }"#,
/// )?;
/// assert_eq!(policy.apps.len(), 1);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RetentionPolicy {
    /// The retention of every app that is not in `apps`.
    pub others: Retention,
    /// The retention of single apps, at most 1,000. It replaces `others` as a whole.
    pub apps: BTreeMap<AppId, Retention>,
    /// How long the rows of the [history](crate::DeadLetterRead::actions) of all apps are kept, also those of letters that
    /// were deleted. `None` keeps them.
    #[serde(with = "seconds", skip_serializing_if = "Option::is_none")]
    pub delete_actions_after: Option<Duration>,
}

setters! { RetentionPolicy { some delete_actions_after: Duration } }
setters! { Retention { some delete_closed_after: Duration, some delete_all_after: Duration } }

impl Retention {
    /// Returns what is due at this time: letters that were closed too long ago, then letters that were stored too long
    /// ago.
    ///
    /// A retention longer than chrono's range of times makes nothing due.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use chrono::{TimeDelta, Utc};
    /// use dead_letters::{Due, Retention};
    ///
    /// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// let (now, retention) = (Utc::now(), Retention::default().delete_all_after(90 * DAY));
    /// assert!(retention.due(now).eq([Due::CreatedBefore(now - TimeDelta::days(90))]));
    /// ```
    pub fn due(self, now: DateTime<Utc>) -> impl Iterator<Item = Due> {
        let closed = before(now, self.delete_closed_after).map(Due::ClosedBefore);
        closed.into_iter().chain(before(now, self.delete_all_after).map(Due::CreatedBefore))
    }
}

impl RetentionPolicy {
    /// Returns a policy with one retention for every app.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use dead_letters::{Retention, RetentionPolicy};
    ///
    /// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// let policy = RetentionPolicy::new(Retention::default().delete_closed_after(30 * DAY));
    /// // Open letters are kept forever.
    /// assert_eq!(policy.others.delete_all_after, None);
    /// ```
    pub fn new(others: Retention) -> Self {
        Self { others, ..Self::default() }
    }

    /// Gives an app a retention of its own, which replaces that of the others as a whole.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use dead_letters::{AppId, Retention, RetentionPolicy};
    /// use uuid::Uuid;
    ///
    /// # let (audited, test) = (AppId::from(Uuid::from_u128(1)), AppId::from(Uuid::from_u128(2)));
    /// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// let policy = RetentionPolicy::new(Retention::default().delete_all_after(90 * DAY))
    ///     .app(audited, Retention::default())
    ///     .app(test, Retention::default().delete_all_after(DAY));
    /// assert_eq!(policy.apps[&audited].delete_all_after, None);
    /// ```
    #[must_use]
    pub fn app(mut self, app_id: AppId, retention: Retention) -> Self {
        self.apps.insert(app_id, retention);
        self
    }
}

/// The name of the field of the history's retention.
pub(super) const DELETE_ACTIONS_AFTER: &str = "delete_actions_after";

/// One step of a tick: the apps, and the letters that are due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) scope: SweepScope,
    pub(super) due: Due,
}

impl RetentionPolicy {
    /// Counts the open letters that this policy deletes until `within` from now, of one app or of all apps.
    ///
    /// The count includes letters that are due already, and is capped at `cap`.
    ///
    /// # Errors
    ///
    /// Those of [`count_due`](DeadLetterRetention::count_due).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use chrono::{TimeDelta, Utc};
    /// use dead_letters::{Retention, RetentionPolicy};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
    /// # let old = dead_letters::testing::stored_letter(app, Utc::now() - TimeDelta::days(2));
    /// # dead_letters::DeadLetterTransfer::import(&repo, &[old]).await?;
    /// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// let policy = RetentionPolicy::new(Retention::default().delete_all_after(3 * DAY));
    /// let of_app = policy.due_within(&repo, Some(app), Utc::now(), DAY, 1_000).await?;
    /// assert_eq!(of_app.to_string(), "1");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn due_within(
        &self,
        store: &dyn DeadLetterRetention,
        app_id: Option<AppId>,
        now: DateTime<Utc>,
        within: Duration,
        cap: u32,
    ) -> Result<CappedCount, DeadLetterRepoError> {
        let then = TimeDelta::from_std(within).ok().and_then(|within| now.checked_add_signed(within));
        let then = then.unwrap_or(DateTime::<Utc>::MAX_UTC);
        let steps: Vec<_> = match app_id {
            Some(app_id) => steps(move |_| SweepScope::App(app_id), self.of(app_id), then).collect(),
            None => self.plan(then).collect(),
        };
        let mut total = CappedCount::default();
        let mut left = cap;
        for step in steps {
            if matches!(step.due, Due::ClosedBefore(_)) {
                continue;
            }
            let counted = store.count_due(&step.scope, step.due, DeadLetterState::Open, left).await?;
            total.count += counted.count;
            left = left.saturating_sub(counted.count.try_into().unwrap_or(u32::MAX));
            if counted.capped {
                total.capped = true;
                break;
            }
        }
        Ok(total)
    }

    fn of(&self, app_id: AppId) -> Retention {
        self.apps.get(&app_id).copied().unwrap_or(self.others)
    }

    /// Returns the steps of a tick in order: the apps that have a retention of their own, then all others.
    pub(super) fn plan(&self, now: DateTime<Utc>) -> impl Iterator<Item = Step> {
        let own = self.apps.iter().map(|(&app_id, &retention)| (SweepScope::App(app_id), retention));
        let own = own.flat_map(move |(scope, retention)| steps(move |_| scope.clone(), retention, now));
        own.chain(steps(|due| self.scope_of_others(due), self.others, now))
    }

    /// Returns the scope of all apps without a retention of their own. Closed letters are always found app by app.
    fn scope_of_others(&self, due: Due) -> SweepScope {
        match due {
            Due::CreatedBefore(_) if self.apps.is_empty() => SweepScope::AllApps,
            _ => SweepScope::AllAppsBut { excepted: self.apps.keys().copied().collect() },
        }
    }

    /// Returns the time before which rows of the history are due.
    pub(super) fn actions_before(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        before(now, self.delete_actions_after)
    }

    /// Returns the shortest retention: its app (`None` for all others), its field's name, and its duration.
    pub(super) fn shortest(&self) -> Option<(Option<AppId>, &'static str, Duration)> {
        let own = self.apps.iter().map(|(&app_id, &retention)| (Some(app_id), retention));
        let actions = self.delete_actions_after.map(|value| (None, DELETE_ACTIONS_AFTER, value));
        own.chain([(None, self.others)])
            .flat_map(|(app_id, retention)| {
                let Retention { delete_closed_after, delete_all_after } = retention;
                [("delete_closed_after", delete_closed_after), ("delete_all_after", delete_all_after)]
                    .into_iter()
                    .filter_map(move |(field, value)| Some((app_id, field, value?)))
            })
            .chain(actions)
            .min_by_key(|&(.., value)| value)
    }
}

fn steps(
    scope: impl Fn(Due) -> SweepScope,
    retention: Retention,
    now: DateTime<Utc>,
) -> impl Iterator<Item = Step> {
    retention.due(now).map(move |due| Step { scope: scope(due), due })
}

/// Returns the time that is this long ago. A duration that chrono can't represent is longer than its whole range of times,
/// so nothing is that old.
fn before(now: DateTime<Utc>, after: Option<Duration>) -> Option<DateTime<Utc>> {
    now.checked_sub_signed(TimeDelta::from_std(after?).ok()?)
}

/// Returns the rest of a scope after an error that does not end the tick: the apps behind the app that caused the
/// error.
///
/// If the scope is all apps, the error does not show which app caused it, so the rest is all apps, app by app.
pub(super) fn without_failed(
    scope: SweepScope,
    error: &DeadLetterRepoError,
) -> Option<(SweepScope, Option<SweepCursor>)> {
    match (scope, error) {
        (scope @ SweepScope::AllAppsBut { .. }, &DeadLetterRepoError::AppNotSwept { app_id, .. }) => {
            Some((scope, Some(SweepCursor::behind_app(app_id))))
        }
        (SweepScope::AllApps, DeadLetterRepoError::Db(error))
            if DbCode::of(error).is_some_and(|code| code.may_be_of_one_app() || code.is_time_out()) =>
        {
            Some((SweepScope::AllAppsBut { excepted: Vec::new() }, None))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn app(n: u128) -> AppId {
        Uuid::from_u128(n).into()
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn before(days: u32) -> DateTime<Utc> {
        now() - DAY * days
    }

    fn retention(delete_closed_after: Option<u32>, delete_all_after: Option<u32>) -> Retention {
        let days = |days| DAY * days;
        Retention {
            delete_closed_after: delete_closed_after.map(days),
            delete_all_after: delete_all_after.map(days),
        }
    }

    fn plan(policy: &RetentionPolicy) -> Vec<(SweepScope, Due)> {
        policy.plan(now()).map(|Step { scope, due }| (scope, due)).collect()
    }

    #[test]
    fn a_policy_survives_its_serialization_and_refuses_an_unknown_field() {
        let policy =
            RetentionPolicy::new(retention(Some(30), Some(90))).app(app(1), retention(None, Some(7)));
        let policy = policy.delete_actions_after(DAY * 365);
        let text = serde_json::to_string(&policy).unwrap();
        assert!(text.contains("\"delete_closed_after\":2592000"), "{text}");
        assert_eq!(serde_json::from_str::<RetentionPolicy>(&text).unwrap(), policy);
        let misspelled = r#"{ "others": { "delete_closed_afer": 1 } }"#;
        assert!(serde_json::from_str::<RetentionPolicy>(misspelled).is_err());
    }

    #[test]
    fn the_default_deletes_nothing() {
        assert_eq!(plan(&RetentionPolicy::default()), []);
        let forever = RetentionPolicy { apps: [(app(1), Retention::default())].into(), ..Default::default() };
        assert_eq!(plan(&forever), []);
    }

    #[test]
    fn without_apps_of_their_own_all_apps_are_one_scope_and_closed_letters_go_by_app() {
        let policy = RetentionPolicy::new(retention(Some(30), Some(90)));
        let by_app = SweepScope::AllAppsBut { excepted: Vec::new() };
        assert_eq!(
            plan(&policy),
            [(by_app, Due::ClosedBefore(before(30))), (SweepScope::AllApps, Due::CreatedBefore(before(90))),]
        );
    }

    #[test]
    fn an_apps_own_retention_stands_for_the_whole_of_the_others() {
        let apps = [
            (app(3), retention(None, Some(7))),
            (app(1), retention(Some(1), None)),
            (app(2), retention(None, None)),
        ];
        let policy =
            RetentionPolicy { others: retention(None, Some(90)), apps: apps.into(), ..Default::default() };
        let others = SweepScope::AllAppsBut { excepted: vec![app(1), app(2), app(3)] };
        assert_eq!(
            plan(&policy),
            [
                (SweepScope::App(app(1)), Due::ClosedBefore(before(1))),
                (SweepScope::App(app(3)), Due::CreatedBefore(before(7))),
                (others, Due::CreatedBefore(before(90))),
            ]
        );
    }

    #[test]
    fn a_retention_longer_than_all_of_time_keeps_for_ever() {
        for longest in [Duration::MAX, DAY * 365 * 1_000_000] {
            let others = Retention { delete_closed_after: Some(longest), delete_all_after: Some(longest) };
            let policy = RetentionPolicy::new(others).delete_actions_after(longest);
            assert_eq!((plan(&policy), policy.actions_before(now())), (vec![], None));
        }
    }
}
