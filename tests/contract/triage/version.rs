use chrono::Duration;
use dead_letters::{
    Attribution, DeadLetterDelete, DeadLetterFilter, DeadLetterRead, DeadLetterReplay, DeadLetterRepo,
    DeadLetterResolve, LettersVersion, ReopenRequest, Resolution, SeaOrmDeadLetterRepo,
};
use sea_orm::DbBackend;

use super::{letter, new_app, rows, seen, ten_oclock};
use crate::{contract::retention::Nowhere, database::TestDb};

on_every_backend! {
    each_change_of_a_letter_changes_the_version_and_a_read_does_not,
    the_letters_of_another_app_do_not_change_the_version,
    resolving_a_closed_letter_again_may_leave_the_version,
    the_version_of_all_letters_changes_with_new_letters_and_with_the_history,
    a_change_that_commits_after_a_later_one_changes_the_version,
}

/// Checks that each step changes the version.
struct Steps<'a> {
    repo: &'a SeaOrmDeadLetterRepo,
    app: Option<dead_letters::AppId>,
    seen: Vec<LettersVersion>,
}

impl<'a> Steps<'a> {
    async fn of(repo: &'a SeaOrmDeadLetterRepo, app: Option<dead_letters::AppId>) -> Self {
        let seen = vec![repo.letters_version(app).await.unwrap()];
        Self { repo, app, seen }
    }

    async fn changed(&mut self, what: &str) {
        let version = self.repo.letters_version(self.app).await.unwrap();
        assert!(!self.seen.contains(&version), "{what} does not change the version");
        assert_eq!(self.repo.letters_version(self.app).await.unwrap(), version);
        self.seen.push(version);
    }

    async fn same(&self, what: &str) {
        let version = self.repo.letters_version(self.app).await.unwrap();
        assert_eq!(self.seen.last(), Some(&version), "{what} changes the version");
    }
}

async fn each_change_of_a_letter_changes_the_version_and_a_read_does_not(db: TestDb) {
    let (app, repo) = (new_app(), &db.repo());
    let mut steps = Steps::of(repo, Some(app)).await;
    let ids = rows(&db, app, 3).await;
    steps.changed("an insert").await;
    repo.insert(letter(app)).await.unwrap();
    steps.changed("another insert").await;
    repo.resolve_once(app, ids[0], Resolution::Ignored, &seen()).await.unwrap();
    steps.changed("a resolve").await;
    repo.reopen(app, ids[0], &seen()).await.unwrap();
    steps.changed("a reopen").await;
    repo.resolve_once(app, ids[0], Resolution::HandlerFailed, &seen()).await.unwrap();
    steps.changed("a resolve that leaves the letter open").await;
    repo.resolve(ids[1], "ignored").await.unwrap();
    steps.changed("the seed's resolve").await;
    repo.replayer(Nowhere).replay(app, ids[0], &seen()).await.unwrap();
    steps.changed("a replay").await;
    repo.replayer(Nowhere).replay_edited(app, ids[2], "1", &seen()).await.unwrap();
    steps.changed("a replay of an edited payload").await;
    let closed = DeadLetterFilter::default().resolved_before(ten_oclock() + Duration::days(36_500));
    let all = ReopenRequest::default().include_replayed(true);
    repo.reopen_matching(app, &closed, &seen(), &all).await.unwrap();
    steps.changed("a bulk reopen").await;
    let everything = DeadLetterFilter::default().created_before(ten_oclock() + Duration::days(36_500));
    repo.resolve_matching(app, &everything, Resolution::Ignored, &seen(), 1).await.unwrap();
    steps.changed("a bulk resolve").await;
    repo.erase(app, &[ids[2]], &seen()).await.unwrap();
    steps.changed("an erasure").await;
    repo.delete_matching(app, &everything, &seen(), 1).await.unwrap();
    steps.changed("a deletion").await;
    repo.list(app, &everything, &Default::default()).await.unwrap();
    repo.resolve_matching(app, &everything.clone().source("none"), Resolution::Ignored, &seen(), 1)
        .await
        .unwrap();
    steps.same("a call that changes nothing").await;
}

async fn resolving_a_closed_letter_again_may_leave_the_version(db: TestDb) {
    let (app, repo) = (new_app(), &db.repo());
    let ids = rows(&db, app, 1).await;
    repo.resolve(ids[0], "ignored").await.unwrap();
    let steps = Steps::of(repo, Some(app)).await;
    repo.resolve(ids[0], "handled_by_script").await.unwrap();
    steps.same("the seed's resolve of a closed letter").await;
}

async fn the_letters_of_another_app_do_not_change_the_version(db: TestDb) {
    let (app, other, repo) = (new_app(), new_app(), &db.repo());
    rows(&db, app, 1).await;
    let steps = Steps::of(repo, Some(app)).await;
    let ids = rows(&db, other, 2).await;
    repo.resolve_once(other, ids[0], Resolution::Ignored, &seen()).await.unwrap();
    steps.same("another app's letter").await;
}

async fn the_version_of_all_letters_changes_with_new_letters_and_with_the_history(db: TestDb) {
    let (apps, repo) = ([new_app(), new_app(), new_app()], &db.repo());
    let mut steps = Steps::of(repo, None).await;
    let mut ids = Vec::new();
    for app in apps {
        ids.push(repo.insert(letter(app)).await.unwrap());
        steps.changed("an insert").await;
    }
    for (app, id) in apps.into_iter().zip(ids) {
        repo.resolve_once(app, id, Resolution::Ignored, &seen()).await.unwrap();
        steps.changed("a resolve").await;
    }
}

/// The transaction that began first commits last. SQLite has one writer at a time.
async fn a_change_that_commits_after_a_later_one_changes_the_version(db: TestDb) {
    if db.db.get_database_backend() == DbBackend::Sqlite {
        return;
    }
    let (app, repo) = (new_app(), &db.repo());
    let ids = rows(&db, app, 2).await;
    let txn = SeaOrmDeadLetterRepo::begin(&db.db).await.unwrap();
    let nobody = Attribution::default();
    repo.in_transaction(&txn).resolve_once(app, ids[0], Resolution::Ignored, &nobody).await.unwrap();
    repo.resolve_once(app, ids[1], Resolution::Ignored, &nobody).await.unwrap();
    let mut steps = Steps::of(repo, Some(app)).await;
    SeaOrmDeadLetterRepo::commit(txn).await.unwrap();
    steps.changed("an older transaction's commit").await;
}
