//! One module per command. A command takes plain values and a printer, and returns a result.

mod apps;
mod change;
mod count;
mod export;
mod groups;
#[cfg(feature = "serve")]
mod health;
mod import;
mod list;
mod matching;
mod reopen;
mod replay;
mod resolve;
#[cfg(feature = "serve")]
mod serve;
mod show;
mod signatures;
mod sweep;
mod tally;
mod timeline;

pub(crate) use self::{
    apps::apps, count::count, export::export, groups::groups, import::import, list::list, reopen::reopen,
    replay::replay, resolve::resolve, show::show, signatures::rebuild, sweep::sweep, timeline::timeline,
};

#[cfg(feature = "serve")]
pub(crate) use {health::Health, serve::serve};

use chrono::{DateTime, SecondsFormat, Utc};

/// Prints to standard error where the scan limit stopped the call.
fn warn_of_scan_limit(scanned_back_to: Option<DateTime<Utc>>) {
    if let Some(time) = scanned_back_to {
        let time = time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        say!("note: scanned back to {time}; raise --scan-limit to examine older letters");
    }
}
