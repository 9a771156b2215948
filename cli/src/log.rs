//! What the library and the admin log: on standard error, by RUST_LOG.

use std::{
    env,
    io::{self, Write},
};

use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    error::Failure,
    output::{visible, without_passwords},
};

/// From here on events go to standard error, those that RUST_LOG lets through: `info`, say, or
/// `warn,dead_letters::audit=info`. A host that has a subscriber already keeps it.
pub(crate) fn begin(by_default: &str) -> Result<(), Failure> {
    let given = env::var("RUST_LOG").ok().filter(|given| !given.is_empty());
    let filter: Targets = given.as_deref().unwrap_or(by_default).parse().map_err(|error| {
        Failure::usage(format!("RUST_LOG: {error}")).hint("info, or warn,dead_letters::audit=info")
    })?;
    let lines = fmt::layer().with_ansi(false).with_writer(|| Screen);
    _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Ok(())
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
