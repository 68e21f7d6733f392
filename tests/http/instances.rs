//! Several instances of one house, each a server of its own: whoever is asked, the answer is the same, or says honestly why there is none.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
    thread,
};

use serde_json::{Value, json};
use statehouse::{
    config::{HttpConfig, PeerUrl, RouteConfig, TlsConfig},
    http::{FreshToken, PeerTrust, Scope},
    log::directory::{Entry, Instances, PeerSecret},
};
use statehouse_dataflows::vocabulary::Partition;
use tokio::sync::watch;

use crate::{
    backend::{Backend, PARTITIONS},
    certificate::Certificate,
    client::Response,
    server::Server,
};

/// The instances, called by their numbers: 0 owns partition 0 ("b" is there), 1 owns partition 1 ("a"), 2 owns nothing.
struct Town {
    servers: Vec<Server>,
    directories: Vec<Arc<watch::Sender<Instances>>>,
}

impl Town {
    fn new(route: RouteConfig) -> Self {
        Self::with(&HttpConfig { route, ..HttpConfig::default() })
    }

    fn with(limits: &HttpConfig) -> Self {
        Self::knowing(limits, &PeerSecret::new(b"of the town"))
    }

    fn knowing(limits: &HttpConfig, secret: &PeerSecret) -> Self {
        let house = Backend::new();
        let houses = [house.clone(), house.sibling(), house.sibling()];
        let directories: Vec<_> = (0..3).map(|n| Arc::new(watch::Sender::new(Instances::new(&n.to_string(), PARTITIONS)))).collect();
        let here = PeerUrl::parse("http://127.0.0.1:1").unwrap();
        let known_by = (secret.clone(), PeerTrust::of(limits).unwrap());
        let server = |(house, directory): (Backend, &Arc<watch::Sender<Instances>>)| {
            Server::of(house, limits.clone(), |front| front.among(directory.subscribe(), Some(&here), known_by.clone()))
        };
        let servers: Vec<_> = houses.into_iter().zip(&directories).map(server).collect();
        let town = Self { servers, directories };
        town.servers[0].house.own(&[0]);
        town.servers[1].house.own(&[1]);
        for (n, owned) in [(0, &[0][..]), (1, &[1]), (2, &[])] {
            town.tell(&n.to_string(), Some(&format!("http://{}", town.servers[n].address)), owned);
        }
        town
    }

    /// Has an instance tell something; without an address it ends.
    fn tell(&self, id: &str, url: Option<&str>, owned: &[Partition]) {
        let entry = url.map(|url| Entry { url: Some(url.to_owned()), partitions: owned.iter().copied().collect(), ..Entry::default() });
        for directory in &self.directories {
            directory.send_modify(|instances| instances.take(id, entry.clone().map(|entry| entry.instance(id))));
        }
    }

    fn given(&self, objects: &[(&str, &str)]) {
        for (object, state) in objects {
            self.servers[usize::from(*object != "b")].given(object, state);
        }
    }
}

const READS: [&str; 3] = ["/v1/objects/a", "/v1/objects/a/reports", "/v1/objects/a/explain"];

#[test]
fn every_instance_gives_the_owners_answer() {
    let town = Town::new(RouteConfig::Proxy);
    town.servers[1].given("a", "up");
    for target in READS.iter().chain(&["/v1/objects/c"]) {
        let own = town.servers[1].get(target);
        for other in [0, 2] {
            let response = town.servers[other].get(target);
            assert_eq!((response.status, &response.body), (own.status, &own.body), "{target} at {other}");
            assert_eq!(response.header("content-type"), own.header("content-type"));
            assert_eq!(response.header("statehouse-position"), own.header("statehouse-position"));
        }
    }
    assert_eq!(town.servers[0].get("/v1/objects/c").problem(), "object-not-found");
}

#[test]
fn an_owners_age_and_refusals_are_passed_on() {
    let town = Town::new(RouteConfig::Proxy);
    town.servers[1].given("a", "up");
    town.servers[1].house.standing.send_modify(|standing| standing.stale_since_ms = Some(crate::backend::NOW_MS - 7));
    assert_eq!(town.servers[0].get(READS[0]).header("statehouse-lag-ms"), Some("7"));
    assert_eq!(town.servers[0].get("/v1/summary").header("statehouse-lag-ms"), Some("7"), "a whole is as old as its oldest part");
    town.servers[1].house.standing.send_modify(|standing| {
        standing.partitions.insert(1, statehouse::board::PartitionStanding::Restoring);
    });
    for target in READS {
        let response = town.servers[0].get(target);
        assert_eq!((response.status, response.problem().as_str()), (503, "partition-restoring"), "{target}");
    }
    let response = town.servers[0].get("/v1/objects");
    assert_eq!((response.status, response.problem().as_str()), (503, "instance-unavailable"));
    assert!(response.body.contains("partition 1 is being restored"), "{response:?}");
}

#[test]
fn clients_are_sent_to_the_owner_once() {
    let town = Town::new(RouteConfig::Redirect);
    town.servers[1].given("a", "up");
    for target in READS {
        let response = town.servers[0].get(target);
        let owner = format!("http://{}{target}?via=0", town.servers[1].address);
        assert_eq!((response.status, response.header("location")), (307, Some(owner.as_str())));
        assert_eq!(town.servers[1].get(&format!("{target}?via=0")).status, 200, "the parameter is understood");
    }
    // The owner has changed meanwhile: no second hop.
    town.servers[1].house.own(&[]);
    town.tell("0", Some(&format!("http://{}", town.servers[0].address)), &[0, 1]);
    let response = town.servers[1].get("/v1/objects/a?via=2");
    assert_eq!((response.status, response.problem().as_str()), (503, "no-owner"));
}

#[test]
fn who_only_answers_for_itself_names_the_owner() {
    let town = Town::new(RouteConfig::Local);
    town.given(&[("a", "up"), ("b", "up")]);
    for target in READS {
        let response = town.servers[0].get(target);
        assert_eq!((response.status, response.problem().as_str()), (421, "not-owner"), "{target}");
        let (problem, url) = (response.json(), format!("http://{}", town.servers[1].address));
        assert_eq!((&problem["partition"], &problem["instance"], &problem["url"]), (&json!(1), &json!("1"), &json!(url)));
    }
    assert_eq!(names(&town.servers[0].get("/v1/objects")), ["b"]);
    assert_eq!(town.servers[0].get("/v1/summary").json()["objects"], 1);
}

#[test]
fn one_hop_is_all() {
    let town = Town::new(RouteConfig::Proxy);
    town.given(&[("a", "up"), ("b", "up")]);
    for (hop, said) in [("1", "instance 1 takes this one for the owner"), ("0", "leads back to this one")] {
        let response = town.servers[0].send_with("GET", READS[0], &format!("statehouse-hop: {hop}\r\n"));
        assert_eq!((response.status, response.problem().as_str()), (503, "no-owner"), "{response:?}");
        assert!(response.body.contains(said), "{response:?}");
    }
    let part = town.servers[0].send_with("GET", "/v1/objects", "statehouse-hop: 1\r\n");
    assert_eq!(names(&part), ["b"], "whoever gathers is told this instance's part");
    // An entry of somebody else that leads here.
    town.tell("3", Some("http://127.0.0.1:1"), &[1]);
    town.tell("1", None, &[]);
    town.directories[0].send_modify(|instances| {
        let entry = Entry { url: Some(format!("http://{}", town.servers[0].address)), partitions: [1].into(), ..Entry::default() };
        instances.take("3", Some(entry.instance("3")));
    });
    let response = town.servers[0].get(READS[0]);
    assert_eq!((response.status, response.problem().as_str()), (503, "no-owner"));
    assert!(response.body.contains("leads back to this one"), "{response:?}");
}

#[test]
fn without_an_owner_there_is_no_answer_and_a_reason() {
    let town = Town::new(RouteConfig::Proxy);
    town.servers[1].house.own(&[]);
    town.tell("1", None, &[]);
    for target in READS.iter().chain(&["/v1/objects", "/v1/summary", "/v1/objects?prefix=zzz"]) {
        for server in &town.servers {
            let response = server.get(target);
            assert_eq!((response.status, response.problem().as_str()), (503, "no-owner"), "{target}");
            assert_eq!(response.json()["partition"], 1, "{target}");
        }
    }
    assert_eq!(town.servers[0].get("/v1/instances").json()["without_owner"], json!([1]));
}

#[test]
fn who_is_left_alone_does_not_take_its_part_for_the_whole() {
    let town = Town::new(RouteConfig::Proxy);
    town.given(&[("a", "up"), ("b", "up")]);
    town.servers[1].house.own(&[]);
    town.tell("1", None, &[]);
    town.tell("2", None, &[]);
    for target in READS.iter().chain(&["/v1/objects", "/v1/summary"]) {
        let response = town.servers[0].get(target);
        assert_eq!((response.status, response.problem().as_str()), (503, "no-owner"), "{target}");
    }
    town.servers[0].house.own(&[0, 1]);
    assert_eq!(names(&town.servers[0].get("/v1/objects")), ["a", "b"]);
    // Before it owns anything it is just joining.
    town.servers[0].house.own(&[]);
    for target in READS.iter().chain(&["/v1/objects", "/v1/summary"]) {
        let response = town.servers[0].get(target);
        assert_eq!((response.status, response.problem().as_str()), (503, "joining"), "{target}");
    }
}

#[test]
fn one_more_than_there_are_partitions_is_ready() {
    let town = Town::new(RouteConfig::Proxy);
    assert_eq!(town.servers[2].get("/readyz").status, 200, "the others own all there is");
    town.tell("1", None, &[]);
    assert_eq!(town.servers[2].get("/readyz").status, 503, "something is left for it");
}

#[test]
fn a_dead_owner_is_named() {
    let town = Town::new(RouteConfig::Proxy);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    town.tell("1", Some(&format!("http://{nobody}")), &[1]);
    for target in READS.iter().chain(&["/v1/objects", "/v1/summary"]) {
        let response = town.servers[0].get(target);
        assert_eq!((response.status, response.problem().as_str()), (503, "instance-unavailable"), "{target}");
        assert_eq!(response.json()["instance"], "1", "{target}");
    }
    // Its successor at another address has the newer claim.
    town.servers[1].given("a", "up");
    town.tell("4", Some(&format!("http://{}", town.servers[1].address)), &[1]);
    assert_eq!(town.servers[0].get(READS[0]).status, 200);
    assert_eq!(names(&town.servers[0].get("/v1/objects")), ["a"]);
}

#[test]
fn an_owner_that_hangs_is_not_waited_for_for_ever() {
    let town = Town::with(&HttpConfig { peer_timeout_ms: 200, ..HttpConfig::default() });
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    town.tell("1", Some(&format!("http://{}", silent.local_addr().unwrap())), &[1]);
    for target in [READS[0], "/v1/objects"] {
        let response = town.servers[0].get(target);
        assert_eq!((response.status, response.problem().as_str()), (503, "instance-unavailable"), "{target}");
        assert!(response.body.contains("nothing within 200ms"), "{response:?}");
    }
}

#[test]
fn addresses_that_can_be_nobodys_are_not_asked() {
    let town = Town::new(RouteConfig::Proxy);
    for url in ["http://169.254.169.254", "http://user@10.0.0.1:7717", "http://10.0.0.1/path", "file:///etc/passwd"] {
        town.tell("1", Some(url), &[1]);
        let response = town.servers[0].get(READS[0]);
        assert_eq!((response.status, response.problem().as_str()), (503, "instance-unavailable"), "{url}");
        assert!(response.body.contains("can't be asked"), "{url}: {response:?}");
    }
}

#[test]
fn nothing_of_the_callers_is_passed_on() {
    let town = Town::new(RouteConfig::Proxy);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    town.tell("1", Some(&format!("http://{}", listener.local_addr().unwrap())), &[1]);
    let heard = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap(), 1);
            head.push(byte[0]);
        }
        // A stranger that sends on, sets cookies and does as if hop by hop were end to end.
        stream
            .write_all(
                b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://169.254.169.254/\r\nset-cookie: x=y\r\ncontent-length: 0\r\n\r\n",
            )
            .unwrap();
        String::from_utf8(head).unwrap().to_lowercase()
    });
    let credentials = "authorization: Bearer mine\r\ncookie: session=mine\r\nx-forwarded-for: 10.0.0.1\r\n";
    let response = town.servers[0].send_with("GET", READS[0], credentials);
    assert_eq!((response.status, response.problem().as_str()), (503, "instance-unavailable"));
    assert_eq!((response.header("set-cookie"), response.header("location")), (None, None));
    let head = heard.join().unwrap();
    assert!(!head.contains("mine") && !head.contains("x-forwarded-for"), "{head}");
    let bearer = PeerSecret::new(b"of the town").bearer().unwrap().to_owned();
    for line in ["statehouse-hop: 0", "statehouse-deadline-ms: 5000", &format!("authorization: bearer {bearer}")] {
        assert!(head.contains(&format!("{line}\r\n")), "{line} in {head}");
    }
}

#[test]
fn with_tokens_instances_know_each_other_by_their_secret_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let file = directory.path().join(name);
        fs::write(&file, text).unwrap();
        Some(file)
    };
    let token = FreshToken::draw().unwrap();
    let tokens = file("tokens.toml", &token.entry("a client", Scope::Read, None));
    let credentials = format!("authorization: Bearer {}\r\n", *token.token);
    let with_secret =
        HttpConfig { tokens: tokens.clone(), peer_secret: file("peers", "0123456789abcdef0123456789abcdef\n"), ..HttpConfig::default() };
    let secret = PeerSecret::of(&with_secret).unwrap();
    let town = Town::knowing(&with_secret, &secret);
    let response = town.servers[0].send_with("GET", READS[0], &credentials);
    assert_eq!(response.problem(), "object-not-found", "the owner says so");
    let stranger = PeerSecret::new(b"0123456789abcdef0123456789abcdeX");
    for (secret, status) in [(&secret, 404), (&stranger, 401)] {
        let bearer = format!("authorization: Bearer {}\r\n", secret.bearer().unwrap());
        assert_eq!(town.servers[1].send_with("GET", READS[0], &bearer).status, status);
    }
    let town = Town::knowing(&with_secret, &stranger);
    let response = town.servers[0].send_with("GET", READS[0], &credentials);
    assert_eq!((response.status, response.problem().as_str()), (503, "instance-unavailable"));
    assert!(response.body.contains("http.peer_secret"), "{response:?}");
    let town = Town::knowing(&HttpConfig { tokens, ..HttpConfig::default() }, &PeerSecret::default());
    assert_eq!(town.servers[0].send_with("GET", READS[0], &credentials).problem(), "not-owner", "nobody proves to be an instance");
}

#[test]
fn instances_ask_each_other_over_tls_and_believe_whom_they_are_told_to() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (own, strangers) = (Certificate::make(directory.path()), Certificate::make(other.path()));
    for (vouching, is_believed) in [(&own, true), (&strangers, false)] {
        let mut town = Town::with(&HttpConfig { peer_ca: Some(vouching.certificate.clone()), ..HttpConfig::default() });
        // Another one owns partition 1 now, and speaks nothing but TLS.
        let tls = TlsConfig { certificate: Some(own.certificate.clone()), key: Some(own.key.clone()) };
        let over_tls = Server::of(town.servers[1].house.clone(), HttpConfig { tls, ..HttpConfig::default() }, |front| front);
        town.tell("1", Some(&format!("https://{}", over_tls.address)), &[1]);
        town.servers.push(over_tls);
        for (target, problem) in [(READS[0], Some("object-not-found")), ("/v1/objects", None)] {
            let response = town.servers[0].get(target);
            match (is_believed, problem) {
                (true, Some(problem)) => assert_eq!(response.problem(), problem, "the owner says so"),
                (true, None) => assert_eq!(response.status, 200, "{response:?}"),
                (false, _) => {
                    assert_eq!((response.status, response.problem().as_str()), (503, "instance-unavailable"), "{target}");
                    assert!(response.body.contains("certificate") && response.body.contains("http.peer_ca"), "{response:?}");
                }
            }
        }
    }
}

fn names(response: &Response) -> Vec<String> {
    let page = response.json();
    page["items"]
        .as_array()
        .unwrap_or_else(|| panic!("{response:?}"))
        .iter()
        .map(|item| item["object"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn lists_and_summaries_are_of_all_from_everywhere() {
    let town = Town::new(RouteConfig::Redirect);
    let all: Vec<_> = (0..23).map(|n| format!("o{n:02}")).collect();
    for (n, object) in all.iter().enumerate() {
        town.servers[n % 3].put(&format!("/v1/objects/{object}/reports/a?wait=5s"), &format!(r#"{{"state":"{}"}}"#, ["up", "down"][n % 2]));
    }
    for server in &town.servers {
        let whole = server.get("/v1/objects");
        assert_eq!(names(&whole), all);
        assert_eq!(whole.header("statehouse-position").unwrap().split(',').count(), 2, "{whole:?}");
        assert_eq!(whole.header("statehouse-consistency"), Some("per-partition"));
        for limit in [1, 2, 5, 22, 23, 24] {
            let (mut shown, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = server.get(&format!("/v1/objects?limit={limit}{cursor}"));
                assert!(names(&page).len() <= limit, "{page:?}");
                shown.extend(names(&page));
                let Value::String(next) = &page.json()["cursor"] else { break };
                cursor = format!("&cursor={next}");
            }
            assert_eq!(shown, all, "limit {limit}");
        }
        let down: Vec<_> = all.iter().skip(1).step_by(2).cloned().collect();
        assert_eq!(names(&server.get("/v1/objects?state=down&prefix=o")), down);
        assert_eq!(server.get("/v1/summary").json(), json!({ "objects": 23, "by_state": { "up": 12, "down": 11 }, "without_state": 0 }));
    }
    let parts: Vec<_> = town.servers[..2].iter().map(|server| names(&server.get("/v1/objects?local=true")).len()).collect();
    assert!(parts.iter().all(|part| *part > 0) && parts.iter().sum::<usize>() == 23, "{parts:?}");
    assert_eq!(town.servers[2].get("/v1/objects?local=true").problem(), "joining", "never an empty answer of who owns nothing");
}

#[test]
fn parts_that_overlap_or_leave_a_gap_are_no_whole() {
    let town = Town::new(RouteConfig::Proxy);
    town.servers[1].house.own(&[0, 1]);
    let response = town.servers[0].get("/v1/objects");
    assert_eq!((response.status, response.problem().as_str()), (503, "no-owner"), "two answer for partition 0");
    town.servers[1].house.own(&[]);
    let response = town.servers[0].get("/v1/summary");
    assert_eq!(response.status, 503, "nobody answers for partition 1");
}

#[test]
fn writes_are_taken_everywhere_and_waited_for_at_the_owner() {
    for route in [RouteConfig::Proxy, RouteConfig::Redirect] {
        let town = Town::new(route);
        for (n, server) in town.servers.iter().enumerate() {
            let response = server.put("/v1/objects/a/reports/x?wait=5s", r#"{"state":"up"}"#);
            assert_eq!((response.status, response.json()["applied"].clone()), (200, json!(true)), "{response:?}");
            let lines = format!(
                "{{\"object\":\"a\",\"agent\":\"{n}\",\"state\":\"up\"}}\n{{\"object\":\"b\",\"agent\":\"{n}\",\"state\":\"up\"}}\n"
            );
            let response = server.post_lines("/v1/reports?wait=5s", &lines);
            assert_eq!((response.status, response.json()["applied"].clone()), (200, json!(true)), "{response:?}");
        }
        town.servers[0].house.world().held = true;
        let response = town.servers[0].put("/v1/objects/a/reports/x?wait=50ms", r#"{"state":"down"}"#);
        assert_eq!((response.status, response.json()["applied"].clone()), (202, json!(false)), "{response:?}");
        town.servers[0].house.release();
        let position = response.header("statehouse-position").unwrap();
        for server in &town.servers {
            let applied = server.get(&format!("/v1/applied?position={position}&wait=5s"));
            assert_eq!((applied.status, applied.json()), (200, json!({ "applied": true })));
            assert_eq!(server.get("/v1/applied?position=0:1000").json(), json!({ "applied": false }));
        }
        town.servers[1].house.own(&[]);
        town.tell("1", None, &[]);
        let response = town.servers[0].put("/v1/objects/a/reports/x?wait=5s", r#"{"state":"down"}"#);
        assert_eq!((response.status, response.json()["applied"].clone()), (202, Value::Null), "{response:?}");
        assert!(response.body.contains("partition 1 has no owner now"), "{response:?}");
    }
}

#[test]
fn positions_that_are_none_are_refused() {
    let server = Server::start();
    for query in ["", "?position=", "?position=0", "?position=a:1", "?position=0:-1", "?position=-1:0", "?position=0:1&wait=1h"] {
        let response = server.get(&format!("/v1/applied{query}"));
        assert_eq!((response.status, response.problem().as_str()), (400, "validation-failed"), "{query}");
    }
}

#[test]
fn the_directory_is_shown() {
    let town = Town::new(RouteConfig::Proxy);
    let shown = town.servers[2].get("/v1/instances").json();
    assert_eq!((&shown["here"], &shown["partitions"], &shown["without_owner"]), (&json!("2"), &json!(2), &json!([])));
    let owned: Vec<_> = shown["instances"].as_array().unwrap().iter().map(|instance| instance["partitions"].clone()).collect();
    assert_eq!(owned, [json!([0]), json!([1]), json!([])]);
    assert_eq!(shown["instances"][1]["url"], format!("http://{}", town.servers[1].address));
}
