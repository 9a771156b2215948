//! The real program, and a database for it.

use std::{
    io::Write,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use chrono::{TimeDelta, Utc};
use dead_letters::{
    AppId, CountRequest, DeadLetterFilter, DeadLetterId, DeadLetterRead, DeadLetterRepo, DeadLetterRetention,
    DeadLetterState, DeadLetterTransfer, Due, NewDeadLetter, OnOpen, SeaOrmDeadLetterRepo, StoredLetter,
    SweepScope, connect_options,
    migration::Migrator,
    open,
    testing::{letter, stored_letter},
};
use dead_letters_test_support::{Error, TestDatabase};
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use serde_json::Value;
use uuid::Uuid;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_dead-letters");

/// A database of its own, and one app.
pub(crate) struct Store {
    pub(crate) repo: SeaOrmDeadLetterRepo,
    pub(crate) url: String,
    pub(crate) app: AppId,
    database: TestDatabase,
}

impl Store {
    pub(crate) async fn sqlite() -> Self {
        Self::over(TestDatabase::sqlite().await).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::over(TestDatabase::postgres().await).await
    }

    async fn over(database: Result<TestDatabase, Error>) -> Self {
        let database = database.unwrap();
        let url = database.url().to_owned();
        let repo = open(connect_options(&url), OnOpen::Check, Migrator).await.unwrap();
        Self { repo, url, app: Uuid::new_v4().into(), database }
    }

    pub(crate) async fn letter(&self, source: &str, error: &str) -> DeadLetterId {
        let letter = letter(self.app);
        let (source, last_error) = (source.to_owned(), error.to_owned());
        let letter = NewDeadLetter { source, last_error, script_id: Some(Uuid::nil().into()), ..letter };
        self.repo.insert(letter).await.unwrap()
    }

    /// Returns the program's output to a pipe. `{app}` stands for the app.
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.fed(line, "")
    }

    /// The same, with this on its standard input.
    pub(crate) fn fed(&self, line: &str, input: &str) -> Ran {
        let mut program = self.start(line);
        let mut stdin = program.stdin.take().unwrap();
        let input = input.to_owned();
        // On a thread of its own: it may print before it has read all.
        let feeding = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let ran = program.wait_with_output().unwrap().into();
        feeding.join().unwrap();
        ran
    }

    /// Its standard streams are pipes. It prints tab-separated values, unless the line says otherwise.
    pub(crate) fn start(&self, line: &str) -> Child {
        let mut program = self.command(line);
        let has_one_format =
            ["export", "serve", "completions", "man "].iter().any(|word| line.starts_with(word))
                || [" -q", " --quiet", "--payload-only", "--every", "--output"]
                    .iter()
                    .any(|option| line.contains(option));
        if !has_one_format {
            program.args(["--output", "tsv"]);
        }
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// With nothing on its standard input.
    pub(crate) fn command(&self, line: &str) -> Command {
        let app = self.app.to_string();
        let args = line.split(' ').map(|word| word.replace("{app}", &app));
        let mut program = program();
        program.args(args).env("DATABASE_URL", &self.url);
        program
    }

    /// Returns the program's output as part of a shell's line, in which `{run}` stands for the program.
    pub(crate) fn shell(&self, line: &str) -> Ran {
        let line = line.replace("{run}", PROGRAM).replace("{app}", &self.app.to_string());
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).env_clear().env("PATH", "/usr/bin:/bin").env("TZ", "UTC");
        shell.env("DATABASE_URL", &self.url).output().unwrap().into()
    }

    /// The path of its SQLite file.
    pub(crate) fn file(&self) -> PathBuf {
        self.database.file().to_owned()
    }

    /// As many, from a day on before it, a second apart.
    pub(crate) async fn import(&self, letters: i64, days_ago: i64) -> Vec<StoredLetter> {
        let first = Utc::now() - TimeDelta::days(days_ago);
        let stored = (0..letters).map(|n| stored_letter(self.app, first + TimeDelta::seconds(n)));
        let stored: Vec<_> = stored.collect();
        for letters in stored.chunks(1_000) {
            self.repo.import(letters).await.unwrap();
        }
        stored
    }

    /// With none of its letters.
    pub(crate) async fn emptied(self) -> Self {
        let (all, later) = (SweepScope::App(self.app), Due::CreatedBefore(Utc::now() + TimeDelta::days(1)));
        while self.repo.sweep(&all, later, None, 1_000).await.unwrap().deleted > 0 {}
        self
    }

    pub(crate) async fn unresolved(&self) -> i64 {
        self.repo.unresolved_count(self.app).await.unwrap()
    }

    /// How many of all.
    pub(crate) async fn count(&self) -> u64 {
        let any = DeadLetterFilter::default().state(DeadLetterState::Any);
        self.repo.count(self.app, &any, &CountRequest::default().cap(1_000_000)).await.unwrap().matching.count
    }

    /// Returns the program's output to a terminal of this width.
    pub(crate) fn on_terminal(&self, width: u16, line: &str) -> String {
        let ran = self.typed(width, line, "");
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.out
    }

    /// Returns the program's output if it asks a question and gets this answer.
    pub(crate) fn asked(&self, line: &str, answer: &str) -> String {
        self.typed(100, line, answer).out
    }

    pub(crate) fn typed(&self, width: u16, line: &str, answer: &str) -> Ran {
        let line = line.replace("{app}", &self.app.to_string());
        let line = format!("stty rows 24 cols {width}; exec {PROGRAM} {line}");
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        script.env_clear().env("PATH", "/usr/bin:/bin").env("TERM", "xterm").env("DATABASE_URL", &self.url);
        let piped = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut script = piped.spawn().unwrap();
        script.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let mut ran = Ran::from(script.wait_with_output().unwrap());
        ran.out = ran.out.replace('\r', "");
        ran
    }
}

/// Returns the program with an empty environment.
pub(crate) fn program() -> Command {
    let mut program = Command::new(PROGRAM);
    program.env_clear().env("TZ", "UTC").stdin(Stdio::null());
    program
}

pub(crate) fn run(args: &[&str]) -> Ran {
    program().args(args).output().unwrap().into()
}

pub(crate) fn terminate(program: &Child) {
    signal(program, "TERM");
}

pub(crate) fn signal(program: &Child, name: &str) {
    // The shell's own.
    let kill = Command::new("sh").args(["-c", &format!("kill -{name} {}", program.id())]).status().unwrap();
    assert!(kill.success());
}

/// Whether somebody does, in this PostgreSQL database.
pub(crate) async fn waits_for_a_lock(db: &impl ConnectionTrait) -> bool {
    let waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let row = db.query_one_raw(Statement::from_string(DbBackend::Postgres, waits)).await.unwrap();
    row.unwrap().try_get_by_index(0).unwrap()
}

#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    /// The notes on standard error, without the one that says what can be done next.
    fn said(&self) -> String {
        let is_hint =
            |line: &&str| line.starts_with("note: undo with ") || line.starts_with("note: see what ");
        self.err.lines().filter(|line| !is_hint(line)).collect()
    }

    /// All of it done, and nothing said.
    pub(crate) fn lines(&self) -> Vec<Vec<&str>> {
        assert_eq!((self.code, &*self.said()), (0, ""), "{self:?}");
        self.out.lines().map(|line| line.split('\t').collect()).collect()
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!((self.code, &*self.said()), (0, ""), "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }

    pub(crate) fn fails(&self, code: i32, with: &str) {
        assert_eq!((self.code, &*self.out), (code, ""), "{self:?}");
        assert!(self.err.contains(with), "{self:?}");
    }
}
