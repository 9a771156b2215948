use dead_letters::{DeadLetterStore, GroupRequest};

use super::warn_of_scan_limit;
use crate::{
    args::Groups,
    error::Failure,
    output::{Cell, Printer, message, number, text},
    settings::Settings,
};

pub(crate) async fn groups(
    store: &dyn DeadLetterStore,
    groups: Groups,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let app_id = groups.filter.app;
    let request = GroupRequest::default().limit(groups.limit).scan_limit(groups.scan.scan_limit);
    let filter = settings.filter(groups.filter)?;
    let found = store.error_groups(app_id, &filter, &request).await?;
    let columns = [
        number("letters"),
        text("last"),
        text("source"),
        text("op"),
        text("group"),
        message("signature"),
        message("sample"),
    ];
    printer.print(&found, &found.groups, columns, |group| {
        [
            group.count.into(),
            Cell::Time(group.last_seen),
            group.source.as_str().into(),
            group.op.as_str().into(),
            group.group_key.as_str().into(),
            group.error_signature.as_str().into(),
            group.sample.as_str().into(),
        ]
    })?;
    warn_of_scan_limit(found.scanned_back_to);
    Ok(())
}
