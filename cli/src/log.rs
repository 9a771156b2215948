//! Writes what the library and the admin log to standard error, filtered by `RUST_LOG`.

use std::{
    env,
    io::{self, Write},
};

use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::output::{visible, without_passwords};

/// Starts logging to standard error. A host that has a subscriber already keeps it.
///
/// `RUST_LOG` is the filter, for example `info` or `warn,dead_letters::audit=info`. If it is unset or invalid,
/// `by_default` is.
pub(crate) fn begin(by_default: Targets) {
    let given = env::var("RUST_LOG").ok().filter(|given| !given.is_empty());
    let filter = given.map(|given| given.parse::<Targets>()).transpose().unwrap_or_else(|error| {
        // The value may be meant for the service, whose filter may know more than targets and levels.
        say!("note: RUST_LOG is invalid and was ignored: {error}");
        None
    });
    let filter = filter.unwrap_or(by_default);
    let lines = fmt::layer().with_ansi(false).with_writer(|| Screen);
    _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
}

/// Returns the default filter of the server: warnings, errors and audit events.
#[cfg(feature = "serve")]
pub(crate) fn of_server() -> Targets {
    use tracing_subscriber::filter::LevelFilter;

    Targets::new().with_default(LevelFilter::WARN).with_target("dead_letters::audit", LevelFilter::INFO)
}

/// Writes each event to standard error in one call and ignores write errors.
struct Screen;

impl Write for Screen {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        _ = io::stderr().write_all(visible(&without_passwords(&text)).as_bytes());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
