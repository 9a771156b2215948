//! Steps from app to app: each step is one search of an index, however many rows an app has.

use sea_orm::sea_query::{
    CommonTableExpression, Expr, ExprTrait, Query, SelectStatement, UnionType, WithClause,
};

/// The CTE.
pub(super) const APPS: &str = "apps";
/// The CTE's app. It is NULL in the row behind the last app, and a statement that selects from the CTE leaves that row out.
pub(super) const APP: (&str, &str) = (APPS, "app_id");

/// Returns a CTE of apps, smallest first, at most `limit` of them. `first` selects the first app, and `next` the one
/// behind [`APP`]. Recursion does not work across shards.
pub(super) fn app_steps(first: SelectStatement, next: SelectStatement, limit: Option<u64>) -> WithClause {
    const NUMBER: &str = "number";
    let one = || Expr::Constant(1.into());
    let further = Query::select()
        .expr(next)
        .expr(Expr::col(NUMBER).add(one()))
        .from(APPS)
        .and_where(Expr::col(APP).is_not_null())
        .and_where_option(limit.map(|limit| Expr::col(NUMBER).lt(Expr::val(limit))))
        .take();
    let apps = Query::select().expr(first).expr(one()).union(UnionType::All, further).take();
    let apps = CommonTableExpression::new().table_name(APPS).columns([APP.1, NUMBER]).query(apps).to_owned();
    WithClause::new().recursive(true).cte(apps).to_owned()
}
