//! The cost of the pages beyond the store's calls, on PostgreSQL, and their size.
//!
//! ```sh
//! cargo bench -p dead-letters-admin      # two minutes; prints a table
//! ```
//!
//! An app with 1,000,000 unresolved letters, and an overview of 10,000 apps. The router is asked without a socket,
//! on one thread, and the CPU of that thread is told, of which the same calls of the store, made directly, are
//! subtracted. The server's own CPU is not in it.

use std::{collections::BTreeSet, error::Error, hint::black_box, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderName, Request, StatusCode, header},
    response::Response,
};
use chrono::{TimeDelta, Utc};
use dead_letters::{
    AppId, BacklogRequest, Buckets, CountRequest, DeadLetterFilter, DeadLetterRead, DeadLetterState,
    GroupRequest, NewGroupRequest, OnOpen, PageRequest, Retention, RetentionPolicy, SeaOrmDeadLetterRepo,
    TimelineRequest, connect_options, migration::Migrator,
};
use dead_letters_admin::{Admin, InsecureAllowAll, Operator};
use dead_letters_test_support::TestDatabase;
use http_body_util::BodyExt;
use rustix::time::{ClockId, clock_gettime};
use sea_orm::ConnectionTrait;
use tower::ServiceExt;
use uuid::Uuid;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const LETTERS: u32 = 1_000_000;
const APPS: u32 = 10_000;
const CALLS: u32 = 300;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let database = TestDatabase::postgres().await?;
    let repo = dead_letters::open(connect_options(database.url()), OnOpen::Check, Migrator).await?;
    let app = AppId::from(Uuid::from_u128(1));
    fill(&repo).await?;

    let others = Retention::default().delete_closed_after(30 * DAY).delete_all_after(90 * DAY);
    let policy = RetentionPolicy::new(others);
    let store = Arc::new(repo.clone());
    let admin = Admin::new(store, InsecureAllowAll(Operator::full("ada"))).retention(policy.clone());
    let router = Router::from(admin);

    println!("| page | CPU beyond the store's calls | the store's calls | plain | compressed |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    let letters = format!("/apps/{}", app.into_inner());
    let calls = async || letters_calls(&repo, &policy, app).await;
    row("letters of 1,000,000", &router, &letters, calls).await?;
    row("10,000 apps", &router, "/apps", async || overview_calls(&repo, &policy).await).await?;

    let page = String::from_utf8(body(&router, &letters, "identity").await?)?;
    let assets: BTreeSet<_> = page.split('"').filter_map(|text| text.strip_prefix("../assets/")).collect();
    let mut weight = body(&router, &letters, "gzip").await?.len();
    for asset in &assets {
        weight += body(&router, &format!("/assets/{asset}"), "gzip").await?.len();
    }
    println!("\nThe page of letters and its {} assets, compressed: {weight} bytes.", assets.len());

    let first = answer(&router, &letters, &[]).await?;
    let tag = first.headers().get(header::ETAG).ok_or("no ETag")?.to_str()?;
    let poll = async || {
        let poll = answer(&router, &letters, &[(header::IF_NONE_MATCH, tag)]).await?;
        if poll.status() == StatusCode::NOT_MODIFIED {
            Ok(())
        } else {
            Err("a poll is not answered 304".into())
        }
    };
    let cpu = cpu_of(poll).await?;
    let whole = cpu_of(async || body(&router, &letters, "gzip").await.map(drop)).await?;
    let version = cpu_of(async || {
        black_box(repo.letters_version(Some(app)).await?);
        Ok(())
    });
    let version = version.await?;
    // Each page polls every ten seconds and is made again every minute. The version is read once a second.
    let second = cpu * 20 + whole * 200 / 60 + version;
    let share = second.as_secs_f64() * 100.0;
    println!(
        "A poll that is answered 304: {cpu:.2?}, the version: {version:.2?}, a whole page: {whole:.2?}."
    );
    println!("200 open pages: {share:.1} % of a core.");
    Ok(())
}

async fn fill(repo: &SeaOrmDeadLetterRepo) -> Result<()> {
    let columns = "id, app_id, original_event_id, source, op, payload, attempt_count, first_attempt_at, \
                   last_attempt_at, last_error, error_signature, created_at";
    let values = "gen_random_uuid(), 'orders', 'insert', '{\"order\":4711}', 5, now(), now(), \
                  E'HTTP 503 from https://crm.example.com/v2/contacts/48127: upstream connect error\\n    at deliver', \
                  'HTTP # from https://crm.example.com/v#/contacts/#: upstream connect error'";
    let insert = |app: &str, rows: u32| {
        format!(
            "INSERT INTO dead_letters ({columns}) SELECT gen_random_uuid(), {app}, {values}, \
             now() - n * interval '1 second' FROM generate_series(1, {rows}) AS n"
        )
    };
    let pool = repo.pool();
    pool.execute_unprepared(&insert(&format!("'{}'::uuid", Uuid::from_u128(1)), LETTERS)).await?;
    pool.execute_unprepared(&insert("gen_random_uuid()", APPS)).await?;
    pool.execute_unprepared("VACUUM ANALYZE dead_letters").await?;
    Ok(())
}

/// As the page makes them.
async fn letters_calls(repo: &SeaOrmDeadLetterRepo, policy: &RetentionPolicy, app: AppId) -> Result<()> {
    let filter = DeadLetterFilter::default();
    let page = PageRequest::default().scan_limit(10_000);
    let page = repo.list(app, &filter, &page).await?;
    let events: Vec<_> = page.items.iter().map(|letter| letter.original_event_id).collect();
    black_box(repo.times_replayed(app, &events).await?);
    black_box(repo.backlogs(&BacklogRequest::default().among([app]).limit(1).cap(1_000)).await?);
    for state in [DeadLetterState::Unresolved, DeadLetterState::Open, DeadLetterState::Closed] {
        let filter = DeadLetterFilter::default().state(state);
        black_box(repo.count(app, &filter, &CountRequest::default().scan_limit(10_000)).await?);
    }
    let now = Utc::now();
    black_box(policy.due_within(repo, Some(app), now, 7 * DAY, 1_000).await?);
    let any = DeadLetterFilter::default().state(DeadLetterState::Any);
    let day = Buckets::new(now - TimeDelta::days(1)..now, 96);
    black_box(repo.timeline(app, &any, &TimelineRequest::from(day).scan_limit(10_000)).await?);
    let offered = GroupRequest::default().limit(100).scan_limit(2_000);
    black_box(repo.error_groups(app, &DeadLetterFilter::default(), &offered).await?);
    Ok(())
}

async fn overview_calls(repo: &SeaOrmDeadLetterRepo, policy: &RetentionPolicy) -> Result<()> {
    let apps = repo.backlogs(&BacklogRequest::default().limit(1_000).cap(1_000)).await?;
    let last = apps.last().map(|app| app.app_id);
    black_box(repo.backlogs(&BacklogRequest::default().after(last).limit(1).cap(1)).await?);
    black_box(policy.due_within(repo, None, Utc::now(), 7 * DAY, 1_000).await?);
    let groups = NewGroupRequest::since(Utc::now() - TimeDelta::days(1)).scan_limit(10_000).limit(500);
    black_box(repo.new_error_groups(&groups.open(true)).await?);
    Ok(())
}

async fn row(name: &str, router: &Router, address: &str, calls: impl AsyncFn() -> Result<()>) -> Result<()> {
    let page = async || body(router, address, "identity").await.map(drop);
    // In turn, so that what else the machine does is in both.
    let (mut with, mut without) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..3 {
        with += cpu_of(page).await?;
        without += cpu_of(&calls).await?;
    }
    let plain = body(router, address, "identity").await?.len();
    let compressed = body(router, address, "gzip").await?.len();
    let beyond = with.saturating_sub(without) / 3;
    println!("| {name} | {beyond:.2?} | {:.2?} | {plain} bytes | {compressed} bytes |", without / 3);
    Ok(())
}

/// Returns the CPU time of this thread per call.
async fn cpu_of(call: impl AsyncFn() -> Result<()>) -> Result<Duration> {
    call().await?;
    let before = clock_gettime(ClockId::ThreadCPUTime);
    for _ in 0..CALLS {
        call().await?;
    }
    let after = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = (after.tv_sec - before.tv_sec) * 1_000_000_000 + (after.tv_nsec - before.tv_nsec);
    Ok(Duration::from_nanos(nanos.try_into()?) / CALLS)
}

async fn answer(router: &Router, address: &str, headers: &[(HeaderName, &str)]) -> Result<Response> {
    let request =
        headers.iter().fold(Request::get(address), |request, &(ref name, value)| request.header(name, value));
    Ok(router.clone().oneshot(request.body(Body::empty())?).await?)
}

async fn body(router: &Router, address: &str, encoding: &str) -> Result<Vec<u8>> {
    let response = answer(router, address, &[(header::ACCEPT_ENCODING, encoding)]).await?;
    if response.status() != StatusCode::OK {
        return Err(format!("{address}: {}", response.status()).into());
    }
    Ok(response.into_body().collect().await?.to_bytes().into())
}
