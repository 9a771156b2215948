//! The role that a service should run as.

use std::time::Duration;

use chrono::{DateTime, Utc};
use dead_letters::{
    ActionRequest, AppId, Attribution, BacklogRequest, Buckets, Changed, CountRequest, DeadLetterAnnounce,
    DeadLetterDelete, DeadLetterFilter, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError,
    DeadLetterResolve, DeadLetterRetention, DeadLetterState, DeadLetterTransfer, Due, GroupRequest,
    NewDeadLetter, NewGroupRequest, OnOpen, PageRequest, PayloadSearch, RebuildRequest, ReopenRequest,
    Resolution, SeaOrmDeadLetterRepo, SweepScope, Swept, TimelineRequest, connect_options, open,
    testing::letter,
};
use dead_letters_migration::Migrator;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use sea_orm_migration::MigratorTrait;
use url::Url;
use uuid::Uuid;

use crate::{
    contract::{import::stored, import_of, retention::Nowhere},
    database::TestDb,
};

/// A new role with these rights, and a pool of it.
async fn service(db: &TestDb, rights: &str) -> (String, DatabaseConnection) {
    let (role, url) = new_role(db, rights).await;
    (role, Database::connect(url.as_str()).await.unwrap())
}

async fn new_role(db: &TestDb, rights: &str) -> (String, Url) {
    let role = format!("dead_letters_service_{}", Uuid::new_v4().simple());
    db.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'; {}", rights.replace("{role}", &role)))
        .await;
    let mut url: Url = db.url().parse().unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("secret")).unwrap();
    (role, url)
}

async fn drop_role(db: &TestDb, role: &str, service: DatabaseConnection) {
    service.close().await.unwrap();
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn a_role_that_may_only_read_and_write_rows_can_make_every_call_on_postgres() {
    let db = TestDb::postgres().await;
    let rights = "GRANT SELECT, INSERT, UPDATE, DELETE
             ON dead_letters, dead_letter_actions, dead_letter_announcements TO {role};
         GRANT SELECT ON seaql_migrations TO {role}";
    let (role, url) = new_role(&db, rights).await;

    for schema in [OnOpen::Check, OnOpen::Migrate] {
        let repo = open(connect_options(url.as_str()), schema, Migrator).await.unwrap();
        repo.pool().close_by_ref().await.unwrap();
    }
    let service = Database::connect(url.as_str()).await.unwrap();
    Migrator::fresh(&service).await.unwrap_err();
    every_call_works(&SeaOrmDeadLetterRepo::new(service.clone())).await;

    for table in ["dead_letters", "dead_letter_actions", "dead_letter_announcements"] {
        service.execute_unprepared(&format!("DROP TABLE {table}")).await.unwrap_err();
    }
    drop_role(&db, &role, service).await;
}

#[tokio::test]
async fn a_role_that_may_only_insert_can_insert_on_postgres() {
    let db = TestDb::postgres().await;
    let (role, service) = service(&db, "GRANT INSERT ON dead_letters TO {role}").await;
    let repo = SeaOrmDeadLetterRepo::new(service.clone());

    let id = repo.insert(letter(Uuid::new_v4().into())).await.unwrap();
    // In one statement, and in two.
    for count in [4, 5] {
        repo.insert_many(vec![letter(Uuid::new_v4().into()); count]).await.unwrap();
    }
    assert_eq!(db.row_count().await, 10);
    repo.get(id).await.unwrap_err();
    drop_role(&db, &role, service).await;
}

/// The change and its row in the history are one statement, so that neither is made.
#[tokio::test]
async fn without_rights_on_the_history_inserts_and_reads_work_and_a_change_is_refused_on_postgres() {
    let db = TestDb::postgres().await;
    let rights = "GRANT SELECT, INSERT, UPDATE, DELETE ON dead_letters TO {role}";
    let (role, service) = service(&db, rights).await;
    let repo = SeaOrmDeadLetterRepo::new(service.clone());
    let app_id = AppId::from(Uuid::new_v4());
    let id = repo.insert(letter(app_id)).await.unwrap();
    let closed = repo.insert(letter(app_id)).await.unwrap();
    repo.resolve(closed, "ignored").await.unwrap();
    let (nobody, all) = (Attribution::default(), DeadLetterFilter::default().ids([id, closed]));
    let replayed: Result<(), _> =
        repo.replay_with(app_id, id, &nobody, async |_, _| panic!("enqueued")).await;
    for refused in [
        repo.resolve_once(app_id, id, Resolution::Ignored, &nobody).await.map(drop),
        repo.resolve_matching(app_id, &all, Resolution::Ignored, &nobody, 10).await.map(drop),
        repo.reopen(app_id, closed, &nobody).await,
        repo.reopen_matching(app_id, &all, &nobody, &ReopenRequest::default()).await.map(drop),
        repo.record_reveal(app_id, id, &Attribution::default()).await,
        repo.actions(app_id, &ActionRequest::default()).await.map(drop),
        repo.letters_version(Some(app_id)).await.map(drop),
        repo.sweep_actions(Utc::now(), None, 10).await.map(drop),
        replayed,
    ] {
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("42501") && !error.is_transient(), "{error}");
    }
    assert_eq!(repo.unresolved_count(app_id).await.unwrap(), 1);
    assert_eq!(repo.gc(DateTime::<Utc>::MAX_UTC, 10).await.unwrap(), 2);
    drop_role(&db, &role, service).await;
}

/// With row level security and no policy for UPDATE a row can be seen and not changed.
#[tokio::test]
async fn without_a_policy_for_update_row_level_security_limits_each_call_on_postgres() {
    let db = TestDb::postgres().await;
    let rights = "GRANT SELECT, INSERT, UPDATE, DELETE ON dead_letters, dead_letter_actions TO {role};
         ALTER TABLE dead_letters ENABLE ROW LEVEL SECURITY;
         CREATE POLICY read ON dead_letters FOR SELECT USING (true);
         CREATE POLICY write ON dead_letters FOR INSERT WITH CHECK (true);
         CREATE POLICY sweep ON dead_letters FOR DELETE USING (true)";
    let (role, service) = service(&db, rights).await;
    let repo = SeaOrmDeadLetterRepo::new(service.clone());
    let app_id = AppId::from(Uuid::new_v4());
    let id = repo.insert(letter(app_id)).await.unwrap();
    let resolved = repo.insert_many(vec![letter(app_id); 2]).await.unwrap()[1];
    db.repo().resolve(resolved, "ignored").await.unwrap();
    assert!(repo.get(id).await.unwrap().is_some());
    assert!(repo.get_for_app(app_id, id).await.unwrap().is_some());
    assert_eq!(repo.list_for_app(app_id, false, 10, 0).await.unwrap().len(), 3);
    assert_eq!(repo.unresolved_count(app_id).await.unwrap(), 2);

    let not_found = repo.resolve(id, "ignored").await;
    assert!(matches!(not_found, Err(DeadLetterRepoError::NotFound(of)) if of == id), "{not_found:?}");
    let replayed: Result<(), _> =
        repo.replay_with(app_id, id, &Attribution::default(), async |_, _| panic!("enqueued")).await;
    for refused in [
        repo.resolve_once(app_id, id, Resolution::Ignored, &Attribution::default()).await.map(drop),
        replayed,
        repo.reopen(app_id, resolved, &Attribution::default()).await,
    ] {
        assert_eq!(
            refused.unwrap_err().to_string(),
            "the database did not change the row: a trigger, a rule or a policy prevents it"
        );
    }
    // A call that finds its rows by locking them finds none, and deletes none.
    let max = DateTime::<Utc>::MAX_UTC;
    let filter = DeadLetterFilter::default().created_before(max);
    let mut nothing = Changed::default();
    nothing.skipped_locked = true;
    assert_eq!(
        repo.resolve_matching(app_id, &filter, Resolution::Ignored, &Attribution::default(), 10)
            .await
            .unwrap(),
        nothing
    );
    assert_eq!(repo.delete_matching(app_id, &filter, &Attribution::default(), 10).await.unwrap(), nothing);
    let erased = repo.erase(app_id, &[resolved], &Attribution::default()).await.unwrap();
    assert_eq!((erased.ids, erased.skipped_locked), (vec![], vec![resolved]));
    let replayed: Result<_, DeadLetterRepoError> = repo
        .replay_matching_with(app_id, &filter, &Attribution::default(), 10, async |_, _| panic!("enqueued"))
        .await;
    assert_eq!(replayed.unwrap(), nothing);
    assert_eq!(repo.actions(app_id, &ActionRequest::default()).await.unwrap(), []);
    assert_eq!(repo.gc(max, 10).await.unwrap(), 0);
    for scope in scopes(app_id) {
        for due in [Due::CreatedBefore(max), Due::ClosedBefore(max)] {
            assert_eq!(repo.sweep(&scope, due, None, 10).await.unwrap(), Swept::default());
            assert_eq!(repo.sweep_into(&scope, due, None, 10, &Nowhere).await.unwrap(), Swept::default());
        }
    }
    assert_eq!(db.row_count().await, 3);
    import_works(&repo).await;
    drop_role(&db, &role, service).await;
}

/// A policy for DELETE that leaves some rows alone.
#[tokio::test]
async fn rows_that_row_level_security_keeps_from_a_sweep_are_picked_and_skipped_on_postgres() {
    let db = TestDb::postgres().await;
    let rights = "GRANT SELECT, INSERT, UPDATE, DELETE ON dead_letters, dead_letter_actions TO {role};
         ALTER TABLE dead_letters ENABLE ROW LEVEL SECURITY;
         CREATE POLICY read ON dead_letters FOR SELECT USING (true);
         CREATE POLICY write ON dead_letters FOR INSERT WITH CHECK (true);
         CREATE POLICY change ON dead_letters FOR UPDATE USING (true);
         CREATE POLICY sweep ON dead_letters FOR DELETE USING (source <> 'kept')";
    let (role, service) = service(&db, rights).await;
    let repo = SeaOrmDeadLetterRepo::new(service.clone());
    let app_id = AppId::from(Uuid::new_v4());
    let kept = NewDeadLetter { source: "kept".to_owned(), ..letter(app_id) };
    repo.insert_many(vec![kept; 2]).await.unwrap();
    let due = Due::CreatedBefore(DateTime::<Utc>::MAX_UTC);
    for scope in scopes(app_id) {
        for into in [false, true] {
            repo.insert_many(vec![letter(app_id); 2]).await.unwrap();
            let (mut picked, mut deleted, mut after) = (0, 0, None);
            loop {
                let swept = match into {
                    true => repo.sweep_into(&scope, due, after, 1, &Nowhere).await.unwrap(),
                    false => repo.sweep(&scope, due, after, 1).await.unwrap(),
                };
                picked += swept.picked;
                deleted += swept.deleted;
                after = swept.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!((picked, deleted, db.row_count().await), (4, 2, 2), "{scope:?}");
        }
    }
    drop_role(&db, &role, service).await;
}

fn scopes(app_id: AppId) -> [SweepScope; 3] {
    let all_but_none = SweepScope::AllAppsBut { excepted: vec![] };
    [SweepScope::App(app_id), SweepScope::AllApps, all_but_none]
}

async fn every_call_works(repo: &SeaOrmDeadLetterRepo) {
    let app_id = AppId::from(Uuid::new_v4());
    let letter = letter(app_id);
    let id = repo.insert(letter.clone()).await.unwrap();
    repo.insert_many(vec![letter.clone(); 9]).await.unwrap();
    assert!(repo.get(id).await.unwrap().is_some());
    assert_eq!(repo.list_for_app(app_id, true, 100, 0).await.unwrap().len(), 10);
    assert_eq!(repo.unresolved_count(app_id).await.unwrap(), 10);
    repo.resolve(id, "handler_failed").await.unwrap();

    let max = DateTime::<Utc>::MAX_UTC;
    let filter = DeadLetterFilter::default().state(DeadLetterState::Unresolved).created_before(max);
    assert!(repo.get_for_app(app_id, id).await.unwrap().is_some());
    assert_eq!(repo.list(app_id, &filter, &PageRequest::default().size(5)).await.unwrap().items.len(), 5);
    let search = PayloadSearch::new("{").filter(filter.clone());
    assert_eq!(repo.search_payloads(app_id, &search).await.unwrap().items.len(), 9);
    assert_eq!(repo.unresolved_counts(&[app_id], Some(3)).await.unwrap()[0].unresolved.count, 3);
    let groups = repo.error_groups(app_id, &filter, &GroupRequest::default()).await.unwrap().groups;
    assert_eq!(groups[0].count, 9);
    let since = NewGroupRequest::since(DateTime::UNIX_EPOCH).among([app_id]);
    assert_eq!(repo.new_error_groups(&since).await.unwrap().groups[0].count, 10);
    let group = repo.unannounced_groups(&since).await.unwrap().groups.remove(0);
    let claim = repo.claim_announcement(&group, Duration::ZERO).await.unwrap().unwrap();
    assert!(repo.confirm_announcement(&claim).await.unwrap());
    assert!(repo.claim_announcement(&group, Duration::ZERO).await.unwrap().is_none());
    assert_eq!(repo.sweep_announcements(max, max, 10).await.unwrap(), 1);
    let page = PageRequest::default().scan_limit(4);
    assert_eq!(repo.export(app_id, &filter, &page).await.unwrap().items.len(), 4);
    assert_eq!(repo.apps(DeadLetterState::Any, None, 1).await.unwrap(), [app_id]);
    assert_eq!(repo.backlogs(&BacklogRequest::default().limit(1).cap(3)).await.unwrap()[0].open.count, 3);
    assert_eq!(
        repo.count(app_id, &filter, &CountRequest::default().cap(100).scan_limit(4))
            .await
            .unwrap()
            .matching
            .count,
        4
    );
    let all = Buckets::new(DateTime::<Utc>::MIN_UTC..max, 1);
    assert_eq!(
        repo.timeline(app_id, &filter, &TimelineRequest::from(all).scan_limit(4)).await.unwrap().buckets[0]
            .count,
        4
    );
    assert!(repo.summary(app_id, id).await.unwrap().is_some());
    assert_eq!(repo.payload_text(app_id, id, 0..1).await.unwrap().as_deref(), Some("{"));
    assert_eq!(repo.replayed_payload_text(app_id, id, 0..1).await.unwrap(), None);
    assert!(repo.error_text(app_id, id, 0..1).await.unwrap().is_some());
    assert!(repo.metadata(app_id, id).await.unwrap().is_some());
    assert_eq!(repo.times_replayed(app_id, &[Uuid::nil()]).await.unwrap(), [0]);
    repo.resolve_once(app_id, id, Resolution::Ignored, &Attribution::default()).await.unwrap();
    repo.reopen(app_id, id, &Attribution::default()).await.unwrap();
    repo.record_reveal(app_id, id, &Attribution::default()).await.unwrap();
    let this = DeadLetterFilter::default().ids([repo.insert(letter.clone()).await.unwrap()]);
    assert_eq!(
        repo.erase(app_id, this.ids.as_deref().unwrap(), &Attribution::default()).await.unwrap().ids.len(),
        1
    );
    assert_eq!(repo.delete_matching(app_id, &this, &Attribution::default(), 1).await.unwrap().ids.len(), 1);
    assert_eq!(repo.actions(app_id, &ActionRequest::default()).await.unwrap().len(), 5);
    assert_eq!(repo.rebuild_signatures(&RebuildRequest::default()).await.unwrap().examined, 10);
    repo.replay_with(app_id, id, &Attribution::default(), async |_, _| Ok::<_, DeadLetterRepoError>(()))
        .await
        .unwrap();
    assert_eq!(
        repo.resolve_matching(app_id, &filter, Resolution::Ignored, &Attribution::default(), 1)
            .await
            .unwrap()
            .ids
            .len(),
        1
    );
    let nobody = Attribution::default();
    let closed = DeadLetterFilter::default().resolved_before(max);
    let one = ReopenRequest::default().limit(1);
    assert_eq!(repo.reopen_matching(app_id, &closed, &nobody, &one).await.unwrap().ids.len(), 1);
    let replayed =
        repo.replay_matching_with(app_id, &filter, &nobody, 1, async |_, _| Ok::<_, DeadLetterRepoError>(()));
    assert_eq!(replayed.await.unwrap().ids.len(), 1);
    for scope in scopes(app_id) {
        let due = Due::CreatedBefore(max);
        assert!(repo.count_due(&scope, due, DeadLetterState::Any, 100).await.unwrap().count > 0);
        assert_eq!(repo.sweep(&scope, due, None, 1).await.unwrap().deleted, 1);
        assert_eq!(repo.sweep_into(&scope, due, None, 1, &Nowhere).await.unwrap().deleted, 1);
    }
    assert_eq!(repo.gc(max, 100).await.unwrap(), 4);
    assert_eq!(repo.sweep_actions(max, None, 100).await.unwrap().deleted, 9);
    import_works(repo).await;
}

async fn import_works(repo: &SeaOrmDeadLetterRepo) {
    let letter = stored();
    for imported in [import_of(1, 0), import_of(0, 1)] {
        assert_eq!(repo.import(std::slice::from_ref(&letter)).await.unwrap(), imported);
    }
}
