//! Letters per time bucket, for a chart.

use std::ops::Range;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::setters::setters;

/// A time range that is split into buckets of the same width: `from` or later, and before `until`. Deserializing an
/// unknown field is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Buckets {
    /// When the first bucket begins.
    pub from: DateTime<Utc>,
    /// When the last bucket ends.
    pub until: DateTime<Utc>,
    /// How many buckets, 1 to 1,000. All have the same width, in whole microseconds.
    pub count: u32,
}

impl Buckets {
    /// Splits a time range into this many buckets.
    ///
    /// # Examples
    ///
    /// ```
    /// use chrono::{DateTime, TimeDelta, Utc};
    /// use dead_letters::{Buckets, TimelineRequest};
    ///
    /// let day: DateTime<Utc> = "2026-03-01T00:00:00Z".parse()?;
    /// let hours = Buckets::new(day..day + TimeDelta::days(1), 24);
    /// let request = TimelineRequest::from(hours).scan_limit(100_000);
    /// assert_eq!(request.buckets.until, day + TimeDelta::days(1));
    /// # Ok::<(), chrono::ParseError>(())
    /// ```
    pub fn new(range: Range<DateTime<Utc>>, count: u32) -> Self {
        Self { from: range.start, until: range.end, count }
    }
}

/// The buckets of a [`timeline`](crate::DeadLetterRead::timeline). Deserializing an unknown field is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TimelineRequest {
    /// The buckets to count.
    pub buckets: Buckets,
    /// How many letters the call may examine, at least 1. `None` is no limit.
    #[serde(default)]
    pub scan_limit: Option<u32>,
}

/// Makes a request without a scan limit.
impl From<Buckets> for TimelineRequest {
    fn from(buckets: Buckets) -> Self {
        Self { buckets, scan_limit: None }
    }
}

setters! { TimelineRequest { some scan_limit: u32 } }

/// How many letters were created in each time bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Timeline {
    /// The buckets, oldest first.
    pub buckets: Vec<Bucket>,
    /// Where the scan limit stopped the call: the `created_at` of the last examined letter, or its `resolved_at` if
    /// the filter's state is closed. Earlier letters are not counted. `None` if nothing was left out.
    pub scanned_back_to: Option<DateTime<Utc>>,
}

/// A bucket of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Bucket {
    /// When the bucket begins. It ends when the next one begins, and the last one ends at the request's `until`.
    pub from: DateTime<Utc>,
    /// How many letters were created in the bucket.
    pub count: u64,
}
