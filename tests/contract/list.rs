use chrono::Duration;
use dead_letters::{
    AppId, DeadLetterId, DeadLetterRepo, DeadLetterRepoError, NewDeadLetter, Resolution,
    entity::dead_letters as table,
};
use sea_orm::{DbBackend, EntityTrait, QueryFilter, sea_query::Expr};
use serde_json::{Value, json};

use super::{letter, new_app, time};
use crate::database::{TestDb, ids};

on_every_backend! {
    newest_come_first,
    ties_go_by_id_largest_first,
    pages_of_a_table_at_rest_neither_repeat_nor_skip_a_row,
    only_the_apps_own_rows_are_listed,
    resolved_rows_are_left_out_on_request,
    limit_0_returns_nothing,
    an_offset_past_the_end_returns_nothing,
    the_largest_limit_and_offset_are_fine,
    a_negative_limit_or_offset_is_refused_and_nothing_is_sent,
    the_order_stands_in_the_statement,
    a_broken_payload_comes_back_as_text_and_the_rest_of_the_page_is_there,
    a_resolution_of_a_newer_version_costs_its_field_alone,
    whole_seconds_and_fractions_sort_by_time,
    the_count_is_of_the_apps_unresolved_rows,
    the_count_of_an_unknown_app_is_0,
}

/// Rows of one app, each a minute younger than the one before it.
async fn rows(db: &TestDb, app: AppId, count: i32) -> Vec<DeadLetterId> {
    let mut stored = Vec::new();
    for minute in 0..count {
        let id = db.repo().insert(letter(app)).await.unwrap();
        db.set_created_at(id, time("2026-03-01T10:00:00Z") + Duration::minutes(minute.into())).await;
        stored.push(id);
    }
    stored
}

async fn newest_come_first(db: TestDb) {
    let app = new_app();
    let mut stored = Vec::new();
    // In an order that is neither the ids' nor its reverse.
    for minute in [3, 1, 4, 0, 2] {
        let id = db.repo().insert(letter(app)).await.unwrap();
        db.set_created_at(id, time("2026-03-01T10:00:00Z") + Duration::minutes(minute)).await;
        stored.push((minute, id));
    }
    stored.sort_by_key(|(minute, _)| -minute);
    let newest_first: Vec<_> = stored.into_iter().map(|(_, id)| id).collect();
    assert_eq!(ids(&db.repo().list_for_app(app, false, 10, 0).await.unwrap()), newest_first);
    assert_eq!(ids(&db.repo().list_for_app(app, true, 10, 0).await.unwrap()), newest_first);
}

/// Rows of one app with one `created_at`.
async fn rows_of_one_time(db: &TestDb, app: AppId, count: usize) -> Vec<DeadLetterId> {
    let mut stored = db.repo().insert_many(vec![letter(app); count]).await.unwrap();
    for &id in &stored {
        db.set_created_at(id, time("2026-03-01T10:00:00Z")).await;
    }
    stored.sort();
    stored.reverse();
    stored
}

async fn ties_go_by_id_largest_first(db: TestDb) {
    let app = new_app();
    let largest_first = rows_of_one_time(&db, app, 5).await;
    assert_eq!(ids(&db.repo().list_for_app(app, false, 10, 0).await.unwrap()), largest_first);
}

async fn pages_of_a_table_at_rest_neither_repeat_nor_skip_a_row(db: TestDb) {
    let app = new_app();
    let mut stored = rows(&db, app, 10).await;
    stored.reverse();
    // They are newer than the ties of 10:00.
    let at_ten = stored.pop().unwrap();
    let mut ties = rows_of_one_time(&db, app, 20).await;
    ties.push(at_ten);
    ties.sort();
    ties.reverse();
    stored.extend(ties);
    let mut paged = Vec::new();
    for page in 0.. {
        let page = db.repo().list_for_app(app, false, 7, page * 7).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(ids(&page));
    }
    assert_eq!(paged, stored);
}

async fn only_the_apps_own_rows_are_listed(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let own = db.repo().insert(letter(app)).await.unwrap();
    db.repo().insert(letter(other)).await.unwrap();
    for unresolved_only in [true, false] {
        assert_eq!(ids(&db.repo().list_for_app(app, unresolved_only, 10, 0).await.unwrap()), [own]);
        assert_eq!(db.repo().list_for_app(new_app(), unresolved_only, 10, 0).await.unwrap(), []);
    }
}

async fn resolved_rows_are_left_out_on_request(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 6).await;
    for (id, reason) in stored.iter().zip(["replayed", "ignored", "handled_by_script", "handler_failed"]) {
        db.repo().resolve(*id, reason).await.unwrap();
    }
    assert_eq!(ids(&db.repo().list_for_app(app, true, 10, 0).await.unwrap()), [stored[5], stored[4]]);
    // The limit and the offset count what is left.
    assert_eq!(ids(&db.repo().list_for_app(app, true, 1, 1).await.unwrap()), [stored[4]]);
    assert_eq!(db.repo().list_for_app(app, false, 10, 0).await.unwrap().len(), 6);
}

async fn limit_0_returns_nothing(db: TestDb) {
    let app = new_app();
    rows(&db, app, 2).await;
    assert_eq!(db.repo().list_for_app(app, false, 0, 0).await.unwrap(), []);
    assert_eq!(db.repo().list_for_app(app, true, 0, 1).await.unwrap(), []);
}

async fn an_offset_past_the_end_returns_nothing(db: TestDb) {
    let app = new_app();
    rows(&db, app, 2).await;
    assert_eq!(db.repo().list_for_app(app, false, 10, 2).await.unwrap(), []);
}

async fn the_largest_limit_and_offset_are_fine(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 2).await;
    assert_eq!(ids(&db.repo().list_for_app(app, false, i64::MAX, 1).await.unwrap()), [stored[0]]);
    assert_eq!(db.repo().list_for_app(app, false, i64::MAX, i64::MAX).await.unwrap(), []);
}

async fn a_negative_limit_or_offset_is_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    for value in [-1, i64::MIN] {
        let error = repo.list_for_app(new_app(), false, value, 0).await.unwrap_err();
        assert!(is_less_than_0(&error, "limit", value), "{error}");
        let error = repo.list_for_app(new_app(), true, 1, value).await.unwrap_err();
        assert!(is_less_than_0(&error, "offset", value), "{error}");
    }
    assert_eq!(recorded.take(), []);
    assert_eq!(
        repo.list_for_app(new_app(), false, -5, 0).await.unwrap_err().to_string(),
        "`limit` must be at least 0 (got -5)"
    );
}

pub(super) fn is_less_than_0(error: &DeadLetterRepoError, argument: &str, value: i64) -> bool {
    matches!(error, DeadLetterRepoError::OutOfRange { argument: a, value: v, min: 0, max: i64::MAX }
        if *a == argument && *v == value)
}

async fn the_order_stands_in_the_statement(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    db.repo_over(recording).list_for_app(new_app(), true, 1, 0).await.unwrap();
    let statements = recorded.take();
    let [page] = statements.as_slice() else { panic!("{statements:?}") };
    let order = r#"ORDER BY "created_at" DESC, "id" DESC LIMIT 1"#;
    assert!(page.sql.ends_with(order), "{}", page.sql);
}

/// As another writer, or a hand at psql, would.
async fn overwrite(db: &TestDb, id: DeadLetterId, column: table::Column, text: &str) {
    table::Entity::update_many()
        .col_expr(column, Expr::val(text))
        .filter(table::COLUMN.id.eq(id.into_inner()))
        .exec(&db.db)
        .await
        .unwrap();
}

async fn a_broken_payload_comes_back_as_text_and_the_rest_of_the_page_is_there(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 3).await;
    let too_deep = "[".repeat(200) + &"]".repeat(200);
    for broken in ["{\"order\": 47", "", "NaN", "1e999", "{} {}", &too_deep] {
        overwrite(&db, stored[1], table::Column::Payload, broken).await;
        let page = db.repo().list_for_app(app, true, 10, 0).await.unwrap();
        assert_eq!(ids(&page), [stored[2], stored[1], stored[0]]);
        assert_eq!(page[1].payload, Value::String(broken.to_owned()));
        assert_eq!(page[0].payload, letter(app).payload);
        assert_eq!(db.repo().get(stored[1]).await.unwrap().unwrap(), page[1]);
    }
    overwrite(&db, stored[1], table::Column::Payload, " {\"order\" : 47} ").await;
    assert_eq!(db.repo().get(stored[1]).await.unwrap().unwrap().payload, json!({ "order": 47 }));
}

async fn a_resolution_of_a_newer_version_costs_its_field_alone(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 2).await;
    db.repo().resolve(stored[0], "ignored").await.unwrap();
    if db.db.get_database_backend() == DbBackend::Sqlite {
        // On one connection, since the setting is the connection's.
        let sql = "PRAGMA ignore_check_constraints = ON; UPDATE dead_letters SET resolution = 'escalated' \
                   WHERE resolution = 'ignored'; PRAGMA ignore_check_constraints = OFF";
        db.execute(sql).await;
    } else {
        db.execute("ALTER TABLE dead_letters DROP CONSTRAINT dead_letters_resolution_check").await;
        overwrite(&db, stored[0], table::Column::Resolution, "escalated").await;
    }
    let page = db.repo().list_for_app(app, false, 10, 0).await.unwrap();
    assert_eq!(ids(&page), [stored[1], stored[0]]);
    assert_eq!(page[1].resolution, None);
    assert!(page[1].resolved_at.is_some());
}

async fn whole_seconds_and_fractions_sort_by_time(db: TestDb) {
    let app = new_app();
    let mut stored = Vec::new();
    for at in
        ["10:00:00Z", "10:00:00.000001Z", "10:00:00.5Z", "10:00:00.500001Z", "10:00:01Z", "10:00:01.000001Z"]
    {
        let id = db.repo().insert(letter(app)).await.unwrap();
        db.set_created_at(id, time(&format!("2026-03-01T{at}"))).await;
        stored.push(id);
    }
    stored.reverse();
    assert_eq!(ids(&db.repo().list_for_app(app, false, 10, 0).await.unwrap()), stored);
}

async fn the_count_is_of_the_apps_unresolved_rows(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let stored = rows(&db, app, 7).await;
    rows(&db, other, 2).await;
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 7);
    for (id, reason) in stored.iter().zip(["replayed", "ignored", "handled_by_script", "handler_failed"]) {
        db.repo().resolve(*id, reason).await.unwrap();
    }
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 3);
    assert_eq!(db.repo().unresolved_count(other).await.unwrap(), 2);
    let unresolved = db.repo().list_for_app(app, true, 10, 0).await.unwrap();
    assert!(unresolved.iter().all(|row| row.resolution.is_none()));
    let resolved = db.repo().get(stored[0]).await.unwrap().unwrap();
    assert_eq!(resolved.resolution, Some(Resolution::Replayed));
}

async fn the_count_of_an_unknown_app_is_0(db: TestDb) {
    let mentioned = NewDeadLetter { source: "apps".to_owned(), ..letter(new_app()) };
    db.repo().insert(mentioned).await.unwrap();
    assert_eq!(db.repo().unresolved_count(new_app()).await.unwrap(), 0);
}
