//! Every error message of the library beside its trigger, in messages.txt, so that a person can read them all.
//! `UPDATE_MESSAGES=1` rewrites the file.

use std::{
    collections::BTreeSet,
    env,
    error::Error,
    fmt::{Display, Write},
    fs, io,
    path::Path,
    thread,
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::{
    AppId, Archive, ArchiveError, ArchivedLetters, Attribution, BacklogRequest, Buckets, CountRequest,
    Cursor, DeadLetterAnnounce, DeadLetterDelete, DeadLetterFilter, DeadLetterId, DeadLetterRead,
    DeadLetterRepo, DeadLetterRepoError, DeadLetterResolve, DeadLetterRetention, DeadLetterState,
    DeadLetterTransfer, Due, GroupRequest, GroupWatch, GroupWatchConfigError, JsonLinesArchive, ListQuery,
    NewErrorGroup, NewGroupRequest, Notify, OnOpen, OpenError, PageRequest, PayloadSearch, RebuildRequest,
    ReopenRequest, Requeue, Resolution, Retention, RetentionPolicy, SeaOrmDeadLetterRepo, StoredLetter,
    SweepScope, Sweeper, SweeperConfigError, TimelineRequest, connect_options, open,
    testing::{self, letter, stored_letter},
};
use dead_letters_migration::{Migrator, SchemaError, check_schema};
use futures_util::FutureExt;
use sea_orm::{ConnectOptions, ConnectionTrait, DatabaseConnection, DatabaseTransaction};
use tempfile::TempDir;
use uuid::Uuid;

/// The messages by their variant, such as `OpenError::Url`, in the order of the cases.
#[derive(Default)]
struct Messages(Vec<(String, Vec<[String; 2]>)>);

impl Messages {
    fn add(&mut self, variant: &str, trigger: &str, message: &dyn Display) {
        // A macro's text is split into lines.
        let trigger = trigger.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(");
        let said = [trigger, message.to_string()];
        match self.0.iter_mut().find(|(listed, _)| listed == variant) {
            Some((_, messages)) => messages.push(said),
            None => self.0.push((variant.to_owned(), vec![said])),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (variant, messages) in &self.0 {
            writeln!(text, "{variant}").unwrap();
            for [trigger, message] in messages {
                writeln!(text, "    {trigger}\n        {message}").unwrap();
            }
            text.push('\n');
        }
        text.truncate(text.trim_end().len() + 1);
        text
    }
}

/// Adds the error of a call, which is the trigger. The error must be of this variant.
macro_rules! said {
    ($messages:ident, $enum:ident::$variant:ident, $call:expr) => {
        said!($messages, $enum::$variant, stringify!($call), $call)
    };
    ($messages:ident, $enum:ident::$variant:ident, $trigger:expr, $call:expr) => {{
        let trigger: &str = $trigger;
        match $call {
            Ok(_) => panic!("{trigger} succeeded"),
            Err(error) => {
                assert!(matches!(error, $enum::$variant { .. }), "{trigger}: {error}");
                $messages.add(concat!(stringify!($enum), "::", stringify!($variant)), trigger, &error);
            }
        }
    }};
}

/// Adds an error that a test can't trigger with a store in memory.
macro_rules! made {
    ($messages:ident, $enum:ident::$variant:ident, $when:literal, $error:expr) => {
        said!($messages, $enum::$variant, $when, Err::<(), _>($error))
    };
}

#[tokio::test]
async fn the_list_has_every_message_beside_its_trigger() {
    let mut messages = Messages::default();
    of_reads(&mut messages).await;
    of_changes(&mut messages).await;
    of_transactions(&mut messages).await;
    of_imports(&mut messages).await;
    of_sweeps(&mut messages).await;
    of_queries(&mut messages);
    of_the_database(&mut messages).await;
    of_start(&mut messages).await;
    of_archives(&mut messages);
    of_sweepers(&mut messages).await;
    of_watches(&mut messages).await;
    messages.0.sort_by(|(one, _), (other, _)| one.cmp(other));

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/messages.txt");
    if env::var_os("UPDATE_MESSAGES").is_some() {
        fs::write(&file, messages.text()).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        expected == messages.text(),
        "UPDATE_MESSAGES=1 rewrites {}:\n{}",
        file.display(),
        messages.text()
    );
    let listed = messages.0.iter().map(|(variant, _)| variant.clone());
    let listed: BTreeSet<_> = listed.filter(|variant| !variant.ends_with("::Error")).collect();
    assert_eq!(listed, variants(), "each variant needs a case here");
}

/// Returns the variants of every public enum of the sources whose name ends in `Error`.
fn variants() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src"), root.join("migration/src")];
    let mut variants = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                variants.extend(variants_of(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(variants.len() > 30, "{variants:?}");
    variants
}

fn variants_of(source: &str) -> Vec<String> {
    let mut variants = Vec::new();
    for rest in source.split("\npub enum ").skip(1) {
        let name = rest.split(' ').next().unwrap();
        if name.ends_with("Error") {
            let lines = rest.lines().skip(1).take_while(|line| *line != "}");
            // Fields, attributes and comments are indented further, or do not begin with a capital.
            let of_variants = lines.filter_map(|line| line.strip_prefix("    "));
            let of_variants = of_variants.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
            variants.extend(of_variants.map(|line| {
                format!("{name}::{}", line.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap())
            }));
        }
    }
    variants
}

#[test]
fn variants_are_found_in_a_source() {
    let source = "\npub enum OneError {\n    /// Text.\n    #[error(\"Text\")]\n    Unit,\n    Tuple(String),\n    Fields {\n        \
                  Field: u8,\n    },\n}\n\npub enum Kind {\n    Other,\n}\n";
    assert_eq!(variants_of(source), ["OneError::Unit", "OneError::Tuple", "OneError::Fields"]);
}

fn app() -> AppId {
    Uuid::from_u128(1).into()
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// An unresolved letter, whose id has this number.
fn stored(id: u128) -> StoredLetter {
    StoredLetter { id: Uuid::from_u128(id).into(), ..stored_letter(app(), time("2026-03-01T10:00:00Z")) }
}

fn ids(count: u128) -> Vec<DeadLetterId> {
    (0..count).map(|id| Uuid::from_u128(id).into()).collect()
}

async fn of_reads(messages: &mut Messages) {
    let (repo, app, all) = (testing::store().await.unwrap(), app(), DeadLetterFilter::default());
    repo.import(&[stored(1), stored(2)]).await.unwrap();
    let first = PageRequest::default();
    said!(messages, DeadLetterRepoError::OutOfRange, repo.list_for_app(app, true, -1, 0).await);
    said!(messages, DeadLetterRepoError::OutOfRange, repo.list_for_app(app, true, 1, -1).await);
    said!(messages, DeadLetterRepoError::OutOfRange, repo.list(app, &all, &first.clone().size(501)).await);
    said!(
        messages,
        DeadLetterRepoError::OutOfRange,
        repo.list(app, &all, &first.clone().scan_limit(0)).await
    );
    let many = all.clone().ids(ids(1_001));
    said!(messages, DeadLetterRepoError::OutOfRange, repo.list(app, &many, &first).await);
    let no_key = all.clone().metadata("", "acme");
    said!(messages, DeadLetterRepoError::FilterMetadataLength, repo.list(app, &no_key, &first).await);
    said!(
        messages,
        DeadLetterRepoError::SearchLength,
        repo.search_payloads(app, &PayloadSearch::new("")).await
    );
    said!(
        messages,
        DeadLetterRepoError::OutOfRange,
        repo.count(app, &all, &CountRequest::default().scan_limit(0)).await
    );
    said!(
        messages,
        DeadLetterRepoError::OutOfRange,
        repo.backlogs(&BacklogRequest::default().limit(0)).await
    );
    said!(
        messages,
        DeadLetterRepoError::OutOfRange,
        repo.error_groups(app, &all, &GroupRequest::default().limit(501)).await
    );
    let since = NewGroupRequest::since;
    said!(
        messages,
        DeadLetterRepoError::OutOfRange,
        repo.new_error_groups(&since(DateTime::UNIX_EPOCH).scan_limit(0)).await
    );
    said!(
        messages,
        DeadLetterRepoError::SinceInFuture,
        repo.new_error_groups(&since(time("2999-03-01T00:00:00Z"))).await
    );
    let (from, until) = (time("2026-03-01T00:00:00Z"), time("2026-03-02T00:00:00Z"));
    let none = TimelineRequest::from(Buckets::new(from..until, 0));
    said!(messages, DeadLetterRepoError::OutOfRange, repo.timeline(app, &all, &none).await);
    let backwards = TimelineRequest::from(Buckets::new(until..from, 24));
    said!(messages, DeadLetterRepoError::FromAfterUntil, repo.timeline(app, &all, &backwards).await);
    let events = vec![Uuid::nil(); 1_001];
    said!(messages, DeadLetterRepoError::OutOfRange, repo.times_replayed(app, &events).await);
    said!(messages, DeadLetterRepoError::InvalidCursor, "x".parse::<Cursor>());
    let next = repo.list(app, &all, &first.clone().size(1)).await.unwrap().next.unwrap();
    let (orders, second) = (all.source("orders"), first.after(next));
    said!(messages, DeadLetterRepoError::InvalidCursor, repo.list(app, &orders, &second).await);
}

/// The outbox of a service, which is full.
struct Full;

#[async_trait]
impl Requeue for Full {
    async fn requeue(
        &self,
        _: &DatabaseTransaction,
        _: &[StoredLetter],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        Err("the outbox is full".into())
    }
}

#[async_trait]
impl Archive for Full {
    async fn keep(&self, _: &[StoredLetter]) -> Result<(), Box<dyn Error + Send + Sync>> {
        Err("the disk is full".into())
    }
}

#[async_trait]
impl Notify for Full {
    async fn notify(&self, _: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
        Err("the channel is full".into())
    }
}

async fn of_changes(messages: &mut Messages) {
    let (repo, app, by_ada) = (testing::store().await.unwrap(), app(), Attribution::by("ada"));
    let [open, closed, truncated]: [DeadLetterId; 3] = ids(4)[1..].try_into().unwrap();
    let unknown = DeadLetterId::from(Uuid::nil());
    let resolved = StoredLetter {
        resolved_at: Some(time("2026-03-01T11:00:00Z")),
        resolution: Some("ignored".to_owned()),
        ..stored(2)
    };
    let cut = StoredLetter { payload_kind: Some("truncated".to_owned()), ..stored(3) };
    repo.import(&[stored(1), resolved, cut]).await.unwrap();
    said!(messages, DeadLetterRepoError::NotFound, repo.resolve(unknown, "ignored").await);
    said!(messages, DeadLetterRepoError::InvalidResolution, repo.resolve(open, "done").await);
    said!(messages, DeadLetterRepoError::InvalidState, "new".parse::<DeadLetterState>());
    said!(
        messages,
        DeadLetterRepoError::AlreadyResolved,
        repo.resolve_once(app, closed, Resolution::Ignored, &by_ada).await
    );
    said!(messages, DeadLetterRepoError::NotResolved, repo.reopen(app, open, &by_ada).await);
    repo.resolve(closed, "replayed").await.unwrap();
    said!(messages, DeadLetterRepoError::Replayed, repo.reopen(app, closed, &by_ada).await);
    let all = DeadLetterFilter::default();
    said!(
        messages,
        DeadLetterRepoError::MissingCreatedBefore,
        repo.resolve_matching(app, &all, Resolution::Ignored, &by_ada, 100).await
    );
    let any = all.clone().state(DeadLetterState::Any);
    let request = ReopenRequest::default();
    said!(
        messages,
        DeadLetterRepoError::MissingResolvedBefore,
        repo.reopen_matching(app, &any, &by_ada, &request).await
    );
    let ticked = all.ids([open]);
    said!(
        messages,
        DeadLetterRepoError::OutOfRange,
        repo.reopen_matching(app, &ticked.clone().state(DeadLetterState::Any), &by_ada, &request.limit(0))
            .await
    );
    said!(
        messages,
        DeadLetterRepoError::OutOfRange,
        repo.resolve_matching(app, &ticked, Resolution::Ignored, &by_ada, 1_001).await
    );
    let replayer = repo.replayer(Full);
    said!(
        messages,
        DeadLetterRepoError::InvalidPayload,
        replayer.replay_edited(app, open, "{", &by_ada).await
    );
    let too_deep = "[".repeat(128) + "]".repeat(128).as_str();
    said!(
        messages,
        DeadLetterRepoError::InvalidPayload,
        replayer.replay_edited(app, open, &too_deep, &by_ada).await
    );
    let erased = stored(4);
    repo.import(std::slice::from_ref(&erased)).await.unwrap();
    repo.erase(app, &[erased.id], &by_ada).await.unwrap();
    let batch = by_ada.clone().run_id(Uuid::nil()).batch(0);
    let other = repo.insert(letter(app)).await.unwrap();
    repo.resolve_once(app, other, Resolution::Ignored, &batch).await.unwrap();
    said!(
        messages,
        DeadLetterRepoError::BatchDone,
        repo.resolve_once(app, open, Resolution::Ignored, &batch).await
    );
    said!(messages, DeadLetterRepoError::Erased, replayer.replay(app, erased.id, &by_ada).await);
    said!(messages, DeadLetterRepoError::PayloadNotWhole, replayer.replay(app, truncated, &by_ada).await);
    said!(messages, DeadLetterRepoError::Requeue, replayer.replay(app, open, &by_ada).await);
    said!(messages, DeadLetterRepoError::OutOfRange, repo.gc(Utc::now(), -1).await);
    said!(
        messages,
        DeadLetterRepoError::OutOfRange,
        repo.rebuild_signatures(&RebuildRequest::default().limit(501)).await
    );
    let capped = repo.max_payload_bytes(16);
    said!(messages, DeadLetterRepoError::PayloadTooLarge, capped.insert(letter(app)).await);
    let mut large = letter(app);
    large.metadata.insert("k".to_owned(), "x".repeat(16 << 10).into());
    said!(messages, DeadLetterRepoError::MetadataTooLarge, capped.insert(large).await);
}

async fn of_transactions(messages: &mut Messages) {
    let (repo, letter) = (testing::store().await.unwrap(), letter(app()));
    said!(
        messages,
        DeadLetterRepoError::EventNotTaken,
        repo.bury_with(letter.clone(), async |_| Ok(0)).await
    );
    said!(
        messages,
        DeadLetterRepoError::EventNotTaken,
        repo.bury_with(letter.clone(), async |_| Ok(2)).await
    );
    said!(
        messages,
        DeadLetterRepoError::Take,
        repo.bury_with(letter, async |_| Err("there is no outbox".into())).await
    );
    let txn = SeaOrmDeadLetterRepo::begin(repo.pool()).await.unwrap();
    txn.execute_unprepared("ROLLBACK").await.unwrap();
    said!(messages, DeadLetterRepoError::TransactionLost, SeaOrmDeadLetterRepo::commit(txn).await);
    let pool = repo.pool();
    let outside = thread::scope(|threads| {
        threads.spawn(|| SeaOrmDeadLetterRepo::begin(pool).now_or_never().unwrap()).join().unwrap()
    });
    said!(
        messages,
        DeadLetterRepoError::RuntimeEnded,
        "begin(pool).await, on a thread without a runtime",
        outside
    );
    made!(
        messages,
        DeadLetterRepoError::TooLargeForTransaction,
        "import of 300 MB in a caller's transaction",
        DeadLetterRepoError::TooLargeForTransaction {
            argument: "letters",
            unit: "bytes",
            size: 300 << 20,
            max: 256 << 20
        }
    );
}

async fn of_imports(messages: &mut Messages) {
    let repo = testing::store().await.unwrap();
    let many: Vec<_> = (0..1_001).map(stored).collect();
    said!(messages, DeadLetterRepoError::OutOfRange, repo.import(&many).await);
    let text = |text: &str| Some(text.to_owned());
    for (trigger, letter) in [
        ("a NUL in `source`", StoredLetter { source: "a\0b".to_owned(), ..stored(1) }),
        ("`attempt_count: u32::MAX`", StoredLetter { attempt_count: u32::MAX, ..stored(1) }),
        (
            "`resolution: \"done\"`",
            StoredLetter {
                resolution: text("done"),
                resolved_at: Some(time("2026-03-01T11:00:00Z")),
                ..stored(1)
            },
        ),
        ("a `resolution` without `resolved_at`", StoredLetter { resolution: text("ignored"), ..stored(1) }),
        ("`payload_kind: \"xml\"`", StoredLetter { payload_kind: text("xml"), ..stored(1) }),
        ("`metadata: \"[]\"`", StoredLetter { metadata: text("[]"), ..stored(1) }),
    ] {
        let trigger = format!("import of a letter with {trigger}");
        said!(messages, DeadLetterRepoError::NotStorable, &*trigger, repo.import(&[stored(2), letter]).await);
    }
    let late = StoredLetter { created_at: DateTime::<Utc>::MAX_UTC, ..stored(1) };
    said!(messages, DeadLetterRepoError::TimeOutOfRange, repo.import(&[late]).await);
}

async fn of_sweeps(messages: &mut Messages) {
    let repo = testing::store().await.unwrap();
    repo.import(&[stored(1)]).await.unwrap();
    let due = Due::CreatedBefore(time("2026-06-01T00:00:00Z"));
    let many = SweepScope::AllAppsBut { excepted: vec![app(); 1_001] };
    said!(messages, DeadLetterRepoError::OutOfRange, repo.sweep(&many, due, None, 100).await);
    let all = SweepScope::AllApps;
    said!(messages, DeadLetterRepoError::Archive, repo.sweep_into(&all, due, None, 100, &Full).await);
    let refuse = "CREATE TRIGGER refuse BEFORE DELETE ON dead_letters BEGIN SELECT RAISE(ABORT, 'kept'); END";
    repo.pool().execute_unprepared(refuse).await.unwrap();
    let by_app = SweepScope::AllAppsBut { excepted: Vec::new() };
    said!(messages, DeadLetterRepoError::AppNotSwept, repo.sweep(&by_app, due, None, 100).await);
}

fn of_queries(messages: &mut Messages) {
    for query in [
        "sourse=orders",
        "source=orders&source=payments",
        "state=new",
        "resolution=done",
        "ids=x",
        "trigger_id=x",
        "original_event_id=x",
        "truncated=1",
        "created_from=yesterday",
        "size=many",
        "after=x",
    ] {
        let trigger = format!("{query:?}.parse::<ListQuery>()");
        said!(messages, DeadLetterRepoError::InvalidQuery, &*trigger, query.parse::<ListQuery>());
    }
    let mut other = |of: &str, trigger: &str, error: &dyn Display| messages.add(of, trigger, error);
    other("uuid::Error", r#""x".parse::<AppId>()"#, &"x".parse::<AppId>().unwrap_err());
    for json in [r#"{ "sourse": "orders" }"#, r#"{ "script_id": "x" }"#, r#"{ "state": "new" }"#] {
        let error = serde_json::from_str::<DeadLetterFilter>(json).unwrap_err();
        other("serde_json::Error", &format!("a DeadLetterFilter of {json}"), &error);
    }
    for json in [r#"{ "offset": 20 }"#, r#"{ "after": "x" }"#] {
        let error = serde_json::from_str::<PageRequest>(json).unwrap_err();
        other("serde_json::Error", &format!("a PageRequest of {json}"), &error);
    }
}

async fn of_the_database(messages: &mut Messages) {
    let (repo, letter) = (testing::store().await.unwrap(), letter(app()));
    let ignore = "CREATE TRIGGER ignore BEFORE INSERT ON dead_letters BEGIN SELECT RAISE(IGNORE); END";
    repo.pool().execute_unprepared(ignore).await.unwrap();
    said!(
        messages,
        DeadLetterRepoError::Db,
        "insert, and a trigger ignores the row",
        repo.insert(letter.clone()).await
    );
    repo.pool().execute_unprepared("DROP TABLE dead_letters").await.unwrap();
    said!(messages, DeadLetterRepoError::Db, "insert without the table", repo.insert(letter.clone()).await);
    let mut options = connect_options("sqlite::memory:");
    options.acquire_timeout(Duration::from_millis(20));
    let busy = open(options, OnOpen::Migrate, Migrator).await.unwrap();
    let txn = SeaOrmDeadLetterRepo::begin(busy.pool()).await.unwrap();
    said!(
        messages,
        DeadLetterRepoError::Db,
        "insert while all connections are in use",
        busy.insert(letter.clone()).await
    );
    txn.rollback().await.unwrap();
    busy.pool().close_by_ref().await.unwrap();
    said!(
        messages,
        DeadLetterRepoError::Db,
        "insert after the pool was closed",
        busy.insert(letter.clone()).await
    );
    let never = SeaOrmDeadLetterRepo::new(DatabaseConnection::default());
    said!(
        messages,
        DeadLetterRepoError::Db,
        "insert into a pool that was never opened",
        never.insert(letter).await
    );
    made!(messages, DeadLetterRepoError::Db, "PostgreSQL has an internal error", testing::internal());
}

fn options(url: &str) -> ConnectOptions {
    let mut options = connect_options(url);
    options.acquire_timeout(Duration::from_millis(200));
    options
}

async fn of_start(messages: &mut Messages) {
    for url in ["orders.sqlite", "mysql://ada:secret@localhost/orders", "postgres://ada:secret@[::1/orders"] {
        let trigger = format!("open({url:?}, Check, Migrator)");
        said!(messages, OpenError::Url, &*trigger, open(options(url), OnOpen::Check, Migrator).await);
    }
    made!(
        messages,
        OpenError::Url,
        "open without the driver",
        OpenError::Url(
            "there is no driver for the database's URL: turn on sea-orm's feature sqlx-sqlite".to_owned()
        )
    );
    for url in ["sqlite:///nowhere/orders.sqlite", "postgres://ada:secret@127.0.0.1:1/orders"] {
        let trigger = format!("open({url:?}, Check, Migrator)");
        said!(messages, OpenError::Connect, &*trigger, open(options(url), OnOpen::Check, Migrator).await);
    }
    let memory = "sqlite::memory:";
    said!(messages, OpenError::Schema, open(options(memory), OnOpen::Check, Migrator).await);

    let folder = TempDir::new().unwrap();
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("orders.sqlite").display());
    let repo = open(options(&url), OnOpen::Migrate, Migrator).await.unwrap();
    let foreign =
        "UPDATE seaql_migrations SET version = 'm20300101_000001_other' WHERE version LIKE '%_000001_%'";
    repo.pool().execute_unprepared(foreign).await.unwrap();
    said!(
        messages,
        OpenError::Migrate,
        "open(url, Migrate, Migrator), and the migrator's table has other steps",
        open(options(&url), OnOpen::Migrate, Migrator).await
    );
    let db = repo.pool();
    said!(messages, SchemaError::Missing, check_schema(db, &Migrator).await);
    let old = "UPDATE seaql_migrations SET version = 'm20261123_000001_create_dead_letters'
        WHERE version LIKE '%_000001_%'";
    db.execute_unprepared(old).await.unwrap();
    said!(
        messages,
        SchemaError::PreRelease,
        "check_schema(db, &Migrator), on the table of a version before the first release",
        check_schema(db, &Migrator).await
    );
    made!(
        messages,
        SchemaError::Encoding,
        "check_schema(db, &Migrator), on a PostgreSQL database with another encoding",
        SchemaError::Encoding("LATIN1".to_owned())
    );
    db.close_by_ref().await.unwrap();
    said!(
        messages,
        SchemaError::Db,
        "check_schema(db, &Migrator), after the pool was closed",
        check_schema(db, &Migrator).await
    );
}

fn of_archives(messages: &mut Messages) {
    said!(messages, ArchiveError::Io, JsonLinesArchive::read("/nowhere"));
    let of_bytes = |trigger: &str, bytes: &'static [u8]| {
        ArchivedLetters::from_reader("letters.jsonl", bytes)
            .next()
            .unwrap()
            .map_err(|error| (trigger.to_owned(), error))
    };
    for read in
        [of_bytes("a line that is cut off", b"{\n"), of_bytes("a line of another JSON", b"{ \"id\": 1 }\n")]
    {
        let (trigger, error) = read.unwrap_err();
        said!(messages, ArchiveError::NotALetter, &*trigger, Err::<(), _>(error));
    }
    for read in [of_bytes("a compressed file", b"\x1f\x8b\x08"), of_bytes("a file in UTF-16", b"\xff\xfe{\0")]
    {
        let (trigger, error) = read.unwrap_err();
        said!(messages, ArchiveError::NotJsonLines, &*trigger, Err::<(), _>(error));
    }
    made!(
        messages,
        ArchiveError::LineTooLong,
        "a line of 8 GiB",
        ArchiveError::LineTooLong { path: Path::new("letters.jsonl").into(), line: 7 }
    );
    let outside = thread::spawn(|| {
        let (archive, letters) = (JsonLinesArchive::new("/nowhere"), [stored(1)]);
        archive.keep(&letters).now_or_never().unwrap()
    });
    let outside = outside.join().unwrap().map_err(|error| *error.downcast::<ArchiveError>().unwrap());
    said!(
        messages,
        ArchiveError::RuntimeEnded,
        "keep(letters).await, on a thread without a runtime",
        outside
    );
    let full = io::Error::from(io::ErrorKind::StorageFull);
    made!(
        messages,
        ArchiveError::Io,
        "keep(letters).await, on a full disk",
        ArchiveError::Io { path: Path::new("/var/lib/orders/dead-letters").into(), source: full }
    );
}

async fn of_watches(messages: &mut Messages) {
    let store = std::sync::Arc::new(testing::store().await.unwrap());
    let max = DateTime::<Utc>::MAX_UTC;
    said!(messages, DeadLetterRepoError::OutOfRange, store.sweep_announcements(max, max, 1_001).await);
    let watch = || GroupWatch::builder(store.clone(), std::sync::Arc::new(Full));
    let zero = TimeDelta::zero().to_std().unwrap();
    said!(messages, GroupWatchConfigError::ShortPeriod, watch().every(zero).build());
    said!(messages, GroupWatchConfigError::Lease, watch().lease(zero).build());
    said!(messages, GroupWatchConfigError::Limit, watch().limit(501).build());
    said!(messages, GroupWatchConfigError::NoScan, watch().scan_limit(0).build());
}

async fn of_sweepers(messages: &mut Messages) {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let store = std::sync::Arc::new(testing::store().await.unwrap());
    let sweeper = |policy| Sweeper::builder(store.clone(), policy);
    let all_after = |age| RetentionPolicy::new(Retention::default().delete_all_after(age));
    let short = Duration::from_secs(30);
    said!(messages, SweeperConfigError::ShortRetention, sweeper(all_after(short)).build());
    let of_app = all_after(DAY).app(app(), Retention::default().delete_closed_after(short));
    said!(messages, SweeperConfigError::ShortRetention, sweeper(of_app).build());
    let own = (0..1_001).map(|n| (Uuid::from_u128(n).into(), Retention::default()));
    let mut many = all_after(DAY);
    many.apps = own.collect();
    said!(messages, SweeperConfigError::TooManyApps, sweeper(many).build());
    let policy = || all_after(DAY);
    let zero = TimeDelta::zero().to_std().unwrap();
    said!(messages, SweeperConfigError::ShortPeriod, sweeper(policy()).every(zero).build());
    said!(messages, SweeperConfigError::OutOfRange, sweeper(policy()).batch(0).build());
    said!(messages, SweeperConfigError::OutOfRange, sweeper(policy()).busy_percent(101).build());
}
