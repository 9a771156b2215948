use std::{error::Error, time::Duration};

use dead_letters::{DeadLetterRepo, DeadLetterRepoError, NewDeadLetter, SeaOrmDeadLetterRepo};
use sea_orm::{ConnectionTrait, Database, DbBackend};
use serde_json::json;
use url::Url;

use super::{letter, new_app};
use crate::database::TestDb;

on_every_backend! {
    no_error_shows_a_rows_content,
    a_missing_table_is_named,
    while_the_database_is_gone_a_call_fails_and_the_next_works_when_it_is_back,
}

const CANARY: &str = "canary-4711";

async fn no_error_shows_a_rows_content(db: TestDb) {
    let refusals = if db.db.get_database_backend() == DbBackend::Sqlite {
        vec![
            "CREATE TRIGGER refuse BEFORE INSERT ON dead_letters BEGIN SELECT RAISE(ABORT, 'canary-4711'); END",
            "DROP TRIGGER refuse; CREATE UNIQUE INDEX only_one ON dead_letters (source)",
        ]
    } else {
        vec![
            // Its detail is the whole failing row.
            "ALTER TABLE dead_letters ADD CONSTRAINT refuse CHECK (attempt_count < 0)",
            // Its message quotes the text.
            "ALTER TABLE dead_letters DROP CONSTRAINT refuse;
             CREATE INDEX quote ON dead_letters ((CAST(source AS integer)))",
            "DROP INDEX quote;
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
    // Else this would show nothing.
    assert!(whole_errors.contains(CANARY), "{whole_errors}");
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
                .acquire_timeout(Duration::from_millis(500))
                .map_sqlx_sqlite_opts(|sqlite| sqlite.busy_timeout(Duration::from_millis(100)));
        })
        .await;
    let repo = SeaOrmDeadLetterRepo::new(db_of_repo);
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
