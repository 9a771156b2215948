//! What scripts add.

use dead_letters::testing::{Call, transient};
use thirtyfour::prelude::*;

use super::{Browser, Site, browser_tests};

browser_tests! { sqlite: sqlite, On;
    the_list_is_worked_by_keys_alone,
    a_list_shows_a_new_letter_by_itself_but_not_while_one_is_ticked,
    a_list_that_is_paused_stays_as_it_is,
    a_page_recovers_by_itself_once_the_database_is_back,
    the_banner_is_taken_out_of_the_address,
    a_box_ticks_all_letters_of_the_page,
}

browser_tests! { postgres: postgres, On;
    a_list_shows_a_new_letter_by_itself_but_not_while_one_is_ticked,
    a_page_recovers_by_itself_once_the_database_is_back,
}

async fn the_list_is_worked_by_keys_alone(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let ids = [site.world.letter().await, site.world.letter().await, site.world.letter().await];
    browser.open_list(site, "").await?;
    browser.sees("3 of 3").await?;
    browser.key("?").await?;
    browser.sees("next, previous row").await?;
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
    browser.sees("Settle").await?;
    browser
        .until("Replay, by Tab", async || {
            browser.key(Key::Tab).await?;
            Ok(browser.driver.active_element().await?.text().await? == "Replay")
        })
        .await?;
    browser.key(Key::Enter).await?;
    browser.sees("The letter is replayed").await?;
    assert_eq!(site.world.outbox.events().len(), 1);
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
    site.world.letter().await;
    // As a browser does where it was in the background.
    let look = "document.dispatchEvent(new Event('visibilitychange'))";
    browser.run_script(look).await?;
    browser.sees("1 ticked").await?;
    assert!(browser.is_ticked(&id.to_string()).await?);
    browser.tick(&id.to_string()).await?;
    browser.sees("2 of 2").await?;
    assert_eq!(browser.run_script("return window.isTheSame").await?, true);
    Ok(())
}

async fn a_list_that_is_paused_stays_as_it_is(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    site.world.letter().await;
    browser.open_list(site, "").await?;
    browser.sees("1 of 1").await?;
    browser.press("Live").await?;
    site.world.letter().await;
    browser.run_script("document.dispatchEvent(new Event('visibilitychange'))").await?;
    assert!(browser.text().await?.contains("1 of 1"));
    browser.press("Live").await?;
    browser.sees("2 of 2").await
}

async fn a_page_recovers_by_itself_once_the_database_is_back(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    site.world.letter().await;
    site.store.fail(Call::List, .., transient());
    browser.open_list(site, "").await?;
    browser.sees("The store can't be reached").await?;
    site.store.recover();
    browser.sees("1 of 1").await?;
    site.store.fail(Call::List, .., transient());
    browser.sees("Out of reach").await?;
    assert!(browser.text().await?.contains("1 of 1"));
    site.store.recover();
    browser.sees("Live").await
}

async fn the_banner_is_taken_out_of_the_address(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    browser.open_list(site, "?size=20").await?;
    browser.press(&format!("Ignore orders insert {id}")).await?;
    browser.sees("The letter is ignored.").await?;
    browser.until("the address", async || Ok(browser.address().await?.ends_with("?size=20"))).await?;
    browser.driver.refresh().await?;
    browser.sees("Nothing failed").await?;
    assert!(!browser.text().await?.contains("The letter is ignored."));
    Ok(())
}

async fn a_box_ticks_all_letters_of_the_page(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let ids = [site.world.letter().await, site.world.letter().await];
    browser.open_list(site, "").await?;
    browser.find(By::Css("thead input[type=checkbox]")).await?.click().await?;
    browser.sees("2 ticked").await?;
    for id in ids {
        assert!(browser.is_ticked(&id.to_string()).await?);
    }
    Ok(())
}
