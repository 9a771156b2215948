use dead_letters::{DeadLetterStore, DeadLetterSummary, Page, PageRequest};

use super::warn_of_scan;
use crate::{
    args::List,
    error::Failure,
    output::{Cell, Printer, first_line, id, text},
    settings::Settings,
};

pub(crate) async fn list(
    store: &dyn DeadLetterStore,
    list: List,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let app_id = list.filter.app;
    let page = PageRequest { size: list.size, after: list.after, scan: Some(list.filter.scan) };
    let filter = settings.filter(list.filter)?;
    let page = store.list(app_id, &filter, &page).await?;
    print(printer, &page)?;
    warn_of_scan(page.looked_back_to);
    if let Some(next) = page.next {
        say!("note: there are more: --after {next}");
    }
    Ok(())
}

pub(crate) fn print(printer: &mut Printer, page: &Page<DeadLetterSummary>) -> Result<(), Failure> {
    let columns = [id("id"), text("when"), text("state"), text("source"), text("op"), text("error")];
    printer.print(page, &page.items, columns, |letter| {
        [
            letter.id.into(),
            Cell::Time(letter.created_at),
            state(letter).into(),
            letter.source.as_str().into(),
            letter.op.as_str().into(),
            first_line(&letter.error_excerpt).into(),
        ]
    })?;
    Ok(())
}

/// What became of it.
pub(crate) fn state(letter: &DeadLetterSummary) -> &'static str {
    match (letter.resolved_at, letter.resolution) {
        (None, _) => "unresolved",
        (Some(_), Some(resolution)) => resolution.as_str(),
        (Some(_), None) => "resolved",
    }
}
