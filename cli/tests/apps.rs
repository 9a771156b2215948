//! Tests of commands over all apps, and of ids, keys and times as people type them.

use chrono::{TimeDelta, Utc};
use dead_letters::{
    AppId, Attribution, DeadLetterRepo, DeadLetterResolve, DeadLetterTransfer, Resolution, StoredLetter,
    testing::stored_letter,
};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    resolve::own,
    support::{Ran, Store},
};

on_every_backend! {
    without_an_app_a_command_is_about_all_apps,
    a_list_of_all_apps_is_sorted_and_continues_on_its_next_page,
    a_list_by_attempts_has_one_page_of_the_letters_examined,
    an_app_is_named_by_the_beginning_of_its_id,
    a_service_names_its_apps,
    a_letter_is_named_by_the_last_digits_of_its_id,
    ids_are_read_from_standard_input,
    a_group_is_named_by_the_beginning_of_its_key,
    a_short_key_is_refused_if_the_app_has_more_groups_than_its_look_up_reads,
    a_short_key_is_refused_if_the_app_has_more_letters_than_its_look_up_reads,
    a_sweep_covers_only_the_app_of_the_environment,
    a_sweep_of_one_app_refuses_to_delete_the_history_of_all_apps,
    a_change_of_all_apps_is_asked_with_its_counts_and_undone_as_one_run,
    a_change_without_a_filter_needs_all,
    an_export_is_of_all_states_and_all_apps_and_imports_as_it_was,
    undoing_a_run_leaves_the_work_of_others_alone,
    a_repeated_command_shows_what_is_new,
}

/// Two letters of each app, of the last minutes: the first app's are the older ones.
async fn of_two_apps(store: &Store) -> (AppId, Vec<StoredLetter>) {
    let other = AppId::from(Uuid::new_v4());
    let of = |app, minutes, error: &str| StoredLetter {
        last_error: error.to_owned(),
        error_signature: error.to_owned(),
        script_id: None,
        ..stored_letter(app, Utc::now() - TimeDelta::minutes(minutes))
    };
    let letters = vec![
        of(store.app, 40, "crm: 503"),
        of(other, 30, "crm: 503"),
        of(store.app, 20, "smtp: 451"),
        of(other, 10, "crm: 503"),
    ];
    store.repo.import(&letters).await.unwrap();
    (other, letters)
}

fn ids(ran: &Ran) -> Vec<String> {
    ran.lines().iter().map(|line| line[0].to_owned()).collect()
}

/// Returns the program's output if the environment names the app.
fn by_env(store: &Store, app: AppId, line: &str) -> Ran {
    let mut program = store.command(line);
    program.args(["--output", "tsv"]).env("DEAD_LETTERS_APP", app.to_string()).output().unwrap().into()
}

async fn without_an_app_a_command_is_about_all_apps(store: Store) {
    let (other, letters) = of_two_apps(&store).await;
    let newest_first: Vec<_> = letters.iter().rev().map(|letter| letter.id.to_string()).collect();
    assert_eq!(ids(&store.run("list")), newest_first);
    assert_eq!(store.run("count").lines(), [["4"]]);
    assert_eq!(store.run("count --cap 3").lines(), [["3+"]]);
    assert_eq!(store.run("count --cap 4").lines(), [["4"]]);
    let groups = store.run("groups");
    let lines = groups.lines();
    assert_eq!(lines.iter().map(|line| line[0]).collect::<Vec<_>>(), ["2", "1", "1"]);
    assert_eq!((lines[0][7], lines[0][6]), (&*other.to_string(), "crm: 503"));
    assert_eq!(store.run("groups --limit 1").lines().len(), 1);
    let buckets = store.run("timeline --since 1h --buckets 2");
    assert_eq!(buckets.lines().iter().map(|line| line[2]).collect::<Vec<_>>(), ["2", "2"]);
    let shown = store.run(&format!("show {}", letters[1].id));
    assert!(shown.out.contains(&format!("app\t{other}\n")), "{shown:?}");
    store.run(&format!("show {}", Uuid::nil())).fails(3, "no app has the dead letter");
    assert_eq!(by_env(&store, other, "count").lines(), [["2"]]);
    assert_eq!(by_env(&store, other, "count --app {app} --source orders").lines(), [["2"]]);
}

async fn a_list_of_all_apps_is_sorted_and_continues_on_its_next_page(store: Store) {
    let (other, mut letters) = of_two_apps(&store).await;
    // Letters of one moment, as one statement stores them.
    let at = Utc::now() - TimeDelta::minutes(25);
    let of_one_moment: Vec<_> =
        (0..5).map(|n| stored_letter(if n % 2 == 0 { store.app } else { other }, at)).collect();
    store.repo.import(&of_one_moment).await.unwrap();
    letters.extend(of_one_moment);
    letters.sort_by_key(|letter| std::cmp::Reverse((letter.created_at, letter.id)));
    let newest_first: Vec<_> = letters.iter().map(|letter| letter.id.to_string()).collect();
    let oldest_first: Vec<_> = newest_first.iter().rev().cloned().collect();
    for (size, sort, expected) in
        (1..=4).flat_map(|size| [(size, "newest", &newest_first), (size, "oldest", &oldest_first)])
    {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let ran = store.run(&format!("list -n {size} --sort {sort} --since 2h{after}"));
            assert_eq!(ran.code, 0, "{ran:?}");
            seen.extend(ran.out.lines().map(|line| line.split('\t').next().unwrap().to_owned()));
            let Some((_, next)) = ran.err.split_once("--after ") else { break };
            after = format!(" --after {}", next.trim());
        }
        assert_eq!(&seen, expected, "{size} a page");
    }
    // A cursor of all apps is not one of an app, and the other way round.
    let all = store.run("list -n 1").err;
    let one = store.run("list -n 1 --app {app}").err;
    let after = |said: &str| said.split_once("--after ").unwrap().1.trim().to_owned();
    store.run(&format!("list --app {{app}} --after {}", after(&all))).fails(2, "the cursor is damaged");
    store.run(&format!("list --after {}", after(&one))).fails(2, "the cursor is damaged");
}

async fn a_list_by_attempts_has_one_page_of_the_letters_examined(store: Store) {
    let (_, mut letters) = of_two_apps(&store).await;
    let at = Utc::now() - TimeDelta::minutes(5);
    let most = StoredLetter { attempt_count: 1_000, ..stored_letter(store.app, at - TimeDelta::hours(1)) };
    store.repo.import(std::slice::from_ref(&most)).await.unwrap();
    letters.push(most);
    assert_eq!(ids(&store.run("list --sort most_attempts -n 1")), [letters[4].id.to_string()]);
    // The letter with the most attempts is the app's oldest, and is not examined.
    let ran = store.run("list --sort most_attempts --scan-limit 2");
    assert!(ran.out.lines().count() == 4 && ran.err.contains("scanned back to"), "{ran:?}");
    let refused = store.run("list --sort most_attempts --payload-contains x");
    assert!(refused.code == 2 && refused.err.contains("--payload-contains"), "{refused:?}");
}

async fn an_app_is_named_by_the_beginning_of_its_id(store: Store) {
    let (other, _) = of_two_apps(&store).await;
    for app in [store.app, other] {
        let beginning = &app.to_string()[..9];
        let lines = store.run(&format!("list --app {beginning}"));
        assert!(lines.lines().iter().all(|line| line[6] == app.to_string()), "{lines:?}");
        assert_eq!(lines.lines().len(), 2);
    }
    let twins = [0, 1].map(|n| Uuid::from_u128(0xabcd_0123 << 96 | n));
    let now = Utc::now();
    store.repo.import(&twins.map(|app| stored_letter(app.into(), now))).await.unwrap();
    let ambiguous = store.run("resolve --app abcd0123 --all --yes");
    ambiguous.fails(2, "it can be one of several apps");
    assert!(twins.iter().all(|app| ambiguous.err.contains(&app.to_string())), "{ambiguous:?}");
    // It may be the name of an app.
    store.run("list --app abcd012").fails(2, "no app with letters has this name, or an ID that begins so");
    store.run("list --app abcd012345").fails(2, "no app with letters has this name, or an ID that begins so");
    store.run("sweep --delete-all-after 1d --yes --app abcd0123").fails(2, "it can be one of several apps");
    assert_eq!(store.run("list --app ABCD0123-0000-0000-0000-000000000001").lines().len(), 1);
}

async fn a_service_names_its_apps(mut store: Store) {
    let (other, _) = of_two_apps(&store).await;
    store.app = "6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01".parse().unwrap();
    let id = store.letter("orders", "crm: 503").await;
    let apps = own(&store, "apps");
    let names: Vec<_> = apps.lines().iter().map(|line| (line[0].to_owned(), line[1].to_owned())).collect();
    assert_eq!(names.len(), 3);
    let name = |app: AppId| if app == store.app { "shop".to_owned() } else { String::new() };
    assert!(names.iter().all(|(app, of)| *of == name(app.parse().unwrap())), "{names:?}");
    assert_eq!(ids(&own(&store, "list --app shop")), [id.to_string()]);
    own(&store, "list --app Shop").fails(2, "no app with letters has this name");
    store.run("list --app shop").fails(2, "no app with letters has this name");
    for line in ["list", "groups"] {
        let table = own(&store, &format!("{line} --output table"));
        assert!(table.out.contains("  shop  ") && table.out.contains(&other.to_string()[..8]), "{table:?}");
    }
    let shown = own(&store, &format!("show {id}"));
    assert!(shown.out.contains("\napp name\tshop\n"), "{shown:?}");
    let wide = own(&store, "list --output table --wide").out;
    assert!(wide.lines().next().unwrap().ends_with("  NAME") && wide.contains("  shop\n"), "{wide}");
    assert_eq!(own(&store, "resolve --app shop --all --yes").lines(), [["1"]]);
}

async fn a_letter_is_named_by_the_last_digits_of_its_id(store: Store) {
    let (_, letters) = of_two_apps(&store).await;
    let short = |n: usize| letters[n].id.to_string()[28..].to_owned();
    let shown = store.run(&format!("show {} --output json", short(1))).json();
    assert_eq!(shown["id"], json!(letters[1].id));
    assert_eq!(ids(&store.run(&format!("list --ids {},{}", short(0), short(3)))).len(), 2);
    let resolved = store.run(&format!("resolve {} {}", short(0), short(1)));
    assert_eq!(resolved.lines(), [["2"]]);
    assert_eq!(store.run(&format!("reopen {} {}", short(0), letters[1].id)).lines(), [["2"]]);
    store.run("show 00000000").fails(3, "no letter of any app has an ID that ends in 00000000");
    store.run("resolve 00000000 --app {app}").fails(3, "no letter of the app");
    let mut twins = [0, 1].map(|_| stored_letter(store.app, Utc::now()));
    for (n, twin) in twins.iter_mut().enumerate() {
        twin.id = Uuid::from_u128((n as u128 + 1) << 64 | 0x1234_5678).into();
    }
    store.repo.import(&twins).await.unwrap();
    let ambiguous = store.run("resolve 12345678");
    ambiguous.fails(2, "several letters end so");
    assert!(twins.iter().all(|twin| ambiguous.err.contains(&twin.id.to_string())), "{ambiguous:?}");
    assert_eq!(store.run("count").lines(), [["6"]]);
}

async fn ids_are_read_from_standard_input(store: Store) {
    let (_, letters) = of_two_apps(&store).await;
    let quiet = store.run("list -q --error-contains crm");
    let crm = [3, 1, 0].map(|n| letters[n].id.to_string() + "\n").concat();
    assert_eq!((quiet.code, &*quiet.out), (0, &*crm), "{quiet:?}");
    assert_eq!(store.fed("resolve - --note known", &quiet.out).lines(), [["3"]]);
    assert_eq!(store.run("count").lines(), [["1"]]);
    store.fed("resolve -", "not an id\n").fails(2, "standard input: a line is not the ID of a letter");
    store.fed("show -", &quiet.out).fails(2, "standard input does not have the ID of one letter");
    let nothing = store.fed("resolve -", "");
    assert_eq!((nothing.code, &*nothing.out), (0, "0\n"), "{nothing:?}");
}

async fn a_group_is_named_by_the_beginning_of_its_key(store: Store) {
    // Both apps have letters of the largest group.
    of_two_apps(&store).await;
    let groups = store.run("groups");
    let key = groups.lines()[0][4].to_owned();
    assert_eq!(key.len(), 16);
    assert_eq!(ids(&store.run(&format!("list -g {}", &key[..8]))).len(), 3);
    assert_eq!(ids(&store.run(&format!("list -g {key}"))).len(), 3);
    let table = store.run("groups --output table");
    assert!(table.out.contains(&format!("\n{}  ", &key[..8])), "{table:?}");
    store.run("list --group 0").fails(2, "no matching letter is in a group whose key begins with 0");
    let resolved = store.run(&format!("resolve --group {} --yes", &key[..8]));
    assert_eq!(resolved.lines(), [["3"]]);
    // At least two of seventeen keys begin with the same digit.
    let letters: Vec<_> = (0..17)
        .map(|n| StoredLetter { source: format!("source {n}"), ..stored_letter(store.app, Utc::now()) })
        .collect();
    store.repo.import(&letters).await.unwrap();
    let groups = store.run("groups --output tsv");
    let keys: Vec<_> = groups.lines().iter().map(|line| line[4].to_owned()).collect();
    let begins = |digit: &char| keys.iter().filter(|key| key.starts_with(*digit)).count() > 1;
    let digit = "0123456789abcdef".chars().find(begins).unwrap();
    let ambiguous = store.run(&format!("resolve --group {digit} --yes"));
    ambiguous.fails(2, "several groups have a key that begins with");
    assert!(keys.iter().all(|key| ambiguous.err.contains(key) == key.starts_with(digit)), "{ambiguous:?}");
    // Among closed letters, because only these can be reopened.
    let reopened = store.run(&format!("reopen --group {} --yes", &key[..8]));
    assert_eq!(reopened.lines(), [["3"]]);
}

async fn a_short_key_is_refused_if_the_app_has_more_groups_than_its_look_up_reads(store: Store) {
    let now = Utc::now();
    let letters: Vec<_> = (0..501)
        .map(|n| StoredLetter { source: format!("source {n}"), ..stored_letter(store.app, now) })
        .collect();
    store.repo.import(&letters).await.unwrap();
    let groups = store.run("groups --source-contains 0");
    let key = groups.lines()[0][4].to_owned();
    let short = &key[..8];
    for line in ["resolve --yes", "list"] {
        let refused = store.run(&format!("{line} --group {short}"));
        let app = store.app;
        refused.fails(2, &format!("the look-up stopped at 500 groups or 100,000 letters of the app {app}"));
        assert!(
            refused.err.contains("hint: pass the whole key, as `groups --wide` prints it"),
            "{refused:?}"
        );
    }
    assert_eq!(store.unresolved().await, 501);
    // With this filter the app has fewer groups, and the look-up reads all of them.
    let narrow = store.run(&format!("resolve --group {short} --source-contains 0 --yes"));
    assert_eq!(narrow.lines(), [["1"]]);
    // Letters of any state, so that the app has all of its groups.
    assert_eq!(ids(&store.run(&format!("list --group {key} --state any"))).len(), 1);
    // Two keys are ambiguous, whatever other keys there are.
    let digit = &key[..1];
    let ambiguous = store.run(&format!("list --group {digit} --state any"));
    ambiguous.fails(2, "several groups have a key that begins with");
}

async fn a_short_key_is_refused_if_the_app_has_more_letters_than_its_look_up_reads(store: Store) {
    let at = |time: &str| stored_letter(store.app, time.parse().unwrap());
    let older = StoredLetter { source: "parcels".to_owned(), ..at("2026-01-01T09:00:00Z") };
    store.repo.import(&[older, at("2026-01-01T11:00:00Z")]).await.unwrap();
    let groups = store.run("groups --source orders");
    let key = groups.lines()[0][4].to_owned();
    let short = &key[..8];
    assert_eq!(ids(&store.run(&format!("list --group {short}"))).len(), 1);
    // As another writer stores letters: without a key.
    let (generate, app, time) = match store.url.starts_with("sqlite") {
        true => (
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)",
            format!("unhex('{}')", store.app.into_inner().simple()),
            "'2026-01-01T10:00:00+00:00'",
        ),
        false => (
            "WITH numbers (n) AS (SELECT generate_series(1, 100000))",
            format!("uuid '{}'", store.app),
            "timestamptz '2026-01-01T10:00:00Z'",
        ),
    };
    let fill = format!(
        "{generate}
         INSERT INTO dead_letters (app_id, original_event_id, source, op, payload, attempt_count,
             first_attempt_at, last_attempt_at, last_error, created_at)
         SELECT {app}, {app}, 'orders', 'insert', '{{}}', 5, {time}, {time}, 'smtp: 451', {time} FROM numbers"
    );
    store.repo.pool().execute_unprepared(&fill).await.unwrap();
    store.run(&format!("resolve --group {short} --yes")).fails(2, "so further keys may begin with");
    // The letters of this time are fewer, and the look-up reads all of them.
    let since = "--since 2026-01-01T10:30:00Z";
    assert_eq!(ids(&store.run(&format!("list --group {short} {since}"))).len(), 1);
    assert_eq!(store.run(&format!("resolve --group {key} --yes")).lines(), [["1"]]);
}

async fn a_sweep_covers_only_the_app_of_the_environment(store: Store) {
    let other = AppId::from(Uuid::new_v4());
    let old = Utc::now() - TimeDelta::days(2);
    store.repo.import(&[store.app, other].map(|app| stored_letter(app, old))).await.unwrap();
    let sweep = "sweep --delete-all-after 1d";
    assert_eq!(by_env(&store, other, &format!("{sweep} --dry-run")).lines()[0][1], "1");
    assert_eq!(by_env(&store, other, &format!("{sweep} --yes")).lines(), [["1", "0"]]);
    assert_eq!(store.count().await, 1);
    assert_eq!(by_env(&store, other, "count").lines(), [["0"]]);
    // The option overrides the variable.
    assert_eq!(by_env(&store, other, &format!("{sweep} --yes --app {{app}}")).lines(), [["1", "0"]]);
    assert_eq!(store.count().await, 0);
}

async fn a_sweep_of_one_app_refuses_to_delete_the_history_of_all_apps(store: Store) {
    let line = "sweep --delete-all-after 1d --delete-actions-after 1d --yes";
    let why = "--delete-actions-after covers the history of all apps, so it cannot be used with --app or DEAD_LETTERS_APP";
    by_env(&store, store.app, line).fails(2, why);
    store.run(&format!("{line} --app {{app}}")).fails(2, why);
    let of_all = store.run(line);
    assert!(of_all.code == 0 && of_all.err.contains("0 actions were deleted"), "{of_all:?}");
}

async fn a_change_of_all_apps_is_asked_with_its_counts_and_undone_as_one_run(store: Store) {
    let (other, _) = of_two_apps(&store).await;
    let asked = store.typed(80, "resolve --error-contains crm --since 2h", "y\n");
    for line in [
        "3 letters will be resolved as ignored:\n".to_owned(),
        format!("       1  {}\n", store.app),
        format!("       2  {other}\n"),
        "  filter    open, error contains crm, since ".to_owned(),
        "  crm: 503\n".to_owned(),
        "\nContinue? [y/N] ".to_owned(),
        format!("2 of {}", &other.to_string()[..8]),
    ] {
        assert!(asked.out.contains(&line), "{line}: {}", asked.out);
    }
    let database = asked.out.lines().find_map(|line| line.strip_prefix("  database  ")).unwrap();
    let url = url::Url::parse(&store.url).unwrap();
    assert!(database.contains(url.path()) && !database.contains('@'), "{database}");
    assert_eq!(store.run("count").lines(), [["1"]]);
    let undo =
        asked.out.lines().find_map(|line| Some(line.split_once("undo with `dead-letters ")?.1)).unwrap();
    let undone = store.run(&format!("{} --yes", undo.trim_end_matches('`')));
    assert_eq!(undone.lines(), [["3"]]);
    assert_eq!(store.run("count").lines(), [["4"]]);
    // The dry run shows the newest of all apps.
    let dry = store.run("resolve --error-contains crm --dry-run");
    assert_eq!((dry.code, dry.out.lines().count()), (0, 3), "{dry:?}");
}

async fn a_change_without_a_filter_needs_all(store: Store) {
    of_two_apps(&store).await;
    for line in ["resolve --yes", "resolve --app {app} --yes", "resolve --state unresolved --yes"] {
        store.run(line).fails(2, "or --all for every letter");
    }
    assert_eq!(store.run("resolve --app {app} --all --yes").lines(), [["2"]]);
    assert_eq!(store.run("resolve --all --yes").lines(), [["2"]]);
    // A question that nobody can see is not asked.
    let unseen = store.typed(80, "reopen --all 2>/dev/null", "y\n");
    assert_eq!((unseen.code, &*unseen.out.replace("y\n", "")), (2, ""), "{unseen:?}");
    assert_eq!(store.run("count").lines(), [["0"]]);
}

async fn an_export_is_of_all_states_and_all_apps_and_imports_as_it_was(store: Store) {
    let (other, letters) = of_two_apps(&store).await;
    store.repo.resolve(letters[0].id, "ignored").await.unwrap();
    store.repo.resolve(letters[1].id, "ignored").await.unwrap();
    store.repo.resolve(letters[3].id, "ignored").await.unwrap();
    let exported = store.run("export");
    assert_eq!(exported.out.lines().count(), 4);
    assert_eq!(store.run("export --state open").out.lines().count(), 1);
    assert_eq!(store.run(&format!("export --app {other}")).out.lines().count(), 2);
    let imported = store.fed("import", &exported.out);
    assert_eq!(imported.lines(), [["0", "4"]]);
}

async fn undoing_a_run_leaves_the_work_of_others_alone(store: Store) {
    let (_, letters) = of_two_apps(&store).await;
    store.run("resolve --error-contains crm --yes --by ada");
    store.repo.resolve(letters[2].id, "ignored").await.unwrap();
    let by_ben = Attribution::by("ben");
    store.repo.reopen(letters[3].app_id, letters[3].id, &by_ben).await.unwrap();
    store.repo.resolve_once(letters[3].app_id, letters[3].id, Resolution::Ignored, &by_ben).await.unwrap();
    assert_eq!(store.run("reopen --resolved-by ada --resolved-since 1h --yes").lines(), [["2"]]);
    assert_eq!(store.run("list --state closed").lines().len(), 2);
}

async fn a_repeated_command_shows_what_is_new(store: Store) {
    use std::io::{BufRead, BufReader};
    let mut program = store.start("count --watch 1s");
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("0"));
    of_two_apps(&store).await;
    assert!(lines.any(|line| line == "4"));
    crate::support::signal(&program, "INT");
    assert_eq!(program.wait().unwrap().code(), Some(0));
    let json: Value = store.run("count --output json").json();
    assert_eq!(json["count"], json!(4));
    store.run("count --watch 0s").fails(2, "--watch: \"0s\" is shorter than the minimum of 1s");
    store.run("resolve --watch").fails(2, "--watch");
    assert_eq!(store.repo.unresolved_count(store.app).await.unwrap(), 2);
}
