//! Every page as it looks: without faults of accessibility, in light and dark, narrow and enlarged, whatever the
//! letters say. Pictures of them are written to target/tmp/pictures.

use std::{fs, path::Path};

use dead_letters::{
    Attribution, CountRequest, DeadLetterDelete, DeadLetterFilter, DeadLetterRead, DeadLetterReplay,
    DeadLetterRepo, DeadLetterResolve, DeadLetterState, NewDeadLetter, PageRequest, Resolution,
    testing::letter,
};
use serde_json::{Value, json};
use thirtyfour::prelude::*;
use uuid::Uuid;

use super::{Browser, HOSTILE, Site, browser_tests};
use crate::support::new_app;

browser_tests! { sqlite: sqlite, On;
    no_page_has_a_fault_of_accessibility_in_a_window,
    no_page_has_a_fault_of_accessibility_on_a_tablet,
    no_page_has_a_fault_of_accessibility_on_a_phone,
    every_target_has_24_pixels_and_forced_colors_show_the_current_tab,
    no_page_is_wider_than_a_phone_or_than_a_window_at_twice_its_size,
    hostile_texts_run_no_script_on_any_page,
}

const AXE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/node_modules/axe-core/axe.min.js");
/// The schemes, each with options of axe: all rules once, and those about colors in every scheme.
const SCHEMES: [(&str, &str); 3] = [("light", "{}"), ("dark", COLORS), ("forced", COLORS)];
const COLORS: &str = "{ runOnly: ['color-contrast', 'link-in-text-block'] }";

/// A page's name, its address and what it says.
struct Page {
    name: &'static str,
    address: String,
    says: &'static str,
}

/// Letters of every kind, and every page that shows them.
async fn pages(site: &Site) -> Vec<Page> {
    let (repo, app) = (&site.world.repo, site.app());
    let other = new_app();
    for n in 0..60 {
        let app = if n < 50 { app } else { other };
        let (source, op) = if n % 3 == 0 { ("invoices", "render") } else { ("contacts", "sync") };
        let last_error = format!(
            "HTTP 503 from https://crm.example.com/v2/contacts/{n}: upstream connect error or disconnect/reset \
             before headers\n    at deliver (scripts/crm.ts:41:11)\n    at async run (runtime/job.ts:118:5)"
        );
        let payload =
            json!({ "id": n, "secret": "s", "customer": { "name": "Ada Lovelace" }, "tags": ["a", null] });
        let (source, op) = (source.to_owned(), op.to_owned());
        let letter = NewDeadLetter { source, op, last_error, payload, script_id: None, ..letter(app) };
        repo.insert(letter).await.unwrap();
    }
    let ignored = repo.insert(letter(app)).await.unwrap();
    repo.resolve_once(app, ignored, Resolution::Ignored, &Attribution::by("grace")).await.unwrap();
    let again = letter(app);
    for _ in 0..2 {
        let id = repo.insert(again.clone()).await.unwrap();
        repo.resolve_once(app, id, Resolution::Replayed, &Attribution::by("grace").note("try again"))
            .await
            .unwrap();
    }
    let resolved = DeadLetterFilter::default().state(DeadLetterState::Closed);
    let closed = repo.list(app, &resolved, &PageRequest::default()).await.unwrap().items[0].clone();
    // Until another millisecond, SQLite's unit, has begun: the next letter is to be younger than the last close.
    while Some(repo.count(app, &resolved, &CountRequest::default()).await.unwrap().now) <= closed.resolved_at
    {
    }
    let closed = closed.id;
    let again = repo.insert(again).await.unwrap();
    let event = repo.get(again).await.unwrap().unwrap().original_event_id;
    let gone = repo.insert(letter(app)).await.unwrap();
    repo.resolve_once(app, gone, Resolution::Ignored, &Attribution::by("grace")).await.unwrap();
    let this = DeadLetterFilter::default().state(DeadLetterState::Any).ids([gone]);
    repo.delete_matching(app, &this, &Attribution::by("grace"), 1).await.unwrap();
    let mut edited = letter(app);
    edited.metadata.insert("tenant".to_owned(), "acme".into());
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    edited.metadata.insert("traceparent".to_owned(), traceparent.into());
    let edited = repo.insert(edited).await.unwrap();
    let replayer = repo.replayer(site.world.outbox.clone());
    replayer.replay_edited(app, edited, "{\"order\":1}", &Attribution::by("grace")).await.unwrap();
    let erased = repo.insert(letter(app)).await.unwrap();
    repo.erase(app, &[erased], &Attribution::by("grace").note("a request")).await.unwrap();
    let large = json!({ "text": "x".repeat(200_000) });
    let large = repo.insert(NewDeadLetter { payload: large, ..letter(app) }).await.unwrap();
    let page = |name, address: String, says| Page { name, address, says };
    vec![
        page("apps", "apps".to_owned(), "Similar failures"),
        page("find", format!("find?id={}", Uuid::nil()), "No letter has the id"),
        page("find-found", format!("find?id={event}"), "Letters whose event or trigger is"),
        page("find-invalid", "find?id=no-id".to_owned(), "is not an id"),
        page("list-invalid", format!("apps/{app}?size=many"), "No letters are shown"),
        page("letter-deleted", format!("apps/{app}/letters/{gone}"), "The letter is deleted"),
        page("list", format!("apps/{app}"), "Failures, last 24 h"),
        page("list-closed", format!("apps/{app}?state=closed"), "by grace"),
        page("list-empty", format!("apps/{app}?source=nothing"), "No letter matches"),
        page("list-well", format!("apps/{}", Uuid::nil()), "Nothing failed"),
        page("groups", format!("apps/{app}/groups"), "Regressed"),
        page("groups-shared", format!("apps/{app}/groups?shares=true&source=contacts"), "/customer/name"),
        page("letter", format!("apps/{app}/letters/{again}"), "Failed again after 2 replays"),
        page("letter-closed", format!("apps/{app}/letters/{closed}"), "Reopen"),
        page(
            "letter-edited",
            format!("apps/{app}/letters/{edited}"),
            "Edited payload, put back by the last replay",
        ),
        page("letter-erased", format!("apps/{app}/letters/{erased}"), "a request"),
        page("letter-large", format!("apps/{app}/letters/{large}"), "too large to show"),
        page("problem", format!("apps/{app}/letters/{}", Uuid::nil()), "The app has no such letter"),
    ]
}

/// Pages that no address leads to.
const STATES: [&str; 15] = [
    "choice",
    "edit",
    "edit-problem",
    "edit-review",
    "news",
    "preview",
    "preview-of-apps",
    "preview-delete",
    "preview-reopen",
    "question",
    "result",
    "result-failed-again",
    "run",
    "search",
    "search-groups",
];

/// Where it leads to that no address does.
async fn run_to(browser: &Browser, site: &Site, name: &str) -> WebDriverResult<()> {
    if let "edit" | "edit-problem" | "edit-review" = name {
        let filter = DeadLetterFilter::default().source("contacts");
        let page = site.world.repo.list(site.app(), &filter, &PageRequest::default().size(1)).await.unwrap();
        browser.open(&format!("apps/{}/letters/{}", site.app(), page.items[0].id)).await?;
        browser.press("Edit and replay…").await?;
        browser.sees("Review changes").await?;
        let text = match name {
            "edit" => return Ok(()),
            "edit-problem" => "{ \"id\": }",
            _ => "{\n  \"id\": 1,\n  \"customer\": { \"name\": \"Grace\" }\n}",
        };
        browser.fill("JSON", text).await?;
        browser.press("Review changes").await?;
        return browser.sees(if name == "edit-problem" { "must be JSON" } else { "Replay edited" }).await;
    }
    if let "search" | "search-groups" = name {
        browser.open_list(site, "?source=contacts&size=5").await?;
        browser.unfold("Search in payloads").await?;
        browser.fill("Payload contains", "Ada Lovelace").await?;
        if name == "search-groups" {
            browser.press("Group").await?;
            return browser.sees("No other letter contains the text").await;
        }
        browser.press("Search").await?;
        return browser.sees("Search on").await;
    }
    if name == "question" {
        browser.open_list(site, "?state=closed&resolution=replayed").await?;
        browser.press_first("Reopen ").await?;
        return browser.sees("Reopen anyway").await;
    }
    if let "choice" | "preview-reopen" = name {
        browser.open_list(site, "?state=closed").await?;
        browser.press_first("Reopen all").await?;
        browser.sees("Reopen which letters?").await?;
        if name == "preview-reopen" {
            browser.click("//main//button[contains(., ' replayed')]").await?;
            browser.sees("These letters were replayed").await?;
        }
        return Ok(());
    }
    if name == "preview-delete" {
        browser.open_list(site, "?source=contacts").await?;
        browser.click("(//main//tbody//input[@type='checkbox'])[1]").await?;
        browser.press("Delete ticked…").await?;
        return browser.sees("Delete 1 letter?").await;
    }
    if name == "news" {
        browser.open_list(site, "?source=invoices").await?;
        browser.sees("Ignore all").await?;
        let id = browser.run_script("return document.querySelector('#rows tbody tr').id").await?;
        let closed = id.as_str().unwrap().parse::<Uuid>().unwrap();
        site.world.repo.resolve(closed.into(), "ignored").await.unwrap();
        let invoice = NewDeadLetter { source: "invoices".to_owned(), ..letter(site.app()) };
        site.world.repo.insert(invoice).await.unwrap();
        browser.run_script("document.dispatchEvent(new Event('visibilitychange'))").await?;
        browser.sees("1 new letter").await?;
        return browser.sees("Ignored").await;
    }
    if name == "preview-of-apps" {
        browser.open("apps").await?;
        browser.press_first("Replay HTTP").await?;
        return browser.sees("Replay one first").await;
    }
    browser.open_list(site, "?source=contacts").await?;
    browser.press_first("Replay all").await?;
    browser.sees("Replay one first").await?;
    if let "result" | "result-failed-again" | "run" = name {
        browser.press("Replay one first").await?;
        browser.sees("Replayed 1 of").await?;
    }
    if name == "result-failed-again" {
        let replayed = DeadLetterFilter::default().state(DeadLetterState::Closed).source("contacts");
        let page = PageRequest::default().size(1);
        let last = site.world.repo.list(site.app(), &replayed, &page).await.unwrap().items.remove(0);
        let again = NewDeadLetter { original_event_id: last.original_event_id, ..letter(site.app()) };
        site.world.repo.insert(again).await.unwrap();
        browser.driver.refresh().await?;
        browser.sees("Continue anyway").await?;
    }
    if name == "run" {
        browser.press("This run for colleagues").await?;
        browser.sees("Changed letters").await?;
    }
    Ok(())
}

/// Finds controls of which an edge is outside the window, cut off or covered. Nobody has to press the chart's
/// bars, which are left out.
const OUT_OF_REACH: &str = "
    for (const details of document.querySelectorAll('details')) details.open = true;
    const isThere = (element) => {
        element.scrollIntoView({ block: 'center', inline: 'nearest' });
        // That scrolls what people can't scroll, too.
        for (let part = element; part; part = part.parentElement) {
            if (getComputedStyle(part).overflowX === 'hidden') part.scrollLeft = 0;
        }
        const boxes = [element, ...element.querySelectorAll('*')].flatMap((part) => [...part.getClientRects()]);
        const box = boxes.find((box) => box.width > 0 && box.height > 0);
        const isHit = (x) => element.contains(document.elementFromPoint(x, box.y + box.height / 2));
        return !box || (isHit(box.left + 2) && isHit(box.right - 2));
    };
    const pressed = 'header a, header button, main a:not(svg a), main button, main input, main select, main textarea, summary';
    return [...document.querySelectorAll(pressed)].filter((element) => !isThere(element)).map((element) => element.outerHTML);";

impl Browser {
    async fn expect_within_reach(&self, name: &str) -> WebDriverResult<()> {
        let wider = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(self.run_script(wider).await?, 0, "{name}");
        assert_eq!(self.run_script(OUT_OF_REACH).await?, json!([]), "{name}");
        // With all its details open.
        assert_eq!(self.run_script(wider).await?, 0, "{name}");
        Ok(())
    }

    async fn prefers(&self, scheme: &str) -> WebDriverResult<()> {
        let (scheme, forced) = if scheme == "forced" { ("light", "active") } else { (scheme, "none") };
        let features = json!([
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "forced-colors", "value": forced },
        ]);
        self.command("Emulation.setEmulatedMedia", json!({ "features": features })).await
    }

    async fn is_wide(&self, width: u32, scale: u32) -> WebDriverResult<()> {
        let size = json!({ "width": width, "height": 900, "deviceScaleFactor": scale, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", size).await
    }

    /// Takes the page's picture in light and dark, and checks it in each scheme with all its details open.
    async fn expect_accessible(&self, name: &str, width: u32) -> WebDriverResult<()> {
        let axe = fs::read_to_string(AXE)
            .unwrap_or_else(|_| panic!("axe-core is missing: tests/install installs it"));
        self.run_script(&axe).await?;
        for scheme in ["light", "dark"] {
            self.prefers(scheme).await?;
            self.picture(&format!("{name}-{scheme}-{width}")).await?;
        }
        self.run_script("for (const details of document.querySelectorAll('details')) details.open = true")
            .await?;
        for (scheme, options) in SCHEMES {
            self.prefers(scheme).await?;
            self.expect_no_violation(&format!("{name}-{scheme}-{width}"), options).await?;
        }
        // After forced colors, the browser would paint the next page's background in the wrong color.
        self.command("Emulation.setEmulatedMedia", json!({ "features": [] })).await
    }

    async fn expect_no_violation(&self, name: &str, options: &str) -> WebDriverResult<()> {
        let check = format!(
            "const done = arguments[0]; \
             axe.run({{ resultTypes: ['violations'], ...{options} }}).then((found) => \
             done(found.violations.map((violation) => \
             [violation.id, violation.nodes.map((node) => node.html + node.failureSummary)])));"
        );
        let violations = self.driver.execute_async(check, Vec::new()).await?.json().clone();
        assert_eq!(violations, json!([]), "{name}");
        Ok(())
    }

    async fn picture(&self, name: &str) -> WebDriverResult<()> {
        // The colors of another scheme are painted in the next frame.
        let painted =
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()));";
        self.driver.execute_async(painted, Vec::new()).await?;
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pictures");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name).with_extension("png"), self.driver.screenshot_as_png().await?).unwrap();
        Ok(())
    }
}

async fn no_page_has_a_fault_of_accessibility_in_a_window(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    expect_all_accessible(site, browser, 1280).await
}

async fn no_page_has_a_fault_of_accessibility_on_a_tablet(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    expect_all_accessible(site, browser, 700).await
}

async fn no_page_has_a_fault_of_accessibility_on_a_phone(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    expect_all_accessible(site, browser, 360).await
}

async fn expect_all_accessible(site: &Site, browser: &Browser, width: u32) -> WebDriverResult<()> {
    browser.is_wide(width, 1).await?;
    for page in pages(site).await {
        browser.open(&page.address).await?;
        browser.sees(page.says).await?;
        browser.expect_accessible(page.name, width).await?;
    }
    for name in STATES {
        run_to(browser, site, name).await?;
        browser.expect_accessible(name, width).await?;
    }
    browser.open_list(site, "").await?;
    browser.press_first("Ignore contacts sync").await?;
    browser.sees("The letter is ignored:").await?;
    browser.expect_accessible("banner", width).await?;
    // A phone has no keys.
    if width > 360 {
        browser.press("Keys").await?;
        browser.sees("next, previous row").await?;
        browser.expect_accessible("help", width).await?;
    }
    Ok(())
}

/// Finds controls that are smaller than 24 pixels (WCAG 2.5.8). A link in a sentence has the height of its line, and
/// nobody has to press the chart's bars.
const SMALL: &str = "
    for (const details of document.querySelectorAll('details')) details.open = true;
    const isSmall = (element) => {
        const box = (element.closest('label') ?? element).getBoundingClientRect();
        return box.width > 0 && (Math.round(box.width) < 24 || Math.round(box.height) < 24);
    };
    const isInSentence = (element) => element.matches('a, bdi') && getComputedStyle(element).display === 'inline'
        && [...element.parentElement.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== '');
    const pressed = 'a[href]:not(.skip, svg a), button, input:not([type=hidden]), select, textarea, summary';
    return [...document.querySelectorAll(pressed)]
        .filter((element) => isSmall(element) && !isInSentence(element)).map((element) => element.outerHTML);";

async fn every_target_has_24_pixels_and_forced_colors_show_the_current_tab(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let pages = pages(site).await;
    for width in [1280, 700, 360] {
        browser.is_wide(width, 1).await?;
        for page in &pages {
            browser.open(&page.address).await?;
            browser.sees(page.says).await?;
            assert_eq!(browser.run_script(SMALL).await?, json!([]), "{} at {width}", page.name);
        }
        for name in STATES {
            run_to(browser, site, name).await?;
            assert_eq!(browser.run_script(SMALL).await?, json!([]), "{name} at {width}");
        }
    }
    browser.prefers("forced").await?;
    browser.open_list(site, "").await?;
    for links in [".tabs a", ".switch a"] {
        let colors = format!(
            "const color = (link) => getComputedStyle(link).borderBottomColor; \
             const links = [...document.querySelectorAll('{links}')]; \
             const current = links.filter((link) => link.ariaCurrent === 'page').map(color); \
             const others = links.filter((link) => link.ariaCurrent !== 'page').map(color); \
             return current.length === 1 && others.length > 0 && !others.includes(current[0])"
        );
        assert_eq!(browser.run_script(&colors).await?, true, "{links}");
    }
    Ok(())
}

async fn no_page_is_wider_than_a_phone_or_than_a_window_at_twice_its_size(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let pages = pages(site).await;
    for (width, scale) in [(360, 1), (640, 2)] {
        browser.is_wide(width, scale).await?;
        for page in &pages {
            browser.open(&page.address).await?;
            browser.sees(page.says).await?;
            browser.expect_within_reach(&format!("{} at {width}", page.name)).await?;
        }
        for name in STATES {
            run_to(browser, site, name).await?;
            browser.expect_within_reach(&format!("{name} at {width}")).await?;
        }
    }
    Ok(())
}

async fn hostile_texts_run_no_script_on_any_page(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let hostile = &format!("{HOSTILE}\u{0}");
    let (repo, app) = (&site.world.repo, site.app());
    let text = format!("{hostile}{}", "long ".repeat(200_000));
    let letter = NewDeadLetter {
        source: hostile.to_owned(),
        op: hostile.to_owned(),
        last_error: text,
        payload: json!({ hostile: hostile }),
        ..letter(app)
    };
    let id = repo.insert(letter.clone()).await.unwrap();
    let closed = repo.insert(letter).await.unwrap();
    repo.resolve_once(app, closed, Resolution::Replayed, &Attribution::by(hostile).note(hostile))
        .await
        .unwrap();
    for path in [
        "apps".to_owned(),
        format!("apps/{app}?state=any"),
        format!("apps/{app}/groups?state=any"),
        format!("apps/{app}/letters/{id}"),
        format!("apps/{app}/letters/{closed}"),
        format!("apps/{app}?source=%3Cscript%3Ewindow.pwned%3D1%3C%2Fscript%3E"),
        "nowhere/%3Cscript%3Ewindow.pwned=1%3C%2Fscript%3E".to_owned(),
    ] {
        browser.open_at("/hostile", &path).await?;
        browser.sees("Dead letters").await?;
        let title = browser.driver.title().await?;
        assert!(title.ends_with(" · Dead letters") && !title.contains('\u{202e}'), "{path}: {title}");
        assert_eq!(browser.run_script("return window.pwned ?? null").await?, Value::Null, "{path}");
        let added = "return document.querySelectorAll('main script, main img').length";
        assert_eq!(browser.run_script(added).await?, 0, "{path}");
        assert!(!browser.text().await?.contains('\u{202e}'), "{path}");
    }
    browser.open_at("/hostile", &format!("apps/{app}")).await?;
    browser.sees("<script>window.pwned=1</script>").await?;
    browser.press_first("Ignore all 1").await?;
    browser.sees("<script>window.pwned=1</script>").await?;
    browser.fill("Note (optional)", HOSTILE).await?;
    browser.press("Ignore 1 letter").await?;
    browser.sees("1 letter is ignored:").await?;
    let row = site.world.row(id).await;
    assert_eq!((row.resolved_by.as_deref(), row.resolution_note.as_deref()), (Some(HOSTILE), Some(HOSTILE)));
    browser.open_at("/hostile", &format!("apps/{app}/letters/{id}")).await?;
    browser.sees("Resolved: ignored by").await?;
    assert_eq!(browser.run_script("return window.pwned ?? null").await?, Value::Null);
    Ok(())
}
