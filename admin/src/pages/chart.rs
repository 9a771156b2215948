//! Charts of failures over time, as SVG. The bars have their size in attributes, because the content security policy
//! forbids inline styles.

use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::{AppId, Bucket, Buckets, DeadLetterFilter, Timeline};

use super::text::{Amount, Time};
use crate::urls::Root;

const DAY: TimeDelta = TimeDelta::days(1);
/// The tallest bar's height.
const HEIGHT: u64 = 48;
/// Width of a bar with the gap behind it.
const WIDTH: usize = 10;
const SPARK_HEIGHT: u64 = 24;
const SPARK_WIDTH: usize = 5;

/// Returns the buckets of the day that ends with the current bucket. It stays the same until the next bucket begins.
pub(crate) fn last_day(now: DateTime<Utc>, count: u32) -> Buckets {
    let bucket = DAY.num_seconds() / i64::from(count.max(1));
    let until = (now.timestamp().div_euclid(bucket) + 1) * bucket;
    let until = DateTime::from_timestamp(until, 0).unwrap_or(now);
    // The earliest time has no day before it.
    Buckets::new(until.checked_sub_signed(DAY).unwrap_or(until)..until, count)
}

/// The chart of a list. Each bar links to its letters.
pub(crate) struct Chart {
    pub(crate) bars: Vec<Bar>,
    /// The hours that have letters, for those who can't point at a bar.
    pub(crate) hours: Vec<Hour>,
    pub(crate) from: Time,
    pub(crate) total: Amount,
    pub(crate) most: Amount,
    /// Where the scan limit stopped the count. Earlier bars are incomplete.
    pub(crate) scanned_back_to: Option<Time>,
}

/// The bar of a bucket that has letters.
pub(crate) struct Bar {
    pub(crate) path: String,
    pub(crate) from: Time,
    pub(crate) title: String,
    pub(crate) address: String,
    /// Whether the filter excludes the bar's letters.
    pub(crate) is_dim: bool,
}

pub(crate) struct Hour {
    pub(crate) from: Time,
    pub(crate) address: String,
    pub(crate) count: Amount,
}

impl Chart {
    pub(crate) const BUCKETS: u32 = 96;
    const BUCKETS_AN_HOUR: usize = 4;

    pub(crate) fn new(
        timeline: &Timeline,
        request: &Buckets,
        root: &Root,
        app_id: AppId,
        filter: &DeadLetterFilter,
        now: DateTime<Utc>,
    ) -> Self {
        let most = most(&timeline.buckets);
        let ends = timeline.buckets.iter().skip(1).map(|next| next.from).chain([request.until]);
        let is_dim = |from, until| {
            filter.created_from.is_some_and(|bound| until <= bound)
                || filter.created_before.is_some_and(|bound| from >= bound)
        };
        // The current bucket has no end, unless the operator chose one ahead. An end ahead would become the cutoff of a
        // bulk run, which then could change letters that fail after its preview.
        let letters = |from: DateTime<Utc>, until: DateTime<Utc>| {
            let before = match until > now {
                true => filter.created_before.filter(|&before| before > now),
                false => Some(until),
            };
            root.letters(app_id, &filter.clone().created_from(from).created_before(before).into())
        };
        let bar = |(place, (bucket, until)): (usize, (&Bucket, DateTime<Utc>))| Bar {
            path: path(place, WIDTH, bucket.count, most, HEIGHT),
            from: Time(bucket.from),
            title: format!("{}: {}", Time(bucket.from).plain(), Amount::exactly(bucket.count).letters()),
            address: letters(bucket.from, until),
            is_dim: is_dim(bucket.from, until),
        };
        let hour = |buckets: &[Bucket], until| {
            let from = buckets.first()?.from;
            let count = buckets.iter().map(|bucket| bucket.count).sum();
            let address = letters(from, until);
            (count > 0).then(|| Hour { from: Time(from), address, count: Amount::exactly(count) })
        };
        let hours = timeline.buckets.chunks(Self::BUCKETS_AN_HOUR);
        let hour_ends = hours.clone().skip(1).filter_map(|next| Some(next.first()?.from));
        let hours = hours.zip(hour_ends.chain([request.until]));
        let hours = hours.filter_map(|(buckets, until)| hour(buckets, until)).collect();
        let buckets = timeline.buckets.iter().zip(ends).enumerate();
        Self {
            hours,
            bars: buckets.filter(|(_, (bucket, _))| bucket.count > 0).map(bar).collect(),
            from: Time(request.from),
            total: Amount {
                count: timeline.buckets.iter().map(|bucket| bucket.count).sum(),
                capped: timeline.scanned_back_to.is_some(),
            },
            most: Amount::exactly(most),
            scanned_back_to: timeline.scanned_back_to.map(Time),
        }
    }
}

/// The small chart of an error group.
pub(crate) struct Spark {
    pub(crate) path: String,
    pub(crate) most: Amount,
}

impl Spark {
    pub(crate) const BUCKETS: u32 = 24;

    pub(crate) fn new(buckets: &[Bucket]) -> Self {
        let most = most(buckets);
        let bars = buckets.iter().enumerate().filter(|(_, bucket)| bucket.count > 0);
        let path = bars.fold(String::new(), |mut all, (place, bucket)| {
            all.push_str(&path(place, SPARK_WIDTH, bucket.count, most, SPARK_HEIGHT));
            all
        });
        Self { path, most: Amount::exactly(most) }
    }
}

fn most(buckets: &[Bucket]) -> u64 {
    buckets.iter().map(|bucket| bucket.count).max().unwrap_or_default()
}

/// Returns the path of a bar. It is at least two units tall, so that one failure is visible beside a thousand.
fn path(place: usize, width: usize, count: u64, most: u64, height: u64) -> String {
    let tall = (count * height).div_ceil(most.max(1)).max(2);
    let (left, inner) = (place * width, width - width.div_ceil(5));
    let mut path = String::new();
    // Writing to a string never fails.
    let _ = write!(path, "M{left} {height}v-{tall}h{inner}v{tall}z");
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_the_same_until_the_next_bucket_begins() {
        let at = |time: &str| last_day(time.parse().unwrap(), Chart::BUCKETS);
        let request = at("2026-11-24T23:28:10Z");
        assert_eq!(request.until, "2026-11-24T23:30:00Z".parse::<DateTime<Utc>>().unwrap());
        assert_eq!(request.from, "2026-11-23T23:30:00Z".parse::<DateTime<Utc>>().unwrap());
        assert_eq!(at("2026-11-24T23:29:59.999999Z"), request);
        assert_ne!(at("2026-11-24T23:30:00Z"), request);
    }

    #[test]
    fn the_first_and_the_last_of_all_times_have_a_day_too() {
        let ends = [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC];
        for now in ends {
            let request = last_day(now, Chart::BUCKETS);
            assert!(request.from <= request.until, "{request:?}");
        }
    }

    #[test]
    fn the_tallest_bar_fills_the_height_and_the_smallest_is_seen() {
        assert_eq!(path(2, WIDTH, 7, 7, HEIGHT), "M20 48v-48h8v48z");
        assert_eq!(path(0, WIDTH, 1, 1_000_000, HEIGHT), "M0 48v-2h8v2z");
    }
}
