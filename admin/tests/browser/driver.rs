//! Chromium, driven by Debian's chromedriver: one driver a process, gone with it whatever ends it, and one browser
//! a test.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use thirtyfour::{LoggingPrefsLogLevel, prelude::*};

/// Ends the driver and its browsers once standard input closes, and removes what they wrote.
const SUPERVISOR: &str = r#"
setsid chromedriver --port=0 2>&1 &
driver=$!
cat >/dev/null
kill -9 -$driver
wait
until rm -rf "$TMPDIR" 2>/dev/null; do :; done
"#;

/// Debian's Chromium without windows, which starts and loads pages in a third of the time. Where it is missing, the driver
/// finds a browser. The program beside it in `/usr/bin` is a script that leaves the browser running.
const HEADLESS_SHELL: &str = "/usr/lib/chromium/chromium-headless-shell";

const ARGUMENTS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
];

struct Chromedriver {
    url: String,
    /// Ends once this process does, with its standard input.
    _supervisor: Child,
}

impl Chromedriver {
    fn the_one() -> &'static Self {
        static DRIVER: OnceLock<Chromedriver> = OnceLock::new();
        DRIVER.get_or_init(Self::start)
    }

    fn start() -> Self {
        // The supervisor's to remove.
        let dir = tempfile::Builder::new().prefix("dead-letters-browser-").tempdir().unwrap().keep();
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR])
            .env("TMPDIR", &dir)
            // A Ctrl-C at the terminal is for the tests.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(supervisor.stdout.take().unwrap());
        let mut log = String::new();
        let port = loop {
            let mut line = String::new();
            if said.read_line(&mut line).unwrap() == 0 {
                panic!("chromedriver did not start: tests/install installs it\n{log}");
            }
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim().trim_end_matches('.').to_owned();
            }
            log += &line;
        };
        // Unread output would fill the pipe and block the driver.
        std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
        Self { url: format!("http://127.0.0.1:{port}"), _supervisor: supervisor }
    }
}

/// Whether pages may run scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JavaScript {
    On,
    Off,
}

/// A new browser, with a profile of its own.
pub(crate) async fn open(script: JavaScript) -> WebDriverResult<WebDriver> {
    let mut capabilities = DesiredCapabilities::chrome();
    for argument in ARGUMENTS {
        capabilities.add_arg(argument)?;
    }
    if Path::new(HEADLESS_SHELL).exists() {
        capabilities.set_binary(HEADLESS_SHELL)?;
    }
    capabilities.set_browser_log_level(LoggingPrefsLogLevel::All)?;
    let driver = WebDriver::new(&Chromedriver::the_one().url, capabilities).await?;
    if script == JavaScript::Off {
        let disabled = serde_json::json!({ "value": true });
        driver.cdp().send_raw("Emulation.setScriptExecutionDisabled", disabled).await?;
    }
    Ok(driver)
}
