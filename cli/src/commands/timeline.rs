use dead_letters::{Buckets, DeadLetterStore, TimelineRequest};

use super::warn_of_scan_limit;
use crate::{
    args::Timeline,
    error::Failure,
    output::{Cell, Printer, number, text},
    settings::Settings,
};

/// Width of the largest bucket's bar.
const BAR: u64 = 30;

pub(crate) async fn timeline(
    store: &dyn DeadLetterStore,
    timeline: Timeline,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let (app_id, scan_limit) = (timeline.filter.app, timeline.scan.scan_limit);
    let request = Buckets::new(
        settings.time("--from", &timeline.from)?..settings.time("--until", &timeline.until)?,
        timeline.buckets,
    );
    let filter = settings.filter(timeline.filter)?;
    let found =
        store.timeline(app_id, &filter, &TimelineRequest::from(request).scan_limit(scan_limit)).await?;
    let most = found.buckets.iter().map(|bucket| bucket.count).max().unwrap_or_default().max(1);
    let bar = |count: u64| "#".repeat((count * BAR).div_ceil(most) as usize);
    printer.print(&found, &found.buckets, [text("from"), number("letters"), text("")], |bucket| {
        [Cell::Time(bucket.from), bucket.count.into(), bar(bucket.count).into()]
    })?;
    warn_of_scan_limit(found.scanned_back_to);
    Ok(())
}
