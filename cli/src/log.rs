//! Writes what the library and the admin log to standard error, filtered by `RUST_LOG`.

use std::{
    env,
    io::{self, Write},
};

use clap::ValueEnum;
use serde_json::Value;
use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::output::{visible, without_passwords};

/// The format of the lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// A JSON object a line
    Json,
}

/// Starts logging to standard error. A host that has a subscriber already keeps it.
///
/// `RUST_LOG` is the filter, for example `info` or `warn,dead_letters::audit=info`. If it is unset or invalid,
/// `by_default` is.
pub(crate) fn begin(by_default: Targets, format: LogFormat) {
    let given = env::var("RUST_LOG").ok().filter(|given| !given.is_empty());
    let filter = given.map(|given| given.parse::<Targets>()).transpose().unwrap_or_else(|error| {
        // The value may be meant for the service, whose filter may know more than targets and levels.
        say!("note: RUST_LOG is invalid and was ignored: {error}");
        None
    });
    let filter = filter.unwrap_or(by_default);
    let lines = fmt::layer().with_ansi(false);
    let lines = match format {
        LogFormat::Text => lines.with_writer(|| Screen(LogFormat::Text)).boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_writer(|| Screen(LogFormat::Json))
            .boxed(),
    };
    _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}

/// Returns the default filter of the server: warnings, errors and audit events.
#[cfg(feature = "serve")]
pub(crate) fn of_server() -> Targets {
    use tracing_subscriber::filter::LevelFilter;

    Targets::new().with_default(LevelFilter::WARN).with_target("dead_letters::audit", LevelFilter::INFO)
}

/// Writes each event to standard error in one call and ignores write errors.
struct Screen(LogFormat);

impl Write for Screen {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = match (self.0, serde_json::from_str(&text)) {
            (LogFormat::Json, Ok(event)) => format!("{}\n", shown_json(event)),
            _ => visible(&without_passwords(&text)).into_owned(),
        };
        _ = io::stderr().write_all(line.as_bytes());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the event with each text as a terminal and a log may show it. A rule for the whole line could remove a quote
/// that ends a text.
fn shown_json(event: Value) -> Value {
    match event {
        Value::String(text) => visible(&without_passwords(&text)).into(),
        Value::Array(items) => items.into_iter().map(shown_json).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, shown_json(value))).collect(),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_password_in_an_event_of_json_is_cut_out_and_the_event_stays_json() {
        let text =
            r#"{"message":"at postgres://ada:s3\"cret@db/x","more":["\u009b1m",{"to":"a@b"}],"status":200}"#;
        let event = serde_json::from_str(text).unwrap();
        let shown = json!({ "message": "at postgres://db/x", "more": ["\u{fffd}1m", { "to": "a@b" }], "status": 200 });
        assert_eq!(shown_json(event), shown);
    }
}
