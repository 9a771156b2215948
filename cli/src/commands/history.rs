use std::{cmp::Reverse, collections::BTreeSet};

use chrono::DateTime;
use dead_letters::{ActionRequest, AppId, DeadLetterAction, DeadLetterState, DeadLetterStore};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    args::History,
    error::Failure,
    ids::{App, apps, locate, short_letter},
    output::{Cell, Layout, Printer, id, message, number, text},
    settings::Settings,
};

pub(crate) async fn history(
    store: &dyn DeadLetterStore,
    history: History,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let History { id: letter, app, run, after, limit } = history;
    let has_app = app.is_none();
    let mut request = ActionRequest::default().run_id(run).after(after).limit(limit);
    let apps = match letter {
        None => with_history(store, settings, app).await?,
        Some(letter) => {
            let located = locate(store, settings, app, vec![letter]).await?;
            let found: Vec<_> =
                located.by_app.iter().flat_map(|(app, ids)| ids.iter().map(|id| (*app, *id))).collect();
            match (&found[..], &located.missing[..]) {
                (&[(app_id, id)], []) => {
                    let run_id = store.summary(app_id, id).await?.and_then(|letter| letter.run_id);
                    request = request.letter_id(id).run_id(run_id);
                    BTreeSet::from([app_id])
                }
                // A letter that was deleted is in no app. The actions that named it are.
                ([], &[id]) => {
                    request = request.letter_id(id);
                    with_history(store, settings, None).await?
                }
                _ => return Err(Failure::usage("standard input does not have the ID of one letter")),
            }
        }
    };
    let (mut items, mut has_more) = (Vec::new(), false);
    for app_id in apps {
        let page = store.actions(app_id, &request).await?;
        has_more |= page.len() >= limit as usize;
        items.extend(page);
        items.sort_by_key(|action: &DeadLetterAction| Reverse(action.id));
        has_more |= items.len() > limit as usize;
        items.truncate(limit as usize);
    }
    let next = items.last().filter(|_| has_more).map(|last| last.id);
    print(printer, &items, next, has_app.then_some(settings))?;
    if items.is_empty() && has_app {
        say!(
            "note: without --app, only apps that have letters or one of the newest 10,000 actions are searched; for another app: \
             --app APP_ID, the whole ID"
        );
    }
    if let Some(next) = next {
        say!("note: there may be more actions: --after {next}");
    }
    Ok(())
}

/// Returns the app, or those that have letters or one of the newest actions.
async fn with_history(
    store: &dyn DeadLetterStore,
    settings: &Settings,
    app: Option<App>,
) -> Result<BTreeSet<AppId>, Failure> {
    let is_any = app.is_none();
    let mut found: BTreeSet<_> =
        apps(store, settings, app, DeadLetterState::Any).await?.into_iter().collect();
    if is_any {
        found.extend(store.recent_apps(DateTime::UNIX_EPOCH).await?.iter().map(|app| app.app_id));
    }
    Ok(found)
}

/// Prints the actions. With the settings, people see each action's app.
fn print(
    printer: &mut Printer,
    items: &[DeadLetterAction],
    next: Option<Uuid>,
    with_app: Option<&Settings>,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Page<'a> {
        items: &'a [DeadLetterAction],
        next: Option<Uuid>,
    }
    let cell = |text: Option<&str>| text.map_or(Cell::None, Cell::from);
    let cells = move |action: &DeadLetterAction, letter: Option<String>| -> Vec<Cell> {
        vec![
            Cell::Time(action.created_at),
            action.action.map_or("unknown", |action| action.as_str()).into(),
            cell(action.resolution.map(|resolution| resolution.as_str())),
            action.letters.into(),
            cell(action.actor.as_deref()),
            cell(action.note.as_deref()),
            cell(letter.as_deref().or(action.filter.as_deref())),
        ]
    };
    let columns = || {
        vec![
            id("when"),
            id("action"),
            text("resolution"),
            number("letters"),
            text("by"),
            text("note"),
            message("letter or filter"),
        ]
    };
    let full = Layout {
        columns: columns().into_iter().chain([id("app"), id("run")]).collect(),
        cells: Box::new(|action: &DeadLetterAction| {
            let mut cells = cells(action, action.letter_id.map(|id| id.to_string()));
            cells.push(action.app_id.into());
            cells.push(action.run_id.map_or(Cell::None, Cell::from));
            cells
        }),
    };
    let brief = Layout {
        columns: with_app.map(|_| id("app")).into_iter().chain(columns()).collect(),
        cells: Box::new(|action: &DeadLetterAction| {
            let app = with_app.map(|settings| settings.apps.short(action.app_id).into());
            app.into_iter().chain(cells(action, action.letter_id.map(short_letter))).collect()
        }),
    };
    printer.print_as(&Page { items, next }, items, full, Some(brief))?;
    Ok(())
}
