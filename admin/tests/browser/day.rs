//! An operator's day, over two apps: the CRM was down. Find what failed, look at a payload, replay in stages, ignore the
//! rest with a note, undo two, and hand a colleague a link to what is left.

use chrono::Utc;
use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterRead, DeadLetterRepo, DeadLetterState, NewDeadLetter, PageRequest,
    Resolution, testing::letter,
};
use serde_json::json;
use thirtyfour::prelude::*;

use super::{Browser, Site, browser_tests, driver::JavaScript, with_and_without_javascript};
use crate::support::new_app;

/// Letters of each app.
const LETTERS: usize = 8;

with_and_without_javascript! {
    the_job_over_two_apps_takes_at_most_ten_clicks_or_eleven_without_javascript,
}

browser_tests! { keyboard: sqlite, On; the_job_over_two_apps_takes_at_most_sixty_keys }

/// Stores the letters of two apps. Returns the apps in the order of the preview.
async fn outage(site: &Site) -> [AppId; 2] {
    let apps = [site.app(), new_app()];
    for app in apps {
        for order in 0..LETTERS {
            let (source, op) = ("contacts".to_owned(), "sync".to_owned());
            let last_error = "HTTP 503 from the CRM".to_owned();
            let payload = json!({ "order": 4711 + order });
            // They failed at their only attempt, so the stages of a replay follow each other after ten seconds.
            let at = Utc::now();
            let letter = NewDeadLetter {
                source,
                op,
                last_error,
                payload,
                script_id: None,
                attempt_count: 1,
                first_attempt_at: at,
                last_attempt_at: at,
                ..letter(app)
            };
            site.world.repo.insert(letter).await.unwrap();
        }
    }
    apps
}

/// Returns how many letters of the apps match.
async fn count(site: &Site, apps: [AppId; 2], filter: &DeadLetterFilter) -> usize {
    let mut count = 0;
    for app in apps {
        let page = site.world.repo.list(app, filter, &PageRequest::default()).await.unwrap();
        count += page.items.len();
    }
    count
}

/// Checks that the job is done, and that the address shows what is left.
async fn expect_done(site: &Site, browser: &Browser, apps: [AppId; 2]) -> WebDriverResult<()> {
    let resolved =
        |resolution| DeadLetterFilter::default().state(DeadLetterState::Closed).resolution(resolution);
    assert_eq!(count(site, apps, &resolved(Resolution::Replayed)).await, 11);
    let ignored = resolved(Resolution::Ignored);
    assert_eq!(count(site, apps, &ignored).await, 3);
    for app in apps {
        let ignored = site.world.repo.list(app, &ignored, &PageRequest::default()).await.unwrap();
        assert!(ignored.items.iter().all(|letter| letter.resolution_note.as_deref() == Some("CRM")));
    }
    assert_eq!(count(site, apps, &DeadLetterFilter::default()).await, 2);
    browser.sees("2 of 2").await?;
    let address = browser.address().await?;
    let address = address.split_once("/ops/dead-letters/").unwrap().1.to_owned();
    let colleague = browser.another().await?;
    colleague.open_at("/grace", &address).await?;
    colleague.sees("2 of 2").await?;
    colleague.driver.quit().await
}

async fn the_job_over_two_apps_takes_at_most_ten_clicks_or_eleven_without_javascript(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let apps = outage(site).await;
    browser.open("apps").await?;
    browser.sees("HTTP 503 from the CRM").await?;
    browser.sees("sync 16").await?;
    let mut clicks = 1;
    browser.press("Newest letter").await?;
    browser.sees("4718").await?;
    clicks += 1;
    browser.driver.back().await?;
    clicks += 1;
    browser.press_first("Replay HTTP").await?;
    browser.sees("Replay 16 letters?").await?;
    clicks += 1;
    browser.press("Replay one first").await?;
    browser.sees("Replayed 1 of 16").await?;
    if browser.script == JavaScript::Off {
        clicks += 1;
        browser.press("Replay 10 more").await?;
    }
    browser.sees("Replayed 11 of 16").await?;
    clicks += 1;
    browser.press("Ignore the other 5…").await?;
    browser.sees("Ignore 5 letters?").await?;
    // Without a click: the cursor is there.
    browser.driver.active_element().await?.send_keys("CRM").await?;
    clicks += 1;
    browser.press("Ignore 5 letters").await?;
    browser.sees("Ignored 5 of 5").await?;
    clicks += 1;
    browser.click("//li[contains(., '5 of 5')]//a").await?;
    browser.sees("5 of 5").await?;
    for left in [4, 3] {
        clicks += 1;
        browser.press_first("Reopen contacts").await?;
        browser.sees(&format!("{left} of {left}")).await?;
    }
    clicks += 1;
    browser.click("//nav[@aria-label='Breadcrumb']//li[2]/a").await?;
    expect_done(site, browser, apps).await?;
    let most = if browser.script == JavaScript::On { 10 } else { 11 };
    assert_eq!(clicks, most);
    Ok(())
}

/// A person who presses keys, and counts them.
struct Keys<'a> {
    browser: &'a Browser,
    pressed: usize,
}

impl Keys<'_> {
    async fn press(&mut self, keys: impl AsRef<str>) -> WebDriverResult<()> {
        for key in keys.as_ref().chars() {
            self.browser.key(key.to_string()).await?;
            self.pressed += 1;
        }
        Ok(())
    }

    /// Presses Tab until the text of what has the focus begins like this.
    async fn tab_to(&mut self, beginning: &str) -> WebDriverResult<()> {
        while !self.is_at(beginning).await? {
            self.press(TAB).await?;
        }
        Ok(())
    }

    /// Presses Shift and Tab instead.
    async fn tab_back_to(&mut self, beginning: &str) -> WebDriverResult<()> {
        while !self.is_at(beginning).await? {
            let chord = self.browser.driver.action_chain().key_down(Key::Shift);
            chord.send_keys(TAB).key_up(Key::Shift).perform().await?;
            self.pressed += 2;
        }
        Ok(())
    }

    async fn is_at(&self, beginning: &str) -> WebDriverResult<bool> {
        assert!(self.pressed <= 60, "{beginning:?} was not reached with 60 keys");
        let script = "return document.activeElement?.textContent.trim() ?? ''";
        let text = self.browser.run_script(script).await?;
        Ok(text.as_str().unwrap_or_default().starts_with(beginning))
    }
}

// The codes of WebDriver.
const TAB: &str = "\u{E004}";
const ENTER: &str = "\u{E007}";

async fn the_job_over_two_apps_takes_at_most_sixty_keys(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let apps = outage(site).await;
    browser.open("apps").await?;
    browser.sees("HTTP 503 from the CRM").await?;
    let mut keys = Keys { browser, pressed: 0 };
    keys.press("j").await?;
    keys.tab_to("Newest letter").await?;
    keys.press(ENTER).await?;
    browser.sees("4718").await?;
    // Alt and Left.
    browser.driver.back().await?;
    keys.pressed += 2;
    browser.sees("sync 16").await?;
    keys.press("r").await?;
    browser.sees("Replay 16 letters?").await?;
    keys.press("r").await?;
    keys.press(ENTER).await?;
    browser.sees("Replayed 11 of 16").await?;
    keys.press("e").await?;
    browser.sees("Ignore 5 letters?").await?;
    keys.press("CRM").await?;
    keys.tab_to("Ignore 5 letters").await?;
    keys.press(ENTER).await?;
    browser.sees("Ignored 5 of 5").await?;
    // Both apps have the same name, and the second one has the letters.
    keys.tab_to("CRM").await?;
    keys.press(TAB).await?;
    keys.press(ENTER).await?;
    browser.sees("Closed 5").await?;
    for left in [4, 3] {
        keys.press("ju").await?;
        browser.sees(&format!("{left} of {left}")).await?;
    }
    keys.tab_back_to("CRM").await?;
    keys.press(ENTER).await?;
    expect_done(site, browser, apps).await?;
    assert!(keys.pressed <= 60, "{} keys", keys.pressed);
    Ok(())
}
