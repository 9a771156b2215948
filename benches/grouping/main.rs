//! How well error signatures group the lines of LogHub, whose true templates are known, and how long one takes.
//!
//! A line counts if its group holds exactly the lines of its template.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    env, fs,
    hint::black_box,
    io,
    path::{Path, PathBuf},
    time::Instant,
};

use dead_letters::testing::error_signature;

const USAGE: &str = "LogHub is not part of this repository. To measure how well signatures group its lines:

    git clone --depth 1 https://github.com/logpai/loghub
    cargo bench --bench grouping -- loghub
    cargo bench --bench grouping -- loghub --wrong      # and the templates that were not grouped rightly

Without LogHub it measures texts that are made to be slow:

    cargo bench --bench grouping -- --slow";

const SUFFIX: &str = "_2k.log_structured.csv";
/// How often each line is timed.
const ROUNDS: usize = 20;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--slow") {
        print_slow();
        return Ok(());
    }
    // `cargo bench -- insert` is for the other benchmark, and comes here too.
    let Some(folder) = arguments.iter().map(Path::new).find(|argument| argument.is_dir()) else {
        println!("{USAGE}");
        return Ok(());
    };
    let mut sets = BTreeMap::new();
    find(folder, 2, &mut sets)?;
    if sets.is_empty() {
        println!("{} has no files named …{SUFFIX}.\n\n{USAGE}", folder.display());
        return Ok(());
    }
    println!(
        "| set | grouping accuracy | groups | templates | µs a line |\n| --- | ---: | ---: | ---: | ---: |"
    );
    let mut sum = 0.0;
    for (name, path) in &sets {
        let set = Set::of(&fs::read_to_string(path)?);
        let (accuracy, groups) = set.accuracy();
        let microseconds = set.microseconds();
        println!("| {name} | {accuracy:.3} | {groups} | {} | {microseconds:.2} |", set.templates.len());
        sum += accuracy;
    }
    println!("| mean | {:.3} | | | |", sum / sets.len() as f64);
    if arguments.iter().any(|argument| argument == "--wrong") {
        for (name, path) in &sets {
            println!("\n{name}");
            Set::of(&fs::read_to_string(path)?).print_wrong();
        }
    }
    Ok(())
}

/// Prints how long texts take that are made to be slow. A text of four times the length takes about four times as long
/// if the time is linear.
fn print_slow() {
    const SHORT: usize = 4 << 10;
    println!("| text | µs for 4 KB | µs for 16 KB | ratio |\n| --- | ---: | ---: | ---: |");
    for part in [
        "'",
        "\"'`",
        "(",
        "([{<",
        "{\"a\":",
        "a.b.",
        "/a",
        "a:b@c.",
        "1.",
        "http://",
        "é",
        "a1",
        "<html><title>",
        "=: ",
        "\n'",
        "Caused by: x\n",
        "\nTraceback (most recent call last):\n",
        "  a\n",
    ] {
        let microseconds = |length: usize| {
            let text: String = part.chars().cycle().take(length).collect();
            let began = Instant::now();
            for _ in 0..ROUNDS {
                black_box(error_signature(black_box(&text)));
            }
            began.elapsed().as_secs_f64() * 1e6 / ROUNDS as f64
        };
        let (short, long) = (microseconds(SHORT), microseconds(4 * SHORT));
        println!("| `{}` … | {short:.0} | {long:.0} | {:.1} |", part.escape_debug(), long / short);
    }
}

fn find(folder: &Path, depth: usize, sets: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && depth > 1 {
            find(&path, depth - 1, sets)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(SUFFIX)) {
            sets.insert(name.to_owned(), path.clone());
        }
    }
    Ok(())
}

struct Set {
    /// Each with its template.
    lines: Vec<(String, String)>,
    /// How many lines each has.
    templates: HashMap<String, usize>,
}

impl Set {
    fn of(csv: &str) -> Self {
        let mut rows = rows(csv).into_iter();
        let header = rows.next().unwrap_or_default();
        let column =
            |name: &str| header.iter().position(|column| column == name).expect("a column of LogHub's");
        let (content, id, template) = (column("Content"), column("EventId"), column("EventTemplate"));
        let mut templates = HashMap::new();
        let mut lines = Vec::new();
        for mut row in rows.filter(|row| row.len() == header.len()) {
            let template = format!("{} {}", row[id], row[template]);
            *templates.entry(template.clone()).or_default() += 1;
            lines.push((row.swap_remove(content), template));
        }
        Self { lines, templates }
    }

    /// Each signature's lines, by their templates.
    fn groups(&self) -> HashMap<String, HashMap<&str, usize>> {
        let mut groups: HashMap<_, HashMap<_, _>> = HashMap::new();
        for (line, template) in &self.lines {
            let templates = groups.entry(error_signature(line)).or_default();
            *templates.entry(template.as_str()).or_default() += 1;
        }
        groups
    }

    /// If all lines of the group are of one template, and are all its lines: how many they are.
    fn right(&self, group: &HashMap<&str, usize>) -> Option<usize> {
        let (template, &lines) = group.iter().next()?;
        (group.len() == 1 && self.templates.get(*template) == Some(&lines)).then_some(lines)
    }

    fn accuracy(&self) -> (f64, usize) {
        let groups = self.groups();
        let right: usize = groups.values().filter_map(|group| self.right(group)).sum();
        (right as f64 / self.lines.len() as f64, groups.len())
    }

    fn microseconds(&self) -> f64 {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            for (line, _) in &self.lines {
                black_box(error_signature(black_box(line)));
            }
        }
        start.elapsed().as_secs_f64() * 1e6 / (ROUNDS * self.lines.len()) as f64
    }

    fn print_wrong(&self) {
        let mut wrong: BTreeMap<&str, HashSet<String>> = BTreeMap::new();
        for (signature, group) in self.groups() {
            if self.right(&group).is_none() {
                for template in group.into_keys() {
                    wrong.entry(template).or_default().insert(signature.clone());
                }
            }
        }
        let mut wrong: Vec<_> = wrong.into_iter().collect();
        wrong.sort_by_key(|(template, _)| std::cmp::Reverse(self.templates[*template]));
        for (template, signatures) in wrong {
            println!("  {} lines of {template}", self.templates[template]);
            for signature in signatures.iter().take(3) {
                println!("      {signature}");
            }
        }
    }
}

fn rows(csv: &str) -> Vec<Vec<String>> {
    let mut rows = vec![vec![String::new()]];
    let mut quoted = false;
    let mut characters = csv.chars().peekable();
    while let Some(c) = characters.next() {
        let row = rows.last_mut().expect("the first is there");
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                row.last_mut().expect("each row has a field").push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(String::new()),
            '\n' if !quoted => rows.push(vec![String::new()]),
            '\r' if !quoted => {}
            c => row.last_mut().expect("each row has a field").push(c),
        }
    }
    rows
}
