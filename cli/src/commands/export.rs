use dead_letters::{DeadLetterStore, PageRequest};

use crate::{
    args::Export,
    error::{Exit, Failure},
    output::Printer,
    progress::Progress,
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
    let (mut written, progress) = (0, Progress::of(None));
    loop {
        let letters = store.export(app_id, &filter, &page).await.map_err(|error| {
            let failure = Failure::from(error);
            if written == 0 { failure } else { failure.after_a_part() }
        })?;
        printer.lines(&letters.items)?;
        written += letters.items.len() as u64;
        progress.is_at(written);
        if letters.next.is_none() {
            return Ok(());
        }
        if stop.is_asked() {
            say!("note: it was stopped after {written} letters, and there are more");
            return Err(Failure::silent(Exit::Partly));
        }
        // However much a scan looks at: all are meant.
        page.after = letters.next;
    }
}
