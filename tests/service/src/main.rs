//! The service: `DATABASE_URL`, else a SQLite file.

use std::{env, error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::routing::get;
use dead_letters::{
    BacklogGauges, GroupWatch, NewErrorGroup, Notify, OnOpen, Retention, RetentionPolicy, Sweeper,
    connect_options, describe_metrics,
};
use dead_letters_admin::{BearerToken, Operator};
use metrics_exporter_prometheus::PrometheusBuilder;
use orders::{
    admin, dispatcher,
    outbox::{Migrator, Outbox},
};
use tokio::{net::TcpListener, signal::ctrl_c, sync::watch, time::sleep};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Writes to the log. Another service posts to a channel here.
struct Log;

#[async_trait]
impl Notify for Log {
    async fn notify(&self, group: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
        eprintln!("{} {}: {}", group.source, group.state.as_str(), group.error_signature);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let metrics = PrometheusBuilder::new().install_recorder()?;
    describe_metrics();
    let url = env::var("DATABASE_URL").unwrap_or("sqlite://orders.sqlite?mode=rwc".to_owned());
    let repo = dead_letters::open(connect_options(url), OnOpen::Migrate, Migrator).await?;

    let (stop, mut stopped) = watch::channel(false);
    let others = Retention::default().delete_closed_after(30 * DAY).delete_all_after(90 * DAY);
    let policy = RetentionPolicy::new(others);
    let sweeper = Sweeper::builder(Arc::new(repo.clone()), policy).build()?;
    let mut told = stop.subscribe();
    let sweeping = tokio::spawn(async move { sweeper.run(told.changed()).await });
    let watch = GroupWatch::builder(Arc::new(repo.clone()), Arc::new(Log)).build()?;
    let mut told = stop.subscribe();
    let watching = tokio::spawn(async move { watch.run(told.changed()).await });
    let dispatching =
        tokio::spawn(dispatcher::run(repo.clone(), |_| Err("smtp: 451 try again later".to_owned())));

    let gauged = repo.clone();
    let gauging = tokio::spawn(async move {
        let mut gauges = BacklogGauges::default();
        loop {
            gauges.update(&gauged, 10_000).await.ok();
            sleep(Duration::from_secs(30)).await;
        }
    });

    // Where there is no token, nobody is let in.
    let authorize = BearerToken::new(env::var("ADMIN_TOKEN").unwrap_or_default(), Operator::full("ops"));
    let router = admin::router(Arc::new(repo.clone()), repo.replayer(Outbox), authorize)
        .route("/metrics", get(async move || metrics.render()));
    let server = axum::serve(TcpListener::bind("127.0.0.1:8080").await?, router);
    tokio::spawn(async move {
        ctrl_c().await.ok();
        stop.send_replace(true);
    });
    server.with_graceful_shutdown(async move { drop(stopped.changed().await) }).await?;
    // A burial that is under way may be dropped: it is done or not, as a whole.
    dispatching.abort();
    gauging.abort();
    sweeping.await?;
    watching.await?;
    Ok(())
}
