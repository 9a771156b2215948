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
// It documents the library's `DeadLetterFilter`.
#[derive(Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the fields are documentation")]
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

/// Returns an error if a text of the filter is longer than a query string may have it.
pub(super) fn check_lengths(filter: &DeadLetterFilter) -> Result<(), Problem> {
    let query = ListQuery::from(filter.clone());
    let is_long = |(name, text): &(&str, String)| *name != "ids" && text.chars().count() > MAX_CHARACTERS;
    match query.pairs().find(is_long) {
        Some((name, _)) => {
            Err(Problem::invalid_field(&format!("filter.{name}"), "is longer than 2,000 characters"))
        }
        None => Ok(()),
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
    pub(super) scan_limit: u32,
}

/// Returns the filter and page that the rest of a query string describes.
pub(super) fn listing(fields: Fields, operator: &Operator) -> Result<ListQuery, Problem> {
    let mut query = fields.listing(operator)?;
    query.page.scan_limit.get_or_insert(SCAN.min(operator.max_scan()));
    Ok(query)
}

/// The same, of a view that has no pages.
pub(super) fn unpaged(mut fields: Fields, operator: &Operator) -> Result<(DeadLetterFilter, Scan), Problem> {
    for name in ["size", "after"] {
        if fields.take(name)?.is_some() {
            return Err(Problem::invalid_field(name, "is no field of this view"));
        }
    }
    let ListQuery { filter, page, .. } = listing(fields, operator)?;
    Ok((filter, Scan { scan_limit: page.scan_limit.unwrap_or(SCAN) }))
}
