//! The database of a round, with an outbox, and what is found in it at the end.

use std::time::Duration;

use chrono::{DateTime, Utc};
use dead_letters_migration::Migrator;
use dead_letters_test_support::{Error, Server, TestDatabase};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, FromQueryResult,
    Statement, Value, sqlx::sqlite::SqliteJournalMode,
};
use sea_orm_migration::MigratorTrait;
use uuid::Uuid;

/// `swept` is what the sweeps deleted, noted by a trigger in their own transactions; `enqueued` is what was
/// replayed, noted beside the row that goes back into the outbox. `twin_outbox` has each event once until it is
/// delivered. A trigger keeps some letters from being deleted, and returns no error.
const TABLES_ON_POSTGRES: &str = "
CREATE TABLE outbox (id uuid PRIMARY KEY, event uuid NOT NULL);
CREATE TABLE enqueued (letter uuid NOT NULL, attempt text NOT NULL);
CREATE TABLE swept (id uuid, app_id uuid, event uuid, created_at timestamptz, resolved_at timestamptz,
    resolution text, resolved_by text, swept_at timestamptz);
CREATE FUNCTION note_swept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO swept VALUES (OLD.id, OLD.app_id, OLD.original_event_id, OLD.created_at, OLD.resolved_at,
        OLD.resolution, OLD.resolved_by, clock_timestamp());
    RETURN OLD;
END $$;
CREATE TRIGGER note_swept AFTER DELETE ON dead_letters FOR EACH ROW EXECUTE FUNCTION note_swept();
CREATE TABLE twin_outbox (event uuid NOT NULL, delivered boolean NOT NULL DEFAULT false);
CREATE UNIQUE INDEX ON twin_outbox (event) WHERE NOT delivered;
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER keep BEFORE DELETE ON dead_letters FOR EACH ROW
    WHEN (OLD.source = 'undeletable') EXECUTE FUNCTION keep();
";
const TABLES_ON_SQLITE: &str = "
CREATE TABLE outbox (id blob PRIMARY KEY, event blob NOT NULL);
CREATE TABLE enqueued (letter blob NOT NULL, attempt text NOT NULL);
CREATE TABLE swept (id blob, app_id blob, event blob, created_at text, resolved_at text,
    resolution text, resolved_by text, swept_at text);
CREATE TRIGGER note_swept AFTER DELETE ON dead_letters BEGIN
    INSERT INTO swept VALUES (OLD.id, OLD.app_id, OLD.original_event_id, OLD.created_at, OLD.resolved_at,
        OLD.resolution, OLD.resolved_by, strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now'));
END;
CREATE TABLE twin_outbox (event blob NOT NULL, delivered boolean NOT NULL DEFAULT false);
CREATE UNIQUE INDEX twin_outbox_event ON twin_outbox (event) WHERE NOT delivered;
CREATE TRIGGER keep BEFORE DELETE ON dead_letters WHEN OLD.source = 'undeletable' BEGIN
    SELECT RAISE(IGNORE);
END;
";

/// The source of the letters that the trigger keeps.
pub(crate) const UNDELETABLE: &str = "undeletable";

pub(crate) struct Store(TestDatabase);

/// All that is there once nobody works any more.
pub(crate) struct Contents {
    /// The events.
    pub(crate) outbox: Vec<Uuid>,
    /// Those in the store, and those that were swept.
    pub(crate) letters: Vec<Letter>,
    pub(crate) enqueued: Vec<Enqueued>,
    /// The events that were put back into the outbox of twins, delivered or not.
    pub(crate) twins: Vec<Uuid>,
    pub(crate) history: Vec<Acted>,
}

/// The rows of one attempt in the history.
#[derive(FromQueryResult)]
pub(crate) struct Acted {
    pub(crate) attempt: String,
    pub(crate) action: String,
    pub(crate) letters: i64,
}

#[derive(FromQueryResult)]
pub(crate) struct Letter {
    pub(crate) id: Uuid,
    pub(crate) app_id: Uuid,
    pub(crate) event: Uuid,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) resolved_at: Option<DateTime<Utc>>,
    pub(crate) resolution: Option<String>,
    pub(crate) resolved_by: Option<String>,
    pub(crate) swept_at: Option<DateTime<Utc>>,
    pub(crate) is_erased: bool,
}

/// A letter that an attempt of an admin put back into the outbox.
#[derive(FromQueryResult)]
pub(crate) struct Enqueued {
    pub(crate) letter: Uuid,
    pub(crate) attempt: String,
}

impl Store {
    pub(crate) async fn on_postgres(server: &Server) -> Result<Self, Error> {
        let store = Self(TestDatabase::empty_on(server.url())?);
        store.create_tables(TABLES_ON_POSTGRES).await?;
        Ok(store)
    }

    pub(crate) async fn on_sqlite() -> Result<Self, Error> {
        let store = Self(TestDatabase::empty_sqlite()?);
        store.create_tables(TABLES_ON_SQLITE).await?;
        Ok(store)
    }

    pub(crate) fn name(&self) -> &'static str {
        if self.0.url().starts_with("sqlite") { "sqlite" } else { "postgres" }
    }

    /// Short waits, so that their ends are tried as well.
    pub(crate) async fn connect(&self, connections: u32) -> Result<DatabaseConnection, DbErr> {
        let mut options: ConnectOptions = dead_letters::connect_options(self.0.url());
        options.max_connections(connections).acquire_timeout(Duration::from_secs(2)).map_sqlx_sqlite_opts(
            |sqlite| sqlite.journal_mode(SqliteJournalMode::Wal).busy_timeout(Duration::from_millis(500)),
        );
        Database::connect(options).await
    }

    async fn create_tables(&self, tables: &str) -> Result<(), DbErr> {
        let db = self.connect(2).await?;
        Migrator::up(&db, None).await?;
        db.execute_unprepared(tables).await?;
        db.close().await
    }

    /// Once all that others have sent is done.
    pub(crate) async fn contents(&self) -> Result<Contents, DbErr> {
        let db = self.connect(1).await?;
        let backend = db.get_database_backend();
        if backend == DbBackend::Postgres {
            let others = "SELECT count(*) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()";
            let others = sql(DbBackend::Postgres, others, []);
            while db.query_one_raw(others.clone()).await?.map(|row| row.try_get_by_index(0))
                != Some(Ok(0_i64))
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let events = async |outbox: &str| {
            let select = format!("SELECT event FROM {outbox}");
            let rows = db.query_all_raw(sql(backend, &select, [])).await?;
            rows.iter().map(|row| row.try_get_by_index(0)).collect::<Result<Vec<Uuid>, DbErr>>()
        };
        let letters = "SELECT id, app_id, original_event_id AS event, created_at, resolved_at, resolution, \
             resolved_by, NULL AS swept_at, erased_at IS NOT NULL AS is_erased FROM dead_letters \
             UNION ALL SELECT *, false FROM swept";
        let history = "SELECT actor AS attempt, action, CAST(sum(letters) AS bigint) AS letters \
             FROM dead_letter_actions WHERE actor IS NOT NULL GROUP BY actor, action";
        let enqueued = "SELECT letter, attempt FROM enqueued";
        let contents = Contents {
            outbox: events("outbox").await?,
            twins: events("twin_outbox").await?,
            letters: Letter::find_by_statement(sql(backend, letters, [])).all(&db).await?,
            enqueued: Enqueued::find_by_statement(sql(backend, enqueued, [])).all(&db).await?,
            history: Acted::find_by_statement(sql(backend, history, [])).all(&db).await?,
        };
        db.close().await?;
        Ok(contents)
    }
}

pub(crate) fn sql(backend: DbBackend, text: &str, values: impl IntoIterator<Item = Value>) -> Statement {
    Statement::from_sql_and_values(backend, text, values)
}
