use dead_letters::{AppId, CappedCount, DeadLetterRead, DeadLetterRepo};

use super::{new_app, rows};
use crate::database::TestDb;

on_every_backend! {
    each_app_is_counted_in_the_order_asked_for,
    a_cap_ends_the_count_and_is_reported,
    an_empty_list_of_apps_sends_no_statement,
    many_apps_are_counted,
    the_counts_take_one_statement_or_with_a_cap_one_per_app_in_a_sharded_table,
}

fn exactly(app_id: AppId, count: u64) -> (AppId, CappedCount) {
    (app_id, CappedCount { count, capped: false })
}

/// The unresolved letters of each app.
async fn counted(db: &TestDb, apps: &[AppId], cap: Option<u32>) -> Vec<(AppId, CappedCount)> {
    let counts = db.repo().unresolved_counts(apps, cap).await.unwrap();
    counts.into_iter().map(|count| (count.app_id, count.unresolved)).collect()
}

async fn each_app_is_counted_in_the_order_asked_for(db: TestDb) {
    let (three, none, two, other) = (new_app(), new_app(), new_app(), new_app());
    let stored = rows(&db, three, 4).await;
    db.repo().resolve(stored[0], "handler_failed").await.unwrap();
    rows(&db, two, 2).await;
    rows(&db, other, 1).await;
    let apps = [three, none, two, three];
    assert_eq!(
        counted(&db, &apps, None).await,
        [exactly(three, 3), exactly(none, 0), exactly(two, 2), exactly(three, 3)]
    );
    assert_eq!(db.repo().unresolved_count(three).await.unwrap(), 3);
}

async fn a_cap_ends_the_count_and_is_reported(db: TestDb) {
    let app = new_app();
    rows(&db, app, 5).await;
    for (cap, count, capped) in
        [(0, 0, true), (4, 4, true), (5, 5, false), (6, 5, false), (u32::MAX, 5, false)]
    {
        assert_eq!(counted(&db, &[app], Some(cap)).await, [(app, CappedCount { count, capped })]);
    }
    let none = new_app();
    assert_eq!(counted(&db, &[none], Some(0)).await, [exactly(none, 0)]);
}

async fn an_empty_list_of_apps_sends_no_statement(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    assert_eq!(db.repo_over(recording).unresolved_counts(&[], None).await.unwrap(), []);
    assert_eq!(recorded.take(), []);
}

async fn many_apps_are_counted(db: TestDb) {
    let mut apps: Vec<_> = (0..2_500).map(|_| new_app()).collect();
    rows(&db, apps[2_499], 2).await;
    assert_eq!(counted(&db, &apps, None).await[2_499], exactly(apps[2_499], 2));
    let counts = counted(&db, &apps, Some(1)).await;
    let last = apps.pop().unwrap();
    let capped = CappedCount { count: 1, capped: true };
    assert_eq!(counts[2_499], (last, capped));
    assert!(apps.into_iter().map(|app| exactly(app, 0)).eq(counts[..2_499].iter().copied()));
}

async fn the_counts_take_one_statement_or_with_a_cap_one_per_app_in_a_sharded_table(db: TestDb) {
    let apps: Vec<_> = (0..1_000).map(|_| new_app()).collect();
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    repo.unresolved_counts(&apps, None).await.unwrap();
    assert_eq!(recorded.take().len(), 1);
    repo.unresolved_counts(&apps, Some(100)).await.unwrap();
    assert_eq!(recorded.take().len(), if db.sharded { apps.len() } else { 1 });
}
