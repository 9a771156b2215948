use std::collections::BTreeSet;

use dead_letters::{ArchiveError, DeadLetterId, JsonLinesArchive};
use serde_json::json;

use crate::{
    args::EraseArchived,
    error::{Exit, Failure, ended},
    output::Printer,
    stop::Stop,
};

/// Erases letters in the files of an archive, and stops between two files. The database is not used.
pub(crate) fn erase_archived(
    erase: &EraseArchived,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let (mut letters, mut missing) = (0, erase.ids.iter().copied().collect());
    let ran = match erase_in_files(erase, &mut letters, &mut missing, stop) {
        Err(failure) if letters == 0 => return Err(failure),
        Err(failure) => Err(failure.after_a_part()),
        // The files that are left may have the missing letters.
        Ok(false) => Err(Failure::silent(Exit::Partly)),
        Ok(true) => {
            for id in &missing {
                say!("{id}: no file of the archive has this letter");
            }
            match missing.len() {
                0 => Ok(()),
                number if erase.ids.iter().collect::<BTreeSet<_>>().len() == number => {
                    Err(Failure::silent(Exit::NotFound))
                }
                _ => Err(Failure::silent(Exit::Partly)),
            }
        }
    };
    let sentence = format!("{letters} archived {} erased", if letters == 1 { "letter" } else { "letters" });
    ended(ran, printer.sentence(&json!({ "erased": letters }), &sentence, &[letters.to_string()]))
}

/// Erases the letters file by file. Counts them, and removes the ids that a file has from the missing ones. Returns
/// whether no file is left.
fn erase_in_files(
    erase: &EraseArchived,
    letters: &mut u64,
    missing: &mut BTreeSet<DeadLetterId>,
    stop: &Stop,
) -> Result<bool, Failure> {
    let failed = |error: ArchiveError| {
        Failure::failed(error.to_string()).hint("the files before are done; run the command again")
    };
    let files = JsonLinesArchive::files(&erase.path).map_err(failed)?;
    for (done, file) in files.iter().enumerate() {
        if stop.is_asked() {
            say!("note: stopped after {done} of {} files; run the command again", files.len());
            return Ok(false);
        }
        let erased = JsonLinesArchive::erase(file, &erase.ids).map_err(failed)?;
        *letters += erased.letters;
        missing.retain(|id| erased.missing.binary_search(id).is_ok());
    }
    Ok(true)
}
