//! The store behind pointers.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, CappedCount, CoalescingDeadLetterRepo, DeadLetterFilter, DeadLetterId, DeadLetterRead,
    DeadLetterRepo, DeadLetterRepoError, DeadLetterRetention, DeadLetterState, DeadLetterStore, Due,
    PageRequest, SweepScope,
};
use tokio::runtime::Handle;

use super::{letter, new_app};
use crate::database::TestDb;

on_every_backend! {
    one_object_goes_wherever_one_of_its_traits_is_wanted,
    a_repo_behind_pointers_is_a_repo_for_what_is_built_on_one,
    a_store_is_ready_while_its_table_can_be_read,
}

async fn stored(repo: impl DeadLetterRepo, app: AppId) -> DeadLetterId {
    repo.insert(letter(app)).await.unwrap()
}

async fn listed(read: &dyn DeadLetterRead, app: AppId) -> usize {
    let page = PageRequest::default().size(10);
    read.list(app, &DeadLetterFilter::default(), &page).await.unwrap().items.len()
}

async fn one_object_goes_wherever_one_of_its_traits_is_wanted(db: TestDb) {
    let app = new_app();
    let store: Arc<dyn DeadLetterStore> = Arc::new(db.repo());
    let id = stored(Arc::clone(&store), app).await;
    stored(&store, app).await;
    stored(&*store, app).await;
    assert_eq!(listed(&store, app).await, 3);
    assert_eq!(listed(&*store, app).await, 3);
    let retention: &dyn DeadLetterRetention = &store;
    let due = Due::CreatedBefore(DateTime::<Utc>::MAX_UTC);
    let counted = retention.count_due(&SweepScope::App(app), due, DeadLetterState::Any, 10).await.unwrap();
    assert_eq!(counted, CappedCount { count: 3, capped: false });
    // Upcast, for what holds less.
    let repo: Arc<dyn DeadLetterRepo> = store;
    assert!(repo.get(id).await.unwrap().is_some());
}

async fn a_repo_behind_pointers_is_a_repo_for_what_is_built_on_one(db: TestDb) {
    let app = new_app();
    let repo: Arc<dyn DeadLetterRepo> = Arc::new(db.repo());
    let coalescing = Arc::new(CoalescingDeadLetterRepo::new(Arc::clone(&repo), &Handle::current()));
    let inserts = (0..20).map(|_| tokio::spawn(stored(Arc::clone(&coalescing), app)));
    for insert in inserts.collect::<Vec<_>>() {
        insert.await.unwrap();
    }
    coalescing.shut_down().await;
    assert_eq!(repo.unresolved_count(app).await.unwrap(), 20);
}

async fn a_store_is_ready_while_its_table_can_be_read(db: TestDb) {
    db.repo().check_ready().await.unwrap();
    stored(db.repo(), new_app()).await;
    db.repo().check_ready().await.unwrap();
    db.execute("ALTER TABLE dead_letters RENAME TO moved_letters").await;
    let error = db.repo().check_ready().await.unwrap_err();
    assert!(matches!(error, DeadLetterRepoError::Db(_)), "{error}");
}
