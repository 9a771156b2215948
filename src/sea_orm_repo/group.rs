//! Grouping rows that failed alike.

use dead_letters_entity::dead_letters::{Column, Entity};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, FromQueryResult,
    prelude::DateTimeWithTimeZone,
    sea_query::{
        Asterisk, CaseStatement, CommonTableExpression, Expr, ExprTrait, Func, JoinType, Keyword,
        NullOrdering, Order, Query, SelectStatement, WithClause,
    },
};
use uuid::Uuid;

use super::{
    PAGE_SIZES, SeaOrmDeadLetterRepo,
    conditions::is_open,
    connection::RepoConnection,
    convert::{beginning_of_name, by_position, cut_key},
    in_range,
    scan::Matching,
    timeline::Buckets,
};
use crate::{AppId, Bucket, DeadLetterFilter, DeadLetterRepoError, ErrorGroup, ErrorGroups, GroupRequest};

impl<C: RepoConnection> SeaOrmDeadLetterRepo<C> {
    pub(super) async fn group(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &GroupRequest,
    ) -> Result<ErrorGroups, DeadLetterRepoError> {
        let limit = in_range("limit", request.limit, PAGE_SIZES)?;
        let backend = self.db.get_database_backend();
        let buckets =
            request.timeline.as_ref().map(|timeline| Buckets::new(timeline, backend)).transpose()?;
        let mut matching = self.bounded(self.matching(app_id, filter)?, request.scan).await?;
        let query = group_errors(&matching, buckets.as_ref(), limit, backend);
        let mut groups: Vec<ErrorGroup> = Vec::new();
        for row in matching.fetch(&self.db, query).await? {
            let group = ErrorGroupRow::from_query_result(&row, "")?;
            // A group's rows follow each other, and of no two groups the newest row is the same.
            if groups.last().is_none_or(|last| last.newest_id != group.newest_id.into()) {
                let timeline = buckets.map_or_else(Vec::new, |buckets| buckets.empty());
                groups.push(group.into_group(timeline));
            }
            if let (Some(buckets), Some(group)) = (buckets, groups.last_mut()) {
                let count = row.try_get::<i64>("", "in_bucket")?.unsigned_abs();
                buckets.put(&row, count, &mut group.timeline)?;
            }
        }
        Ok(ErrorGroups { groups, looked_back_to: matching.looked_back_to() })
    }
}

const GROUP_KEY: [Column; 4] = [Column::Source, Column::Op, Column::ScriptId, Column::ErrorSignature];
/// The place of the bucket, which stands behind the key.
const BUCKET: i32 = 5;

/// What the statement computes for each group.
const OF_GROUP: [&str; 6] = ["letters", "first_seen", "last_seen", "settled", "last_settled_at", "newest_id"];

/// A row for each bucket of each group. The rows are read once, and counted by group and bucket; the groups
/// are summed up from that.
fn group_errors(
    matching: &Matching<'_>,
    buckets: Option<&Buckets>,
    limit: u32,
    backend: DbBackend,
) -> SelectStatement {
    let bucket = buckets.map_or(Expr::Keyword(Keyword::Null), |buckets| {
        CaseStatement::new().case(buckets.holds(), buckets.bucket()).into()
    });
    let if_settled = |then: Expr| CaseStatement::new().case(is_open().not(), then);
    let counts = Query::select()
        .columns(GROUP_KEY)
        .expr_as(bucket, "bucket")
        .expr_as(Func::count(Expr::col(Asterisk)), "in_bucket")
        .expr_as(Func::min(Expr::col(Column::CreatedAt)), "first_at")
        .expr_as(Func::max(Expr::col(Column::CreatedAt)), "last_at")
        .expr_as(Func::count(if_settled(Expr::Constant(1.into()))), "settled_in_bucket")
        .expr_as(Func::max(if_settled(Column::ResolvedAt.into_expr())), "settled_at")
        .apply(|query| matching.select_all(query))
        .group_by_columns(GROUP_KEY)
        // Its place, since a name would be that of a column that a service added.
        .add_group_by([Expr::Constant(BUCKET.into())])
        .take();

    // PostgreSQL's sums of bigint are numeric.
    let sum = |column| Expr::from(Func::sum(Expr::col(("counts", column)))).cast_as("bigint");
    let largest = Query::select()
        .columns(GROUP_KEY)
        .expr_as(sum("in_bucket"), "letters")
        .expr_as(Func::min(Expr::col(("counts", "first_at"))), "first_seen")
        .expr_as(Func::max(Expr::col(("counts", "last_at"))), "last_seen")
        .expr_as(sum("settled_in_bucket"), "settled")
        .expr_as(Func::max(Expr::col(("counts", "settled_at"))), "last_settled_at")
        .from("counts")
        .group_by_columns(GROUP_KEY)
        .apply(|groups| order_groups(groups, "counts", backend))
        .limit(limit.into())
        .take();
    // Of the few groups that are left: PostgreSQL before 18 has no max(uuid).
    let newest = Query::select()
        .column(Column::Id)
        .from(Entity)
        .cond_where(matching.condition())
        .and_where(Column::CreatedAt.into_expr().eq(Expr::col(("largest", "last_seen"))))
        .cond_where(is_same_group("largest", |column| column.into_expr()))
        .order_by(Column::Id, Order::Desc)
        .limit(1)
        .take();
    let groups = Query::select()
        .column(("largest", Asterisk))
        .expr_as(newest, "newest_id")
        .from_subquery(largest, "largest")
        .take();

    let counts =
        CommonTableExpression::new().table_name("counts").query(counts).materialized(true).to_owned();
    let groups =
        CommonTableExpression::new().table_name("groups").query(groups).materialized(true).to_owned();
    // Groups go by the whole texts, but are returned with the beginning of each.
    let beginning = |column: Column| beginning_of_name(Expr::col(("groups", column)));
    Query::select()
        .expr_as(beginning(Column::Source), "source")
        .expr_as(beginning(Column::Op), "op")
        .column(("groups", Column::ScriptId))
        .expr_as(beginning(Column::ErrorSignature), "error_signature")
        .columns(OF_GROUP.map(|column| ("groups", column)))
        .columns([("counts", "bucket"), ("counts", "in_bucket")])
        .from("groups")
        .join(JoinType::InnerJoin, "counts", is_same_group("groups", |column| Expr::col(("counts", column))))
        .apply(|groups| order_groups(groups, "groups", backend))
        .with_cte(WithClause::new().cte(counts).cte(groups).to_owned())
        .take()
}

fn is_same_group(groups: &'static str, of_row: impl Fn(Column) -> Expr) -> Condition {
    let is_same = |column: Column| {
        let (of_row, of_group) = (of_row(column), Expr::col((groups, column)));
        let is_equal = of_row.clone().eq(of_group.clone());
        match column {
            Column::ScriptId => is_equal.or(of_row.is_null().and(of_group.is_null())),
            _ => is_equal,
        }
    };
    GROUP_KEY.into_iter().map(is_same).fold(Condition::all(), Condition::add)
}

/// The same on both backends: texts by their bytes, whatever the database's language.
fn order_groups(groups: &mut SelectStatement, table: &'static str, backend: DbBackend) {
    groups.order_by("letters", Order::Desc).order_by("last_seen", Order::Desc);
    for column in GROUP_KEY {
        let key = Expr::col((table, column));
        let key = match (column, backend) {
            (Column::ScriptId, _) | (_, DbBackend::Sqlite) => key,
            _ => Func::cust("convert_to").args([key, Expr::Constant("UTF8".into())]).into(),
        };
        groups.order_by_expr_with_nulls(key, Order::Asc, NullOrdering::Last);
    }
}

by_position! {
    /// The first columns of a group's row.
    struct ErrorGroupRow {
        source: String,
        op: String,
        script_id: Option<Uuid>,
        error_signature: String,
        letters: i64,
        first_seen: DateTimeWithTimeZone,
        last_seen: DateTimeWithTimeZone,
        settled: i64,
        last_settled_at: Option<DateTimeWithTimeZone>,
        newest_id: Uuid,
    }
}

impl ErrorGroupRow {
    fn into_group(mut self, timeline: Vec<Bucket>) -> ErrorGroup {
        let key_cut = cut_key([&mut self.source, &mut self.op, &mut self.error_signature]);
        ErrorGroup {
            source: self.source,
            op: self.op,
            script_id: self.script_id.map(Into::into),
            error_signature: self.error_signature,
            key_cut,
            count: self.letters.unsigned_abs(),
            first_seen: self.first_seen.to_utc(),
            last_seen: self.last_seen.to_utc(),
            newest_id: self.newest_id.into(),
            settled: self.settled.unsigned_abs(),
            last_settled_at: self.last_settled_at.map(|at| at.to_utc()),
            timeline,
        }
    }
}
