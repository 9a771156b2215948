//! Claims, confirms and forgets the announcements of error groups.

use std::{ops::RangeInclusive, time::Duration};

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letter_announcements::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, Statement,
    prelude::DateTimeWithTimeZone,
    sea_query::{Asterisk, Expr, ExprTrait, Func, InsertStatement, OnConflict, Order, Query, UnionType},
};

use super::{
    SeaOrmDeadLetterRepo,
    conditions::any_of,
    connection::RepoConnection,
    dialect::Dialect,
    hidden_limits::{of_several_apps, shown},
    in_range, new_error_groups,
};
use crate::{
    AnnouncementClaim, DeadLetterRepoError, NewErrorGroup, NewErrorGroups, NewGroupRequest, NewGroupState,
    UnannouncedGroups, announce::OVERLAP, time::to_bound,
};

const LIMITS: RangeInclusive<u32> = 1..=1_000;
const MAX_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) async fn unannounced_groups<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    request: &NewGroupRequest,
) -> Result<UnannouncedGroups, DeadLetterRepoError> {
    new_error_groups::check(request)?;
    let (first_pending, as_of) = first_pending(repo).await?;
    let pending = first_pending.and_then(|first_seen| first_seen.checked_sub_signed(OVERLAP));
    let begin = pending.map_or(request.since, |pending| Ord::min(request.since, pending));
    let found = new_error_groups::find(repo, request, begin, true).await?;
    let NewErrorGroups { groups, scanned_back_to } = found;
    Ok(UnannouncedGroups { groups, scanned_back_to, as_of })
}

/// Returns the time of the first letter of the groups that were claimed and not announced, and the database's time.
async fn first_pending<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
) -> Result<(Option<DateTime<Utc>>, DateTime<Utc>), DeadLetterRepoError> {
    let dialect = repo.dialect()?;
    let first = Query::select()
        .expr(Func::min(Column::FirstSeen.into_expr()))
        .expr(dialect.now())
        .from(Entity)
        .and_where(COLUMN.announced_at.is_null())
        .take();
    // An aggregate without groups returns one row.
    let Some(row) = repo.db.query_one_raw(dialect.build(&first)).await? else {
        return Ok((None, Utc::now()));
    };
    let first_seen: Option<DateTimeWithTimeZone> = row.try_get_by_index(0)?;
    let now: DateTimeWithTimeZone = row.try_get_by_index(1)?;
    Ok((first_seen.map(|time| time.to_utc()), now.to_utc()))
}

/// Returns the condition of a row whose group may be claimed at the time `now`: its lease ran out before it was
/// announced, or it regressed after what was announced. `last_closed` is the close before the group's regression, or NULL
/// if it did not regress. The condition is never NULL.
pub(super) fn may_be_claimed(now: Expr, last_closed: impl Fn() -> Expr) -> Expr {
    let was_abandoned = of_row(Column::AnnouncedAt).is_null().and(of_row(Column::LeasedUntil).lte(now));
    let is_later = of_row(Column::LastClosedAt).is_null().or(of_row(Column::LastClosedAt).lt(last_closed()));
    let regressed_since =
        of_row(Column::AnnouncedAt).is_not_null().and(last_closed().is_not_null()).and(is_later);
    was_abandoned.or(regressed_since)
}

/// Returns the condition of the row of this group.
pub(super) fn is_row_of(app_id: Expr, group_key: Expr) -> Expr {
    of_row(Column::AppId).eq(app_id).and(of_row(Column::GroupKey).eq(group_key))
}

fn of_row(column: Column) -> Expr {
    Expr::col((Entity, column))
}

pub(super) async fn claim_announcement<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    group: &NewErrorGroup,
    lease: Duration,
) -> Result<Option<AnnouncementClaim>, DeadLetterRepoError> {
    let dialect = repo.dialect()?;
    let claimed = repo.db.query_all_raw(dialect.build(&claim(dialect, group, lease))).await?;
    let Some(row) = claimed.first() else { return Ok(None) };
    let claimed_at: DateTimeWithTimeZone = row.try_get_by_index(0)?;
    Ok(Some(AnnouncementClaim::new(group, claimed_at.to_utc())))
}

fn claim(dialect: Dialect, group: &NewErrorGroup, lease: Duration) -> InsertStatement {
    let is_regressed = group.state == NewGroupState::Regressed;
    let last_closed_at = group.last_closed_at.filter(|_| is_regressed);
    // The times are in the row. Citus refuses functions in the parts of ON CONFLICT.
    let row: [(Column, Expr); 6] = [
        (Column::AppId, group.app_id.into_inner().into()),
        (Column::GroupKey, group.group_key.clone().into()),
        (Column::FirstSeen, group.first_seen.into()),
        (Column::LastClosedAt, last_closed_at.into()),
        (Column::ClaimedAt, dialect.now()),
        (Column::LeasedUntil, dialect.now_and(Ord::min(lease, MAX_LEASE))),
    ];
    let new = |column: Column| Expr::col(("excluded", column));
    let last_closed = Func::coalesce([new(Column::LastClosedAt), of_row(Column::LastClosedAt)]);
    let if_claimable = OnConflict::columns([Column::AppId, Column::GroupKey])
        .update_columns([Column::FirstSeen, Column::ClaimedAt, Column::LeasedUntil])
        .value(Column::LastClosedAt, last_closed)
        .value(Column::AnnouncedAt, None::<DateTime<Utc>>)
        .action_and_where(may_be_claimed(new(Column::ClaimedAt), || new(Column::LastClosedAt)))
        .to_owned();
    let (columns, values): (Vec<_>, Vec<_>) = row.into_iter().unzip();
    let mut insert = Query::insert();
    insert.into_table(Entity).columns(columns);
    // There are as many columns as values, so this does not fail.
    insert.values(values).ok();
    insert.on_conflict(if_claimable).returning_col(Column::ClaimedAt).take()
}

pub(super) async fn confirm_announcement<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    claim: &AnnouncementClaim,
) -> Result<bool, DeadLetterRepoError> {
    let dialect = repo.dialect()?;
    let confirm = Query::update()
        .table(Entity)
        .value(Column::AnnouncedAt, dialect.now())
        .and_where(COLUMN.app_id.eq(claim.app_id.into_inner()))
        .and_where(COLUMN.group_key.eq(claim.group_key.as_str()))
        .and_where(COLUMN.claimed_at.eq(claim.claimed_at))
        .take();
    Ok(repo.db.execute_raw(dialect.build(&confirm)).await?.rows_affected() > 0)
}

pub(super) async fn sweep_announcements<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    announced_before: DateTime<Utc>,
    abandoned_before: DateTime<Utc>,
    limit: u32,
) -> Result<u64, DeadLetterRepoError> {
    let limit = in_range("limit", limit, LIMITS)?;
    let sweep = sweep(repo.dialect()?, to_bound(announced_before), to_bound(abandoned_before), limit.into());
    Ok(repo.db.execute_raw(sweep).await?.rows_affected())
}

fn sweep(
    dialect: Dialect,
    announced_before: DateTime<Utc>,
    abandoned_before: DateTime<Utc>,
    limit: u64,
) -> Statement {
    let is_old = || {
        Condition::all().add(COLUMN.announced_at.is_not_null()).add(COLUMN.announced_at.lt(announced_before))
    };
    let is_abandoned =
        || Condition::all().add(COLUMN.announced_at.is_null()).add(COLUMN.leased_until.lt(abandoned_before));
    // PostgreSQL may join keys by reading all rows, and reads the rows at these places alone.
    let place: &[&'static str] =
        if dialect == Dialect::Postgres { &["ctid"] } else { &["app_id", "group_key"] };
    let places = || place.iter().copied();
    let first = |condition, order| {
        let first = Query::select()
            .columns(places())
            .from(Entity)
            .cond_where(condition)
            .order_by(order, Order::Asc)
            .limit(limit)
            .take();
        Query::select().column(Asterisk).from_subquery(first, "first").take()
    };
    let due = first(is_old(), Column::AnnouncedAt)
        .union(UnionType::All, first(is_abandoned(), Column::FirstSeen))
        .take();
    let due = Query::select().columns(places()).from_subquery(due, "due").limit(shown(limit)).take();
    let is_due = match dialect {
        Dialect::Postgres => Expr::col("ctid").eq(any_of(due)),
        Dialect::Sharded | Dialect::Sqlite => Expr::tuple(places().map(Expr::col)).in_subquery(due),
    };
    let delete = Query::delete()
        .from_table(Entity)
        .and_where(is_due)
        // A group that is claimed meanwhile stays.
        .cond_where(Condition::any().add(is_old()).add(is_abandoned()))
        .take();
    of_several_apps(dialect, &delete)
}
