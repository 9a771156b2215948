use dead_letters::{Buckets, DeadLetterStore, Timeline, TimelineRequest};

use super::{
    select::{Selected, select},
    warn_of_scan_limit,
};
use crate::{
    args,
    error::Failure,
    output::{Cell, Printer, id, number, text},
    settings::Settings,
};

/// Width of the largest bucket's bar.
const BAR: u64 = 20;

pub(crate) async fn timeline(
    store: &dyn DeadLetterStore,
    timeline: args::Timeline,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let scan_limit = timeline.scan.scan_limit;
    let Selected { apps, filter, .. } = select(store, timeline.filter, settings, Ok).await?;
    // The options have defaults.
    let range = filter.created_from.unwrap_or(settings.now)..filter.created_before.unwrap_or(settings.now);
    let request = TimelineRequest::from(Buckets::new(range, timeline.buckets)).scan_limit(scan_limit);
    let mut sum = Timeline::default();
    for app_id in apps {
        let found = store.timeline(app_id, &filter, &request).await?;
        sum.scanned_back_to = sum.scanned_back_to.max(found.scanned_back_to);
        match sum.buckets.is_empty() {
            true => sum.buckets = found.buckets,
            false => {
                for (sum, found) in sum.buckets.iter_mut().zip(found.buckets) {
                    sum.count += found.count;
                }
            }
        }
    }
    let most = sum.buckets.iter().map(|bucket| bucket.count).max().unwrap_or_default().max(1);
    let bar = |count: u64| "#".repeat((count * BAR).div_ceil(most) as usize);
    printer.newest_last();
    printer.print(&sum, &sum.buckets, [id("from"), id("age"), number("letters"), text("")], |bucket| {
        [Cell::Time(bucket.from), Cell::Age(bucket.from), bucket.count.into(), bar(bucket.count).into()]
    })?;
    warn_of_scan_limit(printer, sum.scanned_back_to);
    Ok(())
}
