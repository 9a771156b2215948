#![doc = include_str!("../README.md")]

/// Prints a line to standard error.
macro_rules! say {
    ($($text:tt)*) => {
        crate::output::say(format_args!($($text)*))
    };
}

mod args;
mod commands;
mod confirm;
mod database;
mod error;
mod explain;
mod ids;
mod log;
mod next;
mod output;
mod program;
mod progress;
mod settings;
mod stop;

use std::{
    ffi::OsString,
    fmt,
    io::{self, Write},
    pin::pin,
    sync::Arc,
    thread,
    time::Duration,
};

use chrono::Utc;
use clap::{FromArgMatches, parser::ValueSource};
use clap_complete::Shell;
use dead_letters::{
    AppId, DeadLetterReplay, DeadLetterStore, Requeue, SeaOrmDeadLetterRepo,
    migration::{Migrator, sea_orm_migration::MigratorTraitSelf},
};
use tokio::{
    runtime::Builder,
    sync::oneshot,
    time::{sleep, timeout},
};
use tracing_subscriber::filter::Targets;

use args::{Archive, Args, Command, Completions, Man, Signatures};
use database::Opened;
pub use error::Exit;
use error::Failure;
use ids::AppNames;
use log::LogFormat;
use output::{Printer, visible, without_passwords};
use settings::Settings;
use stop::{Signals, Stop};

/// How long a running statement keeps the pool open after the command has ended.
const CLOSING: Duration = Duration::from_secs(10);
/// How long a running statement keeps the pool open after Ctrl-C has ended the command.
const INTERRUPTED: Duration = Duration::from_secs(1);

/// The shortest pause of a repeated command.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// The command line tool, for a binary of the service's own.
///
/// # Examples
///
/// ```no_run
/// use dead_letters::migration::Migrator;
///
/// // Pass the service's own migrator, and its `Requeue`.
/// let exit = dead_letters_cli::Cli::new().migrator(Migrator).run(std::env::args_os());
/// # let _ = exit;
/// ```
pub struct Cli<M = Migrator> {
    requeue: Option<Arc<dyn Requeue>>,
    apps: AppNames,
    migrator: M,
}

impl Cli {
    /// Returns the tool with the migration steps of dead-letters alone. Its `replay` fails until
    /// [`requeue`](Self::requeue) is called.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters_cli::{Cli, Exit};
    ///
    /// assert_eq!(Cli::new().run(["dead-letters", "--version"]), Exit::Done);
    /// assert_eq!(Cli::new().run(["dead-letters", "lst"]), Exit::Usage);
    /// ```
    pub fn new() -> Self {
        Self { requeue: None, apps: AppNames::default(), migrator: Migrator }
    }
}

impl Default for Cli {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: MigratorTraitSelf + Send + 'static> Cli<M> {
    /// Enables `replay`. `requeue` puts events back into the service's outbox.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters_cli::Cli;
    ///
    /// # struct Outbox;
    /// # #[async_trait::async_trait]
    /// # impl dead_letters::Requeue for Outbox {
    /// #     async fn requeue(
    /// #         &self,
    /// #         _: &sea_orm::DatabaseTransaction,
    /// #         _: &[dead_letters::StoredLetter],
    /// #     ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// #         Ok(())
    /// #     }
    /// # }
    /// #
    /// // `Outbox` is what the service also passes to `replayer`.
    /// let tool = Cli::new().requeue(Outbox);
    /// # let status = ["orders", "migrate", "up", "--database-url", "sqlite::memory:"];
    /// # assert_eq!(tool.run(status), dead_letters_cli::Exit::Done);
    /// ```
    pub fn requeue(self, requeue: impl Requeue + 'static) -> Self {
        Self { requeue: Some(Arc::new(requeue)), ..self }
    }

    /// Makes `migrate` apply and show the steps of the service's own migrator, which includes those of dead-letters.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::migration::{Migrator, sea_orm_migration::prelude::*};
    /// use dead_letters_cli::Cli;
    ///
    /// /// The steps of dead-letters, and then those of the service.
    /// struct OwnMigrator;
    ///
    /// impl MigratorTrait for OwnMigrator {
    ///     fn migrations() -> Vec<Box<dyn MigrationTrait>> {
    ///         let mut steps = Migrator::migrations();
    ///         steps.extend(own_steps());
    ///         steps
    ///     }
    /// }
    /// # fn own_steps() -> Vec<Box<dyn MigrationTrait>> {
    /// #     Vec::new()
    /// # }
    ///
    /// let tool = Cli::new().migrator(OwnMigrator);
    /// # let up = ["orders", "migrate", "up", "--database-url", "sqlite::memory:"];
    /// # assert_eq!(tool.run(up), dead_letters_cli::Exit::Done);
    /// ```
    pub fn migrator<N: MigratorTraitSelf + Send + 'static>(self, migrator: N) -> Cli<N> {
        Cli { requeue: self.requeue, apps: self.apps, migrator }
    }

    /// Names apps. Tables show the name instead of the id, `--app` takes it, and so do the pages of `serve`.
    ///
    /// `names` must return at once. It is called for every app that has letters where `--app` is not a whole id.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::collections::HashMap;
    ///
    /// use dead_letters::AppId;
    /// use dead_letters_cli::Cli;
    ///
    /// let names: HashMap<AppId, String> =
    ///     HashMap::from([("6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01".parse()?, "shop".to_owned())]);
    /// let tool = Cli::new().app_names(move |app_id| names.get(&app_id).cloned());
    /// # let up = ["orders", "migrate", "up", "--database-url", "sqlite::memory:"];
    /// # assert_eq!(tool.run(up), dead_letters_cli::Exit::Done);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn app_names(self, names: impl Fn(AppId) -> Option<String> + Send + Sync + 'static) -> Self {
        Self { apps: AppNames::new(names), ..self }
    }

    /// Runs one command and returns the exit status for the process.
    ///
    /// Help, completions, man pages and messages show the program's name, which is that of the first argument.
    ///
    /// Results go to standard output, everything else to standard error. Do not call this within a tokio runtime,
    /// because it creates its own.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters_cli::{Cli, Exit};
    ///
    /// # let url = "sqlite::memory:";
    /// let exit = Cli::new().run(["dead-letters", "--database-url", url, "migrate", "up"]);
    /// assert_eq!(exit, Exit::Done);
    /// ```
    pub fn run(self, args: impl IntoIterator<Item: Into<OsString> + Clone>) -> Exit {
        run(self, args)
    }
}

impl<M> fmt::Debug for Cli<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cli").field("has_requeue", &self.requeue.is_some()).finish_non_exhaustive()
    }
}

fn run<M: MigratorTraitSelf + Send + 'static>(
    cli: Cli<M>,
    args: impl IntoIterator<Item: Into<OsString> + Clone>,
) -> Exit {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    program::set(&args);
    let ran = match parsed(&args) {
        Ok(args) => args.check().and_then(|()| started(cli, args)),
        Err(error) => refused(&args, error),
    };
    match ran {
        Ok(()) => Exit::Done,
        Err(failure) => {
            if let Some(text) = failure.text() {
                say!("{text}");
            }
            failure.exit()
        }
    }
}

fn parsed(args: &[OsString]) -> Result<Args, clap::Error> {
    let mut command = program::command();
    let matches = command.try_get_matches_from_mut(args)?;
    let mut parsed = Args::from_arg_matches(&matches)?;
    // clap would also refuse an option whose value is from the environment.
    let is_passed = |option| matches.value_source(option) == Some(ValueSource::CommandLine);
    if is_passed("database_url_file") {
        if is_passed("database_url") {
            let both = "--database-url-file cannot be used with --database-url";
            return Err(command.error(clap::error::ErrorKind::ArgumentConflict, both));
        }
        parsed.global.database_url = None;
    }
    Ok(parsed)
}

/// Prints help, which goes to standard output as a result, or the error in the arguments.
fn refused(args: &[OsString], error: clap::Error) -> Result<(), Failure> {
    if !error.use_stderr() {
        error.print()?;
        return Ok(io::stdout().flush()?);
    }
    // Parses the arguments again without passwords and hidden characters, so that the printed error quotes none.
    let shown = |arg: &OsString| visible(&without_passwords(&arg.to_string_lossy())).into_owned().into();
    let shown: Vec<_> = args.iter().map(shown).collect();
    let Err(error) = parsed(&shown) else {
        return Err(Failure::usage("the arguments are invalid"));
    };
    _ = error.print();
    Err(Failure::silent(Exit::Usage))
}

/// Runs the command on its own thread, with its own single-threaded runtime.
///
/// The command blocks while nobody reads its result. The rows that it reads from the database stay on one
/// thread.
fn started<M: MigratorTraitSelf + Send + 'static>(cli: Cli<M>, args: Args) -> Result<(), Failure> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (signals, stop) = Signals::listen()?;
        let (done, ended) = oneshot::channel();
        let at_once = args.command.ends_at_once();
        thread::spawn(move || {
            let ran = Builder::new_current_thread().enable_all().build().map_err(Failure::from).and_then(|tokio| {
                let ran = tokio.block_on(command(cli, args, &stop));
                // A regular shutdown would wait for a pending read of standard input.
                tokio.shutdown_background();
                ran
            });
            done.send(ran)
        });
        tokio::select! {
            ran = ended => ran.unwrap_or_else(|_| Err(Failure::failed("internal error (please report this bug)"))),
            () = signals.second(at_once) => {
                Err(Failure::failed("stopped; the current batch was committed or rolled back as a whole"))
            }
        }
    })
}

async fn command<M: MigratorTraitSelf + 'static>(
    cli: Cli<M>,
    args: Args,
    stop: &Stop,
) -> Result<(), Failure> {
    match &args.command {
        Command::Completions(Completions { shell }) => {
            return result(&completions(*shell));
        }
        Command::Man(Man { command }) => {
            let mut out = Vec::new();
            clap_mangen::Man::new(described(command)?).render(&mut out)?;
            return result(&out);
        }
        Command::Archive(Archive::Erase(erase)) => {
            return commands::erase_archived(
                erase,
                &mut Printer::standard(&Settings::without_database(args.global))?,
                stop,
            );
        }
        _ => {}
    }
    let mut settings = Settings::resolve(args.global, cli.apps.clone())?;
    // Other commands print their own failures.
    let access = args.command.access();
    match &args.command {
        #[cfg(feature = "serve")]
        Command::Serve(serve) => log::begin(log::of_server(), serve.log_format),
        _ => log::begin(Targets::new(), LogFormat::Text),
    }
    let at_once = args.command.ends_at_once();
    let url = settings.database_url.clone();
    let mut connecting = pin!(Opened::connect(&url, access));
    let database = tokio::select! {
        biased;
        () = stop.asked() => {
            // SQLite's log would stay behind a connection that is dropped while it opens.
            if let Ok(Ok(database)) = timeout(INTERRUPTED, connecting).await {
                database.close(INTERRUPTED).await;
            }
            return Err(Failure::failed("interrupted"));
        }
        database = &mut connecting => database?,
    };
    settings.database = database.name.clone();
    let interrupted = match args.command.watch() {
        // Ctrl-C is how a repeated command ends.
        Some(_) => Ok(()),
        None => Err(Failure::failed("interrupted")),
    };
    let (ran, patience) = tokio::select! {
        biased;
        () = stop.asked(), if at_once => (interrupted, INTERRUPTED),
        ran = with_database(cli, args.command, &mut settings, &database, stop) => (ran, CLOSING),
    };
    database.close(patience).await;
    ran
}

async fn with_database<M: MigratorTraitSelf + 'static>(
    cli: Cli<M>,
    command: Command,
    settings: &mut Settings,
    database: &Opened,
    stop: &Stop,
) -> Result<(), Failure> {
    match command {
        Command::Migrate(migrate) => {
            let mut printer = Printer::standard(settings)?;
            return commands::migrate(database, cli.migrator, migrate, &mut printer).await;
        }
        // Nothing was changed yet, so the command can stop here.
        _ => tokio::select! {
            biased;
            () = stop.asked() => return Err(Failure::failed("interrupted")),
            is_there = database.require_table() => is_there?,
        },
    }
    let repo = SeaOrmDeadLetterRepo::new(database.pool.clone());
    let repo = if settings.sharded { repo.sharded() } else { repo };
    let replayer = cli.requeue.map(|requeue| repo.replayer(requeue));
    #[cfg(feature = "serve")]
    let health = commands::Health::new(repo.clone(), database.clone(), cli.migrator);
    let store: Arc<dyn DeadLetterStore> = Arc::new(repo);
    #[cfg(feature = "serve")]
    if let Command::Serve(serve) = command {
        return commands::serve(store, replayer, health, serve, settings, stop).await;
    }
    let every =
        command.watch().map(|text| Settings::duration("--watch", text, SHORTEST_WATCH)).transpose()?;
    loop {
        let mut printer = Printer::standard(settings)?;
        let Some(every) = every else {
            return on_letters(store, replayer, command, settings, &mut printer, stop).await;
        };
        printer.clear()?;
        on_letters(store.clone(), None, command.clone(), settings, &mut printer, stop).await?;
        sleep(every).await;
        settings.now = Utc::now();
    }
}

/// Runs a command about letters.
async fn on_letters(
    store: Arc<dyn DeadLetterStore>,
    replayer: Option<Arc<dyn DeadLetterReplay>>,
    command: Command,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    match command {
        Command::Apps(apps) => commands::apps(&*store, apps, settings, printer).await,
        Command::List(list) => commands::list(&*store, list, settings, printer).await,
        Command::Show(show) => commands::show(&*store, show, settings, printer).await,
        Command::History(history) => commands::history(&*store, history, settings, printer).await,
        Command::Groups(groups) => commands::groups(&*store, groups, settings, printer).await,
        Command::Count(count) => commands::count(&*store, count, settings, printer).await,
        Command::Timeline(timeline) => commands::timeline(&*store, timeline, settings, printer).await,
        Command::Resolve(resolve) => commands::resolve(&*store, resolve, settings, printer, stop).await,
        Command::Reopen(reopen) => commands::reopen(&*store, reopen, settings, printer, stop).await,
        Command::Replay(replay) => {
            commands::replay(&*store, replayer.as_deref(), replay, settings, printer, stop).await
        }
        Command::Delete(delete) => commands::delete(&*store, delete, settings, printer, stop).await,
        Command::Erase(erase) => commands::erase(&*store, erase, settings, printer, stop).await,
        Command::Export(export) => commands::export(&*store, export, settings, stop).await,
        Command::Import(import) => commands::import(&*store, import, settings, printer, stop).await,
        Command::Sweep(sweep) => commands::sweep(store, sweep, settings, printer, stop).await,
        Command::Signatures(Signatures::Rebuild(rebuild)) => {
            commands::rebuild(&*store, rebuild, printer, stop).await
        }
        #[cfg(feature = "serve")]
        Command::Serve(_) => Ok(()),
        Command::Archive(_) | Command::Migrate(_) | Command::Completions(_) | Command::Man(_) => Ok(()),
    }
}

/// Returns the completions of the program under its name.
fn completions(shell: Shell) -> Vec<u8> {
    let (mut out, name) = (Vec::new(), program::name());
    if shell != Shell::Bash {
        clap_complete::generate(shell, &mut program::command(), name, &mut out);
        return out;
    }
    // clap_complete's script for bash loses the subcommands of a program whose name has a hyphen. Only its last lines
    // need the real name.
    let plain = name.replace('-', "_");
    let mut command = program::command().name(plain.clone()).bin_name(plain.clone());
    clap_complete::generate(shell, &mut command, &plain, &mut out);
    let script = String::from_utf8_lossy(&out);
    script.replace(&format!("-o default {plain}\n"), &format!("-o default {name}\n")).into_bytes()
}

fn result(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout();
    out.write_all(text)?;
    Ok(out.flush()?)
}

/// Returns the tool or one of its commands, with the global options. The words of a nested command may also be joined by
/// a hyphen, as in the name of its page.
fn described(command: &[String]) -> Result<clap::Command, Failure> {
    let mut tool = program::command();
    tool.build();
    let mut words = command.iter().flat_map(|words| words.split([' ', '-'])).filter(|word| !word.is_empty());
    let found = words.try_fold(&tool, |command, word| command.find_subcommand(word));
    found.cloned().ok_or_else(|| {
        Failure::usage(format!("unknown command {:?}", command.join(" ")))
            .hint(format!("see: {} --help", program::name()))
    })
}
