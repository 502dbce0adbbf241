//! The description that users get, held against what is served: every request of these tests that takes a route of `/v1`
//! comes by [`check`], and must have been answered as its operation says.

use super::*;
use crate::http::v1::{OPENAPI, ROUTES, Route, named};
use hyper::Method;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::LazyLock;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(OPENAPI).expect("the description is JSON"));

/// Panics if the document does not say that this request can be answered like this.
#[track_caller]
pub fn check(request: &[u8], answer: &Answered) {
    let (head, body) = request.split_at(request.windows(4).position(|at| at == b"\r\n\r\n").unwrap_or(request.len()));
    let Ok(head) = std::str::from_utf8(head) else { return };
    let mut words = head.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Ok(known) = method.parse::<Method>() else { return };
    let route = ROUTES.iter().find(|Route(verb, pattern, _)| verb.takes(&known) && named(pattern, path).is_some());
    let Some(Route(_, pattern, _)) = route else { return };

    let operation = operation(pattern, method);
    let said = format!("{method} {target} is answered {}", answer.status);
    let response = &operation["responses"][answer.status.to_string()];
    assert!(response.is_object(), "{said}, which is not described: {}", answer.body);
    let response = resolve(response);
    check_headers(response, answer, &said);
    if answer.status < 300 {
        for parameter in query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split('=').next().unwrap()) {
            assert!(parameters(pattern, operation).contains(parameter), "{said} with {parameter}");
        }
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_object() && body.len() > 4 {
            let body = serde_json::from_slice(&body[4..]).expect("what is accepted is JSON");
            fits(schema, &body).unwrap_or_else(|why| panic!("{said}, though its body does not fit: {why}: {body}"));
        }
    }
    if method == "HEAD" || answer.status == 304 {
        return;
    }
    let content_type = answer.header("content-type").expect("a body has a type");
    let bare = content_type.split(';').next().unwrap();
    let content = &response["content"][bare];
    assert!(content.is_object(), "{said} as {content_type}");
    if bare.ends_with("json") && !bare.contains("ndjson") {
        fits(&content["schema"], &answer.json()).unwrap_or_else(|why| panic!("{said}, {why}: {}", answer.body));
    }
}

fn check_headers(response: &'static Value, answer: &Answered, said: &str) {
    const TOLD: [&str; 4] = ["etag", "vary", "location", "retry-after"];
    let described: Vec<(String, &'static Value)> =
        response["headers"].as_object().into_iter().flatten().map(lower).collect();
    for (name, value) in &answer.headers {
        if !name.starts_with("quorate-") && !TOLD.contains(&name.as_str()) {
            continue;
        }
        let Some((_, header)) = described.iter().find(|(known, _)| known == name) else {
            panic!("{said} with the header {name}, which is not described");
        };
        let schema = &resolve(header)["schema"];
        let value = match schema["type"].as_str() {
            Some("integer") => json!(value.parse::<i64>().expect("a number")),
            _ => json!(value),
        };
        fits(schema, &value).unwrap_or_else(|why| panic!("{said} with {name}, {why}: {value}"));
    }
}

fn lower((name, header): (&'static String, &'static Value)) -> (String, &'static Value) {
    (name.to_ascii_lowercase(), header)
}

#[track_caller]
fn operation(pattern: &str, method: &str) -> &'static Value {
    let operation = &DOCUMENT["paths"][pattern][method.to_ascii_lowercase()];
    assert!(operation.is_object(), "{method} {pattern} is not described");
    operation
}

/// The names of the query's parameters.
fn parameters(pattern: &str, operation: &'static Value) -> BTreeSet<&'static str> {
    let of = |value: &'static Value| value["parameters"].as_array().into_iter().flatten();
    let all = of(operation).chain(of(&DOCUMENT["paths"][pattern])).map(resolve);
    all.filter(|parameter| parameter["in"] == "query").map(|parameter| parameter["name"].as_str().unwrap()).collect()
}

fn resolve(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').expect("nothing refers to elsewhere");
            DOCUMENT.pointer(pointer).unwrap_or_else(|| panic!("there is no {reference}"))
        }
        None => value,
    }
}

/// As JSON Schema has it, of which this is what the document uses; and what has properties has no others.
fn fits(schema: &'static Value, value: &Value) -> Result<(), String> {
    let schema = resolve(schema);
    let all = |name: &str| schema[name].as_array().into_iter().flatten();
    for (keyword, rule) in schema.as_object().expect("a schema") {
        let number = || rule.as_f64().expect("a number");
        let holds = match keyword.as_str() {
            "type" => match rule {
                Value::Array(types) => types.iter().any(|one| is_a(one, value)),
                one => is_a(one, value),
            },
            "const" => rule == value,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|value| value >= number()),
            "maximum" => value.as_f64().is_none_or(|value| value <= number()),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as f64 >= number()),
            "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as f64 <= number()),
            "required" => {
                let missing = all("required").find(|name| value.get(name.as_str().unwrap()).is_none());
                value.as_object().is_none() || missing.is_none()
            }
            "properties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    let schema = rule.get(name).ok_or_else(|| format!("there is no property {name:?}"))?;
                    fits(schema, value).map_err(|why| format!("{name}: {why}"))?;
                }
                true
            }
            "items" => {
                for (at, value) in value.as_array().into_iter().flatten().enumerate() {
                    fits(rule, value).map_err(|why| format!("{at}: {why}"))?;
                }
                true
            }
            "oneOf" => all("oneOf").filter(|one| fits(one, value).is_ok()).count() == 1,
            "anyOf" => all("anyOf").any(|one| fits(one, value).is_ok()),
            "allOf" => all("allOf").all(|one| fits(one, value).is_ok()),
            "not" => fits(rule, value).is_err(),
            // Of the document's patterns Rust's own means show enough: whoever breaks one breaks a test of its own.
            "pattern" | "format" | "contentEncoding" => value.is_string() || value.is_number(),
            "additionalProperties" | "description" | "default" | "example" => true,
            other => panic!("this test does not know the keyword {other}"),
        };
        if !holds {
            return Err(format!("{keyword} {rule} does not hold"));
        }
    }
    Ok(())
}

fn is_a(kind: &Value, value: &Value) -> bool {
    match kind.as_str().expect("the name of a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        other => panic!("there is no type {other}"),
    }
}

#[test]
fn every_route_is_described_and_every_description_is_a_route() {
    let methods = |Route(verb, pattern, _): &Route| {
        let methods = verb.names().split(", ").map(str::to_ascii_lowercase);
        methods.map(|method| (pattern.to_string(), method)).collect::<Vec<_>>()
    };
    let routes: BTreeSet<_> = ROUTES.iter().flat_map(methods).collect();
    let mut described = BTreeSet::new();
    for (path, operations) in DOCUMENT["paths"].as_object().unwrap() {
        let methods = operations.as_object().unwrap().keys().filter(|name| *name != "parameters");
        described.extend(methods.map(|method| (path.clone(), method.clone())));
    }
    assert_eq!(routes, described);
}

#[test]
fn every_name_leads_somewhere_and_every_operation_has_one() {
    let mut ids = BTreeSet::new();
    let mut look = vec![&*DOCUMENT];
    while let Some(value) = look.pop() {
        resolve(value);
        if let Some(id) = value["operationId"].as_str().filter(|_| value["responses"].is_object()) {
            assert!(ids.insert(id), "{id} comes twice");
        }
        look.extend(value.as_array().into_iter().flatten());
        look.extend(value.as_object().into_iter().flat_map(|object| object.values()));
    }
    let operations = DOCUMENT["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap());
    assert_eq!(ids.len(), operations.filter(|(name, _)| *name != "parameters").count());
}

#[test]
fn examples_fit_their_schemas() {
    let mut seen = 0;
    let mut look = vec![&*DOCUMENT];
    while let Some(value) = look.pop() {
        let schema = &value["schema"];
        let many = value["examples"].as_object().into_iter().flatten().map(|(_, example)| &example["value"]);
        for example in value.get("example").into_iter().chain(many).filter(|_| schema.is_object()) {
            seen += 1;
            fits(schema, example).unwrap_or_else(|why| panic!("{why}: {example}"));
        }
        look.extend(value.as_array().into_iter().flatten());
        look.extend(value.as_object().into_iter().flat_map(|object| object.values()));
    }
    assert!(seen > 30, "{seen} examples");
}

#[tokio::test]
async fn every_parameter_is_described_and_taken() {
    let server = Server::new();
    for Route(verb, pattern, _) in ROUTES.iter().filter(|Route(_, pattern, _)| pattern.starts_with("/v1/")) {
        let method = verb.names().split(", ").next().unwrap();
        let described = parameters(pattern, operation(pattern, method));
        let path = pattern.replace("{key}", "k").replace("{id}", "7").replace("{name}", "n");
        let refused = server.call(method, &format!("{path}?unheard-of=1"), "").await;
        let problem = refused.expect_problem(400, "invalid", "unheard-of");
        let known = problem["detail"].as_str().unwrap().split_once("; there are ").map_or("", |(_, names)| names);
        let known: BTreeSet<&str> = known.split(", ").filter(|name| !name.is_empty()).collect();
        assert_eq!(known, described, "{method} {pattern}");
    }
}

#[tokio::test]
async fn the_description_is_served() {
    let answer = Server::new().get("/v1/openapi.json").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.json()["openapi"], "3.1.0");
}

#[test]
fn what_does_not_fit_is_found() {
    let kv = json!({"key": "k", "value": "v", "create_revision": 1, "mod_revision": 1, "version": 1, "lease": 0});
    let schema = &DOCUMENT["components"]["schemas"]["KeyValue"];
    assert_eq!(fits(schema, &kv), Ok(()));
    for (name, value) in
        [("key", json!(7)), ("lease", json!(-1)), ("version", json!(0)), ("key_base64", json!("aw==")), ("x", json!(1))]
    {
        let mut wrong = kv.clone();
        wrong[name] = value;
        assert!(fits(schema, &wrong).is_err(), "{wrong}");
    }
    for name in ["key", "create_revision"] {
        let mut wrong = kv.clone();
        wrong.as_object_mut().unwrap().remove(name);
        assert!(fits(schema, &wrong).is_err(), "{wrong}");
    }
    let condition = &DOCUMENT["components"]["schemas"]["Condition"];
    assert_eq!(fits(condition, &json!({"key": "a", "version": 1})), Ok(()));
    for wrong in [json!({"key": "a"}), json!({"version": 1}), json!({"key": "a", "prefix": "a", "version": 1})] {
        assert!(fits(condition, &wrong).is_err(), "{wrong}");
    }
}
