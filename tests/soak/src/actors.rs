//! Who works on the store: each does its next random call as soon as the last one ended, and tells the ledger
//! what was acknowledged.

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{TimeDelta, Utc};
use dead_letters::{
    AppId, Archive, Attribution, CoalescingDeadLetterRepo, DeadLetterAnnounce, DeadLetterDelete,
    DeadLetterFilter, DeadLetterId, DeadLetterReplay, DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve,
    DeadLetterRetention, DeadLetterState, Due, NewDeadLetter, NewGroupRequest, ReopenRequest, Requeue,
    Resolution, SeaOrmDeadLetterRepo, StoredLetter, SweepScope,
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, SqlErr, TransactionTrait};
use tokio::{runtime::Handle, task::JoinSet};
use uuid::Uuid;

use crate::{
    store::{UNDELETABLE, sql},
    world::{World, letter},
};

/// The sweepers keep letters younger than this, and letters resolved more recently than this.
pub(crate) const KEPT: TimeDelta = TimeDelta::seconds(20);
pub(crate) const KEPT_IN_FIRST_APP: TimeDelta = TimeDelta::seconds(10);
pub(crate) const KEPT_CLOSED: TimeDelta = TimeDelta::seconds(4);

pub(crate) fn spawn(world: &Arc<World>, seeds: &mut fastrand::Rng) -> JoinSet<()> {
    let mut actors = JoinSet::new();
    let mut actor = || Actor { world: Arc::clone(world), rng: seeds.fork() };
    for _ in 0..8 {
        actors.spawn(actor().dispatch());
    }
    for coalescing in [false, false, false, true] {
        actors.spawn(actor().insert(coalescing));
    }
    for _ in 0..4 {
        actors.spawn(actor().administer());
    }
    for _ in 0..2 {
        actors.spawn(actor().sweep());
    }
    actors.spawn(actor().commit_late());
    actors.spawn(actor().insert_undeletable());
    for _ in 0..2 {
        actors.spawn(actor().replay_twins());
    }
    for _ in 0..2 {
        actors.spawn(actor().remove());
    }
    for _ in 0..3 {
        actors.spawn(actor().announce());
    }
    actors
}

struct Actor {
    world: Arc<World>,
    rng: fastrand::Rng,
}

impl Actor {
    fn app(&mut self) -> AppId {
        self.world.apps[self.rng.usize(..self.world.apps.len())]
    }

    /// Takes events from the outbox to the store.
    async fn dispatch(mut self) {
        while !self.world.is_stopped() {
            let Some((row, event)) = self.world.next_event(&mut self.rng).await else {
                tokio::task::yield_now().await;
                continue;
            };
            let app = self.app();
            let letter = letter(app, event);
            let world = Arc::clone(&self.world);
            let rng = self.rng.fork();
            let stored = match self.rng.u8(..4) {
                0..2 => {
                    let bury = async {
                        let bury =
                            world.repo.bury_with(letter, async move |txn| Ok(dequeue(txn, row).await?));
                        Ok(vec![(bury.await?, event)])
                    };
                    world.call("bury", &mut self.rng, bury).await
                }
                2 => {
                    world.call("begin to commit", &mut self.rng, move_by_hand(&world, rng, row, letter)).await
                }
                _ => {
                    let moved = move_in_savepoint(&world, row, letter);
                    world.call("begin to commit, nested", &mut self.rng, moved).await
                }
            };
            for (id, event) in stored.into_iter().flatten() {
                world.stored(app, id, event);
            }
        }
    }

    /// Stores letters that no outbox knows.
    async fn insert(mut self, coalescing: bool) {
        let world = Arc::clone(&self.world);
        let coalescing =
            coalescing.then(|| CoalescingDeadLetterRepo::new(world.repo.clone(), &Handle::current()));
        while !world.is_stopped() {
            let app = self.app();
            if let Some(repo) = &coalescing {
                // Two at once, which go out together.
                let mut rng = self.rng.fork();
                let [one, two] = [(); 2].map(|()| Uuid::new_v4());
                let ids = tokio::join!(
                    world.call("coalesced insert", &mut rng, repo.insert(letter(app, one))),
                    world.call("coalesced insert", &mut self.rng, repo.insert(letter(app, two))),
                );
                for (id, event) in [(ids.0, one), (ids.1, two)] {
                    if let Some(id) = id {
                        world.stored(app, id, event);
                    }
                }
            } else if self.rng.bool() {
                let event = Uuid::new_v4();
                let insert = world.repo.insert(letter(app, event));
                if let Some(id) = world.call("insert", &mut self.rng, insert).await {
                    world.stored(app, id, event);
                }
            } else {
                let events: Vec<_> = (0..self.rng.usize(2..40)).map(|_| Uuid::new_v4()).collect();
                let letters = events.iter().map(|&event| letter(app, event)).collect();
                world.ledger().together(&events);
                let insert = world.repo.insert_many(letters);
                for (id, event) in
                    world.call("insert_many", &mut self.rng, insert).await.into_iter().flatten().zip(events)
                {
                    world.stored(app, id, event);
                }
            }
        }
        if let Some(repo) = coalescing {
            repo.shut_down().await;
        }
    }

    /// Stores letters in transactions that end long after they began: on PostgreSQL each is older than letters that
    /// were there before it.
    async fn commit_late(mut self) {
        let world = Arc::clone(&self.world);
        // SQLite's other writers wait all the while.
        let longest = if world.db.get_database_backend() == DbBackend::Sqlite { 20 } else { 3_000 };
        while !world.is_stopped() {
            let (app, event) = (self.app(), Uuid::new_v4());
            let pause = Duration::from_millis(self.rng.u64(..longest));
            let late = store_late(&world, letter(app, event), pause);
            if let Some(id) = world.call("begin to late commit", &mut self.rng, late).await {
                world.stored(app, id, event);
            }
            tokio::time::sleep(Duration::from_millis(self.rng.u64(..100))).await;
        }
    }

    /// Stores a few letters that the trigger keeps: fewer than most sweeps take.
    async fn insert_undeletable(mut self) {
        let world = Arc::clone(&self.world);
        for _ in 0..5 {
            let (app, event) = (self.app(), Uuid::new_v4());
            let letter = NewDeadLetter { source: UNDELETABLE.to_owned(), ..letter(app, event) };
            if let Some(id) = world.call("insert", &mut self.rng, world.repo.insert(letter)).await {
                world.stored(app, id, event);
                world.ledger().is_undeletable(id);
            }
            tokio::time::sleep(Duration::from_millis(self.rng.u64(..5_000))).await;
            if world.is_stopped() {
                return;
            }
        }
    }

    /// Stores two letters of one event at a time, and replays them into an outbox that has an event once.
    async fn replay_twins(mut self) {
        let world = Arc::clone(&self.world);
        let app = world.twins;
        let mut ids: Vec<DeadLetterId> = Vec::new();
        while !world.is_stopped() {
            let open = all_open();
            let limit = self.rng.u32(1..=3);
            let attempt = Uuid::new_v4().to_string();
            let by = Attribution::by(&attempt);
            let rng = &mut self.rng;
            match rng.u8(..6) {
                0 => {
                    let insert = world.repo.insert_many(vec![letter(app, Uuid::new_v4()); 2]);
                    for id in world.call("insert_many of twins", rng, insert).await.into_iter().flatten() {
                        world.ledger().stored_twin(id);
                        ids.push(id);
                    }
                }
                1 | 2 => {
                    let Some(id) = ids.pop() else { continue };
                    let enqueue =
                        async |txn: &DatabaseTransaction, row| enqueue_once(txn, &[row], &attempt).await;
                    let replay = world.repo.replay_with(app, id, &by, enqueue);
                    if world.call("replay of a twin", rng, replay).await.is_some() {
                        world.ledger().closed(&[id], &attempt);
                        world.ledger().acted(&attempt, "replay", 1);
                    }
                }
                3 | 4 => {
                    let enqueue = async |txn: &DatabaseTransaction, rows: Vec<_>| {
                        enqueue_once(txn, &rows, &attempt).await
                    };
                    let replay = world.repo.replay_matching_with(app, &open, &by, limit, enqueue);
                    if let Some(replayed) = world.call("replay_matching of twins", rng, replay).await {
                        world.ledger().closed(&replayed.ids, &attempt);
                        world.ledger().acted(&attempt, "replay", replayed.ids.len());
                    }
                }
                _ => {
                    let deliver = "UPDATE twin_outbox SET delivered = true WHERE NOT delivered";
                    // It may be cut: then the next one does it.
                    world.side.execute_unprepared(deliver).await.ok();
                }
            }
        }
    }

    /// Resolves letters, and reopens those that it resolved itself and did not put back. A letter that was put
    /// back would be in two places.
    async fn administer(mut self) {
        let world = Arc::clone(&self.world);
        let mut may_be_reopened: Vec<(AppId, DeadLetterId, String)> = Vec::new();
        while !world.is_stopped() {
            let Some((app, id)) = world.target(&mut self.rng) else {
                tokio::task::yield_now().await;
                continue;
            };
            let open = all_open();
            let limit = self.rng.u32(1..=10);
            let attempt = Uuid::new_v4().to_string();
            let by = Attribution::by(&attempt);
            let rng = &mut self.rng;
            match rng.u8(..6) {
                0 => {
                    let resolve = world.repo.resolve_once(app, id, Resolution::Ignored, &by);
                    if world.call("resolve_once", rng, resolve).await.is_some() {
                        world.ledger().closed(&[id], &attempt);
                        world.ledger().acted(&attempt, "resolve", 1);
                        may_be_reopened.push((app, id, attempt));
                    }
                }
                1 => {
                    let resolve = world.repo.resolve_matching(app, &open, Resolution::Ignored, &by, limit);
                    if let Some(resolved) = world.call("resolve_matching", rng, resolve).await {
                        world.ledger().closed(&resolved.ids, &attempt);
                        world.ledger().acted(&attempt, "resolve", resolved.ids.len());
                        may_be_reopened.extend(resolved.ids.into_iter().map(|id| (app, id, attempt.clone())));
                    }
                }
                2 => {
                    let enqueue = async |txn: &DatabaseTransaction, row| enqueue(txn, &[row], &attempt).await;
                    let replay = world.repo.replay_with(app, id, &by, enqueue);
                    if world.call("replay", rng, replay).await.is_some() {
                        world.ledger().closed(&[id], &attempt);
                        world.ledger().acted(&attempt, "replay", 1);
                    }
                }
                3 => {
                    let enqueue =
                        async |txn: &DatabaseTransaction, rows: Vec<_>| enqueue(txn, &rows, &attempt).await;
                    let replay = world.repo.replay_matching_with(app, &open, &by, limit, enqueue);
                    if let Some(replayed) = world.call("replay_matching", rng, replay).await {
                        world.ledger().closed(&replayed.ids, &attempt);
                        world.ledger().acted(&attempt, "replay", replayed.ids.len());
                    }
                }
                // A run that is undone at once.
                4 => {
                    let run_id = Uuid::new_v4();
                    let by = by.run_id(run_id);
                    let resolve = world.repo.resolve_matching(app, &open, Resolution::Ignored, &by, limit);
                    let Some(resolved) = world.call("resolve_matching", rng, resolve).await else { continue };
                    world.ledger().closed(&resolved.ids, &attempt);
                    world.ledger().acted(&attempt, "resolve", resolved.ids.len());
                    for &id in &resolved.ids {
                        world.ledger().may_reopen(id);
                    }
                    let of_run = DeadLetterFilter::default().run_id(run_id);
                    let request = ReopenRequest::default();
                    let undo = world.repo.reopen_matching(app, &of_run, &by, &request);
                    if let Some(reopened) = world.call("reopen_matching", rng, undo).await {
                        world.ledger().acted(&attempt, "reopen", reopened.ids.len());
                        for id in reopened.ids {
                            world.ledger().reopened(id, &attempt);
                        }
                    }
                }
                _ => {
                    let Some((app, id, attempt)) = may_be_reopened.pop() else { continue };
                    world.ledger().may_reopen(id);
                    if world
                        .call("reopen", rng, world.repo.reopen(app, id, &Attribution::default()))
                        .await
                        .is_some()
                    {
                        world.ledger().reopened(id, &attempt);
                    }
                }
            }
        }
    }

    /// Deletes letters, erases and reveals their content, and replays them with another payload.
    async fn remove(mut self) {
        let world = Arc::clone(&self.world);
        let app = world.removed;
        let mut ids: Vec<DeadLetterId> = Vec::new();
        while !world.is_stopped() {
            let attempt = Uuid::new_v4().to_string();
            let by = Attribution::by(&attempt).note("a request of the customer");
            let rng = &mut self.rng;
            let some: Vec<_> = (0..3).filter_map(|_| rng.choice(&ids).copied()).collect();
            match rng.u8(..7) {
                6 => {
                    let Some(&id) = some.first() else { continue };
                    let reveal = world.repo.record_reveal(app, id, &by);
                    if world.call("record_reveal", rng, reveal).await.is_some() {
                        world.ledger().acted(&attempt, "reveal", 1);
                    }
                }
                0 => {
                    let events: Vec<_> = (0..rng.usize(2..10)).map(|_| Uuid::new_v4()).collect();
                    let letters = events.iter().map(|&event| letter(app, event)).collect();
                    let insert = world.call("insert_many to remove", rng, world.repo.insert_many(letters));
                    for (id, event) in insert.await.into_iter().flatten().zip(events) {
                        world.ledger().stored(id, event);
                        ids.push(id);
                    }
                }
                1 | 2 => {
                    let limit = rng.u32(1..=4);
                    let filter = match rng.bool() {
                        true => DeadLetterFilter::default().state(DeadLetterState::Any).ids(some),
                        // Letters of the other actor, too.
                        false => all_open(),
                    };
                    let delete = world.repo.delete_matching(app, &filter, &by, limit);
                    let deleted = world.call("delete_matching", rng, delete).await.map(|deleted| deleted.ids);
                    world.ledger().swept(deleted.as_ref().map(|deleted| deleted.len() as u64), limit.into());
                    if let Some(deleted) = deleted {
                        world.ledger().deleted(&deleted);
                        world.ledger().acted(&attempt, "delete", deleted.len());
                        ids.retain(|id| !deleted.contains(id));
                    }
                }
                3 => {
                    if let Some(erased) = world.call("erase", rng, world.repo.erase(app, &some, &by)).await {
                        world.ledger().erased(&erased.ids);
                        world.ledger().acted(&attempt, "erase", erased.ids.len());
                    }
                }
                4 => {
                    let Some(&id) = some.first() else { continue };
                    let replayer = world.repo.replayer(PutBack(attempt.clone()));
                    let replay = replayer.replay_edited(app, id, r#"{"edited":true}"#, &by);
                    if world.call("replay_edited", rng, replay).await.is_some() {
                        world.ledger().closed(&[id], &attempt);
                        world.ledger().acted(&attempt, "edit", 1);
                    }
                }
                _ => {
                    let open = all_open();
                    let resolve = world.repo.resolve_matching(app, &open, Resolution::Ignored, &by, 2);
                    if let Some(resolved) = world.call("resolve_matching", rng, resolve).await {
                        world.ledger().closed(&resolved.ids, &attempt);
                        world.ledger().acted(&attempt, "resolve", resolved.ids.len());
                    }
                }
            }
        }
    }

    /// Claims the announcements of new groups, and confirms some of them.
    async fn announce(mut self) {
        let world = Arc::clone(&self.world);
        while !world.is_stopped() {
            tokio::time::sleep(Duration::from_millis(self.rng.u64(..200))).await;
            let rng = &mut self.rng;
            let request =
                NewGroupRequest::since(Utc::now() - TimeDelta::hours(1)).limit(10).scan_limit(1_000);
            let found = world.call("unannounced_groups", rng, world.repo.unannounced_groups(&request)).await;
            let Some(group) = found.and_then(|found| rng.choice(found.groups)) else { continue };
            let (began, lease) = (Utc::now(), Duration::from_millis(rng.u64(100..2_000)));
            let claim =
                world.call("claim_announcement", rng, world.repo.claim_announcement(&group, lease)).await;
            let Some(claim) = claim.flatten() else { continue };
            // SQLite's clock has milliseconds.
            let leased_until = began + lease - TimeDelta::milliseconds(1);
            if Utc::now() >= leased_until {
                continue;
            }
            let key = (group.app_id, group.group_key);
            let number = world.ledger().claimed(&key, leased_until);
            tokio::time::sleep(Duration::from_millis(rng.u64(..1_000))).await;
            if rng.bool() {
                let last = world.ledger().may_confirm(&key, number);
                let confirm = world.repo.confirm_announcement(&claim);
                if world.call("confirm_announcement", rng, confirm).await == Some(true) {
                    world.ledger().confirmed(&key, number, last);
                }
            }
        }
    }

    /// Deletes what is old.
    async fn sweep(mut self) {
        let world = Arc::clone(&self.world);
        while !world.is_stopped() {
            let limit = self.rng.u32(1..=200);
            let now = Utc::now();
            let (first_app, app) = (world.apps[0], self.app());
            let closed = Due::ClosedBefore(now - KEPT_CLOSED);
            let all_but_first = SweepScope::AllAppsBut { excepted: vec![first_app] };
            let (scope, due) = match self.rng.u8(..4) {
                0 => (all_but_first, Due::CreatedBefore(now - KEPT)),
                1 => (SweepScope::App(first_app), Due::CreatedBefore(now - KEPT_IN_FIRST_APP)),
                2 => (SweepScope::App(app), closed),
                _ => (SweepScope::AllApps, closed),
            };
            let swept = match self.rng.u8(..3) {
                0 => world.call("gc", &mut self.rng, world.repo.gc(now - KEPT, limit.into())).await,
                1 => {
                    let sweep = world.repo.sweep(&scope, due, None, limit);
                    world.call("sweep", &mut self.rng, sweep).await.map(|swept| swept.deleted)
                }
                _ => {
                    let archive = Nowhere(Arc::clone(&world));
                    let sweep = world.repo.sweep_into(&scope, due, None, limit, &archive);
                    world.call("sweep_into", &mut self.rng, sweep).await.map(|swept| swept.deleted)
                }
            };
            world.ledger().swept(swept, limit.into());
            tokio::time::sleep(Duration::from_millis(self.rng.u64(..50))).await;
        }
    }
}

fn all_open() -> DeadLetterFilter {
    DeadLetterFilter::default().state(DeadLetterState::Open).created_before(Utc::now() + TimeDelta::hours(1))
}

/// An archive that keeps nothing.
struct Nowhere(Arc<World>);

#[async_trait]
impl Archive for Nowhere {
    async fn keep(&self, letters: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        for letter in letters.iter().filter(|letter| letter.source == UNDELETABLE) {
            self.0.ledger().archived_undeletable(letter.id);
        }
        Ok(())
    }
}

/// Puts events back for this attempt.
struct PutBack(String);

#[async_trait]
impl Requeue for PutBack {
    async fn requeue(
        &self,
        txn: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(enqueue(txn, letters, &self.0).await?)
    }
}

/// The letters that are stored and their events.
type Moved = Result<Vec<(DeadLetterId, Uuid)>, DeadLetterRepoError>;

/// Does the work of `bury` by hand, and stores two letters besides in a call that may be dropped. The
/// transaction goes on without them.
async fn move_by_hand(world: &World, mut rng: fastrand::Rng, row: Uuid, letter: NewDeadLetter) -> Moved {
    let (app, event) = (letter.app_id, letter.original_event_id);
    let besides = [(); 2].map(|()| Uuid::new_v4());
    world.ledger().together(&besides);
    let txn = SeaOrmDeadLetterRepo::begin(&world.db).await?;
    let repo = world.repo.in_transaction(&txn);
    let mut moved = vec![(repo.insert(letter).await?, event)];
    let insert = repo.insert_many(besides.map(|event| self::letter(app, event)).into());
    if let Some(ids) = world.drop_sometimes(&mut rng, insert).await.transpose()? {
        moved.extend(ids.into_iter().zip(besides));
    }
    take(&txn, row).await?;
    SeaOrmDeadLetterRepo::commit(txn).await?;
    Ok(moved)
}

/// Does the work of `bury`, with a transaction of the service's own inside it.
async fn move_in_savepoint(world: &World, row: Uuid, letter: NewDeadLetter) -> Moved {
    let event = letter.original_event_id;
    let txn = SeaOrmDeadLetterRepo::begin(&world.db).await?;
    take(&txn, row).await?;
    let nested = txn.begin().await?;
    let ids = world.repo.in_transaction(&nested).insert_many(vec![letter]).await?;
    SeaOrmDeadLetterRepo::commit(nested).await?;
    SeaOrmDeadLetterRepo::commit(txn).await?;
    Ok(ids.into_iter().map(|id| (id, event)).collect())
}

async fn store_late(
    world: &World,
    letter: NewDeadLetter,
    pause: Duration,
) -> Result<DeadLetterId, DeadLetterRepoError> {
    let txn = SeaOrmDeadLetterRepo::begin(&world.db).await?;
    let id = world.repo.in_transaction(&txn).insert(letter).await?;
    tokio::time::sleep(pause).await;
    SeaOrmDeadLetterRepo::commit(txn).await?;
    Ok(id)
}

async fn take(txn: &DatabaseTransaction, row: Uuid) -> Result<(), DeadLetterRepoError> {
    match dequeue(txn, row).await? {
        1 => Ok(()),
        // Another dispatcher did.
        _ => Err(DbErr::RecordNotUpdated.into()),
    }
}

async fn dequeue(txn: &DatabaseTransaction, row: Uuid) -> Result<u64, DbErr> {
    let delete = sql(txn.get_database_backend(), "DELETE FROM outbox WHERE id = $1", [row.into()]);
    Ok(txn.execute_raw(delete).await?.rows_affected())
}

async fn enqueue(
    txn: &DatabaseTransaction,
    rows: &[StoredLetter],
    attempt: &str,
) -> Result<(), DeadLetterRepoError> {
    for row in rows {
        let backend = txn.get_database_backend();
        let event = [Uuid::new_v4().into(), row.original_event_id.into()];
        txn.execute_raw(sql(backend, "INSERT INTO outbox (id, event) VALUES ($1, $2)", event)).await?;
        note_enqueued(txn, row, attempt).await?;
    }
    Ok(())
}

/// The same, into the outbox that has an event once until it is delivered.
async fn enqueue_once(
    txn: &DatabaseTransaction,
    rows: &[StoredLetter],
    attempt: &str,
) -> Result<(), DeadLetterRepoError> {
    for row in rows {
        let insert = "INSERT INTO twin_outbox (event) VALUES ($1)";
        let insert = sql(txn.get_database_backend(), insert, [row.original_event_id.into()]);
        txn.execute_raw(insert).await.map_err(|error| match error.sql_err() {
            // It is there already.
            Some(SqlErr::UniqueConstraintViolation(_)) => DbErr::RecordNotUpdated,
            _ => error,
        })?;
        note_enqueued(txn, row, attempt).await?;
    }
    Ok(())
}

async fn note_enqueued(txn: &DatabaseTransaction, row: &StoredLetter, attempt: &str) -> Result<(), DbErr> {
    let note = [row.id.into_inner().into(), attempt.into()];
    let insert = "INSERT INTO enqueued (letter, attempt) VALUES ($1, $2)";
    txn.execute_raw(sql(txn.get_database_backend(), insert, note)).await.map(drop)
}
