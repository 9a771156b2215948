//! The peer: what one writes by hand on sqlx, without a second thought.

use chrono::{DateTime, Utc};
use sqlx::{
    FromRow, PgPool, Row as _,
    postgres::{PgPoolOptions, PgRow},
    sqlite::SqliteRow,
    types::{Json, Uuid},
};

const SCHEMA: &str = "
    CREATE TABLE peer (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        app_id uuid NOT NULL,
        original_event_id uuid NOT NULL,
        source text NOT NULL,
        op text NOT NULL,
        trigger_id uuid,
        script_id uuid,
        payload jsonb NOT NULL,
        attempt_count integer NOT NULL,
        first_attempt_at timestamptz NOT NULL,
        last_attempt_at timestamptz NOT NULL,
        last_error text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        resolved_at timestamptz,
        resolution text
    );
    CREATE INDEX ON peer (app_id, created_at DESC);
    CREATE INDEX ON peer (app_id, created_at DESC) WHERE resolved_at IS NULL;
    CREATE INDEX ON peer (created_at);
    CREATE TABLE outbox (id uuid PRIMARY KEY);";

/// Takes an event, the same for both sides.
pub(crate) const TAKE: &str = "DELETE FROM outbox WHERE id = $1";

/// The columns that a page reads of a row.
#[expect(dead_code, reason = "read, as a caller would, and then dropped")]
pub(crate) struct Row {
    id: Uuid,
    app_id: Uuid,
    original_event_id: Uuid,
    source: String,
    op: String,
    trigger_id: Option<Uuid>,
    script_id: Option<Uuid>,
    payload: Json<serde_json::Value>,
    attempt_count: i32,
    first_attempt_at: DateTime<Utc>,
    last_attempt_at: DateTime<Utc>,
    last_error: String,
    created_at: DateTime<Utc>,
    resolved_at: Option<DateTime<Utc>>,
    resolution: Option<String>,
}

macro_rules! from_row {
    ($($row:ty),*) => {$(
        impl FromRow<'_, $row> for Row {
            fn from_row(row: &$row) -> sqlx::Result<Self> {
                Ok(Self {
                    id: row.try_get("id")?,
                    app_id: row.try_get("app_id")?,
                    original_event_id: row.try_get("original_event_id")?,
                    source: row.try_get("source")?,
                    op: row.try_get("op")?,
                    trigger_id: row.try_get("trigger_id")?,
                    script_id: row.try_get("script_id")?,
                    payload: row.try_get("payload")?,
                    attempt_count: row.try_get("attempt_count")?,
                    first_attempt_at: row.try_get("first_attempt_at")?,
                    last_attempt_at: row.try_get("last_attempt_at")?,
                    last_error: row.try_get("last_error")?,
                    created_at: row.try_get("created_at")?,
                    resolved_at: row.try_get("resolved_at")?,
                    resolution: row.try_get("resolution")?,
                })
            }
        }
    )*};
}

from_row!(PgRow, SqliteRow);

impl Row {
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }
}

#[derive(Clone)]
pub(crate) struct Peer(PgPool);

impl Peer {
    pub(crate) async fn connect(url: &str, connections: u32) -> sqlx::Result<Self> {
        let pool =
            PgPoolOptions::new().max_connections(connections).test_before_acquire(false).connect(url).await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        Ok(Self(pool))
    }

    pub(crate) async fn insert(&self, letter: dead_letters::NewDeadLetter) -> sqlx::Result<Uuid> {
        insert_on(&self.0, letter).await
    }

    /// Deletes the event and inserts its letter, in one transaction.
    pub(crate) async fn bury(&self, letter: dead_letters::NewDeadLetter) -> sqlx::Result<Uuid> {
        let mut txn = self.0.begin().await?;
        sqlx::query(TAKE).bind(letter.original_event_id).execute(&mut *txn).await?;
        let id = insert_on(&mut *txn, letter).await?;
        txn.commit().await?;
        Ok(id)
    }

    pub(crate) async fn get(&self, id: Uuid) -> sqlx::Result<Option<Row>> {
        sqlx::query_as("SELECT * FROM peer WHERE id = $1").bind(id).fetch_optional(&self.0).await
    }

    pub(crate) async fn list(
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

    pub(crate) async fn count(&self, app_id: Uuid) -> sqlx::Result<i64> {
        sqlx::query_scalar("SELECT count(*) FROM peer WHERE app_id = $1 AND resolved_at IS NULL")
            .bind(app_id)
            .fetch_one(&self.0)
            .await
    }

    pub(crate) async fn resolve(&self, id: Uuid, reason: &str) -> sqlx::Result<u64> {
        sqlx::query("UPDATE peer SET resolution = $2, resolved_at = now() WHERE id = $1")
            .bind(id)
            .bind(reason)
            .execute(&self.0)
            .await
            .map(|done| done.rows_affected())
    }

    pub(crate) async fn gc(&self, older_than: DateTime<Utc>, limit: i64) -> sqlx::Result<u64> {
        sqlx::query(
            "DELETE FROM peer WHERE id IN
                 (SELECT id FROM peer WHERE created_at < $1 ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        )
        .bind(older_than)
        .bind(limit)
        .execute(&self.0)
        .await
        .map(|done| done.rows_affected())
    }
}

async fn insert_on(
    executor: impl sqlx::PgExecutor<'_>,
    letter: dead_letters::NewDeadLetter,
) -> sqlx::Result<Uuid> {
    sqlx::query_scalar(
            "INSERT INTO peer (app_id, original_event_id, source, op, trigger_id, script_id, payload, attempt_count,
                 first_attempt_at, last_attempt_at, last_error)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING id",
        )
        .bind(letter.app_id.into_inner())
        .bind(letter.original_event_id)
        .bind(letter.source)
        .bind(letter.op)
        .bind(letter.trigger_id.map(Uuid::from))
        .bind(letter.script_id.map(Uuid::from))
        .bind(Json(letter.payload))
        .bind(letter.attempt_count as i32)
        .bind(letter.first_attempt_at)
        .bind(letter.last_attempt_at)
        .bind(letter.last_error)
        .fetch_one(executor)
        .await
}
