//! A client that sends exactly what it is told, over a socket of its own.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

use crate::server::Server;

/// Longer than anything here may take; only a failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What came back.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The last part of the problem's type; also checks that the problem is well-formed.
    #[track_caller]
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert!(self.body.ends_with("}\n"), "a prompt would stick to {self:?}");
        assert_eq!(problem["status"], self.status, "{self:?}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{self:?}");
        assert_eq!(self.header("retry-after").is_some(), [429, 503].contains(&self.status), "{self:?}");
        problem["type"].as_str().unwrap().strip_prefix("/problems/").unwrap().to_owned()
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads one response, as long as it says it is.
#[track_caller]
pub(crate) fn response(stream: &mut TcpStream) -> Response {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "the connection ended within the head {:?}", String::from_utf8_lossy(&bytes));
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut response = Response { status, head, body: String::new() };
    let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    response.body = String::from_utf8(body).unwrap();
    response
}

impl Server {
    #[track_caller]
    pub(crate) fn send(&self, method: &str, target: &str, body: Option<(&str, &str)>) -> Response {
        let mut stream = connect(self.address);
        let mut request = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        if let Some((kind, body)) = body {
            request += &format!("content-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        } else {
            request += "\r\n";
        }
        stream.write_all(request.as_bytes()).unwrap();
        response(&mut stream)
    }

    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Response {
        self.send("GET", target, None)
    }

    #[track_caller]
    pub(crate) fn put(&self, target: &str, body: &str) -> Response {
        self.send("PUT", target, Some(("application/json", body)))
    }

    #[track_caller]
    pub(crate) fn delete(&self, target: &str) -> Response {
        self.send("DELETE", target, None)
    }

    #[track_caller]
    pub(crate) fn post_lines(&self, target: &str, body: &str) -> Response {
        self.send("POST", target, Some(("application/x-ndjson", body)))
    }

    /// Lets agent `a` report a state and has it applied.
    #[track_caller]
    pub(crate) fn given(&self, object: &str, state: &str) {
        let response = self.put(&format!("/v1/objects/{object}/reports/a?wait=5s"), &format!(r#"{{"state":"{state}"}}"#));
        assert_eq!(response.status, 200, "{response:?}");
    }
}
