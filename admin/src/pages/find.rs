//! Finds the letters of an id, in all apps that the operator may see: the letter's own id, or that of its event or
//! trigger.

use askama::Template;
use axum::{http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterState, DeadLetterSummary, IdFilter, Page, PageRequest, TriggerId,
};
use uuid::Uuid;

use super::{
    back::Back,
    banner::{Banner, On},
    frame::Frame,
    html,
    listing::scan,
    see_other,
    text::{Amount, ErrorText, Text, Time},
};
use crate::{access::Access, input::Query, problem::Problem, urls::Root};

/// How many apps are searched for events and triggers. Each takes two statements.
const APPS: u32 = 100;
/// How many letters of an app are shown.
const SHOWN: u32 = 20;

#[derive(Template)]
#[template(path = "find.html")]
struct FindPage {
    frame: Frame,
    id: Text,
    is_id: bool,
    found: Vec<Found>,
    apps: usize,
    /// Whether there are more apps than were searched.
    has_more_apps: bool,
    /// Whether an app has more letters of the id than are shown.
    has_more: bool,
    /// How many letters of each app the search examined at most, the newest first.
    scan: Amount,
    /// The latest time at which the search of an app stopped.
    scanned_back_to: Option<Time>,
}

struct Found {
    address: String,
    app: Text,
    error: ErrorText,
    source: Text,
    op: Text,
    created: Time,
    /// Whether the id is the event's or the trigger's.
    by: &'static str,
}

pub(crate) async fn page(access: Access, root: Root, Query(mut fields): Query) -> Result<Response, Problem> {
    let text = fields.take("id")?.unwrap_or_default();
    let banner = fields.take("banner")?;
    fields.end()?;
    let Ok(id) = text.trim().parse::<Uuid>() else {
        let page = FindPage::new(&access, &root, &text);
        let is_invalid = !text.trim().is_empty();
        let frame = page.frame.sought(text.trim(), is_invalid);
        let mut response = html(&FindPage { is_id: false, frame, ..page })?;
        if is_invalid {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        return Ok(response);
    };
    let store = access.store();
    let banner = Banner::read(&access, &root, banner, None, &On::Page(Back::Find(id))).await?;
    if let Some(app_id) = store.app_of(id.into()).await?.filter(|&app_id| access.operator.sees(app_id)) {
        return Ok(see_other(&root.letter(app_id, id.into())));
    }
    let (apps, has_more_apps) = apps(&access).await?;
    let page = FindPage::new(&access, &root, &text);
    let frame = page.frame.banner(banner);
    let mut page = FindPage { apps: apps.len(), has_more_apps, frame, ..page };
    let any = DeadLetterFilter::default().state(DeadLetterState::Any);
    let filters = [
        ("event", any.clone().original_event_id(id)),
        ("trigger", any.trigger_id(IdFilter::Is(TriggerId::from(id)))),
    ];
    let request = PageRequest::default().size(SHOWN).scan_limit(scan(&access.operator));
    for app_id in apps {
        for (by, filter) in &filters {
            page.add(&access, &root, app_id, by, store.list(app_id, filter, &request).await?);
        }
    }
    html(&page)
}

/// Returns the apps to search, and whether there are more.
async fn apps(access: &Access) -> Result<(Vec<AppId>, bool), Problem> {
    let mut apps = match access.operator.apps() {
        Some(apps) => apps.iter().copied().take(APPS as usize + 1).collect(),
        None => access.store().apps(DeadLetterState::Any, None, APPS + 1).await?,
    };
    let has_more = apps.len() > APPS as usize;
    apps.truncate(APPS as usize);
    Ok((apps, has_more))
}

impl FindPage {
    fn new(access: &Access, root: &Root, id: &str) -> Self {
        Self {
            frame: Frame::new(root, access)
                .crumb("Overview", root.apps())
                .here("Find")
                .sought(id.trim(), false),
            id: Text::cut(id.trim(), 100),
            is_id: true,
            found: Vec::new(),
            apps: 0,
            has_more_apps: false,
            has_more: false,
            scan: Amount::exactly(scan(&access.operator).into()),
            scanned_back_to: None,
        }
    }

    fn add(
        &mut self,
        access: &Access,
        root: &Root,
        app_id: AppId,
        by: &'static str,
        page: Page<DeadLetterSummary>,
    ) {
        let stopped: Option<DateTime<Utc>> = page.scanned_back_to;
        self.has_more |= page.next.is_some() && stopped.is_none();
        self.scanned_back_to = stopped.max(self.scanned_back_to.map(|Time(at)| at)).map(Time);
        self.found.extend(page.items.iter().map(|letter| Found {
            address: root.letter(app_id, letter.id),
            app: Text::cut(&access.admin.app_name(app_id), 200),
            error: ErrorText::of_excerpt(&letter.error_excerpt),
            source: Text::cut(&letter.source, 100),
            op: Text::cut(&letter.op, 100),
            created: Time(letter.created_at),
            by,
        }));
    }
}
