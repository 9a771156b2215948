use dead_letters::{DeadLetterStore, GroupRequest, NewGroupRequest};

use super::warn_of_scan_limit;
use crate::{
    args::{Filter, Groups},
    error::Failure,
    output::{Cell, Printer, id, message, number, text},
    settings::Settings,
};

pub(crate) async fn groups(
    store: &dyn DeadLetterStore,
    groups: Groups,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let Groups { app, new_since, narrow, scan, limit } = groups;
    if let Some(since) = new_since {
        let since = settings.time("--new-since", &since)?;
        let mut request = NewGroupRequest::since(since).limit(limit).scan_limit(scan.scan_limit);
        request.among = app.map(|app_id| vec![app_id]);
        return new_groups(store, &request, printer).await;
    }
    let app_id = app.ok_or_else(|| {
        Failure::usage("no app is given")
            .hint("pass --app, or list the new groups of all apps with --new-since")
    })?;
    let request = GroupRequest::default().limit(limit).scan_limit(scan.scan_limit);
    let filter = settings.filter(Filter { app: app_id, narrow })?;
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

async fn new_groups(
    store: &dyn DeadLetterStore,
    request: &NewGroupRequest,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let found = store.new_error_groups(request).await?;
    let columns = [
        text("state"),
        number("letters"),
        text("first"),
        id("app"),
        text("source"),
        text("op"),
        text("group"),
        message("signature"),
        message("sample"),
    ];
    printer.print(&found, &found.groups, columns, |group| {
        [
            group.state.as_str().into(),
            group.count.into(),
            Cell::Time(group.first_seen),
            group.app_id.into(),
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
