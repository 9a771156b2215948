use dead_letters::BacklogRequest;
use dead_letters::DeadLetterStore;
use serde::Serialize;

use crate::{
    args::Apps,
    error::Failure,
    output::{Cell, Printer, amount, id, number},
};

/// Cap of the counts of an app's letters.
const CAP: u32 = 10_000;

pub(crate) async fn apps(
    store: &dyn DeadLetterStore,
    apps: Apps,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let items =
        store.backlogs(&BacklogRequest::default().after(apps.after).limit(apps.limit).cap(CAP)).await?;
    let next = items.last().filter(|_| items.len() >= apps.limit as usize).map(|last| last.app_id);
    #[derive(Serialize)]
    struct Page<'a, T> {
        items: &'a [T],
        next: Option<dead_letters::AppId>,
    }
    let columns = [id("app"), number("open"), number("unresolved"), id("oldest"), id("newest")];
    printer.print(&Page { items: &items, next }, &items, columns, |app| {
        [
            app.app_id.into(),
            amount(app.open).into(),
            amount(app.unresolved).into(),
            Cell::Age(app.oldest),
            Cell::Age(app.newest),
        ]
    })?;
    if let Some(next) = next {
        say!("note: there may be more apps: --after {next}");
    }
    Ok(())
}
