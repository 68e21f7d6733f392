//! Writes: what reaches the log, and what the answer says.

use serde_json::json;
use statehouse::{decode::DURATION_MS_MAX, log::AppendError};

use crate::server::Server;

fn log(server: &Server) -> Vec<(String, Option<String>)> {
    server.house.world().log.clone()
}

fn logged(object: &str, value: &str) -> (String, Option<String>) {
    (object.to_owned(), Some(value.to_owned()))
}

#[test]
fn every_verb_writes_its_record() {
    let server = Server::start();
    assert_eq!(server.put("/v1/objects/o/reports/a", r#"{"state":"x","ts":5,"ttl":"30s"}"#).status, 202);
    assert_eq!(server.delete("/v1/objects/o/reports/a").status, 202);
    assert_eq!(server.delete("/v1/objects/o/reports/a?ts=9").status, 202);
    assert_eq!(server.put("/v1/objects/o/override", r#"{"state":true,"for":"1h"}"#).status, 202);
    assert_eq!(server.delete("/v1/objects/o/override").status, 202);
    assert_eq!(server.delete("/v1/objects/o").status, 202);
    let expected = [
        logged("o", r#"{"agent":"a","state":"x","ts":5,"ttl":"30s"}"#),
        logged("o", r#"{"agent":"a","state":null}"#),
        logged("o", r#"{"agent":"a","state":null,"ts":9}"#),
        logged("o", r#"{"type":"override","state":true,"for":"1h"}"#),
        logged("o", r#"{"type":"override","state":null}"#),
        ("o".to_owned(), None),
    ];
    assert_eq!(log(&server), expected);
}

#[test]
fn the_answer_says_where_the_record_stands() {
    let server = Server::start();
    server.put("/v1/objects/b/reports/a", r#"{"state":"x"}"#);
    let response = server.put("/v1/objects/b/reports/a", r#"{"state":"x"}"#);
    assert_eq!((response.status, response.body.as_str()), (202, "{\"partition\":0,\"offset\":1}\n"), "a line of its own");
    assert_eq!(response.header("statehouse-position"), Some("0:2"), "the position from which on it is in answers");
}

#[test]
fn waiting_tells_whether_it_is_applied() {
    let server = Server::start();
    let applied = server.put("/v1/objects/b/reports/a?wait=5s", r#"{"state":"x"}"#);
    assert_eq!((applied.status, &applied.json()["applied"]), (200, &json!(true)));

    server.house.world().held = true;
    let held = server.put("/v1/objects/b/override?wait=50ms", r#"{"state":"x"}"#);
    assert_eq!((held.status, &held.json()["applied"]), (202, &json!(false)));

    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| server.delete("/v1/objects/b?wait=20s"));
        while log(&server).len() < 3 {
            std::thread::yield_now();
        }
        server.house.release();
        let released = waiting.join().unwrap();
        assert_eq!((released.status, &released.json()["applied"]), (200, &json!(true)));
    });
}

#[test]
fn another_instances_write_is_accepted_and_not_waited_for() {
    let server = Server::start();
    server.house.standing.send_modify(|standing| standing.partitions.retain(|partition, _| *partition != 1));
    let elsewhere = json!("partition 1 is owned by another instance: it will be applied there, and this one can't tell when");
    let place = json!({ "partition": 1, "offset": 0, "applied": null, "detail": elsewhere });
    let response = server.put("/v1/objects/a/reports/a?wait=20s", r#"{"state":"x"}"#);
    assert_eq!((response.status, response.json()), (202, place));
    assert_eq!(response.header("statehouse-position"), Some("1:1"));
    assert_eq!(server.delete("/v1/objects/a").json(), json!({ "partition": 1, "offset": 1 }), "nobody asked to wait");

    let lines = "{\"object\":\"a\",\"agent\":\"a\",\"state\":\"x\"}\n{\"object\":\"b\",\"agent\":\"a\",\"state\":\"x\"}";
    let response = server.post_lines("/v1/reports?wait=20s", lines);
    let body = json!({ "appended": 2, "refused": 0, "errors": [], "applied": null, "detail": elsewhere });
    assert_eq!((response.status, response.json()), (202, body), "of two partitions one is here");
    server.house.world().held = true;
    let held = server.post_lines("/v1/reports?wait=50ms", lines);
    assert_eq!((held.status, &held.json()["applied"]), (202, &json!(false)), "not even all that is here is applied");
}

#[test]
fn waits_have_a_unit_and_a_bound() {
    let server = Server::start();
    let (unread, too_long) =
        ("is not understood: give a duration with a unit, such as 2s, of at most 24s", "is too long: give a duration of at most 24s");
    for (wait, why) in [("", unread), ("2", unread), ("soon", unread), ("25s", too_long), ("-1s", unread), ("1h", too_long)] {
        let response = server.delete(&format!("/v1/objects/b?wait={wait}"));
        assert_eq!((response.status, response.problem().as_str()), (400, "validation-failed"), "{wait}");
        assert!(response.body.contains(why), "{wait}: {}", response.body);
    }
    assert!(log(&server).is_empty());
}

#[test]
fn an_override_for_ever_and_a_day_has_an_end() {
    let server = Server::start();
    let pinned = server.put("/v1/objects/b/override?wait=5s", r#"{"state":"x","for":9223372036854775807}"#);
    assert_eq!(pinned.status, 200);
    let mask = server.get("/v1/objects/b").json()["override"].clone();
    assert_eq!(mask["until"].as_i64().unwrap() - mask["since"].as_i64().unwrap(), DURATION_MS_MAX, "a hundred years");
}

#[test]
fn bad_bodies_are_refused_and_not_written() {
    let server = Server::start();
    let report = "/v1/objects/o/reports/a";
    for body in ["", "x", "[]", "{}", r#"{"state":null}"#, r#"{"state":""}"#, r#"{"state":"x","tll":"1s"}"#, r#"{"state":"x"} x"#] {
        let response = server.put(report, body);
        assert_eq!((response.status, response.problem().as_str()), (400, "validation-failed"), "{body}");
    }
    for (body, reason) in [
        (format!(r#"{{"state":"{}"}}"#, "s".repeat(1025)), "state_too_large"),
        (r#"{"state":"x","ts":-1}"#.to_owned(), "bad_ts"),
        (r#"{"state":"x","ttl":"never"}"#.to_owned(), "bad_ttl"),
    ] {
        assert_eq!(server.put(report, &body).json()["reason"], reason, "{body}");
    }
    for body in [r#"{"state":null}"#, r#"{"state":"x","for":"0s"}"#, r#"{"state":"x","ttl":"1s"}"#] {
        assert_eq!(server.put("/v1/objects/o/override", body).status, 400, "{body}");
    }
    for target in ["/v1/objects/o/reports/a?ts=-1", "/v1/objects/o/reports/a?ts=x", "/v1/objects/o?ts=1", "/v1/objects/o/override?x=1"] {
        assert_eq!(server.delete(target).status, 400, "{target}");
    }
    assert!(log(&server).is_empty());
    let wide = format!(r#"{{"state":"x","ts":{}1}}"#, " ".repeat(70_000));
    assert_eq!(server.put(report, &wide).status, 202, "space between fields is not kept");
    assert_eq!(log(&server), [logged("o", r#"{"agent":"a","state":"x","ts":1}"#)]);
}

#[test]
fn a_log_that_takes_nothing_says_whether_it_did() {
    let server = Server::start();
    let cases: [(fn() -> AppendError, u16, &str); 4] = [
        (|| AppendError::Full, 503, "overloaded"),
        (|| AppendError::TooLarge { bytes: 9 }, 413, "too-large"),
        (|| AppendError::Failed("no broker".into()), 503, "log-unavailable"),
        (|| AppendError::Maybe("timed out".into()), 504, "write-outcome-unknown"),
    ];
    for (refuse, status, kind) in cases {
        server.house.world().refuse = Some(refuse);
        let response = server.delete("/v1/objects/o");
        assert_eq!((response.status, response.problem().as_str()), (status, kind));
        let response = server.post_lines("/v1/reports", r#"{"object":"o","agent":"a","state":"x"}"#);
        assert_eq!((response.status, response.problem().as_str()), (status, kind), "in bulk");
    }
}

#[test]
fn many_lines_are_written_in_order() {
    let server = Server::start();
    let lines = "{\"object\":\"o\",\"agent\":\"a\",\"state\":\"x\",\"ts\":5}\r\n\n  \n\
        {\"object\":\"p\",\"type\":\"override\",\"state\":\"y\",\"for\":\"1h\"}\n\
        {\"object\":\"o\",\"agent\":\"a\",\"state\":null}\n\
        {\"object\":\"p\",\"type\":\"override\",\"state\":null}";
    let response = server.post_lines("/v1/reports", lines);
    assert_eq!((response.status, response.json()), (202, json!({ "appended": 4, "refused": 0, "errors": [] })));
    assert_eq!(response.header("statehouse-position"), Some("0:2,1:2"));
    let expected = [
        logged("o", r#"{"agent":"a","state":"x","ts":5}"#),
        logged("p", r#"{"type":"override","state":"y","for":"1h"}"#),
        logged("o", r#"{"agent":"a","state":null}"#),
        logged("p", r#"{"type":"override","state":null}"#),
    ];
    assert_eq!(log(&server), expected);
}

#[test]
fn bad_lines_are_named_and_good_ones_written() {
    let server = Server::start();
    let lines = "{\"object\":\"o\",\"agent\":\"a\",\"state\":\"x\"}\n\nnonsense\n{\"object\":\"o\",\"agent\":\"a\"}\n\
        {\"object\":\"o\",\"agent\":\"b\",\"state\":\"y\"}\n\u{0}";
    let response = server.post_lines("/v1/reports?wait=5s", lines);
    let body = response.json();
    assert_eq!((response.status, &body["appended"], &body["refused"]), (207, &json!(2), &json!(3)));
    assert_eq!(body["applied"], true);
    let errors: Vec<_> = body["errors"].as_array().unwrap().iter().map(|error| (&error["line"], &error["problem"]["type"])).collect();
    let invalid = json!("/problems/validation-failed");
    assert_eq!(errors, [(&json!(3), &invalid), (&json!(4), &invalid), (&json!(6), &invalid)]);
    assert_eq!(body["errors"][1]["problem"]["reason"], "no_state");
    assert_eq!(log(&server).len(), 2);

    let none = server.post_lines("/v1/reports", "nonsense\n{}\n");
    assert_eq!((none.status, none.problem().as_str()), (400, "validation-failed"));
    assert_eq!((none.json()["refused"].as_u64(), none.json()["errors"].as_array().unwrap().len()), (Some(2), 2));
    for empty in ["", "\n\n"] {
        assert_eq!(server.post_lines("/v1/reports", empty).status, 400);
    }
}

#[test]
fn bulk_waits_until_all_of_it_is_applied() {
    let server = Server::start();
    let lines: Vec<_> = (0..50).map(|n| format!(r#"{{"object":"o{n}","agent":"a","state":"x"}}"#)).collect();
    let lines = lines.join("\n");
    let applied = server.post_lines("/v1/reports?wait=5s", &lines);
    assert_eq!((applied.status, &applied.json()["applied"]), (200, &json!(true)));
    server.house.world().held = true;
    let held = server.post_lines("/v1/reports?wait=50ms", &lines);
    assert_eq!((held.status, &held.json()["applied"]), (202, &json!(false)));
}

#[test]
fn more_lines_than_may_be_on_their_way_are_all_written() {
    let server = Server::start();
    let lines = "{\"object\":\"o\",\"agent\":\"a\",\"state\":\"x\"}\n".repeat(12_000) + &"x\n".repeat(1_500);
    let body = server.post_lines("/v1/reports", &lines).json();
    assert_eq!((&body["appended"], &body["refused"]), (&json!(12_000), &json!(1_500)));
    assert_eq!(body["errors"].as_array().map(Vec::len), Some(1_000), "only so many are described");
}

#[test]
fn bulk_wants_a_type_that_no_foreign_page_can_send() {
    let server = Server::start();
    let line = r#"{"object":"o","agent":"a","state":"x"}"#;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/jsonx"] {
        let response = server.send("POST", "/v1/reports", Some((kind, line)));
        assert_eq!((response.status, response.problem().as_str()), (415, "media-type"), "{kind}");
    }
    assert!(log(&server).is_empty());
    for kind in ["application/x-ndjson", "Application/JSON; charset=utf-8", "application/jsonl"] {
        assert_eq!(server.send("POST", "/v1/reports", Some((kind, line))).status, 202, "{kind}");
    }
}
