//! The command line's verbs, as processes of their own, against the server.

use std::{
    net::TcpListener,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use statehouse::board::Standing;

use crate::server::Server;

/// What a verb said, and its exit code.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

fn verb(url: &str, arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_statehouse"));
    let Output { status, stdout, stderr } = command.args(arguments).env("STATEHOUSE_URL", url).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
}

impl Server {
    fn verb(&self, arguments: &[&str]) -> Said {
        verb(&format!("http://{}/", self.address), arguments)
    }

    /// What a verb that does what it should says.
    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let said = self.verb(arguments);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{arguments:?}: {said:?}");
        said.out
    }
}

#[test]
fn what_is_reported_is_shown_and_explained() {
    let server = Server::start();
    assert_eq!(
        server.done(&["report", "site 1", "down", "--agent", "probe/1", "--ts", "5", "--ttl", "30s"]),
        "applied, at offset 0 of partition 0\n"
    );
    server.done(&["report", "site 1", "up", "--agent", "probe/2", "--ts", "1000"]);
    let shown = "site 1: up\n  since      1970-01-01T00:00:01.000Z (vote, revision 2)\n  tally      down 1, up 1 of 2 live reports\n  \
        rule       latest\n  partition  0\n";
    assert_eq!(server.done(&["get", "site 1"]), shown);
    let more = "  in words   the newest report's state\n  verdict    up\n  why        the newest report says so\n  reports\n    \
        probe/1  down  1970-01-01T00:00:00.005Z  good until 1970-01-01T00:00:31.000Z (past; not obeyed yet)\n    \
        probe/2  up    1970-01-01T00:00:01.000Z\n";
    assert_eq!(server.done(&["explain", "site 1"]), format!("{shown}{more}"));
    server.done(&["report", "site 1", "--agent", "probe/2", "--withdraw"]);
    assert!(server.done(&["get", "site 1"]).starts_with("site 1: down\n"));
}

#[test]
fn overrides_pin_and_lift_and_purges_remove() {
    let server = Server::start();
    server.given("o", "up");
    server.done(&["override", "o", "down", "--for", "1h"]);
    let shown = server.done(&["get", "o"]);
    assert!(shown.contains("  override   down since 1970-01-01T00:00:01.001Z, until 1970-01-01T01:00:01.001Z; behind it: up\n"), "{shown}");
    server.done(&["override", "o", "--lift"]);
    assert!(!server.done(&["get", "o"]).contains("override"));
    server.done(&["purge", "o"]);
    let gone = server.verb(&["get", "o"]);
    assert_eq!((gone.code, gone.out.as_str()), (1, ""));
    assert_eq!(gone.err, "statehouse: No such object: no object \"o\" is known (404)\n");
}

#[test]
fn lists_go_over_as_many_pages_as_it_takes() {
    let server = Server::start();
    let lines: Vec<_> = (0..250).map(|n| format!(r#"{{"object":"o{n:03}","agent":"a","state":"x"}}"#)).collect();
    server.post_lines("/v1/reports?wait=5s", &lines.join("\n"));
    server.done(&["override", "o001", "y"]);

    let all = server.done(&["list", "--all"]);
    assert_eq!(all.lines().count(), 250);
    assert!(all.lines().nth(1).unwrap().starts_with("o001  y (override)  1970-01-01T00:00:01.000Z  x 1 of 1 live report"), "{all}");
    let some = server.verb(&["list", "--limit", "120"]);
    assert_eq!((some.code, some.out.lines().count()), (0, 120));
    assert_eq!(some.err, "there are more; --limit or --all shows them\n");
    assert_eq!(server.done(&["list", "--state", "y", "--prefix", "o00"]).lines().count(), 1);

    let json = server.done(&["list", "--prefix", "o24", "--json"]);
    let objects: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((objects.len(), &objects[9]["object"]), (10, &Value::from("o249")));
}

#[test]
fn json_is_the_houses_own() {
    let server = Server::start();
    let place = server.done(&["report", "b", "up", "--agent", "a", "--json"]);
    assert_eq!(place, "{\"partition\":0,\"offset\":0,\"applied\":true}\n");
    assert_eq!(server.done(&["get", "b", "--json"]), server.get("/v1/objects/b").body);
    assert_eq!(server.done(&["explain", "--json", "b"]), server.get("/v1/objects/b/explain").body);
}

#[test]
fn any_name_goes_through_and_none_commands_the_terminal() {
    let server = Server::start();
    for name in ["a/b", "..", "%2F", "ü ☃", "?x=y#z", "\u{1b}[31m\nred"] {
        server.done(&["report", name, name, "--agent", name]);
        let shown = server.done(&["get", "--", name]);
        let safe = name.replace('\u{1b}', "\\u{1b}").replace('\n', "\\n");
        assert!(shown.starts_with(&format!("{safe}: {safe}\n")), "{name:?}: {shown:?}");
        assert_eq!(server.done(&["list", "--prefix", name, "--state", name]).lines().count(), 1, "{name:?}");
    }
}

#[test]
fn what_is_not_applied_in_time_is_no_success() {
    let server = Server::start();
    server.house.world().held = true;
    let late = server.verb(&["purge", "b", "--wait", "50ms"]);
    assert_eq!((late.code, late.out.as_str()), (1, "written, at offset 0 of partition 0\n"));
    assert_eq!(late.err, "statehouse: it is written and will be applied, but was not within 50ms\n");
    assert_eq!(server.done(&["purge", "b", "--wait", "0s"]), "written, at offset 1 of partition 0\n");
}

#[test]
fn a_write_takes_no_longer_than_it_may_also_where_the_log_is_away() {
    let server = Server::start();
    server.house.world().swallow = true;
    for arguments in [&["purge", "b", "--wait", "50ms"][..], &["report", "b", "up", "--agent", "a", "--wait", "50ms"]] {
        let late = server.verb(arguments);
        assert_eq!((late.code, late.out.as_str()), (1, ""), "{late:?}");
        assert!(late.err.starts_with("statehouse: no answer within 1s 50ms: it may be written, and applied later, or not ("), "{late:?}");
    }
}

#[test]
fn a_write_that_another_instance_applies_is_no_success_either() {
    let server = Server::start();
    server.house.standing.send_modify(|standing| standing.partitions.retain(|partition, _| *partition != 1));
    let report = ["report", "a", "up", "--agent", "p", "--wait", "20s"];
    let said = server.verb(&report);
    assert_eq!((said.code, said.out.as_str()), (1, "written, at offset 0 of partition 1\n"));
    let why = "statehouse: it is written, but partition 1 is owned by another instance: it will be applied there, and this one can't \
        tell when; ask the instance that owns it, or don't wait (--wait 0s)\n";
    assert_eq!(said.err, why);
    assert_eq!(server.done(&["purge", "a", "--wait", "0s"]), "written, at offset 1 of partition 1\n");
}

#[test]
fn empty_names_are_refused_by_their_place() {
    let server = Server::start();
    for (arguments, said) in [
        (&["report", "o", "x", "--agent", ""][..], "invalid value '' for '--agent <AGENT>': it is empty: name who reports"),
        (&["report", "", "x", "--agent", "a"], "invalid value '' for '<OBJECT>': it is empty: name an object"),
        (&["get", ""], "invalid value '' for '<OBJECT>': it is empty: name an object"),
        (&["override", "", "x"], "invalid value '' for '<OBJECT>': it is empty: name an object"),
        (&["report", "o", "", "--agent", "a"], "invalid value '' for '[STATE]': it is empty: name a state, or --withdraw the report"),
        (&["override", "o", ""], "invalid value '' for '[STATE]': it is empty: name a state, or --lift the override"),
        (&["purge", ""], "invalid value '' for '<OBJECT>': it is empty: name an object"),
    ] {
        let refused = server.verb(arguments);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.err.contains(said), "{refused:?}");
    }
    assert!(server.house.world().log.is_empty());
}

#[test]
fn help_says_that_a_ttl_is_not_obeyed_yet() {
    let help = Server::start().done(&["report", "--help"]);
    assert!(help.contains("Kept and shown, but not obeyed yet"), "{help}");
}

#[test]
fn stale_answers_are_marked() {
    let server = Server::start();
    server.given("o", "x");
    server.house.standing.send_modify(|standing| standing.stale_since_ms = Some(1));
    for arguments in [&["get", "o"][..], &["list"], &["explain", "o", "--json"]] {
        let said = server.verb(arguments);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.err.starts_with("note: the house could not commit for "), "{said:?}");
    }
}

#[test]
fn refusals_and_silence_have_their_codes() {
    let server = Server::start();
    let refused = server.verb(&["report", "o", "x", "--agent", "a", "--ttl", "soon"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.starts_with("statehouse: The request is not valid: ttl: not a duration ("), "{refused:?}");
    assert!(refused.err.ends_with("): \"soon\" (400)\n"), "{refused:?}");
    let hasty = server.verb(&["purge", "o", "--wait", "25s"]);
    let why = "statehouse: The request is not valid: wait=\"25000ms\" is too long: give a duration of at most 24s (400)\n";
    assert_eq!((hasty.code, hasty.err.as_str()), (1, why));
    server.house.standing.send_replace(Standing::default());
    let joining = server.verb(&["list"]);
    assert_eq!((joining.code, joining.out.as_str()), (1, ""));
    assert!(joining.err.contains("owns nothing yet"), "{joining:?}");

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // closed again at once
    let silent = verb(&format!("http://{nobody}"), &["get", "o"]);
    assert_eq!(silent.code, 2);
    assert!(silent.err.contains("is it running"), "{silent:?}");
    for url in ["ftp://example.com", "127.0.0.1:7717", ""] {
        let wrong = verb(url, &["get", "o"]);
        assert_eq!(wrong.code, 2, "{url}: {wrong:?}");
    }
    for arguments in [&["get"][..], &["report", "o", "x"], &["override", "o"], &["override", "o", "x", "--lift"], &["list", "--limit", "x"]]
    {
        assert_eq!(server.verb(arguments).code, 2, "{arguments:?}");
    }
}
