//! The command line's options: clap's types, and nothing that runs.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, str::FromStr};

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use dead_letters::{AppId, DeadLetterId, DeadLetterState, IdFilter, Resolution, ScriptId, TriggerId};
use uuid::Uuid;

use crate::next::Next;

fn id<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "an id is a UUID, such as 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01")
}

fn id_or_none<T: FromStr>(text: &str) -> Result<IdFilter<T>, &'static str> {
    text.parse().map_err(|_| "it is a UUID, such as 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01, or none")
}

fn number(range: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("it is a whole number from {} to {}", range.start(), range.end()))
    }
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "it is an address and a port, such as 127.0.0.1:8025 or [::1]:8025")
}

/// What failed for good, from a shell.
#[derive(Debug, Parser)]
#[command(name = "dead-letters", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// The database: postgres://… or sqlite://…
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL", global = true)]
    pub(crate) database_url: Option<String>,
    /// How results are printed: `json` is one document, `jsonl` one line an item
    #[arg(long, value_enum, default_value_t, global = true)]
    pub(crate) output: Output,
    /// The table is distributed by app, as on Citus
    #[arg(long, global = true)]
    pub(crate) sharded: bool,
    /// Tables show times in UTC, not ages
    #[arg(long, global = true)]
    pub(crate) utc: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns on a terminal, cut to its width; else tab-separated values, whole and without a heading
    #[default]
    Table,
    Json,
    Jsonl,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Apps(Apps),
    List(List),
    Show(Show),
    Groups(Groups),
    Count(Count),
    Timeline(Timeline),
    Resolve(Resolve),
    Reopen(Reopen),
    Replay(Replay),
    Export(Export),
    Import(Import),
    Sweep(Sweep),
    #[command(subcommand)]
    Signatures(Signatures),
    Serve(Serve),
    #[command(subcommand)]
    Migrate(Migrate),
    Completions(Completions),
    Man(Man),
}

impl Command {
    /// Whether it changes nothing in the database.
    pub(crate) fn only_reads(&self) -> bool {
        match self {
            Self::Resolve(Resolve { which, .. })
            | Self::Reopen(Reopen { which })
            | Self::Replay(Replay { which, .. }) => which.dry_run,
            Self::Sweep(Sweep { dry_run, .. }) => *dry_run,
            Self::Signatures(Signatures::Rebuild(rebuild)) => rebuild.dry_run,
            Self::Import(_) | Self::Serve(_) | Self::Migrate(Migrate::Up) => false,
            _ => true,
        }
    }

    /// Whether the first Ctrl-C ends it: it has no batch to finish. An export ends with a whole line.
    pub(crate) fn ends_at_once(&self) -> bool {
        self.only_reads() && !matches!(self, Self::Export(_))
    }
}

/// The apps that have open letters, by id
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  dead-letters apps --output json | jq '.items[].app_id'")]
pub(crate) struct Apps {
    /// Only the apps behind this one
    #[arg(long, value_name = "APP", value_parser = id::<AppId>)]
    pub(crate) after: Option<AppId>,
    /// Apps at most, 1 to 1000
    #[arg(long, default_value_t = 100, value_name = "APPS", value_parser = number(1..=1_000))]
    pub(crate) limit: u32,
}

/// The letters of an app, the newest first
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  dead-letters list --app 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01 --source orders --created-from 2h"
)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) scan: Scan,
    /// Letters at most, 1 to 500
    #[arg(long, default_value_t = 50, value_name = "LETTERS", value_parser = number(1..=500))]
    pub(crate) size: u32,
    /// Goes on behind a page: what it gave as its `next`
    #[arg(long, value_name = "NEXT")]
    pub(crate) after: Option<Next>,
}

/// One letter: all of its error, and its payload where asked
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  dead-letters show 01a21d05-39cf-732a-8680-093ee59badc8 --app 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01 --payload"
)]
pub(crate) struct Show {
    /// The letter
    #[arg(value_name = "ID", value_parser = id::<DeadLetterId>)]
    pub(crate) id: DeadLetterId,
    /// The app that it belongs to
    #[arg(long, value_parser = id::<AppId>)]
    pub(crate) app: AppId,
    /// Its payload too, as it is stored
    #[arg(long)]
    pub(crate) payload: bool,
}

/// What fails alike, the largest groups first
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  dead-letters groups --app 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01 --state any --created-from yesterday"
)]
pub(crate) struct Groups {
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) scan: Scan,
    /// Groups at most, 1 to 500
    #[arg(long, default_value_t = 50, value_name = "GROUPS", value_parser = number(1..=500))]
    pub(crate) limit: u32,
}

/// How many letters match
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  dead-letters count --app 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01 --error-contains 'timed out'"
)]
pub(crate) struct Count {
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) scan: Scan,
    /// Counts no further
    #[arg(long, default_value_t = 100_000, value_name = "LETTERS", value_parser = number(1..=u32::MAX))]
    pub(crate) cap: u32,
}

/// How many letters that match failed when
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  dead-letters timeline --app 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01 --state any --from 24h --buckets 24"
)]
pub(crate) struct Timeline {
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) scan: Scan,
    /// Where the first bucket begins
    #[arg(long, default_value = "24h", value_name = "TIME")]
    pub(crate) from: String,
    /// Where the last one ends
    #[arg(long, default_value = "now", value_name = "TIME")]
    pub(crate) until: String,
    /// Buckets of one width, 1 to 1000
    #[arg(long, default_value_t = 24, value_parser = number(1..=1_000))]
    pub(crate) buckets: u32,
}

/// Settles open letters: by their ids, or all that match
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("letters", |ids| ids.help("IDs of the letters to resolve")),
    mut_arg("matching", |all| all.help("Resolve every letter that matches; shows the count and asks (--yes skips the question)")),
    after_help = "Examples:\n  dead-letters resolve 01a21d05-39cf-732a-8680-093ee59badc8 --app 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01 --note 'known'\n  dead-letters resolve --app 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01 --matching --source orders --dry-run"
)]
pub(crate) struct Resolve {
    #[command(flatten)]
    pub(crate) which: Which,
    /// What becomes of them
    #[arg(long = "as", value_enum, default_value_t, value_name = "RESOLUTION")]
    pub(crate) verdict: Verdict,
    /// Why
    #[arg(long)]
    pub(crate) note: Option<String>,
    /// Who settles them
    #[arg(long, env = "USER", hide_env_values = true)]
    pub(crate) by: Option<String>,
}

/// Puts events back where the service's dispatcher takes them from: in the service's own program
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("letters", |ids| ids.help("IDs of the letters to replay")),
    mut_arg("matching", |all| all.help("Replay every letter that matches; shows the count and asks (--yes skips the question)")),
    after_help = "Examples:\n  dead-letters replay 01a21d05-39cf-732a-8680-093ee59badc8 --app 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01\n  dead-letters replay --app 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01 --matching --source orders --brake"
)]
pub(crate) struct Replay {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Replay 1, then 10, then 100 letters at a time; stop as soon as a replayed event fails again
    #[arg(long, requires = "matching")]
    pub(crate) brake: bool,
    /// How long letters have to come back before the next step
    #[arg(long, default_value = "10s", value_name = "DURATION", requires = "brake")]
    pub(crate) wait: String,
    /// Why
    #[arg(long)]
    pub(crate) note: Option<String>,
    /// Who replays them
    #[arg(long, env = "USER", hide_env_values = true)]
    pub(crate) by: Option<String>,
}

/// What a person can say of a letter.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Nothing is to be done
    #[default]
    Ignored,
    /// A dead-letter handler script dealt with it
    HandledByScript,
}

/// Makes settled letters unresolved again: by their ids, or all that match
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("letters", |ids| ids.help("IDs of the letters to reopen")),
    mut_arg("matching", |all| all.help("Reopen every letter that matches; shows the count and asks (--yes skips the question)")),
    after_help = "Examples:\n  dead-letters reopen 01a21d05-39cf-732a-8680-093ee59badc8 --app 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01\n  dead-letters reopen --app 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01 --matching --resolution ignored --source orders"
)]
pub(crate) struct Reopen {
    #[command(flatten)]
    pub(crate) which: Which,
}

/// Letters as they are stored, payload and all: a JSON line each, the newest first
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  dead-letters export --app 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01 --state any > letters.jsonl"
)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Letters that one statement looks at, at most; the export goes on until it has all that match
    #[arg(long, default_value_t = 100_000, value_name = "LETTERS", value_parser = number(1..=u32::MAX))]
    pub(crate) scan: u32,
}

/// Stores letters as they were exported, each in its app; those that are there already are left alone
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  dead-letters import < letters.jsonl\n  dead-letters import /var/lib/dead-letters"
)]
pub(crate) struct Import {
    /// Files, or folders of an archive; `-`, and no path at all, is standard input
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) retention: Retention,
    /// Import letters too that --delete-closed-after or --delete-all-after says are due: the next sweep deletes them
    #[arg(long)]
    pub(crate) allow_due: bool,
}

/// When letters are due to be deleted.
#[derive(Debug, clap::Args)]
pub(crate) struct Retention {
    /// Letters that were settled so long ago
    #[arg(long, value_name = "DURATION")]
    pub(crate) delete_closed_after: Option<String>,
    /// Letters that were stored so long ago, settled or not
    #[arg(long, value_name = "DURATION")]
    pub(crate) delete_all_after: Option<String>,
}

/// Delete letters past their retention, once or repeatedly (--every)
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("delete_closed_after", |after| after.required_unless_present("delete_all_after")),
    after_help = "Examples:\n  dead-letters sweep --delete-closed-after 30d --delete-all-after 90d --dry-run\n  dead-letters sweep --delete-all-after 90d --archive /var/lib/dead-letters --every 5m"
)]
pub(crate) struct Sweep {
    #[command(flatten)]
    pub(crate) retention: Retention,
    /// Letters of this app alone; without it, of all apps
    #[arg(long, value_parser = id::<AppId>)]
    pub(crate) app: Option<AppId>,
    /// Keeps them in a folder, which must be there, before they are deleted: JSON lines, which `import` takes
    #[arg(long, value_name = "FOLDER")]
    pub(crate) archive: Option<PathBuf>,
    /// Goes on, with such pauses; without it, it sweeps once
    #[arg(long, value_name = "DURATION", conflicts_with = "dry_run")]
    pub(crate) every: Option<String>,
    /// Says how many are due, and how many open ones will be within a week, and deletes none
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Skip the question
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Manage error signatures, by which letters are grouped
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  dead-letters signatures rebuild --dry-run")]
pub(crate) enum Signatures {
    Rebuild(Rebuild),
}

/// Recompute the signatures that an earlier version made, and print which groups split and merge
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Recompute the signatures that an earlier version made, and print which groups split and merge\n\nRun it when every process of the service has this version. Signatures that a service made are left alone. Restart an interrupted rebuild: it does not change a letter twice.",
    after_help = "Examples:\n  dead-letters signatures rebuild --dry-run\n  dead-letters signatures rebuild"
)]
pub(crate) struct Rebuild {
    /// Change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// The admin pages and their API, until it is told to end
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  dead-letters serve\n  dead-letters serve --listen 0.0.0.0:8025 --token-file /run/secrets/token --host ops.example"
)]
pub(crate) struct Serve {
    /// Where it listens; without a token, an address of the loopback interface
    #[arg(long, default_value = "127.0.0.1:8025", value_name = "ADDRESS", value_parser = address)]
    pub(crate) listen: SocketAddr,
    /// The file with the token: whoever has it is let in, as Bearer, or as Basic's password. It wins over the environment
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The token, from the environment
    #[arg(long, env = "DEAD_LETTERS_TOKEN", hide_env_values = true, hide = true)]
    pub(crate) token: Option<String>,
    /// Who settles letters, where Basic's user does not say it
    #[arg(long, env = "USER", hide_env_values = true, default_value = "operator")]
    pub(crate) operator: String,
    /// A name under which it is reached, besides localhost: with a token
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Vec<String>,
}

/// The schema's steps
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  dead-letters migrate status && echo current")]
pub(crate) enum Migrate {
    /// Applies those that are missing, beside others that do the same
    Up,
    /// Says which are missing, and exits with 1 where there are any
    Status,
}

/// A shell's completions, to be put where it looks for them
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  dead-letters completions bash > /etc/bash_completion.d/dead-letters")]
pub(crate) struct Completions {
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// The man page of the tool, or of a command
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  dead-letters man list | man -l -")]
pub(crate) struct Man {
    /// Of this command; without one, of the tool
    #[arg(value_name = "COMMAND")]
    pub(crate) command: Option<String>,
}

/// Letters by their ids, or by a filter.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    #[arg(value_name = "ID", conflicts_with_all = ["matching", "Narrow"], value_parser = id::<DeadLetterId>)]
    pub(crate) letters: Vec<DeadLetterId>,
    #[arg(long)]
    pub(crate) matching: bool,
    /// Show how many letters match, and the newest of them, and change nothing
    #[arg(long, requires = "matching")]
    pub(crate) dry_run: bool,
    /// Skip the question
    #[arg(long, requires = "matching")]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) filter: Filter,
}

/// Which letters.
#[derive(Debug, clap::Args)]
pub(crate) struct Filter {
    /// The app
    #[arg(long, value_parser = id::<AppId>)]
    pub(crate) app: AppId,
    #[command(flatten)]
    pub(crate) narrow: Narrow,
}

/// Those for which all that is given holds.
#[derive(Debug, clap::Args)]
pub(crate) struct Narrow {
    /// How far they are settled: open, unresolved, closed or any [default: unresolved; with --resolution and of
    /// reopen: resolved]
    #[arg(long, help_heading = "Filter")]
    pub(crate) state: Option<DeadLetterState>,
    /// These letters, several with commas between
    #[arg(long, value_delimiter = ',', value_name = "ID", help_heading = "Filter", value_parser = id::<DeadLetterId>)]
    pub(crate) ids: Vec<DeadLetterId>,
    /// Resolved as replayed, ignored, handled_by_script or handler_failed
    #[arg(long, help_heading = "Filter")]
    pub(crate) resolution: Option<Resolution>,
    /// What the event was about, exactly
    #[arg(long, help_heading = "Filter")]
    pub(crate) source: Option<String>,
    /// The operation that failed, exactly
    #[arg(long, help_heading = "Filter")]
    pub(crate) op: Option<String>,
    /// The trigger; `none` for letters without a trigger
    #[arg(long, value_name = "ID", help_heading = "Filter", value_parser = id_or_none::<TriggerId>)]
    pub(crate) trigger_id: Option<IdFilter<TriggerId>>,
    /// The script; `none` for letters without a script
    #[arg(long, value_name = "ID", help_heading = "Filter", value_parser = id_or_none::<ScriptId>)]
    pub(crate) script_id: Option<IdFilter<ScriptId>>,
    /// The outbox row
    #[arg(long, value_name = "ID", help_heading = "Filter", value_parser = id::<Uuid>)]
    pub(crate) original_event_id: Option<Uuid>,
    /// A part of the error: no character is a wildcard, and case counts
    #[arg(long, value_name = "TEXT", help_heading = "Filter")]
    pub(crate) error_contains: Option<String>,
    /// The error signature, exactly
    #[arg(long, value_name = "TEXT", help_heading = "Filter")]
    pub(crate) error_signature: Option<String>,
    /// The key of an error group, as `groups` prints it
    #[arg(long = "group", value_name = "KEY", help_heading = "Filter")]
    pub(crate) group_key: Option<String>,
    /// Whether the payload is truncated or erased: `false` leaves such letters out
    #[arg(long, value_name = "BOOL", help_heading = "Filter")]
    pub(crate) truncated: Option<bool>,
    /// Letters that failed again after this bulk run replayed their events
    #[arg(long, value_name = "RUN", help_heading = "Filter", value_parser = id::<Uuid>)]
    pub(crate) failed_again_in_run: Option<Uuid>,
    /// Stored at this time or later: 2h (ago), yesterday, today, 2026-03-01T10:00:00Z
    #[arg(long, value_name = "TIME", help_heading = "Filter")]
    pub(crate) created_from: Option<String>,
    /// Stored before this time
    #[arg(long, value_name = "TIME", help_heading = "Filter")]
    pub(crate) created_before: Option<String>,
}

/// How far a command looks that reads once.
#[derive(Debug, clap::Args)]
pub(crate) struct Scan {
    /// Letters that are looked at, at most: the newest of the app and state
    #[arg(long, default_value_t = 100_000, value_name = "LETTERS", help_heading = "Filter", value_parser = number(1..=u32::MAX))]
    pub(crate) scan: u32,
}
