//! A table to which a service added columns of its own.

use std::collections::BTreeSet;

use chrono::{DateTime, Duration, Utc};
use dead_letters::{
    ActionRequest, AppId, Attribution, BacklogRequest, Buckets, CountRequest, DeadLetterAnnounce,
    DeadLetterDelete, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo, DeadLetterRepoError,
    DeadLetterResolve, DeadLetterRetention, DeadLetterState, DeadLetterTransfer, Due, GroupRequest,
    NewGroupRequest, PageRequest, PayloadSearch, RebuildRequest, Resolution, SeaOrmDeadLetterRepo,
    StoredLetter, SweepScope, TimelineRequest, entity::dead_letters::Column, testing::stored_letter,
};
use sea_orm::{IdenStatic, Iterable};
use serde::Serialize;
use uuid::Uuid;

use super::{letter, retention::Nowhere, triage::ten_oclock};
use crate::database::TestDb;

on_every_backend_and_key! {
    a_services_own_columns_change_no_call_whatever_their_names,
}

/// Named as all that the repo's statements name, so that a statement which means its alias and gets the column fails, or
/// finds something else.
async fn a_services_own_columns_change_no_call_whatever_their_names(db: TestDb) {
    let (recording, recorded) = db.connect_recorded().await;
    let repo = db.repo_over(recording);
    let before = results(&repo).await;
    let mut names: BTreeSet<_> =
        recorded.take().iter().flat_map(|statement| names_in(&statement.sql)).collect();
    for column in Column::iter() {
        names.remove(column.as_str());
    }
    // PostgreSQL gives every table this column.
    names.remove("ctid");
    for known in ["bucket", "counts", "letters", "due", "first"] {
        assert!(names.contains(known), "{known} of {names:?}");
    }
    for name in &names {
        db.execute(&format!("ALTER TABLE dead_letters ADD COLUMN \"{name}\" text")).await;
    }
    let after = results(&repo).await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before, after, "with the columns {names:?}");
    }
    assert_eq!(before.len(), after.len());
}

/// Names in quotes and without, but for functions. Keywords are in capitals.
fn names_in(sql: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = match first {
            '\'' | '"' => rest[1..].find(first).map_or(rest.len(), |end| end + 2),
            _ if is_of_word(first) => rest.find(|c| !is_of_word(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (token, behind) = rest.split_at(end);
        let is_function = behind.trim_start().starts_with('(');
        match first {
            '"' => names.push(token.trim_matches('"').to_owned()),
            'a'..='z' if !is_function => names.push(token.to_owned()),
            _ => {}
        }
        rest = behind;
    }
    names
}

/// Returns the result of each call on the same letters, and deletes the letters afterwards.
async fn results(repo: &SeaOrmDeadLetterRepo) -> Vec<String> {
    let app = AppId::from(Uuid::from_u128(7));
    let (max, until) = (DateTime::<Utc>::MAX_UTC, ten_oclock() + Duration::minutes(10));
    let mut results = Results(Vec::new());
    let letters: Vec<_> = (0..12).map(|n| of_number(app, n)).collect();
    for _ in 0..2 {
        results.of("import", repo.import(&letters).await);
    }
    let id = letters[0].id;

    results.of("get", repo.get(id).await);
    results.of("get_for_app", repo.get_for_app(app, id).await);
    results.of("summary", repo.summary(app, id).await);
    results.of("payload_text", repo.payload_text(app, id, 0..5).await);
    results.of("replayed_payload_text", repo.replayed_payload_text(app, id, 0..5).await);
    results.of("error_text", repo.error_text(app, id, 0..5).await);
    results.of("metadata", repo.metadata(app, id).await);
    results.of("unresolved_count", repo.unresolved_count(app).await);
    for (unresolved_only, offset) in [(true, 0), (true, 2), (false, 0), (false, 2)] {
        results.of("list_for_app", repo.list_for_app(app, unresolved_only, 3, offset).await);
    }
    let timeline = Buckets::new(ten_oclock()..until, 3);
    for &state in DeadLetterState::ALL {
        let all = DeadLetterFilter::default().state(state);
        let orders = all.clone().source("orders");
        let by_metadata = all.clone().metadata("tenant", "acme");
        let by_id = all.clone().ids(letters.iter().map(|letter| letter.id).collect::<Vec<_>>());
        for filter in [all, orders, by_metadata, by_id] {
            for scan in [None, Some(3)] {
                let page = PageRequest::default().size(4).scan_limit(scan);
                let list = repo.list(app, &filter, &page).await.unwrap();
                let page = page.after(list.next);
                results.of("list", Ok(list));
                results.of("list", repo.list(app, &filter, &page).await);
                let search = PayloadSearch::new("1").filter(filter.clone()).page(page.clone());
                results.of("search_payloads", repo.search_payloads(app, &search).await);
                results.of("export", repo.export(app, &filter, &page).await);
                let count =
                    repo.count(app, &filter, &CountRequest::default().cap(5).scan_limit(scan)).await.unwrap();
                results.of("count", Ok((count.matching.count, count.matching.capped, count.scanned_back_to)));
                results.of(
                    "timeline",
                    repo.timeline(app, &filter, &TimelineRequest::from(timeline).scan_limit(scan)).await,
                );
                for timeline in [None, Some(timeline)] {
                    let request = GroupRequest::default().scan_limit(scan).timeline(timeline);
                    results.of("error_groups", repo.error_groups(app, &filter, &request).await);
                    let request = request.payload_contains("1");
                    results.of("error_groups", repo.error_groups(app, &filter, &request).await);
                }
            }
        }
    }
    let backlogs = BacklogRequest::default().limit(10).cap(3);
    for backlogs in [backlogs.clone().among([app]), backlogs] {
        results.of("backlogs", repo.backlogs(&backlogs).await);
    }
    results.of("apps", repo.apps(DeadLetterState::Any, None, 10).await);
    let new = NewGroupRequest::since(ten_oclock() + Duration::minutes(3)).scan_limit(7);
    for new in [new.clone().among([app]), new] {
        results.of("new_error_groups", repo.new_error_groups(&new).await);
        let found = repo.unannounced_groups(&new).await.map(|found| found.groups);
        let group = found.as_ref().unwrap()[0].clone();
        results.of("unannounced_groups", found);
        let lease = std::time::Duration::from_secs(60);
        let claim = repo.claim_announcement(&group, lease).await.unwrap().unwrap();
        results.of("confirm_announcement", repo.confirm_announcement(&claim).await);
    }
    results.of("sweep_announcements", repo.sweep_announcements(max, max, 100).await);
    for cap in [None, Some(3)] {
        results.of("unresolved_counts", repo.unresolved_counts(&[app], cap).await);
    }
    results.of("times_replayed", repo.times_replayed(app, &[letters[3].original_event_id]).await);
    for (scope, due) in sweeps(app) {
        for &state in DeadLetterState::ALL {
            let count = repo.count_due(&scope, due, state, 5).await.unwrap();
            results.of("count_due", Ok((count.count, count.capped)));
        }
    }

    results.of(
        "resolve_once",
        repo.resolve_once(app, id, Resolution::Ignored, &Attribution::default()).await.map(|row| row.id),
    );
    results.of("reopen", repo.reopen(app, id, &Attribution::default()).await);
    results.of(
        "letters_version",
        repo.letters_version(Some(app)).await.map(|version| version.to_string().len()),
    );
    let history = repo.actions(app, &ActionRequest::default().letter_id(id)).await.unwrap();
    results.of(
        "actions",
        Ok(history.iter().map(|row| (row.action, row.previous_resolution)).collect::<Vec<_>>()),
    );
    results.of("resolve", repo.resolve(id, "handler_failed").await);
    let open = DeadLetterFilter::default().state(DeadLetterState::Open).created_before(until);
    let replayed = repo
        .replay_with(app, id, &Attribution::default(), async |_, row| Ok::<_, DeadLetterRepoError>(row.id))
        .await;
    results.of("replay", replayed);
    results.of(
        "resolve_matching",
        repo.resolve_matching(app, &open, Resolution::Ignored, &Attribution::default(), 2).await,
    );
    let replayed = repo
        .replay_matching_with(app, &open, &Attribution::default(), 2, async |_, _| {
            Ok::<_, DeadLetterRepoError>(())
        })
        .await;
    results.of("replay_matching", replayed);
    let these = [letters[3].id, letters[4].id];
    results.of("erase", repo.erase(app, &these, &Attribution::default()).await);
    let filter = DeadLetterFilter::default().ids(these);
    results.of("delete_matching", repo.delete_matching(app, &filter, &Attribution::default(), 2).await);
    // All of them are stale.
    results.of("rebuild_signatures", repo.rebuild_signatures(&RebuildRequest::default()).await);
    for (scope, due) in sweeps(app) {
        let swept = repo.sweep(&scope, due, None, 1).await.unwrap();
        results.of("sweep", Ok((swept.deleted, swept.next)));
        let swept = repo.sweep_into(&scope, due, None, 1, &Nowhere).await.unwrap();
        results.of("sweep_into", Ok((swept.deleted, swept.next)));
    }
    results.of("insert", repo.insert(letter(app)).await.map(drop));
    results.of("insert_many", repo.insert_many(vec![letter(app); 3]).await.map(|ids| ids.len()));
    results.of("bury", repo.bury_with(letter(app), async |_| Ok(1)).await.map(drop));
    results.of("gc", repo.gc(max, 100).await);
    results.of("sweep_actions", repo.sweep_actions(max, None, 100).await);
    results.0
}

struct Results(Vec<String>);

impl Results {
    fn of(&mut self, call: &str, answer: Result<impl Serialize, DeadLetterRepoError>) {
        let answer = answer.unwrap_or_else(|error| panic!("{call}: {error}"));
        self.0.push(format!("{call}: {}", serde_json::to_string(&answer).unwrap()));
    }
}

fn sweeps(app: AppId) -> Vec<(SweepScope, Due)> {
    let all_but_one = SweepScope::AllAppsBut { excepted: vec![Uuid::from_u128(8).into()] };
    let scopes = [SweepScope::App(app), SweepScope::AllApps, all_but_one];
    let dues = [Due::CreatedBefore, Due::ClosedBefore].map(|due| due(ten_oclock() + Duration::days(1)));
    scopes.into_iter().flat_map(|scope| dues.map(|due| (scope.clone(), due))).collect()
}

/// Every other one is of another source, and every third one is closed.
fn of_number(app: AppId, number: u8) -> StoredLetter {
    let id = |of: u128| Uuid::from_u128(of + u128::from(number));
    let at = ten_oclock() + Duration::minutes(number.into());
    let is_closed = number > 0 && number.is_multiple_of(3);
    StoredLetter {
        signature_version: 1,
        error_signature: "stale".to_owned(),
        id: DeadLetterId::from(id(0x100)),
        original_event_id: id(0x200),
        source: if number.is_multiple_of(2) { "orders" } else { "invoices" }.to_owned(),
        trigger_id: None,
        script_id: None,
        resolution: is_closed.then(|| "replayed".to_owned()),
        resolved_at: is_closed.then_some(at + Duration::minutes(1)),
        ..stored_letter(app, at)
    }
}
