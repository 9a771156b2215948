//! Two sides in turn, A B, B A, A B, and what came out.

use std::{error::Error, future::Future, pin::Pin, sync::Arc, time::Duration, time::Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;
type Answer = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// One side's call, told how many came before it.
pub(crate) type Call = Arc<dyn Fn(usize) -> Answer + Send + Sync>;

pub(crate) fn call<F, Fut>(call: F) -> Call
where
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    Arc::new(move |n| Box::pin(call(n)))
}

/// How one call is measured.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) tasks: usize,
    /// How many of the peer's calls one of ours stands for.
    pub(crate) rows: f64,
    /// The least ratio to reach.
    pub(crate) target: Option<f64>,
}

/// One side of a figure.
#[derive(Clone, Copy)]
pub(crate) struct Side {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// CPU time of this process per call.
    pub(crate) cpu: Duration,
}

pub(crate) struct Figure {
    pub(crate) case: Case,
    /// The lower quartile, the median and the upper one of the pairs' ratios of throughput.
    pub(crate) ratio: [f64; 3],
    pub(crate) sides: [Side; 2],
}

pub(crate) struct Pairs {
    pub(crate) pairs: usize,
    /// How long one side of one pair runs.
    pub(crate) run: Duration,
}

impl Pairs {
    pub(crate) async fn measure(&self, case: Case, calls: [Call; 2]) -> Result<Figure, Failure> {
        let mut all = [Runs::default(), Runs::default()];
        let mut ratios = Vec::new();
        let mut next = [0, 0];
        for round in 0..=self.pairs {
            let mut rates = [0.0, 0.0];
            for side in [round % 2, 1 - round % 2] {
                let run = self.run(&calls[side], case.tasks, &mut next[side]).await?;
                rates[side] = run.latencies.len() as f64 / run.elapsed.as_secs_f64();
                // The first round warms up.
                if round > 0 {
                    all[side].add(run);
                }
            }
            if round > 0 {
                ratios.push(case.rows * rates[0] / rates[1]);
            }
        }
        Ok(Figure::new(case, ratios, all))
    }

    /// As many calls as `tasks` tasks make in the time of a run.
    pub(crate) async fn run(&self, call: &Call, tasks: usize, next: &mut usize) -> Result<Runs, Failure> {
        let first = *next;
        let runs = Runs::of(async {
            let start = Instant::now();
            let mut at_work = JoinSet::new();
            for task in 0..tasks {
                let (call, run) = (Arc::clone(call), self.run);
                at_work.spawn(async move {
                    let mut latencies = Vec::new();
                    let mut n = first + task;
                    while start.elapsed() < run {
                        let called = Instant::now();
                        call(n).await?;
                        latencies.push(called.elapsed());
                        n += tasks;
                    }
                    Ok::<_, Failure>(latencies)
                });
            }
            let mut latencies = Vec::new();
            while let Some(task) = at_work.join_next().await {
                latencies.extend(task??);
            }
            Ok(latencies)
        });
        let runs = runs.await?;
        *next += runs.latencies.len() + tasks;
        Ok(runs)
    }
}

/// The calls of one side, in one run or in all of them.
#[derive(Default)]
pub(crate) struct Runs {
    pub(crate) latencies: Vec<Duration>,
    pub(crate) elapsed: Duration,
    cpu: Duration,
}

impl Runs {
    pub(crate) async fn of(
        calls: impl Future<Output = Result<Vec<Duration>, Failure>>,
    ) -> Result<Self, Failure> {
        let (start, cpu) = (Instant::now(), process_cpu());
        let latencies = calls.await?;
        Ok(Self { latencies, elapsed: start.elapsed(), cpu: process_cpu() - cpu })
    }

    pub(crate) fn add(&mut self, run: Self) {
        self.latencies.extend(run.latencies);
        self.elapsed += run.elapsed;
        self.cpu += run.cpu;
    }

    pub(crate) fn side(mut self) -> Side {
        let calls = u32::try_from(self.latencies.len()).unwrap_or(u32::MAX);
        let [p50, p99] = [0.5, 0.99].map(|at| quantile(&mut self.latencies, at));
        Side { p50, p99, cpu: self.cpu / calls }
    }
}

pub(crate) fn quantile<T: Copy + PartialOrd>(values: &mut [T], at: f64) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("no NaN"));
    values[((values.len() - 1) as f64 * at).round() as usize]
}

/// Returns the CPU time of all threads of this process.
fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Figure {
    pub(crate) fn new(case: Case, mut ratios: Vec<f64>, sides: [Runs; 2]) -> Self {
        let ratio = [0.25, 0.5, 0.75].map(|at| quantile(&mut ratios, at));
        Self { case, ratio, sides: sides.map(Runs::side) }
    }

    /// A row of the table.
    pub(crate) fn line(&self) -> String {
        let Case { name, tasks, target, .. } = &self.case;
        let [lower, median, upper] = self.ratio;
        let target = target.map_or_else(|| "-".to_owned(), |target| target.to_string());
        let [ours, peers] = self.sides.map(|side| {
            let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
            format!(
                "{:.2} / {:.2} | {}",
                milliseconds(side.p50),
                milliseconds(side.p99),
                side.cpu.as_micros()
            )
        });
        format!(
            "| {name} | {tasks} | {target} | **{median:.2}** | {lower:.2} to {upper:.2} | {ours} | {peers} |"
        )
    }
}
