//! The pages in a real browser, as people use them.

mod actions;
mod day;
mod driver;
mod looks;
mod script;

use std::{fs, panic::AssertUnwindSafe, path::Path, sync::Arc, time::Duration};

use axum::Router;
use dead_letters::{AppId, Retention, RetentionPolicy, testing::FailingStore};
use dead_letters_admin::{Admin, Operator, Right};
use futures_util::FutureExt;
use thirtyfour::{components::escape_string, error::WebDriverErrorInner, prelude::*};
use tokio::{net::TcpListener, task::JoinHandle, time::interval};

use self::driver::JavaScript;
use crate::support::{World, let_in};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longer than a page that stays fresh waits between two looks.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs each case with a browser on every backend, where pages may run scripts and where they may not.
macro_rules! with_and_without_javascript {
    ($($case:ident),+ $(,)?) => {
        $crate::browser::browser_tests! { sqlite_with_javascript: sqlite, On; $($case),+ }
        $crate::browser::browser_tests! { sqlite_without_javascript: sqlite, Off; $($case),+ }
        $crate::browser::browser_tests! { postgres_with_javascript: postgres, On; $($case),+ }
        $crate::browser::browser_tests! { postgres_without_javascript: postgres, Off; $($case),+ }
    };
}

macro_rules! browser_tests {
    ($module:ident: $backend:ident, $script:ident; $($case:ident),+ $(,)?) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let world = $crate::support::World::$backend().await;
                let name = concat!(stringify!($module), "_", stringify!($case));
                $crate::browser::run(name, world, $crate::browser::driver::JavaScript::$script, async |site, browser| {
                    super::$case(site, browser).await
                })
                .await;
            })+
        }
    };
}
use {browser_tests, with_and_without_javascript};

/// A case, in a browser and on a site of its own. Where it fails, the last page is kept in target/browser.
async fn run(
    name: &str,
    world: World,
    script: JavaScript,
    case: impl AsyncFn(&Site, &Browser) -> WebDriverResult<()>,
) {
    let site = Site::start(world).await;
    let driver = driver::open(script).await.unwrap();
    let browser = Browser { driver, base: site.base.clone(), script };
    let outcome = AssertUnwindSafe(async {
        case(&site, &browser).await.unwrap();
        browser.expect_a_clean_log().await.unwrap();
        assert_eq!(browser.has_scripts().await.unwrap(), script == JavaScript::On, "scripts run");
    })
    .catch_unwind()
    .await;
    if outcome.is_err() {
        browser.keep(name).await;
    }
    browser.driver.quit().await.unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Markup, quotes and what can't be seen.
const HOSTILE: &str =
    "\"'><script>window.pwned=1</script><img src=x onerror=window.pwned=1>\u{202e}evil</bdi></pre>";

/// A service that has three admins: ada's under `/ops/dead-letters`, grace's under `/grace`, and under `/hostile`
/// one whose operator and apps have hostile names.
pub(crate) struct Site {
    pub(crate) world: World,
    pub(crate) store: Arc<FailingStore<dead_letters::SeaOrmDeadLetterRepo>>,
    base: String,
    server: JoinHandle<()>,
}

impl Site {
    async fn start(world: World) -> Self {
        let store = Arc::new(FailingStore::new(world.repo.clone()));
        let admin = |name: &str, app_name: &'static str| {
            let others = Retention::default().delete_all_after(90 * DAY);
            Admin::new(store.clone(), let_in(Operator::full(name).with(Right::Edit).with(Right::Delete)))
                .replay(Arc::new(world.repo.replayer(world.outbox.clone())))
                .retention(RetentionPolicy::new(others))
                .redact(["/secret"])
                .unwrap()
                .trace_url("https://trace.example/{trace_id}")
                .unwrap()
                .app_names(move |_| Some(app_name.to_owned()))
        };
        let router = Router::new()
            .nest_service("/ops/dead-letters", admin("ada", "CRM <b>connector</b>").into_service())
            .nest_service("/it's$(id)$&", admin("ada", "CRM").into_service())
            .nest_service("/letters/letters", admin("ada", "CRM").into_service())
            .nest_service("/grace", admin("grace", "CRM").into_service())
            .nest_service("/hostile", admin(HOSTILE, HOSTILE).into_service());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { world, store, base, server }
    }

    pub(crate) fn app(&self) -> AppId {
        self.world.app
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn box_of(value: &str) -> String {
    format!("//main//input[@type='checkbox' and @value={}]", escape_string(value))
}

/// A person's use of a browser, by the words that they see.
pub(crate) struct Browser {
    driver: WebDriver,
    base: String,
    pub(crate) script: JavaScript,
}

impl Browser {
    /// A second one, at the same site.
    async fn another(&self) -> WebDriverResult<Self> {
        let driver = driver::open(self.script).await?;
        Ok(Self { driver, base: self.base.clone(), script: self.script })
    }

    /// `apps`, say, of ada's admin.
    pub(crate) async fn open(&self, path: &str) -> WebDriverResult<()> {
        self.open_at("/ops/dead-letters", path).await
    }

    pub(crate) async fn open_at(&self, prefix: &str, path: &str) -> WebDriverResult<()> {
        self.driver.goto(format!("{}{prefix}/{path}", self.base)).await
    }

    pub(crate) async fn open_list(&self, site: &Site, query: &str) -> WebDriverResult<()> {
        self.open(&format!("apps/{}{query}", site.app())).await
    }

    pub(crate) async fn address(&self) -> WebDriverResult<String> {
        Ok(self.driver.current_url().await?.to_string())
    }

    /// Waits for it.
    async fn find(&self, by: By) -> WebDriverResult<WebElement> {
        self.driver.query(by).wait(PATIENCE, Duration::from_millis(30)).first().await
    }

    /// The button or link that reads so, or is called so.
    pub(crate) async fn press(&self, name: &str) -> WebDriverResult<()> {
        let name = escape_string(name);
        let is = format!("[normalize-space()={name} or @aria-label={name}]");
        self.click(&format!("//main//button{is} | //main//a{is} | //header//button{is}")).await
    }

    /// The same, by how it begins.
    pub(crate) async fn press_first(&self, beginning: &str) -> WebDriverResult<()> {
        let begins = format!(
            "[starts-with(normalize-space(), {0}) or starts-with(@aria-label, {0})]",
            escape_string(beginning)
        );
        self.click(&format!("(//main//button{begins} | //main//a{begins})[1]")).await
    }

    /// Opens what is folded under this summary.
    pub(crate) async fn unfold(&self, name: &str) -> WebDriverResult<()> {
        self.click(&format!("//main//summary[normalize-space()={}]", escape_string(name))).await
    }

    /// The link to what is new.
    pub(crate) async fn press_new(&self, name: &str) -> WebDriverResult<()> {
        self.click(&format!("/html/body/div[@role='status']/a[normalize-space()={}]", escape_string(name)))
            .await
    }

    /// Does it to what is found there, and again if the page has replaced that before it was done.
    async fn with(
        &self,
        path: &str,
        act: impl AsyncFn(&WebElement) -> WebDriverResult<()>,
    ) -> WebDriverResult<()> {
        for _ in 0..3 {
            match act(&self.find(By::XPath(path)).await?).await {
                Err(error) if matches!(error.as_inner(), WebDriverErrorInner::StaleElementReference(_)) => {}
                outcome => return outcome,
            }
        }
        act(&self.find(By::XPath(path)).await?).await
    }

    pub(crate) async fn click(&self, path: &str) -> WebDriverResult<()> {
        self.with(path, async |found| {
            found.scroll_into_view().await?;
            found.click().await
        })
        .await
    }

    pub(crate) async fn tick(&self, value: &str) -> WebDriverResult<()> {
        self.click(&box_of(value)).await
    }

    pub(crate) async fn is_ticked(&self, value: &str) -> WebDriverResult<bool> {
        self.find(By::XPath(box_of(value))).await?.is_selected().await
    }

    pub(crate) async fn fill(&self, label: &str, text: &str) -> WebDriverResult<()> {
        let path = format!("//*[@id=//label[normalize-space()={}]/@for]", escape_string(label));
        self.with(&path, async |field| {
            field.clear().await?;
            field.send_keys(text).await
        })
        .await
    }

    /// To the page as a whole, whose script has begun.
    ///
    /// A letter is sent once by the browser's own protocol. The driver sends a key again if the page is left meanwhile.
    pub(crate) async fn key(&self, keys: impl Into<TypingData>) -> WebDriverResult<()> {
        self.until("the script", async || self.has_scripts().await).await?;
        for key in keys.into().as_vec().into_iter().map(|key| key.to_string()) {
            if key.is_ascii() {
                for kind in ["keyDown", "keyUp"] {
                    let text = if kind == "keyDown" { key.as_str() } else { "" };
                    let event = serde_json::json!({ "type": kind, "key": key, "text": text });
                    self.command("Input.dispatchKeyEvent", event).await?;
                }
            } else {
                self.driver.action_chain().send_keys(key).perform().await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn text(&self) -> WebDriverResult<String> {
        // Between two pages there is no body.
        match self.driver.find(By::Tag("body")).await {
            Ok(body) => Ok(body.text().await.unwrap_or_default()),
            Err(_) => Ok(String::new()),
        }
    }

    /// Waits until it stands on the page.
    pub(crate) async fn sees(&self, text: &str) -> WebDriverResult<()> {
        self.until(text, async || Ok(self.text().await?.contains(text))).await
    }

    pub(crate) async fn until(
        &self,
        what: &str,
        is_so: impl AsyncFn() -> WebDriverResult<bool>,
    ) -> WebDriverResult<()> {
        let mut tick = interval(Duration::from_millis(30));
        let waiting = async {
            while !is_so().await? {
                tick.tick().await;
            }
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(outcome) => outcome,
            Err(_) => panic!("{what:?} did not come; the page is\n{}", self.text().await?),
        }
    }

    /// Sends a command of the browser's own protocol.
    async fn command(&self, method: &str, parameters: serde_json::Value) -> WebDriverResult<()> {
        self.driver.cdp().send_raw(method, parameters).await.map(drop)
    }

    pub(crate) async fn run_script(&self, script: &str) -> WebDriverResult<serde_json::Value> {
        Ok(self.driver.execute(script, Vec::new()).await?.json().clone())
    }

    /// Whether the page's own have run.
    async fn has_scripts(&self) -> WebDriverResult<bool> {
        Ok(!self.driver.find_all(By::Css("header .keys")).await?.is_empty())
    }

    /// No script failed, and nothing was refused by the page's policy.
    async fn expect_a_clean_log(&self) -> WebDriverResult<()> {
        for entry in self.driver.browser_log().await? {
            let is_network = entry.source.as_deref() == Some("network");
            assert!(is_network && !entry.message.contains("Content Security Policy"), "{entry:?}");
        }
        Ok(())
    }

    async fn keep(&self, name: &str) {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser").join(name);
        fs::create_dir_all(&dir).unwrap();
        if let Ok(picture) = self.driver.screenshot_as_png().await {
            fs::write(dir.join("page.png"), picture).unwrap();
        }
        fs::write(dir.join("page.html"), self.driver.source().await.unwrap_or_default()).unwrap();
        let log = self.driver.browser_log().await.unwrap_or_default();
        let log: Vec<_> = log.iter().map(|entry| format!("{} {}\n", entry.level, entry.message)).collect();
        fs::write(dir.join("console.log"), log.concat()).unwrap();
        eprintln!("the last page is kept in {}", dir.display());
    }
}
