//! Operators who act on the same letters at the same time, compared with a ledger of what they were told.
//!
//! ```sh
//! cargo run --release -p dead-letters-admin --example load -- --seconds 3600
//! ```
//!
//! Clients resolve, reopen, replay, reveal and run previews, hang up, and send requests that are refused.
//! Meanwhile, on PostgreSQL, the backends of their connections are ended. Each event is put back as often as a
//! replay was acknowledged. Each letter is in the state that the last acknowledged client left. No answer is a
//! 500, and each action is audited once.

use std::{
    collections::HashMap,
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, Bytes},
    http::{Request, StatusCode, header::CONTENT_TYPE, request::Parts},
};
use dead_letters::{
    AppId, DeadLetterId, DeadLetterRead, DeadLetterRepo, NewDeadLetter, Requeue, Resolution,
    SeaOrmDeadLetterRepo, StoredLetter, testing::letter,
};
use dead_letters_admin::{Admin, Denied, Operator};
use http_body_util::BodyExt;
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower::ServiceExt;
use uuid::Uuid;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const CLIENTS: usize = 24;
/// Few, so that clients meet.
const LETTERS: usize = 40;

/// The results of a run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Answers, by their status.
    pub(crate) answers: HashMap<u16, u64>,
    /// Requests whose client hung up.
    pub(crate) hung_up: u64,
    /// Replays that were acknowledged.
    pub(crate) replays: u64,
    /// Letters that went wrong, in words.
    pub(crate) contradictions: Vec<String>,
}

/// Where replayed events go: a table of the same database, so that it has what was committed.
struct Outbox;

#[async_trait]
impl Requeue for Outbox {
    async fn requeue(
        &self,
        txn: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> std::result::Result<(), Box<dyn Error + Send + Sync>> {
        for letter in letters {
            let id = letter.original_event_id;
            txn.execute_unprepared(&format!("INSERT INTO load_outbox (event_id) VALUES ('{id}')")).await?;
        }
        Ok(())
    }
}

/// The changes that clients made to one letter, by the answers that they received.
#[derive(Debug, Default)]
struct Ledger {
    /// Acknowledged replays, and those of which nobody knows.
    replays: u64,
    unknown_replays: u64,
    resolved: u64,
    reopens: u64,
    unknown: u64,
}

struct World {
    router: Router,
    app: AppId,
    letters: Vec<(DeadLetterId, Uuid)>,
    ledger: Mutex<HashMap<DeadLetterId, Ledger>>,
    tally: Mutex<Tally>,
    seed: AtomicU64,
    is_over: AtomicBool,
}

impl World {
    /// From 0 to `below`; of no use for secrets.
    fn random(&self, below: u64) -> u64 {
        let mut seed = self.seed.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        seed = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        seed = (seed ^ (seed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (seed ^ (seed >> 31)) % below
    }

    /// `None` where the client hung up before it was answered.
    async fn send(&self, request: Request<Body>) -> Option<(StatusCode, Bytes)> {
        let answer = async {
            let (parts, body) = self.router.clone().oneshot(request).await.unwrap_or_default().into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            (parts.status, body)
        };
        let hangs_up = self.random(20) == 0;
        let patience = Duration::from_micros(if hangs_up { self.random(3_000) } else { 90_000_000 });
        let answer = tokio::time::timeout(patience, answer).await.ok();
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        match &answer {
            Some((status, body)) => {
                *tally.answers.entry(status.as_u16()).or_default() += 1;
                if *status == StatusCode::INTERNAL_SERVER_ERROR {
                    tally.contradictions.push(format!("a 500: {}", String::from_utf8_lossy(body)));
                }
            }
            None => tally.hung_up += 1,
        }
        answer
    }

    fn at(&self, path: &str) -> String {
        format!("/api/apps/{}/{path}", self.app)
    }

    fn post(&self, path: &str, body: &Value) -> Request<Body> {
        let address = match path.starts_with("bulk/") {
            true => format!("/api/{path}"),
            false => self.at(path),
        };
        let request = Request::post(address).header(CONTENT_TYPE, "application/json");
        request.body(Body::from(body.to_string())).unwrap_or_default()
    }

    fn note(&self, id: DeadLetterId, note: impl FnOnce(&mut Ledger)) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        note(ledger.entry(id).or_default());
    }

    async fn act(&self) {
        let (id, _) = self.letters[self.random(self.letters.len() as u64) as usize];
        // An answer that is neither a success nor a refusal leaves open what was done.
        let is_done = |answer: &Option<(StatusCode, Bytes)>| match answer {
            Some((StatusCode::OK, _)) => Some(true),
            Some((status, _)) if status.is_client_error() => Some(false),
            _ => None,
        };
        match self.random(12) {
            0..=2 => {
                let answer = self
                    .send(self.post(&format!("letters/{id}/resolve"), &json!({ "resolution": "ignored" })));
                match is_done(&answer.await) {
                    Some(true) => self.note(id, |ledger| ledger.resolved += 1),
                    Some(false) => {}
                    None => self.note(id, |ledger| ledger.unknown += 1),
                }
            }
            3..=5 => {
                match is_done(&self.send(self.post(&format!("letters/{id}/reopen"), &json!({}))).await) {
                    Some(true) => self.note(id, |ledger| ledger.reopens += 1),
                    Some(false) => {}
                    None => self.note(id, |ledger| ledger.unknown += 1),
                }
            }
            6 | 7 => {
                match is_done(&self.send(self.post(&format!("letters/{id}/replay"), &json!({}))).await) {
                    Some(true) => self.note(id, |ledger| {
                        ledger.resolved += 1;
                        ledger.replays += 1;
                    }),
                    Some(false) => {}
                    None => self.note(id, |ledger| {
                        ledger.unknown += 1;
                        ledger.unknown_replays += 1;
                    }),
                }
            }
            8 => {
                self.send(self.post(&format!("letters/{id}/reveal"), &json!({}))).await;
            }
            9 => {
                self.send(self.post("bulk/run", &json!({ "token": "forged" }))).await;
            }
            10 => {
                let view =
                    ["letters?scan_limit=100000&error_contains=x", "groups", "timeline", "letters?size=500"]
                        [self.random(4) as usize];
                self.send(Request::get(self.at(view)).body(Body::empty()).unwrap_or_default()).await;
            }
            _ => self.run(id).await,
        }
    }

    /// One letter by a preview and a run.
    async fn run(&self, id: DeadLetterId) {
        let preview = json!({ "apps": [self.app], "action": "replayed", "filter": { "ids": [id] } });
        let Some((StatusCode::OK, preview)) = self.send(self.post("bulk/preview", &preview)).await else {
            return;
        };
        let preview: Value = serde_json::from_slice(&preview).unwrap_or_default();
        let answer = self.send(self.post("bulk/run", &json!({ "token": preview["token"] }))).await;
        match answer {
            Some((StatusCode::OK, body)) => {
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let done = body["done"].as_u64().unwrap_or_default();
                self.note(id, |ledger| {
                    ledger.resolved += done;
                    ledger.replays += done;
                });
            }
            Some((status, _)) if status.is_client_error() => {}
            _ => self.note(id, |ledger| {
                ledger.unknown += 1;
                ledger.unknown_replays += 1;
            }),
        }
    }
}

/// Lets clients work on the store for some time, and compares.
///
/// # Errors
///
/// Where the store can't be filled or read.
pub(crate) async fn run(repo: SeaOrmDeadLetterRepo, time: Duration, seed: u64) -> Result<Tally> {
    let app = AppId::from(Uuid::new_v4());
    repo.pool().execute_unprepared("CREATE TABLE load_outbox (event_id text NOT NULL)").await?;
    let new: Vec<NewDeadLetter> = (0..LETTERS).map(|_| letter(app)).collect();
    let events: Vec<_> = new.iter().map(|letter| letter.original_event_id).collect();
    let letters = repo.insert_many(new).await?.into_iter().zip(events).collect();
    let admin = Admin::new(Arc::new(repo.clone()), |_: &Parts| Ok::<_, Denied>(Operator::full("ada")))
        .replay(repo.replayer(Outbox));
    let world = Arc::new(World {
        router: admin.into(),
        app,
        letters,
        ledger: Mutex::default(),
        tally: Mutex::default(),
        seed: AtomicU64::new(seed),
        is_over: AtomicBool::new(false),
    });

    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let world = world.clone();
        clients.spawn(async move {
            while !world.is_over.load(Ordering::Relaxed) {
                world.act().await;
            }
        });
    }
    let end = Instant::now() + time;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(500).min(time)).await;
        if repo.pool().get_database_backend() == DbBackend::Postgres {
            // Not the one that asks.
            let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                        WHERE datname = current_database() AND pid <> pg_backend_pid() \
                        ORDER BY random() LIMIT 2";
            repo.pool().execute_unprepared(kill).await.ok();
        }
    }
    world.is_over.store(true, Ordering::Relaxed);
    while clients.join_next().await.is_some() {}
    // Requests whose client hung up run on for moments. A lock would block them, so none is taken here.
    compare(&repo, &world).await
}

async fn compare(repo: &SeaOrmDeadLetterRepo, world: &World) -> Result<Tally> {
    let mut found = Vec::new();
    let mut replays = 0;
    // Requests whose client hung up are answered to their end.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for &(id, event) in &world.letters {
        let counted = repo.pool();
        let sql = format!("SELECT count(*) FROM load_outbox WHERE event_id = '{event}'");
        let statement = sea_orm::Statement::from_string(counted.get_database_backend(), sql);
        let row = counted.query_one_raw(statement).await?.ok_or("no count")?;
        let put_back = row.try_get_by_index::<i64>(0)?.unsigned_abs();
        let row = repo.get_for_app(world.app, id).await?.ok_or("a letter is gone")?;
        let ledger = world.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let none = Ledger::default();
        let ledger = ledger.get(&id).unwrap_or(&none);
        replays += ledger.replays;
        let possible = ledger.replays..=ledger.replays + ledger.unknown_replays;
        if !possible.contains(&put_back) {
            found.push(format!("{id}: put back {put_back} times, and {ledger:?}"));
        }
        // Each resolution but the last was undone by a reopening.
        let closed = u64::from(row.resolved_at.is_some());
        let known = ledger.resolved.abs_diff(ledger.reopens + closed);
        if known > ledger.unknown {
            found.push(format!("{id}: {:?}, and {ledger:?}", row.resolution));
        }
        if row.resolution == Some(Resolution::Replayed) && put_back == 0 {
            found.push(format!("{id}: replayed, and never put back"));
        }
    }
    let mut tally = std::mem::take(&mut *world.tally.lock().unwrap_or_else(PoisonError::into_inner));
    tally.contradictions.extend(found);
    tally.replays = replays;
    Ok(tally)
}
