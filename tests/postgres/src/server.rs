//! A private server on a free port of the loopback interface, in a temporary folder.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
};

use url::Url;

use crate::Error;

/// Starts the server, says so, and stops it when its standard input closes: that happens however the
/// test process ends, kill -9 included. It outlives signals to be there for that.
const SUPERVISOR: &str = r#"
trap '' HUP INT TERM PIPE
bin=$1 dir=$2 port=$3
if "$bin/initdb" -N -A trust -U postgres -E UTF8 --locale=C -D "$dir/data" >"$dir/log" 2>&1 &&
    "$bin/pg_ctl" start -w -D "$dir/data" -l "$dir/log" -o "-F -p $port -k $dir -c listen_addresses=127.0.0.1 -c max_connections=200" >/dev/null 2>&1
then
    echo ready
    read -r _
    "$bin/pg_ctl" stop -m immediate -D "$dir/data" >/dev/null 2>&1
else
    cat "$dir/log"
fi
rm -rf "$dir"
"#;

pub(crate) struct Server {
    url: Url,
    /// Held open as long as the server is needed.
    _lifeline: ChildStdin,
}

impl Server {
    pub(crate) fn start() -> Result<Self, Error> {
        let bin = binaries()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let dir = tempfile::Builder::new().prefix("dead-letters-postgres-").tempdir()?;
        let mut supervisor = Command::new("sh");
        supervisor
            .args(["-c", SUPERVISOR, "sh"])
            .arg(bin)
            .arg(dir.path())
            .arg(port.to_string())
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
        let dir = dir.keep();
        let (Some(lifeline), Some(stdout)) = (supervisor.stdin.take(), supervisor.stdout.take()) else {
            return Err("the server's supervisor has no pipes".into());
        };
        let mut stdout = BufReader::new(stdout);
        let mut said = String::new();
        stdout.read_line(&mut said)?;
        if said != "ready\n" {
            stdout.read_to_string(&mut said)?;
            return Err(format!("PostgreSQL did not start in {}:\n{said}", dir.display()).into());
        }
        Ok(Self {
            url: Url::parse(&format!("postgres://postgres@127.0.0.1:{port}/postgres"))?,
            _lifeline: lifeline,
        })
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }
}

/// The folder of `initdb` and `pg_ctl`: `PG_BIN`, else PATH, else what `pg_config` says, else Debian's newest.
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
        .filter(|bin| bin.join("pg_ctl").exists())
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
