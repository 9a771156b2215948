//! A small service with an admin: triggers that fail, a dispatcher that buries their events, a sweeper, and the
//! pages where people see to it.
//!
//! ```text
//! cargo run -p dead-letters-admin --example service
//! ```
//!
//! It begins with a day of failures, and more come in. The database is the file service.sqlite, or the PostgreSQL
//! of `DATABASE_URL`: one of its own, since this sweeps. `LISTEN` is an address of the loopback interface.

use std::{
    env,
    error::Error,
    future::{Future, IntoFuture},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, response::Redirect, routing::get};
use dead_letters::{OnOpen, Retention, RetentionPolicy, Sweeper, connect_options};
use dead_letters_admin::{Admin, InsecureAllowAll, Operator, Right};
use tokio::{
    net::TcpListener,
    signal::{
        ctrl_c,
        unix::{SignalKind, signal},
    },
    sync::watch,
    time::sleep,
};
use tracing::error;

mod dispatcher;
mod events;
mod history;
mod outbox;
mod triggers;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const PREFIX: &str = "/admin/dead-letters";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::main]
async fn main() -> Result<()> {
    let listener = listen().await?;
    println!("http://{}{PREFIX}", listener.local_addr()?);

    let url = env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite://service.sqlite?mode=rwc".to_owned());
    let repo = dead_letters::open(connect_options(url), OnOpen::Migrate, outbox::Migrator).await?;
    let triggers = triggers::all()?;
    history::fill(&repo, &triggers).await?;
    tracing_subscriber::fmt().with_target(false).init();

    let others = Retention::default().delete_closed_after(30 * DAY).delete_all_after(90 * DAY);
    let policy = RetentionPolicy::new(others);
    let sweeper = Sweeper::builder(Arc::new(repo.clone()), policy.clone()).build()?;

    // The operator is the user who runs this example. A service in use asks who it is.
    let operator = Operator::full(env::var("USER").unwrap_or_else(|_| "you".to_owned()))
        .with(Right::Edit)
        .with(Right::Delete);
    let admin = Admin::new(Arc::new(repo.clone()), InsecureAllowAll(operator))
        .replay(repo.replayer(outbox::Outbox))
        .retention(policy)
        .redact(["/customer/email", "/lines/*/card"])?
        .trace_url("http://127.0.0.1:16686/trace/{trace_id}")?
        .app_names(events::app_name);
    let router = Router::new()
        .route("/", get(async || Redirect::to(PREFIX)))
        .nest_service(PREFIX, admin.into_service());

    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        stop.send_replace(true);
    });
    // A service in use waits longer between two attempts, and longer each time.
    let dispatch = async || dispatcher::dispatch(&repo, &triggers).await;
    let happen = async || events::happen(repo.pool(), &triggers).await;
    let (served, ..) = tokio::join!(
        axum::serve(listener, router).with_graceful_shutdown(told(&stopped)).into_future(),
        every(Duration::from_millis(200), told(&stopped), dispatch),
        every(Duration::from_secs(15), told(&stopped), happen),
        sweeper.run(told(&stopped)),
    );
    served?;
    Ok(repo.pool().clone().close().await?)
}

async fn listen() -> Result<TcpListener> {
    let address = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8025".to_owned());
    let refused = |error: &dyn Error| format!("LISTEN={address}: {error}");
    let address: SocketAddr = address.parse().map_err(|error| refused(&error))?;
    if !address.ip().is_loopback() {
        return Err("LISTEN must be of the loopback interface: this lets everybody in".into());
    }
    Ok(TcpListener::bind(address).await.map_err(|error| refused(&error))?)
}

/// Until it is told to end, and nothing is left half done.
async fn every(pause: Duration, shutdown: impl Future, work: impl AsyncFn() -> Result<()>) {
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            _ = &mut shutdown => return,
        }
        if let Err(error) = work().await {
            error!(error, "it is tried again");
        }
    }
}

fn told(stopped: &watch::Receiver<bool>) -> impl Future<Output = ()> + Send + use<> {
    let mut stopped = stopped.clone();
    async move { drop(stopped.wait_for(|&stopped| stopped).await) }
}
