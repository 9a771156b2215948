//! The metrics of calls and backlogs, as an exporter gets them.
//!
//! ```text
//! cargo run --example metrics
//! ```

use std::error::Error;

use dead_letters::{
    AppId, BacklogGauges, DeadLetterId, DeadLetterRepo, DeadLetterResolve, Resolution, describe_metrics,
    testing,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use uuid::Uuid;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A service installs the recorder of its exporter, such as metrics-exporter-prometheus.
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install()?;
    describe_metrics();

    let (repo, app) = (testing::store().await?, AppId::from(Uuid::new_v4()));
    let ids = repo.insert_many((0..3).map(|_| testing::letter(app)).collect()).await?;
    repo.resolve_once(app, ids[0], Resolution::Ignored, &Default::default()).await?;
    // The outcome of this call is `answer`: nothing went wrong.
    let unknown = DeadLetterId::from(Uuid::nil());
    if let Err(error) = repo.resolve_once(app, unknown, Resolution::Ignored, &Default::default()).await {
        println!("{error}");
    }

    // A service lets `run` do so every half a minute.
    let all_apps = BacklogGauges::default().update(&repo, 1_000).await?;
    println!("the gauges are set for {} apps", if all_apps { "all" } else { "some" });

    for (key, _, description, value) in snapshotter.snapshot().into_vec() {
        let labels: Vec<_> =
            key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let value = match value {
            DebugValue::Counter(count) => count.to_string(),
            DebugValue::Gauge(value) => value.to_string(),
            DebugValue::Histogram(samples) => format!("{} samples", samples.len()),
        };
        println!("{} {{{}}} {value}", key.key().name(), labels.join(", "));
        if let Some(description) = description {
            println!("  {description}");
        }
    }
    Ok(())
}
