//! The filter in the query string of a view and in the body of a preview.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use dead_letters::{DeadLetterFilter, DeadLetterState, IdFilter, ListQuery, Resolution, ScriptId, TriggerId};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::model::{IdOrNone, ResolutionWords, StateWords};
use crate::{access::AppAccess, input::Fields, problem::Problem};

/// The default of `scan_limit`.
pub(super) const SCAN: u32 = 10_000;
const MAX_CHARACTERS: usize = 2_000;

/// A filter of letters. A letter matches if it meets every given condition.
// It documents the library's `DeadLetterFilter`.
#[derive(Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the fields are documentation")]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// The state of the letters. The default is `open`, or `any` if `ids` is given or a field that only resolved letters
    /// match.
    #[schema(value_type = Option<StateWords>)]
    #[param(value_type = Option<StateWords>, inline)]
    state: Option<DeadLetterState>,
    /// The ids of the letters, at most 1,000. A query string may repeat the field or separate ids with commas.
    #[schema(max_items = 1_000)]
    #[param(max_items = 1_000)]
    ids: Option<Vec<Uuid>>,
    /// The resolution of the letters. An unresolved letter has none.
    #[schema(value_type = Option<ResolutionWords>)]
    #[param(value_type = Option<ResolutionWords>, inline)]
    resolution: Option<Resolution>,
    /// The source of the event, compared exactly.
    #[schema(max_length = 2_000)]
    #[param(max_length = 2_000)]
    source: Option<String>,
    /// A part of the source of the event. The search ignores the case of the letters A to Z and has no wildcards.
    #[schema(max_length = 2_000)]
    #[param(max_length = 2_000)]
    source_contains: Option<String>,
    /// The operation that failed, compared exactly.
    #[schema(max_length = 2_000)]
    #[param(max_length = 2_000)]
    op: Option<String>,
    /// A part of the operation that failed. The search ignores the case of the letters A to Z and has no wildcards.
    #[schema(max_length = 2_000)]
    #[param(max_length = 2_000)]
    op_contains: Option<String>,
    /// The trigger, or `none` for letters without a trigger.
    #[schema(value_type = Option<IdOrNone>)]
    #[param(value_type = Option<IdOrNone>, inline)]
    trigger_id: Option<IdFilter<TriggerId>>,
    /// The script, or `none` for letters without a script.
    #[schema(value_type = Option<IdOrNone>)]
    #[param(value_type = Option<IdOrNone>, inline)]
    script_id: Option<IdFilter<ScriptId>>,
    /// The id of the event in the outbox.
    original_event_id: Option<Uuid>,
    /// A part of the error's text. The search ignores the case of the letters A to Z and has no wildcards.
    #[schema(max_length = 2_000)]
    #[param(max_length = 2_000)]
    error_contains: Option<String>,
    /// The error signature, compared exactly.
    #[schema(max_length = 2_000)]
    #[param(max_length = 2_000)]
    error_signature: Option<String>,
    /// The key of an error group.
    #[schema(max_length = 2_000)]
    #[param(max_length = 2_000)]
    group_key: Option<String>,
    /// Whether the payload is truncated or erased. `false` excludes such letters.
    truncated: Option<bool>,
    /// Whether the letter's content was erased.
    erased: Option<bool>,
    /// Letters whose event this bulk run replayed and that failed again. The letters that it replayed do not match.
    failed_again_in_run: Option<Uuid>,
    /// The bulk run that resolved the letters, if nobody changed them since.
    run_id: Option<Uuid>,
    /// Who resolved the letters, compared exactly.
    #[schema(max_length = 2_000)]
    #[param(max_length = 2_000)]
    resolved_by: Option<String>,
    /// Letters that were resolved at this time or later.
    resolved_from: Option<DateTime<Utc>>,
    /// Letters that were resolved before this time.
    resolved_before: Option<DateTime<Utc>>,
    /// Letters that were stored at this time or later.
    created_from: Option<DateTime<Utc>>,
    /// Letters that were stored before this time.
    created_before: Option<DateTime<Utc>>,
    /// Keys of the letter's metadata and their values, at most 10. Each key must have this value as a text, compared
    /// exactly. A key has 1 to 200 bytes, and a value at most 1,000. A query string has the field `metadata.KEY=VALUE`
    /// for each key.
    // A parameter of OpenAPI has a name of its own, and these names are open.
    #[serde(default)]
    #[param(ignore)]
    metadata: BTreeMap<String, String>,
}

/// Reads a filter from an object alone. Without this, an array would set the fields by their order.
pub(super) fn object<'de, D: Deserializer<'de>>(body: D) -> Result<DeadLetterFilter, D::Error> {
    body.deserialize_map(Object)
}

/// Reads a filter from an object, or the default from `null`.
pub(super) fn object_or_null<'de, D: Deserializer<'de>>(body: D) -> Result<DeadLetterFilter, D::Error> {
    body.deserialize_option(Object)
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = DeadLetterFilter;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_none<E>(self) -> Result<DeadLetterFilter, E> {
        Ok(DeadLetterFilter::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, body: D) -> Result<DeadLetterFilter, D::Error> {
        object(body)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<DeadLetterFilter, A::Error> {
        DeadLetterFilter::deserialize(MapAccessDeserializer::new(fields))
    }
}

/// Returns an error if a text of the filter is longer than a query string may contain.
pub(super) fn check_lengths(filter: &DeadLetterFilter) -> Result<(), Problem> {
    let query = ListQuery::from(filter.clone());
    let is_long =
        |(name, text): &(Cow<'static, str>, String)| name != "ids" && text.chars().count() > MAX_CHARACTERS;
    match query.pairs().find(is_long) {
        Some((name, _)) => {
            Err(Problem::invalid_field(format!("filter.{name}"), "must have at most 2,000 characters"))
        }
        None => Ok(()),
    }
}

/// The scan limit of a view.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Scan {
    /// How many letters the view may examine: the newest of the app and state, in the time range and after the cursor.
    /// If the limit stops the view, `scanned_back_to` is where it stopped. The service sets the maximum of each
    /// operator, 100,000 by default.
    #[param(required = false, minimum = 1, maximum = 1_000_000, default = 10_000)]
    pub(super) scan_limit: u32,
}

/// Returns the filter and page that the rest of a query string describes.
pub(super) fn listing(fields: Fields, access: &AppAccess) -> Result<ListQuery, Problem> {
    let mut query = fields.listing(access)?;
    query.page.scan_limit.get_or_insert(SCAN.min(access.operator().max_scan()));
    Ok(query)
}

/// Returns the filter and the scan limit of a view that has no pages.
pub(super) fn unpaged(mut fields: Fields, access: &AppAccess) -> Result<(DeadLetterFilter, Scan), Problem> {
    for name in ["sort", "size", "after"] {
        if fields.take(name)?.is_some() {
            return Err(Problem::invalid_field(name, "is not a field of this view: remove it"));
        }
    }
    let ListQuery { filter, page, .. } = listing(fields, access)?;
    Ok((filter, Scan { scan_limit: page.scan_limit.unwrap_or(SCAN) }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use utoipa::{
        PartialSchema,
        openapi::{RefOr, Schema},
    };

    use super::*;

    #[test]
    fn the_document_has_every_field_of_the_librarys_filter() {
        let RefOr::T(Schema::Object(documented)) = Filter::schema() else { panic!("it is an object") };
        let filter = serde_json::json!(DeadLetterFilter::default());
        let fields: BTreeSet<_> = filter.as_object().unwrap().keys().collect();
        assert_eq!(documented.properties.keys().collect::<BTreeSet<_>>(), fields);
    }
}
