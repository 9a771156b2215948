//! A server that is killed while dispatchers work.

use std::{collections::HashSet, process::Command, sync::Arc};

use dead_letters::{AppId, DeadLetterId, DeadLetterRepo, NewDeadLetter, SeaOrmDeadLetterRepo, testing};
use dead_letters_migration::Migrator;
use dead_letters_test_support::Server;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, Statement};
use sea_orm_migration::MigratorTrait;
use tokio::{sync::Mutex, task::JoinSet};
use uuid::Uuid;

const TASKS: u32 = 8;
const ROUNDS: usize = 6;
/// Letters that must be acknowledged before the next kill.
const PER_ROUND: usize = 1_700;

fn letter(app_id: AppId, event: Uuid) -> NewDeadLetter {
    NewDeadLetter { original_event_id: event, ..testing::letter(app_id) }
}

fn sql(text: &str, values: impl IntoIterator<Item = sea_orm::Value>) -> Statement {
    Statement::from_sql_and_values(DbBackend::Postgres, text, values)
}

/// Takes events of its own part from the outbox to the store, whatever happens to the server, and notes what
/// was acknowledged.
async fn dispatch(
    db: DatabaseConnection,
    app_id: AppId,
    part: i64,
    acknowledged: Arc<Mutex<Vec<DeadLetterId>>>,
) {
    let repo = SeaOrmDeadLetterRepo::new(db.clone());
    loop {
        let bury_next = async || {
            let next = "SELECT id FROM outbox WHERE part = $1 LIMIT 1";
            let Some(event) = db.query_one_raw(sql(next, [part.into()])).await? else { return Ok(None) };
            let event: Uuid = event.try_get_by_index(0)?;
            let delete = async |txn: &DatabaseTransaction| {
                let delete = sql("DELETE FROM outbox WHERE id = $1", [event.into()]);
                Ok(txn.execute_raw(delete).await?.rows_affected())
            };
            repo.bury_with(letter(app_id, event), delete).await.map(Some)
        };
        match bury_next().await {
            Ok(Some(id)) => acknowledged.lock().await.push(id),
            Ok(None) => return,
            // The call may or may not have committed. The outbox shows which.
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
}

async fn count(db: &DatabaseConnection, query: &str) -> i64 {
    db.query_one_raw(sql(query, [])).await.unwrap().unwrap().try_get_by_index(0).unwrap()
}

/// kill -9 of one of the server's processes, which makes it recover from its log.
async fn kill_a_backend(db: &DatabaseConnection) {
    let victim = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1";
    if let Ok(Some(row)) = db.query_one_raw(sql(victim, [])).await {
        let pid: i32 = row.try_get_by_index(0).unwrap();
        Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_letter_survives_a_killed_server_and_no_event_is_doubled_or_lost() {
    let mut server = Server::start().unwrap();
    let options = dead_letters::connect_options(server.url().as_str());
    let db = Database::connect(options).await.unwrap();
    Migrator::up(&db, None).await.unwrap();
    let events = (ROUNDS + 1) * PER_ROUND;
    db.execute_unprepared(
        "CREATE TABLE outbox (id uuid PRIMARY KEY, part bigint NOT NULL); CREATE INDEX ON outbox (part)",
    )
    .await
    .unwrap();
    let fill = "INSERT INTO outbox SELECT gen_random_uuid(), n % $1 FROM generate_series(1, $2) n";
    db.execute_raw(sql(fill, [i64::from(TASKS).into(), (events as i64).into()])).await.unwrap();

    let app_id = AppId::from(Uuid::new_v4());
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let mut dispatchers = JoinSet::new();
    for part in 0..TASKS {
        dispatchers.spawn(dispatch(db.clone(), app_id, part.into(), acknowledged.clone()));
    }
    for round in 1..=ROUNDS {
        while acknowledged.lock().await.len() < round * PER_ROUND && !dispatchers.is_empty() {
            tokio::task::yield_now().await;
            assert!(dispatchers.try_join_next().is_none_or(|ended| ended.is_ok()));
        }
        if round % 2 == 0 {
            kill_a_backend(&db).await;
        } else {
            server.kill_and_restart().unwrap();
        }
    }
    while let Some(ended) = dispatchers.join_next().await {
        ended.unwrap();
    }

    let acknowledged = acknowledged.lock().await;
    assert!(acknowledged.len() >= 10_000, "{}", acknowledged.len());
    let rows = SeaOrmDeadLetterRepo::new(db.clone()).list_for_app(app_id, true, i64::MAX, 0).await.unwrap();
    let stored: HashSet<_> = rows.iter().map(|row| row.id).collect();
    assert!(acknowledged.iter().all(|id| stored.contains(id)));
    let stored_events: HashSet<_> = rows.iter().map(|row| row.original_event_id).collect();
    assert_eq!((rows.len(), stored_events.len()), (events, events));
    assert_eq!(count(&db, "SELECT count(*) FROM outbox").await, 0);
}
