use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use dead_letters::{
    DeadLetterFilter, DeadLetterRepo, DeadLetterRepoError, DeadLetterState, DeadLetterTransfer, Imported,
    PageRequest, SeaOrmDeadLetterRepo, StoredLetter, entity::dead_letters as table, testing::stored_letter,
};
use sea_orm::{ConnectionTrait, DbBackend, EntityTrait};
use uuid::Uuid;

use super::{import_of, insert::drop_silently, letter, new_app, time};

use crate::database::TestDb;

on_every_backend_and_key! {
    letters_are_stored_on_both_backends_as_they_were_exported_in_every_column,
    a_letter_that_is_already_stored_is_left_alone_and_counted,
    a_letter_that_comes_twice_is_stored_once,
    the_last_of_several_copies_in_one_call_is_stored,
    an_empty_import_sends_no_statement,
    more_than_1_000_letters_are_refused,
    a_letter_that_cant_be_stored_is_named_by_its_index_and_field_and_nothing_is_stored,
    a_resolution_that_a_newer_table_knows_is_stored,
    a_resolution_that_the_table_refuses_in_a_later_statement_leaves_nothing,
    a_letter_that_the_database_drops_silently_is_an_error_and_none_is_stored,
    a_rollback_of_the_callers_transaction_undoes_an_import,
    in_a_callers_transaction_letters_of_many_apps_go_in_one_statement,
    more_than_256_mb_are_refused_in_a_callers_transaction,
    concurrent_imports_of_the_same_letters_store_each_letter_once,
}

/// All letters, of whatever app, in the order of their ids.
async fn exported(db: &TestDb) -> Vec<StoredLetter> {
    let apps: BTreeSet<_> =
        table::Entity::find().all(&db.db).await.unwrap().iter().map(|row| row.app_id).collect();
    let all = DeadLetterFilter::default().state(DeadLetterState::Any);
    let page = PageRequest::default().size(500);
    let mut letters = Vec::new();
    for app in apps {
        letters.extend(db.repo().export(app.into(), &all, &page).await.unwrap().items);
    }
    letters.sort_by_key(|letter| letter.id);
    letters
}

/// Returns a closed letter in which no two columns are alike.
pub(crate) fn stored() -> StoredLetter {
    StoredLetter {
        resolved_at: Some(time("2026-03-02T09:00:00.000001Z")),
        resolution: Some("replayed".to_owned()),
        resolved_by: Some("ada".to_owned()),
        resolution_note: Some("the CRM was down".to_owned()),
        payload_kind: Some("text".to_owned()),
        replayed_payload: Some(r#"{"order": 4712}"#.to_owned()),
        metadata: Some(r#"{ "host": "a" , "host": "b" }"#.to_owned()),
        signature_version: 7,
        run_id: Some(Uuid::from_u128(7)),
        erased_at: Some(time("2026-03-03T08:00:00.5Z")),
        ..stored_letter(new_app(), time("2026-03-01T10:31:01Z"))
    }
}

async fn letters_are_stored_on_both_backends_as_they_were_exported_in_every_column(db: TestDb) {
    let unresolved = StoredLetter {
        resolved_at: None,
        resolution: None,
        resolved_by: None,
        resolution_note: None,
        ..stored()
    };
    let of_every_resolution = ["replayed", "ignored", "handled_by_script", "handler_failed"]
        .map(|resolution| StoredLetter { resolution: Some(resolution.to_owned()), ..stored() });
    let mut given = vec![
        unresolved,
        // NULL and empty text are two things.
        StoredLetter { resolved_by: None, resolution_note: Some(String::new()), ..stored() },
        StoredLetter { resolved_by: Some(String::new()), resolution_note: None, ..stored() },
        StoredLetter {
            resolved_by: Some("=".to_owned()),
            resolution_note: Some("\\N".to_owned()),
            ..stored()
        },
        StoredLetter { trigger_id: None, ..stored() },
        StoredLetter { script_id: None, ..stored() },
        StoredLetter {
            replayed_payload: None,
            metadata: None,
            run_id: None,
            erased_at: None,
            signature_version: 0,
            payload_kind: Some("erased".to_owned()),
            ..stored()
        },
        StoredLetter {
            replayed_payload: Some(String::new()),
            metadata: Some("{}".to_owned()),
            payload_kind: Some("truncated".to_owned()),
            ..stored()
        },
        // Through a Value each of these payloads would come back changed.
        StoredLetter { payload: "{broken".to_owned(), ..stored() },
        StoredLetter { payload: String::new(), ..stored() },
        StoredLetter { payload: r#"{"a": 1.10, "a": 18446744073709551616}"#.to_owned(), ..stored() },
        StoredLetter { payload: "[".repeat(1_000), ..stored() },
        StoredLetter {
            source: String::new(),
            op: "漢字 \u{1F600} \u{1}".to_owned(),
            last_error: "' \" \\ {NULL,\"\"}\r\n\t".to_owned(),
            error_signature: String::new(),
            attempt_count: i32::MAX as u32,
            ..stored()
        },
        StoredLetter {
            first_attempt_at: time("0001-01-01T00:00:00Z"),
            last_attempt_at: time("9999-12-31T23:59:59.999999Z"),
            created_at: time("1969-12-31T23:59:59.999999Z"),
            resolved_at: Some(time("0001-01-01T00:00:00.000001Z")),
            ..stored()
        },
    ];
    given.extend(of_every_resolution);
    let imported = db.repo().import(&given).await.unwrap();
    assert_eq!(imported, import_of(given.len() as u64, 0));
    // This is a letter that the store itself wrote.
    let id = db.repo().insert(letter(new_app())).await.unwrap();
    db.repo().resolve(id, "ignored").await.unwrap();
    let letters = exported(&db).await;
    for letter in &given {
        assert!(letters.contains(letter), "{letter:?}");
    }
    for target in [TestDb::sqlite().await, TestDb::postgres().await] {
        // From the newest, as an export goes.
        let newest_first: Vec<_> = letters.iter().rev().cloned().collect();
        let imported = target.repo().import(&newest_first).await.unwrap();
        assert_eq!(imported, import_of(letters.len() as u64, 0));
        let arrived = exported(&target).await;
        assert_eq!(arrived, letters);
    }
}

async fn a_letter_that_is_already_stored_is_left_alone_and_counted(db: TestDb) {
    let there = stored();
    db.repo().import(std::slice::from_ref(&there)).await.unwrap();
    // An id is of one row, or of one row an app where the key begins with that.
    let app_id = if db.keyed_by_app { there.app_id } else { new_app() };
    let changed = StoredLetter { app_id, payload: "{}".to_owned(), ..there.clone() };
    let others = [stored(), changed, stored()];
    assert_eq!(db.repo().import(&others).await.unwrap(), import_of(2, 1));
    assert_eq!(db.repo().import(&others).await.unwrap(), import_of(0, 3));
    let rows = exported(&db).await;
    assert_eq!(rows.len(), 3);
    assert!(rows.contains(&there));
}

async fn a_letter_that_comes_twice_is_stored_once(db: TestDb) {
    let twice = stored();
    let imported = db.repo().import(&[twice.clone(), stored(), twice]).await.unwrap();
    assert_eq!(imported, import_of(2, 1));
    assert_eq!(db.row_count().await, 2);
}

async fn the_last_of_several_copies_in_one_call_is_stored(db: TestDb) {
    let open = StoredLetter {
        resolved_at: None,
        resolution: None,
        resolved_by: None,
        resolution_note: None,
        ..stored()
    };
    let replayed = StoredLetter { id: open.id, app_id: open.app_id, ..stored() };
    // With so many letters between them, the two copies go into different statements, because a statement is
    // bounded.
    let others = || (0..300).map(|_| StoredLetter { app_id: open.app_id, ..stored() });
    let letters: Vec<_> =
        [open.clone()].into_iter().chain(others()).chain([replayed.clone()]).chain(others()).collect();
    let imported = db.repo().import(&letters).await.unwrap();
    assert_eq!(imported, import_of(601, 1));
    let row = db.repo().get(open.id).await.unwrap().unwrap();
    assert_eq!(row.resolved_at, replayed.resolved_at);
    // A stored letter is never overwritten.
    let imported = db.repo().import(&[replayed, open.clone()]).await.unwrap();
    assert_eq!(imported, import_of(0, 2));
    assert!(db.repo().get(open.id).await.unwrap().unwrap().resolved_at.is_some());
}

async fn an_empty_import_sends_no_statement(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let imported = db.repo_over(recording).import(&[]).await.unwrap();
    assert_eq!((imported, recorded.take().len()), (Imported::default(), 0));
}

async fn more_than_1_000_letters_are_refused(db: TestDb) {
    let mut letters: Vec<_> = (0..1_001).map(|_| stored()).collect();
    let error = db.repo().import(&letters).await.unwrap_err();
    assert_eq!(error.to_string(), "`letters` must have at most 1,000 items (got 1,001)");
    assert_eq!(db.row_count().await, 0);
    letters.pop();
    assert_eq!(db.repo().import(&letters).await.unwrap(), import_of(1_000, 0));
}

async fn a_letter_that_cant_be_stored_is_named_by_its_index_and_field_and_nothing_is_stored(db: TestDb) {
    let nul = || "before\0after".to_owned();
    let unstorable = [
        ("source", StoredLetter { source: nul(), ..stored() }),
        ("op", StoredLetter { op: nul(), ..stored() }),
        ("payload", StoredLetter { payload: nul(), ..stored() }),
        ("last_error", StoredLetter { last_error: nul(), ..stored() }),
        ("error_signature", StoredLetter { error_signature: nul(), ..stored() }),
        ("resolution", StoredLetter { resolution: Some(nul()), ..stored() }),
        ("resolved_by", StoredLetter { resolved_by: Some(nul()), ..stored() }),
        ("resolution_note", StoredLetter { resolution_note: Some(nul()), ..stored() }),
        ("attempt_count", StoredLetter { attempt_count: i32::MAX as u32 + 1, ..stored() }),
        ("resolved_at", StoredLetter { resolved_at: None, ..stored() }),
        ("resolution", StoredLetter { resolution: None, ..stored() }),
        ("resolution", StoredLetter { resolution: Some("forgotten".to_owned()), ..stored() }),
        ("resolution", StoredLetter { resolution: Some(String::new()), ..stored() }),
    ];
    for (field, unstorable) in unstorable {
        let error = db.repo().import(&[stored(), stored(), unstorable]).await.unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("the {field} of letter 2 can't be stored: it ")),
            "{error}"
        );
    }
    let outside = DateTime::<Utc>::MAX_UTC;
    let outside = [
        ("first_attempt_at", StoredLetter { first_attempt_at: outside, ..stored() }),
        ("last_attempt_at", StoredLetter { last_attempt_at: outside, ..stored() }),
        ("created_at", StoredLetter { created_at: time("0000-12-31T23:59:59.999999Z"), ..stored() }),
        ("resolved_at", StoredLetter { resolved_at: Some(outside), ..stored() }),
    ];
    for (field, outside) in outside {
        let error = db.repo().import(&[stored(), outside]).await.unwrap_err();
        assert_eq!(error.to_string(), format!("the {field} of letter 1 is outside the years 1 to 9999 UTC"));
    }
    assert_eq!(db.row_count().await, 0);
}

async fn a_resolution_that_a_newer_table_knows_is_stored(db: TestDb) {
    let newer = if db.db.get_database_backend() == DbBackend::Sqlite {
        // Its table would have to be built anew.
        let unchecked = db
            .connect_with(|options| {
                options.max_connections(1);
            })
            .await;
        unchecked.execute_unprepared("PRAGMA ignore_check_constraints = 1").await.unwrap();
        unchecked
    } else {
        db.execute("ALTER TABLE dead_letters DROP CONSTRAINT dead_letters_resolution_check").await;
        db.db.clone()
    };
    let letter = StoredLetter { resolution: Some("archived".to_owned()), ..stored() };
    let imported = db.repo_over(newer).import(std::slice::from_ref(&letter)).await.unwrap();
    assert_eq!(imported, import_of(1, 0));
    assert_eq!(exported(&db).await, [letter]);
}

async fn a_resolution_that_the_table_refuses_in_a_later_statement_leaves_nothing(db: TestDb) {
    let app_id = new_app();
    let large = || StoredLetter { app_id, payload: "x".repeat(6 << 20), ..stored() };
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let mut letters = vec![large(), large(), large(), StoredLetter { app_id, ..stored() }];
    letters[3].resolution = Some("forgotten".to_owned());
    let error = repo.import(&letters).await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::NotStorable { index: 3, field: "resolution" }), "{error}");
    let inserts = recorded.take().iter().filter(|sent| sent.sql.starts_with("INSERT")).count();
    assert_eq!((inserts, db.row_count().await), (2, 0));
    letters[3].resolution = Some("ignored".to_owned());
    assert_eq!(repo.import(&letters).await.unwrap(), import_of(4, 0));
}

async fn a_letter_that_the_database_drops_silently_is_an_error_and_none_is_stored(db: TestDb) {
    drop_silently(&db, "dropped").await;
    let letters = [stored(), StoredLetter { source: "dropped".to_owned(), ..stored() }];
    let error = db.repo().import(&letters).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the database did not store the row: a trigger, a rule or a policy prevents it"
    );
    assert_eq!(db.row_count().await, 0);
}

async fn a_rollback_of_the_callers_transaction_undoes_an_import(db: TestDb) {
    let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
    let imported = db.repo().in_transaction(&txn).import(&[stored(), stored()]).await.unwrap();
    assert_eq!(imported, import_of(2, 0));
    txn.rollback().await.unwrap();
    assert_eq!(db.row_count().await, 0);
}

/// Several statements could be left half done there, and committed.
async fn in_a_callers_transaction_letters_of_many_apps_go_in_one_statement(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let mut letters: Vec<_> = (0..1_000).map(|_| stored()).collect();
    for letter in &mut letters[..3] {
        letter.payload = "x".repeat(6 << 20);
    }
    let txn = SeaOrmDeadLetterRepo::begin(&recording).await.unwrap();
    let repo = db.repo().in_transaction(&txn);
    assert_eq!(repo.import(&letters[..900]).await.unwrap(), import_of(900, 0));
    assert_eq!(recorded.take().len(), 1);
    assert_eq!(repo.import(&letters).await.unwrap(), import_of(100, 900));
    let inserts = recorded.take().iter().filter(|sent| sent.sql.starts_with("INSERT")).count();
    assert_eq!(inserts, 1);
    SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
    assert_eq!(db.row_count().await, 1_000);
}

async fn more_than_256_mb_are_refused_in_a_callers_transaction(db: TestDb) {
    let large = || StoredLetter { last_error: "x".repeat(129 << 20), ..stored() };
    let (recording, recorded) = db.connect_recorded().await;
    let txn = SeaOrmDeadLetterRepo::begin(&recording).await.unwrap();
    let error = db.repo().in_transaction(&txn).import(&[large(), large()]).await.unwrap_err();
    assert!(
        matches!(error, DeadLetterRepoError::TooLargeForTransaction { argument: "letters", .. }),
        "{error}"
    );
    assert_eq!(recorded.take().len(), 0);
}

async fn concurrent_imports_of_the_same_letters_store_each_letter_once(db: TestDb) {
    for _ in 0..5 {
        let mut letters: Vec<_> = (0..1_000).map(|_| stored()).collect();
        let imports = (0..6).map(|_| {
            letters.reverse();
            let (repo, letters) = (db.repo(), letters.clone());
            tokio::spawn(async move { repo.import(&letters).await.unwrap() })
        });
        let mut sum = Imported::default();
        for import in imports.collect::<Vec<_>>() {
            let imported = import.await.unwrap();
            sum.stored += imported.stored;
            sum.present += imported.present;
        }
        assert_eq!(sum, import_of(1_000, 5_000));
    }
}

/// A sweeper at work on the same rows, say: here it comes between the import's own statements.
#[tokio::test]
async fn a_letter_that_is_deleted_while_it_is_imported_is_stored_on_postgres() {
    let db = TestDb::postgres().await;
    let old = StoredLetter { op: "old".to_owned(), ..stored() };
    db.repo().import(std::slice::from_ref(&old)).await.unwrap();
    db.execute(
        "CREATE FUNCTION sweep() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN DELETE FROM dead_letters WHERE op = ''old''; RETURN NULL; END';
         CREATE TRIGGER sweep AFTER INSERT ON dead_letters FOR EACH STATEMENT EXECUTE FUNCTION sweep()",
    )
    .await;
    let letter = StoredLetter { op: "insert".to_owned(), ..old };
    let imported = db.repo().import(&[letter.clone(), stored()]).await.unwrap();
    assert_eq!(imported, import_of(2, 0));
    assert!(exported(&db).await.into_iter().any(|row| row == letter));
}

/// The repo's caps are for what dispatchers hand over.
#[tokio::test]
async fn no_cap_keeps_a_letter_out_that_was_stored_before_on_sqlite() {
    let db = TestDb::sqlite().await;
    let capped = db.repo().max_payload_bytes(2).max_error_bytes(2);
    capped.insert(letter(new_app())).await.unwrap_err();
    let letter = stored();
    capped.import(std::slice::from_ref(&letter)).await.unwrap();
    assert_eq!(exported(&db).await, [letter]);
}
