//! Who may ask what: tokens and their scopes on every route there is, files that change, names of the host, targets that are no paths.

use std::{
    fs,
    io::{Read, Write},
    time::{Duration, Instant, SystemTime},
};

use statehouse::{
    board::Standing,
    config::HttpConfig,
    http::{FreshToken, Scope, paths},
};
use tempfile::TempDir;

use crate::{
    client::{PATIENCE, Response, connect, response},
    server::Server,
};

/// A server that wants tokens, and the file of them.
struct Guarded {
    server: Server,
    directory: TempDir,
    read: FreshToken,
    write: FreshToken,
    expired: FreshToken,
}

impl Guarded {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let [read, write, expired] = [(); 3].map(|()| FreshToken::draw().unwrap());
        let past = SystemTime::now() - Duration::from_secs(1);
        let entries =
            read.entry("r", Scope::Read, None) + &write.entry("w", Scope::Write, None) + &expired.entry("e", Scope::Write, Some(past));
        fs::write(file(&directory), entries).unwrap();
        let server = Server::with(HttpConfig { tokens: Some(file(&directory)), ..HttpConfig::default() });
        Self { server, directory, read, write, expired }
    }

    fn ask(&self, method: &str, target: &str, token: &FreshToken) -> Response {
        self.server.send_with(method, target, &bearer(&token.token))
    }

    /// Writes the file anew.
    fn admit(&self, entries: &str) {
        fs::write(file(&self.directory), entries).unwrap();
    }
}

fn file(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("tokens.toml")
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

impl Server {
    /// A request with these lines in its head.
    #[track_caller]
    pub(crate) fn send_with(&self, method: &str, target: &str, lines: &str) -> Response {
        self.send_head(&format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{lines}\r\n"))
    }

    #[track_caller]
    fn send_head(&self, head: &str) -> Response {
        let mut stream = connect(self.address);
        stream.write_all(head.as_bytes()).unwrap();
        response(&mut stream)
    }
}

const METHODS: [&str; 6] = ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"];

/// Every path of the router, with names in it, and one that is none.
fn targets() -> Vec<String> {
    let routed = paths().into_iter().map(|path| path.replace("{object}", "o").replace("{agent}", "a"));
    let targets: Vec<_> = routed.chain(["/nowhere".to_owned()]).collect();
    assert!(targets.len() >= 14 && targets.iter().all(|target| !target.contains('{')), "{targets:?}");
    targets
}

fn is_open(target: &str) -> bool {
    ["/livez", "/readyz"].contains(&target)
}

#[test]
fn no_route_is_open_without_a_token_but_those_that_should_be() {
    let guarded = Guarded::start();
    for target in targets() {
        for method in METHODS {
            let response = guarded.server.send_with(method, &target, "");
            if is_open(&target) {
                assert_eq!(response.status, if method == "GET" { 200 } else { 405 }, "{method} {target}");
                continue;
            }
            assert_eq!((response.status, response.problem().as_str()), (401, "unauthorized"), "{method} {target}");
            assert_eq!(response.header("www-authenticate"), Some("Bearer"), "{method} {target}");
        }
    }
    assert!(guarded.server.house.world().log.is_empty(), "something was written");
}

#[test]
fn no_route_takes_a_token_that_is_none() {
    let guarded = Guarded::start();
    let strange = FreshToken::draw().unwrap();
    let (read, write) = (&guarded.read.token, &guarded.write.token);
    let wrong = [
        bearer(&strange.token),
        bearer(&guarded.expired.token),
        bearer(&write[..write.len() - 1]),
        bearer(&format!("{}x", **write)),
        bearer(""),
        format!("authorization: Basic {}\r\n", **write),
        format!("authorization: {}\r\n", **write),
        bearer(write) + &bearer(write),
        bearer(&format!("{} {}", **read, **write)),
        format!("x-authorization: Bearer {}\r\n", **write),
    ];
    for target in targets().iter().filter(|target| !is_open(target)) {
        for lines in &wrong {
            for method in ["GET", "DELETE"] {
                let response = guarded.server.send_with(method, target, lines);
                // Many of them from one address are answered more shortly.
                assert!(matches!(response.status, 401 | 429), "{method} {target} {lines}: {response:?}");
            }
        }
        for query in ["access_token", "token"] {
            let response = guarded.server.send_with("GET", &format!("{target}?{query}={}", **write), "");
            assert_eq!(response.status, 401, "{target}: a token in a URL");
        }
    }
    assert!(guarded.server.house.world().log.is_empty(), "something was written");
    let said = guarded.server.send_with("GET", "/v1/objects", &bearer(&guarded.expired.token)).body;
    assert!(!said.contains("expired"), "{said}");
}

#[test]
fn a_scope_is_what_a_token_is_good_for_on_every_route() {
    let guarded = Guarded::start();
    for target in targets().iter().filter(|target| !is_open(target)) {
        for method in METHODS {
            let with_read = guarded.ask(method, target, &guarded.read);
            assert_ne!(with_read.status, 401, "{method} {target}");
            assert_eq!(with_read.status == 403, method != "GET", "{method} {target}: {with_read:?}");
            if with_read.status == 403 {
                assert_eq!(with_read.problem(), "forbidden");
                assert_eq!(with_read.header("www-authenticate"), Some("Bearer error=\"insufficient_scope\", scope=\"write\""));
            }
            let with_write = guarded.ask(method, target, &guarded.write);
            assert!(![401, 403, 429].contains(&with_write.status), "{method} {target}: {with_write:?}");
        }
    }
    let metrics = guarded.ask("GET", "/metrics", &guarded.read).body;
    assert!(metrics.contains("code=\"403\"") && !metrics.contains("sth_"), "{metrics}");
    let small = guarded.server.send_with("GET", "/version", &format!("authorization: bEARER {}\r\n", *guarded.read.token));
    assert_eq!(small.status, 200, "the scheme's letters may be small or large");
}

#[test]
fn why_it_is_not_ready_is_told_to_those_who_may_read() {
    let guarded = Guarded::start();
    assert_eq!(guarded.server.get("/readyz").body, "ok\n");
    assert_eq!(guarded.server.get("/readyz?verbose").status, 401);
    assert!(guarded.ask("GET", "/readyz?verbose", &guarded.read).body.starts_with("[+]restore ok"));
    guarded.server.house.standing.send_replace(Standing::default());
    let anybody = guarded.server.get("/readyz");
    assert_eq!((anybody.status, anybody.body.as_str()), (503, "not ready\n"));
    let reader = guarded.ask("GET", "/readyz", &guarded.read);
    assert_eq!((reader.status, reader.body.as_str().contains("no partition is assigned yet")), (503, true));
}

#[test]
fn tokens_are_changed_while_clients_go_on() {
    let guarded = Guarded::start();
    let (old, new) = (&guarded.write, FreshToken::draw().unwrap());
    let asks = |token: &FreshToken| guarded.ask("GET", "/version", token).status;
    assert_eq!((asks(old), asks(&new)), (200, 401));
    guarded.admit(&(old.entry("old", Scope::Write, None) + &new.entry("new", Scope::Write, None)));
    guarded.server.entrance.access().renew();
    assert_eq!((asks(old), asks(&new)), (200, 200), "both hold while clients change");

    let mut kept_alive = connect(guarded.server.address);
    let mut again = || {
        let request = format!("GET /version HTTP/1.1\r\nhost: localhost\r\n{}\r\n", bearer(&old.token));
        kept_alive.write_all(request.as_bytes()).unwrap();
        response(&mut kept_alive).status
    };
    assert_eq!(again(), 200);
    guarded.admit(&new.entry("new", Scope::Write, None));
    guarded.server.entrance.access().renew();
    assert_eq!((asks(old), asks(&new)), (401, 200));
    assert_eq!(again(), 401, "a connection is no pass");

    for broken in ["[[token]", "[[token]]\nscope = \"all\"\nsha256 = \"\""] {
        guarded.admit(broken);
        guarded.server.entrance.access().renew();
        assert_eq!((asks(old), asks(&new)), (401, 200), "what can't be used changes nothing");
    }
    guarded.admit("");
    guarded.server.entrance.access().renew();
    assert_eq!(asks(&new), 401, "a file without tokens admits nobody");
}

#[test]
fn a_changed_file_is_noticed_by_itself() {
    let guarded = Guarded::start();
    let new = FreshToken::draw().unwrap();
    guarded.admit(&new.entry("new", Scope::Read, None));
    let began = Instant::now();
    while guarded.ask("GET", "/version", &guarded.read).status != 401 {
        assert!(began.elapsed() < PATIENCE, "the old token still holds");
        std::thread::sleep(Duration::from_millis(50)); // between two looks at the condition
    }
    assert_eq!(guarded.ask("GET", "/version", &new).status, 200);
}

#[test]
fn many_bad_tokens_are_answered_shortly_and_hold_up_nobody() {
    let guarded = Guarded::start();
    let wrong = FreshToken::draw().unwrap();
    let answers: Vec<_> = (0..60).map(|_| guarded.ask("GET", "/version", &wrong)).collect();
    assert_eq!(answers[0].status, 401);
    let limited: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!limited.is_empty(), "none of 60 was limited");
    assert!(limited.iter().all(|answer| answer.problem() == "too-many-failures"));
    assert_eq!(guarded.ask("GET", "/version", &guarded.read).status, 200, "from the same address");
    assert_eq!(guarded.server.get("/livez").status, 200);
}

#[test]
fn a_name_that_is_not_ours_is_refused_on_every_route() {
    let server = Server::start();
    for target in targets() {
        let foreign = server.send_head(&format!("GET {target} HTTP/1.1\r\nhost: rebound.example:7717\r\nconnection: close\r\n\r\n"));
        assert_eq!((foreign.status, foreign.problem().as_str()), (421, "host-not-served"), "{target}");
    }
    for lines in ["", "host: localhost\r\nhost: localhost\r\n", "host: a@localhost\r\n"] {
        let refused = server.send_head(&format!("GET /version HTTP/1.1\r\nconnection: close\r\n{lines}\r\n"));
        assert_eq!((refused.status, refused.problem().as_str()), (400, "validation-failed"), "{lines:?}");
    }
    assert_eq!(server.send_head("GET /version HTTP/1.0\r\n\r\n").status, 200, "an old probe");
    let named = Server::with(HttpConfig { hosts: vec!["house.example".to_owned()], ..HttpConfig::default() });
    for (host, status) in [("house.example:80", 200), ("House.Example.", 200), ("127.0.0.1:9", 200), ("other.example", 421)] {
        let answer = named.send_head(&format!("GET /version HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"));
        assert_eq!(answer.status, status, "{host}");
    }
}

#[test]
fn it_is_no_proxy() {
    let server = Server::start();
    for target in ["http://localhost/version", "http://example.com/version", "https://localhost/"] {
        let refused = server.send_with("GET", target, "");
        assert_eq!((refused.status, refused.problem().as_str()), (400, "validation-failed"), "{target}");
    }
    let refused = server.send_with("CONNECT", "localhost:80", "");
    assert_eq!(refused.status, 400);
}

#[test]
fn two_lengths_of_a_body_never_smuggle_a_request() {
    let server = Server::start();
    let smuggled = "DELETE /v1/objects/smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for lengths in ["content-length: 5\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 5\r\n"] {
        let mut stream = connect(server.address);
        let head = format!("POST /v1/reports HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n{lengths}\r\n");
        stream.write_all(format!("{head}0\r\n\r\n{smuggled}").as_bytes()).unwrap();
        let mut said = String::new();
        let _reset_or_not = stream.read_to_string(&mut said);
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{lengths}: {said}");
    }
    let twice = server.send_with("POST", "/v1/reports", "content-length: 5\r\ncontent-length: 6\r\n");
    assert_eq!(twice.status, 400);
    assert!(server.house.world().log.is_empty(), "the second request was taken");
}

#[test]
fn before_there_is_a_house_every_route_says_so() {
    let server = Server::before_the_house(HttpConfig::default());
    server.entrance.wait_for("Kafka at b:1 can't be reached");
    let mut kept_alive = connect(server.address);
    let mut ask = |target: &str| {
        kept_alive.write_all(format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).unwrap();
        response(&mut kept_alive)
    };
    assert_eq!((ask("/livez").status, ask("/version").status, ask("/metrics").status), (200, 200, 200));
    for target in ["/readyz", "/readyz?verbose", "/readyz?exclude=log,restore"] {
        let response = ask(target);
        assert_eq!((response.status, response.body.as_str()), (503, "[-]start failed: Kafka at b:1 can't be reached\nnot ready\n"));
    }
    for target in targets().iter().filter(|target| !["/livez", "/readyz", "/metrics", "/version"].contains(&target.as_str())) {
        for method in METHODS {
            let response = server.send(method, target, None);
            assert_eq!((response.status, response.problem().as_str()), (503, "starting"), "{method} {target}");
            assert_eq!(response.json()["detail"], "Kafka at b:1 can't be reached");
        }
    }
    server.open();
    assert_eq!((ask("/readyz").status, ask("/v1/objects/o").status), (200, 404), "on the same connection");
    let guarded = Guarded::start();
    let closed = Server::before_the_house(HttpConfig { tokens: Some(file(&guarded.directory)), ..HttpConfig::default() });
    assert_eq!((closed.get("/v1/objects").status, closed.get("/readyz").body.as_str()), (401, "not ready\n"));
    assert_eq!((closed.get("/metrics").status, closed.get("/readyz?verbose").status), (401, 401));
}

#[test]
fn nothing_that_is_shown_has_a_token_in_it() {
    let guarded = Guarded::start();
    let shown = format!("{:?} {:?} {:?}", guarded.server.entrance, guarded.server.entrance.access(), guarded.write);
    assert!(!shown.contains("sth_") && !shown.contains(&guarded.write.token[4..]), "{shown}");
    let kept = fs::read_to_string(file(&guarded.directory)).unwrap();
    assert!(!kept.contains(&*guarded.write.token), "the file has digests only");
}
