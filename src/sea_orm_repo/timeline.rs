//! Counts letters by time.

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::Column;
use sea_orm::{
    ColumnTrait, DbErr, QueryResult,
    prelude::DateTimeWithTimeZone,
    sea_query::{Asterisk, Expr, ExprTrait, Func, Query},
};

use super::{SeaOrmDeadLetterRepo, connection::RepoConnection, dialect::Dialect, in_range};
use crate::{
    AppId, Bucket, Buckets, DeadLetterFilter, DeadLetterRepoError, Timeline, TimelineRequest,
    time::{to_bound, to_microseconds},
};

pub(super) async fn timeline<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    filter: &DeadLetterFilter,
    request: &TimelineRequest,
) -> Result<Timeline, DeadLetterRepoError> {
    let dialect = repo.dialect()?;
    let &TimelineRequest { buckets: Buckets { from, until, .. }, scan_limit } = request;
    let buckets = Bins::new(request.buckets, dialect)?;
    let filter = DeadLetterFilter {
        created_from: Ord::max(Some(from), filter.created_from),
        created_before: Some(filter.created_before.map_or(until, |before| Ord::min(before, until))),
        ..filter.clone()
    };
    let mut matching = repo.bounded(repo.matching(app_id, &filter)?, scan_limit).await?;
    let counts = Query::select()
        .expr_as(buckets.bucket(), "bucket")
        .expr(Func::count(Expr::col(Asterisk)))
        .apply(|query| matching.select_all(query))
        // The position, because a name would mean a column that a service added to the table.
        .add_group_by([Expr::Constant(1.into())])
        .take();
    let mut timeline = buckets.empty();
    for row in matching.fetch(&repo.db, counts).await? {
        let count = row.try_get_by_index::<i64>(1)?.unsigned_abs();
        buckets.put(&row, count, &mut timeline)?;
    }
    Ok(Timeline { buckets: timeline, scanned_back_to: matching.scanned_back_to() })
}

/// Checked buckets, with their width.
#[derive(Clone, Copy)]
pub(super) struct Bins {
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    /// In microseconds.
    width: i64,
    number: u32,
    dialect: Dialect,
}

impl Bins {
    pub(super) fn new(request: Buckets, dialect: Dialect) -> Result<Self, DeadLetterRepoError> {
        let number = in_range("buckets.count", request.count, 1..=1_000)?;
        if request.from > request.until {
            let Buckets { from, until, .. } = request;
            return Err(DeadLetterRepoError::FromAfterUntil { from, until });
        }
        let (from, until) = (to_bound(request.from), to_bound(request.until));
        let micros = until.timestamp_micros() - from.timestamp_micros();
        // The width is rounded up, so that the last bucket reaches the end.
        let width = (micros + i64::from(number) - 1) / i64::from(number);
        Ok(Self { from, until, width: Ord::max(width, 1), number, dialect })
    }

    /// Returns the condition of a row that was created within the range.
    pub(super) fn holds(&self) -> Expr {
        Column::CreatedAt.gte(self.from).and(Column::CreatedAt.lt(self.until))
    }

    /// Returns the bucket of a row that was created within the range: its start on PostgreSQL, its number on
    /// SQLite.
    pub(super) fn bucket(&self) -> Expr {
        let created_at = || Column::CreatedAt.into_expr();
        if self.dialect != Dialect::Sqlite {
            let (days, micros) = (self.width / MICROS_PER_DAY, self.width % MICROS_PER_DAY);
            let width = format!("{days} days {}.{:06} seconds", micros / MICROS, micros % MICROS);
            let width = Expr::val(width).cast_as("interval");
            return Func::cust("date_bin")
                .args([width, created_at(), to_microseconds(self.from).into()])
                .into();
        }
        // SQLite's own functions have only milliseconds.
        let part = |from: i32, length: i32| {
            Expr::from(Func::cust("substr").args([created_at(), from.into(), length.into()]))
        };
        let seconds = Expr::from(Func::cust("unixepoch").arg(part(1, 19)));
        let micros = part(20, 7).cast_as("real").mul(MICROS).add(0.5).cast_as("integer");
        seconds.mul(MICROS).add(micros).sub(self.from.timestamp_micros()).div(self.width)
    }

    pub(super) fn empty(&self) -> Vec<Bucket> {
        let start = |number: i64| {
            let micros = self.from.timestamp_micros() + number * self.width;
            DateTime::from_timestamp_micros(micros).unwrap_or(self.until)
        };
        (0..self.number.into()).map(|number| Bucket { from: start(number), count: 0 }).collect()
    }

    /// Adds the count to the bucket that the row names, if it names one.
    pub(super) fn put(&self, row: &QueryResult, count: u64, timeline: &mut [Bucket]) -> Result<(), DbErr> {
        let number = if self.dialect != Dialect::Sqlite {
            let start = row.try_get::<Option<DateTimeWithTimeZone>>("", "bucket")?;
            start.map(|start| (start.timestamp_micros() - self.from.timestamp_micros()) / self.width)
        } else {
            row.try_get::<Option<i64>>("", "bucket")?
        };
        let number = number.and_then(|number| usize::try_from(number).ok());
        if let Some(bucket) = number.and_then(|number| timeline.get_mut(number)) {
            bucket.count += count;
        }
        Ok(())
    }
}

const MICROS: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS;
