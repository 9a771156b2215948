//! How SQL differs between the databases.

use std::time::Duration;

use sea_orm::{
    DbBackend, DbErr, Statement, StatementBuilder,
    sea_query::{BinOper, Expr, ExprTrait, Func},
};

use super::insert::Form;
use crate::AppId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Postgres,
    /// PostgreSQL, with a table that is distributed by `app_id`.
    Sharded,
    Sqlite,
}

impl Dialect {
    /// Returns the dialect of a table that is not distributed, or an error for a backend without support.
    pub(super) fn of(backend: DbBackend) -> Result<Self, DbErr> {
        match backend {
            DbBackend::Postgres => Ok(Self::Postgres),
            DbBackend::Sqlite => Ok(Self::Sqlite),
            other => Err(DbErr::BackendNotSupported {
                db: other.as_str(),
                ctx: "dead-letters runs on PostgreSQL and SQLite only",
            }),
        }
    }

    /// Returns the dialect of the same backend for a distributed table. SQLite has none.
    pub(super) fn distributed(self) -> Self {
        if self == Self::Postgres { Self::Sharded } else { self }
    }

    pub(super) fn backend(self) -> DbBackend {
        match self {
            Self::Postgres | Self::Sharded => DbBackend::Postgres,
            Self::Sqlite => DbBackend::Sqlite,
        }
    }

    pub(super) fn build(self, query: &impl StatementBuilder) -> Statement {
        self.backend().build(query)
    }

    /// Returns the app if the table is distributed. A condition on the app then routes a statement to one shard.
    pub(super) fn shard(self, app_id: AppId) -> Option<AppId> {
        (self == Self::Sharded).then_some(app_id)
    }

    /// Returns the form of a batch of new rows. Citus sends VALUES straight to the shards of their apps, but first
    /// gathers the rows of a SELECT, such as one over arrays, in one place.
    pub(super) fn form(self) -> Form {
        if self == Self::Postgres { Form::Arrays } else { Form::Values }
    }

    /// Returns the most values that a statement can bind.
    pub(super) fn max_binds(self) -> usize {
        if self == Self::Sqlite { 32_766 } else { 65_535 }
    }

    /// Returns the database's time at the start of the statement, as a value for a row. SQLite's is text in the
    /// driver's format.
    pub(super) fn now(self) -> Expr {
        if self != Self::Sqlite {
            // `now()` is the start of the transaction, which may be earlier. `clock_timestamp()` differs from row to
            // row.
            return Func::cust("statement_timestamp").into();
        }
        sqlite_time([constant("now")])
    }

    /// Returns [`now`](Self::now) plus this time.
    pub(super) fn now_and(self, time: Duration) -> Expr {
        let seconds = time.as_secs_f64();
        if self != Self::Sqlite {
            // `make_interval` takes the seconds last, after years, months, weeks, days, hours and minutes.
            let interval = Func::cust("make_interval").args([0; 6].map(constant_number)).arg(seconds);
            return self.now().add(interval);
        }
        sqlite_time([constant("now"), format!("+{seconds:.3} seconds").into()])
    }

    /// Returns [`now`](Self::now) as an upper bound. All rows that a statement sees were created before it, except
    /// rows that were stored with a later time. SQLite's clock has milliseconds, so the bound is the next millisecond.
    pub(super) fn now_as_bound(self) -> Expr {
        if self != Self::Sqlite {
            return self.now();
        }
        let next = ["%Y-%m-%dT%H:%M:%f+00:00", "now", "+0.001 seconds"];
        Func::cust("strftime").args(next.map(constant)).into()
    }

    /// Returns the text with its letters A to Z in lower case, and no other letter changed.
    pub(super) fn ascii_lower(self, text: Expr) -> Expr {
        // PostgreSQL's `lower` goes by the database's locale, unless the text has the collation C.
        let text = match self {
            Self::Sqlite => text,
            _ => text.binary(BinOper::Custom("COLLATE"), Expr::col("C")),
        };
        Func::lower(text).into()
    }

    /// Returns the position of a part in a text, or 0. LIKE would need its wildcards escaped, and ignores case on
    /// SQLite.
    pub(super) fn position(self, text: Expr, part: String) -> Expr {
        let position = if self == Self::Sqlite { "instr" } else { "strpos" };
        Func::cust(position).arg(text).arg(part).into()
    }
}

/// Returns SQLite's time in the driver's format, which has no fraction at a whole second.
fn sqlite_time(time: impl IntoIterator<Item = Expr>) -> Expr {
    let format = constant("%Y-%m-%dT%H:%M:%f+00:00");
    let time = Func::cust("strftime").args([format].into_iter().chain(time));
    Func::cust("replace").args([time.into(), constant(".000+"), constant("+")]).into()
}

fn constant(text: &str) -> Expr {
    Expr::Constant(text.into())
}

fn constant_number(number: i32) -> Expr {
    Expr::Constant(number.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mysql_is_refused_by_name() {
        let refusal = Dialect::of(DbBackend::MySql).map_err(|error| error.to_string());
        let expected =
            "Operation not supported by backend MySql: dead-letters runs on PostgreSQL and SQLite only";
        assert_eq!(refusal, Err(expected.to_owned()));
    }
}
