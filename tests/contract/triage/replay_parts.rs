//! Batches of a replay: where they end, and what becomes of the letters that a service can't requeue.

use std::{
    collections::{BTreeSet, HashSet},
    error::Error,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    AppId, Attribution, CountRequest, Cursor, DeadLetterFilter, DeadLetterId, DeadLetterRead,
    DeadLetterReplay, DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, DeadLetterState,
    DeadLetterTransfer, ErrorKind, ListSort, PageRequest, PayloadKind, ReplayRequest, Replayed, Requeue,
    Resolution, StoredLetter,
    entity::dead_letters as table,
    testing::{stored_letter, transient},
};
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect, Statement,
    TransactionTrait,
};
use uuid::Uuid;

use super::{any, new_app, reopen_replayed, rows, seen, ten_oclock};
use crate::database::TestDb;

on_every_backend! {
    one_of_two_open_letters_of_one_event_is_replayed_and_all_others_with_it,
    an_event_that_is_back_already_costs_its_own_letter,
    a_batch_of_letters_that_all_fail_names_each_and_replays_none,
    the_next_call_continues_after_the_letters_that_failed,
    a_call_ends_with_32_failures,
    each_letter_is_requeued_once_whatever_fails,
    a_transient_error_is_not_bisected,
    an_error_after_a_part_stops_the_call_and_leaves_what_is_done,
    a_cursor_of_another_app_or_filter_is_refused_and_nothing_is_sent,
    a_made_up_cursor_replays_no_letter_from_before_the_filters_times,
    callers_at_the_same_time_replay_each_event_once,
    a_batch_ends_at_16_mb_of_all_texts_with_at_least_one_letter,
    a_truncated_payload_is_replayed_only_by_a_service_that_takes_it,
    truncated_payloads_do_not_block_what_matches,
    a_closure_gets_truncated_payloads_and_sees_their_kind,
    a_filter_selects_truncated_payloads_or_whole_ones,
    a_run_is_stored_with_its_letters_until_they_are_reopened,
    letters_failed_again_only_if_the_run_replayed_their_event,
}

/// An outbox with a key, as services have.
#[derive(Default)]
struct Outbox {
    takes_truncated: bool,
    /// Letters that it refuses.
    refused: HashSet<DeadLetterId>,
    /// The call, counted from 0, from which on it answers a transient error.
    breaks_at: Option<usize>,
    /// Letters that run out of time, on PostgreSQL.
    slow: HashSet<DeadLetterId>,
    calls: AtomicUsize,
    handed: Mutex<Vec<StoredLetter>>,
}

impl Outbox {
    fn that_refuses(refused: &[DeadLetterId]) -> Self {
        Self { refused: refused.iter().copied().collect(), ..Default::default() }
    }
}

#[async_trait]
impl Requeue for Outbox {
    async fn requeue(
        &self,
        txn: &DatabaseTransaction,
        letters: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.breaks_at.is_some_and(|breaks_at| call >= breaks_at) {
            return Err(transient().into());
        }
        for letter in letters {
            if self.slow.contains(&letter.id) {
                txn.execute_unprepared("SET LOCAL statement_timeout = '20ms'; SELECT pg_sleep(60)").await?;
            }
            put(txn, letter.original_event_id).await?;
            if self.refused.contains(&letter.id) {
                return Err(format!("refused {}", letter.id).into());
            }
        }
        self.handed.lock().unwrap().extend_from_slice(letters);
        Ok(())
    }

    fn accepts_truncated(&self) -> bool {
        self.takes_truncated
    }
}

async fn create_outbox(db: &TestDb) {
    db.execute("CREATE TABLE outbox (event text PRIMARY KEY)").await;
}

async fn put(db: &impl ConnectionTrait, event: Uuid) -> Result<(), DbErr> {
    db.execute_unprepared(&format!("INSERT INTO outbox VALUES ('{event}')")).await.map(drop)
}

async fn back(db: &TestDb) -> BTreeSet<Uuid> {
    let select = Statement::from_string(db.db.get_database_backend(), "SELECT event FROM outbox");
    let rows = db.db.query_all_raw(select).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index::<String>(0).unwrap().parse().unwrap()).collect()
}

/// Letters of one app, each a minute younger than the one before it and of its own event.
async fn letters(db: &TestDb, app: AppId, count: usize) -> Vec<StoredLetter> {
    let letters: Vec<_> = (0..)
        .take(count)
        .map(|minute| stored_letter(app, ten_oclock() + Duration::minutes(minute)))
        .collect();
    db.repo().import(&letters).await.unwrap();
    letters
}

fn ids<'a>(letters: impl IntoIterator<Item = &'a StoredLetter>) -> Vec<DeadLetterId> {
    letters.into_iter().map(|letter| letter.id).collect()
}

fn events<'a>(letters: impl IntoIterator<Item = &'a StoredLetter>) -> BTreeSet<Uuid> {
    letters.into_iter().map(|letter| letter.original_event_id).collect()
}

fn all() -> DeadLetterFilter {
    DeadLetterFilter::default().state(DeadLetterState::Open).created_before(DateTime::<Utc>::MAX_UTC)
}

fn failed(replayed: &Replayed) -> Vec<DeadLetterId> {
    replayed.failed.iter().map(|failure| failure.id).collect()
}

async fn open(db: &TestDb, app: AppId) -> u64 {
    db.repo().count(app, &all(), &CountRequest::default()).await.unwrap().matching.count
}

async fn one_of_two_open_letters_of_one_event_is_replayed_and_all_others_with_it(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 6).await;
    let event = stored[1].original_event_id;
    let again =
        StoredLetter { original_event_id: event, ..stored_letter(app, ten_oclock() + Duration::hours(1)) };
    db.repo().import(std::slice::from_ref(&again)).await.unwrap();

    let replayer = db.repo().replayer(Outbox::default());
    let replayed = replayer
        .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    assert_eq!((&replayed.ids, failed(&replayed)), (&ids(&stored), vec![again.id]));
    assert!(replayed.stopped.is_none() && !replayed.skipped_locked && !replayed.more, "{replayed:?}");
    let [failure] = replayed.failed.as_slice() else { panic!("{replayed:?}") };
    assert!(matches!(failure.error, DeadLetterRepoError::Requeue(_)), "{failure:?}");
    assert!(failure.reason().to_lowercase().contains("unique constraint"), "{}", failure.reason());
    assert_eq!((back(&db).await, open(&db, app).await), (events(&stored), 1));
}

async fn an_event_that_is_back_already_costs_its_own_letter(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 5).await;
    put(&db.db, stored[2].original_event_id).await.unwrap();
    let replayer = db.repo().replayer(Outbox::default());
    let replayed = replayer
        .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    let others = stored.iter().filter(|letter| letter.id != stored[2].id);
    assert_eq!((replayed.ids.clone(), failed(&replayed)), (ids(others), vec![stored[2].id]));
    assert_eq!((back(&db).await, open(&db, app).await), (events(&stored), 1));
}

async fn a_batch_of_letters_that_all_fail_names_each_and_replays_none(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 3).await;
    let replayer = db.repo().replayer(Outbox::that_refuses(&ids(&stored)));
    let replayed = replayer
        .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    assert_eq!((replayed.ids.clone(), failed(&replayed)), (vec![], ids(&stored)));
    for failure in &replayed.failed {
        assert_eq!(failure.reason(), format!("refused {}", failure.id));
    }
    assert_eq!((back(&db).await.len(), open(&db, app).await), (0, 3));
}

async fn the_next_call_continues_after_the_letters_that_failed(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 10).await;
    // The oldest ones would fill each batch anew.
    let refused = ids(&stored[..5]);
    let replayer = db.repo().replayer(Outbox::that_refuses(&refused));
    let (mut done, mut of_all, mut after) = (Vec::new(), Vec::new(), None);
    loop {
        let request = ReplayRequest::default().after(after).limit(2);
        let replayed =
            replayer.replay_matching(app, &all(), &Attribution::default(), &request).await.unwrap();
        assert!(replayed.ids.len() + replayed.failed.len() <= 2, "{replayed:?}");
        of_all.extend(failed(&replayed));
        done.extend(&replayed.ids);
        after = replayed.next;
        if !replayed.more {
            break;
        }
    }
    assert_eq!((of_all, done), (refused, ids(&stored[5..])));
    // From the beginning they are tried again.
    let request = ReplayRequest::default().limit(2);
    let replayed = replayer.replay_matching(app, &all(), &Attribution::default(), &request).await.unwrap();
    assert_eq!(failed(&replayed), ids(&stored[..2]));
}

async fn a_call_ends_with_32_failures(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 40).await;
    let replayer = db.repo().replayer(Outbox::that_refuses(&ids(&stored)));
    let first = replayer
        .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    assert_eq!((failed(&first), first.more), (ids(&stored[..32]), true));
    let request = ReplayRequest::default().after(first.next);
    let second = replayer.replay_matching(app, &all(), &Attribution::default(), &request).await.unwrap();
    assert_eq!((failed(&second), second.more), (ids(&stored[32..]), false));
}

async fn a_made_up_cursor_replays_no_letter_from_before_the_filters_times(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 3).await;
    let filter = all().created_from(stored[2].created_at);
    let oldest = db.repo().summary(app, stored[0].id).await.unwrap().unwrap();
    let made_up = Cursor::of_all_apps(&oldest, &filter, ListSort::Newest);
    let made_up = made_up.in_app(app, &filter, ListSort::Newest).unwrap();
    let request = ReplayRequest::default().after(made_up);
    let replayer = db.repo().replayer(Outbox::default());
    let replayed = replayer.replay_matching(app, &filter, &Attribution::default(), &request).await.unwrap();
    assert_eq!(replayed.ids, [stored[2].id]);
}

async fn each_letter_is_requeued_once_whatever_fails(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 21).await;
    let refused: Vec<_> = [0, 7, 8, 20].iter().map(|&index: &usize| stored[index].id).collect();
    let outbox = Arc::new(Outbox::that_refuses(&refused));
    let replayer = db.repo().replayer(Arc::clone(&outbox));
    let replayed = replayer
        .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    let others: Vec<_> = stored.iter().filter(|letter| !refused.contains(&letter.id)).collect();
    assert_eq!((replayed.ids.clone(), failed(&replayed)), (ids(others.clone()), refused));
    assert_eq!(back(&db).await, events(others.clone()));
    // The last time that each was handed over committed, oldest first.
    let handed = std::mem::take(&mut *outbox.handed.lock().unwrap());
    assert_eq!(ids(&handed), ids(others));
    assert!(handed.iter().all(|letter| letter.resolution.as_deref() == Some("replayed")));
}

async fn a_transient_error_is_not_bisected(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    letters(&db, app, 4).await;
    let outbox = Arc::new(Outbox { breaks_at: Some(0), ..Default::default() });
    let replayer = db.repo().replayer(Arc::clone(&outbox));
    let error = replayer
        .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap_err();
    assert!(error.is_transient() && matches!(error, DeadLetterRepoError::Requeue(_)), "{error}");
    assert_eq!((outbox.calls.load(Ordering::Relaxed), open(&db, app).await), (1, 4));
}

#[tokio::test]
async fn on_postgres_a_letter_that_always_runs_out_of_time_is_reported_and_the_others_are_replayed() {
    let db = TestDb::postgres().await;
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 4).await;
    let outbox = Outbox { slow: [stored[0].id].into(), ..Default::default() };
    let replayer = db.repo().replayer(outbox);
    let replayed = replayer
        .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    assert_eq!(replayed.ids, ids(&stored[1..]));
    assert_eq!(replayed.failed.iter().map(|failure| failure.id).collect::<Vec<_>>(), [stored[0].id]);
    assert_eq!((back(&db).await, open(&db, app).await), (events(&stored[1..]), 1));
}

#[tokio::test]
async fn on_postgres_a_second_letter_that_runs_out_of_time_stops_the_call() {
    let db = TestDb::postgres().await;
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 4).await;
    let outbox = Arc::new(Outbox { slow: ids(&stored).into_iter().collect(), ..Default::default() });
    let replayer = db.repo().replayer(Arc::clone(&outbox));
    let replayed = replayer
        .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    assert!(replayed.stopped.as_ref().is_some_and(DeadLetterRepoError::is_transient), "{replayed:?}");
    assert_eq!((replayed.ids.len(), replayed.failed.len(), replayed.more), (0, 1, true));
    // All four letters, the older two, and each of these.
    assert_eq!((outbox.calls.load(Ordering::Relaxed), open(&db, app).await), (4, 4));
}

async fn an_error_after_a_part_stops_the_call_and_leaves_what_is_done(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 4).await;
    // The calls receive all four letters, then the older two, then the newer two.
    let outbox = Outbox { breaks_at: Some(2), ..Outbox::that_refuses(&[stored[3].id]) };
    let replayer = db.repo().replayer(outbox);
    let replayed = replayer
        .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    assert_eq!((&replayed.ids, replayed.failed.len(), replayed.more), (&ids(&stored[..2]), 0, true));
    assert!(replayed.stopped.as_ref().is_some_and(DeadLetterRepoError::is_transient), "{replayed:?}");
    assert_eq!((back(&db).await, open(&db, app).await), (events(&stored[..2]), 2));
}

async fn a_cursor_of_another_app_or_filter_is_refused_and_nothing_is_sent(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 2).await;
    let (recording, recorded) = db.connect_recorded().await;
    let replayer = db.repo_over(recording).replayer(Outbox::that_refuses(&ids(&stored)));
    let after = replayer
        .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap()
        .next;
    recorded.take();
    let other = all().op("insert");
    for (app, filter) in [(new_app(), all()), (app, other)] {
        let request = ReplayRequest::default().after(after);
        let error =
            replayer.replay_matching(app, &filter, &Attribution::default(), &request).await.unwrap_err();
        assert!(matches!(error, DeadLetterRepoError::InvalidCursor), "{error}");
    }
    assert_eq!(recorded.take(), []);
}

async fn callers_at_the_same_time_replay_each_event_once(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 24).await;
    let refused = [stored[3].id, stored[4].id, stored[17].id];
    let replayer = db.repo().replayer(Outbox::that_refuses(&refused));
    let callers = (0..4).map(|_| {
        let replayer = Arc::clone(&replayer);
        tokio::spawn(async move {
            let (mut ids, mut after) = (Vec::new(), None);
            loop {
                let request = ReplayRequest::default().after(after).limit(6);
                let replayed =
                    replayer.replay_matching(app, &all(), &Attribution::default(), &request).await.unwrap();
                ids.extend(replayed.ids);
                after = replayed.next;
                if !replayed.more {
                    return ids;
                }
            }
        })
    });
    let mut done = Vec::new();
    for caller in callers.collect::<Vec<_>>() {
        done.extend(caller.await.unwrap());
    }
    // This call replays the letters that one replayer had locked when the others looked.
    let last = replayer
        .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    done.extend(&last.ids);
    let others: Vec<_> = stored.iter().filter(|letter| !refused.contains(&letter.id)).collect();
    assert_eq!(failed(&last), refused);
    let distinct: HashSet<_> = done.iter().copied().collect();
    assert_eq!((done.len(), distinct), (others.len(), ids(others.clone()).into_iter().collect()));
    assert_eq!(back(&db).await, events(others));
}

async fn a_batch_ends_at_16_mb_of_all_texts_with_at_least_one_letter(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let large = |minute, bytes| {
        let letter = stored_letter(app, ten_oclock() + Duration::minutes(minute));
        StoredLetter { last_error: "x".repeat(bytes), ..letter }
    };
    let small: Vec<_> = (1..=20).map(|minute| large(minute, 1 << 20)).collect();
    db.repo().import(&small[..10]).await.unwrap();
    db.repo().import(&small[10..]).await.unwrap();
    let replayer = db.repo().replayer(Outbox::default());
    let first = replayer
        .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    // The other texts of a letter count too.
    assert_eq!((&first.ids, first.more, first.skipped_locked), (&ids(&small[..15]), true, false));
    // One that is larger goes by itself.
    let whole = large(0, 17 << 20);
    db.repo().import(std::slice::from_ref(&whole)).await.unwrap();
    let mut batches = Vec::new();
    loop {
        let replayed: Result<_, DeadLetterRepoError> = db
            .repo()
            .replay_matching_with(app, &all(), &Attribution::default(), 100, async |txn, letters| {
                for letter in letters {
                    put(txn, letter.original_event_id).await?;
                }
                Ok(())
            })
            .await;
        let replayed = replayed.unwrap();
        batches.push(replayed.ids);
        if !replayed.more {
            break;
        }
    }
    assert_eq!(batches, [ids([&whole]), ids(&small[15..])]);
    assert_eq!(back(&db).await, events(small.iter().chain([&whole])));
}

fn of_kind(letter: StoredLetter, kind: PayloadKind) -> StoredLetter {
    StoredLetter { payload_kind: Some(kind.as_str().to_owned()), ..letter }
}

async fn a_truncated_payload_is_replayed_only_by_a_service_that_takes_it(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let of_whole = db.repo().replayer(Outbox::default());
    let of_any = db.repo().replayer(Outbox { takes_truncated: true, ..Default::default() });
    assert!(!of_whole.accepts_truncated() && of_any.accepts_truncated());
    let letter = of_kind(stored_letter(app, ten_oclock()), PayloadKind::Truncated);
    db.repo().import(std::slice::from_ref(&letter)).await.unwrap();
    let error = of_whole.replay(app, letter.id, &Attribution::default()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the dead letter {} was not replayed, because its payload is truncated: resolve it, or let \
             Requeue::accepts_truncated return true",
            letter.id,
        )
    );
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!((open(&db, app).await, back(&db).await.contains(&letter.original_event_id)), (1, false));
    of_any.replay(app, letter.id, &Attribution::default()).await.unwrap();
    assert_eq!((open(&db, app).await, back(&db).await.contains(&letter.original_event_id)), (0, true));
}

/// Three letters, of which the oldest is erased and the second truncated.
async fn two_of_three_truncated(db: &TestDb, app: AppId) -> [StoredLetter; 3] {
    let kinds = [PayloadKind::Erased, PayloadKind::Truncated, PayloadKind::Json];
    let mut minute = 0;
    let letters = kinds.map(|kind| {
        minute += 1;
        of_kind(stored_letter(app, ten_oclock() + Duration::minutes(minute)), kind)
    });
    db.repo().import(&letters).await.unwrap();
    letters
}

async fn truncated_payloads_do_not_block_what_matches(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = two_of_three_truncated(&db, app).await;
    let replayer = db.repo().replayer(Outbox::default());
    let request = ReplayRequest::default().limit(1);
    let replayed = replayer.replay_matching(app, &all(), &Attribution::default(), &request).await.unwrap();
    assert_eq!((replayed.ids.clone(), failed(&replayed)), (vec![stored[2].id], vec![]));
    let replayed = replayer.replay_matching(app, &all(), &Attribution::default(), &request).await.unwrap();
    assert!(replayed.ids.is_empty() && !replayed.more && !replayed.skipped_locked, "{replayed:?}");
    // Nor by their ids.
    let these = all().ids(ids(&stored));
    let replayed = replayer
        .replay_matching(app, &these, &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    assert!(replayed.ids.is_empty() && replayed.failed.is_empty(), "{replayed:?}");

    let replayer = db.repo().replayer(Outbox { takes_truncated: true, ..Default::default() });
    let replayed = replayer
        .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    assert_eq!(replayed.ids, ids(&stored[1..2]));
}

async fn a_closure_gets_truncated_payloads_and_sees_their_kind(db: TestDb) {
    let app = new_app();
    let stored = two_of_three_truncated(&db, app).await;
    let kind: Result<_, DeadLetterRepoError> = db
        .repo()
        .replay_with(app, stored[1].id, &Attribution::default(), async |_, letter| Ok(letter.payload_kind))
        .await;
    assert_eq!(kind.unwrap().as_deref(), Some("truncated"));
    reopen_replayed(&db.repo(), app, stored[1].id).await;
    let mut kinds = Vec::new();
    let replayed: Result<_, DeadLetterRepoError> = db
        .repo()
        .replay_matching_with(app, &all(), &Attribution::default(), 10, async |_, letters| {
            kinds.extend(letters.into_iter().filter_map(|letter| letter.payload_kind));
            Ok(())
        })
        .await;
    assert_eq!((replayed.unwrap().ids, kinds), (ids(&stored[1..]), vec!["truncated".into(), "json".into()]));
}

async fn a_filter_selects_truncated_payloads_or_whole_ones(db: TestDb) {
    let app = new_app();
    let stored = two_of_three_truncated(&db, app).await;
    for (truncated, expected) in [(None, 3), (Some(true), 2), (Some(false), 1)] {
        let filter = all().truncated(truncated);
        assert_eq!(
            db.repo().count(app, &filter, &CountRequest::default().cap(10)).await.unwrap().matching.count,
            expected
        );
        assert_eq!(
            db.repo()
                .count(app, &filter, &CountRequest::default().cap(10).scan_limit(10))
                .await
                .unwrap()
                .matching
                .count,
            expected
        );
    }
    let whole = all().truncated(false);
    let resolved = db.repo().resolve_matching(app, &whole, Resolution::Ignored, &seen(), 10).await.unwrap();
    assert_eq!(resolved.ids, ids(&stored[2..]));
}

async fn a_run_is_stored_with_its_letters_until_they_are_reopened(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 2).await;
    let run_of = async |id: DeadLetterId| {
        table::Entity::find()
            .select_only()
            .column(table::Column::RunId)
            .filter(table::COLUMN.id.eq(id.into_inner()))
            .into_tuple::<Option<Uuid>>()
            .one(&db.db)
            .await
            .unwrap()
            .unwrap()
    };
    let run_id = Some(Uuid::now_v7());
    let replayer = db.repo().replayer(Outbox::default());
    let of_run = Attribution::default().run_id(run_id);
    let request = ReplayRequest::default().limit(1);
    replayer.replay_matching(app, &all(), &of_run, &request).await.unwrap();
    assert_eq!([run_of(stored[0].id).await, run_of(stored[1].id).await], [run_id, None]);
    reopen_replayed(&db.repo(), app, stored[0].id).await;
    assert_eq!(run_of(stored[0].id).await, None);

    db.execute("DELETE FROM outbox").await;
    replayer.replay_matching(app, &all(), &of_run, &ReplayRequest::default()).await.unwrap();
    assert_eq!([run_of(stored[0].id).await, run_of(stored[1].id).await], [run_id; 2]);
    // A letter that an operator resolves again is no longer part of the run.
    db.repo().resolve(stored[1].id, "ignored").await.unwrap();
    assert_eq!(run_of(stored[1].id).await, None);
}

async fn letters_failed_again_only_if_the_run_replayed_their_event(db: TestDb) {
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 4).await;
    let replayer = db.repo().replayer(Outbox::default());
    let run = Uuid::now_v7();
    let these = all().ids(ids(&stored[..2]));
    let (of_run, request) = (Attribution::default().run_id(run), ReplayRequest::default());
    replayer.replay_matching(app, &these, &of_run, &request).await.unwrap();
    // By another run, and by nobody's.
    let these = all().ids(ids(&stored[2..3]));
    let of_another = Attribution::default().run_id(Uuid::now_v7());
    replayer.replay_matching(app, &these, &of_another, &request).await.unwrap();
    replayer.replay(app, stored[3].id, &Attribution::default()).await.unwrap();

    let at = ten_oclock() + Duration::hours(1);
    let again = [0, 1, 2, 3].map(|index: usize| StoredLetter {
        original_event_id: stored[index].original_event_id,
        ..stored_letter(app, at)
    });
    let of_another_app =
        StoredLetter { original_event_id: stored[0].original_event_id, ..stored_letter(new_app(), at) };
    db.repo().import(&again).await.unwrap();
    db.repo().import(&[of_another_app, stored_letter(app, at)]).await.unwrap();
    // One of them is replayed again by hand.
    db.repo().resolve(again[1].id, "replayed").await.unwrap();

    let filter = any().failed_again_in_run(run);
    for scan in [None, Some(100)] {
        let page = PageRequest::default().scan_limit(scan);
        let found = db.repo().list(app, &filter, &page).await.unwrap().items;
        let found: BTreeSet<_> = found.iter().map(|letter| letter.id.into_inner()).collect();
        assert_eq!(found, again[..2].iter().map(|letter| letter.id.into_inner()).collect());
        assert_eq!(
            db.repo()
                .count(app, &filter, &CountRequest::default().cap(10).scan_limit(scan))
                .await
                .unwrap()
                .matching
                .count,
            2
        );
    }
    let open = filter.clone().state(DeadLetterState::Open);
    assert_eq!(
        db.repo().count(app, &open, &CountRequest::default().cap(10)).await.unwrap().matching.count,
        1
    );
    let none = any().failed_again_in_run(Uuid::now_v7());
    assert_eq!(
        db.repo().count(app, &none, &CountRequest::default().cap(10)).await.unwrap().matching.count,
        0
    );
}

/// The next call starts after these letters, so the result must report them.
#[tokio::test]
async fn letters_that_are_locked_before_one_that_fails_are_reported_on_postgres() {
    let db = TestDb::postgres().await;
    create_outbox(&db).await;
    let app = new_app();
    let stored = letters(&db, app, 6).await;
    let txn = db.db.begin().await.unwrap();
    table::Entity::find_by_id(stored[0].id.into_inner()).lock_exclusive().one(&txn).await.unwrap().unwrap();
    let replayer = db.repo().replayer(Outbox::that_refuses(&[stored[2].id]));
    let request = ReplayRequest::default().limit(2);
    let first = replayer.replay_matching(app, &all(), &Attribution::default(), &request).await.unwrap();
    assert_eq!((first.ids.clone(), failed(&first)), (vec![stored[1].id], vec![stored[2].id]));
    assert_eq!((first.more, first.skipped_locked), (true, true));
    let second = replayer
        .replay_matching(app, &all(), &Attribution::default(), &request.after(first.next))
        .await
        .unwrap();
    assert_eq!((&second.ids, second.more, second.skipped_locked), (&ids(&stored[3..5]), true, false));
    // Where none fails, the next call comes to them.
    let third =
        replayer.replay_matching(app, &all(), &Attribution::default(), &request.limit(1)).await.unwrap();
    assert_eq!((failed(&third), third.skipped_locked), (vec![stored[2].id], true));
    txn.rollback().await.unwrap();
}

/// A constraint that PostgreSQL checks at the commit. PostgreSQL answers that a commit failed before it releases the
/// locks, so that a part on another connection may find its letters locked: another call finds them.
#[tokio::test]
async fn a_commit_that_fails_is_bisected_on_postgres() {
    let db = TestDb::postgres().await;
    db.execute("CREATE TABLE outbox (event text UNIQUE DEFERRABLE INITIALLY DEFERRED)").await;
    let app = new_app();
    let stored = letters(&db, app, 5).await;
    put(&db.db, stored[1].original_event_id).await.unwrap();
    let replayer = db.repo().replayer(Outbox::default());
    let mut replayed = replayer
        .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
        .await
        .unwrap();
    while replayed.failed.is_empty() && replayed.skipped_locked {
        replayed = replayer
            .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
            .await
            .unwrap();
    }
    while open(&db, app).await > 1 {
        replayer
            .replay_matching(app, &all(), &Attribution::default(), &ReplayRequest::default())
            .await
            .unwrap();
    }
    let [failure] = replayed.failed.as_slice() else { panic!("{replayed:?}") };
    assert_eq!(failure.id, stored[1].id);
    assert!(failure.reason().contains("23505"), "{}", failure.reason());
}

/// A trigger that leaves letters as they are.
#[tokio::test]
async fn a_loop_ends_where_a_trigger_hides_letters_from_the_update_on_postgres() {
    let db = TestDb::postgres().await;
    create_outbox(&db).await;
    let app = new_app();
    rows(&db, app, 3).await;
    db.execute(
        "CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER leave BEFORE UPDATE ON dead_letters FOR EACH ROW EXECUTE FUNCTION leave()",
    )
    .await;
    let request = ReplayRequest::default().limit(2);
    let replayed = db
        .repo()
        .replayer(Outbox::default())
        .replay_matching(app, &all(), &Attribution::default(), &request)
        .await
        .unwrap();
    assert!(replayed.ids.is_empty() && replayed.failed.is_empty() && !replayed.more, "{replayed:?}");
}
