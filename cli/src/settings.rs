//! Turns the command line and the environment into plain values.

use std::{env, time::Duration};

use chrono::{DateTime, Utc};
use dead_letters::{DeadLetterFilter, Retention};
use jiff::{SpanRelativeTo, Timestamp, ToSpan, Zoned, civil, fmt::friendly::SpanParser, tz::TimeZone};

use crate::{
    args::{self, Filter, Global, Narrow, Output},
    error::Failure,
};

/// The sweeper's minimum. Checking it here lets the error name the option.
const SHORTEST_RETENTION: Duration = Duration::from_secs(60 * 60);

pub(crate) struct Settings {
    pub(crate) database_url: String,
    pub(crate) sharded: bool,
    pub(crate) output: Output,
    pub(crate) utc: bool,
    /// The current time, fixed for the whole command.
    pub(crate) now: DateTime<Utc>,
}

impl Settings {
    pub(crate) fn resolve(global: Global) -> Result<Self, Failure> {
        let Global { database_url, sharded, output, utc } = global;
        let database_url = database_url.filter(|url| !url.is_empty()).ok_or_else(|| {
            Failure::usage("no database is given").hint("set DATABASE_URL, or pass --database-url")
        })?;
        Ok(Self { database_url, sharded, output, utc, now: Utc::now() })
    }

    pub(crate) fn filter(&self, filter: Filter) -> Result<DeadLetterFilter, Failure> {
        Self::filter_at(self.now, filter)
    }

    /// Returns the filter, with relative times counted from `now`.
    pub(crate) fn filter_at(now: DateTime<Utc>, filter: Filter) -> Result<DeadLetterFilter, Failure> {
        let narrow = filter.narrow;
        let time = |name, text: Option<String>| text.map(|text| time_at(now, name, &text)).transpose();
        let mut filter = DeadLetterFilter::default()
            .state(narrow.state)
            .resolution(narrow.resolution)
            .original_event_id(narrow.original_event_id)
            .truncated(narrow.truncated)
            .failed_again_in_run(narrow.failed_again_in_run)
            .run_id(narrow.run_id)
            .resolved_from(time("--resolved-from", narrow.resolved_from)?)
            .resolved_before(time("--resolved-before", narrow.resolved_before)?)
            .created_from(time("--created-from", narrow.created_from)?)
            .created_before(time("--created-before", narrow.created_before)?);
        filter.ids = (!narrow.ids.is_empty()).then_some(narrow.ids);
        filter.source = narrow.source.map(unquoted);
        filter.op = narrow.op.map(unquoted);
        filter.trigger_id = narrow.trigger_id;
        filter.script_id = narrow.script_id;
        filter.error_contains = narrow.error_contains.map(unquoted);
        filter.error_signature = narrow.error_signature.map(unquoted);
        filter.resolved_by = narrow.resolved_by.map(unquoted);
        filter.group_key = narrow.group_key.map(unquoted);
        for (key, value) in narrow.metadata {
            if filter.metadata.contains_key(&key) {
                return Err(Failure::usage(format!("--metadata: the key {key:?} is given twice")));
            }
            filter.metadata.insert(key, unquoted(value));
        }
        Ok(filter)
    }

    /// Returns whether the filter has a time that moves with the clock.
    pub(crate) fn moves(filter: &Filter) -> bool {
        let Narrow { resolved_from, resolved_before, created_from, created_before, .. } = &filter.narrow;
        [resolved_from, resolved_before, created_from, created_before]
            .into_iter()
            .flatten()
            .any(|text| !is_fixed(text))
    }

    /// Parses how long letters are kept.
    pub(crate) fn retention(given: args::Retention) -> Result<Retention, Failure> {
        let duration = |name, text: Option<String>| {
            text.map(|text| Self::duration(name, &text, SHORTEST_RETENTION)).transpose()
        };
        Ok(Retention::default()
            .delete_closed_after(duration("--delete-closed-after", given.delete_closed_after)?)
            .delete_all_after(duration("--delete-all-after", given.delete_all_after)?))
    }

    /// Parses a duration such as `30d` or `5m`. A day has 24 hours.
    pub(crate) fn duration(name: &str, text: &str, at_least: Duration) -> Result<Duration, Failure> {
        let span = SpanParser::new().parse_span(text).ok();
        let duration = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
        let duration: Duration = duration.and_then(|duration| duration.try_into().ok()).ok_or_else(|| {
            Failure::usage(format!("{name}: {text:?} is not a duration"))
                .hint("write a duration as 30d, 12h or 5m")
        })?;
        if duration < at_least {
            return Err(Failure::usage(format!(
                "{name}: {text:?} is shorter than the minimum of {at_least:?}"
            )));
        }
        Ok(duration)
    }

    pub(crate) fn time(&self, name: &str, text: &str) -> Result<DateTime<Utc>, Failure> {
        time_at(self.now, name, text)
    }
}

/// Parses a time: `now`, `today` or `yesterday` (the start of the day), an age such as `2h`, or RFC 3339. Without an
/// offset the time is local.
fn time_at(now: DateTime<Utc>, name: &str, text: &str) -> Result<DateTime<Utc>, Failure> {
    let zone = zone()?;
    let now = Timestamp::from_microsecond(now.timestamp_micros()).map(|now| now.to_zoned(zone));
    let found = now.ok().and_then(|now| time(&now, text));
    let found = found.and_then(|time| DateTime::from_timestamp_micros(time.as_microsecond()));
    found.ok_or_else(|| {
        Failure::usage(format!("{name}: {text:?} is not a time"))
            .hint("write a time as 2h (ago), yesterday, today, now, 2026-03-01 or 2026-03-01T10:00:00Z")
    })
}

/// Returns the local time zone, or UTC if the system has none. An invalid `TZ` is an error and does not mean UTC.
fn zone() -> Result<TimeZone, Failure> {
    let given = env::var_os("TZ").filter(|given| !given.is_empty());
    match (TimeZone::try_system(), given) {
        (Ok(zone), _) => Ok(zone),
        (Err(_), None) => Ok(TimeZone::UTC),
        (Err(_), Some(given)) => {
            Err(Failure::usage(format!("TZ is {}, which is not a time zone", given.display()))
                .hint("set TZ to a name such as Europe/Berlin or UTC"))
        }
    }
}

/// Returns whether the text means the same time whenever it is read.
fn is_fixed(text: &str) -> bool {
    text.parse::<Timestamp>().is_ok() || text.parse::<civil::DateTime>().is_ok()
}

/// Decodes a text as `ListQuery` encodes it, which the commands on the admin's pages use. `""` is the empty text; a
/// longer text of nothing but quotes loses one pair.
fn unquoted(text: String) -> String {
    match text.strip_prefix("\"\"") {
        Some(rest) if rest.bytes().all(|byte| byte == b'"') => rest.to_owned(),
        _ => text,
    }
}

fn time(now: &Zoned, text: &str) -> Option<Timestamp> {
    let midnight = |day: civil::Date| Some(day.to_zoned(now.time_zone().clone()).ok()?.timestamp());
    match text {
        "now" => return Some(now.timestamp()),
        "today" => return midnight(now.date()),
        "yesterday" => return midnight(now.date().checked_sub(1.day()).ok()?),
        _ => {}
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    if let Ok(time) = text.parse::<civil::DateTime>() {
        return Some(time.to_zoned(now.time_zone().clone()).ok()?.timestamp());
    }
    let ago = SpanParser::new().parse_span(text).ok()?;
    (!ago.is_negative()).then(|| now.checked_sub(ago).ok()).flatten().map(|then| then.timestamp())
}

/// Formats an age in its largest unit: "3 h ago".
pub(crate) fn age(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - time).num_seconds();
    if seconds < 0 {
        return "ahead".to_owned();
    }
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let unit = units.into_iter().find(|&(size, _)| seconds >= size);
    unit.map_or("now".to_owned(), |(size, name)| format!("{} {name} ago", seconds / size))
}

#[cfg(test)]
mod tests {
    use jiff::Unit;

    use super::*;

    fn at(text: &str) -> Option<String> {
        let now: Zoned = "2026-03-29T12:00:00+02:00[Europe/Berlin]".parse().unwrap();
        time(&now, text).map(|time| time.round(Unit::Second).unwrap().to_string())
    }

    #[test]
    fn a_time_is_so_long_ago_a_day_or_rfc_3339() {
        for (text, time) in [
            ("now", "2026-03-29T10:00:00Z"),
            ("2h", "2026-03-29T08:00:00Z"),
            ("1h 30m", "2026-03-29T08:30:00Z"),
            // Daylight saving time began in this night, so the day is an hour short.
            ("today", "2026-03-28T23:00:00Z"),
            ("yesterday", "2026-03-27T23:00:00Z"),
            ("1d", "2026-03-28T11:00:00Z"),
            ("2026-03-01", "2026-02-28T23:00:00Z"),
            ("2026-03-01T10:00:00", "2026-03-01T09:00:00Z"),
            ("2026-03-01T10:00:00Z", "2026-03-01T10:00:00Z"),
            ("2026-03-01T10:00:00+02:00", "2026-03-01T08:00:00Z"),
            ("2026-03-01 10:00:00Z", "2026-03-01T10:00:00Z"),
        ] {
            assert_eq!(at(text).as_deref(), Some(time), "{text}");
        }
        for nonsense in ["", "soon", "-2h", "2", "tomorrow", "2026-13-01"] {
            assert_eq!(at(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn an_age_has_one_unit() {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let age = |seconds| age(now - chrono::TimeDelta::seconds(seconds), now);
        let ages = [-5, 0, 1, 59, 60, 3_599, 3_600, 86_399, 86_400, 900_000].map(age);
        let told = ["ahead", "now", "1 s ago", "59 s ago", "1 min ago", "59 min ago", "1 h ago", "23 h ago"];
        assert_eq!(ages[..8], told);
        assert_eq!(ages[8..], ["1 d ago", "10 d ago"]);
    }
}
