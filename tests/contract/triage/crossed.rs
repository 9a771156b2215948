//! Every filter, with every state and without one, with ids and a scan limit or without, in every call that takes it.

use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    AppId, Attribution, Buckets, CountRequest, DeadLetterFilter, DeadLetterId, DeadLetterRead,
    DeadLetterRepoError, DeadLetterResolve, DeadLetterState, DeadLetterTransfer, GroupRequest, IdFilter,
    ListSort, Page, PageRequest, PayloadSearch, ReopenRequest, Resolution, SeaOrmDeadLetterRepo,
    StoredLetter, TimelineRequest, testing::stored_letter,
};
use uuid::Uuid;

use super::{new_app, ten_oclock};
use crate::database::TestDb;

on_every_backend! { every_call_finds_the_same_letters_whatever_is_combined }

const RUN: Uuid = Uuid::from_u128(7);
const LETTERS: u32 = 24;
const ACME: &str = r#"{"tenant":"acme","host":"a"}"#;

/// A filter and the letters that it is to find.
type Case = (DeadLetterFilter, fn(&StoredLetter, &[StoredLetter]) -> bool);

fn cases() -> [Case; 15] {
    let none = DeadLetterFilter::default;
    [
        (none(), |_, _| true),
        (none().script_id(IdFilter::None), |letter, _| letter.script_id.is_none()),
        (none().trigger_id(IdFilter::None), |letter, _| letter.trigger_id.is_none()),
        (none().truncated(false), |letter, _| !is_truncated(letter)),
        (none().erased(true), |letter, _| is_erased(letter)),
        (none().erased(false).source("orders"), |letter, _| !is_erased(letter) && letter.source == "orders"),
        (none().truncated(true).source("orders"), |letter, _| {
            is_truncated(letter) && letter.source == "orders"
        }),
        (none().source_contains("RDER").op_contains("SERT"), |letter, _| letter.source == "orders"),
        // The key of orders without a script.
        (none().group_key("2cf488a4aaa52e8a"), |letter, _| {
            letter.source == "orders" && letter.script_id.is_none()
        }),
        (none().run_id(RUN), |letter, _| letter.run_id == Some(RUN)),
        (none().resolved_by("ada"), |letter, _| letter.resolved_by.as_deref() == Some("ada")),
        (none().resolved_from(middle()), |letter, _| letter.resolved_at >= Some(middle())),
        (none().resolved_before(middle()), |letter, _| letter.resolved_at.is_some_and(|at| at < middle())),
        (none().metadata("tenant", "acme").metadata("host", "a"), |letter, _| {
            letter.metadata.as_deref() == Some(ACME)
        }),
        (none().failed_again_in_run(RUN), |letter, all| {
            letter.run_id != Some(RUN)
                && all.iter().any(|other| {
                    other.run_id == Some(RUN) && other.original_event_id == letter.original_event_id
                })
        }),
    ]
}

fn is_truncated(letter: &StoredLetter) -> bool {
    matches!(letter.payload_kind.as_deref(), Some("truncated" | "erased"))
}

fn is_erased(letter: &StoredLetter) -> bool {
    letter.payload_kind.as_deref() == Some("erased")
}

fn is_of(state: DeadLetterState, letter: &StoredLetter) -> bool {
    let is_closed = !matches!(letter.resolution.as_deref(), None | Some("handler_failed"));
    match state {
        DeadLetterState::Open => !is_closed,
        DeadLetterState::Unresolved => letter.resolution.is_none(),
        DeadLetterState::Closed => is_closed,
        DeadLetterState::Any => true,
    }
}

/// Each property has another period, so that they meet in every way.
fn letters(app: AppId) -> Vec<StoredLetter> {
    let letter = |n: u32| {
        let created_at = ten_oclock() + Duration::minutes(n.into());
        let resolution = match n % 4 {
            0 => Some("replayed"),
            1 => Some("handler_failed"),
            2 => Some("ignored"),
            _ => None,
        };
        StoredLetter {
            original_event_id: Uuid::from_u128(u128::from(n % 8 / 4 * 100 + n % 5)),
            source: if n.is_multiple_of(2) { "orders" } else { "parcels" }.to_owned(),
            script_id: (!n.is_multiple_of(3)).then(|| Uuid::from_u128(1).into()),
            trigger_id: (!n.is_multiple_of(5)).then(|| Uuid::from_u128(2).into()),
            payload_kind: Some(
                ["json", "truncated", "text", "json", "erased", "json", "json"][n as usize % 7].to_owned(),
            ),
            resolution: resolution.map(str::to_owned),
            resolved_at: resolution.map(|_| created_at + Duration::hours(1)),
            resolved_by: resolution.map(|_| ["ada", "grace", "alan"][n as usize % 3].to_owned()),
            metadata: (!n.is_multiple_of(5))
                .then(|| if n.is_multiple_of(3) { ACME } else { r#"{"tenant":"acme"}"# }.to_owned()),
            run_id: n.is_multiple_of(8).then_some(RUN),
            ..stored_letter(app, created_at)
        }
    };
    (0..LETTERS).map(letter).collect()
}

/// When half of them were resolved.
fn middle() -> DateTime<Utc> {
    ten_oclock() + Duration::hours(1) + Duration::minutes(i64::from(LETTERS / 2))
}

fn end() -> DateTime<Utc> {
    ten_oclock() + Duration::days(1)
}

async fn to_the_end<T>(
    mut page: impl AsyncFnMut(PageRequest) -> Result<Page<T>, DeadLetterRepoError>,
    (sort, scan): (ListSort, Option<u32>),
    id: fn(&T) -> DeadLetterId,
) -> Vec<DeadLetterId> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let next =
            page(PageRequest::default().sort(sort).size(5).after(after).scan_limit(scan)).await.unwrap();
        found.extend(next.items.iter().map(id));
        after = next.next;
        if after.is_none() {
            found.sort();
            return found;
        }
    }
}

async fn every_call_finds_the_same_letters_whatever_is_combined(db: TestDb) {
    let (app, repo) = (new_app(), db.repo());
    let stored = letters(app);
    repo.import(&stored).await.unwrap();
    let some: Vec<_> =
        stored.iter().map(|letter| letter.id).filter(|id| id.into_inner().as_u128() % 3 > 0).collect();
    for (case, finds) in cases() {
        assert!(stored.iter().any(|letter| finds(letter, &stored)), "{case:?}");
        for state in DeadLetterState::ALL.iter().copied().map(Some).chain([None]) {
            for ids in [None, Some(some.clone())] {
                let mut filter = case.clone().state(state).created_before(end());
                filter.ids = ids.clone();
                let state = filter.effective_state();
                let mut expected: Vec<_> = stored.iter().filter(|letter| is_of(state, letter)).collect();
                expected.retain(|letter| finds(letter, &stored));
                expected.retain(|letter| ids.as_ref().is_none_or(|ids| ids.contains(&letter.id)));
                all_find(&repo, app, &filter, &expected).await;
                resolves(&repo, app, &filter, &expected).await;
                reopens(&repo, app, &filter, &expected).await;
            }
        }
    }
}

async fn all_find(
    repo: &SeaOrmDeadLetterRepo,
    app: AppId,
    filter: &DeadLetterFilter,
    expected: &[&StoredLetter],
) {
    let mut ids: Vec<_> = expected.iter().map(|letter| letter.id).collect();
    ids.sort();
    let letters = ids.len() as u64;
    // Fewer than there are, and more.
    for scan in [None, Some(4), Some(10 * LETTERS)] {
        for order in [(ListSort::Newest, scan), (ListSort::Oldest, scan)] {
            let listed =
                to_the_end(async |page| repo.list(app, filter, &page).await, order, |item| item.id).await;
            assert_eq!(listed, ids, "list {filter:?} {order:?}");
            let exported =
                to_the_end(async |page| repo.export(app, filter, &page).await, order, |item| item.id).await;
            assert_eq!(exported, ids, "export {filter:?} {order:?}");
            let search = async |page| {
                let search = PayloadSearch::new("{").filter(filter.clone()).page(page);
                repo.search_payloads(app, &search).await
            };
            let mut whole: Vec<_> =
                expected.iter().filter(|letter| !is_erased(letter)).map(|letter| letter.id).collect();
            whole.sort();
            assert_eq!(to_the_end(search, order, |item| item.id).await, whole, "search {filter:?} {order:?}");
        }
        let counted = repo.count(app, filter, &CountRequest::default().scan_limit(scan)).await.unwrap();
        let request = Buckets::new(ten_oclock()..end(), 3);
        let timeline =
            repo.timeline(app, filter, &TimelineRequest::from(request).scan_limit(scan)).await.unwrap();
        let in_buckets: u64 = timeline.buckets.iter().map(|bucket| bucket.count).sum();
        let request = GroupRequest::default().scan_limit(scan);
        let groups = repo.error_groups(app, filter, &request).await.unwrap();
        let in_groups: u64 = groups.groups.iter().map(|group| group.count).sum();
        let is_whole = counted.scanned_back_to.is_none();
        assert!(is_whole || scan == Some(4), "{filter:?} {scan:?}");
        for count in [counted.matching.count, in_buckets, in_groups] {
            assert!(
                if is_whole { count == letters } else { count <= letters.min(4) },
                "{filter:?} {scan:?}: {count}"
            );
        }
    }
}

/// Resolves them in a transaction that is rolled back.
async fn resolves(
    repo: &SeaOrmDeadLetterRepo,
    app: AppId,
    filter: &DeadLetterFilter,
    expected: &[&StoredLetter],
) {
    let open: Vec<_> = expected
        .iter()
        .filter(|letter| is_of(DeadLetterState::Open, letter))
        .map(|letter| letter.id)
        .collect();
    let txn = SeaOrmDeadLetterRepo::begin(repo.pool()).await.unwrap();
    let resolved = repo
        .in_transaction(&txn)
        .resolve_matching(app, filter, Resolution::Ignored, &Attribution::default(), 1_000)
        .await
        .unwrap();
    txn.rollback().await.unwrap();
    assert_eq!(resolved.ids, open, "{filter:?}");
}

/// Reopens them in a transaction that is rolled back.
async fn reopens(
    repo: &SeaOrmDeadLetterRepo,
    app: AppId,
    filter: &DeadLetterFilter,
    expected: &[&StoredLetter],
) {
    let is_asked = matches!(filter.state, None | Some(DeadLetterState::Closed | DeadLetterState::Any));
    let is_closed = |letter: &&&StoredLetter| is_asked && is_of(DeadLetterState::Closed, letter);
    let closed: Vec<_> = expected.iter().filter(is_closed).map(|letter| letter.id).collect();
    // A filter without a state may be about open letters, and this call then means the closed ones.
    if filter.state.is_none() && filter.effective_state() == DeadLetterState::Open {
        return;
    }
    let filter = filter.clone().resolved_before(filter.resolved_before.unwrap_or(end()));
    let txn = SeaOrmDeadLetterRepo::begin(repo.pool()).await.unwrap();
    let request = ReopenRequest::default().include_replayed(true);
    let reopened = repo
        .in_transaction(&txn)
        .reopen_matching(app, &filter, &Attribution::default(), &request)
        .await
        .unwrap();
    txn.rollback().await.unwrap();
    assert_eq!(reopened.ids, closed, "{filter:?}");
}
