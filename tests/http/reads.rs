//! Questions and their answers.

use serde_json::{Value, json};

use crate::{backend::NOW_MS, server::Server};

#[test]
fn an_object_shows_its_state_tally_and_override() {
    let server = Server::start();
    server.given("site", "up");
    let response = server.get("/v1/objects/site");
    assert_eq!(response.status, 200);
    let expected = json!({
        "object": "site", "state": "up", "since": 1000, "cause": "vote", "revision": 1, "rule": "latest", "partition": 1,
        "tally": { "votes": { "up": 1 }, "live": 1 }, "override": null,
    });
    assert_eq!(response.json(), expected);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("statehouse-position"), Some("1:1"));
    assert_eq!(response.header("statehouse-lag-ms"), None);
    assert_eq!((response.header("cache-control"), response.header("x-content-type-options")), (Some("no-store"), Some("nosniff")));

    server.put("/v1/objects/site/override?wait=5s", r#"{"state":"down","for":"60s"}"#);
    let shown = server.get("/v1/objects/site").json();
    assert_eq!((&shown["state"], &shown["behind"], &shown["cause"]), (&json!("down"), &json!("up"), &json!("override")));
    assert_eq!(shown["override"], json!({ "state": "down", "since": 1001, "until": 61_001 }));
}

#[test]
fn votes_come_by_falling_weight() {
    let server = Server::start();
    server.given("o", "a");
    for agent in ["b", "c"] {
        server.put(&format!("/v1/objects/o/reports/{agent}"), r#"{"state":"z"}"#);
    }
    let body = server.get("/v1/objects/o").body;
    assert!(body.contains(r#""votes":{"z":2,"a":1},"live":3"#), "{body}");
}

#[test]
fn reports_and_explanations_show_who_says_what() {
    let server = Server::start();
    server.put("/v1/objects/site/reports/b", r#"{"state":"down","ts":77,"ttl":"30s"}"#);
    server.put("/v1/objects/site/reports/a?wait=5s", r#"{"state":"up","ts":78}"#);
    let reports = json!([
        { "agent": "a", "state": "up", "ts": 78, "offset": 1, "weight": 1, "expires": null },
        { "agent": "b", "state": "down", "ts": 77, "offset": 0, "weight": 1, "expires": 31_000 },
    ]);
    assert_eq!(server.get("/v1/objects/site/reports").json(), json!({ "object": "site", "reports": reports }));

    let response = server.get("/v1/objects/site/explain");
    let why = response.json();
    assert_eq!((&why["object"], &why["state"], &why["verdict"], &why["reports"]), (&json!("site"), &json!("up"), &json!("up"), &reports));
    let rule_set = json!({ "prefix": "", "text": "the newest report's state", "min_reports": 1, "on_empty": "remove" });
    assert_eq!((&why["rule_set"], &why["why"]), (&rule_set, &json!("the newest report says so")));
    assert_eq!(response.header("statehouse-position"), Some("1:2"));
}

#[test]
fn an_object_that_is_not_known_is_not_found() {
    let server = Server::start();
    for target in ["/v1/objects/nobody", "/v1/objects/nobody/reports", "/v1/objects/nobody/explain"] {
        let response = server.get(target);
        assert_eq!((response.status, response.problem().as_str()), (404, "object-not-found"), "{target}");
        assert_eq!(response.json()["object"], "nobody");
        assert_eq!(response.header("statehouse-position"), Some("1:0"), "as of then it was not known");
        assert_eq!(response.header("statehouse-lag-ms"), None);
        server.house.standing.send_modify(|standing| standing.stale_since_ms = Some(NOW_MS - 70));
        assert_eq!(server.get(target).header("statehouse-lag-ms"), Some("70"), "and that may be old");
        server.house.standing.send_modify(|standing| standing.stale_since_ms = None);
    }
}

#[test]
fn an_object_without_a_state_says_so() {
    let server = Server::start();
    server.given("o", "x");
    server.delete("/v1/objects/o/reports/a?wait=5s");
    let shown = server.get("/v1/objects/o").json();
    assert_eq!((&shown["state"], &shown["tally"]), (&Value::Null, &json!({ "votes": {}, "live": 0 })));
}

fn names(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["object"].as_str().unwrap()).collect()
}

#[test]
fn lists_are_ordered_and_filtered() {
    let server = Server::start();
    for (object, state) in [("site-10", "up"), ("net", "down"), ("site-2", "down"), ("a%2Fb", "up"), ("gone", "up")] {
        server.given(object, state);
    }
    server.delete("/v1/objects/gone/reports/a?wait=5s");
    for (query, expected) in [
        ("", &["a/b", "gone", "net", "site-10", "site-2"][..]),
        ("?prefix=site", &["site-10", "site-2"]),
        ("?prefix=a%2F", &["a/b"]),
        ("?state=up", &["a/b", "site-10"]),
        ("?state=", &["gone"]),
        ("?prefix=site&state=down", &["site-2"]),
        ("?prefix=nothing", &[]),
    ] {
        let response = server.get(&format!("/v1/objects{query}"));
        assert_eq!(names(&response.json()), expected, "{query}");
        assert_eq!(response.json()["cursor"], Value::Null, "{query}");
        assert_eq!(response.header("statehouse-position").unwrap().split(',').count(), 2, "{query}");
    }
}

#[test]
fn pages_show_every_object_once_in_order() {
    let server = Server::start();
    let mut all: Vec<_> = (0..23).map(|n| format!("o{}", n * n)).collect();
    for object in &all {
        server.given(object, if object.len() % 2 == 0 { "even" } else { "odd" });
    }
    all.sort();
    for limit in [1, 2, 5, 22, 23, 24] {
        assert_eq!(pages(&server, &format!("limit={limit}")), all, "limit {limit}");
    }
    let even: Vec<_> = all.iter().filter(|object| object.len() % 2 == 0).cloned().collect();
    assert_eq!(pages(&server, "limit=3&state=even"), even);
}

fn pages(server: &Server, query: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server.get(&format!("/v1/objects?{query}{cursor}")).json();
        let here = names(&page);
        assert!(!here.is_empty(), "a cursor to nothing after {seen:?}");
        seen.extend(here.into_iter().map(str::to_owned));
        let Some(next) = page["cursor"].as_str() else { return seen };
        cursor = format!("&cursor={next}");
    }
}

#[test]
fn what_a_list_does_not_understand_it_refuses() {
    let server = Server::start();
    server.given("a", "x");
    server.given("b", "x");
    let cursor = server.get("/v1/objects?limit=1").json()["cursor"].as_str().unwrap().to_owned();
    for query in [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=many",
        "limit=",
        "limit=1&limit=2",
        "prefx=a",
        "prefix=%FF",
        "%FF=a",
        "cursor=nonsense",
        "cursor=00",
        &format!("cursor={cursor}&prefix=a"),
        &format!("cursor={cursor}&state=x"),
        &format!("cursor={}", &cursor[2..]),
    ] {
        let response = server.get(&format!("/v1/objects?{query}"));
        assert_eq!((response.status, response.problem().as_str()), (400, "validation-failed"), "{query}");
    }
    for target in ["/v1/objects/a?limit=1", "/v1/objects/a/reports?x", "/v1/objects/a/explain?x=", "/v1/summary?prefix=a"] {
        assert_eq!(server.get(target).status, 400, "{target}");
    }
}

#[test]
fn the_summary_counts_objects_by_state() {
    let server = Server::start();
    assert_eq!(server.get("/v1/summary").json(), json!({ "objects": 0, "by_state": {}, "without_state": 0 }));
    for (object, state) in [("a", "up"), ("bb", "up"), ("ccc", "down"), ("d", "up")] {
        server.given(object, state);
    }
    server.delete("/v1/objects/d/reports/a?wait=5s");
    assert_eq!(server.get("/v1/summary").json(), json!({ "objects": 4, "by_state": { "down": 1, "up": 2 }, "without_state": 1 }));
}

#[test]
fn stale_answers_say_how_stale() {
    let server = Server::start();
    server.given("a", "x");
    server.house.standing.send_modify(|standing| standing.stale_since_ms = Some(NOW_MS - 70));
    for target in ["/v1/objects/a", "/v1/objects", "/v1/summary"] {
        let response = server.get(target);
        assert_eq!(response.status, 200, "{target}");
        assert_eq!(response.header("statehouse-lag-ms"), Some("70"), "{target}");
    }
}
