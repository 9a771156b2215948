//! Groups letters with similar failures.

use dead_letters_entity::dead_letters::{Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, FromQueryResult,
    prelude::DateTimeWithTimeZone,
    sea_query::{
        Asterisk, CaseStatement, CommonTableExpression, Expr, ExprTrait, Func, JoinType, Keyword, Order,
        Query, SelectStatement, WithClause,
    },
};
use uuid::Uuid;

use super::{
    SeaOrmDeadLetterRepo,
    conditions::{is_erased, is_open},
    connection::RepoConnection,
    convert::{beginning_of_name, by_position, ends_of_error, join_ends, to_name},
    hidden_limits::shown,
    in_range,
    scan::Matching,
    timeline::Bins,
};
use crate::{
    AppId, Bucket, DeadLetterFilter, DeadLetterRepoError, ErrorGroup, ErrorGroups, GroupRequest,
    page::PAGE_SIZES, signature::error_message,
};

pub(super) async fn error_groups<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    app_id: AppId,
    filter: &DeadLetterFilter,
    request: &GroupRequest,
) -> Result<ErrorGroups, DeadLetterRepoError> {
    let limit = in_range("limit", request.limit, PAGE_SIZES)?;
    let dialect = repo.dialect()?;
    let buckets = request.timeline.map(|buckets| Bins::new(buckets, dialect)).transpose()?;
    let matching = repo.matching(app_id, filter)?;
    let contains = request.payload_contains.as_deref();
    let mut matching = repo.bounded_with_payload(matching, request.scan_limit, contains).await?;
    let query = group_errors(&matching, buckets.as_ref(), limit, dialect.shard(app_id));
    let mut groups: Vec<ErrorGroup> = Vec::new();
    for row in matching.fetch(&repo.db, query).await? {
        let of_bucket = ErrorGroupRow::from_query_result(&row, "")?;
        // The rows of a group are adjacent, and no two groups have the same newest letter.
        if groups.last().is_none_or(|last| last.newest_id != of_bucket.newest_id.into()) {
            let timeline = buckets.map_or_else(Vec::new, |buckets| buckets.empty());
            groups.push(of_bucket.without_texts(timeline));
        }
        let Some(group) = groups.last_mut() else { continue };
        if let Some(buckets) = buckets {
            let count = row.try_get::<i64>("", "in_bucket")?.unsigned_abs();
            buckets.put(&row, count, &mut group.timeline)?;
        }
        of_bucket.put_texts(group);
    }
    Ok(ErrorGroups { groups, scanned_back_to: matching.scanned_back_to() })
}

/// The position of the bucket's column, which follows the key's.
const BUCKET: i32 = 2;

/// The columns that the statement computes for each group.
const OF_GROUP: [&str; 7] =
    ["letters", "first_seen", "last_seen", "closed", "last_closed_at", "regressed", "newest_id"];

/// Returns the value for a closed letter, and otherwise NULL.
pub(super) fn if_closed(value: Expr) -> CaseStatement {
    CaseStatement::new().case(is_open().not(), value)
}

/// Returns the value for an open letter, and otherwise NULL.
pub(super) fn if_open(value: Expr) -> CaseStatement {
    CaseStatement::new().case(is_open(), value)
}

/// Returns whether a group regressed, by the time of its last close and the creation of its oldest open letter.
/// Either is NULL if the group has no such letter.
pub(super) fn has_regressed(last_closed: Expr, oldest_open: Expr) -> Expr {
    let constant = |value: bool| Expr::Constant(value.into());
    Expr::case(last_closed.lt(oldest_open), constant(true)).finally(constant(false)).into()
}

/// Selects a row for each bucket of each group. The statement reads the letters once, counts them by group and
/// bucket, and sums the groups from these counts. A group's texts are those of its newest letter, and are only on
/// the row of its first bucket.
fn group_errors(
    matching: &Matching<'_>,
    buckets: Option<&Bins>,
    limit: u32,
    shard: Option<AppId>,
) -> SelectStatement {
    let letter = |column: Column| Expr::col(("newest", column));
    let is_first = || {
        let first = Expr::col(("groups", "first_bucket"));
        first.clone().is_null().or(Expr::col(("counts", "bucket")).eq(first))
    };
    let once = |text: Expr| Expr::Case(Box::new(CaseStatement::new().case(is_first(), text)));
    let [start_of_error, end_of_error] = ends_of_error(letter(Column::LastError));
    let newest_id = Expr::col(("groups", "newest_id"));
    let cte = |name: &'static str, query| {
        CommonTableExpression::new().table_name(name).query(query).materialized(true).to_owned()
    };
    let counts = cte("counts", counts(matching, buckets));
    let groups = cte("groups", largest_groups(matching, limit));
    Query::select()
        .expr_as(once(beginning_of_name(letter(Column::Source))), "source")
        .expr_as(once(beginning_of_name(letter(Column::Op))), "op")
        .column(("newest", Column::ScriptId))
        .expr_as(once(beginning_of_name(letter(Column::ErrorSignature))), "error_signature")
        .expr_as(once(start_of_error), "start_of_error")
        .expr_as(once(end_of_error), "end_of_error")
        .expr_as(beginning_of_name(Expr::col(("groups", Column::GroupKey))), "group_key")
        .columns(OF_GROUP.map(|column| ("groups", column)))
        .columns([("counts", "bucket"), ("counts", "in_bucket")])
        .from("groups")
        .join_as(
            JoinType::InnerJoin,
            Entity,
            "newest",
            Condition::all()
                .add(letter(Column::Id).eq(newest_id))
                .add_option(shard.map(|app_id| letter(Column::AppId).eq(app_id.into_inner()))),
        )
        .join(
            JoinType::InnerJoin,
            "counts",
            Expr::col(("counts", Column::GroupKey)).eq(Expr::col(("groups", Column::GroupKey))),
        )
        // A bare name would be ambiguous with a column that a service added.
        .order_by(("groups", "letters"), Order::Desc)
        .order_by(("groups", "last_seen"), Order::Desc)
        .order_by(("groups", Column::GroupKey), Order::Asc)
        .with_cte(WithClause::new().cte(counts).cte(groups).to_owned())
        .take()
}

/// Counts the letters by group and bucket.
fn counts(matching: &Matching<'_>, buckets: Option<&Bins>) -> SelectStatement {
    let bucket = buckets.map_or(Expr::Keyword(Keyword::Null), |buckets| {
        CaseStatement::new().case(buckets.holds(), buckets.bucket()).into()
    });
    let if_kept = |then: Expr| CaseStatement::new().case(is_erased().not(), then);
    Query::select()
        .column(Column::GroupKey)
        .expr_as(bucket, "bucket")
        .expr_as(Func::count(Expr::col(Asterisk)), "in_bucket")
        .expr_as(Func::min(Expr::col(Column::CreatedAt)), "first_at")
        .expr_as(Func::max(Expr::col(Column::CreatedAt)), "last_at")
        .expr_as(Func::max(if_kept(Column::CreatedAt.into_expr())), "last_kept_at")
        .expr_as(Func::count(if_closed(Expr::Constant(1.into()))), "closed_in_bucket")
        .expr_as(Func::max(if_closed(Column::ResolvedAt.into_expr())), "closed_at")
        .expr_as(Func::min(if_open(Column::CreatedAt.into_expr())), "open_at")
        .apply(|query| matching.select_all(query))
        .group_by_col(Column::GroupKey)
        // The position, because a name would mean a column that a service added to the table.
        .add_group_by([Expr::Constant(BUCKET.into())])
        .take()
}

/// Sums the counts of each group, and looks up the newest letter of the largest ones.
fn largest_groups(matching: &Matching<'_>, limit: u32) -> SelectStatement {
    let latest = |column| Expr::from(Func::max(Expr::col(("counts", column))));
    // In PostgreSQL the sum of a bigint is numeric.
    let sum = |column| Expr::from(Func::sum(Expr::col(("counts", column)))).cast_as("bigint");
    let oldest_open = Func::min(Expr::col(("counts", "open_at"))).into();
    let largest = Query::select()
        .column(Column::GroupKey)
        .expr_as(sum("in_bucket"), "letters")
        .expr_as(Func::min(Expr::col(("counts", "first_at"))), "first_seen")
        .expr_as(latest("last_at"), "last_seen")
        .expr_as(Func::coalesce([latest("last_kept_at"), latest("last_at")]), "shown_at")
        .expr_as(sum("closed_in_bucket"), "closed")
        .expr_as(latest("closed_at"), "last_closed_at")
        .expr_as(has_regressed(latest("closed_at"), oldest_open), "regressed")
        .expr_as(Func::min(Expr::col(("counts", "bucket"))), "first_bucket")
        .from("counts")
        .group_by_col(Column::GroupKey)
        .order_by("letters", Order::Desc)
        .order_by("last_seen", Order::Desc)
        .order_by(("counts", Column::GroupKey), Order::Asc)
        // The limit is visible, so that PostgreSQL expects few groups. Otherwise it would read the whole table for
        // their newest letters.
        .limit(shown(limit.into()))
        .take();
    // A lookup for each of the few groups that are left, because PostgreSQL before 18 has no max(uuid).
    let mut newest = Query::select();
    newest
        .column(Column::Id)
        .from(Entity)
        .cond_where(matching.condition())
        .and_where(Column::CreatedAt.into_expr().eq(Expr::col(("largest", "shown_at"))))
        .and_where(Column::GroupKey.into_expr().eq(Expr::col(("largest", Column::GroupKey))));
    // A search reads payloads, so that its lookup must stop at the first match of the index.
    if !matching.is_search() {
        // Erased letters last: false sorts before true.
        newest.order_by_expr(is_erased(), Order::Asc);
    }
    newest.order_by(Column::Id, Order::Desc).limit(1);
    Query::select()
        .column(("largest", Asterisk))
        .expr_as(newest, "newest_id")
        .from_subquery(largest, "largest")
        .take()
}

by_position! {
    /// The first columns of a group's row. The texts are on one of its rows alone.
    struct ErrorGroupRow {
        source: Option<String>,
        op: Option<String>,
        script_id: Option<Uuid>,
        error_signature: Option<String>,
        start_of_error: Option<String>,
        end_of_error: Option<String>,
        group_key: String,
        letters: i64,
        first_seen: DateTimeWithTimeZone,
        last_seen: DateTimeWithTimeZone,
        closed: i64,
        last_closed_at: Option<DateTimeWithTimeZone>,
        regressed: bool,
        newest_id: Uuid,
    }
}

impl ErrorGroupRow {
    fn without_texts(&self, timeline: Vec<Bucket>) -> ErrorGroup {
        ErrorGroup {
            group_key: to_name(self.group_key.clone()),
            source: String::new(),
            op: String::new(),
            script_id: self.script_id.map(Into::into),
            error_signature: String::new(),
            sample: String::new(),
            count: self.letters.unsigned_abs(),
            first_seen: self.first_seen.to_utc(),
            last_seen: self.last_seen.to_utc(),
            newest_id: self.newest_id.into(),
            closed: self.closed.unsigned_abs(),
            last_closed_at: self.last_closed_at.map(|at| at.to_utc()),
            regressed: self.regressed,
            timeline,
        }
    }

    fn put_texts(self, group: &mut ErrorGroup) {
        if let Some(start) = self.start_of_error {
            let error = join_ends(start, self.end_of_error);
            group.sample = to_name(error_message(&error));
        }
        for (text, of_group) in [
            (self.source, &mut group.source),
            (self.op, &mut group.op),
            (self.error_signature, &mut group.error_signature),
        ] {
            if let Some(text) = text {
                *of_group = to_name(text);
            }
        }
    }
}
