//! Databases whose default isolation is above READ COMMITTED, where PostgreSQL fails a statement over a row that another
//! transaction changed meanwhile (40001).

use chrono::{DateTime, Utc};
use dead_letters::{
    ActionRequest, AnnouncementClaim, AppId, Attribution, BacklogRequest, Buckets, CountRequest,
    DeadLetterFilter, DeadLetterId, DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, DeadLetterState,
    DeadLetterStore, GroupRequest, NewGroupRequest, PageRequest, PayloadSearch, RebuildRequest,
    ReopenRequest, Resolution, SeaOrmDeadLetterRepo, TimelineRequest, testing::new_error_group,
};
use sea_orm::DatabaseConnection;
use tokio::task::JoinSet;

use super::{letter, new_app};
use crate::database::TestDb;

/// A pool of the database, which has this default from now on.
pub(super) async fn pool_with_isolation(db: &TestDb, isolation: &str) -> DatabaseConnection {
    let name = db.url().rsplit('/').next().unwrap().split('?').next().unwrap();
    let default = format!("ALTER DATABASE \"{name}\" SET default_transaction_isolation = '{isolation}'");
    db.execute(&default).await;
    db.connect_with(|_| ()).await
}

/// Eight callers at one time.
async fn race<F: Future<Output = Result<(), DeadLetterRepoError>> + Send + 'static>(
    call: impl Fn() -> F,
) -> Vec<DeadLetterRepoError> {
    let calls: JoinSet<_> = (0..8).map(|_| call()).collect();
    let outcomes = calls.join_all().await;
    let losers: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert_eq!(losers.len(), 7, "{losers:?}");
    losers
}

#[tokio::test]
async fn one_of_several_concurrent_callers_wins_and_the_others_get_a_conflict_under_any_default_isolation_on_postgres()
 {
    for isolation in ["repeatable read", "serializable"] {
        let db = TestDb::postgres().await;
        let repo = db.repo_over(pool_with_isolation(&db, isolation).await);
        let app = new_app();
        for _ in 0..10 {
            let id = repo.insert(letter(app)).await.unwrap();
            let losers = race(|| {
                let repo = repo.clone();
                async move {
                    repo.resolve_once(app, id, Resolution::Ignored, &Attribution::default()).await.map(drop)
                }
            });
            for loser in losers.await {
                let is_told = matches!(loser, DeadLetterRepoError::AlreadyResolved { .. });
                assert!(is_told, "{isolation}: {loser}");
            }
            let losers = race(|| {
                let repo = repo.clone();
                async move { repo.reopen(app, id, &Attribution::default()).await }
            });
            for loser in losers.await {
                assert!(matches!(loser, DeadLetterRepoError::NotResolved(_)), "{isolation}: {loser}");
            }
        }
    }
}

const WRITES: [&str; 13] = [
    "insert",
    "insert_many",
    "resolve",
    "resolve_once",
    "resolve_matching",
    "reopen_matching",
    "reopen",
    "delete_matching",
    "rebuild_signatures",
    "gc",
    "claim_announcement",
    "confirm_announcement",
    "sweep_announcements",
];
const READS: [&str; 20] = [
    "actions",
    "recent_apps",
    "letters_version",
    "get",
    "app_of",
    "get_for_app",
    "summary",
    "payload_text",
    "list_for_app",
    "list",
    "search_payloads",
    "export",
    "count",
    "timeline",
    "error_groups",
    "new_error_groups",
    "unannounced_groups",
    "backlogs",
    "apps",
    "unresolved_count",
];

async fn call(
    repo: &impl DeadLetterStore,
    name: &str,
    app: AppId,
    open: DeadLetterId,
    closed: DeadLetterId,
) -> Result<(), DeadLetterRepoError> {
    let (nobody, max) = (Attribution::default(), DateTime::<Utc>::MAX_UTC);
    let all = DeadLetterFilter::default().state(DeadLetterState::Any).created_before(max);
    let page = PageRequest::default();
    let time = Buckets::new(DateTime::UNIX_EPOCH..max, 1);
    match name {
        "insert" => repo.insert(letter(app)).await.map(drop),
        "insert_many" => repo.insert_many(vec![letter(app); 3]).await.map(drop),
        "resolve" => repo.resolve(open, "ignored").await,
        "resolve_once" => repo.resolve_once(app, open, Resolution::Ignored, &nobody).await.map(drop),
        "resolve_matching" => {
            repo.resolve_matching(app, &all, Resolution::Ignored, &nobody, 10).await.map(drop)
        }
        "reopen_matching" => {
            let closed = DeadLetterFilter::default().resolved_before(max);
            repo.reopen_matching(app, &closed, &nobody, &ReopenRequest::default()).await.map(drop)
        }
        "reopen" => repo.reopen(app, closed, &nobody).await,
        "delete_matching" => repo.delete_matching(app, &all, &nobody, 1).await.map(drop),
        "rebuild_signatures" => repo.rebuild_signatures(&RebuildRequest::default()).await.map(drop),
        "gc" => repo.gc(max, 10).await.map(drop),
        "claim_announcement" => {
            repo.claim_announcement(&new_error_group(app), std::time::Duration::ZERO).await.map(drop)
        }
        "confirm_announcement" => {
            let claim = AnnouncementClaim::new(&new_error_group(app), DateTime::UNIX_EPOCH);
            repo.confirm_announcement(&claim).await.map(drop)
        }
        "sweep_announcements" => repo.sweep_announcements(max, max, 10).await.map(drop),
        "letters_version" => repo.letters_version(Some(app)).await.map(drop),
        "actions" => repo.actions(app, &ActionRequest::default()).await.map(drop),
        "recent_apps" => repo.recent_apps(chrono::DateTime::UNIX_EPOCH).await.map(drop),
        "get" => repo.get(open).await.map(drop),
        "app_of" => repo.app_of(open).await.map(drop),
        "get_for_app" => repo.get_for_app(app, open).await.map(drop),
        "summary" => repo.summary(app, open).await.map(drop),
        "payload_text" => repo.payload_text(app, open, 0..9).await.map(drop),
        "metadata" => repo.metadata(app, open).await.map(drop),
        "list_for_app" => repo.list_for_app(app, false, 10, 0).await.map(drop),
        "list" => repo.list(app, &all, &page).await.map(drop),
        "search_payloads" => repo.search_payloads(app, &PayloadSearch::new("{").filter(all)).await.map(drop),
        "export" => repo.export(app, &all, &page).await.map(drop),
        "count" => repo.count(app, &all, &CountRequest::default().cap(10)).await.map(drop),
        "timeline" => repo.timeline(app, &all, &TimelineRequest::from(time)).await.map(drop),
        "error_groups" => repo.error_groups(app, &all, &GroupRequest::default()).await.map(drop),
        "new_error_groups" => {
            repo.new_error_groups(&NewGroupRequest::since(DateTime::UNIX_EPOCH)).await.map(drop)
        }
        "unannounced_groups" => {
            repo.unannounced_groups(&NewGroupRequest::since(DateTime::UNIX_EPOCH)).await.map(drop)
        }
        "backlogs" => repo.backlogs(&BacklogRequest::default().limit(10).cap(10)).await.map(drop),
        "apps" => repo.apps(DeadLetterState::Any, None, 10).await.map(drop),
        "unresolved_count" => repo.unresolved_count(app).await.map(drop),
        other => panic!("{other}"),
    }
}

async fn two_letters(db: &TestDb) -> (AppId, DeadLetterId, DeadLetterId) {
    let app = new_app();
    let repo = db.repo();
    let [open, closed] = repo.insert_many(vec![letter(app); 2]).await.unwrap()[..] else { panic!() };
    // With a row of the history.
    repo.resolve_once(app, closed, Resolution::Ignored, &Attribution::default()).await.unwrap();
    // For a rebuild.
    db.execute("UPDATE dead_letters SET signature_version = 1").await;
    (app, open, closed)
}

/// From now on each statement may fail: see [`fail`].
async fn may_fail(db: &TestDb) {
    db.execute(
        "CREATE SEQUENCE tries START 1001;
         CREATE FUNCTION try() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$ BEGIN
             IF nextval('tries') <= 1000 THEN RAISE 'made up' USING ERRCODE = '40001'; END IF;
             RETURN true;
         END $$;
         CREATE FUNCTION try_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM try();
             RETURN NULL;
         END $$",
    )
    .await;
}

/// The next statements fail, so many of them.
async fn fail(db: &TestDb, statements: u32) {
    db.execute(&format!("SELECT setval('tries', {})", 1_000 - statements)).await;
}

async fn each_is_sent_again_three_times(db: &TestDb, calls: &[&str]) {
    for &name in calls {
        for (failures, is_done) in [(3, true), (4, false)] {
            fail(db, 0).await;
            let (app, open, closed) = two_letters(db).await;
            fail(db, failures).await;
            let outcome = call(&db.repo(), name, app, open, closed).await;
            assert_eq!(outcome.is_ok(), is_done, "{name} after {failures}: {outcome:?}");
            if let Err(error) = outcome {
                assert!(error.is_transient() && error.to_string().contains("40001"), "{name}: {error}");
            }
        }
        // A transaction can't go on after it.
        fail(db, 0).await;
        let (app, open, closed) = two_letters(db).await;
        let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
        fail(db, 1).await;
        let repo = db.repo();
        let error = call(&repo.in_transaction(&txn), name, app, open, closed).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("40001"), "{name}: {error}");
        txn.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn a_write_over_the_pool_is_sent_again_three_times_on_postgres() {
    let db = TestDb::postgres().await;
    may_fail(&db).await;
    db.execute(
        "CREATE TRIGGER try_write BEFORE INSERT OR UPDATE OR DELETE ON dead_letters
             FOR EACH STATEMENT EXECUTE FUNCTION try_write();
         CREATE TRIGGER try_write BEFORE INSERT OR UPDATE OR DELETE ON dead_letter_announcements
             FOR EACH STATEMENT EXECUTE FUNCTION try_write()",
    )
    .await;
    each_is_sent_again_three_times(&db, &WRITES).await;
}

#[tokio::test]
async fn a_read_over_the_pool_is_sent_again_three_times_on_postgres() {
    let db = TestDb::postgres().await;
    may_fail(&db).await;
    db.execute(
        "ALTER TABLE dead_letters RENAME TO letters;
         CREATE VIEW dead_letters AS SELECT * FROM letters WHERE try();
         ALTER TABLE dead_letter_actions RENAME TO actions;
         CREATE VIEW dead_letter_actions AS SELECT * FROM actions WHERE try()",
    )
    .await;
    each_is_sent_again_three_times(&db, &READS).await;
}
