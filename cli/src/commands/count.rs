use dead_letters::{CountRequest, DeadLetterStore};

use super::warn_of_scan_limit;
use crate::{
    args::Count,
    error::Failure,
    output::{Printer, amount, number},
    settings::Settings,
};

pub(crate) async fn count(
    store: &dyn DeadLetterStore,
    count: Count,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let (app_id, scan_limit) = (count.filter.app, count.scan.scan_limit);
    let filter = settings.filter(count.filter)?;
    let found =
        store.count(app_id, &filter, &CountRequest::default().cap(count.cap).scan_limit(scan_limit)).await?;
    printer.print(&found, &[found], [number("letters")], |found| [amount(found.matching).into()])?;
    warn_of_scan_limit(found.scanned_back_to);
    Ok(())
}
