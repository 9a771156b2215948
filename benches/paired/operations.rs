//! Calls that operators make: bounded scans, backlogs, rows by their ids, earlier failures of an event.

use std::{sync::Arc, time::Instant};

use chrono::TimeDelta;
use dead_letters::{
    AppId, Attribution, BacklogRequest, Buckets, CountRequest, DeadLetterRead, DeadLetterRepo,
    DeadLetterResolve, DeadLetterTransfer, GroupRequest, PageRequest, Resolution, SeaOrmDeadLetterRepo,
    TimelineRequest,
};
use sea_orm::Database;
use uuid::Uuid;

use crate::{
    measure::{Call, Case, Failure, Pairs, call, quantile},
    report::Bound,
    store::{FROM, Store, unresolved},
};

/// The limit of a bounded scan.
const SCAN: Option<u32> = Some(10_000);
/// Rows that are resolved by their ids.
const CLOSED: usize = 100_000;
const AT_ONCE: u32 = 1_000;

/// Each call that scans, with a filter that matches nothing.
pub(crate) fn scans(store: &Arc<Store>) -> Vec<(&'static str, Call)> {
    let nothing = unresolved().source("nothing");
    let page = PageRequest::default().scan_limit(SCAN);
    let timeline = Buckets::new(FROM..FROM + TimeDelta::days(30), 60);
    let side = (store.clone(), Arc::new((nothing, page)));
    vec![
        (
            "list, scan of 10,000, nothing matches",
            side!(side, n => side.0.repo.list(side.0.app, &side.1.0, &side.1.1).await?),
        ),
        (
            "export, scan of 10,000, nothing matches",
            side!(side, n => side.0.repo.export(side.0.app, &side.1.0, &side.1.1).await?),
        ),
        (
            "error_groups, scan of 10,000, nothing matches",
            side!(side, n => side.0.repo.error_groups(side.0.app, &side.1.0, &GroupRequest::default().scan_limit(SCAN)).await?),
        ),
        (
            "count, scan of 10,000, nothing matches",
            side!(side, n => side.0.repo.count(side.0.app, &side.1.0, &CountRequest::default().cap(100).scan_limit(SCAN)).await?),
        ),
        (
            "timeline, scan of 10,000, nothing matches",
            side!(side, n => side.0.repo.timeline(side.0.app, &side.1.0, &TimelineRequest::from(timeline).scan_limit(SCAN)).await?),
        ),
    ]
}

/// A page of apps against a page of one app's rows.
pub(crate) async fn backlogs(pairs: &Pairs, crowd: &Arc<Store>, app: AppId) -> Result<Bound, Failure> {
    let side = (crowd.clone(), Arc::new((unresolved(), PageRequest::default())));
    let page = side!(side, n => side.0.repo.list(app, &side.1.0, &side.1.1).await?);
    let backlogs =
        side!(crowd, n => crowd.repo.backlogs(&BacklogRequest::default().limit(50).cap(100)).await?);
    against(pairs, "backlogs of 50 among 10,000 apps", backlogs, "a page of list", page, 2.0).await
}

/// The hundredth call on a connection, which has a generic plan by then. Leaves 100,000 rows replayed.
pub(crate) async fn by_ids(store: &Store) -> Result<Bound, Failure> {
    let mut options = dead_letters::connect_options(store.url());
    options.max_connections(1);
    let repo = SeaOrmDeadLetterRepo::new(Database::connect(options).await?);
    let ids: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM dead_letters WHERE app_id = $1 LIMIT $2")
        .bind(store.app.into_inner())
        .bind(CLOSED as i64)
        .fetch_all(&mut store.connect().await?)
        .await?;
    let mut took = Vec::new();
    for ids in ids.chunks(AT_ONCE as usize) {
        let ids: Vec<_> = ids.iter().copied().map(Into::into).collect();
        let filter = unresolved().ids(ids);
        let called = Instant::now();
        let closed = repo
            .resolve_matching(store.app, &filter, Resolution::Replayed, &Attribution::default(), AT_ONCE)
            .await?;
        took.push(called.elapsed().as_secs_f64() * 1e3);
        if closed.ids.len() != AT_ONCE as usize {
            return Err(format!("{} rows were closed, of {AT_ONCE}", closed.ids.len()).into());
        }
    }
    let last = quantile(&mut took[95..], 0.5);
    Ok(Bound {
        name: "resolve_matching with 1,000 ids, calls 96 to 100 on a connection".to_owned(),
        bound: "100 ms".to_owned(),
        measured: format!("{last:.0} ms"),
        met: last <= 100.0,
    })
}

/// Measures the call for 50 events, where 100,000 rows are replayed.
pub(crate) async fn times_replayed(pairs: &Pairs, store: &Arc<Store>) -> Result<Bound, Failure> {
    let events: Vec<Uuid> = sqlx::query_scalar(
        "SELECT original_event_id FROM dead_letters WHERE app_id = $1 AND resolution = 'replayed'
         ORDER BY original_event_id LIMIT 50",
    )
    .bind(store.app.into_inner())
    .fetch_all(&mut store.connect().await?)
    .await?;
    let side = (store.clone(), Arc::new(events));
    let deaths = side!(side, n => side.0.repo.times_replayed(side.0.app, &side.1).await?);
    let get = side!(store, n => store.repo.get(store.id(n)).await?);
    against(pairs, "times_replayed of 50 events", deaths, "a get", get, 5.0).await
}

/// How much longer one call takes than another one.
pub(crate) async fn against(
    pairs: &Pairs,
    name: &str,
    call: Call,
    other: &str,
    others: Call,
    at_most: f64,
) -> Result<Bound, Failure> {
    let case = Case { name: name.to_owned(), tasks: 1, rows: 1.0, target: None };
    let [_, median, _] = pairs.measure(case, [call, others]).await?.ratio;
    Ok(Bound {
        name: format!("{name} against {other}"),
        bound: format!("{at_most} times the time"),
        measured: format!("{:.2}", 1.0 / median),
        met: 1.0 / median <= at_most,
    })
}
