use std::collections::BTreeSet;

use dead_letters::{ArchiveError, DeadLetterId, JsonLinesArchive};
use serde_json::json;

use crate::{
    args::EraseArchived,
    error::{Exit, Failure, ended},
    output::Printer,
};

/// Erases letters in the files of an archive. The database is not used.
pub(crate) fn erase_archived(erase: &EraseArchived, printer: &mut Printer) -> Result<(), Failure> {
    let again = |error: ArchiveError| {
        Failure::failed(error.to_string()).hint("the files before are done; run the command again")
    };
    let erased = JsonLinesArchive::erase(&erase.path, &erase.ids).map_err(again)?;
    let missing = missing(erase).map_err(again)?;
    for id in &missing {
        say!("{id}: no file of the archive has this letter");
    }
    let ran = match missing.len() {
        0 => Ok(()),
        number if erase.ids.iter().collect::<BTreeSet<_>>().len() == number => {
            Err(Failure::silent(Exit::NotFound))
        }
        _ => Err(Failure::silent(Exit::Partly)),
    };
    let sentence = format!("{erased} archived {} erased", if erased == 1 { "letter" } else { "letters" });
    ended(ran, printer.sentence(&json!({ "erased": erased }), &sentence, &[erased.to_string()]))
}

/// Returns the ids that no file has. A letter that was erased before is there.
fn missing(erase: &EraseArchived) -> Result<BTreeSet<DeadLetterId>, ArchiveError> {
    let mut missing: BTreeSet<_> = erase.ids.iter().copied().collect();
    for archived in JsonLinesArchive::read(&erase.path)? {
        missing.remove(&archived?.letter.id);
    }
    Ok(missing)
}
