//! The size of a row in bytes, computed by the database.

use dead_letters_entity::dead_letters::Column;
use sea_orm::{
    ColumnTrait, IdenStatic,
    sea_query::{Expr, ExprTrait, Func},
};

/// The most text in a page of an export, a batch for an archive and a batch of a replay, unless one row is larger.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// All columns whose values have no bound, or a large one.
const TEXTS: [Column; 9] = [
    Column::Payload,
    Column::ReplayedPayload,
    Column::Metadata,
    Column::Source,
    Column::Op,
    Column::LastError,
    Column::ErrorSignature,
    Column::ResolvedBy,
    Column::ResolutionNote,
];

/// Returns the sum of the lengths of a row's texts, as a 64-bit integer, because several texts of 1 GB overflow a
/// 32-bit one. PostgreSQL has the length of a TOASTed text without reading the text.
pub(super) fn row_bytes() -> Expr {
    let bytes = |column: Column| {
        let bytes = Func::cust("octet_length").arg(column.into_expr());
        Expr::from(Func::coalesce([bytes.into(), Expr::Constant(0.into())])).cast_as("bigint")
    };
    TEXTS.map(bytes).into_iter().reduce(ExprTrait::add).unwrap_or_else(|| Expr::val(0))
}

/// Returns [`row_bytes`] as PostgreSQL's SQL, for the table or subquery with this name.
pub(super) fn row_bytes_of(table: &str) -> String {
    let bytes = TEXTS.map(|column| format!("coalesce(octet_length({table}.{}), 0)::bigint", column.as_str()));
    bytes.join(" + ")
}
