#![doc = include_str!("../README.md")]

/// On standard error.
macro_rules! say {
    ($($text:tt)*) => {
        crate::output::say(format_args!($($text)*))
    };
}

mod args;
mod commands;
mod confirm;
mod error;
mod output;
mod progress;
mod settings;
mod stop;

use std::{
    ffi::OsString,
    fmt,
    io::{self, Write},
    sync::Arc,
    thread,
};

use clap::{CommandFactory, Parser};
use dead_letters::{DeadLetterStore, Requeue, Schema, connect_options, migration::Migrator, open};
use tokio::{runtime::Builder, sync::oneshot};

use args::{Args, Command, Completions, Man, Migrate};
pub use error::Exit;
use error::Failure;
use output::Printer;
use settings::Settings;
use stop::{Signals, Stop};

/// The tool, as a service's own program has it.
#[derive(Default)]
pub struct Cli {
    requeue: Option<Arc<dyn Requeue>>,
}

impl Cli {
    /// As it is, without `replay`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has `replay` as well: this says how events go back into the service's outbox.
    pub fn requeue(self, requeue: impl Requeue + 'static) -> Self {
        Self { requeue: Some(Arc::new(requeue)) }
    }

    /// Runs one command, and returns what the process should exit with. Results go to standard output, all else to
    /// standard error. It makes a tokio runtime of its own, so it is not to be called within one.
    pub fn run(self, args: impl IntoIterator<Item: Into<OsString> + Clone>) -> Exit {
        run(self, args)
    }
}

impl fmt::Debug for Cli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cli").field("has_requeue", &self.requeue.is_some()).finish()
    }
}

fn run(cli: Cli, args: impl IntoIterator<Item: Into<OsString> + Clone>) -> Exit {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Help is a result, and goes to standard output.
            let is_help = !error.use_stderr();
            return match error.print() {
                Ok(()) if is_help => Exit::Done,
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
                _ => Exit::Usage,
            };
        }
    };
    match started(cli, args) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            if let Some(text) = failure.text() {
                say!("{text}");
            }
            failure.exit()
        }
    }
}

/// The command has a thread and a runtime of its own: it blocks where its result is not read, and what it reads of the
/// database need not pass from thread to thread.
fn started(cli: Cli, args: Args) -> Result<(), Failure> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (signals, stop) = Signals::listen()?;
        let (done, ended) = oneshot::channel();
        thread::spawn(move || {
            let ran = Builder::new_current_thread().enable_all().build().map_err(Failure::from).and_then(|tokio| {
                let ran = tokio.block_on(command(cli, args, &stop));
                // It would wait for what is still to be typed.
                tokio.shutdown_background();
                ran
            });
            done.send(ran)
        });
        tokio::select! {
            ran = ended => ran.unwrap_or_else(|_| Err(Failure::failed("it broke, which is a fault of this program"))),
            () = signals.second() => Err(Failure::failed("it was ended: the batch under way is done or not, as a whole")),
        }
    })
}

async fn command(cli: Cli, args: Args, stop: &Stop) -> Result<(), Failure> {
    match &args.command {
        Command::Completions(Completions { shell }) => {
            let mut out = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "dead-letters", &mut out);
            return Ok(io::stdout().write_all(&out)?);
        }
        Command::Man(Man { command }) => {
            let mut out = Vec::new();
            clap_mangen::Man::new(described(command.as_deref())?).render(&mut out)?;
            return Ok(io::stdout().write_all(&out)?);
        }
        _ => {}
    }
    let settings = Settings::resolve(args.global)?;
    let schema = match &args.command {
        Command::Migrate(Migrate::Up) => Schema::Migrate,
        _ => Schema::Check,
    };
    let options = connect_options(&settings.database_url);
    let repo = open(options, schema, Migrator).await?;
    let repo = if settings.sharded { repo.sharded() } else { repo };
    let replayer = cli.requeue.map(|requeue| repo.replayer(requeue));
    let store: Arc<dyn DeadLetterStore> = Arc::new(repo);
    let mut printer = Printer::standard(&settings);
    match args.command {
        Command::Apps(apps) => commands::apps(&*store, apps, &mut printer).await,
        Command::List(list) => commands::list(&*store, list, &settings, &mut printer).await,
        Command::Show(show) => commands::show(&*store, show, &mut printer).await,
        Command::Groups(groups) => commands::groups(&*store, groups, &settings, &mut printer).await,
        Command::Count(count) => commands::count(&*store, count, &settings, &mut printer).await,
        Command::Timeline(timeline) => commands::timeline(&*store, timeline, &settings, &mut printer).await,
        Command::Resolve(resolve) => commands::resolve(&*store, resolve, &settings, &mut printer, stop).await,
        Command::Reopen(reopen) => commands::reopen(&*store, reopen, &settings, &mut printer, stop).await,
        Command::Replay(replay) => {
            commands::replay(&*store, replayer.as_deref(), replay, &settings, &mut printer, stop).await
        }
        Command::Export(export) => commands::export(&*store, export, &settings, stop).await,
        Command::Import(import) => commands::import(&*store, import, &mut printer, stop).await,
        Command::Sweep(sweep) => commands::sweep(store, sweep, &settings, &mut printer, stop).await,
        Command::Serve(serve) => commands::serve(store, replayer, serve, stop).await,
        // Else it could not be opened.
        Command::Migrate(_) => {
            say!("note: the schema is current");
            Ok(())
        }
        Command::Completions(_) | Command::Man(_) => Ok(()),
    }
}

/// The tool, or one of its commands, with what holds for each.
fn described(command: Option<&str>) -> Result<clap::Command, Failure> {
    let mut tool = Args::command();
    tool.build();
    let Some(name) = command else { return Ok(tool) };
    tool.find_subcommand(name).cloned().ok_or_else(|| {
        Failure::usage(format!("there is no command {name:?}")).hint("dead-letters --help has them all")
    })
}
