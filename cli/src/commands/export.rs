use std::{
    io::{self, BufWriter, IsTerminal, Write},
    thread,
};

use dead_letters::{DeadLetterFilter, DeadLetterState, DeadLetterStore, PageRequest, StoredLetter};
use tokio::sync::{mpsc, oneshot};

use super::select::{Selected, select};
use crate::{
    args::Export,
    error::{Exit, Failure, ended},
    output::json_line,
    progress::Progress,
    settings::Settings,
    stop::Stop,
};

/// Letters per page. A page also ends at 16 MB of payload. At most three pages are in memory.
const PAGE: u32 = 1_000;
const BUFFER_BYTES: usize = 256 << 10;

/// Prints letters as JSON lines, which `import` reads, app by app. Ignores `--output`.
pub(crate) async fn export(
    store: &dyn DeadLetterStore,
    export: Export,
    settings: &Settings,
    stop: &Stop,
) -> Result<(), Failure> {
    let any =
        |filter: DeadLetterFilter| Ok(filter.clone().state(filter.state.or(Some(DeadLetterState::Any))));
    let Selected { apps, filter, .. } = select(store, export.filter, settings, any).await?;
    let mut apps = apps.into_iter().peekable();
    let mut page = PageRequest::default().size(PAGE).scan_limit(export.scan_limit);
    let (pages, written) = writer();
    let (mut sent, progress) = (0, Progress::of(None));
    let read = loop {
        let Some(&app_id) = apps.peek() else { break Ok(()) };
        let letters = tokio::select! {
            biased;
            () = stop.asked() => {
                say!("note: stopped after {sent} letters; there are more");
                break Err(Failure::silent(Exit::Partly));
            }
            letters = store.export(app_id, &filter, &page) => match letters {
                Ok(letters) => letters,
                Err(error) => break Err(Failure::from(error)),
            },
        };
        sent += letters.items.len() as u64;
        if pages.send(letters.items).await.is_err() {
            break Ok(());
        }
        progress.is_at(sent);
        // A page that ends at the scan limit is not the last one: an export covers all matching letters.
        page.after = letters.next;
        if page.after.is_none() {
            apps.next();
        }
    };
    drop(pages);
    let written =
        written.await.unwrap_or_else(|_| Err(io::Error::other("the writing thread ended unexpectedly")));
    ended(read.map_err(|failure| if sent == 0 { failure } else { failure.after_a_part() }), written)
}

/// Starts a thread that writes pages while the next one is read. Returns the sender of pages and the receiver of the
/// thread's result.
fn writer() -> (mpsc::Sender<Vec<StoredLetter>>, oneshot::Receiver<io::Result<()>>) {
    let (pages, mut next) = mpsc::channel::<Vec<_>>(1);
    let (ended, written) = oneshot::channel();
    thread::spawn(move || {
        let on_terminal = io::stdout().is_terminal();
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout());
        let mut write = |letters: Vec<StoredLetter>| -> io::Result<()> {
            for letter in letters {
                json_line(&mut out, &letter, on_terminal)?;
            }
            out.flush()
        };
        let mut so_far = Ok(());
        while let Some(letters) = next.blocking_recv() {
            so_far = write(letters);
            if so_far.is_err() {
                break;
            }
        }
        ended.send(so_far)
    });
    (pages, written)
}
