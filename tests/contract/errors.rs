use std::{error::Error, sync::Arc, time::Duration};

use chrono::Utc;
use dead_letters::{
    DeadLetterId, DeadLetterRepo, DeadLetterRepoError, ErrorKind, NewDeadLetter, PayloadKind,
    SeaOrmDeadLetterRepo,
};
use sea_orm::{
    ConnAcquireErr, ConnectOptions, ConnectionTrait, Database, DbBackend, DbErr, IsolationLevel,
    TransactionTrait,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use url::Url;
use uuid::Uuid;

use super::{letter, new_app};
use crate::database::TestDb;

on_every_backend! {
    no_error_shows_a_rows_content,
    a_broken_constraint_is_named,
    a_missing_table_is_named,
    the_code_decides_whether_an_error_is_transient,
    a_busy_or_waiting_database_is_transient,
    a_commit_of_a_failed_transaction_is_an_error,
    while_the_database_is_gone_a_call_fails_and_the_next_works_when_it_is_back,
}

#[test]
fn each_error_is_of_one_kind() {
    use DeadLetterRepoError::{
        AlreadyResolved, Archive, Db, EventNotTaken, FilterMetadataLength, FromAfterUntil, InvalidCursor,
        InvalidQuery, InvalidResolution, InvalidState, MetadataTooLarge, MissingCreatedBefore, NotResolved,
        NotStorable, OutOfRange, PayloadNotWhole, PayloadTooLarge, Replayed, Requeue, RuntimeEnded,
        SinceInFuture, TimeOutOfRange, TooLargeForTransaction, TransactionLost,
    };
    use ErrorKind::{Conflict, Internal, Invalid, Transient};
    let id = DeadLetterId::from(Uuid::nil());
    let resolved = AlreadyResolved { id, resolution: None, resolved_at: Utc::now(), by: None };
    let truncated = PayloadNotWhole { id, kind: PayloadKind::Truncated };
    let kinds = [
        (ErrorKind::NotFound, vec![DeadLetterRepoError::NotFound(id)]),
        (Conflict, vec![resolved, truncated, NotResolved(id), Replayed(id), EventNotTaken { taken: 0 }]),
        (
            Invalid,
            vec![
                InvalidResolution(String::new()),
                InvalidState(String::new()),
                InvalidQuery { field: "sorce".to_owned(), problem: "is no field" },
                FilterMetadataLength { part: "key", bytes: 0, min: 1, max: 200 },
                OutOfRange { argument: "limit", value: 0, min: 1, max: 500 },
                MissingCreatedBefore,
                FromAfterUntil { from: Utc::now(), until: Utc::now() },
                SinceInFuture(Utc::now()),
                InvalidCursor,
                NotStorable { index: 0, field: "source" },
                PayloadTooLarge { index: 0, bytes: 3, max: 2 },
                MetadataTooLarge { index: 0, bytes: 3, max: 2 },
                TooLargeForTransaction { argument: "letters", unit: "bytes", size: 3, max: 2 },
                TimeOutOfRange { index: 0, field: "created_at" },
            ],
        ),
        (
            Transient,
            vec![
                Db(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)),
                Requeue(Arc::new(OfService(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)))),
            ],
        ),
        (
            Internal,
            vec![
                Db(DbErr::RecordNotUpdated),
                Requeue(Arc::from(Box::<dyn Error + Send + Sync>::from("the queue is full"))),
                Archive(Arc::from(Box::<dyn Error + Send + Sync>::from("the disk is full"))),
                EventNotTaken { taken: 2 },
                TransactionLost,
                RuntimeEnded,
            ],
        ),
    ];
    for (kind, errors) in kinds {
        for error in errors {
            assert_eq!((error.kind(), error.is_transient()), (kind, kind == Transient), "{error}");
        }
    }
}

/// As a service wraps the database's error.
#[derive(Debug, thiserror::Error)]
#[error("the outbox was not written")]
struct OfService(#[source] DbErr);

const CANARY: &str = "canary-4711";

async fn no_error_shows_a_rows_content(db: TestDb) {
    let refusals = if db.db.get_database_backend() == DbBackend::Sqlite {
        vec![
            "CREATE TRIGGER refuse BEFORE INSERT ON dead_letters BEGIN SELECT RAISE(ABORT, 'canary-4711'); END",
            // Its message quotes the text.
            "DROP TRIGGER refuse; CREATE INDEX quote ON dead_letters (json_extract('{}', source))",
            "DROP INDEX quote; CREATE UNIQUE INDEX only_one ON dead_letters (source)",
        ]
    } else {
        vec![
            // Its detail is the whole failing row.
            "ALTER TABLE dead_letters ADD CONSTRAINT refuse CHECK (attempt_count < 0)",
            // Its message quotes the text.
            "ALTER TABLE dead_letters DROP CONSTRAINT refuse;
             CREATE INDEX quote ON dead_letters ((CAST(source AS integer)))",
            "DROP INDEX quote;
             ALTER TABLE dead_letters ADD CONSTRAINT quote CHECK (CAST(source AS regclass) IS NOT NULL)",
            "ALTER TABLE dead_letters DROP CONSTRAINT quote,
                 ADD CONSTRAINT quote CHECK (CAST(source AS regtype) IS NOT NULL)",
            "ALTER TABLE dead_letters DROP CONSTRAINT quote;
             CREATE FUNCTION run() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN EXECUTE ''SELECT '' || quote_ident(NEW.source); END';
             CREATE TRIGGER run BEFORE INSERT ON dead_letters FOR EACH ROW EXECUTE FUNCTION run()",
            "DROP TRIGGER run ON dead_letters;
             CREATE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''%'', NEW.payload; END';
             CREATE TRIGGER raise BEFORE INSERT ON dead_letters FOR EACH ROW EXECUTE FUNCTION raise()",
            // Its detail is the key.
            "DROP TRIGGER raise ON dead_letters; CREATE UNIQUE INDEX only_one ON dead_letters (source)",
        ]
    };
    let sent = NewDeadLetter {
        source: CANARY.to_owned(),
        op: CANARY.to_owned(),
        payload: json!({ CANARY: CANARY }),
        last_error: CANARY.to_owned(),
        ..letter(new_app())
    };
    let mut whole_errors = String::new();
    for refusal in refusals {
        db.execute(refusal).await;
        if refusal.contains("UNIQUE") {
            db.repo().insert(sent.clone()).await.unwrap();
        }
        for error in [
            db.repo().insert(sent.clone()).await.unwrap_err(),
            db.repo().insert_many(vec![sent.clone(); 2]).await.unwrap_err(),
        ] {
            let shown = format!("{error} {error:?} {error:#?} {:?}", error.source());
            assert!(!shown.contains(CANARY), "{shown}");
            assert!(shown.contains("database error"), "{shown}");
            let DeadLetterRepoError::Db(whole) = error else { panic!("{error}") };
            whole_errors += &format!("{whole:?}");
        }
    }
    // Without the canary in the whole error this test would prove nothing.
    assert!(whole_errors.contains(CANARY), "{whole_errors}");
}

async fn a_broken_constraint_is_named(db: TestDb) {
    let sqlite = db.db.get_database_backend() == DbBackend::Sqlite;
    db.execute("CREATE UNIQUE INDEX only_one ON dead_letters (source)").await;
    db.repo().insert(letter(new_app())).await.unwrap();
    let error = db.repo().insert(letter(new_app())).await.unwrap_err();
    let expected = if sqlite {
        "database error 2067: UNIQUE constraint failed: dead_letters.source"
    } else {
        "database error 23505: table dead_letters, constraint only_one"
    };
    assert_eq!(error.to_string(), expected);

    db.execute("ALTER TABLE dead_letters ADD COLUMN region text NOT NULL DEFAULT ''").await;
    if !sqlite {
        db.execute("ALTER TABLE dead_letters ALTER COLUMN region DROP DEFAULT").await;
        let error = db.repo().insert(letter(new_app())).await.unwrap_err();
        assert_eq!(error.to_string(), "database error 23502: table dead_letters, column region");
    }
}

async fn a_missing_table_is_named(db: TestDb) {
    db.execute("DROP TABLE dead_letters").await;
    let error = db.repo().unresolved_count(new_app()).await.unwrap_err();
    let expected = if db.db.get_database_backend() == DbBackend::Sqlite {
        "database error 1: no such table: dead_letters"
    } else {
        r#"database error 42P01: relation "dead_letters" does not exist"#
    };
    assert_eq!(error.to_string(), expected);
}

async fn while_the_database_is_gone_a_call_fails_and_the_next_works_when_it_is_back(db: TestDb) {
    let app = new_app();
    let db_of_repo = db
        .connect_with(|options| {
            options
                .acquire_timeout(Duration::from_secs(10))
                .map_sqlx_sqlite_opts(|sqlite| sqlite.busy_timeout(Duration::from_millis(100)));
        })
        .await;
    let repo = db.repo_over(db_of_repo);
    repo.insert(letter(app)).await.unwrap();

    if db.db.get_database_backend() == DbBackend::Sqlite {
        // Another process that holds the file.
        let holder = db
            .connect_with(|options| {
                options.max_connections(1);
            })
            .await;
        holder.execute_unprepared("BEGIN EXCLUSIVE").await.unwrap();
        fails_with_db(&repo).await;
        holder.execute_unprepared("ROLLBACK").await.unwrap();
    } else {
        let mut maintenance_url: Url = db.url().parse().unwrap();
        let name = maintenance_url.path().trim_start_matches('/').to_owned();
        maintenance_url.set_path("postgres");
        let maintenance = Database::connect(maintenance_url.as_str()).await.unwrap();
        let run = async |sql: String| maintenance.execute_unprepared(&sql).await.unwrap();
        run(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
        run(format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")).await;
        fails_with_db(&repo).await;
        run(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
    }

    let id = repo.insert(letter(app)).await.unwrap();
    assert!(repo.get(id).await.unwrap().is_some());
    assert_eq!(repo.unresolved_count(app).await.unwrap(), 2);
}

async fn fails_with_db(repo: &SeaOrmDeadLetterRepo) {
    let error = repo.insert(letter(new_app())).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::Db(_)), "{error}");
}

/// The conditions that can't be brought about here, with the codes that PostgreSQL gives them.
async fn the_code_decides_whether_an_error_is_transient(db: TestDb) {
    if db.db.get_database_backend() == DbBackend::Sqlite {
        // SQLite's own: a database that may not grow is a full disk (13).
        let full = db
            .connect_with(|options| {
                options.max_connections(1);
            })
            .await;
        full.execute_unprepared("PRAGMA max_page_count = 30").await.unwrap();
        let repo = db.repo_over(full);
        let long = NewDeadLetter { last_error: "x".repeat(1 << 20), ..letter(new_app()) };
        let error = repo.insert(long).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("database error 13"), "{error}");
        let read_only = db
            .connect_with(|options| {
                options.map_sqlx_sqlite_opts(|sqlite| sqlite.pragma("query_only", "on"));
            })
            .await;
        let error = db.repo_over(read_only).insert(letter(new_app())).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("database error 8"), "{error}");
        return;
    }
    db.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN RAISE EXCEPTION ''refused'' USING ERRCODE = NEW.source; END';
         CREATE TRIGGER refuse BEFORE INSERT ON dead_letters FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    for (code, transient) in [
        ("40P01", true),
        ("40001", true),
        ("25006", true),
        ("53100", true),
        ("53200", true),
        ("53300", true),
        ("55P03", true),
        ("57014", true),
        ("57P01", true),
        ("57P02", true),
        ("57P03", true),
        ("08006", true),
        ("23505", false),
        ("23514", false),
        ("25P02", false),
        ("22001", false),
        ("42P01", false),
        ("42501", false),
        ("57P04", false),
        ("P0001", false),
        ("XX000", false),
    ] {
        let error =
            db.repo().insert(NewDeadLetter { source: code.into(), ..letter(new_app()) }).await.unwrap_err();
        assert_eq!(error.is_transient(), transient, "{code}: {error}");
        assert!(error.to_string().contains(code), "{error}");
    }
    assert!(!DeadLetterRepoError::NotFound(uuid::Uuid::nil().into()).is_transient());
}

async fn a_busy_or_waiting_database_is_transient(db: TestDb) {
    let app = new_app();
    let ids = db.repo().insert_many(vec![letter(app); 2]).await.unwrap();
    let impatient = db
        .connect_with(|options| {
            options
                .statement_timeout(Duration::from_millis(100))
                .map_sqlx_sqlite_opts(|sqlite| sqlite.busy_timeout(Duration::from_millis(100)));
        })
        .await;
    let holder = db.db.begin().await.unwrap();
    db.repo().in_transaction(&holder).resolve(ids[0], "ignored").await.unwrap();
    let error = db.repo_over(impatient).resolve(ids[0], "replayed").await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    holder.rollback().await.unwrap();
}

async fn a_commit_of_a_failed_transaction_is_an_error(db: TestDb) {
    let txn = db.db.begin().await.unwrap();
    db.repo().in_transaction(&txn).insert(letter(new_app())).await.unwrap();
    txn.execute_unprepared("SELECT * FROM no_such_table").await.unwrap_err();
    let outcome = SeaOrmDeadLetterRepo::commit(txn).await;
    if db.db.get_database_backend() == DbBackend::Sqlite {
        // There a failed statement undoes itself alone.
        outcome.unwrap();
        assert_eq!(db.row_count().await, 1);
        return;
    }
    let error = outcome.unwrap_err();
    assert!(error.to_string().contains("25P02") && !error.is_transient(), "{error}");
    assert_eq!(db.row_count().await, 0);

    // The trap itself: SeaORM's own commit says Ok, and nothing is stored.
    let txn = db.db.begin().await.unwrap();
    db.repo().in_transaction(&txn).insert(letter(new_app())).await.unwrap();
    txn.execute_unprepared("SELECT * FROM no_such_table").await.unwrap_err();
    txn.commit().await.unwrap();
    assert_eq!(db.row_count().await, 0);
}

/// A trigger may choose any code, and give the error any name.
#[tokio::test]
async fn a_trigger_shows_no_content_whatever_code_it_raises_on_postgres() {
    let db = TestDb::postgres().await;
    db.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
             RAISE EXCEPTION USING ERRCODE = NEW.op, MESSAGE = NEW.source, DETAIL = NEW.source, HINT = NEW.source,
                 COLUMN = NEW.source, CONSTRAINT = NEW.source, DATATYPE = NEW.source, TABLE = NEW.source,
                 SCHEMA = NEW.source;
         END';
         CREATE TRIGGER refuse BEFORE INSERT ON dead_letters FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    // Among them one that looks like what the driver would say of another error.
    let forged =
        r#"canary-4711", detail: None, position: Some(Original(1)), where: None, table: Some("t"), "#;
    for source in [CANARY, forged, "canary-4711, position: Some(Original(1)), where: None, "] {
        for code in [
            "08006", "22012", "23502", "23505", "23514", "25006", "28000", "40001", "42501", "42601",
            "42703", "42P01", "53100", "55000", "55P03", "57014", "57P01", "P0001", "XX000",
        ] {
            let sent = NewDeadLetter { source: source.into(), op: code.into(), ..letter(new_app()) };
            let error = db.repo().insert(sent).await.unwrap_err();
            assert_eq!(error.to_string(), format!("database error {code}"));
        }
    }
}

#[tokio::test]
async fn a_missing_right_is_named_on_postgres() {
    let db = TestDb::postgres().await;
    let role = format!("dead_letters_nobody_{}", uuid::Uuid::new_v4().simple());
    db.execute(&format!("CREATE ROLE {role}")).await;
    let txn = db.db.begin().await.unwrap();
    txn.execute_unprepared(&format!("SET LOCAL ROLE {role}")).await.unwrap();
    let error = db.repo().in_transaction(&txn).unresolved_count(new_app()).await.unwrap_err();
    assert_eq!(error.to_string(), "database error 42501: permission denied for table dead_letters");
    txn.rollback().await.unwrap();
    db.execute(&format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn a_deadlock_is_transient_on_postgres() {
    let db = TestDb::postgres().await;
    let app = new_app();
    let ids = db.repo().insert_many(vec![letter(app); 2]).await.unwrap();
    let (one, two) = (db.db.begin().await.unwrap(), db.db.begin().await.unwrap());
    db.repo().in_transaction(&one).resolve(ids[0], "ignored").await.unwrap();
    db.repo().in_transaction(&two).resolve(ids[1], "ignored").await.unwrap();
    // Each now waits for the other's row, until the server ends one of them.
    let (one, two) = tokio::join!(
        async {
            let outcome = db.repo().in_transaction(&one).resolve(ids[1], "ignored").await;
            one.rollback().await.unwrap();
            outcome
        },
        async {
            let outcome = db.repo().in_transaction(&two).resolve(ids[0], "ignored").await;
            two.rollback().await.unwrap();
            outcome
        },
    );
    let error = one.and(two).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("40P01"), "{error}");
}

#[tokio::test]
async fn a_serialization_failure_is_transient_on_postgres() {
    let db = TestDb::postgres().await;
    let id = db.repo().insert(letter(new_app())).await.unwrap();
    let txn = db.db.begin_with_config(Some(IsolationLevel::RepeatableRead), None).await.unwrap();
    let repo = db.repo().in_transaction(&txn);
    repo.get(id).await.unwrap();
    db.repo().resolve(id, "ignored").await.unwrap();
    let error = repo.resolve(id, "replayed").await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("40001"), "{error}");
}

#[tokio::test]
async fn a_read_only_server_is_transient_on_postgres() {
    let db = TestDb::postgres().await;
    let name = db.url().rsplit('/').next().unwrap().to_owned();
    db.execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let repo = db.repo_over(db.connect_with(|_| ()).await);
    let error = repo.insert(letter(new_app())).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("25006"), "{error}");
}

#[tokio::test]
async fn a_lost_connection_is_transient_and_the_next_call_works_on_postgres() {
    let db = TestDb::postgres().await;
    let app = new_app();
    // Without a ping before use, which would find out first.
    let db_of_repo = db
        .connect_with(|options| {
            options.max_connections(1).test_before_acquire(false);
        })
        .await;
    let repo = db.repo_over(db_of_repo);
    repo.insert(letter(app)).await.unwrap();
    // The pool pings the connection when it takes it back, which is behind the call.
    while repo.pool().get_postgres_connection_pool().num_idle() == 0 {
        tokio::task::yield_now().await;
    }
    db.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await;
    let error = repo.insert(letter(app)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    repo.insert(letter(app)).await.unwrap();
    assert_eq!(repo.unresolved_count(app).await.unwrap(), 2);
}

#[tokio::test]
async fn a_server_that_refuses_a_connection_before_tls_is_transient_on_postgres() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let refusing = tokio::spawn(async move {
        // A pool may ask more than once.
        while let Ok((mut client, _)) = server.accept().await {
            let mut request = [0; 8];
            client.read_exact(&mut request).await.unwrap();
            client.write_all(b"Ecould not fork new process for connection\0").await.unwrap();
        }
    });
    let mut options = ConnectOptions::new(format!("postgres://ada@{address}/db"));
    options.connect_lazy(true);
    let repo = SeaOrmDeadLetterRepo::new(Database::connect(options).await.unwrap());
    let error = repo.insert(letter(new_app())).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("refused the connection before it was encrypted"), "{error}");
    refusing.abort();
}
