use dead_letters::{Count, CountRequest, DeadLetterStore};

use super::{
    select::{Selected, select},
    warn_of_scan_limit,
};
use crate::{
    args,
    error::Failure,
    output::{Printer, amount, number},
    settings::Settings,
};

pub(crate) async fn count(
    store: &dyn DeadLetterStore,
    count: args::Count,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let scan_limit = count.scan.scan_limit;
    let Selected { apps, filter, .. } = select(store, count.filter, settings, Ok).await?;
    let mut sum = Count::default();
    (sum.now, sum.as_of) = (settings.now, settings.now);
    for app_id in apps {
        // One more than the rest of the cap shows whether there is more.
        let rest = count.cap - u32::try_from(sum.matching.count).unwrap_or(count.cap);
        let request = CountRequest::default().cap(rest.saturating_add(1)).scan_limit(scan_limit);
        let found = store.count(app_id, &filter, &request).await?;
        sum.matching.count += found.matching.count;
        sum.matching.capped |= found.matching.capped;
        sum.scanned_back_to = sum.scanned_back_to.max(found.scanned_back_to);
        (sum.now, sum.as_of) = (found.now, found.as_of);
        if sum.matching.count > u64::from(count.cap) || sum.matching.capped {
            (sum.matching.count, sum.matching.capped) = (count.cap.into(), true);
            break;
        }
    }
    printer.print(&sum, &[sum], [number("letters")], |sum| [amount(sum.matching).into()])?;
    warn_of_scan_limit(printer, sum.scanned_back_to);
    Ok(())
}
