//! Every action, by people whose browser runs scripts and by those whose does not.

use chrono::{DateTime, SubsecRound, Utc};
use dead_letters::{
    Attribution, DeadLetterFilter, DeadLetterRead, DeadLetterRepo, DeadLetterResolve, NewDeadLetter,
    Resolution,
    testing::{Call, letter, transient},
};
use thirtyfour::prelude::*;

use super::{Browser, Site, with_and_without_javascript};

with_and_without_javascript! {
    a_letter_is_ignored_from_its_row_and_that_is_undone,
    a_letter_is_resolved_from_its_page_with_a_note_and_reopened,
    a_letter_is_replayed_once_whatever_back_and_reload_do,
    a_payload_is_edited_and_replayed_once,
    a_letter_is_reopened_from_its_row,
    ticked_letters_are_ignored_and_the_others_are_not,
    ticked_letters_are_replayed_once_whatever_back_and_reload_do,
    without_a_tick_nothing_happens,
    letters_that_are_found_by_their_payload_are_ticked_and_ignored,
    all_that_match_are_ignored_but_not_what_failed_after_the_preview,
    a_preview_that_is_cancelled_does_nothing,
    a_letter_and_an_error_lead_back_to_the_list_they_came_from,
    a_replay_goes_by_one_ten_and_a_hundred_and_stops_where_events_fail_again,
    the_second_of_two_browsers_sees_who_closed_the_letter_first,
    five_thousand_letters_are_ignored_at_once,
    redacted_content_is_shown_on_request,
    an_action_that_the_database_could_not_do_is_tried_again,
}

/// By the page of the result, and by the one that its button leads to.
async fn letters_that_are_found_by_their_payload_are_ticked_and_ignored(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let mut ids = Vec::new();
    for order in [4711, 4712, 14711] {
        let payload = serde_json::json!({ "order": order });
        ids.push(site.world.insert(NewDeadLetter { payload, ..letter(site.app()) }).await);
    }
    browser.open_list(site, "?size=1").await?;
    browser.unfold("Search in payloads").await?;
    browser.fill("Payload contains", "4711").await?;
    browser.press("Search").await?;
    browser.sees("Earlier letters may contain the text.").await?;
    assert!(browser.driver.source().await?.contains(&ids[2].to_string()));
    browser.press("Search on").await?;
    browser.sees("No earlier letter contains the text.").await?;
    assert!(!browser.address().await?.contains("4711"), "no address has the text");
    browser.tick(&ids[0].to_string()).await?;
    browser.press("Ignore ticked…").await?;
    browser.press("Ignore 1 letter").await?;
    browser.sees("1 letter is ignored:").await?;
    assert_eq!(resolution(site, ids[0]).await, Some(Resolution::Ignored));
    assert_eq!((resolution(site, ids[1]).await, resolution(site, ids[2]).await), (None, None));
    Ok(())
}

async fn resolution(site: &Site, id: dead_letters::DeadLetterId) -> Option<Resolution> {
    site.world.row(id).await.resolution
}

async fn a_letter_is_ignored_from_its_row_and_that_is_undone(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    let other = site.world.insert(NewDeadLetter { source: "parcels".to_owned(), ..letter(site.app()) }).await;
    browser.open("apps").await?;
    browser.press("CRM <b>connector</b>").await?;
    browser.sees("2 of 2").await?;
    browser.fill("Source", "orders").await?;
    browser.press("Filter").await?;
    browser.sees("1 of 1").await?;
    browser.press(&format!("Ignore orders insert {id}")).await?;
    browser.sees("The letter is ignored:").await?;
    browser.sees("No letter matches").await?;
    assert!(browser.address().await?.contains("source=orders"));
    let row = site.world.row(id).await;
    assert_eq!((row.resolution, row.resolved_by.as_deref()), (Some(Resolution::Ignored), Some("ada")));
    assert_eq!(resolution(site, other).await, None);
    browser.press("Undo").await?;
    browser.sees("The letter is unresolved again:").await?;
    browser.sees("1 of 1").await?;
    assert_eq!(resolution(site, id).await, None);
    browser.press("Clear").await?;
    browser.sees("2 of 2").await
}

async fn a_letter_is_resolved_from_its_page_with_a_note_and_reopened(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    browser.open_list(site, "").await?;
    browser.press_first("smtp: 451").await?;
    browser.sees("Failed 5 times").await?;
    browser.fill("Note (optional)", "the provider <i>was</i> down").await?;
    browser.unfold("More actions").await?;
    browser.press("Resolve as handled by script").await?;
    browser.sees("The letter is resolved as handled by script:").await?;
    browser.sees("the provider <i>was</i> down").await?;
    assert!(browser.address().await?.contains(&format!("letters/{id}")));
    assert_eq!(resolution(site, id).await, Some(Resolution::HandledByScript));
    browser.press("Reopen").await?;
    browser.sees("The letter is unresolved again:").await?;
    assert_eq!(resolution(site, id).await, None);
    Ok(())
}

async fn a_letter_is_replayed_once_whatever_back_and_reload_do(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    let event = site.world.row(id).await.original_event_id;
    let letter = format!("apps/{}/letters/{id}", site.app());
    browser.open(&letter).await?;
    browser.press("Replay").await?;
    browser.sees("The letter is replayed").await?;
    browser.driver.refresh().await?;
    browser.sees("Resolved: replayed by ada").await?;
    browser.driver.back().await?;
    browser.driver.refresh().await?;
    browser.sees("Resolved: replayed by ada").await?;
    assert_eq!(site.world.outbox.events(), [event]);
    Ok(())
}

async fn a_letter_is_reopened_from_its_row(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    site.world
        .repo
        .resolve_once(site.app(), id, Resolution::Ignored, &Attribution::by("grace"))
        .await
        .unwrap();
    browser.open_list(site, "").await?;
    browser.sees("Nothing failed").await?;
    browser.press_first("Closed").await?;
    browser.sees("by grace").await?;
    browser.press(&format!("Reopen orders insert {id}")).await?;
    browser.sees("The letter is unresolved again:").await?;
    browser.sees("No letters here").await?;
    assert_eq!(resolution(site, id).await, None);
    browser.press_first("Needs action").await?;
    browser.sees("1 of 1").await
}

async fn a_payload_is_edited_and_replayed_once(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let id = site
        .world
        .insert(NewDeadLetter { payload: serde_json::json!({ "order": 4711 }), ..letter(site.app()) });
    let id = id.await;
    browser.open(&format!("apps/{}/letters/{id}", site.app())).await?;
    browser.press("Edit and replay…").await?;
    browser.fill("JSON", "{\n  \"order\": }").await?;
    browser.press("Review changes").await?;
    browser.sees("must be JSON").await?;
    browser.fill("JSON", "{\n  \"order\": 4712\n}").await?;
    browser.press("Review changes").await?;
    browser.sees("Replay with the edited payload?").await?;
    browser.press("Replay edited").await?;
    browser.sees("with the edited payload").await?;
    browser.sees("Edited payload, put back").await?;
    let edited = site.world.repo.replayed_payload_text(site.app(), id, 0..u64::MAX).await.unwrap();
    assert_eq!((edited.as_deref(), site.world.outbox.events().len()), (Some("{\"order\":4712}"), 1));
    Ok(())
}

async fn ticked_letters_are_ignored_and_the_others_are_not(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let ids = [site.world.letter().await, site.world.letter().await, site.world.letter().await];
    browser.open_list(site, "").await?;
    browser.tick(&ids[0].to_string()).await?;
    browser.tick(&ids[2].to_string()).await?;
    browser.press("Ignore ticked…").await?;
    browser.sees("Ignore 2 letters?").await?;
    browser.press("Ignore 2 letters").await?;
    browser.sees("2 letters are ignored:").await?;
    for (id, is_ignored) in [(ids[0], true), (ids[1], false), (ids[2], true)] {
        assert_eq!(resolution(site, id).await, is_ignored.then_some(Resolution::Ignored));
    }
    Ok(())
}

async fn ticked_letters_are_replayed_once_whatever_back_and_reload_do(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let ids = [site.world.letter().await, site.world.letter().await, site.world.letter().await];
    browser.open_list(site, "").await?;
    browser.tick(&ids[0].to_string()).await?;
    browser.tick(&ids[2].to_string()).await?;
    browser.press("Replay ticked…").await?;
    browser.sees("Replay 2 letters?").await?;
    browser.fill("Note (optional)", "the provider is back").await?;
    browser.press("Replay all 2").await?;
    browser.sees("Replayed 2 of 2").await?;
    browser.driver.refresh().await?;
    browser.sees("Replayed 2 of 2").await?;
    // The preview, as it was.
    browser.driver.back().await?;
    browser.press("Replay all 2").await?;
    browser.sees("This step was done already").await?;
    browser.press("The result of the run").await?;
    browser.sees("Replayed 2 of 2").await?;
    assert_eq!(site.world.outbox.events().len(), 2);
    for (id, is_replayed) in [(ids[0], true), (ids[1], false), (ids[2], true)] {
        let row = site.world.row(id).await;
        assert_eq!(row.resolution, is_replayed.then_some(Resolution::Replayed));
        assert_eq!(row.resolution_note.as_deref(), is_replayed.then_some("the provider is back"));
    }
    browser.press("Back to the list").await?;
    browser.sees("1 of 1").await
}

async fn without_a_tick_nothing_happens(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    browser.open_list(site, "").await?;
    browser.press("Replay ticked…").await?;
    browser.sees("o letter is ticked").await?;
    assert_eq!(resolution(site, id).await, None);
    assert!(site.world.outbox.events().is_empty());
    Ok(())
}

async fn all_that_match_are_ignored_but_not_what_failed_after_the_preview(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let ids = [site.world.letter().await, site.world.letter().await];
    let other = site.world.insert(NewDeadLetter { op: "delete".to_owned(), ..letter(site.app()) }).await;
    browser.open_list(site, "?op=insert").await?;
    browser.press("Ignore all 2…").await?;
    browser.sees("Ignore 2 letters?").await?;
    let later = site.world.letter().await;
    browser.press("Ignore 2 letters").await?;
    browser.sees("2 letters are ignored:").await?;
    for id in ids {
        assert_eq!(resolution(site, id).await, Some(Resolution::Ignored));
    }
    for id in [other, later] {
        assert_eq!(resolution(site, id).await, None);
    }
    browser.sees("1 of 1").await
}

async fn a_preview_that_is_cancelled_does_nothing(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    browser.open_list(site, "?op=insert").await?;
    browser.press("Ignore all 1…").await?;
    browser.sees("Ignore 1 letter?").await?;
    browser.press("Cancel").await?;
    browser.sees("1 of 1").await?;
    assert!(browser.address().await?.ends_with("?op=insert"));
    assert_eq!(resolution(site, id).await, None);
    Ok(())
}

async fn a_letter_and_an_error_lead_back_to_the_list_they_came_from(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    site.world.letter().await;
    browser.open_list(site, "?op=insert&source=").await?;
    browser.press_first("smtp: 451").await?;
    browser.sees("Failed 5 times").await?;
    browser.press("Back to the list").await?;
    browser.sees("1 of 1").await?;
    assert!(browser.address().await?.contains("?op=insert"));
    browser.press("Replay ticked…").await?;
    browser.sees("o letter is ticked").await?;
    browser.press("Back to the list").await?;
    browser.sees("1 of 1").await?;
    assert!(browser.address().await?.contains("?op=insert"));
    Ok(())
}

async fn a_replay_goes_by_one_ten_and_a_hundred_and_stops_where_events_fail_again(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let repo = &site.world.repo;
    repo.insert_many((0..120).map(|_| letter(site.app())).collect()).await.unwrap();
    let replayed = async || site.world.outbox.events().len();
    browser.open_list(site, "").await?;
    browser.press("Replay all 120…").await?;
    browser.sees("Replay 120 letters?").await?;
    browser.press("Replay one first").await?;
    browser.sees("Replayed 1 of 120").await?;
    browser.sees("None failed again so far.").await?;
    browser.press("Replay 10 more").await?;
    browser.sees("Replayed 11 of 120").await?;
    browser.driver.refresh().await?;
    browser.sees("Replayed 11 of 120").await?;
    assert_eq!(replayed().await, 11);

    // The event fails again.
    let original_event_id = site.world.outbox.events()[3];
    repo.insert(NewDeadLetter { original_event_id, ..letter(site.app()) }).await.unwrap();
    browser.press("Replay 100 more").await?;
    browser.sees("Failed again").await?;
    assert_eq!(replayed().await, 11);
    browser.tick("true").await?;
    browser.press("Replay 100 more").await?;
    browser.sees("Replayed 111 of 120").await?;
    browser.tick("true").await?;
    browser.press("Replay 9 more").await?;
    browser.sees("Replayed 120 of 120").await?;
    assert_eq!(replayed().await, 120);
    let left = repo.list(site.app(), &DeadLetterFilter::default(), &Default::default()).await.unwrap().items;
    assert_eq!(left.iter().map(|letter| letter.original_event_id).collect::<Vec<_>>(), [original_event_id]);
    Ok(())
}

async fn the_second_of_two_browsers_sees_who_closed_the_letter_first(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    let letter = format!("apps/{}/letters/{id}", site.app());
    let graces = browser.another().await?;
    browser.open(&letter).await?;
    graces.open_at("/grace", &letter).await?;
    browser.press("Replay").await?;
    browser.sees("The letter is replayed").await?;
    graces.press("Ignore").await?;
    graces.sees("The letter is already closed").await?;
    graces.sees("replayed by ada").await?;
    let at = graces.find(By::Css("main time")).await?.attr("datetime").await?.unwrap_or_default();
    let resolved_at = site.world.row(id).await.resolved_at.map(|at| at.trunc_subsecs(0));
    assert_eq!(at.parse::<DateTime<Utc>>().ok(), resolved_at);
    graces.expect_a_clean_log().await?;
    graces.driver.quit().await?;
    assert_eq!(site.world.outbox.events().len(), 1);
    assert_eq!(resolution(site, id).await, Some(Resolution::Replayed));
    Ok(())
}

async fn five_thousand_letters_are_ignored_at_once(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let repo = &site.world.repo;
    for _ in 0..5 {
        repo.insert_many(vec![letter(site.app()); 1_000]).await.unwrap();
    }
    browser.open_list(site, "").await?;
    browser.press_first("Ignore all").await?;
    browser.sees("Ignore 5,000 letters?").await?;
    browser.press("Ignore 5,000 letters").await?;
    browser.sees("5,000 letters are ignored:").await?;
    assert_eq!(repo.unresolved_count(site.app()).await.unwrap(), 0);
    Ok(())
}

async fn redacted_content_is_shown_on_request(site: &Site, browser: &Browser) -> WebDriverResult<()> {
    let payload = serde_json::json!({ "secret": "4711-0815", "order": 1 });
    let id = site.world.insert(NewDeadLetter { payload, ..letter(site.app()) }).await;
    browser.open(&format!("apps/{}/letters/{id}", site.app())).await?;
    browser.sees("1 field redacted").await?;
    assert!(!browser.text().await?.contains("4711-0815"));
    browser.press("Reveal (audited)").await?;
    browser.sees("4711-0815").await?;
    browser.press("Hide again").await?;
    browser.sees("1 field redacted").await
}

async fn an_action_that_the_database_could_not_do_is_tried_again(
    site: &Site,
    browser: &Browser,
) -> WebDriverResult<()> {
    let id = site.world.letter().await;
    browser.open(&format!("apps/{}/letters/{id}", site.app())).await?;
    site.store.fail(Call::ResolveMatching, .., transient());
    browser.press("Ignore").await?;
    browser.sees("The database is unavailable").await?;
    assert_eq!(resolution(site, id).await, None);
    site.store.recover();
    browser.press("Back to the letter").await?;
    browser.press("Ignore").await?;
    browser.sees("The letter is ignored:").await?;
    assert_eq!(resolution(site, id).await, Some(Resolution::Ignored));
    Ok(())
}
