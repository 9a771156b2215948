//! A migrated database for one test, on either backend.

use dead_letters::{OnOpen, SeaOrmDeadLetterRepo, connect_options, migration::Migrator, open};
use dead_letters_test_postgres::TestDatabase;
use tempfile::TempDir;

pub(crate) struct TestDb {
    repo: SeaOrmDeadLetterRepo,
    url: String,
    _storage: Storage,
}

/// Removed when the test is over.
enum Storage {
    Sqlite { _dir: TempDir },
    Postgres { _database: TestDatabase },
}

impl TestDb {
    pub(crate) async fn sqlite() -> Self {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite://{}?mode=rwc", dir.path().join("test.sqlite").display());
        Self::at(url, Storage::Sqlite { _dir: dir }).await
    }

    pub(crate) async fn postgres() -> Self {
        let database = TestDatabase::create().await.unwrap();
        Self::at(database.url().to_owned(), Storage::Postgres { _database: database }).await
    }

    async fn at(url: String, storage: Storage) -> Self {
        let repo = open(connect_options(&url), OnOpen::Migrate, Migrator).await.unwrap();
        Self { repo, url, _storage: storage }
    }

    pub(crate) fn repo(&self) -> SeaOrmDeadLetterRepo {
        self.repo.clone()
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}
