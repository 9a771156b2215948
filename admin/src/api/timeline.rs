//! Letters over time.

use axum::Json;
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use dead_letters::{Buckets, TimelineRequest};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    filter::{Filter, Scan, unpaged},
    model::Bucket,
};
use crate::{
    access::Access,
    input::{AppPath, Fields, Query},
    problem::Problem,
};

const BUCKETS: u32 = 96;
const SPAN: TimeDelta = TimeDelta::days(1);
/// The default end is rounded up to this step, so that a repeated request in the same step gets the same response (304).
const STEP: TimeDelta = TimeDelta::minutes(15);
const A_TIME: &str = "must be a time in RFC 3339 format";

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TimelineQuery {
    /// When the first bucket begins, by default a day before `until`.
    from: Option<DateTime<Utc>>,
    /// When the last bucket ends, by default at the end of the current quarter of an hour.
    until: Option<DateTime<Utc>>,
    /// The number of buckets, which have the same width. It is 96 by default.
    #[param(minimum = 1, maximum = 1_000)]
    buckets: Option<u32>,
}

impl TimelineQuery {
    pub(super) fn read(fields: &mut Fields) -> Result<Self, Problem> {
        Ok(Self {
            from: fields.parse("from", A_TIME)?,
            until: fields.parse("until", A_TIME)?,
            buckets: fields.parse("buckets", "must be between 1 and 1,000")?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self { from: None, until: None, buckets: None })
    }

    pub(super) fn buckets(self, now: DateTime<Utc>) -> Buckets {
        let until = self.until.unwrap_or_else(|| now.duration_round_up(STEP).unwrap_or(now));
        let a_day_before = || until.checked_sub_signed(SPAN).unwrap_or(until);
        let from = self.from.unwrap_or_else(a_day_before);
        Buckets::new(from..until, self.buckets.unwrap_or(BUCKETS))
    }
}

/// The number of letters per time bucket.
#[derive(Serialize, ToSchema)]
pub(super) struct Timeline {
    /// The buckets, oldest first, including empty ones.
    items: Vec<Bucket>,
    /// Where the scan limit stopped the call. Letters that were stored earlier are not counted. Null if every matching
    /// letter is counted.
    scanned_back_to: Option<DateTime<Utc>>,
}

/// Counts matching letters over time
///
/// Besides the parameters below, each field `metadata.KEY=VALUE` selects the letters whose metadata has this text as the
/// value of this key: see `Filter`.
#[utoipa::path(
    get,
    path = "/api/apps/{dead_letters_app}/timeline",
    params(("dead_letters_app" = Uuid, Path, description = "The app."), Filter, Scan, TimelineQuery),
    responses((status = 200, description = "The number of letters per time bucket.", body = Timeline))
)]
pub(super) async fn timeline(
    access: Access,
    AppPath(app_id): AppPath,
    Query(mut fields): Query,
) -> Result<Json<Timeline>, Problem> {
    let access = access.app(app_id)?;
    let buckets = TimelineQuery::read(&mut fields)?.buckets(Utc::now());
    let (filter, Scan { scan_limit }) = unpaged(fields, &access)?;
    let request = TimelineRequest::from(buckets).scan_limit(scan_limit);
    let timeline = access.store().timeline(app_id, &filter, &request).await?;
    Ok(Json(Timeline {
        items: timeline.buckets.into_iter().map(Bucket::from).collect(),
        scanned_back_to: timeline.scanned_back_to,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn the_default_timeline_is_the_last_day_to_the_end_of_a_quarter_of_an_hour() {
        let query = TimelineQuery { from: None, until: None, buckets: None };
        let buckets = query.buckets(time("2026-03-01T10:07:12.5Z"));
        let (from, until) = (time("2026-02-28T10:15:00Z"), time("2026-03-01T10:15:00Z"));
        assert_eq!(buckets, Buckets::new(from..until, 96));
    }

    #[test]
    fn the_day_before_the_first_of_all_times_is_that_time() {
        let query = TimelineQuery { from: None, until: Some(DateTime::<Utc>::MIN_UTC), buckets: Some(1) };
        assert_eq!(query.buckets(Utc::now()).from, DateTime::<Utc>::MIN_UTC);
    }
}
