//! Any name works, whatever is in it.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use serde_json::json;

use crate::server::Server;

fn encoded(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// Reports on an object with this name by an agent with this name, and reads it back in every way there is.
fn round_trip(server: &Server, object: &str, agent: &str) {
    let at = format!("/v1/objects/{}", encoded(object));
    let response = server.put(&format!("{at}/reports/{}?wait=5s", encoded(agent)), r#"{"state":"x"}"#);
    assert_eq!(response.status, 200, "{object:?} {agent:?}: {response:?}");
    assert_eq!(server.get(&at).json()["object"], object);
    assert_eq!(server.get(&format!("{at}/reports")).json()["reports"][0]["agent"], agent);
    assert_eq!(server.get(&format!("{at}/explain")).json()["object"], object);
    let listed = server.get(&format!("/v1/objects?prefix={}", encoded(object))).json();
    assert!(listed["items"].as_array().unwrap().iter().any(|item| item["object"] == object), "{object:?} is not in {listed}");
    let log = server.house.world().log.last().unwrap().clone();
    assert_eq!((log.0.as_str(), log.1.unwrap()), (object, json!({ "agent": agent, "state": "x" }).to_string()));
    assert_eq!(server.delete(&format!("{at}?wait=5s")).status, 200, "{object:?}");
    assert_eq!(server.get(&at).status, 404, "{object:?}");
}

const NASTY: [&str; 49] = [
    "/",
    "//",
    "a/b",
    "/a",
    "a/",
    ".",
    "..",
    "../..",
    "a/../b",
    "\0",
    "a\0b",
    " ",
    "a b",
    "+",
    "a+b",
    "%",
    "%2F",
    "%252F",
    "%zz",
    "?",
    "a?b=c",
    "#",
    "&",
    "=",
    ";",
    ":",
    "\\",
    "\"",
    "'",
    "<script>",
    "{object}",
    "{*rest}",
    "*",
    "\r\n",
    "\u{1b}[31m",
    "\u{7f}",
    "ü",
    "☃",
    "日本",
    "\u{202e}abc",
    "🦀",
    "override",
    "reports",
    "explain",
    "reports/a",
    "https://example.com/x?y#z",
    "-",
    "~",
    "\u{feff}",
];

#[test]
fn nasty_names_come_back_as_they_went() {
    let server = Server::start();
    for name in NASTY {
        round_trip(&server, name, "agent");
        round_trip(&server, "object", name);
    }
    round_trip(&server, &"ü".repeat(2048), &"☃".repeat(85));
}

#[test]
fn names_may_stand_as_they_are_where_http_allows() {
    let server = Server::start();
    for name in ["a.b-c_d~e", "a:b@c!d$e", "a+b", ".", "..", "a;b=c,d", "(a)*'"] {
        assert_eq!(server.put(&format!("/v1/objects/{name}/reports/a"), r#"{"state":"x"}"#).status, 202, "{name}");
        assert_eq!(server.get(&format!("/v1/objects/{name}")).json()["object"], name);
    }
}

#[test]
fn names_that_can_not_be_are_refused() {
    let server = Server::start();
    for target in ["/v1/objects/%FF", "/v1/objects/a%C3", "/v1/objects/%ED%A0%80/reports"] {
        let response = server.get(target);
        assert_eq!((response.status, response.problem().as_str()), (400, "validation-failed"), "{target}");
    }
    for target in ["/v1/objects/a/reports/%FF", "/v1/objects/%C3%28/reports/a"] {
        assert_eq!(server.put(target, r#"{"state":"x"}"#).problem(), "validation-failed", "{target}");
    }
    for (target, kind) in [
        ("/v1/objects/", "path-not-found"),
        ("/v1/objects/a/reports/", "validation-failed"),
        ("/v1/objects/a/b", "path-not-found"),
        ("/v1//objects/a", "path-not-found"),
        ("/v1/objects//reports/a", "validation-failed"),
    ] {
        assert_eq!(server.put(target, r#"{"state":"x"}"#).problem(), kind, "{target}");
    }
    for (method, target, field) in [
        ("PUT", "/v1/objects/a/reports/?wait=1s", "agent"),
        ("DELETE", "/v1/objects/a/reports/", "agent"),
        ("PUT", "/v1/objects//reports/a", "object"),
    ] {
        let response = server.send(method, target, Some(("application/json", r#"{"state":"x"}"#)));
        assert_eq!((response.status, &response.json()["field"]), (400, &json!(field)), "{method} {target}");
    }
    for (object, agent) in [("o".repeat(4097), "a".to_owned()), ("o".to_owned(), "a".repeat(257))] {
        let response = server.put(&format!("/v1/objects/{object}/reports/{agent}"), r#"{"state":"x"}"#);
        assert_eq!((response.status, response.problem().as_str()), (400, "validation-failed"));
    }
    assert!(server.house.world().log.is_empty(), "something was appended");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn any_names_come_back_as_they_went(names in proptest::collection::vec(("\\PC{1,40}|[\\x00-\\x7f]{1,20}", "\\PC{1,40}|[\\x00-\\x7f]{1,20}"), 5)) {
        let server = Server::start();
        for (object, agent) in &names {
            round_trip(&server, object, agent);
        }
    }
}
