//! The tables, the chart, and the files of them.

use std::{fs, process::Command};

use chrono::Utc;
use plotters::prelude::*;

use crate::measure::{Failure, Figure};

const HEAD: &str = "\
| call | tasks | target | ratio | quartiles | p50 / p99, ms | CPU, µs | the peer's p50 / p99 | its CPU |
| --- | ---: | ---: | ---: | --- | --- | ---: | --- | ---: |";

const BOUNDS_HEAD: &str = "\
| what else | at most | measured | met |
| --- | --- | --- | --- |";

/// A measurement that is not a ratio of throughputs.
pub(crate) struct Bound {
    pub(crate) name: String,
    pub(crate) bound: String,
    pub(crate) measured: String,
    pub(crate) met: bool,
}

impl Bound {
    pub(crate) fn memory(what: &str, few: f64, many: f64) -> Self {
        Self {
            name: format!("peak memory of the process, {what}"),
            bound: "the same within 10 MiB".to_owned(),
            measured: format!("{few:.0} MiB to {many:.0} MiB"),
            met: many < few + 10.0,
        }
    }

    pub(crate) fn line(&self) -> String {
        let met = if self.met { "yes" } else { "**no**" };
        format!("| {} | {} | {} | {met} |", self.name, self.bound, self.measured)
    }
}

pub(crate) fn print_head() {
    println!("{HEAD}");
}

pub(crate) fn print_bounds_head() {
    println!("\n{BOUNDS_HEAD}");
}

/// Writes `benches/results`.
pub(crate) fn save(versions: &str, figures: &[Figure], bounds: &[Bound]) -> Result<(), Failure> {
    let lines = |lines: Vec<String>| lines.join("\n");
    let table = format!(
        "# Results\n\n\
         Written by `cargo bench` on {written}. \
         [benches/README.md](../README.md) explains the measurements, and why some rows miss their targets.\n\n\
         ![Throughput against hand-written sqlx](chart.svg)\n\n\
         {HEAD}\n{figures}\n\n\
         {BOUNDS_HEAD}\n{bounds}\n",
        written = written(versions)?,
        figures = lines(figures.iter().map(Figure::line).collect()),
        bounds = lines(bounds.iter().map(Bound::line).collect()),
    );
    write("README.md", &table)?;
    draw(&format!("{RESULTS}/chart.svg"), figures)
}

const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results");

pub(crate) fn write(name: &str, text: &str) -> Result<(), Failure> {
    fs::create_dir_all(RESULTS)?;
    Ok(fs::write(format!("{RESULTS}/{name}"), text)?)
}

/// When, of what, and where.
pub(crate) fn written(versions: &str) -> Result<String, Failure> {
    Ok(format!(
        "{date}, at commit {commit}, on {machine}. Versions: {versions}, {rustc}, sea-orm {sea_orm}, sqlx {sqlx}",
        date = Utc::now().format("%Y-%m-%d"),
        commit = said_by("git", &["rev-parse", "--short", "HEAD"])?,
        machine = machine()?,
        rustc = said_by("rustc", &["--version"])?,
        sea_orm = locked("sea-orm")?,
        sqlx = locked("sqlx")?,
    ))
}

fn machine() -> Result<String, Failure> {
    let value_of = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cpu = value_of(&fs::read_to_string("/proc/cpuinfo")?, "model name").ok_or("no CPU model")?;
    let memory = value_of(&fs::read_to_string("/proc/meminfo")?, "MemTotal").ok_or("no memory")?;
    let memory: f64 = memory.trim_end_matches(" kB").parse()?;
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{cores} cores of {cpu} with {:.0} GiB, which server and client share", memory / 1048576.0))
}

fn said_by(program: &str, arguments: &[&str]) -> Result<String, Failure> {
    let said = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
    Ok(String::from_utf8(said.stdout)?.trim().to_owned())
}

/// The version that Cargo.lock names.
fn locked(package: &str) -> Result<&'static str, Failure> {
    let lock = include_str!("../../Cargo.lock");
    let (_, after) = lock.split_once(&format!("name = \"{package}\"\nversion = \"")).ok_or("not locked")?;
    Ok(after.split_once('"').ok_or("not locked")?.0)
}

const BLUE_GREEN: RGBColor = RGBColor(0, 109, 119);
const ORANGE: RGBColor = RGBColor(226, 114, 91);
const GRAY: RGBColor = RGBColor(110, 110, 110);

/// A row a figure, on a logarithmic scale: the median as a dot, the quartiles as a line, the target as a tick.
fn draw(path: &str, figures: &[Figure]) -> Result<(), Failure> {
    let height = 90 + 20 * figures.len() as u32;
    let area = SVGBackend::new(path, (980, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let least = figures.iter().map(|figure| figure.ratio[0]).fold(1.0, f64::min);
    let greatest = figures.iter().map(|figure| figure.ratio[2]).fold(10.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .caption("Throughput against hand-written sqlx: 1 is the same, right is faster; tick: target; orange: below it", ("sans-serif", 17))
        .x_label_area_size(30)
        .y_label_area_size(420)
        .build_cartesian_2d((least / 1.3..greatest * 1.3).log_scale(), 0.0..figures.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(WHITE)
        .y_labels(0)
        .x_labels(8)
        .x_label_formatter(&|ratio| format!("{ratio}"))
        .draw()?;
    let rows = figures.len() as f64;
    chart.draw_series([PathElement::new([(1.0, 0.0), (1.0, rows)], GRAY.stroke_width(2))])?;
    for (row, figure) in figures.iter().enumerate() {
        let y = rows - row as f64 - 0.5;
        let [lower, median, upper] = figure.ratio;
        let missed = figure.case.target.is_some_and(|target| median < target);
        let color = if missed { ORANGE } else { BLUE_GREEN };
        chart.draw_series([PathElement::new([(lower, y), (upper, y)], color.stroke_width(3))])?;
        chart.draw_series([Circle::new((median, y), 4, color.filled())])?;
        chart.draw_series(
            figure.case.target.map(|target| {
                PathElement::new([(target, y - 0.4), (target, y + 0.4)], BLACK.stroke_width(1))
            }),
        )?;
        let tasks = if figure.case.tasks == 1 { "task" } else { "tasks" };
        let label = format!("{}, {} {tasks}", figure.case.name, figure.case.tasks);
        let (_, pixel) = chart.backend_coord(&(1.0, y));
        area.draw_text(&label, &("sans-serif", 13).into_text_style(&area), (12, pixel - 8))?;
    }
    area.present()?;
    Ok(())
}
