//! The statements that insert new letters.

use chrono::SecondsFormat;
use dead_letters_entity::dead_letters::{Column, Entity};
use sea_orm::{
    ConnectionTrait, DbErr,
    sea_query::{
        ArrayType, Asterisk, CaseStatement, CommonTableExpression, Expr, ExprTrait, Func, InsertStatement,
        Query, Value, WithClause, WithQuery,
    },
};
use serde_json::Value as Json;

use super::{
    SeaOrmDeadLetterRepo,
    cached_sql::CachedSql,
    connection::RepoConnection,
    convert::{self, NEW_COLUMNS, NewRow, OverCap, Values},
    dialect::Dialect,
    new_id, transaction,
};
use crate::{DeadLetterId, DeadLetterRepoError, NewDeadLetter, db_code::DbCode};

/// The most text in one statement. A larger letter gets a statement of its own. PostgreSQL ends the connection on
/// a statement of 1 GB, which looks like an outage.
const MAX_BYTES: usize = 16 << 20;
/// The most text in one statement in a caller's transaction. Several statements could be left half done there, and
/// committed.
const MAX_BYTES_IN_TRANSACTION: usize = 256 << 20;
/// The bytes that a row counts in addition to its texts, so that the number of small rows is bounded too.
pub(super) const ROW_BYTES: usize = 256;
/// The most rows in a statement with VALUES, if a call may send several statements.
const VALUES_ROWS: usize = 128;
const DIVISION_BY_ZERO: DbCode = DbCode::SqlState(*b"22012");

pub(super) async fn insert<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    letter: NewDeadLetter,
) -> Result<DeadLetterId, DeadLetterRepoError> {
    let id = new_id();
    let row = convert::to_new_row(id, letter, OverCap::Refuse, 0, repo.limits)?;
    one(&repo.db, repo.dialect()?, row).await?;
    Ok(id)
}

pub(super) async fn insert_many<C: RepoConnection>(
    repo: &SeaOrmDeadLetterRepo<C>,
    letters: Vec<NewDeadLetter>,
) -> Result<Vec<DeadLetterId>, DeadLetterRepoError> {
    let ids: Vec<_> = letters.iter().map(|_| new_id()).collect();
    if ids.is_empty() {
        return Ok(ids);
    }
    let rows = convert::to_new_rows(&ids, letters, repo.limits)?;
    let dialect = repo.dialect()?;
    let Some(pool) = repo.db.pool() else {
        let bytes = rows.iter().map(bytes_of).sum();
        let form = form_of_one_statement::<NEW_COLUMNS>(dialect, rows.len(), bytes)?;
        batch(&repo.db, rows, form).await?;
        return Ok(ids);
    };
    let form = dialect.form();
    let batches = batches(form, rows, bytes_of);
    if batches.len() > 1 || form != Form::Arrays {
        transaction::run(pool, async |txn| all(txn, batches, form).await).await?;
    } else {
        all(&repo.db, batches, form).await?;
    }
    Ok(ids)
}

/// How a statement sends its rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// An array for each column.
    Arrays,
    Values,
    /// One JSON text. SQLite only, for more rows than VALUES can bind.
    Json,
}

/// Returns the form in which all rows of a call fit one statement.
pub(super) fn form_of_one_statement<const COLUMNS: usize>(
    dialect: Dialect,
    rows: usize,
    bytes: usize,
) -> Result<Form, DeadLetterRepoError> {
    let refused = |unit, size, max| {
        Err(DeadLetterRepoError::TooLargeForTransaction { argument: "letters", unit, size, max })
    };
    if bytes > MAX_BYTES_IN_TRANSACTION {
        return refused("bytes", bytes, MAX_BYTES_IN_TRANSACTION);
    }
    let max_rows = dialect.max_binds() / COLUMNS;
    match dialect {
        Dialect::Sharded if rows > max_rows => refused("letters", rows, max_rows),
        Dialect::Sqlite if rows > max_rows => Ok(Form::Json),
        _ => Ok(dialect.form()),
    }
}

/// Inserts one row.
pub(super) async fn one(
    db: &impl ConnectionTrait,
    dialect: Dialect,
    row: NewRow,
) -> Result<(), DeadLetterRepoError> {
    static INSERT: CachedSql = CachedSql::new();
    let columns = row.each_ref().map(|&(column, _)| column);
    let values = row.into_iter().map(|(_, value)| value);
    // These values are not sent. The statement sends the values of the row.
    let build = || insert_values([columns.map(|column| (column, Value::Int(None)))]);
    let insert = INSERT.with(dialect, values, build);
    stored(db.execute_raw(insert).await?.rows_affected(), 1)
}

pub(super) fn insert_values<const COLUMNS: usize>(
    rows: impl IntoIterator<Item = Values<COLUMNS>>,
) -> InsertStatement {
    let mut insert = Query::insert().into_table(Entity).to_owned();
    for row in rows {
        insert.columns(row.each_ref().map(|&(column, _)| column));
        // Each row has as many values as there are columns, so this does not fail.
        insert.values(row.map(|(_, value)| value.into())).ok();
    }
    insert
}

/// Splits rows into the batches that are sent as one statement each.
pub(super) fn batches<T>(
    form: Form,
    rows: impl IntoIterator<Item = T>,
    bytes_of: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    let max_rows = if form == Form::Arrays { usize::MAX } else { VALUES_ROWS };
    let mut batches: Vec<Vec<_>> = Vec::new();
    let mut bytes = 0;
    for row in rows {
        let of_row = bytes_of(&row);
        match batches.last_mut() {
            Some(batch) if batch.len() < max_rows && bytes + of_row <= MAX_BYTES => {
                bytes += of_row;
                batch.push(row);
            }
            _ => {
                bytes = of_row;
                batches.push(vec![row]);
            }
        }
    }
    batches
}

fn bytes_of(row: &NewRow) -> usize {
    let len = |value: &Value| if let Value::String(Some(text)) = value { text.len() } else { 0 };
    row.iter().map(|(_, value)| len(value)).sum::<usize>() + ROW_BYTES
}

/// Sends each batch as one statement. A statement of arrays stores all of its rows or none.
async fn all(
    db: &impl ConnectionTrait,
    batches: Vec<Vec<NewRow>>,
    form: Form,
) -> Result<(), DeadLetterRepoError> {
    for rows in batches {
        batch(db, rows, form).await?;
    }
    Ok(())
}

async fn batch(db: &impl ConnectionTrait, rows: Vec<NewRow>, form: Form) -> Result<(), DeadLetterRepoError> {
    let count = rows.len() as u64;
    let insert = match form {
        Form::Arrays => return arrays_or_none(db, rows).await,
        Form::Values => insert_values(rows),
        Form::Json => insert_json(rows),
    };
    stored(db.execute(&insert).await?.rows_affected(), count)
}

async fn arrays_or_none(db: &impl ConnectionTrait, rows: Vec<NewRow>) -> Result<(), DeadLetterRepoError> {
    static INSERT: CachedSql = CachedSql::new();
    let count = rows.len();
    let (columns, arrays) = arrays(rows);
    let values = arrays.into_iter().chain([(count as i64).into()]);
    match db.query_one_raw(INSERT.with(Dialect::Postgres, values, || all_or_none(&columns))).await {
        Ok(_) => Ok(()),
        Err(error) if DbCode::of(&error) == Some(DIVISION_BY_ZERO) => Err(DbErr::RecordNotInserted.into()),
        Err(error) => Err(error.into()),
    }
}

/// Returns an error if a statement stored fewer rows than it sent. A rule or a trigger of the database can drop a
/// row without an error.
fn stored(rows: u64, of: u64) -> Result<(), DeadLetterRepoError> {
    if rows == of { Ok(()) } else { Err(DbErr::RecordNotInserted.into()) }
}

/// How a column's values are sent as an array. An array of sea-query can't hold NULL.
enum Array {
    Of(ArrayType),
    /// An array of texts: an empty text for NULL, otherwise `=` and the value, which the statement casts to this
    /// type.
    Nullable(&'static str),
}

fn array_of(column: Column) -> Array {
    match column {
        Column::Id | Column::AppId | Column::OriginalEventId => Array::Of(ArrayType::Uuid),
        Column::AttemptCount => Array::Of(ArrayType::Int),
        Column::SignatureVersion => Array::Of(ArrayType::SmallInt),
        Column::FirstAttemptAt | Column::LastAttemptAt | Column::CreatedAt => {
            Array::Of(ArrayType::ChronoDateTimeWithTimeZone)
        }
        Column::Source
        | Column::Op
        | Column::Payload
        | Column::PayloadKind
        | Column::LastError
        | Column::ErrorSignature
        | Column::GroupKey => Array::Of(ArrayType::String),
        Column::TriggerId | Column::ScriptId | Column::RunId => Array::Nullable("uuid"),
        Column::ResolvedAt | Column::ErasedAt => Array::Nullable("timestamptz"),
        Column::ReplayedPayload
        | Column::Metadata
        | Column::Resolution
        | Column::ResolvedBy
        | Column::ResolutionNote => Array::Nullable("text"),
    }
}

fn as_text(value: Value) -> Value {
    let text = match value {
        Value::Uuid(Some(id)) => id.to_string(),
        Value::ChronoDateTimeWithTimeZone(Some(time)) => time.to_rfc3339(),
        Value::String(Some(text)) => text,
        _ => return "".into(),
    };
    format!("={text}").into()
}

/// Returns the columns, and an array of values for each.
pub(super) fn arrays<const COLUMNS: usize>(rows: Vec<Values<COLUMNS>>) -> (Vec<Column>, Vec<Value>) {
    let columns: Vec<_> = rows.iter().take(1).flatten().map(|&(column, _)| column).collect();
    let mut rows: Vec<_> = rows.into_iter().map(IntoIterator::into_iter).collect();
    let arrays = columns.iter().map(|&column| {
        let values = rows.iter_mut().filter_map(Iterator::next).map(|(_, value)| value);
        match array_of(column) {
            Array::Of(array_type) => Value::Array(array_type, Some(Box::new(values.collect()))),
            Array::Nullable(_) => {
                Value::Array(ArrayType::String, Some(Box::new(values.map(as_text).collect())))
            }
        }
    });
    let arrays = arrays.collect();
    (columns, arrays)
}

/// Returns `INSERT … SELECT unnest($1), unnest($2), …`. Its text and its plan are the same for any number of rows.
/// One statement needs no transaction around it, and is faster than VALUES for many rows.
pub(super) fn insert_arrays(columns: &[Column]) -> InsertStatement {
    // These values are not sent. The statement sends those of `arrays`.
    let unnest = |array_type: ArrayType| Func::cust("unnest").arg(Value::Array(array_type, None));
    let constant = |value: Value| Expr::Constant(value);
    let mut rows = Query::select();
    for &column in columns {
        rows.expr(match array_of(column) {
            Array::Of(array_type) => Expr::from(unnest(array_type)),
            Array::Nullable(sql_type) => {
                let some = Func::cust("NULLIF").arg(unnest(ArrayType::String)).arg(constant("".into()));
                Expr::from(Func::cust("substr").arg(some).arg(constant(2.into()))).cast_as(sql_type)
            }
        });
    }
    let mut insert = Query::insert();
    insert.into_table(Entity).columns(columns.iter().copied());
    // There are as many columns as expressions, so this does not fail.
    insert.select_from(rows).ok();
    insert
}

/// Returns `INSERT … SELECT json_extract(value, '$[0]'), … FROM json_each(?)`, which binds one value for any
/// number of rows.
fn insert_json(rows: Vec<NewRow>) -> InsertStatement {
    let columns: Vec<_> = rows.iter().take(1).flatten().map(|&(column, _)| column).collect();
    let letters: Vec<Json> =
        rows.into_iter().map(|row| row.map(|(_, value)| to_json(value)).into()).collect();
    let mut fields = Query::select();
    for (index, &column) in columns.iter().enumerate() {
        let path = Expr::Constant(format!("$[{index}]").into());
        let field = Func::cust("json_extract").arg(Expr::col("value")).arg(path);
        fields.expr(match array_of(column) {
            Array::Of(ArrayType::Uuid) | Array::Nullable("uuid") => Func::cust("unhex").arg(field),
            _ => field,
        });
    }
    fields.from_function(Func::cust("json_each").arg(Json::from(letters).to_string()), "letter");
    let mut insert = Query::insert();
    insert.into_table(Entity).columns(columns);
    // There are as many columns as fields, so this does not fail.
    insert.select_from(fields).ok();
    insert
}

/// Returns the value in the format in which the driver sends it to SQLite. An id is hexadecimal text in JSON.
fn to_json(value: Value) -> Json {
    match value {
        Value::Uuid(Some(id)) => id.simple().to_string().into(),
        Value::ChronoDateTimeWithTimeZone(Some(time)) => {
            time.to_rfc3339_opts(SecondsFormat::AutoSi, false).into()
        }
        Value::String(Some(text)) => text.into(),
        Value::Int(Some(number)) => number.into(),
        Value::SmallInt(Some(number)) => number.into(),
        _ => Json::Null,
    }
}

/// Returns a statement that stores all rows or none. If a rule or a trigger drops a row, the statement divides by
/// 0, and the error undoes the rows that were stored.
fn all_or_none(columns: &[Column]) -> WithQuery {
    let number = |number: i64| Expr::Constant(number.into());
    let mut insert = insert_arrays(columns);
    // A constant, because returning a column would require the right to SELECT.
    insert.returning(Query::returning().expr(number(1)));
    let stored = CommonTableExpression::new().table_name("stored").query(insert).to_owned();
    let all = Func::count(Expr::col(Asterisk)).eq(Expr::val(0_i64));
    let divisor = CaseStatement::new().case(all, number(1)).finally(number(0));
    Query::select()
        .expr(number(1).div(Expr::Case(Box::new(divisor))))
        .from("stored")
        .take()
        .with(WithClause::new().cte(stored).to_owned())
}
