//! The coalescing writer.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use dead_letters::{
    AppId, CoalescingDeadLetterRepo, DeadLetterId, DeadLetterRepo, DeadLetterRepoError, NewDeadLetter,
    SeaOrmDeadLetterRepo,
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, TransactionTrait};
use tokio::{runtime::Handle, task::JoinSet};

use super::{
    insert::{drop_silently, nested},
    letter, new_app,
};
use crate::database::{TestDb, ids};

on_every_backend! {
    concurrent_inserts_go_out_together_and_each_caller_gets_its_own_id,
    a_caller_who_is_alone_takes_one_statement,
    one_bad_letter_costs_one_caller,
    a_letter_that_the_database_drops_silently_costs_its_caller_alone,
    letters_of_any_depth_are_stored,
    if_a_batch_times_out_its_callers_do_not_wait_for_one_another,
    a_dropped_caller_loses_no_other_letter,
    more_callers_than_the_queue_has_room_for_are_all_served,
    a_shut_down_after_one_that_was_dropped_waits_for_the_workers,
    a_shut_down_returns_a_result_to_every_waiting_caller_and_later_inserts_go_straight,
    the_other_calls_pass_through,
}

type Coalescing = Arc<CoalescingDeadLetterRepo<SeaOrmDeadLetterRepo>>;

fn coalescing(repo: SeaOrmDeadLetterRepo) -> Coalescing {
    Arc::new(CoalescingDeadLetterRepo::new(repo, &Handle::current()))
}

type Inserts = JoinSet<(u32, Result<DeadLetterId, DeadLetterRepoError>)>;

fn insert_all(repo: &Coalescing, letters: impl IntoIterator<Item = NewDeadLetter>) -> Inserts {
    let mut inserts = JoinSet::new();
    for letter in letters {
        let repo = Arc::clone(repo);
        inserts.spawn(async move { (letter.attempt_count, repo.insert(letter).await) });
    }
    inserts
}

/// `attempt_count` tells them apart.
fn numbered(app: AppId, count: u32) -> impl Iterator<Item = NewDeadLetter> {
    (0..count).map(move |n| NewDeadLetter { attempt_count: n, ..letter(app) })
}

/// Nobody else may write while it lives.
pub(super) async fn hold_table(db: &TestDb) -> DatabaseTransaction {
    let txn = db.db.begin().await.unwrap();
    let sqlite = db.db.get_database_backend() == DbBackend::Sqlite;
    let hold = if sqlite { "DELETE FROM dead_letters WHERE 1 = 0" } else { "LOCK TABLE dead_letters" };
    txn.execute_unprepared(hold).await.unwrap();
    txn
}

async fn concurrent_inserts_go_out_together_and_each_caller_gets_its_own_id(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = coalescing(db.repo_over(recording));
    let app = new_app();
    for (number, id) in insert_all(&repo, numbered(app, 500)).join_all().await {
        let row = db.repo().get(id.unwrap()).await.unwrap().unwrap();
        assert_eq!(row.attempt_count, number);
    }
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 500);
    let statements = recorded.take().len();
    assert!(statements < 100, "{statements}");
}

async fn a_caller_who_is_alone_takes_one_statement(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = coalescing(db.repo_over(recording));
    for _ in 0..3 {
        repo.insert(letter(new_app())).await.unwrap();
        assert_eq!(recorded.take().len(), 1);
    }
}

async fn one_bad_letter_costs_one_caller(db: TestDb) {
    db.execute(if db.db.get_database_backend() == DbBackend::Sqlite {
        "CREATE TRIGGER refuse BEFORE INSERT ON dead_letters WHEN NEW.source = 'poison' \
         BEGIN SELECT RAISE(ABORT, 'refused'); END"
    } else {
        "ALTER TABLE dead_letters ADD CONSTRAINT refuse CHECK (source <> 'poison')"
    })
    .await;
    poison_costs_its_callers_alone(&db).await;
}

async fn a_letter_that_the_database_drops_silently_costs_its_caller_alone(db: TestDb) {
    drop_silently(&db, "poison").await;
    poison_costs_its_callers_alone(&db).await;
}

async fn poison_costs_its_callers_alone(db: &TestDb) {
    let repo = coalescing(db.repo());
    let app = new_app();
    let poison = |n: u32| if n % 50 == 7 { "poison" } else { "orders" };
    let letters = numbered(app, 200)
        .map(|letter| NewDeadLetter { source: poison(letter.attempt_count).into(), ..letter });
    for (number, outcome) in insert_all(&repo, letters).join_all().await {
        match outcome {
            Ok(_) => assert_eq!(poison(number), "orders"),
            Err(error) => {
                assert_eq!(poison(number), "poison");
                assert!(matches!(error, DeadLetterRepoError::Db(_)), "{error}");
            }
        }
    }
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 196);
}

async fn letters_of_any_depth_are_stored(db: TestDb) {
    let repo = coalescing(db.repo());
    let app = new_app();
    let letters = numbered(app, 40).map(|letter| match letter.attempt_count % 4 {
        0 => NewDeadLetter { payload: nested(100_000), ..letter },
        _ => letter,
    });
    for (number, outcome) in insert_all(&repo, letters).join_all().await {
        let row = db.repo().get(outcome.unwrap()).await.unwrap().unwrap();
        assert_eq!(row.payload.is_string(), number % 4 == 0);
    }
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 40);
}

async fn if_a_batch_times_out_its_callers_do_not_wait_for_one_another(db: TestDb) {
    let mut impatient = db
        .connect_with(|options| {
            options
                .max_connections(3)
                .statement_timeout(Duration::from_millis(200))
                .map_sqlx_sqlite_opts(|sqlite| sqlite.busy_timeout(Duration::from_millis(200)));
        })
        .await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    impatient.set_metric_callback(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let repo = coalescing(db.repo_over(impatient));
    let holder = hold_table(&db).await;
    for (_, outcome) in insert_all(&repo, numbered(new_app(), 64)).join_all().await {
        let error = outcome.unwrap_err();
        assert!(error.is_transient(), "{error}");
    }
    // Singly they would be 64, of 200 ms each.
    assert!(sent.load(Ordering::Relaxed) < 10, "{sent:?}");
    holder.rollback().await.unwrap();
    assert_eq!(db.row_count().await, 0);
}

async fn a_dropped_caller_loses_no_other_letter(db: TestDb) {
    let repo = coalescing(db.repo());
    let (dropped, kept) = (new_app(), new_app());
    let holder = hold_table(&db).await;
    let mut gone = insert_all(&repo, numbered(dropped, 20));
    let staying = insert_all(&repo, numbered(kept, 20));
    // Every caller has handed its letter over, or waits for the table.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gone.shutdown().await;
    holder.rollback().await.unwrap();
    for (_, outcome) in staying.join_all().await {
        outcome.unwrap();
    }
    assert_eq!(db.repo().unresolved_count(kept).await.unwrap(), 20);
    assert!(db.repo().unresolved_count(dropped).await.unwrap() <= 20);
}

async fn more_callers_than_the_queue_has_room_for_are_all_served(db: TestDb) {
    let repo = coalescing(db.repo());
    let app = new_app();
    let holder = hold_table(&db).await;
    let inserts = insert_all(&repo, numbered(app, 1_500));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    holder.rollback().await.unwrap();
    for (_, outcome) in inserts.join_all().await {
        outcome.unwrap();
    }
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 1_500);
}

async fn a_shut_down_after_one_that_was_dropped_waits_for_the_workers(db: TestDb) {
    let repo = coalescing(db.repo());
    let app = new_app();
    let holder = hold_table(&db).await;
    let inserts = insert_all(&repo, numbered(app, 20));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        let mut shut_down = pin!(repo.shut_down());
        let polled = poll_fn(|context| Poll::Ready(shut_down.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    }
    holder.rollback().await.unwrap();
    repo.shut_down().await;
    // The one that went straight may be on its way yet.
    assert!(db.repo().unresolved_count(app).await.unwrap() >= 19);
    for (_, outcome) in inserts.join_all().await {
        outcome.unwrap();
    }
}

/// A caller who waits has not handed its letter over: dropped, it stores none.
#[tokio::test]
async fn letters_of_more_than_64_mb_wait_outside_the_queue_on_sqlite() {
    let db = TestDb::sqlite().await;
    let repo = coalescing(db.repo());
    let holder = hold_table(&db).await;
    let large = numbered(new_app(), 24).map(|letter| NewDeadLetter { op: "x".repeat(4 << 20), ..letter });
    let mut inserts = insert_all(&repo, large);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    inserts.shutdown().await;
    holder.rollback().await.unwrap();
    repo.shut_down().await;
    // Each takes a little more than 4 MB, and one went straight.
    let stored = db.row_count().await;
    assert!((15..=16).contains(&stored), "{stored}");
    // The dropped inserts release their share of the buffer. A letter larger than the whole buffer is sent
    // alone.
    let repo = coalescing(db.repo());
    let sizes = [65, 4, 4, 65, 4];
    let large = numbered(new_app(), 5).zip(sizes);
    let large = large.map(|(letter, mb)| NewDeadLetter { op: "x".repeat(mb << 20), ..letter });
    for (_, outcome) in insert_all(&repo, large).join_all().await {
        outcome.unwrap();
    }
}

async fn a_shut_down_returns_a_result_to_every_waiting_caller_and_later_inserts_go_straight(db: TestDb) {
    let repo = coalescing(db.repo());
    let app = new_app();
    let inserts = insert_all(&repo, numbered(app, 300));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    repo.shut_down().await;
    let mut stored: Vec<_> = inserts.join_all().await.into_iter().map(|(_, id)| id.unwrap()).collect();
    stored.push(repo.insert(letter(app)).await.unwrap());
    stored.sort();
    let mut listed = ids(&db.repo().list_for_app(app, true, 1_000, 0).await.unwrap());
    listed.sort();
    assert_eq!(listed, stored);
    repo.shut_down().await;
}

async fn the_other_calls_pass_through(db: TestDb) {
    let repo: Arc<dyn DeadLetterRepo> = coalescing(db.repo());
    let app = new_app();
    let stored = repo.insert_many(numbered(app, 3).collect()).await.unwrap();
    assert_eq!(repo.get(stored[0]).await.unwrap(), db.repo().get(stored[0]).await.unwrap());
    repo.resolve(stored[0], "ignored").await.unwrap();
    assert_eq!(repo.unresolved_count(app).await.unwrap(), 2);
    assert_eq!(repo.list_for_app(app, false, 10, 0).await.unwrap().len(), 3);
    assert_eq!(repo.gc(chrono::Utc::now() + Duration::from_secs(60), 10).await.unwrap(), 3);
}

/// Tried again, letters of a batch that was under way might be stored twice.
#[tokio::test]
async fn if_the_connection_breaks_no_letter_is_stored_that_its_caller_was_refused_on_postgres() {
    let db = TestDb::postgres().await;
    let inserting = db
        .connect_with(|options| {
            options.set_application_name("coalescing").max_connections(3);
        })
        .await;
    let repo = coalescing(db.repo_over(inserting));
    let app = new_app();
    repo.insert(letter(app)).await.unwrap();
    let holder = hold_table(&db).await;
    let inserts = insert_all(&repo, numbered(app, 50));
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'coalescing' AND wait_event_type = 'Lock'";
    let waiting = sea_orm::Statement::from_string(DbBackend::Postgres, waiting);
    let count = async || -> i64 {
        db.db.query_one_raw(waiting.clone()).await.unwrap().unwrap().try_get_by_index(0).unwrap()
    };
    while count().await < 2 {
        tokio::task::yield_now().await;
    }
    db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'coalescing'",
    )
    .await;
    while count().await > 0 {
        tokio::task::yield_now().await;
    }
    holder.rollback().await.unwrap();
    // With the one from before.
    let mut stored = 1;
    for (_, outcome) in inserts.join_all().await {
        match outcome {
            Ok(_) => stored += 1,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), stored);
}
