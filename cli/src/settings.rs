//! Turns the command line and the environment into plain values.

use std::{env, fmt, fs, time::Duration};

use chrono::{DateTime, Utc};
use dead_letters::{DeadLetterFilter, DeadLetterId, Retention};
use jiff::{
    Span, SpanRelativeTo, SpanRound, Timestamp, ToSpan, Unit, Zoned, civil, fmt::friendly::SpanParser,
    tz::TimeZone,
};

use crate::{
    args::{self, Global, Narrow, Output},
    error::Failure,
    ids::AppNames,
};

/// The sweeper's minimum. Checking it here lets the error name the option.
const SHORTEST_RETENTION: Duration = Duration::from_secs(60 * 60);
/// Days after which a printed date has its year.
const WITHOUT_YEAR: i64 = 300;

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) database_url: String,
    /// The database's name, without user and password. It is empty before the connection.
    pub(crate) database: String,
    pub(crate) apps: AppNames,
    pub(crate) sharded: bool,
    pub(crate) output: Output,
    pub(crate) utc: bool,
    pub(crate) wide: bool,
    /// The current time, fixed for the whole command.
    pub(crate) now: DateTime<Utc>,
}

impl Settings {
    /// Returns the settings of a command that uses no database.
    pub(crate) fn without_database(global: Global) -> Self {
        let Global { sharded, output, utc, wide, .. } = global;
        let (nothing, apps) = (String::new, AppNames::default());
        let now = Utc::now();
        let output = output.unwrap_or_default();
        Self { database_url: nothing(), database: nothing(), apps, sharded, output, utc, wide, now }
    }

    pub(crate) fn resolve(global: Global, apps: AppNames) -> Result<Self, Failure> {
        let Global { database_url, database_url_file, sharded, output, utc, wide } = global;
        let given = |url: &String| !url.is_empty();
        let database_url = match (database_url.filter(given), database_url_file) {
            (Some(url), _) => url,
            (None, Some(file)) => {
                let refused = |why: &dyn fmt::Display| {
                    Failure::usage(format!("--database-url-file {}: {why}", file.display()))
                };
                let read = fs::read_to_string(&file).map_err(|error| refused(&error))?;
                let url = read.trim_start_matches('\u{feff}').trim();
                match url.lines().count() {
                    0 => return Err(refused(&"the file is empty")),
                    1 => url.to_owned(),
                    _ => return Err(refused(&"the file must have one line, the URL")),
                }
            }
            (None, None) => String::new(),
        };
        if database_url.is_empty() {
            return Err(Failure::usage("no database is given")
                .hint("set DATABASE_URL or DATABASE_URL_FILE, or pass --database-url"));
        }
        let database = String::new();
        let output = output.unwrap_or_default();
        Ok(Self { database_url, database, apps, sharded, output, utc, wide, now: Utc::now() })
    }

    /// Returns the filter, with relative times counted from `now`. The ids are those that the short ids of the options
    /// stand for.
    pub(crate) fn filter_at(
        now: DateTime<Utc>,
        narrow: Narrow,
        ids: Option<Vec<DeadLetterId>>,
    ) -> Result<DeadLetterFilter, Failure> {
        let Narrow {
            state,
            ids: _,
            resolution,
            source,
            source_contains,
            op,
            op_contains,
            trigger_id,
            script_id,
            original_event_id,
            error_contains,
            error_signature,
            group_key,
            metadata,
            truncated,
            erased,
            failed_again_in_run,
            run_id,
            resolved_by,
            resolved_from,
            resolved_before,
            created_from,
            created_before,
        } = narrow;
        let time = |name, text: Option<String>| text.map(|text| time_at(now, name, &text)).transpose();
        let mut filter = DeadLetterFilter::default()
            .state(state)
            .resolution(resolution)
            .original_event_id(original_event_id)
            .truncated(truncated)
            .erased(erased)
            .failed_again_in_run(failed_again_in_run)
            .run_id(run_id)
            .resolved_from(time("--resolved-since", resolved_from)?)
            .resolved_before(time("--resolved-until", resolved_before)?)
            .created_from(time("--since", created_from)?)
            .created_before(time("--until", created_before)?);
        for (since, until, from, before) in [
            ("--since", "--until", filter.created_from, filter.created_before),
            ("--resolved-since", "--resolved-until", filter.resolved_from, filter.resolved_before),
        ] {
            if from.zip(before).is_some_and(|(from, before)| from > before) {
                return Err(Failure::usage(format!("{since} must not be after {until}")));
            }
        }
        filter.ids = ids;
        (filter.trigger_id, filter.script_id) = (trigger_id, script_id);
        filter.source = source.map(unquoted);
        filter.source_contains = source_contains.map(unquoted);
        filter.op = op.map(unquoted);
        filter.op_contains = op_contains.map(unquoted);
        filter.error_contains = error_contains.map(unquoted);
        filter.error_signature = error_signature.map(unquoted);
        filter.resolved_by = resolved_by.map(unquoted);
        filter.group_key = group_key.map(unquoted);
        for (key, value) in metadata {
            if filter.metadata.contains_key(&key) {
                return Err(Failure::usage(format!("--metadata: the key {key:?} is given twice")));
            }
            filter.metadata.insert(key, unquoted(value));
        }
        Ok(filter)
    }

    /// Returns whether the filter has a time that moves with the clock.
    pub(crate) fn moves(filter: &Narrow) -> bool {
        let Narrow { resolved_from, resolved_before, created_from, created_before, .. } = filter;
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

    /// Parses the retention of the history.
    pub(crate) fn actions_retention(text: Option<String>) -> Result<Option<Duration>, Failure> {
        text.map(|text| Self::duration("--delete-actions-after", &text, SHORTEST_RETENTION)).transpose()
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
            let minimum = printed(at_least);
            return Err(Failure::usage(format!("{name}: {text:?} is shorter than the minimum of {minimum}")));
        }
        Ok(duration)
    }

    /// Returns how times are printed.
    pub(crate) fn clock(&self) -> Result<Clock, Failure> {
        let zone = if self.utc { None } else { Some(zone()?) };
        Ok(Clock { now: self.now, zone })
    }
}

/// Formats a duration as an option takes it: `30d`, or `1d 12h`.
pub(crate) fn printed(duration: Duration) -> String {
    let days = SpanRound::new().largest(Unit::Day).relative(SpanRelativeTo::days_are_24_hours());
    let span = Span::try_from(duration).and_then(|span| span.round(days));
    span.map_or_else(|_| format!("{duration:?}"), |span| format!("{span:#}"))
}

/// Prints times so that an option reads them back.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    now: DateTime<Utc>,
    /// The local time zone. `None` prints UTC.
    zone: Option<TimeZone>,
}

impl Clock {
    pub(crate) fn utc(now: DateTime<Utc>) -> Self {
        Self { now, zone: None }
    }

    /// Formats the time without its fraction: of today as `14:30:07`, of another day as `02-28 14:30`, and with the
    /// year if that was long ago or is ahead.
    pub(crate) fn time(&self, time: DateTime<Utc>) -> String {
        let Some(zone) = &self.zone else { return time.format("%Y-%m-%d %H:%M:%SZ").to_string() };
        let local = |time: DateTime<Utc>| {
            Timestamp::from_microsecond(time.timestamp_micros()).map(|time| time.to_zoned(zone.clone()))
        };
        let (Ok(then), Ok(now)) = (local(time), local(self.now)) else {
            return time.format("%Y-%m-%d %H:%M:%SZ").to_string();
        };
        let days = (self.now - time).num_days();
        let format = match (time > self.now, then.date() == now.date(), days < WITHOUT_YEAR) {
            (_, true, _) => "%H:%M:%S",
            (false, _, true) => "%m-%d %H:%M",
            _ => "%Y-%m-%d %H:%M",
        };
        then.strftime(format).to_string()
    }

    /// Formats an age in its largest unit: `3h`.
    pub(crate) fn age(&self, time: DateTime<Utc>) -> String {
        let seconds = (self.now - time).num_seconds();
        if seconds < 0 {
            return "ahead".to_owned();
        }
        let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
        let unit = units.into_iter().find(|&(size, _)| seconds >= size);
        unit.map_or("now".to_owned(), |(size, name)| format!("{}{name}", seconds / size))
    }
}

/// Parses a time: `now`, a day (`today`, `yesterday`, `02-28`, `2026-02-28`), a time of day (`09:00`) or both, an age
/// such as `2h` or `2h ago`, or RFC 3339. A day alone is its start, and a time of day alone is today's. Without an offset
/// the time is local.
pub(crate) fn time_at(now: DateTime<Utc>, name: &str, text: &str) -> Result<DateTime<Utc>, Failure> {
    let zone = zone()?;
    let now = Timestamp::from_microsecond(now.timestamp_micros()).map(|now| now.to_zoned(zone));
    let found = now.ok().and_then(|now| time(&now, text));
    let found = found.and_then(|time| DateTime::from_timestamp_micros(time.as_microsecond()));
    found.ok_or_else(|| {
        Failure::usage(format!("{name}: {text:?} is not a time"))
            .hint("write a time as 09:00, 2h ago, yesterday 14:30, today, now, 2026-03-01 10:00 or 2026-03-01T10:00:00Z")
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
    let text = text.trim();
    let local = |time: civil::DateTime| Some(time.to_zoned(now.time_zone().clone()).ok()?.timestamp());
    if text == "now" {
        return Some(now.timestamp());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    if let Ok(time) = text.parse::<civil::DateTime>() {
        return local(time);
    }
    let (day, rest) = text.split_once(' ').unwrap_or((text, ""));
    if let Some(day) = day_of(now, day) {
        let time = if rest.is_empty() { civil::Time::midnight() } else { time_of_day(rest)? };
        return local(day.to_datetime(time));
    }
    if let Some(time) = time_of_day(text) {
        return local(now.date().to_datetime(time));
    }
    let ago = SpanParser::new().parse_span(text.strip_suffix(" ago").unwrap_or(text)).ok()?;
    (!ago.is_negative()).then(|| now.checked_sub(ago).ok()).flatten().map(|then| then.timestamp())
}

/// Parses a day as a word, or as month and day: the last such day.
fn day_of(now: &Zoned, text: &str) -> Option<civil::Date> {
    match text {
        "today" => return Some(now.date()),
        "yesterday" => return now.date().checked_sub(1.day()).ok(),
        _ => {}
    }
    if text.len() != 5 {
        return None;
    }
    let in_year = |year: i16| format!("{year:04}-{text}").parse::<civil::Date>().ok();
    let years = [now.year(), now.year() - 1];
    years.into_iter().filter_map(in_year).find(|&day| day <= now.date())
}

/// Parses `9:00`, `09:00` or `09:00:30`.
fn time_of_day(text: &str) -> Option<civil::Time> {
    let (hour, minutes) = text.split_once(':')?;
    let is_number = !hour.is_empty()
        && hour.bytes().chain(minutes.bytes()).all(|byte| byte.is_ascii_digit() || byte == b':');
    format!("{hour:0>2}:{minutes}").parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<String> {
        let now: Zoned = "2026-03-29T12:00:00+02:00[Europe/Berlin]".parse().unwrap();
        time(&now, text).map(|time| time.round(Unit::Second).unwrap().to_string())
    }

    #[test]
    fn a_time_is_an_age_a_day_a_time_of_day_or_rfc_3339() {
        for (text, time) in [
            ("now", "2026-03-29T10:00:00Z"),
            ("2h", "2026-03-29T08:00:00Z"),
            ("2h ago", "2026-03-29T08:00:00Z"),
            ("1h 30m", "2026-03-29T08:30:00Z"),
            ("1h 30m ago", "2026-03-29T08:30:00Z"),
            // Daylight saving time began in this night, so the day is an hour short.
            ("today", "2026-03-28T23:00:00Z"),
            ("yesterday", "2026-03-27T23:00:00Z"),
            ("1d", "2026-03-28T11:00:00Z"),
            ("09:00", "2026-03-29T07:00:00Z"),
            ("9:00", "2026-03-29T07:00:00Z"),
            ("23:59:59", "2026-03-29T21:59:59Z"),
            ("today 00:30", "2026-03-28T23:30:00Z"),
            ("yesterday 14:30", "2026-03-28T13:30:00Z"),
            ("03-28 14:30", "2026-03-28T13:30:00Z"),
            ("03-28", "2026-03-27T23:00:00Z"),
            // This day is still to come this year.
            ("12-31 23:00", "2025-12-31T22:00:00Z"),
            ("2026-03-01", "2026-02-28T23:00:00Z"),
            ("2026-03-01 10:00", "2026-03-01T09:00:00Z"),
            ("2026-03-01T10:00:00", "2026-03-01T09:00:00Z"),
            ("2026-03-01T10:00:00Z", "2026-03-01T10:00:00Z"),
            ("2026-03-01T10:00:00+02:00", "2026-03-01T08:00:00Z"),
            ("2026-03-01 10:00:00Z", "2026-03-01T10:00:00Z"),
        ] {
            assert_eq!(at(text).as_deref(), Some(time), "{text}");
        }
        for nonsense in [
            "",
            "soon",
            "-2h",
            "2",
            "tomorrow",
            "2026-13-01",
            "25:00",
            "9",
            ":30",
            "yesterday noon",
            "13-01",
            "ago",
        ] {
            assert_eq!(at(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_printed_time_is_read_back_without_its_fraction() {
        let now: Zoned = "2026-03-29T12:00:00+02:00[Europe/Berlin]".parse().unwrap();
        let utc = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let mut clock = Clock { now: utc("2026-03-29T10:00:00Z"), zone: Some(now.time_zone().clone()) };
        for (stored, shown, read) in [
            ("2026-03-29T07:41:07.5Z", "09:41:07", "2026-03-29T07:41:07Z"),
            ("2026-03-28T13:30:07Z", "03-28 14:30", "2026-03-28T13:30:00Z"),
            ("2025-12-31T22:00:00Z", "12-31 23:00", "2025-12-31T22:00:00Z"),
            ("2025-02-01T09:00:00Z", "2025-02-01 10:00", "2025-02-01T09:00:00Z"),
            ("2026-03-30T08:00:00Z", "2026-03-30 10:00", "2026-03-30T08:00:00Z"),
        ] {
            assert_eq!(clock.time(utc(stored)), shown);
            assert_eq!(at(shown).as_deref(), Some(read), "{shown}");
        }
        clock.zone = None;
        assert_eq!(clock.time(utc("2026-03-29T07:41:07.5Z")), "2026-03-29 07:41:07Z");
    }

    #[test]
    fn an_age_has_one_unit_and_is_read_back() {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let clock = Clock { now, zone: None };
        let age = |seconds| clock.age(now - chrono::TimeDelta::seconds(seconds));
        let ages = [-5, 0, 1, 59, 60, 3_599, 3_600, 86_399, 86_400, 900_000].map(age);
        assert_eq!(ages, ["ahead", "now", "1s", "59s", "1m", "59m", "1h", "23h", "1d", "10d"]);
        assert!(ages[1..].iter().all(|age| at(age).is_some()));
    }
}
