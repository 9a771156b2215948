//! The history of an app.

use axum::Json;
use chrono::{DateTime, Utc};
use dead_letters::{Action, ActionRequest, DeadLetterAction, Resolution};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::model::{ActionWords, MAX_NAME_CHARACTERS, MAX_NOTE_CHARACTERS, ResolutionWords, cut};
use crate::{
    access::{Access, AppAccess},
    input::{AppPath, Fields, Query},
    metadata::shown_filter,
    problem::Problem,
};

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameters")]
struct ActionsQuery {
    /// Only calls that named this letter.
    #[param(required = false)]
    letter_id: Uuid,
    /// Only calls of this bulk run. Together with `letter_id`, the calls that named the letter and the batches of the
    /// run.
    #[param(required = false)]
    run_id: Uuid,
    /// The `next` of the page before.
    #[param(required = false)]
    after: Uuid,
    /// The maximum number of actions.
    #[param(required = false, minimum = 1, maximum = 500, default = 50)]
    limit: u32,
}

impl ActionsQuery {
    fn read(fields: &mut Fields) -> Result<ActionRequest, Problem> {
        let mut id = |name| fields.parse::<Uuid>(name, "must be a uuid");
        let (letter_id, run_id, after) = (id("letter_id")?, id("run_id")?, id("after")?);
        let request =
            ActionRequest::default().letter_id(letter_id.map(Into::into)).run_id(run_id).after(after);
        let limit = fields.parse("limit", "must be between 1 and 500")?;
        Ok(request.limit(limit.unwrap_or(request.limit)))
    }
}

/// A page of an app's history.
#[derive(Serialize, ToSchema)]
pub(super) struct Actions {
    /// The actions, newest first.
    items: Vec<ActionItem>,
    /// The `after` of the next page. Null if this is the last page.
    next: Option<Uuid>,
}

/// A call of an operator that changed one letter or saw its redacted content, or one batch of a bulk run.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterAction)]
struct ActionItem {
    id: Uuid,
    /// The kind of call. Null if this version does not know the action.
    #[schema(value_type = Option<ActionWords>)]
    action: Option<Action>,
    /// When it was done.
    created_at: DateTime<Utc>,
    /// The operator, if known, cut after 500 characters with `…`.
    actor: Option<String>,
    /// The operator's note, cut after 2,000 characters with `…`.
    note: Option<String>,
    /// The letter. Null for a bulk call, unless its filter names one letter by its id.
    letter_id: Option<Uuid>,
    /// The filter of a bulk call as a query string, at most 1,000 bytes. It has only the number of a filter's ids. Redacted
    /// values are `[redacted]`. Null for a call that named a letter.
    filter: Option<String>,
    /// The number of letters that the call changed or showed.
    letters: u64,
    /// The resolution that the letters got. Null if the call set none, or if this version does not know the resolution.
    #[schema(value_type = Option<ResolutionWords>)]
    resolution: Option<Resolution>,
    /// The resolution that the letter had before. Null if it was unresolved, for a call that named no
    /// letter, and if this version does not know the resolution.
    #[schema(value_type = Option<ResolutionWords>)]
    previous_resolution: Option<Resolution>,
    /// The bulk run that the call belongs to. The `letters` of its calls add up to those of the run.
    run_id: Option<Uuid>,
}

impl ActionItem {
    fn new(access: &AppAccess, action: DeadLetterAction) -> Self {
        Self {
            id: action.id,
            action: action.action,
            created_at: action.created_at,
            actor: action.actor.map(|actor| cut(actor, MAX_NAME_CHARACTERS)),
            note: action.note.map(|note| cut(note, MAX_NOTE_CHARACTERS)),
            letter_id: action.letter_id.map(Uuid::from),
            filter: action.filter.map(|filter| shown_filter(access, &filter)),
            letters: action.letters,
            resolution: action.resolution,
            previous_resolution: action.previous_resolution,
            run_id: action.run_id,
        }
    }
}

/// Lists what operators did to the letters of an app
///
/// An action stays in the history when its letters are deleted. Letters that the service or a script resolved without an
/// operator are in no action.
#[utoipa::path(
    get,
    path = "/api/apps/{dead_letters_app}/actions",
    params(("dead_letters_app" = Uuid, Path, description = "The app."), ActionsQuery),
    responses((status = 200, description = "The actions, newest first.", body = Actions))
)]
pub(super) async fn actions(
    access: Access,
    AppPath(app_id): AppPath,
    Query(mut fields): Query,
) -> Result<Json<Actions>, Problem> {
    let access = access.app(app_id)?;
    let request = ActionsQuery::read(&mut fields)?;
    fields.end()?;
    let found = access.store().actions(app_id, &request).await?;
    let next = found.last().filter(|_| found.len() >= request.limit as usize).map(|last| last.id);
    let items = found.into_iter().map(|action| ActionItem::new(&access, action)).collect();
    Ok(Json(Actions { items, next }))
}
