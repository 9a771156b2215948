//! One module per command. A command takes plain values and a printer, and returns a result.

mod apps;
mod archive;
mod change;
mod count;
mod delete;
mod erase;
mod export;
mod groups;
#[cfg(feature = "serve")]
mod health;
mod history;
mod import;
mod list;
mod matching;
mod migrate;
mod reopen;
mod replay;
mod resolve;
mod select;
#[cfg(feature = "serve")]
mod serve;
mod show;
mod signatures;
mod sweep;
mod tally;
mod timeline;

pub(crate) use self::{
    apps::apps, archive::erase_archived, count::count, delete::delete, erase::erase, export::export,
    groups::groups, history::history, import::import, list::list, migrate::migrate, reopen::reopen,
    replay::replay, resolve::resolve, show::show, signatures::rebuild, sweep::sweep, timeline::timeline,
};

#[cfg(feature = "serve")]
pub(crate) use {health::Health, serve::serve};

use chrono::{DateTime, Utc};

use crate::output::Printer;

/// Prints to standard error where the scan limit stopped the call.
fn warn_of_scan_limit(printer: &Printer, scanned_back_to: Option<DateTime<Utc>>) {
    if let Some(time) = scanned_back_to {
        let time = printer.clock().time(time);
        say!("note: scanned back to {time}; raise --scan-limit to examine older letters");
    }
}
