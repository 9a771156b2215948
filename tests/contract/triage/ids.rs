use dead_letters::{
    Attribution, CountRequest, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo,
    DeadLetterRepoError, DeadLetterResolve, DeadLetterState, GroupRequest, NewDeadLetter, PageRequest,
    Resolution,
};
use uuid::Uuid;

use super::{
    any, create_outbox, enqueue, enqueued, letter, new_app, refused_in_every_call, row_of, rows, seen,
};
use crate::database::TestDb;

on_every_backend! {
    ids_name_the_apps_rows_exactly,
    other_fields_narrow_the_ids,
    an_empty_list_of_ids_matches_no_row,
    pages_of_ids_follow_each_other,
    a_bulk_call_with_ids_needs_no_created_before,
    more_than_1000_ids_are_refused_in_every_call_and_nothing_is_sent,
}

fn of(ids: &[DeadLetterId]) -> DeadLetterFilter {
    any().ids(ids.to_vec())
}

async fn ids_name_the_apps_rows_exactly(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let stored = rows(&db, app, 5).await;
    let foreign = rows(&db, other, 1).await;
    // One twice, one of another app, one of nobody.
    let asked = [stored[1], stored[3], stored[1], foreign[0], Uuid::now_v7().into()];
    let page = db.repo().list(app, &of(&asked), &PageRequest::default()).await.unwrap();
    assert_eq!(page.items.iter().map(|item| item.id).collect::<Vec<_>>(), [stored[3], stored[1]]);
    assert_eq!(
        db.repo().count(app, &of(&asked), &CountRequest::default().cap(10)).await.unwrap().matching.count,
        2
    );
    let groups = db.repo().error_groups(app, &of(&asked), &GroupRequest::default()).await.unwrap().groups;
    assert_eq!(groups.iter().map(|group| group.count).sum::<u64>(), 2);
}

async fn other_fields_narrow_the_ids(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 2).await;
    let odd = row_of(&db, NewDeadLetter { source: "invoices".into(), ..letter(app) }).await;
    db.repo().resolve(stored[0], "ignored").await.unwrap();
    let filter = of(&[stored[0], stored[1], odd]).source("orders").state(DeadLetterState::Unresolved);
    let page = db.repo().list(app, &filter, &PageRequest::default()).await.unwrap();
    assert_eq!(page.items.iter().map(|item| item.id).collect::<Vec<_>>(), stored[1..]);
}

async fn an_empty_list_of_ids_matches_no_row(db: TestDb) {
    let app = new_app();
    rows(&db, app, 2).await;
    assert_eq!(db.repo().list(app, &of(&[]), &PageRequest::default()).await.unwrap().items, []);
    let resolved = db.repo().resolve_matching(app, &of(&[]), Resolution::Ignored, &seen(), 10).await.unwrap();
    assert_eq!(resolved.ids, []);
}

async fn pages_of_ids_follow_each_other(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 9).await;
    let filter = of(&stored[2..7]);
    // A bound on the scan does not apply.
    let mut request = PageRequest::default().size(2).scan_limit(1);
    let mut seen = Vec::new();
    loop {
        let page = db.repo().list(app, &filter, &request).await.unwrap();
        assert_eq!(page.scanned_back_to, None);
        seen.extend(page.items.into_iter().map(|item| item.id));
        let Some(next) = page.next else { break };
        request.after = Some(next);
    }
    seen.reverse();
    assert_eq!(seen, stored[2..7]);
}

async fn a_bulk_call_with_ids_needs_no_created_before(db: TestDb) {
    let app = new_app();
    let stored = rows(&db, app, 6).await;
    db.repo().resolve(stored[0], "replayed").await.unwrap();
    let asked = of(&[stored[3], stored[0], stored[1]]);
    let resolved = db.repo().resolve_matching(app, &asked, Resolution::Ignored, &seen(), 10).await.unwrap();
    assert_eq!((resolved.ids.as_slice(), resolved.more), ([stored[1], stored[3]].as_slice(), false));
    assert_eq!(db.repo().get(stored[0]).await.unwrap().unwrap().resolution, Some(Resolution::Replayed));

    create_outbox(&db).await;
    let asked = of(&[stored[1], stored[5], stored[4]]);
    let replayed: Result<_, DeadLetterRepoError> = db
        .repo()
        .replay_matching_with(app, &asked, &Attribution::default(), 10, async |txn, letters| {
            for letter in letters {
                enqueue(txn, letter.id).await?;
            }
            Ok(())
        })
        .await;
    assert_eq!(replayed.unwrap().ids, stored[4..]);
    let mut expected: Vec<_> = stored[4..].iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(enqueued(&db).await, expected);
    assert_eq!(db.repo().unresolved_count(app).await.unwrap(), 1);
}

async fn more_than_1000_ids_are_refused_in_every_call_and_nothing_is_sent(db: TestDb) {
    let ids: Vec<_> = (0..1_001).map(|_| DeadLetterId::from(Uuid::now_v7())).collect();
    refused_in_every_call(&db, &of(&ids), "`filter.ids` must have at most 1,000 items (got 1,001)").await;
    db.repo().resolve_matching(new_app(), &of(&ids[1..]), Resolution::Ignored, &seen(), 1).await.unwrap();
}
