//! The addresses of pages. Every link is relative to the requested address, so the admin works under any prefix, even
//! one that a proxy strips.

use std::{convert::Infallible, fmt::Display};

use axum::{
    extract::{FromRequestParts, OriginalUri},
    http::{header::REFERER, request::Parts},
};
use dead_letters::{AppId, DeadLetterFilter, DeadLetterId, DeadLetterState, ListQuery};
use uuid::Uuid;

use crate::pages::Back;

/// The relative path from the requested address to the mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root(String);

impl<S: Sync> FromRequestParts<S> for Root {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let original = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |OriginalUri(uri)| uri);
        Ok(Self::of(parts.uri.path(), original.path()))
    }
}

/// The page that a request came from. The policy of the pages sends it with its query to this origin alone.
pub(crate) struct Referrer(pub(crate) Option<String>);

impl<S: Sync> FromRequestParts<S> for Referrer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let referrer = parts.headers.get(REFERER).and_then(|referrer| referrer.to_str().ok());
        Ok(Self(referrer.map(str::to_owned)))
    }
}

impl Root {
    /// Returns the root for the path below the mount point and the whole path.
    pub(crate) fn of(stripped: &str, original: &str) -> Self {
        let depth = stripped.matches('/').count().saturating_sub(1);
        Self(match (stripped, original.rsplit('/').next()) {
            // Links on the bare prefix are relative to the folder above it.
            ("" | "/", Some(last)) if !last.is_empty() => format!("./{last}/"),
            _ if depth == 0 => "./".to_owned(),
            _ => "../".repeat(depth),
        })
    }

    fn to(&self, path: impl Display) -> String {
        format!("{}{path}", self.0)
    }

    pub(crate) fn asset(&self, name: &str) -> String {
        self.to(format_args!("assets/{name}"))
    }

    pub(crate) fn apps(&self) -> String {
        self.to("apps")
    }

    pub(crate) fn find(&self) -> String {
        self.to("find")
    }

    pub(crate) fn letters(&self, app_id: AppId, query: &ListQuery) -> String {
        self.to(with_query(format_args!("apps/{app_id}"), query))
    }

    pub(crate) fn groups(&self, app_id: AppId, query: &ListQuery) -> String {
        self.to(with_query(format_args!("apps/{app_id}/groups"), query))
    }

    pub(crate) fn search(&self, app_id: AppId) -> String {
        self.to(format_args!("apps/{app_id}/search"))
    }

    pub(crate) fn letter(&self, app_id: AppId, id: DeadLetterId) -> String {
        self.to(format_args!("apps/{app_id}/letters/{id}"))
    }

    /// Returns the address of a letter whose page leads back to another one.
    pub(crate) fn letter_from(&self, app_id: AppId, id: DeadLetterId, from: Option<&Back>) -> String {
        let address = self.letter(app_id, id);
        let from = from.map(|from| with_field(address.clone(), "from", &from.to_string()));
        from.filter(|from| from.len() <= MAX_QUERY_BYTES).unwrap_or(address)
    }

    /// Returns the address of an action: `resolve`, `replay`, `reopen` or `reveal`.
    pub(crate) fn letter_action(&self, app_id: AppId, id: DeadLetterId, action: &str) -> String {
        self.to(format_args!("apps/{app_id}/letters/{id}/{action}"))
    }

    /// Returns the address of a bulk step: `preview`, `run` or `undo`.
    pub(crate) fn bulk(&self, step: &str) -> String {
        self.to(format_args!("bulk/{step}"))
    }

    /// Returns the address of a run's result, which is sealed in the field `run`.
    pub(crate) fn result(&self, run_id: Uuid) -> String {
        self.to(format_args!("runs/{run_id}"))
    }

    /// Returns the address of what the history has of a run in these apps. It can be handed to a colleague. The ids of
    /// 50 apps fit into it, because they have no dashes.
    pub(crate) fn run(&self, run_id: Uuid, apps: &[AppId]) -> String {
        let is_one = apps.len() == 1;
        apps.iter().fold(self.result(run_id), |address, &app_id| {
            let id = Uuid::from(app_id);
            with_field(address, "app", &if is_one { id.to_string() } else { id.simple().to_string() })
        })
    }

    /// Returns the API's address for a download: `payload`, or `reveal` for the payload without redaction.
    pub(crate) fn payload(&self, app_id: AppId, id: DeadLetterId, what: &str) -> String {
        self.to(format_args!("api/apps/{app_id}/letters/{id}/{what}"))
    }
}

/// Maximum length of a list's query string. With everything that the pages add, an address then stays below 2 KB.
/// Proxies accept 4 to 8 KB in a redirect, and access logs cut earlier.
pub(crate) const MAX_QUERY_BYTES: usize = 1_400;

/// Returns whether the list's filter fits into an address.
pub(crate) fn fits(query: &ListQuery) -> bool {
    query.to_string().len() <= MAX_QUERY_BYTES
}

/// Returns the state of a list whose address names none: unresolved, which are the letters that need action. Returns
/// `None` if the filter then matches letters in any state, as one with ids or a resolution does.
pub(crate) fn default_state(filter: &DeadLetterFilter) -> Option<DeadLetterState> {
    let without_state = filter.clone().state(None);
    (without_state.effective_state() == DeadLetterState::Open).then_some(DeadLetterState::Unresolved)
}

/// Returns the query as an address has it: without the state that a list has by default.
pub(crate) fn in_address(query: &ListQuery) -> ListQuery {
    let mut query = query.clone();
    let default = default_state(&query.filter);
    query.filter.state = query.filter.state.filter(|&state| Some(state) != default);
    query
}

fn with_query(path: impl Display, query: &ListQuery) -> String {
    let query = in_address(query).to_string();
    if query.is_empty() { path.to_string() } else { format!("{path}?{query}") }
}

/// Adds a field to the query string.
pub(crate) fn with_field(address: String, name: &str, value: &str) -> String {
    let joint = if address.contains('?') { '&' } else { '?' };
    let field = form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
    format!("{address}{joint}{field}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_reached_from_every_depth_and_from_the_bare_prefix() {
        for (stripped, original, root) in [
            ("/", "/admin/dead-letters/", "./"),
            ("/", "/admin/dead-letters", "./dead-letters/"),
            ("/", "/", "./"),
            ("/", "/a:b", "./a:b/"),
            ("/apps", "/admin/apps", "./"),
            ("/apps/x", "/admin/apps/x", "../"),
            ("/apps/x/letters/y/resolve", "/apps/x/letters/y/resolve", "../../../../"),
        ] {
            assert_eq!(Root::of(stripped, original), Root(root.to_owned()), "{stripped} of {original}");
        }
    }
}
