//! The OpenAPI document, as it is served.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use dead_letters::{AppId, DeadLetterId, DeadLetterRepo, testing::letter};
use dead_letters_admin::{Admin, Operator};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Client, let_in, memory, new_app};

async fn client() -> (Client, AppId, DeadLetterId) {
    let app = new_app();
    let store = memory().await;
    let ids = store.insert_many(vec![letter(app); 2]).await.unwrap();
    let admin = Admin::new(Arc::new(store), let_in(Operator::full("ada")));
    (admin.into(), app, ids[0])
}

/// Clients are generated from it. `UPDATE_OPENAPI=1` writes it anew, to be looked at before it is committed.
#[tokio::test]
async fn the_served_document_equals_openapi_json() {
    let (client, ..) = client().await;
    let mut served = client.get("/api/openapi.json").await.json();
    assert_eq!(served["info"]["version"], env!("CARGO_PKG_VERSION"));
    served["info"]["version"] = json!("VERSION");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        fs::write(&path, serde_json::to_string_pretty(&served).unwrap() + "\n").unwrap();
    }
    let known: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert!(
        served == known,
        "the document has changed: run with UPDATE_OPENAPI=1 and look at the difference"
    );
}

fn operations(document: &Value) -> impl Iterator<Item = (&String, &String, &Value)> {
    document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(move |(method, operation)| (path, method, operation))
    })
}

fn parameters<'a>(operation: &'a Value, place: &'a str) -> impl Iterator<Item = &'a Value> {
    operation["parameters"].as_array().into_iter().flatten().filter(move |parameter| parameter["in"] == place)
}

/// A value that the parameter's schema allows.
fn example(schema: &Value) -> String {
    if let Some(schema) = schema["anyOf"].get(0) {
        return example(schema);
    }
    if let Some(word) = schema["enum"].get(0) {
        return word.as_str().unwrap().to_owned();
    }
    match (schema["type"].as_str().unwrap(), schema["format"].as_str()) {
        ("array", _) => example(&schema["items"]),
        ("boolean", _) => "true".to_owned(),
        ("integer", _) => schema["minimum"].to_string(),
        ("string", Some("uuid")) => Uuid::new_v4().to_string(),
        ("string", Some("date-time")) => "2026-03-01T10:00:00Z".to_owned(),
        ("string", None) => "text".to_owned(),
        other => panic!("no example of {other:?}"),
    }
}

#[tokio::test]
async fn every_parameter_of_the_document_is_taken_and_no_other() {
    let (client, app, id) = client().await;
    let document = client.get("/api/openapi.json").await.json();
    let names: BTreeSet<_> = operations(&document)
        .flat_map(|(.., operation)| parameters(operation, "query"))
        .map(|parameter| parameter["name"].as_str().unwrap())
        .collect();
    assert!(names.len() > 15, "{names:?}");
    let cursor = client.get(format!("/api/apps/{app}/letters?size=1")).await.json()["next"].clone();
    for (path, _, operation) in operations(&document).filter(|&(_, method, _)| method == "get") {
        let at = path.replace("{dead_letters_app}", &app.to_string());
        let at = at.replace("{dead_letters_id}", &id.to_string());
        for &name in &names {
            let known = parameters(operation, "query").find(|parameter| parameter["name"] == name);
            let value = match known.map(|parameter| &parameter["schema"]) {
                Some(schema) if schema.get("pattern").is_some() => cursor.as_str().unwrap().to_owned(),
                Some(schema) => example(schema),
                None => "1".to_owned(),
            };
            let answer = client.get(format!("{at}?{name}={value}")).await;
            match known {
                Some(_) => assert_eq!(answer.status, 200, "{at}?{name}={value}: {answer}"),
                None => assert_eq!(answer.problem(400, "invalid")["field"], name, "{at}?{name}={value}"),
            }
        }
    }
}

#[tokio::test]
async fn every_parameter_and_field_is_described() {
    let (client, ..) = client().await;
    let document = client.get("/api/openapi.json").await.json();
    for (path, method, operation) in operations(&document) {
        assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{method} {path}");
        for place in ["path", "query"] {
            for parameter in parameters(operation, place) {
                assert!(parameter["description"].is_string(), "{method} {path}: {}", parameter["name"]);
            }
        }
        for status in ["400", "401", "403", "500", "503"] {
            assert!(operation["responses"].get(status).is_some(), "{method} {path}: {status}");
        }
    }
}
