use dead_letters::{AppId, Backlog, BacklogRequest, DeadLetterStore};
use serde::Serialize;

use crate::{
    args::Apps,
    error::Failure,
    output::{Cell, Layout, Printer, amount, id, number, text},
    settings::Settings,
};

/// Cap of the counts of an app's letters.
const CAP: u32 = 10_000;

pub(crate) async fn apps(
    store: &dyn DeadLetterStore,
    apps: Apps,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let items =
        store.backlogs(&BacklogRequest::default().after(apps.after).limit(apps.limit).cap(CAP)).await?;
    let next = items.last().filter(|_| items.len() >= apps.limit as usize).map(|last| last.app_id);
    #[derive(Serialize)]
    struct Page<'a> {
        items: &'a [Backlog],
        next: Option<AppId>,
    }
    let has_name = items.iter().any(|app| settings.apps.name(app.app_id).is_some());
    let mut columns = vec![id("app")];
    columns.extend(has_name.then(|| text("name")));
    columns.extend([number("open"), number("unresolved"), id("oldest"), id("newest")]);
    let cells = |app: &Backlog| {
        let mut cells: Vec<Cell> = vec![app.app_id.into()];
        cells.extend(has_name.then(|| settings.apps.name(app.app_id).map_or(Cell::None, Cell::Text)));
        cells.extend([amount(app.open).into(), amount(app.unresolved).into()]);
        cells.extend([Cell::Age(app.oldest), Cell::Age(app.newest)]);
        cells
    };
    let layout = Layout { columns, cells: Box::new(cells) };
    printer.print_as(&Page { items: &items, next }, &items, layout, None)?;
    if let Some(next) = next {
        say!("note: there may be more apps: --after {next}");
    }
    Ok(())
}
