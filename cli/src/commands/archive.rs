use std::collections::BTreeSet;

use dead_letters::{ErasedInArchive, JsonLinesArchive};
use serde_json::json;

use crate::{
    args::EraseArchived,
    error::{Exit, Failure, ended},
    output::Printer,
};

/// Erases letters in the files of an archive. The database is not used.
pub(crate) fn erase_archived(erase: &EraseArchived, printer: &mut Printer) -> Result<(), Failure> {
    let erased = JsonLinesArchive::erase(&erase.path, &erase.ids);
    let ErasedInArchive { letters, missing, .. } = erased.map_err(|error| {
        Failure::failed(error.to_string()).hint("the files before are done; run the command again")
    })?;
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
    let sentence = format!("{letters} archived {} erased", if letters == 1 { "letter" } else { "letters" });
    ended(ran, printer.sentence(&json!({ "erased": letters }), &sentence, &[letters.to_string()]))
}
