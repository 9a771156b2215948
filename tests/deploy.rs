//! The alert rules and the dashboard in deploy/, compared with the metrics that the code exports. `just alerts` tests what
//! the rules do.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{TimeDelta, Utc};
use dead_letters::{
    AppId, BacklogGauges, DeadLetterTransfer, GroupWatch, JsonLinesArchive, NewErrorGroup, Notify, Retention,
    RetentionPolicy, SweepEnd, Sweeper, describe_metrics, testing,
};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Labels that Prometheus adds to every series.
const TARGET: [&str; 2] = ["job", "instance"];

/// The labels of a metric, with the values that were seen.
type Labels = BTreeMap<String, BTreeSet<String>>;

/// Records which metrics are described, by the names that the Prometheus exporter gives their series, and their labels.
#[derive(Default)]
struct Exported {
    series: Mutex<BTreeMap<String, String>>,
    labels: Mutex<BTreeMap<String, Labels>>,
}

impl Exported {
    fn describe(&self, name: &KeyName, suffixes: &[&str]) {
        for suffix in suffixes {
            let series = format!("{}{suffix}", name.as_str());
            self.series.lock().unwrap().insert(series, name.as_str().to_owned());
        }
    }

    fn register(&self, key: &Key) {
        let mut metrics = self.labels.lock().unwrap();
        let labels = metrics.entry(key.name().to_owned()).or_default();
        for label in key.labels() {
            labels.entry(label.key().to_owned()).or_default().insert(label.value().to_owned());
        }
    }
}

impl Recorder for Exported {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&name, &[""]);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&name, &[""]);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&name, &["_bucket", "_sum", "_count"]);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.register(key);
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.register(key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.register(key);
        Histogram::noop()
    }
}

struct Somebody {
    reached: bool,
}

#[async_trait]
impl Notify for Somebody {
    async fn notify(&self, _: &NewErrorGroup) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.reached { Ok(()) } else { Err("out of reach".into()) }
    }
}

/// Reports every metric once.
async fn exported() -> Exported {
    let exported = Exported::default();
    let guard = metrics::set_default_local_recorder(&exported);
    describe_metrics();
    let (repo, app) = (testing::store().await.unwrap(), AppId::from(Uuid::new_v4()));
    repo.import(&[testing::stored_letter(app, Utc::now() - TimeDelta::days(91))]).await.unwrap();
    let mut gauges = BacklogGauges::default();
    gauges.update(&repo, 10).await.unwrap();
    let policy = RetentionPolicy::new(Retention::default().delete_all_after(90 * DAY));
    gauges.update_expiring(&repo, &policy, 7 * DAY, 10).await.unwrap();
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    // An archive cannot create its folder in a file.
    let fails = Sweeper::builder(Arc::new(repo.clone()), policy.clone());
    let fails = fails.archive(Arc::new(JsonLinesArchive::new(file))).build().unwrap();
    assert!(matches!(fails.sweep_once(Utc::now()).await.end, SweepEnd::Failed(_)));
    for reached in [false, true] {
        repo.import(&[testing::stored_letter(app, Utc::now())]).await.unwrap();
        let watch = GroupWatch::builder(Arc::new(repo.clone()), Arc::new(Somebody { reached }));
        let report = watch.build().unwrap().announce_once().await;
        assert_eq!((report.announced > 0, report.failed > 0), (reached, !reached));
    }
    let finishes = Sweeper::builder(Arc::new(repo), policy).build().unwrap();
    assert!(matches!(finishes.sweep_once(Utc::now()).await.end, SweepEnd::Finished));
    drop(guard);
    let described: BTreeSet<_> = exported.series.lock().unwrap().values().cloned().collect();
    let reported: BTreeSet<_> = exported.labels.lock().unwrap().keys().cloned().collect();
    assert_eq!(described, reported);
    exported
}

/// An expression of PromQL, and the texts that show the labels of its result.
struct Query {
    expr: String,
    shown: String,
}

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)).unwrap()
}

/// Returns the alerts by name.
fn alerts() -> BTreeMap<String, Query> {
    let rules = file("prometheus/dead-letters.rules.yml");
    let lines = rules.lines().filter(|line| !line.trim_start().starts_with('#'));
    let rules = lines.collect::<Vec<_>>().join("\n");
    let mut alerts = BTreeMap::new();
    for rule in rules.split("- alert: ").skip(1) {
        let (name, rule) = rule.split_once('\n').unwrap();
        let (expr, rule) = rule.split_once("expr: ").unwrap().1.split_once(" for: ").unwrap();
        for part in ["severity: ", "summary: ", "description: "] {
            assert!(rule.contains(part), "{name} has no {part}");
        }
        alerts.insert(name.to_owned(), Query { expr: expr.to_owned(), shown: rule.to_owned() });
    }
    alerts
}

/// Returns the queries of the dashboard's panels and variables.
fn dashboard() -> Vec<Query> {
    fn look(value: &Value, queries: &mut Vec<Query>) {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        if let Some(expr) = text("expr").or_else(|| text("definition")) {
            let shown = text("legendFormat").unwrap_or_default();
            queries.push(Query { expr: expr.to_owned(), shown: shown.to_owned() });
        }
        match value {
            Value::Array(values) => values.iter().for_each(|value| look(value, queries)),
            Value::Object(fields) => fields.values().for_each(|value| look(value, queries)),
            _ => {}
        }
    }
    let mut queries = Vec::new();
    look(&serde_json::from_str(&file("grafana/dead-letters.json")).unwrap(), &mut queries);
    queries
}

/// Returns the part before the first of these characters.
fn until<'a>(text: &'a str, ends: &[char]) -> &'a str {
    text.split(ends).next().unwrap()
}

/// Returns what is wrong with the query, and adds the series that it names.
fn wrong(query: &Query, exported: &Exported, used: &mut BTreeSet<String>) -> Vec<String> {
    let (series, metrics) = (exported.series.lock().unwrap(), exported.labels.lock().unwrap());
    let Query { expr, shown } = query;
    let mut wrong = Vec::new();
    let grouped: BTreeSet<_> = ["by (", "on (", "without ("]
        .iter()
        .flat_map(|keyword| expr.split(keyword).skip(1))
        .flat_map(|rest| until(rest, &[')']).split(',').map(str::trim))
        .collect();
    for (at, _) in expr.match_indices("dead_letters_") {
        let name: String =
            expr[at..].chars().take_while(|&c| c.is_ascii_alphanumeric() || c == '_').collect();
        let rest = &expr[at + name.len()..];
        let Some(metric) = series.get(&name) else {
            wrong.push(format!("{name} is not exported"));
            continue;
        };
        let labels = &metrics[metric];
        let is_label = |label: &str| {
            labels.contains_key(label)
                || TARGET.contains(&label)
                || label == "le" && name.ends_with("_bucket")
        };
        let matchers = rest.strip_prefix('{').map_or("", |rest| until(rest, &['}']));
        for matcher in matchers.split(',').filter(|matcher| !matcher.is_empty()) {
            let label = until(matcher, &['=', '!']).trim();
            if !is_label(label) {
                wrong.push(format!("{name} has no label {label}"));
            }
            let values = matcher.split('"').nth(1).unwrap();
            // A variable of the dashboard begins with a dollar sign.
            for value in values.split('|').filter(|value| !value.starts_with('$')) {
                if labels.get(label).is_some_and(|seen| !seen.contains(value)) {
                    wrong.push(format!("{label} of {name} is never {value}"));
                }
            }
        }
        // The second argument of Grafana's `label_values` is a label.
        let of_variable = expr.strip_prefix("label_values(").and_then(|query| query.rsplit_once(", "));
        let of_variable = of_variable.map(|(_, label)| until(label, &[')']));
        for label in grouped.iter().copied().chain(of_variable) {
            if !is_label(label) {
                wrong.push(format!("{name} has no label {label}"));
            }
        }
        used.insert(metric.clone());
    }
    let in_rules = shown.split("$labels.").skip(1).map(|rest| until(rest, &[' ', '}']));
    let in_legends = shown.split("{{").skip(1).map(|rest| until(rest, &['}']).trim());
    for label in in_rules.chain(in_legends.filter(|text| !text.starts_with('$'))) {
        if !grouped.contains(label) {
            wrong.push(format!("{label} is shown and is no label of the result"));
        }
    }
    wrong.iter().map(|what| format!("{what}: {expr}")).collect()
}

#[tokio::test]
async fn rules_and_dashboard_name_what_is_exported_and_use_every_metric() {
    let exported = exported().await;
    let mut used = BTreeSet::new();
    let mut faults = Vec::new();
    for query in alerts().values().chain(&dashboard()) {
        faults.extend(wrong(query, &exported, &mut used));
    }
    assert_eq!(faults, Vec::<String>::new());
    let described: BTreeSet<_> = exported.series.lock().unwrap().values().cloned().collect();
    assert_eq!(described, used, "left: what the code exports, right: what rules and dashboard use");
}

#[tokio::test]
async fn a_query_that_names_something_else_is_found() {
    let exported = exported().await;
    for (expr, shown, what) in [
        ("dead_letters_opened", "", "dead_letters_opened is not exported"),
        ("dead_letters_call_duration_seconds", "", "is not exported"),
        ("sum by (app) (dead_letters_open)", "", "has no label app"),
        ("sum by (le) (dead_letters_open)", "", "has no label le"),
        ("dead_letters_calls_total{result=\"failed\"}", "", "has no label result"),
        (
            "dead_letters_calls_total{outcome=\"error\"}",
            "",
            "outcome of dead_letters_calls_total is never error",
        ),
        ("dead_letters_calls_total{call!~\"sweep|swept\"}", "", "is never swept"),
        ("label_values(dead_letters_open, app)", "", "has no label app"),
        ("sum by (job) (dead_letters_open)", "{{ $labels.app_id }}", "app_id is shown"),
        ("sum by (job) (dead_letters_open)", "{{app_id}}", "app_id is shown"),
    ] {
        let query = Query { expr: expr.to_owned(), shown: shown.to_owned() };
        let found = wrong(&query, &exported, &mut BTreeSet::new());
        assert!(found.iter().any(|found| found.contains(what)), "{expr}: {found:?}");
    }
}

#[test]
fn every_alert_has_a_test() {
    let tests = file("prometheus/dead-letters.test.yml");
    for alert in alerts().keys() {
        let cases = tests.matches(&format!("alertname: {alert}")).count();
        assert!(cases >= 2, "{alert} needs a test that it fires, and a test that it is silent");
    }
}
