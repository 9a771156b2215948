//! A private server on a free port of the loopback interface, in a temporary folder.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use tempfile::TempDir;
use url::Url;

use crate::{Error, folder};

/// Starts the server, says so, and stops it when its standard input closes: that happens however the test
/// process ends, kill -9 included. It outlives signals to be there for that. A line on its standard input
/// kills the server and starts it again.
const SUPERVISOR: &str = r#"
trap '' HUP INT TERM PIPE
bin=$1 dir=$2 port=$3 fsync=$4
start() {
    "$bin/postgres" -D "$dir/data" -c fsync="$fsync" -p "$port" -k "$dir" -c listen_addresses=127.0.0.1 -c max_connections=200 \
        </dev/null >>"$dir/log" 2>&1 &
    pid=$!
    until [ "$(sed -n 1p "$dir/data/postmaster.pid" 2>/dev/null)" = "$pid" ] && grep -q ready "$dir/data/postmaster.pid"; do
        kill -0 "$pid" 2>/dev/null || return 1
        sleep 0.05
    done
}
if "$bin/initdb" -N -A trust -U postgres -E UTF8 --locale=C -D "$dir/data" >"$dir/log" 2>&1 && start; then
    echo ready
    while read -r _; do
        kill -9 "$pid"
        wait "$pid"
        # Refused until the last of its backends has noticed.
        until start; do sleep 0.05; done
        echo ready
    done
    kill -QUIT "$pid"
    wait "$pid"
else
    cat "$dir/log"
fi
rm -rf "$dir"
"#;

const FOLDER: &str = "dead-letters-postgres-";

/// A private server, which ends with this process.
#[derive(Debug)]
pub struct Server {
    url: Url,
    /// Open as long as the server is needed.
    lifeline: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Server {
    /// Starts one that does not wait for its disk: it survives its own kill -9, not the machine's.
    ///
    /// # Errors
    ///
    /// PostgreSQL's programs are not installed, or it did not start: then the error is its log.
    pub fn start() -> Result<Self, Error> {
        Self::start_in(folder::in_memory(FOLDER)?, "off")
    }

    /// Starts one that waits for its disk, as a server in use does: for benchmarks.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_durable() -> Result<Self, Error> {
        Self::start_in(tempfile::Builder::new().prefix(FOLDER).tempdir()?, "on")
    }

    fn start_in(dir: TempDir, fsync: &str) -> Result<Self, Error> {
        let bin = binaries()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut supervisor = Command::new("sh");
        supervisor
            .args(["-c", SUPERVISOR, "sh"])
            .arg(bin)
            .arg(dir.path())
            .arg(port.to_string())
            .arg(fsync)
            .current_dir(dir.path())
            // A Ctrl-C at the terminal is for the tests.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if fs::metadata(dir.path())?.uid() == 0 {
            let (uid, gid) = unprivileged_user()?;
            chown(dir.path(), Some(uid), Some(gid))?;
            supervisor.uid(uid).gid(gid);
        }
        let mut supervisor = supervisor.spawn()?;
        // From here on the folder is the supervisor's to remove.
        let _ = dir.keep();
        let (Some(lifeline), Some(stdout)) = (supervisor.stdin.take(), supervisor.stdout.take()) else {
            return Err("the server's supervisor has no pipes".into());
        };
        let url = Url::parse(&format!("postgres://postgres@127.0.0.1:{port}/postgres"))?;
        let mut server = Self { url, lifeline, answers: BufReader::new(stdout) };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// The connection URL of its database `postgres`, as a superuser.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Kills the server as a power cut would end it, and starts it again: returns when it takes connections.
    ///
    /// # Errors
    ///
    /// The supervisor is gone.
    pub fn kill_and_restart(&mut self) -> Result<(), Error> {
        self.lifeline.write_all(b"kill\n")?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<(), Error> {
        let mut said = String::new();
        self.answers.read_line(&mut said)?;
        if said != "ready\n" {
            self.answers.read_to_string(&mut said)?;
            return Err(format!("PostgreSQL did not start:\n{said}").into());
        }
        Ok(())
    }
}

/// The folder of `initdb` and `postgres`: `PG_BIN`, else PATH, else what `pg_config` says, else Debian's
/// newest.
fn binaries() -> Result<PathBuf, Error> {
    if let Some(bin) = env::var_os("PG_BIN") {
        return Ok(bin.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let pg_config = Command::new("pg_config").arg("--bindir").output();
    let pg_config = pg_config.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    env::split_paths(&path)
        .chain(pg_config.ok())
        .chain(debian_binaries())
        // PATH may hold links to the programs, without the files beside them that they need.
        .find_map(|dir| Some(dir.join("initdb").canonicalize().ok()?.parent()?.to_owned()))
        .filter(|bin| bin.join("postgres").exists())
        .ok_or_else(|| {
            "no PostgreSQL server found: install it (Debian and Ubuntu: the package `postgresql`), \
             or set PG_BIN to the folder of initdb, or TEST_DATABASE_URL to a running server"
                .into()
        })
}

/// Debian keeps each major version's programs in a folder of its own.
fn debian_binaries() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let newest =
        versions.filter_map(|version| version.ok()?.file_name().to_str()?.parse::<u32>().ok()).max()?;
    Some(Path::new("/usr/lib/postgresql").join(newest.to_string()).join("bin"))
}

/// PostgreSQL refuses to run as root.
fn unprivileged_user() -> Result<(u32, u32), Error> {
    let passwd = fs::read_to_string("/etc/passwd")?;
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| {
            let mut fields =
                passwd.lines().map(|line| line.split(':')).find(|line| line.clone().next() == Some(name))?;
            let uid = fields.nth(2)?.parse().ok()?;
            Some((uid, fields.next()?.parse().ok()?))
        })
        .ok_or_else(|| {
            "PostgreSQL refuses root, and there is no user `postgres` or `nobody` to run it as".into()
        })
}
