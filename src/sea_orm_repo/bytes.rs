//! How many bytes a row holds, without fetching them.

use dead_letters_entity::dead_letters::Column;
use sea_orm::{
    ColumnTrait, IdenStatic,
    sea_query::{Expr, ExprTrait, Func},
};

/// The most that pages of an export, batches for an archive and batches of a replay hold, unless one row is larger.
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

/// The sum of the lengths of a row's texts, as a 64-bit integer: several texts of 1 GB overflow a 32-bit one.
/// PostgreSQL knows the length of a text that is stored apart from its row without reading it.
pub(super) fn row_bytes() -> Expr {
    let bytes = |column: Column| {
        let bytes = Func::cust("octet_length").arg(column.into_expr());
        Expr::from(Func::coalesce([bytes.into(), Expr::Constant(0.into())])).cast_as("bigint")
    };
    TEXTS.map(bytes).into_iter().reduce(ExprTrait::add).unwrap_or_else(|| Expr::val(0))
}

/// The same as PostgreSQL's SQL, of the table or subquery of this name.
pub(super) fn row_bytes_of(table: &str) -> String {
    let bytes = TEXTS.map(|column| format!("coalesce(octet_length({table}.{}), 0)::bigint", column.as_str()));
    bytes.join(" + ")
}
