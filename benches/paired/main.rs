//! The repo against hand-written sqlx, in turn, on the same server.
//!
//! `cargo bench` takes half an hour and writes `benches/results`; `cargo bench -- --quick` takes two minutes,
//! on a table of 10,000 rows; `cargo bench -- --five-million` adds one of 5,000,000. A word more, and only the
//! figures whose names have it are measured: `cargo bench -- --quick insert`.
//!
//! A figure is the median of the ratios of pairs of runs, A B, B A, A B: over 1 the repo is faster. The
//! server is a private one with fsync on and otherwise PostgreSQL's own settings, or that of
//! `BENCH_DATABASE_URL`.

use std::{env, sync::Arc, time::Duration};

use chrono::DateTime;
use dead_letters::{
    AppId, CoalescingDeadLetterRepo, DeadLetterFilter, DeadLetterRepo, DeadLetterTriage, Resolution,
    Settlement,
};
use dead_letters_test_postgres::Server;
use tokio::runtime::Handle;
use url::Url;
use uuid::Uuid;

mod measure;
mod peer;
mod store;

use measure::{Call, Case, Failure, Figure, Pairs, call};
use store::{Store, letter};

/// A call's future, from an expression that uses `store` and `n`.
macro_rules! side {
    ($store:ident, $n:ident => $body:expr) => {{
        let $store = $store.clone();
        call(move |$n| {
            let $store = $store.clone();
            async move {
                let _ = $n;
                $body;
                Ok(())
            }
        })
    }};
}

struct Bench {
    pairs: Pairs,
    only: Option<String>,
    figures: Vec<Figure>,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| name.contains(only))
    }

    async fn pair(
        &mut self,
        name: impl Into<String>,
        tasks: usize,
        target: impl Into<Option<f64>>,
        ours: Call,
        peers: Call,
    ) -> Result<(), Failure> {
        let case = Case { name: name.into(), tasks, rows: 1.0, target: target.into() };
        self.measure(case, [ours, peers]).await
    }

    async fn measure(&mut self, case: Case, calls: [Call; 2]) -> Result<(), Failure> {
        if self.wants(&case.name) {
            let figure = self.pairs.measure(case, calls).await?;
            println!("{}", figure.line());
            self.figures.push(figure);
        }
        Ok(())
    }

    async fn reads(&mut self, store: &Arc<Store>) -> Result<(), Failure> {
        let named = |name: &str| store.named(name);
        let app = store.app;
        for (tasks, target) in [(1, 0.95), (16, 0.92)] {
            let ours = side!(store, n => store.repo.get(store.ids[n % store.ids.len()]).await?);
            let peers = side!(store, n => store.peer.get(store.peer_ids[n % store.ids.len()]).await?);
            self.pair(named("get"), tasks, target, ours, peers).await?;
        }
        let peers = side!(store, n => store.peer.list(app.into(), true, 50, 0).await?);
        let ours = side!(store, n => store.repo.list_for_app(app, true, 50, 0).await?);
        self.pair(named("list_for_app, 50"), 1, 1.25, ours, peers.clone()).await?;
        let side = (store.clone(), Arc::new(store.page_at(0).await?));
        let ours = side!(side, n => side.0.repo.list(app, &DeadLetterFilter::default(), &side.1).await?);
        self.pair(named("triage list, 50"), 1, 2.5, ours, peers).await?;
        for (depth, target) in [(9_500, 5.0), (500_000, 90.0)] {
            if depth >= store.rows {
                continue;
            }
            let peers = side!(store, n => store.peer.list(app.into(), true, 50, i64::from(depth)).await?);
            let side = (store.clone(), Arc::new(store.page_at(depth).await?));
            let ours = side!(side, n => side.0.repo.list(app, &DeadLetterFilter::default(), &side.1).await?);
            self.pair(named(&format!("triage list, 50, at depth {depth}")), 1, target, ours, peers).await?;
        }

        let peers = side!(store, n => store.peer.count(app.into()).await?);
        let ours = side!(store, n => store.repo.unresolved_count(app).await?);
        self.pair(named("unresolved_count"), 1, 1.0, ours, peers.clone()).await?;
        let ours = side!(store, n => store.repo.unresolved_counts(&[app], Some(100)).await?);
        let target = if store.rows >= 1_000_000 { 200.0 } else { 6.0 };
        self.pair(named("unresolved_counts to 100"), 1, target, ours, peers).await?;
        let few = store.small_app;
        let peers = side!(store, n => store.peer.count(few.into()).await?);
        let ours = side!(store, n => store.repo.unresolved_counts(&[few], Some(100)).await?);
        self.pair(named("unresolved_counts to 100, of 100"), 1, 1.3, ours, peers).await?;

        let ours = side!(store, n => store.repo.gc(DateTime::UNIX_EPOCH, 1_000).await?);
        let peers = side!(store, n => store.peer.gc(DateTime::UNIX_EPOCH, 1_000).await?);
        self.pair(named("gc, idle"), 1, None, ours, peers).await
    }

    async fn writes(&mut self, store: &Arc<Store>) -> Result<(), Failure> {
        let named = |name: &str| store.named(name);
        let app = store.app;
        // A row settled so is still open: it can be resolved once again.
        let failed = Settlement { resolution: Resolution::HandlerFailed, by: None, note: None };
        let peers = side!(store, n =>
            store.peer.resolve(store.peer_ids[n % store.ids.len()], "handler_failed").await?);
        let ours =
            side!(store, n => store.repo.resolve(store.ids[n % store.ids.len()], "handler_failed").await?);
        self.pair(named("resolve"), 1, 1.0, ours, peers.clone()).await?;
        let side = (store.clone(), failed);
        let ours = side!(side, n => {
            let id = side.0.ids[n % side.0.ids.len()];
            side.0.repo.resolve_once(app, id, &side.1).await?
        });
        self.pair(named("resolve_once"), 1, 1.0, ours, peers).await?;

        let other = AppId::from(Uuid::new_v4());
        let [small, big] = [1_000, 10_000].map(|bytes| Arc::new(letter(other, bytes)));
        let of_many = store.rows >= 5_000_000;
        for (letter, bytes, tasks, target) in [
            (&small, "1 KB", 1, 1.0),
            (&small, "1 KB", 16, 1.05),
            (&small, "1 KB", 64, 1.05),
            (&big, "10 KB", 1, 1.1),
            (&big, "10 KB", 16, 1.1),
        ] {
            let side = (store.clone(), letter.clone());
            let ours = side!(side, n => side.0.repo.insert((*side.1).clone()).await?);
            let peers = side!(side, n => side.0.peer.insert((*side.1).clone()).await?);
            let target = if of_many { 1.3 } else { target };
            self.pair(named(&format!("insert of {bytes}")), tasks, target, ours, peers).await?;
        }
        let side = (store.clone(), small.clone());
        let peers = side!(side, n => side.0.peer.insert((*side.1).clone()).await?);
        for (tasks, target) in [(1, 7.0), (16, 5.0)] {
            let ours = side!(side, n => side.0.repo.insert_many(vec![(*side.1).clone(); 100]).await?);
            let name = named("insert_many of 100, a row");
            let case = Case { name, tasks, rows: 100.0, target: Some(target) };
            self.measure(case, [ours, peers.clone()]).await?;
        }
        for (tasks, target) in [(1, 0.95), (16, 1.4), (64, 2.5)] {
            let writer = Arc::new(CoalescingDeadLetterRepo::new(store.repo.clone(), &Handle::current()));
            let side = (writer.clone(), small.clone());
            let ours = side!(side, n => side.0.insert((*side.1).clone()).await?);
            self.pair(named("coalesced insert of 1 KB"), tasks, target, ours, peers.clone()).await?;
            writer.shut_down().await;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let (mut quick, mut five_million, mut only) = (false, false, None);
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--quick" => quick = true,
            "--five-million" => five_million = true,
            // cargo passes it to every bench target.
            "--bench" => {}
            _ => only = Some(argument),
        }
    }
    let (_server, url) = match env::var("BENCH_DATABASE_URL") {
        Ok(url) => (None, Url::parse(&url)?),
        Err(_) => {
            let server = Server::start_durable()?;
            let url = server.url().clone();
            (Some(server), url)
        }
    };
    let pairs = if quick { 5 } else { 15 };
    let pairs = Pairs { pairs, run: Duration::from_millis(if quick { 200 } else { 300 }) };
    let mut bench = Bench { pairs, only, figures: Vec::new() };
    let small = Store::create(&url, 10_000).await?;
    bench.reads(&small).await?;
    bench.writes(&small).await?;
    if quick {
        return Ok(());
    }
    let large = Store::create(&url, 1_000_000).await?;
    bench.reads(&large).await?;
    bench.writes(&large).await?;
    if five_million {
        let huge = Store::create(&url, 5_000_000).await?;
        bench.reads(&huge).await?;
        bench.writes(&huge).await?;
    }
    Ok(())
}
