//! Schema migrations of [`dead-letters`](https://crates.io/crates/dead-letters), for PostgreSQL and SQLite.
//!
//! Run them with `sea-orm-cli migrate up -d migration` or with [`Migrator`]. Alternatively, put
//! `Migrator::migrations()` in front of your own steps in your service's `Migrator`, and run that in [`Locked`].
//!
//! A released step never changes. Steps never import the entities, because a change of the entities would change
//! the steps.

use sea_orm_migration::{MigratorTraitSelf, prelude::*, sea_orm::DbBackend};

mod encoding;
mod lock;
mod locked;
mod m20261201_000001_dead_letters_create_table;
mod m20261201_000002_dead_letter_actions_create_table;
mod m20261201_000003_dead_letter_announcements_create_table;
mod settings;
mod status;
mod types;

pub use locked::Locked;
pub use sea_orm_migration;
pub use status::{SchemaError, check_schema};

/// The steps of `dead-letters`, in order. `up` runs them in [`Locked`].
///
/// # Examples
///
/// ```
/// use dead_letters_migration::{Locked, Migrator, sea_orm_migration::prelude::*};
///
/// /// The steps of dead-letters, and then those of the service.
/// struct OwnMigrator;
///
/// impl MigratorTrait for OwnMigrator {
///     fn migrations() -> Vec<Box<dyn MigrationTrait>> {
///         let mut steps = Migrator::migrations();
///         steps.extend(own_steps());
///         steps
///     }
/// }
/// # fn own_steps() -> Vec<Box<dyn MigrationTrait>> {
/// #     Vec::new()
/// # }
/// #
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let db = dead_letters_migration::sea_orm_migration::sea_orm::Database::connect("sqlite::memory:").await?;
/// # dead_letters_migration::sea_orm_migration::MigratorTraitSelf::up(&Locked(OwnMigrator), &db, None).await?;
/// # dead_letters_migration::check_schema(&db, &OwnMigrator).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261201_000001_dead_letters_create_table::Migration),
            Box::new(m20261201_000002_dead_letter_actions_create_table::Migration),
            Box::new(m20261201_000003_dead_letter_announcements_create_table::Migration),
        ]
    }

    async fn up<'c, C>(db: C, steps: Option<u32>) -> Result<(), DbErr>
    where
        C: IntoSchemaManagerConnection<'c>,
    {
        Locked(Self).up(db, steps).await
    }
}

/// Returns an error for a backend on which `dead-letters` can't keep its promises. MySQL and MariaDB have neither
/// partial indexes nor a LIMIT in an IN subquery, and their timestamps default to whole seconds.
fn require_supported(backend: DbBackend) -> Result<(), DbErr> {
    match backend {
        DbBackend::Postgres | DbBackend::Sqlite => Ok(()),
        other => Err(DbErr::BackendNotSupported {
            db: other.as_str(),
            ctx: "dead-letters runs on PostgreSQL and SQLite only",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mysql_is_refused_by_name() {
        let refusal = require_supported(DbBackend::MySql).map_err(|error| error.to_string());
        let expected =
            "Operation not supported by backend MySql: dead-letters runs on PostgreSQL and SQLite only";
        assert_eq!(refusal, Err(expected.to_owned()));
    }
}
