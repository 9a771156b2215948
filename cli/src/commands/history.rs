use dead_letters::{ActionRequest, DeadLetterAction, DeadLetterStore};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    args::History,
    error::Failure,
    output::{Cell, Printer, message, number, text},
};

pub(crate) async fn history(
    store: &dyn DeadLetterStore,
    history: History,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let History { id, app, run, after, limit } = history;
    let mut request = ActionRequest::default().letter_id(id).run_id(run).after(after).limit(limit);
    if let Some(id) = id {
        // If the letter was deleted, only the actions that named it are known.
        request.run_id = store.summary(app, id).await?.and_then(|letter| letter.run_id);
    }
    let items = store.actions(app, &request).await?;
    let next = items.last().filter(|_| items.len() >= limit as usize).map(|last| last.id);
    #[derive(Serialize)]
    struct Page<'a> {
        items: &'a [DeadLetterAction],
        next: Option<Uuid>,
    }
    let columns = [
        text("when"),
        text("action"),
        text("resolution"),
        number("letters"),
        text("by"),
        text("note"),
        message("letter or filter"),
    ];
    let cell = |text: Option<&str>| text.map_or(Cell::None, Cell::from);
    printer.print(&Page { items: &items, next }, &items, columns, |action| {
        let target = action.letter_id.map(|id| id.to_string());
        [
            Cell::Time(action.created_at),
            action.action.map_or("unknown", |action| action.as_str()).into(),
            cell(action.resolution.map(|resolution| resolution.as_str())),
            action.letters.into(),
            cell(action.actor.as_deref()),
            cell(action.note.as_deref()),
            cell(target.as_deref().or(action.filter.as_deref())),
        ]
    })?;
    if let Some(next) = next {
        say!("note: there may be more actions: --after {next}");
    }
    Ok(())
}
