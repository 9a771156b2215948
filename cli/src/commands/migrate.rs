use dead_letters::migration::sea_orm_migration::MigratorTraitSelf;
use serde::Serialize;

use crate::{
    args::Migrate,
    database::Opened,
    error::{Failure, ended},
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
    let printed = printer.print(&status, &status.pending, [text("pending")], |step| [step.into()]);
    let recorded_elsewhere = status.recorded_elsewhere;
    ended(status.failure.map_or(Ok(()), Err), printed)?;
    if recorded_elsewhere {
        say!(
            "note: the dead_letters table has every column that this version needs; its steps are recorded in another table"
        );
    } else {
        say!("note: the schema is current");
    }
    Ok(())
}
