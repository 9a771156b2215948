//! Which letters: as the query string of a view has it, and the body of a preview.

use chrono::{DateTime, Utc};
use dead_letters::{DeadLetterFilter, DeadLetterState, IdFilter, ListQuery, Resolution, ScriptId, TriggerId};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::model::{IdOrNone, ResolutionWords, StateWords};
use crate::{access::Operator, input::Fields, problem::Problem};

/// Where it is not said.
const SCAN: u32 = 10_000;
const MAX_CHARACTERS: usize = 2_000;

/// Which letters: those for which every field that is given holds.
#[derive(Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// How far the letter is settled: `unresolved`, where it is not said.
    #[schema(value_type = Option<StateWords>)]
    #[param(value_type = Option<StateWords>, inline)]
    state: Option<DeadLetterState>,
    /// These letters, at most 1,000. In a query string it may be given again, or hold several with commas between.
    #[schema(max_items = 1_000)]
    #[param(max_items = 1_000)]
    ids: Option<Vec<Uuid>>,
    /// What it was resolved as; that is never so of an unresolved one.
    #[schema(value_type = Option<ResolutionWords>)]
    #[param(value_type = Option<ResolutionWords>, inline)]
    resolution: Option<Resolution>,
    /// What the event was about, exactly.
    #[schema(max_length = 2_000)]
    #[param(max_length = 2_000)]
    source: Option<String>,
    /// The operation that failed, exactly.
    #[schema(max_length = 2_000)]
    #[param(max_length = 2_000)]
    op: Option<String>,
    /// The trigger, or `none` for letters without a trigger.
    #[schema(value_type = Option<IdOrNone>)]
    #[param(value_type = Option<IdOrNone>, inline)]
    trigger_id: Option<IdFilter<TriggerId>>,
    /// The script, or `none` for letters without a script.
    #[schema(value_type = Option<IdOrNone>)]
    #[param(value_type = Option<IdOrNone>, inline)]
    script_id: Option<IdFilter<ScriptId>>,
    /// The outbox row.
    original_event_id: Option<Uuid>,
    /// A part of the error. No character is a wildcard, and case counts.
    #[schema(max_length = 2_000)]
    #[param(max_length = 2_000)]
    error_contains: Option<String>,
    /// The error signature, exactly.
    #[schema(max_length = 2_000)]
    #[param(max_length = 2_000)]
    error_signature: Option<String>,
    /// The key of an error group.
    #[schema(max_length = 2_000)]
    #[param(max_length = 2_000)]
    group_key: Option<String>,
    /// Whether the payload is truncated or erased: `false` leaves such letters out.
    truncated: Option<bool>,
    /// Letters that failed again: this run replayed their event, and they are none of its own.
    failed_again_in_run: Option<Uuid>,
    /// Stored at this time or later.
    created_from: Option<DateTime<Utc>>,
    /// Stored before this time.
    created_before: Option<DateTime<Utc>>,
}

impl TryFrom<Filter> for DeadLetterFilter {
    type Error = Problem;

    fn try_from(filter: Filter) -> Result<Self, Problem> {
        Ok(Self {
            state: filter.state.unwrap_or_default(),
            ids: filter.ids.map(|ids| ids.into_iter().map(Into::into).collect()),
            resolution: filter.resolution,
            source: short("filter.source", filter.source)?,
            op: short("filter.op", filter.op)?,
            trigger_id: filter.trigger_id,
            script_id: filter.script_id,
            original_event_id: filter.original_event_id,
            error_contains: short("filter.error_contains", filter.error_contains)?,
            error_signature: short("filter.error_signature", filter.error_signature)?,
            group_key: short("filter.group_key", filter.group_key)?,
            truncated: filter.truncated,
            failed_again_in_run: filter.failed_again_in_run,
            created_from: filter.created_from,
            created_before: filter.created_before,
        })
    }
}

/// As in a query string.
fn short(field: &str, text: Option<String>) -> Result<Option<String>, Problem> {
    match &text {
        Some(text) if text.chars().count() > MAX_CHARACTERS => {
            Err(Problem::invalid_field(field, "is longer than 2,000 characters"))
        }
        _ => Ok(text),
    }
}

/// How far a view looks.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Scan {
    /// How many letters may be looked at: the newest of the app and the state, within the times and behind the
    /// cursor. Where that is not enough, `scanned_back_to` says how far it went. The service may set an operator a
    /// lower limit: it is 100,000, unless the service says otherwise.
    #[param(required = false, minimum = 1, maximum = 1_000_000, default = 10_000)]
    pub(super) scan: u32,
}

/// What is left of a query string, as filter and page.
pub(super) fn listing(fields: Fields, operator: &Operator) -> Result<ListQuery, Problem> {
    let mut query = fields.listing(operator)?;
    query.page.scan.get_or_insert(SCAN.min(operator.max_scan()));
    Ok(query)
}

/// The same, of a view that has no pages.
pub(super) fn unpaged(mut fields: Fields, operator: &Operator) -> Result<(DeadLetterFilter, Scan), Problem> {
    for name in ["size", "after"] {
        if fields.take(name)?.is_some() {
            return Err(Problem::invalid_field(name, "is no field of this view"));
        }
    }
    let ListQuery { filter, page } = listing(fields, operator)?;
    Ok((filter, Scan { scan: page.scan.unwrap_or(SCAN) }))
}
