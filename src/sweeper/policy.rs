//! What is to be deleted: a pure plan of policy and time.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    AppId, CappedCount, DeadLetterRepoError, DeadLetterRetention, DeadLetterState, Due, SweepScope, Swept,
};

/// How long rows are kept. The default keeps all of them for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Settled rows go so long after they were settled, if `all_after` does not take them before: never an
    /// open one. `None` keeps them.
    pub settled_after: Option<Duration>,
    /// All rows go so long after they were stored, settled or not. `None` keeps them.
    pub all_after: Option<Duration>,
}

/// How long whose rows are kept. The default keeps all of them for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Of every app that has none of its own.
    pub others: Retention,
    /// Of apps that have their own, which stands for the whole of the other one. At most 1,000.
    pub apps: BTreeMap<AppId, Retention>,
}

/// Whose rows, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) scope: SweepScope,
    pub(super) due: Due,
}

impl RetentionPolicy {
    /// Counts the open rows that this policy will have deleted until `within` from now, those that are due
    /// already included, up to `cap`: of one app, or of all.
    ///
    /// # Errors
    ///
    /// Those of [`count_due`](DeadLetterRetention::count_due).
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
        let mut total = CappedCount { count: 0, at_least: false };
        let mut left = cap;
        for step in steps {
            if matches!(step.due, Due::SettledBefore(_)) {
                continue;
            }
            let counted = store.count_due(&step.scope, step.due, DeadLetterState::Open, left).await?;
            total.count += counted.count;
            left = left.saturating_sub(counted.count.try_into().unwrap_or(u32::MAX));
            if counted.at_least {
                total.at_least = true;
                break;
            }
        }
        Ok(total)
    }

    fn of(&self, app_id: AppId) -> Retention {
        self.apps.get(&app_id).copied().unwrap_or(self.others)
    }

    /// What a tick does, in this order: the apps that have a retention of their own, then all others.
    pub(super) fn plan(&self, now: DateTime<Utc>) -> impl Iterator<Item = Step> {
        let own = self.apps.iter().map(|(&app_id, &retention)| (SweepScope::App(app_id), retention));
        let own = own.flat_map(move |(scope, retention)| steps(move |_| scope.clone(), retention, now));
        own.chain(steps(|due| self.scope_of_others(due), self.others, now))
    }

    /// Closed letters are found app by app, and a batch begins with the app where the one before ended.
    fn scope_of_others(&self, due: Due) -> SweepScope {
        match due {
            Due::CreatedBefore(_) if self.apps.is_empty() => SweepScope::AllApps,
            _ => SweepScope::AllAppsBut { excepted: self.apps.keys().copied().collect(), from: None },
        }
    }

    /// Whose, the field's name, and how long.
    pub(super) fn shortest(&self) -> Option<(Option<AppId>, &'static str, Duration)> {
        let own = self.apps.iter().map(|(&app_id, &retention)| (Some(app_id), retention));
        own.chain([(None, self.others)])
            .flat_map(|(app_id, retention)| {
                let Retention { settled_after, all_after } = retention;
                [("settled_after", settled_after), ("all_after", all_after)]
                    .into_iter()
                    .filter_map(move |(field, value)| Some((app_id, field, value?)))
            })
            .min_by_key(|&(.., value)| value)
    }
}

fn steps(
    scope: impl Fn(Due) -> SweepScope,
    retention: Retention,
    now: DateTime<Utc>,
) -> impl Iterator<Item = Step> {
    // What chrono can't reckon is longer than all of its time: nothing is that old.
    let before = |after: Option<Duration>| now.checked_sub_signed(TimeDelta::from_std(after?).ok()?);
    let settled = before(retention.settled_after).map(Due::SettledBefore);
    let all = before(retention.all_after).map(Due::CreatedBefore);
    settled.into_iter().chain(all).map(move |due| Step { scope: scope(due), due })
}

/// What is left of a scope after this batch. It ends with a batch that deleted nothing and came no further,
/// so that rows which can't be deleted (a trigger of the database sees to it) do not hold it up for ever.
pub(super) fn following(scope: SweepScope, swept: Swept) -> Option<SweepScope> {
    match scope {
        SweepScope::AllAppsBut { excepted, from } => {
            let goes_on = swept.next.is_some() && (swept.deleted > 0 || swept.next != from);
            goes_on.then_some(SweepScope::AllAppsBut { excepted, from: swept.next })
        }
        // Fewer rows than the limit say nothing: an archive's batch ends at 16 MB as well.
        scope => (swept.deleted > 0).then_some(scope),
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

    fn retention(settled_after: Option<u32>, all_after: Option<u32>) -> Retention {
        let days = |days| DAY * days;
        Retention { settled_after: settled_after.map(days), all_after: all_after.map(days) }
    }

    fn plan(policy: &RetentionPolicy) -> Vec<(SweepScope, Due)> {
        policy.plan(now()).map(|Step { scope, due }| (scope, due)).collect()
    }

    #[test]
    fn the_default_deletes_nothing() {
        assert_eq!(plan(&RetentionPolicy::default()), []);
        let forever = RetentionPolicy { apps: [(app(1), Retention::default())].into(), ..Default::default() };
        assert_eq!(plan(&forever), []);
    }

    #[test]
    fn without_apps_of_their_own_all_apps_are_one_scope_and_closed_letters_go_by_app() {
        let policy = RetentionPolicy { others: retention(Some(30), Some(90)), apps: BTreeMap::new() };
        let by_app = SweepScope::AllAppsBut { excepted: Vec::new(), from: None };
        assert_eq!(
            plan(&policy),
            [(by_app, Due::SettledBefore(before(30))), (SweepScope::AllApps, Due::CreatedBefore(before(90))),]
        );
    }

    #[test]
    fn an_apps_own_retention_stands_for_the_whole_of_the_others() {
        let apps = [
            (app(3), retention(None, Some(7))),
            (app(1), retention(Some(1), None)),
            (app(2), retention(None, None)),
        ];
        let policy = RetentionPolicy { others: retention(None, Some(90)), apps: apps.into() };
        let others = SweepScope::AllAppsBut { excepted: vec![app(1), app(2), app(3)], from: None };
        assert_eq!(
            plan(&policy),
            [
                (SweepScope::App(app(1)), Due::SettledBefore(before(1))),
                (SweepScope::App(app(3)), Due::CreatedBefore(before(7))),
                (others, Due::CreatedBefore(before(90))),
            ]
        );
    }

    #[test]
    fn a_retention_longer_than_all_of_time_keeps_for_ever() {
        for longest in [Duration::MAX, DAY * 365 * 1_000_000] {
            let others = Retention { settled_after: Some(longest), all_after: Some(longest) };
            assert_eq!(plan(&RetentionPolicy { others, apps: BTreeMap::new() }), []);
        }
    }

    #[test]
    fn one_scope_goes_on_until_a_batch_deletes_nothing() {
        let swept = |deleted| Swept { deleted, next: None };
        for scope in [SweepScope::AllApps, SweepScope::App(app(1))] {
            assert_eq!(following(scope.clone(), swept(1)), Some(scope.clone()));
            assert_eq!(following(scope, swept(0)), None);
        }
    }

    #[test]
    fn all_apps_but_some_go_on_where_the_batch_stopped_until_every_app_was_seen() {
        let but = |from| SweepScope::AllAppsBut { excepted: vec![app(9)], from };
        let swept = |deleted, next| Swept { deleted, next };
        assert_eq!(following(but(None), swept(5, Some(app(1)))), Some(but(Some(app(1)))));
        assert_eq!(following(but(Some(app(1))), swept(5, Some(app(1)))), Some(but(Some(app(1)))));
        assert_eq!(following(but(Some(app(1))), swept(0, Some(app(2)))), Some(but(Some(app(2)))));
        assert_eq!(following(but(Some(app(1))), swept(5, None)), None);
        // Nothing deleted and no further: it would be so for ever.
        assert_eq!(following(but(Some(app(1))), swept(0, Some(app(1)))), None);
    }
}
