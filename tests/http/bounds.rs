//! Clients that dribble, stall, flood or never let go.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use statehouse::{config::HttpConfig, metrics::Staleness};

use crate::{
    backend::Questions,
    client::{PATIENCE, connect, response},
    server::Server,
};

/// Short enough to wait for, long enough that an answer at once is told from one in time.
const SHORT_MS: u64 = 300;
/// What must have passed at least, with some room for clocks.
const NOT_BEFORE: Duration = Duration::from_millis(SHORT_MS - 50);

/// Reads until the server ends the connection; what it said, and after how long.
#[track_caller]
fn until_cut_off(stream: &mut TcpStream) -> (String, Duration) {
    let began = Instant::now();
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "the server did not end the connection");
    }
    (String::from_utf8_lossy(&bytes).into_owned(), began.elapsed())
}

/// Sends the byte again and again until the server has had enough; after how long.
#[track_caller]
fn dribble(stream: &mut TcpStream, byte: u8) -> Duration {
    let began = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut answer = [0; 1024];
    loop {
        assert!(began.elapsed() < PATIENCE, "the server still listens");
        if stream.write_all(&[byte]).is_err() {
            return began.elapsed();
        }
        match stream.read(&mut answer) {
            Ok(0) => return began.elapsed(),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return began.elapsed(),
        }
    }
}

fn short_head() -> HttpConfig {
    HttpConfig { header_timeout_ms: SHORT_MS, ..HttpConfig::default() }
}

#[test]
fn a_dribbled_head_is_cut_off() {
    let server = Server::with(short_head());
    let mut stream = connect(server.address);
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx: ").unwrap();
    let took = dribble(&mut stream, b'x');
    assert!(took >= NOT_BEFORE, "cut off after {took:?}, before its time");
}

#[test]
fn silence_before_the_first_byte_is_cut_off() {
    let server = Server::with(short_head());
    let (said, took) = until_cut_off(&mut connect(server.address));
    assert!(said.is_empty() && took >= NOT_BEFORE, "{said:?} after {took:?}");
}

#[test]
fn a_connection_kept_alive_may_rest_but_not_for_ever() {
    let server = Server::with(short_head());
    let mut stream = connect(server.address);
    for _ in 0..3 {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        assert_eq!(response(&mut stream).status, 200);
    }
    let (said, _) = until_cut_off(&mut stream);
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn a_body_that_stops_coming_is_refused() {
    let server = Server::with(short_head());
    for head in ["content-length: 100", "transfer-encoding: chunked"] {
        let mut stream = connect(server.address);
        let request = format!("PUT /v1/objects/o/reports/a HTTP/1.1\r\nhost: localhost\r\n{head}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let began = Instant::now();
        let response = response(&mut stream);
        assert_eq!((response.status, response.problem().as_str()), (408, "body-timeout"), "{head}");
        assert!(began.elapsed() >= NOT_BEFORE, "{head}: before its time");
        until_cut_off(&mut stream);
    }
    assert!(server.house.world().log.is_empty());
}

#[test]
fn a_dribbled_body_is_bounded_by_the_whole_requests_time() {
    let server = Server::with(HttpConfig { request_timeout_ms: SHORT_MS, ..HttpConfig::default() });
    let mut stream = connect(server.address);
    stream.write_all(b"PUT /v1/objects/o/reports/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n").unwrap();
    let took = dribble(&mut stream, b' ');
    assert!(took >= NOT_BEFORE, "cut off after {took:?}, before its time");
}

#[test]
fn a_worker_that_does_not_answer_does_not_keep_the_client() {
    let server = Server::with(HttpConfig { request_timeout_ms: SHORT_MS, ..HttpConfig::default() });
    server.house.world().questions = Questions::Kept;
    let response = server.get("/v1/objects/o");
    assert_eq!((response.status, response.problem().as_str()), (503, "request-timeout"));
}

#[test]
fn large_bodies_are_refused_whether_they_say_so_or_not() {
    let server = Server::with(HttpConfig { max_body_bytes: 10_000, ..HttpConfig::default() });
    let put = "PUT /v1/objects/o/reports/a HTTP/1.1\r\nhost: localhost\r\n";
    let mut declared = connect(server.address);
    declared.write_all(format!("{put}content-length: 10001\r\n\r\n").as_bytes()).unwrap(); // none of it is sent
    let mut chunked = connect(server.address);
    chunked.write_all(format!("{put}transfer-encoding: chunked\r\n\r\n2711\r\n{}\r\n", "x".repeat(10_001)).as_bytes()).unwrap();
    for stream in [&mut declared, &mut chunked] {
        let response = response(stream);
        assert_eq!((response.status, response.problem().as_str()), (413, "too-large"));
    }
    let fits = format!(r#"{{"state":"x"{}}}"#, " ".repeat(9_900));
    assert_eq!(server.put("/v1/objects/o/reports/a", &fits).status, 202);
}

#[test]
fn all_bodies_together_are_bounded() {
    let server = Server::with(HttpConfig { max_body_bytes: 64 << 10, ..HttpConfig::default() });
    let begin = || {
        let mut stream = connect(server.address);
        let head = "PUT /v1/objects/o/reports/a HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 65536\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        assert_eq!(response(&mut stream).status, 100);
        stream.write_all(&[b' '; 65_535]).unwrap();
        stream
    };
    // Eight bodies but for their last bytes fill what there is; as soon as they are all in, a ninth is refused.
    let mut held: Vec<_> = (0..8).map(|_| begin()).collect();
    let large = format!(r#"{{"state":"x"{}}}"#, " ".repeat(60_000));
    let (mut began, mut rounds) = (Instant::now(), 0);
    let refused = loop {
        let response = server.put("/v1/objects/o/reports/a", &large);
        if response.status != 202 {
            break response;
        }
        if began.elapsed() > Duration::from_millis(500) {
            // The ninth was there before the eighth was all in, and that one was refused: fill up anew.
            rounds += 1;
            assert!(rounds < 20, "a ninth body is taken again and again");
            held.clear();
            held = (0..8).map(|_| begin()).collect();
            began = Instant::now();
        }
    };
    assert_eq!((refused.status, refused.problem().as_str()), (503, "overloaded"));
    for stream in &mut held {
        stream.write_all(b" ").unwrap();
        assert_eq!(response(stream).status, 400, "only spaces");
    }
    assert_eq!(server.put("/v1/objects/o/reports/a", &large).status, 202, "there is room again");
}

#[test]
fn heads_have_a_size() {
    let server = Server::start();
    for (head, refused) in [
        (format!("x: {}\r\n", "x".repeat(60_000)), false),
        (format!("x: {}\r\n", "x".repeat(70_000)), true),
        ("x: y\r\n".repeat(60), false),
        ("x: y\r\n".repeat(70), true),
    ] {
        let mut stream = connect(server.address);
        // Neither must all of it be read, nor what is said about it arrive, once the server has had enough.
        let _ = stream.write_all(format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{head}\r\n").as_bytes());
        let (said, _) = until_cut_off(&mut stream);
        assert_eq!(said.is_empty() || said.starts_with("HTTP/1.1 431 "), refused, "a head of {} bytes: {said}", head.len());
    }
}

#[test]
fn connections_beyond_the_bound_are_refused_and_room_is_made_again() {
    let server = Server::with(HttpConfig { max_connections: 3, ..HttpConfig::default() });
    let mut open: Vec<_> = (0..3).map(|_| connect(server.address)).collect();
    for stream in &mut open {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        assert_eq!(response(stream).status, 200);
    }
    let mut fourth = connect(server.address);
    let refused = response(&mut fourth);
    assert_eq!((refused.status, refused.problem().as_str()), (503, "overloaded"));
    until_cut_off(&mut fourth);
    assert_eq!(counted(&server, "statehouse_http_connections_refused_total"), 1);
    assert_eq!(counted(&server, "statehouse_http_connections"), 3);

    drop(open);
    until_none_is_open(&server, || {});
    assert_eq!(server.get("/livez").status, 200);
}

#[test]
fn one_address_does_not_get_every_connection() {
    let server = Server::with(HttpConfig { max_connections_per_address: 2, ..HttpConfig::default() });
    let open: Vec<_> = (0..2).map(|_| connect(server.address)).collect();
    let refused = response(&mut connect(server.address));
    assert_eq!((refused.status, refused.problem().as_str()), (503, "overloaded"));
    drop(open);
    until_none_is_open(&server, || {});
    assert_eq!(server.get("/livez").status, 200);
}

/// The value of a metric without labels.
fn counted(server: &Server, name: &str) -> u64 {
    let metrics = server.metrics.scrape(None, Staleness::default());
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    value.parse().unwrap()
}

/// Waits, doing something in between, until the server has let go of all connections.
#[track_caller]
fn until_none_is_open(server: &Server, mut meanwhile: impl FnMut()) {
    let began = Instant::now();
    while counted(server, "statehouse_http_connections") > 0 {
        assert!(began.elapsed() < PATIENCE, "the server still holds a connection");
        meanwhile();
        std::thread::sleep(Duration::from_millis(5)); // between two looks at the condition
    }
}

/// How many answers are asked for; together far more than the sockets' buffers hold.
const ANSWERS: usize = 200;

/// Asks for much without reading it.
fn ask_for_much(server: &Server) -> TcpStream {
    let lines: Vec<_> = (0..50).map(|n| format!(r#"{{"object":"{}{n}","agent":"a","state":"x"}}"#, "o".repeat(4_000))).collect();
    assert_eq!(server.post_lines("/v1/reports?wait=5s", &lines.join("\n")).status, 200);
    let mut stream = connect(server.address);
    stream.write_all("GET /v1/objects HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(ANSWERS).as_bytes()).unwrap();
    stream
}

fn short_write() -> HttpConfig {
    HttpConfig { write_timeout_ms: SHORT_MS, ..HttpConfig::default() }
}

#[test]
fn a_reader_that_takes_nothing_is_cut_off() {
    let server = Server::with(short_write());
    let stream = ask_for_much(&server);
    until_none_is_open(&server, || {});
    drop(stream);
}

#[test]
fn a_reader_that_takes_a_few_bytes_now_and_then_is_cut_off() {
    let server = Server::with(short_write());
    let mut stream = ask_for_much(&server);
    until_none_is_open(&server, || drop(stream.read(&mut [0; 4])));
}

#[test]
fn a_slow_but_steady_reader_gets_everything() {
    let server = Server::with(short_write());
    let mut stream = ask_for_much(&server);
    let all = server.get("/v1/objects").body.len() * ANSWERS;
    let began = Instant::now();
    let (mut read, mut buffer) = (0, vec![0; 256 << 10]);
    while read < all {
        let bytes = stream.read(&mut buffer).unwrap();
        assert!(bytes > 0, "cut off after {read} of {all} bytes");
        read += bytes;
        std::thread::sleep(Duration::from_millis(5)); // a slow reader
    }
    assert!(began.elapsed() > Duration::from_millis(2 * SHORT_MS), "it was not slow enough to tell anything");
}

#[test]
fn a_shutdown_lets_running_requests_end_and_takes_no_more() {
    let mut server = Server::start();
    server.house.world().held = true;
    let mut idle = connect(server.address);
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert_eq!(response(&mut idle).status, 200);
    let mut waiting = connect(server.address);
    waiting.write_all(b"DELETE /v1/objects/o?wait=20s HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    while server.house.world().log.is_empty() {
        std::thread::yield_now();
    }
    server.begin_stop();
    let (said, _) = until_cut_off(&mut idle);
    assert!(said.is_empty(), "{said:?}");
    server.house.release();
    assert_eq!(response(&mut waiting).status, 200);
    server.join();
    assert!(TcpStream::connect(server.address).is_err(), "somebody still listens");
}
