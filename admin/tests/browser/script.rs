//! Tests of what scripts add to the pages.

use dead_letters::{
    Attribution, DeadLetterRepo, DeadLetterResolve, NewDeadLetter, Resolution,
    testing::{Call, letter, transient},
};
use serde_json::json;
use thirtyfour::prelude::*;

use super::{Browser, Site, box_of, browser_tests};
use crate::support::new_app;

browser_tests! { sqlite: sqlite, On;
    the_list_is_worked_by_keys_alone,
    letters_are_ticked_and_ignored_by_keys_alone,
    enter_on_a_box_asks_before_it_changes_a_letter,
    a_page_that_is_led_elsewhere_is_offline_and_keeps_its_rows,
    keys_are_left_alone_in_fields_and_under_modifiers,
    a_list_shows_a_new_letter_by_itself_but_not_while_one_is_ticked,
    a_list_that_is_paused_stays_as_it_is,
    a_page_recovers_by_itself_once_the_database_is_back,
    the_banner_is_taken_out_of_the_address,
    a_box_ticks_all_letters_of_the_page,
    a_box_ticks_all_between_it_and_the_last_one_under_shift,
    a_refresh_keeps_the_focus_and_what_is_open,
    a_list_is_fresh_after_back,
    the_live_button_shows_what_pauses_the_page,
    the_way_back_keeps_the_page_the_place_and_what_is_ticked,
    the_way_back_to_the_overview_and_the_groups_keeps_the_place,
    rows_are_ignored_undone_replayed_and_opened_by_keys,
    ticked_letters_are_reopened_and_an_id_is_searched_by_keys,
    a_time_in_the_filter_is_one_of_the_browsers_zone,
    a_bar_of_the_chart_has_the_browsers_zone_too,
    the_link_to_a_filtered_list_is_copied,
    all_letters_are_ticked_on_a_phone_and_the_buttons_stay_in_reach,
    a_time_is_shown_in_the_browsers_zone_and_its_tooltip_has_utc,
    a_refresh_moves_no_row_and_marks_what_was_closed_elsewhere,
    a_refresh_of_groups_moves_none,
    a_group_that_was_closed_elsewhere_shows_by_whom,
    an_app_that_was_closed_elsewhere_is_no_new_one,
    a_letter_that_was_closed_again_elsewhere_is_marked,
    after_a_refresh_the_buttons_of_a_group_act_in_every_app_that_it_counts,
    a_refresh_of_a_group_keeps_the_focus_on_the_link_of_an_app,
    a_refresh_takes_over_the_counts_of_all_letters,
    a_double_click_sends_a_form_once,
    a_command_has_the_address_as_one_word_of_a_shell,
    a_result_without_an_address_does_not_run_again_and_continues_after_a_reload,
    a_replay_at_a_rate_continues_by_itself_until_somebody_stops_it,
    a_staged_replay_goes_on_by_itself_until_an_event_fails_again,
    an_error_is_copied_as_it_is,
}

browser_tests! { postgres: postgres, On;
    a_list_shows_a_new_letter_by_itself_but_not_while_one_is_ticked,
    a_page_recovers_by_itself_once_the_database_is_back,
}

impl Browser {
    /// Whether the page asks for what is new, as it does when its tab comes to the front.
    async fn looks_again(&self) -> WebDriverResult<bool> {
        let look = "const fetch = window.fetch; let asked = false; \
                    window.fetch = (...request) => { asked = true; return fetch(...request); }; \
                    document.dispatchEvent(new Event('visibilitychange')); \
                    window.fetch = fetch; return asked;";
        Ok(self.run_script(look).await? == true)
    }

    /// The text of the clipboard.
    async fn copied(&self) -> WebDriverResult<String> {
        let read = "const done = arguments[0]; navigator.clipboard.readText().then(done, (error) => done(String(error)));";
        let copied = self.driver.execute_async(read, Vec::new()).await?.json().clone();
        Ok(copied.as_str().unwrap().to_owned())
    }

    /// By Tab.
    async fn go_to(&self, name: &str) -> WebDriverResult<()> {
        self.until(name, async || {
            self.key(Key::Tab).await?;
            Ok(self.driver.active_element().await?.text().await? == name)
        })
        .await
    }
}

async fn the_list_is_worked_by_keys_alone(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let ids = [site.world.letter().await, site.world.letter().await, site.world.letter().await];
    browser.open_list(site, "").await?;
    browser.sees("3 of 3").await?;
    browser.key("?").await?;
    for meaning in [
        "focus the filter",
        "next, previous row",
        "tick the row",
        "open the row in a new tab",
        "ignore the row",
        "replay the row",
        "reopen the row",
        "next page",
        "previous page",
    ] {
        browser.sees(meaning).await?;
    }
    browser.key(Key::Escape).await?;
    // The newest is the first row.
    browser.key("jjx").await?;
    browser.until("the second row ticked", async || browser.is_ticked(&ids[1].to_string()).await).await?;
    browser.key("kx").await?;
    browser.until("the first row ticked", async || browser.is_ticked(&ids[2].to_string()).await).await?;
    browser.key("x").await?;
    browser.until("the first row free", async || Ok(!browser.is_ticked(&ids[2].to_string()).await?)).await?;
    browser.key("/").await?;
    browser.key("orders" + Key::Enter).await?;
    browser.until("the filter", async || Ok(browser.address().await?.contains("source=orders"))).await?;
    browser.sees("3 of 3").await?;
    browser.key("j").await?;
    browser.key(Key::Enter).await?;
    browser.until("the letter", async || Ok(browser.address().await?.ends_with(&ids[2].to_string()))).await?;
    // Past the links above it to the first button of the letter.
    browser.sees("Resolve").await?;
    browser.go_to("Replay").await?;
    browser.key(Key::Enter).await?;
    browser.sees("The letter is replayed").await?;
    assert_eq!(site.world.outbox.events().len(), 1);
    Ok(())
}

async fn letters_are_ticked_and_ignored_by_keys_alone(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let ids = [site.world.letter().await, site.world.letter().await, site.world.letter().await];
    browser.open_list(site, "").await?;
    browser.sees("3 of 3").await?;
    browser.key("jxjx").await?;
    browser.sees("2 ticked").await?;
    browser.go_to("Ignore ticked…").await?;
    browser.key(Key::Enter).await?;
    browser.sees("Ignore 2 letters?").await?;
    browser.go_to("Ignore 2 letters").await?;
    browser.key(Key::Enter).await?;
    browser.sees("2 letters are ignored:").await?;
    // Where a screen reader goes on.
    let focused = browser.driver.active_element().await?;
    assert!(focused.text().await?.starts_with("Done. 2 letters are ignored: ticked, the first is "));
    let left = site.world.row(ids[0]).await;
    assert_eq!((left.resolution, site.world.repo.unresolved_count(site.app()).await.unwrap()), (None, 1));
    Ok(())
}

async fn enter_on_a_box_asks_before_it_changes_a_letter(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    browser.open_list(site, "").await?;
    browser.tick(&id.to_string()).await?;
    browser.key(Key::Enter).await?;
    browser.sees("Ignore 1 letter?").await?;
    assert_eq!(site.world.row(id).await.resolution, None);
    Ok(())
}

/// As by a redirect to a page where one logs in, after a session has ended.
async fn a_page_that_is_led_elsewhere_is_offline_and_keeps_its_rows(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    site.world.letter().await;
    browser.open_list(site, "").await?;
    browser.sees("Live").await?;
    let script = "const fetch = window.fetch; \
                  window.fetch = (_, options) => fetch(location.pathname + '/groups', options); \
                  document.dispatchEvent(new Event('visibilitychange'));";
    browser.run_script(script).await?;
    browser.sees("Offline").await?;
    assert!(browser.text().await?.contains("1 of 1"));
    assert_eq!(browser.driver.find_all(By::Css("tr.gone")).await?.len(), 0);
    Ok(())
}

async fn keys_are_left_alone_in_fields_and_under_modifiers(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    browser.open_list(site, "").await?;
    browser.sees("1 of 1").await?;
    browser.key("j").await?;
    for modifier in [Key::Control, Key::Alt, Key::Meta] {
        let chain = browser.driver.action_chain().key_down(modifier.clone());
        chain.send_keys("x").key_up(modifier).perform().await?;
    }
    assert!(!browser.is_ticked(&id.to_string()).await?);
    browser.key("/").await?;
    browser.key("jkx?/").await?;
    let field = browser.driver.active_element().await?;
    assert_eq!(field.prop("value").await?.as_deref(), Some("jkx?/"));
    assert!(!browser.is_ticked(&id.to_string()).await?);
    Ok(())
}

async fn a_list_shows_a_new_letter_by_itself_but_not_while_one_is_ticked(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    browser.open_list(site, "").await?;
    browser.sees("1 of 1").await?;
    browser.run_script("window.isTheSame = true").await?;
    browser.tick(&id.to_string()).await?;
    browser.sees("1 ticked").await?;
    site.world.letter().await;
    assert!(!browser.looks_again().await?);
    assert!(browser.is_ticked(&id.to_string()).await?);
    browser.tick(&id.to_string()).await?;
    browser.sees("1 new letter").await?;
    assert_eq!(browser.run_script("return window.isTheSame").await?, true);
    browser.press_new("1 new letter").await?;
    browser.sees("2 of 2").await
}

/// Where each row stands, by its letter.
const PLACES: &str = "return [...document.querySelectorAll('.cards tbody tr')]
    .map((row) => [row.id || row.querySelector('a').getAttribute('href'), row.getBoundingClientRect().top]);";

async fn a_refresh_moves_no_row_and_marks_what_was_closed_elsewhere(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let ids = [site.world.letter().await, site.world.letter().await, site.world.letter().await];
    browser.open_list(site, "").await?;
    browser.sees("3 of 3").await?;
    let before = browser.run_script(PLACES).await?;
    for _ in 0..2 {
        site.world.letter().await;
    }
    site.world
        .repo
        .resolve_once(site.app(), ids[1], Resolution::Ignored, &Attribution::by("grace"))
        .await
        .unwrap();
    browser.until("a look", async || browser.looks_again().await).await?;
    browser.sees("2 new letters").await?;
    browser.sees("Ignored by grace").await?;
    assert_eq!(browser.run_script(PLACES).await?, before);
    // The one that is closed can't be closed again by a click that was meant for it, and the others are as they were.
    let closed = "return [...document.querySelectorAll('tr.gone')]
        .map((row) => [row.id, [...row.querySelectorAll('input, button')].every((control) => control.disabled)]);";
    assert_eq!(browser.run_script(closed).await?, json!([[ids[1], true]]));
    browser.press(&format!("Ignore orders insert {}", ids[0])).await?;
    browser.sees(&format!("The letter is ignored: orders insert, {}", ids[0])).await?;
    browser.sees("3 of 3").await?;
    let open = site.world.repo.unresolved_count(site.app()).await.unwrap();
    assert_eq!((site.world.row(ids[2]).await.resolution, open), (None, 3));
    Ok(())
}

async fn a_refresh_of_groups_moves_none(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let of = async |source: &str| {
        let alike = NewDeadLetter { source: source.to_owned(), script_id: None, ..letter(site.app()) };
        site.world.insert(alike).await
    };
    for source in ["orders", "orders", "invoices"] {
        of(source).await;
    }
    browser.open(&format!("apps/{}/groups", site.app())).await?;
    browser.sees("invoices").await?;
    let before = browser.run_script(PLACES).await?;
    for source in ["invoices", "invoices", "parcels"] {
        of(source).await;
    }
    browser.until("a look", async || browser.looks_again().await).await?;
    browser.sees("1 new group").await?;
    assert_eq!(browser.run_script(PLACES).await?, before);
    let counts = "return [...document.querySelectorAll('.cards tbody .number')].map((cell) => cell.textContent.trim()[0])";
    assert_eq!(browser.run_script(counts).await?, json!(["2", "3"]));
    browser.press_new("1 new group").await?;
    browser
        .until("the new order", async || Ok(browser.run_script(counts).await? == json!(["3", "2", "1"])))
        .await
}

async fn a_group_that_was_closed_elsewhere_shows_by_whom(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    let other = NewDeadLetter { source: "invoices".to_owned(), ..letter(site.app()) };
    site.world.insert(other).await;
    let by_grace = Attribution::by("grace");
    for page in ["apps".to_owned(), format!("apps/{}/groups", site.app())] {
        browser.open_at("/letters/letters", &page).await?;
        browser.sees("invoices").await?;
        site.world.repo.resolve_once(site.app(), id, Resolution::Ignored, &by_grace).await.unwrap();
        browser.until("a look", async || browser.looks_again().await).await?;
        browser.sees("Ignored by grace").await?;
        let groups = "return [...document.querySelectorAll('.groups tr.gone')].length";
        assert_eq!(browser.run_script(groups).await?, json!(1));
        site.world.repo.reopen(site.app(), id, &by_grace).await.unwrap();
    }
    Ok(())
}

async fn a_refresh_takes_over_the_counts_of_all_letters(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let ids = [site.world.letter().await, site.world.letter().await, site.world.letter().await];
    browser.open_list(site, "").await?;
    browser.sees("3 unresolved").await?;
    site.world
        .repo
        .resolve_once(site.app(), ids[0], Resolution::Ignored, &Attribution::by("grace"))
        .await
        .unwrap();
    browser.until("a look", async || browser.looks_again().await).await?;
    for text in ["2 unresolved", "2 of 2", "Ignore all 2…"] {
        browser.sees(text).await?;
    }
    Ok(())
}

async fn a_double_click_sends_a_form_once(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    site.world.letter().await;
    site.world.letter().await;
    browser.open_list(site, "").await?;
    browser.sees("2 of 2").await?;
    let sends = "let sent = 0;
        addEventListener('submit', (event) => { if (!event.defaultPrevented) sent += 1; event.preventDefault(); });
        const button = [...document.querySelectorAll('button')].find((button) => button.textContent === 'Ignore all 2…');
        button.click(); button.click();
        return sent;";
    assert_eq!(browser.run_script(sends).await?, json!(1));
    Ok(())
}

async fn an_app_that_was_closed_elsewhere_is_no_new_one(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    site.world.insert(letter(new_app())).await;
    browser.open("apps").await?;
    browser.sees("Most first").await?;
    site.world
        .repo
        .resolve_once(site.app(), id, Resolution::Ignored, &Attribution::by("grace"))
        .await
        .unwrap();
    browser.until("a look", async || browser.looks_again().await).await?;
    let app = site.app();
    let open =
        format!("return document.querySelector('[data-key=\"app {app}\"] .number').textContent.trim()[0]");
    browser.until("its count", async || Ok(browser.run_script(&open).await? == json!("0"))).await?;
    assert_eq!(browser.run_script("return document.querySelectorAll('a.news').length").await?, json!(0));
    // A reload shows it as one with nothing open. It is news if it fails again.
    browser.open("apps").await?;
    browser.sees("Nothing open").await?;
    site.world.letter().await;
    browser.until("a look", async || browser.looks_again().await).await?;
    browser.sees("1 new group").await?;
    // The row leads to closed letters, and so it does not become that of an app with open ones.
    assert_eq!(browser.run_script(&open).await?, json!("0"));
    Ok(())
}

async fn a_letter_that_was_closed_again_elsewhere_is_marked(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    let (by_ada, by_grace) = (Attribution::by("ada"), Attribution::by("grace"));
    site.world.repo.resolve_once(site.app(), id, Resolution::Ignored, &by_ada).await.unwrap();
    browser.open_list(site, "?state=closed").await?;
    browser.sees("by ada").await?;
    site.world.repo.reopen(site.app(), id, &by_grace).await.unwrap();
    site.world.repo.resolve_once(site.app(), id, Resolution::Ignored, &by_grace).await.unwrap();
    browser.until("a look", async || browser.looks_again().await).await?;
    browser.sees("Ignored by grace").await?;
    assert_eq!(browser.driver.find_all(By::Css("tr.gone")).await?.len(), 1);
    Ok(())
}

async fn after_a_refresh_the_buttons_of_a_group_act_in_every_app_that_it_counts(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let alike = |app| NewDeadLetter { script_id: None, ..letter(app) };
    site.world.insert(alike(site.app())).await;
    browser.open("apps").await?;
    browser.sees("Similar failures").await?;
    let button = "document.querySelector('.groups .act button[value=ignored]')";
    browser.run_script(&format!("{button}.focus()")).await?;
    site.world.insert(alike(new_app())).await;
    browser.until("a look", async || browser.looks_again().await).await?;
    let apps = "return ['.act input[name=app]', '.marks .letter ~ a']
        .map((part) => document.querySelectorAll(`.groups ${part}`).length);";
    browser.until("both apps", async || Ok(browser.run_script(apps).await? == json!([2, 2]))).await?;
    let is_focused = format!("return document.activeElement === {button}");
    assert_eq!(browser.run_script(&is_focused).await?, json!(true));
    browser.press_first("Ignore").await?;
    browser.sees("Ignore 2 letters?").await
}

async fn a_refresh_of_a_group_keeps_the_focus_on_the_link_of_an_app(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let alike = || NewDeadLetter { script_id: None, ..letter(site.app()) };
    site.world.insert(alike()).await;
    browser.open("apps").await?;
    browser.sees("Similar failures").await?;
    let link = "document.querySelector('.groups .marks .letter ~ a')";
    browser.run_script(&format!("{link}.focus()")).await?;
    site.world.insert(alike()).await;
    browser.until("a look", async || browser.looks_again().await).await?;
    let count = format!("return {link}.textContent.endsWith(' 2')");
    browser.until("the count", async || Ok(browser.run_script(&count).await? == json!(true))).await?;
    let is_focused = format!("return document.activeElement === {link}");
    assert_eq!(browser.run_script(&is_focused).await?, json!(true));
    Ok(())
}

async fn a_command_has_the_address_as_one_word_of_a_shell(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let query = "source=%24DEAD_LETTERS_URL+%22%24DEAD_LETTERS_URL%22+%24%26";
    browser.open_at("/it's$(id)$&", &format!("apps/{}?{query}", site.app())).await?;
    browser.find(By::Css("#command summary")).await?.click().await?;
    let commands = "return [...document.querySelectorAll('.command pre')].map((command) => command.firstChild.textContent)";
    let commands = browser.run_script(commands).await?;
    let address = browser.run_script("return location.origin + location.pathname.split('/apps/')[0]").await?;
    let root = address.as_str().unwrap().replace('\'', r"'\''");
    let app = site.app();
    assert_eq!(commands[0], format!("curl '{root}''/api/apps/{app}/letters?state=unresolved&{query}'"));
    assert!(root.contains("$(id)"), "{root}");
    let source = "'$DEAD_LETTERS_URL \"$DEAD_LETTERS_URL\" $&'";
    assert_eq!(commands[1], format!("dead-letters list --app {app} --state unresolved --source {source}"));
    Ok(())
}

async fn a_result_without_an_address_does_not_run_again_and_continues_after_a_reload(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    site.world.repo.insert_many((0..60).map(|_| letter(site.app())).collect()).await.unwrap();
    browser.open_list(site, "?size=60").await?;
    browser.click("//thead//input").await?;
    browser.press("Replay ticked…").await?;
    browser.press("Replay one first").await?;
    browser.sees("Replayed 1 of 60").await?;
    browser.press("Refresh").await?;
    browser.sees("Replayed 1 of 60").await?;
    browser.driver.refresh().await?;
    browser.sees("Replayed, 1 letter").await?;
    assert_eq!(site.world.outbox.events().len(), 1);
    browser.press("Continue this run").await?;
    browser.sees("Replayed 1 of 60").await?;
    browser.sees("Replay 10 more").await?;
    assert_eq!(site.world.outbox.events().len(), 1);
    browser.press("Ignore the other 59…").await?;
    browser.sees("Ignore 59 letters?").await
}

async fn a_replay_at_a_rate_continues_by_itself_until_somebody_stops_it(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    site.world.repo.insert_many((0..28).map(|_| letter(site.app())).collect()).await.unwrap();
    browser.open_list(site, "?source=orders").await?;
    browser.press("Replay all 28…").await?;
    browser.find(By::Name("rate")).await?.send_keys("1").await?;
    browser.press("Replay all 28").await?;
    // Each step is ten seconds' worth.
    browser.sees("The run continues by itself.").await?;
    let first = site.world.outbox.events().len();
    assert!(first < 28);
    browser.until("the next step", async || Ok(site.world.outbox.events().len() > first)).await?;
    browser.press("Stop").await?;
    browser.sees("Stopped.").await?;
    assert!(site.world.outbox.events().len() < 28);
    // The page is loaded again as one that is to go on, and does not.
    browser.driver.refresh().await?;
    browser.find(By::Css("form[data-continue]")).await?;
    assert!(!browser.text().await?.contains("continues by itself"));
    Ok(())
}

async fn a_staged_replay_goes_on_by_itself_until_an_event_fails_again(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    // The only attempt of each letter failed, so the next stage waits for ten seconds.
    let new = |_| {
        let new = letter(site.app());
        NewDeadLetter { last_attempt_at: new.first_attempt_at, ..new }
    };
    site.world.repo.insert_many((0..20).map(new).collect()).await.unwrap();
    let replayed = async || site.world.outbox.events().len();
    browser.open_list(site, "?source=orders").await?;
    browser.press("Replay all 20…").await?;
    browser.press("Replay one first").await?;
    browser.sees("Replayed 1 of 20").await?;
    browser.sees("The next stage begins by itself if nothing failed again.").await?;
    let rate = browser.find(By::Name("rate")).await?;
    rate.send_keys("5").await?;
    browser.sees("The run waits while its fields are edited.").await?;
    rate.clear().await?;
    browser.find(By::Tag("h1")).await?.click().await?;
    browser.sees("The next stage begins by itself if nothing failed again.").await?;
    browser.until("the next stage", async || Ok(replayed().await == 11)).await?;
    browser.sees("Replayed 11 of 20").await?;
    let original_event_id = site.world.outbox.events()[3];
    site.world.insert(NewDeadLetter { original_event_id, ..letter(site.app()) }).await;
    browser.sees("Failed again").await?;
    assert_eq!(replayed().await, 11);
    Ok(())
}

async fn a_list_that_is_paused_stays_as_it_is(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    site.world.letter().await;
    browser.open_list(site, "").await?;
    browser.sees("1 of 1").await?;
    assert!(browser.looks_again().await?);
    browser.press("Live").await?;
    site.world.letter().await;
    assert!(!browser.looks_again().await?);
    // The next page too.
    browser.driver.refresh().await?;
    browser.sees("2 of 2").await?;
    assert!(!browser.looks_again().await?);
    site.world.letter().await;
    browser.press("Paused").await?;
    browser.sees("3 of 3").await
}

async fn a_page_recovers_by_itself_once_the_database_is_back(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    site.world.letter().await;
    site.store.fail(Call::List, .., transient());
    browser.open_list(site, "").await?;
    browser.sees("The database is unavailable").await?;
    site.store.recover();
    browser.sees("1 of 1").await?;
    site.store.fail(Call::List, .., transient());
    browser.sees("Offline").await?;
    assert!(browser.text().await?.contains("1 of 1"));
    site.store.recover();
    browser.sees("Live").await
}

async fn the_banner_is_taken_out_of_the_address(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    browser.open_list(site, "?size=20").await?;
    browser.press(&format!("Ignore orders insert {id}")).await?;
    browser.sees("The letter is ignored:").await?;
    browser.until("the address", async || Ok(browser.address().await?.ends_with("?size=20"))).await?;
    browser.driver.refresh().await?;
    browser.sees("Nothing failed").await?;
    assert!(!browser.text().await?.contains("The letter is ignored:"));
    Ok(())
}

async fn a_box_ticks_all_letters_of_the_page(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let ids = [site.world.letter().await, site.world.letter().await];
    browser.open_list(site, "").await?;
    browser.click("//thead//input").await?;
    browser.sees("2 ticked").await?;
    for id in ids {
        assert!(browser.is_ticked(&id.to_string()).await?);
    }
    Ok(())
}

async fn a_box_ticks_all_between_it_and_the_last_one_under_shift(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(site.world.letter().await.to_string());
    }
    browser.open_list(site, "").await?;
    browser.tick(&ids[3]).await?;
    let third = browser.find(By::XPath(box_of(&ids[1]))).await?;
    let chain = browser.driver.action_chain().key_down(Key::Shift).click_element(&third).key_up(Key::Shift);
    chain.perform().await?;
    browser.sees("3 ticked").await?;
    assert!(!browser.is_ticked(&ids[0]).await?);
    Ok(())
}

async fn a_refresh_keeps_the_focus_and_what_is_open(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    browser.open_list(site, "").await?;
    browser.sees("1 of 1").await?;
    browser.find(By::Css("#command summary")).await?.click().await?;
    browser.key("j").await?;
    site.world.letter().await;
    browser.until("a look", async || browser.looks_again().await).await?;
    browser.sees("1 new letter").await?;
    browser.sees("DEAD_LETTERS_URL is the address").await?;
    let focused = browser.driver.active_element().await?.prop("href").await?.unwrap_or_default();
    assert!(focused.ends_with(&id.to_string()), "{focused}");
    browser.key("x").await?;
    assert!(browser.is_ticked(&id.to_string()).await?);
    Ok(())
}

async fn a_list_is_fresh_after_back(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let ids = [site.world.letter().await, site.world.letter().await];
    browser.open_list(site, "").await?;
    browser.sees("2 of 2").await?;
    // Without "Live" nothing else refreshes the page.
    browser.press("Live").await?;
    browser.tick(&ids[0].to_string()).await?;
    browser.open(&format!("apps/{}/letters/{}", site.app(), ids[1])).await?;
    browser.press("Ignore").await?;
    browser.sees("The letter is ignored:").await?;
    for _ in 0..2 {
        browser.driver.back().await?;
    }
    browser.sees("1 of 1").await?;
    // The letter that was ticked still is.
    browser.until("the tick", async || browser.is_ticked(&ids[0].to_string()).await).await
}

async fn the_live_button_shows_what_pauses_the_page(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let ids = [site.world.letter().await, site.world.letter().await].map(|id| id.to_string());
    browser.open_list(site, "").await?;
    let live = async |text: &str| {
        let text = text.to_owned();
        browser
            .until(&text, async || Ok(browser.find(By::Css("header .live")).await?.text().await? == text))
            .await
    };
    live("Live").await?;
    browser.tick(&ids[0]).await?;
    live("Paused: 1 selected").await?;
    browser.tick(&ids[1]).await?;
    live("Paused: 2 selected").await?;
    for id in &ids {
        browser.tick(id).await?;
    }
    live("Live").await?;
    browser.key("/").await?;
    live("Paused: typing").await?;
    browser.run_script("document.activeElement.blur()").await?;
    live("Live").await?;
    browser.press("Live").await?;
    live("Paused").await?;
    site.store.fail(Call::List, .., transient());
    browser.press("Paused").await?;
    live("Offline").await
}

/// From a letter by its link, and from a preview by Cancel.
async fn the_way_back_keeps_the_page_the_place_and_what_is_ticked(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    site.world.repo.insert_many((0..80).map(|_| letter(site.app())).collect()).await.unwrap();
    browser.open_list(site, "?op=insert&size=50").await?;
    browser.press("Older").await?;
    browser.until("the second page", async || Ok(browser.address().await?.contains("after="))).await?;
    browser.sees("30 of 80").await?;
    let second = browser.address().await?;
    let id = browser.run_script("return document.querySelectorAll('tbody tr')[20].id").await?;
    let id = id.as_str().unwrap().to_owned();
    for way in ["letter", "preview", "error"] {
        if !browser.is_ticked(&id).await? {
            browser.tick(&id).await?;
        }
        let place = browser.run_script("scrollTo(0, 700); return scrollY").await?;
        assert_ne!(place, 0);
        match way {
            "letter" => {
                let link = format!("document.getElementById('{id}').querySelector('a').click()");
                browser.run_script(&link).await?;
                browser.sees("Failed 5 times").await?;
                browser.press("Back to the list").await?;
            }
            "preview" => {
                browser
                    .run_script("document.querySelector('button[form=rows][value=ignored]').click()")
                    .await?;
                browser.sees("Ignore 1 letter?").await?;
                browser.press("Cancel").await?;
            }
            _ => {
                let nothing = "document.querySelector('#rows input[name=state]').value = 'nothing'; \
                               document.querySelector('button[form=rows]').click()";
                browser.run_script(nothing).await?;
                browser.press("Back to the list").await?;
            }
        }
        browser.until("the list", async || Ok(browser.address().await? == second)).await?;
        browser.sees("30 of 80, 1 ticked").await?;
        assert!(browser.is_ticked(&id).await?);
        browser.until("the place", async || Ok(browser.run_script("return scrollY").await? == place)).await?;
    }
    // Another way to the list begins at its top, with no tick.
    browser.open("apps").await?;
    browser.open_list(site, "?op=insert&size=50").await?;
    browser.sees("50 of 80").await?;
    assert_eq!(browser.run_script("return scrollY").await?, 0);
    Ok(())
}

async fn the_way_back_to_the_overview_and_the_groups_keeps_the_place(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let letters = (0..40).map(|n| NewDeadLetter { source: format!("source {n}"), ..letter(site.app()) });
    site.world.repo.insert_many(letters.collect()).await.unwrap();
    for (page, back) in [
        ("apps?sort=most".to_owned(), "Back to the overview"),
        (format!("apps/{}/groups?op=insert", site.app()), "Back to the groups"),
    ] {
        browser.open(&page).await?;
        browser.sees("source 39").await?;
        let address = browser.address().await?;
        let place = browser.run_script("scrollTo(0, 700); return scrollY").await?;
        assert_ne!(place, 0);
        browser.run_script("document.querySelectorAll('a.letter')[10].click()").await?;
        browser.sees("Failed 5 times").await?;
        browser.press("Ignore").await?;
        browser.sees("The letter is ignored:").await?;
        browser.press(back).await?;
        browser.until("the page", async || Ok(browser.address().await? == address)).await?;
        browser.until("the place", async || Ok(browser.run_script("return scrollY").await? == place)).await?;
    }
    Ok(())
}

async fn ticked_letters_are_reopened_and_an_id_is_searched_by_keys(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let ids = [site.world.letter().await, site.world.letter().await];
    for id in ids {
        site.world.repo.resolve(id, "ignored").await.unwrap();
    }
    browser.open_list(site, "?state=closed").await?;
    browser.sees("2 of 2").await?;
    browser.key("jxjxu").await?;
    browser.sees("Reopen 2 letters?").await?;
    browser.open("apps").await?;
    browser.key("/").await?;
    browser.key(ids[0].to_string() + Key::Enter).await?;
    browser.until("the letter", async || Ok(browser.address().await?.ends_with(&ids[0].to_string()))).await
}

async fn a_time_in_the_filter_is_one_of_the_browsers_zone(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    site.world.stored("2026-01-01T23:30:00Z", |letter| letter).await;
    browser.command("Emulation.setTimezoneOverride", json!({ "timezoneId": "Asia/Tokyo" })).await?;
    browser.open_list(site, "").await?;
    browser.sees("1 of 1").await?;
    browser.unfold("Custom").await?;
    browser.sees("Dead-lettered from (GMT+9)").await?;
    browser.run_script("document.getElementById('created_from').value = '2026-01-02T08:00'").await?;
    browser.press("Filter").await?;
    let utc = "created_from=2026-01-01T23%3A00%3A00Z";
    browser.until("the filter", async || Ok(browser.address().await?.ends_with(utc))).await?;
    browser.sees("1 of 1").await?;
    let shown = "const input = document.getElementById('created_from'); return [input.value, input.title]";
    browser
        .until("the zone", async || {
            Ok(browser.run_script(shown).await? == json!(["2026-01-02T08:00", "2026-01-01 23:00:00 UTC"]))
        })
        .await?;
    // A time that nobody changed is sent as it was.
    browser.fill("Source", "orders").await?;
    browser.press("Filter").await?;
    browser.until("the same time", async || Ok(browser.address().await?.contains(utc))).await?;
    browser.press("24 h").await?;
    browser.until("the last day", async || Ok(!browser.address().await?.contains(utc))).await?;
    assert!(browser.address().await?.contains("created_from="));
    browser.sees("No letter matches").await
}

async fn a_bar_of_the_chart_has_the_browsers_zone_too(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    site.world.letter().await;
    browser.command("Emulation.setTimezoneOverride", json!({ "timezoneId": "Asia/Tokyo" })).await?;
    browser.open_list(site, "").await?;
    browser.sees("1 of 1").await?;
    let title = browser.run_script("return document.querySelector('.chart title').textContent").await?;
    let title = title.as_str().unwrap();
    assert!(title.contains("GMT+9\n") && title.contains("UTC: 1 letter"), "{title}");
    Ok(())
}

async fn the_link_to_a_filtered_list_is_copied(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    site.world.letter().await;
    browser.open_list(site, "?source=orders").await?;
    let permissions = json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] });
    browser.command("Browser.grantPermissions", permissions).await?;
    browser.press("Copy link").await?;
    browser.sees("Copied").await?;
    assert_eq!(browser.copied().await?, browser.address().await?);
    Ok(())
}

async fn rows_are_ignored_undone_replayed_and_opened_by_keys(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let ids = [site.world.letter().await, site.world.letter().await, site.world.letter().await];
    let unresolved = async || site.world.repo.unresolved_count(site.app()).await.unwrap();
    browser.open_list(site, "").await?;
    browser.sees("3 of 3").await?;
    // Without a row no key acts.
    browser.key("eru").await?;
    browser.key("je").await?;
    browser.sees("The letter is ignored:").await?;
    assert_eq!(unresolved().await, 2);
    browser.key("u").await?;
    browser.sees("The letter is unresolved again:").await?;
    assert_eq!(unresolved().await, 3);
    browser.open_list(site, "").await?;
    browser.key("jr").await?;
    browser.sees("Replay 1 letter?").await?;
    assert!(site.world.outbox.events().is_empty());
    browser.press("Cancel").await?;
    browser.sees("1 ticked").await?;
    browser.key("jxe").await?;
    browser.sees("Ignore 2 letters?").await?;
    assert_eq!(unresolved().await, 3);
    browser.open_list(site, "?size=1").await?;
    browser.key("n").await?;
    browser.until("the next page", async || Ok(browser.address().await?.contains("after="))).await?;
    let second = browser.address().await?;
    browser.key("n").await?;
    browser.until("the third page", async || Ok(browser.address().await? != second)).await?;
    browser.key("[").await?;
    browser.until("the second page", async || Ok(browser.address().await? == second)).await?;
    browser.key("p").await?;
    browser.until("the first page", async || Ok(!browser.address().await?.contains("after="))).await?;
    browser.sees("1 of 3").await?;
    browser.key("jo").await?;
    browser.until("a tab", async || Ok(browser.driver.windows().await?.len() == 2)).await?;
    // A letter's Replay takes a second key.
    browser.open(&format!("apps/{}/letters/{}", site.app(), ids[0])).await?;
    browser.sees("Failed 5 times").await?;
    browser.key("r").await?;
    browser
        .until("the focus", async || Ok(browser.driver.active_element().await?.text().await? == "Replay"))
        .await?;
    assert!(site.world.outbox.events().is_empty());
    browser.key("e").await?;
    browser.sees("The letter is ignored:").await
}

async fn all_letters_are_ticked_on_a_phone_and_the_buttons_stay_in_reach(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    site.world.repo.insert_many((0..30).map(|_| letter(site.app())).collect()).await.unwrap();
    let size = json!({ "width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": false });
    browser.command("Emulation.setDeviceMetricsOverride", size).await?;
    browser.open_list(site, "").await?;
    browser.sees("30 of 30").await?;
    let bottom = "const box = document.querySelector('.bulk').getBoundingClientRect(); \
                  return Math.round(innerHeight - box.bottom)";
    browser.run_script("document.querySelector('#rows tbody tr').scrollIntoView()").await?;
    assert_eq!(browser.run_script(bottom).await?, 0);
    browser.find(By::XPath("//label[normalize-space()='Tick all']/input")).await?.click().await?;
    browser.sees("30 ticked").await?;
    browser.press("Ignore ticked…").await?;
    browser.sees("Ignore 30 letters?").await
}

async fn a_time_is_shown_in_the_browsers_zone_and_its_tooltip_has_utc(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let id = site.world.stored("2026-01-01T23:30:00Z", |letter| letter).await;
    browser.command("Emulation.setTimezoneOverride", json!({ "timezoneId": "Asia/Tokyo" })).await?;
    browser.open(&format!("apps/{}/letters/{id}", site.app())).await?;
    browser.sees("2 Jan 2026, 08:30 GMT+9").await?;
    let title = browser.run_script("return document.querySelector('.head time').title").await?;
    assert!(title.as_str().unwrap().contains("2026-01-01 23:30:00 UTC"), "{title}");
    browser.open_list(site, "").await?;
    browser.sees("1 of 1").await?;
    let title = browser.run_script("return document.querySelector('.when time').title").await?;
    let title = title.as_str().unwrap();
    assert!(title.contains("08:30 GMT+9") && title.contains("23:30:00 UTC"), "{title}");
    Ok(())
}

async fn an_error_is_copied_as_it_is(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let last_error = "HTTP 503 <b>\n    at deliver (crm.ts:41)";
    let id =
        site.world.insert(NewDeadLetter { last_error: last_error.to_owned(), ..letter(site.app()) }).await;
    browser.open(&format!("apps/{}/letters/{id}", site.app())).await?;
    let permissions = json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] });
    browser.command("Browser.grantPermissions", permissions).await?;
    browser.press("Copy the error").await?;
    browser.sees("Copied").await?;
    assert_eq!(browser.copied().await?, last_error);
    Ok(())
}
