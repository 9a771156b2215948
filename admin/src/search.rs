//! Searches in payloads, for the API and the pages.

use dead_letters::{DeadLetterFilter, DeadLetterSummary, ErrorGroups, GroupRequest, Page, PayloadSearch};

use crate::{access::AppAccess, audit::Entry, input::check_scan, metadata::check_filter, problem::Problem};

/// Default scan limit.
const SCAN: u32 = 10_000;

/// Returns the letters whose payload contains a text, if the operator may search.
pub(crate) async fn search(
    access: &AppAccess,
    mut search: PayloadSearch,
) -> Result<Page<DeadLetterSummary>, Problem> {
    let audited = begin(access, &search.filter, &mut search.page.scan_limit)?;
    let found = access.store().search_payloads(access.app_id, &search).await.map_err(Problem::from);
    end(audited, &found, |page| page.items.len() as u64);
    found
}

/// Returns the error groups of the letters whose payload contains the request's text, if the operator may search.
pub(crate) async fn group(
    access: &AppAccess,
    filter: &DeadLetterFilter,
    mut request: GroupRequest,
) -> Result<ErrorGroups, Problem> {
    let audited = begin(access, filter, &mut request.scan_limit)?;
    let found = access.store().error_groups(access.app_id, filter, &request).await.map_err(Problem::from);
    end(audited, &found, |found| found.groups.iter().map(|group| group.count).sum());
    found
}

/// Returns an error if the operator may not search, and sets the scan limit.
///
/// Where payloads are redacted, the result of a search reveals what they contain, so each search is audited. Its event
/// names the filter and never the text.
fn begin<'a>(
    access: &'a AppAccess,
    filter: &DeadLetterFilter,
    scan_limit: &mut Option<u32>,
) -> Result<Option<Entry<'a>>, Problem> {
    access.needs_whole_payloads()?;
    check_filter(access, filter)?;
    let max_scan = access.operator().max_scan();
    check_scan(*scan_limit, max_scan)?;
    scan_limit.get_or_insert(SCAN.min(max_scan));
    let reveals = !access.admin().redaction.is_empty();
    Ok(reveals.then(|| Entry::of_search(access, filter)))
}

fn end<T>(audited: Option<Entry<'_>>, found: &Result<T, Problem>, letters: impl Fn(&T) -> u64) {
    if let Some(mut entry) = audited {
        entry.did(found.as_ref().map_or(0, letters));
        entry.ended(found.as_ref().map(drop));
    }
}
