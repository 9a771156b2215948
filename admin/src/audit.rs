//! The audit log: who did what, and who tried.
//!
//! Each action, each revealed payload and each refused attempt writes one event of the target `dead_letters::audit`,
//! at level INFO, once it is over.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    extract::Request,
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};
use dead_letters::{AppId, Attribution, DeadLetterFilter, DeadLetterId, ListQuery};
use tracing::info;
use uuid::Uuid;

use crate::{access::AppAccess, problem::Problem};

/// The audit entry of a running action.
///
/// If it is dropped before the action ends, for example because the service stops, it logs what was done so far with
/// the outcome `unknown`.
pub(crate) struct Entry<'a> {
    access: &'a AppAccess,
    action: &'static str,
    letters: String,
    run_id: Option<Uuid>,
    count: u64,
    is_ended: bool,
}

impl<'a> Entry<'a> {
    pub(crate) fn of_letter(access: &'a AppAccess, action: &'static str, id: DeadLetterId) -> Self {
        Self { access, action, letters: format!("ids={id}"), run_id: None, count: 0, is_ended: false }
    }

    pub(crate) fn of_letters(access: &'a AppAccess, action: &'static str, ids: &[DeadLetterId]) -> Self {
        let letters = ListQuery::from(DeadLetterFilter::default().ids(ids)).to_string();
        Self { access, action, letters, run_id: None, count: 0, is_ended: false }
    }

    pub(crate) fn of_matching(
        access: &'a AppAccess,
        action: &'static str,
        filter: &DeadLetterFilter,
        run_id: Uuid,
    ) -> Self {
        let mut entry = Self::of_search(access, filter);
        (entry.action, entry.run_id) = (action, Some(run_id));
        entry
    }

    /// Returns the entry of a search in payloads, without its text.
    pub(crate) fn of_search(access: &'a AppAccess, filter: &DeadLetterFilter) -> Self {
        let mut filter = filter.clone();
        for (key, value) in &mut filter.metadata {
            if access.admin().metadata_redaction.hides_field(key) {
                *value = "[redacted]".to_owned();
            }
        }
        let letters = ListQuery::from(filter).to_string();
        Self { access, action: "searched", letters, run_id: None, count: 0, is_ended: false }
    }

    /// Adds letters that the action changed or showed.
    pub(crate) fn did(&mut self, letters: u64) {
        self.count += letters;
    }

    /// Logs how the action ended.
    pub(crate) fn ended(mut self, result: Result<(), &Problem>) {
        let status = result.err().map_or(StatusCode::OK, Problem::status);
        let problem = result.err().map(|problem| problem.kind().name());
        self.tell(if result.is_ok() { "done" } else { "refused" }, Some(status), problem);
    }

    fn tell(&mut self, outcome: &'static str, status: Option<StatusCode>, problem: Option<&'static str>) {
        self.is_ended = true;
        self.access.attempt().known(|known| known.is_told = true);
        info!(
            target: "dead_letters::audit",
            operator = self.access.operator().name(),
            action = self.action,
            app_id = %self.access.app_id,
            letters = self.letters,
            run_id = self.run_id.map(tracing::field::display),
            count = self.count,
            outcome,
            status = status.map(|status| status.as_u16()),
            problem,
        );
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if !self.is_ended {
            self.tell("unknown", None, None);
        }
    }
}

/// Records, in the history and in the audit log, that the operator sees content of the letter that is redacted for others.
/// The content must not be shown if this fails.
pub(crate) async fn record_reveal(
    access: &AppAccess,
    action: &'static str,
    id: DeadLetterId,
) -> Result<(), Problem> {
    let mut entry = Entry::of_letter(access, action, id);
    let by = Attribution::by(access.operator().name());
    let recorded = access.store().record_reveal(access.app_id, id, &by).await.map_err(Problem::from);
    entry.did(recorded.is_ok().into());
    entry.ended(recorded.as_ref().copied());
    recorded
}

/// The facts about a request that are known so far. The layer that logs refused attempts shares them with the
/// handlers.
#[derive(Clone, Default)]
pub(crate) struct Attempt(Arc<Mutex<Known>>);

#[derive(Default)]
pub(crate) struct Known {
    operator: Option<String>,
    /// Whether an [`Entry`] has logged the request.
    is_told: bool,
    is_of_foreign_app: bool,
    /// The apps of a bulk request, whose address names none.
    apps: Vec<AppId>,
}

impl Attempt {
    fn known<T>(&self, with: impl FnOnce(&mut Known) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn is_by(&self, operator: &str) {
        self.known(|known| known.operator = Some(operator.to_owned()));
    }

    /// Records that the operator may not see the requested app.
    pub(crate) fn is_of_foreign_app(&self) {
        self.known(|known| known.is_of_foreign_app = true);
    }
}

impl Attempt {
    /// Records the apps that a bulk request names.
    pub(crate) fn is_of_apps(&self, apps: &[AppId]) {
        self.known(|known| known.apps = apps.to_vec());
    }
}

/// The action and the letters that an address names. The texts come from the sender and are not decoded.
struct Target {
    action: &'static str,
    /// `None` for the runs, whose apps are named elsewhere.
    app_id: Option<String>,
    letters: Option<String>,
}

impl Target {
    fn of(method: &Method, path: &str) -> Option<Self> {
        let path = path.strip_prefix("/api").unwrap_or(path);
        let shown = |text: &str| text.chars().take(40).collect::<String>();
        let of_run = match (method, path) {
            (&Method::POST, "/bulk/preview") => Some("preview"),
            (&Method::POST, "/bulk/run") => Some("run"),
            (&Method::POST, "/bulk/undo") => Some("undo"),
            (&Method::GET | &Method::HEAD, path) if path.starts_with("/runs/") => Some("read"),
            _ => None,
        };
        if let Some(action) = of_run {
            return Some(Self { action, app_id: None, letters: None });
        }
        let mut parts = path.split('/').skip(1);
        let (Some("apps"), Some(app_id)) = (parts.next(), parts.next()) else { return None };
        let rest: Vec<_> = parts.collect();
        let letters = match rest[..] {
            ["letters", "search"] => None,
            ["letters", id, ..] => Some(format!("ids={}", shown(id))),
            _ => None,
        };
        let action = match (method, &rest[..]) {
            (&Method::POST, ["letters", _, "resolve"]) => "resolve",
            (&Method::POST, ["letters", _, "replay"]) => "replay",
            (&Method::POST, ["letters", _, "reopen"]) => "reopen",
            (&Method::POST, ["letters", _, "edit"] | ["letters", _, "edit", _]) => "edit",
            (&Method::POST, ["letters", _, "reveal"] | ["letters", _, _, "reveal"]) => "reveal",
            (&Method::POST, ["letters", _, "erase"] | ["erase"]) => "erase",
            (&Method::POST, ["letters" | "groups", "search"] | ["search"]) => "search",
            (&Method::GET | &Method::HEAD, _) => "read",
            _ => return None,
        };
        Some(Self { action, app_id: Some(shown(app_id)), letters })
    }
}

/// Logs each action that was refused before it had an [`Entry`], and each read of an app that the operator may not
/// see.
pub(crate) async fn attempts(mut request: Request, next: Next) -> Response {
    let target = Target::of(request.method(), request.uri().path());
    let attempt = Attempt::default();
    request.extensions_mut().insert(attempt.clone());
    let response = next.run(request).await;
    if let Some(target) = target
        && (response.status().is_client_error() || response.status().is_server_error())
    {
        let problem = response.extensions().get::<Problem>().map(|problem| problem.kind().name());
        attempt.known(|known| {
            let named = || known.apps.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let app_id = target.app_id.or_else(|| Some(named()).filter(|named| !named.is_empty()));
            if !known.is_told && (target.action != "read" || known.is_of_foreign_app) {
                info!(
                    target: "dead_letters::audit",
                    operator = known.operator.as_deref(),
                    action = target.action,
                    app_id,
                    letters = target.letters,
                    count = 0,
                    outcome = "refused",
                    status = response.status().as_u16(),
                    problem,
                );
            }
        });
    }
    response
}
