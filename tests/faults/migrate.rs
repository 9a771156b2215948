//! `up`, by many processes at once.

use dead_letters_migration::{Migrator, SchemaError, schema_is_current};
use sea_orm::{ConnectionTrait, Statement};
use sea_orm_migration::MigratorTrait;
use tokio::task::JoinSet;

use crate::database::TestDb;

/// Each with a pool of its own, as processes have.
async fn up_by_six(db: &TestDb) {
    let mut deploys = JoinSet::new();
    for _ in 0..6 {
        let db = db.connect_with(|_| ()).await;
        deploys.spawn(async move { Migrator::up(&db, None).await });
    }
    for outcome in deploys.join_all().await {
        outcome.unwrap();
    }
}

async fn is_whole(db: &TestDb) {
    schema_is_current(&db.db).await.unwrap();
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    let invalid = Statement::from_string(db.db.get_database_backend(), invalid);
    let invalid: i64 = db.db.query_one_raw(invalid).await.unwrap().unwrap().try_get_by_index(0).unwrap();
    assert_eq!(invalid, 0);
    assert_eq!(Migrator::get_applied_migrations(&db.db).await.unwrap().len(), Migrator::migrations().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_at_once_migrate_an_empty_database_on_postgres() {
    let db = TestDb::empty_postgres().await;
    up_by_six(&db).await;
    is_whole(&db).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_at_once_apply_what_is_pending_on_postgres() {
    let db = TestDb::empty_postgres().await;
    Migrator::up(&db.db, Some(1)).await.unwrap();
    up_by_six(&db).await;
    is_whole(&db).await;
}

/// The lock is the transaction's: it is gone with the connection.
#[tokio::test]
async fn a_failed_up_gives_the_lock_back_on_postgres() {
    let db = TestDb::empty_postgres().await;
    db.execute("CREATE TABLE dead_letters (n integer)").await;
    Migrator::up(&db.db, None).await.unwrap_err();
    db.execute("DROP TABLE dead_letters").await;
    Migrator::up(&db.connect_with(|_| ()).await, None).await.unwrap();
    is_whole(&db).await;
}

async fn the_steps_that_are_missing_are_named(db: TestDb) {
    let missing = async || match schema_is_current(&db.db).await {
        Ok(()) => Vec::new(),
        Err(SchemaError::Missing(steps)) => steps,
        Err(error) => panic!("{error}"),
    };
    let all: Vec<_> = Migrator::migrations().iter().map(|step| step.name().to_owned()).collect();
    assert_eq!(missing().await, all);
    Migrator::up(&db.db, Some(2)).await.unwrap();
    assert_eq!(missing().await, all[2..]);
    assert_eq!(
        schema_is_current(&db.db).await.unwrap_err().to_string(),
        format!("the schema lacks these steps: {}", all[2..].join(", "))
    );
    Migrator::up(&db.db, None).await.unwrap();
    // Another one's step in the same table.
    db.execute("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m20260101_000001_other', 0)")
        .await;
    assert_eq!(missing().await, [] as [String; 0]);
}

#[tokio::test]
async fn the_steps_that_are_missing_are_named_on_sqlite() {
    the_steps_that_are_missing_are_named(TestDb::empty_sqlite().await).await;
}

#[tokio::test]
async fn the_steps_that_are_missing_are_named_on_postgres() {
    the_steps_that_are_missing_are_named(TestDb::empty_postgres().await).await;
}
