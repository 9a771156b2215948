//! Finds the error groups that are new or regressed.

use std::{cmp::Reverse, collections::BTreeSet};

use chrono::{DateTime, Utc};
use dead_letters_entity::{
    dead_letter_announcements as announcements,
    dead_letters::{Column, Entity},
};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, FromQueryResult,
    prelude::DateTimeWithTimeZone,
    sea_query::{
        Asterisk, CaseStatement, CommonTableExpression, Expr, ExprTrait, Func, JoinType, Order, Query,
        SelectStatement, WindowStatement, WithClause,
    },
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    announcements::{is_row_of, may_be_claimed},
    conditions::is_erased,
    connection::RepoConnection,
    convert::{beginning_of_name, by_position, ends_of_error, join_ends, to_name},
    dialect::Dialect,
    error_groups::{has_regressed, if_closed, if_open},
    hidden_limits::{shown, with_hidden_limits},
    in_range,
    parts::{by_time, first},
    scan::SCANS,
};
use crate::{
    AppId, DeadLetterRepoError, NewErrorGroup, NewErrorGroups, NewGroupRequest, NewGroupState,
    page::PAGE_SIZES, signature::error_message, time::to_bound,
};

pub(super) async fn new_error_groups<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    request: &NewGroupRequest,
) -> Result<NewErrorGroups, DeadLetterRepoError> {
    check(request)?;
    find(repo, request, request.since, false).await
}

/// Returns an error if the request is invalid.
pub(super) fn check(request: &NewGroupRequest) -> Result<(), DeadLetterRepoError> {
    in_range("limit", request.limit, PAGE_SIZES)?;
    in_range("scan_limit", request.scan_limit, SCANS)?;
    if request.since > Utc::now() {
        return Err(DeadLetterRepoError::SinceInFuture(request.since));
    }
    Ok(())
}

/// Finds the groups of a checked request, among letters from `begin` on.
///
/// With `unannounced` it leaves out those that may not be claimed. Only a group that was claimed and not announced is then
/// found for letters before the request's `since`.
pub(super) async fn find<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    request: &NewGroupRequest,
    begin: DateTime<Utc>,
    unannounced: bool,
) -> Result<NewErrorGroups, DeadLetterRepoError> {
    let &NewGroupRequest { since, ref among, scan_limit, limit, open } = request;
    // A group that is neither new nor regressed is not announced.
    let open = open && !unannounced;
    let (since, begin) = (to_bound(since), to_bound(begin));
    let look = Look { dialect: repo.dialect()?, since, begin, limit, open, unannounced };
    let mut found = NewErrorGroups::default();
    let Some(among) = among else {
        look.at(repo, None, scan_limit, &mut found).await?;
        return Ok(found);
    };
    let among: BTreeSet<_> = among.iter().copied().collect();
    let mut left = scan_limit;
    for (app_id, apps) in among.iter().zip((1..=among.len() as u32).rev()) {
        let share = Ord::max(left / apps, 1);
        left = left.saturating_sub(look.at(repo, Some(*app_id), share, &mut found).await?);
    }
    found.groups.sort_by(|a, b| order(a).cmp(&order(b)));
    found.groups.truncate(limit as usize);
    Ok(found)
}

/// Returns what sorts the groups as [`in_order`] does.
fn order(group: &NewErrorGroup) -> impl Ord {
    let is_known = group.state == NewGroupState::Known;
    let open = Reverse(if is_known { group.open } else { 0 });
    (is_known, open, Reverse(group.first_seen), group.app_id, &group.group_key)
}

struct Look {
    dialect: Dialect,
    since: DateTime<Utc>,
    /// The time of the oldest letters that count. It is before `since` if a group was claimed and not announced.
    begin: DateTime<Utc>,
    limit: u32,
    open: bool,
    unannounced: bool,
}

impl Look {
    /// Adds the groups of one app, or of all apps, and returns how many letters were examined.
    async fn at<C: RepoConnection>(
        &self,
        repo: &SeaOrmDeadLetterRepo<C>,
        app_id: Option<AppId>,
        scan: u32,
        found: &mut NewErrorGroups,
    ) -> Result<u32, DeadLetterRepoError> {
        let groups = with_hidden_limits(self.dialect, &self.groups(app_id, scan));
        let mut examined = 0;
        for row in repo.db.query_all_raw(groups).await? {
            examined = u32::try_from(row.try_get::<i64>("", READ)?).map_or(scan, |read| Ord::min(read, scan));
            let end = row.try_get::<Option<DateTimeWithTimeZone>>("", END_TIME)?.map(|end| end.to_utc());
            found.scanned_back_to = Ord::max(found.scanned_back_to, end);
            // The LEFT JOIN returns one row if there is no group.
            if row.try_get::<Option<i64>>("", LETTERS)?.is_some() {
                let group = NewGroupRow::from_query_result(&row, "")?;
                let since = if group.first_seen >= self.since { self.since } else { self.begin };
                found.groups.push(group.into_group(end.is_none_or(|end| end < since)));
            }
        }
        Ok(examined)
    }

    /// Selects the groups, with the end of the scan on each row.
    fn groups(&self, app_id: Option<AppId>, scan: u32) -> SelectStatement {
        let cte = |name: &'static str, query| {
            CommonTableExpression::new().table_name(name).query(query).materialized(true).to_owned()
        };
        let mut with = WithClause::new();
        with.cte(cte(SCANNED, self.scanned(app_id, scan)));
        if self.joins_announcements() {
            with.cte(cte(GROUPED, self.grouped(scan))).cte(cte(ANNOUNCED, self.announced(app_id)));
        }
        with.cte(cte(PICKED, self.picked(scan)));
        let letter = |column: Column| Expr::col(("newest", column));
        let of_shard = app_id.and_then(|app_id| self.dialect.shard(app_id));
        let is_newest = Condition::all()
            .add(letter(Column::Id).eq(Expr::col((PICKED, "newest_id"))))
            .add(letter(Column::AppId).eq(Expr::col((PICKED, Column::AppId))))
            .add_option(of_shard.map(|app_id| letter(Column::AppId).eq(app_id.into_inner())));
        let [start_of_error, end_of_error] = ends_of_error(letter(Column::LastError));
        let mut groups = Query::select();
        groups
            .expr(beginning_of_name(letter(Column::Source)))
            .expr(beginning_of_name(letter(Column::Op)))
            .column(("newest", Column::ScriptId))
            .expr(beginning_of_name(letter(Column::ErrorSignature)))
            .expr(start_of_error)
            .expr(end_of_error)
            .expr(beginning_of_name(Expr::col((PICKED, Column::GroupKey))))
            .columns(OF_GROUP.map(|column| (PICKED, column)))
            .columns([(END, READ), (END, END_TIME)])
            .from_subquery(end(scan), END)
            .join(JoinType::LeftJoin, PICKED, Expr::Constant(true.into()))
            .join_as(JoinType::LeftJoin, Entity, "newest", is_newest)
            .with_cte(with);
        in_order(&mut groups);
        groups
    }

    /// Selects the newest letters of one app, or of all apps, and one letter more, which shows whether the scan limit
    /// left any out.
    fn scanned(&self, app_id: Option<AppId>, scan: u32) -> SelectStatement {
        let mut columns = Query::select();
        columns.columns([
            Column::AppId,
            Column::GroupKey,
            Column::Id,
            Column::CreatedAt,
            Column::ResolvedAt,
            Column::Resolution,
            Column::PayloadKind,
        ]);
        let newest_first = by_time(Column::CreatedAt, Order::Desc);
        let rows = u64::from(scan) + 1;
        let newest = match app_id {
            Some(app_id) => {
                let of_app = Condition::all().add(Column::AppId.eq(app_id.into_inner()));
                first(self.dialect, vec![of_app], &newest_first, rows, &columns)
            }
            // The limit is visible, because there is no condition that PostgreSQL could take for a rare one.
            None => columns
                .from(Entity)
                .order_by_expr(time_in_index(self.dialect), Order::Desc)
                .order_by(Column::Id, Order::Desc)
                .limit(shown(rows))
                .take(),
        };
        let mut position = WindowStatement::new();
        for (column, order) in newest_first {
            position.order_by(column, order);
        }
        Query::select()
            .columns([Column::AppId, Column::GroupKey, Column::Id, Column::CreatedAt])
            .expr_as(if_closed(Column::ResolvedAt.into_expr()), "closed_at")
            .expr_as(if_open(Column::CreatedAt.into_expr()), "open_at")
            .expr_as(CaseStatement::new().case(is_erased().not(), Expr::Constant(1.into())), "kept")
            .expr_window_as(Func::cust("row_number"), position, POSITION)
            .from_subquery(newest, Entity)
            .take()
    }

    /// Selects the groups of the scanned letters that are new or regressed, or those that have open letters.
    fn picked(&self, scan: u32) -> SelectStatement {
        let is_wanted = match self.open {
            true => of_group(OPEN).gt(Expr::Constant(0.into())),
            false => of_group(KNOWN).not(),
        };
        let mut picked = Query::select();
        picked
            .columns([Column::AppId, Column::GroupKey].map(|column| (PICKED, column)))
            .columns(
                [LETTERS, OPEN, "first_seen", "last_seen", "last_closed_at"].map(|column| (PICKED, column)),
            )
            .columns([REGRESSED, KNOWN].map(|column| (PICKED, column)))
            .expr_as(Expr::col((SCANNED, Column::Id)), "newest_id");
        if self.joins_announcements() {
            let is_same = [Column::AppId, Column::GroupKey]
                .map(|column| Expr::col((ANNOUNCED, column)).eq(Expr::col((PICKED, column))));
            let is_same = is_same.into_iter().fold(Condition::all(), Condition::add);
            picked
                .from_as(GROUPED, PICKED)
                .join(JoinType::LeftJoin, ANNOUNCED, is_same)
                .and_where(or_without_row(Expr::col((ANNOUNCED, CLAIMABLE))));
        } else {
            picked.from_subquery(self.grouped(scan), PICKED);
            if self.unannounced {
                picked.and_where(self.may_be_claimed());
            }
        }
        picked
            .join(JoinType::InnerJoin, SCANNED, Expr::col((SCANNED, POSITION)).eq(of_group(POSITION)))
            .and_where(of_group(LETTERS).gt(Expr::Constant(0.into())))
            .and_where(is_wanted)
            // The limit is visible, so that PostgreSQL expects few groups. Otherwise it would read the whole table for
            // their newest letters.
            .limit(shown(self.limit.into()));
        in_order(&mut picked);
        picked
    }

    /// Selects the groups of the scanned letters.
    fn grouped(&self, scan: u32) -> SelectStatement {
        let is_counted = match self.open {
            true => Expr::Constant(true.into()),
            false => Expr::col("created_at").gte(self.begin),
        };
        let if_counted = |then: Expr| CaseStatement::new().case(is_counted.clone(), then);
        // A group that is wanted for its open letters is shown by the newest of them.
        let is_sample = match self.open {
            true => Expr::col("kept").is_not_null().and(Expr::col("open_at").is_not_null()),
            false => Expr::col("kept").is_not_null(),
        };
        let is_candidate = match self.open {
            true => Expr::col("open_at").is_not_null(),
            false => Expr::Constant(true.into()),
        };
        let position_if = |is: Expr| Func::min(CaseStatement::new().case(is, Expr::col(POSITION)));
        let oldest = || Expr::from(Func::min(Expr::col("created_at")));
        let last_closed = || Expr::from(Func::max(Expr::col("closed_at")));
        let regressed = || has_regressed(last_closed(), Func::min(Expr::col("open_at")).into());
        let is_known = |since: DateTime<Utc>| oldest().lt(since).and(regressed().not());
        let mut grouped = Query::select();
        if self.unannounced {
            grouped.expr_as(is_known(self.since), KNOWN_SINCE);
        }
        grouped
            .columns([Column::AppId, Column::GroupKey])
            .expr_as(
                Func::coalesce([position_if(is_sample), position_if(is_candidate)].map(Expr::from)),
                POSITION,
            )
            .expr_as(Func::count(if_counted(Expr::Constant(1.into()))), LETTERS)
            .expr_as(Func::count(if_counted(Expr::col("open_at"))), OPEN)
            .expr_as(Func::min(if_counted(Expr::col("created_at"))), "first_seen")
            .expr_as(Func::max(Expr::col("created_at")), "last_seen")
            .expr_as(last_closed(), "last_closed_at")
            .expr_as(regressed(), REGRESSED)
            .expr_as(is_known(self.begin), KNOWN)
            .from(SCANNED)
            .and_where(Expr::col(POSITION).lte(i64::from(scan)))
            .group_by_columns([Column::AppId, Column::GroupKey])
            .take()
    }

    /// Returns the condition of a group that may be claimed. PostgreSQL does not turn this form into a join, which could
    /// read all announcements.
    fn may_be_claimed(&self) -> Expr {
        let of_row = Query::select()
            .expr(self.row_may_be_claimed())
            .from(announcements::Entity)
            .and_where(is_row_of(of_group("app_id"), of_group("group_key")))
            .take();
        or_without_row(Expr::SubQuery(None, Box::new(of_row.into())))
    }

    fn row_may_be_claimed(&self) -> Expr {
        let last_closed =
            || CaseStatement::new().case(of_group(REGRESSED), of_group("last_closed_at")).into();
        may_be_claimed(self.dialect.now(), last_closed)
    }

    /// Returns whether the announcements are joined before the groups are picked. Across shards no subquery can depend on
    /// the group.
    fn joins_announcements(&self) -> bool {
        self.unannounced && self.dialect == Dialect::Sharded
    }

    /// Selects the keys of the groups that were announced or claimed, and whether each may be claimed again.
    fn announced(&self, app_id: Option<AppId>) -> SelectStatement {
        let app_id = app_id.map(|app_id| {
            Expr::col((announcements::Entity, announcements::Column::AppId)).eq(app_id.into_inner())
        });
        Query::select()
            .columns([Column::AppId, Column::GroupKey].map(|column| (PICKED, column)))
            .expr_as(self.row_may_be_claimed(), CLAIMABLE)
            .from_as(GROUPED, PICKED)
            .join(
                JoinType::InnerJoin,
                announcements::Entity,
                is_row_of(of_group("app_id"), of_group("group_key")),
            )
            .and_where_option(app_id)
            .take()
    }
}

/// Returns whether a group may be claimed: by its row, and without one unless it has letters before `since`.
fn or_without_row(row_may_be_claimed: Expr) -> Expr {
    Func::coalesce([row_may_be_claimed, of_group(KNOWN_SINCE).not()]).into()
}

fn of_group(column: &'static str) -> Expr {
    Expr::col((PICKED, column))
}

const SCANNED: &str = "scanned";
/// The position of a letter among the scanned ones, and of the letter that a group shows.
const POSITION: &str = "position";
/// The groups, where the announcements are joined.
const GROUPED: &str = "grouped";
/// The groups that have a row among the announcements.
const ANNOUNCED: &str = "announced";
const CLAIMABLE: &str = "claimable";
const PICKED: &str = "picked";
const END: &str = "scan_end";
const END_TIME: &str = "scan_end_time";
/// How many letters were scanned.
const READ: &str = "scanned_letters";
const LETTERS: &str = "letters";
const OPEN: &str = "open";
const REGRESSED: &str = "regressed";
/// Whether a group is neither new nor regressed.
const KNOWN: &str = "known";
/// The same for the request's `since`, while `KNOWN` goes back to where the look begins.
const KNOWN_SINCE: &str = "known_since";

/// The columns that the statement computes for each group.
const OF_GROUP: [&str; 9] =
    ["app_id", LETTERS, OPEN, "first_seen", "last_seen", "last_closed_at", REGRESSED, KNOWN, "newest_id"];

/// Sorts the groups as [`order`] does.
fn in_order(groups: &mut SelectStatement) {
    let open_if_known = CaseStatement::new().case(of_group(KNOWN), of_group(OPEN));
    groups.order_by((PICKED, KNOWN), Order::Asc).order_by_expr(open_if_known.into(), Order::Desc);
    for (column, order) in [("first_seen", Order::Desc), ("app_id", Order::Asc), ("group_key", Order::Asc)] {
        groups.order_by((PICKED, column), order);
    }
}

/// Selects how many letters were scanned, and the time of the last one if more lie behind.
fn end(scan: u32) -> SelectStatement {
    let scan = || Expr::val(i64::from(scan));
    let letters = || Expr::from(Func::count(Expr::col(Asterisk)));
    let last = CaseStatement::new().case(Expr::col(POSITION).eq(scan()), Expr::col("created_at"));
    let end = CaseStatement::new().case(letters().gt(scan()), Func::min(last));
    Query::select().expr_as(letters(), READ).expr_as(end, END_TIME).from(SCANNED).take()
}

by_position! {
    struct NewGroupRow {
        source: String,
        op: String,
        script_id: Option<Uuid>,
        error_signature: String,
        start_of_error: String,
        end_of_error: Option<String>,
        group_key: String,
        app_id: Uuid,
        letters: i64,
        open: i64,
        first_seen: DateTimeWithTimeZone,
        last_seen: DateTimeWithTimeZone,
        last_closed_at: Option<DateTimeWithTimeZone>,
        regressed: bool,
        known: bool,
        newest_id: Uuid,
    }
}

impl NewGroupRow {
    /// `is_complete` says whether the scan came to the letters before `since`.
    fn into_group(self, is_complete: bool) -> NewErrorGroup {
        let error = join_ends(self.start_of_error, self.end_of_error);
        NewErrorGroup {
            app_id: self.app_id.into(),
            group_key: to_name(self.group_key),
            source: to_name(self.source),
            op: to_name(self.op),
            script_id: self.script_id.map(Into::into),
            error_signature: to_name(self.error_signature),
            sample: to_name(error_message(&error)),
            count: self.letters.unsigned_abs(),
            open: self.open.unsigned_abs(),
            first_seen: self.first_seen.to_utc(),
            last_seen: self.last_seen.to_utc(),
            newest_id: self.newest_id.into(),
            last_closed_at: self.last_closed_at.map(|at| at.to_utc()),
            state: match self.regressed {
                true => NewGroupState::Regressed,
                false if self.known => NewGroupState::Known,
                false if is_complete => NewGroupState::New,
                false => NewGroupState::Unknown,
            },
        }
    }
}

/// Returns the time by which the index of all apps is sorted. PostgreSQL parses `created_at AT TIME ZONE 'UTC'`
/// as this function.
pub(super) fn time_in_index(dialect: Dialect) -> Expr {
    let created_at = Column::CreatedAt.into_expr();
    match dialect {
        Dialect::Sqlite => created_at,
        _ => Func::cust("timezone").arg(Expr::Constant("UTC".into())).arg(created_at).into(),
    }
}
