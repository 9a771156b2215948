//! The rows that a call selects, and the scan limit.
//!
//! No index serves a filter on source, op or error. If hardly any row matches, a call would read the whole app. A
//! scan limit bounds the call to the first rows in its order, newest or oldest first, up to the row where the scan
//! ends.
//!
//! On PostgreSQL one statement finds that row and the call's rows, in one snapshot. The call reads the rows of the
//! scan from a subquery, whose LIMIT shows the planner how few they are. SQLite would copy payloads into such a
//! subquery. There, one statement finds where the scan ends, and the call's own statement reads down to that row.
//!
//! The scan of a search in payloads also ends by their sizes. A window function adds these up, and neither database reads
//! a large payload for it.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{COLUMN, Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, QueryResult, QueryTrait,
    prelude::DateTimeWithTimeZone,
    sea_query::{
        Asterisk, CaseStatement, Expr, ExprTrait, Frame, FrameType, Func, JoinType, Order, Query,
        SelectStatement, WindowStatement,
    },
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    conditions::{
        check, is_before, is_erased, is_from, is_of_app, is_of_state, is_one_of, is_resolved_within, is_true,
        narrow,
    },
    connection::RepoConnection,
    convert,
    dialect::Dialect,
    hidden_limits::{shown, with_hidden_limits},
    in_range,
    parts::{self, Part, by_time, conditions, from_all},
};
use crate::{
    AppId, Cursor, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterState, ListSort, Page,
    PageRequest, PayloadSearch,
};

pub(super) const SCANS: RangeInclusive<u32> = 1..=u32::MAX;

/// How many letters a search in payloads and a list sorted by attempts examine if their request has no scan limit.
const EXAMINED_ROWS: u32 = 10_000;
const MAX_SEARCH_BYTES: usize = 1_000;
/// The most payload that one search examines, unless its first letter has more.
const SEARCHED_BYTES: i64 = 64 << 20;

/// A row's position in an app's listing: the time and the id. A listing of closed letters uses `resolved_at`,
/// every other one `created_at`.
pub(super) type Place = (DateTime<Utc>, DeadLetterId);

/// The rows that match a filter, between two places.
#[derive(Clone, Copy)]
pub(super) struct Matching<'a> {
    app_id: AppId,
    filter: &'a DeadLetterFilter,
    dialect: Dialect,
    sort: ListSort,
    after: Option<Place>,
    /// Whether the call leaves out rows that are created after its statement starts.
    until_now: bool,
    /// The scan limit.
    scan: Option<u32>,
    /// Where the scan ends, if more rows lie behind. On PostgreSQL the call's statement finds this place.
    down_to: Option<Place>,
    /// The text of a search in payloads.
    payload_contains: Option<&'a str>,
}

impl<'a> Matching<'a> {
    /// Returns the column of the time that orders the listing.
    pub(super) fn time(&self) -> Column {
        match self.filter.effective_state() {
            DeadLetterState::Closed => Column::ResolvedAt,
            _ => Column::CreatedAt,
        }
    }

    /// Returns the order in which the call examines rows.
    fn examined(&self) -> [(Column, Order); 2] {
        by_time(self.time(), if self.is_forward() { Order::Asc } else { Order::Desc })
    }

    fn is_forward(&self) -> bool {
        self.sort == ListSort::Oldest
    }

    /// Returns the order in which the call returns rows.
    fn returned(&self) -> Vec<(Column, Order)> {
        let by_attempts =
            (self.sort == ListSort::MostAttempts).then_some((Column::AttemptCount, Order::Desc));
        by_attempts.into_iter().chain(self.examined()).collect()
    }

    /// Leaves out rows that are created after the statement starts, unless the filter has `created_before` or ids, or
    /// is about closed rows.
    pub(super) fn until_now(self) -> Self {
        let until_now = self.filter.created_before.is_none()
            && self.filter.ids.is_none()
            && self.filter.effective_state() != DeadLetterState::Closed;
        Self { until_now, ..self }
    }

    /// Selects the first matching rows, at most `limit`. `columns` must select the columns of the order, among
    /// others.
    pub(super) fn first(&self, limit: u64, columns: &SelectStatement) -> SelectStatement {
        let Some(scan) = self.scan.filter(|_| self.dialect != Dialect::Sqlite) else {
            let matching = self.conditions().into_iter().map(|condition| self.narrow(condition)).collect();
            return parts::first(self.dialect, matching, &self.returned(), limit, columns);
        };
        let mut first = columns.clone();
        first
            .from_clear()
            .from_subquery(self.scanned(scan), Entity)
            .cond_where(self.narrow(Condition::all()));
        for (column, order) in self.returned() {
            first.order_by(column, order);
        }
        first.limit(shown(limit)).take()
    }

    /// Makes the matching rows the source of a query, in no order.
    pub(super) fn select_all(&self, query: &mut SelectStatement) {
        match self.scan.filter(|_| self.dialect != Dialect::Sqlite) {
            Some(scan) => {
                query.from_subquery(self.scanned(scan), Entity).cond_where(self.narrow(Condition::all()));
            }
            None => {
                let matching = self.conditions().into_iter().map(|condition| self.narrow(condition));
                from_all(query, matching.collect());
            }
        }
    }

    /// Returns the rows in this order.
    pub(super) fn in_order(self, sort: ListSort) -> Self {
        Self { sort, ..self }
    }

    /// Returns the condition of a matching row, for a query that finds single rows in another way. On PostgreSQL the
    /// condition does not contain the end of the scan.
    pub(super) fn condition(&self) -> Condition {
        let all = Condition::all();
        self.narrowed(self.is_in_scan()).add_option(self.has_text(all))
    }

    /// Returns the condition for the rows that the scan examines. On PostgreSQL it does not contain the end of the scan.
    fn is_in_scan(&self) -> Condition {
        self.bounds().add_option(is_of_state(self.filter.effective_state()))
    }

    /// Returns whether the filter leaves out any of the rows that the scan examines.
    pub(super) fn is_narrow(&self) -> bool {
        !self.narrow(Condition::all()).is_empty()
    }

    /// Returns whether the rows are those of a search in payloads. None of them is erased.
    pub(super) fn is_search(&self) -> bool {
        self.payload_contains.is_some()
    }

    /// Returns whether there is a scan limit.
    pub(super) fn is_bounded(&self) -> bool {
        self.scan.is_some()
    }

    /// Returns the time at which the scan ended, if more rows lie behind.
    pub(super) fn scanned_back_to(&self) -> Option<DateTime<Utc>> {
        self.down_to.map(|(time, _)| time)
    }

    /// Returns the rows of a query over the matching rows. On PostgreSQL the same statement finds where the scan
    /// ends.
    pub(super) async fn fetch(
        &mut self,
        db: &impl ConnectionTrait,
        mut query: SelectStatement,
    ) -> Result<Vec<QueryResult>, DbErr> {
        let Some(scan) = self.scan.filter(|_| self.dialect != Dialect::Sqlite) else {
            return db.query_all_raw(with_hidden_limits(self.dialect, &query)).await;
        };
        let always = || Expr::Constant(true.into());
        query.expr_as(always(), IS_ROW);
        let with_end = Query::select()
            .column((ROWS, Asterisk))
            .columns([(END, END_TIME), (END, END_ID)])
            .from_subquery(Query::select().expr(Expr::Constant(1.into())).take(), "one")
            .join_subquery(JoinType::LeftJoin, self.end(scan), END, always())
            .join_subquery(JoinType::LeftJoin, query, ROWS, always())
            .take();
        let rows = db.query_all_raw(with_hidden_limits(self.dialect, &with_end)).await?;
        let Some(first) = rows.first() else { return Ok(rows) };
        self.down_to = end_of(first)?;
        // The LEFT JOIN returns one row for a query without rows. That row has only the end of the scan.
        let has_rows = first.try_get::<Option<bool>>("", IS_ROW)?.is_some();
        Ok(if has_rows { rows } else { Vec::new() })
    }

    /// Returns the conditions for the rows of the app and the state, between the places.
    fn conditions(&self) -> Vec<Condition> {
        let bounds = self.bounds();
        match self.filter.ids {
            Some(_) => vec![bounds.add_option(is_of_state(self.filter.effective_state()))],
            // The index of runs finds these rows, whatever their state.
            None if self.filter.run_id.is_some() => {
                vec![bounds.add_option(is_of_state(self.filter.effective_state()))]
            }
            None => conditions(Part::of_filter(self.filter), &bounds),
        }
    }

    /// Returns the condition for the rows that the scan examines, without the state.
    fn bounds(&self) -> Condition {
        // A row comparison is one condition of the index. `a < x OR (a = x AND b < y)` would read all rows before
        // the place.
        let place = || Expr::tuple([self.time().into_expr(), Column::Id.into_expr()]);
        let filter = self.filter;
        let (times, [from, before]) = match self.time() {
            Column::CreatedAt => (
                (filter.created_from, filter.created_before),
                [filter.created_from.map(is_from), filter.created_before.map(is_before)],
            ),
            _ => ((filter.resolved_from, filter.resolved_before), is_resolved_within(filter)),
        };
        // SQLite's index search has one condition on each side, and would use the one on the time instead of the
        // place. The place implies the time.
        let (after, is_ended) = (self.after.map(|(at, _)| at), self.down_to.is_some());
        let (is_from_implied, is_before_implied) = match self.is_forward() {
            false => (is_ended, after.zip(times.1).is_some_and(|(at, before)| at < before)),
            true => (after.zip(times.0).is_some_and(|(at, from)| at >= from), is_ended),
        };
        let behind = |after| if self.is_forward() { place().gt(after) } else { place().lt(after) };
        let up_to = |end| if self.is_forward() { place().lte(end) } else { place().gte(end) };
        let until_now = self.until_now.then(|| Column::CreatedAt.into_expr().lt(self.dialect.now_as_bound()));
        let bounds = [
            from.filter(|_| !is_from_implied),
            before.filter(|_| !is_before_implied),
            until_now,
            self.after.map(|after| behind(to_tuple(after))),
            self.down_to.map(|end| up_to(to_tuple(end))),
        ];
        let is_named = filter.ids.is_some() || filter.run_id.is_some();
        let all = is_of_app(self.app_id, filter, self.dialect)
            .add_option(filter.run_id.map(|run_id| COLUMN.run_id.eq(run_id)));
        bounds.into_iter().flatten().fold(all, |all, bound| match self.dialect {
            // SQLite would otherwise find the letters of a run, or those named, among all of that time.
            Dialect::Sqlite if is_named => all.add(is_true(bound)),
            _ => all.add(bound),
        })
    }

    /// Adds the conditions that no index serves, and the one on the ids.
    fn narrow(&self, wide: Condition) -> Condition {
        let is_examined = match self.dialect {
            Dialect::Sqlite => self.is_in_scan(),
            _ => Condition::all().add(Expr::col(NUMBER).eq(1).or(Expr::col(TOTAL).lte(SEARCHED_BYTES))),
        };
        self.narrowed(wide).add_option(self.has_text(is_examined))
    }

    /// Adds the filter's conditions without the one on the payload.
    fn narrowed(&self, wide: Condition) -> Condition {
        let narrow = narrow(wide, self.app_id, self.filter, self.dialect);
        if matches!(self.time(), Column::CreatedAt) {
            let [from, before] = is_resolved_within(self.filter);
            return narrow.add_option(from).add_option(before);
        }
        let time = |time: Expr| match self.down_to {
            // SQLite would otherwise find these rows by their creation time, and read more rows than the scan.
            Some(_) => is_true(time),
            None => time,
        };
        let from = self.filter.created_from.map(is_from).map(time);
        let before = self.filter.created_before.map(is_before).map(time);
        narrow.add_option(from).add_option(before)
    }

    /// Returns the condition of a payload that has the text. In a CASE, because a database may check conditions in any
    /// order, and would otherwise read payloads that the scan does not examine.
    fn has_text(&self, is_examined: Condition) -> Option<Expr> {
        let text = convert::without_nul(self.payload_contains?.to_owned());
        let position = self.dialect.position(Column::Payload.into_expr(), text);
        let has_text = CaseStatement::new()
            .case(is_examined.add(is_erased().not()), position.gt(0))
            .finally(Expr::Constant(false.into()));
        Some(has_text.into())
    }

    /// Selects the first rows that a search in payloads may examine.
    ///
    /// Both of its limits count the rows that the scan examines, whatever their source or error: then one condition says
    /// what is examined.
    fn first_searched(&self, rows: u64, columns: &SelectStatement) -> SelectStatement {
        let ids = self.filter.ids.as_deref();
        let conditions = self.conditions().into_iter();
        let conditions = conditions.map(|rows| rows.add_option(ids.map(|ids| is_one_of(ids, self.dialect))));
        parts::first(self.dialect, conditions.collect(), &self.examined(), rows, columns)
    }

    /// Adds the number of each row, and the sum of the sizes up to it. Neither database reads a large payload for its
    /// length.
    fn add_totals(&self, query: &mut SelectStatement, bytes: Expr) {
        query.expr_window_as(Func::cust("row_number"), self.up_to_here(), NUMBER).expr_window_as(
            Func::sum(bytes),
            self.up_to_here(),
            TOTAL,
        );
    }

    fn up_to_here(&self) -> WindowStatement {
        let mut window = WindowStatement::new();
        for (column, order) in self.examined() {
            window.order_by(column, order);
        }
        window.frame_start(FrameType::Rows, Frame::UnboundedPreceding).take()
    }

    /// Selects the last row that a search in payloads examines, if there is a row behind it.
    fn end_of_search(&self, scan: u32) -> SelectStatement {
        const BYTES: &str = "bytes";
        const BEHIND: &str = "behind";
        let place = Query::select().columns([self.time(), Column::Id]).take();
        let sizes = self.first_searched(u64::from(scan) + 1, place.clone().expr_as(payload_bytes(), BYTES));
        let mut totals = place;
        totals
            .expr_window_as(Func::cust("lead").arg(Expr::col(BYTES)), self.up_to_here(), BEHIND)
            .from_subquery(sizes, Entity);
        self.add_totals(&mut totals, Expr::col(BYTES));
        let is_full = Expr::col(TOTAL).add(Expr::col(BEHIND)).gt(SEARCHED_BYTES);
        let mut end = Query::select()
            .expr_as(Expr::col(self.time()), END_TIME)
            .expr_as(Expr::col(Column::Id), END_ID)
            .from_subquery(totals, END)
            .and_where(Expr::col(BEHIND).is_not_null())
            .and_where(Expr::col(NUMBER).eq(i64::from(scan)).or(is_full))
            .take();
        for (column, order) in self.examined() {
            end.order_by((END, column), order);
        }
        end.limit(shown(1)).take()
    }

    /// Selects the rows that a scan examines.
    fn scanned(&self, scan: u32) -> SelectStatement {
        let all = Query::select().column(Asterisk).take();
        if self.payload_contains.is_some() {
            // Selects the store's own columns by name, because a service may have added a column that is named like
            // `NUMBER` or `TOTAL`.
            let mut scanned = Entity::find().into_query();
            scanned.from_clear().from_subquery(self.first_searched(scan.into(), &all), Entity);
            self.add_totals(&mut scanned, payload_bytes());
            return scanned;
        }
        parts::first(self.dialect, self.conditions(), &self.examined(), scan.into(), &all)
    }

    /// Selects the last row that a scan examines, and the row behind it, if there is one.
    fn last_two(&self, scan: u32) -> SelectStatement {
        let place = Query::select().columns([self.time(), Column::Id]).take();
        let scanned = u64::from(scan) + 1;
        let mut rows = parts::first(self.dialect, self.conditions(), &self.examined(), scanned, &place);
        rows.limit(shown(2)).offset(shown(u64::from(scan) - 1)).take()
    }

    /// Selects the last row that a scan examines, if there is a row behind it.
    fn end(&self, scan: u32) -> SelectStatement {
        if self.payload_contains.is_some() {
            return self.end_of_search(scan);
        }
        let mut in_order = WindowStatement::new();
        for (column, order) in self.examined() {
            in_order.order_by(column, order);
        }
        let behind = Func::cust("lead").arg(Expr::col(Column::Id));
        let last = Query::select()
            .expr_as(Expr::col(self.time()), END_TIME)
            .expr_as(Expr::col(Column::Id), END_ID)
            .expr_window_as(behind, in_order, "behind")
            .from_subquery(self.last_two(scan), Entity)
            .take();
        Query::select()
            .columns([END_TIME, END_ID])
            .from_subquery(last, "last")
            .and_where(Expr::col("behind").is_not_null())
            .take()
    }

    /// Selects a page of rows, and one row more, which shows whether another page follows.
    pub(super) fn page(&self, size: u32, columns: &SelectStatement) -> SelectStatement {
        self.first(u64::from(size) + 1, columns)
    }

    /// Makes a page of the rows that [`page`](Self::page) selected.
    pub(super) fn page_of<T>(&self, mut items: Vec<T>, size: u32, place: impl Fn(&T) -> Place) -> Page<T> {
        let has_next = items.len() > size as usize;
        items.truncate(size as usize);
        let (next, scanned_back_to) = self.next(items.last().filter(|_| has_next).map(place));
        Page { items, next, scanned_back_to }
    }

    /// Returns the cursor of the next page, and the time at which the scan ended this page. `last` is the page's
    /// last row if more rows follow.
    pub(super) fn next(&self, last: Option<Place>) -> (Option<Cursor>, Option<DateTime<Utc>>) {
        if self.sort == ListSort::MostAttempts {
            return (None, self.scanned_back_to());
        }
        let next = last.or(self.down_to);
        let next = next.map(|(time, id)| Cursor::behind(time, id, self.app_id, self.filter, self.sort));
        (next, if last.is_some() { None } else { self.scanned_back_to() })
    }

    /// Returns the place of a matching row.
    pub(super) fn place(
        &self,
        created_at: DateTime<Utc>,
        resolved_at: Option<DateTime<Utc>>,
        id: DeadLetterId,
    ) -> Place {
        match self.time() {
            Column::ResolvedAt => (resolved_at.unwrap_or(created_at), id),
            _ => (created_at, id),
        }
    }
}

/// Returns the order, or an error if it is by attempts, which has one page alone.
pub(super) fn by_time_alone(sort: ListSort) -> Result<ListSort, DeadLetterRepoError> {
    match sort {
        ListSort::MostAttempts => Err(DeadLetterRepoError::InvalidQuery {
            field: "page.sort".to_owned(),
            problem: "must be newest or oldest for an export and a search in payloads",
        }),
        sort => Ok(sort),
    }
}

pub(super) fn to_tuple((time, id): Place) -> Expr {
    Expr::tuple([Expr::val(time), Expr::val(id.into_inner())])
}

fn scan_in_range(limit: Option<u32>) -> Result<Option<u32>, DeadLetterRepoError> {
    limit.map(|limit| in_range("scan_limit", limit, SCANS)).transpose()
}

fn payload_bytes() -> Expr {
    Func::cust("octet_length").arg(Column::Payload.into_expr()).into()
}

const NUMBER: &str = "number";
const TOTAL: &str = "total";
const ROWS: &str = "matching";
const IS_ROW: &str = "is_row";
const END: &str = "scan_end";
const END_TIME: &str = "scan_end_time";
const END_ID: &str = "scan_end_id";

fn end_of(row: &QueryResult) -> Result<Option<Place>, DbErr> {
    let time = row.try_get::<Option<DateTimeWithTimeZone>>("", END_TIME)?;
    let id = row.try_get::<Option<Uuid>>("", END_ID)?;
    Ok(time.zip(id).map(|(time, id)| (time.to_utc(), id.into())))
}

impl<C: RepoConnection> SeaOrmDeadLetterRepo<C> {
    pub(super) fn matching<'a>(
        &self,
        app_id: AppId,
        filter: &'a DeadLetterFilter,
    ) -> Result<Matching<'a>, DeadLetterRepoError> {
        check(filter)?;
        Ok(Matching {
            app_id,
            filter,
            dialect: self.dialect()?,
            sort: ListSort::Newest,
            after: None,
            until_now: false,
            scan: None,
            down_to: None,
            payload_contains: None,
        })
    }

    /// Returns the rows from which a page of a listing is taken.
    pub(super) async fn listed<'a>(
        &self,
        app_id: AppId,
        filter: &'a DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Matching<'a>, DeadLetterRepoError> {
        let sort = page.sort;
        let is_by_attempts = sort == ListSort::MostAttempts;
        if is_by_attempts && page.after.is_some() {
            return Err(DeadLetterRepoError::InvalidCursor);
        }
        let after = page.after.map(|cursor| cursor.place(app_id, filter, sort)).transpose()?;
        let matching = Matching { sort, after, ..self.matching(app_id, filter)? };
        let scan = page.scan_limit.map(|limit| in_range("page.scan_limit", limit, SCANS)).transpose()?;
        if is_by_attempts {
            return self.down_to_end(matching, scan.or(Some(EXAMINED_ROWS))).await;
        }
        // If the filter takes every row, a page that is smaller than the scan is full before the scan ends.
        let ends = |&scan: &u32| scan <= page.size || matching.is_narrow();
        self.down_to_end(matching, scan.filter(ends)).await
    }

    /// Returns the rows from which a page of a search in payloads is taken.
    pub(super) async fn searched<'a>(
        &self,
        app_id: AppId,
        search: &'a PayloadSearch,
    ) -> Result<Matching<'a>, DeadLetterRepoError> {
        let PayloadSearch { payload_contains: contains, filter, page } = search;
        let sort = by_time_alone(page.sort)?;
        let after = page.after.map(|cursor| cursor.place(app_id, filter, sort)).transpose()?;
        let scan = page.scan_limit.map(|limit| in_range("page.scan_limit", limit, SCANS)).transpose()?;
        let matching = Matching { sort, after, ..self.matching(app_id, filter)? };
        self.with_payload(matching, contains, scan).await
    }

    /// Keeps the rows whose payload contains a text, among the first that the scan examines.
    async fn with_payload<'a>(
        &self,
        matching: Matching<'a>,
        contains: &'a str,
        scan: Option<u32>,
    ) -> Result<Matching<'a>, DeadLetterRepoError> {
        let bytes = contains.len();
        if !(1..=MAX_SEARCH_BYTES).contains(&bytes) {
            return Err(DeadLetterRepoError::SearchLength { bytes, max: MAX_SEARCH_BYTES });
        }
        let scan = scan.unwrap_or(EXAMINED_ROWS);
        let matching = Matching { scan: Some(scan), payload_contains: Some(contains), ..matching };
        if matching.dialect != Dialect::Sqlite {
            return Ok(matching);
        }
        let end = with_hidden_limits(matching.dialect, &matching.end_of_search(scan));
        let end = self.db.query_one_raw(end).await?;
        let down_to = end.as_ref().map(end_of).transpose()?.flatten();
        Ok(Matching { down_to, ..matching })
    }

    /// Bounds the matching rows by a scan limit.
    pub(super) async fn bounded<'a>(
        &self,
        matching: Matching<'a>,
        scan_limit: Option<u32>,
    ) -> Result<Matching<'a>, DeadLetterRepoError> {
        self.down_to_end(matching, scan_in_range(scan_limit)?).await
    }

    /// Bounds the matching rows by a scan limit, and keeps those whose payload contains the text, if there is one.
    pub(super) async fn bounded_with_payload<'a>(
        &self,
        matching: Matching<'a>,
        scan_limit: Option<u32>,
        payload_contains: Option<&'a str>,
    ) -> Result<Matching<'a>, DeadLetterRepoError> {
        match payload_contains {
            Some(contains) => self.with_payload(matching, contains, scan_in_range(scan_limit)?).await,
            None => self.bounded(matching, scan_limit).await,
        }
    }

    async fn down_to_end<'a>(
        &self,
        matching: Matching<'a>,
        scan: Option<u32>,
    ) -> Result<Matching<'a>, DeadLetterRepoError> {
        let Some(scan) = scan.filter(|_| matching.filter.ids.is_none() && matching.filter.run_id.is_none())
        else {
            return Ok(matching);
        };
        let matching = Matching { scan: Some(scan), ..matching };
        if matching.dialect != Dialect::Sqlite {
            return Ok(matching);
        }
        let rows =
            self.db.query_all_raw(with_hidden_limits(matching.dialect, &matching.last_two(scan))).await?;
        let [last, _] = rows.as_slice() else { return Ok(matching) };
        let time: DateTimeWithTimeZone = last.try_get_by_index(0)?;
        let id: Uuid = last.try_get_by_index(1)?;
        Ok(Matching { down_to: Some((time.to_utc(), id.into())), ..matching })
    }
}
