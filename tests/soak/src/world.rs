//! The state that all actors of a round share: the service's pool, the ledger, and whether there are faults.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use chrono::Utc;
use dead_letters::{
    AppId, DeadLetterId, DeadLetterRepo, DeadLetterRepoError, DeadLetterRetention, Due, NewDeadLetter,
    SeaOrmDeadLetterRepo, SweepScope, entity::dead_letters as table, testing,
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbErr, EntityTrait, PaginatorTrait, QueryFilter,
};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    actors::KEPT,
    faults,
    ledger::{Ending, Ledger},
    store::{Store, UNDELETABLE, sql},
};

/// Fewer than actors, so that each connection is soon used again, whatever a dropped call left on it.
const CONNECTIONS: u32 = 8;
/// Letters at which the admins aim, few enough to aim at the same.
const TARGETS: usize = 16;

pub(crate) struct World {
    /// The service's pool: all calls under test.
    pub(crate) db: DatabaseConnection,
    pub(crate) repo: SeaOrmDeadLetterRepo,
    /// For what is not under test.
    pub(crate) side: DatabaseConnection,
    pub(crate) apps: [AppId; 3],
    /// The app in which two letters have one event.
    pub(crate) twins: AppId,
    /// The app whose letters are deleted and erased.
    pub(crate) removed: AppId,
    ledger: Mutex<Ledger>,
    targets: Mutex<VecDeque<(AppId, DeadLetterId)>>,
    calm: AtomicBool,
    stopped: AtomicBool,
}

impl World {
    pub(crate) async fn new(store: &Store) -> Result<Self, DbErr> {
        let db = store.connect(CONNECTIONS).await?;
        let apps = [(); 3].map(|()| AppId::from(Uuid::new_v4()));
        let [twins, removed] = [(); 2].map(|()| AppId::from(Uuid::new_v4()));
        Ok(Self {
            repo: SeaOrmDeadLetterRepo::new(db.clone()),
            db,
            side: store.connect(4).await?,
            ledger: Mutex::new(Ledger::new(apps[0], twins, removed)),
            apps,
            twins,
            removed,
            targets: Mutex::default(),
            calm: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        })
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn calm_down(&self) {
        self.calm.store(true, Relaxed);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// Makes the call, or drops it somewhere on its way. `None` unless it was acknowledged: then it may have
    /// been done or not.
    pub(crate) async fn call<T>(
        &self,
        name: &'static str,
        rng: &mut fastrand::Rng,
        call: impl Future<Output = Result<T, DeadLetterRepoError>>,
    ) -> Option<T> {
        let (ending, value) = match self.drop_sometimes(rng, call).await {
            None => (Ending::Dropped, None),
            Some(Ok(value)) => (Ending::Acknowledged, Some(value)),
            Some(Err(error)) => (Ending::of(&error), None),
        };
        self.ledger().count(name, ending);
        value
    }

    pub(crate) async fn drop_sometimes<T>(
        &self,
        rng: &mut fastrand::Rng,
        call: impl Future<Output = T>,
    ) -> Option<T> {
        if self.is_calm() { Some(call.await) } else { faults::drop_sometimes(rng, call).await }
    }

    pub(crate) fn stored(&self, app: AppId, id: DeadLetterId, event: Uuid) {
        self.ledger().stored(id, event);
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.push_front((app, id));
        targets.truncate(TARGETS);
    }

    pub(crate) fn target(&self, rng: &mut fastrand::Rng) -> Option<(AppId, DeadLetterId)> {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        rng.choice(targets.iter()).copied()
    }

    /// A row of the outbox and its event. Where there is none, new events are put there.
    pub(crate) async fn next_event(&self, rng: &mut fastrand::Rng) -> Option<(Uuid, Uuid)> {
        const FEW: i64 = 10;
        let backend = self.side.get_database_backend();
        let select = sql(backend, "SELECT id, event FROM outbox LIMIT $1", [FEW.into()]);
        let rows = self.side.query_all_raw(select).await.ok()?;
        // Few enough for two dispatchers to take the same.
        let Some(row) = rng.choice(&rows) else {
            let events: Vec<_> = (0..100).map(|_| Uuid::new_v4()).collect();
            self.fill_outbox(&events).await.ok()?;
            return None;
        };
        Some((row.try_get_by_index(0).ok()?, row.try_get_by_index(1).ok()?))
    }

    async fn fill_outbox(&self, events: &[Uuid]) -> Result<(), DbErr> {
        let places: Vec<_> = (1..=events.len()).map(|n| format!("(${n}, ${n})")).collect();
        let insert = format!("INSERT INTO outbox (id, event) VALUES {}", places.join(", "));
        let values = events.iter().map(|&event| event.into());
        self.side.execute_raw(sql(self.side.get_database_backend(), &insert, values)).await?;
        self.ledger().enqueued(events);
        Ok(())
    }

    /// Returns the errors of inserts over every connection. The faults' remains may prevent an insert for 30
    /// seconds, and not longer.
    pub(crate) async fn insert_on_every_connection(self: &Arc<Self>) -> Vec<String> {
        let mut tasks = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let world = Arc::clone(self);
            tasks.spawn(async move {
                let until = Instant::now() + Duration::from_secs(30);
                for _ in 0..20 {
                    let (app, event) = (world.apps[1], Uuid::new_v4());
                    match world.repo.insert(letter(app, event)).await {
                        Ok(id) => world.stored(app, id, event),
                        Err(error) if error.is_transient() && Instant::now() < until => {}
                        Err(error) => return Some(format!("after the faults an insert failed: {error}")),
                    }
                }
                None
            });
        }
        tasks.join_all().await.into_iter().flatten().collect()
    }

    /// Sweeps until no letter is due but those that the trigger keeps. These must keep no other.
    pub(crate) async fn sweep_the_rest(&self) -> Vec<String> {
        const LIMIT: u32 = 1_000;
        let until = Instant::now() + Duration::from_secs(30);
        let time = Utc::now() - KEPT;
        loop {
            let swept = self.repo.sweep(&SweepScope::AllApps, Due::CreatedBefore(time), None, LIMIT).await;
            self.ledger().swept(swept.as_ref().ok().map(|swept| swept.deleted), LIMIT.into());
            let left = table::Entity::find()
                .filter(table::Column::CreatedAt.lt(time))
                .filter(table::Column::Source.ne(UNDELETABLE))
                .count(&self.side)
                .await
                .map_err(DeadLetterRepoError::from);
            match swept.and(left) {
                Ok(0) => return Vec::new(),
                Ok(left) if Instant::now() > until => {
                    return vec![format!("{left} letters are due, and sweeps do not delete them")];
                }
                Err(error) if !error.is_transient() || Instant::now() > until => {
                    return vec![format!("after the faults a sweep failed: {error}")];
                }
                _ => {}
            }
        }
    }

    pub(crate) async fn close(&self) -> Result<(), DbErr> {
        self.db.close_by_ref().await?;
        self.side.close_by_ref().await
    }
}

pub(crate) fn letter(app_id: AppId, event: Uuid) -> NewDeadLetter {
    NewDeadLetter { original_event_id: event, ..testing::letter(app_id) }
}
