use dead_letters::{AppId, DeadLetterRead, DeadLetterRepo, NewDeadLetter};
use uuid::Uuid;

use super::{letter, new_app, row_of};
use crate::database::TestDb;

on_every_backend! {
    an_events_replays_in_the_app_are_counted_in_the_order_asked_for,
    an_empty_list_of_events_sends_no_statement,
    more_than_1000_events_are_refused_and_nothing_is_sent,
}

async fn died(db: &TestDb, app: AppId, event: Uuid, became: Option<&str>) {
    let id = row_of(db, NewDeadLetter { original_event_id: event, ..letter(app) }).await;
    if let Some(reason) = became {
        db.repo().resolve(id, reason).await.unwrap();
    }
}

async fn an_events_replays_in_the_app_are_counted_in_the_order_asked_for(db: TestDb) {
    let (app, other) = (new_app(), new_app());
    let events: Vec<_> = (0..4).map(|_| Uuid::new_v4()).collect();
    for became in [Some("replayed"), Some("replayed"), None] {
        died(&db, app, events[0], became).await;
    }
    died(&db, app, events[1], Some("replayed")).await;
    for became in [Some("ignored"), Some("handled_by_script"), Some("handler_failed"), None] {
        died(&db, app, events[2], became).await;
    }
    died(&db, other, events[3], Some("replayed")).await;
    let asked = [events[2], events[0], events[3], events[1], events[0]];
    assert_eq!(db.repo().times_replayed(app, &asked).await.unwrap(), [0, 2, 0, 1, 2]);
    assert_eq!(db.repo().times_replayed(other, &asked).await.unwrap(), [0, 0, 1, 0, 0]);
}

async fn an_empty_list_of_events_sends_no_statement(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    assert_eq!(repo.times_replayed(new_app(), &[]).await.unwrap(), [] as [u64; 0]);
    assert_eq!(recorded.take(), []);
}

async fn more_than_1000_events_are_refused_and_nothing_is_sent(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let events: Vec<_> = (0..1_001).map(|_| Uuid::new_v4()).collect();
    let error = repo.times_replayed(new_app(), &events).await.unwrap_err();
    assert_eq!(error.to_string(), "`event_ids` must have at most 1,000 items (got 1,001)");
    assert_eq!(recorded.take(), []);
    assert_eq!(repo.times_replayed(new_app(), &events[1..]).await.unwrap(), [0; 1_000]);
}
