//! Where things are: every link is relative to the address that was asked for, so that any prefix will do, and
//! one that a proxy strips as well.

use std::{convert::Infallible, fmt::Display};

use axum::{
    extract::{FromRequestParts, OriginalUri},
    http::request::Parts,
};
use dead_letters::{AppId, DeadLetterId, ListQuery};

/// The way from the address that was asked for to the mount's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root(String);

impl<S: Sync> FromRequestParts<S> for Root {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let original = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |OriginalUri(uri)| uri);
        Ok(Self::of(parts.uri.path(), original.path()))
    }
}

impl Root {
    /// From the path within the mount, and the whole one.
    pub(crate) fn of(stripped: &str, original: &str) -> Self {
        let depth = stripped.matches('/').count().saturating_sub(1);
        Self(match (stripped, original.rsplit('/').next()) {
            // The bare prefix: what is relative to it is relative to the folder above.
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

    pub(crate) fn letters(&self, app_id: AppId, query: &ListQuery) -> String {
        self.to(with_query(format_args!("apps/{app_id}"), query))
    }

    pub(crate) fn groups(&self, app_id: AppId, query: &ListQuery) -> String {
        self.to(with_query(format_args!("apps/{app_id}/groups"), query))
    }

    pub(crate) fn letter(&self, app_id: AppId, id: DeadLetterId) -> String {
        self.to(format_args!("apps/{app_id}/letters/{id}"))
    }

    /// `resolve`, `replay` or `reopen`.
    pub(crate) fn letter_action(&self, app_id: AppId, id: DeadLetterId, action: &str) -> String {
        self.to(format_args!("apps/{app_id}/letters/{id}/{action}"))
    }

    /// `preview`, `run` or `result`.
    pub(crate) fn bulk(&self, app_id: AppId, step: &str) -> String {
        self.to(format_args!("apps/{app_id}/bulk/{step}"))
    }

    /// Of the API, for a download: `payload`, or `reveal` for all of it.
    pub(crate) fn payload(&self, app_id: AppId, id: DeadLetterId, what: &str) -> String {
        self.to(format_args!("api/apps/{app_id}/letters/{id}/{what}"))
    }
}

/// What an address may have for a query: with all else that the pages add to it, an address stays below 2 KB.
/// Proxies take 4 to 8 KB in a redirect, and access logs cut earlier.
pub(crate) const MAX_QUERY_BYTES: usize = 1_400;

/// Whether an address may have the list's filter.
pub(crate) fn fits(query: &ListQuery) -> bool {
    query.to_string().len() <= MAX_QUERY_BYTES
}

fn with_query(path: impl Display, query: &ListQuery) -> String {
    let query = query.to_string();
    if query.is_empty() { path.to_string() } else { format!("{path}?{query}") }
}

/// One more field in the query string.
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
