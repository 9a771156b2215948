//! The command line's options: clap's types, and nothing that runs.

#[cfg(feature = "serve")]
use std::net::SocketAddr;
use std::{error::Error, ops::RangeInclusive, path::PathBuf, str::FromStr};

use clap::{
    Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use clap_complete::Shell;
use dead_letters::{
    AppId, DeadLetterId, DeadLetterState, IdFilter, ListSort, ReplayRate, Resolution, ScriptId, TriggerId,
};
use uuid::Uuid;

use crate::{
    database::Access,
    error::Failure,
    ids::{App, Letter},
    next::Next,
    output::grouped,
};

fn id<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "an id is a UUID, for example 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01")
}

fn id_or_none<T: FromStr>(text: &str) -> Result<IdFilter<T>, &'static str> {
    text.parse().map_err(|_| "expected none or a UUID, for example 6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01")
}

/// Parses one of these words, which the completions of a shell offer.
fn one_of<T: FromStr<Err: Error + Send + Sync + 'static> + Clone + Send + Sync + 'static>(
    words: &'static [&'static str],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words).try_map(|word| word.parse::<T>())
}

const STATES: [&str; 4] = ["open", "unresolved", "closed", "any"];
const SORTS: [&str; 3] = ["newest", "oldest", "most_attempts"];
const RESOLUTIONS: [&str; 4] = ["replayed", "ignored", "handled_by_script", "handler_failed"];

fn number(range: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let max = grouped((*range.end()).into());
        number.ok_or_else(|| format!("expected a whole number between {} and {max}", range.start()))
    }
}

/// Parses `KEY=VALUE`. The key ends at the first `=`, unless it is a JSON string.
fn key_and_value(text: &str) -> Result<(String, String), &'static str> {
    let mut quoted = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let quoted =
        text.starts_with('"').then(|| quoted.next().map(|key| (key, quoted.byte_offset()))).flatten();
    let pair = match quoted {
        Some((key, end)) => key.ok().zip(text.get(end..).and_then(|rest| rest.strip_prefix('='))),
        None => text.split_once('=').map(|(key, value)| (key.to_owned(), value)),
    };
    let pair = pair.filter(|(key, _)| !key.is_empty()).map(|(key, value)| (key, value.to_owned()));
    pair.ok_or("expected a key and a value, for example tenant=acme")
}

fn rate(text: &str) -> Result<ReplayRate, &'static str> {
    let letters = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    let rate = letters.and_then(|letters| ReplayRate::per_second(letters).ok());
    rate.ok_or("expected a number of letters a second from 1/s to 1000/s, for example 20/s")
}

#[cfg(feature = "serve")]
fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected an address and a port, for example 127.0.0.1:8025 or [::1]:8025")
}

/// Find, resolve, replay and delete dead letters
#[derive(Debug, Clone, Parser)]
#[command(name = "dead-letters", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// Returns an error if an option about the format is given to a command that has one format, or if the options of a
    /// sweep do not fit together.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if let Command::Sweep(sweep) = &self.command {
            sweep.check()?;
        }
        let Some((command, printed)) = self.command.only_format() else { return Ok(()) };
        let is_this = self.global.output == Some(Output::Jsonl) && matches!(self.command, Command::Export(_));
        let option = match &self.global {
            Global { output: Some(_), .. } if !is_this => "--output",
            Global { wide: true, .. } => "--wide",
            _ => return Ok(()),
        };
        Err(Failure::usage(format!("{option} cannot be used with `{command}`, which prints {printed}")))
    }
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    /// URL of the database: postgres://… or sqlite://…
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL", global = true)]
    pub(crate) database_url: Option<String>,
    /// File that contains the URL; it overrides DATABASE_URL, which overrides DATABASE_URL_FILE
    #[arg(long, env = "DATABASE_URL_FILE", hide_env_values = true, value_name = "FILE", global = true)]
    pub(crate) database_url_file: Option<PathBuf>,
    /// Format of the result: `json` prints one document, `jsonl` one line per item [default: table]
    #[arg(short, long, value_enum, value_name = "FORMAT", global = true)]
    pub(crate) output: Option<Output>,
    /// Use a table that is distributed by app, for example on Citus
    #[arg(long, global = true)]
    pub(crate) sharded: bool,
    /// Show times in UTC instead of local time
    #[arg(long, global = true)]
    pub(crate) utc: bool,
    /// Show whole IDs and every column in a table, and do not cut it to the terminal's width
    #[arg(long, global = true)]
    pub(crate) wide: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people, cut to the terminal's width
    #[default]
    Table,
    /// Tab-separated values without a heading: whole IDs, and times in RFC 3339
    Tsv,
    Json,
    Jsonl,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    Apps(Apps),
    List(List),
    Show(Show),
    History(History),
    Groups(Groups),
    Count(Count),
    Timeline(Timeline),
    Resolve(Resolve),
    Reopen(Reopen),
    Replay(Replay),
    Delete(Delete),
    Erase(Erase),
    Export(Export),
    Import(Import),
    Sweep(Sweep),
    #[command(subcommand)]
    Archive(Archive),
    #[command(subcommand)]
    Signatures(Signatures),
    #[cfg(feature = "serve")]
    Serve(Serve),
    #[command(subcommand)]
    Migrate(Migrate),
    Completions(Completions),
    Man(Man),
}

impl Command {
    /// Returns whether the command changes nothing in the database or in an archive.
    pub(crate) fn only_reads(&self) -> bool {
        match self {
            Self::Resolve(Resolve { which, .. })
            | Self::Reopen(Reopen { which, .. })
            | Self::Replay(Replay { which, .. })
            | Self::Delete(Delete { which, .. }) => which.dry_run,
            Self::Sweep(Sweep { dry_run, .. }) => *dry_run,
            Self::Signatures(Signatures::Rebuild(rebuild)) => rebuild.dry_run,
            #[cfg(feature = "serve")]
            Self::Serve(_) => false,
            Self::Archive(Archive::Erase(_))
            | Self::Erase(_)
            | Self::Import(_)
            | Self::Migrate(Migrate::Up) => false,
            Self::Apps(_)
            | Self::List(_)
            | Self::Show(_)
            | Self::History(_)
            | Self::Groups(_)
            | Self::Count(_)
            | Self::Timeline(_)
            | Self::Export(_)
            | Self::Migrate(Migrate::Status)
            | Self::Completions(_)
            | Self::Man(_) => true,
        }
    }

    /// Returns the command's name and what it prints, if it has one format.
    fn only_format(&self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::List(List { quiet: true, .. }) => ("list --quiet", "IDs alone"),
            Self::Show(Show { payload_only: true, .. }) => {
                ("show --payload-only", "the payload alone, as stored")
            }
            Self::Export(_) => ("export", "JSON lines"),
            Self::Sweep(Sweep { every: Some(_), .. }) => ("sweep --every", "its log"),
            Self::Completions(_) => ("completions", "a script"),
            Self::Man(_) => ("man", "a man page"),
            #[cfg(feature = "serve")]
            Self::Serve(_) => ("serve", "its log"),
            _ => return None,
        })
    }

    /// Returns how often the command is repeated, if it is.
    pub(crate) fn watch(&self) -> Option<&str> {
        let watch = match self {
            Self::Apps(Apps { watch, .. })
            | Self::List(List { watch, .. })
            | Self::Groups(Groups { watch, .. })
            | Self::Count(Count { watch, .. })
            | Self::Timeline(Timeline { watch, .. }) => watch,
            _ => return None,
        };
        watch.watch.as_deref()
    }

    pub(crate) fn access(&self) -> Access {
        match self {
            #[cfg(feature = "serve")]
            Self::Serve(_) => Access::Serves,
            Self::Migrate(Migrate::Up) => Access::Migrates,
            command if command.only_reads() => Access::Reads,
            _ => Access::Writes,
        }
    }

    /// Returns whether the first Ctrl-C ends the command, because it has no batch to finish. An export first completes its
    /// line.
    pub(crate) fn ends_at_once(&self) -> bool {
        self.only_reads() && !matches!(self, Self::Export(_))
    }
}

/// List the apps that have open letters, sorted by id
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  dead-letters apps --watch\n  dead-letters apps --output json | jq '.items[].app_id'"
)]
pub(crate) struct Apps {
    /// List only apps after this one
    #[arg(long, value_name = "APP_ID", value_parser = id::<AppId>)]
    pub(crate) after: Option<AppId>,
    /// Maximum number of apps, 1 to 1000
    #[arg(short = 'n', long, default_value_t = 100, value_name = "NUMBER", value_parser = number(1..=1_000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) watch: Watch,
}

/// Repeating a command that only reads.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Watch {
    /// Repeat until Ctrl-C, with this pause
    #[arg(short, long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "2s")]
    pub(crate) watch: Option<String>,
}

/// List dead letters, newest first
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  dead-letters list --source orders --since 09:00 --until 10:00\n  dead-letters list -q --group 35e1b42c | dead-letters resolve - --note 'known'\n  dead-letters list --payload-contains 4711"
)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) payload: Payload,
    #[command(flatten)]
    pub(crate) scan: ScanLimit,
    /// Order of the letters: `most_attempts` sorts the newest letters that --scan-limit allows, on one page
    #[arg(long, default_value = "newest", value_name = "ORDER", value_parser = one_of::<ListSort>(&SORTS))]
    pub(crate) sort: ListSort,
    /// Maximum number of letters, 1 to 500
    #[arg(short = 'n', long, default_value_t = 50, value_name = "NUMBER", value_parser = number(1..=500))]
    pub(crate) size: u32,
    /// List the next page: the `next` of the previous page
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<Next>,
    /// Print only the IDs, one per line
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) watch: Watch,
}

/// Show one letter with its whole error: by ID, or the newest that matches
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  dead-letters show e59badc8\n  dead-letters show --group 35e1b42c --payload-only | jq ."
)]
pub(crate) struct Show {
    /// ID of the letter, or its last 8 digits
    #[arg(value_name = "LETTER_ID", conflicts_with = "Narrow", required_unless_present = "Narrow")]
    pub(crate) id: Option<Letter>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Also show the payload, as stored
    #[arg(long)]
    pub(crate) payload: bool,
    /// Print the payload alone, as stored
    #[arg(long, conflicts_with = "payload")]
    pub(crate) payload_only: bool,
}

/// List what operators did to letters, or to one letter, newest first
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  dead-letters history\n  dead-letters history e59badc8")]
pub(crate) struct History {
    /// List only what was done to this letter, with the bulk run that resolved it: its ID or its last 8 digits
    #[arg(value_name = "LETTER_ID")]
    pub(crate) id: Option<Letter>,
    /// App of the letters: its name, its ID or at least the first 8 digits of it [default: all apps that have letters or one of the
    /// newest 10,000 actions]
    #[arg(short, long, env = "DEAD_LETTERS_APP", hide_env_values = true, value_name = "APP")]
    pub(crate) app: Option<App>,
    /// List only the batches of this bulk run
    #[arg(long, value_name = "RUN_ID", conflicts_with = "id", value_parser = id::<Uuid>)]
    pub(crate) run: Option<Uuid>,
    /// List only actions before this one
    #[arg(long, value_name = "ACTION_ID", value_parser = id::<Uuid>)]
    pub(crate) after: Option<Uuid>,
    /// Maximum number of actions, 1 to 500
    #[arg(short = 'n', long, default_value_t = 50, value_name = "NUMBER", value_parser = number(1..=500))]
    pub(crate) limit: u32,
}

/// List groups of similar failures, largest first
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  dead-letters groups --since yesterday --state any\n  dead-letters groups --new-since 24h"
)]
pub(crate) struct Groups {
    /// List the groups that are new since this time, or regressed, newest first
    #[arg(long, value_name = "TIME", conflicts_with_all = ["Narrow", "Payload"])]
    pub(crate) new_since: Option<String>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) payload: Payload,
    #[command(flatten)]
    pub(crate) scan: ScanLimit,
    /// Maximum number of groups, 1 to 500
    #[arg(short = 'n', long, default_value_t = 50, value_name = "NUMBER", value_parser = number(1..=500))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) watch: Watch,
}

/// Count matching letters
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  dead-letters count --error-contains 'timed out'")]
pub(crate) struct Count {
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) scan: ScanLimit,
    /// Stop counting at this number
    #[arg(long, default_value_t = 100_000, value_name = "NUMBER", value_parser = number(1..=u32::MAX))]
    pub(crate) cap: u32,
    #[command(flatten)]
    pub(crate) watch: Watch,
}

/// Show matching letters over time, from --since to --until
#[derive(Debug, Clone, clap::Args)]
#[command(
    mut_arg("created_from", |since| since.default_value("24h")),
    mut_arg("created_before", |until| until.default_value("now")),
    after_help = "Example:\n  dead-letters timeline --state any --since 24h --buckets 24"
)]
pub(crate) struct Timeline {
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) scan: ScanLimit,
    /// Number of buckets, 1 to 1000
    #[arg(long, default_value_t = 24, value_name = "NUMBER", value_parser = number(1..=1_000))]
    pub(crate) buckets: u32,
    #[command(flatten)]
    pub(crate) watch: Watch,
}

/// Resolve open letters, by ID or by filter
#[derive(Debug, Clone, clap::Args)]
#[command(
    mut_arg("letters", |ids| ids.help("IDs of the letters to resolve, or their last 8 digits; `-` reads them from standard input")),
    mut_arg("all", |all| all.help("Resolve every letter of the app, or of all apps; without it, a filter is needed")),
    after_help = "Examples:\n  dead-letters resolve e59badc8 --note 'known'\n  dead-letters resolve --source orders --since 09:00 --dry-run"
)]
pub(crate) struct Resolve {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Resolution to set
    #[arg(long = "as", value_enum, default_value_t, value_name = "RESOLUTION")]
    pub(crate) verdict: Verdict,
    /// Reason, stored with the resolution
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    /// Name of the operator, stored with the resolution
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    pub(crate) by: Option<String>,
}

/// Replay open letters, by ID or by filter
///
/// Puts their events back into the outbox. Only the service's own build of this tool knows the outbox and can replay.
#[derive(Debug, Clone, clap::Args)]
#[command(
    mut_arg("letters", |ids| ids.help("IDs of the letters to replay, or their last 8 digits; `-` reads them from standard input")),
    mut_arg("all", |all| all.help("Replay every letter of the app, or of all apps; without it, a filter is needed")),
    after_help = "Examples:\n  dead-letters replay e59badc8\n  dead-letters replay --group 35e1b42c --staged\n  dead-letters replay --group 35e1b42c --rate 20/s"
)]
pub(crate) struct Replay {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Replay one letter with the JSON of this file instead of its own payload; `-` reads standard input
    #[arg(long, value_name = "FILE", requires = "letters")]
    pub(crate) payload_file: Option<PathBuf>,
    /// Replay 1, then 10, then 100, then 1,000 letters at a time; stop as soon as a replayed event fails again
    #[arg(long, conflicts_with = "letters")]
    pub(crate) staged: bool,
    /// How long to wait after each step for events that fail again
    #[arg(
        long,
        default_value = "10s",
        value_name = "DURATION",
        requires = "staged",
        conflicts_with = "letters"
    )]
    pub(crate) wait: String,
    /// Replay at most this many letters a second, so that the receiving systems keep up, from 1/s to 1000/s
    #[arg(long, value_name = "NUMBER/s", value_parser = rate)]
    pub(crate) rate: Option<ReplayRate>,
    /// Reason, stored with the resolution
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    /// Name of the operator, stored with the resolution
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    pub(crate) by: Option<String>,
}

/// The resolutions that a person may set.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// No action is needed
    #[default]
    Ignored,
    /// A dead-letter handler script handled the event
    HandledByScript,
}

/// Reopen closed letters, by ID or by filter
#[derive(Debug, Clone, clap::Args)]
#[command(
    mut_arg("letters", |ids| ids.help("IDs of the letters to reopen, or their last 8 digits; `-` reads them from standard input")),
    mut_arg("state", |state| state.help("State of the letters: closed or any. Without it, closed letters are reopened")),
    mut_arg("all", |all| all.help("Reopen every letter of the app, or of all apps; without it, a filter is needed")),
    after_help = "Examples:\n  dead-letters reopen e59badc8\n  dead-letters reopen --resolution ignored --resolved-by ada --resolved-since 2h\n  dead-letters reopen --run 019eb2c8-7a51-7d3c-9f40-2b8f0f6f6b11"
)]
pub(crate) struct Reopen {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Also reopen replayed letters, whose events are back in the outbox
    #[arg(long)]
    pub(crate) include_replayed: bool,
    /// Reason, stored in the history
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    /// Name of the operator, stored in the history
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    pub(crate) by: Option<String>,
}

/// Delete chosen letters, by ID or by filter
///
/// Deleted letters can't be brought back. `sweep` deletes what is past its retention.
#[derive(Debug, Clone, clap::Args)]
#[command(
    mut_arg("letters", |ids| ids.help("IDs of the letters to delete, or their last 8 digits; `-` reads them from standard input")),
    mut_arg("all", |all| all.help("Delete every open letter of the app, or of all apps; without it, a filter is needed")),
    after_help = "Examples:\n  dead-letters delete e59badc8\n  dead-letters delete --source load-test --state any --dry-run"
)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Reason
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    /// Name of the operator
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    pub(crate) by: Option<String>,
}

/// Erase the content of letters: payload, error, metadata and note
///
/// The letters stay for statistics, and can't be replayed. Erase them here first, and then in each archive.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  dead-letters erase e59badc8 --note 'request 17'")]
pub(crate) struct Erase {
    /// IDs of the letters to erase, or their last 8 digits; `-` reads them from standard input
    #[arg(value_name = "LETTER_ID", required = true)]
    pub(crate) letters: Vec<Letter>,
    /// App of the letters: its name, its ID or at least the first 8 digits of it [default: all apps]
    #[arg(short, long, env = "DEAD_LETTERS_APP", hide_env_values = true, value_name = "APP")]
    pub(crate) app: Option<App>,
    /// Reason
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    /// Name of the operator
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    pub(crate) by: Option<String>,
    /// Skip the question
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// Work on an archive's files
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Archive {
    Erase(EraseArchived),
}

/// Erase the content of letters in the files of an archive
///
/// A file is replaced as a whole, so an interrupted command can be run again.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Example:\n  dead-letters archive erase /var/lib/dead-letters --ids 01a21d05-39cf-732a-8680-093ee59badc8"
)]
pub(crate) struct EraseArchived {
    /// Folder of the archive, or one of its files
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// IDs of the letters, separated by commas
    #[arg(long, required = true, value_delimiter = ',', value_name = "LETTER_ID", value_parser = id::<DeadLetterId>)]
    pub(crate) ids: Vec<DeadLetterId>,
}

/// Export letters with their payloads as JSON lines: app by app, newest first
#[derive(Debug, Clone, clap::Args)]
#[command(
    mut_arg("state", |state| state.help("State of the letters. Without it, letters of any state are exported")),
    after_help = "Examples:\n  dead-letters export > letters.jsonl\n  dead-letters export --app 6f1c2a52 --state open > letters.jsonl"
)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// How many letters one statement may examine; the export repeats statements until it has every matching letter
    #[arg(long, default_value_t = 100_000, value_name = "NUMBER", value_parser = number(1..=u32::MAX))]
    pub(crate) scan_limit: u32,
}

/// Import exported letters into their apps, skipping letters that are stored already
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  dead-letters import < letters.jsonl\n  dead-letters import /var/lib/dead-letters"
)]
pub(crate) struct Import {
    /// Files, or folders of an archive; `-` or no path reads standard input
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) retention: Retention,
    /// Also import letters that are due by --delete-closed-after or --delete-all-after and that the next sweep will delete
    #[arg(long)]
    pub(crate) allow_due: bool,
}

/// How long letters are kept.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Retention {
    /// Delete letters that have been closed for this long
    #[arg(long, value_name = "DURATION")]
    pub(crate) delete_closed_after: Option<String>,
    /// Delete letters that have been stored for this long, open or closed
    #[arg(long, value_name = "DURATION")]
    pub(crate) delete_all_after: Option<String>,
}

/// Delete letters past their retention, once or repeatedly (--every)
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  dead-letters sweep --delete-closed-after 30d --delete-all-after 90d --dry-run\n  dead-letters sweep --delete-all-after 90d --archive /var/lib/dead-letters --every 5m"
)]
pub(crate) struct Sweep {
    #[command(flatten)]
    pub(crate) retention: Retention,
    /// Delete what operators did this long ago from the history of all apps; refused with --app or DEAD_LETTERS_APP.
    /// --dry-run does not count it
    #[arg(long, value_name = "DURATION")]
    pub(crate) delete_actions_after: Option<String>,
    /// App to sweep: its name, its ID or at least the first 8 digits of it [default: all apps]
    #[arg(short, long, env = "DEAD_LETTERS_APP", hide_env_values = true, value_name = "APP")]
    pub(crate) app: Option<App>,
    /// Archive letters in this existing folder before they are deleted, as JSON lines that `import` reads
    #[arg(long, value_name = "FOLDER")]
    pub(crate) archive: Option<PathBuf>,
    /// Sweep repeatedly, with this pause [default: sweep once]
    #[arg(long, value_name = "DURATION", conflicts_with = "dry_run")]
    pub(crate) every: Option<String>,
    /// Count the letters that are due and the open letters that will be due within a week, and delete nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Skip the question
    #[arg(short, long)]
    pub(crate) yes: bool,
}

impl Sweep {
    /// Returns an error if there is no retention, or if the retention of all apps' history is given for one app.
    fn check(&self) -> Result<(), Failure> {
        let Self { retention, delete_actions_after, app, .. } = self;
        let has_retention = retention.delete_closed_after.is_some() || retention.delete_all_after.is_some();
        if !has_retention && delete_actions_after.is_none() {
            return Err(Failure::usage("a sweep needs at least one retention")
                .hint("pass --delete-closed-after, --delete-all-after or --delete-actions-after"));
        }
        // clap's own error would not name the variable.
        if delete_actions_after.is_some() && app.is_some() {
            return Err(Failure::usage(
                "--delete-actions-after covers the history of all apps, so it cannot be used with --app or DEAD_LETTERS_APP",
            )
            .hint("sweep the history in a command without --app, and unset DEAD_LETTERS_APP for it"));
        }
        Ok(())
    }
}

/// Manage error signatures, which group similar failures
#[derive(Debug, Clone, Subcommand)]
#[command(after_help = "Example:\n  dead-letters signatures rebuild --dry-run")]
pub(crate) enum Signatures {
    Rebuild(Rebuild),
}

/// Recompute the signatures that an earlier version made, and print which groups split and merge
#[derive(Debug, Clone, clap::Args)]
#[command(
    long_about = "Recompute the signatures that an earlier version made, and print which groups split and merge\n\nRun it when every process of the service has this version. Signatures that a service made are left alone. Restart an interrupted rebuild: it does not change a letter twice.",
    after_help = "Examples:\n  dead-letters signatures rebuild --dry-run\n  dead-letters signatures rebuild"
)]
pub(crate) struct Rebuild {
    /// Change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Serve the admin pages and their API
#[cfg(feature = "serve")]
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  dead-letters serve\n  dead-letters serve --listen 0.0.0.0:8025 --token-file /run/secrets/token --host ops.example\n  dead-letters serve --allow edit,delete --redact /customer/email"
)]
pub(crate) struct Serve {
    /// Address to listen on; without a token it must be a loopback address
    #[arg(long, default_value = "127.0.0.1:8025", value_name = "ADDRESS", value_parser = address)]
    pub(crate) listen: SocketAddr,
    /// File with the token, which clients send as Bearer token or as Basic password; overrides DEAD_LETTERS_TOKEN
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Token, from the environment
    #[arg(long, env = "DEAD_LETTERS_TOKEN", hide_env_values = true, hide = true)]
    pub(crate) token: Option<String>,
    /// Name of the operator of a client that sends no Basic user name
    #[arg(long, env = "USER", hide_env_values = true, default_value = "operator", value_name = "NAME")]
    pub(crate) operator: String,
    /// Host name that clients use besides localhost; requires a token
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Vec<String>,
    /// Right that operators have besides reading, resolving, reopening and replaying
    #[arg(long, value_enum, value_delimiter = ',', value_name = "RIGHT")]
    pub(crate) allow: Vec<Allow>,
    /// JSON pointer to values in payloads that pages and API show only on request; repeat it for several; each request is logged
    #[arg(long, value_name = "POINTER")]
    pub(crate) redact: Vec<String>,
    /// As --redact, in metadata; repeat it for several
    #[arg(long, value_name = "POINTER")]
    pub(crate) redact_metadata: Vec<String>,
    /// Address of a trace, for letters whose metadata has a `traceparent`: https://jaeger.example/trace/{trace_id}
    #[arg(long, value_name = "URL")]
    pub(crate) trace_url: Option<String>,
    /// Format of the log on standard error
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) log_format: crate::log::LogFormat,
}

/// A right that operators of `serve` do not have by default.
#[cfg(feature = "serve")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Allow {
    /// Edit a payload before its replay
    Edit,
    /// Delete letters, and erase their content
    Delete,
}

/// Manage the database schema
#[derive(Debug, Clone, Subcommand)]
#[command(after_help = "Example:\n  dead-letters migrate status && echo current")]
pub(crate) enum Migrate {
    /// Apply missing migration steps and list them; safe to run in several processes at the same time
    Up,
    /// Show missing migration steps; exit with 5 if there are any
    Status,
}

/// Print shell completions
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  dead-letters completions bash > /etc/bash_completion.d/dead-letters")]
pub(crate) struct Completions {
    /// Shell to complete for
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Print the man page of the tool or of a command
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  dead-letters man list | man -l -")]
pub(crate) struct Man {
    /// Command to describe, for example `list` or `migrate up` [default: the tool]
    #[arg(value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// Letters by id or by filter.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Which {
    #[arg(value_name = "LETTER_ID", conflicts_with_all = ["all", "Narrow", "Payload"])]
    pub(crate) letters: Vec<Letter>,
    #[arg(long)]
    pub(crate) all: bool,
    /// Show how many letters match and the newest of them, and change nothing
    #[arg(long, conflicts_with = "letters")]
    pub(crate) dry_run: bool,
    /// Skip the question
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) payload: Payload,
}

/// A search in the payloads of the letters that match a filter.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Payload {
    /// Part of the payload's stored text, 1 to 1000 bytes, case-sensitive, without wildcards
    #[arg(long, value_name = "TEXT", help_heading = "Filter")]
    pub(crate) payload_contains: Option<String>,
}

/// A filter of letters.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Filter {
    /// App of the letters: its name, its ID or at least the first 8 digits of it [default: all apps]
    #[arg(short, long, env = "DEAD_LETTERS_APP", hide_env_values = true, value_name = "APP")]
    pub(crate) app: Option<App>,
    #[command(flatten)]
    pub(crate) narrow: Narrow,
}

/// The conditions of a filter. A letter matches if it meets all of them.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Narrow {
    /// State of the letters. Without it, open letters match, or letters of any state beside --ids and options about
    /// resolutions
    #[arg(long, value_name = "STATE", help_heading = "Filter", value_parser = one_of::<DeadLetterState>(&STATES))]
    pub(crate) state: Option<DeadLetterState>,
    /// IDs of the letters, or their last 8 digits, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "LETTER_ID", help_heading = "Filter")]
    pub(crate) ids: Vec<Letter>,
    /// Resolution of the letters
    #[arg(long, value_name = "RESOLUTION", help_heading = "Filter", value_parser = one_of::<Resolution>(&RESOLUTIONS))]
    pub(crate) resolution: Option<Resolution>,
    /// Source of the event, compared exactly
    #[arg(long, value_name = "TEXT", help_heading = "Filter")]
    pub(crate) source: Option<String>,
    /// Part of the source, in any case of A to Z, without wildcards
    #[arg(long, value_name = "TEXT", help_heading = "Filter")]
    pub(crate) source_contains: Option<String>,
    /// Operation that failed, compared exactly
    #[arg(long, value_name = "TEXT", help_heading = "Filter")]
    pub(crate) op: Option<String>,
    /// Part of the operation, in any case of A to Z, without wildcards
    #[arg(long, value_name = "TEXT", help_heading = "Filter")]
    pub(crate) op_contains: Option<String>,
    /// Trigger, or `none` for letters without a trigger
    #[arg(long, value_name = "TRIGGER_ID", help_heading = "Filter", value_parser = id_or_none::<TriggerId>)]
    pub(crate) trigger_id: Option<IdFilter<TriggerId>>,
    /// Script, or `none` for letters without a script
    #[arg(long, value_name = "SCRIPT_ID", help_heading = "Filter", value_parser = id_or_none::<ScriptId>)]
    pub(crate) script_id: Option<IdFilter<ScriptId>>,
    /// Event of the letter, by its ID in the outbox
    #[arg(long, value_name = "EVENT_ID", help_heading = "Filter", value_parser = id::<Uuid>)]
    pub(crate) original_event_id: Option<Uuid>,
    /// Part of the error's text, in any case of A to Z, without wildcards
    #[arg(long, value_name = "TEXT", help_heading = "Filter")]
    pub(crate) error_contains: Option<String>,
    /// Error signature, compared exactly
    #[arg(long, value_name = "TEXT", help_heading = "Filter")]
    pub(crate) error_signature: Option<String>,
    /// Key of an error group, or the beginning of it, as printed by `groups`
    #[arg(short = 'g', long = "group", value_name = "KEY", help_heading = "Filter")]
    pub(crate) group_key: Option<String>,
    /// Key of the metadata and its value, a text compared exactly; repeat it for further keys
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Filter", value_parser = key_and_value)]
    pub(crate) metadata: Vec<(String, String)>,
    /// Whether the payload is truncated or erased; `false` excludes such letters
    #[arg(long, value_name = "BOOLEAN", help_heading = "Filter")]
    pub(crate) truncated: Option<bool>,
    /// Whether the content of the letter was erased
    #[arg(long, value_name = "BOOLEAN", help_heading = "Filter")]
    pub(crate) erased: Option<bool>,
    /// Bulk run that replayed the event before it failed again
    #[arg(long, value_name = "RUN_ID", help_heading = "Filter", value_parser = id::<Uuid>)]
    pub(crate) failed_again_in_run: Option<Uuid>,
    /// Bulk run that resolved the letters, as printed by `resolve`; `reopen --run` undoes it
    #[arg(long = "run", value_name = "RUN_ID", help_heading = "Filter", value_parser = id::<Uuid>)]
    pub(crate) run_id: Option<Uuid>,
    /// Name of the operator who resolved the letters, compared exactly
    #[arg(long, value_name = "NAME", help_heading = "Filter")]
    pub(crate) resolved_by: Option<String>,
    /// Earliest time of the resolution
    #[arg(long = "resolved-since", value_name = "TIME", help_heading = "Filter")]
    pub(crate) resolved_from: Option<String>,
    /// End of the time of the resolution, exclusive
    #[arg(long = "resolved-until", value_name = "TIME", help_heading = "Filter")]
    pub(crate) resolved_before: Option<String>,
    /// Earliest time of storage: 09:00, 2h ago, yesterday 14:30, 2026-03-01T10:00:00Z
    #[arg(short = 's', long = "since", value_name = "TIME", help_heading = "Filter")]
    pub(crate) created_from: Option<String>,
    /// End of the time of storage, exclusive
    #[arg(short = 'u', long = "until", value_name = "TIME", help_heading = "Filter")]
    pub(crate) created_before: Option<String>,
}

/// The scan limit of a command that reads once.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ScanLimit {
    /// How many letters the command may examine: the newest of the app and state
    #[arg(long, default_value_t = 100_000, value_name = "NUMBER", help_heading = "Filter", value_parser = number(1..=u32::MAX))]
    pub(crate) scan_limit: u32,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use dead_letters::DeadLetterFilter;

    use super::*;

    #[test]
    fn every_field_of_the_librarys_filter_is_an_option() {
        let args = Args::command();
        let list = args.find_subcommand("list").unwrap();
        let filter = serde_json::json!(DeadLetterFilter::default());
        for field in filter.as_object().unwrap().keys() {
            assert!(list.get_arguments().any(|option| option.get_id() == field.as_str()), "{field}");
        }
    }
}
