//! Which letters a filter without a state selects.

use dead_letters::{
    AppId, CountRequest, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo, DeadLetterState,
    DeadLetterTransfer, GroupRequest, PageRequest, Resolution,
};

use super::{new_app, rows};
use crate::database::TestDb;

on_every_backend! {
    a_filter_without_a_state_selects_open_letters,
    a_filter_with_a_resolution_or_ids_and_no_state_selects_any_state,
    a_cursor_fits_the_same_letters_with_their_state_named_or_not,
}

/// An unresolved letter, then one of each resolution.
async fn one_of_each(db: &TestDb, app: AppId) -> Vec<DeadLetterId> {
    let stored = rows(db, app, 1 + Resolution::ALL.len()).await;
    for (&id, resolution) in stored[1..].iter().zip(Resolution::ALL) {
        db.repo().resolve(id, resolution.as_str()).await.unwrap();
    }
    stored
}

/// Every call that reads with the filter finds these letters.
async fn finds(db: &TestDb, app: AppId, filter: &DeadLetterFilter, expected: &[DeadLetterId]) {
    let (repo, number) = (db.repo(), expected.len() as u64);
    let sorted = |mut ids: Vec<DeadLetterId>| {
        ids.sort();
        ids
    };
    for scan in [None, Some(100)] {
        let page = PageRequest::default().scan_limit(scan);
        let listed = repo.list(app, filter, &page).await.unwrap().items;
        assert_eq!(sorted(listed.iter().map(|letter| letter.id).collect()), expected, "list {filter:?}");
        let exported = repo.export(app, filter, &page).await.unwrap().items;
        assert_eq!(sorted(exported.iter().map(|letter| letter.id).collect()), expected, "export {filter:?}");
        let count = CountRequest::default().scan_limit(scan);
        let counted = repo.count(app, filter, &count).await.unwrap();
        assert_eq!(counted.matching.count, number, "count {filter:?}");
        let groups = GroupRequest::default().scan_limit(scan);
        let groups = repo.error_groups(app, filter, &groups).await.unwrap().groups;
        assert_eq!(groups.iter().map(|group| group.count).sum::<u64>(), number, "groups {filter:?}");
    }
}

async fn a_filter_without_a_state_selects_open_letters(db: TestDb) {
    let app = new_app();
    let stored = one_of_each(&db, app).await;
    let failed = Resolution::ALL.iter().position(|&resolution| resolution == Resolution::HandlerFailed);
    let open = [stored[0], stored[1 + failed.unwrap()]];
    let all = DeadLetterFilter::default();
    for filter in [all.clone().source("orders"), all.clone().truncated(false), all] {
        assert_eq!(filter.effective_state(), DeadLetterState::Open);
        finds(&db, app, &filter, &open).await;
        finds(&db, app, &filter.state(DeadLetterState::Unresolved), &stored[..1]).await;
    }
}

async fn a_filter_with_a_resolution_or_ids_and_no_state_selects_any_state(db: TestDb) {
    let app = new_app();
    let stored = one_of_each(&db, app).await;
    let by_ids = DeadLetterFilter::default().ids(stored.clone());
    assert_eq!(by_ids.effective_state(), DeadLetterState::Any);
    finds(&db, app, &by_ids, &stored).await;
    finds(&db, app, &DeadLetterFilter::default().ids([]), &[]).await;
    finds(&db, app, &by_ids.clone().state(DeadLetterState::Unresolved), &stored[..1]).await;
    for (&id, &resolution) in stored[1..].iter().zip(Resolution::ALL) {
        let filter = DeadLetterFilter::default().resolution(resolution);
        assert_eq!(filter.effective_state(), DeadLetterState::Any);
        finds(&db, app, &filter, &[id]).await;
        finds(&db, app, &by_ids.clone().resolution(resolution), &[id]).await;
        let of_state = if resolution == Resolution::HandlerFailed { &[id][..] } else { &[] };
        finds(&db, app, &filter.state(DeadLetterState::Open), of_state).await;
    }
}

async fn a_cursor_fits_the_same_letters_with_their_state_named_or_not(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 2).await;
    let unnamed = DeadLetterFilter::default();
    let named = unnamed.clone().state(DeadLetterState::Open);
    for (first, second) in [(&unnamed, &named), (&named, &unnamed)] {
        let page = PageRequest::default().size(1);
        let next = db.repo().list(app, first, &page).await.unwrap().next;
        let rest = db.repo().list(app, second, &page.after(next)).await.unwrap();
        assert_eq!(rest.items[0].id, stored[0]);
    }
}
