use dead_letters::{Attribution, DeadLetterStore, PayloadKind};
use uuid::Uuid;

use super::{
    change::{BATCH, PREVENTED},
    matching::{Ask, letters},
    tally::Tally,
};
use crate::{
    args::Erase,
    confirm::confirm,
    error::Failure,
    ids::{Located, locate},
    output::Printer,
    settings::Settings,
    stop::Stop,
};

pub(crate) async fn erase(
    store: &dyn DeadLetterStore,
    erase: Erase,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let Erase { letters: ids, app, note, by, yes } = erase;
    let ask = Ask::of(false, yes)?;
    let mut attribution = Attribution::default().run_id(Uuid::now_v7());
    (attribution.by, attribution.note) = (by, note);
    let located = tokio::select! {
        located = locate(store, settings, app, ids) => located?,
        () = stop.asked() => return Err(Failure::failed("nothing was changed")),
    };
    let count: u64 = located.by_app.iter().map(|(_, ids)| ids.len() as u64).sum();
    if ask == Ask::First && count > 0 {
        let letters = letters(count);
        let database = &settings.database;
        let question = format!(
            "The content of {letters} will be erased in {database}: payload, error, metadata and note. It can't be \
             restored.\nContinue?"
        );
        confirm(&question, stop).await?;
    }
    let mut tally = Tally::of(settings);
    let ran = erase_all(store, located, &attribution, &mut tally, stop).await;
    tally.end(ran, "erased", "erased", None, None, printer)
}

async fn erase_all(
    store: &dyn DeadLetterStore,
    located: Located,
    attribution: &Attribution,
    tally: &mut Tally,
    stop: &Stop,
) -> Result<(), Failure> {
    for id in located.missing {
        tally.missing(id);
    }
    for (app_id, ids) in located.by_app {
        for ids in ids.chunks(BATCH as usize) {
            if tally.stops(stop) {
                return Ok(());
            }
            let erased = store.erase(app_id, ids, attribution).await?;
            tally.done(app_id, erased.ids.len());
            for &id in ids.iter().filter(|id| !erased.ids.contains(id)) {
                match store.summary(app_id, id).await? {
                    // An erased letter may have a new note, which could not be erased.
                    Some(_) if erased.skipped_locked.contains(&id) => {
                        tally.left(id, PREVENTED);
                    }
                    None => tally.missing(id),
                    // The letter already has the state that the caller wants.
                    Some(letter) if letter.payload_kind == Some(PayloadKind::Erased) => {
                        say!("{id}: the content of the letter is erased already");
                    }
                    Some(_) => tally.left(id, PREVENTED),
                }
            }
        }
    }
    Ok(())
}
