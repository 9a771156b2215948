//! A database of its own with the same rows on both sides.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo, DeadLetterState, NewDeadLetter,
    PageRequest, SeaOrmDeadLetterRepo,
};
use dead_letters_migration::Migrator;
use dead_letters_test_support::TestDatabase;
use sea_orm::{Database, DatabaseConnection};
use sea_orm_migration::MigratorTrait;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use url::Url;
use uuid::Uuid;

use crate::{measure::Failure, peer::Peer};

pub(crate) const CONNECTIONS: u32 = 20;
/// Those that point look-ups go round.
pub(crate) const IDS: i64 = 10_000;
/// Before the first row: 2026-01-01.
pub(crate) const FROM: DateTime<Utc> = match DateTime::from_timestamp(1_767_225_600, 0) {
    Some(time) => time,
    None => DateTime::UNIX_EPOCH,
};

pub(crate) struct Store {
    /// Dropped with this value.
    database: TestDatabase,
    pub(crate) db: DatabaseConnection,
    pub(crate) repo: SeaOrmDeadLetterRepo,
    pub(crate) peer: Peer,
    /// Has `rows` rows, all unresolved, one a second.
    pub(crate) app: AppId,
    pub(crate) rows: u32,
    /// One of a hundred with 100 unresolved rows each.
    pub(crate) small_app: AppId,
    ids: Vec<DeadLetterId>,
    peer_ids: Vec<Uuid>,
}

impl Store {
    pub(crate) async fn create(server: &Url, rows: u32) -> Result<Arc<Self>, Failure> {
        let mut store = Self::empty(server, rows).await?;
        Migrator::up(&store.db, None).await?;
        for table in TABLES {
            store.fill(table, store.app, rows, FROM).await?;
            for n in 1..=100 {
                store.fill(table, Uuid::from_u128(n).into(), 100, FROM).await?;
            }
            store.analyze(table).await?;
        }
        store.peer_ids =
            store.peer.list(store.app.into(), true, IDS, 0).await?.iter().map(|row| row.id()).collect();
        store.with_ids().await
    }

    /// Without a step of the schema. `rows` is what it is to have.
    pub(crate) async fn empty(server: &Url, rows: u32) -> Result<Self, Failure> {
        let database = TestDatabase::empty_on(server)?;
        let mut options = dead_letters::connect_options(database.url());
        options.max_connections(CONNECTIONS).test_before_acquire(false);
        let db = Database::connect(options).await?;
        Ok(Self {
            repo: SeaOrmDeadLetterRepo::new(db.clone()),
            db,
            peer: Peer::connect(database.url(), CONNECTIONS).await?,
            database,
            app: Uuid::from_u128(0).into(),
            rows,
            small_app: Uuid::from_u128(1).into(),
            ids: Vec::new(),
            peer_ids: Vec::new(),
        })
    }

    pub(crate) async fn with_ids(mut self) -> Result<Arc<Self>, Failure> {
        let ours = self.repo.list_for_app(self.app, true, IDS, 0).await?;
        self.ids = ours.into_iter().map(|row| row.id).collect();
        Ok(Arc::new(self))
    }

    pub(crate) fn named(&self, name: &str) -> String {
        named(name, self.rows)
    }

    /// One row a second of `app`.
    pub(crate) async fn fill(
        &self,
        table: &str,
        app: AppId,
        rows: u32,
        from: DateTime<Utc>,
    ) -> Result<(), Failure> {
        let seconds = format!(
            "SELECT uuid '{app}' AS app, timestamptz '{from}' + n * interval '1 second' AS at
             FROM generate_series(1, {rows}) n"
        );
        self.fill_with(table, &seconds).await
    }

    /// A row for each `app` and time `at` of a query.
    pub(crate) async fn fill_with(&self, table: &str, apps_and_times: &str) -> Result<(), Failure> {
        // As each side's own inserts would have left it.
        let (id, more) = match table {
            "peer" => ("gen_random_uuid()", ["", ""]),
            _ => (V7, [", error_signature", ", 'smtp: # try again later'"]),
        };
        self.execute(&insertion(table, id, 1_000, more, apps_and_times)).await
    }

    /// Vacuumed, with fresh statistics, and on the disk.
    pub(crate) async fn analyze(&self, table: &str) -> Result<(), Failure> {
        self.execute(&format!("VACUUM ANALYZE {table}")).await?;
        self.execute("CHECKPOINT").await
    }

    pub(crate) async fn execute(&self, sql: &str) -> Result<(), Failure> {
        let mut connection = self.connect().await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await?;
        Ok(())
    }

    pub(crate) fn url(&self) -> &str {
        self.database.url()
    }

    /// Not of the repo's pool: a fill takes longer than its statements may.
    pub(crate) async fn connect(&self) -> Result<PgConnection, Failure> {
        Ok(PgConnection::connect(self.database.url()).await?)
    }

    pub(crate) fn id(&self, n: usize) -> DeadLetterId {
        self.ids[n % self.ids.len()]
    }

    pub(crate) fn peer_id(&self, n: usize) -> Uuid {
        self.peer_ids[n % self.peer_ids.len()]
    }

    pub(crate) async fn server_version(&self) -> Result<String, Failure> {
        let mut connection = self.connect().await?;
        Ok(sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?)
    }

    /// The page of 50 behind the newest `depth` rows of `app`.
    pub(crate) async fn page_at(&self, depth: u32) -> Result<PageRequest, Failure> {
        let mut page = PageRequest::default().size(500);
        for _ in 0..depth / page.size {
            page.after = self.repo.list(self.app, &unresolved(), &page).await?.next;
        }
        page.size = 50;
        Ok(page)
    }
}

/// An id of the time `at`.
pub(crate) const V7: &str = "(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
    || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid";

/// Returns the INSERT of a row for each `app` and time `at` of a query, with the columns of the first step and
/// more.
pub(crate) fn insertion(
    table: &str,
    id: &str,
    payload_bytes: usize,
    [more_columns, more_values]: [&str; 2],
    apps_and_times: &str,
) -> String {
    let payload = letter(Uuid::nil().into(), payload_bytes).payload;
    let cast = if table == "peer" { "jsonb" } else { "text" };
    format!(
        "INSERT INTO {table} (id, app_id, original_event_id, source, op, trigger_id, script_id, payload,
             attempt_count, first_attempt_at, last_attempt_at, last_error, created_at{more_columns})
         SELECT {id}, app, gen_random_uuid(), 'orders', 'insert', gen_random_uuid(), gen_random_uuid(),
             '{payload}'::{cast}, 5, at, at, 'smtp: 451 try again later', at{more_values}
         FROM ({apps_and_times}) _"
    )
}

/// `name` and how many rows the table has.
pub(crate) fn named(name: &str, rows: u32) -> String {
    match rows {
        1_000_000.. => format!("{name}, {} M rows", rows / 1_000_000),
        _ => format!("{name}, {} k rows", rows / 1_000),
    }
}

pub(crate) const TABLES: [&str; 2] = ["dead_letters", "peer"];

/// Returns the filter of the rows that a page of the peer shows.
pub(crate) fn unresolved() -> DeadLetterFilter {
    DeadLetterFilter::default().state(DeadLetterState::Unresolved)
}

/// With a payload of about so many bytes.
pub(crate) fn letter(app_id: AppId, payload_bytes: usize) -> NewDeadLetter {
    let lines: Vec<_> = (0..payload_bytes / 64)
        .map(|n| json!({ "sku": format!("LAMP-{n:05}"), "quantity": n, "price": n as f64 * 1.25 }))
        .collect();
    NewDeadLetter {
        app_id,
        original_event_id: Uuid::new_v4(),
        source: "orders".to_owned(),
        op: "insert".to_owned(),
        trigger_id: Some(Uuid::new_v4().into()),
        script_id: Some(Uuid::new_v4().into()),
        payload: json!({ "order": 4711, "lines": lines }),
        payload_text: None,
        attempt_count: 5,
        first_attempt_at: Utc::now(),
        last_attempt_at: Utc::now(),
        last_error: "smtp: 451 try again later".to_owned(),
        error_signature: None,
        metadata: serde_json::Map::new(),
    }
}
