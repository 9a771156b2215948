use chrono::{Duration, Utc};
use dead_letters::{
    Attribution, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, Resolution,
};
use sea_orm::{DbBackend, TransactionTrait};
use uuid::Uuid;

use super::{letter, new_app, row_of, seen};
use crate::database::TestDb;

on_every_backend! {
    an_unresolved_row_is_resolved_and_its_summary_is_returned,
    a_letter_may_be_resolved_without_name_and_note,
    a_nul_in_name_and_note_becomes_the_replacement_character,
    a_row_whose_handler_failed_is_open,
    the_error_of_a_closed_row_has_resolution_time_and_name_in_its_fields_alone,
    another_apps_row_is_not_found_in_any_call,
    one_of_two_callers_wins_and_its_resolution_is_stored,
    a_resolution_is_one_statement_on_postgres_and_a_transaction_of_few_elsewhere,
    a_row_that_the_database_hides_from_the_update_is_an_error,
    over_a_transaction_a_rollback_opens_the_row_again,
    a_reopened_row_is_as_it_was_before,
    a_row_whose_handler_failed_is_reopened,
    an_unresolved_row_is_not_reopened,
}

async fn an_unresolved_row_is_resolved_and_its_summary_is_returned(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let before = db.repo().get(id).await.unwrap().unwrap();
    // SQLite's clock goes by milliseconds.
    let from = Utc::now() - Duration::milliseconds(1);
    let summary = db.repo().resolve_once(app, id, Resolution::Ignored, &seen()).await.unwrap();
    let resolved_at = summary.resolved_at.unwrap();
    assert!(from <= resolved_at && resolved_at <= Utc::now());
    assert_eq!(db.repo().summary(app, id).await.unwrap().unwrap(), summary);
    let mut expected = before;
    expected.resolved_at = Some(resolved_at);
    expected.resolution = Some(Resolution::Ignored);
    expected.resolved_by = Some("ada".to_owned());
    expected.resolution_note = Some("seen".to_owned());
    assert_eq!(db.repo().get(id).await.unwrap().unwrap(), expected);
}

async fn a_letter_may_be_resolved_without_name_and_note(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    db.repo().resolve_once(app, id, Resolution::HandlerFailed, &seen()).await.unwrap();
    let row = db.repo().resolve_once(app, id, Resolution::Replayed, &Attribution::default()).await.unwrap();
    assert_eq!(
        (row.resolution, row.resolved_by, row.resolution_note),
        (Some(Resolution::Replayed), None, None)
    );
}

async fn a_nul_in_name_and_note_becomes_the_replacement_character(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let row = db
        .repo()
        .resolve_once(app, id, Resolution::Ignored, &Attribution::by("a\0").note("\0"))
        .await
        .unwrap();
    assert_eq!(
        (row.resolved_by.as_deref(), row.resolution_note.as_deref()),
        (Some("a\u{FFFD}"), Some("\u{FFFD}"))
    );
}

async fn a_row_whose_handler_failed_is_open(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    for resolution in [Resolution::HandlerFailed, Resolution::HandlerFailed, Resolution::Replayed] {
        let row = db.repo().resolve_once(app, id, resolution, &seen()).await.unwrap();
        assert_eq!(row.resolution, Some(resolution));
    }
    assert!(db.repo().resolve_once(app, id, Resolution::Ignored, &seen()).await.is_err());
}

async fn the_error_of_a_closed_row_has_resolution_time_and_name_in_its_fields_alone(db: TestDb) {
    let app = new_app();
    for closed in [Resolution::Replayed, Resolution::Ignored, Resolution::HandledByScript] {
        let id = row_of(&db, letter(app)).await;
        let by = Attribution::by("Ada Lovelace").note("seen");
        let first = db.repo().resolve_once(app, id, closed, &by).await.unwrap();
        let error = db.repo().resolve_once(app, id, Resolution::Replayed, &seen()).await.unwrap_err();
        // Neither of which tells who it was.
        assert!(!format!("{error} {error:?}").contains("Ada"), "{error}");
        let DeadLetterRepoError::AlreadyResolved { id: of, resolution, resolved_at, by } = error else {
            panic!("{error}")
        };
        assert_eq!((of, resolution, Some(resolved_at)), (id, Some(closed), first.resolved_at));
        assert_eq!(by.as_deref(), Some("Ada Lovelace"));
        assert_eq!(db.repo().summary(app, id).await.unwrap().unwrap(), first);
    }
}

async fn another_apps_row_is_not_found_in_any_call(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let unresolved = row_of(&db, letter(other)).await;
    let resolved = row_of(&db, letter(other)).await;
    db.repo().resolve(resolved, "ignored").await.unwrap();
    for id in [unresolved, resolved, Uuid::now_v7().into()] {
        let before = db.repo().get(id).await.unwrap();
        let not_found = |error: DeadLetterRepoError| {
            assert!(matches!(error, DeadLetterRepoError::NotFound(of) if of == id), "{error}");
        };
        not_found(db.repo().resolve_once(app, id, Resolution::Ignored, &seen()).await.unwrap_err());
        not_found(db.repo().reopen(app, id, &Attribution::default()).await.unwrap_err());
        let replayed: Result<(), _> =
            db.repo().replay_with(app, id, &Attribution::default(), async |_, _| panic!("enqueued")).await;
        not_found(replayed.unwrap_err());
        assert_eq!(db.repo().get(id).await.unwrap(), before);
    }
}

async fn one_of_two_callers_wins_and_its_resolution_is_stored(db: TestDb) {
    let app = new_app();
    for _ in 0..100 {
        let id = row_of(&db, letter(app)).await;
        let race = [Resolution::Replayed, Resolution::Ignored].map(|resolution| {
            let repo = db.repo();
            tokio::spawn(async move { repo.resolve_once(app, id, resolution, &seen()).await })
        });
        let mut winners = Vec::new();
        for caller in race {
            match caller.await.unwrap() {
                Ok(row) => winners.push(row),
                Err(error) => {
                    assert!(matches!(error, DeadLetterRepoError::AlreadyResolved { .. }), "{error}")
                }
            }
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(db.repo().summary(app, id).await.unwrap().unwrap(), winners[0]);
    }
}

async fn a_resolution_is_one_statement_on_postgres_and_a_transaction_of_few_elsewhere(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let (recording, recorded) = db.connect_recorded().await;
    db.repo_over(recording).resolve_once(app, id, Resolution::Ignored, &seen()).await.unwrap();
    let sent: Vec<_> = recorded.take().into_iter().map(|sent| sent.sql).collect();
    let expected: &[&str] = match db.db.get_database_backend() {
        DbBackend::Sqlite => &["SELECT", "UPDATE", "INSERT"],
        _ if db.sharded => &["WITH", "INSERT"],
        _ => &["WITH"],
    };
    let verbs: Vec<_> = sent.iter().map(|sql| sql.split(' ').next().unwrap()).collect();
    assert_eq!(verbs, expected, "{sent:?}");
}

async fn a_row_that_the_database_hides_from_the_update_is_an_error(db: TestDb) {
    let app = new_app();
    let (unresolved, resolved) = (row_of(&db, letter(app)).await, row_of(&db, letter(app)).await);
    db.repo().resolve(resolved, "ignored").await.unwrap();
    db.execute(if db.db.get_database_backend() == DbBackend::Sqlite {
        "CREATE TRIGGER pass_over BEFORE UPDATE ON dead_letters BEGIN SELECT RAISE(IGNORE); END"
    } else {
        "CREATE FUNCTION pass_over() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER pass_over BEFORE UPDATE ON dead_letters FOR EACH ROW EXECUTE FUNCTION pass_over()"
    })
    .await;
    let closed = db.repo().resolve_once(app, unresolved, Resolution::Ignored, &seen()).await;
    let reopened = db.repo().reopen(app, resolved, &Attribution::default()).await;
    for error in [closed.unwrap_err(), reopened.unwrap_err()] {
        assert_eq!(
            error.to_string(),
            "the database did not change the row: a trigger, a rule or a policy prevents it"
        );
    }
}

async fn over_a_transaction_a_rollback_opens_the_row_again(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let txn = db.db.begin().await.unwrap();
    let repo = db.repo().in_transaction(&txn);
    repo.resolve_once(app, id, Resolution::Ignored, &seen()).await.unwrap();
    assert!(repo.get_for_app(app, id).await.unwrap().unwrap().resolution.is_some());
    txn.rollback().await.unwrap();
    db.repo().resolve_once(app, id, Resolution::Replayed, &seen()).await.unwrap();
}

async fn a_reopened_row_is_as_it_was_before(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let before = db.repo().get(id).await.unwrap();
    db.repo().resolve_once(app, id, Resolution::Ignored, &seen()).await.unwrap();
    db.repo().reopen(app, id, &Attribution::default()).await.unwrap();
    assert_eq!(db.repo().get(id).await.unwrap(), before);
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 1);
}

async fn a_row_whose_handler_failed_is_reopened(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    db.repo().resolve(id, "handler_failed").await.unwrap();
    db.repo().reopen(app, id, &Attribution::default()).await.unwrap();
    assert_eq!(db.repo().get(id).await.unwrap().unwrap().resolution, None);
}

async fn an_unresolved_row_is_not_reopened(db: TestDb) {
    let app = new_app();
    let id = row_of(&db, letter(app)).await;
    let error = db.repo().reopen(app, id, &Attribution::default()).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::NotResolved(of) if of == id), "{error}");
}
