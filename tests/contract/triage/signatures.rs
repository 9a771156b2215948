//! Signatures that a service made, those of cut errors, and their rebuild.

use dead_letters::{
    DeadLetterId, DeadLetterRead, DeadLetterRepo, DeadLetterTransfer, NewDeadLetter, RebuildCursor,
    RebuildRequest, Rebuilt, SeaOrmDeadLetterRepo, StoredLetter,
    entity::dead_letters as table,
    testing::{error_signature, stored_letter},
};
use sea_orm::{DbBackend, EntityTrait, QuerySelect, TransactionTrait, sea_query::LockType};

use super::{any, letter, new_app, row_of, ten_oclock};
use crate::database::TestDb;

on_every_backend! {
    a_services_own_signature_is_stored_and_groups,
    the_signature_is_that_of_the_error_as_it_is_stored,
    a_rebuild_changes_stale_signatures_alone,
    a_rebuild_gives_keys_to_what_another_writer_stored,
    a_rebuild_reads_an_errors_beginning_and_its_end_as_an_insert_does,
    a_rebuild_reads_16_mb_at_most,
    a_dry_run_returns_which_groups_split_and_merge_and_changes_nothing,
    a_rebuild_continues_after_the_last_letter_and_may_begin_anew,
    a_rebuilds_limit_is_1_to_500,
}

async fn row(db: &TestDb, id: DeadLetterId) -> table::Model {
    table::Entity::find_by_id(id.into_inner()).one(&db.db).await.unwrap().unwrap()
}

/// Makes it a letter whose signature the first version of the rules made.
async fn make_stale(db: &TestDb, id: DeadLetterId, signature: &str) {
    let mut stale = sea_orm::IntoActiveModel::into_active_model(row(db, id).await);
    stale.error_signature = sea_orm::Set(signature.to_owned());
    stale.signature_version = sea_orm::Set(1);
    stale.group_key = sea_orm::Set(format!("key of {signature}"));
    table::Entity::update(stale).exec(&db.db).await.unwrap();
}

async fn rebuild(repo: &SeaOrmDeadLetterRepo) -> Rebuilt {
    repo.rebuild_signatures(&RebuildRequest::default()).await.unwrap()
}

async fn a_services_own_signature_is_stored_and_groups(db: TestDb) {
    let app = new_app();
    let own = |signature: &str, error: &str| NewDeadLetter {
        error_signature: Some(signature.to_owned()),
        last_error: error.to_owned(),
        script_id: None,
        ..letter(app)
    };
    let declined = row_of(&db, own("CardDeclined", "card of ada: do not honor")).await;
    row_of(&db, own("CardDeclined", "something else")).await;
    let nul = row_of(&db, own("a\0b", "no")).await;
    let long = row_of(&db, own(&"é".repeat(600), "no")).await;
    let empty = row_of(&db, own("", "no stock for order 17")).await;
    let ids = db.repo().insert_many(vec![own("CardDeclined", "many"), own("other", "many")]).await.unwrap();

    let stored = row(&db, declined).await;
    assert_eq!((stored.error_signature.as_str(), stored.signature_version), ("CardDeclined", 0));
    assert_eq!(row(&db, nul).await.error_signature, "a\u{FFFD}b");
    assert_eq!(row(&db, long).await.error_signature, "é".repeat(200));
    let stored_empty = row(&db, empty).await;
    assert_eq!(
        (stored_empty.error_signature.as_str(), stored_empty.signature_version),
        ("no stock for order #", 2)
    );
    assert_eq!(row(&db, ids[0]).await.group_key, stored.group_key);
    assert_ne!(row(&db, ids[1]).await.group_key, stored.group_key);
    let groups = db.repo().error_groups(app, &any(), &Default::default()).await.unwrap().groups;
    assert_eq!((groups[0].count, groups[0].error_signature.as_str()), (3, "CardDeclined"));
    assert_eq!(groups[0].sample, "many");

    assert_eq!(rebuild(&db.repo()).await.stale, 0);
    assert_eq!(row(&db, declined).await, stored);
}

async fn the_signature_is_that_of_the_error_as_it_is_stored(db: TestDb) {
    let app = new_app();
    let repo = db.repo().max_error_bytes(1_000);
    let frames = "  File \"/app/é.py\", line 17, in place\n".repeat(100);
    let traceback = format!("Traceback (most recent call last):\n{frames}KeyError: 'order'");
    for error in [traceback, "é".repeat(700), format!("no stock {}", "x".repeat(5_000)), "short".to_owned()]
    {
        let id = repo.insert(NewDeadLetter { last_error: error.clone(), ..letter(app) }).await.unwrap();
        let stored = row(&db, id).await;
        assert!(stored.last_error.len() <= 1_000);
        assert_eq!(stored.error_signature, error_signature(&stored.last_error));
        make_stale(&db, id, "old").await;
        rebuild(&repo).await;
        assert_eq!(row(&db, id).await, stored);
        if error.starts_with("Traceback") {
            assert_eq!(stored.error_signature, "KeyError: 'order'");
        }
    }
}

async fn a_rebuild_changes_stale_signatures_alone(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let of = |app, error: &str| NewDeadLetter { last_error: error.to_owned(), ..letter(app) };
    let mut kept = Vec::new();
    // The three rows have this version's signature, a newer version's signature, and erased content.
    for change in ["", "signature_version = 3", "signature_version = 1, erased_at = created_at"] {
        let id = row_of(&db, of(app, "no stock for order 17")).await;
        if !change.is_empty() {
            let set = format!("UPDATE dead_letters SET error_signature = 'kept', {change} WHERE id = ");
            set_of(&db, &set, id).await;
        }
        kept.push(row(&db, id).await);
    }
    let mut stale = Vec::new();
    for app in [app, other] {
        let id = row_of(&db, of(app, "no stock for order 17")).await;
        let current = row(&db, id).await;
        make_stale(&db, id, "no stock").await;
        stale.push(current);
    }
    let rebuilt = rebuild(&db.repo()).await;
    assert_eq!((rebuilt.examined, rebuilt.stale, rebuilt.updated, rebuilt.next), (5, 2, 2, None));
    let mut moved: Vec<_> = rebuilt.regrouped.iter().map(|moved| (moved.app_id, moved.letters)).collect();
    moved.sort();
    let mut apps = [(app, 1), (other, 1)];
    apps.sort();
    assert_eq!(moved, apps);
    for before in kept.into_iter().chain(stale) {
        assert_eq!(row(&db, before.id.into()).await, before);
    }
    assert_eq!(rebuild(&db.repo()).await.stale, 0);
}

async fn set_of(db: &TestDb, set: &str, id: DeadLetterId) {
    let id = match db.db.get_database_backend() {
        DbBackend::Sqlite => format!("x'{}'", id.into_inner().simple()),
        _ => format!("'{id}'"),
    };
    db.execute(&format!("{set}{id}")).await;
}

async fn a_rebuild_gives_keys_to_what_another_writer_stored(db: TestDb) {
    let app = new_app();
    let plain = row_of(&db, letter(app)).await;
    let own = row_of(&db, NewDeadLetter { error_signature: Some("own".to_owned()), ..letter(app) }).await;
    let (with_rules, with_own) = (row(&db, plain).await, row(&db, own).await);
    // As its columns' defaults have it, and with a signature that the writer made.
    let set =
        "UPDATE dead_letters SET signature_version = 0, error_signature = '', group_key = '' WHERE id = ";
    set_of(&db, set, plain).await;
    set_of(&db, "UPDATE dead_letters SET group_key = '' WHERE id = ", own).await;
    let rebuilt = rebuild(&db.repo()).await;
    assert_eq!((rebuilt.stale, rebuilt.updated), (2, 2));
    assert_eq!(row(&db, plain).await, with_rules);
    assert_eq!(row(&db, own).await.group_key, with_own.group_key);
    assert_eq!(row(&db, own).await.signature_version, 0);
}

async fn a_rebuild_reads_an_errors_beginning_and_its_end_as_an_insert_does(db: TestDb) {
    let app = new_app();
    let head = "Traceback (most recent call last):\n";
    let repo = db.repo();
    // Around what is read of an error at its beginning, and at both ends.
    for characters in
        [60, 16_383, 16_384, 16_385, 16_386, 32_767, 32_768, 32_769, 32_770, 32_771, 32_772, 100_000]
    {
        for (n, frame) in ["  x\n", "  éx\n", "x", "é"].into_iter().enumerate() {
            let last = format!("\nKey{n}Error: no");
            let mut error = head.to_owned();
            error.extend(frame.chars().cycle().take(characters - head.len() - last.chars().count()));
            error.push_str(&last);
            assert_eq!(error.chars().count(), characters);
            let id = row_of(&db, NewDeadLetter { last_error: error, ..letter(app) }).await;
            let stored = row(&db, id).await;
            assert!(characters < 100 || n > 1 || stored.error_signature.ends_with("Error: no"), "{stored:?}");
            make_stale(&db, id, "old").await;
            assert_eq!(rebuild(&repo).await.updated, 1, "{characters}");
            let rebuilt = row(&db, id).await.error_signature;
            assert_eq!(rebuilt, stored.error_signature, "{characters} {n}");
            db.execute("DELETE FROM dead_letters").await;
        }
    }
}

async fn a_rebuild_reads_16_mb_at_most(db: TestDb) {
    let app = new_app();
    let large = |source: &str| NewDeadLetter { source: source.repeat(6 << 20), ..letter(app) };
    let mut ids = Vec::new();
    for source in ["a", "b", "c", "d"] {
        ids.push(row_of(&db, large(source)).await);
    }
    // Letters that are current are not read.
    let mut request = RebuildRequest::default();
    assert_eq!(db.repo().rebuild_signatures(&request).await.unwrap().examined, 4);
    for &id in &ids {
        make_stale(&db, id, "old").await;
    }
    let mut examined = Vec::new();
    loop {
        let rebuilt = db.repo().rebuild_signatures(&request).await.unwrap();
        assert_eq!(rebuilt.examined, rebuilt.updated);
        examined.push(rebuilt.examined);
        request.after = rebuilt.next;
        if request.after.is_none() {
            break;
        }
    }
    assert_eq!(examined, [2, 2]);
}

async fn a_dry_run_returns_which_groups_split_and_merge_and_changes_nothing(db: TestDb) {
    let app = new_app();
    let mut stale = Vec::new();
    for (error, old) in [
        ("no stock for order 17", "a"),
        ("no stock for order 18", "a"),
        ("no stock for order 19", "b"),
        ("upstream returned 502", "b"),
    ] {
        let new = NewDeadLetter { last_error: error.to_owned(), script_id: None, ..letter(app) };
        let id = row_of(&db, new).await;
        let key = row(&db, id).await.group_key;
        make_stale(&db, id, old).await;
        stale.push((row(&db, id).await, key));
    }
    let request = RebuildRequest::default().dry_run(true);
    let found = db.repo().rebuild_signatures(&request).await.unwrap();
    assert_eq!((found.examined, found.stale, found.updated), (4, 4, 0));
    let mut moves: Vec<_> = found
        .regrouped
        .iter()
        .map(|moved| {
            assert_eq!(moved.app_id, app);
            let keys = (moved.from.as_str(), moved.to.as_str());
            (keys, moved.signature_before.as_str(), moved.signature_after.as_str(), moved.letters)
        })
        .collect();
    moves.sort_by_key(|&(.., before, after, _)| (before, after));
    let (stock, upstream) = (&*stale[0].1, &*stale[3].1);
    assert_eq!(
        moves,
        [
            (("key of a", stock), "a", "no stock for order #", 2),
            (("key of b", stock), "b", "no stock for order #", 1),
            (("key of b", upstream), "b", "upstream returned 502", 1),
        ]
    );
    for (before, _) in stale {
        assert_eq!(row(&db, before.id.into()).await, before);
    }
}

async fn a_rebuild_continues_after_the_last_letter_and_may_begin_anew(db: TestDb) {
    let app = new_app();
    let letters: Vec<_> = (0..7).map(|_| stored_letter(app, ten_oclock())).collect();
    db.repo().import(&letters).await.unwrap();
    let mut ids: Vec<_> = letters.iter().map(|letter| letter.id).collect();
    ids.sort();
    for &id in &ids {
        make_stale(&db, id, "old").await;
    }
    let mut request = RebuildRequest::default().limit(3);
    let mut pages = Vec::new();
    for _ in 0..2 {
        let rebuilt = db.repo().rebuild_signatures(&request).await.unwrap();
        pages.push((rebuilt.examined, rebuilt.updated, rebuilt.next));
        request.after = rebuilt.next;
    }
    let cursor = |id| RebuildCursor { app_id: app, id };
    assert_eq!(pages, [(3, 3, Some(cursor(ids[2]))), (3, 3, Some(cursor(ids[5])))]);
    // It was interrupted here.
    let rebuilt = rebuild(&db.repo()).await;
    assert_eq!((rebuilt.examined, rebuilt.stale, rebuilt.updated, rebuilt.next), (7, 1, 1, None));
    let empty = RebuildRequest::default().after(cursor(ids[6]));
    assert_eq!(db.repo().rebuild_signatures(&empty).await.unwrap(), Rebuilt::default());
}

async fn a_rebuilds_limit_is_1_to_500(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    for limit in [0, 501] {
        let request = RebuildRequest::default().limit(limit);
        let error = repo.rebuild_signatures(&request).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "`limit` must be between 1 and 500 (got {})",
                dead_letters::CappedCount::from(u64::from(limit))
            )
        );
    }
    assert_eq!(recorded.take(), []);
}

#[tokio::test]
async fn a_rebuild_examines_an_id_that_two_apps_have_twice_where_it_is_sharded() {
    let db = TestDb::postgres_sharded().await;
    let mut apps = [new_app(), new_app()];
    apps.sort();
    let of = |app| stored_letter(app, ten_oclock());
    let (first, second) = (of(apps[0]), of(apps[1]));
    let second = StoredLetter { id: first.id, ..second };
    db.repo().import(&[first, second]).await.unwrap();
    db.execute("UPDATE dead_letters SET signature_version = 1").await;
    let mut request = RebuildRequest::default().limit(1);
    let one = db.repo().rebuild_signatures(&request).await.unwrap();
    assert_eq!((one.updated, one.next.map(|next| next.app_id)), (1, Some(apps[0])));
    request.after = one.next;
    let other = db.repo().rebuild_signatures(&request).await.unwrap();
    assert_eq!((other.updated, other.next), (1, None));
}

#[tokio::test]
async fn a_rebuild_skips_letters_that_are_locked_on_postgres() {
    let db = TestDb::postgres().await;
    let app = new_app();
    let [locked, free] = [row_of(&db, letter(app)).await, row_of(&db, letter(app)).await];
    for id in [locked, free] {
        make_stale(&db, id, "old").await;
    }
    let txn = db.db.begin().await.unwrap();
    let lock = table::Entity::find_by_id(locked.into_inner()).lock(LockType::Update);
    lock.one(&txn).await.unwrap().unwrap();
    let rebuilt = rebuild(&db.repo()).await;
    assert_eq!((rebuilt.stale, rebuilt.updated), (2, 1));
    assert_eq!(row(&db, locked).await.error_signature, "old");
    txn.rollback().await.unwrap();
    assert_eq!(rebuild(&db.repo()).await.updated, 1);
}
