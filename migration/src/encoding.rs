//! Checks the database's encoding. Only UTF-8 can hold every text.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

/// Returns the encoding of a PostgreSQL database that is not UTF8. SQLite accepts any text, whatever its encoding.
pub(crate) async fn other_than_utf8(db: &impl ConnectionTrait) -> Result<Option<String>, DbErr> {
    if db.get_database_backend() != DbBackend::Postgres {
        return Ok(None);
    }
    let encoding = Query::select().expr(Func::cust("current_setting").arg("server_encoding")).take();
    let encoding = db.query_one(&encoding).await?.map(|row| row.try_get_by_index(0)).transpose()?;
    Ok(encoding.filter(|encoding| encoding != "UTF8"))
}

pub(crate) async fn require_utf8(db: &impl ConnectionTrait) -> Result<(), DbErr> {
    match other_than_utf8(db).await? {
        None => Ok(()),
        Some(encoding) => Err(DbErr::Migration(refusal(&encoding))),
    }
}

pub(crate) fn refusal(encoding: &str) -> String {
    format!(
        "dead-letters needs a database whose encoding is UTF8, and this one's is {encoding}: create one with \
         ENCODING 'UTF8'"
    )
}
