//! A service's start-up.

use std::{pin::pin, time::Duration};

use dead_letters::{DeadLetterRepo, OnOpen, OpenError, SeaOrmDeadLetterRepo, open, testing::letter};
use dead_letters_migration::{Locked, Migrator, SchemaError};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DbBackend, Statement};
use sea_orm_migration::{MigrationTrait, MigratorTraitSelf};
use tempfile::TempDir;
use tokio::task::JoinSet;
use url::Url;
use uuid::Uuid;

use crate::{database::TestDb, faults::Service};

async fn empty() -> [TestDb; 2] {
    [TestDb::empty_sqlite().await, TestDb::empty_postgres().await]
}

fn options(url: &str) -> ConnectOptions {
    let mut options = dead_letters::connect_options(url);
    options.acquire_timeout(Duration::from_millis(500));
    options
}

async fn opened(
    db: &TestDb,
    on_open: OnOpen,
    migrator: impl MigratorTraitSelf,
) -> Result<SeaOrmDeadLetterRepo, OpenError> {
    open(dead_letters::connect_options(db.url()), on_open, migrator).await
}

async fn sentence(url: &str) -> String {
    let error = open(options(url), OnOpen::Check, Migrator).await.unwrap_err();
    assert_eq!(format!("{error:?}"), error.to_string());
    error.to_string()
}

fn names(migrator: impl MigratorTraitSelf) -> Vec<String> {
    migrator.migrations().iter().map(|step| step.name().to_owned()).collect()
}

fn missing(outcome: Result<SeaOrmDeadLetterRepo, OpenError>) -> Vec<String> {
    match outcome.unwrap_err() {
        OpenError::Schema(SchemaError::Missing(steps)) => steps,
        other => panic!("{other}"),
    }
}

async fn works(repo: &SeaOrmDeadLetterRepo) {
    let app = Uuid::new_v4().into();
    let txn = SeaOrmDeadLetterRepo::begin(repo.pool()).await.unwrap();
    repo.in_transaction(&txn).insert(letter(app)).await.unwrap();
    SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
    assert_eq!(repo.unresolved_count(app).await.unwrap(), 1);
}

#[tokio::test]
async fn an_empty_database_is_migrated_only_on_request() {
    for db in empty().await {
        assert_eq!(missing(opened(&db, OnOpen::Check, Migrator).await), names(Migrator));
        db.db.execute_unprepared("SELECT 1 FROM seaql_migrations").await.unwrap_err();
        // On a task: its future is Send.
        let url = db.url().to_owned();
        let opening = open(dead_letters::connect_options(url), OnOpen::Migrate, Migrator);
        works(&tokio::spawn(opening).await.unwrap().unwrap()).await;
        for on_open in [OnOpen::Check, OnOpen::Migrate] {
            works(&opened(&db, on_open, Migrator).await.unwrap()).await;
        }
    }
}

#[tokio::test]
async fn pending_steps_are_applied_on_request_and_named_otherwise() {
    for db in empty().await {
        Locked(Service).up(&db.db, Some(3)).await.unwrap();
        let error = opened(&db, OnOpen::Check, Service).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the schema lacks these steps, which `migrate up` applies: m20260101_000001_create_outbox"
        );
        works(&opened(&db, OnOpen::Migrate, Service).await.unwrap()).await;
        db.execute("SELECT id FROM outbox").await;
    }
}

/// A migrator that is a value: how many of the store's steps it has.
struct First(usize);

impl MigratorTraitSelf for First {
    fn migrations(&self) -> Vec<Box<dyn MigrationTrait>> {
        Migrator.migrations().into_iter().take(self.0).collect()
    }
}

#[tokio::test]
async fn several_services_open_a_new_file_at_once_on_sqlite() {
    let folder = TempDir::new().unwrap();
    for file in 0..8 {
        let url = format!("sqlite://{}/{file}.sqlite?mode=rwc", folder.path().display());
        let options = || dead_letters::connect_options(&url);
        let services: JoinSet<_> = (0..8).map(|_| open(options(), OnOpen::Migrate, Migrator)).collect();
        for repo in services.join_all().await {
            works(&repo.unwrap()).await;
        }
    }
}

/// SQLite refuses the change to WAL mode at once, whatever the busy timeout is.
#[tokio::test]
async fn a_file_that_is_not_in_wal_mode_is_opened_once_the_other_writer_is_done_on_sqlite() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite://{}/orders.sqlite?mode=rwc", folder.path().display());
    let other = ConnectOptions::new(&url).max_connections(1).to_owned();
    let other = Database::connect(other).await.unwrap();
    other.execute_unprepared("CREATE TABLE orders (id); BEGIN IMMEDIATE").await.unwrap();
    let mut opening = pin!(open(dead_letters::connect_options(&url), OnOpen::Migrate, Migrator));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut opening).await;
    assert!(early.is_err(), "{early:?}");
    other.execute_unprepared("COMMIT").await.unwrap();
    works(&opening.await.unwrap()).await;
}

#[tokio::test]
async fn connections_have_the_stores_name_or_that_of_the_url_on_postgres() {
    let db = TestDb::postgres().await;
    let show = Statement::from_string(DbBackend::Postgres, "SHOW application_name");
    let named =
        format!("{}{}application_name=orders", db.url(), if db.url().contains('?') { '&' } else { '?' });
    for (url, name) in [(db.url(), "dead-letters"), (named.as_str(), "orders")] {
        let repo = open(dead_letters::connect_options(url), OnOpen::Check, Migrator).await.unwrap();
        let row = repo.pool().query_one_raw(show.clone()).await.unwrap().unwrap();
        assert_eq!(row.try_get_by_index::<String>(0).unwrap(), name);
    }
}

#[tokio::test]
async fn a_migrator_may_be_a_value() {
    for db in empty().await {
        opened(&db, OnOpen::Check, First(0)).await.unwrap();
        assert_eq!(missing(opened(&db, OnOpen::Check, First(3)).await), names(Migrator));
        works(&opened(&db, OnOpen::Migrate, First(3)).await.unwrap()).await;
    }
}

#[tokio::test]
async fn a_tenant_gets_a_table_of_its_own_although_public_has_one_on_postgres() {
    let db = TestDb::postgres().await;
    let app = Uuid::new_v4().into();
    db.repo().insert(letter(app)).await.unwrap();
    let alter = "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET search_path TO tenant, public', current_database()); END$$";
    db.execute(alter).await;
    db.execute("CREATE SCHEMA tenant").await;

    // A call finds the table in the schema `public`.
    let checked = opened(&db, OnOpen::Check, Migrator).await.unwrap();
    assert_eq!(checked.unresolved_count(app).await.unwrap(), 1);
    let tenant = opened(&db, OnOpen::Migrate, Migrator).await.unwrap();
    assert_eq!(tenant.unresolved_count(app).await.unwrap(), 0);
    works(&tenant).await;
    works(&opened(&db, OnOpen::Check, Migrator).await.unwrap()).await;
    assert_eq!(db.row_count().await, 1);
}

#[tokio::test]
async fn a_pre_release_table_is_refused_with_the_way_out() {
    for db in empty().await {
        Migrator.install(&db.db).await.unwrap();
        db.execute(
            "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m20261123_000001_create_dead_letters', 0)",
        )
        .await;
        for on_open in [OnOpen::Check, OnOpen::Migrate] {
            let error = opened(&db, on_open, Migrator).await.unwrap_err();
            assert!(matches!(error, OpenError::Schema(SchemaError::PreRelease(_))), "{error}");
            let begins = "the table dead_letters is a pre-release version's: export its letters";
            assert!(error.to_string().starts_with(begins), "{error}");
        }
    }
}

#[tokio::test]
async fn a_services_own_migrator_is_run_under_the_lock_and_looked_up_in_its_own_table() {
    for db in empty().await {
        assert_eq!(missing(opened(&db, OnOpen::Check, Service).await), names(Service));
        works(&opened(&db, OnOpen::Migrate, Service).await.unwrap()).await;
        db.execute("SELECT id FROM outbox").await;
        for on_open in [OnOpen::Check, OnOpen::Migrate] {
            opened(&db, on_open, Service).await.unwrap();
        }
        // Ours alone has a table of its own, which is not there.
        assert_eq!(missing(opened(&db, OnOpen::Check, Migrator).await), names(Migrator));
    }
}

#[tokio::test]
async fn an_older_version_starts_on_a_newer_schema_but_does_not_migrate_it() {
    const NEWER: &str =
        "INSERT INTO service_migrations (version, applied_at) VALUES ('m20990101_000001_newer', 0)";
    for db in empty().await {
        Locked(Service).up(&db.db, None).await.unwrap();
        db.execute(NEWER).await;
        for on_open in [OnOpen::Check, OnOpen::Migrate] {
            works(&opened(&db, on_open, Service).await.unwrap()).await;
        }
    }
    for db in empty().await {
        Locked(Service).up(&db.db, Some(1)).await.unwrap();
        db.execute(NEWER).await;
        let error = opened(&db, OnOpen::Migrate, Service).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the schema could not be migrated: the table service_migrations has steps that this migrator does \
             not have, of a newer version or of another migrator, whose steps must be in one Migrator with \
             these or in a table of their own: m20990101_000001_newer"
        );
        assert_eq!(missing(opened(&db, OnOpen::Check, Service).await), names(Service)[1..]);
    }
}

#[tokio::test]
async fn an_error_of_a_failed_step_has_no_content() {
    for db in empty().await {
        db.execute("CREATE TABLE dead_letters (n integer)").await;
        let error = opened(&db, OnOpen::Migrate, Locked(Migrator)).await.unwrap_err();
        assert!(matches!(error, OpenError::Migrate(_)), "{error}");
        let expected = "the schema could not be migrated: database error ";
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

#[tokio::test]
async fn a_database_that_is_not_utf8_is_refused_by_name_on_postgres() {
    let db = TestDb::empty_postgres().await;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("{encoding}_{}", Uuid::new_v4().simple()).to_lowercase();
        db.execute(&format!(
            "CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        ))
        .await;
        let mut url: Url = db.url().parse().unwrap();
        url.set_path(&name);
        for on_open in [OnOpen::Check, OnOpen::Migrate] {
            let error = open(options(url.as_str()), on_open, Migrator).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "dead-letters needs a database whose encoding is UTF8, and this one's is {encoding}: create one with ENCODING 'UTF8'"
                )
            );
        }
        db.execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }
}

#[tokio::test]
async fn a_server_that_does_not_respond_is_named() {
    // Bound, and not listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    assert_eq!(
        sentence(&format!("postgres://ada:secret@{address}/orders?sslmode=disable")).await,
        format!(
            "cannot connect to postgres://{address}/orders: the server refuses the connection, or does not \
             respond in time"
        )
    );
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named_on_postgres() {
    let db = TestDb::empty_postgres().await;
    let mut url: Url = db.url().parse().unwrap();
    url.set_path("no_such_database");
    assert_eq!(
        sentence(url.as_str()).await,
        format!(
            "cannot connect to postgres://{}:{}/no_such_database: database \"no_such_database\" does \
             not exist",
            url.host_str().unwrap(),
            url.port().unwrap()
        )
    );
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named_and_the_way_to_make_it_on_sqlite() {
    let dir = TempDir::new().unwrap();
    for (file, mode) in [("orders.sqlite", ""), ("no/such/folder.sqlite", "?mode=rwc")] {
        let url = format!("sqlite://{}", dir.path().join(file).display());
        assert_eq!(
            sentence(&format!("{url}{mode}")).await,
            format!(
                "cannot connect to {url}: unable to open database file (to create a missing file in an existing \
                 folder, append ?mode=rwc to the URL)"
            )
        );
    }
}

#[tokio::test]
async fn a_url_of_another_database_is_refused_by_its_scheme() {
    for url in
        ["mysql://ada:secret@localhost/orders", "mariadb://localhost", "mongodb://ada:secret@localhost"]
    {
        let scheme = url.split(':').next().unwrap();
        assert_eq!(
            sentence(url).await,
            format!("the database's URL must begin with postgres: or sqlite: (got {scheme}:)")
        );
    }
    assert_eq!(
        sentence("orders.sqlite").await,
        "the database's URL can't be read, relative URL without a base: expected postgres://user@host/database or \
         sqlite://orders.sqlite"
    );
}

/// Whatever is wrong, and wherever a password that is not encoded ends the host.
#[tokio::test]
async fn no_error_shows_a_password() {
    for url in [
        "postgres://ada:secret@127.0.0.1:1/orders",
        "postgres://ada:secret@127.0.0.1:1/orders?sslmode=nonsense",
        "postgres://127.0.0.1:1/orders?user=ada&password=secret",
        "postgres://ada:4711?secret@127.0.0.1:1/orders",
        "postgres://ada:4711/secret@127.0.0.1:1/orders",
        "postgres://ada:4711#secret@127.0.0.1:1/orders",
        "postgres://ada:se@secret@127.0.0.1:1/orders",
        "postgres://ada:secret/4711@127.0.0.1:1/orders",
        "postgres://ada:secret@127.0.0.1:none/orders",
        "postgres://ada:secret@[127.0.0.1/orders",
        "POSTGRES://ada:secret@127.0.0.1:1/orders",
        "postgres//ada:secret@127.0.0.1/orders",
        "ada:secret@127.0.0.1/orders",
        "mysql://ada:secret@127.0.0.1/orders",
    ] {
        let sentence = sentence(url).await;
        assert!(!sentence.contains("secret") && !sentence.contains("4711"), "{url}: {sentence}");
    }
}
