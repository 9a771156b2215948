use std::cmp::Reverse;

use chrono::{DateTime, SecondsFormat, Utc};
use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterRepoError, DeadLetterState, DeadLetterStore, ErrorGroup, GroupRequest,
    NewErrorGroup, NewGroupRequest,
};
use serde::Serialize;

use super::{
    list::of_search,
    select::{Selected, select},
    warn_of_scan_limit,
};
use crate::{
    args::Groups,
    error::Failure,
    ids::{AppNames, named_app, short_key},
    output::{Cell, Layout, Printer, id, message, number, text},
    settings::{Settings, time_at},
};

/// An error group of one app.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Group {
    pub(crate) app_id: AppId,
    #[serde(flatten)]
    pub(crate) of_app: ErrorGroup,
}

/// The largest groups of some apps.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    pub(crate) groups: Vec<Group>,
    scanned_back_to: Option<DateTime<Utc>>,
}

impl Found {
    /// Adds the groups of an app, and keeps the largest.
    pub(crate) async fn add(
        &mut self,
        store: &dyn DeadLetterStore,
        app_id: AppId,
        filter: &DeadLetterFilter,
        request: &GroupRequest,
    ) -> Result<(), Failure> {
        let found = store.error_groups(app_id, filter, request).await.map_err(of_search)?;
        self.scanned_back_to = self.scanned_back_to.max(found.scanned_back_to);
        self.groups.extend(found.groups.into_iter().map(|of_app| Group { app_id, of_app }));
        self.groups.sort_by_key(|group| Reverse((group.of_app.count, group.of_app.last_seen)));
        self.groups.truncate(request.limit as usize);
        Ok(())
    }
}

pub(crate) async fn groups(
    store: &dyn DeadLetterStore,
    groups: Groups,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let has_app = groups.filter.app.is_none();
    if let Some(since) = &groups.new_since {
        let since = time_at(settings.now, "--new-since", since)?;
        let mut request =
            NewGroupRequest::since(since).limit(groups.limit).scan_limit(groups.scan.scan_limit);
        if let Some(app) = groups.filter.app {
            request.among = Some(vec![named_app(store, settings, app).await?]);
        }
        return new_groups(store, &request, has_app, &settings.apps, printer).await;
    }
    let mut request = GroupRequest::default().limit(groups.limit).scan_limit(groups.scan.scan_limit);
    request.payload_contains = groups.payload.payload_contains;
    let Selected { apps, filter, .. } = select(store, groups.filter, settings, Ok).await?;
    let mut found = Found::default();
    for app_id in apps {
        found.add(store, app_id, &filter, &request).await?;
    }
    let full = Layout {
        columns: vec![
            number("letters"),
            text("last"),
            text("source"),
            text("op"),
            id("group"),
            message("signature"),
            message("sample"),
            id("app"),
        ],
        cells: Box::new(|Group { app_id, of_app: group }: &Group| {
            vec![
                group.count.into(),
                Cell::Time(group.last_seen),
                group.source.as_str().into(),
                group.op.as_str().into(),
                group.group_key.as_str().into(),
                group.error_signature.as_str().into(),
                group.sample.as_str().into(),
                app_id.into(),
            ]
        }),
    };
    let mut columns = vec![id("group")];
    columns.extend(has_app.then(|| id("app")));
    columns.extend([number("letters"), id("last"), text("source/op"), message("sample")]);
    let cells = move |Group { app_id, of_app: group }: &Group| {
        let mut cells: Vec<Cell> = vec![short_key(&group.group_key).into()];
        cells.extend(has_app.then(|| settings.apps.short(*app_id).into()));
        cells.extend([group.count.into(), Cell::Age(group.last_seen)]);
        cells.push(format!("{}/{}", group.source, group.op).into());
        cells.push(group.sample.as_str().into());
        cells
    };
    printer.print_as(&found, &found.groups, full, Some(Layout { columns, cells: Box::new(cells) }))?;
    match found.scanned_back_to {
        // Large payloads may have ended the call below the scan limit.
        Some(time) if request.payload_contains.is_some() => {
            say!("note: searched back to {}", printer.clock().time(time));
            let option = match filter.effective_state() {
                DeadLetterState::Closed => "--resolved-until",
                _ => "--until",
            };
            let until = time.to_rfc3339_opts(SecondsFormat::Micros, true);
            say!("hint: search older letters with {option} {until}");
        }
        scanned_back_to => warn_of_scan_limit(printer, scanned_back_to),
    }
    Ok(())
}

async fn new_groups(
    store: &dyn DeadLetterStore,
    request: &NewGroupRequest,
    has_app: bool,
    apps: &AppNames,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let found = store.new_error_groups(request).await.map_err(|error| match error {
        DeadLetterRepoError::SinceInFuture(since) => {
            Failure::usage(format!("--new-since must not be in the future (got {since})"))
        }
        error => error.into(),
    })?;
    let full = Layout {
        columns: vec![
            text("state"),
            number("letters"),
            text("first"),
            id("app"),
            text("source"),
            text("op"),
            id("group"),
            message("signature"),
            message("sample"),
        ],
        cells: Box::new(|group: &NewErrorGroup| {
            vec![
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
        }),
    };
    let mut columns = vec![id("group")];
    columns.extend(has_app.then(|| id("app")));
    columns.extend([text("state"), number("letters"), id("first"), text("source/op"), message("sample")]);
    let cells = move |group: &NewErrorGroup| {
        let mut cells: Vec<Cell> = vec![short_key(&group.group_key).into()];
        cells.extend(has_app.then(|| apps.short(group.app_id).into()));
        cells.push(group.state.as_str().into());
        cells.extend([group.count.into(), Cell::Age(group.first_seen)]);
        cells.push(format!("{}/{}", group.source, group.op).into());
        cells.push(group.sample.as_str().into());
        cells
    };
    printer.print_as(&found, &found.groups, full, Some(Layout { columns, cells: Box::new(cells) }))?;
    warn_of_scan_limit(printer, found.scanned_back_to);
    Ok(())
}
