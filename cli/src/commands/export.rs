use dead_letters::{DeadLetterStore, PageRequest};

use crate::{
    args::Export,
    error::{Exit, Failure},
    output::Printer,
    settings::Settings,
    stop::Stop,
};

/// Letters a page, which ends at 16 MB of payload too: no more is held at a time.
const PAGE: u32 = 500;

/// Whatever `--output` says: it is what `import` takes.
pub(crate) async fn export(
    store: &dyn DeadLetterStore,
    export: Export,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let (app_id, scan) = (export.filter.app, export.filter.scan);
    let filter = settings.filter(export.filter)?;
    let mut page = PageRequest { size: PAGE, after: None, scan: Some(scan) };
    loop {
        let letters = store.export(app_id, &filter, &page).await?;
        printer.lines(&letters.items)?;
        if letters.next.is_none() {
            return Ok(());
        }
        if stop.is_asked() {
            say!("note: it was stopped, and there are more");
            return Err(Failure::silent(Exit::Partly));
        }
        // However much a scan looks at: all are meant.
        page.after = letters.next;
    }
}
