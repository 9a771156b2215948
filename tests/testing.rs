//! Tests of the helpers that services test with.

use std::{error::Error, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dead_letters::{
    ActionRequest, AnnouncementClaim, AppId, Archive, Attribution, BacklogRequest, Buckets, CountRequest,
    DeadLetterAnnounce, DeadLetterBury, DeadLetterDelete, DeadLetterFilter, DeadLetterRead, DeadLetterReplay,
    DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, DeadLetterRetention, DeadLetterState,
    DeadLetterStore, DeadLetterTransfer, Due, ErrorKind, GroupRequest, NewGroupRequest, PageRequest,
    PayloadSearch, RebuildRequest, ReopenRequest, ReplayRequest, Requeue, Resolution, SeaOrmDeadLetterRepo,
    StoredLetter, SweepScope, Take, TimelineRequest,
    testing::{
        Call, FailingStore, database_error, error_group, internal, letter, new_error_group, row, store,
        stored_letter, summary, transient,
    },
};
use sea_orm::DatabaseTransaction;
use uuid::Uuid;

fn new_app() -> AppId {
    Uuid::new_v4().into()
}

#[tokio::test]
async fn each_store_is_migrated_empty_and_its_own() {
    let app = new_app();
    let (one, other) = (store().await.unwrap(), store().await.unwrap());
    one.insert(letter(app)).await.unwrap();
    assert_eq!(one.clone().unresolved_count(app).await.unwrap(), 1);
    assert_eq!(other.unresolved_count(app).await.unwrap(), 0);
}

#[tokio::test]
async fn a_letter_is_read_back_as_it_was_inserted() {
    let store = store().await.unwrap();
    let sent = letter(new_app());
    let id = store.insert(sent.clone()).await.unwrap();
    let row = store.get(id).await.unwrap().unwrap();
    assert_eq!(
        (row.original_event_id, row.payload, row.first_attempt_at, row.last_attempt_at, row.last_error),
        (sent.original_event_id, sent.payload, sent.first_attempt_at, sent.last_attempt_at, sent.last_error)
    );
}

#[tokio::test]
async fn a_row_a_summary_and_a_group_are_those_of_the_stored_sample() {
    let store = store().await.unwrap();
    let (app, others, grouped) = (new_app(), new_app(), new_app());
    let (row, summary, group) = (row(app), summary(others), error_group(grouped));
    store
        .import(&[
            StoredLetter {
                id: row.id,
                original_event_id: row.original_event_id,
                trigger_id: row.trigger_id,
                script_id: row.script_id,
                ..stored_letter(app, row.created_at)
            },
            StoredLetter {
                id: summary.id,
                original_event_id: summary.original_event_id,
                trigger_id: summary.trigger_id,
                script_id: summary.script_id,
                ..stored_letter(others, summary.created_at)
            },
            StoredLetter {
                id: group.newest_id,
                script_id: group.script_id,
                ..stored_letter(grouped, group.first_seen)
            },
        ])
        .await
        .unwrap();
    assert_eq!(store.get(row.id).await.unwrap(), Some(row));
    assert_eq!(store.summary(others, summary.id).await.unwrap(), Some(summary));
    let (all, request) = (DeadLetterFilter::default(), GroupRequest::default());
    let groups = store.error_groups(grouped, &all, &request).await.unwrap().groups;
    let (newest_id, script_id, key) = (group.newest_id, group.script_id, group.group_key.clone());
    assert_eq!(groups, [group]);
    let request = NewGroupRequest::since(DateTime::UNIX_EPOCH).among([grouped]);
    let new = store.new_error_groups(&request).await.unwrap().groups;
    let mut expected = new_error_group(grouped);
    (expected.newest_id, expected.script_id, expected.group_key) = (newest_id, script_id, key);
    assert_eq!(new, [expected]);
}

#[tokio::test]
async fn a_stored_letter_is_as_an_insert_would_have_stored_it_and_as_old_as_given() {
    let store = store().await.unwrap();
    let app = new_app();
    let created_at: DateTime<Utc> = "2020-01-01T00:00:00Z".parse().unwrap();
    let old = stored_letter(app, created_at);
    store.import(std::slice::from_ref(&old)).await.unwrap();
    let new = store.insert(letter(app)).await.unwrap();
    let all = DeadLetterFilter::default();
    let items = store.export(app, &all, &PageRequest::default()).await.unwrap().items;
    let [newest, oldest] = items.try_into().unwrap();
    assert_eq!((newest.id, &oldest), (new, &old));
    let as_old = StoredLetter {
        id: old.id,
        original_event_id: old.original_event_id,
        trigger_id: old.trigger_id,
        script_id: old.script_id,
        created_at,
        ..newest
    };
    assert_eq!(as_old, old);
    assert_eq!(store.gc(created_at + chrono::TimeDelta::microseconds(1), 10).await.unwrap(), 1);
}

#[test]
fn made_up_errors_have_the_kind_of_their_name() {
    assert_eq!(transient().kind(), ErrorKind::Transient);
    assert_eq!(internal().kind(), ErrorKind::Internal);
    // SQLite's busy, and a broken constraint.
    assert_eq!(database_error("5").kind(), ErrorKind::Transient);
    assert_eq!(database_error("23505").kind(), ErrorKind::Internal);
    assert_eq!(database_error("23505").to_string(), "database error 23505");
}

struct Nowhere;

#[async_trait]
impl Archive for Nowhere {
    async fn keep(&self, _: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
}

#[async_trait]
impl Take for Nowhere {
    async fn take(&self, _: &DatabaseTransaction, _: Uuid) -> Result<u64, Box<dyn Error + Send + Sync>> {
        Ok(1)
    }
}

#[async_trait]
impl Requeue for Nowhere {
    async fn requeue(
        &self,
        _: &DatabaseTransaction,
        _: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
}

/// A store that fails, its burier, its replay, and the store itself.
struct Given {
    store: FailingStore<SeaOrmDeadLetterRepo>,
    bury: FailingStore<Arc<dyn DeadLetterBury>>,
    replay: FailingStore<Arc<dyn DeadLetterReplay>>,
    itself: SeaOrmDeadLetterRepo,
    app: AppId,
}

impl Given {
    async fn new() -> Self {
        let itself = store().await.unwrap();
        let bury = FailingStore::new(itself.burier(Nowhere));
        let replay = FailingStore::new(itself.replayer(Nowhere));
        Self { store: FailingStore::new(itself.clone()), bury, replay, itself, app: new_app() }
    }

    async fn make(&self, call: Call) -> Result<(), DeadLetterRepoError> {
        let Self { store, bury, replay, itself, app } = self;
        let app = *app;
        let max = DateTime::<Utc>::MAX_UTC;
        let filter = DeadLetterFilter::default().created_before(max);
        let page = PageRequest::default();
        let timeline = Buckets::new(DateTime::UNIX_EPOCH..Utc::now(), 1);
        let (scope, due) = (SweepScope::App(app), Due::CreatedBefore(max));
        let row = stored_letter(app, DateTime::UNIX_EPOCH);
        itself.import(std::slice::from_ref(&row)).await.unwrap();
        let id = row.id;
        match call {
            Call::Insert => store.insert(letter(app)).await.map(drop),
            Call::InsertMany => store.insert_many(vec![letter(app)]).await.map(drop),
            Call::Get => store.get(id).await.map(drop),
            Call::ListForApp => store.list_for_app(app, true, 1, 0).await.map(drop),
            Call::UnresolvedCount => store.unresolved_count(app).await.map(drop),
            Call::Resolve => store.resolve(id, "ignored").await,
            Call::Gc => store.gc(max, 1).await.map(drop),
            Call::AppOf => store.app_of(id).await.map(drop),
            Call::GetForApp => store.get_for_app(app, id).await.map(drop),
            Call::Summary => store.summary(app, id).await.map(drop),
            Call::PayloadText => store.payload_text(app, id, 0..1).await.map(drop),
            Call::ReplayedPayloadText => store.replayed_payload_text(app, id, 0..1).await.map(drop),
            Call::ErrorText => store.error_text(app, id, 0..1).await.map(drop),
            Call::Metadata => store.metadata(app, id).await.map(drop),
            Call::List => store.list(app, &filter, &page).await.map(drop),
            Call::SearchPayloads => store.search_payloads(app, &PayloadSearch::new("{")).await.map(drop),
            Call::Export => store.export(app, &filter, &page).await.map(drop),
            Call::Backlogs => store.backlogs(&BacklogRequest::default().limit(1).cap(1)).await.map(drop),
            Call::Apps => store.apps(DeadLetterState::Any, None, 1).await.map(drop),
            Call::UnresolvedCounts => store.unresolved_counts(&[app], None).await.map(drop),
            Call::Count => store.count(app, &filter, &CountRequest::default().cap(1)).await.map(drop),
            Call::Timeline => store.timeline(app, &filter, &TimelineRequest::from(timeline)).await.map(drop),
            Call::ErrorGroups => store.error_groups(app, &filter, &GroupRequest::default()).await.map(drop),
            Call::NewErrorGroups => {
                store.new_error_groups(&NewGroupRequest::since(DateTime::UNIX_EPOCH)).await.map(drop)
            }
            Call::TimesReplayed => store.times_replayed(app, &[Uuid::nil()]).await.map(drop),
            Call::LettersVersion => store.letters_version(Some(app)).await.map(drop),
            Call::RecentApps => store.recent_apps(chrono::DateTime::UNIX_EPOCH).await.map(drop),
            Call::Actions => store.actions(app, &ActionRequest::default()).await.map(drop),
            Call::ResolveOnce => {
                store.resolve_once(app, id, Resolution::Ignored, &Attribution::default()).await.map(drop)
            }
            Call::ResolveMatching => store
                .resolve_matching(app, &filter, Resolution::Ignored, &Attribution::default(), 1)
                .await
                .map(drop),
            Call::ReopenMatching => store
                .reopen_matching(
                    app,
                    &DeadLetterFilter::default().run_id(Uuid::nil()),
                    &Attribution::default(),
                    &ReopenRequest::default(),
                )
                .await
                .map(drop),
            Call::Reopen => match store.reopen(app, id, &Attribution::default()).await {
                Err(DeadLetterRepoError::NotResolved(_)) => Ok(()),
                outcome => outcome,
            },
            Call::RecordReveal => store.record_reveal(app, id, &Attribution::by("ada")).await,
            Call::Import => store.import(&[row]).await.map(drop),
            Call::RebuildSignatures => store.rebuild_signatures(&RebuildRequest::default()).await.map(drop),
            Call::Sweep => store.sweep(&scope, due, None, 1).await.map(drop),
            Call::SweepInto => store.sweep_into(&scope, due, None, 1, &Nowhere).await.map(drop),
            Call::CountDue => store.count_due(&scope, due, DeadLetterState::Any, 1).await.map(drop),
            Call::SweepActions => store.sweep_actions(max, None, 1).await.map(drop),
            Call::UnannouncedGroups => {
                store.unannounced_groups(&NewGroupRequest::since(DateTime::UNIX_EPOCH)).await.map(drop)
            }
            Call::ClaimAnnouncement => {
                store.claim_announcement(&new_error_group(app), Duration::ZERO).await.map(drop)
            }
            Call::ConfirmAnnouncement => {
                let claim = AnnouncementClaim::new(&new_error_group(app), DateTime::UNIX_EPOCH);
                store.confirm_announcement(&claim).await.map(drop)
            }
            Call::SweepAnnouncements => store.sweep_announcements(max, max, 1).await.map(drop),
            Call::Bury => bury.bury(letter(app)).await.map(drop),
            Call::Replay => replay.replay(app, id, &Attribution::default()).await.map(drop),
            Call::ReplayEdited => replay.replay_edited(app, id, "1", &Attribution::default()).await.map(drop),
            Call::DeleteMatching => {
                store.delete_matching(app, &filter, &Attribution::default(), 1).await.map(drop)
            }
            Call::Erase => store.erase(app, &[id], &Attribution::default()).await.map(drop),
            Call::ReplayMatching => replay
                .replay_matching(app, &filter, &Attribution::default(), &ReplayRequest::default())
                .await
                .map(drop),
            _ => panic!("{call:?} is not made here"),
        }
    }
}

#[tokio::test]
async fn only_the_call_with_a_rule_fails() {
    let given = Given::new().await;
    for &told in Call::ALL {
        given.store.fail(told, .., internal());
        given.bury.fail(told, .., internal());
        given.replay.fail(told, .., internal());
        for &call in Call::ALL {
            let outcome = given.make(call).await.map_err(|error| error.to_string());
            let expected = if call == told { Err("database error XX000".to_owned()) } else { Ok(()) };
            assert_eq!(outcome, expected, "{call:?}, told {told:?}");
        }
        given.store.recover();
        given.bury.recover();
        given.replay.recover();
    }
}

#[tokio::test]
async fn a_call_that_fails_does_not_reach_the_store() {
    let given = Given::new().await;
    given.store.fail(Call::Insert, .., transient());
    given.store.insert(letter(given.app)).await.unwrap_err();
    assert_eq!(given.store.unresolved_count(given.app).await.unwrap(), 0);
}

#[tokio::test]
async fn each_rule_for_a_call_counts_its_calls_from_0_anew() {
    let given = Given::new().await;
    let outcomes = async || {
        let mut outcomes = Vec::new();
        for _ in 0..4 {
            outcomes.push(given.make(Call::Insert).await.is_ok());
        }
        outcomes
    };
    let store = &given.store;
    store.fail(Call::Insert, .., transient());
    assert_eq!(outcomes().await, [false; 4]);
    store.fail(Call::Insert, ..2, transient());
    assert_eq!(outcomes().await, [false, false, true, true]);
    store.fail(Call::Insert, 2.., transient());
    assert_eq!(outcomes().await, [true, true, false, false]);
    store.fail(Call::Insert, 1..=2, transient());
    // A rule for another call does not replace this one.
    store.fail(Call::Get, .., transient());
    assert_eq!(outcomes().await, [true, false, false, true]);
    store.recover();
    assert_eq!(outcomes().await, [true; 4]);
}

#[tokio::test]
async fn a_call_hangs_until_recovery_and_then_goes_on() {
    let Given { store, app, .. } = Given::new().await;
    let store: Arc<FailingStore<_>> = Arc::new(store);
    store.hang(Call::Insert, ..1);
    let service: Arc<dyn DeadLetterStore> = store.clone();
    let mut hanging = pin!(service.insert(letter(app)));
    let others = async {
        for _ in 0..10 {
            store.insert(letter(app)).await.unwrap();
        }
    };
    tokio::select! {
        biased;
        outcome = &mut hanging => panic!("{outcome:?}"),
        () = others => {}
    }
    assert_eq!(store.unresolved_count(app).await.unwrap(), 10);
    store.recover();
    hanging.await.unwrap();
    assert_eq!(store.unresolved_count(app).await.unwrap(), 11);
}
