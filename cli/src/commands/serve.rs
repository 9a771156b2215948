//! Serves the admin without a host service.
//!
//! If a token is set, every request but that of the health check must carry it. Without a token the server listens only on the loopback interface
//! and accepts only its names. Otherwise a page of another site could point its own name there (DNS rebinding).

use std::{
    fs,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{
        HeaderValue, StatusCode, Uri,
        header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE},
        request::Parts,
    },
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use dead_letters::{DeadLetterReplay, DeadLetterStore, migration::sea_orm_migration::MigratorTraitSelf};
use dead_letters_admin::{Admin, AdminConfigError, Denied, Operator, Right, Server};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tracing::info;

use super::{health::Health, replay::NOT_HERE};
use crate::{
    args::{Allow, Serve},
    error::Failure,
    settings::Settings,
    stop::Stop,
};

/// How long running requests may take to end after a shutdown. A client that stops sending or reading must not keep
/// the server alive.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) async fn serve(
    store: Arc<dyn DeadLetterStore>,
    replayer: Option<Arc<dyn DeadLetterReplay>>,
    health: Health<impl MigratorTraitSelf + 'static>,
    serve: Serve,
    settings: &Settings,
    stop: &Stop,
) -> Result<(), Failure> {
    let Serve {
        listen, token_file, token, operator, host, allow, redact, redact_metadata, trace_url, ..
    } = serve;
    let token = match token_file {
        Some(file) => {
            let read = fs::read_to_string(&file);
            Some(read.map_err(|error| Failure::usage(format!("--token-file {}: {error}", file.display())))?)
        }
        None => token,
    };
    // A byte order mark or white space that an editor or a shell adds is not part of the token.
    let token = token.map(|token| token.trim_start_matches('\u{feff}').trim().to_owned());
    if token.as_ref().is_some_and(String::is_empty) {
        return Err(Failure::usage("the token is empty; check --token-file or DEAD_LETTERS_TOKEN"));
    }
    if token.is_none() && !listen.ip().is_loopback() {
        let failure =
            Failure::usage(format!("--listen {listen} is not a loopback address, which requires a token"));
        return Err(failure.hint("pass --token-file, or set DEAD_LETTERS_TOKEN"));
    }
    if token.is_none() && !host.is_empty() {
        return Err(
            Failure::usage("--host requires a token").hint("pass --token-file, or set DEAD_LETTERS_TOKEN")
        );
    }
    let has_token = token.is_some();
    let verbs = verbs(&allow);
    let guard = Guard { token: token.map(|token| Sha256::digest(token).into()), operator, allow };
    let admin = Admin::new(store, move |request: &Parts| guard.operator(request));
    let apps = settings.apps.clone();
    let admin = admin.app_names(move |app_id| apps.name(app_id));
    let mut admin = configured(admin, redact, redact_metadata, trace_url)?;
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|error| Failure::failed(format!("{listen}: {error}")))?;
    let address = listener.local_addr()?;
    say!("note: http://{address}");
    if !has_token {
        say!("note: without a token, every local user can {verbs} letters");
    }
    if replayer.is_none() {
        say!("note: {NOT_HERE}");
    }
    let mut names = host;
    if has_token {
        names.push(address.ip().to_string());
    }
    if let Some(replayer) = replayer {
        admin = admin.replay(replayer);
    }
    let router = Router::from(admin);
    let router = router.layer(from_fn_with_state(Arc::new(names), known_host)).layer(from_fn(log_request));
    // A prober sends the address of a container as the host. The layer above does not apply to this route, because
    // a page of another site could only read a constant here.
    let health = Arc::new(health);
    let router = router.route("/healthz", get(move || health.response()));
    Server::new(router).grace(GRACE).run(listener, stop.asked()).await;
    Ok(())
}

/// Returns what operators may do, in words.
fn verbs(allow: &[Allow]) -> &'static str {
    match (allow.contains(&Allow::Edit), allow.contains(&Allow::Delete)) {
        (false, false) => "resolve",
        (true, false) => "resolve and edit",
        (false, true) => "resolve and delete",
        (true, true) => "resolve, edit and delete",
    }
}

fn configured(
    admin: Admin,
    redact: Vec<String>,
    redact_metadata: Vec<String>,
    trace_url: Option<String>,
) -> Result<Admin, Failure> {
    let refused = |option: &str, error: AdminConfigError| Failure::usage(format!("{option}: {error}"));
    let admin = admin.redact(redact).map_err(|error| refused("--redact", error))?;
    let admin =
        admin.redact_metadata(redact_metadata).map_err(|error| refused("--redact-metadata", error))?;
    match trace_url {
        Some(template) => admin.trace_url(template).map_err(|error| refused("--trace-url", error)),
        None => Ok(admin),
    }
}

struct Guard {
    /// The token's digest, which has the same length for every token.
    token: Option<[u8; 32]>,
    operator: String,
    allow: Vec<Allow>,
}

impl Guard {
    /// Returns the operator of this name, with the rights of the options.
    fn named(&self, name: &str) -> Operator {
        let right = |allow: &Allow| match allow {
            Allow::Edit => Right::Edit,
            Allow::Delete => Right::Delete,
        };
        self.allow.iter().map(right).fold(Operator::full(name), Operator::with)
    }

    fn operator(&self, request: &Parts) -> Result<Operator, Denied> {
        let Some(expected) = &self.token else { return Ok(self.named(&self.operator)) };
        let is_it = |token: &[u8]| bool::from(expected.ct_eq(&<[u8; 32]>::from(Sha256::digest(token))));
        let credentials = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (scheme, value) =
            credentials.and_then(|value| value.split_once(' ')).ok_or_else(unauthenticated)?;
        if scheme.eq_ignore_ascii_case("bearer") && is_it(value.as_bytes()) {
            return Ok(self.named(&self.operator));
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let decoded = BASE64_STANDARD.decode(value).ok().and_then(|value| String::from_utf8(value).ok());
            let decoded = decoded.ok_or_else(unauthenticated)?;
            let (user, password) = decoded.split_once(':').ok_or_else(unauthenticated)?;
            if is_it(password.as_bytes()) {
                return Ok(self.named(if user.is_empty() { &self.operator } else { user }));
            }
        }
        Err(unauthenticated())
    }
}

/// Returns a 401 that makes a browser ask for the token. Browsers can send it only as a password.
fn unauthenticated() -> Denied {
    const ASK: HeaderValue = HeaderValue::from_static("Basic realm=\"dead-letters\", charset=\"UTF-8\"");
    let text = "the token is missing or wrong\n";
    Denied::with((StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, ASK)], text))
}

/// Logs each request once it is answered. The query string is left out, because it has texts of a filter and tokens.
async fn log_request(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let began = Instant::now();
    let response = next.run(request).await;
    let (status, time) = (response.status().as_u16(), began.elapsed());
    info!(target: "dead_letters::access", %method, path, status, milliseconds = time.as_millis() as u64);
    response
}

async fn known_host(State(names): State<Arc<Vec<String>>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| host.parse::<Uri>().ok()?.host().map(str::to_owned));
    match host.is_some_and(|host| is_known(&host, &names)) {
        true => next.run(request).await,
        false => (StatusCode::MISDIRECTED_REQUEST, "unknown host name: add it with --host\n").into_response(),
    }
}

/// Returns whether the host is known. The port is not compared, because `ssh -L` changes it.
fn is_known(host: &str, names: &[String]) -> bool {
    let host = host.trim_matches(['[', ']']);
    let is_loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    is_loopback
        || host.eq_ignore_ascii_case("localhost")
        || names.iter().any(|name| name.eq_ignore_ascii_case(host))
}
