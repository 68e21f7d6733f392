//! What operators ask.

use statehouse::{
    board::{PartitionStanding, Standing},
    message::RestoreProgress,
};

use crate::{
    backend::{NOW_MS, Questions},
    server::Server,
};

/// All read, half handed over, in six seconds.
const RESTORE: RestoreProgress = RestoreProgress { chunks: (8, 8), bytes: 9_000, rows: 700, handed_rows: (50, 100), elapsed_ms: 6_000 };

#[test]
fn a_good_house_is_alive_and_ready() {
    let server = Server::start();
    assert_eq!((server.get("/livez").status, server.get("/livez").body.as_str()), (200, "ok\n"));
    assert_eq!((server.get("/readyz").status, server.get("/readyz").body.as_str()), (200, "ok\n"));
    let verbose = "[+]restore ok, partitions live: 2\n[+]instances ok, known: 0\n[+]log ok\n[+]shutdown ok\nok\n";
    assert_eq!(server.get("/readyz?verbose").body, verbose);
}

#[test]
fn readiness_says_what_is_wrong_and_can_leave_it_out() {
    let server = Server::start();
    let well = server.house.standing.borrow().clone();
    let mut restoring = well.clone();
    restoring.partitions.insert(1, PartitionStanding::Restoring);
    let mut known = restoring.clone();
    known.restores.insert(1, RESTORE);
    let known_line = "[-]restore failed: restoring 1 of 2 partitions: 1 (75 % done, chunks 8 of 8, 700 rows and 9000 bytes read, rows 50 of 100 \
                      handed over, about 2 s left)\n";
    let outage = Standing { stale_since_ms: Some(NOW_MS - 90_000), trouble: Some("no broker".into()), ..well.clone() };
    let stopping = Standing { stopping: true, ..well };
    for (check, line, standing) in [
        ("restore", "[-]restore failed: no partition is assigned yet\n", Standing::default()),
        ("restore", "[-]restore failed: restoring 1 of 2 partitions: 1\n", restoring),
        ("restore", known_line, known),
        ("log", "[-]log failed: stale for 1m 30s: no broker\n", outage),
        ("shutdown", "[-]shutdown failed: shutting down\n", stopping),
    ] {
        server.house.standing.send_replace(standing);
        let response = server.get("/readyz");
        assert_eq!(response.status, 503, "{check}");
        assert!(response.body.contains(line) && response.body.ends_with("not ready\n"), "{}", response.body);
        let excluded = server.get(&format!("/readyz?verbose&exclude={check}"));
        assert_eq!(excluded.status, 200, "{check}: {}", excluded.body);
        assert!(excluded.body.contains(&format!("[+]{check} excluded\n")), "{}", excluded.body);
        assert_eq!(server.get("/livez").status, 200, "{check}: nothing of this is a reason to restart");
    }
    assert_eq!(server.get("/readyz?exclude=lg").problem(), "validation-failed");
}

#[test]
fn metrics_show_requests_by_route_and_objects_by_state() {
    let server = Server::start();
    server.given("a", "up");
    server.given("bb", "up");
    server.get("/v1/objects/a");
    server.get("/v1/objects/nobody");
    server.get("/nowhere");
    let response = server.get("/metrics");
    assert_eq!(response.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    for line in [
        "statehouse_objects{state=\"up\"} 2",
        "statehouse_http_requests_total{route=\"/v1/objects/{object}\",code=\"200\"} 1",
        "statehouse_http_requests_total{route=\"/v1/objects/{object}\",code=\"404\"} 1",
        "statehouse_http_requests_total{route=\"/v1/objects/{object}/reports/{agent}\",code=\"200\"} 2",
        "statehouse_http_requests_total{route=\"(none)\",code=\"404\"} 1",
        "statehouse_http_request_duration_seconds_count{route=\"/v1/objects/{object}\"} 2",
        "statehouse_stale 0",
    ] {
        assert!(response.body.lines().any(|have| have == line), "no line {line:?} in\n{}", response.body);
    }
    assert!(!response.body.contains("nobody") && !response.body.contains("nowhere"), "a path shows in\n{}", response.body);

    server.house.world().questions = Questions::Refused;
    let response = server.get("/metrics");
    assert_eq!(response.status, 200, "metrics come also when workers are busy");
    assert!(!response.body.contains("statehouse_objects{"), "{}", response.body);
}

#[test]
fn the_version_says_what_runs() {
    let version = Server::start().get("/version").json();
    assert_eq!((&version["name"], &version["version"]), (&"statehouse".into(), &env!("CARGO_PKG_VERSION").into()));
}
