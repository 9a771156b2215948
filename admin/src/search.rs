//! Searches in payloads, for the API and the pages.

use dead_letters::{DeadLetterSummary, Page, PayloadSearch};

use crate::{access::AppAccess, audit::Entry, input::check_scan, metadata::check_filter, problem::Problem};

/// Default scan limit.
const SCAN: u32 = 10_000;

/// Returns the letters whose payload contains a text, if the operator may search.
///
/// Where payloads are redacted, the result of a search tells what they contain, so each search is audited. Its event
/// names the filter and never the text.
pub(crate) async fn search(
    access: &AppAccess,
    mut search: PayloadSearch,
) -> Result<Page<DeadLetterSummary>, Problem> {
    access.needs_whole_payloads()?;
    check_filter(access, &search.filter)?;
    let max_scan = access.operator().max_scan();
    check_scan(search.page.scan_limit, max_scan)?;
    search.page.scan_limit.get_or_insert(SCAN.min(max_scan));
    let reveals = !access.admin().redaction.is_empty();
    let entry = reveals.then(|| Entry::of_search(access, &search.filter));
    let found = access.store().search_payloads(access.app_id, &search).await.map_err(Problem::from);
    if let Some(mut entry) = entry {
        entry.did(found.as_ref().map_or(0, |page| page.items.len() as u64));
        entry.ended(found.as_ref().map(drop));
    }
    found
}
