use dead_letters::JsonLinesArchive;
use serde_json::json;

use crate::{args::EraseArchived, error::Failure, output::Printer};

/// Erases letters in the files of an archive. The database is not used.
pub(crate) fn erase_archived(erase: &EraseArchived, printer: &mut Printer) -> Result<(), Failure> {
    let erased = JsonLinesArchive::erase(&erase.path, &erase.ids).map_err(|error| {
        Failure::failed(error.to_string()).hint("the files before are done; run the command again")
    })?;
    let sentence = format!("{erased} archived {} erased", if erased == 1 { "letter" } else { "letters" });
    Ok(printer.sentence(&json!({ "erased": erased }), &sentence, &[erased.to_string()])?)
}
