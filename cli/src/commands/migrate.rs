use dead_letters::migration::sea_orm_migration::MigratorTraitSelf;
use serde::Serialize;

use crate::{
    args::Migrate,
    database::Opened,
    error::Failure,
    output::{Printer, text},
};

pub(crate) async fn migrate(
    database: &Opened,
    migrator: impl MigratorTraitSelf,
    migrate: Migrate,
    printer: &mut Printer,
) -> Result<(), Failure> {
    match migrate {
        Migrate::Up => up(database, migrator, printer).await,
        Migrate::Status => status(database, &migrator, printer).await,
    }
}

async fn up(
    database: &Opened,
    migrator: impl MigratorTraitSelf,
    printer: &mut Printer,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Up {
        applied: Vec<String>,
    }
    let up = Up { applied: database.migrate(migrator).await? };
    printer.print(&up, &up.applied, [text("applied")], |step| [step.into()])?;
    say!("note: the schema is current");
    Ok(())
}

async fn status(
    database: &Opened,
    migrator: &impl MigratorTraitSelf,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let status = database.status(migrator).await?;
    printer.print(&status, &status.pending, [text("pending")], |step| [step.into()])?;
    if let Some(failure) = status.failure {
        return Err(failure);
    }
    if status.recorded_elsewhere {
        say!(
            "note: the dead_letters table has every column that this version needs; its steps are recorded in another table"
        );
    } else {
        say!("note: the schema is current");
    }
    Ok(())
}
