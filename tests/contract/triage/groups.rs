use chrono::Duration;
use dead_letters::{
    DeadLetterFilter, DeadLetterTriage, ErrorGroup, NewDeadLetter, ScriptId, SeaOrmDeadLetterRepo,
};
use sea_orm::DbBackend;
use uuid::Uuid;

use super::{any, letter, new_app, row_of, ten_oclock};
use crate::database::TestDb;

on_every_backend! {
    rows_that_failed_alike_are_one_group_the_largest_first,
    each_part_of_the_key_splits,
    a_group_without_script_names_its_newest_row,
    of_equal_groups_the_one_seen_last_comes_first,
    groups_of_one_count_and_time_go_by_their_key_byte_by_byte,
    of_rows_of_one_time_the_newest_has_the_largest_id,
    the_filter_and_the_app_hold_for_the_newest_row_too,
    limit_is_1_to_500,
}

async fn rows_that_failed_alike_are_one_group_the_largest_first(db: TestDb) {
    let app = new_app();
    let script = ScriptId::from(Uuid::new_v4());
    let failed = |error: String| NewDeadLetter { last_error: error, script_id: Some(script), ..letter(app) };
    let mut timeouts = Vec::new();
    // The newest by time is neither the last stored nor the one with the largest id.
    for (n, minute) in [(1, 2), (2, 9), (3, 4)] {
        let id = row_of(&db, failed(format!("timeout after {n}s\nattempt {n}"))).await;
        db.set_created_at(id, ten_oclock() + Duration::minutes(minute)).await;
        timeouts.push(id);
    }
    let refused = row_of(&db, failed("connection refused".to_owned())).await;
    db.set_created_at(refused, ten_oclock()).await;

    let group = |error_signature: &str, count, first, last, newest_id| ErrorGroup {
        source: "orders".to_owned(),
        op: "insert".to_owned(),
        script_id: Some(script),
        error_signature: error_signature.to_owned(),
        count,
        first_seen: ten_oclock() + Duration::minutes(first),
        last_seen: ten_oclock() + Duration::minutes(last),
        newest_id,
    };
    let largest = group("timeout after #s", 3, 2, 9, timeouts[1]);
    let second = group("connection refused", 1, 0, 0, refused);
    assert_eq!(db.repo().error_groups(app, &any(), 10).await.unwrap(), [largest.clone(), second]);
    assert_eq!(db.repo().error_groups(app, &any(), 1).await.unwrap(), [largest]);
}

async fn each_part_of_the_key_splits(db: TestDb) {
    let app = new_app();
    let plain = NewDeadLetter { script_id: None, ..letter(app) };
    for letter in [
        NewDeadLetter { source: "invoices".into(), ..plain.clone() },
        NewDeadLetter { op: "delete".into(), ..plain.clone() },
        NewDeadLetter { script_id: Some(Uuid::from_u128(1).into()), ..plain.clone() },
        NewDeadLetter { script_id: Some(Uuid::from_u128(2).into()), ..plain.clone() },
        NewDeadLetter { last_error: "other".into(), ..plain.clone() },
        plain.clone(),
        plain,
    ] {
        row_of(&db, letter).await;
    }
    let counts: Vec<_> =
        db.repo().error_groups(app, &any(), 10).await.unwrap().iter().map(|group| group.count).collect();
    assert_eq!(counts, [2, 1, 1, 1, 1, 1]);
}

async fn a_group_without_script_names_its_newest_row(db: TestDb) {
    let app = new_app();
    // Of the same time, key and app, but for the script.
    let with = row_of(&db, letter(app)).await;
    let without = row_of(&db, NewDeadLetter { script_id: None, ..letter(app) }).await;
    for id in [with, without] {
        db.set_created_at(id, ten_oclock()).await;
    }
    let groups = db.repo().error_groups(app, &any(), 10).await.unwrap();
    let newest =
        |has_script| groups.iter().find(|group| group.script_id.is_some() == has_script).unwrap().newest_id;
    assert_eq!((newest(true), newest(false)), (with, without));
}

async fn of_equal_groups_the_one_seen_last_comes_first(db: TestDb) {
    let app = new_app();
    for (error, minute) in [("b", 1), ("c", 3), ("a", 2)] {
        let id =
            row_of(&db, NewDeadLetter { last_error: error.into(), script_id: None, ..letter(app) }).await;
        db.set_created_at(id, ten_oclock() + Duration::minutes(minute)).await;
    }
    let groups = db.repo().error_groups(app, &any(), 10).await.unwrap();
    let signatures: Vec<_> = groups.iter().map(|group| group.error_signature.as_str()).collect();
    assert_eq!(signatures, ["c", "a", "b"]);
}

async fn groups_of_one_count_and_time_go_by_their_key_byte_by_byte(db: TestDb) {
    if db.db.get_database_backend() == DbBackend::Postgres {
        // A language's order is neither that of bytes nor SQLite's.
        db.execute(
            r#"ALTER TABLE dead_letters ALTER source TYPE text COLLATE "und-x-icu",
                   ALTER op TYPE text COLLATE "und-x-icu", ALTER error_signature TYPE text COLLATE "und-x-icu""#,
        )
        .await;
    }
    let app = new_app();
    let script = |n| Some(ScriptId::from(Uuid::from_u128(n)));
    let mut keys = vec![
        ("b", "x", script(1), "e"),
        ("_", "x", script(1), "e"),
        ("ab", "x", script(1), "e"),
        ("é", "x", script(1), "e"),
        ("a", "y", script(1), "e"),
        ("a", "Y", script(1), "e"),
        ("a", "x", None, "e"),
        ("a", "x", script(2), "e"),
        ("a", "x", script(1), "f"),
        ("a", "x", script(1), "F"),
        ("B", "x", script(1), "e"),
        ("a-c", "x", script(1), "e"),
    ];
    for &(source, op, script_id, error) in &keys {
        let (source, op, last_error) = (source.into(), op.into(), error.into());
        let id = row_of(&db, NewDeadLetter { source, op, script_id, last_error, ..letter(app) }).await;
        db.set_created_at(id, ten_oclock()).await;
    }
    // Without a script comes last.
    keys.sort_by_key(|&(source, op, script_id, error)| (source, op, script_id.is_none(), script_id, error));
    for limit in [3, 12] {
        let groups = db.repo().error_groups(app, &any(), limit).await.unwrap();
        let sorted: Vec<_> = groups
            .iter()
            .map(|group| (&*group.source, &*group.op, group.script_id, &*group.error_signature))
            .collect();
        assert_eq!(sorted, keys[..limit as usize]);
    }
}

async fn of_rows_of_one_time_the_newest_has_the_largest_id(db: TestDb) {
    let app = new_app();
    let same = NewDeadLetter { script_id: None, ..letter(app) };
    let mut stored = Vec::new();
    for _ in 0..3 {
        let id = row_of(&db, same.clone()).await;
        db.set_created_at(id, ten_oclock()).await;
        stored.push(id);
    }
    assert_eq!(db.repo().error_groups(app, &any(), 1).await.unwrap()[0].newest_id, stored[2]);
}

async fn the_filter_and_the_app_hold_for_the_newest_row_too(db: TestDb) {
    use dead_letters::DeadLetterRepo;
    let (app, other) = (new_app(), new_app());
    let same = NewDeadLetter { script_id: None, ..letter(app) };
    let kept = row_of(&db, same.clone()).await;
    let resolved = row_of(&db, same.clone()).await;
    let foreign = row_of(&db, NewDeadLetter { app_id: other, ..same }).await;
    for id in [kept, resolved, foreign] {
        db.set_created_at(id, ten_oclock()).await;
    }
    db.repo().resolve(resolved, "ignored").await.unwrap();
    let groups = db.repo().error_groups(app, &DeadLetterFilter::default(), 10).await.unwrap();
    assert_eq!(groups.len(), 1);
    assert_eq!((groups[0].count, groups[0].newest_id), (1, kept));
    assert_eq!(db.repo().error_groups(new_app(), &any(), 10).await.unwrap(), []);
}

async fn limit_is_1_to_500(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = SeaOrmDeadLetterRepo::new(recording);
    for limit in [0, 501] {
        let error = repo.error_groups(new_app(), &any(), limit).await.unwrap_err();
        assert_eq!(error.to_string(), format!("limit must be from 1 to 500, and is {limit}"));
    }
    assert_eq!(recorded.take(), []);
}
