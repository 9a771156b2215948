//! The times that the store holds, from the year 1 to 9999 UTC, in microseconds. Also the jitter of pauses.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// 0001-01-01 00:00:00
const FIRST: DateTime<Utc> = from_micros(-62_135_596_800_000_000);
/// 9999-12-31 23:59:59.999999
const LAST: DateTime<Utc> = from_micros(253_402_300_799_999_999);
/// A bound after `LAST` on both backends: the leap second at its end. PostgreSQL's driver sends it as the first
/// moment of the year 10000, and SQLite's driver prints it as 9999-12-31T23:59:60.
const END: DateTime<Utc> = match DateTime::from_timestamp(253_402_300_799, 1_000_000_000) {
    Some(time) => time,
    None => LAST,
};

const fn from_micros(micros: i64) -> DateTime<Utc> {
    match DateTime::from_timestamp_micros(micros) {
        Some(time) => time,
        None => DateTime::UNIX_EPOCH,
    }
}

/// Returns the time as PostgreSQL keeps it: in whole microseconds, with a leap second (23:59:60) as the first second
/// of the next minute.
pub(crate) fn to_microseconds(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}

/// Returns whether the store holds this time, which must be in microseconds.
pub(crate) fn is_held(time: DateTime<Utc>) -> bool {
    (FIRST..=LAST).contains(&time)
}

/// Returns the nearest time that the store holds.
pub(crate) fn clamp_to_range(time: DateTime<Utc>) -> DateTime<Utc> {
    to_microseconds(time).clamp(FIRST, LAST)
}

/// Returns a bound with which stored times compare as with `time`. It is rounded up, because no stored time lies
/// between `time` and the next microsecond.
pub(crate) fn to_bound(time: DateTime<Utc>) -> DateTime<Utc> {
    let is_finer = !time.timestamp_subsec_nanos().is_multiple_of(1_000);
    let bound = DateTime::from_timestamp_micros(time.timestamp_micros() + i64::from(is_finer));
    bound.filter(|&bound| bound <= LAST).map_or(END, clamp_to_range)
}

/// Returns a random pause between half of `pause` and `pause`, so that processes that started or failed together do
/// not stay in step.
pub(crate) fn jittered(pause: Duration) -> Duration {
    // The last 62 bits of a UUIDv7 are random.
    let random = Uuid::now_v7().as_u128() as u16;
    pause / 2 + pause / 2 / (1 << 16) * random.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_the_next_microsecond_and_never_outside_what_both_backends_compare() {
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        for (given, bound) in [
            (DateTime::<Utc>::MIN_UTC, FIRST),
            (FIRST, FIRST),
            (time("1969-12-31T23:59:59.999999001Z"), DateTime::UNIX_EPOCH),
            (time("2026-03-01T10:00:00.123456Z"), time("2026-03-01T10:00:00.123456Z")),
            (time("2026-03-01T10:00:00.123456001Z"), time("2026-03-01T10:00:00.123457Z")),
            (time("2016-12-31T23:59:60.5Z"), time("2017-01-01T00:00:00.5Z")),
            (LAST, LAST),
            (time("9999-12-31T23:59:59.999999001Z"), END),
            (DateTime::<Utc>::MAX_UTC, END),
        ] {
            assert_eq!(to_bound(given), bound, "{given}");
        }
    }
}
