//! A call whose future is dropped, at each of its round trips in turn. The connection that it leaves to the
//! pool must not swallow what comes next: sqlx can leave one inside a transaction that nobody knows of.

use std::{
    error::Error,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::{
    ActionRequest, AppId, Attribution, BacklogRequest, Buckets, CountRequest, DeadLetterAnnounce,
    DeadLetterDelete, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterReplay, DeadLetterRepo,
    DeadLetterRepoError, DeadLetterResolve, DeadLetterRetention, DeadLetterState, DeadLetterTransfer, Due,
    GroupRequest, NewDeadLetter, NewGroupRequest, PageRequest, PayloadSearch, RebuildRequest, ReopenRequest,
    ReplayRequest, Requeue, Resolution, SeaOrmDeadLetterRepo, StoredLetter, SweepScope, TimelineRequest,
    testing::{letter, new_error_group, stored_letter},
};
use sea_orm::{
    ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbErr, Statement, TransactionTrait,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use url::Url;
use uuid::Uuid;

use crate::{
    contract::{import::stored, retention::Nowhere},
    database::TestDb,
};

/// How far the round trip is at which the call is dropped.
#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    /// The database has not heard of it.
    Asked,
    /// A task that the call has spawned for it is at work. PostgreSQL's proxy holds that up as well, so there
    /// nothing is dropped here.
    UnderWay,
    /// The database has done it, and the call has not heard.
    Answered,
}

/// Runs each named case on a fresh database of every backend, or on one that is sharded: `$run` drops what
/// `$case` does.
macro_rules! dropped {
    ($run:ident, $where_sharded:ident: $($case:ident),+ $(,)?) => {
        mod $where_sharded {
            $(#[tokio::test]
            async fn $case() {
                super::$run(super::Pools::postgres_sharded().await, super::$case).await;
            })+
        }
    };
    ($run:ident, $on_sqlite:ident, $on_postgres:ident: $($case:ident),+ $(,)?) => {
        mod $on_sqlite {
            $(#[tokio::test]
            async fn $case() {
                super::$run(super::Pools::sqlite().await, super::$case).await;
            })+
        }
        mod $on_postgres {
            $(#[tokio::test]
            async fn $case() {
                super::$run(super::Pools::postgres().await, super::$case).await;
            })+
        }
    };
}

dropped! {
    after_a_dropped_call,
    no_insert_after_it_is_lost_on_sqlite,
    no_insert_after_it_is_lost_on_postgres:
    insert,
    insert_many,
    insert_many_in_several_statements,
    get,
    list_for_app,
    unresolved_count,
    resolve,
    gc,
    app_of,
    get_for_app,
    list,
    search_payloads,
    unresolved_counts,
    error_groups,
    export,
    summary,
    payload_text,
    replayed_payload_text,
    error_text,
    metadata,
    count,
    timeline,
    backlogs,
    apps,
    new_error_groups,
    unannounced_groups,
    announcement,
    sweep_announcements,
    times_replayed,
    actions,
    recent_apps,
    letters_version,
    sweep_actions,
    resolve_once,
    reopen_matching,
    resolve_matching,
    reopen,
    record_reveal,
    rebuild_signatures,
    sweep_of_one_app,
    sweep_of_all_apps,
    sweep_of_all_apps_but_some,
    sweep_into,
    sweep_of_all_apps_but_some_into,
    count_due,
    replay,
    replay_matching,
    delete_matching,
    erase,
    replay_by_a_replayer,
    replay_edited,
    replay_matching_by_a_replayer,
    replay_matching_in_parts,
    import,
    import_what_is_there,
    bury,
    begin,
    a_transaction_with_an_insert,
    a_nested_transaction_with_an_insert,
    a_nested_transaction_with_the_repos_commit,
}

// The calls that send other statements there.
dropped! {
    after_a_dropped_call,
    no_insert_after_it_is_lost_where_it_is_sharded:
    insert_many,
    resolve,
    resolve_once,
    resolve_matching,
    reopen,
    record_reveal,
    reopen_matching,
    delete_matching,
    erase,
    replay_edited,
    sweep_actions,
    gc,
    unresolved_counts,
    backlogs,
    apps,
    unannounced_groups,
    sweep_of_all_apps_but_some,
    sweep_into,
    sweep_of_all_apps_but_some_into,
    import,
    import_what_is_there,
}

dropped! {
    after_a_drop_in_a_transaction,
    its_commit_tells_whether_it_is_stored_on_sqlite,
    its_commit_tells_whether_it_is_stored_on_postgres:
    nested_begin,
    nested_transaction,
    nested_transaction_with_the_repos_commit,
    nested_insert,
    nested_insert_many,
    nested_insert_many_of_18_mb,
    nested_resolve_once,
    nested_resolve_matching,
    nested_reopen_matching,
    nested_import,
    nested_import_of_18_mb,
}

type Outcome = Result<(), DeadLetterRepoError>;

/// The state that a call may need. Its pool has one connection, so the next caller gets the connection that the
/// call left behind.
struct Given {
    db: DatabaseConnection,
    repo: SeaOrmDeadLetterRepo,
    app: AppId,
    open: DeadLetterId,
    resolved: DeadLetterId,
    event: Uuid,
}

async fn insert(given: &Given) -> Outcome {
    given.repo.insert(letter(given.app)).await.map(drop)
}

async fn insert_many(given: &Given) -> Outcome {
    given.repo.insert_many(vec![letter(given.app); 3]).await.map(drop)
}

async fn insert_many_in_several_statements(given: &Given) -> Outcome {
    let large = NewDeadLetter { payload: json!("x".repeat(6 << 20)), ..letter(given.app) };
    given.repo.insert_many(vec![large; 3]).await.map(drop)
}

async fn get(given: &Given) -> Outcome {
    given.repo.get(given.open).await.map(drop)
}

async fn list_for_app(given: &Given) -> Outcome {
    given.repo.list_for_app(given.app, true, 10, 0).await.map(drop)
}

async fn unresolved_count(given: &Given) -> Outcome {
    given.repo.unresolved_count(given.app).await.map(drop)
}

async fn resolve(given: &Given) -> Outcome {
    given.repo.resolve(given.open, "ignored").await
}

async fn gc(given: &Given) -> Outcome {
    given.repo.gc(DateTime::<Utc>::MIN_UTC, 1).await.map(drop)
}

async fn app_of(given: &Given) -> Outcome {
    given.repo.app_of(given.open).await.map(drop)
}

async fn get_for_app(given: &Given) -> Outcome {
    given.repo.get_for_app(given.app, given.open).await.map(drop)
}

async fn list(given: &Given) -> Outcome {
    given.repo.list(given.app, &all(), &PageRequest::default().size(10)).await.map(drop)
}

async fn search_payloads(given: &Given) -> Outcome {
    given.repo.search_payloads(given.app, &PayloadSearch::new("{").filter(all())).await.map(drop)
}

async fn unresolved_counts(given: &Given) -> Outcome {
    given.repo.unresolved_counts(&[given.app], None).await.map(drop)
}

async fn error_groups(given: &Given) -> Outcome {
    let request = GroupRequest::default().scan_limit(10).payload_contains("{");
    given.repo.error_groups(given.app, &all(), &request).await.map(drop)
}

async fn export(given: &Given) -> Outcome {
    let page = PageRequest::default().scan_limit(10);
    given.repo.export(given.app, &all(), &page).await.map(drop)
}

async fn summary(given: &Given) -> Outcome {
    given.repo.summary(given.app, given.open).await.map(drop)
}

async fn payload_text(given: &Given) -> Outcome {
    given.repo.payload_text(given.app, given.open, 0..10).await.map(drop)
}

async fn replayed_payload_text(given: &Given) -> Outcome {
    given.repo.replayed_payload_text(given.app, given.open, 0..10).await.map(drop)
}

async fn error_text(given: &Given) -> Outcome {
    given.repo.error_text(given.app, given.open, 0..10).await.map(drop)
}

async fn metadata(given: &Given) -> Outcome {
    given.repo.metadata(given.app, given.open).await.map(drop)
}

async fn count(given: &Given) -> Outcome {
    given.repo.count(given.app, &all(), &CountRequest::default().cap(10).scan_limit(10)).await.map(drop)
}

async fn timeline(given: &Given) -> Outcome {
    let request = Buckets::new(DateTime::UNIX_EPOCH..Utc::now(), 10);
    given.repo.timeline(given.app, &all(), &TimelineRequest::from(request).scan_limit(10)).await.map(drop)
}

async fn apps(given: &Given) -> Outcome {
    given.repo.apps(DeadLetterState::Any, None, 10).await.map(drop)
}

async fn backlogs(given: &Given) -> Outcome {
    given.repo.backlogs(&BacklogRequest::default().limit(10).cap(10)).await.map(drop)
}

async fn new_error_groups(given: &Given) -> Outcome {
    let request = NewGroupRequest::since(DateTime::UNIX_EPOCH).among([given.app]);
    given.repo.new_error_groups(&request).await.map(drop)
}

async fn unannounced_groups(given: &Given) -> Outcome {
    let request = NewGroupRequest::since(DateTime::UNIX_EPOCH).among([given.app]);
    given.repo.unannounced_groups(&request).await.map(drop)
}

async fn announcement(given: &Given) -> Outcome {
    if let Some(claim) = given.repo.claim_announcement(&new_error_group(given.app), Duration::ZERO).await? {
        given.repo.confirm_announcement(&claim).await?;
    }
    Ok(())
}

async fn sweep_announcements(given: &Given) -> Outcome {
    let max = DateTime::<Utc>::MAX_UTC;
    given.repo.sweep_announcements(max, max, 1).await.map(drop)
}

async fn times_replayed(given: &Given) -> Outcome {
    given.repo.times_replayed(given.app, &[given.event]).await.map(drop)
}

async fn actions(given: &Given) -> Outcome {
    given.repo.actions(given.app, &ActionRequest::default()).await.map(drop)
}

async fn recent_apps(given: &Given) -> Outcome {
    given.repo.recent_apps(DateTime::UNIX_EPOCH).await.map(drop)
}

async fn letters_version(given: &Given) -> Outcome {
    given.repo.letters_version(Some(given.app)).await.map(drop)
}

async fn sweep_actions(given: &Given) -> Outcome {
    given.repo.resolve_once(given.app, given.open, Resolution::Ignored, &first_batch()).await.ok();
    given.repo.sweep_actions(DateTime::<Utc>::MAX_UTC, None, 1).await.map(drop)
}

fn first_batch() -> Attribution {
    Attribution::default().run_id(Uuid::from_u128(1)).batch(0)
}

async fn resolve_once(given: &Given) -> Outcome {
    given.repo.resolve_once(given.app, given.open, Resolution::Ignored, &first_batch()).await.map(drop)
}

async fn resolve_matching(given: &Given) -> Outcome {
    given.repo.resolve_matching(given.app, &all(), Resolution::Ignored, &first_batch(), 10).await.map(drop)
}

async fn reopen_matching(given: &Given) -> Outcome {
    let request = ReopenRequest::default();
    given.repo.reopen_matching(given.app, &all_closed(), &first_batch(), &request).await.map(drop)
}

async fn reopen(given: &Given) -> Outcome {
    given.repo.reopen(given.app, given.resolved, &first_batch()).await
}

async fn record_reveal(given: &Given) -> Outcome {
    given.repo.record_reveal(given.app, given.open, &Attribution::by("ada")).await
}

async fn sweep_of_one_app(given: &Given) -> Outcome {
    given.repo.sweep(&SweepScope::App(given.app), long_closed(), None, 1).await.map(drop)
}

async fn sweep_of_all_apps(given: &Given) -> Outcome {
    given.repo.sweep(&SweepScope::AllApps, long_closed(), None, 1).await.map(drop)
}

async fn sweep_of_all_apps_but_some(given: &Given) -> Outcome {
    given.repo.sweep(&all_apps_but_one(), long_closed(), None, 1).await.map(drop)
}

async fn sweep_into(given: &Given) -> Outcome {
    given.repo.sweep_into(&SweepScope::App(given.app), long_closed(), None, 1, &Nowhere).await.map(drop)
}

async fn sweep_of_all_apps_but_some_into(given: &Given) -> Outcome {
    given.repo.sweep_into(&all_apps_but_one(), long_closed(), None, 1, &Nowhere).await.map(drop)
}

async fn count_due(given: &Given) -> Outcome {
    given.repo.count_due(&all_apps_but_one(), long_closed(), DeadLetterState::Any, 9).await.map(drop)
}

async fn replay(given: &Given) -> Outcome {
    let enqueue = async |txn: &DatabaseTransaction, _| Ok(enqueue(txn, Uuid::new_v4()).await?);
    given.repo.replay_with(given.app, given.open, &first_batch(), enqueue).await
}

async fn replay_matching(given: &Given) -> Outcome {
    let enqueue = async |txn: &DatabaseTransaction, _| Ok(enqueue(txn, Uuid::new_v4()).await?);
    given.repo.replay_matching_with(given.app, &all(), &first_batch(), 10, enqueue).await.map(drop)
}

struct Outbox;

#[async_trait]
impl Requeue for Outbox {
    async fn requeue(
        &self,
        txn: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        for _ in letters {
            enqueue(txn, Uuid::new_v4()).await?;
        }
        Ok(())
    }
}

async fn replay_by_a_replayer(given: &Given) -> Outcome {
    given.repo.replayer(Outbox).replay(given.app, given.open, &first_batch()).await.map(drop)
}

async fn replay_edited(given: &Given) -> Outcome {
    let replayer = given.repo.replayer(Outbox);
    replayer.replay_edited(given.app, given.open, "1", &first_batch()).await.map(drop)
}

async fn delete_matching(given: &Given) -> Outcome {
    given.repo.delete_matching(given.app, &all(), &first_batch(), 10).await.map(drop)
}

async fn erase(given: &Given) -> Outcome {
    given.repo.erase(given.app, &[given.open], &first_batch()).await.map(drop)
}

async fn replay_matching_by_a_replayer(given: &Given) -> Outcome {
    given
        .repo
        .replayer(Outbox)
        .replay_matching(given.app, &all(), &first_batch(), &ReplayRequest::default())
        .await
        .map(drop)
}

/// Puts each event back under its own id, which the outbox has once.
pub(super) struct KeyedOutbox;

#[async_trait]
impl Requeue for KeyedOutbox {
    async fn requeue(
        &self,
        txn: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        for letter in letters {
            enqueue(txn, letter.original_event_id).await?;
        }
        Ok(())
    }
}

async fn replay_matching_in_parts(given: &Given) -> Outcome {
    let back =
        StoredLetter { original_event_id: given.event, ..stored_letter(given.app, DateTime::UNIX_EPOCH) };
    given.repo.import(&[back, stored_letter(given.app, DateTime::UNIX_EPOCH)]).await?;
    replay_keyed(given).await
}

async fn replay_keyed(given: &Given) -> Outcome {
    let replayer = given.repo.replayer(KeyedOutbox);
    replayer.replay_matching(given.app, &all(), &first_batch(), &ReplayRequest::default()).await.map(drop)
}

async fn rebuild_signatures(given: &Given) -> Outcome {
    let stale = || StoredLetter { signature_version: 1, ..stored_letter(given.app, DateTime::UNIX_EPOCH) };
    given.repo.import(&[stale(), stale()]).await?;
    given.repo.rebuild_signatures(&RebuildRequest::default()).await.map(drop)
}

async fn import(given: &Given) -> Outcome {
    given.repo.import(&[stored(), stored()]).await.map(drop)
}

async fn import_what_is_there(given: &Given) -> Outcome {
    let there = StoredLetter { id: given.open, ..stored() };
    given.repo.import(&[there, stored()]).await.map(drop)
}

async fn bury(given: &Given) -> Outcome {
    let event = given.event;
    let letter = NewDeadLetter { original_event_id: event, ..letter(given.app) };
    given.repo.bury_with(letter, async |txn| Ok(dequeue(txn, event).await?)).await.map(drop)
}

async fn begin(given: &Given) -> Outcome {
    SeaOrmDeadLetterRepo::begin(&given.db).await.map(drop)
}

async fn a_transaction_with_an_insert(given: &Given) -> Outcome {
    let txn = SeaOrmDeadLetterRepo::begin(&given.db).await?;
    given.repo.in_transaction(&txn).insert(letter(given.app)).await?;
    SeaOrmDeadLetterRepo::commit(txn).await
}

async fn a_nested_transaction_with_an_insert(given: &Given) -> Outcome {
    let txn = SeaOrmDeadLetterRepo::begin(&given.db).await?;
    nested_transaction(given, &txn).await?;
    SeaOrmDeadLetterRepo::commit(txn).await
}

async fn a_nested_transaction_with_the_repos_commit(given: &Given) -> Outcome {
    let txn = SeaOrmDeadLetterRepo::begin(&given.db).await?;
    nested_transaction_with_the_repos_commit(given, &txn).await?;
    SeaOrmDeadLetterRepo::commit(txn).await
}

async fn nested_begin(_: &Given, txn: &DatabaseTransaction) -> Outcome {
    txn.begin().await?;
    Ok(())
}

async fn nested_transaction(given: &Given, txn: &DatabaseTransaction) -> Outcome {
    let nested = txn.begin().await?;
    given.repo.in_transaction(&nested).insert(letter(given.app)).await?;
    Ok(nested.commit().await?)
}

async fn nested_transaction_with_the_repos_commit(given: &Given, txn: &DatabaseTransaction) -> Outcome {
    let nested = txn.begin().await?;
    given.repo.in_transaction(&nested).insert(letter(given.app)).await?;
    SeaOrmDeadLetterRepo::commit(nested).await
}

async fn nested_insert(given: &Given, txn: &DatabaseTransaction) -> Outcome {
    given.repo.in_transaction(txn).insert(letter(given.app)).await.map(drop)
}

async fn nested_insert_many(given: &Given, txn: &DatabaseTransaction) -> Outcome {
    given.repo.in_transaction(txn).insert_many(vec![letter(given.app); 3]).await.map(drop)
}

async fn nested_insert_many_of_18_mb(given: &Given, txn: &DatabaseTransaction) -> Outcome {
    let large = NewDeadLetter { op: "x".repeat(6 << 20), ..letter(given.app) };
    given.repo.in_transaction(txn).insert_many(vec![large; 3]).await.map(drop)
}

async fn nested_resolve_once(given: &Given, txn: &DatabaseTransaction) -> Outcome {
    given
        .repo
        .in_transaction(txn)
        .resolve_once(given.app, given.open, Resolution::Ignored, &first_batch())
        .await
        .map(drop)
}

async fn nested_resolve_matching(given: &Given, txn: &DatabaseTransaction) -> Outcome {
    given
        .repo
        .in_transaction(txn)
        .resolve_matching(given.app, &all(), Resolution::Ignored, &first_batch(), 10)
        .await
        .map(drop)
}

async fn nested_reopen_matching(given: &Given, txn: &DatabaseTransaction) -> Outcome {
    let (repo, request) = (given.repo.in_transaction(txn), ReopenRequest::default());
    repo.reopen_matching(given.app, &all_closed(), &first_batch(), &request).await.map(drop)
}

async fn nested_import(given: &Given, txn: &DatabaseTransaction) -> Outcome {
    let there = StoredLetter { id: given.open, ..stored() };
    given.repo.in_transaction(txn).import(&[there, stored()]).await.map(drop)
}

async fn nested_import_of_18_mb(given: &Given, txn: &DatabaseTransaction) -> Outcome {
    let large = || StoredLetter { op: "x".repeat(6 << 20), ..stored() };
    let there = StoredLetter { id: given.open, ..large() };
    given.repo.in_transaction(txn).import(&[there, large(), large(), large()]).await.map(drop)
}

fn all_closed() -> DeadLetterFilter {
    DeadLetterFilter::default().resolved_before(DateTime::<Utc>::MAX_UTC)
}

fn all() -> DeadLetterFilter {
    DeadLetterFilter::default().state(DeadLetterState::Any).created_before(DateTime::<Utc>::MAX_UTC)
}

fn long_closed() -> Due {
    Due::ClosedBefore(Utc::now())
}

fn all_apps_but_one() -> SweepScope {
    SweepScope::AllAppsBut { excepted: vec![Uuid::new_v4().into()] }
}

fn outbox(db: &impl ConnectionTrait, text: &str, event: Uuid) -> Statement {
    Statement::from_sql_and_values(db.get_database_backend(), text, [event.into()])
}

pub(super) async fn enqueue(db: &impl ConnectionTrait, event: Uuid) -> Result<(), DbErr> {
    db.execute_raw(outbox(db, "INSERT INTO outbox VALUES ($1)", event)).await.map(drop)
}

pub(super) async fn dequeue(db: &impl ConnectionTrait, event: Uuid) -> Result<u64, DbErr> {
    Ok(db.execute_raw(outbox(db, "DELETE FROM outbox WHERE id = $1", event)).await?.rows_affected())
}

/// Drops each change over a pool at any of its round trips, and in a caller's transaction that is then committed. Returns,
/// of each transaction, whether the letter was changed, and how many rows the history has of that.
async fn changes_that_are_dropped(pools: &Pools, in_a_transaction: bool) -> Vec<(bool, usize)> {
    let mut seen = Vec::new();
    for call in 0..4 {
        for when in [When::Asked, When::UnderWay, When::Answered] {
            for nth in 1.. {
                let given = pools.given().await;
                let make = async |db: &dyn DeadLetterResolve| match call {
                    0 => resolve_once_over(db, &given).await,
                    1 => resolve_matching_over(db, &given).await,
                    2 => db.reopen(given.app, given.resolved, &first_batch()).await,
                    _ => reopen_matching_over(db, &given).await,
                };
                let outcome = if in_a_transaction {
                    let txn = SeaOrmDeadLetterRepo::begin(&given.db).await.unwrap();
                    let repo = given.repo.in_transaction(&txn);
                    let outcome = pools.drop_at(nth, when, make(&repo)).await;
                    SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
                    outcome
                } else {
                    pools.drop_at(nth, when, make(&given.repo)).await
                };
                // The next caller waits until the dropped call has ended.
                pools.store_20_letters(&given, &format!("{when:?}, {nth}")).await;
                let direct = pools.direct.repo();
                let is_open = async |id| direct.summary(given.app, id).await.unwrap().unwrap().is_open();
                let changed = !is_open(given.open).await || is_open(given.resolved).await;
                let rows = direct.actions(given.app, &ActionRequest::default()).await.unwrap().len();
                seen.push((changed, rows));
                if let Some(outcome) = outcome {
                    outcome.unwrap();
                    assert_eq!((changed, rows), (true, 1));
                    break;
                }
            }
        }
    }
    seen
}

async fn resolve_once_over(db: &dyn DeadLetterResolve, given: &Given) -> Outcome {
    db.resolve_once(given.app, given.open, Resolution::Ignored, &first_batch()).await.map(drop)
}

async fn resolve_matching_over(db: &dyn DeadLetterResolve, given: &Given) -> Outcome {
    db.resolve_matching(given.app, &all(), Resolution::Ignored, &first_batch(), 10).await.map(drop)
}

async fn reopen_matching_over(db: &dyn DeadLetterResolve, given: &Given) -> Outcome {
    let (nobody, request) = (Attribution::default(), ReopenRequest::default());
    db.reopen_matching(given.app, &all_closed(), &nobody, &request).await.map(drop)
}

/// Where a change is two statements, a caller's transaction may have the change alone, and never the row alone.
async fn a_change_that_is_dropped_has_its_row(pools: Pools, statements_in_a_transaction: usize) {
    let whole = [(false, 0), (true, 1)];
    let seen = changes_that_are_dropped(&pools, false).await;
    assert!(seen.iter().all(|seen| whole.contains(seen)), "{seen:?}");
    let seen = changes_that_are_dropped(&pools, true).await;
    let halves = seen.iter().filter(|seen| !whole.contains(seen));
    assert!(halves.clone().all(|half| *half == (true, 0)), "{seen:?}");
    assert_eq!(halves.count() > 0, statements_in_a_transaction > 1, "{seen:?}");
}

#[tokio::test]
async fn a_change_that_is_dropped_has_its_row_on_postgres() {
    a_change_that_is_dropped_has_its_row(Pools::postgres().await, 1).await;
}

#[tokio::test]
async fn a_change_that_is_dropped_has_its_row_over_a_pool_where_it_is_sharded() {
    a_change_that_is_dropped_has_its_row(Pools::postgres_sharded().await, 2).await;
}

#[tokio::test]
async fn a_change_that_is_dropped_has_its_row_over_a_pool_on_sqlite() {
    a_change_that_is_dropped_has_its_row(Pools::sqlite().await, 2).await;
}

/// At any of its round trips: each letter is replayed and its event is back, or neither.
async fn a_replay_that_is_dropped_leaves_whole_parts(pools: Pools) {
    for when in [When::Asked, When::UnderWay, When::Answered] {
        for nth in 1.. {
            let given = pools.given().await;
            let letters = [1, 2, 3, 4].map(|_| stored_letter(given.app, DateTime::UNIX_EPOCH));
            pools.direct.repo().import(&letters).await.unwrap();
            enqueue(&pools.direct.db, letters[1].original_event_id).await.unwrap();
            let outcome = pools.drop_at(nth, when, replay_keyed(&given)).await;
            pools.store_20_letters(&given, &format!("{when:?}, {nth}")).await;
            let torn = "SELECT count(*) FROM dead_letters WHERE app_id = $1 AND id <> $2
                AND (coalesce(resolution, '') = 'replayed') <> (original_event_id IN (SELECT id FROM outbox))";
            let backend = pools.direct.db.get_database_backend();
            let values = [given.app.into_inner().into(), letters[1].id.into_inner().into()];
            let torn = Statement::from_sql_and_values(backend, torn, values);
            let torn = pools.direct.db.query_one_raw(torn).await.unwrap().unwrap();
            assert_eq!(torn.try_get_by_index::<i64>(0).unwrap(), 0, "{when:?}, {nth}");
            if let Some(outcome) = outcome {
                outcome.unwrap();
                assert!(nth > 10 || when == When::UnderWay, "it had no parts");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_replay_that_is_dropped_leaves_whole_parts_on_sqlite() {
    a_replay_that_is_dropped_leaves_whole_parts(Pools::sqlite().await).await;
}

#[tokio::test]
async fn a_replay_that_is_dropped_leaves_whole_parts_on_postgres() {
    a_replay_that_is_dropped_leaves_whole_parts(Pools::postgres().await).await;
}

/// Whether the server has done it, and the answer is lost, or it has not: the outbox's row decides.
#[tokio::test]
async fn a_burial_whose_connection_breaks_at_any_round_trip_is_done_once_on_postgres() {
    let pools = Pools::postgres().await;
    let gate = &pools.proxy.as_ref().unwrap().gate;
    for when in [When::Asked, When::Answered] {
        for nth in 1.. {
            let given = pools.given().await;
            gate.hold(nth, when);
            let mut burial = pin!(bury(&given));
            let whole = tokio::select! {
                buried = &mut burial => Some(buried),
                () = gate.holding() => None,
            };
            gate.cut().await;
            let is_last = whole.is_some();
            match whole {
                Some(buried) => buried.unwrap(),
                None => burial.await.unwrap(),
            }
            let stored = letters_of_event(&pools, &given).await.len();
            let left = dequeue(&pools.direct.db, given.event).await.unwrap();
            assert_eq!((stored, left), (1, 0), "{when:?}, {nth}");
            given.db.close_by_ref().await.unwrap();
            if is_last {
                break;
            }
            assert!(pools.proxy.as_ref().unwrap().connections() >= 2, "{when:?}, {nth}: nothing was cut");
        }
    }
}

/// At every round trip of the commit.
#[tokio::test]
async fn a_commit_of_a_transaction_that_only_read_takes_no_transaction_id_on_postgres() {
    let pools = Pools::postgres().await;
    let gate = &pools.proxy.as_ref().unwrap().gate;
    let with_an_id = "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xid IS NOT NULL";
    let with_an_id = Statement::from_string(pools.direct.db.get_database_backend(), with_an_id);
    for nth in 1.. {
        let given = pools.given().await;
        let txn = SeaOrmDeadLetterRepo::begin(&given.db).await.unwrap();
        given.repo.in_transaction(&txn).unresolved_count(given.app).await.unwrap();
        gate.hold(nth, When::Asked);
        let mut commit = pin!(SeaOrmDeadLetterRepo::commit(txn));
        let whole = tokio::select! {
            committed = &mut commit => Some(committed),
            () = gate.holding() => None,
        };
        let row = pools.direct.db.query_one_raw(with_an_id.clone()).await.unwrap().unwrap();
        assert_eq!(row.try_get_by_index::<i64>(0).unwrap(), 0, "{nth}");
        gate.open();
        let is_last = whole.is_some();
        match whole {
            Some(committed) => committed.unwrap(),
            None => commit.await.unwrap(),
        }
        given.db.close_by_ref().await.unwrap();
        if is_last {
            assert!(nth > 2, "it asks before it commits");
            break;
        }
    }
}

/// At any of its round trips: those that were there are on one page each, and no page has more than it was asked for.
#[tokio::test]
async fn letters_that_come_between_the_round_trips_of_an_export_push_no_other_out_of_it_on_postgres() {
    let pools = Pools::postgres().await;
    let gate = &pools.proxy.as_ref().unwrap().gate;
    for nth in 1.. {
        let given = pools.given().await;
        let old = |minutes| stored_letter(given.app, Utc::now() - TimeDelta::minutes(minutes));
        let there = [50, 40, 30, 20, 10].map(old);
        pools.direct.repo().import(&there).await.unwrap();
        let filter = all().source(there[0].source.clone());
        let page = PageRequest::default().size(2).scan_limit(10);
        gate.hold(nth, When::Asked);
        let mut first = pin!(given.repo.export(given.app, &filter, &page));
        let whole = tokio::select! {
            page = &mut first => Some(page),
            () = gate.holding() => None,
        };
        pools.direct.repo().import(&[15, 14, 13].map(old)).await.unwrap();
        gate.open();
        let is_last = whole.is_some();
        let mut found = match whole {
            Some(page) => page.unwrap(),
            None => first.await.unwrap(),
        };
        let mut exported = Vec::new();
        loop {
            assert!(found.items.len() <= 2, "{nth}: {found:?}");
            exported.extend(found.items.iter().map(|letter| letter.id));
            if found.next.is_none() {
                break;
            }
            let page = page.clone().after(found.next);
            found = given.repo.export(given.app, &filter, &page).await.unwrap();
        }
        for letter in &there {
            assert_eq!(exported.iter().filter(|id| **id == letter.id).count(), 1, "{nth}: {exported:?}");
        }
        given.db.close_by_ref().await.unwrap();
        if is_last {
            assert!(
                nth > 3,
                "it has a round trip for the scan's end, one for the sizes, and one for the rows"
            );
            break;
        }
    }
}

/// The new row of the outbox is another life of the event's, for the dispatcher that takes it next.
#[tokio::test]
async fn a_burial_that_went_unanswered_and_was_replayed_meanwhile_leaves_the_replayed_event_on_postgres() {
    let pools = Pools::postgres().await;
    let gate = &pools.proxy.as_ref().unwrap().gate;
    let given = pools.given().await;
    let (burial, letter) = paused_at_its_commit(&pools, &given).await;
    let direct = pools.direct.repo();
    let requeue = async |txn: &DatabaseTransaction, _| Ok(enqueue(txn, given.event).await?);
    direct
        .replay_with::<_, _, DeadLetterRepoError>(given.app, letter, &Attribution::default(), requeue)
        .await
        .unwrap();
    gate.cut().await;
    burial.await.unwrap();
    let row = direct.get(letter).await.unwrap().unwrap();
    assert_eq!(row.resolution, Some(Resolution::Replayed));
    assert_eq!(dequeue(&pools.direct.db, given.event).await.unwrap(), 1);
}

/// The outbox's row is gone, which is how the dispatcher knows.
#[tokio::test]
async fn a_burial_that_went_unanswered_and_finds_no_server_any_more_fails_and_called_again_buries_nothing_on_postgres()
 {
    let pools = Pools::postgres().await;
    let gate = &pools.proxy.as_ref().unwrap().gate;
    let given = pools.given().await;
    let (mut burial, letter) = paused_at_its_commit(&pools, &given).await;
    let lost = loop {
        gate.cut_and_hold(1, When::Asked).await;
        tokio::select! {
            outcome = &mut burial => break outcome.unwrap_err(),
            () = gate.holding() => {}
        }
    };
    assert!(lost.is_transient(), "{lost}");
    gate.cut().await;
    assert_eq!(letters_of_event(&pools, &given).await, [letter]);

    let again = bury(&given).await.unwrap_err();
    assert!(matches!(again, DeadLetterRepoError::EventNotTaken { taken: 0 }), "{again}");
    assert_eq!(letters_of_event(&pools, &given).await, [letter]);
    assert_eq!(dequeue(&pools.direct.db, given.event).await.unwrap(), 0);
}

/// A burial that has committed, and does not hear of it while the gate holds; and its letter.
async fn paused_at_its_commit<'a>(
    pools: &Pools,
    given: &'a Given,
) -> (Pin<Box<dyn Future<Output = Outcome> + 'a>>, DeadLetterId) {
    let gate = &pools.proxy.as_ref().unwrap().gate;
    for nth in 1.. {
        gate.hold(nth, When::Answered);
        let mut burial: Pin<Box<dyn Future<Output = Outcome> + 'a>> = Box::pin(bury(given));
        tokio::select! {
            _ = &mut burial => panic!("its commit was never held"),
            () = gate.holding() => {}
        }
        if let [letter] = letters_of_event(pools, given).await[..] {
            return (burial, letter);
        }
        gate.cut().await;
    }
    unreachable!()
}

async fn letters_of_event(pools: &Pools, given: &Given) -> Vec<DeadLetterId> {
    let filter = all().original_event_id(given.event);
    let page = PageRequest::default().size(10);
    let stored = pools.direct.repo().list(given.app, &filter, &page).await.unwrap().items;
    stored.into_iter().map(|letter| letter.id).collect()
}

/// Drops the call at its first round trip, at its second, and so on, until it ends before that; each time 20
/// inserts follow on the connection that it used.
async fn after_a_dropped_call(pools: Pools, call: impl AsyncFn(&Given) -> Outcome) {
    for when in [When::Asked, When::UnderWay, When::Answered] {
        for nth in 1.. {
            let given = pools.given().await;
            let outcome = pools.drop_at(nth, when, call(&given)).await;
            pools.store_20_letters(&given, &format!("{when:?}, {nth}")).await;
            if let Some(outcome) = outcome {
                outcome.unwrap();
                break;
            }
        }
    }
}

/// The same in a caller's transaction that has a letter already, and goes on. The letters that the call itself
/// stores are stored as a whole.
async fn after_a_drop_in_a_transaction(
    pools: Pools,
    call: impl AsyncFn(&Given, &DatabaseTransaction) -> Outcome,
) {
    let mut parts_stored = Vec::new();
    let mut whole = 0;
    for when in [When::Asked, When::UnderWay, When::Answered] {
        for nth in 1.. {
            let given = pools.given().await;
            let before = pools.direct.row_count().await;
            let txn = SeaOrmDeadLetterRepo::begin(&given.db).await.unwrap();
            let id = given.repo.in_transaction(&txn).insert(letter(given.app)).await.unwrap();
            let outcome = pools.drop_at(nth, when, call(&given, &txn)).await;
            let committed = SeaOrmDeadLetterRepo::commit(txn).await;
            let stored = pools.direct.repo().get(id).await.unwrap().is_some();
            assert_eq!(committed.is_ok(), stored, "{when:?}, {nth}: {committed:?}");
            let of_call = pools.direct.row_count().await - before - u64::from(stored);
            pools.store_20_letters(&given, &format!("{when:?}, {nth}")).await;
            if let Some(outcome) = outcome {
                outcome.and(committed).unwrap();
                whole = of_call;
                break;
            }
            parts_stored.push(of_call);
        }
    }
    assert!(parts_stored.iter().all(|&part| part == 0 || part == whole), "{parts_stored:?} of {whole}");
}

/// A database, and a way to it on which a call can be dropped where that is wanted.
struct Pools {
    direct: TestDb,
    /// PostgreSQL alone: SQLite is no conversation, there polls are counted.
    proxy: Option<Proxy>,
}

impl Pools {
    async fn sqlite() -> Self {
        Self::over(TestDb::sqlite().await, None).await
    }

    async fn postgres() -> Self {
        Self::behind_a_proxy(TestDb::postgres().await).await
    }

    async fn postgres_sharded() -> Self {
        Self::behind_a_proxy(TestDb::postgres_sharded().await).await
    }

    async fn behind_a_proxy(direct: TestDb) -> Self {
        let proxy = Proxy::to(direct.url()).await;
        Self::over(direct, Some(proxy)).await
    }

    async fn over(direct: TestDb, proxy: Option<Proxy>) -> Self {
        let id = if proxy.is_some() { "uuid" } else { "blob" };
        direct.execute(&format!("CREATE TABLE outbox (id {id} PRIMARY KEY)")).await;
        Self { direct, proxy }
    }

    /// A pool whose connection is open and has prepared nothing yet: so a call makes all its round trips.
    async fn given(&self) -> Given {
        let app = AppId::from(Uuid::new_v4());
        let open = self.direct.repo().insert(letter(app)).await.unwrap();
        let resolved = self.direct.repo().insert(letter(app)).await.unwrap();
        self.direct.repo().resolve(resolved, "ignored").await.unwrap();
        let event = Uuid::new_v4();
        enqueue(&self.direct.db, event).await.unwrap();
        let url = self.proxy.as_ref().map_or(self.direct.url(), |proxy| proxy.url.as_str());
        let mut options = dead_letters::connect_options(url);
        options.max_connections(1);
        let db = Database::connect(options).await.unwrap();
        Given { repo: self.direct.repo_over(db.clone()), db, app, open, resolved, event }
    }

    /// `None` where the call was dropped at its `nth` round trip, its outcome where it made fewer. In SQLite
    /// a worker that is quick enough leaves a poll less to drop it at.
    async fn drop_at<T>(&self, nth: usize, when: When, call: impl Future<Output = T>) -> Option<T> {
        let Some(proxy) = &self.proxy else { return drop_at_poll(nth, when, call).await };
        proxy.gate.hold(nth, when);
        let outcome = tokio::select! {
            outcome = call => Some(outcome),
            () = proxy.gate.holding() => None,
        };
        proxy.gate.open();
        outcome
    }

    async fn store_20_letters(&self, given: &Given, after: &str) {
        let mut acknowledged = Vec::new();
        for _ in 0..20 {
            acknowledged.push(given.repo.insert(letter(given.app)).await.unwrap());
        }
        let page = PageRequest::default().size(500);
        let stored = self.direct.repo().list(given.app, &all(), &page).await.unwrap().items;
        let lost = acknowledged.iter().filter(|&&id| stored.iter().all(|row| row.id != id)).count();
        assert_eq!(lost, 0, "dropped at {after}: inserts answered Ok and stored nothing");
        given.db.close_by_ref().await.unwrap();
    }
}

/// Each poll that is pending has sent the worker one thing; the next one would hear of it.
async fn drop_at_poll<T>(nth: usize, when: When, call: impl Future<Output = T>) -> Option<T> {
    let mut call = pin!(call);
    let mut polls = 0;
    poll_fn(|context| {
        if polls == nth {
            return Poll::Ready(None);
        }
        let polled = call.as_mut().poll(context).map(Some);
        polls += 1;
        if polled.is_ready() || polls < nth {
            return polled;
        }
        match when {
            When::Asked => return Poll::Ready(None),
            When::UnderWay => context.waker().wake_by_ref(),
            When::Answered => {}
        }
        Poll::Pending
    })
    .await
}

/// Between a pool and PostgreSQL.
struct Proxy {
    url: Url,
    gate: Gate,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    async fn to(server: &str) -> Self {
        let mut url = Url::parse(server).unwrap();
        let address = (url.host_str().unwrap().to_owned(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        // The proxy cannot count the messages of an encrypted connection.
        url.query_pairs_mut().append_pair("sslmode", "disable");
        let gate = Gate { traffic: watch::Sender::new(Traffic::Flows), cuts: watch::Sender::new(()) };
        let connections = Arc::new(AtomicUsize::new(0));
        let (of_pumps, accepted) = (gate.clone(), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                let server = TcpStream::connect(&address).await.unwrap();
                tokio::spawn(pump_both(client, server, of_pumps.clone()));
            }
        });
        Self { url, gate, connections }
    }

    /// How many there were since the last call.
    fn connections(&self) -> usize {
        self.connections.swap(0, Ordering::Relaxed)
    }
}

async fn pump_both(client: TcpStream, server: TcpStream, gate: Gate) {
    for socket in [&client, &server] {
        socket.set_nodelay(true).unwrap();
    }
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    // The first message alone has no type.
    let mut start = [0; 4];
    if from_client.read_exact(&mut start).await.is_err() {
        return;
    }
    let mut parameters = vec![0; u32::from_be_bytes(start) as usize - start.len()];
    from_client.read_exact(&mut parameters).await.unwrap();
    to_server.write_all(&[start.as_slice(), &parameters].concat()).await.unwrap();
    let mut cuts = gate.cuts.subscribe();
    // Whichever side hangs up, both are done.
    tokio::select! {
        _ = cuts.changed() => {}
        // Sync and Query: what the server answers with a ReadyForQuery.
        _ = pump(from_client, to_server, b"SQ", When::Asked, &gate) => {}
        _ = pump(from_server, to_client, b"Z", When::Answered, &gate) => {}
    }
}

/// Passes on message by message; those that end with one of the types `counted` are round trips.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    counted: &[u8],
    side: When,
    gate: &Gate,
) -> std::io::Result<()> {
    loop {
        let mut message = vec![0; 5];
        from.read_exact(&mut message).await?;
        let &[kind, a, b, c, d] = message.as_slice() else { unreachable!() };
        message.resize(1 + u32::from_be_bytes([a, b, c, d]) as usize, 0);
        from.read_exact(&mut message[5..]).await?;
        gate.pass(side, counted.contains(&kind)).await;
        to.write_all(&message).await?;
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Traffic {
    Flows,
    /// Until this many round trips have come so far.
    FlowsFor(usize, When),
    Held,
}

#[derive(Clone)]
struct Gate {
    traffic: watch::Sender<Traffic>,
    /// Every connection that is open at one ends.
    cuts: watch::Sender<()>,
}

impl Gate {
    fn hold(&self, nth: usize, when: When) {
        self.traffic.send_replace(Traffic::FlowsFor(nth, when));
    }

    async fn holding(&self) {
        self.traffic.subscribe().wait_for(|traffic| *traffic == Traffic::Held).await.unwrap();
    }

    fn open(&self) {
        self.traffic.send_replace(Traffic::Flows);
    }

    /// Opens when every connection has ended. The messages that the proxy kept back are lost.
    async fn cut(&self) {
        self.end_connections().await;
        self.open();
    }

    /// The same, but holds what comes next.
    async fn cut_and_hold(&self, nth: usize, when: When) {
        self.end_connections().await;
        self.hold(nth, when);
    }

    async fn end_connections(&self) {
        self.cuts.send_replace(());
        self.cuts.closed().await;
    }

    async fn pass(&self, side: When, counted: bool) {
        if counted {
            self.traffic.send_if_modified(|traffic| match *traffic {
                Traffic::FlowsFor(left, when) if when == side => {
                    *traffic = if left == 1 { Traffic::Held } else { Traffic::FlowsFor(left - 1, when) };
                    true
                }
                _ => false,
            });
        }
        self.traffic.subscribe().wait_for(|traffic| *traffic != Traffic::Held).await.unwrap();
    }
}
