//! How far a call looks back.
//!
//! No index helps a filter on source, op or error, so a call that looks for what hardly any row has would
//! read the whole app. A bounded scan is two statements: the first finds the place where it ends, by the
//! index alone, the second is the call's own, down to there.
//!
//! In that one PostgreSQL gets the rows of the scan by a subquery, whose LIMIT tells it how few they are: it
//! takes those between two places for a good part of the table, where the app's rows are the oldest, and
//! would read the whole of it. SQLite gets none: it copies the payloads into a subquery.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use dead_letters_entity::dead_letters::{Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, DbBackend, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select,
    prelude::DateTimeWithTimeZone,
    sea_query::{Expr, ExprTrait, SelectStatement},
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    conditions::{check, is_before, is_from, is_of_app, is_of_state_within, narrow},
    connection::RepoConnection,
    in_range,
    text::with_literal_limits,
};
use crate::{AppId, Cursor, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, Page, PageRequest};

const SCANS: RangeInclusive<u32> = 1..=u32::MAX;

/// A row's place in an app's listing.
pub(super) type Place = (DateTime<Utc>, DeadLetterId);

/// The rows that match a filter, between two places.
#[derive(Clone, Copy)]
pub(super) struct Matching<'a> {
    app_id: AppId,
    filter: &'a DeadLetterFilter,
    sharded: bool,
    after: Option<Place>,
    /// Rows that may be looked at, and where that ends, if there are more.
    scan: Option<u32>,
    down_to: Option<Place>,
}

impl<'a> Matching<'a> {
    pub(super) fn condition(&self, backend: DbBackend) -> Condition {
        narrow(self.in_scan(backend), self.filter, backend, self.sharded)
    }

    /// Makes these rows the ones that a query is about.
    pub(super) fn select(&self, query: &mut SelectStatement, backend: DbBackend) {
        query.from_clear();
        match self.scan.filter(|_| backend == DbBackend::Postgres) {
            None => query.from(Entity).cond_where(self.condition(backend)),
            Some(scan) => {
                let scanned =
                    newest_first(Entity::find()).filter(self.in_scan(backend)).limit(u64::from(scan));
                query.from_subquery(scanned.into_query(), Entity).cond_where(narrow(
                    Condition::all(),
                    self.filter,
                    backend,
                    self.sharded,
                ))
            }
        };
    }

    /// What the scan looks at.
    fn in_scan(&self, backend: DbBackend) -> Condition {
        // A row comparison is one index condition; `a < x OR (a = x AND b < y)` reads all that came before.
        let place = || Expr::tuple([Column::CreatedAt.into_expr(), Column::Id.into_expr()]);
        let to_tuple =
            |(created_at, id): Place| Expr::tuple([Expr::val(created_at), Expr::val(id.into_inner())]);
        // SQLite's search has one condition a side, and takes the time's rather than the place's: so none
        // that the place implies.
        let from = self.filter.created_from.filter(|_| self.down_to.is_none());
        let before =
            self.filter.created_before.filter(|&before| self.after.is_none_or(|(at, _)| at >= before));
        is_of_app(self.app_id, self.filter, backend, self.sharded)
            .add_option(from.map(is_from))
            .add_option(before.map(is_before))
            .add_option(is_of_state_within(self.filter, self.filter.state))
            .add_option(self.after.map(|after| place().lt(to_tuple(after))))
            .add_option(self.down_to.map(|end| place().gte(to_tuple(end))))
    }

    /// Whether it leaves out any of the rows that it looks at.
    pub(super) fn is_narrow(&self, backend: DbBackend) -> bool {
        !narrow(Condition::all(), self.filter, backend, self.sharded).is_empty()
    }

    /// Where the scan ended, if there are rows behind.
    pub(super) fn looked_back_to(&self) -> Option<DateTime<Utc>> {
        self.down_to.map(|(created_at, _)| created_at)
    }

    /// A page of them, and one row more, to know whether another one follows.
    pub(super) fn page(&self, select: Select<Entity>, size: u32, backend: DbBackend) -> SelectStatement {
        let mut page = newest_first(select).limit(u64::from(size) + 1).into_query();
        self.select(&mut page, backend);
        page
    }

    /// Of what [`page`](Self::page) found.
    pub(super) fn page_of<T>(&self, mut items: Vec<T>, size: u32, place: impl Fn(&T) -> Place) -> Page<T> {
        let has_next = items.len() > size as usize;
        items.truncate(size as usize);
        let (next, looked_back_to) = self.next(items.last().filter(|_| has_next).map(place));
        Page { items, next, looked_back_to }
    }

    /// Where the next page goes on, and where the scan ended this one. `last` is the last row of a page that
    /// more rows follow.
    pub(super) fn next(&self, last: Option<Place>) -> (Option<Cursor>, Option<DateTime<Utc>>) {
        let next = last.or(self.down_to);
        let next = next.map(|(created_at, id)| Cursor::behind(created_at, id, self.app_id, self.filter));
        (next, if last.is_some() { None } else { self.looked_back_to() })
    }
}

pub(super) fn newest_first(select: Select<Entity>) -> Select<Entity> {
    select.order_by_desc(Column::CreatedAt).order_by_desc(Column::Id)
}

impl<C: RepoConnection> SeaOrmDeadLetterRepo<C> {
    pub(super) fn matching<'a>(
        &self,
        app_id: AppId,
        filter: &'a DeadLetterFilter,
    ) -> Result<Matching<'a>, DeadLetterRepoError> {
        check(filter)?;
        Ok(Matching { app_id, filter, sharded: self.sharded, after: None, scan: None, down_to: None })
    }

    /// What a page of a listing is taken from.
    pub(super) async fn listed<'a>(
        &self,
        app_id: AppId,
        filter: &'a DeadLetterFilter,
        page: &PageRequest,
    ) -> Result<Matching<'a>, DeadLetterRepoError> {
        let after = page.after.map(|cursor| cursor.place(app_id, filter)).transpose()?;
        let matching = Matching { after, ..self.matching(app_id, filter)? };
        let scan = page.scan.map(|scan| in_range("page.scan", scan, SCANS)).transpose()?;
        // Where every row is taken, the page is full before the scan ends.
        let ends = |&scan: &u32| scan <= page.size || matching.is_narrow(self.db.get_database_backend());
        self.down_to_end(matching, scan.filter(ends)).await
    }

    /// The same rows, but for those that the scan does not reach.
    pub(super) async fn bounded<'a>(
        &self,
        matching: Matching<'a>,
        scan: Option<u32>,
    ) -> Result<Matching<'a>, DeadLetterRepoError> {
        let scan = scan.map(|scan| in_range("scan", scan, SCANS)).transpose()?;
        self.down_to_end(matching, scan).await
    }

    async fn down_to_end<'a>(
        &self,
        matching: Matching<'a>,
        scan: Option<u32>,
    ) -> Result<Matching<'a>, DeadLetterRepoError> {
        let Some(scan) = scan.filter(|_| matching.filter.ids.is_none()) else { return Ok(matching) };
        let backend = self.db.get_database_backend();
        let matching = Matching { scan: Some(scan), ..matching };
        // The last row, and the one behind it, if there is one.
        let end = newest_first(Entity::find().select_only().columns([Column::CreatedAt, Column::Id]))
            .filter(matching.in_scan(backend))
            .limit(2)
            .offset(u64::from(scan) - 1);
        let end = with_literal_limits(backend, end.as_query());
        let rows = self.db.query_all_raw(end).await?;
        let [last, _] = rows.as_slice() else { return Ok(matching) };
        let created_at: DateTimeWithTimeZone = last.try_get_by_index(0)?;
        let id: Uuid = last.try_get_by_index(1)?;
        Ok(Matching { down_to: Some((created_at.to_utc(), id.into())), ..matching })
    }
}
