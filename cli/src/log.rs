//! What the library and the admin log: on standard error, by RUST_LOG.

use std::{
    env,
    io::{self, Write},
};

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::output::{visible, without_passwords};

/// From here on events go to standard error, those that RUST_LOG lets through: `info`, say, or
/// `warn,dead_letters::audit=info`. A host that has a subscriber already keeps it.
pub(crate) fn begin(by_default: Targets) {
    let given = env::var("RUST_LOG").ok().filter(|given| !given.is_empty());
    let filter = given.map(|given| given.parse::<Targets>()).transpose().unwrap_or_else(|error| {
        // It may be meant for the service, whose filter knows more than targets and levels.
        say!("note: RUST_LOG is ignored: {error}");
        None
    });
    let filter = filter.unwrap_or(by_default);
    let lines = fmt::layer().with_ansi(false).with_writer(|| Screen);
    _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
}

/// What is done and what fails, for a server that nobody watches.
pub(crate) fn of_server() -> Targets {
    Targets::new().with_default(LevelFilter::WARN).with_target("dead_letters::audit", LevelFilter::INFO)
}

/// Standard error, of which nobody need read. It gets an event in one piece.
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
