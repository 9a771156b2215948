//! Which letters of which apps a command is about.

use std::collections::BTreeSet;

use dead_letters::{AppId, DeadLetterFilter, DeadLetterStore, GroupRequest};

use crate::{
    args::Filter,
    error::Failure,
    ids::{apps, locate},
    settings::Settings,
};

/// Digits of a whole group key.
const KEY: usize = 16;
/// Groups of an app, and letters in them, among which the beginning of a key is looked up.
const GROUPS: u32 = 500;
const EXAMINED: u32 = 100_000;

/// The letters of some apps: those that match one filter.
pub(crate) struct Selected {
    /// The app of the option, or every app that has letters in the filter's state.
    pub(crate) apps: Vec<AppId>,
    pub(crate) filter: DeadLetterFilter,
}

/// Resolves short ids and keys. `narrow` restricts the filter to letters that the command can be about.
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
    Ok(Selected { apps, filter })
}

/// Finds the key among the groups that the rest of the filter selects.
async fn whole_key(
    store: &dyn DeadLetterStore,
    apps: &[AppId],
    filter: &DeadLetterFilter,
    beginning: &str,
) -> Result<String, Failure> {
    let request = GroupRequest::default().limit(GROUPS).scan_limit(EXAMINED);
    let mut keys = BTreeSet::new();
    for &app_id in apps {
        let groups = store.error_groups(app_id, filter, &request).await?.groups;
        keys.extend(groups.into_iter().map(|group| group.group_key).filter(|key| key.starts_with(beginning)));
    }
    let mut keys: Vec<_> = keys.into_iter().collect();
    match keys.len() {
        1 => Ok(keys.remove(0)),
        0 => Err(Failure::usage(format!("--group {beginning}: no matching letter is in a group whose key begins with {beginning}"))
            .hint("list the groups with the same filter; a whole key, as `groups --wide` prints it, needs no look-up")),
        _ => Err(Failure::usage(format!("--group {beginning}: several groups have a key that begins with {beginning}: {}", keys.join(", ")))),
    }
}
