//! Every field of every route at its extremes: the fields of the OpenAPI document and of the pages' forms. The
//! answer is a clear error or the right page, never a 500.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use axum::{
    body::Body,
    http::{Request, StatusCode, header::CONTENT_TYPE},
};
use dead_letters::{AppId, DeadLetterId, DeadLetterRepo, Retention, RetentionPolicy, testing::letter};
use dead_letters_admin::{Admin, Operator};
use serde_json::Value;
use uuid::Uuid;

use crate::support::{Answer, Client, Outbox, let_in, memory, new_app};

/// Texts that have broken something somewhere: ends of numbers and of times, what is no UTF-8, and what means
/// something to a shell, a database, a path or a page.
fn extremes() -> &'static [String] {
    static EXTREMES: OnceLock<Vec<String>> = OnceLock::new();
    EXTREMES.get_or_init(|| {
        let texts = [
            "",
            "0",
            "1",
            "-1",
            "1.5",
            "1e9",
            "0x10",
            "+1",
            "007",
            "null",
            "true",
            "TRUE",
            "[]",
            "{}",
            "\"\"",
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "-9223372036854775809",
            "1000000",
            "1000001",
            "0001-01-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "-0001-01-01T00:00:00Z",
            "-262143-01-01T00:00:00Z",
            "-262144-01-01T00:00:00Z",
            "%2B262142-12-31T23:59:59.999999999Z",
            "9999-12-31T23:59:59.999999999Z",
            "%2B10000-01-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-06-30T23:59:60Z",
            "2026-01-01T00:00:00%2B23:59",
            "1970-01-01T00:00:00Z",
            "2026-03-01",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "%7B00000000-0000-0000-0000-000000000000%7D",
            "urn:uuid:00000000-0000-0000-0000-000000000000",
            "%00",
            "%FF",
            "%C3%28",
            "%ED%A0%80",
            "%0A",
            "%0D%0A",
            "%E2%80%AE",
            "%",
            "%G0",
            "%2e%2e%2f",
            "../..",
            "a,b",
            ",",
            ",,",
            "%25_%25",
            "';--",
            "$(id)",
            "%60id%60",
            "%3Cscript%3E",
            "any",
            "open",
            "closed",
            "replayed",
            "oldest",
            "most",
            "a.b",
            ".",
            "=",
            "==",
        ];
        let long = ["x", "%C3%A9", "%00", "%E2%80%AE", "9"];
        let long =
            long.map(|text| text.repeat(2_000)).into_iter().chain(["x".repeat(70_000), "9".repeat(400)]);
        texts.map(str::to_owned).into_iter().chain(long).collect()
    })
}

struct Site {
    client: Client,
    app: AppId,
    id: DeadLetterId,
}

impl Site {
    async fn new() -> Self {
        let (store, app) = (memory().await, new_app());
        let id = store.insert_many(vec![letter(app); 3]).await.unwrap()[0];
        let replay = Arc::new(store.replayer(Arc::<Outbox>::default()));
        let others = Retention::default().delete_all_after(std::time::Duration::from_secs(1));
        let admin = Admin::new(Arc::new(store), let_in(Operator::full("ada")))
            .replay(replay)
            .retention(RetentionPolicy::new(others))
            .redact(["/card"])
            .unwrap();
        Self { client: admin.into(), app, id }
    }

    fn at(&self, path: &str) -> String {
        path.replace("{dead_letters_app}", &self.app.to_string())
            .replace("{dead_letters_id}", &self.id.to_string())
    }
}

const PAGES: [&str; 5] = [
    "/apps",
    "/apps/{dead_letters_app}",
    "/apps/{dead_letters_app}/groups",
    "/apps/{dead_letters_app}/letters/{dead_letters_id}",
    "/runs/00000000-0000-0000-0000-000000000001",
];
const FORMS: [&str; 11] = [
    "/apps/{dead_letters_app}/letters/{dead_letters_id}/resolve",
    "/apps/{dead_letters_app}/letters/{dead_letters_id}/replay",
    "/apps/{dead_letters_app}/letters/{dead_letters_id}/reopen",
    "/apps/{dead_letters_app}/letters/{dead_letters_id}/reveal",
    "/apps/{dead_letters_app}/letters/{dead_letters_id}/erase",
    "/apps/{dead_letters_app}/letters/{dead_letters_id}/edit",
    "/apps/{dead_letters_app}/letters/{dead_letters_id}/edit/review",
    "/apps/{dead_letters_app}/letters/{dead_letters_id}/edit/replay",
    "/apps/{dead_letters_app}/search",
    "/bulk/preview",
    "/bulk/run",
];

/// The names of all fields: those of the document, of the lists' forms, and of the links.
async fn names(site: &Site) -> BTreeSet<String> {
    let document = site.client.get("/api/openapi.json").await.json();
    let mut names = BTreeSet::new();
    for item in document["paths"].as_object().unwrap().values() {
        for parameter in item["get"]["parameters"].as_array().into_iter().flatten() {
            if parameter["in"] == "query" {
                names.insert(parameter["name"].as_str().unwrap().to_owned());
            }
        }
    }
    for page in [site.at(PAGES[1]), site.at(PAGES[2])] {
        let page = site.client.get(page).await;
        names.extend(
            page.text().split(" name=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()),
        );
    }
    names.extend(
        [
            "banner",
            "reveal",
            "shares",
            "sort",
            "run",
            "token",
            "note",
            "payload",
            "version",
            "back",
            "from",
            "resolved_at",
            "limit",
            "anyway",
            "automatic",
            "app",
            "confirmed",
            "resolution",
            "metadata.tenant",
            "metadata.",
        ]
        .map(str::to_owned),
    );
    assert!(names.len() > 25, "{names:?}");
    names
}

fn is_clear(answer: &Answer, request: &str) {
    let is_fault = answer.status.is_server_error() || answer.status == StatusCode::IM_A_TEAPOT;
    let shown: String = request.chars().take(200).collect();
    assert!(!is_fault, "{shown}: {answer}");
    assert!(answer.body.len() < 1 << 20, "{shown}: {} bytes", answer.body.len());
}

#[tokio::test]
async fn no_field_of_a_view_makes_it_fail() {
    let site = Site::new().await;
    let names = names(&site).await;
    let document = site.client.get("/api/openapi.json").await.json();
    let views = document["paths"].as_object().unwrap().iter();
    let views = views.filter(|(_, item)| item.get("get").is_some()).map(|(path, _)| path.as_str());
    for view in views.chain(PAGES) {
        let view = site.at(view);
        for name in &names {
            for value in extremes() {
                let path = format!("{view}?{name}={value}");
                // An address that http itself refuses reaches nobody.
                let Ok(request) = Request::get(&path).body(Body::empty()) else { continue };
                is_clear(&site.client.send(request).await, &path);
            }
        }
    }
}

#[tokio::test]
async fn no_field_of_a_form_makes_it_fail_or_does_something() {
    let site = Site::new().await;
    let names = names(&site).await;
    for form in FORMS {
        let path = site.at(form);
        for name in &names {
            for value in extremes() {
                // The rest of the form is valid, so that the handler reads the field.
                let rest = if name == "action" { "" } else { "&action=ignored" };
                let rest = if name == "app" { rest.to_owned() } else { format!("{rest}&app={}", site.app) };
                let rest = match form.rsplit('/').next() {
                    Some("preview") => &rest,
                    Some("search") if name != "payload_contains" => "&payload_contains=4711",
                    _ => "",
                };
                let body = format!("{name}={value}{rest}");
                if form.ends_with("replay") || form.ends_with("reopen") || form.ends_with("reveal") {
                    // Where no field is needed: the letter is another one, that is not there.
                    let none = path.replace(&site.id.to_string(), &Uuid::nil().to_string());
                    let answer =
                        site.client.post_as(&none, "application/x-www-form-urlencoded", body.clone()).await;
                    is_clear(&answer, &body);
                    assert!(answer.status.is_client_error(), "{form} {body}: {answer}");
                } else {
                    let answer =
                        site.client.post_as(&path, "application/x-www-form-urlencoded", body.clone()).await;
                    is_clear(&answer, &body);
                }
            }
        }
    }
    let letter =
        site.client.get(site.at("/api/apps/{dead_letters_app}/letters/{dead_letters_id}")).await.json();
    assert_eq!(letter["resolved_at"], Value::Null);
}

#[tokio::test]
async fn no_field_of_a_body_makes_it_fail_or_does_something() {
    let site = Site::new().await;
    let texts = extremes().iter().map(|text| Value::from(text.as_str()));
    let values: Vec<_> = texts
        .chain([Value::Null, true.into(), (-1).into(), u64::MAX.into(), 1e300.into(), vec![0; 2_000].into()])
        .chain([serde_json::json!({}), serde_json::json!([[[[[]]]]]), serde_json::json!({ "state": [] })])
        .collect();
    for (route, fields) in [
        ("letters/{dead_letters_id}/resolve", &["note", "resolution", "by"][..]),
        ("letters/search", &["payload_contains", "filter", "size", "after", "scan_limit"]),
        ("groups/search", &["payload_contains", "filter", "limit", "scan_limit"]),
        ("bulk/preview", &["apps", "action", "filter"]),
        ("bulk/run", &["token", "note", "limit"]),
    ] {
        let path = site.at(&match route.starts_with("bulk/") {
            true => format!("/api/{route}"),
            false => format!("/api/apps/{{dead_letters_app}}/{route}"),
        });
        for &field in fields {
            for value in &values {
                let body = serde_json::json!({ field: value });
                is_clear(&site.client.post(&path, body.clone()).await, &body.to_string());
            }
        }
        for field in ["state", "ids", "source", "trigger_id", "created_from", "created_before", "resolution"]
        {
            for value in &values {
                let body = serde_json::json!({ "apps": [site.app], "action": "ignored", "filter": { field: value } });
                is_clear(&site.client.post(&path, body.clone()).await, &body.to_string());
            }
        }
        for nonsense in ["", "{", "[", "{}", "null", "\u{feff}{}", &"[".repeat(100_000), "{\"\\ud800\":1}"] {
            is_clear(&site.client.post_as(&path, "application/json", nonsense.to_owned()).await, nonsense);
        }
        is_clear(&site.client.post_as(&path, "application/json", vec![0xff; 100]).await, "no UTF-8");
    }
    let letter =
        site.client.get(site.at("/api/apps/{dead_letters_app}/letters/{dead_letters_id}")).await.json();
    assert_eq!(letter["resolved_at"], Value::Null);
}

#[tokio::test]
async fn no_path_is_a_second_door() {
    let site = Site::new().await;
    let mounted = Client::from(axum::Router::new().nest_service(
        "/admin",
        Admin::new(Arc::new(memory().await), let_in(Operator::full("ada"))).into_service(),
    ));
    let (app, id) = (site.app, site.id);
    for path in [
        "//".to_owned(),
        "//apps".to_owned(),
        "/apps//".to_owned(),
        format!("//apps/{app}"),
        format!("/apps//{app}"),
        format!("/apps/{app}//groups"),
        format!("/apps/{app}/"),
        format!("//api/apps/{app}/letters/{id}"),
        format!("/api//apps/{app}/letters/{id}"),
        format!("/apps/{app}/letters/{id}/payload"),
        format!("/api/apps/{app}/letters/{id}/payload/"),
        format!("/apps/%2e%2e/api/apps/{app}/letters"),
        format!("/assets/../apps/{app}"),
        "/assets/%2e%2e%2fapps".to_owned(),
        format!("/API/apps/{app}"),
        format!("/apps/{app}%2f"),
        format!("/apps/{app}%00"),
        "/apps/%FF".to_owned(),
        "/%61pps".to_owned(),
    ] {
        let answer = site.client.get(&path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {answer}");
        for prefix in ["/admin", "/admin/"] {
            let path = format!("{prefix}{path}");
            let status = mounted.get(&path).await.status;
            assert!([StatusCode::NOT_FOUND, StatusCode::SEE_OTHER].contains(&status), "{path}: {status}");
        }
    }
    for action in ["resolve", "replay", "reopen", "reveal"] {
        for path in [
            format!("//apps/{app}/letters/{id}/{action}"),
            format!("/apps/{app}//letters/{id}/{action}"),
            format!("/apps/{app}/letters/{id}/{action}/"),
            format!("/apps/{app}/letters/{id}//{action}"),
        ] {
            let form = "application/x-www-form-urlencoded";
            let answer = site.client.post_as(&path, form, "resolution=ignored").await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {answer}");
        }
    }
}

#[tokio::test]
async fn ten_thousand_fields_are_refused() {
    let site = Site::new().await;
    let many: String = (0..10_000).map(|n| format!("f{n}={n}&")).collect();
    let same = "source=a&".repeat(10_000);
    for query in [&many, &same] {
        for view in ["/apps/{dead_letters_app}", "/api/apps/{dead_letters_app}/letters"] {
            // Longer addresses than a server takes are still no fault of a router.
            let request =
                Request::get(format!("{}?{}", site.at(view), &query[..60_000])).body(Body::empty()).unwrap();
            assert_eq!(site.client.send(request).await.status, StatusCode::BAD_REQUEST);
        }
        let request =
            Request::post(site.at(FORMS[4])).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let answer = site.client.send(request.body(Body::from(query.clone())).unwrap()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    }
}
