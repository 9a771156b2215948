//! SQLite: a file in WAL mode as `connect_options` opens it, and the peer's, opened alike.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, CoalescingDeadLetterRepo, DeadLetterId, DeadLetterRead, DeadLetterRepo, NewDeadLetter,
    PageRequest, SeaOrmDeadLetterRepo,
};
use dead_letters_migration::Migrator;
use sea_orm::{Database, DatabaseConnection};
use sea_orm_migration::MigratorTrait;
use sqlx::{
    AssertSqlSafe, Connection, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
    types::Json,
};
use tempfile::TempDir;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::{
    Bench,
    measure::{Case, Failure, Figure, Runs, call},
    peer::Row,
    store::{CONNECTIONS, FROM, IDS, TABLES, letter, named, unresolved},
    sweep::{BATCH, DUE, ROUNDS, cutoff},
};

const PEER_SCHEMA: &str = "
    CREATE TABLE peer (
        id blob NOT NULL PRIMARY KEY,
        app_id blob NOT NULL,
        original_event_id blob NOT NULL,
        source text NOT NULL,
        op text NOT NULL,
        trigger_id blob,
        script_id blob,
        payload text NOT NULL,
        attempt_count integer NOT NULL,
        first_attempt_at text NOT NULL,
        last_attempt_at text NOT NULL,
        last_error text NOT NULL,
        created_at text NOT NULL,
        resolved_at text,
        resolution text
    );
    CREATE INDEX peer_app ON peer (app_id, created_at DESC);
    CREATE INDEX peer_app_unresolved ON peer (app_id, created_at DESC) WHERE resolved_at IS NULL;
    CREATE INDEX peer_gc ON peer (created_at);";

/// The peer of peer.rs, as one writes it for SQLite.
#[derive(Clone)]
struct Peer(SqlitePool);

impl Peer {
    /// As `connect_options` opens a file.
    async fn connect(file: &Path) -> sqlx::Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(30));
        let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false);
        Ok(Self(pool.connect_with(options).await?))
    }

    async fn insert(&self, letter: NewDeadLetter) -> sqlx::Result<Uuid> {
        let id = Uuid::new_v4();
        sqlx::query(
            "INSERT INTO peer (id, app_id, original_event_id, source, op, trigger_id, script_id, payload, attempt_count,
                 first_attempt_at, last_attempt_at, last_error, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        )
        .bind(id)
        .bind(letter.app_id.into_inner())
        .bind(letter.original_event_id)
        .bind(letter.source)
        .bind(letter.op)
        .bind(letter.trigger_id.map(Uuid::from))
        .bind(letter.script_id.map(Uuid::from))
        .bind(Json(letter.payload))
        .bind(letter.attempt_count)
        .bind(letter.first_attempt_at)
        .bind(letter.last_attempt_at)
        .bind(letter.last_error)
        .bind(Utc::now())
        .execute(&self.0)
        .await?;
        Ok(id)
    }

    async fn list(
        &self,
        app_id: Uuid,
        unresolved_only: bool,
        limit: i64,
        offset: i64,
    ) -> sqlx::Result<Vec<Row>> {
        sqlx::query_as(
            "SELECT * FROM peer WHERE app_id = $1 AND ($2 = FALSE OR resolved_at IS NULL)
             ORDER BY created_at DESC LIMIT $3 OFFSET $4",
        )
        .bind(app_id)
        .bind(unresolved_only)
        .bind(limit)
        .bind(offset)
        .fetch_all(&self.0)
        .await
    }

    async fn count(&self, app_id: Uuid) -> sqlx::Result<i64> {
        sqlx::query_scalar("SELECT count(*) FROM peer WHERE app_id = $1 AND resolved_at IS NULL")
            .bind(app_id)
            .fetch_one(&self.0)
            .await
    }

    async fn resolve(&self, id: Uuid, reason: &str) -> sqlx::Result<u64> {
        sqlx::query("UPDATE peer SET resolution = $2, resolved_at = $3 WHERE id = $1")
            .bind(id)
            .bind(reason)
            .bind(Utc::now())
            .execute(&self.0)
            .await
            .map(|done| done.rows_affected())
    }

    async fn gc(&self, older_than: DateTime<Utc>, limit: i64) -> sqlx::Result<u64> {
        sqlx::query(
            "DELETE FROM peer WHERE id IN (SELECT id FROM peer WHERE created_at < $1 ORDER BY created_at LIMIT $2)",
        )
        .bind(older_than)
        .bind(limit)
        .execute(&self.0)
        .await
        .map(|done| done.rows_affected())
    }
}

struct Store {
    /// Removed with this value.
    folder: TempDir,
    repo: SeaOrmDeadLetterRepo,
    peer: Peer,
    /// Has `rows` rows, all unresolved, one a second. A hundred more have 100 each.
    app: AppId,
    rows: u32,
    ids: Vec<DeadLetterId>,
    peer_ids: Vec<Uuid>,
}

impl Store {
    async fn create(rows: u32) -> Result<Arc<Self>, Failure> {
        let folder = TempDir::new()?;
        let [ours, peers] = TABLES.map(|table| file_of(&folder, table));
        let (db, peer) = (open(&ours).await?, Peer::connect(&peers).await?);
        let repo = SeaOrmDeadLetterRepo::new(db);
        sqlx::raw_sql(PEER_SCHEMA).execute(&peer.0).await?;
        let app = AppId::from(Uuid::from_u128(0));
        for table in TABLES {
            let mut file = SqliteConnection::connect_with(
                &SqliteConnectOptions::new().filename(file_of(&folder, table)),
            )
            .await?;
            fill(&mut file, table, app, rows).await?;
        }
        let ours = repo.list_for_app(app, true, IDS, 0).await?;
        let ids = ours.into_iter().map(|row| row.id).collect();
        let peers = peer.list(app.into(), true, IDS, 0).await?;
        let peer_ids = peers.iter().map(Row::id).collect();
        Ok(Arc::new(Self { folder, repo, peer, app, rows, ids, peer_ids }))
    }

    fn named(&self, name: &str) -> String {
        named(name, self.rows) + ", SQLite"
    }
}

async fn open(file: &Path) -> Result<DatabaseConnection, Failure> {
    let mut options = dead_letters::connect_options(format!("sqlite://{}?mode=rwc", file.display()));
    options.max_connections(CONNECTIONS).test_before_acquire(false);
    let db = Database::connect(options).await?;
    Migrator::up(&db, None).await?;
    Ok(db)
}

fn file_of(folder: &TempDir, table: &str) -> PathBuf {
    folder.path().join(table)
}

/// As each side's own inserts would have left it. Without statistics: SQLite makes none by itself.
async fn fill(file: &mut SqliteConnection, table: &str, app: AppId, rows: u32) -> Result<(), Failure> {
    let (signature, value, id) = match table {
        "peer" => ("", "", "randomblob(16)"),
        _ => (
            ", error_signature",
            ", 'smtp: # try again later'",
            "unhex(printf('%012x7%s', second * 1000, substr(hex(randomblob(10)), 1, 19)))",
        ),
    };
    let payload = letter(app, 1_000).payload;
    for (app, of_app) in (0..=100).map(|n| (n, if n == 0 { rows } else { 100 })) {
        let fill = format!(
            "INSERT INTO {table} (id, app_id, original_event_id, source, op, trigger_id, script_id, payload,
                 attempt_count, first_attempt_at, last_attempt_at, last_error, created_at{signature})
             SELECT {id}, unhex('{app:032x}'), randomblob(16), 'orders', 'insert', randomblob(16), randomblob(16),
                 '{payload}', 5, at, at, 'smtp: 451 try again later', at{value}
             FROM (SELECT second, strftime('%Y-%m-%dT%H:%M:%S+00:00', second, 'unixepoch') AS at
                 FROM (SELECT {from} + value AS second FROM (
                     WITH RECURSIVE n (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {of_app})
                     SELECT value FROM n)))",
            from = FROM.timestamp(),
        );
        sqlx::raw_sql(AssertSqlSafe(fill)).execute(&mut *file).await?;
    }
    sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(file).await?;
    Ok(())
}

pub(crate) async fn version() -> Result<String, Failure> {
    let mut memory = SqliteConnection::connect("sqlite::memory:").await?;
    Ok(sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut memory).await?)
}

/// All of SQLite's figures on a table of so many rows.
pub(crate) async fn measure(bench: &mut Bench, rows: u32) -> Result<(), Failure> {
    let store = Store::create(rows).await?;
    if rows >= 1_000_000 {
        gc(bench, &store).await?;
    }
    calls(bench, &store).await
}

async fn calls(bench: &mut Bench, store: &Arc<Store>) -> Result<(), Failure> {
    let named = |name: &str| store.named(name);
    let app = store.app;
    let peers = side!(store, n => store.peer.list(app.into(), true, 50, 0).await?);
    let ours = side!(store, n => store.repo.list_for_app(app, true, 50, 0).await?);
    bench.pair(named("list_for_app, 50"), 1, 1.0, ours, peers.clone()).await?;
    let page = (store.clone(), Arc::new(PageRequest::default().size(50)));
    let ours = side!(page, n => page.0.repo.list(app, &unresolved(), &page.1).await?);
    bench.pair(named("triage list, 50"), 1, 1.5, ours, peers).await?;
    let peers = side!(store, n => store.peer.count(app.into()).await?);
    let ours = side!(store, n => store.repo.unresolved_count(app).await?);
    bench.pair(named("unresolved_count"), 1, 1.0, ours, peers).await?;

    let peers = side!(store, n =>
        store.peer.resolve(store.peer_ids[n % store.peer_ids.len()], "handler_failed").await?);
    let ours = side!(store, n => store.repo.resolve(store.ids[n % store.ids.len()], "handler_failed").await?);
    bench.pair(named("resolve"), 1, 1.0, ours, peers).await?;

    let side = (store.clone(), Arc::new(letter(Uuid::new_v4().into(), 1_000)));
    let peers = side!(side, n => side.0.peer.insert((*side.1).clone()).await?);
    for tasks in [1, 16] {
        let ours = side!(side, n => side.0.repo.insert((*side.1).clone()).await?);
        bench.pair(named("insert of 1 KB"), tasks, 0.95, ours, peers.clone()).await?;
    }
    let writer = Arc::new(CoalescingDeadLetterRepo::new(store.repo.clone(), &Handle::current()));
    let side = (writer.clone(), side.1);
    let ours = side!(side, n => side.0.insert((*side.1).clone()).await?);
    bench.pair(named("coalesced insert of 1 KB"), 16, 2.0, ours, peers).await?;
    writer.shut_down().await;
    Ok(())
}

/// A sweeper of each side in turn, on a copy of its file.
async fn gc(bench: &mut Bench, store: &Store) -> Result<(), Failure> {
    let name = "gc of 900,000 in 1 M rows, rows a second, SQLite".to_owned();
    let case = Case { name, tasks: 1, rows: 1.0, target: Some(1.0) };
    if !bench.wants(&case) {
        return Ok(());
    }
    let mut all = [Runs::default(), Runs::default()];
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let mut seconds = [0.0, 0.0];
        for side in [round % 2, 1 - round % 2] {
            // Each under a name of its own: a log that another copy left would be taken for this one's.
            let file = file_of(&store.folder, &format!("copy-{round}-{side}"));
            fs::copy(file_of(&store.folder, TABLES[side]), &file)?;
            fs::File::open(&file)?.sync_all()?;
            let run = match side {
                0 => {
                    let db = open(&file).await?;
                    let repo = SeaOrmDeadLetterRepo::new(db.clone());
                    let run = deleting(async || Ok(repo.gc(cutoff(), BATCH.into()).await?)).await?;
                    db.close().await?;
                    run
                }
                _ => {
                    let peer = Peer::connect(&file).await?;
                    let run = deleting(async || Ok(peer.gc(cutoff(), BATCH.into()).await?)).await?;
                    peer.0.close().await;
                    run
                }
            };
            fs::remove_file(&file)?;
            seconds[side] = run.elapsed.as_secs_f64();
            all[side].add(run);
        }
        ratios.push(seconds[1] / seconds[0]);
    }
    bench.add(Figure::new(case, ratios, all));
    Ok(())
}

async fn deleting(batch: impl AsyncFn() -> Result<u64, Failure>) -> Result<Runs, Failure> {
    Runs::of(async {
        let (mut latencies, mut deleted) = (Vec::new(), 0);
        loop {
            let called = Instant::now();
            let rows = batch().await?;
            latencies.push(called.elapsed());
            deleted += rows;
            match rows {
                // The small apps' are due as well.
                0 if deleted >= DUE as u64 => return Ok(latencies),
                0 => return Err(format!("{deleted} rows were deleted, of {DUE}").into()),
                _ => {}
            }
        }
    })
    .await
}
