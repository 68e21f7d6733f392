//! What can't be answered says why, in the one form that all refusals have.

use statehouse::{
    board::{PartitionStanding, Standing},
    message::RestoreProgress,
};

use crate::{
    backend::{PARTITIONS, Questions},
    server::Server,
};

const READS: [&str; 5] = ["/v1/objects/a", "/v1/objects/a/reports", "/v1/objects/a/explain", "/v1/objects", "/v1/summary"];

#[track_caller]
fn all_refused(server: &Server, status: u16, kind: &str) {
    for target in READS {
        let response = server.get(target);
        assert_eq!((response.status, response.problem().as_str()), (status, kind), "{target}");
    }
}

#[test]
fn a_restoring_partition_is_not_an_empty_one() {
    let server = Server::start();
    server.given("a", "x");
    server.house.standing.send_modify(|standing| {
        standing.partitions.insert(1, PartitionStanding::Restoring);
    });
    all_refused(&server, 503, "partition-restoring");
    assert_eq!(server.get("/v1/objects/a").json()["partition"], 1);
    for (elapsed_ms, wait) in [(100, "1"), (7_000, "7"), (3_600_000, "60")] {
        let half = RestoreProgress { chunks: (5, 5), elapsed_ms, ..RestoreProgress::default() };
        server.house.standing.send_modify(|standing| _ = standing.restores.insert(1, half));
        let refused = server.get("/v1/objects/a");
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some(wait)), "half done after {elapsed_ms} ms");
    }
    assert_eq!(server.get("/v1/objects/b").status, 404, "partition 0 is live");
}

#[test]
fn without_any_partition_nothing_is_known_yet() {
    let server = Server::start();
    server.house.standing.send_replace(Standing::default());
    all_refused(&server, 503, "joining");
    server.house.standing.send_replace(Standing { stopping: true, ..Standing::default() });
    all_refused(&server, 503, "stopping");
}

#[test]
fn another_instances_object_is_misdirected() {
    let server = Server::start();
    server.house.standing.send_modify(|standing| {
        standing.partitions.remove(&1);
    });
    for target in &READS[..3] {
        let response = server.get(target);
        assert_eq!((response.status, response.problem().as_str()), (421, "not-owner"), "{target}");
        assert_eq!(response.json()["partition"], 1);
    }
    assert_eq!(server.get("/v1/objects").header("statehouse-position"), Some("0:0"), "a list says what it covers");
    assert_eq!(PARTITIONS, 2, "as this test assumes");
}

#[test]
fn busy_and_silent_workers_are_no_empty_answers() {
    let server = Server::start();
    server.house.world().questions = Questions::Refused;
    all_refused(&server, 503, "overloaded");
    server.house.world().questions = Questions::Dropped;
    all_refused(&server, 503, "partition-restoring");
}

#[test]
fn what_is_not_there_is_a_problem_too() {
    let server = Server::start();
    for target in ["/", "/v1", "/v1/object", "/v1/objects/a/b/c", "/v2/objects"] {
        let response = server.get(target);
        assert_eq!((response.status, response.problem().as_str()), (404, "path-not-found"), "{target}");
    }
    for (method, target, allow) in [
        ("POST", "/v1/objects/a", "GET,HEAD,DELETE"),
        ("GET", "/v1/reports", "POST"),
        ("GET", "/v1/objects/a/override", "PUT,DELETE"),
        ("PATCH", "/v1/objects/a/reports/b", "PUT,DELETE"),
        ("DELETE", "/v1/summary", "GET,HEAD"),
    ] {
        let response = server.send(method, target, None);
        assert_eq!((response.status, response.problem().as_str()), (405, "method-not-allowed"), "{method} {target}");
        assert_eq!(response.header("allow"), Some(allow), "{method} {target}");
    }
}
