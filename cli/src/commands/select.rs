//! Which letters of which apps a command is about.

use std::collections::BTreeSet;

use dead_letters::{
    AppId, CappedCount, CountRequest, DeadLetterFilter, DeadLetterId, DeadLetterStore, ErrorGroups,
    GroupRequest, ListSort, PageRequest,
};

use super::list::of_app;
use crate::{
    args::Filter,
    error::Failure,
    ids::{apps, locate},
    output::grouped,
    settings::Settings,
};

/// Digits of a whole group key.
const KEY: usize = 16;
/// How many groups and letters of an app a key prefix is looked up in.
const GROUPS: u32 = 500;
const EXAMINED: u32 = 100_000;
/// The most ids of a filter, and the most letters of a page.
const MAX_IDS: usize = 1_000;
const MAX_PAGE: u32 = 500;

/// The letters of some apps: those that match one filter.
pub(crate) struct Selected {
    /// The app of the option, or every app that has letters in the filter's state.
    pub(crate) apps: Vec<AppId>,
    pub(crate) filter: DeadLetterFilter,
    /// The text that the letters' payloads contain, if the command searches.
    pub(crate) payload_contains: Option<String>,
}

impl Selected {
    /// Counts the selected letters that match another filter, up to the cap in each app.
    pub(crate) async fn count(
        &self,
        store: &dyn DeadLetterStore,
        filter: &DeadLetterFilter,
        cap: u32,
    ) -> Result<CappedCount, Failure> {
        let mut sum = CappedCount::default();
        for &app_id in &self.apps {
            let CappedCount { count, capped } = match &self.payload_contains {
                Some(contains) => {
                    let found =
                        found(store, app_id, filter, contains, cap.saturating_add(1)).await?.len() as u64;
                    CappedCount { count: found.min(cap.into()), capped: found > cap.into() }
                }
                None => store.count(app_id, filter, &CountRequest::default().cap(cap)).await?.matching,
            };
            sum.count += count;
            sum.capped |= capped;
        }
        Ok(sum)
    }

    /// Returns filters that together select the letters of an app, oldest first, and whether a search found more than
    /// `limit`. For a search these are filters by the ids of the letters found, because no bulk call takes the search
    /// text. The ids stay correct, because only an erasure changes a stored payload.
    pub(crate) async fn filters(
        &self,
        store: &dyn DeadLetterStore,
        app_id: AppId,
        limit: u32,
    ) -> Result<(Vec<DeadLetterFilter>, bool), Failure> {
        let Some(contains) = &self.payload_contains else { return Ok((vec![self.filter.clone()], false)) };
        let mut ids = found(store, app_id, &self.filter, contains, limit.saturating_add(1)).await?;
        let capped = ids.len() > limit as usize;
        ids.truncate(limit as usize);
        Ok((ids.chunks(MAX_IDS).map(|ids| self.filter.clone().ids(ids)).collect(), capped))
    }
}

/// Returns the letters that match and whose payload contains the text, oldest first, at most `limit`.
async fn found(
    store: &dyn DeadLetterStore,
    app_id: AppId,
    filter: &DeadLetterFilter,
    contains: &str,
    limit: u32,
) -> Result<Vec<DeadLetterId>, Failure> {
    let mut request = PageRequest::default().sort(ListSort::Oldest).size(MAX_PAGE);
    let mut ids = Vec::new();
    loop {
        let page = of_app(store, app_id, filter, Some(contains), &request).await?;
        ids.extend(page.items.into_iter().map(|letter| letter.id));
        ids.truncate(limit as usize);
        match page.next {
            Some(next) if ids.len() < limit as usize => request.after = Some(next),
            _ => return Ok(ids),
        }
    }
}

/// Returns the apps and the filter of a command, with whole ids and keys in place of short ones. `narrow` restricts the
/// filter to letters that the command can be about.
pub(crate) async fn select(
    store: &dyn DeadLetterStore,
    filter: Filter,
    settings: &Settings,
    narrow: impl FnOnce(DeadLetterFilter) -> Result<DeadLetterFilter, Failure>,
) -> Result<Selected, Failure> {
    let Filter { app, narrow: mut fields } = filter;
    let ids = std::mem::take(&mut fields.ids);
    let ids = match ids.is_empty() {
        true => None,
        false => {
            let located = locate(store, settings, app.clone(), ids).await?;
            Some(located.by_app.into_iter().flat_map(|(_, ids)| ids).chain(located.missing).collect())
        }
    };
    let mut filter = narrow(Settings::filter_at(settings.now, fields, ids)?)?;
    let apps = apps(store, settings, app, filter.effective_state()).await?;
    if let Some(beginning) = filter.group_key.take_if(|key| key.len() < KEY && !key.is_empty()) {
        filter.group_key = Some(whole_key(store, &apps, &filter, &beginning).await?);
    }
    Ok(Selected { apps, filter, payload_contains: None })
}

/// Finds the key among the groups that the rest of the filter selects. A look-up that stopped at its limits proves only
/// that a key is ambiguous.
async fn whole_key(
    store: &dyn DeadLetterStore,
    apps: &[AppId],
    filter: &DeadLetterFilter,
    beginning: &str,
) -> Result<String, Failure> {
    let request = GroupRequest::default().limit(GROUPS).scan_limit(EXAMINED);
    let (mut keys, mut cut) = (BTreeSet::new(), None);
    for &app_id in apps {
        let ErrorGroups { groups, scanned_back_to, .. } =
            store.error_groups(app_id, filter, &request).await?;
        if scanned_back_to.is_some() || groups.len() >= GROUPS as usize {
            cut = cut.or(Some(app_id));
        }
        keys.extend(groups.into_iter().map(|group| group.group_key).filter(|key| key.starts_with(beginning)));
    }
    let mut keys: Vec<_> = keys.into_iter().collect();
    match (keys.len(), cut) {
        (0 | 1, Some(app_id)) => {
            let (groups, letters) = (grouped(GROUPS.into()), grouped(EXAMINED.into()));
            Err(Failure::usage(format!("--group {beginning}: the look-up stopped at {groups} groups or {letters} letters of the app {app_id}, so further keys may begin with {beginning}"))
                .hint("pass the whole key, as `groups --wide` prints it"))
        }
        (1, None) => Ok(keys.remove(0)),
        (0, None) => Err(Failure::usage(format!("--group {beginning}: no matching letter is in a group whose key begins with {beginning}"))
            .hint("list the groups with the same filter; a whole key, as `groups --wide` prints it, needs no look-up")),
        _ => Err(Failure::usage(format!("--group {beginning}: several groups have a key that begins with {beginning}: {}", keys.join(", ")))),
    }
}
