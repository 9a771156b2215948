//! The main job: a dispatcher whose events end in `dead_letters` when their retries are used up, and what
//! people then do.
//!
//! ```text
//! cargo run --example dispatcher [FILE | -]
//! ```
//!
//! Events are JSON lines, from examples/dispatcher/events.jsonl unless a file or `-` (standard input) is
//! named. The database is the file dispatcher.sqlite, or the PostgreSQL of `DATABASE_URL`: one of its own,
//! since this sweeps.

use std::{
    collections::BTreeSet,
    env,
    error::Error,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use dead_letters::{
    AppId, Attribution, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterReplay, DeadLetterRepo,
    DeadLetterResolve, GroupRequest, NewDeadLetter, Requeue, Resolution, Retention, RetentionPolicy,
    ScriptId, SeaOrmDeadLetterRepo, StoredLetter, SweepEnd, Sweeper, TriggerId,
    entity::dead_letters as table, migration::Migrator,
};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, EntityTrait,
    ModelTrait, NotSet, PaginatorTrait, QueryFilter, QueryOrder, Schema, Set,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::{io::AsyncWriteExt, process::Command};
use uuid::{Uuid, uuid};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The dispatcher's own table: what is still to be delivered.
#[expect(unreachable_pub, reason = "SeaORM's derives name the model in public impls")]
mod outbox {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "dispatcher_outbox")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub position: i64,
        #[sea_orm(unique)]
        pub event_id: Uuid,
        pub app_id: Uuid,
        #[sea_orm(column_type = "Text")]
        pub source: String,
        #[sea_orm(column_type = "Text")]
        pub op: String,
        #[sea_orm(column_type = "Text")]
        pub trigger: String,
        #[sea_orm(column_type = "Text")]
        pub payload: String,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// A line of input.
#[derive(Deserialize)]
struct Event {
    app_id: AppId,
    event_id: Uuid,
    source: String,
    op: String,
    trigger: String,
    payload: Value,
}

impl From<Event> for outbox::ActiveModel {
    fn from(event: Event) -> Self {
        Self {
            position: NotSet,
            event_id: Set(event.event_id),
            app_id: Set(event.app_id.into()),
            source: Set(event.source),
            op: Set(event.op),
            trigger: Set(event.trigger),
            payload: Set(event.payload.to_string()),
        }
    }
}

struct Trigger {
    id: Uuid,
    name: &'static str,
    script_id: Uuid,
    script: &'static str,
}

/// There was a fourth, `stock-release`: it was deleted, and its events still come.
const TRIGGERS: [Trigger; 3] = [
    Trigger {
        id: uuid!("a3f1b0c4-0000-4000-8000-000000000001"),
        name: "order-confirmation",
        script_id: uuid!("5c21de90-0000-4000-8000-000000000001"),
        script: "order-confirmation.sh",
    },
    Trigger {
        id: uuid!("a3f1b0c4-0000-4000-8000-000000000002"),
        name: "crm-sync",
        script_id: uuid!("5c21de90-0000-4000-8000-000000000002"),
        script: "crm-sync.sh",
    },
    Trigger {
        id: uuid!("a3f1b0c4-0000-4000-8000-000000000003"),
        name: "accounting-export",
        script_id: uuid!("5c21de90-0000-4000-8000-000000000003"),
        script: "accounting-export.sh",
    },
];

struct RetryPolicy {
    attempts: u32,
    /// Before the second attempt; doubled before each further one.
    backoff: Duration,
    /// For one run of a script.
    timeout: Duration,
}

const RETRY_POLICY: RetryPolicy =
    RetryPolicy { attempts: 3, backoff: Duration::from_millis(20), timeout: Duration::from_secs(10) };

const RETENTION_DAYS: u64 = 30;
const RETENTION: Duration = Duration::from_secs(RETENTION_DAYS * 24 * 60 * 60);

#[tokio::main]
async fn main() -> Result<()> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/dispatcher");
    let repo = open().await?;
    let db = repo.pool().clone();
    refuse_rows_already_due(&db).await?;

    let input: Box<dyn BufRead> = match env::args().nth(1).as_deref() {
        None => Box::new(BufReader::new(File::open(examples.join("events.jsonl"))?)),
        Some("-") => Box::new(io::stdin().lock()),
        Some(path) => Box::new(BufReader::new(File::open(path)?)),
    };
    println!("Reading events");
    let apps = enqueue(&db, input).await?;

    println!("\nDispatching: {} attempts each", RETRY_POLICY.attempts);
    let dispatcher =
        Dispatcher { db: &db, repo: &repo, scripts: &examples.join("scripts"), crm_is_up: false };
    let dead = dispatcher.run().await?;

    show_backlogs(&repo, &apps).await?;
    show_groups(&repo, &apps).await?;

    let Some(&newest) = dead.last() else {
        println!("\nEvery event was delivered.");
        return Ok(db.close().await?);
    };
    let letter = repo.get(newest).await?.ok_or("the letter is gone")?;
    println!("\nOne letter in full:\n{}", serde_json::to_string_pretty(&letter)?);

    println!("\nThe CRM is up again. Replaying what it missed");
    let replayer = repo.replayer(Outbox);
    for &id in &dead {
        let letter = repo.get(id).await?.ok_or("the letter is gone")?;
        if trigger_of(letter.trigger_id).is_some_and(|trigger| trigger.name == "crm-sync") {
            let by = Attribution::by("ada").note("the CRM was down");
            replayer.replay(letter.app_id, id, &by).await?;
            println!("  {id}  back in the outbox");
        }
    }
    Dispatcher { crm_is_up: true, ..dispatcher }.run().await?;

    println!("\nIgnoring what no retry can mend");
    for &id in &dead {
        let letter = repo.get(id).await?.ok_or("the letter is gone")?;
        if letter.is_open() && letter.trigger_id.is_some() {
            let by = Attribution::by("ada").note("told the shop to ask for the address");
            repo.resolve_once(letter.app_id, id, Resolution::Ignored, &by).await?;
            println!("  {id}  {}", letter.last_error);
        }
    }

    show_backlogs(&repo, &apps).await?;

    println!("\nFive weeks pass. Sweeping what is older than {RETENTION_DAYS} days");
    // SQLite's schema takes no more than microseconds.
    let five_weeks_ago = (Utc::now() - TimeDelta::weeks(5)).trunc_subsecs(6);
    table::Entity::update_many()
        .col_expr(table::Column::CreatedAt, five_weeks_ago.into())
        .filter(table::Column::Id.is_in(dead.iter().map(|id| id.into_inner())))
        .filter(table::COLUMN.resolved_at.is_not_null())
        .exec(&db)
        .await?;
    sweep(&repo).await?;
    println!("  {} rows are left.", table::Entity::find().count(&db).await?);
    Ok(db.close().await?)
}

async fn open() -> Result<SeaOrmDeadLetterRepo> {
    let url = env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite://dispatcher.sqlite?mode=rwc".to_owned());
    let options = dead_letters::connect_options(url);
    let repo = dead_letters::open(options, dead_letters::OnOpen::Migrate, Migrator).await?;
    let schema = Schema::new(repo.pool().get_database_backend());
    repo.pool().execute(schema.create_table_from_entity(outbox::Entity).if_not_exists()).await?;
    Ok(repo)
}

/// Puts the events into the outbox and returns the apps that they are of. A bad line is reported, and the
/// rest goes on.
async fn enqueue(db: &DatabaseConnection, input: impl BufRead) -> Result<BTreeSet<AppId>> {
    let mut apps = BTreeSet::new();
    let mut events = 0;
    for (number, line) in (1..).zip(input.split(b'\n')) {
        let line = line?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let event: Event = match serde_json::from_slice(&line) {
            Ok(event) => event,
            Err(error) => {
                println!("  line {number}: not an event: {error}");
                continue;
            }
        };
        let app = event.app_id;
        match outbox::ActiveModel::from(event).insert(db).await {
            Ok(_) => {
                apps.insert(app);
                events += 1;
            }
            Err(error) => println!("  line {number}: not put into the outbox: {error}"),
        }
    }
    println!("  {events} events are in the outbox.");
    Ok(apps)
}

/// Returns an error if old rows exist, so that the sweep at the end deletes no one else's rows.
async fn refuse_rows_already_due(db: &DatabaseConnection) -> Result<()> {
    let due =
        table::Entity::find().filter(table::COLUMN.created_at.lt(Utc::now() - RETENTION)).count(db).await?;
    if due > 0 {
        return Err(format!(
            "{due} old rows are in dead_letters, and this would sweep them: use another database"
        )
        .into());
    }
    Ok(())
}

struct Dispatcher<'a> {
    db: &'a DatabaseConnection,
    repo: &'a SeaOrmDeadLetterRepo,
    scripts: &'a Path,
    crm_is_up: bool,
}

/// How an event's attempts ended.
struct UsedUp {
    attempt_count: u32,
    first_attempt_at: DateTime<Utc>,
    last_attempt_at: DateTime<Utc>,
    last_error: String,
}

impl Dispatcher<'_> {
    /// Empties the outbox, and returns the letters that this made.
    async fn run(&self) -> Result<Vec<DeadLetterId>> {
        let mut dead = Vec::new();
        while let Some(event) =
            outbox::Entity::find().order_by_asc(outbox::Column::Position).one(self.db).await?
        {
            let trigger = TRIGGERS.iter().find(|trigger| trigger.name == event.trigger);
            let what = format!("{:<10} {:<7} {:<19}", event.source, event.op, event.trigger);
            match self.deliver(&event, trigger).await {
                Ok(()) => {
                    event.delete(self.db).await?;
                    println!("  {what} delivered");
                }
                Err(used_up) => {
                    println!("  {what} DEAD after attempt {}: {}", used_up.attempt_count, used_up.last_error);
                    dead.push(self.bury(event, trigger, used_up).await?);
                }
            }
        }
        Ok(dead)
    }

    async fn deliver(&self, event: &outbox::Model, trigger: Option<&Trigger>) -> Result<(), UsedUp> {
        let first_attempt_at = Utc::now();
        let mut attempt_count = 0;
        loop {
            let last_attempt_at = Utc::now();
            attempt_count += 1;
            let outcome = match trigger {
                Some(trigger) => self.run_script(trigger.script, &event.payload).await,
                None => Err(format!("there is no trigger {:?}", event.trigger)),
            };
            let Err(last_error) = outcome else { return Ok(()) };
            if trigger.is_none() || attempt_count == RETRY_POLICY.attempts {
                return Err(UsedUp { attempt_count, first_attempt_at, last_attempt_at, last_error });
            }
            tokio::time::sleep(RETRY_POLICY.backoff * (1 << (attempt_count - 1))).await;
        }
    }

    /// The payload on standard input; a failure is an exit code other than 0, and what it says is on standard
    /// error.
    async fn run_script(&self, script: &str, payload: &str) -> Result<(), String> {
        let run = async {
            let mut command = Command::new("sh");
            command
                .arg(self.scripts.join(script))
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            command.env("CRM_IS_UP", if self.crm_is_up { "1" } else { "" }).kill_on_drop(true);
            let mut process = command.spawn()?;
            let stdin = process.stdin.take();
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A script need not read it all: then the pipe breaks, and its exit code tells.
                    stdin.write_all(payload.as_bytes()).await.ok();
                }
            };
            let ((), output) = tokio::join!(feed, process.wait_with_output());
            output
        };
        match tokio::time::timeout(RETRY_POLICY.timeout, run).await {
            Err(_) => Err(format!("{script}: no end after {:?}", RETRY_POLICY.timeout)),
            Ok(Err(error)) => Err(format!("{script}: {error}")),
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) if output.stderr.is_empty() => Err(format!("{script}: {}", output.status)),
            Ok(Ok(output)) => Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()),
        }
    }

    /// Out of the outbox and into the store, in ONE transaction: the event is in one of them, whatever fails.
    async fn bury(
        &self,
        event: outbox::Model,
        trigger: Option<&Trigger>,
        used_up: UsedUp,
    ) -> Result<DeadLetterId> {
        let letter = NewDeadLetter {
            app_id: event.app_id.into(),
            original_event_id: event.event_id,
            source: event.source,
            op: event.op,
            trigger_id: trigger.map(|trigger| TriggerId::from(trigger.id)),
            script_id: trigger.map(|trigger| ScriptId::from(trigger.script_id)),
            payload: Value::Null,
            // Byte for byte, whether it is JSON or not.
            payload_text: Some(event.payload),
            attempt_count: used_up.attempt_count,
            first_attempt_at: used_up.first_attempt_at,
            last_attempt_at: used_up.last_attempt_at,
            last_error: used_up.last_error,
            error_signature: None,
            // A dispatcher that is traced has the traceparent of its own span.
            metadata: Map::from_iter([(
                "traceparent".to_owned(),
                format!("00-{}-00f067aa0ba902b7-01", event.event_id.simple()).into(),
            )]),
        };
        let take = async |txn: &DatabaseTransaction| {
            Ok(outbox::Entity::delete_by_id(event.position).exec(txn).await?.rows_affected)
        };
        Ok(self.repo.bury_with(letter, take).await?)
    }
}

/// Puts events back into the outbox, in the transaction that resolves their letters, and only if nobody
/// resolved them before.
struct Outbox;

#[async_trait]
impl Requeue for Outbox {
    async fn requeue(&self, txn: &DatabaseTransaction, letters: &[StoredLetter]) -> Result<()> {
        for letter in letters {
            let trigger = trigger_of(letter.trigger_id).ok_or("the trigger is gone")?;
            let event = outbox::ActiveModel {
                position: NotSet,
                event_id: Set(letter.original_event_id),
                app_id: Set(letter.app_id.into()),
                source: Set(letter.source.clone()),
                op: Set(letter.op.clone()),
                trigger: Set(trigger.name.to_owned()),
                // As it came, number for number.
                payload: Set(letter.payload.clone()),
            };
            event.insert(txn).await?;
        }
        Ok(())
    }
}

fn trigger_of(id: Option<TriggerId>) -> Option<&'static Trigger> {
    TRIGGERS.iter().find(|trigger| Some(trigger.id.into()) == id)
}

async fn show_groups(repo: &dyn DeadLetterRead, apps: &BTreeSet<AppId>) -> Result<()> {
    for &app in apps {
        println!("\nError groups of app {app}");
        let largest = GroupRequest::default().limit(10);
        for group in repo.error_groups(app, &DeadLetterFilter::default(), &largest).await?.groups {
            println!(
                "  {:>4}  {:<18} {}",
                group.count,
                format!("{}/{}", group.source, group.op),
                group.error_signature
            );
        }
    }
    Ok(())
}

async fn show_backlogs(repo: &dyn DeadLetterRepo, apps: &BTreeSet<AppId>) -> Result<()> {
    for &app in apps {
        println!("\nBacklog of app {app}: {} unresolved", repo.unresolved_count(app).await?);
        for letter in repo.list_for_app(app, false, 10, 0).await? {
            println!(
                "  {}  {}  {:<18} {:<10}  {}",
                letter.id,
                letter.created_at.format("%F %T"),
                format!("{}/{}", letter.source, letter.op),
                letter.resolution.map_or("unresolved", Resolution::as_str),
                letter.last_error.lines().next().unwrap_or_default(),
            );
        }
    }
    Ok(())
}

/// Once. A service lets the sweeper `run` for as long as it does itself.
async fn sweep(repo: &SeaOrmDeadLetterRepo) -> Result<()> {
    let others = Retention::default().delete_all_after(RETENTION);
    let policy = RetentionPolicy::new(others);
    let sweeper = Sweeper::builder(Arc::new(repo.clone()), policy).build()?;
    let report = sweeper.sweep_once(Utc::now()).await;
    println!("  {} rows were deleted.", report.deleted);
    match report.end {
        SweepEnd::Failed(error) => Err(error.into()),
        _ => Ok(()),
    }
}
