//! Tests of each page's content and each form's effect, without a browser.

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    path::Path,
    sync::Arc,
};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::{
    ActionRequest, Attribution, DeadLetterDelete, DeadLetterFilter, DeadLetterId, DeadLetterRead,
    DeadLetterReplay, DeadLetterRepo, DeadLetterResolve, DeadLetterRetention, DeadLetterState,
    DeadLetterTransfer, NewDeadLetter, Resolution, Retention, RetentionPolicy, StoredLetter,
    testing::{self, FailingStore, letter, stored_letter},
};
use dead_letters_admin::{Admin, Operator, Right};
use form_urlencoded::Serializer;
use sea_orm::ConnectionTrait;
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    Answer, Client, World, audited, fail_all, let_in, listen, memory, new_app, on_every_backend, time,
};

const FORM: &str = "application/x-www-form-urlencoded";

on_every_backend! {
    the_root_leads_to_the_apps,
    the_apps_are_sorted_by_trouble,
    the_overview_has_the_open_groups_of_all_apps_the_new_and_regressed_ones_first,
    a_group_of_several_apps_stands_where_its_letters_of_all_apps_place_it,
    the_rest_of_a_run_over_two_apps_has_no_letter_that_failed_since_the_preview,
    an_app_stays_on_the_overview_after_its_last_letter_was_closed,
    an_id_is_found_in_all_apps_that_the_operator_may_see,
    a_search_for_an_id_shows_how_far_it_went,
    the_overview_shows_whether_more_groups_exist_and_in_how_many_apps_its_buttons_act,
    more_apps_than_can_be_sorted_are_paged_by_id,
    a_list_has_tabs_with_counts_and_keeps_its_filter,
    the_letters_of_failed_handlers_are_a_tab_and_its_buttons_change_no_others,
    a_lists_address_is_its_query_without_empty_fields,
    the_letters_of_ids_are_those_of_the_state_in_the_address,
    the_first_tab_of_a_run_leads_to_its_letters_that_need_action,
    the_filter_of_the_first_tab_finds_letters_by_who_closed_them,
    a_range_of_the_last_hours_becomes_the_time_at_which_it_begins,
    closed_letters_are_found_by_who_closed_them_and_when,
    a_time_that_the_browsers_input_cannot_show_is_kept_as_text,
    an_invalid_filter_keeps_its_form_and_has_the_problem_at_its_field,
    the_filter_offers_the_sources_and_operations_of_the_app,
    a_source_is_found_by_its_text_or_by_a_part,
    a_time_without_a_zone_stays_in_its_input_beside_another_fields_problem,
    a_text_that_is_no_id_stays_in_the_search_with_its_problem,
    a_list_continues_after_its_last_letter,
    a_list_is_sorted_by_age_or_by_attempts,
    the_orders_of_closed_letters_are_named_by_when_they_were_closed,
    a_list_that_reaches_its_scan_limit_shows_where_it_stopped_and_continues,
    the_views_of_an_app_examine_no_more_letters_than_the_operators_scan_limit,
    the_chart_counts_no_more_letters_than_the_operators_scan_limit,
    an_empty_list_shows_whether_nothing_failed_or_nothing_matches,
    open_letters_that_will_be_swept_within_a_week_are_counted,
    a_letter_shows_after_how_many_replays_its_event_failed_again,
    a_failure_of_the_last_day_is_a_bar_that_leads_to_it,
    a_run_from_the_newest_bar_leaves_a_letter_alone_that_fails_after_its_preview,
    the_newest_bar_keeps_an_end_of_the_filter_that_lies_ahead,
    a_page_of_the_same_letters_is_the_same_bytes,
    a_rows_button_resolves_it_and_returns_to_the_list,
    a_letter_leads_back_to_the_page_that_led_to_it_after_its_actions_too,
    a_run_from_the_overview_or_the_groups_returns_there,
    a_letter_that_was_found_is_deleted_and_leads_back_to_the_search_or_the_run,
    a_run_whose_token_cannot_be_opened_is_shown_by_the_history,
    an_undo_leaves_a_letter_alone_that_others_closed_since,
    an_action_returns_to_a_list_with_a_long_filter_too,
    an_undo_makes_it_unresolved_again,
    a_banner_is_shown_only_to_the_operator_who_acted,
    a_reader_has_no_buttons,
    a_conflict_shows_who_closed_the_letter_and_when,
    ticked_letters_are_previewed_and_no_others,
    a_bulk_run_is_undone_from_its_banner,
    closed_letters_are_reopened_from_their_tab,
    if_some_letters_were_replayed_reopening_asks_which,
    a_run_is_undone_once,
    without_a_tick_nothing_is_previewed,
    all_that_match_are_ignored_and_what_fails_later_is_not,
    a_staged_replay_does_one_then_ten_then_the_rest,
    a_rate_stays_from_step_to_step_and_the_page_shows_when_the_run_ends,
    a_staged_replay_continues_after_an_event_failed_again_only_on_request,
    replays_of_others_do_not_stop_a_run,
    letters_that_were_not_put_back_are_shown_with_the_services_error,
    letters_that_were_not_put_back_are_among_the_rest_that_is_ignored,
    another_operators_run_is_shown_and_not_continued,
    a_run_over_several_apps_has_a_line_for_each_and_is_undone_in_all,
    a_staged_replay_waits_as_long_as_its_letters_took_to_fail,
    a_stage_that_begins_by_itself_does_not_begin_early,
    a_step_that_was_done_already_leads_to_the_result,
    an_old_result_continues_although_the_history_of_the_first_step_was_swept,
    a_count_that_is_capped_counts_rightly,
    a_run_that_is_not_there_is_not_found,
    a_reopened_letter_is_closed_again_by_its_undo,
    an_undo_of_a_reopening_leaves_a_letter_alone_that_changed_since,
    a_reopening_from_a_page_leaves_a_letter_alone_that_others_closed_since,
    a_letter_whose_handler_failed_is_reopened_from_its_page_and_by_the_api,
    a_replayed_letter_is_reopened_after_a_question,
    a_note_of_several_lines_has_as_many_characters_as_its_field_counts,
    a_letter_shows_its_error_its_payload_and_its_earlier_failures,
    a_letter_shows_its_history_and_a_bulk_run_once,
    the_page_of_a_deleted_letter_has_its_history,
    redacted_content_is_revealed_to_operators_with_the_right_and_audited,
    a_letter_shows_its_metadata_as_text_and_leads_to_its_trace,
    redacted_metadata_is_revealed_to_operators_with_the_right_and_audited,
    the_filter_sets_and_shows_keys_of_the_metadata,
    a_large_payload_is_offered_for_download,
    a_payload_that_is_no_json_is_shown_as_text_or_withheld,
    a_payload_is_shown_with_its_kind_and_text_as_text,
    a_regressed_group_is_marked,
    a_group_leads_to_its_own_letters_and_replay_all_there_takes_no_other,
    a_group_leads_to_its_letters_however_long_its_source_is,
    a_group_shows_a_message_beside_its_signature,
    values_that_a_groups_letters_share_are_found_unless_redacted,
    every_link_leads_to_a_page,
    hostile_texts_are_text_on_every_page,
    a_command_stands_on_every_view,
}

// The parts of a page

/// An element's name and attributes, entities left as they are.
type Tag = (String, Vec<(String, String)>);

/// Returns the tags of HTML as the templates write it: attributes have quotes or no value.
fn tags(html: &str) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if !rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let name_ends = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap();
        let name = rest[..name_ends].to_owned();
        rest = &rest[name_ends..];
        let mut attributes = Vec::new();
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
            if let Some(behind) = rest.strip_prefix('>') {
                rest = behind;
                break;
            }
            let ends = rest.find(|c: char| c.is_whitespace() || "=>/".contains(c)).unwrap();
            assert!(ends > 0, "an attribute of <{name}> has no name: {}", &rest[..rest.len().min(80)]);
            let attribute = rest[..ends].to_owned();
            rest = &rest[ends..];
            let mut value = String::new();
            if let Some(quoted) = rest.strip_prefix('=') {
                let quoted = quoted.strip_prefix('"').expect("a value has quotes");
                let ends = quoted.find('"').unwrap();
                value = quoted[..ends].to_owned();
                rest = &quoted[ends + 1..];
            }
            attributes.push((attribute, value));
        }
        tags.push((name, attributes));
    }
    tags
}

/// Returns the parts that the content security policy would block, or would have to be loosened for.
fn violations(html: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (name, attributes) in tags(html) {
        let has = |attribute: &str| attributes.iter().any(|(name, _)| name == attribute);
        if ["style", "base", "object", "embed", "iframe"].contains(&name.as_str()) {
            found.push(format!("<{name}>"));
        }
        if name == "script" && !has("src") {
            found.push("a script without src".to_owned());
        }
        for (attribute, value) in &attributes {
            let is_address = ["href", "src", "action", "formaction"].contains(&attribute.as_str());
            let is_elsewhere = value.contains("//") || value.contains(':') || value.starts_with('/');
            if attribute == "style" || attribute.starts_with("on") || is_address && is_elsewhere {
                found.push(format!("<{name} {attribute}={value:?}>"));
            }
        }
    }
    found
}

#[test]
fn no_template_has_inline_code_or_style_or_another_origins_address() {
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
    let mut seen = 0;
    for file in fs::read_dir(templates).unwrap() {
        let path = file.unwrap().path();
        let template = fs::read_to_string(&path).unwrap();
        assert!(!template.contains("|safe"), "{path:?}");
        let without = |text: String, from: &str, to: &str, put: &str| {
            let mut parts = text.split(from).map(str::to_owned);
            let first = parts.next().unwrap();
            parts.fold(first, |all, part| all + put + part.split_once(to).unwrap().1)
        };
        let html = without(without(template, "{%", "%}", " "), "{{", "}}", "x");
        assert_eq!(violations(&html), [] as [String; 0], "{path:?}");
        seen += 1;
    }
    assert!(seen > 8, "{seen}");
}

#[test]
fn the_style_sheet_and_the_script_fetch_nothing_from_elsewhere() {
    for (asset, forbidden) in [
        ("style.css", &["@import", "url("][..]),
        ("script.js", &["import ", "import(", "eval(", "innerHTML", "http:", "https:"]),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(asset);
        let text = fs::read_to_string(path).unwrap();
        for word in forbidden {
            assert!(!text.contains(word), "{asset}: {word}");
        }
    }
}

/// The parts of a page that a browser shows.
pub(crate) trait Page {
    fn page(&self) -> &str;
    fn shows(&self, text: &str) -> bool;
    fn hidden(&self, name: &str) -> String;
    fn links(&self) -> Vec<String>;
}

impl Page for Answer {
    fn page(&self) -> &str {
        assert_eq!(self.header(header::CONTENT_TYPE), "text/html; charset=utf-8", "{self}");
        self.text()
    }

    /// Without tags, and with one space for any, and between blocks.
    fn shows(&self, text: &str) -> bool {
        const INLINE: [&str; 6] = ["a", "bdi", "code", "span", "strong", "time"];
        let mut shown = String::new();
        for part in self.page().split('<') {
            let (tag, text) = part.split_once('>').unwrap_or(("", part));
            let name = tag.trim_start_matches('/').split_whitespace().next().unwrap_or_default();
            shown.push_str(if INLINE.contains(&name) { "" } else { " " });
            shown.push_str(text);
        }
        decoded(&shown).split_whitespace().collect::<Vec<_>>().join(" ").contains(text)
    }

    /// The first field of the name.
    fn hidden(&self, name: &str) -> String {
        let tags = tags(self.page());
        let value = tags.iter().filter(|tag| tag.0 == "input").find_map(|(_, attributes)| {
            let is_it = attributes.contains(&("name".to_owned(), name.to_owned()));
            attributes.iter().find(|(name, _)| name == "value" && is_it)
        });
        decoded(&value.unwrap_or_else(|| panic!("{name} in {self}")).1)
    }

    fn links(&self) -> Vec<String> {
        let anchors = tags(self.page()).into_iter().filter(|(name, _)| name == "a");
        let links = anchors.flat_map(|(_, attributes)| attributes).filter(|(name, _)| name == "href");
        links.map(|(_, address)| decoded(&address)).collect()
    }
}

fn decoded(text: &str) -> String {
    let entities =
        [("&#34;", "\""), ("&quot;", "\""), ("&#39;", "'"), ("&#60;", "<"), ("&#62;", ">"), ("&#38;", "&")];
    entities.iter().fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character))
}

/// As a browser reckons it.
fn resolved(page: &str, address: &str) -> String {
    if address.starts_with('/') {
        return address.to_owned();
    }
    let path = page.split('?').next().unwrap();
    let mut folders: Vec<_> = path.split('/').collect();
    folders.pop();
    let (way, query) = address.split_once('?').map_or((address, None), |(way, query)| (way, Some(query)));
    for step in way.split('/') {
        match step {
            "." => {}
            ".." => drop(folders.pop()),
            step => folders.push(step),
        }
    }
    let path = folders.join("/");
    query.map_or(path.clone(), |query| format!("{path}?{query}"))
}

fn form(fields: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(fields).finish()
}

impl Client {
    /// Follows a link of this page, whose address the browser sends with the request.
    async fn follow(&self, page: &str, link: &str) -> Answer {
        let request = Request::get(resolved(page, link)).header(header::REFERER, format!("http://x{page}"));
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// Follows redirects, as a browser does.
    async fn open(&self, path: impl AsRef<str>) -> Answer {
        let mut path = path.as_ref().to_owned();
        loop {
            let answer = self.get(&path).await;
            if answer.status != StatusCode::SEE_OTHER {
                return answer;
            }
            path = resolved(&path, answer.location());
        }
    }
}

impl World {
    fn at(&self, rest: &str) -> String {
        format!("/apps/{}{rest}", self.app)
    }

    async fn letters_of(&self, count: usize, source: &str) -> Vec<DeadLetterId> {
        let script_id = None;
        let letters =
            (0..count).map(|_| NewDeadLetter { source: source.to_owned(), script_id, ..letter(self.app) });
        self.repo.insert_many(letters.collect()).await.unwrap()
    }

    /// A form about the world's app.
    fn form(&self, fields: &[(&str, &str)]) -> String {
        form(&[&[("app", &*self.app.to_string())], fields].concat())
    }

    /// Posts a form, and follows the 303.
    async fn act(&self, client: &Client, path: &str, fields: &[(&str, &str)]) -> Answer {
        let answer = client.post_as(path, FORM, form(fields)).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{answer}");
        client.get(resolved(path, answer.location())).await
    }

    /// The same event once more, of which a letter was replayed before.
    async fn fails_again(&self, id: DeadLetterId) -> DeadLetterId {
        let row = self.row(id).await;
        let again = NewDeadLetter { original_event_id: row.original_event_id, ..letter(self.app) };
        self.insert(again).await
    }

    /// The newest bulk run of the app.
    async fn run_id(&self) -> Uuid {
        let actions = self.repo.actions(self.app, &ActionRequest::default()).await.unwrap();
        actions.iter().find_map(|action| action.run_id).unwrap()
    }

    async fn replay(&self, id: DeadLetterId) {
        self.repo.replayer(self.outbox.clone()).replay(self.app, id, &Attribution::by("bob")).await.unwrap();
    }
}

// The overview

async fn the_root_leads_to_the_apps(world: World) {
    let answer = world.client().get("/").await;
    assert_eq!((answer.status, answer.location()), (StatusCode::SEE_OTHER, "./apps"));
}

async fn the_apps_are_sorted_by_trouble(mut world: World) {
    let [many, old] = [new_app(), new_app()];
    let app = world.app;
    for (of, at) in
        [(many, "2026-03-02T10:00:00Z"), (many, "2026-03-03T10:00:00Z"), (old, "2026-03-01T10:00:00Z")]
    {
        world.app = of;
        world.stored(at, |letter| letter).await;
    }
    world.app = app;
    let admin = world.admin_of(Operator::reader("ada"));
    let names = move |app| Some(if app == many { "many" } else { "old" }.to_owned());
    let client = Client::from(admin.app_names(names));
    let place = |answer: &Answer, name: &str| answer.page().find(&format!("<bdi>{name}</bdi></a>")).unwrap();
    let oldest = client.get("/apps").await;
    assert!(place(&oldest, "old") < place(&oldest, "many"));
    let most = client.get("/apps?sort=most").await;
    assert!(place(&most, "many") < place(&most, "old"));
    let wrong = client.get("/apps?sort=worst").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(wrong.shows("\"sort\" must be oldest or most"), "{wrong}");
}

async fn more_apps_than_can_be_sorted_are_paged_by_id(world: World) {
    let letters: Vec<_> = (0..1_001).map(|_| letter(new_app())).collect();
    let mut apps: Vec<_> = letters.iter().map(|letter| letter.app_id).collect();
    apps.sort();
    for letters in letters.chunks(500) {
        world.repo.insert_many(letters.to_vec()).await.unwrap();
    }
    let client = world.client();
    let first = client.get("/apps").await;
    let lists =
        |page: &Answer, app: dead_letters::AppId| page.page().contains(&format!("<bdi>{app}</bdi></a>"));
    assert!(lists(&first, apps[99]) && !lists(&first, apps[100]));
    let next = first.links().into_iter().find(|link| link.contains("after=")).unwrap();
    let second = client.get(resolved("/apps", &next)).await;
    assert!(lists(&second, apps[100]) && !lists(&second, apps[99]));
}

// The list

async fn a_list_has_tabs_with_counts_and_keeps_its_filter(world: World) {
    let orders = world.letters_of(3, "orders").await;
    world.letters_of(2, "it's \"quoted\" & <b>").await;
    world
        .repo
        .resolve_once(world.app, orders[2], Resolution::Ignored, &Attribution::by("bob").note("sold out"))
        .await
        .unwrap();
    world
        .repo
        .resolve_once(world.app, orders[1], Resolution::HandlerFailed, &Attribution::default())
        .await
        .unwrap();
    let client = world.client();
    let tabs = |page: &Answer, counts: [u32; 4]| {
        let names = ["Needs action", "Handler failed", "Closed", "All"];
        for (name, count) in names.into_iter().zip(counts) {
            assert!(page.shows(&format!("{name} {count}")), "{name}: {page}");
        }
        assert_eq!(counts[0] + counts[1] + counts[2], counts[3]);
    };
    let first = client.get(world.at("")).await;
    tabs(&first, [3, 1, 1, 5]);
    assert!(first.shows("3 unresolved, 1 with a failed handler") && first.shows("3 of 3"), "{first}");
    assert!(first.shows("Dead-lettered at"), "{first}");
    let filtered = client.open(world.at("?source=orders&state=any&size=2")).await;
    tabs(&filtered, [1, 1, 1, 3]);
    assert!(filtered.shows("2 of 3") && filtered.shows("ignored") && filtered.shows("by bob"), "{filtered}");
    assert!(filtered.shows("sold out"), "{filtered}");
    let links = filtered.links();
    let tab = links.iter().find(|link| link.contains("resolution=handler_failed")).unwrap();
    assert!(tab.contains("source=orders") && tab.contains("size=2"), "{tab}");
    // Each tab has the letters that it counts, and is the current one of its own page.
    for (query, name) in [
        ("", "Needs action 3"),
        ("?state=open&resolution=handler_failed", "Handler failed 1"),
        ("?state=closed", "Closed 1"),
        ("?state=any", "All 5"),
        ("?state=any&resolution=ignored", "All 5"),
    ] {
        let page = client.get(world.at(query)).await;
        tabs(&page, [3, 1, 1, 5]);
        let tabs = page.page().split_once("aria-label=\"State\"").unwrap().1.split_once("</nav>").unwrap().0;
        let current = tabs.split_once("aria-current=\"page\">").unwrap().1;
        let text = current.replace("<span class=\"pill\">", "");
        assert!(text.starts_with(name), "{query}: {text}");
        assert_eq!(tabs.matches("aria-current").count(), 1);
    }
    let ignored = client.get(world.at("?state=any&resolution=ignored")).await;
    assert!(ignored.shows("1 of 1"), "{ignored}");
    // Nobody resolved the letters that need action.
    for (query, counts) in
        [("?state=any&resolved_by=bob", [3, 0, 1]), ("?resolved_from=2026-01-01T00:00:00Z", [3, 1, 1])]
    {
        let page = client.open(world.at(query)).await;
        for (name, count) in ["Needs action", "Handler failed", "Closed"].into_iter().zip(counts) {
            assert!(page.shows(&format!("{name} {count}")), "{name}: {page}");
        }
        assert!(page.shows(&format!("All {}", counts[1] + counts[2])), "{page}");
    }
    // Open letters are on two tabs.
    let open = client.get(world.at("?state=open")).await;
    assert!(open.shows("4 of 4"), "{open}");
    let quoted = client.open(world.at("?source=it%27s+%22quoted%22+%26+%3Cb%3E")).await;
    assert!(quoted.shows("2 of 2"));
    assert_eq!(quoted.hidden("source"), "it's \"quoted\" & <b>");
}

async fn the_letters_of_failed_handlers_are_a_tab_and_its_buttons_change_no_others(world: World) {
    let ids = world.letters_of(3, "orders").await;
    for id in &ids[..2] {
        let by = Attribution::default();
        world.repo.resolve_once(world.app, *id, Resolution::HandlerFailed, &by).await.unwrap();
    }
    let client = world.client();
    let page = client.get(world.at("")).await;
    assert!(page.shows("Ignore all 1…"), "{page}");
    let tab = page.links().into_iter().find(|link| link.contains("resolution=handler_failed")).unwrap();
    world.repo.resolve_once(world.app, ids[2], Resolution::Ignored, &Attribution::default()).await.unwrap();
    let empty = client.get(world.at("")).await;
    assert!(empty.shows("No letters here") && !empty.shows("Nothing failed"), "{empty}");
    world.repo.reopen(world.app, ids[2], &Attribution::default()).await.unwrap();
    let page = client.get(resolved(&world.at(""), &tab)).await;
    assert!(page.shows("Ignore all 2…") && page.shows("2 of 2"), "{page}");
    // Whatever else the form filters by, it stays on the tab.
    assert_eq!((page.hidden("state"), page.hidden("resolution")), ("open".into(), "handler_failed".into()));
    let (filter, back) = (page.hidden("filter"), page.hidden("back"));
    let app = page.hidden("app");
    let fields = [("app", &*app), ("filter", &*filter), ("back", &*back), ("action", "ignored")];
    let preview = client.post_as("/bulk/preview", FORM, form(&fields)).await;
    assert!(preview.shows("Ignore 2 letters?"), "{preview}");
    let fields = [("token", &*preview.hidden("token")), ("back", &*back)];
    let page = world.act(&client, "/bulk/run", &fields).await;
    assert!(page.shows("2 letters are ignored:") && page.shows("Handler failed 0"), "{page}");
    assert_eq!(world.row(ids[2]).await.resolution, None);
}

async fn a_lists_address_is_its_query_without_empty_fields(world: World) {
    let id = world.letters_of(1, "orders").await[0];
    let client = world.client();
    let sent = "state=unresolved&op=&source=+orders+&error_contains=&created_from=2026-03-01T10%3A00&size=50\
                &metadata_key=&metadata_value=";
    let short = "source=orders&created_from=2026-03-01T10%3A00%3A00Z";
    for view in ["", "/groups"] {
        let answer = client.get(world.at(&format!("{view}?{sent}"))).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{answer}");
        let address = resolved(&world.at(view), answer.location());
        assert_eq!(address, world.at(&format!("{view}?{short}")));
        assert_eq!(client.get(&address).await.status, StatusCode::OK);
    }
    let shares = client.get(world.at("/groups?source=&shares=true")).await;
    assert_eq!(resolved(&world.at("/groups"), shares.location()), world.at("/groups?shares=true"));
    // The banner of an action stays.
    let path = world.at(&format!("/letters/{id}/resolve"));
    let told = client.post_as(&path, FORM, form(&[("resolution", "ignored")])).await;
    let banner = resolved(&path, told.location()).split_once("banner=").unwrap().1.to_owned();
    let page = client.open(world.at(&format!("?op=&banner={banner}"))).await;
    assert!(page.shows("Done. The letter is ignored:"), "{page}");
}

async fn the_letters_of_ids_are_those_of_the_state_in_the_address(world: World) {
    let ids = world.letters_of(2, "orders").await;
    world.repo.resolve(ids[1], "ignored").await.unwrap();
    let client = world.client();
    let page = client.open(world.at(&format!("?state=unresolved&ids={},{}", ids[0], ids[1]))).await;
    let has_row = |id: DeadLetterId| page.page().contains(&format!("id=\"{id}\""));
    assert!(has_row(ids[0]) && !has_row(ids[1]), "{page}");
}

async fn the_first_tab_of_a_run_leads_to_its_letters_that_need_action(world: World) {
    let ids = world.letters_of(2, "orders").await;
    let by = Attribution::by("ada").run_id(Uuid::now_v7());
    let all = DeadLetterFilter::default().ids(ids.clone());
    world.repo.resolve_matching(world.app, &all, Resolution::Ignored, &by, 2).await.unwrap();
    let client = world.client();
    let of_run = client.get(world.at(&format!("?run_id={}", by.run_id.unwrap()))).await;
    assert!(of_run.shows("2 of 2"), "{of_run}");
    let tab = client.get(link_of_tab(&of_run, &world.at(""))).await;
    assert!(tab.page().contains("aria-current=\"page\">Needs action"), "{tab}");
    assert!(!tab.page().contains(&format!("id=\"{}\"", ids[0])), "{tab}");
}

async fn the_filter_of_the_first_tab_finds_letters_by_who_closed_them(world: World) {
    let id = world.letters_of(2, "orders").await[0];
    let by = Attribution::by("bob");
    world.repo.resolve_once(world.app, id, Resolution::Ignored, &by).await.unwrap();
    let client = world.client();
    let list = client.get(world.at("")).await;
    let filter = list.page().split_once("aria-label=\"Filter\">").unwrap().1.split_once("</form>").unwrap().0;
    let inputs = tags(filter).into_iter().filter(|(tag, _)| tag == "input");
    let fields = inputs.filter_map(|(_, attributes)| {
        let value = |wanted: &str| Some(decoded(&attributes.iter().find(|(name, _)| name == wanted)?.1));
        let name = value("name")?;
        let value = if name == "resolved_by" { Some("bob".to_owned()) } else { value("value") };
        Some((name, value.unwrap_or_default()))
    });
    let sent = Serializer::new(String::new()).extend_pairs(fields).finish();
    assert!(sent.contains("resolved_by=bob"), "{sent}");
    let found = client.open(world.at(&format!("?{sent}"))).await;
    assert!(found.shows("1 of 1") && found.shows("by bob"), "{found}");
}

async fn a_range_of_the_last_hours_becomes_the_time_at_which_it_begins(world: World) {
    world.stored("2026-03-01T10:00:00Z", |letter| letter).await;
    world.letter().await;
    let client = world.client();
    let ranges = [("15m", 15), ("1h", 60), ("24h", 24 * 60), ("7d", 7 * 24 * 60)];
    for (view, (range, minutes)) in
        ["", "/groups"].into_iter().flat_map(|view| ranges.map(|range| (view, range)))
    {
        let sent = world.at(&format!("{view}?source=&created_before=2026-03-01T10%3A00&within={range}"));
        let before = chrono::Utc::now();
        let answer = client.get(&sent).await;
        let address = resolved(&sent, answer.location());
        let query = address.split_once('?').unwrap().1;
        let (name, time) = query.split_once('=').unwrap();
        assert_eq!(name, "created_from", "{address}");
        let time: chrono::DateTime<chrono::Utc> = time.replace("%3A", ":").parse().unwrap();
        let length = (before - time).num_seconds();
        assert!(((minutes - 1) * 60..=(minutes + 1) * 60).contains(&length), "{length} seconds");
        let page = client.get(&address).await;
        assert!(page.shows("Needs action 1") && page.shows("Dead-lettered from (UTC)"), "{page}");
        // The browser's input for times has no zone.
        assert_eq!(page.hidden("created_from").len(), "2026-03-01T10:00:00".len());
        let wrong = client.get(world.at(&format!("{view}?within=2h"))).await;
        assert!(
            wrong.status == StatusCode::BAD_REQUEST && wrong.shows("\"within\" must be 15m, 1h, 24h or 7d"),
            "{wrong}"
        );
    }
    let closed = client.get(world.at("?state=closed&within=1h")).await;
    assert!(closed.location().contains("state=closed&resolved_from="), "{closed}");
    // No letter that needs action was closed in a range.
    let closed = client.get(resolved(&world.at(""), closed.location())).await;
    assert!(closed.shows("Needs action 2") && closed.shows("Closed 0"), "{closed}");
    assert!(client.get(link_of_tab(&closed, &world.at(""))).await.shows("2 of 2"));
}

async fn closed_letters_are_found_by_who_closed_them_and_when(world: World) {
    let by_ada = |letter| StoredLetter {
        resolved_at: Some(time("2026-03-01T11:00:00Z")),
        resolved_by: Some("ada".to_owned()),
        resolution: Some("ignored".to_owned()),
        ..letter
    };
    world.stored("2026-03-01T10:00:00Z", by_ada).await;
    let ids = world.letters_of(2, "orders").await;
    for (id, name) in ids.iter().zip(["ada", "bob"]) {
        world.repo.resolve_once(world.app, *id, Resolution::Ignored, &Attribution::by(name)).await.unwrap();
    }
    let client = world.client();
    for (query, count) in [
        ("?state=closed", 3),
        ("?state=closed&resolved_by=ada", 2),
        ("?state=closed&resolved_by=ada&within=1h", 1),
    ] {
        let page = client.open(world.at(query)).await;
        assert!(page.shows(&format!("{count} of {count}")), "{query}: {page}");
    }
}

/// Returns where the first tab leads.
fn link_of_tab(page: &Answer, at: &str) -> String {
    let tabs = page.page().split_once("class=\"tabs\"").unwrap().1;
    resolved(at, &decoded(tabs.split_once("href=\"").unwrap().1.split_once('"').unwrap().0))
}

async fn a_time_that_the_browsers_input_cannot_show_is_kept_as_text(world: World) {
    let client = world.client();
    for (time, is_text) in [
        ("2026-03-01T10:00:00Z", false),
        ("2026-03-01T10:00:00.123Z", false),
        ("2026-03-01T10:00:00.123456Z", true),
        ("%2B10000-01-01T00:00:00Z", true),
    ] {
        let page = client.open(world.at(&format!("?created_before={time}"))).await;
        let is_kept = page.hidden("created_before") == time.replace("%2B", "+");
        assert_eq!(is_kept, is_text, "{page}");
    }
}

async fn an_invalid_filter_keeps_its_form_and_has_the_problem_at_its_field(world: World) {
    let id = world.letters_of(1, "orders").await[0];
    let client = world.client();
    for (query, id_of_field, problem) in [
        ("source=orders&created_from=yesterday", "created_from", "Must be a time in RFC 3339"),
        ("source=orders&run_id=7", "run_id", "Must be a uuid."),
        ("source=orders&size=many", "size", "Must be a whole number"),
        // The store refuses it.
        ("source=orders&size=501", "size", "`page.size` must be between 1 and 500 (got 501)."),
        ("source=orders&state=closed&resolution=lost", "resolution", "Must be replayed, ignored"),
        ("source=orders&metadata_key=tenant", "metadata_value", "Is missing"),
    ] {
        let page = client.open(world.at(&format!("?{query}"))).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{page}");
        assert!(page.shows(problem) && page.shows("No letters are shown."), "{query}: {page}");
        assert_eq!(page.hidden("source"), "orders");
        let attributes = format!("aria-invalid=\"true\" aria-describedby=\"{id_of_field}-error\"");
        assert!(page.page().contains(&attributes), "{query}: {page}");
        assert!(page.page().contains(&format!("id=\"{id_of_field}-error\"")), "{query}: {page}");
        assert!(!page.page().contains(&id.to_string()), "{page}");
    }
    let page = client.open(world.at("/groups?created_from=yesterday&op=insert")).await;
    assert_eq!((page.hidden("created_from"), page.hidden("op")), ("yesterday".into(), "insert".into()));
    // A field without an input is not sent again.
    let page = client.open(world.at("?sauce=x&source=orders")).await;
    assert!(
        page.status == StatusCode::BAD_REQUEST && page.shows("\"sauce\" is not a field of a filter or page."),
        "{page}"
    );
    assert!(!page.page().contains("name=\"sauce\""), "{page}");
}

async fn the_filter_offers_the_sources_and_operations_of_the_app(world: World) {
    let ids = world.letters_of(2, "orders").await;
    let op = world.row(ids[0]).await.op;
    world.letters_of(1, "it's \"quoted\"").await;
    world.letters_of(1, " blanks ").await;
    let client = world.client();
    for path in [world.at(""), world.at("?source=none"), world.at("/groups")] {
        let page = client.get(&path).await;
        let list = page.page().split_once("<datalist id=\"sources\">").unwrap().1;
        let offered = decoded(list.split_once("</datalist>").unwrap().0);
        let options = "<option value=\"it's \"quoted\"\"><option value=\"orders\">";
        assert_eq!(offered, options, "{path}");
        let ops =
            page.page().split_once("<datalist id=\"ops\">").unwrap().1.split_once("</datalist>").unwrap().0;
        assert_eq!(ops, format!("<option value=\"{op}\">"), "{path}");
        assert!(page.page().contains("list=\"sources\"") && page.page().contains("list=\"ops\""), "{page}");
        assert!(page.shows("Error contains (any case)"), "{page}");
    }
}

async fn a_source_is_found_by_its_text_or_by_a_part(world: World) {
    world.letters_of(1, "orders").await;
    world.letters_of(1, "orders-eu").await;
    let client = world.client();
    for (by, count, address) in [("is", 1, "?source=orders"), ("contains", 2, "?source_contains=orders")] {
        let answer = client.get(world.at(&format!("?source=orders&source_by={by}&op=&op_by=is"))).await;
        assert_eq!(resolved(&world.at(""), answer.location()), world.at(address));
        let page = client.get(world.at(address)).await;
        assert!(page.shows(&format!("{count} of {count}")), "{page}");
        assert_eq!(page.hidden("source"), "orders");
        let chosen =
            format!("<option value=\"contains\"{}>", if by == "contains" { " selected" } else { "" });
        let select =
            page.page().split_once("name=\"source_by\"").unwrap().1.split_once("</select>").unwrap().0;
        assert!(select.contains(&chosen), "{page}");
    }
    // The form sends both, if an address has both.
    let both = client.get(world.at("?source=orders&source_contains=ord")).await;
    assert_eq!((both.hidden("source"), both.hidden("source_contains")), ("orders".into(), "ord".into()));
    let unknown = client.get(world.at("?source=orders&source_by=like")).await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST, "{unknown}");
    let long = "x".repeat(1_500);
    let page = client.get(world.at(&format!("?source={long}&source_by=contains"))).await;
    assert!(
        page.page().contains("id=\"source-error\"") && page.shows("Is too long for an address"),
        "{page}"
    );
}

async fn a_time_without_a_zone_stays_in_its_input_beside_another_fields_problem(world: World) {
    world.letter().await;
    let page = world.client().get(world.at("?created_from=2026-03-01T10:00&size=many")).await;
    assert!(page.status == StatusCode::BAD_REQUEST && page.shows("Dead-lettered from (UTC)"), "{page}");
    let range = page.page().split_once("id=\"custom\"").unwrap().1;
    assert!(range.starts_with(" open"), "{page}");
    assert!(range.contains("value=\"2026-03-01T10:00:00\" type=\"datetime-local\""), "{page}");
}

async fn a_text_that_is_no_id_stays_in_the_search_with_its_problem(world: World) {
    let page = world.client().get("/find?id=+no-id+").await;
    assert_eq!((page.status, page.hidden("id")), (StatusCode::BAD_REQUEST, "no-id".into()), "{page}");
    assert!(page.page().contains("aria-invalid=\"true\" aria-describedby=\"find-error\""), "{page}");
    assert!(page.page().contains("id=\"find-error\""), "{page}");
    let none = world.client().get(format!("/find?id={}", Uuid::nil())).await;
    assert!(none.hidden("id") == Uuid::nil().to_string() && !none.page().contains("aria-invalid"), "{none}");
}

async fn the_orders_of_closed_letters_are_named_by_when_they_were_closed(world: World) {
    // The letter that failed first was closed last.
    let closed = |at: &'static str| {
        move |letter| StoredLetter {
            resolved_at: Some(time(at)),
            resolution: Some("ignored".to_owned()),
            ..letter
        }
    };
    let ids = [
        world.stored("2026-03-01T10:00:00Z", closed("2026-03-01T13:00:00Z")).await,
        world.stored("2026-03-01T11:00:00Z", closed("2026-03-01T12:00:00Z")).await,
    ];
    let client = world.client();
    let page = client.get(world.at("?state=closed")).await;
    let place = |page: &Answer, id: DeadLetterId| page.page().find(&format!("id=\"{id}\"")).unwrap();
    assert!(place(&page, ids[0]) < place(&page, ids[1]), "{page}");
    assert!(page.shows("Last closed first") && !page.shows("Newest first"), "{page}");
    let first = client.get(link_of(&page, &world.at(""), "First closed first")).await;
    assert!(place(&first, ids[1]) < place(&first, ids[0]), "{first}");
}

async fn a_list_continues_after_its_last_letter(world: World) {
    let ids = world.letters_of(3, "orders").await;
    let client = world.client();
    let first = client.open(world.at("?size=2")).await;
    assert!(!first.page().contains(&ids[0].to_string()) && first.shows("Older"));
    assert!(!first.page().contains(">Newest</a>"), "{first}");
    let older = first.links().into_iter().find(|link| link.contains("after=")).unwrap();
    let second = client.get(resolved(&world.at(""), &older)).await;
    assert!(second.page().contains(&ids[0].to_string()) && !second.page().contains(&ids[1].to_string()));
    assert!(second.page().contains(">Newest</a>") && !second.shows("Older"), "{second}");
    // A cursor of another list.
    let wrong = client.open(resolved(&world.at(""), &older).replace("?", "?op=insert&")).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(wrong.shows("The cursor is damaged, or belongs to another app, filter or order"), "{wrong}");
}

async fn a_list_is_sorted_by_age_or_by_attempts(world: World) {
    let mut ids = Vec::new();
    for (minute, attempt_count) in [(1, 9), (2, 1), (3, 4), (4, 2)] {
        let at = format!("2026-03-01T10:0{minute}:00Z");
        ids.push(world.stored(&at, |letter| StoredLetter { attempt_count, ..letter }).await.to_string());
    }
    let client = world.client();
    let order = |page: &Answer| {
        let mut shown: Vec<_> = (0..ids.len()).collect();
        let place = |n: &usize| page.page().find(&format!("id=\"{}\"", ids[*n]));
        shown.retain(|n| place(n).is_some());
        shown.sort_by_key(place);
        shown
    };
    let link = |page: &Answer, part: &str| {
        let link = page.links().into_iter().find(|link| link.contains(part));
        resolved(&world.at(""), &link.unwrap_or_else(|| panic!("{part} in {page}")))
    };
    let newest = client.get(world.at("?size=3")).await;
    assert_eq!(order(&newest), [3, 2, 1]);
    assert!(
        newest.shows("Older") && newest.page().contains("aria-current=\"true\">Newest first<"),
        "{newest}"
    );
    let oldest = client.get(link(&newest, "sort=oldest&size=3")).await;
    assert_eq!(order(&oldest), [0, 1, 2]);
    assert!(
        oldest.shows("Newer") && oldest.page().contains("aria-current=\"true\">Oldest first<"),
        "{oldest}"
    );
    // The form and the tabs keep the order, and the next page has it.
    assert_eq!(oldest.hidden("sort"), "oldest");
    let rest = client.get(link(&oldest, "after=")).await;
    assert_eq!(order(&rest), [3]);
    let most = client.get(link(&newest, "sort=most_attempts")).await;
    assert_eq!(order(&most), [0, 2, 3]);
    assert!(most.shows("Sorted among all letters that match.") && !most.shows("Older"), "{most}");
    let some = client.open(world.at("?sort=most_attempts&scan_limit=3")).await;
    assert_eq!(order(&some), [2, 3, 1]);
    assert!(some.shows("back to 1 Mar 2026, 10:02 UTC. Earlier letters may have more attempts."), "{some}");
    let wrong = client.get(world.at("?sort=worst")).await;
    assert!(wrong.shows("\"sort\" must be newest, oldest or most_attempts."), "{wrong}");
}

async fn a_list_that_reaches_its_scan_limit_shows_where_it_stopped_and_continues(world: World) {
    world.stored("2026-03-01T10:00:00Z", |letter| StoredLetter { source: "rare".into(), ..letter }).await;
    for minute in 1..=3 {
        world.stored(&format!("2026-03-01T10:0{minute}:00Z"), |letter| letter).await;
    }
    let client = world.client();
    let first = client.open(world.at("?source=rare&scan_limit=2")).await;
    assert!(first.shows("No letter matches so far") && first.shows("Scanned back to 1 Mar 2026, 10:02 UTC"));
    assert!(first.shows("Continue") && !first.shows("Older"));
    let on = first.links().into_iter().find(|link| link.contains("after=")).unwrap();
    let second = client.get(resolved(&world.at(""), &on)).await;
    assert!(second.shows("1 of") && second.shows("rare insert"), "{second}");
}

async fn the_views_of_an_app_examine_no_more_letters_than_the_operators_scan_limit(world: World) {
    for _ in 0..2 {
        let rare = |letter| StoredLetter { source: "rare".into(), script_id: None, ..letter };
        world.stored("2026-03-01T10:00:00Z", rare).await;
    }
    for minute in 1..=3 {
        world.stored(&format!("2026-03-01T10:0{minute}:00Z"), |letter| letter).await;
    }
    let few = Client::from(world.admin_of(Operator::reader("bob").scan_limit(2)));
    let shared = "In the payloads of the newest 2 letters";
    for (client, is_found) in [(world.client(), true), (few, false)] {
        for view in ["?source=rare", "/groups?source=rare"] {
            let page = client.get(world.at(view)).await;
            assert_eq!(page.shows("rare insert"), is_found, "{page}");
            assert_eq!(page.shows("Needs action 2"), is_found, "{page}");
            assert_eq!(page.shows("Needs action 0+"), !is_found, "{page}");
            assert_eq!(page.shows("Scanned back to 1 Mar 2026, 10:02 UTC"), !is_found, "{page}");
        }
        let shares = client.get(world.at("/groups?source=rare&shares=true")).await;
        assert_eq!(shares.shows(shared), is_found, "{shares}");
        // The form offers the sources of the letters that were examined.
        let list = client.get(world.at("")).await;
        assert_eq!(list.page().contains("<option value=\"rare\">"), is_found, "{list}");
    }
}

async fn the_chart_counts_no_more_letters_than_the_operators_scan_limit(world: World) {
    world.letters_of(3, "orders").await;
    let few = Client::from(world.admin_of(Operator::reader("bob").scan_limit(2)));
    let page = few.get(world.at("")).await;
    assert!(page.shows("2+ letters failed") && page.shows("counted back to"), "{page}");
}

async fn an_empty_list_shows_whether_nothing_failed_or_nothing_matches(world: World) {
    let client = world.client();
    let unknown = client.get(world.at("")).await;
    assert!(unknown.shows("No app with this id has letters") && !unknown.shows("Nothing failed"));
    let named = world.admin_of(Operator::full("ada")).app_names(|_| Some("CRM".to_owned()));
    let well = Client::from(named).get(world.at("")).await;
    assert!(well.shows("Nothing failed") && !well.shows("No letter matches"));
    let id = world.letter().await;
    let closed = client.open(world.at("?state=closed")).await;
    assert!(closed.shows("No letters here") && !closed.shows("No letter matches"));
    let none = client.open(world.at("?source=none&state=open")).await;
    assert!(none.shows("No letter matches") && !none.shows("Nothing failed"));
    let clear = none.links().into_iter().find(|link| link.ends_with("?state=open")).unwrap();
    assert!(client.get(resolved(&world.at(""), &clear)).await.shows("1 of 1"));
    // The last letter of the first page is resolved before the second page is read.
    world.letter().await;
    let first = client.open(world.at("?size=1")).await;
    let older = first.links().into_iter().find(|link| link.contains("after=")).unwrap();
    world.repo.resolve(id, "ignored").await.unwrap();
    let behind = client.get(resolved(&world.at(""), &older)).await;
    assert!(behind.shows("No letters here") && !behind.shows("Nothing failed"), "{behind}");
}

async fn open_letters_that_will_be_swept_within_a_week_are_counted(world: World) {
    let days = |days: u64| std::time::Duration::from_secs(days * 24 * 60 * 60);
    let now = chrono::Utc::now();
    for age in [days(84), days(85), days(1)] {
        world.stored(&(now - age).to_rfc3339(), |letter| letter).await;
    }
    let others = Retention::default().delete_all_after(days(90));
    let policy = RetentionPolicy::new(others);
    let client = Client::from(world.admin_of(Operator::reader("ada")).retention(policy));
    let overview = client.get("/apps").await;
    assert!(overview.shows("2 will be "), "{overview}");
    let those = link_of(&overview, "/apps", "Letters will be deleted within 7 days");
    assert!(client.get(those).await.shows("2 of 2"));
    let oldest = overview.links().into_iter().find(|link| link.contains("state=open&sort=oldest")).unwrap();
    assert!(client.get(resolved("/apps", &oldest)).await.shows("3 of 3"), "{oldest}");
    for path in [world.at(""), world.at("/groups")] {
        let page = client.get(&path).await;
        assert!(page.shows("2 will be deleted within 7 days"), "{path}: {page}");
        // The letters that are meant, and the oldest of all.
        let link = page.links().into_iter().find(|link| link.contains("created_before=")).unwrap();
        assert!(client.get(resolved(&path, &link)).await.shows("2 of 2"), "{link}");
        let link = page.links().into_iter().find(|link| link.contains("state=open&sort=oldest")).unwrap();
        assert!(client.get(resolved(&path, &link)).await.shows("3 of 3"), "{link}");
    }
}

async fn a_letter_shows_after_how_many_replays_its_event_failed_again(world: World) {
    let first = world.letter().await;
    world.replay(first).await;
    let second = world.fails_again(first).await;
    let client = world.client();
    assert!(client.get(world.at("")).await.shows("Failed again after 1 replay"));
    world.replay(second).await;
    let third = world.fails_again(first).await;
    assert!(client.get(world.at("")).await.shows("Failed again after 2 replays"));
    let page = client.get(world.at(&format!("/letters/{third}"))).await;
    assert!(page.shows("Failed again after 2 replays") && page.shows("Earlier failures of this event"));
    for earlier in [first, second] {
        assert!(page.links().iter().any(|link| link.ends_with(&earlier.to_string())), "{page}");
    }
}

async fn a_failure_of_the_last_day_is_a_bar_that_leads_to_it(world: World) {
    let id = world.letter().await;
    world.stored("2026-03-01T10:00:00Z", |letter| letter).await;
    let client = world.client();
    let page = client.get(world.at("")).await;
    assert!(page.shows("1 letter failed, up to 1 in 15 minutes."), "{page}");
    let bars: Vec<_> = page.links().into_iter().filter(|link| link.contains("created_from=")).collect();
    // The bar, and its hour in the table.
    assert_eq!(bars.len(), 2);
    assert!(page.shows("Failures by hour"), "{page}");
    for bar in bars {
        let letters = client.get(resolved(&world.at(""), &bar)).await;
        assert!(letters.shows("1 of 1") && letters.page().contains(&id.to_string()), "{letters}");
    }
}

/// Returns the links of the bar and of the hour in the chart of a list.
fn links_of_chart(page: &Answer) -> Vec<String> {
    let links: Vec<_> = page.links().into_iter().filter(|link| link.contains("created_from=")).collect();
    assert_eq!(links.len(), 2, "{page}");
    links
}

async fn a_run_from_the_newest_bar_leaves_a_letter_alone_that_fails_after_its_preview(world: World) {
    let client = world.client();
    let mut letters = world.letters_of(2, "orders").await;
    for link in links_of_chart(&client.get(world.at("")).await) {
        let list = client.get(resolved(&world.at(""), &link)).await;
        let open = client.get(link_of_tab(&list, &world.at(""))).await;
        let (filter, back) = (open.hidden("filter"), open.hidden("back"));
        let fields = [("filter", &*filter), ("back", &*back), ("action", "ignored")];
        let preview = client.post_as("/bulk/preview", FORM, world.form(&fields)).await;
        assert!(preview.shows("Ignore 2 letters?"), "{preview}");
        // Another operator closes a counted letter, so the run could take one more.
        world.repo.resolve(letters[0], "ignored").await.unwrap();
        let later = world.letters_of(1, "orders").await[0];
        client.post_as("/bulk/run", FORM, form(&[("token", &preview.hidden("token"))])).await;
        assert_eq!(world.row(letters[1]).await.resolution, Some(Resolution::Ignored));
        assert_eq!(world.row(later).await.resolution, None);
        letters = vec![later, world.letters_of(1, "orders").await[0]];
    }
}

async fn the_newest_bar_keeps_an_end_of_the_filter_that_lies_ahead(world: World) {
    world.letter().await;
    let page = world.client().get(world.at("?created_before=2099-01-01T00%3A00%3A00Z")).await;
    for link in links_of_chart(&page) {
        assert!(link.contains("created_before=2099-01-01"), "{link}");
    }
}

async fn a_page_of_the_same_letters_is_the_same_bytes(world: World) {
    world.letters_of(3, "orders").await;
    let client = world.client();
    for path in ["/apps".to_owned(), world.at(""), world.at("/groups")] {
        let first = client.get(&path).await;
        assert_eq!(
            (first.status, client.get(&path).await.body),
            (StatusCode::OK, first.body.clone()),
            "{path}"
        );
        assert!(first.header(header::ETAG).starts_with("W/"), "{first}");
    }
}

// One letter's actions

async fn a_rows_button_resolves_it_and_returns_to_the_list(world: World) {
    let ids = world.letters_of(2, "orders").await;
    let client = world.client();
    let path = world.at(&format!("/letters/{}/resolve", ids[0]));
    let list = client.open(world.at("?source=orders")).await;
    let back = list.hidden("back");
    // The form sends what else is ticked as well, which is not meant.
    let ticked = ids[1].to_string();
    let fields = [
        ("back", back.as_str()),
        ("state", "open"),
        ("ids", "\"\""),
        ("ids", &ticked),
        ("resolution", "ignored"),
    ];
    let page = world.act(&client, &path, &fields).await;
    assert!(page.shows("Done. The letter is ignored:") && page.shows("1 of 1"), "{page}");
    assert_eq!(page.hidden("source"), "orders");
    let row = world.row(ids[0]).await;
    assert_eq!((row.resolution, row.resolved_by.as_deref()), (Some(Resolution::Ignored), Some("ada")));
    assert_eq!(world.row(ids[1]).await.resolution, None);
}

/// Returns where the link of this text leads.
fn link_of(page: &Answer, at: &str, text: &str) -> String {
    let before =
        page.page().split_once(&format!(">{text}</a>")).unwrap_or_else(|| panic!("{text}: {page}")).0;
    let link = before.rsplit_once("href=\"").unwrap().1;
    resolved(at, &decoded(link.split_once('"').unwrap().0))
}

async fn a_letter_leads_back_to_the_page_that_led_to_it_after_its_actions_too(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let event = world.row(id).await.original_event_id;
    let letter = world.at(&format!("/letters/{id}"));
    for (page, text) in [
        (world.at("?source=orders&size=20"), "Back to the list"),
        (world.at("/groups?source=orders"), "Back to the groups"),
        ("/apps?sort=most".to_owned(), "Back to the overview"),
        (format!("/find?id={event}"), "Back to the search"),
    ] {
        let shown = client.follow(&page, &format!("/apps/{}/letters/{id}", world.app)).await;
        assert_eq!(link_of(&shown, &letter, text), page);
        let from = shown.hidden("from");
        let edited = client.post_as(format!("{letter}/edit"), FORM, form(&[("from", &from)])).await;
        let canceled = link_of(&edited, &format!("{letter}/edit"), "Cancel");
        assert_eq!(link_of(&client.get(&canceled).await, &letter, text), page);
        let asked = client.post_as(format!("{letter}/erase"), FORM, form(&[("from", &from)])).await;
        let canceled = link_of(&asked, &format!("{letter}/erase"), "Cancel");
        assert_eq!(link_of(&client.get(&canceled).await, &letter, text), page);
        let fields = [("from", &*from), ("resolution", "ignored")];
        let done = world.act(&client, &format!("{letter}/resolve"), &fields).await;
        assert_eq!(link_of(&done, &letter, text), page);
        let undo = [("from", &*done.hidden("from")), ("resolved_at", &done.hidden("resolved_at"))];
        let undone = world.act(&client, &format!("{letter}/reopen"), &undo).await;
        assert!(undone.shows("The letter is unresolved again:"), "{undone}");
        assert_eq!(link_of(&undone, &letter, text), page);
        // An error page has the way back too.
        let again = [("from", &*from), ("resolution", "ignored")];
        world.repo.resolve(id, "ignored").await.unwrap();
        let problem = client.post_as(format!("{letter}/resolve"), FORM, form(&again)).await;
        assert_eq!(problem.status, StatusCode::CONFLICT, "{problem}");
        assert_eq!(link_of(&problem, &format!("{letter}/resolve"), text), page);
        world.repo.reopen(world.app, id, &Attribution::default()).await.unwrap();
    }
    for from in ["https://elsewhere.example/", "/apps", "?nonsense=1"] {
        let answer = client.get(format!("{letter}?{}", form(&[("from", from)]))).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer}");
    }
}

async fn a_run_from_the_overview_or_the_groups_returns_there(world: World) {
    let client = world.client();
    for (at, back) in
        [("/apps?sort=most", "apps?sort=most"), ("/groups?source=orders", "groups?source=orders")]
    {
        world.letters_of(2, "orders").await;
        let at = if at.starts_with("/apps") { at.to_owned() } else { world.at(at) };
        if at.starts_with("/apps?") {
            assert_eq!(client.get(&at).await.hidden("back"), back);
        }
        let fields = [("filter", "?state=open"), ("back", back), ("action", "ignored")];
        let preview = client.post_as("/bulk/preview", FORM, world.form(&fields)).await;
        assert_eq!(link_of(&preview, "/bulk/preview", "Cancel"), at);
        let fields = [("token", &*preview.hidden("token")), ("back", &preview.hidden("back"))];
        let answer = client.post_as("/bulk/run", FORM, form(&fields)).await;
        let told = resolved("/bulk/run", answer.location());
        assert!(told.starts_with(&at), "{told}");
        let page = client.get(&told).await;
        assert!(page.shows("2 letters are ignored:") && page.shows("Undo"), "{page}");
        let undo =
            [("app", world.app.to_string()), ("run_id", page.hidden("run_id")), ("back", back.to_owned())];
        let undo = undo.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = client.post_as("/bulk/undo", FORM, form(&undo)).await;
        assert!(resolved("/bulk/undo", answer.location()).starts_with(&at), "{answer}");
        for id in
            world.repo.list(world.app, &DeadLetterFilter::default(), &Default::default()).await.unwrap().items
        {
            world.repo.resolve(id.id, "ignored").await.unwrap();
        }
    }
}

async fn a_letter_that_was_found_is_deleted_and_leads_back_to_the_search_or_the_run(world: World) {
    let ids = world.letters_of(3, "orders").await;
    let client = world.client();
    let all = DeadLetterFilter::default().ids([ids[2]]);
    let by = Attribution::by("ada").run_id(Uuid::now_v7());
    world.repo.resolve_matching(world.app, &all, Resolution::Ignored, &by, 1).await.unwrap();
    let event = world.row(ids[1]).await.original_event_id;
    let of_run = format!("/runs/{}?app={}", by.run_id.unwrap(), world.app);
    for (id, page) in [(ids[0], format!("/find?id={event}")), (ids[1], of_run)] {
        let letter = client.follow(&page, &format!("/apps/{}/letters/{id}", world.app)).await;
        let id = id.to_string();
        let fields =
            [("ids", &*id), ("back", &*letter.hidden("back")), ("action", "deleted"), ("state", "any")];
        let preview = client.post_as("/bulk/preview", FORM, world.form(&fields)).await;
        let fields = [("token", &*preview.hidden("token")), ("back", &preview.hidden("back"))];
        let shown = world.act(&client, "/bulk/run", &fields).await;
        assert!(shown.status == StatusCode::OK && shown.shows("1 letter is deleted"), "{page}: {shown}");
    }
}

async fn a_run_whose_token_cannot_be_opened_is_shown_by_the_history(world: World) {
    world.letters_of(2, "orders").await;
    let client = world.client();
    let preview = client.post_as("/bulk/preview", FORM, world.form(&[("action", "replayed")])).await;
    let fields = [("token", &*preview.hidden("token")), ("limit", "1")];
    let step = client.post_as("/bulk/run", FORM, form(&fields)).await;
    let result = resolved("/bulk/run", step.location());
    assert!(client.get(&result).await.shows("Replayed 1 of 2"));
    let restarted = world.admin_of(Operator::full("ada")).key([8; 32]).unwrap();
    let page = Client::from(restarted).get(&result).await;
    assert!(page.status == StatusCode::OK && page.shows("Replayed, 1 letter"), "{page}");
}

async fn an_undo_leaves_a_letter_alone_that_others_closed_since(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let path = world.at(&format!("/letters/{id}"));
    let page = world.act(&client, &format!("{path}/resolve"), &[("resolution", "ignored")]).await;
    let undo = form(&[("resolved_at", &page.hidden("resolved_at"))]);
    world.repo.reopen(world.app, id, &Attribution::by("bob")).await.unwrap();
    let open = client.post_as(format!("{path}/reopen"), FORM, undo.clone()).await;
    assert_eq!(open.status, StatusCode::CONFLICT, "{open}");
    world.repo.resolve_once(world.app, id, Resolution::Ignored, &Attribution::by("bob")).await.unwrap();
    let closed = client.post_as(format!("{path}/reopen"), FORM, undo.clone()).await;
    assert_eq!(closed.status, StatusCode::CONFLICT, "{closed}");
    assert!(closed.shows("The letter was ignored by bob,"), "{closed}");
    assert_eq!(world.row(id).await.resolved_by.as_deref(), Some("bob"));
}

async fn an_action_returns_to_a_list_with_a_long_filter_too(world: World) {
    let last_error = "ü".repeat(200);
    let id = world.insert(NewDeadLetter { last_error: last_error.clone(), ..letter(world.app) }).await;
    let client = world.client();
    let list = client.open(world.at(&format!("?{}", form(&[("error_contains", &last_error)])))).await;
    assert!(list.shows("1 of 1"), "{list}");
    let path = world.at(&format!("/letters/{id}/resolve"));
    let page = world.act(&client, &path, &[("back", &list.hidden("back")), ("resolution", "ignored")]).await;
    assert!(page.shows("The letter is ignored:") && page.shows("No letter matches"), "{page}");
    assert_eq!(page.hidden("error_contains"), last_error);
}

async fn the_page_of_a_deleted_letter_has_its_history(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let path = world.at(&format!("/letters/{id}"));
    world.repo.resolve_once(world.app, id, Resolution::Ignored, &Attribution::by("bob")).await.unwrap();
    let this = DeadLetterFilter::default().state(DeadLetterState::Any).ids([id]);
    world.repo.delete_matching(world.app, &this, &Attribution::by("ada"), 1).await.unwrap();
    let page = client.get(&path).await;
    assert_eq!(page.status, StatusCode::GONE, "{page}");
    assert!(page.shows("The letter is deleted") && page.shows("Resolved: ignored by bob"), "{page}");
    let never = client.get(world.at(&format!("/letters/{}", Uuid::new_v4()))).await;
    assert_eq!(never.status, StatusCode::NOT_FOUND, "{never}");
}

async fn an_undo_makes_it_unresolved_again(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let path = world.at(&format!("/letters/{id}"));
    let page = world
        .act(&client, &format!("{path}/resolve"), &[("resolution", "handled_by_script"), ("note", "why")])
        .await;
    assert!(page.shows("The letter is resolved as handled by script:") && page.shows("why"), "{page}");
    let page = world.act(&client, &format!("{path}/reopen"), &[]).await;
    assert!(page.shows("The letter is unresolved again:"), "{page}");
    assert_eq!(world.row(id).await.resolution, None);
    let page = world.act(&client, &format!("{path}/replay"), &[]).await;
    assert!(page.shows("The letter is replayed") && !page.shows("Undo"), "{page}");
    assert_eq!(world.outbox.events(), [world.row(id).await.original_event_id]);
}

async fn a_banner_is_shown_only_to_the_operator_who_acted(world: World) {
    let id = world.letter().await;
    let path = world.at(&format!("/letters/{id}/resolve"));
    let answer = world.client().post_as(&path, FORM, form(&[("resolution", "ignored")])).await;
    let address = resolved(&path, answer.location());
    let bob = Client::from(world.admin_of(Operator::full("bob")));
    assert!(!bob.get(&address).await.shows("Done."));
    assert!(!world.client().get(address.replace("banner=", "banner=x")).await.shows("Done."));
    assert!(world.client().get(&address).await.shows("Done."));
}

async fn a_reader_has_no_buttons(world: World) {
    let id = world.letter().await;
    let client = Client::from(world.admin_of(Operator::reader("ada")));
    for path in [world.at(""), world.at("?state=any"), world.at(&format!("/letters/{id}"))] {
        let page = client.get(&path).await;
        let is_range = |(name, _): &(String, String)| name == "name";
        let buttons = tags(page.page()).into_iter().filter(|(name, _)| name == "button");
        let forms: Vec<_> = buttons.filter(|(_, attributes)| !attributes.iter().any(is_range)).collect();
        // "Filter" and "Search" change nothing, and neither do the ranges of time.
        assert!(forms.len() <= 2, "{path}: {forms:?}");
    }
    let answer = client.post_as(world.at(&format!("/letters/{id}/reopen")), FORM, "").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.shows("This operator may not resolve or reopen letters."), "{answer}");
}

async fn a_conflict_shows_who_closed_the_letter_and_when(world: World) {
    let id = world.letter().await;
    world.repo.resolve_once(world.app, id, Resolution::Ignored, &Attribution::by("bob")).await.unwrap();
    let path = world.at(&format!("/letters/{id}/resolve"));
    let answer = world.client().post_as(&path, FORM, form(&[("resolution", "ignored")])).await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    assert!(answer.shows("The letter was ignored by bob,") && answer.page().contains("<time"), "{answer}");
    assert!(answer.shows("Back to the letter"));
}

// Many

async fn ticked_letters_are_previewed_and_no_others(world: World) {
    let ids = world.letters_of(3, "orders").await;
    let client = world.client();
    let (one, other) = (ids[0].to_string(), ids[1].to_string());
    let fields = [
        ("back", "?source=orders"),
        ("state", "open"),
        ("ids", "\"\""),
        ("ids", &one),
        ("ids", &other),
        ("action", "ignored"),
    ];
    let preview = client.post_as("/bulk/preview", FORM, world.form(&fields)).await;
    assert!(preview.shows("Ignore 2 letters?") && preview.shows("The ticked letters."), "{preview}");
    let (token, back) = (preview.hidden("token"), preview.hidden("back"));
    let page =
        world.act(&client, "/bulk/run", &[("token", &token), ("back", &back), ("note", "known")]).await;
    assert!(page.shows("2 letters are ignored:") && page.shows("1 of 1"), "{page}");
    assert_eq!(world.row(ids[0]).await.resolution_note.as_deref(), Some("known"));
    assert_eq!(world.row(ids[2]).await.resolution, None);
}

async fn a_bulk_run_is_undone_from_its_banner(world: World) {
    let ids = world.letters_of(3, "orders").await;
    let client = world.client();
    let preview = client.post_as("/bulk/preview", FORM, world.form(&[("action", "ignored")])).await;
    let fields = [("token", preview.hidden("token")), ("back", "?source=orders".to_owned())];
    let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
    let page = world.act(&client, "/bulk/run", &fields).await;
    assert!(page.shows("3 letters are ignored:") && page.shows("Undo"), "{page}");
    let letter = client.get(world.at(&format!("/letters/{}", ids[0]))).await;
    let of_run = letter.links().into_iter().find(|link| link.contains("runs/")).unwrap();
    assert!(
        page.links().iter().any(|link| resolved("/apps/x", link) == resolved("/apps/x/letters/y", &of_run))
    );
    let of_run = resolved(&world.at(&format!("/letters/{}", ids[0])), &of_run);
    let recorded = client.get(&of_run).await;
    assert!(recorded.shows("Resolved: ignored, 3 letters") && recorded.shows("by ada"), "{recorded}");
    let list = recorded.links().into_iter().find(|link| link.contains("run_id=")).unwrap();
    let list = client.get(resolved(&of_run, &list)).await;
    assert!(list.shows("3 of 3"), "{list}");
    let (run_id, back) = (page.hidden("run_id"), page.hidden("back"));
    let undo = [("app", &*world.app.to_string()), ("run_id", run_id.as_str()), ("back", back.as_str())];
    let page = world.act(&client, "/bulk/undo", &undo).await;
    assert!(page.shows("3 letters are reopened:") && !page.shows("Undo") && page.shows("3 of 3"), "{page}");
    for id in ids {
        assert_eq!(world.row(id).await.resolution, None);
    }
    let page = world.act(&client, "/bulk/undo", &undo).await;
    assert!(page.shows("0 letters are reopened:"), "{page}");
}

async fn if_some_letters_were_replayed_reopening_asks_which(world: World) {
    let ids = world.letters_of(4, "orders").await;
    world.replay(ids[0]).await;
    for id in &ids[1..3] {
        world.repo.resolve(*id, "ignored").await.unwrap();
    }
    let client = world.client();
    let list = client.open(world.at("?state=closed")).await;
    let all = list.hidden("filter");
    let ticked: Vec<_> = ids[..2].iter().map(ToString::to_string).collect();
    let of_ticked = [("state", "closed"), ("ids", "\"\""), ("ids", &*ticked[0]), ("ids", &*ticked[1])];
    for (fields, ignored) in [(&[("filter", &*all)][..], 2), (&of_ticked[..], 1)] {
        let fields = [fields, &[("action", "reopened"), ("back", "?state=closed")]].concat();
        let question = client.post_as("/bulk/preview", FORM, world.form(&fields)).await;
        assert_eq!(question.status, StatusCode::OK, "{question}");
        assert!(question.shows("Reopen which letters?") && question.shows("1 replayed…"), "{question}");
        assert!(question.shows(&format!("{ignored} ignored…")) && !question.shows("handled by script"));
        for (name, count) in [("ignored", ignored), ("replayed", 1)] {
            let buttons = tags(question.page()).into_iter().filter(|(tag, _)| tag == "button");
            let values = buttons.flat_map(|(_, attributes)| attributes).filter(|(name, _)| name == "value");
            let filter = values.map(|(_, value)| decoded(&value)).find(|value| value.contains(name)).unwrap();
            let fields = [("filter", &*filter), ("back", &question.hidden("back")), ("action", "reopened")];
            let preview = client.post_as("/bulk/preview", FORM, world.form(&fields)).await;
            let letters = if count == 1 { "letter" } else { "letters" };
            assert!(preview.shows(&format!("Reopen {count} {letters}?")), "{preview}");
        }
    }
    assert_eq!(world.row(ids[0]).await.resolution, Some(Resolution::Replayed));
}

async fn a_run_is_undone_once(world: World) {
    world.letters_of(2, "orders").await;
    let client = world.client();
    let preview = client.post_as("/bulk/preview", FORM, world.form(&[("action", "ignored")])).await;
    world.act(&client, "/bulk/run", &[("token", &preview.hidden("token"))]).await;
    let run_id = world.run_id().await;
    let of_run = format!("/runs/{run_id}?app={}", world.app);
    assert!(client.get(&of_run).await.shows("Undo"));
    let undo = world.form(&[("run_id", &run_id.to_string())]);
    client.post_as("/bulk/undo", FORM, undo).await;
    let page = client.get(&of_run).await;
    assert!(page.shows("Resolved: ignored, 2 letters") && !page.shows("Undo"), "{page}");
}

async fn closed_letters_are_reopened_from_their_tab(world: World) {
    let ids = world.letters_of(3, "orders").await;
    for id in &ids[..2] {
        world.repo.resolve(*id, "ignored").await.unwrap();
    }
    let client = world.client();
    let list = client.open(world.at("?state=closed")).await;
    assert!(
        list.shows("Reopen all 2…") && list.shows("Reopen ticked…") && !list.shows("Ignore all"),
        "{list}"
    );
    let (filter, back) = (list.hidden("filter"), list.hidden("back"));
    let one = ids[0].to_string();
    for (fields, count) in [
        (vec![("state", "closed"), ("ids", "\"\""), ("ids", &*one), ("action", "reopened")], "1 letter"),
        (vec![("filter", &*filter), ("back", &*back), ("action", "reopened")], "2 letters"),
    ] {
        let preview = client.post_as("/bulk/preview", FORM, world.form(&fields)).await;
        assert!(preview.shows(&format!("Reopen {count}?")), "{preview}");
        if count == "2 letters" {
            assert!(preview.shows("Letters that are resolved later are not changed."), "{preview}");
            let fields = [("token", preview.hidden("token"))];
            let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
            let page = world.act(&client, "/bulk/run", &fields).await;
            assert!(page.shows("2 letters are reopened: all closed letters"), "{page}");
        }
    }
    assert_eq!(world.repo.unresolved_count(world.app).await.unwrap(), 3);

    // Ticked replayed letters are reopened from a list that says so.
    world.repo.resolve(ids[0], "replayed").await.unwrap();
    let list = client.open(world.at("?state=closed&resolution=replayed")).await;
    let (state, resolution) = (list.hidden("state"), list.hidden("resolution"));
    let fields = [("state", &*state), ("resolution", &*resolution), ("ids", &*one), ("action", "reopened")];
    let preview = client.post_as("/bulk/preview", FORM, world.form(&fields)).await;
    assert!(preview.shows("Reopen 1 letter?") && preview.shows("Note (optional)"), "{preview}");
    assert!(preview.shows("These letters were replayed"), "{preview}");
    let fields = [("state", &*state), ("ids", &*one), ("action", "reopened")];
    let preview = client.post_as("/bulk/preview", FORM, world.form(&fields)).await;
    assert!(preview.shows("Reopen 1 letter?") && preview.shows("These letters were replayed"), "{preview}");
}

async fn without_a_tick_nothing_is_previewed(world: World) {
    world.letters_of(3, "orders").await;
    let client = world.client();
    let list = client.get(world.at("")).await;
    let fields = [("back", list.hidden("back")), ("state", "open".into()), ("ids", list.hidden("ids"))];
    let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
    let fields = [&fields[..], &[("action", "ignored")]].concat();
    let answer = client.post_as("/bulk/preview", FORM, world.form(&fields)).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.shows("No letter is ticked"), "{answer}");
}

async fn all_that_match_are_ignored_and_what_fails_later_is_not(world: World) {
    let orders = world.letters_of(3, "orders").await;
    let invoices = world.letters_of(1, "invoices").await;
    let client = world.client();
    let list = client.open(world.at("?source=orders")).await;
    assert!(list.shows("Ignore all 3…") && list.shows("Replay all 3…"), "{list}");
    let fields = [("back", "?source=orders"), ("source", "orders"), ("action", "ignored")];
    let preview = client.post_as("/bulk/preview", FORM, world.form(&fields)).await;
    assert!(preview.shows("Ignore 3 letters?") && preview.shows("Source orders"), "{preview}");
    let later = world.letters_of(1, "orders").await;
    let page = world
        .act(&client, "/bulk/run", &[("token", &preview.hidden("token")), ("back", "?source=orders")])
        .await;
    assert!(page.shows("3 letters are ignored:"), "{page}");
    for id in orders {
        assert_eq!(world.row(id).await.resolution, Some(Resolution::Ignored));
    }
    for id in [invoices[0], later[0]] {
        assert_eq!(world.row(id).await.resolution, None);
    }
}

async fn a_staged_replay_does_one_then_ten_then_the_rest(world: World) {
    world.letters_of(20, "orders").await;
    let client = world.client();
    let preview = client.post_as("/bulk/preview", FORM, world.form(&[("action", "replayed")])).await;
    assert!(
        preview.shows("Replay 20 letters?")
            && preview.shows("Replay one first")
            && preview.shows("Replay all 20")
    );
    let run = "/bulk/run";
    let page = world
        .act(&client, run, &[("token", &preview.hidden("token")), ("limit", "1"), ("note", "carried on")])
        .await;
    assert!(
        page.shows("Replayed 1 of 20")
            && page.shows("Replay 10 more")
            && page.shows("None failed again so far."),
        "{page}"
    );
    let step = |page: &Answer| [("run", page.hidden("run")), ("note", page.hidden("note"))];
    let fields = step(&page);
    let fields =
        [&fields.each_ref().map(|(name, value)| (*name, value.as_str()))[..], &[("limit", "10")]].concat();
    let page = world.act(&client, run, &fields).await;
    assert!(page.shows("Replayed 11 of 20") && page.shows("Replay 9 more"), "{page}");
    let fields = step(&page);
    let page = world.act(&client, run, &fields.each_ref().map(|(name, value)| (*name, value.as_str()))).await;
    assert!(page.shows("Replayed 20 of 20") && !page.shows("Continue"), "{page}");
    assert_eq!(world.outbox.events().len(), 20);
    let last = world.repo.list_for_app(world.app, false, 1, 0).await.unwrap();
    assert_eq!(last[0].resolution_note.as_deref(), Some("carried on"));
}

async fn a_rate_stays_from_step_to_step_and_the_page_shows_when_the_run_ends(world: World) {
    world.letters_of(20, "orders").await;
    let client = world.client();
    let preview = client.post_as("/bulk/preview", FORM, world.form(&[("action", "replayed")])).await;
    let run = "/bulk/run";
    let step = [("token", &*preview.hidden("token")), ("limit", "1"), ("rate", "50")];
    let page = world.act(&client, run, &step).await;
    assert!(page.shows("Replayed 1 of 20") && page.shows("At this rate the run ends at"), "{page}");
    assert!(
        page.text()
            .contains(r#"name="rate" type="number" min="1" max="1000" inputmode="numeric" value="50""#)
    );
    // After a stage the next one waits.
    assert!(page.text().contains("data-continue=\"2"), "{page}");
    let refused = client.post_as(run, FORM, form(&[("run", &page.hidden("run")), ("rate", "0")])).await;
    assert!(refused.shows("rate"), "{refused}");
    let page = world.act(&client, run, &[("run", &page.hidden("run")), ("rate", "50")]).await;
    assert!(page.shows("Replayed 20 of 20") && !page.shows("Continue"), "{page}");
}

async fn a_staged_replay_continues_after_an_event_failed_again_only_on_request(world: World) {
    let ids = world.letters_of(3, "orders").await;
    let client = world.client();
    let preview = client.post_as("/bulk/preview", FORM, world.form(&[("action", "replayed")])).await;
    let run = "/bulk/run";
    let page = world.act(&client, run, &[("token", &preview.hidden("token")), ("limit", "1")]).await;
    world.fails_again(ids[0]).await;
    let signed = page.hidden("run");
    let page = world.act(&client, run, &[("run", &signed)]).await;
    assert!(
        page.shows("1 event failed again since this run started.") && page.shows("Replayed 1 of 3"),
        "{page}"
    );
    assert!(page.shows("Continue anyway"));
    assert_eq!(world.outbox.events().len(), 1);
    let page = world.act(&client, run, &[("run", &signed), ("anyway", "true")]).await;
    assert!(page.shows("Replayed 3 of 3"), "{page}");
}

async fn replays_of_others_do_not_stop_a_run(world: World) {
    world.letters_of(3, "orders").await;
    let client = world.client();
    let preview = client.post_as("/bulk/preview", FORM, world.form(&[("action", "replayed")])).await;
    let run = "/bulk/run";
    let page = world.act(&client, run, &[("token", &preview.hidden("token")), ("limit", "1")]).await;
    // Somebody else replays another event, and it fails again.
    let other = world.letter().await;
    world.replay(other).await;
    world.fails_again(other).await;
    let page = world.act(&client, run, &[("run", &page.hidden("run"))]).await;
    assert!(page.shows("Replayed 3 of 3") && page.shows("None failed again so far."), "{page}");
}

async fn letters_that_were_not_put_back_are_shown_with_the_services_error(world: World) {
    let ids = world.letters_of(3, "orders").await;
    let client = world.client();
    world.outbox.refuse(world.row(ids[1]).await.original_event_id, "<b>back</b> \u{202e}already");
    let preview = client.post_as("/bulk/preview", FORM, world.form(&[("action", "replayed")])).await;
    let run = "/bulk/run";
    let page = world.act(&client, run, &[("token", &preview.hidden("token"))]).await;
    assert!(
        page.shows("Replayed 2 of 3") && page.shows("The service could not put back the event of 1 letter."),
        "{page}"
    );
    assert!(page.shows(&ids[1].to_string()), "{page}");
    let text = page.text();
    assert!(text.contains(r"&#60;b&#62;back&#60;/b&#62; \u{202e}already"), "{page}");
    assert!(!text.contains('\u{202e}'), "{page}");
}

async fn letters_that_were_not_put_back_are_among_the_rest_that_is_ignored(world: World) {
    let ids = world.letters_of(3, "orders").await;
    let client = world.client();
    world.outbox.refuse(world.row(ids[0]).await.original_event_id, "the event is back already");
    let preview = client.post_as("/bulk/preview", FORM, world.form(&[("action", "replayed")])).await;
    let fields = [("token", &*preview.hidden("token")), ("limit", "2")];
    let page = world.act(&client, "/bulk/run", &fields).await;
    assert!(page.shows("Replayed 1 of 3") && page.shows("Ignore the other 2…"), "{page}");
    let rest = [("action", "ignored"), ("filter", &*page.hidden("filter"))];
    let preview = client.post_as("/bulk/preview", FORM, world.form(&rest)).await;
    assert!(preview.shows("Ignore 2 letters?"), "{preview}");
}

async fn another_operators_run_is_shown_and_not_continued(world: World) {
    world.letters_of(3, "orders").await;
    let client = world.client();
    let preview = client.post_as("/bulk/preview", FORM, world.form(&[("action", "replayed")])).await;
    let token = preview.hidden("token");
    let page = world.act(&client, "/bulk/run", &[("token", &token), ("limit", "1")]).await;
    let bob = Client::from(world.admin_of(Operator::full("bob")));
    let run_id = world.run_id().await;
    let result = bob.get(format!("/runs/{run_id}?run={}", page.hidden("run"))).await;
    assert!(
        result.shows("Replayed, 1 letter") && result.shows("by ada") && !result.shows("Continue"),
        "{result}"
    );
    let run = bob.post_as("/bulk/run", FORM, form(&[("token", &token)])).await;
    assert_eq!(run.status, StatusCode::GONE);
    assert!(run.shows("The preview has expired"));
}

async fn a_run_over_several_apps_has_a_line_for_each_and_is_undone_in_all(world: World) {
    let other = new_app();
    let of_other = world.repo.insert_many(vec![letter(other); 2]).await.unwrap();
    let ids = world.letters_of(3, "orders").await;
    let client = world.client();
    let (one, two) = (world.app.to_string(), other.to_string());
    let fields = [
        ("app", &*one),
        ("app", &*two),
        ("action", "ignored"),
        ("filter", "?source=orders"),
        ("back", "?source=x"),
    ];
    let preview = client.post_as("/bulk/preview", FORM, form(&fields)).await;
    assert!(preview.shows("Ignore 5 letters?"), "{preview}");
    assert!(
        preview.shows(&format!("{one} 3 letters")) && preview.shows(&format!("{two} 2 letters")),
        "{preview}"
    );
    assert!(
        preview.shows(&format!("dead-letters count --app {two} --state open --source orders")),
        "{preview}"
    );
    let fields = [("token", &*preview.hidden("token")), ("back", "?source=x"), ("note", "both")];
    let page = world.act(&client, "/bulk/run", &fields).await;
    assert!(page.shows("Ignored 5 of 5") && page.shows("3 of 3") && page.shows("2 of 2"), "{page}");
    // A list is of one app.
    assert_eq!(link_of(&page, "/runs/x", "Back to the overview"), "/apps");

    // A colleague who may see one of the apps sees its share.
    let run_id = world.run_id().await;
    let recorded =
        page.links().into_iter().find(|link| link.contains(&format!("runs/{run_id}?app="))).unwrap();
    let recorded = resolved("/runs/x", &recorded);
    let both = client.get(&recorded).await;
    assert!(both.shows("Resolved: ignored, 5 letters") && both.shows("both"), "{both}");
    let bob = Client::from(world.admin_of(Operator::reader("bob").of_apps([world.app])));
    assert_eq!(bob.get(&recorded).await.status, StatusCode::NOT_FOUND);
    let own = bob.get(format!("/runs/{run_id}?app={one}")).await;
    assert!(own.shows("Resolved: ignored, 3 letters") && !own.shows("Undo"), "{own}");

    let fields = [("app", &*one), ("app", &*two), ("run_id", &*run_id.to_string())];
    let page = world.act(&client, "/bulk/undo", &fields).await;
    assert!(page.shows("Reopened 5 of 5"), "{page}");
    for id in ids.into_iter().chain(of_other) {
        assert_eq!(world.row(id).await.resolution, None);
    }
}

/// Letters that failed within this many minutes.
async fn failed_within(world: &World, minutes: i64, letters: usize) {
    let failed = |_| {
        let mut letter = stored_letter(world.app, Utc::now() - TimeDelta::hours(3));
        letter.first_attempt_at = letter.last_attempt_at - TimeDelta::minutes(minutes);
        letter
    };
    world.repo.import(&(0..letters).map(failed).collect::<Vec<_>>()).await.unwrap();
}

async fn a_staged_replay_waits_as_long_as_its_letters_took_to_fail(world: World) {
    failed_within(&world, 31, 20).await;
    let client = world.client();
    let preview = client.post_as("/bulk/preview", FORM, world.form(&[("action", "replayed")])).await;
    let page = world.act(&client, "/bulk/run", &[("token", &preview.hidden("token")), ("limit", "1")]).await;
    assert!(
        page.shows("None failed again so far. These letters took 31 minutes to fail, until")
            && page.shows("Next stage at")
            && !page.shows("No event failed again."),
        "{page}"
    );
    let at = page.text().split("data-continue=\"").nth(1).unwrap().split('"').next().unwrap();
    let wait = at.parse::<DateTime<Utc>>().unwrap() - Utc::now();
    assert!((TimeDelta::minutes(29)..=TimeDelta::minutes(31)).contains(&wait), "{wait}");
    // The operator continues before that time.
    let page = world.act(&client, "/bulk/run", &[("run", &page.hidden("run")), ("limit", "10")]).await;
    assert!(page.shows("Replayed 11 of 20") && page.shows("Next stage at"), "{page}");
    // With all letters replayed there is no next stage.
    let page = world.act(&client, "/bulk/run", &[("run", &page.hidden("run"))]).await;
    assert!(page.shows("Replayed 20 of 20") && page.shows("None failed again so far."), "{page}");
    assert!(!page.shows("Next stage at"), "{page}");
}

async fn a_stage_that_begins_by_itself_does_not_begin_early(world: World) {
    failed_within(&world, 31, 20).await;
    let client = world.client();
    let preview = client.post_as("/bulk/preview", FORM, world.form(&[("action", "replayed")])).await;
    let page = world.act(&client, "/bulk/run", &[("token", &preview.hidden("token")), ("limit", "1")]).await;
    let fields = [("run", &*page.hidden("run")), ("limit", "10"), ("automatic", "true")];
    let page = world.act(&client, "/bulk/run", &fields).await;
    assert!(page.shows("Replayed 1 of 20"), "{page}");
    assert_eq!(world.outbox.events().len(), 1);
}

async fn a_step_that_was_done_already_leads_to_the_result(world: World) {
    world.letters_of(20, "orders").await;
    let client = world.client();
    let preview = client.post_as("/bulk/preview", FORM, world.form(&[("action", "replayed")])).await;
    let step = form(&[("token", &preview.hidden("token")), ("limit", "1"), ("note", "carried on")]);
    assert_eq!(client.post_as("/bulk/run", FORM, step.clone()).await.status, StatusCode::SEE_OTHER);
    let refused = client.post_as("/bulk/run", FORM, step).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.shows("This step was done already"), "{refused}");
    let link = refused.links().into_iter().find(|link| link.contains("runs/")).unwrap();
    let behind = resolved("/bulk/run", &link);
    let answer = client.get(&behind).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "the token is behind the history");
    let page = client.get(resolved(&behind, answer.location())).await;
    assert!(page.shows("Replayed 1 of 20") && page.shows("Replay 10 more"), "{page}");
    let page = world.act(&client, "/bulk/run", &[("run", &page.hidden("run")), ("limit", "10")]).await;
    assert!(page.shows("Replayed 11 of 20"), "{page}");
    assert_eq!(world.outbox.events().len(), 11);
}

async fn an_old_result_continues_although_the_history_of_the_first_step_was_swept(world: World) {
    world.letters_of(5, "orders").await;
    let client = world.client();
    let preview = client.post_as("/bulk/preview", FORM, world.form(&[("action", "ignored")])).await;
    let first = world.act(&client, "/bulk/run", &[("token", &preview.hidden("token")), ("limit", "1")]).await;
    let run_id = world.run_id().await;
    world.repo.sweep_actions(DateTime::<Utc>::MAX_UTC, None, 1_000).await.unwrap();
    let old = first.hidden("run");
    world.act(&client, "/bulk/run", &[("run", &old), ("limit", "1")]).await;
    let behind = format!("/runs/{run_id}?run={old}");
    let answer = client.get(&behind).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "the token is behind the history");
    let page = client.get(resolved(&behind, answer.location())).await;
    world.act(&client, "/bulk/run", &[("run", &page.hidden("run"))]).await;
    assert_eq!(world.repo.unresolved_count(world.app).await.unwrap(), 0);
}

async fn a_count_that_is_capped_counts_rightly(world: World) {
    world.letters_of(7, "orders").await;
    let client = Client::from(world.admin_of(Operator::full("ada").scan_limit(3)));
    let fields = [("action", "ignored"), ("source", "orders")];
    let preview = client.post_as("/bulk/preview", FORM, world.form(&fields)).await;
    assert!(preview.shows("Ignore 3+ letters?") && preview.shows("Ignore 3 letters"), "{preview}");
    let page = world.act(&client, "/bulk/run", &[("token", &preview.hidden("token")), ("limit", "2")]).await;
    assert!(page.shows("Ignored 2 of 3+") && page.shows("Ignore 1 more"), "{page}");
    let page = world.act(&client, "/bulk/run", &[("run", &page.hidden("run"))]).await;
    assert!(page.shows("Ignored 3 of 3+") && page.shows("More letters may match"), "{page}");
    assert!(!page.shows("more letters") && !page.shows("Continue"), "{page}");
    assert_eq!(world.repo.unresolved_count(world.app).await.unwrap(), 4);
}

async fn a_run_that_is_not_there_is_not_found(world: World) {
    let client = world.client();
    for path in [
        format!("/runs/{}?app={}", Uuid::now_v7(), world.app),
        format!("/runs/nonsense?app={}", world.app),
        format!("/runs/{}?app=nonsense", Uuid::now_v7()),
    ] {
        assert_eq!(client.get(&path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(client.get(format!("/runs/{}", Uuid::now_v7())).await.status, StatusCode::BAD_REQUEST);
}

async fn a_reopened_letter_is_closed_again_by_its_undo(world: World) {
    let id = world.letter().await;
    world.repo.resolve(id, "handled_by_script").await.unwrap();
    let client = world.client();
    let path = world.at(&format!("/letters/{id}"));
    let page = world.act(&client, &format!("{path}/reopen"), &[]).await;
    assert!(page.shows("The letter is unresolved again:") && page.shows("Undo"), "{page}");
    let undo = ["resolution", "reopening"].map(|name| (name, page.hidden(name)));
    let undo = undo.each_ref().map(|(name, value)| (*name, value.as_str()));
    let page = world.act(&client, &format!("{path}/resolve"), &undo).await;
    assert!(page.shows("The letter is resolved as handled by script:"), "{page}");
    assert_eq!(world.row(id).await.resolution, Some(Resolution::HandledByScript));
}

async fn an_undo_of_a_reopening_leaves_a_letter_alone_that_changed_since(world: World) {
    let client = world.client();
    for is_handled in [false, true] {
        let id = world.letter().await;
        world.repo.resolve(id, "ignored").await.unwrap();
        let path = world.at(&format!("/letters/{id}"));
        let page = world.act(&client, &format!("{path}/reopen"), &[]).await;
        let undo = ["resolution", "reopening"].map(|name| (name, page.hidden(name)));
        let undo = undo.each_ref().map(|(name, value)| (*name, value.as_str()));
        if is_handled {
            world.repo.resolve(id, "handler_failed").await.unwrap();
        } else {
            let bob = Attribution::by("bob");
            world.repo.resolve_once(world.app, id, Resolution::Ignored, &bob).await.unwrap();
            world.repo.reopen(world.app, id, &bob).await.unwrap();
        }
        let answer = client.post_as(format!("{path}/resolve"), FORM, form(&undo)).await;
        assert_eq!(answer.status, StatusCode::CONFLICT, "{answer}");
        assert!(answer.shows("The letter changed after it was reopened, and nothing was undone"), "{answer}");
        assert_eq!(world.row(id).await.resolution, is_handled.then_some(Resolution::HandlerFailed));
    }
}

async fn a_reopening_from_a_page_leaves_a_letter_alone_that_others_closed_since(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let resolve = async |name| {
        let by = Attribution::by(name);
        world.repo.resolve_once(world.app, id, Resolution::Ignored, &by).await.unwrap();
    };
    resolve("ada").await;
    let path = world.at(&format!("/letters/{id}"));
    for shown in [client.get(&path).await, client.get(world.at("?state=closed")).await] {
        let sent = shown.page().split_once("name=\"resolved_at\" value=\"").unwrap().1;
        let sent = form(&[("resolved_at", sent.split('"').next().unwrap())]);
        world.repo.reopen(world.app, id, &Attribution::by("bob")).await.unwrap();
        let open = client.post_as(format!("{path}/reopen"), FORM, sent.clone()).await;
        assert_eq!(open.status, StatusCode::CONFLICT, "{open}");
        resolve("bob").await;
        let closed = client.post_as(format!("{path}/reopen"), FORM, sent).await;
        assert_eq!(closed.status, StatusCode::CONFLICT, "{closed}");
        assert!(closed.shows("The letter was ignored by bob,"), "{closed}");
        assert_eq!(world.row(id).await.resolved_by.as_deref(), Some("bob"));
    }
}

async fn a_letter_whose_handler_failed_is_reopened_from_its_page_and_by_the_api(world: World) {
    let client = world.client();
    let id = world.letter().await;
    let path = world.at(&format!("/letters/{id}"));
    let api = world.path(&format!("letters/{id}/reopen"));
    world.repo.resolve(id, "handler_failed").await.unwrap();
    let page = world.act(&client, &format!("{path}/reopen"), &[]).await;
    assert!(page.shows("The letter is unresolved again:"), "{page}");
    assert_eq!(world.row(id).await.resolution, None);
    world.repo.resolve(id, "handler_failed").await.unwrap();
    assert_eq!(client.post(api, serde_json::json!({})).await.json()["resolved_at"], serde_json::Value::Null);
}

async fn a_note_of_several_lines_has_as_many_characters_as_its_field_counts(world: World) {
    let id = world.letter().await;
    // A form sends CRLF, and a field of at most 2,000 characters counts LF.
    let lines = ["x"; 1_000].join("\r\n");
    let fields = [("resolution", "ignored"), ("note", &*lines)];
    world.act(&world.client(), &world.at(&format!("/letters/{id}/resolve")), &fields).await;
    assert_eq!(world.row(id).await.resolution_note, Some(lines.replace('\r', "")));
}

async fn a_replayed_letter_is_reopened_after_a_question(world: World) {
    let id = world.letter().await;
    world.replay(id).await;
    let client = world.client();
    let path = world.at(&format!("/letters/{id}/reopen"));
    let question =
        client.post_as(&path, FORM, form(&[("back", "?state=closed"), ("note", "it was lost")])).await;
    assert!(
        question.status == StatusCode::OK && question.shows("its event is back in the outbox"),
        "{question}"
    );
    assert_eq!(world.row(id).await.resolution, Some(Resolution::Replayed));
    assert!(question.shows("it was lost"), "{question}");
    let (confirmed, back) = (question.hidden("confirmed"), question.hidden("back"));
    let fields = [("confirmed", &*confirmed), ("back", &back), ("note", "it was lost")];
    let page = world.act(&client, &path, &fields).await;
    assert!(page.shows("The letter is unresolved again:") && !page.shows("Undo"), "{page}");
    assert_eq!(world.row(id).await.resolution, None);
    let history = world.repo.actions(world.app, &ActionRequest::default().letter_id(id)).await.unwrap();
    assert_eq!(history[0].note.as_deref(), Some("it was lost"));
}

// A letter

async fn a_letter_shows_its_error_its_payload_and_its_earlier_failures(world: World) {
    let error = "HTTP 503 from crm\n   at deliver (crm.ts:41)\ncaused by: reset";
    let payload = json!({ "order": 4711, "lines": [{ "sku": "A-1" }], "big": 1.10 });
    let new = NewDeadLetter { last_error: error.into(), payload, ..letter(world.app) };
    let id = world.insert(new).await;
    let page = world.client().get(world.at(&format!("/letters/{id}"))).await;
    for text in [
        "orders insert unresolved",
        "Failed 5 times",
        error.split('\n').next().unwrap(),
        "at deliver (crm.ts:41)",
        "Similar failures",
        "\"order\": 4711",
        "\"sku\": \"A-1\"",
        "Attempt 5, the last",
        &id.to_string(),
    ] {
        assert!(page.shows(text), "{text}: {page}");
    }
    assert_eq!(page.header(header::CACHE_CONTROL), "no-store");
    let missing = world.client().get(world.at(&format!("/letters/{}", Uuid::now_v7()))).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert!(missing.shows("The app has no such letter."));
}

async fn a_letter_shows_its_history_and_a_bulk_run_once(world: World) {
    let (id, other) = (world.letter().await, world.letter().await);
    let path = world.at(&format!("/letters/{id}"));
    assert!(!world.client().get(&path).await.shows("History"));
    let by = |name: &str| Attribution::by(name);
    let sold_out = by("ben").note("sold out");
    world.repo.resolve_once(world.app, id, Resolution::Ignored, &sold_out).await.unwrap();
    world.repo.reopen(world.app, id, &by("carol")).await.unwrap();
    let both = DeadLetterFilter::default().ids([id, other]);
    let by_ben = by("ben").run_id(Uuid::now_v7());
    let resolve = async || {
        world.repo.resolve_matching(world.app, &both, Resolution::HandledByScript, &by_ben, 1).await.unwrap()
    };
    while resolve().await.more {}
    let page = world.client().get(&path).await;
    for text in ["History", "Reopened, was ignored by carol", "Resolved: ignored by ben", "sold out"] {
        assert!(page.shows(text), "{text}: {page}");
    }
    // Once as the letter's resolution, and once in its history.
    assert_eq!(page.page().matches("in a bulk run").count(), 2, "{page}");
}

async fn redacted_content_is_revealed_to_operators_with_the_right_and_audited(world: World) {
    let payload = json!({ "customer": { "email": "ada@example.com", "name": "Ada" } });
    let id = world.insert(NewDeadLetter { payload, ..letter(world.app) }).await;
    let admin = |operator| Client::from(world.admin_of(operator).redact(["/customer/email"]).unwrap());
    let path = world.at(&format!("/letters/{id}"));
    let reader = admin(Operator::reader("bob"));
    let page = reader.get(&path).await;
    assert!(
        page.shows("1 field redacted") && !page.page().contains("ada@example.com") && !page.shows("Reveal")
    );
    let reveal = format!("{path}/reveal");
    assert_eq!(reader.post_as(&reveal, FORM, "").await.status, StatusCode::FORBIDDEN);
    listen();
    let seer = admin(Operator::reader("ada").with(Right::Payloads));
    assert!(seer.get(&path).await.shows("Reveal (audited)"));
    for method in [Method::GET, Method::HEAD] {
        assert_eq!(seer.call(method, &reveal).await.status, StatusCode::METHOD_NOT_ALLOWED);
    }
    assert_eq!(seer.get(format!("{path}?reveal=true")).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(audited(), []);
    let page = seer.post_as(&reveal, FORM, "").await;
    assert!(page.page().contains("ada@example.com") && page.shows("Hide again"), "{page}");
    assert_eq!(page.header(header::CACHE_CONTROL), "no-store");
    assert!(page.shows("Download unredacted"), "{page}");
    let audited = audited();
    assert_eq!(audited.len(), 1);
    assert_eq!((audited[0].field("operator"), audited[0].field("outcome")), ("ada", "done"));
    let page = seer.get(&path).await;
    assert!(page.shows("Revealed the redacted content") && page.shows("ada"), "{page}");
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn with_metadata(world: &World, metadata: serde_json::Value) -> NewDeadLetter {
    NewDeadLetter { metadata: metadata.as_object().unwrap().clone(), ..letter(world.app) }
}

async fn a_letter_shows_its_metadata_as_text_and_leads_to_its_trace(world: World) {
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let metadata = json!({ "traceparent": traceparent, "<b>key": "<i>value\u{202e}", "tags": ["a", 1] });
    let id = world.insert(with_metadata(&world, metadata)).await;
    let path = world.at(&format!("/letters/{id}"));
    let page = world.client().get(&path).await;
    for text in
        ["Metadata", "<b>key <i>value\\u{202e}", "tags [\"a\",1]", &format!("traceparent {traceparent}")]
    {
        assert!(page.shows(text), "{text}: {page}");
    }
    assert!(!page.page().contains("<i>") && !page.shows("Trace "), "{page}");

    let admin = || world.admin_of(Operator::reader("bob"));
    let template = "https://jaeger.example/trace/{trace_id}?span={span_id}";
    let tracing = Client::from(admin().trace_url(template).unwrap());
    let page = tracing.get(&path).await;
    let address = format!("https://jaeger.example/trace/{TRACE}?span=00f067aa0ba902b7");
    assert!(page.shows(&format!("Trace {TRACE}")) && page.links().contains(&address), "{page}");
    let hiding = admin().trace_url(template).unwrap().redact_metadata(["/traceparent"]).unwrap();
    let page = Client::from(hiding).get(&path).await;
    assert!(!page.page().contains(TRACE), "{page}");
    for metadata in [json!({}), json!({ "traceparent": "javascript:alert(1)" })] {
        let without = world.insert(with_metadata(&world, metadata)).await;
        let page = tracing.get(world.at(&format!("/letters/{without}"))).await;
        assert!(!page.page().contains("jaeger"), "{page}");
    }
    let error = admin().trace_url("https://jaeger.example/").unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"https://jaeger.example/\" is not a URL of a trace: give an http or https URL, as in \
         https://jaeger.example/trace/{trace_id}"
    );
}

async fn redacted_metadata_is_revealed_to_operators_with_the_right_and_audited(world: World) {
    let payload = json!("x".repeat(200_000));
    let large =
        NewDeadLetter { payload, ..with_metadata(&world, json!({ "email": "canary", "tenant": "acme" })) };
    let small = with_metadata(&world, json!({ "email": "canary", "tenant": "acme" }));
    let admin = |operator| Client::from(world.admin_of(operator).redact_metadata(["/email"]).unwrap());
    for new in [small, large] {
        let id = world.insert(new).await;
        let path = world.at(&format!("/letters/{id}"));
        let reader = admin(Operator::reader("bob"));
        let page = reader.get(&path).await;
        assert!(page.shows("Some values are redacted.") && page.shows("tenant acme"), "{page}");
        assert!(!page.page().contains("canary") && !page.shows("Reveal"), "{page}");
        let reveal = format!("{path}/reveal");
        assert_eq!(reader.post_as(&reveal, FORM, "").await.status, StatusCode::FORBIDDEN);
        listen();
        let seer = admin(Operator::reader("ada").with(Right::Payloads));
        let page = seer.get(&path).await;
        assert!(page.shows("Reveal (audited)") && !page.page().contains("canary"), "{page}");
        assert_eq!(audited(), []);
        let page = seer.post_as(&reveal, FORM, "").await;
        assert!(page.shows("email canary") && !page.shows("Some values are redacted."), "{page}");
        assert_eq!(page.header(header::CACHE_CONTROL), "no-store");
        assert_eq!(audited().len(), 1);
    }
    let id = world.insert(with_metadata(&world, json!({ "email": "canary" }))).await;
    let whole = world.admin_of(Operator::reader("bob")).redact_metadata([""]).unwrap();
    let page = Client::from(whole).get(world.at(&format!("/letters/{id}"))).await;
    assert!(page.shows("Some values are redacted.") && !page.shows("email"), "{page}");
}

async fn the_filter_sets_and_shows_keys_of_the_metadata(world: World) {
    let key = "a.b c=d";
    let id = world.insert(with_metadata(&world, json!({ key: "x&y", "tenant": "acme" }))).await;
    world.insert(with_metadata(&world, json!({ key: "other", "tenant": "acme" }))).await;
    let client = world.client();
    let set = form(&[("metadata_key", key), ("metadata_value", "x&y")]);
    let list = client.open(world.at(&format!("?{set}&metadata.tenant=acme"))).await;
    assert!(list.shows("1 of 1") && list.page().contains(&id.to_string()), "{list}");
    assert!(list.shows("Metadata a.b c=d") && list.shows("Metadata tenant"), "{list}");
    assert_eq!(
        (list.hidden(&format!("metadata.{key}")), list.hidden("metadata.tenant")),
        ("x&y".into(), "acme".into())
    );
    assert!(list.shows("--metadata 'tenant=acme'"), "{list}");

    // The tabs, the groups and the preview keep them.
    let query = form(&[("metadata.a.b c=d", "x&y")]);
    for link in list.links().iter().filter(|link| link.contains("state=closed")) {
        assert!(link.contains(&query), "{link}");
    }
    let preview = [("action", "ignored"), ("filter", &format!("?{query}"))];
    let preview = client.post_as("/bulk/preview", FORM, world.form(&preview)).await;
    assert!(preview.shows("Ignore 1 letter?") && preview.shows("metadata.a.b c=d x&y"), "{preview}");

    for (query, said) in [
        ("metadata_key=tenant", "Is missing: enter"),
        ("metadata_value=acme", "Is missing."),
        ("metadata_key=tenant&metadata_value=acme&metadata.tenant=acme", "Is given twice."),
    ] {
        let refused = client.open(world.at(&format!("?{query}"))).await;
        assert!(refused.status == StatusCode::BAD_REQUEST && refused.shows(said), "{query}: {refused}");
    }
    let api = client.get(world.path("letters?metadata_key=tenant")).await;
    api.problem(400, "invalid");
}

async fn a_large_payload_is_offered_for_download(world: World) {
    let payload = json!("x".repeat(200_000));
    let id = world.insert(NewDeadLetter { payload, ..letter(world.app) }).await;
    let client = world.client();
    let path = world.at(&format!("/letters/{id}"));
    let page = client.get(&path).await;
    assert!(page.shows("too large to show") && page.body.len() < 50_000, "{}", page.body.len());
    let download = page.links().into_iter().find(|link| link.ends_with("/payload")).unwrap();
    assert_eq!(client.get(resolved(&path, &download)).await.body.len(), 200_002);
}

async fn a_payload_that_is_no_json_is_shown_as_text_or_withheld(world: World) {
    let broken = |letter| StoredLetter { payload: "{\"order\": <b>".into(), ..letter };
    let id = world.stored("2026-03-01T10:00:00Z", broken).await;
    let path = world.at(&format!("/letters/{id}"));
    assert!(world.client().get(&path).await.shows("{\"order\": <b>"));
    let admin = world.admin_of(Operator::full("ada")).redact(["/customer/email"]).unwrap();
    let page = Client::from(admin).get(&path).await;
    assert!(page.shows("is withheld") && !page.shows("{\"order\""), "{page}");
}

async fn a_payload_is_shown_with_its_kind_and_text_as_text(world: World) {
    let redacting = || world.admin_of(Operator::full("ada")).redact(["/email"]).unwrap();
    for (kind, payload, said, withheld) in [
        ("json", r#"{"email":"ada@"}"#, "16 B, JSON", false),
        ("json", "{\"email\": \"ada@", "as stored: not JSON, or deeper than 127 levels", true),
        ("text", "email=ada@", "10 B, text, not JSON", true),
        // Not laid out, though it could be.
        ("text", r#"["ada@"]"#, "8 B, text, not JSON", false),
        ("truncated", r#"{"email":"ada@ [cut]"#, "truncated: not the whole event", true),
        ("truncated", r#"{"email":"ada@"}"#, "truncated: not the whole event", false),
        ("erased", "", "erased", true),
    ] {
        let change = |letter| StoredLetter {
            payload: payload.to_owned(),
            payload_kind: Some(kind.to_owned()),
            ..letter
        };
        let id = world.stored("2026-03-01T10:00:00Z", change).await;
        let path = world.at(&format!("/letters/{id}"));
        let page = world.client().get(&path).await;
        assert!(page.shows(said), "{page}");
        assert!(page.shows(payload) || kind != "text", "{page}");
        let page = Client::from(redacting()).get(&path).await;
        assert_eq!(page.shows("is withheld"), withheld, "{page}");
        assert!(!page.shows("email=ada@") && !page.shows(r#""email":"ada@"#), "{page}");
    }
}

// Groups

async fn a_group_of_several_apps_stands_where_its_letters_of_all_apps_place_it(mut world: World) {
    let of = |source: &str| {
        let source = source.to_owned();
        |letter: StoredLetter| StoredLetter { source, script_id: None, ..letter }
    };
    let old = "2026-03-01T10:00:00Z";
    for _ in 0..3 {
        world.stored(old, of("larger-in-one")).await;
    }
    for _ in 0..2 {
        world.app = new_app();
        for _ in 0..2 {
            world.stored(old, of("larger-in-two")).await;
        }
    }
    let page = world.client().get("/apps").await;
    let place = |text: &str| page.page().find(text).unwrap();
    assert!(page.shows("4 open") && place(">larger-in-two<") < place(">larger-in-one<"), "{page}");
}

async fn the_rest_of_a_run_over_two_apps_has_no_letter_that_failed_since_the_preview(mut world: World) {
    let (first, second) = (world.app, new_app());
    world.letters_of(2, "orders").await;
    world.app = second;
    world.letters_of(2, "orders").await;
    let client = world.client();
    let apps = [("app", &*first.to_string()), ("app", &second.to_string())];
    let preview = [&apps[..], &[("action", "replayed"), ("filter", "?state=open")]].concat();
    let preview = client.post_as("/bulk/preview", FORM, form(&preview)).await;
    let page = world.act(&client, "/bulk/run", &[("token", &*preview.hidden("token")), ("limit", "1")]).await;
    assert!(page.shows("Replayed 1 of 4") && page.shows("Ignore the other 3…"), "{page}");
    for app in [first, second] {
        world.app = app;
        world.letters_of(1, "orders").await;
    }
    let filter = page.hidden("filter");
    let rest = [&apps[..], &[("action", "ignored"), ("filter", &filter)]].concat();
    let preview = client.post_as("/bulk/preview", FORM, form(&rest)).await;
    assert!(preview.shows("Ignore 3 letters?"), "{preview}");
}

async fn the_overview_has_the_open_groups_of_all_apps_the_new_and_regressed_ones_first(mut world: World) {
    let old = |letter| StoredLetter { source: "old".to_owned(), script_id: None, ..letter };
    let mut of_old = Vec::new();
    for _ in 0..3 {
        of_old.push(world.stored("2026-03-01T10:00:00Z", old).await);
    }
    let key_of_old = world.group_key(of_old[0]).await;
    let client = world.client();
    let page = client.get("/apps").await;
    assert!(page.shows("Similar failures") && !page.page().contains(">New<"), "{page}");
    let orders = world.letters_of(2, "orders").await;
    let page = client.get("/apps").await;
    let place = |page: &Answer, text: &str| page.page().find(text).unwrap();
    assert!(place(&page, ">orders<") < place(&page, ">old<"), "{page}");
    assert!(page.page().contains(">New<"), "{page}");
    assert!(!page.page().contains(">Regressed<") && !page.shows("Not known"), "{page}");
    let key = world.group_key(orders[0]).await;
    let letters = page.links().into_iter().find(|link| link.contains(&key)).unwrap();
    assert!(client.get(resolved("/apps", &letters)).await.shows("2 of 2"));

    for &id in &orders {
        world.repo.resolve_once(world.app, id, Resolution::Ignored, &Attribution::default()).await.unwrap();
    }
    let page = client.get("/apps").await;
    assert!(!page.page().contains(&key), "{page}");
    world.letters_of(1, "orders").await;
    let page = client.get("/apps").await;
    assert!(page.shows("Regressed last closed") && page.shows("1 open"), "{page}");
    assert!(place(&page, &key) < place(&page, &key_of_old), "{page}");
    let few = Client::from(world.admin_of(Operator::reader("bob").scan_limit(1)));
    let page = few.get("/apps").await;
    assert!(page.shows("Not known whether it is new") && page.shows("Scanned back to"), "{page}");
    let others = Client::from(world.admin_of(Operator::reader("bob").of_apps([new_app()])));
    assert!(!others.get("/apps").await.shows("Similar failures"));
    let many = (0..100).map(|_| new_app()).chain([world.app]);
    let many = Client::from(world.admin_of(Operator::reader("bob").of_apps(many)));
    let page = many.get("/apps").await;
    assert!(page.shows("Open letters of all apps") && !page.page().contains(&key), "{page}");
    assert!(page.shows("are shown for up to 100 apps"), "{page}");

    // The same failure of another app is the same row.
    let (first, second) = (world.app, new_app());
    world.app = second;
    world.letters_of(3, "orders").await;
    let page = client.get("/apps").await;
    assert_eq!(page.page().matches(">orders<").count(), 1, "{page}");
    for text in ["4 open", &format!("{first} 1"), &format!("{second} 3")] {
        assert!(page.shows(text), "{text}: {page}");
    }
    for app in [first, second] {
        assert!(page.page().contains(&format!("name=\"app\" value=\"{app}\"")), "{page}");
    }
    let reader = Client::from(world.admin_of(Operator::reader("bob")));
    assert!(!reader.get("/apps").await.page().contains("name=\"app\""));
}

async fn an_app_stays_on_the_overview_after_its_last_letter_was_closed(world: World) {
    let ids = world.letters_of(1, "orders").await;
    let client = world.client();
    assert!(!client.get("/apps").await.shows("Nothing open"));
    let by = Attribution::by("ada");
    world.repo.resolve_once(world.app, ids[0], Resolution::Ignored, &by).await.unwrap();
    let page = client.get("/apps").await;
    assert!(page.shows("Nothing open last action") && page.shows("No app has open letters"), "{page}");
    let closed = page.links().into_iter().find(|link| link.contains("state=closed")).unwrap();
    assert!(client.get(resolved("/apps", &closed)).await.shows("by ada"));
    let others = Client::from(world.admin_of(Operator::reader("bob").of_apps([new_app()])));
    assert!(!others.get("/apps").await.shows("Nothing open"));
    let long_ago = "UPDATE dead_letter_actions SET created_at = '2026-03-01T10:00:00+00:00'";
    world.repo.pool().execute_unprepared(long_ago).await.unwrap();
    assert!(!client.get("/apps").await.shows("Nothing open"));
}

async fn an_id_is_found_in_all_apps_that_the_operator_may_see(world: World) {
    let id = world.letters_of(1, "orders").await[0];
    let event = Uuid::new_v4();
    let of_event = |letter| StoredLetter { original_event_id: event, ..letter };
    let of_event = world.stored("2026-03-01T10:00:00Z", of_event).await;
    let trigger = Uuid::new_v4();
    let of_trigger = |letter| StoredLetter { trigger_id: Some(trigger.into()), ..letter };
    let of_trigger = world.stored("2026-03-01T10:00:00Z", of_trigger).await;
    let client = world.client();
    let found = client.get(&format!("/find?id={id}")).await;
    let letter = format!("./apps/{}/letters/{id}", world.app);
    assert_eq!((found.status, found.location()), (StatusCode::SEE_OTHER, letter.as_str()));
    for (id, by, letter) in [(event, "event", of_event), (trigger, "trigger", of_trigger)] {
        let found = client.get(&format!("/find?id=+{id}+")).await;
        assert!(found.shows(by) && found.shows("Searched 1 app"), "{found}");
        assert!(found.links().iter().any(|link| link.contains(&letter.to_string())), "{found}");
    }
    let nothing = client.get(&format!("/find?id={}", Uuid::new_v4())).await;
    assert!(nothing.shows("No letter has the id"), "{nothing}");
    let wrong = client.get("/find?id=4711").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(wrong.shows("4711 is not an id"), "{wrong}");

    let others = Client::from(world.admin_of(Operator::reader("bob").of_apps([new_app()])));
    for id in [id.into(), event, trigger] {
        let found = others.get(&format!("/find?id={id}")).await;
        assert!(found.status == StatusCode::OK && found.shows("No letter has the id"), "{found}");
    }
}

async fn a_search_for_an_id_shows_how_far_it_went(world: World) {
    let event = Uuid::new_v4();
    let of_event = |letter| StoredLetter { original_event_id: event, ..letter };
    for _ in 0..21 {
        world.stored("2026-03-01T10:00:00Z", of_event).await;
    }
    world.letters_of(2, "orders").await;
    let path = format!("/find?id={event}");
    let all = world.client().get(&path).await;
    let more = "An app has more letters of this id";
    assert!(all.shows(more) && !all.shows("back to"), "{all}");
    assert_eq!(all.page().matches(">event<").count(), 20);
    let few = Client::from(world.admin_of(Operator::reader("bob").scan_limit(2)));
    let found = few.get(&path).await;
    assert!(found.shows("the newest 2 letters of each, in one of them back to"), "{found}");
    assert!(found.shows("No letter has the id") && !found.shows(more), "{found}");
    // A letter's own id is found in every app, the others in the first hundred.
    let apps: Vec<_> = (0..101).map(|_| letter(new_app())).collect();
    let ids = world.repo.insert_many(apps).await.unwrap();
    assert!(world.client().get(&path).await.shows("Searched 100 apps, the first by id: there are more"));
    for id in [ids[0], ids[100]] {
        let found = world.client().get(&format!("/find?id={id}")).await;
        assert_eq!(found.status, StatusCode::SEE_OTHER, "{found}");
    }
}

async fn the_overview_shows_whether_more_groups_exist_and_in_how_many_apps_its_buttons_act(world: World) {
    let same: Vec<_> = (0..51).map(|_| NewDeadLetter { script_id: None, ..letter(new_app()) }).collect();
    world.repo.insert_many(same).await.unwrap();
    let client = world.client();
    let page = client.get("/apps").await;
    assert!(page.shows("51 open") && page.shows("in 50 of 51 apps"), "{page}");
    assert!(page.shows("and 46 more apps") && !page.shows("There may be more groups"), "{page}");
    assert_eq!(page.page().matches("name=\"app\"").count(), 50);
    let others: Vec<_> =
        (0..449).map(|n| NewDeadLetter { op: format!("op {n}"), ..letter(new_app()) }).collect();
    world.repo.insert_many(others).await.unwrap();
    assert!(client.get("/apps").await.shows("There may be more groups"));
}

async fn a_regressed_group_is_marked(world: World) {
    let ids = world.letters_of(2, "orders").await;
    world.letters_of(1, "invoices").await;
    for &id in &ids {
        world.repo.resolve_once(world.app, id, Resolution::Ignored, &Attribution::default()).await.unwrap();
    }
    let client = world.client();
    assert!(!client.get(world.at("/groups")).await.shows("Regressed"));
    world.letters_of(1, "orders").await;
    for state in ["unresolved", "any"] {
        let page = client.open(world.at(&format!("/groups?state={state}"))).await;
        assert!(page.shows("Regressed last closed") && page.shows("2 closed"), "{state}: {page}");
        let key = world.group_key(ids[0]).await;
        let letters = page.links().into_iter().find(|link| link.contains(&key)).unwrap();
        let expected = if state == "any" { "3 of 3" } else { "1 of 1" };
        assert!(client.get(resolved(&world.at("/groups"), &letters)).await.shows(expected));
    }
}

async fn a_group_leads_to_its_own_letters_and_replay_all_there_takes_no_other(world: World) {
    // The groups differ in their script only.
    let script = Uuid::new_v4();
    let with_script =
        NewDeadLetter { source: "orders".to_owned(), script_id: Some(script.into()), ..letter(world.app) };
    let with_script = world.repo.insert_many(vec![with_script; 3]).await.unwrap();
    let without = world.letters_of(2, "orders").await;
    let client = world.client();
    let groups = client.get(world.at("/groups")).await;
    let mut open = 5;
    for ids in [&without, &with_script] {
        let key = world.group_key(ids[0]).await;
        let is_of_group = |link: &String| link.contains(&format!("group_key={key}"));
        let link = groups.links().into_iter().find(|link| is_of_group(link) && !link.contains("shares"));
        let list = client.get(resolved(&world.at("/groups"), &link.unwrap())).await;
        let count = ids.len();
        assert!(list.shows(&format!("{count} of {count}")), "{list}");
        assert!(list.page().contains(&format!("value=\"{key}\"")), "the form keeps it: {list}");
        assert!(list.shows(&format!("--group {key}")), "{list}");
        let letter = client.get(world.at(&format!("/letters/{}", ids[0]))).await;
        assert!(letter.links().iter().any(is_of_group), "{letter}");
        let (back, filter) = (list.hidden("back"), list.hidden("filter"));
        let fields = [("back", &*back), ("filter", &filter), ("action", "replayed")];
        let preview = client.post_as("/bulk/preview", FORM, world.form(&fields)).await;
        assert!(preview.shows(&format!("Replay {count} letters?")), "{preview}");
        assert!(preview.shows(&format!("Group {key} (smtp: 451 try again later)")), "{preview}");
        let token = preview.hidden("token");
        world.act(&client, "/bulk/run", &[("token", &token), ("back", &back)]).await;
        open -= count;
        for &id in ids {
            assert_eq!(world.row(id).await.resolution, Some(Resolution::Replayed));
        }
        assert_eq!(world.repo.unresolved_count(world.app).await.unwrap(), open as i64);
    }
}

async fn a_group_leads_to_its_letters_however_long_its_source_is(world: World) {
    let client = world.client();
    for length in [501, 6_000_000] {
        let ids = world.letters_of(2, &"s".repeat(length)).await;
        let key = world.group_key(ids[0]).await;
        let groups = client.get(world.at("/groups")).await;
        let link = groups.links().into_iter().find(|link| link.contains(&key)).unwrap();
        assert!(client.get(resolved(&world.at("/groups"), &link)).await.shows("2 of 2"));
    }
}

async fn a_group_shows_a_message_beside_its_signature(world: World) {
    for last_error in ["no stock for order 17", "", "#"] {
        world.insert(NewDeadLetter { last_error: last_error.to_owned(), ..letter(world.app) }).await;
    }
    let page = world.client().get(world.at("/groups")).await;
    assert!(page.shows("no stock for order # no stock for order 17"), "{page}");
    assert!(page.shows("No signature"), "{page}");
}

async fn values_that_a_groups_letters_share_are_found_unless_redacted(world: World) {
    for order in 0..5 {
        let payload = json!({ "order": order, "country": "DE", "email": "ada@example.com" });
        world.insert(NewDeadLetter { payload, script_id: None, ..letter(world.app) }).await;
    }
    let client = Client::from(world.admin_of(Operator::reader("bob")).redact(["/email"]).unwrap());
    let page = client.get(world.at("/groups")).await;
    let shares = page.links().into_iter().find(|link| link.contains("shares=true")).unwrap();
    let page = client.get(resolved(&world.at("/groups"), &shares)).await;
    assert!(page.shows("/country \"DE\" 5 of 5"), "{page}");
    assert!(!page.page().contains("ada@example.com") && !page.shows("/order"));
}

// All of them

async fn every_link_leads_to_a_page(world: World) {
    let first = world.letters_of(3, "a source/with ?odd=signs&ü").await[0];
    world.replay(first).await;
    let again = world.fails_again(first).await;
    world.repo.resolve_once(world.app, again, Resolution::Ignored, &Attribution::by("bob")).await.unwrap();
    let client = world.client();
    let mut seen = BTreeSet::from(["/apps".to_owned()]);
    let mut left = VecDeque::from(["/apps".to_owned()]);
    while let Some(path) = left.pop_front().filter(|_| seen.len() < 150) {
        let answer = client.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer}");
        if answer.header(header::CONTENT_TYPE).starts_with("text/html") {
            for link in answer.links().into_iter().filter(|link| !link.starts_with('#')) {
                let path = resolved(&path, &link);
                if seen.insert(path.clone()) {
                    left.push_back(path);
                }
            }
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
}

async fn hostile_texts_are_text_on_every_page(world: World) {
    const HOSTILE: &str =
        "\"><script>alert(1)</script><img src=x onerror=alert(2)>'\u{202e}\u{200b}\u{0}{{ 7 }}</textarea>";
    let new = || NewDeadLetter {
        source: HOSTILE.into(),
        op: HOSTILE.into(),
        last_error: format!("{HOSTILE}\n{HOSTILE}"),
        payload: json!({ HOSTILE: HOSTILE, "list": [HOSTILE] }),
        metadata: [(HOSTILE.to_owned(), json!(HOSTILE))].into_iter().collect(),
        ..letter(world.app)
    };
    let id = world.insert(new()).await;
    world
        .repo
        .resolve_once(world.app, id, Resolution::Ignored, &Attribution::by(HOSTILE).note(HOSTILE))
        .await
        .unwrap();
    let id = world.insert(new()).await;
    world.replay(id).await;
    world.insert(NewDeadLetter { original_event_id: world.row(id).await.original_event_id, ..new() }).await;
    let admin = world.admin_of(Operator::full(HOSTILE)).app_names(|_| Some(HOSTILE.to_owned()));
    let client = Client::from(admin);
    let source = form(&[("source", HOSTILE)]);
    let mut pages = Vec::new();
    for path in [
        "/apps".to_owned(),
        world.at("?state=any"),
        world.at(&format!("?{source}&error_contains=x")),
        world.at(&format!("?{}", form(&[("metadata_key", HOSTILE), ("metadata_value", HOSTILE)]))),
        world.at("/groups?state=any&shares=true"),
        world.at(&format!("/letters/{id}")),
        world.at("?state=%3Cscript%3E"),
        world.at("?%3Cscript%3E=1"),
        "/apps/<script>".replace('<', "%3C").replace('>', "%3E"),
    ] {
        pages.push(client.open(&path).await);
    }
    let by_key = [("action", "replayed"), (&*format!("metadata.{HOSTILE}"), HOSTILE)];
    pages.push(client.post_as("/bulk/preview", FORM, world.form(&by_key)).await);
    let fields = [("action", "replayed"), ("source", HOSTILE), ("back", &format!("?{source}"))];
    let preview = client.post_as("/bulk/preview", FORM, world.form(&fields)).await;
    let token = preview.hidden("token");
    let search = form(&[("payload_contains", "alert"), ("list", &format!("?{source}"))]);
    pages.push(client.post_as(world.at("/search"), FORM, search).await);
    let groups = form(&[("payload_contains", "alert"), ("groups", "true"), ("list", &format!("?{source}"))]);
    pages.push(client.post_as(world.at("/search"), FORM, groups).await);
    for groups in ["", "true"] {
        let nothing = form(&[("payload_contains", HOSTILE), ("groups", groups)]);
        pages.push(client.post_as(world.at("/search"), FORM, nothing).await);
    }
    pages.push(world.act(&client, "/bulk/run", &[("token", &token), ("note", HOSTILE)]).await);
    pages.push(preview);
    for page in pages {
        assert_eq!(violations(page.page()), [] as [String; 0], "{page}");
        let scripts = tags(page.page()).into_iter().filter(|(name, _)| name == "script").count();
        assert_eq!((scripts, page.page().contains("<img src=x")), (1, false), "{page}");
        // Where a field is sent again it is as it was.
        let shown: String = page
            .page()
            .replace(" name=\"", " value=\"")
            .split("value=\"")
            .map(|part| part.split_once('"').map_or(part, |(_, rest)| rest))
            .collect();
        assert!(!shown.contains(['\u{202e}', '\u{200b}', '\u{0}']), "{page}");
    }
}

async fn a_command_stands_on_every_view(world: World) {
    let id = world.letter().await;
    let client = world.client();
    let app = world.app;
    for (path, curl, cli) in [
        ("/apps".to_owned(), "/api/apps".to_owned(), "dead-letters apps".to_owned()),
        (
            world.at("?source=it%27s"),
            format!("'/api/apps/{app}/letters?state=unresolved&source=it%27s'"),
            format!("dead-letters list --app {app} --state unresolved --source 'it'\\''s'"),
        ),
        (
            world.at("/groups"),
            format!("'/api/apps/{app}/groups?state=unresolved'"),
            format!("dead-letters groups --app {app} --state unresolved"),
        ),
        (
            world.at(&format!("/letters/{id}")),
            format!("/api/apps/{app}/letters/{id}"),
            format!("dead-letters show {id} --app {app}"),
        ),
    ] {
        let page = client.get(&path).await;
        assert!(
            page.shows(&format!("curl \"$DEAD_LETTERS_URL\"{curl}")) && page.shows(&cli),
            "{path}: {page}"
        );
        assert_eq!(client.get(curl.trim_matches('\'')).await.status, StatusCode::OK, "{curl}");
    }
}

#[tokio::test]
async fn an_unavailable_store_is_shown_as_a_page_that_recovers() {
    let store = Arc::new(FailingStore::new(memory().await));
    let app = new_app();
    let id = store.insert(letter(app)).await.unwrap();
    let client = Client::from(Admin::new(store.clone(), let_in(Operator::full("ada"))));
    let views = [
        "/apps".to_owned(),
        format!("/apps/{app}"),
        format!("/apps/{app}/groups"),
        format!("/apps/{app}/letters/{id}"),
    ];
    let of_app = format!("app={app}&action=ignored");
    let forms = [
        ("/bulk/preview".to_owned(), &of_app),
        (format!("/apps/{app}/letters/{id}/resolve"), &"resolution=ignored".to_owned()),
    ];
    // Each call of the store in its turn, and all of them.
    for &call in testing::Call::ALL {
        store.fail(call, .., testing::transient());
        for path in &views {
            let page = client.get(path).await;
            assert!(
                [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&page.status),
                "{call:?}: {page}"
            );
        }
        store.recover();
    }
    fail_all(&store, testing::transient);
    for path in &views {
        let page = client.get(path).await;
        assert_eq!(
            (page.status, page.header(header::RETRY_AFTER)),
            (StatusCode::SERVICE_UNAVAILABLE, "5"),
            "{path}"
        );
        assert!(page.shows("The database is unavailable") && page.page().contains("data-live"), "{page}");
    }
    for (path, fields) in &forms {
        let page = client.post_as(path, FORM, (*fields).to_owned()).await;
        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(page.shows("The database is unavailable") && !page.page().contains("data-live"), "{page}");
    }
    store.recover();
    fail_all(&store, testing::internal);
    let page = client.get(&views[1]).await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(page.shows("Something went wrong") && !page.shows("XX000"), "{page}");
    store.recover();
    for path in &views {
        assert_eq!(client.get(path).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn assets_are_kept_for_good_under_names_that_change_with_them() {
    let client = Client::from(Admin::new(Arc::new(memory().await), let_in(Operator::full("ada"))));
    let page = client.get("/apps").await;
    let tags = tags(page.page());
    let addresses = tags.iter().flat_map(|(_, attributes)| attributes);
    let assets: BTreeSet<_> =
        addresses.map(|(_, value)| value).filter(|value| value.contains("assets/")).collect();
    assert_eq!(assets.len(), 3);
    for asset in assets {
        let answer = client.get(resolved("/apps", asset)).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header(header::CACHE_CONTROL), "public, max-age=31536000, immutable");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    assert_eq!(client.get("/assets/style.css").await.status, StatusCode::NOT_FOUND);
    let page = client.get("/nowhere").await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(page.shows("This address does not exist."), "{page}");
}
