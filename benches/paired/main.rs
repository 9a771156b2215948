//! The repo against hand-written sqlx, in turn, on the same server, and on files of SQLite.
//!
//! `cargo bench` takes thirty minutes and writes `benches/results`; `cargo bench -- --quick` takes two,
//! on a table of 10,000 rows; `cargo bench -- --five-million` adds one of 5,000,000. A word more, and only the
//! figures whose names have it are measured: `cargo bench -- --quick insert`.
//!
//! `cargo bench -- --ten-million` is about growth alone: the repo's calls in tables of 12,500, 1,000,000 and
//! 10,000,000 rows.
//!
//! A figure is the median of the ratios of pairs of runs, A B, B A, A B: over 1 the repo is faster. The
//! server is a private one with fsync on and otherwise PostgreSQL's own settings, or that of
//! `BENCH_DATABASE_URL`.

use std::{env, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta};
use dead_letters::{
    AppId, Attribution, CoalescingDeadLetterRepo, DeadLetterRead, DeadLetterRepo, DeadLetterResolve,
    PageRequest, Resolution,
};
use dead_letters_test_support::Server;
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, Statement};
use tokio::runtime::Handle;
use url::Url;
use uuid::Uuid;

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

mod growth;
mod indexes;
mod measure;
mod memory;
mod operations;
mod peer;
mod report;
mod retention;
mod sqlite;
mod store;
mod sweep;

use measure::{Call, Case, Failure, Figure, Pairs, call};
use peer::TAKE;
use report::Bound;
use store::{FROM, Store, TABLES, letter, unresolved};

struct Bench {
    pairs: Pairs,
    only: Option<String>,
    figures: Vec<Figure>,
    bounds: Vec<Bound>,
}

impl Bench {
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
        if self.wants(&case) {
            let figure = self.pairs.measure(case, calls).await?;
            self.add(figure);
        }
        Ok(())
    }

    fn wants(&self, case: &Case) -> bool {
        self.only.as_deref().is_none_or(|only| case.name.contains(only))
    }

    fn add(&mut self, figure: Figure) {
        println!("{}", figure.line());
        self.figures.push(figure);
    }

    fn bound(&mut self, bound: Bound) {
        println!("{}", bound.line());
        self.bounds.push(bound);
    }

    async fn reads(&mut self, store: &Arc<Store>) -> Result<(), Failure> {
        let named = |name: &str| store.named(name);
        let app = store.app;
        for (tasks, target) in [(1, 0.95), (16, 0.92)] {
            let ours = side!(store, n => store.repo.get(store.id(n)).await?);
            let peers = side!(store, n => store.peer.get(store.peer_id(n)).await?);
            self.pair(named("get"), tasks, target, ours, peers).await?;
        }
        let peers = side!(store, n => store.peer.list(app.into(), true, 50, 0).await?);
        let ours = side!(store, n => store.repo.list_for_app(app, true, 50, 0).await?);
        let triage = listing(store, 0).await?;
        for tasks in [1, 16] {
            self.pair(named("list_for_app, 50"), tasks, 1.25, ours.clone(), peers.clone()).await?;
            self.pair(named("triage list, 50"), tasks, 2.5, triage.clone(), peers.clone()).await?;
        }
        for (depth, target) in [(9_500, 5.0), (500_000, 90.0)] {
            if depth >= store.rows {
                continue;
            }
            let peers = side!(store, n => store.peer.list(app.into(), true, 50, i64::from(depth)).await?);
            let name = named(&format!("triage list, 50, at depth {depth}"));
            self.pair(name, 1, target, listing(store, depth).await?, peers).await?;
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
        // A `handler_failed` row is still open: it can be resolved once again.
        let peers = side!(store, n =>
            store.peer.resolve(store.peer_id(n), "handler_failed").await?);
        let ours = side!(store, n => store.repo.resolve(store.id(n), "handler_failed").await?);
        self.pair(named("resolve"), 1, 0.95, ours, peers.clone()).await?;
        let side = (store.clone(), Attribution::default());
        let ours = side!(side, n => side.0.repo.resolve_once(app, side.0.id(n), Resolution::HandlerFailed, &side.1).await?);
        self.pair(named("resolve_once"), 1, 1.0, ours, peers).await?;

        let other = AppId::from(Uuid::new_v4());
        let [small, big] = [1_000, 10_000].map(|bytes| Arc::new(letter(other, bytes)));
        let of_many = store.rows >= 5_000_000;
        for (letter, bytes, tasks, target) in [
            (&small, "1 KB", 1, 1.0),
            (&small, "1 KB", 16, 1.0),
            (&small, "1 KB", 64, 1.0),
            (&big, "10 KB", 1, 1.1),
            (&big, "10 KB", 16, 1.1),
        ] {
            let side = (store.clone(), letter.clone());
            let ours = side!(side, n => side.0.repo.insert((*side.1).clone()).await?);
            let peers = side!(side, n => side.0.peer.insert((*side.1).clone()).await?);
            let target = if of_many { 1.3 } else { target };
            self.pair(named(&format!("insert of {bytes}")), tasks, target, ours, peers).await?;
        }
        // The outbox is empty, so that its size stays the same.
        let take = async |txn: &DatabaseTransaction| {
            let take = Statement::from_sql_and_values(DbBackend::Postgres, TAKE, [Uuid::nil().into()]);
            txn.execute_raw(take).await?;
            Ok(1)
        };
        let side = (store.clone(), small.clone());
        let ours = side!(side, n => side.0.repo.bury_with((*side.1).clone(), take).await?);
        let peers = side!(side, n => side.0.peer.bury((*side.1).clone()).await?);
        self.pair(named("bury of 1 KB"), 1, None, ours.clone(), peers.clone()).await?;
        self.pair(named("bury of 1 KB"), 16, None, ours, peers).await?;
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

    /// Compares a call of the repo in a large table with the same call in a small one.
    async fn growth(&mut self, small: &Arc<Store>, large: &Arc<Store>) -> Result<(), Failure> {
        for ((name, of_large), (_, of_small)) in
            growth::reads(large).await?.into_iter().zip(growth::reads(small).await?)
        {
            let name = format!("{name}: 1 M rows");
            self.bound(operations::against(&self.pairs, &name, of_large, "10 k", of_small, 1.5).await?);
        }
        Ok(())
    }

    /// Resolves 100,000 rows.
    async fn operations(&mut self, server: &Url, large: &Arc<Store>) -> Result<(), Failure> {
        self.bound(operations::by_ids(large).await?);
        self.bound(operations::times_replayed(&self.pairs, large).await?);
        let (many, few) = (retention::crowd(server, 900).await?, retention::crowd(server, 100).await?);
        self.bound(operations::backlogs(&self.pairs, &many, retention::excepted()[0]).await?);
        self.bound(retention::idle(&self.pairs, &many, &few).await?);
        Ok(())
    }

    /// With 400,000 newer rows of another app.
    async fn skewed(&mut self, store: &Arc<Store>) -> Result<(), Failure> {
        let newer = AppId::from(Uuid::new_v4());
        for table in TABLES {
            store.fill(table, newer, 400_000, FROM + TimeDelta::days(60)).await?;
            store.analyze(table).await?;
        }
        let app = store.app;
        let peers = side!(store, n => store.peer.list(app.into(), true, 50, 0).await?);
        let ours = side!(store, n => store.repo.list_for_app(app, true, 50, 0).await?);
        self.pair("list_for_app, 50, below 400,000 rows of another app", 1, 1.25, ours, peers.clone())
            .await?;
        let name = "triage list, 50, below 400,000 rows of another app";
        self.pair(name, 1, 2.5, listing(store, 0).await?, peers).await
    }

    /// Bounds the repo's CPU by the peer's.
    fn client_cpu(&mut self) {
        for name in ["insert of 1 KB, ", "list_for_app, 50, ", "triage list, 50, "] {
            let of_name = self.figures.iter().map(|figure| (figure, figure.case.name.as_str()));
            let of_name = of_name.filter(|(_, of)| of.starts_with(name) && !of.ends_with(", SQLite"));
            let (mut ours, mut peers) = (0.0, 0.0);
            for (figure, _) in of_name {
                ours += figure.sides[0].cpu.as_secs_f64();
                peers += figure.sides[1].cpu.as_secs_f64();
            }
            let name = format!("client CPU: {}, all of the above", name.trim_end_matches(", "));
            let measured = format!("{:.2} times the peer's", ours / peers);
            self.bound(Bound { name, bound: "the peer's".to_owned(), measured, met: ours <= peers });
        }
    }
}

/// The page behind the newest `depth` rows.
pub(crate) async fn listing(store: &Arc<Store>, depth: u32) -> Result<Call, Failure> {
    let store = (store.clone(), Arc::new(store.page_at(depth).await?));
    Ok(side!(store, n => store.0.repo.list(store.0.app, &unresolved(), &store.1).await?))
}

async fn page_through(store: &Store) -> Result<(), Failure> {
    let mut page = PageRequest::default().size(500);
    loop {
        page.after = store.repo.list(store.app, &unresolved(), &page).await?.next;
        if page.after.is_none() {
            return Ok(());
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let (mut quick, mut five_million, mut ten_million, mut only) = (false, false, false, None);
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--quick" => quick = true,
            "--five-million" => five_million = true,
            "--ten-million" => ten_million = true,
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
    if ten_million {
        return growth::measure(&url).await;
    }
    let pairs = match quick {
        true => Pairs { pairs: 5, run: Duration::from_millis(200) },
        false => Pairs { pairs: 15, run: Duration::from_millis(300) },
    };
    if only.as_deref() == Some("indexes") {
        return indexes::measure(&Store::create(&url, 1_000_000).await?).await;
    }
    let mut bench = Bench { pairs, only, figures: Vec::new(), bounds: Vec::new() };
    report::print_head();
    let small = Store::create(&url, 10_000).await?;
    bench.reads(&small).await?;
    bench.writes(&small).await?;
    sqlite::measure(&mut bench, 10_000).await?;
    if quick {
        return Ok(());
    }
    let large = Store::create(&url, 1_000_000).await?;
    let mut bounds = Vec::new();
    if bench.only.is_none() {
        let few = memory::peak_of(page_through(&small)).await?;
        let many = memory::peak_of(page_through(&large)).await?;
        bounds.push(Bound::memory("paging through 10,000 rows, then 1,000,000", few, many));
    }
    bench.reads(&large).await?;
    bench.writes(&large).await?;
    if five_million {
        let huge = Store::create(&url, 5_000_000).await?;
        bench.reads(&huge).await?;
        bench.writes(&huge).await?;
    }
    bench.skewed(&large).await?;
    sqlite::measure(&mut bench, 1_000_000).await?;
    if bench.only.is_some() {
        return Ok(());
    }
    for (sweepers, target) in [(1, 1.1), (4, 1.3)] {
        let (figure, longest) = sweep::races(&large, sweepers, target).await?;
        bench.add(figure);
        bounds.push(longest);
    }
    let against_gc = retention::beside_gc(&large, "sweep of all apps", 1.0, None).await?;
    let (archiving, memory) = retention::archives(&small, &large).await?;
    bounds.push(memory);
    bench.add(against_gc);
    bench.add(archiving);
    report::print_bounds_head();
    bounds.into_iter().for_each(|bound| bench.bound(bound));
    bench.client_cpu();
    // Afresh: with what was deleted and not yet vacuumed it would be another question.
    let (small, large) = (Store::create(&url, 10_000).await?, Store::create(&url, 1_000_000).await?);
    bench.growth(&small, &large).await?;
    bench.operations(&url, &large).await?;
    bench.bound(sweep::memory(&small, &large).await?);
    let beside_sweeps = sweep::dispatchers(&large).await?;
    beside_sweeps.into_iter().chain(retention::sweeper(&large).await?).for_each(|bound| bench.bound(bound));
    // Last, and of its own: what it rolls back stays in the indexes, before the rows that a first page reads.
    indexes::measure(&Store::create(&url, 1_000_000).await?).await?;
    let versions =
        format!("PostgreSQL {}, SQLite {}", large.server_version().await?, sqlite::version().await?);
    report::save(&versions, &bench.figures, &bench.bounds)
}
